"""Classifiers: a backbone and a linear head, trained on labels.

They are here to measure: the features of a frozen one compare samples with data (the Frechet
classifier distance), and any backbone can be judged by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops

from kerasunsup.errors import InputError
from kerasunsup.losses import cross_entropy
from kerasunsup.models.base import UnsupervisedModel
from kerasunsup.models.classes import check_class_names, class_outputs
from kerasunsup.models.verbs import verb


@keras.saving.register_keras_serializable("kerasunsup")
class Classifier(UnsupervisedModel):
    """Features of a backbone, a softmax over classes, cross-entropy.

    Args:
        backbone: Functional model, example -> features.
        labels: Number of classes; `fit` takes class numbers in [0, labels).
        class_names: A text for each class, which `classify` answers too. A recipe takes those of
            its data.
        augmentation: Layer applied to examples while training, such as
            `kerasunsup.augmentation.CropAndFlip`.
        label_smoothing: Part of the target spread evenly over the classes, in [0, 1).
        value_range: Range of valid inputs, for example (0, 1) for pixels.
        normalization: An adapted `keras.layers.Normalization` for tables.
        seed: Seed of the order of examples.
    """

    main_verb = "classify"
    loss_terms = ("loss", "accuracy")
    labels: int

    def __init__(
        self,
        backbone: keras.Model,
        labels: int,
        *,
        class_names: Sequence[str] | None = None,
        augmentation: layers.Layer | None = None,
        label_smoothing: float = 0.0,
        value_range: tuple[float, float] | None = None,
        normalization: layers.Normalization | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        if labels < 2:
            raise InputError(f"`labels` must be at least 2 classes. Received: {labels}")
        if not 0 <= label_smoothing < 1:
            raise InputError(f"`label_smoothing` must be in [0, 1). Received: {label_smoothing}")
        super().__init__(
            input_shape=backbone.input_shape[1:],
            value_range=value_range,
            normalization=normalization,
            seed=seed,
            **kwargs,
        )
        self.backbone = backbone
        self.labels = labels
        self.class_names = check_class_names(class_names, labels)
        self.augmentation = augmentation
        self.label_smoothing = label_smoothing

        # Networks
        self.head = layers.Dense(labels, name="head")
        self.head.build(backbone.output_shape)
        self.build()

    def call(self, x: Any, training: bool = False) -> Any:
        return ops.softmax(self.logits(self.preprocess(x), training))

    # Losses

    def logits(self, x: Any, training: bool = False) -> Any:
        """Preprocessed examples -> logits, `(batch, labels)`."""
        return ops.cast(self.head(self.backbone(x, training=training)), "float32")

    def losses(self, x: Any, training: bool, labels: Any = None) -> dict[str, Any]:
        if self.augmentation is not None:
            x = self.augmentation(x, training=training)
        logits = self.logits(x, training)
        hits = ops.cast(ops.argmax(logits, axis=-1), "int32") == ops.cast(labels, "int32")
        smoothing = self.label_smoothing if training else 0.0
        return {
            "loss": cross_entropy(labels, logits, smoothing),
            "accuracy": ops.cast(hits, "float32"),
        }

    # Verbs

    @verb
    def encode(self, x: Any) -> dict[str, Any]:
        """Examples -> `latent`: the features that the classes are read from."""
        return {"latent": ops.cast(self.backbone(x, training=False), "float32")}

    @verb
    def classify(self, x: Any) -> dict[str, Any]:
        """Examples -> `probabilities` `(batch, labels)`; the likeliest class, its name if known."""
        return class_outputs(self.logits(x), self.class_names)
