"""Interpolation of per-vertex attributes of faces at pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _interpolate_face_attributes as _op


def interpolate_face_attributes(pix_to_face: Tensor, barycentric_coords: Tensor, face_attributes: Tensor) -> Tensor:
    """Attributes at pixels: sum_i bary_i attribute_i over the three vertices of the face that a pixel shows.

    Args:
        pix_to_face: (N, H, W, K) int64 packed face indices; negative where there is no face.
        barycentric_coords: (N, H, W, K, 3) barycentric coordinates in those faces.
        face_attributes: (F, 3, D) attributes of the vertices of each face.

    Returns:
        (N, H, W, K, D) the attributes, zero where there is no face; on CUDA NaN where the index is F or more.

    Differentiable in `barycentric_coords` and `face_attributes`. CPU and CUDA, float32 and float64, which may be mixed;
    under autocast half precision is computed in float32. Gradients are repeatable bit by bit on the CPU, on CUDA with
    `torch.use_deterministic_algorithms(True)`. Never synchronises. Cost: proportional to the output.

    Raises:
        ValueError: shapes that do not fit; on the CPU an index beyond the faces.
    """
    _check(pix_to_face, barycentric_coords, face_attributes)
    if barycentric_coords.dtype != face_attributes.dtype:
        dtype = torch.promote_types(barycentric_coords.dtype, face_attributes.dtype)
        barycentric_coords, face_attributes = barycentric_coords.to(dtype), face_attributes.to(dtype)
    return _op.interpolate_face_attributes(pix_to_face, barycentric_coords, face_attributes)


def interpolate_face_attributes_python(
    pix_to_face: Tensor, barycentric_coords: Tensor, face_attributes: Tensor
) -> Tensor:
    """The same in plain torch, on every device and in every floating dtype, with derivatives of any order."""
    _check(pix_to_face, barycentric_coords, face_attributes)
    return _op._reference(pix_to_face, barycentric_coords, face_attributes)


def _check(pix_to_face: Tensor, barycentric_coords: Tensor, face_attributes: Tensor) -> None:
    if face_attributes.dim() != 3 or face_attributes.shape[1] != 3:
        raise ValueError(
            f"Faces can only have three vertices: face_attributes must have shape (F, 3, D); "
            f"got {tuple(face_attributes.shape)}"
        )
    if barycentric_coords.dim() != 5 or barycentric_coords.shape[-1] != 3:
        raise ValueError(f"barycentric_coords must have shape (N, H, W, K, 3); got {tuple(barycentric_coords.shape)}")
    if pix_to_face.shape != barycentric_coords.shape[:-1]:
        raise ValueError(
            f"pix_to_face must have shape (batch_size, H, W, K) = {tuple(barycentric_coords.shape[:-1])}; "
            f"got {tuple(pix_to_face.shape)}"
        )
