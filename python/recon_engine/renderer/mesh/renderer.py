"""From meshes to images: a rasteriser and a shader."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from . import _fused
from .rasterizer import Fragments

_fused_enabled = True


class fused:
    """Turns fused rendering on or off, for a `with` block or from here on.

    The fused path gives the same image without writing the (N, H, W, K) fragments of `MeshRenderer` and
    `PointsRenderer`, or the samples of `VolumeRenderer` and of `ImplicitRenderer` in volumes. They take it by
    themselves; turning it off serves comparisons.

    Example:
        >>> with fused(False):
        ...     pass
    """

    def __init__(self, enabled: bool = True) -> None:
        """Set the switch at once; leaving a `with` block restores what it was before."""
        global _fused_enabled
        self._before = _fused_enabled
        _fused_enabled = bool(enabled)

    def __enter__(self) -> fused:
        return self

    def __exit__(self, *exc_info: object) -> None:
        global _fused_enabled
        _fused_enabled = self._before


def is_fused() -> bool:
    """Whether fused rendering is on."""
    return _fused_enabled


class _Renderer(nn.Module):
    def __init__(self, rasterizer: Any, shader: Any) -> None:
        """Store the parts.

        Args:
            rasterizer: makes `Fragments` of meshes, such as `MeshRasterizer`.
            shader: makes images of fragments and meshes, such as `SoftPhongShader`.
        """
        super().__init__()
        self.rasterizer = rasterizer
        self.shader = shader

    def to(self, device: Any) -> Any:  # type: ignore[override]
        """Move rasterizer and shader to `device` in place and return self."""
        self.rasterizer.to(device)
        self.shader.to(device)
        return self


class MeshRenderer(_Renderer):
    """Renders a batch of meshes of any sizes to images.

    With `MeshRasterizer` and a flat, Gouraud, Phong or silhouette shader of this library themselves (not classes
    derived from them), and its textures, lights and materials with three channels, one fused kernel renders the image;
    see `fused`.
    """

    def forward(self, meshes_world: Any, **kwargs: Any) -> Tensor:
        """Render.

        Args:
            meshes_world: N meshes in world coordinates.
            kwargs: passed to the rasterizer and the shader: `cameras`, `raster_settings`, `lights`, `materials`,
                `blend_params`, camera parameters.

        Returns:
            (N, H, W, C) images, for most shaders RGBA.
        """
        if _fused_enabled and _fused.can_fuse(self.rasterizer, self.shader):
            image = _fused.render(self.rasterizer, self.shader, meshes_world, kwargs)
            if image is not None:
                return image
        fragments = self.rasterizer(meshes_world, **kwargs)
        images: Tensor = self.shader(fragments, meshes_world, **kwargs)
        return images


class MeshRendererWithFragments(_Renderer):
    """Renders like `MeshRenderer` and returns the fragments as well, for depth maps and the like."""

    def forward(self, meshes_world: Any, **kwargs: Any) -> tuple[Tensor, Fragments]:
        """Render; arguments as in `MeshRenderer`.

        Returns:
            images: (N, H, W, C).
            fragments: the output of the rasterizer.
        """
        fragments = self.rasterizer(meshes_world, **kwargs)
        return self.shader(fragments, meshes_world, **kwargs), fragments
