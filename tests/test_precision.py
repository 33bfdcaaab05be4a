"""Every family in less precision, compiled by XLA, and many steps in a call."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from marks import slow_but
from replicated import CASES, examples, train

import kerasunsup
from kerasunsup import data
from kerasunsup.errors import InputError
from kerasunsup.export import ServedModel
from kerasunsup.models.base import dtype_policy

FAMILIES = slow_but(("autoencoder", "dense gan"), CASES)


@pytest.fixture(scope="module")
def plain():
    """Model and history in float32, one step in a call; trained once for each family."""
    done = {}

    def trained(case):
        if case not in done:
            done[case] = train(CASES[case], examples(case))
        return done[case]

    return trained


@pytest.mark.parametrize("case", FAMILIES)
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_learns_as_float32_does(case, policy, plain, tmp_path):
    x = examples(case)
    with dtype_policy(policy):
        model, history = train(CASES[case], x)
    _, wanted = plain(case)
    for name, values in wanted.items():
        if name in ("loss", "generator_loss", "elbo", "reconstruction"):
            np.testing.assert_allclose(history[name], values, rtol=0.1, atol=0.02, err_msg=name)
    assert {weight.dtype for weight in model.trainable_weights} == {"float32"}
    for optimizer in (getattr(model, name) for name in model.optimizer_variables):
        scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        assert scaled == (policy == "mixed_float16")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.dtype_policy.name == policy and keras.config.dtype_policy().name == "float32"
    for name in model.verbs:
        if name in ("encode", "reconstruct", "classify"):
            one, two = (getattr(m, name)(x) for m in (model, loaded))
            for key, values in one.items():
                np.testing.assert_array_equal(values, two[key])
                assert values.dtype.kind != "f" or values.dtype == np.float32
    for one in (model, loaded):  # both go on alike
        labels = np.arange(len(x)) % 3
        one.fit(x, labels, batch_size=12, initial_epoch=2, epochs=3, verbose=0)
    for p, q in zip(model.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(p, q, err_msg=p.path)


@pytest.mark.parametrize("case", FAMILIES)
@pytest.mark.parametrize("options", [{"jit_compile": True}, {"steps_per_execution": 3}], ids=str)
def test_compiled_steps_train_the_same_weights(case, options, plain):
    one, wanted = plain(case)
    two, history = train(CASES[case], examples(case), **options)
    for p, q in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(q, p, atol=1e-5)
    for name, values in wanted.items():
        near = {"atol": 0.1} if "accuracy" in name else {"rtol": 1e-4, "atol": 1e-5}
        np.testing.assert_allclose(history[name], values, err_msg=name, **near)


RECIPE = {
    "name": "tiny",
    "family": "autoencoder",
    "data": {"name": "digits"},
    "model": {
        "class": "Autoencoder",
        "latent_dim": 4,
        "backbone": {"builder": "dense_backbone", "units": [16]},
        "decoder": {"builder": "dense_decoder", "units": [16]},
    },
    "compile": {"optimizer": {"name": "Adam"}, "steps_per_execution": 4},
    "train": {"epochs": 2, "seed": 0, "precision": "mixed_bfloat16"},
}


def test_a_recipe_chooses_precision(tmp_path):
    run = kerasunsup.train(RECIPE, tmp_path / "run", verbose=0)
    assert run.model.backbone.layers[-1].compute_dtype == "bfloat16"
    assert keras.config.dtype_policy().name == "float32"
    served = ServedModel(run.folder / "saved_model" / "1")  # float32 again
    x = data.load("digits").test[:5]
    latent = served.encode(x)["latent"]
    np.testing.assert_allclose(latent, run.model.encode(x)["latent"], atol=0.05)
    assert "bfloat16" not in (run.folder / "saved_model" / "1" / "saved_model.pb").read_text(
        "latin"
    )
    wide = {**RECIPE, "train": {**RECIPE["train"], "precision": "float32"}}
    float32 = kerasunsup.train(wide, tmp_path / "float32", verbose=0)
    np.testing.assert_allclose(run.history["loss"], float32.history["loss"], rtol=0.02)
    with pytest.raises(InputError, match=r"`train\.precision` must be one of float32, mixed_b"):
        kerasunsup.train({**RECIPE, "train": {"epochs": 1, "precision": "float16"}}, tmp_path / "x")
