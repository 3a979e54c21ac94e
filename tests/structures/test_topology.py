"""Topology against plain Python loops over the faces."""

from __future__ import annotations

import itertools

import pytest
import torch

from recon_engine.structures import Meshes, Topology, topology
from recon_engine.structures.topology import grouped

# A fan with three faces on one edge (0, 1), two separate triangles, a face with a repeated vertex, and no faces at all.
FACES = {
    "fan": (5, [[0, 1, 2], [1, 0, 3], [0, 1, 4], [2, 3, 4]]),
    "separate": (7, [[0, 2, 1], [4, 5, 6]]),
    "repeated": (4, [[0, 0, 1], [0, 1, 2]]),
    "none": (3, []),
}


def topology_of(*names: str, device: torch.device | str = "cpu") -> Topology:
    verts = [torch.zeros(FACES[name][0], 3, device=device) for name in names]
    faces = [torch.tensor(FACES[name][1], dtype=torch.int64, device=device).reshape(-1, 3) for name in names]
    return Meshes(verts, faces).topology()


def csr_rows(offsets: torch.Tensor, values: torch.Tensor) -> list[list[int]]:
    return [values[a:b].tolist() for a, b in itertools.pairwise(offsets.tolist())]


@pytest.fixture(params=["kernels", "plain torch"])
def way(request, monkeypatch):
    """With the kernels of the CPU, and with what runs on a GPU and where they do not load."""
    if request.param == "plain torch":
        monkeypatch.setattr(topology, "kernels_for", lambda like: None)


BATCHES = [("fan",), ("separate", "fan"), ("none", "fan", "repeated", "none"), ("none",), ("fan", "fan")]


@pytest.mark.parametrize("names", BATCHES)
@pytest.mark.usefixtures("way")
def test_matches_loops_over_the_faces(names, device):
    t = topology_of(*names, device=device)
    faces, mesh_of_face, mesh_of_vert, first = [], [], [], 0
    for n, name in enumerate(names):
        num_verts, local = FACES[name]
        faces += [[v + first for v in face] for face in local]
        mesh_of_face += [n] * len(local)
        mesh_of_vert += [n] * num_verts
        first += num_verts
    assert t.faces_packed.tolist() == faces
    assert t.faces_packed_to_mesh_idx.tolist() == mesh_of_face
    assert t.verts_packed_to_mesh_idx.tolist() == mesh_of_vert

    # column k of a face is the edge opposite to its corner k
    def edge_of(face: list[int], k: int) -> tuple[int, int]:
        u, v = face[(k + 1) % 3], face[(k + 2) % 3]
        return min(u, v), max(u, v)

    edges = sorted({edge_of(face, k) for face in faces for k in range(3)})
    assert [tuple(e) for e in t.edges_packed.tolist()] == edges
    assert t.faces_to_edges.tolist() == [[edges.index(edge_of(f, k)) for k in range(3)] for f in faces]
    mesh_of_edge = [mesh_of_vert[u] for u, _ in edges]
    assert t.edges_packed_to_mesh_idx.tolist() == mesh_of_edge
    assert t.num_edges_per_mesh.tolist() == [mesh_of_edge.count(n) for n in range(len(names))]
    assert t.num_edges_per_mesh_int32.dtype == torch.int32

    # corners grouped by the edge opposite to them: all first corners before all second ones before all third ones
    at_edge = [[(f, face[k]) for k in range(3) for f, face in enumerate(faces) if edge_of(face, k) == e] for e in edges]
    assert csr_rows(t.edge_faces_offsets, t.edge_faces_indices) == [[f for f, _ in row] for row in at_edge]
    assert csr_rows(t.edge_faces_offsets, t.edge_faces_opposite) == [[v for _, v in row] for row in at_edge]
    pairs = [
        [*e, a, b]
        for e, row in zip(edges, at_edge, strict=True)
        for (_, b), (_, a) in itertools.combinations(row[::-1], 2)
    ]
    assert sorted(t.normal_consistency_pairs.tolist()) == sorted(pairs)
    assert t.normal_consistency_pairs.shape == (len(pairs), 4)
    assert t.edges_packed[t.normal_consistency_edge_idx].tolist() == t.normal_consistency_pairs[:, :2].tolist()
    assert t.normal_consistency_mesh_idx.tolist() == [mesh_of_vert[p[0]] for p in t.normal_consistency_pairs.tolist()]

    neighbors = [sorted([v for u, v in edges if u == i] + [u for u, v in edges if v == i]) for i in range(first)]
    assert csr_rows(t.vert_neighbors_offsets, t.vert_neighbors_indices) == neighbors
    assert t.vert_degrees.tolist() == [len(row) for row in neighbors]
    at_vert = [[(f, k) for f, face in enumerate(faces) for k in range(3) if face[k] == i] for i in range(first)]
    assert csr_rows(t.vert_faces_offsets, t.vert_faces_indices) == [[f for f, _ in row] for row in at_vert]
    assert csr_rows(t.vert_faces_offsets, t.vert_faces_corners) == [[k for _, k in row] for row in at_vert]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("names", BATCHES)
