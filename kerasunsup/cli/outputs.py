"""Where the result of a verb goes: .npy, .npz, .csv, a PNG, or a folder of PNGs."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import TYPE_CHECKING

from kerasunsup.errors import InputError, OutputError
from kerasunsup.files import atomic_file, atomic_folder

if TYPE_CHECKING:
    import numpy as np

SUFFIXES = (".npy", ".npz", ".csv", ".png")


def check_target(path: Path) -> None:
    """Raises before any work is done if the result could not be written.

    Raises:
        InputError: An unknown kind of file, or a folder that holds something.
        OutputError: No folder to write to.
    """
    if path.suffix and path.suffix.lower() not in SUFFIXES and not path.is_dir():
        raise InputError(
            f"Expected an output that ends in {', '.join(SUFFIXES)}, or a folder for PNGs. "
            f"Received: {path}"
        )
    if is_folder(path):
        if path.is_dir() and any(path.iterdir()):
            raise InputError(f"Expected a new or an empty folder for PNGs. Received: {path}")
    elif path.is_dir():
        raise InputError(f"Expected a file. Received: {path}, a folder")
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise OutputError(f"Cannot write {path}: {parent} is a file, not a folder.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"Cannot write {path}: {parent} is read-only. Choose another folder.")


def is_folder(path: Path) -> bool:
    """Whether `path` stands for a folder of PNGs."""
    return path.suffix.lower() not in SUFFIXES


def is_picture(path: Path) -> bool:
    """Whether the result must be images."""
    return is_folder(path) or path.suffix.lower() == ".png"


def write(outputs: dict[str, np.ndarray], path: Path) -> None:
    """Writes the named outputs of a verb, atomically.

    .npy and pictures hold the first output, .npz and .csv all of them; in a .csv, an output of
    several values per example has a column for each, `latent_0`, `latent_1` and so on.

    Raises:
        InputError: A picture of what is no image.
        OutputError: The file or folder cannot be written.
    """
    import numpy as np

    from kerasunsup import mosaic, pictures

    first = next(iter(outputs.values()))
    match path.suffix.lower():
        case ".npy":
            with atomic_file(path) as temporary:
                np.save(temporary, first)
        case ".npz":
            with atomic_file(path) as temporary:
                np.savez_compressed(temporary, **outputs)  # type: ignore[arg-type]
        case ".csv":
            with atomic_file(path) as temporary, open(temporary, "w", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows(_rows(outputs))
        case ".png":
            pictures.grid(_clipped(first), path)
        case _:
            pixels = mosaic.as_pixels(_clipped(first))
            digits = len(str(len(pixels) - 1))
            with atomic_folder(path) as folder:
                for i, image in enumerate(pixels):
                    mosaic.as_image(image).save(folder / f"{i:0{digits}}.png")


def _rows(outputs: dict[str, np.ndarray]) -> list[list[str]]:
    """Header and rows; numbers as short as they can be read back exactly."""
    header, columns = [], []
    for name, values in outputs.items():
        flat = values.reshape(len(values), -1)
        one = values.ndim == 1
        header += [name] if one else [f"{name}_{i}" for i in range(flat.shape[1])]
        columns += list(flat.astype(str).T)
    return [header, *map(list, zip(*columns, strict=True))]


def _clipped(images: np.ndarray) -> np.ndarray:
    """Images in [0, 1]: a decoder without a sigmoid may leave it by a little."""
    return images.clip(0.0, 1.0)
