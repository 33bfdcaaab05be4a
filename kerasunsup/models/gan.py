"""Generative adversarial networks: alternating steps of two players with two optimisers.

Goodfellow et al. 2014 (https://arxiv.org/abs/1406.2661, algorithm 1), Gulrajani et al. 2017
(https://arxiv.org/abs/1704.00028, algorithm 1, the gradient penalty), Mescheder et al. 2018
(https://arxiv.org/abs/1801.04406, equation 9, R1), Miyato & Koyama 2018 (classes).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras import layers, ops

from kerasunsup import losses
from kerasunsup.errors import InputError
from kerasunsup.layers import standard_normal_rows
from kerasunsup.models.base import (
    UnsupervisedModel,
    check_choice,
    output_activation,
    refuse_normalization,
)
from kerasunsup.models.verbs import verb
from kerasunsup.replicas import count_once, every_nth, global_mean, replica_count


class AdversarialLoss(NamedTuple):
    """The losses of both players, and whether the discriminator's takes `smoothing`."""

    discriminator: Any
    generator: Any
    smooths: bool = False


LOSSES = {
    "minimax": AdversarialLoss(losses.logistic_discriminator, losses.minimax_generator, True),
    "non_saturating": AdversarialLoss(
        losses.logistic_discriminator, losses.non_saturating_generator, True
    ),
    "least_squares": AdversarialLoss(
        losses.least_squares_discriminator, losses.least_squares_generator, True
    ),
    "hinge": AdversarialLoss(losses.hinge_discriminator, losses.negative_logit_generator),
    "wasserstein": AdversarialLoss(
        losses.wasserstein_discriminator, losses.negative_logit_generator
    ),
}


