"""Where the result of a verb goes: .npy, .npz, .csv, .parquet, a PNG, or a folder of PNGs.

Everything is written part by part, so that a result may be larger than memory.
"""

from __future__ import annotations

import csv
import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerasunsup.errors import InputError, OutputError
from kerasunsup.files import atomic_file, atomic_folder

if TYPE_CHECKING:
    import numpy as np

    Columns = dict[str, np.ndarray]

SUFFIXES = (".npy", ".npz", ".csv", ".parquet", ".png")
LARGEST_GRID = 10_000  # images


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
    parent = nearest_folder(path)
    if not parent.is_dir():
        raise OutputError(f"Cannot write {path}: {parent} is a file, not a folder.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"Cannot write {path}: {parent} is read-only. Choose another folder.")


def nearest_folder(path: Path) -> Path:
    """The folder that `path` is in, or will be made in."""
    return next(folder for folder in path.absolute().parents if folder.exists())


def is_folder(path: Path) -> bool:
    """Whether `path` stands for a folder of PNGs."""
    return path.suffix.lower() not in SUFFIXES


def is_picture(path: Path) -> bool:
    """Whether the result must be images."""
    return is_folder(path) or path.suffix.lower() == ".png"


def takes_names(path: Path) -> bool:
    """Whether the result has a column for the names of the inputs."""
    return path.suffix.lower() in (".npz", ".csv", ".parquet")


def write(parts: Iterable[Columns], path: Path, places: np.ndarray | range) -> dict[str, Any]:
    """Writes the named outputs of a verb, atomically.

    .npy and pictures hold the first output, the others all of them; in a table, an output of
    several values per example has a column for each, `latent_0`, `latent_1` and so on.

    Args:
        parts: Named outputs of consecutive rows; iterated over several times.
        path: Where they go.
        places: Number of each row among the inputs: the name of its PNG in a folder.

    Returns:
        Name of each output -> its shape.

    Raises:
        InputError: A picture of what is no image.
        OutputError: The file or folder cannot be written.
    """
    shapes, dtypes = _measure(parts)
    first = next(iter(shapes))
    match path.suffix.lower():
        case ".npy":
            with atomic_file(path) as temporary, open(temporary, "wb") as file:
                _write_array(file, shapes[first], dtypes[first], (part[first] for part in parts))
        case ".npz":
            with atomic_file(path) as temporary, _zip(temporary) as archive:
                for name, shape in shapes.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                        _write_array(member, shape, dtypes[name], (part[name] for part in parts))
        case ".csv":
            with atomic_file(path) as temporary, open(temporary, "w", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                for i, columns in enumerate(map(_columns, parts)):
                    if i == 0:
                        writer.writerow(columns)
                    texts = [column.astype(str) for column in columns.values()]
                    writer.writerows(zip(*texts, strict=True))
        case ".parquet":
            _write_parquet(path, map(_columns, parts))
        case ".png":
            _write_grid(path, shapes[first][0], (part[first] for part in parts))
        case _:
            _write_folder(path, (part[first] for part in parts), places)
    return shapes


def _measure(parts: Iterable[Columns]) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    """Shape and dtype of each output over all parts."""
    import numpy as np

    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            rows = shapes.get(name, (0,))[0] + len(value)
            shapes[name] = (rows, *value.shape[1:])
            dtypes[name] = np.result_type(dtypes.get(name, value.dtype), value.dtype)
    return shapes, dtypes


def _write_array(
    file: Any, shape: tuple[int, ...], dtype: Any, values: Iterable[np.ndarray]
) -> None:
    """An .npy file, as `np.save` writes it."""
    import numpy as np

    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for value in values:
        file.write(np.ascontiguousarray(value, dtype).tobytes())


def _zip(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED)


def _columns(part: Columns) -> Columns:
    """One-dimensional columns: an output of several values becomes several."""
    found = {}
    for name, value in part.items():
        if value.ndim == 1:
            found[name] = value
        else:
            flat = value.reshape(len(value), -1)
            found |= {f"{name}_{i}": flat[:, i] for i in range(flat.shape[1])}
    return found


def _write_parquet(path: Path, tables: Iterator[Columns]) -> None:
    from kerasunsup.data.readers import require_pyarrow

    arrow = require_pyarrow()
    import pyarrow.parquet as parquet

    with atomic_file(path) as temporary:
        writer = None
        for columns in tables:
            table = arrow.table(columns)
            writer = writer or parquet.ParquetWriter(temporary, table.schema)
            writer.write_table(table)
        if writer:
            writer.close()


def _write_grid(path: Path, count: int, images: Iterable[np.ndarray]) -> None:
    import numpy as np

    from kerasunsup import pictures

    if count > LARGEST_GRID:
        raise InputError(
            f"A grid holds at most {LARGEST_GRID:,} images: write a folder. Received: {count:,}"
        )
    pictures.grid(np.concatenate([_clipped(part) for part in images]), path)


def _write_folder(path: Path, images: Iterable[np.ndarray], places: np.ndarray | range) -> None:
    from kerasunsup import mosaic

    digits, numbers = len(str(places[-1])), iter(places)
    with atomic_folder(path) as folder:
        for part in images:
            for pixels in mosaic.as_pixels(_clipped(part)):
                mosaic.as_image(pixels).save(folder / f"{next(numbers):0{digits}}.png")


def _clipped(images: np.ndarray) -> np.ndarray:
    """Images in [0, 1]: a decoder without a sigmoid may leave it by a little."""
    return images.clip(0.0, 1.0)
