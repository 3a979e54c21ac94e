from __future__ import annotations

import json
import math
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recon_engine.methods.pose import (
    Observed,
    Orbit,
    PoseFit,
    PoseSettings,
    Position,
    angle_between,
    from_mesh,
    from_pictures,
    load_pictures,
    observe,
    pose_settings,
    save_results,
)
from recon_engine.methods.pose.cameras import around, centers, look_angles
from recon_engine.methods.shapes import building
from recon_engine.renderer import TexturesVertex, look_at_view_transform
from recon_engine.structures import Meshes
from recon_engine.utils import ico_sphere

FAST = pose_settings(fast=True)
TINY = replace(FAST, image_size=48, coarse_size=24, iterations=8, coarse_iterations=6, candidates=3, spacing=30.0)


@pytest.fixture(scope="module")
def house() -> Meshes:
    return building(colors=True)


def camera(azimuth: float, elevation: float, distance: float = 2.8, shift: tuple[float, float] = (0, 0)) -> Orbit:
    at = Orbit.at(torch.tensor([azimuth]), torch.tensor([elevation]), distance)
    return at._replace(shift=torch.tensor([shift]))


def off(fit: PoseFit, true: Orbit) -> tuple[float, float]:
    """Degrees, and the part of the distance, by which the first camera of a fit is off."""
    result = fit.result()
    R, T = fit.scene.in_object_units(*true.rotation_translation(fit.scene.half_width))
    return float(angle_between(result.R, R)[0]), float((result.T - T).norm() / T.norm())


def test_documented_defaults():
    settings = pose_settings("documented")
    assert settings == PoseSettings()
    assert (settings.start, settings.image_size, settings.fov, settings.light) == ((3, 6.9, 2.5), 256, 60, (2, 2, -2))
    assert (settings.iterations, settings.learning_rate, settings.learning_rate_at(0.9)) == (200, 0.05, 0.05)
    (stage,) = settings.stages
    assert (stage.size, stage.sigma_at(0.5), stage.faces_per_pixel, stage.texture_faces_per_pixel) == (
        256,
        1e-4,
        100,
        50,
    )
    assert (settings.weight_silhouette, settings.weight_texture) == (1.0, 0.0)
    assert settings.stop * 256**2 == 500
    with_colors = pose_settings("documented", texture=True)
    assert with_colors.weight_texture == 0.1
    assert with_colors.stop * 256**2 == 800


def test_the_search_goes_from_coarse_to_fine():
    coarse, fine = pose_settings().stages
    assert (coarse.size, fine.size) == (64, 256)
    assert (coarse.cameras, fine.cameras) == (6, 3)
    assert coarse.sigma > fine.sigma
    assert fine.sigma_at(0) == fine.sigma
    assert fine.sigma_at(1) == pytest.approx((0.1 * 2 / 256) ** 2)
    assert pose_settings().learning_rate_at(0) == 0.02
    assert pose_settings().learning_rate_at(1) == pytest.approx(0.02 * 0.02)
    assert pose_settings().stop == 0
    assert pose_settings(start=(1, 2, 3)).start == (1, 2, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fov": 180}, "fov must be between 0 and 180 degrees, got 180"),
        ({"spacing": 1.0}, "spacing must be 3 or more, got 1.0"),
        ({"iterations": 0}, "iterations must be 1 or more, got 0"),
        ({"light": (1, 2)}, r"light must be three finite numbers, got \(1, 2\)"),
        ({"start": (0.0, 0.0, 0.0)}, "start must not be the point that the camera looks at"),
        ({"start": (0.0, math.nan, 0.0)}, "start must be three finite numbers"),
        ({"weight_silhouette": 0.0}, "weight_silhouette and weight_texture must not both be 0"),
    ],
)
def test_settings_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        pose_settings(**changes)


def test_unknown_presets_and_fields():
    with pytest.raises(ValueError, match="preset must be one of documented, search, got 'best'"):
        pose_settings("best")
    with pytest.raises(TypeError, match="PoseSettings has no field 'iters'"):
        pose_settings(iters=3)
    with pytest.raises(ValueError, match="start must be given where the object is not framed"):
        PoseSettings(start=None)


