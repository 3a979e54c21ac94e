"""PyTorch3D's Python files on our kernels. Each program runs in a process of its own, on a package that looks alike."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import recon_engine

pytest.importorskip("recon_engine._C")

PACKAGE_FOLDER = str(Path(recon_engine.__file__).parents[1])
KNN = """
from pytorch3d import _C

def nearest(x, y, lengths):
    return _C.knn_points_idx(x, y, lengths, lengths, 2, 1, -1)[0]
"""
COMPILED = """
def knn_points_idx(*args):
    return ("theirs",)

def only_theirs():
    return "kept"
"""
USE = """
import torch
import pytorch3d.knn

x = torch.tensor([[[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]])
print(pytorch3d.knn.nearest(x, x + 0.1, torch.tensor([2])))
"""


@pytest.fixture
def package(tmp_path):
    """A folder with a package pytorch3d without a compiled module."""
    folder = tmp_path / "pytorch3d"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "knn.py").write_text(KNN)
    return tmp_path


def run(folder: Path, program: str, *options: str) -> subprocess.CompletedProcess[str]:
    script = folder / "program.py"
    script.write_text(textwrap.dedent(program))
    path = os.pathsep.join([PACKAGE_FOLDER, str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, *options, str(script)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def printed(folder: Path, program: str, *options: str) -> list[str]:
    done = run(folder, program, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


OURS = "tensor([[[0],"


def test_without_a_compiled_module(package):
    assert run(package, USE).returncode != 0
    assert printed(package, "import recon_engine.compat\nrecon_engine.compat.accelerate()" + USE)[0] == OURS
    assert printed(package, USE, "-m", "recon_engine.compat", "--accelerate")[0] == OURS


def test_a_compiled_module_that_cannot_be_loaded(package):
    (package / "pytorch3d/_C.py").write_text("raise ImportError('undefined symbol: _ZN3c10')")
    assert printed(package, USE, "-m", "recon_engine.compat", "--accelerate")[0] == OURS


def test_a_compiled_module_in_use_is_replaced_and_given_back(package):
    (package / "pytorch3d/_C.py").write_text(COMPILED)
    program = """
    import torch
    import pytorch3d.knn
    import recon_engine.compat as compat

    x, lengths = torch.zeros(1, 1, 3), torch.tensor([1])
    print(pytorch3d.knn.nearest(x, x, lengths))
    compat.accelerate()
    compat.accelerate()
    print(pytorch3d.knn.nearest(x, x, lengths), pytorch3d._C.only_theirs(), hasattr(pytorch3d._C, "ball_query"))
    compat.decelerate()
    compat.decelerate()
    print(pytorch3d.knn.nearest(x, x, lengths), hasattr(pytorch3d._C, "ball_query"))
    """
    assert printed(package, program) == ["theirs", "tensor([[[0]]]) kept True", "theirs False"]


def test_without_a_compiled_module_it_is_gone_again(package):
    program = """
    import recon_engine.compat as compat

    compat.accelerate()
    import pytorch3d._C
    compat.decelerate()
    try:
        import pytorch3d._C
    except ImportError as error:
        print(error.name)
    """
    assert printed(package, program) == ["pytorch3d._C"]


def test_not_after_install(package):
    done = run(package, "import recon_engine.compat as c\nc.install()\nc.accelerate()")
    assert "install() has replaced PyTorch3D" in done.stderr


def test_pytorch3d_must_be_there(tmp_path):
    if "pytorch3d" in sys.modules or __import__("importlib.util").util.find_spec("pytorch3d"):
        pytest.skip("PyTorch3D is there")
    done = run(tmp_path, USE, "-m", "recon_engine.compat", "--accelerate")
    assert done.returncode == 2
    assert "PyTorch3D is not installed" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_live(tmp_path):
    pytest.importorskip("pytorch3d")
    program = """
    import torch
    import recon_engine.compat

    recon_engine.compat.accelerate()
    from pytorch3d.loss import chamfer_distance, point_mesh_face_distance
    from pytorch3d.renderer.points.pulsar import Renderer
    from pytorch3d.structures import Pointclouds
    from pytorch3d.utils import ico_sphere

    mesh = ico_sphere(2)
    points = 1.1 * mesh.verts_padded()
    points.requires_grad_()
    loss = chamfer_distance(points, mesh.verts_padded())[0] + point_mesh_face_distance(mesh, Pointclouds(points))
    loss.backward()
    camera = torch.tensor([0, 0, 0, 0, 0, 0, 1.0, 1.0])
    centers = torch.tensor([[0.0, 0.0, 4.0]], requires_grad=True)
    image = Renderer(8, 8, 10)(centers, torch.zeros(1, 3), torch.ones(1), camera, 0.1, 10.0, 1.5)
    image.sum().backward()
    print(round(loss.item(), 3), points.grad.abs().sum() > 0, image.shape, centers.grad.abs().sum() > 0)
    """
    theirs = printed(tmp_path, program.replace("recon_engine.compat.accelerate()", ""))
    assert printed(tmp_path, program) == theirs
