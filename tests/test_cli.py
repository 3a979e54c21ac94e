from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

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
    assert main(["build", "--obj", str(cube), "--start", "sphere", "--views", "3", *TINY, "--out", str(out)]) == 0
    assert f"report: {out / 'report.html'}" in capsys.readouterr().out
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["iterations"] == 5
    assert metrics["settings"]["start"] == "sphere"
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
    options = ["--images", str(photographs), "--angles", str(tmp_path / "angles.csv")]
    assert main(["build", *options, *TINY, "--out", str(out)]) == 0
    settings = json.loads((out / "metrics.json").read_text())["settings"]
    assert (settings["learning_rate"], settings["views_per_iteration"]) == (0.25, 2)


def test_fit_points(tmp_path, cube):
    out = tmp_path / "out"
    options = ["--preset", "deform3", "--iters", "5", "--level", "1", "--samples", "50"]
    assert main(["fit-points", str(cube), *options, "--out", str(out)]) == 0
    assert json.loads((out / "metrics.json").read_text())["settings"]["weight_laplacian"] == 0.0
    assert (out / "mesh.ply").exists()


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
        (["build", "--images", "PHOTOS"], "--images needs --angles FILE.csv"),
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


def start(arguments: list[str], folder: Path) -> subprocess.Popen[str]:
    package = Path(recon_engine.__file__).parents[1]
    path = os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "recon_engine", *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


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


def test_module_prints_help(tmp_path):
    process = start(["--help"], tmp_path)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    for command in ("build", "fit-points", "demo", "doctor"):
        assert command in out
