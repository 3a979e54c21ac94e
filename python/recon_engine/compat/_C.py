"""PyTorch3D's compiled module: the functions of `pytorch3d._C`, with its names and order of arguments, on our kernels.

Programs that call it directly, and PyTorch3D's own Python files under `recon_engine.compat.accelerate`, find here what
they expect. Functions come in pairs of a forward and a backward, and none takes part in autograd. Arguments that choose
one of PyTorch3D's kernels (`bin_size`, `max_faces_per_bin`, `version`) are accepted and change nothing. All work on the
CPU and on CUDA, in float32 and float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recon_engine.compat._coarse import rasterize_meshes_coarse as _rasterize_meshes_coarse
from recon_engine.compat._coarse import rasterize_points_coarse as _rasterize_points_coarse
from recon_engine.compat._spheres import MAX_UINT, PulsarRenderer, pulsar_sphere_ids_from_result_info_nograd
from recon_engine.ops._composite import _composite, as_stored, composite
from recon_engine.ops._interpolate_face_attributes import _interpolate_face_attributes
from recon_engine.ops._nearest import _nearest, nearest
from recon_engine.ops._point_mesh import _point_mesh, closest_weights, point_mesh
from recon_engine.ops._rasterize_faces import _rasterize_faces, rasterize_faces
from recon_engine.ops._rasterize_points import _rasterize_points
from recon_engine.ops._rasterize_points import rasterize_points as _rasterize_packed_points
from recon_engine.ops._sample_pdf import sample_pdf_at
from recon_engine.ops._sigmoid_alpha_blend import _sigmoid_alpha_blend
from recon_engine.ops.ball_query import _ball_query
from recon_engine.ops.graph_conv import gather_scatter as _gather_scatter
from recon_engine.ops.iou_box3d import _overlap
from recon_engine.ops.marching_cubes import marching_cubes as _marching_cubes
from recon_engine.ops.mesh_face_areas_normals import _face_areas_normals
from recon_engine.ops.packed_to_padded import _packed_to_padded, _padded_to_packed
from recon_engine.ops.points_to_volumes import _votes
from recon_engine.ops.sample_farthest_points import _sample

__all__ = [
    "EPS",
    "MAX_FLOAT",
    "MAX_INT",
    "MAX_UINT",
    "MAX_USHORT",
    "PULSAR_MAX_GRAD_SPHERES",
    "PulsarRenderer",
    "_rasterize_meshes_coarse",
    "_rasterize_meshes_fine",
    "_rasterize_meshes_naive",
    "_rasterize_points_coarse",
    "_rasterize_points_naive",
    "accum_alphacomposite",
    "accum_alphacomposite_backward",
    "accum_weightedsum",
    "accum_weightedsum_backward",
    "accum_weightedsumnorm",
    "accum_weightedsumnorm_backward",
    "ball_query",
    "edge_point_dist_backward",
    "edge_point_dist_forward",
    "face_areas_normals_backward",
    "face_areas_normals_forward",
    "face_point_dist_backward",
    "face_point_dist_forward",
    "gather_scatter",
    "interp_face_attrs_backward",
    "interp_face_attrs_forward",
    "iou_box3d",
    "knn_check_version",
    "knn_points_backward",
    "knn_points_idx",
    "marching_cubes",
    "mesh_normal_consistency_find_verts",
    "packed_to_padded",
    "padded_to_packed",
    "point_edge_array_dist_backward",
    "point_edge_array_dist_forward",
    "point_edge_dist_backward",
    "point_edge_dist_forward",
    "point_face_array_dist_backward",
    "point_face_array_dist_forward",
    "point_face_dist_backward",
    "point_face_dist_forward",
    "points_to_volumes_backward",
    "points_to_volumes_forward",
    "pulsar_sphere_ids_from_result_info_nograd",
    "rasterize_meshes",
    "rasterize_meshes_backward",
    "rasterize_points",
    "rasterize_points_backward",
    "sample_farthest_points",
    "sample_pdf",
    "sigmoid_alpha_blend",
    "sigmoid_alpha_blend_backward",
]

EPS = 1e-06
MAX_FLOAT = 3.3999999521443642e38
MAX_INT = 2147483647
MAX_USHORT = 65535
PULSAR_MAX_GRAD_SPHERES = 128

_MIN_TRIANGLE_AREA = 5e-3  # programs for older versions do not pass one

Pair = tuple[Tensor, Tensor]


# ---- meshes ----


@torch.no_grad()
def face_areas_normals_forward(verts: Tensor, faces: Tensor) -> Pair:
    """Areas (F,) and unit normals (F, 3)."""
    areas, normals = _face_areas_normals(verts, faces)
    return areas, normals


@torch.no_grad()
def face_areas_normals_backward(grad_areas: Tensor, grad_normals: Tensor, verts: Tensor, faces: Tensor) -> Tensor:
    """The gradient of the vertices (V, 3)."""
    outputs = _face_areas_normals(verts, faces)
    return _one(_face_areas_normals.gradients([verts, faces], outputs, [grad_areas, grad_normals], [True]))


@torch.no_grad()
def packed_to_padded(inputs_packed: Tensor, first_idxs: Tensor, max_size: int) -> Tensor:
    """(F, D) rows to (N, max_size, D)."""
    padded: Tensor = _packed_to_padded(inputs_packed, first_idxs, max_size)
    return padded


@torch.no_grad()
def padded_to_packed(inputs_padded: Tensor, first_idxs: Tensor, num_inputs: int) -> Tensor:
    """(N, S, D) rows to (num_inputs, D)."""
    packed: Tensor = _padded_to_packed(inputs_padded, first_idxs, num_inputs)
    return packed


@torch.no_grad()
def interp_face_attrs_forward(pix_to_face: Tensor, barycentric_coords: Tensor, face_attrs: Tensor) -> Tensor:
    """(P,) faces, (P, 3) coordinates and (F, 3, D) attributes to (P, D)."""
    shape = (len(pix_to_face), 1, 1, 1)
    values: Tensor = _interpolate_face_attributes(
        pix_to_face.view(shape), barycentric_coords.reshape(*shape, 3), face_attrs
    )
    return values.view(len(pix_to_face), face_attrs.shape[2])


@torch.no_grad()
def interp_face_attrs_backward(
    pix_to_face: Tensor, barycentric_coords: Tensor, face_attrs: Tensor, grad_pix_attrs: Tensor
) -> Pair:
    """The gradients of the coordinates (P, 3) and of the attributes (F, 3, D)."""
    shape = (len(pix_to_face), 1, 1, 1)
    inputs = [pix_to_face.view(shape), barycentric_coords.reshape(*shape, 3), face_attrs]
    grad = grad_pix_attrs.reshape(*shape, face_attrs.shape[2])
    grad_bary, grad_attrs = _two(_interpolate_face_attributes.gradients(inputs, [], [grad], [True, True]))
    return grad_bary.view(barycentric_coords.shape), grad_attrs


@torch.no_grad()
def gather_scatter(input: Tensor, edges: Tensor, directed: bool, backward: bool) -> Tensor:
    """Sums of the rows of neighbours, (V, D); along the edges turned around where `backward`."""
    return _gather_scatter(input, edges.flip(1) if backward and directed else edges, directed)


def mesh_normal_consistency_find_verts(edge_num: Tensor) -> Tensor:
    """All pairs (P, 2) of things that share an edge, where `edge_num` (E,) things in a row lie on each edge."""
    first = torch.repeat_interleave(edge_num.cumsum(0) - edge_num, edge_num)
    things = torch.arange(len(first), device=edge_num.device)
    before = things - first  # how many things of the same edge come first: each of them makes a pair
    second = torch.repeat_interleave(things, before)
    place = torch.arange(len(second), device=edge_num.device) - torch.repeat_interleave(
        before.cumsum(0) - before, before
    )
    return torch.stack([first[second] + place, second], 1)


@torch.no_grad()
def marching_cubes(vol: Tensor, isolevel: float) -> tuple[Tensor, Tensor, Tensor]:
    """Vertices (V, 3) in units of the grid, faces (F, 3), and a different number for each vertex."""
    (verts,), (faces,) = _marching_cubes(vol[None], isolevel, return_local_coords=False)
    return verts, faces, torch.arange(len(verts), device=vol.device)


@torch.no_grad()
def iou_box3d(boxes1: Tensor, boxes2: Tensor) -> Pair:
    """Shared volumes and their share of the union (N, M) of boxes (N, 8, 3) and (M, 8, 3)."""
    volumes, iou = _overlap(boxes1, boxes2)
    return volumes, iou


# ---- neighbours ----


def knn_check_version(version: int, D: int, K: int) -> bool:
    """Whether PyTorch3D's CUDA kernel `version` takes D dimensions and K neighbours; ours takes any."""
    limits = ((D, K), (32, K), (8, 32), (8, 4))
    if not 0 <= version < len(limits):
        return False
    if version == 0:
        return True
    most_dims, most_neighbours = limits[version]
    return 1 <= D <= most_dims and (version == 1 or 1 <= K <= most_neighbours)


