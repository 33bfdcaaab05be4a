"""Reading .npy, .npz, .csv and .parquet files; whatever cannot be read is one clear error."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasunsup.errors import InputError

if TYPE_CHECKING:
    import pyarrow


def read_npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise unreadable(path, "a NumPy .npy file", error) from error


def read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        # Opened here, because NumPy leaves a damaged archive open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except (
        ValueError,
        OSError,
        EOFError,
        KeyError,
        AttributeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise unreadable(path, "a NumPy .npz file", error) from error


def read_csv(path: Path) -> pyarrow.Table:
    arrow = require_pyarrow()
    import pyarrow.csv as csv

    try:
        table = csv.read_csv(path)
        if all(_is_number(name) for name in table.column_names):
            table = csv.read_csv(path, csv.ReadOptions(autogenerate_column_names=True))
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise unreadable(path, "a CSV table with a comma between columns", error) from error
    return table


def read_parquet(path: Path) -> pyarrow.Table:
    arrow = require_pyarrow()
    import pyarrow.parquet as parquet

    try:
        return parquet.read_table(path)
    except (arrow.ArrowException, OSError) as error:
        raise unreadable(path, "a Parquet table", error) from error


def csv_batches(path: Path) -> Iterator[pyarrow.Table]:
    """Yields parts of a CSV table; columns that begin with numbers must go on with numbers."""
    arrow = require_pyarrow()
    import pyarrow.csv as csv

    try:
        options = csv.ReadOptions()
        with csv.open_csv(path) as beginning:
            if all(_is_number(name) for name in beginning.schema.names):
                options = csv.ReadOptions(autogenerate_column_names=True)
        with csv.open_csv(path, options) as beginning:
            schema = beginning.schema
        types = {
            field.name: arrow.string() if field.name == "label" else arrow.float64()
            for field in schema
            if field.name == "label" or _may_be_number(field.type)
        }
        with csv.open_csv(
            path, options, convert_options=csv.ConvertOptions(column_types=types)
        ) as reader:
            yield from _tables(reader, reader.schema)
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise unreadable(path, "a CSV table with a comma between columns", error) from error


def parquet_batches(path: Path) -> Iterator[pyarrow.Table]:
    """Yields parts of a Parquet table."""
    arrow = require_pyarrow()
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(path, buffer_size=2**20) as file:
            yield from _tables(file.iter_batches(), file.schema_arrow)
    except (arrow.ArrowException, OSError) as error:
        raise unreadable(path, "a Parquet table", error) from error


def _tables(batches: Iterable[pyarrow.RecordBatch], schema: Any) -> Iterator[pyarrow.Table]:
    """A table for each batch with rows; if there is none, one without rows."""
    import pyarrow

    empty = True
    for batch in batches:
        if batch.num_rows:
            empty = False
            yield pyarrow.Table.from_batches([batch])
    if empty:
        yield schema.empty_table()


def require_pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise InputError(
            "Reading .csv and .parquet needs pyarrow: pip install pyarrow. Received: no pyarrow"
        ) from error
    return pyarrow


def table_arrays(table: pyarrow.Table, path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the numeric columns `(rows, columns)` and the column `label`, if there is one."""
    import pyarrow.types as types

    if len(set(table.column_names)) < table.num_columns:
        raise InputError(
            f"{path}: every column needs a name of its own. Received: {table.column_names}"
        )
    if table.num_rows == 0 or not set(table.column_names) - {"label"}:
        raise InputError(
            f"{path}: expected rows of numeric columns. "
            f"Received: {table.num_rows} rows of columns {table.column_names}"
        )
    columns = []
    for name in table.column_names:
        column = table[name]
        if column.null_count:
            raise InputError(
                f"{path}: column `{name}` must have a value in every row: drop or impute. "
                f"Received: {column.null_count} missing of {table.num_rows}"
            )
        if name == "label":
            continue
        if not (types.is_integer(column.type) or types.is_floating(column.type)):
            raise InputError(
                f"{path}: column `{name}` must be numeric (classes go into a column `label`): "
                f"drop or encode it. Received: {column.type}"
            )
        columns.append(column.to_numpy())
    label = None
    if "label" in table.column_names:
        label = table["label"].to_numpy()
        label = label.astype(str) if label.dtype == object else label
    return np.stack(columns, axis=1), label


def _may_be_number(kind: pyarrow.DataType) -> bool:
    """Whether a column is one of numbers, as far as its beginning tells: null is one of gaps."""
    import pyarrow.types as types

    return types.is_integer(kind) or types.is_floating(kind) or types.is_null(kind)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def unreadable(path: Path, what: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return InputError(
        f"{path} must be {what}; it is damaged, cut short or of another kind: write it again. "
        f"Received: {reason[:200]}"
    )
