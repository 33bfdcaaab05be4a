"""The zoo: listing, searching, creating, loading, registering, verifying, publishing."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import kerasunsup
from kerasunsup import zoo
from kerasunsup.building import create_model
from kerasunsup.card import Card, InputSpec, Metrics, hash_folder
from kerasunsup.errors import InputError, IntegrityError
from kerasunsup.metrics import Metric
from kerasunsup.parity import Parity, Runtime
from kerasunsup.recipe import Recipe
from kerasunsup.zoo import catalogue, pages, registry

RECIPE = Recipe.load(
    {
        "name": "tiny_vae",
        "family": "vae",
        "license": "Apache-2.0",
        "references": ["A paper"],
        "data": {"name": "digits"},
        "model": {
            "class": "VAE",
            "latent_dim": 2,
            "backbone": {"builder": "dense_backbone", "units": [8], "gated": True},
            "decoder": {"builder": "dense_decoder", "units": [8]},
        },
        "compile": {"optimizer": {"name": "SGD", "learning_rate": 0.5}},
        "train": {"epochs": 1},
        "published": [
            {"name": "Theirs", "metric": "nll_k500", "value": 228.7, "std": 0.15, "source": "[1]"}
        ],
    }
)
METRICS = {
    "nll_k500": Metric(230.25, 0.5, "K=500, log p(x|z)", 359, {"full_gaussian": 301.2}),
    "mse": Metric(0.0123, None, "test, pixels in [0, 1]", 359, {"pca": 0.02}),
}


PARITY = Parity(
    *("2 cores, x86_64", "encode", 32, 390_000),
    {"load": 0.25, "batch_1": 0.00015, "batch_256": 0.00168},
    {"onnx": Runtime("1.31.1", ("encode",), 2e-7, 260_000, "encode", 0.19, 0.042, 1.25)},
)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What training and evaluation leave behind."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    folder.mkdir()
    model = create_model(RECIPE, (8, 8, 1), (0.0, 1.0))
    exported = kerasunsup.export(model, folder / "saved_model" / "1")
    (folder / "recipe.toml").write_text(RECIPE.to_toml())
    (folder / "preview.png").write_bytes(b"picture")
    Card(
        recipe=RECIPE,
        verbs=model.verbs,
        metrics=METRICS,
        sha256=hash_folder(exported),
        input=InputSpec((8, 8, 1), "float32", (0.0, 1.0)),
        data_fingerprint="f" * 64,
        versions={"python": "3.11.7", "kerasunsup": kerasunsup.__version__},
        wall_time_s=12.5,
        parameters=model.count_params(),
        calibration={"threshold": 1.5},
    ).write(folder / "card.json")
    return folder


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


@pytest.fixture
def empty_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A catalogue of its own, nothing registered, no plug-ins."""
    root = tmp_path / "root"
    (root / "zoo").mkdir(parents=True)
    (root / "saved_models").mkdir()
    monkeypatch.setattr(catalogue, "root", lambda: root)
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr(registry, "_plugins", dict)
    return root


@pytest.fixture
def shipped(empty_zoo: Path, run: Path) -> Path:
    """The catalogue with one entry."""
    catalogue.publish(run)
    return empty_zoo


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


# The shipped entries


@pytest.mark.parametrize("name", sorted(path.name for path in catalogue.root().glob("zoo/*")))
def test_every_recipe_in_the_catalogue_is_an_entry(name: str) -> None:
    assert zoo.recipe(name).name == name
    assert zoo.recipe(name).license
    assert zoo.recipe(name).description
    assert zoo.recipe(name).references


def test_every_card_is_verified() -> None:
    cards = catalogue.cards()
    assert zoo.verify() == [card.name for card in cards]
    for card in cards:
        assert card.recipe.differences(zoo.recipe(card.name)) == []


def test_readme_shows_the_cards() -> None:
    readme = Path(__file__).parents[1] / "README.md"
    assert pages.split_readme(readme)[1] == pages.results_table(catalogue.cards()), (
        "Refresh it: from kerasunsup.zoo import catalogue, pages; "
        "pages.update_readme('README.md', catalogue.cards())"
    )


# Listing


