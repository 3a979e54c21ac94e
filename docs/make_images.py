"""Makes the pictures of README.md: `python docs/make_images.py [demo] [render] [volume]`; all when none is named.

`demo.png` is the built-in building and its reconstruction after 0, 40, 200 and 1000 steps, `render.png` six ways to
show shapes made by rule, `volume.png` the building and a volume after 10, 40 and 300 steps. No file is needed.
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from recon_engine.methods import _pictures as pictures
from recon_engine.methods import build, volume
from recon_engine.methods._fields import straight
from recon_engine.methods._views import cameras_at, place, take_pictures
from recon_engine.methods.shapes import building
from recon_engine.quick import render
from recon_engine.renderer import (
    BlendParams,
    FoVPerspectiveCameras,
    MeshRasterizer,
    MeshRenderer,
    PointLights,
    RasterizationSettings,
    SoftPhongShader,
    TexturesUV,
    TexturesVertex,
    look_at_view_transform,
)
from recon_engine.structures import Meshes
from recon_engine.utils import ico_sphere, torus

SIZE = 300
FOV = 38.0
CELL = 250  # side of a picture in the row of renderings


def picture(mesh: Meshes) -> np.ndarray:
    """(SIZE, SIZE, 3) uint8."""
    return pictures.on_paper(pictures.shaded(mesh, [20.0], [30.0], size=SIZE, fov=FOV))[0]


def demo() -> np.ndarray:
    """The building, and reconstructions with few and with many steps."""
    target = building(colors=True)
    normalized, _ = build.normalize(target, "target")
    shown = [picture(target.update_padded(normalized.verts_padded()))]
    for iterations in (1, 40, 200, 1000):
        result = build.from_mesh(target, build.mesh_settings("framed", iterations=iterations))
        shown.append(picture(result.start if iterations == 1 else result.fitted))
    return np.concatenate(shown, 1)


def textured_ring(sides: int = 24, rings: int = 48) -> Meshes:
    """A torus with a chequered image on it."""
    mesh = torus(0.42, 1.0, sides, rings)
    verts, faces = mesh.verts_packed(), mesh.faces_packed()
    around = torch.atan2(verts[:, 1], verts[:, 0]) / (2 * math.pi)
    across = torch.atan2(verts[:, 2], verts[:, :2].norm(dim=1) - 1.0) / (2 * math.pi)
    uvs = torch.stack([around, across], 1)[faces]
    uvs = uvs - (uvs - uvs[:, :1]).round()  # the three corners of a face lie on one side of the seam
    row, column = torch.meshgrid(torch.arange(256), torch.arange(1024), indexing="ij")
    is_dark = ((row // 32 + column // 64) % 2).bool()[..., None]
    colors = torch.tensor([[0.93, 0.80, 0.52], [0.13, 0.33, 0.46]])
    image = torch.where(is_dark, colors[1], colors[0]).repeat(3, 3, 1)
    corners = (uvs.reshape(-1, 2) + 1.5) / 3  # the image lies three times in both directions, for faces on a seam
    textures = TexturesUV(image[None], [torch.arange(len(corners)).reshape(-1, 3)], [corners], align_corners=False)
    return Meshes(verts=[verts], faces=[faces], textures=textures)


def coloured_ball() -> Meshes:
    """A sphere with bumps in the colours of its coordinates."""
    ball = ico_sphere(4)
    verts = ball.verts_packed()
    bumpy = verts * (
        1 + 0.08 * torch.sin(9 * verts[:, :1]) * torch.sin(9 * verts[:, 1:2]) * torch.sin(9 * verts[:, 2:])
    )
    return Meshes(verts=[bumpy], faces=[ball.faces_packed()], textures=TexturesVertex([0.5 + 0.45 * verts]))


def soft(mesh: Meshes) -> torch.Tensor:
    """Soft Phong shading: faces blend into each other and into the background, so that every pixel has a gradient."""
    R, T = look_at_view_transform(4.6, 35.0, 20.0, at=((0.0, 0.1, 0.0),))
    cameras = FoVPerspectiveCameras(znear=3.0, zfar=6.2, R=R, T=T, fov=40.0)
    sigma = 3e-4
    settings = RasterizationSettings(CELL, blur_radius=math.log(1e4 - 1) * sigma, faces_per_pixel=60)
    paper = tuple(value / 255 for value in pictures.PAPER)
    shader = SoftPhongShader(
        cameras=cameras,
        lights=PointLights(location=((-1.0, 3.0, 4.0),), specular_color=((0.0, 0.0, 0.0),)),
        blend_params=BlendParams(sigma=sigma, gamma=5e-2, background_color=paper),
    )
    return MeshRenderer(MeshRasterizer(cameras, settings), shader)(mesh)[0]


def rows() -> np.ndarray:
    """Renderings beside each other."""
    house = building(colors=True)
    ring, ball = textured_ring(), coloured_ball()
    shown = [
        render(ring, size=CELL, elevation=35.0, azimuth=20.0),
        render(house, size=CELL, elevation=22.0, azimuth=35.0),
        render(ball, size=CELL, shader="flat"),
        soft(ring),
        render(house, size=CELL, elevation=22.0, azimuth=35.0, shader="silhouette"),
        render(house, size=CELL, elevation=22.0, azimuth=35.0, shader="depth"),
    ]
    black = [False, False, False, False, True, True]
    return np.concatenate(
        [pictures.on_paper(pictures.as_bytes(p), (0, 0, 0) if b else pictures.PAPER) for p, b in zip(shown, black)], 1
    )


def volumes() -> np.ndarray:
    """The building, and volumes fitted with few and with many steps, from where no picture was taken."""
    target, settings = building(colors=True), volume.volume_settings()
    large = replace(settings, image_size=SIZE)
    elevation, azimuth = torch.tensor([22.0]), torch.tensor([35.0])
    shown = [take_pictures(place(target), elevation, azimuth, large).rgba]
    for iterations in (10, 40, settings.iterations):
        result = volume.from_mesh(target, replace(settings, iterations=iterations))
        shown.append(volume.render(result.volumes, cameras_at(elevation, azimuth, large, target.device), large))
    return np.concatenate([pictures.on_paper(straight(rgba)[0]) for rgba in shown], 1)


def main() -> None:
    """Make and write the named pictures."""
    makers = {"demo": demo, "render": rows, "volume": volumes}
    for name in sys.argv[1:] or makers:
        path = Path(__file__).parent / f"images/{name}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pictures.png(makers[name]()))
        print(f"{path}, {path.stat().st_size // 1024} KB")


if __name__ == "__main__":
    main()
