from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from recon_engine.methods._train import Checkpoint
from recon_engine.methods.shapes import building
from recon_engine.methods.volume import (
    VolumeFit,
    VolumeModel,
    VolumeSettings,
    from_mesh,
    load_volume,
    render,
    save_results,
    volume_settings,
)
from recon_engine.structures import Meshes

TINY = {
    "views": 8,
    "held_out": 3,
    "image_size": 24,
    "points_per_ray": 24,
    "rays_per_view": 256,
    "views_per_iteration": 4,
    "iterations": 60,
    "resolution": 20,
}


@pytest.fixture(scope="module")
def house() -> Meshes:
    return building(colors=True)


@pytest.fixture(scope="module")
def fitted(house):
    return from_mesh(house, volume_settings(**TINY))


def test_documented_defaults():
    settings = volume_settings("documented")
    assert settings == VolumeSettings()
    assert (settings.views, settings.image_size, settings.points_per_ray, settings.depths) == (40, 128, 150, (0.1, 3.0))
    assert (settings.iterations, settings.views_per_iteration, settings.learning_rate) == (300, 10, 0.1)
    assert (settings.resolution, settings.voxel_size, settings.rays_per_view) == (128, 3 / 128, 0)
    model = VolumeModel(settings)
    assert model.log_densities.shape == (1, 128, 128, 128)
    assert model.log_colors.shape == (3, 128, 128, 128)
    assert model.log_densities.unique().tolist() == [-4.0]
    assert model.log_colors.unique().tolist() == [0.0]


def test_the_framed_preset_keeps_what_is_learnt():
    framed, documented = vars(volume_settings()), vars(volume_settings("documented"))
    for name in ("resolution", "iterations", "views", "views_per_iteration", "learning_rate", "huber", "image_size"):
        assert framed[name] == documented[name]


def test_unknown_presets_fields_and_sizes():
    with pytest.raises(ValueError, match="preset must be one of documented, framed, got 'best'"):
        volume_settings("best")
    with pytest.raises(TypeError, match="VolumeSettings has no field 'iters'"):
        volume_settings(iters=3)
    with pytest.raises(ValueError, match="resolution must be 2 or more, got 1"):
        volume_settings(resolution=1)
    with pytest.raises(ValueError, match="extent must be above 0, got -1"):
        volume_settings(extent=-1.0)


def test_the_fit_improves(fitted):
    table = fitted.history.table()
    assert list(table) == ["total", "color", "silhouette"]
    assert sum(table["total"][-5:]) < 0.3 * sum(table["total"][:5])
    assert float(fitted.psnr.mean()) > 23
    assert float(fitted.iou.mean()) > 0.85
    assert (fitted.psnr_inside < fitted.psnr).all()
    assert fitted.rendered.shape == (3, 24, 24, 4)
    densities = fitted.volumes.densities()
    assert densities.shape == (1, 1, 20, 20, 20)
    assert 0 < float(densities.min()) < 0.01
    assert float(densities.max()) < 1


def test_every_pixel_may_take_part(house):
    result = from_mesh(house, volume_settings("documented", **{**TINY, "rays_per_view": 0, "iterations": 15}))
    total = result.history.table()["total"]
    assert total[-1] < 0.6 * total[0]


def test_the_same_seed_gives_the_same_volume(house, fitted):
    again = from_mesh(house, volume_settings(**TINY))
    assert torch.equal(again.volumes.densities(), fitted.volumes.densities())
    assert torch.equal(again.psnr, fitted.psnr)
    other = from_mesh(house, volume_settings(**TINY, seed=1))
    assert not torch.equal(other.volumes.densities(), fitted.volumes.densities())


def test_a_fit_goes_on_from_its_checkpoint(house, fitted, tmp_path, monkeypatch):
    path = tmp_path / "a.checkpoint"
    steps = []
    losses = VolumeFit.losses

    def killed(*arguments):
        steps.append(1)
        if len(steps) == 12:
            raise RuntimeError("killed")
        return losses(*arguments)

    monkeypatch.setattr(Checkpoint.__init__, "__defaults__", (0.0,))
    monkeypatch.setattr(VolumeFit, "losses", killed)
    with pytest.raises(RuntimeError, match="killed"):
        from_mesh(house, volume_settings(**TINY), checkpoint=path)
    monkeypatch.setattr(VolumeFit, "losses", losses)
    with pytest.raises(ValueError, match=r"is of a run with learning_rate 0\.1, not 0\.2"):
        from_mesh(house, volume_settings(**TINY, learning_rate=0.2), checkpoint=path)
    with pytest.raises(ValueError, match=r"is of a run with target of .* faces"):
        from_mesh(house.scale_verts(2.0), volume_settings(**TINY), checkpoint=path)
    resumed = from_mesh(house, volume_settings(**TINY), checkpoint=path)
    assert resumed.history.table() == fitted.history.table()
    assert torch.equal(resumed.volumes.densities(), fitted.volumes.densities())


def test_a_fit_step_by_step_may_be_looked_at_changed_and_stopped(house, fitted):
    fit = VolumeFit.to_mesh(house, volume_settings(**TINY))
    seen = []
    for step in fit:
        seen.append(float(fit.volumes().densities().mean()))
        if step == 9:
            fit.history.reweigh("color", 0.0)
        if step == 12:
            break
    assert len(set(seen)) == fit.history.length == 13
    assert fit.history.table()["silhouette"][:11] == fitted.history.table()["silhouette"][:11]
    assert fit.history.table()["silhouette"][12] != fitted.history.table()["silhouette"][12]
    result = fit.result()
    assert result.interrupted
    assert torch.equal(result.volumes.densities(), fit.volumes().densities())
    assert list(fit) == list(range(13, 60))
    assert fit.history.length == 60
    assert not fit.result().interrupted


