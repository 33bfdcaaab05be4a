"""The catalogue on disk: where it is, and how a finished run gets into it.

<root>/zoo/<entry>/            recipe.toml card.json preview.png README.md
<root>/saved_models/<entry>/   <version>/, a TensorFlow Serving base path
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from kerasunsup.card import Card, check_folder
from kerasunsup.errors import InputError
from kerasunsup.files import atomic_folder
from kerasunsup.recipe import Recipe
from kerasunsup.zoo.pages import entry_page


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
        InputError: The run is not complete, or its card is of another recipe.
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
    check_folder(model, card.sha256)
    versions, entry = root() / "saved_models" / card.name, root() / "zoo" / card.name
    with atomic_folder(versions / str(card.version)) as folder:
        shutil.copytree(model, folder, dirs_exist_ok=True)
    with atomic_folder(entry) as folder:
        for name in ("card.json", "preview.png"):
            shutil.copyfile(run / name, folder / name)
        kept = (entry / "recipe.toml").is_file() and Recipe.load(entry) == recipe
        shutil.copyfile((entry if kept else run) / "recipe.toml", folder / "recipe.toml")
        (folder / "README.md").write_text(entry_page(card), encoding="utf-8")
    for old in versions.iterdir():
        if old.name != str(card.version):
            shutil.rmtree(old)
    return entry
