"""How each number is measured: the table of protocols. A new family adds its own to `PROTOCOLS`.

The functions behind the table live in this package, one file a subject, and are imported when
they are used: reading names needs neither NumPy nor TensorFlow. The text of a protocol lets a
reader repeat the measurement; its baselines ran under the same one.
"""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kerasunsup.errors import InputError
from kerasunsup.metrics import Metric

if TYPE_CHECKING:
    from kerasunsup.evaluation import Subject

SPLITS = ("train", "validation", "test")
FEWEST_IMAGES = 20  # below, a set of samples is no distribution


@dataclass(frozen=True)
class Protocol:
    """One way to measure.

    Attributes:
        example: A name that matches, for messages.
        measure: "module:function" of a function (subject, match of the name) -> Metric.
        needs: Verbs of the model, or members of the Keras model, that it uses.
        obstacle: (subject) -> why the data do not fit, "" if they do.
        default: (subject) -> the name under which it is measured unasked, "" for never.
        table: README table of a data set that its values stand in, "" for the main one.
    """

    example: str
    measure: str
    needs: tuple[str, ...]
    obstacle: Callable[[Subject], str] = lambda subject: ""
    default: Callable[[Subject], str] = lambda subject: ""
    table: str = ""

    def misfit(self, subject: Subject) -> str:
        """Why this does not fit the model or the data; "" if it does."""
        for need in self.needs:
            if not subject.has(need):
                return f"the model has no `{need}`"
        return self.obstacle(subject)

    def function(self) -> Callable[[Subject, re.Match[str]], Metric]:
        """The function that measures."""
        return pkgutil.resolve_name(self.measure)


def find(name: str) -> tuple[Protocol, re.Match[str]]:
    """The protocol that `name` stands for and the match with its parameters.

    Raises:
        InputError: An unknown name.
    """
    for pattern, protocol in PROTOCOLS.items():
        match = re.fullmatch(pattern, str(name))
        if match:
            return protocol, match
    known = ", ".join(protocol.example for protocol in PROTOCOLS.values())
    raise InputError(f"Protocols are named like {known}. Received: {name!r}")


def _lacks_range(subject: Subject) -> str:
    return "" if subject.data.value_range is not None else "PSNR needs data with a value range"


def _lacks_classes(subject: Subject) -> str:
    labels = subject.data.labels
    if any(split not in labels for split in SPLITS):
        return "it needs data with labels for train, validation and test"
    if len(set(labels["train"].tolist())) < 2:
        return "it needs train labels of two classes or more"
    return ""


def _lacks_draws(subject: Subject) -> str:
    if subject.data.drawn_from is not None:
        return "the model has seen labels already: measure what it was pretrained as"
    return _lacks_classes(subject)


def _cannot_finetune(subject: Subject) -> str:
    try:
        _ = subject.keras_model.features
    except AttributeError:
        return "the model has no `features`"
    except InputError as error:
        return str(error)
    streamed = not hasattr(subject.data.train, "shape") or not hasattr(subject.data.test, "shape")
    return "it needs data that fit into memory" if streamed else _lacks_classes(subject)


def _not_one_class(subject: Subject) -> str:
    labels = subject.data.labels
    if "train" not in labels or "test" not in labels:
        return "it needs data with labels"
    trained = set(labels["train"].tolist())
    if len(trained) != 1:
        return (
            "it needs a model trained on one class k only and data.only_class(k); the train "
            f"split here has {len(trained)} classes"
        )
    tested = set(labels["test"].tolist())
    if not trained < tested:
        return "the test split must hold the normal class and others"
    return ""


def _quick_nll(subject: Subject) -> str:
    return "nll_k500" if subject.count("test") <= 1000 else "nll_k500_n1000"


def _lacks_images(subject: Subject) -> str:
    data = subject.data
    if not data.is_image or data.value_range != (0.0, 1.0):
        return "it needs images with values in [0, 1]"
    if subject.count("test") < FEWEST_IMAGES:
        return f"it needs {FEWEST_IMAGES} test images or more"
    return ""


def _lacks_extractor(subject: Subject) -> str:
    if _lacks_images(subject) or subject.extractor_entry:
        return _lacks_images(subject)
    return (
        "the zoo has no trained classifier of exactly these data to look at samples. Train one of "
        'family "classifier" on the same splits, then zoo.register its run'
    )


def _not_conditional(subject: Subject) -> str:
    if not getattr(subject.keras_model, "labels", None):
        return "it needs a model that generates what class it is asked for"
    return _lacks_extractor(subject) or _lacks_classes(subject)


