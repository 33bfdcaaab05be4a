"""The base of every family: its step on a batch, saving, verbs.

A family owns functional sub-networks and adds wiring: `losses` (per-example terms of one batch),
or a whole `step` where one loss and one optimiser are not enough, and its verbs.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from kerasunsup.errors import InputError
from kerasunsup.models.compiling import Compiling
from kerasunsup.models.verbs import VOCABULARY, BoundVerb, drop_labels, labels_of, verb
from kerasunsup.replicas import Noise, count_once, global_mean


class UnsupervisedModel(Compiling):
    """Base class of all families.

    Args:
        input_shape: Shape of one example.
        value_range: Range of valid inputs, for example (0, 1) for pixels, or None. uint8 inputs
            of a (0, 1) model are divided by 255 in the graph.
        normalization: An adapted `keras.layers.Normalization` for tables; networks and losses
            see normalised values, reconstructions come back in the data's units.
        seed: Seed of noise and of the order of examples; drawn at random when None.

    Subclasses name their metrics in `loss_terms` and give `losses`.
    """

    main_verb: ClassVar[str] = "encode"
    loss_terms: ClassVar[tuple[str, ...]] = ("loss",)

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...],
        value_range: tuple[float, float] | None = None,
        normalization: keras.layers.Normalization | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"autocast": False, **kwargs})  # inputs stay float32
        self.value_range = None if value_range is None else (value_range[0], value_range[1])
        self.normalization = normalization
        self.noise = Noise(seed)
        self.seed = self.noise.seed
        self.compiled_verbs: dict[str, Any] = {}
        self._input_shape = (None, *input_shape)
        self.term_trackers = [keras.metrics.Mean(name=name) for name in self.loss_terms]
        self._train_functions: dict[Any, Any] = {}
        if normalization is not None and not normalization.built:
            normalization.build(self._input_shape)

    def build(self, input_shape: Any = None) -> None:
        """Nothing is left to build: families create their networks with real shapes."""
        self.built = True

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Shape of a batch: `(None, *example shape)`."""
        return self._input_shape

    @property
    def features(self) -> keras.Model:
        """The functional network from an example in its value range to what is finetuned."""
        backbone = getattr(self, "backbone", None)
        if backbone is None:
            raise InputError(f"{type(self).__name__} has no backbone whose features can be used.")
        return backbone

    # Scaling

    def preprocess(self, x: Any) -> Any:
        """Raw inputs -> what the networks see: scaled uint8 pixels, normalised tables."""
        scale = 255.0 if x.dtype in (tf.uint8, "uint8") and self.value_range == (0.0, 1.0) else None
        x = ops.cast(x, "float32")
        if scale:
            x = x / scale
        return x if self.normalization is None else self.normalization(x)

    def postprocess(self, x: Any) -> Any:
        """What the networks give -> the data's units, float32."""
        x = ops.cast(x, "float32")
        if self.normalization is None:
            return x
        return x * ops.sqrt(self.normalization.variance) + self.normalization.mean

    def check_decoder(self, decoder: keras.Model, latent_shape: tuple[int, ...]) -> None:
        """Raises unless `decoder` maps a latent to the shape of an example."""
        wanted = ((None, *latent_shape), self.input_shape)
        if (decoder.input_shape, decoder.output_shape) != wanted:
            raise InputError(
                f"`decoder` must map {wanted[0]} to {wanted[1]}. "
                f"Received: {decoder.input_shape} to {decoder.output_shape}"
            )

    def adapt(self, x: Any) -> None:
        """Fits the normalisation, if the model has one, to an array or batched dataset."""
        if self.normalization is None:
            return
        scale = 255.0 if self.value_range == (0.0, 1.0) else 1.0
        if isinstance(x, tf.data.Dataset):
            uint8 = x.element_spec.dtype == tf.uint8
            x = x.map(lambda batch: tf.cast(batch, tf.float32) / (scale if uint8 else 1.0))
        else:
            x = x.astype("float32") / (scale if x.dtype == np.uint8 else 1.0)
        self.normalization.adapt(x)

    # Losses and steps

    def losses(self, x: Any, training: bool) -> dict[str, Any]:
        """Terms of the objective for one preprocessed batch.

        Returns:
            `loss` and every other name of `loss_terms`, each `(batch,)`. A scalar `batch_loss`
            is added for objectives that are not a mean over examples.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `losses` or `step`.")

    def step(self, x: Any, labels: Any = None) -> None:
        """One training step on a preprocessed batch: by default one loss, one optimiser.

        A model that trains on labels gets them here and, as `labels`, in `losses`.
        """
        given = {} if labels is None else {"labels": labels}
        with tf.GradientTape() as tape:
            terms = self.losses(x, training=True, **given)
            loss = global_mean(terms["loss"]) + terms.get("batch_loss", 0.0)
            scaled = self.optimizer.scale_loss(loss)
        self.minimize(tape, scaled, self.optimizer_variables["optimizer"])
        self.track(terms)

    def track(self, terms: Mapping[str, Any]) -> None:
        """Updates the metrics named in `loss_terms` with per-example values."""
        for tracker in self.term_trackers:
            value = terms[tracker.name]
            if tracker.name == "loss":
                value = value + terms.get("batch_loss", 0.0)
            tracker.update_state(count_once(value))

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """Metrics of fit and evaluate; families append theirs."""
        return list(self.term_trackers)

    def unpack(self, data: Any) -> tuple[Any, ...]:
        """Preprocessed examples of a batch, and its labels for a model that trains on them."""
        x = self.preprocess(drop_labels(data))
        return (x, labels_of(data)) if self.uses_labels else (x,)

    def train_step(self, data: Any) -> dict[str, Any]:
        with tf.control_dependencies([drop_labels(data)]):  # no ghost step when the data end
            self.step(*self.unpack(data))
            return {metric.name: metric.result() for metric in self.metrics}

    def test_step(self, data: Any) -> dict[str, Any]:
        x, *labels = self.unpack(data)
        self.track(self.losses(x, training=False, **dict(zip(["labels"], labels, strict=False))))
        return {metric.name: metric.result() for metric in self.metrics}

    def predict_step(self, data: Any) -> Any:
        if isinstance(data, dict):  # of `distributed.share_out_padded`
            return {"outputs": self(data["x"], training=False), "real": data["real"]}
        return self(drop_labels(data), training=False)

    # Saving

    def get_config(self) -> dict[str, Any]:
        """Every argument of `__init__`, kept under its own name, serialised."""
        names = [
            name
            for name, parameter in inspect.signature(type(self).__init__).parameters.items()
            if name != "self" and parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        serialize = keras.saving.serialize_keras_object
        policy = self.dtype_policy.name
        return {
            "name": self.name,
            **({} if policy == "float32" else {"dtype": policy}),
            **{name: serialize(getattr(self, name)) for name in names},
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:

        def restore(value: Any) -> Any:
            if isinstance(value, list):
                return [restore(one) for one in value]
            if isinstance(value, dict) and "class_name" in value:
                return keras.saving.deserialize_keras_object(value, custom_objects)
            return value

        config = copy.deepcopy(config)  # deserialisation of functional models empties it
        with dtype_policy(config.pop("dtype", "float32")):
            return cls(**{name: restore(value) for name, value in config.items()})

    @property
    def random_states(self) -> list[Any]:
        """States of seed generators: variables that are no weights."""
        weights = {id(variable) for variable in self.weights}
        return [variable for variable in self.variables if id(variable) not in weights]

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        for i, variable in enumerate(self.random_states):
            store[f"random_{i}"] = variable.numpy()

    def load_own_variables(self, store: Any) -> None:
        names = list(store.keys())
        super().load_own_variables(
            {name: store[name] for name in names if not name.startswith("random_")}
        )
        for i, variable in enumerate(self.random_states):
            if f"random_{i}" in names:
                variable.assign(store[f"random_{i}"])

    # Verbs

    @property
    def verbs(self) -> tuple[str, ...]:
        """Names of the verbs of this model, in the order of the vocabulary, then its own."""
        own = _verbs(type(self))
        known = [name for name in VOCABULARY if name in own]
        return (*known, *(name for name in own if name not in VOCABULARY))

    def verb(self, name: str) -> BoundVerb:
        """The verb called `name`."""
        if name not in self.verbs:
            raise InputError(
                f"{type(self).__name__} has the verbs {', '.join(self.verbs)}. Received: {name!r}"
            )
        return _verbs(type(self))[name].bind(self)

    def input_spec_of(self, argument: str) -> tf.TensorSpec:
        """What a verb's argument looks like: dtype, shape and name of the signature's input."""
        if argument == "x":
            return tf.TensorSpec(self.input_shape, tf.float32, name="x")
        if argument == "seed":
            return tf.TensorSpec((None, 2), tf.int32, name="seed")
        if argument == "label":
            return tf.TensorSpec((None,), tf.int32, name="label")
        if argument == "latent":
            return tf.TensorSpec((None, self.latent_dim), tf.float32, name="latent")
        raise InputError(f"A verb takes `x`, `latent`, `seed` or `label`. Received: {argument!r}")

    def limits_of(self, argument: str) -> tuple[float, float] | None:
        """Smallest and largest value of a verb's argument, None where it has none."""
        if argument == "label" and self.labels is not None:
            return 0, self.labels - 1
        return self.value_range if argument == "x" else None

    def check_ready(self, name: str) -> None:
        """Raises if verb `name` needs something that is not there yet."""

    def finish(self, train: Any, validation: Any) -> None:
        """What follows training: thresholds, fitted densities. Called by `kerasunsup.train`."""

    def without_training_state(self) -> UnsupervisedModel:
        """An uncompiled copy: networks, weights, calibration and random state. It is exported.

        It computes in float32, whatever precision was trained in.
        """
        copy = type(self).from_config(_in_float32(self.get_config()))
        for target, source in zip(copy.variables, self.variables, strict=True):
            target.assign(source)
        if copy.normalization is not None:
            copy.normalization.finalize_state()
        return copy

    def calibrate(self, x: Any, quantile: float = 0.95) -> None:
        """Stores the distribution of the scores of normal data `x` and the threshold.

        For models with the verb `score`, which keep both in an `AnomalyThreshold`, `anomaly`.

        Args:
            x: Normal examples that were not trained on.
            quantile: Fraction of them that stays below the threshold.
        """
        self.anomaly.adapt(self.score(x)["score"], quantile)


