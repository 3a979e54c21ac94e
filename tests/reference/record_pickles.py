"""Records objects that PyTorch3D 0.7.9 pickled, and what they answer, into pickles.npz.

Run it with a Python that has PyTorch3D: `python tests/reference/record_pickles.py`.
"""

from __future__ import annotations

import io
import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

SQUARE = [[0, 1, 2], [0, 2, 3]]


def library() -> SimpleNamespace:
    """The modules of whatever the name `pytorch3d` resolves to."""
    import pytorch3d.common.linear_with_repeat
    import pytorch3d.ops.points_alignment
    import pytorch3d.renderer
    import pytorch3d.renderer.fisheyecameras
    import pytorch3d.renderer.mesh.rasterizer
    import pytorch3d.renderer.mesh.shader
    import pytorch3d.renderer.points.rasterizer
    import pytorch3d.structures
    import pytorch3d.transforms

    return SimpleNamespace(
        structures=pytorch3d.structures,
        renderer=pytorch3d.renderer,
        shader=pytorch3d.renderer.mesh.shader,
        transforms=pytorch3d.transforms,
        FishEyeCameras=pytorch3d.renderer.fisheyecameras.FishEyeCameras,
        Fragments=pytorch3d.renderer.mesh.rasterizer.Fragments,
        PointFragments=pytorch3d.renderer.points.rasterizer.PointFragments,
        LinearWithRepeat=pytorch3d.common.linear_with_repeat.LinearWithRepeat,
        SimilarityTransform=pytorch3d.ops.points_alignment.SimilarityTransform,
    )


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Values between 0 and 1."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def square_and_tetrahedron() -> tuple[list[Tensor], list[Tensor]]:
    """Two meshes of different sizes in front of a camera that looks along z."""
    square = torch.tensor([[-0.6, -0.5, 0.1], [0.7, -0.6, 0.0], [0.5, 0.7, 0.2], [-0.7, 0.6, 0.3]])
    tetrahedron = torch.tensor([[0.0, 0.0, 0.8], [0.8, 0.1, 0.0], [-0.5, 0.7, 0.1], [-0.4, -0.8, 0.2], [0.9, 0.9, 0.9]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]])
    return [square, tetrahedron], [torch.tensor(SQUARE), faces]


def pose(r: Any, count: int = 2) -> dict[str, Tensor]:
    """R and T of cameras around the origin."""
    R, T = r.look_at_view_transform(2.5, torch.linspace(5, 30, count), torch.linspace(-20, 40, count))
    return {"R": R, "T": T}


def meshes(lib: SimpleNamespace) -> dict[str, Any]:
    """Meshes as lists and padded, with textures of each kind, moved, with normals, and empty."""
    r, Meshes = lib.renderer, lib.structures.Meshes
    verts, faces = square_and_tetrahedron()
    colors = [numbers(len(v), 3, seed=n) for n, v in enumerate(verts)]
    read = Meshes(verts, faces, r.TexturesVertex(colors))
    for name in MESH_TENSORS:  # everything is computed before it is pickled
        getattr(read, name)()
    uv = r.TexturesUV(numbers(2, 5, 6, 3), torch.tensor([SQUARE, SQUARE]), numbers(2, 4, 2), sampling_mode="nearest")
    padded = Meshes(torch.stack([verts[0], verts[0] + 0.1]), torch.tensor([SQUARE, [[3, 1, 0], [-1, -1, -1]]]))
    several = r.TexturesUV(
        numbers(1, 2, 4, 4, 3), torch.tensor([SQUARE]), numbers(1, 4, 2), maps_ids=torch.tensor([[0, 1]])
    )
    updated = Meshes(verts, faces).update_padded(2 * read.verts_padded())
    return {
        "meshes": read,
        "meshes_unread": Meshes(verts, faces),
        "meshes_padded": padded,
        "meshes_uv": Meshes(torch.stack([verts[0]] * 2), torch.tensor([SQUARE, SQUARE]), uv),
        "meshes_maps": Meshes(verts[:1], faces[:1], several),
        "meshes_atlas": Meshes(verts, faces, r.TexturesAtlas([numbers(len(f), 2, 2, 3) for f in faces])),
        "meshes_normals": Meshes(verts, faces, verts_normals=[torch.nn.functional.normalize(v + 2) for v in verts]),
        "meshes_moved": read.offset_verts(numbers(9, 3)).scale_verts(2.0),
        "meshes_updated": updated,
        "meshes_none": Meshes([], []),
        "meshes_without_faces": Meshes([verts[0], torch.zeros(0, 3)], [faces[0], torch.zeros(0, 3, dtype=torch.int64)]),
        "meshes_float64": Meshes([v.double().requires_grad_() for v in verts], faces),
    }


