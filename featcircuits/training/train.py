"""Training of a suite: one dictionary per site of a model, from one pass of activations.

Until training ends, a hidden folder beside the suite holds the activations, the finished
sites, and the state of the site in training. The same call, or one for other sites, resumes from there
and ends with the same bytes. The suite's own folder appears whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from featcircuits.dictionaries import Dictionary, jumprelu
from featcircuits.dictionaries.decomposition import precision
from featcircuits.errors import InputError
from featcircuits.health import Figures, Losses, measure
from featcircuits.model.sites import Site, all_sites, chosen
from featcircuits.progress import Progress, silent
from featcircuits.runs import folder as runs
from featcircuits.sources import sha256
from featcircuits.sources.hooks import hook_of_site
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.suites import fingerprint
from featcircuits.suites.record import FORMAT
from featcircuits.tasks.token_rows import Rows, sha256_of
from featcircuits.training.card import card
from featcircuits.training.recipe import Recipe
from featcircuits.training.rounds import Trained, rounds_of, trained
from featcircuits.training.suite_record import toml_text, versions
from featcircuits.training.text import parted

DEFAULT_SITES = "embed,attn,mlp,resid"


def train_suite(
    bare: SplicedModel,
    rows: Rows,
    out: str | Path,
    recipe: Recipe | None = None,
    *,
    sites: str | Iterable[str] = DEFAULT_SITES,
    name: str | None = None,
    description: str = "",
    licence: str | None = None,
    text: str = "the text",
    progress: Progress = silent,
) -> dict[str, Any]:
    """Train and measure one dictionary per site, and write them as a suite to the folder `out`.

    Returns the record that it writes into suite.toml. `bare`: a model from `featcircuits.loading.load.load_bare`.
    `rows`: token ids; some at the end are held out to measure the figures (`recipe.held_out`). `sites`: names, kinds
    or patterns ("resid_3", "resid", "attn_0-5"). `text`: a description of the rows for the card. Raises `InputError`
    for a folder that is not empty, unknown sites or recipes, too little text and a full disk. If all features of a
    site die, it trains the other sites first and then raises `InputError`.
    """
    out, recipe = Path(out), recipe or Recipe()
    recipe.check()
    runs.check_free(out)
    places = sites_named(bare, sites)
    seen, held_out = parted(bare, rows, recipe, text)
    head = {
        "format": FORMAT,
        "name": name or out.resolve().name,
        "description": description or f"Sparse dictionaries trained by featcircuits on {text}",
        **({} if licence is None else {"licence": licence}),
        "model": model_record(bare),
        "recipe": {
            **asdict(recipe),
            "text": text,
            "text_sha256": sha256_of(rows),
            "tokens": sum(map(len, seen)),
            "tokens_held_out": sum(map(len, held_out)),
            **versions(),
        },
    }
    with runs.resumable(out, head) as work:
        found = trained(bare, rounds_of(seen, recipe), places, recipe, work, progress)
        dictionaries = {site: jumprelu(**one.tensors) for site, one in found.items()}
        spliced = spliced_with(bare, dictionaries)
        figures, together = measure(spliced, held_out, progress, keep_sinks=recipe.keep_sinks)
        with runs.new_run(out) as folder:
            return _write(folder, head, found, figures, together)


def spliced_with(bare: SplicedModel, dictionaries: Mapping[Site, Dictionary]) -> SplicedModel:
    """The model with these dictionaries, moved to its device and precision."""
    dtype = precision(bare.model.dtype)
    return replace(bare, dictionaries={site: d.to(bare.device, dtype) for site, d in sorted(dictionaries.items())})


def sites_named(bare: SplicedModel, patterns: str | Iterable[str]) -> list[Site]:
    """The sites that match the patterns (`featcircuits.model.sites.chosen`), in forward order."""
    every = all_sites(bare.architecture.n_layers, ("attn_z", "attn", "mlp", "resid"))
    found = chosen(map(str, every), patterns)
    if not found:
        raise InputError("no sites were given; give kinds or names such as resid or resid_0")
    return [Site.parse(name) for name in found]


def _write(
    folder: Path,
    head: Mapping[str, Any],
    found: Mapping[Site, Trained],
    figures: Mapping[Site, Figures],
    together: Losses,
) -> dict[str, Any]:
    """Write weights, record and card to `folder`; returns the record."""
    from safetensors.torch import save

    (folder / "sites").mkdir()
    records = {}
    for site, (sinks, tensors) in found.items():
        source = f"sites/{site}.safetensors"
        (folder / source).write_bytes(save(tensors, {"hook_name": hook_of_site(site)}))
        records[str(site)] = {
            "source": source, "sha256": sha256(folder / source), "kind": "jumprelu", **figures[site].record(),
            "sink_tokens_training": sinks,
        }  # fmt: skip
    suite = {**head, "sites": records}
    (folder / "suite.toml").write_text(toml_text(suite), encoding="utf-8")
    (folder / "README.md").write_text(card(suite, together), encoding="utf-8")
    return suite


def model_record(bare: SplicedModel) -> dict[str, Any]:
    """The model's entry in suite.toml; its source is a folder's full path or a name on the hub."""
    source = bare.model.config._name_or_path or type(bare.model).__name__
    return {
        "source": str(Path(source).resolve()) if Path(source).is_dir() else source,
        "fingerprint": fingerprint(bare.model),
        "architecture": bare.architecture.model_type,
        "hidden_size": bare.architecture.width,
        "num_hidden_layers": bare.architecture.n_layers,
    }
