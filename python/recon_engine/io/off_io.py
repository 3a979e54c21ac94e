"""OFF (Object File Format of Geomview), ASCII: meshes with a colour for each vertex or face."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor

from ._numbers import DOT, HASH, NEWLINE, SPACE, TokenError, cast, fan_triangles, format_rows, parse_floats, tokenize
from .pluggable_formats import MeshFormatInterpreter, endswith
from .utils import PathOrStr, file_name, read_file, write_file

if TYPE_CHECKING:
    from recon_engine.structures import Meshes


class OffMesh(NamedTuple):
    """The content of an OFF file.

    Attributes:
        verts: (V, 3) float32.
        verts_colors: (V, C) float32 with C 3 or 4, or None. Colours written as whole numbers are scaled to [0, 1].
        faces: (F, 3) int64; polygons as fans.
        faces_colors: (F, C) float32, or None.
    """

    verts: np.ndarray
    verts_colors: np.ndarray | None
    faces: np.ndarray
    faces_colors: np.ndarray | None


def load_off(f: Any, path_manager: Any = None) -> OffMesh:
    """Reads an OFF file.

    The file has the word OFF (which may be missing), the numbers of vertices, faces and edges, a line `x y z [colour]`
    for each vertex and a line `n v1 ... vn [colour]` for each face. Colours have three or four numbers. Blank lines and
    comments from `#` on are skipped.

    Args:
        f: path or file object.
        path_manager: opens `f` where that is a str; None for local files.

    Raises:
        ValueError: naming file and line, where the file is malformed or an index is out of range.
    """
    return _Parser(read_file(f, path_manager), file_name(f)).parse()


class _Parser:
    def __init__(self, content: bytes, name: str) -> None:
        self.name = name
        if not content or content.isspace():
            raise ValueError(
                f"{name}: Premature end of file: it is empty, expected OFF and the numbers of vertices and faces"
            )
        if b"\0" in content:
            raise ValueError(f"{name}: expected OFF text, got binary data (a zero byte at {content.index(0)})")
        if b"\n" not in content:
            content = content.replace(b"\r", b"\n")
        text = np.frombuffer(bytearray(content + b"\n"), dtype=np.uint8)
        line_ends = np.flatnonzero(text == NEWLINE)
        for position in np.flatnonzero(text == HASH):
            text[position : line_ends[np.searchsorted(line_ends, position)]] = SPACE
        self._read_magic(text)
        self.tokens = tokenize(text)
        line_ends = np.flatnonzero(self.tokens.text == NEWLINE)
        counts = np.diff(np.searchsorted(self.tokens.starts, line_ends), prepend=0)
        self.line_of_row = np.flatnonzero(counts)
        self.row_counts = counts[self.line_of_row]
        self.row_starts = np.cumsum(self.row_counts) - self.row_counts
        try:
            self.values = parse_floats(self.tokens)
        except TokenError as error:
            row = int(np.searchsorted(self.row_starts, error.token, side="right")) - 1
            self._fail(row, f"expected a number, got {self.tokens.word(error.token)!r}")

    def _read_magic(self, text: np.ndarray) -> None:
        """Overwrites the word OFF (or COFF, with vertex colours) with spaces."""
        starts = np.flatnonzero(text > SPACE)[:1]
        for start in starts.tolist():
            magic = re.match(rb"c?off(\s+binary)?", text[start:].tobytes()[:80], re.IGNORECASE)
            if magic is None:
                return
            if magic[1]:
                raise ValueError(f"{self.name}: binary OFF files are not supported, expected text")
            text[start : start + magic.end()] = SPACE

    def parse(self) -> OffMesh:
        if not len(self.row_counts):
            raise ValueError(f"{self.name}: Premature end of file: expected the numbers of vertices and faces")
        header = self.values[: self.row_counts[0]]
        if self.row_counts[0] != 3 or (header[:2] < 0).any() or (header != np.floor(header)).any():
            words = " ".join(self.tokens.word(i) for i in range(min(self.row_counts[0], 8)))
            self._fail(0, f"Invalid counts line: {words!r}; expected the numbers of vertices, faces and edges")
        num_verts, num_faces = int(header[0]), int(header[1])
        counts = self.row_counts[1 : 1 + num_verts]
        if len(counts) and (counts[0] not in (3, 6, 7) or (counts != counts[0]).any()):
            row = int(np.argmax(counts != counts[0]))
            self._fail(
                1 + row,
                f"Bad vertex data. Expected the same number of columns in all {num_verts} lines: 3, and 0, 3 or 4 for "
                f"a colour; got {counts[row]}",
            )
        if len(counts) < num_verts:
            self._short("vertex", num_verts, len(self.row_counts) - 1)
        if len(self.row_counts) < 1 + num_verts + num_faces:
            self._short("face", num_faces, len(self.row_counts) - 1 - num_verts)
        if len(self.row_counts) > 1 + num_verts + num_faces:
            self._fail(1 + num_verts + num_faces, "Extra data at end of file: expected nothing behind the faces")
        verts, verts_colors = self._verts(num_verts)
        faces, faces_colors = self._faces(1 + num_verts, num_faces, num_verts)
        return OffMesh(verts, verts_colors, faces, faces_colors)

    def _verts(self, num_verts: int) -> tuple[np.ndarray, np.ndarray | None]:
        if not num_verts:
            return np.empty((0, 3), dtype=np.float32), None
        counts = self.row_counts[1 : 1 + num_verts]
        start = self.row_starts[1]
        rows = cast(self.values[start : start + num_verts * counts[0]].reshape(num_verts, -1), np.float32)
        return rows[:, :3], self._colors(rows[:, 3:], first_row=1, skip=3)

    def _faces(self, first: int, num_faces: int, num_verts: int) -> tuple[np.ndarray, np.ndarray | None]:
        if not num_faces:
            return np.empty((0, 3), dtype=np.int64), None
        starts, counts = self.row_starts[first:], self.row_counts[first:]
        sizes = cast(self.values[starts], np.int64)
        num_colors = counts - 1 - sizes
        for bad, message in [
            (sizes < 3, "Faces must have at least 3 vertices."),
            (num_colors < 0, "A line of face data did not have the specified length."),
            (num_colors != num_colors[0], "Number of colors differs between faces."),
            (~np.isin(num_colors, [0, 3, 4]), "Unexpected number of colors: a colour has 3 or 4 numbers."),
        ]:
            if bad.any():
                self._fail(first + int(np.argmax(bad)), message)
        flat = self.values[starts[0] :]
        row_of = np.repeat(np.arange(num_faces), counts)
        column = np.arange(len(flat)) - np.repeat(starts - starts[0], counts)
        is_corner = (column > 0) & (column <= sizes[row_of])
        corners = flat[is_corner]
        bad = (corners < 0) | (corners >= num_verts) | (corners != np.floor(corners))
        if bad.any():
            index = int(np.argmax(bad))
            self._fail(
                first + int(row_of[is_corner][index]),
                f"vertex index {corners[index]:g} is out of range: there are {num_verts} vertices",
            )
        colors = None
        if num_colors[0]:
            rows = cast(flat[column > sizes[row_of]].reshape(num_faces, -1), np.float32)
            colors = self._colors(rows, first_row=first, skip=int(1 + sizes[0]))
        corners = corners.astype(np.int64)
        if (sizes == sizes[0]).all():  # first triangles of all faces, then the second ones, as in PyTorch3D
            polygons = corners.reshape(num_faces, -1)
            steps = range(sizes[0] - 2)
            faces = np.concatenate([polygons[:, [0, i + 1, i + 2]] for i in steps])
            return faces, None if colors is None else np.tile(colors, (sizes[0] - 2, 1))
        return fan_triangles(corners, sizes), None if colors is None else np.repeat(colors, sizes - 2, axis=0)

    def _colors(self, colors: np.ndarray, first_row: int, skip: int) -> np.ndarray | None:
        """Colours as written if the first one has a decimal point, else divided by 255."""
        if not colors.shape[1]:
            return None
        token = self.row_starts[first_row] + skip
        span = self.tokens.text[self.tokens.starts[token] : self.tokens.ends[token + colors.shape[1] - 1]]
        return colors if (span == DOT).any() else (colors * (1 / 255.0)).astype(np.float32)

    def _short(self, what: str, wanted: int, present: int) -> NoReturn:
        raise ValueError(f"{self.name}: Not enough {what} data. Expected {wanted} lines, got {present}")

    def _fail(self, row: int, message: str) -> NoReturn:
        raise ValueError(f"{self.name}, line {int(self.line_of_row[row]) + 1}: {message}")


def save_off(
    f: Any,
    *,
    verts: Tensor,
    verts_colors: Tensor | None = None,
    faces: Tensor | None = None,
    faces_colors: Tensor | None = None,
    decimal_places: int | None = None,
    path_manager: Any = None,
) -> None:
    """Writes an OFF file. A local file is replaced only when it is complete.

    Args:
        f: path or file object.
        verts: (V, 3) coordinates.
        verts_colors: (V, C) with C 3 or 4, in [0, 1].
        faces: (F, 3) indices into `verts`. Indices out of range are written, with a warning.
        faces_colors: (F, C) with C 3 or 4, in [0, 1].
        decimal_places: digits behind the point of vertices and their colours; 6 by default.
        path_manager: opens `f` where that is a str; None for local files.

    Raises:
        ValueError: where a tensor has the wrong shape.
    """
    verts_colors, faces, faces_colors = (
        t if t is not None and len(t) else None for t in (verts_colors, faces, faces_colors)
    )
    if len(verts) and (verts.dim() != 2 or verts.shape[1] != 3):
        raise ValueError(
            f"Argument 'verts' should either be empty or of shape (num_verts, 3). Got {tuple(verts.shape)}."
        )
    if faces is not None and (faces.dim() != 2 or faces.shape[1] != 3):
        raise ValueError(f"Argument 'faces' if present should have shape (num_faces, 3). Got {tuple(faces.shape)}.")
    if faces_colors is not None and faces is None:
        raise ValueError("Cannot have face colors without faces")
    for name, colors, of in [("verts_colors", verts_colors, verts), ("faces_colors", faces_colors, faces)]:
        if colors is None or of is None:
            continue
        if colors.dim() != 2 or colors.shape[1] not in (3, 4):
            raise ValueError(f"{name} should have shape ({len(of)}, C) with C 3 or 4. Got {tuple(colors.shape)}.")
        if len(colors) != len(of):
            raise ValueError(
                f"{name} should have the same length as {name.split('_')[0]}, {len(of)}. Got {len(colors)}."
            )

    number = "%f" if decimal_places is None else f"%.{int(decimal_places)}f"
    rows = verts if verts_colors is None else torch.cat([verts, verts_colors.to(verts)], dim=1)
    array = rows.detach().cpu().numpy().reshape(len(verts), -1)
    parts = [f"off\n{len(verts)} {0 if faces is None else len(faces)} 0\n"]
    parts.append(format_rows(" ".join([number] * array.shape[1]) + "\n", array))
    if faces is not None:
        corners = faces.detach().cpu().numpy()
        if corners.min() < 0 or corners.max() >= len(verts):
            warnings.warn("Faces have invalid indices", stacklevel=2)
        template = "3 %d %d %d"
        if faces_colors is not None:
            corners = np.concatenate([corners, faces_colors.detach().cpu().numpy()], axis=1, dtype=np.float64)
            template += " %f" * faces_colors.shape[1]
        parts.append(format_rows(template + "\n", corners))
    write_file(f, "".join(parts).encode(), path_manager)


class MeshOffFormat(MeshFormatInterpreter):
    """OFF meshes for `IO`: `TexturesVertex`, or `TexturesAtlas` with one texel for each face."""

    def __init__(self) -> None:
        self.known_suffixes = (".off",)

    def read(
        self, path: PathOrStr, include_textures: bool, device: torch.device | str, path_manager: Any, **kwargs: Any
    ) -> Meshes | None:
        """The mesh, or None if `path` does not end in .off. Colours of vertices win over those of faces."""
        from recon_engine.structures import Meshes

        if not endswith(path, self.known_suffixes):
            return None
        data = load_off(path, path_manager)
        textures: Any = None
        if include_textures and data.verts_colors is not None:
            from recon_engine.renderer.mesh.textures import TexturesVertex

            if data.faces_colors is not None:
                warnings.warn("Faces colors ignored because vertex colors provided too.", stacklevel=3)
            textures = TexturesVertex([torch.from_numpy(data.verts_colors).to(device)])
        elif include_textures and data.faces_colors is not None:
            from recon_engine.renderer.mesh.textures import TexturesAtlas

            textures = TexturesAtlas([torch.from_numpy(data.faces_colors).to(device)[:, None, None, :]])
        verts, faces = torch.from_numpy(data.verts.copy()), torch.from_numpy(data.faces)
        return Meshes(verts=[verts.to(device)], faces=[faces.to(device)], textures=textures)

    def save(
        self,
        data: Meshes,
        path: PathOrStr,
        path_manager: Any,
        binary: bool | None,
        decimal_places: int | None = None,
        **kwargs: Any,
    ) -> bool:
        """As `save_off` with the colours of vertices or faces; False if `path` does not end in .off."""
        if not endswith(path, self.known_suffixes):
            return False
        verts_colors = faces_colors = None
        if data.textures is not None:
            from recon_engine.renderer.mesh.textures import TexturesAtlas, TexturesVertex

            if isinstance(data.textures, TexturesVertex):
                verts_colors = data.textures.verts_features_list()[0]
            elif isinstance(data.textures, TexturesAtlas) and data.textures.atlas_list()[0].shape[1] == 1:
                faces_colors = data.textures.atlas_list()[0][:, 0, 0, :]
        save_off(
            path,
            verts=data.verts_list()[0],
            verts_colors=verts_colors,
            faces=data.faces_list()[0],
            faces_colors=faces_colors,
            decimal_places=decimal_places,
            path_manager=path_manager,
        )
        return True
