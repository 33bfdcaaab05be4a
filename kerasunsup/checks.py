"""Checks of arrays that come from outside: shape, dtype, range, finiteness."""

from __future__ import annotations

from typing import Any

import numpy as np

from kerasunsup.errors import InputError


def check_array(
    x: Any,
    *,
    shape: tuple[int | None, ...] | None = None,
    value_range: tuple[float, float] | None = None,
    name: str = "x",
) -> np.ndarray:
    """Returns `x` as a numeric array, or says what is wrong with it.

    Args:
        x: Array-like, `(batch, *shape)`.
        shape: Expected shape of one example; None in a place admits any size.
        value_range: Smallest and largest value allowed. uint8 pixels 0..255 are accepted for
            (0, 1): models scale them.
        name: How the message calls the array.

    Raises:
        InputError: Not numeric, ragged, empty, of another shape, out of range, NaN or infinite.
    """
    try:
        array = np.asarray(x)
    except ValueError as error:
        raise InputError(
            f"`{name}` must be one rectangular array, every example of equal shape. "
            f"Received: ragged data ({error})"
        ) from error
    if array.dtype == bool:
        array = array.astype("float32")
    if array.dtype.kind not in "uif":
        raise InputError(
            f"`{name}` must be numeric (float32 or uint8). Received: dtype {array.dtype}"
        )
    if array.ndim == 0 or array.size == 0:
        raise InputError(f"`{name}` must hold at least one example. Received: shape {array.shape}")
    if shape is not None and not _fits(array.shape[1:], shape):
        raise InputError(
            f"`{name}` must have shape {_describe(('batch', *shape))}. "
            f"Received: {_describe(array.shape)}{_shape_hint(array.shape, shape)}"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise InputError(
            f"`{name}` must be finite: drop or impute the bad values. "
            f"Received: {bad} NaN or infinite of {array.size} values"
        )
    if value_range is not None and not (array.dtype == np.uint8 and value_range == (0.0, 1.0)):
        low, high = float(array.min()), float(array.max())
        if low < value_range[0] or high > value_range[1]:
            hint = (
                " (pixels 0..255? pass them as uint8, or divide by 255)"
                if value_range == (0.0, 1.0) and low >= 0 and high <= 255
                else ""
            )
            raise InputError(
                f"`{name}` must lie in [{value_range[0]:g}, {value_range[1]:g}]{hint}. "
                f"Received: values from {low:g} to {high:g}"
            )
    return array


def check_whole_numbers(
    x: Any,
    *,
    shape: tuple[int | None, ...],
    value_range: tuple[float, float] | None = None,
    name: str,
) -> np.ndarray:
    """Returns `x` as int32, or says what is wrong with it; arguments as in `check_array`.

    Raises:
        InputError: As `check_array`, or not whole numbers.
    """
    array = check_array(x, shape=shape, name=name)
    if array.dtype.kind == "f" and (array != np.rint(array)).any():
        raise InputError(
            f"`{name}` must be whole numbers. Received: dtype {array.dtype} with fractions"
        )
    wide = array.astype("int64")
    return check_array(wide, value_range=value_range, name=name).astype("int32")


def check_labels(labels: Any, classes: int, name: str = "y") -> np.ndarray:
    """Returns one class or an array of classes as int32.

    Args:
        labels: Whole numbers in [0, classes): `(batch,)`, or one.
        classes: Number of classes.
        name: How the message calls the labels.

    Raises:
        InputError: Not whole numbers, of another shape, or out of range.
    """
    try:
        array = np.asarray(labels)
    except ValueError:
        array = np.asarray(labels, dtype=object)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    whole = array.dtype.kind in "ui" or (
        array.dtype.kind == "f" and np.isfinite(array).all() and (array == np.rint(array)).all()
    )
    if array.ndim > 1 or array.size == 0 or not whole:
        raise InputError(
            f"`{name}` must hold one class number for each example, shape (batch,). "
            f"Received: dtype {array.dtype}, shape {_describe(array.shape)}"
        )
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= classes:
        raise InputError(
            f"`{name}` must lie in [0, {classes}): the model has {classes} classes. "
            f"Received: classes from {low} to {high}"
        )
    return array.astype("int32")


def _fits(actual: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(actual) == len(expected) and all(
        e is None or a == e for a, e in zip(actual, expected, strict=True)
    )


def _describe(shape: tuple[Any, ...]) -> str:
    return "(" + ", ".join(str(s) for s in shape) + ("," if len(shape) == 1 else "") + ")"


def _shape_hint(actual: tuple[int, ...], expected: tuple[int | None, ...]) -> str:
    if actual == expected:
        return " (one example? add a batch axis: x[None])"
    if actual[1:] == expected[:-1] and expected[-1] == 1:
        return " (no channel axis? x[..., None])"
    return ""
