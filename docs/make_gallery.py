"""Makes pictures of docs/gallery.md: `python docs/make_gallery.py [wrapped] [clouds] ...`; all when none is named.

The page shows the functions below next to what they return. No file is needed.
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from recon_engine import ops
from recon_engine.loss import chamfer_distance, mesh_edge_loss, mesh_laplacian_smoothing, mesh_normal_consistency
from recon_engine.methods import _pictures as pictures
from recon_engine.methods import nerf
from recon_engine.methods._views import cameras_at, place, take_pictures
from recon_engine.methods.align import AlignFit, align_settings, built_in, displaced
from recon_engine.methods.fit_views import ViewFit
from recon_engine.methods.nerf import NerfFit, nerf_settings
from recon_engine.methods.pose import Orbit, PoseFit, observe, pose_settings
from recon_engine.methods.shapes import building
from recon_engine.ops.marching_cubes import marching_cubes
from recon_engine.quick import render
from recon_engine.renderer import (
    AlphaCompositor,
    FoVPerspectiveCameras,
    PointsRasterizationSettings,
    PointsRasterizer,
    PointsRenderer,
    PulsarPointsRenderer,
    TexturesVertex,
    look_at_view_transform,
)
from recon_engine.structures import Meshes, Pointclouds, join_meshes_as_scene
from recon_engine.utils import ico_sphere

SIZE = 300
PAPER = torch.tensor(pictures.PAPER) / 255


def wrapped() -> list[Tensor]:
    """A sphere that is drawn towards a cloud of points, and kept smooth."""
    target = ops.sample_points_from_meshes(star(), 20000)
    sphere = ico_sphere(4)
    offset = torch.zeros_like(sphere.verts_packed(), requires_grad=True)
    optimizer = torch.optim.Adam([offset], lr=0.01)
    shown = [show(sphere)]
    for step in range(300):
        mesh = sphere.offset_verts(offset)
        loss, _ = chamfer_distance(ops.sample_points_from_meshes(mesh, 5000), target)
        loss = loss + 0.1 * mesh_laplacian_smoothing(mesh) + 0.5 * mesh_edge_loss(mesh)
        loss = loss + 0.01 * mesh_normal_consistency(mesh)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step + 1 in (20, 80, 300):
            shown.append(show(mesh.detach()))
    return shown


def textured() -> list[Tensor]:
    """The building, and a sphere that takes its shape and colours from pictures: after 15, 60 and 500 steps."""
    house = building(colors=True)
    shown = [show(house, elevation=15.0, azimuth=35.0)]
    fit = ViewFit.to_mesh(house)
    for step in fit:
        if step + 1 in (15, 60, 500):
            shown.append(show(fit.mesh(), elevation=15.0, azimuth=35.0))
    return shown


def found() -> list[Tensor]:
    """A picture, and what a camera sees on its way to where that was taken: at first, after 8, 20 and 65 steps."""
    house, settings = building(colors=True), pose_settings(start=(5.0, 5.0, 2.0), fov=30.0, texture=True)
    true = Orbit.at(torch.tensor([30.0]), torch.tensor([20.0]), 4.5)
    fit = PoseFit(house, observe(house, true, settings), settings)
    seen = [fit.scene.picture(true, SIZE)]
    for number, step in enumerate(fit):
        if number in (0, 8, 20, 64):
            seen.append(fit.scene.picture(step.cameras, SIZE))
    return [rgba[..., :3] - (1 - rgba[..., 3:]) * (1 - PAPER) for rgba in torch.cat(seen)]


def aligned() -> list[Tensor]:
    """A solid, one of a batch, on its way to where its noisy copy lies: at first, after 1, 12 and 200 steps."""
    solids = built_in()
    _, copies = displaced(solids, align_settings(noise=0.03))
    colors = torch.tensor([[0.80, 0.45, 0.18], [0.35, 0.55, 0.75]])

    def pair(verts: Tensor) -> Tensor:
        parts = [
            Meshes([v], [solids.faces[2]], TexturesVertex([c.expand_as(v)]))
            for v, c in ((verts, colors[0]), (copies.verts[2], colors[1]))
        ]
        return show(join_meshes_as_scene(parts), camera=seen_from(0.0, -59.0, at=(1.5, 2.0, 2.5), distance=15.0))

    shown = [pair(solids.verts[2])]
    for step in AlignFit(solids, copies):
        if step.iteration + 1 in (1, 12, 200):
            shown.append(pair(solids.verts[2] + step.T[2]))
    return shown


def field() -> list[Tensor]:
    """The building, and a radiance field after 60, 200 and 800 steps, from where no picture was taken."""
    house, settings = building(colors=True), nerf_settings(fast=True, iterations=800)
    large = replace(settings, image_size=SIZE)
    elevation, azimuth = torch.tensor([22.0]), torch.tensor([35.0])
    camera = cameras_at(elevation, azimuth, large, house.device)
    seen = [take_pictures(place(house), elevation, azimuth, large).rgba]
    fit = NerfFit.to_mesh(house, settings)
    for step in fit:
        if step + 1 in (60, 200, 800):
            seen.append(nerf.render(fit.model, camera, large))
    return [rgba[..., :3] + PAPER * (1 - rgba[..., 3:]) for rgba in torch.cat(seen)]


def clouds() -> list[Tensor]:
    """Points as discs, as discs with a soft rim that are blended, and as spheres."""
    house, camera = standing_house(), seen_from(20.0, 35.0)
    points, normals = ops.sample_points_from_meshes(house, 6000, return_normals=True)
    light = F.normalize(torch.tensor([0.2, 0.6, 0.8]), dim=0)
    colors = color_of(house, points[0]) * (0.55 + 0.45 * (normals[0] @ light)[:, None].abs())
    cloud = Pointclouds(points, features=[F.pad(colors, (0, 1), value=1.0)])  # the last channel: how much of it is seen

    def discs(radius: float, count: int) -> Tensor:
        settings = PointsRasterizationSettings(image_size=SIZE, radius=radius, points_per_pixel=count)
        return PointsRenderer(PointsRasterizer(camera, settings), AlphaCompositor())(cloud)[0]

    settings = PointsRasterizationSettings(image_size=SIZE, radius=0.035)
    spheres = PulsarPointsRenderer(PointsRasterizer(camera, settings), n_channels=4)
    balls = spheres(cloud, gamma=(1e-4,), znear=(0.5,), zfar=(6.0,), radius_world=True, bg_col=torch.zeros(4))
    return [seen[..., :3] + PAPER * (1 - seen[..., 3:]) for seen in (discs(0.006, 1), discs(0.03, 16), balls[0])]


def levels() -> list[Tensor]:
    """The surface of a field at two levels, and the voxels that are inside of it."""
    axis = torch.linspace(-math.pi, math.pi, 160)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    gyroid = sum((2 * a).sin() * (2 * b).cos() for a, b in ((x, y), (y, z), (z, x)))
    ball = (x**2 + y**2 + z**2).sqrt() - 3.0
    shown = []
    for thickness in (0.25, 0.8):
        solid = torch.maximum(gyroid.abs() - thickness, ball)
        verts, faces = marching_cubes(-solid[None], isolevel=0.0)
        shown.append(show(Meshes(verts, faces)))
    voxels = F.avg_pool3d((torch.maximum(gyroid.abs() - 0.8, ball) < 0).float()[None], 5)
    return [*shown, show(ops.cubify(voxels, 0.5), shader="flat")]


def distances() -> list[Tensor]:
    """The distance from a plane's points to the surface, negative inside, and how often it winds around them."""
    house = standing_house()
    verts, faces = house.verts_packed(), house.faces_packed()
    axis = torch.linspace(-1.1, 1.1, SIZE)
    y, x = torch.meshgrid(-axis, axis, indexing="ij")
    plane = torch.stack([x, y, torch.zeros_like(x)], -1).reshape(-1, 3)
    signed = ops.signed_distance(plane, verts, faces).reshape(SIZE, SIZE, 1)
    warm, cold = torch.tensor([0.79, 0.42, 0.16]), torch.tensor([0.16, 0.40, 0.62])
    bands = 0.72 + 0.28 * torch.cos(signed * 40 * math.pi / 2)
    side = torch.where(signed < 0, warm, cold) * (0.55 + 0.45 * bands) + 0.25 * (-signed.abs() * 6).exp()
    closest = ops.closest_points_on_mesh(plane, verts, faces)
    color = color_of(house, closest.points).reshape(SIZE, SIZE, 3)
    return [show(house, elevation=0.0, azimuth=0.0), side.clamp(0, 1), color]


