"""A call of every function of PyTorch3D's compiled module: what the recorded answers were asked for."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

Answer = list[Tensor]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def ints(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def scene() -> tuple[Tensor, Tensor, Tensor]:
    """Faces (40, 3, 3) of two meshes in front of the camera, where each begins and how many it has."""
    centers = 1.6 * random(40, 1, 3) - 0.8
    centers[..., 2] += 2.0
    return centers + 0.5 * normal(40, 3, 3), ints(0, 25), ints(25, 15)


def splats() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points (60, 3) of two clouds, where each begins, how many it has, and radii."""
    points = 2 * random(60, 3) - 1
    points[:, 2] += 1.5
    return points, ints(0, 35), ints(35, 25), 0.1 + 0.2 * random(60)


def faces_at_pixels(_C: ModuleType, blur: float = 0.01) -> Answer:
    faces, first, count = scene()
    return list(
        _C.rasterize_meshes(faces, first, count, torch.full((40,), -1), (9, 12), blur, 4, 0, 0, True, False, False)
    )


def rasterize_meshes_backward(_C: ModuleType) -> Answer:
    # Far outside of a face PyTorch3D's gradients are those of a denominator that it holds at 1e-8.
    pix_to_face = faces_at_pixels(_C, blur=0.0)[0]
    shape = tuple(pix_to_face.shape)
    grads = [normal(*shape), normal(*shape, 3), normal(*shape, seed=1)]
    return [_C.rasterize_meshes_backward(scene()[0], pix_to_face, *grads, True, False)]


def points_at_pixels(_C: ModuleType) -> Answer:
    points, first, count, radius = splats()
    return list(_C.rasterize_points(points, first, count, (9, 12), radius, 4, 0, 0))


def rasterize_points_backward(_C: ModuleType) -> Answer:
    idx = points_at_pixels(_C)[0]
    return [_C.rasterize_points_backward(splats()[0], idx, normal(*idx.shape), normal(*idx.shape, seed=1))]


def naive(_C: ModuleType) -> Answer:
    faces, first, count = scene()
    points, first_point, num_points, radius = splats()
    none = torch.full((40,), -1)
    return [
        *_C._rasterize_meshes_naive(faces, first, count, none, (9, 12), 0.01, 4, True, False, False),
        *_C._rasterize_points_naive(points, first_point, num_points, (9, 12), radius, 4),
    ]


def coarse(_C: ModuleType) -> Answer:
    faces, first, count = scene()
    points, first_point, num_points, radius = splats()
    return [
        _C._rasterize_meshes_coarse(faces, first, count, (9, 12), 0.01, 4, 30),
        _C._rasterize_points_coarse(points, first_point, num_points, (9, 12), radius, 4, 40),
    ]


def sigmoid_alpha_blend(_C: ModuleType) -> Answer:
    dists, faces = 0.02 * normal(2, 3, 4, 5), torch.arange(-3, 117).view(2, 3, 4, 5)
    alphas = _C.sigmoid_alpha_blend(dists, faces, 1e-2)
    return [alphas, _C.sigmoid_alpha_blend_backward(normal(2, 3, 4), alphas, dists, faces, 1e-2)]


def accumulated(mode: str) -> Callable[[ModuleType], Answer]:
    def answer(_C: ModuleType) -> Answer:
        features, alphas = normal(3, 20), 0.1 + 0.8 * random(2, 4, 3, 5)
        idx = (24 * random(2, 4, 3, 5, seed=1)).long() - 4
        idx = idx.clamp(min=-1).sort(1, descending=True).values
        image = getattr(_C, f"accum_{mode}")(features, alphas, idx)
        grads = getattr(_C, f"accum_{mode}_backward")(normal(2, 3, 3, 5), features, alphas, idx)
        return [image, *grads]

    return answer


def face_areas_normals(_C: ModuleType) -> Answer:
    verts, faces = normal(8, 3), ints(*torch.combinations(torch.arange(8), 3)[::4].tolist())
    areas, normals = _C.face_areas_normals_forward(verts, faces)
    # PyTorch3D's gradient of normals is wrong in z.
    grad = _C.face_areas_normals_backward(normal(len(faces)), torch.zeros(len(faces), 3), verts, faces)
    return [areas, normals, grad]


def padding(_C: ModuleType) -> Answer:
    padded = _C.packed_to_padded(normal(9, 2), ints(0, 4, 4), 5)
    return [padded, _C.padded_to_packed(normal(3, 5, 2), ints(0, 4, 4), 9)]


def gather_scatter(_C: ModuleType) -> Answer:
    edges = (7 * random(12, 2)).long()
    return [_C.gather_scatter(normal(7, 3), edges, *flags) for flags in ((False, False), (True, False), (True, True))]


def pairs_on_edges(_C: ModuleType) -> Answer:
    pairs = _C.mesh_normal_consistency_find_verts(ints(1, 0, 2, 3, 1, 4))
    return [pairs[torch.argsort(100 * pairs[:, 1] + pairs[:, 0])]]


