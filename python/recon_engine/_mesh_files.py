"""Meshes from files of any format, in the colours that the file gives them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from recon_engine._extra import extra
from recon_engine.structures import Meshes

CLAY = (0.80, 0.77, 0.72)  # of surfaces that have no colour of their own
_LARGEST_TILING = 4096  # texels on a side of an image that was repeated
_LARGEST_COORDINATE = 1e15  # areas of larger things leave single precision
_SLOPPY = 1e-3  # how far texture coordinates may lie outside the image before it is repeated for them


class _Part(NamedTuple):
    """A piece of a surface and its colours: of the vertices, or of the faces, or none.

    Attributes:
        verts: (V, 3).
        faces: (F, 3).
        vertex_colors: (V, 3), or None.
        paint: or None.
    """

    verts: Tensor
    faces: Tensor
    vertex_colors: Tensor | None = None
    paint: _Paint | None = None


class _Paint(NamedTuple):
    """Images on faces.

    Attributes:
        images: M tensors (H_i, W_i, 3).
        chosen: (F,) int64, which of them a face shows.
        uvs: (F, 3, 2), texture coordinates at the corners of the faces; 0 and 1 are the borders of the image.
    """

    images: list[Tensor]
    chosen: Tensor
    uvs: Tensor


def load(path: Path | str, device: torch.device | str = "cpu") -> Meshes:
    """One mesh of a file of any format that trimesh reads, with its textures, material or vertex colours.

    OBJ, OFF and PLY need no trimesh. The parts of a scene (glTF) and the materials of an OBJ file come as one mesh with
    one image; textures that repeat across the surface are laid out in it. Missing material or image files are a
    warning.

    Args:
        path: the file.
        device: where the mesh is put.

    Returns:
        A batch of one; float32. Its textures are `TexturesUV`, `TexturesVertex`, `TexturesAtlas` (a colour for each
        face) or None.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a format that is not known, a malformed file, one without faces or with coordinates that are not
            finite.
        ImportError: trimesh is missing.
    """
    from recon_engine.io import IO

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"the file {path} does not exist")
    suffix = path.suffix.lower()
    if suffix == ".obj":
        mesh = _joined([_obj_part(path)])
    elif suffix in (".off", ".ply"):
        mesh = IO().load_mesh(path)
    else:
        mesh = _joined(_other_parts(path))
    verts, faces = mesh.verts_packed(), mesh.faces_packed()
    if not len(faces):
        raise ValueError(f"the file {path} has {len(verts)} vertices but no faces: a mesh is needed")
    check_surface(path, verts, faces)
    return mesh.to(device)


def check_surface(path: Path, verts: Tensor, faces: Tensor) -> None:
    """Refuse what nothing can be computed of.

    Args:
        path: where it comes from.
        verts: (V, 3).
        faces: (F, 3); F may be 0.

    Raises:
        ValueError: vertices that are not finite or too large, faces of vertices that are not there, or faces of which
            none has an area.
    """
    if not bool(torch.isfinite(verts).all()):
        raise ValueError(f"the file {path} has vertices that are NaN or infinite")
    if len(verts) and float(verts.abs().max()) > _LARGEST_COORDINATE:
        raise ValueError(f"the file {path} has coordinates beyond {_LARGEST_COORDINATE:g}: scale it down")
    if not len(faces):
        return
    if int(faces.min()) < 0 or int(faces.max()) >= len(verts):
        raise ValueError(f"the file {path} has faces of vertices that do not exist: it has {len(verts)} vertices")
    a, b, c = verts.double()[faces].unbind(1)
    if not bool((torch.linalg.cross(b - a, c - a, dim=1) != 0).any()):
        raise ValueError(f"the file {path} has no face with an area")


def _obj_part(path: Path) -> _Part:
    from recon_engine.io import load_obj
    from recon_engine.io._obj_parser import parse_obj

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No mtl file provided")
        verts, faces, aux = load_obj(str(path))
    colors, images = aux.material_colors or {}, aux.texture_images or {}
    if not colors and not images:
        return _Part(verts, faces.verts_idx, _obj_vertex_colors(path, len(verts)))

    # Faces count materials in the order of first use; the dictionaries lack those that no file describes.
    names = parse_obj(path.read_bytes(), str(path)).material_names or list(colors)
    plain = [colors.get(name, {}).get("diffuse_color", torch.tensor(CLAY)) for name in names]
    palette, uvs = _palette(torch.stack([*plain, torch.tensor(CLAY)])[faces.materials_idx])  # -1 is the last: clay
    chosen = torch.zeros(len(uvs), dtype=torch.int64)
    if aux.verts_uvs is not None:
        numbers = {name: number for number, name in enumerate(images, start=1)}
        of_material = torch.tensor([*(numbers.get(name, 0) for name in names), 0])
        chosen = torch.where((faces.textures_idx >= 0).all(1), of_material[faces.materials_idx], 0)
        uvs = torch.where(chosen[:, None, None] > 0, aux.verts_uvs[faces.textures_idx], uvs)
    return _Part(verts, faces.verts_idx, None, _Paint([palette, *images.values()], chosen, uvs))


def _obj_vertex_colors(path: Path, count: int) -> Tensor | None:
    """The colours of `v x y z r g b`, (V, 3); None unless all vertices have one."""
    with path.open("rb") as file:
        rows = [line.split()[4:7] for line in file if line.startswith((b"v ", b"v\t"))]
    if not rows or len(rows) != count or any(len(row) != 3 for row in rows):
        return None
    try:
        colors = torch.tensor([[float(value) for value in row] for row in rows])
    except ValueError:
        return None  # a comment behind the coordinates
    return (colors / 255 if bool((colors > 1).any()) else colors).clamp(0, 1)


def _other_parts(path: Path) -> list[_Part]:
    trimesh = extra("trimesh", "io")
    known = sorted(trimesh.available_formats())
    if path.suffix.lower().lstrip(".") not in known:
        raise ValueError(f"the file {path} must end in one of {', '.join(known)}")
    try:
        parts = trimesh.load_scene(str(path), process=False).dump()
        return [_other_part(part) for part in parts if isinstance(part, trimesh.Trimesh) and len(part.faces)]
    except ImportError as error:
        raise ImportError(f"trimesh needs another package for the file {path}: {error}") from error
    except Exception as error:  # a malformed file raises whatever the reader stumbles over
        raise ValueError(f"the file {path} cannot be read: {type(error).__name__}: {error}") from error


def _other_part(mesh: Any) -> _Part:
    """A mesh of trimesh's."""
    verts = torch.tensor(np.asarray(mesh.vertices), dtype=torch.float32)
    faces = torch.tensor(np.asarray(mesh.faces), dtype=torch.int64)
    visual = mesh.visual
    if visual.kind == "vertex":
        return _Part(verts, faces, _rgb(visual.vertex_colors))
    if visual.kind == "face":
        return _Part(verts, faces, None, _painted(_rgb(visual.face_colors)))
    if visual.kind != "texture":
        return _Part(verts, faces)
    image = _image(visual.material)
    if image is None or visual.uv is None:
        return _Part(verts, faces, None, _painted(_rgb([visual.material.main_color]).expand(len(faces), 3)))
    uvs = torch.tensor(np.asarray(visual.uv), dtype=torch.float32)[faces]
    return _Part(verts, faces, None, _Paint([image], torch.zeros(len(faces), dtype=torch.int64), uvs))


