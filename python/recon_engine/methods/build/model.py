"""Start shapes that are deformed together, each on its own way."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recon_engine.ops import SubdivideMeshes
from recon_engine.structures import Meshes, join_meshes_as_batch


class DeformedMeshes(torch.nn.Module):
    """Meshes whose vertices are moved, and whose triangles are split into four now and then.

    What is learnt has a size that is known before: a layer for every stage of splitting, what is added to the vertices
    of that stage. A split freezes the layers before it, and the meshes are finer versions of what they had become.

    Args:
        starts: M meshes to begin with, one in each.
        splits: how often triangles will be split.

    Attributes:
        layers: tensors (sum of the M numbers of vertices, 3), coarse to fine.
        stage: how often triangles have been split.
    """

    def __init__(self, starts: Sequence[Meshes], splits: int = 0) -> None:
        super().__init__()
        self.stage = 0
        self._reach(join_meshes_as_batch(list(starts)))
        finer = self._base
        sizes = [len(finer.verts_packed())]
        for _ in range(splits):
            finer = _split(finer)
            sizes.append(len(finer.verts_packed()))
        device = finer.device
        self.layers = torch.nn.ParameterList([torch.zeros(size, 3, device=device) for size in sizes])

    def split_until(self, stage: int) -> None:
        """Split triangles until they were split that often."""
        while self.stage < stage:
            moved = self._base.offset_verts(self.layers[self.stage].detach())
            self.stage += 1
            self._reach(_split(moved))

    def meshes(self) -> list[Meshes]:
        """The M meshes as they are now. Differentiable."""
        return [mesh.offset_verts(part) for mesh, part in zip(self._parts, self._offsets(), strict=True)]

    def copies(self, count: int) -> Meshes:
        """A batch of `count` times the first mesh, then as often the second, and so on. Differentiable."""
        # Copies are made once for a stage: moving their vertices keeps edges and adjacency.
        if count not in self._copies:
            self._copies[count] = self._base.extend(count)
        return self._copies[count].offset_verts(torch.cat([part.repeat(count, 1) for part in self._offsets()]))

    def _offsets(self) -> Sequence[Tensor]:
        return self.layers[self.stage].split(self._sizes)

    def _reach(self, base: Meshes) -> None:
        """Go on from these meshes."""
        self._base = base
        self._parts = [base[i] for i in range(len(base))]
        self._sizes = [len(part.verts_packed()) for part in self._parts]
        self._copies: dict[int, Meshes] = {}


def _split(meshes: Meshes) -> Meshes:
    finer = SubdivideMeshes()(meshes)
    assert isinstance(finer, Meshes)
    return finer
