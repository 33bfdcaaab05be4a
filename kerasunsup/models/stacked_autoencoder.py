"""Stacked denoising autoencoders: one layer after another, then all of them together.

Vincent et al. 2010, "Stacked Denoising Autoencoders", section 3.5; greedy layer-wise pretraining is
of Hinton, Osindero & Teh 2006 and Bengio et al. 2007.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Iterable
from typing import Any

import keras
from keras import layers, ops

from kerasunsup.errors import InputError
from kerasunsup.layers import Corruption
from kerasunsup.losses import squared_error
from kerasunsup.models.autoencoder import Autoencoder

Chain = list[layers.Layer]


@keras.saving.register_keras_serializable("kerasunsup")
class StackedAutoencoder(Autoencoder):
    """An autoencoder whose layers are trained greedily, from the example to the latent.

    Stage k trains layer k of the encoder f_k and the layer of the decoder g_k that undoes it, on
    what the layers below, which are frozen, make of the example: h_k = f_{k-1}(… f_0(x)), and
    min |g_k(f_k(corrupt(h_k))) - h_k|^2. The last stage trains everything end to end as an
    `Autoencoder`. Each stage has fresh optimisers.

    Args:
        backbone: Functional model, example -> features: a chain of layers, each used once.
        decoder: Functional model, latent `(batch, latent_dim)` -> example: a chain that passes, in
            reverse order, through the sizes that the layers of the encoder (backbone and latent)
            start from.
        latent_dim: Number of latent dimensions.
        layer_epochs: Epochs for each layer; the last stage has the remaining ones. 0 trains end to
            end from the start.
        latent_activation: Name of the activation of the latent, or None.
        loss: "mse", or "binary_crossentropy" where the decoder gives logits of values in [0, 1].
            Hidden values are always compared by their mean squared error.
        corruption: A `kerasunsup.layers` corruption of the input of every layer in training. Of
            hidden values it does not clip; `MaskingCorruption` suits values of any scale.
        density_components: As in `Autoencoder`.
        value_range: Range of valid inputs, for example (0, 1) for pixels.
        normalization: An adapted `keras.layers.Normalization` for tables.
        seed: Seed of noise and of the order of examples.

    `finish`, which `kerasunsup.train` calls, ends the stages: from then on `fit` goes on end to
    end. Without it, `fit` with `initial_epoch` goes on where the last one stopped.

    Example:

        backbone = networks.dense_backbone((28, 28, 1), units=[256, 256])
        decoder = networks.dense_decoder(64, (28, 28, 1), units=[256, 256])
        corruption = MaskingCorruption(0.25)
        model = StackedAutoencoder(
            backbone, decoder, 64, layer_epochs=2, corruption=corruption, value_range=(0, 1)
        )
        model.compile("adam")
        model.fit(images, epochs=10, batch_size=128)  # 2 + 2 + 2 epochs, then 4 end to end
    """

    def __init__(
        self,
        backbone: keras.Model,
        decoder: keras.Model,
        latent_dim: int,
        *,
        layer_epochs: int,
        latent_activation: str | None = None,
        loss: str = "mse",
        corruption: layers.Layer | None = None,
        density_components: int = 0,
        value_range: tuple[float, float] | None = None,
        normalization: layers.Normalization | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        if layer_epochs < 0:
            raise InputError(f"`layer_epochs` must be at least 0. Received: {layer_epochs}")
        super().__init__(
            backbone,
            decoder,
            latent_dim,
            latent_activation=latent_activation,
            loss=loss,
            corruption=corruption,
            density_components=density_components,
            value_range=value_range,
            normalization=normalization,
            seed=seed,
            **kwargs,
        )
        self.layer_epochs = layer_epochs
        _ = self.levels  # raises if the networks do not fit

    @functools.cached_property
    def levels(self) -> list[tuple[Chain, Chain]]:
        """Layers of the encoder and those of the decoder that undo them, example to latent."""
        chain = [*_chain(self.backbone, "backbone"), self.encoder.get_layer("latent")]
        return _mirrored(_levels(chain), _levels(_chain(self.decoder, "decoder")))

    # Losses

    def losses(self, x: Any, training: bool) -> dict[str, Any]:
        if not self._pretraining(self.stage):
            return super().losses(x, training)
        target = x
        for encoder, _ in self.levels[: self.stage]:
            target = _run(encoder, target, training=False)
        target = ops.cast(target, "float32")
        encoder, decoder = self.levels[self.stage]
        code = _run(encoder, self._corrupted(target, training), training)
        output = ops.reshape(_run(decoder, code, training), ops.shape(target))
        error = squared_error(target, output) if self.stage else self.distance(x, output)
        return {"loss": error, "reconstruction": error}

    def _corrupted(self, x: Any, training: bool) -> Any:
        if self.corruption is None or not training:
            return x
        if self.stage and isinstance(self.corruption, Corruption):
            return self.corruption.corrupt(x)  # hidden values have no range to be clipped to
        return self.corruption(x, training=True)

    # Stages

    def stage_epochs(self, epochs: int) -> tuple[int, ...]:
        """`layer_epochs` for each layer, then the remaining ones end to end."""
        if not self.layer_epochs:
            return (epochs,)
        needed = self.layer_epochs * len(self.levels)
        if epochs < needed:
            raise InputError(
                f"`epochs` must be at least {needed}: layer_epochs={self.layer_epochs} for each of "
                f"{len(self.levels)} layers. Received: {epochs}"
            )
        return (*[self.layer_epochs] * len(self.levels), epochs - needed)

    def freeze_for(self, stage: int) -> None:
        """All layers but those of the stage; none in the last one, or without pretraining."""
        if not self.layer_epochs:
            return
        for number, level in enumerate(self.levels):
            for layer in (*level[0], *level[1]):
                layer.trainable = number == stage or not self._pretraining(stage)

    def finish(self, train: Any, validation: Any) -> None:
        """Ends the stages: what follows trains end to end. Then as in `Autoencoder`."""
        if self.layer_epochs:
            if self.compiled:
                self.enter_stage(len(self.levels))
            else:
                self.freeze_for(len(self.levels))
            self.layer_epochs = 0
        super().finish(train, validation)

    def _pretraining(self, stage: int) -> bool:
        return bool(self.layer_epochs) and stage < len(self.levels)


def _run(chain: Chain, x: Any, training: bool) -> Any:
    """Applies layers in turn, to `x` in the shape that the first of them takes."""
    x = ops.reshape(x, (-1, *chain[0].input.shape[1:]))
    for layer in chain:
        takes_training = "training" in inspect.signature(layer.call).parameters
        x = layer(x, training=training) if takes_training else layer(x)
    return x


def _chain(network: keras.Model, name: str) -> Chain:
    """The layers of a network that is a chain of them, without its input."""
    chain = [layer for layer in network.layers if not isinstance(layer, layers.InputLayer)]
    between = [layer.output for layer in chain[:-1]]
    before, after = [network.inputs[0], *between], [*between, network.outputs[0]]
    for layer, start, end in zip(chain, before, after, strict=False):
        if layer.input is not start or layer.output is not end:
            raise InputError(
                f"`{name}` of a StackedAutoencoder must be a chain of layers, each used once and "
                f"each following on the one before. Received: layer {layer.name!r}, which does not"
            )
    return chain


def _levels(chain: Chain) -> list[Chain]:
    """Cuts a chain before each layer that has a kernel, but for the first one."""
    levels: list[Chain] = [[]]
    begun = False
    for layer in chain:
        has_kernel = any(len(weight.shape) > 1 for weight in layer.weights)
        if has_kernel and begun:
            levels.append([])
        begun = begun or has_kernel
        levels[-1].append(layer)
    return levels


def _mirrored(encoders: list[Chain], decoders: list[Chain]) -> list[tuple[Chain, Chain]]:
    """Pairs each level of the encoder with the levels of the decoder that undo it."""
    sizes = [math.prod(level[0].input.shape[1:]) for level in encoders]
    left = list(decoders)
    undoing: list[Chain] = []
    for size in reversed(sizes):
        level: Chain = []
        while left and (not level or _size(level) != size):
            level += left.pop(0)
        undoing.insert(0, level)
    undoing[0] += [layer for level in left for layer in level]
    if any(not level or _size(level) != size for level, size in zip(undoing, sizes, strict=True)):
        raise InputError(
            "`decoder` must undo the layers of the encoder one by one: its layers must give, "
            f"among others and in this order, {_listed(reversed(sizes))} values. "
            f"Received: {_listed(map(_size, decoders))}"
        )
    return [*zip(encoders, undoing, strict=True)]


def _size(level: Chain) -> int:
    return math.prod(level[-1].output.shape[1:])


def _listed(sizes: Iterable[int]) -> str:
    return ", ".join(map(str, sizes))
