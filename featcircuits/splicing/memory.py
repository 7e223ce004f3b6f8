"""How much one forward pass can take within a fixed memory."""

from __future__ import annotations

import torch

from featcircuits.model.tokens import Tokens
from featcircuits.splicing.spliced import SplicedModel

_ROW_BYTES = 1 << 29
"""The most memory, in bytes, for the rows of one forward pass on the CPU."""
_PER_LAYER = 34
"""The activations that a layer stores for its backward pass, in widths of the residual stream."""
_PER_LOGIT = 6
"""The same for a token's logits with their loss: the logits, in float32, and as log-probabilities."""


def rows_at_once(
    spliced: SplicedModel, slots: int, most: int, gradients: bool = False, all_logits: bool = False
) -> int:
    """How many rows of `slots` tokens one forward pass can take within a fixed memory; 1 to `most`.

    `gradients`: a backward pass follows. `all_logits`: the logits of every token are computed, and a loss of them.
    """
    architecture = spliced.architecture
    config, layers = spliced.model.config.get_text_config(), architecture.n_layers if gradients else 2
    heads = getattr(config, "num_attention_heads", 1)
    numbers = slots * layers * (_PER_LAYER * architecture.width + 2 * heads * slots)
    if all_logits:
        numbers += _PER_LOGIT * slots * config.vocab_size
    budget = _ROW_BYTES
    if spliced.device.type == "cuda":
        budget = max(budget, torch.cuda.mem_get_info(spliced.device)[0] // 4)
    return max(1, min(most, budget // (numbers * spliced.model.dtype.itemsize)))


def copies_at_once(spliced: SplicedModel, tokens: Tokens, most: int, gradients: bool = False) -> int:
    """How many copies of a batch fit into the rows of one forward pass, at least 1."""
    return max(1, rows_at_once(spliced, tokens.ids.shape[1], most, gradients) // len(tokens))
