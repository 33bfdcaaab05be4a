"""What TensorFlow Serving needs beside the models: its configuration, Docker's, a smoke test.

No TensorFlow is imported here.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path

from kerasunsup.files import atomic_write

IMAGE = "tensorflow/serving:2.20.0"
LARGEST_BATCH = 64
CONFIGS = ("models", "batching", "monitoring")
SMOKE = "smoke_tf_serving.sh"


def write(models: Mapping[str, Path], out: Path) -> list[Path]:
    """Writes all configuration files to a folder.

    Args:
        models: Entry -> folder of its SavedModel, `<base>/<version>`, on this machine.
        out: The folder.

    Returns:
        The files.

    Raises:
        OutputError: The folder cannot be written.
    """
    texts = {
        "models.config": models_config(models),
        "batching.config": batching_config(),
        "monitoring.config": monitoring_config(),
        "docker-compose.yml": compose_file(models),
        SMOKE: smoke_script(models),
    }
    for name, text in texts.items():
        atomic_write(out / name, text)
    (out / SMOKE).chmod(0o755)
    return [out / name for name in texts]


def models_config(models: Mapping[str, Path]) -> str:
    """A ModelServerConfig in text format: every entry under its name, its newest version served."""
    entries = "".join(
        f'  config {{ name: "{name}" base_path: "/models/{name}" model_platform: "tensorflow" }}\n'
        for name in models
    )
    return f"model_config_list {{\n{entries}}}\n"


def batching_config() -> str:
    """BatchingParameters in text format: requests wait at most a millisecond for each other."""
    sizes = [2**i for i in range(LARGEST_BATCH.bit_length())]
    numbers = {
        "max_batch_size": LARGEST_BATCH,
        "batch_timeout_micros": 1000,
        "max_enqueued_batches": 100,
        "num_batch_threads": 2,
    }
    lines = [f"{name} {{ value: {number} }}" for name, number in numbers.items()]
    return "\n".join([*lines, *(f"allowed_batch_sizes: {size}" for size in sizes)]) + "\n"


def monitoring_config() -> str:
    """A MonitoringConfig in text format: Prometheus reads the REST port."""
    return 'prometheus_config { enable: true path: "/monitoring/prometheus/metrics" }\n'


def compose_file(models: Mapping[str, Path]) -> str:
    """A docker-compose.yml that serves gRPC on 8500 and REST on 8501, on this machine only."""
    mounts = {f"/config/{name}.config": f"./{name}.config" for name in CONFIGS}
    mounts |= {f"/models/{name}": str(folder.parent) for name, folder in models.items()}
    volumes = "".join(
        f"      - {{type: bind, source: {_quoted(source)}, target: {target}, read_only: true}}\n"
        for target, source in mounts.items()
    )
    return (
        "services:\n"
        "  serving:\n"
        f"    image: {IMAGE}\n"
        "    platform: linux/amd64\n"
        '    ports: ["127.0.0.1:8500:8500", "127.0.0.1:8501:8501"]\n'
        f"    volumes:\n{volumes}"
        "    command:\n"
        "      - --model_config_file=/config/models.config\n"
        "      - --monitoring_config_file=/config/monitoring.config\n"
        "      - --max_num_load_retries=0\n"
        "      # For many small requests at a time; one bad request fails those it waits with.\n"
        "      # - --enable_batching\n"
        "      # - --batching_parameters_file=/config/batching.config\n"
        "    healthcheck:\n"
        '      test: ["CMD", "bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8501"]\n'
        "      interval: 5s\n"
        "      retries: 12\n"
    )


def smoke_script(models: Mapping[str, Path]) -> str:
    """A script for a machine with Docker: the server's answers, compared with the stored ones."""
    given = " \\\n    ".join(shlex.quote(f"{name}={folder}") for name, folder in models.items())
    return (
        "#!/usr/bin/env bash\n"
        "# Starts TensorFlow Serving and asks it for everything: status, metadata, and every\n"
        "# signature over REST and gRPC, compared with the answers stored beside each model.\n"
        "# Needs Docker, and a Python that has kerasunsup (PYTHON=…).\n"
        "set -euo pipefail\n"
        'cd "$(dirname "$0")"\n'
        "trap 'docker compose down' EXIT\n"
        "docker compose up --detach --wait\n"
        f'"${{PYTHON:-python3}}" -m kerasunsup.serving.smoke \\\n    {given}\n'
    )


def _quoted(text: str) -> str:
    return json.dumps(text.replace("$", "$$"), ensure_ascii=False)
