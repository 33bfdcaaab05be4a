"""Variational autoencoders: VAE, beta-VAE, free bits, the importance-weighted autoencoder.

Kingma & Welling 2014 (https://arxiv.org/abs/1312.6114), Higgins et al. 2017 (beta), Kingma et al.
2016 (https://arxiv.org/abs/1606.04934, free bits), Burda et al. 2016
(https://arxiv.org/abs/1509.00519, equation 8 and active units).
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from kerasunsup.errors import InputError
from kerasunsup.layers import AnomalyThreshold, standard_normal_rows
from kerasunsup.losses import (
    bernoulli_negative_log_likelihood,
    gaussian_negative_log_likelihood,
    log_mean_exp,
    log_normal,
    standard_normal_kl,
    sum_over_features,
)
from kerasunsup.metrics.active_units import ActiveUnits
from kerasunsup.models.base import (
    UnsupervisedModel,
    check_choice,
    check_linear_output,
    refuse_normalization,
)
from kerasunsup.models.likelihood import estimate_log_likelihood
from kerasunsup.models.verbs import batches, verb
from kerasunsup.replicas import count_once

LARGEST_LOG_VARIANCE = 10.0


@keras.saving.register_keras_serializable("kerasunsup")
class VAE(UnsupervisedModel):
    """A variational autoencoder with a diagonal Gaussian posterior and a standard normal prior.

    Args:
        backbone: Functional model, example -> features.
        decoder: Functional model, latent `(batch, latent_dim)` -> logits (Bernoulli) or mean
            (Gaussian) of an example.
        latent_dim: Number of latent dimensions.
        likelihood: "bernoulli" for values in [0, 1], or "gaussian".
        sigma: Standard deviation of the Gaussian likelihood; one learned number when None.
        beta: Weight of the KL term.
        kl_warmup_steps: Steps over which the weight of the KL term grows linearly to `beta`.
        free_bits: Nats of KL per latent dimension that cost nothing, counted for each example
            (Kingma et al. count them for the mean of a batch).
        importance_samples: k; above 1 the bound of the importance-weighted autoencoder is trained.
        binarization: For the Bernoulli likelihood: "dynamic" draws a binary example from the grey
            one for every batch, "static" once before training (arrays only), "none" takes grey
            values as expected ones.
        score_samples: Importance samples of `score`.
        value_range: Range of valid inputs; (0, 1) for the Bernoulli likelihood.
        normalization: An adapted `keras.layers.Normalization` for tables.
        seed: Seed of noise and of the order of examples.

    Metrics are in nats per example: `elbo`, `reconstruction` (-E log p(x|z)), `kl`; and
    `active_units`, the number of dimensions whose posterior mean varies by more than 0.01.
    """

    main_verb = "encode"
    loss_terms = ("loss", "elbo", "reconstruction", "kl")

    def __init__(
        self,
        backbone: keras.Model,
        decoder: keras.Model,
        latent_dim: int,
        *,
        likelihood: str = "bernoulli",
        sigma: float | None = None,
        beta: float = 1.0,
        kl_warmup_steps: int = 0,
        free_bits: float = 0.0,
        importance_samples: int = 1,
        binarization: str = "none",
        score_samples: int = 16,
        value_range: tuple[float, float] | None = None,
        normalization: layers.Normalization | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        check_choice("likelihood", likelihood, ("bernoulli", "gaussian"))
        check_choice("binarization", binarization, ("none", "static", "dynamic"))
        if likelihood == "bernoulli":
            check_linear_output(decoder, "likelihood='bernoulli'")
            value_range = value_range or (0.0, 1.0)
            refuse_normalization(normalization, "likelihood='bernoulli'")
        elif binarization != "none":
            raise InputError("`binarization` needs likelihood='bernoulli'. Received: 'gaussian'")
        for argument, value, least in (
            ("latent_dim", latent_dim, 1),
            ("importance_samples", importance_samples, 1),
            ("score_samples", score_samples, 1),
            ("beta", beta, 0),
            ("free_bits", free_bits, 0),
            ("kl_warmup_steps", kl_warmup_steps, 0),
        ):
            if value < least:
                raise InputError(f"`{argument}` must be at least {least}. Received: {value}")
        if sigma is not None and not sigma > 0:
            raise InputError(f"`sigma` must be positive, or None to learn it. Received: {sigma}")
        if importance_samples > 1 and free_bits:
            raise InputError("`free_bits` has no meaning in the importance-weighted bound.")
        super().__init__(
            input_shape=backbone.input_shape[1:],
            value_range=value_range,
            normalization=normalization,
            seed=seed,
            **kwargs,
        )
        self.backbone = backbone
        self.decoder = decoder
        self.latent_dim = latent_dim
        self.likelihood = likelihood
        self.sigma = sigma
        self.beta = beta
        self.kl_warmup_steps = kl_warmup_steps
        self.free_bits = free_bits
        self.importance_samples = importance_samples
        self.binarization = binarization
        self.score_samples = score_samples

        # Networks
        x = keras.Input(self.input_shape[1:], name="x")
        features = backbone(x)
        mean = layers.Dense(latent_dim, name="mean")(features)
        log_variance = layers.Dense(latent_dim, name="log_variance")(features)
        self.encoder = keras.Model(x, [mean, log_variance], name="encoder")
        self.check_decoder(decoder, (latent_dim,))
        if likelihood == "gaussian":
            self.log_sigma = self.add_weight(
                shape=(),
                initializer=keras.initializers.Constant(np.log(sigma or 1.0)),
                trainable=sigma is None,
                name="log_sigma",
                dtype="float32",
            )
        self.anomaly = AnomalyThreshold(name="anomaly")
        self.active_units = ActiveUnits(latent_dim, name="active_units")
        self.build()

    def call(self, x: Any, training: bool = False) -> Any:
        mean, _ = self.posterior(self.preprocess(x), training)
        return self.postprocess(self._decode(mean))

    # Losses

    def posterior(self, x: Any, training: bool = False) -> tuple[Any, Any]:
        """Mean and log-variance of q(z|x), each `(batch, latent_dim)`; |log-variance| < 10."""
        mean, raw = self.encoder(x, training=training)
        bounded = ops.tanh(ops.cast(raw, "float32") / LARGEST_LOG_VARIANCE)
        return ops.cast(mean, "float32"), LARGEST_LOG_VARIANCE * bounded

    def log_p_x_given_z(self, x: Any, z: Any, training: bool = False) -> Any:
        """log p(x|z) in nats, `(batch,)`."""
        output = self.decoder(z, training=training)
        if self.likelihood == "bernoulli":
            return -sum_over_features(bernoulli_negative_log_likelihood(x, output))
        return -sum_over_features(gaussian_negative_log_likelihood(x, output, self.log_sigma))

    def losses(self, x: Any, training: bool) -> dict[str, Any]:
        if self.binarization == "dynamic":
            draw = self.noise.uniform(ops.shape(x)[0], tuple(x.shape[1:]), training)
            x = ops.cast(draw < x, "float32")
        mean, log_variance = self.posterior(x, training)
        if self.importance_samples > 1:
            return {**self._importance_weighted(x, mean, log_variance, training), "mean": mean}
        noise = self.noise.normal(ops.shape(x)[0], (self.latent_dim,), training)
        z = mean + ops.exp(0.5 * log_variance) * noise
        reconstruction = -self.log_p_x_given_z(x, z, training)
        kl_per_dimension = standard_normal_kl(mean, log_variance)
        kl = ops.sum(kl_per_dimension, axis=-1)
        paid = ops.sum(ops.maximum(kl_per_dimension, self.free_bits), axis=-1)
        return {
            "loss": reconstruction + self._kl_weight(training) * (paid if self.free_bits else kl),
            "elbo": -reconstruction - kl,
            "reconstruction": reconstruction,
            "kl": kl,
            "mean": mean,
        }

    def _importance_weighted(
        self, x: Any, mean: Any, log_variance: Any, training: bool
    ) -> dict[str, Any]:
        k, batch = self.importance_samples, ops.shape(x)[0]
        noise = self.noise.normal(batch, (k, self.latent_dim), training)
        mean, log_variance = mean[:, None], log_variance[:, None]
        z = mean + ops.exp(0.5 * log_variance) * noise
        repeated = ops.repeat(x, k, axis=0)
        flat = ops.reshape(z, (-1, self.latent_dim))
        log_likelihood = ops.reshape(self.log_p_x_given_z(repeated, flat, training), (-1, k))
        log_ratio = log_normal(z) - log_normal(z, mean, log_variance)
        bound = log_mean_exp(log_likelihood + self._kl_weight(training) * log_ratio)
        kl = ops.sum(standard_normal_kl(mean[:, 0], log_variance[:, 0]), axis=-1)
        reconstruction = -ops.mean(log_likelihood, axis=1)
        elbo = ops.mean(log_likelihood + log_ratio, axis=1)
        return {"loss": -bound, "elbo": elbo, "reconstruction": reconstruction, "kl": kl}

    def _kl_weight(self, training: bool) -> Any:
        if not (training and self.kl_warmup_steps):
            return self.beta
        done = ops.cast(self.optimizer.iterations, "float32")
        return self.beta * ops.minimum(1.0, done / self.kl_warmup_steps)

    def track(self, terms: Any) -> None:
        super().track(terms)
        self.active_units.update_state(count_once(terms["mean"]))

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [*super().metrics, self.active_units]

    # Data

    def check_stream(self, x: tf.data.Dataset) -> None:
        super().check_stream(x)
        if self.binarization == "static":
            raise InputError(
                "binarization='static' draws once for an array in memory. Received: a "
                "tf.data.Dataset; binarise its examples, or use 'dynamic'"
            )

    def prepare(self, x: Any, name: str) -> np.ndarray:
        array = super().prepare(x, name)
        if self.binarization != "static":
            return array
        grey = array / 255.0 if array.dtype == np.uint8 else array
        drawn = np.random.default_rng(self.seed).random(array.shape, dtype="float32") < grey
        return drawn.astype("float32")

    def fixed_binarization(self, x: Any) -> Any:
        """One fixed draw of binary values from grey ones; binary values stay as they are."""
        if self.likelihood != "bernoulli":
            return x
        draw = tf.random.stateless_uniform(x.shape[1:], (0, 1), alg="philox")
        return ops.cast((1.0 - draw) <= x, "float32")

    # Likelihood

    def log_likelihood(
        self, x: Any, samples: int = 5000, batch_size: int = 100, seed: int = 0
    ) -> np.ndarray:
        """Importance-weighted estimate of log p(x) in nats, `(n,)`: Burda et al., equation 8.

        A lower bound in expectation that grows with `samples`. For a Bernoulli likelihood `x`
        must be binary: the estimate has no meaning for grey values.

        Args:
            x: Examples.
            samples: Importance samples per example (K).
            batch_size: Examples in memory at a time.
            seed: Seed of the samples.
        """
        return estimate_log_likelihood(self, x, samples, batch_size, seed)

    def evidence(self, x: Any, seed: int = 0, batch_size: int = 256) -> dict[str, np.ndarray]:
        """`elbo`, `reconstruction` and `kl` of each example in nats, one draw of z each."""
        parts = [
            self._evidence_terms(self.prepare(batch, "x"), tf.constant([seed, i]))
            for i, batch in enumerate(batches(x, batch_size, len(self.input_shape) - 1))
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    @tf.function(reduce_retracing=True)
    def _evidence_terms(self, x: Any, stream: Any) -> dict[str, Any]:
        x = self.preprocess(x)
        mean, log_variance = self.posterior(x)
        noise = tf.random.stateless_normal(tf.shape(mean), stream, alg="philox")
        z = mean + ops.exp(0.5 * log_variance) * noise
        reconstruction = -self.log_p_x_given_z(x, z)
        kl = ops.sum(standard_normal_kl(mean, log_variance), axis=-1)
        return {"elbo": -reconstruction - kl, "reconstruction": reconstruction, "kl": kl}

    # After training

    def finish(self, train: Any, validation: Any) -> None:
        """Ends the KL warm-up for good, calibrates the score on validation data."""
        self.kl_warmup_steps = 0
        self.calibrate(validation)

    # Verbs

    def _decode(self, latent: Any) -> Any:
        output = self.decoder(latent, training=False)
        return ops.sigmoid(output) if self.likelihood == "bernoulli" else output

    @verb
    def encode(self, x: Any) -> dict[str, Any]:
        """Examples -> `latent` (the posterior mean) and `log_variance`."""
        mean, log_variance = self.posterior(x)
        return {"latent": mean, "log_variance": log_variance}

    @verb
    def decode(self, latent: Any) -> dict[str, Any]:
        """Latents -> `reconstruction`: the mean of p(x|z), in the data's units."""
        return {"reconstruction": self.postprocess(self._decode(latent))}

    @verb
    def reconstruct(self, x: Any) -> dict[str, Any]:
        """Examples -> `reconstruction` through the posterior mean, in the data's units."""
        return {"reconstruction": self.postprocess(self._decode(self.posterior(x)[0]))}

    @verb
    def generate(self, seed: Any) -> dict[str, Any]:
        """(count, seed) -> `samples`: means of p(x|z) for z drawn from the prior."""
        latent = standard_normal_rows(seed, self.latent_dim)
        return {"samples": self.postprocess(self._decode(latent))}

    @verb
    def score(self, x: Any) -> dict[str, Any]:
        """Examples -> `score`, `probability`, `is_anomaly`.

        The score is the importance-weighted negative log-likelihood in nats, with one fixed set
        of `score_samples` draws; a Bernoulli likelihood scores one fixed binarisation.
        """
        x = self.fixed_binarization(x)
        mean, log_variance = self.posterior(x)
        k = self.score_samples
        noise = tf.random.stateless_normal((1, k, self.latent_dim), (0, 2), alg="philox")
        mean, log_variance = mean[:, None], log_variance[:, None]
        z = mean + ops.exp(0.5 * log_variance) * noise
        flat = ops.reshape(z, (-1, self.latent_dim))
        log_likelihood = self.log_p_x_given_z(ops.repeat(x, k, axis=0), flat)
        weights = (
            ops.reshape(log_likelihood, (-1, k)) + log_normal(z) - log_normal(z, mean, log_variance)
        )
        return self.anomaly(-log_mean_exp(weights))
