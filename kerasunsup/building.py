"""Recipe -> compiled model: classes and builders are found in Keras' registry."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras

from kerasunsup.errors import InputError
from kerasunsup.models.base import dtype_policy
from kerasunsup.recipe import Recipe, suggest


def create_model(
    recipe: Recipe,
    input_shape: tuple[int, ...],
    value_range: tuple[float, float] | None,
    steps_per_epoch: int | None = None,
    class_names: Sequence[str] = (),
) -> keras.Model:
    """Builds and compiles the untrained model of a recipe, inside the active strategy's scope.

    Args:
        recipe: The recipe.
        input_shape: Shape of one example.
        value_range: Range of the data, or None.
        steps_per_epoch: Training steps per epoch, the unit of schedules; where None, learning
            rates stay constant.
        class_names: Names of the classes of the data, for a model that answers them.

    Raises:
        InputError: An unknown class, builder or optimiser, or a wrong argument; names the key.
    """
    import_modules(recipe)
    cls = _registered(recipe.model.class_name, "model.class", _is_model)
    context = {
        "input_shape": tuple(input_shape),
        "output_shape": tuple(input_shape),
        "latent_dim": recipe.model.arguments.get("latent_dim"),
        **{name: recipe.model.arguments.get(name) for name in ("labels", "codes", "code_dim")},
    }
    with dtype_policy(recipe.train.precision):
        arguments = {
            "value_range": value_range,
            **_build_networks(recipe.model.arguments, context, "model"),
        }
        arguments.update(named_classes(cls, recipe.model.arguments, class_names))
        if recipe.train.standardize:
            arguments["normalization"] = keras.layers.Normalization(
                name="normalization", dtype="float32"
            )
        model = _call(cls, arguments, "model")
    compile_model(model, recipe, steps_per_epoch)
    return model


def named_classes(
    cls: type, arguments: Mapping[str, Any], class_names: Sequence[str]
) -> dict[str, Any]:
    """What to give a class of models so that it answers these names, where it can.

    They must be as many as the recipe's `labels`, or as its `classes` where names take the place
    of that number.
    """
    accepted, _ = _parameters(cls)
    for count, key in (("labels", "class_names"), ("classes", "classes")):
        fits = arguments.get(count) == len(class_names) and not arguments.get("class_names")
        if class_names and key in accepted and fits:
            return {key: list(class_names)}
    return {}


def compile_model(model: keras.Model, recipe: Recipe, steps_per_epoch: int | None = None) -> None:
    """Compiles `model` by the recipe's [compile]. A schedule spans the longest stage of training.

    Raises:
        InputError: A wrong key or value; names the key.
    """
    arguments = dict(recipe.compile)
    for name, table in recipe.compile.items():
        if isinstance(table, Mapping):
            turns, epochs = 1, recipe.train.epochs
            if hasattr(model, "optimizer_steps"):
                turns = model.optimizer_steps(name)
                epochs = model.optimizer_epochs(name, epochs)
            steps = steps_per_epoch and steps_per_epoch * turns
            arguments[name] = _optimizer(table, f"compile.{name}", epochs, steps)
    _call(model.compile, arguments, "compile")


def import_modules(recipe: Recipe) -> None:
    """Registers our classes and builders and those of the recipe's modules with Keras.

    Raises:
        InputError: A module cannot be imported.
    """
    import_named(("kerasunsup.models", "kerasunsup.networks", *recipe.modules), "modules")


def import_named(names: Iterable[str], key: str) -> None:
    """Imports modules, which register classes with Keras.

    Raises:
        InputError: One cannot be imported; names `key`, which they were given by.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise InputError(
                f"`{key}` must name importable Python modules: install the package, or put its "
                f"folder on PYTHONPATH. Received: {name!r} ({error})"
            ) from error


# Registry


def _registered(name: str, key: str, wanted: Callable[[Any], bool]) -> Any:
    """The class or builder registered with Keras as `name`; ours need no package prefix."""
    name = str(name)
    found = keras.saving.get_registered_object(name if ">" in name else f"kerasunsup>{name}")
    if found is not None and wanted(found):
        return found
    valid = [
        registered.removeprefix("kerasunsup>")
        for registered, value in keras.saving.get_custom_objects().items()
        if wanted(value)
    ]
    raise InputError(
        f"`{key}` is not registered with Keras. {suggest(name, valid)} For your own, register it "
        "with keras.saving.register_keras_serializable(package), name its module in `modules` "
        f'and write "package>Name". Received: {name!r}'
    )


