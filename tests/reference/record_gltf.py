"""Records what PyTorch3D 0.7.9 loads from GLB files that are made here into gltf.npz.

Run it with a Python that has PyTorch3D: `python tests/reference/record_gltf.py`.
"""

from __future__ import annotations

import importlib
import io
import json
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

_COMPONENTS = {"b": 5120, "B": 5121, "h": 5122, "H": 5123, "I": 5125, "f": 5126}
_TYPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4"}


class Builder:
    """A glTF file in the making."""

    def __init__(self) -> None:
        self.binary = b""
        self.json: dict[str, Any] = {"asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}]}
        self.json |= {"nodes": [], "meshes": [], "accessors": [], "bufferViews": []}

    def view(self, data: bytes, **properties: Any) -> int:
        self.json["bufferViews"].append(
            {"buffer": 0, "byteOffset": len(self.binary), "byteLength": len(data), **properties}
        )
        self.binary += data + b"\0" * (-len(data) % 4)
        return len(self.json["bufferViews"]) - 1

    def accessor(self, values: Any, kind: str = "f", view: int | None = None, **properties: Any) -> int:
        """Rows of numbers, in a view of their own unless one is given."""
        rows = np.asarray(values, dtype=f"<{kind}" if kind != "I" else "<u4")
        rows = rows.reshape(len(rows), -1)
        entry = {"componentType": _COMPONENTS[kind], "count": len(rows), "type": _TYPES[rows.shape[1]]}
        entry["bufferView"] = self.view(rows.tobytes()) if view is None else view
        self.json["accessors"].append({**entry, **properties})
        return len(self.json["accessors"]) - 1

    def mesh(self, *primitives: dict[str, Any], **properties: Any) -> int:
        self.json["meshes"].append({"primitives": list(primitives), **properties})
        return len(self.json["meshes"]) - 1

    def node(self, **properties: Any) -> int:
        self.json["nodes"].append(properties)
        return len(self.json["nodes"]) - 1

    def glb(self) -> bytes:
        """The file."""
        self.json["buffers"] = [{"byteLength": len(self.binary)}]
        text = json.dumps(self.json).encode()
        text += b" " * (-len(text) % 4)
        chunks = struct.pack("<I4s", len(text), b"JSON") + text
        chunks += struct.pack("<I4s", len(self.binary), b"BIN\0") + self.binary
        return b"glTF" + struct.pack("<II", 2, 12 + len(chunks)) + chunks


def wave(*shape: int) -> Any:
    """Numbers in [0, 1] that look random and are the same everywhere."""
    return np.sin(np.arange(np.prod(shape)) * 0.7 + 0.1).reshape(shape).astype(np.float32) ** 2


def png(height: int, width: int) -> bytes:
    """A picture."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray((wave(height, width, 3) * 255).astype(np.uint8)).save(stream, format="PNG")
    return stream.getvalue()


def many() -> bytes:
    """Nodes in nodes and meshes of every kind. PyTorch3D misreads the matrices of nodes: there are none."""
    b = Builder()
    b.node(children=[1, 2, 3], translation=[1, 2, 3])
    b.node(mesh=0, rotation=[0.1, 0.7, -0.2, np.sqrt(1 - 0.54)], scale=[1.5, 0.5, 2], children=[4])
    b.node(mesh=1, rotation=[0, 0, np.sqrt(0.5), np.sqrt(0.5)], scale=[2, 1, 0.5])
    b.node(mesh=2)
    b.node(mesh=0, translation=[-1, 0, 0.5])
    position = b.accessor(wave(5, 3))
    corners = b.accessor([0, 1, 2, 2, 3, 4], "H")
    b.mesh({"attributes": {"POSITION": position}, "indices": corners}, name="plain")
    # Positions and colours take turns.
    rows = np.concatenate([wave(6, 3), wave(6, 3)[::-1]], axis=1).astype("<f4")
    view = b.view(rows.tobytes(), byteStride=24)
    attributes = {
        "POSITION": b.accessor(wave(6, 3), view=view),
        "COLOR_0": b.accessor(wave(6, 3), view=view, byteOffset=12),
    }
    b.mesh({"attributes": attributes, "mode": 4}, {"attributes": {"POSITION": position}, "indices": corners})
    uvs = b.accessor(wave(5, 2))
    image = b.view(png(4, 6))
    b.json |= {
        "materials": [
            {"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}},
            {"pbrMetallicRoughness": {"baseColorFactor": [0.2, 0.4, 0.6, 1]}},
        ],
        "textures": [{"source": 0}],
        "images": [{"bufferView": image, "mimeType": "image/png"}],
    }
    textured = {"attributes": {"POSITION": position, "TEXCOORD_0": uvs}}
    b.mesh(
        {**textured, "indices": b.accessor([4, 1, 0], "B"), "material": 0},
        {**textured, "indices": b.accessor([0, 3, 2], "I"), "material": 1},
        name="painted",
    )
    return b.glb()


def painted() -> bytes:
    """Two meshes with images of different sizes."""
    b = Builder()
    b.json["scenes"] = [{"nodes": [0]}, {"nodes": [1, 0]}]
    b.json["scene"] = 1
    b.node(mesh=0, scale=[2, 2, 2])
    b.node(mesh=1)
    for size in (4, 6), (3, 2):
        b.json.setdefault("images", []).append({"bufferView": b.view(png(*size)), "mimeType": "image/png"})
    b.json["textures"] = [{"source": 1}, {"source": 0}]
    b.json["materials"] = [{"pbrMetallicRoughness": {"baseColorTexture": {"index": i}}} for i in (0, 1)]
    for i in (0, 1):
        attributes = {"POSITION": b.accessor(wave(4, 3) + i), "TEXCOORD_0": b.accessor(wave(4, 2))}
        b.mesh({"attributes": attributes, "indices": b.accessor([0, 1, 2, 3, 2, i], "H"), "material": i})
    return b.glb()


def record(library: str, folder: Path) -> dict[str, Any]:
    """Everything that is compared, by name."""
    files = importlib.import_module(f"{library}.io")
    gltf = importlib.import_module(f"{library}.io.experimental_gltf_io")
    formats = files.IO()
    formats.register_meshes_format(gltf.MeshGlbFormat())
    found: dict[str, Any] = {}
    for name, content in ("many", many()), ("painted", painted()):
        (folder / f"{name}.glb").write_bytes(content)
        meshes = gltf.load_meshes(str(folder / f"{name}.glb"), path_manager=formats.path_manager)
        for i, (label, mesh) in enumerate(meshes):
            found |= {f"{name} {i} {label} {key}": value for key, value in describe(mesh).items()}
    shape = formats.load_mesh(folder / "many.glb", include_textures=False)
    found |= {f"shape {key}": value for key, value in describe(shape).items()}
    joined = formats.load_mesh(folder / "painted.glb")
    found |= {f"joined {key}": value for key, value in describe(joined).items()}
    return {name: np.asarray(value) for name, value in found.items()}


def describe(mesh: Any) -> dict[str, Any]:
    """The numbers of a mesh."""
    found = {"verts": mesh.verts_packed(), "faces": mesh.faces_packed(), "textures": type(mesh.textures).__name__}
    if hasattr(mesh.textures, "verts_features_packed"):
        found["colors"] = mesh.textures.verts_features_packed()
    elif mesh.textures is not None:
        found |= {"map": mesh.textures.maps_padded()[0], "uvs": mesh.textures.verts_uvs_padded()[0]}
        found["faces_uvs"] = mesh.textures.faces_uvs_padded()[0]
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        np.savez_compressed(Path(__file__).with_name("gltf.npz"), **record("pytorch3d", Path(folder)))
