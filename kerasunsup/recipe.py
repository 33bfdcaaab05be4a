"""Recipes: how an entry is made, as data. TOML in, frozen dataclasses out; no TensorFlow."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

import tomli_w

from kerasunsup.errors import InputError
from kerasunsup.protocols import find

if TYPE_CHECKING:
    from kerasunsup.data import Dataset


def _at_least(minimum: int, default: Any = MISSING) -> Any:
    return field(default=default, metadata={"minimum": minimum})


def _one_of(*choices: str) -> Any:
    return field(default=choices[0], metadata={"choices": choices})


@dataclass(frozen=True)
class DataSpec:
    """`[data]`: what `kerasunsup.data.load` takes, and which part is trained on.

    Attributes:
        normal_class: The class that counts as normal; train and validation hold it alone.
        labelled: Labelled examples that train keeps, equally many of each class; drawn by `seed`.
    """

    name: str
    data_dir: str | None = None
    validation: int | float | None = None
    seed: int = _at_least(0, 0)
    normal_class: int | None = _at_least(0, None)
    labelled: int | None = _at_least(2, None)

    def load(self) -> Dataset:
        """The data set, cut to what is trained on."""
        from kerasunsup import data

        given = {name: getattr(self, name) for name in ("data_dir", "validation", "seed")}
        options = {name: value for name, value in given.items() if value is not None}
        loaded = data.load(self.name, **options)
        if self.normal_class is not None:
            loaded = loaded.only_class(self.normal_class)
        return loaded if self.labelled is None else loaded.only_labelled(self.labelled, self.seed)


@dataclass(frozen=True)
class ModelSpec:
    """`[model]`: a registered class and its arguments; tables with `builder` are networks."""

    class_name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class TrainSpec:
    """`[train]`: epochs and what is done between them.

    Attributes:
        epochs: Passes over the train split.
        batch_size: Examples in a step, over all replicas.
        precision: Keras' dtype policy of the networks: "float32", "mixed_bfloat16" or
            "mixed_float16". Weights, losses and statistics stay float32.
        seed: Of weights, noise and the order of examples.
        picture_every: Epochs between pictures; 0 for none.
        fcd_every: Epochs between measurements of 2,000 samples (fcd_relative); 0 for none.
        checkpoint_every: Steps between checkpoints. With 0 they are written at the ends of epochs
            alone, as often as takes at most 5 % of the time.
        patience: Epochs without a better validation loss after which training stops.
        standardize: Normalise the columns of tables.
        weight_bits: Significant bits that trained weights are rounded to before they are exported,
            so that packages and repositories compress them: 10 leave half the bytes. None keeps
            all 24.
    """

    epochs: int = _at_least(1)
    batch_size: int = _at_least(1, 128)
    precision: str = _one_of("float32", "mixed_bfloat16", "mixed_float16")
    seed: int = _at_least(0, 0)
    picture_every: int = _at_least(0, 0)
    fcd_every: int = _at_least(0, 0)
    checkpoint_every: int = _at_least(0, 0)
    patience: int | None = _at_least(1, None)
    standardize: bool = False
    weight_bits: int | None = _at_least(8, None)


@dataclass(frozen=True)
class EvaluateSpec:
    """`[evaluate]`: names of protocols."""

    protocols: tuple[str, ...] = ()


@dataclass(frozen=True)
class Published:
    """`[[published]]`: a number from the literature that stands beside ours."""

    name: str
    metric: str
    value: float
    source: str
    std: float | None = None


@dataclass(frozen=True)
class Recipe:
    """How an entry is made: data, model, optimiser, training, evaluation.

    Attributes:
        name: Name of the entry: letters, digits, `_` and `-`.
        family: Family of models, for example "vae".
        data: What `kerasunsup.data.load` takes.
        model: Registered class and arguments.
        train: Epochs, batch size, seed.
        version: Raised by one with every retraining.
        description: One sentence.
        license: SPDX identifier of the trained weights' licence.
        references: Papers.
        modules: Python modules imported before classes are looked up; they register the user's
            own classes and builders with Keras.
        compile: Arguments of `model.compile`; `optimizer` is a table.
        evaluate: Protocols measured after training.
        published: Numbers from the literature.
    """

    name: str
    family: str
    data: DataSpec
    model: ModelSpec
    train: TrainSpec
    version: int = _at_least(1, 1)
    description: str = ""
    license: str = ""
    references: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    compile: Mapping[str, Any] = field(default_factory=dict)
    evaluate: EvaluateSpec = EvaluateSpec()
    published: tuple[Published, ...] = ()

    @classmethod
    def load(cls, source: Recipe | Mapping[str, Any] | str | os.PathLike[str]) -> Recipe:
        """Reads and checks a recipe.

        Args:
            source: A TOML file, a folder with a recipe.toml, a dict of the same shape, or a
                Recipe, which is returned as it is.

        Raises:
            InputError: Not readable, not TOML, an unknown or missing key, a wrong type or value.
        """
        if isinstance(source, Recipe):
            return source
        if isinstance(source, Mapping):
            return _recipe_from(source)
        if not isinstance(source, str | os.PathLike):
            raise InputError(
                "A recipe must be a path, a dict or a Recipe. "
                f"Received: {type(source).__name__} {source!r}"
            )
        path = Path(source)
        path = path / "recipe.toml" if path.is_dir() else path
        table = _read_toml(path)
        try:
            return _recipe_from(table)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    def override(self, assignments: Iterable[str]) -> Recipe:
        """A recipe with some keys changed.

        Args:
            assignments: "dotted.key=value" each; values are TOML, bare words are strings.

        Raises:
            InputError: No "=", an unknown key, a wrong type or value.
        """
        table = self.to_dict()
        for assignment in assignments:
            key, equals, text = assignment.partition("=")
            if not equals or not key.strip():
                raise InputError(
                    f"An override must look like train.epochs=3. Received: {assignment!r}"
                )
            _assign(table, key.strip(), _toml_value(text.strip()))
        return _recipe_from(table)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as the tables of its TOML file, defaults included, unset keys left out."""
        table: dict[str, Any] = _plain(self)
        table["model"] = {"class": self.model.class_name, **_plain(self.model.arguments)}
        return table

    def to_toml(self) -> str:
        """The text of a recipe.toml that reads as an equal recipe."""
        return tomli_w.dumps(self.to_dict())

    def differences(self, other: Recipe) -> list[str]:
        """Dotted keys in which two recipes differ, sorted."""
        mine, theirs = _flatten(self.to_dict()), _flatten(other.to_dict())
        keys = mine.keys() | theirs.keys()
        return sorted(key for key in keys if mine.get(key, MISSING) != theirs.get(key, MISSING))


