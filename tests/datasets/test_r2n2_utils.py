from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from recon_engine.datasets import BlenderCamera, render_cubified_voxels
from recon_engine.datasets.r2n2.utils import (
    align_bbox,
    compute_extrinsic_matrix,
    project_verts,
    read_binvox_coords,
    voxelize,
)
from recon_engine.renderer import RasterizationSettings, SoftSilhouetteShader


@pytest.mark.parametrize(("azimuth", "elevation"), [(0, 0), (37.0, 21.0), (-160, 80)])
def test_extrinsic_matrix(azimuth, elevation):
    matrix = compute_extrinsic_matrix(azimuth, elevation, 2.5)
    assert matrix.dtype == torch.float32
    assert torch.equal(matrix[3], torch.tensor([0.0, 0, 0, 1]))
    torch.testing.assert_close(matrix[:3, :3] @ matrix[:3, :3].T, torch.eye(3))
    torch.testing.assert_close(torch.linalg.det(matrix), torch.tensor(1.0))
    assert torch.equal(matrix[:3, 3], torch.tensor([0.0, 0, -2.5]))
    # The height of the camera above the horizontal plane of the models, which have +Y upwards.
    center = -matrix[:3, :3].T @ matrix[:3, 3]
    torch.testing.assert_close(center[1], 2.5 * torch.tensor(np.sin(np.radians(elevation)), dtype=torch.float32))
    assert matrix[1, 1] > 0


@pytest.mark.parametrize("seed", range(3))
def test_binvox(recorder, seed):
    voxels = np.random.default_rng(seed).random((20, 20, 20)) < [0.5, 0.001, 0.999][seed]
    x, z, y = np.nonzero(voxels)
    content = recorder.binvox(voxels)
    for integer_division in (True, False):
        coords = read_binvox_coords(io.BytesIO(content), integer_division=integer_division)
        assert coords.dtype == torch.float32
        np.testing.assert_array_equal(coords, np.stack([x, y, z], axis=1))
    assert read_binvox_coords(io.BytesIO(content), dtype=torch.int64).dtype == torch.int64


def test_binvox_without_voxels(recorder):
    assert read_binvox_coords(io.BytesIO(recorder.binvox(np.zeros((4, 4, 4), dtype=bool)))).shape == (0, 3)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("#binvox 1", "#binvox 2", r"Invalid header \(line 1\): expected '#binvox 1'"),
        ("dim 4 4 4", "dimension 4 4 4", r"Invalid header \(line 2\): expected 'dim' and 3 numbers"),
        ("dim 4 4 4", "dim 4 4", r"Invalid header \(line 2\): expected 'dim' and 3 numbers"),
        ("dim 4 4 4", "dim 4 4 x", r"Invalid header \(line 2\): expected 'dim' and 3 numbers"),
        ("dim 4 4 4", "dim 4 4 5", r"Invalid header \(line 2\): expected a cube, got \[4, 4, 5\]"),
        ("translate -0.5 0 0.25", "translate 0 0", r"Invalid header \(line 3\)"),
        ("translate -0.5 0 0.25", "translate 0 0 x", r"Invalid header \(line 3\)"),
        ("scale 1.5", "scale", r"Invalid header \(line 4\)"),
        ("data", "date", r"Invalid header \(line 5\): expected 'data'"),
        ("dim 4 4 4", "dim 5 5 5", r"expected runs of 125 voxels in all, got 64"),
    ],
)
def test_binvox_errors(recorder, old, new, message):
    content = recorder.binvox(np.ones((4, 4, 4), dtype=bool))
    with pytest.raises(ValueError, match=message):
        read_binvox_coords(io.BytesIO(content.replace(old.encode(), new.encode(), 1)))


def test_boxes_are_aligned():
    src, tgt = torch.rand(20, 3, dtype=torch.float64), torch.rand(10, 3, dtype=torch.float64) * 5 - 2
    out = align_bbox(src, tgt)
    torch.testing.assert_close(out.amin(0), tgt.amin(0))
    torch.testing.assert_close(out.amax(0), tgt.amax(0))
    torch.testing.assert_close(align_bbox(out, src), src)
    assert torch.equal(align_bbox(torch.ones(4, 3), tgt.float()), tgt.float().amin(0).expand(4, 3))
    with pytest.raises(ValueError, match=r"Both src and tgt need to have dimensions of 2\. Got shapes"):
        align_bbox(src[None], tgt)
    with pytest.raises(ValueError, match=r"need to have sizes of 3 along the second dimension\. Got shapes"):
        align_bbox(src[:, :2], tgt)


