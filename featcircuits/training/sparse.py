"""Training steps of BatchTopK dictionaries that compute only with the active features.

A step of sae_lens has six products of dense matrices. Five of them multiply matrices in which all but k of
n_features numbers per token are zero. Here these five read only the others, so a step costs little more than the
sixth, which finds the active features. Losses and gradients are sae_lens's own up to rounding, and
its trainer does the rest: Adam, clipping, schedules, and the count of dead features.

Multiplying by the decoder norm, which decides what is active, and dividing by it before decoding cancel, so
neither is in the gradient.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from sae_lens import BatchTopKTrainingSAE, MatryoshkaBatchTopKTrainingSAE
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from sae_lens.saes.topk_sae import calculate_topk_aux_acts
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import embedding_bag

LOWER = 0.8
"""Features above this times the usual threshold are looked at first; enough of them are, almost always."""


class Active(NamedTuple):
    """Which features are active on which tokens: one number each per pair, in the order of tokens."""

    token: Tensor
    feature: Tensor
    shape: tuple[int, int]
    """(tokens, features)"""


def sums(rows: Tensor, index: Tensor, values: Tensor, group: Tensor, count: int) -> Tensor:
    """rows[index] times values, summed by group [count, width]; `group` is sorted."""
    starts = torch.searchsorted(group, torch.arange(count, device=group.device))
    return embedding_bag(index, rows, starts, mode="sum", per_sample_weights=values)


class _Encoded(Function):
    """Pre-activations of the active features [pair], with gradients for the encoder and b_dec."""

    @staticmethod
    def forward(ctx: Any, W_enc: Tensor, b_enc: Tensor, b_dec: Tensor, x: Tensor, pre: Tensor, at: Active) -> Tensor:
        ctx.at = at
        ctx.save_for_backward(W_enc, x)
        return pre[at.token, at.feature]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (W_enc, x), at = ctx.saved_tensors, ctx.at
        feature, order = at.feature.sort()
        rows = sums(x, at.token[order], grads[0][order], feature, at.shape[1])
        bias = W_enc.new_zeros(at.shape[1]).index_add_(0, at.feature, grads[0])
        return rows.T, bias, -(W_enc @ bias), None, None, None


def largest(acts: Tensor, count: int, bound: float) -> Active:
    """The `count` largest positive numbers of acts [token, feature]; fast if that many are above `bound`."""
    flat = acts.flatten()
    found = (flat > max(bound, 0.0)).nonzero()[:, 0]
    if len(found) < count and bound > 0:
        found = (flat > 0).nonzero()[:, 0]
    if len(found) > count:
        found = found[flat[found].topk(count, sorted=False).indices].sort().values
    return Active(found // acts.shape[1], found % acts.shape[1], (acts.shape[0], acts.shape[1]))


class SparseBatchTopK(BatchTopKTrainingSAE):
    """sae_lens's BatchTopK dictionary with a sparse training step."""

    @property
    def widths(self) -> list[int]:
        """How many of the features reconstruct alone; for each of these there is a loss."""
        return [self.cfg.d_sae]

    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        """As in sae_lens; `feature_acts` is a sparse matrix."""
        target = step_input.sae_in
        with torch.no_grad():
            x = self.process_sae_in(target)
            pre = torch.addmm(self.b_enc, x, self.W_enc)
            scale = self.W_dec.norm(dim=1)
            at = largest(pre * scale, int(self.cfg.k * len(x)), LOWER * self.topk_threshold.item())
        values: Tensor = _Encoded.apply(self.W_enc, self.b_enc, self.b_dec, x, pre, at)  # type: ignore[assignment]
        rebuilt = self._rebuilt(values, at)
        losses = {f"mse_loss_{width}": _loss(some, target) for width, some in rebuilt.items()}
        sae_out = rebuilt[self.cfg.d_sae]
        losses["aux_loss"] = self._dead_loss(target, sae_out, step_input.dead_neuron_mask)
        acts = values.detach() * scale[at.feature]
        self.update_topk_threshold(acts)
        pairs = torch.stack([at.token, at.feature])
        return TrainStepOutput(
            sae_in=target,
            sae_out=sae_out,
            feature_acts=torch.sparse_coo_tensor(pairs, acts, at.shape, is_coalesced=True, check_invariants=False),
            hidden_pre=pre,
            loss=torch.stack(list(losses.values())).sum(),
            losses=losses,
        )

    def _rebuilt(self, values: Tensor, at: Active) -> dict[int, Tensor]:
        """The reconstruction [token, width] from the first features, by their number."""
        rebuilt: dict[int, Tensor] = {}
        done, first = self.b_dec.expand(at.shape[0], -1), 0
        for width in self.widths:
            some = ((at.feature >= first) & (at.feature < width)).nonzero()[:, 0]
            done = done + sums(self.W_dec, at.feature[some], values[some], at.token[some], at.shape[0])
            rebuilt[width], first = done, width
        return rebuilt

    def _dead_loss(self, target: Tensor, sae_out: Tensor, dead: Tensor | None) -> Tensor:
        """The loss with which the dead features learn to reconstruct what the others leave."""
        if dead is None or not dead.any():
            return sae_out.new_zeros(())
        at = dead.nonzero()[:, 0]
        most = target.shape[1] // 2
        W_enc, W_dec = self.W_enc.index_select(1, at), self.W_dec.index_select(0, at)
        pre = torch.addmm(self.b_enc[at], target - self.b_dec, W_enc)
        scale = W_dec.detach().norm(dim=1)
        acts = calculate_topk_aux_acts(min(most, len(at)), pre * scale, torch.ones_like(at, dtype=torch.bool)) / scale
        loss = _loss(acts @ W_dec, (target - sae_out).detach())
        return self.cfg.aux_loss_coefficient * min(len(at) / most, 1.0) * loss


class SparseMatryoshka(SparseBatchTopK, MatryoshkaBatchTopKTrainingSAE):
    """sae_lens's Matryoshka dictionary with a sparse training step."""

    @property
    def widths(self) -> list[int]:
        """As in sae_lens's config."""
        return self.cfg.matryoshka_widths  # type: ignore[attr-defined]


def _loss(rebuilt: Tensor, target: Tensor) -> Tensor:
    """Squared error, summed over the width and averaged over tokens."""
    return (rebuilt - target).square().sum(-1).mean()
