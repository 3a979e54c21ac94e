from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from recon_engine.captures import Distortion, FieldOfView, Lens, find_cameras, load_capture, object_sphere, upright

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("scipy")

KINDS = ["nerf", "ngp", "colmap", "colmap-binary", "csv"]


@pytest.mark.parametrize("kind", KINDS)
def test_cameras_and_pictures_belong_together(kind, write_capture):
    """The object's vertices are seen inside of its silhouettes, and reach their borders."""
    scene = write_capture(kind)
    capture = load_capture(scene.folder, image_size=64)
    assert capture.names == (
        [f"./images/p {i:02}.png" for i in range(8)] if kind in ("nerf", "ngp") else [f"p {i:02}.png" for i in range(8)]
    )
    assert capture.rgba.shape == (8, 64, 64, 4)
    assert capture.is_held_out.tolist() == [False] * 4 + [True] + [False] * 3
    pixels = capture.cameras().transform_points_screen(scene.mesh.verts_packed()[None].expand(8, -1, -1))[..., :2]
    for rgba, seen in zip(capture.rgba, pixels, strict=True):
        assert (rgba[..., :3] <= rgba[..., 3:] + 1e-6).all()
        assert (rgba[:8] == 0).all()  # 40 of 56 pixels high: clear borders above and below
        assert (rgba[-8:] == 0).all()
        rows, columns = (rgba[..., 3] > 0.5).nonzero().unbind(1)
        for inside, points in ((columns, seen[:, 0]), (rows, seen[:, 1])):
            assert float(points.min()) == pytest.approx(float(inside.min()), abs=1.2)
            assert float(points.max()) == pytest.approx(float(inside.max()) + 1, abs=1.2)


