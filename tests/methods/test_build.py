from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recon_engine.captures import load_capture
from recon_engine.io import load_obj
from recon_engine.methods._live import read_live
from recon_engine.methods.build import (
    BuildFit,
    BuildSettings,
    Cutouts,
    Outlines,
    Views,
    enclosed_volume,
    from_capture,
    from_images,
    from_mesh,
    from_meshes,
    image_settings,
    load_angles,
    mesh_settings,
    normalize,
    save_results,
    silhouette_iou,
    silhouettes,
)
from recon_engine.methods.shapes import building, create_cube
from recon_engine.structures import Meshes
from recon_engine.utils import ico_sphere

SMALL = {"iterations": 20, "views": 6, "image_size": 32, "level": 2, "sigma": 1e-3}


@pytest.fixture(scope="module")
def house() -> Meshes:
    return building()


@pytest.fixture(scope="module")
def built(house):
    return from_mesh(house, mesh_settings(**SMALL))


def test_documented_defaults():
    settings = mesh_settings("documented")
    assert settings == BuildSettings()
    assert (settings.iterations, settings.views, settings.views_per_iteration) == (2000, 20, 2)
    assert (settings.image_size, settings.faces_per_pixel, settings.sigma) == (128, 50, 1e-4)
    assert (settings.learning_rate, settings.momentum, settings.distance, settings.fov) == (0.25, 0.9, 2.7, 60.0)
    assert settings.blur_radius == pytest.approx(9.21e-4, rel=1e-3)
    weights = (settings.weight_silhouette, settings.weight_edge, settings.weight_normal, settings.weight_laplacian)
    assert weights == (1.0, 1.0, 0.01, 1.0)
    images = image_settings("documented")
    assert (images.iterations, images.learning_rate, images.views_per_iteration) == (100, 0.12, 0)


def test_the_framed_preset_changes_only_what_is_seen_and_the_spheres_size():
    framed, documented = vars(mesh_settings("framed")), vars(mesh_settings("documented"))
    assert {name for name in framed if framed[name] != documented[name]} == {"fov", "sphere_radius"}


def test_fast_settings():
    fast, plain = vars(mesh_settings(fast=True)), vars(mesh_settings())
    assert {name for name in fast if fast[name] != plain[name]} == {"image_size", "level", "sigma", "iterations"}
    assert image_settings(fast=True).iterations == image_settings().iterations
    assert image_settings(fast=True).image_size == 64
    assert mesh_settings(fast=True, iterations=7, level=None).iterations == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": "torus"}, "start must be one of cube, sphere, both, got 'torus'"),
        ({"iterations": 0}, "iterations must be 1 or more, got 0"),
        ({"views": -1}, "views must be 1 or more, got -1"),
        ({"image_size": 5000}, "image_size must be 4096 or less, got 5000"),
        ({"level": 20}, "level must be 7 or less, got 20"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0, got nan"),
        ({"sigma": 0.0}, "sigma must be above 0, got 0.0"),
        ({"momentum": 1.0}, "momentum must be below 1, got 1.0"),
        ({"distance": 0.5}, "distance must be above 1, outside the object, got 0.5"),
        ({"fov": 180.0}, "fov must be between 0 and 180 degrees, got 180.0"),
        ({"weight_edge": -1.0}, "weight_edge must be 0 or more, got -1.0"),
    ],
)
def test_settings_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        mesh_settings(**changes)


def test_unknown_presets_and_fields():
    with pytest.raises(ValueError, match="preset must be one of documented, framed, got 'best'"):
        mesh_settings("best")
    with pytest.raises(TypeError, match="no field 'iters'"):
        mesh_settings(iters=3)


def test_normalize_and_back():
    cube = create_cube(1)
    moved = Meshes([cube.verts_packed() * torch.tensor([4.0, 2.0, 1.0]) + 7], [cube.faces_packed()])
    fitted, frame = normalize(moved, "target")
    torch.testing.assert_close(fitted.verts_packed().amax(0), torch.tensor([0.5, 0.25, 0.125]))
    torch.testing.assert_close(frame.undo(fitted.verts_packed()), moved.verts_packed())


