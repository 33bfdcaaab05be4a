"""SavedModels: a signature per verb, equal to the model, deterministic, core ops only."""

from __future__ import annotations

import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import kerasunsup
from kerasunsup import mosaic, networks
from kerasunsup.errors import InputError, KerasunsupError, OutputError
from kerasunsup.export import ServedModel, export
from kerasunsup.models import VAE, Autoencoder, verb
from kerasunsup.models.verbs import seed_rows
from kerasunsup.serving import scan, warmup
from kerasunsup.serving.signatures import read_images

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
def again(model, tmp_path_factory):
    return export(model, tmp_path_factory.mktemp("again") / "vae")


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
    from_files = {"encode_bytes", "reconstruct_bytes", "score_bytes"}
    assert set(signatures) == {*model.verbs, "serving_default", *from_files}
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

    assert list(tmp_path.iterdir()) == []


@keras.saving.register_keras_serializable("tests")
class Strange(keras.layers.Layer):
    """Adds 0 to its inputs in a way that no server can."""

    def __init__(self, way, **kwargs):
        super().__init__(**kwargs)
        self.way = way
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x):
        match self.way:
            case "python":
                return tf.ensure_shape(tf.numpy_function(lambda v: v, [x], tf.float32), x.shape)
            case "xla":
                return tf.function(lambda v: v * 1.0, jit_compile=True)(x)
            case "writes":
                self.count.assign_add(1.0)
                return x
            case "random":
                return x + tf.random.normal(tf.shape(x), stddev=1e-9)
            case "fixed batch":
                return tf.ensure_shape(tf.reshape(x, (3, *x.shape[1:])), x.shape)
            case "rows":
                return x - keras.ops.mean(x, axis=0)

    def get_config(self):
        return {**super().get_config(), "way": self.way}


@pytest.mark.parametrize(
    ("way", "named"),
    [
        ("python", "layer 'strange', .*PyFunc.* runs Python"),
        ("xla", "layer 'strange', .*XLA"),
        ("writes", "layer 'strange', .*Assign.* writes a variable"),
        ("random", "layer 'strange', .*stateless"),
        ("fixed batch", "batches of any size.*/flatten.*Reshape"),
        ("rows", "treat every row for itself"),
    ],
)
def test_what_a_server_cannot_run_is_refused_by_the_layer_s_name(way, named, tmp_path):
    x = keras.Input(SHAPE)
    features = keras.layers.Flatten(name="flatten")(Strange(way, name="strange")(x))
    backbone = keras.Model(x, keras.layers.Dense(4)(features))
    model = Autoencoder(backbone, networks.dense_decoder(2, SHAPE, [4]), 2)
    with pytest.raises(KerasunsupError, match=named):
        export(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("output", "named"),
    [
        (lambda x: tf.reduce_mean(x), "`one` of the signature `encode` must have a row for each"),
        (
            lambda x: tf.reshape(x, (2, -1)),
            "`one` of the signature `encode` must have a row for each",
        ),
        (
            lambda x: tf.reshape(x, (-1, 1)),
            "`one` of the signature `encode` must have a row for each",
        ),
    ],
)
def test_an_output_without_a_row_for_each_example_is_refused(output, named, tmp_path):
    class Own(Autoencoder):
        @verb
        def encode(self, x):
            """Examples to something else."""
            return {"one": output(x)}

    model = Own(networks.dense_backbone(SHAPE, [4]), networks.dense_decoder(2, SHAPE, [4]), 2)
    with pytest.raises(InputError, match=named):
        export(model, tmp_path / "model")


def test_a_custom_op_is_found_by_the_scan(folder):
    graph = scan.read(folder)
    assert scan.problems(graph) == []
    for function in graph.graph_def.library.function:
        for node in function.node_def:
            if node.op == "Tanh":
                node.op = "Vendor>Tanh"
    problems = scan.problems(graph)
    assert {one.signature for one in problems} >= {"encode", "encode_bytes", "score"}
    assert all("rebuilt" in one.reason and "Tanh" in one.node for one in problems)


def as_file(pixels, kind="PNG", **options):
    file = io.BytesIO()
    image = mosaic.as_image(pixels)
    if "size" in options:
        image = image.resize(options.pop("size"))
    image.convert(options.pop("mode", image.mode)).save(file, kind, **options)
    return file.getvalue()


