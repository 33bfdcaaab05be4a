"""Hashing and atomic writing: a killed command leaves the old state or the new one, never half."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kerasunsup.errors import OutputError


def sha256_of(path: Path) -> str:
    """Returns the hex sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_REPLACED = "-replaced"


@contextlib.contextmanager
def atomic_folder(target: str | Path) -> Iterator[Path]:
    """Yields a temporary sibling of `target` that takes its place when the block succeeds.

    Args:
        target: Folder to create or replace.

    Raises:
        OutputError: The folder cannot be written.
    """
    target = Path(target)
    with _output_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        temporary.chmod(0o755)
    try:
        with _output_errors(target):
            yield temporary
            _sync_tree(temporary)
            replaced = temporary.with_name(f"{temporary.name}{_REPLACED}")
            if target.exists():
                target.rename(replaced)
            try:
                temporary.rename(target)
            except OSError:
                recover_folder(target)
                raise
            shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def recover_folder(target: Path) -> None:
    """Puts the old folder back if a process was killed between the two renames of a replacement."""
    if not target.exists():
        for replaced in target.parent.glob(f".{target.name}-*{_REPLACED}"):
            replaced.rename(target)
            return


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yields a temporary sibling of `path`, same suffix, that takes its place on success.

    Raises:
        OutputError: The file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        with _output_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _sync(temporary)
            temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def atomic_write(path: str | Path, content: bytes | str) -> None:
    """Writes `content` to `path` through a temporary sibling."""
    data = content.encode() if isinstance(content, str) else content
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def _output_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"Cannot write {target}: {error.strerror or error}. "
            "Choose a folder that is writable and has free space."
        ) from error


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            _sync(path)
