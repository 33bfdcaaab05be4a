"""The models whose training is timed, in plain numbers that every framework reads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A model, how it is trained, and how much of it is a unit of measurement.

    Attributes:
        family: "autoencoder", "vae" or "gan".
        convolutions: Whether the networks have any.
        latent_dim: Number of latent dimensions.
        first: Widths of encoder or discriminator.
        second: Widths of decoder or generator.
        units: Widths of dense layers after the encoder's convolutions.
        kernel: Side of the kernels.
        learning_rate: Of Adam.
        beta_1: Of Adam.
        batch: Images in a step; of each turn of a critic.
        critic_steps: Turns of the discriminator in a step; above 1 it is a WGAN-GP.
        images: Images in a unit of measurement.
        tolerance: Largest difference of a loss from the plain loop's after equal numbers of
            images, relative; that of initial weights and draws is smaller.
    """

    family: str
    convolutions: bool
    latent_dim: int
    first: tuple[int, ...]
    second: tuple[int, ...]
    units: tuple[int, ...] = ()
    kernel: int = 4
    learning_rate: float = 1e-3
    beta_1: float = 0.9
    batch: int = 128
    critic_steps: int = 1
    images: int = 59_904
    tolerance: float = 0.05

    @property
    def images_per_step(self) -> int:
        """Images in a step of all players."""
        return self.batch * self.critic_steps

    @property
    def steps(self) -> int:
        """Steps in a unit of measurement."""
        return self.images // self.images_per_step


_GAN = {"family": "gan", "learning_rate": 2e-4, "beta_1": 0.5, "tolerance": 0.3}
_DCGAN = {**_GAN, "convolutions": True, "latent_dim": 100, "first": (64, 128)}

ROWS = {
    "dense AE": Row("autoencoder", False, 12, (128, 64), (64, 128)),
    "dense VAE": Row("vae", False, 20, (400,), (400,), tolerance=0.01),
    "tutorial GAN": Row(
        **_GAN,
        convolutions=False,
        latent_dim=100,
        first=(512, 256),
        second=(256, 512, 1024),
        images=19_968,
    ),
    "conv AE": Row("autoencoder", True, 128, (16, 32), (32, 16, 16), images=9_984),
    "conv VAE": Row("vae", True, 2, (32, 64), (64, 64, 32), (16,), kernel=3, images=5_120),
    "DCGAN": Row(**_DCGAN, second=(128, 128, 64), images=1_920),
    "WGAN-GP": Row(**_DCGAN, second=(128, 128, 64), critic_steps=5, images=3_200),
}
