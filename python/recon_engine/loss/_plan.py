"""What the losses need of a topology beyond its own fields. Computed once and shared like the topology."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from recon_engine._compile import ahead, computed, is_traced
from recon_engine.structures.topology import empty_indices, kernels_for


class Plan:
    """Tables of a `Topology` for the compiled losses.

    Args:
        topology: N meshes with V vertices, F faces, E edges.
    """

    def __init__(self, topology: Any) -> None:
        # Only what is needed later is kept: a plan that held its topology would keep it alive.
        self._device = topology.device
        self._num_verts: list[int] = topology.num_verts
        self._num_faces: list[int] = topology.num_faces
        self._weights: dict[tuple[str, torch.dtype], Tensor] = {}

    @computed
    def vert_segments(self) -> Tensor:
        """(N + 1,) the first vertex of each mesh, and V."""
        return self._segments(self._num_verts)

    @computed
    def face_segments(self) -> Tensor:
        """(N + 1,) the first face of each mesh, and F."""
        return self._segments(self._num_faces)

    def _segments(self, counts: Sequence[int]) -> Tensor:
        return torch.tensor([0, *accumulate(counts)], dtype=torch.int64, device=self._device)

    def mesh_of(self, topology: Any) -> Tensor | None:
        """(V,) the mesh of each vertex, None for one mesh."""
        return None if len(self._num_verts) == 1 else topology.verts_packed_to_mesh_idx

    def weights(self, kind: str, topology: Any, dtype: torch.dtype) -> Tensor:
        """(N,) the factor of each mesh: one over N and over its number of `kind`; 0 where that is 0.

        Args:
            kind: "verts", "edges" or "pairs" of faces that share an edge.
            topology: the plan's.
            dtype: of the weights.
        """
        if (kind, dtype) not in self._weights:
            counts = {
                "verts": lambda: topology.num_verts_per_mesh,
                # Each edge is listed at both of its ends.
                "edges": lambda: topology.vert_neighbors_offsets[self.vert_segments].diff() // 2,
                # Each pair is listed at both of its faces.
                "pairs": lambda: self.across(topology)[0][self.face_segments].diff() // 2,
            }[kind]()
            weights = 1 / (counts.clamp(min=1).to(dtype) * len(self._num_verts))
            self._weights[kind, dtype] = torch.where(counts > 0, weights, 0)
        return self._weights[kind, dtype]

    def across(self, topology: Any) -> tuple[Tensor, Tensor]:
        """For each face the faces that share an edge with it: offsets (F + 1,) and entries (2Q,), `2 * face + same`.

        `same` is 1 where the two faces run along the edge in the same direction, against each other's orientation.
        """
        if "_across" not in self.__dict__:
            self.__dict__["_across"] = _faces_across(topology)
        across: tuple[Tensor, Tensor] = self.__dict__["_across"]
        return across


def plan_of(topology: Any, dtype: torch.dtype = torch.float32) -> Plan:
    """The plan of a topology, the same object in every call.

    Args:
        topology: of the meshes.
        dtype: of the vertices, for what torch.compile has to know ahead.
    """
    if is_traced():
        ahead(_fill, topology, dtype)
    if topology.plan is None:
        topology.plan = Plan(topology)
    plan: Plan = topology.plan
    return plan


_FIELDS = (
    *("faces_packed", "vert_neighbors_offsets", "vert_neighbors_indices", "vert_neighbors_edges", "vert_corners"),
    *("vert_faces_offsets", "edge_faces_offsets", "edge_half_edges", "verts_packed_to_mesh_idx"),
)


def _fill(topology: Any, dtype: torch.dtype) -> None:
    """Computes whatever a loss on vertices of that dtype reads from a topology and its plan."""
    plan = plan_of(topology, dtype)
    for name in _FIELDS:
        getattr(topology, name)
    for kind in ("verts", "edges", "pairs"):
        plan.weights(kind, topology, torch.promote_types(dtype, torch.float32))


def _faces_across(topology: Any) -> tuple[Tensor, Tensor]:
    """The compiled way where there is one; otherwise pairs of faces, sorted by face."""
    kernels = kernels_for(topology.faces_packed)
    if kernels is None:
        return _sorted_pairs(topology)
    faces, (order, edge, first) = topology.faces_packed.contiguous(), topology._half_edges
    offsets = faces.new_empty(len(faces) + 1)
    kernels.faces_across(faces, order, edge, first, offsets, None)
    across = empty_indices(kernels, int(offsets[-1]))
    kernels.faces_across(faces, order, edge, first, offsets, across)
    return offsets, across


def _sorted_pairs(topology: Any) -> tuple[Tensor, Tensor]:
    faces, pairs = topology.faces_packed, topology.normal_consistency_pairs
    F = topology.total_faces
    first, second = (topology.edge_faces_indices[rows] for rows in topology._face_pairs)
    runs = [
        _runs_forward(faces[f], pairs[:, 0], opposite) for f, opposite in ((first, pairs[:, 2]), (second, pairs[:, 3]))
    ]
    same = (runs[0] == runs[1]).long()
    order = torch.sort(torch.cat([first, second]), stable=True).indices
    entries = torch.cat([2 * second + same, 2 * first + same])[order]
    offsets = first.new_zeros(F + 1)
    torch.cumsum(torch.bincount(torch.cat([first, second]), minlength=F), 0, out=offsets[1:])
    return offsets, entries


def _runs_forward(faces: Tensor, v0: Tensor, opposite: Tensor) -> Tensor:
    """Whether faces (Q, 3) run along their edge from v0 on: the corner after the opposite one is v0."""
    corner = (faces == opposite[:, None]).int().argmax(1)
    return faces.gather(1, ((corner + 1) % 3)[:, None]).squeeze(1) == v0
