"""Pictures of a model: previews for cards, progress while training, grids of images.

Drawn with matplotlib's objects on its Agg canvas: no window, no state shared with the caller.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from PIL import Image

from kerasunsup.errors import InputError
from kerasunsup.files import atomic_file
from kerasunsup.mosaic import as_image, as_pixels, tile

if TYPE_CHECKING:
    from kerasunsup.data import Dataset

COLUMNS = 10
SAMPLE_ROWS = 3
LARGEST_MAP = 5000
LARGEST_LEGEND = 10
STRIP, TITLE, MARGIN = 6.0, 0.42, 0.12  # inches: a block's width, the room for titles, borders
PALETTE = (  # Okabe & Ito's and Tol's: told apart with colour-blind eyes too
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9",
    "#d55e00", "#332288", "#b8a200", "#882255", "#777777",
)  # fmt: skip


def preview(model: Any, data: Dataset, path: str | Path) -> Path:
    """Draws what a trained model does with test data, in one figure.

    Images: originals, what the encoder of a denoising or masked model saw, reconstructions,
    samples, and a map of the latents coloured by class. Tables: the map, reconstructed against
    original values, samples among the data. A model without a verb has no panel for it.

    Args:
        model: A model, or an `export.ServedModel`.
        data: Data set the model fits.
        path: PNG file to write.

    Returns:
        The path.
    """
    x, labels = _examples(data.test, data.labels.get("test"), LARGEST_MAP)
    with_map = "encode" in model.verbs
    draw = _image_figure if data.is_image else _table_figure
    figure = draw(model, data, x, labels, with_map)
    if with_map:
        latent = model.encode(x)["latent"]
        _draw_map(figure.axes[-1], latent.reshape(len(x), -1), labels, data.class_names)
    return save(figure, path)


def progress(model: Any, data: Dataset, path: str | Path) -> Path:
    """Draws reconstructions of validation data and samples, the same ones in every epoch.

    Args:
        model: A model in training; its random state is left alone.
        data: Data set it trains on.
        path: PNG file to write.

    Returns:
        The path.
    """
    x, labels = _examples(data.validation, data.labels.get("validation"), 1000)
    draw = _image_figure if data.is_image else _table_figure
    return save(draw(model, data, x, labels), path)


def grid(images: Any, path: str | Path) -> Path:
    """Writes images side by side in a nearly square PNG, one pixel for each of theirs.

    Args:
        images: `(n, height, width, channels)`, uint8 or floats in [0, 1]; 1, 3 or 4 channels.
        path: PNG file to write.

    Returns:
        The path.

    Raises:
        InputError: Not images.
        OutputError: The file cannot be written.
    """
    pixels = as_pixels(images)
    columns = math.ceil(math.sqrt(len(pixels)))
    with atomic_file(path) as temporary:
        as_image(tile(pixels, columns)).save(temporary, "PNG")
    return Path(path)


def animate(pictures: Sequence[Path], path: str | Path) -> Path:
    """Joins pictures of equal content into an animated GIF, two a second, the last one longer.

    Args:
        pictures: PNG files in order.
        path: GIF file to write.

    Returns:
        The path.
    """
    frames = []
    for picture in pictures:
        with Image.open(picture) as image:
            frames.append(image.convert("RGB"))
    frames = [frame.resize(frames[0].size) for frame in frames]
    durations = [500] * (len(frames) - 1) + [2000]
    with atomic_file(path) as temporary:
        frames[0].save(
            temporary, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0
        )
    return Path(path)


# Figures


def _image_figure(
    model: Any,
    data: Dataset,
    x: np.ndarray,
    labels: np.ndarray | None,
    with_map: bool = False,
) -> Figure:
    """Blocks of images under each other; where wanted, an empty last panel at their right."""
    generates = _generates(model)
    shown = _one_of_each_class(x, labels, COLUMNS * (1 if generates else 2))
    blocks = {
        title: tile(_displayable(images, data.value_range), COLUMNS)
        for title, images in _image_blocks(model, shown, generates).items()
    }
    heights = [STRIP * mosaic.shape[0] / mosaic.shape[1] for mosaic in blocks.values()]
    total = sum(heights) + TITLE * len(blocks) + MARGIN
    width = STRIP + 2 * MARGIN
    if with_map:
        total, width = max(total, 3.6), width + 5.6
    figure = new_figure(width, total)
    top = total
    for (title, mosaic), height in zip(blocks.items(), heights, strict=True):
        top -= TITLE + height
        axis = figure.add_axes((MARGIN / width, top / total, STRIP / width, height / total))
        pixels = mosaic[..., 0] if mosaic.shape[-1] == 1 else mosaic
        axis.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
        axis.set_title(title, loc="left")
        axis.axis("off")
    if with_map:
        left, bottom = STRIP + 2 * MARGIN + 0.7, 0.55
        size = (3.6 / width, (total - TITLE - bottom) / total)
        figure.add_axes((left / width, bottom / total, *size))
    return figure


def _image_blocks(model: Any, x: np.ndarray, generates: bool) -> dict[str, np.ndarray]:
    """Title -> images of each block of the figure."""
    blocks: dict[str, np.ndarray] = {}
    inner = getattr(model, "model", model)
    if hasattr(inner, "views_of"):
        one, other = inner.views_of(x)
        blocks = {"Originals": x, "One view": one, "The other view": other}
    if "reconstruct" in model.verbs:
        blocks["Originals"] = x
        if hasattr(inner, "visible_part"):
            blocks[f"Visible ({1 - inner.mask_ratio:.0%})"] = inner.visible_part(x)
        corruption = getattr(inner, "corruption", None)
        if corruption is not None:
            x = _corrupt(corruption, x)
            blocks[f"Corrupted ({_corruption_name(corruption)})"] = x
        blocks["Reconstructions"] = model.reconstruct(x)["reconstruction"]
    if generates:
        blocks["Samples"] = model.generate(COLUMNS * SAMPLE_ROWS, seed=0)["samples"]
    return blocks or {"Originals": x}


def _table_figure(
    model: Any,
    data: Dataset,
    x: np.ndarray,
    labels: np.ndarray | None,
    with_map: bool = False,
) -> Figure:
    """Panels side by side; where wanted, an empty last one."""
    reconstructs, generates = "reconstruct" in model.verbs, _generates(model)
    widths = [1.0] * (reconstructs + generates) + [1.35] * with_map
    figure = new_figure(4.4 * sum(widths), 4.2, layout="constrained")
    axes = iter(figure.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0])
    mean, spread = x.mean(0), x.std(0) + 1e-12
    if reconstructs:
        restored = model.reconstruct(x)["reconstruction"]
        _draw_agreement(next(axes), (x - mean) / spread, (restored - mean) / spread)
    if generates:
        samples = model.generate(len(x), seed=0)["samples"]
        _draw_among(next(axes), (x - mean) / spread, (samples - mean) / spread)
    return figure


def _draw_agreement(axis: Axes, original: np.ndarray, restored: np.ndarray) -> None:
    """Reconstructed against original values, standardised, a colour for each feature."""
    features = original.shape[1]
    for i in range(features):
        named = features <= LARGEST_LEGEND
        axis.plot(
            original[:, i],
            restored[:, i],
            ".",
            markersize=4,
            alpha=0.6,
            color=PALETTE[i] if named else PALETTE[0],
            label=f"feature {i}" if named else None,
        )
    low, high = float(original.min()), float(original.max())
    axis.plot([low, high], [low, high], color="0.3", linewidth=0.8)
    axis.set_title("Reconstructions", loc="left")
    axis.set_xlabel("original (standard deviations)")
    axis.set_ylabel("reconstructed")
    if features <= LARGEST_LEGEND:
        axis.legend(loc="upper left", fontsize=8, handletextpad=0.1, labelspacing=0.3)


def _draw_among(axis: Axes, x: np.ndarray, samples: np.ndarray) -> None:
    """Samples among the test data, on the plane in which the data vary most."""
    center, directions = _plane(x)
    for points, colour, label in ((x, "0.65", "test data"), (samples, PALETTE[0], "samples")):
        flat = (points - center) @ directions
        axis.plot(*flat.T, ".", markersize=5, alpha=0.6, color=colour, label=label)
    axis.set_title("Samples", loc="left")
    axis.set_xlabel("principal component 1 of the data")
    axis.set_ylabel("principal component 2")
    axis.legend(loc="best", fontsize=8, handletextpad=0.1)


def _draw_map(
    axis: Axes, latent: np.ndarray, labels: np.ndarray | None, class_names: Sequence[str]
) -> None:
    """Latents on a plane: their first two principal components where they have more axes."""
    if latent.shape[1] > 2:
        center, directions = _plane(latent)
        latent = (latent - center) @ directions
        axes = ("principal component 1", "principal component 2")
    else:
        latent = np.pad(latent, ((0, 0), (0, 2 - latent.shape[1])))
        axes = ("latent 0", "latent 1")
    axis.set_title("Latents of the test set", loc="left")
    axis.set_xlabel(axes[0])
    axis.set_ylabel(axes[1])
    size = float(np.clip(5000 / len(latent), 4, 18))
    style: dict[str, Any] = {"s": size, "alpha": 0.75, "linewidths": 0}
    if labels is None:
        axis.scatter(*latent.T, color=PALETTE[0], **style)
        return
    classes = np.unique(labels)
    if len(classes) > LARGEST_LEGEND:
        points = axis.scatter(latent[:, 0], latent[:, 1], c=labels, cmap="turbo", **style)
        axis.figure.colorbar(points, ax=axis, label="class")
        return
    positions = np.searchsorted(classes, labels)
    colours = ListedColormap(PALETTE[: len(classes)])
    points = axis.scatter(latent[:, 0], latent[:, 1], c=positions, cmap=colours, **style)
    handles, _ = points.legend_elements(num=list(range(len(classes))), alpha=1.0)
    names = [class_names[c] if c < len(class_names) else str(c) for c in classes]
    style = {"frameon": False, "handletextpad": 0.1}
    axis.legend(handles, names, loc="center left", bbox_to_anchor=(1.01, 0.5), **style)


def new_figure(width: float, height: float, layout: Any = None) -> Figure:
    figure = Figure(figsize=(width, height), dpi=120, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: str | Path) -> Path:
    """Writes a PNG of 256 colours, less than half the size of one of all colours."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", bbox_inches="tight", pad_inches=MARGIN)
    image = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    with atomic_file(path) as temporary:
        image.save(temporary, "PNG", optimize=True)
    return Path(path)


