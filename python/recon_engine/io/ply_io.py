"""PLY: triangle meshes and point clouds with normals and colours, ASCII and binary."""

from __future__ import annotations

import os
import sys
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ._numbers import cast, fan_triangles, format_rows
from ._ply_parser import ListColumn, PlyElement, PlyFile, read_ply
from ._ply_parser import load_ply_raw as _load_ply_raw  # noqa: F401  # its name in PyTorch3D, whose tests call it
from .pluggable_formats import MeshFormatInterpreter, PointcloudFormatInterpreter, endswith
from .utils import LocalPaths, PathOrStr, file_name, read_image, write_file

if TYPE_CHECKING:
    from recon_engine.structures import Meshes, Pointclouds


@dataclass(frozen=True)
class PlyMesh:
    """What a PLY file says about one mesh.

    Attributes:
        file: everything that was read.
        verts: (V, 3) float32.
        faces: (F, 3) int64, or None if the file has none.
        verts_colors: (V, 3) float32 or None; colours of one byte are scaled to [0, 1].
        verts_normals: (V, 3) float32 or None.
        verts_texture_uvs: (V, 2) float32 or None.
    """

    file: PlyFile
    verts: Tensor
    faces: Tensor | None
    verts_colors: Tensor | None
    verts_normals: Tensor | None
    verts_texture_uvs: Tensor | None


def load_ply(f: Any, *, path_manager: Any = None) -> tuple[Tensor, Tensor]:
    """The vertices and faces of a PLY file.

    Polygons become fans of triangles around their first corner. If all polygons have the same number of corners, the
    first triangles of all come first, then the second ones, as in PyTorch3D. Other elements and properties are skipped;
    `IO().load_mesh` returns colours, normals and textures too.

    Args:
        f: path, or file object (in binary mode if the file is binary).
        path_manager: object with `open` that interprets paths given as str; None for local files.

    Returns:
        verts: (V, 3) float32.
        faces: (F, 3) int64; F is 0 if the file has none.

    Raises:
        ValueError: naming the file and the line or element, where the file is malformed or an index is out of range.
    """
    mesh = load_ply_mesh(f, path_manager)
    return mesh.verts, torch.zeros(0, 3, dtype=torch.int64) if mesh.faces is None else mesh.faces


def load_ply_mesh(f: Any, path_manager: Any = None) -> PlyMesh:
    """The vertices, faces, colours, normals and texture coordinates of a PLY file. Arguments as for `load_ply`."""
    ply = read_ply(f, path_manager)
    if "vertex" not in ply.columns:
        raise ValueError(f"{ply.name}: The ply file has no vertex element.")
    verts = _vertex_columns(ply, "x", "y", "z")
    if verts is None:
        raise ValueError(f"{ply.name}: Invalid vertices in file. Expected the properties x, y and z")
    colors = _vertex_columns(ply, "red", "green", "blue")
    vertex = next(element for element in ply.elements if element.name == "vertex")
    sizes = {prop.dtype.itemsize for prop in vertex.properties if prop.name in ("red", "green", "blue")}
    if colors is not None and sizes == {1}:
        colors = (1.0 / 255) * colors
    return PlyMesh(
        file=ply,
        verts=verts,
        faces=_faces(ply, len(verts)),
        verts_colors=colors,
        verts_normals=_vertex_columns(ply, "nx", "ny", "nz"),
        verts_texture_uvs=_vertex_columns(ply, "texture_u", "texture_v"),
    )


def _vertex_columns(ply: PlyFile, *names: str) -> Tensor | None:
    columns = []
    for name in names:
        column = ply.columns["vertex"].get(name)
        if column is None:
            return None
        if isinstance(column, ListColumn):
            raise ValueError(f"{ply.name}: Invalid vertices in file: did not expect list. It is {name}")
        columns.append(cast(column, np.float32))
    return torch.from_numpy(np.stack(columns, axis=1))


def _faces(ply: PlyFile, num_verts: int) -> Tensor | None:
    element = next((element for element in ply.elements if element.name == "face"), None)
    if element is None or not element.count:
        return None
    counts, corners = _corner_lists(ply, element)
    if counts.min() < 3:
        face = int(np.argmax(counts < 3))
        raise ValueError(f"{ply.name}, face {face}: Faces must have at least 3 vertices. Got {counts[face]}")
    corners = corners.astype(np.int64)
    if ((corners < 0) | (corners >= num_verts)).any():
        bad = int(np.argmax((corners < 0) | (corners >= num_verts)))
        face = int(np.searchsorted(np.cumsum(counts), bad, side="right"))
        raise ValueError(f"{ply.name}, face {face}: has vertex index {corners[bad]} but there are {num_verts} vertices")
    if (counts == counts[0]).all():
        polygons = corners.reshape(len(counts), -1)
        return torch.from_numpy(np.concatenate([polygons[:, [0, i + 1, i + 2]] for i in range(counts[0] - 2)]))
    return torch.from_numpy(fan_triangles(corners, counts))


