"""What supervised models learn and answer: classes by number and name, values of a regression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from kerasunsup.checks import check_array, check_labels
from kerasunsup.errors import InputError


class Classes:
    """The classes of a model, by number and, where they have them, by name.

    Args:
        classes: Their number or names; None for a regression, and for a binary task whose classes
            are 0 and 1.
        task: "classification", "binary" or "regression".

    Attributes:
        count: Number of classes, None for a regression.
        names: Their names in order; where None, those of the first labels that are names.

    Raises:
        InputError: Too few, too many or equal ones for the task.
    """

    def __init__(self, classes: int | Sequence[str] | None, task: str) -> None:
        names = None if classes is None or isinstance(classes, int) else [str(c) for c in classes]
        self.names = names
        self.count: int | None = len(names) if names else classes  # type: ignore[assignment]
        if task == "binary" and classes is None:
            self.count = 2
        fits = {
            "classification": (self.count or 0) >= 2,
            "binary": self.count == 2,
            "regression": self.count is None,
        }
        wanted = {
            "classification": "the number (2 or more) or the names of the classes",
            "binary": "2 or two names",
            "regression": "left out",
        }
        if not fits[task] or (names and len(set(names)) < len(names)):
            raise InputError(
                f"With task={task!r} `classes` must be {wanted[task]}. Received: {classes!r}"
            )

    def numbers(self, y: Any) -> np.ndarray:
        """Labels, numbers or names, as int32 class numbers `(batch,)`.

        Raises:
            InputError: Out of range, an unknown name, or more names than classes.
        """
        assert self.count is not None
        array = np.asarray(y)
        if array.dtype.kind not in "SUO":
            return check_labels(array, self.count)
        given = [one.decode() if isinstance(one, bytes) else str(one) for one in array.ravel()]
        if self.names is None:
            found = sorted(set(given))
            if len(found) != self.count:
                raise InputError(
                    f"`y` must hold the names of {self.count} classes: build the model with their "
                    f"names, classes=[…]. Received: {len(found)} names, {_few(found)}"
                )
            self.names = found
        unknown = sorted(set(given) - set(self.names))
        if unknown:
            raise InputError(
                f"`y` must hold names of classes, {_few(self.names)}. Received: {_few(unknown)}"
            )
        numbers = {name: number for number, name in enumerate(self.names)}
        return np.array([numbers[one] for one in given], "int32")

    def graph_numbers(self, labels: tf.Tensor) -> tf.Tensor:
        """Names `(batch,)` as class numbers, inside a graph."""
        if self.names is None:
            raise InputError(
                "A dataset with names as labels needs a model that knows them: build it with "
                "classes=[…]. Received: a number of classes"
            )
        same = tf.reshape(labels, (-1, 1)) == tf.constant(self.names)
        known = tf.debugging.assert_equal(
            tf.reduce_any(same, axis=1), True, f"Labels must be among {_few(self.names)}"
        )
        with tf.control_dependencies([known]):
            return tf.argmax(same, axis=1, output_type=tf.int32)

    def check_coverage(self, y: Any) -> None:
        """Raises unless there is an example of each class to learn from."""
        assert self.count is not None
        found = set(self.numbers(y).tolist())
        if len(found) == 1 and self.count > 1:
            raise InputError(
                "`y` must hold examples of two classes or more, there is nothing to tell apart. "
                f"Received: class {self._name(found.pop())} only"
            )
        missing = [self._name(number) for number in range(self.count) if number not in found]
        if missing:
            raise InputError(
                f"`y` must hold an example of each of the {self.count} classes: label one more of "
                f"each, or build the model with fewer classes. Received: none of {_few(missing)}"
            )

    def _name(self, number: int) -> str:
        return self.names[number] if self.names else str(number)


def check_values(y: Any, outputs: int) -> np.ndarray:
    """Values of a regression as float32 `(batch, outputs)`.

    Raises:
        InputError: Of another shape, not numeric, NaN or infinite.
    """
    array = check_array(y, name="y").astype("float32")
    array = array[:, None] if array.ndim == 1 else array
    if array.shape[1:] != (outputs,):
        raise InputError(
            f"`y` must hold {outputs} values for each example: build the model with "
            f"outputs={array.shape[-1]}, or drop columns. Received: shape {np.shape(y)}"
        )
    return array


def check_class_names(names: Sequence[str] | None, labels: int) -> tuple[str, ...] | None:
    """The `class_names` of a model with `labels` classes: one text for each, or None.

    Raises:
        InputError: Not one name for each class, an empty one, or one twice.
    """
    if names is None:
        return None
    found = () if isinstance(names, str) else tuple(names)
    valid = all(isinstance(name, str) and name for name in found)
    if not valid or len(found) != labels or len(set(found)) != labels:
        raise InputError(
            f"`class_names` must be {labels} different texts, one for each class in the order of "
            f"their numbers. Received: {names!r}"
        )
    return found


def class_outputs(logits: Any, names: tuple[str, ...] | None) -> dict[str, Any]:
    """What `classify` answers.

    Args:
        logits: `(batch, labels)`.
        names: The model's `class_names`.

    Returns:
        `probabilities` `(batch, labels)`; the likeliest class, `label` `(batch,)`; and, where the
        classes have names, that of the likeliest: `class_name` `(batch,)`, texts.
    """
    # Keras' argmax casts bits, which no other runtime can.
    label = tf.argmax(logits, axis=-1, output_type=tf.int32)
    outputs = {"probabilities": ops.softmax(logits), "label": label}
    if names is not None:
        outputs["class_name"] = tf.gather(tf.constant(names), label)
    return outputs


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
