"""Autoencoders: plain, denoising, sparse, contractive.

Hinton & Salakhutdinov 2006 (plain), Vincent et al. 2010 (denoising), Rifai et al. 2011
(contractive, equation 5), Ng 2011 (sparse, KL to a target rate). Samples come from a Gaussian
mixture fitted to the latents: Ghosh et al. 2020, https://arxiv.org/abs/1903.12436.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from kerasunsup.errors import InputError
from kerasunsup.layers import AnomalyThreshold, GaussianMixture
from kerasunsup.losses import (
    bernoulli_negative_log_likelihood,
    mean_over_features,
    squared_error,
    squared_jacobian_norm,
)
from kerasunsup.models.base import (
    UnsupervisedModel,
    check_linear_output,
    refuse_normalization,
)
from kerasunsup.models.verbs import verb


@keras.saving.register_keras_serializable("kerasunsup")
class Autoencoder(UnsupervisedModel):
    """An encoder to a small latent and a decoder back.

    Args:
        backbone: Functional model, example -> features.
        decoder: Functional model, latent `(batch, latent_dim)` -> example.
        latent_dim: Number of latent dimensions.
        latent_activation: Name of the activation of the latent: None, or "relu" for sparse codes
            that are zero.
        loss: "mse", or "binary_crossentropy" where the decoder gives logits of values in [0, 1].
        corruption: A `kerasunsup.layers` corruption: the input of the encoder is corrupted while
            training and the clean example is the target (a denoising autoencoder).
        sparsity: `L1Sparsity` or `KLSparsity` on the latent.
        contractive: Weight of the squared Frobenius norm of the encoder's Jacobian.
        density_components: Components of a Gaussian mixture over latents, fitted after training
            by `fit_density`; with it the model has the verb `generate`.
        value_range: Range of valid inputs, for example (0, 1) for pixels.
        normalization: An adapted `keras.layers.Normalization` for tables.
        seed: Seed of noise and of the order of examples.

    Example:

        backbone = networks.dense_backbone((28, 28, 1), units=[128, 64])
        decoder = networks.dense_decoder(12, (28, 28, 1), units=[64, 128])
        model = Autoencoder(backbone, decoder, latent_dim=12, value_range=(0, 1))
        model.compile("adam")
        model.fit(images, epochs=10, batch_size=128)
        codes = model.encode(images)["latent"]
    """

    main_verb = "reconstruct"
    loss_terms = ("loss", "reconstruction")

    def __init__(
        self,
        backbone: keras.Model,
        decoder: keras.Model,
        latent_dim: int,
        *,
        latent_activation: str | None = None,
        loss: str = "mse",
        corruption: layers.Layer | None = None,
        sparsity: layers.Layer | None = None,
        contractive: float = 0.0,
        density_components: int = 0,
        value_range: tuple[float, float] | None = None,
        normalization: layers.Normalization | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        if loss not in ("mse", "binary_crossentropy"):
            raise InputError(f"`loss` must be 'mse' or 'binary_crossentropy'. Received: {loss!r}")
        if loss == "binary_crossentropy":
            check_linear_output(decoder, "loss='binary_crossentropy'")
            refuse_normalization(normalization, "loss='binary_crossentropy'")
            value_range = value_range or (0.0, 1.0)
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
        self.latent_activation = latent_activation
        self.loss = loss
        self.corruption = corruption
        self.sparsity = sparsity
        self.contractive = contractive
        self.density_components = density_components

        # Networks
        x = keras.Input(self.input_shape[1:], name="x")
        latent = layers.Dense(latent_dim, latent_activation, name="latent")(backbone(x))
        self.encoder = keras.Model(x, latent, name="encoder")
        self.check_decoder(decoder, (latent_dim,))
        self.anomaly = AnomalyThreshold(name="anomaly")
        self.density: GaussianMixture | None = None
        if density_components:
            self.density = GaussianMixture(density_components, latent_dim, name="density")
        self.build()

    def call(self, x: Any, training: bool = False) -> Any:
        return self.postprocess(self._decode(self.encoder(self.preprocess(x), training=training)))

    # Losses

    def losses(self, x: Any, training: bool) -> dict[str, Any]:
        seen = self.corruption(x, training=training) if self.corruption is not None else x
        latent = self.encoder(seen, training=training)
        reconstruction = self.distance(x, self.decoder(latent, training=training))
        terms = {"loss": reconstruction, "reconstruction": reconstruction}
        if self.sparsity is not None:
            penalty = self.sparsity(latent)
            if len(penalty.shape):
                terms["loss"] = terms["loss"] + penalty
            else:
                terms["batch_loss"] = penalty
        if self.contractive:
            terms["loss"] = terms["loss"] + self.contractive * squared_jacobian_norm(
                self.encoder, seen
            )
        return terms

    def distance(self, x: Any, output: Any) -> Any:
        """The reconstruction term of each example, `(batch,)`, from what the decoder gives."""
        if self.loss == "mse":
            return squared_error(x, output)
        return mean_over_features(bernoulli_negative_log_likelihood(x, output))

    # After training

    def finish(self, train: Any, validation: Any) -> None:
        """Fits the density to the training latents, calibrates the score on validation data."""
        if self.density is not None:
            self.fit_density(train)
        self.calibrate(validation)

    def fit_density(self, x: Any) -> None:
        """Fits the Gaussian mixture to the latents of `x`; `generate` draws from it.

        Raises:
            InputError: The model was built without `density_components`.
        """
        if self.density is None:
            raise InputError("Build the model with density_components=10 or so to fit a density.")
        self.density.adapt(self.encode(x)["latent"])

    def check_ready(self, name: str) -> None:
        if name == "generate" and self.density is not None and not self.density.fitted:
            raise InputError("`generate` draws from a fitted density: call fit_density(x) first.")

    # Verbs

    @property
    def verbs(self) -> tuple[str, ...]:
        names = super().verbs
        return names if self.density is not None else tuple(n for n in names if n != "generate")

    def _decode(self, latent: Any) -> Any:
        output = self.decoder(latent, training=False)
        return output if self.loss == "mse" else ops.sigmoid(output)

    @verb
    def encode(self, x: Any) -> dict[str, Any]:
        """Examples -> `latent`, `(batch, latent_dim)`."""
        return {"latent": ops.cast(self.encoder(x, training=False), "float32")}

    @verb
    def decode(self, latent: Any) -> dict[str, Any]:
        """Latents -> `reconstruction`, in the data's units."""
        return {"reconstruction": self.postprocess(self._decode(latent))}

    @verb
    def reconstruct(self, x: Any) -> dict[str, Any]:
        """Examples -> `reconstruction`, in the data's units."""
        return {"reconstruction": self.postprocess(self._decode(self.encoder(x, training=False)))}

    @verb
    def generate(self, seed: Any) -> dict[str, Any]:
        """(count, seed) -> `samples`: decoded draws of the fitted Gaussian mixture."""
        assert self.density is not None  # `verbs` and `check_ready` see to it
        return {"samples": self.postprocess(self._decode(self.density(seed)))}

    @verb
    def score(self, x: Any) -> dict[str, Any]:
        """Examples -> `score` (mean squared reconstruction error), `probability`, `is_anomaly`."""
        return self.anomaly(squared_error(x, self._decode(self.encoder(x, training=False))))
