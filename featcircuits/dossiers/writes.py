"""What a feature writes to the residual stream, and what that does to the logits by itself.

A decoder row at the embedding, at an attention's or MLP's output and in the stream is added to the stream as it is,
a transcoder's at its MLP's output too. A row at `attn_z` passes the attention's output projection first. The norms
on the way, the final one and any between projection and stream, are linear once their scale is held; it is held at
the mean root mean square of what they read on the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featcircuits.dictionaries.decomposition import precision
from featcircuits.model.placement import device_of, in_memory
from featcircuits.model.sites import Site, resid
from featcircuits.propagation.norms import Form, form_of
from featcircuits.splicing.spliced import SplicedModel

NUMBERS = 1 << 24
"""Logits that are computed at once."""


@dataclass
class Held:
    """A norm, and the mean root mean square of what it read (centred, where the norm centres)."""

    norm: nn.Module
    form: Form
    total: float = 0.0
    count: int = 0

    @classmethod
    def of(cls, norm: nn.Module) -> Held:
        return cls(norm, form_of(norm))

    def add(self, x: Tensor) -> None:
        """Tokens [n, width] that it reads."""
        wide = self.form.centre(x.to(precision(x.dtype)))
        self.total += float((1 / self.form.scale(self.norm, wide)).double().sum())
        self.count += len(x)

    @property
    def size(self) -> float:
        """The mean root mean square; 1 where nothing was read."""
        return self.total / self.count if self.count else 1.0

    def __call__(self, rows: Tensor) -> Tensor:
        """[n, width]: what it makes of small changes of its input."""
        with in_memory(self.norm):
            changed = self.form.finish(self.norm, self.form.centre(rows) / self.size)
            return changed - self.form.finish(self.norm, torch.zeros_like(rows[:1]))


@dataclass
class Norms:
    """The final norm, and for each `attn_z` site the norm behind its projection, where there is one."""

    last: Site
    """Whose activation the final norm reads."""
    final: Held
    behind: Mapping[Site, tuple[nn.Module, Held]] = field(default_factory=dict)

    @classmethod
    def of(cls, spliced: SplicedModel, sites: Iterable[Site]) -> Norms:
        """Raises `InputError` for a norm whose form is not known."""
        architecture, model = spliced.architecture, spliced.model
        writes = {s: architecture.attention_write(model, s.layer) for s in sites if s.kind == "attn_z"}
        behind = {s: (w[0], Held.of(w[1])) for s, w in writes.items() if isinstance(w, nn.Sequential)}
        return cls(resid(architecture.n_layers - 1), Held.of(architecture.norms(model)[-1]), behind)

    def add_final(self, x: Tensor) -> None:
        """Activations [n, width] at `last`."""
        self.final.add(x)

    def add_write(self, site: Site, x: Tensor, counted: Tensor) -> None:
        """Activations [n, width] at an `attn_z` site, of which some count."""
        if site in self.behind:
            projection, held = self.behind[site]
            held.add(_applied(projection, x[counted]))

    def tensors(self) -> Mapping[str, NDArray]:
        """What a checkpoint keeps."""
        return {f"norm {name}": np.array([held.total, held.count]) for name, held in self._all.items()}

    def restore(self, tensors: Mapping[str, NDArray]) -> None:
        """Go on from a checkpoint."""
        for name, held in self._all.items():
            total, count = tensors[f"norm {name}"]
            held.total, held.count = float(total), int(count)

    @property
    def _all(self) -> Mapping[str, Held]:
        return {"final": self.final, **{f"behind {site}": held for site, (_, held) in self.behind.items()}}


@torch.no_grad()
def stream_rows(spliced: SplicedModel, norms: Norms, site: Site, ids: Tensor, scale: float = 1.0) -> Tensor:
    """[n] -> [n, width]: what one unit of each feature adds to the stream; `scale`: of a normalising dictionary."""
    rows = spliced.dictionaries[site].decoder_rows(ids) * scale
    if site.kind != "attn_z":
        return rows
    write = spliced.architecture.attention_write(spliced.model, site.layer)
    projection = write[0] if isinstance(write, nn.Sequential) else write
    written = _linear(projection, rows)
    return norms.behind[site][1](written) if site in norms.behind else written


class LogitEffects(NamedTuple):
    """Of each feature [n, count]: tokens, and what a unit of the feature adds to their logits (less the mean)."""

    promoted: Tensor
    promoted_by: Tensor
    suppressed: Tensor
    suppressed_by: Tensor


@torch.no_grad()
def logit_effects(spliced: SplicedModel, norms: Norms, rows: Tensor, count: int) -> LogitEffects:
    """Of rows [n, width] of the stream, the final norm's scale held; logits less their mean, which changes no odds.

    A cap on the logits (Gemma 2) is left out: it keeps their order.
    """
    head = spliced.architecture.unembedding(spliced.model)
    size = max(1, NUMBERS // spliced.model.config.get_text_config().vocab_size)
    parts = [_strongest(_linear(head, norms.final(some)), count) for some in rows.split(size)]
    return LogitEffects(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _strongest(logits: Tensor, count: int) -> LogitEffects:
    logits = logits - logits.mean(-1, keepdim=True)
    count = min(count, logits.shape[-1])
    up, down = logits.topk(count), logits.topk(count, largest=False)
    return LogitEffects(up.indices, up.values, down.indices, down.values)


def _linear(module: nn.Module, rows: Tensor) -> Tensor:
    """A module that is affine, without its bias."""
    return (_applied(module, rows) - _applied(module, torch.zeros_like(rows[:1]))).to(rows.device, rows.dtype)


def _applied(module: Any, rows: Tensor) -> Tensor:
    """In the module's own precision, where it computes."""
    dtype = module.weight.dtype if module.weight.is_floating_point() else rows.dtype
    return module(rows.to(device_of(module), dtype)).to(precision(dtype))
