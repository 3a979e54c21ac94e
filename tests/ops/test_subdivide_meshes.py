from __future__ import annotations

import pytest
import torch

from recon_engine.ops.subdivide_meshes import SubdivideMeshes
from recon_engine.structures import Meshes
from recon_engine.utils import ico_sphere, torus


def mixed_batch(device="cpu", dtype=torch.float32) -> Meshes:
    """Three meshes of different sizes, one of them with an open border."""
    quad = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0.5], [0, 1, 0]], dtype=dtype, device=device)
    quad_faces = torch.tensor([[0, 1, 2], [0, 2, 3]], device=device)
    sphere, ring = ico_sphere(1, device), torus(0.3, 1.0, 4, 5, device)
    verts = [sphere.verts_packed().to(dtype), quad, ring.verts_packed().to(dtype)]
    return Meshes(verts=verts, faces=[sphere.faces_packed(), quad_faces, ring.faces_packed()])


def surface_area(mesh: Meshes) -> torch.Tensor:
    a, b, c = mesh.verts_packed()[mesh.faces_packed()].unbind(1)
    return torch.linalg.cross(b - a, c - a).norm(dim=1).sum() / 2


def test_one_triangle():
    verts = torch.tensor([[0.0, 0, 0], [2, 0, 0], [0, 2, 0]])
    mesh = SubdivideMeshes()(Meshes(verts=[verts], faces=[torch.tensor([[0, 1, 2]])]))
    # Edges sorted: 01, 02, 12.
    midpoints = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 1, 0]])
    assert torch.equal(mesh.verts_packed(), torch.cat([verts, midpoints]))
    assert mesh.faces_packed().tolist() == [[0, 3, 4], [1, 5, 3], [2, 4, 5], [5, 4, 3]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_mesh_of_a_mixed_batch_as_alone(dtype, device):
    batch = mixed_batch(device, dtype)
    split = SubdivideMeshes()(batch)
    assert split.verts_packed().dtype == dtype
    for i in range(len(batch)):
        alone = SubdivideMeshes()(batch[i])
        assert torch.equal(split.verts_list()[i], alone.verts_packed())
        assert torch.equal(split.faces_list()[i], alone.faces_packed())
        assert len(alone.faces_packed()) == 4 * len(batch.faces_list()[i])
        torch.testing.assert_close(surface_area(alone), surface_area(batch[i]))


def test_kept_topology_equals_fresh(device):
    sphere = ico_sphere(2, device)
    module = SubdivideMeshes(sphere)
    moved = sphere.extend(3).offset_verts(torch.randn(3 * len(sphere.verts_packed()), 3, device=device))
    kept, fresh = module(moved), SubdivideMeshes()(moved)
    torch.testing.assert_close(kept.verts_packed(), fresh.verts_packed())
    assert torch.equal(kept.faces_packed(), fresh.faces_packed())


def test_features(device):
    batch = mixed_batch(device)
    split, feats = SubdivideMeshes()(batch, batch.verts_packed())
    assert torch.equal(feats, split.verts_packed())
    pair = ico_sphere(1, device).extend(2)
    packed = torch.randn(len(pair.verts_packed()), 5, device=device)
    module = SubdivideMeshes(pair)
    _, feats = module(pair, packed)
    _, fresh = SubdivideMeshes()(pair, packed)
    torch.testing.assert_close(feats.reshape(-1, 5), fresh)
    _, padded = module(pair, packed.reshape(2, -1, 5))
    assert torch.equal(padded, feats)


@pytest.mark.parametrize("kept", [True, False])
def test_gradcheck(kept):
    mesh = Meshes(verts=[torch.rand(4, 3, dtype=torch.float64)], faces=[torch.tensor([[0, 1, 2], [0, 2, 3]])])
    module = SubdivideMeshes(mesh if kept else None)

    def split(verts: torch.Tensor, feats: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        new, new_feats = module(Meshes(verts=[verts], faces=mesh.faces_list()), feats)
        return new.verts_packed(), new_feats

    verts = mesh.verts_packed().clone().requires_grad_()
    feats = torch.rand(4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(split, (verts, feats))


def test_other_topology_is_refused():
    module = SubdivideMeshes(ico_sphere(1))
    with pytest.raises(ValueError, match=r"must have the 42 vertices .* got \[12\]; for other meshes"):
        module(ico_sphere(0))
    with pytest.raises(ValueError, match="pass a mesh to the constructor"):
        SubdivideMeshes().subdivide_homogeneous(ico_sphere(0))


@pytest.mark.parametrize("kept", [True, False])
def test_shape_error(kept):
    mesh = ico_sphere(0)
    with pytest.raises(ValueError, match=r"feats must have shape \(12, D\).*, got \(11, 2\)"):
        SubdivideMeshes(mesh if kept else None)(mesh, torch.zeros(11, 2))


def test_state_dict_has_the_names_of_pytorch3d():
    assert list(SubdivideMeshes(ico_sphere(0)).state_dict()) == ["_subdivided_faces"]


def test_equals_pytorch3d():
    p3d = pytest.importorskip("pytorch3d.ops")
    structures = pytest.importorskip("pytorch3d.structures")
    batch = mixed_batch()
    theirs = structures.Meshes(verts=batch.verts_list(), faces=batch.faces_list())
    feats = torch.rand(len(batch.verts_packed()), 4)
    mesh, new_feats = SubdivideMeshes()(batch, feats)
    expected, expected_feats = p3d.SubdivideMeshes()(theirs, feats)
    assert torch.equal(new_feats, expected_feats)
    for i in range(len(batch)):
        assert torch.equal(mesh.verts_list()[i], expected.verts_list()[i])
        assert torch.equal(mesh.faces_list()[i], expected.faces_list()[i])
    mesh = SubdivideMeshes(batch[2])(batch[2].extend(2))
    expected = p3d.SubdivideMeshes(theirs[2])(theirs[2].extend(2))
    assert torch.equal(mesh.verts_padded(), expected.verts_padded())
    assert torch.equal(mesh.faces_padded(), expected.faces_padded())
