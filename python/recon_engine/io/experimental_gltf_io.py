"""glTF 2.0: meshes of .glb files, with colours of vertices or one image.

`IO` knows the format after `register_meshes_format(MeshGlbFormat())`. Of materials only the base colour is read.
"""

from __future__ import annotations

import json
import struct
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ._gltf_reader import BINARY_CHUNK, JSON_CHUNK, MAGIC, GltfFile
from ._gltf_reader import read_header as _read_header  # noqa: F401  # its name in PyTorch3D, whose tests call it
from .pluggable_formats import MeshFormatInterpreter, endswith
from .utils import PathOrStr, encode_png, file_name, write_file

if TYPE_CHECKING:
    from recon_engine.structures import Meshes

_TRIANGLES, _STRIP, _FAN = 4, 5, 6
_FLOAT, _UINT16, _UINT32 = 5126, 5123, 5125
_VERTICES, _INDICES = 34962, 34963  # what a buffer view is for


def load_meshes(
    path: PathOrStr, path_manager: Any = None, include_textures: bool = True
) -> list[tuple[str | None, Meshes]]:
    """The meshes of the default scene of a glTF file, one for each set of triangles, placed by their nodes.

    Args:
        path: .glb file, or .gltf file with its data embedded or beside it; or a binary file object.
        path_manager: object with `open` that interprets paths given as str; None for local files.
        include_textures: whether to read textures: the colours of vertices (`TexturesVertex`); else, where there are
            texture coordinates, the image or the constant of the base colour (`TexturesUV`).

    Returns:
        (name, mesh) pairs: the name in the file or None, and a batch of one mesh. Points and lines are left out, with a
        warning.

    Raises:
        ValueError: naming the file, where it is malformed or compressed.
    """
    from recon_engine.structures import Meshes

    file = GltfFile(path, path_manager)
    found: list[tuple[str | None, Meshes]] = []
    try:
        for mesh, matrix in file.placed_meshes():
            for primitive in mesh["primitives"]:
                mode = primitive.get("mode", _TRIANGLES)
                if mode not in (_TRIANGLES, _STRIP, _FAN):
                    warnings.warn(
                        f"{file.name}: points and lines of mesh {mesh.get('name')} are left out", stacklevel=2
                    )
                    continue
                points = file.accessor(primitive["attributes"]["POSITION"])
                faces = torch.from_numpy(_faces(file, primitive, mode, len(points), _mirrors(matrix)))
                with np.errstate(all="ignore"):  # a file may hold infinities
                    points = points.astype(np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
                    verts = torch.from_numpy(points.astype(np.float32))
                textures = _textures(file, primitive, faces) if include_textures else None
                found.append((mesh.get("name"), Meshes(verts=[verts], faces=[faces], textures=textures)))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file.name}: malformed glTF, {type(error).__name__} {error}") from error
    return found


def _mirrors(matrix: np.ndarray) -> bool:
    x, y, z = matrix[:3, :3].T
    with np.errstate(all="ignore"):
        return bool(np.cross(x, y) @ z < 0)


def _faces(file: GltfFile, primitive: dict[str, Any], mode: int, num_verts: int, mirrored: bool) -> np.ndarray:
    """(F, 3) int64; triangles that a node mirrors are turned round, as the format says."""
    if "indices" in primitive:
        index = file.accessor(primitive["indices"]).reshape(-1)
        if index.dtype.kind != "u":
            raise ValueError(f"{file.name}: expected unsigned integers as indices, got {index.dtype}")
        index = index.astype(np.int64)
    else:
        index = np.arange(num_verts)
    if len(index) and (index.max() >= num_verts or index.min() < 0):
        raise ValueError(f"{file.name}: a face has vertex index {index.max()} but there are {num_verts} vertices")
    if mode == _TRIANGLES:
        if len(index) % 3:
            raise ValueError(f"{file.name}: expected three indices for each triangle, got {len(index)} in all")
        faces = index.reshape(-1, 3)
    else:
        i = np.arange(max(len(index) - 2, 0))
        odd = i % 2
        corners = [i, i + 1 + odd, i + 2 - odd] if mode == _STRIP else [i + 1, i + 2, np.zeros_like(i)]
        faces = index[np.stack(corners, axis=1)]
    return np.ascontiguousarray(faces[:, ::-1]) if mirrored else faces


