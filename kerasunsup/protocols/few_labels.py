"""Protocols of few labels: how far a few labelled examples reach with pretrained features.

Ten draws of labelled examples, equally many of each class, from the train split. The numbers of
epochs and the penalty of the logistic regression are fixed: labels that would choose them are
labels too.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from kerasunsup import baselines
from kerasunsup.augmentation import CropAndFlip
from kerasunsup.data.splits import draw_labelled
from kerasunsup.metrics import Metric
from kerasunsup.models import PretrainFinetune
from kerasunsup.models.pretrained import load_pretrained

if TYPE_CHECKING:
    from kerasunsup.data import Dataset
    from kerasunsup.evaluation import Subject

DRAWS = 10
STEPS = 400
BATCH = 64
FINETUNING = {"strategy": "layerwise_lr", "layer_decay": 0.2}
FINETUNING_RATE = 3e-3
SCRATCH_RATE = 1e-3
DIMENSIONS = 64
_DRAWN = (
    f"labelled examples of train drawn with seeds 0..{DRAWS - 1}, equally many of each class: mean "
    "and std of the accuracy on test"
)
_LOGISTIC = (
    "features centred and divided by one scale so that their mean variance is 1, both from the "
    "whole train split; logistic regression (scikit-learn L-BFGS, L2, C = 1)"
)


def measure_frozen(subject: Subject, match: re.Match[str]) -> Metric:
    """Accuracy of logistic regression on the latents of a few labelled examples."""
    count, labels = int(match["count"]), subject.data.labels
    train, test = subject.latents("train"), subject.latents("test")
    with subject.display.task("few labels: logistic regression", DRAWS):
        scores = _over_draws(_logistic, train, test, labels, count)
    with subject.display.task("baseline: few labels of raw features and PCA (once per data)"):
        compared = _raw(subject.data, count)
    return Metric(
        float(np.mean(scores)),
        float(np.std(scores, ddof=1)),
        f"{count} {_DRAWN}; frozen `encode` -> latent ({train.shape[1]}-d) of {subject.seen}; "
        f"{_LOGISTIC}; baselines alike on raw features and on {DIMENSIONS} principal components of "
        "train, and a support vector machine (scikit-learn SVC, RBF, C = 10) on raw features",
        len(labels["test"]),
        compared,
    )


def measure_finetuned(subject: Subject, match: re.Match[str]) -> Metric:
    """Accuracy after finetuning on a few labelled examples, and of the same from scratch."""
    count, data = int(match["count"]), subject.data.drawn_from or subject.data
    source = subject.keras_model
    if isinstance(source, PretrainFinetune) and source.pretrained:
        source = load_pretrained(source.pretrained)
    with subject.display.task("few labels: finetuning", DRAWS) as advance:
        scores = _finetuned(source, data, count, fresh=False, advance=advance)

    def from_scratch() -> dict[str, float]:
        with subject.display.task("few labels: from scratch", DRAWS) as advance:
            again = _finetuned(source, data, count, fresh=True, advance=advance)
        return {"mean": float(np.mean(again)), "std": float(np.std(again, ddof=1))}

    network = json.dumps(source.features.get_config(), sort_keys=True, default=str)
    network = hashlib.sha256(re.sub(r"_\d+\b", "", network).encode()).hexdigest()[:16]
    how = training_protocol(count, data)
    key = f"from scratch, {count} labels, network {network}: {how}"
    scratch = baselines.cached(data, f"{key}, {baselines.label_digest(data)}", from_scratch)
    return Metric(
        float(np.mean(scores)),
        float(np.std(scores, ddof=1)),
        f"{count} {_DRAWN}; {how}; from_scratch: the same network, epochs and augmentation with "
        f"random weights (std {scratch['std']:.3f})",
        len(data.labels["test"]),
        {"from_scratch": scratch["mean"], **_raw(data, count)},
    )


def training_protocol(count: int, data: Dataset) -> str:
    """How a few labels are trained on, in words."""
    padding = padding_for(data)
    crops = f"crops after padding by {padding} pixels; " if padding else ""
    return (
        f"PretrainFinetune, {crops}{epochs_for(count)} epochs in batches of {BATCH}; Adam falling "
        f"to 0 by a cosine, from {FINETUNING_RATE:g} for the head and {FINETUNING['layer_decay']} "
        "of the rate above it for each layer; from scratch all weights from "
        f"{SCRATCH_RATE:g}"
    )


def padding_for(data: Dataset) -> int:
    """Pixels by which training images are shifted at most: a fourteenth of their side."""
    return min(data.input_shape[:2]) // 14 if data.is_image else 0


def epochs_for(count: int) -> int:
    """Epochs that make 400 steps, or a little more, of a few labels."""
    return -(-STEPS // -(-count // BATCH))


def _over_draws(
    measure: Callable[..., float],
    train: np.ndarray,
    test: np.ndarray,
    labels: Any,
    count: int,
) -> list[float]:
    """`measure(x, y, x_test, y_test)` for each draw, on features scaled as `_LOGISTIC` says."""
    train, test = (x.reshape(len(x), -1).astype("float32") for x in (train, test))
    mean = train.mean(axis=0, dtype="float64").astype("float32")
    scale = float(np.sqrt(train.var(axis=0, dtype="float64").mean())) or 1.0
    test = (test - mean) / scale
    scores = []
    for seed in range(DRAWS):
        drawn = draw_labelled(labels["train"], count, seed)
        x = (train[drawn] - mean) / scale
        scores.append(measure(x, labels["train"][drawn], test, labels["test"]))
    return scores


def _logistic(x: np.ndarray, y: np.ndarray, test: np.ndarray, truth: np.ndarray) -> float:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return float(LogisticRegression(max_iter=300).fit(x, y).score(test, truth))


def _support_vectors(x: np.ndarray, y: np.ndarray, test: np.ndarray, truth: np.ndarray) -> float:
    from sklearn.svm import SVC

    return float(SVC(C=10.0).fit(x, y).score(test, truth))


def _raw(data: Dataset, count: int) -> dict[str, float]:
    """What needs no pretraining: raw features and principal components."""

    def compute() -> dict[str, float]:
        train, test = (baselines.labelled(data, split).x for split in ("train", "test"))
        values = {
            "raw_logistic": _over_draws(_logistic, train, test, data.labels, count),
            "raw_svm": _over_draws(_support_vectors, train, test, data.labels, count),
        }
        if DIMENSIONS < min(train.shape):
            pca = baselines.fit_pca(train, DIMENSIONS)
            train, test = pca.transform(train), pca.transform(test)
            values[f"pca_{DIMENSIONS}_logistic"] = _over_draws(
                _logistic, train, test, data.labels, count
            )
        return {name: float(np.mean(scores)) for name, scores in values.items()}

    key = f"{count} {_DRAWN}, SVC C = 10, PCA-{DIMENSIONS}, {_LOGISTIC}"
    return baselines.cached(data, f"{key}, {baselines.label_digest(data)}", compute)


def _finetuned(
    source: Any, data: Dataset, count: int, fresh: bool, advance: Callable[[int], None]
) -> list[float]:
    """Test accuracies after training on each draw, from pretrained or from random weights."""
    labels = data.labels
    epochs = epochs_for(count)
    padding = padding_for(data)
    views = [CropAndFlip(padding, flip=False, seed=0)] if padding else []
    classes = int(max(labels["train"])) + 1
    how = {} if fresh else FINETUNING
    model = PretrainFinetune.from_pretrained(source, classes, augmentation=views, seed=0, **how)
    rate = SCRATCH_RATE if fresh else FINETUNING_RATE
    steps = epochs * -(-count // BATCH)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps)))
    start = model.snapshot()
    scores = []
    for seed in range(DRAWS):  # one compiled model, set back for each draw
        keras.utils.set_random_seed(seed)
        model.rewind(start)
        if fresh:
            model.backbone.set_weights(keras.models.clone_model(model.backbone).get_weights())
        model.head.kernel.assign(keras.initializers.GlorotUniform()(model.head.kernel.shape))
        drawn = draw_labelled(labels["train"], count, seed)
        model.fit(
            data.train[drawn], labels["train"][drawn], epochs=epochs, batch_size=BATCH, verbose=0
        )
        scores.append(float(np.mean(model.classify(data.test)["label"] == labels["test"])))
        advance(1)
    return scores
