"""Arithmetic over the global batch: what one replica computes, N replicas compute too.

Keras sums gradients over replicas, splits the last batch unevenly and hands every replica the same
random numbers. These helpers make losses and noise functions of the global batch alone, so that
training on N replicas gives the weights of one.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf
from keras import ops

_EVALUATION_STREAM = 0x5EED
_alike = False


@contextlib.contextmanager
def all_alike(enabled: bool = True) -> Iterator[None]:
    """Traces a step in which every replica computes the whole batch, as if it were alone.

    For batches that are too small to give each replica a part: most networks cannot take an
    empty one.
    """
    global _alike
    before, _alike = _alike, enabled
    try:
        yield
    finally:
        _alike = before


def replica_count() -> int:
    """Number of replicas that share the batch of the step being traced (1 outside a strategy)."""
    return 1 if _alike else _replicas()


def copies() -> int:
    """Number of replicas that compute the same batch: 1, unless all are alike."""
    return _replicas() if _alike else 1


def _replicas() -> int:
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def share(rows: Any) -> Any:
    """This replica's part of a batch, `(n, ...)`; all of it where all are alike."""
    if replica_count() == 1:
        return rows
    context = tf.distribute.get_replica_context()
    start, stop = bounds(
        ops.shape(rows)[0], context.replica_id_in_sync_group, context.num_replicas_in_sync
    )
    return rows[start:stop]


def bounds(count: Any, replica: Any, replicas: int) -> tuple[Any, Any]:
    """First and last row of a replica's part of `count` rows; parts differ by one row at most."""
    return count * replica // replicas, count * (replica + 1) // replicas


def count_once(per_example: Any) -> Any:
    """The rows that this replica adds to a metric: none if another one adds the same."""
    if copies() == 1:
        return per_example
    first = tf.distribute.get_replica_context().replica_id_in_sync_group == 0
    return per_example[: tf.where(first, ops.shape(per_example)[0], 0)]


def worker_count(strategy: tf.distribute.Strategy) -> int:
    """Processes of the cluster; 1 without one."""
    return getattr(strategy.extended, "_num_workers", 1)


def values_of_all(strategy: tf.distribute.Strategy, value: int) -> list[int]:
    """The values that workers have, sorted: one, of what must be the same. Waits for all."""
    if worker_count(strategy) == 1:
        return [value]

    @tf.function(autograph=False)
    def gathered() -> Any:
        return strategy.gather(strategy.run(lambda: tf.constant([value], tf.int64)), axis=0)

    return sorted({int(one) for one in gathered()})


def all_sum(x: Any) -> Any:
    """Sum of `x` over the replicas, equal on each of them."""
    if replica_count() == 1:
        return x
    return tf.distribute.get_replica_context().all_reduce("SUM", x)


def global_mean(per_example: Any) -> Any:
    """This replica's part of the mean over the global batch: the parts sum to the mean.

    Args:
        per_example: Losses `(local batch,)`; an empty replica contributes 0.
    """
    per_example = ops.cast(per_example, "float32")
    count = all_sum(ops.cast(ops.shape(per_example)[0], "float32"))
    return tf.math.divide_no_nan(ops.sum(per_example), count)


def batch_statistic(per_example: Any) -> Any:
    """Mean over the global batch, `(batch, ...) -> (...)`, the whole of it on every replica.

    For losses that are not a mean over examples. The gradient flows through the local rows
    only, so that the sum of gradients over replicas is the gradient of the global statistic.
    """
    return batch_mean(ops.sum(per_example, axis=0), ops.shape(per_example)[0])


def batch_mean(local_sum: Any, rows: Any) -> Any:
    """As `batch_statistic`, from the sum over the local rows and their number."""
    count = all_sum(ops.cast(rows, local_sum.dtype))
    return _with_others(local_sum) / count


def all_rows(x: Any) -> Any:
    """The rows of all replicas in their order, `(batch, d) -> (global batch, d)`.

    For losses that compare examples. As in `batch_statistic` the gradient flows through the
    local rows only.
    """
    if replica_count() == 1:
        return x
    rows = ops.shape(x)[0]
    start, stop = _span(rows)
    own = tf.pad(x, [[start, all_sum(rows) - stop], [0, 0]])
    return _with_others(own)


