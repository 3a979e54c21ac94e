"""Whatever is wrong with what a command is given, it ends in one line that says so, and with exit code 2."""

from __future__ import annotations

import inspect
import io
import json
import os
import struct
import sys
import typing
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from recon_engine import cli

for module in ("tyro", "tqdm", "matplotlib"):
    pytest.importorskip(module)
Image = pytest.importorskip("PIL.Image")

SOLID = "v 1 1 1\nv 1 -1 -1\nv -1 1 -1\nv -1 -1 1\nf 1 2 3\nf 1 4 2\nf 1 3 4\nf 2 4 3\n"
SIZES = ["--fast", "--views", "3", "--image-size", "16", "--iters", "2"]
TINY = {
    "build": ["--obj", "solid.obj", "--views", "3", "--image-size", "16", "--level", "1", "--iters", "2"],
    "fit-points": ["solid.obj", "--level", "1", "--samples", "50", "--iters", "2"],
    "fit-views": ["--mesh", "solid.obj", *SIZES, "--held-out", "1", "--level", "1", "--texture-size", "4"],
    "volume": ["--obj", "solid.obj", *SIZES, "--resolution", "8"],
    "nerf": ["--obj", "solid.obj", *SIZES, "--hidden", "8"],
    "pose": ["--obj", "solid.obj", "--fast", "--image-size", "24", "--iters", "2", "--spacing", "60"],
    "align": ["--sources", "solid.obj", "--samples", "50", "--iters", "2"],
    "render": ["solid.obj", "--turntable", "a.gif", "--size", "16", "--frames", "2"],
    "demo": ["--iters", "1"],
    "view": ["solid.obj"],
}
FITS = [name for name in TINY if name not in ("render", "view", "demo")]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "solid.obj").write_text(SOLID)
    return tmp_path


@pytest.fixture
def complaint(capsys):
    """Runs a command that must fail and gives its one line; nothing is left behind."""

    def of(*arguments: str) -> str:
        before = sorted(Path.cwd().rglob("*"))
        assert cli.main(list(arguments)) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        # A progress bar may have been there before; what is said begins a line of its own.
        *bars, line = printed.err.rstrip("\n").replace("\r", "\n").split("\n")
        assert line.startswith("recon: "), printed.err
        assert all(not bar or "it/s" in bar or "frame/s" in bar for bar in bars), printed.err
        left = {path.name for path in set(Path.cwd().rglob("*")) - set(before)}
        assert all(name.endswith(".checkpoint") for name in left), left
        return line

    return of


def numbers() -> Iterator[tuple[str, str, str]]:
    """Every option of every command that is a number, with numbers that are none of its."""
    for name, command in cli.commands().items():
        hints = typing.get_type_hints(command)
        for option in inspect.signature(command).parameters:
            hint = hints[option]
            if hint in (int, int | None):
                values = ["-1", str(10**30)]
            elif hint in (float, float | None, tuple[float, float, float], tuple[float, float, float] | None):
                values = ["nan", "inf", "1e308"]
            else:
                continue
            yield from ((name, "--" + option.replace("_", "-"), value) for value in values)


@pytest.mark.parametrize(("command", "option", "value"), list(numbers()))
def test_absurd_numbers(command, option, value, complaint):
    arguments = list(TINY[command])
    if option in arguments:
        at = arguments.index(option)
        del arguments[at : at + 2]
    if option == "--starts":
        arguments.append("--rigid")
    count = 3 if option in ("--start", "--motion") else 1
    line = complaint(command, *arguments, option, *count * [value])
    assert "Traceback" not in line


def ply(vertices: object, faces: int, body: str, kind: str = "ascii") -> str:
    xyz = "".join(f"property float {axis}\n" for axis in "xyz")
    return (
        f"ply\nformat {kind} 1.0\nelement vertex {vertices}\n{xyz}element face {faces}\n"
        f"property list uchar int vertex_indices\nend_header\n{body}"
    )


