from __future__ import annotations

import math

import pytest
import torch

from recon_engine.renderer.mesh.rasterize_meshes import (
    barycentric_coordinates,
    barycentric_coordinates_clip,
    edge_function,
    kEpsilon,
    non_square_ndc_range,
    pix_to_non_square_ndc,
    point_line_distance,
    point_triangle_distance,
    rasterize_meshes,
)
from recon_engine.structures import Meshes


def brute_force(mesh, size, K, blur=0.0, perspective=False, clip=False, cull=False):
    """The K nearest faces of each pixel of one mesh, pixel by pixel with this module's scalar functions, in float64."""
    H, W = size
    corners = mesh.verts_packed().double()[mesh.faces_packed()]
    found = []
    for row in range(H):
        for column in range(W):
            pixel = torch.tensor(
                [pix_to_non_square_ndc(W - 1 - column, W, H), pix_to_non_square_ndc(H - 1 - row, H, W)]
            ).double()
            hits = []
            for face, v in enumerate(corners):
                area = edge_function(v[2], v[0], v[1])
                if v[:, 2].min() < kEpsilon or area.abs() <= kEpsilon or (cull and area < 0):
                    continue
                bary = torch.stack(barycentric_coordinates(pixel, *v[:, :2]))
                if perspective:
                    bary = bary / v[:, 2] / (bary / v[:, 2]).sum()
                inside = bool((bary > 0).all())
                if clip:
                    bary = torch.stack(barycentric_coordinates_clip(bary))
                depth, dist = bary @ v[:, 2], point_triangle_distance(pixel, *v[:, :2])
                if depth >= 0 and (inside or dist < blur):
                    hits.append((float(depth), face, bary, -dist if inside else dist))
            found.append(sorted(hits, key=lambda hit: hit[:2])[:K])
    return found


def scene(n=9):
    verts = torch.rand(3 * n, 3) * torch.tensor([3.0, 3.0, 2.0]) - torch.tensor([1.5, 1.5, -0.5])
    return Meshes([verts], [torch.arange(3 * n).view(n, 3)])


@pytest.mark.parametrize("size", [(8, 8), (6, 10), (11, 5)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"blur_radius": 0.01, "clip_barycentric_coords": True},
        {"perspective_correct": True, "cull_backfaces": True},
        {"blur_radius": 0.02, "perspective_correct": True, "clip_barycentric_coords": True},
    ],
)
def test_matches_reference(size, options):
    mesh, K = scene(), 4
    pix_to_face, zbuf, bary, dists = rasterize_meshes(mesh, size, faces_per_pixel=K, **options)
    assert pix_to_face.shape == zbuf.shape == dists.shape == (1, *size, K)
    names = {"blur_radius": "blur", "perspective_correct": "perspective", "clip_barycentric_coords": "clip"}
    found = brute_force(mesh, size, K, **{names.get(name, "cull"): value for name, value in options.items()})
    flat = (pix_to_face.view(-1, K), zbuf.view(-1, K), bary.view(-1, K, 3), dists.view(-1, K))
    assert any(found)
    for hits, faces, z, b, d in zip(found, *flat, strict=True):
        assert faces.tolist() == [hit[1] for hit in hits] + [-1] * (K - len(hits))
        for k, (depth, _, weights, dist) in enumerate(hits):
            assert abs(float(z[k]) - depth) < 1e-4
            torch.testing.assert_close(b[k], weights.float(), atol=1e-4, rtol=0)
            assert abs(float(d[k] - dist)) < 1e-5
        assert (z[len(hits) :] == -1).all()
        assert (b[len(hits) :] == -1).all()


def test_batch_counts_packed_faces():
    one, two = scene(4), scene(7)
    both = Meshes([one.verts_packed(), two.verts_packed()], [one.faces_packed(), two.faces_packed()])
    got = rasterize_meshes(both, 12, faces_per_pixel=3)
    first, second = rasterize_meshes(one, 12, faces_per_pixel=3), rasterize_meshes(two, 12, faces_per_pixel=3)
    shifted = torch.where(second[0] >= 0, second[0] + 4, -1)
    assert torch.equal(got[0], torch.cat((first[0], shifted)))
    for index in (1, 2, 3):
        assert torch.equal(got[index], torch.cat((first[index], second[index])))


@pytest.mark.parametrize("size", [(16, 16), (12, 24), (24, 12)])
@pytest.mark.parametrize("blur", [0.0, 0.05])
def test_cull_to_frustum_changes_nothing(size, blur):
    """PyTorch3D drops faces by their vertex number, and crops images that are not square."""
    mesh = scene(40)
    whole = rasterize_meshes(mesh, size, blur_radius=blur, cull_to_frustum=False)
    culled = rasterize_meshes(mesh, size, blur_radius=blur, cull_to_frustum=True)
    assert (whole[0] >= 0).any()
    for left, right in zip(whole, culled, strict=True):
        assert torch.equal(left, right)


def test_bin_size_and_max_faces_do_not_matter():
    mesh = scene()
    want = rasterize_meshes(mesh, 16)
    for options in ({"bin_size": 0}, {"bin_size": 8}, {"max_faces_per_bin": 1}):
        assert all(torch.equal(a, b) for a, b in zip(want, rasterize_meshes(mesh, 16, **options), strict=True))


