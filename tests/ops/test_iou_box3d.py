from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import recon_engine
from recon_engine._op import reference
from recon_engine.ops.iou_box3d import _box3d_overlap, _box_planes, _box_triangles, _overlap, box3d_overlap
from recon_engine.transforms import random_rotations

UNIT = torch.tensor([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]]).double()
# A frustum and the same, turned and moved: PyTorch3D's own example, whose volumes MeshLab has computed.
SKEW = torch.tensor(
    [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [-2, -2, 2], [2, -2, 2], [2, 2, 2], [-2, 2, 2]], dtype=torch.float64
)


def _boxes(n, spread=1.0, dtype=torch.float64):
    sizes, turns = 0.5 + torch.rand(n, 1, 3, dtype=torch.float64), random_rotations(n, dtype=torch.float64)
    return ((UNIT - 0.5) * sizes @ turns + spread * torch.rand(n, 1, 3, dtype=torch.float64)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matches_reference(dtype, device):
    boxes1, boxes2 = (_boxes(n, 1.5, dtype).to(device) for n in (7, 9))
    vol, iou = box3d_overlap(boxes1, boxes2)
    with reference():
        expected_vol, expected_iou = _overlap(boxes1, boxes2)
    assert (vol > 0).any()
    assert (vol == 0).any()
    tolerance = {"rtol": 0, "atol": 1e-6 if dtype == torch.float32 else 1e-11}
    torch.testing.assert_close(vol, expected_vol, **tolerance)
    torch.testing.assert_close(iou, expected_iou, **tolerance)


def test_boxes_along_the_axes(device):
    """Overlaps of intervals, among them boxes with common faces, edges and corners, and boxes in boxes."""
    lows = torch.randint(0, 4, (40, 3), dtype=torch.float64, device=device)
    sizes = torch.randint(1, 4, (40, 3), dtype=torch.float64, device=device)
    boxes = UNIT.to(device) * sizes[:, None] + lows[:, None]
    highs = lows + sizes
    shared = (torch.minimum(highs[:, None], highs) - torch.maximum(lows[:, None], lows)).clamp(min=0).prod(-1)
    volumes = sizes.prod(-1)
    turn = random_rotations(1, dtype=torch.float64, device=device)[0]
    for moved in (boxes, boxes.flip(1), boxes @ turn + 5):
        vol, iou = box3d_overlap(moved, moved)
        torch.testing.assert_close(vol, shared, rtol=0, atol=1e-11)
        torch.testing.assert_close(iou, shared / (volumes[:, None] + volumes - shared), rtol=0, atol=1e-11)


def test_volumes_as_scipy_finds_them():
    spatial = pytest.importorskip("scipy.spatial")
    boxes1, boxes2 = (
        _boxes(6, 0.7),
        torch.cat([_boxes(5, 0.7), (SKEW @ random_rotations(1, dtype=torch.float64)[0])[None]]),
    )
    vol, _ = box3d_overlap(boxes1, boxes2)
    for i, a in enumerate(boxes1.numpy()):
        for j, b in enumerate(boxes2.numpy()):
            spaces = np.concatenate([spatial.ConvexHull(box).equations for box in (a, b)])
            inside = _point_inside(spaces)
            if inside is None:
                assert vol[i, j] < 1e-9
                continue
            corners = spatial.HalfspaceIntersection(spaces, inside).intersections
            assert vol[i, j].item() == pytest.approx(spatial.ConvexHull(corners).volume, rel=1e-9)


def _point_inside(spaces):
    """The centre of the largest ball inside of all half-spaces, if there is one."""
    linprog = pytest.importorskip("scipy.optimize").linprog
    norms = np.linalg.norm(spaces[:, :3], axis=1, keepdims=True)
    bounds = [(None, None)] * 3 + [(0, None)]
    found = linprog([0, 0, 0, -1], np.hstack([spaces[:, :3], norms]), -spaces[:, 3], bounds=bounds)
    return found.x[:3] if found.status == 0 and found.x[3] > 1e-9 else None


@pytest.mark.parametrize("degrees", [45.0, 30.0, 2.0, 1.0, 1e-2, 1e-4, 1e-6, 1e-8])
def test_a_turned_cube(degrees):
    """Over a unit square turned by an angle a the common area is 2 / (1 + sin a + cos a)."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = torch.tensor([[c, s, 0], [-s, c, 0], [0, 0, 1]], dtype=torch.float64)
    cube = (UNIT - 0.5)[None]
    expected = 2 / (1 + s + c)
    for boxes in ((cube, cube @ turn), (cube @ turn, cube), (cube + 1e3, cube @ turn + 1e3)):
        assert box3d_overlap(*boxes)[0].item() == pytest.approx(expected, abs=1e-8)
    vol, _ = box3d_overlap(cube.float(), (cube @ turn).float())
    assert vol.item() == pytest.approx(expected, abs=1e-6)


def test_skewed_bodies():
    other = torch.tensor(
        [
            [2.015995, 0.695233, 2.152806],
            [2.832533, 0.663448, 1.576389],
            [2.675445, -0.309592, 1.407520],
            [1.858907, -0.277806, 1.983936],
            [-0.413922, 3.161758, 2.044343],
            [2.852230, 3.034615, -0.261321],
            [2.223878, -0.857545, -0.936800],
            [-1.042273, -0.730402, 1.368864],
        ],
        dtype=torch.float64,
    )
    for boxes in ((SKEW, other), (other, SKEW)):
        vol, iou = box3d_overlap(boxes[0][None], boxes[1][None], eps=1e-3)
        assert vol.item() == pytest.approx(5.431122, abs=1e-4)
        assert iou.item() == pytest.approx(5.431122 / (28.000005 - 5.431122), abs=1e-4)


@pytest.mark.parametrize("offset", [0.0, 10.0, 1e3, 1e5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_overlap_with_itself_is_one_anywhere(offset, dtype, device):
    boxes = (_boxes(60) + offset).to(device, dtype)
    vol, iou = _overlap(boxes, boxes)  # without the check: float32 corners at 1e5 are no longer coplanar to 1e-4
    assert (iou.diagonal() == 1).all()
    assert (iou <= 1).all()
    near_origin, _ = _overlap(boxes - offset, boxes - offset)
    torch.testing.assert_close(vol, near_origin, rtol=0, atol=1e-5 if offset < 1e5 else 0.2)


def test_symmetric_and_not_above_one_where_boxes_almost_agree():
    box = _boxes(1)
    for size in (1e-3, 1e-5, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12, 1e-15):
        noisy = (box + size * torch.rand(30, 1, 3, dtype=torch.float64)) @ (
            torch.eye(3).double() + size * torch.randn(3, 3)
        )
        vol, iou = box3d_overlap(box.expand(3, 8, 3), noisy)
        assert (iou <= 1).all()
        assert (iou >= 1 - 30 * size - 1e-7).all()
        back, _ = box3d_overlap(noisy, box)
        torch.testing.assert_close(vol[:1].T, back[:, :1], rtol=0, atol=1e-7)


def test_any_order_of_corners_and_mirrored_boxes():
    boxes = _boxes(8, 0.5)
    mirrored = boxes[:, [1, 0, 3, 2, 5, 4, 7, 6]]  # the same bodies, their corners in the other sense
    torch.testing.assert_close(box3d_overlap(mirrored, boxes)[0], box3d_overlap(boxes, boxes)[0])


def test_wrong_boxes():
    good, bad = UNIT.float()[None], UNIT.float()[None].repeat(3, 1, 1)
    bad[1] += torch.rand(8, 3)
    with pytest.raises(ValueError, match=r"Plane vertices are not coplanar: face \d of boxes2\[1\], with eps=0.0001"):
        box3d_overlap(good, bad)
    bad[1] = 0
    with pytest.raises(ValueError, match=r"Planes have zero areas: triangle 0 of boxes1\[1\]"):
        box3d_overlap(bad, good)
    with pytest.raises(ValueError, match=r"Planes have zero areas"):
        box3d_overlap(0.01 * good, good)
    assert box3d_overlap(0.01 * good, good, eps=1e-6)[0].item() == pytest.approx(1e-6)
    with pytest.raises(ValueError, match=r"coplanar"):
        box3d_overlap(good * float("nan"), good)
    with pytest.raises(ValueError, match=r"must be of shape \(8, 3\): boxes2 is \(1, 3, 8\)"):
        box3d_overlap(good, good.mT)


def test_no_gradient():
    boxes = UNIT[None].clone().requires_grad_()
    vol, _ = box3d_overlap(boxes, boxes)
    with pytest.raises(ValueError, match="box3d_overlap backward is not supported"):
        vol.sum().backward()


def test_empty(device):
    none, one = torch.zeros(0, 8, 3, device=device), UNIT.float()[None].to(device)
    assert box3d_overlap(none, one)[0].shape == (0, 1)
    assert box3d_overlap(one, none)[1].shape == (1, 0)


def _pairs():
    generator = np.random.default_rng(0)
    turns = np.linalg.qr(generator.standard_normal((8, 3, 3)))[0]
    boxes = (UNIT.numpy() - 0.5) * (0.5 + generator.random((8, 1, 3))) @ turns + generator.random((8, 1, 3))
    return torch.from_numpy(boxes).float().split(4)


def test_recorded():
    """PyTorch3D takes planes that are 2.5 degrees apart for the same one: near enough is not equal there."""
    recorded = np.load(Path(__file__).parents[1] / "reference" / "point_mesh.npz")
    vol, iou = box3d_overlap(*_pairs())
    np.testing.assert_allclose(vol, recorded["box_vol"], atol=1e-4)
    np.testing.assert_allclose(iou, recorded["box_iou"], atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_live():
    ops = pytest.importorskip("pytorch3d.ops")
    theirs = pytest.importorskip("pytorch3d.ops.iou_box3d")
    for ours, expected in zip(box3d_overlap(*_pairs()), ops.box3d_overlap(*_pairs()), strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)
    assert _box_planes == theirs._box_planes
    assert _box_triangles == theirs._box_triangles


def test_public_names():
    assert recon_engine.ops.box3d_overlap is box3d_overlap
    assert issubclass(_box3d_overlap, torch.autograd.Function)
