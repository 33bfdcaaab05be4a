"""The codebook of a VQ-VAE: vectors that follow the latents they stand for."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kerasunsup.replicas import Noise, all_sum, pick_rows


@keras.saving.register_keras_serializable("kerasunsup")
class Codebook(keras.layers.Layer):
    """Replaces each latent by the nearest of `codes` vectors: van den Oord et al. 2017.

    While training, the vectors follow exponential moving averages (https://arxiv.org/abs/1711.00937,
    appendix A.1). Of one step's latents z, n_k are nearest to vector e_k:

        N_k <- decay N_k + (1 - decay) n_k
        e_k <- e_k + (1 - decay) (sum of these z - n_k e_k) / N_k

    which is the paper's m_k / N_k for m_k = N_k e_k. All sums run over the global batch. A code
    whose use N_k falls below a share of the mean use is re-seeded: its vector becomes a latent of
    the batch, drawn by position, and its use the mean. All codes are seeded by the first batch.

    Args:
        codes: Number of vectors (K).
        code_dim: Values of a vector.
        decay: Of the moving averages, in [0, 1).
        restart: Share of the mean use below which a code is re-seeded; 0 for never.
        seed: Seed of the draws; drawn at random when None.

    Call:
        latent: `(batch, ..., code_dim)`.
        training: Re-seed, and move the vectors after they have been looked up.

    Returns:
        The nearest vectors, of the latent's shape, and their codes, int32 `(batch, ...)`. No
        gradient flows through either.
    """

    def __init__(
        self,
        codes: int,
        code_dim: int,
        decay: float = 0.99,
        restart: float = 0.1,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.codes = codes
        self.code_dim = code_dim
        self.decay = decay
        self.restart = restart
        self.noise = Noise(seed)
        self.seed = self.noise.seed
        self.vectors = self.add_weight(
            shape=(codes, code_dim), initializer="uniform", trainable=False, name="vectors"
        )
        self.use = self.add_weight(shape=(codes,), initializer="zeros", trainable=False, name="use")
        self.built = True

    @property
    def seeded(self) -> bool:
        """Whether a batch has been seen."""
        return bool(ops.max(self.use) > 0)

    def lookup(self, codes: Any) -> Any:
        """Codes `(batch, ...)` -> their vectors, `(batch, ..., code_dim)`."""
        return tf.gather(ops.convert_to_tensor(self.vectors), codes)

    def call(self, latent: Any, training: bool = False) -> tuple[Any, Any]:
        flat = ops.stop_gradient(ops.reshape(latent, (-1, self.code_dim)))
        if training:
            self._reseed(flat)
        codes = self._nearest(flat)
        vectors = self.lookup(codes)
        if training:
            self._move(flat, codes)
        shape = ops.shape(latent)
        return ops.reshape(vectors, shape), ops.reshape(codes, shape[:-1])

    def _nearest(self, flat: Any) -> Any:
        """argmin_k |z - e_k|^2, `(n, code_dim) -> (n,)`."""
        cross = ops.matmul(flat, ops.transpose(self.vectors))
        distances = ops.sum(ops.square(self.vectors), axis=1) - 2.0 * cross
        return tf.argmin(distances, axis=1, output_type=tf.int32)

    def _reseed(self, flat: Any) -> None:
        """Gives codes out of use a latent each, from equal parts of the global batch."""
        mean = ops.mean(self.use)
        idle = (self.use < self.restart * mean) | (mean == 0)
        places = (ops.arange(self.codes, dtype="float32") + self.noise.shared((self.codes,))) / (
            self.codes
        )
        self.vectors.assign(ops.where(idle[:, None], pick_rows(flat, places), self.vectors))
        self.use.assign(ops.where(idle, mean, self.use))

    def _move(self, flat: Any, codes: Any) -> None:
        ones = ops.ones_like(codes, "float32")
        counts = all_sum(tf.math.unsorted_segment_sum(ones, codes, self.codes))
        sums = all_sum(tf.math.unsorted_segment_sum(flat, codes, self.codes))
        use = self.decay * self.use + (1.0 - self.decay) * counts
        pull = (1.0 - self.decay) * (sums - counts[:, None] * self.vectors)
        self.vectors.assign_add(tf.math.divide_no_nan(pull, use[:, None]))
        self.use.assign(use)

    def get_config(self) -> dict[str, Any]:
        names = ("codes", "code_dim", "decay", "restart", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
