"""Lights, and the Lambert and Phong terms of the light that a point reflects."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recon_engine.common.datatypes import Device

from .utils import TensorProperties, convert_to_tensors_and_broadcast


def _spread(value: Tensor, points: Tensor) -> Tensor:
    """Reshape (N, C) or (C,) so that it broadcasts over the inner dimensions of (N, ..., 3); other shapes stay."""
    if value.dim() == points.dim():
        return value
    return value.reshape(-1, *(1,) * (points.dim() - 2), value.shape[-1])


def _unit(vectors: Tensor) -> Tensor:
    return F.normalize(vectors, p=2, dim=-1, eps=1e-6)


def diffuse(normals: Tensor, color: Tensor, direction: Tensor) -> Tensor:
    """Light reflected equally in all directions: color max(0, cos(normal, direction)) (Lambert).

    Args:
        normals: (N, ..., 3); need not be of unit length.
        color: (1, 3) or (N, 3) colour of the light, or the shape of normals.
        direction: (1, 3), (N, 3) or the shape of normals, towards the light, in the frame of the normals.

    Returns:
        (N, ..., 3) colours. Differentiable in all arguments. Packed points (P, 3) take colours and directions (P, 3).
    """
    normals, color, direction = convert_to_tensors_and_broadcast(normals, color, direction, device=normals.device)
    cos_angle = (_unit(normals) * _unit(_spread(direction, normals))).sum(dim=-1, keepdim=True)
    return _spread(color, normals) * F.relu(cos_angle)


def specular(
    points: Tensor, normals: Tensor, direction: Tensor, color: Tensor, camera_position: Tensor, shininess: Tensor
) -> Tensor:
    """Highlight: color max(0, cos(reflected, view))^shininess where the light is in front of the surface (Phong).

    Args:
        points: (N, ..., 3) positions.
        normals: (N, ..., 3); need not be of unit length.
        direction: (1, 3), (N, 3) or the shape of points, towards the light.
        color: (1, 3), (N, 3) or the shape of points, colour of the light.
        camera_position: (1, 3), (N, 3) or the shape of points.
        shininess: number, (1,) or (N,) exponents.

    Returns:
        (N, ..., 3) colours. Differentiable in all arguments. All vectors are in one frame.
    """
    if points.shape != normals.shape:
        raise ValueError(
            f"Expected points and normals to have the same shape: got {tuple(points.shape)}, {tuple(normals.shape)}"
        )
    _, color, direction, camera_position, shininess = convert_to_tensors_and_broadcast(
        points, color, direction, camera_position, shininess, device=points.device
    )
    if shininess.dim() < points.dim():
        shininess = shininess.view(shininess.shape[0], *(1,) * (points.dim() - 1))
    normals, direction = _unit(normals), _unit(_spread(direction, points))
    cos_angle = (normals * direction).sum(dim=-1, keepdim=True)
    to_camera = _unit(_spread(camera_position, points) - points)
    reflected = 2.0 * cos_angle * normals - direction
    alignment = F.relu((to_camera * reflected).sum(dim=-1, keepdim=True)) * (cos_angle > 0)
    return _spread(color, points) * torch.pow(alignment, shininess)


def check_batch_of(owner: TensorProperties, channels: int | None, *names: str) -> None:
    """Raise ValueError unless the named properties of `owner` are (N, channels), or (N, C) of any C for None."""
    for name in names:
        value, shape = getattr(owner, name), f"(N, {'C' if channels is None else channels})"
        if not isinstance(value, Tensor):
            raise ValueError(f"Expected {name} to be numbers of shape {shape}; got {value!r}")
        if channels is not None and value.shape[-1] != channels:
            raise ValueError(f"Expected {name} to have shape {shape}; got {tuple(value.shape)}")
        if value.dim() < 2:
            raise ValueError(
                f"Expected {name} to have shape {shape}; got {tuple(value.shape)}: use {name}[None] for a batch of one"
            )


_COLORS = ("ambient_color", "diffuse_color", "specular_color")


class DirectionalLights(TensorProperties):
    """Lights infinitely far away, such as the sun."""

    ambient_color: Tensor
    diffuse_color: Tensor
    specular_color: Tensor
    direction: Tensor

    def __init__(
        self,
        ambient_color: Any = ((0.5, 0.5, 0.5),),
        diffuse_color: Any = ((0.3, 0.3, 0.3),),
        specular_color: Any = ((0.2, 0.2, 0.2),),
        direction: Any = ((0, 1, 0),),
        device: Device = "cpu",
    ) -> None:
        """Store the properties, each (N, 3) or (1, 3), broadcast to one batch size.

        Args:
            ambient_color: RGB of the light that is everywhere.
            diffuse_color: RGB of the light reflected in all directions.
            specular_color: RGB of the highlights.
            direction: towards the light.
            device: where all tensors are placed.
        """
        super().__init__(
            device=device,
            ambient_color=ambient_color,
            diffuse_color=diffuse_color,
            specular_color=specular_color,
            direction=direction,
        )
        check_batch_of(self, 3, *_COLORS, "direction")

    def clone(self) -> DirectionalLights:  # type: ignore[override]
        """A copy with tensors of its own."""
        return super().clone(self._bare())  # type: ignore[return-value]

    def diffuse(self, normals: Tensor, points: Tensor | None = None) -> Tensor:
        """The diffuse term at `points`, which do not matter for this light."""
        return diffuse(normals=normals, color=self.diffuse_color, direction=self.direction)

    def specular(self, normals: Tensor, points: Tensor, camera_position: Tensor, shininess: Tensor) -> Tensor:
        """The specular term; arguments as in `specular`."""
        return specular(points, normals, self.direction, self.specular_color, camera_position, shininess)


class PointLights(TensorProperties):
    """Lights that shine from one point in all directions, without falloff."""

    ambient_color: Tensor
    diffuse_color: Tensor
    specular_color: Tensor
    location: Tensor

    def __init__(
        self,
        ambient_color: Any = ((0.5, 0.5, 0.5),),
        diffuse_color: Any = ((0.3, 0.3, 0.3),),
        specular_color: Any = ((0.2, 0.2, 0.2),),
        location: Any = ((0, 1, 0),),
        device: Device = "cpu",
    ) -> None:
        """Store the properties, each (N, 3) or (1, 3), broadcast to one batch size.

        Args:
            ambient_color: RGB of the light that is everywhere.
            diffuse_color: RGB of the light reflected in all directions.
            specular_color: RGB of the highlights.
            location: position of the light.
            device: where all tensors are placed.
        """
        super().__init__(
            device=device,
            ambient_color=ambient_color,
            diffuse_color=diffuse_color,
            specular_color=specular_color,
            location=location,
        )
        check_batch_of(self, 3, *_COLORS, "location")

    def clone(self) -> PointLights:  # type: ignore[override]
        """A copy with tensors of its own."""
        return super().clone(self._bare())  # type: ignore[return-value]

    def reshape_location(self, points: Tensor) -> Tensor:
        """The location in a shape that broadcasts with points (P, 3) or (N, ..., 3)."""
        return _spread(self.location, points)

    def _direction(self, points: Tensor) -> Tensor:
        location = self.reshape_location(points)
        location, points = convert_to_tensors_and_broadcast(location, points, device=points.device)
        return location - points

    def diffuse(self, normals: Tensor, points: Tensor) -> Tensor:
        """The diffuse term at `points`."""
        return diffuse(normals=normals, color=self.diffuse_color, direction=self._direction(points))

    def specular(self, normals: Tensor, points: Tensor, camera_position: Tensor, shininess: Tensor) -> Tensor:
        """The specular term; arguments as in `specular`."""
        return specular(points, normals, self._direction(points), self.specular_color, camera_position, shininess)


class AmbientLights(TensorProperties):
    """The same light everywhere, by default white: renders the textures as they are, with any number of channels."""

    ambient_color: Tensor

    def __init__(self, *, ambient_color: Any = None, device: Device = "cpu") -> None:
        """Store the colour.

        Args:
            ambient_color: (N, C) or (1, C); white RGB when None.
            device: where the tensor is placed.
        """
        super().__init__(ambient_color=((1.0, 1.0, 1.0),) if ambient_color is None else ambient_color, device=device)
        check_batch_of(self, None, "ambient_color")

    def clone(self) -> AmbientLights:  # type: ignore[override]
        """A copy with tensors of its own."""
        return super().clone(self._bare())  # type: ignore[return-value]

    def diffuse(self, normals: Tensor, points: Tensor) -> Tensor:
        """Zeros, (N, ..., C)."""
        return self._zeros(points)

    def specular(self, normals: Tensor, points: Tensor, camera_position: Tensor, shininess: Tensor) -> Tensor:
        """Zeros, (N, ..., C)."""
        return self._zeros(points)

    def _zeros(self, points: Tensor) -> Tensor:
        return points.new_zeros(()).expand(*points.shape[:-1], self.ambient_color.shape[-1])
