"""The second table of the page of measured results is that of the committed files, and what they say holds."""

from __future__ import annotations

import json

import pytest

twins = pytest.importorskip("twins", reason="the benchmarks are not beside the tests")


def results(theirs, ours, name="iou"):
    runs = {"pytorch3d": theirs, "recon_engine": ours}
    runs = {runner: [{"iou": value, "cpu": cpu, "wall": cpu} for value, cpu in some] for runner, some in runs.items()}
    return {"method": "build", "settings": "a cow", "name": name, "measure": "IoU", "runs": runs}


def test_the_table_is_that_of_the_results():
    page = twins.PAGE.read_text(encoding="utf-8")
    assert twins.updated(page) == page, "run `python benchmarks/twins.py` for the programs that changed"


def test_every_twin_has_its_results():
    assert {path.stem for path in twins.RESULTS.glob("*.json")} == set(twins.TWINS)
    assert {twin.method for twin in twins.TWINS.values()} == {"build", "fit-points", "fit-views", "pose"}


@pytest.mark.parametrize("name", list(twins.TWINS))
def test_quality_is_the_same_and_the_time_is_not(name):
    kept = json.loads((twins.RESULTS / f"{name}.json").read_text())
    assert kept["settings"] == twins.TWINS[name].settings
    assert twins.agree(kept)
    assert twins.ratio(kept, "cpu") > 1


def test_agreement():
    assert twins.agree(results([(0.90, 8)], [(0.91, 1)]))
    assert not twins.agree(results([(0.90, 8)], [(0.93, 1)]))
    assert twins.agree(results([(0.90, 8), (0.95, 8)], [(0.93, 1), (0.99, 1)]))
    assert not twins.agree(results([(0.90, 8), (0.91, 8)], [(0.98, 1), (0.99, 1)]))


def test_row(tmp_path):
    (tmp_path / "build.json").write_text(json.dumps(results([(0.9, 80), (0.95, 40)], [(0.93, 0.25), (0.93, 0.75)])))
    row = "| build | a cow | IoU | 0.9 to 0.95 | 0.93 | 60, 0.5 | **120x** |"
    assert twins.table(tmp_path).splitlines()[2:] == [row]


def test_numbers_that_a_program_prints(monkeypatch, tmp_path):
    """The last of each name, whatever else is printed."""
    program = "print('iou 0.5'); print('a line of words'); print('iou 0.75'); print('psnr -1.5e-3')"
    (tmp_path / "program.py").write_text(program)
    (tmp_path / "cow.obj").write_text("")
    monkeypatch.setenv("RECON_DATA", str(tmp_path))
    monkeypatch.setattr(twins, "PROGRAMS", tmp_path)
    twin = twins.Twin("build", "program.py", ("cow.obj",), "{input} {seed} {file}", "", ("iou", "IoU"))
    assert twins.run(twin, "pytorch3d", 0) == {"iou": 0.75, "psnr": -1.5e-3}


def test_unknown_twins(capsys):
    assert twins.main(["bild"]) == 2
    assert "no twin 'bild'" in capsys.readouterr().err
