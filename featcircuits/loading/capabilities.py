"""The claims of a family's row, checked on the user's own model by four short forward passes."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch

from featcircuits.errors import InputError, shortened
from featcircuits.loading.completeness import incomplete
from featcircuits.loading.row_claims import wrong_claims
from featcircuits.loading.row_probes import missing_modules, probes_of, taps_of
from featcircuits.model.architecture import FAMILIES, Architecture, architecture_of, not_supported
from featcircuits.model.forwards import check_not_compiled, replaced_forwards
from featcircuits.propagation.attention_kernels import why_closed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["check_capabilities", "fitting_architecture"]

_MOST_NAMED = 4


def fitting_architecture(model: PreTrainedModel) -> Architecture:
    """The model's layout; for a model of unknown type, that of the first family whose claims all hold on it.

    A warning then names that family. Raises `InputError` if none fits, or if the model is compiled.
    """
    check_not_compiled(model)
    model_type = model.config.model_type
    if model_type in FAMILIES:
        return architecture_of(model)
    nearest = ""
    for name, family in FAMILIES.items():
        try:
            architecture = architecture_of(model, family)
            wrong = wrong_about(model, architecture)
        except InputError:  # the model has no layers or head where the row says
            continue
        if not wrong and (reason := why_closed(model, architecture)) is not None:
            wrong = [f"its secants cannot be checked: {reason}"]
        if not wrong:
            warnings.warn(
                f"model family {model_type!r} has no row; it passes all checks of {name!r} and is treated as one",
                stacklevel=3,
            )
            return architecture
        if not nearest and not missing_modules(model, architecture):
            nearest = f". The row of {name!r} does not fit: {_listed(wrong)}"
    raise InputError(not_supported(model_type) + nearest)


def check_capabilities(model: PreTrainedModel, architecture: Architecture) -> None:
    """Raise `InputError` that names the sites and modules that contradict the family's row.

    Modules, shapes, the sums of the residual stream and secants are checked in every layer; edits and norms
    in the first, the last, and one layer of each type. No hook stays, and the random state does not change.
    """
    check_not_compiled(model)
    if wrong := wrong_about(model, architecture):
        raise InputError(
            f"{type(model).__name__} does not match the row of family {architecture.model_type!r}: "
            f"{_listed(wrong)}. {_remedy(model)}"
        )


def _remedy(model: PreTrainedModel) -> str:
    for path, module in replaced_forwards(model):
        return (
            f"{f'Module {path!r}' if path else 'The model'} has a forward that is not that of its class "
            f"{type(module).__name__}, and no hooks run on what it computes by itself: load the model without it"
        )
    return "Correct the row in featcircuits/model/families.py, or add one (docs/howto/model-family.md)"


@torch.no_grad()
def wrong_about(model: PreTrainedModel, architecture: Architecture) -> list[str]:
    """One line for each claim of the row that does not hold."""
    if wrong := missing_modules(model, architecture):
        return wrong
    training = model.training
    taps, probes = taps_of(model, architecture), probes_of(model, architecture)
    model.eval()
    try:
        return wrong_claims(model, architecture, taps, probes) or incomplete(model, architecture)
    except InputError:
        raise
    except Exception as error:  # an edit at a wrong place of the row can break a forward pass anywhere inside
        return [f"a forward pass of a few tokens ends in {type(error).__name__}: {shortened(str(error), 200)}"]
    finally:
        model.train(training)


def _listed(wrong: list[str]) -> str:
    more = f"; and {len(wrong) - _MOST_NAMED} more" if len(wrong) > _MOST_NAMED else ""
    return f"{'; '.join(wrong[:_MOST_NAMED])}{more}"
