"""GANs: alternating steps, two optimisers, penalties, the averaged generator, classes."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from kerasunsup import networks
from kerasunsup.errors import InputError
from kerasunsup.export import ServedModel, export
from kerasunsup.models import GAN
from kerasunsup.models.gan import LOSSES

SHAPE = (8, 8, 1)
PLAYERS = ("generator", "discriminator")


def make_gan(labels=None, normalization="batch", seed=1, **arguments):
    return GAN(
        networks.dcgan_generator(4, SHAPE, [8, 4], labels=labels),
        networks.dcgan_discriminator(SHAPE, [4, 8], normalization, labels=labels),
        4,
        labels=labels,
        value_range=(0, 1),
        seed=seed,
        **arguments,
    )


def line_gan(**arguments):
    """A GAN of numbers: sample = a z + b, logit = w x + c."""
    z, x = keras.Input((1,)), keras.Input((1,))
    generator = keras.Model(z, keras.layers.Dense(1)(z))
    discriminator = keras.Model(x, keras.layers.Dense(1)(x))
    generator.set_weights([np.array([[0.7]]), np.array([0.2])])
    discriminator.set_weights([np.array([[1.5]]), np.array([-0.4])])
    model = GAN(generator, discriminator, 1, seed=3, **arguments)
    model.compile(keras.optimizers.SGD(1.0), keras.optimizers.SGD(1.0))
    return model


def weights_of(model, player):
    return [np.array(w) for w in getattr(model, player).get_weights()]


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).random((90, *SHAPE), dtype="float32")


@pytest.fixture(scope="module")
def y():
    return np.arange(90) % 3


# Alternation


@pytest.mark.parametrize("normalization", ["batch", "spectral"])
@pytest.mark.parametrize("player", PLAYERS)
def test_a_players_step_changes_that_player_alone(player, normalization, x):
    model = make_gan(normalization=normalization)
    model.compile("sgd", "sgd")
    other = PLAYERS[1 - PLAYERS.index(player)]
    before = {name: weights_of(model, name) for name in PLAYERS}
    states = [v.numpy() for v in getattr(model, f"{other}_optimizer").variables]
    tf.function(getattr(model, f"{player}_step"))(tf.constant(x))
    for a, b in zip(before[other], weights_of(model, other), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(states, getattr(model, f"{other}_optimizer").variables, strict=True):
        np.testing.assert_array_equal(a, b)
    assert all(
        np.abs(a - b).max() > 0
        for a, b in zip(before[player], weights_of(model, player), strict=True)
    )


def test_each_optimizer_counts_its_own_steps_and_there_is_no_third(x):
    model = make_gan(discriminator_steps=3)
    model.compile()
    model.fit(x, batch_size=30, epochs=2, verbose=0)
    assert model.generator_optimizer.iterations == 6 == model.steps_done
    assert model.discriminator_optimizer.iterations == 18
    assert model.optimizer is None
    shared = keras.optimizers.Adam()
    with pytest.raises(InputError, match="optimiser each"):
        model.compile(shared, shared)


def test_discriminator_steps_share_the_batch_and_draw_fresh_samples(x):
    seen = []

    class Recorder(GAN):
        def discriminator_step(self, real, labels=None):
            seen.append(np.array(real))
            return super().discriminator_step(real, labels)

        def samples(self, *arguments, **options):
            drawn = super().samples(*arguments, **options)
            samples.append(np.array(drawn))
            return drawn

    samples: list[np.ndarray] = []
    parts = make_gan()
    model = Recorder(
        parts.generator, parts.discriminator, 4, discriminator_steps=4, value_range=(0, 1)
    )
    model.compile("sgd", "sgd", run_eagerly=True)
    model.fit(x[:43], batch_size=43, verbose=0)
    assert [len(rows) for rows in seen] == [11, 11, 11, 10]
    rows = (np.concatenate(seen)[:, 0, 0, 0] + 1) / 2  # the networks see [-1, 1]
    np.testing.assert_allclose(np.sort(rows), np.sort(x[:43, 0, 0, 0]), atol=1e-6)
    assert len(samples) == 5  # one for each step of the discriminator, one for the generator
    firsts = {float(drawn[0, 0, 0, 0]) for drawn in samples}
    assert len(firsts) == 5


def test_a_batch_smaller_than_the_discriminator_steps_is_left_out(x):
    model = make_gan(discriminator_steps=4, normalization="none")
    model.compile()
    model.fit(x[:43], batch_size=8, verbose=0)  # 5 batches, 3 rows are left
    assert model.steps_done == 5
    with pytest.raises(InputError, match="at least 4"):
        model.fit(x[:3], batch_size=8, verbose=0)


# Closed forms in one dimension


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


SLOPES = {  # d loss / d logit of an example, of a sample; of a sample for the generator
    "minimax": (lambda r: sigmoid(r) - 1, sigmoid, lambda f: -sigmoid(f)),
    "non_saturating": (lambda r: sigmoid(r) - 1, sigmoid, lambda f: sigmoid(f) - 1),
    "least_squares": (lambda r: r - 1, lambda f: f, lambda f: f - 1),
    "hinge": (lambda r: -1.0 * (r < 1), lambda f: 1.0 * (f > -1), lambda f: -np.ones_like(f)),
    "wasserstein": (lambda r: -np.ones_like(r), np.ones_like, lambda f: -np.ones_like(f)),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_those_of_the_formulas(loss):
    model = line_gan(loss=loss)
    real = np.random.default_rng(0).normal(1.0, 1.0, (64, 1))
    drawn = []
    latents = model.noise.normal
    model.noise.normal = lambda *a, **k: drawn.append(latents(*a, **k)) or drawn[-1]
    w, c, a, b = 1.5, -0.4, 0.7, 0.2
    of_real, of_fake, of_generator = SLOPES[loss]

    model.discriminator_step(tf.constant(real, tf.float32))
    fake = a * np.array(drawn[0], "float64") + b
    slope_r, slope_f = of_real(w * real + c), of_fake(w * fake + c)
    new_w, new_c = (float(v.squeeze()) for v in weights_of(model, "discriminator"))
    assert w - new_w == pytest.approx((slope_r * real + slope_f * fake).mean(), abs=1e-5)
    assert c - new_c == pytest.approx((slope_r + slope_f).mean(), abs=1e-5)

    model.generator_step(tf.constant(real, tf.float32))
    z = np.array(drawn[1], "float64")
    slope = of_generator(new_w * (a * z + b) + new_c) * new_w
    new_a, new_b = (float(v.squeeze()) for v in weights_of(model, "generator"))
    assert a - new_a == pytest.approx((slope * z).mean(), abs=1e-5)
    assert b - new_b == pytest.approx(slope.mean(), abs=1e-5)


def test_with_one_step_each_both_players_see_the_same_samples():
    real = np.random.default_rng(0).normal(1.0, 1.0, (64, 1))
    apart, together = (line_gan(loss="non_saturating") for _ in range(2))
    z = tf.constant(np.random.default_rng(1).normal(size=(64, 1)), tf.float32)
    draws = []
    for model in (apart, together):
        model.noise.normal = lambda *_: draws.append(0) or z
    apart.discriminator_step(tf.constant(real, tf.float32))
    apart.generator_step(tf.constant(real, tf.float32))
    assert len(draws) == 2
    together.step(tf.constant(real, tf.float32))
    assert len(draws) == 3
    for p, q in zip(apart.get_weights(), together.get_weights(), strict=True):
        np.testing.assert_allclose(p, q, atol=1e-6)


@pytest.mark.parametrize(("kind", "slope"), [("interpolated", 2 * (1.5 - 1)), ("r1", 1.5)])
def test_gradient_penalties_are_those_of_the_formulas(kind, slope):
    real = tf.constant(np.random.default_rng(0).normal(size=(64, 1)), tf.float32)
    changes = []
    for arguments in ({}, {"gradient_penalty": kind, "penalty_weight": 3.0}):
        model = line_gan(loss="wasserstein", **arguments)
        terms = model.discriminator_step(real)
        changes.append(float(weights_of(model, "discriminator")[0].squeeze()))
    np.testing.assert_allclose(terms["gradient_penalty"], (0.5**2, 0.5 * 1.5**2)[kind == "r1"])
    assert changes[0] - changes[1] == pytest.approx(3.0 * slope, abs=1e-5)


def test_penalties_are_taken_at_the_right_points():
    """With the logit w x^2 / 2 the slope is w x: at examples for R1, between for WGAN-GP."""
    z, x = keras.Input((1,)), keras.Input((1,))
    squares = keras.Model(x, keras.layers.Dense(1, use_bias=False)(0.5 * x**2))
    squares.set_weights([np.array([[1.5]])])
    model = GAN(keras.Model(z, keras.layers.Dense(1)(z)), squares, 1, gradient_penalty="r1")
    rng = np.random.default_rng(0)
    real, fake = (rng.normal(size=(8, 1)).astype("float32") for _ in range(2))
    got = model._discriminator_terms(tf.constant(real), tf.constant(fake), None, True)
    np.testing.assert_allclose(got["gradient_penalty"], 0.5 * (1.5 * real[:, 0]) ** 2, rtol=1e-5)
    model.noise.uniform = lambda *_: tf.fill((8, 1), 0.25)
    got = model._interpolated_penalty(tf.constant(real), tf.constant(fake), None, True)
    between = 0.25 * real[:, 0] + 0.75 * fake[:, 0]
    np.testing.assert_allclose(got, (np.abs(1.5 * between) - 1) ** 2, rtol=1e-4)


def test_spectral_normalisation_bounds_every_layer(x):
    discriminator = networks.dcgan_discriminator(SHAPE, [4, 8], "spectral", labels=3)
    for _ in range(30):
        discriminator([x, np.zeros(90, "int32")], training=True)
    wrapped = [
        layer
        for layer in discriminator.layers
        if isinstance(layer, keras.layers.SpectralNormalization)
    ]
    assert len(wrapped) == 4  # two convolutions, the logit, the embedding of the class
    for layer in wrapped:
        weights = np.array(layer.layer.trainable_weights[0])
        sigma = np.linalg.svd(weights.reshape(-1, weights.shape[-1]), compute_uv=False)[0]
        assert sigma == pytest.approx(1.0, abs=0.05), layer.name


def test_interpolation_is_uniform_and_for_each_example(x):
    model = make_gan(normalization="none", gradient_penalty="interpolated")
    seen = []
    logits = model.logits
    model.logits = lambda x, *a, **k: seen.append(x) or logits(x, *a, **k)
    many = tf.ones((4000, *SHAPE))
    model._interpolated_penalty(many, tf.zeros_like(many), None, True)
    mixes = np.array(seen[0])
    assert (mixes.std(axis=(1, 2, 3)) < 1e-6).all()
    histogram, _ = np.histogram(mixes[:, 0, 0, 0], 10, (0, 1))
    assert np.abs(histogram - 400).max() < 5 * np.sqrt(400)


def test_label_smoothing_moves_the_target_of_examples():
    real, fake = tf.constant([-1.0, 0.5, 2.0]), tf.constant([0.3, -2.0, 1.0])
    s = 0.1
    p = sigmoid(np.array(real))
    wanted = -(1 - s) * np.log(p) - s * np.log(1 - p) - np.log(1 - sigmoid(np.array(fake)))
    got = LOSSES["minimax"].discriminator(real, fake, smoothing=s)
    np.testing.assert_allclose(got, wanted, rtol=1e-5)
    with pytest.raises(InputError, match="label_smoothing"):
        make_gan(loss="hinge", label_smoothing=0.1)


# The averaged generator


def test_generate_uses_the_moving_average(x):
    model = make_gan(ema=0.9)
    model.compile("sgd", "sgd")
    average = weights_of(model, "generator")
    for step in range(1, 4):
        model.train_on_batch(x[:30])
        decay = min(0.9, (1 + step) / (10 + step))
        pairs = zip(average, weights_of(model, "generator"), strict=True)
        average = [decay * old + (1 - decay) * new for old, new in pairs]
    for a, b in zip(average, model.averaged_generator.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    drawn = model.generate(5, seed=3)["samples"]
    model.generator.set_weights([0 * w for w in average])
    np.testing.assert_array_equal(model.generate(5, seed=3)["samples"], drawn)
    assert not model.averaged_generator.trainable_variables
    exported = model.without_training_state()
    np.testing.assert_array_equal(exported.generate(5, seed=3)["samples"], drawn)
    np.testing.assert_array_equal(exported.discriminate(x)["logit"], model.discriminate(x)["logit"])
    assert exported.count_params() == (
        model.generator.count_params() + model.discriminator.count_params()
    )


# Saving


@pytest.mark.parametrize(
    "arguments",
    [
        {"normalization": "spectral", "loss": "hinge"},
        {
            "normalization": "none",
            "loss": "wasserstein",
            "gradient_penalty": "interpolated",
            "discriminator_steps": 3,
        },
        {"labels": 3, "gradient_penalty": "r1", "ema": 0.9, "label_smoothing": 0.1},
    ],
)
def test_saved_and_reloaded_goes_on_as_if_never_stopped(arguments, x, y, tmp_path):
    def trained(epochs):
        keras.utils.set_random_seed(0)
        model = make_gan(**arguments)
        model.compile(keras.optimizers.Adam(1e-3, 0.5), keras.optimizers.Adam(2e-3, 0.5))
        model.fit(x, y, batch_size=30, epochs=epochs, verbose=0)
        return model

    whole, half = trained(3), trained(1)
    half.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    loaded.fit(x, y, batch_size=30, epochs=3, initial_epoch=1, verbose=0)
    optimizers = [(getattr(whole, n), getattr(loaded, n)) for n in whole.optimizer_variables]
    for one, two in [(whole, loaded), *optimizers]:
        for a, b in zip(one.variables, two.variables, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_both_optimizers_are_scaled_under_mixed_precision(policy, x, tmp_path):
    keras.mixed_precision.set_global_policy(policy)
    try:
        model = make_gan(normalization="spectral", gradient_penalty="r1", ema=0.9)
        model.compile()
        history = model.fit(x, batch_size=30, epochs=2, verbose=0).history
        assert np.isfinite(list(history.values())).all()
        for name in model.optimizer_variables:
            wrapped = isinstance(getattr(model, name), keras.optimizers.LossScaleOptimizer)
            assert wrapped == (policy == "mixed_float16")
        assert model.generate(3)["samples"].dtype == np.float32
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(loaded.generate(3)["samples"], model.generate(3)["samples"])
    finally:
        keras.mixed_precision.set_global_policy("float32")


# Classes


def stream(x, y):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(30)


def test_a_conditional_gan_takes_classes_everywhere(x, y, tmp_path):
    model = make_gan(labels=3)
    model.compile()
    model.fit(x, y, batch_size=30, verbose=0, validation_data=(x[:9], y[:9]))
    model.fit(tf.data.Dataset.from_tensor_slices((x, y)).batch(30), verbose=0)
    model.evaluate(x, y, verbose=0)
    samples = model.generate(7, seed=1, label=2)["samples"]
    np.testing.assert_allclose(
        samples, model.generate(7, seed=1, label=[2] * 7, batch_size=3)["samples"], atol=1e-6
    )
    in_turn = model.generate(7, seed=1)["samples"]
    np.testing.assert_array_equal(
        in_turn, model.generate(7, seed=1, label=np.arange(7) % 3)["samples"]
    )
    assert np.abs(in_turn - samples).max() > 0
    logit = model.discriminate(x, label=y)["logit"]
    assert logit.shape == (90,)
    assert np.abs(logit - model.discriminate(x, label=(y + 1) % 3)["logit"]).max() > 0
    every = [model.discriminate(x, label=k)["logit"] for k in range(3)]
    np.testing.assert_allclose(model.predict(x, verbose=0), np.mean(every, axis=0), atol=1e-5)
    served = ServedModel(export(model, tmp_path / "1"))
    np.testing.assert_allclose(served.generate(7, seed=1, label=2)["samples"], samples, atol=1e-5)
    signature = tf.saved_model.load(str(tmp_path / "1")).signatures["generate"]
    specs = signature.structured_input_signature[1]
    assert {name: (spec.dtype, spec.shape.rank) for name, spec in specs.items()} == {
        "seed": (tf.int32, 2),
        "label": (tf.int32, 1),
    }
    seed = tf.zeros((2, 2), tf.int32)
    for label, message in (
        ([0, 3], r"`label` must lie in \[0, 2\]"),
        ([0], "as many rows as `seed`"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            signature(seed=seed, label=tf.constant(label))
    pixels = np.full((8, 8), 100, "uint8")
    Image.fromarray(pixels).save(tmp_path / "a.png")
    answer, failed = served.from_files("discriminate", [tmp_path / "a.png"], label=1)
    wanted = model.discriminate(pixels[None, ..., None], label=1)["logit"]
    np.testing.assert_allclose(answer["logit"], wanted, atol=1e-5)
    assert failed == {}
    with pytest.raises(InputError, match="takes a `label`"):
        served.from_files("discriminate", [tmp_path / "a.png"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model, x, y: model.fit(x, verbose=0), "labels"),
        (lambda model, x, y: model.fit(x, y[:5], verbose=0), "one label for each"),
        (lambda model, x, y: model.fit(x, y + 1, verbose=0), r"\[0, 3\)"),
        (lambda model, x, y: model.fit(x, y - 0.5, verbose=0), "class number"),
        (lambda model, x, y: model.discriminate(x), "needs `label`"),
        (lambda model, x, y: model.discriminate(x, label=y[:5]), "one for each"),
        (lambda model, x, y: model.generate(5, label=3), r"\[0, 3\)"),
        (lambda model, x, y: model.generate(2, label=[[1], [2, 0]]), "class number"),
        (lambda model, x, y: model.fit(stream(x, np.eye(3)[y % 3]), verbose=0), "class number"),
        (lambda model, x, y: model.fit(stream(x, {"a": y}), verbose=0), "class number"),
        (lambda model, x, y: model.fit(stream(x, y.astype(str)), verbose=0), "class number"),
        (lambda model, x, y: model.generate(5, label=[0, 1]), "one for each"),
        (lambda model, x, y: make_gan().generate(5, label=0), "no classes"),
    ],
)
def test_bad_classes_are_refused(call, message, x, y):
    model = make_gan(labels=3)
    model.compile()
    with pytest.raises(InputError, match=message):
        call(model, x, y)


def test_streams_of_labels_are_checked_as_they_come(x, y):
    model = make_gan(labels=3)
    model.compile()
    column = stream(x, y[:, None])
    model.fit(column, validation_data=column, verbose=0)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[0, 3\)"):
        model.fit(stream(x, y + 1), verbose=0)
    small = make_gan(normalization="none", discriminator_steps=4)
    small.compile()
    with pytest.raises(tf.errors.InvalidArgumentError, match="drop_remainder"):
        small.fit(tf.data.Dataset.from_tensor_slices(x[:43]).batch(8), verbose=0)


# Arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "mse"}, "`loss` must be one of"),
        ({"gradient_penalty": "r2"}, "gradient_penalty"),
        ({"discriminator_steps": 0}, "discriminator_steps"),
        ({"ema": 1.0}, "ema"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        make_gan(**arguments)


def test_networks_that_do_not_fit_are_refused():
    generator = networks.dcgan_generator(4, SHAPE, [8, 4])
    discriminator = networks.dcgan_discriminator(SHAPE, [8])
    with pytest.raises(InputError, match="generator"):
        GAN(generator, discriminator, 5)
    with pytest.raises(InputError, match="class"):
        GAN(generator, discriminator, 4, labels=3)
    sigmoid_generator = networks.dense_generator(4, SHAPE, [8], output_activation="sigmoid")
    with pytest.raises(InputError, match="tanh"):
        GAN(sigmoid_generator, discriminator, 4, value_range=(0, 1))
    table_generator = networks.dense_generator(4, (2,), [8])
    with pytest.raises(InputError, match="no activation"):
        GAN(table_generator, networks.dense_discriminator((2,), [8]), 4)
    with pytest.raises(InputError, match="normalization"):
        GAN(
            generator,
            discriminator,
            4,
            value_range=(0, 1),
            normalization=keras.layers.Normalization(),
        )
    with pytest.raises(InputError, match="BatchNormalization"):
        make_gan(normalization="batch", gradient_penalty="interpolated")
    with pytest.raises(InputError, match="functional"):
        GAN(generator, keras.Sequential([keras.layers.Flatten()]), 4)
    with pytest.raises(InputError, match="divisible"):
        networks.dcgan_generator(4, (10, 10, 1), [8, 8, 8])


def test_tables_keep_their_units():
    rng = np.random.default_rng(0)
    table = (rng.normal(size=(200, 2)) * [1, 100] + [5, -300]).astype("float32")
    normalization = keras.layers.Normalization()
    normalization.adapt(table)
    model = GAN(
        networks.dense_generator(4, (2,), [16], output_activation="linear"),
        networks.dense_discriminator((2,), [16]),
        4,
        normalization=normalization,
        ema=0.99,
        seed=0,
    )
    model.compile(keras.optimizers.Adam(2e-3, 0.5), keras.optimizers.Adam(2e-3, 0.5))
    model.fit(table, batch_size=50, epochs=150, verbose=0)
    samples = model.generate(1000)["samples"]
    assert (np.abs(samples.mean(0) - table.mean(0)) < 0.5 * table.std(0)).all()
    assert (np.abs(np.log(samples.std(0) / table.std(0))) < 0.7).all()
    exported = model.without_training_state()
    np.testing.assert_allclose(exported.generate(1000)["samples"], samples, rtol=1e-4)
    np.testing.assert_allclose(
        exported.discriminate(table)["logit"], model.discriminate(table)["logit"], rtol=1e-4
    )
