"""What needs no deep network: the rows that stand beside every measured number.

PCA, linear least squares, raw features, independent pixels, Isolation Forest and nearest
neighbours. They depend on the data and the protocol only, so each is computed once and kept in
the user's cache folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasunsup.examples import features, labelled, split_batches
from kerasunsup.files import atomic_write
from kerasunsup.metrics import reconstruction
from kerasunsup.metrics.anomaly import auroc, knn_distance
from kerasunsup.metrics.denoising import linear_denoiser, noisy
from kerasunsup.metrics.likelihood import binarize_static, gaussian_nll, marginal_nll
from kerasunsup.metrics.representation import (
    PROBE_PROTOCOL,
    Labelled,
    knn,
    linear_probe,
    merge,
)

if TYPE_CHECKING:
    from sklearn.decomposition import PCA

    from kerasunsup.data import Dataset

REVISION = 1  # raise it when a baseline's code changes its numbers: cached ones are dropped
LARGEST_SQUARE = 4096  # widest example for which a dense square matrix is solved


# Cache


def cached(data: Dataset, key: str, compute: Callable[[], dict[str, float]]) -> dict[str, float]:
    """The values stored under `key` for these data, or `compute()` and store.

    `$XDG_CACHE_HOME/kerasunsup/baselines/<first 16 digits of the fingerprint>.json` (else
    `~/.cache`) holds values, seconds and library versions. A file that cannot be read or written
    costs time, never a result.

    Args:
        data: Data set; its fingerprint names the file.
        key: Everything else that the values depend on, readable.
        compute: Called when the key is not there.
    """
    path = cache_path(data)
    entry = _read(path).get(key)
    if isinstance(entry, dict) and entry.get("revision") == REVISION:
        return dict(entry["values"])
    start = time.perf_counter()
    values = {name: float(value) for name, value in compute().items()}
    entry = {
        "values": values,
        "seconds": round(time.perf_counter() - start, 2),
        "revision": REVISION,
        "versions": {name: version(name) for name in ("numpy", "scipy", "scikit-learn")},
    }
    content = {**_read(path), key: entry}
    with contextlib.suppress(OSError):
        atomic_write(path, json.dumps(content, indent=1, sort_keys=True) + "\n")
    return values


def cache_path(data: Dataset) -> Path:
    """The JSON file that keeps the baselines of these data."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "kerasunsup" / "baselines" / f"{data.fingerprint[:16]}.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


# Reconstruction


def fit_pca(train: np.ndarray, dimension: int) -> PCA:
    """The first principal components of `train`, `(n, d)`."""
    from sklearn.decomposition import PCA

    return PCA(dimension, random_state=0).fit(train)


def pca_reconstruction(data: Dataset, dimension: int) -> dict[str, float]:
    """`mse`, and for bounded data `psnr` and `psnr_per_image`, of PCA on the test split.

    Fitted on train; outputs clamped to the value range.
    """

    def compute() -> dict[str, float]:
        pca = fit_pca(features(data, "train"), dimension)
        x = features(data, "test")
        output = pca.inverse_transform(pca.transform(x))
        errors = reconstruction.squared_errors(x, clamped(output, data))
        return _summary(errors, data)

    return cached(data, f"reconstruction of test by PCA-{dimension} of train, clamped", compute)


def pca_bits_reconstruction(data: Dataset, bits: int) -> dict[str, float]:
    """As `pca_reconstruction`, of principal components that are stored in `bits` bits in all.

    Transform coding (Gersho & Gray 1992, sections 8.3 and 6.4): each bit goes to the component
    with the largest variance left, of which it leaves a quarter; a component of b bits is rounded
    to the nearest of 2^b levels, which Lloyd's algorithm fits to the train split.
    """

    def compute() -> dict[str, float]:
        train, x = features(data, "train"), features(data, "test")
        pca = fit_pca(train, min(bits, *train.shape))
        left, spent = pca.explained_variance_.astype("float64"), np.zeros(pca.n_components_, int)
        for _ in range(bits):
            best = int(left.argmax())
            spent[best] += 1
            left[best] /= 4
        components, seen = pca.transform(train), pca.transform(x)
        for i, count in enumerate(spent):
            levels = lloyd_max(components[:, i], 2**count)
            seen[:, i] = levels[nearest_level(levels, seen[:, i])]
        errors = reconstruction.squared_errors(x, clamped(pca.inverse_transform(seen), data))
        return _summary(errors, data)

    return cached(data, f"reconstruction of test by PCA of train in {bits} bits, clamped", compute)


def lloyd_max(values: np.ndarray, count: int, iterations: int = 50) -> np.ndarray:
    """Sorted levels `(count,)` to which `values`, `(n,)`, are rounded with least squared error."""
    levels = np.quantile(values, (np.arange(count) + 0.5) / count)
    for _ in range(iterations):
        place = nearest_level(levels, values)
        total, sums = np.bincount(place, minlength=count), np.bincount(place, values, count)
        levels = np.where(total > 0, sums / np.maximum(total, 1), levels)
    return levels


