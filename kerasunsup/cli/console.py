"""What commands share: where they print, tables of metrics, TensorFlow without its log noise."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.table import Table

from kerasunsup.errors import InputError, KerasunsupError
from kerasunsup.metrics import Metric

if TYPE_CHECKING:
    from kerasunsup.export import ServedModel
    from kerasunsup.recipe import Recipe

WIDTH_OF_PIPES = 240

own_modules: tuple[str, ...] = ()
"""Modules that `--module` names: they register the user's classes with Keras."""


def new_console(stderr: bool = False) -> Console:
    """A console as wide as the terminal, or wide enough for a line a row where there is none."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else WIDTH_OF_PIPES
    return Console(file=stream, width=width, highlight=False)


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """Prints a table to stdout; the first column is never wrapped."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for i, name in enumerate(header):
        table.add_column(name, no_wrap=i == 0, overflow="fold")
    for row in rows:
        table.add_row(*(cell.replace("[", r"\[") for cell in row))
    new_console().print(table)


def print_metrics(
    metrics: Mapping[str, Metric],
    card: Mapping[str, Metric] | None = None,
    protocols: bool = False,
) -> None:
    """Prints measured numbers beside their baselines.

    Args:
        metrics: What was measured.
        card: What a card says, for a column beside it.
        protocols: Whether to say how each number was measured.
    """
    from kerasunsup.zoo.pages import measurement

    header = ["metric", "measured", *(["card"] if card is not None else []), "baselines"]
    rows = []
    for name, metric in metrics.items():
        row = [name, measurement(metric.value, metric.std)]
        if card is not None:
            row.append(measurement(card[name].value, card[name].std))
        baselines = (f"{who} {measurement(v, None)}" for who, v in metric.baselines.items())
        row.append(", ".join(baselines))
        rows.append([*row, metric.protocol, str(metric.n)] if protocols else row)
    print_table([*header, "protocol", "n"] if protocols else header, rows)


@contextlib.contextmanager
def busy(what: str, stream: TextIO | None = None) -> Iterator[None]:
    """Shows a spinner on a terminal while the block runs."""
    console = Console(file=stream or sys.stderr)
    with console.status(what) if console.is_terminal else contextlib.nullcontext():
        yield


def load_tensorflow() -> None:
    """Imports TensorFlow without the lines that it logs while it starts.

    They come back with TF_CPP_MIN_LOG_LEVEL=0 in the environment, and when the import fails.
    """
    level = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if level == "0" or "tensorflow" in sys.modules:
        return
    sys.stderr.flush()
    with os.fdopen(os.dup(2), "w") as terminal, tempfile.TemporaryFile() as hidden:
        try:
            os.dup2(hidden.fileno(), 2)
            with busy("Loading TensorFlow…", terminal):
                import tensorflow as tf
            tf.get_logger().setLevel("ERROR")
        except Exception:
            hidden.seek(0)
            terminal.write(hidden.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(terminal.fileno(), 2)


# Entries and folders


def is_entry(source: str) -> bool:
    """Whether `source` names an entry. An entry goes before a folder of its name.

    Raises:
        InputError: Neither an entry nor a path; the closest names are suggested.
    """
    from kerasunsup import zoo

    like_a_path = source.startswith((".", "~")) or os.sep in source or source.endswith(".toml")
    exists = Path(source).expanduser().exists()
    if like_a_path:
        if not exists:
            raise InputError(f"Expected an entry's name or a path. Received: {source} (not found)")
        return False
    if exists:
        return source in zoo.list_models()
    zoo.recipe(source)
    return True


def find_recipe(source: str) -> Recipe:
    """The recipe of an entry, of a TOML file or of a run folder."""
    from kerasunsup import zoo
    from kerasunsup.recipe import Recipe

    return zoo.recipe(source) if is_entry(source) else Recipe.load(Path(source).expanduser())


def find_saved_model(source: str) -> tuple[Path, Recipe | None]:
    """The SavedModel of an entry, a run or a folder, and the recipe where one is known."""
    from kerasunsup import zoo
    from kerasunsup.evaluation import saved_model_folder
    from kerasunsup.recipe import Recipe

    if is_entry(source):
        return zoo.saved_model(source), zoo.recipe(source)
    folder = Path(source).expanduser()
    known = (folder / "recipe.toml").is_file()
    if known and (folder / "checkpoint").is_dir():
        raise InputError(
            f"The run in {folder} is not finished. Go on with: kerasunsup train {folder} --resume"
        )
    return saved_model_folder(folder), Recipe.load(folder) if known else None


def load_served(folder: Path, recipe: Recipe | None) -> ServedModel:
    """Loads a SavedModel.

    Raises:
        InputError: Not one of ours, or damaged.
    """
    load_tensorflow()
    with busy(f"Loading {folder}"), readable(folder):
        from kerasunsup.export import ServedModel

        register_classes(recipe)
        return ServedModel(folder)


def register_classes(recipe: Recipe | None) -> None:
    """Registers our classes with Keras, those of a recipe and those of `--module`.

    Raises:
        InputError: A module cannot be imported.
    """
    from kerasunsup import networks  # noqa: F401  registers its layers
    from kerasunsup.building import import_modules, import_named

    if recipe is not None:
        import_modules(recipe)
    import_named(own_modules, "--module")


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns whatever TensorFlow and Keras raise for a damaged file into one line."""
    try:
        yield
    except KerasunsupError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        reason = reason.partition(" Full object config")[0]
        if reason.startswith("Could not locate class"):
            raise InputError(
                f"{path} needs classes of your own: name the module that registers them with "
                f"Keras, kerasunsup --module NAME …. Received: {reason.partition('. ')[0]}"
            ) from error
        raise InputError(
            f"Cannot load {path}: it is damaged or was not written by kerasunsup; train or export "
            f"it again. Received: {reason}"
        ) from error
