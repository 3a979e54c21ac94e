"""What files and runs have to be seen."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from recon_engine import cli
from recon_engine.io import IO, save_obj
from recon_engine.methods import align, build, fit_points, fit_views, nerf, pose, volume
from recon_engine.methods._live import Live, read_live
from recon_engine.methods._run import History
from recon_engine.methods.shapes import building
from recon_engine.renderer import FoVPerspectiveCameras, TexturesVertex
from recon_engine.structures import Pointclouds, Volumes
from recon_engine.utils import ico_sphere
from recon_engine.viewer import isosurface, read_scene
from recon_engine.viewer.scene import scattered, signature, unused

CENTER, SCALE = torch.tensor([3.0, -1.0, 2.0]), 4.0


def ball(size=(24, 20, 28), radius=0.8, align_corners=True, center=(0.0, 0.0, 0.0)):
    """Densities that fall from the middle, one half at the radius; colours are places."""
    empty = Volumes(
        torch.zeros(1, 1, *size),
        voxel_size=0.1,
        volume_translation=tuple(-x for x in center),
        align_corners=align_corners,
    )
    places = empty.get_coord_grid()
    distance = (places - torch.tensor(center)).norm(dim=-1)
    densities = (0.5 + (radius - distance)).clamp(0, 1)[:, None]
    colors = (0.5 + 0.3 * (places - torch.tensor(center))).permute(0, 4, 1, 2, 3)
    return Volumes(
        densities,
        colors,
        voxel_size=0.1,
        volume_translation=tuple(-x for x in center),
        align_corners=align_corners,
    )


def is_closed(mesh):
    """Every edge is run along once in each direction."""
    start, end = torch.cat([mesh.faces_packed()[:, [i, (i + 1) % 3]] for i in range(3)]).unbind(1)
    count = len(mesh.verts_packed())
    return torch.equal((start * count + end).sort().values, (end * count + start).sort().values)


@pytest.mark.parametrize("align_corners", [True, False])
def test_isosurface_of_a_ball(align_corners):
    center = (0.5, -0.25, 2.0)
    volumes = ball(align_corners=align_corners, center=center)
    mesh = isosurface(volumes)
    offset = mesh.verts_packed() - torch.tensor(center)
    torch.testing.assert_close(offset.norm(dim=1), torch.full((len(offset),), 0.8), rtol=0, atol=4e-3)
    assert (mesh.verts_normals_packed() * offset).sum(1).min() > 0
    assert is_closed(mesh)
    expected = 0.5 + 0.3 * offset
    torch.testing.assert_close(mesh.textures.verts_features_packed(), expected, rtol=0, atol=1e-3)


def test_isosurface_is_closed_at_the_border():
    volumes = ball(size=(9, 9, 9), radius=2.0)
    mesh = isosurface(volumes)
    assert is_closed(mesh)
    low, high = volumes.get_coord_grid().reshape(-1, 3).amin(0), volumes.get_coord_grid().reshape(-1, 3).amax(0)
    assert (mesh.verts_packed() >= low - 0.1).all()
    assert (mesh.verts_packed() <= high + 0.1).all()


def test_isosurface_levels_and_batches():
    volumes = Volumes(torch.cat([ball().densities(), 0.2 * ball().densities()]), voxel_size=0.1)
    meshes = isosurface(volumes)  # half of the largest density of the second
    radius = [mesh.norm(dim=1).mean().item() for mesh in meshes.verts_list()]
    assert radius[0] == pytest.approx(radius[1] - 0.3, abs=0.35)
    assert len(meshes) == 2
    assert meshes.textures is None
    larger = isosurface(volumes[0], 0.2).verts_packed().norm(dim=1).mean()
    assert float(larger) == pytest.approx(1.1, abs=0.01)


def test_scattered_points_are_inside():
    cloud = scattered(ball(), count=500)
    points = cloud.points_packed()
    assert 200 < len(points) <= 500
    assert points.norm(dim=1).max() < 0.8
    torch.testing.assert_close(cloud.features_packed(), 0.5 + 0.3 * points)
    assert scattered(Volumes(torch.zeros(1, 1, 4, 4, 4)), 0.5).isempty()


def test_meshes_and_points_of_files(tmp_path):
    house = building(colors=True)
    IO().save_mesh(house, tmp_path / "house.ply")
    mesh = read_scene(tmp_path / "house.ply").things["house"]
    assert isinstance(mesh.textures, TexturesVertex)
    torch.testing.assert_close(mesh.verts_packed(), house.verts_packed())

    points = torch.rand(50, 3)
    IO().save_pointcloud(Pointclouds([points], features=[points]), tmp_path / "cloud.ply")
    cloud = read_scene(tmp_path / "cloud.ply").things["cloud"]
    torch.testing.assert_close(cloud.points_packed(), points, rtol=0, atol=1e-6)
    assert cloud.features_packed().shape == (50, 3)

    save_obj(str(tmp_path / "dots.obj"), points, torch.zeros(0, 3, dtype=torch.int64))
    assert isinstance(read_scene(str(tmp_path / "dots.obj")).things["dots"], Pointclouds)


def test_arrays(tmp_path):
    for name, shape, kind in (("p", (7, 3), Pointclouds), ("c", (7, 6), Pointclouds), ("v", (4, 5, 6), Volumes)):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(0).random(shape))
        assert isinstance(read_scene(tmp_path / f"{name}.npy").things[name], kind)
    assert read_scene(tmp_path / "c.npy").things["c"].features_packed().shape == (7, 3)
    np.save(tmp_path / "bad.npy", np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"\(P, 3\), \(P, 6\) or \(D, H, W\), got \(3, 4\)"):
        read_scene(tmp_path / "bad.npy")


def saved(save, result, folder):
    for module in ("PIL", "matplotlib"):
        pytest.importorskip(module)
    folder.mkdir()
    save(result, folder, "the building")
    return read_scene(folder)


def test_a_results_folder_of_build(tmp_path):
    """Its cameras see the result, at the object's place and scale, as the fit saw it."""
    house = building()
    target = house.update_padded(house.verts_padded() * SCALE + CENTER)
    result = build.from_mesh(target, build.mesh_settings(iterations=3, views=3, image_size=16, level=1))
    scene = saved(build.save_results, result, tmp_path / "run")
    assert set(scene.things) == {"mesh", "cameras"}
    assert (scene.step, scene.steps, scene.is_running) == (3, 3, False)
    assert scene.numbers["silhouette_iou_mean"] == pytest.approx(float(result.iou.mean()))
    R, T = result.views.rotation_translation()
    theirs = FoVPerspectiveCameras(R=R, T=T, fov=result.views.fov)
    mesh, cameras = scene.things["mesh"], scene.things["cameras"]
    seen = cameras.transform_points_screen(mesh.verts_packed().expand(3, -1, 3), image_size=(64, 64))[..., :2]
    expected = theirs.transform_points_screen(result.fitted.verts_packed().expand(3, -1, 3), image_size=(64, 64))
    torch.testing.assert_close(seen, expected[..., :2], rtol=0, atol=1e-2)


