"""Cameras, voxels and batches of R2N2."""

from __future__ import annotations

import math
import warnings
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from recon_engine.common.datatypes import Device
from recon_engine.datasets.utils import collate_batched_meshes, render_meshes
from recon_engine.ops import cubify
from recon_engine.renderer import HardPhongShader
from recon_engine.renderer._camera_base import from_calibration
from recon_engine.renderer.cameras import CamerasBase
from recon_engine.transforms import Transform3d

# Depths between which the models of the data set lie in its pictures, by which Mesh R-CNN scales its voxels.
SHAPENET_MIN_ZMIN = 0.67
SHAPENET_MAX_ZMAX = 0.92
# Mesh R-CNN's threshold.
CUBIFY_THRESH = 0.2

# What a BlenderCamera has by default: no rotation, no translation, no projection.
r = np.eye(3, dtype=np.float32)[None]
t = np.zeros((1, 3), dtype=np.float32)
k = np.eye(4, dtype=np.float32)[None]


def collate_batched_R2N2(batch: list[dict[str, Any]]) -> dict[str, Any] | None:
    """One dictionary from a list of models of `R2N2`: the `collate_fn` of its `DataLoader`.

    Args:
        batch: N models.

    Returns:
        What `collate_batched_meshes` returns, in which images, R, T, K and voxels are tensors with a first dimension of
        N models where all have as many views; otherwise lists, with a warning. None for an empty batch.
    """
    collated = collate_batched_meshes(batch)
    if collated is None:
        return None
    calibration = ["R", "T", "K"] if all(key in collated for key in "RTK") else []
    for keys, what in (["images"], "images"), (calibration, "calibration matrices"), (["voxels"], "voxels"):
        values = [collated[key] for key in keys if key in collated]
        if any(not isinstance(value, Tensor) for value_list in values for value in value_list):
            continue  # without renderings there are no images
        if any(value.shape != value_list[0].shape for value_list in values for value in value_list):
            warnings.warn(
                f"Models don't have the same number of views. Now returning lists of {what} instead of batches.",
                stacklevel=2,
            )
            continue
        collated |= {key: torch.stack(collated[key]) for key in keys if key in collated}
    return collated


def compute_extrinsic_matrix(azimuth: float, elevation: float, distance: float) -> Tensor:
    """The matrix from world to camera coordinates, of column vectors, of a camera that looks at the origin.

    The camera has +X to the right, +Y up and looks along -Z. The pictures of R2N2 were made by Blender, which turns
    models from +Y up to +Z up when it loads them: that turn is part of the matrix, so that it applies to the vertices
    as they are in the file.

    Args:
        azimuth: around the vertical axis, in degrees.
        elevation: above the horizontal plane, in degrees.
        distance: from the origin.

    Returns:
        (4, 4) float32.
    """
    a, e = -math.radians(float(azimuth)), -math.radians(float(elevation))
    # Unit vectors (x, y, z) of the models' world, in which +Y points up and azimuth 0 lies at +X.
    right = [-math.sin(a), 0.0, -math.cos(a)]
    up = [math.cos(a) * math.sin(e), math.cos(e), -math.sin(a) * math.sin(e)]
    backward = [math.cos(a) * math.cos(e), -math.sin(e), -math.sin(a) * math.cos(e)]
    return torch.tensor([[*right, 0.0], [*up, 0.0], [*backward, -float(distance)], [0.0, 0.0, 0.0, 1.0]])


