"""Which site a layer of another program's dictionaries is."""

from __future__ import annotations

from featcircuits.errors import InputError, shortened
from featcircuits.model.sites import Site
from featcircuits.sources.hooks import site_of_hook


def site_at(pattern: str, layer: int) -> Site:
    """Of "resid_{layer}", or of a hook such as "blocks.{layer}.hook_resid_pre"."""
    if not isinstance(pattern, str) or "{layer}" not in pattern:
        raise InputError(f"at is {shortened(pattern)}; give a site with {{layer}} for its number: resid_{{layer}}")
    name = pattern.replace("{layer}", str(layer))
    return site_of_hook(name) if "." in name else Site.parse(name)
