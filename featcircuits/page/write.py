"""The page as one HTML text: template, style, scripts and data, under a policy that lets no request out."""

from __future__ import annotations

import base64
import hashlib
import html as escaping
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from featcircuits.circuit.circuit import Circuit
from featcircuits.files.writing import check_replaceable, write_whole
from featcircuits.inputs.arguments import expect
from featcircuits.page.data import page_data

_SCRIPTS = ("d3.min.js", "circuit.js", "draw.js", "panel.js", "controls.js", "start.js")
"""In the order in which they run."""


def write(circuit: Circuit, path: str | Path, *, overwrite: bool = False, **parts: Any) -> None:
    """Write the page of a circuit; `parts` as for `html`. Raises `InputError` if the file exists."""
    page = html(circuit, **parts)
    check_replaceable(Path(path), overwrite)
    write_whole(path, page.encode(), overwrite=overwrite)


def html(circuit: Circuit, **parts: Any) -> str:
    """The page of a circuit as text.

    `parts` are `ranking` (all nodes in the selected order), `report` (of `Report.to_json()`), `dossiers` (a list, the
    first that has a feature counts), `state` (of an earlier view), `effects` (that keep examples: the page then
    shows each example's, too), `outcome` (of `Outcome.to_json()`: what interventions did, measured beside predicted)
    and `title`; all can be left out.
    """
    expect("circuit", circuit, Circuit)
    data = page_data(circuit, **parts)
    scripts = [_asset(name) for name in _SCRIPTS]
    css = _asset("page.css")
    policy = (
        f"default-src 'none'; script-src {_hashes(scripts)}; style-src {_hashes([css])}; base-uri 'none'; "
        "form-action 'none'"
    )
    filled = {
        "{policy}": policy,
        "{title}": escaping.escape(data["title"]),
        "{css}": css,
        "{licence}": escaping.escape(_asset("d3.LICENSE")),
        "{data}": _inert(data),
        "{scripts}": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    return "".join(filled.get(part, part) for part in _pieces(_asset("page.html"), filled))


def _inert(data: Any) -> str:
    """JSON that cannot end its script element, whatever texts it holds."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _pieces(template: str, names: dict[str, str]) -> list[str]:
    """The template cut at its gaps, so that what fills one is never searched for another."""
    pieces = [template]
    for name in names:
        pieces = [
            part for piece in pieces for part in (_around(piece, name) if piece not in names else [piece]) if part
        ]
    return pieces


def _around(piece: str, name: str) -> list[str]:
    before, gap, after = piece.partition(name)
    return [before, gap, after]


def _hashes(texts: list[str]) -> str:
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


def _asset(name: str) -> str:
    return (files("featcircuits.page") / "assets" / name).read_text(encoding="utf-8")
