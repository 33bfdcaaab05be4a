"""What SimCLR and Barlow Twins share: two random views of each example, a projection head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from kerasunsup.augmentation import Augmentation
from kerasunsup.errors import InputError
from kerasunsup.models.base import UnsupervisedModel
from kerasunsup.models.verbs import verb
from kerasunsup.replicas import batch_statistic

COLLAPSED = 0.1  # spread below it


class TwoViewModel(UnsupervisedModel):
    """Base of the models that learn to embed two views of an example alike.

    Args:
        backbone: Functional model, example -> features `(batch, d)`; what is kept after training.
        augmentation: Layers that are applied in turn; each view draws anew.
        projection: Width of each layer of the head between features and embedding, the last of
            which is the embedding.
        value_range: Range of valid inputs, for example (0, 1) for pixels.
        seed: Seed of the order of examples.

    The metric `spread` tells a collapse: it is the standard deviation over the batch of the
    embeddings scaled to length 1, averaged over dimensions and times the root of their number; near
    1 when embeddings spread in all directions, 0 when all examples are embedded alike.
    """

    main_verb = "encode"
    least_batch = 2

    def __init__(
        self,
        backbone: keras.Model,
        augmentation: Sequence[Augmentation],
        projection: Sequence[int],
        *,
        value_range: tuple[float, float] | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        if len(backbone.output_shape) != 2:
            raise InputError(
                "`backbone` must give features (batch, d): end it with pooling or Flatten. "
                f"Received: output shape {backbone.output_shape}"
            )
        if not augmentation or not all(isinstance(layer, Augmentation) for layer in augmentation):
            raise InputError(
                "`augmentation` must be a list of one or more kerasunsup.augmentation layers: "
                f"views that are alike teach nothing. Received: {augmentation!r}"
            )
        if not projection:
            raise InputError("`projection` must name the width of one layer or more. Received: []")
        super().__init__(
            input_shape=backbone.input_shape[1:], value_range=value_range, seed=seed, **kwargs
        )
        self.backbone = backbone
        self.augmentation = list(augmentation)
        self.projection = list(projection)

        # Networks
        features = keras.Input(backbone.output_shape[1:], name="features")
        self.projector = keras.Model(features, _head(features, projection), name="projector")
        self.build()

    def call(self, x: Any, training: bool = False) -> Any:
        return self.backbone(self.preprocess(x), training=training)

    # Losses

    def view(self, x: Any, number: int, training: bool) -> Any:
        """One random view of preprocessed examples; while evaluating, always the same."""
        for i, layer in enumerate(self.augmentation):
            x = layer.augment(x, training, stream=2 * i + number)
        return x

    def views_of(self, x: np.ndarray) -> list[np.ndarray]:
        """Both views of examples, always the same ones: what pictures show."""
        seen = self.preprocess(ops.convert_to_tensor(x))
        return [np.asarray(self.view(seen, number, training=False)) for number in (0, 1)]

    def embeddings(self, x: Any, training: bool) -> tuple[Any, Any]:
        """Embeddings of two views of each example, float32 `(batch, projection[-1])` each."""
        views = ops.concatenate([self.view(x, number, training) for number in (0, 1)])
        embedded = self.projector(self.backbone(views, training=training), training=training)
        first, second = ops.split(ops.cast(embedded, "float32"), 2)
        return first, second

    def spread(self, embedding: Any) -> Any:
        """Standard deviation of the directions of the global batch, see the class: a scalar."""
        direction = ops.normalize(embedding, axis=-1)
        mean = batch_statistic(direction)
        variance = batch_statistic(ops.square(direction)) - ops.square(mean)
        return ops.sqrt(ops.mean(ops.maximum(variance, 0.0)) * embedding.shape[-1])

    def findings(self, metrics: Mapping[str, float]) -> list[str]:
        if metrics["spread"] >= COLLAPSED:
            return []
        return [
            "Collapse: nearly all examples are embedded alike. Lower the learning rate, raise the "
            "batch size, or give stronger augmentation."
        ]

    # Verbs

    @verb
    def encode(self, x: Any) -> dict[str, Any]:
        """Examples -> `latent`: the features of the backbone, before the projection head."""
        return {"latent": ops.cast(self.backbone(x, training=False), "float32")}


def per_row(value: Any, x: Any) -> Any:
    """A scalar of the whole batch once for each row of `x`: what metrics are fed with."""
    return ops.broadcast_to(value, (ops.shape(x)[0],))


def _head(x: Any, widths: Sequence[int]) -> Any:
    *hidden, last = widths
    for i, width in enumerate(hidden):
        x = layers.Dense(width, use_bias=False, name=f"dense_{i}")(x)
        x = layers.BatchNormalization(synchronized=True, name=f"normalize_{i}")(x)
        x = layers.ReLU(name=f"relu_{i}")(x)
    return layers.Dense(last, use_bias=False, name="embedding")(x)
