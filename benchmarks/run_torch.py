"""PyTorch, with loops as its tutorials write them and as its tuning guide advises.

python -m benchmarks.run_torch ROW VARIANT IMAGES.npy WEIGHTS.npz

Variants: "pil" (a Dataset of PIL images in a DataLoader), "preloaded" (tensors in memory), "fused"
(fused Adam as well), "compiled" (torch.compile as well), "bfloat16" (autocast, channels last and
fused Adam) and "bfloat16 compiled".
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.rows import ROWS, Row
from benchmarks.units import asked

SIDE, GRID = 28, 7

Step = Callable[[torch.Tensor], dict[str, torch.Tensor]]


# Networks, as in `keras_models`


def dense(sizes: list[int], last: nn.Module | None = None) -> list[nn.Module]:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return [*layers[:-1], last] if last is not None else layers[:-1]


def encoder(row: Row, outputs: int) -> nn.Sequential:
    """Image -> features of width `outputs`."""
    if not row.convolutions:
        return nn.Sequential(nn.Flatten(), *dense([SIDE**2, *row.first, outputs]))
    channels = [1, *row.first]
    layers: list[nn.Module] = []
    for inputs, filters in itertools.pairwise(channels):
        layers += [nn.Conv2d(inputs, filters, row.kernel, 2, 1), nn.ReLU()]
    return nn.Sequential(
        *layers, nn.Flatten(), *dense([channels[-1] * GRID**2, *row.units, outputs])
    )


def decoder(row: Row) -> nn.Sequential:
    """Latent -> image; an autoencoder's ends in a sigmoid."""
    last = nn.Sigmoid() if row.family == "autoencoder" else nn.Identity()
    if not row.convolutions:
        image = nn.Unflatten(1, (1, SIDE, SIDE))
        return nn.Sequential(*dense([row.latent_dim, *row.second, SIDE**2], last), image)
    layers: list[nn.Module] = [
        nn.Linear(row.latent_dim, row.second[0] * GRID**2),
        nn.ReLU(),
        nn.Unflatten(1, (row.second[0], GRID, GRID)),
    ]
    for inputs, filters in itertools.pairwise(row.second):
        rest = {"output_padding": 1} if row.kernel == 3 else {}
        layers += [nn.ConvTranspose2d(inputs, filters, row.kernel, 2, 1, **rest), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(row.second[-1], 1, 3, 1, 1), last)


def generator(row: Row) -> nn.Sequential:
    """Latent -> image in [-1, 1]."""
    widths = [row.latent_dim, *row.second]
    layers: list[nn.Module] = []
    if not row.convolutions:
        for inputs, outputs in itertools.pairwise(widths):
            layers += [
                nn.Linear(inputs, outputs),
                nn.LeakyReLU(0.2),
                nn.BatchNorm1d(outputs, 1e-3, 0.2),
            ]
        image = nn.Unflatten(1, (1, SIDE, SIDE))
        return nn.Sequential(*layers, nn.Linear(widths[-1], SIDE**2), nn.Tanh(), image)
    layers += [
        nn.Linear(row.latent_dim, row.second[0] * GRID**2, bias=False),
        nn.Unflatten(1, (row.second[0], GRID, GRID)),
        nn.BatchNorm2d(row.second[0], 1e-3),
        nn.ReLU(),
    ]
    for inputs, outputs in itertools.pairwise(row.second):
        layers += [
            nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False),
            nn.BatchNorm2d(outputs, 1e-3),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.Conv2d(row.second[-1], 1, 3, 1, 1), nn.Tanh())


def discriminator(row: Row) -> nn.Sequential:
    """Image -> logit."""
    layers: list[nn.Module] = []
    if not row.convolutions:
        widths = [SIDE**2, *row.first]
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.LeakyReLU(0.2)]
        return nn.Sequential(nn.Flatten(), *layers, nn.Linear(widths[-1], 1))
    channels = [1, *row.first]
    for i, (inputs, outputs) in enumerate(itertools.pairwise(channels)):
        normalized = i > 0 and row.critic_steps == 1
        layers += [nn.Conv2d(inputs, outputs, 4, 2, 1, bias=not normalized)]
        layers += [nn.BatchNorm2d(outputs, 1e-3)] if normalized else []
        layers += [nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1] * GRID**2, 1))


# Loops


