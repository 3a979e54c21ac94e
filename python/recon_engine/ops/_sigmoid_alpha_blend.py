from __future__ import annotations

import torch
from torch import Tensor

from recon_engine._op import Op


def sigmoid_alpha_blend(dists: Tensor, pix_to_face: Tensor, sigma: float) -> Tensor:
    """Opacity of each pixel from the faces that may cover it: `1 - prod_k(1 - sigmoid(-dists_k / sigma))`.

    Args:
        dists: (N, H, W, K) signed squared distance of the pixel to each face, negative inside.
        pix_to_face: (N, H, W, K) int64 face of each slot; negative slots are empty.
        sigma: softness, in the unit of `dists`; positive.

    Returns:
        alpha: (N, H, W), 0 where no face is near.

    Differentiable in `dists`. CPU and CUDA, float32 and float64.

    References:
        Liu et al., Soft Rasterizer, ICCV 2019, equations 1 and 3.
    """
    return 1 - _sigmoid_alpha_blend(dists, pix_to_face, sigma)


def _reference(dists: Tensor, pix_to_face: Tensor, sigma: float) -> Tensor:
    return torch.where(pix_to_face >= 0, 1 - torch.sigmoid(-dists / sigma), 1.0).prod(-1)


def _outputs(dists: Tensor, pix_to_face: Tensor, sigma: float) -> Tensor:
    return dists.new_empty(dists.shape[:-1])


_sigmoid_alpha_blend = Op("sigmoid_alpha_blend", _outputs, _reference, writes_all=True)
