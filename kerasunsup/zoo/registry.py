"""Entries by name: the shipped catalogue, what the user registered, what packages bring.

A package brings entries by the entry-point group `kerasunsup.zoo`: each one loads to what
`register` takes, or to an iterable of it.
"""

from __future__ import annotations

import functools
import operator
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerasunsup.card import Card, check_folder
from kerasunsup.errors import InputError, IntegrityError
from kerasunsup.recipe import Recipe, suggest
from kerasunsup.zoo import catalogue

if TYPE_CHECKING:
    import keras

_COMPARISONS = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(frozen=True)
class Entry:
    """Where the parts of one entry are.

    Attributes:
        recipe: How it is made.
        card_path: Its card.json, or None when it has not been trained.
        models: Folder that holds the versions of its SavedModel.
    """

    recipe: Recipe
    card_path: Path | None = None
    models: Path | None = None


_registered: dict[str, Entry] = {}


# Contract


def list_models(
    family: str | None = None,
    dataset: str | None = None,
    verb: str | None = None,
    where: str | None = None,
) -> list[str]:
    """Names of the entries that fit, sorted.

    Args:
        family: For example "vae".
        dataset: For example "fashion_mnist".
        verb: For example "generate"; only trained entries are known by their verbs.
        where: Conditions on measured metrics joined by "and": "nll < 231 and mse < 0.02". The
            beginning of a metric's name stands for all metrics whose names begin so.

    Raises:
        InputError: `where` cannot be read, or no entry has such a metric.
    """
    entries = {
        name: entry
        for name, entry in _entries().items()
        if family in (None, entry.recipe.family) and dataset in (None, entry.recipe.data.name)
    }
    if verb is None and where is None:
        return sorted(entries)
    cards = {name: Card.read(entry.card_path) for name, entry in entries.items() if entry.card_path}
    chosen = {name: one for name, one in cards.items() if verb is None or verb in one.verbs}
    for metric, holds, limit in _conditions(where):
        measured = {full for one in cards.values() for full in one.metrics}
        if cards and not any(full.startswith(metric) for full in measured):
            raise InputError(
                f"No entry has this metric. {suggest(metric, measured)} Received: {metric!r}"
            )
        chosen = {
            name: one
            for name, one in chosen.items()
            if (values := _values(one, metric)) and all(holds(value, limit) for value in values)
        }
    return sorted(chosen)


def card(name: str) -> Card:
    """What the entry is and how good it was measured.

    Raises:
        InputError: No such entry, or it has not been trained.
    """
    return Card.read(_trained(name)[0])


def recipe(name: str) -> Recipe:
    """How the entry is made.

    Raises:
        InputError: No such entry.
    """
    return _entry(name).recipe


def create(name: str) -> keras.Model:
    """The untrained model of an entry, built and compiled by its recipe.

    Build it inside `strategy.scope()` to train it on several devices. Its data set is only
    loaded where the recipe standardises tables or the entry has no card.

    Raises:
        InputError: No such entry, or a recipe that does not build.
    """
    entry = _entry(name)
    from kerasunsup.building import create_model

    chosen = entry.recipe
    if entry.card_path and not chosen.train.standardize:
        known = Card.read(entry.card_path)
        shape, value_range = known.input.shape, known.input.value_range
        return create_model(chosen, shape, value_range, class_names=known.class_names)
    source = chosen.data.load()
    model = create_model(
        chosen, source.input_shape, source.value_range, class_names=source.class_names
    )
    if chosen.train.standardize:
        model.adapt(source.batched("train", chosen.train.batch_size))
    return model


def load(name: str) -> keras.Model:
    """The trained model of an entry, compiled by its recipe: predict, finetune, go on training.

    Raises:
        InputError: No such entry, or it has not been trained.
        IntegrityError: A file differs from its card.
    """
    folder = saved_model(name)
    import keras

    from kerasunsup.building import compile_model, import_modules
    from kerasunsup.export import KERAS_FILE

    chosen = recipe(name)
    import_modules(chosen)
    model = keras.saving.load_model(folder / KERAS_FILE, safe_mode=True)
    if not model.compiled:
        compile_model(model, chosen)
    return model


def saved_model(name: str) -> Path:
    """Folder of the entry's newest SavedModel, every file checked against the card's sha256.

    Raises:
        InputError: No such entry, or it has not been trained.
        IntegrityError: A file differs from its card.
    """
    card_path, models = _trained(name)
    folder = models / str(Card.read(card_path).version)
    check_folder(folder, card_path)
    return folder


def register(recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str]) -> str:
    """Adds an entry of your own for this process, in place of one registered before.

    Args:
        recipe: A recipe (TOML file, dict or Recipe), or the folder of a trained run, whose model
            `load` and `saved_model` then find.

    Returns:
        The name of the entry.

    Raises:
        InputError: A bad recipe, or the name of a shipped entry.
    """
    entry = _read_entry(recipe)
    name = entry.recipe.name
    if (_shipped_folder(name) / "card.json").is_file():
        raise InputError(
            "A recipe cannot take the name of a shipped entry: give it another `name`. "
            f"Received: {name!r}"
        )
    _registered[name] = entry
    return name


