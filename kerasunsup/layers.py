"""Layers that families share: corruptions, augmentation, the anomaly threshold, a density.

They compute in float32 under every precision policy.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from kerasunsup.losses import bernoulli_kl
from kerasunsup.replicas import Noise, batch_statistic

register = keras.saving.register_keras_serializable("kerasunsup")


class Corruption(keras.layers.Layer):
    """Base of the corruptions of denoising autoencoders (Vincent et al. 2010): training only.

    Args:
        level: Strength, see each corruption.
        value_range: Range that corrupted values are clipped to, or None.
        seed: Seed of the noise; drawn at random when None.
    """

    def __init__(
        self,
        level: float,
        value_range: tuple[float, float] | None = (0.0, 1.0),
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        if not 0 < level:
            raise ValueError(f"`level` must be positive. Received: {level}")
        self.level = level
        self.value_range = value_range
        self.noise = Noise(seed)
        self.seed = self.noise.seed

    def call(self, x: Any, training: bool = False) -> Any:
        if not training:
            return x
        corrupted = self.corrupt(x)
        return corrupted if self.value_range is None else ops.clip(corrupted, *self.value_range)

    def corrupt(self, x: Any) -> Any:
        """Returns `x` corrupted, same shape."""
        raise NotImplementedError

    def uniform(self, x: Any) -> Any:
        """Uniform draws of the shape of `x`."""
        return self.noise.uniform(ops.shape(x)[0], tuple(x.shape[1:]))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        own = {"level": self.level, "value_range": self.value_range, "seed": self.seed}
        return {**super().get_config(), **own}


@register
class GaussianCorruption(Corruption):
    """Adds N(0, level^2) noise."""

    def corrupt(self, x: Any) -> Any:
        return x + self.level * tf.math.ndtri(self.uniform(x))


@register
class MaskingCorruption(Corruption):
    """Sets a fraction `level` of the values to zero."""

    def corrupt(self, x: Any) -> Any:
        return ops.where(self.uniform(x) < self.level, 0.0, x)


@register
class SaltAndPepperCorruption(Corruption):
    """Sets a fraction `level` of the values to the ends of `value_range`, half to each."""

    def corrupt(self, x: Any) -> Any:
        low, high = self.value_range or (0.0, 1.0)
        draw = self.uniform(x)
        x = ops.where(draw < self.level / 2, low, x)
        return ops.where(draw > 1 - self.level / 2, high, x)


@register
class L1Sparsity(keras.layers.Layer):
    """`weight * sum_j |latent_j|`, `(batch, latent_dim) -> (batch,)`.

    Args:
        weight: Factor of the penalty.
    """

    def __init__(self, weight: float, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.weight = weight

    def call(self, latent: Any) -> Any:
        return self.weight * ops.sum(ops.abs(latent), axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "weight": self.weight}


@register
class KLSparsity(keras.layers.Layer):
    """`weight * sum_j KL(target || rate_j)` in nats, `(batch, latent_dim) -> ()`.

    The rate of a latent unit is `sigmoid(latent)` averaged over the global batch.

    Args:
        weight: Factor of the penalty.
        target: Wanted rate, in (0, 1).
    """

    def __init__(self, weight: float, target: float = 0.05, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        if not 0 < target < 1:
            raise ValueError(f"`target` must lie in (0, 1). Received: {target}")
        self.weight = weight
        self.target = target

    def call(self, latent: Any) -> Any:
        rate = batch_statistic(ops.sigmoid(ops.cast(latent, "float32")))
        return self.weight * ops.sum(bernoulli_kl(self.target, rate))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "weight": self.weight, "target": self.target}


@register
class AnomalyThreshold(keras.layers.Layer):
    """Turns scores into (score, probability, is_anomaly) by a stored calibration.

    `probability` is the fraction of calibration scores below the score (their empirical
    distribution function over 101 quantiles, interpolated linearly); `is_anomaly` says that the
    score exceeds the quantile chosen at calibration. Before calibration the probability is NaN
    and nothing is an anomaly.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.quantiles = self.add_weight(
            shape=(101,), initializer=_nan, trainable=False, name="quantiles", dtype="float32"
        )
        self.threshold = self.add_weight(
            shape=(), initializer=_nan, trainable=False, name="threshold", dtype="float32"
        )
        self.built = True

    def adapt(self, scores: np.ndarray, quantile: float) -> None:
        """Stores the distribution of `scores`, `(n,)`, and the threshold at `quantile`."""
        grid = np.quantile(scores, np.linspace(0, 1, 101))
        self.quantiles.assign(grid)
        self.threshold.assign(np.quantile(scores, quantile))

    def call(self, score: Any) -> dict[str, Any]:
        score = ops.cast(score, "float32")
        grid = ops.convert_to_tensor(self.quantiles)
        right = ops.clip(ops.sum(ops.cast(grid[None] <= score[:, None], "int32"), axis=1), 1, 100)
        low, high = ops.take(grid, right - 1), ops.take(grid, right)
        fraction = tf.math.divide_no_nan(score - low, high - low)
        fraction = ops.cast(right - 1, "float32") + ops.clip(fraction, 0.0, 1.0)
        probability = ops.where(score >= grid[-1], 1.0, fraction / 100.0)
        probability = ops.where(ops.isnan(grid[0]), grid[0], probability)
        is_anomaly = score > self.threshold
        return {"score": score, "probability": probability, "is_anomaly": is_anomaly}


