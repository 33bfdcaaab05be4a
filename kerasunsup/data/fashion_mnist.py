"""Fashion-MNIST from files on disk, prepared by TFDS's own builder.

Debian's package `dataset-fashion-mnist` holds upstream's four files with the name and the time
removed from their gzip headers. Written back, they are the exact bytes that TFDS's checksums want.
"""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
from pathlib import Path

from kerasunsup.errors import InputError, OutputError

DEBIAN_FOLDER = "/usr/share/datasets/fashion-mnist"

# RFC 1952: magic and deflate, then the flags, the mtime and two bytes that Debian kept.
_MAGIC = b"\x1f\x8b\x08"
_FNAME = 0x08
# Upstream's mtimes (UTC 2017-08-31 10:50), by the first word of the file's name.
_MTIMES = {"train": 1504176606, "t10k": 1504176627}


def import_fashion_mnist(
    folder: str | os.PathLike[str], data_dir: str | os.PathLike[str] | None = None
) -> Path:
    """Prepares TFDS's `fashion_mnist` from four local files; needs no network.

    Args:
        folder: Folder with the four `*-ubyte.gz` files, upstream's or Debian's.
        data_dir: Where TFDS keeps data sets. Default: $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Returns:
        The folder of the prepared set.

    Raises:
        InputError: A file is missing or is not Fashion-MNIST's.
        OutputError: The prepared set cannot be written.
    """
    import tensorflow_datasets as tfds

    source = Path(folder).expanduser()
    builder = tfds.builder("fashion_mnist", data_dir=data_dir)
    with tempfile.TemporaryDirectory(prefix="fashion-mnist-") as manual_dir:
        try:
            for info in builder.url_infos.values():
                content = upstream_bytes(source / info.filename, info.checksum)
                Path(manual_dir, info.filename).write_bytes(content)
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(manual_dir=manual_dir)
            )
        except OSError as error:
            raise OutputError(
                f"Cannot write {builder.data_path}: choose another data folder with "
                f"$TFDS_DATA_DIR, or free some space. Received: {error}"
            ) from error
    return Path(builder.data_path)


def upstream_bytes(path: Path, sha256: str) -> bytes:
    """Returns upstream's bytes of one file, whether `path` is upstream's or Debian's.

    Args:
        path: The file, under upstream's name.
        sha256: Hex digest of upstream's file.

    Raises:
        InputError: The file is missing, unreadable or another one.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"Expected Fashion-MNIST's four files *-ubyte.gz in one folder (Debian's package "
            f"dataset-fashion-mnist puts them in {DEBIAN_FOLDER}). "
            f"Received: {path} ({error.strerror})"
        ) from error
    for candidate in (content, restore_header(content, path.name)):
        if hashlib.sha256(candidate).hexdigest() == sha256:
            return candidate
    raise InputError(
        f"{path} must be upstream's {path.name} or the one of Debian's package "
        f"dataset-fashion-mnist: copy it again. "
        f"Received: {len(content)} bytes with sha256 {hashlib.sha256(content).hexdigest()}"
    )


def restore_header(content: bytes, name: str) -> bytes:
    """Returns a header-stripped gzip file with upstream's FNAME and mtime written back.

    A file that has a name already, or is not gzip, comes back as it is.
    """
    mtime = _MTIMES.get(name.split("-")[0])
    if mtime is None or len(content) < 10 or content[:4] != _MAGIC + b"\0":
        return content
    fname = name.removesuffix(".gz").encode("latin-1") + b"\0"
    return (
        _MAGIC + bytes([_FNAME]) + struct.pack("<I", mtime) + content[8:10] + fname + content[10:]
    )
