from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from recon_engine.captures import load_capture
from recon_engine.io import IO
from recon_engine.io.experimental_gltf_io import MeshGlbFormat
from recon_engine.methods._live import read_live
from recon_engine.methods.fit_views import (
    FitViewsSettings,
    SphereModel,
    ViewFit,
    from_capture,
    from_mesh,
    render,
    save_results,
    view_settings,
)
from recon_engine.methods.fit_views.model import cube_uvs, image_of_colors
from recon_engine.methods.shapes import building
from recon_engine.quick import load
from recon_engine.renderer import FoVPerspectiveCameras, TexturesUV, TexturesVertex
from recon_engine.structures import Meshes
from recon_engine.utils import ico_sphere

TINY = {
    "views": 8,
    "held_out": 3,
    "image_size": 32,
    "level": 2,
    "iterations": 80,
    "sigma": 1e-4,
    "shape_rate": 0.02,
    "color_rate": 0.04,
    "texture_size": 16,
    "faces_per_pixel": 10,
}


@pytest.fixture(scope="module")
def house() -> Meshes:
    return building(colors=True)


@pytest.fixture(scope="module", params=["vertex", "uv"])
def fitted(request, house):
    return from_mesh(house, view_settings(**TINY, texture=request.param))


def test_documented_defaults():
    settings = view_settings("documented")
    assert settings == FitViewsSettings()
    assert (settings.views, settings.image_size, settings.distance, settings.fov) == (20, 128, 2.7, 60.0)
    assert (settings.iterations, settings.views_per_iteration, settings.level) == (2000, 2, 4)
    assert (settings.sigma, settings.faces_per_pixel, settings.light) == (1e-4, 50, (0.0, 0.0, -3.0))
    assert settings.blur_radius == pytest.approx(9.21024e-4, rel=1e-5)
    assert (settings.learning_rate, settings.momentum, settings.color_rate) == (1.0, 0.9, None)
    weights = [getattr(settings, f"weight_{name}") for name in ("rgb", "silhouette", "edge", "normal", "laplacian")]
    assert weights == [1.0, 1.0, 1.0, 0.01, 1.0]
    elevation, azimuth = settings.fitted_angles()
    assert elevation.tolist() == pytest.approx(np.linspace(0, 360, 20).tolist(), abs=1e-3)
    assert azimuth.tolist() == pytest.approx(np.linspace(-180, 180, 20).tolist(), abs=1e-3)
    assert view_settings("silhouette") == FitViewsSettings(weight_rgb=0.0)
    assert all((color == 0.5).all() for color in SphereModel(settings).colors)


def test_held_out_views_of_the_documented_path_lie_between():
    settings = view_settings("documented", views=5, held_out=2)
    elevation, azimuth = settings.held_out_angles()
    assert elevation.tolist() == [45.0, 225.0]
    assert azimuth.tolist() == [-135.0, 45.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"texture": "spots"}, "texture must be one of vertex, uv, got 'spots'"),
        ({"texture_size": 3}, "texture_size must be 4 or more, got 3"),
        ({"level": 8}, "level must be 7 or less, got 8"),
        ({"momentum": 1.0}, "momentum must be below 1, got 1.0"),
        ({"sigma": 0.0}, "sigma must be above 0, got 0.0"),
        ({"color_rate": -1.0}, "color_rate must be above 0, got -1.0"),
        ({"weight_edge": -1.0}, "weight_edge must be 0 or more, got -1.0"),
    ],
)
def test_settings_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        view_settings(**changes)


def test_unknown_presets_and_fields():
    with pytest.raises(ValueError, match="preset must be one of documented, silhouette, framed, got 'best'"):
        view_settings("best")
    with pytest.raises(TypeError, match="FitViewsSettings has no field 'iters'"):
        view_settings(iters=3)


