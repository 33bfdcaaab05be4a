"""Backbones and decoders.

Decoders end without an activation: a model with a Bernoulli likelihood or a cross-entropy loss
reads the outputs as logits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

register = keras.saving.register_keras_serializable("kerasunsup")


@register
class GatedDense(layers.Layer):
    """`activation-free dense * sigmoid(dense)`: the gated layer of Dauphin et al. 2017.

    Args:
        units: Number of outputs.
    """

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.dense = layers.Dense(2 * units, dtype=self.dtype_policy, name="dense")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.dense.build(input_shape)
        self.built = True

    def call(self, x: Any) -> Any:
        value, gate = keras.ops.split(self.dense(x), 2, axis=-1)
        return value * keras.ops.sigmoid(gate)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


@register
def dense_backbone(
    input_shape: Sequence[int],
    units: Sequence[int],
    activation: str = "relu",
    gated: bool = False,
    name: str = "backbone",
) -> keras.Model:
    """Fully connected layers over the flattened example.

    Args:
        input_shape: Shape of one example, without the batch axis.
        units: Width of each layer.
        activation: Activation of each layer; ignored when gated.
        gated: Use `GatedDense`, as the VAEs of Tomczak & Welling 2018 do.
        name: Name of the model.
    """
    x = inputs = keras.Input(tuple(input_shape), name="x")
    x = layers.Flatten(name="flatten")(x)
    return keras.Model(inputs, _dense_stack(x, units, activation, gated), name=name)


@register
def dense_decoder(
    latent_dim: int,
    output_shape: Sequence[int],
    units: Sequence[int],
    activation: str = "relu",
    gated: bool = False,
    output_activation: str | None = None,
    name: str = "decoder",
) -> keras.Model:
    """Fully connected layers from a latent to an example.

    Args:
        latent_dim: Number of latent dimensions.
        output_shape: Shape of one example.
        units: Width of each hidden layer.
        activation: Activation of each hidden layer; ignored when gated.
        gated: Use `GatedDense`.
        output_activation: Activation of the last layer; None where the model reads logits.
        name: Name of the model.
    """
    output_shape = tuple(output_shape)
    x = inputs = keras.Input((latent_dim,), name="latent")
    x = _dense_stack(x, units, activation, gated)
    x = layers.Dense(math.prod(output_shape), activation=output_activation, name="output")(x)
    return keras.Model(inputs, layers.Reshape(output_shape, name="reshape")(x), name=name)


@register
def conv_backbone(
    input_shape: Sequence[int],
    filters: Sequence[int],
    units: Sequence[int] = (),
    kernel_size: int = 4,
    activation: str = "relu",
    name: str = "backbone",
) -> keras.Model:
    """Convolutions of stride 2, then fully connected layers.

    Args:
        input_shape: `(height, width, channels)`.
        filters: Channels of each convolution; each halves height and width.
        units: Width of each fully connected layer after them.
        kernel_size: Side of the kernels.
        activation: Activation of each layer.
        name: Name of the model.
    """
    x = inputs = keras.Input(tuple(input_shape), name="x")
    for i, count in enumerate(filters):
        x = layers.Conv2D(
            count, kernel_size, 2, "same", activation=activation, name=f"convolution_{i}"
        )(x)
    x = layers.Flatten(name="flatten")(x)
    return keras.Model(inputs, _dense_stack(x, units, activation, gated=False), name=name)


@register
def vgg_backbone(
    input_shape: Sequence[int],
    filters: Sequence[Sequence[int]],
    units: Sequence[int] = (),
    grid: int = 1,
    name: str = "backbone",
) -> keras.Model:
    """Blocks of 3x3 convolutions with batch normalisation, max-pooling between the blocks, average
    pooling, then fully connected layers: Simonyan & Zisserman 2015.

    Args:
        input_shape: `(height, width, channels)`.
        filters: Channels of each convolution of each block: `[[32], [64, 64]]`.
        units: Width of each fully connected layer after them.
        grid: Side of the grid that is averaged to: 1 forgets where features are.
        name: Name of the model.
    """
    x = inputs = keras.Input(tuple(input_shape), name="x")
    for i, block in enumerate(filters):
        if i:
            x = layers.MaxPooling2D(name=f"pool_{i}")(x)
        for j, count in enumerate(block):
            x = layers.Conv2D(count, 3, 1, "same", use_bias=False, name=f"convolution_{i}_{j}")(x)
            x = layers.BatchNormalization(
                momentum=0.9, synchronized=True, name=f"normalize_{i}_{j}"
            )(x)
            x = layers.ReLU(name=f"relu_{i}_{j}")(x)
    if grid == 1:
        x = layers.GlobalAveragePooling2D(name="average")(x)
    else:
        strides = [side // grid for side in x.shape[1:3]]
        window = [
            side - (grid - 1) * stride for side, stride in zip(x.shape[1:3], strides, strict=True)
        ]
        x = layers.AveragePooling2D(window, strides, name="average")(x)
        x = layers.Flatten(name="flatten")(x)
    return keras.Model(inputs, _dense_stack(x, units, "relu", gated=False), name=name)


@register
def conv_decoder(
    latent_dim: int,
    output_shape: Sequence[int],
    filters: Sequence[int],
    units: Sequence[int] = (),
    kernel_size: int = 4,
    activation: str = "relu",
    output_activation: str | None = None,
    name: str = "decoder",
) -> keras.Model:
    """Fully connected layers, then transposed convolutions of stride 2.

    Args:
        latent_dim: Number of latent dimensions.
        output_shape: `(height, width, channels)`; height and width divisible by
            `2 ** (len(filters) - 1)`.
        filters: Channels of the first feature map and after each transposed convolution.
        units: Width of each fully connected layer before them.
        kernel_size: Side of the kernels.
        activation: Activation of each hidden layer.
        output_activation: Activation of the last layer; None where the model reads logits.
        name: Name of the model.

    Raises:
        ValueError: The image cannot be halved that often.
    """
    height, width, channels = output_shape
    scale = 2 ** (len(filters) - 1)
    if height % scale or width % scale:
        raise ValueError(
            f"`filters` of length {len(filters)} needs height and width divisible by {scale}: "
            f"use fewer filters or pad the images. Received: output_shape={tuple(output_shape)}"
        )
    x = inputs = keras.Input((latent_dim,), name="latent")
    x = _dense_stack(x, units, activation, gated=False)
    grid = (height // scale, width // scale, filters[0])
    x = layers.Dense(math.prod(grid), activation=activation, name="project")(x)
    x = layers.Reshape(grid, name="grid")(x)
    for i, count in enumerate(filters[1:]):
        x = layers.Conv2DTranspose(
            count, kernel_size, 2, "same", activation=activation, name=f"upsample_{i}"
        )(x)
    x = layers.Conv2D(channels, 3, 1, "same", activation=output_activation, name="output")(x)
    return keras.Model(inputs, x, name=name)


def _dense_stack(x: Any, units: Sequence[int], activation: str, gated: bool) -> Any:
    for i, count in enumerate(units):
        if gated:
            x = GatedDense(count, name=f"gated_dense_{i}")(x)
        else:
            x = layers.Dense(count, activation=activation, name=f"dense_{i}")(x)
    return x
