"""Protocols of samples: what a frozen classifier and the nearest training images say of them.

Samples and data are compared as uint8 images, `count` of each. Whatever is measured, the samples
of a seed are drawn and seen once for all protocols of one evaluation; so are the sets that stand
beside them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from kerasunsup import baselines, sample_baselines
from kerasunsup.errors import InputError
from kerasunsup.examples import features
from kerasunsup.extractor import Images
from kerasunsup.metrics import Metric, samples
from kerasunsup.protocols import FEWEST_IMAGES

if TYPE_CHECKING:
    from kerasunsup.evaluation import Subject

COUNT = 10_000
FLOOR = "train_images"
SAMPLING_SEEDS = 3

_MEANINGS = {
    "fcd": "FCD, Frechet distance (float64) between Gaussians fitted to classifier features, in "
    "squared units of the features; not FID; comparable at equal n and with this extractor only",
    "fcd_relative": "FCD (Frechet distance between Gaussians fitted to classifier features, "
    "float64; not FID) / trace of the covariance of the test features",
    "kid": "unbiased squared MMD of the features, kernel (x.y / d + 1)^3 (Binkowski et al. 2018), "
    f"mean over {samples.KERNEL_SUBSETS} disjoint subsets of n / {samples.KERNEL_SUBSETS}; ± is "
    "the standard error over subsets of one seed's samples",
    "precision": f"share of samples inside the {samples.NEIGHBOURS}-nearest-neighbour manifold of "
    "the test features (Kynkaanniemi et al. 2019)",
    "recall": f"share of test images inside the {samples.NEIGHBOURS}-nearest-neighbour manifold of "
    "the samples' features (Kynkaanniemi et al. 2019)",
    "density": f"mean number of {samples.DENSITY_NEIGHBOURS}-nearest-neighbour balls of test "
    f"features that a sample lies in, / {samples.DENSITY_NEIGHBOURS} (Naeem et al. 2020); 1 "
    "expected of real images",
    "coverage": f"share of {samples.DENSITY_NEIGHBOURS}-nearest-neighbour balls of test features "
    "with a sample in them (Naeem et al. 2020)",
    "class_entropy": "entropy in nats of the shares of the classes that the extractor gives",
    "memorization": "share of samples that lie as near to a training image (Euclidean, pixels) as "
    f"the nearest {samples.NEAREST_SHARE:.0%} of test images: {samples.NEAREST_SHARE:g} expected "
    "of new images, 1 of copies; smooth images lie nearer",
}


def measure_samples(subject: Subject, match: re.Match[str]) -> Metric:
    """Any measure of `_MEANINGS`: mean over three sampling seeds."""
    measure, count = match["measure"], _count(subject, match)
    values = [_measured(subject, measure, count, seed) for seed in _seeds(subject)]
    spread = float(np.std([one[measure] for one in values], ddof=1))
    if measure == "kid":
        spread = float(np.mean([one["kid_error"] for one in values]))
    return Metric(
        float(np.mean([one[measure] for one in values])),
        spread,
        f"{_drawn(subject, count, spread_of_seeds=measure != 'kid')}; {_MEANINGS[measure]}; "
        f"{_seen_by(subject, measure)}; {_compared(subject)}",
        count,
        _baselines(subject, measure, count),
    )


def measure_class_accuracy(subject: Subject, match: re.Match[str]) -> Metric:
    """Share of a conditional model's samples that the extractor classifies as asked."""
    count = _count(subject, match)
    asked = _asked(subject, count)
    values = [(_samples(subject, count, seed).labels == asked).mean() for seed in _seeds(subject)]
    test = _real(subject, count)
    return Metric(
        float(np.mean(values)),
        float(np.std(values, ddof=1)),
        f"{_drawn(subject, count)}; share that the extractor {subject.extractor} classifies as "
        "asked; test_images: its accuracy on the test images",
        count,
        {"test_images": float((test.labels == subject.data.labels["test"][:count]).mean())},
    )


# Measures that share their work: name -> (subject, real, seen) -> values


def _frechet(subject: Subject, real: Images, seen: Images) -> dict[str, float]:
    value = samples.frechet_distance(real.features, seen.features)
    return {"fcd": value, "fcd_relative": value / samples.total_variance(real.features)}


def _kernel(subject: Subject, real: Images, seen: Images) -> dict[str, float]:
    value, error = samples.kernel_distance(real.features, seen.features)
    return {"kid": value, "kid_error": error}


def _neighbours(subject: Subject, real: Images, seen: Images) -> dict[str, float]:
    return samples.neighbour_measures(real.features, seen.features)._asdict()


def _entropy(subject: Subject, real: Images, seen: Images) -> dict[str, float]:
    return {"class_entropy": samples.class_entropy(seen.labels)}


def _memorization(subject: Subject, real: Images, seen: Images) -> dict[str, float]:
    near_test = subject.once(f"nearest to {len(real)} test images", lambda: _nearest(subject, real))
    return {"memorization": samples.memorization(_nearest(subject, seen), near_test)}


