"""Pictures with cameras from files, as what a fit is given."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from recon_engine.captures import Capture, object_sphere, upright
from recon_engine.renderer import PerspectiveCameras

from ._train import checksum
from ._views import CameraSettings, Frame, Pictures, Subject

_MARGIN = 1.05  # around the object, of the rays that pass it
_NEAREST = 0.05  # depth of the first sample of a ray, at least
_Settings = TypeVar("_Settings", bound=CameraSettings)


def of_capture(capture: Capture, device: torch.device | str = "cpu") -> Subject:
    """The pictures of a capture, moved so that the object is in the unit sphere and stands upright.

    Args:
        capture: of `load_capture`.
        device: where the pictures are put.

    Raises:
        ValueError: the cameras do not fit the pictures.
    """
    center, radius = object_sphere(capture)
    rotation = upright(capture)
    R = rotation @ capture.R
    T = (torch.einsum("j,njk->nk", center, capture.R) + capture.T) / radius
    moved = replace(capture, R=R, T=T)
    views = _pictures(moved, ~capture.is_held_out, device)
    held_out = _pictures(moved, capture.is_held_out, device) if bool(capture.is_held_out.any()) else views
    frame = Frame(center.float().to(device), radius, rotation.float().to(device))
    digest = checksum(capture.R, capture.T, capture.focal, capture.principal, capture.rgba, capture.is_held_out)
    return Subject(views, held_out, frame, None, f"{len(capture.names)} pictures with checksum {digest}")


def settings_of(subject: Subject, settings: _Settings) -> _Settings:
    """The settings with the cameras of the subject instead of cameras around a mesh.

    Raises:
        ValueError: a camera is inside the object.
    """
    eyes = torch.cat([subject.views.cameras.get_camera_center(), subject.held_out.cameras.get_camera_center()])
    distance = eyes.norm(dim=1)
    if float(distance.mean()) <= 1:
        raise ValueError("expected cameras outside the object, got some in the sphere around its silhouettes' hull")
    elevation = subject.views.elevation.clamp(-85, 85)
    changes: dict[str, Any] = {
        "views": len(subject.views),
        "held_out": len(subject.held_out),
        "lowest": float(elevation.min()),
        "highest": float(elevation.max()),
        "distance": float(distance.mean()),
        "fov": None,
        "image_size": subject.views.rgba.shape[1],
        "light": None,
        "min_depth": max(float(distance.min()) - _MARGIN, _NEAREST),
        "max_depth": float(distance.max()) + _MARGIN,
    }
    known = {field.name for field in fields(settings)}
    return replace(settings, **{name: value for name, value in changes.items() if name in known})


def _pictures(capture: Capture, chosen: Tensor, device: torch.device | str) -> Pictures:
    """Some of a capture's pictures."""
    names = [name for name, is_chosen in zip(capture.names, chosen.tolist(), strict=True) if is_chosen]
    parts = {name: getattr(capture, name)[chosen] for name in ("R", "T", "focal", "principal", "rgba")}
    cameras: PerspectiveCameras = replace(capture, names=names, **parts).cameras(device)
    x, y, z = cameras.get_camera_center().cpu().unbind(1)
    elevation, azimuth = torch.atan2(y, torch.hypot(x, z)), torch.atan2(x, z)
    return Pictures(elevation.rad2deg(), azimuth.rad2deg(), cameras, parts["rgba"].to(device), names)