def broken(value: float) -> Meshes:
    verts = torch.full((3, 3), value)
    return Meshes([verts], [torch.tensor([[0, 1, 2]])])


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (Meshes([torch.rand(4, 3)], [torch.zeros(0, 3, dtype=torch.int64)]), "target must have faces"),
        (broken(float("nan")), "target has vertices that are NaN or infinite"),
        (broken(1.0), "target has no extent"),
        (create_cube(0).extend(2), "target must be one mesh, got a batch of 2"),
    ],
)
def test_unusable_targets(mesh, message):
    with pytest.raises(ValueError, match=message):
        from_mesh(mesh, mesh_settings(**SMALL))


def test_iou():
    a, b = torch.zeros(3, 4, 4), torch.zeros(3, 4, 4)
    a[0, :2], b[0, 1:3] = 1.0, 0.6
    a[1, 0] = 1.0
    torch.testing.assert_close(silhouette_iou(a, b), torch.tensor([1 / 3, 0.0, 1.0]))


def test_silhouettes_look_through_the_documented_cameras():
    alpha = silhouettes(create_cube(0), Views(torch.zeros(1), torch.zeros(1), 2.7, 60.0), BuildSettings())
    # The near face of the cube covers (0.5 / 2.2 / tan 30)^2 of the picture; softness adds half a pixel all around.
    assert float((alpha > 0.5).float().mean()) == pytest.approx((0.5 / 2.2 / 0.57735) ** 2, rel=0.08)


@pytest.mark.parametrize("start", ["cube", "sphere"])
def test_the_fit_improves(house, start):
    result = from_mesh(house, mesh_settings(**{**SMALL, "iterations": 60, "start": start}))
    silhouette = result.history.table()["silhouette"]
    assert sum(silhouette[-10:]) < 0.5 * sum(silhouette[:10])
    assert float(result.iou.mean()) > float(result.start_iou.mean()) + 0.2
    assert result.history.length == 60
    assert result.start_name == f"a {start}"


def test_the_result_has_the_inputs_place_and_scale(house):
    far = Meshes([house.verts_packed() * 10 + torch.tensor([100.0, 0.0, -50.0])], [house.faces_packed()])
    result = from_mesh(far, mesh_settings(**{**SMALL, "iterations": 100}))
    extent = result.mesh.verts_packed().amax(0) - result.mesh.verts_packed().amin(0)
    wanted = far.verts_packed().amax(0) - far.verts_packed().amin(0)
    torch.testing.assert_close(extent, wanted, rtol=0.35, atol=0.0)
    torch.testing.assert_close(result.mesh.verts_packed().mean(0), torch.tensor([100.0, 8.0, -50.0]), rtol=0, atol=2.0)


def test_the_same_seed_gives_the_same_mesh(house, built):
    again = from_mesh(house, mesh_settings(**SMALL))
    assert torch.equal(again.mesh.verts_packed(), built.mesh.verts_packed())
    assert again.chamfer == built.chamfer
    other = from_mesh(house, mesh_settings(**SMALL, seed=1))
    assert not torch.equal(other.mesh.verts_packed(), built.mesh.verts_packed())


def test_a_fit_can_be_watched_stopped_and_changed(house, built, tmp_path):
    """What the caller draws between steps changes nothing; the weight of a loss does from there on."""
    settings, path = mesh_settings(**SMALL), tmp_path / "a.live"
    fit = BuildFit.to_mesh(house, settings, live=path)
    for step in fit:
        assert len(fit.history.rows()) == step + 1
        if step == 0:
            kept = read_live(path)
            assert (kept["step"], kept["steps"]) == (1, 20)
            torch.testing.assert_close(kept["things"]["mesh"].verts_packed(), fit.result().mesh.verts_packed())
        torch.rand(3)
    assert torch.equal(fit.mesh().verts_packed(), built.fitted.verts_packed())

    fit = BuildFit.to_mesh(house, settings)
    for step in fit:
        if step == 5:
            fit.history.reweigh("edge", 100.0)
        if step == 8:
            break
    result = fit.result()
    assert (result.history.length, result.interrupted) == (9, True)
    table, expected = result.history.table(), built.history.table()
    assert table["edge"][:7] == expected["edge"][:7]
    assert table["edge"][-1] < expected["edge"][8]
    assert list(fit) == list(range(9, 20))
    with pytest.raises(ValueError, match="name must be one of silhouette, edge, normal, laplacian, got 'edges'"):
        fit.history.reweigh("edges", 1.0)


