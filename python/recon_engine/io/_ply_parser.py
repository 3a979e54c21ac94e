"""PLY files, ASCII and binary, as numpy columns: every property of every element, known or not."""

from __future__ import annotations

import io
import itertools
import struct
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

import numpy as np

from ._numbers import NEWLINE, TokenError, cast, parse_floats, ragged_arange, tokenize
from .utils import file_name, read_file

_TYPES = {
    **dict.fromkeys(["char", "int8"], "i1"),
    **dict.fromkeys(["uchar", "uint8"], "u1"),
    **dict.fromkeys(["short", "int16"], "i2"),
    **dict.fromkeys(["ushort", "uint16"], "u2"),
    **dict.fromkeys(["int", "int32"], "i4"),
    **dict.fromkeys(["uint", "uint32"], "u4"),
    **dict.fromkeys(["float", "float32"], "f4"),
    **dict.fromkeys(["double", "float64"], "f8"),
}
_FORMATS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}


class ListColumn(NamedTuple):
    """A list property.

    Attributes:
        counts: (R,) int64 length of each row's list.
        values: (sum(counts),) all lists one after the other.
    """

    counts: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class PlyProperty:
    """One `property` line. `list_type` is the type of the length of a list, "" for a single number."""

    name: str
    data_type: str
    list_type: str = ""

    @property
    def dtype(self) -> np.dtype:
        """Of the numbers, in native byte order."""
        return np.dtype(_TYPES[self.data_type])


@dataclass(frozen=True)
class PlyElement:
    """One `element` line and its properties."""

    name: str
    count: int
    properties: list[PlyProperty] = field(default_factory=list)

    @property
    def has_lists(self) -> bool:
        """Whether any property is a list."""
        return any(prop.list_type for prop in self.properties)


@dataclass(frozen=True)
class PlyFile:
    """The content of a PLY file.

    Attributes:
        name: what error messages call the file.
        byte_order: "" for ASCII, "<" for little endian, ">" for big endian.
        elements: the header, in the order of the file.
        comments: the comment lines without their keyword.
        obj_info: the obj_info lines without their keyword.
        columns: by element and property, the numbers in native byte order.
    """

    name: str
    byte_order: str
    elements: list[PlyElement]
    comments: list[str]
    obj_info: list[str]
    columns: dict[str, dict[str, np.ndarray | ListColumn]]

    @property
    def ascii(self) -> bool:
        """Whether the file is text."""
        return not self.byte_order


def read_ply(f: Any, path_manager: Any = None) -> PlyFile:
    """All elements and properties of a PLY file.

    Args:
        f: path, or file object (in binary mode if the file is binary).
        path_manager: opens `f` where that is a str; None for local files.

    Raises:
        ValueError: naming the file and the line or the element, where the file is malformed.
    """
    name = file_name(f)
    as_text = f"{name}: Cannot safely read a binary ply file using a Text stream; open it as 'rb'."
    try:
        content = read_file(f, path_manager)
    except UnicodeDecodeError:
        raise ValueError(as_text) from None
    header, body_start, num_lines = _read_header(content, name)
    body = memoryview(content)[body_start:]
    if header.byte_order and isinstance(f, io.TextIOBase):
        raise ValueError(as_text)
    if header.byte_order:
        _BinaryBody(header, body).read()
    else:
        _AsciiBody(header, body, num_lines).read()
    return header


def _read_header(content: bytes, name: str) -> tuple[PlyFile, int, int]:
    """The file without columns, where its body starts, and the number of header lines."""
    if not content.startswith(b"ply") or content[3:4] not in (b"\n", b"\r"):
        raise ValueError(f"{name}, line 1: Invalid file header. Expected 'ply', got {content[:20]!r}")
    newline = b"\r\n" if content[3:5] == b"\r\n" else content[3:4]
    start, number = 3 + len(newline), 1
    byte_order: str | None = None
    elements: list[PlyElement] = []
    comments: list[str] = []
    obj_info: list[str] = []
    while True:
        end = content.find(newline, start)
        number += 1
        line = content[start : end if end >= 0 else len(content)].decode("latin-1").strip()
        start = end + len(newline) if end >= 0 else len(content)
        where = f"{name}, line {number}"
        keyword, *words = line.split() or [""]
        if keyword == "end_header":
            break
        if end < 0:
            raise ValueError(f"{where}: the file ends inside its header, expected 'end_header'")
        if keyword == "format":
            if byte_order is not None or len(words) != 2 or words[0] not in _FORMATS or words[1] != "1.0":
                raise ValueError(f"{where}: Invalid format line. Expected 'format ascii 1.0' or alike, got {line!r}")
            byte_order = _FORMATS[words[0]]
        elif keyword == "comment":
            comments.append(line[8:])
        elif keyword == "obj_info":
            obj_info.append(line[9:])
        elif keyword == "element":
            _close(elements, where)
            elements.append(_parse_element(words, line, where))
        elif keyword == "property":
            if not elements:
                raise ValueError(f"{where}: Encountered property before any element.")
            elements[-1].properties.append(_parse_property(words, line, where, elements[-1]))
        elif keyword:
            raise ValueError(f"{where}: Invalid line: {line!r}; expected element, property, comment or end_header")
    if not elements:
        raise ValueError(f"{where}: No elements found. Expected 'element vertex COUNT' in the header")
    _close(elements, where)
    if byte_order is None:
        raise ValueError(f"{where}: No format line found. Expected one such as 'format ascii 1.0'")
    return PlyFile(name, byte_order, elements, comments, obj_info, {}), start, number


