"""Graph convolution on the vertices and edges of meshes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from recon_engine._op import Op
from recon_engine.structures.topology import grouped


class GraphConv(nn.Module):
    """A graph convolution: `w0(x_v) + sum of w1(x_u)` over the neighbours u of each vertex v.

    Args:
        input_dim: features of a vertex going in.
        output_dim: features of a vertex coming out.
        init: "normal": weights drawn with the standard deviation 0.01, biases 0; "zero": weights 0.
        directed: the edge (a, b) makes b a neighbour of a, but not a one of b.

    Raises:
        ValueError: an unknown `init`.

    References:
        Morris et al., Weisfeiler and Leman go neural: higher-order graph neural networks, AAAI 2019.
    """

    def __init__(self, input_dim: int, output_dim: int, init: str = "normal", directed: bool = False) -> None:
        super().__init__()
        if init not in ("normal", "zero"):
            raise ValueError(f'Invalid GraphConv initialization "{init}": it must be "normal" or "zero"')
        self.input_dim = input_dim
        self.output_dim = output_dim
        self.directed = directed
        self.w0 = nn.Linear(input_dim, output_dim)
        self.w1 = nn.Linear(input_dim, output_dim)
        for layer in (self.w0, self.w1):
            if init == "zero":
                nn.init.zeros_(layer.weight)
            else:
                nn.init.normal_(layer.weight, mean=0, std=0.01)
                nn.init.zeros_(layer.bias)

    def forward(self, verts: Tensor, edges: Tensor) -> Tensor:
        """The features after the convolution.

        Args:
            verts: (V, input_dim) features.
            edges: (E, 2) int64 edges, as `Meshes.edges_packed`.

        Returns:
            (V, output_dim).

        Raises:
            ValueError: `verts` and `edges` on different devices, or anything `gather_scatter` refuses.
        """
        if verts.device.type != edges.device.type:
            raise ValueError(
                f"verts and edges tensors must be on the same device: GraphConv got {verts.device} and {edges.device}"
            )
        if verts.shape[0] == 0:
            return verts.new_zeros((0, self.output_dim)) * verts.sum()
        neighbors: Tensor = gather_scatter(self.w1(verts), edges, self.directed)
        own: Tensor = self.w0(verts)
        return own + neighbors

    def __repr__(self) -> str:
        """The sizes."""
        return f"GraphConv({self.input_dim} -> {self.output_dim}, directed={self.directed})"


def gather_scatter(input: Tensor, edges: Tensor, directed: bool = False) -> Tensor:
    """The sum of the features of each vertex's neighbours.

    Args:
        input: (V, D) features.
        edges: (E, 2) int64 edges. The edge (a, b) makes b a neighbour of a, and unless `directed` a one of b.
        directed: count each edge in one direction only.

    Returns:
        (V, D) sums; an edge that comes twice counts twice.

    Raises:
        ValueError: shapes or dtypes that do not fit; on the CPU an edge that names no vertex (NaN on CUDA).

    Differentiable in `input`. CPU and CUDA, float32 and float64. Repeatable bit by bit. The neighbours of each vertex
    are listed when a tensor of edges is seen first, and kept as long as it is.
    """
    if torch.compiler.is_compiling():  # the list of neighbours is made outside of the graph that is traced
        return gather_scatter_python(input, edges, directed)
    _check(input, edges)
    graph = _graph(edges, len(input), directed)
    out: Tensor = _gather_rows(input, *graph)
    return out


class GatherScatter:
    """`gather_scatter` under the name of PyTorch3D's autograd function."""

    apply = staticmethod(gather_scatter)


def gather_scatter_python(input: Tensor, edges: Tensor, directed: bool = False) -> Tensor:
    """`gather_scatter` in plain torch.

    Args:
        input: as `gather_scatter`.
        edges: as `gather_scatter`.
        directed: as `gather_scatter`.
    """
    _check(input, edges)
    a, b = edges.unbind(1)
    output = torch.zeros_like(input).index_add(0, a, input[b])
    return output if directed else output.index_add(0, b, input[a])


def _check(input: Tensor, edges: Tensor) -> None:
    if input.ndim != 2:
        raise ValueError(f"input can only have 2 dimensions: gather_scatter got {tuple(input.shape)}")
    if edges.ndim != 2:
        raise ValueError(f"edges can only have 2 dimensions: gather_scatter got {tuple(edges.shape)}")
    if edges.shape[1] != 2:
        raise ValueError(f"edges must be of shape (num_edges, 2): gather_scatter got {tuple(edges.shape)}")
    if not input.is_floating_point():
        raise ValueError(f"input has to be floating point: gather_scatter got {input.dtype}; convert it with .float()")
    if edges.dtype != torch.int64:
        raise ValueError(f"edges has to be of type torch.int64: gather_scatter got {edges.dtype}")


class _Graph(NamedTuple):
    """The neighbours of each vertex one after the other, and where those of each begin; the same of the edges turned.

    Going back, a vertex gets the gradients of those whose neighbour it is: no sum needs atomics.
    """

    offsets: Tensor
    neighbors: Tensor
    back_offsets: Tensor
    back_neighbors: Tensor


_graphs: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def _graph(edges: Tensor, num_verts: int, directed: bool) -> _Graph:
    key = (edges._version, num_verts, directed)
    kept = _graphs.get(edges)
    if kept is None or kept[0] != key:
        with torch.no_grad():
            kept = _graphs[edges] = key, _build_graph(edges, num_verts, directed)
    graph: _Graph = kept[1]
    return graph


def _build_graph(edges: Tensor, num_verts: int, directed: bool) -> _Graph:
    a, b = edges.unbind(1)
    if directed:
        return _Graph(*_neighbors(a, b, num_verts), *_neighbors(b, a, num_verts))
    both_ways = _neighbors(torch.cat([a, b]), torch.cat([b, a]), num_verts)
    return _Graph(*both_ways, *both_ways)


def _neighbors(rows: Tensor, entries: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """Offsets (num_rows + 1,) and the entries ordered by their rows."""
    offsets, order = grouped(rows, num_rows)
    return offsets, entries[order]


def _reference(input: Tensor, offsets: Tensor, index: Tensor, back_offsets: Tensor, back_index: Tensor) -> Tensor:
    counts = offsets[1:] - offsets[:-1]
    row = torch.arange(len(input), device=input.device).repeat_interleave(counts, output_size=len(index))
    return torch.zeros_like(input).index_add(0, row, input[index])


def _outputs(input: Tensor, offsets: Tensor, index: Tensor, back_offsets: Tensor, back_index: Tensor) -> Tensor:
    return torch.empty_like(input)


# Sums of rows of a graph, and of the graph turned around for the way back.
_gather_rows = Op("gather_rows", _outputs, _reference, reads=[], writes_all=True)