def test_losses_may_be_replaced(house, built):
    class Small(BuildFit):
        def losses(self, generator):
            first, *others = super().losses(generator)
            return (lambda: first() + self.model.meshes()[0].verts_packed().square().mean(), *others)

    small = Small.to_mesh(house, mesh_settings(**SMALL))
    for _ in small:
        pass
    assert small.mesh().verts_packed().norm() < built.fitted.verts_packed().norm()


def test_a_fit_goes_on_from_its_checkpoint(house, built, tmp_path):
    path = tmp_path / "a.checkpoint"
    fit = BuildFit.to_mesh(house, built.settings, checkpoint=path)
    fit._training.checkpoint.seconds = 0.0
    for step in fit:
        if step == 11:
            break  # as a run that is killed, after the state was kept
    with pytest.raises(ValueError, match=r"is of a run with iterations 20, not 30"):
        from_mesh(house, mesh_settings(**{**SMALL, "iterations": 30}), checkpoint=path)
    with pytest.raises(ValueError, match=r"is of a run with target a mesh with checksum"):
        from_mesh(house.scale_verts(2.0), built.settings, checkpoint=path)
    resumed = from_mesh(house, built.settings, checkpoint=path)
    assert resumed.history.table() == built.history.table()
    assert torch.equal(resumed.mesh.verts_packed(), built.mesh.verts_packed())
    assert not resumed.interrupted
    whole = from_mesh(house, built.settings, checkpoint=path)
    assert torch.equal(whole.mesh.verts_packed(), built.mesh.verts_packed())


def test_a_fit_that_moves_cameras_goes_on_from_its_checkpoint(house, tmp_path):
    pictures, elevation, azimuth = cutouts(house)
    settings = mesh_settings(iterations=20, image_size=32, level=2, sigma=1e-3, refine_cameras=True)
    path = tmp_path / "a.checkpoint"
    whole = from_images(pictures, elevation, azimuth + 5, settings)
    assert not torch.equal(whole.views.azimuth, whole.given.azimuth)
    fit = BuildFit.to_images(pictures, elevation, azimuth + 5, settings, checkpoint=path)
    fit._training.checkpoint.seconds = 0.0
    for step in fit:
        if step == 11:
            break
    with pytest.raises(ValueError, match=r"is of a run with target 6 pictures with checksum"):
        from_images(pictures, elevation, azimuth, settings, checkpoint=path)
    resumed = from_images(pictures, elevation, azimuth + 5, settings, checkpoint=path)
    assert torch.equal(resumed.mesh.verts_packed(), whole.mesh.verts_packed())
    assert torch.equal(resumed.views.azimuth, whole.views.azimuth)


def test_triangles_are_split_on_the_way(house, tmp_path):
    settings = mesh_settings(**{**SMALL, "level": 4}, coarse_to_fine=True)
    assert [settings.splits_at(i) for i in (0, 4, 5, 9, 10, 19)] == [0, 0, 1, 1, 2, 2]
    once = mesh_settings(**{**SMALL, "level": 3}, coarse_to_fine=True)
    assert [once.splits_at(i) for i in (0, 9, 10, 19)] == [0, 0, 1, 1]
    for plain in (mesh_settings(**{**SMALL, "level": 4}), mesh_settings(**SMALL, coarse_to_fine=True)):
        assert plain.splits == plain.splits_at(19) == 0

    fit = BuildFit.to_mesh(house, settings)
    shapes = []
    for _ in fit:
        shapes.append(fit.mesh().verts_packed())
    counts = [len(shape) for shape in shapes]
    assert counts == [98] * 5 + [386] * 5 + [1538] * 10
    whole = fit.result()
    assert (len(whole.start.faces_packed()), len(whole.mesh.faces_packed())) == (192, 3072)
    # A split leaves the shape as it was: the first vertices are the old ones, and one step moves them little.
    assert float((shapes[10][:386] - shapes[9]).norm(dim=1).max()) < 0.05
    together = from_meshes([house, house], settings)
    torch.testing.assert_close(together[1].mesh.verts_packed(), whole.mesh.verts_packed(), rtol=1e-4, atol=1e-4)

    for last in (3, 9):
        path = tmp_path / f"{last}.checkpoint"
        part = BuildFit.to_mesh(house, settings, checkpoint=path)
        part._training.checkpoint.seconds = 0.0
        for step in part:
            if step == last:
                break
        going_on = BuildFit.to_mesh(house, settings, checkpoint=path)
        assert torch.equal(going_on.mesh().verts_packed(), shapes[last])
        for _ in going_on:
            pass
        assert torch.equal(going_on.mesh().verts_packed(), shapes[-1])
        assert going_on.result().history.table() == whole.history.table()


