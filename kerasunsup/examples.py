"""Examples of a data set as metrics and baselines see them: scaled, in order, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from kerasunsup.metrics.representation import Labelled, standardization

if TYPE_CHECKING:
    from kerasunsup.data import Dataset

CHUNK = 2000
RESIDENT_VALUES = 2**28  # 1 GiB of float32: larger splits are represented by their first examples


def scaled(batch: np.ndarray, data: Dataset) -> np.ndarray:
    """float32 examples in the data's units: uint8 pixels become [0, 1]."""
    is_pixels = batch.dtype == np.uint8 and data.value_range == (0.0, 1.0)
    return batch.astype("float32") / (255.0 if is_pixels else 1.0)


def pieces(x: np.ndarray) -> Iterator[np.ndarray]:
    """`x` in pieces of bounded size."""
    for start in range(0, len(x), CHUNK):
        yield x[start : start + CHUNK]


def split_batches(data: Dataset, split: str) -> Iterator[np.ndarray]:
    """Scaled batches of a split in order, from an array or a tf.data.Dataset of examples."""
    source = getattr(data, split)
    if isinstance(source, np.ndarray):
        yield from (scaled(piece, data) for piece in pieces(source))
    else:
        yield from (scaled(batch, data) for batch in source.batch(CHUNK).as_numpy_iterator())


def standard_units(data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Shift and scale of the units that errors and distances are measured in.

    Tables without a value range mix units (a column of thousands would be all that counts), so
    they are standardised with the train split's mean and std. Pixels stay as they are.
    """
    if data.value_range is not None:
        return np.zeros(1, "float32"), np.ones(1, "float32")
    return standardization(_flat(data, "train"))


def features(data: Dataset, split: str) -> np.ndarray:
    """Flat float32 examples `(n, d)` in `standard_units`.

    Splits of more than 2**28 values are cut to their first examples.
    """
    shift, scale = standard_units(data)
    return (_flat(data, split) - shift) / scale


def labelled(data: Dataset, split: str) -> Labelled:
    """Features and labels of a split."""
    x = features(data, split)
    return Labelled(x, data.labels[split][: len(x)])


def _flat(data: Dataset, split: str) -> np.ndarray:
    limit = max(1, RESIDENT_VALUES // int(np.prod(data.input_shape)))
    parts: list[np.ndarray] = []
    for batch in split_batches(data, split):
        parts.append(batch.reshape(len(batch), -1))
        if sum(map(len, parts)) >= limit:
            break
    return np.concatenate(parts)[:limit]
