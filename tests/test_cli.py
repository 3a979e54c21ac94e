from __future__ import annotations

import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import launch
import numpy as np
import pytest
import torch

import recon_engine
from recon_engine.cli import main

for module in ("tyro", "tqdm", "matplotlib"):
    pytest.importorskip(module)
Image = pytest.importorskip("PIL.Image")

TINY = ["--iters", "5", "--level", "1", "--image-size", "32"]
CUBE = """v -1 -1 -1\nv -1 -1 1\nv -1 1 -1\nv -1 1 1\nv 1 -1 -1\nv 1 -1 1\nv 1 1 -1\nv 1 1 1
f 1 2 4 3\nf 5 7 8 6\nf 1 5 6 2\nf 3 4 8 7\nf 1 3 7 5\nf 2 6 8 4\n"""


@pytest.fixture
def cube(tmp_path) -> Path:
    path = tmp_path / "cube.obj"
    path.write_text(CUBE)
    return path


@pytest.fixture
def photographs(tmp_path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for i in range(3):
        rgba = np.zeros((40 + 10 * i, 60, 4), np.uint8)
        rgba[10:30, 15:45, 3] = 255
        Image.fromarray(rgba).save(folder / f"{i}.png")
    (tmp_path / "angles.csv").write_text("file,azimuth,elevation\n0.png,0,0\n1.png,120,0\n2.png,-120,10\n")
    return folder


def test_build_from_a_mesh(tmp_path, cube, capsys):
    out = tmp_path / "out"
    options = ["--start", "both", "--views", "3", "--watertight", *TINY, "--out", str(out)]
    assert main(["build", "--obj", str(cube), *options]) == 0
    assert f"report: {out / 'report.html'}" in capsys.readouterr().out
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["iterations"] == 5
    assert metrics["settings"]["start"] == "both"
    assert [each["start"] for each in metrics["starts"]] == ["a cube", "a sphere"]
    assert metrics["reclosed"]["watertight"]
    assert (out / "watertight.obj").exists()
    assert metrics["settings"]["fov"] is None
    assert len(metrics["silhouette_iou"]) == 3


def test_build_from_pictures(tmp_path, photographs, cube):
    out, angles = tmp_path / "out", tmp_path / "angles.csv"
    options = ["--images", str(photographs), "--angles", str(angles), "--init", str(cube), "--preset", "documented"]
    assert main(["build", *options, "--iters", "3", "--image-size", "32", "--out", str(out)]) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert [view["view"] for view in metrics["silhouette_iou"]] == ["0.png", "1.png", "2.png"]
    assert metrics["settings"]["learning_rate"] == 0.12
    assert metrics["settings"]["fov"] == 60.0
    assert metrics["chamfer"] is None


def test_pictures_without_a_mesh_take_the_first_steps_settings(tmp_path, photographs):
    out = tmp_path / "out"
    options = ["--images", str(photographs), "--angles", str(tmp_path / "angles.csv"), "--refine-cameras"]
    assert main(["build", *options, *TINY, "--out", str(out)]) == 0
    assert (out / "cameras.csv").read_text().startswith("file,azimuth,elevation,distance,fov\n0.png,")
    settings = json.loads((out / "metrics.json").read_text())["settings"]
    assert (settings["learning_rate"], settings["views_per_iteration"]) == (0.25, 2)


def test_fit_points(tmp_path, cube):
    out = tmp_path / "out"
    options = ["--preset", "deform3", "--iters", "5", "--level", "1", "--samples", "50"]
    assert main(["fit-points", str(cube), *options, "--out", str(out)]) == 0
    assert json.loads((out / "metrics.json").read_text())["settings"]["weight_laplacian"] == 0.0
    assert (out / "mesh.ply").exists()


FIELD = ["--fast", "--iters", "4", "--views", "4", "--image-size", "16"]


@pytest.mark.parametrize(("command", "file"), [("volume", "volume.pt"), ("nerf", "field.pt")])
def test_volume_and_nerf(tmp_path, cube, capsys, command, file):
    out = tmp_path / "out"
    assert main([command, "--obj", str(cube), *FIELD, "--out", str(out)]) == 0
    assert f"report: {out / 'report.html'}" in capsys.readouterr().out
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["iterations"], metrics["source"], metrics["settings"]["views"]) == (4, "cube.obj", 4)
    assert (out / file).exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cube.obj", "out"]


POSE = ["--fast", "--image-size", "32", "--iters", "4", "--spacing", "40"]


