"""PNG and JPEG images from disk, all of one size."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kerasunsup.data.dataset import Rows
from kerasunsup.data.splits import SPLITS
from kerasunsup.errors import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
_GREY_MODES = ("1", "L", "LA")


class ImageFolder:
    """Images directly in a folder, or in one subfolder a class.

    Pictures are grey when every file is, else RGB; transparency is dropped.

    Args:
        folder: The folder.

    Attributes:
        class_names: The subfolders' names, sorted; empty when there are none.

    Raises:
        InputError: No images, several sizes, unreadable files, or files and subfolders mixed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        direct = _images_in(folder)
        classes = sorted(p for p in folder.iterdir() if p.is_dir() and not _hidden(p))
        by_class = [(c.name, _images_in(c)) for c in classes]
        by_class = [(name, paths) for name, paths in by_class if paths]
        if bool(direct) == bool(by_class):
            raise InputError(
                f"{folder} must hold PNG or JPEG images, either directly or in one subfolder a "
                f"class. Received: {len(direct)} images directly, {len(by_class)} subfolders "
                "with images"
            )
        self.class_names = tuple(name for name, _ in by_class)
        if self.class_names and set(self.class_names) <= set(SPLITS):
            raise InputError(
                f"{folder}: subfolders are classes, not splits: give the folder of one split, or "
                f"an .npz file with the arrays train, validation, test. "
                f"Received: subfolders {', '.join(self.class_names)}"
            )
        self.paths = direct or [path for _, paths in by_class for path in paths]
        self._counts = [len(paths) for _, paths in by_class]

    def labels(self) -> dict[str, np.ndarray]:
        """Returns {"train": class of each image}, or {} when there are no classes."""
        if not self.class_names:
            return {}
        return {"train": np.repeat(np.arange(len(self._counts)), self._counts)}

    def rows(self) -> Rows:
        """Returns the images as examples `(height, width, channels)`, uint8."""
        size, grey = _common_format(self.paths)
        return Rows(
            count=len(self.paths),
            shape=(size[1], size[0], 1 if grey else 3),
            dtype=np.dtype("uint8"),
            read=lambda indices: np.stack([_decode(self.paths[i], grey) for i in indices]),
            identity=self._identity,
        )

    def _identity(self) -> str:
        digest = hashlib.sha256()
        for path in self.paths:
            digest.update(f"{path.relative_to(self.folder)}\n".encode() + path.read_bytes())
        return digest.hexdigest()


def read_images(paths: Sequence[Path]) -> np.ndarray:
    """Reads images of one size: uint8 `(batch, height, width, channels)`, grey when all are.

    Raises:
        InputError: Several sizes, or an unreadable file.
    """
    _, grey = _common_format(paths)
    return np.stack([_decode(path, grey) for path in paths])


def why_unreadable(path: Path) -> str | None:
    """What Pillow has against an image file, None if nothing."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return " ".join(str(error).split())
    return None


def _images_in(folder: Path) -> list[Path]:
    suffixed = (p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(p for p in suffixed if p.is_file() and not _hidden(p))


def _hidden(path: Path) -> bool:
    return path.name.startswith(".")


def _common_format(paths: Sequence[Path]) -> tuple[tuple[int, int], bool]:
    """Returns (width, height) of all images and whether all are grey, from their headers."""
    from PIL import Image

    first: tuple[int, int] | None = None
    grey = True
    for path in paths:
        try:
            with Image.open(path) as image:
                size, mode = image.size, image.mode
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise _unreadable(path, error) from error
        first = first or size
        if size != first:
            raise InputError(
                f"Images must all be of one size: resize {path}. Expected {first[0]}x{first[1]} "
                f"pixels as in {paths[0]}. Received: {size[0]}x{size[1]}"
            )
        if mode.startswith(("I", "F")):
            raise InputError(
                f"{path} must have 8 bits a channel: convert it. Received: image mode {mode}"
            )
        grey = grey and mode in _GREY_MODES
    assert first is not None
    return first, grey


def _decode(path: Path, grey: bool) -> np.ndarray:
    """Returns one image `(height, width, channels)`, uint8."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L" if grey else "RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from error
    return pixels[..., None] if grey else pixels


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path} must be a PNG or JPEG image; it is damaged or cut short: write it again. "
        f"Received: {' '.join(str(error).split())}"
    )