def _is_model(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, keras.Model)


def _is_builder(value: Any) -> bool:
    """A function that returns a network, or a class of layers."""
    is_layer = inspect.isclass(value) and issubclass(value, keras.layers.Layer)
    return inspect.isfunction(value) or (is_layer and not _is_model(value))


# Networks


def _build_networks(value: Any, context: Mapping[str, Any], key: str) -> Any:
    """`value` with every table that has a `builder` replaced by the network it describes."""
    if isinstance(value, list):
        return [_build_networks(one, context, f"{key}[{i}]") for i, one in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    table = {name: _build_networks(one, context, f"{key}.{name}") for name, one in value.items()}
    if "builder" not in table:
        return table
    builder = _registered(table.pop("builder"), f"{key}.builder", _is_builder)
    accepted, _ = _parameters(builder)
    given = {
        name: value for name, value in context.items() if name in accepted and value is not None
    }
    return _call(builder, {**given, **table}, key)


def _call(function: Callable[..., Any], arguments: dict[str, Any], key: str) -> Any:
    """`function(**arguments)`; what is wrong with an argument is said by its dotted key."""
    accepted, required = _parameters(function)
    for name in arguments:
        if name not in accepted:
            raise InputError(
                f"`{key}.{name}` is no argument of {function.__name__}. "
                f"{suggest(name, accepted)} Received: {arguments[name]!r}"
            )
    for name in required:
        if name not in arguments:
            raise InputError(
                f"`{key}.{name}` is missing: {function.__name__} needs it. "
                f"Received: {sorted(arguments)}"
            )
    try:
        return function(**arguments)
    except InputError:
        raise
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"[{key}] must describe a valid {function.__name__}. Received: {error}"
        ) from error


def _parameters(function: Callable[..., Any]) -> tuple[list[str], list[str]]:
    """Names of all and of the required arguments; `**kwargs` leads to the base classes'."""
    own = [*inspect.signature(function).parameters.values()]
    named = [p for p in own if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    accepted = [p.name for p in named]
    if inspect.isclass(function) and any(p.kind is p.VAR_KEYWORD for p in own):
        for base in function.__mro__[1:-1]:
            accepted += [name for name in _parameters(base)[0] if name not in accepted]
    return accepted, [p.name for p in named if p.default is p.empty]


# Optimisers


def _optimizer(
    table: Mapping[str, Any], key: str, epochs: int, steps_per_epoch: int | None
) -> keras.optimizers.Optimizer:
    arguments = dict(table)
    name = arguments.pop("name", None)
    classes = {
        n: c
        for n, c in inspect.getmembers(keras.optimizers, inspect.isclass)
        if issubclass(c, keras.optimizers.Optimizer) and c is not keras.optimizers.Optimizer
    }
    if name not in classes:
        raise InputError(
            f"`{key}.name` must be a Keras optimiser. {suggest(str(name), classes)} "
            f"Received: {name!r}"
        )
    schedule = arguments.pop("schedule", "constant")
    warmup_epochs = arguments.pop("warmup_epochs", 0)
    if schedule not in ("constant", "cosine"):
        raise InputError(f'`{key}.schedule` must be "constant" or "cosine". Received: {schedule!r}')
    if warmup_epochs and schedule == "constant":
        raise InputError(
            f'`{key}.warmup_epochs` needs schedule = "cosine". Received: {warmup_epochs}'
        )
    if not isinstance(warmup_epochs, int | float) or not 0 <= warmup_epochs < epochs:
        raise InputError(
            f"`{key}.warmup_epochs` must be from 0 to below the {epochs} epochs it is for. "
            f"Received: {warmup_epochs!r}"
        )
    if schedule == "cosine" and steps_per_epoch:
        arguments["learning_rate"] = _cosine(
            arguments.get("learning_rate", _default_rate(classes[name])),
            round(epochs * steps_per_epoch),
            round(warmup_epochs * steps_per_epoch),
        )
    return _call(classes[name], arguments, key)


def _default_rate(cls: type[keras.optimizers.Optimizer]) -> float:
    return float(inspect.signature(cls).parameters["learning_rate"].default)


def _cosine(peak: float, steps: int, warmup: int) -> keras.optimizers.schedules.CosineDecay:
    """From `peak` to zero at the last step; linear from zero before it when there is a warm-up."""
    if not warmup:
        return keras.optimizers.schedules.CosineDecay(peak, steps)
    return keras.optimizers.schedules.CosineDecay(
        0.0, steps - warmup, warmup_target=peak, warmup_steps=warmup
    )