def occlusion() -> list[Tensor]:
    """Rays: how far the first hit is, which way the surface faces there, and how much of the sky it sees."""
    house = standing_house()
    verts, faces = house.verts_packed(), house.faces_packed()
    ground = torch.tensor([[-3.0, -0.75, -3.0], [3, -0.75, -3], [3, -0.75, 3], [-3, -0.75, 3]])
    verts = torch.cat([verts, ground])
    faces = torch.cat([faces, torch.tensor([[0, 2, 1], [0, 3, 2]]) + len(verts) - 4])
    camera = seen_from(24.0, 35.0)
    axis = (torch.arange(SIZE) + 0.5) * (-2 / SIZE) + 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    ends = camera.unproject_points(torch.stack([x, y, torch.full_like(x, 3.0)], -1).reshape(-1, 3))
    origins = camera.get_camera_center().expand(len(ends), 3)
    hit = ops.ray_mesh_intersection(origins, ends - origins, verts, faces)
    met = hit.face_idx >= 0
    places = (origins + hit.t[:, None] * (ends - origins))[met]
    _, normals = ops.mesh_face_areas_normals(verts, faces)
    normals = normals[hit.face_idx[met]]
    seen = torch.zeros(len(places))
    for _ in range(64):
        sky = F.normalize(normals + F.normalize(torch.randn_like(normals), dim=1), dim=1)
        seen += ~ops.ray_mesh_any_hit(places + 1e-4 * normals, sky, verts, faces)
    near = (hit.t.min() / hit.t[met, None]) ** 3
    pictures = [PAPER.expand(SIZE * SIZE, 3).clone() for _ in range(3)]
    for picture, color in zip(pictures, (near * PAPER, 0.5 + 0.45 * normals, (seen / 64)[:, None] * PAPER)):
        picture[met] = color
    return [picture.reshape(SIZE, SIZE, 3) for picture in pictures]


