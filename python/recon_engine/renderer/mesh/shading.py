"""Colours of fragments under lights: computed at pixels (Phong), at vertices (Gouraud) or at faces (flat)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recon_engine._precision import widened

from .clip import look_is_free
from .textures import TexturesVertex

_SPARSE = 0.5  # on a CPU only fragments with a face are lit when they are fewer than this part of all


def _per_point(value: Tensor, points: Tensor) -> Tensor:
    """Reshape a property (N, C) so that it broadcasts over points (N, H, W, K, 3); packed points (P, 3) keep it."""
    return value.view(value.shape[0], *(1,) * (points.dim() - value.dim()), value.shape[-1])


def _apply_lighting(
    points: Tensor, normals: Tensor, lights: Any, cameras: Any, materials: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """The ambient, diffuse and specular colours of points.

    Args:
        points: (N, H, W, K, 3) or (P, 3) positions in the world.
        normals: the shape of points.
        lights: batch of N or 1.
        cameras: batch of N or 1; their centres are the viewpoints.
        materials: batch of N or 1.

    Returns:
        ambient: broadcasts against the other two.
        diffuse: the shape of points.
        specular: the shape of points.
    """
    return _light(points, normals, lights, cameras.get_camera_center(), materials)


def _light(
    points: Tensor, normals: Tensor, lights: Any, camera_position: Tensor, materials: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """The same, from the viewpoints (N or 1, 3), or (P, 3) for packed points."""
    diffuse = lights.diffuse(normals=normals, points=points)
    specular = lights.specular(
        normals=normals,
        points=points,
        camera_position=camera_position,
        shininess=materials.shininess,
    )
    ambient = _per_point(materials.ambient_color * lights.ambient_color, points)
    diffuse = _per_point(materials.diffuse_color, points) * diffuse
    specular = _per_point(materials.specular_color, points) * specular
    return ambient, diffuse, specular


def _phong_shading_with_pixels(
    meshes: Any, fragments: Any, lights: Any, cameras: Any, materials: Any, texels: Tensor
) -> tuple[Tensor, Tensor]:
    """The result of `phong_shading` and the positions (N, H, W, K, 3) of the fragments in the world."""
    from recon_engine.ops.interp_face_attrs import interpolate_face_attributes

    faces = meshes.faces_packed()
    # Positions and normals go through one interpolation, which reads the fragments once.
    attributes = torch.cat((meshes.verts_packed(), meshes.verts_normals_packed()), dim=-1)[faces]
    pixels = interpolate_face_attributes(fragments.pix_to_face, fragments.bary_coords, attributes)
    points, normals = pixels[..., :3], pixels[..., 3:]
    ambient, diffuse, specular = _apply_lighting(points, normals, lights, cameras, materials)
    return (ambient + diffuse) * texels + specular, points


def _light_shown(
    meshes: Any, fragments: Any, shown: Tensor, lights: Any, cameras: Any, materials: Any
) -> tuple[Tensor, Tensor]:
    """The factor of the texture and the specular colour, computed only where there is a face and once elsewhere.

    Args:
        meshes: N meshes in the world.
        fragments: the output of the rasteriser.
        shown: (P,) flat indices of the fragments that show a face.
        lights: batch of N or 1.
        cameras: batch of N or 1.
        materials: batch of N or 1.

    Returns:
        Two tensors (N, H, W, K, C), equal to those of `_apply_lighting`.
    """
    from recon_engine.ops.interp_face_attrs import interpolate_face_attributes

    shape = fragments.pix_to_face.shape
    N, per_image = shape[0], shape[1:].numel()
    attributes = torch.cat((meshes.verts_packed(), meshes.verts_normals_packed()), dim=-1)[meshes.faces_packed()]
    faces = fragments.pix_to_face.reshape(-1).index_select(0, shown).view(1, 1, -1, 1)
    bary = fragments.bary_coords.reshape(-1, 3).index_select(0, shown).view(1, 1, -1, 1, 3)
    # N last rows of zeros: what all fragments of an image without a face have in common.
    rows = torch.cat((interpolate_face_attributes(faces, bary, attributes).view(-1, 6), attributes.new_zeros(N, 6)))
    center = cameras.get_camera_center()
    if N > 1:
        image_of_row = torch.cat((shown // per_image, torch.arange(N, device=shown.device)))
        lights, materials = (properties.clone().gather_props(image_of_row) for properties in (lights, materials))
        center = center.index_select(0, image_of_row) if len(center) > 1 else center
    ambient, diffuse, specular = _light(rows[:, :3], rows[:, 3:], lights, center, materials)

    def spread(values: Tensor) -> Tensor:
        C = values.shape[-1]
        empty = values[len(shown) :].view(N, 1, 1, 1, C).expand(*shape, C)
        every = empty.clone(memory_format=torch.contiguous_format)
        return every.view(-1, C).index_copy_(0, shown, values[: len(shown)]).view_as(empty)

    return spread(ambient + diffuse), spread(specular)


def phong_shading(meshes: Any, fragments: Any, lights: Any, cameras: Any, materials: Any, texels: Tensor) -> Tensor:
    """Colours with lighting at each pixel, from interpolated positions and vertex normals.

    Args:
        meshes: N meshes in the world.
        fragments: the output of the rasteriser.
        lights: batch of N or 1.
        cameras: batch of N or 1.
        materials: batch of N or 1.
        texels: (N, H, W, K, C) texture of the fragments.

    Returns:
        (N, H, W, K, C): (ambient + diffuse) texels + specular. Differentiable.
    """
    # Batches that do not match are refused where they are broadcast.
    is_matching = all(len(properties) in (1, len(meshes)) for properties in (lights, cameras, materials))
    # Finding the fragments that show a face would wait for a GPU, and cannot be traced.
    if not is_matching or not look_is_free(fragments.pix_to_face):
        return _phong_shading_with_pixels(meshes, fragments, lights, cameras, materials, texels)[0]
    shown = (fragments.pix_to_face.reshape(-1) >= 0).nonzero()[:, 0]
    if len(shown) >= _SPARSE * fragments.pix_to_face.numel():
        return _phong_shading_with_pixels(meshes, fragments, lights, cameras, materials, texels)[0]
    factor, specular = _light_shown(meshes, fragments, shown, lights, cameras, materials)
    return factor * texels + specular


def gouraud_shading(meshes: Any, fragments: Any, lights: Any, cameras: Any, materials: Any) -> Tensor:
    """Colours with lighting at each vertex, interpolated to pixels; for meshes with `TexturesVertex`.

    Args:
        meshes: N meshes in the world.
        fragments: the output of the rasteriser.
        lights: batch of N or 1.
        cameras: batch of N or 1.
        materials: batch of N or 1.

    Returns:
        (N, H, W, K, C) colours. Differentiable.
    """
    from recon_engine.ops.interp_face_attrs import interpolate_face_attributes

    if not isinstance(meshes.textures, TexturesVertex):
        raise ValueError(f"Mesh textures must be an instance of TexturesVertex; got {type(meshes.textures)!r}")
    if len(meshes) > 1:
        mesh_of_vert = meshes.verts_packed_to_mesh_idx()
        lights, cameras, materials = (
            properties.clone().gather_props(mesh_of_vert) for properties in (lights, cameras, materials)
        )
    ambient, diffuse, specular = _apply_lighting(
        widened(meshes.verts_packed()), meshes.verts_normals_packed(), lights, cameras, materials
    )
    colors = meshes.textures.verts_features_packed() * (ambient + diffuse) + specular
    return interpolate_face_attributes(fragments.pix_to_face, fragments.bary_coords, colors[meshes.faces_packed()])


def flat_shading(meshes: Any, fragments: Any, lights: Any, cameras: Any, materials: Any, texels: Tensor) -> Tensor:
    """Colours with lighting at the centre and with the normal of each face.

    Args:
        meshes: N meshes in the world.
        fragments: the output of the rasteriser.
        lights: batch of N or 1.
        cameras: batch of N or 1.
        materials: batch of N or 1.
        texels: (N, H, W, K, C) texture of the fragments.

    Returns:
        (N, H, W, K, C): (ambient + diffuse) texels + specular. Differentiable.
    """
    centers = widened(meshes.verts_packed())[meshes.faces_packed()].mean(dim=1)
    normals = meshes.faces_normals_packed()
    # A last row of zeros serves the pixels without a face, whose index is -1.
    attributes = torch.cat((centers, normals), dim=-1)
    attributes = torch.cat((attributes, attributes.new_zeros(1, 6)))
    pixels = attributes[fragments.pix_to_face]
    ambient, diffuse, specular = _apply_lighting(pixels[..., :3], pixels[..., 3:], lights, cameras, materials)
    return (ambient + diffuse) * texels + specular
