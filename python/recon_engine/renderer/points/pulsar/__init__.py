"""The sphere renderer Pulsar."""

from __future__ import annotations

from .renderer import Renderer

__all__ = ["Renderer"]
