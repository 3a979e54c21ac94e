"""Cameras of NeRF data sets: `transforms.json` as Blender's scripts and as instant-ngp and nerfstudio write it.

A frame has the camera's place in the world as a matrix whose columns are right, up, backward and the position. The
world's z axis points up.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ._shot import LARGEST, CameraFile, Distortion, FieldOfView, Lens, Shot, check_rotation

_FISHEYES = ("OPENCV_FISHEYE",)
_PINHOLES = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE")


def read_transforms(path: Path | str) -> CameraFile:
    """The cameras of a `transforms.json`.

    Intrinsics are `fl_x, fl_y, cx, cy, w, h` with the distortion `k1` to `k4`, `p1`, `p2`, for all frames or in each of
    them, or else `camera_angle_x` in radians across a picture of any size. A picture's name without ending means PNG.

    Args:
        path: the file.

    Returns:
        A shot for each frame, in the file's order.

    Raises:
        FileNotFoundError: no such file.
        ValueError: malformed; says where, what was expected and what came.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"the camera file {path} does not exist")
    try:
        whole = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: expected JSON, got a mistake: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    except (RecursionError, ValueError) as error:  # lists in lists without end, numbers of thousands of digits
        raise ValueError(f"{path}: expected transforms, got JSON that cannot be read: {error}") from error
    frames = whole.get("frames") if isinstance(whole, dict) else None
    if not isinstance(frames, list) or not frames:
        raise ValueError(f"{path}: expected an object with a list of frames, got {_short(whole)}")
    shots = [_shot(whole, frame, f"{path}, frame {i + 1} of {len(frames)}") for i, frame in enumerate(frames)]
    return CameraFile(str(path), shots, (0.0, 0.0, 1.0), str(path.parent), False)


def _shot(whole: Mapping[str, Any], frame: Any, where: str) -> Shot:
    if not isinstance(frame, dict):
        raise ValueError(f"{where}: expected an object, got {_short(frame)}")
    name = frame.get("file_path")
    if not isinstance(name, str) or not name:
        raise ValueError(f"{where}: expected a file_path, got {_short(name)}")
    name, where = name.replace("\\", "/"), f"{where} ({name})"
    name = name if Path(name).suffix else name + ".png"
    mask = frame.get("mask_path")
    rows = frame.get("transform_matrix")
    try:
        matrix = torch.tensor(rows, dtype=torch.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        matrix = torch.zeros(0)
    if matrix.shape not in ((4, 4), (3, 4)):
        raise ValueError(f"{where}: expected a transform_matrix of 4 x 4 numbers, got {_short(rows)}")
    # Columns of ours are left, up and forward; theirs right, up and backward.
    R = matrix[:3, :3] * torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64)
    T = -matrix[:3, 3] @ R
    check_rotation(R, T, f"{where}: transform_matrix")
    return Shot(
        name, R, T, _lens({**whole, **frame}, where), mask.replace("\\", "/") if isinstance(mask, str) else None
    )


def _lens(of: Mapping[str, Any], where: str) -> Lens | FieldOfView:
    model = of.get("camera_model", "OPENCV")
    if model not in (*_FISHEYES, *_PINHOLES):
        raise ValueError(f"{where}: expected a camera_model among {', '.join((*_PINHOLES, *_FISHEYES))}, got {model}")
    if "fl_x" not in of:
        angle = _number(of, "camera_angle_x", where, "fl_x or camera_angle_x")
        if not 0 < angle < math.pi:
            raise ValueError(f"{where}: expected a camera_angle_x between 0 and pi radians, got {angle:g}")
        return FieldOfView(math.degrees(angle), "width")
    width, height = (_number(of, name, where) for name in ("w", "h"))
    focal = _number(of, "fl_x", where), _number({"fl_y": of["fl_x"], **of}, "fl_y", where)
    if not (min(width, height) >= 1 and min(focal) > 0):
        raise ValueError(
            f"{where}: expected w, h, fl_x and fl_y above 0, got {width:g}, {height:g}, {focal[0]:g}, {focal[1]:g}"
        )
    center = (_number({"cx": width / 2, **of}, "cx", where), _number({"cy": height / 2, **of}, "cy", where))
    coefficients = {name: _number({name: 0.0, **of}, name, where) for name in ("k1", "k2", "k3", "k4", "p1", "p2")}
    is_fisheye = model in _FISHEYES or of.get("is_fisheye") is True
    if not is_fisheye and coefficients["k4"]:
        raise ValueError(f"{where}: expected k4 only in a fisheye's camera, got {coefficients['k4']:g}")
    k = tuple(coefficients[f"k{i}"] for i in range(1, 5 if is_fisheye else 4))
    bent = Distortion("fisheye" if is_fisheye else "radial", k, (coefficients["p1"], coefficients["p2"]))
    return Lens(focal, center, (round(height), round(width)), None if bent.is_none else bent)


def _number(of: Mapping[str, Any], name: str, where: str, expected: str = "") -> float:
    value = of.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= LARGEST:
        raise ValueError(f"{where}: expected {expected or name} as a finite number, got {_short(value)}")
    return float(value)


def _short(value: Any) -> str:
    """What came, at most a line of it."""
    if value is None:
        return "none"
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
