"""How good samples are: distances between sets of features, and what is near to what.

Everything here takes flat arrays, one row an example. Features come from a frozen classifier of
ours: no Inception, so the Frechet distance of these features is FCD, never FID.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from kerasunsup.errors import InputError

CHUNK = 500
KERNEL_SUBSETS = 10
NEIGHBOURS = 3  # Kynkaanniemi et al. 2019
DENSITY_NEIGHBOURS = 5  # Naeem et al. 2020
NEAREST_SHARE = 0.01


class Estimate(NamedTuple):
    """A value and its standard error."""

    value: float
    error: float


class NeighbourMeasures(NamedTuple):
    """See `neighbour_measures`.

    Attributes:
        precision: Share of the samples inside the manifold of the data.
        recall: Share of the data inside the manifold of the samples.
        density: Mean number of real examples' balls that a sample lies in, / k; 0 and more, 1
            expected of real examples.
        coverage: Share of the real examples' balls with a sample in them; `1 - 2^-k` expected of
            as many real examples.
    """

    precision: float
    recall: float
    density: float
    coverage: float


# Moments


def frechet_distance(real: np.ndarray, samples: np.ndarray) -> float:
    """Squared Frechet distance between the Gaussians fitted to two sets, 0 and more.

    `|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))`, Dowson & Landau 1982, equation 4, in float64. The
    last trace is the sum of the square roots of the eigenvalues of `C^(1/2) C' C^(1/2)`, which is
    symmetric: no complex matrix root. Heusel et al. 2017, https://arxiv.org/abs/1706.08500,
    equation 6, use it on Inception features. It is biased upwards, the more the smaller n:
    compare values of equal n only.

    Args:
        real: Features, `(n, d)`.
        samples: Features, `(m, d)`.

    Returns:
        In squared units of the features.

    Raises:
        InputError: Fewer than two rows, unequal widths, NaN or infinite features.
    """
    real, samples = _checked(real, samples)
    covariance, other = (np.cov(x, rowvar=False).reshape(x.shape[1], -1) for x in (real, samples))
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ other @ root)
    shift = np.square(real.mean(axis=0) - samples.mean(axis=0)).sum()
    overlap = np.sqrt(np.maximum(product, 0)).sum()
    return max(0.0, float(shift + np.trace(covariance) + np.trace(other) - 2 * overlap))


def total_variance(features: np.ndarray) -> float:
    """Trace of the covariance of features `(n, d)`: what makes a Frechet distance free of units."""
    return float(np.var(np.asarray(features, "float64"), axis=0, ddof=1).sum())


# Kernels


def kernel_distance(
    real: np.ndarray, samples: np.ndarray, subsets: int = KERNEL_SUBSETS, seed: int = 0
) -> Estimate:
    """KID: squared maximum mean discrepancy under the kernel `(x.y / d + 1)^3`, unbiased.

    Binkowski et al. 2018, https://arxiv.org/abs/1801.01401, section 4, with the estimator of
    Gretton et al. 2012, https://jmlr.org/papers/v13/gretton12a.html, equation 3. Its expectation
    does not depend on n and is 0 for equal distributions, so values below 0 happen. The subsets
    here are disjoint: their estimates are independent, and the standard error is honest.

    Args:
        real: Features, `(n, d)`.
        samples: Features, `(m, d)`.
        subsets: Number of random parts that both sets are cut into.
        seed: Seed of the cut.

    Returns:
        Mean of the subsets' estimates and its standard error.

    Raises:
        InputError: Fewer than two rows a subset, unequal widths, NaN or infinite features.
    """
    real, samples = _checked(real, samples)
    fewest = min(len(real), len(samples))
    if subsets < 2 or fewest < 2 * subsets:
        raise InputError(
            "KID needs two subsets or more and two examples a subset. "
            f"Received: {subsets} subsets of {fewest} examples"
        )
    random = np.random.default_rng(seed)
    parts = (np.array_split(x[random.permutation(len(x))], subsets) for x in (real, samples))
    values = [_unbiased_mmd(x, y) for x, y in zip(*parts, strict=True)]
    return Estimate(float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(subsets)))


def _unbiased_mmd(x: np.ndarray, y: np.ndarray) -> float:
    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: np.ndarray) -> float:
        values = kernel(a, a)
        return (values.sum() - np.trace(values)) / (len(a) * (len(a) - 1))

    return within(x) + within(y) - 2 * kernel(x, y).mean()


# Neighbours


def neighbour_measures(
    real: np.ndarray,
    samples: np.ndarray,
    k: int = NEIGHBOURS,
    density_k: int = DENSITY_NEIGHBOURS,
) -> NeighbourMeasures:
    """Precision, recall, density and coverage, from one pass over all distances.

    Around each point stands a ball that reaches its `k`-th nearest neighbour in its own set. The
    union of the balls is the set's manifold, and precision and recall are the shares of the points
    of one set inside the manifold of the other: Kynkaanniemi et al. 2019,
    https://arxiv.org/abs/1904.06991, equations 1 and 2. Density and coverage use balls around real
    examples only, where one stray sample counts for little: Naeem et al. 2020,
    https://arxiv.org/abs/2002.09797, equations 3 and 4.

    Args:
        real: Features, `(n, d)`.
        samples: Features, `(m, d)`; the papers take m = n.
        k: Neighbour that a ball of precision and recall reaches, the point itself not counted.
        density_k: The same of density and coverage.

    Raises:
        InputError: Not more rows than neighbours, unequal widths, NaN or infinite features.
    """
    real, samples = _checked(real, samples, max(k, density_k))
    around_real, around_dense = kth_squared_distances(real, k, density_k).T
    around_samples = kth_squared_distances(samples, k)[:, 0]
    precise, balls = 0, 0
    reached, covered = np.zeros(len(real), bool), np.zeros(len(real), bool)
    for rows, squares in _squared_distances(samples, real):
        precise += int((squares <= around_real).any(axis=1).sum())
        reached |= (squares <= around_samples[rows, None]).any(axis=0)
        inside = squares <= around_dense
        balls += int(inside.sum())
        covered |= inside.any(axis=0)
    return NeighbourMeasures(
        precise / len(samples),
        float(reached.mean()),
        balls / (density_k * len(samples)),
        float(covered.mean()),
    )


def kth_squared_distances(x: np.ndarray, *ks: int) -> np.ndarray:
    """Squared Euclidean distance of each row to its `k`-th nearest other row, `(n, len(ks))`."""
    found = np.empty((len(x), len(ks)))
    for rows, squares in _squared_distances(x, x):
        squares[np.arange(len(squares)), np.arange(rows.start, rows.stop)] = -1.0
        found[rows] = np.partition(squares, ks, axis=1)[:, ks]
    return found


def nearest_distance(train: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Euclidean distance of each row of `x` to the nearest row of `train`, `(n,)`.

    The nearest is found in float32; its distance is then exact, 0 for a copy.
    """
    train, x = np.asarray(train, "float32"), np.asarray(x, "float32")
    squares = np.square(train).sum(axis=1)
    nearest = np.empty(len(x), "float32")
    for start in range(0, len(x), CHUNK):
        some = x[start : start + CHUNK]
        found = (squares - 2 * some @ train.T).argmin(axis=1)
        nearest[start : start + CHUNK] = np.linalg.norm(some - train[found], axis=1)
    return nearest


