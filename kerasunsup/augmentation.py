"""Random changes of images that keep what they show; layers, so that they run with the model.

Each row of the global batch gets its own draw, however the batch is split over replicas.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kerasunsup.errors import InputError
from kerasunsup.replicas import Noise

register = keras.saving.register_keras_serializable("kerasunsup")


class Augmentation(keras.layers.Layer):
    """Base of the augmentations: changes images `(batch, height, width, channels)` in training.

    Args:
        seed: Seed of the draws; drawn at random when None.

    Subclasses say how many uniform `draws` an image needs and how `change` uses them.
    """

    draws: int

    def __init__(self, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.noise = Noise(seed)
        self.seed = self.noise.seed

    def call(self, x: Any, training: bool = False) -> Any:
        return self.augment(x, training=True) if training else x

    def augment(self, x: Any, training: bool, stream: int = 0) -> Any:
        """The changed images; while evaluating, the draws of `stream` are always the same."""
        return self.change(x, self.noise.uniform(ops.shape(x)[0], (self.draws,), training, stream))

    def change(self, x: Any, draw: Any) -> Any:
        """Images changed by uniform draws `(batch, draws)` in (0, 1)."""
        raise NotImplementedError

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "seed": self.seed}


@register
class CropAndFlip(Augmentation):
    """Pads, crops at random and flips left-right by chance: He et al. 2016, section 4.2.

    Args:
        padding: Pixels of zeros around the image before it is cropped to its size.
        flip: Flip half of the images.
        seed: Seed of the draws; drawn at random when None.
    """

    draws = 3

    def __init__(
        self, padding: int, flip: bool = True, seed: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(seed, **kwargs)
        self.padding = padding
        self.flip = flip

    def change(self, x: Any, draw: Any) -> Any:
        height, width = x.shape[1:3]
        offsets = tf.cast(draw[:, :2] * (2 * self.padding + 1), tf.int32)
        rows = offsets[:, :1] + tf.range(height)
        columns = offsets[:, 1:] + tf.range(width)
        if self.flip:
            columns = tf.where(draw[:, 2:] < 0.5, columns, columns[:, ::-1])
        border = [[0, 0], [self.padding] * 2, [self.padding] * 2, [0, 0]]
        x = tf.gather(tf.pad(x, border), rows, axis=1, batch_dims=1)
        return tf.gather(x, columns, axis=2, batch_dims=1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "padding": self.padding, "flip": self.flip}


@register
class RandomResizedCrop(Augmentation):
    """Cuts out a part at random and scales it to the size of the image, bilinearly.

    Szegedy et al. 2015; the crop of SimCLR (Chen et al. 2020, appendix A).

    Args:
        area: Smallest and largest part of the image's area, in (0, 1].
        ratio: Smallest and largest ratio of the part's width to its height.
        flip: Flip half of the images left-right.
        seed: Seed of the draws; drawn at random when None.
    """

    draws = 5

    def __init__(
        self,
        area: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: bool = True,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(seed, **kwargs)
        if not 0 < area[0] <= area[1] <= 1:
            raise InputError(f"`area` must be two numbers in (0, 1]. Received: {area}")
        if not 0 < ratio[0] <= ratio[1]:
            raise InputError(f"`ratio` must be two positive numbers. Received: {ratio}")
        self.area = tuple(area)
        self.ratio = tuple(ratio)
        self.flip = flip

    def change(self, x: Any, draw: Any) -> Any:
        area = self.area[0] + (self.area[1] - self.area[0]) * draw[:, 0]
        low, high = (tf.math.log(tf.constant(limit, tf.float32)) for limit in self.ratio)
        ratio = tf.exp(low + (high - low) * draw[:, 1])
        height = tf.minimum(tf.sqrt(area / ratio), 1.0)
        width = tf.minimum(tf.sqrt(area * ratio), 1.0)
        rows = _interpolation(x.shape[1], height, draw[:, 2])
        columns = _interpolation(x.shape[2], width, draw[:, 3])
        if self.flip:
            columns = tf.where(draw[:, 4, None, None] < 0.5, columns, columns[:, ::-1])
        x = tf.einsum("bij,bjwc->biwc", rows, x)
        return tf.einsum("bij,bhjc->bhic", columns, x)

    def get_config(self) -> dict[str, Any]:
        own = {"area": self.area, "ratio": self.ratio, "flip": self.flip}
        return {**super().get_config(), **own}


@register
class BrightnessAndContrast(Augmentation):
    """Scales the differences to the image's mean, then all values; the result stays in [0, 1].

    Args:
        strength: Both factors lie in [1 - strength, 1 + strength]; in (0, 1].
        seed: Seed of the draws; drawn at random when None.
    """

    draws = 2

    def __init__(self, strength: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(seed, **kwargs)
        if not 0 < strength <= 1:
            raise InputError(f"`strength` must lie in (0, 1]. Received: {strength}")
        self.strength = strength

    def change(self, x: Any, draw: Any) -> Any:
        factor = 1.0 + self.strength * (2.0 * draw - 1.0)
        contrast, brightness = factor[:, 0, None, None, None], factor[:, 1, None, None, None]
        mean = ops.mean(x, axis=(1, 2, 3), keepdims=True)
        return ops.clip((mean + contrast * (x - mean)) * brightness, 0.0, 1.0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "strength": self.strength}


def _interpolation(size: int, part: Any, position: Any) -> Any:
    """Matrices `(batch, size, size)` that scale `part` of a line of pixels up to the whole line.

    Args:
        size: Number of pixels.
        part: Part of the line, `(batch,)` in (0, 1].
        position: Where it starts, from 0 (left) to 1 (right), `(batch,)`.
    """
    pixels = tf.range(size, dtype=tf.float32)
    start = (1.0 - part) * position * size
    source = start[:, None] + (pixels + 0.5) * part[:, None] - 0.5
    source = tf.clip_by_value(source, 0.0, size - 1.0)
    return tf.nn.relu(1.0 - tf.abs(source[:, :, None] - pixels))
