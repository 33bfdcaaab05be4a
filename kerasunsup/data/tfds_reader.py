"""Reading a prepared TFDS set, into arrays or as a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kerasunsup.errors import InputError

if TYPE_CHECKING:
    import tensorflow as tf
    import tensorflow_datasets as tfds


class Reader:
    """Reads the one numeric feature of a prepared set, and its class label.

    Args:
        builder: A prepared set's builder.

    Attributes:
        shape: Shape of one example.
        dtype: uint8 for 8-bit images, else float32.
        is_pixels: Whether examples are 8-bit images.
        class_names: One name for each class; empty when there is no label.

    Raises:
        InputError: No feature, or no single one, is numeric and of fixed shape.
    """

    def __init__(self, builder: tfds.core.DatasetBuilder) -> None:
        self._builder = builder
        self._key, self.label = _features(builder)
        feature = builder.info.features[self._key]
        self.shape = tuple(feature.shape)
        self.is_pixels = _is_image(feature) and feature.np_dtype == np.uint8
        self.dtype = np.dtype("uint8" if self.is_pixels else "float32")
        self.class_names: tuple[str, ...] = ()
        if self.label:
            self.class_names = tuple(builder.info.features[self.label].names)

    def arrays(self, origin: str, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns examples and labels of a split of `origin` as arrays."""
        batch = self._batch(self._examples(origin, indices, [self._key, self.label]), len(indices))
        y = self._classes(batch) if self.label else None
        return batch[self._key].astype(self.dtype, copy=False), y

    def read_labels(self, origin: str, indices: np.ndarray) -> np.ndarray:
        """Returns the labels of a split of `origin`, decoding no example."""
        examples = self._examples(origin, indices, [self.label])
        return self._classes(self._batch(examples, len(indices)))

    def stream(self, origin: str, indices: np.ndarray) -> tf.data.Dataset:
        """Returns single unlabelled examples of a split of `origin`, decoded as they are read."""
        import tensorflow as tf

        message = f"NaN or infinite values in {self._builder.info.full_name}"

        def example(features: dict[str, tf.Tensor]) -> tf.Tensor:
            x = tf.ensure_shape(tf.cast(features[self._key], self.dtype), self.shape)
            return x if self.is_pixels else tf.debugging.check_numerics(x, message)

        return self._examples(origin, indices, [self._key]).map(example)

    def _classes(self, batch: dict[str, np.ndarray]) -> np.ndarray:
        return batch[str(self.label)].astype("int64")

    def _batch(self, examples: tf.data.Dataset, count: int) -> dict[str, np.ndarray]:
        import tensorflow as tf

        try:
            with tf.device("CPU"):
                batch = examples.batch(count).get_single_element()
        except tf.errors.OpError as error:
            raise InputError(
                f"The prepared files in {self._builder.data_path} are damaged: delete that folder "
                f"and prepare the set again. Received: {str(error).splitlines()[0]}"
            ) from error
        return {key: value.numpy() for key, value in batch.items()}

    def _examples(
        self, origin: str, indices: np.ndarray, keys: list[str | None]
    ) -> tf.data.Dataset:
        import tensorflow as tf
        import tensorflow_datasets as tfds

        first, end = int(indices[0]), int(indices[-1]) + 1
        features = self._builder.info.features
        unwanted = [k for k in features if k not in keys and _is_image(features[k])]
        examples = self._builder.as_dataset(
            split=f"{origin}[{first}:{end}]",
            decoders={key: tfds.decode.SkipDecoding() for key in unwanted},
        ).map(lambda example: {key: example[key] for key in keys if key})
        if len(indices) < end - first:
            wanted = np.zeros(end - first, bool)
            wanted[indices - first] = True
            mask = tf.constant(wanted)
            examples = examples.enumerate().filter(lambda i, _: mask[i]).map(lambda _, e: e)
        return examples.apply(tf.data.experimental.assert_cardinality(len(indices)))


def _features(builder: tfds.core.DatasetBuilder) -> tuple[str, str | None]:
    """Returns the names of the feature that is x and of the class label, if any."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    names = list(features) if isinstance(features, tfds.features.FeaturesDict) else []
    pair = builder.info.supervised_keys
    x, y = pair[:2] if pair and all(isinstance(p, str) for p in pair) else ("", "")
    tensors = [n for n in names if _is_numeric(features[n])]
    images = [n for n in tensors if _is_image(features[n])]
    candidates = [n for n in (x, "image") if n in tensors]
    candidates += images if len(images) == 1 else tensors if len(tensors) == 1 else []
    if not candidates:
        raise InputError(
            f"Expected {builder.info.full_name} to have one image or numeric feature of fixed "
            "shape: for images of many sizes, or several features, write the examples to an .npz "
            f"file and load that. Received: {{{', '.join(f'{n}: {features[n]}' for n in names)}}}"
        )
    labels = [n for n in (y, "label") if n in names]
    classes = [n for n in labels if isinstance(features[n], tfds.features.ClassLabel)]
    return candidates[0], classes[0] if classes else None


def _is_image(feature: Any) -> bool:
    import tensorflow_datasets as tfds

    return isinstance(feature, tfds.features.Image)


def _is_numeric(feature: Any) -> bool:
    """Whether a feature is an image or a tensor with one fixed shape."""
    import tensorflow_datasets as tfds

    return (
        isinstance(feature, (tfds.features.Image, tfds.features.Tensor))
        and not isinstance(feature, tfds.features.ClassLabel)
        and np.dtype(feature.np_dtype).kind in "uifb"
        and len(feature.shape) > 0
        and None not in feature.shape
    )
