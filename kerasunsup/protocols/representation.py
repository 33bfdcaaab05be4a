"""Protocols of representations: how much a frozen latent holds."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from kerasunsup import baselines
from kerasunsup.metrics import Metric
from kerasunsup.metrics.representation import PROBE_PROTOCOL, Labelled, knn, linear_probe, merge
from kerasunsup.protocols import SPLITS

if TYPE_CHECKING:
    from kerasunsup.evaluation import Subject

NEIGHBOURS = 5


def measure_probe(subject: Subject, match: re.Match[str]) -> Metric:
    """Accuracy of logistic regression on the latent."""
    train, validation, test = _latents(subject)
    with subject.display.task("linear probe"):
        probe = linear_probe(train, validation, test)
    with subject.display.task("baseline: linear probes of raw features and PCA (once per data)"):
        compared = _compared(subject, baselines.raw_probe)
    return Metric(
        probe.accuracy,
        None,
        f"frozen `encode` -> latent ({test.x.shape[1]}-d) of {subject.seen}; {PROBE_PROTOCOL}; "
        f"chosen C = {probe.c:g}",
        len(test.y),
        compared,
    )


def measure_knn(subject: Subject, match: re.Match[str]) -> Metric:
    """Accuracy of the nearest neighbours in latent space."""
    train, validation, test = _latents(subject)
    with subject.display.task("nearest neighbours"):
        accuracy = knn(merge(train, validation), test, NEIGHBOURS)
    with subject.display.task("baseline: neighbours of raw features and PCA (once per data)"):
        compared = _compared(subject, baselines.raw_knn)
    return Metric(
        accuracy,
        None,
        f"accuracy on test of the majority among {NEIGHBOURS} nearest neighbours in train + "
        f"validation, Euclidean; `encode` -> latent ({test.x.shape[1]}-d) of {subject.seen}, not "
        "rescaled",
        len(test.y),
        compared,
    )


def _latents(subject: Subject) -> list[Labelled]:
    return [Labelled(subject.latents(split), subject.data.labels[split]) for split in SPLITS]


def _compared(subject: Subject, measure: Callable[..., float]) -> dict[str, float]:
    """Raw features, and PCA where it is a reduction."""
    compared = {"raw_features": measure(subject.data)}
    dimension = subject.latent_size
    if dimension < subject.rank:
        compared[f"pca_{dimension}"] = measure(subject.data, dimension)
    return compared
