"""`featcircuits groups`: groups of a run's nodes, by hand, from a file, or proposed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.table import Table
from rich.text import Text

from featcircuits import groups
from featcircuits.circuit.circuit import Circuit
from featcircuits.cli.config import TraceConfig
from featcircuits.cli.labels import dossiers_for, labelled_circuit
from featcircuits.cli.output import console, printable, say
from featcircuits.cli.tasks import load_for
from featcircuits.errors import InputError, shortened
from featcircuits.model.nodes import Node
from featcircuits.runs import folder as runs

Groups = dict[str, tuple[Node, ...]]


def groups_run(
    run: Path, add: list[str], take: Path | None, propose: bool, count: int | None, remove: list[str]
) -> None:
    """Change a run's groups and print them."""
    runs.check_run(run)
    if propose and (add or take):
        raise InputError("--propose makes all groups anew; leave out --add and --from")
    if count is not None and not propose:
        raise InputError("--count is for --propose")
    circuit = labelled_circuit(run)
    found: Groups = {name: tuple(map(Node.parse, nodes)) for name, nodes in circuit.groups.items()}
    for name in remove:
        if name not in found:
            raise InputError(f"there is no group {shortened(name)}; groups: {', '.join(found) or 'none'}")
        del found[name]
    if take is not None:
        found = _joined(found, groups.read(take))
    for text in add:
        name, colon, rest = text.partition(":")
        if not colon:
            raise InputError(f"--add {shortened(text)}: give a name, a colon, and the nodes")
        found = _joined(found, {name.strip(): groups.choose(circuit, rest)})
    if propose:
        found = _proposed(run, circuit, count)
    changed = circuit.with_groups(found)
    if add or take or propose or remove:
        with runs.adding(run / runs.GROUPS, {"groups": list(found)}):
            groups.write(run / runs.GROUPS, changed.groups, overwrite=True)
        say(f"{len(found)} groups in {run / runs.GROUPS}")
    console.print(_table(changed))


def _joined(old: Mapping[str, tuple[Node, ...]], new: Mapping[str, tuple[Node, ...]]) -> Groups:
    """The groups of both; a node that is in a new one leaves its old one."""
    moved = {node for nodes in new.values() for node in nodes}
    kept = {name: tuple(node for node in nodes if node not in moved) for name, nodes in old.items() if name not in new}
    return {**{name: nodes for name, nodes in kept.items() if nodes}, **new}


def _proposed(run: Path, circuit: Circuit, count: int | None) -> Groups:
    traced = TraceConfig.read(run / runs.CONFIG, {})
    dossiers = dossiers_for(circuit.manifest, traced.suite, run)
    proposal = groups.propose(circuit, load_for(traced, None), dossiers=dossiers[0] if dossiers else None, count=count)
    tried = ", ".join(f"{number}: {value:.2f}" for number, value in list(proposal.tried.items())[:12])
    say(f"silhouette {proposal.silhouette:.2f} (by number of clusters: {tried})")
    return dict(proposal.groups)


def _table(circuit: Circuit) -> Table:
    table = Table("group", "nodes", "effect, summed", "strongest nodes", title=f"{len(circuit.groups)} groups")
    for name, nodes in circuit.groups.items():
        effect = sum(circuit.nodes[Node.parse(node)].effect for node in nodes)
        first = sorted(map(Node.parse, nodes), key=lambda node: -abs(circuit.nodes[node].effect))[:3]
        texts = (name, str(len(nodes)), f"{effect:+.4g}", ", ".join(map(str, first)))
        table.add_row(*(Text(printable(text)) for text in texts))
    return table
