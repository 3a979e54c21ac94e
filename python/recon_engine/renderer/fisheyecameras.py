"""Fisheye cameras: an equidistant lens with radial, tangential and thin-prism distortion.

With (a, b) = (x, y) / z in view space, r = |(a, b)| and theta = atan(r)::

    m = (theta + k0 theta^3 + k1 theta^5 + ...) (a, b) / r                             radial
    t = 2 (p . m) m + |m|^2 p                                                          tangential
    s = (s0 |m|^2 + s1 |m|^4, s2 |m|^2 + s3 |m|^4)                                     thin prism
    (u, v) = focal_length (m + t + s) + principal_point

Without the radial part (a, b) replaces the first m; t and s keep it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from recon_engine.common.datatypes import Device

from ._camera_base import CamerasBase
from ._screen import ImageSize
from ._views import DEFAULT_R, DEFAULT_T
from .utils import convert_to_tensors_and_broadcast

__all__ = ["FishEyeCameras"]

_FOCAL_LENGTH = torch.ones(1, 1)
_PRINCIPAL_POINT = torch.zeros(1, 2)
_RADIAL_PARAMS = torch.zeros(1, 6)
_TANGENTIAL_PARAMS = torch.zeros(1, 2)
_THIN_PRISM_PARAMS = torch.zeros(1, 4)

_MAX_THETA = 0.999 * math.pi / 2
"""Unprojection finds no direction farther from the axis."""


class FishEyeCameras(CamerasBase):
    """Fisheye cameras with radial, tangential and thin-prism distortion.

    The projection is not a matrix: `get_projection_transform` raises NotImplementedError, `transform_points` computes
    it. Points behind the camera project like their mirror images in front of it.
    """

    _FIELDS = (
        "focal_length",
        "principal_point",
        "radial_params",
        "tangential_params",
        "thin_prism_params",
        "R",
        "T",
        "world_coordinates",
        "use_radial",
        "use_tangential",
        "use_thin_prism",
        "image_size",
    )
    _SHARED_FIELDS = ("world_coordinates", "use_radial", "use_tangential", "use_thin_prism")

    focal: Tensor
    principal_point: Tensor
    radial_params: Tensor
    tangential_params: Tensor
    thin_prism_params: Tensor

    num_distortion_iters = 50
    """Newton steps of `unproject_points`."""

    def __init__(
        self,
        focal_length: Tensor = _FOCAL_LENGTH,
        principal_point: Tensor = _PRINCIPAL_POINT,
        radial_params: Tensor = _RADIAL_PARAMS,
        tangential_params: Tensor = _TANGENTIAL_PARAMS,
        thin_prism_params: Tensor = _THIN_PRISM_PARAMS,
        R: Tensor = DEFAULT_R,
        T: Tensor = DEFAULT_T,
        world_coordinates: bool = False,
        use_radial: bool = True,
        use_tangential: bool = True,
        use_thin_prism: bool = True,
        device: Device = "cpu",
        image_size: ImageSize | None = None,
    ) -> None:
        """Store the parameters, broadcast to one batch size N.

        Args:
            focal_length: (N, 1), in the units of the projected points.
            principal_point: (N, 2), in the units of the projected points.
            radial_params: (N, num_radial) k0, k1, ...: any number of them.
            tangential_params: (N, 2) p.
            thin_prism_params: (N, 4) s0 to s3.
            R: (N, 3, 3) rotations.
            T: (N, 3) translations.
            world_coordinates: whether points are given in the world and not in view space.
            use_radial: whether the first summand is radially distorted.
            use_tangential: whether tangential distortion is added.
            use_thin_prism: whether thin-prism distortion is added.
            device: where all tensors are placed.
            image_size: (height, width) of the images, a pair or (N, 2).

        Raises:
            ValueError: parameters of another shape, or image sizes below 1.
        """
        params = {
            "focal_length": focal_length,
            "principal_point": principal_point,
            "radial_params": radial_params,
            "tangential_params": tangential_params,
            "thin_prism_params": thin_prism_params,
        }
        _check_shapes(params)
        # `focal` is the name under which PyTorch3D stores it.
        properties: dict[str, Any] = {
            name.removesuffix("_length"): p if p.is_floating_point() else p.to(torch.float32)
            for name, p in params.items()
        }
        super().__init__(device=device, **properties, R=R, T=T, image_size=image_size)
        if image_size is not None and (self.get_image_size() < 1).any():
            raise ValueError(f"Image_size provided has invalid values: sizes must be at least 1, got {image_size!r}")
        self.world_coordinates = bool(world_coordinates)
        self.use_radial = bool(use_radial)
        self.use_tangential = bool(use_tangential)
        self.use_thin_prism = bool(use_thin_prism)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes what was pickled by this class, or by PyTorch3D's, which gives its parameters no common batch size."""
        super().__setstate__(state)
        tensors = {name: value for name, value in self._properties() if isinstance(value, Tensor)}
        for name, value in zip(tensors, convert_to_tensors_and_broadcast(*tensors.values(), device=self.device)):
            if value is not tensors[name]:
                setattr(self, name, value)
        self._N = len(self.R)

    @property
    def focal_length(self) -> Tensor:
        """The focal lengths, (N, 1)."""
        return self.focal

    @property
    def num_radial(self) -> int:
        """How many radial parameters each camera has."""
        return int(self.radial_params.shape[-1])

    def check_input(self, points: Tensor, batch_size: int) -> bool:
        """Whether points are (P, 3), (1, P, 3), or (M, P, 3) with M the batch size or a batch size of 1."""
        if points.ndim not in (2, 3) or points.shape[-1] != 3:
            return False
        return points.ndim == 2 or batch_size == 1 or points.shape[0] in (1, batch_size)

    def transform_points(self, points: Tensor, eps: float | None = None, **kwargs: Any) -> Tensor:
        """Project points to the image plane.

        Args:
            points: (P, 3), (1, P, 3) or (M, P, 3) in view space, or in the world with `world_coordinates`.
            eps: lower bound of the absolute value of the depth that is divided by.
            kwargs: `R` and `T` override the stored ones.

        Returns:
            (u, v, 1) of the shape of points, with a batch of N for N > 1 cameras. Differentiable.
        """
        self._check_points("points", points)
        if self.world_coordinates:
            points = self.get_world_to_view_transform(**kwargs).transform_points(points)
        depth = points[..., 2:]
        if eps is not None:
            depth = torch.where(depth < 0, -1.0, 1.0) * depth.abs().clamp(min=eps)
        pinhole = points[..., :2] / depth
        focal, center, radial, tangential, prism = self._lens(points)
        ratio = _atan_ratio(pinhole.square().sum(-1, keepdim=True))
        theta2 = pinhole.square().sum(-1, keepdim=True) * ratio.square()
        bent = pinhole * ratio * (1 + theta2 * _polynomial(radial, theta2))
        base = bent if self.use_radial else pinhole
        uv = focal * (base + self._offset(bent, tangential, prism)) + center
        return torch.cat((uv, torch.ones_like(uv[..., :1])), dim=-1)

    def transform_points_ndc(self, points: Tensor, eps: float | None = None, **kwargs: Any) -> Tensor:
        """The same as `transform_points`: these cameras are defined in NDC."""
        return self.transform_points(points, eps=eps, **kwargs)

    def unproject_points(
        self, xy_depth: Tensor, world_coordinates: bool = True, scaled_depth_input: bool = False, **kwargs: Any
    ) -> Tensor:
        """The points at depth 1 in view space that project to (u, v).

        The inverse of `transform_points` with `use_radial` for points at depth 1. The distortions are inverted by
        Newton's method, the gradients are those of the exact inverse (first derivatives).

        Args:
            xy_depth: (P, 3), (1, P, 3) or (M, P, 3); the third coordinate does not matter.
            world_coordinates: False stops in view space; True does so too unless the cameras take world coordinates.
            scaled_depth_input: does not matter, as depth does not.
            kwargs: `R` and `T` override the stored ones.

        Returns:
            points of the shape of xy_depth, with a batch of N for N > 1 cameras.
        """
        self._check_points("xy_depth", xy_depth)
        focal, center, radial, tangential, prism = self._lens(xy_depth)
        bent = self._remove_offset((xy_depth[..., :2] - center) / focal, tangential, prism)
        norm2 = bent.square().sum(-1, keepdim=True)
        # tan(theta) / |m| is 1 + O(|m|^2).
        central = norm2 < torch.finfo(norm2.dtype).eps
        norm = torch.where(central, 1.0, norm2).sqrt()
        pinhole = bent * torch.where(central, 1.0, self._solve_theta(radial, norm).tan() / norm)
        points = torch.cat((pinhole, torch.ones_like(norm)), dim=-1)
        if world_coordinates and self.world_coordinates:
            return self.get_world_to_view_transform(**kwargs).inverse().transform_points(points)
        return points

    def is_perspective(self) -> bool:
        """False: straight lines become curves."""
        return False

    def in_ndc(self) -> bool:
        """True."""
        return True

    def _check_points(self, name: str, points: Tensor) -> None:
        if not self.check_input(points, len(self)):
            raise ValueError(
                f"Expected {name} of shape (P, 3), (1, P, 3) or (M, P, 3), with M cameras or one camera; "
                f"got {name} of shape {tuple(points.shape)} and batch_size {len(self)}"
            )

    def _lens(self, points: Tensor) -> list[Tensor]:
        """Focal length, principal point and distortions, shaped to broadcast over points."""
        params = (self.focal, self.principal_point, self.radial_params, self.tangential_params, self.thin_prism_params)
        return [p[0] if len(self) == 1 and points.ndim == 2 else p[:, None] for p in params]

    def _offset(self, m: Tensor, p: Tensor, s: Tensor) -> Tensor:
        """The tangential and thin-prism distortion t + s of m (..., 2)."""
        norm2 = m.square().sum(-1, keepdim=True)
        offset = torch.zeros_like(m)
        if self.use_tangential:
            offset = offset + 2 * (p * m).sum(-1, keepdim=True) * m + norm2 * p
        if self.use_thin_prism:
            offset = offset + norm2 * (s[..., 0::2] + norm2 * s[..., 1::2])
        return offset

    def _remove_offset(self, target: Tensor, p: Tensor, s: Tensor) -> Tensor:
        """The m (..., 2) with m + t(m) + s(m) = target."""
        if not (self.use_tangential or self.use_thin_prism):
            return target
        with torch.no_grad():
            m = target.detach()
            for _ in range(self.num_distortion_iters):
                m = m - _solve_2x2(self._offset_jacobian(m, p, s), m + self._offset(m, p, s) - target)
            jacobian = self._offset_jacobian(m, p, s)
        # The implicit function theorem: dm = J^-1 (d target - d offset), written as a summand of value 0.
        residual = self._offset(m, p, s) - target
        return m - _solve_2x2(jacobian, residual - residual.detach())

    def _offset_jacobian(self, m: Tensor, p: Tensor, s: Tensor) -> Tensor:
        """The derivative (..., 2, 2) of m + t(m) + s(m), with rows for its components."""
        column, row = m[..., :, None], m[..., None, :]
        J = torch.eye(2, dtype=m.dtype, device=m.device).expand(*m.shape, 2)
        if self.use_tangential:
            J = J * (1 + 2 * (p * m).sum(-1)[..., None, None]) + 2 * (column * p[..., None, :] + p[..., :, None] * row)
        if self.use_thin_prism:
            slope = s[..., 0::2] + 2 * m.square().sum(-1, keepdim=True) * s[..., 1::2]
            J = J + 2 * slope[..., :, None] * row
        return J

    def _solve_theta(self, radial: Tensor, norm: Tensor) -> Tensor:
        """The angle theta in [0, _MAX_THETA] with theta + k0 theta^3 + ... = norm, for norm (..., 1)."""
        # d/dtheta of k_i theta^(2 i + 3)
        slopes = radial * torch.arange(3, 3 + 2 * self.num_radial, 2, dtype=radial.dtype, device=radial.device)
        with torch.no_grad():
            theta = norm.clamp(max=_MAX_THETA)
            low, high = torch.zeros_like(theta), torch.full_like(theta, _MAX_THETA)
            for _ in range(self.num_distortion_iters):
                excess = theta * (1 + theta.square() * _polynomial(radial, theta.square())) - norm
                # Newton's step, or bisection where it leaves the bracket of the root.
                low, high = torch.where(excess < 0, theta, low), torch.where(excess > 0, theta, high)
                step = theta - excess / (1 + theta.square() * _polynomial(slopes, theta.square()))
                inside = (step >= low) & (step <= high)
                theta = torch.where(excess == 0, theta, torch.where(inside, step, (low + high) / 2))
            slope = 1 + theta.square() * _polynomial(slopes, theta.square())
            # Beyond the field of view the angle is a bound, which has no gradient.
            inverse = torch.where((theta < _MAX_THETA) & (slope != 0), 1 / slope, 0.0)
        residual = theta * (1 + theta.square() * _polynomial(radial, theta.square())) - norm
        return theta - inverse * (residual - residual.detach())


