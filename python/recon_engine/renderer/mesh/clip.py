"""Clipping of faces at a plane z = constant, and culling of faces outside of a box, before rasterisation.

x and y are in NDC, z is the depth in view space. A face with one vertex behind the plane becomes a quadrilateral, cut
into two triangles; with two vertices behind, a smaller triangle; with three, nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recon_engine._compile import is_traced

_SMALLER_TRIANGLE = (3, 4, 0)
_QUADRILATERAL = ((3, 1, 4), (4, 1, 2))
"""Corners of the pieces: 0 is the vertex alone on its side, 1 and 2 follow it, 3 cuts edge 0-1 and 4 edge 0-2."""


def look_is_free(tensor: Tensor) -> bool:
    """Whether values of the tensor can be read: on the CPU and not traced, where nothing waits for them."""
    return tensor.device.type == "cpu" and not is_traced()


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


def _sorted_out(face_verts: Tensor, frustum: ClipFrustum) -> tuple[Tensor, Tensor]:
    """Which faces are culled, (F,), and which of their vertices lie behind the plane, (F, 3)."""
    culled = _culled(face_verts.detach(), frustum)
    if frustum.z_clip_value is None:
        return culled, culled[:, None].new_zeros((face_verts.shape[0], 3))
    return culled, face_verts.detach()[..., 2] < frustum.z_clip_value


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
    culled, is_behind = _sorted_out(face_verts_unclipped, frustum)
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


def clip_faces_to_fixed_size(
    face_verts_unclipped: Tensor, mesh_to_face_first_idx: Tensor, num_faces_per_mesh: Tensor, frustum: ClipFrustum
) -> ClippedFaces:
    """`clip_faces` in shapes that do not depend on what is cut: it never waits for a device.

    Args:
        face_verts_unclipped: (F, 3, 3), like all arguments as in `clip_faces`.
        mesh_to_face_first_idx: (N,) int64.
        num_faces_per_mesh: (N,) int64.
        frustum: the plane and the box.

    Returns:
        `ClippedFaces` with 2 F rows, of which 2 f and 2 f + 1 belong to face f. A row without a piece holds vertices
        with all coordinates -1, which rasterisers leave out. What is rasterised is the same, ties included.
        Differentiable in the vertices; rows that are not cut carry no gradient but that of their own vertices.
    """
    faces, F = face_verts_unclipped, face_verts_unclipped.shape[0]
    culled, is_behind = _sorted_out(faces, frustum)
    num_behind = is_behind.sum(dim=1).masked_fill(culled, 3)
    is_quad, is_smaller = num_behind == 1, num_behind == 2
    is_cut = is_quad | is_smaller
    # As in `clip_faces`; whole faces stay in their order.
    alone = (is_behind == is_quad[:, None]).long().argmax(dim=1)
    eye = torch.eye(3, dtype=faces.dtype, device=faces.device).expand(F, 3, 3)
    first, second, first_bary, second_bary = faces, faces, eye, eye
    if frustum.z_clip_value is not None:
        # No vertices of equal depth in what is cut, so that nothing divides by zero; a ramp stands for whole faces.
        ramp = torch.arange(3, dtype=faces.dtype, device=faces.device)[:, None].expand(F, 3, 3)
        points, bary = _cut(_where(is_cut, faces, ramp), alone, frustum)
        first, first_bary = (
            _where(
                is_quad,
                _pick(all_five, _QUADRILATERAL[0]),
                _where(is_smaller, _pick(all_five, _SMALLER_TRIANGLE), whole),
            )
            for all_five, whole in ((points, faces), (bary, eye))
        )
        second, second_bary = _pick(points, _QUADRILATERAL[1]), _where(is_quad, _pick(bary, _QUADRILATERAL[1]), eye)
    nothing = torch.full_like(faces, -1.0)
    pieces = torch.stack((_where(num_behind < 3, first, nothing), _where(is_quad, second, nothing)), dim=1)
    row = torch.arange(2 * F, device=faces.device).view(F, 2)
    return ClippedFaces(
        face_verts=pieces.view(2 * F, 3, 3),
        mesh_to_face_first_idx=2 * mesh_to_face_first_idx,
        num_faces_per_mesh=2 * num_faces_per_mesh,
        faces_clipped_to_unclipped_idx=row.view(-1) // 2,
        barycentric_conversion=torch.stack((first_bary, second_bary), dim=1).view(2 * F, 3, 3).transpose(1, 2),
        faces_clipped_to_conversion_idx=row.masked_fill(~is_cut[:, None], -1).view(-1),
        clipped_faces_neighbor_idx=(row ^ 1).masked_fill(~is_quad[:, None], -1).view(-1),
    )


def _where(condition: Tensor, chosen: Tensor, other: Tensor) -> Tensor:
    """Rows (F, 3, 3) of `chosen` where the condition (F,) holds, else those of `other`."""
    return torch.where(condition[:, None, None], chosen, other)


def _pick(points: Tensor, corners: tuple[int, int, int]) -> Tensor:
    """Three of the five points (F, 5, 3), by slices: an index made of numbers would be copied to the device."""
    return torch.stack([points[:, corner] for corner in corners], dim=1)


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
    if not look_is_free(index):
        return pix_to_face, _converted_everywhere(index, is_empty, bary_coords_clipped, conversion, row_of_face)
    rows = row_of_face[index].masked_fill(is_empty, -1).reshape(-1)
    converted = (rows >= 0).nonzero()[:, 0]
    flat = bary_coords_clipped.reshape(-1, 3)
    values = (conversion[rows[converted]] * flat[converted][:, None, :]).sum(dim=-1)
    return pix_to_face, flat.index_copy(0, converted, values).view_as(bary_coords_clipped)


def _converted_everywhere(
    index: Tensor, is_empty: Tensor, bary_coords: Tensor, conversion: Tensor, row_of_face: Tensor
) -> Tensor:
    """The conversion of all pixels, with the identity where there is nothing to convert: nothing is counted."""
    from recon_engine.ops.interp_face_attrs import interpolate_face_attributes

    identity = torch.eye(3, dtype=conversion.dtype, device=conversion.device)
    of_face = conversion.index_select(0, row_of_face.clamp(min=0))
    matrices = torch.where((row_of_face >= 0)[:, None, None], of_face, identity)
    # What is interpolated over a clipped face are the barycentric coordinates of its vertices.
    converted = interpolate_face_attributes(index, bary_coords, matrices.transpose(1, 2))
    return converted.masked_fill(is_empty[..., None], -1.0)
