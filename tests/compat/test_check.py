from __future__ import annotations

import sys

import pytest

from recon_engine.cli import main
from recon_engine.compat import check

PROGRAM = """\
import importlib

import pytorch3d
import pytorch3d.transforms as transforms
from pytorch3d.structures import Meshes, Nothing as Other
from pytorch3d.utils import *
import torch.nn.functional as F

gone = importlib.import_module("pytorch3d.gone")
transforms.euler_angles_to_matrix(F.relu(x), "XYZ").sum().item()
pytorch3d.io.load_nothing(pytorch3d.io.load_obj)
[Meshes.from_what, transforms.euler_angles_to_matrix]
from .pytorch3d import not_theirs
"""


def test_names_are_found_without_running_the_program(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    assert [(used.name, used.line, used.here) for used in check(script)] == [
        ("pytorch3d", 3, True),
        ("pytorch3d.transforms", 4, True),
        ("pytorch3d.structures.Meshes", 5, True),
        ("pytorch3d.structures.Nothing", 5, False),
        ("pytorch3d.utils", 6, True),
        ("pytorch3d.gone", 9, False),
        ("pytorch3d.transforms.euler_angles_to_matrix", 10, True),
        ("pytorch3d.io.load_nothing", 11, False),
        ("pytorch3d.io.load_obj", 11, True),
    ]
    assert "pytorch3d" not in sys.modules


@pytest.mark.parametrize(
    ("text", "code", "last"), [(PROGRAM, 1, "3 of them missing"), ("import torch", 0, "0 of them")]
)
def test_the_command_says_what_is_missing(tmp_path, capsys, text, code, last):
    pytest.importorskip("tyro")
    script = tmp_path / "program.py"
    script.write_text(text)
    assert main(["compat", "check", str(script)]) == code
    lines = capsys.readouterr().out.splitlines()
    assert last in lines[-1]
    assert sum(line.startswith("MISSING pytorch3d.") for line in lines) == 3 * code


def test_what_is_no_program_is_named(tmp_path, capsys):
    pytest.importorskip("tyro")
    script = tmp_path / "program.py"
    script.write_text("def")
    assert main(["compat", "check", str(script)]) == 2
    assert "is not Python" in capsys.readouterr().err
    assert main(["compat", "check", str(tmp_path / "none.py")]) == 2