@pytest.fixture(scope="module")
def small_volume():
    settings = volume.volume_settings(fast=True, iterations=3, resolution=12, views=4, held_out=2, image_size=16)
    house = building(colors=True)
    return volume.from_mesh(house.update_padded(house.verts_padded() * SCALE + CENTER), settings)


def test_a_results_folder_of_volume(tmp_path, small_volume):
    scene = saved(volume.save_results, small_volume, tmp_path / "run")
    assert set(scene.things) == {"volume", "cameras"}
    volumes, cameras = scene.things["volume"], scene.things["cameras"]
    grid = volumes.get_coord_grid().reshape(-1, 3)
    torch.testing.assert_close(grid.mean(0), small_volume.center, rtol=0, atol=1e-3)
    center = cameras.transform_points_screen(small_volume.center.expand(2, 1, 3), image_size=(16, 16))[..., :2]
    torch.testing.assert_close(center, torch.full((2, 1, 2), 8.0), rtol=0, atol=1e-3)
    distance = (cameras.get_camera_center() - small_volume.center).norm(dim=1)
    expected = small_volume.settings.distance * small_volume.scale
    torch.testing.assert_close(distance, torch.full((2,), expected), rtol=1e-4, atol=0)


def test_a_checkpoint_of_volume(tmp_path):
    """A run that is going on, found by the name of its results folder."""
    settings = volume.volume_settings(fast=True, iterations=3, resolution=12, views=4, held_out=2, image_size=16)
    result = volume.from_mesh(building(colors=True), settings, checkpoint=tmp_path / "run.checkpoint")
    for path in (tmp_path / "run", tmp_path / "run.checkpoint"):
        scene = read_scene(path)
        assert (scene.step, scene.steps, scene.is_running) == (3, 3, True)
        assert scene.loss == pytest.approx(result.history.table()["total"][-1])
        torch.testing.assert_close(scene.things["volume"].densities(), result.volumes.densities())


