"""The results folder of a fit to views."""

from __future__ import annotations

import math
from pathlib import Path

from recon_engine.io import IO, save_obj
from recon_engine.io.experimental_gltf_io import MeshGlbFormat
from recon_engine.renderer import TexturesUV
from recon_engine.report import Number, Picture
from recon_engine.structures import Meshes

from .. import _pictures as pictures
from .._fields import save_field
from .fit import FitViewsResult
from .model import image_of_colors

_FILES = {
    "mesh.obj": "the fitted mesh at the object's scale, with its texture in mesh.mtl and mesh.png",
    "mesh.mtl": "the material of mesh.obj",
    "mesh.png": "the texture",
    "mesh.glb": "the same mesh as one file",
}
_SHOWN = ((15.0, 30.0), (15.0, -90.0))  # elevation and azimuth of the shaded views
_LARGEST = 512  # texels along each side of a part of an image that is made of vertex colours
_DISTANCE = 3.6  # of the cameras of these pictures


def save_results(result: FitViewsResult, folder: Path, source: str) -> None:
    """Write everything that a fit leaves behind.

    Args:
        result: of `from_mesh` or `from_capture`.
        folder: exists, and is best the work folder of an atomic results folder.
        source: what was fitted, for the report's title.

    Raises:
        ImportError: pillow or matplotlib is missing; names the pip line.
    """
    mesh = with_image(result)
    texture = mesh.textures
    save_obj(
        str(folder / "mesh.obj"),
        mesh.verts_packed(),
        mesh.faces_packed(),
        verts_uvs=texture.verts_uvs_list()[0],
        faces_uvs=texture.faces_uvs_list()[0],
        texture_map=texture.maps_padded()[0],
    )
    writer = IO()
    writer.register_meshes_format(MeshGlbFormat())
    writer.save_mesh(result.mesh, folder / "mesh.glb")
    steps, verts, faces = result.history.length, len(mesh.verts_packed()), len(mesh.faces_packed())
    what = "silhouettes" if result.settings.weight_rgb == 0 else "colours and silhouettes"
    save_field(
        result,
        folder,
        f"Fit to views of {source}",
        f"A sphere, moved and coloured in {steps} iterations until its {what} matched those of the object in "
        f"{len(result.views)} views.",
        source,
        _FILES,
        [Number("Mesh", f"{faces:,}", f"faces, {verts:,} vertices")],
        _shapes(result),
    )


def with_image(result: FitViewsResult) -> Meshes:
    """The mesh with an image as its texture: its own, or one that is made of the colours of its vertices."""
    if isinstance(result.mesh.textures, TexturesUV):
        return result.mesh
    return image_of_colors(result.mesh, result.start, min(max(8 * 2**result.settings.level, 16), _LARGEST))


def _shapes(result: FitViewsResult) -> list[Picture]:
    """The object, where it is known, and the result without their colours, from the same cameras."""
    shown = {} if result.target is None else {"object": result.target}
    shown["result"] = Meshes(verts=[result.fitted.verts_packed()], faces=[result.fitted.faces_packed()])
    radius = max(float(mesh.verts_packed().norm(dim=1).max()) for mesh in shown.values())
    fov = 1.06 * math.degrees(2 * math.asin(min(radius / _DISTANCE, 0.9)))
    elevation, azimuth = zip(*_SHOWN, strict=True)
    return [
        Picture(
            pictures.png(view),
            f"The {name} without its colours, seen from elevation {e:.0f} and azimuth {a:.0f} degrees",
            f"{name}, shape ({e:.0f}°, {a:.0f}°)",
        )
        for name, mesh in shown.items()
        for view, e, a in zip(
            pictures.shaded(mesh, elevation, azimuth, distance=_DISTANCE, fov=fov), elevation, azimuth, strict=True
        )
    ]
