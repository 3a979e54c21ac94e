"""The mesh renderer: textures, clipping, rasterisation, shading."""

from __future__ import annotations

from ..blending import BlendParams
from .clip import ClipFrustum, ClippedFaces, clip_faces, convert_clipped_rasterization_to_original_faces
from .rasterize_meshes import rasterize_meshes
from .rasterizer import MeshRasterizer, RasterizationSettings
from .renderer import MeshRenderer, MeshRendererWithFragments, fused
from .shader import (
    HardFlatShader,
    HardGouraudShader,
    HardPhongShader,
    SoftGouraudShader,
    SoftPhongShader,
    SoftSilhouetteShader,
    SplatterPhongShader,
    TexturedSoftPhongShader,
)
from .shading import gouraud_shading, phong_shading
from .textures import Textures, TexturesAtlas, TexturesBase, TexturesUV, TexturesVertex

__all__ = [
    "BlendParams",
    "ClipFrustum",
    "ClippedFaces",
    "HardFlatShader",
    "HardGouraudShader",
    "HardPhongShader",
    "MeshRasterizer",
    "MeshRenderer",
    "MeshRendererWithFragments",
    "RasterizationSettings",
    "SoftGouraudShader",
    "SoftPhongShader",
    "SoftSilhouetteShader",
    "SplatterPhongShader",
    "TexturedSoftPhongShader",
    "Textures",
    "TexturesAtlas",
    "TexturesBase",
    "TexturesUV",
    "TexturesVertex",
    "clip_faces",
    "convert_clipped_rasterization_to_original_faces",
    "fused",
    "gouraud_shading",
    "phong_shading",
    "rasterize_meshes",
]
