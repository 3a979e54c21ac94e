"""Pictures of an object from cameras around it: what volumes and radiance fields are fitted to and compared with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recon_engine.quick import SUPERSAMPLE, Lit, Surface, View, shrink
from recon_engine.renderer import (
    AmbientLights,
    BlendParams,
    FoVPerspectiveCameras,
    HardPhongShader,
    MeshRasterizer,
    MeshRenderer,
    PerspectiveCameras,
    PointLights,
    RasterizationSettings,
    look_at_view_transform,
    ndc_grid_sample,
)
from recon_engine.structures import Meshes

from ._settings import above, at_least, at_most

Cameras = FoVPerspectiveCameras | PerspectiveCameras
_MARGIN = 1.05  # around the object, of what framed cameras see and framed rays pass
_GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples, modulo 1, fill an interval evenly however many there are


@dataclass(frozen=True)
class CameraSettings:
    """What decides the pictures of a mesh, and how often a fit looks at them.

    Lengths are in the units of the fit, in which the object just fits into the sphere of radius 1 around the origin;
    angles are in degrees.
    """

    views: int = 40
    """Cameras that the fit sees, at azimuths from 0 to 360 in equal steps, both included."""
    held_out: int = 10
    """Cameras between those, for the measures."""
    lowest: float = 0.0
    """The lowest elevation of a camera."""
    highest: float = 0.0
    """The highest elevation of a camera; between the two they are spread evenly, and independently of the azimuth."""
    distance: float = 2.7
    """Distance of the cameras from the origin."""
    fov: float | None = 60.0
    """Field of view; None frames the object."""
    image_size: int = 128
    """Side of the pictures in pixels."""
    light: tuple[float, float, float] | None = (0.0, 0.0, -3.0)
    """Where the light is. It stays where it is when the camera moves. None: colours are shown as they are."""
    views_per_iteration: int = 10
    """Views drawn at random for each step."""
    iterations: int = 300
    """Optimiser steps."""
    seed: int = 0
    """Decides everything random; the same seed gives the same result."""

    def __post_init__(self) -> None:
        at_least(self, 2, "views")
        at_least(self, 1, "held_out", "image_size", "views_per_iteration", "iterations")
        at_least(self, 0, "seed")
        above(self, 1, "distance")
        at_most(self, "image_size", 4096)
        if not -90 < self.lowest <= self.highest < 90:
            raise ValueError(
                f"lowest and highest must be elevations between -90 and 90 degrees in this order, got {self.lowest} "
                f"and {self.highest}"
            )
        if self.fov is not None and not 0 < self.fov < 180:
            raise ValueError(f"fov must be between 0 and 180 degrees, got {self.fov}")
        if self.light is not None and (len(self.light) != 3 or not all(math.isfinite(x) for x in self.light)):
            raise ValueError(f"light must be three finite numbers, got {self.light}")

    @property
    def angle(self) -> float:
        """The cameras' field of view in degrees; without `fov`, one that holds the unit sphere with a margin."""
        if self.fov is not None:
            return self.fov
        return 2 * math.degrees(math.atan(_MARGIN * math.tan(math.asin(1 / self.distance))))

    def fitted_angles(self) -> tuple[Tensor, Tensor]:
        """Elevations and azimuths of the cameras that a fit sees, (views,) each."""
        return self._elevations(torch.arange(self.views)), torch.linspace(0, 360, self.views)

    def held_out_angles(self) -> tuple[Tensor, Tensor]:
        """Angles half-way between the azimuths of the fit, at elevations of their own; (held_out,) each."""
        return self._elevations(torch.arange(self.held_out) + 0.5), 360 * self.gaps() / (self.views - 1)

    def rate_factor_at(self, iteration: int) -> float:
        """What the steps of Adam are multiplied with in an iteration, counted from 0."""
        return 0.1 if iteration >= round(0.75 * self.iterations) else 1.0

    def gaps(self) -> Tensor:
        """(held_out,) numbers half-way between those of neighbouring cameras of the fit, counted from 0."""
        return torch.arange(self.held_out) * (self.views - 1) // self.held_out + 0.5

    def _elevations(self, number: Tensor) -> Tensor:
        return self.lowest + (self.highest - self.lowest) * (number * _GOLDEN % 1)