def _quick(measure: str) -> Callable[[Subject], str]:
    """Default name of a measure of samples: on 1,000 of them at most."""
    return lambda subject: measure if subject.count("test") <= 1000 else f"{measure}_n1000"


_HERE = "kerasunsup.protocols"
_COUNT = r"_n(?P<count>[1-9]\d*)"


def _of_samples(
    example: str,
    obstacle: Callable[[Subject], str] = _lacks_extractor,
    default: Callable[[Subject], str] = lambda subject: "",
    function: str = "measure_samples",
) -> Protocol:
    measure = f"{_HERE}.samples:{function}"
    return Protocol(example, measure, ("generate",), obstacle, default, "samples")


_N = r"(_n(?P<count>[1-9]\d*))?"

PROTOCOLS: dict[str, Protocol] = {
    r"mse": Protocol(
        "mse",
        f"{_HERE}.reconstruction:measure_reconstruction",
        ("reconstruct",),
        default=lambda subject: "mse",
    ),
    r"psnr(_per_image)?": Protocol(
        "psnr",
        f"{_HERE}.reconstruction:measure_reconstruction",
        ("reconstruct",),
        _lacks_range,
        lambda subject: "psnr",
    ),
    r"(?P<measure>psnr(_per_image)?)_noise(?P<sigma>\d+(\.\d+)?|\.\d+)": Protocol(
        "psnr_noise0.5",
        f"{_HERE}.reconstruction:measure_denoising",
        ("reconstruct",),
        _lacks_range,
    ),
    r"elbo": Protocol(
        "elbo", f"{_HERE}.likelihood:measure_elbo", ("evidence",), default=lambda subject: "elbo"
    ),
    r"nll(_k(?P<samples>[1-9]\d*))?(_n(?P<count>[1-9]\d*))?": Protocol(
        "nll_k5000",
        f"{_HERE}.likelihood:measure_nll",
        ("log_likelihood",),
        default=_quick_nll,
    ),
    r"active_units": Protocol(
        "active_units",
        f"{_HERE}.likelihood:measure_active_units",
        ("encode", "evidence"),
        default=lambda subject: "active_units",
    ),
    r"perplexity(?P<share>_share)?": Protocol(
        "perplexity",
        f"{_HERE}.codes:measure_perplexity",
        ("encode", "bits"),
        default=lambda subject: "perplexity",
    ),
    r"bits": Protocol(
        "bits", f"{_HERE}.codes:measure_bits", ("bits",), default=lambda subject: "bits"
    ),
    r"prior_bits": Protocol(
        "prior_bits",
        f"{_HERE}.codes:measure_prior_bits",
        ("code_nll", "generate"),
        default=lambda subject: "prior_bits",
    ),
    r"linear_probe": Protocol(
        "linear_probe",
        f"{_HERE}.representation:measure_probe",
        ("encode",),
        _lacks_classes,
        lambda subject: "linear_probe",
    ),
    r"knn": Protocol(
        "knn",
        f"{_HERE}.representation:measure_knn",
        ("encode",),
        _lacks_classes,
        lambda subject: "knn",
    ),
    rf"few_labels_frozen{_COUNT}": Protocol(
        "few_labels_frozen_n100",
        f"{_HERE}.few_labels:measure_frozen",
        ("encode",),
        _lacks_draws,
        table="few labels",
    ),
    rf"few_labels_finetuned{_COUNT}": Protocol(
        "few_labels_finetuned_n100",
        f"{_HERE}.few_labels:measure_finetuned",
        (),
        _cannot_finetune,
        table="few labels",
    ),
    r"accuracy": Protocol(
        "accuracy",
        f"{_HERE}.classification:measure_accuracy",
        ("classify",),
        _lacks_classes,
        lambda subject: "accuracy",
    ),
    r"auroc": Protocol(
        "auroc",
        f"{_HERE}.anomaly:measure_auroc",
        ("score",),
        _not_one_class,
        lambda subject: "auroc",
    ),
    rf"(?P<measure>fcd(_relative)?){_N}": _of_samples("fcd_relative"),
    rf"(?P<measure>kid){_N}": _of_samples("kid_n1000", default=_quick("kid")),
    rf"(?P<measure>precision|recall){_N}": _of_samples("precision"),
    rf"(?P<measure>density|coverage){_N}": _of_samples("coverage"),
    rf"(?P<measure>class_entropy){_N}": _of_samples(
        "class_entropy", default=_quick("class_entropy")
    ),
    rf"class_accuracy{_N}": _of_samples(
        "class_accuracy", _not_conditional, _quick("class_accuracy"), "measure_class_accuracy"
    ),
    rf"(?P<measure>memorization){_N}": _of_samples("memorization", _lacks_images),
}
