"""Interpolation of per-vertex attributes of faces at pixels."""

from __future__ import annotations

from torch import Tensor


def interpolate_face_attributes(pix_to_face: Tensor, barycentric_coords: Tensor, face_attributes: Tensor) -> Tensor:
    """Attributes at pixels: sum_i bary_i attribute_i over the three vertices of the face that a pixel shows.

    Args:
        pix_to_face: (N, H, W, K) int64 packed face indices; negative where there is no face.
        barycentric_coords: (N, H, W, K, 3) barycentric coordinates in those faces.
        face_attributes: (F, 3, D) attributes of the vertices of each face.

    Returns:
        (N, H, W, K, D) the attributes, zero where there is no face.

    Differentiable in `barycentric_coords` and `face_attributes`. CPU and CUDA, any floating dtype.
    Cost: memory grows with the pixels that show a face, not with N H W K. Synchronises once on CUDA to count them.

    Raises:
        ValueError: shapes that do not fit.
    """
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
    D = face_attributes.shape[-1]
    faces = pix_to_face.reshape(-1)
    shown = (faces >= 0).nonzero()[:, 0]
    w0, w1, w2 = barycentric_coords.reshape(-1, 3, 1).index_select(0, shown).unbind(1)
    a0, a1, a2 = face_attributes.index_select(0, faces.index_select(0, shown)).unbind(1)
    values = w0 * a0 + w1 * a1 + w2 * a2
    flat = values.new_zeros((faces.shape[0], D)).index_copy_(0, shown, values)
    return flat.view(*pix_to_face.shape, D)


interpolate_face_attributes_python = interpolate_face_attributes
"""The same function: it is plain torch on every device."""
