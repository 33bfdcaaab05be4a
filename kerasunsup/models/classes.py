"""Names of classes: what every `classify` answers, and where the names come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from keras import ops

from kerasunsup.errors import InputError


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