def _corner_lists(ply: PlyFile, element: PlyElement) -> ListColumn:
    lists = {name: column for name, column in ply.columns["face"].items() if isinstance(column, ListColumn)}
    for name in ("vertex_index", "vertex_indices"):
        if name in lists:
            return lists[name]
    if len(lists) != 1:
        raise ValueError(
            f"{ply.name}: Unexpected form of faces data. Expected a list property vertex_index or vertex_indices, got "
            f"{', '.join(prop.name for prop in element.properties)}"
        )
    return next(iter(lists.values()))


def save_ply(
    f: Any,
    verts: Tensor,
    faces: Tensor | None = None,
    verts_normals: Tensor | None = None,
    ascii: bool = False,
    decimal_places: int | None = None,
    path_manager: Any = None,
) -> None:
    """Writes a mesh or points as PLY. A local file is replaced only when it is complete.

    Args:
        f: path, or file object in binary mode.
        verts: (V, 3) coordinates; float64 is written as double, anything else as float.
        faces: (F, 3) indices into `verts`. Indices out of range are written, with a warning.
        verts_normals: (V, 3).
        ascii: whether to write text.
        decimal_places: digits behind the point in text; 6 by default.
        path_manager: object with `open` that interprets paths given as str; None for local files.

    Raises:
        ValueError: where a tensor has the wrong shape.
    """
    content = _encode(verts, faces, verts_normals, None, ascii, decimal_places, False)
    write_file(f, content, path_manager)


def _encode(
    verts: Tensor,
    faces: Tensor | None,
    normals: Tensor | None,
    colors: Tensor | None,
    ascii: bool,
    decimal_places: int | None,
    colors_as_uint8: bool,
) -> bytes:
    """The bytes of a PLY file."""
    for name, value, rows in [("verts", verts, None), ("verts_normals", normals, len(verts)), ("faces", faces, None)]:
        if value is None or not len(value):
            continue
        if value.dim() != 2 or value.shape[1] != 3 or (rows is not None and len(value) != rows):
            want = "num_faces" if name == "faces" else "num_verts"
            raise ValueError(
                f"Argument '{name}' should either be empty or of shape ({want}, 3). "
                f"Got {tuple(value.shape)} with {len(verts)} verts."
            )
    header = [
        "ply",
        f"format {'ascii' if ascii else f'binary_{sys.byteorder}_endian'} 1.0",
        f"element vertex {len(verts)}",
    ]
    number = "%f" if decimal_places is None else f"%.{int(decimal_places)}f"
    groups = [(("x", "y", "z"), verts, "double" if verts.dtype == torch.float64 else "float")]
    if normals is not None and len(normals) == len(verts):
        groups.append((("nx", "ny", "nz"), normals, "double" if normals.dtype == torch.float64 else "float"))
    if colors is not None:
        scaled = (colors.detach() * 255).round().clamp(0, 255) if colors_as_uint8 else colors
        groups.append((("red", "green", "blue"), scaled, "uchar" if colors_as_uint8 else "float"))
    header += [f"property {kind} {name}" for names, _, kind in groups for name in names]
    if len(verts) and faces is not None:
        header += [f"element face {len(faces)}", "property list uchar int vertex_index"]
    parts = ["\n".join([*header, "end_header\n"]).encode()]
    if not len(verts):
        warnings.warn("Empty 'verts' provided", stacklevel=3)
        return parts[0]

    arrays = [value.detach().cpu().numpy() for _, value, _ in groups]
    if ascii:
        template = " ".join(" ".join(["%d" if kind == "uchar" else number] * 3) for _, _, kind in groups) + "\n"
        parts.append(format_rows(template, np.concatenate([a.astype(np.float64) for a in arrays], axis=1)).encode())
    else:
        dtypes = {"float": np.float32, "double": np.float64, "uchar": np.uint8}
        table = np.empty(len(verts), dtype=[(names[0], dtypes[kind], 3) for names, _, kind in groups])
        for (names, _, _), array in zip(groups, arrays, strict=True):
            table[names[0]] = array
        parts.append(table.tobytes())
    if faces is not None and len(faces):
        corners = faces.detach().cpu().numpy()
        if corners.min() < 0 or corners.max() >= len(verts):
            warnings.warn("Faces have invalid indices", stacklevel=3)
        if ascii:
            parts.append(format_rows("3 %d %d %d\n", corners).encode())
        else:
            table = np.empty(len(corners), dtype=[("count", np.uint8), ("corners", np.uint32, 3)])
            table["count"], table["corners"] = 3, corners
            parts.append(table.tobytes())
    return b"".join(parts)