def test_clipped_face_shows_up_to_the_plane():
    """A floor that passes under the camera: its part in front of the plane shows, and its depth is right."""
    corners = torch.tensor([[-40.0, -1, -40], [40, -1, -40], [0.0, -1.0, 60.0]], dtype=torch.float64)
    ndc = torch.cat((corners[:, :2] / corners[:, 2:], corners[:, 2:]), dim=1)
    mesh = Meshes([ndc], [torch.tensor([[0, 1, 2]])])
    assert (rasterize_meshes(mesh, 16, perspective_correct=True)[0] == -1).all()
    pix, zbuf, bary, _ = rasterize_meshes(mesh, 16, perspective_correct=True, z_clip_value=0.5, faces_per_pixel=1)
    seen = pix[0, ..., 0] == 0
    assert not seen[:8].any()
    assert seen[9:].all()
    y = torch.tensor([pix_to_non_square_ndc(15 - row, 16, 16) for row in range(16)], dtype=torch.float64)
    depth = (-1.0 / y)[:, None].expand(16, 16)
    torch.testing.assert_close(zbuf[0, ..., 0][seen], depth[seen], rtol=1e-6, atol=0)
    place = bary[0, :, :, 0][seen] @ corners
    torch.testing.assert_close(place[:, 1], torch.full_like(place[:, 1], -1.0))
    torch.testing.assert_close(place[:, 2], depth[seen], rtol=1e-6, atol=0)


def test_clipped_gradient_matches_finite_differences():
    """PyTorch3D detaches one of the two points where a face is cut."""
    corners = torch.tensor([[-2.0, -1.0, -0.5], [2.0, -1.2, 0.3], [0.1, 1.0, 3.0]], dtype=torch.float64)

    def depths(corners):
        ndc = torch.cat((corners[:, :2] / corners[:, 2:], corners[:, 2:]), dim=1)
        out = rasterize_meshes(
            Meshes([ndc], [torch.tensor([[0, 1, 2]])]), 6, 0.0, 1, perspective_correct=True, z_clip_value=0.5
        )
        return out[1], out[2]

    assert (depths(corners)[0] > 0).sum() > 3
    assert torch.autograd.gradcheck(depths, corners.requires_grad_())


def test_everything_behind_the_plane():
    mesh = Meshes([torch.rand(3, 3) * 0.1], [torch.tensor([[0, 1, 2]])])
    assert (rasterize_meshes(mesh, 4, z_clip_value=1.0)[0] == -1).all()


def test_empty_meshes():
    empty = Meshes([torch.zeros(0, 3)], [torch.zeros(0, 3, dtype=torch.int64)])
    assert (rasterize_meshes(empty, 4, z_clip_value=1.0)[0] == -1).all()
    mixed = Meshes([torch.zeros(0, 3), scene().verts_packed()], [empty.faces_packed(), scene().faces_packed()])
    pix_to_face = rasterize_meshes(mixed, 8)[0]
    assert (pix_to_face[0] == -1).all()
    assert (pix_to_face[1] >= 0).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "greater than 0"),
        ({"image_size": (4, 4, 4)}, r"tuple/list of \(H, W\)"),
        ({"image_size": 4.5}, "must be integers"),
        ({"faces_per_pixel": 0}, "faces_per_pixel must be an integer >= 1, got 0"),
        ({"faces_per_pixel": -3}, "faces_per_pixel must be an integer >= 1"),
        ({"faces_per_pixel": 2.5}, "faces_per_pixel must be an integer >= 1"),
        ({"blur_radius": -0.1}, "blur_radius must be a finite number >= 0"),
        ({"blur_radius": math.nan}, "blur_radius must be a finite number >= 0"),
        ({"blur_radius": math.inf}, "blur_radius must be a finite number >= 0"),
        ({"z_clip_value": math.nan}, "z_clip_value must be None or a finite number"),
        ({"bin_size": -1}, "bin_size must be None or an integer >= 0"),
        ({"bin_size": 2, "image_size": 64}, "bin_size too small, number of faces per bin must be less than 22; got 32"),
        ({"max_faces_per_bin": -1}, "max_faces_per_bin must be"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        rasterize_meshes(scene(), **{"image_size": 8, **options})


def test_pixel_centers():
    assert non_square_ndc_range(10, 20) == 2.0
    assert non_square_ndc_range(20, 10) == 4.0
    assert [pix_to_non_square_ndc(i, 4, 8) for i in range(4)] == [-0.75, -0.25, 0.25, 0.75]
    assert [pix_to_non_square_ndc(i, 4, 2) for i in (0, 3)] == [-1.5, 1.5]


def test_distances():
    origin, x, y = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert point_line_distance(torch.tensor([0.5, 2.0]), origin, x) == 4.0
    assert point_line_distance(torch.tensor([3.0, 0.0]), origin, x) == 4.0
    assert point_line_distance(torch.tensor([3.0, 4.0]), origin, origin) == 25.0
    torch.testing.assert_close(point_triangle_distance(torch.tensor([0.1, 0.2]), origin, x, y), torch.tensor(0.01))
    with pytest.raises(ValueError, match="same number of coordinates"):
        point_line_distance(torch.zeros(3), origin, x)


def test_faces_by_their_corners():
    """PyTorch3D's private function below `rasterize_meshes`, which its tests call."""
    from recon_engine.renderer.mesh.rasterize_meshes import _RasterizeFaceVerts
    from recon_engine.utils import ico_sphere

    mesh = ico_sphere(1).extend(2).offset_verts(torch.tensor([0.0, 0.0, 3.0]))
    corners = mesh.verts_packed()[mesh.faces_packed()].requires_grad_()
    first, count = mesh.mesh_to_faces_packed_first_idx(), mesh.num_faces_per_mesh()
    none = torch.full((len(corners),), -1)
    found = _RasterizeFaceVerts.apply(corners, first, count, none, (12, 16), 1e-2, 3, 0, 0, True, True, False)
    expected = rasterize_meshes(mesh, (12, 16), 1e-2, 3, perspective_correct=True, clip_barycentric_coords=True)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert torch.autograd.grad(found[3].sum(), corners)[0].abs().sum() > 0
