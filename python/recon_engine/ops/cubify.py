"""Voxels to the mesh of the cubes that they are."""

from __future__ import annotations

import torch
from torch import Tensor

from recon_engine.structures.meshes import Meshes

# The sides of a cube: the step to the voxel beside it in y, x, z, and its two triangles, counter-clockwise seen from
# outside. Corner c lies at x, y, z = c >> 2, c >> 1 & 1, c & 1.
_SIDES = [
    ((0, -1, 0), (0, 1, 2), (1, 3, 2)),
    ((1, 0, 0), (2, 3, 6), (3, 7, 6)),
    ((0, 0, -1), (0, 2, 6), (0, 6, 4)),
    ((-1, 0, 0), (0, 5, 1), (0, 4, 5)),
    ((0, 1, 0), (6, 7, 5), (6, 5, 4)),
    ((0, 0, 1), (1, 7, 3), (1, 5, 7)),
]


def cubify(
    voxels: Tensor,
    thresh: float,
    *,
    feats: Tensor | None = None,
    device: torch.device | str | None = None,
    align: str = "topleft",
) -> Meshes:
    """The surfaces of occupied voxels: a cube each, with vertices shared and without the faces between two of them.

    Args:
        voxels: (N, D, H, W) occupancies.
        thresh: a voxel is occupied where its value is at least this.
        feats: (N, K, D, H, W) colours, or None. Used with `align="center"` only.
        device: of the meshes; that of `voxels` by default.
        align: where voxel (0, 0, 0) lies, and its last neighbour along each axis:

            - "topleft": the corners of the cubes with the smallest coordinates are at -1 and 1;
            - "corner": the cubes fill [-1, 1];
            - "center": the centres of the cubes are at -1 and 1.

    Returns:
        N meshes, of the dtype of the voxels where that is float64, otherwise float32. x runs along W, y along H, z
        along D. With `feats` each face has the colour of its voxel, as a `TexturesAtlas` of one texel.

    Raises:
        ValueError: an unknown `align`, or a shape that does not fit.

    Differentiable in `feats`. CPU and CUDA.
    """
    if align not in ("topleft", "corner", "center"):
        raise ValueError(f"Align mode must be one of (topleft, corner, center): cubify got {align!r}")
    if voxels.ndim != 4:
        raise ValueError(f"cubify: voxels must have shape (N, D, H, W), got {tuple(voxels.shape)}")
    if feats is not None and (feats.ndim != 5 or (feats.shape[0], *feats.shape[2:]) != voxels.shape):
        N, D, H, W = voxels.shape
        raise ValueError(f"cubify: feats must have shape ({N}, K, {D}, {H}, {W}), got {tuple(feats.shape)}")
    device = voxels.device if device is None else torch.device(device)
    if len(voxels) == 0:
        return Meshes(verts=[], faces=[])
    with torch.no_grad():
        occupied = (voxels.to(device) >= thresh).permute(0, 2, 3, 1)  # N H W D
        sides, corners = _surface(occupied)
        used = torch.zeros(occupied.shape[0], *(n + 1 for n in occupied.shape[1:]), dtype=torch.bool, device=device)
        used.view(-1)[corners.flatten()] = True
        verts = _positions(used, align, voxels.dtype if voxels.dtype == torch.float64 else torch.float32)
        num_verts, num_sides = used.flatten(1).sum(1), torch.bincount(sides[:, 0], minlength=len(used))
        ids = used.flatten(1).cumsum(1).sub_(1).flatten()  # within each mesh
        faces = ids[corners]
        counts = (2 * num_sides).tolist()
    textures = None
    if feats is not None and align == "center":
        textures = _colors(feats.to(device), sides, counts)
    return Meshes(verts=list(verts.split(num_verts.tolist())), faces=list(faces.split(counts)), textures=textures)


def _surface(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """The sides between an occupied voxel and a free one.

    Returns:
        sides: (S, 5) n, y, x, z of the voxel, and which of its sides.
        corners: (2 S, 3) of their triangles, as numbers in the batch of grids (N, H + 1, W + 1, D + 1).
    """
    _, H, W, D = occupied.shape
    padded = torch.nn.functional.pad(occupied, (1,) * 6)
    beside = [padded[:, 1 + y : 1 + y + H, 1 + x : 1 + x + W, 1 + z : 1 + z + D] for (y, x, z), *_ in _SIDES]
    sides = (occupied[..., None] & ~torch.stack(beside, dim=-1)).nonzero()
    step_x, step_y = D + 1, (W + 1) * (D + 1)
    n, y, x, z, side = sides.unbind(1)
    first = n * step_y * (H + 1) + y * step_y + x * step_x + z
    shift = [(c >> 2) * step_x + (c >> 1 & 1) * step_y + (c & 1) for c in range(8)]
    triangles = torch.tensor([[[shift[c] for c in t] for t in ts] for _, *ts in _SIDES], device=occupied.device)
    return sides, (first[:, None, None] + triangles[side]).reshape(-1, 3)


def _positions(used: Tensor, align: str, dtype: torch.dtype) -> Tensor:
    """(V, 3) the places of the corners that are used (N, H + 1, W + 1, D + 1)."""
    axes = []
    for size in (n - 1 for n in used.shape[1:]):
        at = torch.arange(size + 1, dtype=dtype, device=used.device)
        # A single voxel between -1 and 1 leaves no length to be divided.
        length = size if align == "corner" else max(size - 1, 1)
        axes.append((at - 0.5 if align == "center" else at) * 2 / length - 1)
    _, y, x, z = used.nonzero().unbind(1)
    return torch.stack([axes[1][x], axes[0][y], axes[2][z]], dim=1)


def _colors(feats: Tensor, sides: Tensor, counts: list[int]) -> object:
    from recon_engine.renderer.mesh.textures import TexturesAtlas

    n, y, x, z, _ = sides.unbind(1)
    colors = feats.permute(0, 3, 4, 2, 1)[n, y, x, z].repeat_interleave(2, dim=0)
    return TexturesAtlas(list(colors[:, None, None].split(counts)))


def unravel_index(idx: Tensor, dims: tuple[int, int, int, int]) -> Tensor:
    """The indices (n, h, w, d) of places in a flattened array.

    Args:
        idx: (P,) int64 places.
        dims: (N, H, W, D), the shape of the array.

    Returns:
        (P, 4) int64.
    """
    if len(dims) != 4:
        raise ValueError(f"dims must have 4 elements (N, H, W, D), got {len(dims)}")
    return torch.stack(torch.unravel_index(idx, tuple(dims)), dim=1)


def ravel_index(idx: Tensor, dims: tuple[int, int, int]) -> Tensor:
    """The places in a flattened array of the indices (h, w, d).

    Args:
        idx: (P, 3) int64 indices.
        dims: (H, W, D), the shape of the array.

    Returns:
        (P,) int64.
    """
    if len(dims) != 3:
        raise ValueError(f"dims must have 3 elements (H, W, D), got {len(dims)}")
    if idx.ndim != 2 or idx.shape[1] != 3:
        raise ValueError(f"idx must have shape (P, 3), got {tuple(idx.shape)}")
    _, W, D = dims
    return (idx[:, 0] * W + idx[:, 1]) * D + idx[:, 2]
