"""The training loops of pythae and PyOD around the networks of `run_torch`.

python -m benchmarks.run_others ROW pythae|PyOD IMAGES.npy WEIGHTS.npz
"""

from __future__ import annotations

import logging
import sys
import tempfile
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.rows import ROWS, Row
from benchmarks.run_torch import Training, load
from benchmarks.units import asked


def with_pyod(row: Row, training: Training, images: torch.Tensor) -> Any:
    """A function that trains an epoch and returns its losses; PyOD keeps none."""
    from pyod.models.auto_encoder import AutoEncoder
    from pyod.utils.torch_utility import TorchDataset

    class Detector(AutoEncoder):
        def build_model(self) -> None:
            self.model = nn.Sequential(
                nn.Unflatten(1, (1, 28, 28)), training.first, training.second
            )
            self.model.append(nn.Flatten())

        def training_forward(self, batch_data: Any) -> float:
            losses.append(super().training_forward(batch_data))
            return losses[-1]

    losses: list[float] = []
    settings = {"batch_size": row.batch, "lr": row.learning_rate, "optimizer_params": {}}
    detector = Detector(epoch_num=1, preprocessing=False, verbose=0, device="cpu", **settings)
    detector.build_model()
    detector.training_prepare()
    rows = images.reshape(len(images), -1).numpy()
    loader = torch.utils.data.DataLoader(
        TorchDataset(X=rows, y=None), row.batch, shuffle=True, drop_last=True
    )

    def epoch() -> dict[str, float]:
        losses.clear()
        detector.train(loader)
        return {"loss": float(np.mean(losses))}

    return epoch


def with_pythae(row: Row, training: Training, images: torch.Tensor) -> Any:
    """A function that trains an epoch and returns its losses."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = training.first

        def forward(self, x: torch.Tensor) -> ModelOutput:
            mean, log_variance = self.network(x).chunk(2, dim=1)
            return ModelOutput(embedding=mean, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = training.second

        def forward(self, z: torch.Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=torch.sigmoid(self.network(z)))

    config = VAEConfig((1, 28, 28), row.latent_dim, reconstruction_loss="bce")
    model = VAE(config, encoder=Encoder(), decoder=Decoder())
    settings = BaseTrainerConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=row.batch,
        learning_rate=row.learning_rate,
        optimizer_cls="Adam",
        no_cuda=True,
    )
    labels = torch.zeros(len(images))
    trainer = BaseTrainer(model, BaseDataset(images, labels), training_config=settings)
    trainer.prepare_training()
    trainer.callback_handler.callbacks = []
    return lambda: {"loss": float(trainer.train_step(1))}


def main(name: str, variant: str, images: str, weights: str) -> None:
    """Trains units until nobody asks for one."""
    logging.disable(logging.INFO)
    torch.manual_seed(0)
    row = ROWS[name]
    tensor = torch.from_numpy(np.load(images)[: row.images, ..., 0]).unsqueeze(1).float() / 255
    begin = {"pythae": with_pythae, "PyOD": with_pyod}[variant]
    epoch = begin(row, Training(row, variant, load(weights)), tensor)
    for answer in asked():
        answer(losses=epoch())


if __name__ == "__main__":
    main(*sys.argv[1:])