def test_list_models(shipped: Path) -> None:
    zoo.register(RECIPE.override(["name=another", "family=ae", "data.name=iris"]))
    assert zoo.list_models() == ["another", "tiny_vae"]
    assert zoo.list_models(family="vae") == ["tiny_vae"]
    assert zoo.list_models(family="gan") == []
    assert zoo.list_models(dataset="iris") == ["another"]
    assert zoo.list_models(verb="generate") == ["tiny_vae"]
    assert zoo.list_models(verb="classify") == []


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("nll < 231", True),
        ("nll_k500<231", True),
        ("nll < 230.25", False),
        ("nll <= 230.25", True),
        ("nll == 230.25 and mse > .012", True),
        ("mse >= 1e-2 AND nll != 230.25", False),
        ("mse > -1", True),
    ],
)
def test_where(shipped: Path, where: str, found: bool) -> None:
    assert zoo.list_models(where=where) == (["tiny_vae"] if found else [])


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("nll", "must be metric, comparison, number"),
        ("", "must be metric, comparison, number"),
        ("nll = 3", "must be metric, comparison, number"),
        ("nll < low", "must be metric, comparison, number"),
        ("nll < 3 or mse < 2", "must be metric, comparison, number"),
        ("nnl_k500 < 3", "No entry has this metric. Did you mean `nll_k500`?"),
    ],
)
def test_where_that_cannot_be_read(shipped: Path, where: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        zoo.list_models(where=where)


@pytest.mark.parametrize("name", ["tiny_vaf", "", "nothing"])
def test_unknown_entry(shipped: Path, name: str) -> None:
    for function in (zoo.card, zoo.create, zoo.load, zoo.saved_model, zoo.verify, zoo.recipe):
        with pytest.raises(InputError, match=f"`?tiny_vae`?.*Received: {name!r}"):
            function(name)


@pytest.mark.parametrize(
    "name", ["runs/tiny_vae", "./tiny_vae", "..", "tiny_vae.toml", "a\\tiny_vae", Path("tiny_vae")]
)
def test_a_path_is_no_name(shipped: Path, name: Any) -> None:
    with pytest.raises(InputError, match=r"not a path.*zoo\.register\(path\)"):
        zoo.load(name)


# Cards


def test_card(shipped: Path) -> None:
    card = zoo.card("tiny_vae")
    assert (card.name, card.family, card.dataset) == ("tiny_vae", "vae", "digits")
    assert (card.version, card.seed, card.license) == (1, 0, "Apache-2.0")
    assert card.verbs == ("encode", "decode", "reconstruct", "generate", "score")
    assert card.metrics == Metrics(METRICS)
    assert card.metrics["nll"].baselines == {"full_gaussian": 301.2}
    assert card.recipe == RECIPE
    assert card.input == InputSpec((8, 8, 1), "float32", (0.0, 1.0))
    assert "assets.extra/model.keras" in card.sha256
    assert card.to_dict() == json.loads((shipped / "zoo/tiny_vae/card.json").read_text())


def test_metrics_by_prefix() -> None:
    metrics = Metrics({"nll_k500": METRICS["mse"], "nll_k5000": METRICS["nll_k500"]})
    assert metrics["nll_k500"] is METRICS["mse"]
    assert metrics["nll_k5000"] is METRICS["nll_k500"]
    assert metrics.get("psnr") is None
    for name, message in {"nll": "name one of nll_k500, nll_k5000", "nlk": "nll_k500"}.items():
        with pytest.raises(InputError, match=message):
            metrics[name]
        with pytest.raises(KeyError):
            metrics[name]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"recipe": {}}', "null"])
def test_broken_card(shipped: Path, text: str) -> None:
    (shipped / "zoo/tiny_vae/card.json").write_text(text)
    with pytest.raises(InputError, match="card.json must be a card written by kerasunsup"):
        zoo.card("tiny_vae")


def test_numbers_that_are_not_finite_are_no_measurement(shipped: Path, tmp_path: Path) -> None:
    card = dataclasses.replace(
        zoo.card("tiny_vae"), metrics={"mse": Metric(float("nan"), None, "", 1)}
    )
    with pytest.raises(ValueError, match="not JSON compliant"):
        card.write(tmp_path / "card.json")