def test_a_checkpoint_and_a_folder_of_fit_views(tmp_path):
    settings = fit_views.view_settings(fast=True, iterations=2, views=4, held_out=2, image_size=16, level=1)
    house = building(colors=True)
    target = house.update_padded(house.verts_padded() * SCALE + CENTER)
    result = fit_views.from_mesh(target, settings, checkpoint=tmp_path / "run.checkpoint")
    scene = read_scene(tmp_path / "run")
    assert scene.is_running
    verts = scene.things["fit-views"].verts_packed()
    torch.testing.assert_close(verts * result.scale + result.center, result.mesh.verts_packed())
    scene = saved(fit_views.save_results, result, tmp_path / "done")
    center = scene.things["mesh"].verts_packed().mean(0)
    seen = scene.things["cameras"].transform_points_screen(center.expand(2, 1, 3), image_size=(16, 16))[..., :2]
    assert ((seen - 8).abs() < 2).all()


def test_cameras_of_a_turned_world():
    """A volume stands upright as in the fit, a mesh lies as in the world: the cameras go with them."""
    from recon_engine.renderer import look_at_view_transform
    from recon_engine.transforms import random_rotation
    from recon_engine.viewer.scene import _cameras

    rotation, center, scale = random_rotation(), torch.tensor([1.0, 2.0, 3.0]), 2.5
    R, T = look_at_view_transform(3.0, 20.0, 50.0)
    rows = [{"R": R[0].tolist(), "T": T[0].tolist(), "fov": 40.0}]
    metrics = {"cameras_of_fit": rows, "center": center.tolist(), "scale": scale, "rotation": rotation.tolist()}
    points = torch.rand(1, 5, 3) - 0.5
    expected = FoVPerspectiveCameras(R=R, T=T, fov=40.0).transform_points(points)[..., :2]
    upright = points * scale + rotation @ center
    for things, placed in (({"field": 0}, points), ({"volume": 0}, upright), ({"mesh": 0}, upright @ rotation)):
        got = _cameras(metrics, things).transform_points(placed)[..., :2]
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_nerf(tmp_path):
    settings = nerf.nerf_settings(fast=True, iterations=2, views=4, held_out=2, image_size=16, hidden=8)
    result = nerf.from_mesh(building(colors=True), settings, checkpoint=tmp_path / "run.checkpoint")
    field = read_scene(tmp_path / "run").things["nerf"]
    assert field.densities().shape == (1, 1, 72, 72, 72)
    assert field.features().shape == (1, 3, 72, 72, 72)
    point = field.get_coord_grid()[0, 10, 20, 30]
    x, y, z = point.tolist()
    from recon_engine.renderer import RayBundle

    place = torch.tensor([[x, y, z]])
    ray = RayBundle(place, -place, torch.zeros(1, 1), torch.zeros(1, 2))
    with torch.no_grad():
        density, color = result.field(ray)
    torch.testing.assert_close(field.densities()[0, 0, 10, 20, 30], density.reshape(()), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(field.features()[0, :, 10, 20, 30], color.reshape(3), rtol=1e-4, atol=1e-6)
    folder = saved(nerf.save_results, result, tmp_path / "done")
    assert set(folder.things) == {"field", "cameras"}


def test_a_running_fit_shows_its_mesh(tmp_path):
    live = tmp_path / "run.live"
    points = CENTER + SCALE * torch.randn(200, 3)
    settings = fit_points.fit_settings(iterations=4, level=1, samples=50)
    fit_points.fit_points(points, None, settings, live=live)
    scene = read_scene(tmp_path / "run")
    assert scene.is_running
    assert (scene.step, scene.steps) == (1, 4)  # the first step is shown at once, the next one a second later
    mesh = scene.things["mesh"]
    assert (mesh.verts_packed().mean(0) - CENTER).norm() < SCALE
    assert not list(tmp_path.glob("*.part"))
    settings = build.mesh_settings(iterations=2, views=2, image_size=16, level=0)
    build.from_mesh(building(), settings, live=live, checkpoint=tmp_path / "run.checkpoint")
    assert read_scene(tmp_path / "run").steps == 2


def test_a_running_pose_shows_its_cameras(tmp_path):
    settings = pose.pose_settings(fast=True, image_size=24, iterations=3, spacing=60.0)
    house = building(colors=True).scale_verts(3.0)
    fit = pose.PoseFit(house, seen(house, settings), settings, live=tmp_path / "run.live")
    fit._live.seconds = 0.0
    for step in fit:
        scene = read_scene(tmp_path / "run")
        assert (scene.step, scene.is_running) == (fit.history.length, True)
        torch.testing.assert_close(scene.things["object"].verts_packed(), house.verts_packed())
        assert len(scene.things["moved"]) == len(step.losses)
        if step.picture == 1:
            break
    R, T = fit._found[0].cameras.rotation_translation(fit.scene.half_width)
    expected = fit.scene.in_object_units(R, T)
    found = scene.things["found"]
    torch.testing.assert_close((found.R, found.T), expected)
    assert found.fov.tolist() == [60.0]


def test_before_its_first_step_a_run_is_waited_for(tmp_path):
    settings = pose.pose_settings(fast=True, image_size=24, iterations=3, spacing=60.0)
    house = building()
    pose.PoseFit(house, seen(house, settings), settings, checkpoint=tmp_path / "run.checkpoint")._save()
    scene = read_scene(tmp_path / "run")
    assert (dict(scene.things), scene.step, scene.is_running) == ({}, 0, True)


def seen(house, settings):
    return pose.observe(house, pose.Orbit.at(torch.tensor([30.0, 38.0]), torch.tensor([20.0, 25.0]), 3.0), settings)


def test_a_running_alignment_shows_where_its_shapes_are(tmp_path):
    settings = align.align_settings(iterations=4, samples=50)
    solids = align.built_in()
    cloud = align.Shapes(["cloud", "cube"], [torch.rand(9, 3), solids.verts[0]], [solids.faces[0][:0], solids.faces[0]])
    fit = align.AlignFit(cloud, cloud.moved(torch.eye(3).repeat(2, 1, 1), torch.ones(2, 3), torch.ones(2)), settings)
    fit._live = Live(tmp_path / "run.live", 4, seconds=0.0)
    for step in fit:
        things = read_scene(tmp_path / "run").things
        assert set(things) == {"moved meshes", "moved points", "target meshes", "target points"}
        torch.testing.assert_close(things["moved points"].points_packed(), cloud.verts[0] + step.T[0])
        torch.testing.assert_close(things["moved meshes"].verts_packed(), cloud.verts[1] + step.T[1])
        torch.testing.assert_close(things["target meshes"].verts_packed(), cloud.verts[1] + 1)


@pytest.mark.parametrize("command", ["pose", "align"])
def test_poses_and_alignments_show_themselves_as_commands(command, tmp_path, monkeypatch):
    for module in ("tyro", "tqdm", "PIL", "matplotlib"):
        pytest.importorskip(module)
    shown = []
    show = Live.show

    def watched(live, things, history):
        show(live, things, history)
        shown.append(set(read_scene(tmp_path / "out").things))

    monkeypatch.setattr(Live, "show", watched)
    options = {"pose": ["--image-size", "16", "--spacing", "60"], "align": ["--samples", "50"]}
    assert cli.main([command, "--fast", "--iters", "2", *options[command], "--out", str(tmp_path / "out")]) == 0
    assert shown[0] == {"pose": {"object", "moved"}, "align": {"moved meshes", "target meshes"}}[command]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_command_shows_itself_and_cleans_up(tmp_path, monkeypatch):
    for module in ("tyro", "tqdm", "PIL", "matplotlib"):
        pytest.importorskip(module)
    seen = []
    show = Live.show

    def watched(live, mesh, history):
        show(live, mesh, history)
        seen.append(read_scene(tmp_path / "out").step)

    monkeypatch.setattr(Live, "show", watched)
    IO().save_pointcloud(Pointclouds([torch.rand(30, 3)]), tmp_path / "cloud.ply")
    options = ["--out", str(tmp_path / "out"), "--iters", "3", "--level", "1", "--samples", "50"]
    assert cli.main(["fit-points", str(tmp_path / "cloud.ply"), *options]) == 0
    assert seen[0] == 1
    assert len(seen) == 3
    assert not (tmp_path / "out.live").exists()
    scene = read_scene(tmp_path / "out")
    assert (scene.is_running, scene.step) == (False, 3)


def test_live_is_written_now_and_then_and_harms_nobody(tmp_path):
    history = History(["loss"], [1.0], 9)
    sphere = ico_sphere(0)
    for seconds, written in ((0.0, 3), (100.0, 1)):
        history.length = 0
        live = Live(tmp_path / f"{seconds}.live", 9, seconds=seconds)
        for _ in range(3):
            history.total([lambda: torch.tensor(2.0)])
            live.show(sphere, history)
        kept = read_live(tmp_path / f"{seconds}.live")
        assert (kept["step"], kept["steps"], kept["loss"]) == (written, 9, 2.0)
    (tmp_path / "a file").write_text("")
    Live(tmp_path / "a file" / "x.live", 9).show(sphere, history)  # cannot be written
    Live(None, 9).show(sphere, history)
    for content in (b"no zip", b""):
        (tmp_path / "x.live").write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read"):
            read_live(tmp_path / "x.live")
    torch.save({"verts": 1}, tmp_path / "x.live")
    with pytest.raises(ValueError, match="is not what a running fit shows"):
        read_live(tmp_path / "x.live")


def test_the_newest_is_shown(tmp_path):
    """A run that begins again where results lie already, and the results when it is done."""
    import os

    (tmp_path / "run").mkdir()
    save_obj(str(tmp_path / "run/mesh.obj"), *ico_sphere(0).get_mesh_verts_faces(0))
    metrics = tmp_path / "run/metrics.json"
    metrics.write_text(json.dumps({"iterations": 5, "seconds": 1.5}))
    assert read_scene(tmp_path / "run").numbers == {"seconds": 1.5}
    before = signature(tmp_path / "run")
    history = History(["loss"], [1.0], 9)
    history.total([lambda: torch.tensor(2.0)])
    Live(tmp_path / "run.live", 9).show(ico_sphere(1), history)
    os.utime(metrics, ns=(10**15, 10**15))
    assert signature(tmp_path / "run") != before
    assert read_scene(tmp_path / "run").is_running
    os.utime(tmp_path / "run.live", ns=(10**14, 10**14))
    assert not read_scene(tmp_path / "run").is_running


def test_cameras_alone(tmp_path):
    (tmp_path / "run").mkdir()
    cameras = [{"R": torch.eye(3).tolist(), "T": [0.0, 0.0, float(i)], "fov": 40.0} for i in range(3)]
    (tmp_path / "run/metrics.json").write_text(json.dumps({"cameras": cameras}))
    found = read_scene(tmp_path / "run").things["cameras"]
    torch.testing.assert_close(found.T[:, 2], torch.arange(3.0))
    assert found.fov.tolist() == [40.0] * 3


def test_bad_input(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file, results folder or run"):
        read_scene(tmp_path / "nothing")
    with pytest.raises(ValueError, match="holds no results"):
        read_scene(tmp_path)
    (tmp_path / "x.pt").write_bytes(b"no zip")
    with pytest.raises(ValueError, match="cannot be read"):
        read_scene(tmp_path / "x.pt")
    torch.save({"a": 1}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="neither a volume nor a radiance field"):
        read_scene(tmp_path / "x.pt")
    torch.save({"about": {"method": "other"}, "model": {}}, tmp_path / "x.checkpoint")
    with pytest.raises(ValueError, match="cannot be shown: other"):
        read_scene(tmp_path / "x.checkpoint")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no mesh, point cloud, volume, radiance field or cameras"):
        read_scene(tmp_path / "run")
    (tmp_path / "x.stl").write_text("nonsense")
    with pytest.raises(ValueError, match=r"x\.stl"):
        read_scene(tmp_path / "x.stl")


def test_names():
    assert unused("a", {}) == "a"
    assert unused("a", {"a": 0, "a 2": 0}) == "a 3"
