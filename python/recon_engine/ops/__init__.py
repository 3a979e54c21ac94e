"""Differentiable operators on meshes, point clouds and images."""

from __future__ import annotations

from recon_engine.ops._sigmoid_alpha_blend import sigmoid_alpha_blend as sigmoid_alpha_blend
from recon_engine.ops._rasterize_faces import rasterize_faces as rasterize_faces
from recon_engine.ops._soft_silhouette import soft_silhouette as soft_silhouette