def own_rows(x: Any, rows: Any) -> Any:
    """The inverse of `all_rows`: the rows of this replica, of which there are `rows`."""
    start, stop = _span(rows)
    return x[start:stop]


def _with_others(own: Any) -> Any:
    """Sum over the replicas whose gradient flows through this one's part only."""
    return own + ops.stop_gradient(all_sum(own) - own)


def every_nth(x: Any, n: int, first: int) -> Any:
    """Rows `first`, `first + n`, … of the global batch, those that this replica has."""
    start, _ = _span(ops.shape(x)[0])
    return x[(first - start) % n :: n]


def pick_rows(x: Any, places: Any) -> Any:
    """Rows of the global batch, the same ones on every replica.

    Args:
        x: This replica's rows, `(local batch, values)`.
        places: Where in the global batch, `(n,)` in [0, 1).

    Returns:
        `(n, values)`.
    """
    here = ops.shape(x)[0]
    start, _ = _span(here)
    total = all_sum(here)
    rows = tf.cast(places * tf.cast(total, tf.float32), tf.int32)
    local = tf.minimum(rows, total - 1) - start
    nothing = tf.pad(x, [[0, 1], [0, 0]])  # its last row stands for those of other replicas
    return all_sum(tf.gather(nothing, tf.where((local >= 0) & (local < here), local, here)))


class Noise(keras.random.SeedGenerator):
    """Noise by position: row i of the global batch gets draw i, however the batch is split.

    Draws are made from raw Philox bits, which agree with and without XLA. While evaluating, the
    stream is fixed, so that two evaluations of the same data agree.

    Args:
        seed: Seed of the stream; drawn as Keras draws its own when None, and kept in `seed`.
    """

    def __init__(self, seed: int | None = None, **kwargs: Any) -> None:
        self.seed = random.randint(1, 10**9) if seed is None else seed
        super().__init__(self.seed, **kwargs)
        self.state.by_position = True

    def uniform(
        self, batch: Any, shape: tuple[int, ...] = (), training: bool = True, stream: int = 0
    ) -> Any:
        """Uniform draws in the open interval (0, 1), `(batch, *shape)`.

        Args:
            batch: Rows of this replica.
            shape: Shape of the draws for one row.
            training: Draw anew; otherwise the fixed draws of `stream`.
            stream: Tells draws apart that one evaluation step needs.
        """
        start, stop = _span(batch)
        return _uniform((stop, *shape), self._stream(training, stream))[start:]

    def shared(self, shape: tuple[int, ...]) -> Any:
        """Uniform draws in (0, 1) that belong to no row: the same on every replica."""
        return _uniform(shape, self._stream(training=True, stream=0))

    def normal(self, batch: Any, shape: tuple[int, ...] = (), training: bool = True) -> Any:
        """Standard normal draws, `(batch, *shape)`; see `uniform`."""
        return tf.math.ndtri(self.uniform(batch, shape, training, stream=1))

    def _stream(self, training: bool, stream: int) -> Any:
        if not training:
            return tf.constant([_EVALUATION_STREAM, stream], tf.int32)
        return tf.cast(tf.math.floormod(self.next(), 2**31 - 2), tf.int32)


def _uniform(shape: tuple[Any, ...], stream: Any) -> Any:
    bits = tf.random.stateless_uniform(
        shape, stream, minval=None, maxval=None, dtype=tf.uint32, alg="philox"
    )
    bits = tf.bitwise.right_shift(bits, tf.constant(9, tf.uint32))
    return (tf.cast(bits, tf.float32) + 0.5) * 2.0**-23


def _span(batch: Any) -> tuple[Any, Any]:
    """First and last row of this replica's part of the global batch."""
    replicas = replica_count()
    if replicas == 1:
        return 0, batch
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    sizes = all_sum(tf.one_hot(replica, replicas, on_value=batch, off_value=0, dtype=tf.int32))
    start = tf.reduce_sum(tf.where(tf.range(replicas) < replica, sizes, 0))
    return start, start + batch
