"""Protocols of anomaly detection."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kerasunsup import baselines
from kerasunsup.metrics import Metric
from kerasunsup.metrics.anomaly import auroc

if TYPE_CHECKING:
    from kerasunsup.evaluation import Subject

PCA_DIMENSION = 32  # for models without a latent


def measure_auroc(subject: Subject, match: re.Match[str]) -> Metric:
    """AUROC of `score`: the one class that was trained on against all others."""
    data = subject.data
    normal = int(data.labels["train"][0])
    strange = data.labels["test"] != normal
    scores = subject.outputs("score", "score", "test")
    with subject.display.task("baseline: Isolation Forest, nearest neighbours, PCA"):
        compared = baselines.anomaly_detectors(data, normal, subject.latent_size or PCA_DIMENSION)
    label = data.class_names[normal] if normal < len(data.class_names) else str(normal)
    return Metric(
        auroc(scores, strange),
        None,
        f"one-class: train and validation hold class {normal} ({label}) only; `score` on the whole "
        f"test split, {int((~strange).sum())} normal against {int(strange.sum())} of other classes "
        "(positive); baselines fitted on the same train split (Isolation Forest: 100 trees, mean "
        "of seeds 0..2; mean distance to the 5 nearest; PCA reconstruction error)",
        len(strange),
        compared,
    )
