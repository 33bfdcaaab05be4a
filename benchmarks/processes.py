"""Whole processes: five epochs from start to end, and what starting costs."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.harness import ROOT, environment, refuse_unless_free, spread, table
from benchmarks.training import KERAS, OURS, TORCH, VARIANTS

ROW, EPOCHS = "dense AE", 5
WHOLE = (TORCH, "PyTorch, compiled", KERAS, OURS)
ENTRY = "autoencoder_fashion_mnist"
ONE_STEP = """
import numpy as np
from kerasunsup import Autoencoder, networks
backbone = networks.dense_backbone((28, 28, 1), [128, 64])
decoder = networks.dense_decoder(12, (28, 28, 1), [64, 128], output_activation="sigmoid")
model = Autoencoder(backbone, decoder, 12)
model.compile()
model.fit(np.zeros((128, 28, 28, 1), "uint8"), batch_size=128, verbose=0)
"""
STARTS = {
    "`python -c pass`": ["-c", "pass"],
    "`import kerasunsup`": ["-c", "import kerasunsup"],
    "`kerasunsup --help`": ["-m", "kerasunsup", "--help"],
    "`kerasunsup list`": ["-m", "kerasunsup", "list"],
    "`import torch`": ["-c", "import torch"],
    "`import keras`": ["-c", "import keras"],
    "`zoo.load`": ["-c", f"from kerasunsup import zoo; zoo.load({ENTRY!r})"],
    "`tf.saved_model.load`": [
        "-c",
        "import tensorflow as tf; from kerasunsup import zoo; "
        f"tf.saved_model.load(str(zoo.saved_model({ENTRY!r})))",
    ],
    "first training step": ["-c", ONE_STEP],
}


def whole(rounds: int) -> str:
    """Five epochs of 60,000 images by each, the start of Python included."""
    refuse_unless_free()
    seconds: dict[str, list[float]] = {name: [] for name in WHOLE}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.keras_models", folder, ROW]
        subprocess.run(command, check=True, cwd=ROOT, env=environment())
        files = [str(Path(folder, name)) for name in ("images.npy", f"{ROW}.npz")]
        for _ in range(rounds):
            for name in WHOLE:
                module, variant = VARIANTS[name]
                command = ["-m", f"benchmarks.{module}", ROW, variant, *files]
                seconds[name].append(_seconds(command, "unit\n" * EPOCHS))
    ours = seconds[OURS]
    rows = [
        [name, spread(those, " s"), spread([a / b for a, b in zip(those, ours, strict=True)])]
        for name, those in seconds.items()
    ]
    return table(["", f"{EPOCHS} epochs of the {ROW}", "ratio to kerasunsup"], rows)


def start(rounds: int) -> str:
    """Seconds from the start of Python to its end."""
    refuse_unless_free()
    seconds: dict[str, list[float]] = {name: [] for name in STARTS}
    for _ in range(rounds):
        for name, command in STARTS.items():
            seconds[name].append(_seconds(command))
    return table(["", "seconds"], [[name, spread(those)] for name, those in seconds.items()])


def _seconds(arguments: list[str], given: str = "") -> float:
    """Wall time of a Python process, whose exit code must be 0."""
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments],
        input=given,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(),
    )
    if done.returncode:
        raise SystemExit(f"{arguments[:2]} ended with {done.returncode}: {done.stderr[-1000:]}")
    return time.perf_counter() - begun
