"""`pytorch3d._C`, answered by our kernels: PyTorch3D's names, orders of arguments and answers."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("recon_engine._C")

from recon_engine.compat import _C
from recon_engine.ops import mesh_face_areas_normals
from recon_engine.renderer.points.pulsar import Renderer

sys.path.insert(0, str(Path(__file__).parent))

from kernel_cases import CASES, normal, random, scene

RECORDED = np.load(Path(__file__).parents[1] / "reference/kernels.npz")


def test_every_function_is_there():
    assert set(RECORDED["names"]) <= set(_C.__all__) == {name for name in _C.__all__ if hasattr(_C, name)}
    assert sorted(_C.__all__) == _C.__all__


@pytest.mark.parametrize("case", CASES)
def test_answers_are_pytorch3ds(case):
    answers = CASES[case](_C)
    assert len(answers) == sum(name.startswith(f"{case}/") for name in RECORDED.files)
    for i, ours in enumerate(answers):
        theirs = torch.from_numpy(RECORDED[f"{case}/{i}"])
        torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-5, msg=lambda text, i=i: f"answer {i}: {text}")


@pytest.mark.parametrize("case", CASES)
def test_nothing_takes_part_in_autograd(case, monkeypatch):
    rand, randn = torch.rand, torch.randn
    monkeypatch.setattr(torch, "rand", lambda *args, **kwargs: rand(*args, **kwargs).requires_grad_())
    monkeypatch.setattr(torch, "randn", lambda *args, **kwargs: randn(*args, **kwargs).requires_grad_())
    with torch.no_grad():
        expected = CASES[case](_C)
    if case not in ("sample_pdf", "points_to_volumes, nearest", "points_to_volumes, trilinear"):  # work in place
        for answer, same in zip(CASES[case](_C), expected):
            assert not answer.requires_grad
            torch.testing.assert_close(answer, same, rtol=0, atol=0)


def test_interpolated_attributes_and_their_gradients():
    faces, bary, attributes = torch.tensor([0, 3, -1, 1]), random(4, 3), normal(4, 3, 2)
    values = _C.interp_face_attrs_forward(faces, bary, attributes)
    leaves = bary.clone().requires_grad_(), attributes.clone().requires_grad_()
    expected = (leaves[0][:, :, None] * leaves[1][faces]).sum(1) * (faces >= 0)[:, None]
    torch.testing.assert_close(values, expected)
    grad = normal(4, 2)
    for ours, theirs in zip(
        _C.interp_face_attrs_backward(faces, bary, attributes, grad), torch.autograd.grad(expected, leaves, grad)
    ):
        torch.testing.assert_close(ours, theirs)


def test_gradients_of_normals():
    verts, faces, grad = normal(5, 3), torch.tensor([[0, 1, 2], [4, 2, 3]]), normal(2, 3)
    leaf = verts.clone().requires_grad_()
    (expected,) = torch.autograd.grad(mesh_face_areas_normals(leaf, faces)[1], leaf, grad)
    torch.testing.assert_close(_C.face_areas_normals_backward(torch.zeros(2), grad, verts, faces), expected)


def test_fine_rasterisation_takes_the_faces_of_the_bins():
    faces, first, count = scene()
    none = torch.full((40,), -1)
    bins = _C._rasterize_meshes_coarse(faces, first, count, (9, 12), 0.01, 4, 30)
    fine = _C._rasterize_meshes_fine(faces, bins, none, (9, 12), 0.01, 4, 4, True, False, False)
    naive = _C._rasterize_meshes_naive(faces, first, count, none, (9, 12), 0.01, 4, True, False, False)
    for ours, theirs in zip(fine, naive):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    nothing = _C._rasterize_meshes_fine(faces, torch.full_like(bins, -1), none, (9, 12), 0.01, 4, 4, True, False, False)
    assert (nothing[0] == -1).all()


def test_numbers_of_numpy():
    """A blur computed with numpy makes the flags that are compared with it numpy's as well."""
    faces, none = random(6, 3, 3) + 0.5, torch.full((6,), -1)
    first, count = torch.tensor([0]), torch.tensor([6])

    def rasterized(blur, K, flag):
        return _C.rasterize_meshes(faces, first, count, none, (9, 12), blur, K, 0, 0, flag, flag, not flag)

    ours = rasterized(np.float32(0.01), np.int64(3), np.float64(0.01) > 0.0)
    expected = rasterized(float(np.float32(0.01)), 3, True)
    for got, plain in zip(ours, expected):
        torch.testing.assert_close(got, plain, rtol=0, atol=0)


