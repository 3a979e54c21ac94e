"""Checkerboard in the xy plane."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from recon_engine.structures.meshes import Meshes


def checkerboard(
    radius: int = 4,
    color1: Sequence[float] = (0.0, 0.0, 0.0),
    color2: Sequence[float] = (1.0, 1.0, 1.0),
    device: torch.device | str | None = None,
) -> Meshes:
    """A square of 2 radius x 2 radius unit squares in the plane z = 0, coloured like a chess board.

    The square with lower corner (x, y) has `color1` where x + y is even, else `color2`. Colours are one texel per face
    (`TexturesAtlas`). Vertices and faces have PyTorch3D's order.

    Args:
        radius: how many squares there are from the origin to the border, at least 1.
        color1: C numbers, the colour of the square whose lower corner is the board's.
        color2: C numbers, the colour of its neighbours.
        device: where the tensors are made. Default: the CPU.

    Returns:
        Meshes: one mesh with 8 * radius**2 faces.

    Raises:
        ValueError: if `radius` < 1 or the colours differ in length.
    """
    from recon_engine.renderer.mesh.textures import TexturesAtlas

    if radius < 1:
        raise ValueError(f"checkerboard: radius must be >= 1, got {radius}")
    if len(color1) != len(color2):
        raise ValueError(
            f"checkerboard: color1 and color2 must have the same length, got {len(color1)} and {len(color2)}"
        )
    device = torch.device("cpu") if device is None else torch.device(device)
    squares, corners = 2 * radius, 2 * radius + 1

    axis = torch.arange(-radius, radius + 1, dtype=torch.float32, device=device)
    y, x = axis.repeat_interleave(corners), axis.repeat(corners)
    verts = torch.stack([x, y, torch.zeros_like(x)], dim=-1)

    row = torch.arange(squares, device=device)[:, None]
    column = torch.arange(squares, device=device)
    lower_left = row * corners + column
    lower_right, upper_left, upper_right = lower_left + 1, lower_left + corners, lower_left + corners + 1
    faces = torch.stack([lower_left, lower_right, upper_right, lower_left, upper_right, upper_left], dim=-1)

    palette = torch.tensor([list(color1), list(color2)], dtype=torch.float32, device=device)
    colors = palette[(row + column) % 2].reshape(-1, 1, len(color1)).expand(-1, 2, -1)  # two faces of one colour
    atlas = colors.reshape(1, 2 * squares * squares, 1, 1, len(color1))
    return Meshes(verts=verts[None], faces=faces.reshape(1, -1, 3), textures=TexturesAtlas(atlas))