def test_cameras_are_those_of_look_at_view_transform():
    azimuth, elevation = torch.tensor([30.0, 200.0, -170.0]), torch.tensor([20.0, -50.0, 89.0])
    distance = torch.tensor([3.0, 2.0, 5.0])
    R, T = look_at_view_transform(distance, elevation, azimuth)
    orbit = Orbit.at(azimuth, elevation, distance)
    for cameras in (orbit, Orbit.from_position(centers(R, T)), Position(centers(R, T))):
        got_R, got_T = cameras.rotation_translation(0.5)
        torch.testing.assert_close(got_R, R, rtol=0, atol=2e-5)
        torch.testing.assert_close(got_T, T, rtol=0, atol=1e-4)
    found = look_angles(R, T, torch.zeros(3))
    torch.testing.assert_close(found[0].float(), distance)
    torch.testing.assert_close(found[1].float(), elevation, rtol=0, atol=1e-3)
    torch.testing.assert_close(found[2].float() % 360, azimuth % 360, rtol=0, atol=2e-2)


def test_nothing_jumps_at_the_pole():
    R, _ = Orbit.at(torch.tensor([40.0, 40.0]), torch.tensor([89.9, 90.1]), 3.0).rotation_translation(0.5)
    assert float(angle_between(R[:1], R[1:])) == pytest.approx(0.2, abs=1e-3)


def test_shifts_move_the_middle_in_the_picture():
    half_width = math.tan(math.radians(30))
    _, T = camera(10, 20, 3.0, (0.3, -0.2)).rotation_translation(half_width)
    torch.testing.assert_close(T[0, :2] / T[0, 2] / half_width, torch.tensor([0.3, -0.2]))
    assert float(T[0, 2]) == pytest.approx(3.0)


@pytest.mark.parametrize("degrees", [0.0, 1e-3, 1.0, 90.0, 179.0, 180.0])
def test_angles_between_rotations(degrees):
    a, b = (
        Orbit.at(torch.tensor([x], dtype=torch.float64), torch.zeros(1, dtype=torch.float64), 1.0)
        for x in (0.0, degrees)
    )
    Ra, Rb = a.rotation_translation(1.0)[0], b.rotation_translation(1.0)[0]
    assert float(angle_between(Ra, Rb)) == pytest.approx(degrees, abs=1e-4)


def test_the_search_leaves_no_gaps():
    """Every camera, with the turn of its picture near the poles, has one of the search nearby."""
    R, _ = around(12.0, 3.0, torch.Generator().manual_seed(0)).rotation_translation(1.0)
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(200, 3, generator=generator)
    others, _ = Orbit.from_position(direction / direction.norm(dim=1, keepdim=True)).rotation_translation(1.0)
    nearest = angle_between(R[None], others[:, None]).amin(1)
    assert float(nearest.max()) < 16
    assert float(nearest.mean()) < 8


@pytest.mark.parametrize("texture", [False, True])
@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.25, -0.2)])
def test_a_camera_is_found_from_anywhere(house, texture, shift):
    settings = pose_settings(fast=True, texture=texture, centered=not any(shift))
    true = camera(115, 25, 2.8, shift)
    fit = PoseFit(house, observe(house, true, settings), settings)
    losses = [float(step.losses.min()) for step in fit]
    assert len(losses) == settings.iterations_per_picture == fit.history.length
    assert losses[-1] < 0.3 * losses[0]
    result = fit.result()
    assert result.was_searched == [True]
    assert float(result.iou[0]) > 0.95
    degrees, part = off(fit, true)
    assert degrees < 4
    assert part < 0.03


def test_cameras_are_in_the_units_of_the_object(house):
    """The same object elsewhere, and larger, is seen by a camera that is moved and farther away alike."""
    moved = house.update_padded(house.verts_padded() * 10 + torch.tensor([5.0, -3.0, 2.0]))
    small = from_mesh(house, TINY)
    large = from_mesh(moved, TINY)
    assert float(angle_between(small.R, large.R)) < 0.1
    torch.testing.assert_close(large.distance, 10 * small.distance, rtol=1e-3, atol=0)
    torch.testing.assert_close(large.middle, 10 * small.middle + torch.tensor([5.0, -3.0, 2.0]))
    points = torch.rand(7, 3)
    seen = [
        r.cameras.transform_points(p)
        for r, p in ((small, points), (large, points * 10 + torch.tensor([5.0, -3.0, 2.0])))
    ]
    torch.testing.assert_close(seen[0][..., :2], seen[1][..., :2], rtol=0, atol=3e-3)


