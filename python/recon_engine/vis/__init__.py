"""Pictures of meshes, point clouds, cameras, rays and textures, for notebooks and browsers."""

from __future__ import annotations

from . import plotly_vis, texture_vis
from .plotly_vis import get_camera_wireframe, plot_batch_individually, plot_scene
from .texture_vis import texturesuv_image_matplotlib, texturesuv_image_PIL

__all__ = [
    "get_camera_wireframe",
    "plot_batch_individually",
    "plot_scene",
    "plotly_vis",
    "texture_vis",
    "texturesuv_image_PIL",
    "texturesuv_image_matplotlib",
]
