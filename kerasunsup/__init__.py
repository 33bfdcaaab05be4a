"""A zoo of deep unsupervised models for Keras and TensorFlow: trained, measured, exported, served.

Public names are imported when they are first used: `import kerasunsup` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kerasunsup import data as data
    from kerasunsup import zoo as zoo
    from kerasunsup.evaluation import evaluate as evaluate
    from kerasunsup.export import export as export
    from kerasunsup.models import GAN as GAN
    from kerasunsup.models import VAE as VAE
    from kerasunsup.models import VQVAE as VQVAE
    from kerasunsup.models import Autoencoder as Autoencoder
    from kerasunsup.models import BarlowTwins as BarlowTwins
    from kerasunsup.models import Classifier as Classifier
    from kerasunsup.models import MaskedAutoencoder as MaskedAutoencoder
    from kerasunsup.models import PretrainFinetune as PretrainFinetune
    from kerasunsup.models import SimCLR as SimCLR
    from kerasunsup.models import StackedAutoencoder as StackedAutoencoder
    from kerasunsup.models import UnsupervisedModel as UnsupervisedModel
    from kerasunsup.training import train as train

__version__ = "0.1.0"

_MODULES = ("data", "export", "zoo")  # `kerasunsup.export` is a module that is also the function
_MEMBERS = {
    "Autoencoder": "models",
    "BarlowTwins": "models",
    "Classifier": "models",
    "GAN": "models",
    "MaskedAutoencoder": "models",
    "PretrainFinetune": "models",
    "SimCLR": "models",
    "StackedAutoencoder": "models",
    "UnsupervisedModel": "models",
    "VAE": "models",
    "VQVAE": "models",
    "evaluate": "evaluation",
    "train": "training",
}

__all__ = [
    "GAN",
    "VAE",
    "VQVAE",
    "Autoencoder",
    "BarlowTwins",
    "Classifier",
    "MaskedAutoencoder",
    "PretrainFinetune",
    "SimCLR",
    "StackedAutoencoder",
    "UnsupervisedModel",
    "__version__",
    "data",
    "evaluate",
    "export",
    "train",
    "zoo",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"kerasunsup.{name}")
    if name in _MEMBERS:
        value = getattr(importlib.import_module(f"kerasunsup.{_MEMBERS[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'kerasunsup' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
