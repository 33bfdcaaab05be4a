"""Whether the loop over training steps is compiled with XLA, where `compile` leaves it open."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import tensorflow as tf
from tensorflow.python.framework.config import is_op_determinism_enabled

if TYPE_CHECKING:
    from kerasunsup.models.base import UnsupervisedModel

LEAST_STEPS = 100  # of an epoch: compiling takes about as long as a thousand steps
SLOW_ON_CPU = ("Conv2D", "Conv3D", "DepthwiseConv2dNative")  # and their gradients

Loop = Callable[..., Any]


def compiled(model: UnsupervisedModel, steps_per_epoch: int, loop: Loop, arguments: Any) -> Loop:
    """The loop, compiled with XLA if `compile(jit_compile=…)` says so, or if that is faster.

    What is chosen depends on the model and its epochs alone, not on how many there are: a resumed
    run must compute as the uninterrupted one does.

    Args:
        model: Compiled model.
        steps_per_epoch: Steps of an epoch.
        loop: The steps of a call.
        arguments: Tensors, or specs, that `loop` is called with.
    """
    if not (_worthwhile(model, steps_per_epoch) if model.jit_steps is None else model.jit_steps):
        return loop

    def flat(*tensors: Any) -> None:
        loop(*tf.nest.pack_sequence_as(arguments, tensors))

    function = tf.function(tf.autograph.experimental.do_not_convert(flat), jit_compile=True)
    if model.jit_steps is None:
        specs = [tf.TensorSpec(one.shape, one.dtype) for one in tf.nest.flatten(arguments)]
        if not (_fast(function, specs) and _possible(function, specs)):
            return loop
    return lambda *given: function(*tf.nest.flatten(given))


def _worthwhile(model: UnsupervisedModel, steps_per_epoch: int) -> bool:
    """Whether model and epochs allow it; layers of Keras say of themselves if XLA has them."""
    if model.distribute_strategy.num_replicas_in_sync > 1 or steps_per_epoch < LEAST_STEPS:
        return False
    if is_op_determinism_enabled() or not all(one.supports_jit for one in model._flatten_layers()):
        return False
    return _has_gpu() or model.compute_dtype == "float32"  # 16 bits are slow there on a CPU


def _fast(function: Any, specs: list[tf.TensorSpec]) -> bool:
    """Without convolutions, whose loops XLA runs slowly on a CPU."""
    if _has_gpu():
        return True
    graph = function.get_concrete_function(*specs).graph.as_graph_def()
    nodes = [graph.node, *(one.node_def for one in graph.library.function)]
    return not any(node.op.startswith(SLOW_ON_CPU) for some in nodes for node in some)


def _possible(function: Any, specs: list[tf.TensorSpec]) -> bool:
    """Whether XLA has all operations of the loop."""
    lower = function.experimental_get_compiler_ir(*specs)
    device = tf.config.list_logical_devices("GPU" if _has_gpu() else "CPU")[0].name
    try:
        with warnings.catch_warnings(action="ignore"):  # without a name it draws a random number
            lower(stage="hlo", device_name=device)
    except (tf.errors.OpError, TypeError, ValueError):
        return False
    return True


def _has_gpu() -> bool:
    return bool(tf.config.list_logical_devices("GPU"))
