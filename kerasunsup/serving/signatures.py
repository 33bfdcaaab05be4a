"""The signatures of a model: its verbs, checked inputs, and image files in place of arrays.

A request is checked in the graph, where every server runs it: an input that is NaN, out of range,
of another shape or empty is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import tensorflow as tf

if TYPE_CHECKING:
    from kerasunsup.models import UnsupervisedModel

DEFAULT = "serving_default"
BYTES = "_bytes"
LARGEST_SIDE = 4096  # pixels: what a file of a few bytes may make the server decode

Graph = Callable[..., dict[str, Any]]


def signatures_of(model: UnsupervisedModel) -> dict[str, tuple[Graph, list[tf.TensorSpec]]]:
    """Name of each signature -> its graph and the specs of its inputs.

    There is one for each verb, `serving_default` for the main verb and, where examples are
    images, `<verb>_bytes` for each verb that takes them: `image_bytes`, PNG or JPEG files
    `(batch,)`, in place of `x`.
    """
    found = {}
    for name in model.verbs:
        bound = model.verb(name)
        specs = bound.input_specs
        graph = tf.function(bound.graph, input_signature=specs, autograph=False)
        found[name] = (_checked(model, graph, specs), specs)
        if name == model.main_verb:
            found[DEFAULT] = found[name]
        if bound.argument == "x" and takes_images(model):
            bytes_specs = [tf.TensorSpec((None,), tf.string, name="image_bytes"), *specs[1:]]
            found[name + BYTES] = (_from_bytes(model, graph, bytes_specs), bytes_specs)
    return found


def takes_images(model: UnsupervisedModel) -> bool:
    """Whether examples are grey or RGB images with a range of values."""
    shape = model.input_shape[1:]
    return len(shape) == 3 and shape[-1] in (1, 3) and model.value_range is not None


def _checked(model: UnsupervisedModel, graph: Graph, specs: list[tf.TensorSpec]) -> Graph:
    def run(*tensors: Any) -> dict[str, Any]:
        return graph(*check_inputs(model, specs, tensors))

    return run


def _from_bytes(model: Any, graph: Graph, specs: list[tf.TensorSpec]) -> Graph:
    def run(*tensors: Any) -> dict[str, Any]:
        files, *conditions = check_inputs(model, specs, tensors)
        return graph(read_images(files, model.input_shape[1:], model.value_range), *conditions)

    return run


def check_inputs(model: UnsupervisedModel, specs: list[tf.TensorSpec], tensors: Any) -> list[Any]:
    """The tensors of a request, behind assertions that name the input and say what it must be."""
    first = specs[0].name
    checked: list[Any] = []
    for spec, tensor in zip(specs, tensors, strict=True):
        with tf.name_scope(f"check_{spec.name}"):
            for rule, holds in _rules(model, spec).items():  # each is computed after the one before
                with tf.control_dependencies([_assert(holds(tensor), spec.name, rule)]):
                    tensor = tf.identity(tensor)
            if checked:
                same = tf.shape(tensor)[0] == tf.shape(checked[0])[0]
                rule = f"must have as many rows as `{first}`"
                with tf.control_dependencies([_assert(same, spec.name, rule)]):
                    tensor = tf.identity(tensor)
        checked.append(tensor)
    return checked


def _rules(model: UnsupervisedModel, spec: tf.TensorSpec) -> dict[str, Callable[[Any], Any]]:
    """What an input must be -> whether a tensor is it."""
    shape = tuple(spec.shape[1:])
    rules: dict[str, Callable[[Any], Any]] = {
        f"must have shape {('batch', *shape)}".replace("'", ""): lambda x: _has_shape(x, shape),
        "must hold at least one example": lambda x: tf.shape(x)[0] > 0,
    }
    if spec.dtype.is_floating:
        rules["must be finite: no NaN, no infinity"] = lambda x: tf.reduce_all(tf.math.is_finite(x))
    limits = model.limits_of(spec.name)
    if limits is not None:
        low, high = limits
        rules[f"must lie in [{low:g}, {high:g}]"] = lambda x: tf.reduce_all(
            (x >= low) & (x <= high)
        )
    return rules


def _has_shape(tensor: Any, wanted: tuple[int, ...]) -> Any:
    """Whether examples have their declared shape: a server does not look."""
    # A placeholder of unknown shape: else the declared shape would be taken for the real one.
    shape = tf.shape(tf.raw_ops.PlaceholderWithDefault(input=tensor, shape=None))
    padded = tf.concat([shape, tf.fill([len(wanted) + 1], -1)], axis=0)[1 : len(wanted) + 1]
    same_rank = tf.size(shape) == len(wanted) + 1
    return same_rank & tf.reduce_all(padded == tf.constant(wanted, tf.int32, [len(wanted)]))


def _assert(holds: Any, name: str, rule: str) -> Any:
    return tf.raw_ops.Assert(condition=holds, data=[f"`{name}` {rule}."])


# Images


def read_images(files: Any, shape: tuple[int, int, int], value_range: tuple[float, float]) -> Any:
    """PNG and JPEG files, strings `(batch,)` -> examples `(batch, *shape)` in `value_range`.

    Transparency is dropped, colours become grey for a grey model (ITU-R 601, as Pillow's "L"),
    and a picture of another size is resized (bilinear, smoothed when it shrinks).
    """
    low, high = value_range
    with tf.name_scope("image_bytes"):
        pixels = tf.map_fn(
            lambda file: _read_image(file, shape),
            files,
            fn_output_signature=tf.TensorSpec(shape, tf.float32),
        )
        return low + (high - low) * (pixels / 255.0)


def _read_image(file: Any, shape: tuple[int, int, int]) -> Any:
    height, width, channels = shape
    is_jpeg = tf.strings.substr(file, 0, 3) == b"\xff\xd8\xff"
    is_png = tf.strings.substr(file, 0, 8) == b"\x89PNG\r\n\x1a\n"
    is_png &= tf.strings.length(file) >= 24
    with tf.control_dependencies(
        [_assert(is_jpeg | is_png, "image_bytes", "must be PNG or JPEG files")]
    ):
        size = tf.cond(is_jpeg, lambda: _jpeg_size(file), lambda: _png_size(file))
    bounded = tf.reduce_all((size > 0) & (size <= LARGEST_SIDE))
    rule = f"must be at most {LARGEST_SIDE} pixels wide and high"
    with tf.control_dependencies([_assert(bounded, "image_bytes", rule)]):
        pixels = tf.cond(
            is_jpeg,
            lambda: tf.io.decode_jpeg(file, channels=3, dct_method="INTEGER_ACCURATE"),
            lambda: tf.io.decode_png(file, channels=3),
        )
    if channels == 1:
        weights = tf.constant([19595, 38470, 7471], tf.int32)
        total = tf.reduce_sum(tf.cast(pixels, tf.int32) * weights, axis=-1, keepdims=True)
        pixels = (total + 2**15) // 2**16
    pixels = tf.cast(pixels, tf.float32)
    same = tf.reduce_all(tf.shape(pixels)[:2] == [height, width])
    pixels = tf.cond(
        same,
        lambda: pixels,
        lambda: tf.image.resize(pixels, (height, width), antialias=True),
    )
    return tf.ensure_shape(pixels, shape)


def _jpeg_size(file: Any) -> Any:
    return tf.io.extract_jpeg_shape(file)[:2]


def _png_size(file: Any) -> Any:
    """Width and height: bytes 16 to 24, big-endian."""
    return tf.io.decode_raw(tf.strings.substr(file, 16, 8), tf.int32, little_endian=False)
