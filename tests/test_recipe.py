"""Recipes: read, checked, overridden, written, built."""

from __future__ import annotations

import copy
import re
import tomllib
from pathlib import Path
from typing import Any

import keras
import pytest

from kerasunsup.building import create_model
from kerasunsup.errors import InputError
from kerasunsup.protocols import PROTOCOLS
from kerasunsup.recipe import Recipe

TABLE: dict[str, Any] = {
    "name": "tiny_vae",
    "family": "vae",
    "references": ["A paper"],
    "data": {"name": "digits"},
    "model": {
        "class": "VAE",
        "latent_dim": 2,
        "backbone": {"builder": "dense_backbone", "units": [8]},
        "decoder": {"builder": "dense_decoder", "units": [8]},
    },
    "compile": {"optimizer": {"name": "Adam", "learning_rate": 0.01, "schedule": "cosine"}},
    "train": {"epochs": 4, "batch_size": 32},
    "evaluate": {"protocols": ["mse", "nll_k500"]},
}


@pytest.fixture
def recipe() -> Recipe:
    return Recipe.load(TABLE)


def table(key: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(TABLE)
    *parents, last = key.split(".")
    inner = changed
    for parent in parents:
        inner = inner.setdefault(parent, {})
    inner[last] = value
    return changed


# Reading


def test_defaults(recipe: Recipe) -> None:
    assert recipe.version == 1
    assert recipe.train.seed == 0
    assert recipe.train.patience is None
    assert recipe.data.seed == 0 and recipe.data.normal_class is None
    assert recipe.references == ("A paper",)


def test_load_from_everywhere(recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(recipe.to_toml())
    for source in (path, str(path), tmp_path, TABLE, recipe, tomllib.loads(path.read_text())):
        assert Recipe.load(source) == recipe


def test_is_not_tied_to_the_dict_it_was_read_from() -> None:
    source = copy.deepcopy(TABLE)
    recipe = Recipe.load(source)
    source["model"]["backbone"]["units"].append(3)
    recipe.to_dict()["model"]["backbone"]["units"].append(4)
    assert recipe.model.arguments["backbone"]["units"] == [8]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train.epoch", 3, "`train.epoch` is no key of a recipe. Did you mean `epochs`?"),
        ("epochs", 3, "Did you mean `train.epochs`? Received: epochs = 3"),
        ("licence", "MIT", "Did you mean `license`?"),
        ("train.epochs", "three", "`train.epochs` must be an integer. Received: str 'three'"),
        ("train.epochs", True, "must be an integer. Received: bool True"),
        ("train.epochs", 0, "`train.epochs` must be at least 1. Received: 0"),
        ("train.seed", -1, "`train.seed` must be at least 0. Received: -1"),
        ("train", 3, "`train` must be a table. Received: int 3"),
        ("data.validation", "half", "must be an integer or a number. Received: str 'half'"),
        ("references", "A paper", "`references` must be an array"),
        ("references", [1], "`references[0]` must be a string. Received: int 1"),
        ("name", "../up", "`name` must be made of letters"),
        ("model.class", 3, "`model.class` must be a string"),
        ("model.sigma", None, "`model.sigma` must be a string, number"),
        ("evaluate.protocols", ["mse", "nll_500"], "Received: 'nll_500'"),
        ("published", [{"name": "A"}], "`published[0].metric` is missing"),
    ],
)
def test_wrong_keys_and_values(key: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        Recipe.load(table(key, value))


@pytest.mark.parametrize("key", ["name", "family", "data", "model", "train"])
def test_missing_keys(key: str) -> None:
    with pytest.raises(InputError, match=f"`{key}` is missing"):
        Recipe.load({name: value for name, value in TABLE.items() if name != key})


def test_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    with pytest.raises(InputError, match="mine.toml, which does not exist"):
        Recipe.load(path)
    path.write_text('name = "a"\nfamily = \n')
    with pytest.raises(InputError, match=r"mine.toml must be valid TOML.*line 2"):
        Recipe.load(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"mine.toml must be valid TOML"):
        Recipe.load(path)
    path.write_text('nam = "a"\n')
    with pytest.raises(InputError, match=r"mine.toml: `nam` is no key"):
        Recipe.load(path)
    with pytest.raises(InputError, match="Received: int 3"):
        Recipe.load(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name",
    [
        *(p.example for p in PROTOCOLS.values()),
        "psnr_noise1",
        "nll_k1",
        "nll_k5000_n1000",
        "psnr_noise.25",
    ],
)
def test_protocols(name: str) -> None:
    assert Recipe.load(table("evaluate.protocols", [name])).evaluate.protocols == (name,)


@pytest.mark.parametrize("name", ["", "nll_k0", "nll_k5_n", "psnr_noise", "mse ", "fid"])
def test_unknown_protocols(name: str) -> None:
    with pytest.raises(InputError, match=r"evaluate\.protocols"):
        Recipe.load(table("evaluate.protocols", [name]))


# Overriding


def test_override(recipe: Recipe) -> None:
    changed = recipe.override(
        [
            "train.epochs=3",
            "model.likelihood=gaussian",
            'description = "two words"',
            "model.backbone.units=[4, 4]",
            "train.patience=2",
            "compile.clip_norm=1.5",
        ]
    )
    assert changed.train.epochs == 3
    assert changed.model.arguments["likelihood"] == "gaussian"
    assert changed.description == "two words"
    assert changed.model.arguments["backbone"]["units"] == [4, 4]
    assert changed.compile["clip_norm"] == 1.5
    assert recipe.differences(changed) == [
        "compile.clip_norm",
        "description",
        "model.backbone.units",
        "model.likelihood",
        "train.epochs",
        "train.patience",
    ]
    assert recipe.differences(recipe) == []


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.epochs", "must look like train.epochs=3"),
        ("=3", "must look like train.epochs=3"),
        ("train.epochs.x=3", "`train.epochs` is no table"),
        ("train.epochs=many", "`train.epochs` must be an integer. Received: str 'many'"),
        ("train.rate=1", "`train.rate` is no key"),
    ],
)
def test_wrong_override(recipe: Recipe, assignment: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        recipe.override([assignment])


# Building


def test_create_model(recipe: Recipe) -> None:
    model = create_model(recipe, (8, 8, 1), (0.0, 1.0), steps_per_epoch=10)
    assert type(model).__name__ == "VAE"
    assert model.latent_dim == 2
    assert model.decoder.output_shape == (None, 8, 8, 1)
    schedule = model.optimizer._learning_rate
    assert float(schedule(0)) == pytest.approx(0.01)
    assert float(schedule(20)) == pytest.approx(0.005)
    assert float(schedule(40)) == pytest.approx(0, abs=1e-9)


def test_learning_rate_is_constant_where_the_steps_are_unknown(recipe: Recipe) -> None:
    model = create_model(recipe, (8, 8, 1), (0.0, 1.0))
    assert float(model.optimizer.learning_rate) == pytest.approx(0.01)


def test_warmup(recipe: Recipe) -> None:
    recipe = recipe.override(["compile.optimizer.warmup_epochs=1"])
    model = create_model(recipe, (8, 8, 1), (0.0, 1.0), steps_per_epoch=10)
    schedule = model.optimizer._learning_rate
    rates = [float(schedule(step)) for step in (0, 5, 10, 25, 40)]
    assert rates == pytest.approx([0, 0.005, 0.01, 0.005, 0], abs=1e-6)


def test_standardize(recipe: Recipe) -> None:
    recipe = recipe.override(["train.standardize=true", "model.likelihood=gaussian"])
    model = create_model(recipe, (4,), None)
    assert isinstance(model.normalization, keras.layers.Normalization)


def test_strategy_scope(recipe: Recipe) -> None:
    import tensorflow as tf

    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    with strategy.scope():
        model = create_model(recipe, (8, 8, 1), (0.0, 1.0))
    assert model.distribute_strategy is strategy


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("model.class=VEA", "`model.class` is not registered with Keras. Did you mean `VAE`?"),
        ("model.class=dense_backbone", "`model.class` is not registered"),
        ("model.latent_dims=3", "`model.latent_dims` is no argument of VAE. Did you mean `latent_"),
        ("model.backbone=3", "[model] must describe a valid VAE"),
        ("model.backbone.builder=dens_backbone", "Did you mean `dense_backbone`"),
        ("model.backbone.builder=3", "`model.backbone.builder` is not registered"),
        ("model.backbone.unit=[3]", "`model.backbone.unit` is no argument of dense_backbone"),
        ("model.backbone.activation=rellu", "[model.backbone] must describe a valid dense_backb"),
        ("model.likelihood=poisson", "`likelihood` must be one of"),
        ("compile.optimizer.name=Adum", "`compile.optimizer.name` must be a Keras optimiser. Did"),
        ("compile.optimizer.lr=1", "`compile.optimizer.lr` is no argument of Adam"),
        ("compile.optimizer.schedule=step", '`compile.optimizer.schedule` must be "constant" or'),
        ("compile.optimizer.warmup_epochs=4", "must be from 0 to below the 4 epochs"),
        ("compile.jit=true", "`compile.jit` is no argument of compile"),
        ("modules=[nowhere]", "`modules` must be an array"),
        ("modules=['nowhere']", "must name importable Python modules"),
    ],
)
def test_what_cannot_be_built(recipe: Recipe, assignment: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        create_model(recipe.override([assignment]), (8, 8, 1), (0.0, 1.0), 10)


def test_missing_arguments() -> None:
    source = copy.deepcopy(TABLE)
    del source["model"]["latent_dim"]
    with pytest.raises(InputError, match=r"`model.decoder.latent_dim` is missing"):
        create_model(Recipe.load(source), (8, 8, 1), (0.0, 1.0))


def test_a_class_of_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipe_models.py").write_text(
        "import keras\n"
        "from kerasunsup import VAE\n"
        "@keras.saving.register_keras_serializable('mine')\n"
        "class Flatter(VAE):\n"
        "    pass\n"
        "@keras.saving.register_keras_serializable('mine')\n"
        "def pooled(input_shape, size):\n"
        "    x = keras.Input(input_shape)\n"
        "    y = keras.layers.Flatten()(keras.layers.AveragePooling2D(size)(x))\n"
        "    return keras.Model(x, y)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    source = copy.deepcopy(TABLE)
    source["modules"] = ["recipe_models"]
    source["model"].update({"class": "mine>Flatter", "beta": 0.5})
    source["model"]["backbone"] = {"builder": "mine>pooled", "size": 2}
    model = create_model(Recipe.load(source), (8, 8, 1), (0.0, 1.0))
    assert type(model).__name__ == "Flatter"
    assert model.beta == 0.5
    assert model.backbone.output_shape == (None, 16)


def test_several_optimisers() -> None:
    @keras.saving.register_keras_serializable("mine")
    class TwoOptimisers(keras.Model):
        def __init__(self, value_range: Any = None) -> None:
            super().__init__()

        def compile(self, generator_optimizer: Any, critic_optimizer: Any) -> None:
            self.optimizers = {"generator": generator_optimizer, "critic": critic_optimizer}

    source = copy.deepcopy(TABLE)
    source["model"] = {"class": "mine>TwoOptimisers"}
    source["compile"] = {
        "generator_optimizer": {"name": "Adam", "beta_1": 0.0},
        "critic_optimizer": {"name": "SGD"},
    }
    model = create_model(Recipe.load(source), (8, 8, 1), (0.0, 1.0), steps_per_epoch=3)
    assert model.optimizers["generator"].beta_1 == 0.0
    assert isinstance(model.optimizers["critic"], keras.optimizers.SGD)
    del source["compile"]["critic_optimizer"]["name"]
    with pytest.raises(InputError, match=r"`compile.critic_optimizer.name` must be a Keras"):
        create_model(Recipe.load(source), (8, 8, 1), (0.0, 1.0))