def nearest_level(levels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Place of the nearest of sorted `levels` for each value."""
    return np.searchsorted((levels[1:] + levels[:-1]) / 2, values)


def clamped(output: np.ndarray, data: Dataset) -> np.ndarray:
    """`output` cut to the value range, where there is one."""
    return output if data.value_range is None else np.clip(output, *data.value_range)


def _summary(errors: np.ndarray, data: Dataset) -> dict[str, float]:
    if data.value_range is None:
        return {"mse": float(errors.mean())}
    peak = data.value_range[1] - data.value_range[0]
    return {
        "mse": float(errors.mean()),
        "psnr": reconstruction.psnr(errors, peak),
        "psnr_per_image": reconstruction.psnr_per_image(errors, peak),
    }


def linear_denoising(data: Dataset, sigma: float, seeds: Sequence[int]) -> dict[str, float]:
    """`psnr` and `psnr_per_image` of the noisy test split and of the best linear denoiser.

    Means over the noise seeds; names start with `noisy_` and `linear_`. The linear one is left
    out for examples of more than 4096 values. Needs data with a value range.
    """

    def compute() -> dict[str, float]:
        assert data.value_range is not None
        x = features(data, "test")
        fitted = None
        if x.shape[1] <= LARGEST_SQUARE:
            fitted = linear_denoiser(features(data, "train"), sigma, data.value_range)
        values = defaultdict(list)
        for seed in seeds:
            outputs = {"noisy": noisy(x, sigma, data.value_range, np.random.default_rng(seed))}
            if fitted is not None:
                outputs["linear"] = clamped(outputs["noisy"] @ fitted[0] + fitted[1], data)
            for name, output in outputs.items():
                errors = reconstruction.squared_errors(x, output)
                for measure, value in _summary(errors, data).items():
                    values[f"{name}_{measure}"].append(value)
        return {name: float(np.mean(several)) for name, several in values.items()}

    key = f"denoising of test + N(0, {sigma:g}^2), clipped, noise seeds {list(seeds)}"
    return cached(data, key, compute)


# Likelihood


def independent_pixels(data: Dataset, count: int, binary: bool) -> float:
    """NLL in nats of independent pixels on the first `count` test examples, binarised or grey."""

    def compute() -> dict[str, float]:
        test = np.concatenate(list(split_batches(data, "test")))
        if binary:
            validation = np.concatenate(list(split_batches(data, "validation")))
            test = binarize_static(validation, test)[1]
        return {"nll": marginal_nll(features(data, "train"), test[:count]).mean()}

    kind = "binarised with seed 777" if binary else "grey"
    key = f"NLL of independent pixels, first {count} of test, {kind}"
    return cached(data, key, compute)["nll"]


def full_gaussian(data: Dataset, count: int) -> float | None:
    """NLL in nats of one Gaussian fitted to train, on `standard_units`; None if singular."""

    def compute() -> dict[str, float]:
        try:
            nll = gaussian_nll(features(data, "train"), features(data, "test")[:count])
        except np.linalg.LinAlgError:
            return {}
        return {"nll": nll.mean()}

    if int(np.prod(data.input_shape)) > LARGEST_SQUARE:
        return None
    key = f"NLL of a full-covariance Gaussian, first {count} of test, standard units"
    return cached(data, key, compute).get("nll")


# Representations


def raw_probe(data: Dataset, dimension: int | None = None) -> float:
    """Accuracy of the linear probe on raw features, or on their first principal components."""

    def compute() -> dict[str, float]:
        return {"accuracy": linear_probe(*_projected(data, dimension)).accuracy}

    key = f"linear probe on {_name(dimension)}, {label_digest(data)}: {PROBE_PROTOCOL}"
    return cached(data, key, compute)["accuracy"]


def raw_knn(data: Dataset, dimension: int | None = None, k: int = 5) -> float:
    """Accuracy of k nearest neighbours on raw features or principal components."""

    def compute() -> dict[str, float]:
        train, validation, test = _projected(data, dimension)
        return {"accuracy": knn(merge(train, validation), test, k)}

    key = f"{k}-NN among train + validation on {_name(dimension)}, {label_digest(data)}"
    return cached(data, key, compute)["accuracy"]


def _projected(data: Dataset, dimension: int | None) -> list[Labelled]:
    splits = [labelled(data, split) for split in ("train", "validation", "test")]
    if dimension is None:
        return splits
    pca = fit_pca(splits[0].x, dimension)
    return [Labelled(pca.transform(split.x), split.y) for split in splits]


def _name(dimension: int | None) -> str:
    return "raw features" if dimension is None else f"PCA-{dimension} of train"


def label_digest(data: Dataset) -> str:
    """Identity of the labels, which the fingerprint of the examples leaves out."""
    digest = hashlib.sha256()
    for split in sorted(data.labels):
        digest.update(split.encode() + np.asarray(data.labels[split], "<i8").tobytes())
    return f"labels {digest.hexdigest()[:16]}"


# Anomalies


def anomaly_detectors(data: Dataset, normal: int, dimension: int) -> dict[str, float]:
    """AUROC of PCA error, Isolation Forest and 5-NN distance, fitted on the normal train split."""

    def compute() -> dict[str, float]:
        from sklearn.ensemble import IsolationForest

        train, x = features(data, "train"), features(data, "test")
        strange = data.labels["test"][: len(x)] != normal
        forests = [
            auroc(-IsolationForest(random_state=seed).fit(train).score_samples(x), strange)
            for seed in range(3)
        ]
        values = {
            "isolation_forest": float(np.mean(forests)),
            "5nn_distance": auroc(knn_distance(train, x), strange),
        }
        if dimension < min(train.shape):
            pca = fit_pca(train, dimension)
            output = clamped(pca.inverse_transform(pca.transform(x)), data)
            errors = reconstruction.squared_errors(x, output)
            values[f"pca_{dimension}_error"] = auroc(errors, strange)
        return values

    key = f"one-class AUROC, normal class {normal}, PCA-{dimension}, {label_digest(data)}"
    return cached(data, key, compute)