def _textures(file: GltfFile, primitive: dict[str, Any], faces: Tensor) -> Any:
    from recon_engine.renderer.mesh.textures import TexturesUV, TexturesVertex

    attributes = primitive["attributes"]
    if "COLOR_0" in attributes:
        return TexturesVertex([torch.from_numpy(file.accessor(attributes["COLOR_0"]).astype(np.float32))])
    material = file.entry("materials", primitive["material"]) if "material" in primitive else {}
    color = material.get("pbrMetallicRoughness", {})
    texture = color.get("baseColorTexture", {})
    coordinates = f"TEXCOORD_{texture.get('texCoord', 0)}"
    if coordinates not in attributes:
        return None
    uvs = file.accessor(attributes[coordinates]).astype(np.float32)
    uvs[:, 1] = 1.0 - uvs[:, 1]  # v points down in the file
    if texture:
        image = file.image(file.entry("textures", texture["index"])["source"])
    else:
        image = torch.tensor(color.get("baseColorFactor", [1.0] * 4), dtype=torch.float32)[None, None, :3]
    return TexturesUV(maps=[image], faces_uvs=[faces], verts_uvs=[torch.from_numpy(uvs)])


class MeshGlbFormat(MeshFormatInterpreter):
    """GLB meshes for `IO`: colours of vertices (`TexturesVertex`) or one image (`TexturesUV`).

    All meshes of a scene become one; `load_meshes` gives them one by one.
    """

    def __init__(self) -> None:
        self.known_suffixes = (".glb",)

    def read(
        self, path: PathOrStr, include_textures: bool, device: torch.device | str, path_manager: Any, **kwargs: Any
    ) -> Meshes | None:
        """The mesh of the default scene, or None if `path` does not end in .glb.

        Raises:
            ValueError: as `load_meshes`; if there are no triangles, or some have textures of another kind than others.
        """
        from recon_engine.structures import join_meshes_as_scene

        if not endswith(path, self.known_suffixes):
            return None
        meshes = [mesh for _, mesh in load_meshes(path, path_manager, include_textures)]
        if not meshes:
            raise ValueError(f"{file_name(path)}: expected meshes in the default scene, found none")
        kinds = {type(mesh.textures).__name__ if mesh.textures is not None else "none" for mesh in meshes}
        if len(kinds) > 1:
            raise ValueError(
                f"{file_name(path)}: its meshes have textures of different kinds ({', '.join(sorted(kinds))}), which "
                "cannot be joined; load_meshes gives them one by one, include_textures=False leaves textures out"
            )
        return join_meshes_as_scene(meshes).to(device)

    def save(self, data: Meshes, path: PathOrStr, path_manager: Any, binary: bool | None, **kwargs: Any) -> bool:
        """Writes the mesh with the colours of its vertices or its image; False if `path` does not end in .glb.

        A vertex that has several texture coordinates is written once for each.

        Args:
            data: batch of one mesh.
            path: file to write.
            path_manager: opens `path`.
            binary: the format is always binary.
            **kwargs: ignored.

        Raises:
            ValueError: if the mesh has no vertices or no faces, which the format cannot express.
        """
        if not endswith(path, self.known_suffixes):
            return False
        if len(data) != 1 or not len(data.verts_packed()) or not len(data.faces_packed()):
            raise ValueError(
                f"{file_name(path)}: invalid mesh to save, verts or face indices are empty: expected one mesh with "
                f"faces, got {len(data)} with {len(data.verts_packed())} vertices and {len(data.faces_packed())} faces"
            )
        write_file(path, _encode(data), path_manager)
        return True


class _Writer:
    """Collects the parts of a GLB file."""

    def __init__(self) -> None:
        self.binary = b""
        self.json: dict[str, Any] = {
            "asset": {"version": "2.0", "generator": "recon_engine"},
            "scene": 0,
            "scenes": [{"nodes": [0]}],
            "nodes": [{"name": "Node", "mesh": 0}],
            "accessors": [],
            "bufferViews": [],
        }

    def view(self, data: bytes, **properties: Any) -> int:
        """Adds bytes, which start at a multiple of 4, and returns the number of their view."""
        view = {"buffer": 0, "byteOffset": len(self.binary), "byteLength": len(data), **properties}
        self.json["bufferViews"].append(view)
        self.binary += data + b"\0" * (-len(data) % 4)
        return len(self.json["bufferViews"]) - 1

    def accessor(self, rows: np.ndarray, component: int, target: int) -> int:
        """Adds rows (count, components) and returns the number of their accessor."""
        accessor = {
            "bufferView": self.view(rows.tobytes(), target=target),
            "componentType": component,
            "count": len(rows),
            "type": "SCALAR" if rows.shape[1] == 1 else f"VEC{rows.shape[1]}",
            "min": rows.min(axis=0).tolist(),
            "max": rows.max(axis=0).tolist(),
        }
        self.json["accessors"].append(accessor)
        return len(self.json["accessors"]) - 1

    def file(self) -> bytes:
        """The file: a header and two chunks."""
        self.json["buffers"] = [{"byteLength": len(self.binary)}]
        text = json.dumps(self.json, allow_nan=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)
        chunks = b"".join(
            struct.pack("<I4s", len(chunk), kind) + chunk
            for kind, chunk in ((JSON_CHUNK, text), (BINARY_CHUNK, self.binary))
        )
        return MAGIC + struct.pack("<II", 2, 12 + len(chunks)) + chunks


