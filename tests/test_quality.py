"""The page of measured results is that of the committed files, and a measurement is never lost silently."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

quality = pytest.importorskip("quality", reason="the benchmarks are not beside the tests")

Row = quality.Row


def results(*rows: Row, name: str = "build") -> dict:
    return {"method": name, "rows": [{**vars(row), "holds": row.holds} for row in rows]}


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
    rows = [Row("cow", "IoU", 0.9812345, 0.97, True, 12.345), Row("tea", "error", 0.06, 0.05, at_least=False)]
    quality.save(results(*rows), tmp_path)
    quality.save(results(Row("cow", "PSNR", 25.0), name="zoom"), tmp_path)
    assert quality.table(tmp_path).splitlines()[2:] == [
        "| build | cow | IoU | **0.9812** | ≥ 0.97 | 12.3 |",
        "| build | tea | error | **0.06** | ≤ 0.05 (missed) |  |",
        "| zoom | cow | PSNR | **25** |  |  |",
    ]


def test_rows_are_not_lost(tmp_path):
    quality.save(results(Row("cow", "IoU", 0.98), Row("cube", "IoU", 0.9)), tmp_path)
    with pytest.raises(ValueError, match=r"build.json has rows of cow, which were not measured now"):
        quality.save(results(Row("cube", "IoU", 0.95)), tmp_path)
    quality.save(results(Row("cube", "IoU", 0.95), Row("cow", "IoU", 0.99), Row("tea", "IoU", 0.9)), tmp_path)
    kept = json.loads((tmp_path / "build.json").read_text())["rows"]
    assert [row["value"] for row in kept] == [0.95, 0.99, 0.9]


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