def neighbours(norm: int) -> Callable[[ModuleType], Answer]:
    def answer(_C: ModuleType) -> Answer:
        p1, p2, lengths1, lengths2 = normal(2, 6, 3), normal(2, 9, 3), ints(6, 4), ints(9, 7)
        idx, dists = _C.knn_points_idx(p1, p2, lengths1, lengths2, norm, 3, -1)
        dists, order = dists.sort(2)
        idx = idx.gather(2, order)
        grads = _C.knn_points_backward(p1, p2, lengths1, lengths2, idx, norm, normal(2, 6, 3, seed=1))
        return [idx[0], idx[1, :4], dists, *grads]

    return answer


def ball_query(_C: ModuleType) -> Answer:
    p1, p2, lengths1, lengths2 = normal(2, 6, 3), normal(2, 9, 3), ints(6, 4), ints(9, 7)
    idx, dists = _C.ball_query(p1, p2, lengths1, lengths2, 3, 1.5, False)
    grads = _C.knn_points_backward(p1, p2, lengths1, lengths2, idx, 2, normal(2, 6, 3, seed=1))
    return [idx, dists, *grads]


def sample_farthest_points(_C: ModuleType) -> Answer:
    return [_C.sample_farthest_points(normal(2, 9, 3), ints(9, 6), ints(4, 3), ints(0, 2), 4)]


def distances(kind: str, corners: int) -> Callable[[ModuleType], Answer]:
    def answer(_C: ModuleType) -> Answer:
        points, simplices = normal(9, 3), normal(7, corners, 3, seed=9)
        area = [5e-3] if corners == 3 else []
        answers = []
        for name, most, queries in ((f"point_{kind}", 5, 9), (f"{kind}_point", 4, 7)):
            forward, backward = (getattr(_C, f"{name}_dist_{way}") for way in ("forward", "backward"))
            dists, idx = forward(points, ints(0, 5), simplices, ints(0, 4), most, *area)
            answers += [dists, idx, *backward(points, simplices, idx, normal(queries, seed=1), *area)]
        forward, backward = (getattr(_C, f"point_{kind}_array_dist_{way}") for way in ("forward", "backward"))
        return [*answers, forward(points, simplices, *area), *backward(points, simplices, normal(9, 7), *area)]

    return answer


def points_to_volumes(splat: bool) -> Callable[[ModuleType], Answer]:
    def answer(_C: ModuleType) -> Answer:
        points, features, mask = 1.6 * random(2, 12, 3) - 0.8, normal(2, 12, 3), (random(2, 12) > 0.2).float()
        densities, volumes = torch.zeros(2, 1, 4, 5, 6), torch.zeros(2, 3, 4, 5, 6)
        grid_sizes = ints([4, 5, 6], [4, 5, 6])
        _C.points_to_volumes_forward(points, features, densities, volumes, grid_sizes, mask, 0.7, True, splat)
        grad_points, grad_features = torch.zeros_like(points), torch.zeros_like(features)
        grads = [normal(*densities.shape), normal(*volumes.shape)]
        _C.points_to_volumes_backward(
            points, features, grid_sizes, mask, 0.7, True, splat, *grads, grad_points, grad_features
        )
        return [densities, volumes, grad_points, grad_features]

    return answer


def sample_pdf(_C: ModuleType) -> Answer:
    samples = random(5, 7)
    _C.sample_pdf(random(5, 9).cumsum(1), 0.05 + random(5, 8), samples, 1e-5)
    return [samples]


def iou_box3d(_C: ModuleType) -> Answer:
    unit = torch.tensor(
        [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]], dtype=torch.float32
    )
    return list(_C.iou_box3d(unit * (0.5 + random(3, 1, 3)), unit * (0.5 + random(2, 1, 3)) + 0.3))


def marching_cubes(_C: ModuleType) -> Answer:
    at = torch.linspace(-1, 1, 7)
    verts, faces, _ = _C.marching_cubes((at[:, None, None] ** 2 + at[:, None] ** 2 + at**2).sqrt(), 0.81)
    # Which vertex comes first is not part of the contract.
    return [verts[torch.argsort((verts.double() * torch.tensor([1e4, 1e2, 1])).sum(1))], torch.tensor(faces.shape)]


CASES: dict[str, Callable[[ModuleType], Answer]] = {
    "rasterize_meshes": faces_at_pixels,
    "rasterize_meshes_backward": rasterize_meshes_backward,
    "rasterize_points": points_at_pixels,
    "rasterize_points_backward": rasterize_points_backward,
    "naive": naive,
    "coarse": coarse,
    "sigmoid_alpha_blend": sigmoid_alpha_blend,
    "accum_alphacomposite": accumulated("alphacomposite"),
    "accum_weightedsum": accumulated("weightedsum"),
    "accum_weightedsumnorm": accumulated("weightedsumnorm"),
    "face_areas_normals": face_areas_normals,
    "padding": padding,
    "gather_scatter": gather_scatter,
    "mesh_normal_consistency_find_verts": pairs_on_edges,
    "knn_points, norm 1": neighbours(1),
    "knn_points, norm 2": neighbours(2),
    "ball_query": ball_query,
    "sample_farthest_points": sample_farthest_points,
    "point_face": distances("face", 3),
    "point_edge": distances("edge", 2),
    "points_to_volumes, nearest": points_to_volumes(False),
    "points_to_volumes, trilinear": points_to_volumes(True),
    "sample_pdf": sample_pdf,
    "iou_box3d": iou_box3d,
    "marching_cubes": marching_cubes,
}