@dataclass(frozen=True)
class ViewSettings(CameraSettings):
    """What decides the pictures, the rays through them, and the optimiser of a volume or a radiance field."""

    min_depth: float | None = 0.1
    """Depth of the first sample of a ray; None: right before the object."""
    max_depth: float | None = 3.0
    """Depth of the last sample of a ray; None: right behind the object."""
    points_per_ray: int = 150
    """Samples of a ray."""
    rays_per_view: int = 0
    """Rays drawn at random for each picture of a step; 0 means all pixels."""
    stratified: bool = False
    """Move the samples of a step at random along their rays, up to half-way to their neighbours."""
    learning_rate: float = 0.1
    """Step of Adam, divided by 10 after three quarters of the iterations."""
    huber: float = 0.1
    """Differences well above this count linearly, well below it squared."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 2, "points_per_ray")
        at_least(self, 0, "rays_per_view")
        above(self, 0, "learning_rate", "huber")
        if not 0 < self.depths[0] < self.depths[1] < math.inf:
            raise ValueError(f"min_depth must be above 0 and below max_depth, got {self.depths}")

    @property
    def step(self) -> float:
        """The distance between two samples of a ray along the camera's axis."""
        return (self.depths[1] - self.depths[0]) / (self.points_per_ray - 1)

    @property
    def depths(self) -> tuple[float, float]:
        """Depths of the first and the last sample of a ray."""
        near = self.distance - min(_MARGIN, 0.99 * self.distance) if self.min_depth is None else self.min_depth
        return near, self.distance + _MARGIN if self.max_depth is None else self.max_depth


class Frame(NamedTuple):
    """Where the units of a fit are in those of its object: x_object = (x_fit rotation) * scale + center."""

    center: Tensor
    scale: float
    rotation: Tensor

    def undo(self, verts: Tensor) -> Tensor:
        """Vertices (V, 3) at the object's place and scale."""
        return verts @ self.rotation * self.scale + self.center


class Placed(NamedTuple):
    """An object in the units of the fit: x_object = x_fit * scale + center."""

    lit: Lit
    center: Tensor
    scale: float
    mesh: Meshes

    @property
    def about(self) -> str:
        """What tells this object from others."""
        x, y, z = self.center.tolist()
        return f"of {len(self.lit.corners)} faces, size {self.scale:.6g} at {x:.6g}, {y:.6g}, {z:.6g}"


@dataclass(frozen=True)
class Pictures:
    """An object as N cameras see it.

    Fields:
        elevation: (N,) degrees.
        azimuth: (N,) degrees.
        cameras: N cameras.
        rgba: (N, S, S, 4), colours on black and how much of a pixel the object covers.
        names: N names.
    """

    elevation: Tensor
    azimuth: Tensor
    cameras: Cameras
    rgba: Tensor
    names: list[str]

    def __len__(self) -> int:
        return len(self.rgba)

    def at(self, views: Tensor, xys: Tensor) -> Tensor:
        """(n, ..., 4): the pictures of some views, n of them, at points (n, ..., 2) in NDC."""
        channels_first = self.rgba[views].permute(0, 3, 1, 2)
        read = ndc_grid_sample(channels_first, xys.flatten(1, -2), padding_mode="border")
        return read.mT.reshape(*xys.shape[:-1], 4)


def place(target: Meshes) -> Placed:
    """Centre the bounding box of a mesh and scale the mesh so that it just fits into the unit sphere.

    Raises:
        ValueError: not exactly one mesh, no faces, not finite, or without extent.
    """
    try:
        surface = Surface.of(target)
    except ValueError as error:
        raise ValueError(f"target: {error}") from error
    used = surface.unit[surface.mesh.faces_packed().unique()]
    if not float((used - used[0]).norm(dim=1).max()) > 0:
        raise ValueError(f"target has no extent: all its vertices are at {surface.center.tolist()}")
    mesh = Meshes(verts=[surface.unit], faces=[surface.mesh.faces_packed()])
    return Placed(Lit.of(surface, View()), surface.center, surface.scale, mesh)


