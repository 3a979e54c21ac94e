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
from .textures import TexturesVertex


def check_scene(meshes: Any, **properties: Any) -> None:
    """Raise ValueError unless each of `cameras`, `lights`, `materials` is one for all meshes or one for each.

    Args:
        meshes: N meshes.
        properties: what is checked, by name. Looks at shapes and devices only, never at values.
    """
    N = len(meshes)
    for name, value in properties.items():
        count = len(value) if hasattr(value, "__len__") else 1
        if count not in (1, N):
            raise ValueError(
                f"{name} must be a batch of 1, or of {N} like the meshes, got a batch of {count}: "
                "give one for all meshes or one for each"
            )
        tensor = getattr(value, "R" if name == "cameras" else "ambient_color", None)
        if isinstance(tensor, Tensor) and tensor.device != meshes.device:
            raise ValueError(
                f"{name} must be on the device of the meshes, {meshes.device}, got {tensor.device}: "
                f"use {name}.to(meshes.device)"
            )


def check_channels(channels: int, lights: Any, materials: Any) -> None:
    """Raise ValueError unless colours of textures, lights and materials have one number of channels (or 1).

    Args:
        channels: of the texture.
        lights: their `ambient_color` is (N, C).
        materials: their `ambient_color` is (N, C).
    """
    counts = {"textures": channels}
    for name, value in (("lights", lights), ("materials", materials)):
        color = getattr(value, "ambient_color", None)
        if isinstance(color, Tensor):
            counts[name] = color.shape[-1]
    if len(set(counts.values()) - {1}) > 1:
        given = ", ".join(f"{count} in {name}" for name, count in counts.items())
        raise ValueError(
            f"textures, lights and materials must have the same number of channels, got {given}: for C channels use "
            "AmbientLights(ambient_color=torch.ones(1, C)) and Materials with colours of shape (1, C)"
        )


