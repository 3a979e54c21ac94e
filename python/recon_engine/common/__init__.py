"""Small things that every other package needs: devices, version shims, numerical workarounds."""

from __future__ import annotations

from .datatypes import Device, get_device, make_device

__all__ = ["Device", "datatypes", "get_device", "make_device"]
