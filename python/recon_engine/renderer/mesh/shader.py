"""Shaders: from fragments to images."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from recon_engine.common.datatypes import Device

from ..blending import BlendParams, hard_rgb_blend, sigmoid_alpha_blend, softmax_rgb_blend
from ..lighting import PointLights
from ..materials import Materials
from ..splatter_blend import SplatterBlender
from ..utils import TensorProperties
from .rasterizer import Fragments
from .shading import _phong_shading_with_pixels, flat_shading, gouraud_shading, phong_shading


class ShaderBase(nn.Module):
    """Cameras, lights, materials and blending, each of which a call can override by keyword."""

    def __init__(
        self,
        device: Device = "cpu",
        cameras: TensorProperties | None = None,
        lights: TensorProperties | None = None,
        materials: Materials | None = None,
        blend_params: BlendParams | None = None,
    ) -> None:
        """Store the defaults.

        Args:
            device: where default lights and materials are made.
            cameras: the viewpoints; needed here or in the call.
            lights: `PointLights()` when None.
            materials: `Materials()` when None.
            blend_params: `BlendParams()` when None.
        """
        super().__init__()
        self.lights = PointLights(device=device) if lights is None else lights
        self.materials = Materials(device=device) if materials is None else materials
        self.cameras = cameras
        self.blend_params = BlendParams() if blend_params is None else blend_params

    def _get_cameras(self, **kwargs: Any) -> Any:
        cameras = kwargs.get("cameras", self.cameras)
        if cameras is None:
            raise ValueError("Cameras must be specified either at initialization or in the forward pass of the shader.")
        return cameras

    def _scene(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Lights, cameras and materials of a call."""
        return {
            "lights": kwargs.get("lights", self.lights),
            "cameras": self._get_cameras(**kwargs),
            "materials": kwargs.get("materials", self.materials),
        }

    def _blend_params(self, kwargs: dict[str, Any]) -> BlendParams:
        params: BlendParams = kwargs.get("blend_params", self.blend_params)
        return params

    def _softmax_blend(self, colors: Tensor, fragments: Fragments, kwargs: dict[str, Any]) -> Tensor:
        cameras = self._get_cameras(**kwargs)
        znear = kwargs.get("znear", getattr(cameras, "znear", 1.0))
        zfar = kwargs.get("zfar", getattr(cameras, "zfar", 100.0))
        return softmax_rgb_blend(colors, fragments, self._blend_params(kwargs), znear=znear, zfar=zfar)

    def to(self, device: Device) -> ShaderBase:  # type: ignore[override]
        """Move cameras, lights and materials to `device` in place and return self."""
        for name in ("cameras", "lights", "materials"):
            value = getattr(self, name)
            if value is not None:
                setattr(self, name, value.to(device))
        return self


class HardPhongShader(ShaderBase):
    """Lighting at each pixel; the nearest face gives the colour."""

    def forward(self, fragments: Fragments, meshes: Any, **kwargs: Any) -> Tensor:
        """Return RGBA images, (N, H, W, 4)."""
        scene = self._scene(kwargs)
        colors = phong_shading(meshes=meshes, fragments=fragments, texels=meshes.sample_textures(fragments), **scene)
        return hard_rgb_blend(colors, fragments, self._blend_params(kwargs))


class SoftPhongShader(ShaderBase):
    """Lighting at each pixel; all K faces are blended by closeness."""

    def forward(self, fragments: Fragments, meshes: Any, **kwargs: Any) -> Tensor:
        """Return RGBA images, (N, H, W, 4)."""
        scene = self._scene(kwargs)
        colors = phong_shading(meshes=meshes, fragments=fragments, texels=meshes.sample_textures(fragments), **scene)
        return self._softmax_blend(colors, fragments, kwargs)


class HardGouraudShader(ShaderBase):
    """Lighting at each vertex, interpolated; the nearest face gives the colour."""

    def forward(self, fragments: Fragments, meshes: Any, **kwargs: Any) -> Tensor:
        """Return RGBA images, (N, H, W, 4)."""
        colors = gouraud_shading(meshes=meshes, fragments=fragments, **self._scene(kwargs))
        return hard_rgb_blend(colors, fragments, self._blend_params(kwargs))


class SoftGouraudShader(ShaderBase):
    """Lighting at each vertex, interpolated; all K faces are blended by closeness."""

    def forward(self, fragments: Fragments, meshes: Any, **kwargs: Any) -> Tensor:
        """Return RGBA images, (N, H, W, 4)."""
        colors = gouraud_shading(meshes=meshes, fragments=fragments, **self._scene(kwargs))
        return self._softmax_blend(colors, fragments, kwargs)


class HardFlatShader(ShaderBase):
    """Lighting at each face; the nearest face gives the colour."""

    def forward(self, fragments: Fragments, meshes: Any, **kwargs: Any) -> Tensor:
        """Return RGBA images, (N, H, W, 4)."""
        scene = self._scene(kwargs)
        colors = flat_shading(meshes=meshes, fragments=fragments, texels=meshes.sample_textures(fragments), **scene)
        return hard_rgb_blend(colors, fragments, self._blend_params(kwargs))


