"""VQ-VAE: the codebook, both stages of training, the prior and its draws, codes as inputs."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from kerasunsup import baselines, data, evaluate, networks, pictures, zoo
from kerasunsup.building import create_model
from kerasunsup.callbacks import Checkpoint
from kerasunsup.cli import main
from kerasunsup.codebook import Codebook
from kerasunsup.errors import InputError, TrainingError
from kerasunsup.evaluation import Subject, protocols_for
from kerasunsup.export import ServedModel, export
from kerasunsup.layers import gumbel_rows
from kerasunsup.metrics.perplexity import Perplexity, perplexity
from kerasunsup.models import VQVAE
from kerasunsup.models.verbs import seed_rows
from kerasunsup.recipe import Recipe
from kerasunsup.training import train
from kerasunsup.zoo.pages import network

SHAPE, GRID = (8, 8, 1), (4, 4)
RECIPE = {
    "name": "tiny_vq",
    "family": "vq_vae",
    "data": {"name": "digits"},
    "model": {
        "class": "VQVAE",
        "codes": 16,
        "code_dim": 4,
        "prior_epochs": 2,
        "backbone": {"builder": "grid_backbone", "filters": [8], "blocks": 1},
        "decoder": {"builder": "grid_decoder", "filters": [8, 8], "blocks": 1},
        "prior": {"builder": "code_transformer", "grid": [4, 4], "width": 8, "depth": 1},
    },
    "compile": {
        "optimizer": {"name": "Adam", "learning_rate": 0.01, "schedule": "cosine"},
        "prior_optimizer": {
            "name": "Adam",
            "learning_rate": 0.02,
            "schedule": "cosine",
            "warmup_epochs": 1,
        },
    },
    "train": {"epochs": 6, "batch_size": 180, "seed": 3, "picture_every": 3, "fcd_every": 3},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(RECIPE, tmp_path_factory.mktemp("vq") / "run", verbose=0)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def make(with_prior=True, **arguments):
    keras.utils.set_random_seed(0)
    if with_prior:
        pairs = networks.code_transformer(16, GRID, 8, depth=0)
        arguments = {"prior": pairs, "prior_epochs": 2, **arguments}
    model = VQVAE(
        networks.grid_backbone(SHAPE, [8], 0),
        networks.grid_decoder(4, SHAPE, [8, 8], 0),
        **{"codes": 16, "code_dim": 4, "value_range": (0, 1), "seed": 1, **arguments},
    )
    model.compile(keras.optimizers.Adam(0.01), keras.optimizers.Adam(0.02))
    return model


def weights_of(model):
    return [np.array(weight) for weight in model.get_weights()]


def assert_same(one, two):
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


def assert_same_state(one, two):
    assert_same(one.variables, two.variables)
    for name in one.optimizer_variables:
        assert_same(getattr(one, name).variables, getattr(two, name).variables)
    assert one.steps_done == two.steps_done and one.stage == two.stage


# The codebook


def test_the_codebook_is_that_of_the_paper():
    """Against N <- g N + (1 - g) n, m <- g m + (1 - g) sum z, e = m / N (appendix A.1)."""
    rng = np.random.default_rng(0)
    book = Codebook(5, 3, decay=0.9, restart=0.0, seed=1)
    book(rng.normal(size=(4, 2, 2, 3)).astype("float32"), training=True)  # seeds all
    vectors, use = (np.array(weight, "float64") for weight in book.weights[:2])
    sums = vectors * use[:, None]
    for _ in range(3):
        z = rng.normal(size=(4, 2, 2, 3)).astype("float32")
        found, codes = book(z, training=True)
        wanted = np.square(z[..., None, :] - vectors).sum(-1).argmin(-1)
        np.testing.assert_array_equal(codes, wanted)
        np.testing.assert_allclose(found, vectors[wanted], rtol=1e-5)  # before they move
        chosen = np.eye(5)[wanted.ravel()]
        use = 0.9 * use + 0.1 * chosen.sum(0)
        sums = 0.9 * sums + 0.1 * chosen.T @ z.reshape(-1, 3)
        vectors = np.divide(sums, use[:, None], where=use[:, None] > 0, out=vectors)
        np.testing.assert_allclose(book.vectors, vectors, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(book.use, use, rtol=1e-5)
    still = weights_of(book)
    book(z)
    assert_same(weights_of(book), still)


def test_codes_out_of_use_become_latents_of_the_batch():
    rng = np.random.default_rng(0)
    book = Codebook(8, 2, restart=0.5, seed=1)
    z = rng.normal(size=(50, 2)).astype("float32")
    assert not book.seeded
    book._reseed(tf.constant(z))
    rows = [np.flatnonzero((z == vector).all(1)).item() for vector in np.array(book.vectors)]
    np.testing.assert_array_equal(np.array(rows) * 8 // 50, range(8))  # one of each eighth
    book.use.assign([4, 4, 4, 4, 4, 4, 4, 1.0])
    before = np.array(book.vectors)
    book._reseed(tf.constant(z))
    changed = (np.array(book.vectors) != before).any(1)
    np.testing.assert_array_equal(changed, [False] * 7 + [True])
    np.testing.assert_allclose(book.use, [4] * 7 + [29 / 8])
    never = Codebook(8, 2, restart=0.0, seed=1)
    never.use.assign([0.0] * 7 + [1.0])
    before = weights_of(never)
    never._reseed(tf.constant(z))
    assert_same(weights_of(never)[:2], before[:2])


def test_perplexity_counts_the_codes_in_use():
    assert perplexity(np.array([7, 0, 7, 7, 0, 7])) == pytest.approx(4)
    assert perplexity(np.array([0, 3])) == 1
    codes = np.random.default_rng(0).integers(0, 5, (30, 4, 4))
    metric = Perplexity(9)
    metric.update_state(codes[:17])
    metric.update_state(codes[17:])
    counts = np.bincount(codes.ravel(), minlength=9)
    assert float(metric.result()) == pytest.approx(perplexity(counts), rel=1e-5)


# Losses


def test_losses_and_the_straight_through_gradient_match_numpy(digits):
    model = make(commitment=0.3)
    x = digits.train[:12].astype("float32")
    model.codebook(model.encoder(x), training=True)
    vectors, codes = model.codebook(model.encoder(x))
    latent = np.array(model.encoder(x), "float64")
    output = np.array(model.decoder(vectors), "float64")
    terms = model.losses(tf.constant(x), training=False)
    reconstruction = np.square(x - output).mean((1, 2, 3))
    commitment = np.square(latent - vectors).mean((1, 2, 3))
    np.testing.assert_allclose(terms["reconstruction"], reconstruction, rtol=1e-4)
    np.testing.assert_allclose(terms["commitment"], commitment, rtol=1e-4)
    np.testing.assert_allclose(terms["loss"], reconstruction + 0.3 * commitment, rtol=1e-4)
    np.testing.assert_allclose(terms["code_nll"], 16 * np.log(16), rtol=1e-6)
    np.testing.assert_array_equal(terms["codes"], codes)

    kernel = model.encoder.get_layer("latent").kernel
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(model.losses(tf.constant(x), training=False)["loss"])
    found = tape.gradient(total, [kernel, model.codebook.vectors])
    with tf.GradientTape() as tape:
        tape.watch(vectors)
        error = tf.reduce_sum(tf.reduce_mean(tf.square(x - model.decoder(vectors)), (1, 2, 3)))
    upstream = tape.gradient(error, vectors) + 0.3 * 2 * (latent - vectors) / latent[0].size
    features = np.array(model.backbone(x)).reshape(-1, 8)
    wanted = features.T @ np.array(upstream).reshape(-1, 4)
    np.testing.assert_allclose(found[0], wanted, rtol=1e-3, atol=1e-6)
    assert found[1] is None


def test_code_nll_is_the_cross_entropy_of_the_prior(run, digits):
    model, x = run.model, digits.test[:20]
    codes = model.encode(x)["codes"]
    logits = np.array(model.prior(codes), "float64")
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    chosen = np.take_along_axis(log_p, codes[..., None], -1)[..., 0]
    wanted = -chosen.sum((1, 2))
    np.testing.assert_allclose(model.code_nll(x, batch_size=7), wanted, rtol=1e-4)
    seen = model.evaluate(x, verbose=0, return_dict=True)
    assert seen["code_nll"] == seen["loss"] == pytest.approx(wanted.mean(), rel=1e-4)


# The prior


def test_the_transformer_sees_the_codes_before_a_place_alone():
    prior = networks.code_transformer(11, (3, 4), 8, 2, 2)
    codes = np.random.default_rng(0).integers(0, 11, (1, 3, 4))
    changed = np.repeat(codes, 12, axis=0).reshape(12, 12)
    changed[range(12), range(12)] = (changed[range(12), range(12)] + 1) % 11
    logits = np.array(prior(codes)).reshape(12, 11)
    others = np.array(prior(changed.reshape(12, 3, 4))).reshape(12, 12, 11)
    differs = np.abs(others - logits).max(-1) > 1e-6
    np.testing.assert_array_equal(differs, np.triu(np.ones((12, 12), bool), 1))
    with pytest.raises(InputError, match="multiple of heads=3"):
        networks.code_transformer(11, (3, 4), 8, heads=3)


def test_codes_are_drawn_one_after_the_other_by_the_prior(run):
    model, seed = run.model, tf.constant(seed_rows(6, 5))
    noise = np.array(gumbel_rows(seed, (*GRID, 16)))
    codes = np.zeros((6, 16), "int32")
    for place in range(16):
        scores = np.array(model.prior(codes.reshape(6, *GRID))) + noise
        codes[:, place] = scores.reshape(6, 16, 16)[:, place].argmax(-1)
    drawn = tf.function(model._draw_codes)(seed)
    np.testing.assert_array_equal(drawn, codes.reshape(6, *GRID))
    wanted = model.decode(codes.reshape(6, *GRID))["reconstruction"]
    np.testing.assert_allclose(model.generate(6, seed=5)["samples"], wanted, atol=1e-6)
    few = model.generate(4, seed=5, batch_size=3)["samples"]
    np.testing.assert_allclose(few, wanted[:4], atol=1e-6)
    assert np.abs(model.generate(6, seed=6)["samples"] - wanted).max() > 0.1


def test_gumbel_noise_draws_from_the_softmax():
    p = np.array([0.5, 0.3, 0.15, 0.05])
    noise = tf.function(gumbel_rows)(tf.constant(seed_rows(2000, 1)), (10, 4)).numpy()
    drawn = (np.log(p) + noise).argmax(-1)
    np.testing.assert_allclose(np.bincount(drawn.ravel()) / 20_000, p, atol=0.01)


# Stages


def test_history_keeps_its_names_and_schedules_end_with_their_stage(run, digits):
    names = {"loss", "reconstruction", "commitment", "code_nll", "perplexity"}
    history = run.history
    assert set(history) == names | {f"val_{name}" for name in names}
    assert all(np.isfinite(values).all() for values in history.values())
    np.testing.assert_allclose(history["code_nll"][:4], run.model.bits * np.log(2), rtol=1e-6)
    assert history["val_code_nll"][5] < history["val_code_nll"][4] < history["code_nll"][3]
    assert history["reconstruction"][3] < 0.7 * history["reconstruction"][0]
    assert len(set(history["val_reconstruction"][3:])) == 1  # frozen
    counts = np.bincount(run.model.encode(digits.validation)["codes"].ravel())
    assert history["val_perplexity"][5] == pytest.approx(perplexity(counts), rel=1e-4)
    assert run.model.steps_done == 6 * 6
    networks_and_vectors = (run.model.encoder, run.model.decoder, run.model.prior)
    counted = sum(network.count_params() for network in networks_and_vectors) + 16 * 4
    assert json.loads((run.folder / "run.json").read_text())["parameters"] == counted
    assert float(run.model.prior_optimizer.learning_rate) == pytest.approx(0.0, abs=1e-8)
    created = create_model(Recipe.load(RECIPE), SHAPE, (0.0, 1.0), steps_per_epoch=6)
    assert created.optimizer._learning_rate.decay_steps == 4 * 6  # of its stage
    assert created.prior_optimizer._learning_rate.decay_steps == 6  # and 6 of warm-up


def test_dead_codes_are_told_in_words(run):
    assert run.model.health == ()
    (finding,) = run.model.findings({"perplexity": 0.7})
    assert finding.startswith("Dead codebook: as if 0.7 of 16 codes")


def test_each_stage_trains_its_networks_alone(digits):
    parts = {}

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            own = {name: weights_of(getattr(model, name)) for name in ("encoder", "decoder")}
            parts[epoch] = {**own, "codebook": weights_of(model.codebook)}, weights_of(model.prior)

    model = make()
    untrained = weights_of(model.prior)
    model.fit(digits.train, batch_size=180, epochs=3, verbose=0, callbacks=[Watch()])
    assert_same(parts[0][1], untrained)
    for name in parts[0][0]:
        assert_same(parts[0][0][name], parts[2][0][name])
    assert any((a != b).any() for a, b in zip(parts[1][1], parts[2][1], strict=True))
    assert model.prior_trained.numpy() == 1
    model.fit(digits.train, batch_size=180, epochs=1, verbose=0)  # goes on with the prior
    assert model.stage == 1 and model.steps_done == 4 * 6
    model.fit(digits.train, batch_size=180, epochs=3, verbose=0)
    assert model.steps_done == 7 * 6


class StopAfter(keras.callbacks.Callback):
    def __init__(self, epochs):
        super().__init__()
        self.last = epochs - 1

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch == self.last


EPOCHS = {"batch_size": 200, "epochs": 4, "verbose": 0}


@pytest.fixture(scope="module")
def whole(digits):
    model = make()
    model.fit(digits.train, **EPOCHS)
    return model


@pytest.mark.parametrize("after", [1, 2, 3])
def test_saved_in_any_stage_and_reloaded_goes_on_as_if_never_stopped(
    after, whole, digits, tmp_path
):
    arguments, half = EPOCHS, make()
    half.fit(digits.train, **arguments, callbacks=[StopAfter(after)])
    half.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_same_state(half, loaded)
    loaded.fit(digits.train, initial_epoch=after, **arguments)
    assert_same_state(whole, loaded)


@pytest.mark.slow
def test_a_run_interrupted_between_the_stages_equals_an_uninterrupted_one(
    run, tmp_path, monkeypatch
):
    finished = Checkpoint.on_epoch_end

    def interrupt(self, epoch, logs=None):
        finished(self, epoch, logs)
        if epoch + 1 == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "on_epoch_end", interrupt)
        with pytest.raises(TrainingError, match="--resume"):
            train(RECIPE, tmp_path / "run", verbose=0)
    resumed = train(RECIPE, tmp_path / "run", resume=True, verbose=0)
    assert_same_state(run.model, resumed.model)
    assert resumed.history == run.history


def test_a_run_draws_and_measures_samples_once_there_is_a_prior(run):
    drawn = {path.name for path in (run.folder / "samples").iterdir()}
    assert drawn == {"epoch_003.png", "epoch_006.png", "training.gif"}
    rows = (run.folder / "fcd.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "6"]


# Verbs


def test_codes_are_checked_before_they_are_decoded(run):
    codes = np.zeros((2, *GRID), "int64")
    for bad, message in (
        (codes + 16, r"`codes` must lie in \[0, 15\].*from 16 to 16"),
        (codes - 1, r"`codes` must lie in \[0, 15\]"),
        (codes + 2**32, r"`codes` must lie in \[0, 15\]"),
        (codes + 0.5, "whole numbers"),
        (codes[0], r"`codes` must have shape \(batch, 4, 4\)"),
        (codes + np.nan, "finite"),
    ):
        with pytest.raises(InputError, match=message):
            run.model.decode(bad)
    wanted = run.model.decode(codes)["reconstruction"]
    for given in (codes.astype("uint8"), codes.astype("float64")):
        np.testing.assert_array_equal(run.model.decode(given)["reconstruction"], wanted)


def test_generate_asks_for_a_trained_prior(digits, tmp_path):
    with pytest.raises(InputError, match="build the model with prior=.*Received: no prior"):
        make(with_prior=False).generate(2)
    assert "generate" not in make(with_prior=False).verbs
    model = make()
    for call in (lambda: model.generate(2), lambda: export(model, tmp_path / "model")):
        with pytest.raises(InputError, match="last prior_epochs=2 epochs.*none yet"):
            call()
    with pytest.raises(InputError, match="`epochs` exceed prior_epochs=2"):
        model.fit(digits.train, epochs=2, verbose=0)
    model.fit(digits.train, batch_size=360, epochs=3, verbose=0)
    model.generate(2)
    model.enter_stage(0)
    model.train_on_batch(digits.train[:20])  # now the codes mean something else
    with pytest.raises(InputError, match="none yet"):
        model.code_nll(digits.test)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"codes": 1}, "`codes` must be at least 2"),
        ({"code_dim": 0}, "`code_dim` must be at least 1"),
        ({"commitment": -1.0}, "`commitment` must be at least 0"),
        ({"decay": 1.0}, r"`decay` must be in \[0, 1\)"),
        ({"restart": -0.1}, r"`restart` must be in \[0, 1\)"),
        ({"prior_epochs": 0}, "needs `prior_epochs`"),
        ({"prior": None}, "these need a prior"),
        ({"prior": networks.code_transformer(15, GRID, 8, 1)}, "`prior` must map codes"),
        ({"prior": networks.code_transformer(16, (5, 4), 8, 1)}, "`prior` must map codes"),
        ({"normalization": layers.Normalization()}, "normalization"),
        ({"code_dim": 5}, "`decoder` must map"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(InputError, match=f"{message}.*Received"):
        make(**arguments)


def test_backbones_without_a_grid_and_patience_are_refused(tmp_path):
    decoder = networks.grid_decoder(4, SHAPE, [8, 8])
    with pytest.raises(InputError, match="grid of features.*Received.*32"):
        VQVAE(networks.dense_backbone(SHAPE, [32]), decoder, 16, 4)
    with pytest.raises(InputError, match="divisible by 4"):
        networks.grid_decoder(4, (6, 8, 1), [8, 8, 8])
    recipe = {**RECIPE, "train": {**RECIPE["train"], "patience": 3}}
    with pytest.raises(InputError, match="patience.*2 stages"):
        train(recipe, tmp_path / "run", verbose=0)


def test_networks_and_data_of_the_user_fit_in():
    """A grid of one row, values without a range, a prior that is a table of frequencies."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3, 5, 2)).astype("float32") * 9
    normalization = layers.Normalization()
    normalization.adapt(x)
    example, latent, codes = keras.Input((3, 5, 2)), keras.Input((1, 5, 3)), keras.Input((1, 5))
    features = layers.Reshape((1, 5, 4))(layers.Dense(20)(layers.Flatten()(example)))
    output = layers.Reshape((3, 5, 2))(layers.Dense(30)(layers.Flatten()(latent)))
    logits = layers.Dense(7)(layers.Reshape((1, 5, 1))(0.0 * codes))
    model = VQVAE(
        keras.Model(example, features), keras.Model(latent, output), 7, 3,
        prior=keras.Model(codes, logits), prior_epochs=3, normalization=normalization, seed=0,
    )  # fmt: skip
    model.compile(keras.optimizers.Adam(0.01), keras.optimizers.Adam(0.1))
    history = model.fit(x, epochs=9, verbose=0).history
    assert history["reconstruction"][5] < history["reconstruction"][0]
    assert history["code_nll"][8] < history["code_nll"][6]
    assert np.abs(model.reconstruct(x)["reconstruction"]).max() > 3  # in the data's units
    assert model.generate(3)["samples"].shape == (3, 3, 5, 2)