def suggest(wrong: str, valid: Iterable[str]) -> str:
    """The part of an error message that names the closest valid names, or all of them."""
    valid = sorted(valid)
    close = difflib.get_close_matches(wrong, valid, 3, 0.6)
    if close:
        return f"Did you mean {' or '.join(f'`{name}`' for name in close)}?"
    return f"Expected one of: {', '.join(valid)}."


# Reading


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            "Expected the path of a recipe (a TOML file). For the recipe of an entry: "
            f"kerasunsup.zoo.recipe(name). Received: {path}, which does not exist"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} must be valid TOML. Received: {error}") from error
    except OSError as error:
        raise InputError(f"Cannot read {path}. Received: {error.strerror}") from error


def _recipe_from(table: Mapping[str, Any]) -> Recipe:
    recipe: Recipe = _convert_table(table, Recipe, "")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", recipe.name):
        raise InputError(
            "`name` must be made of letters, digits, `_` and `-`: it names a folder. "
            f"Received: {recipe.name!r}"
        )
    for protocol in recipe.evaluate.protocols:
        try:
            find(protocol)
        except InputError as error:
            raise InputError(f"`evaluate.protocols`: {error}") from error
    return recipe


def _convert_table(table: Any, cls: Any, key: str) -> Any:
    """A table as an instance of the dataclass `cls`; `key` is the dotted name of the table."""
    if not isinstance(table, Mapping):
        raise _wrong_type(key, "a table", table)
    if cls is ModelSpec:
        arguments = _toml_table(table, key)
        name = arguments.pop("class", MISSING)
        if not isinstance(name, str):
            raise _wrong_type("model.class", "a string, the registered name of a class", name)
        return ModelSpec(name, arguments)
    hints = get_type_hints(cls)
    known = {item.name: item for item in fields(cls)}
    for name in table:
        if name not in known:
            raise InputError(
                f"`{_join(key, name)}` is no key of a recipe. {_hint(str(name), key, known)} "
                f"Received: {_join(key, name)} = {table[name]!r}"
            )
    values = {}
    for name, item in known.items():
        dotted = _join(key, name)
        if name in table:
            values[name] = _convert(table[name], hints[name], dotted)
            minimum = item.metadata.get("minimum")
            if minimum is not None and values[name] is not None and values[name] < minimum:
                raise InputError(f"`{dotted}` must be at least {minimum}. Received: {values[name]}")
            choices = item.metadata.get("choices", (values[name],))
            if values[name] not in choices:
                raise InputError(
                    f"`{dotted}` must be one of {', '.join(choices)}. Received: {values[name]!r}"
                )
        elif item.default is MISSING and item.default_factory is MISSING:
            raise InputError(f"`{dotted}` is missing. Received: keys {sorted(map(str, table))}")
    return cls(**values)


