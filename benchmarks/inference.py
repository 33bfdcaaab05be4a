"""Latency of one example and throughput of 256, in the runtimes a model can go to."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.harness import (
    ROOT,
    Worker,
    clean,
    environment,
    in_turn,
    refuse_unless_free,
    spread,
    table,
)
from benchmarks.run_inference import RUNTIMES

MODELS = ("dense AE", "conv VAE")
BASE = "SavedModel signature"
PREPARE = """
import sys
from pathlib import Path
import numpy as np
from benchmarks.keras_models import build, in_torch_order, networks_of
from benchmarks.rows import ROWS
from kerasunsup import formats
from kerasunsup.export import export
name, folder = sys.argv[1], Path(sys.argv[2])
model = build(ROWS[name])
if hasattr(model, "calibrate"):
    model.calibrate(np.random.default_rng(0).uniform(size=(64, 28, 28, 1)).astype("float32"))
export(model, folder / "saved_model")
for other in ("onnx", "litert"):
    formats.convert(model, folder / other, other)
both = networks_of(model)
np.savez(folder / "weights.npz", *(one for network in both for one in in_torch_order(network)))
"""


def inference(rounds: int) -> str:
    """Ratios to the SavedModel signature called from Python; above 1 is faster."""
    refuse_unless_free()
    rows = []
    for name in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-c", PREPARE, name, folder]
            subprocess.run(command, check=True, cwd=ROOT, env=environment())
            units = in_turn(
                {one: Worker("run_inference", name, one, Path(folder)) for one in RUNTIMES}, rounds
            )
        base = {what: statistics.median(clean(units[BASE], what)) for what in ("p50", "rate")}
        for runtime, those in units.items():
            p50, p99, rate = (clean(those, what) for what in ("p50", "p99", "rate"))
            rows.append(
                [
                    name if runtime == BASE else "",
                    runtime,
                    spread([1e6 * value for value in p50], " us"),
                    f"{1e6 * statistics.median(p99):.0f} us",
                    f"{base['p50'] / statistics.median(p50):.2f}",
                    f"{statistics.median(rate):,.0f}",
                    f"{statistics.median(rate) / base['rate']:.2f}",
                ]
            )
    heads = ["", "runtime", "one example, p50", "p99", "times as fast", "images/s, batches of 256"]
    return table([*heads, "times as fast"], rows)
