"""Reconstruct an object from silhouettes: deform a cube or a sphere until its silhouettes are those of the object.

The silhouettes are rendered softly (Liu et al., Soft Rasterizer, ICCV 2019), so that their difference to the targets
has a gradient for every vertex; edge length, normal consistency and a Laplacian keep the surface smooth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from recon_engine.captures import Capture
from recon_engine.loss import mesh_edge_loss, mesh_laplacian_smoothing, mesh_normal_consistency
from recon_engine.renderer import (
    BlendParams,
    MeshRasterizer,
    MeshRenderer,
    RasterizationSettings,
    SoftSilhouetteShader,
)
from recon_engine.structures import Meshes
from recon_engine.utils import ico_sphere

from .._captured import of_capture
from .._live import Live
from .._run import History, Loop, seeded
from .._surface import mean_square_to_nearest, surface_points
from ..shapes import create_cube
from .cameras import CAPTURED_RADIUS, CameraOffsets, Views, captured_views
from .images import Cutouts
from .settings import BuildSettings, image_settings, mesh_settings

LOSSES = ("silhouette", "edge", "normal", "laplacian")
_CHAMFER_POINTS = 10_000
_RENDER_VIEWS = 8  # silhouettes in one rendering when nothing is learnt: bounds the memory


class Frame(NamedTuple):
    """Where an object was before it was centred and scaled for the fit: x_object = x_fit * scale + center."""

    center: Tensor
    scale: float

    def undo(self, mesh: Meshes) -> Meshes:
        """The mesh at the object's place and scale."""
        return mesh.update_padded(mesh.verts_padded() * self.scale + self.center)


@dataclass(frozen=True)
class BuildResult:
    """What a reconstruction reached.

    Fields:
        mesh: the reconstruction, at the input's place and scale.
        fitted: the same in the units of the fit.
        rotation: (3, 3), x_mesh = (x_fitted rotation) * scale + center; the identity but for captures.
        start: what it started from, in the units of the fit.
        start_name: the same in words.
        target: the input mesh in the units of the fit; None when the input was pictures.
        names: N names of the views.
        views: their cameras, where they were found to be if they were refined.
        given: their cameras as they were given.
        targets: (N, S, S) silhouettes of the object, 0 to 1.
        silhouettes: (N, S, S) silhouettes of the reconstruction.
        iou: (N,) intersection over union of the two, both cut at one half.
        start_iou: (N,) the same for the start.
        unseen_iou: mean of the same over views that the fit never saw; None when the input was pictures.
        chamfer: mean squared distance between 10,000 points on either surface and the other's nearest, both ways
            added, in the units of the fit; None when the input was pictures.
        history: the losses of every iteration.
        settings: what it was made with.
        interrupted: Ctrl-C ended it early.
        seconds: how long the iterations took.
    """

    mesh: Meshes
    fitted: Meshes
    rotation: Tensor
    start: Meshes
    start_name: str
    target: Meshes | None
    names: list[str]
    views: Views
    given: Views
    targets: Tensor
    silhouettes: Tensor
    iou: Tensor
    start_iou: Tensor
    unseen_iou: float | None
    chamfer: float | None
    history: History
    settings: BuildSettings
    interrupted: bool
    seconds: float