def _nearest(subject: Subject, images: Images) -> np.ndarray:
    def train() -> np.ndarray:
        return _images(subject, features(subject.data, "train")).flat

    with subject.display.task(f"nearest training images of {len(images)}"):
        return samples.nearest_distance(subject.once("train pixels", train), images.flat)


_Measure = Callable[["Subject", Images, Images], dict[str, float]]
_MEASURES: Mapping[str, _Measure] = {
    **dict.fromkeys(("fcd", "fcd_relative"), _frechet),
    "kid": _kernel,
    **dict.fromkeys(("precision", "recall", "density", "coverage"), _neighbours),
    "class_entropy": _entropy,
    "memorization": _memorization,
}


def _measured(subject: Subject, measure: str, count: int, seed: int) -> dict[str, float]:
    function = _MEASURES[measure]

    def compute() -> dict[str, float]:
        real, seen = _real(subject, count), _samples(subject, count, seed)
        with subject.display.task(f"{measure}, seed {seed}"):
            return function(subject, real, seen)

    return subject.once(f"{function.__name__} of {count} samples, seed {seed}", compute)


def _baselines(subject: Subject, measure: str, count: int) -> dict[str, float]:
    """Row -> value; computed once for these data, this extractor and this n."""
    function = _MEASURES[measure]

    def compute() -> dict[str, float]:
        real = _real(subject, count)
        with subject.display.task("baseline: real images, damaged ones, simple samplers"):
            return {
                f"{row} {name}": value
                for row, images in _rows(subject, count).items()
                for name, value in function(subject, real, images).items()
            }

    key = (
        f"samples, {function.__name__.strip('_')}: {count} images a set against the first {count} "
        f"of test, {_seen_by(subject, measure)}, {baselines.label_digest(subject.data)}"
    )
    values = baselines.cached(subject.data, key, compute)
    rows = {name.split()[0]: v for name, v in values.items() if name.split()[1] == measure}
    return dict(sorted(rows.items(), key=lambda item: (item[0] != FLOOR, item[0])))


# What is looked at


def _images(subject: Subject, images: np.ndarray) -> Images:
    return Images(images, lambda: subject.extractor)


def _samples(subject: Subject, count: int, seed: int) -> Images:
    def draw() -> Images:
        asked = {"label": _asked(subject, count)} if _classes(subject) else {}
        with subject.display.task(f"generate {count}, seed {seed}"):
            drawn = subject.model.generate(count, seed=seed, **asked)["samples"]
        return _images(subject, drawn)

    return subject.once(f"{count} samples, seed {seed}", draw)


def _real(subject: Subject, count: int) -> Images:
    return subject.once(
        f"first {count} of test", lambda: _images(subject, subject.grey_test[:count])
    )


def _rows(subject: Subject, count: int) -> dict[str, Images]:
    def draw() -> dict[str, Images]:
        sets = sample_baselines.calibration_sets(subject.data, count)
        return {name: _images(subject, x) for name, x in sets}

    return subject.once(f"baselines of {count}", draw)


def _count(subject: Subject, match: re.Match[str]) -> int:
    total = subject.count("test")
    count = int(match["count"] or min(COUNT, total))
    if count > total:
        raise InputError(f"The test split has {total} examples. Received: {match[0]!r}")
    if count < FEWEST_IMAGES:
        raise InputError(
            f"Samples are judged in sets of {FEWEST_IMAGES} or more. Received: {match[0]!r}"
        )
    return count


def _seeds(subject: Subject) -> range:
    return range(subject.seed, subject.seed + SAMPLING_SEEDS)


def _classes(subject: Subject) -> int:
    """Number of classes that `generate` takes, 0 for an unconditional model."""
    return getattr(subject.keras_model, "labels", None) or 0


def _asked(subject: Subject, count: int) -> np.ndarray:
    return np.arange(count) % _classes(subject)


# In words


def _drawn(subject: Subject, count: int, spread_of_seeds: bool = True) -> str:
    total, seeds = subject.count("test"), _seeds(subject)
    which = f"the {count}" if count == total else f"the first {count}"
    asked = f", sample i of class i % {_classes(subject)}" if _classes(subject) else ""
    return (
        f"{count} samples of `generate`{asked}, clipped to [0, 1] and rounded to uint8, against "
        f"{which} images of the test split; mean {'and std ' * spread_of_seeds}"
        f"over sampling seeds {seeds[0]}..{seeds[-1]}"
    )


def _seen_by(subject: Subject, measure: str) -> str:
    if measure == "memorization":
        return "uint8 pixels"
    verb = "classify" if measure == "class_entropy" else "encode"
    return f"`{verb}` of extractor {subject.extractor}"


def _compared(subject: Subject) -> str:
    missing = ""
    if len(np.unique(subject.data.labels.get("train", []))) > 1:
        missing = f", without class {sample_baselines.missing_class(subject.data)}"
    return (
        "baselines of equal n, measured alike: train images (the floor), these with noise or blur "
        f"(sigma){missing}; one Gaussian, a mixture of 10, fitted to principal components of train"
    )