def test_spheres_are_those_of_the_renderer():
    given = ([7, 6, 10], {"n_track": 3})
    spheres = torch.cat([normal(5, 2), 4 + random(5, 1)], 1), random(5, 3), 0.5 + random(5)
    numbers = {"gamma": 0.1, "max_depth": 8.0, "min_depth": 1.5}
    leaves = [a.clone().requires_grad_() for a in (*spheres, torch.tensor([0, 0, 0, 1, 0, 0, 0, 1, 0, 1.0, 1.0]))]
    renderer = Renderer(*given[0], **given[1])
    image, info = renderer(*leaves, **numbers, return_forward_info=True)
    expected = torch.autograd.grad(image, leaves, image.detach())

    native = _C.PulsarRenderer(*given[0], False, False, _C.EPS, 3, 3)
    position, first, right, down, focal, offset = Renderer._transform_cam_params(leaves[3].detach(), 7, 6, False, False)
    arguments = (*spheres, position, first, right, down, focal, offset)
    same, notes = native.forward(*arguments, *numbers.values(), None, None)
    torch.testing.assert_close(same, image, rtol=0, atol=0)
    torch.testing.assert_close(notes, info, rtol=0, atol=0, equal_nan=True)
    ids = _C.pulsar_sphere_ids_from_result_info_nograd(notes[None])
    assert ids.shape == (1, 6, 7, 3)
    assert ids.max() <= 4
    wanted = (True, True, True, True, False)
    grads = native.backward(
        same, same, notes, *arguments, *numbers.values(), None, None, 0.01, _C.MAX_UINT, 0, *wanted, None
    )
    for ours, theirs in zip(grads[:3], expected):
        torch.testing.assert_close(ours, theirs)
    assert grads[7] is None
    assert [g.shape for g in grads[3:7]] == [(3,)] * 4
    assert (native.width, native.height, native.max_num_balls, native.n_track) == (7, 6, 10, 3)
    assert (native.orthogonal, native.right_handed, str(native)) == (False, False, "pulsar::Renderer[cpu]")
    assert native == _C.PulsarRenderer(*given[0], False, False, _C.EPS, 3, 3)
    assert native != _C.PulsarRenderer(*given[0], True, False, _C.EPS, 3, 3)
    # Cameras have depths as tensors.
    again, _ = native.forward(*arguments, 0.1, torch.tensor([8.0]), torch.tensor([1.5]), None, None)
    torch.testing.assert_close(again, same, rtol=0, atol=0)
    count, _ = native.forward(*arguments, *numbers.values(), None, None, mode=1)
    assert count.shape == (6, 7, 1)


def test_spheres_between_depths_that_are_tensors():
    """PyTorch3D's Python files hand over those of cameras."""
    native = _C.PulsarRenderer(7, 6, 10, False, False, _C.EPS, 3, 3)
    camera = Renderer._transform_cam_params(torch.tensor([0, 0, 0, 1, 0, 0, 0, 1, 0, 1.0, 1.0]), 7, 6, False, False)
    spheres = torch.cat([normal(5, 2), 4 + random(5, 1)], 1), random(5, 3), 0.5 + random(5)
    image, _ = native.forward(*spheres, *camera, 0.1, 8.0, 1.5, None, None)
    same, _ = native.forward(*spheres, *camera, 0.1, torch.tensor(8.0), torch.tensor(1.5), None, None)
    torch.testing.assert_close(same, image, rtol=0, atol=0)


def test_points_that_vote_for_the_nearest_voxel_have_no_gradient():
    """PyTorch3D's Python files hand over views of one number for the gradient and the features that are not read."""
    points, densities, volumes = 1.6 * random(2, 12, 3) - 0.8, normal(2, 1, 4, 5, 6), normal(2, 3, 4, 5, 6)
    zero, grad_features = torch.zeros(1, 1, 1), torch.zeros(2, 12, 3)
    grid_sizes = torch.tensor([[4, 5, 6]]).expand(2, 3)
    arguments = (points, zero.expand(2, 12, 3), grid_sizes, torch.ones(2, 12), 0.7, True, False, densities, volumes)
    _C.points_to_volumes_backward(*arguments, zero.expand(2, 12, 3), grad_features)
    assert zero.item() == 0
    assert (grad_features != 0).all()


def test_bins_that_overflow_are_named():
    with pytest.raises(RuntimeError, match="Got too many faces per bin"):
        _C._rasterize_meshes_coarse(*scene(), (9, 12), 0.01, 4, 2)


def test_pairs_of_no_edges():
    assert _C.mesh_normal_consistency_find_verts(torch.tensor([1, 0, 1])).shape == (0, 2)
    assert _C.mesh_normal_consistency_find_verts(torch.tensor([], dtype=torch.int64)).shape == (0, 2)


def test_versions_of_pytorch3ds_neighbour_search():
    assert [_C.knn_check_version(version, 3, 4) for version in range(-1, 5)] == [False, True, True, True, True, False]
    assert [_C.knn_check_version(version, 9, 5) for version in range(4)] == [True, True, False, False]
    assert not _C.knn_check_version(1, 0, 1)


def test_areas_need_not_be_given():
    for name in ("point_face_dist_forward", "face_point_dist_backward", "point_face_array_dist_forward"):
        assert inspect.signature(getattr(_C, name)).parameters["min_triangle_area"].default == 5e-3


def test_double_precision():
    faces, first, count = scene()
    zbuf = _C.rasterize_meshes(
        faces.double(), first, count, torch.full((40,), -1), (9, 12), 0.01, 4, 0, 0, True, False, False
    )[1]
    assert zbuf.dtype == torch.float64


def test_live():
    theirs = pytest.importorskip("pytorch3d._C")
    for name, case in CASES.items():
        for i, (ours, answer) in enumerate(zip(case(_C), case(theirs))):
            torch.testing.assert_close(ours, answer, rtol=2e-4, atol=2e-5, msg=f"{name}, answer {i}")
