from __future__ import annotations

import torch
from torch import Tensor

from recon_engine._op import Op, empty_output


def march_rays(densities: Tensor, features: Tensor, eps: float = 1e-10, shift: int = 1) -> Tensor:
    """What rays show of the samples along them, by emission and absorption.

    A sample of density a lets 1 - a of the light behind it through and emits its features weighted by a:
    `w_i = a_i prod_{k <= i - shift} (1 + eps - a_k)`, `out_c = sum_i w_i f_ic`.

    Args:
        densities: (R, S) from 0, empty, to 1, opaque; ordered from the eye on.
        features: (R, S, C).
        eps: keeps opaque samples from hiding all behind them, in the weights; lost in float32 where it is tiny.
        shift: how many samples, its own counted as the first, do not dim a sample. 1: only those in front of it do.

    Returns:
        (R, C + 1): the features of each ray and, last, its opacity `1 - prod_i (1 - a_i)`.

    Differentiable in `densities` and `features`, without a division: opaque samples have exact gradients. CPU and CUDA,
    float32 and float64.

    References:
        Max, Optical models for direct volume rendering, IEEE TVCG 1995.
    """
    return _march_rays(densities, features, eps, shift)


def _reference(densities: Tensor, features: Tensor, eps: float, shift: int) -> Tensor:
    shift = min(shift, densities.shape[1])
    behind = ((1 + eps) - densities).cumprod(1)[:, : densities.shape[1] - shift]
    light = torch.cat([torch.ones_like(densities[:, :shift]), behind], 1)
    opacity = 1 - (1 - densities).prod(1, keepdim=True)
    return torch.cat([((densities * light)[..., None] * features).sum(1), opacity], 1)


def _outputs(densities: Tensor, features: Tensor, eps: float, shift: int) -> Tensor:
    return empty_output(features, (features.shape[0], features.shape[2] + 1))


_march_rays = Op("march_rays", _outputs, _reference, reads=[], writes_all=True, optional_grads=True)
