from __future__ import annotations

import json
import math
import os
import re
import signal
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parent))  # for what test files share

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]

# A shell that starts the tests in the background has Ctrl-C ignored in all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def recon_data() -> Path:
    """The folder of real meshes and pictures that is never committed."""
    folder = os.environ.get("RECON_DATA")
    if not folder:
        pytest.skip("RECON_DATA is not set: it names the folder with the book's meshes")
    return Path(folder)


@pytest.fixture
def assert_picture(request: pytest.FixtureRequest) -> Callable[..., None]:
    """A function that compares pictures (..., H, W, C) and, where they differ, draws how.

    The PNG shows, from left to right, what was expected, what came, and the difference, whose largest value is white.
    It lies in build/differences; the message of the assertion names it.
    """

    def check(got: Any, expected: Any, *, atol: float, name: str = "", folder: Path | None = None) -> None:
        got, expected = (np.asarray(torch.as_tensor(picture).detach().cpu().double()) for picture in (got, expected))
        assert got.shape == expected.shape, f"{name}: shape {got.shape} instead of {expected.shape}"
        difference = np.where(got == expected, 0.0, np.abs(got - expected))
        difference[np.isnan(difference)] = np.inf
        wrong = difference > atol
        if not wrong.any():
            return
        from PIL import Image

        folder = request.config.rootpath / "build" / "differences" if folder is None else folder
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / (re.sub(r"[^\w.-]+", "_", f"{request.node.name} {name}").strip("_") + ".png")
        Image.fromarray(_side_by_side(expected, got, difference)).save(path)
        worst = np.unravel_index(difference.argmax(), difference.shape)
        raise AssertionError(
            f"{name}: {wrong.sum()} of {wrong.size} values differ by more than {atol}, most at "
            f"{tuple(map(int, worst))}: {got[worst]} instead of {expected[worst]}; expected | got | difference: {path}"
        )

    return check