@torch.no_grad()
def knn_points_idx(
    p1: Tensor, p2: Tensor, lengths1: Tensor, lengths2: Tensor, norm: int, K: int, version: int = -1
) -> Pair:
    """Indices and distances (N, P1, K), nearest first."""
    dists, idx = nearest(p1, p2, lengths1, lengths2, norm=norm, K=K)
    return idx, dists


@torch.no_grad()
def knn_points_backward(
    p1: Tensor, p2: Tensor, lengths1: Tensor, lengths2: Tensor, idxs: Tensor, norm: int, grad_dists: Tensor
) -> Pair:
    """The gradients of both point sets. Slots from the first negative index on have none: it serves balls as well."""
    inputs = [p1, p2, lengths1, lengths2, None, norm == 1, idxs.shape[2]]
    return _two(_nearest.gradients(inputs, [idxs.contiguous()], [grad_dists], [True, True]))


@torch.no_grad()
def ball_query(
    p1: Tensor,
    p2: Tensor,
    lengths1: Tensor,
    lengths2: Tensor,
    K: int,
    radius: float,
    skip_points_outside_cube: bool = False,
) -> Pair:
    """Indices and squared distances (N, P1, K) of the first K points in each ball."""
    dists, idx = _ball_query(p1, p2, lengths1, lengths2, K, float(radius))
    return idx, dists


