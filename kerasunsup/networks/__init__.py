"""Networks that every family shares: plain functional Keras models.

A backbone maps an example to features, a decoder a latent to an example, a generator a latent (and
a class) to a sample, a discriminator an example (and a class) to a logit, a prior codes to the
logits of the next ones. Any functional Keras model with these inputs and outputs takes their place.
"""

from kerasunsup.networks.adversarial import (
    dcgan_discriminator,
    dcgan_generator,
    dense_discriminator,
    dense_generator,
    residual_discriminator,
    residual_generator,
)
from kerasunsup.networks.encoding import (
    GatedDense,
    conv_backbone,
    conv_decoder,
    dense_backbone,
    dense_decoder,
    vgg_backbone,
)
from kerasunsup.networks.grid import grid_backbone, grid_decoder
from kerasunsup.networks.prior import code_transformer
from kerasunsup.networks.transformer import SinCosPositions, vit_backbone, vit_decoder

__all__ = [
    "GatedDense",
    "SinCosPositions",
    "code_transformer",
    "conv_backbone",
    "conv_decoder",
    "dcgan_discriminator",
    "dcgan_generator",
    "dense_backbone",
    "dense_decoder",
    "dense_discriminator",
    "dense_generator",
    "grid_backbone",
    "grid_decoder",
    "residual_discriminator",
    "residual_generator",
    "vgg_backbone",
    "vit_backbone",
    "vit_decoder",
]
