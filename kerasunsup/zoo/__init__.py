"""The zoo: entries listed, searched, created, loaded, registered, verified."""

from kerasunsup.card import Card
from kerasunsup.recipe import Recipe
from kerasunsup.zoo.measure import measure
from kerasunsup.zoo.registry import (
    card,
    create,
    list_models,
    load,
    recipe,
    register,
    saved_model,
    verify,
)

__all__ = [
    "Card",
    "Recipe",
    "card",
    "create",
    "list_models",
    "load",
    "measure",
    "recipe",
    "register",
    "saved_model",
    "verify",
]
