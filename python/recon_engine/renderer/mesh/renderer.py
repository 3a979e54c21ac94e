"""From meshes to images: a rasteriser and a shader."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .rasterize_meshes import check_raster_arguments, reaches_behind
from .rasterizer import Fragments, MeshRasterizer
from .shader import SoftSilhouetteShader

_fused_enabled = True


class fused:
    """Turns fused rendering on or off, for a `with` block or from here on.

    The fused path gives the same image without writing the (N, H, W, K) fragments. `MeshRenderer` takes it by itself;
    turning it off serves comparisons.

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

    With `MeshRasterizer` and `SoftSilhouetteShader` themselves (not classes derived from them), and no face that is cut
    at the near plane, one fused kernel renders the silhouette; see `fused`.
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
        if _fused_enabled and self._is_silhouette():
            image = self._fused_silhouette(meshes_world, kwargs)
            if image is not None:
                return image
        fragments = self.rasterizer(meshes_world, **kwargs)
        images: Tensor = self.shader(fragments, meshes_world, **kwargs)
        return images

    def _is_silhouette(self) -> bool:
        """Whether the parts are the plain ones, without hooks that a fused kernel would pass by."""
        parts = (self.rasterizer, self.shader)
        return (
            type(self.rasterizer) is MeshRasterizer
            and type(self.shader) is SoftSilhouetteShader
            and not any(part._forward_hooks or part._forward_pre_hooks for part in parts)
        )

    def _fused_silhouette(self, meshes_world: Any, kwargs: dict[str, Any]) -> Tensor | None:
        """The RGBA image, or None when faces reach behind the clipping plane."""
        from recon_engine import ops

        settings = kwargs.get("raster_settings", self.rasterizer.raster_settings)
        size = check_raster_arguments(
            settings.image_size,
            settings.blur_radius,
            settings.faces_per_pixel,
            settings.bin_size,
            settings.max_faces_per_bin,
        )
        sigma = self.shader.sigma(**kwargs)
        meshes_ndc = self.rasterizer.transform(meshes_world, **kwargs)
        inferred = self.rasterizer.inferred(**kwargs)
        verts = meshes_ndc.verts_packed()
        if reaches_behind(verts, inferred.z_clip_value):
            return None
        alpha = ops.soft_silhouette(
            verts,
            meshes_ndc.faces_packed(),
            meshes_ndc.mesh_to_faces_packed_first_idx(),
            meshes_ndc.num_faces_per_mesh(),
            size,
            float(settings.blur_radius),
            int(settings.faces_per_pixel),
            sigma,
            inferred.perspective_correct,
            inferred.clip_barycentric_coords,
            bool(settings.cull_backfaces),
        )
        return F.pad(alpha[..., None], (3, 0), value=1.0)  # white RGB in front of alpha


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
