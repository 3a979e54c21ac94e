"""Rays from cameras: through the pixels of a grid, through some of them, or through random points of the image.

Random numbers are drawn in PyTorch3D's order: cameras, then pixels or points, then lengths. A seed gives its rays.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recon_engine.renderer.cameras import CamerasBase
from recon_engine.renderer.implicit.utils import HeterogeneousRayBundle, RayBundle


class MultinomialRaysampler(torch.nn.Module):
    """Rays through the centres of the pixels of a grid, or through some of these, drawn at random.

    The x-coordinates of the pixels lie evenly between `min_x` and `max_x`, both included, the y-coordinates between
    `min_y` and `max_y`, in the NDC space of the cameras; `NDCMultinomialRaysampler` knows these bounds for an image.
    Lengths lie evenly between `min_depth` and `max_depth`, both included. Directions advance by one unit of depth, so
    that a length is a depth, unless they are made unit vectors.

    Args:
        min_x: x of the leftmost pixels' centres.
        max_x: x of the rightmost pixels' centres.
        min_y: y of the topmost pixels' centres.
        max_y: y of the bottommost pixels' centres.
        image_width: W, pixels in a row of the grid.
        image_height: H, rows of the grid.
        n_pts_per_ray: S, samples along a ray.
        min_depth: the first length.
        max_depth: the last length.
        n_rays_per_image: draw this many pixels of each image; all pixels of the grid by default.
        n_rays_total: draw this many rays in all, each of a random camera. At most one of the two may be given.
        unit_directions: directions of norm 1.
        stratified_sampling: move each length at random, up to half-way to its neighbours.
    """

    _xy_grid: Tensor

    def __init__(
        self,
        *,
        min_x: float,
        max_x: float,
        min_y: float,
        max_y: float,
        image_width: int,
        image_height: int,
        n_pts_per_ray: int,
        min_depth: float,
        max_depth: float,
        n_rays_per_image: int | None = None,
        n_rays_total: int | None = None,
        unit_directions: bool = False,
        stratified_sampling: bool = False,
    ) -> None:
        super().__init__()
        self._n_pts_per_ray = n_pts_per_ray
        self._min_depth, self._max_depth = min_depth, max_depth
        self._n_rays_per_image, self._n_rays_total = n_rays_per_image, n_rays_total
        self._unit_directions, self._stratified_sampling = unit_directions, stratified_sampling
        self.min_x, self.max_x, self.min_y, self.max_y = min_x, max_x, min_y, max_y
        y = torch.linspace(min_y, max_y, image_height, dtype=torch.float32)
        x = torch.linspace(min_x, max_x, image_width, dtype=torch.float32)
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
        self.register_buffer("_xy_grid", grid, persistent=False)

    def forward(
        self,
        cameras: CamerasBase,
        *,
        mask: Tensor | None = None,
        min_depth: float | None = None,
        max_depth: float | None = None,
        n_rays_per_image: int | None = None,
        n_pts_per_ray: int | None = None,
        stratified_sampling: bool | None = None,
        n_rays_total: int | None = None,
        **kwargs: Any,
    ) -> RayBundle | HeterogeneousRayBundle:
        """Rays of every camera.

        Args:
            cameras: N cameras.
            mask: (N, H, W) how likely each pixel is to be drawn, 0: never. Bool or numbers. Without a number of rays,
                as many are drawn as the smallest mask has pixels.
            min_depth: instead of the constructor's, as all that follow.
            max_depth: instead of the constructor's.
            n_rays_per_image: instead of the constructor's.
            n_pts_per_ray: instead of the constructor's.
            stratified_sampling: instead of the constructor's.
            n_rays_total: instead of the constructor's.
            **kwargs: ignored.

        Returns:
            A `RayBundle` with tensors (N, s1, s2, 3 or S or 2): (s1, s2) is (H, W) where every pixel has its ray, and
            (n, 1) where n are drawn. With `n_rays_total` a `HeterogeneousRayBundle` with tensors
            (n_rays_total, 1, 1, ...). Differentiable in the cameras. Pixels are drawn without repetition where the mask
            has enough of them.

        Raises:
            ValueError: if `n_rays_per_image` and `n_rays_total` are both given, or the mask has another shape.
        """
        n_rays_total = n_rays_total or self._n_rays_total
        n_rays_per_image = n_rays_per_image or self._n_rays_per_image
        if n_rays_total is not None and n_rays_per_image is not None:
            raise ValueError(
                f"`n_rays_total` and `n_rays_per_image` cannot both be defined, got {n_rays_total} and "
                f"{n_rays_per_image}: leave one of them out"
            )
        height, width, _ = self._xy_grid.shape
        if mask is not None and tuple(mask.shape) != (len(cameras), height, width):
            raise ValueError(
                f"mask must have shape (cameras, image_height, image_width) = {(len(cameras), height, width)}, got "
                f"{tuple(mask.shape)}"
            )
        chosen = None
        if n_rays_total:
            chosen = _choose_cameras(n_rays_total, len(cameras))
            ids, counts = chosen
            cameras, n_rays_per_image = cameras[ids], int(counts.max())
            mask = None if mask is None else mask[ids.to(mask.device)]
        xy = self._xy_grid.to(cameras.device).expand(len(cameras), -1, -1, -1)
        if mask is not None and n_rays_per_image is None:
            n_rays_per_image = int(mask.sum(dim=(1, 2)).min())
        if n_rays_per_image is not None:
            xy = _draw_pixels(xy, mask, n_rays_per_image)
        rays = _xy_to_ray_bundle(
            cameras,
            xy,
            self._min_depth if min_depth is None else min_depth,
            self._max_depth if max_depth is None else max_depth,
            self._n_pts_per_ray if n_pts_per_ray is None else n_pts_per_ray,
            self._unit_directions,
            self._stratified_sampling if stratified_sampling is None else stratified_sampling,
        )
        return rays if chosen is None else _pack_ray_bundle(rays, *chosen)


class NDCMultinomialRaysampler(MultinomialRaysampler):
    """Rays through the centres of the pixels of an image, as the mesh and point renderers number them.

    NDC spans -1 to 1 along the shorter side of the image and -u to u along the longer one, u being their ratio; x
    points left and y up. Everything else is as in `MultinomialRaysampler`.

    Args:
        image_width: W, pixels in a row of the image.
        image_height: H, rows of the image.
        n_pts_per_ray: S, samples along a ray.
        min_depth: the first length.
        max_depth: the last length.
        n_rays_per_image: draw this many pixels of each image; all pixels by default.
        n_rays_total: draw this many rays in all, each of a random camera. At most one of the two may be given.
        unit_directions: directions of norm 1.
        stratified_sampling: move each length at random, up to half-way to its neighbours.
    """

    def __init__(
        self,
        *,
        image_width: int,
        image_height: int,
        n_pts_per_ray: int,
        min_depth: float,
        max_depth: float,
        n_rays_per_image: int | None = None,
        n_rays_total: int | None = None,
        unit_directions: bool = False,
        stratified_sampling: bool = False,
    ) -> None:
        shorter = min(image_width, image_height)
        # From the edge of the image to the centre of the first pixel.
        x, y = ((size - 1) / shorter for size in (image_width, image_height))
        super().__init__(
            min_x=x,
            max_x=-x,
            min_y=y,
            max_y=-y,
            image_width=image_width,
            image_height=image_height,
            n_pts_per_ray=n_pts_per_ray,
            min_depth=min_depth,
            max_depth=max_depth,
            n_rays_per_image=n_rays_per_image,
            n_rays_total=n_rays_total,
            unit_directions=unit_directions,
            stratified_sampling=stratified_sampling,
        )


class MonteCarloRaysampler(torch.nn.Module):
    """Rays through random points of the image, uniform between bounds.

    Args:
        min_x: the least x, in the NDC space of the cameras.
        max_x: the greatest x.
        min_y: the least y.
        max_y: the greatest y.
        n_rays_per_image: how many rays of each camera; None where `n_rays_total` is given.
        n_pts_per_ray: S, samples along a ray.
        min_depth: the first length.
        max_depth: the last length.
        n_rays_total: draw this many rays in all, each of a random camera.
        unit_directions: directions of norm 1.
        stratified_sampling: move each length at random, up to half-way to its neighbours.
    """

    def __init__(
        self,
        min_x: float,
        max_x: float,
        min_y: float,
        max_y: float,
        n_rays_per_image: int | None,
        n_pts_per_ray: int,
        min_depth: float,
        max_depth: float,
        *,
        n_rays_total: int | None = None,
        unit_directions: bool = False,
        stratified_sampling: bool = False,
    ) -> None:
        super().__init__()
        self._min_x, self._max_x, self._min_y, self._max_y = min_x, max_x, min_y, max_y
        self._n_rays_per_image, self._n_rays_total = n_rays_per_image, n_rays_total
        self._n_pts_per_ray = n_pts_per_ray
        self._min_depth, self._max_depth = min_depth, max_depth
        self._unit_directions, self._stratified_sampling = unit_directions, stratified_sampling

    def forward(
        self, cameras: CamerasBase, *, stratified_sampling: bool | None = None, **kwargs: Any
    ) -> RayBundle | HeterogeneousRayBundle:
        """Rays of every camera.

        Args:
            cameras: N cameras.
            stratified_sampling: instead of the constructor's.
            **kwargs: ignored.

        Returns:
            A `RayBundle` with tensors (N, n_rays_per_image, 3 or S or 2); with `n_rays_total` a
            `HeterogeneousRayBundle` with tensors (n_rays_total, 1, ...). Differentiable in the cameras.

        Raises:
            ValueError: unless exactly one of `n_rays_per_image` and `n_rays_total` was given.
        """
        if (self._n_rays_total is None) == (self._n_rays_per_image is None):
            raise ValueError(
                "Exactly one of `n_rays_total` and `n_rays_per_image` must be given, got "
                f"{self._n_rays_total} and {self._n_rays_per_image}: set the other to None"
            )
        chosen, count = None, self._n_rays_per_image
        if self._n_rays_total:
            chosen = _choose_cameras(self._n_rays_total, len(cameras))
            cameras, count = cameras[chosen[0]], int(chosen[1].max())
        shape, device = (len(cameras), count or 0), cameras.device
        bounds = ((self._min_x, self._max_x), (self._min_y, self._max_y))
        drawn = [torch.rand(shape, dtype=torch.float32, device=device) * (high - low) + low for low, high in bounds]
        rays = _xy_to_ray_bundle(
            cameras,
            torch.stack(drawn, dim=-1),
            self._min_depth,
            self._max_depth,
            self._n_pts_per_ray,
            self._unit_directions,
            self._stratified_sampling if stratified_sampling is None else stratified_sampling,
        )
        return rays if chosen is None else _pack_ray_bundle(rays, *chosen)


def GridRaysampler(
    min_x: float,
    max_x: float,
    min_y: float,
    max_y: float,
    image_width: int,
    image_height: int,
    n_pts_per_ray: int,
    min_depth: float,
    max_depth: float,
) -> MultinomialRaysampler:
    """The older name of `MultinomialRaysampler`; its arguments are described there.

    Warns:
        PendingDeprecationWarning: always.
    """
    _warn_renamed("GridRaysampler", "MultinomialRaysampler")
    return MultinomialRaysampler(
        min_x=min_x,
        max_x=max_x,
        min_y=min_y,
        max_y=max_y,
        image_width=image_width,
        image_height=image_height,
        n_pts_per_ray=n_pts_per_ray,
        min_depth=min_depth,
        max_depth=max_depth,
    )


def NDCGridRaysampler(
    image_width: int, image_height: int, n_pts_per_ray: int, min_depth: float, max_depth: float
) -> NDCMultinomialRaysampler:
    """The older name of `NDCMultinomialRaysampler`; its arguments are described there.

    Warns:
        PendingDeprecationWarning: always.
    """
    _warn_renamed("NDCGridRaysampler", "NDCMultinomialRaysampler")
    return NDCMultinomialRaysampler(
        image_width=image_width,
        image_height=image_height,
        n_pts_per_ray=n_pts_per_ray,
        min_depth=min_depth,
        max_depth=max_depth,
    )


def _warn_renamed(old: str, new: str) -> None:
    warnings.warn(f"{old} is deprecated: use {new}", PendingDeprecationWarning, stacklevel=3)


def _choose_cameras(count: int, cameras: int) -> tuple[Tensor, Tensor]:
    """The different ones among `count` random cameras, ascending, and how often each came."""
    ids, counts = torch.randint(0, cameras, size=(count,), dtype=torch.long).unique(return_counts=True)
    return ids, counts


def _draw_pixels(xy: Tensor, mask: Tensor | None, count: int) -> Tensor:
    """`count` random ones (N, count, 1, 2) of the pixels (N, H, W, 2)."""
    N = len(xy)
    weights = xy.new_ones(xy.shape[:-1]) if mask is None else mask.to(xy.device)
    weights = weights if weights.is_floating_point() else weights.to(xy.dtype)
    drawn = _safe_multinomial(weights.reshape(N, -1), count)
    return xy.reshape(N, -1, 2).gather(1, drawn[..., None].expand(-1, -1, 2))[:, :, None]


def _safe_multinomial(input: Tensor, num_samples: int) -> Tensor:
    """Random columns of each row, without repetition where a row has enough of them.

    Args:
        input: (N, M) how likely each column is; not negative, and somewhere positive in each row.
        num_samples: how many columns of each row.

    Returns:
        (N, num_samples) int64. Rows with at least `num_samples` positive entries give different columns; others give
        columns with repetition.
    """
    short = (input > 0).sum(dim=-1) < num_samples
    if num_samples > input.shape[-1]:
        return torch.multinomial(input, num_samples, replacement=True)
    drawn = torch.multinomial(input, num_samples, replacement=False)
    if short.any():
        drawn[short] = torch.multinomial(input[short], num_samples, replacement=True)
    return drawn


def _xy_to_ray_bundle(
    cameras: CamerasBase,
    xy_grid: Tensor,
    min_depth: float,
    max_depth: float,
    n_pts_per_ray: int,
    unit_directions: bool,
    stratified_sampling: bool = False,
) -> RayBundle:
    """Rays through the points (N, ..., 2) of the image planes of N cameras."""
    N, *spatial, _ = xy_grid.shape
    xy = xy_grid.to(cameras.R.dtype)
    lengths = torch.linspace(min_depth, max_depth, n_pts_per_ray, dtype=xy.dtype, device=xy.device)
    if stratified_sampling:
        lengths = _jiggle_within_stratas(lengths, (N, *spatial))
    lengths = lengths.expand(N, *spatial, n_pts_per_ray)
    # Two points of each ray, one unit of depth apart: that holds for every kind of camera.
    flat = xy.reshape(N, -1, 2)
    ones = torch.ones_like(flat[..., :1])
    planes = torch.cat([torch.cat([flat, depth * ones], dim=-1) for depth in (1, 2)], dim=1)
    near, far = cameras.unproject_points(planes, from_ndc=True).chunk(2, dim=1)
    directions = far - near
    origins = near - directions
    if unit_directions:
        directions = torch.nn.functional.normalize(directions, dim=-1)
    return RayBundle(origins.reshape(N, *spatial, 3), directions.reshape(N, *spatial, 3), lengths, xy)


def _jiggle_within_stratas(bin_centers: Tensor, batch: Sequence[int] = ()) -> Tensor:
    """Moves each of the numbers (..., S), ascending, to a random place up to half-way to its neighbours.

    The first is not moved down, the last not up. Neighbours never change places.

    Args:
        bin_centers: (..., S).
        batch: sizes to put in front: that many different results are drawn for the same numbers.
    """
    halfway = 0.5 * (bin_centers[..., 1:] + bin_centers[..., :-1])
    lower = torch.cat([bin_centers[..., :1], halfway], dim=-1)
    width = torch.cat([halfway, bin_centers[..., -1:]], dim=-1) - lower
    u = torch.rand(*batch, *lower.shape, dtype=lower.dtype, device=lower.device)
    return torch.addcmul(lower, width, u)


def _pack_ray_bundle(ray_bundle: RayBundle, camera_ids: Tensor, camera_counts: Tensor) -> HeterogeneousRayBundle:
    """The first `camera_counts[i]` rays (i, j, ...) of each camera as rays (r, 1, ...) in one row."""
    counts = camera_counts.to(ray_bundle.origins.device)
    kept = torch.arange(ray_bundle.origins.shape[1], device=counts.device) < counts[:, None]
    origins, directions, lengths, xys = (field[kept][:, None] for field in ray_bundle)
    return HeterogeneousRayBundle(origins, directions, lengths, xys, camera_ids, counts)
