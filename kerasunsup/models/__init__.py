"""The families: one file each. Importing this registers every class of ours with Keras."""

from kerasunsup import networks as networks
from kerasunsup.models.autoencoder import Autoencoder
from kerasunsup.models.barlow_twins import BarlowTwins
from kerasunsup.models.base import UnsupervisedModel
from kerasunsup.models.classifier import Classifier
from kerasunsup.models.gan import GAN
from kerasunsup.models.masked_autoencoder import MaskedAutoencoder
from kerasunsup.models.pretrain_finetune import PretrainFinetune
from kerasunsup.models.simclr import SimCLR
from kerasunsup.models.stacked_autoencoder import StackedAutoencoder
from kerasunsup.models.vae import VAE
from kerasunsup.models.verbs import verb
from kerasunsup.models.vqvae import VQVAE

__all__ = [
    "GAN",
    "VAE",
    "VQVAE",
    "Autoencoder",
    "BarlowTwins",
    "Classifier",
    "MaskedAutoencoder",
    "PretrainFinetune",
    "SimCLR",
    "StackedAutoencoder",
    "UnsupervisedModel",
    "verb",
]
