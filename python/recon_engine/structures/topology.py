"""Everything about a batch of meshes that follows from its faces alone, computed once and shared by all its copies.

Moving vertices does not change which of them are joined. A `Topology` is therefore made when a `Meshes` is built and
handed on, as the same object, by everything that keeps the faces (`offset_verts`, `scale_verts`, `clone`, `detach`,
`update_padded`). Each field is computed when it is first read, for the whole batch at once.

Sizes: N meshes, V vertices and F faces of the whole batch (packed), E unique edges, Q pairs of faces on one edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from .._compile import computed, integers, is_traced
from .utils import list_to_padded


def kernels_for(like: Tensor) -> Any:
    """The compiled module for tensors on the CPU; None on other devices and where it does not load."""
    if is_traced():
        raise RuntimeError(
            "torch.compile cannot trace the search for edges and neighbours: build the Meshes outside of the compiled "
            "function and move them inside with offset_verts, scale_verts or update_padded"
        )
    if like.is_cuda or type(like) is not Tensor:
        return None
    try:
        from recon_engine import _C
    except ImportError:
        return None
    return _C


def empty_indices(kernels: Any, size: int) -> Tensor:
    """(size,) uninitialised int64 on the CPU, large ones in memory that earlier tensors have left.

    To touch fresh pages takes longer than to compute what is written there (`recon_engine._op.empty_output`).

    Args:
        kernels: the compiled module.
        size: the number of indices.
    """
    if size < 1 << 17:
        return torch.empty(size, dtype=torch.int64)
    indices: Tensor = torch.frombuffer(kernels.Pages(8 * size), dtype=torch.int64)
    return indices


def grouped(rows: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """Which entries belong to each row.

    Args:
        rows: (K,) int64, the row of each entry.
        num_rows: the number of rows.

    Returns:
        offsets: (num_rows + 1,) where the entries of each row begin, and K.
        order: (K,) the numbers of the entries, those of row 0 first, ascending in a row.

    Raises:
        ValueError: on the CPU, an entry that is no row.
    """
    kernels = kernels_for(rows)
    if kernels is None:
        sorted_rows, order = torch.sort(rows, stable=True)
        return torch.searchsorted(sorted_rows, torch.arange(num_rows + 1, device=rows.device)), order
    offsets, order = rows.new_empty(num_rows + 1), empty_indices(kernels, len(rows))
    kernels.group_rows(rows.contiguous(), offsets, order)
    return offsets, order


def _edges_of(faces: Tensor, num_verts: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The half-edges k * F + f of faces (F, 3), opposite to corner k of face f, grouped by edge.

    Returns:
        order: (3F,) half-edges.
        edge: (3F,) the edge of each half-edge.
        first: (E + 1,) where each edge begins, and 3F.
        edges: (E, 2) the edges in lexicographic order.
    """
    kernels = kernels_for(faces)
    if kernels is not None:
        size = faces.numel()
        lower, count = faces.new_empty(num_verts + 1), faces.new_empty(1)
        # How many edges there are is not known before; half as many as half-edges is usual.
        order, edge, first, edges = empty_indices(kernels, 5 * size + 1).split([size, size, size + 1, 2 * size])
        edges = edges.view(size, 2)
        kernels.half_edges(faces.contiguous(), lower, order, edge, first, edges, count)
        E = int(count)
        return order, edge, first[: E + 1], edges[:E]
    a, b, c = faces.unbind(1)
    start, end = torch.cat([b, c, a]), torch.cat([c, a, b])
    # One integer for each undirected edge makes the lexicographic sort of pairs a sort of numbers.
    low, high = torch.minimum(start, end), torch.maximum(start, end)
    key, order = torch.sort(low * num_verts + high, stable=True)
    is_first = torch.ones_like(key, dtype=torch.bool)
    torch.ne(key[1:], key[:-1], out=is_first[1:])
    first = is_first.nonzero().squeeze(1)
    edges = torch.stack([low, high], dim=1)[order[first]]
    edge = torch.empty_like(order).scatter_(0, order, is_first.cumsum(0) - 1)
    return order, edge, torch.cat([first, first.new_full((1,), len(key))]), edges


