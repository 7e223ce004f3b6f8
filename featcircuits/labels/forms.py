"""Labels from other programs' files and to them: one file per form, and a row here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from featcircuits.errors import InputError, known, shortened
from featcircuits.labels import delphi, feature_circuits, graph_clerps, neuronpedia
from featcircuits.labels.record import Label

FORMS = (neuronpedia.FORM, feature_circuits.FORM, delphi.FORM, graph_clerps.FORM)
"""Names of the forms."""


def import_labels(form: str, path: str | Path, *, at: str | None = None) -> list[Label]:
    """Labels of a file or folder in one of the `FORMS`.

    `at`: the site of a layer's dictionaries, for forms that do not say it: "resid_{layer}", or a hook such as
    "blocks.{layer}.hook_resid_pre". Needed for "neuronpedia"; "mlp_{layer}" for "circuit-tracer".
    Texts get onto one line, what cannot be printed is replaced, and what is too long is cut.
    """
    path = Path(path)
    _check(form, "at", at, (neuronpedia.FORM, graph_clerps.FORM))
    if form == neuronpedia.FORM:
        return neuronpedia.read(path, at)
    if form == graph_clerps.FORM:
        return graph_clerps.read(path, at)
    return feature_circuits.read(path) if form == feature_circuits.FORM else delphi.read(path)


def export_labels(
    form: str, labels: Sequence[Label], path: str | Path, *, into: str | None = None, overwrite: bool = False
) -> None:
    """Write labels in one of the `FORMS`: a file, or for "delphi" a new folder.

    `into`: for "neuronpedia" the model and source set of labels that did not come from there
    ("gpt2-small/{layer}-res-mine"), for "circuit-tracer" the graph that the labels are written into.
    """
    path = Path(path)
    _check(form, "into", into, (neuronpedia.FORM, graph_clerps.FORM))
    if form == neuronpedia.FORM:
        neuronpedia.write(labels, path, into, overwrite=overwrite)
    elif form == graph_clerps.FORM:
        graph_clerps.write(labels, path, into, overwrite=overwrite)
    elif form == feature_circuits.FORM:
        feature_circuits.write(labels, path, overwrite=overwrite)
    else:
        delphi.write(labels, path)


def _check(form: str, what: str, value: str | None, takes: Sequence[str]) -> None:
    if form not in FORMS:
        raise InputError(f"unknown form of labels {shortened(form)}; {known(FORMS, form)}")
    if value is not None and form not in takes:
        raise InputError(f"{what} is given, and the form {form} has no use for it; leave it out")
