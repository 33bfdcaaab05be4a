"""The models of `rows` in Keras, and their first weights as PyTorch wants them.

python -m benchmarks.keras_models FOLDER ROW …    writes images.npy, and ROW.npz for each
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from benchmarks.rows import ROWS, Row
from kerasunsup import GAN, VAE, Autoencoder, data, networks
from kerasunsup.models.base import dtype_policy

SHAPE = (28, 28, 1)


def build(row: Row, policy: str = "float32") -> Any:
    """A model of our families, with the same weights whenever it is built."""
    keras.utils.set_random_seed(0)
    with dtype_policy(policy):
        if row.family == "gan":
            return _gan(row)
        last = {"output_activation": "sigmoid" if row.family == "autoencoder" else None}
        if row.convolutions:
            backbone = networks.conv_backbone(SHAPE, row.first, row.units, row.kernel)
            decoder = networks.conv_decoder(
                row.latent_dim, SHAPE, row.second, kernel_size=row.kernel, **last
            )
        else:
            backbone = networks.dense_backbone(SHAPE, row.first)
            decoder = networks.dense_decoder(row.latent_dim, SHAPE, row.second, **last)
        family = Autoencoder if row.family == "autoencoder" else VAE
        return family(backbone, decoder, row.latent_dim, value_range=(0, 1), seed=0)


def _gan(row: Row) -> GAN:
    if row.convolutions:
        penalised = row.critic_steps > 1
        discriminator = networks.dcgan_discriminator(
            SHAPE, row.first, "none" if penalised else "batch"
        )
        generator = networks.dcgan_generator(row.latent_dim, SHAPE, row.second)
    else:
        discriminator = networks.dense_discriminator(SHAPE, row.first)
        generator = networks.dense_generator(row.latent_dim, SHAPE, row.second)
    wasserstein = {"loss": "wasserstein", "gradient_penalty": "interpolated", "penalty_weight": 10}
    return GAN(
        generator,
        discriminator,
        row.latent_dim,
        discriminator_steps=row.critic_steps,
        value_range=(0, 1),
        seed=0,
        **(wasserstein if row.critic_steps > 1 else {}),
    )


def optimizers(row: Row) -> dict[str, Any]:
    """Arguments of `compile`."""
    names = ("generator_optimizer", "discriminator_optimizer")
    return {
        name: keras.optimizers.Adam(row.learning_rate, row.beta_1)
        for name in (names if row.family == "gan" else ("optimizer",))
    }


def images() -> np.ndarray:
    """The 60,000 training images of Fashion-MNIST, uint8."""
    splits = data.load("fashion_mnist")
    return np.concatenate([splits.train, splits.validation])


def networks_of(model: Any) -> tuple[keras.Model, keras.Model]:
    """Both networks, what reads images first."""
    if isinstance(model, GAN):
        return model.discriminator, model.generator
    return model.encoder, model.decoder


def in_torch_order(network: keras.Model) -> Iterator[np.ndarray]:
    """Weights in the order and the layout of PyTorch's parameters: channels first."""
    layers, grid = list(_flat(network)), None
    for layer, following in zip(layers, [*layers[1:], None], strict=True):
        kind = type(layer).__name__
        if kind == "Flatten":
            grid = layer.input.shape[1:]
        elif kind in ("Conv2D", "Conv2DTranspose"):
            yield layer.get_weights()[0].transpose(3, 2, 0, 1)
            yield from layer.get_weights()[1:]
        elif kind == "Dense":
            kernel, *bias = layer.get_weights()
            if grid is not None and len(kernel) == np.prod(grid):
                kernel = _channels_first(kernel, grid)
            if type(following).__name__ == "Reshape":
                kernel = _channels_first(kernel.T, following.target_shape).T
                bias = [_channels_first(one, following.target_shape) for one in bias]
            yield kernel.T
            yield from bias
        elif kind == "BatchNormalization":
            yield from layer.get_weights()[:2]


def _channels_first(rows: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """Reorders the first axis from (height, width, channel) to (channel, height, width)."""
    return np.moveaxis(rows.reshape(*grid, *rows.shape[1:]), 2, 0).reshape(rows.shape)


def _flat(network: keras.Model) -> Iterator[Any]:
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            yield from _flat(layer)
        elif type(layer).__name__ != "InputLayer":
            yield layer


if __name__ == "__main__":
    folder, *names = sys.argv[1:]
    np.save(Path(folder, "images.npy"), images())
    for name in names:
        both = networks_of(build(ROWS[name]))
        weights = [array for network in both for array in in_torch_order(network)]
        np.savez(Path(folder, f"{name}.npz"), *weights)