def test_the_triangles_of_a_given_mesh_are_not_split(house):
    pictures, elevation, azimuth = cutouts(house)
    settings = image_settings(image_size=32, coarse_to_fine=True)
    with pytest.raises(ValueError, match="coarse_to_fine goes without init"):
        from_images(pictures, elevation, azimuth, settings, init=create_cube(0))


@pytest.fixture(scope="module")
def compared(house):
    return from_mesh(house, mesh_settings(**SMALL, start="both"))


def test_both_starts_are_compared(house, built, compared):
    cube, sphere = compared.compared
    assert (cube.start_name, sphere.start_name) == ("a cube", "a sphere")
    best = max((cube, sphere), key=lambda result: float(result.iou.mean()))
    assert torch.equal(compared.mesh.verts_packed(), best.mesh.verts_packed())
    assert compared.start_name == best.start_name
    assert built.compared == ()
    torch.testing.assert_close(cube.mesh.verts_packed(), built.mesh.verts_packed(), rtol=1e-4, atol=1e-5)
    alone = from_mesh(house, mesh_settings(**SMALL, start="sphere"))
    torch.testing.assert_close(sphere.mesh.verts_packed(), alone.mesh.verts_packed(), rtol=1e-4, atol=1e-5)
    assert sphere.history.table()["total"] == pytest.approx(alone.history.table()["total"], rel=1e-4)
    pictures, elevation, azimuth = cutouts(house)
    with pytest.raises(ValueError, match="start both goes without init"):
        from_images(pictures, elevation, azimuth, image_settings(image_size=32, start="both"), init=create_cube(0))


def test_both_starts_have_cameras_of_their_own(house, tmp_path):
    pictures, elevation, azimuth = cutouts(house)
    changes = {"iterations": 12, "image_size": 32, "level": 2, "sigma": 1e-3, "refine_cameras": True}
    result = from_images(pictures, elevation, azimuth + 5, mesh_settings(**changes, start="both"))
    alone = from_images(pictures, elevation, azimuth + 5, mesh_settings(**changes))
    cube, sphere = result.compared
    torch.testing.assert_close(cube.views.azimuth, alone.views.azimuth, rtol=0, atol=1e-2)
    assert not torch.equal(cube.views.azimuth, sphere.views.azimuth)
    pytest.importorskip("matplotlib")
    save_results(result, tmp_path, "pictures")
    html = (tmp_path / "report.html").read_text()
    assert "Start shapes" in html
    assert "chamfer" not in html  # which pictures do not have


def test_the_report_compares_the_starts(compared, tmp_path):
    pytest.importorskip("matplotlib")
    save_results(compared, tmp_path, "the house")
    html = (tmp_path / "report.html").read_text()
    assert "Start shapes" in html
    assert html.count("<img") == 4 + 4 + 1 + 1 + 4 + 6
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert [each["start"] for each in metrics["starts"]] == ["a cube", "a sphere"]
    best = max(each["silhouette_iou_mean"] for each in metrics["starts"])
    assert best == metrics["silhouette_iou_mean"]