def test_laplacian_is_the_documented_matrix(names, dtype):
    t = topology_of(*names)
    adjacency = torch.zeros(t.total_verts, t.total_verts, dtype=dtype)
    for u, v in t.edges_packed.tolist():
        adjacency[u, v] += 1
        adjacency[v, u] += 1
    expected = adjacency / adjacency.sum(1, keepdim=True).clamp(min=1) - torch.eye(t.total_verts, dtype=dtype)
    torch.testing.assert_close(t.laplacian(dtype).to_dense(), expected)
    assert t.laplacian(dtype) is t.laplacian(dtype)


def test_fields_are_int64_and_computed_once():
    t = topology_of("fan", "separate")
    for name in (n for n in dir(Topology) if not n.startswith("_")):
        value = getattr(t, name)
        if torch.is_tensor(value) and name not in ("valid", "num_edges_per_mesh_int32"):
            assert value.dtype == torch.int64, name
        if torch.is_tensor(value):
            assert getattr(t, name) is value, name
    assert t.cached("edges_packed") is t.edges_packed
    assert topology_of("fan").cached("edges_packed") is None


def test_sizes():
    t = topology_of("fan", "none")
    assert (t.total_verts, t.total_faces, t.max_verts, t.max_faces) == (8, 4, 5, 4)
    assert (t.num_verts, t.num_faces, t.equisized, t.isempty) == ([5, 3], [4, 0], False, False)
    assert topology_of("fan", "fan").equisized
    assert topology_of("none").isempty


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_moving_keeps_what_was_computed():
    t = topology_of("fan", "separate")
    moved = t.to(torch.device("cuda", 0)) if t.edges_packed.numel() else t
    assert moved.cached("edges_packed").is_cuda
    assert moved.normal_consistency_pairs.tolist() == t.normal_consistency_pairs.tolist()


def test_needs_faces():
    with pytest.raises(ValueError, match="faces_list or faces_padded"):
        Topology([3], [1], device=torch.device("cpu"))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("sizes", [(0, 3), (7, 1), (50, 9), (30000, 11), (30000, 25000)])
def test_grouped(sizes, device):
    K, R = sizes
    rows = torch.randint(R, (K,), device=device)
    offsets, order = grouped(rows, R)
    assert torch.equal(order, torch.sort(rows, stable=True).indices)
    assert torch.equal(offsets.diff(), torch.bincount(rows, minlength=R))
    assert offsets[0] == 0


@pytest.mark.parametrize("wrong", [-1, 5])
def test_entries_that_are_no_row(wrong):
    with pytest.raises(ValueError, match=f"group_rows: entry 1 is {wrong}, which is not one of 5 rows"):
        grouped(torch.tensor([0, wrong]), 5)


def test_the_two_ways_agree_on_many_faces(monkeypatch):
    """Vertices with very many faces, faces that come twice, and faces with equal corners."""
    faces = torch.randint(300, (20000, 3))
    faces[:3000, 0] = 7
    faces[5000:6000] = faces[:1000]
    names = [n for n in dir(Topology) if not n.startswith("_")]
    before = torch.get_num_threads()
    results = []
    for threads, kernels in ((1, True), (3, True), (1, False)):
        torch.set_num_threads(threads)
        if not kernels:
            monkeypatch.setattr(topology, "kernels_for", lambda like: None)
        t = Topology([301], [len(faces)], faces_list=[faces], device=faces.device)
        results.append([v for n in names if torch.is_tensor(v := getattr(t, n)) and "normal_consistency" not in n])
    torch.set_num_threads(before)
    for a, b, c in zip(*results, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