@contextlib.contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """Layers created inside have this policy of Keras, "mixed_bfloat16" for example."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _in_float32(config: Any) -> Any:
    """A config of a model without mixed precision in any of its layers."""
    if isinstance(config, dict):
        return {name: _in_float32(value) for name, value in config.items()}
    if isinstance(config, list):
        return [_in_float32(value) for value in config]
    return "float32" if config in ("mixed_bfloat16", "mixed_float16") else config


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Raises unless the argument `name` has one of the values allowed."""
    if value not in choices:
        raise InputError(f"`{name}` must be one of {choices}. Received: {value!r}")


def output_activation(network: keras.Model) -> str | None:
    """Name of the activation that a network ends in, "linear" for none, None if unknown."""
    for layer in reversed(network.layers):
        activation = getattr(layer, "activation", None)
        if activation is not None:
            return getattr(activation, "__name__", None)
        if layer.weights:
            return None
    return None


def check_linear_output(decoder: keras.Model, reason: str) -> None:
    """Raises if the decoder ends in a sigmoid where its outputs are read as logits."""
    if output_activation(decoder) == "sigmoid":
        raise InputError(
            f"With {reason} the decoder's outputs are logits: give its last layer "
            "activation=None. Received: sigmoid"
        )


def refuse_normalization(normalization: Any, reason: str) -> None:
    """Raises if values would leave [0, 1] where they are read as probabilities."""
    if normalization is not None:
        raise InputError(
            f"With {reason} examples must stay in [0, 1]: leave `normalization` out (in a recipe, "
            "train.standardize), or use a Gaussian likelihood or mse. Received: a normalization"
        )


def _verbs(owner: type) -> dict[str, verb]:
    """The verbs that a class defines, by name."""
    found = (inspect.getattr_static(owner, name) for name in dir(owner))
    return {one.name: one for one in found if isinstance(one, verb)}
