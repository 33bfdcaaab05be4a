"""The one type for a data set, and examples that may lie on disk."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasunsup.data.splits import draw_labelled
from kerasunsup.errors import InputError

if TYPE_CHECKING:
    import tensorflow as tf

RESIDENT_BYTES = 2 * 1024**3
"""Splits up to this size are arrays in memory; larger ones stream through tf.data."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples in three splits. Labels serve evaluation; only classifiers and conditional models
    train on them.

    Attributes:
        name: What it is called in cards and messages.
        train: Array `(batch, *input_shape)`, uint8 or float32; a split larger than
            RESIDENT_BYTES is a tf.data.Dataset of single unlabelled examples, in a fixed order.
        validation: As `train`.
        test: As `train`.
        labels: int64 classes `(batch,)` by split name; empty when there are none.
        class_names: One name for each class.
        input_shape: Shape of one example; images are `(height, width, channels)`.
        value_range: Smallest and largest value; uint8 counts as pixels times 1/255. None: any.
        fingerprint: sha256 of the examples: names, dtypes, shapes and values of the splits.
        license: Licence of the data, as its source states it.
        source: Where it comes from.
        drawn_from: The whole data set, where train keeps a draw of labelled examples only.
    """

    name: str
    train: np.ndarray | tf.data.Dataset
    validation: np.ndarray | tf.data.Dataset
    test: np.ndarray | tf.data.Dataset
    labels: Mapping[str, np.ndarray]
    class_names: tuple[str, ...]
    input_shape: tuple[int, ...]
    value_range: tuple[float, float] | None
    fingerprint: str
    license: str
    source: str
    drawn_from: Dataset | None = None

    @property
    def is_image(self) -> bool:
        """Whether one example is `(height, width, channels)`."""
        return len(self.input_shape) == 3

    def batched(self, split: str, batch_size: int) -> Any:
        """A split as verbs and `fit` take it: an array as it is, a stream in batches."""
        examples = getattr(self, split)
        return examples if isinstance(examples, np.ndarray) else examples.batch(batch_size)

    def pairs(self, split: str) -> Any:
        """A split with its labels: `(x, y)` arrays, or a stream of single pairs.

        Raises:
            InputError: The split has no labels.
        """
        if split not in self.labels:
            raise InputError(
                f"This model trains on labels. Received: {self.name} without labels for {split}"
            )
        examples, labels = getattr(self, split), self.labels[split]
        if isinstance(examples, np.ndarray):
            return examples, labels
        import tensorflow as tf

        return tf.data.Dataset.zip((examples, tf.data.Dataset.from_tensor_slices(labels)))

    def only_class(self, k: int) -> Dataset:
        """The one-class problem of class `k`: train and validation hold it alone, test holds all.

        Args:
            k: The normal class.

        Raises:
            InputError: There are no labels, or no example of class `k` to train or validate on.
        """
        if any(split not in self.labels for split in ("train", "validation", "test")):
            raise InputError(
                "One class can be singled out of labelled data only. "
                f"Received: {self.name} with labels for {sorted(self.labels) or 'no split'}"
            )
        labels = dict(self.labels)
        kept: dict[str, Any] = {}
        for split in ("train", "validation"):
            mask = labels[split] == k
            if not mask.any():
                raise InputError(
                    f"Expected a class with examples in {split}, one of "
                    f"{np.unique(labels[split]).tolist()}. Received: {k!r}"
                )
            kept[split] = _masked(getattr(self, split), mask, self.input_shape)
            labels[split] = labels[split][mask]
        identity = hashlib.sha256(f"{self.fingerprint} only class {k}".encode()).hexdigest()
        return replace(self, **kept, labels=labels, fingerprint=identity)

    def only_labelled(self, count: int, seed: int = 0) -> Dataset:
        """The problem of few labels: train keeps `count` examples, equally many of each class.

        Validation keeps as many, or all that its smallest class allows: who has few labels has
        few to validate on.

        Args:
            count: How many; a multiple of the number of classes.
            seed: Seed of the draw.

        Raises:
            InputError: No labels, or too few examples of a class.
        """
        if any(split not in self.labels for split in ("train", "validation")):
            raise InputError(
                f"Labelled examples can be drawn from labelled data only. Received: {self.name}"
            )
        labels = dict(self.labels)
        kept: dict[str, Any] = {}
        for split in ("train", "validation"):
            y, wanted = labels[split], count
            if split == "validation":
                available = np.unique(y, return_counts=True)[1]
                wanted = min(count, int(available.min()) * len(available))
            mask = np.isin(np.arange(len(y)), draw_labelled(y, wanted, seed))
            kept[split] = _masked(getattr(self, split), mask, self.input_shape)
            labels[split] = y[mask]
        identity = f"{self.fingerprint} {count} labelled, seed {seed}"
        fingerprint = hashlib.sha256(identity.encode()).hexdigest()
        return replace(
            self, **kept, labels=labels, fingerprint=fingerprint, drawn_from=self.drawn_from or self
        )


@dataclass(frozen=True)
class Rows:
    """Equal-shaped examples addressed by number, in memory or on disk.

    Attributes:
        count: Number of examples.
        shape: Shape of one.
        dtype: uint8 or float32.
        read: Examples `(len(indices), *shape)` at the given numbers.
        identity: What a streamed split's fingerprint is made of.
    """

    count: int
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[np.ndarray], np.ndarray]
    identity: Callable[[], str]

    def take(self, indices: np.ndarray) -> np.ndarray | tf.data.Dataset:
        """Returns the examples at `indices`: an array if it is small enough, else a stream."""
        if fits_in_memory(len(indices), self.shape, self.dtype):
            return self.read(indices)
        import tensorflow as tf

        def fetch(index: tf.Tensor) -> tf.Tensor:
            one = tf.numpy_function(lambda i: self.read(i[None])[0], [index], self.dtype)
            return tf.ensure_shape(one, self.shape)

        return tf.data.Dataset.from_tensor_slices(indices).map(
            fetch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )


def _masked(
    split: np.ndarray | tf.data.Dataset, mask: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray | tf.data.Dataset:
    """The examples of a split where `mask` is true: an array if it is small enough."""
    if isinstance(split, np.ndarray):
        return split[mask]
    import tensorflow as tf

    chosen = split.enumerate().filter(lambda i, _: tf.gather(mask, i)).map(lambda _, x: x)
    count = int(mask.sum())
    if fits_in_memory(count, shape, split.element_spec.dtype.as_numpy_dtype):
        return np.stack(list(chosen.as_numpy_iterator()))
    return chosen.apply(tf.data.experimental.assert_cardinality(count))


def fits_in_memory(count: int, shape: tuple[int, ...], dtype: Any) -> bool:
    """Whether `count` examples stay within RESIDENT_BYTES."""
    return count * math.prod(shape) * np.dtype(dtype).itemsize <= RESIDENT_BYTES


def fingerprint(splits: Mapping[str, np.ndarray | str]) -> str:
    """Returns the sha256 over the splits' names, dtypes, shapes and values.

    Args:
        splits: An array by split name; for a streamed split, a text that identifies its content.
    """
    digest = hashlib.sha256()
    for name, split in splits.items():
        if isinstance(split, str):
            digest.update(f"{name} {split}\n".encode())
        else:
            digest.update(f"{name} {split.dtype} {split.shape}\n".encode())
            digest.update(np.ascontiguousarray(split).data)
    return digest.hexdigest()
