"""Products with a few rows of a large matrix, which is never copied or multiplied as a whole."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

_NUMBERS = 1 << 24
"""The most numbers of gathered rows that are held at once."""


def dots(left: Tensor, row: Tensor, right: Tensor, ids: Tensor) -> Tensor:
    """<left[row[i]], right[ids[i]]> for each i [n]; left [m, width], right [k, width]; no pair occurs twice."""
    if left.device.type == "cpu" and len(row):
        return _sampled(left, row, right, ids)
    size = max(1, _NUMBERS // max(1, right.shape[-1]))
    parts = [(left[r] * right[i]).sum(-1) for r, i in zip(row.split(size), ids.split(size), strict=True)]
    return torch.cat(parts) if parts else left.new_zeros(0)


def combined(weights: Tensor, row: Tensor, right: Tensor, ids: Tensor, n_rows: int) -> Tensor:
    """The sum of weights[i] * right[ids[i]] over all i with row[i] = r, for each r [n_rows, width]."""
    order = _order(row)
    if order is not None:
        weights, row, ids = weights[order], row[order], ids[order]
    starts = torch.searchsorted(row.contiguous(), torch.arange(n_rows, device=row.device))
    return embedding_bag(ids, right, starts, mode="sum", per_sample_weights=weights.to(right.dtype))


def _order(row: Tensor) -> Tensor | None:
    """The permutation that sorts the rows; None if they are sorted."""
    return None if bool((row[1:] >= row[:-1]).all()) else row.argsort(stable=True)


def _sampled(left: Tensor, row: Tensor, right: Tensor, ids: Tensor) -> Tensor:
    """`dots` by the CPU's kernel for products at given entries, which reads each row of `right` once without a copy."""
    order = _order(row)
    sorted_row, sorted_ids = (row, ids) if order is None else (row[order], ids[order])
    starts = torch.searchsorted(sorted_row.contiguous(), torch.arange(len(left) + 1))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        where = torch.sparse_csr_tensor(
            starts, sorted_ids, left.new_zeros(len(row)), (len(left), len(right)), check_invariants=False
        )
    found = torch.sparse.sampled_addmm(where, left, right.T, beta=0).values()
    return found if order is None else torch.empty_like(found).scatter_(0, order, found)