def test_mixed_precision_trains_both_stages_and_saves(digits, tmp_path):
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        model = make()
        history = model.fit(digits.train, batch_size=120, epochs=4, verbose=0).history
        assert history["reconstruction"][1] < history["reconstruction"][0]
        assert history["code_nll"][3] < history["code_nll"][2]
        assert model.codebook.vectors.dtype == "float32"
        model.finish(digits.train, digits.validation)
        assert np.isfinite(model.generate(3)["samples"]).all()
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        for name in ("encode", "reconstruct", "score"):
            for output, value in getattr(model, name)(digits.test).items():
                np.testing.assert_array_equal(getattr(loaded, name)(digits.test)[output], value)
    finally:
        keras.mixed_precision.set_global_policy("float32")


# What is served, measured and drawn


def test_the_export_takes_codes_and_refuses_those_that_are_not_there(run, digits, capsys):
    folder = run.folder / "saved_model" / "1"
    served, x = ServedModel(folder), digits.test[:9]
    codes = served.encode(x)["codes"]
    assert codes.dtype == np.int32 and codes.shape == (9, *GRID)
    np.testing.assert_array_equal(codes, run.model.encode(x)["codes"])
    np.testing.assert_allclose(
        served.decode(codes.astype("uint8"))["reconstruction"],
        run.model.reconstruct(x)["reconstruction"],
        atol=1e-5,
    )
    np.testing.assert_allclose(
        served.generate(5, seed=2)["samples"], run.model.generate(5, seed=2)["samples"], atol=1e-5
    )
    signature = tf.saved_model.load(str(folder)).signatures["decode"]
    assert signature.structured_input_signature[1]["codes"].dtype == tf.int32
    for bad in (codes + 16, codes - 16):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"`codes` must lie in \[0, 15\]"):
            signature(codes=tf.constant(bad))


