"""Pictures of results: shaded views, turntables and compared silhouettes, as arrays and as PNG or GIF bytes."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from recon_engine._extra import extra
from recon_engine._mesh_files import CLAY
from recon_engine.quick import shrink, studio
from recon_engine.renderer import FoVPerspectiveCameras, TexturesVertex, look_at_view_transform
from recon_engine.structures import Meshes

PAPER = (244, 242, 237)  # behind pictures that cannot be transparent
TARGET_ONLY = (230, 159, 0)  # the two colours and the grey stay apart for colour-blind readers (Okabe and Ito)
RESULT_ONLY = (0, 114, 178)
BOTH = (132, 140, 150)
_SIGNATURE = "recon_engine"
_CHUNK = 8  # views in one rendering: bounds the memory


def shaded(
    mesh: Meshes,
    elevation: Sequence[float],
    azimuth: Sequence[float],
    *,
    distance: float = 2.7,
    fov: float = 30.0,
    size: int = 320,
    per_pixel: bool = True,
) -> np.ndarray:
    """Pictures of one mesh in its vertex colours, or in clay, lit from the camera's upper left.

    Faces are shaded flat, so that the pictures show the geometry and not interpolated normals.

    Args:
        mesh: one mesh in the units of its cameras.
        elevation: N angles in degrees.
        azimuth: N angles in degrees.
        distance: of the cameras from the origin.
        fov: field of view in degrees.
        size: S, side of the pictures in pixels.
        per_pixel: light every pixel (Phong), or only corners of faces (Gouraud), which is faster.

    Returns:
        (N, S, S, 4) uint8, RGB and straight alpha.
    """
    mesh = _flat(mesh)
    device = mesh.device
    R, T = look_at_view_transform(distance, torch.tensor(elevation), torch.tensor(azimuth), device=device)
    pictures = []
    for r, t in zip(R.split(_CHUNK), T.split(_CHUNK), strict=True):
        cameras = FoVPerspectiveCameras(R=r, T=t, fov=fov, device=device)
        renderer = studio(cameras, (size, size), "phong" if per_pixel else "gouraud")
        with torch.no_grad():
            pictures.append(as_bytes(shrink(renderer(mesh.extend(len(r))))))
    return np.concatenate(pictures)


def as_bytes(pictures: Tensor) -> np.ndarray:
    """uint8 of pictures from 0 to 1."""
    return (pictures.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def _flat(mesh: Meshes) -> Meshes:
    """The same surface with its own three vertices for every face."""
    verts, faces = mesh.verts_packed(), mesh.faces_packed()
    textures = mesh.textures
    if isinstance(textures, TexturesVertex):
        colors = textures.verts_features_packed()
    else:
        colors = torch.tensor(CLAY, dtype=verts.dtype, device=verts.device).expand(len(verts), 3)
    return Meshes(
        verts=[verts[faces].reshape(-1, 3)],
        faces=[torch.arange(3 * len(faces), device=faces.device).reshape(-1, 3)],
        textures=TexturesVertex([colors[faces].reshape(-1, 3)]),
    )


def on_paper(rgba: np.ndarray, color: Sequence[int] = PAPER) -> np.ndarray:
    """(..., 3) uint8: pictures with alpha laid on the paper, or on another colour."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    return np.rint(rgba[..., :3] * alpha + np.array(color) * (1 - alpha)).astype(np.uint8)


def compared(targets: Tensor, results: Tensor) -> np.ndarray:
    """Strips of target, result and their difference.

    In the difference grey is in both silhouettes, orange in the target only, blue in the result only.

    Args:
        targets: (N, S, S) from 0 to 1.
        results: (N, S, S) from 0 to 1.

    Returns:
        (N, S, 3 S, 4) uint8, RGB and straight alpha.
    """
    a, b = (side.detach().clamp(0, 1).cpu().numpy()[..., None] for side in (targets, results))
    grey = np.array(BOTH)
    both, only_a, only_b = np.minimum(a, b), np.clip(a - b, 0, 1), np.clip(b - a, 0, 1)
    alpha = np.maximum(a, b)
    mixed = both * grey + only_a * np.array(TARGET_ONLY) + only_b * np.array(RESULT_ONLY)
    panels = [
        np.concatenate([np.broadcast_to(grey, (*a.shape[:3], 3)), a * 255], -1),
        np.concatenate([np.broadcast_to(grey, (*b.shape[:3], 3)), b * 255], -1),
        np.concatenate([mixed / np.maximum(alpha, 1e-6), alpha * 255], -1),
    ]
    return np.rint(np.concatenate(panels, 2)).clip(0, 255).astype(np.uint8)


