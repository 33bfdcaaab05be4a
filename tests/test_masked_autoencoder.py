"""Masked autoencoders and vision transformers: their mathematics, masks, and what is refused."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from kerasunsup import data as datasets
from kerasunsup import networks, pictures
from kerasunsup.building import create_model
from kerasunsup.errors import InputError
from kerasunsup.export import ServedModel, export
from kerasunsup.models import Autoencoder, Classifier, MaskedAutoencoder, PretrainFinetune
from kerasunsup.models.masked_autoencoder import normalized
from kerasunsup.networks.transformer import image_of, sin_cos_positions
from kerasunsup.recipe import Recipe

SHAPE = (8, 8, 1)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).random((30, *SHAPE), dtype="float32")


def backbone(shape=SHAPE, **arguments):
    return networks.vit_backbone(
        shape, **{"patch_size": 2, "width": 8, "depth": 2, "heads": 2, **arguments}
    )


def decoder(shape=SHAPE, **arguments):
    return networks.vit_decoder(shape, 8, **{"patch_size": 2, "width": 8, "heads": 2, **arguments})


def masked(**arguments):
    networks_of = {"backbone": backbone(), "decoder": decoder()}
    return MaskedAutoencoder(**{**networks_of, "value_range": (0, 1), "seed": 1, **arguments})


def cut(images, side):
    """Patches `(batch, tokens, values)`, by loops."""
    _, height, width, _ = images.shape
    return np.stack(
        [
            images[:, i : i + side, j : j + side].reshape(len(images), -1)
            for i in range(0, height, side)
            for j in range(0, width, side)
        ],
        axis=1,
    )


# Networks


def test_patches_are_cut_row_by_row_and_put_together_again():
    images = np.random.default_rng(0).random((3, 6, 4, 2), dtype="float32")
    patches = backbone((6, 4, 2)).get_layer("patches")(images)
    np.testing.assert_array_equal(patches, cut(images, 2))
    np.testing.assert_array_equal(image_of(patches, (6, 4, 2)), images)


def test_positions_are_those_of_the_paper():
    table = sin_cos_positions((3, 5), 16)
    for row, column in np.ndindex(3, 5):
        waves = [10_000 ** (-4 * i / 16) for i in range(4)]
        expected = [
            wave(place * w) for place in (row, column) for wave in (np.sin, np.cos) for w in waves
        ]
        np.testing.assert_allclose(table[row * 5 + column], expected, rtol=1e-5, atol=1e-6)
    layer = networks.SinCosPositions((3, 5))
    np.testing.assert_array_equal(layer(np.zeros((2, 15, 16), "float32"))[1], table)


def normalise(x, scale, offset):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(
        x.var(-1, keepdims=True) + 1e-6
    ) * scale + offset


def test_blocks_match_independent_numpy():
    blocks = backbone().get_layer("blocks")
    rng = np.random.default_rng(1)
    blocks.set_weights(
        [weight + 0.1 * rng.normal(size=weight.shape) for weight in blocks.get_weights()]
    )
    weights = iter(weight.astype("float64") for weight in blocks.get_weights())
    tokens = rng.normal(size=(3, 5, 8))
    x = tokens
    for _ in range(2):
        y = normalise(x, next(weights), next(weights))
        query, key, value = (
            np.einsum("btw,whd->bhtd", y, next(weights)) + next(weights)[:, None] for _ in range(3)
        )
        attention = scipy.special.softmax(query @ key.swapaxes(2, 3) / np.sqrt(4), axis=-1)
        x = x + np.einsum("bhtd,hdw->btw", attention @ value, next(weights)) + next(weights)
        y = normalise(x, next(weights), next(weights)) @ next(weights) + next(weights)
        gelu = y * scipy.special.ndtr(y)
        x = x + gelu @ next(weights) + next(weights)
    expected = normalise(x, next(weights), next(weights))
    np.testing.assert_allclose(blocks(tokens.astype("float32")), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", [None, 3])
def test_features_are_averages_of_tokens(pooling, x):
    network = backbone(pooling=pooling)
    patches, tokens, blocks = (network.get_layer(name) for name in ("patches", "tokens", "blocks"))
    every = np.array(blocks(tokens(patches(x)))).reshape(len(x), 4, 4, 8)
    windows = [every]
    if pooling:  # 4 tokens a side, padded by one on each: windows of 2, 3 … tokens
        parts = (slice(0, 2), slice(2, 4))
        windows = [every[:, rows, columns] for rows in parts for columns in parts]
    expected = np.concatenate([window.mean((1, 2)) for window in windows], axis=1)
    np.testing.assert_allclose(network(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: backbone(patch_size=3), r"`patch_size` divides.*patch_size=3, shape \(8, 8, 1\)"),
        (lambda: backbone((64,)), r"Received: patch_size=2, shape \(64,\)"),
        (lambda: backbone(width=10), "`width` must be divisible by 4.*: 10"),
        (lambda: decoder(heads=3), "by `heads`. Received: width=8, heads=3"),
        (
            lambda: masked(mask_ratio=1.0),
            "`mask_ratio` must hide some of 16 patches.*Received: 1.0",
        ),
        (lambda: masked(decoder=decoder((8, 6, 1))), r"`decoder` must map \(None, 16, 8\) to"),
        (
            lambda: masked(backbone=networks.dense_backbone(SHAPE, [4])),
            "networks.vit_backbone. Received: .*dense_0",
        ),
    ],
)
def test_what_does_not_fit_is_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()


def test_any_family_takes_the_backbone(x, tmp_path):
    makers = [
        lambda: Autoencoder(backbone(), networks.dense_decoder(3, SHAPE, [8]), 3, seed=1),
        lambda: Classifier(backbone(pooling=2), 2, seed=1),
        lambda: PretrainFinetune.from_pretrained(masked(), classes=2, seed=1),
    ]
    for make in makers:
        model = make()
        model.compile("adam", run_eagerly=True)
        model.fit(x, np.arange(len(x)) % 2, verbose=0)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(loaded.encode(x)["latent"], model.encode(x)["latent"])


# Losses


@pytest.mark.parametrize("normalize_patches", [False, True])
def test_the_loss_is_the_error_of_hidden_patches_alone(normalize_patches, x):
    model = masked(normalize_patches=normalize_patches)
    target = cut(x, 2).astype("float64")
    if normalize_patches:
        target = (target - target.mean(2, keepdims=True)) / np.sqrt(
            target.var(2, keepdims=True) + 1e-6
        )
        np.testing.assert_allclose(normalized(cut(x, 2)), target, rtol=1e-3, atol=1e-4)
    draws = model.noise.uniform(len(x), (16,), training=False)
    order = np.argsort(draws, axis=1)
    restored, hidden = model.restore(model.patches(x), order, training=False)
    hidden = np.array(hidden)
    np.testing.assert_array_equal(np.sort(order[:, 4:]), [np.flatnonzero(row) for row in hidden])
    error = ((target - np.array(restored)) ** 2).mean(2)
    expected = np.array([row[chosen].mean() for row, chosen in zip(error, hidden, strict=True)])
    terms = model.losses(x, training=False)
    np.testing.assert_allclose(terms["loss"], expected, rtol=1e-4)
    variance = target.var(0).mean()
    np.testing.assert_allclose(terms["explained"], 1 - expected / variance, rtol=1e-3, atol=1e-4)


def test_what_is_hidden_is_not_seen(x):
    model = masked()
    order = np.tile(np.random.default_rng(0).permutation(16), (len(x), 1))
    patches = np.array(model.patches(x))
    restored, _ = model.restore(patches, order, training=False)
    for part, seen in ((order[0, :4], True), (order[0, 4:], False)):
        changed = patches.copy()
        changed[:, part] += 1
        again, _ = model.restore(changed, order, training=False)
        assert (np.abs(np.array(again) - np.array(restored)).max() > 1e-3) == seen


def test_every_patch_is_hidden_as_often_and_each_step_draws_anew(x):
    model = masked()
    seen = []
    restore = model.restore

    def remember(patches, order, training):
        seen.append(np.array(order))
        return restore(patches, order, training)

    model.restore = remember
    many = np.repeat(x, 50, axis=0)
    for _ in range(2):
        model.losses(many, training=True)
    hidden = np.concatenate(seen)[:, 4:]
    assert np.abs(np.bincount(hidden.ravel(), minlength=16) / len(hidden) - 0.75).max() < 0.05
    assert (seen[0] != seen[1]).any() and (seen[0][0] != seen[0][1]).any()
    for _ in range(2):
        model.losses(x, training=False)
    np.testing.assert_array_equal(seen[-1], seen[-2])


def test_encoder_weights_are_those_of_the_backbone_and_all_are_trained(x):
    model = masked()
    assert len(model.weights) == len(model.backbone.weights) + len(model.decoder.weights) + 1
    model.compile("adam", run_eagerly=True)
    before = [np.array(weight) for weight in model.weights]
    model.fit(x, verbose=0)
    for weight, old in zip(model.weights, before, strict=True):
        assert (np.array(weight) != old).any(), weight.path


def test_bfloat16_learns_and_keeps_float32_where_it_matters(x):
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        low = masked()
        low.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
        losses = low.fit(x, batch_size=15, epochs=4, verbose=0).history["loss"]
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert losses[-1] < losses[0]
    assert low.losses(tf.constant(x), training=True)["loss"].dtype == tf.float32
    seen = ~np.isin(np.arange(16), low._fixed_order[4:])
    np.testing.assert_array_equal(
        cut(low.reconstruct(x)["reconstruction"], 2)[:, seen], cut(x, 2)[:, seen]
    )


# Verbs


def test_reconstruct_keeps_what_is_visible_and_treats_each_row_alike(x):
    model = masked()
    whole = model.reconstruct(x)["reconstruction"]
    np.testing.assert_allclose(model.reconstruct(x[7:8])["reconstruction"][0], whole[7], atol=1e-5)
    differs = (np.abs(cut(whole, 2) - cut(x, 2)) > 1e-7).any(2)
    assert (differs == differs[0]).all() and differs[0].sum() == 12
    shown = cut(model.visible_part(x), 2)
    assert (shown[:, differs[0]] == 0.5).all()
    np.testing.assert_array_equal(shown[:, ~differs[0]], cut(x, 2)[:, ~differs[0]])
    other = masked(seed=2).reconstruct(x)["reconstruction"]
    assert ((np.abs(cut(other, 2) - cut(x, 2)) > 1e-7).any(2)[0] != differs[0]).any()
    assert masked(normalize_patches=True).verbs == ("encode",)


def test_exported_and_drawn(x, tmp_path):
    recipe = {
        "name": "tiny",
        "family": "masked_autoencoder",
        "data": {"name": "digits"},
        "model": {
            "class": "MaskedAutoencoder",
            "backbone": {"builder": "vit_backbone", "patch_size": 2, "width": 8, "depth": 1},
            "decoder": {"builder": "vit_decoder", "token_width": 8, "patch_size": 2, "width": 8},
        },
        "train": {"epochs": 1},
    }
    model = create_model(Recipe.load(recipe), SHAPE, (0.0, 1.0))
    served = ServedModel(export(model, tmp_path / "model"))
    assert served.verbs == ("encode", "reconstruct")
    for verb in served.verbs:
        for output, value in getattr(model, verb)(x).items():
            np.testing.assert_allclose(getattr(served, verb)(x)[output], value, atol=1e-5)
    stored = sum(path.stat().st_size for path in (tmp_path / "model" / "variables").iterdir())
    assert stored < 1.2 * sum(weight.numpy().nbytes for weight in model.weights) + 8192
    pictures.preview(served, datasets.load("digits"), tmp_path / "preview.png")