def structures(lib: SimpleNamespace) -> dict[str, Any]:
    """Point clouds, volumes, transforms."""
    s, t = lib.structures, lib.transforms
    points = [numbers(4, 3), numbers(0, 3), numbers(6, 3, seed=1)]
    normals = [p - 0.5 for p in points]
    features = [numbers(len(p), 2, seed=2) for p in points]
    clouds = s.Pointclouds(points, normals, features)
    clouds.points_packed(), clouds.points_padded(), clouds.padded_to_packed_idx()
    rotation = t.random_rotations(2)
    rotate = t.Rotate(rotation)
    return {
        "clouds": clouds,
        "clouds_padded": s.Pointclouds(numbers(2, 5, 3), features=numbers(2, 5, 4)),
        "clouds_updated": s.Pointclouds(points).update_padded(2 * clouds.points_padded(), clouds.normals_padded()),
        "clouds_moved": clouds.offset(numbers(10, 3)),
        "clouds_none": s.Pointclouds([]),
        "volumes": s.Volumes(
            numbers(2, 1, 3, 4, 5), numbers(2, 2, 3, 4, 5), 0.3, (0.1, 0.2, -0.3), align_corners=False
        ),
        "volumes_list": s.Volumes([numbers(1, 3, 4, 5), numbers(1, 4, 2, 5)], voxel_size=torch.tensor([0.1, 0.2, 0.3])),
        "volumes_one": s.Volumes(numbers(3, 1, 2, 3, 4))[1],
        "transform": t.Transform3d(matrix=numbers(2, 4, 4) + 2 * torch.eye(4)),
        "transform_float64": t.Transform3d(dtype=torch.float64),
        "transform_composed": rotate.translate(1.0, 2.0, 3.0).scale(0.5).rotate_axis_angle(30.0, "Y"),
        "transform_inverted": t.Translate(numbers(2, 3)).compose(rotate).inverse(),
        "rotate": rotate,
        "rotate_axis_angle": t.RotateAxisAngle(torch.tensor([10.0, 20.0])),
        "translate": t.Translate(1.0, 2.0, 3.0),
        "scale": t.Scale(numbers(2, 3) + 1, dtype=torch.float32),
    }


def cameras(lib: SimpleNamespace) -> dict[str, Any]:
    """Cameras of every kind."""
    r = lib.renderer
    place, one = pose(r), pose(r, 1)
    K = torch.tensor([[1.1, 0, 0.1, 0], [0, 1.2, 0.2, 0], [0, 0, 0, 1.0], [0, 0, 1.0, 0]])[None]
    return {
        "cameras_fov": r.FoVPerspectiveCameras(fov=torch.tensor([50.0, 60.0]), aspect_ratio=1.2, **place),
        "cameras_fov_radians": r.FoVPerspectiveCameras(fov=1.1, degrees=False, znear=0.5, device="cpu"),
        "cameras_fov_orthographic": r.FoVOrthographicCameras(
            max_x=2.0, min_y=-1.5, scale_xyz=((1.0, 2.0, 1.0),), **place
        ),
        "cameras_perspective": r.PerspectiveCameras(1.5, ((0.1, -0.2),), **place),
        "cameras_screen": r.PerspectiveCameras(
            torch.tensor([[30.0, 40.0]]), ((16.0, 12.0),), in_ndc=False, image_size=((24, 32),), **one
        ),
        "cameras_K": r.PerspectiveCameras(K=K, **one),
        "cameras_orthographic": r.OrthographicCameras(torch.tensor([1.0, 2.0]), **place),
        "cameras_trained": r.PerspectiveCameras(torch.tensor([[1.0, 2.0]], requires_grad=True), **one),
        "cameras_fisheye": lib.FishEyeCameras(
            torch.tensor([[1.3]]),
            radial_params=torch.tensor([[0.1, 0.02, 0.0, 0.001, 0.0, 0.0]]),
            tangential_params=torch.tensor([[0.01, 0.02]]),
            world_coordinates=True,
            **place,
        ),
    }


