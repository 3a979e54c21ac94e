"""Pictures of results: shaded views, turntables and compared silhouettes, as arrays and as PNG or GIF bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recon_engine.quick import SUPERSAMPLE, shrink
from recon_engine.renderer import (
    BlendParams,
    FoVPerspectiveCameras,
    HardGouraudShader,
    HardPhongShader,
    Materials,
    MeshRasterizer,
    MeshRenderer,
    PointLights,
    RasterizationSettings,
    TexturesVertex,
    look_at_view_transform,
)
from recon_engine.structures import Meshes

from ._run import extra

PAPER = (244, 242, 237)  # behind pictures that cannot be transparent
CLAY = (0.80, 0.77, 0.72)
TARGET_ONLY = (230, 159, 0)  # the two colours and the grey stay apart for colour-blind readers (Okabe and Ito)
RESULT_ONLY = (0, 114, 178)
BOTH = (132, 140, 150)
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
    raster = RasterizationSettings(image_size=size * SUPERSAMPLE, blur_radius=0.0, faces_per_pixel=1)
    pictures = []
    for r, t in zip(R.split(_CHUNK), T.split(_CHUNK), strict=True):
        cameras = FoVPerspectiveCameras(R=r, T=t, fov=fov, device=device)
        right, up, forward = r.unbind(2)
        lights = PointLights(
            location=cameras.get_camera_center() + 1.2 * right + 1.6 * up - 0.2 * forward,
            ambient_color=((0.42, 0.42, 0.44),),
            diffuse_color=((0.62, 0.61, 0.58),),
            specular_color=((0.04, 0.04, 0.04),),
            device=device,
        )
        shader = (HardPhongShader if per_pixel else HardGouraudShader)(
            device=device,
            cameras=cameras,
            lights=lights,
            materials=Materials(shininess=16.0, device=device),
            blend_params=BlendParams(background_color=(0.0, 0.0, 0.0)),
        )
        renderer = MeshRenderer(MeshRasterizer(cameras, raster), shader)
        with torch.no_grad():
            small = shrink(renderer(mesh.extend(len(r))))
            pictures.append((small * 255).round().to(torch.uint8).cpu().numpy())
    return np.concatenate(pictures)


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


def on_paper(rgba: np.ndarray) -> np.ndarray:
    """(..., 3) uint8: pictures with alpha laid on the paper colour."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    return np.rint(rgba[..., :3] * alpha + np.array(PAPER) * (1 - alpha)).astype(np.uint8)


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
    extra("PIL.Image", "io").fromarray(np.ascontiguousarray(picture)).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def save_gif(path: Path, frames: Sequence[np.ndarray], milliseconds: int = 110) -> None:
    """An endless GIF of RGB frames."""
    image_module = extra("PIL.Image", "io")
    first, *others = (image_module.fromarray(frame).quantize(128, dither=0) for frame in frames)
    first.save(path, save_all=True, append_images=others, duration=milliseconds, loop=0, disposal=2)
