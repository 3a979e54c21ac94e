"""Clipping of faces at a plane z = constant, and culling of faces outside of a box, before rasterisation.

x and y are in NDC, z is the depth in view space. A face with one vertex behind the plane becomes a quadrilateral, cut
into two triangles; with two vertices behind, a smaller triangle; with three, nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

_SMALLER_TRIANGLE = (3, 4, 0)
_QUADRILATERAL = ((3, 1, 4), (4, 1, 2))
"""Corners of the pieces: 0 is the vertex alone on its side, 1 and 2 follow it, 3 cuts edge 0-1 and 4 edge 0-2."""


class ClippedFaces:
    """Faces after clipping, and how they come from the faces before.

    Attributes:
        face_verts: (F', 3, 3) vertices of the clipped faces.
        mesh_to_face_first_idx: (N,) first clipped face of each mesh.
        num_faces_per_mesh: (N,) number of clipped faces of each mesh.
        faces_clipped_to_unclipped_idx: (F',) original face of each clipped one; None when nothing changed.
        barycentric_conversion: (T, 3, 3); column k holds the barycentric coordinates, in the original face, of vertex k
            of a clipped piece; None when no face was cut.
        faces_clipped_to_conversion_idx: (F',) row of `barycentric_conversion`, -1 for whole faces; None as above.
        clipped_faces_neighbor_idx: (F',) the other triangle of a quadrilateral, else -1; None as above.
    """

    __slots__ = (
        "barycentric_conversion",
        "clipped_faces_neighbor_idx",
        "face_verts",
        "faces_clipped_to_conversion_idx",
        "faces_clipped_to_unclipped_idx",
        "mesh_to_face_first_idx",
        "num_faces_per_mesh",
    )

    def __init__(
        self,
        face_verts: Tensor,
        mesh_to_face_first_idx: Tensor,
        num_faces_per_mesh: Tensor,
        faces_clipped_to_unclipped_idx: Tensor | None = None,
        barycentric_conversion: Tensor | None = None,
        faces_clipped_to_conversion_idx: Tensor | None = None,
        clipped_faces_neighbor_idx: Tensor | None = None,
    ) -> None:
        """Store the attributes, which the class describes."""
        self.face_verts = face_verts
        self.mesh_to_face_first_idx = mesh_to_face_first_idx
        self.num_faces_per_mesh = num_faces_per_mesh
        self.faces_clipped_to_unclipped_idx = faces_clipped_to_unclipped_idx
        self.barycentric_conversion = barycentric_conversion
        self.faces_clipped_to_conversion_idx = faces_clipped_to_conversion_idx
        self.clipped_faces_neighbor_idx = clipped_faces_neighbor_idx


class ClipFrustum:
    """The box to cull to and the plane to clip at; None leaves a side open.

    Attributes:
        left: smallest x in NDC.
        right: largest x in NDC.
        top: smallest y in NDC.
        bottom: largest y in NDC.
        znear: smallest depth.
        zfar: largest depth.
        perspective_correct: whether x and y come from a perspective projection.
        cull: whether faces with all vertices outside one of the six planes are dropped.
        z_clip_value: depth to clip at.
    """

    __slots__ = ("bottom", "cull", "left", "perspective_correct", "right", "top", "z_clip_value", "zfar", "znear")

    def __init__(
        self,
        left: float | None = None,
        right: float | None = None,
        top: float | None = None,
        bottom: float | None = None,
        znear: float | None = None,
        zfar: float | None = None,
        perspective_correct: bool = False,
        cull: bool = True,
        z_clip_value: float | Tensor | None = None,
    ) -> None:
        """Store the attributes, which the class describes."""
        self.left = left
        self.right = right
        self.top = top
        self.bottom = bottom
        self.znear = znear
        self.zfar = zfar
        self.perspective_correct = perspective_correct
        self.cull = cull
        self.z_clip_value = z_clip_value


def _culled(face_verts: Tensor, frustum: ClipFrustum) -> Tensor:
    """Which faces lie outside of one plane of the frustum, (F,) bool.

    The projection flips x and y of a vertex behind the camera, so that these say nothing about such faces.
    """
    culled = face_verts.new_zeros(face_verts.shape[0], dtype=torch.bool)
    if not frustum.cull:
        return culled
    for axis, low, high in ((0, frustum.left, frustum.right), (1, frustum.top, frustum.bottom)):
        if low is not None:
            culled |= (face_verts[..., axis] < low).all(dim=1)
        if high is not None:
            culled |= (face_verts[..., axis] > high).all(dim=1)
    if frustum.perspective_correct:
        culled &= (face_verts[..., 2] > 0).all(dim=1)
    if frustum.znear is not None:
        culled |= (face_verts[..., 2] < frustum.znear).all(dim=1)
    if frustum.zfar is not None:
        culled |= (face_verts[..., 2] > frustum.zfar).all(dim=1)
    return culled


def _cut(faces: Tensor, alone: Tensor, frustum: ClipFrustum) -> tuple[Tensor, Tensor]:
    """The five points of cut faces: three vertices, from the one alone on its side on, and two on the plane.

    Args:
        faces: (T, 3, 3) vertices.
        alone: (T,) which vertex is alone on its side of the plane.
        frustum: gives the plane.

    Returns:
        points: (T, 5, 3). Differentiable in faces, the same for both points on the plane.
        bary: (T, 5, 3) their barycentric coordinates in the faces.
    """
    order = (alone[:, None] + torch.arange(3, device=faces.device)) % 3
    corners = faces.gather(1, order[:, :, None].expand(-1, -1, 3))
    start, ends = corners[:, :1], corners[:, 1:]
    plane = frustum.z_clip_value
    assert plane is not None, "faces are cut only where there is a plane"
    # z is linear along an edge: start.z (1 - w) + end.z w = plane.
    w = (start[..., 2:] - plane) / (start[..., 2:] - ends[..., 2:])
    crossings = start * (1 - w) + ends * w
    if frustum.perspective_correct:
        # x and y times z are linear along an edge in space, x and y themselves are not.
        start_xy, ends_xy = start[..., :2] * start[..., 2:], ends[..., :2] * ends[..., 2:]
        xy = (start_xy * (1 - w) + ends_xy * w) / plane
        crossings = torch.cat((xy, crossings[..., 2:]), dim=-1)
    points = torch.cat((corners, crossings), dim=1)
    corner_bary = torch.eye(3, dtype=faces.dtype, device=faces.device)[order]
    crossing_bary = corner_bary[:, :1] * (1 - w) + corner_bary[:, 1:] * w
    return points, torch.cat((corner_bary, crossing_bary), dim=1)


def clip_faces(
    face_verts_unclipped: Tensor, mesh_to_face_first_idx: Tensor, num_faces_per_mesh: Tensor, frustum: ClipFrustum
) -> ClippedFaces:
    """Keep the part of each face in front of z = `frustum.z_clip_value`, and drop faces outside of the frustum.

    Args:
        face_verts_unclipped: (F, 3, 3) vertices of the faces: x, y in NDC and z in view space.
        mesh_to_face_first_idx: (N,) int64 first face of each mesh.
        num_faces_per_mesh: (N,) int64 number of faces of each mesh.
        frustum: the plane and the box.

    Returns:
        `ClippedFaces`; pieces of a face stand in its place. Differentiable in the vertices. When no face changes, the
        input itself, after one look at the depths. Synchronises on CUDA.
    """
    F = face_verts_unclipped.shape[0]
    device = face_verts_unclipped.device
    culled = _culled(face_verts_unclipped, frustum)
    if frustum.z_clip_value is None:
        is_behind = culled.new_zeros((F, 3))
    else:
        is_behind = face_verts_unclipped.detach()[..., 2] < frustum.z_clip_value
    if not bool(is_behind.any() | culled.any()):
        return ClippedFaces(face_verts_unclipped, mesh_to_face_first_idx, num_faces_per_mesh)

    num_behind = is_behind.sum(dim=1)
    # By number of vertices behind: whole, two pieces, one piece, nothing.
    num_pieces = torch.tensor([1, 2, 1, 0], device=device)[num_behind].masked_fill(culled, 0)
    first_piece = torch.cat((num_pieces.new_zeros(1), num_pieces.cumsum(0)))
    source = torch.arange(F, device=device).repeat_interleave(num_pieces)
    mesh_first = first_piece[mesh_to_face_first_idx]
    mesh_count = first_piece[mesh_to_face_first_idx + num_faces_per_mesh] - mesh_first
    pieces = face_verts_unclipped[source]
    cut = (num_behind[source] > 0).nonzero()[:, 0]
    if cut.shape[0] == 0:
        return ClippedFaces(pieces, mesh_first, mesh_count, source)

    # Rows of the conversion: smaller triangles, then first and then second halves of quadrilaterals.
    halves_before = (num_behind[source[cut]] == 1).long() + (cut != first_piece[source[cut]])
    cut = cut[halves_before.argsort(stable=True)]
    cut_source = source[cut]
    is_quad = num_behind[cut_source] == 1
    is_second = (cut != first_piece[cut_source]).long()
    # The vertex alone on its side is behind the plane in a quadrilateral and in front of it in a smaller triangle.
    alone = (is_behind[cut_source] == is_quad[:, None]).long().argmax(dim=1)
    points, bary = _cut(face_verts_unclipped[cut_source], alone, frustum)
    halves = torch.tensor(_QUADRILATERAL, device=device)[is_second]
    corners = torch.where(is_quad[:, None], halves, torch.tensor(_SMALLER_TRIANGLE, device=device))
    corners = corners[:, :, None].expand(-1, -1, 3)
    pieces = pieces.index_copy(0, cut, points.gather(1, corners))

    nothing = torch.full_like(source, -1)
    other_half = cut + 1 - 2 * is_second
    return ClippedFaces(
        face_verts=pieces,
        mesh_to_face_first_idx=mesh_first,
        num_faces_per_mesh=mesh_count,
        faces_clipped_to_unclipped_idx=source,
        barycentric_conversion=bary.gather(1, corners).transpose(1, 2),
        faces_clipped_to_conversion_idx=nothing.index_copy(0, cut, torch.arange(cut.shape[0], device=device)),
        clipped_faces_neighbor_idx=nothing.index_copy(0, cut, other_half.masked_fill(~is_quad, -1)),
    )


def convert_clipped_rasterization_to_original_faces(
    pix_to_face_clipped: Tensor, bary_coords_clipped: Tensor, clipped_faces: ClippedFaces
) -> tuple[Tensor, Tensor]:
    """Express a rasterisation of clipped faces in terms of the original ones.

    Args:
        pix_to_face_clipped: (N, H, W, K) int64 clipped faces, -1 where there is none.
        bary_coords_clipped: (N, H, W, K, 3) barycentric coordinates in them.
        clipped_faces: the result of `clip_faces`.

    Returns:
        pix_to_face: (N, H, W, K) original faces.
        bary_coords: (N, H, W, K, 3) barycentric coordinates in them. Differentiable.
    """
    source = clipped_faces.faces_clipped_to_unclipped_idx
    if source is None or source.numel() == 0:
        return pix_to_face_clipped, bary_coords_clipped
    is_empty = pix_to_face_clipped < 0
    index = pix_to_face_clipped.clamp(min=0)
    pix_to_face = source[index].masked_fill(is_empty, -1)
    conversion, row_of_face = clipped_faces.barycentric_conversion, clipped_faces.faces_clipped_to_conversion_idx
    if conversion is None or row_of_face is None:
        return pix_to_face, bary_coords_clipped
    rows = row_of_face[index].masked_fill(is_empty, -1).reshape(-1)
    converted = (rows >= 0).nonzero()[:, 0]
    flat = bary_coords_clipped.reshape(-1, 3)
    values = (conversion[rows[converted]] * flat[converted][:, None, :]).sum(dim=-1)
    return pix_to_face, flat.index_copy(0, converted, values).view_as(bary_coords_clipped)