def tiled(pictures: np.ndarray, columns: int, gap: int = 8) -> np.ndarray:
    """One RGB picture of all of them in rows, on paper.

    Args:
        pictures: (N, H, W, 4) uint8.
        columns: pictures in a row.
        gap: pixels between and around them.
    """
    count, height, width, _ = pictures.shape
    rows = -(-count // columns)
    sheet = np.empty((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), np.uint8)
    sheet[:] = PAPER
    for i, picture in enumerate(on_paper(pictures)):
        y, x = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        sheet[y : y + height, x : x + width] = picture
    return sheet


def turntable(
    meshes: Sequence[Meshes], *, fov: float, distance: float = 2.7, frames: int = 24, size: int = 220
) -> list[np.ndarray]:
    """Frames of meshes side by side that turn once around the vertical axis.

    Args:
        meshes: one or more, each a single mesh.
        fov: field of view in degrees.
        distance: of the camera from the origin.
        frames: pictures in a turn.
        size: side of one picture in pixels.

    Returns:
        `frames` pictures (S, S len(meshes), 3) uint8.
    """
    azimuth = [360.0 * i / frames for i in range(frames)]
    elevation = [20.0] * frames
    sides = [
        on_paper(shaded(mesh, elevation, azimuth, distance=distance, fov=fov, size=size, per_pixel=False))
        for mesh in meshes
    ]
    return list(np.concatenate(sides, 2))


def png(picture: np.ndarray) -> bytes:
    """A PNG file of an RGB or RGBA picture."""
    stream = io.BytesIO()
    save_picture(stream, picture, "PNG")
    return stream.getvalue()


def save_picture(file: Path | BinaryIO, picture: np.ndarray, kind: str | None = None) -> None:
    """Write an RGB or RGBA picture; a PNG says that it was made here (`is_ours`).

    Args:
        file: path or open file.
        picture: (H, W, 3 or 4) uint8.
        kind: pillow's name of the format. Default: by the path's ending.
    """
    image = extra("PIL.Image", "io").fromarray(np.ascontiguousarray(picture))
    note = extra("PIL.PngImagePlugin", "io").PngInfo()
    note.add_text("Software", _SIGNATURE)
    image.save(file, kind, optimize=True, quality=92, pnginfo=note)


def is_ours(path: Path) -> bool:
    """Whether a file is a PNG that `save_picture` wrote."""
    image_module = extra("PIL.Image", "io")
    try:
        with image_module.open(path) as image:
            return bool(image.info.get("Software") == _SIGNATURE)
    except OSError:
        return False


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file that appears under its name only when it is complete.

    Yields:
        A hidden name beside it, with the same ending, to write to. It is renamed at the end and removed on any error,
        Ctrl-C included.

    Raises:
        OSError: it cannot be written.
    """
    work = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield work
        work.replace(path)
    except OSError as error:
        raise OSError(f"the file {path} cannot be written: {error.strerror or error}") from error
    finally:
        work.unlink(missing_ok=True)


def save_gif(path: Path, frames: Iterable[np.ndarray], milliseconds: int = 110, colors: int = 128) -> None:
    """An endless GIF of RGB frames, which are asked for one by one."""
    image_module = extra("PIL.Image", "io")
    images = (image_module.fromarray(frame).quantize(colors, dither=0) for frame in frames)
    options = {"save_all": True, "append_images": images, "duration": milliseconds, "loop": 0, "disposal": 2}
    with path.open("wb") as file:
        next(images).save(file, "GIF", **options)


def save_mp4(path: Path, frames: Iterable[np.ndarray], fps: float) -> None:
    """A H.264 film of RGB frames of even height and width, which are asked for one by one.

    Raises:
        ImportError: imageio-ffmpeg is missing.
        OSError: the film could not be written.
    """
    ffmpeg = extra("imageio_ffmpeg", "io")
    remaining = iter(frames)
    first = next(remaining)
    height, width, _ = first.shape
    film = ffmpeg.write_frames(
        str(path),
        (width, height),
        fps=fps,
        macro_block_size=1,
        ffmpeg_log_level="quiet",
        output_params=["-crf", "18", "-movflags", "+faststart"],
    )
    film.send(None)
    sent = 0
    try:
        for frame in itertools.chain([first], remaining):
            film.send(np.ascontiguousarray(frame))
            sent += 1
        film.close()
        written, _ = ffmpeg.count_frames_and_secs(str(path))  # nobody says how ffmpeg ended
    except (OSError, RuntimeError) as error:
        raise OSError("the film cannot be written: ffmpeg gave up; is the disk full?") from error
    finally:
        film.close()
    if written != sent:
        raise OSError(f"the film cannot be written: it has {written} of {sent} frames; is the disk full?")
