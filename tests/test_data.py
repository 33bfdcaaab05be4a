"""Data sets: what every source yields, and how each kind of bad input is refused."""

from __future__ import annotations

import gzip
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import sklearn.datasets
import tensorflow as tf
from PIL import Image

from kerasunsup import data
from kerasunsup.data import dataset, embedded, fashion_mnist, splits, tfds
from kerasunsup.errors import InputError, KerasunsupError, OutputError

DEBIAN = Path(fashion_mnist.DEBIAN_FOLDER)
needs_debian = pytest.mark.skipif(
    not DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist"
)
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (40, 6, 5, 3), dtype="uint8")
TABLE = RNG.normal(size=(40, 3)).astype("float32")
CLASSES = np.arange(40) % 4


def examples_of(data_set: data.Dataset) -> np.ndarray:
    """All examples, in the order of the splits."""
    return np.concatenate([data_set.train, data_set.validation, data_set.test])


def assert_partition(data_set: data.Dataset, x: np.ndarray) -> None:
    """Each row of `x`, all of them distinct, is in exactly one split."""
    found = examples_of(data_set).reshape(len(x), -1)
    np.testing.assert_array_equal(
        np.unique(found, axis=0), np.unique(x.reshape(len(x), -1), axis=0)
    )


def refused(match: str, call: Any, *args: Any, **kwargs: Any) -> str:
    """Asserts a one-line InputError that ends in what was received; returns its message."""
    with pytest.raises(InputError, match=match) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message and "Received: " in message
    return message


# Embedded sets


@pytest.mark.parametrize("name", embedded.NAMES)
def test_embedded_sets_are_split_once_and_evenly(name: str) -> None:
    bunch = getattr(sklearn.datasets, f"load_{name}")()
    loaded = data.load(name)
    assert [len(loaded.train), len(loaded.validation), len(loaded.test)] == pytest.approx(
        len(bunch.data) * np.array([0.6, 0.2, 0.2]), abs=1.5
    )
    x = bunch.data.astype("float32") / (16 if name == "digits" else 1)
    found = examples_of(loaded).reshape(len(x), -1)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[np.lexsort(found.T)], x[np.lexsort(x.T)])
    rows = {row.tobytes(): y for row, y in zip(x, bunch.target, strict=True)}
    shares = []
    for split in splits.SPLITS:
        y = loaded.labels[split]
        part = getattr(loaded, split)
        assert [rows[row.tobytes()] for row in part] == y.tolist()
        shares.append(np.bincount(y) / len(y))
    np.testing.assert_allclose(shares[0], shares[1], atol=0.03)
    np.testing.assert_allclose(shares[0], shares[2], atol=0.03)
    assert loaded.class_names == tuple(map(str, bunch.target_names))
    assert loaded.license and loaded.source


def test_digits_are_images_in_sixteenths() -> None:
    digits = data.load("digits")
    assert digits.input_shape == digits.train.shape[1:] == (8, 8, 1)
    assert digits.is_image and digits.value_range == (0.0, 1.0)
    assert set(np.unique(digits.train * 16)) == set(range(17))
    assert not data.load("iris").is_image and data.load("iris").value_range is None


def test_the_seed_decides_the_split() -> None:
    assert data.load("iris").fingerprint == data.load("iris", seed=0).fingerprint
    assert data.load("iris").fingerprint != data.load("iris", seed=1).fingerprint
    np.testing.assert_array_equal(
        data.load("iris").test, data.load("iris", validation=10).test, "test must stay the same"
    )


@pytest.mark.parametrize(("validation", "count"), [(12, 12), (0.1, 15), (None, 30)])
def test_validation_is_a_number_or_a_fraction(validation: Any, count: int) -> None:
    assert len(data.load("iris", validation=validation).validation) == count


@pytest.mark.parametrize("validation", [0, -1, 1.0, 0.0, True, "10", 118])
def test_wrong_validation_is_refused(validation: Any) -> None:
    refused("validation", data.load, "iris", validation=validation)


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, True, None])
def test_wrong_seed_is_refused(seed: Any) -> None:
    refused("seed", data.load, "iris", seed=seed)


# Fingerprint


