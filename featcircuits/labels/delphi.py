"""Explanations as delphi writes them: explanations/MODULE_latentN.txt, a JSON text each."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from featcircuits.errors import InputError, naming, shortened
from featcircuits.files.reading import parse_json, read_text
from featcircuits.files.writing import check_replaceable, usable, whole_folder
from featcircuits.inputs.names import one_line
from featcircuits.labels.file import named
from featcircuits.labels.record import LONGEST_LABEL, Label
from featcircuits.model.sites import Site
from featcircuits.sources.hooks import hook_of_site, site_of_hook

FORM = "delphi"
FOLDER = "explanations"
_FILE = re.compile(r"(?P<module>[\w.-]+)_latent(?P<feature>\d{1,18})\.txt")
_MOST_BYTES = 1 << 20
_MODULES = {"resid": "layers.{}", "mlp": "layers.{}.mlp", "attn": "layers.{}.attention"}


def read(path: Path) -> list[Label]:
    """Of a folder of explanations, or of the results that it is in; in the order of sites and features."""
    folder = path / FOLDER if (path / FOLDER).is_dir() else path
    with naming(folder, "folder of explanations"):
        files = {file: match for file in folder.iterdir() if (match := _FILE.fullmatch(file.name))}
    if not files:
        raise InputError(f"{shortened(folder, 300)}: holds no MODULE_latentN.txt; give delphi's folder of explanations")
    found = [_label(file, match["module"], int(match["feature"])) for file, match in files.items()]
    return sorted(filter(None, found), key=lambda label: (label.site, label.feature))


def _label(file: Path, module: str, feature: int) -> Label | None:
    """None for one without text."""
    text = parse_json(read_text(file, _MOST_BYTES), file)
    with named(shortened(file, 300)):
        if not isinstance(text, str):
            raise InputError(f"{shortened(text)} is no explanation; the file holds one text, in quotes")
        site, label = site_of_hook(module), one_line(text, LONGEST_LABEL)
        return Label(site, feature, label, FORM, origin={"form": FORM, "module": module}) if label else None


def write(labels: Sequence[Label], path: Path) -> None:
    """A new folder. Raises `InputError` where it exists, and for a second label of one feature."""
    contents: dict[str, str] = {}
    for label in labels:
        name = f"{label.of_form(FORM).get('module', _module(label.site))}_latent{label.feature}.txt"
        if not _FILE.fullmatch(name):
            raise InputError(f"{shortened(name)} is no name for a file of delphi's")
        if name in contents:
            raise InputError(f"{label.name} has two labels, and delphi keeps one; leave one of them out")
        contents[name] = json.dumps(label.label, ensure_ascii=False)
    if usable(path).exists():
        check_replaceable(path, False)
    with whole_folder(path) as folder:
        for name, text in contents.items():
            (folder / name).write_text(text, encoding="utf-8")


def _module(site: Site) -> str:
    form = _MODULES.get(site.kind)
    return hook_of_site(site) if form is None else form.format(site.layer)
