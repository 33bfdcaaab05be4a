"""One command for each verb that a model has."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kerasunsup.cli import outputs
from kerasunsup.cli.console import busy, find_saved_model, load_served
from kerasunsup.errors import InputError, KerasunsupError

if TYPE_CHECKING:
    import numpy as np

    from kerasunsup.cli.parts import Parts
    from kerasunsup.export import ServedModel

# Every verb of `models.verbs.VOCABULARY` that a family has (read here without TensorFlow).
INPUT_VERBS = {
    "encode": "Examples to latents.",
    "decode": "Latents, or codes, to examples.",
    "reconstruct": "Examples to their reconstructions.",
    "score": "Examples to anomaly scores: higher is stranger.",
    "classify": "Examples to the likeliest class, its name and all probabilities.",
    "predict": "Examples to the values of a regression.",
}
OUTPUTS = {  # in this order: a SavedModel does not keep one
    "encode": ("latent", "log_variance", "codes"),
    "decode": ("reconstruction",),
    "reconstruct": ("reconstruction",),
    "generate": ("samples",),
    "score": ("score", "probability", "is_anomaly"),
    "classify": ("label", "class_name", "probabilities"),
    "predict": ("prediction",),
    "discriminate": ("logit",),
}
PICTURES = ("reconstruction", "samples")
CHUNK = 1024  # examples in memory

Source = Annotated[
    str,
    typer.Argument(metavar="NAME|DIR", help="An entry (./NAME for a folder), a run, a SavedModel."),
]


Inputs = Annotated[
    Path,
    typer.Argument(metavar="INPUT", help=".npy .npz .csv .parquet .png .jpg or a folder."),
]
Out = Annotated[
    Path, typer.Option("-o", "--out", help=".npy .npz .csv .parquet; .png or a folder for images.")
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
    out: Out,
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
    _report(outputs.write([samples], out, range(count)), out)


def _apply(verb: str, source: str, inputs: Path, out: Path, label: int | None = None) -> None:
    """Runs a verb over a file or folder in parts, with progress; goes on where it was stopped."""
    outputs.check_target(out)
    folder, recipe = find_saved_model(source)
    from kerasunsup.card import hash_folder
    from kerasunsup.cli import parts as kept
    from kerasunsup.data import image_files, open_inputs

    files = image_files(inputs)
    rows = None if files else open_inputs(inputs, scratch=outputs.nearest_folder(out))
    count = len(files) if rows is None else rows.count
    model = load_served(folder, recipe)
    bound = model.verb(verb)
    _check_picture(model, verb, out)
    import numpy as np

    def answer(first: int, last: int) -> kept.Part:
        places = np.arange(first, last)
        if rows is not None:
            return kept.Part(bound(rows.read(places), label=label), places, {})
        results, failed = model.from_files(verb, files[first:last], label)
        read = np.delete(places, list(failed))
        if outputs.takes_names(out):
            results = {"file": np.array([_name(files[i], inputs) for i in read]), **results}
        return kept.Part(results, read, {first + i: why for i, why in failed.items()})

    job = {
        "verb": verb,
        "label": label,
        "model": hash_folder(folder),
        "inputs": kept.identity(files or [inputs.expanduser()]),
        "size": CHUNK,
        "names": outputs.takes_names(out),
    }
    parts = kept.Parts(out, job, ("file", *OUTPUTS.get(verb, ())))
    kept.run(parts, count, CHUNK, answer, lambda starts: _progress(verb, starts, count))
    _finish(parts, out, files)


def _progress(verb: str, starts: range, count: int) -> Iterable[int]:
    """Yields the numbers, with a bar on a terminal."""
    from rich.progress import track

    from kerasunsup.cli.console import new_console

    console = new_console(stderr=True)
    done = 0 if not starts else starts[0] // CHUNK
    return track(
        starts,
        verb,
        total=-(-count // CHUNK),
        completed=done,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _finish(parts: Parts, out: Path, files: list[Path]) -> None:
    """Writes the answer from its parts; lists the files that could not be read.

    Raises:
        InputError: No file could be read.
        KerasunsupError: Some could not.
    """
    failed = {files[i]: why for part in parts for i, why in part.failed.items()}
    import numpy as np

    places = np.concatenate([part.places for part in parts])
    if not len(places):
        parts.remove()
        path, why = next(iter(failed.items()))
        raise InputError(f"{path} must be a PNG or JPEG image. Received: {why}")
    answered = _Answered(parts)
    _report(outputs.write(answered, out, places), out)
    parts.remove()
    for path, why in failed.items():
        print(f"left out: {path}: {why}", file=sys.stderr)
    if failed:
        raise KerasunsupError(
            f"{len(failed):,} of {len(failed) + len(places):,} images could not be read and were "
            f"left out of {out}; they are listed above."
        )


class _Answered:
    """The outputs of parts that have any, to be iterated over again and again."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return (dict(part.outputs) for part in self.parts if len(part))


def _report(shapes: dict[str, tuple[int, ...]], out: Path) -> None:
    print(f"Wrote {out}: {', '.join(f'{name} {shape}' for name, shape in shapes.items())}")


def _name(file: Path, inputs: Path) -> str:
    """How a result calls an image file: its path in the folder that was given."""
    inputs = inputs.expanduser()
    return file.relative_to(inputs).as_posix() if inputs.is_dir() else file.name


def _check_picture(model: ServedModel, verb: str, out: Path) -> None:
    shape, pictured = model.model.input_shape[1:], OUTPUTS[verb][0] in PICTURES
    if outputs.is_picture(out) and not (pictured and len(shape) == 3):
        what = f"examples of shape {shape}" if pictured else f"the outputs of `{verb}`"
        raise InputError(
            "Pictures are made of images only: write .npy, .npz or .csv. "
            f"Received: {out} for {what}"
        )