def read_binvox_coords(f: IO[bytes], integer_division: bool = True, dtype: torch.dtype = torch.float32) -> Tensor:
    """The indices (x, y, z) of the voxels that a binvox file has set.

    The file holds a cube of V^3 voxels as runs of equal values, y fastest, then z, then x.

    Args:
        f: file opened in binary mode.
        integer_division: indices are always whole; it is there because PyTorch3D has it.
        dtype: of the result.

    Returns:
        (N, 3), in the order of the file, 0 <= x, y, z < V.

    Raises:
        ValueError: naming the line, where the header is malformed, or where the runs do not fill the cube.

    References:
        The binvox format, https://www.patrickmin.com/binvox/binvox.html.
    """
    size, _, _ = _read_binvox_header(f)
    runs = np.frombuffer(f.read(), dtype=np.uint8)
    values, lengths = runs[0::2], runs[1::2].astype(np.int64)
    if len(runs) % 2 or lengths.sum() != size**3:
        raise ValueError(f"read_binvox_coords: expected runs of {size**3} voxels in all, got {lengths.sum()}")
    index = torch.from_numpy(np.flatnonzero(np.repeat(values == 1, lengths)))
    x, rest = index // size**2, index % size**2
    return torch.stack([x, rest % size, rest // size], dim=1).to(dtype)


def _read_binvox_header(f: IO[bytes]) -> tuple[int, tuple[float, ...], float]:
    """The size of the cube, its translation and its scale."""
    line, words = 1, f.readline().split()
    if words != [b"#binvox", b"1"]:
        raise ValueError("Invalid header (line 1): expected '#binvox 1'")
    values = []
    for keyword, count, convert in ((b"dim", 3, int), (b"translate", 3, float), (b"scale", 1, float)):
        line, words = line + 1, f.readline().split()
        problem = f"Invalid header (line {line}): expected '{keyword.decode()}' and {count} numbers, got {words}"
        if len(words) != count + 1 or words[0] != keyword:
            raise ValueError(problem)
        try:
            values.append([convert(word) for word in words[1:]])
        except ValueError:
            raise ValueError(problem) from None
    if len(set(values[0])) != 1 or values[0][0] < 1:
        raise ValueError(f"Invalid header (line 2): expected a cube, got {values[0]}")
    if f.readline().strip() != b"data":
        raise ValueError("Invalid header (line 5): expected 'data'")
    return int(values[0][0]), tuple(values[1]), float(values[2][0])


def align_bbox(src: Tensor, tgt: Tensor) -> Tensor:
    """The points of `src`, scaled and shifted along each axis so that their bounding box is that of `tgt`.

    Args:
        src: (N, 3).
        tgt: (M, 3).

    Returns:
        (N, 3). Along an axis in which `src` has no extent, all points lie at the least coordinate of `tgt`.

    Raises:
        ValueError: for other shapes.
    """
    if src.ndim != 2 or tgt.ndim != 2:
        raise ValueError(
            f"Both src and tgt need to have dimensions of 2. Got shapes {tuple(src.shape)} and {tuple(tgt.shape)}."
        )
    if src.shape[-1] != 3 or tgt.shape[-1] != 3:
        raise ValueError(
            "Both src and tgt need to have sizes of 3 along the second dimension. "
            f"Got shapes {tuple(src.shape)} and {tuple(tgt.shape)}."
        )
    src_low, tgt_low = src.amin(dim=0), tgt.amin(dim=0)
    extent = src.amax(dim=0) - src_low
    scale = (tgt.amax(dim=0) - tgt_low) / torch.where(extent > 0, extent, torch.ones_like(extent))
    return (src - src_low) * scale + tgt_low


def voxelize(voxel_coords: Tensor, P: Tensor, V: int) -> Tensor:
    """The voxels that points fall into, in the space of a picture: x to the left, y up, z from near to far.

    Depths count from `SHAPENET_MIN_ZMIN` to `SHAPENET_MAX_ZMAX` and not from those of the model, so that all pictures
    have one scale. Points outside are left out.

    Args:
        voxel_coords: (N, 3) points in world coordinates.
        P: (4, 4) projection, of column vectors.
        V: voxels along each axis.

    Returns:
        (V, V, V) uint8, indexed [z, y, x].
    """
    x, y, z = project_verts(voxel_coords, P).unbind(dim=1)
    z = 2.0 * (z - SHAPENET_MIN_ZMIN) / (SHAPENET_MAX_ZMAX - SHAPENET_MIN_ZMIN) - 1.0
    index = (0.5 * (V - 1) * (torch.stack([z, y, -x], dim=1) + 1.0)).round()
    index = index[((index >= 0) & (index < V)).all(dim=1)].long()
    voxels = torch.zeros(V, V, V, dtype=torch.uint8, device=voxel_coords.device)
    voxels[index.unbind(dim=1)] = 1
    return voxels


def project_verts(verts: Tensor, P: Tensor, eps: float = 1e-1) -> Tensor:
    """Points after a projection and the division by the fourth coordinate, whose absolute value is at least `eps`.

    Args:
        verts: (N, V, 3) or (V, 3).
        P: (N, 4, 4) or (4, 4), of column vectors.
        eps: least divisor; its sign is kept, that of 0 counts as positive.

    Returns:
        The shape of `verts`. Differentiable.

    Raises:
        ValueError: if one has a batch dimension and the other has not.
    """
    if verts.dim() not in (2, 3) or P.dim() != verts.dim():
        raise ValueError(
            "project_verts: expected verts (V, 3) and P (4, 4), or (N, V, 3) and (N, 4, 4); "
            f"got {tuple(verts.shape)} and {tuple(P.shape)}"
        )
    projected = verts @ P[..., :3].mT + P[..., None, :, 3]
    w = projected[..., 3:]
    w = torch.where(w < 0, w.clamp(max=-eps), w.clamp(min=eps))
    return projected[..., :3] / w


class BlenderCamera(CamerasBase):
    """Cameras given by matrices: x_view = x_world R + T, and a calibration that maps to NDC. R2N2 has such cameras.

    Args:
        R: (N, 3, 3).
        T: (N, 3).
        K: (N, 4, 4), of column vectors.
        device: where the camera is.
    """

    _FIELDS = ("R", "T", "K")

    def __init__(self, R: Any = r, T: Any = t, K: Any = k, device: Device = "cpu") -> None:
        super().__init__(device=device, R=R, T=T, K=K)

    def get_projection_transform(self, **kwargs: Any) -> Transform3d:
        """Transform from view space to NDC; `K` in `kwargs` overrides the stored one."""
        K = self._calibration(kwargs)
        assert K is not None
        return from_calibration(K)

    def is_perspective(self) -> bool:
        """False."""
        return False

    def in_ndc(self) -> bool:
        """True."""
        return True


def render_cubified_voxels(
    voxels: Tensor, shader_type: Any = HardPhongShader, device: Device = "cpu", **kwargs: Any
) -> Tensor:
    """Pictures of voxels as white meshes of cubes.

    Args:
        voxels: (N, D, D, D); those above 0.2 are shown.
        shader_type: class of the shader.
        device: where to render.
        **kwargs: `cameras`, a `BlenderCamera` without rotation and projection by default; `raster_settings`; `lights`.

    Returns:
        (N, H, W, 4), or what the shader returns.
    """
    meshes = cubify(voxels, CUBIFY_THRESH)
    return render_meshes(meshes, kwargs.get("cameras", BlenderCamera()), shader_type, device, kwargs)