def parts(lib: SimpleNamespace) -> dict[str, Any]:
    """Lights, materials, settings, what rasterisers return, layers."""
    r = lib.renderer
    torch.manual_seed(0)
    return {
        "lights_point": r.PointLights(location=((0.0, 1.0, 2.0), (1.0, 0.0, 2.0)), diffuse_color=((0.5, 0.6, 0.7),)),
        "lights_directional": r.DirectionalLights(direction=((1.0, 1.0, 0.0),)),
        "lights_ambient": r.AmbientLights(ambient_color=((0.5, 0.4, 0.3),)),
        "materials": r.Materials(shininess=torch.tensor([5, 50]), specular_color=((0.1, 0.2, 0.3),)),
        "blend_params": r.BlendParams(1e-3, 1e-2, (0.1, 0.2, 0.3)),
        "settings": r.RasterizationSettings((12, 16), 0.01, 3, cull_backfaces=True, bin_size=0),
        "settings_points": r.PointsRasterizationSettings(12, 0.1, 3),
        "fragments": lib.Fragments(*(numbers(1, 2, 2, 1) for _ in range(4))),
        "point_fragments": lib.PointFragments(*(numbers(1, 2, 2, 1, seed=n) for n in range(3))),
        "rays": r.RayBundle(*(numbers(2, 3, seed=n) for n in range(4))),
        "similarity": lib.SimilarityTransform(*(numbers(2, 3, seed=n) for n in range(3))),
        "harmonic": r.HarmonicEmbedding(3, append_input=False),
        "linear": lib.LinearWithRepeat(5, 2),
    }


def renderers(lib: SimpleNamespace) -> dict[str, Any]:
    """Whole renderers, with a shader of each kind."""
    r = lib.renderer
    cams, lights = r.FoVPerspectiveCameras(**pose(r, 1)), r.PointLights(location=((1.0, 1.0, 2.0),))
    settings = r.RasterizationSettings(12, blur_radius=1e-3, faces_per_pixel=2)
    blend = r.BlendParams(1e-3, 1e-2, (0.1, 0.2, 0.3))
    made = {}
    for name in SHADERS:
        shader = getattr(lib.shader, name)(device="cpu", cameras=cams, lights=lights, blend_params=blend)
        made[name] = r.MeshRenderer(r.MeshRasterizer(cams, settings), shader)
    sharp = r.MeshRasterizer(cams, r.RasterizationSettings(12))
    splatter = lib.shader.SplatterPhongShader(cameras=cams, lights=lights, blend_params=r.BlendParams(sigma=0.5))
    made["SplatterPhongShader"] = r.MeshRenderer(sharp, splatter)
    made["SplatterPhongShader"](scene(lib))  # it keeps what it needs for images of this size
    made["SoftSilhouetteShader"] = r.MeshRendererWithFragments(
        r.MeshRasterizer(cams, settings), r.SoftSilhouetteShader(blend)
    )
    point_settings = r.PointsRasterizationSettings(12, 0.3, 3)
    for name in COMPOSITORS:
        compositor = getattr(r, name)(background_color=(0.1, 0.2))
        made[name] = r.PointsRenderer(r.PointsRasterizer(cams, point_settings), compositor)
    sampler = r.NDCMultinomialRaysampler(
        image_width=6, image_height=5, n_pts_per_ray=7, min_depth=1.0, max_depth=4.0, stratified_sampling=False
    )
    made["VolumeRenderer"] = r.VolumeRenderer(sampler, r.EmissionAbsorptionRaymarcher())
    return made


SHADERS = (
    "HardDepthShader",
    "HardFlatShader",
    "HardGouraudShader",
    "HardPhongShader",
    "SoftDepthShader",
    "SoftGouraudShader",
    "SoftPhongShader",
)
COMPOSITORS = ("AlphaCompositor", "NormWeightedCompositor")
MESH_TENSORS = (
    "verts_packed",
    "verts_padded",
    "faces_packed",
    "faces_padded",
    "verts_packed_to_mesh_idx",
    "mesh_to_faces_packed_first_idx",
    "verts_padded_to_packed_idx",
    "num_verts_per_mesh",
    "edges_packed",
    "faces_packed_to_edges_packed",
    "verts_normals_packed",
    "faces_normals_packed",
    "faces_areas_packed",
)
TEXTURE_TENSORS = ("maps_padded", "maps_ids_padded", "faces_uvs_padded", "verts_uvs_padded", "atlas_padded")


