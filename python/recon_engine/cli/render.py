"""`recon render`: a picture or a turntable of a mesh."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from ._inputs import load
from ._runs import check_device

_BACKGROUNDS = {"light": (244, 242, 237), "white": (255, 255, 255), "black": (0, 0, 0)}
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
_TRANSPARENT = (".png", ".webp", ".tif", ".tiff")
_FILMS = (".mp4", ".gif")
_LARGEST = 8192  # side of a picture
_MOST_FRAMES = 10_000
_FASTEST_GIF = 50  # frames per second: viewers slow shorter delays than 20 ms down to 100 ms


def render(
    file: Annotated[Path, "positional"],
    /,
    *,
    output: Path | None = None,
    turntable: Path | None = None,
    size: str = "512",
    shader: Literal["phong", "flat", "gouraud", "unlit", "silhouette", "depth"] = "phong",
    camera: str = "perspective",
    background: Literal["light", "white", "black", "transparent"] | None = None,
    frames: int | None = None,
    fps: float | None = None,
    device: str = "cpu",
) -> int:
    """Make a picture or a turntable of a mesh.

    Args:
        file: the mesh, in any format that trimesh reads: OBJ, PLY, OFF, STL, GLB, ...
        output: the picture, PNG, JPEG, WebP, TIFF or BMP. Default: the mesh's name with .png, in this folder.
        turntable: a film of the mesh turning once, MP4 or GIF, instead of the picture or, with --output, besides it.
        size: height x width in pixels, like 480x640, or one number for both.
        shader: depth is brighter the nearer the surface.
        camera: [KIND,][[DISTANCE,]ELEVATION,AZIMUTH] with KIND perspective or orthographic and angles in degrees, like
            20,30 or 2.7,20,30 or orthographic,20,30. Without a distance the mesh fills the picture.
        background: behind the mesh. Default: light; black for silhouette and depth.
        frames: of the turntable. Default: 90.
        fps: frames per second of the turntable. Default: 25.
        device: cpu, cuda or cuda:N.
    """
    if turntable is None and (frames is not None or fps is not None):
        raise ValueError("--frames and --fps go with --turntable FILE")
    shown = {"size": _parse_size(size), "shader": shader, **_parse_camera(camera)}
    count, rate = 90 if frames is None else frames, 25.0 if fps is None else fps
    picture = output
    if output is None and turntable is None:
        picture = Path(f"{file.stem}.png")
    if background is None:
        background = "black" if shader in ("silhouette", "depth") else "light"
    if turntable is not None:
        _check_film(turntable, shown["size"], count, rate, background)
    if picture is not None:
        _check_picture(picture, background, is_chosen=output is not None)
    check_device(device)
    from recon_engine import quick
    from recon_engine.methods import _pictures as pictures

    view = quick.View(**shown)
    mesh = load(file, device)

    def laid(rgba: Any) -> Any:
        pixels = pictures.as_bytes(rgba)
        return pixels if background == "transparent" else pictures.on_paper(pixels, _BACKGROUNDS[background])

    import torch

    with torch.no_grad():
        if picture is not None:
            with pictures.whole_file(picture) as work:
                pictures.save_picture(work, laid(quick.render(mesh, **vars(view))))
            print(f"picture: {picture.absolute()}")
        if turntable is not None:
            from recon_engine._extra import extra

            turn = quick.turntable(mesh, count, **vars(view))
            bar = extra("tqdm", "cli").tqdm(turn, desc="turntable", total=count, unit="frame")
            with bar, pictures.whole_file(turntable) as work:
                film = (laid(rgba) for rgba in bar)
                if turntable.suffix.lower() == ".gif":
                    pictures.save_gif(work, film, milliseconds=10 * round(100 / rate), colors=256)
                else:
                    pictures.save_mp4(work, film, rate)
            print(f"turntable: {turntable.absolute()}")
    return 0


def _parse_size(text: str) -> tuple[int, int]:
    """Height and width of "HxW", or of one number."""
    numbers = text.lower().split("x")
    if len(numbers) > 2 or not all(number.isascii() and number.isdigit() for number in numbers):
        raise ValueError(f"--size must be HxW in pixels, like 480x640, or one number, got {text!r}")
    height, width = int(numbers[0]), int(numbers[-1])
    if not (1 <= height <= _LARGEST and 1 <= width <= _LARGEST):
        raise ValueError(f"--size must be from 1 to {_LARGEST} pixels on each side, got {text!r}")
    return height, width


def _parse_camera(text: str) -> dict[str, Any]:
    """Options of `quick.View` from "[kind,][[distance,]elevation,azimuth]"."""
    first, *rest = text.split(",")
    options: dict[str, Any] = {}
    if first in ("perspective", "orthographic"):
        options["projection"] = first
    else:
        rest = [first, *rest]
    try:
        numbers = [float(number) for number in rest]
    except ValueError:
        numbers = [math.nan]
    if len(numbers) not in (0, 2, 3) or not all(math.isfinite(number) for number in numbers):
        raise ValueError(
            "--camera must be elevation,azimuth or distance,elevation,azimuth in degrees and the mesh's units, like "
            f"2.7,20,30, with or without perspective or orthographic before it, got {text!r}"
        )
    if len(numbers) == 3 and numbers[0] <= 0:
        raise ValueError(f"--camera must have a distance above 0, got {text!r}")
    return {**options, **dict(zip(("azimuth", "elevation", "distance"), reversed(numbers)))}


def _check_picture(path: Path, background: str, is_chosen: bool) -> None:
    """Refuse a picture that could not be written, and a file that nobody asked to replace."""
    from recon_engine._extra import extra

    extra("PIL.Image", "io")
    if path.suffix.lower() not in _PICTURES:
        raise ValueError(f"--output {path} must end in one of {', '.join(_PICTURES)}")
    if background == "transparent" and path.suffix.lower() not in _TRANSPARENT:
        raise ValueError(f"--background transparent needs an --output that ends in one of {', '.join(_TRANSPARENT)}")
    _check_place(path)
    if not is_chosen and path.exists():
        from recon_engine.methods._pictures import is_ours

        if not is_ours(path):
            raise FileExistsError(f"the file {path} exists and is no picture of ours: name one with --output")


def _check_film(path: Path, size: tuple[int, int], frames: int, fps: float, background: str) -> None:
    """Refuse a turntable that could not be written."""
    from recon_engine._extra import extra

    kind = path.suffix.lower()
    if kind not in _FILMS:
        raise ValueError(f"--turntable {path} must end in .mp4 or .gif")
    if frames < 1:
        raise ValueError(f"--frames must be 1 or more, got {frames}")
    if frames > _MOST_FRAMES:
        raise ValueError(f"--frames must be {_MOST_FRAMES} or less, got {frames}")
    if not 0 < fps < math.inf:
        raise ValueError(f"--fps must be above 0, got {fps}")
    if kind == ".gif" and fps > _FASTEST_GIF:
        raise ValueError(f"--fps of a GIF must be at most {_FASTEST_GIF}, got {fps}: write an .mp4")
    if kind == ".mp4" and (size[0] % 2 or size[1] % 2):
        raise ValueError(f"--size of an MP4 must be even numbers, got {size[0]}x{size[1]}")
    if background == "transparent":
        raise ValueError("--background transparent goes with pictures, not with --turntable")
    for module, extras in (("tqdm", "cli"), ("PIL.Image", "io"), *([("imageio_ffmpeg", "io")] * (kind == ".mp4"))):
        extra(module, extras)
    _check_place(path)


def _check_place(path: Path) -> None:
    folder = path.absolute().parent
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give the name of a file")
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder {folder} of {path.name} does not exist")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"the file {path} cannot be written: the folder {folder} is not writable")
