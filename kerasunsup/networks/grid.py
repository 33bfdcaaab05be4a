"""Convolutional networks that keep a grid: example -> `(height, width, features)` and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from kerasunsup.errors import InputError

register = keras.saving.register_keras_serializable("kerasunsup")


@register
def grid_backbone(
    input_shape: Sequence[int],
    filters: Sequence[int],
    blocks: int = 2,
    block_filters: int | None = None,
    activation: str = "relu",
    name: str = "backbone",
) -> keras.Model:
    """Convolutions of stride 2, then residual blocks: the encoder of van den Oord et al. 2017.

    Args:
        input_shape: `(height, width, channels)`.
        filters: Channels of each convolution; each halves height and width.
        blocks: Number of residual blocks on the grid.
        block_filters: Channels inside a block; half of its outside when None.
        activation: Activation of each layer.
        name: Name of the model.
    """
    x = inputs = keras.Input(tuple(input_shape), name="x")
    for i, count in enumerate(filters):
        x = layers.Conv2D(count, 4, 2, "same", activation=activation, name=f"convolution_{i}")(x)
    x = layers.Conv2D(x.shape[-1], 3, 1, "same", name="grid")(x)
    x = _residual_blocks(x, blocks, block_filters, activation)
    return keras.Model(inputs, x, name=name)


@register
def grid_decoder(
    code_dim: int,
    output_shape: Sequence[int],
    filters: Sequence[int],
    blocks: int = 2,
    block_filters: int | None = None,
    activation: str = "relu",
    output_activation: str | None = None,
    name: str = "decoder",
) -> keras.Model:
    """Residual blocks on a grid, then transposed convolutions of stride 2 up to an example.

    Args:
        code_dim: Values in each place of the grid.
        output_shape: `(height, width, channels)`; height and width divisible by
            `2 ** (len(filters) - 1)`, which gives the grid.
        filters: Channels of the grid and after each transposed convolution.
        blocks: Number of residual blocks on the grid.
        block_filters: Channels inside a block; half of its outside when None.
        activation: Activation of each hidden layer.
        output_activation: Activation of the last layer.
        name: Name of the model.

    Raises:
        InputError: The image cannot be halved that often.
    """
    height, width, channels = output_shape
    scale = 2 ** (len(filters) - 1)
    if height % scale or width % scale:
        raise InputError(
            f"`filters` of length {len(filters)} needs height and width divisible by {scale}: use "
            f"fewer filters or pad the images. Received: output_shape={tuple(output_shape)}"
        )
    x = inputs = keras.Input((height // scale, width // scale, code_dim), name="latent")
    x = layers.Conv2D(filters[0], 3, 1, "same", name="grid")(x)
    x = _residual_blocks(x, blocks, block_filters, activation)
    for i, count in enumerate(filters[1:]):
        x = layers.Conv2DTranspose(
            count, 4, 2, "same", activation=activation, name=f"upsample_{i}"
        )(x)
    x = layers.Conv2D(channels, 3, 1, "same", activation=output_activation, name="output")(x)
    return keras.Model(inputs, x, name=name)


def _residual_blocks(x: Any, blocks: int, block_filters: int | None, activation: str) -> Any:
    """`x + conv1x1(f(conv3x3(f(x))))`, several times, then f."""
    count = x.shape[-1]
    for i in range(blocks):
        inner = layers.Activation(activation, name=f"block_{i}_activation")(x)
        inner = layers.Conv2D(
            block_filters or count // 2, 3, 1, "same", activation=activation, name=f"block_{i}_3x3"
        )(inner)
        inner = layers.Conv2D(count, 1, name=f"block_{i}_1x1")(inner)
        x = layers.Add(name=f"block_{i}")([x, inner])
    return layers.Activation(activation, name="activation")(x)
