"""Differentiable operators on meshes, point clouds and images."""

from __future__ import annotations

from recon_engine.ops._sigmoid_alpha_blend import sigmoid_alpha_blend as sigmoid_alpha_blend
