"""Colours of fragments under lights: computed at pixels (Phong), at vertices (Gouraud) or at faces (flat)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .textures import TexturesVertex


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
    diffuse = lights.diffuse(normals=normals, points=points)
    specular = lights.specular(
        normals=normals,
        points=points,
        camera_position=cameras.get_camera_center(),
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
    return _phong_shading_with_pixels(meshes, fragments, lights, cameras, materials, texels)[0]


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
        meshes.verts_packed(), meshes.verts_normals_packed(), lights, cameras, materials
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
    centers = meshes.verts_packed()[meshes.faces_packed()].mean(dim=1)
    normals = meshes.faces_normals_packed()
    # A last row of zeros serves the pixels without a face, whose index is -1.
    attributes = torch.cat((centers, normals), dim=-1)
    attributes = torch.cat((attributes, attributes.new_zeros(1, 6)))
    pixels = attributes[fragments.pix_to_face]
    ambient, diffuse, specular = _apply_lighting(pixels[..., :3], pixels[..., 3:], lights, cameras, materials)
    return (ambient + diffuse) * texels + specular
