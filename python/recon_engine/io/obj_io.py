"""Wavefront OBJ: triangle meshes with normals, texture coordinates, materials and texture images."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ._numbers import cast, format_rows
from ._obj_parser import parse_obj
from .mtl_io import MaterialProperties, TextureImages, load_mtl, make_mesh_texture_atlas
from .pluggable_formats import MeshFormatInterpreter, endswith
from .utils import LocalPaths, PathOrStr, encode_png, file_name, is_path, read_file, write_file

if TYPE_CHECKING:
    from recon_engine.structures import Meshes


class Faces(NamedTuple):
    """Indices of the triangles of an OBJ file, int64, 0-based.

    Attributes:
        verts_idx: (F, 3) vertices.
        normals_idx: (F, 3) rows of `Properties.normals`; -1 where a face has none.
        textures_idx: (F, 3) rows of `Properties.verts_uvs`; -1 where a face has none.
        materials_idx: (F,) number of the material in the order of first use; -1 where a face has none.
    """

    verts_idx: Tensor
    normals_idx: Tensor
    textures_idx: Tensor
    materials_idx: Tensor


class Properties(NamedTuple):
    """What an OBJ file and its materials say beside vertices and faces.

    Attributes:
        normals: (N, 3) float32, or None.
        verts_uvs: (T, 2) float32 texture coordinates, or None. There may be more of them than vertices.
        material_colors: reflectivities of each material (see `load_mtl`), or None if not loaded.
        texture_images: (H, W, 3) float32 image in [0, 1] of each material that has one, or None if not loaded.
        texture_atlas: (F, R, R, 3) float32, or None if not asked for.
    """

    normals: Tensor | None
    verts_uvs: Tensor | None
    material_colors: MaterialProperties | None
    texture_images: TextureImages | None
    texture_atlas: Tensor | None


def load_obj(
    f: Any,
    load_textures: bool = True,
    create_texture_atlas: bool = False,
    texture_atlas_size: int = 4,
    texture_wrap: str | None = "repeat",
    device: torch.device | str = "cpu",
    path_manager: Any = None,
) -> tuple[Tensor, Faces, Properties]:
    """The vertices, faces and properties of an OBJ file.

    Polygons become fans of triangles around their first corner. Corners may be `v`, `v/vt`, `v//vn`, `v/vt/vn`, with
    indices from 1 or negative, counted back from the line of the face. Lines may end in LF, CRLF or CR and continue
    with a backslash. Material files and images are looked for in the folder of the OBJ file; missing ones are a
    warning.

    Args:
        f: path, or file object (its materials are looked for in the current folder).
        load_textures: whether to read material files and images.
        create_texture_atlas: whether to make `Properties.texture_atlas` (see `make_mesh_texture_atlas`).
        texture_atlas_size: R, texels on a side of each face's square.
        texture_wrap: "repeat", "clamp" or None: coordinates outside [0, 1] in the atlas.
        device: where the tensors are put.
        path_manager: object with `open` and `exists` that interprets paths given as str; None for local files.

    Returns:
        verts: (V, 3) float32.
        faces: `Faces`.
        aux: `Properties`.

    Raises:
        ValueError: naming file and line, where the file is malformed or an index is out of range.
    """
    if texture_wrap not in ("repeat", "clamp", None):
        raise ValueError(f"texture_wrap must be one of ['repeat', 'clamp'] or None, got {texture_wrap}")
    content = parse_obj(read_file(f, path_manager), file_name(f))
    data_dir = os.path.dirname(os.fsdecode(f)) if is_path(f) else ""

    verts, normals, verts_uvs = (
        torch.from_numpy(cast(values, np.float32)).to(device)
        for values in (content.verts, content.normals, content.verts_uvs)
    )
    indices = (content.faces_verts, content.faces_normals, content.faces_uvs, content.faces_materials)
    faces = Faces(*(torch.from_numpy(index).to(device) for index in indices))

    colors: MaterialProperties | None = None
    images: TextureImages | None = None
    if load_textures:
        colors, images = _load_materials(content.material_files, content.material_names, data_dir, device, path_manager)
    material_names = list(content.material_names)
    if colors and not material_names:  # the file has one material and no usemtl: all faces have it
        material_names = list(colors)
        faces.materials_idx.clamp_(min=0)

    atlas = None
    if create_texture_atlas:
        name_of_face = np.array(["", *material_names])[faces.materials_idx.cpu().numpy() + 1]
        atlas = make_mesh_texture_atlas(
            colors, images, name_of_face, faces.textures_idx, verts_uvs, texture_atlas_size, texture_wrap
        )
    aux = Properties(
        normals=normals if len(normals) else None,
        verts_uvs=verts_uvs if len(verts_uvs) else None,
        material_colors=colors,
        texture_images=images,
        texture_atlas=atlas,
    )
    return verts, faces, aux


def _load_materials(
    files: Sequence[str], names: Sequence[str], data_dir: str, device: torch.device | str, path_manager: Any
) -> tuple[MaterialProperties | None, TextureImages | None]:
    """The materials of all `mtllib` lines; of two with one name the first counts, as the format says."""
    if not files:
        warnings.warn("No mtl file provided", stacklevel=3)
        return None, None
    paths = LocalPaths() if path_manager is None else path_manager
    colors: MaterialProperties | None = None
    images: TextureImages | None = None
    for line in files:
        # One name that may have spaces in it, else several names.
        candidates = [os.path.join(data_dir, line)]
        if not paths.exists(candidates[0]) and len(line.split()) > 1:
            several = [os.path.join(data_dir, name) for name in line.split()]
            candidates = several if any(paths.exists(path) for path in several) else candidates
        for path in candidates:
            if not paths.exists(path):
                warnings.warn(f"Mtl file does not exist: {path}", stacklevel=3)
                continue
            wanted = [name for name in names if name not in (colors or {})]
            if colors is not None and not wanted:
                continue
            new_colors, new_images = load_mtl(
                path, material_names=wanted, data_dir=data_dir, device=device, path_manager=path_manager
            )
            colors, images = {**new_colors, **(colors or {})}, {**new_images, **(images or {})}
    if colors is None or images is None:
        return None, None
    order = {name: i for i, name in enumerate(names)}
    return (
        dict(sorted(colors.items(), key=lambda item: order.get(item[0], 0))),
        dict(sorted(images.items(), key=lambda item: order.get(item[0], 0))),
    )


def load_objs_as_meshes(
    files: Sequence[Any],
    device: torch.device | str | None = None,
    load_textures: bool = True,
    create_texture_atlas: bool = False,
    texture_atlas_size: int = 4,
    texture_wrap: str | None = "repeat",
    path_manager: Any = None,
) -> Meshes:
    """One batch of the meshes of several OBJ files, with textures.

    With `create_texture_atlas` the textures are `TexturesAtlas`; else, if a file has an image, `TexturesUV` with the
    image of its first material (a mesh with several images needs the atlas); else none. Material colours and normals
    are not kept.

    Args:
        files: paths or file objects.
        device: where the meshes are put. Default: the CPU.
        load_textures: as for `load_obj`, like the arguments below.
        create_texture_atlas: see above.
        texture_atlas_size: texels on a side of each face's square.
        texture_wrap: "repeat", "clamp" or None.
        path_manager: interprets paths given as str.

    Returns:
        Meshes, one for each file.

    Raises:
        ValueError: naming file and line, where a file is malformed; if `files` is empty.
    """
    from recon_engine.structures import Meshes, join_meshes_as_batch

    if is_path(files):
        raise TypeError(
            f"load_objs_as_meshes: files must be a list of paths, got {file_name(files)!r}; put it in a list"
        )
    meshes = []
    for f in files:
        verts, faces, aux = load_obj(
            f,
            load_textures=load_textures,
            create_texture_atlas=create_texture_atlas,
            texture_atlas_size=texture_atlas_size,
            texture_wrap=texture_wrap,
            device="cpu" if device is None else device,
            path_manager=path_manager,
        )
        meshes.append(Meshes(verts=[verts], faces=[faces.verts_idx], textures=_textures(faces, aux, file_name(f))))
    if not meshes:
        raise ValueError("load_objs_as_meshes: files must name at least one file, got none")
    return meshes[0] if len(meshes) == 1 else join_meshes_as_batch(meshes)


def _textures(faces: Faces, aux: Properties, name: str) -> Any:
    if aux.texture_atlas is None and not aux.texture_images:
        return None
    from recon_engine.renderer.mesh.textures import TexturesAtlas, TexturesUV

    if aux.texture_atlas is not None:
        return TexturesAtlas(atlas=[aux.texture_atlas])
    if aux.verts_uvs is None:
        warnings.warn(f"{name}: has a texture image but no texture coordinates; loaded without texture", stacklevel=3)
        return None
    image = next(iter((aux.texture_images or {}).values()))
    return TexturesUV(verts_uvs=[aux.verts_uvs], faces_uvs=[faces.textures_idx], maps=image[None])


def save_obj(
    f: Any,
    verts: Tensor,
    faces: Tensor,
    decimal_places: int | None = None,
    path_manager: Any = None,
    *,
    normals: Tensor | None = None,
    faces_normals_idx: Tensor | None = None,
    verts_uvs: Tensor | None = None,
    faces_uvs: Tensor | None = None,
    texture_map: Tensor | None = None,
) -> None:
    """Writes a mesh as OBJ; with a texture also `NAME.mtl` and `NAME.png` beside it.

    The texture is written when `verts_uvs`, `faces_uvs` and `texture_map` are all given. Local files are replaced only
    when they are complete, the OBJ file last.

    Args:
        f: path, or file object (then without texture).
        verts: (V, 3) coordinates.
        faces: (F, 3) indices into `verts`. Indices out of range are written, with a warning.
        decimal_places: digits behind the point; 6 by default, so scale small meshes up or raise it.
        path_manager: object with `open` that interprets paths given as str; None for local files.
        normals: (N, 3), given together with `faces_normals_idx`.
        faces_normals_idx: (F, 3) indices into `normals`.
        verts_uvs: (T, 2) texture coordinates.
        faces_uvs: (F, 3) indices into `verts_uvs`.
        texture_map: (H, W, 3) image in [0, 1], the first row on top; values outside are clamped.

    Raises:
        ValueError: where a tensor has the wrong shape, or only one of a pair is given.
    """
    if (normals is None) != (faces_normals_idx is None):
        raise ValueError("'normals' and 'faces_normals_idx' must both be None or neither.")
    verts_array = _checked("verts", verts, "(num_verts, 3)", may_be_flat=True)
    faces_array = _checked("faces", faces, "(num_faces, 3)", may_be_flat=True)
    rows = len(faces_array)
    normals_array = _checked("normals", normals, "(num_normals, 3)")
    normals_idx = _checked("faces_normals_idx", faces_normals_idx, "(num_faces, 3)", rows)
    uvs_array = _checked("verts_uvs", verts_uvs, "(num_uvs, 2)")
    uvs_idx = _checked("faces_uvs", faces_uvs, "(num_faces, 3)", rows)
    if texture_map is not None and (texture_map.dim() != 3 or texture_map.shape[2] != 3):
        raise ValueError(f"'texture_map' must have shape (H, W, 3), got {tuple(texture_map.shape)}")

    lines = []
    number = "%f" if decimal_places is None else f"%.{int(decimal_places)}f"
    save_texture = texture_map is not None and uvs_array is not None and uvs_idx is not None
    if save_texture:
        if not is_path(f):
            raise ValueError("a texture needs file names beside the OBJ file: give a path as f, got a file object")
        beside, _ = os.path.splitext(os.fsdecode(f))  # not pathlib, which shortens the // of a URL
        stem = os.path.basename(beside)
        lines.append(f"\nmtllib {stem}.mtl\nusemtl mesh\n\n")
    if not len(verts_array) and not rows:
        warnings.warn("Empty 'verts' and 'faces' arguments provided", stacklevel=2)
        write_file(f, b"# no vertices and no faces\n", path_manager)
        return
    lines.append(format_rows(f"v {number} {number} {number}\n", verts_array))
    if normals_array is not None:
        lines.append(format_rows(f"vn {number} {number} {number}\n", normals_array))
    if save_texture:
        lines.append(format_rows(f"vt {number} {number}\n", uvs_array))
    if rows and (faces_array.min() < 0 or faces_array.max() >= len(verts_array)):
        warnings.warn("Faces have invalid indices", stacklevel=2)

    corner, columns = "%d", [faces_array]
    if save_texture:
        corner, columns = corner + "/%d", [*columns, uvs_idx]
    if normals_idx is not None:
        corner, columns = corner + ("/%d" if save_texture else "//%d"), [*columns, normals_idx]
    corners = np.stack(columns, axis=-1).reshape(rows, 3 * len(columns)) + 1
    lines.append(format_rows(f"f {corner} {corner} {corner}\n", corners)[:-1])  # PyTorch3D ends without a newline

    if texture_map is not None and save_texture:
        paths = path_manager if isinstance(f, str) else None
        write_file(f"{beside}.png", encode_png(texture_map.detach().cpu().numpy()), paths)
        write_file(f"{beside}.mtl", f"newmtl mesh\nmap_Kd {stem}.png\n".encode(), paths)
    write_file(f, "".join(lines).encode(), path_manager)


def _checked(name: str, value: Any, shape: str, rows: int | None = None, may_be_flat: bool = False) -> Any:
    """`value` as a numpy array after its shape was compared with e.g. "(num_verts, 3)"; None stays None."""
    if value is None:
        return None
    if not isinstance(value, Tensor):
        raise TypeError(f"'{name}' must be a tensor of shape {shape}, got {type(value).__name__}")
    columns = int(shape.rstrip(")").split()[-1])
    if may_be_flat and not len(value):
        return np.empty((0, columns), dtype=np.int64)
    if value.dim() != 2 or value.shape[1] != columns:
        raise ValueError(f"'{name}' should either be empty or of shape {shape}. Got {tuple(value.shape)}.")
    if rows is not None and len(value) != rows:
        raise ValueError(f"'{name}' must have one row for each of the {rows} faces, got {len(value)}")
    return value.detach().cpu().numpy()


class MeshObjFormat(MeshFormatInterpreter):
    """OBJ files for `IO`."""

    def __init__(self) -> None:
        self.known_suffixes = (".obj",)

    def read(
        self,
        path: PathOrStr,
        include_textures: bool,
        device: torch.device | str,
        path_manager: Any,
        create_texture_atlas: bool = False,
        texture_atlas_size: int = 4,
        texture_wrap: str | None = "repeat",
        **kwargs: Any,
    ) -> Meshes | None:
        """As `load_objs_as_meshes` of one file; None if `path` does not end in .obj."""
        if not endswith(path, self.known_suffixes):
            return None
        return load_objs_as_meshes(
            files=[path],
            device=device,
            load_textures=include_textures,
            create_texture_atlas=create_texture_atlas,
            texture_atlas_size=texture_atlas_size,
            texture_wrap=texture_wrap,
            path_manager=path_manager,
        )

    def save(
        self,
        data: Meshes,
        path: PathOrStr,
        path_manager: Any,
        binary: bool | None,
        decimal_places: int | None = None,
        **kwargs: Any,
    ) -> bool:
        """As `save_obj`, with the texture if it is `TexturesUV`; False if `path` does not end in .obj."""
        if not endswith(path, self.known_suffixes):
            return False
        texture: dict[str, Tensor] = {}
        if data.textures is not None:
            from recon_engine.renderer.mesh.textures import TexturesUV

            if isinstance(data.textures, TexturesUV):
                texture = {
                    "verts_uvs": data.textures.verts_uvs_padded()[0],
                    "faces_uvs": data.textures.faces_uvs_padded()[0],
                    "texture_map": data.textures.maps_padded()[0],
                }
        save_obj(
            path,
            data.verts_list()[0],
            data.faces_list()[0],
            decimal_places=decimal_places,
            path_manager=path_manager,
            **texture,
        )
        return True
