"""Checks, before any forward pass, that a model, a task, effects and a circuit belong together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch

from featcircuits.circuit.circuit import Circuit
from featcircuits.dictionaries import Dictionary
from featcircuits.dictionaries.offloaded import Offloaded
from featcircuits.errors import InputError, shortened
from featcircuits.inputs.arguments import expect
from featcircuits.model.fingerprints import fingerprint_of, tokenizer_fingerprint
from featcircuits.model.forwards import check_unchanged
from featcircuits.model.nodes import Node, Place
from featcircuits.splicing.readout import Readout
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.index import NodeIndex, check_exists
from featcircuits.tasks.task import Task

T = TypeVar("T")

_GLANCE = 1 << 6
"""How many numbers of a tensor are compared to tell whether it has changed since its fingerprint was taken."""
_SUMMED = 1 << 17
"""Up to this many numbers, the weighted sum of the whole tensor is compared too."""
_ROWS, _COLUMNS = 4, 16
"""The rows and columns of a larger tensor that are summed; every edit of a whole row or column changes them."""


class Identity(NamedTuple):
    """The fingerprints that tell one spliced model from another; what is None or missing is unknown."""

    weights: str | None
    dtype: str | None
    dictionaries: Mapping[str, str]
    """Site -> fingerprint of its dictionary."""


def identity_of(spliced: SplicedModel) -> Identity:
    """The identity of a model; fingerprints are taken once, and again for weights that have changed since.

    Raises `InputError` if modules were replaced or compiled since the model was loaded.
    """
    check_unchanged(spliced.modules)
    weights = dict(sorted(spliced.model.state_dict().items()))
    # in bfloat16, to which every dtype of a loaded model except float16 can be rounded
    mark = _remembered(spliced, spliced.model, weights, lambda: fingerprint_of(weights.items(), torch.bfloat16))
    return Identity(
        mark if spliced.readout is None else _with_readout(mark, spliced.readout),
        str(spliced.model.dtype).removeprefix("torch."),
        {str(site): _mark(spliced, dictionary) for site, dictionary in spliced.dictionaries.items()},
    )


def _with_readout(mark: str, readout: Readout) -> str:
    """Another mark, since a model with a readout has other effects."""
    parts = {
        f"{mark} {readout.site} {readout.skip}{' last' if readout.last else ''} weight": readout.weight,
        "bias": readout.bias,
    }
    return fingerprint_of(parts.items())


def _mark(spliced: SplicedModel, dictionary: Dictionary) -> str:
    if isinstance(dictionary, Offloaded):  # looking at its weights would read them all
        return _remembered(spliced, dictionary, {}, lambda: fingerprint_of(dictionary.tensors().items()))
    tensors = dictionary.tensors()
    return _remembered(spliced, dictionary, tensors, lambda: fingerprint_of(tensors.items()))


def _remembered(spliced: SplicedModel, owner: Any, tensors: Mapping[str, torch.Tensor], take: Callable[[], str]) -> str:
    seen = _glance(tensors)
    before = spliced.remembered.get(owner)
    if before is None or before[0] != seen:
        spliced.remembered[owner] = before = (seen, take())
    return before[1]


def _glance(tensors: Mapping[str, torch.Tensor]) -> tuple[Any, ...]:
    here = [tensor.detach() for tensor in tensors.values() if not tensor.is_meta]
    where = [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors.values() if not t.is_meta]
    # an edit through `.data` does not change the version, and a sample of the numbers may miss it
    sums = [_weighted_sum(part) for tensor in here if tensor.numel() for part in _summed(tensor)]
    return fingerprint_of(tensors.items(), sample=_GLANCE), *where, *sums


def _summed(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The parts of a tensor [row, column] that are summed."""
    table = tensor.reshape(tensor.shape[0] if tensor.ndim > 1 else 1, -1)
    return [table] if tensor.numel() <= _SUMMED else [table[:_ROWS], table[:, :_COLUMNS]]


