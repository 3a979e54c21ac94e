"""A rasteriser with the interface of PyTorch3D's OpenGL rasteriser that runs on the kernels of this package."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from ..cameras import FoVOrthographicCameras, FoVPerspectiveCameras
from ..mesh.rasterizer import Fragments, MeshRasterizer, RasterizationSettings
from ..utils import parse_image_size


class MeshRasterizerOpenGL(MeshRasterizer):
    """Rasterises the nearest face of each pixel, without gradients and without distances.

    For shaders that need neither, such as `SplatterPhongShader`, `HardPhongShader` and `HardDepthShader`. What lies
    behind the far plane is not shown, as OpenGL clips there. CPU and CUDA; sizes and numbers of faces have no limit.
    """

    def __init__(self, cameras: Any = None, raster_settings: RasterizationSettings | None = None) -> None:
        """Store the defaults; `forward` takes `cameras` and `raster_settings` as keywords as well.

        Args:
            cameras: `FoVPerspectiveCameras` or `FoVOrthographicCameras`, one for all meshes or one for each.
            raster_settings: of which `image_size` counts; `faces_per_pixel` is 1 and `blur_radius` 0 whatever is said.

        Raises:
            ValueError: `perspective_correct=False`.
            NotImplementedError: a `z_clip_value`.
        """
        super().__init__(cameras, raster_settings)
        _check_raster_settings(self.raster_settings)

    def forward(self, meshes_world: Any, **kwargs: Any) -> Fragments:
        """Rasterise.

        Args:
            meshes_world: N meshes in world coordinates.
            kwargs: `cameras` and `raster_settings` instead of the stored ones, and what `transform` takes.

        Returns:
            fragments with K = 1 and `dists` None, without gradients. `zbuf` is the depth in view space.

        Raises:
            ValueError: cameras that are not of the two kinds.
        """
        settings, cameras = self._settings(kwargs), self._cameras(kwargs)
        _check_raster_settings(settings)
        _check_cameras(cameras)
        plain = RasterizationSettings(image_size=settings.image_size, faces_per_pixel=1)
        with torch.no_grad():
            found = super().forward(meshes_world, **{**kwargs, "raster_settings": plain})
            hidden = _is_behind_far_plane(found.zbuf, cameras, kwargs)
            return Fragments(
                pix_to_face=found.pix_to_face.masked_fill(hidden, -1),
                zbuf=found.zbuf.masked_fill(hidden, -1.0),
                bary_coords=found.bary_coords.masked_fill(hidden[..., None], -1.0),
                dists=None,
            )


def _is_behind_far_plane(zbuf: Tensor, cameras: Any, kwargs: dict[str, Any]) -> Tensor:
    """Which fragments (N, H, W, 1) lie behind the far plane. A camera given by its matrix K has none."""
    if kwargs.get("K", cameras.K) is not None:
        return torch.zeros_like(zbuf, dtype=torch.bool)
    zfar = torch.as_tensor(kwargs.get("zfar", cameras.zfar), device=zbuf.device)
    return zbuf > zfar.reshape(-1, 1, 1, 1)


def _check_cameras(cameras: Any) -> None:
    """Raise ValueError for cameras that OpenGL has no projection for."""
    if cameras is None:
        raise ValueError(
            "Cameras must be specified either at initialization or in the forward pass of MeshRasterizerOpenGL"
        )
    if not isinstance(cameras, (FoVPerspectiveCameras, FoVOrthographicCameras)):
        raise ValueError(
            "MeshRasterizerOpenGL only works with FoVPerspectiveCameras and FoVOrthographicCameras, got "
            f"{type(cameras).__name__}: use MeshRasterizer"
        )


def _check_raster_settings(raster_settings: Any) -> None:
    """Warn of settings that are not used, and raise for those that would give another image."""
    if raster_settings.faces_per_pixel > 1:
        warnings.warn(
            f"MeshRasterizerOpenGL works with one face per pixel; faces_per_pixel={raster_settings.faces_per_pixel} "
            "is not used",
            stacklevel=3,
        )
    for name in ("cull_backfaces", "cull_to_frustum"):
        if getattr(raster_settings, name):
            warnings.warn(f"MeshRasterizerOpenGL does not cull: {name} is not used", stacklevel=3)
    if raster_settings.z_clip_value is not None:
        raise NotImplementedError(
            f"MeshRasterizerOpenGL cannot clip at z_clip_value={raster_settings.z_clip_value}: use MeshRasterizer"
        )
    if raster_settings.perspective_correct is False:
        raise ValueError(
            "MeshRasterizerOpenGL always interpolates perspective-correctly; got perspective_correct=False: leave it "
            "None or use MeshRasterizer"
        )


def _parse_and_verify_image_size(image_size: Any) -> tuple[int, int]:
    """(height, width), under PyTorch3D's name. There sizes are limited to what OpenGL has reserved."""
    return parse_image_size(image_size)


def _convert_meshes_to_gl_ndc(meshes_world: Any, image_size: tuple[int, int], camera: Any, **kwargs: Any) -> Any:
    """The meshes that OpenGL is to project, for programs that drive it on their own.

    Args:
        meshes_world: N meshes in the world.
        image_size: (height, width).
        camera: `FoVPerspectiveCameras` or `FoVOrthographicCameras`.
        kwargs: `R` and `T` instead of those of the camera.

    Returns:
        Meshes in view space, x to the right and y down, as the pictures of OpenGL begin at the bottom; scaled such that
        both sides of the image span [-1, 1] once projected.
    """
    height, width = image_size
    short = min(height, width)
    transform = camera.get_world_to_view_transform(**kwargs).compose(camera.get_ndc_camera_transform(**kwargs))
    verts = transform.transform_points(meshes_world.verts_padded())
    return meshes_world.update_padded(verts * verts.new_tensor([-short / width, -short / height, 1.0]))
