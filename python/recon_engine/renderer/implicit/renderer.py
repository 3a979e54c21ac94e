"""Images of functions of space and of volumes, sampled along rays."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recon_engine._precision import without_autocast
from recon_engine.renderer.cameras import CamerasBase
from recon_engine.renderer.implicit import _fused
from recon_engine.renderer.implicit.utils import (
    HeterogeneousRayBundle,
    RayBundle,
    _validate_ray_bundle_variables,
    ray_bundle_variables_to_ray_points,
)

if TYPE_CHECKING:
    from recon_engine.structures.volumes import Volumes


class ImplicitRenderer(torch.nn.Module):
    """Renders a function of space: rays are sampled, the function is evaluated along them, what it says is marched.

    Args:
        raysampler: makes rays, a `RayBundle` or `HeterogeneousRayBundle`, of `cameras=`.
        raymarcher: makes images of `rays_densities=`, `rays_features=` and `ray_bundle=`.

    Raises:
        ValueError: if one of them cannot be called.
    """

    def __init__(self, raysampler: Callable[..., Any], raymarcher: Callable[..., Any]) -> None:
        super().__init__()
        _check_callable("raysampler", raysampler)
        _check_callable("raymarcher", raymarcher)
        self.raysampler, self.raymarcher = raysampler, raymarcher

    def forward(
        self, cameras: CamerasBase, volumetric_function: Callable[..., Any], **kwargs: Any
    ) -> tuple[Tensor, RayBundle | HeterogeneousRayBundle]:
        """Images from every camera.

        Args:
            cameras: N cameras.
            volumetric_function: called with `ray_bundle=`, `cameras=` and `kwargs`; returns densities (N, ..., S, 1)
                and features (N, ..., S, C) of the samples of the rays.
            **kwargs: for the sampler, the function and the marcher.

        Returns:
            images: what the marcher makes, (N, ..., C + 1) for features and opacity.
            ray_bundle: the rays.
        """
        _check_callable("volumetric_function", volumetric_function)
        from recon_engine.renderer.mesh.renderer import is_fused

        ray_bundle = self.raysampler(cameras=cameras, volumetric_function=volumetric_function, **kwargs)
        if is_fused() and isinstance(volumetric_function, VolumeSampler):
            images = _fused.render(volumetric_function, self.raymarcher, ray_bundle, kwargs)
            if images is not None:
                return images, ray_bundle
        densities, features = volumetric_function(ray_bundle=ray_bundle, cameras=cameras, **kwargs)
        images = self.raymarcher(rays_densities=densities, rays_features=features, ray_bundle=ray_bundle, **kwargs)
        return images, ray_bundle


class VolumeRenderer(torch.nn.Module):
    """Renders `Volumes`.

    Where sampler and marcher are the library's own (not classes derived from them), the volumes have one density for a
    voxel, from 0 to 1, and all tensors are of one dtype, one fused kernel reads and marches them and the samples are
    never written: the same images and gradients, a fraction of the memory. Of volumes that `expand` made of one tensor
    that one is read, and its gradient is computed without one for each image; `torch.autograd.grad` with respect to the
    expanded tensor itself then raises. `recon_engine.renderer.fused(False)` turns fusing off.

    Args:
        raysampler: makes rays of `cameras=`.
        raymarcher: makes images of `rays_densities=`, `rays_features=` and `ray_bundle=`.
        sample_mode: how voxels are read, "bilinear" (trilinear) or "nearest".
    """

    def __init__(
        self, raysampler: Callable[..., Any], raymarcher: Callable[..., Any], sample_mode: str = "bilinear"
    ) -> None:
        super().__init__()
        self.renderer = ImplicitRenderer(raysampler, raymarcher)
        self._sample_mode = sample_mode

    def forward(
        self, cameras: CamerasBase, volumes: Volumes, **kwargs: Any
    ) -> tuple[Tensor, RayBundle | HeterogeneousRayBundle]:
        """Images from every camera, each of its own volume.

        Args:
            cameras: N cameras.
            volumes: N volumes.
            **kwargs: for the sampler and the marcher.

        Returns:
            images: what the marcher makes, (N, ..., C + 1) for features and opacity.
            ray_bundle: the rays.
        """
        sampler = VolumeSampler(volumes, sample_mode=self._sample_mode)
        return self.renderer(cameras=cameras, volumetric_function=sampler, **kwargs)


class VolumeSampler(torch.nn.Module):
    """Reads densities and features of volumes at the samples of rays.

    Args:
        volumes: N volumes.
        sample_mode: "bilinear" (trilinear) or "nearest".
        padding_mode: what lies outside of a volume: "zeros", or by its surface "border" or "reflection", as
            `torch.nn.functional.grid_sample` has it.

    Raises:
        ValueError: if `volumes` are not `Volumes`.
    """

    def __init__(self, volumes: Volumes, sample_mode: str = "bilinear", padding_mode: str = "zeros") -> None:
        from recon_engine.structures.volumes import Volumes

        super().__init__()
        if not isinstance(volumes, Volumes):
            raise ValueError(f"'volumes' have to be an instance of the 'Volumes' class, got {type(volumes).__name__}")
        self._volumes = volumes
        self._sample_mode, self._padding_mode = sample_mode, padding_mode

    def forward(self, ray_bundle: RayBundle | HeterogeneousRayBundle, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Densities and features of the samples of rays.

        Args:
            ray_bundle: N x ... rays in world coordinates, those of entry i for volume i.
            **kwargs: ignored.

        Returns:
            rays_densities: (N, ..., S, density channels).
            rays_features: (N, ..., S, C); C is 0 for volumes without features. Both are differentiable.

        Raises:
            ValueError: for rays of unfit shapes or of another number than volumes.
        """
        points = ray_bundle_variables_to_ray_points(*self._local_rays(ray_bundle))
        densities = self._read(self._volumes.densities(), points)
        features = self._volumes.features()
        return densities, densities[..., :0] if features is None else self._read(features, points)

    def _local_rays(self, ray_bundle: RayBundle | HeterogeneousRayBundle) -> tuple[Tensor, Tensor, Tensor]:
        """Origins, directions and lengths in the coordinates of the volumes, which span -1 to 1."""
        origins, directions, lengths = ray_bundle.origins, ray_bundle.directions, ray_bundle.lengths
        _validate_ray_bundle_variables(origins, directions, lengths)
        if len(self._volumes.densities()) != len(origins):
            raise ValueError(
                "Input volumes have to have the same batch size as rays, got "
                f"{len(self._volumes.densities())} volumes and {len(origins)} sets of rays"
            )
        local = self._volumes.world_to_local_coords(origins.flatten(1, -2)).reshape(origins.shape)
        linear = self._volumes.get_world_to_local_coords_transform().get_matrix()[:, :3, :3]
        with without_autocast(directions.device.type):
            return local, (directions.flatten(1, -2) @ linear).reshape(directions.shape), lengths

    def _read(self, values: Tensor, points: Tensor) -> Tensor:
        """The values (N, C, D, H, W) at points (N, ..., 3), as (N, ..., C)."""
        grids = self._volumes._as_list(values)
        if all(grid.shape == values.shape[1:] for grid in grids):
            return self._read_grids(values, points)
        # Local coordinates are those of a volume without its padding.
        return torch.cat([self._read_grids(grid[None], at) for grid, at in zip(grids, points.split(1), strict=True)])

    def _read_grids(self, values: Tensor, points: Tensor) -> Tensor:
        read = torch.nn.functional.grid_sample(
            values,
            points.flatten(1, -2)[:, :, None, None],
            mode=self._sample_mode,
            padding_mode=self._padding_mode,
            align_corners=self._volumes.get_align_corners(),
        )
        return read[..., 0, 0].mT.view(*points.shape[:-1], values.shape[1])


def _check_callable(name: str, value: object) -> None:
    if not callable(value):
        raise ValueError(f'"{name}" has to be a "Callable" object, got {type(value).__name__}')
