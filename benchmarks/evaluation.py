"""Measures of the protocols beside NumPy, SciPy or scikit-learn doing the same.

python -m benchmarks.evaluation TASK kerasunsup|other    one of them, in this process
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import ROOT, environment, refuse_unless_free, spread, table

WHO = ("kerasunsup", "other")
NLL_IMAGES, NLL_SAMPLES = 100, 5_000

Work = Callable[[], Any]


def nll(who: str) -> Work:
    """IWAE likelihood of 100 images, K = 5,000, dense VAE; NumPy, an image at a time."""
    from benchmarks.keras_models import build, images
    from benchmarks.rows import ROWS

    model = build(ROWS["dense VAE"])
    x = (images()[:NLL_IMAGES] > 127).astype("float32")
    if who == "kerasunsup":
        return lambda: model.log_likelihood(x, samples=NLL_SAMPLES).mean()
    names = ("backbone", "encoder", "decoder")
    hidden, _, out = (getattr(model, name).get_weights() for name in names)
    heads = [model.encoder.get_layer(name).get_weights() for name in ("mean", "log_variance")]

    def by_hand() -> float:
        rng, values = np.random.default_rng(0), []
        for image in x.reshape(len(x), -1):
            h = np.maximum(image @ hidden[0] + hidden[1], 0)
            mean, raw = (h @ kernel + bias for kernel, bias in heads)
            log_variance = 10 * np.tanh(raw / 10)
            noise = rng.standard_normal((NLL_SAMPLES, len(mean)), "float32")
            z = mean + np.exp(0.5 * log_variance) * noise
            logits = np.maximum(z @ out[0] + out[1], 0) @ out[2] + out[3]
            log_x = (image * logits - np.logaddexp(0, logits)).sum(axis=1)
            log_p, log_q = -0.5 * (z**2).sum(axis=1), -0.5 * (noise**2 + log_variance).sum(axis=1)
            weights = log_x + log_p - log_q
            values.append(np.logaddexp.reduce(weights) - np.log(NLL_SAMPLES))
        return float(np.mean(values))

    return by_hand


def nearest(who: str) -> Work:
    """Nearest of 60,000 training images to each of 10,000; scikit-learn, brute force."""
    from benchmarks.keras_models import images

    train = images().reshape(60_000, -1).astype("float32") / 255
    x = train[:10_000] + np.float32(0.01)
    if who == "kerasunsup":
        from kerasunsup.metrics.samples import nearest_distance

        return lambda: nearest_distance(train, x).mean()
    from sklearn.neighbors import NearestNeighbors

    return lambda: (
        NearestNeighbors(n_neighbors=1, algorithm="brute").fit(train).kneighbors(x)[0].mean()
    )


def neighbours(who: str) -> Work:
    """Distance to the 5th neighbour among 10,000 x 128 features; scikit-learn, brute force."""
    x = np.random.default_rng(0).normal(size=(10_000, 128))
    if who == "kerasunsup":
        from kerasunsup.metrics.samples import kth_squared_distances

        return lambda: np.sqrt(kth_squared_distances(x, 5)).mean()
    from sklearn.neighbors import NearestNeighbors

    def by_library() -> float:
        found = NearestNeighbors(n_neighbors=6, algorithm="brute").fit(x).kneighbors(x)[0]
        return found[:, 5].mean()

    return by_library


def frechet(who: str) -> Work:
    """Frechet distance between 10,000 x 512 features; SciPy's matrix root."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(10_000, 512)), rng.normal(0.1, 1.1, size=(10_000, 512))
    if who == "kerasunsup":
        from kerasunsup.metrics.samples import frechet_distance

        return lambda: frechet_distance(x, y)
    import scipy.linalg

    def by_library() -> float:
        c, d = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
        root = np.real(scipy.linalg.sqrtm(c @ d))
        shift = np.square(x.mean(axis=0) - y.mean(axis=0)).sum()
        return float(shift + np.trace(c) + np.trace(d) - 2 * np.trace(root))

    return by_library


TASKS = {work.__name__: work for work in (nll, nearest, neighbours, frechet)}


def evaluation(rounds: int) -> str:
    """Seconds and memory above that of the data, each in processes taken in turn."""
    refuse_unless_free()
    rows = []
    for name, task in TASKS.items():
        measured: dict[str, list[dict[str, float]]] = {who: [] for who in WHO}
        for _ in range(rounds):
            for who, those in measured.items():
                command = [sys.executable, "-m", "benchmarks.evaluation", name, who]
                done = subprocess.run(
                    command,
                    check=True,
                    capture_output=True,
                    text=True,
                    cwd=ROOT,
                    env=environment(),
                )
                those.append(json.loads(done.stdout.splitlines()[-1]))
        results = [those[0]["result"] for those in measured.values()]
        if abs(results[0] - results[1]) > 5e-3 * abs(results[1]):
            raise SystemExit(f"{name}: the results differ: {results}")
        rows.append([(task.__doc__ or "").rstrip(".")])
        for those in measured.values():
            memory = statistics.median(one["memory"] for one in those)
            rows[-1] += [
                spread([one["seconds"] for one in those], " s"),
                f"{memory / 2**20:.0f} MiB",
            ]
    return table(["", "kerasunsup", "memory", "the other", "memory"], rows)


if __name__ == "__main__":
    work = TASKS[sys.argv[1]](sys.argv[2])

    def memory(name: str) -> int:
        """A figure of this process in bytes, `VmRSS` now or `VmHWM` at most."""
        line = next(one for one in open("/proc/self/status") if one.startswith(name))  # noqa: SIM115
        return 1024 * int(line.split()[1])

    Path("/proc/self/clear_refs").write_text("5")  # the highest is counted from here
    before, begun = memory("VmRSS"), time.perf_counter()
    result = float(work())
    seconds = time.perf_counter() - begun
    print(json.dumps({"seconds": seconds, "memory": memory("VmHWM") - before, "result": result}))