def _image(material: Any) -> Tensor | None:
    """The image of trimesh's material times its colour, as glTF says."""
    image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
    if image is None:
        return None
    factor = getattr(material, "baseColorFactor", None)
    texels = _rgb(image.convert("RGB"))
    return texels if factor is None else texels * _rgb(factor)


def _rgb(colors: Any) -> Tensor:
    """(..., 3) from 0 to 1, of (..., 3 or 4) bytes."""
    return torch.tensor(np.asarray(colors)[..., :3], dtype=torch.float32) / 255


def _joined(parts: Sequence[_Part]) -> Meshes:
    """One mesh of all parts."""
    from recon_engine.renderer.mesh.textures import TexturesVertex

    if not parts:
        return Meshes(verts=[torch.zeros(0, 3)], faces=[torch.zeros(0, 3, dtype=torch.int64)])
    first = np.cumsum([0, *(len(part.verts) for part in parts)])
    verts = torch.cat([part.verts for part in parts])
    faces = torch.cat([part.faces + int(start) for part, start in zip(parts, first)])
    textures: Any = None
    if any(part.paint is not None for part in parts):
        textures = _textures([_paint(part) for part in parts])
    elif any(part.vertex_colors is not None for part in parts):
        clay = torch.tensor(CLAY)
        given = ((part.vertex_colors, len(part.verts)) for part in parts)
        colors = [clay.expand(count, 3) if values is None else values for values, count in given]
        textures = TexturesVertex([torch.cat(colors)])
    return Meshes(verts=[verts], faces=[faces], textures=textures)


