"""The base of every family: steps, optimisers, replicas, many steps per call, saving, verbs.

A family owns functional sub-networks and adds wiring: `losses` (per-example terms of one batch),
or a whole `step` where one loss and one optimiser are not enough, and its verbs.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from kerasunsup.checks import check_array, check_labels
from kerasunsup.errors import InputError
from kerasunsup.models import resident
from kerasunsup.models.verbs import VOCABULARY, BoundVerb, drop_labels, labels_of, verb
from kerasunsup.replicas import Noise, global_mean, replica_count


class UnsupervisedModel(keras.Model):
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
    labels: int | None = None  # number of classes, for a model that trains on labels
    least_batch: int = 1  # rows that a step needs

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...],
        value_range: tuple[float, float] | None = None,
        normalization: keras.layers.Normalization | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.value_range = None if value_range is None else (value_range[0], value_range[1])
        self.normalization = normalization
        self.noise = Noise(seed)
        self.seed = self.noise.seed
        self.clip_norm: float | None = None
        self.compiled_verbs: dict[str, Any] = {}
        self._input_shape = (None, *input_shape)
        self.term_trackers = [keras.metrics.Mean(name=name) for name in self.loss_terms]
        self._train_functions: dict[Any, Any] = {}
        self._resident_data: Any = None
        self._plan: resident.Plan | None = None
        if normalization is not None and not normalization.built:
            normalization.build(self._input_shape)

    def build(self, input_shape: Any = None) -> None:
        """Nothing is left to build: families create their networks with real shapes."""
        self.built = True

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Shape of a batch: `(None, *example shape)`."""
        return self._input_shape

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

    def check_decoder(self, decoder: keras.Model) -> None:
        """Raises unless `decoder` maps a latent to the shape of an example."""
        wanted = ((None, self.latent_dim), self.input_shape)
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
        self.minimize(tape, scaled, self.trainable_variables)
        self.track(terms)

    def minimize(
        self, tape: tf.GradientTape, loss: Any, variables: list[Any], optimizer: str = "optimizer"
    ) -> None:
        """Applies one optimiser's step; clipping and loss scaling see the global gradient."""
        chosen = getattr(self, optimizer)
        gradients = tape.gradient(loss, variables, unconnected_gradients="zero")
        replicas = replica_count()
        scaling = isinstance(chosen, keras.optimizers.LossScaleOptimizer)
        reduce_first = replicas > 1 and (scaling or self.clip_norm)
        if reduce_first:
            context = tf.distribute.get_replica_context()
            gradients = context.all_reduce("SUM", gradients)
        if self.clip_norm:
            scale = tf.cast(chosen.dynamic_scale, tf.float32) if scaling else 1.0
            gradients, _ = tf.clip_by_global_norm(gradients, self.clip_norm * scale)
        if reduce_first:  # apply_gradients sums over the replicas again
            gradients = [gradient / replicas for gradient in gradients]
        chosen.apply_gradients(zip(gradients, variables, strict=True))

    def track(self, terms: Mapping[str, Any]) -> None:
        """Updates the metrics named in `loss_terms` with per-example values."""
        for tracker in self.term_trackers:
            value = terms[tracker.name]
            if tracker.name == "loss":
                value = value + terms.get("batch_loss", 0.0)
            tracker.update_state(value)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """Metrics of fit and evaluate; families append theirs."""
        return list(self.term_trackers)

    def unpack(self, data: Any) -> tuple[Any, ...]:
        """Preprocessed examples of a batch, and its labels for a model that trains on them."""
        x = self.preprocess(drop_labels(data))
        return (x,) if self.labels is None else (x, labels_of(data))

    def train_step(self, data: Any) -> dict[str, Any]:
        with tf.control_dependencies([drop_labels(data)]):  # no ghost step when the data end
            self.step(*self.unpack(data))
            return {metric.name: metric.result() for metric in self.metrics}

    def test_step(self, data: Any) -> dict[str, Any]:
        x, *labels = self.unpack(data)
        self.track(self.losses(x, training=False, **dict(zip(["labels"], labels, strict=False))))
        return {metric.name: metric.result() for metric in self.metrics}

    def predict_step(self, data: Any) -> Any:
        return self(drop_labels(data), training=False)

    # Compile

    @property
    def optimizer_variables(self) -> dict[str, list[Any]]:
        """Name of each optimiser -> the variables it trains."""
        return {"optimizer": self.trainable_variables}

    def optimizer_steps(self, name: str) -> int:
        """Steps of an optimiser in one training step: the unit of its schedule."""
        return 1

    def compile(
        self,
        optimizer: Any = "adam",
        *,
        clip_norm: float | None = None,
        steps_per_execution: int | None = None,
        jit_compile: bool = False,
        run_eagerly: bool = False,
    ) -> None:
        """Attaches the optimiser. Losses and metrics are the model's own.

        Args:
            optimizer: Name or Keras optimiser.
            clip_norm: Largest norm of the global gradient over the global batch.
            steps_per_execution: Training steps in one call of the compiled function; chosen
                from the number of steps in an epoch when None.
            jit_compile: Compile the steps with XLA. Faster for dense networks on CPU; XLA loops
                over convolutions are slow there.
            run_eagerly: Run step by step in Python, for debugging.
        """
        self.compile_optimizers(
            {"optimizer": optimizer}, clip_norm, steps_per_execution, jit_compile, run_eagerly
        )

    def compile_optimizers(
        self,
        optimizers: Mapping[str, Any],
        clip_norm: float | None,
        steps_per_execution: int | None,
        jit_compile: bool,
        run_eagerly: bool,
    ) -> None:
        """What `compile` of every family ends in: one optimiser for each optimizer_variables."""
        super().compile(
            optimizer=None,
            loss=getattr(self, "loss", None),
            run_eagerly=run_eagerly,
            jit_compile=False,
        )
        self.clip_norm = clip_norm
        self.jit_steps = jit_compile
        self.requested_steps_per_execution = steps_per_execution
        self._train_functions = {}
        with self.distribute_strategy.scope():
            for name, variables in self.optimizer_variables.items():
                chosen = _optimizer(optimizers[name], name)
                self._check_clipping(chosen)
                if self.dtype_policy.name == "mixed_float16" and not isinstance(
                    chosen, keras.optimizers.LossScaleOptimizer
                ):
                    chosen = keras.optimizers.LossScaleOptimizer(chosen)
                chosen.build(variables)
                setattr(self, name, chosen)

    @staticmethod
    def _check_clipping(optimizer: Any) -> None:
        for name in ("clipnorm", "global_clipnorm", "clipvalue", "gradient_accumulation_steps"):
            if getattr(optimizer, name, None):
                raise InputError(
                    f"Optimiser argument `{name}` acts before gradients are summed over replicas: "
                    f"use compile(clip_norm=…). Received: {name}={getattr(optimizer, name)}"
                )

    def get_compile_config(self) -> dict[str, Any]:
        if not self.compiled:
            return {}
        return {
            "optimizers": {
                name: keras.saving.serialize_keras_object(getattr(self, name))
                for name in self.optimizer_variables
            },
            "clip_norm": self.clip_norm,
            "steps_per_execution": self.requested_steps_per_execution,
            "jit_compile": self.jit_steps,
        }

    def compile_from_config(self, config: dict[str, Any]) -> None:
        config = dict(config)
        optimizers = {
            name: keras.saving.deserialize_keras_object(value)
            for name, value in config.pop("optimizers").items()
        }
        self.compile(**optimizers, **config)

    # Fit: arrays stay in memory as they are, batches are gathered in the graph

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        *,
        batch_size: int | None = None,
        epochs: int = 1,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Trains on arrays or a tf.data.Dataset of batches; most families ignore labels.

        The order of examples is a function of the seed and of the number of steps done, so a
        saved and reloaded model goes on as if it had never stopped. Arguments as in Keras.
        """
        given = x if y is None else (x, y)
        x = drop_labels(x)
        if isinstance(validation_data, tf.data.Dataset):
            validation_data = self._checked_stream(validation_data)
        elif validation_data is not None:
            validation_data = self._arrays(validation_data, "validation_data")
        if isinstance(x, tf.data.Dataset):
            x = self._checked_stream(x)
        else:
            arrays = self._arrays(given, "x")
            x = drop_labels(arrays)
            if validation_split and validation_data is None:
                kept = round(len(x) * (1 - validation_split))
                validation_data = tf.nest.map_structure(lambda array: array[kept:], arrays)
                arrays = tf.nest.map_structure(lambda array: array[:kept], arrays)
                x = x[:kept]
            plan = self._plan = resident.Plan(
                examples=len(x),
                batch_size=32 if batch_size is None else batch_size,
                steps_per_epoch=steps_per_epoch,
                steps_per_execution=self.requested_steps_per_execution,
                replicas=self.distribute_strategy.num_replicas_in_sync,
                least_batch=self.least_batch,
            )
            steps_per_epoch, batch_size = plan.steps_per_epoch, None
            self.steps_per_execution = plan.steps_per_execution
            self._resident_data = tf.nest.map_structure(tf.convert_to_tensor, arrays)
            first_epoch = self.steps_done // plan.steps_per_epoch
            x = plan.indices(self.seed if shuffle else None, first_epoch, epochs - initial_epoch)
            kwargs.setdefault("validation_batch_size", plan.batch_size)
        self.train_function: Callable[[Any], Any] | None = None
        try:
            return super().fit(
                x,
                batch_size=batch_size,
                epochs=epochs,
                validation_data=validation_data,
                initial_epoch=initial_epoch,
                steps_per_epoch=steps_per_epoch,
                shuffle=False,
                **kwargs,
            )
        finally:
            self._resident_data = None

    def prepare(self, x: Any, name: str) -> np.ndarray:
        """Checks an array for training; families that transform data once do it here."""
        array = check_array(x, shape=self.input_shape[1:], value_range=self.value_range, name=name)
        return array if array.dtype == np.uint8 else array.astype("float32", copy=False)

    def _arrays(self, data: Any, name: str) -> Any:
        """Checked examples, with labels `(x, y)` for a model that trains on them."""
        x = self.prepare(drop_labels(data), name)
        if self.labels is None:
            return x
        y = check_labels(labels_of(data), self.labels)
        if y.shape != (len(x),):
            raise InputError(
                f"`y` must hold one label for each of the {len(x)} examples. "
                f"Received: shape {y.shape}"
            )
        return x, y

    def check_stream(self, x: tf.data.Dataset) -> None:
        """Raises unless `x` gives batches of examples, with or without labels."""
        shape = drop_labels(x.element_spec).shape
        if shape.rank != len(self.input_shape):
            raise InputError(
                f"A tf.data.Dataset must give batches of shape {('batch', *self.input_shape[1:])}: "
                f"call .batch(128). Received: elements of shape {tuple(shape)}"
            )

    def _checked_stream(self, x: tf.data.Dataset) -> tf.data.Dataset:
        """Batches whose shapes have been checked, and whose labels are checked as they come."""
        self.check_stream(x)
        classes = self.labels
        if classes is None:
            return x
        spec = labels_of(x.element_spec)
        whole = isinstance(spec, tf.TensorSpec) and spec.dtype.is_integer
        if (
            not whole
            or spec.shape.rank not in (1, 2)
            or (spec.shape.rank == 2 and spec.shape[1] != 1)
        ):
            raise InputError(
                "Labels must be one class number for each example, integers of shape (batch,). "
                f"Received: {spec}"
            )

        def check(*batch: Any) -> tuple[Any, Any]:
            labels = tf.reshape(batch[1], (-1,))
            message = f"Labels must lie in [0, {classes})"
            low = tf.debugging.assert_non_negative(labels, message)
            high = tf.debugging.assert_less(labels, tf.cast(classes, labels.dtype), message)
            with tf.control_dependencies([low, high]):
                return batch[0], tf.identity(labels)

        return x.map(check)

    def predict(self, x: Any, **kwargs: Any) -> Any:
        """Keras' `predict`: what `call` returns; arrays are checked as in `fit`."""
        x = drop_labels(x)
        if not isinstance(x, tf.data.Dataset):
            shape = self.input_shape[1:]
            x = check_array(x, shape=shape, value_range=self.value_range, name="x")
        return super().predict(x, **kwargs)

    @property
    def steps_done(self) -> int:
        """Training steps done so far."""
        return int(getattr(self, next(iter(self.optimizer_variables))).iterations.numpy())

    def evaluate(self, x: Any = None, y: Any = None, **kwargs: Any) -> Any:
        """Keras' `evaluate` on data as in `fit`; the noise stream is fixed."""
        if kwargs.get("_use_cached_eval_dataset"):
            return super().evaluate(x, **kwargs)
        if isinstance(drop_labels(x), tf.data.Dataset):
            return super().evaluate(self._checked_stream(drop_labels(x)), **kwargs)
        arrays = self._arrays(x if y is None else (x, y), "x")
        x, y = arrays if isinstance(arrays, tuple) else (arrays, None)
        return super().evaluate(x, y, **kwargs)

    def make_train_function(self, force: bool = False) -> Any:
        if self._resident_data is None or self._plan is None:
            return super().make_train_function(force)
        key = (self._plan.batch_size, self._plan.steps_per_execution)
        if key not in self._train_functions:
            self._train_functions[key] = resident.train_function(self, self._plan)
        compiled, data = self._train_functions[key], self._resident_data
        self.train_function = lambda iterator: compiled(iterator, data)
        return self.train_function

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Skips Keras' look at the first batch: it would shift shuffles, and all is built."""

    # Saving

    def get_config(self) -> dict[str, Any]:
        """Every argument of `__init__`, kept under its own name, serialised."""
        names = [
            name
            for name, parameter in inspect.signature(type(self).__init__).parameters.items()
            if name != "self" and parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        serialize = keras.saving.serialize_keras_object
        return {"name": self.name, **{name: serialize(getattr(self, name)) for name in names}}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        restore = keras.saving.deserialize_keras_object
        config = copy.deepcopy(config)  # deserialisation of functional models empties it
        return cls(
            **{
                name: restore(value, custom_objects)
                if isinstance(value, dict) and "class_name" in value
                else value
                for name, value in config.items()
            }
        )

    def _random_states(self) -> list[Any]:
        weights = {id(variable) for variable in self.weights}
        return [variable for variable in self.variables if id(variable) not in weights]

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        for i, variable in enumerate(self._random_states()):
            store[f"random_{i}"] = variable.numpy()

    def load_own_variables(self, store: Any) -> None:
        names = list(store.keys())
        super().load_own_variables(
            {name: store[name] for name in names if not name.startswith("random_")}
        )
        for i, variable in enumerate(self._random_states()):
            if f"random_{i}" in names:
                variable.assign(store[f"random_{i}"])

    # Verbs

    @property
    def verbs(self) -> tuple[str, ...]:
        """Names of the verbs of this model, in the order of the vocabulary, then its own."""
        own = [name for name in dir(type(self)) if isinstance(_raw(type(self), name), verb)]
        known = [name for name in VOCABULARY if name in own]
        return (*known, *(name for name in own if name not in VOCABULARY))

    def verb(self, name: str) -> BoundVerb:
        """The verb called `name`."""
        if name not in self.verbs:
            raise InputError(
                f"{type(self).__name__} has the verbs {', '.join(self.verbs)}. Received: {name!r}"
            )
        return getattr(self, name)

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

    def check_ready(self, name: str) -> None:
        """Raises if verb `name` needs something that is not there yet."""

    def finish(self, train: Any, validation: Any) -> None:
        """What follows training: thresholds, fitted densities. Called by `kerasunsup.train`."""

    def without_training_state(self) -> UnsupervisedModel:
        """An uncompiled copy: networks, weights, calibration and random state. It is exported."""
        copy = type(self).from_config(self.get_config())
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


def _optimizer(given: Any, name: str) -> keras.optimizers.Optimizer:
    try:
        return keras.optimizers.get(given)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"`{name}` must be the name of a Keras optimiser or an optimiser. Received: {given!r}"
        ) from error


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


def _raw(owner: type, name: str) -> Any:
    return inspect.getattr_static(owner, name)
