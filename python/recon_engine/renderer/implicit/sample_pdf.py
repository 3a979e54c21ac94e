"""Samples of distributions that are constant inside of bins: where fine samples along rays go."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_pdf(bins: Tensor, weights: Tensor, n_samples: int, det: bool = False, eps: float = 1e-5) -> Tensor:
    """Samples of distributions that are constant inside of bins.

    Args:
        bins: (..., B + 1) edges of the bins, ascending.
        weights: (..., B) how likely each bin is; not negative, of any sum.
        n_samples: N, how many samples of each distribution are drawn.
        det: quantiles evenly spaced from 0 to 1 and not random ones.
        eps: bins of at most this weight give their start. It also counts as weight behind the last bin: where all
            weights are zero the samples lie at the last edge.

    Returns:
        (..., N), in the order of the quantiles.

    Differentiable in `bins` and `weights`. The random quantiles are those of `torch.rand` for the shape of the output.

    Raises:
        ValueError: for shapes that do not fit, and for negative weights.

    References:
        Mildenhall et al., NeRF, ECCV 2020, section 5.2.
    """
    from recon_engine.ops._sample_pdf import sample_pdf_at

    _check(bins, weights, -eps)
    dtype = torch.promote_types(bins.dtype if bins.is_floating_point() else torch.float32, weights.dtype)
    u = _quantiles(bins, n_samples, det).to(dtype)
    R, B = bins.shape[:-1].numel(), weights.shape[-1]
    u = u.reshape(1 if det else R, n_samples)
    samples = sample_pdf_at(bins.to(dtype).reshape(R, B + 1), weights.to(dtype).reshape(R, B), u, eps)
    return samples.reshape(*bins.shape[:-1], n_samples)


def sample_pdf_python(bins: Tensor, weights: Tensor, N_samples: int, det: bool = False, eps: float = 1e-5) -> Tensor:
    """Samples of distributions that are constant inside of bins, with `eps` added to every weight.

    Where `eps` is small beside the weights the samples are those of `sample_pdf`; where all weights are zero they are
    spread evenly. Written in plain torch.

    Args:
        bins: (..., B + 1) edges of the bins, ascending.
        weights: (..., B) how likely each bin is; greater than -eps, of any sum.
        N_samples: N, how many samples of each distribution are drawn.
        det: quantiles evenly spaced from 0 to 1 and not random ones.
        eps: what is added to every weight; bins of a probability below it give their start.

    Returns:
        (..., N), in the order of the quantiles.

    Differentiable in `bins` and `weights`. The random quantiles are those of `torch.rand` for the shape of the output.

    Raises:
        ValueError: for shapes that do not fit, and for negative weights.
    """
    _check(bins, weights, -eps)
    raised = weights + eps
    cdf = torch.nn.functional.pad((raised / raised.sum(-1, keepdim=True)).cumsum(-1), (1, 0))
    u = _quantiles(cdf, N_samples, det).expand(*cdf.shape[:-1], N_samples).contiguous()
    above = torch.searchsorted(cdf.detach(), u, right=True)
    below, above = (above - 1).clamp(min=0), above.clamp(max=cdf.shape[-1] - 1)
    start, probability = cdf.gather(-1, below), cdf.gather(-1, above) - cdf.gather(-1, below)
    t = (u - start) / torch.where(probability < eps, 1.0, probability)
    first, last = bins.gather(-1, below), bins.gather(-1, above)
    return first + t * (last - first)


def _quantiles(like: Tensor, count: int, det: bool) -> Tensor:
    """(count,) even quantiles or (..., count) random ones: PyTorch3D's for a seed, drawn as it draws them."""
    dtype = like.dtype if like.is_floating_point() else torch.float32
    if det:
        return torch.linspace(0.0, 1.0, count, device=like.device, dtype=dtype)
    return torch.rand((*like.shape[:-1], count), device=like.device, dtype=dtype)


def _check(bins: Tensor, weights: Tensor, lowest: float) -> None:
    if bins.shape[:-1] != weights.shape[:-1] or bins.shape[-1] != weights.shape[-1] + 1 or weights.shape[-1] == 0:
        raise ValueError(
            "Inconsistent shapes of bins and weights: expected bins (..., B + 1) and weights (..., B) with B >= 1, "
            f"got {tuple(bins.shape)} and {tuple(weights.shape)}"
        )
    if weights.numel() and weights.detach().min() <= lowest:
        raise ValueError(f"Negative weights provided: the least is {weights.min().item():g}")
