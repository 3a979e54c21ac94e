"""An object in the units of the fit, and its renderings: soft ones to compare, and ones like a picture."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from recon_engine.quick import SUPERSAMPLE, Surface
from recon_engine.renderer import (
    BlendParams,
    FoVPerspectiveCameras,
    HardPhongShader,
    MeshRasterizer,
    MeshRenderer,
    PointLights,
    RasterizationSettings,
    SoftPhongShader,
    SoftSilhouetteShader,
    TexturesVertex,
)
from recon_engine.structures import Meshes

from .cameras import Orbit, Position
from .settings import PoseSettings, Stage

_CHUNK = 64  # small pictures in one rendering
_CHUNK_SHARP = 2  # pictures with the object's own textures in one rendering
_WHITE = BlendParams(background_color=(1.0, 1.0, 1.0))


class Scene:
    """An object, a light and a field of view.

    Attributes:
        original: the mesh as it was given.
        center: (3,) the point that cameras turn about, in the object's units.
        scale: with `center` the place of the object: x_object = x_fit * scale + center.
        half_width: tangent of half the field of view.
        device: where it is.
        about: what tells this object from others.
    """

    def __init__(self, surface: Surface, settings: PoseSettings) -> None:
        """Place the object.

        Args:
            surface: with faces, finite, not flat to a point.
            settings: for the units, the light and the field of view.
        """
        self.original = surface.mesh
        self.device = surface.unit.device
        framed = settings.framed
        self.center = surface.center if framed else torch.zeros_like(surface.center)
        self.scale = surface.scale if framed else 1.0
        self.fov = settings.fov
        self.half_width = math.tan(math.radians(settings.fov) / 2)
        x, y, z = surface.center.tolist()
        faces = surface.mesh.faces_packed()
        self.about = f"of {len(faces)} faces, size {surface.scale:.6g} at {x:.6g}, {y:.6g}, {z:.6g}"
        self._light = settings.light
        self._planes = (0.05, 100.0) if framed else (1.0, 100.0)
        verts = surface.unit if framed else surface.mesh.verts_packed()
        textures = surface.mesh.textures
        if textures is None:
            textures = TexturesVertex([torch.ones_like(verts)])
        self._sharp = Meshes(verts=[verts], faces=[faces], textures=textures)
        # At a low resolution a colour for each vertex shows as much as an image does, which would be copied for each
        # camera.
        self._plain = Meshes(verts=[verts], faces=[faces], textures=TexturesVertex([_vertex_colors(self._sharp)]))
        self._copies: dict[tuple[bool, int], Meshes] = {}

    @classmethod
    def of(cls, mesh: Meshes, settings: PoseSettings) -> Scene:
        """The scene of one mesh.

        Raises:
            ValueError: not exactly one mesh, no faces, not finite, or without extent.
        """
        try:
            surface = Surface.of(mesh)
        except ValueError as error:
            raise ValueError(f"mesh: {error}") from error
        used = surface.unit[surface.mesh.faces_packed().unique()]
        if not float((used - used[0]).norm(dim=1).max()) > 0:
            raise ValueError(f"mesh has no extent: all its vertices are at {surface.center.tolist()}")
        return cls(surface, settings)

    def in_fit_units(self, points: Tensor) -> Tensor:
        """Points (N, 3) given in the object's units."""
        return (points - self.center) / self.scale

    def in_object_units(self, R: Tensor, T: Tensor) -> tuple[Tensor, Tensor]:
        """R (N, 3, 3) and T (N, 3) for points in the object's units."""
        return R, self.scale * T - self.center @ R

    def soft(
        self, cameras: Orbit | Position, stage: Stage, sigma: float, with_colors: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Soft silhouettes (N, S, S), and colours on white (N, S, S, 3) or None. Differentiable in the cameras."""
        R, T = cameras.rotation_translation(self.half_width)
        meshes = self._copied(len(R), stage.sharp)
        seen = self._cameras(R, T)
        blend = _WHITE._replace(sigma=sigma, gamma=1e-4)
        blur_radius = math.log(1.0 / 1e-4 - 1.0) * sigma  # beyond, in squared NDC, alpha would be below 1e-4

        def rasterizer(faces_per_pixel: int) -> MeshRasterizer:
            return MeshRasterizer(seen, RasterizationSettings(stage.size, blur_radius, faces_per_pixel))

        rgb = None
        if with_colors:
            shader = SoftPhongShader(device=self.device, cameras=seen, lights=self._lights(), blend_params=blend)
            colored = MeshRenderer(rasterizer(stage.texture_faces_per_pixel), shader)(meshes)
            rgb = colored[..., :3]
            if stage.texture_faces_per_pixel == stage.faces_per_pixel:
                return colored[..., 3], rgb  # the same faces, and so the same silhouette
        silhouettes = MeshRenderer(rasterizer(stage.faces_per_pixel), SoftSilhouetteShader(blend))(meshes)
        return silhouettes[..., 3], rgb

    def quick(self, cameras: Orbit, size: int) -> Tensor:
        """(N, S, S, 4): colours on white and silhouettes, one sample for each pixel, without gradients."""
        return self._hard(cameras, size, _CHUNK, sharp=False)

    def picture(self, cameras: Orbit | Position, size: int) -> Tensor:
        """(N, S, S, 4): colours on white and silhouettes; pixels are averages of 2 x 2 samples. Without gradients."""
        large = self._hard(cameras, size * SUPERSAMPLE, _CHUNK_SHARP, sharp=True)
        return F.avg_pool2d(large.permute(0, 3, 1, 2), SUPERSAMPLE).permute(0, 2, 3, 1)

    def _hard(self, cameras: Orbit | Position, size: int, chunk: int, sharp: bool) -> Tensor:
        pictures = []
        with torch.no_grad():
            for R, T in zip(
                *(part.split(chunk) for part in cameras.rotation_translation(self.half_width)), strict=True
            ):
                seen = self._cameras(R, T)
                shader = HardPhongShader(device=self.device, cameras=seen, lights=self._lights(), blend_params=_WHITE)
                rasterizer = MeshRasterizer(seen, RasterizationSettings(image_size=size))
                pictures.append(MeshRenderer(rasterizer, shader)(self._copied(len(R), sharp)).clamp(0, 1))
        return torch.cat(pictures)

    def _copied(self, count: int, sharp: bool) -> Meshes:
        """One copy of the object for each camera; made once, since only cameras move."""
        key = (sharp, count)
        if key not in self._copies:
            self._copies[key] = (self._sharp if sharp else self._plain).extend(count)
        return self._copies[key]

    def _cameras(self, R: Tensor, T: Tensor) -> FoVPerspectiveCameras:
        return FoVPerspectiveCameras(*self._planes, fov=self.fov, R=R, T=T, device=self.device)

    def _lights(self) -> PointLights:
        return PointLights(location=(self._light,), device=self.device)


def _vertex_colors(mesh: Meshes) -> Tensor:
    """(V, 3): the mean of the colours that the faces of a vertex have there; white where it has none."""
    faces = mesh.faces_packed()
    corners = mesh.textures.faces_verts_textures_packed(faces).reshape(-1, 3)
    total = torch.zeros(len(mesh.verts_packed()), 4, dtype=corners.dtype, device=corners.device)
    total.index_add_(0, faces.reshape(-1), F.pad(corners, (0, 1), value=1.0))
    return torch.where(total[:, 3:] > 0, total[:, :3] / total[:, 3:].clamp(min=1), 1.0)
