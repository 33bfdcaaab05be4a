"""Whether the loop over training steps is compiled with XLA, where `compile` leaves it open."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import tensorflow as tf

if TYPE_CHECKING:
    from kerasunsup.models.base import UnsupervisedModel

LEAST_STEPS = 100  # of an epoch: compiling costs about as much as a thousand steps
SLOW_ON_CPU = ("Conv2D", "Conv3D", "DepthwiseConv2dNative", "_FusedConv")  # and their gradients


def wanted(
    model: UnsupervisedModel, steps_per_epoch: int, loop: Callable[..., None], arguments: Any
) -> bool:
    """What `compile(jit_compile=…)` says; by default whether XLA can do it, and faster.

    It depends on the model and its epochs alone, not on how many there are: a resumed run must
    compute as the uninterrupted one does.

    Args:
        model: Compiled model.
        steps_per_epoch: Steps of an epoch.
        loop: The steps of a call.
        arguments: Tensors or specs that `loop` is called with.
    """
    if model.jit_steps is not None:
        return model.jit_steps
    if model.distribute_strategy.num_replicas_in_sync > 1 or steps_per_epoch < LEAST_STEPS:
        return False
    loop = tf.autograph.experimental.do_not_convert(loop)
    specs = tf.nest.map_structure(_spec, arguments)
    if not tf.config.list_logical_devices("GPU"):
        if model.compute_dtype != "float32":
            return False  # its matrix products in 16 bits are slow
        graph = tf.function(loop).get_concrete_function(*specs).graph.as_graph_def()
        functions = [graph.node, *(one.node_def for one in graph.library.function)]
        if any(node.op.startswith(SLOW_ON_CPU) for nodes in functions for node in nodes):
            return False
    try:
        lowered = tf.function(loop, jit_compile=True).experimental_get_compiler_ir(*specs)
        lowered(stage="hlo")
    except (tf.errors.OpError, ValueError, TypeError):
        return False
    return True


def _spec(tensor: Any) -> tf.TensorSpec:
    return tf.TensorSpec(tensor.shape, tensor.dtype)
