from __future__ import annotations

import torch
from torch import Tensor

from recon_engine._op import Op, empty_output

_LEAST_SUM = 1e-4
"""What the sum of the weights is held at in the normalised mode."""


def composite(pointsidx: Tensor, alphas: Tensor, features: Tensor, mode: str) -> Tensor:
    """One image from the features of the K points of every pixel: `sum_k w_k features[:, pointsidx_k]`.

    Args:
        pointsidx: (N, K, H, W) integers, the points of each pixel, the nearest first; negative slots are empty.
        alphas: (N, K, H, W) weights of the points, usually in [0, 1].
        features: (C, P) values of the points; any C.
        mode: "weighted": `w_k = alpha_k`; "norm_weighted": `w_k = alpha_k / max(sum_j alpha_j, 1e-4)`; "alpha":
            `w_k = alpha_k prod_{j<k} (1 - alpha_j)`.

    Returns:
        (N, C, H, W). Differentiable in `alphas` and `features`. CPU and CUDA, float32 and float64. Tensors that are
        views of (N, H, W, K), such as permuted fragments, are read where they lie.
    """
    _check(pointsidx, alphas, features)
    N, _, H, W = pointsidx.shape
    idx, weights, planes = as_stored(pointsidx, alphas)
    return _composite(idx, weights, features.t(), mode, planes).view(N, features.shape[0], H, W)


def as_stored(pointsidx: Tensor, alphas: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Indices and weights as they lie in memory: in planes (N, K, H W), or the slots of a pixel side by side."""
    N, K, H, W = pointsidx.shape
    planes = alphas.is_contiguous() or not alphas.permute(0, 2, 3, 1).is_contiguous()
    shape = (N, K, H * W) if planes else (N, H * W, K)
    idx, weights = ((a if planes else a.permute(0, 2, 3, 1)).reshape(shape) for a in (pointsidx, alphas))
    return idx.int(), weights, planes


def _check(pointsidx: Tensor, alphas: Tensor, features: Tensor) -> None:
    for name, value in (("pointsidx", pointsidx), ("alphas", alphas), ("features", features)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if pointsidx.ndim != 4 or pointsidx.shape != alphas.shape:
        raise ValueError(
            "pointsidx and alphas must both have shape (N, K, H, W), got "
            f"{tuple(pointsidx.shape)} and {tuple(alphas.shape)}: fragments (N, H, W, K) need .permute(0, 3, 1, 2)"
        )
    if pointsidx.is_floating_point() or pointsidx.dtype == torch.bool:
        raise ValueError(f"pointsidx must hold integers, got {pointsidx.dtype}")
    if features.ndim != 2:
        raise ValueError(
            f"features must have shape (C, P) for all points of the batch, got {tuple(features.shape)}: "
            "use pointclouds.features_packed().t()"
        )


def _reference(idx: Tensor, alphas: Tensor, features: Tensor, mode: str, planes: bool) -> Tensor:
    if planes:
        idx, alphas = idx.transpose(1, 2), alphas.transpose(1, 2)
    is_point = idx >= 0
    alphas = torch.where(is_point, alphas, 0)
    if mode == "norm_weighted":
        weights = alphas / alphas.sum(-1, keepdim=True).clamp(min=_LEAST_SUM)
    elif mode == "alpha":
        before = torch.nn.functional.pad((1 - alphas).cumprod(-1), (1, 0), value=1.0)[..., :-1]
        weights = alphas * before
    else:
        weights = alphas
    if not features.shape[0]:
        return (weights.sum() * 0 + features.sum(0)).expand(*idx.shape[:2], -1).mT
    picked = torch.where(is_point[..., None], features[idx.clamp(min=0).long()], 0)
    return (weights[..., None, :] @ picked)[..., 0, :].mT


def _outputs(idx: Tensor, alphas: Tensor, features: Tensor, mode: str, planes: bool) -> Tensor:
    return empty_output(features, (idx.shape[0], features.shape[1], idx.shape[2] if planes else idx.shape[1]))


_composite = Op("composite", _outputs, _reference, optional_grads=True, reads=())
