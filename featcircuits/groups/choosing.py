"""The nodes that a text means: names, or conditions that all must hold."""

from __future__ import annotations

import re
from collections.abc import Callable

from featcircuits.circuit.circuit import Circuit
from featcircuits.errors import InputError, shortened
from featcircuits.inputs.ranges import read_number
from featcircuits.model.nodes import Node
from featcircuits.model.sites import chosen

_CONDITION = re.compile(r"\s*(\w+)\s*([=~<>])\s*(.*?)\s*")
_LAYERS = re.compile(r"(-?\d+)(?:-(\d+))?")

Test = Callable[[Node], bool]


def choose(circuit: Circuit, text: str) -> tuple[Node, ...]:
    """The nodes of a circuit that a text means, in the circuit's order.

    Either names, separated by spaces or commas: `resid_2/303@5 resid_0/120@1`. Or conditions, separated by commas, that
    all must hold:

    | condition | nodes |
    |---|---|
    | `site=resid_2`, `site=resid_*`, `site=mlp_0-2` | at these sites |
    | `layer=2`, `layer=1-3` | in these layers |
    | `place=5`, `place=subject` | at this place |
    | `kind=feature`, `kind=error` | of this kind |
    | `sign=+`, `sign=-` | whose effect has this sign |
    | `effect>0.5`, `effect<-0.1` | whose effect is above or below |
    | `label~singular` | whose label has this text, in upper or lower case |

    Raises `InputError` for anything else, and for a text that means no node.
    """
    parts = [part for part in text.split(",") if part.strip()]
    if any(_CONDITION.fullmatch(part) for part in parts):
        tests = [_test(circuit, part) for part in parts]
        found = tuple(node for node in circuit.nodes if all(test(node) for test in tests))
    else:
        named = {Node.parse(name) for part in parts for name in part.split()}
        if missing := sorted(map(str, named - set(circuit.nodes))):
            raise InputError(f"the circuit has no node {missing[0]}")
        found = tuple(node for node in circuit.nodes if node in named)
    if not found:
        raise InputError(f"{shortened(text)} means none of the circuit's {circuit.n_nodes} nodes")
    return found


def _test(circuit: Circuit, part: str) -> Test:
    match = _CONDITION.fullmatch(part)
    made = _TESTS.get((match[1], match[2])) if match else None
    if match is None or made is None:
        known = ", ".join(f"{name}{sign}" for name, sign in _TESTS)
        raise InputError(f"{shortened(part.strip())} is not a condition on nodes; conditions: {known}")
    return made(circuit, match[3])


def _site(circuit: Circuit, value: str) -> Test:
    sites = set(chosen(dict.fromkeys(str(node.site) for node in circuit.nodes), value))
    return lambda node: str(node.site) in sites


def _layer(circuit: Circuit, value: str) -> Test:
    match = _LAYERS.fullmatch(value)
    if match is None:
        raise InputError(f"layer={shortened(value)}: give a layer or a range of them, such as 2 or 1-3")
    first, last = int(match[1]), int(match[2] or match[1])
    return lambda node: first <= node.site.layer <= last


def _place(circuit: Circuit, value: str) -> Test:
    if value not in map(str, circuit.places):
        places = ", ".join(map(str, circuit.places))
        raise InputError(f"place={shortened(value)}: the circuit's places are {places}")
    return lambda node: str(node.place) == value


def _one_of(what: str, *values: str) -> Callable[[str], str]:
    def checked(value: str) -> str:
        if value not in values:
            raise InputError(f"{what}={shortened(value)}: give {' or '.join(values)}")
        return value

    return checked


def _kind(circuit: Circuit, value: str) -> Test:
    wanted = _one_of("kind", "feature", "error")(value) == "error"
    return lambda node: node.is_error == wanted


def _sign(circuit: Circuit, value: str) -> Test:
    positive = _one_of("sign", "+", "-")(value) == "+"
    return lambda node: (circuit.nodes[node].effect > 0) == positive and circuit.nodes[node].effect != 0


def _above(circuit: Circuit, value: str) -> Test:
    bound = read_number("effect", value, float)
    return lambda node: circuit.nodes[node].effect > bound


def _below(circuit: Circuit, value: str) -> Test:
    bound = read_number("effect", value, float)
    return lambda node: circuit.nodes[node].effect < bound


def _label(circuit: Circuit, value: str) -> Test:
    wanted = value.casefold()
    return lambda node: wanted in circuit.labels.get(node, "").casefold()


_TESTS: dict[tuple[str, str], Callable[[Circuit, str], Test]] = {
    ("site", "="): _site,
    ("layer", "="): _layer,
    ("place", "="): _place,
    ("kind", "="): _kind,
    ("sign", "="): _sign,
    ("effect", ">"): _above,
    ("effect", "<"): _below,
    ("label", "~"): _label,
}
