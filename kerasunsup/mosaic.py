"""Images side by side: arrays to pixels, pixels to one image."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from PIL import Image

from kerasunsup.checks import check_array
from kerasunsup.errors import InputError

GAP = 2  # pixels between the images of a grid


def as_pixels(images: Any) -> np.ndarray:
    """Floats in [0, 1] or uint8 `(n, height, width, channels)` -> uint8, channels 1, 3 or 4.

    Raises:
        InputError: Not images.
    """
    array = check_array(images, value_range=(0.0, 1.0), name="images")
    if array.ndim != 4 or array.shape[-1] not in (1, 3, 4):
        raise InputError(
            "Pictures need images (n, height, width, channels) with 1, 3 or 4 channels. "
            f"Received: {array.shape}"
        )
    return array if array.dtype == np.uint8 else np.rint(array * 255.0).astype("uint8")


def tile(pixels: np.ndarray, columns: int) -> np.ndarray:
    """uint8 `(n, height, width, channels)` -> one image, white between and after the last."""
    n, height, width, channels = pixels.shape
    rows = math.ceil(n / columns)
    shape = (rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, channels)
    canvas = np.full(shape, 255, "uint8")
    for i, image in enumerate(pixels):
        top, left = i // columns * (height + GAP), i % columns * (width + GAP)
        canvas[top : top + height, left : left + width] = image
    return canvas


def as_image(pixels: np.ndarray) -> Image.Image:
    """uint8 `(height, width, channels)` -> an image to save."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
