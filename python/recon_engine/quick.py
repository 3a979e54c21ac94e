"""One line from a file to a mesh, and one from a mesh to a picture."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from recon_engine.structures import Meshes

_CLAY = (0.80, 0.77, 0.72)  # of surfaces without a texture
_FOV = 30.0  # degrees
_MARGIN = 1.05
SUPERSAMPLE = 2


def load(path: Path | str, device: torch.device | str = "cpu") -> Meshes:
    """One mesh of a file of any format that trimesh reads, with its texture or its vertex colours.

    OBJ files need no trimesh. The parts of a scene (glTF) are joined in one mesh.

    Args:
        path: the file.
        device: where the mesh is put.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a format that is not known, a malformed file, or one without faces.
        ImportError: trimesh is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"the file {path} does not exist")
    mesh = _load_obj(path, device) if path.suffix.lower() == ".obj" else _load_other(path, device)
    if not len(mesh.faces_packed()):
        raise ValueError(f"the file {path} has {len(mesh.verts_packed())} vertices but no faces: a mesh is needed")
    return mesh


def render(
    mesh: Meshes | Path | str | Sequence[Tensor],
    *,
    size: int | tuple[int, int] = 512,
    elevation: float = 20.0,
    azimuth: float = 30.0,
    distance: float | None = None,
    shader: Literal["phong", "flat"] = "phong",
) -> Tensor:
    """A picture of a mesh: the camera sees all of it, and the light comes from the camera's upper left.

    Args:
        mesh: a batch of one, a file, or vertices (V, 3) and faces (F, 3).
        size: side of a square picture in pixels, or (H, W).
        elevation: of the camera, in degrees above the xz plane.
        azimuth: of the camera, in degrees around the y axis; 0 looks along -z.
        distance: of the camera from the middle of the mesh. Default: so that the mesh fills the picture.
        shader: `phong` lights every pixel with interpolated normals, `flat` shows the faces.

    Returns:
        (H, W, 4), colours and straight alpha from 0 to 1. Its gradient in the vertices is that of the surface's
        shading; edges of the outline have none.

    Raises:
        ValueError: not exactly one mesh, no faces, or an option out of its range.
    """
    from recon_engine import renderer

    shaders: dict[str, Any] = {"phong": renderer.HardPhongShader, "flat": renderer.HardFlatShader}
    if shader not in shaders:
        raise ValueError(f"shader must be one of {', '.join(shaders)}, got {shader!r}")
    H, W = (size, size) if isinstance(size, int) else size
    if min(H, W) < 1:
        raise ValueError(f"size must be 1 or more, got {size}")
    mesh = _with_texture(_as_meshes(mesh))
    low, high = mesh.get_bounding_boxes()[0].detach().unbind(1)
    center = (low + high) / 2
    radius = float((mesh.verts_packed().detach() - center).norm(dim=1).max().clamp(min=1e-12))
    if distance is None:
        distance = _MARGIN * radius / float(np.sin(np.radians(_FOV / 2)))  # the fov is of the shorter side
    if not distance > 0:
        raise ValueError(f"distance must be above 0, got {distance}")
    R, T = renderer.look_at_view_transform(distance, elevation, azimuth, at=center[None].float(), device=mesh.device)
    R, T = R.to(center.dtype), T.to(center.dtype)
    near = max(distance - 1.01 * radius, 1e-3 * distance)
    cameras = renderer.FoVPerspectiveCameras(
        R=R, T=T, fov=_FOV, znear=near, zfar=distance + 2 * radius, device=mesh.device
    )
    right, up, _ = R.unbind(2)
    lights = renderer.PointLights(
        location=cameras.get_camera_center() + distance * (0.45 * right + 0.6 * up),
        ambient_color=((0.42, 0.42, 0.44),),
        diffuse_color=((0.62, 0.61, 0.58),),
        specular_color=((0.04, 0.04, 0.04),),
        device=mesh.device,
    )
    settings = renderer.RasterizationSettings(
        image_size=(H * SUPERSAMPLE, W * SUPERSAMPLE), blur_radius=0.0, faces_per_pixel=1
    )
    draw = renderer.MeshRenderer(
        renderer.MeshRasterizer(cameras, settings),
        shaders[shader](
            device=mesh.device,
            cameras=cameras,
            lights=lights,
            materials=renderer.Materials(shininess=16.0, device=mesh.device),
            blend_params=renderer.BlendParams(background_color=(0.0, 0.0, 0.0)),
        ),
    )
    return shrink(draw(mesh))[0]