def test_image_files_are_examples(model, signatures):
    pixels = np.random.default_rng(2).integers(0, 256, (4, *SHAPE)).astype("uint8")
    wanted = model.encode(pixels)["latent"]
    for mode in ("L", "RGB", "RGBA", "LA"):
        files = warmup.as_objects([as_file(one, mode=mode) for one in pixels])
        answer = call(signatures["encode_bytes"], {"image_bytes": files})
        np.testing.assert_allclose(answer["latent"], wanted, atol=1e-5)
    jpegs = [as_file(one, "JPEG", quality=95) for one in pixels]
    decoded = np.stack([np.asarray(Image.open(io.BytesIO(one)))[..., None] for one in jpegs])
    answer = call(signatures["encode_bytes"], {"image_bytes": warmup.as_objects(jpegs)})
    np.testing.assert_allclose(answer["latent"], model.encode(decoded)["latent"], atol=1e-5)


def test_pictures_are_read_as_pillow_reads_them(tmp_path):
    rng = np.random.default_rng(3)
    coloured = rng.integers(0, 256, (8, 8, 3)).astype("uint8")
    for shape, mode in (((8, 8, 3), "RGB"), ((8, 8, 1), "L")):
        for kind in ("PNG", "JPEG"):
            file = as_file(coloured, kind)
            image = Image.open(io.BytesIO(file)).convert(mode)
            wanted = np.asarray(image, "float32").reshape(shape) / 255
            got = read_images(tf.constant([file]), shape, (0.0, 1.0))[0]
            np.testing.assert_allclose(got, wanted, atol=1e-6)
            large = as_file(np.full((20, 31, 3), 100, "uint8"), kind)
            np.testing.assert_allclose(
                read_images(tf.constant([large]), shape, (-1.0, 1.0)), 2 * 100 / 255 - 1, atol=1e-2
            )


@pytest.mark.parametrize(
    ("name", "inputs", "named"),
    [
        ("encode", {"x": np.zeros((2, 9, 9, 1), "float32")}, None),
        ("encode", {"x": np.zeros((0, *SHAPE), "float32")}, "`x` must hold at least one"),
        ("encode", {"x": np.full((2, *SHAPE), np.nan, "float32")}, "`x` must be finite"),
        ("encode", {"x": np.full((2, *SHAPE), 255, "float32")}, "`x` must lie in [0, 1]"),
        ("decode", {"latent": np.full((2, 3), np.inf, "float32")}, "`latent` must be finite"),
        ("generate", {"seed": np.zeros((0, 2), "int32")}, "`seed` must hold at least one"),
        ("encode_bytes", {"image_bytes": [b"text"]}, "`image_bytes` must be PNG or JPEG"),
        ("encode_bytes", {"image_bytes": [b"\x89PNG\r\n\x1a\n"]}, "image_bytes"),
        (
            "encode_bytes",
            {"image_bytes": [as_file(np.zeros((1, 4097, 1), "uint8"))]},
            "4096 pixels",
        ),
        ("encode_bytes", {"image_bytes": [as_file(np.zeros(SHAPE, "uint8"))[:-30]]}, "image_bytes"),
        ("encode_bytes", {"image_bytes": np.zeros((0,), object)}, "must hold at least one"),
    ],
)
def test_a_bad_request_gets_an_error_that_names_the_input(name, inputs, named, signatures):
    inputs = {
        key: tf.constant(value, tf.string) if key == "image_bytes" else value
        for key, value in inputs.items()
    }
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError)) as caught:
        call(signatures[name], inputs)
    assert named is None or named in str(caught.value)


def test_warm_up_requests_are_answered_as_they_say(folder, signatures):
    records = list(warmup.read(folder))
    assert [len(next(iter(inputs.values()))) for _, inputs, _ in records] == [1, 8] * len(
        signatures
    )
    for name, inputs, wanted in records:
        assert max(warmup.differences(wanted, call(signatures[name], inputs)).values()) < 1e-5
    (folder / warmup.WARMUP_FILE).rename(folder / "moved")
    with pytest.raises(InputError, match="export the model again"):
        next(warmup.read(folder))
    (folder / "moved").rename(folder / warmup.WARMUP_FILE)


def test_the_same_weights_make_the_same_variables(folder, again):
    one, other = (
        tf.train.load_checkpoint(str(place / "variables" / "variables"))
        for place in (folder, again)
    )
    assert one.get_variable_to_shape_map() == other.get_variable_to_shape_map()
    for key in one.get_variable_to_shape_map():
        if key != "_CHECKPOINTABLE_OBJECT_GRAPH":
            np.testing.assert_array_equal(one.get_tensor(key), other.get_tensor(key))


def test_a_failed_export_leaves_the_old_model(model, again, monkeypatch):
    before = sorted((path, path.stat().st_mtime) for path in again.rglob("*"))
    monkeypatch.setattr(
        "kerasunsup.export._check_answers", lambda *_: (_ for _ in ()).throw(OSError(28))
    )
    with pytest.raises(OutputError):
        export(model, again)
    assert sorted((path, path.stat().st_mtime) for path in again.rglob("*")) == before
    assert [path.name for path in again.parent.iterdir()] == [again.name]
