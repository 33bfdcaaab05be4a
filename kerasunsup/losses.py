"""Per-example losses as pure functions of tensors. Likelihood terms are in nats.

Every function keeps the batch axis: averaging over the global batch is the model's work.
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf
from keras import ops


def sum_over_features(x: Any) -> Any:
    """Sums everything but the batch axis: `(batch, ...) -> (batch,)`."""
    return ops.sum(ops.reshape(x, (ops.shape(x)[0], -1)), axis=-1)


def mean_over_features(x: Any) -> Any:
    """Averages everything but the batch axis: `(batch, ...) -> (batch,)`."""
    return ops.mean(ops.reshape(x, (ops.shape(x)[0], -1)), axis=-1)


def squared_error(x: Any, reconstruction: Any) -> Any:
    """Mean squared error per example, `(batch,)`, in squared units of `x`."""
    return mean_over_features(ops.square(x - ops.cast(reconstruction, "float32")))


def bernoulli_negative_log_likelihood(x: Any, logits: Any) -> Any:
    """-log p(x | logits) per element, in nats; `x` in [0, 1].

    Written as `softplus(l) - x l`, which is stable for logits of any size. For x strictly between
    0 and 1 it is the expectation over x's Bernoulli draw.
    """
    logits = ops.cast(logits, "float32")
    return ops.softplus(logits) - x * logits


def gaussian_negative_log_likelihood(x: Any, mean: Any, log_sigma: Any) -> Any:
    """-log N(x; mean, exp(log_sigma)^2) per element, in nats."""
    scaled = (x - ops.cast(mean, "float32")) * ops.exp(-log_sigma)
    return 0.5 * ops.square(scaled) + log_sigma + 0.5 * math.log(2 * math.pi)


def standard_normal_kl(mean: Any, log_variance: Any) -> Any:
    """KL(N(mean, diag exp(log_variance)) || N(0, I)) per dimension, in nats.

    Kingma & Welling 2014 (https://arxiv.org/abs/1312.6114), appendix B.
    """
    return 0.5 * (ops.square(mean) + ops.exp(log_variance) - 1.0 - log_variance)


def log_normal(z: Any, mean: Any = 0.0, log_variance: Any = 0.0) -> Any:
    """log N(z; mean, diag exp(log_variance)) summed over the last axis, in nats."""
    scaled = ops.square(z - mean) * ops.exp(-log_variance)
    return -0.5 * ops.sum(scaled + log_variance + math.log(2 * math.pi), axis=-1)


def log_mean_exp(log_weights: Any, axis: int = 1) -> Any:
    """log(mean(exp(w))) along `axis`.

    Burda et al. 2016 (https://arxiv.org/abs/1509.00519), equation 8.
    """
    count = ops.cast(ops.shape(log_weights)[axis], "float32")
    return ops.logsumexp(log_weights, axis=axis) - ops.log(count)


def bernoulli_kl(target: float, rate: Any) -> Any:
    """KL(Bernoulli(target) || Bernoulli(rate)) per element, in nats; rate in (0, 1).

    The sparsity penalty of Lee, Ekanadham & Ng 2008 as used by Ng's lecture notes.
    """
    rate = ops.clip(rate, 1e-6, 1.0 - 1e-6)
    return target * (math.log(target) - ops.log(rate)) + (1.0 - target) * (
        math.log(1.0 - target) - ops.log(1.0 - rate)
    )


def squared_jacobian_norm(encoder: Any, x: Any) -> Any:
    """Squared Frobenius norm of d encoder(x) / d x, exact, `(batch,)`.

    Rifai et al. 2011, "Contractive Auto-Encoders", equation 5. Differentiable.
    """
    padded = tf.pad(x, [[0, 1]] + [[0, 0]] * (len(x.shape) - 1))  # never empty
    with tf.GradientTape() as tape:
        tape.watch(padded)
        latent = encoder(padded, training=True)
    jacobian = ops.cast(tape.batch_jacobian(latent, padded), "float32")
    return sum_over_features(ops.square(jacobian))[:-1]


def cross_entropy(labels: Any, logits: Any, smoothing: float = 0.0) -> Any:
    """-sum_k t_k log softmax(logits)_k per example, in nats, `(batch,)`.

    The target t is one-hot; with `smoothing` s it is (1 - s) one-hot + s / classes (Szegedy et al.
    2016, section 7).
    """
    log_probabilities = ops.log_softmax(ops.cast(logits, "float32"))
    classes = logits.shape[-1]
    target = (1.0 - smoothing) * ops.one_hot(labels, classes) + smoothing / classes
    return -ops.sum(target * log_probabilities, axis=-1)


# Losses of two views


def nt_xent(first: Any, second: Any, temperature: float) -> tuple[Any, Any]:
    """The normalised temperature-scaled cross-entropy in nats, averaged over both views.

    Chen et al. 2020 (https://arxiv.org/abs/2002.05709), equation 1.

    Args:
        first: Embeddings of length 1, `(batch, d)`.
        second: Those of the other views, in the same order.
        temperature: Divides the cosine similarities.

    Returns:
        Loss of each example, `(batch,)`, and the share of its two views whose most similar one of
        the batch is the other view.
    """
    rows = ops.shape(first)[0]
    views = ops.concatenate([first, second])
    similarity = ops.matmul(views, ops.transpose(views)) / temperature
    similarity = tf.linalg.set_diag(similarity, tf.fill([2 * rows], similarity.dtype.min))
    other = ops.concatenate([ops.arange(rows) + rows, ops.arange(rows)])
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(other, similarity)
    hits = ops.cast(tf.argmax(similarity, -1, output_type=tf.int32) == other, "float32")
    return tuple(ops.mean(ops.reshape(each, (2, rows)), axis=0) for each in (losses, hits))


def redundancy_reduction(correlation: Any) -> tuple[Any, Any]:
    """Terms of the loss of Barlow Twins: sum (1 - C_ii)^2 and sum_{i != j} C_ij^2.

    Zbontar et al. 2021 (https://arxiv.org/abs/2103.03230), equation 1.

    Args:
        correlation: Correlations between the embeddings of two views, `(d, d)`.
    """
    diagonal = tf.linalg.diag_part(correlation)
    across = ops.sum(ops.square(correlation)) - ops.sum(ops.square(diagonal))
    return ops.sum(ops.square(1.0 - diagonal)), across


# Adversarial losses: logits of real examples and of samples -> loss per example, to be minimised


def logistic_discriminator(real: Any, fake: Any, smoothing: float = 0.0) -> Any:
    """-(1 - s) log D(real) - s log(1 - D(real)) - log(1 - D(fake)), D = sigmoid(logit), in nats.

    Goodfellow et al. 2014 (https://arxiv.org/abs/1406.2661), equation 1; s is the one-sided label
    smoothing of Salimans et al. 2016 (https://arxiv.org/abs/1606.03498), section 3.4.
    """
    return ops.softplus(-real) + smoothing * real + ops.softplus(fake)


def minimax_generator(fake: Any) -> Any:
    """log(1 - D(fake)): what equation 1 of Goodfellow et al. minimises; saturates for a good D."""
    return -ops.softplus(fake)


def non_saturating_generator(fake: Any) -> Any:
    """-log D(fake): Goodfellow et al. 2014, section 3."""
    return ops.softplus(-fake)


def least_squares_discriminator(real: Any, fake: Any, smoothing: float = 0.0) -> Any:
    """(real - (1 - s))^2 / 2 + fake^2 / 2: Mao et al. 2017, https://arxiv.org/abs/1611.04076."""
    return 0.5 * ops.square(real - (1.0 - smoothing)) + 0.5 * ops.square(fake)


def least_squares_generator(fake: Any) -> Any:
    """(fake - 1)^2 / 2: Mao et al. 2017, equation 9."""
    return 0.5 * ops.square(fake - 1.0)


def hinge_discriminator(real: Any, fake: Any) -> Any:
    """max(0, 1 - real) + max(0, 1 + fake): Lim & Ye 2017, https://arxiv.org/abs/1705.02894."""
    return ops.relu(1.0 - real) + ops.relu(1.0 + fake)


def wasserstein_discriminator(real: Any, fake: Any) -> Any:
    """Fake - real: minus the estimate of the distance, Arjovsky et al. 2017,
    https://arxiv.org/abs/1701.07875.
    """
    return fake - real


def negative_logit_generator(fake: Any) -> Any:
    """-fake: the generator's loss against a hinge discriminator or a Wasserstein critic."""
    return -fake
