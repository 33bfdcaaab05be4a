"""Perplexity of a codebook: how many codes are in use, as if all of these were used alike."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops


def perplexity(counts: np.ndarray) -> float:
    """exp(-sum_k p_k log p_k) of how often each code occurs, from 1 to the number of codes."""
    p = counts[counts > 0] / counts.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


@keras.saving.register_keras_serializable("kerasunsup")
class Perplexity(keras.metrics.Metric):
    """Perplexity of all codes since the epoch began, over all replicas.

    Args:
        codes: Number of codes.
    """

    def __init__(self, codes: int, name: str = "perplexity", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.codes = codes
        self.counts = self.add_variable((codes,), "zeros", name="counts")

    def update_state(self, codes: Any) -> None:
        """Adds codes, int32 of any shape."""
        flat = ops.reshape(codes, (-1,))
        ones = ops.ones_like(flat, "float32")
        self.counts.assign_add(tf.math.unsorted_segment_sum(ones, flat, self.codes))

    def result(self) -> Any:
        p = self.counts / ops.maximum(ops.sum(self.counts), 1.0)
        return ops.exp(-ops.sum(tf.math.xlogy(p, p)))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "codes": self.codes}
