"""Whether a GAN is well, in words: while it trains, and once it is trained."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasunsup.data import Dataset
from kerasunsup.examples import split_batches
from kerasunsup.metrics.health import diagnose

EXAMPLES = 500


class Health(keras.callbacks.Callback):
    """Says when a GAN in training falls ill: see `kerasunsup.metrics.health`.

    Args:
        data: Data set it trains on; the first 500 validation examples are compared with samples.
        every: Epochs between examinations.

    Attributes:
        findings: Sentences of the last examination, none for a healthy model.
    """

    def __init__(self, data: Dataset, every: int = 1) -> None:
        super().__init__()
        self.data = data
        self.every = every
        self.findings: list[str] = []
        self._samples: np.ndarray | None = None

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if (epoch + 1) % self.every:
            return
        earlier, known = self._samples, self.findings
        self.findings, self._samples = examine(self.model, self.data, "validation", earlier)
        for finding in self.findings:
            if finding.split(":")[0] not in {old.split(":")[0] for old in known}:
                print(f"\nEpoch {epoch + 1}: {finding}")


def examine(
    model: Any, data: Dataset, split: str, earlier: np.ndarray | None = None
) -> tuple[list[str], np.ndarray]:
    """Compares the first 500 examples of a split with as many samples of seed 0.

    The discriminator answers in inference mode, with its moving statistics.

    Args:
        model: A GAN, or a `ServedModel` of one.
        data: Data set it was trained on.
        split: Which examples: "validation" while training, "test" after it.
        earlier: The samples of an earlier examination.

    Returns:
        Findings in short sentences, none for a healthy model, and the samples.
    """
    network = getattr(model, "model", model)
    real = next(split_batches(data, split))[:EXAMPLES]
    label = None if network.labels is None else data.labels[split][: len(real)]
    samples = model.generate(len(real), seed=0, label=label)["samples"]
    if not np.isfinite(samples).all():
        return [
            "The samples are not finite: lower the learning rates or clip the gradients."
        ], samples
    if len(real) < 2:
        return [], samples

    def seen(x: np.ndarray) -> np.ndarray:  # in the units of the networks
        return np.asarray(network.preprocess(tf.constant(x)))

    findings = diagnose(
        seen(real),
        seen(samples),
        model.discriminate(real, label=label)["logit"],
        model.discriminate(samples, label=label)["logit"],
        None if earlier is None else seen(earlier),
        loss=network.loss,
    )
    return findings, samples
