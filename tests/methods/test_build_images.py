from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recon_engine.methods.build import Angles, load_angles, load_cutouts, match_angles

Image = pytest.importorskip("PIL.Image")


def save_cutout(path: Path, width: int, height: int, alpha: np.ndarray | int = 255) -> None:
    rgba = np.zeros((height, width, 4), np.uint8)
    rgba[..., 3] = alpha
    Image.fromarray(rgba).save(path)


def test_cutouts_are_sorted_padded_and_keep_their_alpha(tmp_path):
    alpha = np.full((20, 40), 255)
    alpha[0, 0] = 0
    save_cutout(tmp_path / "b.png", 40, 20, alpha)
    save_cutout(tmp_path / "a.PNG", 16, 16, 51)
    (tmp_path / "notes.txt").write_text("not a picture")
    names, alpha = load_cutouts(tmp_path, 8)
    assert names == ["a.PNG", "b.png"]
    torch.testing.assert_close(alpha[0], torch.full((8, 8), 0.2))  # 51 / 255, divided once
    expected = torch.zeros(8, 8)
    expected[2:6] = 1  # 40 x 20 centred on 40 x 40, of which one pixel of 5 x 5 is clear
    expected[2, 0] = 245 / 255  # 0.96 in 8 bits
    torch.testing.assert_close(alpha[1], expected)


def test_palette_pictures_may_be_transparent(tmp_path):
    picture = Image.new("P", (4, 4), 1)
    picture.putpixel((0, 0), 0)
    picture.save(tmp_path / "p.png", transparency=0)
    alpha = load_cutouts(tmp_path, 4).alpha[0]
    assert alpha[0, 0] == 0
    assert alpha.sum() == 15


def break_picture(path: Path) -> None:
    save_cutout(path, 64, 64, np.random.default_rng(0).integers(0, 255, (64, 64)))
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b"nonsense"), "bad.png cannot be read"),
        (break_picture, "bad.png cannot be read"),
        (lambda path: path.write_bytes(b""), "bad.png cannot be read"),
        (lambda path: path.mkdir(), "bad.png cannot be read"),
        (lambda path: Image.new("RGB", (4, 4)).save(path), "bad.png has no alpha channel: cut the object out"),
        (lambda path: save_cutout(path, 4, 4, 0), "bad.png is fully transparent"),
        (lambda path: save_cutout(path, 4, 4, 255), "bad.png has no alpha channel: cut the object out"),
    ],
)
def test_bad_pictures_are_named(tmp_path, make, message):
    save_cutout(tmp_path / "good.png", 4, 4, 128)
    make(tmp_path / "bad.png")
    with pytest.raises(ValueError, match=message):
        load_cutouts(tmp_path, 8)


def test_no_pictures(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no \.png"):
        load_cutouts(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_cutouts(tmp_path / "missing")


def angles_file(folder: Path, text: str) -> Path:
    path = folder / "angles.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_angles_with_names_in_any_order(tmp_path):
    path = angles_file(tmp_path, "\ufeffElevation, file ,azimuth,note\n10,b.png,-180,x\n\n20, a.png ,36.5,y\n")
    angles = load_angles(path)
    assert angles.names == ["b.png", "a.png"]
    elevation, azimuth = match_angles(["a.png", "b.png"], angles)
    assert elevation.tolist() == [20, 10]
    assert azimuth.tolist() == [36.5, -180]


def test_angles_without_names_follow_the_sorted_pictures(tmp_path):
    angles = load_angles(angles_file(tmp_path, "azimuth,elevation\n1,2\n3,4\n"))
    elevation, azimuth = match_angles(["a", "b"], angles)
    assert (azimuth.tolist(), elevation.tolist()) == ([1, 3], [2, 4])
    with pytest.raises(ValueError, match="have 2 lines for 3 pictures"):
        match_angles(["a", "b", "c"], angles)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"line 1: expected columns file,azimuth,elevation, got ''"),
        ("file,azimuth\na,1\n", r"line 1: expected columns file,azimuth,elevation, got 'file,azimuth'"),
        ("azimuth,elevation\n", "expected at least one line"),
        ("azimuth,elevation\n1,2\n3\n", r"angles\.csv, line 3: expected 2 values, got 1"),
        ("azimuth,elevation\n1,2\n\n3,up\n", r"line 4: elevation must be a number of degrees .* got 'up'"),
        ("azimuth,elevation\nnan,2\n", r"line 2: azimuth must be a number of degrees .* got 'nan'"),
        ("azimuth,elevation\n1000,2\n", r"line 2: azimuth must be a number of degrees from -360 to 360"),
        ("file,azimuth,elevation\na,1,2\na,1,2\n", r"line 3: expected the name of another file, got 'a'"),
        ("file,azimuth,elevation\n,1,2\n", r"line 2: expected the name of another file, got ''"),
    ],
)
def test_bad_angles_name_their_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        load_angles(angles_file(tmp_path, text))


def test_unreadable_angles(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_angles(tmp_path / "missing.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00azimuth")
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        load_angles(tmp_path / "binary.csv")


def test_mismatched_names_are_named():
    angles = Angles(["a.png", "b.png"], torch.zeros(2), torch.zeros(2))
    with pytest.raises(ValueError, match=r"name b\.png, which is not among the 1 pictures"):
        match_angles(["a.png"], angles)
    with pytest.raises(ValueError, match=r"have no line for the picture c\.png"):
        match_angles(["a.png", "b.png", "c.png"], angles)
