"""Masked autoencoders: most patches of an image are hidden, a transformer restores them.

He et al. 2021, https://arxiv.org/abs/2111.06377: the encoder runs on the visible patches alone,
which makes it fast; a light decoder restores the hidden ones, and the loss is the mean squared
error of those.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from kerasunsup.errors import InputError
from kerasunsup.models.base import UnsupervisedModel
from kerasunsup.models.verbs import verb
from kerasunsup.networks.transformer import image_of
from kerasunsup.replicas import batch_statistic

PARTS = ("patches", "tokens", "blocks")
SMALLEST_VARIANCE = 1e-6  # of the pixels of a patch that is normalised, as in the paper's code


@keras.saving.register_keras_serializable("kerasunsup")
class MaskedAutoencoder(UnsupervisedModel):
    """A vision transformer that learns by restoring hidden patches.

    Args:
        backbone: `networks.vit_backbone`, or a functional model with layers of the same names:
            `patches`, `tokens`, `blocks`. `encode` gives its features of the whole image.
        decoder: `networks.vit_decoder`, or a functional model: tokens of all patches
            `(batch, tokens, width)`, a learnt one in the place of each hidden patch -> pixels of
            all patches `(batch, tokens, patch_size**2 * channels)`.
        mask_ratio: Fraction of the patches that is hidden, in (0, 1).
        normalize_patches: Restore patches of mean 0 and variance 1 each (section 4.2 of the paper)
            instead of pixels. Pixels cannot be computed back: there is no verb `reconstruct`.
        value_range: Range of valid inputs, for example (0, 1) for pixels.
        normalization: An adapted `keras.layers.Normalization`.
        seed: Seed of masks and of the order of examples; also of the mask of `reconstruct`.

    The metric `explained` says whether anything is learnt: it is the share of the variance of the
    pixels over the batch that the decoder restores where it does not see. At 0 the model has
    collapsed: it restores nothing but the mean image.

    Example:

        backbone = networks.vit_backbone((28, 28, 1), patch_size=4, width=64, depth=4, heads=4)
        decoder = networks.vit_decoder((28, 28, 1), token_width=64, patch_size=4, width=32)
        model = MaskedAutoencoder(backbone, decoder, value_range=(0, 1))
        model.compile(keras.optimizers.AdamW(1e-3))
        model.fit(images, epochs=50, batch_size=256)
        features = model.encode(images)["latent"]
    """

    main_verb = "encode"
    loss_terms = ("loss", "explained")

    def __init__(
        self,
        backbone: keras.Model,
        decoder: keras.Model,
        *,
        mask_ratio: float = 0.75,
        normalize_patches: bool = False,
        value_range: tuple[float, float] | None = None,
        normalization: keras.layers.Normalization | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            input_shape=backbone.input_shape[1:],
            value_range=value_range,
            normalization=normalization,
            seed=seed,
            **kwargs,
        )
        self.backbone = backbone
        self.decoder = decoder
        self.mask_ratio = mask_ratio
        self.normalize_patches = normalize_patches

        # Networks
        names = [layer.name for layer in backbone.layers]
        if not set(PARTS) <= set(names):
            raise InputError(
                "`backbone` must have the layers `patches`, `tokens` and `blocks` of "
                f"networks.vit_backbone. Received: {', '.join(names)}"
            )
        self.patches, self.tokens, self.blocks = (backbone.get_layer(name) for name in PARTS)
        shapes = (decoder.input_shape, decoder.output_shape)
        if shapes != (self.tokens.output_shape, self.patches.output_shape):
            raise InputError(
                f"`decoder` must map {self.tokens.output_shape} to {self.patches.output_shape}. "
                f"Received: {shapes[0]} to {shapes[1]}"
            )
        _, self.token_count, width = self.tokens.output_shape
        self.hidden_count = round(mask_ratio * self.token_count)
        if not 0 < self.hidden_count < self.token_count:
            raise InputError(
                f"`mask_ratio` must hide some of {self.token_count} patches and leave some: a "
                f"fraction such as 0.75. Received: {mask_ratio}"
            )
        self.mask_token = self.add_weight(
            shape=(width,),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="mask_token",
        )
        self.build()

    def call(self, x: Any, training: bool = False) -> Any:
        return self.backbone(self.preprocess(x), training=training)

    # Losses

    def losses(self, x: Any, training: bool) -> dict[str, Any]:
        patches = self.patches(x)
        draws = self.noise.uniform(ops.shape(x)[0], (self.token_count,), training)
        restored, hidden = self.restore(patches, ops.argsort(draws, axis=1), training)
        target = normalized(patches) if self.normalize_patches else patches
        error = ops.mean(ops.square(target - restored), axis=2)
        error = ops.sum(error * ops.cast(hidden, "float32"), axis=1) / self.hidden_count
        variance = ops.mean(batch_statistic(ops.square(target - batch_statistic(target))))
        return {"loss": error, "explained": 1.0 - tf.math.divide_no_nan(error, variance)}

    def restore(self, patches: Any, order: Any, training: bool) -> tuple[Any, Any]:
        """All patches from the first ones of an order, which are visible.

        Args:
            patches: Pixels of each patch, `(batch, tokens, values)`.
            order: A permutation of the tokens for each example, `(batch, tokens)`.
            training: Whether the model is trained.

        Returns:
            What the decoder restores, float32 of the shape of `patches`, and which patches were
            hidden, `(batch, tokens)`.
        """
        visible = self.token_count - self.hidden_count
        tokens = tf.gather(self.tokens(patches), order[:, :visible], batch_dims=1)
        tokens = self.blocks(tokens, training=training)
        shape = (ops.shape(tokens)[0], self.hidden_count, tokens.shape[-1])
        masks = ops.broadcast_to(ops.cast(self.mask_token, tokens.dtype), shape)
        rank = ops.argsort(order, axis=1)
        tokens = tf.gather(ops.concatenate([tokens, masks], axis=1), rank, batch_dims=1)
        restored = self.decoder(tokens, training=training)
        return ops.cast(restored, "float32"), rank >= visible

    # Verbs

    @property
    def verbs(self) -> tuple[str, ...]:
        names = super().verbs
        return tuple(n for n in names if n != "reconstruct" or not self.normalize_patches)

    @verb
    def encode(self, x: Any) -> dict[str, Any]:
        """Examples -> `latent`: the features of the backbone, which sees all patches."""
        return {"latent": ops.cast(self.backbone(x, training=False), "float32")}

    @verb
    def reconstruct(self, x: Any) -> dict[str, Any]:
        """Examples -> `reconstruction`: one mask, fixed by the seed, hides the same patches of all
        of them; visible ones stay as they are.
        """
        patches = self.patches(x)
        order = tf.tile(tf.constant(self._fixed_order)[None], (tf.shape(x)[0], 1))
        restored, hidden = self.restore(patches, order, training=False)
        together = ops.where(hidden[..., None], restored, patches)
        return {"reconstruction": self.postprocess(image_of(together, self.input_shape[1:]))}

    def visible_part(self, x: Any) -> np.ndarray:
        """Examples as `reconstruct` sees them, float32: hidden patches are grey."""
        patches = np.array(self.patches(self.preprocess(tf.convert_to_tensor(x))))
        low, high = self.value_range or (patches.min(), patches.max())
        patches[:, self._fixed_order[-self.hidden_count :]] = (low + high) / 2
        return np.array(self.postprocess(image_of(patches, self.input_shape[1:])))

    @property
    def _fixed_order(self) -> np.ndarray:
        return np.random.default_rng(self.seed).permutation(self.token_count).astype("int32")


def normalized(patches: Any) -> Any:
    """Patches with mean 0 and variance 1 over the last axis: He et al. 2021, section 4.2."""
    mean, variance = ops.moments(patches, axes=-1, keepdims=True)
    return (patches - mean) / ops.sqrt(variance + SMALLEST_VARIANCE)
