"""Every test runs a program in a process of its own: what is imported in this one must not matter."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import recon_engine
from recon_engine.io import load_obj, save_obj
from recon_engine.utils import torus

FOLDER = Path(__file__).parent
PACKAGE_FOLDER = str(Path(recon_engine.__file__).parents[1])


def python(*arguments: str, cwd: Path | None = None, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([PACKAGE_FOLDER, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        input=stdin,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def compat(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return python("-m", "recon_engine.compat", *arguments, cwd=cwd)


def run(tmp_path: Path, program: str, *arguments: str, by=compat) -> str:
    """What the program prints; it must end well."""
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(program))
    done = by(str(script), *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_names_are_identical(tmp_path):
    program = """
    import importlib
    import pkgutil
    import pytorch3d
    import pytorch3d.structures
    from pytorch3d.structures.meshes import Meshes
    from pytorch3d.utils.ico_sphere import ico_sphere
    import pytorch3d.utils.torus
    from pytorch3d.io import *
    import recon_engine.structures, recon_engine.utils, recon_engine.io.obj_io, recon_engine.transforms

    assert pytorch3d.__version__ == "0.7.9"
    assert pytorch3d.structures.Meshes is Meshes is recon_engine.structures.Meshes
    # The function of that name, though a module of that name was imported last.
    assert pytorch3d.utils.torus is recon_engine.utils.torus
    assert pytorch3d.utils.ico_sphere is ico_sphere is recon_engine.utils.ico_sphere
    assert callable(ico_sphere) and callable(recon_engine.utils.torus)
    assert load_obj is recon_engine.io.load_obj and IO is recon_engine.io.IO
    assert isinstance(ico_sphere(1), Meshes)
    assert repr(pytorch3d.io).startswith("<module 'pytorch3d.io', which is recon_engine.io")
    assert set(pytorch3d.transforms.__all__) == set(recon_engine.transforms.__all__)
    assert "Transform3d" in dir(pytorch3d.transforms)
    assert pytorch3d.io.obj_io is importlib.import_module("pytorch3d.io.obj_io")
    assert importlib.import_module("pytorch3d.io.obj_io").Faces is recon_engine.io.obj_io.Faces
    assert pytorch3d.io.__file__ == recon_engine.io.__file__
    assert recon_engine.io.__spec__.name == "recon_engine.io"

    # Assignments go through, as monkeypatches need.
    from unittest import mock
    with mock.patch("pytorch3d.io.obj_io.load_obj", 3):
        assert recon_engine.io.obj_io.load_obj == 3
    assert recon_engine.io.obj_io.load_obj is load_obj

    import pickle
    from pytorch3d.transforms import Transform3d
    assert pickle.loads(pickle.dumps(Transform3d)) is Transform3d
    data = pickle.dumps(Transform3d, protocol=0).replace(b"recon_engine", b"pytorch3d")
    assert pickle.loads(data) is Transform3d
    print("reached the end")
    """
    assert run(tmp_path, program) == "reached the end\n"


def test_missing_names_say_so(tmp_path):
    program = """
    def error(statement):
        try:
            exec(statement, {})
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return None

    import recon_engine
    text = f"is not part of recon_engine {recon_engine.__version__} yet. To use the real PyTorch3D for it"
    for statement, kind, name in [
        ("import pytorch3d.nothing", "ImportError", "nothing"),
        ("import pytorch3d.io.nothing.deeper", "ImportError", "io.nothing"),
        ("from pytorch3d import nothing", "ImportError", "nothing"),
        ("from pytorch3d.io import load_nothing", "ImportError", "io.load_nothing"),
        ("from pytorch3d.io.obj_io import load_nothing", "ImportError", "io.obj_io.load_nothing"),
        ("import pytorch3d.io; pytorch3d.io.load_nothing", "AttributeError", "io.load_nothing"),
        ("import pytorch3d; pytorch3d.nothing", "AttributeError", "nothing"),
        # Ours that PyTorch3D does not have.
        ("import pytorch3d.methods", "ImportError", "methods"),
        ("from pytorch3d import compat", "ImportError", "compat"),
        ("import pytorch3d; pytorch3d._op", "AttributeError", "_op"),
        ("import pytorch3d._nothing", "ImportError", "_nothing"),
    ]:
        found = error(statement)
        assert found is not None and found.startswith(f"{kind}: pytorch3d.{name} {text}"), (statement, found)
    import pytorch3d.io
    assert not hasattr(pytorch3d.io, "load_nothing")
    assert getattr(pytorch3d, "nothing", None) is None
    """
    run(tmp_path, program)


def test_install_and_uninstall(tmp_path):
    program = """
    import sys
    from pathlib import Path

    fake = Path(sys.argv[1])
    (fake / "pytorch3d").mkdir()
    (fake / "pytorch3d" / "__init__.py").write_text("__version__ = 'the real one'")
    (fake / "pytorch3d" / "structures.py").write_text("Meshes = 'theirs'")
    sys.path.insert(0, str(fake))

    from recon_engine import compat
    assert not compat.is_installed()
    import pytorch3d.structures
    try:
        compat.install()
    except RuntimeError as error:
        assert "the real PyTorch3D is already imported (pytorch3d" in str(error)
        assert "before the first import of pytorch3d" in str(error)
        assert str(fake) in str(error)
    else:
        raise AssertionError("no error")
    assert not compat.is_installed()
    del sys.modules["pytorch3d"], sys.modules["pytorch3d.structures"]

    compat.install()
    compat.install()
    assert compat.is_installed() and sum(type(f).__name__ == "_Finder" for f in sys.meta_path) == 1
    from pytorch3d.structures import Meshes
    import recon_engine.structures
    assert Meshes is recon_engine.structures.Meshes

    compat.uninstall()
    compat.uninstall()
    assert not compat.is_installed()
    import pytorch3d.structures
    assert pytorch3d.__version__ == "the real one" and pytorch3d.structures.Meshes == "theirs"
    """
    run(tmp_path, program, str(tmp_path), by=python)


SHOW_SELF = """
import sys
import helper
import pytorch3d.transforms
main = sys.modules["__main__"]
print([sys.argv, sys.path[0], __name__, globals().get("__file__"), helper.VALUE, main.__dict__ is globals()])
print(__builtins__.__name__, __doc__, __spec__ if "__spec__" in globals() else None, __package__ or None)
"""


def test_script_sees_what_python_shows(tmp_path):
    """With a stand-in for `pytorch3d.transforms`, plain python prints the same."""
    folder = tmp_path / "a folder"
    (folder / "pytorch3d").mkdir(parents=True)
    (folder / "pytorch3d" / "__init__.py").touch()
    (folder / "pytorch3d" / "transforms.py").touch()
    (folder / "helper.py").write_text("VALUE = 7")
    (folder / "script.py").write_text(SHOW_SELF)
    arguments = [os.path.join("a folder", "script.py"), "--flag", "-m", "x y"]
    plain, ours = python(*arguments, cwd=tmp_path), compat(*arguments, cwd=tmp_path)
    assert plain.returncode == 0, plain.stderr
    assert (ours.stdout, ours.stderr, ours.returncode) == (plain.stdout, plain.stderr, 0)


def test_modules_and_code(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "tool.py").write_text(
        "import sys, pytorch3d.transforms\n"
        "print(sys.argv[1:], __name__, __spec__.name, __package__, pytorch3d.__version__)"
    )
    done = compat("-m", "package.tool", "-c", "x", cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("['-c', 'x'] __main__ package.tool package 0.7.9\n", "")
    done = compat("-c", "import sys, pytorch3d; print(sys.argv, repr(sys.path[0]), __name__)", "a", cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("['-c', 'a'] '' __main__\n", "")


FAILING = """
import sys
def inner():
    try:
        1 / 0
    except ZeroDivisionError as error:
        raise ValueError("wrong") from error
