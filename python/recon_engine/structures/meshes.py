"""Batches of triangle meshes of different sizes, as lists, packed tensors or padded tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._compile import keep, read
from .._precision import widened
from ..common.datatypes import Device, make_device
from ._meshes_input import assigned_normals, pickled_topology_and_verts, topology_and_verts
from ._rows import attributes_of, stored_form
from .topology import Topology
from .utils import list_to_padded


class Meshes:
    """A batch of N triangle meshes that gives its vertices and faces as lists, packed or padded.

    - *list*: N tensors, (V_n, 3) vertices and (F_n, 3) faces; the indices of a face count from 0 in each mesh.
    - *packed*: (sum(V_n), 3) and (sum(F_n), 3), one mesh after the other; faces index the packed vertices.
    - *padded*: (N, max(V_n), 3) filled up with 0 and (N, max(F_n), 3) filled up with -1.

    Each form is computed from the one that was given when it is first asked for, and is differentiable in the vertices.
    What follows from the faces alone (edges, neighbours, packing) lives in `topology()` and is shared by every mesh
    that is made from this one without changing its faces. Tensors may share memory between the forms: treat them as
    read-only and use `offset_verts`, `scale_verts` or `update_padded` to move vertices.

    Args:
        verts: list of N floating tensors (V_n, 3), or a padded tensor (N, V, 3), in which every row is a vertex.
        faces: list of N integer tensors (F_n, 3), or a padded tensor (N, F, 3) with rows of -1 at the end.
        textures: a texture object for the N meshes, or None.
        verts_normals: vertex normals to use instead of computed ones, list or padded as `verts`. They are forgotten
            when `offset_verts` moves vertices against each other.

    Raises:
        ValueError: wrong shapes, dtypes or devices, an index outside of the vertices, padding that is not at the end,
            textures of another size.

    Construction reads the faces once to check them, which on CUDA waits for the device. Meshes that methods derive
    (`offset_verts`, `clone`, `extend`, indexing, ...), and new ones that are built from the same face tensors while
    older ones live, share what is known of the faces: they are not checked again and do not wait.

    Example:
        >>> tetrahedron = torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])
        >>> meshes = Meshes(verts=[torch.rand(4, 3)], faces=[tetrahedron]).extend(2)
        >>> meshes.verts_packed().shape, meshes.edges_packed().shape
        (torch.Size([8, 3]), torch.Size([12, 2]))
    """

    # The tensors of this object that are not shared through its topology. Scripts loop over the names to copy a mesh.
    _INTERNAL_TENSORS = (
        "_verts_packed",
        "_verts_padded",
        "_verts_normals_packed",
        "_faces_normals_packed",
        "_faces_areas_packed",
    )

    def __init__(
        self,
        verts: list[Tensor] | Tensor,
        faces: list[Tensor] | Tensor,
        textures: Any = None,
        *,
        verts_normals: list[Tensor] | Tensor | None = None,
    ) -> None:
        topology, checked = topology_and_verts(verts, faces)
        self._reset(topology)
        if isinstance(checked, list):
            self._verts_list = checked
        else:
            self._verts_padded = checked
        if textures is not None:
            self._attach_textures(textures)
        if verts_normals is not None:
            self._verts_normals_packed = assigned_normals(verts_normals, topology)
            self._has_verts_normals = True

    _topology: Topology
    textures: Any
    _verts_list: list[Tensor] | None
    _verts_packed: Tensor | None
    _verts_padded: Tensor | None
    _verts_normals_packed: Tensor | None
    _faces_normals_packed: Tensor | None
    _faces_areas_packed: Tensor | None
    # Normals that were asked for or assigned stay announced when a move of the vertices makes them out of date.
    _has_verts_normals: bool
    # A deep copy hands out its own index tensors while it goes on sharing the topology they were copied from.
    _own_indices: dict[str, Any] | None

    def _reset(self, topology: Topology) -> None:
        """Gives every field its empty value."""
        self._topology = topology
        self.textures = None
        self._verts_list = None
        self._verts_packed = None
        self._verts_padded = None
        self._verts_normals_packed = None
        self._faces_normals_packed = None
        self._faces_areas_packed = None
        self._has_verts_normals = False
        self._own_indices = None

    def __getstate__(self) -> dict[str, Any]:
        """One form of the vertices, and normals only if they were assigned: the rest can be computed."""
        state = vars(self) | stored_form(
            _verts_packed=self._verts_packed, _verts_padded=self._verts_padded, _verts_list=self._verts_list
        )
        if not self._has_verts_normals:
            state |= {"_has_verts_normals": self.has_verts_normals(), "_verts_normals_packed": None}
        return state | {"_faces_normals_packed": None, "_faces_areas_packed": None, "_own_indices": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes what was pickled by this class, or by PyTorch3D's, which has no topology apart from its meshes."""
        if "_topology" in state:
            self.__dict__.update(state)
            return
        topology, verts = pickled_topology_and_verts(state)
        self._reset(topology)
        self.__dict__.update(attributes_of(type(self), state))
        self.__dict__.pop("_laplacian_packed", None)
        # Each form was pickled with a gradient of its own: one of them is what the others come from.
        self._verts_packed = None
        if self._verts_list is not None:
            self._verts_list, self._verts_padded = verts, None
        self._has_verts_normals = self._verts_normals_packed is not None
        if self.textures is not None:
            self._attach_textures(self.textures)

    def _derive(self, topology: Topology, verts_list: list[Tensor] | None = None, textures: Any = None) -> Meshes:
        """A new object of this class for checked parts; the caller sets the vertices when it has no list of them."""
        new = object.__new__(self.__class__)
        new._reset(topology)
        new._verts_list = verts_list
        if textures is not None:
            new._attach_textures(textures)
        return new

    def _attach_textures(self, textures: Any) -> None:
        if not hasattr(textures, "sample_textures"):
            raise ValueError(f"Expected textures to be an instance of type TexturesBase; got {type(textures)!r}")
        self._check_textures(textures)
        textures._num_faces_per_mesh = list(self._topology.num_faces)
        textures._num_verts_per_mesh = list(self._topology.num_verts)
        textures.valid = self.valid
        self.textures = textures

    def _check_textures(self, textures: Any) -> None:
        if not textures.check_shapes(self._N, self._V, self._F):
            raise ValueError(
                "Textures do not match the dimensions of Meshes: "
                f"expected N={self._N} meshes, at most V={self._V} vertices and F={self._F} faces each."
            )

    # Sizes

    @property
    def device(self) -> torch.device:
        """The device of all tensors."""
        return self._topology.device

    @property
    def valid(self) -> Tensor:
        """(N,) bool, meshes that have both vertices and faces."""
        return read(self._topology, "valid")

    @property
    def equisized(self) -> bool:
        """Whether all meshes have the same number of vertices and the same number of faces."""
        return self._topology.equisized

    @property
    def _N(self) -> int:
        return self._topology.num_meshes

    @property
    def _V(self) -> int:
        return self._topology.max_verts

    @property
    def _F(self) -> int:
        return self._topology.max_faces

    def __len__(self) -> int:
        return self._topology.num_meshes

    def isempty(self) -> bool:
        """Whether no mesh has both vertices and faces."""
        return self._topology.isempty

    def topology(self) -> Topology:
        """What follows from the faces alone; the same object for all meshes that share their faces."""
        return self._topology

    # Vertices

    def verts_list(self) -> list[Tensor]:
        """The vertices as N tensors (V_n, 3)."""
        if self._verts_list is None:
            num_verts = self._topology.num_verts
            if self._verts_packed is not None:
                verts = list(self._verts_packed.split(num_verts))
            else:
                padded = self._padded_or_fail()
                verts = [v[:count] for v, count in zip(padded.unbind(0), num_verts, strict=True)]
            return keep(self, "_verts_list", verts)
        return self._verts_list

    def verts_packed(self) -> Tensor:
        """The vertices of all meshes, (sum(V_n), 3)."""
        if self._verts_packed is None:
            if self._verts_list is None:
                verts = self._packed_from_padded(self._padded_or_fail())
            elif len(self._verts_list) == 1:
                verts = self._verts_list[0]
            elif self._verts_list:
                verts = torch.cat(self._verts_list)
            else:
                verts = torch.zeros((0, 3), device=self.device)
            return keep(self, "_verts_packed", verts)
        return self._verts_packed

    def verts_padded(self) -> Tensor:
        """The vertices as a batch, (N, max(V_n), 3), filled up with 0."""
        if self._verts_padded is None:
            verts = self._padded(self.verts_list, self.verts_packed, self._topology.num_verts)
            return keep(self, "_verts_padded", verts)
        return self._verts_padded

    def _padded_or_fail(self) -> Tensor:
        if self._verts_padded is None:
            raise RuntimeError("Meshes: all forms of the vertices were removed; keep at least one of them.")
        return self._verts_padded

    def _packed_from_padded(self, padded: Tensor) -> Tensor:
        topology = self._topology
        rows = padded.reshape(-1, 3)
        # Without padding the packed form is the padded one with two dimensions merged.
        return rows if len(rows) == topology.total_verts else rows[read(self._topology, "verts_padded_to_packed_idx")]

    def _padded(self, rows: Callable[[], list[Tensor]], packed: Callable[[], Tensor], counts: list[int]) -> Tensor:
        """(N, max(counts), 3): a view of the packed rows when all counts are equal, else a copy filled up with 0."""
        size = max(counts, default=0)
        if sum(counts) == len(counts) * size:
            return packed().reshape(len(counts), size, 3)
        return list_to_padded(rows(), (size, 3), pad_value=0.0)

    def verts_packed_to_mesh_idx(self) -> Tensor:
        """(sum(V_n),) the mesh of each packed vertex."""
        return self._index("verts_packed_to_mesh_idx")

    def mesh_to_verts_packed_first_idx(self) -> Tensor:
        """(N,) the first packed vertex of each mesh."""
        return self._index("mesh_to_verts_packed_first_idx")

    def num_verts_per_mesh(self) -> Tensor:
        """(N,) the numbers of vertices."""
        return self._index("num_verts_per_mesh")

    def verts_padded_to_packed_idx(self) -> Tensor:
        """(sum(V_n),) rows of the flattened padded vertices: `verts_padded().reshape(-1, 3)[idx]` is packed."""
        return self._index("verts_padded_to_packed_idx")

    # Faces and edges

    def _index(self, name: str) -> Tensor:
        shared: Tensor = read(self._topology, name)
        if self._own_indices is None:
            return shared
        own: Tensor | None = self._own_indices.get(name)
        if own is None:
            own = self._own_indices[name] = shared.clone()
        return own

    def faces_list(self) -> list[Tensor]:
        """The faces as N tensors (F_n, 3) that index the vertices of their own mesh."""
        if self._own_indices is None:
            return read(self._topology, "faces_list")
        own: list[Tensor] | None = self._own_indices.get("faces_list")
        if own is None:
            own = self._own_indices["faces_list"] = [faces.clone() for faces in read(self._topology, "faces_list")]
        return own

    def faces_packed(self) -> Tensor:
        """The faces of all meshes, (sum(F_n), 3), that index the packed vertices."""
        return self._index("faces_packed")

    def faces_padded(self) -> Tensor:
        """The faces as a batch, (N, max(F_n), 3), filled up with -1."""
        return self._index("faces_padded")

    def faces_packed_to_mesh_idx(self) -> Tensor:
        """(sum(F_n),) the mesh of each packed face."""
        return self._index("faces_packed_to_mesh_idx")

    def mesh_to_faces_packed_first_idx(self) -> Tensor:
        """(N,) the first packed face of each mesh."""
        return self._index("mesh_to_faces_packed_first_idx")

    def num_faces_per_mesh(self) -> Tensor:
        """(N,) the numbers of faces."""
        return self._index("num_faces_per_mesh")

    def edges_packed(self) -> Tensor:
        """The unique edges of all meshes, (sum(E_n), 2), each with its smaller vertex first, in lexicographic order."""
        return self._index("edges_packed")

    def edges_packed_to_mesh_idx(self) -> Tensor:
        """(sum(E_n),) the mesh of each packed edge."""
        return self._index("edges_packed_to_mesh_idx")

    def mesh_to_edges_packed_first_idx(self) -> Tensor:
        """(N,) the first packed edge of each mesh."""
        return self._index("mesh_to_edges_packed_first_idx")

    def faces_packed_to_edges_packed(self) -> Tensor:
        """The edges of each face, (sum(F_n), 3): column k is the packed edge opposite to corner k."""
        return self._index("faces_to_edges")

    def num_edges_per_mesh(self) -> Tensor:
        """(N,) int32, the numbers of edges."""
        return self._index("num_edges_per_mesh_int32")

    # Normals and areas

    def has_verts_normals(self) -> bool:
        """Whether vertex normals were assigned or computed before."""
        return self._has_verts_normals or self._verts_normals_packed is not None

    def verts_normals_packed(self) -> Tensor:
        """Unit vertex normals, (sum(V_n), 3): the sum of the normals of a vertex's faces, weighted by their areas."""
        if self._verts_normals_packed is None:
            verts, faces = widened(self.verts_packed()), self.faces_packed()
            v0, v1, v2 = verts[faces.t().reshape(-1)].reshape(3, -1, 3)
            # The length of the cross product is twice the area, which gives the weights.
            face_normals = torch.linalg.cross(v2 - v1, v0 - v1)
            sums = torch.zeros_like(verts).index_add(0, faces.t().reshape(-1), face_normals.repeat(3, 1))
            return keep(self, "_verts_normals_packed", F.normalize(sums, eps=1e-6, dim=1))
        return self._verts_normals_packed

    def verts_normals_list(self) -> list[Tensor]:
        """Unit vertex normals as N tensors (V_n, 3)."""
        return list(self.verts_normals_packed().split(self._topology.num_verts)) if self._N else []

    def verts_normals_padded(self) -> Tensor:
        """Unit vertex normals as a batch, (N, max(V_n), 3), filled up with 0."""
        return self._padded(self.verts_normals_list, self.verts_normals_packed, self._topology.num_verts)

    def faces_areas_packed(self) -> Tensor:
        """The area of each face, (sum(F_n),)."""
        return self._areas_and_normals()[0]

    def faces_normals_packed(self) -> Tensor:
        """The unit normal (v1 - v0) x (v2 - v0) of each face, (sum(F_n), 3)."""
        return self._areas_and_normals()[1]

    def faces_normals_list(self) -> list[Tensor]:
        """Unit face normals as N tensors (F_n, 3)."""
        return list(self.faces_normals_packed().split(self._topology.num_faces)) if self._N else []

    def faces_normals_padded(self) -> Tensor:
        """Unit face normals as a batch, (N, max(F_n), 3), filled up with 0."""
        return self._padded(self.faces_normals_list, self.faces_normals_packed, self._topology.num_faces)

    def laplacian_packed(self) -> Tensor:
        """The uniform Laplacian, (sum(V_n), sum(V_n)) sparse, with the dtype of the vertices.

        -1 on the diagonal, 1 / degree(i) where vertices i and j share an edge, 0 elsewhere.
        """
        return self._topology.laplacian(self.verts_packed().dtype)

    # Copies

    def _mapped(self, function: Callable[[Tensor], Tensor], topology: Topology) -> Meshes:
        """These meshes without textures, after a function of every tensor that is not of their topology."""
        # The list can be had again from any other form.
        only_list = self._verts_packed is None and self._verts_padded is None
        other = self._derive(topology, [function(verts) for verts in self.verts_list()] if only_list else None)
        other._has_verts_normals = self._has_verts_normals
        for name in self._INTERNAL_TENSORS:
            tensor = getattr(self, name)
            if tensor is not None:
                setattr(other, name, function(tensor))
        return other

    def clone(self) -> Meshes:
        """A deep copy: no tensor that its methods return shares memory with this object's. Differentiable.

        The topology object is shared, so that edges and neighbours are not computed again.
        """
        other = self._mapped(torch.clone, self._topology)
        other._own_indices = {}
        if self.textures is not None:
            other.textures = self.textures.clone()
        return other

    def detach(self) -> Meshes:
        """The same meshes without their gradient history, sharing memory and topology."""
        other = self._mapped(torch.detach, self._topology)
        other._own_indices = self._own_indices
        if self.textures is not None:
            other.textures = self.textures.detach()
        return other

    def to(self, device: Device, copy: bool = False) -> Meshes:
        """These meshes on another device.

        Args:
            device: the target.
            copy: return a copy even when the meshes are there already.

        Returns:
            Self when nothing is to be done, else new meshes; what was computed of the topology is moved with them.
        """
        target = make_device(device)
        if self.device == target:
            return self.clone() if copy else self
        other = self._mapped(lambda tensor: tensor.to(target), self._topology.to(target))
        if self.textures is not None:
            other.textures = self.textures.clone().to(target)
        return other

    def cpu(self) -> Meshes:
        """These meshes on the CPU."""
        return self.to("cpu")

    def cuda(self) -> Meshes:
        """These meshes on the current CUDA device."""
        return self.to("cuda")

    # Parts of the batch

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Meshes:
        """The selected meshes; vertices and faces are not copied.

        Args:
            index: an integer, a slice, a list of integers, or a 1D tensor: integer indices or a (N,) bool mask.

        Raises:
            IndexError: for an index out of range or of another kind.
        """
        chosen = self._chosen_meshes(index)
        verts, faces = self.verts_list(), self.faces_list()
        # `topology` keeps what it was given by reference: selecting costs no copy.
        topology = Topology(
            [self._topology.num_verts[n] for n in chosen],
            [self._topology.num_faces[n] for n in chosen],
            faces_list=[faces[n] for n in chosen],
            device=self.device,
        )
        if isinstance(index, Tensor) and index.dtype == torch.bool:
            index = chosen
        textures = None if self.textures is None else self.textures[index]
        return self._derive(topology, [verts[n] for n in chosen], textures)

    def __iter__(self) -> Iterator[Meshes]:
        """The meshes one by one."""
        return (self[n] for n in range(self._N))

    def _chosen_meshes(self, index: Any) -> list[int]:
        """Numbers of the meshes that an index selects."""
        if isinstance(index, slice):
            return list(range(self._N)[index])
        if isinstance(index, Tensor):
            if index.dim() != 1 or index.dtype.is_floating_point or index.dtype.is_complex:
                raise IndexError(f"Meshes: a tensor index must be 1D, integer or bool, got {index.dtype} {index.shape}")
            if index.dtype == torch.bool:
                if len(index) != self._N:
                    raise IndexError(f"Meshes: a mask must have N={self._N} entries, got {len(index)}")
                index = index.nonzero().squeeze(1)
            index = index.tolist()
        if hasattr(index, "__index__"):
            index = [index]
        if not isinstance(index, list) or not all(hasattr(i, "__index__") for i in index):
            raise IndexError(f"Meshes: index must be an int, slice, list of ints or tensor, got {index!r}")
        try:
            return [range(self._N)[i] for i in index]
        except IndexError:
            raise IndexError(f"Meshes: index {index} is out of range for a batch of {self._N} meshes") from None

    def get_mesh_verts_faces(self, index: int) -> tuple[Tensor, Tensor]:
        """The vertices (V, 3) and faces (F, 3) of one mesh.

        Args:
            index: its number, 0 <= index < N.

        Raises:
            ValueError: when `index` is not an integer in that range.
        """
        if not isinstance(index, int):
            raise ValueError(f"Mesh index must be an integer, got {type(index).__name__}.")
        if not 0 <= index < self._N:
            raise ValueError(f"Mesh index must be in the range [0, N) with N={self._N} meshes, got {index}.")
        return self.verts_list()[index], self.faces_list()[index]

    def split(self, split_sizes: list[int]) -> list[Meshes]:
        """Consecutive parts of the batch.

        Args:
            split_sizes: the number of meshes in each part.

        Raises:
            ValueError: when a size is not an integer.
        """
        if not all(isinstance(size, int) for size in split_sizes):
            raise ValueError(f"Value of split_sizes must be a list of integers, got {split_sizes}.")
        parts, start = [], 0
        for size in split_sizes:
            parts.append(self[start : start + size])
            start += size
        return parts

    def extend(self, N: int) -> Meshes:
        """A batch in which each mesh comes N times in a row, as copies. Differentiable.

        Args:
            N: the number of copies.

        Raises:
            ValueError: when N is not a positive integer.
        """
        if not isinstance(N, int):
            raise ValueError(f"N must be an integer, got {type(N).__name__}.")
        if N <= 0:
            raise ValueError(f"N must be > 0, got {N}.")
        topology = Topology(
            [count for count in self._topology.num_verts for _ in range(N)],
            [count for count in self._topology.num_faces for _ in range(N)],
            faces_list=_copies(self.faces_list(), N),
            device=self.device,
        )
        verts = _copies(self.verts_list(), N)
        return self._derive(topology, verts, None if self.textures is None else self.textures.extend(N))

    def submeshes(self, face_indices: list[list[Tensor]] | list[Tensor] | Tensor) -> Meshes:
        """Meshes made of some of the faces; vertices that no chosen face uses are dropped.

        Args:
            face_indices: for each of the N meshes the parts to take from it, each an int64 tensor of face numbers: a
                list of lists of tensors, a list of tensors (parts, faces), or one tensor (N, parts, faces).

        Returns:
            All parts in one batch. The order of vertices is kept.

        Raises:
            ValueError: when there are not N entries.
        """
        if len(face_indices) != self._N:
            raise ValueError(
                "You must specify exactly one set of submeshes for each mesh in this Meshes object: "
                f"got {len(face_indices)} sets for {self._N} meshes."
            )
        verts, faces = [], []
        vert_indices: list[list[Tensor]] = []
        for mesh_verts, mesh_faces, parts in zip(self.verts_list(), self.faces_list(), face_indices, strict=True):
            vert_indices.append([])
            for part in parts:
                used, renumbered = torch.unique(mesh_faces[part], return_inverse=True)
                verts.append(mesh_verts[used])
                faces.append(renumbered.reshape(-1, 3))
                vert_indices[-1].append(used)
        topology = Topology([len(v) for v in verts], [len(f) for f in faces], faces_list=faces, device=self.device)
        textures = self.textures.submeshes(vert_indices, face_indices) if self.textures else None
        return self._derive(topology, verts, textures)

    # Other vertices for the same faces

    def _with_packed(self, verts_packed: Tensor) -> Meshes:
        new = object.__new__(self.__class__)
        new._reset(self._topology)
        new.textures = self.textures
        new._own_indices = self._own_indices
        new._verts_packed = verts_packed
        return new

    def _set_packed(self, verts_packed: Tensor) -> None:
        self._verts_packed = verts_packed
        self._verts_list = self._verts_padded = None

    def _offset(self, offsets: Tensor) -> tuple[Tensor, bool]:
        """The moved packed vertices, and whether the mesh keeps its shape."""
        verts = self.verts_packed()
        if not isinstance(offsets, Tensor):
            raise TypeError(f"offset_verts: vert_offsets_packed must be a tensor, got {type(offsets).__name__}")
        is_translation = offsets.shape == (3,)
        if not is_translation and offsets.shape != verts.shape:
            raise ValueError(
                "Verts offsets must have dimension (all_v, 3): "
                f"expected {tuple(verts.shape)} or (3,), got {tuple(offsets.shape)}."
            )
        return verts + offsets, is_translation

    def offset_verts_(self, vert_offsets_packed: Tensor) -> Meshes:
        """Moves the vertices of this object.

        Args:
            vert_offsets_packed: (sum(V_n), 3) an offset for each vertex, or (3,) one for all. With one offset for each
                vertex, normals and areas are computed anew when they are next asked for.

        Returns:
            Self.

        Differentiable in the vertices and the offsets.
        """
        verts, is_translation = self._offset(vert_offsets_packed)
        self._set_packed(verts)
        if not is_translation:
            self._has_verts_normals = self.has_verts_normals()
            self._verts_normals_packed = self._faces_normals_packed = self._faces_areas_packed = None
        return self

    def offset_verts(self, vert_offsets_packed: Tensor) -> Meshes:
        """New meshes with moved vertices and the same faces, topology and textures.

        Args:
            vert_offsets_packed: (sum(V_n), 3) an offset for each vertex, or (3,) one for all. With one offset for each
                vertex, normals and areas are computed anew when they are asked for.

        Differentiable in the vertices and the offsets. Cost: one addition; nothing else is copied or computed.
        """
        verts, is_translation = self._offset(vert_offsets_packed)
        new = self._with_packed(verts)
        new._has_verts_normals = self.has_verts_normals()
        if is_translation:
            new._verts_normals_packed = self._verts_normals_packed
            new._faces_normals_packed = self._faces_normals_packed
            new._faces_areas_packed = self._faces_areas_packed
        return new

    def _scaled(self, scale: float | Tensor) -> Tensor:
        verts = self.verts_packed()
        if not isinstance(scale, Tensor) or scale.ndim == 0:
            return verts * scale
        if scale.shape != (self._N,):
            raise ValueError(
                f"scale_verts: scale must be a number or have shape ({self._N},), got {tuple(scale.shape)}"
            )
        if self._N == 1:
            return verts * scale
        return verts * scale[read(self._topology, "verts_packed_to_mesh_idx"), None]

    def scale_verts_(self, scale: float | Tensor) -> Meshes:
        """Multiplies the vertices of this object.

        Args:
            scale: a number for all meshes, or (N,) one for each. Vertex normals are kept.

        Returns:
            Self.

        Differentiable in the vertices and the scale.
        """
        self._set_packed(self._scaled(scale))
        self._faces_normals_packed = self._faces_areas_packed = None
        return self

    def scale_verts(self, scale: float | Tensor) -> Meshes:
        """New meshes with scaled vertices and the same faces, topology and textures.

        Args:
            scale: a number for all meshes, or (N,) one for each. Vertex normals are kept.

        Differentiable in the vertices and the scale.
        """
        new = self._with_packed(self._scaled(scale))
        new._verts_normals_packed = self._verts_normals_packed
        new._has_verts_normals = self._has_verts_normals
        return new

    def update_padded(self, new_verts_padded: Tensor) -> Meshes:
        """New meshes with the given vertices and the same faces, topology and textures.

        Args:
            new_verts_padded: (N, max(V_n), 3) vertices; rows beyond V_n are padding.

        Raises:
            ValueError: when the shape or the device is another.

        Differentiable in the vertices. Nothing is copied.
        """
        sizes = (("batch dimension", self._N), ("number of points", self._V), ("dimension", 3))
        if new_verts_padded.ndim != 3:
            raise ValueError(f"new values must have shape (N, V, 3), got {tuple(new_verts_padded.shape)}.")
        for got, (what, expected) in zip(new_verts_padded.shape, sizes, strict=True):
            if got != expected:
                raise ValueError(f"new values must have the same {what}: expected {expected}, got {got}.")
        if new_verts_padded.device != self.device:
            raise ValueError(f"new values must be on the same device {self.device}, got {new_verts_padded.device}.")
        new = object.__new__(self.__class__)
        new._reset(self._topology)
        new.textures = self.textures
        new._own_indices = self._own_indices
        new._verts_padded = new_verts_padded
        return new

    def get_bounding_boxes(self) -> Tensor:
        """The axis-aligned box of each mesh, (N, 3, 2): `[n, i]` is the interval of coordinate i.

        A mesh without vertices has the empty interval (inf, -inf). Differentiable in the vertices.
        """
        verts, index = self.verts_packed(), read(self._topology, "verts_packed_to_mesh_idx")[:, None].expand(-1, 3)
        infinite = verts.new_full((self._N, 3), torch.inf)
        low = infinite.scatter_reduce(0, index, verts, "amin")
        high = (-infinite).scatter_reduce(0, index, verts, "amax")
        return torch.stack([low, high], dim=2)

    def sample_textures(self, fragments: Any) -> Tensor:
        """The texture at every fragment of a rasterised picture.

        Args:
            fragments: what a rasteriser returned for these meshes: `pix_to_face` (N, H, W, K) and `bary_coords`
                (N, H, W, K, 3).

        Returns:
            (N, H, W, K, C) texels.

        Raises:
            ValueError: when there are no textures, or textures of another size.
        """
        if self.textures is None:
            raise ValueError("Meshes does not have textures")
        self._check_textures(self.textures)
        return self.textures.sample_textures(fragments, faces_packed=self.faces_packed())

    # Private names of PyTorch3D that scripts read. An index is None until the main one of its group was computed.

    def _computed(self, name: str, main: str) -> Any:
        return None if self._topology.cached(main) is None else self._index(name)

    @property
    def _faces_list(self) -> list[Tensor] | None:
        return None if self._topology.cached("faces_list") is None else self.faces_list()

    _num_verts_per_mesh = property(num_verts_per_mesh)
    _num_faces_per_mesh = property(num_faces_per_mesh)
    _faces_packed = property(lambda self: self._computed("faces_packed", "faces_packed"))
    _faces_padded = property(lambda self: self._computed("faces_padded", "faces_padded"))
    _verts_packed_to_mesh_idx = property(lambda self: self._computed("verts_packed_to_mesh_idx", "faces_packed"))
    _faces_packed_to_mesh_idx = property(lambda self: self._computed("faces_packed_to_mesh_idx", "faces_packed"))
    _mesh_to_verts_packed_first_idx = property(
        lambda self: self._computed("mesh_to_verts_packed_first_idx", "faces_packed")
    )
    _mesh_to_faces_packed_first_idx = property(
        lambda self: self._computed("mesh_to_faces_packed_first_idx", "faces_packed")
    )
    _verts_padded_to_packed_idx = property(
        lambda self: self._computed("verts_padded_to_packed_idx", "verts_padded_to_packed_idx")
    )
    _edges_packed = property(lambda self: self._computed("edges_packed", "edges_packed"))
    _edges_packed_to_mesh_idx = property(lambda self: self._computed("edges_packed_to_mesh_idx", "edges_packed"))
    _mesh_to_edges_packed_first_idx = property(
        lambda self: self._computed("mesh_to_edges_packed_first_idx", "edges_packed")
    )
    _faces_packed_to_edges_packed = property(lambda self: self._computed("faces_to_edges", "edges_packed"))
    _num_edges_per_mesh = property(lambda self: self._computed("num_edges_per_mesh_int32", "edges_packed"))

    def _compute_packed(self, refresh: bool = False) -> None:
        """Computes the packed vertices, the packed faces and their indices; with `refresh` the vertices again."""
        if refresh:
            self.verts_list()
            self._verts_packed = None
        self.verts_packed()
        for name in ("faces_packed", "verts_packed_to_mesh_idx", "faces_packed_to_mesh_idx"):
            self._index(name)
        self._index("mesh_to_verts_packed_first_idx")
        self._index("mesh_to_faces_packed_first_idx")

    def _compute_padded(self, refresh: bool = False) -> None:
        """Computes the padded vertices and faces; with `refresh` the vertices again."""
        if refresh:
            self.verts_list()
            self._verts_padded = None
        self.verts_padded()
        self._index("faces_padded")

    def _compute_edges_packed(self, refresh: bool = False) -> None:
        """Computes everything about edges; faces do not change, so that `refresh` has nothing to do again."""
        for name in ("edges_packed", "edges_packed_to_mesh_idx", "mesh_to_edges_packed_first_idx", "faces_to_edges"):
            self._index(name)
        self._index("num_edges_per_mesh_int32")

    def _compute_laplacian_packed(self, refresh: bool = False) -> None:
        """Computes the uniform Laplacian; it depends on the faces only, so that `refresh` has nothing to do again."""
        self.laplacian_packed()

    def _compute_face_areas_normals(self, refresh: bool = False) -> None:
        """Computes the areas and normals of the faces; with `refresh` again."""
        if refresh:
            self._faces_areas_packed = self._faces_normals_packed = None
        self._areas_and_normals()

    def _areas_and_normals(self) -> tuple[Tensor, Tensor]:
        from ..ops import mesh_face_areas_normals

        if self._faces_areas_packed is None or self._faces_normals_packed is None:
            areas, normals = mesh_face_areas_normals(self.verts_packed(), self.faces_packed())
            return keep(self, "_faces_areas_packed", areas), keep(self, "_faces_normals_packed", normals)
        return self._faces_areas_packed, self._faces_normals_packed

    def _compute_vertex_normals(self, refresh: bool = False) -> None:
        """Computes the vertex normals; with `refresh` again."""
        if refresh:
            self._verts_normals_packed = None
        self.verts_normals_packed()


