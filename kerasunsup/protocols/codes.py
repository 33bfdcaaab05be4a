"""Protocols of models whose latent is a grid of codes: how many are in use, what they cost."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import numpy as np

from kerasunsup.examples import split_batches
from kerasunsup.metrics import Metric
from kerasunsup.metrics.perplexity import perplexity

if TYPE_CHECKING:
    from kerasunsup.evaluation import Subject


def measure_perplexity(subject: Subject, match: re.Match[str]) -> Metric:
    """Perplexity of the codebook, or its share of the number of codes."""
    codes, total = _codes(subject, "test"), subject.keras_model.codes
    counts = np.bincount(codes.ravel(), minlength=total)
    value = perplexity(counts) / (total if match["share"] else 1)
    of_all = f", divided by {total}" if match["share"] else ""
    return Metric(
        value,
        None,
        f"exp(-sum p log p){of_all}, p how often each of the {total} codes occurs in the "
        f"{' x '.join(map(str, codes.shape[1:]))} places of all test examples; "
        f"{np.count_nonzero(counts)} codes occur",
        len(codes),
    )


def measure_bits(subject: Subject, match: re.Match[str]) -> Metric:
    """Bits that the codes of an example take."""
    model = subject.keras_model
    grid = " x ".join(map(str, model.grid))
    text = f"bits per example: {grid} places x log2 of {model.codes} codes"
    return Metric(float(model.bits), None, text, subject.count("test"))


def measure_prior_bits(subject: Subject, match: re.Match[str]) -> Metric:
    """Bits that the codes of an example take on average when the prior compresses them."""
    model = subject.keras_model
    with subject.display.task("likelihood of codes", subject.count("test")) as advance:
        parts = []
        for x in split_batches(subject.data, "test"):
            parts.append(model.code_nll(x).astype("float64"))
            advance(len(x))
    nats = np.concatenate(parts)
    return Metric(
        float(nats.mean()) / math.log(2),
        None,
        "bits per example, test split: -log2 p(codes) under the model's prior; equally likely "
        "codes; independent codes, each place with the frequencies of the train split (one more "
        "of each code)",
        len(nats),
        {"equally_likely_codes": float(model.bits), "independent_codes": _independent(subject)},
    )


def _codes(subject: Subject, split: str) -> np.ndarray:
    return subject.once(f"codes of {split}", lambda: subject.outputs("encode", "codes", split))


def _independent(subject: Subject) -> float:
    """Mean bits of the test split's codes where each place has its own frequencies."""
    total, places = subject.keras_model.codes, math.prod(subject.keras_model.grid)
    train, test = (_codes(subject, split).reshape(-1, places) for split in ("train", "test"))
    bits = 0.0
    for place, codes in enumerate(test.T):
        counts = np.bincount(train[:, place], minlength=total) + 1.0
        bits -= float(np.log2(counts[codes] / counts.sum()).mean())
    return bits