def smoothed() -> list[Tensor]:
    """Noise on a surface, what Taubin's filter leaves of it, and the same after its faces were split."""
    mesh = star()
    verts = mesh.verts_packed()
    noisy = Meshes([verts + 0.012 * torch.randn_like(verts)], [mesh.faces_packed()])
    smooth = ops.taubin_smoothing(noisy, num_iter=20)
    return [show(noisy), show(smooth), show(ops.SubdivideMeshes()(smooth))]


# What the functions above share


def show(mesh: Meshes, **view: object) -> Tensor:
    """(SIZE, SIZE, 3): the mesh on paper."""
    rgba = render(mesh, size=SIZE, **view)
    return rgba[..., :3] * rgba[..., 3:] + PAPER * (1 - rgba[..., 3:])


def star() -> Meshes:
    """A sphere with bulges."""
    ball = ico_sphere(5)
    x, y, z = ball.verts_packed().unbind(1)
    bulge = 0.7 + 0.3 * torch.sin(4 * torch.atan2(y, x)) * (1 - z**2) + 0.12 * torch.cos(5 * z)
    return Meshes([ball.verts_packed() * bulge[:, None]], [ball.faces_packed()])


def standing_house() -> Meshes:
    """The built-in building, between -1 and 1."""
    house = building(colors=True)
    return house.offset_verts(torch.tensor([0.0, -0.8, 0.0]).expand(len(house.verts_packed()), 3)).scale_verts(0.95)


def color_of(mesh: Meshes, points: Tensor) -> Tensor:
    """(P, 3): the colour of the surface next to each point."""
    closest = ops.closest_points_on_mesh(points, mesh.verts_packed(), mesh.faces_packed())
    corners = mesh.textures.verts_features_packed()[mesh.faces_packed()[closest.face_idx]]
    return (corners * closest.bary[..., None]).sum(1)


def seen_from(
    elevation: float, azimuth: float, at: tuple[float, float, float] = (0.0, 0.0, 0.0), distance: float = 3.6
) -> FoVPerspectiveCameras:
    """A camera that looks at the origin, or at another place."""
    R, T = look_at_view_transform(distance, elevation, azimuth, at=(at,))
    return FoVPerspectiveCameras(R=R, T=T, fov=32.0)


def main() -> None:
    """Make and write the named pictures."""
    makers = {
        f.__name__: f
        for f in (wrapped, textured, found, aligned, field, clouds, levels, distances, occlusion, smoothed)
    }
    for name in sys.argv[1:] or makers:
        torch.manual_seed(0)
        path = Path(__file__).parent / f"images/gallery-{name}.png"
        row = torch.cat(makers[name](), 1).clamp(0, 1)
        path.write_bytes(pictures.png((row * 255).round().byte().numpy()))
        print(f"{path}, {path.stat().st_size // 1024} KB")


if __name__ == "__main__":
    main()
