"""Subdivision of triangle meshes: every face becomes four, with a new vertex in the middle of every edge."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recon_engine.structures.meshes import Meshes


class SubdivideMeshes(nn.Module):
    r"""Splits every face of a batch of meshes in four; orientation is kept.

    The face (v0, v1, v2) with edge midpoints m0 (of v1 v2), m1 (of v2 v0), m2 (of v0 v1) becomes::

              v0
             /  \          (v0, m2, m1)
           m2 -- m1        (v1, m0, m2)
          /  \  /  \       (v2, m1, m0)
        v1 -- m0 -- v2     (m0, m1, m2)

    The new vertices of a mesh follow its old ones, in the order of `Meshes.edges_packed`. The new faces are in four
    blocks of F, one for each line above, each in the order of the old faces.

    Built with a mesh, the module keeps that mesh's new faces, and each call is only a gather and a mean; all meshes
    given to it must then have that topology. Built without one, every call works the topology out, for batches of any
    mixture.

    Args:
        meshes: the mesh (the first one of a batch is taken) whose topology all later inputs share, or None.

    Textures and vertex normals of the input are not carried over, as in PyTorch3D: pass them as `feats` instead.
    """

    _subdivided_faces: Tensor
    _subdivided_edges: Tensor

    def __init__(self, meshes: Meshes | None = None) -> None:
        super().__init__()
        self.precomputed = meshes is not None
        if meshes is not None:
            mesh = meshes[0]
            self._num_verts = int(mesh.verts_packed().shape[0])
            self.register_buffer("_subdivided_faces", self.subdivide_faces(mesh))
            self.register_buffer("_subdivided_edges", mesh.edges_packed(), persistent=False)

    @torch.no_grad()
    def subdivide_faces(self, meshes: Meshes) -> Tensor:
        """The new faces of a batch as indices into all old vertices followed by all edge midpoints.

        Args:
            meshes: N meshes with V vertices, E edges and F faces in all.

        Returns:
            (4F, 3) int64; index v < V is an old vertex, V + e is the midpoint of edge e of `edges_packed`.
        """
        faces = meshes.faces_packed()
        mid = meshes.faces_packed_to_edges_packed() + meshes.verts_packed().shape[0]
        return _child_faces(faces, mid).reshape(-1, 3)

    def forward(self, meshes: Meshes, feats: Tensor | None = None) -> Meshes | tuple[Meshes, Tensor]:
        """Subdivides every mesh, and `feats` with them.

        Args:
            meshes: N meshes.
            feats: (V, D) values of all vertices of the batch (packed order), or None. With a topology given to the
                constructor (N, V / N, D) is also accepted.

        Returns:
            The new meshes; with `feats`, a pair of them and the new features. Values of a new vertex are the mean of
            its edge's two ends. The new features are packed, (V + E, D); with a topology given to the constructor they
            are (N, V / N + E / N, D), as in PyTorch3D.

        Differentiable in the vertices of `meshes` and in `feats`.
        """
        if self.precomputed:
            return self.subdivide_homogeneous(meshes, feats)
        return self.subdivide_heterogenerous(meshes, feats)

    def subdivide_homogeneous(self, meshes: Meshes, feats: Tensor | None = None) -> Meshes | tuple[Meshes, Tensor]:
        """`forward` for meshes that all have the topology given to the constructor."""
        if not self.precomputed:
            raise ValueError("SubdivideMeshes: subdivide_homogeneous needs a topology: pass a mesh to the constructor")
        if any(count != self._num_verts for count in meshes.num_verts_per_mesh().tolist()):
            raise ValueError(
                f"SubdivideMeshes: each mesh must have the {self._num_verts} vertices of the mesh given to the "
                f"constructor, got {meshes.num_verts_per_mesh().tolist()}; for other meshes use SubdivideMeshes()"
            )
        N = len(meshes)
        edges = self._subdivided_edges.to(meshes.device)
        faces = self._subdivided_faces.to(meshes.device).expand(N, -1, -1)
        verts = meshes.verts_padded()
        new_meshes = Meshes(verts=torch.cat([verts, verts[:, edges].mean(dim=2)], dim=1), faces=faces)
        if feats is None:
            return new_meshes
        if feats.dim() == 2 and feats.shape[0] == N * self._num_verts:
            feats = feats.reshape(N, self._num_verts, feats.shape[1])
        if feats.dim() != 3 or feats.shape[:2] != verts.shape[:2]:
            raise ValueError(
                f"SubdivideMeshes: feats must have shape ({N * self._num_verts}, D) or ({N}, {self._num_verts}, D), "
                f"got {tuple(feats.shape)}"
            )
        return new_meshes, torch.cat([feats, feats[:, edges].mean(dim=2)], dim=1)

    def subdivide_heterogenerous(self, meshes: Meshes, feats: Tensor | None = None) -> Meshes | tuple[Meshes, Tensor]:
        """`forward` for meshes of any topology. The name is PyTorch3D's."""
        verts = meshes.verts_packed()
        if feats is not None and (feats.dim() != 2 or feats.shape[0] != verts.shape[0]):
            raise ValueError(f"SubdivideMeshes: feats must have shape ({verts.shape[0]}, D), got {tuple(feats.shape)}")
        edges = meshes.edges_packed()
        num_verts = meshes.num_verts_per_mesh().tolist()
        num_edges = meshes.num_edges_per_mesh().tolist()

        with torch.no_grad():
            first_vert = meshes.mesh_to_verts_packed_first_idx()
            # Local index of an edge's midpoint = vertices of its mesh + local index of the edge.
            edge_shift = meshes.num_verts_per_mesh() - meshes.mesh_to_edges_packed_first_idx()
            mesh_of = meshes.faces_packed_to_mesh_idx()
            faces = meshes.faces_packed() - first_vert[mesh_of, None]
            mid = meshes.faces_packed_to_edges_packed() + edge_shift[mesh_of, None]
            children = torch.split(_child_faces(faces, mid), meshes.num_faces_per_mesh().tolist(), dim=1)
            new_faces = [child.reshape(-1, 3) for child in children]

        def with_midpoints(values: Tensor) -> list[Tensor]:
            middles = torch.split(values[edges].mean(dim=1), num_edges)
            return [torch.cat(pair) for pair in zip(torch.split(values, num_verts), middles, strict=True)]

        new_meshes = Meshes(verts=with_midpoints(verts), faces=new_faces)
        if feats is None:
            return new_meshes
        return new_meshes, torch.cat(with_midpoints(feats))


def _child_faces(faces: Tensor, mid: Tensor) -> Tensor:
    """(4, F, 3) the faces at the three corners of each face and the one in its middle."""
    corners = [torch.stack([faces[:, k], mid[:, (k + 2) % 3], mid[:, (k + 1) % 3]], dim=1) for k in range(3)]
    return torch.stack([*corners, mid])
