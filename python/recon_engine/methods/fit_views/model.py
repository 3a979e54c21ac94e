"""A textured sphere: where its vertices go, and the colours of its vertices or of an image on its surface."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recon_engine.ops import interpolate_face_attributes
from recon_engine.renderer import TexturesUV, TexturesVertex, rasterize_meshes
from recon_engine.structures import Meshes
from recon_engine.utils import ico_sphere

from .settings import FitViewsSettings

_COARSEST = 4  # texels along a side of the coarsest layer of a part of the image
_GREY = 0.5  # all colours at the start


class SphereModel(torch.nn.Module):
    """A sphere of radius 1 whose vertices are moved and whose surface is coloured.

    An image is the sum of layers, each twice as fine as the one before: what no view shows gets the colours around it.
    So may be the shape, on spheres whose triangles are split more and more: it then moves as a whole before it moves
    in detail.

    Args:
        settings: for its size, the kind of its texture and whether the shape has layers.
        device: where it is.

    Attributes:
        start: the sphere.
        shape: one tensor (V, 3), what is added to its vertices; or a layer for each of the spheres, coarse to fine.
        colors: one tensor (V, 3), of the vertices; or layers (6, 3, s, s) of the image's six parts, coarse to fine.
    """

    def __init__(self, settings: FitViewsSettings, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.start = ico_sphere(settings.level, device)
        verts = self.start.verts_packed()
        coarser = range(settings.level if settings.shape_rate is not None else 0)
        # The vertices of a finer sphere are those of the coarser one, and after them the middles of its edges.
        self._edges = [ico_sphere(level, device).edges_packed() for level in coarser]
        counts = [*(10 * 4**level + 2 for level in coarser), len(verts)]
        self.shape = torch.nn.ParameterList([torch.zeros(count, 3, device=device) for count in counts])
        self._is_image = settings.texture == "uv"
        colors = [torch.full_like(verts, _GREY)]
        if self._is_image:
            sizes = [settings.texture_size]
            while sizes[-1] > _COARSEST:
                sizes.append(-(-sizes[-1] // 2))
            colors = [torch.zeros(6, 3, size, size, device=device) for size in reversed(sizes)]
            colors[0] += _GREY
            self._uvs = cube_uvs(verts, self.start.faces_packed(), settings.texture_size)
        self.colors = torch.nn.ParameterList(colors)
        self._copies: dict[int, Meshes] = {}

    def forward(self, count: int = 1) -> Meshes:
        """A batch of `count` times the mesh, with its texture. Differentiable."""
        # Copies are made once: moving their vertices keeps edges and adjacency.
        if count not in self._copies:
            self._copies[count] = self.start.extend(count)
        mesh = self._copies[count].offset_verts(self.offset().repeat(count, 1))
        mesh.textures = self._textures(count)
        return mesh

    def offset(self) -> Tensor:
        """(V, 3): what is added to the vertices. Differentiable."""
        offset = self.shape[0]
        for edges, layer in zip(self._edges, list(self.shape)[1:], strict=True):
            offset = torch.cat([offset, offset[edges].mean(1)]) + layer
        return offset

    def _textures(self, count: int) -> Any:
        if not self._is_image:
            return TexturesVertex(_within_range(self.colors[0]).expand(count, -1, -1))
        verts_uvs, faces_uvs = self._uvs
        return TexturesUV(
            maps=self.image().expand(count, -1, -1, -1),
            faces_uvs=faces_uvs.expand(count, -1, -1),
            verts_uvs=verts_uvs.expand(count, -1, -1),
            align_corners=False,
        )

    def image(self) -> Tensor:
        """(2 s, 3 s, 3) from 0 to 1: the six parts of the image in two rows. Differentiable."""
        layers = iter(self.colors)
        parts = next(layers)
        for layer in layers:
            parts = F.interpolate(parts, size=layer.shape[-2:], mode="bilinear", align_corners=False) + layer
        size = parts.shape[-1]
        return _within_range(parts.reshape(2, 3, 3, size, size).permute(0, 3, 1, 4, 2).reshape(2 * size, 3 * size, 3))


def _within_range(colors: Tensor) -> Tensor:
    """Colours cut to 0 and 1, with the gradient of those that are not cut, so that they can come back."""
    return colors + (colors.clamp(0, 1) - colors).detach()


def cube_uvs(verts: Tensor, faces: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Texture coordinates of a sphere on the six sides of a cube, which lie in two rows of three.

    A face lies on the side that its middle is seen through from the origin; angles are even along each side. All
    corners lie at least one texel inside of the part of their side, so that parts do not mix.

    Args:
        verts: (V, 3) around the origin.
        faces: (F, 3).
        size: s, texels along each side of a part.

    Returns:
        verts_uvs (U, 2), with u to the right and v upwards, and faces_uvs (F, 3) int64.
    """
    corners = verts[faces]
    middle = corners.mean(1)
    axis = middle.abs().argmax(1)
    is_negative = middle.gather(1, axis[:, None])[:, 0] < 0
    part = 2 * axis + is_negative
    # Vertices of several sides have coordinates on each of them.
    pairs, faces_uvs = (
        torch.stack([faces, part[:, None].expand(-1, 3)], -1).reshape(-1, 2).unique(dim=0, return_inverse=True)
    )
    points, side = verts[pairs[:, 0]], pairs[:, 1]
    main = points.gather(1, side[:, None] // 2).abs().clamp(min=0.1)
    others = torch.stack([(side // 2 + 1) % 3, (side // 2 + 2) % 3], 1)
    flat = torch.atan(points.gather(1, others) / main) * (4 / math.pi)
    local = 0.5 + 0.5 * flat / flat.abs().max() * (1 - 2 / size)
    column, row = side % 3, side // 3
    uv = torch.stack([(column + local[:, 0]) / 3, 1 - (row + local[:, 1]) / 2], 1)
    return uv, faces_uvs.reshape(-1, 3)


def image_of_colors(mesh: Meshes, sphere: Meshes, size: int) -> Meshes:
    """A mesh with vertex colours as one with an image, which shows the same.

    Args:
        mesh: one mesh with `TexturesVertex`.
        sphere: the sphere that it was made of.
        size: s, texels along each side of the image's six parts.
    """
    verts_uvs, faces_uvs = cube_uvs(sphere.verts_packed(), sphere.faces_packed(), size)
    u, v = verts_uvs.unbind(1)
    # In NDC the short side of a picture goes from -1 to 1, and x points left.
    flat = Meshes(verts=[torch.stack([1.5 * (1 - 2 * u), 2 * v - 1, torch.ones_like(u)], 1)], faces=[faces_uvs])
    colors = mesh.textures.verts_features_packed()[mesh.faces_packed()]
    image = u.new_full((2 * size, 3 * size, 3), _GREY)
    # First, with blur, the texels around the faces, which are read where these end; over them the faces themselves.
    for blur in ((2.0 * 2 / size) ** 2, 0.0):
        face, _, bary, _ = rasterize_meshes(
            flat, (2 * size, 3 * size), blur, faces_per_pixel=1, clip_barycentric_coords=blur > 0
        )
        shown = interpolate_face_attributes(face, bary, colors)[0, :, :, 0]
        image = torch.where(face[0] >= 0, shown, image)
    textures = TexturesUV(image[None], faces_uvs[None], verts_uvs[None], align_corners=False)
    return Meshes(verts=[mesh.verts_packed()], faces=[mesh.faces_packed()], textures=textures)