_NOUNS = {str: "a string", bool: "true or false", int: "an integer", float: "a number"}


def _convert(value: Any, expected: Any, key: str) -> Any:
    """`value` as the annotated type `expected`, or an error that names `key`."""
    if is_dataclass(expected):
        return _convert_table(value, expected, key)
    if get_origin(expected) is tuple:
        if not isinstance(value, list | tuple):
            raise _wrong_type(key, "an array", value)
        item = get_args(expected)[0]
        return tuple(_convert(one, item, f"{key}[{i}]") for i, one in enumerate(value))
    if get_origin(expected) is Mapping:
        if not isinstance(value, Mapping):
            raise _wrong_type(key, "a table", value)
        return _toml_table(value, key)
    kinds = get_args(expected) if isinstance(expected, UnionType) else (expected,)
    if value is None and type(None) in kinds:
        return None
    if type(value) in kinds:
        return value
    if type(value) is int and float in kinds:
        return float(value)
    nouns = [_NOUNS[kind] for kind in kinds if kind is not type(None)]
    raise _wrong_type(key, " or ".join(nouns), value)


def _toml_table(table: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A copy of a free table whose values TOML can hold."""
    return {name: _toml_copy(value, _join(key, name)) for name, value in table.items()}


def _toml_copy(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        return _toml_table(value, key)
    if isinstance(value, list | tuple):
        return [_toml_copy(one, f"{key}[{i}]") for i, one in enumerate(value)]
    if isinstance(value, str | bool | int | float):
        return value
    raise _wrong_type(key, "a string, number, boolean, array or table", value)


def _wrong_type(key: str, expected: str, value: Any) -> InputError:
    received = "nothing" if value is MISSING else f"{type(value).__name__} {value!r}"
    return InputError(f"`{key or 'recipe'}` must be {expected}. Received: {received}")


def _hint(name: str, table: str, known: Iterable[str]) -> str:
    """Where a misspelt or misplaced key belongs."""
    tables = {"": Recipe, "data": DataSpec, "train": TrainSpec, "evaluate": EvaluateSpec}
    elsewhere = [
        _join(other, name)
        for other, cls in tables.items()
        if other != table and name in {item.name for item in fields(cls)}
    ]
    if elsewhere:
        return f"Did you mean `{elsewhere[0]}`?"
    return suggest(name, known)


def _join(table: str, name: Any) -> str:
    return f"{table}.{name}" if table else str(name)


# Overriding and writing


def _toml_value(text: str) -> Any:
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return table["value"] if len(table) == 1 else text


def _assign(table: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for depth, name in enumerate(parents):
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise InputError(
                f"`{'.'.join(parents[: depth + 1])}` is no table. Received: {key} = {value!r}"
            )
    table[last] = value


def _plain(value: Any) -> Any:
    """Nested dicts and lists; keys without a value and empty ones of a dataclass are left out."""
    if is_dataclass(value):
        items = {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
        return {name: item for name, item in items.items() if item not in (None, "", [], {})}
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flatten(value, _join(prefix, name)))
        else:
            flat[_join(prefix, name)] = value
    return flat
