"""What a reconstruction is given: the silhouettes of an object from cameras that are known, or nearly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from recon_engine.captures import Capture
from recon_engine.renderer import (
    BlendParams,
    MeshRasterizer,
    MeshRenderer,
    RasterizationSettings,
    SoftSilhouetteShader,
)
from recon_engine.structures import Meshes

from .._captured import of_capture
from .._train import checksum
from .._views import Frame
from .cameras import CAPTURED_RADIUS, Views, captured_views
from .images import Cutouts
from .settings import BuildSettings

_RENDER_VIEWS = 8  # silhouettes in one rendering when nothing is learnt: bounds the memory
_UNSEEN = 12  # views that a fit to a mesh never sees, for the measures


@dataclass(frozen=True)
class Outlines:
    """Silhouettes of one object and where they were seen from.

    Fields:
        names: N names of the views.
        views: their cameras, as they were given.
        silhouettes: (N, S, S) from 0 to 1.
        unseen: cameras that the fit does not see through, and the silhouettes there; None where there are none.
        mesh: the object in the units of the fit, where it is known.
        init: the mesh to start from, in the units of the fit; None: the one of the settings.
        frame: where the units of the fit are.
        about: what tells these from others.
    """

    names: list[str]
    views: Views
    silhouettes: Tensor
    unseen: tuple[Views, Tensor] | None
    mesh: Meshes | None
    init: Meshes | None
    frame: Frame
    about: str

    @classmethod
    def of_mesh(cls, target: Meshes, settings: BuildSettings) -> Outlines:
        """Silhouettes that are rendered from a mesh; see `from_mesh`."""
        if settings.refine_cameras:
            raise ValueError("refine_cameras goes with pictures: the cameras of rendered silhouettes are known")
        about = f"a mesh with checksum {checksum(*target.verts_list(), *target.faces_list())}"
        mesh, frame = normalize(target, "target")
        fov = _framing_fov(mesh, settings.distance) if settings.fov is None else settings.fov
        see_from = partial(Views, distance=settings.distance, fov=fov)
        views = see_from(torch.linspace(0, 360, settings.views), torch.linspace(-180, 180, settings.views))
        unseen = see_from(torch.full((_UNSEEN,), 20.0), torch.linspace(-165, 165, _UNSEEN))
        return cls(
            names=[f"view {i + 1}" for i in range(len(views))],
            views=views,
            silhouettes=silhouettes(mesh, views, settings),
            unseen=(unseen, silhouettes(mesh, unseen, settings)),
            mesh=mesh,
            init=None,
            frame=frame,
            about=about,
        )

    @classmethod
    def of_cutouts(
        cls,
        cutouts: Cutouts,
        elevation: Tensor,
        azimuth: Tensor,
        settings: BuildSettings,
        init: Meshes | None,
        device: torch.device | str,
    ) -> Outlines:
        """Silhouettes of photographs; see `from_images`."""
        size = (len(cutouts.names), settings.image_size, settings.image_size)
        if tuple(cutouts.alpha.shape) != size:
            raise ValueError(f"from_images: cutouts.alpha must have shape {size}, got {tuple(cutouts.alpha.shape)}")
        for name, angles in (("elevation", elevation), ("azimuth", azimuth)):
            if angles.shape != size[:1]:
                raise ValueError(f"from_images: {name} must have shape ({size[0]},), got {tuple(angles.shape)}")
        kept = [cutouts.alpha, elevation, azimuth]
        frame = Frame(torch.zeros(3, device=device), 1.0, torch.eye(3, device=device))
        if init is not None:
            if settings.start == "both":
                raise ValueError("start both goes without init: a given mesh is the only start")
            if settings.coarse_to_fine:
                raise ValueError("coarse_to_fine goes without init: the triangles of a given mesh stay as they are")
            kept += [*init.verts_list(), *init.faces_list()]
            init, frame = normalize(init.to(device), "init")
        # A cut-out touches its picture's border: the nearest side of the cube from -0.5 to 0.5 just fills the frame.
        fov = math.degrees(2 * math.atan(0.5 / (settings.distance - 0.5))) if settings.fov is None else settings.fov
        return cls(
            names=cutouts.names,
            views=Views(elevation, azimuth, settings.distance, fov),
            silhouettes=cutouts.alpha.to(device),
            unseen=None,
            mesh=None,
            init=init,
            frame=frame,
            about=f"{size[0]} pictures with checksum {checksum(*kept)}",
        )

    @classmethod
    def of_capture(cls, capture: Capture, settings: BuildSettings, device: torch.device | str) -> Outlines:
        """Silhouettes of pictures whose cameras are known; see `from_capture`."""
        if settings.refine_cameras:
            raise ValueError("refine_cameras goes with pictures whose cameras are angles: others are known well")
        size, got = (settings.image_size, settings.image_size), tuple(capture.rgba.shape[1:3])
        if got != size:
            raise ValueError(f"from_capture: capture.rgba must be pictures of {size}, got {got}")
        subject = of_capture(capture, device)
        unseen = None
        if subject.held_out is not subject.views:
            unseen = (captured_views(subject.held_out), subject.held_out.rgba[..., 3])
        return cls(
            names=subject.views.names,
            views=captured_views(subject.views),
            silhouettes=subject.views.rgba[..., 3],
            unseen=unseen,
            mesh=None,
            init=None,
            frame=subject.frame._replace(scale=subject.frame.scale / CAPTURED_RADIUS),
            about=subject.about,
        )

    def placed(self, mesh: Meshes) -> Meshes:
        """A mesh of the fit where the object is."""
        return placed(mesh, self.frame)


def placed(mesh: Meshes, frame: Frame) -> Meshes:
    """A mesh of a fit where its object is."""
    return mesh.update_padded(frame.undo(mesh.verts_packed())[None])


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
    frame = Frame(center, half / 0.5, torch.eye(3).to(center))
    return Meshes(verts=[(verts - center) * (0.5 / half)], faces=[faces]), frame


def silhouettes(mesh: Meshes, views: Views, settings: BuildSettings) -> Tensor:
    """(N, S, S) soft silhouettes of one mesh, without gradients."""
    renderer = silhouette_renderer(settings, mesh.device)
    cameras = views.cameras(mesh.device)
    with torch.no_grad():
        chunks = [
            renderer(mesh.extend(len(some)), cameras=cameras[some])
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


def silhouette_renderer(settings: BuildSettings, device: torch.device | str) -> MeshRenderer:
    """The soft silhouettes of the settings."""
    raster = RasterizationSettings(
        image_size=settings.image_size, blur_radius=settings.blur_radius, faces_per_pixel=settings.faces_per_pixel
    )
    blend = BlendParams(sigma=settings.sigma, gamma=1e-4)
    return MeshRenderer(MeshRasterizer(raster_settings=raster), SoftSilhouetteShader(blend_params=blend)).to(device)


def _framing_fov(mesh: Meshes, distance: float) -> float:
    """The field of view, in degrees, that just holds the sphere around the mesh from every side, plus a margin."""
    radius = float(mesh.verts_packed().norm(dim=1).max())
    return 1.1 * math.degrees(2 * math.asin(min(radius / distance, 0.99)))