def _encode(data: Meshes) -> bytes:
    """The bytes of a GLB file of one mesh."""
    from recon_engine.renderer.mesh.textures import TexturesUV, TexturesVertex

    verts, faces = (values.detach().cpu().numpy() for values in (data.verts_packed(), data.faces_packed()))
    textures, uvs, image, colors = data.textures, None, None, None
    if isinstance(textures, TexturesVertex) and textures.verts_features_packed().shape[1] in (3, 4):
        colors = textures.verts_features_packed().detach().cpu().numpy()
    elif isinstance(textures, TexturesUV) and textures.maps_padded().shape[-1] == 3 and not textures.maps_ids_list():
        image = encode_png(textures.maps_list()[0].detach().cpu().numpy())
        verts, faces, uvs = _one_uv_for_each_vertex(verts, faces, textures)
    elif textures is not None:
        expected = "3 or 4 colors for each vertex or one RGB map"
        warnings.warn(f"Texture will not be saved: expected {expected}, got {type(textures).__name__}.", stacklevel=4)

    if not np.isfinite(verts).all():
        raise ValueError("MeshGlbFormat.save: expected finite vertices, got infinity or NaN")
    writer = _Writer()
    small = len(verts) < 2**16  # the largest number of a type marks the end of a strip
    attributes = {"POSITION": writer.accessor(verts.astype("<f4"), _FLOAT, _VERTICES)}
    index = faces.reshape(-1, 1).astype("<u2" if small else "<u4")
    primitive = {
        "attributes": attributes,
        "indices": writer.accessor(index, _UINT16 if small else _UINT32, _INDICES),
        "mode": _TRIANGLES,
    }
    writer.json["meshes"] = [{"name": "Node-Mesh", "primitives": [primitive]}]
    if colors is not None:
        attributes["COLOR_0"] = writer.accessor(colors.astype("<f4"), _FLOAT, _VERTICES)
    if uvs is not None and image is not None:
        attributes["TEXCOORD_0"] = writer.accessor(uvs, _FLOAT, _VERTICES)
        look = {"baseColorTexture": {"index": 0}, "metallicFactor": 0.0, "roughnessFactor": 0.99}
        primitive["material"] = 0
        writer.json |= {
            "materials": [{"name": "material_1", "pbrMetallicRoughness": look}],
            "textures": [{"sampler": 0, "source": 0}],
            # Linear, with mipmaps from afar; repeated.
            "samplers": [{"magFilter": 9729, "minFilter": 9987, "wrapS": 10497, "wrapT": 10497}],
            "images": [{"name": "texture", "mimeType": "image/png", "bufferView": writer.view(image)}],
        }
    return writer.file()


def _one_uv_for_each_vertex(
    verts: np.ndarray, faces: np.ndarray, textures: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices, faces and texture coordinates with the same numbering; v points down, as the format has it."""
    uvs = textures.verts_uvs_list()[0].detach().cpu().numpy()
    faces_uvs = textures.faces_uvs_list()[0].detach().cpu().numpy()
    if len(uvs) != len(verts) or not np.array_equal(faces, faces_uvs):
        pairs = np.stack([faces, faces_uvs], axis=-1).reshape(-1, 2)
        pairs, index = np.unique(pairs, axis=0, return_inverse=True)
        verts, uvs, faces = verts[pairs[:, 0]], uvs[pairs[:, 1]], index.reshape(-1, 3)
    return verts, faces, np.stack([uvs[:, 0], 1.0 - uvs[:, 1]], axis=1).astype("<f4")
