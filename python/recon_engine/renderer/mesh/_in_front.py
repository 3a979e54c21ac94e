"""Rasterisation in front of a plane where torch.compile traces on the CPU: whether faces are cut is seen when it runs.

Hardly a picture shows faces that reach behind the camera, and room for the pieces of all faces
(`clip_faces_to_fixed_size`) costs more than to rasterise them. A look at the depths tells, but no graph can branch on
it: here it is a part of the op. The ops take the depth of the plane, a tensor of one number, and then their own inputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recon_engine.ops._rasterize_faces import _rasterize_faces
from recon_engine.ops._render_faces import _render_faces
from recon_engine.ops._soft_silhouette import _soft_silhouette

from ._fused import _clip, _Look, _no_lights
from .clip import ClipFrustum, ClippedFaces, clip_faces, convert_clipped_rasterization_to_original_faces
from .rasterize_meshes import reaches_behind

Scene = tuple[Tensor, Tensor, Tensor, Tensor]


def _reaches_behind(plane: Tensor, verts: Tensor, *_: Any) -> bool:
    return reaches_behind(verts, plane)


def _clipped(plane: Tensor, scene: Scene, perspective_correct: bool) -> tuple[ClippedFaces, list[Any]]:
    """The clipped faces, and (verts, faces, first, count, neighbors) as the ops take them."""
    verts, faces, first, count = scene
    frustum = ClipFrustum(perspective_correct=perspective_correct, cull=False, z_clip_value=plane)
    clipped = clip_faces(verts[faces], first, count, frustum)
    corners = clipped.face_verts.reshape(-1, 3)
    rows = torch.arange(len(corners), device=corners.device).view(-1, 3)
    return clipped, [
        corners,
        rows,
        clipped.mesh_to_face_first_idx,
        clipped.num_faces_per_mesh,
        clipped.clipped_faces_neighbor_idx,
    ]


def _rasterize_clipped(plane: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    scene, options = inputs[:4], inputs[5:]
    clipped, faces = _clipped(plane, scene, options[4])
    pix_to_face, zbuf, bary, dists = _rasterize_faces(*faces, *options)
    pix_to_face, bary = convert_clipped_rasterization_to_original_faces(pix_to_face, bary, clipped)
    return pix_to_face, zbuf, bary, dists


def _render_clipped(plane: Tensor, *inputs: Any) -> Tensor:
    scene, (attributes, uvs, maps, map_of_face, lights), options = inputs[:4], inputs[5:10], inputs[10:]
    lighting, texture = options[9:11]
    clipped, faces = _clipped(plane, scene, options[6])
    look = _Look(attributes, lights, lighting, texture, uvs if len(uvs) else None, maps)
    look.map_of_face = map_of_face if texture == "image" else None
    look = _clip(look, scene[1], clipped)
    return _render_faces(
        *faces,
        look.attributes,
        uvs[:0] if look.uvs is None else look.uvs,
        look.maps,
        map_of_face[:0] if look.map_of_face is None else look.map_of_face,
        look.lights,
        *options,
    )


def _silhouette_clipped(plane: Tensor, *inputs: Any) -> Tensor:
    """How clear pixels are, from the alpha of a black picture."""
    scene, (height, width, blur_radius, K, sigma, *options) = inputs[:4], inputs[4:]
    _, faces = _clipped(plane, scene, options[0])
    verts, N = faces[0], len(scene[2])
    black = (
        verts.new_zeros(len(verts), 3),
        verts.new_zeros(0, 3, 2),
        verts.new_zeros(0, 0, 0, 3),
        scene[1].new_zeros(0),
        _no_lights(verts),
        verts.new_tensor([1.0, 100.0]).expand(N, 2),
        verts.new_zeros(3),
    )
    look = ("none", "vertex", "border", False, True, False, sigma, 1.0)
    return 1 - _render_faces(*faces, *black, height, width, blur_radius, K, *options, *look)[..., 3]


rasterize_faces = _rasterize_faces.unless("rasterize_faces_in_front", _reaches_behind, _rasterize_clipped)
render_faces = _render_faces.unless("render_faces_in_front", _reaches_behind, _render_clipped)
soft_silhouette = _soft_silhouette.unless("soft_silhouette_in_front", _reaches_behind, _silhouette_clipped)