def test_pose_of_rendered_pictures(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["pose", *POSE, "--frames", "2", "--texture"]) == 0
    assert f"report: {tmp_path / 'recon-pose' / 'report.html'}" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "recon-pose" / "metrics.json").read_text())
    assert metrics["source"] == "the built-in building"
    assert metrics["settings"]["weight_texture"] == 0.1
    assert len(metrics["cameras"]) == 2
    assert metrics["error_degrees_max"] >= 0
    assert [path.name for path in tmp_path.iterdir()] == ["recon-pose"]


def test_pose_of_pictures(tmp_path, cube, photographs):
    out = tmp_path / "out"
    options = ["--obj", str(cube), "--images", str(photographs), "--off-center", "--fov", "40", "--out", str(out)]
    assert main(["pose", *POSE, *options]) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert [camera["picture"] for camera in metrics["cameras"]] == ["0.png", "1.png", "2.png"]
    assert metrics["settings"]["fov"] == 40
    assert not metrics["settings"]["centered"]
    assert "error_degrees_max" not in metrics


def test_pose_finds_the_camera_of_render(tmp_path):
    """A picture that `recon render` made, along its shorter side with the field of view of 30 degrees."""
    from recon_engine.io import save_obj
    from recon_engine.methods.shapes import building

    house, picture, out = building(), tmp_path / "picture.png", tmp_path / "out"
    save_obj(str(tmp_path / "house.obj"), house.verts_packed(), house.faces_packed())
    mesh = str(tmp_path / "house.obj")
    options = ["--size", "120x160", "--camera", "5,20,35", "--background", "transparent"]
    assert main(["render", mesh, *options, "--output", str(picture)]) == 0
    fov = 2 * math.degrees(math.atan(math.tan(math.radians(15)) * 160 / 120))
    assert main(["pose", "--fast", "--obj", mesh, "--images", str(picture), "--fov", f"{fov}", "--out", str(out)]) == 0
    camera = json.loads((out / "cameras.json").read_text())[0]
    assert camera["elevation"] == pytest.approx(20, abs=3)
    assert camera["azimuth"] == pytest.approx(35, abs=3)
    assert camera["distance"] == pytest.approx(5, rel=0.03)


def test_pose_from_a_start(tmp_path, cube):
    out = tmp_path / "out"
    options = ["--preset", "documented", "--fast", "--image-size", "32", "--iters", "3", "--start", "4", "5", "6"]
    assert main(["pose", "--obj", str(cube), *options, "--out", str(out)]) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["settings"]["start"] == [4, 5, 6]
    assert not metrics["cameras"][0]["searched"]


VIEWS = ["--fast", "--iters", "4", "--image-size", "16", "--level", "1"]


def test_fit_views_of_the_built_in_building(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["fit-views", *VIEWS, "--views", "4", "--texture", "uv", "--texture-size", "8"]) == 0
    out = tmp_path / "recon-fit-views"
    assert f"report: {out / 'report.html'}" in capsys.readouterr().out
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["iterations"], metrics["source"]) == (4, "the built-in building")
    assert (metrics["settings"]["texture"], metrics["settings"]["views"]) == ("uv", 4)
    assert {"mesh.obj", "mesh.mtl", "mesh.png", "mesh.glb"} <= {path.name for path in out.iterdir()}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recon-fit-views"]


def test_the_learning_rate_is_that_of_the_preset(tmp_path, cube):
    for preset, name in (("framed", "shape_rate"), ("documented", "learning_rate")):
        out = tmp_path / preset
        options = ["--mesh", str(cube), "--preset", preset, "--lr", "0.25", "--iters", "1", "--views", "2"]
        assert main(["fit-views", *options, "--image-size", "8", "--level", "0", "--out", str(out)]) == 0
        assert json.loads((out / "metrics.json").read_text())["settings"][name] == 0.25


@pytest.mark.parametrize(("command", "kind"), [("fit-views", "colmap"), ("volume", "nerf"), ("nerf", "csv")])
def test_pictures_with_cameras(command, kind, tmp_path, write_capture):
    pytest.importorskip("scipy")
    folder = write_capture(kind, height=24, width=24).folder
    out = tmp_path / "out"
    options = {
        "fit-views": ["--level", "1", "--held-out", "2"],
        "volume": ["--resolution", "8"],
        "nerf": ["--hidden", "8"],
    }
    given = ["--fast", "--iters", "3", "--image-size", "16", *options[command]]
    assert main([command, "--images", str(folder), *given, "--out", str(out)]) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    held_out = 2 if command == "fit-views" else 1
    assert metrics["source"] == f"8 pictures in {kind}"
    assert (metrics["settings"]["views"], len(metrics["held_out"])) == (8 - held_out, held_out)
    assert metrics["settings"]["light"] is None
    assert metrics["held_out"][0]["view"].endswith(".png")


