from __future__ import annotations

import pytest
import torch

from recon_engine.ops import cubify
from recon_engine.ops.cubify import ravel_index, unravel_index

ALIGNS = ["topleft", "corner", "center"]


def _block(a, b, c, size=9):
    voxels = torch.zeros(1, size, size, size)
    voxels[0, 2 : 2 + c, 3 : 3 + b, 1 : 1 + a] = 1
    return voxels


def _volume(verts, faces):
    a, b, c = verts[faces].unbind(1)
    return (a * torch.linalg.cross(b, c)).sum() / 6


def _is_closed(faces):
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    keys, turned = edges[:, 0] * 10**6 + edges[:, 1], edges[:, 1] * 10**6 + edges[:, 0]
    return torch.equal(keys.sort().values, turned.sort().values)


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 1, 1), (2, 3, 4), (5, 5, 5), (1, 4, 6)])
def test_block(size, device):
    a, b, c = size
    mesh = cubify(_block(*size).to(device), 0.5)
    verts, faces = mesh.verts_packed(), mesh.faces_packed()
    assert len(faces) == 4 * (a * b + b * c + c * a)
    assert len(verts) == (a + 1) * (b + 1) * (c + 1) - (a - 1) * (b - 1) * (c - 1)
    assert _is_closed(faces)
    # Outward normals; a voxel is a quarter long.
    torch.testing.assert_close(_volume(verts, faces), verts.new_tensor(a * b * c / 64.0))
    torch.testing.assert_close(verts.amin(0), verts.new_tensor([1, 3, 2]) / 4 - 1)
    torch.testing.assert_close(verts.amax(0), verts.new_tensor([1 + a, 3 + b, 2 + c]) / 4 - 1)


@pytest.mark.parametrize("align", ALIGNS)
def test_alignment(align, device):
    voxels = torch.ones(1, 3, 4, 5, device=device)
    verts = cubify(voxels, 0.5, align=align).verts_packed()
    sizes = torch.tensor([5.0, 4.0, 3.0], device=device)
    low, high = {
        "topleft": (-torch.ones_like(sizes), 2 * sizes / (sizes - 1) - 1),
        "corner": (-torch.ones_like(sizes), torch.ones_like(sizes)),
        "center": (-1 - 1 / (sizes - 1), 1 + 1 / (sizes - 1)),
    }[align]
    torch.testing.assert_close(verts.amin(0), low)
    torch.testing.assert_close(verts.amax(0), high)


@pytest.mark.parametrize("align", ALIGNS)
def test_noise_is_closed(align, device):
    voxels = torch.rand(3, 5, 6, 7, dtype=torch.float64, device=device)
    meshes = cubify(voxels, 0.6, align=align)
    assert meshes.verts_packed().dtype == torch.float64
    lengths = [1 - (align != "corner") / n for n in (5, 6, 7)]
    voxel = 8 / torch.tensor([5.0, 6, 7]).prod() / torch.tensor(lengths).prod()
    for n in range(3):
        verts, faces = meshes.get_mesh_verts_faces(n)
        assert _is_closed(faces)
        assert (faces.unique() == torch.arange(len(verts), device=device)).all()
        assert len(verts.unique(dim=0)) == len(verts)
        torch.testing.assert_close(_volume(verts, faces).item(), ((voxels[n] >= 0.6).sum() * voxel).item())


def test_threshold_counts_as_occupied(device):
    voxels = torch.tensor([0.2, 0.1999, float("nan")], device=device).reshape(3, 1, 1, 1).expand(3, 2, 2, 2)
    assert cubify(voxels, 0.2).num_faces_per_mesh().tolist() == [48, 0, 0]


def test_empty_meshes_in_a_batch(device):
    voxels = torch.cat([torch.zeros(1, 9, 9, 9), _block(1, 2, 1), torch.zeros(1, 9, 9, 9)]).to(device)
    meshes = cubify(voxels, 0.5)
    assert meshes.num_verts_per_mesh().tolist() == [0, 12, 0]
    assert cubify(voxels[:1], 0.5).isempty()
    assert len(cubify(voxels[:0], 0.5)) == 0
    assert cubify(torch.zeros(2, 0, 3, 3, device=device), 0.5).num_faces_per_mesh().tolist() == [0, 0]


