from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_reconstruct_building(tmp_path, monkeypatch, capsys):
    for module in ("PIL", "matplotlib"):
        pytest.importorskip(module)
    out = tmp_path / "out"
    options = ["--iterations", "10", "--image-size", "32", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["reconstruct_building.py", *options])
    runpy.run_path(str(EXAMPLES / "reconstruct_building.py"), run_name="__main__")
    assert "silhouette IoU 0." in capsys.readouterr().out
    assert (out / "report.html").exists()