def test_build_from_pictures_with_cameras(tmp_path, write_capture):
    pytest.importorskip("scipy")
    folder, out = write_capture("colmap-binary", height=24, width=24).folder, tmp_path / "out"
    assert main(["build", "--images", str(folder), *TINY, "--out", str(out)]) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["source"] == "8 pictures in colmap-binary"
    assert len(metrics["silhouette_iou"]) == 7
    assert metrics["silhouette_iou_mean_unseen_views"] > 0


def test_cameras_that_do_not_fit_the_pictures_are_named(tmp_path, write_capture, capsys):
    pytest.importorskip("scipy")
    folder = write_capture("csv", height=16, width=16).folder
    command = ["fit-views", "--images", str(folder), "--fast", "--out", str(tmp_path / "out")]
    assert "--views goes with a mesh" in run_bad([*command, "--views", "3"], capsys)
    assert "must leave two of the 8 pictures to fit, got 7" in run_bad([*command, "--held-out", "7"], capsys)
    Image.new("RGB", (16, 16)).save(folder / "images" / "p 01.png")
    error = run_bad(command, capsys)
    assert "p 01.png has no alpha channel and no mask: cut the object out" in error
    assert "give it with --masks" in error
    (folder / "images" / "p 01.png").unlink()
    assert "cameras.csv name p 01.png, which is not among the 7 pictures" in run_bad(command, capsys)
    table = (folder / "cameras.csv").read_text()
    (folder / "cameras.csv").write_text("".join(line for line in table.splitlines(True) if "p 01" not in line))
    Image.new("RGBA", (16, 16)).save(folder / "images" / "p 99.png")
    assert "have no line for the picture p 99.png" in run_bad(command, capsys)
    (folder / "cameras.csv").write_text(table.replace("p 01.png,45", "p 01.png,nan"))
    assert "cameras.csv, line 3: azimuth must be a number of degrees" in run_bad(command, capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [["--motion", "1", "2", "3", "--noise", "0"], ["--rigid", "--starts", "3"]])
def test_align_of_displaced_shapes(options, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["align", "--fast", "--iters", "5", "--samples", "100", *options]) == 0
    assert f"report: {tmp_path / 'recon-align' / 'report.html'}" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "recon-align" / "metrics.json").read_text())
    assert len(metrics["pairs"]) == 3
    assert metrics["error_max"] > 0
    assert metrics["settings"]["rigid"] == ("--rigid" in options)
    assert [path.name for path in tmp_path.iterdir()] == ["recon-align"]


def test_align_of_files(tmp_path, cube):
    out = tmp_path / "out"
    options = ["--sources", str(cube), str(cube), "--targets", str(cube), str(cube), "--per-mesh", "--samples", "100"]
    assert main(["align", "--fast", "--iters", "5", *options, "--out", str(out)]) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert [pair["target"] for pair in metrics["pairs"]] == ["cube.obj", "cube.obj"]
    assert metrics["source"] == "cube.obj and cube.obj"
    assert metrics["error_max"] is None
    assert (out / "moved2.obj").exists()


