"""Adam in one kernel against Keras' own, value by value."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from replicated import mirrored

from kerasunsup.models import fused_adam

SHAPES = [(5, 3), (3,), ()]


def variables():
    rng = np.random.default_rng(0)
    return [keras.Variable(rng.normal(size=shape), dtype="float32") for shape in SHAPES]


def adam(**options):
    schedule = keras.optimizers.schedules.CosineDecay(0.01, 10)
    options = {"beta_1": 0.5, "beta_2": 0.99, "epsilon": 1e-4, **options}
    return keras.optimizers.Adam(schedule, **options)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("options", [{}, {"beta_1": 0}, {"beta_1": np.float64(0.9)}], ids=str)
def test_updates_are_those_of_keras(options, compiled):
    ours, theirs = adam(**options), adam(**options)
    mine, kept = variables(), variables()
    ours.build(mine)
    theirs.build(kept)
    assert fused_adam.applicable(ours, mine)
    step = tf.function(lambda given: fused_adam.apply(ours, given, mine), jit_compile=compiled)
    rng = np.random.default_rng(1)
    for _ in range(6):
        gradients = [tf.constant(rng.normal(size=shape), tf.float32) for shape in SHAPES]
        step(gradients)
        theirs.apply_gradients(zip(gradients, kept, strict=True))
    assert int(ours.iterations) == 6
    pairs = zip([*mine, *ours.variables], [*kept, *theirs.variables], strict=True)
    for p, q in pairs:
        np.testing.assert_allclose(p, q, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(),
        lambda: keras.optimizers.AdamW(),
        lambda: adam(amsgrad=True),
        lambda: adam(weight_decay=0.1),
        lambda: adam(use_ema=True),
        lambda: adam(loss_scale_factor=8.0),
        lambda: keras.optimizers.LossScaleOptimizer(adam()),
    ],
)
def test_other_optimisers_stay_with_keras(optimizer):
    assert not fused_adam.applicable(optimizer(), variables())


def test_constraints_and_replicas_stay_with_keras():
    kept = keras.Variable(np.ones(3), dtype="float32")
    kept.constraint = keras.constraints.NonNeg()
    assert not fused_adam.applicable(adam(), [kept])
    with mirrored(2).scope():
        assert not fused_adam.applicable(adam(), variables())