RANDOM = np.random.default_rng(0).bytes(300)
MESHES: dict[str, str | bytes | None] = {
    "missing.obj": None,
    "empty.obj": "",
    "empty.ply": "",
    "empty.off": "",
    "random.obj": RANDOM,
    "random.ply": RANDOM,
    "random.off": RANDOM,
    "nan.obj": SOLID.replace("v 1 1 1", "v nan 1 1"),
    "infinite.obj": SOLID.replace("v 1 1 1", "v 1 inf 1"),
    "huge.obj": SOLID.replace("v 1 1 1", "v 1e38 1 1"),
    "too huge.obj": SOLID.replace("v 1 1 1", "v 1e39 1 1"),
    "one place.obj": "v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n",
    "line.obj": "v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n",
    "no such vertex.obj": SOLID + "f 1 2 99\n",
    "vertex 0.obj": SOLID + "f 0 1 2\n",
    "before the first.obj": SOLID + "f -1 -2 -99\n",
    "two corners.obj": SOLID + "f 1 2\n",
    "words.obj": SOLID + "f a b c\n",
    "coordinates.obj": SOLID + "v a b c\n",
    "no vertices.obj": "f 1 2 3\n",
    "long number.obj": SOLID + f"f 1 2 {10**20}\n",
    "cut.ply": ply(3, 1, "0 0 0\n1 0 0\n"),
    "header.ply": "ply\nformat ascii 1.0\n",
    "too many.ply": ply(10**12, 1, "0 0 0\n"),
    "too many bytes.ply": ply(10**12, 1, "....", "binary_little_endian"),
    "negative.ply": ply(-5, 1, ""),
    "nan.ply": ply(3, 1, "nan 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"),
    "no such vertex.ply": ply(3, 1, "0 0 0\n1 0 0\n0 1 0\n3 0 1 9\n"),
    "negative vertex.ply": ply(3, 1, "0 0 0\n1 0 0\n0 1 0\n3 0 1 -1\n"),
    "kind.ply": ply(3, 1, "", "runes"),
    "letters.xyz": "1 2 3\n",
    "no ending": SOLID,
    "folder.obj": None,
}


def write_mesh(name: str) -> None:
    content = MESHES[name]
    if name.startswith("folder"):
        Path(name).mkdir()
    elif content is not None:
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize("name", MESHES)
def test_files_that_hold_no_mesh(name, complaint):
    """The two readers: of commands that take shapes without colours, and of those that take any mesh."""
    if Path(name).suffix not in (".obj", ".ply", ".off"):
        pytest.importorskip("trimesh")
    write_mesh(name)
    for arguments in (["fit-points", name], ["render", name, "--output", "a.png"]):
        assert name in complaint(*arguments)


@pytest.mark.parametrize("command", [name for name in FITS if name != "fit-points"])
@pytest.mark.parametrize("name", ["missing.obj", "nan.obj", "empty.ply", "line.obj", "folder.obj", "random.ply"])
def test_every_command_names_the_file(command, name, complaint):
    write_mesh(name)
    assert name in complaint(command, *(name if argument == "solid.obj" else argument for argument in TINY[command]))


@pytest.mark.parametrize("suffix", ["glb", "stl", "gltf"])
def test_binary_meshes_that_were_cut(suffix, complaint):
    pytest.importorskip("trimesh")
    Path(f"a.{suffix}").write_bytes(b"glTF\2\0\0\0\xff\xff\xff\x7f\xff\xff\xff\xffJSON" + RANDOM)
    assert f"a.{suffix}" in complaint("render", f"a.{suffix}")


