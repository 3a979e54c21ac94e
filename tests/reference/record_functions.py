"""Records what PyTorch3D 0.7.9 answers for the functions that no other record here asks, into functions.npz.

Run it with a Python that has PyTorch3D: `python -W ignore tests/reference/record_functions.py`.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

Modules = Callable[[str], Any]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Values between 0 and 1."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def structures(lib: Modules) -> dict[str, Any]:
    """Lists, packed and padded tensors."""
    s = lib("structures.utils")
    rows = [numbers(3, 2), numbers(0, 2), numbers(5, 2, seed=1)]
    packed, *indices = s.list_to_packed(rows)
    padded = s.list_to_padded(rows, (6, 2), pad_value=-1.0)
    return {
        "list_to_packed": [packed, *indices],
        "list_to_padded": [padded, s.list_to_padded(rows)],
        "packed_to_list": s.packed_to_list(packed, [3, 0, 5]),
        "padded_to_list": s.padded_to_list(padded, [(3, 2), (0, 2), (5, 1)]),
        "padded_to_packed": [
            s.padded_to_packed(padded, split_size=[3, 1, 5]),
            s.padded_to_packed(padded, pad_value=-1),
        ],
        "collate_batched_meshes": lib("datasets")
        .collate_batched_meshes(
            [{"verts": numbers(3 + n, 3), "faces": torch.tensor([[0, 1, 2]]), "label": n} for n in range(2)]
        )["mesh"]
        .verts_padded(),
    }


def transforms(lib: Modules) -> dict[str, Any]:
    """Old names, and a helper."""
    so3 = lib("transforms.so3")
    skew = so3.hat(numbers(4, 3))
    return {"hat_inv": so3.hat_inv(skew), "so3_exponential_map": so3.so3_exponential_map(numbers(4, 3))}


def graphs_and_volumes(lib: Modules) -> dict[str, Any]:
    """Sums over neighbours, indices of voxels, marching cubes, points in volumes."""
    graph, cubify, cubes = lib("ops.graph_conv"), lib("ops.cubify"), lib("ops.marching_cubes")
    edges = torch.tensor([[0, 1], [1, 2], [3, 0], [2, 0]])
    index = torch.tensor([[0, 1, 2], [1, 2, 4]])
    grid = torch.linspace(-1, 1, 7)
    ball = 1 - (grid[:, None, None] ** 2 + grid[:, None] ** 2 + (grid * 1.1) ** 2)
    verts, faces = cubes.marching_cubes_naive(ball[None], 0.3)
    # Away from the lower border, where PyTorch3D's votes are wrong.
    clouds = lib("structures").Pointclouds(numbers(2, 9, 3) - 0.4, features=numbers(2, 9, 2))
    volumes = lib("structures").Volumes(torch.zeros(2, 1, 4, 5, 6), torch.zeros(2, 2, 4, 5, 6), voxel_size=0.5)
    filled = lib("ops").add_pointclouds_to_volumes(clouds, volumes)
    return {
        "gather_scatter_python": [graph.gather_scatter_python(numbers(5, 2), edges, directed) for directed in (0, 1)],
        "GatherScatter": graph.GatherScatter.apply(numbers(5, 2), edges, False),
        "ravel_index": cubify.ravel_index(index, (3, 3, 5)),
        "unravel_index": cubify.unravel_index(torch.tensor([7, 29, 43, 80]), (2, 3, 3, 5)),
        # The order of vertices and the triangles of a cell are not PyTorch3D's.
        "marching_cubes_naive": [torch.unique((verts[0] * 1000).round(), dim=0), len(faces[0])],
        "add_pointclouds_to_volumes": [filled.densities(), filled.features()],
    }


def points(lib: Modules) -> dict[str, Any]:
    """Helpers of point clouds."""
    ops, utils = lib("ops"), lib("ops.utils")
    clouds, lengths = numbers(2, 6, 3), torch.tensor([6, 4])
    index = torch.tensor([[[0, 1], [2, 5]], [[3, 3], [1, 0]]])
    batch = lib("structures").Pointclouds([numbers(3, 3), numbers(5, 3, seed=1)])
    padded, first = numbers(2, 4, 3), torch.tensor([0, 3])
    sampled = lib("ops.sample_farthest_points")
    found = sampled.sample_farthest_points_naive(clouds, lengths, K=[3, 2])
    return {
        "knn_gather": ops.knn_gather(clouds, index, torch.tensor([1, 2])),
        "packed_to_padded": [ops.packed_to_padded(numbers(7, *D), first, 4) for D in ((), (2,))],
        "padded_to_packed": ops.padded_to_packed(padded, first, 7),
        "sample_farthest_points_naive": list(found),
        "convert_pointclouds_to_tensor": list(utils.convert_pointclouds_to_tensor(batch)),
        "is_pointclouds": [utils.is_pointclouds(batch), utils.is_pointclouds(clouds)],
        "eyes": utils.eyes(3, 2),
        "get_point_covariances": list(utils.get_point_covariances(clouds, lengths, 4)),
        "masked_gather": [utils.masked_gather(clouds, torch.tensor([[0, 3, -1], [2, -1, -1]]))],
        "wmean": [utils.wmean(clouds), utils.wmean(clouds, numbers(2, 6), keepdim=False, dim=-2)],
    }


def cameras(lib: Modules) -> dict[str, Any]:
    """Old cameras, transforms to and from pixels, conversions."""
    r, c, u = lib("renderer"), lib("renderer.cameras"), lib("utils")
    R, T = r.look_at_view_transform(2.5, torch.tensor([5.0, 30.0]), torch.tensor([-20.0, 40.0]))
    where, x = {"R": R, "T": T}, numbers(4, 3)
    perspective = r.PerspectiveCameras(1.5, ((0.1, -0.2),), **where)
    K = torch.tensor([[[30.0, 0, 16], [0, 31.0, 12], [0, 0, 1]]] * 2)
    size = torch.tensor([[24, 32]] * 2)
    opencv = u.cameras_from_opencv_projection(R, T, K, size)
    made = {
        "OpenGLOrthographicCameras": r.OpenGLOrthographicCameras(top=1.5, scale_xyz=((1.0, 2.0, 1.0),), **where),
        "OpenGLPerspectiveCameras": r.OpenGLPerspectiveCameras(fov=50.0, **where),
        "SfMOrthographicCameras": r.SfMOrthographicCameras(1.5, ((0.1, 0.2),), **where),
        "SfMPerspectiveCameras": r.SfMPerspectiveCameras(1.5, ((0.1, 0.2),), **where),
        "cameras_from_opencv_projection": opencv,
    }
    return {name: camera.transform_points(x) for name, camera in made.items()} | {
        "get_ndc_to_screen_transform": c.get_ndc_to_screen_transform(
            perspective, with_xyflip=True, image_size=(24, 32)
        ).get_matrix(),
        "try_get_projection_transform": c.try_get_projection_transform(perspective, {}).get_matrix(),
        "look_at_rotation": r.look_at_rotation(numbers(3, 3), at=((0.1, 0.0, 0.2),), up=((0.0, 1.0, 0.1),)),
        "opencv_from_cameras_projection": list(u.opencv_from_cameras_projection(opencv, size)),
        "pulsar_from_cameras_projection": u.pulsar_from_cameras_projection(r.PerspectiveCameras(1.5), size[:1]),
    }


def rays(lib: Modules) -> dict[str, Any]:
    """Samplers under their old names, points on rays, a function in space."""
    r = lib("renderer")
    R, T = r.look_at_view_transform(2.5, 10.0, 20.0)
    camera = r.FoVPerspectiveCameras(R=R, T=T)
    size = {"image_width": 4, "image_height": 3, "n_pts_per_ray": 5, "min_depth": 1.0, "max_depth": 4.0}
    grid = r.GridRaysampler(min_x=-1.0, max_x=1.0, min_y=-0.5, max_y=0.5, **size)(camera)
    ndc = r.NDCGridRaysampler(**size)

    def ball(ray_bundle: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        where = r.ray_bundle_to_ray_points(ray_bundle)
        return torch.exp(-where.square().sum(-1, keepdim=True)) * 0.5, where.sin()

    image, _ = r.ImplicitRenderer(ndc, r.EmissionAbsorptionRaymarcher())(cameras=camera, volumetric_function=ball)
    return {
        "GridRaysampler": list(grid),
        "NDCGridRaysampler": list(ndc(camera)),
        "ImplicitRenderer": image,
        "ray_bundle_to_ray_points": r.ray_bundle_to_ray_points(grid),
        "ray_bundle_variables_to_ray_points": r.ray_bundle_variables_to_ray_points(*list(grid)[:3]),
    }


def pixels(lib: Modules) -> dict[str, Any]:
    """Geometry of triangles and pixels, clipping, rasterisers in Python."""
    m, clip = lib("renderer.mesh.rasterize_meshes"), lib("renderer.mesh.clip")
    p, v0, v1, v2 = numbers(4, 2)
    inside = m.barycentric_coordinates(p, v0, v1, v2)
    verts = torch.tensor([[-0.5, -0.5, 1.0], [0.6, -0.4, 2.0], [0.1, 0.7, 0.3], [0.9, 0.8, 0.1]])
    faces = torch.tensor([[0, 1, 2], [1, 3, 2]])
    meshes = lib("structures").Meshes([verts], [faces])
    frustum = clip.ClipFrustum(znear=0.5, z_clip_value=0.5, perspective_correct=True)
    clipped = clip.clip_faces(verts[faces], torch.tensor([0]), torch.tensor([2]), frustum)
    clouds = lib("structures").Pointclouds([numbers(6, 3) * 1.6 - 0.8 + torch.tensor([0.0, 0.0, 1.0])])
    render = {"image_size": (6, 7), "blur_radius": 0.01, "faces_per_pixel": 2}
    return {
        "interpolate_face_attributes_python": lib("ops.interp_face_attrs").interpolate_face_attributes_python(
            torch.tensor([[[[0, -1], [2, 1]]]]), numbers(1, 1, 2, 2, 3), numbers(3, 3, 2)
        ),
        "barycentric_coordinates": list(inside),
        "barycentric_coordinates_clip": list(m.barycentric_coordinates_clip(inside)),
        "edge_function": m.edge_function(p, v0, v1),
        "non_square_ndc_range": [m.non_square_ndc_range(4, 8), m.non_square_ndc_range(8, 4)],
        "pix_to_non_square_ndc": [m.pix_to_non_square_ndc(3, 4, 8), m.pix_to_non_square_ndc(3, 8, 4)],
        "point_line_distance": m.point_line_distance(p, v0, v1),
        "point_triangle_distance": m.point_triangle_distance(p, v0, v1, v2),
        "rasterize_meshes": list(m.rasterize_meshes(meshes, **render)),
        "rasterize_meshes_python": list(m.rasterize_meshes_python(meshes, **render)),
        "rasterize_points_python": list(
            lib("renderer.points.rasterize_points").rasterize_points_python(clouds, (6, 7), 0.3, 2)
        ),
        "ClipFrustum": [frustum.znear, frustum.z_clip_value],
        "clip_faces": [clipped.face_verts, clipped.num_faces_per_mesh, clipped.faces_clipped_to_unclipped_idx],
    }


def shading(lib: Modules) -> dict[str, Any]:
    """The three shadings, textures under their old name, maps of a scene."""
    r, s = lib("renderer"), lib("renderer.mesh.shading")
    camera = r.FoVPerspectiveCameras(T=torch.tensor([[0.0, 0.0, 2.0]]))
    verts, faces = numbers(1, 5, 3) * 1.6 - 0.8, torch.tensor([[[0, 1, 2], [1, 3, 2], [2, 4, 0]]])
    meshes = lib("structures").Meshes(verts, faces, r.TexturesVertex(numbers(1, 5, 3)))
    fragments = r.MeshRasterizer(camera, r.RasterizationSettings(6))(meshes)
    scene = (r.PointLights(location=((0.0, 1.0, -2.0),)), camera, r.Materials())
    texels = meshes.sample_textures(fragments)
    old = r.Textures(verts_rgb=numbers(1, 5, 3))
    R = lib("renderer.mesh.utils").Rectangle
    packed = lib("renderer.mesh.utils").pack_unique_rectangles([R(3, 2, 0), R(1, 5, 1), R(3, 2, 0), R(2, 2, 2)])
    return {
        "phong_shading": s.phong_shading(meshes, fragments, *scene, texels),
        "gouraud_shading": s.gouraud_shading(meshes, fragments, *scene),
        "flat_shading": s.flat_shading(meshes, fragments, *scene, texels),
        "TexturedSoftPhongShader": lib("renderer.mesh.shader").TexturedSoftPhongShader(cameras=camera, lights=scene[0])(
            fragments, meshes
        ),
        "Textures": old.faces_verts_textures_packed(faces[0]),
        "pack_unique_rectangles": [packed.total_size, [row[:2] for row in packed.locations]],
    }


def properties(lib: Modules) -> dict[str, Any]:
    """What cameras, lights and materials are made of."""
    u = lib("renderer.utils")
    lights = lib("renderer").PointLights(location=((0.0, 1.0, 2.0), (1.0, 0.0, 2.0)))
    u.TensorAccessor(lights, 0).location = (3.0, 4.0, 5.0)
    grid = numbers(2, 4, 3, 2) * 2 - 1
    bare = u.TensorProperties(first=((1.0, 2.0),), second=numbers(3, 1))
    return {
        "TensorAccessor": [lights.location, lights[1].location],
        "TensorProperties": [len(bare), bare.first, bare.second, bare.gather_props(torch.tensor([2, 0])).second],
        "convert_to_tensors_and_broadcast": list(u.convert_to_tensors_and_broadcast(1, (1.0, 2.0), numbers(2, 3))),
        "format_tensor": [u.format_tensor(2.0), u.format_tensor((1, 2), dtype=torch.int64)],
        "ndc_grid_sample": u.ndc_grid_sample(numbers(2, 3, 5, 7), grid),
        "ndc_to_grid_sample_coords": u.ndc_to_grid_sample_coords(grid, (5, 7)),
        "parse_image_size": [u.parse_image_size(5), u.parse_image_size((3, 4))],
        "get_device": lib("common").get_device(grid) == torch.device("cpu"),
        "meshgrid_ij": list(lib("common.compat").meshgrid_ij(torch.arange(2), torch.arange(3))),
    }


def files(lib: Modules) -> dict[str, Any]:
    """Materials and meshes of OBJ files."""
    io = lib("io")
    uvs = numbers(2, 3, 2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.obj"
        path.write_text("mtllib one.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0.5\nusemtl red\nf 1 2 3\n")
        (Path(folder) / "one.mtl").write_text("newmtl red\nKd 0.8 0.1 0.2\nKa 0.1 0.2 0.3\nKs 1 1 1\nNs 20\n")
        meshes = io.load_objs_as_meshes([path, path], load_textures=False)
        atlas = io.load_objs_as_meshes([path], create_texture_atlas=True, texture_atlas_size=2)
    return {
        "make_material_atlas": lib("io.mtl_io").make_material_atlas(numbers(4, 5, 3), uvs, 3),
        "load_objs_as_meshes": [meshes.verts_padded(), meshes.faces_padded(), atlas.textures.atlas_padded()],
    }


PARTS = (structures, transforms, graphs_and_volumes, points, cameras, rays, pixels, shading, properties, files)


def answers(library: str) -> dict[str, np.ndarray]:
    """The answers of `library`, "pytorch3d" or "recon_engine", numbered where there are several."""
    found: dict[str, np.ndarray] = {}

    def keep(name: str, value: Any) -> None:
        if isinstance(value, (list, tuple)) and not all(isinstance(item, (int, float)) for item in value):
            for number, item in enumerate(value):
                keep(f"{name}.{number}", item)
        elif value is not None:
            found[name] = value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value)

    for part in PARTS:
        torch.manual_seed(0)
        for name, value in part(lambda path: importlib.import_module(f"{library}.{path}")).items():
            keep(name, value)
    return found


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).with_name("functions.npz"), **answers("pytorch3d"))  # type: ignore[arg-type]
