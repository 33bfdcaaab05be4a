"""The importance-weighted likelihood of a latent-variable model, in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from keras import ops

from kerasunsup.errors import InputError
from kerasunsup.losses import log_normal

if TYPE_CHECKING:
    from kerasunsup.models.vae import VAE

SAMPLES_PER_CALL = 50


def estimate_log_likelihood(
    model: VAE, x: Any, samples: int, batch_size: int, seed: int
) -> np.ndarray:
    """log 1/K sum_k p(x, z_k) / q(z_k | x), z_k ~ q(z | x): see `VAE.log_likelihood`."""
    if samples < 1:
        raise InputError(f"`samples` must be at least 1. Received: {samples}")
    array = model.prepare(x, "x")
    if model.likelihood == "bernoulli":
        scaled = array / 255.0 if array.dtype == np.uint8 else array
        if not np.isin(scaled, (0.0, 1.0)).all():
            raise InputError(
                "The importance-weighted likelihood of a Bernoulli model needs binary examples: "
                "binarise them first. Received: grey values"
            )
    chunk = min(SAMPLES_PER_CALL, samples)
    calls = -(-samples // chunk)

    @tf.function(reduce_retracing=True)
    def log_sums(batch: Any, first: Any) -> Any:
        batch = model.preprocess(batch)
        mean, log_variance = model.posterior(batch)
        mean, log_variance = mean[:, None], log_variance[:, None]
        rows = tf.shape(mean)[0]
        repeated = ops.repeat(batch, chunk, axis=0)

        def body(i: Any, total: Any) -> tuple[Any, Any]:
            stream = tf.stack([tf.constant(seed), first * calls + i])
            noise = tf.random.stateless_normal(
                (rows, chunk, model.latent_dim), stream, alg="philox"
            )
            z = mean + ops.exp(0.5 * log_variance) * noise
            flat = ops.reshape(z, (-1, model.latent_dim))
            log_likelihood = ops.reshape(model.log_p_x_given_z(repeated, flat), (-1, chunk))
            log_weights = log_likelihood + log_normal(z) - log_normal(z, mean, log_variance)
            kept = tf.range(chunk) + i * chunk < samples
            log_weights = tf.where(kept[None], log_weights, -np.inf)
            return i + 1, ops.logaddexp(total, ops.logsumexp(log_weights, axis=1))

        start = (tf.constant(0), tf.fill((rows,), -np.float32(np.inf)))
        return tf.while_loop(
            lambda i, _: i < calls, body, start, parallel_iterations=1, maximum_iterations=calls
        )[1]

    parts = [
        log_sums(array[first : first + batch_size], tf.constant(first // batch_size)).numpy()
        for first in range(0, len(array), batch_size)
    ]
    return np.concatenate(parts) - np.log(samples)
