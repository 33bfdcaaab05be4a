"""Every entry as a server runs it: through the C session loader, without Keras and kerasunsup."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

from kerasunsup import zoo
from kerasunsup.card import COPY
from kerasunsup.serving import scan, warmup
from kerasunsup.serving.runtime import Refused, start
from kerasunsup.serving.signatures import BYTES, DEFAULT, signatures_of
from kerasunsup.zoo import catalogue

TRAINED = sorted(card.name for card in catalogue.cards())
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def runtime():
    with start() as process:
        yield process


@pytest.fixture(scope="module", params=TRAINED)
def entry(request):
    """(SavedModel, Keras model) of an entry."""
    return zoo.saved_model(request.param), zoo.load(request.param)


def difference(wanted, got):
    return max(warmup.differences(wanted, got).values())


def rows(arrays, count):
    return {name: value[:count] for name, value in arrays.items()}


def test_signatures_answer_as_keras(entry, runtime):
    folder, model = entry
    for name, (_, specs) in signatures_of(model).items():
        bound = model.verb(model.main_verb if name == DEFAULT else name.removesuffix(BYTES))
        arrays = warmup.example_inputs(model, bound.input_specs, 32)
        inputs = warmup.example_inputs(model, specs, 32)  # image files of the same pixels
        if "latent" in arrays and "encode" in model.verbs:  # codes that there are
            latents = model.encode(
                warmup.example_inputs(model, [model.input_spec_of("x")], 32)["x"]
            )
            arrays = inputs = {**arrays, "latent": latents["latent"]}
        graph = bound.graph(*(tf.constant(value) for value in arrays.values()))
        wanted = {key: np.asarray(value) for key, value in graph.items()}
        got = runtime.run(folder, name, inputs)
        numbers = [np.abs(v).max() for v in wanted.values() if v.dtype.kind == "f"]
        tolerance = TOLERANCE * max([1.0, *numbers])
        assert difference(wanted, got) < tolerance
        assert difference(got, runtime.run(folder, name, inputs)) == 0
        for count in (1, 3):  # rows do not influence each other
            answer = runtime.run(folder, name, rows(inputs, count))
            assert difference(rows(wanted, count), answer) < tolerance


def test_the_graph(entry):
    folder, model = entry
    graph = scan.read(folder)
    assert scan.problems(graph) == scan.fixed_batches(graph) == []
    for signature in graph.signature_def.values():
        assert signature.method_name in ("tensorflow/serving/predict", "")
    exported = model.without_training_state().weights
    weights = sum(weight.numpy().nbytes for weight in exported)
    stored = sum(path.stat().st_size for path in (folder / "variables").iterdir())
    assert weights <= stored < 1.02 * weights + 8192


def test_published_signatures_stay(entry):
    folder, model = entry
    golden = json.loads(
        (catalogue.root() / "zoo" / folder.parent.name / "signatures.json").read_text()
    )
    assert golden["version"] == int(folder.name)
    assert golden["signatures"] == scan.describe(scan.read(folder))
    today = {
        name: {spec.name: [spec.dtype.name, *spec.shape] for spec in specs}
        for name, (_, specs) in signatures_of(model).items()
    }
    assert {name: one["inputs"] for name, one in golden["signatures"].items()} == today


def test_warm_up_requests(entry, runtime):
    folder, model = entry
    seen = []
    for name, inputs, wanted in warmup.read(folder):
        assert difference(wanted, runtime.run(folder, name, inputs)) < TOLERANCE
        seen += [(name, len(value)) for value in list(inputs.values())[:1]]
    assert seen == [(name, batch) for name in signatures_of(model) for batch in warmup.BATCHES]


def test_the_folder_says_what_it_is(entry):
    folder, _ = entry
    assert zoo.Card.read(folder / COPY) == zoo.card(folder.parent.name)


@pytest.mark.parametrize(
    ("name", "inputs", "message"),
    [
        ("encode", {"y": np.zeros((1, 8, 8, 1), "float32")}, "expected inputs ['x']"),
        ("encode", {"x": np.zeros((1, 8, 8, 1))}, "input x: expected float32"),
        (
            "encode",
            {"x": np.zeros((1, 9, 9, 1), "float32")},
            "`x` must have shape (batch, 8, 8, 1)",
        ),
        ("encode", {"x": np.zeros((64,), "float32")}, "`x` must have shape (batch, 8, 8, 1)"),
        ("encode", {"x": np.zeros((0, 8, 8, 1), "float32")}, "`x` must hold at least one example"),
        ("encode", {"x": np.full((1, 8, 8, 1), np.nan, "float32")}, "`x` must be finite"),
        ("encode", {"x": np.full((1, 8, 8, 1), 255, "float32")}, "`x` must lie in [0, 1]"),
        ("score_bytes", {"image_bytes": warmup.as_objects([b"text"])}, "`image_bytes` must be PNG"),
        (
            "score_bytes",
            {"image_bytes": np.array([[b"a"]], object)},
            "`image_bytes` must have shape",
        ),
        ("generate", {"seed": np.zeros((2, 3), "int32")}, "`seed` must have shape (batch, 2)"),
        ("sharpen", {"x": np.zeros((1, 8, 8, 1), "float32")}, '"sharpen" not found'),
    ],
)
def test_a_bad_request_is_refused_by_name_and_the_next_is_answered(name, inputs, message, runtime):
    folder = zoo.saved_model("vae_digits")
    with pytest.raises(Refused) as refused:
        runtime.run(folder, name, inputs)
    assert message in str(refused.value)
    assert runtime.run(folder, "generate", {"seed": np.zeros((1, 2), "int32")})
