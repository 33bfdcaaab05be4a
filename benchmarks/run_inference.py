"""One runtime with a verb of a model in it: python -m benchmarks.run_inference ROW RUNTIME FOLDER.

FOLDER holds what `inference` wrote: the SavedModel, other formats, weights for PyTorch. A unit is
`CALLS` calls with one example (of `predict` a tenth) and as many as fit in `SECONDS` with 256.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rows import ROWS, Row
from benchmarks.units import asked

CALLS, SECONDS = 300, 0.5
VERBS = {"autoencoder": "reconstruct", "vae": "encode"}

Run = Callable[[np.ndarray], Any]


def signature(row: Row, folder: Path) -> Run:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder / "saved_model"))
    chosen = loaded.signatures[VERBS[row.family]]
    return lambda x: (
        {name: one.numpy() for name, one in chosen(x=tf.constant(x)).items()} | {"keep": loaded}
    )


def keras_predict(row: Row, folder: Path) -> Run:
    import keras

    from benchmarks.keras_models import build

    model = build(row)
    network = model.encoder
    if row.family == "autoencoder":
        network = keras.Sequential([model.encoder, model.decoder])
    return lambda x: network.predict(x, batch_size=256, verbose=0)


def verb(row: Row, folder: Path) -> Run:
    from benchmarks.keras_models import build

    return getattr(build(row), VERBS[row.family])


def torch_network(row: Row, folder: Path, compiled: bool = False) -> Run:
    import torch

    from benchmarks.run_torch import Training, load

    training = Training(row, "preloaded", load(str(folder / "weights.npz")))
    whole = [training.first, training.second] if row.family == "autoencoder" else [training.first]
    network = torch.nn.Sequential(*whole).eval()
    if compiled:
        network = torch.compile(network, dynamic=False)

    def run(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.from_numpy(x.transpose(0, 3, 1, 2))).numpy()

    return run


def torch_compiled(row: Row, folder: Path) -> Run:
    return torch_network(row, folder, compiled=True)


def onnx(row: Row, folder: Path) -> Run:
    return _format(row, folder, "onnx")


def litert(row: Row, folder: Path) -> Run:
    return _format(row, folder, "litert")


def _format(row: Row, folder: Path, name: str) -> Run:
    from kerasunsup.formats import FORMATS

    chosen = FORMATS[name]
    run = chosen.read(folder / name / f"{VERBS[row.family]}{chosen.suffix}")
    return lambda x: run({"x": x})


RUNTIMES: dict[str, Callable[[Row, Path], Run]] = {
    "SavedModel signature": signature,
    "`keras.Model.predict`": keras_predict,
    "kerasunsup verb": verb,
    "PyTorch": torch_network,
    "PyTorch, compiled": torch_compiled,
    "ONNX Runtime": onnx,
    "LiteRT": litert,
}


def main(name: str, runtime: str, folder: str) -> None:
    """Measures units until nobody asks for one."""
    run = RUNTIMES[runtime](ROWS[name], Path(folder))
    rng = np.random.default_rng(0)
    one, many = (rng.uniform(size=(n, 28, 28, 1)).astype("float32") for n in (1, 256))
    for answer in asked():
        calls = CALLS if runtime != "`keras.Model.predict`" else CALLS // 10
        latencies = [_seconds(run, one) for _ in range(calls)]
        end, count, begun = time.perf_counter() + SECONDS, 0, time.perf_counter()
        while time.perf_counter() < end or not count:
            run(many)
            count += 1
        rate = count * len(many) / (time.perf_counter() - begun)
        p50, p99 = np.percentile(latencies, (50, 99))
        answer(p50=p50, p99=p99, rate=rate)


def _seconds(run: Run, x: np.ndarray) -> float:
    begun = time.perf_counter()
    run(x)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main(*sys.argv[1:])
