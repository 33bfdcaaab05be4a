"""Finetuning: what is carried over, what each strategy trains, which labels it takes."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from marks import slow_but

from kerasunsup import augmentation, networks
from kerasunsup.errors import InputError
from kerasunsup.export import ServedModel, export
from kerasunsup.models import (
    GAN,
    VAE,
    VQVAE,
    Autoencoder,
    BarlowTwins,
    Classifier,
    MaskedAutoencoder,
    PretrainFinetune,
    SimCLR,
    StackedAutoencoder,
)
from kerasunsup.models.pretrain_finetune import STRATEGIES

SHAPE = (8, 8, 1)


def backbone():
    return networks.vgg_backbone(SHAPE, [[4], [6]], units=[8])


def decoder():
    return networks.dense_decoder(3, SHAPE, [8])


def views():
    return [augmentation.RandomResizedCrop((0.5, 1), seed=2)]


SOURCES = {
    "autoencoder": lambda: Autoencoder(backbone(), decoder(), 3, value_range=(0, 1), seed=1),
    "vae": lambda: VAE(backbone(), decoder(), 3, seed=1),
    "gan": lambda: GAN(
        networks.dense_generator(3, SHAPE, [8]),
        networks.dcgan_discriminator(SHAPE, [4, 6]),
        3,
        value_range=(0, 1),
        seed=1,
    ),
    "conditional gan": lambda: GAN(
        networks.dense_generator(3, SHAPE, [8], labels=2),
        networks.dcgan_discriminator(SHAPE, [4, 6], labels=2),
        3,
        labels=2,
        value_range=(0, 1),
        seed=1,
    ),
    "classifier": lambda: Classifier(backbone(), 4, value_range=(0, 1), seed=1),
    "stacked autoencoder": lambda: StackedAutoencoder(
        networks.dense_backbone(SHAPE, [8]),
        decoder(),
        3,
        layer_epochs=0,
        value_range=(0, 1),
        seed=1,
    ),
    "vq-vae": lambda: VQVAE(
        networks.grid_backbone(SHAPE, [8], 1),
        networks.grid_decoder(4, SHAPE, [8, 8], 1),
        16,
        4,
        value_range=(0, 1),
        seed=1,
    ),
    "masked autoencoder": lambda: MaskedAutoencoder(
        networks.vit_backbone(SHAPE, patch_size=4, width=8, depth=1, heads=2),
        networks.vit_decoder(SHAPE, token_width=8, patch_size=4, width=8),
        value_range=(0, 1),
        seed=1,
    ),
    "simclr": lambda: SimCLR(backbone(), views(), (8, 4), value_range=(0, 1), seed=1),
    "barlow twins": lambda: BarlowTwins(backbone(), views(), (8, 4), value_range=(0, 1), seed=1),
}


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).random((60, *SHAPE), dtype="float32")


@pytest.fixture(scope="module")
def y(x):
    return np.digitize(x[:, :4].mean((1, 2, 3)), [0.49, 0.52])


def features_of(model, x):
    return np.asarray(model.features(tf.constant(x), training=False))


def compiled(model):
    model.compile(keras.optimizers.Adam(0.01))
    return model


@pytest.mark.parametrize("name", SOURCES)
def test_pretrained_features_are_carried_over_and_kept_apart(name, x, y):
    source = SOURCES[name]()
    source.compile()
    labels = y % (source.labels or 3)
    source.fit(x, labels, epochs=1, batch_size=20, verbose=0)
    learnt = features_of(source, x)
    model = compiled(PretrainFinetune.from_pretrained(source, classes=3, seed=1))
    latent = model.encode(x)["latent"].reshape(learnt.shape)
    np.testing.assert_allclose(latent, learnt, atol=1e-6)
    model.fit(x, y, epochs=1, batch_size=20, verbose=0)
    assert np.abs(model.encode(x)["latent"] - latent).max() > 1e-4
    np.testing.assert_array_equal(features_of(source, x), learnt)


@pytest.mark.parametrize("name", ["autoencoder", "gan", "simclr"])
def test_pretrain_trains_the_shared_backbone_and_no_head(name, x, y):
    model = PretrainFinetune(SOURCES[name](), classes=3, strategy="linear", seed=1)
    before, head = model.encode(x)["latent"], model.head.get_weights()
    model.pretrain(x, epochs=1, batch_size=20, verbose=0)
    learnt = model.encode(x)["latent"]
    assert np.abs(learnt - before).max() > 1e-4
    for a, b in zip(head, model.head.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    compiled(model).fit(x, y, epochs=1, batch_size=20, verbose=0)
    np.testing.assert_array_equal(model.encode(x)["latent"], learnt)
    with pytest.raises(InputError, match="built around an unsupervised one"):
        PretrainFinetune(backbone(), 3).pretrain(x)


def test_linear_leaves_the_backbone_bit_identical_and_full_does_not(x, y):
    for strategy in ("linear", "full"):
        model = compiled(PretrainFinetune(backbone(), 3, strategy=strategy, value_range=(0, 1)))
        before = [np.array(weight) for weight in model.backbone.weights]
        model.fit(x, y, epochs=2, batch_size=20, verbose=0)
        same = [
            np.array_equal(old, new)
            for old, new in zip(before, model.backbone.weights, strict=True)
        ]
        assert all(same) if strategy == "linear" else not any(same)


def test_changing_the_strategy_renews_the_optimizer(x, y):
    model = compiled(PretrainFinetune(backbone(), 3, strategy="linear", value_range=(0, 1)))
    model.fit(x, y, epochs=2, batch_size=20, verbose=0)
    first = model.optimizer
    kept = [np.array(weight) for weight in model.backbone.weights]
    model.strategy = "full"
    model.fit(x, y, epochs=3, initial_epoch=2, batch_size=20, verbose=0)
    assert model.optimizer is not first
    assert model.steps_done == 9
    assert np.isclose(model.optimizer.learning_rate, 0.01)
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(kept, model.backbone.trainable_weights, strict=False)
    )


def test_gradual_thaws_layer_by_layer_from_the_top(x, y):
    model = compiled(PretrainFinetune(backbone(), 3, strategy="gradual", value_range=(0, 1)))
    names = [[layer.name for layer in block] for block in model.blocks]
    assert names == [
        ["dense_0"],
        ["convolution_1_0", "normalize_1_0"],
        ["convolution_0_0", "normalize_0_0"],
    ]
    assert model.stage_epochs(10) == (2, 2, 3, 3)
    values = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            values.append([[np.array(w) for w in model.backbone.get_layer(block[0]).weights]
                           for block in names])  # fmt: skip

    start = [[np.array(w) for w in model.backbone.get_layer(block[0]).weights] for block in names]
    model.fit(x, y, epochs=4, batch_size=20, verbose=0, callbacks=[Watch()])
    for epoch, now in enumerate(values):
        before = start if epoch == 0 else values[epoch - 1]
        moved = [not np.array_equal(a[0], b[0]) for a, b in zip(before, now, strict=True)]
        assert moved == [depth < epoch for depth in range(3)]
    with pytest.raises(InputError, match="epochs=4 or more"):
        model.fit(x, y, epochs=3, verbose=0)


def test_layerwise_rates_fall_by_the_decay_from_the_head_down(x, y):
    def change(strategy):
        keras.utils.set_random_seed(3)
        model = PretrainFinetune(
            backbone(), 3, strategy=strategy, layer_decay=0.5, value_range=(0, 1), seed=1
        )
        model.compile(keras.optimizers.SGD(0.1))
        before = [np.array(v) for block in model.blocks for v in block[0].trainable_weights]
        head = np.array(model.head.kernel)
        model.fit(x, y, epochs=1, batch_size=60, verbose=0)
        after = [np.array(v) for block in model.blocks for v in block[0].trainable_weights]
        count = [len(block[0].trainable_weights) for block in model.blocks]
        moved = [b - a for a, b in zip(before, after, strict=True)]
        return moved, np.array(model.head.kernel) - head, count

    full, head, count = change("full")
    layerwise, same_head, _ = change("layerwise_lr")
    np.testing.assert_allclose(same_head, head, atol=1e-6)
    factors = [0.5 ** (depth + 1) for depth, n in enumerate(count) for _ in range(n)]
    for whole, part, factor in zip(full, layerwise, factors, strict=True):
        np.testing.assert_allclose(part, factor * whole, atol=1e-6)


@pytest.mark.parametrize("strategy", slow_but(["linear", "full"], STRATEGIES))
def test_saved_and_reloaded_goes_on_as_if_never_stopped(strategy, x, y, tmp_path):
    def run(epochs):
        keras.utils.set_random_seed(0)
        model = PretrainFinetune(
            backbone(), 3, strategy=strategy, augmentation=views(), value_range=(0, 1), seed=1
        )
        if strategy == "gradual":  # one length of training, stopped half way
            model.stage_epochs = lambda _: (1, 1, 1, 1)
        return model, compiled(model).fit(x, y, epochs=epochs, batch_size=16, verbose=0)

    whole, _ = run(4)
    half, _ = run(2)
    half.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.stage == half.stage
    loaded.fit(x, y, epochs=4, initial_epoch=2, batch_size=16, verbose=0)
    for a, b in zip(whole.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("task", ["classification", "binary", "regression"])
def test_each_task_learns_predicts_and_is_served(task, x, tmp_path):
    mean = x[:, :4].mean((1, 2, 3))
    names = np.where(mean > 0.5, "bright", "dark")
    y = np.stack([mean, -mean], 1) if task == "regression" else names
    more = {"outputs": 2} if task == "regression" else {}
    classes = {"classification": 2, "binary": ["bright", "dark"], "regression": None}[task]
    keras.utils.set_random_seed(0)
    dense = networks.dense_backbone(SHAPE, [16])
    source = Autoencoder(dense, decoder(), 3, value_range=(0, 1), seed=1)
    model = PretrainFinetune(source, classes, task=task, seed=1, **more)
    history = compiled(model).fit(x, y, validation_data=(x, y), epochs=40, batch_size=20, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
    assert model.main_verb in model.verbs
    export(model.without_training_state(), tmp_path / "1")
    served = ServedModel(tmp_path / "1")
    assert served.verbs == model.verbs
    assert all(weight.shape != (16, 3) for weight in served.model.weights)  # no latent, no decoder
    if task == "regression":
        assert model.verbs == ("encode", "predict")
        prediction = served.verb("predict")(x)["prediction"]
        np.testing.assert_allclose(prediction, model.predict(x, verbose=0), atol=1e-5)
        assert prediction.shape == (60, 2)
        return
    assert model.classes == served.model.classes == ["bright", "dark"]
    answer = served.classify(x)
    np.testing.assert_allclose(answer["probabilities"].sum(1), 1, atol=1e-5)
    accuracy = np.mean(np.array(model.classes)[answer["label"]] == names)
    assert accuracy == pytest.approx(
        model.evaluate(x, names, return_dict=True, verbose=0)["accuracy"]
    )
    assert accuracy > 0.9
    assert answer["class_name"].tolist() == [served.model.classes[i] for i in answer["label"]]
    predicted = model.predict(x, verbose=0)
    if task == "binary":
        predicted = np.concatenate([1 - predicted, predicted], axis=1)
    np.testing.assert_allclose(predicted, answer["probabilities"], atol=1e-5)


@pytest.mark.parametrize(
    ("classes", "y", "message"),
    [
        (3, np.zeros(60, int), "nothing to tell apart. Received: class 0 only"),
        (3, np.arange(60) % 2, "example of each of the 3 classes.*none of 2"),
        (3, np.arange(60) % 4, r"must lie in \[0, 3\)"),
        (3, np.arange(60) % 3 + 0.5, "one class number"),
        (3, np.array(["a", "b"] * 30), "names of 3 classes.*2 names, a, b"),
        (["a", "b"], np.array(["a", "b", "c"] * 20), "Received: c"),
        (3, np.arange(30) % 3, "one label for each of the 60 examples"),
        (3, None, "Received: no labels"),
    ],
)
def test_labels_that_cannot_be_learnt_are_refused(classes, y, message, x):
    model = compiled(PretrainFinetune(backbone(), classes, value_range=(0, 1)))
    with pytest.raises(InputError, match=message):
        model.fit(x, y, verbose=0)


def test_named_labels_stream_from_a_dataset(x, y, tmp_path):
    names = np.array(["low", "middle", "high"])
    stream = tf.data.Dataset.from_tensor_slices((x, names[y])).batch(20)
    model = compiled(PretrainFinetune(backbone(), list(names), value_range=(0, 1), seed=1))
    model.fit(stream, epochs=1, verbose=0)
    other = tf.data.Dataset.from_tensor_slices((x, np.full(60, "other"))).batch(20)
    with pytest.raises(tf.errors.InvalidArgumentError, match="Labels must be among"):
        model.fit(other, epochs=1, verbose=0)
    with pytest.raises(InputError, match="classes=\\[…\\]"):
        compiled(PretrainFinetune(backbone(), 3)).fit(stream, verbose=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 1}, "2 or more"),
        ({"classes": ["a", "a"]}, "names of the classes"),
        ({"classes": None}, "2 or more"),
        ({"classes": 3, "task": "binary"}, "two names"),
        ({"classes": 3, "task": "regression"}, "left out"),
        ({"classes": 3, "task": "ranking"}, "`task` must be one of"),
        ({"classes": 3, "strategy": "half"}, "`strategy` must be one of"),
        ({"classes": 3, "layer_decay": 0}, "layer_decay"),
        ({"classes": 3, "label_smoothing": 1}, "label_smoothing"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        PretrainFinetune(backbone(), **arguments)


def test_entries_and_run_folders_are_sources(x, tmp_path):
    source = SOURCES["simclr"]()
    source.compile()
    source.save(tmp_path / "model.keras")
    model = PretrainFinetune.from_pretrained(tmp_path, classes=3)
    np.testing.assert_array_equal(model.encode(x)["latent"], features_of(source, x))
    entry = PretrainFinetune("autoencoder_digits", classes=10)
    assert entry.value_range == (0, 1)
    with pytest.raises(InputError, match="autoencoder_digits"):
        PretrainFinetune.from_pretrained("autoencoder_digit", classes=3)
    with pytest.raises(InputError, match="folder of a finished run"):
        PretrainFinetune.from_pretrained(backbone(), classes=3)
