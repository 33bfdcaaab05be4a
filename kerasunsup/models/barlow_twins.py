"""Barlow Twins: embeddings of two views correlate dimension by dimension, and not across them.

Zbontar et al. 2021, https://arxiv.org/abs/2103.03230.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from kerasunsup.augmentation import Augmentation
from kerasunsup.errors import InputError
from kerasunsup.losses import redundancy_reduction
from kerasunsup.models.two_views import TwoViewModel, per_row
from kerasunsup.replicas import batch_mean, batch_statistic


@keras.saving.register_keras_serializable("kerasunsup")
class BarlowTwins(TwoViewModel):
    """Pretraining by redundancy reduction (equation 1) over the global batch.

    Args:
        backbone: Functional model, example -> features `(batch, d)`.
        augmentation: `kerasunsup.augmentation` layers, applied in turn.
        projection: Widths of the projection head, the last one of the embedding; wide ones help.
        redundancy_weight: Weight of the correlations across dimensions, lambda in the paper.
        value_range: Range of valid inputs, for example (0, 1) for pixels.
        seed: Seed of the order of examples.

    Its metrics are `loss`, `invariance` and `redundancy` (its two terms, the second unweighted)
    and `spread` (see `TwoViewModel`).

    Example:

        backbone = networks.vgg_backbone((28, 28, 1), filters=[[32], [64, 64]], units=[128])
        views = [RandomResizedCrop(area=(0.2, 1.0)), BrightnessAndContrast(0.4)]
        model = BarlowTwins(backbone, views, value_range=(0, 1))
        model.compile("adam")
        model.fit(images, epochs=20, batch_size=256)
        features = model.encode(images)["latent"]
    """

    loss_terms = ("loss", "invariance", "redundancy", "spread")

    def __init__(
        self,
        backbone: keras.Model,
        augmentation: Sequence[Augmentation],
        projection: Sequence[int] = (256, 256),
        *,
        redundancy_weight: float = 0.005,
        value_range: tuple[float, float] | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        if redundancy_weight < 0:
            raise InputError(
                f"`redundancy_weight` must not be negative. Received: {redundancy_weight}"
            )
        super().__init__(
            backbone, augmentation, projection, value_range=value_range, seed=seed, **kwargs
        )
        self.redundancy_weight = redundancy_weight

    def losses(self, x: Any, training: bool) -> dict[str, Any]:
        first, second = self.embeddings(x, training)
        invariance, redundancy = redundancy_reduction(self._correlation(first, second))
        terms = {
            "loss": 0.0,
            "invariance": invariance,
            "redundancy": redundancy,
            "spread": self.spread(first),
        }
        total = invariance + self.redundancy_weight * redundancy
        return {**{name: per_row(value, x) for name, value in terms.items()}, "batch_loss": total}

    @staticmethod
    def _correlation(first: Any, second: Any) -> Any:
        """Correlations over the global batch, `(d, d)`, from sums over its rows."""
        first, second = (  # moments of values near zero do not cancel
            each - ops.stop_gradient(batch_statistic(each)) for each in (first, second)
        )
        means = [batch_statistic(first), batch_statistic(second)]
        squares = [batch_statistic(first**2), batch_statistic(second**2)]
        products = batch_mean(ops.matmul(ops.transpose(first), second), ops.shape(first)[0])
        variances = [square - mean**2 for square, mean in zip(squares, means, strict=True)]
        covariance = products - means[0][:, None] * means[1]
        return covariance / ops.sqrt((variances[0] + EPSILON)[:, None] * (variances[1] + EPSILON))


EPSILON = 1e-5  # added to variances, as by batch normalisation