@register
class GaussianMixture(keras.layers.Layer):
    """A Gaussian mixture with full covariances; scikit-learn fits it, the graph samples it.

    Args:
        components: Number of Gaussians.
        dimensions: Number of dimensions.
    """

    def __init__(self, components: int, dimensions: int, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.components = components
        self.dimensions = dimensions
        shapes = {
            "probabilities": (components,),
            "means": (components, dimensions),
            "factors": (components, dimensions, dimensions),
        }
        for name, shape in shapes.items():
            weight = self.add_weight(
                shape=shape, initializer=_nan, trainable=False, name=name, dtype="float32"
            )
            setattr(self, name, weight)
        self.built = True

    @property
    def fitted(self) -> bool:
        """Whether `adapt` has been called."""
        return bool(np.isfinite(self.probabilities.numpy()).all())

    def adapt(self, samples: np.ndarray, seed: int = 0) -> None:
        """Fits the mixture to `samples`, `(n, dimensions)`, by expectation maximisation."""
        from sklearn.mixture import GaussianMixture as Estimator

        fitted = Estimator(self.components, random_state=seed).fit(samples.astype("float64"))
        self.probabilities.assign(fitted.weights_)
        self.means.assign(fitted.means_)
        self.factors.assign(np.linalg.cholesky(fitted.covariances_))

    def call(self, seed: Any) -> Any:
        """One sample for each row of `seed`, int32 `(batch, 2)`."""
        edges = ops.cumsum(self.probabilities)

        def one(row: Any) -> Any:
            draws = standard_normal_row(row, self.dimensions + 1)
            position = 0.5 * (1.0 + ops.erf(draws[0] / 2**0.5)) * edges[-1]
            component = ops.sum(ops.cast(edges[:-1] <= position, "int32"))
            return self.means[component] + tf.linalg.matvec(self.factors[component], draws[1:])

        return tf.map_fn(one, seed, fn_output_signature=tf.TensorSpec((self.dimensions,)))

    def get_config(self) -> dict[str, Any]:
        own = {"components": self.components, "dimensions": self.dimensions}
        return {**super().get_config(), **own}


def standard_normal_row(seed: Any, dimensions: int) -> Any:
    """Standard normal draws `(dimensions,)` from one row (seed, index), int32 `(2,)`."""
    return tf.random.stateless_normal((dimensions,), seed, alg="philox")


def standard_normal_rows(seed: Any, dimensions: int) -> Any:
    """Standard normal draws `(batch, dimensions)`, each row from its own (seed, index)."""
    return tf.map_fn(
        lambda row: standard_normal_row(row, dimensions),
        seed,
        fn_output_signature=tf.TensorSpec((dimensions,)),
    )


def gumbel_rows(seed: Any, shape: tuple[int, ...]) -> Any:
    """Gumbel draws `(batch, *shape)`, each row from its own (seed, index).

    The argmax of logits + such draws is a draw from their softmax (Gumbel 1954).
    """

    def one(row: Any) -> Any:
        uniform = tf.random.stateless_uniform(shape, row, alg="philox")
        return -ops.log(-ops.log(ops.maximum(uniform, 1e-37)))

    return tf.map_fn(one, seed, fn_output_signature=tf.TensorSpec(shape))


def _nan(shape: Any, dtype: Any = None) -> Any:
    return ops.full(shape, np.nan, dtype=dtype)
