"""What is wrong with a GAN in training, in words, from arrays alone.

Each check returns one sentence, "" where all is well. The thresholds are wide: a finding is meant
to be worth acting on, not to be frequent.
"""

from __future__ import annotations

import numpy as np

from kerasunsup.errors import InputError
from kerasunsup.metrics.anomaly import auroc

LARGEST = 1000  # examples that pairs are formed of
SATURATED_AUROC = 0.999
SATURATED_LOSS = 0.01  # nats; an undecided discriminator has log 2 = 0.69
STEEPEST = 4.0  # a gradient penalty keeps it near 1, or 2 where pixels are seen in [-1, 1]
SMALLEST_DIVERSITY = 0.5
MOST_DUPLICATES = 0.25
SMALLEST_MOVE = 0.01


def diagnose(
    real: np.ndarray,
    samples: np.ndarray,
    real_logits: np.ndarray,
    fake_logits: np.ndarray,
    earlier_samples: np.ndarray | None = None,
    *,
    loss: str = "non_saturating",
) -> list[str]:
    """All findings about a GAN, none if it looks healthy.

    Args:
        real: Real examples as the networks see them, `(n, ...)`, best 500 or more.
        samples: Samples in the same units, `(m, ...)`.
        real_logits: The discriminator's answer to `real`, `(n,)` or `(n, 1)`.
        fake_logits: The same of `samples`.
        earlier_samples: Samples of the same seeds from an earlier epoch, shape of `samples`.
        loss: Name of the adversarial loss: what the logits mean. Only log-odds saturate, only a
            Wasserstein critic must not be steep.

    Returns:
        Short sentences.

    Raises:
        InputError: Unequal shapes, or fewer than two examples.
    """
    findings = [mode_collapse(real, samples)]
    if loss in ("minimax", "non_saturating"):
        findings.append(saturated_discriminator(real_logits, fake_logits))
    elif loss == "wasserstein":
        findings.append(steep_critic(real, samples, real_logits, fake_logits))
    if earlier_samples is not None:
        findings.append(stalled_generator(real, samples, earlier_samples))
    return [finding for finding in findings if finding]


def saturated_discriminator(real_logits: np.ndarray, fake_logits: np.ndarray) -> str:
    """Whether a discriminator tells every sample from data and has nothing left to learn.

    Both must hold: the AUROC of the logits is 0.999 or more, and the cross-entropy, whose gradient
    is at most as large as itself, is below 0.01 nats. An AUROC of 1 alone is common early on.
    """
    real, fake = _logits(real_logits), _logits(fake_logits)
    area = _separation(real, fake)
    loss = float(np.logaddexp(0, -real).mean() + np.logaddexp(0, fake).mean()) / 2
    if area < SATURATED_AUROC or loss > SATURATED_LOSS:
        return ""
    return (
        f"The discriminator is saturated: it tells samples from data with AUROC {area:.4f} and a "
        f"cross-entropy of {loss:.2g} nats, which leaves nothing to learn. Slow it down (learning "
        "rate, size), smooth its labels, or use a Wasserstein loss with gradient penalty."
    )


def steep_critic(
    real: np.ndarray, samples: np.ndarray, real_logits: np.ndarray, fake_logits: np.ndarray
) -> str:
    """Whether a critic has left what a gradient penalty allows.

    A Wasserstein critic should tell samples from data and its logits have no scale of their own,
    so neither is a fault. But the means of a critic of slope 1 differ by no more than the mean
    distance of a real example from a sample (Kantorovich & Rubinstein): the gap there is
    at most the Wasserstein-1 distance.
    """
    real_logit, fake_logit = _logits(real_logits), _logits(fake_logits)
    first, second = _flat(real), _flat(samples)
    count = min(len(first), len(second))
    distance = float(np.linalg.norm(first[:count] - second[:count], axis=1).mean())
    gap = float(real_logit.mean() - fake_logit.mean())
    if gap <= STEEPEST * distance or _separation(real_logit, fake_logit) < SATURATED_AUROC:
        return ""
    return (
        f"The critic is too steep: its means on data and samples differ by {gap:.3g}, but data and "
        f"samples lie only {distance:.3g} apart, so its slope is far over 1. Raise the weight of "
        "the gradient penalty or lower the critic's learning rate."
    )


def mode_collapse(real: np.ndarray, samples: np.ndarray) -> str:
    """Whether samples are far less diverse than data, or many are nearly the same.

    Compared are the mean distance of pairs, and the share of samples whose nearest other sample
    is nearer than a quarter of the median of that distance among as many real examples. Which
    classes are missing only a classifier can say: see the protocol `class_entropy`.
    """
    first, second = _flat(real), _flat(samples)
    count = min(len(first), len(second))
    pairs, nearest = _spread(first[:count])
    sample_pairs, sample_nearest = _spread(second[:count])
    diversity = sample_pairs / pairs if pairs else 1.0
    duplicates = float((sample_nearest < np.median(nearest) / 4).mean())
    if diversity >= SMALLEST_DIVERSITY and duplicates <= MOST_DUPLICATES:
        return ""
    return (
        f"The generator has collapsed: samples lie {diversity:.0%} as far apart as data, and "
        f"{duplicates:.0%} of them have a near-duplicate among {count}. Lower the learning rates, "
        "use larger batches, or a loss with gradient penalty."
    )


def stalled_generator(real: np.ndarray, samples: np.ndarray, earlier_samples: np.ndarray) -> str:
    """Whether samples of the same seeds no longer change.

    The mean distance that a sample has moved is compared with the mean distance of two real
    examples.
    """
    now, before = _flat(samples), _flat(earlier_samples)
    if now.shape != before.shape:
        raise InputError(
            "Samples of two epochs are compared one by one: draw them from the same seeds. "
            f"Received: {np.shape(samples)} and {np.shape(earlier_samples)}"
        )
    pairs = _spread(_flat(real))[0]
    moved = float(np.linalg.norm(now - before, axis=1).mean()) / (pairs or 1.0)
    if moved >= SMALLEST_MOVE:
        return ""
    return (
        f"The generator has stalled: samples of the same seeds moved by {moved:.1%} of the "
        "distance between two real examples. Stop here if they are good; otherwise raise its "
        "learning rate or weaken the discriminator."
    )


def _separation(real: np.ndarray, fake: np.ndarray) -> float:
    return auroc(np.concatenate([real, fake]), np.arange(len(real) + len(fake)) < len(real))


def _spread(x: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean distance of two rows, and each row's distance to the nearest other."""
    from scipy.spatial.distance import pdist, squareform

    distances = pdist(x)
    square = squareform(distances)
    np.fill_diagonal(square, np.inf)
    return float(distances.mean()), square.min(axis=1)


def _flat(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, "float32")
    if len(x) < 2 or not np.isfinite(x).all():
        raise InputError(
            "Expected two finite examples or more. "
            f"Received: shape {x.shape}, {int((~np.isfinite(x)).sum())} values not finite"
        )
    return x[:LARGEST].reshape(len(x[:LARGEST]), -1)


def _logits(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, "float64").ravel()
