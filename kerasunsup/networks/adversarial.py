"""Generators and discriminators of GANs.

Generators end in tanh where examples have a value range, which the networks see as [-1, 1].
Discriminators end in one logit. With `labels` both take a class as second input: generators
concatenate an embedding of it to the latent, discriminators project on one (Miyato & Koyama 2018,
https://arxiv.org/abs/1802.05637, equation 3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import layers

from kerasunsup.errors import InputError

register = keras.saving.register_keras_serializable("kerasunsup")

LEAK = 0.2
EMBEDDING = 50  # dimensions of a class for a generator


@register
def dense_generator(
    latent_dim: int,
    output_shape: Sequence[int],
    units: Sequence[int] = (256, 512, 1024),
    labels: int | None = None,
    output_activation: str | None = "tanh",
    name: str = "generator",
) -> keras.Model:
    """The generator of the classic tutorials: dense, leaky ReLU, batch normalisation.

    Args:
        latent_dim: Number of latent dimensions.
        output_shape: Shape of one example.
        units: Width of each hidden layer.
        labels: Number of classes, for a conditional generator.
        output_activation: "tanh"; "linear" for tables without a value range.
        name: Name of the model.
    """
    inputs, x = _generator_inputs(latent_dim, labels)
    for i, count in enumerate(units):
        x = layers.Dense(count, name=f"dense_{i}")(x)
        x = layers.LeakyReLU(LEAK, name=f"leaky_relu_{i}")(x)
        x = _batch_normalization(f"normalize_{i}", momentum=0.8)(x)
    x = layers.Dense(math.prod(output_shape), activation=output_activation, name="output")(x)
    return keras.Model(inputs, layers.Reshape(tuple(output_shape), name="reshape")(x), name=name)


@register
def dense_discriminator(
    input_shape: Sequence[int],
    units: Sequence[int] = (512, 256),
    dropout: float = 0.0,
    labels: int | None = None,
    name: str = "discriminator",
) -> keras.Model:
    """Fully connected layers with leaky ReLU over the flattened example.

    Args:
        input_shape: Shape of one example.
        units: Width of each hidden layer.
        dropout: Rate of the dropout after each hidden layer.
        labels: Number of classes, for a conditional discriminator.
        name: Name of the model.
    """
    example = keras.Input(tuple(input_shape), name="x")
    x = layers.Flatten(name="flatten")(example)
    for i, count in enumerate(units):
        x = layers.Dense(count, name=f"dense_{i}")(x)
        x = layers.LeakyReLU(LEAK, name=f"leaky_relu_{i}")(x)
        if dropout:
            x = layers.Dropout(dropout, name=f"dropout_{i}")(x)
    return _discriminator(example, x, labels, name, _unchanged)


@register
def dcgan_generator(
    latent_dim: int,
    output_shape: Sequence[int],
    filters: Sequence[int],
    labels: int | None = None,
    name: str = "generator",
) -> keras.Model:
    """Transposed convolutions of stride 2 with batch normalisation and ReLU: Radford et al. 2016.

    Args:
        latent_dim: Number of latent dimensions.
        output_shape: `(height, width, channels)`, divisible by `2 ** (len(filters) - 1)`.
        filters: Channels of the first feature map and after each transposed convolution.
        labels: Number of classes, for a conditional generator.
        name: Name of the model.

    Raises:
        InputError: The image cannot be halved that often.
    """
    inputs, x = _generator_inputs(latent_dim, labels)
    grid = _first_grid(output_shape, filters)
    x = layers.Dense(math.prod(grid), use_bias=False, name="project")(x)
    x = layers.Reshape(grid, name="grid")(x)
    x = layers.ReLU(name="relu")(_batch_normalization("normalize")(x))
    for i, count in enumerate(filters[1:]):
        x = layers.Conv2DTranspose(count, 4, 2, "same", use_bias=False, name=f"up_{i}")(x)
        x = layers.ReLU(name=f"relu_{i}")(_batch_normalization(f"normalize_{i}")(x))
    x = layers.Conv2D(output_shape[-1], 3, 1, "same", activation="tanh", name="output")(x)
    return keras.Model(inputs, x, name=name)


@register
def dcgan_discriminator(
    input_shape: Sequence[int],
    filters: Sequence[int],
    normalization: str = "batch",
    labels: int | None = None,
    name: str = "discriminator",
) -> keras.Model:
    """Convolutions of stride 2 with leaky ReLU: Radford et al. 2016.

    Args:
        input_shape: `(height, width, channels)`.
        filters: Channels of each convolution.
        normalization: "batch" (of all but the first convolution, as in the paper), "spectral"
            (of all layers, Miyato et al. 2018), or "none" (the critic of WGAN-GP, whose penalty
            is on the gradient of each example by itself).
        labels: Number of classes, for a conditional discriminator.
        name: Name of the model.
    """
    if normalization not in ("batch", "spectral", "none"):
        raise InputError(
            f"`normalization` must be batch, spectral or none. Received: {normalization!r}"
        )
    wrap = _spectral if normalization == "spectral" else _unchanged
    x = example = keras.Input(tuple(input_shape), name="x")
    for i, count in enumerate(filters):
        batch = normalization == "batch" and i > 0
        x = wrap(layers.Conv2D(count, 4, 2, "same", use_bias=not batch, name=f"convolution_{i}"))(x)
        if batch:
            x = _batch_normalization(f"normalize_{i}")(x)
        x = layers.LeakyReLU(LEAK, name=f"leaky_relu_{i}")(x)
    x = layers.Flatten(name="flatten")(x)
    return _discriminator(example, x, labels, name, wrap)


@register
def residual_generator(
    latent_dim: int,
    output_shape: Sequence[int],
    filters: Sequence[int],
    labels: int | None = None,
    name: str = "generator",
) -> keras.Model:
    """Residual blocks that double the image, with batch normalisation: Gulrajani et al. 2017.

    Args:
        latent_dim: Number of latent dimensions.
        output_shape: `(height, width, channels)`, divisible by `2 ** (len(filters) - 1)`.
        filters: Channels of the first feature map and after each block.
        labels: Number of classes, for a conditional generator.
        name: Name of the model.

    Raises:
        InputError: The image cannot be halved that often.
    """
    inputs, x = _generator_inputs(latent_dim, labels)
    grid = _first_grid(output_shape, filters)
    x = layers.Dense(math.prod(grid), name="project")(x)
    x = layers.Reshape(grid, name="grid")(x)
    for i, count in enumerate(filters[1:]):
        shortcut = layers.UpSampling2D(name=f"shortcut_up_{i}")(x)
        shortcut = layers.Conv2D(count, 1, name=f"shortcut_{i}")(shortcut)
        x = layers.ReLU(name=f"relu_{i}_0")(_batch_normalization(f"normalize_{i}_0")(x))
        x = layers.UpSampling2D(name=f"up_{i}")(x)
        x = layers.Conv2D(count, 3, 1, "same", name=f"convolution_{i}_0")(x)
        x = layers.ReLU(name=f"relu_{i}_1")(_batch_normalization(f"normalize_{i}_1")(x))
        x = layers.Conv2D(count, 3, 1, "same", name=f"convolution_{i}_1")(x)
        x = layers.Add(name=f"add_{i}")([x, shortcut])
    x = layers.ReLU(name="relu")(_batch_normalization("normalize")(x))
    x = layers.Conv2D(output_shape[-1], 3, 1, "same", activation="tanh", name="output")(x)
    return keras.Model(inputs, x, name=name)


@register
def residual_discriminator(
    input_shape: Sequence[int],
    filters: Sequence[int],
    spectral: bool = True,
    labels: int | None = None,
    name: str = "discriminator",
) -> keras.Model:
    """Residual blocks that halve the image, spectrally normalised: Miyato et al. 2018.

    Args:
        input_shape: `(height, width, channels)`.
        filters: Channels after each block.
        spectral: Normalise every layer spectrally (https://arxiv.org/abs/1802.05957).
        labels: Number of classes, for a conditional discriminator.
        name: Name of the model.
    """
    wrap = _spectral if spectral else _unchanged
    x = example = keras.Input(tuple(input_shape), name="x")
    for i, count in enumerate(filters):
        shortcut = layers.AveragePooling2D(2, padding="same", name=f"shortcut_down_{i}")(x)
        shortcut = wrap(layers.Conv2D(count, 1, name=f"shortcut_{i}"))(shortcut)
        if i:
            x = layers.LeakyReLU(LEAK, name=f"leaky_relu_{i}_0")(x)
        x = wrap(layers.Conv2D(count, 3, 1, "same", name=f"convolution_{i}_0"))(x)
        x = layers.LeakyReLU(LEAK, name=f"leaky_relu_{i}_1")(x)
        x = wrap(layers.Conv2D(count, 3, 1, "same", name=f"convolution_{i}_1"))(x)
        x = layers.AveragePooling2D(2, padding="same", name=f"down_{i}")(x)
        x = layers.Add(name=f"add_{i}")([x, shortcut])
    x = layers.LeakyReLU(LEAK, name="leaky_relu")(x)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    return _discriminator(example, x, labels, name, wrap)


def _generator_inputs(latent_dim: int, labels: int | None) -> tuple[Any, Any]:
    """The inputs of a generator and what its first layer sees."""
    latent = keras.Input((latent_dim,), name="latent")
    if labels is None:
        return latent, latent
    label = keras.Input((), dtype="int32", name="label")
    embedded = layers.Embedding(labels, EMBEDDING, name="embedding")(label)
    return [latent, label], layers.Concatenate(name="conditioned")([latent, embedded])


def _discriminator(
    example: Any,
    features: Any,
    labels: int | None,
    name: str,
    wrap: Callable[[layers.Layer], layers.Layer],
) -> keras.Model:
    """Ends a discriminator in one logit, `(batch, 1)`, and the projection on a class."""
    logit = wrap(layers.Dense(1, name="logit"))(features)
    if labels is None:
        return keras.Model(example, logit, name=name)
    label = keras.Input((), dtype="int32", name="label")
    embedded = wrap(layers.Embedding(labels, features.shape[-1], name="embedding"))(label)
    projection = layers.Dot(1, name="projection")([embedded, features])
    return keras.Model([example, label], layers.Add(name="sum")([logit, projection]), name=name)


def _first_grid(output_shape: Sequence[int], filters: Sequence[int]) -> tuple[int, int, int]:
    """Shape of the first feature map, which is doubled for each further number of filters."""
    height, width, _ = output_shape
    scale = 2 ** (len(filters) - 1)
    if height % scale or width % scale:
        raise InputError(
            f"`filters` of length {len(filters)} needs height and width divisible by {scale}: use "
            f"fewer filters or pad the images. Received: output_shape={tuple(output_shape)}"
        )
    return height // scale, width // scale, filters[0]


def _batch_normalization(name: str, momentum: float = 0.9) -> layers.Layer:
    return layers.BatchNormalization(momentum=momentum, synchronized=True, name=name)


def _spectral(layer: layers.Layer) -> layers.Layer:
    name = f"spectral_{layer.name}"
    return layers.SpectralNormalization(layer, dtype="float32", name=name)  # power iteration


def _unchanged(layer: layers.Layer) -> layers.Layer:
    return layer