def test_losses_of_ones_own(house):
    """What is empty, it is told to like."""

    class Thin(VolumeFit):
        def losses(self, generator):
            color, silhouette = super().losses(generator)
            return color, lambda: silhouette() + self.model.log_densities.sigmoid().mean()

    thin, plain = (kind.to_mesh(house, volume_settings(**TINY)) for kind in (Thin, VolumeFit))
    assert float(thin.run().volumes.densities().mean()) < 0.9 * float(plain.run().volumes.densities().mean())


def test_the_sides_of_the_volume_are_those_of_the_object(fitted):
    """Opaque voxels, strays apart, lie where the building is: wide (x), less deep (z), its podium at the bottom (y)."""
    opaque = (fitted.volumes.densities()[0, 0] > 0.2).nonzero()
    grid = fitted.volumes.get_coord_grid()[0]
    points = grid[opaque[:, 0], opaque[:, 1], opaque[:, 2]] * fitted.scale + fitted.center
    low, high = points.quantile(torch.tensor([0.02, 0.98]), dim=0)
    room = 3 * fitted.settings.voxel_size * fitted.scale
    assert (low > torch.tensor([-0.6, 0.0, -0.4]) - room).all()
    assert (high < torch.tensor([0.6, 1.7, 0.4]) + room).all()
    assert float((high - low)[1]) > 1.2
    tower = points[points[:, 1] > 1.2]
    assert float(tower[:, 0].mean()) > 0.05  # it stands off the middle


@pytest.fixture(scope="module")
def saved(fitted, tmp_path_factory) -> Path:
    for module in ("PIL", "matplotlib"):
        pytest.importorskip(module)
    folder = tmp_path_factory.mktemp("results")
    save_results(fitted, folder, "a <b> & c")
    return folder


def test_results_hold_the_volume_and_the_numbers(fitted, saved):
    assert {path.name for path in saved.iterdir()} == {
        "volume.pt",
        "mesh.ply",
        "losses.csv",
        "losses.png",
        "held_out.png",
        "turntable.gif",
        "metrics.json",
        "report.html",
    }
    metrics = json.loads((saved / "metrics.json").read_text())
    assert metrics["psnr_mean"] == pytest.approx(float(fitted.psnr.mean()))
    assert len(metrics["held_out"]) == 3
    assert metrics["held_out"][1]["azimuth"] == float(fitted.held_out.azimuth[1])
    assert metrics["settings"]["resolution"] == 20
    assert metrics["loss"]["total"] == pytest.approx(fitted.history.table()["total"][-1])
    assert len((saved / "losses.csv").read_text().splitlines()) == 61


def test_the_saved_volume_is_where_the_object_is(fitted, saved):
    volumes = load_volume(saved / "volume.pt")
    torch.testing.assert_close(volumes.densities(), fitted.volumes.densities(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(volumes.features(), fitted.volumes.features(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        volumes.get_coord_grid(), fitted.volumes.get_coord_grid() * fitted.scale + fitted.center, rtol=1e-5, atol=1e-5
    )


def test_the_report_is_self_contained_and_describes_its_pictures(saved):
    html = (saved / "report.html").read_text()
    assert "a &lt;b&gt; &amp; c" in html
    assert html.count("<img") == html.count('alt="') == 1 + 3
    assert html.count('src="') == html.count('src="data:') == 4


def test_the_turntable_shows_both_sides(fitted, saved):
    image_module = pytest.importorskip("PIL.Image")
    with image_module.open(saved / "turntable.gif") as gif:
        assert gif.n_frames == len(fitted.turntable) == 24
        assert gif.size == (48, 24)
    first, other = fitted.turntable[0].astype(int), fitted.turntable[6].astype(int)
    paper = [244, 242, 237]
    assert (first[0, 0] == paper).all()
    assert abs(first[0, 47] - paper).max() < 20
    for side in (slice(0, 24), slice(24, 48)):
        assert abs(first[:, side] - other[:, side]).max() > 40


def test_pictures_of_a_volume_of_one_color():
    """Dense voxels of one colour in a cube: a picture of that colour, as large as the cube is seen."""
    settings = volume_settings(**{**TINY, "lowest": 0.0, "highest": 0.0, "resolution": 42, "image_size": 64})
    model = VolumeModel(settings)
    with torch.no_grad():
        model.log_densities.fill_(-20.0)
        model.log_densities[:, 12:30, 12:30, 12:30] = 20.0
        model.log_colors.copy_(torch.tensor([1.0, 0.0, -1.0])[:, None, None, None].expand_as(model.log_colors))
        from recon_engine.methods._views import cameras_at

        camera = cameras_at(torch.zeros(1), torch.zeros(1), settings, torch.device("cpu"))
        picture = render(model(), camera, settings)[0]
    torch.testing.assert_close(
        picture[32, 32], torch.cat([torch.tensor([1.0, 0.0, -1.0]).sigmoid(), torch.ones(1)]), rtol=0, atol=1e-3
    )
    half = 9 * settings.voxel_size  # to where the density has fallen to one half
    angle = torch.tensor(settings.angle / 2).deg2rad().tan()
    side = half / (settings.distance - half) / float(angle)
    assert float((picture[..., 3] > 0.5).float().mean()) == pytest.approx(side**2, rel=0.15)
    assert float(picture[0, 0].abs().max()) < 1e-4


@pytest.mark.slow
def test_the_building_is_reconstructed(house):
    assert float(from_mesh(house).psnr.mean()) >= 25
