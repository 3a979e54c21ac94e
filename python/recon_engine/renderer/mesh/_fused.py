"""Rendering in one kernel: `MeshRenderer` chooses it where rasteriser, shader, lights and textures are known ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recon_engine._precision import widened, without_autocast

from ..blending import _background, _check_positive
from ..lighting import AmbientLights, DirectionalLights, PointLights
from .clip import ClippedFaces
from .rasterize_meshes import check_raster_arguments, clip_where_needed, plane_to_look_at
from .rasterizer import MeshRasterizer
from .shader import (
    HardFlatShader,
    HardGouraudShader,
    HardPhongShader,
    SoftGouraudShader,
    SoftPhongShader,
    SoftSilhouetteShader,
)
from .shading import _light
from .textures import TexturesAtlas, TexturesUV, TexturesVertex

_HARD = (HardFlatShader, HardGouraudShader, HardPhongShader)
_GOURAUD = (HardGouraudShader, SoftGouraudShader)
_SHADERS = (*_HARD, SoftGouraudShader, SoftPhongShader, SoftSilhouetteShader)
_LIGHTINGS = {AmbientLights: "ambient", DirectionalLights: "directional", PointLights: "point"}


def can_fuse(rasterizer: Any, shader: Any) -> bool:
    """Whether the parts are known ones (not classes derived from them), without hooks that a kernel would pass by."""
    return (
        type(rasterizer) is MeshRasterizer
        and type(shader) in _SHADERS
        and not any(part._forward_hooks or part._forward_pre_hooks for part in (rasterizer, shader))
    )


def render(rasterizer: MeshRasterizer, shader: Any, meshes: Any, kwargs: dict[str, Any]) -> Tensor | None:
    """The image that rasteriser and shader make of the meshes, or None for what only fragments can show.

    Args:
        rasterizer: a plain `MeshRasterizer`.
        shader: one that `can_fuse` knows.
        meshes: N meshes in the world.
        kwargs: those of `MeshRenderer.forward`.

    Returns:
        (N, H, W, 4), or None: another number of channels than three, mixed dtypes, a background or planes with
        gradients, batches that do not match (the shader then says which).
    """
    is_silhouette = type(shader) is SoftSilhouetteShader
    if not is_silhouette and not _is_plain(shader, meshes, kwargs):
        return None
    geometry = _Geometry(rasterizer, meshes, kwargs)
    if is_silhouette:
        return geometry.silhouette(shader.sigma(**kwargs))
    return geometry.image(_look(shader, meshes, geometry.clipped, kwargs), shader, kwargs)


class _Geometry:
    """The faces to rasterise, and how."""

    def __init__(self, rasterizer: MeshRasterizer, meshes: Any, kwargs: dict[str, Any]) -> None:
        settings = self.settings = rasterizer._settings(kwargs)
        self.size: tuple[int, int] = check_raster_arguments(
            settings.image_size,
            settings.blur_radius,
            settings.faces_per_pixel,
            settings.bin_size,
            settings.max_faces_per_bin,
        )
        meshes_ndc = rasterizer.transform(meshes, **kwargs)
        self.inferred = rasterizer.inferred(**kwargs)
        self.verts, self.faces = meshes_ndc.verts_packed(), meshes_ndc.faces_packed()
        self.first, self.count = meshes_ndc.mesh_to_faces_packed_first_idx(), meshes_ndc.num_faces_per_mesh()
        self.neighbors: Tensor | None = None
        self.clipped: ClippedFaces | None = None
        self.plane = plane_to_look_at(self.verts, self.inferred.z_clip_value)
        if self.plane is None:
            self.clipped = clip_where_needed(
                self.verts,
                self.faces,
                self.first,
                self.count,
                self.inferred.perspective_correct,
                self.inferred.z_clip_value,
            )
        if self.clipped is not None:
            self.verts = self.clipped.face_verts.reshape(-1, 3)
            self.faces = torch.arange(len(self.verts), device=self.verts.device).view(-1, 3)
            self.first, self.count = self.clipped.mesh_to_face_first_idx, self.clipped.num_faces_per_mesh
            self.neighbors = self.clipped.clipped_faces_neighbor_idx

    def _options(self) -> tuple[bool, bool, bool]:
        inferred, settings = self.inferred, self.settings
        return inferred.perspective_correct, inferred.clip_barycentric_coords, bool(settings.cull_backfaces)

    def silhouette(self, sigma: float) -> Tensor:
        """White images whose alpha is the silhouette."""
        from recon_engine import ops

        faces = (self.verts, self.faces, self.first, self.count)
        blur_radius, K = float(self.settings.blur_radius), int(self.settings.faces_per_pixel)
        if self.plane is not None:
            from ._in_front import soft_silhouette

            alpha = 1 - soft_silhouette(self.plane, *faces, *self.size, blur_radius, K, sigma, *self._options())
        elif self.neighbors is None:
            alpha = ops.soft_silhouette(*faces, self.size, blur_radius, K, sigma, *self._options())
        else:
            black = _Look(self.verts.new_zeros(len(self.verts), 3), _no_lights(self.verts), "none", "vertex")
            alpha = self._render(black, self.verts.new_zeros(3), (1.0, 100.0), False, sigma, 1.0)[..., 3]
        return F.pad(alpha[..., None], (3, 0), value=1.0)  # white RGB in front of alpha

    def image(self, look: _Look, shader: Any, kwargs: dict[str, Any]) -> Tensor | None:
        """The image by `shader`."""
        params = shader._blend_params(kwargs)
        background = _background(params, self.verts)
        if background.requires_grad:
            return None  # only in the blending of fragments has it a gradient
        hard = isinstance(shader, _HARD)
        if not hard:
            _check_positive(params, "sigma", "gamma")
        sigma, gamma = (1.0, 1.0) if hard else (float(params.sigma), float(params.gamma))
        planes = (1.0, 100.0) if hard else shader._planes(kwargs)
        if any(isinstance(plane, Tensor) and plane.requires_grad for plane in planes):
            return None
        return self._render(look, background, planes, hard, sigma, gamma)

    def _render(
        self, look: _Look, background: Tensor, planes: tuple[Any, Any], hard: bool, sigma: float, gamma: float
    ) -> Tensor:
        from recon_engine import ops

        N, verts = len(self.first), self.verts
        near_far = [
            plane.to(verts).reshape(-1).expand(N) if isinstance(plane, Tensor) else verts.new_full((N,), plane)
            for plane in planes
        ]
        inputs = (
            self.verts,
            self.faces,
            self.first,
            self.count,
            self.neighbors,
            look.attributes,
            self.verts.new_zeros(0, 3, 2) if look.uvs is None else look.uvs,
            self.verts.new_zeros(0, 0, 0, 3) if look.maps is None else look.maps,
            self.faces.new_zeros(0) if look.map_of_face is None else look.map_of_face,
            look.lights,
            torch.stack(near_far, 1),
            background,
        )
        blur_radius, K = float(self.settings.blur_radius), int(self.settings.faces_per_pixel)
        shading: tuple[Any, ...] = (
            look.lighting,
            look.texture,
            look.padding,
            look.nearest,
            look.align_corners,
            hard,
            sigma,
            gamma,
        )
        if self.plane is not None:
            from ._in_front import render_faces

            image: Tensor = render_faces(self.plane, *inputs, *self.size, blur_radius, K, *self._options(), *shading)
            return image
        return ops.render_faces(*inputs, self.size, blur_radius, K, *self._options(), *shading)


@dataclass
class _Look:
    """What `render_faces` is to know of textures and lights."""

    attributes: Tensor
    lights: Tensor
    lighting: str
    texture: str
    uvs: Tensor | None = None
    maps: Tensor | None = None
    map_of_face: Tensor | None = None
    padding: str = "border"
    nearest: bool = False
    align_corners: bool = True


def _is_plain(shader: Any, meshes: Any, kwargs: dict[str, Any]) -> bool:
    """Whether textures, lights and materials are such as the kernel knows."""
    scene = shader._scene(kwargs)
    textures, verts = meshes.textures, widened(meshes.verts_packed())
    if type(textures) is TexturesVertex:
        texels = widened(textures.verts_features_packed())
        fits = texels.shape == verts.shape
    elif isinstance(shader, _GOURAUD):
        return False
    elif type(textures) is TexturesUV:
        texels = widened(textures.maps_padded())
        fits = texels.shape[-1] == 3 and sum(map(len, textures.faces_uvs_list())) == len(meshes.faces_packed())
    elif type(textures) is TexturesAtlas:
        texels = widened(textures.atlas_packed())
        fits = texels.shape[-1] == 3 and len(texels) == len(meshes.faces_packed())
    else:
        return False
    properties = [getattr(scene["lights"], name, None) for name in ("ambient_color", "diffuse_color", "location")]
    properties += [scene["materials"].ambient_color, scene["materials"].shininess]
    return (
        fits
        and texels.numel() > 0
        and type(scene["lights"]) in _LIGHTINGS
        and all(len(part) in (1, len(meshes)) for part in scene.values())
        and scene["lights"].ambient_color.shape[-1] == 3
        and scene["materials"].ambient_color.shape[-1] == 3
        and all(t is None or (t.dtype, t.device) == (verts.dtype, verts.device) for t in (texels, *properties))
    )


def _look(shader: Any, meshes: Any, clipped: ClippedFaces | None, kwargs: dict[str, Any]) -> _Look:
    """Textures and lights of the meshes as `shader` shows them, on the faces that are left after clipping."""
    scene = shader._scene(kwargs)
    lighting = _LIGHTINGS[type(scene["lights"])]
    verts, faces, textures = widened(meshes.verts_packed()), meshes.faces_packed(), meshes.textures
    attributes = []
    if isinstance(shader, _GOURAUD):
        factor, added = _lit(meshes, verts, meshes.verts_normals_packed(), "verts_packed_to_mesh_idx", scene)
        attributes = [widened(textures.verts_features_packed()) * factor + added]
        lighting, lights = "none", _no_lights(verts)
    elif isinstance(shader, HardFlatShader):
        centers = verts[faces].mean(dim=1)
        lights = torch.cat(_lit(meshes, centers, meshes.faces_normals_packed(), "faces_packed_to_mesh_idx", scene), 1)
        lighting = "face"
    else:
        lights = _light_rows(len(meshes), **scene)
        if lighting != "ambient":
            attributes = [verts, meshes.verts_normals_packed()]
    if type(textures) is TexturesVertex and not isinstance(shader, _GOURAUD):
        attributes.append(widened(textures.verts_features_packed()))
    look = _Look(torch.cat(attributes, 1) if attributes else verts[:, :0], lights, lighting, "vertex")
    if type(textures) is TexturesUV:
        look.texture = "image"
        look.uvs = textures._corner_uvs_packed().to(verts.dtype)
        look.maps, look.map_of_face = _maps(textures, meshes)
        look.padding, look.align_corners = textures.padding_mode, textures.align_corners
        look.nearest = textures.sampling_mode == "nearest"
    elif type(textures) is TexturesAtlas:
        look.texture, look.maps = "atlas", widened(textures.atlas_packed())
    return look if clipped is None else _clip(look, faces, clipped)


def _no_lights(like: Tensor) -> Tensor:
    return like.new_zeros(0, 0)


def _lit(meshes: Any, points: Tensor, normals: Tensor, mesh_of: str, scene: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The factor of the texture and the colour added to it at points (P, 3); `mesh_of` tells of which mesh each is."""
    lights, cameras, materials = scene["lights"], scene["cameras"], scene["materials"]
    center = cameras.get_camera_center()
    if len(meshes) > 1:
        index = getattr(meshes, mesh_of)()
        lights, materials = (properties.clone().gather_props(index) for properties in (lights, materials))
        center = center[index] if len(center) > 1 else center
    ambient, diffuse, specular = _light(points, normals, lights, center, materials)
    return (ambient + diffuse).expand_as(points), specular.expand_as(points)


