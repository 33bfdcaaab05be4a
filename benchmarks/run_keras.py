"""Keras as keras.io's examples write it: python -m benchmarks.run_keras ROW fit IMAGES.npy.

A `keras.Model` with a `train_step` of its own and `Mean` trackers, fitted to a float32 array.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from benchmarks.keras_models import build, networks_of, optimizers
from benchmarks.rows import ROWS, Row
from benchmarks.units import epochs_when_asked


class Tutorial(keras.Model):
    """What the examples have in common: trackers of losses."""

    def __init__(self, row: Row, first: keras.Model, second: keras.Model) -> None:
        super().__init__()
        self.row, self.first, self.second = row, first, second
        names = ("discriminator_loss", "generator_loss") if row.family == "gan" else ("loss",)
        self.trackers = {name: keras.metrics.Mean(name=name) for name in names}

    @property
    def metrics(self) -> list[Any]:
        return list(self.trackers.values())

    def results(self, **losses: Any) -> dict[str, Any]:
        """Updates the trackers."""
        for name, value in losses.items():
            self.trackers[name].update_state(value)
        return {name: tracker.result() for name, tracker in self.trackers.items()}


class Autoencoder(Tutorial):
    """An autoencoder or, of a VAE's networks, a VAE."""

    def train_step(self, x: Any) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            if self.row.family == "autoencoder":
                loss = ops.mean(ops.square(self.second(self.first(x)) - x))
            else:
                mean, log_variance = self.first(x)
                z = mean + ops.exp(0.5 * log_variance) * keras.random.normal(ops.shape(mean))
                pixels = keras.losses.binary_crossentropy(x, self.second(z), from_logits=True)
                kl = -0.5 * (1 + log_variance - ops.square(mean) - ops.exp(log_variance))
                loss = ops.mean(ops.sum(pixels, axis=(1, 2))) + ops.mean(ops.sum(kl, axis=1))
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        return self.results(loss=loss)


class GAN(Tutorial):
    """Both players on samples of their own, as in keras.io's DCGAN and WGAN-GP."""

    def compile(self, discriminator_optimizer: Any, generator_optimizer: Any) -> None:
        super().compile()
        self.discriminator_optimizer = discriminator_optimizer
        self.generator_optimizer = generator_optimizer

    def samples(self, x: Any) -> Any:
        """As many samples as there are rows in `x`."""
        latent = keras.random.normal((ops.shape(x)[0], self.row.latent_dim))
        return self.second(latent, training=True)

    def train_step(self, x: Any) -> dict[str, Any]:
        for real in ops.split(2 * x - 1, self.row.critic_steps):
            fake = self.samples(real)
            with tf.GradientTape() as tape:
                real_logits = self.first(real, training=True)
                fake_logits = self.first(fake, training=True)
                if self.row.critic_steps > 1:
                    loss = ops.mean(fake_logits) - ops.mean(real_logits)
                    cost = loss + 10.0 * self.penalty(real, fake)
                else:
                    real_loss = ops.mean(ops.softplus(-real_logits))
                    cost = loss = real_loss + ops.mean(ops.softplus(fake_logits))
            gradients = tape.gradient(cost, self.first.trainable_weights)
            self.discriminator_optimizer.apply_gradients(
                zip(gradients, self.first.trainable_weights, strict=True)
            )
        with tf.GradientTape() as tape:
            logits = self.first(self.samples(real), training=True)
            wasserstein = self.row.critic_steps > 1
            generator_loss = ops.mean(-logits if wasserstein else ops.softplus(-logits))
        gradients = tape.gradient(generator_loss, self.second.trainable_weights)
        self.generator_optimizer.apply_gradients(
            zip(gradients, self.second.trainable_weights, strict=True)
        )
        return self.results(discriminator_loss=loss, generator_loss=generator_loss)

    def penalty(self, real: Any, fake: Any) -> Any:
        """The gradient penalty of Gulrajani et al."""
        mix = keras.random.uniform((ops.shape(real)[0], 1, 1, 1))
        between = mix * real + (1 - mix) * fake
        with tf.GradientTape() as tape:
            tape.watch(between)
            logits = self.first(between, training=True)
        slope = tape.gradient(logits, between)
        return ops.mean(ops.square(ops.sqrt(ops.sum(ops.square(slope), axis=(1, 2, 3))) - 1))


def main(name: str, variant: str, images: str, *_: str) -> None:
    """Trains units until nobody asks for one."""
    row = ROWS[name]
    model = (GAN if row.family == "gan" else Autoencoder)(row, *networks_of(build(row)))
    model.compile(**optimizers(row))
    with contextlib.suppress(EOFError):
        model.fit(
            np.load(images)[: row.images].astype("float32") / 255,
            batch_size=row.images_per_step,
            epochs=10**6,
            callbacks=[epochs_when_asked()],
            verbose=0,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