def scene(lib: SimpleNamespace) -> Any:
    """Two meshes with colours."""
    verts, faces = square_and_tetrahedron()
    colors = [numbers(len(v), 3, seed=n) for n, v in enumerate(verts)]
    return lib.structures.Meshes(verts, faces, lib.renderer.TexturesVertex(colors))


def objects(lib: SimpleNamespace) -> dict[str, Any]:
    """All that is pickled, by name."""
    torch.manual_seed(0)
    return meshes(lib) | structures(lib) | cameras(lib) | parts(lib) | renderers(lib)


def answers(lib: SimpleNamespace, name: str, value: Any) -> dict[str, Any]:
    """What the object `name` of `lib` gives, as tensors, numbers and tuples."""
    kind = name.partition("_")[0]
    known: dict[str, Callable[..., dict[str, Any]]] = {
        "meshes": _of_meshes,
        "clouds": _of_clouds,
        "volumes": _of_volumes,
        "cameras": _of_cameras,
        "harmonic": lambda lib, module: {"output": module(numbers(4, 2))},
        "linear": lambda lib, module: {"output": module((numbers(2, 4, 3), numbers(2, 2)))},
        "VolumeRenderer": _of_volume_renderer,
    }
    if kind in known:
        found = known[kind](lib, value)
    elif isinstance(value, lib.transforms.Transform3d):
        found = _of_transform(value)
    elif kind in COMPOSITORS:
        clouds = lib.structures.Pointclouds(numbers(2, 8, 3) - 0.5, features=numbers(2, 8, 2))
        found = {"image": value(clouds)}
    elif isinstance(value, torch.nn.Module) and hasattr(value, "rasterizer"):
        image = value(scene(lib))
        found = {"image": image[0] if isinstance(image, tuple) else image}
    elif isinstance(value, tuple):
        found = value._asdict()
    else:
        found = {key: item for key, item in vars(value).items() if isinstance(item, (Tensor, int, float, tuple))}
    return {key: item for key, item in found.items() if item is not None}


def _of_meshes(lib: SimpleNamespace, meshes: Any) -> dict[str, Any]:
    # PyTorch3D computes little of an empty batch and of float64.
    names = MESH_TENSORS if len(meshes) and meshes.verts_packed().dtype == torch.float32 else MESH_TENSORS[:4]
    found: dict[str, Any] = {name: getattr(meshes, name)() for name in names}
    found |= {f"verts_{n}": verts for n, verts in enumerate(meshes.verts_list())}
    found |= {"N": len(meshes), "equisized": meshes.equisized, "valid": meshes.valid}
    found["grad"] = any(verts.requires_grad for verts in meshes.verts_list())
    if len(meshes):
        found["first"] = meshes[0].offset_verts(torch.ones(3, dtype=meshes.verts_packed().dtype)).verts_packed()
        found["edges"] = meshes[len(meshes) - 1].edges_packed()
    if meshes.textures is not None:
        of_vertices = [meshes.faces_packed()] if isinstance(meshes.textures, lib.renderer.TexturesVertex) else []
        found["corners"] = meshes.textures.faces_verts_textures_packed(*of_vertices)
        found |= {name: getattr(meshes.textures, name)() for name in TEXTURE_TENSORS if hasattr(meshes.textures, name)}
        r = lib.renderer
        cams = r.FoVPerspectiveCameras(**pose(r, 1))
        fragments = r.MeshRasterizer(cams, r.RasterizationSettings(8))(meshes)
        found["texels"] = meshes.sample_textures(fragments)
    return found


def _of_clouds(lib: SimpleNamespace, clouds: Any) -> dict[str, Any]:
    found = {"N": len(clouds), "equisized": clouds.equisized, "first": clouds.cloud_to_packed_first_idx()}
    for field in ("points", "normals", "features"):
        for form in ("packed", "padded"):
            found[f"{field}_{form}"] = getattr(clouds, f"{field}_{form}")()
        found |= {f"{field}_{n}": rows for n, rows in enumerate(getattr(clouds, f"{field}_list")() or [])}
    if len(clouds):
        found |= {"chosen": clouds[[0, -1]].points_packed(), "bounds": clouds[0].get_bounding_boxes()}
    return found


