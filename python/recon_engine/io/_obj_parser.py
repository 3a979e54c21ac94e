"""The statements of an OBJ file as arrays. What they mean is up to `obj_io`.

The file stays one array of bytes. Lines are classified by their first letters, all lines of a kind are parsed at once,
and line numbers are worked out only for an error message.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np

from ._numbers import (
    HASH,
    NEWLINE,
    SLASH,
    SPACE,
    TokenError,
    Tokens,
    fan_triangles,
    is_space,
    parse_floats,
    parse_ints,
    tokenize,
)

_CORNER_FORMS = "Face vertices can only have 3 properties in the forms v, v/vt, v//vn or v/vt/vn"
_NO_INDEX = -1
_ABSENT = np.iinfo(np.int64).min  # while -1 may still be an index counted from the end


@dataclass
class ObjStatements:
    """What an OBJ file says.

    Attributes:
        verts: (V, 3) float64.
        normals: (N, 3) float64.
        verts_uvs: (T, 2) float64.
        faces_verts: (F, 3) int64, 0-based, polygons as fans.
        faces_normals: (F, 3) int64, -1 where a face has no normals.
        faces_uvs: (F, 3) int64, -1 where a face has no texture coordinates.
        faces_materials: (F,) int64 index into `material_names`, -1 before the first `usemtl`.
        material_names: in the order of first use.
        material_files: the arguments of the `mtllib` lines.
    """

    verts: np.ndarray
    normals: np.ndarray
    verts_uvs: np.ndarray
    faces_verts: np.ndarray
    faces_normals: np.ndarray
    faces_uvs: np.ndarray
    faces_materials: np.ndarray
    material_names: list[str] = field(default_factory=list)
    material_files: list[str] = field(default_factory=list)


def parse_obj(content: bytes, name: str) -> ObjStatements:
    """Reads the `v vt vn f usemtl mtllib` lines of an OBJ file; others are skipped.

    Args:
        content: the whole file.
        name: what error messages call the file.

    Raises:
        ValueError: naming the file and the line, where something is not as the format wants it.
    """
    return _Parser(content, name).parse()


class _Parser:
    def __init__(self, content: bytes, name: str) -> None:
        self.name = name
        if not content or content.isspace():
            raise ValueError(f"{name}: the file is empty, expected OBJ lines such as 'v 0 0 0' and 'f 1 2 3'")
        if b"\0" in content:
            raise ValueError(f"{name}: expected OBJ text, got binary data (a zero byte at {content.index(0)})")
        if content.startswith(b"\xef\xbb\xbf"):  # byte order mark
            content = b"   " + content[3:]
        if b"\r" in content and b"\n" not in content:
            content = content.replace(b"\r", b"\n")
        self.original = content
        if b"\\" in content:  # line continuation; lengths stay, so that positions still give line numbers
            content = content.replace(b"\\\r\n", b"   ").replace(b"\\\n", b"  ")
        self.text = np.frombuffer(bytearray(content + b"\n   "), dtype=np.uint8)
        self.text[-3:] = SPACE
        newlines = np.flatnonzero(self.text == NEWLINE)
        self.ends = newlines
        starts = np.concatenate([[0], newlines[:-1] + 1])
        while True:  # skip indentation
            indented = is_space(self.text[starts]) & (starts < self.ends)
            if not indented.any():
                break
            starts[indented] += 1
        self.starts = starts

    def parse(self) -> ObjStatements:
        text, starts = self.text, self.starts
        first, second, third = (text[starts + k] for k in range(3))
        after_first, after_second = is_space(second), is_space(third)
        is_v = first == ord("v")
        verts = np.flatnonzero(is_v & after_first)
        normals = np.flatnonzero(is_v & (second == ord("n")) & after_second)
        uvs = np.flatnonzero(is_v & (second == ord("t")) & after_second)
        faces = np.flatnonzero((first == ord("f")) & after_first)
        self._blank_comments()
        names = np.flatnonzero((first == ord("u")) | (first == ord("m")))

        corners = self._faces(faces, verts, uvs, normals)
        statements = ObjStatements(
            verts=self._floats(verts, 1, 3, "vertex"),
            normals=self._floats(normals, 2, 3, "normal"),
            verts_uvs=self._floats(uvs, 2, 2, "texture coordinate"),
            faces_verts=corners[0],
            faces_uvs=corners[1],
            faces_normals=corners[2],
            faces_materials=np.empty(0, dtype=np.int64),
        )
        self._materials(statements, names, faces)
        return statements

    def _materials(self, statements: ObjStatements, lines: np.ndarray, face_lines: np.ndarray) -> None:
        """Fills in the names, and for each triangle the material in force at its line."""
        ids: dict[str, int] = {}
        changes, chosen = [-1], [_NO_INDEX]
        for line in lines:
            statement = self.text[self.starts[line] : self.ends[line]].tobytes()
            words = statement.decode("utf-8", "surrogateescape").split(None, 1)
            if words[0] == "mtllib":
                if len(words) < 2:
                    self._fail(line, "expected the name of a material file after 'mtllib'")
                statements.material_files.append(words[1].strip())
            elif words[0] == "usemtl":
                if len(words) < 2:
                    self._fail(line, "expected the name of a material after 'usemtl'")
                changes.append(line)
                chosen.append(ids.setdefault(words[1].split(" #")[0].strip(), len(ids)))
        statements.material_names = list(ids)
        in_force = np.searchsorted(np.array(changes), face_lines, side="right") - 1
        statements.faces_materials = np.repeat(np.array(chosen, dtype=np.int64)[in_force], self.triangles_per_face)

    def _blank_comments(self) -> None:
        """Overwrites comments behind numbers with spaces."""
        hashes = np.flatnonzero(self.text == HASH)
        lines = np.searchsorted(self.ends, hashes)
        keyword = self.text[self.starts[lines]]
        inline = (keyword == ord("v")) | (keyword == ord("f"))
        for position, line in zip(hashes[inline], lines[inline], strict=True):
            self.text[position : self.ends[line]] = SPACE

    def _gather(self, lines: np.ndarray, skip: int) -> np.ndarray:
        """The bytes of `lines` one after the other, without the `skip` letters of their keyword.

        Each line ends with its newline.
        """
        for k in range(skip):
            self.text[self.starts[lines] + k] = SPACE
        breaks = np.flatnonzero(np.diff(lines) != 1)
        firsts, lasts = lines[np.concatenate([[0], breaks + 1])], lines[np.concatenate([breaks, [-1]])]
        runs = zip(self.starts[firsts].tolist(), self.ends[lasts].tolist(), strict=True)
        return np.concatenate([self.text[start : end + 1] for start, end in runs])

    def _tokens_per_line(self, tokens: Tokens, num_lines: int) -> np.ndarray:
        line_ends = np.flatnonzero(tokens.text == NEWLINE)[:num_lines]
        return np.diff(np.searchsorted(tokens.starts, line_ends), prepend=0)

    def _floats(self, lines: np.ndarray, skip: int, columns: int, what: str) -> np.ndarray:
        """The first `columns` numbers of each line."""
        if not len(lines):
            return np.empty((0, columns))
        tokens = tokenize(self._gather(lines, skip))
        counts = self._tokens_per_line(tokens, len(lines))
        if counts.min() < columns:
            short = int(np.argmax(counts < columns))
            self._fail(lines[short], f"the {what} does not have {columns} values, got {counts[short]}")
        try:
            values = parse_floats(tokens)
        except TokenError as error:
            line = lines[np.searchsorted(np.cumsum(counts), error.token, side="right")]
            self._fail(line, f"expected a number in a {what}, got {tokens.word(error.token)!r}")
        if (counts == counts[0]).all():
            return values.reshape(-1, counts[0])[:, :columns]
        first_columns: np.ndarray = values[(np.cumsum(counts) - counts)[:, None] + np.arange(columns)]
        return first_columns

    def _faces(self, lines: np.ndarray, verts: np.ndarray, uvs: np.ndarray, normals: np.ndarray) -> list[np.ndarray]:
        """0-based vertex, texture and normal indices of the triangles."""
        self.triangles_per_face = np.empty(0, dtype=np.int64)
        if not len(lines):
            return [np.empty((0, 3), dtype=np.int64)] * 3
        tokens = tokenize(self._gather(lines, 1))
        counts = self._tokens_per_line(tokens, len(lines))
        line_of = np.repeat(lines, counts)
        corners = self._corner_indices(tokens, line_of)
        if counts.min() < 3:
            short = int(np.argmax(counts < 3))
            self._fail(lines[short], f"a face needs at least 3 vertices, got {counts[short]}")
        present = corners != _ABSENT
        self._check_consistent(present[:, 1], counts, lines, "vt")
        self._check_consistent(present[:, 2], counts, lines, "vn")
        for column, (statements, what) in enumerate([(verts, "v"), (uvs, "vt"), (normals, "vn")]):
            if present[:, column].any():
                self._resolve(corners[:, column], present[:, column], line_of, statements, what, tokens)
        corners[corners == _ABSENT] = _NO_INDEX
        self.triangles_per_face = counts - 2
        return [fan_triangles(corners[:, k], counts) for k in range(3)]

    def _corner_indices(self, tokens: Tokens, line_of: np.ndarray) -> np.ndarray:
        """(C, 3) int64 the v, vt, vn numbers of each corner `v`, `v/vt`, `v//vn` or `v/vt/vn` as written."""
        text, starts, ends = tokens.text, tokens.starts, tokens.ends
        slash = np.flatnonzero(text == SLASH)
        if not len(slash):
            corners = np.full((len(tokens), 3), _ABSENT, dtype=np.int64)
            corners[:, 0] = self._ints(tokens, text, line_of, np.arange(1, len(tokens) + 1))
            return corners
        num_slashes, first_slash = _slashes(tokens, slash)
        if num_slashes.max() > 2:
            bad = int(np.argmax(num_slashes > 2))
            self._fail(line_of[bad], f"{_CORNER_FORMS}, got {tokens.word(bad)!r}")
        has_uv = num_slashes > 0
        has_uv &= (first_slash + 1 < ends) & (text[first_slash + 1] != SLASH)
        has_normal = (num_slashes == 2) & (text[ends - 1] != SLASH)
        text = text.copy()
        text[slash] = SPACE
        # Where there is no vertex number the parts do not add up: `/2/3`, and `1//` has two slashes for one number.
        if (text[starts] == SPACE).any() or ((num_slashes == 2) & ~has_normal).any():
            bad = int(np.argmax((text[starts] == SPACE) | ((num_slashes == 2) & ~has_normal)))
            self._fail(line_of[bad], f"{_CORNER_FORMS}, got {tokens.word(bad)!r}")
        sizes = 1 + has_uv + has_normal
        last = np.cumsum(sizes)
        flat = self._ints(tokens, text, line_of, last)
        at = last - sizes
        corners = np.full((len(tokens), 3), _ABSENT, dtype=np.int64)
        corners[:, 0] = flat[at]
        corners[has_uv, 1] = flat[at[has_uv] + 1]
        corners[has_normal, 2] = flat[last[has_normal] - 1]
        return corners

    def _ints(self, tokens: Tokens, text: np.ndarray, line_of: np.ndarray, last: np.ndarray) -> np.ndarray:
        """The numbers of `text`; those of corner i end before number `last[i]`."""
        try:
            return np.maximum(parse_ints(text), _ABSENT + 1)  # a written number is never "absent"
        except TokenError as error:
            corner = int(np.searchsorted(last, error.token, side="right"))
            self._fail(line_of[corner], f"expected whole numbers in a face corner, got {tokens.word(corner)!r}")

    def _check_consistent(self, present: np.ndarray, counts: np.ndarray, lines: np.ndarray, what: str) -> None:
        if present.all() or not present.any():
            return
        in_face = np.add.reduceat(present.astype(np.int64), np.cumsum(counts) - counts)
        if (mixed := (in_face != 0) & (in_face != counts)).any():
            self._fail(
                lines[int(np.argmax(mixed))], f"Vertex properties are inconsistent: only some have a {what} index"
            )

    def _resolve(
        self,
        index: np.ndarray,
        present: np.ndarray,
        line_of: np.ndarray,
        statements: np.ndarray,
        what: str,
        tokens: Tokens,
    ) -> None:
        """In place: 1-based to 0-based, and negative ones counted back from the statements before the face."""
        negative = index < 0
        negative &= present
        if negative.any():
            index[negative] += np.searchsorted(statements, line_of[negative])
        positive = present & ~negative
        zero = positive & (index == 0)
        index[positive] -= 1
        bad = present & ((index < 0) | (index >= len(statements)))
        if bad.any():
            corner = int(np.argmax(bad))
            hint = "indices start at 1" if zero[corner] else f"there are {len(statements)} '{what}' lines"
            self._fail(line_of[corner], f"the {what} index of corner {tokens.word(corner)!r} is out of range: {hint}")

    def _fail(self, line: int, message: str) -> NoReturn:
        position = int(self.starts[line])
        number = self.original.count(b"\n", 0, position) + 1
        raise ValueError(f"{self.name}, line {number}: {message}")


def _slashes(tokens: Tokens, slash: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many of the slashes each token has, and where its first one is (0 if it has none)."""
    each = len(slash) // len(tokens)
    if each and each * len(tokens) == len(slash):  # usually all tokens have the same form: no search
        rows = slash.reshape(-1, each)
        if (rows[:, 0] >= tokens.starts).all() and (rows[:, -1] < tokens.ends).all():
            return np.full(len(tokens), each), rows[:, 0]
    owner = np.searchsorted(tokens.starts, slash, side="right") - 1
    first = np.zeros(len(tokens), dtype=np.int64)
    is_first = np.diff(owner, prepend=-1) != 0
    first[owner[is_first]] = slash[is_first]
    return np.bincount(owner, minlength=len(tokens)), first
