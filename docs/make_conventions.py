"""Draws the pictures of docs/conventions.md: `python docs/make_conventions.py [frames] [angles] [image] [surface]`.

Every point, axis and number in them comes from the library's own cameras. Needs matplotlib.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from recon_engine.methods.shapes import building
from recon_engine.quick import render
from recon_engine.renderer import (
    FoVPerspectiveCameras,
    PerspectiveCameras,
    camera_position_from_spherical_angles,
    look_at_view_transform,
)

IMAGES = Path(__file__).parent / "images"
X, Y, Z, INK, SOFT, PAPER, WARM = "#b8402a", "#2e7d4f", "#2563a8", "#22262e", "#8b8f98", "#f6f4ef", "#c9820a"
COLORS = {"x": X, "y": Y, "z": Z}
EYE = look_at_view_transform(9.0, 22.0, -38.0, at=((0.0, 0.6, 0.7),))  # where the drawings in space are seen from


def main() -> None:
    """Draw and write the named pictures, or all."""
    makers = {"frames": frames, "angles": angles, "image": image, "surface": surface}
    for name in sys.argv[1:] or makers:
        path = IMAGES / f"conventions-{name}.png"
        makers[name]().savefig(path, dpi=130)
        print(f"{path}, {path.stat().st_size // 1024} KB")


def frames() -> Figure:
    """The world with a camera in it, and what the camera sees."""
    figure, (left, right) = panels(2, (9.6, 4.4))
    R, T = look_at_view_transform(2.6, 18.0, 25.0)
    camera = FoVPerspectiveCameras(R=R, T=T, fov=45)
    house = small_house()
    draw_mesh(left, house)
    draw_axes(left, torch.eye(4), 1.3)
    draw_camera(left, camera)
    draw_axes(left, camera.get_world_to_view_transform().inverse().get_matrix()[0], 0.9)
    left.set(xlim=(-0.45, 0.85), ylim=(-0.55, 0.6))
    left.set_title("the world, and the view space of a camera in it", **TITLE)

    picture = render(house, size=300, camera=camera)
    right.imshow(on_paper(picture), extent=(1, -1, -1, 1))
    right.set(xlim=(1.12, -1.12), ylim=(-1.12, 1.12))
    right.axis("on")
    for side in right.spines.values():
        side.set_visible(False)
    right.set_xticks([1, 0, -1])
    right.set_yticks([-1, 0, 1])
    right.tick_params(colors=SOFT, length=0, labelsize=9)
    arrow(right, (0, 0), (0.62, 0), X, "x")
    arrow(right, (0, 0), (0, 0.62), Y, "y")
    right.plot(0, 0, "o", color=Z, markersize=7)
    right.annotate("z", (0, 0), (-0.12, -0.03), color=Z, fontsize=11)
    right.set_title("what it sees, in NDC: z into the picture", **TITLE)
    return figure


def angles() -> Figure:
    """Elevation, azimuth and distance of a camera."""
    figure, (left, right) = panels(2, (9.6, 4.4))
    ring = torch.linspace(0, 360, 121)
    draw_axes(left, torch.eye(4), 1.0)
    line(left, camera_position_from_spherical_angles(2.2, torch.zeros(121), ring), SOFT)
    azimuth, elevation = 50.0, 35.0
    arc = camera_position_from_spherical_angles(2.2, torch.zeros(30), torch.linspace(0, azimuth, 30))
    line(left, arc, WARM, 2.2)
    text(left, arc[18] * 1.08, "azimuth", WARM, "left")
    arc = camera_position_from_spherical_angles(2.2, torch.linspace(0, elevation, 30), torch.full((30,), azimuth))
    line(left, arc, WARM, 2.2)
    text(left, arc[15] * 1.1, "elevation", WARM, "left")
    position = camera_position_from_spherical_angles(2.2, elevation, azimuth)
    line(left, torch.stack([torch.zeros(3), position[0]]), INK, 1.0)
    text(left, position[0] * 0.55 + torch.tensor([0.0, 0.1, 0.0]), "distance  ", INK, "right")
    R, T = look_at_view_transform(2.2, elevation, azimuth)
    draw_camera(left, FoVPerspectiveCameras(R=R, T=T, fov=40), 0.45)
    left.set_title("look_at_view_transform(dist, elev, azim)", **TITLE)

    shown = [(0, 0), (0, 90), (0, 180), (0, -90), (45, 0), (90, 0)]
    house = small_house()
    tiles = [on_paper(render(house, size=150, elevation=float(e), azimuth=float(a), distance=4.0)) for e, a in shown]
    rows = np.concatenate([np.concatenate(tiles[i : i + 3], 1) for i in (0, 3)], 0)
    right.imshow(rows)
    for i, (e, a) in enumerate(shown):
        right.annotate(
            f"elev {e}, azim {a}", (150 * (i % 3) + 75, 150 * (i // 3) + 140), color=INK, fontsize=9, ha="center"
        )
    right.set_title("what a camera there sees", **TITLE)
    return figure


def image() -> Figure:
    """NDC and pixels of an image that is not square."""
    figure, axes = panels(2, (9.6, 3.7))
    height, width = 4, 6
    camera = PerspectiveCameras()
    corners = torch.tensor([[width / height, 1.0, 1.0], [-width / height, -1.0, 1.0], [0.0, 0.0, 1.0]])
    pixels = camera.transform_points_screen(corners, image_size=(height, width))[..., :2]
    centers = (
        torch.stack(torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy"), -1).reshape(-1, 2) + 0.5
    )
    scale = (corners[0, :2] - corners[1, :2]) / (pixels[0] - pixels[1])
    for axis, label, points, dots in (
        (
            axes[0],
            "NDC: the shorter side is from 1 to -1",
            corners[:, :2],
            corners[2, :2] + (centers - pixels[2]) * scale,
        ),
        (axes[1], f"screen: pixels of an image {height} high and {width} wide", pixels, centers),
    ):
        (x0, y0), (x1, y1) = points[0].tolist(), points[1].tolist()
        for i in range(width + 1):
            axis.plot([x0 + (x1 - x0) * i / width] * 2, [y0, y1], color="#d5d1c6", linewidth=0.8)
        for i in range(height + 1):
            axis.plot([x0, x1], [y0 + (y1 - y0) * i / height] * 2, color="#d5d1c6", linewidth=0.8)
        axis.plot(*dots.T.tolist(), ".", color=SOFT, markersize=3)
        mx, my = 0.09 * (x1 - x0), 0.1 * (y1 - y0)
        axis.set(xlim=(x0 - 1.6 * mx, x1 + 1.6 * mx), ylim=(y1 + 1.6 * my, y0 - 1.6 * my))
        for (x, y), down in ((points[0].tolist(), -1), (points[1].tolist(), 1)):
            axis.annotate(f"({x:g}, {y:g})", (x, y + 0.6 * down * my), color=INK, fontsize=10, ha="center", va="center")
            axis.plot(x, y, "o", color=INK, markersize=4)
        first = dots[0].tolist()
        axis.plot(*first, "o", color=WARM, markersize=6)
        axis.annotate(
            f"first pixel ({first[0]:g}, {first[1]:g})",
            first,
            (first[0] - 0.3 * mx, first[1] + 1.1 * my),
            color=WARM,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
            fontsize=10,
            va="center",
        )
        ox, oy = points[2].tolist() if axis is axes[0] else (x0, y0)
        sx, sy = (1, 1) if axis is axes[0] else (3.2, 2.6)
        arrow(axis, (ox, oy), (ox + 0.8 * sx, oy), X, "x")
        arrow(axis, (ox, oy), (ox, oy + 0.75 * sy), Y, "y")
        axis.set_title(label, **TITLE)
    return figure


def surface() -> Figure:
    """The order of a face's corners, and texture coordinates."""
    figure, axes = panels(3, (9.6, 3.5))
    corners = np.array([[0.1, 0.1], [0.95, 0.25], [0.4, 0.9]])
    axis = axes[0]
    axis.fill(*corners.T, color="#e4dfd1")
    axis.plot(*np.vstack([corners, corners[:1]]).T, color=INK, linewidth=1.2)
    for i, (corner, offset) in enumerate(zip(corners, ((-0.06, -0.05), (0.05, -0.04), (0.0, 0.06)))):
        axis.annotate(f"v{i}", corner + offset, color=INK, fontsize=11, ha="center", va="center")
    middle = corners.mean(0)
    turn = np.linspace(-2.4, 2.2, 60)
    axis.plot(middle[0] + 0.15 * np.cos(turn), middle[1] + 0.15 * np.sin(turn), color=WARM, linewidth=1.8)
    arrow(
        axis,
        middle + 0.15 * np.array([np.cos(2.1), np.sin(2.1)]),
        middle + 0.15 * np.array([np.cos(2.4), np.sin(2.4)]),
        WARM,
        "",
    )
    axis.annotate("normal\nto you", middle, color=Z, fontsize=9, ha="center", va="center")
    axis.set(xlim=(-0.1, 1.15), ylim=(-0.1, 1.15), aspect="equal")
    axis.set_title("corners run anticlockwise", **TITLE)

    axis = axes[1]
    texels = np.linspace(0.55, 0.95, 12).reshape(3, 4)[..., None] * np.array([0.95, 0.86, 0.62])
    axis.imshow(texels, extent=(0, 1, 0, 1), interpolation="nearest")
    for i in range(3):
        for j in range(4):
            axis.annotate(
                f"[{i},{j}]", ((j + 0.5) / 4, 1 - (i + 0.5) / 3), color=INK, fontsize=9, ha="center", va="center"
            )
    arrow(axis, (0, 0), (1.1, 0), X, "u", 0.05)
    arrow(axis, (0, 0), (0, 1.1), Y, "v", 0.05)
    axis.annotate("(0, 0)", (0, 0), (-0.02, -0.08), color=INK, fontsize=9, ha="center")
    axis.annotate("(1, 1)", (1, 1), (1.02, 1.03), color=INK, fontsize=9)
    axis.set(xlim=(-0.1, 1.2), ylim=(-0.1, 1.2), aspect="equal")
    axis.set_title("uv: from the lower left", **TITLE)

    axis = axes[2]
    W = 5
    for row, (inset, label) in enumerate((((1 / W, "align_corners=False")), (0.0, "align_corners=True"))):
        y = 0.7 - 0.5 * row
        places = np.linspace(-1 + inset, 1 - inset, W)
        step = places[1] - places[0]
        for place in places:
            axis.add_patch(rectangle((place - step / 2, y - 0.09), step, 0.18))
        axis.plot(places, [y] * W, ".", color=INK)
        for end in (-1, 1):
            axis.plot([end, end], [y - 0.16, y + 0.16], color=WARM, linewidth=1.8)
            axis.annotate(f"{end}", (end, y - 0.24), color=WARM, fontsize=10, ha="center")
        axis.annotate(label, (0, y + 0.17), color=INK, fontsize=9, ha="center")
    axis.set(xlim=(-1.45, 1.45), ylim=(-0.3, 1.15))
    axis.set_title("local coordinates of voxels", **TITLE)
    return figure