def _close(elements: list[PlyElement], where: str) -> None:
    if elements and not elements[-1].properties:
        raise ValueError(f"{where}: Found an element with no properties. It is {elements[-1].name!r}")


def _parse_element(words: list[str], line: str, where: str) -> PlyElement:
    if len(words) != 2:
        raise ValueError(f"{where}: Invalid line: {line!r}; expected 'element NAME COUNT'")
    try:
        count = int(words[1])
    except ValueError:
        raise ValueError(f"{where}: Number of items for {words[0]} was not a number. Got {words[1]!r}") from None
    if count < 0:
        raise ValueError(f"{where}: expected a count of at least 0 for {words[0]}, got {count}")
    return PlyElement(words[0], count)


def _parse_property(words: list[str], line: str, where: str, element: PlyElement) -> PlyProperty:
    is_list = len(words) == 4 and words[0] == "list"
    if not is_list and (len(words) != 2 or words[0] == "list"):
        raise ValueError(f"{where}: Invalid line: {line!r}; expected 'property [list TYPE] TYPE NAME'")
    *types, name = words[1:] if is_list else words
    for data_type in types:
        if data_type not in _TYPES:
            raise ValueError(f"{where}: Invalid datatype: {data_type}; expected one of {', '.join(_TYPES)}")
    if is_list and _TYPES[types[0]][0] == "f":
        raise ValueError(f"{where}: Invalid datatype: {types[0]}; the length of a list must have an integer type")
    if any(other.name == name for other in element.properties):
        raise ValueError(f"{where}: Cannot have two properties called {name} in {element.name}.")
    return PlyProperty(name, types[-1], types[0] if is_list else "")


