"""How every family is fitted: checked arrays stay in memory, streams pass through, stages in turn.

A family that trains in stages (layer by layer, an autoencoder before the prior of its codes) says
how many epochs each has, and what is trained in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasunsup.checks import check_array, check_labels
from kerasunsup.errors import InputError
from kerasunsup.models import resident
from kerasunsup.models.verbs import drop_labels, labels_of


class Fitting(keras.Model):
    """`fit`, `evaluate` and `predict` of all families; the base class adds steps and saving."""

    labels: int | None = None  # number of classes, for a model that trains on labels
    least_batch: int = 1  # rows that a step needs
    stage: int = 0  # of training, counted from 0
    health: tuple[str, ...] = ()  # what was wrong at the end of the last epoch, in sentences
    _stage_begun: bool = False
    _steps_before_stage: int = 0
    _resident_data: Any = None
    _plan: resident.Plan | None = None

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
        callbacks = [_Stages(), _Watch(), *(kwargs.pop("callbacks", None) or [])]
        try:
            return super().fit(
                x,
                batch_size=batch_size,
                epochs=epochs,
                validation_data=validation_data,
                initial_epoch=initial_epoch,
                steps_per_epoch=steps_per_epoch,
                shuffle=False,
                callbacks=callbacks,
                **kwargs,
            )
        finally:
            self._resident_data = self.train_function = None

    def prepare(self, x: Any, name: str) -> np.ndarray:
        """Checks an array for training; families that transform data once do it here."""
        array = check_array(x, shape=self.input_shape[1:], value_range=self.value_range, name=name)
        return array if array.dtype == np.uint8 else array.astype("float32", copy=False)

    @property
    def uses_labels(self) -> bool:
        """Whether the model trains on `(x, y)`."""
        return self.labels is not None

    def prepare_labels(self, y: Any) -> np.ndarray:
        """Checks the labels of an array for training; one row for each example."""
        assert self.labels is not None  # `uses_labels` says so
        return check_labels(y, self.labels)

    def _arrays(self, data: Any, name: str) -> Any:
        """Checked examples, with labels `(x, y)` for a model that trains on them."""
        x = self.prepare(drop_labels(data), name)
        if not self.uses_labels:
            return x
        y = self.prepare_labels(labels_of(data))
        if len(y) != len(x):
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
        if not self.uses_labels:
            return x
        check = self.label_check(labels_of(x.element_spec))

        @tf.autograph.experimental.do_not_convert
        def checked(*batch: Any) -> tuple[Any, Any]:
            return batch[0], check(batch[1])

        return x.map(checked)

    def label_check(self, spec: Any) -> Callable[[Any], Any]:
        """A graph function that checks the labels of a batch; raises if `spec` cannot be labels."""
        classes = self.labels
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

        def check(labels: Any) -> Any:
            labels = tf.reshape(labels, (-1,))
            message = f"Labels must lie in [0, {classes})"
            low = tf.debugging.assert_non_negative(labels, message)
            high = tf.debugging.assert_less(labels, tf.cast(classes, labels.dtype), message)
            with tf.control_dependencies([low, high]):
                return tf.identity(labels)

        return check

    def predict(self, x: Any, **kwargs: Any) -> Any:
        """Keras' `predict`: what `call` returns; arrays are checked as in `fit`."""
        x = drop_labels(x)
        if not isinstance(x, tf.data.Dataset):
            shape = self.input_shape[1:]
            x = check_array(x, shape=shape, value_range=self.value_range, name="x")
        return super().predict(x, **kwargs)

    @property
    def steps_done(self) -> int:
        """Training steps done so far, of all stages."""
        return self._steps_before_stage + self._steps_of_stage

    @property
    def _steps_of_stage(self) -> int:
        return int(getattr(self, next(iter(self.optimizer_variables))).iterations.numpy())

    def findings(self, metrics: Mapping[str, float]) -> list[str]:
        """What the metrics of an epoch say is wrong, in sentences; none for a healthy model."""
        return []

    # Stages

    def stage_epochs(self, epochs: int) -> tuple[int, ...]:
        """Epochs of each stage of a training of `epochs`: one stage, unless a family has more."""
        return (epochs,)

    def stage_at(self, epoch: int, epochs: int) -> int:
        """The stage that an epoch, counted from 0, belongs to."""
        ends = np.cumsum(self.stage_epochs(epochs))
        return min(int(np.searchsorted(ends, epoch, side="right")), len(ends) - 1)

    def freeze_for(self, stage: int) -> None:
        """Sets `trainable` of the networks as a stage wants them."""

    def enter_stage(self, stage: int) -> None:
        """Starts a stage: freezes and thaws, and gives what is trained now fresh optimisers.

        Learning-rate schedules start again. The same happens where `trainable` of a part was set
        by hand since the model was compiled.
        """
        steps_before = self.steps_done
        changed = stage != self.stage
        self.stage, self._stage_begun = stage, True
        self.freeze_for(stage)
        if changed or self.optimizers_outdated:
            self._steps_before_stage = steps_before
            self.renew_optimizers()
            self._train_functions.clear()
            self.train_function = self.test_function = None

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


class _Stages(keras.callbacks.Callback):
    """Enters each stage as its first epoch begins."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.model.enter_stage(self.model.stage_at(epoch, self.params["epochs"]))
        self.model.make_train_function()


class _Watch(keras.callbacks.Callback):
    """Says in words what goes wrong, when it begins to."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        known, self.model.health = self.model.health, tuple(self.model.findings(logs or {}))
        for finding in self.model.health:
            if self.params["verbose"] and finding not in known:
                print(f"\nEpoch {epoch + 1}: {finding}")
