"""Commands that make something: train, evaluate, export, data import."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kerasunsup.cli import cluster, console
from kerasunsup.cli.console import (
    busy,
    find_recipe,
    is_entry,
    load_served,
    load_tensorflow,
    print_metrics,
    readable,
    register_classes,
)
from kerasunsup.errors import InputError, KerasunsupError, TrainingError

if TYPE_CHECKING:
    from kerasunsup.card import Card
    from kerasunsup.recipe import Recipe

Source = Annotated[str, typer.Argument(metavar="NAME|DIR", help="An entry, or a run's folder.")]


def train(
    source: Annotated[
        str, typer.Argument(metavar="NAME|RECIPE", help="An entry, a recipe.toml or a run.")
    ],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder of the run [runs/NAME].")
    ] = None,
    strategy: Annotated[
        str, typer.Option(help="auto, none, mirrored, multiworker or tpu.")
    ] = "auto",
    workers: Annotated[
        int | None,
        typer.Option(min=2, metavar="N", help="Try it on a cluster of N processes here, on CPU."),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe: train.epochs=3."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a stopped run.")] = False,
    reset: Annotated[bool, typer.Option("--reset", help="Replace the run in the folder.")] = False,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Bit-identical on GPUs too, if slower.")
    ] = False,
) -> None:
    """Train by a recipe, measure, export the SavedModel and draw what came out."""
    recipe = find_recipe(source).override(assignments or ())
    if resume and out is None and not is_entry(source) and Path(source).is_dir():
        out = Path(source)
    if workers:
        given = {"--resume": resume, "--reset": reset, "--deterministic": deterministic}
        cluster.run(
            workers,
            [
                *(part for name in console.own_modules for part in ("--module", name)),
                *("train", source, "--strategy", "multiworker"),
                *(("-o", str(out)) if out is not None else ()),
                *(part for text in assignments or () for part in ("--set", text)),
                *(flag for flag, wanted in given.items() if wanted),
            ],
        )
        return
    load_tensorflow()
    from kerasunsup import training

    try:
        run = training.train(
            recipe,
            out,
            strategy=strategy,
            resume=resume,
            reset=reset,
            deterministic=deterministic,
            verbose=1 if sys.stdout.isatty() else 2,
        )
    except TrainingError:
        print(flush=True)  # ends the line of Keras' bar
        raise
    if run.chief:
        print_card(measure(run.folder), run.folder)


def evaluate(source: Source) -> None:
    """Measure an entry or a run again; a run's card.json is written anew."""
    from kerasunsup import zoo

    if not is_entry(source):
        folder = Path(source).expanduser()
        if not (folder / "run.json").is_file():
            raise InputError(
                "Expected an entry's name, or the folder of a finished run (recipe.toml and "
                f"run.json inside). Received: {source}"
            )
        print_card(measure(folder), folder)
        return
    recipe, card, folder = zoo.recipe(source), zoo.card(source), zoo.saved_model(source)
    served = load_served(folder, recipe)
    from kerasunsup.evaluation import evaluate as measure_again

    measured = measure_again(served, recipe.data.load(), list(card.metrics))
    print_metrics(measured, card.metrics)


def export(
    source: Annotated[
        str, typer.Argument(metavar="NAME|DIR", help="An entry, a run's folder, a .keras file.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Where it goes.")],
    form: Annotated[
        str, typer.Option("--format", help="savedmodel, onnx, litert or openvino.")
    ] = "savedmodel",
) -> None:
    """Export a trained Keras model as a SavedModel, or each verb to another runtime's format."""
    file, recipe = _find_keras_file(source)
    if (
        out.exists()
        and not (out / "saved_model.pb").is_file()
        and (out.is_file() or [*out.iterdir()])
    ):
        raise InputError(
            "Expected a new or empty folder, or a SavedModel to replace, as "
            f"models/NAME/1. Received: {out}"
        )
    load_tensorflow()
    import keras

    from kerasunsup import formats
    from kerasunsup.export import export as export_model

    register_classes(recipe)
    with busy(f"Exporting {file}"):
        with readable(file):
            model = keras.saving.load_model(file)
        if form == "savedmodel":
            export_model(model, out)
            print(f"SavedModel: {out} ({', '.join(model.verbs)})")
            return
        written, left_out = formats.convert(model, out, form)
    for verb, difference in written.items():
        print(f"{out}/{verb}{formats.FORMATS[form].suffix}: differs by at most {difference:.1e}")
    for verb, why in left_out.items():
        print(f"left out: {verb}: {why}")


def _find_keras_file(source: str) -> tuple[Path, Recipe | None]:
    """The .keras file of an entry, a run or a path, and the recipe where one is known."""
    from kerasunsup import zoo
    from kerasunsup.recipe import Recipe

    if is_entry(source):
        return zoo.saved_model(source) / "assets.extra" / "model.keras", zoo.recipe(source)
    path = Path(source).expanduser()
    file = path / "model.keras" if path.is_dir() else path
    if file.suffix != ".keras" or not file.is_file():
        raise InputError(
            f"Expected an entry, a run's folder with a model.keras, or a .keras file. "
            f"Received: {source}"
        )
    return file, Recipe.load(path) if (path / "recipe.toml").is_file() else None


def import_data(
    name: Annotated[str, typer.Argument(metavar="NAME", help="fashion_mnist.")],
    folder: Annotated[Path, typer.Argument(help="Folder with the four *-ubyte.gz files.")],
) -> None:
    """Prepare a data set from local files, without network."""
    if name != "fashion_mnist":
        raise InputError(f"Only `fashion_mnist` is imported from files. Received: {name!r}")
    load_tensorflow()
    from kerasunsup.data import import_fashion_mnist

    with busy("Preparing fashion_mnist"):
        prepared = import_fashion_mnist(folder)
    print(f"Prepared: {prepared}")


def measure(folder: Path) -> Card:
    """Measures a finished run from its SavedModel on disk.

    Raises:
        KerasunsupError: Stopped by Ctrl-C; says how to go on.
    """
    load_tensorflow()
    from kerasunsup import zoo

    print("Measuring the SavedModel on disk…", flush=True)
    try:
        return zoo.measure(folder)
    except KeyboardInterrupt:
        raise KerasunsupError(
            f"Stopped while measuring; the trained model is kept. Go on with: "
            f"kerasunsup evaluate {folder}"
        ) from None


def print_card(card: Card, folder: Path) -> None:
    """Prints the metrics of a run and where everything lies."""
    print()
    print_metrics(card.metrics)
    places = {
        "Run": folder,
        "SavedModel": folder / "saved_model" / str(card.version),
        "Picture": folder / "preview.png",
        "Card": folder / "card.json",
    }
    print()
    for what, place in places.items():
        print(f"{what + ':':<12}{place}")