# Drawing

TITLE: dict[str, Any] = {"fontsize": 10.5, "color": INK, "pad": 10}


def panels(count: int, size: tuple[float, float]) -> tuple[Figure, Any]:
    """A figure with drawings beside each other, without frames."""
    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    axes = figure.subplots(1, count)
    for axis in axes:
        axis.axis("off")
    return figure, axes


def seen(points: Tensor) -> np.ndarray:
    """Where points (P, 3) of the world are drawn: (P, 2), x to the right."""
    camera = FoVPerspectiveCameras(R=EYE[0], T=EYE[1], fov=32)
    return (camera.transform_points(points)[..., :2].reshape(-1, 2) * torch.tensor([-1.0, 1.0])).numpy()


def line(axis: Any, points: Tensor, color: str, width: float = 1.2) -> None:
    """A path through points (P, 3) of the world."""
    axis.plot(*seen(points).T, color=color, linewidth=width)
    axis.set_aspect("equal")


def text(axis: Any, place: Tensor, label: str, color: str, side: str = "center") -> None:
    """A label at a place of the world."""
    plate = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
    axis.annotate(label, seen(place[None])[0], color=color, fontsize=10, ha=side, va="center", bbox=plate)


def arrow(axis: Any, start: Any, end: Any, color: str, label: str, reach: float = 0.1) -> None:
    """An arrow in the drawing's plane, with a label beyond its end."""
    axis.annotate(
        "",
        tuple(end),
        tuple(start),
        arrowprops={"arrowstyle": "-|>", "color": color, "linewidth": 1.8, "shrinkA": 0, "shrinkB": 0},
    )
    if label:
        beyond = np.asarray(end) + reach * (np.asarray(end) - np.asarray(start))
        axis.annotate(label, beyond, color=color, fontsize=11, ha="center", va="center")