@pytest.mark.parametrize("align", ALIGNS)
def test_a_single_voxel_has_finite_vertices(align, device):
    verts = cubify(torch.ones(1, 1, 1, 1, device=device), 0.5, align=align).verts_packed()
    assert verts.isfinite().all()
    torch.testing.assert_close(verts.amax(0) - verts.amin(0), torch.full((3,), 2.0, device=device))


def test_colours(device):
    voxels = torch.rand(2, 3, 4, 5, device=device)
    place = torch.stack(torch.meshgrid(*(torch.arange(n).double() for n in (3, 4, 5)), indexing="ij"))
    feats = place.float().expand(2, 3, 3, 4, 5).to(device).clone().requires_grad_()
    meshes = cubify(voxels, 0.5, feats=feats, align="center")
    for n in range(2):
        colors = meshes.textures.atlas_list()[n]
        verts, faces = meshes.get_mesh_verts_faces(n)
        assert colors.shape == (len(faces), 1, 1, 3)
        # The voxel of a face is beside its middle, against the normal.
        a, b, c = verts[faces].unbind(1)
        sizes = torch.tensor([5.0, 4.0, 3.0], device=device) - 1
        normal = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=1)
        quad_middle = (torch.maximum(torch.maximum(a, b), c) + torch.minimum(torch.minimum(a, b), c)) / 2
        voxel = (quad_middle + 1) / 2 * sizes - normal / 2
        torch.testing.assert_close(colors[:, 0, 0].flip(1), voxel)
    (grad,) = torch.autograd.grad(meshes.textures.atlas_packed().sum(), feats)
    assert grad.sum() == 3 * len(meshes.faces_packed())
    assert cubify(voxels, 0.5, feats=feats).textures is None


def test_bad_input():
    voxels = torch.zeros(1, 2, 3, 4)
    with pytest.raises(ValueError, match=r"Align mode must be one of \(topleft, corner, center\).*'left'"):
        cubify(voxels, 0.5, align="left")
    with pytest.raises(ValueError, match=r"voxels must have shape \(N, D, H, W\), got \(2, 3, 4\)"):
        cubify(voxels[0], 0.5)
    with pytest.raises(ValueError, match=r"feats must have shape \(1, K, 2, 3, 4\), got \(1, 5, 2, 3, 3\)"):
        cubify(voxels, 0.5, feats=torch.zeros(1, 5, 2, 3, 3))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("align", ALIGNS)
def test_equals_pytorch3d(align):
    p3d = pytest.importorskip("pytorch3d.ops", exc_type=ImportError)
    voxels, feats = torch.rand(2, 4, 5, 6), torch.rand(2, 3, 4, 5, 6)
    ours = cubify(voxels, 0.5, feats=feats, align=align)
    theirs = p3d.cubify(voxels, 0.5, feats=feats, align=align)
    for n in range(2):
        torch.testing.assert_close(ours.verts_list()[n], theirs.verts_list()[n])
        assert torch.equal(ours.faces_list()[n], theirs.faces_list()[n])
    if align == "center":
        torch.testing.assert_close(ours.textures.atlas_padded(), theirs.textures.atlas_padded())


def test_indices_of_flattened_arrays():
    places = torch.arange(2 * 3 * 4 * 5)
    indices = unravel_index(places, (2, 3, 4, 5))
    assert torch.equal(torch.arange(120).view(2, 3, 4, 5)[indices.unbind(1)], places)
    assert torch.equal(ravel_index(indices[:60, 1:], (3, 4, 5)), places[:60])
    with pytest.raises(ValueError, match="dims must have 4 elements"):
        unravel_index(places, (2, 3, 4))
    with pytest.raises(ValueError, match=r"idx must have shape \(P, 3\), got \(120, 4\)"):
        ravel_index(indices, (3, 4, 5))
