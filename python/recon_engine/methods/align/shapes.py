"""What is aligned: batches of meshes and point clouds of any sizes, from files or made by rule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from recon_engine.ops import sample_points_from_meshes
from recon_engine.structures import Meshes, Pointclouds

from .._files import load_shape
from ..shapes import building, create_cube, dodecahedron, octahedron

_SPLITS = 3  # of the faces of the built-in solids: few vertices would not average the noise out


class Shapes:
    """N meshes or point clouds.

    Args:
        names: N names.
        verts: N tensors (V_i, 3).
        faces: N tensors (F_i, 3) int64; F_i is 0 for a point cloud.

    Attributes:
        names: see above.
        verts: see above.
        faces: see above.

    Raises:
        ValueError: none, a shape without vertices, or with some that are not finite.
    """

    def __init__(self, names: Sequence[str], verts: Sequence[Tensor], faces: Sequence[Tensor]) -> None:
        if not verts:
            raise ValueError("at least one shape is needed, got none")
        for name, points in zip(names, verts, strict=True):
            if points.dim() != 2 or points.shape[1] != 3 or len(points) == 0:
                raise ValueError(f"{name} must have vertices (V, 3) with V > 0, got {tuple(points.shape)}")
            if not bool(torch.isfinite(points).all()):
                raise ValueError(f"{name} has vertices that are NaN or infinite")
        self.names, self.verts, self.faces = list(names), list(verts), list(faces)
        self._surfaces = [i for i, f in enumerate(self.faces) if len(f)]
        self._meshes = None
        if self._surfaces:
            self._meshes = Meshes([self.verts[i] for i in self._surfaces], [self.faces[i] for i in self._surfaces])

    def __len__(self) -> int:
        return len(self.verts)

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.verts[0].device

    @property
    def about(self) -> str:
        """What tells these shapes from others."""
        each = [f"{len(v)}v{len(f)}f{float(v.double().sum()):.6g}" for v, f in zip(self.verts, self.faces, strict=True)]
        return " ".join(each)

    def things(self, name: str) -> dict[str, Meshes | Pointclouds]:
        """The meshes and the clouds under a name, to be looked at."""
        clouds = [verts for verts, faces in zip(self.verts, self.faces, strict=True) if not len(faces)]
        meshes = {} if self._meshes is None else {f"{name} meshes": self._meshes}
        return {**meshes, **({f"{name} points": Pointclouds(clouds)} if clouds else {})}

    def points(self, count: int) -> Tensor:
        """(N, count, 3) points drawn evenly from the surfaces, all meshes in one batch, and from the clouds."""
        drawn: list[Tensor] = [torch.empty(0)] * len(self)
        if self._meshes is not None:
            sampled = cast(Tensor, sample_points_from_meshes(self._meshes, count))
            for i, points in zip(self._surfaces, sampled, strict=True):
                drawn[i] = points
        for i, (verts, faces) in enumerate(zip(self.verts, self.faces, strict=True)):
            if not len(faces):
                drawn[i] = verts[torch.randint(len(verts), (count,), device=verts.device)]
        return torch.stack(drawn)

    def moved(self, R: Tensor, T: Tensor, s: Tensor) -> Shapes:
        """The shapes after x -> s x R + T with R (N, 3, 3), T (N, 3) and s (N,)."""
        verts = [s[i] * (v @ R[i]) + T[i] for i, v in enumerate(self.verts)]
        return Shapes(self.names, verts, self.faces)

    def noisy(self, noise: float) -> Shapes:
        """The shapes with normal noise of a standard deviation on every coordinate."""
        return Shapes(self.names, [v + noise * torch.randn_like(v) for v in self.verts], self.faces)


def load_shapes(paths: Sequence[Path | str], device: torch.device | str = "cpu") -> Shapes:
    """Shapes of OBJ and PLY files.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no file, another ending, a malformed file, or no finite vertices.
    """
    loaded = [load_shape(path) for path in paths]
    verts, faces = ([part.to(device) for part in parts] for parts in zip(*loaded, strict=True))
    return Shapes([Path(path).name for path in paths], verts, faces)


def built_in(rigid: bool = False, device: torch.device | str = "cpu") -> Shapes:
    """A cube, an octahedron and a dodecahedron; for rigid alignments the building instead of the octahedron.

    Faces of the solids are split: with the 34 vertices of the plain ones the mean of the documented noise alone is off
    by 0.05 along each axis, and no estimate can know it.
    """
    solids = [create_cube(_SPLITS), building() if rigid else octahedron(_SPLITS), dodecahedron(_SPLITS)]
    names = ["cube", "building" if rigid else "octahedron", "dodecahedron"]
    return Shapes(names, [m.verts_packed().to(device) for m in solids], [m.faces_packed().to(device) for m in solids])