def _light_rows(N: int, lights: Any, cameras: Any, materials: Any) -> Tensor:
    """The rows of `render_faces` for lighting at points, (N, 16)."""
    ambient = materials.ambient_color * lights.ambient_color
    if isinstance(lights, AmbientLights):
        return F.pad(ambient, (0, 13)).expand(N, -1)
    parts = (
        ambient,
        materials.diffuse_color * lights.diffuse_color,
        materials.specular_color * lights.specular_color,
        lights.location if isinstance(lights, PointLights) else lights.direction,
        cameras.get_camera_center(),
        materials.shininess[:, None],
    )
    return torch.cat([part.to(ambient).expand(N, -1) for part in parts], 1)


def _maps(textures: TexturesUV, meshes: Any) -> tuple[Tensor, Tensor]:
    """All images in a row, (M, H, W, 3), and which of them each face shows."""
    maps, ids, mesh_of_face = (
        widened(textures.maps_padded()),
        textures.maps_ids_list(),
        meshes.faces_packed_to_mesh_idx(),
    )
    if maps.stride(0) == 0:  # one image for all meshes stays one
        maps, mesh_of_face = maps[:1], torch.zeros_like(mesh_of_face)
    if ids is None:
        return maps, mesh_of_face
    return maps.flatten(0, 1), mesh_of_face * maps.shape[1] + torch.cat(ids)


