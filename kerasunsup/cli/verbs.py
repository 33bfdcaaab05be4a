"""One command for each verb that a model has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kerasunsup.cli import outputs
from kerasunsup.cli.console import busy, find_saved_model, load_served
from kerasunsup.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from kerasunsup.export import ServedModel

# Every verb of `models.verbs.VOCABULARY` that a family has (read here without TensorFlow).
INPUT_VERBS = {
    "encode": "Examples to latents.",
    "decode": "Latents to examples.",
    "reconstruct": "Examples to their reconstructions.",
    "score": "Examples to anomaly scores: higher is stranger.",
    "classify": "Examples to class probabilities and the likeliest class.",
}
OUTPUTS = {  # in this order: a SavedModel does not keep one
    "encode": ("latent", "log_variance"),
    "decode": ("reconstruction",),
    "reconstruct": ("reconstruction",),
    "generate": ("samples",),
    "score": ("score", "probability", "is_anomaly"),
    "classify": ("label", "probabilities"),
    "discriminate": ("logit",),
}
PICTURES = ("reconstruction", "samples")
CHUNK = 4096

Source = Annotated[
    str,
    typer.Argument(metavar="NAME|DIR", help="An entry (./NAME for a folder), a run, a SavedModel."),
]


Inputs = Annotated[
    Path,
    typer.Argument(metavar="INPUT", help=".npy .npz .csv .parquet .png .jpg or a folder."),
]
Out = Annotated[
    Path, typer.Option("-o", "--out", help=".npy .npz .csv, .png or a folder for images.")
]


def command(verb: str) -> Callable[..., None]:
    """The command of a verb that takes examples or latents."""

    def run(source: Source, inputs: Inputs, out: Out) -> None:
        _apply(verb, source, inputs, out)

    run.__doc__ = INPUT_VERBS[verb]
    return run


def discriminate(
    source: Source,
    inputs: Inputs,
    out: Out,
    label: Annotated[
        int | None, typer.Option(help="Class of the examples, for a conditional model.")
    ] = None,
) -> None:
    """Examples to a GAN's logits: the larger, the more like its data."""
    _apply("discriminate", source, inputs, out, label)


def generate(
    source: Source,
    out: Annotated[
        Path, typer.Option("-o", "--out", help=".png, .npy, .npz, .csv or a folder for images.")
    ],
    count: Annotated[int, typer.Option(help="How many.")] = 64,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal samples.")] = 0,
    label: Annotated[
        int | None, typer.Option(help="Class, for a conditional model; all in turn if left out.")
    ] = None,
) -> None:
    """Draw samples."""
    if count < 1:
        raise InputError(f"--count must be at least 1. Received: {count}")
    if not 0 <= seed < 2**31:
        raise InputError(f"--seed must be in [0, 2**31). Received: {seed}")
    outputs.check_target(out)
    model = load_served(*find_saved_model(source))
    bound = model.verb("generate")
    _check_picture(model, "generate", out)
    with busy(f"Drawing {count} samples"):
        samples = bound(count, seed, label=label)
    _finish("generate", [samples], out)


def _apply(verb: str, source: str, inputs: Path, out: Path, label: int | None = None) -> None:
    """Runs a verb over a file or folder in pieces, with progress."""
    outputs.check_target(out)
    folder, recipe = find_saved_model(source)
    from kerasunsup.data import read_inputs

    x = read_inputs(inputs)
    model = load_served(folder, recipe)
    bound = model.verb(verb)
    _check_picture(model, verb, out)
    from rich.progress import track

    from kerasunsup.cli.console import new_console

    chunks = [x[start : start + CHUNK] for start in range(0, len(x), CHUNK)]
    console = new_console(stderr=True)
    shown = track(chunks, verb, console=console, transient=True, disable=not console.is_terminal)
    _finish(verb, [bound(chunk, label=label) for chunk in shown], out)


def _check_picture(model: ServedModel, verb: str, out: Path) -> None:
    shape, pictured = model.model.input_shape[1:], OUTPUTS[verb][0] in PICTURES
    if outputs.is_picture(out) and not (pictured and len(shape) == 3):
        what = f"examples of shape {shape}" if pictured else f"the outputs of `{verb}`"
        raise InputError(
            "Pictures are made of images only: write .npy, .npz or .csv. "
            f"Received: {out} for {what}"
        )


def _finish(verb: str, parts: list[dict[str, np.ndarray]], out: Path) -> None:
    import numpy as np

    names = [name for name in OUTPUTS[verb] if name in parts[0]]
    names += sorted(set(parts[0]) - set(names))
    results = {name: np.concatenate([part[name] for part in parts]) for name in names}
    outputs.write(results, out)
    shapes = ", ".join(f"{name} {value.shape}" for name, value in results.items())
    print(f"Wrote {out}: {shapes}")