class _AsciiBody:
    """One row of an element is one line; blank lines are skipped."""

    def __init__(self, ply: PlyFile, body: memoryview, num_lines: int) -> None:
        self.ply, self.num_lines = ply, num_lines
        content = np.frombuffer(body, dtype=np.uint8)
        text = np.concatenate([content, [NEWLINE]]).astype(np.uint8)
        if NEWLINE not in content and ord("\r") in content:
            text[text == ord("\r")] = NEWLINE
        self.tokens = tokenize(text)
        counts = np.diff(np.searchsorted(self.tokens.starts, np.flatnonzero(self.tokens.text == NEWLINE)), prepend=0)
        self.line_of_row = np.flatnonzero(counts)
        self.row_counts = counts[self.line_of_row]
        self.row_starts = np.cumsum(self.row_counts) - self.row_counts
        try:
            self.values = parse_floats(self.tokens)
        except TokenError as error:
            row = int(np.searchsorted(self.row_starts, error.token, side="right")) - 1
            if row >= sum(element.count for element in ply.elements):
                self._fail(row, "Extra data at end of file.")
            self._fail(row, f"Bad numerical data. Expected a number, got {self.tokens.word(error.token)!r}")

    def read(self) -> None:
        first = 0
        for element in self.ply.elements:
            rows = slice(first, first + element.count)
            present = len(self.line_of_row[rows])
            if present < element.count:
                wanted = f"Expected {element.count} lines, got {present}"
                raise ValueError(f"{self.ply.name}: Not enough data for {element.name}. {wanted}")
            self.ply.columns[element.name] = self._columns(element, rows)
            first += element.count
        if first < len(self.line_of_row):
            start = self.tokens.starts[self.row_starts[first]]
            self._fail(first, f"Extra data at end of file. Found {self.tokens.text[start : start + 20].tobytes()!r}")

    def _columns(self, element: PlyElement, rows: slice) -> dict[str, np.ndarray | ListColumn]:
        at = self.row_starts[rows]
        ends = at + self.row_counts[rows]
        if not element.has_lists:
            wanted = len(element.properties)
            if (bad := ends - at != wanted).any():
                row = int(np.argmax(bad))
                self._fail(
                    rows.start + row,
                    f"Inconsistent data for {element.name}. Expected {wanted} numbers, got {ends[row] - at[row]}",
                )
            block = self.values[at[0] : ends[-1]].reshape(-1, wanted) if element.count else np.empty((0, wanted))
            return {p.name: self._cast(block[:, k], p, rows) for k, p in enumerate(element.properties)}
        columns: dict[str, np.ndarray | ListColumn] = {}
        for prop in element.properties:
            self._check(at < ends, rows, "Too little data for an element.")
            head = self.values[at]
            at = at + 1
            if not prop.list_type:
                columns[prop.name] = self._cast(head, prop, rows)
                continue
            self._check((head >= 0) & (head == np.floor(head)), rows, "A list length was not a number.")
            counts = cast(head, np.int64)
            self._check(
                at + counts <= ends,
                rows,
                f"A line of {element.name} data did not have the specified length. Too little data for an element.",
            )
            values = self.values[np.repeat(at, counts) + ragged_arange(counts)]
            row_of = np.repeat(np.arange(element.count), counts)
            columns[prop.name] = ListColumn(counts, self._cast(values, prop, rows, row_of))
            at = at + counts
        self._check(
            at == ends,
            rows,
            f"A line of {element.name} data did not have the specified length. Too much data for an element.",
        )
        return columns

    def _cast(self, values: np.ndarray, prop: PlyProperty, rows: slice, row_of: np.ndarray | None = None) -> np.ndarray:
        """`values` in the type of the property, which must hold them; value i is of row i or `row_of[i]`."""
        result = cast(values, prop.dtype)
        if prop.dtype.kind != "f" and (lost := result != values).any():
            bad = int(np.argmax(lost))
            row = bad if row_of is None else int(row_of[bad])
            wanted = f"a whole number of type {prop.data_type} for {prop.name}"
            self._fail(rows.start + row, f"Bad numerical data. Expected {wanted}, got {values[bad]:g}")
        return result

    def _check(self, good: np.ndarray, rows: slice, message: str) -> None:
        if not good.all():
            self._fail(rows.start + int(np.argmin(good)), message)

    def _fail(self, row: int, message: str) -> NoReturn:
        raise ValueError(f"{self.ply.name}, line {self.num_lines + int(self.line_of_row[row]) + 1}: {message}")


