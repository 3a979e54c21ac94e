"""glTF 2.0: the buffers, images and nodes of a .glb or .gltf file."""

from __future__ import annotations

import base64
import io
import json
import os
import struct
import urllib.parse
from collections import deque
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from .utils import file_name, is_path, read_file, read_image

MAGIC, JSON_CHUNK, BINARY_CHUNK = b"glTF", b"JSON", b"BIN\0"
_COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
# What may be required and be ignored: integers as coordinates are read, looks and lights are not.
_HARMLESS = ("KHR_mesh_quantization", "KHR_materials_", "KHR_lights_")


def read_header(stream: IO[bytes]) -> tuple[int, int] | None:
    """The version and the length that a GLB file states; None for other files. 12 bytes are read."""
    header = stream.read(12)
    if len(header) < 12 or header[:4] != MAGIC:
        return None
    version, length = struct.unpack_from("<II", header, 4)
    return version, length


class GltfFile:
    """The content of one file.

    Args:
        f: path or binary file object of a .glb file, or of a .gltf file whose buffers are embedded or lie beside it.
        path_manager: opens `f` and files beside it where the path is a str; None for local files.

    Raises:
        ValueError: naming the file, where it is malformed or needs an extension that is not read.
    """

    def __init__(self, f: Any, path_manager: Any = None) -> None:
        self.name = file_name(f)
        self.folder = os.path.dirname(self.name) if is_path(f) else None
        self.path_manager = path_manager
        content = read_file(f, path_manager)
        self._buffers: dict[int, bytes] = {}
        self._images: dict[int, Tensor] = {}
        if content[:4] == MAGIC:
            content = self._read_chunks(content)
        try:
            self.json: dict[str, Any] = json.loads(content)
        except ValueError as error:
            raise ValueError(f"{self.name}: expected a glTF file, got text that is not JSON ({error})") from None
        needed = [e for e in self.json.get("extensionsRequired", ()) if not e.startswith(_HARMLESS)]
        if needed:
            raise ValueError(f"{self.name}: needs the extension {needed[0]}, which is not read; export it without")

    def _read_chunks(self, content: bytes) -> bytes:
        """The JSON of a GLB file; its binary chunk becomes buffer 0."""
        header = read_header(io.BytesIO(content))
        if header is None:
            raise ValueError(f"{self.name}: the file ends inside its header")
        version, length = header
        if version != 2:
            raise ValueError(f"{self.name}: Unsupported version. Expected glTF 2, got {version}")
        text, at = None, 12
        while at + 8 <= min(length, len(content)):
            size, kind = struct.unpack_from("<I4s", content, at)
            chunk = content[at + 8 : at + 8 + size]
            if len(chunk) < size:
                raise ValueError(f"{self.name}: a chunk of {size} bytes ends after {len(chunk)}")
            if kind == JSON_CHUNK and text is None:
                text = chunk
            elif kind == BINARY_CHUNK:
                self._buffers.setdefault(0, chunk)
            at += 8 + size
        if text is None:
            raise ValueError(f"{self.name}: Missing json header")
        return text

    def entry(self, kind: str, index: int) -> dict[str, Any]:
        """Element `index` of one of the top-level arrays."""
        entries = self.json.get(kind, [])
        if not 0 <= index < len(entries):
            raise ValueError(f"{self.name}: refers to number {index} of {kind}, of which there are {len(entries)}")
        return entries[index]

    def accessor(self, index: int) -> np.ndarray:
        """The rows (count, components) of an accessor; integers that stand for fractions as float32."""
        entry = self.entry("accessors", index)
        dtype, width = np.dtype(_COMPONENTS[entry["componentType"]]), _WIDTHS[entry["type"]]
        if "bufferView" in entry:
            rows = self._rows(entry, dtype, width, entry["count"])
        else:
            rows = np.zeros((entry["count"], width), dtype)
        if "sparse" in entry:
            sparse, rows = entry["sparse"], rows.copy()
            where = self._rows(
                sparse["indices"], np.dtype(_COMPONENTS[sparse["indices"]["componentType"]]), 1, sparse["count"]
            )
            if len(where) and where.max() >= len(rows):
                raise ValueError(f"{self.name}: accessor {index} replaces row {where.max()} of {len(rows)}")
            rows[where[:, 0]] = self._rows(sparse["values"], dtype, width, sparse["count"])
        if entry.get("normalized") and dtype.kind in "iu":
            rows = np.maximum(rows.astype(np.float32) / np.float32(np.iinfo(dtype).max), np.float32(-1.0))
        return rows

    def _rows(self, place: dict[str, Any], dtype: np.dtype, width: int, count: int) -> np.ndarray:
        data, stride = self._view(place["bufferView"])
        start, size = place.get("byteOffset", 0), width * dtype.itemsize
        stride = stride or size
        if stride < size:
            raise ValueError(
                f"{self.name}: Items should not overlap. Rows of {size} bytes follow each other by {stride}"
            )
        if count < 0 or start < 0 or start + (count - 1) * stride + size > max(len(data), start):
            raise ValueError(
                f"{self.name}: Buffer did not have enough data for the accessor: {count} rows of {size} bytes in "
                f"{len(data) - start}"
            )
        return np.ndarray((count, width), dtype, data, start, (stride, dtype.itemsize))

    def _view(self, index: int) -> tuple[bytes, int]:
        """The bytes of a buffer view and its stride, 0 for none."""
        view = self.entry("bufferViews", index)
        data, start = self._buffer(view["buffer"]), view.get("byteOffset", 0)
        end = start + view["byteLength"]
        if not 0 <= start <= end <= len(data):
            raise ValueError(
                f"{self.name}: Not enough binary data for the buffer: {end} bytes needed, {len(data)} there"
            )
        return data[start:end], view.get("byteStride", 0)

    def _buffer(self, index: int) -> bytes:
        if index not in self._buffers:
            self._buffers[index] = self._resource(self.entry("buffers", index).get("uri"), f"buffer {index}")
        return self._buffers[index]

    def _resource(self, uri: str | None, what: str) -> bytes:
        """What a URI names: data in base64, or a file beside this one."""
        if uri is None:
            raise ValueError(f"{self.name}: {what} has no data")
        if uri.startswith("data:"):
            head, _, data = uri.partition(",")
            if not head.endswith(";base64"):
                raise ValueError(f"{self.name}: {what} has an Unexpected URI type: expected base64, got {head}")
            return base64.b64decode(data)
        if self.folder is None or ":" in uri:
            raise ValueError(f"{self.name}: {what} is at {uri}, where only files beside a given path are read")
        return read_file(os.path.join(self.folder, urllib.parse.unquote(uri)), self.path_manager)

    def image(self, index: int) -> Tensor:
        """(H, W, 3) float32 in [0, 1]; the same tensor each time, so that joined textures hold it once."""
        if index not in self._images:
            entry = self.entry("images", index)
            if "bufferView" in entry:
                content = self._view(entry["bufferView"])[0]
            else:
                content = self._resource(entry.get("uri"), f"image {index}")
            stream = io.BytesIO(content)
            stream.name = f"{self.name}, image {index}"  # what an error calls it
            self._images[index] = torch.from_numpy(read_image(stream) / np.float32(255.0))
        return self._images[index]

    def placed_meshes(self) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
        """Each mesh of the scene with its (4, 4) float64 matrix from mesh to world, for column vectors.

        Nodes come by their distance from the root. Without a default scene it is the first one, and without scenes all
        nodes.
        """
        nodes = self.json.get("nodes", [])
        if self.json.get("scenes"):
            roots = self.entry("scenes", self.json.get("scene", 0)).get("nodes", [])
        else:
            children = {child for node in nodes for child in node.get("children", ())}
            roots = [i for i in range(len(nodes)) if i not in children]
        queue = deque((root, np.eye(4), 1) for root in roots)
        while queue:
            index, parent, depth = queue.popleft()
            node = self.entry("nodes", index)
            if depth > len(nodes):
                raise ValueError(f"{self.name}: node {index} is among its own descendants")
            matrix = parent @ _local_matrix(node)
            if "mesh" in node:
                yield self.entry("meshes", node["mesh"]), matrix
            queue.extend((child, matrix, depth + 1) for child in node.get("children", ()))


def _local_matrix(node: dict[str, Any]) -> np.ndarray:
    """From a node to its parent: its matrix, or translation, rotation and scale, of which scale comes first."""
    if "matrix" in node:
        return np.array(node["matrix"], dtype=np.float64).reshape(4, 4).T
    x, y, z, w = np.array(node.get("rotation", (0.0, 0.0, 0.0, 1.0)), dtype=np.float64)
    norm = x * x + y * y + z * z + w * w
    s = 2.0 / norm if norm > 0 else 0.0
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)],
        [s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)],
        [s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)],
    ]
    matrix[:3, :3] *= np.array(node.get("scale", (1.0, 1.0, 1.0)))
    matrix[:3, 3] = node.get("translation", (0.0, 0.0, 0.0))
    return matrix