def test_the_same_seed_gives_the_same_camera(house):
    seen = observe(house, camera(200, -10), TINY)
    first, again, other = (from_pictures(house, seen, replace(TINY, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(first.R, again.R)
    assert torch.equal(first.loss, again.loss)
    assert not torch.equal(first.landscape, other.landscape)


def sequence(house: Meshes, settings: PoseSettings, azimuths: list[float]) -> Observed:
    return observe(house, Orbit.at(torch.tensor(azimuths), torch.full((len(azimuths),), 20.0), 2.8), settings)


def test_a_sequence_begins_where_the_camera_was(house):
    result = from_pictures(house, sequence(house, FAST, [100, 106, 112]), FAST)
    assert result.was_searched == [True, False, False]
    assert result.azimuth.tolist() == pytest.approx([100, 106, 112], abs=4)
    assert float(result.iou.min()) > 0.94


def test_a_lost_camera_is_searched_for(house):
    """The second picture is from the other side: the first camera leads nowhere."""
    result = from_pictures(house, sequence(house, FAST, [100, 285]), FAST)
    assert result.was_searched == [True, True]
    assert result.azimuth.tolist()[1] % 360 == pytest.approx(285, abs=5)
    assert result.history.length == result.history.planned == 3 * FAST.iterations_per_picture


def test_a_run_that_was_killed_ends_like_one_that_was_not(house, tmp_path):
    path = tmp_path / "a.checkpoint"
    seen = sequence(house, TINY, [30, 38, 46])
    whole = from_pictures(house, seen, TINY)
    steps = TINY.iterations_per_picture
    for stop in (3, steps + 5, steps + 5):  # in the search, in the second picture, in the third
        for _ in zip(range(stop), PoseFit(house, seen, TINY, checkpoint=path), strict=False):
            pass
    fit = PoseFit(house, seen, TINY, checkpoint=path)
    assert fit.history.length == 2 * steps
    again = from_pictures(house, seen, TINY, checkpoint=path)
    for name in ("R", "T", "loss", "film", "landscape"):
        assert torch.equal(getattr(again, name), getattr(whole, name)), name
    assert again.history.table() == whole.history.table()
    with pytest.raises(ValueError, match="is of a run with pictures"):
        PoseFit(house, sequence(house, TINY, [31, 38, 46]), TINY, checkpoint=path)
    with pytest.raises(ValueError, match=r"is of a run with fov 60\.0, not 50\.0"):
        PoseFit(house, seen, replace(TINY, fov=50.0), checkpoint=path)


@pytest.fixture
def _pythons_ctrl_c():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_pythons_ctrl_c")
def test_ctrl_c_keeps_what_was_reached(house, tmp_path):
    path = tmp_path / "a.checkpoint"
    seen = sequence(house, TINY, [30, 38, 46])
    fit = PoseFit(house, seen, TINY, checkpoint=path)
    for _ in fit:
        if fit.history.length == TINY.iterations_per_picture + 2:
            signal.raise_signal(signal.SIGINT)
    result = fit.result()
    assert result.interrupted
    assert result.names == ["view 1", "view 2"]
    assert len(result.R) == len(result.iou) == len(result.observed) == 2
    assert not from_pictures(house, seen, TINY, checkpoint=path).interrupted


def test_steps_may_be_watched_and_stopped(house):
    fit = PoseFit(house, observe(house, camera(60, 10), TINY), TINY)
    with pytest.raises(ValueError, match="no step was made"):
        fit.result()
    for step in fit:
        assert len(step.losses) == len(step.cameras.angles) == (3 if step.stage == 0 else 2)
        if step.stage == 1 and step.iteration == 2:
            break
    assert fit.history.length == TINY.coarse_iterations + 3
    assert len(fit.result().R) == 1


def test_losses_may_be_changed(house):
    class Far(PoseFit):
        """Wants to be far away, whatever the picture shows."""

        def losses(self, picture, stage, sigma, cameras):
            far = (cameras.log_distance[:, 0] - math.log(20.0)).square()
            return torch.stack([far, torch.zeros_like(far)], 1)

    seen = observe(house, camera(60, 10), TINY)
    fit = Far(house, seen, replace(TINY, learning_rate=0.2, last_rate=1.0, iterations=30))
    for _ in fit:
        pass
    assert float(fit.result().distance) == pytest.approx(20 * fit.scene.scale, rel=0.2)


def test_a_start_replaces_the_search(house):
    true = camera(40, 20)
    settings = pose_settings(
        fast=True,
        start=tuple((camera(45, 25).rotation_translation(1.0)[0][0, :, 2] * -3 + torch.tensor([0, 0.845, 0])).tolist()),
    )
    result = from_pictures(house, observe(house, true, settings), settings)
    assert result.was_searched == [False]
    assert len(result.landscape) == 0
    assert float(result.azimuth) == pytest.approx(40, abs=3)
    assert float(result.elevation) == pytest.approx(20, abs=3)


@pytest.mark.parametrize("texture", [False, True])
def test_the_documented_experiments(recon_data, texture):
    """The camera of the book's teapot, and of its cow, from the documented start."""
    from recon_engine import load

    file = "chap2/data/cow_mesh/cow.obj" if texture else "chap4/data/teapot.obj"
    settings = pose_settings("documented", texture=texture, image_size=128, faces_per_pixel=50)
    settings = replace(settings, stop_silhouette=125.0, stop_texture=200.0)  # of a quarter of the pixels
    result = from_mesh(load(recon_data / "book" / file), settings)
    assert result.history.length < 200
    assert float(result.loss) < settings.stop * 1.5
    degrees, percent = result.errors
    assert float(degrees) < 4
    assert float(percent) < 4


def test_objects_that_cannot_be_placed():
    seen = Observed(["a"], torch.ones(1, 48, 48, 4))
    sphere = ico_sphere(0)
    with pytest.raises(ValueError, match=r"mesh: .*one mesh"):
        PoseFit(sphere.extend(2), seen, TINY)
    with pytest.raises(ValueError, match="mesh: mesh has vertices that are NaN or infinite"):
        PoseFit(sphere.scale_verts(math.nan), seen, TINY)
    with pytest.raises(ValueError, match="mesh has no extent"):
        PoseFit(sphere.scale_verts(0.0), seen, TINY)
    with pytest.raises(ValueError, match=r"observed.rgba must have shape \(N, 48, 48, 4\), got \(1, 24, 24, 4\)"):
        PoseFit(sphere, Observed(["a"], torch.ones(1, 24, 24, 4)), TINY)
    with pytest.raises(ValueError, match="frames must be 1 or more, got 0"):
        from_mesh(sphere, TINY, frames=0)


def test_colors_of_vertices_are_those_of_their_faces(house):
    from recon_engine.methods.pose.scene import _vertex_colors

    torch.testing.assert_close(_vertex_colors(house), house.textures.verts_features_packed())
    lonely = Meshes([torch.eye(4)[:, :3]], [torch.tensor([[0, 1, 2]])], TexturesVertex([torch.full((4, 3), 0.3)]))
    assert _vertex_colors(lonely)[3].tolist() == [1.0, 1.0, 1.0]


Image = pytest.importorskip("PIL.Image")


def save(path: Path, rgba: np.ndarray, mode: str | None = None) -> None:
    image = Image.fromarray(rgba)
    (image if mode is None else image.convert(mode)).save(path)


def disc(height: int, width: int) -> np.ndarray:
    """A red disc in the middle of a green picture, transparent around the disc."""
    y, x = np.mgrid[:height, :width]
    inside = (y - height / 2 + 0.5) ** 2 + (x - width / 2 + 0.5) ** 2 < 100
    rgba = np.zeros((height, width, 4), np.uint8)
    rgba[..., 1] = 255
    rgba[inside] = (255, 0, 0, 255)
    return rgba


def test_pictures_are_cut_out_padded_and_resized(tmp_path):
    save(tmp_path / "b.png", disc(30, 60))
    save(tmp_path / "a.png", disc(60, 30))
    (tmp_path / "notes.txt").write_text("no picture")
    seen = load_pictures(tmp_path, 60)
    assert seen.names == ["a.png", "b.png"]
    assert seen.rgba.shape == (2, 60, 60, 4)
    torch.testing.assert_close(seen.rgba[0], seen.rgba[1])
    assert seen.rgba[0, 30, 30].tolist() == [1, 0, 0, 1]
    assert seen.rgba[0, 0, 0].tolist() == [1, 1, 1, 0]
    small = load_pictures(tmp_path / "a.png", 20).rgba[0]
    assert float(small[..., 3].sum()) * 9 == pytest.approx(float(seen.rgba[0, ..., 3].sum()), rel=1e-3)
    assert float((small[..., 1] - (1 - small[..., 3])).abs().max()) < 1e-5  # nothing of the green behind the disc


def test_masks(tmp_path):
    rgba = disc(40, 40)
    save(tmp_path / "a.png", rgba)
    for folder in ("pictures", "masks"):
        (tmp_path / folder).mkdir()
    Image.fromarray(rgba[..., :3]).save(tmp_path / "pictures" / "a.png")
    Image.fromarray(rgba[..., 3]).save(tmp_path / "masks" / "a.png")
    cut = load_pictures(tmp_path / "a.png", 40)
    torch.testing.assert_close(load_pictures(tmp_path / "pictures", 40, tmp_path / "masks").rgba, cut.rgba)
    one = load_pictures(tmp_path / "pictures" / "a.png", 40, tmp_path / "masks" / "a.png")
    torch.testing.assert_close(one.rgba, cut.rgba)
    Image.fromarray(rgba[..., :3]).save(tmp_path / "pictures" / "b.png")
    with pytest.raises(ValueError, match=r"b.png has no alpha channel and no mask: .*, into .*masks and give it"):
        load_pictures(tmp_path / "pictures", 40, tmp_path / "masks")
    with pytest.raises(ValueError, match="is one mask for 2 pictures"):
        load_pictures(tmp_path / "pictures", 40, tmp_path / "masks" / "a.png")
    save(tmp_path / "masks" / "b.png", disc(40, 50))
    with pytest.raises(ValueError, match=r"b.png must be as large as its picture: expected 40 x 40 pixels"):
        load_pictures(tmp_path / "pictures", 40, tmp_path / "masks")


def test_bad_pictures_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the pictures .*gone do not exist"):
        load_pictures(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match=r"holds no \.png"):
        load_pictures(tmp_path)
    path = tmp_path / "a.png"
    path.write_text("no picture")
    with pytest.raises(ValueError, match=r"a.png cannot be read"):
        load_pictures(path)
    save(path, disc(30, 30)[..., :3])
    with pytest.raises(ValueError, match=r"a.png has no alpha channel and no mask: cut the object out"):
        load_pictures(path)
    save(path, disc(30, 30) * 0)
    with pytest.raises(ValueError, match=r"a.png is fully transparent: there is no object in it"):
        load_pictures(path)


def test_the_results_folder(house, tmp_path):
    pytest.importorskip("matplotlib")
    result = from_mesh(house, TINY, frames=2)
    save_results(result, tmp_path, "the house")
    expected = {"cameras.json", "losses.csv", "metrics.json", "losses.png", "pictures.png", "search.png"}
    expected |= {"fitting.gif", "sequence.gif", "report.html"}
    assert {path.name for path in tmp_path.iterdir()} == expected
    cameras = json.loads((tmp_path / "cameras.json").read_text())
    torch.testing.assert_close(torch.tensor(cameras[1]["R"]), result.R[1])
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["error_degrees_max"] == pytest.approx(float(result.errors[0].max()))
    assert [camera["picture"] for camera in metrics["cameras"]] == ["view 1", "view 2"]
    assert [camera["searched"] for camera in metrics["cameras"]] == result.was_searched
    report = (tmp_path / "report.html").read_text()
    for text in ("Camera of the house", "rotation off by", "sequence.gif", "in the picture only"):
        assert text in report
    with Image.open(tmp_path / "pictures.png") as sheet:
        assert sheet.width == 2 * (3 * 48) + 3 * 8


def test_without_known_cameras_there_are_no_errors(house, tmp_path):
    pytest.importorskip("matplotlib")
    result = from_pictures(house, observe(house, camera(10, 20), TINY), replace(TINY, start=(0.0, 1.0, 3.0)))
    assert result.errors is None
    save_results(result, tmp_path, "the house")
    assert not (tmp_path / "search.png").exists()
    assert "error_degrees_max" not in json.loads((tmp_path / "metrics.json").read_text())
    assert "off by" not in (tmp_path / "report.html").read_text()