def test_projection():
    verts, P = torch.randn(2, 30, 3, dtype=torch.float64), torch.randn(2, 4, 4, dtype=torch.float64)
    P[:, 3, 3] = 9.0
    found = project_verts(verts, P)
    homogeneous = torch.cat([verts, torch.ones(2, 30, 1, dtype=torch.float64)], -1) @ P.mT
    torch.testing.assert_close(found, homogeneous[..., :3] / homogeneous[..., 3:])
    torch.testing.assert_close(project_verts(verts[1], P[1]), found[1])
    assert torch.autograd.gradcheck(project_verts, (verts[:, :3].requires_grad_(), P.requires_grad_()))
    with pytest.raises(ValueError, match=r"project_verts: expected .* got \(2, 30, 3\) and \(4, 4\)"):
        project_verts(verts, P[0])


@pytest.mark.parametrize(("w", "divisor"), [(0.0, 0.1), (0.05, 0.1), (-0.05, -0.1), (-2.0, -2.0)])
def test_the_divisor_is_held(w, divisor):
    P = torch.diag(torch.tensor([1.0, 1, 1, w]))
    torch.testing.assert_close(project_verts(torch.ones(1, 3), P), torch.full((1, 3), 1 / divisor))


def test_voxelize():
    depth = 0.67 + 0.25 * torch.tensor([0.0, 1.0, 0.5, 0.5, 0.5, 1.3])
    points = torch.tensor([[-1.0, -1], [1, 1], [0, 0], [1, -1], [0, 0.5], [0, 0]])
    before = points.clone()
    voxels = voxelize(torch.cat([points, depth[:, None]], dim=1), torch.eye(4), 5)
    assert voxels.dtype == torch.uint8
    assert voxels.nonzero().tolist() == [[0, 0, 4], [2, 0, 0], [2, 2, 2], [2, 3, 2], [4, 4, 0]]
    assert torch.equal(points, before)


def test_camera(device):
    R = torch.linalg.qr(torch.randn(3, 3, 3))[0]
    T, K = torch.randn(3, 3), torch.randn(3, 4, 4)
    camera = BlenderCamera(R=R, T=T, K=K, device=device)
    points = torch.randn(5, 3)
    view = points @ R + T[:, None]
    homogeneous = torch.cat([view, torch.ones(3, 5, 1)], dim=-1) @ K.mT
    expected = homogeneous[..., :3] / homogeneous[..., 3:]
    for cameras, want in (camera, expected), (camera[[1]], expected[1]):
        found = cameras.transform_points(points.to(device)).cpu()
        torch.testing.assert_close(found, want, rtol=1e-3, atol=1e-4)
    assert (camera.is_perspective(), camera.in_ndc(), len(camera)) == (False, True, 3)


def test_default_camera_changes_nothing():
    points = torch.randn(5, 3)
    camera = BlenderCamera()
    assert camera.R.dtype == torch.float32
    torch.testing.assert_close(camera.transform_points(points), points)


def test_pictures_of_voxels(device):
    voxels = torch.zeros(2, 4, 4, 4, device=device)
    voxels[0] = 1
    voxels[1, :, :2] = 1
    options = {"raster_settings": RasterizationSettings(image_size=32), "device": device}
    image = render_cubified_voxels(voxels, **options)
    assert image.shape == (2, 32, 32, 4)
    whole, half = image[..., 3] > 0
    assert (half <= whole).all()
    assert half.any(0).sum() == whole.any(0).sum()
    assert 0 < half.any(1).sum() < whole.any(1).sum()
    alpha = render_cubified_voxels(voxels, shader_type=SoftSilhouetteShader, **options)[..., 3]
    assert ((alpha > 0.5) == (image[..., 3] > 0)).float().mean() > 0.99