def test_the_command_line_decodes_codes(run, digits, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", digits.test[:7])

    def call(*arguments, code=0):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        assert ended.value.code == code
        return "".join(capsys.readouterr())

    assert "codes (7, 4, 4)" in call("encode", run.folder, "x.npy", "-o", "latent.npz")
    with np.load("latent.npz") as file:
        codes = file["codes"]
    np.save("codes.npy", codes)
    call("decode", run.folder, "codes.npy", "-o", "decoded.npy")
    wanted = run.model.reconstruct(digits.test[:7])["reconstruction"]
    np.testing.assert_allclose(np.load("decoded.npy"), wanted, atol=1e-5)
    call("decode", run.folder, "codes.npy", "-o", "decoded.png")
    np.save("bad.npy", codes + 16)
    assert "`codes` must lie in [0, 15]" in call("decode", run.folder, "bad.npy", "-o", "y", code=2)


def test_protocols_measure_codes_against_numpy(run, digits, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    names = ["mse", "perplexity", "perplexity_share", "bits", "prior_bits"]
    found = evaluate(run.folder, digits, names, progress=False)
    codes = run.model.encode(digits.test)["codes"].reshape(-1, 16)
    p = np.bincount(codes.ravel(), minlength=16) / codes.size
    entropy = -(p[p > 0] * np.log(p[p > 0])).sum()
    assert found["perplexity"].value == pytest.approx(np.exp(entropy), rel=1e-6)
    assert found["perplexity_share"].value == pytest.approx(np.exp(entropy) / 16, rel=1e-6)
    assert found["bits"].value == 64.0
    nats = run.model.code_nll(digits.test)
    assert found["prior_bits"].value == pytest.approx(nats.mean() / np.log(2), rel=1e-3)
    assert found["prior_bits"].baselines["equally_likely_codes"] == 64.0
    assert found["prior_bits"].baselines["independent_codes"] < 64.0
    assert set(found["mse"].baselines) == {"pca_64_bits"}
    unasked = protocols_for(Subject(run.model, digits))
    assert set(names) - {"perplexity_share"} < set(unasked)
    autoencoder = protocols_for(Subject(zoo.load("autoencoder_digits"), digits))
    assert set(names) & set(autoencoder) == {"mse"}


def test_pca_in_bits_is_between_no_bits_and_all(digits, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    errors = [baselines.pca_bits_reconstruction(digits, bits)["mse"] for bits in (1, 20, 80, 640)]
    x = digits.test.reshape(-1, 64) / 16.0 if digits.test.max() > 1 else digits.test.reshape(-1, 64)
    assert x.var(0).mean() > errors[0] > errors[1] > errors[2] > errors[3]
    assert errors[3] < 0.05 * errors[0]
    levels = baselines.lloyd_max(np.random.default_rng(0).normal(size=200_000), 4)
    np.testing.assert_allclose(levels, [-1.51, -0.4528, 0.4528, 1.51], atol=0.02)  # Max 1960


def test_pages_say_how_many_codes_there_are():
    assert network(Recipe.load(RECIPE)) == "grid 8, 16 codes"


def test_the_preview_shows_reconstructions_samples_and_a_map(run, digits, tmp_path):
    assert pictures.preview(run.model, digits, tmp_path / "preview.png").stat().st_size > 10_000
