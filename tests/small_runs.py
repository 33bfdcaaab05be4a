"""Small recipes of every kind of training, and what is asked of their runs."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from kerasunsup import data as datasets

RECIPE = {
    "name": "tiny",
    "family": "vae",
    "data": {"name": "iris"},
    "model": {
        "class": "VAE",
        "latent_dim": 2,
        "likelihood": "gaussian",
        "kl_warmup_steps": 20,
        "backbone": {"builder": "dense_backbone", "units": [8]},
        "decoder": {"builder": "dense_decoder", "units": [8]},
    },
    "compile": {"optimizer": {"name": "Adam", "learning_rate": 0.01, "schedule": "cosine"}},
    "train": {"epochs": 6, "batch_size": 16, "seed": 3, "standardize": True, "patience": 50},
    "evaluate": {"protocols": ["elbo"]},
}


AUTOENCODER_RECIPE = {
    **RECIPE,
    "family": "autoencoder",
    "model": {
        "class": "Autoencoder",
        "latent_dim": 2,
        "backbone": {"builder": "dense_backbone", "units": [8]},
        "decoder": {"builder": "dense_decoder", "units": [8]},
        "corruption": {"builder": "GaussianCorruption", "level": 0.1},
    },
    "evaluate": {"protocols": ["mse"]},
}


STACKED_RECIPE = {
    **RECIPE,
    "family": "autoencoder",
    "model": {
        "class": "StackedAutoencoder",
        "latent_dim": 2,
        "layer_epochs": 2,
        "backbone": {"builder": "dense_backbone", "units": [8]},
        "decoder": {"builder": "dense_decoder", "units": [8]},
        "corruption": {"builder": "GaussianCorruption", "level": 0.1},
    },
    "train": {"epochs": 7, "batch_size": 16, "seed": 3, "standardize": True},
    "evaluate": {"protocols": ["mse"]},
}


GAN_RECIPE = {
    "name": "tiny_gan",
    "family": "gan",
    "data": {"name": "digits"},
    "model": {
        "class": "GAN",
        "latent_dim": 4,
        "loss": "wasserstein",
        "gradient_penalty": "interpolated",
        "discriminator_steps": 2,
        "ema": 0.9,
        "labels": 10,
        "generator": {"builder": "dense_generator", "units": [16]},
        "discriminator": {"builder": "dense_discriminator", "units": [16], "dropout": 0.1},
    },
    "compile": {
        "generator_optimizer": {"name": "Adam", "beta_1": 0.5, "schedule": "cosine"},
        "discriminator_optimizer": {"name": "Adam", "beta_1": 0.5, "schedule": "cosine"},
    },
    "train": {"epochs": 6, "batch_size": 180, "seed": 3, "picture_every": 3, "fcd_every": 2},
}


def changed(recipe=RECIPE, **train_values):
    return {**recipe, "train": {**recipe["train"], **train_values}}


def assert_same_model(one, two):
    for a, b in zip(one.variables, two.variables, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=a.path)
    for name in one.optimizer_variables:
        optimizers = getattr(one, name), getattr(two, name)
        for a, b in zip(*(optimizer.variables for optimizer in optimizers), strict=True):
            np.testing.assert_array_equal(a, b, err_msg=a.path)


def as_streams(recipe, monkeypatch):
    """Gives the data of a recipe as those that do not fit into memory."""
    data = datasets.load(recipe["data"]["name"])
    stream = {
        name: tf.data.Dataset.from_tensor_slices(getattr(data, name))
        for name in ("train", "validation", "test")
    }
    streamed = dataclasses.replace(data, **stream)
    monkeypatch.setattr(datasets, "load", lambda *_, **__: streamed)
