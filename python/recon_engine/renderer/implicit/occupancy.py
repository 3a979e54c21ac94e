"""A grid that remembers where space is empty, so that a network need not be asked there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .utils import HeterogeneousRayBundle, RayBundle, ray_bundle_to_ray_points

_AT_ONCE = 1 << 18  # points that a function is asked about


class OccupancyGrid(torch.nn.Module):
    """Where a function of space has density, in cells of a box.

    All cells count as occupied until the first `update`: what is rendered is then exactly what is rendered without the
    grid. So it is with `enabled` set to False.

    Args:
        min_corner: (x, y, z) of the box.
        max_corner: (x, y, z) of the box. What lies outside is always occupied: the grid knows nothing about it.
        resolution: how many cells along x, y, z.
        threshold: cells are empty while their density is 0 or below it, or below the mean of all where that is less.
        decay: by which what is remembered of a cell fades in an update, unless it is found to be denser.

    Attributes:
        densities: (resolution) what is remembered.
        occupied: (resolution) bool.
        enabled: whether `skipping` skips.

    Example:
        >>> grid = OccupancyGrid((-1, -1, -1), (1, 1, 1), 64)
        >>> field = grid.skipping(network)  # a volumetric function as the one that is given
        >>> for step in range(1000):
        ...     if step % 16 == 0:
        ...         grid.update(network.densities)
        ...     images, _ = renderer(cameras, field)

    References:
        Mueller et al., Instant neural graphics primitives, SIGGRAPH 2022, appendix E.2; Li et al., NerfAcc, ICCV 2023.
    """

    densities: Tensor
    occupied: Tensor
    _min_corner: Tensor
    _cell: Tensor

    def __init__(
        self,
        min_corner: Sequence[float] = (-1.0, -1.0, -1.0),
        max_corner: Sequence[float] = (1.0, 1.0, 1.0),
        resolution: int | Sequence[int] = 128,
        threshold: float = 0.01,
        decay: float = 0.95,
    ) -> None:
        super().__init__()
        size = [resolution] * 3 if isinstance(resolution, int) else list(resolution)
        if len(size) != 3 or min(size) < 1:
            raise ValueError(f"resolution must be one or three numbers of cells, at least 1, got {resolution}")
        if len(min_corner) != 3 or len(max_corner) != 3 or any(a >= b for a, b in zip(min_corner, max_corner)):
            raise ValueError(
                f"min_corner must hold three numbers, each below that of max_corner: got {min_corner} and {max_corner}"
            )
        if not 0 <= decay <= 1:
            raise ValueError(f"decay must lie between 0 and 1, got {decay}")
        low, high = torch.tensor(min_corner, dtype=torch.float32), torch.tensor(max_corner, dtype=torch.float32)
        self.register_buffer("_min_corner", low, persistent=False)
        self.register_buffer("_cell", (high - low) / torch.tensor(size), persistent=False)
        self.register_buffer("densities", torch.zeros(size))
        self.register_buffer("occupied", torch.ones(size, dtype=torch.bool))
        self.threshold, self.decay, self.enabled = threshold, decay, True

    def is_occupied(self, points: Tensor) -> Tensor:
        """Whether points (..., 3) lie in occupied cells or outside of the box, (...) bool."""
        size = torch.tensor(self.occupied.shape, device=points.device)
        place = (points.detach() - self._min_corner.to(points.dtype)) / self._cell.to(points.dtype)
        outside = ~((place >= 0) & (place < size)).all(-1)
        cell = torch.where(outside[..., None], 0, place).long()
        return outside | self.occupied[cell.unbind(-1)]

    @torch.no_grad()
    def update(self, density: Callable[[Tensor], Tensor]) -> None:
        """Asks for the density at a random point of every cell.

        Args:
            density: of points (P, 3) returns densities (P,) or (P, 1), from 0 on.

        Raises:
            ValueError: for densities of another shape.
        """
        size = self.occupied.shape
        found = torch.empty(self.occupied.numel(), device=self._cell.device)
        for start in range(0, len(found), _AT_ONCE):
            cells = torch.arange(start, min(start + _AT_ONCE, len(found)), device=found.device)
            corner = torch.stack((cells // (size[1] * size[2]), cells // size[2] % size[1], cells % size[2]), -1)
            points = self._min_corner + (corner + torch.rand(corner.shape, device=found.device)) * self._cell
            values = density(points)
            if values.shape not in ((len(points),), (len(points), 1)):
                raise ValueError(
                    f"density must return one number for each of {len(points)} points, got shape {tuple(values.shape)}"
                )
            found[start : start + len(cells)] = values.reshape(-1)
        torch.maximum(self.densities * self.decay, found.view(size), out=self.densities)
        least = self.densities.mean().clamp(max=self.threshold)
        self.occupied = (self.densities >= least) & (self.densities > 0)

    def skipping(self, volumetric_function: Callable[..., Any]) -> Callable[..., Any]:
        """A volumetric function that asks the given one about occupied places only.

        Args:
            volumetric_function: as `ImplicitRenderer` takes it, of which every sample depends on the point and the
                direction of the ray there and on nothing else. The samples that are not skipped reach it as one set of
                rays with one sample each: origins (1, M, 3), directions (1, M, 3), lengths (1, M, 1), xys (1, M, 2).

        Returns:
            The function. Densities and features of skipped samples are 0. Differentiable.
        """

        def function(ray_bundle: RayBundle | HeterogeneousRayBundle, **kwargs: Any) -> tuple[Tensor, Tensor]:
            kept = self.is_occupied(ray_bundle_to_ray_points(ray_bundle)) if self.enabled else None
            if kept is None or bool(kept.all()):
                return volumetric_function(ray_bundle=ray_bundle, **kwargs)
            number = kept.flatten().nonzero().squeeze(1)
            ray = number // kept.shape[-1]
            origins, directions, xys = (
                values.reshape(-1, values.shape[-1]).index_select(0, ray)[None]
                for values in (ray_bundle.origins, ray_bundle.directions, ray_bundle.xys)
            )
            lengths = ray_bundle.lengths.reshape(-1).index_select(0, number).view(1, -1, 1)
            found = volumetric_function(ray_bundle=RayBundle(origins, directions, lengths, xys), **kwargs)
            densities, features = (
                values.new_zeros(kept.numel(), values.shape[-1])
                .index_copy(0, number, values.reshape(-1, values.shape[-1]))
                .view(*kept.shape, -1 if kept.numel() else values.shape[-1])
                for values in found
            )
            return densities, features

        return function
