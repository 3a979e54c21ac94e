"""Small things that every other package needs: devices, version shims, numerical workarounds."""

from __future__ import annotations

from .datatypes import Device, get_device, make_device

__all__ = [k for k in globals() if not k.startswith("_")]
