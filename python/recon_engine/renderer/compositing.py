"""From the K points of every pixel to one image of their features."""

from __future__ import annotations

from torch import Tensor


def alpha_composite(pointsidx: Tensor, alphas: Tensor, pt_clds: Tensor) -> Tensor:
    """Blend front to back: `sum_k alpha_k prod_{j<k} (1 - alpha_j) features[:, pointsidx_k]`.

    Args:
        pointsidx: (N, K, H, W) integers, packed indices of the points of each pixel, the nearest first; negative where
            there is none.
        alphas: (N, K, H, W) opacities in [0, 1].
        pt_clds: (C, P) features of all points of the batch, any C.

    Returns:
        (N, C, H, W), 0 where a pixel has no points. Differentiable in `alphas`, also where they are 1, and `pt_clds`.
        CPU and CUDA, float32 and float64.
    """
    return _composite(pointsidx, alphas, pt_clds, "alpha")


def norm_weighted_sum(pointsidx: Tensor, alphas: Tensor, pt_clds: Tensor) -> Tensor:
    """Weighted mean, whatever the depth: `sum_k alpha_k features[:, pointsidx_k] / max(sum_k alpha_k, 1e-4)`.

    Args:
        pointsidx: (N, K, H, W) integers, packed indices of the points of each pixel; negative where there is none.
        alphas: (N, K, H, W) weights.
        pt_clds: (C, P) features of all points of the batch, any C.

    Returns:
        (N, C, H, W), 0 where a pixel has no points. Differentiable in `alphas` and `pt_clds`. CPU and CUDA, float32 and
        float64.
    """
    return _composite(pointsidx, alphas, pt_clds, "norm_weighted")


def weighted_sum(pointsidx: Tensor, alphas: Tensor, pt_clds: Tensor) -> Tensor:
    """Weighted sum, whatever the depth: `sum_k alpha_k features[:, pointsidx_k]`.

    Args:
        pointsidx: (N, K, H, W) integers, packed indices of the points of each pixel; negative where there is none.
        alphas: (N, K, H, W) weights.
        pt_clds: (C, P) features of all points of the batch, any C.

    Returns:
        (N, C, H, W), 0 where a pixel has no points. Differentiable in `alphas` and `pt_clds`. CPU and CUDA, float32 and
        float64.
    """
    return _composite(pointsidx, alphas, pt_clds, "weighted")


def _composite(pointsidx: Tensor, alphas: Tensor, pt_clds: Tensor, mode: str) -> Tensor:
    # Imported here so that the renderer's other parts load without the compiled module.
    from recon_engine.ops._composite import composite

    return composite(pointsidx, alphas, pt_clds, mode)
