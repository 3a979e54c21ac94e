from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from recon_engine._op import Op, empty_output
from recon_engine.ops._raster_reference import rasterize_reference
from recon_engine.ops._rasterize_faces import checked_size
from recon_engine.ops._softmax_blend import _reference as softmax_blend_reference

LIGHT_SIZE = 16
"""Numbers in a row of `lights` for lighting at points."""


def render_faces(
    verts: Tensor,
    faces: Tensor,
    mesh_to_face_first_idx: Tensor,
    num_faces_per_mesh: Tensor,
    clipped_faces_neighbor_idx: Tensor | None,
    attributes: Tensor,
    uvs: Tensor,
    maps: Tensor,
    map_of_face: Tensor,
    lights: Tensor,
    planes: Tensor,
    background: Tensor,
    image_size: tuple[int, int],
    blur_radius: float,
    faces_per_pixel: int,
    perspective_correct: bool,
    clip_barycentric_coords: bool,
    cull_backfaces: bool,
    lighting: str,
    texture: str,
    padding: str,
    nearest: bool,
    align_corners: bool,
    hard: bool,
    sigma: float,
    gamma: float,
) -> Tensor:
    """Images of textured, lit faces: rasterisation, texture, lighting and blending in one pass.

    The same as `rasterize_faces`, interpolation, shading and `softmax_blend` (or the nearest face alone) after each
    other, without ever writing the K fragments of a pixel.

    Args:
        verts: (V, 3) x and y in NDC (+x left, +y up, the shorter image side spans [-1, 1]), z in view space.
        faces: (F, 3) int64 indices into `verts`.
        mesh_to_face_first_idx: (N,) int64, the first face of each mesh.
        num_faces_per_mesh: (N,) int64, how many faces follow it.
        clipped_faces_neighbor_idx: (F,) int64 or None, as in `rasterize_faces`.
        attributes: (V, A) what is interpolated over the faces: where points are lit their positions and normals (6),
            then for the texture "vertex" their colours (3).
        uvs: (F, 3, 2) uv coordinates of the corners for the texture "image"; for "atlas" two barycentric coordinates of
            the corners in the face that the texels belong to, or (0, 3, 2) where that is the face itself.
        maps: (M, H, W, 3) the images, or (M, R, R, 3) texels of faces for the texture "atlas", else (0, 0, 0, 3).
        map_of_face: (F,) int64 which map a face shows, or (0,) without `uvs`: then each face shows its own.
        lights: for the lighting "none" (0, 0); for "face" (F, 6), a factor of the texture and the colour that is added
            to it; else (N, 16): the colours of the ambient, diffuse and specular light times those of the material, the
            direction towards the light or its position, the position of the camera, the shininess.
        planes: (N, 2) depths of the near and the far plane; used by soft blending.
        background: (3,) colour of the background.
        image_size: (H, W) in pixels.
        blur_radius: squared NDC distance by which faces are dilated.
        faces_per_pixel: K; of the faces that hit a pixel the K nearest count.
        perspective_correct: interpolate depth and barycentric coordinates in world space.
        clip_barycentric_coords: clamp barycentric coordinates of pixels outside a face to the face.
        cull_backfaces: skip faces whose vertices run clockwise in NDC.
        lighting: "none", "face", "ambient", "directional" or "point".
        texture: "vertex", "image" or "atlas".
        padding: "zeros", "border" or "reflection", for uv outside [0, 1].
        nearest: the nearest texel instead of the four around a place.
        align_corners: whether uv 0 and 1 are centres of the outer texels, and not their outer edges.
        hard: the nearest face alone gives the colour, and alpha is 0 or 1.
        sigma: softness of the edges, a squared NDC distance; positive.
        gamma: softness of the order in depth; positive.

    Returns:
        image: (N, H, W, 4) colour and alpha.

    Differentiable in `verts`, `attributes`, `uvs`, `maps` and `lights`; also in `planes` and `background`, slowly. CPU
    and CUDA, float32 and float64.

    Cost: memory for the image, whatever K is; the backward pass finds the hits again.

    Raises:
        RuntimeError: for a gradient of `maps` on CUDA under `torch.use_deterministic_algorithms(True)`.
        ValueError: as `rasterize_faces`, and for tables whose shapes do not fit texture and lighting.

    References:
        Liu et al., Soft Rasterizer, ICCV 2019; Phong, Illumination for Computer Generated Pictures, CACM 1975.
    """
    height, width, K = checked_size(image_size, faces_per_pixel)
    if verts.is_cuda and torch.are_deterministic_algorithms_enabled():
        corners = faces.flatten()
        verts, attributes = verts[corners], attributes[corners]
        faces = torch.arange(len(corners), device=faces.device).view(-1, 3)
    return _render_faces(
        verts,
        faces,
        mesh_to_face_first_idx,
        num_faces_per_mesh,
        clipped_faces_neighbor_idx,
        attributes,
        uvs,
        maps,
        map_of_face,
        lights,
        planes,
        background,
        height,
        width,
        float(blur_radius),
        K,
        perspective_correct,
        clip_barycentric_coords,
        cull_backfaces,
        lighting,
        texture,
        padding,
        nearest,
        align_corners,
        hard,
        float(sigma),
        float(gamma),
    )