@pytest.mark.parametrize("kind", KINDS)
def test_the_object_is_found_and_stands_upright(kind, write_capture):
    scene = write_capture(kind, views=12)
    capture = load_capture(scene.folder, image_size=64)
    center, radius = object_sphere(capture)
    assert center.tolist() == pytest.approx(scene.center.tolist(), abs=0.12 * scene.scale)
    assert 0.85 * scene.scale < radius < 1.25 * scene.scale
    off = (scene.mesh.verts_packed() - center.float()).norm(dim=1).max()
    assert float(off) < 1.05 * radius
    standing = (scene.mesh.verts_packed().double() - center) @ upright(capture).T
    extent = np.ptp(standing.numpy(), axis=0)
    assert extent[1] > 1.2 * max(extent[0], extent[2])  # the building is higher than wide
    top = standing[standing[:, 1].argmax()]
    assert float(top[1]) > 0
    torch.testing.assert_close(upright(capture) @ upright(capture).T, torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_pictures_that_could_not_be_placed_are_left_out(kind, write_capture):
    folder = write_capture(kind, height=16, width=16).folder
    shutil.copy(folder / "images" / "p 00.png", folder / "images" / "p 99.png")
    assert len(load_capture(folder).names) == 8


def test_masks_take_the_place_of_alpha(write_capture):
    cut, masked = write_capture("colmap-binary"), None
    expected = load_capture(cut.folder)
    shutil.rmtree(cut.folder)
    masked = write_capture("colmap-binary", with_masks=True)
    capture = load_capture(masked.folder)
    torch.testing.assert_close(capture.rgba[..., 3], expected.rgba[..., 3])
    assert float((capture.rgba - expected.rgba).abs().mean()) < 0.01
    (masked.folder / "masks").rename(masked.folder.parent / "elsewhere")
    with pytest.raises(ValueError, match=r"p 00.jpg has no alpha channel and no mask: cut the object out .* --masks"):
        load_capture(masked.folder)
    other = load_capture(masked.folder, masks=masked.folder.parent / "elsewhere")
    assert torch.equal(other.rgba, capture.rgba)


def test_a_blender_data_set_has_its_own_test_pictures(write_capture):
    folder = write_capture("nerf", views=10).folder
    whole = json.loads((folder / "transforms.json").read_text())
    (folder / "transforms.json").unlink()
    for name, frames in (("train", whole["frames"][:4]), ("test", whole["frames"][4:])):
        (folder / f"transforms_{name}.json").write_text(json.dumps({**whole, "frames": frames}))
    capture = load_capture(folder)
    assert capture.is_held_out.tolist() == [False] * 4 + [True] * 6
    capture = load_capture(folder, held_out=3)
    assert [name[-6:-4] for name in capture.names] == ["00", "01", "02", "03", "04", "06", "08"]
    assert load_capture(folder, held_out=0).is_held_out.tolist() == [False] * 4
    (folder / "transforms_test.json").rename(folder / "transforms_val.json")
    assert len(load_capture(folder).names) == 10


@pytest.mark.parametrize(("views", "held_out", "chosen"), [(7, None, []), (16, None, [4, 12]), (8, 3, [1, 4, 6])])
def test_pictures_are_held_out_evenly(views, held_out, chosen, write_capture):
    capture = load_capture(write_capture("csv", views=views, height=16, width=16).folder, held_out=held_out)
    assert capture.is_held_out.nonzero()[:, 0].tolist() == chosen


def test_cameras_are_looked_for_in_order(tmp_path):
    for name in ("angles.csv", "cameras.csv", "cameras.txt", "images.txt", "transforms_train.json", "transforms.json"):
        (tmp_path / name).write_text("")
        expected = tmp_path if name == "images.txt" else tmp_path / ("cameras.csv" if name == "cameras.txt" else name)
        assert find_cameras(tmp_path) == expected
    (tmp_path / "transforms.json").unlink()
    (tmp_path / "transforms_train.json").unlink()
    (tmp_path / "sparse" / "0").mkdir(parents=True)
    for name in ("cameras.bin", "images.bin"):
        (tmp_path / "sparse" / "0" / name).write_text("")
    assert find_cameras(tmp_path) == tmp_path / "sparse" / "0"


def write_one(folder: Path, rgba: np.ndarray, count: int = 2) -> Path:
    """Pictures that are all the same, with a CSV."""
    folder.mkdir()
    for i in range(count):
        Image.fromarray(rgba).save(folder / f"{i}.png")
    rows = [f"{i}.png,{90 * i},0" for i in range(count)]
    (folder / "cameras.csv").write_text("\n".join(["file,azimuth,elevation", *rows]))
    return folder


def test_lenses_that_bend_lines_are_straightened(tmp_path):
    """A picture whose colours are where its pixels came from; its rows through the lens' middle stay straight."""
    size, focal, center = 64, 50.0, (30.0, 33.0)
    bend = Distortion("radial", (0.2, -0.05), (0.01, -0.02))
    y, x = np.mgrid[:size, :size] + 0.5
    rgba = np.stack([x * 4 - 2, y * 4 - 2, 0 * x, 255 + 0 * x], -1).round().astype(np.uint8)
    rgba[0, 0, 3] = 0
    folder = write_one(tmp_path / "a", rgba)
    (folder / "cameras.csv").unlink()
    lens = {
        "fl_x": focal,
        "cx": center[0],
        "cy": center[1],
        "w": size,
        "h": size,
        "k1": 0.2,
        "k2": -0.05,
        "p1": 0.01,
        "p2": -0.02,
    }
    frames = [{"file_path": f"{i}", "transform_matrix": np.eye(4).tolist()} for i in range(2)]
    (folder / "transforms.json").write_text(json.dumps({**lens, "frames": frames}))
    capture = load_capture(folder, image_size=size)
    assert capture.focal[0].tolist() == [focal, focal]
    assert capture.principal[0].tolist() == list(center)
    for column, row in ((30, 33), (12, 20), (50, 40), (33, 8)):
        at = (torch.tensor([column + 0.5, row + 0.5], dtype=torch.float64) - torch.tensor(center)) / focal
        expected = bend(at) * focal + torch.tensor(center)
        got = (capture.rgba[0, row, column, :2] * 255 + 2) / 4
        assert got.tolist() == pytest.approx(expected.tolist(), abs=0.1)


def test_a_lens_of_an_angle():
    assert FieldOfView(90.0, "width").of_size(10, 20) == Lens((pytest.approx(10.0),) * 2, (10.0, 5.0), (10, 20))
    assert FieldOfView(90.0, "longer side").of_size(20, 10).focal == pytest.approx((10.0, 10.0))


def clear() -> np.ndarray:
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[2:6, 2:6] = 255
    return rgba


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "0.png").unlink(), "cameras.csv name 0.png, which is not among the 2 pictures"),
        (lambda f: shutil.copy(f / "0.png", f / "9.png"), "cameras.csv have no line for the picture 9.png"),
        (lambda f: (f / "0.png").write_bytes(b"x"), "the picture .*0.png cannot be read"),
        (
            lambda f: Image.new("RGB", (8, 8)).save(f / "0.png"),
            "0.png has no alpha channel and no mask: cut the object",
        ),
        (
            lambda f: Image.new("RGBA", (8, 8), (1, 1, 1, 255)).save(f / "0.png"),
            "0.png has no alpha channel and no mask",
        ),
        (lambda f: Image.new("RGBA", (8, 8)).save(f / "0.png"), "0.png is fully transparent: there is no object in it"),
        (
            lambda f: (f / "cameras.csv").unlink(),
            "has no cameras: expected transforms.json, COLMAP's cameras and images",
        ),
        (lambda f: [(f / f"{i}.png").unlink() for i in range(3)], "holds no .png, .jpg"),
        (lambda f: (f / "cameras.csv").write_text("file,azimuth,elevation\n0.png,nan,0\n"), "azimuth must be a number"),
    ],
)
def test_what_does_not_fit_is_named(change, message, tmp_path):
    folder = write_one(tmp_path / "a", clear(), 3)
    change(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        load_capture(folder)
    assert "\n" not in str(error.value)


def test_masks_that_do_not_fit_are_named(tmp_path):
    folder = write_one(tmp_path / "a", clear())
    (folder / "masks").mkdir()
    Image.new("L", (9, 8), 255).save(folder / "masks" / "0.png")
    with pytest.raises(
        ValueError, match=r"masks/0.png must be as large as its picture: expected 8 x 8 pixels, got 9 x 8"
    ):
        load_capture(folder)
    Image.new("L", (8, 8), 0).save(folder / "masks" / "0.png")
    with pytest.raises(ValueError, match=r"masks/0.png is black everywhere: there is no object in it"):
        load_capture(folder)
    with pytest.raises(FileNotFoundError, match=r"the folder of masks .*gone does not exist"):
        load_capture(folder, masks=tmp_path / "gone")


def test_pictures_of_another_size_than_the_cameras_say(write_capture):
    folder = write_capture("colmap").folder
    Image.fromarray(clear()).save(folder / "images" / "p 03.png")
    with pytest.raises(
        ValueError, match=r"p 03.png does not fit its camera in .*images.txt: expected a picture of 56 x 40"
    ):
        load_capture(folder)


def test_frames_without_pictures_are_named(write_capture):
    folder = write_capture("nerf").folder
    (folder / "images" / "p 02.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"transforms.json has a camera for ./images/p 02.png, but there is no pict"
    ):
        load_capture(folder)


@pytest.mark.parametrize(
    ("count", "held_out", "message"), [(1, None, "at least 2 pictures"), (4, 3, "must leave two of")]
)
def test_too_few_pictures(count, held_out, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_capture(write_one(tmp_path / "a", clear(), count), held_out=held_out)


def test_cameras_of_other_pictures_are_noticed(tmp_path, write_capture):
    capture = load_capture(write_one(tmp_path / "a", clear(), 2))
    same = capture.__class__(**{**vars(capture), "R": capture.R[:1].expand(2, 3, 3), "T": capture.T[:1].expand(2, 3)})
    with pytest.raises(ValueError, match=r"expected cameras that see the object from different sides, got one side"):
        object_sphere(same)
    away = capture.__class__(**{**vars(capture), "T": capture.T * torch.tensor([1.0, 1.0, -1.0])})
    with pytest.raises(ValueError, match=r"expected cameras that look at the object, got 0.png with it behind"):
        object_sphere(away)
    capture = load_capture(write_capture("nerf", views=12).folder)
    shuffled = capture.__class__(**{**vars(capture), "rgba": capture.rgba.flip(0).roll(20, 2)})
    with pytest.raises(ValueError, match=r"transforms.json: no place lies inside the silhouettes of all 12 pictures"):
        object_sphere(shuffled)
