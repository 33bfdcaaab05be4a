"""Optimisers of all families: what `compile` attaches, how gradients are applied, what is kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from kerasunsup.errors import InputError
from kerasunsup.models import fused_adam
from kerasunsup.models.fitting import Fitting
from kerasunsup.replicas import copies, replica_count


class Compiling(Fitting):
    """`compile` with one optimiser for each of `optimizer_variables`; `minimize` in a step."""

    clip_norm: float | None = None
    _optimized: Mapping[str, list[int]] = {}
    _train_functions: dict[Any, Any]

    @property
    def optimizer_variables(self) -> dict[str, list[Any]]:
        """Name of each optimiser -> the variables it trains."""
        return {"optimizer": self.trainable_variables}

    @property
    def parameters(self) -> int:
        """Number of values that training chooses."""
        return sum(math.prod(weight.shape) for weight in self.trainable_weights)

    @property
    def training_state(self) -> list[Any]:
        """Every variable that training changes: weights, random states, those of optimisers."""
        optimizers = [getattr(self, name) for name in self.optimizer_variables]
        return [*self.variables, *(v for optimizer in optimizers for v in optimizer.variables)]

    def snapshot(self) -> dict[str, Any]:
        """A copy in memory of all that training changes, for `rewind`."""
        return {
            "steps": self.steps_done,
            "compile": self.get_compile_config(),
            "values": [variable.numpy() for variable in self.training_state],
        }

    def rewind(self, snapshot: Mapping[str, Any]) -> None:
        """Sets weights, random states, optimisers and progress back to a `snapshot`."""
        stage = snapshot["compile"]["progress"]["stage"]
        if self.stage != stage:
            self.stage = stage
            self.freeze_for(stage)
            self._attach(self._optimizers_from(snapshot["compile"]["optimizers"]))
        self.steps_done = snapshot["steps"]
        for variable, value in zip(self.training_state, snapshot["values"], strict=True):
            variable.assign(value)

    def optimizer_steps(self, name: str) -> int:
        """Steps of an optimiser in one training step: the unit of its schedule."""
        return 1

    def optimizer_epochs(self, name: str, epochs: int) -> int:
        """Epochs of a training of `epochs` that an optimiser steps in: those of its schedule."""
        return max(self.stage_epochs(epochs))

    def compile(
        self,
        optimizer: Any = "adam",
        *,
        clip_norm: float | None = None,
        steps_per_execution: int | None = None,
        jit_compile: bool | None = None,
        run_eagerly: bool = False,
    ) -> None:
        """Attaches the optimiser. Losses and metrics are the model's own.

        Args:
            optimizer: Name or Keras optimiser.
            clip_norm: Largest norm of the global gradient over the global batch.
            steps_per_execution: Training steps in one call of the compiled function; chosen
                from the number of steps in an epoch when None.
            jit_compile: Compile the steps with XLA. When None, on one replica, where an epoch of
                arrays has a hundred steps or more and XLA has every operation: on a GPU always, on
                a CPU in float32 and without convolutions, whose XLA loops are slow.
            run_eagerly: Run step by step in Python, for debugging.
        """
        self.compile_optimizers(
            {"optimizer": optimizer}, clip_norm, steps_per_execution, jit_compile, run_eagerly
        )

    def compile_optimizers(
        self,
        optimizers: Mapping[str, Any],
        clip_norm: float | None,
        steps_per_execution: int | None,
        jit_compile: bool | None,
        run_eagerly: bool,
    ) -> None:
        """What `compile` of every family ends in: one optimiser for each optimizer_variables."""
        super().compile(
            optimizer=None,
            loss=getattr(self, "loss", None),
            run_eagerly=run_eagerly,
            jit_compile=False,
        )
        self.clip_norm = clip_norm
        self.jit_steps = jit_compile
        self.requested_steps_per_execution = steps_per_execution
        self._train_functions = {}
        self._attach(optimizers)

    def _attach(self, optimizers: Mapping[str, Any]) -> None:
        """Builds an optimiser for each of `optimizer_variables`."""
        self._optimized = {}
        with self.distribute_strategy.scope():
            for name, variables in self.optimizer_variables.items():
                chosen = _optimizer(optimizers[name], name)
                self._check_clipping(chosen)
                if self.dtype_policy.name == "mixed_float16" and not isinstance(
                    chosen, keras.optimizers.LossScaleOptimizer
                ):
                    chosen = keras.optimizers.LossScaleOptimizer(chosen)
                chosen.build(variables)
                setattr(self, name, chosen)
                self._optimized[name] = [id(variable) for variable in variables]

    @property
    def optimizers_outdated(self) -> bool:
        """Whether other variables are trainable now than when the optimisers were built."""
        wanted = {
            name: [id(variable) for variable in variables]
            for name, variables in self.optimizer_variables.items()
        }
        return wanted != self._optimized

    def renew_optimizers(self) -> None:
        """Replaces each optimiser by a new one, of the same settings, for what is trained now."""
        self._attach(self._optimizers_from(self.get_compile_config()["optimizers"]))

    def _optimizers_from(self, configs: Mapping[str, Any]) -> dict[str, Any]:
        restore = keras.saving.deserialize_keras_object
        with self.distribute_strategy.scope():
            return {name: restore(config) for name, config in configs.items()}

    @staticmethod
    def _check_clipping(optimizer: Any) -> None:
        for name in ("clipnorm", "global_clipnorm", "clipvalue", "gradient_accumulation_steps"):
            if getattr(optimizer, name, None):
                raise InputError(
                    f"Optimiser argument `{name}` acts before gradients are summed over replicas: "
                    f"use compile(clip_norm=…). Received: {name}={getattr(optimizer, name)}"
                )

    def get_compile_config(self) -> dict[str, Any]:
        if not self.compiled:
            return {}
        return {
            "optimizers": {
                name: keras.saving.serialize_keras_object(getattr(self, name))
                for name in self.optimizer_variables
            },
            "clip_norm": self.clip_norm,
            "steps_per_execution": self.requested_steps_per_execution,
            "jit_compile": self.jit_steps,
            "progress": {"stage": self.stage, "steps": self.steps_done},
        }

    def compile_from_config(self, config: dict[str, Any]) -> None:
        config = dict(config)
        progress = config.pop("progress", None)
        if progress and progress["steps"]:
            self.stage, self.steps_done = progress["stage"], progress["steps"]
            self.freeze_for(self.stage)
        self.compile(**self._optimizers_from(config.pop("optimizers")), **config)

    def minimize(
        self, tape: tf.GradientTape, loss: Any, variables: list[Any], optimizer: str = "optimizer"
    ) -> None:
        """Applies one optimiser's step; clipping and loss scaling see the global gradient."""
        chosen = getattr(self, optimizer)
        gradients = tape.gradient(loss, variables, unconnected_gradients="zero")
        replicas = replica_count()
        scaling = isinstance(chosen, keras.optimizers.LossScaleOptimizer)
        reduce_first = replicas > 1 and (scaling or self.clip_norm)
        if reduce_first:
            context = tf.distribute.get_replica_context()
            gradients = context.all_reduce("SUM", gradients)
        if self.clip_norm:
            scale = tf.cast(chosen.dynamic_scale, tf.float32) if scaling else 1.0
            gradients, _ = tf.clip_by_global_norm(gradients, self.clip_norm * scale)
        counted = replicas if reduce_first else copies()
        if counted > 1:  # apply_gradients sums over the replicas
            gradients = [tf.convert_to_tensor(gradient) / counted for gradient in gradients]
        if fused_adam.applicable(chosen, variables):
            fused_adam.apply(chosen, gradients, variables)
        else:
            chosen.apply_gradients(zip(gradients, variables, strict=True))


def _optimizer(given: Any, name: str) -> keras.optimizers.Optimizer:
    try:
        return keras.optimizers.get(given)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"`{name}` must be the name of a Keras optimiser or an optimiser. Received: {given!r}"
        ) from error
