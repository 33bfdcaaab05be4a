"""Active units while training: Burda et al. 2016, section 5.2."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kerasunsup.metrics.representation import ACTIVE_VARIANCE


@keras.saving.register_keras_serializable("kerasunsup")
class ActiveUnits(keras.metrics.Metric):
    """Number of latent dimensions whose posterior mean has a variance over 0.01.

    Args:
        latent_dim: Number of latent dimensions.
    """

    def __init__(self, latent_dim: int, name: str = "active_units", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.latent_dim = latent_dim
        for moment, shape in {
            "count": (),
            "total": (latent_dim,),
            "squares": (latent_dim,),
        }.items():
            setattr(self, moment, self.add_variable(shape, "zeros", name=moment))

    def update_state(self, mean: Any) -> None:
        """Adds posterior means, `(batch, latent_dim)`."""
        mean = ops.cast(mean, "float32")
        self.count.assign_add(ops.cast(ops.shape(mean)[0], "float32"))
        self.total.assign_add(ops.sum(mean, axis=0))
        self.squares.assign_add(ops.sum(ops.square(mean), axis=0))

    def result(self) -> Any:
        count = ops.maximum(self.count, 1.0)
        variance = self.squares / count - ops.square(self.total / count)
        return ops.sum(ops.cast(variance > ACTIVE_VARIANCE, "float32"))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "latent_dim": self.latent_dim}