def _check_shapes(params: dict[str, Tensor]) -> None:
    widths = {"focal_length": (1, 2), "principal_point": (2,), "tangential_params": (2,), "thin_prism_params": (4,)}
    for name, value in params.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} must be a tensor of shape (N, D); got {type(value).__name__}")
        allowed = widths.get(name)
        if value.ndim != 2 or (allowed is not None and value.shape[1] not in allowed):
            expected = "num_radial" if allowed is None else allowed[0]
            raise ValueError(f"{name} must have shape (N, {expected}); got {tuple(value.shape)}")


def _polynomial(coefficients: Tensor, x: Tensor) -> Tensor:
    """c0 + c1 x + c2 x^2 + ... for coefficients (..., C) and x (..., 1)."""
    total = torch.zeros_like(x)
    for i in reversed(range(coefficients.shape[-1])):
        total = total * x + coefficients[..., i : i + 1]
    return total


def _atan_ratio(r2: Tensor) -> Tensor:
    """atan(r) / r as a smooth function of r^2."""
    # The series' next term r^6 / 7 is below rounding.
    small = r2 < torch.finfo(r2.dtype).eps ** (1 / 3)
    r = torch.where(small, 1.0, r2).sqrt()
    return torch.where(small, 1 - r2 / 3 + r2.square() / 5, r.atan() / r)


def _solve_2x2(matrix: Tensor, right: Tensor) -> Tensor:
    """The x (..., 2) with matrix x = right."""
    a, b, c, d = matrix.flatten(-2).unbind(-1)
    x, y = right.unbind(-1)
    return torch.stack((d * x - b * y, a * y - c * x), dim=-1) / (a * d - b * c)[..., None]