def test_fingerprint_knows_values_dtypes_shapes_and_splits() -> None:
    x = np.arange(6, dtype="uint8").reshape(2, 3)
    variants = [
        {"train": x},
        {"test": x},
        {"train": x.reshape(3, 2)},
        {"train": x.view("int8")},
        {"train": x + 1},
        {"train": x[:1], "test": x[1:]},
        {"train": "streamed"},
    ]
    prints = [dataset.fingerprint(v) for v in variants]
    assert len(set(prints)) == len(variants)
    assert dataset.fingerprint({"train": np.asfortranarray(x)}) == prints[0]


# TFDS


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small real TFDS sets; pixel (0, 0, 0) and `value` tell the label."""
    import tensorflow_datasets

    features = tensorflow_datasets.features
    folder = tmp_path_factory.mktemp("tfds")
    rng = np.random.default_rng(1)

    def store(name: str, spec: dict[str, Any], contents: dict[str, list[dict[str, Any]]]) -> None:
        tensorflow_datasets.dataset_builders.store_as_tfds_dataset(
            name=name,
            version="1.0.0",
            features=features.FeaturesDict(spec),
            split_datasets={s: list(enumerate(e)) for s, e in contents.items()},
            data_dir=folder,
        )

    def shapes(count: int) -> list[dict[str, Any]]:
        images = rng.integers(0, 256, (count, 8, 8, 1), dtype="uint8")
        images[:, 0, 0, 0] = np.arange(count) % 3
        return [{"image": x, "label": int(x[0, 0, 0])} for x in images]

    image = features.Image(shape=(8, 8, 1))
    label = features.ClassLabel(names=["disc", "box", "star"])
    store("drawn", {"image": image, "label": label}, {"train": shapes(60)})
    store(
        "drawn_in_splits",
        {"image": image, "label": label, "mask": image},
        {
            s: [e | {"mask": e["image"]} for e in shapes(n)]
            for s, n in {"train": 30, "validation": 7, "test": 9}.items()
        },
    )
    store(
        "rows",
        {"value": features.Tensor(shape=(2,), dtype=np.float64)},
        {"only": [{"value": [float(i), float(i * i)]} for i in range(20)]},
    )
    store(
        "infinite",
        {"value": features.Tensor(shape=(2,), dtype=np.float64)},
        {"train": [{"value": [1.0, np.inf if i == 3 else 0.0]} for i in range(20)]},
    )
    store(
        "many_sizes",
        {"image": features.Image(shape=(None, None, 1))},
        {"train": [{"image": np.zeros((4 + i, 4, 1), "uint8")} for i in range(20)]},
    )
    store(
        "two_halves",
        {"image": image, "label": label},
        {"left": shapes(10), "right": shapes(10)},
    )
    return folder


def test_tfds_without_splits_yields_three(tfds_dir: Path) -> None:
    loaded = data.load("tfds:drawn", data_dir=tfds_dir)
    assert [len(loaded.train), len(loaded.validation), len(loaded.test)] == [48, 6, 6]
    assert loaded.train.dtype == np.uint8 and loaded.input_shape == (8, 8, 1)
    assert loaded.value_range == (0.0, 1.0) and loaded.class_names == ("disc", "box", "star")
    everything = np.unique(examples_of(loaded).reshape(60, -1), axis=0)
    assert len(everything) == 60, "an example is in two splits"
    for split in splits.SPLITS:
        np.testing.assert_array_equal(getattr(loaded, split)[:, 0, 0, 0], loaded.labels[split])
    other = data.load("drawn", data_dir=tfds_dir, seed=1)
    assert other.fingerprint != loaded.fingerprint


def test_tfds_validation_is_the_end_of_train(tfds_dir: Path) -> None:
    whole = np.concatenate(list(_read_tfds("drawn_in_splits", "train", tfds_dir)))
    loaded = data.load("drawn_in_splits", data_dir=tfds_dir)
    np.testing.assert_array_equal(loaded.train.reshape(-1, 8, 1), whole)
    assert [len(loaded.validation), len(loaded.test)] == [7, 9]
    train = np.stack(list(_read_tfds("drawn", "train", tfds_dir)))
    cut = data.load("drawn", data_dir=tfds_dir, validation=10)
    rest = np.stack([x for x in train if not (cut.test == x).all(axis=(1, 2, 3)).any()])
    np.testing.assert_array_equal(cut.train, rest[:-10])
    np.testing.assert_array_equal(cut.validation, rest[-10:])


def _read_tfds(name: str, split: str, folder: Path) -> Any:
    import tensorflow_datasets

    builder = tensorflow_datasets.builder(name, data_dir=folder)
    return (e["image"] for e in builder.as_dataset(split=split).as_numpy_iterator())


@pytest.mark.parametrize("name", ["drawn", "drawn_in_splits", "rows"])
def test_large_tfds_splits_stream_the_same_examples(
    name: str, tfds_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident = data.load(name, data_dir=tfds_dir)
    monkeypatch.setattr(dataset, "RESIDENT_BYTES", 1)
    streamed = data.load(name, data_dir=tfds_dir)
    for split in splits.SPLITS:
        stream, array = getattr(streamed, split), getattr(resident, split)
        assert isinstance(stream, tf.data.Dataset) and isinstance(array, np.ndarray)
        assert stream.element_spec == tf.TensorSpec(array.shape[1:], array.dtype)
        assert int(stream.cardinality()) == len(array)
        for _ in range(2):
            np.testing.assert_array_equal(list(stream.as_numpy_iterator()), array)
        if resident.labels:
            np.testing.assert_array_equal(streamed.labels[split], resident.labels[split])
    assert set(streamed.labels) == set(resident.labels)
    assert streamed.fingerprint == data.load(name, data_dir=tfds_dir).fingerprint
    assert streamed.fingerprint != data.load(name, data_dir=tfds_dir, seed=1).fingerprint or (
        name == "drawn_in_splits"
    )


def test_only_large_splits_stream(tfds_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "RESIDENT_BYTES", 10 * 64)
    loaded = data.load("drawn", data_dir=tfds_dir)
    assert isinstance(loaded.train, tf.data.Dataset)
    assert isinstance(loaded.validation, np.ndarray) and len(loaded.validation) == 6


def test_tfds_tables_are_float32_without_range(tfds_dir: Path) -> None:
    loaded = data.load("rows", data_dir=tfds_dir)
    assert loaded.train.dtype == np.float32 and loaded.value_range is None
    assert loaded.labels == {} and loaded.class_names == ()
    assert_partition(loaded, np.stack([np.arange(20), np.arange(20) ** 2], 1).astype("float32"))


def test_infinite_tfds_values_are_refused(tfds_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused("1 NaN or infinite", data.load, "infinite", data_dir=tfds_dir)
    monkeypatch.setattr(dataset, "RESIDENT_BYTES", 1)
    loaded = data.load("infinite", data_dir=tfds_dir)
    with pytest.raises(tf.errors.InvalidArgumentError, match="NaN or infinite values in infinite"):
        list(loaded.train.concatenate(loaded.validation).concatenate(loaded.test))


def test_tfds_sets_of_another_kind_are_refused(tfds_dir: Path) -> None:
    refused(
        "one image or numeric feature of fixed shape", data.load, "many_sizes", data_dir=tfds_dir
    )
    message = refused("split `train`", data.load, "two_halves", data_dir=tfds_dir)
    assert "['left', 'right']" in message


def test_damaged_tfds_files_are_refused(tfds_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(tfds_dir / "drawn", tmp_path / "drawn")
    (record,) = tmp_path.glob("drawn/1.0.0/*.tfrecord*")
    content = bytearray(record.read_bytes())
    content[len(content) // 2] ^= 255
    record.write_bytes(content)
    refused("damaged: delete that folder", data.load, "drawn", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("fashion_mnits", "closest names are .*fashion_mnist"),
        ("irsi", "closest names are iris"),
        ("qqqqqqqq", "no name comes near"),
        ("mnist:9.9.9", "version 9.9.9"),
        ("mnist_corrupted/rain", "BuilderConfig rain not found"),
        ("huggingface:mnist", "NAME/CONFIG"),
        ("tfds:", "NAME/CONFIG"),
        ("", "name or a path"),
        (7, "name or a path"),
    ],
)
def test_unknown_names_are_refused(name: Any, match: str, tmp_path: Path) -> None:
    refused(match, data.load, name, data_dir=tmp_path)


# TFDS without network


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise socket.gaierror("offline")

    monkeypatch.setattr(socket, "getaddrinfo", fail)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("fashion_mnist", "kerasunsup data import fashion_mnist FOLDER.*/usr/share/datasets/"),
        ("tfds:cifar10", "tfds build cifar10"),
    ],
)
def test_unprepared_and_offline_fails_at_once(
    name: str, remedy: str, offline: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow_datasets

    builder = tensorflow_datasets.core.DatasetBuilder
    monkeypatch.setattr(builder, "download_and_prepare", lambda *a, **k: pytest.fail("retries"))
    start = time.monotonic()
    refused(remedy, data.load, name, data_dir=tmp_path)
    assert time.monotonic() - start < 5
    assert list(tmp_path.iterdir()) == []


def test_a_silent_host_is_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfds, "REACH_SECONDS", 0.1)
    end_of_test = threading.Event()

    def silent(*args: Any, **kwargs: Any) -> Any:
        end_of_test.wait(20)
        return SimpleNamespace(status_code=200)

    monkeypatch.setattr("requests.head", silent)
    start = time.monotonic()
    assert not tfds._reachable("https://example.org")
    assert time.monotonic() - start < 10
    end_of_test.set()


@pytest.mark.parametrize(
    ("status", "reachable"), [(200, True), (302, True), (403, True), (407, False), (503, False)]
)
def test_an_answer_is_online(status: int, reachable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("requests.head", lambda *a, **k: SimpleNamespace(status_code=status))
    assert tfds._reachable("https://example.org") is reachable


def test_a_download_is_announced_and_its_failure_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import tensorflow_datasets

    def fail(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("reset\nby peer")

    monkeypatch.setattr(tfds, "_reachable", lambda url: True)
    monkeypatch.setattr(tensorflow_datasets.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(KerasunsupError, match=r"could not download.*reset by peer") as caught:
        data.load("cifar10", data_dir=tmp_path)
    assert caught.value.exit_code == 1
    assert "Downloading cifar10" in capsys.readouterr().err


# Fashion-MNIST


def strip_header(content: bytes) -> bytes:
    """What Debian does: no name, another time."""
    end = content.index(b"\0", 10) + 1
    return content[:3] + b"\0" + struct.pack("<I", 1591347949) + content[8:10] + content[end:]


@pytest.mark.parametrize(("word", "mtime"), [("train", 1504176606), ("t10k", 1504176627)])
def test_the_gzip_header_is_restored(word: str, mtime: int) -> None:
    name = f"{word}-labels-idx1-ubyte"
    packed = gzip.compress(b"labels" * 100, mtime=mtime)
    upstream = packed[:3] + b"\x08" + packed[4:10] + name.encode() + b"\0" + packed[10:]
    assert fashion_mnist.restore_header(strip_header(upstream), f"{name}.gz") == upstream
    assert gzip.decompress(upstream) == b"labels" * 100
    for other in (upstream, b"", b"not gzip at all"):
        assert fashion_mnist.restore_header(other, f"{name}.gz") == other


@needs_debian
def test_debians_files_become_upstreams(tmp_path: Path) -> None:
    import tensorflow_datasets

    infos = tensorflow_datasets.builder("fashion_mnist", data_dir=tmp_path).url_infos.values()
    assert len(infos) == 4
    for info in infos:
        content = fashion_mnist.upstream_bytes(DEBIAN / info.filename, info.checksum)
        assert len(content) == int(info.size)
        restored = tmp_path / info.filename
        restored.write_bytes(content)
        assert fashion_mnist.upstream_bytes(restored, info.checksum) == content


def test_other_files_are_refused(tmp_path: Path) -> None:
    refused("t10k-images.*No such file", data.import_fashion_mnist, tmp_path, tmp_path / "out")
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"digits"))
    refused("t10k-images.*sha256", data.import_fashion_mnist, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@needs_debian
def test_an_unwritable_data_dir_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="TFDS_DATA_DIR"):
        data.import_fashion_mnist(DEBIAN, tmp_path / "file")


@needs_debian
@pytest.mark.slow
def test_fashion_mnist_is_imported_offline(offline: None, tmp_path: Path) -> None:
    assert data.import_fashion_mnist(DEBIAN, tmp_path).is_relative_to(tmp_path)
    loaded = data.load("fashion_mnist", data_dir=tmp_path)
    assert loaded.train.shape == (50_000, 28, 28, 1) and loaded.train.dtype == np.uint8
    assert loaded.validation.shape == loaded.test.shape == (10_000, 28, 28, 1)
    assert loaded.license == "MIT" and len(loaded.class_names) == 10
    whole = _read_tfds("fashion_mnist", "train[-10000:]", tmp_path)
    np.testing.assert_array_equal(np.stack(list(whole)), loaded.validation)
    for part, kind in (("train", "train"), ("t10k", "test")):
        content = gzip.decompress((DEBIAN / f"{part}-images-idx3-ubyte.gz").read_bytes())[16:]
        official = np.frombuffer(content, "uint8").reshape(-1, 784)
        ours = [loaded.train, loaded.validation] if kind == "train" else [loaded.test]
        found = np.concatenate(ours).reshape(-1, 784)
        assert sorted(map(bytes, found)) == sorted(map(bytes, official))


# The user's files


def write(path: Path, x: np.ndarray, y: np.ndarray | None = None) -> Path:
    """Writes examples in the format of the suffix; a path without one becomes a folder."""
    if path.suffix == ".npy":
        np.save(path, x)
    elif path.suffix == ".npz":
        np.savez(path, x=x, **({} if y is None else {"y": y}))
    elif path.suffix in (".csv", ".parquet"):
        import pyarrow
        from pyarrow import csv, parquet

        columns = {f"f{i}": x[:, i] for i in range(x.shape[1])}
        table = pyarrow.table(columns | ({} if y is None else {"label": y}))
        (csv.write_csv if path.suffix == ".csv" else parquet.write_table)(table, path)
    else:
        for i, pixels in enumerate(x):
            folder = path if y is None else path / f"class{y[i]}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.squeeze()).save(folder / f"{i:03}.png")
    return path


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.csv", "a.parquet", "folder"])
@pytest.mark.parametrize("labelled", [False, True])
def test_files_yield_three_splits(name: str, labelled: bool, tmp_path: Path) -> None:
    if name == "a.npy" and labelled:
        pytest.skip("an .npy file holds one array")
    x = PIXELS if name in ("folder", "a.npy") else TABLE
    loaded = data.load(write(tmp_path / name, x, CLASSES if labelled else None))
    assert [len(loaded.train), len(loaded.validation), len(loaded.test)] == [32, 4, 4]
    assert loaded.train.dtype == x.dtype and loaded.input_shape == x.shape[1:]
    assert loaded.value_range == ((0.0, 1.0) if x is PIXELS else None)
    assert_partition(loaded, x)
    assert set(loaded.labels) == (set(splits.SPLITS) if labelled else set())
    for split, y in loaded.labels.items():
        expected = {row.tobytes(): c for row, c in zip(x, CLASSES, strict=True)}
        assert [expected[row.tobytes()] for row in getattr(loaded, split)] == y.tolist()
        assert y.dtype == np.int64 and len(loaded.class_names) == 4
    again = data.load(str(tmp_path / name))
    assert again.fingerprint == loaded.fingerprint
    assert data.load(tmp_path / name, seed=3).fingerprint != loaded.fingerprint
    assert len(data.load(tmp_path / name, validation=20).validation) == 20


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "folder"])
def test_large_files_stream_the_same_examples(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / name, PIXELS)
    resident = data.load(path)
    monkeypatch.setattr(dataset, "RESIDENT_BYTES", 1)
    streamed = data.load(path)
    for split in splits.SPLITS:
        stream, array = getattr(streamed, split), getattr(resident, split)
        assert isinstance(stream, tf.data.Dataset)
        assert stream.element_spec == tf.TensorSpec(array.shape[1:], array.dtype)
        assert int(stream.cardinality()) == len(array)
        np.testing.assert_array_equal(list(stream.as_numpy_iterator()), array)
    assert streamed.fingerprint == data.load(path).fingerprint
    changed = PIXELS.copy()
    changed[7, 3, 3] ^= 1
    assert data.load(write(path, changed)).fingerprint != streamed.fingerprint


def test_npz_keys_name_the_splits(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x_train=TABLE[:20], x_test=TABLE[30:], y_train=CLASSES[:20], y_test=CLASSES[30:])
    loaded = data.load(path)
    np.testing.assert_array_equal(loaded.test, TABLE[30:])
    np.testing.assert_array_equal(loaded.labels["test"], CLASSES[30:])
    assert [len(loaded.train), len(loaded.validation)] == [18, 2]
    np.savez(path, train=TABLE[:20], validation=TABLE[20:25], test=TABLE[25:])
    loaded = data.load(path)
    np.testing.assert_array_equal(loaded.train, TABLE[:20])
    np.testing.assert_array_equal(loaded.validation, TABLE[20:25])
    np.savez(path, TABLE)
    assert_partition(data.load(path), TABLE)


@pytest.mark.parametrize(
    "keys",
    [["test"], ["x", "train"], ["train", "x_val"], ["x", "y", "y_test"], ["arr_0", "arr_1"]],
)
def test_other_npz_keys_are_refused(keys: list[str], tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **dict.fromkeys(keys, TABLE))
    assert str(sorted(keys)) in refused("must hold `train`", data.load, tmp_path / "a.npz")


def test_splits_of_unlike_shape_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", train=TABLE, test=TABLE[:, :2])
    refused(r"shape and dtype of train.*test float32 \(2,\)", data.load, tmp_path / "a.npz")


def test_labels_may_be_text_or_any_whole_numbers() -> None:
    loaded = data.as_dataset((TABLE, np.array(["b", "a", "c", "a"] * 10)))
    assert loaded.class_names == ("a", "b", "c")
    assert set(loaded.labels["train"]) == {0, 1, 2}
    signs = data.as_dataset({"x": TABLE, "y": np.where(CLASSES > 1, 1.0, -1.0)[:, None]})
    assert signs.class_names == ("-1.0", "1.0") and set(signs.labels["train"]) == {0, 1}
    gaps = data.as_dataset({"x": TABLE, "y": np.array([0, 3] * 20)})
    assert gaps.class_names == ("0", "1", "2", "3") and set(gaps.labels["train"]) == {0, 3}


@pytest.mark.parametrize("y", [CLASSES[:-1], CLASSES + 0.5, np.full(40, np.nan), TABLE])
def test_wrong_labels_are_refused(y: np.ndarray) -> None:
    refused("one whole number or text", data.as_dataset, (TABLE, y))


def with_value(value: float) -> np.ndarray:
    bad = TABLE.astype("float64")
    bad[5, 1] = value
    return bad


BAD_ARRAYS = {
    "NaN": (with_value(np.nan), "1 NaN or infinite of 120"),
    "infinite": (with_value(-np.inf), "1 NaN or infinite of 120"),
    "float32 overflow": (with_value(1e300), "1 NaN or infinite of 120"),
    "empty": (TABLE[:0], "at least one example"),
    "no features": (TABLE[:, :0], "at least one example"),
    "scalar": (np.float32(3), "at least one example"),
    "vector": (TABLE[:, 0], r"x\[:, None\]"),
    "text": (np.array([["a"], ["b"]]), "numeric"),
    "complex": (TABLE.astype(complex), "numeric"),
    "pixels as floats": (PIXELS.astype("float32"), "pass them as uint8"),
    "pixels below 0": (PIXELS / 127.5 - 1, r"\[0, 1\]"),
    "too few": (TABLE[:2], "more training examples"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays_are_refused(case: str, tmp_path: Path) -> None:
    array, match = BAD_ARRAYS[case]
    np.save(tmp_path / "bad.npy", array)
    refused(match, data.load, tmp_path / "bad.npy")
    np.savez(tmp_path / "bad.npz", x=array)
    refused(match, data.load, tmp_path / "bad.npz")
    refused(match, data.as_dataset, array)
    if case not in ("too few", "pixels as floats", "pixels below 0"):
        refused(match, data.read_inputs, tmp_path / "bad.npy")


def test_bad_values_are_found_in_every_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kerasunsup.data.files._CHUNK_BYTES", 4 * 3 * 2)
    for row in (0, 1, 20, 39):
        bad = TABLE.copy()
        bad[row] = np.nan
        refused("NaN or infinite", data.as_dataset, bad)


def test_ragged_data_are_refused(tmp_path: Path) -> None:
    refused("rectangular", data.as_dataset, [[1.0, 2.0], [3.0]])
    ragged = np.array([np.zeros(2), np.zeros(3)], dtype=object)
    refused("numeric", data.as_dataset, ragged)
    np.save(tmp_path / "ragged.npy", ragged, allow_pickle=True)
    refused("ragged.npy must be a NumPy .npy file", data.load, tmp_path / "ragged.npy")
    (tmp_path / "ragged.csv").write_text("a,b\n1,2\n3\n")
    refused(
        "ragged.csv must be a CSV table.*Expected 2 columns", data.load, tmp_path / "ragged.csv"
    )


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.parquet", "a.png", "a.jpg"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.98])
def test_truncated_files_are_refused_by_name(name: str, kept: float, tmp_path: Path) -> None:
    path = tmp_path / name
    if path.suffix in (".png", ".jpg"):
        Image.fromarray(RNG.integers(0, 256, (60, 60, 3), dtype="uint8")).save(path)
        for i in range(4):
            shutil.copy(path, tmp_path / f"{i}{path.suffix}")
    else:
        write(path, TABLE)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    refused(f"{name} must be", data.load, tmp_path if path.suffix in (".png", ".jpg") else path)
    refused(f"{name} must be", data.read_inputs, path)


def test_a_streamed_folder_is_read_lazily(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "RESIDENT_BYTES", 1)
    write(tmp_path / "folder", PIXELS)
    loaded = data.load(tmp_path / "folder")
    for path in (tmp_path / "folder").iterdir():
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(tf.errors.OpError, match=r"\.png must be"):
        list(loaded.train)


@pytest.mark.parametrize("read", [data.load, data.read_inputs])
def test_missing_and_foreign_files_are_refused(read: Any, tmp_path: Path) -> None:
    refused("nowhere.npy .not found", read, str(tmp_path / "nowhere.npy"))
    refused("not found", read, tmp_path / "nowhere")
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    refused(r"one of \.npy, \.npz, \.csv, \.parquet", read, tmp_path / "a.xlsx")


BAD_TABLES = {
    "a,b\n1,2\n3,\n": "column `b` must have a value in every row.*1 missing of 2",
    "a,b\n1,2\n3,NaN\n": "column `b` must have a value in every row",
    "a,b\n1,inf\n3,4\n5,6\n": "1 NaN or infinite",
    "a,b\n1,red\n3,blue\n": "column `b` must be numeric",
    "a,b\n": "0 rows",
    "": "must be a CSV table",
    "label\n1\n2\n": "expected rows of numeric columns",
    "a,a\n1,2\n3,4\n": "a name of its own",
}


@pytest.mark.parametrize("text", BAD_TABLES)
def test_bad_tables_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    assert str(path) in refused(BAD_TABLES[text], data.load, path)
    assert str(path) in refused(BAD_TABLES[text], data.read_inputs, path)


def test_a_csv_needs_no_header(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("".join(f"{i},{i * i}\n" for i in range(10)))
    rows = data.read_inputs(tmp_path / "a.csv")
    np.testing.assert_array_equal(rows, [[i, i * i] for i in range(10)])
    assert rows.dtype == np.float32


def test_missing_pyarrow_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", TABLE)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused("pip install pyarrow", data.load, path)


# Folders of images


def test_pictures_of_several_sizes_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "folder", PIXELS)
    Image.new("RGB", (9, 7)).save(tmp_path / "folder" / "017.png")
    message = refused("of one size", data.load, tmp_path / "folder")
    assert "017.png" in message and "5x6" in message and "9x7" in message


def test_grey_stays_grey_and_mixed_becomes_rgb(tmp_path: Path) -> None:
    write(tmp_path / "folder", PIXELS[..., :1])
    grey = data.read_inputs(tmp_path / "folder")
    np.testing.assert_array_equal(grey, PIXELS[..., :1])
    Image.fromarray(PIXELS[0]).save(tmp_path / "folder" / "000.png")
    mixed = data.read_inputs(tmp_path / "folder")
    np.testing.assert_array_equal(mixed[0], PIXELS[0])
    np.testing.assert_array_equal(mixed[1], np.repeat(PIXELS[1, ..., :1], 3, axis=-1))


def test_sixteen_bit_pictures_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 40_000, "uint16")).save(tmp_path / "a.png")
    refused("8 bits a channel", data.read_inputs, tmp_path / "a.png")


def test_folders_of_another_layout_are_refused(tmp_path: Path) -> None:
    refused("0 images directly, 0 subfolders", data.load, tmp_path)
    write(tmp_path / "mixed", PIXELS, CLASSES)
    Image.fromarray(PIXELS[0]).save(tmp_path / "mixed" / "a.png")
    refused("1 images directly, 4 subfolders", data.load, tmp_path / "mixed")
    write(tmp_path / "splits" / "train", PIXELS)
    write(tmp_path / "splits" / "test", PIXELS)
    refused("subfolders are classes, not splits", data.load, tmp_path / "splits")


# Inputs of commands, and anything as a data set


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.csv", "a.parquet", "folder"])
def test_inputs_keep_their_order(name: str, tmp_path: Path) -> None:
    x = PIXELS if name == "folder" else TABLE
    found = data.read_inputs(str(write(tmp_path / name, x)))
    np.testing.assert_array_equal(found, x)
    assert found.dtype == x.dtype and type(found) is np.ndarray


def test_one_picture_is_a_batch_of_one(tmp_path: Path) -> None:
    Image.fromarray(PIXELS[3]).save(tmp_path / "one.png")
    np.testing.assert_array_equal(data.read_inputs(tmp_path / "one.png"), PIXELS[3:4])


def test_inputs_from_npz_are_chosen_by_key(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, latent=TABLE, log_variance=TABLE - 1)
    np.testing.assert_array_equal(data.read_inputs(path, key="latent"), TABLE)
    assert "['latent', 'log_variance']" in refused("called `x`", data.read_inputs, path)
    np.savez(path, anything=TABLE)
    np.testing.assert_array_equal(data.read_inputs(path), TABLE)


LONG = 120_000  # rows: more than Arrow reads of a table at once


def test_a_long_table_may_go_on_otherwise_than_it_begins(tmp_path: Path) -> None:
    values = np.arange(2.0 * LONG).reshape(LONG, 2)
    values[-1] += 0.5  # whole numbers, then a fraction
    labels = [*map(str, range(LONG - 1)), "last"]
    path = tmp_path / "a.csv"
    lines = [f"{a},{name},{b}" for (a, b), name in zip(values, labels, strict=True)]
    path.write_text("\n".join(["a,label,b", *lines]))
    rows = data.open_inputs(path, scratch=tmp_path)
    assert rows.count == LONG and [*tmp_path.iterdir()] == [path]
    np.testing.assert_array_equal(rows.read(np.array([LONG - 1, 3])), values[[-1, 3]])
    arrow_table = pa.table({"a": values[:, 0], "b": values[:, 1]})
    parquet.write_table(arrow_table, tmp_path / "a.parquet", row_group_size=LONG // 3)
    np.testing.assert_array_equal(data.read_inputs(tmp_path / "a.parquet"), values)
    for bad, named in (("red", "invalid value 'red'"), ("", "1 missing"), ("inf", "infinite")):
        path.write_text("\n".join(["a,b", *(f"{i},{i}" for i in range(LONG)), f"1,{bad}"]))
        refused(f"(?i){named}", data.read_inputs, path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_is_unpacked_as_numpy_reads_it(save: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    for x in (TABLE, np.asfortranarray(TABLE), PIXELS, TABLE.astype("int16")):
        save(path, x)
        rows = data.open_inputs(path, scratch=tmp_path)
        assert [*tmp_path.iterdir()] == [path]
        np.testing.assert_array_equal(rows.read(np.arange(rows.count)), x)
        np.testing.assert_array_equal(rows.read(np.array([2, 1])), x[[2, 1]])
    save(path, np.array([[None]]))
    refused("a.npz must be a NumPy .npz file.*Python objects", data.read_inputs, path)


def test_a_full_disk_is_not_the_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.npz", TABLE)
    with Path("/dev/full").open("r+b", buffering=0) as full:
        monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: full)
        with pytest.raises(OutputError, match="a.npz: free some space.*No space left"):
            data.read_inputs(path)


def test_grey_pixels_get_a_channel_axis() -> None:
    loaded = data.as_dataset(PIXELS[..., 0])
    assert loaded.input_shape == (6, 5, 1) and loaded.is_image
    assert data.as_dataset(PIXELS[..., 0] / 255).input_shape == (6, 5)


def test_anything_becomes_a_data_set(tmp_path: Path) -> None:
    iris = data.load("iris")
    assert data.as_dataset(iris) is iris
    assert data.as_dataset("iris").fingerprint == iris.fingerprint
    from_file = data.as_dataset(write(tmp_path / "a.npy", TABLE))
    assert data.as_dataset(TABLE).fingerprint == from_file.fingerprint
    pair = data.as_dataset((TABLE, CLASSES))
    assert pair.fingerprint == from_file.fingerprint and set(pair.labels) == set(splits.SPLITS)
    refused("must hold `train`", data.as_dataset, {"images": TABLE})


def test_importing_the_package_is_light() -> None:
    heavy = "{'tensorflow', 'tensorflow_datasets', 'pandas', 'PIL', 'sklearn', 'pyarrow'}"
    code = f"import sys, kerasunsup.data; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