def png(width: int, height: int) -> bytes:
    """A header that promises a picture of that size, and few bytes of it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def cutout(mode: str = "RGBA", alpha: int = 255) -> bytes:
    pixels = np.zeros((24, 24, 4), np.uint8)
    pixels[6:18, 6:16] = (200, 100, 50, alpha)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "PNG")
    return file.getvalue()


TABLE = "file,azimuth,elevation\n" + "".join(f"{i}.png,{120 * i},10\n" for i in range(3))
PICTURES: dict[str, tuple[bytes, str]] = {
    "random": (RANDOM, "cannot be read"),
    "empty": (b"", "cannot be read"),
    "cut": (cutout()[:-40], "cannot be read"),
    "of 3,600 megapixels": (png(60_000, 60_000), "cannot be read"),
    "that promises more than it has": (png(3_000, 3_000), "cannot be read"),
    "of no pixels": (png(0, 0), "cannot be read"),
    "without alpha": (cutout("RGB"), "has no alpha channel"),
    "grey": (cutout("L"), "has no alpha channel"),
    "without an object": (cutout(alpha=0), "there is no object in it"),
}
TABLES: dict[str, tuple[str | bytes | None, str]] = {
    "missing": (None, ""),
    "empty": ("", "expected columns file,azimuth,elevation"),
    "header alone": ("file,azimuth,elevation\n", "expected at least one line"),
    "not UTF-8": (TABLE.encode() + "é".encode("latin1"), "is not UTF-8"),
    "zero bytes": (TABLE.replace("0.png", "0\0.png"), "zero bytes"),
    "one endless line": ("file,azimuth,elevation\n" + 200_000 * "x", "lines without end"),
    "a picture without angles": (TABLE.replace("2.png,240,10\n", ""), "have no line for the picture 2.png"),
    "angles without a picture": (TABLE + "7.png,1,1\n", "7.png"),
    "a picture twice": (TABLE + "1.png,1,1\n", "line 5: expected the name of another file"),
    "a missing value": (TABLE.replace("120,10", "120"), "line 3: expected 3 values, got 2"),
    "a word": (TABLE.replace("120,", "east,"), "line 3: azimuth must be a number"),
    "NaN": (TABLE.replace("120,", "nan,"), "line 3: azimuth must be a number"),
}


@pytest.fixture
def photographs(place) -> Path:
    folder = place / "photographs"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.png").write_bytes(cutout())
    (folder / "cameras.csv").write_text(TABLE)
    return folder


def with_pictures() -> dict[str, list[str]]:
    """The commands that take the folder, by name."""
    small = ["--fast", "--image-size", "16", "--iters", "2"]
    fields = {name: [name, "--images", "photographs", *small] for name in ("fit-views", "volume", "nerf")}
    build = ["build", "--images", "photographs", "--image-size", "16", "--level", "1", "--iters", "2"]
    return {**fields, "build": [*build, "--angles", "photographs/cameras.csv"], "build with cameras": build}


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize("command", [*with_pictures(), "pose"])
def test_bad_pictures(command, kind, photographs, complaint):
    content, expected = PICTURES[kind]
    (photographs / "1.png").write_bytes(content)
    pose = ["pose", "--obj", "solid.obj", "--images", "photographs", *TINY["pose"][2:]]
    line = complaint(*{**with_pictures(), "pose": pose}[command])
    assert "1.png" in line
    assert expected in line


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("command", with_pictures())
def test_bad_tables_of_angles(command, kind, photographs, complaint):
    content, expected = TABLES[kind]
    table = photographs / "cameras.csv"
    if content is None:
        table.unlink()
    else:
        table.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert expected in complaint(*with_pictures()[command])


FRAMES = {
    "camera_angle_x": 0.9,
    "frames": [{"file_path": f"{i}", "transform_matrix": torch.eye(4).tolist()} for i in range(3)],
}
TRANSFORMS = {
    "cut": json.dumps(FRAMES)[:100],
    "empty": "",
    "list": "[]",
    "lists without end": 200_000 * "[",
    "a number of 5000 digits": '{"a": ' + 5000 * "1" + "}",
    "a number of 400 digits": json.dumps(FRAMES).replace("1.0", 400 * "1", 1),
    "NaN": json.dumps(FRAMES).replace("1.0", "NaN", 1),
    "no frames": '{"frames": []}',
    "another picture": json.dumps(FRAMES).replace('"1"', '"77"'),
    "a word": json.dumps(FRAMES).replace("0.9", '"wide"'),
    "pictures of another size": json.dumps({**FRAMES, "w": 100, "h": 30, "fl_x": 20}),
    "one side": json.dumps(FRAMES),
}


@pytest.mark.parametrize("kind", TRANSFORMS)
def test_bad_transforms(kind, photographs, complaint):
    (photographs / "cameras.csv").unlink()
    (photographs / "transforms.json").write_text(TRANSFORMS[kind])
    assert "photographs/transforms.json" in complaint(*with_pictures()["volume"])


@pytest.mark.parametrize("command", FITS)
def test_places_and_machines(command, complaint, monkeypatch):
    arguments = [command, *TINY[command]]
    assert "--device abacus cannot be used" in complaint(*arguments, "--device", "abacus")
    assert "solid.obj is a file" in complaint(*arguments, "--out", "solid.obj")
    assert "solid.obj is a file" in complaint(*arguments, "--out", "solid.obj/deep/out")
    assert "must have a name of its own, got '.'" in complaint(*arguments, "--out", ".")
    assert "File name too long" in complaint(*arguments, "--out", 250 * "x")

    def read_only(*_: object, **__: object) -> str:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr("tempfile.mkdtemp", read_only)
        assert "cannot be made in " in complaint(*arguments, "--out", "out")
    for module, name in (("tqdm", "cli"), ("PIL.Image", "io"), ("matplotlib", "vis")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            assert f'is missing: pip install "recon_engine[{name}]"' in complaint(*arguments, "--out", "out")


@pytest.mark.parametrize("command", FITS)
def test_what_another_run_or_program_left(command, complaint):
    arguments = [command, *TINY[command], "--out", "out"]
    checkpoint = Path("out.checkpoint")
    for content in (b"", RANDOM):
        checkpoint.write_bytes(content)
        assert "add --resume to go on, or --overwrite to begin anew" in complaint(*arguments)
        assert "the checkpoint out.checkpoint cannot be read" in complaint(*arguments, "--resume")
        assert checkpoint.read_bytes() == content
    torch.save({"about": {"method": "another"}}, checkpoint)
    assert "the checkpoint out.checkpoint is of a run with" in complaint(*arguments, "--resume")
    checkpoint.unlink()
    Path("out").mkdir()
    Path("out/photo.jpg").write_text("mine")
    assert "exists already" in complaint(*arguments)
    assert "holds no results of an earlier run" in complaint(*arguments, "--overwrite")
    assert Path("out/photo.jpg").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_files_that_may_not_be_read(complaint):
    Path("solid.obj").chmod(0)
    for command in ("fit-points", "render"):
        assert complaint(command, "solid.obj") == "recon: solid.obj: Permission denied"


def test_memory_that_has_ended(complaint, monkeypatch):
    def hungry(*_: object, **__: object) -> None:
        torch.empty(10**15)

    for error in (hungry, lambda *_, **__: (_ for _ in ()).throw(MemoryError())):
        monkeypatch.setattr("recon_engine.methods.fit_points.fit_points", error)
        line = complaint("fit-points", *TINY["fit-points"][:1])
        assert line.startswith("recon: there is not enough memory: choose smaller sizes")


def test_fits_that_leave_all_bounds(complaint):
    for command in ("build", "fit-points", "fit-views", "pose"):
        line = complaint(command, *TINY[command], "--lr", "1e20")
        assert "choose a smaller learning rate" in line


def test_mistakes_of_ours_are_not_hidden(monkeypatch):
    def wrong(*_: object, **__: object) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr("recon_engine.methods.fit_points.fit_points", wrong)
    with pytest.raises(RuntimeError, match="a mistake"):
        cli.main(["fit-points", "solid.obj"])


@pytest.mark.parametrize("name", ["run.live", "run.checkpoint", "run/metrics.json", "volume.pt", "a.npy", "a.ply"])
def test_half_files_are_not_shown(name, complaint):
    pytest.importorskip("viser")
    Path("run").mkdir()
    for content in (b"", RANDOM, b'{"iterations": 3, "set', b"[1, 2]"):
        Path(name).write_bytes(content)
        shown = "run" if name.startswith("run") else name
        line = complaint("view", shown, "--port", "8299", "--no-browser")
        assert Path(name).name in line or "run" in line