class _BinaryBody:
    """Rows are packed without padding."""

    def __init__(self, ply: PlyFile, body: memoryview) -> None:
        self.ply, self.body, self.at = ply, body, 0

    def read(self) -> None:
        for element in self.ply.elements:
            if not element.count:
                self.ply.columns[element.name] = {p.name: _empty(p) for p in element.properties}
            elif element.has_lists:
                columns = self._equal_lists(element)
                self.ply.columns[element.name] = self._ragged_lists(element) if columns is None else columns
            else:
                layout = [(prop.name, self._dtype(prop.data_type)) for prop in element.properties]
                table = self._table(element, np.dtype(layout))
                self.ply.columns[element.name] = {p.name: table[p.name].astype(p.dtype) for p in element.properties}
        if bytes(self.body[self.at :]).strip():
            extra = bytes(self.body[self.at : self.at + 20])
            raise ValueError(f"{self.ply.name}: Extra data at end of file. Found {extra!r}")

    def _dtype(self, data_type: str) -> np.dtype:
        return np.dtype(self.ply.byte_order + _TYPES[data_type])

    def _table(self, element: PlyElement, row: np.dtype) -> np.ndarray:
        if self.at + row.itemsize * element.count > len(self.body):
            self._too_short(element, (len(self.body) - self.at) // row.itemsize)
        table = np.frombuffer(self.body, dtype=row, count=element.count, offset=self.at)
        self.at += table.nbytes
        return table

    def _equal_lists(self, element: PlyElement) -> dict[str, np.ndarray | ListColumn] | None:
        """The columns if in every row the lists are as long as in the first one, else None and nothing is read."""
        layout: list[Any] = []
        _, lengths = self._walk_rows(element, 1)
        for k, prop in enumerate(element.properties):
            if prop.list_type:
                layout.append((f"length {k}", self._dtype(prop.list_type)))
            layout.append((f"values {k}", self._dtype(prop.data_type), (lengths[0][k],) if prop.list_type else ()))
        row = np.dtype(layout)
        if self.at + row.itemsize * element.count > len(self.body):
            return None
        table = np.frombuffer(self.body, dtype=row, count=element.count, offset=self.at)
        columns: dict[str, np.ndarray | ListColumn] = {}
        for k, prop in enumerate(element.properties):
            values = table[f"values {k}"].astype(prop.dtype)
            if prop.list_type:
                counts = table[f"length {k}"].astype(np.int64)
                if (counts != counts[0]).any():
                    return None
                columns[prop.name] = ListColumn(counts, values.reshape(-1))
            else:
                columns[prop.name] = values
        self.at += table.nbytes
        return columns

    def _ragged_lists(self, element: PlyElement) -> dict[str, np.ndarray | ListColumn]:
        offsets, lengths = self._walk_rows(element, element.count)
        starts, counts = np.array(offsets, dtype=np.int64), np.array(lengths, dtype=np.int64)
        data = np.frombuffer(self.body, dtype=np.uint8)
        columns: dict[str, np.ndarray | ListColumn] = {}
        for k, prop in enumerate(element.properties):
            dtype = self._dtype(prop.data_type)
            first = np.repeat(starts[:, k], counts[:, k]) + ragged_arange(counts[:, k]) * dtype.itemsize
            values = data[first[:, None] + np.arange(dtype.itemsize)].view(dtype).reshape(-1).astype(prop.dtype)
            columns[prop.name] = ListColumn(counts[:, k], values) if prop.list_type else values
        last = element.properties[-1]
        self.at = int(starts[-1, -1] + counts[-1, -1] * last.dtype.itemsize)
        return columns

    def _walk_rows(self, element: PlyElement, num_rows: int) -> tuple[list[list[int]], list[list[int]]]:
        """For each row and property, where its numbers start and how many there are."""
        at, size = self.at, len(self.body)
        readers = [
            (struct.Struct(self._struct(p.list_type)) if p.list_type else None, p.dtype.itemsize)
            for p in element.properties
        ]
        offsets, lengths = [], []
        for row in range(num_rows):
            row_offsets, row_lengths = [], []
            for length_reader, item_size in readers:
                length = 1
                if length_reader is not None:
                    if at + length_reader.size > size:
                        self._too_short(element, row)
                    (length,) = length_reader.unpack_from(self.body, at)
                    if length < 0:
                        raise ValueError(
                            f"{self.ply.name}, {element.name} {row}: expected a list length >= 0, got {length}"
                        )
                    at += length_reader.size
                row_offsets.append(at)
                row_lengths.append(length)
                at += length * item_size
            if at > size:
                self._too_short(element, row)
            offsets.append(row_offsets)
            lengths.append(row_lengths)
        return offsets, lengths

    def _struct(self, data_type: str) -> str:
        return self.ply.byte_order + self._dtype(data_type).char

    def _too_short(self, element: PlyElement, rows: int) -> NoReturn:
        wanted = f"Expected {element.count} rows, the file ends in row {rows}"
        raise ValueError(f"{self.ply.name}: Not enough data for {element.name}. {wanted}")


def _empty(prop: PlyProperty) -> np.ndarray | ListColumn:
    values = np.empty(0, dtype=prop.dtype)
    return ListColumn(np.empty(0, dtype=np.int64), values) if prop.list_type else values


def load_ply_raw(f: Any, path_manager: Any = None) -> tuple[PlyFile, dict[str, Any]]:
    """The file and its elements in the forms of PyTorch3D's private function of this name, which its tests call.

    Returns:
        file: what `read_ply` returns.
        elements: by name. Without lists, arrays (count, n) of neighbouring properties of one type. A list as the only
            property, of one length in all rows, is an array (count, length). Else the rows, each a list of its
            properties.
    """
    ply = read_ply(f, path_manager)
    return ply, {element.name: _raw_rows(element, ply.columns[element.name]) for element in ply.elements}


def _raw_rows(element: PlyElement, columns: dict[str, np.ndarray | ListColumn]) -> Any:
    if not element.has_lists:
        runs = itertools.groupby(element.properties, key=lambda prop: prop.dtype)
        return [np.stack([np.asarray(columns[prop.name]) for prop in run], axis=1) for _, run in runs]
    parts = []
    for column in columns.values():
        if not isinstance(column, ListColumn):
            parts.append(list(column))
        elif len(columns) == 1 and element.count and (column.counts == column.counts[0]).all():
            return column.values.reshape(element.count, -1)
        else:
            parts.append(np.split(column.values, np.cumsum(column.counts)[:-1]))
    return [list(row) for row in zip(*parts, strict=True)] if element.count else []
