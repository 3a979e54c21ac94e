from __future__ import annotations

import pytest
import torch

from recon_engine.ops import vert_align
from recon_engine.structures import Meshes
from recon_engine.utils import ico_sphere

MODES = [
    (mode, padding, corners)
    for mode in ("bilinear", "nearest")
    for padding in ("zeros", "border", "reflection")
    for corners in (True, False)
]


def _ramp(H, W, dtype=torch.float64, device="cpu"):
    """x in the first channel and y in the second, both from -1 to 1 between the centres of the outermost pixels."""
    y, x = (torch.linspace(-1, 1, n, dtype=dtype, device=device) for n in (H, W))
    return torch.stack([x.expand(H, W), y[:, None].expand(H, W)])[None]


def test_ramp_gives_the_place(device):
    verts = torch.rand(1, 50, 3, dtype=torch.float64, device=device) * 2 - 1
    torch.testing.assert_close(vert_align(_ramp(5, 9, device=device), verts), verts[..., :2])
    # Not aligned with the corners, the centre of the first pixel is at -1 + 1 / size.
    inner = verts * 0.7
    sizes = torch.tensor([9.0, 5.0], device=device).double()
    expected = inner[..., :2] * sizes / (sizes - 1)
    torch.testing.assert_close(vert_align(_ramp(5, 9, device=device), inner, align_corners=False), expected)


def test_outside(device):
    ramp = _ramp(4, 4, device=device)
    far = torch.tensor([[[3.0, -5.0, 0.0], [1.5, 0.0, 7.0]]], dtype=torch.float64, device=device)
    assert (vert_align(ramp, far)[0, 0] == 0).all()
    assert vert_align(ramp, far, padding_mode="border")[0].tolist() == [[1, -1], [1, 0]]
    torch.testing.assert_close(vert_align(ramp, far, padding_mode="reflection")[0, 1, 0], ramp.new_tensor(0.5))


def test_nearest(device):
    image = torch.arange(6.0, device=device).reshape(1, 1, 2, 3)
    verts = torch.tensor([[[-0.9, -0.8, 0.0], [0.2, 0.9, 0.0]]], device=device)
    assert vert_align(image, verts, interp_mode="nearest")[0, :, 0].tolist() == [0, 4]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_several_maps(dtype, device):
    maps = [torch.rand(2, C, H, W, dtype=dtype, device=device) for C, H, W in ((3, 4, 5), (1, 9, 2), (7, 1, 1))]
    verts = torch.rand(2, 6, 3, dtype=dtype, device=device)
    out = vert_align(maps, verts)
    assert out.shape == (2, 6, 11)
    assert out.dtype == dtype
    torch.testing.assert_close(out, torch.cat([vert_align(m, verts) for m in maps], dim=2))
    torch.testing.assert_close(vert_align(tuple(maps), verts, return_packed=True), out.reshape(12, 11))


def test_meshes_of_different_sizes(device):
    spheres = [ico_sphere(level, device) for level in (0, 1)]
    meshes = Meshes([s.verts_packed() for s in spheres], [s.faces_packed() for s in spheres])
    feats = torch.rand(2, 3, 8, 8, device=device)
    padded, packed = vert_align(feats, meshes), vert_align(feats, meshes, return_packed=True)
    assert padded.shape == (2, 42, 3)
    assert packed.shape == (54, 3)
    assert torch.equal(packed, torch.cat([padded[0, :12], padded[1]]))


class _Points:
    """What is asked of point clouds."""

    def __init__(self, padded, idx):
        self._padded, self._idx = padded, idx

    def points_padded(self):
        return self._padded

    def padded_to_packed_idx(self):
        return self._idx


def test_point_clouds(device):
    points, idx = torch.rand(2, 3, 3, device=device), torch.tensor([0, 3, 4, 5], device=device)
    feats = torch.rand(2, 4, 5, 5, device=device)
    clouds = _Points(points, idx)
    assert torch.equal(vert_align(feats, clouds), vert_align(feats, points))
    packed = vert_align(feats, clouds, return_packed=True)
    assert torch.equal(packed, vert_align(feats, points).reshape(6, 4)[idx])


@pytest.mark.parametrize(("mode", "padding", "corners"), MODES)
def test_gradcheck(mode, padding, corners):
    feats = torch.rand(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    verts = (torch.rand(2, 3, 3, dtype=torch.float64) * 2.6 - 1.3).requires_grad_()
    assert torch.autograd.gradcheck(lambda f, v: vert_align(f, v, False, mode, padding, corners), (feats, verts))


def test_nothing_to_sample(device):
    feats = torch.rand(2, 3, 4, 4, device=device, requires_grad=True)
    out = vert_align(feats, torch.zeros(2, 0, 3, device=device))
    assert out.shape == (2, 0, 3)
    out.sum().backward()
    assert (feats.grad == 0).all()
    assert vert_align(feats[:0], torch.zeros(0, 5, 3, device=device)).shape == (0, 5, 3)


def test_bad_input():
    feats, verts = torch.zeros(2, 1, 3, 3), torch.zeros(2, 4, 3)
    with pytest.raises(ValueError, match=r"verts tensor should be 3 dimensional.*\(4, 3\)"):
        vert_align(feats, verts[0])
    with pytest.raises(ValueError, match="`points_padded` or `verts_padded` attribute: vert_align got int"):
        vert_align(feats, 3)
    with pytest.raises(ValueError, match=r"feats must have shape \(N, C, H, W\).*\(1, 3, 3\)"):
        vert_align(feats[0], verts)
    with pytest.raises(ValueError, match=r"inconsistent batch dimension.*2 feature maps for 1"):
        vert_align(feats, verts[:1])
    with pytest.raises(ValueError, match=r"feats are torch.float64 but verts are torch.float32"):
        vert_align(feats.double(), verts)
    with pytest.raises(ValueError, match="at least one feature map"):
        vert_align([], verts)
    with pytest.raises(ValueError, match="mode"):
        vert_align(feats, verts, interp_mode="cubic")


@pytest.mark.filterwarnings("ignore")
def test_equals_pytorch3d():
    p3d = pytest.importorskip("pytorch3d.ops.vert_align", exc_type=ImportError)
    maps, verts = [torch.rand(2, 3, 5, 6), torch.rand(2, 2, 3, 3)], torch.rand(2, 20, 3) * 3 - 1.5
    for mode, padding, corners in MODES:
        for packed in (False, True):
            arguments = (maps, verts, packed, mode, padding, corners)
            torch.testing.assert_close(vert_align(*arguments), p3d.vert_align(*arguments))
