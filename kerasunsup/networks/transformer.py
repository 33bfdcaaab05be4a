"""Vision transformers: images as sequences of patches.

Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929. A backbone is made of named parts, each a
functional model, so that a model may run them on some of the tokens: `patches` (image -> pixels of
each patch), `tokens` (pixels -> embedded patches at their positions), `blocks` (any number of
tokens -> tokens), and pooling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from kerasunsup.errors import InputError

register = keras.saving.register_keras_serializable("kerasunsup")

LONGEST_WAVELENGTH = 10_000.0
EXPANSION = 4  # width of the hidden layer of a block, in widths of a token


@register
class SinCosPositions(layers.Layer):
    """Adds its fixed position to each token: `(batch, rows * columns, width)`, the same shape out.

    Half of the width encodes the row r, half the column, each by sin(r w_i) and cos(r w_i) with
    w_i = 10000^(-4 i / width), i = 0, 1, …, width / 4 - 1: He et al. 2021, after Vaswani et al.
    2017, section 3.5.

    Args:
        grid: Number of rows and of columns.
    """

    def __init__(self, grid: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.grid = (grid[0], grid[1])

    def build(self, input_shape: tuple[int, ...]) -> None:
        if input_shape[-1] % 4:
            raise InputError(
                f"`width` must be divisible by 4, to encode positions. Received: {input_shape[-1]}"
            )
        self.positions = sin_cos_positions(self.grid, input_shape[-1])
        self.built = True

    def call(self, tokens: Any) -> Any:
        return tokens + ops.cast(self.positions, tokens.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "grid": self.grid}


def sin_cos_positions(grid: tuple[int, int], width: int) -> np.ndarray:
    """The table that `SinCosPositions` adds, float32 `(rows * columns, width)`."""
    frequencies = LONGEST_WAVELENGTH ** -(np.arange(width // 4) / (width / 4))
    rows, columns = (place.ravel()[:, None] * frequencies for place in np.indices(grid))
    table = [np.sin(rows), np.cos(rows), np.sin(columns), np.cos(columns)]
    return np.concatenate(table, axis=1).astype("float32")


@register
def vit_backbone(
    input_shape: Sequence[int],
    patch_size: int = 4,
    width: int = 64,
    depth: int = 4,
    heads: int = 4,
    pooling: int | None = None,
    name: str = "backbone",
) -> keras.Model:
    """A vision transformer: patches, pre-norm blocks without dropout, average pooling.

    Args:
        input_shape: `(height, width, channels)`; height and width divisible by `patch_size`.
        patch_size: Side of a patch in pixels; each patch becomes one token.
        width: Numbers in a token, divisible by 4 and by `heads`.
        depth: Number of blocks.
        heads: Attention heads of each block.
        pooling: Side, in tokens, of the square windows over which tokens are averaged; features
            are the averages of all windows. None averages all tokens.
        name: Name of the model.

    Raises:
        InputError: Sizes that do not divide each other.
    """
    image = keras.Input(tuple(input_shape), name="x")
    grid = _grid(input_shape, patch_size)
    patches = _patches(input_shape, patch_size)
    pixels = keras.Input(patches.output_shape[1:], name="pixels")
    tokens = SinCosPositions(grid, name="positions")(layers.Dense(width, name="embedding")(pixels))
    tokens = keras.Model(pixels, tokens, name="tokens")
    x = _blocks(width, depth, heads)(tokens(patches(image)))
    if pooling is None:
        x = layers.GlobalAveragePooling1D(name="average")(x)
    else:
        x = layers.Reshape((*grid, width), name="grid")(x)
        x = layers.AveragePooling2D(pooling, padding="same", name="average")(x)
        x = layers.Flatten(name="flatten")(x)
    return keras.Model(image, x, name=name)


@register
def vit_decoder(
    output_shape: Sequence[int],
    token_width: int,
    patch_size: int = 4,
    width: int = 32,
    depth: int = 1,
    heads: int = 4,
    name: str = "decoder",
) -> keras.Model:
    """The light decoder of a masked autoencoder: tokens of all patches -> pixels of each patch.

    Args:
        output_shape: Shape of an image, `(height, width, channels)`.
        token_width: Width of the backbone's tokens.
        patch_size: That of the backbone.
        width: Numbers in a token of the decoder, divisible by 4 and by `heads`.
        depth: Number of blocks.
        heads: Attention heads of each block.
        name: Name of the model.

    Raises:
        InputError: Sizes that do not divide each other.
    """
    grid = _grid(output_shape, patch_size)
    tokens = keras.Input((grid[0] * grid[1], token_width), name="tokens")
    x = layers.Dense(width, name="embedding")(tokens)
    x = _blocks(width, depth, heads)(SinCosPositions(grid, name="positions")(x))
    x = layers.Dense(patch_size**2 * output_shape[-1], name="pixels")(x)
    return keras.Model(tokens, x, name=name)


def image_of(patches: Any, input_shape: Sequence[Any]) -> Any:
    """Patches `(batch, tokens, patch_size**2 * channels)` -> images of `input_shape`."""
    height, width, channels = input_shape
    side = round((patches.shape[-1] / channels) ** 0.5)
    grid = ops.reshape(patches, (-1, height // side, width // side, side, side, channels))
    return ops.reshape(ops.transpose(grid, (0, 1, 3, 2, 4, 5)), (-1, height, width, channels))


def _patches(input_shape: Sequence[int], size: int) -> keras.Model:
    """Image -> pixels of each patch, unrounded under every precision policy."""
    rows, columns = _grid(input_shape, size)
    channels = input_shape[-1]
    x = image = keras.Input(tuple(input_shape), name="x")
    for layer in (
        layers.Reshape((rows, size, columns, size * channels), dtype="float32", name="split"),
        layers.Permute((1, 3, 2, 4), dtype="float32", name="gather"),
        layers.Reshape((rows * columns, size**2 * channels), dtype="float32", name="join"),
    ):
        x = layer(x)
    return keras.Model(image, x, name="patches")


def _blocks(width: int, depth: int, heads: int) -> keras.Model:
    """Pre-norm transformer blocks over `(batch, any number, width)`, and a last normalisation."""
    if width % 4 or width % heads:
        raise InputError(
            f"`width` must be divisible by 4 and by `heads`. Received: width={width}, heads={heads}"
        )
    x = tokens = keras.Input((None, width), name="tokens")
    for i in range(depth):
        y = layers.LayerNormalization(epsilon=1e-6, name=f"normalize_attention_{i}")(x)
        y = layers.MultiHeadAttention(heads, width // heads, name=f"attention_{i}")(y, y)
        x = layers.Add(name=f"add_attention_{i}")([x, y])
        y = layers.LayerNormalization(epsilon=1e-6, name=f"normalize_{i}")(x)
        y = layers.Dense(EXPANSION * width, activation="gelu", name=f"expand_{i}")(y)
        y = layers.Dense(width, name=f"contract_{i}")(y)
        x = layers.Add(name=f"add_{i}")([x, y])
    x = layers.LayerNormalization(epsilon=1e-6, name="normalize")(x)
    return keras.Model(tokens, x, name="blocks")


def _grid(input_shape: Sequence[int], patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches."""
    if len(input_shape) != 3 or any(side % patch_size for side in input_shape[:2]):
        raise InputError(
            f"A vision transformer needs images whose sides `patch_size` divides: choose another "
            f"or pad. Received: patch_size={patch_size}, shape {tuple(input_shape)}"
        )
    return input_shape[0] // patch_size, input_shape[1] // patch_size
