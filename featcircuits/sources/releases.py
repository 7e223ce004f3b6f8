"""Dictionaries of the releases that SAELens knows by name, loaded by SAELens itself."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from featcircuits.dictionaries import Affine
from featcircuits.errors import InputError, first_line, known, shortened
from featcircuits.sources import sae_lens as own
from featcircuits.sources.hub import fetch, from_hub
from featcircuits.sources.load import describe
from featcircuits.sources.refused import refuse
from featcircuits.sources.release_table import release_entry, release_names
from featcircuits.sources.source import Found, SourceInfo, checked, info_of

_OWN_READERS = ("gemma_3", "sparsify")
"""Loaders replaced by our own: SAELens asks the network for the first even if it is cached, and fails on the other."""

_REFUSED = {"mntss_clt_layer_transcoder": "cross_layer_transcoder", "temporal": "temporal"}


def from_release(release: str, sae_id: str, reads: str | None = None) -> Affine:
    """A dictionary by SAELens release and id; `release` may also be a repository that is in no release.

    Features equal those of SAELens, with a known normalisation factor folded in. `HF_HUB_OFFLINE=1` forbids the
    network. `reads`: as for `load_source`. Raises `InputError` for an unknown release or id, for files that cannot be
    loaded, and for kinds that cannot be spliced in.
    """
    record = _record(release, sae_id)
    if record.get("conversion_func") in _OWN_READERS:
        return from_hub(record["repo_id"], record["path"], reads=reads)
    return checked(_found(release, sae_id, reads), f"{release}, {sae_id}")


def describe_release(release: str, sae_id: str) -> SourceInfo:
    """The description of a release's dictionary; downloads its weights, since only they may tell the sizes."""
    record = _record(release, sae_id)
    if record.get("conversion_func") in _OWN_READERS:
        return describe(fetch(record["repo_id"], record["path"]))
    return info_of(f"SAELens release {release}", _found(release, sae_id))


def _record(release: str, sae_id: str) -> Mapping[str, Any]:
    """The repository, path and loader from the release table; empty for a repository that is in no release."""
    entry = release_entry(release)
    if entry is None:
        if "/" in release:
            return {}
        if not release_names():
            raise InputError("releases need SAELens, which is not installed: pip install sae-lens")
        raise InputError(f"unknown SAELens release {shortened(release)}; {known(sorted(release_names()), release)}")
    refuse(_REFUSED.get(entry.get("conversion_func") or "", ""))
    ids = {sae["id"]: sae for sae in entry["saes"]}
    if sae_id not in ids:
        raise InputError(
            f"SAELens release {shortened(release)} has no id {shortened(sae_id)}; {known(sorted(ids), sae_id)}"
        )
    return {"repo_id": entry["repo_id"], "conversion_func": entry.get("conversion_func"), "path": ids[sae_id]["path"]}


def _found(release: str, sae_id: str, reads: str | None = None) -> Found:
    config, tensors = _loaded(release, sae_id)
    try:
        return own.build(config, tensors).placed(reads)
    except InputError as error:
        raise InputError(f"{release}, {sae_id}: {error}") from None


def _loaded(release: str, sae_id: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with _safe_pickles(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from huggingface_hub.errors import HfHubHTTPError
        from sae_lens import SAE

        try:
            sae = SAE.from_pretrained(release, sae_id)
        except (HfHubHTTPError, OSError, ValueError, KeyError, RuntimeError) as error:
            raise InputError(
                f"{release}, {sae_id}: SAELens could not load it ({first_line(error)}); without a network it must be "
                "in the Hugging Face cache"
            ) from None
    return sae.cfg.to_dict(), {name: tensor.detach() for name, tensor in sae.state_dict().items()}


@contextmanager
def _safe_pickles() -> Iterator[None]:
    """Make torch.load read only weights: some loaders do not ask for that, and older versions then execute pickles."""
    before = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]
        else:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = before
