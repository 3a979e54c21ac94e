from __future__ import annotations

import gc
import runpy
import warnings
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from recon_engine import structures
from recon_engine.structures import Meshes, join_meshes_as_batch, join_meshes_as_scene

REFERENCE = Path(__file__).parents[1] / "reference"
RECORD = runpy.run_path(str(REFERENCE / "record_structures.py"))
TETRAHEDRON = torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])


def ragged(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Meshes:
    """Three meshes of different sizes, the middle one without faces."""
    verts = [torch.randn(V, 3, device=device, dtype=dtype) for V in (4, 3, 6)]
    faces = [TETRAHEDRON, TETRAHEDRON[:0], torch.cat([TETRAHEDRON, TETRAHEDRON + 2])]
    return Meshes(verts=verts, faces=[f.to(device) for f in faces])


class Textures:
    """The smallest object that `Meshes` takes for textures: one number for each mesh."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    def check_shapes(self, N: int, V: int, F: int) -> bool:
        return len(self.values) == N

    def sample_textures(self, fragments: Any, faces_packed: torch.Tensor) -> Any:
        return fragments, faces_packed

    def __getitem__(self, index: Any) -> Textures:
        return Textures(self.values[[index] if isinstance(index, int) else index])

    def extend(self, N: int) -> Textures:
        return Textures(self.values.repeat_interleave(N))

    def submeshes(self, vertex_ids: Any, faces_ids: Any) -> Textures:
        counts = torch.tensor([len(parts) for parts in vertex_ids])
        return Textures(self.values.repeat_interleave(counts))

    def join_batch(self, others: list[Textures]) -> Textures:
        return Textures(torch.cat([self.values, *(other.values for other in others)]))

    def join_scene(self) -> Textures:
        return Textures(self.values.sum()[None])

    def clone(self) -> Textures:
        return Textures(self.values.clone())

    def detach(self) -> Textures:
        return Textures(self.values.detach())

    def to(self, device: Any) -> Textures:
        return Textures(self.values.to(device))


# PyTorch3D


def assert_same_answers(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected, rtol=1e-5, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


def test_recorded_pytorch3d():
    recorded = {name: torch.from_numpy(array) for name, array in np.load(REFERENCE / "structures.npz").items()}
    assert_same_answers(RECORD["answers"](structures), recorded)


def test_live_pytorch3d():
    theirs = pytest.importorskip("pytorch3d.structures")
    assert_same_answers(RECORD["answers"](structures), RECORD["answers"](theirs))


def test_live_pytorch3d_laplacian_and_faces():
    theirs = pytest.importorskip("pytorch3d.structures")
    verts, faces, _ = RECORD["inputs"]()
    a, b = Meshes(verts, faces), theirs.Meshes(verts, faces)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about the way in which PyTorch3D makes sparse matrices
        expected = b.laplacian_packed().to_dense()
    torch.testing.assert_close(a.laplacian_packed().to_dense(), expected)
    pytest.importorskip("recon_engine._C", reason="the compiled module is not built")
    torch.testing.assert_close(a.faces_areas_packed(), b.faces_areas_packed())
    torch.testing.assert_close(a.faces_normals_padded(), b.faces_normals_padded(), atol=1e-5, rtol=1e-5)


def test_every_public_method_of_pytorch3d_exists():
    theirs = pytest.importorskip("pytorch3d.structures")
    for name in dir(theirs.Meshes):
        if not name.startswith("_") or name.startswith("_compute"):
            assert hasattr(Meshes, name), name


# Forms


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_list_packed_and_padded_agree(dtype, device):
    meshes = ragged(device, dtype)
    again = Meshes(verts=meshes.verts_padded(), faces=meshes.faces_padded())
    assert again.num_verts_per_mesh().tolist() == [6, 6, 6]  # every row of padded vertices is a vertex
    for a, b in zip(meshes.faces_list(), again.faces_list(), strict=True):
        assert torch.equal(a, b)
    padded, packed = meshes.verts_padded(), meshes.verts_packed()
    assert padded.dtype == packed.dtype == dtype
    assert torch.equal(padded.reshape(-1, 3)[meshes.verts_padded_to_packed_idx()], packed)
    for n, (verts, faces) in enumerate(zip(meshes.verts_list(), meshes.faces_list(), strict=True)):
        assert torch.equal(padded[n, : len(verts)], verts)
        assert (padded[n, len(verts) :] == 0).all()
        assert torch.equal(meshes.faces_padded()[n, : len(faces)], faces)
        assert (meshes.faces_padded()[n, len(faces) :] == -1).all()
        first = meshes.mesh_to_verts_packed_first_idx()[n]
        assert torch.equal(meshes.faces_packed()[meshes.faces_packed_to_mesh_idx() == n] - first, faces)
    assert meshes.valid.tolist() == [True, False, True]
    assert (len(meshes), meshes._N, meshes._V, meshes._F, meshes.equisized) == (3, 3, 6, 8, False)


def test_gradients_flow_through_every_form():
    leaves = [torch.randn(V, 3, dtype=torch.float64, requires_grad=True) for V in (4, 3, 6)]
    faces = ragged().faces_list()

    def forms(*verts):
        meshes = Meshes(list(verts), faces)
        moved = meshes.offset_verts(torch.ones(13, 3, dtype=torch.float64)).scale_verts(2.0)
        again = moved.update_padded(moved.verts_padded() * 3)
        return (
            meshes.verts_packed(),
            again.verts_packed(),
            again[1:].clone().verts_padded(),
            meshes.extend(2).verts_packed(),
            meshes.verts_normals_padded(),
            meshes.get_bounding_boxes(),
            meshes.submeshes([[], [], [torch.tensor([0, 5])]]).verts_packed(),
            join_meshes_as_scene([meshes, moved]).verts_packed(),
        )

    assert torch.autograd.gradcheck(forms, leaves)


def test_faces_of_other_dtypes_and_with_padding_rows():
    padding = -torch.ones(2, 3, dtype=torch.int64)
    for faces in (TETRAHEDRON.int(), TETRAHEDRON.float(), torch.cat([padding, TETRAHEDRON, padding])):
        meshes = Meshes([torch.rand(4, 3)], [faces])
        assert torch.equal(meshes.faces_packed(), TETRAHEDRON)
    batch = torch.stack([torch.cat([TETRAHEDRON, padding]), torch.cat([TETRAHEDRON[:2], padding, padding])])
    meshes = Meshes(torch.rand(2, 4, 3), batch)
    assert meshes.num_faces_per_mesh().tolist() == [4, 2]
    assert (meshes._F, meshes.equisized) == (4, False)
    assert torch.equal(meshes.faces_packed(), torch.cat([TETRAHEDRON, TETRAHEDRON[:2] + 4]))


def test_noncontiguous_input():
    verts = torch.randn(3, 4).t()
    faces = TETRAHEDRON.t().contiguous().t()
    meshes, plain = Meshes([verts], [faces]), Meshes([verts.contiguous()], [faces.contiguous()])
    assert torch.equal(meshes.verts_packed(), plain.verts_packed())
    assert torch.equal(meshes.edges_packed(), plain.edges_packed())
    assert torch.equal(meshes.verts_normals_packed(), plain.verts_normals_packed())


# Empty batches and meshes


@pytest.mark.parametrize("N", [0, 1, 3])
def test_empty(N):
    empty = torch.tensor([])
    for meshes in (
        Meshes([empty] * N, [empty.long()] * N),
        Meshes(torch.zeros(N, 0, 3), torch.zeros(N, 0, 3, dtype=torch.int64)),
    ):
        assert len(meshes) == N
        assert meshes.isempty()
        assert meshes.verts_packed().shape == meshes.faces_packed().shape == (0, 3)
        assert meshes.verts_padded().shape == meshes.faces_padded().shape == (N, 0, 3)
        assert meshes.edges_packed().shape == (0, 2)
        assert meshes.num_edges_per_mesh().tolist() == [0] * N
        assert len(meshes.verts_list()) == len(meshes.faces_list()) == len(meshes.verts_normals_list()) == N
        assert meshes.verts_normals_padded().shape == (N, 0, 3)
        assert meshes.laplacian_packed().shape == (0, 0)
        assert meshes.get_bounding_boxes().shape == (N, 3, 2)
        assert len(meshes.extend(2)) == 2 * N
        assert len(meshes.clone()) == len(meshes.offset_verts(torch.zeros(0, 3))) == len(meshes[:]) == N
        assert len(join_meshes_as_batch([meshes, ragged()])) == N + 3
        assert len(join_meshes_as_scene(meshes.extend(2))) == 1


def test_vertices_without_faces_are_kept():
    """PyTorch3D forgets all vertices of a batch in which no mesh has faces."""
    meshes = Meshes([torch.rand(5, 3)], [torch.zeros(0, 3, dtype=torch.int64)])
    assert meshes.isempty()
    assert meshes.verts_packed().shape == (5, 3)
    assert meshes.verts_padded().shape == (1, 5, 3)
    assert meshes.num_verts_per_mesh().tolist() == [5]
    assert meshes.verts_normals_packed().tolist() == [[0.0, 0.0, 0.0]] * 5


# Shared topology


def test_topology_is_shared_by_everything_that_keeps_the_faces(device):
    meshes = ragged(device)
    topology, edges = meshes.topology(), meshes.edges_packed()
    padded = meshes.verts_padded()
    copies = [
        meshes.offset_verts(torch.ones(13, 3, device=device)),
        meshes.offset_verts(torch.ones(3, device=device)),
        meshes.scale_verts(2.0),
        meshes.update_padded(padded + 1),
        meshes.detach(),
        meshes.clone(),
        meshes.to(device),
        meshes.to(device, copy=True),
    ]
    for copy in copies:
        assert copy.topology() is topology
    for copy in copies[:5]:
        assert copy.edges_packed() is edges
        assert copy.faces_packed() is meshes.faces_packed()
    assert meshes.offset_verts_(torch.ones(13, 3, device=device)).topology() is topology
    assert meshes.scale_verts_(2.0).topology() is topology


@pytest.mark.parametrize("is_padded", [False, True])
def test_topology_of_the_same_face_tensors_is_found_again(is_padded):
    verts, faces = torch.rand(2, 4, 3), torch.stack([TETRAHEDRON, TETRAHEDRON.flip(0)])
    given = (verts, faces) if is_padded else (list(verts), list(faces))
    meshes = Meshes(*given)
    again = Meshes(verts + 1 if is_padded else list(verts + 1), given[1])
    assert again.topology() is meshes.topology()
    torch.testing.assert_close(again.verts_packed(), meshes.verts_packed() + 1)
    more = torch.rand(2, 5, 3)
    assert Meshes(more if is_padded else list(more), given[1]).topology() is not meshes.topology()
    equal = faces.clone()
    assert Meshes(given[0], equal if is_padded else list(equal)).topology() is not meshes.topology()
    # Faces that were changed in place are other faces.
    again = Meshes(*given)
    old_edges = again.faces_packed_to_edges_packed().clone()
    faces[0, 0] = torch.tensor([0, 1, 2])
    changed = Meshes(*given)
    assert changed.topology() is not again.topology()
    assert not torch.equal(changed.faces_packed_to_edges_packed(), old_edges)
    faces[1, 0] = 9
    with pytest.raises(ValueError, match="has index 9"):
        Meshes(*given)


def test_topologies_are_not_kept_alive():
    faces = TETRAHEDRON.clone()
    topology = weakref.ref(Meshes([torch.rand(4, 3)], [faces]).topology())
    assert topology() is None
    meshes = Meshes([torch.rand(4, 3)], [faces])
    tensor, topology = weakref.ref(faces), weakref.ref(meshes.topology())
    del faces, meshes
    gc.collect()
    assert topology() is None
    assert tensor() is None


def test_inference_mode():
    with torch.inference_mode():
        faces = TETRAHEDRON.clone()
        for _ in range(2):
            assert Meshes([torch.rand(4, 3)], [faces]).edges_packed().shape == (6, 2)


def test_clone_shares_no_tensor():
    meshes = ragged()
    forms = ("verts_packed", "verts_padded", "faces_packed", "faces_padded", "edges_packed", "verts_normals_packed")
    for name in forms:
        getattr(meshes, name)()
    copy = meshes.clone()
    for name in forms:
        a, b = getattr(meshes, name)(), getattr(copy, name)()
        assert torch.equal(a, b)
        assert a.untyped_storage().data_ptr() != b.untyped_storage().data_ptr(), name
        b.fill_(0)
    for a, b in zip(meshes.verts_list() + meshes.faces_list(), copy.verts_list() + copy.faces_list(), strict=True):
        assert not len(a) or a.data_ptr() != b.data_ptr()
    assert meshes.faces_packed().sum() > 0
    assert meshes.edges_packed().sum() > 0


def test_offset_verts_leaves_the_original_alone():
    meshes = ragged()
    before, padded = meshes.verts_packed().clone(), meshes.verts_padded().clone()
    offsets = torch.randn(13, 3)
    moved = meshes.offset_verts(offsets)
    torch.testing.assert_close(moved.verts_packed(), before + offsets)
    torch.testing.assert_close(torch.cat(moved.verts_list()), before + offsets)
    torch.testing.assert_close(moved.verts_padded()[2, :6], (before + offsets)[7:])
    moved.offset_verts_(offsets)
    assert torch.equal(meshes.verts_packed(), before)
    assert torch.equal(meshes.verts_padded(), padded)


def test_offset_verts_in_place_accepts_a_leaf():
    """PyTorch3D writes into the padded vertices it was given."""
    padded = torch.rand(1, 4, 3, requires_grad=True)
    before = padded.detach().clone()
    meshes = Meshes(padded, TETRAHEDRON[None]).offset_verts_(torch.ones(4, 3))
    torch.testing.assert_close(meshes.verts_padded(), before + 1)
    assert torch.equal(padded.detach(), before)


def test_scale_verts():
    meshes = ragged()
    scale = torch.tensor([2.0, -1.0, 0.5], requires_grad=True)
    scaled = meshes.scale_verts(scale)
    for n, verts in enumerate(scaled.verts_list()):
        torch.testing.assert_close(verts, meshes.verts_list()[n] * scale[n])
    scaled.verts_packed().sum().backward()
    torch.testing.assert_close(scale.grad, torch.stack([v.sum() for v in meshes.verts_list()]))
    torch.testing.assert_close(meshes.scale_verts(torch.tensor(3.0)).verts_packed(), 3 * meshes.verts_packed())


def test_padding_is_not_part_of_updated_meshes():
    meshes = ragged()
    new = torch.randn(3, 6, 3)
    updated = meshes.update_padded(new)
    assert updated.verts_padded() is new
    torch.testing.assert_close(updated.verts_packed(), torch.cat([new[0, :4], new[1, :3], new[2]]))


# Normals


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vertex_normals_are_area_weighted_sums(dtype, device):
    meshes = ragged(device, dtype)
    expected = torch.zeros(13, 3, dtype=torch.float64)
    verts = meshes.verts_packed().double().cpu()
    for a, b, c in meshes.faces_packed().tolist():
        cross = torch.linalg.cross(verts[b] - verts[a], verts[c] - verts[a])
        for corner in (a, b, c):
            expected[corner] += cross
    expected = torch.nn.functional.normalize(expected, dim=1)
    torch.testing.assert_close(meshes.verts_normals_packed().cpu(), expected.to(dtype))
    assert (meshes.verts_normals_list()[1] == 0).all()


def test_assigned_normals_are_kept_by_translations_only():
    verts, normals = torch.rand(2, 4, 3), torch.rand(2, 4, 3)
    for given in (normals, list(normals)):
        meshes = Meshes(verts, TETRAHEDRON.expand(2, 4, 3), verts_normals=given)
        assert meshes.has_verts_normals()
        torch.testing.assert_close(meshes.verts_normals_padded(), normals)
        torch.testing.assert_close(meshes.offset_verts(torch.ones(3)).verts_normals_padded(), normals)
        torch.testing.assert_close(meshes.scale_verts(2.0).verts_normals_padded(), normals)
        moved = meshes.offset_verts(torch.rand(8, 3))
        assert moved.has_verts_normals()
        plain = Meshes(moved.verts_padded(), TETRAHEDRON.expand(2, 4, 3))
        assert not plain.has_verts_normals()
        torch.testing.assert_close(moved.verts_normals_padded(), plain.verts_normals_padded())


def test_face_areas_and_normals(device):
    pytest.importorskip("recon_engine._C", reason="the compiled module is not built")
    meshes = ragged(device)
    a, b, c = meshes.verts_packed()[meshes.faces_packed()].unbind(1)
    cross = torch.linalg.cross(b - a, c - a)
    torch.testing.assert_close(meshes.faces_areas_packed(), 0.5 * cross.norm(dim=1))
    torch.testing.assert_close(meshes.faces_normals_packed(), torch.nn.functional.normalize(cross, dim=1))
    assert [len(n) for n in meshes.faces_normals_list()] == [4, 0, 8]
    assert meshes.faces_normals_padded().shape == (3, 8, 3)
    doubled = meshes.scale_verts(2.0)
    torch.testing.assert_close(doubled.faces_areas_packed(), 4 * meshes.faces_areas_packed())
    torch.testing.assert_close(
        meshes.offset_verts(torch.zeros(13, 3, device=device)).faces_areas_packed(), 0.5 * cross.norm(dim=1)
    )


# Parts


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (1, [1]),
        (-1, [2]),
        (np.int64(2), [2]),
        (slice(0, 2), [0, 1]),
        (slice(None, None, -2), [2, 0]),
        ([2, 0, 0], [2, 0, 0]),
        ([], []),
        (torch.tensor([1, -1]), [1, 2]),
        (torch.tensor([True, False, True]), [0, 2]),
        (torch.tensor([False] * 3), []),
    ],
)
def test_getitem(index, expected):
    meshes = ragged()
    chosen = meshes[index]
    assert len(chosen) == len(expected)
    for n, m in enumerate(expected):
        assert chosen.verts_list()[n] is meshes.verts_list()[m]
        assert torch.equal(chosen.faces_list()[n], meshes.faces_list()[m])
    assert torch.equal(chosen.edges_packed(), Meshes(chosen.verts_list(), chosen.faces_list()).edges_packed())


@pytest.mark.parametrize(
    "index", [3, -4, 1.5, "0", [0, 3], torch.tensor([0.0]), torch.tensor([[0]]), torch.tensor([True])]
)
def test_wrong_index(index):
    with pytest.raises(IndexError):
        ragged()[index]


def test_iteration_split_and_single_meshes():
    meshes = ragged()
    assert [len(m.verts_packed()) for m in meshes] == [4, 3, 6]
    assert [len(part) for part in meshes.split([2, 0, 1])] == [2, 0, 1]
    verts, faces = meshes.get_mesh_verts_faces(2)
    assert (len(verts), len(faces)) == (6, 8)
    with pytest.raises(ValueError, match="list of integers"):
        meshes.split([1, 0.5])
    with pytest.raises(ValueError, match="integer"):
        meshes.get_mesh_verts_faces(0.5)
    with pytest.raises(ValueError, match="range"):
        meshes.get_mesh_verts_faces(3)


def test_extend():
    extended = ragged().extend(3)
    assert extended.num_verts_per_mesh().tolist() == [4, 4, 4, 3, 3, 3, 6, 6, 6]
    assert torch.equal(extended.verts_list()[7], extended.verts_list()[6])
    assert extended.verts_list()[7].data_ptr() != extended.verts_list()[6].data_ptr()
    for N in (0, -1, 1.5):
        with pytest.raises(ValueError, match="N must be"):
            ragged().extend(N)


def test_submeshes_drop_unused_vertices():
    meshes = ragged()
    parts = meshes.submeshes(
        [[torch.tensor([1])], [], [torch.tensor([7, 4]), torch.arange(8), torch.tensor([], dtype=torch.int64)]]
    )
    assert parts.num_verts_per_mesh().tolist() == [3, 4, 6, 0]
    assert parts.num_faces_per_mesh().tolist() == [1, 2, 8, 0]
    corners = meshes.verts_list()[2][meshes.faces_list()[2][[7, 4]]]
    assert torch.equal(parts.verts_list()[1][parts.faces_list()[1]], corners)
    same = Meshes(torch.rand(2, 4, 3), TETRAHEDRON.expand(2, 4, 3)).submeshes(torch.tensor([[[0]], [[3]]]))
    assert same.num_faces_per_mesh().tolist() == [1, 1]
    with pytest.raises(ValueError, match="exactly one set of submeshes"):
        meshes.submeshes([[]])


def test_join():
    a, b = ragged(), ragged()
    batch = join_meshes_as_batch([a, b])
    assert len(batch) == 6
    assert torch.equal(batch.verts_packed(), torch.cat([a.verts_packed(), b.verts_packed()]))
    scene = join_meshes_as_scene([a, b])
    assert len(scene) == 1
    assert torch.equal(scene.verts_packed(), batch.verts_packed())
    assert torch.equal(scene.faces_packed(), batch.faces_packed())
    with pytest.raises(ValueError, match="Wrong first argument"):
        join_meshes_as_batch(a, b)
    with pytest.raises(ValueError, match="include_textures argument"):
        join_meshes_as_scene(a, b)


def test_bounding_boxes():
    boxes = Meshes(
        [torch.tensor([[0.0, 1, 2], [3, -1, 2]]), torch.zeros(0, 3)], [TETRAHEDRON[:0]] * 2
    ).get_bounding_boxes()
    assert boxes[0].tolist() == [[0, 3], [-1, 1], [2, 2]]
    assert boxes[1].tolist() == [[torch.inf, -torch.inf]] * 3


# Textures


def test_textures_follow_the_meshes():
    meshes = ragged()
    meshes = Meshes(meshes.verts_list(), meshes.faces_list(), Textures(torch.tensor([1.0, 2.0, 3.0])))
    assert meshes.textures._num_verts_per_mesh == [4, 3, 6]
    assert meshes.textures._num_faces_per_mesh == [4, 0, 8]
    assert meshes.textures.valid.tolist() == [True, False, True]
    assert meshes[[2, 0]].textures.values.tolist() == [3, 1]
    assert meshes[1].textures.values.tolist() == [2]
    assert meshes[torch.tensor([True, False, True])].textures.values.tolist() == [1, 3]
    assert meshes.extend(2).textures.values.tolist() == [1, 1, 2, 2, 3, 3]
    assert meshes.offset_verts(torch.zeros(13, 3)).textures is meshes.textures
    assert meshes.clone().textures is not meshes.textures
    assert meshes.detach().textures.values.tolist() == [1, 2, 3]
    assert meshes.submeshes([[], [], [torch.tensor([0])]]).textures.values.tolist() == [3]
    assert join_meshes_as_batch([meshes, meshes]).textures.values.tolist() == [1, 2, 3, 1, 2, 3]
    assert join_meshes_as_scene(meshes).textures.values.tolist() == [6]
    assert join_meshes_as_batch([meshes, ragged()], include_textures=False).textures is None
    fragments = SimpleNamespace()
    assert meshes.sample_textures(fragments) == (fragments, meshes.faces_packed())


def test_wrong_textures():
    verts, faces = ragged().verts_list(), ragged().faces_list()
    with pytest.raises(ValueError, match="TexturesBase"):
        Meshes(verts, faces, textures=1)
    with pytest.raises(ValueError, match="do not match the dimensions"):
        Meshes(verts, faces, Textures(torch.zeros(2)))
    with pytest.raises(ValueError, match="does not have textures"):
        ragged().sample_textures(None)
    textured = Meshes(verts, faces, Textures(torch.zeros(3)))
    with pytest.raises(ValueError, match="Inconsistent textures"):
        join_meshes_as_batch([textured, ragged()])
    other = Meshes(verts, faces, type("OtherTextures", (Textures,), {})(torch.zeros(3)))
    with pytest.raises(ValueError, match="OtherTextures"):
        join_meshes_as_batch([textured, other])
    textured.textures = Textures(torch.zeros(2))
    with pytest.raises(ValueError, match="do not match the dimensions"):
        textured.sample_textures(None)


# Wrong input

V4, LONG = torch.rand(4, 3), torch.int64


@pytest.mark.parametrize(
    ("verts", "faces", "message"),
    [
        ([V4], TETRAHEDRON, "either a list or a tensor"),
        (V4.numpy(), TETRAHEDRON.numpy(), "either a list or a tensor"),
        ([V4], [], "same length, got 1 and 0"),
        ([[1.0]], [TETRAHEDRON], "verts\\[0\\] must be a tensor, got list"),
        ([V4, V4[:, :2]], [TETRAHEDRON] * 2, "verts\\[1\\] must have shape"),
        ([V4], [TETRAHEDRON[0]], "faces\\[0\\] must have shape"),
        ([V4.long()], [TETRAHEDRON], "floating dtype, got torch.int64"),
        ([V4, V4.double()], [TETRAHEDRON] * 2, "one dtype"),
        ([V4], [TETRAHEDRON + 0.5], "whole numbers"),
        ([V4], [TETRAHEDRON > 0], "integer dtype, got torch.bool"),
        ([V4, V4[:3]], [TETRAHEDRON] * 2, "faces\\[1\\] has index 3 but there are 3 vertices"),
        ([V4[:0]], [TETRAHEDRON], "there are 0 vertices"),
        (V4[None], TETRAHEDRON[None] + 1, "has index 4 but there are 4 vertices"),
        (V4, TETRAHEDRON, "incorrect dimensions"),
        (V4[None], TETRAHEDRON[None, :, :2], "padded faces must have shape"),
        (V4[None], TETRAHEDRON.expand(2, 4, 3), "same batch size, got 1 and 2"),
        (
            V4[None],
            torch.cat([-torch.ones(1, 3, dtype=LONG), TETRAHEDRON])[None],
            "Padding of faces must be at the end",
        ),
        ([V4, V4.to("meta")], [TETRAHEDRON] * 2, "same device"),
        (V4[None].to("meta"), TETRAHEDRON[None], "same device"),
    ],
)
def test_wrong_input(verts, faces, message):
    with pytest.raises(ValueError, match=message):
        Meshes(verts, faces)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.offset_verts(torch.zeros(12, 3)), "expected \\(13, 3\\) or \\(3,\\), got \\(12, 3\\)"),
        (lambda m: m.scale_verts(torch.zeros(2)), "shape \\(3,\\), got \\(2,\\)"),
        (lambda m: m.update_padded(torch.zeros(2, 6, 3)), "batch dimension: expected 3, got 2"),
        (lambda m: m.update_padded(torch.zeros(3, 5, 3)), "number of points"),
        (lambda m: m.update_padded(torch.zeros(3, 6, 2)), "same dimension"),
        (lambda m: m.update_padded(torch.zeros(6, 3)), "\\(N, V, 3\\)"),
        (lambda m: m.update_padded(torch.zeros(3, 6, 3, device="meta")), "same device"),
        (lambda m: Meshes(m.verts_list(), m.faces_list(), verts_normals=[V4]), "expected 3 tensors, got 1"),
        (lambda m: Meshes([V4], [TETRAHEDRON], verts_normals=[V4[1:]]), "item 0 must have shape \\(4, 3\\)"),
        (lambda m: Meshes([V4], [TETRAHEDRON], verts_normals=V4), "incorrect dimensions"),
        (lambda m: Meshes([V4], [TETRAHEDRON], verts_normals=1), "list or tensor"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(ragged())


def test_offsets_must_be_a_tensor():
    with pytest.raises(TypeError, match="must be a tensor, got list"):
        ragged().offset_verts([0.0, 0.0, 0.0])


# Private names of PyTorch3D


def test_private_names():
    meshes = ragged()
    names = ["_faces_packed", "_edges_packed", "_verts_packed_to_mesh_idx", "_num_edges_per_mesh", "_faces_padded"]
    assert all(getattr(meshes, name) is None for name in [*names, "_verts_packed", "_verts_padded"])
    for compute in ("packed", "padded", "edges_packed", "vertex_normals", "laplacian_packed"):
        getattr(meshes, f"_compute_{compute}")()
        getattr(meshes, f"_compute_{compute}")(refresh=True)
    assert all(torch.is_tensor(getattr(meshes, name)) for name in [*names, "_verts_packed", "_verts_padded"])
    assert meshes._faces_list is meshes.faces_list()
    moved = meshes.offset_verts(torch.ones(3))
    moved._compute_packed(refresh=True)
    torch.testing.assert_close(moved.verts_packed(), meshes.verts_packed() + 1)
