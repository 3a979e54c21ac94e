"""Materials of OBJ files: MTL files, their texture images, and texture atlases made of them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .utils import LocalPaths, file_name, read_file, read_image

MaterialProperties = dict[str, dict[str, Tensor]]
TextureFiles = dict[str, str]
TextureImages = dict[str, Tensor]

_PROPERTIES = {"Ka": "ambient_color", "Kd": "diffuse_color", "Ks": "specular_color", "Ns": "shininess"}
# How many arguments an option before the file name of a map may take: at least, at most (the last ones are numbers).
_MAP_OPTIONS = {
    **dict.fromkeys(["-blendu", "-blendv", "-cc", "-clamp", "-imfchan", "-type", "-boost", "-bm", "-texres"], (1, 1)),
    **dict.fromkeys(["-o", "-s", "-t"], (1, 3)),
    "-mm": (2, 2),
}


def load_mtl(
    f: Any,
    *,
    material_names: Sequence[str],
    data_dir: str,
    device: torch.device | str = "cpu",
    path_manager: Any = None,
) -> tuple[MaterialProperties, TextureImages]:
    """The reflectivities and diffuse texture images of the named materials.

    Args:
        f: path or file object of an MTL file.
        material_names: the materials wanted. If empty, the file must have one material, which is then taken.
        data_dir: folder that the names of texture images are relative to.
        device: where the tensors are put.
        path_manager: opens the paths; None for local files.

    Returns:
        material_properties: for each name that the file has, a dict with any of `ambient_color`, `diffuse_color`,
            `specular_color`, each (3,), and `shininess`, (1,), float32.
        texture_images: for each name with a diffuse map, (H, W, 3) float32 in [0, 1]; the first row is the top.

    A missing image file is a warning. A file that is no image is a `ValueError`.
    """
    properties, texture_files = _parse_mtl(f, path_manager, device)
    return _load_texture_images(material_names, data_dir, properties, texture_files, path_manager, device)


def _parse_mtl(
    f: Any, path_manager: Any = None, device: torch.device | str = "cpu"
) -> tuple[MaterialProperties, TextureFiles]:
    """All reflectivities and names of diffuse maps of an MTL file, by material."""
    properties: MaterialProperties = {}
    texture_files: TextureFiles = {}
    material = None
    content = read_file(f, path_manager)
    if b"\0" in content:
        raise ValueError(f"{file_name(f)}: expected MTL text, got binary data")
    for number, line in enumerate(content.decode("utf-8", "surrogateescape").splitlines(), start=1):
        keyword, arguments, *_ = [*line.strip().split(None, 1), "", ""]
        where = f"{file_name(f)}, line {number}"
        if keyword == "newmtl":
            material = arguments.split(" #")[0].strip()
            if not material:
                raise ValueError(f"{where}: expected the name of a material after 'newmtl'")
            properties[material] = {}
        elif keyword in _PROPERTIES or keyword == "map_Kd":
            if material is None:
                raise ValueError(f"{where}: expected 'newmtl NAME' before {keyword!r}")
            if keyword == "map_Kd":
                texture_files[material] = _map_file(arguments, where)
            else:
                values = _numbers(arguments.split("#")[0].split(), 1 if keyword == "Ns" else 3, keyword, where)
                properties[material][_PROPERTIES[keyword]] = torch.tensor(values, dtype=torch.float32, device=device)
    return properties, texture_files


def _numbers(words: list[str], count: int, keyword: str, where: str) -> list[float]:
    """`count` numbers; one alone stands for all of them, as the format says."""
    try:
        values = [float(word) for word in words[:count]]
    except ValueError:
        values = []
    if len(values) not in (1, count):
        raise ValueError(
            f"{where}: expected {count} number{'s' * (count > 1)} after {keyword!r}, got {' '.join(words)!r}"
        )
    return values * count if len(values) == 1 else values


def _map_file(arguments: str, where: str) -> str:
    """The file name behind the options of a map; it may have spaces in it."""
    rest = arguments
    while (words := rest.split(None, 1)) and words[0] in _MAP_OPTIONS:
        least, most = _MAP_OPTIONS[words[0]]
        rest = words[1] if len(words) > 1 else ""
        for taken in range(most):
            head, *tail = rest.split(None, 1) or [""]
            if taken >= least and not _is_number(head):
                break
            rest = tail[0] if tail else ""
    if not rest:
        raise ValueError(f"{where}: expected the name of an image file after 'map_Kd', got {arguments!r}")
    return rest


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _load_texture_images(
    material_names: Sequence[str],
    data_dir: str,
    material_properties: MaterialProperties,
    texture_files: TextureFiles,
    path_manager: Any = None,
    device: torch.device | str = "cpu",
) -> tuple[MaterialProperties, TextureImages]:
    """The part of an MTL file that `material_names` need, with the images loaded."""
    names = list(material_names)
    if not names and material_properties:
        if len(material_properties) > 1:
            raise ValueError(
                "Multiple materials but no usemtl declarations in the obj file: "
                f"cannot tell which of {', '.join(material_properties)} to use"
            )
        names = list(material_properties)

    paths = LocalPaths() if path_manager is None else path_manager
    images: TextureImages = {}
    loaded: dict[str, Tensor] = {}
    for name in names:
        if name not in texture_files:
            continue
        path = os.path.join(data_dir, texture_files[name])
        if not paths.exists(path) and paths.exists(path.replace("\\", "/")):  # written on Windows
            path = path.replace("\\", "/")
        if not paths.exists(path):
            warnings.warn(f"Texture file does not exist: {path}", stacklevel=2)
            continue
        if path not in loaded:
            loaded[path] = torch.from_numpy(read_image(path, path_manager) / np.float32(255.0)).to(device)
        images[name] = loaded[path]
    return {name: material_properties[name] for name in names if name in material_properties}, images


def make_mesh_texture_atlas(
    material_properties: MaterialProperties | None,
    texture_images: TextureImages | None,
    face_material_names: np.ndarray,
    faces_uvs: Tensor,
    verts_uvs: Tensor,
    texture_size: int,
    texture_wrap: str | None,
) -> Tensor:
    """A small square texture for every face, as Soft Rasterizer lays it out.

    A face is white; with a material that has a diffuse colour, of that colour; with one that has an image (and texture
    coordinates on the face), filled from the image with bilinear interpolation at the centroids of
    `texture_size ** 2` equal triangles.

    Args:
        material_properties: as `load_mtl` returns it.
        texture_images: as `load_mtl` returns it.
        face_material_names: (F,) array of str, empty where a face has no material.
        faces_uvs: (F, 3) int64 index into `verts_uvs`, -1 for none.
        verts_uvs: (T, 2) texture coordinates; v points up.
        texture_size: R.
        texture_wrap: for coordinates outside [0, 1]: "repeat" the image, "clamp" to its border, or None to read zeros
            there. Repeating is done after interpolation, so that a face may cross the border of the image.

    Returns:
        (F, R, R, 3) float32 colours. Texel [y, x] is triangle 0 of Soft Rasterizer's cell (x, y) where x + y < R, else
        the mirrored one.

    Differentiable in `verts_uvs` and the images.

    References:
        Liu et al., Soft Rasterizer: A Differentiable Renderer for Image-based 3D Reasoning, ICCV 2019.
    """
    if texture_wrap not in ("repeat", "clamp", None):
        raise ValueError(f"texture_wrap must be one of ['repeat', 'clamp'] or None, got {texture_wrap}")
    device, R = faces_uvs.device, texture_size
    atlas = torch.ones(faces_uvs.shape[0], R, R, 3, dtype=torch.float32, device=device)
    if not material_properties and not texture_images:
        return atlas

    names, inverse = np.unique(face_material_names, return_inverse=True)
    name_of_face = torch.from_numpy(inverse.reshape(-1)).to(device)
    index_of = {str(name): i for i, name in enumerate(names)}
    for name, properties in (material_properties or {}).items():
        if name in index_of and "diffuse_color" in properties:
            atlas[name_of_face == index_of[name]] = properties["diffuse_color"].to(atlas)

    has_uvs = (faces_uvs >= 0).all(dim=1)
    if not len(verts_uvs) or not texture_images or not has_uvs.any():
        return atlas
    corner_uvs = verts_uvs[faces_uvs]
    outside = (corner_uvs[has_uvs] > 1).any() or (corner_uvs[has_uvs] < 0).any()
    if texture_wrap == "repeat" and outside:
        warnings.warn(
            "Texture UV coordinates outside the range [0, 1]. "
            "The integer part will be ignored to form a repeating pattern.",
            stacklevel=2,
        )
    elif texture_wrap == "clamp":
        corner_uvs = corner_uvs.clamp(0.0, 1.0)
    for name, image in texture_images.items():
        chosen = has_uvs & (name_of_face == index_of.get(name, -1))
        if chosen.any():
            uvs = texel_uvs(corner_uvs[chosen], R)
            atlas[chosen] = _bilinear_interpolation_grid_sample(
                image[..., :3].flip(0).to(uvs), uvs % 1 if texture_wrap == "repeat" and outside else uvs
            )
    return atlas


def make_material_atlas(image: Tensor, faces_verts_uvs: Tensor, texture_size: int) -> Tensor:
    """The atlas of faces that all use one image.

    Args:
        image: (H, W, C); the first row is v = 0.
        faces_verts_uvs: (F, 3, 2) texture coordinates in [0, 1] of the corners of each face.
        texture_size: R.

    Returns:
        (F, R, R, C) as `make_mesh_texture_atlas`. Differentiable in both tensors.
    """
    return _bilinear_interpolation_grid_sample(image, texel_uvs(faces_verts_uvs, texture_size))


def texel_uvs(faces_verts_uvs: Tensor, texture_size: int) -> Tensor:
    """Where the texels of each face lie in its image.

    With barycentric weights w0 along x and w1 along y, the triangle splits into R^2 equal ones. Cell (x, y) of the
    square with x + y < R holds the one with centroid (x + 1/3, y + 1/3) / R, other cells the one that remains at the
    mirrored place, (R - 1 - x + 2/3, R - 1 - y + 2/3) / R.

    Args:
        faces_verts_uvs: (F, 3, 2).
        texture_size: R.

    Returns:
        (F, R, R, 2), indexed [face, y, x].
    """
    R = texture_size
    x = torch.arange(R, dtype=faces_verts_uvs.dtype, device=faces_verts_uvs.device)
    grid = torch.stack(torch.meshgrid(x, x, indexing="xy"), dim=-1)
    lower = grid.sum(-1, keepdim=True) < R
    weights = torch.where(lower, (grid + 1.0 / 3.0) / R, ((R - 1.0 - grid) + 2.0 / 3.0) / R)
    weights = torch.cat([weights, 1 - weights.sum(-1, keepdim=True)], dim=-1)
    return (faces_verts_uvs[:, None, None] * weights[..., None]).sum(-2)


def _bilinear_interpolation_grid_sample(image: Tensor, grid: Tensor) -> Tensor:
    """Bilinear values of `image` (H, W, C; first row v = 0, last row v = 1) at `grid` (F, R, R, 2) in [0, 1]."""
    count, R = grid.shape[:2]
    places = (grid * 2.0 - 1.0).reshape(1, count * R, R, 2)
    values = F.grid_sample(image.permute(2, 0, 1)[None], places, mode="bilinear", align_corners=True)
    return values[0].permute(1, 2, 0).reshape(count, R, R, image.shape[-1])


_bilinear_interpolation_vectorized = _bilinear_interpolation_grid_sample  # PyTorch3D has two ways to the same values
