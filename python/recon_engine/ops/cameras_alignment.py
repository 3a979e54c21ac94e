"""The similarity that brings one set of cameras closest to another."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recon_engine._precision import full_precision
from recon_engine.ops.points_alignment import corresponding_points_alignment


@full_precision
def corresponding_cameras_alignment(
    cameras_src: Any, cameras_tgt: Any, estimate_scale: bool = True, mode: str = "extrinsics", eps: float = 1e-9
) -> Any:
    """Move, turn and scale the world of the source cameras so that they match the target cameras.

    One rotation R_A, translation T_A and scale s_A give each source camera (R_i, T_i) the extrinsics
    (R_A R_i, T_A R_i + s_A T_i), close to those (R_i', T_i') of its target.

    Args:
        cameras_src: N cameras.
        cameras_tgt: the N cameras to match, of any type.
        estimate_scale: whether s_A is estimated; 1 otherwise.
        mode: "centers" aligns the camera centres by `corresponding_points_alignment`; "extrinsics" finds R_A from the
            rotations, as the one closest to all R_i' R_i^T, and then T_A and s_A by least squares.
        eps: least variance that is divided by when the scale is estimated.

    Returns:
        a copy of `cameras_src` with new R and T. Differentiable.

    Raises:
        ValueError: numbers of cameras that differ, or another mode.
    """
    if cameras_src.R.shape[0] != cameras_tgt.R.shape[0]:
        raise ValueError(
            "cameras_src and cameras_tgt have to contain the same number of cameras: "
            f"got {cameras_src.R.shape[0]} and {cameras_tgt.R.shape[0]}"
        )
    if mode not in _ALIGNMENTS:
        raise ValueError(f"mode has to be one of ({', '.join(_ALIGNMENTS)}); got {mode!r}")
    R_A, T_A, s_A = _ALIGNMENTS[mode](cameras_src, cameras_tgt, estimate_scale, eps)
    aligned = cameras_src.clone()
    aligned.R = R_A @ cameras_src.R
    aligned.T = (T_A @ cameras_src.R)[:, 0] + s_A * cameras_src.T
    return aligned


def _align_centers(src: Any, tgt: Any, estimate_scale: bool, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """R_A (3, 3), T_A (1, 3) and s_A () from the camera centres."""
    centers = src.get_camera_center()[None], tgt.get_camera_center()[None]
    R, T, s = corresponding_points_alignment(*centers, estimate_scale=estimate_scale, eps=eps)
    # Cameras take points of the target's world back: x = (x' R_A + T_A) / s_A is the inverse of x' = s x R + T.
    R_A = R[0].T
    return R_A, -(T @ R_A), s[0]


def _align_extrinsics(src: Any, tgt: Any, estimate_scale: bool, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """R_A (3, 3), T_A (1, 3) and s_A () from rotations and translations."""
    U, _, Vh = torch.linalg.svd((tgt.R @ src.R.mT).mean(dim=0))
    signs = torch.cat((U.new_ones(2), torch.linalg.det(U @ Vh).sign()[None]))
    R_A = (U * signs) @ Vh
    # T_A + s_A T_i R_i^T = T_i' R_i^T for all i, two sets of points that differ by scale and translation.
    a, b = ((src.R @ T[:, :, None])[:, :, 0] for T in (src.T, tgt.T))
    a_mean, b_mean = a.mean(dim=0, keepdim=True), b.mean(dim=0, keepdim=True)
    s_A = a.new_ones(())
    if estimate_scale and len(a) > 1:
        s_A = ((a - a_mean) * (b - b_mean)).mean() / (a - a_mean).square().mean().clamp(min=eps)
    return R_A, b_mean - s_A * a_mean, s_A


_ALIGNMENTS = {"centers": _align_centers, "extrinsics": _align_extrinsics}