def _copies(tensors: Sequence[Tensor], N: int) -> list[Tensor]:
    """N copies of each tensor, one after the other."""
    return [copy for tensor in tensors for copy in tensor.repeat(N, *(1,) * tensor.ndim).unbind(0)]


def join_meshes_as_batch(meshes: Sequence[Meshes], include_textures: bool = True) -> Meshes:
    """One batch of all the meshes of several batches.

    Args:
        meshes: list of batches on one device.
        include_textures: join the textures too; all batches must then have textures of one type, or none.

    Returns:
        The joined batch; vertices are not copied.

    Raises:
        ValueError: when `meshes` is a single `Meshes`, or the textures do not fit together.

    Differentiable in the vertices.
    """
    if isinstance(meshes, Meshes):
        # A batch can be iterated: join_meshes_as_batch(a, b) would take b for include_textures and return a.
        raise ValueError("Wrong first argument to join_meshes_as_batch: expected a list of Meshes, got one Meshes.")
    verts = [v for batch in meshes for v in batch.verts_list()]
    faces = [f for batch in meshes for f in batch.faces_list()]
    textures = _joined_textures(meshes) if include_textures else None
    return Meshes(verts=verts, faces=faces, textures=textures)


def _joined_textures(meshes: Sequence[Meshes]) -> Any:
    textures = [batch.textures for batch in meshes if batch.textures is not None]
    if not textures:
        return None
    if len(textures) != len(meshes):
        raise ValueError(
            "Inconsistent textures in join_meshes_as_batch: "
            f"{len(textures)} of {len(meshes)} batches have textures. Give textures to all of them or to none, "
            "or pass include_textures=False."
        )
    kinds = {type(texture) for texture in textures}
    if len(kinds) > 1:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(f"All meshes in the batch must have the same type of texture, got {names}.")
    return textures[0].join_batch(textures[1:])


def join_meshes_as_scene(meshes: Meshes | list[Meshes], include_textures: bool = True) -> Meshes:
    """One mesh that holds all the meshes of one batch or of several.

    Args:
        meshes: a batch, or a list of batches on one device.
        include_textures: join the textures too, as `join_meshes_as_batch` does.

    Returns:
        A batch with one mesh.

    Raises:
        ValueError: when `include_textures` is not a bool, or the textures do not fit together.

    Differentiable in the vertices.
    """
    if not isinstance(include_textures, int):
        # join_meshes_as_scene(a, b) would otherwise silently drop b.
        raise ValueError(f"include_textures argument cannot be {type(include_textures)}")
    if isinstance(meshes, list):
        meshes = join_meshes_as_batch(meshes, include_textures=include_textures)
    if len(meshes) == 1:
        return meshes
    textures = meshes.textures.join_scene() if include_textures and meshes.textures is not None else None
    return Meshes(verts=meshes.verts_packed()[None], faces=meshes.faces_packed()[None], textures=textures)
