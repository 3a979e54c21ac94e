from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from recon_engine._op import Op, empty_output
from recon_engine.ops import _march_rays


def march_volume(
    densities: Tensor,
    features: Tensor,
    origins: Tensor,
    directions: Tensor,
    lengths: Tensor,
    eps: float = 1e-10,
    least: float = 0.0,
    shift: int = 1,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = True,
) -> Tensor:
    """What rays show of volumes: `grid_sample` along each of them and `march_rays` over that, without the samples.

    Args:
        densities: (V, D, H, W) from 0 to 1; one volume for all rays, V = 1, or one for each set of rays, V = N.
        features: (V, C, D, H, W).
        origins: (N, R, 3) where rays start, in coordinates (x, y, z) from -1 to 1 over (W, H, D).
        directions: (N, R, 3), in the same coordinates, of any norm.
        lengths: (N * R, S) how far along its ray each sample lies, from the eye on; (1, S) for all rays.
        eps: keeps opaque samples from hiding all behind them, as in `march_rays`.
        least: rays end where this little light is left, which changes images by no more than that share of the largest
            feature. Only for densities from 0 to 1. 0: they do not end.
        shift: how many samples do not dim a sample, as in `march_rays`.
        mode: "bilinear" (trilinear) or "nearest".
        padding_mode: "zeros" or "border".
        align_corners: whether -1 and 1 are the centres of the outermost voxels or the faces of the volume.

    Returns:
        (N, R, C + 1): the features of each ray and, last, its opacity.

    Differentiable in all tensors; in mode "nearest" the gradients of rays are 0. Backward, rays are marched again:
    memory for gradients of voxels, and for values and gradients of one volume side by side, is all that is needed.
    CPU and CUDA, float32 and float64.

    References:
        Max, Optical models for direct volume rendering, IEEE TVCG 1995.
    """
    if len(lengths) == 1 and lengths.requires_grad:
        lengths = lengths.expand(origins.shape[0] * origins.shape[1], -1)
    return _march_volume(
        densities, features, origins, directions, lengths, eps, least, shift, mode, padding_mode, align_corners
    )


def _reference(
    densities: Tensor,
    features: Tensor,
    origins: Tensor,
    directions: Tensor,
    lengths: Tensor,
    eps: float,
    least: float,
    shift: int,
    mode: str,
    padding_mode: str,
    align_corners: bool,
) -> Tensor:
    N, R, _ = origins.shape
    S, C = lengths.shape[1], features.shape[1]
    lengths = lengths.expand(N * R, S).reshape(N, R, S, 1)
    points = origins[:, :, None] + lengths * directions[:, :, None]
    values = torch.cat([densities[:, None], features], 1).expand(N, -1, -1, -1, -1)
    read = grid_sample(values, points[:, :, :, None], mode, padding_mode, align_corners)[..., 0]  # (N, 1 + C, R, S)
    read = read.permute(0, 2, 3, 1).reshape(N * R, S, C + 1)
    return _march_rays._reference(read[..., 0], read[..., 1:], eps, shift).reshape(N, R, C + 1)


def _outputs(
    densities: Tensor,
    features: Tensor,
    origins: Tensor,
    directions: Tensor,
    lengths: Tensor,
    eps: float,
    least: float,
    shift: int,
    mode: str,
    padding_mode: str,
    align_corners: bool,
) -> Tensor:
    return empty_output(features, (origins.shape[0], origins.shape[1], features.shape[1] + 1))


_march_volume = Op("march_volume", _outputs, _reference, reads=[], writes_all=True, optional_grads=True)
