"""The page of measured results is that of the committed files, and a measurement is never lost silently."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

quality = pytest.importorskip("quality", reason="the benchmarks are not beside the tests")

Row = quality.Row


def test_the_table_is_that_of_the_results():
    page = quality.PAGE.read_text(encoding="utf-8")
    assert quality.updated(page) == page, "run `python benchmarks/quality.py` for the methods that changed"


def test_every_method_has_its_results():
    assert {path.stem for path in quality.RESULTS.glob("*.json")} == set(quality.METHODS)


def test_bounds():
    assert Row("cow", "IoU", 0.98).holds is None
    assert Row("cow", "IoU", 0.98, wanted=0.97).holds
    assert not Row("cow", "IoU", 0.96, wanted=0.97).holds
    assert Row("cow", "error", 0.01, wanted=0.05, at_least=False).holds
    assert not Row("cow", "error", 0.06, wanted=0.05, at_least=False).holds


def test_rows_of_the_table(tmp_path):
    quality.save("build", Row("cow", "IoU", 0.9812345, 0.97, True, 12.345), tmp_path)
    quality.save("build", Row("tea", "error", 0.06, 0.05, at_least=False), tmp_path)
    quality.save("zoom", Row("cow", "PSNR", 25.0), tmp_path)
    assert quality.table(tmp_path).splitlines()[2:] == [
        "| build | cow | IoU | **0.9812** | ≥ 0.97 | 12.3 |",
        "| build | tea | error | **0.06** | ≤ 0.05 (missed) |  |",
        "| zoom | cow | PSNR | **25** |  |  |",
    ]


def test_a_row_takes_the_place_of_an_older_one(tmp_path):
    for row in (Row("cow", "IoU", 0.98), Row("cube", "IoU", 0.9), Row("cow", "PSNR", 30.0), Row("cow", "IoU", 0.99)):
        quality.save("build", row, tmp_path)
    kept = json.loads((tmp_path / "build.json").read_text())
    assert [row["value"] for row in kept["rows"]] == [0.99, 0.9, 30.0]
    assert set(kept["machine"]) == {"processor", "threads"}
    assert "torch" in kept["versions"]


def test_unknown_methods(capsys):
    assert quality.main(["bild"]) == 2
    assert "no method 'bild'" in capsys.readouterr().err


def test_files_of_real_data(tmp_path, monkeypatch):
    monkeypatch.delenv("RECON_DATA", raising=False)
    assert quality.data("cow.obj") is None
    monkeypatch.setenv("RECON_DATA", str(tmp_path))
    assert quality.data("cow.obj") is None
    (tmp_path / "cow.obj").write_text("")
    assert quality.data("cow.obj") == Path(tmp_path, "cow.obj")