def _load_obj(path: Path, device: torch.device | str) -> Meshes:
    import warnings

    from recon_engine.io import load_objs_as_meshes

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of materials that are not there: the mesh is clay then
        return load_objs_as_meshes([str(path)], device=device)


def _load_other(path: Path, device: torch.device | str) -> Meshes:
    trimesh = _extra("trimesh")
    try:
        mesh = trimesh.load(str(path), force="mesh", process=False)
    except (ValueError, KeyError, IndexError, NotImplementedError) as error:
        raise ValueError(f"the file {path} cannot be read: {error}") from error
    verts = torch.tensor(np.asarray(mesh.vertices), dtype=torch.float32, device=device)
    faces = torch.tensor(np.asarray(mesh.faces), dtype=torch.int64, device=device).reshape(-1, 3)
    return Meshes(verts=[verts], faces=[faces], textures=_textures(mesh, faces))


def _textures(mesh: Any, faces: Tensor) -> Any:
    """The texture of trimesh's mesh; None where it has none."""
    from recon_engine.renderer.mesh.textures import TexturesUV, TexturesVertex

    visual = mesh.visual
    if visual.kind == "texture" and visual.uv is not None:
        material = visual.material
        image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
        if image is not None:
            texels = torch.tensor(np.asarray(image.convert("RGB")), dtype=torch.float32, device=faces.device) / 255
            uvs = torch.tensor(np.asarray(visual.uv), dtype=torch.float32, device=faces.device)
            return TexturesUV(maps=texels[None], faces_uvs=[faces], verts_uvs=[uvs])
        visual = visual.to_color()
    if visual.kind is None:
        return None
    colors = np.array(visual.vertex_colors, np.float32)[:, :3] / 255
    return TexturesVertex([torch.from_numpy(colors).to(faces.device)])


def _as_meshes(mesh: Meshes | Path | str | Sequence[Tensor]) -> Meshes:
    """One mesh with faces."""
    if isinstance(mesh, (str, Path)):
        return load(mesh)
    if not isinstance(mesh, Meshes):
        if not isinstance(mesh, (tuple, list)) or len(mesh) != 2:
            raise ValueError(f"mesh must be a Meshes, a path, or (verts, faces), got {type(mesh).__name__}")
        mesh = Meshes(verts=[mesh[0]], faces=[mesh[1]])
    if len(mesh) != 1 or not len(mesh.faces_packed()):
        raise ValueError(f"mesh must be one mesh with faces, got {len(mesh)} with {len(mesh.faces_packed())} faces")
    return mesh


def _with_texture(mesh: Meshes) -> Meshes:
    if mesh.textures is not None:
        return mesh
    from recon_engine.renderer.mesh.textures import TexturesVertex

    verts = mesh.verts_packed()
    mesh = mesh.clone()
    mesh.textures = TexturesVertex([torch.tensor(_CLAY, dtype=verts.dtype, device=verts.device).expand(len(verts), 3)])
    return mesh


def shrink(rgba: Tensor) -> Tensor:
    """(N, H, W, 4): averages of blocks of supersampled pixels, colours weighted by alpha."""
    alpha = rgba[..., 3:].clamp(0, 1)
    premultiplied = torch.cat([rgba[..., :3].clamp(0, 1) * alpha, alpha], -1).permute(0, 3, 1, 2)
    small = torch.nn.functional.avg_pool2d(premultiplied, SUPERSAMPLE).permute(0, 2, 3, 1)
    return torch.cat([small[..., :3] / small[..., 3:].clamp(min=1e-6), small[..., 3:]], -1)


def _extra(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'{module} is missing: pip install "recon_engine[io]"') from error