def test_a_file_of_another_run_is_no_checkpoint(tmp_path, cube, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["volume", "--obj", str(cube), *FIELD]
    checkpoint = tmp_path / "recon-volume.checkpoint"
    checkpoint.write_text("old")
    assert "of an earlier run exists: add --resume to go on, or --overwrite to begin anew" in run_bad(command, capsys)
    assert checkpoint.read_text() == "old"
    assert main([*command, "--resume"]) == 2
    assert "recon-volume.checkpoint cannot be read" in capsys.readouterr().err.splitlines()[-1]
    assert main([*command, "--overwrite"]) == 0
    assert not checkpoint.exists()


def test_demo_needs_nothing_and_repeats(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert main(["demo", "--iters", "2"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recon-demo"]


def run_bad(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr of a command that must fail with exit code 2."""
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("recon: ")
    assert printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build"], "give either --obj MESH or --images FOLDER"),
        (["build", "--obj", "CUBE", "--images", "."], "give either --obj MESH or --images FOLDER"),
        (["build", "--obj", "CUBE", "--angles", "a.csv"], "--angles and --init go with --images"),
        (["build", "--obj", "CUBE", "--refine-cameras"], "--refine-cameras goes with --images"),
        (["build", "--images", "PHOTOS"], "has no cameras: expected transforms.json"),
        (["build", "--images", "PHOTOS", "--init", "CUBE"], "--init and --refine-cameras need --angles FILE.csv"),
        (
            ["build", "--images", "PHOTOS", "--angles", "ANGLES", "--init", "CUBE", "--coarse-to-fine"],
            "--start and --coarse-to-fine go without --init",
        ),
        (
            ["build", "--images", "PHOTOS", "--angles", "ANGLES", "--cameras", "ANGLES"],
            "either --angles FILE.csv, for cu",
        ),
        (["build", "--obj", "CUBE", "--cameras", "ANGLES"], "--cameras and --masks go with --images"),
        (["build", "--images", "PHOTOS", "--angles", "ANGLES", "--views", "3"], "--views goes with --obj"),
        (["build", "--obj", "missing.obj"], "missing.obj does not exist"),
        (["build", "--obj", "CUBE", "--iters", "0"], "iterations must be 1 or more, got 0"),
        (["build", "--obj", "CUBE", "--views", "-3"], "views must be 1 or more, got -3"),
        (["build", "--obj", "CUBE", "--fov", "200"], "fov must be between 0 and 180 degrees, got 200"),
        (["build", "--obj", "CUBE", "--seed", "-1"], "seed must be 0 or more, got -1"),
        (["build", "--obj", "CUBE", "--device", "abacus"], "--device abacus cannot be used"),
        (["build", "--obj", "CUBE", "--out", "CUBE"], "is a file: choose another name"),
        (["build", "--obj", "CUBE", "--out", "PHOTOS"], "exists already: choose another, or add --overwrite"),
        (["build", "--obj", "CUBE", "--out", "PHOTOS", "--overwrite"], "holds no results of an earlier run"),
        (["build", "--images", "missing", "--angles", "ANGLES"], "missing does not exist"),
        (["build", "--images", "PHOTOS", "--angles", "missing.csv"], "missing.csv does not exist"),
        (["build", "--images", "PHOTOS", "--angles", "ANGLES", "--init", "POINTS"], "no faces: a mesh is needed"),
        (["fit-points", "missing.ply"], "missing.ply does not exist"),
        (["fit-points", "ANGLES"], "must end in .obj or .ply"),
        (["fit-points", "CUBE", "--lr", "0"], "learning_rate must be above 0, got 0.0"),
        (["fit-points", "CUBE", "--samples", "0"], "samples must be 1 or more, got 0"),
        (["fit-views", "--mesh", "missing.obj"], "missing.obj does not exist"),
        (["fit-views", "--mesh", "POINTS"], "2 vertices but no faces: a mesh is needed"),
        (["fit-views", "--mesh", "CUBE", "--images", "."], "give either --mesh FILE or --images FOLDER"),
        (["fit-views", "--cameras", "ANGLES"], "--cameras and --masks go with --images"),
        (["fit-views", "--images", "missing"], "the folder of pictures missing does not exist"),
        (["fit-views", "--images", "PHOTOS"], "has no cameras: expected transforms.json"),
        (["fit-views", "--images", "PHOTOS", "--cameras", "CUBE"], "cube.obj must be a .json, a .csv, or cameras.txt"),
        (["fit-views", "--images", "PHOTOS", "--cameras", "ANGLES", "--masks", "gone"], "masks gone does not exist"),
        (["fit-views", "--texture-size", "2"], "texture_size must be 4 or more, got 2"),
        (["fit-views", "--iters", "0"], "iterations must be 1 or more, got 0"),
        (["fit-views", "--resume"], "there is no checkpoint recon-fit-views.checkpoint to resume from"),
        (["volume", "--obj", "CUBE", "--images", "."], "give either --obj FILE or --images FOLDER"),
        (["nerf", "--images", ".", "--views", "3"], "--views goes with a mesh: pictures are as many as they are"),
        (["volume", "--obj", "missing.obj"], "missing.obj does not exist"),
        (["volume", "--obj", "POINTS"], "2 vertices but no faces: a mesh is needed"),
        (["volume", "--iters", "0"], "iterations must be 1 or more, got 0"),
        (["volume", "--resolution", "1"], "resolution must be 2 or more, got 1"),
        (["volume", "--resume"], "there is no checkpoint recon-volume.checkpoint to resume from"),
        (["nerf", "--resume", "--overwrite"], "give either --overwrite, which begins anew, or --resume, which goes on"),
        (["nerf", "--out", "PHOTOS", "--overwrite"], "holds no results of an earlier run"),
        (["nerf", "--lr", "0"], "learning_rate must be above 0, got 0.0"),
        (["nerf", "--device", "abacus"], "--device abacus cannot be used"),
        (["align", "--targets", "CUBE"], "--targets goes with --sources"),
        (["align", "--sources", "CUBE", "--targets", "CUBE", "CUBE"], "one of --targets for each of the 1 --sources"),
        (["align", "--sources", "CUBE", "--targets", "CUBE", "--noise", "1"], "--motion and --noise go without"),
        (["align", "--starts", "3"], "--scale and --starts go with --rigid"),
        (["align", "--rigid", "--lr", "1"], "--per-mesh and --lr go without --rigid"),
        (["align", "--sources", "missing.obj"], "missing.obj does not exist"),
        (["align", "--sources", "ANGLES"], "must end in .obj or .ply"),
        (["align", "--samples", "0"], "samples must be 1 or more, got 0"),
        (["align", "--resume"], "there is no checkpoint recon-align.checkpoint to resume from"),
        (["pose", "--masks", "PHOTOS"], "--masks goes with --images"),
        (["pose", "--obj", "CUBE", "--images", "PHOTOS", "--frames", "2"], "--frames goes without --images"),
        (["pose", "--images", "PHOTOS"], "--images needs --obj MESH: what the pictures show"),
        (["pose", "--obj", "CUBE", "--images", "missing"], "the pictures missing do not exist"),
        (["pose", "--obj", "CUBE", "--images", "PHOTOS", "--masks", "missing"], "the masks missing do not exist"),
        (["pose", "--obj", "CUBE", "--images", "ANGLES"], "angles.csv cannot be read"),
        (["pose", "--obj", "POINTS"], "2 vertices but no faces: a mesh is needed"),
        (["pose", "--frames", "0"], "frames must be 1 or more, got 0"),
        (["pose", "--start", "0", "0", "0"], "start must not be the point that the camera looks at"),
        (["pose", "--fov", "0"], "fov must be between 0 and 180 degrees, got 0"),
        (["pose", "--resume"], "there is no checkpoint recon-pose.checkpoint to resume from"),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path, cube, photographs, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "points.obj").write_text("v 0 0 0\nv 1 0 0\n")
    names = {"CUBE": cube, "PHOTOS": photographs, "ANGLES": tmp_path / "angles.csv", "POINTS": tmp_path / "points.obj"}
    before = sorted(tmp_path.iterdir())
    assert message in run_bad([str(names.get(argument, argument)) for argument in arguments], capsys)
    assert sorted(tmp_path.iterdir()) == before


def test_bad_pictures_and_angles_are_named(tmp_path, photographs, capsys):
    angles = tmp_path / "angles.csv"
    command = ["build", "--images", str(photographs), "--angles", str(angles), "--out", str(tmp_path / "out")]
    (photographs / "1.png").write_bytes(b"no picture")
    assert "1.png cannot be read" in run_bad(command, capsys)
    (photographs / "1.png").unlink()
    assert "angles.csv name 1.png, which is not among the 2 pictures" in run_bad(command, capsys)
    angles.write_text("file,azimuth,elevation\n0.png,0,zero\n")
    assert "angles.csv, line 2: elevation must be a number" in run_bad(command, capsys)


def test_unknown_options_are_refused(capsys):
    with pytest.raises(SystemExit) as error:
        main(["build", "--unknown"])
    assert error.value.code == 2
    assert "unknown" in capsys.readouterr().err


def test_render_makes_a_picture_with_no_options(tmp_path, cube, monkeypatch, capsys):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for _ in range(2):  # a picture of ours is replaced
        assert main(["render", str(cube)]) == 0
        assert capsys.readouterr().out == f"picture: {elsewhere / 'cube.png'}\n"
    assert [path.name for path in elsewhere.iterdir()] == ["cube.png"]
    pixels = read("cube.png")
    assert pixels.shape == (512, 512, 3)
    background = np.array([244, 242, 237])
    assert (pixels[[0, 0, -1, -1], [0, -1, 0, -1]] == background).all()
    rows, columns = np.nonzero(np.abs(pixels - background).sum(-1) > 20)
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == pytest.approx(0.9 * 512, abs=4)
    assert rows.min() + rows.max() == pytest.approx(511, abs=4)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 30


def test_render_replaces_no_picture_of_others_unless_it_is_named(tmp_path, cube, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (3, 3)).save("cube.png")
    before = Path("cube.png").read_bytes()
    assert "cube.png exists and is no picture of ours: name one with --output" in run_bad(["render", str(cube)], capsys)
    assert Path("cube.png").read_bytes() == before
    assert main(["render", str(cube), "--size", "16", "--output", "cube.png"]) == 0
    assert read("cube.png").shape == (16, 16, 3)


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "webp", "tif", "bmp"])
def test_kinds_of_pictures(suffix, tmp_path, cube):
    path = tmp_path / f"a.{suffix}"
    assert main(["render", str(cube), "--size", "24x40", "--output", str(path)]) == 0
    pixels = read(path)
    assert pixels.shape == (24, 40, 3)
    assert pixels[12, 20].max() < 230


@pytest.mark.parametrize("shader", ["phong", "flat", "gouraud", "unlit", "silhouette", "depth"])
def test_shaders_and_backgrounds(shader, tmp_path, cube):
    def pixels(*options: str) -> np.ndarray:
        path = tmp_path / "a.png"
        assert main(["render", str(cube), "--size", "32", "--shader", shader, "--output", str(path), *options]) == 0
        return read(path)

    default = [0, 0, 0] if shader in ("silhouette", "depth") else [244, 242, 237]
    assert pixels()[0, 0].tolist() == default
    assert pixels("--background", "white")[0, 0].tolist() == [255, 255, 255]
    assert pixels("--background", "black")[0, 0].tolist() == [0, 0, 0]
    clear = pixels("--background", "transparent")
    assert clear.shape == (32, 32, 4)
    assert clear[0, 0, 3] == 0
    assert clear[16, 16, 3] == 255
    assert (clear[16, 16, :3] == pixels()[16, 16]).all()
    assert clear[16, 16, :3].max() > 50


def test_cameras_of_the_command_line(tmp_path, cube):
    def pixels(camera: str) -> np.ndarray:
        path = tmp_path / "a.png"
        assert main(["render", str(cube), "--size", "40", "--camera", camera, "--output", str(path)]) == 0
        return read(path)

    assert (pixels("perspective") == pixels("20,30")).all()
    assert (pixels("orthographic") == pixels("orthographic,20,30")).all()
    views = ["20,30", "orthographic", "-20,30", "20,60", "12,20,30", "orthographic,12,20,30"]
    pictures = [pixels(view) for view in views]
    for i, first in enumerate(pictures):
        for other in pictures[:i]:
            assert (first != other).any()

    def area(picture: np.ndarray) -> int:
        return int((np.abs(picture - [244, 242, 237]).sum(-1) > 20).sum())

    assert area(pixels("24,20,30")) == pytest.approx(area(pixels("12,20,30")) / 4, rel=0.25)


def frames_of(path: Path, height: int, width: int) -> np.ndarray:
    """(N, H, W, 3)."""
    if path.suffix == ".gif":
        with Image.open(path) as image:
            frames = []
            for i in range(image.n_frames):
                image.seek(i)
                frames.append(np.asarray(image.convert("RGB")))
        return np.stack(frames).astype(int)
    ffmpeg = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    command = [ffmpeg, "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    film = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(film, np.uint8).reshape(-1, height, width, 3).astype(int)


def read(path: Path | str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


@pytest.mark.parametrize("suffix", ["gif", "mp4"])
def test_turntables(suffix, tmp_path, cube, monkeypatch, capsys):
    if suffix == "mp4":
        pytest.importorskip("imageio_ffmpeg")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"turn.{suffix}"
    options = ["--turntable", path.name, "--size", "48x64", "--frames", "7", "--fps", "10", "--camera", "10,5"]
    assert main(["render", str(cube), *options]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"turntable: {path}\n"
    assert "7/7" in printed.err
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["cube.obj", path.name]
    frames = frames_of(path, 48, 64)
    assert frames.shape == (7, 48, 64, 3)
    background = np.array([244, 242, 237])
    assert np.abs(frames[:, 0, 0] - background).max() <= 6
    for one, other in itertools.pairwise(frames):
        assert (np.abs(one - other).sum(-1) > 30).mean() > 0.02
    shown = np.abs(frames - background).sum(-1) > 40
    assert (shown.mean((1, 2)) > 0.1).all()
    if suffix == "gif":
        with Image.open(path) as image:
            assert image.info["duration"] == 100
            assert image.info["loop"] == 0
    else:
        ffmpeg = __import__("imageio_ffmpeg").get_ffmpeg_exe()
        about = subprocess.run([ffmpeg, "-i", str(path)], capture_output=True, text=True, check=False).stderr
        assert re.search(r"h264.*yuv420p.* 10 fps", about)


def test_a_turntable_and_a_picture(tmp_path, cube):
    picture, film = tmp_path / "a.png", tmp_path / "a.gif"
    options = ["--turntable", str(film), "--output", str(picture), "--size", "16", "--frames", "3"]
    assert main(["render", str(cube), *options]) == 0
    assert read(picture).shape == (16, 16, 3)
    assert frames_of(film, 16, 16).shape == (3, 16, 16, 3)


def test_render_warns_of_missing_materials(tmp_path, cube, capsys):
    cube.write_text("mtllib gone.mtl\n" + CUBE)
    assert main(["render", str(cube), "--size", "8", "--output", str(tmp_path / "a.png")]) == 0
    assert "recon: warning: Mtl file does not exist: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone.obj"], "the file gone.obj does not exist"),
        (["mesh.doc"], "the file mesh.doc must end in one of"),
        (["POINTS"], "2 vertices but no faces: a mesh is needed"),
        (["nan.obj"], "nan.obj has vertices that are NaN or infinite"),
        (["empty.obj"], "empty.obj: the file is empty"),
        (["CUBE", "--size", "4,5"], "--size must be HxW in pixels, like 480x640, or one number, got '4,5'"),
        (["CUBE", "--size", "4x5x6"], "--size must be HxW in pixels"),
        (["CUBE", "--size", "x5"], "--size must be HxW in pixels"),
        (["CUBE", "--size", "0"], "--size must be from 1 to 8192 pixels on each side, got '0'"),
        (["CUBE", "--size", "10x9999"], "--size must be from 1 to 8192 pixels"),
        (["CUBE", "--camera", "20"], "--camera must be elevation,azimuth or distance,elevation,azimuth"),
        (["CUBE", "--camera", "fisheye,20,30"], "with or without perspective or orthographic before it, got 'fisheye"),
        (["CUBE", "--camera", "nan,30"], "--camera must be elevation,azimuth"),
        (["CUBE", "--camera", "0,20,30"], "--camera must have a distance above 0, got '0,20,30'"),
        (["CUBE", "--output", "a.xyz"], "--output a.xyz must end in one of .png, .jpg"),
        (["CUBE", "--output", "gone/a.png"], "gone of a.png does not exist"),
        (["CUBE", "--output", "a.jpg", "--background", "transparent"], "needs an --output that ends in one of .png"),
        (["CUBE", "--turntable", "a.avi"], "--turntable a.avi must end in .mp4 or .gif"),
        (["CUBE", "--turntable", "a.gif", "--frames", "0"], "--frames must be 1 or more, got 0"),
        (["CUBE", "--turntable", "a.gif", "--fps", "0"], "--fps must be above 0, got 0"),
        (["CUBE", "--turntable", "a.gif", "--fps", "60"], "--fps of a GIF must be at most 50, got 60.0: write an .mp4"),
        (["CUBE", "--turntable", "a.mp4", "--size", "33x64"], "--size of an MP4 must be even numbers, got 33x64"),
        (["CUBE", "--turntable", "a.gif", "--background", "transparent"], "goes with pictures, not with --turntable"),
        (["CUBE", "--frames", "3"], "--frames and --fps go with --turntable FILE"),
        (["CUBE", "--device", "abacus"], "--device abacus cannot be used"),
    ],
)
def test_bad_input_of_render_is_one_line(arguments, message, tmp_path, cube, capsys, monkeypatch):
    if "a.mp4" in arguments:
        pytest.importorskip("imageio_ffmpeg")
    if "mesh.doc" in arguments:
        pytest.importorskip("trimesh")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "points.obj").write_text("v 0 0 0\nv 1 0 0\n")
    (tmp_path / "nan.obj").write_text("v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    (tmp_path / "empty.obj").write_text("")
    (tmp_path / "mesh.doc").write_text("")
    names = {"CUBE": str(cube), "POINTS": "points.obj"}
    before = sorted(tmp_path.iterdir())
    assert message in run_bad(["render", *(names.get(argument, argument) for argument in arguments)], capsys)
    assert sorted(tmp_path.iterdir()) == before


def test_render_names_the_pip_line_of_a_missing_extra(tmp_path, cube, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    error = run_bad(["render", str(cube), "--turntable", "a.mp4"], capsys)
    assert 'imageio_ffmpeg is missing: pip install "recon_engine[io]"' in error
    assert main(["render", str(cube), "--turntable", "a.gif", "--size", "8", "--frames", "2"]) == 0  # needs none


@pytest.mark.parametrize("suffix", ["gif", "mp4"])
def test_an_error_while_rendering_leaves_the_old_film(suffix, tmp_path, cube, capsys, monkeypatch):
    if suffix == "mp4":
        pytest.importorskip("imageio_ffmpeg")
    path = tmp_path / f"a.{suffix}"
    path.write_text("old")

    def broken(*_args: object, **_options: object):
        yield torch.zeros(16, 16, 4)
        raise KeyboardInterrupt

    monkeypatch.setattr("recon_engine.quick.turntable", broken)
    assert main(["render", str(cube), "--turntable", str(path), "--size", "16"]) == 130
    assert "stopped before anything was saved" in capsys.readouterr().err
    assert path.read_text() == "old"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [path.name, "cube.obj"]


def start(arguments: list[str], folder: Path) -> subprocess.Popen[str]:
    return launch.start(["-m", "recon_engine", *arguments], folder)


def test_ctrl_c_saves_what_was_reached(tmp_path):
    process = start(["demo", "--iters", "1000000"], tmp_path)
    shown = ""
    began = time.monotonic()
    while "loss=" not in shown and process.poll() is None and time.monotonic() - began < 60:
        shown += process.stderr.read(1)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "what was reached is saved" in errors
    assert "Traceback" not in errors
    assert "report: " in out
    assert [path.name for path in tmp_path.iterdir()] == ["recon-demo"]
    metrics = json.loads((tmp_path / "recon-demo" / "metrics.json").read_text())
    assert metrics["interrupted"]
    assert 0 < metrics["iterations"] < 1_000_000
    assert "was stopped after" in (tmp_path / "recon-demo" / "report.html").read_text()


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("build", ["--fast", "--obj", "../cube.obj", "--coarse-to-fine"]),
        ("fit-views", ["--fast", "--level=1"]),
    ],
)
def test_a_stopped_run_goes_on(command, options, tmp_path):
    """Ctrl-C leaves results and a checkpoint; what goes on from it ends like a run that nobody stopped."""
    (tmp_path / "cube.obj").write_text(CUBE)
    tmp_path = tmp_path / "runs"
    tmp_path.mkdir()
    arguments = [command, *options, "--views", "4", "--image-size", "16", "--iters", "400"]
    out = f"recon-{command}"
    process = start(arguments, tmp_path)
    shown, began = "", time.monotonic()
    while "loss=" not in shown and process.poll() is None and time.monotonic() - began < 60:
        shown += process.stderr.read(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "what was reached is saved; --resume goes on" in errors
    assert sorted(path.name for path in tmp_path.iterdir()) == [out, f"{out}.checkpoint"]
    stopped = json.loads((tmp_path / out / "metrics.json").read_text())
    assert stopped["interrupted"]
    assert 0 < stopped["iterations"] < 400

    for options in (["--resume"], ["--out", "whole"]):
        process = start([*arguments, *options], tmp_path)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert sorted(path.name for path in tmp_path.iterdir()) == [out, "whole"]
    curves = [(tmp_path / name / "losses.csv").read_text() for name in (out, "whole")]
    assert curves[0] == curves[1]


def test_ctrl_c_leaves_no_half_written_film(tmp_path, cube):
    pytest.importorskip("imageio_ffmpeg")
    process = start(["render", str(cube), "--turntable", "a.mp4", "--frames", "5000"], tmp_path)
    shown = ""
    began = time.monotonic()
    while not re.search(r" [1-9]\d*/5000", shown) and process.poll() is None and time.monotonic() - began < 60:
        shown += process.stderr.read(1)
    os.killpg(process.pid, signal.SIGINT)  # to ffmpeg as well, as a terminal does
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "recon: stopped before anything was saved" in errors
    assert "Traceback" not in errors
    assert [path.name for path in tmp_path.iterdir()] == ["cube.obj"]


def test_waiting_threads_sleep(monkeypatch):
    program = (
        "import os, sys, recon_engine.cli as cli\n"
        "assert 'torch' not in sys.modules and 'OMP_WAIT_POLICY' not in os.environ\n"
        "cli.main(['render', 'gone.obj'])\n"
        "assert 'torch' in sys.modules\n"
        "print(os.environ['OMP_WAIT_POLICY'])"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(recon_engine.__file__).parents[1])}
    environment.pop("OMP_WAIT_POLICY", None)
    run = subprocess.run([sys.executable, "-c", program], env=environment, text=True, capture_output=True, check=False)
    assert run.stdout.strip() == "PASSIVE", run.stderr
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert main(["render", "gone.obj"]) == 2
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


def test_module_prints_help(tmp_path):
    process = start(["--help"], tmp_path)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    for command in ("build", "fit-points", "fit-views", "volume", "nerf", "pose", "align", "render", "demo", "doctor"):
        assert command in out