class Training:
    """A row's networks and optimisers, and what a step of it is in one variant."""

    def __init__(self, row: Row, variant: str, weights: list[np.ndarray]) -> None:
        self.row = row
        self.autocast: Callable[[], Any] = nullcontext
        if "bfloat16" in variant:
            self.autocast = lambda: torch.autocast("cpu", torch.bfloat16)
        fused = variant not in ("pil", "preloaded")
        if row.family == "gan":
            self.first, self.second = discriminator(row), generator(row)
        else:
            features = 2 if row.family == "vae" else 1  # mean and log-variance
            self.first, self.second = encoder(row, features * row.latent_dim), decoder(row)
        self._set(weights)
        if row.convolutions and "bfloat16" in variant:
            self.first.to(memory_format=torch.channels_last)
            self.second.to(memory_format=torch.channels_last)
        settings = {"lr": row.learning_rate, "betas": (row.beta_1, 0.999), "eps": 1e-7}
        settings["fused"] = fused
        if row.family == "gan":
            self.first_optimizer = torch.optim.Adam(self.first.parameters(), **settings)
            self.second_optimizer = torch.optim.Adam(self.second.parameters(), **settings)
        else:
            parameters = [*self.first.parameters(), *self.second.parameters()]
            self.optimizer = torch.optim.Adam(parameters, **settings)
        if "compiled" in variant:
            self.first, self.second = torch.compile(self.first), torch.compile(self.second)
            self.terms = torch.compile(self.terms)
        by_family = {"gan": self.wgan if row.critic_steps > 1 else self.gan}
        self.step: Step = by_family.get(row.family, self.encode_and_decode)

    def _set(self, weights: list[np.ndarray]) -> None:
        """Copies Keras' weights; those of mean and log-variance are one layer here."""
        if self.row.family == "vae":
            i = len(list(self.first.parameters())) - 2
            kernels, biases = weights[i : i + 4 : 2], weights[i + 1 : i + 4 : 2]
            weights[i : i + 4] = [np.concatenate(kernels), np.concatenate(biases)]
        parameters = [*self.first.parameters(), *self.second.parameters()]
        for parameter, value in zip(parameters, weights, strict=True):
            assert parameter.shape == value.shape, (parameter.shape, value.shape)
            parameter.data.copy_(torch.from_numpy(value))

    # Autoencoders

    def terms(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Loss of one batch."""
        if self.row.family == "autoencoder":
            return {"loss": F.mse_loss(self.second(self.first(x)).float(), x)}
        mean, log_variance = self.first(x).float().chunk(2, dim=1)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        reconstruction = F.binary_cross_entropy_with_logits(
            self.second(z).float(), x, reduction="sum"
        )
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
        return {"loss": (reconstruction + kl) / len(x)}

    def encode_and_decode(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """One step of an autoencoder or a VAE."""
        self.optimizer.zero_grad()
        with self.autocast():
            terms = self.terms(x)
        terms["loss"].backward()
        self.optimizer.step()
        return {name: value.detach() for name, value in terms.items()}

    # GANs

    def gan(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """PyTorch's DCGAN tutorial: the generator learns on the samples that the other saw."""
        x = 2 * x - 1
        with self.autocast():
            fake = self.second(torch.randn(len(x), self.row.latent_dim)).float()
        self.first_optimizer.zero_grad()
        with self.autocast():
            real_loss = F.softplus(-self.first(x).float()).mean()
            first_loss = real_loss + F.softplus(self.first(fake.detach()).float()).mean()
        first_loss.backward()
        self.first_optimizer.step()
        return self._second(fake, first_loss)

    def _second(self, fake: torch.Tensor, first_loss: torch.Tensor) -> dict[str, torch.Tensor]:
        self.second_optimizer.zero_grad()
        self.first.requires_grad_(False)
        with self.autocast():
            logits = self.first(fake).float()
            loss = -logits.mean() if self.row.critic_steps > 1 else F.softplus(-logits).mean()
        loss.backward()
        self.second_optimizer.step()
        self.first.requires_grad_(True)
        return {"discriminator_loss": first_loss.detach(), "generator_loss": loss.detach()}

    def wgan(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Algorithm 1 of Gulrajani et al.: turns of the critic on fresh samples, then one more."""
        for real in (2 * x - 1).chunk(self.row.critic_steps):
            with torch.no_grad(), self.autocast():
                fake = self.second(torch.randn(len(real), self.row.latent_dim)).float()
            self.first_optimizer.zero_grad()
            mix = torch.rand(len(real), 1, 1, 1)
            between = (mix * real + (1 - mix) * fake).requires_grad_()
            with self.autocast():
                loss = self.first(fake).float().mean() - self.first(real).float().mean()
                logits = self.first(between).float()
            slope = torch.autograd.grad(logits.sum(), between, create_graph=True)[0]
            penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
            (loss + 10 * penalty).backward()
            self.first_optimizer.step()
        with self.autocast():
            fake = self.second(torch.randn(len(real), self.row.latent_dim)).float()
        return self._second(fake, loss)


class Pictures(torch.utils.data.Dataset):
    """As torchvision gives them: PIL images, each turned into a tensor when it is asked for."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> torch.Tensor:
        from PIL import Image

        pixels = torch.from_numpy(np.array(Image.fromarray(self.images[i])))
        return pixels.view(1, SIDE, SIDE).to(torch.float32).div(255)


def batches(images: np.ndarray, row: Row, variant: str) -> Callable[[], Iterator[torch.Tensor]]:
    """A function that begins an epoch of shuffled batches."""
    if variant == "pil":
        loader = torch.utils.data.DataLoader(
            Pictures(images[..., 0]), row.images_per_step, shuffle=True
        )
        return lambda: iter(loader)
    tensor = torch.from_numpy(images[..., 0]).unsqueeze(1).float().div(255)
    if row.convolutions and "bfloat16" in variant:
        tensor = tensor.contiguous(memory_format=torch.channels_last)

    def epoch() -> Iterator[torch.Tensor]:
        order = torch.randperm(len(tensor))
        for start in range(0, len(tensor), row.images_per_step):
            yield tensor[order[start : start + row.images_per_step]]

    return epoch


def load(weights: str) -> list[np.ndarray]:
    """What `keras_models` wrote."""
    with np.load(weights) as arrays:
        return [arrays[key] for key in arrays.files]


def main(name: str, variant: str, images: str, weights: str) -> None:
    """Trains units until nobody asks for one."""
    torch.manual_seed(0)
    row = ROWS[name]
    training = Training(row, variant, load(weights))
    epoch = batches(np.load(images)[: row.images], row, variant)
    for answer in asked():
        sums: dict[str, Any] = {}
        for batch in epoch():
            for key, value in training.step(batch).items():
                sums[key] = sums.get(key, 0) + value
        answer(losses={key: float(value) / row.steps for key, value in sums.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