# Models


def test_create(shipped: Path) -> None:
    model = zoo.create("tiny_vae")
    assert model.input_shape == (None, 8, 8, 1)
    assert isinstance(model.optimizer, keras.optimizers.SGD)


def test_load(shipped: Path) -> None:
    model = zoo.load("tiny_vae")
    x = np.random.default_rng(0).random((4, 8, 8, 1), dtype="float32")
    served = kerasunsup.export.ServedModel(zoo.saved_model("tiny_vae"))
    np.testing.assert_allclose(
        model.encode(x)["latent"], served.encode(x)["latent"], rtol=1e-4, atol=1e-5
    )
    model.fit(x, verbose=0)
    assert float(model.optimizer.learning_rate) == 0.5


def test_create_of_an_untrained_entry_loads_its_data(empty_zoo: Path) -> None:
    name = zoo.register(
        RECIPE.override(
            ["name=table", "data.name=iris", "train.standardize=true", "model.likelihood=gaussian"]
        )
    )
    model = zoo.create(name)
    assert model.input_shape == (None, 4)
    assert np.asarray(model.normalization.mean).ravel()[0] == pytest.approx(5.8, abs=0.2)


@pytest.mark.parametrize("file", ["saved_model.pb", "assets.extra/model.keras"])
def test_changed_byte(shipped: Path, file: str) -> None:
    flip_byte(shipped / "saved_models/tiny_vae/1" / file)
    for function in (zoo.load, zoo.saved_model, zoo.verify):
        with pytest.raises(IntegrityError, match=rf"{re.escape(file)} has changed.*Received: "):
            function("tiny_vae")
    with pytest.raises(IntegrityError, match=re.escape(file)):
        zoo.verify()


def test_changed_byte_anywhere(shipped: Path) -> None:
    files = [path for path in (shipped / "saved_models").rglob("*") if path.is_file()]
    assert len(files) == 7
    for path in files:
        flip_byte(path)
        with pytest.raises(IntegrityError, match=re.escape(str(path))):
            zoo.saved_model("tiny_vae")
        flip_byte(path)
    zoo.verify()


def test_missing_file(shipped: Path) -> None:
    (shipped / "saved_models/tiny_vae/1/saved_model.pb").unlink()
    with pytest.raises(IntegrityError, match="saved_model.pb must exist"):
        zoo.load("tiny_vae")


def test_file_that_is_not_on_the_card(shipped: Path) -> None:
    (shipped / "saved_models/tiny_vae/1/assets/more.txt").write_text("more")
    with pytest.raises(IntegrityError, match=r"more.txt is not on the entry's card"):
        zoo.saved_model("tiny_vae")


@pytest.mark.parametrize("folder", ["tiny_vae/2", "tiny_vea/1"])
def test_verify_finds_what_no_card_knows(shipped: Path, folder: str) -> None:
    (shipped / "saved_models" / folder).mkdir(parents=True)
    with pytest.raises(IntegrityError, match=f"{folder} is on no entry's card"):
        zoo.verify()


# Registering


def test_register_a_recipe(shipped: Path, tmp_path: Path) -> None:
    recipe = RECIPE.override(["name=mine"])
    path = tmp_path / "mine.toml"
    path.write_text(recipe.to_toml())
    for source in (recipe, recipe.to_dict(), path, str(path)):
        assert zoo.register(source) == "mine"
    assert zoo.recipe("mine") == recipe
    assert zoo.create("mine").latent_dim == 2
    for function in (zoo.card, zoo.load, zoo.saved_model, zoo.verify):
        with pytest.raises(InputError, match=r"not been trained here. Train it with.*'mine'"):
            function("mine")
    assert zoo.verify() == ["tiny_vae"]


def test_register_a_trained_run(empty_zoo: Path, run: Path) -> None:
    assert zoo.register(run) == "tiny_vae"
    assert zoo.card("tiny_vae").metrics["mse"].value == 0.0123
    assert zoo.saved_model("tiny_vae") == run / "saved_model" / "1"
    assert zoo.load("tiny_vae").latent_dim == 2
    assert zoo.verify() == ["tiny_vae"]
    flip_byte(run / "saved_model/1/saved_model.pb")
    with pytest.raises(IntegrityError, match="saved_model.pb has changed"):
        zoo.load("tiny_vae")