def draw_axes(axis: Any, frame: Tensor, length: float) -> None:
    """The axes whose directions are the rows of `frame` (4, 4), its origin in the last."""
    origin = frame[3, :3]
    for i, name in enumerate("xyz"):
        arrow(axis, *seen(torch.stack([origin, origin + length * frame[i, :3]])), COLORS[name], name)


def draw_camera(axis: Any, camera: FoVPerspectiveCameras, size: float = 0.7) -> None:
    """A camera's frustum."""
    to_world = camera.get_world_to_view_transform().inverse().get_matrix()[0]
    half = size * float(torch.tan(torch.deg2rad(camera.fov[0]) / 2))
    corners = torch.tensor(
        [[0, 0, 0], [half, half, size], [-half, half, size], [-half, -half, size], [half, -half, size]]
    )
    corners = corners @ to_world[:3, :3] + to_world[3, :3]
    for path in ([1, 2, 3, 4, 1], [0, 1], [0, 2], [0, 3], [0, 4]):
        line(axis, corners[path], INK, 1.0)


def draw_mesh(axis: Any, mesh: Any) -> None:
    """The mesh, rendered from where drawings are seen."""
    size = 500
    camera = FoVPerspectiveCameras(R=EYE[0], T=EYE[1], fov=32)
    axis.imshow(on_paper(render(mesh, size=size, camera=camera), (255, 255, 255)), extent=(-1, 1, -1, 1))


def small_house() -> Any:
    """The built-in building, around the origin."""
    house = building(colors=True)
    return house.offset_verts(torch.tensor([0.0, -0.8, 0.0]).expand(len(house.verts_packed()), 3)).scale_verts(0.7)


def on_paper(rgba: Tensor, paper: tuple[int, int, int] = (246, 244, 239)) -> np.ndarray:
    """(H, W, 3) of straight colours and alpha."""
    color, alpha = rgba[..., :3].detach(), rgba[..., 3:].detach()
    return (color * alpha + (1 - alpha) * torch.tensor(paper) / 255).clamp(0, 1).numpy()


def rectangle(corner: tuple[float, float], width: float, height: float) -> Any:
    """The patch of a voxel."""
    from matplotlib.patches import Rectangle

    return Rectangle(corner, width, height, facecolor="#efeadd", edgecolor="#c9c2b0", linewidth=0.8)


if __name__ == "__main__":
    main()
