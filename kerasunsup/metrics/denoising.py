"""Gaussian noise on bounded data, and the best that a linear map can do against it."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

CHUNK = 2000


def noisy(
    x: np.ndarray, sigma: float, value_range: tuple[float, float], random: np.random.Generator
) -> np.ndarray:
    """`x + sigma * N(0, 1)` clipped to the value range, float32."""
    noise = random.standard_normal(x.shape, dtype="float32")
    return np.clip(x + np.float32(sigma) * noise, *value_range)


def linear_denoiser(
    x: np.ndarray, sigma: float, value_range: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """The linear map with the least expected squared error from noisy to clean examples.

    In closed form over all noise: with `y = clip(x + noise)`, `m = E[y|x]` and `v = Var[y|x]`
    (moments of a censored normal), `Cov(y) = Cov(m) + diag(E[v])` and `Cov(y, x) = Cov(m, x)`.

    Args:
        x: Clean training examples, `(n, d)`.
        sigma: Standard deviation of the noise.
        value_range: The noisy examples are clipped to it.

    Returns:
        Weights `(d, d)` and bias `(d,)`, float32: `clean = noisy @ weights + bias`.
    """
    size = x.shape[1]
    sum_x, sum_m, sum_v = np.zeros(size), np.zeros(size), np.zeros(size)
    sum_mm, sum_mx = np.zeros((size, size)), np.zeros((size, size))
    for start in range(0, len(x), CHUNK):
        clean = x[start : start + CHUNK].astype("float64")
        mean, variance = censored_normal_moments(clean, sigma, value_range)
        sum_x += clean.sum(axis=0)
        sum_m += mean.sum(axis=0)
        sum_v += variance.sum(axis=0)
        sum_mm += mean.T @ mean
        sum_mx += mean.T @ clean
    mean_x, mean_m = sum_x / len(x), sum_m / len(x)
    covariance = sum_mm / len(x) - np.outer(mean_m, mean_m) + np.diag(sum_v / len(x))
    weights = np.linalg.solve(covariance, sum_mx / len(x) - np.outer(mean_m, mean_x))
    return weights.astype("float32"), (mean_x - mean_m @ weights).astype("float32")


def censored_normal_moments(
    x: np.ndarray, sigma: float, value_range: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of `clip(x + sigma * N(0, 1), low, high)` for each value of `x`."""
    low, high = value_range
    a, b = (low - x) / sigma, (high - x) / sigma
    below, above = ndtr(a), ndtr(-b)
    inside = 1 - below - above
    density_a, density_b = _normal_density(a), _normal_density(b)
    mean = low * below + high * above + x * inside + sigma * (density_a - density_b)
    square = low**2 * below + high**2 * above + (x**2 + sigma**2) * inside
    square += sigma * ((x + low) * density_a - (x + high) * density_b)
    return mean, np.maximum(square - mean**2, 0.0)


def _normal_density(z: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
