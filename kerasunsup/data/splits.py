"""Cutting validation and test examples out of a data set, always the same ones for one seed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kerasunsup.errors import InputError

SPLITS = ("train", "validation", "test")


def hold_out(
    count: int,
    *,
    has_validation: bool = False,
    has_test: bool = False,
    validation: int | float | None = None,
    seed: int = 0,
    last: bool = False,
) -> dict[str, np.ndarray]:
    """Cuts `count` training examples into the splits that the source does not bring.

    Args:
        count: Number of training examples.
        has_validation: The source brings validation examples: none are cut.
        has_test: The source brings test examples; otherwise a tenth is drawn.
        validation: Validation examples to cut: a number, or a fraction of `count`. Default: .1.
        seed: Seed of the draws.
        last: Cut the validation examples from the end instead of drawing them.

    Returns:
        Sorted indices by split name, of "train" and of the splits that were cut.

    Raises:
        InputError: Too few examples, or a wrong `validation`.
    """
    size = validation_size(count, validation)
    tests = 0 if has_test else max(1, round(count / 10))
    size = 0 if has_validation else size
    if count <= size + tests:
        raise InputError(
            f"Expected more training examples than the {size} cut for validation and the {tests} "
            f"cut for test: add examples or choose a smaller `validation`. Received: {count}"
        )
    order = np.random.default_rng(check_seed(seed)).permutation(count)
    test, rest = np.sort(order[:tests]), order[tests:]
    if last:
        rest = np.sort(rest)[::-1]
    parts = {"train": np.sort(rest[size:])}
    if not has_validation:
        parts["validation"] = np.sort(rest[:size])
    if not has_test:
        parts["test"] = test
    return parts


def stratified(
    y: np.ndarray, validation: int | float | None, seed: int
) -> Mapping[str, np.ndarray]:
    """Returns sorted indices of 60 % train, 20 % validation, 20 % test, equal in class shares.

    Args:
        y: Classes `(batch,)`.
        validation: Validation examples instead: a number, or a fraction of all.
        seed: Seed of the draws.
    """
    from sklearn.model_selection import train_test_split

    size = validation_size(len(y), 0.2 if validation is None else validation)
    rest, test = train_test_split(
        np.arange(len(y)), test_size=0.2, stratify=y, random_state=check_seed(seed)
    )
    classes = len(np.unique(y))
    if not classes <= size <= len(rest) - classes:
        raise InputError(
            f"`validation` must leave every class an example on both sides: a number from "
            f"{classes} to {len(rest) - classes}, or a fraction. Received: {validation}"
        )
    train, held = train_test_split(rest, test_size=size, stratify=y[rest], random_state=seed)
    return {"train": np.sort(train), "validation": np.sort(held), "test": np.sort(test)}


def draw_labelled(y: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Returns sorted indices of `count` examples, equally many of each class.

    Args:
        y: Classes `(batch,)`.
        count: How many; a multiple of the number of classes.
        seed: Seed of the draw.

    Raises:
        InputError: Not a multiple of the number of classes, or more than a class has.
    """
    classes, available = np.unique(y, return_counts=True)
    each, rest = divmod(count, len(classes))
    if rest or not 1 <= each <= available.min():
        raise InputError(
            f"Labelled examples must be a multiple of the {len(classes)} classes, at most "
            f"{available.min()} of each. Received: {count}"
        )
    random = np.random.default_rng(check_seed(seed))
    drawn = [random.choice(np.flatnonzero(y == k), each, replace=False) for k in classes]
    return np.sort(np.concatenate(drawn))


def validation_size(count: int, validation: int | float | None) -> int:
    """Returns how many of `count` examples `validation` asks for (None: a tenth).

    Raises:
        InputError: Not a number from 1, nor a fraction between 0 and 1.
    """
    if validation is None:
        return max(1, round(count / 10))
    if isinstance(validation, int) and not isinstance(validation, bool) and validation >= 1:
        return validation
    if isinstance(validation, float) and 0 < validation < 1:
        return max(1, round(count * validation))
    raise InputError(
        f"`validation` must be a number of examples (1 or more) or a fraction between 0 and 1. "
        f"Received: {validation!r}"
    )


def check_seed(seed: int) -> int:
    """Returns `seed` when it is one.

    Raises:
        InputError: Not an integer from 0 to 2**32 - 1.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**32:
        raise InputError(f"`seed` must be an integer from 0 to 2**32 - 1. Received: {seed!r}")
    return int(seed)
