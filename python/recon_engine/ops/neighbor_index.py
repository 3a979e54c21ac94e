"""Points that are searched again and again."""

from __future__ import annotations

import torch
from torch import Tensor

from recon_engine._load import load
from recon_engine.ops._nearest import nearest
from recon_engine.ops.knn import _KNN, knn_gather


class NeighborIndex:
    """What a search for neighbours needs of the searched points, built once and used by any number of queries.

    The answers are those of `knn_points`, to the last bit. On the CPU the index is a tree of boxes over each cloud of
    more than 768 points in up to 3 dimensions; it takes about 25 bytes a point in float32. Other clouds, and clouds on
    a GPU, are compared point by point and need no index.

    Args:
        points: (N, P, D) float32 or float64 points to search. They are not copied: the index belongs to their values.
        lengths: (N,) int64, how many points of each cloud there are; None: all P.

    Raises:
        ValueError: `points` or `lengths` of another shape or dtype.

    Example:
        >>> index = NeighborIndex(torch.tensor([[[0.0], [2.0], [5.0]]]))
        >>> index.query(torch.tensor([[[1.5], [9.0]]])).idx
        tensor([[[1],
                 [2]]])
    """

    def __init__(self, points: Tensor, lengths: Tensor | None = None) -> None:
        if points.ndim != 3:
            raise ValueError(f"NeighborIndex: points must have shape (N, P, D), got {tuple(points.shape)}")
        if points.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"NeighborIndex: points must be float32 or float64, got {points.dtype}: convert with .float()"
            )
        if lengths is not None and lengths.shape != points.shape[:1]:
            raise ValueError(
                f"NeighborIndex: lengths must have shape ({len(points)},), like the clouds, got {tuple(lengths.shape)}"
            )
        self.points = points
        self.lengths = None if lengths is None else lengths.to(points.device, torch.int64).clone()
        self._shape, self._version = points.shape, _version(points)
        self._index = _build(points.detach().contiguous(), self.lengths)

    def query(
        self, points: Tensor, K: int = 1, lengths: Tensor | None = None, norm: int = 2, return_nn: bool = False
    ) -> _KNN:
        """For every point, the K nearest of the indexed points.

        Args:
            points: (N, P1, D) points to search from.
            K: how many to find.
            lengths: (N,) int64, how many points of each cloud of `points` there are; None: all P1.
            norm: 2 for squared Euclidean distances, 1 for sums of absolute differences.
            return_nn: also return the neighbours themselves.

        Returns:
            What `knn_points(points, self.points, lengths, self.lengths, norm, K, return_nn=return_nn)` returns.

        Raises:
            ValueError: points that do not fit to the indexed ones.
            RuntimeError: the indexed points were changed after the index was built.

        Differentiable in `points` and in the indexed points.
        """
        # A compiled call cannot see whether values were changed.
        if self.points.shape != self._shape or not (
            torch.compiler.is_compiling() or _version(self.points) == self._version
        ):
            raise RuntimeError(
                f"NeighborIndex: the indexed points, of shape {tuple(self._shape)}, were changed in place after the "
                f"index was built (now: {tuple(self.points.shape)}): build a NeighborIndex of what they are now"
            )
        N, _, D = self._shape
        if points.ndim != 3 or points.shape[0] != N or points.shape[2] != D:
            raise ValueError(
                f"NeighborIndex.query: points must have shape ({N}, P, {D}), like the indexed points "
                f"{tuple(self._shape)}, got {tuple(points.shape)}"
            )
        dists, idx = nearest(points, self.points, lengths, self.lengths, norm=norm, K=K, index=self._index)
        return _KNN(dists, idx, knn_gather(self.points, idx, self.lengths) if return_nn else None)


def _version(points: Tensor) -> int:
    """How often the values were changed in place; tensors of inference mode do not count."""
    return 0 if points.is_inference() else points._version


def _build(points: Tensor, lengths: Tensor | None) -> Tensor | None:
    _C = load()
    size = torch.empty(1, dtype=torch.int64)
    # A GPU's kernels need no index; asking them would wait for the device.
    if points.device.type != "cpu" or len(points) == 0:
        return None
    _C.neighbor_index_bytes(points, size)
    if size == 0:
        return None
    index = torch.empty(len(points), int(size), dtype=torch.uint8)
    _C.neighbor_index(points, lengths, index)
    return index
