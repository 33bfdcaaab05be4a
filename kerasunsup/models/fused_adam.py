"""Adam's update of a variable in one kernel, where Keras takes ten operations over its values.

The kernel computes what `keras.optimizers.Adam` does and writes the state of that optimiser, so
what is saved and resumed stays Keras' own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf


def applicable(optimizer: keras.optimizers.Optimizer, variables: Sequence[Any]) -> bool:
    """Whether the kernel does all that this optimiser would."""
    return (
        type(optimizer) is keras.optimizers.Adam
        and not (optimizer.amsgrad or optimizer.weight_decay or optimizer.use_ema)
        and not optimizer.loss_scale_factor
        and not tf.distribute.has_strategy()
        and not any(one.constraint or one.overwrite_with_gradient for one in variables)
        and all(one.dtype == "float32" for one in variables)
    )


def apply(
    optimizer: keras.optimizers.Adam, gradients: Sequence[Any], variables: Sequence[Any]
) -> None:
    """One step: Kingma & Ba 2015 (https://arxiv.org/abs/1412.6980), section 2, last paragraph."""
    step = tf.cast(optimizer.iterations + 1, tf.float32)
    rate, beta_1, beta_2 = (
        tf.cast(value, tf.float32)
        for value in (optimizer.learning_rate, optimizer.beta_1, optimizer.beta_2)
    )
    settings = {
        "beta1_power": tf.pow(beta_1, step),
        "beta2_power": tf.pow(beta_2, step),
        "lr": rate,
        "beta1": beta_1,
        "beta2": beta_2,
        "epsilon": tf.cast(optimizer.epsilon, tf.float32),
    }
    for gradient, variable in zip(gradients, variables, strict=True):
        i = optimizer._get_variable_index(variable)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=optimizer._momentums[i].handle,
            v=optimizer._velocities[i].handle,
            grad=tf.convert_to_tensor(gradient),
            **settings,
        )
    optimizer.iterations.assign_add(1)
