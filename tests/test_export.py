"""SavedModels: a signature per verb, equal to the model, deterministic, core ops only."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import kerasunsup
from kerasunsup import networks
from kerasunsup.errors import InputError, KerasunsupError, OutputError
from kerasunsup.export import ServedModel, export
from kerasunsup.models import VAE, Autoencoder, verb
from kerasunsup.models.verbs import seed_rows

SHAPE = (8, 8, 1)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).random((20, *SHAPE), dtype="float32")


@pytest.fixture(scope="module")
def model(x):
    keras.utils.set_random_seed(0)
    model = VAE(
        networks.conv_backbone(SHAPE, [4]),
        networks.conv_decoder(3, SHAPE, [4, 4]),
        3,
        binarization="dynamic",
    )
    model.compile("adam")
    model.fit(x, verbose=0)
    model.finish(x, x)
    return model


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    return export(model, tmp_path_factory.mktemp("models") / "vae" / "1")


@pytest.fixture(scope="module")
def signatures(folder):
    return tf.saved_model.load(str(folder)).signatures


def inputs_of(name, x):
    rng = np.random.default_rng(1)
    return {
        "decode": {"latent": rng.normal(size=(20, 3)).astype("float32")},
        "generate": {"seed": seed_rows(20, seed=5)},
    }.get(name, {"x": x})


def call(signature, inputs):
    answer = signature(**{name: tf.constant(value) for name, value in inputs.items()})
    return {name: value.numpy() for name, value in answer.items()}


@pytest.mark.parametrize("name", ["encode", "decode", "reconstruct", "generate", "score"])
def test_signatures_answer_as_the_model(name, model, signatures, x):
    inputs = inputs_of(name, x)
    answer = call(signatures[name], inputs)
    arguments = (20, 5) if name == "generate" else tuple(inputs.values())
    for output, value in getattr(model, name)(*arguments).items():
        np.testing.assert_allclose(answer[output], value, rtol=1e-5, atol=1e-5)
    again = call(signatures[name], inputs)
    for output, value in answer.items():
        np.testing.assert_array_equal(again[output], value)
        assert len(value) == 20 and signatures[name].structured_outputs[output].shape[0] is None
    for spec in signatures[name].structured_input_signature[1].values():
        assert spec.shape[0] is None
    for row in (0, 7):  # rows do not influence each other
        one = call(signatures[name], {key: value[row : row + 1] for key, value in inputs.items()})
        for output, value in answer.items():
            np.testing.assert_allclose(one[output][0], value[row], rtol=1e-4, atol=1e-5)


def test_serving_default_is_the_main_verb(model, signatures, x):
    assert set(signatures) == {*model.verbs, "serving_default"}
    default, main = (call(signatures[n], {"x": x}) for n in ("serving_default", model.main_verb))
    np.testing.assert_array_equal(default["latent"], main["latent"])


def test_the_graph_has_core_ops_only_and_weights_once(folder, model):
    graph = (folder / "saved_model.pb").read_bytes()
    for forbidden in (b"PyFunc", b"EagerPyFunc", b"_XlaMustCompile\x12\x02(\x01"):
        assert forbidden not in graph
    weights = sum(weight.numpy().nbytes for weight in model.weights)
    stored = sum(path.stat().st_size for path in (folder / "variables").iterdir())
    assert stored < 1.2 * weights + 4096


def test_served_model_has_the_verbs_of_the_model(folder, model, x):
    served = ServedModel(folder)
    assert served.verbs == model.verbs
    pixels = np.round(x * 255).astype("uint8")
    np.testing.assert_allclose(
        served.encode(pixels)["latent"], model.encode(pixels)["latent"], atol=1e-5
    )
    with pytest.raises(InputError, match="shape"):
        served.encode(np.zeros((2, 9)))
    with pytest.raises(AttributeError):
        served.verb_that_is_not_there()


def test_the_keras_model_inside_has_no_optimizer_and_goes_on_training(folder, x):
    loaded = keras.saving.load_model(folder / "assets.extra" / "model.keras")
    assert not loaded.compiled
    loaded.compile("adam")
    loaded.fit(x, verbose=0)


def test_verbs_of_the_user_are_signatures_too(x, tmp_path):
    @keras.saving.register_keras_serializable("tests")
    class Residuals(Autoencoder):
        @verb
        def residual(self, x):
            """Examples -> what the model cannot explain."""
            return {"residual": x - self.decoder(self.encoder(x))}

    model = Residuals(networks.dense_backbone(SHAPE, [4]), networks.dense_decoder(2, SHAPE, [4]), 2)
    kerasunsup.export(model, tmp_path / "residuals" / "1")
    signature = tf.saved_model.load(str(tmp_path / "residuals" / "1")).signatures["residual"]
    np.testing.assert_allclose(
        call(signature, {"x": x})["residual"], model.residual(x)["residual"], atol=1e-5
    )


def test_what_cannot_be_exported_is_refused(x, tmp_path):
    with pytest.raises(InputError, match="kerasunsup model"):
        export(keras.Sequential(), tmp_path / "model")
    unfitted = Autoencoder(
        networks.dense_backbone(SHAPE, [4]),
        networks.dense_decoder(2, SHAPE, [4]),
        2,
        density_components=2,
    )
    with pytest.raises(InputError, match="fit_density"):
        export(unfitted, tmp_path / "model")

    class Random(Autoencoder):
        @verb
        def dice(self, x):
            """Differs from call to call."""
            return {"dice": tf.random.normal(tf.shape(x))}

    dice = Random(networks.dense_backbone(SHAPE, [4]), networks.dense_decoder(2, SHAPE, [4]), 2)
    with pytest.raises((KerasunsupError, TypeError)):
        export(dice, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_the_old_model(model, folder, monkeypatch, tmp_path):
    target = export(model, tmp_path / "vae")
    before = sorted((path, path.stat().st_mtime) for path in target.rglob("*"))
    monkeypatch.setattr("kerasunsup.export._compare", lambda *_: (_ for _ in ()).throw(OSError(28)))
    with pytest.raises(OutputError):
        export(model, target)
    assert sorted((path, path.stat().st_mtime) for path in target.rglob("*")) == before
    assert [path.name for path in tmp_path.iterdir()] == ["vae"]
