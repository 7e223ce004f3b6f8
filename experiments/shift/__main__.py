"""SHIFT on the shipped model, or on a model, dictionaries and texts of your own.

    python -m experiments.shift --out runs/shift
    python -m experiments.shift --out runs/bios --model FOLDER --suite SUITE --site resid_4 \\
        --train train.jsonl --test test.jsonl --balanced balanced.jsonl --delete words.txt

The second form, with Pythia-70M, its dictionaries and Bias in Bios, is the published setting. Its first run writes
candidates.jsonl; set "rejected" to true where a feature is about the cue, and give the file as --judged. Writes
shift.json and shift.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import featcircuits as fc
from experiments.frontier.page import markdown
from experiments.shift import grammar
from featcircuits.errors import InputError
from featcircuits.files.reading import read_text
from featcircuits.files.writing import write_json, write_whole
from featcircuits.labels.file import json_lines, write_lines
from featcircuits.probes.candidates import about, effects_on
from featcircuits.probes.probe import fit, pooled, up_to
from featcircuits.probes.rows import Figure
from featcircuits.probes.shift import Shift
from featcircuits.probes.texts import read_texts
from featcircuits.runs.folder import check_free
from featcircuits.splicing.spliced import SplicedModel

CANDIDATES = "candidates.jsonl"


def toy(model: SplicedModel, label: str, site: str, count: int, size: int) -> Shift:
    """SHIFT in the shipped grammar, judged by the suite's dossiers: a feature about names and pronouns is rejected."""
    train, test, balanced = (grammar.texts(label, size, seed, model.tokenizer, balanced=seed > 0) for seed in (0, 1, 2))
    assert model.suite is not None
    judge = about(fc.Dossiers.open(model.suite.folder), grammar.CUE_WORDS)
    encode = model.tokenizer
    return fc.shift(
        model, train, test, site=site, judge=judge, balanced=balanced, count=count,
        keywords=[encode(f" {word}").input_ids for word in grammar.keywords(label)],
        delete={id for word in grammar.CUE_WORDS for form in (word, f" {word}") for id in encode(form).input_ids},
    )  # fmt: skip


def own(options: Mapping[str, Any]) -> Shift | None:
    """SHIFT on folders; without judgements the candidates are written."""
    model = fc.load(options["model"], options["suite"])
    train, test = (read_texts(options[name], model.tokenizer) for name in ("train", "test"))
    balanced = read_texts(options["balanced"], model.tokenizer) if options["balanced"] else ()
    site, shared = fc.Site.parse(options["site"]), {"skip": options["skip"], "batch_size": options["batch"]}
    if options["judged"] is None:
        probe = fit(pooled(model, train, site, **shared), [text.label for text in train], 1e-3)
        found = effects_on(up_to(model, site), probe, site, train[:100], estimator=options["estimator"], **shared)
        rows = [{"node": str(each.node), "effect": each.effect, "rejected": None} for each in found[: options["count"]]]
        write_lines(rows, options["out"] / CANDIDATES)
        return None
    words = read_text(options["delete"]).split() if options["delete"] else ()
    delete = {id for word in words for form in (word, f" {word}") for id in _single(model.tokenizer, form)}
    return fc.shift(
        model, train, test, site=site, judge=judged(options["judged"]), balanced=balanced,
        count=options["count"], estimator=options["estimator"], delete=delete, **shared,
    )  # fmt: skip


def judged(path: Path) -> list[str]:
    """The nodes of a file of candidates that are rejected."""
    nodes = []
    for where, row in json_lines(path):
        if not isinstance(row, dict) or not isinstance(row.get("rejected"), bool):
            raise InputError(f'{where}: "rejected" must be true or false in every line')
        if row["rejected"]:
            nodes.append(row.get("node"))
    return nodes


def _single(tokenizer: Any, form: str) -> list[int]:
    ids = tokenizer(form, add_special_tokens=False).input_ids
    return ids if len(ids) == 1 else []


def table(found: Shift) -> str:
    """The rows as Markdown, in per cent."""
    header = ("", "label ↑", "cue ↓", "worst group ↑", "removed")
    lines = [
        (row.name, _shown(row.label), _shown(row.cue), _shown(row.worst), str(row.removed or "")) for row in found.rows
    ]
    return markdown(header, lines)


def _shown(figure: Figure) -> str:
    return f"{100 * figure.value:.1f} ({100 * figure.low:.0f} to {100 * figure.high:.0f})"


def main() -> None:
    """Parse, run, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--labels", nargs="*", default=list(grammar.LABELS), choices=grammar.LABELS)
    parser.add_argument("--site", default="resid_1")
    parser.add_argument("--count", type=int, default=50, help="candidates for the judge")
    parser.add_argument("--size", type=int, default=1000, help="texts of each kind in the grammar")
    for name in ("model", "suite", "estimator"):
        parser.add_argument(f"--{name}")
    for name in ("train", "test", "balanced", "judged", "delete"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--skip", type=int, default=0, help="tokens at the start that the mean leaves out")
    parser.add_argument("--batch", type=int)
    options = vars(parser.parse_args())
    check_free(options["out"])
    options["out"].mkdir(parents=True, exist_ok=True)
    if options["model"] or options["train"]:
        found = own(options)
        results = {} if found is None else {"texts": found}
    else:
        model = fc.load()
        results = {
            label: toy(model, label, options["site"], options["count"], options["size"]) for label in options["labels"]
        }
    for label, found in results.items():
        print(f"\n{label}\n{table(found)}")
    if results:
        write_json(options["out"] / "shift.json", {label: found.to_json() for label, found in results.items()})
        text = "\n\n".join(f"## {label}\n\n{table(found)}" for label, found in results.items())
        write_whole(options["out"] / "shift.md", f"{text}\n".encode())
    else:
        print(
            f"{options['out'] / CANDIDATES}: {json.dumps({'next': 'set rejected in every line; give it as --judged'})}"
        )


if __name__ == "__main__":
    main()
