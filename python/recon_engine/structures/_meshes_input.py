"""Checks of what `Meshes` is built from, and the topology of faces that were seen before.

Scripts often build a new `Meshes` in every step from new vertices and the same face tensors. The topology of such
faces is found again, so that they are neither checked nor sorted into edges a second time. Where torch.compile traces,
faces have no values to look at: every row is one, and the kernels check the indices.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from .._compile import is_traced
from .topology import Topology
from .utils import padded_to_packed

# From the first face tensor of a batch to the last topology that was made from it. Both are held weakly: a topology
# lives as long as the meshes that use it.
_seen: WeakIdKeyDictionary = WeakIdKeyDictionary()


def _seen_topology(faces: Sequence[Tensor], num_verts: list[int]) -> Topology | None:
    """The topology of exactly these face tensors, unchanged since, for as many vertices; None when there is none."""
    reference = _seen.get(faces[0])
    topology: Topology | None = reference() if reference is not None else None
    if topology is None or topology.num_verts != num_verts or len(topology.sources) != len(faces):
        return None
    is_same = all(a is b and a._version == v for a, (b, v) in zip(faces, topology.sources, strict=True))
    return topology if is_same else None


def _remember(faces: Sequence[Tensor], topology: Topology) -> None:
    # Inference tensors do not count their changes.
    if not any(f.is_inference() for f in faces):
        topology.sources = [(f, f._version) for f in faces]
        _seen[faces[0]] = weakref.ref(topology)


def topology_and_verts(verts: Any, faces: Any) -> tuple[Topology, list[Tensor] | Tensor]:
    """The topology of the given faces, and the vertices with empty ones in shape (0, 3).

    Args:
        verts: list of (V_n, 3) tensors or a padded (N, V, 3) tensor.
        faces: list of (F_n, 3) tensors or a padded (N, F, 3) tensor, of the same form.

    Raises:
        ValueError: for anything that is not a batch of meshes.
    """
    if isinstance(verts, list) and isinstance(faces, list):
        return _from_lists(verts, faces)
    if isinstance(verts, Tensor) and isinstance(faces, Tensor):
        return _from_padded(verts, faces)
    raise ValueError(
        "Verts and Faces must be either a list or a tensor with shape (batch_size, N, 3) where N is either the maximum "
        f"number of verts or faces respectively: got {type(verts).__name__} and {type(faces).__name__}."
    )


def pickled_topology_and_verts(state: dict[str, Any]) -> tuple[Topology, list[Tensor]]:
    """The topology and the vertices, N tensors (V_n, 3), of meshes that PyTorch3D pickled.

    Args:
        state: their `__dict__`.

    Raises:
        ValueError: for meshes that could not be built here.
    """

    def rows(name: str) -> list[Tensor]:
        if state[f"_{name}_list"] is not None:
            return list(state[f"_{name}_list"])
        counts = state[f"_num_{name}_per_mesh"].tolist()
        return [rows[:count] for rows, count in zip(state[f"_{name}_padded"], counts)]

    return _from_lists(rows("verts"), rows("faces"))


def _from_lists(verts: list[Tensor], faces: list[Tensor]) -> tuple[Topology, list[Tensor]]:
    if len(verts) != len(faces):
        raise ValueError(f"Meshes: verts and faces must have the same length, got {len(verts)} and {len(faces)}")
    if not verts:
        return Topology([], [], faces_list=[], device=torch.device("cpu")), []
    verts = [_rows(v, "verts", n) for n, v in enumerate(verts)]
    faces = [_rows(f, "faces", n) for n, f in enumerate(faces)]
    device = verts[0].device
    for n, (v, f) in enumerate(zip(verts, faces, strict=True)):
        if not v.device == f.device == device:
            raise ValueError(
                "All Verts and Faces tensors should be on same device: "
                f"verts[0] is on {device}, verts[{n}] on {v.device}, faces[{n}] on {f.device}."
            )
    dtypes = {v.dtype for v in verts if v.shape[0]}
    if len(dtypes) > 1:
        raise ValueError(f"Meshes: all verts must have one dtype, got {sorted(map(str, dtypes))}")
    dtype = next(iter(dtypes), verts[0].dtype)
    _check_floating(dtype)
    verts = [v if v.dtype == dtype else v.to(dtype) for v in verts]
    num_verts = [v.shape[0] for v in verts]
    if is_traced():
        faces = [_int64(f, "faces") for f in faces]
        return Topology(num_verts, [len(f) for f in faces], faces_list=faces, device=device), verts
    topology = _seen_topology(faces, num_verts)
    if topology is None:
        checked = _without_padding([_int64(f, "faces") for f in faces], num_verts)
        topology = Topology(num_verts, [f.shape[0] for f in checked], faces_list=checked, device=device)
        _remember(faces, topology)
    return topology, verts


def _from_padded(verts: Tensor, faces: Tensor) -> tuple[Topology, Tensor]:
    for name, tensor in (("verts", verts), ("faces", faces)):
        if tensor.ndim != 3 or tensor.shape[2] != 3:
            raise ValueError(
                "Verts or Faces tensors have incorrect dimensions: "
                f"padded {name} must have shape (N, any, 3), got {tuple(tensor.shape)}."
            )
    if verts.device != faces.device:
        raise ValueError(f"Verts and Faces tensors should be on same device. Got {verts.device} and {faces.device}.")
    if len(verts) != len(faces):
        raise ValueError(f"Meshes: verts and faces must have the same batch size, got {len(verts)} and {len(faces)}")
    _check_floating(verts.dtype)
    N, V, _ = verts.shape
    if is_traced():
        indices = _int64(faces, "faces")
        return Topology([V] * N, [faces.shape[1]] * N, faces_padded=indices, device=verts.device), verts
    topology = _seen_topology([faces], [V] * N)
    if topology is None:
        indices = _int64(faces, "faces")
        topology = Topology([V] * N, _face_counts(indices, V), faces_padded=indices, device=verts.device)
        _remember([faces], topology)
    return topology, verts


def _rows(tensor: Any, name: str, n: int) -> Tensor:
    """`tensor` when it has shape (any, 3); an empty tensor of any shape becomes (0, 3)."""
    if not isinstance(tensor, Tensor):
        raise ValueError(f"Meshes: {name}[{n}] must be a tensor, got {type(tensor).__name__}")
    if tensor.ndim == 2 and tensor.shape[1] == 3:
        return tensor
    if tensor.numel() == 0:
        return tensor.new_zeros((0, 3))
    raise ValueError(f"Meshes: {name}[{n}] must have shape (any, 3), got {tuple(tensor.shape)}")


def _check_floating(dtype: torch.dtype) -> None:
    if not dtype.is_floating_point:
        raise ValueError(f"Meshes: verts must have a floating dtype, got {dtype}. Convert them with .float()")


def _int64(indices: Tensor, name: str) -> Tensor:
    """Integer indices as int64. Floating tensors are accepted when they hold whole numbers."""
    if indices.dtype == torch.int64:
        return indices
    if indices.dtype == torch.bool or indices.dtype.is_complex:
        raise ValueError(f"Meshes: {name} must have an integer dtype, got {indices.dtype}")
    whole = indices.to(torch.int64)
    if indices.dtype.is_floating_point and not is_traced() and not torch.equal(whole.to(indices.dtype), indices):
        raise ValueError(f"Meshes: {name} must hold whole numbers, got a {indices.dtype} tensor with fractions")
    return whole


def _without_padding(faces: list[Tensor], num_verts: Sequence[int]) -> list[Tensor]:
    """Faces without rows that hold a negative index, all other indices being in range."""
    filled = [n for n, f in enumerate(faces) if f.shape[0]]
    if not filled or (len(faces) > 1 and _are_in_range(faces, num_verts)):
        return faces
    ranges = torch.stack([bound for n in filled for bound in torch.aminmax(faces[n])]).tolist()
    faces = list(faces)
    for n, low, high in zip(filled, ranges[::2], ranges[1::2], strict=True):
        if low < 0:
            faces[n] = faces[n][(faces[n] >= 0).all(1)]
            high = int(faces[n].max()) if len(faces[n]) else -1
        if high >= num_verts[n]:
            raise _out_of_range(high, num_verts[n], n)
    return faces


def _are_in_range(faces: Sequence[Tensor], num_verts: Sequence[int]) -> bool:
    """Whether every index is a vertex of its own mesh: one pass over the batch and one transfer."""
    indices, device = torch.cat(list(faces)), faces[0].device
    counts, limits = (torch.tensor(sizes, device=device) for sizes in ([f.shape[0] for f in faces], num_verts))
    limits = limits.repeat_interleave(counts, output_size=indices.shape[0])
    return bool(((indices >= 0) & (indices < limits[:, None])).all())


def _face_counts(faces: Tensor, num_verts: int) -> list[int]:
    """The number of faces of each mesh of a padded tensor, with indices in range and padding at the end."""
    if faces.numel() == 0:
        return [faces.shape[1]] * len(faces)
    low, high = torch.stack(torch.aminmax(faces)).tolist()
    if high >= num_verts:
        raise _out_of_range(high, num_verts)
    if low >= 0:
        return [faces.shape[1]] * len(faces)
    is_face = (faces >= 0).all(2)
    if bool((~is_face[:, :-1] & is_face[:, 1:]).any()):
        raise ValueError("Padding of faces must be at the end: a row of -1 comes before a face.")
    return is_face.sum(1).tolist()


def _out_of_range(index: int, num_verts: int, n: int | None = None) -> ValueError:
    name = "faces" if n is None else f"faces[{n}]"
    return ValueError(
        f"Meshes: {name} has index {index} but there are {num_verts} vertices; indices count from 0 in each mesh"
    )


def assigned_normals(verts_normals: Any, topology: Topology) -> Tensor:
    """Packed vertex normals (sum(V_n), 3) from a list or a padded tensor.

    Args:
        verts_normals: list of (V_n, 3) tensors or a padded (N, max(V_n), 3) tensor.
        topology: of the meshes they belong to.

    Raises:
        ValueError: when they do not match the vertices.
    """
    if isinstance(verts_normals, list):
        if len(verts_normals) != topology.num_meshes:
            raise ValueError(
                f"Invalid verts_normals input: expected {topology.num_meshes} tensors, got {len(verts_normals)}."
            )
        for n, (normals, count) in enumerate(zip(verts_normals, topology.num_verts, strict=True)):
            if not isinstance(normals, Tensor) or normals.shape != (count, 3):
                got = tuple(normals.shape) if isinstance(normals, Tensor) else type(normals).__name__
                raise ValueError(f"Invalid verts_normals input: item {n} must have shape ({count}, 3), got {got}.")
        return torch.cat(verts_normals) if verts_normals else torch.zeros((0, 3), device=topology.device)
    if not isinstance(verts_normals, Tensor):
        raise ValueError(f"verts_normals must be a list or tensor, got {type(verts_normals).__name__}")
    if verts_normals.shape != (topology.num_meshes, topology.max_verts, 3):
        raise ValueError(
            "Vertex normals tensor has incorrect dimensions: "
            f"expected ({topology.num_meshes}, {topology.max_verts}, 3), got {tuple(verts_normals.shape)}."
        )
    return padded_to_packed(verts_normals, split_size=topology.num_verts)