def _side_by_side(expected: np.ndarray, got: np.ndarray, difference: np.ndarray) -> np.ndarray:
    """Pictures (..., H, W, C) next to their difference, a batch from top to bottom, as RGB bytes."""
    H, W, C = expected.shape[-3:]
    panels = [picture.reshape(-1, H, W, C) for picture in (expected, got, difference)]
    if C == 1:  # depths
        low, high = expected.min(), expected.max()
        panels[:2] = [(panel - low) / max(high - low, 1e-12) for panel in panels[:2]]
    panels[:2] = [panel[..., :3] * panel[..., 3:] if C == 4 else panel[..., :3] for panel in panels[:2]]
    finite = difference[np.isfinite(difference)].max(initial=0.0)
    panels[2] = panels[2].max(axis=-1, keepdims=True) / (finite if finite > 0 else 1.0)
    shown = [np.nan_to_num(panel, nan=1.0, posinf=1.0).clip(0, 1) for panel in panels]
    rgb = [np.broadcast_to(panel if panel.shape[-1] == 3 else panel[..., :1], (*panel.shape[:3], 3)) for panel in shown]
    gap = np.full((len(rgb[0]), H, 1, 3), 0.5)
    rows = np.concatenate([rgb[0], gap, rgb[1], gap, rgb[2]], axis=2)
    rows = np.concatenate([rows, np.full_like(rows[:, :1], 0.5)], axis=1)
    scale = max(1, 256 // max(H, W))
    sheet = rows.reshape(-1, *rows.shape[2:]).repeat(scale, axis=0).repeat(scale, axis=1)
    return (sheet * 255).round().astype(np.uint8)


class Scene(NamedTuple):
    """A data set that was written: the mesh in its world, and where and how large it is."""

    folder: Path
    mesh: Any
    center: torch.Tensor
    scale: float


@pytest.fixture
def write_capture(tmp_path: Path) -> Callable[..., Scene]:
    """Writes pictures of the built-in building as a data set of a kind: nerf, ngp, colmap, colmap-binary or csv."""
    image_module = pytest.importorskip("PIL.Image")
    from scipy.spatial.transform import Rotation

    from recon_engine.methods._views import place
    from recon_engine.methods.shapes import building
    from recon_engine.quick import SUPERSAMPLE, shrink
    from recon_engine.renderer import (
        AmbientLights,
        HardPhongShader,
        MeshRasterizer,
        MeshRenderer,
        PerspectiveCameras,
        RasterizationSettings,
        look_at_view_transform,
    )
    from recon_engine.structures import Meshes

    def write(kind: str, views: int = 8, height: int = 40, width: int = 56, with_masks: bool = False) -> Scene:
        folder = tmp_path / kind
        pictures = folder / "images"
        pictures.mkdir(parents=True)
        placed = place(building(colors=True))
        # x_world = x turn scale + center; worlds of NeRF data sets have z upwards, COLMAP's any direction.
        turn = {"nerf": (90.0, 0.0), "ngp": (90.0, 0.0), "csv": (0.0, 0.0)}.get(kind, (140.0, 35.0))
        turn = torch.tensor(Rotation.from_euler("xz", turn, degrees=True).as_matrix().T)
        scale, center = (
            (1.0, torch.zeros(3).double()) if kind == "csv" else (2.5, torch.tensor([3.0, -1.0, 7.0]).double())
        )
        azimuth = torch.arange(views).double() * (360 / views)
        elevation = 25 + 20 * torch.sin(azimuth)
        R, T = look_at_view_transform(2.7, elevation, azimuth)
        T = scale * T - torch.einsum("j,jk,nkl->nl", center, turn.T, R)
        R = turn.T @ R
        focal, principal = 0.9 * max(height, width), torch.tensor([width / 2, height / 2])
        if kind.startswith("colmap") or kind == "ngp":
            principal = principal + torch.tensor([2.0, -1.0])
        mesh = Meshes(
            [(placed.mesh.verts_packed().double() @ turn * scale + center).float()],
            [placed.mesh.faces_packed()],
            building(colors=True).textures,
        )
        renderer = MeshRenderer(
            MeshRasterizer(
                raster_settings=RasterizationSettings(image_size=(height * SUPERSAMPLE, width * SUPERSAMPLE))
            ),
            HardPhongShader(lights=AmbientLights()),
        )
        names = [f"p {i:02}.{'jpg' if with_masks else 'png'}" for i in range(views)]
        for name, r, t in zip(names, R.float(), T.float(), strict=True):
            camera = PerspectiveCameras(
                focal, principal[None].float(), r[None], t[None], in_ndc=False, image_size=((height, width),)
            )
            rgba = image_module.fromarray((shrink(renderer(mesh, cameras=camera))[0] * 255).round().byte().numpy())
            if with_masks:
                (folder / "masks").mkdir(exist_ok=True)
                rgba.getchannel("A").save(folder / "masks" / f"{name}.png")
                rgba = rgba.convert("RGB")
            rgba.save(pictures / name)
        cx, cy = principal.tolist()
        flip = torch.diag(torch.tensor([-1.0, -1.0, 1.0]).double())
        if kind == "csv":
            fov = 2 * math.degrees(math.atan(0.5 / 0.9))
            rows = [
                f"{n},{a},{e},2.7,{fov}" for n, a, e in zip(names, azimuth.tolist(), elevation.tolist(), strict=True)
            ]
            (folder / "cameras.csv").write_text("\n".join(["file,azimuth,elevation,distance,fov", *rows]))
        elif kind in ("nerf", "ngp"):
            frames = []
            for name, r, t in zip(names, R, T, strict=True):
                matrix = torch.eye(4).double()
                matrix[:3, :3] = r * torch.tensor([-1.0, 1.0, -1.0])
                matrix[:3, 3] = -r @ t
                frames.append({"file_path": f"./images/{name}", "transform_matrix": matrix.tolist()})
            lens = {"camera_angle_x": 2 * math.atan(width / 2 / focal)}
            if kind == "ngp":
                lens = {
                    "fl_x": 2 * focal,
                    "fl_y": 2 * focal,
                    "cx": 2 * cx,
                    "cy": 2 * cy,
                    "w": 2 * width,
                    "h": 2 * height,
                }
            (folder / "transforms.json").write_text(json.dumps({**lens, "frames": frames}))
        else:
            (folder / "sparse" / "0").mkdir(parents=True)
            images = []
            for i, (name, r, t) in enumerate(zip(names, R, T, strict=True)):
                x, y, z, w = Rotation.from_matrix((flip @ r.T).numpy()).as_quat()
                images.append((i + 1, w, x, y, z, *(flip @ t).tolist(), 1, name))
            target = folder / "sparse" / "0"
            if kind == "colmap":
                (target / "cameras.txt").write_text(
                    f"# cameras\n1 PINHOLE {width} {height} {focal} {focal} {cx} {cy}\n"
                )
                lines = [" ".join(map(str, image)) + "\n\n" for image in images]
                (target / "images.txt").write_text("# images\n" + "".join(lines))
            else:
                lens = struct.pack("<QiiQQ4d", 1, 1, 1, width, height, focal, focal, cx, cy)
                (target / "cameras.bin").write_bytes(lens)
                records = [struct.pack("<i7di", *image[:-1]) + image[-1].encode() + bytes(9) for image in images]
                (target / "images.bin").write_bytes(struct.pack("<Q", len(images)) + b"".join(records))
        return Scene(folder, mesh, center, scale)

    return write