def _of_volumes(lib: SimpleNamespace, volumes: Any) -> dict[str, Any]:
    found = {"densities": volumes.densities(), "features": volumes.features(), "sizes": volumes.get_grid_sizes()}
    found |= {f"densities_{n}": grid for n, grid in enumerate(volumes.densities_list())}
    found["grid"] = volumes.get_coord_grid()
    found["local"] = volumes.world_to_local_coords(numbers(len(volumes), 4, 3))
    found["matrix"] = volumes.get_local_to_world_coords_transform().get_matrix()
    if volumes.features() is not None:
        found["updated"] = volumes.update_padded(volumes.densities() + 1).densities()
    return found


def _of_transform(transform: Any) -> dict[str, Any]:
    points = numbers(5, 3).to(transform.dtype)
    return {
        "matrix": transform.get_matrix(),
        "inverse": transform.inverse().get_matrix(),
        "points": transform.transform_points(points),
        "normals": transform.transform_normals(points),
        "further": transform.translate(1.0, 2.0, 3.0).get_matrix(),
        "N": len(transform),
        "twice": transform.stack(transform).get_matrix(),
    }


def _of_cameras(lib: SimpleNamespace, cameras: Any) -> dict[str, Any]:
    points = numbers(5, 3)
    found = {"N": len(cameras), "center": cameras.get_camera_center(), "in_ndc": cameras.in_ndc(), "R": cameras.R}
    found["points"] = cameras.transform_points(points.expand(len(cameras.R), -1, -1))
    if not isinstance(cameras, lib.FishEyeCameras):
        found["screen"] = cameras.transform_points_screen(points, image_size=((20, 30),))
        found["K"] = cameras.get_projection_transform().get_matrix()
        found["last"] = cameras[[len(cameras) - 1]].transform_points(points)
        found["copy"] = cameras.clone().transform_points(points)
    found["grad"] = any(value.requires_grad for value in vars(cameras).values() if isinstance(value, Tensor))
    return found


def _of_volume_renderer(lib: SimpleNamespace, renderer: Any) -> dict[str, Any]:
    r = lib.renderer
    volumes = lib.structures.Volumes(numbers(2, 1, 4, 4, 4) * 0.3, numbers(2, 3, 4, 4, 4), voxel_size=0.5)
    image, rays = renderer(cameras=r.FoVPerspectiveCameras(**pose(r)), volumes=volumes)
    return {"image": image, "lengths": rays.lengths}


def write(made: dict[str, Any], lib: SimpleNamespace) -> None:
    """Writes all objects as `torch.save` and as `pickle` store them, and their answers, in a small file."""
    saved = io.BytesIO()
    torch.save(made, saved)  # before anything was computed; the pickles are made after
    index, values = [], []
    for name, value in made.items():
        for key, answer in answers(lib, name, value).items():
            array = answer.detach().numpy() if isinstance(answer, Tensor) else np.asarray(answer)
            index.append([name, key, str(array.dtype), array.shape])
            values.append(array.ravel().astype(np.float32))
    pickles = {name: pickle.dumps(value) for name, value in made.items()}
    np.savez_compressed(
        Path(__file__).with_name("pickles.npz"),
        saved=np.frombuffer(saved.getvalue(), np.uint8),
        pickles=np.frombuffer(pickle.dumps(pickles), np.uint8),
        index=np.frombuffer(json.dumps(index).encode(), np.uint8),
        values=np.concatenate(values),
    )


def read() -> tuple[bytes, dict[str, bytes], dict[str, dict[str, np.ndarray]]]:
    """What `write` wrote: the file of `torch.save`, the pickles and the answers by object and name."""
    with np.load(Path(__file__).with_name("pickles.npz")) as stored:
        index, values = json.loads(stored["index"].tobytes()), stored["values"]
        saved, pickles = stored["saved"].tobytes(), pickle.loads(stored["pickles"].tobytes())
    found: dict[str, dict[str, np.ndarray]] = {}
    start = 0
    for name, key, dtype, shape in index:
        size = math.prod(shape)
        found.setdefault(name, {})[key] = values[start : start + size].astype(dtype).reshape(shape)
        start += size
    return saved, pickles, found


if __name__ == "__main__":
    with_pytorch3d = library()
    write(objects(with_pytorch3d), with_pytorch3d)