def check_dists(fragments: Fragments, shader: nn.Module) -> Tensor:
    """The distances that soft shaders blend by, or ValueError for fragments without them."""
    if fragments.dists is None:
        raise ValueError(
            f"{type(shader).__name__} requires Fragments.dists to be present, got None: rasterise with MeshRasterizer"
        )
    return fragments.dists


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

    def _scene(self, kwargs: dict[str, Any], meshes: Any = None) -> dict[str, Any]:
        """Lights, cameras and materials of a call, checked to fit the meshes where these are given."""
        scene = {
            "lights": kwargs.get("lights", self.lights),
            "cameras": self._get_cameras(**kwargs),
            "materials": kwargs.get("materials", self.materials),
        }
        for name, value in scene.items():
            if value is None:
                raise ValueError(f"{name} must not be None: leave the keyword out for the {name} of the shader")
        if meshes is not None:
            # R and T of a call take the place of those that the cameras hold.
            check_scene(meshes, **{k: v for k, v in scene.items() if not (k == "cameras" and "R" in kwargs)})
        return scene

    def _vertex_scene(self, meshes: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The scene for lighting at vertices."""
        scene = self._scene(kwargs, meshes)
        if isinstance(meshes.textures, TexturesVertex):
            check_channels(meshes.textures.num_channels(), scene["lights"], scene["materials"])
        return scene

    def _texels(self, fragments: Fragments, meshes: Any, scene: dict[str, Any]) -> Tensor:
        """The texture of the fragments, (N, H, W, K, C)."""
        textures = meshes.textures
        if textures is None:
            raise ValueError(
                f"Meshes does not have textures, which {type(self).__name__} needs: pass for example "
                "textures=TexturesVertex(torch.ones_like(verts)) to Meshes"
            )
        device = getattr(textures, "device", meshes.device)
        if len(meshes) and device != meshes.device:
            raise ValueError(
                f"textures must be on the device of the meshes, {meshes.device}, got {device}: use meshes.to(device)"
            )
        texels: Tensor = meshes.sample_textures(fragments)
        check_channels(texels.shape[-1], scene["lights"], scene["materials"])
        return texels

    def _blend_params(self, kwargs: dict[str, Any]) -> BlendParams:
        params: BlendParams = kwargs.get("blend_params", self.blend_params)
        return params

    def _planes(self, kwargs: dict[str, Any]) -> tuple[float | Tensor, float | Tensor]:
        """The depths of the near and the far plane, between which soft blending tells depths apart."""
        cameras = self._get_cameras(**kwargs)
        return kwargs.get("znear", getattr(cameras, "znear", 1.0)), kwargs.get("zfar", getattr(cameras, "zfar", 100.0))

    def _softmax_blend(self, colors: Tensor, fragments: Fragments, kwargs: dict[str, Any]) -> Tensor:
        check_dists(fragments, self)
        znear, zfar = self._planes(kwargs)
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
        scene = self._scene(kwargs, meshes)
        texels = self._texels(fragments, meshes, scene)
        colors = phong_shading(meshes=meshes, fragments=fragments, texels=texels, **scene)
        return hard_rgb_blend(colors, fragments, self._blend_params(kwargs))


class SoftPhongShader(ShaderBase):
    """Lighting at each pixel; all K faces are blended by closeness."""

    def forward(self, fragments: Fragments, meshes: Any, **kwargs: Any) -> Tensor:
        """Return RGBA images, (N, H, W, 4)."""
        scene = self._scene(kwargs, meshes)
        texels = self._texels(fragments, meshes, scene)
        colors = phong_shading(meshes=meshes, fragments=fragments, texels=texels, **scene)
        return self._softmax_blend(colors, fragments, kwargs)


class HardGouraudShader(ShaderBase):
    """Lighting at each vertex, interpolated; the nearest face gives the colour."""

    def forward(self, fragments: Fragments, meshes: Any, **kwargs: Any) -> Tensor:
        """Return RGBA images, (N, H, W, 4)."""
        colors = gouraud_shading(meshes=meshes, fragments=fragments, **self._vertex_scene(meshes, kwargs))
        return hard_rgb_blend(colors, fragments, self._blend_params(kwargs))


class SoftGouraudShader(ShaderBase):
    """Lighting at each vertex, interpolated; all K faces are blended by closeness."""

    def forward(self, fragments: Fragments, meshes: Any, **kwargs: Any) -> Tensor:
        """Return RGBA images, (N, H, W, 4)."""
        colors = gouraud_shading(meshes=meshes, fragments=fragments, **self._vertex_scene(meshes, kwargs))
        return self._softmax_blend(colors, fragments, kwargs)


class HardFlatShader(ShaderBase):
    """Lighting at each face; the nearest face gives the colour."""

    def forward(self, fragments: Fragments, meshes: Any, **kwargs: Any) -> Tensor:
        """Return RGBA images, (N, H, W, 4)."""
        scene = self._scene(kwargs, meshes)
        texels = self._texels(fragments, meshes, scene)
        colors = flat_shading(meshes=meshes, fragments=fragments, texels=texels, **scene)
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
        check_dists(fragments, self)
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
        scene, blend_params = self._scene(kwargs, meshes), self._blend_params(kwargs)
        self.check_blend_params(blend_params)
        texels = self._texels(fragments, meshes, scene)
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
        zfar = torch.as_tensor(zfar, device=fragments.zbuf.device).to(fragments.zbuf.dtype).reshape(-1, 1, 1, 1)
        if len(zfar) not in (1, len(fragments.zbuf)):
            raise ValueError(
                f"zfar must be one number or one for each of the {len(fragments.zbuf)} images, got {len(zfar)}"
            )
        return zfar


class SoftDepthShader(HardDepthShader):
    """The depths of the K faces weighted by closeness in front-to-back order; the far plane takes what is left.

    With p_k = sigmoid(-dist_k / sigma), face k weighs min(1, p_1 + ... + p_k) - min(1, p_1 + ... + p_(k-1)).
    """

    def forward(self, fragments: Fragments, meshes: Any, **kwargs: Any) -> Tensor:
        """Return depth maps, (N, H, W, 1)."""
        dists = check_dists(fragments, self)
        zfar = self._zfar(fragments, kwargs).expand(*fragments.zbuf.shape[:3], 1)
        is_face = fragments.pix_to_face >= 0
        prob = torch.sigmoid(dists / -self._blend_params(kwargs).sigma).masked_fill(~is_face, 0.0)
        reached = torch.cat((prob, torch.ones_like(zfar)), dim=-1).cumsum(dim=-1).clamp(max=1.0)
        weights = reached.diff(dim=-1, prepend=torch.zeros_like(zfar))
        return (weights * torch.cat((fragments.zbuf, zfar), dim=-1)).sum(dim=-1, keepdim=True)