def _weighted_sum(table: torch.Tensor) -> float:
    """A sum of all numbers with weights by row and column, so that moving any number changes it."""
    rows, columns = (torch.linspace(1, 2, size, device=table.device) for size in table.shape)
    return (rows @ table.float() @ columns).item()


def tokenizer_of(spliced: SplicedModel) -> str | None:
    """The fingerprint of a model's tokenizer; None if it has none."""
    tokenizer = spliced.tokenizer
    if tokenizer is None:
        return None
    if tokenizer not in spliced.remembered:
        spliced.remembered[tokenizer] = ((), tokenizer_fingerprint(tokenizer))
    return spliced.remembered[tokenizer][1]


def request_of(identity: Identity, task: Task, *settings: Any) -> str:
    """A sha256 of a model, its dictionaries, a task and the settings of a computation on them."""
    whole = [list(identity), task.sha256, task.aggregate, *map(repr, settings)]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()


def identity_in(manifest: Mapping[str, Any]) -> Identity:
    """The identity, in a circuit's manifest, of the model that it was traced on; empty without a manifest."""
    model, suite = _table(manifest, "model"), _table(manifest, "suite")
    marks = {site: _text(entry, "fingerprint") for site, entry in _table(suite, "sites").items()}
    known = {site: mark for site, mark in marks.items() if mark is not None}
    return Identity(_text(model, "fingerprint"), _text(model, "dtype"), known)


