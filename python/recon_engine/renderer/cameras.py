"""Camera models and their transforms.

Four spaces, all with row vectors: world; view (origin in the camera, +X left, +Y up, +Z forward); NDC (+X left, +Y up,
the short side of the image spans [-1, 1], the long side [-u, u] with u the aspect ratio); screen (pixels, +X right, +Y
down, origin in the top left corner).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recon_engine.common.datatypes import Device
from recon_engine.transforms import Transform3d

from ._camera_base import CamerasBase, from_calibration, per_camera, stack_matrix, with_depth
from ._screen import ImageSize, get_ndc_to_screen_transform, get_screen_to_ndc_transform, scale_and_shift
from ._views import (
    DEFAULT_R,
    DEFAULT_T,
    BatchFloat,
    camera_position_from_spherical_angles,
    get_world_to_view_transform,
    look_at_rotation,
    look_at_view_transform,
)

__all__ = [
    "CamerasBase",
    "FoVOrthographicCameras",
    "FoVPerspectiveCameras",
    "OpenGLOrthographicCameras",
    "OpenGLPerspectiveCameras",
    "OrthographicCameras",
    "PerspectiveCameras",
    "SfMOrthographicCameras",
    "SfMPerspectiveCameras",
    "camera_position_from_spherical_angles",
    "get_ndc_to_screen_transform",
    "get_screen_to_ndc_transform",
    "get_world_to_view_transform",
    "look_at_rotation",
    "look_at_view_transform",
    "try_get_projection_transform",
]

FocalLength = float | Sequence[Any] | Tensor


class FoVPerspectiveCameras(CamerasBase):
    """Perspective cameras given by a vertical field of view, defined in NDC, with depth mapped to [0, 1].

    With s = 1 / tan(fov / 2), x_ndc = (s / aspect_ratio) x / z, y_ndc = s y / z and
    z_ndc = zfar / (zfar - znear) - zfar znear / (zfar - znear) / z. `aspect_ratio` is that of a pixel: keep 1 for
    square pixels, whatever the shape of the image.
    """

    _FIELDS = ("K", "znear", "zfar", "aspect_ratio", "fov", "R", "T", "degrees")
    _SHARED_FIELDS = ("degrees",)

    def __init__(
        self,
        znear: BatchFloat = 1.0,
        zfar: BatchFloat = 100.0,
        aspect_ratio: BatchFloat = 1.0,
        fov: BatchFloat = 60.0,
        degrees: bool = True,
        R: Tensor = DEFAULT_R,
        T: Tensor = DEFAULT_T,
        K: Tensor | None = None,
        device: Device = "cpu",
    ) -> None:
        """Store the parameters, broadcast to one batch size N.

        Args:
            znear: near plane, number or (N,).
            zfar: far plane, number or (N,).
            aspect_ratio: width over height of a pixel, number or (N,).
            fov: vertical field of view, number or (N,).
            degrees: whether fov is in degrees.
            R: (N, 3, 3) rotations.
            T: (N, 3) translations.
            K: (N, 4, 4) calibration for column vectors; replaces the first four.
            device: where all tensors are placed.
        """
        super().__init__(device=device, znear=znear, zfar=zfar, aspect_ratio=aspect_ratio, fov=fov, R=R, T=T, K=K)
        self.degrees = degrees

    def compute_projection_matrix(self, znear: Any, zfar: Any, fov: Any, aspect_ratio: Any, degrees: bool) -> Tensor:
        """The calibration K (N, 4, 4) for column vectors; arguments as in `__init__`."""
        znear, zfar, fov, aspect_ratio = self._floats(znear, zfar, fov, aspect_ratio)
        scale_y = torch.tan(fov * (0.5 * math.pi / 180.0 if degrees else 0.5)).reciprocal()
        depth_scale = zfar / (zfar - znear)
        entries = (
            *(scale_y / aspect_ratio, 0.0, 0.0, 0.0),
            *(0.0, scale_y, 0.0, 0.0),
            *(0.0, 0.0, depth_scale, -depth_scale * znear),
            *(0.0, 0.0, 1.0, 0.0),
        )
        return stack_matrix(entries, self._N)

    def get_projection_transform(self, **kwargs: Any) -> Transform3d:
        """Transform from view space to NDC; parameters in `kwargs` override the stored ones."""
        K = self._calibration(kwargs)
        if K is None:
            names = ("znear", "zfar", "fov", "aspect_ratio", "degrees")
            K = self.compute_projection_matrix(*(kwargs.get(name, getattr(self, name)) for name in names))
        return from_calibration(K)

    def unproject_points(
        self, xy_depth: Tensor, world_coordinates: bool = True, scaled_depth_input: bool = False, **kwargs: Any
    ) -> Tensor:
        """Map (x_ndc, y_ndc, depth) to the world or to view space.

        Args:
            xy_depth: (P, 3) or (N, P, 3).
            world_coordinates: False stops in view space.
            scaled_depth_input: whether depth is z_ndc in [0, 1] and not z_view.
            kwargs: camera parameters that override the stored ones.
        """
        projection = self.get_projection_transform(**kwargs)
        transform = projection
        if world_coordinates:
            transform = self.get_world_to_view_transform(**kwargs).compose(projection)
        if not scaled_depth_input:
            matrix = projection.get_matrix()
            depth = xy_depth[..., 2:3]
            scale, shift = (per_camera(matrix[:, row, 2], xy_depth) for row in (2, 3))
            xy_depth = with_depth(xy_depth, (scale * depth + shift) / depth)
        return transform.inverse().transform_points(xy_depth)

    def is_perspective(self) -> bool:
        """True."""
        return True

    def in_ndc(self) -> bool:
        """True."""
        return True


class FoVOrthographicCameras(CamerasBase):
    """Orthographic cameras given by the box of view space that fills the NDC cube, with depth mapped to [0, 1]."""

    _FIELDS = ("K", "znear", "zfar", "R", "T", "max_y", "min_y", "max_x", "min_x", "scale_xyz")

    def __init__(
        self,
        znear: BatchFloat = 1.0,
        zfar: BatchFloat = 100.0,
        max_y: BatchFloat = 1.0,
        min_y: BatchFloat = -1.0,
        max_x: BatchFloat = 1.0,
        min_x: BatchFloat = -1.0,
        scale_xyz: Any = ((1.0, 1.0, 1.0),),
        R: Tensor = DEFAULT_R,
        T: Tensor = DEFAULT_T,
        K: Tensor | None = None,
        device: Device = "cpu",
    ) -> None:
        """Store the parameters, broadcast to one batch size N.

        Args:
            znear: near plane, number or (N,).
            zfar: far plane, number or (N,).
            max_y: top of the box, number or (N,).
            min_y: bottom of the box, number or (N,).
            max_x: left of the box (+X points left), number or (N,).
            min_x: right of the box, number or (N,).
            scale_xyz: (N, 3) further scale of each axis.
            R: (N, 3, 3) rotations.
            T: (N, 3) translations.
            K: (N, 4, 4) calibration for column vectors; replaces all but R and T.
            device: where all tensors are placed.
        """
        super().__init__(
            device=device,
            znear=znear,
            zfar=zfar,
            max_y=max_y,
            min_y=min_y,
            max_x=max_x,
            min_x=min_x,
            scale_xyz=scale_xyz,
            R=R,
            T=T,
            K=K,
        )

    def compute_projection_matrix(
        self, znear: Any, zfar: Any, max_x: Any, min_x: Any, max_y: Any, min_y: Any, scale_xyz: Any
    ) -> Tensor:
        """The calibration K (N, 4, 4) for column vectors; arguments as in `__init__`."""
        znear, zfar, max_x, min_x, max_y, min_y, scale_xyz = self._floats(
            znear, zfar, max_x, min_x, max_y, min_y, scale_xyz
        )
        scale_x, scale_y, scale_z = scale_xyz.view(-1, 3).unbind(1)
        width, height, depth = max_x - min_x, max_y - min_y, zfar - znear
        entries = (
            *(2.0 / width * scale_x, 0.0, 0.0, -(max_x + min_x) / width),
            *(0.0, 2.0 / height * scale_y, 0.0, -(max_y + min_y) / height),
            *(0.0, 0.0, 1.0 / depth * scale_z, -znear / depth),
            *(0.0, 0.0, 0.0, 1.0),
        )
        return stack_matrix(entries, self._N)

    def get_projection_transform(self, **kwargs: Any) -> Transform3d:
        """Transform from view space to NDC; parameters in `kwargs` override the stored ones."""
        K = self._calibration(kwargs)
        if K is None:
            names = ("znear", "zfar", "max_x", "min_x", "max_y", "min_y", "scale_xyz")
            K = self.compute_projection_matrix(*(kwargs.get(name, getattr(self, name)) for name in names))
        return from_calibration(K)

    def unproject_points(
        self, xy_depth: Tensor, world_coordinates: bool = True, scaled_depth_input: bool = False, **kwargs: Any
    ) -> Tensor:
        """Map (x_ndc, y_ndc, depth) to the world or to view space; arguments as in `FoVPerspectiveCameras`."""
        projection = self.get_projection_transform(**kwargs)
        transform = projection
        if world_coordinates:
            transform = self.get_world_to_view_transform(**kwargs).compose(projection)
        if not scaled_depth_input:
            matrix = projection.get_matrix()
            scale, shift = (per_camera(matrix[:, row, 2], xy_depth) for row in (2, 3))
            xy_depth = with_depth(xy_depth, scale * xy_depth[..., 2:3] + shift)
        return transform.inverse().transform_points(xy_depth)

    def is_perspective(self) -> bool:
        """False."""
        return False

    def in_ndc(self) -> bool:
        """True."""
        return True


class _CalibratedCameras(CamerasBase):
    """Cameras given by focal length and principal point, in NDC or in pixels."""

    _FIELDS = ("K", "R", "T", "focal_length", "principal_point", "_in_ndc", "image_size")
    _SHARED_FIELDS = ("_in_ndc",)
    _PRINCIPAL_POINT_ROW: int
    """The row of the row-vector projection matrix that holds the principal point."""

    focal_length: Tensor
    principal_point: Tensor
    image_size: Any
    _in_ndc: bool

    def __init__(
        self,
        focal_length: FocalLength = 1.0,
        principal_point: Any = ((0.0, 0.0),),
        R: Tensor = DEFAULT_R,
        T: Tensor = DEFAULT_T,
        K: Tensor | None = None,
        device: Device = "cpu",
        in_ndc: bool = True,
        image_size: ImageSize | None = None,
    ) -> None:
        """Store the parameters, broadcast to one batch size N.

        Args:
            focal_length: number, (N,), (N, 1) or (N, 2) in NDC units or in pixels.
            principal_point: (N, 2) in NDC (+X left, +Y up), or in pixels (+X right, +Y down).
            R: (N, 3, 3) rotations.
            T: (N, 3) translations.
            K: (N, 4, 4) calibration for column vectors; replaces focal_length and principal_point.
            device: where all tensors are placed.
            in_ndc: whether focal length and principal point are in NDC and not in pixels.
            image_size: (N, 2) or (1, 2) (height, width); needed when in_ndc is False.
        """
        sized: dict[str, Any] = {} if image_size is None else {"image_size": image_size}
        super().__init__(
            device=device,
            focal_length=focal_length,
            principal_point=principal_point,
            R=R,
            T=T,
            K=K,
            _in_ndc=in_ndc,
            **sized,
        )
        if image_size is None:
            self.image_size = None
        elif self.image_size.shape[-1] != 2 or bool((self.image_size < 1).any()):
            raise ValueError(
                f"Image_size provided has invalid values; expected positive (height, width), got {image_size}"
            )
        focal = self.focal_length
        if focal.shape[1:] != (2,):
            self.focal_length = (focal[:, None] if focal.ndim == 1 else focal).expand(-1, 2)

    def _calibrated(self, kwargs: dict[str, Any]) -> tuple[Any, Tensor, Tensor, Tensor, Tensor]:
        """(K or None, fx, fy, px, py), the last four of shape (N,) or (1,)."""
        K = self._calibration(kwargs)
        focal, point = self._floats(
            kwargs.get("focal_length", self.focal_length), kwargs.get("principal_point", self.principal_point)
        )
        fx, fy = (focal, focal) if focal.ndim < 2 else (focal[:, 0], focal[:, -1])
        return K, fx, fy, point[:, 0], point[:, 1]

    def get_ndc_camera_transform(self, **kwargs: Any) -> Transform3d:
        """Transform from the space the camera is defined in to NDC; the identity for cameras in NDC.

        Pixels have +X right and +Y down while the projected points keep +X left and +Y up, so that the principal point
        p enters with the other sign: x_ndc = (x - 2 p_x + W/2) / s with s = min(H, W)/2, and the same for y. Depth is
        unchanged.
        """
        if self.in_ndc():
            return super().get_ndc_camera_transform(**kwargs)
        image_size = kwargs.get("image_size", self.get_image_size())
        to_ndc = get_screen_to_ndc_transform(self, with_xyflip=False, image_size=image_size).get_matrix()
        scale = to_ndc[:, 0, 0]
        shift_x, shift_y = (to_ndc[:, 3, :2] - 2.0 * scale[:, None] * self.get_principal_point(**kwargs)).unbind(1)
        return scale_and_shift(scale, shift_x, shift_y)

    def get_principal_point(self, **kwargs: Any) -> Tensor:
        """The principal points, (N, 2)."""
        return self.get_projection_transform(**kwargs).get_matrix()[:, self._PRINCIPAL_POINT_ROW, :2]

    def _unprojection(self, world_coordinates: bool, from_ndc: bool, kwargs: dict[str, Any]) -> Transform3d:
        transform = (
            self.get_full_projection_transform(**kwargs)
            if world_coordinates
            else self.get_projection_transform(**kwargs)
        )
        if from_ndc:
            transform = transform.compose(self.get_ndc_camera_transform(**kwargs))
        return transform.inverse()

    def in_ndc(self) -> bool:
        """Whether focal length and principal point are in NDC and not in pixels."""
        return self._in_ndc


class PerspectiveCameras(_CalibratedCameras):
    """Perspective cameras of multi-view geometry: x = fx x_view / z_view + px, y likewise, and 1 / z_view as depth."""

    _PRINCIPAL_POINT_ROW = 2

    def get_projection_transform(self, **kwargs: Any) -> Transform3d:
        """Transform from view space to NDC or pixels; parameters in `kwargs` override the stored ones."""
        K, fx, fy, px, py = self._calibrated(kwargs)
        if K is None:
            entries = (fx, 0.0, px, 0.0, 0.0, fy, py, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0)
            K = stack_matrix(entries, self._N)
        return from_calibration(K)

    def unproject_points(
        self, xy_depth: Tensor, world_coordinates: bool = True, from_ndc: bool = False, **kwargs: Any
    ) -> Tensor:
        """Map (x, y, z_view) to the world or to view space.

        Args:
            xy_depth: (P, 3) or (N, P, 3).
            world_coordinates: False stops in view space.
            from_ndc: whether x and y are in NDC although the camera is defined in pixels.
            kwargs: camera parameters that override the stored ones.
        """
        transform = self._unprojection(world_coordinates, from_ndc, kwargs)
        xy_inverse_depth = torch.cat((xy_depth[..., :2], xy_depth[..., 2:3].reciprocal()), dim=-1)
        return transform.transform_points(xy_inverse_depth)

    def is_perspective(self) -> bool:
        """True."""
        return True


class OrthographicCameras(_CalibratedCameras):
    """Orthographic cameras of multi-view geometry: x = fx x_view + px, y = fy y_view + py, z_view."""

    _PRINCIPAL_POINT_ROW = 3

    def get_projection_transform(self, **kwargs: Any) -> Transform3d:
        """Transform from view space to NDC or pixels; parameters in `kwargs` override the stored ones."""
        K, fx, fy, px, py = self._calibrated(kwargs)
        if K is None:
            entries = (fx, 0.0, 0.0, px, 0.0, fy, 0.0, py, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)
            K = stack_matrix(entries, self._N)
        return from_calibration(K)

    def unproject_points(
        self, xy_depth: Tensor, world_coordinates: bool = True, from_ndc: bool = False, **kwargs: Any
    ) -> Tensor:
        """Map (x, y, z_view) to the world or to view space; arguments as in `PerspectiveCameras`."""
        return self._unprojection(world_coordinates, from_ndc, kwargs).transform_points(xy_depth)

    def is_perspective(self) -> bool:
        """False."""
        return False


def try_get_projection_transform(cameras: CamerasBase, cameras_kwargs: dict[str, Any]) -> Transform3d | None:
    """The projection transform of `cameras`, or None for models whose projection is not a matrix."""
    try:
        return cameras.get_projection_transform(**cameras_kwargs)
    except NotImplementedError:
        return None


def _warn_renamed(old: str, new: str) -> None:
    warnings.warn(f"{old} is deprecated, use {new} instead.", PendingDeprecationWarning, stacklevel=3)


def OpenGLPerspectiveCameras(
    znear: BatchFloat = 1.0,
    zfar: BatchFloat = 100.0,
    aspect_ratio: BatchFloat = 1.0,
    fov: BatchFloat = 60.0,
    degrees: bool = True,
    R: Tensor = DEFAULT_R,
    T: Tensor = DEFAULT_T,
    device: Device = "cpu",
) -> FoVPerspectiveCameras:
    """Former name of `FoVPerspectiveCameras`."""
    _warn_renamed("OpenGLPerspectiveCameras", "FoVPerspectiveCameras")
    return FoVPerspectiveCameras(znear, zfar, aspect_ratio, fov, degrees, R, T, device=device)


def OpenGLOrthographicCameras(
    znear: BatchFloat = 1.0,
    zfar: BatchFloat = 100.0,
    top: BatchFloat = 1.0,
    bottom: BatchFloat = -1.0,
    left: BatchFloat = -1.0,
    right: BatchFloat = 1.0,
    scale_xyz: Any = ((1.0, 1.0, 1.0),),
    R: Tensor = DEFAULT_R,
    T: Tensor = DEFAULT_T,
    device: Device = "cpu",
) -> FoVOrthographicCameras:
    """Former name of `FoVOrthographicCameras`."""
    _warn_renamed("OpenGLOrthographicCameras", "FoVOrthographicCameras")
    return FoVOrthographicCameras(znear, zfar, top, bottom, right, left, scale_xyz, R, T, device=device)


def SfMPerspectiveCameras(
    focal_length: FocalLength = 1.0,
    principal_point: Any = ((0.0, 0.0),),
    R: Tensor = DEFAULT_R,
    T: Tensor = DEFAULT_T,
    device: Device = "cpu",
) -> PerspectiveCameras:
    """Former name of `PerspectiveCameras`."""
    _warn_renamed("SfMPerspectiveCameras", "PerspectiveCameras")
    return PerspectiveCameras(focal_length, principal_point, R, T, device=device)


def SfMOrthographicCameras(
    focal_length: FocalLength = 1.0,
    principal_point: Any = ((0.0, 0.0),),
    R: Tensor = DEFAULT_R,
    T: Tensor = DEFAULT_T,
    device: Device = "cpu",
) -> OrthographicCameras:
    """Former name of `OrthographicCameras`."""
    _warn_renamed("SfMOrthographicCameras", "OrthographicCameras")
    return OrthographicCameras(focal_length, principal_point, R, T, device=device)