inner()
"""


@pytest.mark.parametrize("source", [FAILING, "x = 1\nthis is no python\n", "raise KeyboardInterrupt"])
def test_tracebacks_and_exit_codes_are_those_of_python(tmp_path, source):
    (tmp_path / "script.py").write_text(source)
    plain, ours = python("script.py", cwd=tmp_path), compat("script.py", cwd=tmp_path)
    assert plain.returncode != 0
    assert (ours.stderr, ours.returncode) == (plain.stderr, plain.returncode)


def test_exit_codes(tmp_path):
    (tmp_path / "script.py").write_text("import sys\nsys.exit(eval(sys.argv[1]))")
    for value, code, message in [("3", 3, ""), ("None", 0, ""), ("'bye'", 1, "bye\n")]:
        done = compat("script.py", value, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (code, message)


def test_bad_command_lines(tmp_path):
    done = compat()
    assert done.returncode == 2
    assert done.stderr.startswith("usage: python -m recon_engine.compat [--accelerate] SCRIPT")
    assert compat("--help").stdout.startswith("usage: python -m recon_engine.compat [--accelerate] SCRIPT")
    assert "unknown option --nothing" in compat("--nothing").stderr
    assert "Argument expected for the -m option" in compat("-m").stderr
    plain, ours = python("gone.py", cwd=tmp_path), compat("gone.py", cwd=tmp_path)
    assert (ours.stderr, ours.returncode) == (plain.stderr, plain.returncode)


def test_import_errors_reach_the_user(tmp_path):
    (tmp_path / "script.py").write_text("from pytorch3d.structures import NothingHere\n")
    done = compat("script.py", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[1] == f'  File "{tmp_path / "script.py"}", line 1, in <module>'
    assert "ImportError: pytorch3d.structures.NothingHere is not part of recon_engine" in done.stderr
    assert "_alias.py" not in done.stderr


def test_formats_and_meshes_work_without_the_compiled_module(tmp_path):
    program = """
    import sys
    sys.modules["recon_engine._C"] = None  # importing it raises ImportError
    from pytorch3d.io import load_ply, save_ply
    from pytorch3d.utils import ico_sphere, torus
    from pytorch3d.transforms import axis_angle_to_matrix
    mesh = ico_sphere(2)
    save_ply(sys.argv[1], mesh.verts_packed(), mesh.faces_packed())
    verts, faces = load_ply(sys.argv[1])
    print(len(verts), len(faces), len(torus(1, 2, 3, 4).faces_packed()))
    """
    assert run(tmp_path, program, str(tmp_path / "a.ply")) == "162 320 24\n"


def need(*names: str) -> None:
    """Skips where a part of recon_engine that the program imports is not built."""
    for name in names:
        module, _, attribute = name.rpartition(".")
        try:
            getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            pytest.skip(f"{name} is not available: {error}")


def printed(output: str, name: str) -> list[float]:
    return [float(value) for value in re.findall(rf"{name} (\S+)", output)]


@pytest.fixture
def target(tmp_path):
    mesh = torus(0.4, 1.0, 12, 24)
    save_obj(tmp_path / "target.obj", mesh.verts_packed() * 3 + 5, mesh.faces_packed())
    return tmp_path / "target.obj"


def test_fit_mesh(tmp_path, target):
    need("recon_engine.loss.chamfer_distance", "recon_engine.ops.sample_points_from_meshes")
    done = compat(str(FOLDER / "fit_mesh.py"), str(target), str(tmp_path / "result.obj"), "30", "3", "1000", "0")
    assert done.returncode == 0, done.stderr
    first, last = printed(done.stdout, "step")
    assert last < 0.5 * first
    verts, faces, _ = load_obj(tmp_path / "result.obj", load_textures=False)
    assert faces.verts_idx.shape == (1280, 3)
    torch.testing.assert_close(verts.mean(0), torch.full((3,), 5.0), rtol=0, atol=0.5)


@pytest.mark.parametrize("losses", [[], ["--silhouettes"]])
def test_fit_images(losses):
    need("recon_engine.loss.mesh_edge_loss", "recon_engine.renderer.SoftPhongShader")
    done = compat(str(FOLDER / "fit_images.py"), "8", "32", "4", "2", "0", *losses)
    assert done.returncode == 0, done.stderr
    first, last = printed(done.stdout, "images")
    assert last < 0.8 * first


@pytest.mark.parametrize("name", ["fit_mesh", "fit_images"])
def test_pytorch3d_prints_about_the_same(tmp_path, target, name):
    """The same programs on the real PyTorch3D start at the same loss and end near ours."""
    pytest.importorskip("pytorch3d")
    need("recon_engine.loss.chamfer_distance", "recon_engine.renderer.SoftPhongShader")
    arguments = {
        "fit_mesh": [str(target), str(tmp_path / "result.obj"), "4", "3", "1000", "0"],
        "fit_images": ["2", "24", "4", "2", "0"],
    }[name]
    ours, theirs = (runner(str(FOLDER / f"{name}.py"), *arguments) for runner in (compat, python))
    assert (ours.returncode, theirs.returncode) == (0, 0), ours.stderr + theirs.stderr
    what = "step" if name == "fit_mesh" else "images"
    # Points are sampled at random: chamfer values vary by some per cent; pictures do not.
    assert printed(ours.stdout, what) == pytest.approx(
        printed(theirs.stdout, what), rel=0.1 if what == "step" else 1e-3
    )
