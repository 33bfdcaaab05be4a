"""Every family: contract of fit, verbs, saving; each family's own mathematics."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from marks import slow_but

from kerasunsup import layers, networks
from kerasunsup.errors import InputError
from kerasunsup.models import (
    VAE,
    VQVAE,
    Autoencoder,
    MaskedAutoencoder,
    StackedAutoencoder,
    UnsupervisedModel,
    verb,
)
from kerasunsup.models.verbs import seed_rows

SHAPE = (8, 8, 1)


def make_autoencoder(**arguments):
    arguments = {"value_range": (0, 1), "seed": 1, **arguments}
    return Autoencoder(
        networks.dense_backbone(SHAPE, [32]), networks.dense_decoder(4, SHAPE, [32]), 4, **arguments
    )


def make_conv_autoencoder(**arguments):
    return Autoencoder(
        networks.conv_backbone(SHAPE, [4, 8]),
        networks.conv_decoder(4, SHAPE, [8, 4, 4]),
        4,
        loss="binary_crossentropy",
        seed=1,
        **arguments,
    )


def make_stacked_autoencoder(**arguments):
    return StackedAutoencoder(
        networks.dense_backbone(SHAPE, [32]),
        networks.dense_decoder(4, SHAPE, [32]),
        4,
        layer_epochs=1,
        corruption=layers.MaskingCorruption(0.2, seed=1),
        value_range=(0, 1),
        seed=1,
        **arguments,
    )


def make_masked_autoencoder(**arguments):
    return MaskedAutoencoder(
        networks.vit_backbone(SHAPE, patch_size=2, width=16, depth=1, heads=2),
        networks.vit_decoder(SHAPE, token_width=16, patch_size=2, width=8, heads=2),
        value_range=(0, 1),
        seed=1,
        **arguments,
    )


def make_vae(**arguments):
    arguments = {"seed": 1, **arguments}
    return VAE(
        networks.dense_backbone(SHAPE, [32], gated=True),
        networks.dense_decoder(4, SHAPE, [32], gated=True),
        4,
        **arguments,
    )


def make_gaussian_vae(**arguments):
    return make_vae(likelihood="gaussian", **arguments)


def make_vq_vae(**arguments):
    return VQVAE(
        networks.grid_backbone(SHAPE, [8], 1),
        networks.grid_decoder(4, SHAPE, [8, 8], 1),
        16,
        4,
        value_range=(0, 1),
        seed=1,
        **arguments,
    )


FAMILIES = [
    make_autoencoder,
    make_conv_autoencoder,
    make_masked_autoencoder,
    make_stacked_autoencoder,
    make_vae,
    make_gaussian_vae,
    make_vq_vae,
]


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).random((90, *SHAPE), dtype="float32")


def fitted(make, x, epochs=2, validation_data=None, **arguments):
    keras.utils.set_random_seed(0)
    model = make(**arguments)
    model.compile(keras.optimizers.Adam(0.01))
    model.fit(x, epochs=epochs, batch_size=16, verbose=0, validation_data=validation_data)
    return model


@pytest.mark.parametrize(
    "make", slow_but(set(FAMILIES) - {make_masked_autoencoder, make_vq_vae}, FAMILIES)
)
def test_saved_and_reloaded_goes_on_as_if_never_stopped(make, x, tmp_path):
    whole = fitted(make, x, epochs=4, validation_data=x[:20])
    history = whole.history.history
    assert history["loss"][-1] < history["loss"][0]
    assert {f"val_{name}" for name in whole.loss_terms} < set(history)
    half = fitted(make, x, epochs=2)
    half.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    loaded.fit(x, epochs=4, initial_epoch=2, batch_size=16, verbose=0)
    for a, b in zip(whole.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(whole.optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("make", FAMILIES)
def test_config_is_a_fixed_point(make):
    config = make().get_config()
    again = type(make()).from_config(config).get_config()
    assert again == config


@pytest.mark.parametrize("make", FAMILIES)
def test_verbs_take_arrays_bytes_and_datasets(make, x):
    model = fitted(make, x)
    if "score" in model.verbs:
        model.calibrate(x)
    for name in set(model.verbs) - {"generate", "decode"}:
        whole = getattr(model, name)(x)
        batched = getattr(model, name)(x, batch_size=7)
        stream = getattr(model, name)(tf.data.Dataset.from_tensor_slices((x, x)).batch(32))
        single = getattr(model, name)(tf.data.Dataset.from_tensor_slices(x))
        for output, values in whole.items():
            assert len(values) == len(x)
            for other in (batched, stream, single):
                np.testing.assert_allclose(other[output], values, rtol=1e-4, atol=1e-5)
    if "decode" in model.verbs:
        latent = model.encode(x)[model.decode.argument]
        predicted = model.reconstruct(x)["reconstruction"]
        np.testing.assert_allclose(model.decode(latent)["reconstruction"], predicted, atol=1e-5)
    else:
        predicted = model.encode(x)["latent"]
    np.testing.assert_allclose(model.predict(x, verbose=0), predicted, rtol=1e-6)
    if model.value_range:
        pixels = np.round(x * 255).astype("uint8")
        np.testing.assert_allclose(
            model.encode(pixels)["latent"],
            model.encode(pixels.astype("float32") / 255)["latent"],
            atol=1e-5,
        )


@pytest.mark.parametrize("data", ["x", "(x,)", "(x, y)", "dataset", "labelled dataset"])
def test_fit_takes_labelled_and_unlabelled_data(data, x):
    model = make_autoencoder()
    model.compile("sgd")
    y = np.zeros(len(x))
    given = {
        "x": x,
        "(x,)": (x,),
        "(x, y)": (x, y),
        "dataset": tf.data.Dataset.from_tensor_slices(x).batch(16),
        "labelled dataset": tf.data.Dataset.from_tensor_slices((x, y)).batch(16),
    }[data]
    model.fit(given, batch_size=16, verbose=0, shuffle=False)
    model.evaluate(given, verbose=0)
    expected = make_autoencoder()
    expected.set_weights(model.get_weights())
    assert model.optimizer.iterations.numpy() == 6


@pytest.mark.parametrize(("batch", "steps_of_a_call"), [(16, 1), (4, 2)])
def test_arrays_and_streams_train_the_same_weights(batch, steps_of_a_call, x):
    weights = []
    for given in (x, tf.data.Dataset.from_tensor_slices(x).batch(batch)):
        keras.utils.set_random_seed(0)
        model = make_vae()
        model.compile(keras.optimizers.SGD(0.01))
        model.fit(given, batch_size=batch, epochs=2, verbose=0, shuffle=False)
        assert model.steps_per_execution == steps_of_a_call
        weights.append(model.get_weights())
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_single_batches_are_evaluated_like_streams_of_one(x):
    model = make_vae()
    model.compile(steps_per_execution=3)
    first = model.test_on_batch(x)
    model.fit(x, batch_size=9, verbose=0)
    for _ in range(2):
        wanted = model.evaluate(x, batch_size=len(x), verbose=0)
        np.testing.assert_allclose(model.test_on_batch(x), wanted, rtol=1e-5)
    assert wanted[0] < first[0]


def test_a_finite_stream_gives_every_epoch_its_steps(x):
    model = make_vae()
    model.compile(steps_per_execution=6)
    stream = tf.data.Dataset.from_tensor_slices(x).batch(2)  # 45 batches
    model.fit(stream, steps_per_epoch=20, epochs=2, verbose=0)
    assert model.steps_done == 40


def test_evaluation_ends_after_its_steps_whatever_fit_has_chosen(x):
    model = make_vae()
    model.compile(steps_per_execution=6)
    stream = tf.data.Dataset.from_tensor_slices(x).batch(9)
    history = model.fit(
        stream, validation_data=stream, validation_steps=4, epochs=2, verbose=0
    ).history
    wanted = model.evaluate(x[:36], batch_size=9, verbose=0)
    np.testing.assert_allclose(model.evaluate(stream, steps=4, verbose=0), wanted, rtol=1e-5)
    assert history["val_loss"][-1] == pytest.approx(wanted[0], rel=1e-5)


@pytest.mark.parametrize("how", [{"run_eagerly": True}, {"jit_compile": True}])
def test_eager_and_compiled_steps_agree_with_the_graph(how, x):
    weights = []
    for arguments in ({}, how):
        keras.utils.set_random_seed(0)
        model = make_vae()
        model.compile(keras.optimizers.SGD(0.01), **arguments)
        model.fit(x, batch_size=16, epochs=2, verbose=0)
        weights.append(model.get_weights())
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_every_example_is_seen_once_an_epoch(x):
    class Recorder(Autoencoder):
        def losses(self, x, training):
            terms = super().losses(x, training)
            if training:
                seen.append(tf.reshape(x[:, 0, 0, 0], [-1]).numpy())
            return terms

    seen: list[np.ndarray] = []
    model = Recorder(networks.dense_backbone(SHAPE, [4]), networks.dense_decoder(4, SHAPE, [4]), 4)
    model.compile("sgd", run_eagerly=True)
    model.fit(x, batch_size=16, epochs=2, verbose=0)
    first, second = np.concatenate(seen[:6]), np.concatenate(seen[6:])
    np.testing.assert_array_equal(np.sort(first), np.sort(x[:, 0, 0, 0]))
    np.testing.assert_array_equal(np.sort(second), np.sort(x[:, 0, 0, 0]))
    assert (first != second).any() and (first != x[:, 0, 0, 0]).any()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((3, 8, 8), "float32"), r"\(batch, 8, 8, 1\).*x\[..., None\]"),
        (np.zeros((3, 9, 9, 1), "float32"), "shape"),
        (np.full((3, *SHAPE), np.nan, "float32"), "finite"),
        (np.full((3, *SHAPE), 200.0, "float32"), "uint8"),
        (np.full((3, *SHAPE), -1.0, "float32"), "0, 1"),
        (np.zeros((0, *SHAPE), "float32"), "at least one"),
        (np.full((3, *SHAPE), "a"), "numeric"),
        ({"image": np.zeros((3, *SHAPE))}, "dict"),
    ],
)
def test_bad_arrays_are_refused_with_the_remedy(bad, message):
    model = make_vae()
    model.compile("adam")
    for call in (model.encode, model.fit):
        with pytest.raises(InputError, match=message):
            call(bad)


def test_generate_depends_on_seed_and_index_alone(x):
    model = make_vae()
    ten = model.generate(10, seed=3)["samples"]
    np.testing.assert_allclose(
        model.generate(4, seed=3, batch_size=3)["samples"], ten[:4], atol=1e-6
    )
    assert np.abs(model.generate(10, seed=4)["samples"] - ten).max() > 1e-3
    for count, seed in ((0, 0), (-1, 0), (2.5, 0), (3, -1), (3, 2**31)):
        with pytest.raises(InputError, match="Received"):
            model.generate(count, seed=seed)


def test_compile_refuses_what_would_be_wrong():
    model = make_vae()
    with pytest.raises(InputError, match="clip_norm"):
        model.compile(keras.optimizers.Adam(clipnorm=1.0))
    with pytest.raises(InputError, match="`optimizer` must be"):
        model.compile({"generator_optimizer": "adam"})


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (make_autoencoder, {"sparsity": layers.L1Sparsity(0.1)}),
        (make_autoencoder, {"sparsity": layers.KLSparsity(0.1)}),
        (make_autoencoder, {"contractive": 0.1}),
        (make_autoencoder, {"corruption": layers.GaussianCorruption(0.5, seed=1)}),
        (make_autoencoder, {"corruption": layers.MaskingCorruption(0.5, seed=1)}),
        (make_autoencoder, {"corruption": layers.SaltAndPepperCorruption(0.5, seed=1)}),
        (make_vae, {"beta": 4.0}),
        (make_vae, {"free_bits": 2.0}),
        (make_vae, {"kl_warmup_steps": 50}),
        (make_vae, {"importance_samples": 5}),
        (make_vae, {"binarization": "dynamic"}),
        (make_vae, {"binarization": "static"}),
        (make_gaussian_vae, {"sigma": 0.1}),
    ],
)
def test_every_loss_argument_changes_the_gradient_and_survives_saving(make, arguments, x, tmp_path):
    gradients = []
    for given in ({}, arguments):
        keras.utils.set_random_seed(0)
        model = make(**given)
        model.compile("sgd")
        seen = tf.constant(model.prepare(x[:16], "x"))
        with tf.GradientTape() as tape:
            terms = model.losses(seen, training=True)
            loss = tf.reduce_mean(terms["loss"]) + terms.get("batch_loss", 0.0)
        gradients.append(tape.gradient(loss, model.encoder.trainable_weights))
    kernels = [(a, b) for a, b in zip(*gradients, strict=True) if len(a.shape) == 2]
    for plain, changed in kernels:
        assert np.abs(changed).max() > 0
        assert np.abs(plain - changed).max() > 1e-7
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        loaded.losses(seen, training=True)["loss"], model.losses(seen, training=True)["loss"]
    )


def test_corruption_is_for_training_only(x):
    model = make_autoencoder(corruption=layers.MaskingCorruption(0.5, seed=1))
    clean = model.losses(tf.constant(x), training=False)["loss"]
    noisy = model.losses(tf.constant(x), training=True)["loss"]
    np.testing.assert_allclose(clean, model.score(x)["score"], atol=1e-5)
    assert np.abs(clean - noisy).max() > 1e-4


def test_density_generates_the_latents_it_was_fitted_to(x):
    model = make_autoencoder(density_components=2)
    with pytest.raises(InputError, match="fit_density"):
        model.generate(3)
    model.fit_density(x)
    drawn = tf.function(model.density)(seed_rows(20_000, seed=0)).numpy()
    latent = model.encode(x)["latent"]
    np.testing.assert_allclose(drawn.mean(0), latent.mean(0), atol=0.05)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(latent.T, bias=True), atol=0.05)
    assert "generate" not in make_autoencoder().verbs


def test_calibrated_probability_is_the_fraction_below(x):
    model = make_autoencoder()
    assert np.isnan(model.score(x)["probability"]).all()
    assert not model.score(x)["is_anomaly"].any()
    model.calibrate(x, quantile=0.9)
    answer = model.score(x)
    rank = scipy.stats.rankdata(answer["score"]) / len(x)
    assert np.abs(answer["probability"] - rank).max() < 0.03
    assert answer["is_anomaly"].mean() == pytest.approx(0.1, abs=0.02)
    assert model.score(1 - x)["probability"].max() <= 1.0


def test_log_variance_is_bounded_and_losses_stay_finite():
    model = make_vae()
    model.encoder.get_layer("log_variance").bias.assign(np.full(4, 1e6, "float32"))
    terms = model.losses(tf.ones((2, *SHAPE)), training=True)
    assert np.isfinite(terms["loss"]).all()


def test_elbo_matches_independent_numpy(x):
    model = make_vae()
    binary = (x > 0.5).astype("float32")
    out = model.encode(binary)
    mean, log_variance = out["latent"].astype("float64"), out["log_variance"].astype("float64")
    kl = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).sum(1)
    draws = []
    for seed in range(40):
        terms = model.evidence(binary, seed=seed)
        np.testing.assert_allclose(terms["kl"], kl, rtol=1e-4)
        np.testing.assert_allclose(terms["elbo"], -terms["reconstruction"] - terms["kl"], rtol=1e-5)
        draws.append(terms["reconstruction"])
    rng, independent = np.random.default_rng(0), []
    for _ in range(40):
        z = mean + np.exp(0.5 * log_variance) * rng.normal(size=mean.shape)
        p = model.decode(z.astype("float32"))["reconstruction"].astype("float64")
        log_p = binary * np.log(p) + (1 - binary) * np.log1p(-p)
        independent.append(-log_p.sum((1, 2, 3)))
    difference = np.mean(draws) - np.mean(independent)
    assert abs(difference) < 4 * np.std(np.mean(independent, axis=1)) / np.sqrt(40) * 2 + 0.02


def linear_gaussian_vae(weights, offset, sigma):
    """A VAE that is probabilistic PCA: x = W z + b + sigma e, with its exact posterior."""
    features, latent = weights.shape
    backbone = networks.dense_backbone((features,), [])
    decoder = networks.dense_decoder(latent, (features,), [])
    model = VAE(backbone, decoder, latent, likelihood="gaussian", sigma=sigma)
    precision = np.eye(latent) + weights.T @ weights / sigma**2
    covariance = np.linalg.inv(precision)
    projection = covariance @ weights.T / sigma**2
    model.encoder.get_layer("mean").set_weights([projection.T, -projection @ offset])
    wanted = np.log(np.diag(covariance))
    model.encoder.get_layer("log_variance").set_weights(
        [np.zeros((features, latent)), 10 * np.arctanh(wanted / 10)]
    )
    decoder.get_layer("output").set_weights([weights.T, offset])
    return model


def test_log_likelihood_is_exact_for_probabilistic_pca():
    rng = np.random.default_rng(0)
    weights, _ = np.linalg.qr(rng.normal(size=(6, 2)))
    weights = weights * [2.0, 0.5]
    offset, sigma = rng.normal(size=6), 0.7
    model = linear_gaussian_vae(weights, offset, sigma)
    data = rng.normal(size=(50, 2)) @ weights.T + offset + sigma * rng.normal(size=(50, 6))
    exact = scipy.stats.multivariate_normal(
        offset, weights @ weights.T + sigma**2 * np.eye(6)
    ).logpdf(data)
    got = model.log_likelihood(data.astype("float32"), samples=130)
    np.testing.assert_allclose(got, exact, atol=1e-3)
    np.testing.assert_allclose(model.score(data)["score"], -exact, atol=1e-3)
    elbo = np.mean([model.evidence(data, seed=i)["elbo"] for i in range(50)], axis=0)
    assert (np.abs(elbo - exact) < 1.0).all() and abs((elbo - exact).mean()) < 0.05


def test_importance_weighting_tightens_a_poor_bound():
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(6, 2))
    model = linear_gaussian_vae(weights, np.zeros(6), 0.5)
    model.encoder.get_layer("log_variance").set_weights([np.zeros((6, 2)), np.zeros(2)])
    data = (rng.normal(size=(64, 2)) @ weights.T).astype("float32")
    exact = scipy.stats.multivariate_normal(
        np.zeros(6), weights @ weights.T + 0.25 * np.eye(6)
    ).logpdf(data)
    estimates = [model.log_likelihood(data, samples=k).mean() for k in (1, 10, 1000)]
    assert estimates[0] < estimates[1] < estimates[2]
    assert estimates[2] == pytest.approx(exact.mean(), abs=0.05)


def test_log_likelihood_refuses_grey_values(x):
    with pytest.raises(InputError, match="binar"):
        make_vae().log_likelihood(x)


def test_dynamic_binarisation_feeds_binary_examples(x):
    model = make_vae(binarization="dynamic")
    seen = []
    model.posterior = lambda b, training=False: seen.append(b) or VAE.posterior(model, b, training)
    model.losses(tf.constant(x), training=True)
    model.losses(tf.constant(x), training=True)
    first, second = (np.asarray(s) for s in seen)
    assert set(np.unique(first)) == {0.0, 1.0} and (first != second).any()
    assert abs(first.mean() - x.mean()) < 0.03


def test_decoders_that_end_in_a_sigmoid_are_refused_where_logits_are_read():
    decoder = networks.dense_decoder(4, SHAPE, [8], output_activation="sigmoid")
    with pytest.raises(InputError, match="activation=None"):
        VAE(networks.dense_backbone(SHAPE, [8]), decoder, 4)


def test_networks_of_the_user_fit_in(x):
    backbone = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten()])
    z = keras.Input((3,))
    decoder = keras.Model(z, keras.layers.Reshape(SHAPE)(keras.layers.Dense(64)(z)))
    model = VAE(backbone, decoder, 3)
    model.compile("adam")
    model.fit(x, verbose=0)
    with pytest.raises(InputError, match="decoder"):
        VAE(backbone, decoder, 5)


def test_tables_are_normalised_inside_the_model(tmp_path):
    rng = np.random.default_rng(0)
    table = rng.normal(size=(200, 1)) * [1, 100, 0.01] + [5, -300, 2]
    table = table.astype("float32")
    normalization = keras.layers.Normalization()
    normalization.adapt(table)
    model = VAE(
        networks.dense_backbone((3,), [16]),
        networks.dense_decoder(2, (3,), [16]),
        2,
        likelihood="gaussian",
        normalization=normalization,
    )
    model.compile(keras.optimizers.Adam(0.01))
    model.fit(table, epochs=60, verbose=0)
    reconstruction = model.reconstruct(table)["reconstruction"]
    assert (((reconstruction - table) ** 2).mean(0) < 0.1 * table.var(0)).all()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.reconstruct(table)["reconstruction"], reconstruction)


def test_a_subclass_of_the_user_may_have_verbs_of_its_own(x):
    class Edges(Autoencoder):
        @verb
        def residual(self, x):
            return {"residual": x - self.decoder(self.encoder(x))}

    model = Edges(networks.dense_backbone(SHAPE, [4]), networks.dense_decoder(4, SHAPE, [4]), 4)
    assert model.verbs[-1] == "residual"
    assert model.residual(x)["residual"].shape == x.shape
    assert isinstance(model, UnsupervisedModel)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains_scores_and_saves(policy, x, tmp_path):
    keras.mixed_precision.set_global_policy(policy)
    try:
        models = [
            make_vae(binarization="dynamic"),
            make_autoencoder(
                corruption=layers.GaussianCorruption(0.5),
                sparsity=layers.KLSparsity(0.1),
                contractive=0.1,
                density_components=2,
            ),
        ]
        for model in models:
            model.compile(keras.optimizers.Adam(0.01))
            history = model.fit(x, batch_size=16, epochs=3, verbose=0).history["loss"]
            assert history[-1] < history[0]
            scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
            assert scaled == (policy == "mixed_float16")
            model.finish(x, x)
            model.save(tmp_path / "model.keras")
            loaded = keras.saving.load_model(tmp_path / "model.keras")
            for name in set(model.verbs) - {"generate", "decode"}:
                for output, value in getattr(model, name)(x).items():
                    np.testing.assert_array_equal(getattr(loaded, name)(x)[output], value)
            assert np.isfinite(model.generate(3)["samples"]).all()
    finally:
        keras.mixed_precision.set_global_policy("float32")


def test_steps_per_epoch_cuts_the_epoch_and_stays_exact(x, tmp_path):
    def make():
        keras.utils.set_random_seed(0)
        model = make_vae()
        model.compile("adam")
        return model

    whole, half = make(), make()
    whole.fit(x, batch_size=16, steps_per_epoch=2, epochs=4, verbose=0)
    half.fit(x, batch_size=16, steps_per_epoch=2, epochs=2, verbose=0)
    half.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    loaded.fit(x, batch_size=16, steps_per_epoch=2, epochs=2, verbose=0)
    for a, b in zip(whole.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(InputError, match="steps_per_epoch"):
        whole.fit(x, batch_size=16, steps_per_epoch=7, verbose=0)


def test_kl_warmup_weighs_the_kl_and_ends_with_training(x):
    model = make_vae(kl_warmup_steps=10, beta=2.0)
    model.compile("sgd")
    batch = tf.constant(x)
    for done, weight in ((0, 0.0), (5, 1.0), (10, 2.0), (20, 2.0)):
        model.optimizer.iterations.assign(done)
        terms = model.losses(batch, training=True)
        np.testing.assert_allclose(
            terms["loss"], terms["reconstruction"] + weight * terms["kl"], rtol=1e-5
        )
    model.optimizer.iterations.assign(0)
    terms = model.losses(batch, training=False)
    np.testing.assert_allclose(terms["loss"], terms["reconstruction"] + 2 * terms["kl"], rtol=1e-5)
    model.finish(x, x)
    assert model.get_config()["kl_warmup_steps"] == 0


def test_train_on_batch_and_uint8_tables(x):
    model = make_autoencoder()
    model.compile("adam")
    model.train_on_batch(x)
    assert model.steps_done == 1
    pixels = np.round(x * 255).astype("uint8")
    table = make_autoencoder(normalization=keras.layers.Normalization())
    table.adapt(pixels)
    mean = np.ravel(table.normalization.mean)
    np.testing.assert_allclose(mean, pixels.mean((0, 1, 2)) / 255, rtol=1e-3)
    with pytest.raises(InputError, match="finite"):
        model.predict(np.full_like(x, np.nan))
    with pytest.raises(InputError, match="batch"):
        model.fit(tf.data.Dataset.from_tensor_slices(x))
    for arguments in ({"sigma": 0.0}, {"beta": -1.0}, {"importance_samples": 0}):
        with pytest.raises(InputError, match="Received"):
            make_gaussian_vae(**arguments)
    with pytest.raises(InputError, match="normalization"):
        make_vae(normalization=keras.layers.Normalization())