def test_objects_that_are_fitted_together_end_as_each_would_alone(house, built, tmp_path):
    """Two of them, one with another scale and so another field of view."""
    verts = house.verts_packed() * torch.tensor([3.0, 1.0, 2.0])
    objects = [house, Meshes([verts], [house.faces_packed()])]
    settings, path = mesh_settings(**SMALL), tmp_path / "a.checkpoint"
    together = from_meshes(objects, settings)
    for got, alone in zip(together, (built, from_mesh(objects[1], settings)), strict=True):
        torch.testing.assert_close(got.mesh.verts_packed(), alone.mesh.verts_packed(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(got.iou, alone.iou, rtol=0, atol=1e-3)
        assert got.chamfer == pytest.approx(alone.chamfer, rel=1e-3)
        for name, values in alone.history.table().items():
            assert got.history.table()[name] == pytest.approx(values, rel=1e-4)

    fit = BuildFit.to_meshes(objects, settings, checkpoint=path)
    for step in fit:
        if step == 3:
            fit.history.reweigh("edge", 0.0)
            break
    assert fit.history.weights.tolist() == pytest.approx([1.0, 0.0, 0.01, 1.0] * 2)
    tables = [result.history.table() for result in fit.results()]
    mean = [sum(values) / 2 for values in zip(*(table["total"] for table in tables), strict=True)]
    assert fit.history.table()["total"] == pytest.approx(mean)


def test_objects_that_cannot_be_fitted_together(house):
    settings = mesh_settings(**SMALL)
    outlines = [Outlines.of_mesh(house, mesh_settings(**{**SMALL, "views": views})) for views in (3, 4)]
    with pytest.raises(ValueError, match=r"one or more objects in equal numbers of views, got \[3, 4\]"):
        BuildFit(outlines, settings)
    with pytest.raises(ValueError, match="one or more objects in equal numbers of views, got none"):
        from_meshes([], settings)


def cutouts(house: Meshes) -> tuple[Cutouts, torch.Tensor, torch.Tensor]:
    azimuth = torch.linspace(-180, 150, 6)
    target, _ = normalize(house, "target")
    views = Views(torch.full((6,), 10.0), azimuth, 2.7, 25.6)
    alpha = silhouettes(target, views, image_settings(image_size=32, sigma=1e-3))
    return Cutouts([f"{i}.png" for i in range(6)], alpha), views.elevation, azimuth


def test_images(house):
    pictures, elevation, azimuth = cutouts(house)
    settings = image_settings(iterations=60, image_size=32, level=2, sigma=1e-3)
    result = from_images(pictures, elevation, azimuth, settings)
    assert float(result.iou.mean()) > float(result.start_iou.mean()) + 0.1
    assert result.names == pictures.names
    assert (result.target, result.chamfer, result.unseen_iou) == (None, None, None)


def test_images_from_a_given_mesh_keep_its_scale(house):
    pictures, elevation, azimuth = cutouts(house)
    settings = image_settings(iterations=3, image_size=32, sigma=1e-3)
    init = Meshes([ico_sphere(2).verts_packed() * 30 + 5], [ico_sphere(2).faces_packed()])
    result = from_images(pictures, elevation, azimuth, settings, init=init)
    assert result.start_name == "the given mesh"
    torch.testing.assert_close(result.mesh.verts_packed(), init.verts_packed(), rtol=0, atol=6.0)


def test_pictures_alone_take_the_settings_that_shape_a_cube(house):
    pictures, elevation, azimuth = cutouts(house)
    settings = mesh_settings(iterations=60, image_size=32, level=2, sigma=1e-3)
    result = from_images(pictures, elevation, azimuth, settings)
    assert float(result.iou.mean()) > float(result.start_iou.mean()) + 0.2


def test_cameras_whose_angles_were_estimated_are_refined(tmp_path):
    """From the right shape, which may hardly move, the cameras find their places."""
    true, elevation = torch.linspace(-180, 150, 12), torch.full((12,), 10.0)
    cube = create_cube(2)
    shear = torch.tensor([[1.0, 0.0, 0.0], [0.4, 0.7, 0.2], [0.0, 0.0, 0.4]])
    wedge = Meshes([cube.verts_packed() @ shear], [cube.faces_packed()])
    target, _ = normalize(wedge, "target")
    changes = {"image_size": 48, "sigma": 3e-4, "fov": 25.6, "iterations": 120, "learning_rate": 1e-5}
    changes |= {"views_per_iteration": 4}
    alpha = silhouettes(target, Views(elevation, true, 2.7, 25.6), image_settings(**changes))
    pictures = Cutouts([f"{i}.png" for i in range(12)], alpha)
    given = true + torch.tensor([8.0, -6, 7, -9, 5, -8, 9, -7, 6, -5, 8, -8])
    results = [
        from_images(pictures, elevation, given, image_settings(**changes, refine_cameras=refined), init=wedge)
        for refined in (False, True)
    ]
    assert torch.equal(results[0].views.azimuth, given)
    assert torch.equal(results[1].given.azimuth, given)
    before, after = ((result.views.azimuth - true) for result in results)
    assert float(after.mean()) == pytest.approx(float(before.mean()), abs=1e-3)
    assert float((after - after.mean()).abs().mean()) < 0.25 * float((before - before.mean()).abs().mean())
    assert float(results[1].iou.mean()) > float(results[0].iou.mean()) + 0.02
    pytest.importorskip("matplotlib")
    save_results(results[1], tmp_path, "pictures")
    assert "azimuth as given" in (tmp_path / "report.html").read_text()
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["cameras_refined"]
    assert 4 < metrics["azimuth_change_mean"] < 12
    found = load_angles(tmp_path / "cameras.csv")
    torch.testing.assert_close(found.azimuth, results[1].views.azimuth, rtol=0, atol=1e-3)
    torch.testing.assert_close(found.distance, results[1].views.distance, rtol=0, atol=1e-4)


def test_cameras_of_rendered_silhouettes_are_known(house):
    with pytest.raises(ValueError, match="refine_cameras goes with pictures"):
        from_mesh(house, mesh_settings(**SMALL, refine_cameras=True))
    with pytest.raises(ValueError, match=r"camera_rate must be above 0, got 0\.0"):
        mesh_settings(camera_rate=0.0)


def test_when_cameras_move():
    assert not any(mesh_settings().camera_rate_at(i) for i in range(2000))
    settings = mesh_settings(iterations=100, refine_cameras=True)
    assert [settings.camera_rate_at(i) for i in (0, 24, 25, 74, 75, 99)] == pytest.approx(
        [0, 0, 0.01, 0.01, 0.001, 0.001]
    )


@pytest.mark.parametrize("kind", ["colmap", "csv"])
def test_pictures_with_cameras(kind, write_capture, tmp_path):
    scene = write_capture(kind, views=12, height=40, width=40)
    settings = mesh_settings(iterations=150, image_size=32, level=2, sigma=1e-3)
    result = from_capture(load_capture(scene.folder, image_size=32), settings)
    assert float(result.iou.mean()) > 0.75
    assert result.unseen_iou > 0.7
    got, expected = result.mesh.verts_packed(), scene.mesh.verts_packed()
    assert float(torch.cdist(expected, got).amin(1).mean()) < 0.15 * scene.scale
    assert (got.amin(0) > expected.amin(0) - 0.3 * scene.scale).all()
    assert (got.amax(0) < expected.amax(0) + 0.3 * scene.scale).all()
    pytest.importorskip("matplotlib")
    save_results(result, tmp_path, "pictures")
    kept = json.loads((tmp_path / "metrics.json").read_text())["cameras"][3]
    capture = load_capture(scene.folder, image_size=32)
    seen = int((~capture.is_held_out).nonzero()[3])
    R, T = torch.tensor(kept["R"]), torch.tensor(kept["T"])
    torch.testing.assert_close(R, capture.R[seen].float(), rtol=0, atol=1e-3)
    torch.testing.assert_close(T, capture.T[seen].float(), rtol=0, atol=1e-2)
    with pytest.raises(ValueError, match="refine_cameras goes with pictures whose cameras are angles"):
        from_capture(load_capture(scene.folder, image_size=32), mesh_settings(image_size=32, refine_cameras=True))
    with pytest.raises(ValueError, match=r"capture.rgba must be pictures of \(64, 64\), got \(32, 32\)"):
        from_capture(load_capture(scene.folder, image_size=32), mesh_settings(image_size=64))


def test_images_of_the_wrong_shape(house):
    pictures, elevation, azimuth = cutouts(house)
    with pytest.raises(ValueError, match=r"cutouts.alpha must have shape \(6, 64, 64\), got \(6, 32, 32\)"):
        from_images(pictures, elevation, azimuth, image_settings(image_size=64))
    with pytest.raises(ValueError, match=r"elevation must have shape \(6,\), got \(2,\)"):
        from_images(pictures, elevation[:2], azimuth, image_settings(image_size=32))


@pytest.fixture(scope="module")
def saved(built, tmp_path_factory) -> Path:
    for module in ("PIL", "matplotlib"):
        pytest.importorskip(module)
    folder = tmp_path_factory.mktemp("results")
    save_results(built, folder, "a <b> & c")
    return folder


def test_results_hold_the_mesh_and_the_numbers(built, saved):
    written = {path.name for path in saved.iterdir()}
    assert written == {
        "mesh.obj",
        "losses.csv",
        "losses.png",
        "silhouettes.png",
        "turntable.gif",
        "metrics.json",
        "report.html",
    }
    verts, faces, _ = load_obj(str(saved / "mesh.obj"), load_textures=False)
    torch.testing.assert_close(verts, built.mesh.verts_packed(), rtol=0, atol=1e-4)
    assert torch.equal(faces.verts_idx, built.mesh.faces_packed())
    metrics = json.loads((saved / "metrics.json").read_text())
    assert metrics["silhouette_iou_mean"] == pytest.approx(float(built.iou.mean()))
    assert len(metrics["silhouette_iou"]) == 6
    assert metrics["settings"]["iterations"] == 20
    assert [each["start"] for each in metrics["starts"]] == ["a cube"]
    assert metrics["watertight"]
    assert metrics["volume"] > 0
    assert metrics["reclosed"] is None
    assert len((saved / "losses.csv").read_text().splitlines()) == 21


def test_a_watertight_surface_beside_the_mesh(built, tmp_path):
    pytest.importorskip("matplotlib")
    trimesh = pytest.importorskip("trimesh")
    frame = built.frame._replace(center=torch.tensor([50.0, 0.0, -20.0]))
    save_results(replace(built, frame=frame, settings=replace(built.settings, watertight=True)), tmp_path, "the house")
    kept = json.loads((tmp_path / "metrics.json").read_text())["reclosed"]
    assert kept["watertight"]
    assert 0 < kept["distance_max"] < built.frame.scale / 96
    loaded = trimesh.load(tmp_path / "watertight.obj")
    assert loaded.is_watertight
    assert loaded.is_winding_consistent
    assert loaded.volume == pytest.approx(kept["volume"], rel=1e-3)
    assert kept["volume"] == pytest.approx(enclosed_volume(built.mesh), rel=0.02)
    assert loaded.bounds.mean(0) == pytest.approx([50.0, 0.0, -20.0], abs=0.5)
    html = (tmp_path / "report.html").read_text()
    assert "watertight.obj" in html
    assert html.count("<img") == 4 + 4 + 1 + 1 + 1 + 6


def test_an_open_mesh_to_start_from_is_reported_as_open(house, tmp_path):
    pytest.importorskip("matplotlib")
    pictures, elevation, azimuth = cutouts(house)
    cube = create_cube(2)
    bowl = Meshes([cube.verts_packed()], [cube.faces_packed()[:-8]])
    settings = image_settings(iterations=2, image_size=32, sigma=1e-3)
    save_results(from_images(pictures, elevation, azimuth, settings, init=bowl), tmp_path, "a bowl")
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert not metrics["watertight"]
    assert "not watertight" in (tmp_path / "report.html").read_text()


def test_a_mesh_that_is_inside_out_is_turned(house):
    pictures, elevation, azimuth = cutouts(house)
    cube = create_cube(2)
    settings = image_settings(iterations=2, image_size=32, sigma=1e-3)
    plain, turned = (
        from_images(pictures, elevation, azimuth, settings, init=Meshes([cube.verts_packed()], [faces]))
        for faces in (cube.faces_packed(), cube.faces_packed().flip(1))
    )
    assert torch.equal(turned.fitted.faces_packed(), cube.faces_packed())
    torch.testing.assert_close(turned.fitted.verts_packed(), plain.fitted.verts_packed(), rtol=0, atol=1e-5)


def test_the_report_is_self_contained_and_describes_its_pictures(saved):
    html = (saved / "report.html").read_text()
    assert "a &lt;b&gt; &amp; c" in html
    assert html.count("<img") == html.count('alt="') == 4 + 4 + 1 + 1 + 6
    assert "http" not in html.replace("data:image", "")[:20000]
    assert 'src="data:' in html
    assert html.count('src="') == html.count('src="data:')


def test_the_turntable_turns(saved):
    image_module = pytest.importorskip("PIL.Image")
    with image_module.open(saved / "turntable.gif") as gif:
        assert gif.n_frames == 24
        assert gif.info["loop"] == 0
        first = gif.convert("RGB").tobytes()
        gif.seek(6)
        assert gif.convert("RGB").tobytes() != first


@pytest.mark.slow
def test_the_documented_defaults_reconstruct_the_building(house):
    assert float(from_mesh(house, mesh_settings("documented")).iou.mean()) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("start", ["cube", "sphere"])
def test_framed_cameras_reconstruct_the_building_in_half_the_iterations(house, start):
    assert float(from_mesh(house, mesh_settings(start=start, iterations=1000)).iou.mean()) >= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("path", ["chap2/data/cow_mesh/cow.obj", "chap4/data/teapot.obj"])
def test_real_meshes(recon_data, path):
    root = recon_data / "book" if (recon_data / "book").is_dir() else recon_data
    verts, faces, _ = load_obj(str(Path(root) / path), load_textures=False)
    result = from_mesh(Meshes([verts], [faces.verts_idx]), mesh_settings(iterations=1000))
    assert float(result.iou.mean()) >= 0.9