# Data


def _examples(split: Any, labels: Any, count: int) -> tuple[np.ndarray, np.ndarray | None]:
    """The first `count` examples of a split, array or tf.data.Dataset, and their labels."""
    if isinstance(split, np.ndarray):
        x = split[:count]
    else:
        x = np.stack(list(split.take(count).as_numpy_iterator()))
    return x, None if labels is None else np.asarray(labels[:count])


def _one_of_each_class(x: np.ndarray, labels: np.ndarray | None, count: int) -> np.ndarray:
    """`count` examples: the first of each class, the second of each, and so on."""
    if labels is None:
        return x[:count]
    turn = np.zeros(len(labels), int)
    for label in np.unique(labels):
        turn[labels == label] = np.arange((labels == label).sum())
    return x[np.lexsort((labels, turn))[:count]]


def _generates(model: Any) -> bool:
    """Whether samples can be drawn now: a density may not be fitted yet while training."""
    if "generate" not in model.verbs:
        return False
    try:
        getattr(model, "model", model).check_ready("generate")
    except InputError:
        return False
    return True


def _corrupt(corruption: Any, x: np.ndarray) -> np.ndarray:
    """Corrupts with noise of its own: the model's random state stays where it is."""
    scaled = x.astype("float32") / 255.0 if x.dtype == np.uint8 else x
    copy = type(corruption).from_config({**corruption.get_config(), "seed": 0})
    return np.asarray(copy(scaled, training=True))


def _corruption_name(corruption: Any) -> str:
    name = type(corruption).__name__.removesuffix("Corruption")
    words = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name)
    return f"{words.strip()}, {corruption.level:g}"


def _displayable(images: np.ndarray, value_range: tuple[float, float] | None) -> np.ndarray:
    """Any images -> uint8 with 1 or 3 channels."""
    if images.shape[-1] not in (1, 3, 4):
        images = images[..., :1]
    if images.dtype == np.uint8:
        return images
    low, high = value_range or (float(images.min()), float(images.max()))
    return as_pixels(np.clip((images - low) / max(high - low, 1e-12), 0.0, 1.0))


def _plane(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and the two directions `(features, 2)` in which `x`, `(n, features)`, varies most."""
    center = x.mean(0)
    _, _, directions = np.linalg.svd(x - center, full_matrices=False)
    return center, np.pad(directions[:2], ((0, 2 - len(directions[:2])), (0, 0))).T
