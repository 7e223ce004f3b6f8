"""Where the sites of each model family are; nothing else in the package names a family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from featcircuits.errors import InputError
from featcircuits.model.families import FAMILIES, Family, Fused, OwnAttention
from featcircuits.model.sites import KINDS, Site

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["FAMILIES", "INPUTS", "Architecture", "Family", "Fused", "OwnAttention", "architecture_of", "not_supported"]

INPUTS = ("attn_z", "resid_mid", "mlp_in")
"""The kinds of sites that are the input of their module; all others are its output."""


@dataclass(frozen=True)
class Architecture:
    """One model's layout: its family's row applied to its config."""

    family: Family
    model_type: str
    n_layers: int
    width: int
    head_width: int
    sequential: bool
    """Whether a layer's MLP reads its attention's output (GPT-NeoX's parallel blocks do not)."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of sites of a layer, in forward order; parallel blocks have no stream between their parts."""
        return tuple(kind for kind in KINDS if kind != "embed" and (self.sequential or kind != "resid_mid"))

    def layers(self, model: PreTrainedModel) -> list[nn.Module]:
        """The model's layers, in forward order."""
        return list(model.get_submodule(self.family.layers).children())

    def layer_of(self, model: PreTrainedModel) -> dict[nn.Module, int]:
        """The layer of each module; modules outside the layers are left out."""
        return {module: number for number, layer in enumerate(self.layers(model)) for module in layer.modules()}

    def module(self, model: PreTrainedModel, site: Site) -> nn.Module:
        """The module whose output (for the kinds in `INPUTS`, input) is the site."""
        if site.kind == "embed":
            return model.get_input_embeddings()
        if not 0 <= site.layer < self.n_layers:
            raise InputError(f"site {site}: the model has {self.n_layers} layers, 0 to {self.n_layers - 1}")
        if site.kind == "resid_mid" and not self.sequential:
            raise InputError(
                f"site {site}: {self.model_type!r} computes attention and MLP of a layer in parallel, so there is no "
                "stream between them"
            )
        layer, family = self.layers(model)[site.layer], self.family
        inner = {
            "attn_z": family.projection, "attn": family.attn, "resid_mid": self.mlp_norm or family.mlp_module,
            "mlp_in": family.mlp_module, "mlp": family.mlp, "resid": "",
        }[site.kind]  # fmt: skip
        return layer.get_submodule(inner)

    @property
    def mlp_norm(self) -> str | None:
        """The norm before an MLP, named from its layer; None if the MLP reads the stream itself."""
        before = [name for name in self.family.norms if name not in (self.family.attn, self.family.mlp)]
        return before[-1] if before else None

    def attention_write(self, model: PreTrainedModel, layer: int) -> nn.Module:
        """The map from the heads' outputs (attn_z) to what the attention adds to the stream (attn)."""
        family, block = self.family, self.layers(model)[layer]
        projection = block.get_submodule(family.projection)
        inside = family.projection.startswith(f"{family.attn}.")
        return projection if inside else nn.Sequential(projection, block.get_submodule(family.attn))

    def site_width(self, model: PreTrainedModel, site: Site) -> int:
        """The width of the activation at a site."""
        return (
            self.width
            if site.kind != "attn_z"
            else self.head_width * model.config.get_text_config().num_attention_heads
        )

    def norms(self, model: PreTrainedModel) -> list[nn.Module]:
        """Every norm on the residual path, the final one last."""
        return [*self._in_layers(model, *self.family.norms), model.get_submodule(self.family.final_norm)]

    def qk_norms(self, model: PreTrainedModel) -> list[nn.Module]:
        """The norms of queries and keys, if the family has them."""
        return self._in_layers(model, *self.family.qk_norms)

    def activations(self, model: PreTrainedModel) -> list[nn.Module]:
        """The elementwise nonlinearities of the MLPs."""
        return self._in_layers(model, self.family.activation)

    def products(self, model: PreTrainedModel) -> list[nn.Module]:
        """The modules that read a gated product; none if MLPs have no gate."""
        return self._in_layers(model, self.family.product) if self.family.product else []

    def branches(self, model: PreTrainedModel) -> list[nn.Module]:
        """The modules whose output is, or ends with, the branch that gates multiply; none if MLPs have no gate."""
        return self._in_layers(model, self.family.branch) if self.family.branch else []

    def _in_layers(self, model: PreTrainedModel, *names: str) -> list[nn.Module]:
        return [layer.get_submodule(name) for layer in self.layers(model) for name in names]

    def unembedding(self, model: PreTrainedModel) -> nn.Module:
        """The module that computes the logits."""
        head = model.get_output_embeddings()
        assert head is not None  # architecture_of has checked this
        return head


def architecture_of(model: PreTrainedModel, family: Family | None = None) -> Architecture:
    """The model's layout. Finds the family by `model_type` if none is given; raises `InputError` if it has no row."""
    config = model.config
    family = family or FAMILIES.get(config.model_type)
    if family is None:
        raise InputError(not_supported(config.model_type))
    try:
        n_layers = len(list(model.get_submodule(family.layers).children()))
    except AttributeError:
        n_layers = 0
    if n_layers == 0 or model.get_output_embeddings() is None:
        raise InputError(
            f"{type(model).__name__} is not the causal language model of family {config.model_type!r} "
            f"(layers at {family.layers!r} and a head); load it with AutoModelForCausalLM"
        )
    text = config.get_text_config()
    for needed in ("hidden_size", "num_attention_heads", "vocab_size"):
        if not isinstance(getattr(text, needed, None), int):
            raise InputError(f"{type(config).__name__} has no {needed}, which every family's row needs")
    head_width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Architecture(family, config.model_type, n_layers, text.hidden_size, head_width, family.sequential(text))


def not_supported(model_type: str) -> str:
    """The message about a family without a row."""
    return (
        f"model family {model_type!r} is not supported; supported: {', '.join(sorted(FAMILIES))}. "
        "A new one is a row in featcircuits/model/families.py (docs/howto/model-family.md)"
    )