def from_mesh(
    target: Meshes,
    settings: BuildSettings | None = None,
    *,
    show_progress: bool = False,
    live: Path | None = None,
) -> BuildResult:
    """Reconstruct a mesh from silhouettes that are rendered from it.

    Args:
        target: one mesh. It is centred and scaled to half extent 0.5 first; the result is put back at its scale.
        settings: `mesh_settings()` when not given.
        show_progress: draw a progress bar.
        live: a file that the mesh is written to every second, for `recon view`.

    Returns:
        The reconstruction and its measures. The same seed gives the same mesh.

    Raises:
        ValueError: not exactly one mesh, or one that is empty, flat to a point, or not finite; cameras to be refined.
        FloatingPointError: the learning rate was too high.
    """
    settings = mesh_settings() if settings is None else settings
    if settings.refine_cameras:
        raise ValueError("refine_cameras goes with pictures: the cameras of rendered silhouettes are known")
    target, frame = normalize(target, "target")
    fov = _framing_fov(target, settings.distance) if settings.fov is None else settings.fov
    views = Views(
        torch.linspace(0, 360, settings.views), torch.linspace(-180, 180, settings.views), settings.distance, fov
    )
    names = [f"view {i + 1}" for i in range(len(views))]
    targets = silhouettes(target, views, settings)
    start = _start(settings, target.device)
    shown = Live(live, settings.iterations, frame.undo)
    fitted, _, history, loop = _fit(start, targets, views, settings, show_progress, shown)
    unseen = Views(torch.full((12,), 20.0), torch.linspace(-165, 165, 12), settings.distance, fov)
    rendered = silhouettes(fitted, views, settings)
    return BuildResult(
        mesh=frame.undo(fitted),
        fitted=fitted,
        rotation=torch.eye(3).to(fitted.device),
        start=start,
        start_name=f"a {settings.start}",
        target=target,
        names=names,
        views=views,
        given=views,
        targets=targets,
        silhouettes=rendered,
        iou=silhouette_iou(rendered, targets),
        start_iou=silhouette_iou(silhouettes(start, views, settings), targets),
        unseen_iou=float(
            silhouette_iou(silhouettes(fitted, unseen, settings), silhouettes(target, unseen, settings)).mean()
        ),
        chamfer=surface_chamfer(fitted, target, settings.seed),
        history=history,
        settings=settings,
        interrupted=loop.interrupted,
        seconds=loop.seconds,
    )


def from_images(
    cutouts: Cutouts,
    elevation: Tensor,
    azimuth: Tensor,
    settings: BuildSettings | None = None,
    *,
    init: Meshes | None = None,
    show_progress: bool = False,
    live: Path | None = None,
    device: torch.device | str = "cpu",
) -> BuildResult:
    """Reconstruct an object from cut-out photographs.

    Args:
        cutouts: N silhouettes of side `settings.image_size`.
        elevation: (N,) degrees.
        azimuth: (N,) degrees.
        settings: when not given, `image_settings()` with `init` and `mesh_settings()` without it: the documented 100
            iterations refine a mesh, they do not shape a cube.
        init: the mesh to start from, for instance an earlier result; the result is put back at its scale. Without it
            the start is the one of the settings and the result has the units of the fit.
        show_progress: draw a progress bar.
        live: a file that the mesh is written to every second, for `recon view`.
        device: where to compute.

    Returns:
        The reconstruction and its measures. The same seed gives the same mesh.

    Raises:
        ValueError: the numbers of silhouettes and angles differ, or the start is unusable.
        FloatingPointError: the learning rate was too high.
    """
    if settings is None:
        settings = mesh_settings() if init is None else image_settings()
    size = (len(cutouts.names), settings.image_size, settings.image_size)
    if tuple(cutouts.alpha.shape) != size:
        raise ValueError(f"from_images: cutouts.alpha must have shape {size}, got {tuple(cutouts.alpha.shape)}")
    for name, angles in (("elevation", elevation), ("azimuth", azimuth)):
        if angles.shape != (len(cutouts.names),):
            raise ValueError(f"from_images: {name} must have shape ({len(cutouts.names)},), got {tuple(angles.shape)}")
    start, frame = (_start(settings, device), None) if init is None else normalize(init.to(device), "init")
    # A cut-out touches its picture's border: the nearest side of the cube from -0.5 to 0.5 just fills the frame.
    fov = math.degrees(2 * math.atan(0.5 / (settings.distance - 0.5))) if settings.fov is None else settings.fov
    views = Views(elevation, azimuth, settings.distance, fov)
    targets = cutouts.alpha.to(device)
    given = views
    shown = Live(live, settings.iterations, None if frame is None else frame.undo)
    fitted, views, history, loop = _fit(start, targets, given, settings, show_progress, shown)
    rendered = silhouettes(fitted, views, settings)
    return BuildResult(
        mesh=fitted if frame is None else frame.undo(fitted),
        fitted=fitted,
        rotation=torch.eye(3).to(fitted.device),
        start=start,
        start_name=f"a {settings.start}" if init is None else "the given mesh",
        target=None,
        names=cutouts.names,
        views=views,
        given=given,
        targets=targets,
        silhouettes=rendered,
        iou=silhouette_iou(rendered, targets),
        start_iou=silhouette_iou(silhouettes(start, given, settings), targets),
        unseen_iou=None,
        chamfer=None,
        history=history,
        settings=settings,
        interrupted=loop.interrupted,
        seconds=loop.seconds,
    )


