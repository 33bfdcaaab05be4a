"""Training from arrays: data resident as they are, many steps in one compiled function.

Only indices travel through tf.data. One element is a block of `steps_per_execution` batches of
indices, the same for every replica; the compiled function gathers each batch in the graph.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from kerasunsup.errors import InputError
from kerasunsup.models import xla
from kerasunsup.models.distributed import results, run_step
from kerasunsup.replicas import share

if TYPE_CHECKING:
    from kerasunsup.models.base import UnsupervisedModel

CALLS_PER_EPOCH = 8
MOST_STEPS_PER_CALL = 64


class Plan:
    """How an epoch over `examples` rows is cut into steps and calls.

    Args:
        examples: Number of rows.
        batch_size: Rows in a step, over all replicas.
        steps_per_epoch: Steps after which an epoch ends; all rows when None.
        steps_per_execution: Steps in a call; chosen when None.
        least_batch: A last batch of fewer rows is left out.
    """

    def __init__(
        self,
        examples: int,
        batch_size: int,
        steps_per_epoch: int | None,
        steps_per_execution: int | None,
        least_batch: int = 1,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"`batch_size` must be at least 1. Received: {batch_size}")
        self.examples = examples
        self.batch_size = batch_size
        used = rows_used(examples, batch_size, least_batch)
        if not used:
            raise InputError(
                f"A step needs at least {least_batch} examples. Received: {examples} examples, "
                f"batch_size={batch_size}"
            )
        full_epoch = math.ceil(used / batch_size)
        self.steps_per_epoch = full_epoch if steps_per_epoch is None else steps_per_epoch
        if not 1 <= self.steps_per_epoch <= full_epoch:
            raise InputError(
                f"`steps_per_epoch` must be from 1 to {full_epoch}, the steps that {examples} "
                f"examples give. Received: {steps_per_epoch}"
            )
        self.rows = min(used, self.steps_per_epoch * batch_size)
        self.last_batch = self.rows % batch_size
        self.steps_per_execution = steps_of_a_call(self.steps_per_epoch, steps_per_execution)

    @property
    def key(self) -> tuple[int, ...]:
        """What the compiled function of a call depends on."""
        return self.batch_size, self.last_batch, self.steps_per_execution, self.steps_per_epoch

    def indices(
        self, seed: int | None, steps_done: int, epochs: int, initial_step: int = 0
    ) -> tf.data.Dataset:
        """Blocks of row numbers, epoch after epoch; the order depends on seed and epoch alone.

        Args:
            seed: Of the order; None for that of the data.
            steps_done: Steps so far, of all epochs.
            epochs: Epochs to come.
            initial_step: Steps of the first of them that are left out.
        """
        if initial_step % self.steps_per_execution:
            raise InputError(
                f"`initial_step` must be a multiple of the {self.steps_per_execution} steps of a "
                f"call. Received: {initial_step}"
            )
        first_epoch = max(0, steps_done - initial_step) // self.steps_per_epoch

        def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
            order = tf.range(self.examples, dtype=tf.int32)
            if seed is not None:
                stream = tf.stack([tf.constant(seed % 2**31, tf.int64), epoch])
                order = tf.random.experimental.stateless_shuffle(order, stream)
            block = self.batch_size * self.steps_per_execution
            done = tf.where(epoch == first_epoch, initial_step * self.batch_size, 0)
            return tf.data.Dataset.from_tensor_slices(order[done : self.rows]).batch(block)

        epochs_seen = tf.data.Dataset.range(first_epoch, first_epoch + max(epochs, 0))
        return epochs_seen.flat_map(one_epoch).prefetch(1)


def steps_of_a_call(steps_per_epoch: int, requested: int | None) -> int:
    """Steps in a call of the compiled function: several calls an epoch, for callbacks to see."""
    chosen = min(steps_per_epoch // CALLS_PER_EPOCH, MOST_STEPS_PER_CALL)
    return max(1, requested or chosen)


def rows_used(examples: int, batch_size: int, least_batch: int) -> int:
    """Rows of an epoch: all but those of a last batch that is smaller than a step needs."""
    rest = examples % batch_size
    return examples - rest if rest < least_batch else examples


def train_function(model: UnsupervisedModel, plan: Plan, data: Any) -> Any:
    """A function (iterator over blocks, data) -> logs that runs the steps of one block."""
    if model.run_eagerly:
        return _eager_steps(model, plan)
    return tf.function(_unconverted(_many_steps(model, plan, data)))


def _step(model: UnsupervisedModel) -> Any:
    """(Numbers of a batch's rows, data, their number if known) -> one step on the replicas."""
    replicas = model.distribute_strategy.num_replicas_in_sync

    def one_replica(rows: Any, data: Any) -> None:
        model.train_step(_rows(data, share(rows), replicas))

    def step(rows: Any, data: Any, count: int) -> None:
        alike = replicas > 1 and count < replicas * model.least_batch
        run_step(model, one_replica, (rows, data), alike)

    return step


def _many_steps(model: UnsupervisedModel, plan: Plan, data: Any) -> Any:
    batch, most = plan.batch_size, plan.steps_per_execution
    step = _step(model)

    def loop(rows: tf.Tensor, steps: tf.Tensor, data: Any) -> None:
        batches = tf.reshape(rows, (most, batch))

        def body(i: tf.Tensor) -> tuple[tf.Tensor]:
            step(batches[i], data, batch)
            return (i + 1,)

        tf.while_loop(lambda i: i < steps, body, (tf.constant(0),))

    rows_and_steps = (tf.TensorSpec((most * batch,), tf.int32), tf.TensorSpec((), tf.int32))
    full_batches = xla.compiled(model, plan.steps_per_epoch, loop, (*rows_and_steps, data))

    def block(iterator: Any, data: Any) -> dict[str, Any]:
        rows = _next_block(model, iterator)
        count = tf.size(rows)
        steps = count // batch
        full_batches(tf.pad(rows, [[0, most * batch - count]]), steps, data)

        def last_batch() -> tf.Tensor:
            step(rows[steps * batch :], data, plan.last_batch)
            return tf.constant(0)

        if plan.last_batch:
            tf.cond(count % batch > 0, last_batch, lambda: tf.constant(0))
        return results(model)

    return block


def _eager_steps(model: UnsupervisedModel, plan: Plan) -> Any:
    step = _step(model)

    def block(iterator: Any, data: Any) -> dict[str, Any]:
        rows = _next_block(model, iterator)
        for start in range(0, len(rows), plan.batch_size):
            batch = rows[start : start + plan.batch_size]
            step(batch, data, len(batch))
        return results(model)

    return block


def _next_block(model: UnsupervisedModel, iterator: Any) -> Any:
    return model.distribute_strategy.experimental_local_results(next(iterator))[0]


def _rows(data: Any, rows: Any, replicas: int) -> Any:
    """The chosen rows of a tensor, or of each tensor of a tuple.

    Data that several replicas draw from stay in the memory of the host.
    """
    with tf.device("CPU:0") if replicas > 1 else contextlib.nullcontext():
        return tf.nest.map_structure(lambda tensor: tf.gather(tensor, rows), data)


def _unconverted(function: Any) -> Any:
    return tf.autograph.experimental.do_not_convert(function)
