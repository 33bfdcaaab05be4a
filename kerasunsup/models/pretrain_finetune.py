"""Features learnt without labels, carried into a supervised model.

Strategies: a linear head on frozen features; all weights (Erhan et al. 2010, "Why does unsupervised
pre-training help deep learning?"); unfreezing from the top and learning rates that fall towards
the input, both of Howard & Ruder 2018, https://arxiv.org/abs/1801.06146, sections 3.2 and 3.3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from kerasunsup.errors import InputError
from kerasunsup.losses import cross_entropy, mean_over_features
from kerasunsup.models.base import UnsupervisedModel, check_choice
from kerasunsup.models.classes import Classes, check_values, class_outputs
from kerasunsup.models.pretrained import blocks_of, copied, load_pretrained
from kerasunsup.models.verbs import labels_of, verb

TASKS = ("classification", "binary", "regression")
STRATEGIES = ("linear", "full", "gradual", "layerwise_lr")


@keras.saving.register_keras_serializable("kerasunsup")
class PretrainFinetune(UnsupervisedModel):
    """A pretrained backbone and a new head, trained on labels.

    Args:
        source: Where the features come from: any unsupervised model of ours (then `pretrain` trains
            it, and the backbone is shared), a functional backbone, the name of an entry of the
            zoo, or the folder of a finished run.
        classes: Number of classes, or their names; labels are then numbers in [0, classes), or
            names. Names that come in the labels of the first `fit` are kept.
        task: "classification" (softmax over classes), "binary" (one logit, two classes) or
            "regression" (values, mean squared error).
        outputs: Values of a regression.
        strategy: What is trained: "linear" (the head; the backbone stays as it is, its batch
            normalisation in inference mode), "full" (all), "gradual" (the head, then the
            backbone's layers from the top, one more in each of equal stages of `fit`) or
            "layerwise_lr" (all, each layer's learning rate `layer_decay` times that of the layer
            above). May be set between two calls of `fit`: optimisers start anew.
        layer_decay: Of "layerwise_lr", in (0, 1].
        augmentation: `kerasunsup.augmentation` layers, applied in turn while training.
        label_smoothing: Part of the target spread evenly over the classes, in [0, 1).
        pretrained: Name of the entry or run that the backbone comes from, kept for the record;
            `source` where it is a name.
        value_range: Range of valid inputs; that of `source` where it is a model.
        normalization: An adapted `keras.layers.Normalization` for tables; as `value_range`.
        seed: Seed of the order of examples.

    Example:

        model = PretrainFinetune.from_pretrained("simclr_fashion_mnist", classes=10)
        model.compile(keras.optimizers.Adam(3e-4))
        model.fit(images, labels, epochs=50, batch_size=32)     # labels: numbers or names
        model.classify(others)["label"]
    """

    def __init__(
        self,
        source: UnsupervisedModel | keras.Model | str | Path,
        classes: int | Sequence[str] | None = None,
        *,
        task: str = "classification",
        outputs: int = 1,
        strategy: str = "full",
        layer_decay: float = 0.7,
        augmentation: Sequence[layers.Layer] = (),
        label_smoothing: float = 0.0,
        pretrained: str = "",
        value_range: tuple[float, float] | None = None,
        normalization: layers.Normalization | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        check_choice("task", task, TASKS)
        if not 0 < layer_decay <= 1:
            raise InputError(f"`layer_decay` must lie in (0, 1]. Received: {layer_decay}")
        if not 0 <= label_smoothing < 1:
            raise InputError(f"`label_smoothing` must be in [0, 1). Received: {label_smoothing}")
        self.task = task
        if isinstance(source, str | Path):
            pretrained = str(source)
            source, value_range, normalization = copied(load_pretrained(source))
        backbone: Any = source
        if isinstance(source, UnsupervisedModel):
            backbone = source.features
            value_range, normalization = source.value_range, source.normalization
        super().__init__(
            input_shape=backbone.input_shape[1:],
            value_range=value_range,
            normalization=normalization,
            seed=seed,
            **kwargs,
        )
        self.source = source
        self.backbone = backbone
        self.known = Classes(classes, task)
        self.outputs = outputs
        self.layer_decay = layer_decay
        self.augmentation = list(augmentation)
        self.label_smoothing = label_smoothing
        self.pretrained = pretrained

        # Networks
        units = {"classification": self.known.count, "binary": 1, "regression": outputs}[task]
        self.head = layers.Dense(units, name="head")
        self.head.build((None, int(np.prod(backbone.output_shape[1:]))))
        self.strategy = strategy
        self.build()

    @classmethod
    def from_pretrained(
        cls,
        pretrained: UnsupervisedModel | str | Path,
        classes: int | Sequence[str] | None = None,
        **arguments: Any,
    ) -> PretrainFinetune:
        """A model on a copy of what `pretrained` has learnt, which stays as it is.

        Args:
            pretrained: An entry's name, the folder of a finished run, or a model of ours.
            classes: Number of classes, or their names.
            **arguments: As in `PretrainFinetune`.

        Raises:
            InputError: No such entry or run, or a model without features.
        """
        name = ""
        if isinstance(pretrained, str | Path):
            name, pretrained = str(pretrained), load_pretrained(pretrained)
        if not isinstance(pretrained, UnsupervisedModel):
            raise InputError(
                "`pretrained` must be the name of an entry, the folder of a finished run or a "
                f"kerasunsup model. Received: {type(pretrained).__name__}"
            )
        backbone, value_range, normalization = copied(pretrained)
        given = {
            "value_range": value_range,
            "normalization": normalization,
            "pretrained": name,
            **arguments,
        }
        return cls(backbone, classes, **given)

    @property
    def labels(self) -> int | None:  # type: ignore[override]
        """Number of classes; None for a regression."""
        return self.known.count

    @property
    def classes(self) -> int | list[str] | None:
        """The names of the classes, or their number where they have none."""
        return self.known.names or self.known.count

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes, None where they have none."""
        return tuple(self.known.names) if self.known.names else None

    @class_names.setter
    def class_names(self, names: Sequence[str]) -> None:
        self.known = Classes(names, self.task)

    @property
    def main_verb(self) -> str:  # type: ignore[override]
        """`predict` of a regression, `classify` of the others."""
        return "predict" if self.task == "regression" else "classify"

    @property
    def loss_terms(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the metrics."""
        return ("loss", "mean_absolute_error" if self.task == "regression" else "accuracy")

    def adapt(self, x: Any) -> None:
        """Fits the normalisation of tables, unless it came with what was pretrained."""
        if self.normalization is not None and self.normalization.input_mean is None:
            super().adapt(x)

    def call(self, x: Any, training: bool = False) -> Any:
        return self._activated(self.raw_outputs(self.preprocess(x), training))

    # Pretraining

    def pretrain(self, x: Any, **fit_arguments: Any) -> keras.callbacks.History:
        """Trains the unsupervised model around the backbone; arguments as in its `fit`.

        It is compiled with its defaults unless `source` has been compiled.

        Raises:
            InputError: The model was built on a backbone alone.
        """
        if not isinstance(self.source, UnsupervisedModel):
            raise InputError(
                "Only a model built around an unsupervised one can be pretrained: "
                "PretrainFinetune(Autoencoder(…), classes=10). Received: a backbone"
            )
        self.backbone.trainable = True
        if not self.source.compiled:
            self.source.compile()
        try:
            return self.source.fit(x, **fit_arguments)
        finally:
            self.freeze_for(self.stage)

    # Strategies

    @property
    def strategy(self) -> str:
        """What `fit` trains."""
        return self._strategy

    @strategy.setter
    def strategy(self, strategy: str) -> None:
        check_choice("strategy", strategy, STRATEGIES)
        self._strategy = strategy
        self.backbone.trainable = True
        self.freeze_for(self.stage)

    @property
    def blocks(self) -> list[list[layers.Layer]]:
        """Layers of the backbone with weights from the top down, normalisation with its layer."""
        return blocks_of(self.backbone)[::-1]

    def stage_epochs(self, epochs: int) -> tuple[int, ...]:
        if self.strategy != "gradual":
            return (epochs,)
        stages = len(self.blocks) + 1
        if epochs < stages:
            raise InputError(
                f"strategy='gradual' needs an epoch for the head and for each of {stages - 1} "
                f"layers: give epochs={stages} or more. Received: epochs={epochs}"
            )
        return tuple(len(part) for part in np.array_split(np.arange(epochs), stages))[::-1]

    def freeze_for(self, stage: int) -> None:
        if self.strategy == "linear":
            self.backbone.trainable = False
        if self.strategy == "gradual":
            for depth, block in enumerate(self.blocks):
                for layer in block:
                    layer.trainable = depth < stage

    @property
    def optimizer_variables(self) -> dict[str, list[Any]]:
        return {"optimizer": [*self.backbone.trainable_variables, *self.head.trainable_variables]}

    # Losses and steps

    def raw_outputs(self, x: Any, training: bool = False) -> Any:
        """Preprocessed examples -> logits or values, `(batch, units of the head)`."""
        learning = training and self.strategy != "linear"
        features = self.backbone(x, training=learning)
        features = ops.reshape(features, (ops.shape(features)[0], self.head.kernel.shape[0]))
        return ops.cast(self.head(features), "float32")

    def losses(self, x: Any, training: bool, labels: Any = None) -> dict[str, Any]:
        for layer in self.augmentation:
            x = layer(x, training=training)
        outputs = self.raw_outputs(x, training)
        if self.task == "regression":
            error = ops.cast(labels, "float32") - outputs
            return {
                "loss": mean_over_features(ops.square(error)),
                "mean_absolute_error": mean_over_features(ops.abs(error)),
            }
        logits = self._logits(outputs)
        hits = ops.cast(ops.argmax(logits, axis=-1), "int32") == ops.cast(labels, "int32")
        smoothing = self.label_smoothing if training else 0.0
        return {
            "loss": cross_entropy(labels, logits, smoothing),
            "accuracy": ops.cast(hits, "float32"),
        }

    def step(self, x: Any, labels: Any = None) -> None:
        if self.strategy != "layerwise_lr":
            super().step(x, labels)
            return
        scaled = [
            (variable, ops.convert_to_tensor(variable) + 0.0, self.layer_decay ** (depth + 1))
            for depth, block in enumerate(self.blocks)
            for layer in block
            for variable in layer.trainable_variables
        ]
        super().step(x, labels)
        for variable, before, factor in scaled:  # an update is proportional to its learning rate
            variable.assign(before + factor * (variable - before))

    def _logits(self, outputs: Any) -> Any:
        """Logits of all classes; those of a binary head are 0 and the head's."""
        if self.task == "binary":
            return ops.concatenate([ops.zeros_like(outputs), outputs], axis=-1)
        return outputs

    def _activated(self, outputs: Any) -> Any:
        activations: dict[str, Callable[[Any], Any]] = {
            "classification": ops.softmax,
            "binary": ops.sigmoid,
            "regression": lambda values: values,
        }
        return activations[self.task](outputs)

    # Labels

    @property
    def uses_labels(self) -> bool:
        return True

    def prepare_labels(self, y: Any) -> np.ndarray:
        if self.task == "regression":
            return check_values(y, self.outputs)
        return self.known.numbers(y)

    def label_check(self, spec: Any) -> Callable[[Any], Any]:
        if self.task == "regression":
            return lambda values: tf.reshape(tf.cast(values, tf.float32), (-1, self.outputs))
        if isinstance(spec, tf.TensorSpec) and spec.dtype == tf.string:
            return self.known.graph_numbers
        return super().label_check(spec)

    def fit(self, x: Any = None, y: Any = None, **arguments: Any) -> keras.callbacks.History:
        """As `UnsupervisedModel.fit`, on examples and labels.

        Raises:
            InputError: Labels of one class only, or none of some class; labels out of range or of
                unknown names; values that are not finite.
        """
        given = x if y is None else (x, y)
        if self.task != "regression" and isinstance(given, tuple):
            self.known.check_coverage(labels_of(given))
        return super().fit(x, y, **arguments)

    # Saving

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        if isinstance(self.source, UnsupervisedModel):  # brings its own
            config.update(value_range=None, normalization=None)
        return config

    def without_training_state(self) -> UnsupervisedModel:
        serialize = keras.saving.serialize_keras_object
        config = {
            **self.get_config(),
            "source": serialize(self.backbone),
            "value_range": self.value_range,
            "normalization": serialize(self.normalization),
        }
        copy = type(self).from_config(config)
        copy.backbone.set_weights(self.backbone.get_weights())
        copy.head.set_weights(self.head.get_weights())
        if self.normalization is not None:
            copy.normalization.set_weights(self.normalization.get_weights())
            copy.normalization.finalize_state()
        return copy

    # Verbs

    @property
    def verbs(self) -> tuple[str, ...]:
        unfit = "classify" if self.task == "regression" else "predict"
        return tuple(name for name in super().verbs if name != unfit)

    @verb
    def encode(self, x: Any) -> dict[str, Any]:
        """Examples -> `latent`: the features of the backbone that the head reads."""
        return {"latent": ops.cast(self.backbone(x, training=False), "float32")}

    @verb
    def classify(self, x: Any) -> dict[str, Any]:
        """Examples -> `probabilities` `(batch, classes)`; the likeliest class, its name if any."""
        return class_outputs(self._logits(self.raw_outputs(x)), self.class_names)

    def _values(self, x: Any) -> dict[str, Any]:
        """Examples -> `prediction`, the values of a regression, `(batch, outputs)`."""
        return {"prediction": self.raw_outputs(x)}

    values = verb(_values, name="predict")
