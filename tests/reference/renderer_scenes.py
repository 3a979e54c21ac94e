"""Renderer computations with fixed inputs that run with any library of PyTorch3D's interface.

`record_renderer.py` runs them with PyTorch3D and keeps the results; the tests run them with recon_engine.
"""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch


def load(library: str) -> SimpleNamespace:
    """The modules of `library` ("pytorch3d" or "recon_engine") that the scenes use."""
    names = ("renderer", "structures", "transforms")
    modules = {name: importlib.import_module(f"{library}.{name}") for name in names}
    extra = ("renderer.cameras", "renderer.camera_utils", "renderer.mesh.shader", "renderer.mesh.rasterizer")
    extra += ("renderer.fisheyecameras",)
    short = ("cameras", "camera_utils", "shader", "rasterizer", "fisheye")
    modules.update({key: importlib.import_module(f"{library}.{name}") for key, name in zip(short, extra, strict=True)})
    return SimpleNamespace(**modules)


def uniform(seed: int, *shape: int, low: float = -1.0, high: float = 1.0) -> torch.Tensor:
    """Numbers that are the same in every version of every library."""
    values = np.random.RandomState(seed).uniform(low, high, size=shape)
    return torch.from_numpy(values.astype(np.float32))


def torus(R: float = 0.8, r: float = 0.35, rings: int = 10, sides: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Vertices and faces of a torus around the y axis."""
    u, v = np.meshgrid(np.arange(rings) * 2 * np.pi / rings, np.arange(sides) * 2 * np.pi / sides, indexing="ij")
    xyz = np.stack([(R + r * np.cos(v)) * np.cos(u), r * np.sin(v), (R + r * np.cos(v)) * np.sin(u)], axis=-1)
    i, j = np.meshgrid(np.arange(rings), np.arange(sides), indexing="ij")
    a, b = i * sides + j, ((i + 1) % rings) * sides + j
    c, d = ((i + 1) % rings) * sides + (j + 1) % sides, i * sides + (j + 1) % sides
    faces = np.concatenate([np.stack([a, c, b], -1).reshape(-1, 3), np.stack([a, d, c], -1).reshape(-1, 3)])
    return torch.from_numpy(xyz.reshape(-1, 3).astype(np.float32)), torch.from_numpy(faces)


def tetrahedron() -> tuple[torch.Tensor, torch.Tensor]:
    """Vertices and faces of a tetrahedron."""
    verts = torch.tensor([[1.0, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]])
    return verts, torch.tensor([[0, 1, 3], [0, 2, 1], [0, 3, 2], [1, 2, 3]])


def cameras_of(lib: SimpleNamespace, kind: str) -> Any:
    """Three cameras of a kind."""
    elev, azim = torch.tensor([10.0, -30.0, 75.0]), torch.tensor([20.0, 150.0, 0.0])
    R, T = lib.renderer.look_at_view_transform(torch.tensor([2.5, 3.0, 4.0]), elev, azim)
    size = torch.tensor([[48, 80], [48, 80], [48, 80]])
    focal, point = uniform(1, 3, 2, low=1.0, high=2.0), uniform(2, 3, 2, low=-0.2, high=0.2)
    pixel_focal, pixel_point = focal * 24.0, torch.tensor([[40.0, 24.0]]) + point * 24.0
    r = lib.renderer
    makers = {
        "fov_perspective": lambda: r.FoVPerspectiveCameras(
            znear=0.5, zfar=torch.tensor([10.0, 20.0, 30.0]), aspect_ratio=1.5, fov=45.0, R=R, T=T
        ),
        "fov_radians": lambda: r.FoVPerspectiveCameras(fov=torch.tensor([0.5, 0.8, 1.2]), degrees=False, R=R, T=T),
        "fov_orthographic": lambda: r.FoVOrthographicCameras(
            znear=0.5, max_y=1.5, min_y=-1.0, max_x=2.0, min_x=-1.5, scale_xyz=((1.0, 2.0, 0.5),), R=R, T=T
        ),
        "perspective": lambda: r.PerspectiveCameras(focal, point, R, T, image_size=size),
        "orthographic": lambda: r.OrthographicCameras(focal[:, :1], point, R, T, image_size=size),
        "perspective_screen": lambda: r.PerspectiveCameras(
            pixel_focal, pixel_point, R, T, in_ndc=False, image_size=size
        ),
        "orthographic_screen": lambda: r.OrthographicCameras(
            pixel_focal, pixel_point, R, T, in_ndc=False, image_size=size
        ),
    }
    return makers[kind]()


CAMERA_KINDS = (
    "fov_perspective",
    "fov_radians",
    "fov_orthographic",
    "perspective",
    "orthographic",
    "perspective_screen",
    "orthographic_screen",
)


def camera_scene(lib: SimpleNamespace, kind: str) -> dict[str, torch.Tensor]:
    """All conversions of points by three cameras of a kind."""
    cameras = cameras_of(lib, kind)
    points = uniform(3, 3, 7, 3)
    size = {"image_size": torch.tensor([[48, 80]])}
    view = cameras.get_world_to_view_transform().transform_points(points)
    projected = cameras.transform_points(points)
    xy_depth = torch.cat((projected[..., :2], view[..., 2:]), dim=-1)
    out = {
        "center": cameras.get_camera_center(),
        "view": view,
        "projected": projected,
        "projection": cameras.get_projection_transform().get_matrix(),
        "full": cameras.get_full_projection_transform().get_matrix(),
        "ndc": cameras.transform_points_ndc(points, **size),
        "ndc_eps": cameras.transform_points_ndc(points, eps=0.1, **size),
        "screen": cameras.transform_points_screen(points, **size),
        "screen_no_flip": cameras.transform_points_screen(points, with_xyflip=False, **size),
        "unprojected": cameras.unproject_points(xy_depth, world_coordinates=True),
        "unprojected_view": cameras.unproject_points(xy_depth, world_coordinates=False),
        "ndc_camera": cameras.get_ndc_camera_transform(**size).get_matrix(),
        "screen_to_ndc": lib.cameras.get_screen_to_ndc_transform(cameras, True, ((48, 80),)).get_matrix(),
        "chosen": cameras[[2, 0]].transform_points(points[:2]),
        "joined": lib.camera_utils.join_cameras_as_batch([cameras[0], cameras[[1, 2]]]).transform_points(points),
    }
    if hasattr(cameras, "get_principal_point"):
        ndc_depth = torch.cat((out["ndc"][..., :2], view[..., 2:]), dim=-1)
        out["principal_point"] = cameras.get_principal_point()
        out["unprojected_from_ndc"] = cameras.unproject_points(ndc_depth, from_ndc=True)
    return out


def fisheye_scene(lib: SimpleNamespace, which: str) -> dict[str, torch.Tensor]:
    """Points through two fisheye cameras with the parts `which` ("rtp") of the distortion, with gradients."""
    points = uniform(31, 6, 3) + torch.tensor([0.0, 0.0, 2.0])
    params = {
        "focal_length": torch.tensor([[1.2], [0.9]]),
        "principal_point": torch.tensor([[0.1, -0.2], [0.0, 0.05]]),
        "radial_params": uniform(32, 2, 6) * torch.tensor([0.1, 0.05, 0.02, 0.01, 0.005, 0.002]),
        "tangential_params": uniform(33, 2, 2) * 0.02,
        "thin_prism_params": uniform(34, 2, 4) * 0.02,
    }
    leaves = [points.requires_grad_(), *(value.requires_grad_() for value in params.values())]
    used = {f"use_{name}": name[0] in which for name in ("radial", "tangential")}
    used["use_thin_prism"] = "p" in which
    cameras = lib.fisheye.FishEyeCameras(**params, **used)
    projected = cameras.transform_points(points)
    unprojected = cameras.unproject_points(uniform(35, 6, 3) * 0.5)
    out = {"projected": projected, "unprojected": unprojected}
    # PyTorch3D writes in place what its gradient needs where thin prisms come without the rest.
    if which == "rtp":
        loss = (projected * uniform(36, *projected.shape)).sum()
        out.update({f"grad{i}": grad for i, grad in enumerate(torch.autograd.grad(loss, leaves))})
    R, T = lib.renderer.look_at_view_transform(2.5, 20.0, 40.0)
    one = {name: value[:1].detach() for name, value in params.items()}
    world = lib.fisheye.FishEyeCameras(**one, R=R, T=T, world_coordinates=True)
    out["world"] = world.transform_points(points.detach())
    out["world_batch"] = world.transform_points(points.detach().expand(3, 6, 3))
    return out


FISHEYE = ("rtp", "rt", "rp", "tp", "r", "")


def look_at_scene(lib: SimpleNamespace) -> dict[str, torch.Tensor]:
    """Extrinsics from angles and from positions."""
    elev, azim = torch.tensor([0.0, 30.0, -80.0, 90.0]), torch.tensor([0.0, 45.0, 200.0, 0.0])
    R, T = lib.renderer.look_at_view_transform(2.0, elev, azim, at=((0.1, 0.2, 0.3),))
    R2, T2 = lib.renderer.look_at_view_transform(eye=uniform(4, 3, 3), at=uniform(5, 3, 3), up=((0, 0, 1),))
    position = lib.renderer.camera_position_from_spherical_angles(1.5, elev / 50, azim / 50, degrees=False)
    eye, at, up = lib.camera_utils.camera_to_eye_at_up(lib.renderer.get_world_to_view_transform(R2, T2))
    turned_R, turned_T = lib.renderer.rotate_on_spot(R2, T2, R2[1])
    return {
        **{"R": R[:3], "T": T, "R2": R2, "T2": T2, "position": position},
        **{"eye": eye, "at": at, "up": up, "turned_R": turned_R, "turned_T": turned_T},
    }


def lighting_scene(lib: SimpleNamespace) -> dict[str, torch.Tensor]:
    """Diffuse and specular terms of a batch of two, per pixel and packed."""
    points, normals = uniform(6, 2, 3, 4, 2, 3), uniform(7, 2, 3, 4, 2, 3)
    camera, shininess = uniform(8, 2, 3) * 4, torch.tensor([8.0, 64.0])
    colors = uniform(9, 2, 3, low=0.0)
    out = {}
    for name, light in (
        ("point", lib.renderer.PointLights(diffuse_color=colors, location=uniform(10, 2, 3) * 3)),
        ("directional", lib.renderer.DirectionalLights(specular_color=colors, direction=uniform(11, 2, 3))),
        ("ambient", lib.renderer.AmbientLights(ambient_color=colors)),
    ):
        out[f"{name}_diffuse"] = light.diffuse(normals, points)
        out[f"{name}_specular"] = light.specular(normals, points, camera, shininess)
        packed = light.clone().gather_props(torch.tensor([0, 1, 1, 0, 1]))
        flat_points, flat_normals = points.reshape(-1, 3)[:5], normals.reshape(-1, 3)[:5]
        out[f"{name}_packed"] = packed.diffuse(flat_normals, flat_points)
    return out


def fragments_of(lib: SimpleNamespace, num_faces: int, N: int = 2, H: int = 5, W: int = 6, K: int = 4) -> Any:
    """Made-up fragments, some of them empty."""
    rng = np.random.RandomState(12)
    per_mesh = num_faces // N
    faces = rng.randint(0, per_mesh, size=(N, H, W, K)) + np.arange(N)[:, None, None, None] * per_mesh
    shown = np.sort(rng.uniform(size=(N, H, W, K)) < 0.7, axis=-1)[..., ::-1].copy()
    shown = torch.from_numpy(shown)
    pix_to_face = torch.where(shown, torch.from_numpy(faces), -1)
    bary = uniform(13, N, H, W, K, 3, low=0.05)
    bary = bary / bary.sum(-1, keepdim=True)
    zbuf = uniform(14, N, H, W, K, low=1.0, high=3.0).sort(dim=-1).values
    dists = uniform(15, N, H, W, K, low=-4e-4, high=4e-4)
    return lib.rasterizer.Fragments(
        pix_to_face=pix_to_face,
        zbuf=torch.where(shown, zbuf, -1.0),
        bary_coords=torch.where(shown[..., None], bary, -1.0),
        dists=torch.where(shown, dists, -1.0),
    )


def textures_of(lib: SimpleNamespace, kind: str, verts: int, faces: int, N: int = 2) -> Any:
    """A texture of a kind for N meshes of one size."""
    r = lib.renderer
    uvs, faces_uvs = uniform(16, N, 9, 2, low=-0.1, high=1.1), torch.arange(N * faces * 3).view(N, faces, 3) % 9
    maps = uniform(17, N, 7, 5, 3, low=0.0)
    makers = {
        "vertex": lambda: r.TexturesVertex(uniform(18, N, verts, 3, low=0.0)),
        "atlas": lambda: r.TexturesAtlas(uniform(19, N, faces, 4, 4, 3, low=0.0)),
        "uv": lambda: r.TexturesUV(maps, faces_uvs, uvs),
        "uv_corners": lambda: r.TexturesUV(maps, faces_uvs, uvs, padding_mode="reflection", align_corners=False),
        "uv_nearest": lambda: r.TexturesUV(maps, faces_uvs, uvs, padding_mode="zeros", sampling_mode="nearest"),
        "uv_list": lambda: r.TexturesUV([uniform(20, 7, 5, 3), uniform(21, 4, 8, 3)], list(faces_uvs), list(uvs)),
        "uv_several": lambda: r.TexturesUV(
            uniform(22, N, 3, 7, 5, 3, low=0.0),
            faces_uvs,
            uvs,
            maps_ids=torch.arange(N * faces).view(N, faces) % 3,
        ),
    }
    return makers[kind]()


TEXTURE_KINDS = ("vertex", "atlas", "uv", "uv_corners", "uv_nearest", "uv_list", "uv_several")


def texture_scene(lib: SimpleNamespace, kind: str) -> dict[str, torch.Tensor]:
    """Samples of a texture, of its copies and of its joins."""
    verts, faces = torus()
    texture = textures_of(lib, kind, len(verts), len(faces))
    meshes = lib.structures.Meshes([verts, verts * 0.5], [faces, faces], textures=texture)
    fragments = fragments_of(lib, 2 * len(faces))
    args = (meshes.faces_packed(),) if kind == "vertex" else ()
    out = {
        "sampled": meshes.sample_textures(fragments),
        "corners": texture.faces_verts_textures_packed(*args)[::7],
        "second": meshes[1].sample_textures(fragments_of(lib, len(faces), N=1)),
        "extended": meshes.extend(2).sample_textures(fragments_of(lib, 4 * len(faces), N=4)),
    }
    if kind != "uv_several":
        both = lib.structures.join_meshes_as_batch([meshes, meshes[0]])
        out["batch"] = both.sample_textures(fragments_of(lib, 3 * len(faces), N=3))
        scene = lib.structures.join_meshes_as_scene(meshes)
        out["scene"] = scene.sample_textures(fragments_of(lib, 2 * len(faces), N=1))
        kept = [[torch.arange(0, len(faces), 2)], [torch.arange(10), torch.arange(30, 60)]]
        out["submeshes"] = meshes.submeshes(kept)[1].sample_textures(fragments_of(lib, 10, N=1))
    return out


def blending_scene(lib: SimpleNamespace) -> dict[str, torch.Tensor]:
    """The three blendings of made-up fragments, and their gradients."""
    out = {}
    colors = uniform(23, 2, 5, 6, 4, 3, low=0.0)
    r = lib.renderer
    params = r.BlendParams(sigma=1e-4, gamma=1e-2, background_color=(0.2, 0.4, 0.6))
    zfar = torch.tensor([4.0, 5.0])
    for name, blend in (
        ("hard", lambda c, f: r.hard_rgb_blend(c, f, params)),
        ("sigmoid", lambda c, f: r.sigmoid_alpha_blend(c, f, params)),
        ("softmax", lambda c, f: r.softmax_rgb_blend(c, f, params, znear=0.5, zfar=zfar)),
    ):
        fragments = fragments_of(lib, 10)
        leaves = [colors.clone().requires_grad_(), fragments.dists.requires_grad_(), fragments.zbuf.requires_grad_()]
        image = blend(leaves[0], fragments)
        grads = torch.autograd.grad((image * uniform(24, *image.shape)).sum(), leaves, allow_unused=True)
        out[name] = image.detach()
        out.update({f"{name}_grad{i}": grad for i, grad in enumerate(grads) if grad is not None})
    return out


SHADERS = (
    "HardPhongShader",
    "SoftPhongShader",
    "HardGouraudShader",
    "SoftGouraudShader",
    "HardFlatShader",
    "HardDepthShader",
    "SoftDepthShader",
)


def shader_scene(lib: SimpleNamespace, name: str) -> dict[str, torch.Tensor]:
    """One shader on made-up fragments of two meshes, and its gradients."""
    verts, faces = torus()
    verts = verts.clone().requires_grad_()
    features = uniform(25, 2, len(verts), 3, low=0.0).requires_grad_()
    meshes = lib.structures.Meshes([verts, verts * 0.5], [faces, faces], textures=lib.renderer.TexturesVertex(features))
    cameras = cameras_of(lib, "fov_perspective")[[0, 1]]
    single_zfar = {"zfar": 12.0} if "Depth" in name else {}
    shader = getattr(lib.shader, name)(
        cameras=cameras,
        lights=lib.renderer.PointLights(location=((0.5, 2.0, -3.0), (1.0, 1.0, 4.0))),
        blend_params=lib.renderer.BlendParams(gamma=1e-2, background_color=(0.1, 0.2, 0.3)),
    )
    fragments = fragments_of(lib, 2 * len(faces))
    fragments.bary_coords.requires_grad_()
    image = shader(fragments, meshes, **single_zfar)
    out = {"image": image.detach()}
    if image.requires_grad:
        loss = (image * uniform(26, *image.shape)).sum()
        grads = torch.autograd.grad(loss, (verts, features, fragments.bary_coords), allow_unused=True)
        out.update({f"grad{i}": grad for i, grad in enumerate(grads) if grad is not None})
    return out


def splatter_scene(lib: SimpleNamespace, name: str) -> dict[str, torch.Tensor]:
    """Splatted colours: one layer with holes, or three that cover everything; both with gradients.

    Not where neighbours differ in their layers: there PyTorch3D confuses rows with columns.
    """
    N, H, W = 2, 5, 6
    K = 1 if name == "edge" else 3
    cameras = lib.renderer.FoVPerspectiveCameras(fov=torch.tensor([50.0, 70.0]))
    x, y = (W - 2 * torch.arange(W) - 1) / H, (H - 2 * torch.arange(H) - 1) / H
    xy = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None, :, :, None].expand(N, H, W, K, 2)
    depth = 2 + 2 * torch.arange(K) + 0.1 * uniform(40, N, H, W, K)
    points = cameras.unproject_points(torch.cat((xy, depth[..., None]), dim=-1).reshape(N, -1, 3))
    points = points.reshape(N, H, W, K, 3).requires_grad_()
    colors = uniform(41, N, H, W, K, 3, low=0.0).requires_grad_()
    hidden = uniform(42, N, H, W, K) > (0.2 if name == "edge" else 2.0)
    params = lib.renderer.BlendParams(sigma=0.5, background_color=(0.1, 0.2, 0.3))
    image = lib.renderer.SplatterBlender((N, H, W, K), "cpu")(colors, points, cameras, hidden, params)
    grads = torch.autograd.grad((image * uniform(43, *image.shape)).sum(), (colors, points))
    return {"image": image, "grad0": grads[0], "grad1": grads[1]}


SPLATTER = ("edge", "layers")

RENDERS = (
    *("phong", "soft_phong", "silhouette", "silhouette_wide", "orthographic", "flat_uv", "near_plane", "culled"),
    "splatter",
)


def render_scene(lib: SimpleNamespace, name: str) -> dict[str, torch.Tensor]:
    """A whole rendering of a torus and a tetrahedron, and its gradient in the vertices."""
    r = lib.renderer
    parts = [torus(), tetrahedron()]
    leaves = [verts.clone().requires_grad_() for verts, _ in parts]
    faces = [part[1] for part in parts]
    textures = r.TexturesVertex([uniform(27, len(v), 3, low=0.0).detach() for v in leaves])
    if name == "flat_uv":
        faces_uvs = [torch.arange(3 * len(f)).view(-1, 3) % 9 for f in faces]
        textures = r.TexturesUV(uniform(28, 2, 6, 6, 3, low=0.0), faces_uvs, [uniform(29, 9, 2, low=0.0)] * 2)
    meshes = lib.structures.Meshes(leaves, faces, textures=textures)
    R, T = r.look_at_view_transform(2.7, torch.tensor([25.0, -20.0]), torch.tensor([30.0, 100.0]))
    cameras = r.FoVPerspectiveCameras(R=R, T=T)
    lights = r.PointLights(location=((1.0, 2.0, 3.0),))
    settings: dict[str, Any] = {"image_size": 24, "faces_per_pixel": 3}
    soft: dict[str, Any] = {"blur_radius": 0.0009, "faces_per_pixel": 6}
    shader = r.HardPhongShader(cameras=cameras, lights=lights)
    params = r.BlendParams(sigma=1e-4, gamma=1e-2)
    if name == "soft_phong":
        settings.update(soft)
        shader = r.SoftPhongShader(cameras=cameras, lights=lights, blend_params=params)
    elif name.startswith("silhouette"):
        settings.update(soft, image_size=(18, 30) if name == "silhouette_wide" else 24)
        shader = r.SoftSilhouetteShader(blend_params=params)
    elif name == "orthographic":
        cameras = r.FoVOrthographicCameras(R=R, T=T, max_x=1.5, min_x=-1.5, max_y=1.5, min_y=-1.5)
        shader = r.SoftPhongShader(cameras=cameras, lights=lights, blend_params=params)
    elif name == "flat_uv":
        shader = r.HardFlatShader(cameras=cameras, lights=lights)
    elif name == "near_plane":
        R, T = r.look_at_view_transform(1.0, torch.tensor([25.0, -20.0]), torch.tensor([30.0, 100.0]))
        cameras = r.FoVPerspectiveCameras(R=R, T=T, znear=0.4)
    elif name == "splatter":
        settings.update(faces_per_pixel=1)
        shader = r.SplatterPhongShader(cameras=cameras, lights=lights, blend_params=r.BlendParams(sigma=0.5))
    elif name == "culled":
        settings.update(cull_backfaces=True, image_size=(30, 16))
    renderer = r.MeshRendererWithFragments(r.MeshRasterizer(cameras, r.RasterizationSettings(**settings)), shader)
    image, fragments = renderer(meshes)
    out = {"image": image.detach(), "pix_to_face": fragments.pix_to_face, "zbuf": fragments.zbuf.detach()}
    out["bary"], out["dists"] = fragments.bary_coords.detach(), fragments.dists.detach()
    channels = slice(3, 4) if name.startswith("silhouette") else slice(0, 3)
    chosen = image[..., channels]
    grads = torch.autograd.grad((chosen * uniform(30, *chosen.shape)).sum(), leaves)
    out.update({f"grad{i}": grad for i, grad in enumerate(grads)})
    return out


IMAGE_CAMERAS = (*(kind for kind in CAMERA_KINDS if kind != "fov_radians"), "fisheye")
IMAGE_TEXTURES = {
    **dict.fromkeys(("HardPhongShader", "SoftPhongShader", "HardFlatShader"), ("vertex", "uv", "uv_several", "atlas")),
    "SplatterPhongShader": ("vertex", "uv", "uv_several", "atlas"),
    **dict.fromkeys(("HardGouraudShader", "SoftGouraudShader"), ("vertex",)),
    **dict.fromkeys(("SoftSilhouetteShader", "HardDepthShader", "SoftDepthShader"), ("none",)),
}
"""Textures by shader: lighting at vertices shows colours of vertices, and silhouettes and depths need no texture."""


def image_camera(lib: SimpleNamespace, kind: str) -> Any:
    """One camera of a kind for images of 24 x 20 pixels."""
    r = lib.renderer
    R, T = r.look_at_view_transform(2.4, 28.0, 35.0)
    focal, point, size = ((1.9, 1.7),), ((0.1, -0.05),), ((24, 20),)
    pixels = {"in_ndc": False, "image_size": size, "R": R, "T": T}
    makers = {
        "fov_perspective": lambda: r.FoVPerspectiveCameras(znear=0.5, zfar=6.0, aspect_ratio=1.1, fov=58.0, R=R, T=T),
        "fov_orthographic": lambda: r.FoVOrthographicCameras(
            znear=0.5, zfar=6.0, max_y=1.3, min_y=-1.2, max_x=1.2, min_x=-1.3, R=R, T=T
        ),
        "perspective": lambda: r.PerspectiveCameras(focal, point, R, T),
        "orthographic": lambda: r.OrthographicCameras(((0.8, 0.9),), point, R, T),
        "perspective_screen": lambda: r.PerspectiveCameras(((19.0, 17.0),), ((9.0, 12.5),), **pixels),
        "orthographic_screen": lambda: r.OrthographicCameras(((8.0, 9.0),), ((9.0, 12.5),), **pixels),
        "fisheye": lambda: lib.fisheye.FishEyeCameras(
            focal_length=torch.tensor([[1.8]]),
            principal_point=torch.tensor([[0.05, -0.1]]),
            radial_params=torch.tensor([[0.05, -0.02, 0.01, 0.0, 0.0, 0.0]]),
            tangential_params=torch.tensor([[0.01, -0.02]]),
            thin_prism_params=torch.tensor([[0.01, 0.0, -0.01, 0.0]]),
            R=R,
            T=T,
            world_coordinates=True,
        ),
    }
    return makers[kind]()


def image_texture(lib: SimpleNamespace, kind: str, verts: int, faces: int) -> tuple[Any, torch.Tensor | None]:
    """A texture of one mesh, and the tensor in which its gradient is taken."""
    r = lib.renderer
    uvs, faces_uvs = uniform(52, 1, 9, 2, low=0.0), torch.arange(faces * 3).view(1, faces, 3) % 9
    shapes = {"vertex": (1, verts, 3), "uv": (1, 7, 5, 3), "uv_several": (1, 3, 4, 5, 3), "atlas": (1, faces, 2, 2, 3)}
    if kind == "none":
        return None, None
    leaf = uniform(50, *shapes[kind], low=0.0).requires_grad_()
    makers = {
        "vertex": lambda: r.TexturesVertex(leaf),
        "uv": lambda: r.TexturesUV(leaf, faces_uvs, uvs),
        "uv_several": lambda: r.TexturesUV(leaf, faces_uvs, uvs, maps_ids=torch.arange(faces)[None] % 3),
        "atlas": lambda: r.TexturesAtlas(leaf),
    }
    return makers[kind](), leaf


def image_scene(lib: SimpleNamespace, shader: str, texture: str, camera: str) -> dict[str, torch.Tensor]:
    """The image of a torus by a shader with a texture and a camera, and gradients for one of the cameras.

    For soft shaders this is not a perspective one: with blur PyTorch3D's gradients are wrong there.
    """
    verts, faces = torus()
    verts = verts.clone().requires_grad_()
    textures, leaf = image_texture(lib, texture, len(verts), len(faces))
    meshes = lib.structures.Meshes([verts], [faces], textures=textures)
    cameras, soft = image_camera(lib, camera), shader.startswith("Soft")
    params = lib.renderer.BlendParams(sigma=2e-4, gamma=1e-2, background_color=(0.1, 0.2, 0.3))
    if shader == "SplatterPhongShader":
        params = params._replace(sigma=0.5)
    made = getattr(lib.shader, shader)
    if shader == "SoftSilhouetteShader":
        made = made(blend_params=params)
    else:
        lights = lib.renderer.PointLights(location=((1.0, 2.0, 2.0),))
        made = made(cameras=cameras, lights=lights, blend_params=params)
    # Without blur for the atlas: on the border of a face, where blur clips to, rounding decides what PyTorch3D shows.
    blur_radius = 0.002 if soft and texture != "atlas" else 0.0
    settings = lib.renderer.RasterizationSettings((24, 20), blur_radius, faces_per_pixel=4 if soft else 1)
    renderer = lib.renderer.MeshRenderer(lib.renderer.MeshRasterizer(cameras, settings), made)
    planes = {} if hasattr(cameras, "zfar") else {"znear": 0.5, "zfar": 6.0}
    image = renderer(meshes, **planes)
    out = {"image": image.detach()}
    if camera == ("fov_orthographic" if soft else "fov_perspective"):
        loss = (image * uniform(51, *image.shape)).sum()
        leaves = [tensor for tensor in (verts, leaf) if tensor is not None]
        grads = torch.autograd.grad(loss, leaves, allow_unused=True)
        out.update({f"grad{i}": grad for i, grad in enumerate(grads) if grad is not None})
    return out


def image_scenes() -> list[tuple[str, str, str]]:
    """Every shader with every texture and camera that it works with."""
    return [
        (shader, texture, camera)
        for shader, textures in IMAGE_TEXTURES.items()
        for texture in textures
        for camera in IMAGE_CAMERAS
        if (shader, camera) not in UNDEFINED
    ]


# PyTorch3D splats with a projection by a matrix, which a fisheye camera has not.
UNDEFINED = (("SplatterPhongShader", "fisheye"),)


def all_scenes() -> dict[str, tuple[Any, tuple[str, ...]]]:
    """Every scene by its name: the function and its arguments after the library."""
    return {
        **{f"cameras/{kind}": (camera_scene, (kind,)) for kind in CAMERA_KINDS},
        **{f"fisheye/{which or 'none'}": (fisheye_scene, (which,)) for which in FISHEYE},
        "look_at": (look_at_scene, ()),
        "lighting": (lighting_scene, ()),
        **{f"textures/{kind}": (texture_scene, (kind,)) for kind in TEXTURE_KINDS},
        "blending": (blending_scene, ()),
        **{f"splatter/{name}": (splatter_scene, (name,)) for name in SPLATTER},
        **{f"shaders/{name}": (shader_scene, (name,)) for name in SHADERS},
        **{f"renders/{name}": (render_scene, (name,)) for name in RENDERS},
        **{f"images_{shader}/{'/'.join(rest)}": (image_scene, (shader, *rest)) for shader, *rest in image_scenes()},
    }


def run(library: str, name: str) -> dict[str, np.ndarray]:
    """The results of one scene as arrays."""
    function, args = all_scenes()[name]
    return {key: value.detach().numpy() for key, value in function(load(library), *args).items()}