class MeshPlyFormat(MeshFormatInterpreter):
    """PLY meshes for `IO`: vertex normals, vertex colours (`TexturesVertex`) or one image (`TexturesUV`)."""

    def __init__(self) -> None:
        self.known_suffixes = (".ply",)

    def read(
        self, path: PathOrStr, include_textures: bool, device: torch.device | str, path_manager: Any, **kwargs: Any
    ) -> Meshes | None:
        """The mesh, or None if `path` does not end in .ply.

        A texture is made of the vertex colours; else of the vertex properties texture_u and texture_v and the image
        named in a comment `TextureFile NAME`, which lies beside the file.
        """
        from recon_engine.structures import Meshes

        if not endswith(path, self.known_suffixes):
            return None
        data = load_ply_mesh(path, path_manager)
        faces = torch.zeros(0, 3, dtype=torch.int64) if data.faces is None else data.faces
        return Meshes(
            verts=[data.verts.to(device)],
            faces=[faces.to(device)],
            textures=_textures(data, faces, path, device, path_manager) if include_textures else None,
            verts_normals=None if data.verts_normals is None else [data.verts_normals.to(device)],
        )

    def save(
        self,
        data: Meshes,
        path: PathOrStr,
        path_manager: Any,
        binary: bool | None,
        decimal_places: int | None = None,
        colors_as_uint8: bool = False,
        **kwargs: Any,
    ) -> bool:
        """Writes the mesh with its normals and vertex colours; False if `path` does not end in .ply.

        Args:
            data: batch of one mesh.
            path: file to write.
            path_manager: opens `path`.
            binary: False for text.
            decimal_places: digits behind the point in text; 6 by default.
            colors_as_uint8: whether colours are written as bytes 0..255 instead of floats.
            **kwargs: ignored.
        """
        if not endswith(path, self.known_suffixes):
            return False
        content = _encode(
            data.verts_list()[0],
            data.faces_list()[0],
            data.verts_normals_list()[0] if data.has_verts_normals() else None,
            _vertex_colors(data),
            binary is False,
            decimal_places,
            colors_as_uint8,
        )
        write_file(path, content, path_manager)
        return True


class PointcloudPlyFormat(PointcloudFormatInterpreter):
    """PLY point clouds for `IO`, with normals, and with colours as the features. Other elements are skipped."""

    def __init__(self) -> None:
        self.known_suffixes = (".ply",)

    def read(self, path: PathOrStr, device: torch.device | str, path_manager: Any, **kwargs: Any) -> Pointclouds | None:
        """The vertices of the file in float32, or None if `path` does not end in .ply.

        The features are the colours red, green and blue; of bytes, divided by 255.
        """
        from recon_engine.structures import Pointclouds

        if not endswith(path, self.known_suffixes):
            return None
        data = load_ply_mesh(path, path_manager)
        return Pointclouds(
            points=[data.verts.to(device)],
            features=None if data.verts_colors is None else [data.verts_colors.to(device)],
            normals=None if data.verts_normals is None else [data.verts_normals.to(device)],
        )

    def save(
        self,
        data: Pointclouds,
        path: PathOrStr,
        path_manager: Any,
        binary: bool | None,
        decimal_places: int | None = None,
        colors_as_uint8: bool = False,
        **kwargs: Any,
    ) -> bool:
        """Writes the points with their normals and colours; False if `path` does not end in .ply.

        Args:
            data: batch of one cloud; its features, if any, are three colours.
            path: file to write.
            path_manager: opens `path`.
            binary: False for text.
            decimal_places: digits behind the point in text; 6 by default.
            colors_as_uint8: whether colours are written as bytes 0..255 instead of floats.
            **kwargs: ignored.

        Raises:
            ValueError: if the features are not three for each point.
        """
        if not endswith(path, self.known_suffixes):
            return False
        colors = data.features_packed()
        if colors is not None and colors.shape[1] != 3:
            raise ValueError(
                f"{file_name(path)}: PLY has 3 colours for each point, the cloud has {colors.shape[1]} features; "
                "save a cloud with features of shape (P, 3) or none"
            )
        content = _encode(
            data.points_list()[0],
            None,
            data.normals_packed(),
            colors,
            binary is False,
            decimal_places,
            colors_as_uint8,
        )
        write_file(path, content, path_manager)
        return True


def _textures(data: PlyMesh, faces: Tensor, path: PathOrStr, device: torch.device | str, path_manager: Any) -> Any:
    if data.verts_colors is not None:
        from recon_engine.renderer.mesh.textures import TexturesVertex

        return TexturesVertex([data.verts_colors.to(device)])
    if data.verts_texture_uvs is None:
        return None
    images = [c.partition("TextureFile")[2].strip() for c in data.file.comments if "TextureFile" in c]
    if not images:
        return None
    image_path = os.path.join(os.path.dirname(str(path)), images[-1])
    if not (LocalPaths() if path_manager is None else path_manager).exists(image_path):
        warnings.warn(f"Texture file does not exist: {image_path}", stacklevel=3)
        return None
    from recon_engine.renderer.mesh.textures import TexturesUV

    image = torch.from_numpy(read_image(image_path, path_manager) / np.float32(255.0))
    return TexturesUV([image.to(device)], [faces.to(device)], [data.verts_texture_uvs.to(device)])


def _vertex_colors(data: Meshes) -> Tensor | None:
    if data.textures is None:
        return None
    from recon_engine.renderer.mesh.textures import TexturesVertex

    if not isinstance(data.textures, TexturesVertex):
        return None
    colors = data.textures.verts_features_list()[0]
    if colors.shape[1] != 3:
        warnings.warn(f"Texture will not be saved as it has {colors.shape[1]} colors, not 3.", stacklevel=3)
        return None
    return colors