def memorization(samples: np.ndarray, test: np.ndarray, share: float = NEAREST_SHARE) -> float:
    """Share of the samples that lie nearer to a training example than most test examples do.

    Args:
        samples: Distance of each sample to the nearest training example: `nearest_distance`.
        test: The same of test examples.
        share: The threshold is what this share of the test examples does not exceed.

    Returns:
        In [0, 1]: `share` expected of new examples of the data's distribution, 1 of copies of
        training examples. Blurred samples lie nearer to everything and score higher too.
    """
    return float((samples <= np.quantile(test, share)).mean())


# Classes


def class_entropy(labels: np.ndarray) -> float:
    """Entropy in nats of the shares of the classes among `labels`, `(n,)` integers.

    0 for a single class, log(classes) when all are equally many.
    """
    counts = np.unique(labels, return_counts=True)[1]
    shares = counts / counts.sum()
    return float(max(0.0, -(shares * np.log(shares)).sum()))


def _checked(real: np.ndarray, samples: np.ndarray, k: int = 1) -> tuple[np.ndarray, np.ndarray]:
    arrays = np.asarray(real, "float64"), np.asarray(samples, "float64")
    shapes = [x.shape for x in arrays]
    if any(len(s) != 2 or s[0] <= k or s[1] != shapes[0][1] for s in shapes):
        raise InputError(
            f"Expected features (n, d) of real examples and of samples, equal d, n over {k}. "
            f"Received: {shapes[0]} and {shapes[1]}"
        )
    if not all(np.isfinite(x).all() for x in arrays):
        raise InputError(
            "Features must be finite: look for NaN in the samples. Received: NaN or infinity"
        )
    return arrays


def _squared_distances(x: np.ndarray, reference: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields (rows, squared distances of these rows of `x` to all of `reference`)."""
    norms = np.square(reference).sum(axis=1)
    for start in range(0, len(x), CHUNK):
        some = x[start : start + CHUNK]
        squares = some @ reference.T
        squares *= -2
        squares += norms
        squares += np.square(some).sum(axis=1)[:, None]
        yield slice(start, start + len(some)), np.maximum(squares, 0, out=squares)
