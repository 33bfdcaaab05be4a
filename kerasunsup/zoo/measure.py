"""A finished run, measured from the SavedModel it will be used by: card.json and preview.png."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerasunsup import __version__
from kerasunsup.card import Card, InputSpec, hash_folder
from kerasunsup.errors import InputError, IntegrityError
from kerasunsup.recipe import Recipe

if TYPE_CHECKING:
    from kerasunsup.data import Dataset
    from kerasunsup.export import ServedModel
    from kerasunsup.models import UnsupervisedModel


def measure(run_folder: str | os.PathLike[str]) -> Card:
    """Loads the SavedModel of a run from disk, measures it, writes card.json and preview.png.

    Args:
        run_folder: Folder that `kerasunsup.train` wrote.

    Returns:
        The card.

    Raises:
        InputError: Not a finished run, or a protocol that does not fit.
        IntegrityError: The data are not those the run was trained on.
        OutputError: The folder cannot be written.
    """
    folder = Path(run_folder)
    recipe = Recipe.load(folder)
    facts = _facts(folder)
    from kerasunsup import pictures
    from kerasunsup.building import import_modules
    from kerasunsup.evaluation import evaluate
    from kerasunsup.export import ServedModel

    data = recipe.data.load()
    if data.fingerprint != facts["data_fingerprint"]:
        raise IntegrityError(
            f"{recipe.data.name} has changed since the run in {folder} was trained: train it "
            f"again with --reset. Received: fingerprint {data.fingerprint}"
        )
    import_modules(recipe)
    saved_model = folder / "saved_model" / str(recipe.version)
    sha256 = hash_folder(saved_model)
    served = ServedModel(saved_model)
    metrics = evaluate(served, data, recipe.evaluate.protocols or None)
    card = Card(
        recipe=recipe,
        verbs=tuple(served.verbs),
        metrics=metrics,
        sha256=sha256,
        input=InputSpec(data.input_shape, "float32", served.model.value_range),
        data_fingerprint=data.fingerprint,
        versions=_versions(),
        wall_time_s=facts["wall_time_s"],
        parameters=facts["parameters"],
        git_commit=_commit(),
        calibration=_calibration(served.model),
        health=_health(served, data, facts),
        class_names=getattr(served.model, "class_names", None) or (),
    )
    pictures.preview(served, data, folder / "preview.png")
    card.write(folder / "card.json")
    return card


def _facts(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"Expected the folder of a finished run. Go on with one that was stopped: "
            f"kerasunsup train {folder} --resume. Received: {folder}, whose run.json cannot be read"
        ) from error


def _health(served: ServedModel, data: Dataset, facts: dict[str, Any]) -> tuple[str, ...] | None:
    """Findings about a GAN on test data and at the end of its training; of other models the latter,
    None if there were none.
    """
    if "discriminate" not in served.verbs:
        return tuple(facts.get("health", ())) or None
    from kerasunsup.health import examine

    return (*facts.get("health", []), *examine(served, data, "test")[0])


def _versions() -> dict[str, str]:
    installed = {name: version(name) for name in ("tensorflow", "keras")}
    return {"python": platform.python_version(), **installed, "kerasunsup": __version__}


def _calibration(model: UnsupervisedModel) -> dict[str, float]:
    anomaly = getattr(model, "anomaly", None)
    threshold = math.nan if anomaly is None else float(anomaly.threshold.numpy())
    return {"anomaly_threshold": threshold} if math.isfinite(threshold) else {}


def _commit() -> str | None:
    """Commit of the checkout that this code runs from, None where it is installed from a wheel."""
    package = Path(__file__).parents[1]
    tracked = _git(package, "ls-files", "--error-unmatch", "__init__.py") is not None
    return _git(package, "rev-parse", "HEAD") if tracked else None


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints, None where it fails or is not installed."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip() or None
