"""SimCLR: two views of an example attract each other, all others in the batch repel.

Chen et al. 2020, https://arxiv.org/abs/2002.05709.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from kerasunsup.augmentation import Augmentation
from kerasunsup.errors import InputError
from kerasunsup.losses import nt_xent
from kerasunsup.models.two_views import TwoViewModel, per_row
from kerasunsup.replicas import all_rows, own_rows


@keras.saving.register_keras_serializable("kerasunsup")
class SimCLR(TwoViewModel):
    """Contrastive pretraining with the loss NT-Xent (equation 1) over the global batch.

    Args:
        backbone: Functional model, example -> features `(batch, d)`.
        augmentation: `kerasunsup.augmentation` layers, applied in turn.
        projection: Widths of the projection head, the last one of the embedding.
        temperature: Divides the cosine similarities.
        value_range: Range of valid inputs, for example (0, 1) for pixels.
        seed: Seed of the order of examples.

    Its metrics are `loss` in nats, `accuracy` (the share of views whose nearest neighbour in the
    batch is the other view of the same example) and `spread` (see `TwoViewModel`).

    Example:

        backbone = networks.vgg_backbone((28, 28, 1), filters=[[32], [64, 64]], units=[128])
        views = [RandomResizedCrop(area=(0.2, 1.0)), BrightnessAndContrast(0.4)]
        model = SimCLR(backbone, views, value_range=(0, 1))
        model.compile("adam")
        model.fit(images, epochs=20, batch_size=256)
        features = model.encode(images)["latent"]
    """

    loss_terms = ("loss", "accuracy", "spread")

    def __init__(
        self,
        backbone: keras.Model,
        augmentation: Sequence[Augmentation],
        projection: Sequence[int] = (128, 64),
        *,
        temperature: float = 0.5,
        value_range: tuple[float, float] | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        if temperature <= 0:
            raise InputError(f"`temperature` must be positive. Received: {temperature}")
        super().__init__(
            backbone, augmentation, projection, value_range=value_range, seed=seed, **kwargs
        )
        self.temperature = temperature

    def losses(self, x: Any, training: bool) -> dict[str, Any]:
        first, second = (
            ops.normalize(embedding, axis=-1) for embedding in self.embeddings(x, training)
        )
        losses, hits = nt_xent(all_rows(first), all_rows(second), self.temperature)
        rows = ops.shape(x)[0]
        return {
            "loss": ops.zeros((rows,)),
            "batch_loss": ops.mean(losses),
            "accuracy": own_rows(hits, rows),
            "spread": per_row(self.spread(first), x),
        }
