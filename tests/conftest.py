"""Set before TensorFlow starts: CPU only, three logical devices for the tests of replicas."""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Iterator

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ["MPLBACKEND"] = "agg"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 3
)


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Every test draws the same numbers, whichever ran before it."""
    random.seed(0)
    np.random.seed(0)
    tf.random.set_seed(0)


@pytest.fixture(autouse=True, scope="module")
def garbage() -> Iterator[None]:
    """What a module's models leave is collected once, not looked through for ever after."""
    yield
    keras.utils.clear_session()
    gc.collect()
    gc.freeze()