@torch.no_grad()
def sample_farthest_points(
    points: Tensor, lengths: Tensor, K: Tensor, start_idxs: Tensor, max_K_known: int = -1
) -> Tensor:
    """Indices (N, max K), -1 beyond the K of a cloud."""
    size = max_K_known if max_K_known > 0 else int(K.max()) if len(K) else 0
    idx: Tensor = _sample(points, lengths, K, start_idxs, size)
    return idx


# ---- points and meshes ----


@torch.no_grad()
def point_face_dist_forward(
    points: Tensor,
    points_first_idx: Tensor,
    tris: Tensor,
    tris_first_idx: Tensor,
    max_points: int,
    min_triangle_area: float = _MIN_TRIANGLE_AREA,
) -> Pair:
    """Squared distances (P,) of points to the closest triangles, and which those are."""
    return point_mesh(points, points_first_idx, tris, tris_first_idx, min_area=min_triangle_area)


@torch.no_grad()
def face_point_dist_forward(
    points: Tensor,
    points_first_idx: Tensor,
    tris: Tensor,
    tris_first_idx: Tensor,
    max_tris: int,
    min_triangle_area: float = _MIN_TRIANGLE_AREA,
) -> Pair:
    """Squared distances (T,) of triangles to the closest points, and which those are."""
    return point_mesh(points, points_first_idx, tris, tris_first_idx, from_points=False, min_area=min_triangle_area)


@torch.no_grad()
def point_edge_dist_forward(
    points: Tensor, points_first_idx: Tensor, segms: Tensor, segms_first_idx: Tensor, max_points: int
) -> Pair:
    """Squared distances (P,) of points to the closest segments, and which those are."""
    return point_mesh(points, points_first_idx, segms, segms_first_idx)


