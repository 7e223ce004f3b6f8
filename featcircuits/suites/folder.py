"""A folder of dictionaries without a suite.toml, taken as a suite: one file or folder per layer or site.

What the files say of their site counts; files that say nothing have their site, or at least their layer, in their
name: `resid_3.safetensors`, `layer_3.safetensors`, `layers.3.mlp/`. A transcoder of a layer belongs to its MLP.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from featcircuits.errors import InputError, shortened
from featcircuits.files.containment import check_links
from featcircuits.model.sites import EMBED, READ_ONLY, Site
from featcircuits.sources import SourceInfo, describe, is_source

_LAYER = re.compile(r"(?:.*[._-])?(?:layers?|blocks?|h)[._-]?(\d{1,5})(?:[._-].*)?")
_SUFFIXES = (".safetensors", ".npz", ".pt")

Sites = dict[str, Mapping[str, Any]]


def sites_in(folder: Path) -> tuple[Mapping[str, Any], Mapping[str, Any], Sites]:
    """The model, the tasks (none) and the sites of a folder, as a suite.toml would name them.

    Raises `InputError` if it holds no dictionary, or one whose place is not known.
    """
    if is_source(folder):
        site = describe(folder).site
        raise InputError(
            f"{shortened(folder, 300)}: the dictionary of one site, and a suite is a folder of them; give its parent "
            f"folder, or from Python {{{str(site or 'mlp_0')!r}: load_source(folder)}}"
        )
    found: Sites = {}
    models = set[str]()
    for path in _dictionaries(folder):
        info = describe(path)
        site = str(_site_of(folder, path, info))
        if site in found:
            raise InputError(
                f"{shortened(folder, 300)}: both {found[site]['source']} and {path.relative_to(folder)} belong to "
                f"{site}; leave one of them there, or write a suite.toml"
            )
        sizes = {"kind": info.kind, "width": info.width, "n_features": info.n_features}
        found[site] = {"source": str(path.relative_to(folder)), **sizes}
        models.add(info.model_name or "")
    if not found:
        raise InputError(
            f"{shortened(folder, 300)}: neither a suite.toml nor dictionaries, one file or folder per layer, are there"
        )
    name = models.pop() if len(models) == 1 else ""
    ordered = {str(site): found[str(site)] for site in sorted(map(Site.parse, found))}
    return {"source": name if "/" in name else ""}, {}, {**_tokens(ordered), **ordered}


def _tokens(found: Sites) -> Sites:
    """The whole embedding of each token as one node, so that circuits begin at tokens, as wide as the stream."""
    widths = [record["width"] for site, record in found.items() if Site.parse(site).kind != "attn_z"]
    return {str(EMBED): {"dictionary": "whole", "width": widths[0]}} if widths else {}


def _dictionaries(folder: Path) -> Iterator[Path]:
    """The dictionaries in a folder, and in folders that hold nothing but one."""
    for path in _entries(folder):
        if is_source(path):
            yield path
        elif path.is_dir():
            inside = [inner for inner in _entries(path) if is_source(inner)]
            if len(inside) > 1:
                names = ", ".join(inner.name for inner in inside[:3])
                raise InputError(
                    f"{shortened(path, 300)}: holds {len(inside)} dictionaries ({names}), and a layer's folder must "
                    "hold one; if they are of several layers or sites, give this folder itself, or write a suite.toml"
                )
            yield from inside


def _entries(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if path.is_dir() or path.suffix in _SUFFIXES)
    check_links(folder, (path.name for path in found))
    return found


def _site_of(folder: Path, path: Path, info: SourceInfo) -> Site:
    """The site that the files name, else that of the innermost folder's or file's name."""
    if info.site is not None:
        return info.site
    below = path.relative_to(folder)
    for name in (path.stem if path.is_file() else path.name, *reversed(below.parts[:-1])):
        try:
            site = Site.parse(name)
        except InputError:
            site = None
        if site is not None and site.kind not in READ_ONLY:
            return site
        match = _LAYER.fullmatch(name)
        if match is not None and info.transcodes:
            return Site(int(match[1]), "mlp")
    raise InputError(
        f"{shortened(path, 300)}: neither its files nor its name say at which site it was trained; name it after the "
        "site (resid_3.safetensors), or a transcoder after its layer (layer_3), or write a suite.toml"
    )
