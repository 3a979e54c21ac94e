"""From meshes in the world to fragments: projection by cameras, then rasterisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from recon_engine._precision import without_autocast

from ..cameras import CamerasBase, try_get_projection_transform
from .clip import look_is_free
from .rasterize_meshes import check_number, rasterize_meshes


@dataclass(frozen=True)
class Fragments:
    """What the rasteriser finds: for each pixel the K nearest faces by increasing depth.

    Attributes:
        pix_to_face: (N, H, W, K) int64 packed face indices, -1 where there are fewer than K faces.
        zbuf: (N, H, W, K) depths in view space, -1 where empty.
        bary_coords: (N, H, W, K, 3) barycentric coordinates in the faces, -1 where empty.
        dists: (N, H, W, K) squared NDC distances to the faces' borders, negative inside, -1 where empty.
    """

    pix_to_face: Tensor
    zbuf: Tensor
    bary_coords: Tensor
    dists: Tensor | None

    def detach(self) -> Fragments:
        """The same without gradients."""
        return Fragments(
            pix_to_face=self.pix_to_face,
            zbuf=self.zbuf.detach(),
            bary_coords=self.bary_coords.detach(),
            dists=None if self.dists is None else self.dists.detach(),
        )


@dataclass
class RasterizationSettings:
    """How to rasterise.

    Attributes:
        image_size: side of square images, or (height, width), in pixels.
        blur_radius: squared NDC distance up to which a face also counts for pixels outside of it.
        faces_per_pixel: how many of the nearest faces to keep for each pixel.
        bin_size: accepted and checked; not needed.
        max_faces_opengl: accepted; not needed.
        max_faces_per_bin: accepted; not needed.
        perspective_correct: whether to correct barycentric coordinates for perspective; None asks the camera.
        clip_barycentric_coords: whether to move coordinates outside of a face to its border; None does so when
            blur_radius > 0.
        cull_backfaces: whether to drop faces whose vertices run clockwise.
        z_clip_value: depth at which faces are cut; None is half the near plane of a perspective camera that has one.
        cull_to_frustum: accepted; faces outside of the image cost nothing.
    """

    image_size: int | tuple[int, int] | Sequence[int] = 256
    blur_radius: float = 0.0
    faces_per_pixel: int = 1
    bin_size: int | None = None
    max_faces_opengl: int = 10_000_000
    max_faces_per_bin: int | None = None
    perspective_correct: bool | None = None
    clip_barycentric_coords: bool | None = None
    cull_backfaces: bool = False
    z_clip_value: float | None = None
    cull_to_frustum: bool = False


class Inferred(NamedTuple):
    """Settings that follow from the camera and the blur where the user leaves them open."""

    perspective_correct: bool
    clip_barycentric_coords: bool
    z_clip_value: float | Tensor | None


class MeshRasterizer(nn.Module):
    """Projects a batch of meshes with cameras and rasterises them."""

    def __init__(self, cameras: Any = None, raster_settings: RasterizationSettings | None = None) -> None:
        """Store the defaults; `forward` takes `cameras` and `raster_settings` as keywords as well.

        Args:
            cameras: one camera for all meshes, or one for each.
            raster_settings: the settings; the defaults of `RasterizationSettings` when None.
        """
        super().__init__()
        self.cameras = cameras
        self.raster_settings = _settings(RasterizationSettings() if raster_settings is None else raster_settings)

    def to(self, device: Any) -> MeshRasterizer:  # type: ignore[override]
        """Move the cameras to `device` in place and return self."""
        if self.cameras is not None:
            self.cameras = self.cameras.to(device)
        return self

    def _cameras(self, kwargs: dict[str, Any]) -> Any:
        cameras = kwargs.get("cameras", self.cameras)
        if cameras is None:
            raise ValueError(
                f"Cameras must be specified either at initialization or in the forward pass of {type(self).__name__}"
            )
        if not hasattr(cameras, "transform_points"):
            raise ValueError(f"cameras must be cameras such as FoVPerspectiveCameras, got {type(cameras).__name__}")
        return cameras

    def _settings(self, kwargs: dict[str, Any]) -> Any:
        return _settings(kwargs.get("raster_settings", self.raster_settings))

    def transform(self, meshes_world: Any, **kwargs: Any) -> Any:
        """Project the vertices.

        Args:
            meshes_world: N meshes in world coordinates.
            kwargs: `cameras`, `eps` (lower bound of the divisor of the projection) and camera parameters.

        Returns:
            meshes with x, y in NDC and z in view space, which share the topology. Differentiable in the vertices and
            the cameras. Computed at least in float32, also under autocast.
        """
        cameras = self._cameras(kwargs)
        if len(cameras) not in (1, len(meshes_world)):
            raise ValueError(
                f"Wrong number ({len(cameras)}) of cameras for {len(meshes_world)} meshes: give one, or one for each; "
                "meshes.extend(N) repeats every mesh for N cameras"
            )
        R = kwargs["R"] if "R" in kwargs else getattr(cameras, "R", None)
        if isinstance(R, Tensor) and R.device != meshes_world.device:
            raise ValueError(
                f"cameras must be on the device of the meshes, {meshes_world.device}, got {R.device}: "
                "use cameras.to(meshes.device)"
            )
        verts = meshes_world.verts_padded()
        with without_autocast(verts.device.type):
            if verts.dtype in (torch.float16, torch.bfloat16):
                verts = verts.float()
            verts_ndc = _project(cameras, verts, kwargs)
        return meshes_world.update_padded(new_verts_padded=verts_ndc)

    def inferred(self, **kwargs: Any) -> Inferred:
        """The settings that a call with these keywords uses where they are None."""
        settings, cameras = self._settings(kwargs), self._cameras(kwargs)
        perspective = settings.perspective_correct
        if perspective is None:
            perspective = cameras.is_perspective()
        clip_bary = settings.clip_barycentric_coords
        if clip_bary is None:
            clip_bary = check_number("blur_radius", settings.blur_radius) > 0.0
        z_clip = settings.z_clip_value
        if z_clip is None and perspective:
            znear = cameras.get_znear()
            if isinstance(znear, Tensor):
                nearest = znear.min()
                # On a GPU the plane stays there: a number would cost a synchronisation.
                z_clip = (nearest.item() if look_is_free(nearest) else nearest.detach()) / 2
            elif znear is not None:
                z_clip = znear / 2
        return Inferred(bool(perspective), bool(clip_bary), z_clip)

    def forward(self, meshes_world: Any, **kwargs: Any) -> Fragments:
        """Rasterise.

        Args:
            meshes_world: N meshes in world coordinates.
            kwargs: `cameras` and `raster_settings` instead of the stored ones, and what `transform` takes.
        """
        settings = self._settings(kwargs)
        meshes_ndc = self.transform(meshes_world, **kwargs)
        inferred = self.inferred(**kwargs)
        pix_to_face, zbuf, bary_coords, dists = rasterize_meshes(
            meshes_ndc,
            image_size=settings.image_size,
            blur_radius=settings.blur_radius,
            faces_per_pixel=settings.faces_per_pixel,
            bin_size=settings.bin_size,
            max_faces_per_bin=settings.max_faces_per_bin,
            perspective_correct=inferred.perspective_correct,
            clip_barycentric_coords=inferred.clip_barycentric_coords,
            cull_backfaces=settings.cull_backfaces,
            z_clip_value=inferred.z_clip_value,
            cull_to_frustum=settings.cull_to_frustum,
        )
        return Fragments(pix_to_face=pix_to_face, zbuf=zbuf, bary_coords=bary_coords, dists=dists)


def _settings(settings: Any) -> Any:
    """The settings themselves, or ValueError for what has not the fields of `RasterizationSettings`."""
    if type(settings) is RasterizationSettings:
        return settings
    missing = [name for name in _FIELDS if not hasattr(settings, name)]
    if missing:
        raise ValueError(
            f"raster_settings must be RasterizationSettings, got {type(settings).__name__} without {missing[0]}: use "
            "RasterizationSettings(image_size=..., ...)"
        )
    return settings


_FIELDS = tuple(field.name for field in fields(RasterizationSettings) if field.name != "max_faces_opengl")


def _project(cameras: Any, verts: Tensor, kwargs: dict[str, Any]) -> Tensor:
    """World vertices (N, V, 3) to x, y in NDC and z in view space."""
    from recon_engine.ops._project_points import project_points

    eps = kwargs.get("eps")
    R, T = _extrinsics(cameras, kwargs)  # first: R and T of a call are stored in the cameras
    projection = try_get_projection_transform(cameras, kwargs)
    if projection is None:
        view = cameras.get_world_to_view_transform(**kwargs).transform_points(verts)
        projected = cameras.transform_points(verts, eps=eps, **_without(kwargs, "eps"))
        to_ndc = cameras.get_ndc_camera_transform(**kwargs)
        return torch.cat((to_ndc.transform_points(projected, eps=eps)[..., :2], view[..., 2:]), dim=-1)
    if not cameras.in_ndc():
        projection = projection.compose(cameras.get_ndc_camera_transform(**kwargs))
    matrix = projection._product()
    R, T, matrix = (a if a.dtype == verts.dtype else a.to(verts.dtype) for a in (R, T, matrix))
    return project_points(verts, R, T, matrix, eps)


def _extrinsics(cameras: Any, kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """R and T, with x_view = x_world R + T."""
    if getattr(type(cameras), "get_world_to_view_transform", None) is CamerasBase.get_world_to_view_transform:
        return cameras._extrinsics(kwargs)
    to_view = cameras.get_world_to_view_transform(**kwargs).get_matrix()
    return to_view[:, :3, :3], to_view[:, 3, :3]


def _without(kwargs: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name not in names}
