"""How steps run on the replicas of a strategy: who gets which rows, what cannot work.

Every worker reads all examples and each replica takes its rows of a batch. A batch with fewer rows
than there are replicas is computed as a whole by all of them (`replicas.all_alike`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf
from keras import ops

from kerasunsup.errors import InputError
from kerasunsup.models.verbs import drop_labels
from kerasunsup.replicas import all_alike, bounds, values_of_all, worker_count

if TYPE_CHECKING:
    from kerasunsup.models.base import UnsupervisedModel

STREAM_OF_REPLICA = 7919  # between the random streams of layers of Keras on two replicas


def check(model: UnsupervisedModel) -> None:
    """Raises if this model cannot be trained by its strategy, naming the remedy."""
    strategy = model.distribute_strategy
    if isinstance(strategy, tf.distribute.ParameterServerStrategy):
        raise InputError(
            "ParameterServerStrategy does not work with Keras 3: use MultiWorkerMirroredStrategy. "
            f"Received: {type(strategy).__name__}"
        )
    if strategy.num_replicas_in_sync == 1:
        return
    seeds = values_of_all(strategy, model.seed)
    if len(seeds) > 1:
        raise InputError(
            "Every worker must shuffle and draw alike: give the model a `seed`, or call "
            f"keras.utils.set_random_seed before it is made. Received: seeds {seeds}"
        )
    if model.jit_steps:
        raise InputError(
            f"XLA does not compile steps of {strategy.num_replicas_in_sync} replicas: leave "
            "`jit_compile` out (compile.jit_compile=false in a recipe). Received: jit_compile=True"
        )
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization) and not layer.synchronized:
            raise InputError(
                "BatchNormalization must use the statistics of the whole batch, or replicas train "
                "different weights: create it with synchronized=True. "
                f"Received: layer {layer.name!r} with synchronized=False"
            )
    for name in model.optimizer_variables:
        if getattr(getattr(model, name), "ema_overwrite_frequency", None):
            raise InputError(
                f"`{name}` cannot overwrite weights by averages on several replicas: leave "
                "ema_overwrite_frequency out; averages are taken over at the end of fit. "
                f"Received: {getattr(model, name).ema_overwrite_frequency}"
            )


def run_step(
    model: UnsupervisedModel,
    step: Callable[..., Any],
    arguments: tuple[Any, ...],
    alike: bool = False,
) -> Any:
    """One step on every replica; with `alike`, each computes the whole batch. Returns 0."""
    with all_alike(alike):
        model.distribute_strategy.run(step, args=arguments)
    return tf.constant(0)


def results(model: UnsupervisedModel) -> dict[str, Any]:
    """What the metrics say so far, over all replicas."""
    return {metric.name: metric.result() for metric in model.metrics}


# Streams


def share_out(
    batches: tf.data.Dataset, model: UnsupervisedModel
) -> tf.distribute.DistributedDataset:
    """A stream of batches -> of `(part, alike, checksum)`; each example is seen once.

    `alike` tells that the batch is too small to be divided, and `part` all of it. In a cluster the
    checksum is that of the whole batch: every worker must have read the same.
    """
    replicas = model.distribute_strategy.num_replicas_in_sync
    workers = worker_count(model.distribute_strategy)

    def parts(batch: Any, replica: Any) -> Any:
        count = _rows(batch)
        alike = count < replicas * model.least_batch
        start, stop = bounds(count, replica, replicas)
        start, stop = tf.where(alike, 0, start), tf.where(alike, count, stop)
        part = tf.nest.map_structure(lambda rows: rows[start:stop], batch)
        checksum = tf.zeros((), tf.float64)
        if workers > 1:
            checksum = tf.reduce_sum(tf.cast(tf.nest.flatten(batch)[0], tf.float64))
        return part, alike, checksum

    return _for_each_replica(batches, model, parts)


def share_out_padded(
    batches: tf.data.Dataset, model: UnsupervisedModel
) -> tf.distribute.DistributedDataset:
    """A stream of batches -> of `{"x": part, "real": 0 or 1}`; no part is empty.

    Rows that are not `real` repeat the last one.
    """
    replicas = model.distribute_strategy.num_replicas_in_sync

    def parts(batch: Any, replica: Any) -> Any:
        x = drop_labels(batch)
        count = _rows(x)
        rows = tf.range(tf.maximum(count, replicas))
        start, stop = bounds(tf.size(rows), replica, replicas)
        own = rows[start:stop]
        return {
            "x": tf.gather(x, tf.minimum(own, count - 1)),
            "real": tf.cast(own < count, tf.int32),
        }

    return _for_each_replica(batches, model, parts)


def _for_each_replica(
    batches: tf.data.Dataset, model: UnsupervisedModel, parts: Callable[[Any, Any], Any]
) -> tf.distribute.DistributedDataset:
    def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        local = context.num_replicas_in_sync // context.num_input_pipelines
        first = context.input_pipeline_id * local

        @tf.autograph.experimental.do_not_convert
        def divided(*batch: Any) -> tf.data.Dataset:
            whole = batch[0] if len(batch) == 1 else batch
            replicas = tf.data.Dataset.range(first, first + local, output_type=tf.int32)
            return replicas.map(lambda replica: parts(whole, replica))

        return batches.flat_map(divided).prefetch(local)

    return model.distribute_strategy.distribute_datasets_from_function(of_worker)


def same_for_each_replica(
    elements: tf.data.Dataset, model: UnsupervisedModel
) -> tf.distribute.DistributedDataset:
    """A stream whose elements all replicas get as they are."""
    return _for_each_replica(elements, model, lambda element, replica: element)


def _rows(batch: Any) -> Any:
    return tf.shape(tf.nest.flatten(batch)[0])[0]


def stream_function(model: UnsupervisedModel, step: Callable[[Any], Any]) -> Any:
    """A function (iterator, most steps) -> logs, for streams as `share_out` gives them.

    With one replica for streams of batches as they are.
    """
    strategy = model.distribute_strategy

    def one_batch(element: Any) -> Any:
        if strategy.num_replicas_in_sync == 1:
            return run_step(model, step, (element,))
        part, alike, checksum = element
        return tf.cond(
            strategy.experimental_local_results(alike)[0],
            lambda: run_step(model, checked, (part, checksum), alike=True),
            lambda: run_step(model, checked, (part, checksum)),
        )

    def checked(part: Any, checksum: Any) -> Any:
        same = [_assert_same(checksum)] if worker_count(strategy) > 1 else []
        with tf.control_dependencies(same):
            return step(tf.nest.map_structure(tf.identity, part))

    def block(iterator: Any, steps: Any) -> dict[str, Any]:
        one_batch(next(iterator))

        def another(done: Any, more: Any) -> Any:
            element = iterator.get_next_as_optional()
            more = element.has_value()
            tf.cond(more, lambda: one_batch(element.get_value()), lambda: tf.constant(0))
            return done + 1, more

        tf.while_loop(
            lambda done, more: more & (done < steps),
            another,
            (tf.constant(1), tf.constant(True)),
            parallel_iterations=1,
        )
        return results(model)

    if model.run_eagerly:
        return block
    return tf.function(tf.autograph.experimental.do_not_convert(block), reduce_retracing=True)


def _assert_same(checksum: Any) -> Any:
    context = tf.distribute.get_replica_context()
    checksum = tf.identity(checksum)  # on the device of this replica
    mean = context.all_reduce("MEAN", checksum)
    return tf.debugging.assert_near(
        mean,
        checksum,
        rtol=1e-9,
        message="Workers must read the same batches: give every shuffle a seed, and map in order.",
    )


# Random streams of Keras' own layers


def separate_streams(model: UnsupervisedModel) -> None:
    """Gives the layers of Keras, Dropout for one, a random stream of its own on each replica.

    The streams follow from those of the first replica, which is the one that is saved.
    """
    strategy = model.distribute_strategy
    states = [state for state in model.random_states if not getattr(state, "by_position", False)]
    if strategy.num_replicas_in_sync == 1 or not states:
        return

    def shift() -> None:
        context = tf.distribute.get_replica_context()
        replica = context.replica_id_in_sync_group
        for state in states:
            own = ops.convert_to_tensor(state)
            saved = context.all_reduce("SUM", own * tf.cast(replica == 0, own.dtype))
            stream = tf.stack([replica * STREAM_OF_REPLICA, 0])
            state.assign(saved + tf.cast(stream, own.dtype))

    with strategy.scope():
        strategy.run(tf.function(tf.autograph.experimental.do_not_convert(shift)))