def TexturedSoftPhongShader(
    device: Device = "cpu",
    cameras: TensorProperties | None = None,
    lights: TensorProperties | None = None,
    materials: Materials | None = None,
    blend_params: BlendParams | None = None,
) -> SoftPhongShader:
    """Former name of `SoftPhongShader`."""
    warnings.warn(
        "TexturedSoftPhongShader is deprecated, use SoftPhongShader instead.", PendingDeprecationWarning, stacklevel=2
    )
    return SoftPhongShader(device, cameras, lights, materials, blend_params)


class SoftSilhouetteShader(nn.Module):
    """White images whose alpha is a soft silhouette.

    As in Soft Rasterizer, choose `RasterizationSettings(blur_radius=log(1 / 1e-4 - 1) * sigma)`.

    References:
        Liu et al., Soft Rasterizer: A Differentiable Renderer for Image-based 3D Reasoning, ICCV 2019.
    """

    def __init__(self, blend_params: BlendParams | None = None) -> None:
        """Store the blending, of which sigma matters; `BlendParams()` when None."""
        super().__init__()
        self.blend_params = BlendParams() if blend_params is None else blend_params

    def sigma(self, **kwargs: Any) -> float:
        """The sigma of a call with these keywords, checked to be positive."""
        sigma = float(kwargs.get("blend_params", self.blend_params).sigma)
        if not sigma > 0.0:
            raise ValueError(f"BlendParams.sigma must be positive, got {sigma}")
        return sigma

    def forward(self, fragments: Fragments, meshes: Any, **kwargs: Any) -> Tensor:
        """Return RGBA images, (N, H, W, 4)."""
        N, H, W, _, _ = fragments.bary_coords.shape
        white = fragments.bary_coords.new_ones(()).expand(N, H, W, 1, 3)
        return sigmoid_alpha_blend(white, fragments, kwargs.get("blend_params", self.blend_params))


class SplatterPhongShader(ShaderBase):
    """Lighting at each pixel; colours are splatted on neighbouring pixels, which gives edges their gradients.

    Made for rasterisation without blur: gradients reach the vertices through their positions in the image only. Choose
    `BlendParams(sigma=0.5)`, in pixels.

    References:
        Cole et al., Differentiable Surface Rendering via Non-Differentiable Sampling, ICCV 2021.
    """

    def forward(self, fragments: Fragments, meshes: Any, **kwargs: Any) -> Tensor:
        """Return RGBA images, (N, H, W, 4)."""
        scene, blend_params = self._scene(kwargs), self._blend_params(kwargs)
        self.check_blend_params(blend_params)
        texels = meshes.sample_textures(fragments)
        colors, points = _phong_shading_with_pixels(meshes, fragments.detach(), texels=texels, **scene)
        N, H, W, K, _ = colors.shape
        blender = SplatterBlender((N, H, W, K), colors.device)
        image: Tensor = blender(colors, points, scene["cameras"], fragments.pix_to_face < 0, blend_params)
        return image

    def check_blend_params(self, blend_params: BlendParams) -> None:
        """Warn unless sigma is 0.5, the only value that is usual."""
        if blend_params.sigma != 0.5:
            warnings.warn(
                f"SplatterPhongShader received sigma={blend_params.sigma}. Its unit is the pixel: use "
                "BlendParams(sigma=0.5) unless you know that you want another one.",
                stacklevel=2,
            )


class HardDepthShader(ShaderBase):
    """The depth of the nearest face, and the far plane where there is none."""

    def forward(self, fragments: Fragments, meshes: Any, **kwargs: Any) -> Tensor:
        """Return depth maps, (N, H, W, 1)."""
        zfar = self._zfar(fragments, kwargs)
        return torch.where(fragments.pix_to_face[..., :1] < 0, zfar, fragments.zbuf[..., :1])

    def _zfar(self, fragments: Fragments, kwargs: dict[str, Any]) -> Tensor:
        """The far plane, (N or 1, 1, 1, 1)."""
        zfar = kwargs.get("zfar", getattr(self._get_cameras(**kwargs), "zfar", 100.0))
        return torch.as_tensor(zfar, device=fragments.zbuf.device).to(fragments.zbuf.dtype).reshape(-1, 1, 1, 1)


class SoftDepthShader(HardDepthShader):
    """The depths of the K faces weighted by closeness in front-to-back order; the far plane takes what is left.

    With p_k = sigmoid(-dist_k / sigma), face k weighs min(1, p_1 + ... + p_k) - min(1, p_1 + ... + p_(k-1)).
    """

    def forward(self, fragments: Fragments, meshes: Any, **kwargs: Any) -> Tensor:
        """Return depth maps, (N, H, W, 1)."""
        if fragments.dists is None:
            raise ValueError("SoftDepthShader requires Fragments.dists to be present.")
        zfar = self._zfar(fragments, kwargs).expand(*fragments.zbuf.shape[:3], 1)
        is_face = fragments.pix_to_face >= 0
        prob = torch.sigmoid(fragments.dists / -self._blend_params(kwargs).sigma).masked_fill(~is_face, 0.0)
        reached = torch.cat((prob, torch.ones_like(zfar)), dim=-1).cumsum(dim=-1).clamp(max=1.0)
        weights = reached.diff(dim=-1, prepend=torch.zeros_like(zfar))
        return (weights * torch.cat((fragments.zbuf, zfar), dim=-1)).sum(dim=-1, keepdim=True)
