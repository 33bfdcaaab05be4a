"""VQ-VAE: an autoencoder whose latent is a grid of codes, and an autoregressive prior over them.

van den Oord et al. 2017, https://arxiv.org/abs/1711.00937: equations 1 to 3, the codebook by
moving averages of appendix A.1, the prior of section 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from kerasunsup.codebook import Codebook
from kerasunsup.errors import InputError
from kerasunsup.layers import AnomalyThreshold, gumbel_rows
from kerasunsup.losses import cross_entropy, squared_error, sum_over_features
from kerasunsup.metrics.perplexity import Perplexity
from kerasunsup.models.base import UnsupervisedModel, refuse_normalization
from kerasunsup.models.verbs import batches, verb
from kerasunsup.replicas import count_once, global_mean

OPTIMIZERS = ("optimizer", "prior_optimizer")  # of each stage
DEAD = 0.05  # perplexity as a share of the number of codes


@keras.saving.register_keras_serializable("kerasunsup")
class VQVAE(UnsupervisedModel):
    """A vector-quantised autoencoder; with a prior it has the verb `generate`.

    Each place of a grid of latents is replaced by the nearest of `codes` vectors. An example is
    then a grid of whole numbers, which `decode` takes: `bits` bits.

    With a prior, training has two stages: first the autoencoder, which minimises the squared error
    + `commitment` |z - e|^2 (equation 3; both averaged over values, the gradient of the decoder's
    input copied to z), then for the last `prior_epochs` epochs the prior, which minimises
    -log p(codes) with the autoencoder frozen.

    Args:
        backbone: Functional model, example -> grid of features `(height, width, features)`.
        decoder: Functional model, `(height, width, code_dim)` -> example.
        codes: Number of vectors in the codebook (K).
        code_dim: Values of a vector.
        commitment: Weight of the commitment loss (beta).
        decay: Of the codebook's moving averages.
        restart: Share of the mean use below which a code is re-seeded; see `Codebook`.
        prior: Functional model, codes `(height, width)` -> logits `(height, width, codes)` that
            depend, row by row, on the codes before their place alone, such as
            `networks.code_transformer`.
        prior_epochs: Epochs, the last of a training, that the prior is trained in. A `fit` of no
            more epochs goes on with the prior of a trained autoencoder.
        value_range: Range of valid inputs, for example (0, 1) for pixels.
        normalization: An adapted `keras.layers.Normalization`, for data without a value range.
        seed: Seed of re-seeding and of the order of examples.

    Metrics: `reconstruction` (mean squared error), `commitment`, `code_nll` (-log p(codes) in nats
    per example: of equally likely codes until the prior is trained) and the `perplexity` of the
    codebook over the epoch, from 1 to `codes`. `loss` is what the stage minimises. `findings` says
    when codes are dead.

    Example:

        backbone = networks.grid_backbone((28, 28, 1), filters=[32, 64])
        decoder = networks.grid_decoder(16, (28, 28, 1), filters=[64, 32, 16])
        prior = networks.code_transformer(256, grid=(7, 7))
        model = VQVAE(backbone, decoder, 256, 16, prior=prior, prior_epochs=10, value_range=(0, 1))
        model.compile("adam", prior_optimizer="adam")
        model.fit(images, epochs=20, batch_size=128)
        codes = model.encode(images)["codes"]
    """

    main_verb = "encode"
    loss_terms = ("loss", "reconstruction", "commitment", "code_nll")

    def __init__(
        self,
        backbone: keras.Model,
        decoder: keras.Model,
        codes: int = 512,
        code_dim: int = 16,
        *,
        commitment: float = 0.25,
        decay: float = 0.99,
        restart: float = 0.1,
        prior: keras.Model | None = None,
        prior_epochs: int = 0,
        value_range: tuple[float, float] | None = None,
        normalization: layers.Normalization | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        for argument, value, least in (
            ("codes", codes, 2),
            ("code_dim", code_dim, 1),
            ("commitment", commitment, 0),
            ("prior_epochs", prior_epochs, 0),
        ):
            if value < least:
                raise InputError(f"`{argument}` must be at least {least}. Received: {value}")
        for argument, fraction in (("decay", decay), ("restart", restart)):
            if not 0 <= fraction < 1:
                raise InputError(f"`{argument}` must be in [0, 1). Received: {fraction}")
        if (prior is None) != (prior_epochs == 0):
            raise InputError(
                "A `prior` needs `prior_epochs`, the epochs it is trained in, and these need a "
                f"prior. Received: prior={prior}, prior_epochs={prior_epochs}"
            )
        if value_range is not None:
            refuse_normalization(normalization, "a value range")
        super().__init__(
            input_shape=backbone.input_shape[1:],
            value_range=value_range,
            normalization=normalization,
            seed=seed,
            **kwargs,
        )
        self.backbone = backbone
        self.decoder = decoder
        self.codes = codes
        self.code_dim = code_dim
        self.commitment = commitment
        self.decay = decay
        self.restart = restart
        self.prior = prior
        self.prior_epochs = prior_epochs

        # Networks
        self.grid = _grid_of(backbone)
        x = keras.Input(self.input_shape[1:], name="x")
        latent = layers.Dense(code_dim, name="latent")(backbone(x))
        self.encoder = keras.Model(x, latent, name="encoder")
        self.check_decoder(decoder, (*self.grid, code_dim))
        self._check_prior()
        self.codebook = Codebook(codes, code_dim, decay, restart, seed=self.seed, name="codebook")
        self.prior_trained = self.add_weight(
            shape=(), initializer="zeros", trainable=False, name="prior_trained", dtype="float32"
        )
        self.anomaly = AnomalyThreshold(name="anomaly")
        self.perplexity = Perplexity(codes, name="perplexity")
        self.build()

    def _check_prior(self) -> None:
        if self.prior is None:
            return
        wanted = ((None, *self.grid), (None, *self.grid, self.codes))
        received = (self.prior.input_shape, self.prior.output_shape)
        if received != wanted:
            raise InputError(
                f"`prior` must map codes {wanted[0]} to logits {wanted[1]}. "
                f"Received: {received[0]} to {received[1]}"
            )

    @property
    def parameters(self) -> int:
        return super().parameters + self.codes * self.code_dim

    @property
    def bits(self) -> float:
        """Bits of an example's codes: places of the grid x log2 of the number of codes."""
        return math.prod(self.grid) * math.log2(self.codes)

    def call(self, x: Any, training: bool = False) -> Any:
        return self.postprocess(self._reconstruct(self.preprocess(x)))

    # Losses

    def losses(self, x: Any, training: bool) -> dict[str, Any]:
        learning = training and self.stage == 0
        latent = ops.cast(self.encoder(x, training=learning), "float32")
        vectors, codes = self.codebook(latent, training=learning)
        passed = latent + ops.stop_gradient(vectors - latent)  # its gradient goes to the latent
        reconstruction = squared_error(x, self.decoder(passed, training=learning))
        commitment = squared_error(ops.stop_gradient(vectors), latent)
        if self.stage == 0:
            loss = reconstruction + self.commitment * commitment
            code_nll = ops.full_like(loss, self.bits * math.log(2))
        else:
            loss = code_nll = self._code_nll(codes, training)
        return {
            "loss": loss,
            "reconstruction": reconstruction,
            "commitment": commitment,
            "code_nll": code_nll,
            "codes": codes,
        }

    def _code_nll(self, codes: Any, training: bool = False) -> Any:
        assert self.prior is not None  # the stage and `code_nll` see to it
        logits = self.prior(codes, training=training)
        return sum_over_features(cross_entropy(codes, logits))

    def code_nll(self, x: Any, batch_size: int = 256) -> np.ndarray:
        """-log p(codes) of each example under the prior, in nats, `(n,)`."""
        self.check_ready("generate")
        examples = batches(x, batch_size, len(self.input_shape) - 1)
        parts = [self._code_nll_of(self.prepare(batch, "x")).numpy() for batch in examples]
        return np.concatenate(parts)

    @tf.function(reduce_retracing=True)
    def _code_nll_of(self, x: Any) -> Any:
        return self._code_nll(self._encode(self.preprocess(x))[1])

    def track(self, terms: Any) -> None:
        super().track(terms)
        self.perplexity.update_state(count_once(terms["codes"]))

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [*super().metrics, self.perplexity]

    def findings(self, metrics: Mapping[str, float]) -> list[str]:
        if metrics["perplexity"] >= DEAD * self.codes:
            return []
        return [
            f"Dead codebook: as if {metrics['perplexity']:.1f} of {self.codes} codes were in use. "
            "Lower the learning rate, raise `restart`, or use fewer codes."
        ]

    # Stages and steps

    def stage_epochs(self, epochs: int) -> tuple[int, ...]:
        """Epochs of the autoencoder, and those of the prior."""
        last = min(self.prior_epochs, epochs)
        return (epochs,) if self.prior is None else (epochs - last, last)

    def enter_stage(self, stage: int) -> None:
        if stage and not self.codebook.seeded:
            raise InputError(
                "The prior learns the codes of a trained autoencoder: let `epochs` exceed "
                f"prior_epochs={self.prior_epochs}. Received: no epoch for the autoencoder"
            )
        super().enter_stage(stage)

    @property
    def optimizer_variables(self) -> dict[str, list[Any]]:
        autoencoder = [*self.encoder.trainable_variables, *self.decoder.trainable_variables]
        if self.prior is None:
            return {"optimizer": autoencoder}
        return {"optimizer": autoencoder, "prior_optimizer": self.prior.trainable_variables}

    def optimizer_epochs(self, name: str, epochs: int) -> int:
        return max(1, self.stage_epochs(epochs)[-1 if name == "prior_optimizer" else 0])

    def compile(
        self,
        optimizer: Any = "adam",
        prior_optimizer: Any = "adam",
        *,
        clip_norm: float | None = None,
        steps_per_execution: int | None = None,
        jit_compile: bool | None = None,
        run_eagerly: bool = False,
    ) -> None:
        """Attaches the optimisers of the autoencoder and of the prior; else as in the base."""
        optimizers = {"optimizer": optimizer, "prior_optimizer": prior_optimizer}
        self.compile_optimizers(
            optimizers, clip_norm, steps_per_execution, jit_compile, run_eagerly
        )

    def step(self, x: Any, labels: Any = None) -> None:
        name = OPTIMIZERS[self.stage]
        with tf.GradientTape() as tape:
            terms = self.losses(x, training=True)
            scaled = getattr(self, name).scale_loss(global_mean(terms["loss"]))
        self.minimize(tape, scaled, self.optimizer_variables[name], name)
        self.prior_trained.assign(float(self.stage))
        self.track(terms)

    # After training

    def finish(self, train: Any, validation: Any) -> None:
        """Calibrates the score on validation data."""
        self.calibrate(validation)

    def check_ready(self, name: str) -> None:
        if name != "generate":
            return
        if self.prior is None:
            raise InputError(
                "`generate` draws codes from a prior: build the model with prior="
                "networks.code_transformer(codes, grid) and prior_epochs. Received: no prior"
            )
        if not self.prior_trained.numpy():
            raise InputError(
                "`generate` draws codes from a prior that was trained after the autoencoder: the "
                f"last prior_epochs={self.prior_epochs} epochs of `fit` do it. Received: none yet"
            )

    # Verbs

    @property
    def verbs(self) -> tuple[str, ...]:
        names = super().verbs
        return names if self.prior is not None else tuple(n for n in names if n != "generate")

    def input_spec_of(self, argument: str) -> tf.TensorSpec:
        if argument == "codes":
            return tf.TensorSpec((None, *self.grid), tf.int32, name="codes")
        return super().input_spec_of(argument)

    def limits_of(self, argument: str) -> tuple[float, float] | None:
        return (0, self.codes - 1) if argument == "codes" else super().limits_of(argument)

    def _encode(self, x: Any) -> tuple[Any, Any]:
        return self.codebook(self.encoder(x, training=False))

    def _decode(self, vectors: Any) -> Any:
        return self.decoder(vectors, training=False)

    def _reconstruct(self, x: Any) -> Any:
        return self._decode(self._encode(x)[0])

    def _draw_codes(self, seed: Any) -> Any:
        """Codes drawn from the prior, int32 `(batch, height, width)`: place i by one argmax of
        logits + Gumbel noise, which depends on the codes before it.

        All places are drawn at once again and again until nothing changes: t times settle the
        first t places, whatever stood there (Song et al. 2021, https://arxiv.org/abs/2002.03629).
        """
        assert self.prior is not None  # `check_ready` sees to it
        prior, places = self.prior, math.prod(self.grid)
        noise = gumbel_rows(seed, (*self.grid, self.codes))

        def draw(codes: Any, changed: Any) -> tuple[Any, Any]:
            logits = ops.cast(prior(codes, training=False), "float32")
            drawn = tf.argmax(logits + noise, axis=-1, output_type=tf.int32)
            return drawn, tf.reduce_any(drawn != codes)

        first = tf.argmax(noise, axis=-1, output_type=tf.int32)
        codes, _ = tf.while_loop(
            lambda _, changed: changed, draw, (first, True), maximum_iterations=places
        )
        return codes

    @verb
    def encode(self, x: Any) -> dict[str, Any]:
        """Examples -> `latent` `(batch, height, width, code_dim)`, the vectors of the `codes`,
        int32 `(batch, height, width)`.
        """
        vectors, codes = self._encode(x)
        return {"latent": vectors, "codes": codes}

    @verb
    def decode(self, codes: Any) -> dict[str, Any]:
        """Codes -> `reconstruction`, in the data's units."""
        return {"reconstruction": self.postprocess(self._decode(self.codebook.lookup(codes)))}

    @verb
    def reconstruct(self, x: Any) -> dict[str, Any]:
        """Examples -> `reconstruction`, in the data's units."""
        return {"reconstruction": self.postprocess(self._reconstruct(x))}

    @verb
    def generate(self, seed: Any) -> dict[str, Any]:
        """(count, seed) -> `samples`: decoded codes that the prior draws."""
        vectors = self.codebook.lookup(self._draw_codes(seed))
        return {"samples": self.postprocess(self._decode(vectors))}

    @verb
    def score(self, x: Any) -> dict[str, Any]:
        """Examples -> `score` (mean squared reconstruction error), `probability`, `is_anomaly`."""
        return self.anomaly(squared_error(x, self._reconstruct(x)))


def _grid_of(backbone: keras.Model) -> tuple[int, int]:
    """Height and width of the features of a backbone."""
    shape = backbone.output_shape
    if len(shape) != 4 or None in shape[1:]:
        raise InputError(
            "`backbone` must map an example to a grid of features (batch, height, width, "
            f"features), as networks.grid_backbone does. Received: features of shape {shape}"
        )
    return shape[1], shape[2]
