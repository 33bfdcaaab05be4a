"""Examples of a file that stay on disk and are read where they are wanted.

An archive or a table cannot be read from the middle. It is unpacked once, in parts, to a temporary
file without a name. What comes back is a function that maps the file anew: the pages that were read
leave the memory together with the map.
"""

from __future__ import annotations

import contextlib
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from kerasunsup.data.readers import (
    csv_batches,
    parquet_batches,
    read_npy,
    table_arrays,
    unreadable,
)
from kerasunsup.errors import InputError, OutputError

if TYPE_CHECKING:
    import pyarrow

Reopen = Callable[[], np.ndarray]

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def open_array(path: Path, key: str, scratch: Path | None = None) -> Reopen:
    """A function that gives all examples of a file, memory-mapped.

    Args:
        path: .npy, .npz, .csv or .parquet.
        key: Which array of an .npz file with several.
        scratch: Folder of the temporary file; the system's when None.

    Raises:
        InputError: Unreadable or truncated, no such array, or no numeric columns.
        OutputError: No space for the temporary file.
    """
    match path.suffix.lower():
        case ".npy":
            read_npy(path)
            return partial(read_npy, path)
        case ".npz":
            return _unpack_npz(path, key, scratch)
        case ".csv":
            return _unpack_table(csv_batches(path), path, scratch)
        case _:
            return _unpack_table(parquet_batches(path), path, scratch)


class Unpacked:
    """An array in a temporary file that lives as long as this does; each call maps it anew."""

    def __init__(
        self, file: IO[bytes], dtype: np.dtype, shape: tuple[int, ...], order: Any = "C"
    ) -> None:
        weakref.finalize(self, file.close)
        self._map = partial(np.memmap, file, dtype, "r", file.tell(), shape, order)

    def __call__(self) -> np.ndarray:
        return self._map()


def _unpack_npz(path: Path, key: str, scratch: Path | None) -> Unpacked:
    try:
        with zipfile.ZipFile(path) as archive, _temporary(scratch) as file:
            keys = [name.removesuffix(".npy") for name in archive.namelist()]
            if len(keys) == 1:
                key = keys[0]
            if key not in keys:
                raise InputError(
                    f"{path} must hold one array, or one that is called `{key}`. "
                    f"Received: arrays {sorted(keys)}"
                )
            with archive.open(f"{key}.npy") as member:
                _write(file, iter(partial(member.read, 2**20), b""), path)
            shape, fortran, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
            if dtype.hasobject:
                raise ValueError(f"`{key}` holds Python objects")
            unpacked = Unpacked(file, dtype, shape, "F" if fortran else "C")
            unpacked()
            return unpacked
    except (InputError, OutputError):
        raise
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise unreadable(path, "a NumPy .npz file", error) from error


def _unpack_table(tables: Iterable[pyarrow.Table], path: Path, scratch: Path | None) -> Unpacked:
    shape = (0, 0)

    def rows() -> Iterator[bytes]:
        nonlocal shape
        for table in tables:
            array, _ = table_arrays(table, path)
            shape = (shape[0] + len(array), array.shape[1])
            with np.errstate(over="ignore"):  # infinite values are refused with the others
                yield array.astype("float32").tobytes()

    with _temporary(scratch) as file:
        _write(file, rows(), path)
        return Unpacked(file, np.dtype("float32"), shape)


@contextlib.contextmanager
def _temporary(folder: Path | None) -> Iterator[IO[bytes]]:
    """A file without a name that is closed if the block fails."""
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(tempfile.TemporaryFile(dir=folder))
        stack.pop_all()


def _write(file: IO[bytes], parts: Iterable[bytes], path: Path) -> None:
    """Writes all parts and goes back to the beginning."""
    for part in parts:
        try:
            file.write(part)
            file.flush()
        except OSError as error:
            raise OutputError(
                f"Cannot unpack {path}: free some space, or set TMPDIR to a folder that has it. "
                f"Received: {error.strerror}"
            ) from error
    file.seek(0)
