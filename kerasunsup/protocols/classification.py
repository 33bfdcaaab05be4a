"""Protocols of classification."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from kerasunsup import baselines
from kerasunsup.metrics import Metric

if TYPE_CHECKING:
    from kerasunsup.evaluation import Subject


def measure_accuracy(subject: Subject, match: re.Match[str]) -> Metric:
    """Share of the test split that `classify` gives its class."""
    data = subject.data
    label = subject.outputs("classify", "label", "test")
    with subject.display.task("baseline: logistic regression and neighbours of raw features"):
        compared = {
            "raw_features_logistic": baselines.raw_probe(data),
            "raw_features_5nn": baselines.raw_knn(data),
        }
    return Metric(
        float(np.mean(label == data.labels["test"])),
        None,
        "share of the test split whose class `classify` names, trained on the train split with its "
        "labels; baselines (linear probe, 5-NN) on raw features with train and validation labels",
        len(label),
        compared,
    )