def test_a_registered_class_of_the_users(
    empty_zoo: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "zoo_user.py").write_text(
        "import keras\n"
        "from kerasunsup import Autoencoder\n"
        "@keras.saving.register_keras_serializable('zoo_user')\n"
        "class Mine(Autoencoder):\n"
        "    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    recipe = RECIPE.override(["name=mine", "modules=['zoo_user']", "model.class='zoo_user>Mine'"])
    assert type(zoo.create(zoo.register(recipe))).__name__ == "Mine"


def test_a_shipped_name_cannot_be_taken(shipped: Path) -> None:
    with pytest.raises(InputError, match=r"name of a shipped entry.*Received: 'tiny_vae'"):
        zoo.register(RECIPE)


def test_a_folder_must_hold_the_recipe_of_its_name(shipped: Path) -> None:
    (shipped / "zoo/tiny_vae").rename(shipped / "zoo/other")
    with pytest.raises(IntegrityError, match="must hold the recipe of its name"):
        zoo.recipe("other")


class Point:
    """A stand-in for importlib.metadata.EntryPoint."""

    def __init__(self, loaded: Any) -> None:
        self.name, self.value, self.loaded = "point", "package:recipes", loaded

    def load(self) -> Any:
        if isinstance(self.loaded, Exception):
            raise self.loaded
        return self.loaded


@pytest.fixture
def plug_in(empty_zoo: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Installs entry points that load to the given objects."""
    plugins = copy.copy(_PLUGINS)
    monkeypatch.setattr(registry, "_plugins", plugins)
    plugins.cache_clear()

    def install(*loaded: Any) -> None:
        monkeypatch.setattr(registry, "entry_points", lambda group: [Point(one) for one in loaded])

    yield install
    plugins.cache_clear()


_PLUGINS = registry._plugins


def test_entry_points(plug_in: Any, run: Path) -> None:
    recipes = [RECIPE.override([f"name=plugged_{i}"]) for i in range(3)]
    plug_in(recipes[0], recipes[1].to_dict(), iter([recipes[2], run]))
    assert zoo.list_models() == ["plugged_0", "plugged_1", "plugged_2", "tiny_vae"]
    assert zoo.recipe("plugged_1") == recipes[1]
    assert zoo.saved_model("tiny_vae").is_dir()
    zoo.register(RECIPE.override(["name=plugged_0", "model.latent_dim=5"]))
    assert zoo.recipe("plugged_0").model.arguments["latent_dim"] == 5


def test_an_entry_point_that_fails_is_named(plug_in: Any) -> None:
    plug_in(ImportError("no such thing"), RECIPE)
    with pytest.warns(RuntimeWarning, match=r"point = package:recipes.*ImportError: no such thing"):
        assert zoo.list_models() == ["tiny_vae"]


# Publishing


def test_publish(shipped: Path) -> None:
    assert sorted(path.name for path in (shipped / "zoo/tiny_vae").iterdir()) == [
        "README.md",
        "card.json",
        "preview.png",
        "recipe.toml",
        "signatures.json",
    ]
    inside = shipped / "saved_models/tiny_vae/1/assets.extra/card.json"
    assert inside.read_bytes() == (shipped / "zoo/tiny_vae/card.json").read_bytes()
    page = (shipped / "zoo/tiny_vae/README.md").read_text()
    assert (
        "| `nll_k500` | 230.25 ± 0.50 | K=500, log p(x\\|z) | 359 | full_gaussian 301.2 |" in page
    )
    assert "gated dense 8, latent 2" in page


def test_a_new_version_replaces_the_old_one(shipped: Path, run: Path) -> None:
    card = Card.read(run / "card.json")
    newer = dataclasses.replace(card, recipe=RECIPE.override(["version=2"]))
    newer.write(run / "card.json")
    (run / "recipe.toml").write_text(newer.recipe.to_toml())
    (run / "saved_model/1").rename(run / "saved_model/2")
    catalogue.publish(run)
    assert zoo.saved_model("tiny_vae") == shipped / "saved_models/tiny_vae/2"
    assert [path.name for path in (shipped / "saved_models/tiny_vae").iterdir()] == ["2"]
    assert zoo.verify() == ["tiny_vae"]


def test_published_signatures_change_with_the_version_only(shipped: Path, run: Path) -> None:
    path = shipped / "zoo/tiny_vae/signatures.json"
    golden = json.loads(path.read_text())
    assert golden["signatures"]["decode"]["inputs"] == {"latent": ["float32", None, 2]}
    catalogue.publish(run)
    golden["signatures"]["decode"]["inputs"] = {"z": ["float32", None, 2]}
    path.write_text(json.dumps(golden))
    with pytest.raises(InputError, match="raise `version`"):
        catalogue.publish(run)
    path.write_text(json.dumps({**golden, "version": 0}))
    catalogue.publish(run)


def test_the_same_weights_published_again(shipped: Path) -> None:
    model = shipped / "saved_models/tiny_vae/1"
    before = {path: path.read_bytes() for path in model.rglob("*") if path.is_file()}
    catalogue.publish_again("tiny_vae")
    assert zoo.verify() == ["tiny_vae"]
    for path, content in before.items():
        if path.parent.name == "variables" or path.name == "model.keras":
            assert path.read_bytes() == content


def test_a_classifier_published_again_names_its_classes(empty_zoo: Path, run: Path) -> None:
    digits = {
        **RECIPE.to_dict(),
        "family": "classifier",
        "model": {
            "class": "Classifier",
            "labels": 10,
            "backbone": {"builder": "dense_backbone", "units": [8]},
        },
    }
    recipe = Recipe.load(digits)
    model = create_model(recipe, (8, 8, 1), (0.0, 1.0))
    folder = kerasunsup.export(model, run / "saved_model" / "1")
    card = dataclasses.replace(
        Card.read(run / "card.json"),
        recipe=recipe,
        verbs=model.verbs,
        sha256=hash_folder(folder),
        parity=PARITY,
    )
    card.write(run / "card.json")
    (run / "recipe.toml").write_text(recipe.to_toml())
    catalogue.publish(run)
    with pytest.raises(InputError, match="raise `version`"):
        catalogue.publish_again("tiny_vae")
    path = empty_zoo / "zoo/tiny_vae/recipe.toml"
    path.write_text(path.read_text().replace("version = 1", "version = 2\n"))
    catalogue.publish_again("tiny_vae")
    assert zoo.verify() == ["tiny_vae"]
    again = zoo.card("tiny_vae")
    assert again.version == 2 and again.class_names == tuple("0123456789")
    assert again.identity == card.identity and again.parity is None
    golden = json.loads((empty_zoo / "zoo/tiny_vae/signatures.json").read_text())
    assert golden["signatures"]["classify"]["outputs"]["class_name"] == ["string", None]
    loaded = zoo.load("tiny_vae")
    for before, after in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(before, after)
    assert zoo.create("tiny_vae").class_names == loaded.class_names == again.class_names
    path.write_text(path.read_text().replace("version = 2", "version = 3").replace("0.5", "0.1"))
    with pytest.raises(InputError, match="but for `version`.*learning_rate"):
        catalogue.publish_again("tiny_vae")


def test_publish_keeps_the_comments_of_an_equal_recipe(shipped: Path, run: Path) -> None:
    path = shipped / "zoo/tiny_vae/recipe.toml"
    commented = "# why\n" + path.read_text()
    path.write_text(commented)
    catalogue.publish(run)
    assert path.read_text() == commented
    path.write_text(commented.replace("learning_rate = 0.5", "learning_rate = 0.25"))
    catalogue.publish(run)
    assert path.read_text() == RECIPE.to_toml()


def test_publish_refuses(empty_zoo: Path, run: Path) -> None:
    recipe = (run / "recipe.toml").read_text()
    (run / "recipe.toml").write_text(recipe.replace("units = [\n    8", "units = [\n    9"))
    with pytest.raises(InputError, match="another recipe.*units"):
        catalogue.publish(run)
    (run / "recipe.toml").write_text(recipe)
    (run / "saved_model/1/saved_model.pb").write_text("short")
    with pytest.raises(IntegrityError, match="saved_model.pb"):
        catalogue.publish(run)
    (run / "preview.png").unlink()
    with pytest.raises(InputError, match="must have preview.png"):
        catalogue.publish(run)
    assert not any((empty_zoo / "zoo").iterdir())
    assert not any((empty_zoo / "saved_models").iterdir())


def test_results_table(shipped: Path) -> None:
    one = zoo.card("tiny_vae")
    two = dataclasses.replace(
        one,
        recipe=RECIPE.override(["name=wide_vae", "model.latent_dim=4"]),
        metrics={"mse": Metric(0.01, None, "", 359, {"pca": 0.015})},
    )
    assert pages.results_table([two, one]).splitlines() == [
        "**digits**",
        "",
        "| entry | network | parameters | nll_k500 | mse |",
        "| --- | --- | --- | --- | --- |",
        f"| [tiny_vae](zoo/tiny_vae) | gated dense 8, latent 2 | {one.parameters:,} "
        "| 230.25 ± 0.50 | 0.0123 |",
        f"| [wide_vae](zoo/wide_vae) | gated dense 8, latent 4 | {one.parameters:,} |  | 0.01 |",
        "| *full_gaussian* | baseline |  | 301.2 |  |",
        "| *pca, for wide_vae* | baseline |  |  | 0.015 |",
        "| *pca* | baseline |  |  | 0.02 |",
        "| Theirs, [1] | published |  | 228.70 ± 0.15 |  |",
    ]


def test_samples_have_a_table_of_their_own(shipped: Path) -> None:
    one = zoo.card("tiny_vae")
    samples = {
        "fcd_n100": Metric(3.21, 0.04, "", 100, {"train_images": 0.08}),
        "precision": Metric(0.7, 0.01, "", 359, {"train_images": 0.9}),
    }
    published = [{"name": "Theirs", "metric": "precision", "value": 0.8, "source": "[1]"}]
    gan = dataclasses.replace(
        one,
        recipe=Recipe.load({**RECIPE.to_dict(), "name": "gan", "published": published}),
        metrics=samples,
    )
    both = dataclasses.replace(
        one, recipe=RECIPE.override(["name=both"]), metrics={**METRICS, "precision": Metric(
            0.6, None, "", 359, {"train_images": 0.9}
        )},
    )  # fmt: skip
    network = "gated dense 8, latent 2"
    lines = pages.results_table([one, gan, both]).splitlines()
    assert [line.split(" | ")[0] for line in lines] == [
        "**digits**", "", "| entry", "| ---",
        "| [both](zoo/both)", "| [tiny_vae](zoo/tiny_vae)",
        "| *full_gaussian*", "| *pca*", "| Theirs, [1]",
        "",
        "**digits, samples**", "", "| entry", "| ---",
        "| [both](zoo/both)", "| [gan](zoo/gan)", "| *train_images*", "| Theirs, [1]",
    ]  # fmt: skip
    assert lines[2] == "| entry | network | parameters | nll_k500 | mse |"
    assert lines[12:] == [
        "| entry | network | parameters | precision | fcd_n100 |",
        "| --- | --- | --- | --- | --- |",
        f"| [both](zoo/both) | {network} | {one.parameters:,} | 0.6 |  |",
        f"| [gan](zoo/gan) | {network} | {one.parameters:,} | 0.700 ± 0.010 | 3.210 ± 0.040 |",
        "| *train_images* | baseline |  | 0.9 | 0.08 |",
        "| Theirs, [1] | published |  | 0.8 |  |",
    ]


def test_update_readme(shipped: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"Before\n{pages.BEGIN}\nold\n{pages.END}\nAfter\n")
    cards = catalogue.cards()
    for _ in range(2):
        pages.update_readme(readme, cards)
        before, block, after = pages.split_readme(readme)
        assert (before, block, after) == ("Before\n", pages.results_table(cards), "\nAfter\n")
    readme.write_text("no marks")
    with pytest.raises(InputError, match="must have the marks"):
        pages.update_readme(readme, cards)
