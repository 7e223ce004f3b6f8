"""The page of what is supported, from the package's own tables.

python -m experiments.supported > docs/supported.md
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

from featcircuits import dictionaries
from featcircuits.dictionaries.normalisation import NORMALISATIONS
from featcircuits.estimators import ESTIMATORS
from featcircuits.evaluation import ABLATIONS
from featcircuits.export import EXPORTERS
from featcircuits.model.architecture import FAMILIES, Family
from featcircuits.model.families import Fused
from featcircuits.model.sites import KINDS, READ_ONLY
from featcircuits.propagation import RULE_SETS, RULES
from featcircuits.sources import source_kinds
from featcircuits.sources.refused import REASONS
from featcircuits.suites import Suite, load_suite, named_suites
from featcircuits.suites.summary import parts_of
from featcircuits.tasks.table import METRICS

HEAD = """# What is supported

This page is generated from the code's own tables by `python -m experiments.supported > docs/supported.md`.
"""

TRANSCODERS = """
Kinds with an encoder may also be transcoders (which read the MLP's input, or the stream before the MLP's norm, and
explain the MLP's output), have a skip, subtract a centre from their input, and normalise it. BatchTopK and Matryoshka
dictionaries are saved for inference as `jumprelu`.
"""


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Markdown."""
    header = list(header)
    lines = [header, ["---"] * len(header), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def first_line(thing: Any) -> str:
    """The first line of its docstring."""
    return (inspect.getdoc(thing) or "").split("\n")[0].rstrip(".")


def families() -> str:
    return table(
        ("`model_type`", "norms in a block", "norms of queries and keys", "MLP", "projections", "attention"),
        ((f"`{name}`", *family_row(family)) for name, family in sorted(FAMILIES.items())),
    )


def family_row(family: Family) -> tuple[str, ...]:
    after = [norm for norm in family.norms if norm in (family.attn, family.mlp)]
    before = len(family.norms) - len(after)
    return (
        f"{before} before, {len(after)} after",
        "yes" if family.qk_norms else "no",
        "gated" if family.product else "plain",
        "fused" if isinstance(family.queries_keys, Fused) else "separate",
        "a method of its own" if family.attention else "transformers' functions",
    )


def kinds() -> str:
    made = {name: getattr(dictionaries, name) for name in dictionaries.__all__}
    constructors = {name: make for name, make in made.items() if inspect.isfunction(make)}
    return table(("kind", "what it is"), ((f"`{name}`", first_line(make)) for name, make in constructors.items()))


def normalisations() -> str:
    return table(("input", "how"), ((f"`{name}`", first_line(kind)) for name, kind in NORMALISATIONS.items()))


def sources() -> str:
    return table(
        ("written by", "files"),
        ((name, ", ".join(f"`{file}`" for file in files) or "one file") for name, files in source_kinds().items()),
    )


def suites() -> str:
    return table(("suite", "model", "sites", "kinds", "features"), map(suite_row, every_suite()))


def every_suite() -> Iterator[Suite]:
    return (load_suite(folder) for _, folder in sorted(named_suites().items()))


def suite_row(suite: Suite) -> tuple[str, ...]:
    parts = parts_of(suite)
    columns = ([part.sites for part in parts], [part.kinds for part in parts], [part.features or "-" for part in parts])
    return (
        f"[{suite.name}](../saes/{suite.name}/README.md)",
        suite.model["source"],
        *("<br>".join(column) for column in columns),
    )


def estimators() -> str:
    rows = (
        (f"`{name}`", first_line(estimator), "yes" if estimator.has_edges else "no")
        for name, estimator in ESTIMATORS.items()
    )
    return table(("estimator", "of a node", "edges too"), rows)


def rules() -> str:
    sets = table(
        ("rule set", "rules"), ((f"`{name}`", ", ".join(rules) or "none") for name, rules in RULE_SETS.items())
    )
    return (
        table(("rule", "what it does"), ((f"`{name}`", first_line(rule)) for name, rule in RULES.items())) + "\n" + sets
    )


def page() -> str:
    """The whole page."""
    sections = {
        "Model families": families(),
        "Sites": ", ".join(f"`{kind}`" for kind in KINDS if kind not in READ_ONLY)
        + ": every dictionary belongs to one of these sites, in any subset of layers; "
        "transcoders belong to `mlp`.\n",
        "Kinds of dictionaries": kinds() + TRANSCODERS,
        "Normalised inputs": normalisations(),
        "Files": sources() + "\nSAELens releases load by name and id, and hub repositories by folder or file.\n",
        "Refused, and why": table(("kind", "why"), ((k.replace("_", " "), why) for k, why in REASONS.items())),
        "Suites": suites(),
        "Estimators": estimators(),
        "Propagation rules": rules(),
        "Metrics, ablations, exports": table(
            ("", "names"),
            (
                (what, ", ".join(f"`{name}`" for name in names))
                for what, names in {"metric": METRICS, "ablation": ABLATIONS, "export": EXPORTERS}.items()
            ),
        ),
    }
    return HEAD + "".join(f"\n## {title}\n\n{text}" for title, text in sections.items())


if __name__ == "__main__":
    print(page(), end="")