def _reference(
    verts: Tensor,
    faces: Tensor,
    first: Tensor,
    count: Tensor,
    neighbors: Tensor | None,
    attributes: Tensor,
    uvs: Tensor,
    maps: Tensor,
    map_of_face: Tensor,
    lights: Tensor,
    planes: Tensor,
    background: Tensor,
    height: int,
    width: int,
    blur_radius: float,
    faces_per_pixel: int,
    perspective_correct: bool,
    clip_barycentric_coords: bool,
    cull_backfaces: bool,
    lighting: str,
    texture: str,
    padding: str,
    nearest: bool,
    align_corners: bool,
    hard: bool,
    sigma: float,
    gamma: float,
) -> Tensor:
    options = (perspective_correct, clip_barycentric_coords, cull_backfaces)
    K = 1 if hard else faces_per_pixel
    pix_to_face, zbuf, bary, dists = rasterize_reference(
        verts, faces, first, count, neighbors, (height, width), blur_radius, K, *options
    )
    shown = (pix_to_face >= 0).nonzero(as_tuple=True)
    face, weights = pix_to_face[shown], bary[shown]
    values = (weights[..., None] * attributes[faces[face]]).sum(1)
    if texture == "vertex":
        texels = values[:, -3:]
    elif texture == "image":
        uv = (weights[..., None] * uvs[face]).sum(1)
        texels = _look_up(maps, map_of_face[face], uv, padding, nearest, align_corners)
    else:
        if len(uvs):
            texels = _look_up_atlas(maps, map_of_face[face], (weights.detach()[..., None] * uvs[face].detach()).sum(1))
        else:
            texels = _look_up_atlas(maps, face, weights.detach())
    colors = _light(texels, values, face, shown[0], lights, lighting)
    every = colors.new_zeros(*pix_to_face.shape, 3).index_put(shown, colors)
    if not hard:
        return softmax_blend_reference(every, pix_to_face, zbuf, dists, planes, background, sigma, gamma)
    is_face = pix_to_face[..., :1] >= 0
    return torch.cat([torch.where(is_face, every[..., 0, :], background), is_face.to(every.dtype)], -1)


def _look_up(maps: Tensor, index: Tensor, uv: Tensor, padding: str, nearest: bool, align_corners: bool) -> Tensor:
    """The images `index` (P,) at `uv` (P, 2): each image at all places, of which one is taken."""
    xy = torch.stack([2 * uv[:, 0] - 1, 1 - 2 * uv[:, 1]], -1)
    P, M = len(uv), len(maps)
    if P == 0:
        return maps.new_zeros(0, 3)
    mode = "nearest" if nearest else "bilinear"
    sampled = F.grid_sample(maps.permute(0, 3, 1, 2), xy.expand(M, 1, P, 2), mode, padding, align_corners)
    return sampled[index, :, 0, torch.arange(P, device=uv.device)]


def _look_up_atlas(atlas: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    R = atlas.shape[1]
    w01 = weights[:, :2]
    cell = (w01 * R).long().clamp(0, max(R - 1, 0))
    corner = cell.sum(1, keepdim=True)
    # The cells at the border w0 + w1 = 1 have a lower half only, whatever rounding makes of the sum.
    is_lower = (w01.sum(1, keepdim=True) * R - corner <= 1) | (corner == R - 1)
    column, row = torch.where(is_lower, cell, R - 1 - cell).unbind(1)
    return atlas[index, row, column]


def _light(texels: Tensor, values: Tensor, face: Tensor, image: Tensor, lights: Tensor, lighting: str) -> Tensor:
    """The colours of points with `texels` (P, 3) and interpolated `values` (P, A)."""
    if lighting == "none":
        return texels
    if lighting == "face":
        return texels * lights[face, :3] + lights[face, 3:]
    ambient, diffuse, specular, place, eye = lights[image, :15].unflatten(1, (5, 3)).unbind(1)
    if lighting == "ambient":
        return texels * ambient
    point, normal = values[:, :3], F.normalize(values[:, 3:6], dim=1, eps=1e-6)
    to_light = F.normalize(place - point if lighting == "point" else place, dim=1, eps=1e-6)
    cosine = (normal * to_light).sum(1, keepdim=True)
    reflected = 2 * cosine * normal - to_light
    alignment = F.relu((F.normalize(eye - point, dim=1, eps=1e-6) * reflected).sum(1, keepdim=True)) * (cosine > 0)
    return texels * (ambient + diffuse * F.relu(cosine)) + specular * alignment ** lights[image, 15:]


def _outputs(
    verts: Tensor,
    faces: Tensor,
    mesh_to_face_first_idx: Tensor,
    num_faces_per_mesh: Tensor,
    clipped_faces_neighbor_idx: Tensor | None,
    attributes: Tensor,
    uvs: Tensor,
    maps: Tensor,
    map_of_face: Tensor,
    lights: Tensor,
    planes: Tensor,
    background: Tensor,
    height: int,
    width: int,
    blur_radius: float,
    faces_per_pixel: int,
    perspective_correct: bool,
    clip_barycentric_coords: bool,
    cull_backfaces: bool,
    lighting: str,
    texture: str,
    padding: str,
    nearest: bool,
    align_corners: bool,
    hard: bool,
    sigma: float,
    gamma: float,
) -> Tensor:
    return empty_output(verts, (mesh_to_face_first_idx.shape[0], height, width, 4))


_render_faces = Op("render_faces", _outputs, _reference, optional_grads=True, constants=["planes", "background"])