@torch.no_grad()
def edge_point_dist_forward(
    points: Tensor, points_first_idx: Tensor, segms: Tensor, segms_first_idx: Tensor, max_segms: int
) -> Pair:
    """Squared distances (S,) of segments to the closest points, and which those are."""
    return point_mesh(points, points_first_idx, segms, segms_first_idx, from_points=False)


@torch.no_grad()
def point_face_dist_backward(
    points: Tensor, tris: Tensor, idx_points: Tensor, grad_dists: Tensor, min_triangle_area: float = _MIN_TRIANGLE_AREA
) -> Pair:
    """The gradients of the points and the triangles."""
    return _point_mesh_backward(points, tris, idx_points, grad_dists, True, min_triangle_area)


@torch.no_grad()
def face_point_dist_backward(
    points: Tensor, tris: Tensor, idx_tris: Tensor, grad_dists: Tensor, min_triangle_area: float = _MIN_TRIANGLE_AREA
) -> Pair:
    """The gradients of the points and the triangles."""
    return _point_mesh_backward(points, tris, idx_tris, grad_dists, False, min_triangle_area)


@torch.no_grad()
def point_edge_dist_backward(points: Tensor, segms: Tensor, idx_points: Tensor, grad_dists: Tensor) -> Pair:
    """The gradients of the points and the segments."""
    return _point_mesh_backward(points, segms, idx_points, grad_dists, True, 0.0)


@torch.no_grad()
def edge_point_dist_backward(points: Tensor, segms: Tensor, idx_segms: Tensor, grad_dists: Tensor) -> Pair:
    """The gradients of the points and the segments."""
    return _point_mesh_backward(points, segms, idx_segms, grad_dists, False, 0.0)


def _point_mesh_backward(
    points: Tensor, simplices: Tensor, idx: Tensor, grad_dists: Tensor, from_points: bool, min_area: float
) -> Pair:
    # Indices count through the batch, so that its elements need not be known here.
    first = torch.zeros(1, dtype=torch.int64, device=points.device)
    inputs = [points, first, simplices, first, from_points, float(min_area)]
    return _two(_point_mesh.gradients(inputs, [idx.contiguous()], [grad_dists], [True, True]))


def point_face_array_dist_forward(
    points: Tensor, tris: Tensor, min_triangle_area: float = _MIN_TRIANGLE_AREA
) -> Tensor:
    """Squared distances (P, T) of every point to every triangle."""
    return _all_distances(points, tris, min_triangle_area)


def point_face_array_dist_backward(
    points: Tensor, tris: Tensor, grad_dists: Tensor, min_triangle_area: float = _MIN_TRIANGLE_AREA
) -> Pair:
    """The gradients of the points and the triangles."""
    return _all_distances_backward(points, tris, grad_dists, min_triangle_area)


def point_edge_array_dist_forward(points: Tensor, segms: Tensor) -> Tensor:
    """Squared distances (P, S) of every point to every segment."""
    return _all_distances(points, segms, 0.0)


def point_edge_array_dist_backward(points: Tensor, segms: Tensor, grad_dists: Tensor) -> Pair:
    """The gradients of the points and the segments."""
    return _all_distances_backward(points, segms, grad_dists, 0.0)


_PAIRS_AT_ONCE = 1 << 20


