"""What finetuning takes over from a pretrained model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from kerasunsup.models.base import UnsupervisedModel

LARGEST_MOMENTUM = 0.9
NORMALIZATIONS = (layers.BatchNormalization, layers.LayerNormalization, layers.GroupNormalization)


def load_pretrained(name: str | Path) -> UnsupervisedModel:
    """The trained model of an entry of the zoo or of a finished run's folder.

    Raises:
        InputError: Neither is there.
    """
    file = Path(name) / "model.keras"
    if file.is_file():
        return keras.saving.load_model(file)
    from kerasunsup import zoo  # what was pretrained may be an entry: against the direction

    return zoo.load(str(name))


def copied(model: UnsupervisedModel) -> tuple[keras.Model, Any, Any]:
    """What finetuning takes over: a copy of the features, the value range, the normalisation.

    Finetuning has few steps: moving statistics of the copy follow with a momentum of at most 0.9.
    """
    copy = keras.models.clone_model(model.features, clone_function=_copied_layer)
    copy.set_weights(model.features.get_weights())
    normalization = model.normalization
    if normalization is not None:  # of what was pretrained on: not to be adapted again
        statistics = {
            "mean": np.ravel(normalization.mean),
            "variance": np.ravel(normalization.variance),
        }
        normalization = layers.Normalization(**statistics, name=normalization.name)
    return copy, model.value_range, normalization


def _copied_layer(layer: layers.Layer) -> layers.Layer:
    copy = type(layer).from_config(layer.get_config())
    if isinstance(copy, layers.BatchNormalization):
        copy.momentum = min(copy.momentum, LARGEST_MOMENTUM)
    return copy


def blocks_of(network: keras.Model) -> list[list[layers.Layer]]:
    """Layers with weights from the bottom up, normalisation with the layer before it."""
    blocks: list[list[layers.Layer]] = []
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            blocks += blocks_of(layer)
        elif layer.weights and blocks and isinstance(layer, NORMALIZATIONS):
            blocks[-1].append(layer)
        elif layer.weights:
            blocks.append([layer])
    return blocks
