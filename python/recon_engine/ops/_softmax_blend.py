from __future__ import annotations

import torch
from torch import Tensor

from recon_engine._op import Op, empty_output

_EPSILON = 1e-10  # the depth of the background, and the least weight it has


def softmax_blend(
    colors: Tensor,
    pix_to_face: Tensor,
    zbuf: Tensor,
    dists: Tensor,
    planes: Tensor,
    background: Tensor,
    sigma: float,
    gamma: float,
) -> Tensor:
    """Colour of each pixel from the faces near it, weighted by closeness to the pixel and to the camera.

    With p_k = sigmoid(-dists_k / sigma), z_k = (far - zbuf_k) / (far - near), m = max(max_k z_k, 1e-10): faces weigh
    w_k = p_k exp((z_k - m) / gamma), the background max(exp((1e-10 - m) / gamma), 1e-10), and the colour is the
    weighted mean; alpha is 1 - prod_k(1 - p_k).

    Args:
        colors: (N, H, W, K, C) colour of each face.
        pix_to_face: (N, H, W, K) int64 face of each slot; negative slots are empty.
        zbuf: (N, H, W, K) depth of each face.
        dists: (N, H, W, K) signed squared distance of the pixel to each face, negative inside.
        planes: (N, 2) depths of the near and the far plane.
        background: (C,) colour of the background.
        sigma: softness of the edges, in the unit of `dists`; positive.
        gamma: softness of the order in depth; positive.

    Returns:
        image: (N, H, W, C + 1) colour and alpha.

    Differentiable in `colors`, `zbuf`, `dists`, `planes` and `background`. CPU and CUDA, float32 and float64.

    References:
        Liu et al., Soft Rasterizer, ICCV 2019, equations 1 to 3.
    """
    return _softmax_blend(colors, pix_to_face, zbuf, dists, planes, background, float(sigma), float(gamma))


def _reference(
    colors: Tensor,
    pix_to_face: Tensor,
    zbuf: Tensor,
    dists: Tensor,
    planes: Tensor,
    background: Tensor,
    sigma: float,
    gamma: float,
) -> Tensor:
    is_face = pix_to_face >= 0
    near, far = (plane.reshape(-1, 1, 1, 1) for plane in planes.unbind(1))
    # Empty slots hold anything: they are replaced before any arithmetic, so that no gradient passes through them.
    prob = torch.sigmoid(torch.where(is_face, dists, 0) / -sigma) * is_face
    depth = torch.where(is_face, (far - torch.where(is_face, zbuf, 0)) / (far - near), 0)
    alpha = 1 - torch.prod(1 - prob, dim=-1)
    nearest = torch.nn.functional.pad(depth, (0, 1), value=_EPSILON).max(dim=-1, keepdim=True).values
    weights = prob * torch.exp((depth - nearest) / gamma)
    background_weight = torch.exp((_EPSILON - nearest) / gamma).clamp(min=_EPSILON)
    total = weights.sum(dim=-1, keepdim=True) + background_weight
    blended = torch.matmul(weights[..., None, :], torch.where(is_face[..., None], colors, 0))[..., 0, :]
    return torch.cat([(blended + background_weight * background) / total, alpha[..., None]], dim=-1)


def _outputs(
    colors: Tensor,
    pix_to_face: Tensor,
    zbuf: Tensor,
    dists: Tensor,
    planes: Tensor,
    background: Tensor,
    sigma: float,
    gamma: float,
) -> tuple[Tensor, Tensor]:
    N, H, W, _, C = colors.shape
    return empty_output(colors, (N, H, W, C + 1)), colors.new_empty(N, H, W, 6)


_softmax_blend = Op(
    "softmax_blend",
    _outputs,
    _reference,
    optional_grads=True,
    kept=1,  # what the faces of each pixel add up to
    writes_all=True,
    constants=["planes", "background"],  # hardly anyone asks for their gradients
)