def _table(table: Any, name: str) -> Mapping[str, Any]:
    found = table.get(name) if isinstance(table, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _text(table: Any, name: str) -> str | None:
    found = table.get(name) if isinstance(table, Mapping) else None
    return found if isinstance(found, str) else None


def check_task(spliced: SplicedModel, task: Task, check: bool = True) -> None:
    """Raise `InputError` for a task that was tokenised for another model, or with prompts that are too long.

    Without `check` tokenizers are not compared, but ids that the model does not have are still refused.
    """
    expect("model", spliced, SplicedModel)
    expect("task", task, Task)
    again = "read it with this model's tokenizer: fc.Task.from_jsonl(path, model.tokenizer)"
    rows = _vocabulary(spliced)
    if (largest := task.largest_id) >= rows:
        raise InputError(
            f"{task.name}: token id {largest} is not in the model's vocabulary of {rows}; the task was tokenised for "
            f"another model: {again}"
        )
    if task.padded and not 0 <= task.pad_id < rows:
        raise InputError(
            f"{task.name}: prompts of different lengths are padded with id {task.pad_id}, which is not in the model's "
            f"vocabulary of {rows}; choose one that is, as by task.with_options(pad_id=0)"
        )
    config = spliced.model.config.get_text_config()
    most, cap = getattr(config, "max_position_embeddings", None), getattr(config, "final_logit_softcapping", None)
    if task.F.final_cap not in (0, cap):
        raise InputError(
            f"{task.name}: metric {task.F} undoes a final soft cap of {task.F.final_cap:g}, and the model has "
            f"{f'one of {cap:g}' if cap else 'none'}; give cap={cap or 0:g}"
        )
    if isinstance(most, int) and 0 < most < task.longest:
        raise InputError(
            f"{task.name}: its longest prompt has {task.longest} tokens, and the model {most} positions; "
            "give shorter prompts"
        )
    own = tokenizer_of(spliced) if check and task.tokenizer is not None else None
    if own is not None and own != task.tokenizer:
        raise InputError(
            f"{task.name}: the task was tokenised with a tokenizer other than the model's, so its ids mean other "
            f"words; {again}, or pass check=False"
        )


def checked_rows(spliced: SplicedModel, rows: Any) -> list[list[int]]:
    """Rows of token ids as lists; raises `InputError` for anything else, and for ids that the model does not have."""
    if isinstance(rows, str) or not isinstance(rows, Sequence):
        raise InputError(f"text is {shortened(rows)}; give a Task, or rows of token ids such as those from a tokenizer")
    count = _vocabulary(spliced)
    for number, row in enumerate(rows, 1):
        if isinstance(row, str) or not isinstance(row, Sequence) or not all(type(token) is int for token in row):
            raise InputError(f"text, row {number}: {shortened(row)} is not a row of token ids")
        if row and not 0 <= min(row) <= max(row) < count:
            wrong = min(row) if min(row) < 0 else max(row)
            raise InputError(f"text, row {number}: token id {wrong} is not in the model's vocabulary of {count}")
    return [list(row) for row in rows]


def _vocabulary(spliced: SplicedModel) -> int:
    """How many token ids have an embedding and a logit."""
    ends = (spliced.model.get_input_embeddings(), spliced.model.get_output_embeddings())
    counts = [getattr(end, name, None) for end, name in zip(ends, ("num_embeddings", "out_features"), strict=True)]
    known = [count for count in counts if isinstance(count, int)]
    return min(known, default=spliced.model.config.get_text_config().vocab_size)


def check_same(what: str, made_on: Identity, spliced: SplicedModel, *, whole: bool = False) -> None:
    """Raise `InputError` for a result that was computed on another model, naming what differs.

    `whole`: the suite must have exactly the same sites. What is unknown is not compared.
    """
    here = identity_of(spliced)
    found = [*_weights_differ(made_on, here), *_dictionaries_differ(made_on.dictionaries, here.dictionaries)]
    if whole and made_on.dictionaries and not found:
        found = _sites_differ(made_on.dictionaries, here.dictionaries)
    if found:
        raise InputError(
            f"{what}: {'; '.join(found)}. Load the model it was made with, make it again with this one, "
            "or pass check=False"
        )


def _weights_differ(made_on: Identity, here: Identity) -> list[str]:
    if made_on.weights is None or made_on.weights == here.weights:
        return []
    if made_on.dtype != here.dtype and "float16" in (made_on.dtype, here.dtype):
        return [
            f"the model's dtype is {here.dtype} and was {made_on.dtype}, and weights in float16 cannot be compared "
            "with others"
        ]
    return ["the model's weights differ from those that it was made with"]


def _dictionaries_differ(before: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    wrong = [site for site, mark in before.items() if here.get(site, mark) != mark]
    if not wrong:
        return []
    elsewhere = next((site for site, mark in here.items() if mark == before[wrong[0]]), None)
    moved = f" (the one that was there is at {elsewhere} now)" if elsewhere else ""
    others = f" and of {len(wrong) - 1} more sites" if len(wrong) > 1 else ""
    return [f"the dictionary of {wrong[0]}{moved}{others} is not the one that it was made with"]


def _sites_differ(before: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    lacking = [site for site in before if site not in here]
    added = [site for site in here if site not in before]
    return [
        *([f"there is no dictionary at {', '.join(lacking)}, where it was made with one"] if lacking else []),
        *(
            [f"there is a dictionary at {', '.join(added)}, where it was made without; take model.only([...])"]
            if added
            else []
        ),
    ]


def check_circuit(spliced: SplicedModel, circuit: Circuit, what: str = "circuit", *, check: bool, whole: bool) -> None:
    """Raise `InputError` for a circuit of another model or suite, and always for nodes that the suite does not have."""
    expect(what, circuit, Circuit)
    if check:
        check_same(what, identity_in(circuit.manifest), spliced, whole=whole)
    check_nodes(spliced, circuit.nodes)


def check_nodes(spliced: SplicedModel, nodes: Iterable[Node], places: tuple[Place, ...] = ()) -> None:
    """Raise `InputError` for nodes at sites without a dictionary, and for features and places that do not exist."""
    index = NodeIndex.of(spliced, places)
    for node in nodes:
        index.check(node) if places else check_exists(node, index.n_features)
