from __future__ import annotations

import torch
from torch import Tensor

from recon_engine._op import Op, empty_output


def sample_pdf_at(bins: Tensor, weights: Tensor, u: Tensor, eps: float = 1e-5) -> Tensor:
    """Where quantiles lie of distributions that are constant inside of bins.

    Args:
        bins: (R, B + 1) edges, ascending.
        weights: (R, B) how likely each bin is; not negative, of any sum.
        u: (R, N) quantiles from 0 to 1, in any order; or (1, N), the same ones for all.
        eps: bins of at most this weight give their start; it also counts as weight behind the last bin.

    Returns:
        (R, N) places between the first and the last edge.

    Differentiable in `bins` and `weights`. CPU and CUDA, float32 and float64.
    """
    return _sample_pdf(bins, weights, u, eps)


def _reference(bins: Tensor, weights: Tensor, u: Tensor, eps: float) -> Tensor:
    sums = weights.cumsum(1)
    v = u * (sums[:, -1:] + eps)  # one row of quantiles serves all
    # The last bin takes what lies behind it.
    bin_of = torch.searchsorted(sums[:, :-1].detach().contiguous(), v.detach())
    before = torch.cat([torch.zeros_like(sums[:, :1]), sums[:, :-1]], 1)
    rest, weight = v - before.gather(1, bin_of), weights.gather(1, bin_of)
    start, end = bins.gather(1, bin_of), bins.gather(1, bin_of + 1)
    moves = (rest <= weight) & (weight > eps)
    inside = start + rest / torch.where(moves, weight, 1.0) * (end - start)
    return torch.where(moves, inside, torch.where(rest > weight, end, start))


def _outputs(bins: Tensor, weights: Tensor, u: Tensor, eps: float) -> Tensor:
    return empty_output(weights, (weights.shape[0], u.shape[1]))


_sample_pdf = Op("sample_pdf", _outputs, _reference, reads=[], writes_all=True, optional_grads=True, constants=["u"])
