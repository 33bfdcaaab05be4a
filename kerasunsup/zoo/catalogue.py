"""The catalogue on disk: where it is, and how a finished run gets into it.

<root>/zoo/<entry>/            recipe.toml card.json signatures.json preview.png README.md
<root>/saved_models/<entry>/   <version>/, a TensorFlow Serving base path
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kerasunsup.card import COPY, Card, check_folder, hash_folder
from kerasunsup.errors import InputError
from kerasunsup.files import atomic_folder, atomic_write
from kerasunsup.recipe import Recipe
from kerasunsup.zoo.pages import entry_page

SIGNATURES = "signatures.json"


def root() -> Path:
    """Folder of zoo/ and saved_models/: in the installed package, or the checkout's."""
    package = Path(__file__).parents[1]
    installed = package / "catalogue"
    return installed if installed.is_dir() else package.parent


def cards() -> list[Card]:
    """The cards of all shipped entries, sorted by name."""
    return [Card.read(path) for path in sorted((root() / "zoo").glob("*/card.json"))]


def publish(run: str | os.PathLike[str]) -> Path:
    """Copies a finished run into the catalogue; the older version of the entry goes.

    Whenever it is interrupted, the catalogue has the entry's old state or its new one. A
    recipe.toml that is already there and says the same keeps its comments.

    Args:
        run: Folder with recipe.toml, card.json, preview.png and saved_model/<version>/.

    Returns:
        The entry's folder in zoo/.

    Raises:
        InputError: The run is not complete, its card is of another recipe, or its signatures are
            not those that this version was published with.
        IntegrityError: A file of the SavedModel differs from the card.
        OutputError: The catalogue cannot be written.
    """
    run = Path(run)
    for name in ("recipe.toml", "card.json", "preview.png"):
        if not (run / name).is_file():
            raise InputError(f"A finished run must have {name}. Received: {run}")
    card = Card.read(run / "card.json")
    recipe = Recipe.load(run)
    changed = card.recipe.differences(recipe)
    if changed:
        raise InputError(
            f"{run}/card.json was measured with another recipe: evaluate the run again. "
            f"Received different: {', '.join(changed)}"
        )
    model = run / "saved_model" / str(card.version)
    check_folder(model, run / "card.json")
    versions, entry = root() / "saved_models" / card.name, root() / "zoo" / card.name
    signatures = _signatures(model, card.version, entry / SIGNATURES)
    with atomic_folder(versions / str(card.version)) as folder:
        shutil.copytree(model, folder, dirs_exist_ok=True)
        shutil.copyfile(run / "card.json", folder / COPY)
    with atomic_folder(entry) as folder:
        for name in ("card.json", "preview.png"):
            shutil.copyfile(run / name, folder / name)
        kept = (entry / "recipe.toml").is_file() and Recipe.load(entry) == recipe
        shutil.copyfile((entry if kept else run) / "recipe.toml", folder / "recipe.toml")
        (folder / SIGNATURES).write_text(_one_a_line(signatures), encoding="utf-8")
        (folder / "README.md").write_text(entry_page(card), encoding="utf-8")
    for old in versions.iterdir():
        if old.name != str(card.version):
            shutil.rmtree(old)
    return entry


def publish_again(name: str) -> Path:
    """Exports an entry anew from its `model.keras`: the same weights, today's signatures.

    A classifier gets the names of its data's classes. Metrics and the identity of the weights
    stay; `variables/` stays as it is where the names in it have not changed; what was measured of
    other runtimes goes. A `version` raised in recipe.toml becomes the entry's.

    Args:
        name: A shipped entry.

    Returns:
        The entry's folder in zoo/.

    Raises:
        InputError: The signatures are not those that this version was published with, or
            recipe.toml differs from the card's in more than the version.
        IntegrityError: A file of the SavedModel differs from the card.
        OutputError: The catalogue cannot be written.
    """
    import keras

    from kerasunsup.building import import_modules
    from kerasunsup.export import KERAS_FILE, export

    entry = root() / "zoo" / name
    card, recipe = Card.read(entry / "card.json"), Recipe.load(entry)
    changed = set(card.recipe.differences(recipe)) - {"version"}
    if changed:
        raise InputError(
            f"{entry}/recipe.toml must be the recipe of the weights but for `version`: train it. "
            f"Received different: {', '.join(sorted(changed))}"
        )
    old = root() / "saved_models" / name / str(card.version)
    check_folder(old, entry / "card.json")
    import_modules(card.recipe)
    with TemporaryDirectory() as temporary:
        run = Path(temporary)
        model = keras.saving.load_model(old / KERAS_FILE)
        named = _name_classes(model, recipe)
        new = export(model, run / "saved_model" / str(recipe.version))
        if not named:
            shutil.copyfile(old / KERAS_FILE, new / KERAS_FILE)
        if _same_variables(old, new):
            shutil.copytree(old / "variables", new / "variables", dirs_exist_ok=True)
        replace(
            card,
            recipe=recipe,
            sha256=hash_folder(new),
            class_names=getattr(model, "class_names", None) or (),
            parity=None,
            first_identity=card.identity,
        ).write(run / "card.json")
        for file in ("recipe.toml", "preview.png"):
            shutil.copyfile(entry / file, run / file)
        return publish(run)


def rewrite(card: Card) -> None:
    """Replaces the card of a shipped entry, its copy beside the model, and the entry's page.

    Raises:
        OutputError: The catalogue cannot be written.
    """
    entry = root() / "zoo" / card.name
    card.write(root() / "saved_models" / card.name / str(card.version) / COPY)
    card.write(entry / "card.json")
    atomic_write(entry / "README.md", entry_page(card))


def _name_classes(model: Any, recipe: Recipe) -> bool:
    """Gives a model that answers class names, and has none, those of its data."""
    from kerasunsup.building import named_classes

    if getattr(model, "class_names", "") is not None:
        return False
    names = recipe.data.load().class_names
    if not named_classes(type(model), recipe.model.arguments, names):
        return False
    model.class_names = names
    return True


def _same_variables(old: Path, new: Path) -> bool:
    """Whether two SavedModels hold equal values under equal names."""
    import numpy as np
    import tensorflow as tf

    one, other = (
        tf.train.load_checkpoint(str(folder / "variables" / "variables")) for folder in (old, new)
    )
    names = set(one.get_variable_to_shape_map())
    return names == set(other.get_variable_to_shape_map()) and all(
        np.array_equal(one.get_tensor(name), other.get_tensor(name), equal_nan=True)
        for name in names - {"_CHECKPOINTABLE_OBJECT_GRAPH"}
    )


def _signatures(model: Path, version: int, published: Path) -> dict[str, Any]:
    """What the clients of a version rely on: what it was published with, if it was."""
    from kerasunsup.serving import scan

    signatures = {"version": version, "signatures": scan.describe(scan.read(model))}
    if published.is_file():
        before = json.loads(published.read_text(encoding="utf-8"))
        if before["version"] == version and before != signatures:
            raise InputError(
                f"The signatures of a published version must stay as {published} says: raise "
                f"`version` in the recipe. Received: other signatures for version {version}"
            )
    return signatures


def _one_a_line(table: dict[str, Any]) -> str:
    """JSON with a line for each signature."""
    lines = [
        f"    {json.dumps(name)}: {json.dumps(one)}" for name, one in table["signatures"].items()
    ]
    joined = ",\n".join(lines)
    return f'{{\n  "version": {table["version"]},\n  "signatures": {{\n{joined}\n  }}\n}}\n'