def _neighbors_of(edges: Tensor, num_verts: int) -> tuple[Tensor, Tensor, Tensor]:
    """The neighbours of each vertex in a graph of sorted edges (E, 2).

    Returns:
        offsets: (num_verts + 1,) where the neighbours of each vertex begin, and 2E.
        neighbors: (2E,) ascending for each vertex.
        edge_at: (2E,) the edges to them.
    """
    kernels = kernels_for(edges)
    if kernels is not None:
        offsets, (neighbors, edge_at) = edges.new_empty(num_verts + 1), empty_indices(kernels, 4 * len(edges)).chunk(2)
        kernels.vert_neighbors(edges, offsets, neighbors, edge_at)
        return offsets, neighbors, edge_at
    # Grouped by vertex, the smaller neighbours come first, and both kinds are ascending.
    v0, v1 = edges.unbind(1)
    offsets, order = grouped(torch.cat([v1, v0]), num_verts)
    return offsets, torch.cat([v0, v1])[order], torch.where(order < len(v0), order, order - len(v0))


class Topology:
    """Indices that depend on the faces of a batch of meshes and on nothing else. Read-only.

    All tensors are int64 unless stated, on `device`, and index packed vertices and packed faces: those of mesh 0, then
    those of mesh 1, and so on. A CSR pair `offsets`, `indices` means that row i is `indices[offsets[i]:offsets[i+1]]`.

    Sizes, as Python integers (reading them never waits for a device):
        num_verts, num_faces: lists of N numbers.
        total_verts, total_faces: their sums V and F.
        max_verts, max_faces: their maxima, 0 for an empty batch.
        equisized: whether all meshes have the same numbers of vertices and of faces; False for an empty batch.

    All other fields are tensors, documented one by one below: packing, edges, faces at an edge (`edge_faces_*`, and the
    pairs of faces of the normal consistency loss), neighbours of a vertex (the uniform Laplacian), faces at a vertex.

    Cost: `faces_packed` is a copy of the faces when N > 1 and free when N = 1. Edges and everything on them share one
    sort of 3F keys. On CUDA the first read of a field of edges waits for the device, because E and Q are not known
    before; later reads never do.

    Args:
        num_verts: N numbers of vertices.
        num_faces: N numbers of faces.
        faces_list: N int64 tensors (F_n, 3) of valid local indices, or None when `faces_padded` is given.
        faces_padded: (N, max F_n, 3) int64 with -1 rows at the end, or None when `faces_list` is given.
        device: the device of the faces.
    """

    def __init__(
        self,
        num_verts: Sequence[int],
        num_faces: Sequence[int],
        *,
        faces_list: list[Tensor] | None = None,
        faces_padded: Tensor | None = None,
        device: torch.device,
    ) -> None:
        self.num_verts = list(num_verts)
        self.num_faces = list(num_faces)
        self.device = device
        self.num_meshes = len(self.num_verts)
        self.total_verts = sum(self.num_verts)
        self.total_faces = sum(self.num_faces)
        self.max_verts = max(self.num_verts, default=0)
        self.max_faces = max(self.num_faces, default=0)
        self.equisized = len(set(self.num_verts)) == 1 and len(set(self.num_faces)) == 1
        # The face tensors that the user gave, with their version counters; kept by whoever looks topologies up.
        self.sources: list[tuple[Tensor, int]] = []
        self._laplacians: dict[torch.dtype, Tensor] = {}
        # What the losses keep of these faces.
        self.plan: Any = None
        # What was given takes the place of the field that would compute it.
        if faces_list is not None:
            self.__dict__["faces_list"] = faces_list
        elif faces_padded is not None:
            self.__dict__["faces_padded"] = faces_padded
        else:
            raise ValueError("Topology: faces_list or faces_padded must be given")

    def __getstate__(self) -> dict[str, Any]:
        """The faces and sizes: all else is computed again, sooner than it could be sent to another process."""
        faces = "faces_list" if "faces_list" in vars(self) else "faces_padded"
        names = ("num_verts", "num_faces", "device", faces)
        return {name: vars(self)[name] for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Topology.__init__(self, **state)

    def cached(self, name: str) -> Tensor | None:
        """The field `name` when it was computed already, else None."""
        return self.__dict__.get(name)

    def to(self, device: torch.device) -> Topology:
        """The same topology on another device, self when it is there. Computed fields are moved, not computed again."""
        if device == self.device:
            return self
        moved = object.__new__(Topology)
        for name, value in self.__dict__.items():
            if torch.is_tensor(value):
                value = value.to(device)
            elif name == "faces_list":
                value = [faces.to(device) for faces in value]
            elif isinstance(value, dict):
                value = {key: matrix.to(device) for key, matrix in value.items()}
            elif isinstance(value, tuple):
                value = tuple(indices.to(device) for indices in value)
            moved.__dict__[name] = value
        moved.device, moved.sources, moved.plan = device, [], None
        return moved

    # Packing

    @computed
    def faces_list(self) -> list[Tensor]:
        """N tensors (F_n, 3), indices into the vertices of mesh n."""
        return [faces[:count] for faces, count in zip(self.faces_padded.unbind(0), self.num_faces, strict=True)]

    @computed
    def faces_padded(self) -> Tensor:
        """(N, max_faces, 3), the faces as a batch with rows of -1 at the end; may be wider when it was given."""
        if self.num_meshes == 0:
            return torch.zeros((0, 0, 3), dtype=torch.int64, device=self.device)
        return list_to_padded(self.faces_list, (self.max_faces, 3), pad_value=-1, equisized=self.equisized)

    @computed
    def faces_packed(self) -> Tensor:
        """(F, 3), indices into the packed vertices."""
        if self.num_meshes == 0:
            return torch.zeros((0, 3), dtype=torch.int64, device=self.device)
        if self.num_meshes == 1:
            return self.faces_list[0]
        first = self.mesh_to_verts_packed_first_idx[self.faces_packed_to_mesh_idx]
        padded = self.cached("faces_padded")
        if padded is not None and padded.shape[0] * padded.shape[1] == self.total_faces:  # without padding
            return padded.reshape(-1, 3) + first[:, None]
        return torch.cat(self.faces_list) + first[:, None]

    @computed
    def num_verts_per_mesh(self) -> Tensor:
        """(N,) the numbers of vertices."""
        return self._index_tensor(self.num_verts)

    @computed
    def num_faces_per_mesh(self) -> Tensor:
        """(N,) the numbers of faces."""
        return self._index_tensor(self.num_faces)

    @computed
    def valid(self) -> Tensor:
        """(N,) bool, meshes that have both vertices and faces."""
        flags = [int(v > 0 and f > 0) for v, f in zip(self.num_verts, self.num_faces, strict=True)]
        return integers(flags, self.device).bool()

    @property
    def isempty(self) -> bool:
        """Whether no mesh has both vertices and faces."""
        return not any(v > 0 and f > 0 for v, f in zip(self.num_verts, self.num_faces, strict=True))

    @computed
    def mesh_to_verts_packed_first_idx(self) -> Tensor:
        """(N,) the first packed vertex of each mesh."""
        return self._index_tensor([0, *accumulate(self.num_verts)][: self.num_meshes])

    @computed
    def mesh_to_faces_packed_first_idx(self) -> Tensor:
        """(N,) the first packed face of each mesh."""
        return self._index_tensor([0, *accumulate(self.num_faces)][: self.num_meshes])

    @computed
    def verts_packed_to_mesh_idx(self) -> Tensor:
        """(V,) the mesh of each packed vertex."""
        return self._mesh_of_row(self.num_verts_per_mesh, self.total_verts)

    @computed
    def faces_packed_to_mesh_idx(self) -> Tensor:
        """(F,) the mesh of each packed face."""
        return self._mesh_of_row(self.num_faces_per_mesh, self.total_faces)

    @computed
    def verts_padded_to_packed_idx(self) -> Tensor:
        """(V,) rows of the flattened padded vertices."""
        rows = torch.arange(self.total_verts, device=self.device)
        shift = self._index_tensor([n * self.max_verts for n in range(self.num_meshes)])
        return rows + (shift - self.mesh_to_verts_packed_first_idx)[self.verts_packed_to_mesh_idx]

    def _index_tensor(self, values: Sequence[int]) -> Tensor:
        return integers(values, self.device)

    def _mesh_of_row(self, counts: Tensor, total: int) -> Tensor:
        if self.num_meshes == 1:
            return torch.zeros(total, dtype=torch.int64, device=self.device)
        return torch.arange(self.num_meshes, device=self.device).repeat_interleave(counts, output_size=total)

    # Edges. The half-edge k * F + f is the edge opposite to corner k of face f.

    @computed
    def _half_edges(self) -> tuple[Tensor, Tensor, Tensor]:
        """Half-edges grouped by edge (3F,), the edge of each half-edge (3F,), where each edge starts (E + 1,)."""
        order, edge, first, edges = _edges_of(self.faces_packed, self.total_verts)
        self.__dict__["edges_packed"] = edges
        return order, edge, first

    @computed
    def edges_packed(self) -> Tensor:
        """(E, 2) unique undirected edges, v0 <= v1, rows in lexicographic order (the order of PyTorch3D)."""
        _ = self._half_edges
        edges: Tensor = self.__dict__["edges_packed"]
        return edges

    @computed
    def faces_to_edges(self) -> Tensor:
        """(F, 3), column k is the edge opposite to corner k of the face."""
        return self._half_edges[1].reshape(3, self.total_faces).t()

    @computed
    def edges_packed_to_mesh_idx(self) -> Tensor:
        """(E,) the mesh of each edge."""
        return self.verts_packed_to_mesh_idx[self.edges_packed[:, 0]]

    @computed
    def num_edges_per_mesh(self) -> Tensor:
        """(N,) the numbers of edges."""
        return torch.bincount(self.edges_packed_to_mesh_idx, minlength=self.num_meshes)

    @computed
    def num_edges_per_mesh_int32(self) -> Tensor:
        """(N,) int32, what `Meshes.num_edges_per_mesh` returns."""
        return self.num_edges_per_mesh.to(torch.int32)

    @computed
    def mesh_to_edges_packed_first_idx(self) -> Tensor:
        """(N,) the first edge of each mesh."""
        return self.num_edges_per_mesh.cumsum(0) - self.num_edges_per_mesh

    # Faces at an edge

    @computed
    def edge_faces_offsets(self) -> Tensor:
        """(E + 1,) CSR offsets into `edge_faces_indices`."""
        _, _, first = self._half_edges
        return first

    @computed
    def edge_faces_indices(self) -> Tensor:
        """(3F,) the faces that contain each edge."""
        order, _, _ = self._half_edges
        return order % max(self.total_faces, 1)

    @computed
    def edge_half_edges(self) -> Tensor:
        """(3F,) beside each face f of `edge_faces_indices`, k * F + f: the edge is opposite to its corner k."""
        order, _, _ = self._half_edges
        return order

    @computed
    def edge_faces_opposite(self) -> Tensor:
        """(3F,) beside each entry of `edge_faces_indices`, the vertex of that face that is not on the edge."""
        order, _, _ = self._half_edges
        return self.faces_packed.t().reshape(-1)[order]

    @computed
    def _face_pairs(self) -> tuple[Tensor, Tensor]:
        """Rows of `edge_faces_indices`, (first (Q,), second (Q,)), of every two faces on one edge."""
        order, edge_of, first = self._half_edges
        edge = edge_of[order]
        rank = torch.arange(len(edge), device=self.device) - first[edge]
        # The face with rank r on its edge forms a pair with each of the r faces before it.
        second = torch.arange(len(edge), device=self.device).repeat_interleave(rank)
        pairs_before = rank.cumsum(0) - rank
        nth_partner = torch.arange(len(second), device=self.device) - pairs_before[second]
        return first[edge[second]] + nth_partner, second

    @computed
    def normal_consistency_pairs(self) -> Tensor:
        """(Q, 4), for every two faces on one edge: the edge v0, v1 and the opposite vertices a, b of the faces.

        Rows are ordered by edge. An edge with n faces has n (n - 1) / 2 rows.
        """
        i, j = self._face_pairs
        edge = self.edges_packed[self.normal_consistency_edge_idx]
        opposite = self.edge_faces_opposite
        return torch.cat([edge, opposite[i, None], opposite[j, None]], dim=1)

    @computed
    def normal_consistency_edge_idx(self) -> Tensor:
        """(Q,) the edge of each pair of faces."""
        order, edge_of, _ = self._half_edges
        return edge_of[order[self._face_pairs[1]]]

    @computed
    def normal_consistency_mesh_idx(self) -> Tensor:
        """(Q,) the mesh of each pair of faces."""
        return self.edges_packed_to_mesh_idx[self.normal_consistency_edge_idx]

    # Neighbours of a vertex

    @computed
    def vert_neighbors_indices(self) -> Tensor:
        """(2E,) the neighbours of each vertex, ascending."""
        offsets, neighbors, edges = _neighbors_of(self.edges_packed, self.total_verts)
        self.__dict__["vert_neighbors_offsets"], self.__dict__["vert_neighbors_edges"] = offsets, edges
        return neighbors

    @computed
    def vert_neighbors_edges(self) -> Tensor:
        """(2E,) beside each entry of `vert_neighbors_indices`, the edge to it."""
        _ = self.vert_neighbors_indices
        edges: Tensor = self.__dict__["vert_neighbors_edges"]
        return edges

    @computed
    def vert_degrees(self) -> Tensor:
        """(V,) the number of neighbours of each vertex."""
        return self.vert_neighbors_offsets.diff()

    @computed
    def vert_neighbors_offsets(self) -> Tensor:
        """(V + 1,) CSR offsets into `vert_neighbors_indices`."""
        _ = self.vert_neighbors_indices
        offsets: Tensor = self.__dict__["vert_neighbors_offsets"]
        return offsets

    def laplacian(self, dtype: torch.dtype) -> Tensor:
        """The uniform Laplacian, (V, V) sparse COO: -1 on the diagonal, 1 / degree(i) where i and j share an edge.

        Args:
            dtype: a floating dtype; one matrix is kept for each.
        """
        if dtype not in self._laplacians:
            degrees = self.vert_degrees
            rows = torch.arange(self.total_verts, device=self.device)
            neighbor_rows = rows.repeat_interleave(degrees, output_size=len(self.vert_neighbors_indices))
            indices = torch.stack([torch.cat([neighbor_rows, rows]), torch.cat([self.vert_neighbors_indices, rows])])
            values = torch.cat([degrees.to(dtype).reciprocal()[neighbor_rows], -torch.ones_like(rows, dtype=dtype)])
            size = (self.total_verts, self.total_verts)
            matrix = torch.sparse_coo_tensor(indices, values, size, check_invariants=False)
            self._laplacians[dtype] = matrix.coalesce()
        return self._laplacians[dtype]

    # Faces at a vertex

    @computed
    def _corners_by_vertex(self) -> tuple[Tensor, Tensor]:
        """Corners 3 * f + k, grouped by the vertex they touch: where each vertex begins (V + 1,), corners (3F,)."""
        return grouped(self.faces_packed.reshape(-1), self.total_verts)

    @computed
    def vert_faces_offsets(self) -> Tensor:
        """(V + 1,) CSR offsets into `vert_faces_indices` and `vert_faces_corners`."""
        return self._corners_by_vertex[0]

    @computed
    def vert_corners(self) -> Tensor:
        """(3F,) beside each entry of `vert_faces_indices`, 3 * f + k: the vertex is corner k of that face f."""
        return self._corners_by_vertex[1]

    @computed
    def vert_faces_indices(self) -> Tensor:
        """(3F,) the faces at each vertex, ascending."""
        return torch.div(self._corners_by_vertex[1], 3, rounding_mode="floor")

    @computed
    def vert_faces_corners(self) -> Tensor:
        """(3F,) which corner (0, 1, 2) of the face beside it in `vert_faces_indices` the vertex is."""
        return self._corners_by_vertex[1] % 3