def from_capture(
    capture: Capture,
    settings: BuildSettings | None = None,
    *,
    show_progress: bool = False,
    live: Path | None = None,
    device: torch.device | str = "cpu",
) -> BuildResult:
    """Reconstruct an object from the silhouettes of pictures whose cameras are known.

    Args:
        capture: of `recon_engine.captures.load_capture`, of side `settings.image_size`.
        settings: `mesh_settings()` when not given; what they say of cameras is the capture's.
        show_progress: draw a progress bar.
        live: a file that the mesh is written to every second, for `recon view`.
        device: where to compute.

    Returns:
        The reconstruction, in the cameras' world, and its measures. `unseen_iou` is that of the pictures that were held
        out, if there are any. The same seed gives the same mesh.

    Raises:
        ValueError: the cameras do not fit the pictures, the pictures do not have the side of the settings, or the
            settings ask for cameras to be refined.
        FloatingPointError: the learning rate was too high.
    """
    settings = mesh_settings() if settings is None else settings
    if settings.refine_cameras:
        raise ValueError("refine_cameras goes with pictures whose cameras are angles: others are known well")
    size = (settings.image_size, settings.image_size)
    if tuple(capture.rgba.shape[1:3]) != size:
        raise ValueError(f"from_capture: capture.rgba must be pictures of {size}, got {tuple(capture.rgba.shape[1:3])}")
    subject = of_capture(capture, device)
    views = captured_views(subject.views)
    start, targets = _start(settings, device), subject.views.rgba[..., 3]

    def place(mesh: Meshes) -> Meshes:
        return mesh.update_padded(subject.frame.undo(mesh.verts_packed() / CAPTURED_RADIUS)[None])

    shown = Live(live, settings.iterations, place)
    fitted, _, history, loop = _fit(start, targets, views, settings, show_progress, shown)
    rendered = silhouettes(fitted, views, settings)
    unseen = None
    if subject.held_out is not subject.views:
        seen = silhouettes(fitted, captured_views(subject.held_out), settings)
        unseen = float(silhouette_iou(seen, subject.held_out.rgba[..., 3]).mean())
    return BuildResult(
        mesh=place(fitted),
        fitted=fitted,
        rotation=subject.frame.rotation,
        start=start,
        start_name=f"a {settings.start}",
        target=None,
        names=subject.views.names,
        views=views,
        given=views,
        targets=targets,
        silhouettes=rendered,
        iou=silhouette_iou(rendered, targets),
        start_iou=silhouette_iou(silhouettes(start, views, settings), targets),
        unseen_iou=unseen,
        chamfer=None,
        history=history,
        settings=settings,
        interrupted=loop.interrupted,
        seconds=loop.seconds,
    )


def normalize(mesh: Meshes, name: str) -> tuple[Meshes, Frame]:
    """Centre the bounding box of a mesh and scale its longest side to reach from -0.5 to 0.5.

    Args:
        mesh: one mesh.
        name: what error messages call it.

    Returns:
        The mesh without textures, and where it was.

    Raises:
        ValueError: not one mesh, no faces, not finite, or without extent.
    """
    if len(mesh) != 1:
        raise ValueError(f"{name} must be one mesh, got a batch of {len(mesh)}")
    verts, faces = mesh.verts_packed(), mesh.faces_packed()
    if len(faces) == 0:
        raise ValueError(f"{name} must have faces, got a mesh with {len(verts)} vertices and none")
    if not bool(torch.isfinite(verts).all()):
        raise ValueError(f"{name} has vertices that are NaN or infinite")
    used = verts[faces.unique()]
    low, high = used.amin(0), used.amax(0)
    half = float((high - low).max()) / 2
    if not half > 0:
        raise ValueError(f"{name} has no extent: all its vertices are at {low.tolist()}")
    center = (low + high) / 2
    return Meshes(verts=[(verts - center) * (0.5 / half)], faces=[faces]), Frame(center, half / 0.5)


def silhouettes(mesh: Meshes, views: Views, settings: BuildSettings) -> Tensor:
    """(N, S, S) soft silhouettes of one mesh, without gradients."""
    renderer = _silhouette_renderer(settings, mesh.device)
    R, T = views.rotation_translation(mesh.device)
    with torch.no_grad():
        chunks = [
            renderer(mesh.extend(len(some)), cameras=views.cameras(R[some], T[some], some))
            for some in torch.arange(len(views), device=mesh.device).split(_RENDER_VIEWS)
        ]
    return torch.cat([chunk[..., 3] for chunk in chunks])


