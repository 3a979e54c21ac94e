"""Figures for notebooks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recon_engine.structures import Meshes, Pointclouds, Volumes

from .scene import isosurface, read_scene, unused


def show(*things: Any, title: str = "", height: int = 600, **named: Any) -> Any:
    """A plotly figure of meshes, point clouds, cameras and volumes, which a notebook shows and the mouse turns.

    Args:
        *things: `Meshes`, `Pointclouds`, cameras, `Volumes` (their surface at half density), rays, or what has a `mesh`
            or `volumes`, like the result of a method; also files and results folders.
        title: above the figure.
        height: in pixels.
        **named: the same, with names for the legend.

    Returns:
        A `plotly.graph_objects.Figure`, which also writes itself: `show(mesh).write_html("mesh.html")`.

    Raises:
        ImportError: plotly is missing; names the pip line.
        ValueError: nothing to show.
        TypeError: something that cannot be shown.

    Example:
        >>> from recon_engine.utils import ico_sphere
        >>> figure = show(ico_sphere(2), title="a sphere")  # doctest: +SKIP
    """
    from recon_engine.vis import plot_scene

    traces: dict[str, Any] = {}
    unnamed = [(type(thing).__name__.lower(), thing) for thing in things]
    for name, thing in [*unnamed, *named.items()]:
        for part, drawn in _drawable(name, thing).items():
            traces[unused(part, traces)] = drawn
    if not traces:
        raise ValueError("show needs something to show: meshes, point clouds, cameras, volumes or files")
    figure = plot_scene({title: traces})
    figure.update_layout(height=height, margin={"l": 0, "r": 0, "t": 40 if title else 10, "b": 0})
    return figure


def _drawable(name: str, thing: Any) -> dict[str, Any]:
    """What `plot_scene` draws of a thing, by name."""
    from recon_engine.renderer import CamerasBase, HeterogeneousRayBundle, RayBundle

    if isinstance(thing, (str, Path)):
        found = read_scene(thing).things
        return {key: drawn for part, value in found.items() for key, drawn in _drawable(part, value).items()}
    if isinstance(thing, Meshes):
        return {name: _with_vertex_colors(thing)}
    if isinstance(thing, Volumes):
        return {name: isosurface(thing)}
    if isinstance(thing, (Pointclouds, CamerasBase, RayBundle, HeterogeneousRayBundle)):
        return {name: thing}
    for attribute in ("mesh", "volumes"):
        if isinstance(getattr(thing, attribute, None), (Meshes, Volumes)):
            return _drawable(attribute, getattr(thing, attribute))
    raise TypeError(
        "show takes meshes, point clouds, cameras, volumes, rays, results of methods and files, got "
        f"{type(thing).__name__}"
    )


def _with_vertex_colors(meshes: Meshes) -> Meshes:
    """Meshes whose images are colours of vertices: faces have vertices of their own then."""
    from recon_engine.renderer import TexturesUV, TexturesVertex

    if not isinstance(meshes.textures, TexturesUV):
        return meshes
    corners = meshes.verts_packed()[meshes.faces_packed()].reshape(-1, 3)
    counts = [3 * count for count in meshes.num_faces_per_mesh().tolist()]
    colors = meshes.textures.faces_verts_textures_packed().reshape(len(corners), -1)
    faces = [_corner_faces(count) for count in counts]
    return Meshes(verts=list(corners.split(counts)), faces=faces, textures=TexturesVertex(list(colors.split(counts))))


def _corner_faces(count: int) -> Any:
    import torch

    return torch.arange(count).reshape(-1, 3)