@dataclass(frozen=True)
class Subject:
    """What a fit is given: pictures for it, pictures for its measures, and where they are.

    Fields:
        views: what the fit sees.
        held_out: what it does not see; the same as `views` where there are no others.
        frame: where the units of the fit are.
        placed: the object, where it is known.
        about: what tells this one from others.
    """

    views: Pictures
    held_out: Pictures
    frame: Frame
    placed: Placed | None
    about: str


def of_mesh(target: Meshes, settings: CameraSettings) -> Subject:
    """Pictures that are rendered from a mesh.

    Raises:
        ValueError: see `place`.
    """
    placed = place(target)
    frame = Frame(placed.center, placed.scale, torch.eye(3).to(placed.center))
    views, held_out = fitted_views(placed, settings), held_out_views(placed, settings)
    return Subject(views, held_out, frame, placed, placed.about)


def fitted_views(placed: Placed, settings: CameraSettings) -> Pictures:
    """The pictures that a fit sees."""
    return take_pictures(placed, *settings.fitted_angles(), settings)


def held_out_views(placed: Placed, settings: CameraSettings) -> Pictures:
    """Pictures from between the cameras of the fit."""
    return take_pictures(placed, *settings.held_out_angles(), settings)


def take_pictures(placed: Placed, elevation: Tensor, azimuth: Tensor, settings: CameraSettings) -> Pictures:
    """Pictures in the light of the settings; pixels are averages of 2 x 2 samples.

    Args:
        placed: the object.
        elevation: (N,) degrees.
        azimuth: (N,) degrees.
        settings: for the cameras, the light and the size.
    """
    cameras = cameras_at(elevation, azimuth, settings, placed.center.device)
    rgba = sharp_pictures(placed.lit.seen_from, cameras, settings)
    return Pictures(elevation, azimuth, cameras, rgba, [f"view {i + 1}" for i in range(len(rgba))])


def sharp_pictures(mesh_for: Callable[[Any], Meshes], cameras: Any, settings: CameraSettings) -> Tensor:
    """(N, S, S, 4): colours on black and coverage, averages of 2 x 2 samples, without gradients.

    Args:
        mesh_for: gives the mesh that a camera is to see.
        cameras: N cameras.
        settings: for the light and the size.
    """
    renderer = MeshRenderer(
        MeshRasterizer(raster_settings=RasterizationSettings(image_size=settings.image_size * SUPERSAMPLE)),
        HardPhongShader(
            device=cameras.device,
            lights=lights_of(settings, cameras.device),
            blend_params=BlendParams(background_color=(0.0, 0.0, 0.0)),
        ),
    )
    pictures = []
    with torch.no_grad():
        for i in range(len(cameras)):
            camera = cameras[i]
            straight = shrink(renderer(mesh_for(camera), cameras=camera))
            pictures.append(torch.cat([straight[..., :3] * straight[..., 3:], straight[..., 3:]], -1))
    return torch.cat(pictures)


def lights_of(settings: CameraSettings, device: torch.device) -> PointLights | AmbientLights:
    """The light of the settings; without one, light that shows colours as they are."""
    if settings.light is None:
        return AmbientLights(device=device)
    return PointLights(location=(settings.light,), device=device)


def cameras_at(
    elevation: Tensor, azimuth: Tensor, settings: CameraSettings, device: torch.device
) -> FoVPerspectiveCameras:
    """Cameras that look at the origin from angles (N,) in degrees."""
    R, T = look_at_view_transform(settings.distance, elevation, azimuth, device=device)
    return FoVPerspectiveCameras(R=R, T=T, fov=settings.angle, device=device)


def huber(got: Tensor, expected: Tensor, scale: float) -> Tensor:
    """The mean of `s (sqrt(1 + d^2 / s^2) - 1)` over all differences d, for s = scale."""
    return ((((got - expected) / scale).square() + 1).sqrt() - 1).mean() * scale