@keras.saving.register_keras_serializable("kerasunsup")
class GAN(UnsupervisedModel):
    """A generator and a discriminator (critic) that are trained in turns.

    A step takes one batch. With one discriminator step both players learn from the same samples,
    first the discriminator, then the generator. With more, each has an equal share of the examples
    and as many fresh samples, then the generator makes one step on fresh samples. (WGAN-GP with
    batches of 64 and five critic steps: batch_size=320.)

    Each player sees the other in training mode but leaves it as it is: weights, moving statistics
    and spectral vectors change in the player's own step only. Batch normalisation uses the
    statistics of the batch; examples and samples are separate batches (the DCGAN authors' code).

    With a value range the networks see examples scaled to [-1, 1]: let the generator end in tanh.
    Without one, for tables, let it end in no activation.

    Args:
        generator: Functional model, latent `(batch, latent_dim)` -> sample; with `labels`
            [latent, class] -> sample.
        discriminator: Functional model, example -> logit `(batch, 1)`; with `labels`
            [example, class] -> logit.
        latent_dim: Number of latent dimensions.
        loss: "minimax", "non_saturating", "least_squares", "hinge" or "wasserstein".
        gradient_penalty: "interpolated": (|grad D| - 1)^2 at uniform mixtures of an example and
            a sample, the penalty of WGAN-GP, for discriminators without batch normalisation;
            "r1": |grad D|^2 / 2 at examples; or None.
        penalty_weight: Factor of the penalty.
        discriminator_steps: Steps of the discriminator for one of the generator.
        label_smoothing: One-sided label smoothing: target 1 - label_smoothing for examples.
        ema: Decay of the moving average of the generator's weights, which `generate` uses and
            which alone is exported (a model loaded from an export has ema = 0); 0 for none. It
            begins as min(ema, (1 + step) / (10 + step)).
        labels: Number of classes of a conditional GAN, which trains on `(x, y)`.
        value_range: Range of valid inputs, for example (0, 1) for pixels.
        normalization: An adapted `keras.layers.Normalization` for tables.
        seed: Seed of noise and of the order of examples.

    Metrics: `discriminator_loss` (without penalty), `generator_loss`, `gradient_penalty`, and
    `discriminator_accuracy`, the share of pairs (example, sample) in which the example has the
    larger logit: 0.5 for a discriminator that knows nothing.

    Example:

        generator = networks.dcgan_generator(64, (28, 28, 1), filters=[96, 48, 24])
        discriminator = networks.dcgan_discriminator((28, 28, 1), filters=[32, 64])
        gan = GAN(generator, discriminator, latent_dim=64, value_range=(0, 1))
        gan.compile(keras.optimizers.Adam(2e-4, 0.5), keras.optimizers.Adam(2e-4, 0.5))
        gan.fit(images, batch_size=64, epochs=20)
        gan.generate(64, seed=7)["samples"]
    """

    main_verb = "generate"
    loss_terms = ("discriminator_loss", "generator_loss", "discriminator_accuracy")

    def __init__(
        self,
        generator: keras.Model,
        discriminator: keras.Model,
        latent_dim: int,
        *,
        loss: str = "non_saturating",
        gradient_penalty: str | None = None,
        penalty_weight: float = 10.0,
        discriminator_steps: int = 1,
        label_smoothing: float = 0.0,
        ema: float = 0.0,
        labels: int | None = None,
        value_range: tuple[float, float] | None = None,
        normalization: layers.Normalization | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        check_choice("loss", loss, tuple(LOSSES))
        check_choice("gradient_penalty", gradient_penalty, (None, "interpolated", "r1"))
        for argument, value, least in (
            ("latent_dim", latent_dim, 1),
            ("discriminator_steps", discriminator_steps, 1),
            ("penalty_weight", penalty_weight, 0),
            ("labels", 2 if labels is None else labels, 2),
        ):
            if value < least:
                raise InputError(f"`{argument}` must be at least {least}. Received: {value}")
        for argument, fraction in (("ema", ema), ("label_smoothing", label_smoothing)):
            if not 0 <= fraction < 1:
                raise InputError(f"`{argument}` must be in [0, 1). Received: {fraction}")
        if label_smoothing and not LOSSES[loss].smooths:
            raise InputError(
                f"`label_smoothing` has no meaning with loss={loss!r}, which has no targets. "
                f"Received: {label_smoothing}"
            )
        if value_range is not None:
            refuse_normalization(normalization, "a value range")
        _check_networks(generator, discriminator, latent_dim, labels)
        _check_output(generator, value_range)
        if gradient_penalty == "interpolated" and _has_batch_normalization(discriminator):
            raise InputError(
                "gradient_penalty='interpolated' is on the gradient of each example by itself: use "
                "a discriminator without BatchNormalization. Received: one with it"
            )
        super().__init__(
            input_shape=discriminator.inputs[0].shape[1:],
            value_range=value_range,
            normalization=normalization,
            seed=seed,
            **kwargs,
        )
        self.generator = generator
        self.discriminator = discriminator
        self.latent_dim = latent_dim
        self.loss = loss
        self.gradient_penalty = gradient_penalty
        self.penalty_weight = penalty_weight
        self.discriminator_steps = self.least_batch = discriminator_steps
        self.label_smoothing = label_smoothing
        self.ema = ema
        self.labels = labels

        # Networks
        self.averaged_generator: keras.Model | None = None
        if ema:
            self.averaged_generator = keras.models.clone_model(generator)
            self.averaged_generator.set_weights(generator.get_weights())
            self.averaged_generator.trainable = False
        self.penalty_tracker: keras.metrics.Metric | None = None
        if gradient_penalty:
            self.penalty_tracker = keras.metrics.Mean(name="gradient_penalty")
        self.build()

    def call(self, x: Any, label: Any = None, training: bool = False) -> Any:
        """Logits; of a conditional GAN without `label` their mean over all classes."""
        x = self.preprocess(x)
        if self.labels is None or label is not None:
            return self.logits(x, label, training)
        each = [ops.full((ops.shape(x)[0],), k, "int32") for k in range(self.labels)]
        return ops.mean(ops.stack([self.logits(x, one, training) for one in each]), axis=0)

    # Scaling

    def preprocess(self, x: Any) -> Any:
        x = super().preprocess(x)
        if self.value_range is None:
            return x
        low, high = self.value_range
        return 2.0 * (x - low) / (high - low) - 1.0

    def postprocess(self, x: Any) -> Any:
        x = super().postprocess(x)
        if self.value_range is None:
            return x
        low, high = self.value_range
        return ops.clip(low + 0.5 * (x + 1.0) * (high - low), low, high)

    # Networks

    def logits(
        self, x: Any, labels: Any = None, training: bool = False, frozen: bool = False
    ) -> Any:
        """Preprocessed examples (and their classes) -> logits, `(batch,)`."""
        inputs = self._inputs(x, labels)
        if frozen:
            logit = _frozen(self.discriminator, inputs)
        else:
            logit = self.discriminator(inputs, training=training)
        return ops.cast(ops.squeeze(logit, axis=-1), "float32")

    def samples(self, batch: Any, labels: Any, training: bool, frozen: bool = False) -> Any:
        """Fresh samples as the networks see them, `(batch, ...)`."""
        latent = self.noise.normal(batch, (self.latent_dim,), training)
        inputs = self._inputs(latent, labels)
        if frozen:
            return ops.cast(_frozen(self.generator, inputs), "float32")
        return ops.cast(self.generator(inputs, training=training), "float32")

    def _inputs(self, first: Any, labels: Any) -> Any:
        if self.labels is None:
            return first
        if labels is None:
            raise InputError(
                "This GAN is conditional: give a class for each example, as in "
                "discriminate(x, label=y). Received: no classes"
            )
        return [first, labels]

    # Losses

    def losses(self, x: Any, training: bool, labels: Any = None) -> dict[str, Any]:
        """Both players' losses, as `evaluate` shows them."""
        fake = self.samples(ops.shape(x)[0], labels, training)
        terms = self._discriminator_terms(x, fake, labels, training)
        fake_logits = self.logits(fake, labels, training)
        return {**terms, "generator_loss": LOSSES[self.loss].generator(fake_logits)}

    def _discriminator_terms(
        self, real: Any, fake: Any, labels: Any, training: bool
    ) -> dict[str, Any]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            if self.gradient_penalty == "r1":
                tape.watch(real)
            real_logits = self.logits(real, labels, training)
        fake_logits = self.logits(fake, labels, training)
        smoothing = {"smoothing": self.label_smoothing} if LOSSES[self.loss].smooths else {}
        terms = {
            "discriminator_loss": LOSSES[self.loss].discriminator(
                real_logits, fake_logits, **smoothing
            ),
            "discriminator_accuracy": 0.5 + 0.5 * ops.sign(real_logits - fake_logits),
        }
        if self.gradient_penalty == "r1":
            gradient = tape.gradient(real_logits, real)
            terms["gradient_penalty"] = 0.5 * _squared_norm(gradient)
        elif self.gradient_penalty == "interpolated":
            terms["gradient_penalty"] = self._interpolated_penalty(real, fake, labels, training)
        return terms

    def _interpolated_penalty(self, real: Any, fake: Any, labels: Any, training: bool) -> Any:
        mix = self.noise.uniform(ops.shape(real)[0], (1,) * (len(real.shape) - 1), training)
        between = mix * real + (1.0 - mix) * fake
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(between)
            logits = self.logits(between, labels, training)
        norm = ops.sqrt(_squared_norm(tape.gradient(logits, between)) + 1e-12)
        return ops.square(norm - 1.0)

    # Steps

    def step(self, x: Any, labels: Any = None) -> None:
        """Turns of the discriminator, then one of the generator.

        Where each has one turn, both take it on the same samples, as in PyTorch's DCGAN tutorial,
        https://docs.pytorch.org/tutorials/beginner/dcgan_faces_tutorial.html. A discriminator of
        several turns sees fresh samples in each, and so does the generator after it: algorithm 1
        of Goodfellow et al. 2014 and of Gulrajani et al. 2017.
        """
        batch = (x,) if labels is None else (x, labels)
        if self.discriminator_steps > 1 and replica_count() == 1:
            tf.debugging.assert_greater_equal(
                ops.shape(x)[0],
                self.discriminator_steps,
                "A batch needs a row for each discriminator step: batch(n, drop_remainder=True)",
            )
        if self.discriminator_steps == 1:
            with tf.GradientTape() as tape:
                fake = self.samples(ops.shape(x)[0], labels, training=True)
            terms = self.discriminator_step(x, labels, fake)
            terms.update(self.generator_step(x, labels, fake, tape))
        else:
            turns = []
            for i in range(self.discriminator_steps):
                share = [every_nth(rows, self.discriminator_steps, i) for rows in batch]
                turns.append(self.discriminator_step(*share))
            terms = {name: ops.concatenate([turn[name] for turn in turns]) for name in turns[0]}
            terms.update(self.generator_step(*share))
        self.track(terms)

    def discriminator_step(self, real: Any, labels: Any = None, fake: Any = None) -> dict[str, Any]:
        """One step of the discriminator on examples and as many samples, fresh when None."""
        if fake is None:
            fake = self.samples(ops.shape(real)[0], labels, training=True, frozen=True)
        with tf.GradientTape() as tape:
            terms = self._discriminator_terms(real, fake, labels, training=True)
            loss = global_mean(terms["discriminator_loss"])
            if self.gradient_penalty:
                loss += self.penalty_weight * global_mean(terms["gradient_penalty"])
            scaled = self.discriminator_optimizer.scale_loss(loss)
        variables = self.discriminator.trainable_variables
        self.minimize(tape, scaled, variables, "discriminator_optimizer")
        return terms

    def generator_step(
        self, like: Any, labels: Any = None, fake: Any = None, tape: tf.GradientTape | None = None
    ) -> dict[str, Any]:
        """One step of the generator on samples that `tape` saw, or on as many fresh as `like`."""
        recorded = tape or tf.GradientTape()
        with recorded:
            if fake is None:
                fake = self.samples(ops.shape(like)[0], labels, training=True)
            loss = LOSSES[self.loss].generator(self.logits(fake, labels, frozen=True))
            scaled = self.generator_optimizer.scale_loss(global_mean(loss))
        self.minimize(recorded, scaled, self.generator.trainable_variables, "generator_optimizer")
        self._average()
        return {"generator_loss": loss}

    def _average(self) -> None:
        if self.averaged_generator is None:
            return
        step = ops.cast(self.generator_optimizer.iterations, "float32")
        decay = ops.minimum(self.ema, (1.0 + step) / (10.0 + step))
        pairs = zip(self.averaged_generator.weights, self.generator.weights, strict=True)
        for average, weight in pairs:
            average.assign(decay * average + (1.0 - decay) * weight)

    def track(self, terms: Mapping[str, Any]) -> None:
        super().track(terms)
        if self.penalty_tracker is not None:
            self.penalty_tracker.update_state(count_once(terms["gradient_penalty"]))

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        penalty = [] if self.penalty_tracker is None else [self.penalty_tracker]
        return [*super().metrics, *penalty]

    # Compile

    @property
    def features(self) -> keras.Model:
        """The discriminator up to its logit: Radford et al. 2016, section 5."""
        logit = next(
            layer
            for layer in reversed(self.discriminator.layers)
            if layer.weights and layer.output.shape == (None, 1)
        )
        seen = keras.Model(self.discriminator.inputs[0], logit.input, name="seen")
        x = keras.Input(self.input_shape[1:], name="x")
        low, high = self.value_range or (-1.0, 1.0)
        scaled = layers.Rescaling(2 / (high - low), -(high + low) / (high - low), name="scale")(x)
        return keras.Model(x, seen(scaled), name="features")

    @property
    def optimizer_variables(self) -> dict[str, list[Any]]:
        return {
            "generator_optimizer": self.generator.trainable_variables,
            "discriminator_optimizer": self.discriminator.trainable_variables,
        }

    def optimizer_steps(self, name: str) -> int:
        return self.discriminator_steps if name == "discriminator_optimizer" else 1

    def compile(
        self,
        generator_optimizer: Any = "adam",
        discriminator_optimizer: Any = "adam",
        *,
        clip_norm: float | None = None,
        steps_per_execution: int | None = None,
        jit_compile: bool | None = None,
        run_eagerly: bool = False,
    ) -> None:
        """Attaches one optimiser to each player; other arguments as in every family.

        Raises:
            InputError: Both are the same object: each needs a state of its own.
        """
        if generator_optimizer is discriminator_optimizer and not isinstance(
            generator_optimizer, str
        ):
            raise InputError(
                "Generator and discriminator need an optimiser each. Received: the same object"
            )
        optimizers = {
            "generator_optimizer": generator_optimizer,
            "discriminator_optimizer": discriminator_optimizer,
        }
        self.compile_optimizers(
            optimizers, clip_norm, steps_per_execution, jit_compile, run_eagerly
        )

    # After training

    def without_training_state(self) -> GAN:
        """An uncompiled copy in which the averaged generator has taken the generator's place."""
        if self.averaged_generator is None:
            return super().without_training_state()
        copy = type(self).from_config({**self.get_config(), "ema": 0.0})
        copy.generator.set_weights(self.averaged_generator.get_weights())
        copy.discriminator.set_weights(self.discriminator.get_weights())
        copy.noise.state.assign(self.noise.state)
        if copy.normalization is not None and self.normalization is not None:
            copy.normalization.set_weights(self.normalization.get_weights())
            copy.normalization.finalize_state()
        return copy

    # Verbs

    @verb
    def generate(self, seed: Any, label: Any = None) -> dict[str, Any]:
        """(count, seed) -> `samples`, of the classes `label` if the model is conditional."""
        latent = standard_normal_rows(seed, self.latent_dim)
        generator = self.averaged_generator or self.generator
        return {"samples": self.postprocess(generator(self._inputs(latent, label), training=False))}

    @verb
    def discriminate(self, x: Any, label: Any = None) -> dict[str, Any]:
        """Examples (and their classes) -> `logit`: the larger, the more like the data."""
        return {"logit": self.logits(x, label)}


def _frozen(network: keras.Model, inputs: Any) -> Any:
    """Training-mode outputs of a network whose state stays as it is, random streams excepted."""
    outputs, states = network.stateless_call(
        network.trainable_variables, network.non_trainable_variables, inputs, training=True
    )
    weights = {id(variable) for variable in network.weights}
    for variable, state in zip(network.non_trainable_variables, states, strict=True):
        if id(variable) not in weights:
            variable.assign(state)
    return outputs


def _squared_norm(gradient: Any) -> Any:
    """Sum of squares of each example, `(batch,)`, float32."""
    return losses.sum_over_features(ops.square(ops.cast(gradient, "float32")))


def _check_output(generator: keras.Model, value_range: Any) -> None:
    """Raises if the generator's last activation cannot reach the data."""
    activation = output_activation(generator)
    if value_range is not None and activation in ("sigmoid", "linear"):
        raise InputError(
            "With a value range the networks see [-1, 1]: let the generator end in tanh. "
            f"Received: an output activation {activation!r}"
        )
    if value_range is None and activation in ("sigmoid", "tanh"):
        raise InputError(
            "Without a value range samples may be any number: let the generator end in no "
            "activation (output_activation='linear'), or give value_range=(low, high). "
            f"Received: an output activation {activation!r}"
        )


def _has_batch_normalization(network: keras.Model) -> bool:
    return any(isinstance(layer, layers.BatchNormalization) for layer in network.layers)


def _check_networks(
    generator: keras.Model, discriminator: keras.Model, latent_dim: int, labels: int | None
) -> None:
    """Raises unless the networks fit each other, the latent and the classes."""
    inputs = 1 if labels is None else 2
    for name, network in (("generator", generator), ("discriminator", discriminator)):
        if not getattr(network, "inputs", None):
            raise InputError(
                f"`{name}` must be a functional Keras model with known input shapes: begin a "
                f"Sequential with keras.Input(shape). Received: {type(network).__name__}"
            )
    example = tuple(discriminator.inputs[0].shape)
    for name, network, first, last in (
        ("generator", generator, (None, latent_dim), example),
        ("discriminator", discriminator, example, (None, 1)),
    ):
        shapes = [tuple(tensor.shape) for tensor in network.inputs]
        if len(shapes) != inputs or shapes[0] != first or tuple(network.output_shape) != last:
            classes = "" if labels is None else " and a class (None,)"
            raise InputError(
                f"`{name}` must map {first}{classes} to {last}. "
                f"Received: {shapes} to {tuple(network.output_shape)}"
            )
