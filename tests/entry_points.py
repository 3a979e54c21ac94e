"""The differentiable entry points of the library on small inputs, for tests of what must hold for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from recon_engine.loss import (
    chamfer_distance,
    mesh_edge_loss,
    mesh_laplacian_smoothing,
    mesh_normal_consistency,
    point_mesh_edge_distance,
    point_mesh_face_distance,
)
from recon_engine.ops import knn_points, sample_points_from_meshes
from recon_engine.renderer import (
    AlphaCompositor,
    AmbientLights,
    BlendParams,
    DirectionalLights,
    EmissionAbsorptionRaymarcher,
    FoVOrthographicCameras,
    FoVPerspectiveCameras,
    HardFlatShader,
    HardGouraudShader,
    HardPhongShader,
    ImplicitRenderer,
    MeshRasterizer,
    MeshRenderer,
    MonteCarloRaysampler,
    NDCMultinomialRaysampler,
    NormWeightedCompositor,
    PerspectiveCameras,
    PointLights,
    PointsRasterizationSettings,
    PointsRasterizer,
    PointsRenderer,
    RasterizationSettings,
    SoftPhongShader,
    SoftSilhouetteShader,
    TexturesAtlas,
    TexturesUV,
    TexturesVertex,
    VolumeRenderer,
    look_at_view_transform,
    ray_bundle_to_ray_points,
)
from recon_engine.structures import Meshes, Pointclouds, Volumes
from recon_engine.transforms import so3_exp_map
from recon_engine.utils import ico_sphere

Entry = tuple[Callable[..., Any], tuple[Tensor, ...]]
"""A function and the tensors to call it with; meshes, cameras and renderers are its own, fresh in each entry."""

SIZE = 16
SIGMA = 1e-3

ENTRIES: dict[str, Callable[[], Entry]] = {}


def _entry(make: Callable[[], Entry]) -> Callable[[], Entry]:
    ENTRIES[make.__name__] = make
    return make


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def _two_meshes() -> Meshes:
    """Spheres of different sizes whose topology nobody has asked for yet."""
    small, large = ico_sphere(0), ico_sphere(1)
    verts = [mesh.verts_packed() * radius for mesh, radius in ((small, 0.7), (large, 0.9))]
    return Meshes(verts, [mesh.faces_packed().clone() for mesh in (small, large)])


def _cameras(N: int = 1, kind: Any = FoVPerspectiveCameras) -> Any:
    R, T = look_at_view_transform(2.7, torch.linspace(10, 20, N), torch.linspace(0, 60, N))
    return kind(R=R, T=T)


def _shake(meshes: Meshes, seed: int = 0) -> Tensor:
    return 0.05 * (_random(*meshes.verts_packed().shape, seed=seed) - 0.5)


# Points


@_entry
def knn() -> Entry:
    lengths = torch.tensor([9, 5]), torch.tensor([11, 7])

    def function(p: Tensor, q: Tensor) -> Any:
        found = knn_points(p, q, *lengths, K=3, return_nn=True)
        return found.dists, found.knn

    return function, (_random(2, 9, 3), _random(2, 11, 3, seed=1))


@_entry
def chamfer() -> Entry:
    return lambda x, y: chamfer_distance(x, y)[0], (_random(2, 9, 3), _random(2, 11, 3, seed=1))


@_entry
def chamfer_with_everything() -> Entry:
    lengths, weights = (torch.tensor([9, 5]), torch.tensor([11, 7])), torch.tensor([1.0, 0.5])

    def function(x: Tensor, y: Tensor, x_normals: Tensor, y_normals: Tensor) -> Any:
        return chamfer_distance(x, y, *lengths, x_normals, y_normals, weights, norm=1)

    sizes = (9, 11, 9, 11)
    return function, tuple(_random(2, P, 3, seed=seed) - 0.5 for seed, P in enumerate(sizes))


@_entry
def chamfer_of_clouds() -> Entry:
    target = Pointclouds([_random(8, 3), _random(5, 3, seed=1)])

    def function(points: Tensor) -> Any:
        return chamfer_distance(Pointclouds([points[:6], points]), target)[0]

    return function, (_random(9, 3, seed=2),)


# Losses on meshes


def _loss_entry(name: str, loss: Callable[[Meshes], Tensor]) -> None:
    def make() -> Entry:
        meshes = _two_meshes()
        return lambda offset: loss(meshes.offset_verts(offset)), (_shake(meshes),)

    ENTRIES[name] = make


_loss_entry("edge_loss", mesh_edge_loss)
_loss_entry("laplacian_uniform", mesh_laplacian_smoothing)
_loss_entry("laplacian_cot", lambda meshes: mesh_laplacian_smoothing(meshes, "cot"))
_loss_entry("laplacian_cotcurv", lambda meshes: mesh_laplacian_smoothing(meshes, "cotcurv"))
_loss_entry("normal_consistency", mesh_normal_consistency)


@_entry
def losses_of_given_vertices() -> Entry:
    meshes = ico_sphere(1)

    def function(verts: Tensor) -> Any:
        moved = meshes.update_padded(verts)
        losses = mesh_edge_loss(moved), mesh_laplacian_smoothing(moved), mesh_normal_consistency(moved)
        return (*losses, moved.verts_normals_padded(), moved.faces_areas_packed())

    return function, (meshes.verts_padded() + _shake(meshes),)


@_entry
def point_mesh_face() -> Entry:
    meshes, clouds = _two_meshes(), Pointclouds([_random(7, 3), _random(9, 3, seed=1)])
    return lambda offset: point_mesh_face_distance(meshes.offset_verts(offset), clouds), (_shake(meshes),)


@_entry
def point_mesh_edge() -> Entry:
    meshes, clouds = _two_meshes(), Pointclouds([_random(7, 3), _random(9, 3, seed=1)])
    return lambda offset: point_mesh_edge_distance(meshes.offset_verts(offset), clouds), (_shake(meshes),)


@_entry
def sampled_points() -> Entry:
    meshes = _two_meshes()

    def function(offset: Tensor) -> Any:
        return sample_points_from_meshes(meshes.offset_verts(offset), 20, return_normals=True)

    return function, (_shake(meshes),)


# Pictures of meshes


def _rasterizer(N: int = 1, kind: Any = FoVPerspectiveCameras, blurred: bool = True, **settings: Any) -> MeshRasterizer:
    blur = math.log(1 / 1e-4 - 1) * SIGMA if blurred else 0.0
    options = {"image_size": SIZE, "blur_radius": blur, "faces_per_pixel": 6 if blurred else 1} | settings
    return MeshRasterizer(_cameras(N, kind), RasterizationSettings(**options))


def _mesh_renderer(shader: Any, N: int = 1, lights: Any = None, **settings: Any) -> MeshRenderer:
    rasterizer = _rasterizer(N, blurred=shader.__name__.startswith("Soft"), **settings)
    options: dict[str, Any] = {"blend_params": BlendParams(sigma=SIGMA, gamma=1e-2)}
    if shader is not SoftSilhouetteShader:
        lights = PointLights(location=((1.0, 2.0, 3.0),)) if lights is None else lights
        options |= {"cameras": rasterizer.cameras, "lights": lights}
    return MeshRenderer(rasterizer, shader(**options))


def _fragments_entry(name: str, kind: Any, **settings: Any) -> None:
    def make() -> Entry:
        meshes, rasterizer = _two_meshes(), _rasterizer(2, kind, **settings)

        def function(offset: Tensor) -> Any:
            fragments = rasterizer(meshes.offset_verts(offset))
            return fragments.pix_to_face, fragments.zbuf, fragments.bary_coords, fragments.dists

        return function, (_shake(meshes),)

    ENTRIES[name] = make


_fragments_entry("rasterizer", FoVPerspectiveCameras)
_fragments_entry("rasterizer_of_calibrated_cameras", PerspectiveCameras)
_fragments_entry("rasterizer_without_perspective", FoVOrthographicCameras)
_fragments_entry("rasterizer_that_clips", FoVPerspectiveCameras, z_clip_value=2.5)


def _picture_entry(name: str, shader: Any, **options: Any) -> None:
    def make() -> Entry:
        meshes, render = _two_meshes(), _mesh_renderer(shader, 2, **options)

        def function(offset: Tensor, colors: Tensor) -> Any:
            moved = meshes.offset_verts(offset)
            moved.textures = TexturesVertex([colors[:12], colors[12:]])
            return render(moved)

        return function, (_shake(meshes), _random(len(meshes.verts_packed()), 3))

    ENTRIES[name] = make


_picture_entry("silhouette", SoftSilhouetteShader)
_picture_entry("clipped_silhouette", SoftSilhouetteShader, z_clip_value=2.5)
_picture_entry("soft_phong", SoftPhongShader)
_picture_entry("clipped_soft_phong", SoftPhongShader, z_clip_value=2.5)
_picture_entry("hard_phong", HardPhongShader)
_picture_entry("hard_flat", HardFlatShader, lights=DirectionalLights(direction=((1.0, 1.0, 1.0),)))
_picture_entry("hard_gouraud", HardGouraudShader)
_picture_entry("unlit", HardPhongShader, lights=AmbientLights())


@_entry
def pictures_of_given_vertices() -> Entry:
    meshes, lights = ico_sphere(1), DirectionalLights(direction=((1.0, 1.0, 1.0),))
    renders = [_mesh_renderer(shader, lights=lights) for shader in (SoftSilhouetteShader, HardPhongShader)]

    def function(verts: Tensor) -> Any:
        moved = meshes.update_padded(verts)
        moved.textures = TexturesVertex(verts)
        return tuple(render(moved) for render in renders)

    return function, (meshes.verts_padded() + _shake(meshes),)


@_entry
def image_texture() -> Entry:
    meshes, render = ico_sphere(1), _mesh_renderer(SoftPhongShader)
    faces, uvs = meshes.faces_padded(), _random(1, len(meshes.verts_packed()), 2, seed=1)

    def function(offset: Tensor, maps: Tensor) -> Any:
        moved = meshes.offset_verts(offset)
        moved.textures = TexturesUV(maps, faces, uvs)
        return render(moved)

    return function, (_shake(meshes), _random(1, 8, 8, 3))


@_entry
def atlas_texture() -> Entry:
    meshes, render = ico_sphere(1), _mesh_renderer(SoftPhongShader)

    def function(offset: Tensor, atlas: Tensor) -> Any:
        moved = meshes.offset_verts(offset)
        moved.textures = TexturesAtlas(atlas)
        return render(moved)

    return function, (_shake(meshes), _random(1, len(meshes.faces_packed()), 2, 2, 3))


@_entry
def one_mesh_from_many_places() -> Entry:
    mesh, render = ico_sphere(1), _mesh_renderer(SoftSilhouetteShader, 3)
    return lambda offset: render(mesh.offset_verts(offset).extend(3))[..., 3], (_shake(mesh),)


@_entry
def meshes_made_inside() -> Entry:
    """What needs no edges: pictures, samples of the surface, distances to points."""
    faces, render = [mesh.faces_packed() for mesh in (ico_sphere(0), ico_sphere(1))], _mesh_renderer(HardPhongShader, 2)
    clouds = Pointclouds([_random(7, 3), _random(9, 3, seed=1)])

    def function(verts: Tensor) -> Any:
        meshes = Meshes([verts[:12], verts[12:]], faces, TexturesVertex([verts[:12], verts[12:]]))
        return render(meshes), point_mesh_face_distance(meshes, clouds), sample_points_from_meshes(meshes, 10)

    return function, (_two_meshes().verts_packed(),)


@_entry
def pose() -> Entry:
    """Cameras are made inside, from what is looked for."""
    mesh, render = ico_sphere(1), _mesh_renderer(SoftSilhouetteShader)

    def function(log_rotation: Tensor, position: Tensor) -> Any:
        cameras = FoVPerspectiveCameras(R=so3_exp_map(log_rotation), T=position)
        return render(mesh, cameras=cameras)[..., 3]

    return function, (torch.tensor([[0.1, 0.2, 0.3]]), torch.tensor([[0.1, 0.2, 2.7]]))


@_entry
def looking_at() -> Entry:
    mesh, render = ico_sphere(1), _mesh_renderer(SoftSilhouetteShader)

    def function(eye: Tensor) -> Any:
        R, T = look_at_view_transform(eye=eye)
        return render(mesh, R=R, T=T)[..., 3]

    return function, (torch.tensor([[0.3, 0.4, 2.5]]),)


# Pictures of points


def _points_rasterizer(N: int, radius: Any = 0.2) -> PointsRasterizer:
    return PointsRasterizer(_cameras(N), PointsRasterizationSettings(SIZE, radius, points_per_pixel=4))


@_entry
def points_rasterizer() -> Entry:
    rasterizer = _points_rasterizer(2)

    def function(points: Tensor) -> Any:
        fragments = rasterizer(Pointclouds([points[:9], points]))
        return fragments.idx, fragments.zbuf, fragments.dists

    return function, (_random(15, 3) - 0.5,)


def _composite_entry(name: str, compositor: Any) -> None:
    def make() -> Entry:
        composite, index = compositor(background_color=(0.1, 0.2, 0.3)), (_random(2, 4, 6, 5) * 9).long() - 2
        return lambda alphas, features: composite(index, alphas, features), (_random(2, 4, 6, 5), _random(3, 7))

    ENTRIES[name] = make


_composite_entry("alpha_compositor", AlphaCompositor)
_composite_entry("norm_weighted_compositor", NormWeightedCompositor)


def _points_entry(name: str, compositor: Any) -> None:
    def make() -> Entry:
        render = PointsRenderer(_points_rasterizer(2), compositor(background_color=(0.1, 0.2, 0.3)))

        def function(points: Tensor, features: Tensor) -> Any:
            return render(Pointclouds([points[:9], points], features=[features[:9], features]))

        return function, (_random(15, 3) - 0.5, _random(15, 3, seed=1))

    ENTRIES[name] = make


_points_entry("points_alpha", AlphaCompositor)
_points_entry("points_norm_weighted", NormWeightedCompositor)


@_entry
def points_of_a_moving_cloud() -> Entry:
    clouds = Pointclouds([_random(9, 3) - 0.5], features=[_random(9, 3, seed=1)])
    render = PointsRenderer(_points_rasterizer(1), AlphaCompositor())

    def function(offset: Tensor, radius: Tensor) -> Any:
        settings = PointsRasterizationSettings(SIZE, radius, points_per_pixel=4)
        return render(clouds.offset(offset), raster_settings=settings)

    return function, (0.1 * _random(9, 3, seed=2), 0.2 + 0.1 * _random(1, 9, seed=3))


# Volumes and functions of space


@_entry
def volumes() -> Entry:
    sampler = NDCMultinomialRaysampler(
        image_width=SIZE, image_height=SIZE, n_pts_per_ray=8, min_depth=1.5, max_depth=4.0
    )
    render, cameras = VolumeRenderer(sampler, EmissionAbsorptionRaymarcher()), _cameras(2)

    def function(densities: Tensor, features: Tensor) -> Any:
        shape = (2, -1, -1, -1, -1)
        grids = Volumes(densities[None].expand(shape), features[None].expand(shape), voxel_size=0.3)
        return render(cameras=cameras, volumes=grids)[0]

    return function, (0.5 * _random(1, 5, 6, 7), _random(3, 5, 6, 7, seed=1))


def _field(ray_bundle: Any, centre: Tensor, color: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
    distance = (ray_bundle_to_ray_points(ray_bundle) - centre).norm(dim=-1, keepdim=True)
    return torch.sigmoid(4 * (0.8 - distance)), torch.sigmoid(color * distance)


@_entry
def implicit_function() -> Entry:
    sampler = MonteCarloRaysampler(-1.0, 1.0, -1.0, 1.0, 12, 8, 1.5, 4.0)
    render, cameras = ImplicitRenderer(sampler, EmissionAbsorptionRaymarcher()), _cameras(2)

    def function(centre: Tensor, color: Tensor) -> Any:
        images, rays = render(cameras, _field, centre=centre, color=color)
        return images, rays.lengths

    return function, (0.1 * _random(3), _random(3, seed=1))


# A step as users write it


def fitting_step() -> Entry:
    """Silhouettes from two places and the losses that keep a mesh smooth."""
    mesh, render = ico_sphere(1), _mesh_renderer(SoftSilhouetteShader, 2)
    target = render(ico_sphere(1).scale_verts(0.7).extend(2))[..., 3]

    def function(offset: Tensor) -> Tensor:
        moved = mesh.offset_verts(offset)
        silhouette = (render(moved.extend(2))[..., 3] - target).square().mean()
        smooth = mesh_edge_loss(moved) + mesh_normal_consistency(moved) + mesh_laplacian_smoothing(moved)
        return silhouette + 0.1 * smooth

    return function, (_shake(mesh),)


def chamfer_step() -> Entry:
    """Points drawn from a mesh that approaches a cloud, and the losses that keep it smooth."""
    mesh, cloud = ico_sphere(1), _random(1, 40, 3)

    def function(offset: Tensor) -> Tensor:
        moved = mesh.offset_verts(offset)
        distance, _ = chamfer_distance(sample_points_from_meshes(moved, 30), cloud)
        smooth = mesh_edge_loss(moved) + mesh_normal_consistency(moved) + mesh_laplacian_smoothing(moved)
        return distance + 0.1 * smooth

    return function, (_shake(mesh),)


ENTRIES["fitting_step"], ENTRIES["chamfer_step"] = fitting_step, chamfer_step

FUSED = [
    *("silhouette", "clipped_silhouette", "soft_phong", "clipped_soft_phong", "hard_phong", "hard_flat"),
    *("hard_gouraud", "unlit", "image_texture", "atlas_texture", "points_alpha", "points_norm_weighted", "volumes"),
]
"""Entries that one kernel renders; they also have a way through fragments or samples."""
