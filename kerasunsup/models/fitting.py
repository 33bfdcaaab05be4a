"""How every family is fitted: checked arrays stay in memory, streams pass through, stages in turn.

A family that trains in stages (layer by layer, an autoencoder before the prior of its codes) says
how many epochs each has, and what is trained in it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasunsup.checks import check_array, check_labels
from kerasunsup.errors import InputError
from kerasunsup.models import distributed, resident
from kerasunsup.models.verbs import drop_labels, labels_of

BATCH_SIZE = 32  # where none is given, as in Keras


class Fitting(keras.Model):
    """`fit`, `evaluate` and `predict` of all families; the base class adds steps and saving."""

    labels: int | None = None  # number of classes, for a model that trains on labels
    least_batch: int = 1  # rows that a step needs
    stage: int = 0  # of training, counted from 0
    steps_done: int = 0  # training steps so far, of all stages
    health: tuple[str, ...] = ()  # what was wrong at the end of the last epoch, in sentences
    _steps_to_skip: int = 0
    _steps_in_call: int = 1
    _test_steps_left: int | None = None
    steps_per_execution: int
    _resident_data: Any = None
    train_function: Callable[[Any], Any] | None
    test_function: Callable[[Any], Any] | None
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
        initial_step: int = 0,
        steps_per_epoch: int | None = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Trains on arrays or a tf.data.Dataset of batches; most families ignore labels.

        The order of examples is a function of the seed and of the number of steps done, so a
        saved and reloaded model goes on as if it had never stopped. Under a strategy each worker
        gives the same data, streams in the same order; each example is used once in an epoch.
        Arguments as in Keras, but for `initial_step`: the steps of the first epoch that were done
        before the model was saved; a stream begins with the first of the others.

        Raises:
            InputError: Bad data, or what cannot be trained by the strategy of the model.
        """
        self._assert_compile_called("fit")
        distributed.check(self)
        given = x if y is None else (x, y)
        if isinstance(validation_data, tf.data.Dataset):
            validation_data = self._checked_stream(validation_data)
        elif validation_data is not None:
            validation_data = self._arrays(validation_data, "validation_data")
        if isinstance(drop_labels(x), tf.data.Dataset):
            stream = self._checked_stream(drop_labels(x))
            if initial_step and stream.cardinality() > 0:
                raise InputError(
                    "With `initial_step` a stream must hold all epochs to come, of unknown length. "
                    f"Received: {int(stream.cardinality())} batches"
                )
            steps = self._plan_stream(stream, steps_per_epoch, initial_step)
            if steps_per_epoch is None and steps:
                stream = stream.repeat()
            elif stream.cardinality() > 0:  # Keras would count the steps of calls, not those done
                stream = stream.filter(lambda *_: True)
            batches = distributed.share_out(stream, self) if self._replicated else stream
        else:
            arrays = self._arrays(given, "x")
            if validation_split and validation_data is None:
                kept = round(len(drop_labels(arrays)) * (1 - validation_split))
                validation_data = tf.nest.map_structure(lambda array: array[kept:], arrays)
                arrays = tf.nest.map_structure(lambda array: array[:kept], arrays)
            batch_size = BATCH_SIZE if batch_size is None else batch_size
            plan = self._plan_arrays(arrays, batch_size, steps_per_epoch)
            batches = plan.indices(
                self.seed if shuffle else None,
                self.steps_done,
                epochs - initial_epoch,
                initial_step,
            )
            if self._replicated:
                batches = distributed.same_for_each_replica(batches, self)
            steps = plan.steps_per_epoch
        if validation_data is not None:
            size = kwargs.pop("validation_batch_size", None) or batch_size
            if self._replicated:
                validation_data, kwargs["validation_steps"] = self._shared_out(
                    validation_data, size, kwargs.get("validation_steps")
                )
            elif not isinstance(validation_data, tf.data.Dataset):
                kwargs["validation_batch_size"] = size
        distributed.separate_streams(self)
        self._steps_to_skip = initial_step
        self.train_function = None
        self.enter_stage(self.stage_at(initial_epoch, epochs))  # before anything is traced
        callbacks = [_Stages(), _Watch(), *(kwargs.pop("callbacks", None) or [])]
        try:
            return super().fit(
                batches,
                epochs=epochs,
                validation_data=validation_data,
                initial_epoch=initial_epoch,
                steps_per_epoch=steps,
                shuffle=False,
                callbacks=callbacks,
                **kwargs,
            )
        finally:
            self._resident_data = self.train_function = self._plan = None
            self._steps_to_skip = 0

    def _plan_stream(
        self, x: tf.data.Dataset, steps_per_epoch: int | None, initial_step: int
    ) -> int | None:
        """Chooses the steps of a call; returns those of an epoch, None if they are not known."""
        steps = steps_per_epoch or (int(x.cardinality()) if x.cardinality() > 0 else None)
        requested = self.requested_steps_per_execution
        of_a_call = resident.steps_of_a_call(steps, requested) if steps else 1
        self._set_steps_of_a_call(math.gcd(of_a_call, initial_step))  # calls end there
        return steps

    def _set_steps_of_a_call(self, steps: int) -> None:
        if steps != self.steps_per_execution:  # which compiled functions know
            self.steps_per_execution = steps
            self.test_function = self.predict_function = None

    def _plan_arrays(self, arrays: Any, batch_size: int, steps: int | None) -> resident.Plan:
        """Chooses steps and brings the data into memory, that of the host for several replicas."""
        self._plan = resident.Plan(
            examples=len(drop_labels(arrays)),
            batch_size=batch_size,
            steps_per_epoch=steps,
            steps_per_execution=self.requested_steps_per_execution,
            least_batch=self.least_batch,
        )
        self._set_steps_of_a_call(self._plan.steps_per_execution)
        with tf.device("CPU:0") if self._replicated else contextlib.nullcontext():
            self._resident_data = tf.nest.map_structure(tf.convert_to_tensor, arrays)
        return self._plan

    @property
    def _replicated(self) -> bool:
        return self.distribute_strategy.num_replicas_in_sync > 1

    def _shared_out(
        self, data: Any, batch_size: int | None, steps: int | None
    ) -> tuple[tf.distribute.DistributedDataset, int | None]:
        """Arrays or a stream of batches, divided among the replicas, and the number of batches."""
        if not isinstance(data, tf.data.Dataset):
            data = tf.data.Dataset.from_tensor_slices(data).batch(batch_size or BATCH_SIZE)
        if steps is None and data.cardinality() > 0:
            steps = int(data.cardinality())
        return distributed.share_out(data, self), steps

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
        if not self._replicated:
            return super().predict(x, **kwargs)
        size = kwargs.pop("batch_size", None) or BATCH_SIZE
        if not isinstance(x, tf.data.Dataset):
            x = tf.data.Dataset.from_tensor_slices(x).batch(size)
        if x.cardinality() > 0:
            kwargs.setdefault("steps", int(x.cardinality()))
        padded = super().predict(distributed.share_out_padded(x, self), **kwargs)
        real = padded["real"] == 1
        return tf.nest.map_structure(lambda rows: rows[real], padded["outputs"])

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
        changed, self.stage = stage != self.stage, stage
        self.freeze_for(stage)
        if changed or self.optimizers_outdated:
            self.renew_optimizers()
            self._train_functions.clear()
            self.train_function = self.test_function = None

    def evaluate(self, x: Any = None, y: Any = None, **kwargs: Any) -> Any:
        """Keras' `evaluate` on data as in `fit`; the noise stream is fixed."""
        self._test_steps_left = kwargs.get("steps")
        if kwargs.get("_use_cached_eval_dataset"):
            return super().evaluate(x, **kwargs)
        if isinstance(drop_labels(x), tf.data.Dataset):
            data: Any = self._checked_stream(drop_labels(x))
        else:
            data = self._arrays(x if y is None else (x, y), "x")
        if self._replicated:
            size, steps = kwargs.pop("batch_size", None), kwargs.pop("steps", None)
            data, steps = self._shared_out(data, size, steps)
            return super().evaluate(data, steps=steps, **kwargs)
        x, y = data if isinstance(data, tuple) else (data, None)
        return super().evaluate(x, y, **kwargs)

    # Compiled functions

    def make_train_function(self, force: bool = False) -> Any:
        if self.train_function is None or force:
            function = self._make_train_function()
            self.train_function = self._skipping(function) if self._steps_to_skip else function
        return self.train_function

    def _make_train_function(self) -> Callable[[Any], Any]:
        """Iterator -> logs of the steps of one call."""
        data, plan = self._resident_data, self._plan
        key = plan and plan.key
        if key not in self._train_functions:
            self._train_functions[key] = (
                distributed.stream_function(self, self.train_step)
                if plan is None
                else resident.train_function(self, plan, data)
            )
        compiled = self._train_functions[key]
        if plan is None:
            return lambda iterator: compiled(iterator, tf.constant(self._steps_in_call))
        return lambda iterator: compiled(iterator, data)

    def _skipping(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Lets the steps pass that were done before the first epoch was interrupted."""

        def skip_or_train(iterator: Any) -> Any:
            if self._steps_to_skip > 0:
                self._steps_to_skip -= self.steps_per_execution
                return self.get_metrics_result()
            return function(iterator)

        return skip_or_train

    def make_test_function(self, force: bool = False) -> Any:
        if self.test_function is None or force:
            function = distributed.stream_function(self, self.test_step)

            def bounded(iterator: Any) -> Any:
                steps = self.steps_per_execution
                if self._test_steps_left is not None:
                    steps = min(steps, self._test_steps_left)
                    self._test_steps_left -= steps
                return function(iterator, tf.constant(steps))

            self.test_function = bounded
        return self.test_function

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        self._refuse_on_replicas("train_on_batch")
        self._set_steps_of_a_call(1)
        if "batch" not in self._train_functions:
            super().make_train_function(force=True)
            self._train_functions["batch"] = self.train_function
        self.train_function = self._train_functions["batch"]
        try:
            logs = super().train_on_batch(*args, **kwargs)
        finally:
            self.train_function = None
        self.steps_done += 1
        return logs

    def test_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        self._refuse_on_replicas("test_on_batch")
        self._set_steps_of_a_call(1)
        streamed = self.test_function
        if "test batch" not in self._train_functions:
            super().make_test_function(force=True)
            self._train_functions["test batch"] = self.test_function
        self.test_function = self._train_functions["test batch"]
        try:
            return super().test_on_batch(*args, **kwargs)
        finally:
            self.test_function = streamed

    def predict_on_batch(self, x: Any) -> Any:
        self._refuse_on_replicas("predict_on_batch")
        return super().predict_on_batch(x)

    def _refuse_on_replicas(self, method: str) -> None:
        if self._replicated:
            raise InputError(
                f"Keras gives the whole batch to every replica in `{method}`: use fit, evaluate or "
                f"predict. Received: {self.distribute_strategy.num_replicas_in_sync} replicas"
            )

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Skips Keras' look at the first batch: it would shift shuffles, and all is built."""


class _Stages(keras.callbacks.Callback):
    """Enters each stage as its first epoch begins, and counts steps."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.model.enter_stage(self.model.stage_at(epoch, self.params["epochs"]))
        self.model.make_train_function()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        most, steps = self.model.steps_per_execution, self.params["steps"]
        self.model._steps_in_call = min(most, steps - batch) if steps else most
        self.skipped = self.model._steps_to_skip > 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not self.skipped:
            self.model.steps_done += self.model._steps_in_call


class _Watch(keras.callbacks.Callback):
    """Says in words what goes wrong, when it begins to."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        known, self.model.health = self.model.health, tuple(self.model.findings(logs or {}))
        for finding in self.model.health:
            if self.params["verbose"] and finding not in known:
                print(f"\nEpoch {epoch + 1}: {finding}")
