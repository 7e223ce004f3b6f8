"""What a family's row claims, checked on the user's own model by two short forwards."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch

from featcircuits.capabilities.claims import wrong_claims
from featcircuits.capabilities.probes import missing_modules, probes_of, taps_of
from featcircuits.errors import InputError
from featcircuits.models import FAMILIES, Architecture, architecture_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["check_capabilities", "fitting_architecture"]

_MOST_NAMED = 4


def fitting_architecture(model: PreTrainedModel) -> Architecture:
    """The model's layout; a model of an unknown type takes the first family all of whose claims hold on it.

    A warning then names that family. Raises `InputError` where none fits.
    """
    model_type = model.config.model_type
    for name, family in FAMILIES.items() if model_type not in FAMILIES else ():
        try:
            architecture = architecture_of(model, family)
            check_capabilities(model, architecture)
        except (InputError, AttributeError):  # a config that lacks what the row asks it for
            continue
        warnings.warn(
            f"model family {model_type!r} has no row; this model passes every check of {name!r} and is read as one",
            stacklevel=3,
        )
        return architecture
    return architecture_of(model)


@torch.no_grad()
def check_capabilities(model: PreTrainedModel, architecture: Architecture) -> None:
    """Raise `InputError` naming the sites and modules that are not what the family's row says.

    Modules, shapes and the sums of the residual stream are checked in every layer; edits and norms
    in the first, the last, and one layer of each type. No hook stays and no random state is touched.
    """
    training = model.training
    wrong = missing_modules(model, architecture)
    if not wrong:
        taps, probes = taps_of(model, architecture), probes_of(model, architecture)
        model.eval()
        try:
            wrong = wrong_claims(model, architecture, taps, probes)
        finally:
            model.train(training)
    if wrong:
        more = f"; and {len(wrong) - _MOST_NAMED} more" if len(wrong) > _MOST_NAMED else ""
        raise InputError(
            f"{type(model).__name__} is not what the row of family {architecture.model_type!r} says: "
            f"{'; '.join(wrong[:_MOST_NAMED])}{more}. Correct the row in featcircuits/models/families.py, or add one "
            "(docs/howto/model-family.md)"
        )
