"""Configurations, the smoke test and the example clients, against a stub over the C session."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from PIL import Image
from tensorflow_serving.config import model_server_config_pb2

from kerasunsup import networks, zoo
from kerasunsup.cli import main
from kerasunsup.errors import KerasunsupError
from kerasunsup.export import export
from kerasunsup.models import Classifier
from kerasunsup.serving import config, smoke, warmup

EXAMPLES = Path(__file__).parents[1] / "examples"
NAME = "vae_digits"

# Fields of TensorFlow Serving's BatchingParameters, which no package brings.
BATCHING = {
    **dict.fromkeys(("max_batch_size", "batch_timeout_micros", "max_enqueued_batches"), int),
    **dict.fromkeys(("num_batch_threads", "max_execution_batch_size"), int),
}


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    """What `kerasunsup serve-config` writes for every entry."""
    out = tmp_path_factory.mktemp("serving")
    with pytest.raises(SystemExit) as stop:
        main(["serve-config", "-o", str(out)])
    assert stop.value.code == 0
    return out


def test_models_config_is_what_tensorflow_serving_reads(serving):
    text = (serving / "models.config").read_text()
    parsed = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    compose = (serving / "docker-compose.yml").read_text()
    names = []
    for one in parsed.model_config_list.config:
        names.append(one.name)
        assert one.model_platform == "tensorflow"
        source = re.search(rf'source: "(.*)", target: {one.base_path}, read_only: true', compose)[1]
        versions = [path for path in Path(source).iterdir() if path.name.isdecimal()]
        assert versions == [zoo.saved_model(one.name)]
        assert (versions[0] / "saved_model.pb").is_file()
    assert names == [name for name in zoo.list_models() if (zoo.saved_model(name))]
    with pytest.raises(text_format.ParseError, match="base_pth"):
        text_format.Parse(
            text.replace("base_path", "base_pth"), model_server_config_pb2.ModelServerConfig()
        )


def test_batching_config_keeps_the_rules(serving):
    text = (serving / "batching.config").read_text()
    values = dict(re.findall(r"^(\w+) \{ value: (\d+) \}$", text, re.MULTILINE))
    sizes = [int(size) for size in re.findall(r"^allowed_batch_sizes: (\d+)$", text, re.MULTILINE)]
    assert len(values) + len(sizes) == len(text.splitlines())
    assert values.keys() <= BATCHING.keys()
    assert sizes == sorted(set(sizes)) and sizes[-1] == int(values["max_batch_size"])


def test_other_files(serving):
    assert "prometheus_config { enable: true" in (serving / "monitoring.config").read_text()
    compose = (serving / "docker-compose.yml").read_text()
    for flag in ("model_config_file", "monitoring_config_file", "batching_parameters_file"):
        path = re.search(rf"--{flag}=/config/(\S+)", compose)[1]
        assert (serving / path).is_file() and f"target: /config/{path}" in compose
    script = serving / config.SMOKE
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    assert f"{NAME}={zoo.saved_model(NAME)}" in script.read_text()


@contextlib.contextmanager
def serve(name, folder):
    """REST and gRPC addresses of a stub that serves one SavedModel."""
    process = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("stub_server.py"), name, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        rest, rpc = process.stdout.readline().split()
        yield f"127.0.0.1:{rest}", f"127.0.0.1:{rpc}"
    finally:
        process.stdin.close()
        process.wait(timeout=60)
        process.stdout.close()


@pytest.fixture(scope="module")
def stub():
    with serve(NAME, zoo.saved_model(NAME)) as addresses:
        yield addresses


def test_smoke(stub, capsys, tmp_path):
    rest, rpc = stub
    folder = zoo.saved_model(NAME)
    arguments = [f"{NAME}={folder}", "--rest", f"http://{rest}", "--grpc", rpc]
    assert smoke.main(arguments) == 0
    printed = capsys.readouterr().out
    assert f"{NAME} score_bytes: rows 0.0e+00, columns 0.0e+00, gRPC 0.0e+00" in printed
    other = zoo.saved_model("autoencoder_digits")
    arguments[0] = f"{NAME}={other}"
    assert smoke.main(arguments) == 1
    assert "must be served with" in capsys.readouterr().err


def test_smoke_of_a_model_that_answers_texts(capsys, tmp_path):
    model = Classifier(
        networks.dense_backbone((4,), [3]), 3, class_names=("sétosa", "versicolor", "virginica")
    )
    folder = export(model, tmp_path / "iris" / "1")
    with serve("iris", folder) as (rest, rpc):
        assert smoke.main([f"iris={folder}", "--rest", f"http://{rest}", "--grpc", rpc]) == 0
        like = {"class_name": warmup.as_objects([b""]), "label": np.zeros(1, "int32")}
        got = smoke.by_rows(
            f"http://{rest}", "iris", "classify", {"x": np.ones((1, 4), "float32")}, like
        )
    assert got["class_name"][0].decode() == model.class_names[got["label"][0]]
    assert "iris classify: rows 0.0e+00, columns 0.0e+00, gRPC 0.0e+00" in capsys.readouterr().out


def test_errors_of_a_server(stub):
    rest, rpc = stub
    nan = {"x": np.full((1, 8, 8, 1), np.nan, "float32")}
    like = {"latent": np.zeros(1, "float32")}
    for ask in (
        lambda: smoke.by_rows(f"http://{rest}", NAME, "encode", nan, like),
        lambda: smoke.by_columns(f"http://{rest}", NAME, "encode", nan, like),
        lambda: smoke.by_grpc(rpc, NAME, "encode", nan),
    ):
        with pytest.raises(KerasunsupError, match="`x` must be finite"):
            ask()
    with pytest.raises(KerasunsupError, match="Servable not found"):
        smoke.by_grpc(rpc, "nothing", "encode", nan)


def run(*command, cwd):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_examples(stub, tmp_path):
    rest, rpc = stub
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (8, 8)).astype("uint8")).save(tmp_path / "noise.png")
    printed = run(EXAMPLES / "rest_client.sh", rest, NAME, "noise.png", cwd=tmp_path)
    assert "AVAILABLE" in printed and '"outputs": [[[[' in printed
    score = float(re.search(r'"score": ([\d.]+)', printed)[1])
    client = (sys.executable, EXAMPLES / "grpc_client.py", rpc, NAME)
    assert run(*client, "noise.png", cwd=tmp_path) == f"noise.png: {score:.4f} (an anomaly)\n"
    with Image.open(tmp_path / "samples.png") as image:
        assert image.size == (32, 8)