def test_the_fit_improves(fitted):
    table = fitted.history.table()
    assert list(table) == ["total", "silhouette", "rgb", "edge", "normal", "laplacian"]
    assert sum(table["total"][-5:]) < 0.4 * sum(table["total"][:5])
    assert float(fitted.psnr.mean()) > 17
    assert float(fitted.iou.mean()) > 0.8
    assert fitted.is_unseen
    assert fitted.rendered.shape == (3, 32, 32, 4)
    assert not fitted.interrupted


def test_the_result_is_at_the_place_of_the_object(fitted, house):
    got, expected = fitted.mesh.verts_packed(), house.verts_packed()
    assert (got.amin(0) > expected.amin(0) - 0.25).all()
    assert (got.amax(0) < expected.amax(0) + 0.25).all()
    assert float(got[:, 1].max()) > 0.75 * float(expected[:, 1].max())
    torch.testing.assert_close((got - fitted.center) / fitted.scale, fitted.fitted.verts_packed(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("texture", ["vertex", "uv"])
@pytest.mark.parametrize("light", [None, (2.0, 3.0, 3.0)])
def test_the_colour_of_an_object_of_one_colour_is_found(texture, light):
    """A ball of one colour: in its own light the sphere gets that colour, wherever a view shows it."""
    color, sphere = torch.tensor([0.8, 0.3, 0.1]), ico_sphere(3)
    count = len(sphere.verts_packed())
    ball = Meshes([sphere.verts_packed() * 4 - 7], [sphere.faces_packed()], TexturesVertex([color.expand(count, 3)]))
    settings = view_settings(**TINY, texture=texture)
    result = from_mesh(ball, FitViewsSettings(**{**vars(settings), "light": light}))
    assert float(result.psnr_inside.mean()) > 20
    if texture == "vertex":
        off = (result.fitted.textures.verts_features_packed() - color).abs().amax(1)
        assert float((off < 0.15).float().mean()) > 0.7
    if light is None:
        inside = result.rendered[..., 3] > 0.99
        torch.testing.assert_close(result.rendered[..., :3][inside].mean(0), color, rtol=0, atol=0.05)


def test_the_same_seed_gives_the_same_mesh_and_another_one_another(house, fitted):
    again = from_mesh(house, fitted.settings)
    assert torch.equal(again.mesh.verts_packed(), fitted.mesh.verts_packed())
    assert torch.equal(again.psnr, fitted.psnr)
    other = from_mesh(house, view_settings(**TINY, texture=fitted.settings.texture, seed=1))
    assert not torch.equal(other.mesh.verts_packed(), fitted.mesh.verts_packed())


def test_without_colours_the_shape_alone_is_fitted(house):
    result = from_mesh(house, view_settings("silhouette", **{**TINY, "iterations": 20}))
    assert (result.fitted.textures.verts_features_packed() == 0.5).all()
    assert result.history.table()["rgb"][-1] > 0
    assert result.history.table()["silhouette"][-1] < result.history.table()["silhouette"][0]


def test_a_fit_can_be_watched_stopped_and_changed(house):
    """What the caller draws between steps changes nothing; the weight of a loss does from there on."""
    settings = view_settings(**{**TINY, "iterations": 12})
    plain = from_mesh(house, settings)
    fit = ViewFit.to_mesh(house, settings)
    before = torch.get_rng_state()
    for step in fit:
        assert len(fit.history.rows()) == step + 1
        assert fit.mesh().verts_packed().shape == (162, 3)
        torch.rand(3)
    assert torch.equal(fit.mesh().verts_packed(), plain.fitted.verts_packed())
    torch.set_rng_state(before)

    fit = ViewFit.to_mesh(house, settings)
    for step in fit:
        if step == 5:
            fit.history.reweigh("edge", 100.0)
        if step == 8:
            break
    result = fit.result()
    assert (result.history.length, result.interrupted) == (9, True)
    table, expected = result.history.table(), plain.history.table()
    assert table["edge"][:6] == expected["edge"][:6]
    assert table["edge"][-1] < expected["edge"][8]
    assert list(fit) == [9, 10, 11]
    with pytest.raises(ValueError, match=r"name must be one of silhouette, rgb, .*, got 'edges'"):
        fit.history.reweigh("edges", 1.0)
    with pytest.raises(ValueError, match="weight must be 0 or more, got -1"):
        fit.history.reweigh("edge", -1.0)


def test_a_running_fit_shows_itself(house, tmp_path):
    path = tmp_path / "a.live"
    fit = ViewFit.to_mesh(house, view_settings(**{**TINY, "iterations": 3}), live=path)
    steps = iter(fit)
    next(steps)
    kept = read_live(path)
    assert (kept["step"], kept["steps"]) == (1, 3)
    torch.testing.assert_close(kept["things"]["mesh"].verts_packed(), fit.result().mesh.verts_packed())


def test_losses_may_be_replaced(house):
    class Small(ViewFit):
        def losses(self, generator):
            first, *others = super().losses(generator)
            return (lambda: first() + self.model().verts_packed().square().mean(), *others)

    settings = view_settings(**{**TINY, "iterations": 15})
    plain, small = from_mesh(house, settings), Small.to_mesh(house, settings)
    for _ in small:
        pass
    assert small.mesh().verts_packed().norm() < plain.fitted.verts_packed().norm()


def test_a_fit_goes_on_from_its_checkpoint(house, fitted, tmp_path):
    path = tmp_path / "a.checkpoint"
    fit = ViewFit.to_mesh(house, fitted.settings, checkpoint=path)
    fit._training.checkpoint.seconds = 0.0
    for step in fit:
        if step == 30:
            break  # as a run that is killed, after the state was kept
    with pytest.raises(ValueError, match=r"is of a run with learning_rate 1\.0, not 0\.5"):
        from_mesh(house, FitViewsSettings(**{**vars(fitted.settings), "learning_rate": 0.5}), checkpoint=path)
    with pytest.raises(ValueError, match=r"is of a run with target of .* faces"):
        from_mesh(house.scale_verts(2.0), fitted.settings, checkpoint=path)
    resumed = from_mesh(house, fitted.settings, checkpoint=path)
    assert resumed.history.table() == fitted.history.table()
    assert torch.equal(resumed.mesh.verts_packed(), fitted.mesh.verts_packed())
    assert torch.equal(resumed.psnr, fitted.psnr)


@pytest.fixture
def _pythons_ctrl_c():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_pythons_ctrl_c")
def test_ctrl_c_ends_the_fit_with_what_was_reached(house):
    fit = ViewFit.to_mesh(house, view_settings(**TINY))
    for step in fit:
        if step == 4:
            signal.raise_signal(signal.SIGINT)
    assert fit.history.length == 5
    assert fit.result().interrupted


@pytest.mark.parametrize("size", [8, 16, 64])
@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_parts_of_the_image_do_not_mix(level, size):
    """All corners of a face are a texel inside of one part, and faces with the same part do not overlap."""
    sphere = ico_sphere(level)
    uvs, faces = cube_uvs(sphere.verts_packed(), sphere.faces_packed(), size)
    x, y = uvs[:, 0] * 3, (1 - uvs[:, 1]) * 2
    part = x.floor().long() + 3 * y.floor().long()
    assert ((part[faces] == part[faces][:, :1]).all(1)).all()
    for local in (x % 1, y % 1):
        assert float(local.min()) > 0.99 / size
        assert float(local.max()) < 1 - 0.99 / size
    assert part.unique().tolist() == list(range(6))
    if level >= 2:
        a, b, c = uvs[faces].unbind(1)
        area = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
        of_face = part[faces[:, 0]]
        for i in range(6):
            signs = area[of_face == i].sign().unique()
            assert len(signs) == 1
            assert float(area[of_face == i].abs().max()) < 6 * float(area[of_face == i].abs().min())


def test_the_shape_is_the_sum_of_its_layers():
    model = SphereModel(view_settings(**TINY))
    assert [len(layer) for layer in model.shape] == [12, 42, 162]
    assert [len(layer) for layer in SphereModel(view_settings("documented", level=2)).shape] == [162]
    with torch.no_grad():
        model.shape[0][:] = model.start.verts_packed()[:12]
        model.shape[2][:, 1] = 2.0
    offset = model.offset().detach() - torch.tensor([0.0, 2.0, 0.0])
    # Linear between the corners of the icosahedron: nearer to the middle than the sphere, in its direction about.
    torch.testing.assert_close(offset[:12], model.start.verts_packed()[:12])
    assert ((offset * model.start.verts_packed()).sum(1) > 0.75).all()
    assert (offset.norm(dim=1) < 1.0 + 1e-6).all()


def test_the_steps_of_adam_become_smaller(house):
    settings = view_settings("documented", **{**TINY, "iterations": 4, "texture": "uv"})
    fit = ViewFit.to_mesh(house, FitViewsSettings(**{**vars(settings), "shape_rate": None}))
    adam, descent = fit._training.optimizers
    rates = [[adam.param_groups[0]["lr"], descent.param_groups[0]["lr"]] for _ in fit]
    assert np.array(rates) == pytest.approx(np.array([[0.04, 1.0]] * 3 + [[0.004, 1.0]]))


def test_the_image_is_the_sum_of_its_layers():
    model = SphereModel(view_settings(**{**TINY, "texture": "uv"}))
    assert [layer.shape[-1] for layer in model.colors] == [4, 8, 16]
    with torch.no_grad():
        model.colors[0][4, 1] += 0.2
        model.colors[2][4, 0, 3, 5] = 9.0
    image = model.image()
    assert image.shape == (32, 48, 3)
    torch.testing.assert_close(image[20:28, 20:28], torch.tensor([0.5, 0.7, 0.5]).expand(8, 8, 3))
    assert image[16 + 3, 16 + 5, 0].tolist() == 1.0  # cut
    image[16 + 3, 16 + 5, 0].backward()
    assert float(model.colors[2].grad[4, 0, 3, 5]) == 1.0  # but it may come back
    assert (image[:16] == 0.5).all()


def test_an_image_of_colours_shows_the_same():
    sphere = ico_sphere(3)
    colors = (sphere.verts_packed() + 1) / 2
    mesh = Meshes([sphere.verts_packed()], [sphere.faces_packed()], TexturesVertex([colors]))
    settings = FitViewsSettings(image_size=64, light=None)
    cameras = from_cameras(settings)
    with_image = image_of_colors(mesh, sphere, 64)
    expected, got = (render(m, cameras, settings) for m in (mesh, with_image))
    assert float((expected - got).abs().mean()) < 1e-3
    assert float((expected - got).abs().max()) < 0.05


def from_cameras(settings: FitViewsSettings):
    from recon_engine.methods._views import cameras_at

    angles = torch.tensor([0.0, 40.0, -70.0]), torch.tensor([10.0, 130.0, 250.0])
    return cameras_at(*angles, settings, torch.device("cpu"))


@pytest.fixture(scope="module")
def saved(fitted, tmp_path_factory) -> Path:
    for module in ("PIL", "matplotlib"):
        pytest.importorskip(module)
    folder = tmp_path_factory.mktemp("results")
    save_results(fitted, folder, "a <b> & c")
    return folder


def test_results_hold_the_mesh_and_the_numbers(fitted, saved):
    assert {path.name for path in saved.iterdir()} == {
        "mesh.obj",
        "mesh.mtl",
        "mesh.png",
        "mesh.glb",
        "losses.csv",
        "losses.png",
        "held_out.png",
        "turntable.gif",
        "metrics.json",
        "report.html",
    }
    metrics = json.loads((saved / "metrics.json").read_text())
    assert metrics["psnr_mean"] == pytest.approx(float(fitted.psnr.mean()))
    assert [view["view"] for view in metrics["held_out"]] == ["view 1", "view 2", "view 3"]
    assert metrics["settings"]["texture"] == fitted.settings.texture
    assert metrics["rotation"] == torch.eye(3).tolist()
    assert not metrics["measured_views_were_fitted"]
    assert len((saved / "losses.csv").read_text().splitlines()) == 81


def test_saved_meshes_look_like_the_result(fitted, saved):
    settings, views = fitted.settings, fitted.held_out
    io = IO()
    io.register_meshes_format(MeshGlbFormat())
    for mesh in (load(saved / "mesh.obj"), io.load_mesh(saved / "mesh.glb")):
        assert isinstance(mesh.textures, (TexturesUV, TexturesVertex))
        verts = (mesh.verts_packed() - fitted.center) / fitted.scale
        textures = mesh.textures
        if isinstance(textures, TexturesUV):
            textures = TexturesUV(
                textures.maps_padded(), textures.faces_uvs_padded(), textures.verts_uvs_padded(), align_corners=False
            )
        shown = render(Meshes([verts], [mesh.faces_packed()], textures), views.cameras, settings)
        assert float((shown - fitted.rendered).abs().mean()) < 0.01


def test_the_report_is_self_contained_and_describes_its_pictures(saved):
    html = (saved / "report.html").read_text()
    assert "a &lt;b&gt; &amp; c" in html
    assert html.count("<img") == html.count('alt="') == 1 + 4 + 3
    assert html.count('src="') == html.count('src="data:') == 8
    assert "Views that the fit never saw" in html


@pytest.mark.parametrize("kind", ["colmap", "nerf", "csv"])
def test_pictures_with_cameras_are_fitted(kind, write_capture, tmp_path):
    """The mesh stands where the object was, in the world of the camera file."""
    pytest.importorskip("matplotlib")
    scene = write_capture(kind, views=12, height=40, width=40)
    capture = load_capture(scene.folder, image_size=32, held_out=2)
    result = from_capture(capture, view_settings(**TINY, texture="uv"))
    assert (result.settings.views, result.settings.held_out, result.settings.light) == (10, 2, None)
    assert float(result.psnr.mean()) > 17
    assert float(result.iou.mean()) > 0.8
    got, expected = result.mesh.verts_packed(), scene.mesh.verts_packed()
    assert (got.amin(0) > expected.amin(0) - 0.25 * scene.scale).all()
    assert (got.amax(0) < expected.amax(0) + 0.25 * scene.scale).all()
    near = torch.cdist(expected, got).amin(1)
    assert float(near.mean()) < 0.12 * scene.scale
    save_results(result, tmp_path / kind, "pictures")
    # The cameras of metrics.json see the object as PyTorch3D's cameras of the pictures do.
    kept = json.loads((tmp_path / kind / "metrics.json").read_text())["cameras_of_fit"][1]
    points = torch.rand(1, 5, 3) - 0.5
    camera = FoVPerspectiveCameras(R=torch.tensor([kept["R"]]), T=torch.tensor([kept["T"]]), fov=kept["fov"])
    expected = result.held_out.cameras[1].transform_points_ndc(points)[..., :2]
    shift = expected - camera.transform_points_ndc(points)[..., :2]
    torch.testing.assert_close(shift, shift[:, :1].expand_as(shift), rtol=0, atol=1e-4)  # off the middle, no more
    html = (tmp_path / kind / "report.html").read_text()
    assert html.count("<img") == 1 + 2 + 2
    assert "p 03" in html


def test_without_other_pictures_the_fitted_ones_are_measured(write_capture, tmp_path):
    pytest.importorskip("matplotlib")
    capture = load_capture(write_capture("csv", height=24, width=24).folder, image_size=24, held_out=0)
    result = from_capture(capture, view_settings(**{**TINY, "iterations": 3}))
    assert not result.is_unseen
    assert len(result.psnr) == 8
    save_results(result, tmp_path / "csv", "pictures")
    assert "Views that were fitted" in (tmp_path / "csv" / "report.html").read_text()
    assert json.loads((tmp_path / "csv" / "metrics.json").read_text())["measured_views_were_fitted"]


@pytest.mark.slow
def test_the_cow_is_reconstructed(recon_data):
    mesh = load(recon_data / "book" / "chap2" / "data" / "cow_mesh" / "cow.obj")
    assert float(from_mesh(mesh).psnr.mean()) >= 25
