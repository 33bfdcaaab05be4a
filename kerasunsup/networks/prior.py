"""Autoregressive networks over grids of codes: what a VQ-VAE draws new grids from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops

from kerasunsup.errors import InputError

register = keras.saving.register_keras_serializable("kerasunsup")


@register
class ShiftedEmbedding(layers.Layer):
    """Embeds codes and shifts them by one place: place i gets code i - 1, and where it is.

    `(batch, places)`, whole numbers in [0, codes), -> `(batch, places, width)`.

    Args:
        codes: Number of codes.
        width: Values of an embedding.
    """

    def __init__(self, codes: int, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.codes = codes
        self.width = width
        self.embedding = layers.Embedding(codes, width, dtype=self.dtype_policy, name="embedding")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.embedding.build(input_shape)
        shape = (input_shape[1], self.width)
        small = keras.initializers.RandomNormal(stddev=0.05, seed=keras.random.SeedGenerator())
        self.start = self.add_weight(shape=(1, self.width), initializer=small, name="start")
        self.place = self.add_weight(shape=shape, initializer=small, name="place")
        self.built = True

    def call(self, codes: Any) -> Any:
        before = self.embedding(codes)[:, :-1]
        start = ops.broadcast_to(self.start, (ops.shape(codes)[0], 1, self.width))
        return ops.concatenate([start, before], axis=1) + self.place

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*input_shape, self.width)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "codes": self.codes, "width": self.width}


@register
def code_transformer(
    codes: int,
    grid: Sequence[int],
    width: int = 64,
    depth: int = 2,
    heads: int = 4,
    name: str = "prior",
) -> keras.Model:
    """A causal transformer over a grid of codes, row by row: Vaswani et al. 2017, pre-norm.

    Args:
        codes: Number of codes.
        grid: `(height, width)`.
        width: Values in each place between the layers.
        depth: Number of blocks.
        heads: Attention heads; `width` is divided among them.
        name: Name of the model, codes `(batch, height, width)` -> logits
            `(batch, height, width, codes)`, which depend on the codes before their place alone.

    Raises:
        InputError: `width` cannot be divided by `heads`.
    """
    if width % heads:
        raise InputError(f"`width` must be a multiple of heads={heads}. Received: {width}")
    height, columns = grid
    inputs = keras.Input((height, columns), dtype="int32", name="codes")
    x = layers.Reshape((math.prod(grid),), name="places")(inputs)
    x = ShiftedEmbedding(codes, width, name="shifted_embedding")(x)
    for i in range(depth):
        inner = layers.LayerNormalization(name=f"attention_norm_{i}")(x)
        attend = layers.MultiHeadAttention(heads, width // heads, name=f"attention_{i}")
        x = layers.Add(name=f"attended_{i}")([x, attend(inner, inner, use_causal_mask=True)])
        inner = layers.LayerNormalization(name=f"dense_norm_{i}")(x)
        inner = layers.Dense(4 * width, activation="gelu", name=f"dense_{i}_0")(inner)
        x = layers.Add(name=f"block_{i}")([x, layers.Dense(width, name=f"dense_{i}_1")(inner)])
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.Dense(codes, name="logits")(x)
    return keras.Model(inputs, layers.Reshape((height, columns, codes), name="grid")(x), name=name)