def silhouette_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of silhouettes.

    Args:
        a: (N, H, W) from 0 to 1; above one half counts as object.
        b: the same.

    Returns:
        (N,) from 0 to 1; 1 where both are empty.
    """
    inside_a, inside_b = a > 0.5, b > 0.5
    both = (inside_a & inside_b).sum((1, 2)).float()
    either = (inside_a | inside_b).sum((1, 2)).float()
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)


def surface_chamfer(a: Meshes, b: Meshes, seed: int = 0) -> float:
    """Mean squared distance from points on `a` to the nearest on `b`, plus the reverse (10,000 points each)."""
    with torch.no_grad(), seeded(seed, a.device):
        x, y = (surface_points(mesh, _CHAMFER_POINTS) for mesh in (a, b))
        return mean_square_to_nearest(x, y) + mean_square_to_nearest(y, x)


def _start(settings: BuildSettings, device: torch.device | str) -> Meshes:
    if settings.start == "cube":
        return create_cube(settings.level, device)
    return ico_sphere(settings.level, device).scale_verts(settings.sphere_radius)


def _framing_fov(mesh: Meshes, distance: float) -> float:
    """The field of view, in degrees, that just holds the sphere around the mesh from every side, plus a margin."""
    radius = float(mesh.verts_packed().norm(dim=1).max())
    return 1.1 * math.degrees(2 * math.asin(min(radius / distance, 0.99)))


def _silhouette_renderer(settings: BuildSettings, device: torch.device | str) -> MeshRenderer:
    raster = RasterizationSettings(
        image_size=settings.image_size, blur_radius=settings.blur_radius, faces_per_pixel=settings.faces_per_pixel
    )
    blend = BlendParams(sigma=settings.sigma, gamma=1e-4)
    return MeshRenderer(MeshRasterizer(raster_settings=raster), SoftSilhouetteShader(blend_params=blend)).to(device)


def _fit(
    start: Meshes, targets: Tensor, given: Views, settings: BuildSettings, show_progress: bool, live: Live
) -> tuple[Meshes, Views, History, Loop]:
    """Deform `start` until its silhouettes are the targets; also the cameras, the losses and how the loop went."""
    device = start.device
    renderer = _silhouette_renderer(settings, device)
    count = min(settings.views_per_iteration or len(given), len(given))
    weights = [getattr(settings, f"weight_{name}") for name in LOSSES]
    history = History(LOSSES, weights, settings.iterations, device)
    loop = Loop(settings.iterations, history, "reconstructing", show_progress)
    # One copy of the start for each view of a step, made once: moving its vertices keeps edges and adjacency.
    copies = start.extend(count)
    offset = torch.zeros_like(start.verts_packed(), requires_grad=True)
    optimizer = torch.optim.SGD([offset], lr=settings.learning_rate, momentum=settings.momentum)
    found = CameraOffsets(given, device)
    moving = torch.optim.Adam(found.parameters(), lr=settings.camera_rate)
    R, T = given.rotation_translation(device)
    with seeded(settings.seed, device) as generator:
        for i in loop:
            rate = settings.camera_rate_at(i)
            if rate > 0:
                moving.param_groups[0]["lr"] = rate
                R, T = found().rotation_translation(device)
            picked = torch.randperm(len(given), generator=generator)[:count].to(device)
            cameras = given.cameras(R[picked], T[picked], picked)
            optimizer.zero_grad()
            moving.zero_grad()
            mesh = start.offset_verts(offset)
            alpha = renderer(copies.offset_verts(offset.repeat(count, 1)), cameras=cameras)[..., 3]
            total = history.total(
                (
                    partial(_mean_squared_difference, alpha, targets[picked]),
                    partial(mesh_edge_loss, mesh),
                    partial(mesh_normal_consistency, mesh),
                    partial(mesh_laplacian_smoothing, mesh, method="uniform"),
                )
            )
            total.backward()
            optimizer.step()
            if rate > 0:
                moving.step()
            live.show(mesh, history)
    with torch.no_grad():
        views = found() if settings.refine_cameras else given
    return start.offset_verts(offset.detach()), views, history, loop


def _mean_squared_difference(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().mean()