def _all_distances(points: Tensor, simplices: Tensor, min_area: float) -> Tensor:
    rows = max(_PAIRS_AT_ONCE // max(len(simplices), 1), 1)
    with torch.no_grad():
        parts = [_distances(part, simplices, min_area) for part in points.split(rows)]
    return torch.cat(parts) if parts else points.new_zeros(0, len(simplices))


def _all_distances_backward(points: Tensor, simplices: Tensor, grad_dists: Tensor, min_area: float) -> Pair:
    rows = max(_PAIRS_AT_ONCE // max(len(simplices), 1), 1)
    grad_points, grad_simplices = [], torch.zeros_like(simplices)
    for part, grad in zip(points.split(rows), grad_dists.split(rows)):
        with torch.enable_grad():
            leaves = part.detach().requires_grad_(), simplices.detach().requires_grad_()
            of_points, of_simplices = torch.autograd.grad(_distances(*leaves, min_area), leaves, grad)
        grad_points.append(of_points)
        grad_simplices += of_simplices
    return torch.cat(grad_points) if grad_points else torch.zeros_like(points), grad_simplices


def _distances(points: Tensor, simplices: Tensor, min_area: float) -> Tensor:
    corners = simplices[None] - points[:, None, None]
    # Where the closest point moves along the simplex the distance does not change: its weights are constants.
    weights = closest_weights(corners.detach(), min_area)
    return (weights[..., None, :] @ corners)[..., 0, :].square().sum(-1)


# ---- rasterising and compositing ----


@torch.no_grad()
def rasterize_meshes(
    face_verts: Tensor,
    mesh_to_face_first_idx: Tensor,
    num_faces_per_mesh: Tensor,
    clipped_faces_neighbor_idx: Tensor,
    image_size: tuple[int, int],
    blur_radius: float,
    faces_per_pixel: int,
    bin_size: int,
    max_faces_per_bin: int,
    perspective_correct: bool,
    clip_barycentric_coords: bool,
    cull_backfaces: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """pix_to_face, zbuf, barycentric coordinates and distances (N, H, W, K[, 3]) of faces (F, 3, 3)."""
    return _rasterize_meshes_naive(
        face_verts,
        mesh_to_face_first_idx,
        num_faces_per_mesh,
        clipped_faces_neighbor_idx,
        image_size,
        blur_radius,
        faces_per_pixel,
        perspective_correct,
        clip_barycentric_coords,
        cull_backfaces,
    )


@torch.no_grad()
def _rasterize_meshes_naive(
    face_verts: Tensor,
    mesh_to_face_first_idx: Tensor,
    num_faces_per_mesh: Tensor,
    clipped_faces_neighbor_idx: Tensor,
    image_size: tuple[int, int],
    blur_radius: float,
    faces_per_pixel: int,
    perspective_correct: bool,
    clip_barycentric_coords: bool,
    cull_backfaces: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    verts, faces = _as_mesh(face_verts)
    return rasterize_faces(
        verts,
        faces,
        mesh_to_face_first_idx,
        num_faces_per_mesh,
        clipped_faces_neighbor_idx,
        image_size,
        blur_radius,
        faces_per_pixel,
        perspective_correct,
        clip_barycentric_coords,
        cull_backfaces,
    )


@torch.no_grad()
def _rasterize_meshes_fine(
    face_verts: Tensor,
    bin_faces: Tensor,
    clipped_faces_neighbor_idx: Tensor,
    image_size: tuple[int, int],
    blur_radius: float,
    bin_size: int,
    faces_per_pixel: int,
    perspective_correct: bool,
    clip_barycentric_coords: bool,
    cull_backfaces: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    # A mesh is a row of faces: the faces of the bins of an image are those from the first to the last of them.
    listed = bin_faces.flatten(1).long()
    last = listed.amax(1)
    first = torch.where(listed < 0, last[:, None], listed).amin(1).clamp(min=0)
    return _rasterize_meshes_naive(
        face_verts,
        first,
        torch.where(last < 0, 0, last + 1 - first),
        clipped_faces_neighbor_idx,
        image_size,
        blur_radius,
        faces_per_pixel,
        perspective_correct,
        clip_barycentric_coords,
        cull_backfaces,
    )


@torch.no_grad()
def rasterize_meshes_backward(
    face_verts: Tensor,
    pix_to_face: Tensor,
    grad_zbuf: Tensor,
    grad_bary: Tensor,
    grad_dists: Tensor,
    perspective_correct: bool,
    clip_barycentric_coords: bool,
) -> Tensor:
    """The gradient of the faces (F, 3, 3)."""
    verts, faces = _as_mesh(face_verts)
    N, height, width, K = pix_to_face.shape
    first = torch.zeros(N, dtype=torch.int64, device=verts.device)
    # The hits are known: neither which mesh a face belongs to nor how far it is blurred matters any more.
    inputs = [verts, faces, first, first, None, height, width, 0.0, K]
    inputs += [perspective_correct, clip_barycentric_coords, False]
    grads = [grad_zbuf, grad_bary, grad_dists]
    return _one(_rasterize_faces.gradients(inputs, [pix_to_face.contiguous()], grads, [True])).view_as(face_verts)


def _as_mesh(face_verts: Tensor) -> Pair:
    if face_verts.ndim != 3 or face_verts.shape[1:] != (3, 3):
        raise RuntimeError(f"face_verts must have dimensions (num_faces, 3, 3), got {tuple(face_verts.shape)}")
    verts = face_verts.reshape(-1, 3)
    return verts, torch.arange(len(verts), device=verts.device).view(-1, 3)


@torch.no_grad()
def rasterize_points(
    points: Tensor,
    cloud_to_packed_first_idx: Tensor,
    num_points_per_cloud: Tensor,
    image_size: tuple[int, int],
    radius: Tensor,
    points_per_pixel: int,
    bin_size: int,
    max_points_per_bin: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Idx (int32), zbuf and squared distances (N, H, W, K) of points (P, 3)."""
    return _rasterize_points_naive(
        points, cloud_to_packed_first_idx, num_points_per_cloud, image_size, radius, points_per_pixel
    )


@torch.no_grad()
def _rasterize_points_naive(
    points: Tensor,
    cloud_to_packed_first_idx: Tensor,
    num_points_per_cloud: Tensor,
    image_size: tuple[int, int],
    radius: Tensor,
    points_per_pixel: int,
) -> tuple[Tensor, Tensor, Tensor]:
    return _rasterize_packed_points(
        points, cloud_to_packed_first_idx, num_points_per_cloud, radius, image_size, points_per_pixel
    )


@torch.no_grad()
def rasterize_points_backward(points: Tensor, idxs: Tensor, grad_zbuf: Tensor, grad_dists: Tensor) -> Tensor:
    """The gradient of the points (P, 3)."""
    N, height, width, K = idxs.shape
    first = torch.zeros(N, dtype=torch.int64, device=points.device)
    inputs = [points, first, first, points.new_zeros(len(points)), height, width, K]
    return _one(_rasterize_points.gradients(inputs, [idxs.int().contiguous()], [grad_zbuf, grad_dists], [True]))


@torch.no_grad()
def sigmoid_alpha_blend(distances: Tensor, pix_to_face: Tensor, sigma: float) -> Tensor:
    """Opacities (N, H, W)."""
    clear: Tensor = _sigmoid_alpha_blend(distances, pix_to_face, sigma)
    return 1 - clear


@torch.no_grad()
def sigmoid_alpha_blend_backward(
    grad_alphas: Tensor, alphas: Tensor, distances: Tensor, pix_to_face: Tensor, sigma: float
) -> Tensor:
    """The gradient of the distances (N, H, W, K)."""
    inputs = [distances, pix_to_face, sigma]
    return _one(_sigmoid_alpha_blend.gradients(inputs, [(1 - alphas).contiguous()], [-grad_alphas], [True]))


def accum_alphacomposite(features: Tensor, alphas: Tensor, points_idx: Tensor) -> Tensor:
    """Images (N, C, H, W) of features (C, P), each point in front of the next."""
    return _accumulated(features, alphas, points_idx, "alpha")


def accum_alphacomposite_backward(grad_outputs: Tensor, features: Tensor, alphas: Tensor, points_idx: Tensor) -> Pair:
    """The gradients of features and alphas."""
    return _accumulated_backward(grad_outputs, features, alphas, points_idx, "alpha")


def accum_weightedsum(features: Tensor, alphas: Tensor, points_idx: Tensor) -> Tensor:
    """Images (N, C, H, W) of features (C, P), added up."""
    return _accumulated(features, alphas, points_idx, "weighted")


def accum_weightedsum_backward(grad_outputs: Tensor, features: Tensor, alphas: Tensor, points_idx: Tensor) -> Pair:
    """The gradients of features and alphas."""
    return _accumulated_backward(grad_outputs, features, alphas, points_idx, "weighted")


def accum_weightedsumnorm(features: Tensor, alphas: Tensor, points_idx: Tensor) -> Tensor:
    """Images (N, C, H, W) of features (C, P), averaged with the alphas as weights."""
    return _accumulated(features, alphas, points_idx, "norm_weighted")


def accum_weightedsumnorm_backward(grad_outputs: Tensor, features: Tensor, alphas: Tensor, points_idx: Tensor) -> Pair:
    """The gradients of features and alphas."""
    return _accumulated_backward(grad_outputs, features, alphas, points_idx, "norm_weighted")


@torch.no_grad()
def _accumulated(features: Tensor, alphas: Tensor, points_idx: Tensor, mode: str) -> Tensor:
    return composite(points_idx, alphas, features, mode)


@torch.no_grad()
def _accumulated_backward(grad: Tensor, features: Tensor, alphas: Tensor, points_idx: Tensor, mode: str) -> Pair:
    N, K, H, W = alphas.shape
    idx, weights, planes = as_stored(points_idx, alphas)
    inputs = [idx, weights, features.t(), mode, planes]
    of_weights, of_features = _two(_composite.gradients(inputs, [], [grad.flatten(2)], [True, True]))
    of_alphas = of_weights.view(N, K, H, W) if planes else of_weights.view(N, H, W, K).permute(0, 3, 1, 2)
    return of_features.t(), of_alphas


# ---- volumes and rays ----


@torch.no_grad()
def points_to_volumes_forward(
    points_3d: Tensor,
    points_features: Tensor,
    volume_densities: Tensor,
    volume_features: Tensor,
    grid_sizes: Tensor,
    mask: Tensor,
    point_weight: float,
    align_corners: bool,
    splat: bool,
) -> None:
    """Adds the points to the volumes (N, 1, D, H, W) and (N, C, D, H, W), in place."""
    inputs = [points_3d, points_features, volume_densities, volume_features, grid_sizes, mask > 0]
    densities, features = _votes(*inputs, splat, align_corners, False, 1.0, float(point_weight))
    volume_densities.copy_(densities)
    volume_features.copy_(features)


@torch.no_grad()
def points_to_volumes_backward(
    points_3d: Tensor,
    points_features: Tensor,
    grid_sizes: Tensor,
    mask: Tensor,
    point_weight: float,
    align_corners: bool,
    splat: bool,
    grad_volume_densities: Tensor,
    grad_volume_features: Tensor,
    grad_points_3d: Tensor,
    grad_points_features: Tensor,
) -> None:
    """Adds to the gradients of features and, where points have one, of points, in place."""
    grads = [grad_volume_densities, grad_volume_features]
    # Without rescaling the sums are linear in the votes: what is in the volumes does not matter.
    inputs = [points_3d, points_features, *grads, grid_sizes, mask > 0, splat, align_corners, False, 1.0]
    # Points that vote for the nearest voxel have none: their tensor may be a view of a single number.
    needed = [splat, True, False, False]
    of = _votes.gradients([*inputs, float(point_weight)], grads, grads, needed)
    for grad, more, wanted in zip((grad_points_3d, grad_points_features), of, needed):
        if wanted:
            assert more is not None
            grad += more


@torch.no_grad()
def sample_pdf(bins: Tensor, weights: Tensor, outputs: Tensor, eps: float) -> None:
    """Replaces the quantiles in `outputs` (R, N) by the places where they lie."""
    outputs.copy_(sample_pdf_at(bins, weights, outputs.clone(), eps))


def _one(grads: list[Tensor | None]) -> Tensor:
    (grad,) = grads
    assert grad is not None
    return grad


def _two(grads: list[Tensor | None]) -> Pair:
    first, second = grads
    assert first is not None
    assert second is not None
    return first, second
