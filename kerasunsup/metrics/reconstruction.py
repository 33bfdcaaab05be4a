"""How far reconstructions are from the examples: mean squared error and PSNR."""

from __future__ import annotations

import numpy as np

SMALLEST_ERROR = 1e-10


def squared_errors(x: np.ndarray, reconstruction: np.ndarray) -> np.ndarray:
    """Mean squared error of each example over its values, `(n,)` float64.

    Args:
        x: Examples, `(n, ...)`.
        reconstruction: Same shape and units.
    """
    difference = np.asarray(x, "float32") - np.asarray(reconstruction, "float32")
    return np.square(difference).reshape(len(difference), -1).mean(axis=1, dtype="float64")


def mse(x: np.ndarray, reconstruction: np.ndarray) -> float:
    """Mean squared error over all values, in squared units of `x`."""
    return float(squared_errors(x, reconstruction).mean())


def psnr(errors: np.ndarray, peak: float = 1.0) -> float:
    """PSNR of the mean MSE: `10 log10(peak^2 / mean error)`, in dB.

    Args:
        errors: Mean squared error of each example, from `squared_errors`.
        peak: Width of the value range, 1 for pixels in [0, 1].
    """
    return float(_decibel(np.mean(errors), peak))


def psnr_per_image(errors: np.ndarray, peak: float = 1.0) -> float:
    """Mean over images of each image's PSNR in dB; never below `psnr` (Jensen).

    Errors below 1e-10 count as 1e-10, so that a perfect image gives 100 dB and not infinity.
    """
    return float(np.mean(_decibel(errors, peak)))


def _decibel(errors: np.ndarray, peak: float) -> np.ndarray:
    return 10 * np.log10(peak**2 / np.maximum(errors, SMALLEST_ERROR))