def _paint(part: _Part) -> _Paint:
    """The part's paint; where its vertices have colours, those of the faces are their means."""
    if part.paint is not None:
        return part.paint
    if part.vertex_colors is not None:
        return _painted(part.vertex_colors[part.faces].mean(1))
    return _painted(torch.tensor(CLAY).expand(len(part.faces), 3))


def _painted(colors: Tensor) -> _Paint:
    """One colour for each face, (F, 3)."""
    palette, uvs = _palette(colors)
    return _Paint([palette], torch.zeros(len(colors), dtype=torch.int64), uvs)


def _palette(colors: Tensor) -> tuple[Tensor, Tensor]:
    """A square image of the colours that occur in (F, 3), and texture coordinates (F, 3, 2) of their texels."""
    used, index = colors.unique(dim=0, return_inverse=True)
    side = int(np.ceil(np.sqrt(len(used))))
    image = torch.zeros(side * side, 3)
    image[: len(used)] = used
    uv = torch.stack([index % side + 0.5, side - (index // side + 0.5)], -1) / side
    return image.reshape(side, side, 3), uv[:, None].expand(-1, 3, 2)


def _textures(paints: Sequence[_Paint]) -> Any:
    """One image with all of them below each other, each repeated as often as its texture coordinates ask."""
    from recon_engine.renderer.mesh.textures import TexturesUV

    uvs = [paint.uvs - (paint.uvs.amin(1, keepdim=True) + _SLOPPY).floor() for paint in paints]
    shown: list[tuple[Tensor, list[tuple[Tensor, Tensor]]]] = []  # an image; texture coordinates, and which it gives
    for uv, paint in zip(uvs, paints):
        for i, image in enumerate(paint.images):
            is_shown = paint.chosen == i
            if bool(is_shown.any()):
                _faces_of(image, shown).append((uv, is_shown))

    tiles = []
    for image, faces in shown:
        most = torch.stack([uv[is_shown].amax((0, 1)) for uv, is_shown in faces]).amax(0)
        repeats = (most - _SLOPPY).ceil().clamp(1, _LARGEST_TILING)
        tiles.append(_repeated(image, *repeats.int().tolist()))
        for uv, is_shown in faces:
            uv[is_shown] /= repeats

    height, width = sum(len(tile) for tile in tiles), max(tile.shape[1] for tile in tiles)
    sheet = torch.zeros(height, width, 3)
    top = 0
    for tile, (_, faces) in zip(tiles, shown):
        size = torch.tensor([tile.shape[1], tile.shape[0]])
        sheet[top : top + len(tile), : tile.shape[1]] = tile
        for uv, is_shown in faces:
            # Half a texel inside, so that neighbours on the sheet do not mix. Rows count from the top, v from below.
            texel = uv[is_shown].clamp(0, 1) * size
            texel = texel.clamp(torch.tensor(0.5), size - 0.5)
            uv[is_shown] = (texel + torch.tensor([0, height - top - len(tile)])) / torch.tensor([width, height])
        top += len(tile)
    corners = torch.cat(uvs).reshape(-1, 2)
    return TexturesUV(
        maps=sheet[None],
        faces_uvs=[torch.arange(len(corners)).reshape(-1, 3)],
        verts_uvs=[corners],
        align_corners=False,
    )


def _faces_of(image: Tensor, shown: list[tuple[Tensor, list[tuple[Tensor, Tensor]]]]) -> list[tuple[Tensor, Tensor]]:
    """The entry of an image, which the parts of a scene may share."""
    for other, faces in shown:
        if image is other or torch.equal(image, other):
            return faces
    shown.append((image, []))
    return shown[-1][1]


def _repeated(image: Tensor, across: int, down: int) -> Tensor:
    """The image beside and below itself, smaller where it would become too large."""
    if across == down == 1:
        return image
    size = (min(image.shape[0], _LARGEST_TILING // down), min(image.shape[1], _LARGEST_TILING // across))
    small = torch.nn.functional.interpolate(image.permute(2, 0, 1)[None], size=size, mode="area")[0].permute(1, 2, 0)
    return small.repeat(down, across, 1)
