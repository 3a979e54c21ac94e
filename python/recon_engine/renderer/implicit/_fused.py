"""Volumes read and marched in one kernel: `ImplicitRenderer` chooses it where function and marcher are known ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recon_engine._compile import can_look

from .raymarching import AbsorptionOnlyRaymarcher, EmissionAbsorptionRaymarcher

_MARCHERS = (AbsorptionOnlyRaymarcher, EmissionAbsorptionRaymarcher)


def render(sampler: Any, marcher: Any, ray_bundle: Any, kwargs: dict[str, Any]) -> Tensor | None:
    """The images that `marcher` makes of what `sampler` reads along the rays, or None for what only samples can show.

    Args:
        sampler: a `VolumeSampler`.
        marcher: any marcher.
        ray_bundle: the rays in the world.
        kwargs: those of `ImplicitRenderer.forward`.

    Returns:
        (N, ..., C + 1), or None: classes derived from the library's own, hooks, volumes of different sizes, with
        several densities for a voxel or some outside of 0 and 1 (the marcher then warns), mixed dtypes.
    """
    from recon_engine.ops._march_volume import march_volume

    from .renderer import VolumeSampler

    modes_known = (sampler._sample_mode, sampler._padding_mode) in _KNOWN_MODES
    if type(sampler) is not VolumeSampler or type(marcher) not in _MARCHERS or not modes_known:
        return None
    if any(part._forward_hooks or part._forward_pre_hooks for part in (sampler, marcher)):
        return None
    absorbs_only = type(marcher) is AbsorptionOnlyRaymarcher
    volumes = sampler._volumes
    densities, features = volumes.densities(), volumes.features()
    features = densities[:, :0] if features is None or absorbs_only else features
    eps, shift = (0.0, 1) if absorbs_only else (kwargs.get("eps", 1e-10), marcher.surface_thickness)
    sizes = set(volumes.locator._sizes)
    if densities.shape[1] != 1 or densities.numel() == 0 or len(sizes) != 1 or not isinstance(eps, (int, float)):
        return None
    origins, directions, lengths = sampler._local_rays(ray_bundle)
    tensors = (densities, features, origins, directions, lengths)
    if sizes != {tuple(densities.shape[2:])} or len({(t.dtype, t.device) for t in tensors}) != 1:
        return None
    if densities.dtype not in (torch.float32, torch.float64) or not _is_between_0_and_1(densities):
        return None
    if densities.dtype == torch.float32 and max(densities.shape) > 1 << 22:  # the kernel refuses those
        return None
    N, S = len(origins), lengths.shape[-1]
    one_density, one_feature, one_row = _one_of_equal(densities), _one_of_equal(features), _one_row(lengths)
    if one_density is not None and one_feature is not None:
        densities, features = one_density, one_feature
    # What is left when a ray ends is lost in rounding; eps lets light grow, so little that it does not matter.
    least = torch.finfo(densities.dtype).eps / 64 if 0 <= eps * S < 0.5 and can_look(densities) else 0.0
    images = march_volume(
        densities.squeeze(1),
        features,
        origins.reshape(N, -1, 3),
        directions.reshape(N, -1, 3),
        lengths.flatten(0, -2) if one_row is None else one_row,
        float(eps),
        least,
        shift,
        sampler._sample_mode,
        sampler._padding_mode,
        volumes.get_align_corners(),
    )
    return images.reshape(*lengths.shape[:-1], features.shape[1] + 1)


_KNOWN_MODES = {(mode, padding) for mode in ("bilinear", "nearest") for padding in ("zeros", "border")}


def _is_between_0_and_1(densities: Tensor) -> bool:
    if not can_look(densities):
        return True
    low, high = (densities[:1] if densities.stride(0) == 0 else densities).detach().aminmax()
    return bool((low >= 0) & (high <= 1))


def _one_row(lengths: Tensor) -> Tensor | None:
    """The lengths (1, S) of all rays, where `expand` has repeated them."""
    repeated = all(size == 1 or step == 0 for size, step in zip(lengths.shape[:-1], lengths.stride()[:-1], strict=True))
    if lengths.requires_grad or not repeated or lengths.numel() == 0:
        return None
    return lengths[(0,) * (lengths.ndim - 1)][None]


def _one_of_equal(values: Tensor) -> Tensor | None:
    """The one volume (1, C, D, H, W) that `expand` has made a batch of, with its gradient; None for other batches."""
    if len(values) == 1:
        return values
    if values.shape[1] == 0:
        return values[:1]
    if values.stride(0) != 0 or torch.compiler.is_compiling():
        return None
    if not values.requires_grad:
        return values[:1]
    base = values._base
    if base is None or values.is_leaf or values.retains_grad or values._backward_hooks or not _views(values, base):
        return None
    same_memory = base.is_contiguous() and values[0].is_contiguous() and base.data_ptr() == values.data_ptr()
    if not same_memory or base.numel() != values[0].numel():
        return None
    # Through this view the gradient of the batch is added up where it arises.
    return base.reshape(1, *values.shape[1:])


def _views(values: Tensor, base: Tensor, most: int = 8) -> bool:
    """Whether autograd leads from `values` to `base` and to nothing else."""
    node: Any = values.grad_fn
    for _ in range(most):
        if node is None:
            return False
        if node is base.grad_fn or getattr(node, "variable", None) is base:
            return True
        if len(node.next_functions) != 1:
            return False
        node = node.next_functions[0][0]
    return False
