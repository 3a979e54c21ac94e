"""The name under which PyTorch3D offers its OpenGL rasteriser; nothing of OpenGL, EGL or pycuda is needed here."""

from __future__ import annotations

from .rasterizer_opengl import MeshRasterizerOpenGL

__all__ = ["MeshRasterizerOpenGL"]