def verify(name: str | None = None) -> list[str]:
    """Hashes every file of one entry, or of all trained ones.

    Returns:
        Names of the entries that were checked.

    Raises:
        InputError: No such entry, or it has not been trained.
        IntegrityError: Names the first file that differs from its card.
    """
    names = (
        [name]
        if name is not None
        else [n for n, entry in sorted(_entries().items()) if entry.card_path]
    )
    for one in names:
        saved_model(one)
    if name is None:
        _check_orphans(names)
    return names


# Entries


def _entries() -> dict[str, Entry]:
    folders = sorted(path.parent for path in (catalogue.root() / "zoo").glob("*/recipe.toml"))
    shipped = {folder.name: _shipped(folder) for folder in folders}
    return {**_plugins(), **shipped, **_registered}


def _entry(name: str) -> Entry:
    if not isinstance(name, str) or re.search(r"[/\\]|\.toml$|^\.", name):
        raise InputError(
            "Expected the name of an entry, not a path: an entry of the same name has other "
            "weights. Register a recipe or a run first, name = zoo.register(path). "
            f"Received: {name!r}"
        )
    if name in _registered:
        return _registered[name]
    if name and (_shipped_folder(name) / "recipe.toml").is_file():
        return _shipped(_shipped_folder(name))
    if name in _plugins():
        return _plugins()[name]
    raise InputError(f"No such entry. {suggest(name, _entries())} Received: {name!r}")


def _trained(name: str) -> tuple[Path, Path]:
    """The card's path and the folder of versions of a trained entry."""
    entry = _entry(name)
    if entry.card_path is None or entry.models is None:
        raise InputError(
            "This entry has a recipe but has not been trained here. Train it with "
            f"kerasunsup.train(zoo.recipe({name!r}), out='runs/{name}'), then "
            f"zoo.register('runs/{name}'). Received: {name!r}"
        )
    return entry.card_path, entry.models


def _shipped_folder(name: str) -> Path:
    return catalogue.root() / "zoo" / name


def _shipped(folder: Path) -> Entry:
    loaded = Recipe.load(folder)
    if loaded.name != folder.name:
        raise IntegrityError(f"{folder} must hold the recipe of its name. Received: {loaded.name}")
    card_path = folder / "card.json"
    if not card_path.is_file():
        return Entry(loaded)
    return Entry(loaded, card_path, catalogue.root() / "saved_models" / folder.name)


def _read_entry(source: Recipe | Mapping[str, Any] | str | os.PathLike[str]) -> Entry:
    """A recipe, or the folder of a run: recipe.toml, card.json, saved_model/<version>/."""
    loaded = Recipe.load(source)
    if isinstance(source, str | os.PathLike) and Path(source).is_dir():
        card_path = Path(source, "card.json").resolve()
        if card_path.is_file():
            return Entry(loaded, card_path, card_path.parent / "saved_model")
    return Entry(loaded)


@functools.cache
def _plugins() -> dict[str, Entry]:
    """Entries of installed packages; one that does not load is named in a warning."""
    found: dict[str, Entry] = {}
    for point in entry_points(group="kerasunsup.zoo"):
        try:
            loaded = point.load()
            single = isinstance(loaded, Recipe | Mapping | str | os.PathLike)
            for source in [loaded] if single else loaded:
                entry = _read_entry(source)
                found[entry.recipe.name] = entry
        except Exception as error:
            warnings.warn(
                f"Entry point {point.name} = {point.value} of the group kerasunsup.zoo does not "
                f"load: {type(error).__name__}: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
    return found


def _check_orphans(known: list[str]) -> None:
    """Raises for what TensorFlow Serving would serve although no card vouches for it."""
    for folder in sorted((catalogue.root() / "saved_models").glob("[!.]*/[!.]*")):
        name = folder.parent.name
        if name not in known or folder.name != str(card(name).version):
            raise IntegrityError(
                f"{folder} is on no entry's card: remove it. Received: an unknown SavedModel"
            )


# where


def _values(card: Card, metric: str) -> list[float]:
    """The metric of that name, or all whose names begin so."""
    names = [metric] if metric in list(card.metrics) else card.metrics
    return [card.metrics[name].value for name in names if name.startswith(metric)]


def _conditions(where: str | None) -> list[tuple[str, Any, float]]:
    """'nll < 231 and mse < 0.02' -> [("nll", operator.lt, 231.0), …]."""
    found = []
    for part in re.split(r"(?i)\s+and\s+", where.strip()) if where is not None else []:
        match = re.fullmatch(
            r"\s*([A-Za-z][\w.]*)\s*(<=|>=|==|!=|<|>)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*",
            part,
            re.IGNORECASE,
        )
        if not match:
            raise InputError(
                "`where` must be metric, comparison, number, joined by `and`: "
                f"'nll < 231 and mse <= 0.02'. Received: {where!r}"
            )
        found.append((match[1], _COMPARISONS[match[2]], float(match[3])))
    return found
