"""What a role or another name may be: every legal one comes back from a node's name and a circuit's file."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

import featcircuits as fc
from featcircuits.circuit.circuit import NodeScore
from featcircuits.inputs.names import LONGEST, OTHER, check_name, check_place, check_role
from featcircuits.model.nodes import METRIC, Node, input_node
from featcircuits.model.sites import Site
from featcircuits.tasks.examples import Example, Span

MODEL = Path(__file__).parents[1] / "saes" / "grammar-4l" / "model"


def is_legal(role: str) -> bool:
    try:
        check_role(role)
    except fc.InputError:
        return False
    return True


legal_roles = st.text(min_size=1, max_size=LONGEST).filter(is_legal)
awkward = st.sampled_from(["a@b", "a/b", "error", "metric", "input", "[red]a", "[/x]", "-1", "1.5", "é", "主語", "a b"])
roles = st.one_of(legal_roles, awkward, st.text("@/:1_- ab", min_size=1).filter(is_legal))
places = st.one_of(roles, st.integers(0, 10**6), st.none(), st.just(OTHER))
sites = st.sampled_from(["embed", "attn_0", "attn_z_1", "mlp_2", "resid_11"]).map(Site.parse)
features = st.one_of(st.none(), st.integers(0, 10**9))


@settings(deadline=None)
@given(site=sites, feature=features, place=places)
def test_every_node_comes_back_from_its_name(site: Site, feature: int | None, place: Any) -> None:
    node = Node(site, feature, place)
    assert Node.parse(str(node)) == node


@settings(deadline=None, max_examples=50)
@given(names=st.lists(roles, min_size=1, max_size=4, unique=True))
def test_every_role_comes_back_from_a_circuit_file(names: list[str]) -> None:
    places = (*names, OTHER)
    nodes = {Node(Site(1, "resid"), number, place): NodeScore(1.0, 0.5) for number, place in enumerate(places)}
    edges: dict[Any, float] = {(node, METRIC): 1.0 for node in nodes}
    edges |= {(input_node(node.place), node): 2.0 for node in nodes}
    circuit = fc.Circuit(nodes, edges, places, "role")
    with tempfile.TemporaryDirectory() as folder:
        circuit.save(Path(folder) / "circuit.safetensors")
        assert fc.Circuit.load(Path(folder) / "circuit.safetensors") == circuit
    assert fc.Circuit.from_networkx(circuit.to_networkx()) == circuit


BAD_NAMES = {
    "empty": ("", "is empty"),
    "line break": ("subject\nnoun", "holds '\\n' (character 8), which cannot be printed"),
    "carriage return": ("a\rb", "holds '\\r'"),
    "tab": ("a\tb", "holds '\\t'"),
    "NUL": ("a\0b", "holds '\\x00'"),
    "escape": ("\x1b[31mred", "holds '\\x1b' (character 1)"),
    "delete": ("a\x7f", "holds '\\x7f'"),
    "next line": ("a\x85b", "holds '\\x85'"),
    "line separator": ("a\u2028b", "holds '\\u2028'"),
    "lone surrogate": ("a\ud800", "holds '\\ud800' (character 2)"),
    "not a character": ("a\ufffe", "holds '\\ufffe'"),
    "reversed order": ("a\u202eb", "holds '\\u202e'"),
    "no width": ("\u200b", "holds '\\u200b'"),
    "space of another kind": ("a\u00a0b", "holds '\\xa0'"),
    "leading space": (" subject", "begins or ends with a space"),
    "trailing space": ("subject ", "begins or ends with a space"),
    "only a space": (" ", "begins or ends with a space"),
    "too long": ("a" * 300, "has 300 characters; it may have 100"),
    "just too long": ("é" * 101, "has 101 characters"),
}
RESERVED = ["other", "0", "1", "42", "007", "9" * 50, "٣", "²"]


@pytest.mark.parametrize("case", BAD_NAMES)
def test_a_bad_name_is_refused_with_its_fault(case: str) -> None:
    name, fault = BAD_NAMES[case]
    with pytest.raises(fc.InputError) as caught:
        check_name(name, "label")
    message = str(caught.value)
    assert message.startswith("label ")
    assert fault in message
    assert message.isprintable()
    assert len(message) < 250


@pytest.mark.parametrize("name", [None, 3, ["a"], b"a"])
def test_a_name_is_a_text(name: Any) -> None:
    with pytest.raises(fc.InputError, match=f"label must be a text, found {type(name).__name__}"):
        check_name(name, "label")


@pytest.mark.parametrize("role", RESERVED)
def test_a_role_cannot_stand_for_another_place(role: str) -> None:
    assert check_name(role, "label") == role
    with pytest.raises(fc.InputError, match="cannot be a role's name: it names another place"):
        check_role(role)


BAD_ROLES = [*(name for name, _ in BAD_NAMES.values()), *RESERVED]


@pytest.mark.parametrize("role", BAD_ROLES, ids=ascii)
def test_bad_roles_are_refused_wherever_they_enter(tmp_path: Path, role: str) -> None:
    path = tmp_path / "task.jsonl"
    good = {"prefix": "The author", "answer": " is"}
    path.write_text(f"{json.dumps(good)}\n{json.dumps({**good, 'roles': {role: 'author'}})}\n")
    with pytest.raises(fc.InputError, match="task.jsonl, line 2: ") as caught:
        fc.Task.from_jsonl(path, AutoTokenizer.from_pretrained(MODEL))
    assert str(caught.value).isprintable()
    examples = (Example((1, 2), None, (3,)), Example((1, 2), None, (3,), roles=((role, Span(0, 1)),)))
    with pytest.raises(fc.InputError, match="task, example 2: "):
        fc.Task(examples, metric="probability")
    if role != OTHER:
        with pytest.raises(fc.InputError):
            fc.Circuit({}, {}, (role,), "role")


@pytest.mark.parametrize("role", [name for name, _ in BAD_NAMES.values()], ids=ascii)
def test_bad_places_are_refused_in_nodes(role: str) -> None:
    with pytest.raises(fc.InputError):
        Node.parse(f"resid_3/1@{role}")


@pytest.mark.parametrize(
    "name", ["resid_3/05", "resid_3/٣", "resid_3/1@05", "resid_3/1@٣", "resid_3/1@" + "9" * 5000, "resid_3/" + "9" * 50]
)
def test_numbers_have_one_spelling(name: str) -> None:
    with pytest.raises(fc.InputError) as caught:
        Node.parse(name)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("place", [-1, 1.0, True, 10**12, ("a",), b"a"])
def test_places_are_positions_roles_or_none(place: Any) -> None:
    with pytest.raises(fc.InputError, match="is not a place|must be a text"):
        check_place(place)


@pytest.mark.parametrize(
    ("roles", "fault"),
    [
        ((("a", Span(0, 1)), ("a", Span(1, 2))), "role 'a' is given twice"),
        ((("a", Span(0, 2)), ("b", Span(1, 2))), "role 'b' overlaps another role"),
        ((("a", Span(1, 3)),), "covers tokens 1 to 3; the prompt has 2"),
        ((("a", Span(1, 1)),), "covers tokens 1 to 1"),
        ((("a", Span(-1, 1)),), "covers tokens -1 to 1"),
    ],
)
def test_spans_that_mean_nothing_are_refused(roles: Any, fault: str) -> None:
    with pytest.raises(fc.InputError, match=f"task, example 1: .*{fault}"):
        fc.Task((Example((1, 2), None, (3,), roles=roles),), metric="probability")