def _clip(look: _Look, faces: Tensor, clipped: ClippedFaces) -> _Look:
    """The look of the faces after clipping: corners on the plane get what the whole face has there."""
    source, conversion = clipped.faces_clipped_to_unclipped_idx, clipped.barycentric_conversion
    row_of_face = clipped.faces_clipped_to_conversion_idx
    assert source is not None, "clipping that changes nothing is not handed on"
    look.map_of_face = source if look.map_of_face is None else look.map_of_face.index_select(0, source)
    if look.texture == "atlas":  # its texels lie at the first two barycentric coordinates of the whole face
        look.uvs = torch.eye(3, 2, dtype=look.attributes.dtype, device=source.device).expand(len(source), -1, -1)
        if not len(source) and look.maps is not None:  # faces without a map of their own would have one each
            look.maps = look.maps[:0]
    elif look.uvs is not None:
        look.uvs = look.uvs.index_select(0, source)
    attributes = look.attributes.index_select(0, faces.index_select(0, source).flatten()).unflatten(0, (-1, 3))
    if conversion is not None and row_of_face is not None:
        # Column k of the conversion: the barycentric coordinates of corner k in the whole face.
        matrix = conversion.index_select(0, row_of_face.clamp(min=0)).transpose(1, 2)
        whole = torch.eye(3, dtype=matrix.dtype, device=matrix.device)
        matrix = torch.where((row_of_face >= 0)[:, None, None], matrix, whole)
        with without_autocast(matrix.device.type):
            attributes = matrix @ attributes
            look.uvs = None if look.uvs is None else matrix @ look.uvs
    look.attributes = attributes.flatten(0, 1)
    if look.texture == "vertex":
        look.map_of_face = None
    if look.lighting == "face":
        look.lights = look.lights.index_select(0, source)
    return look
