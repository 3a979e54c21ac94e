from __future__ import annotations

import csv
import os
import signal
import threading
from pathlib import Path

import pytest
import torch

from recon_engine.methods._run import History, Loop, OwnRandom, check_folder, extra, results_folder, seeded


def history(iterations: int = 10) -> History:
    return History(["a", "b"], [2.0, 0.0], iterations)


def constant(value: float):
    return lambda: torch.tensor(value, requires_grad=True) * 1.0


def test_total_is_the_weighted_sum_and_rows_are_unweighted():
    record = history()
    assert record.total([constant(3.0), constant(5.0)]).item() == 6.0
    assert record.last() == 6.0
    assert record.table() == {"total": [6.0], "a": [3.0], "b": [5.0]}


def test_a_loss_of_weight_zero_cannot_spoil_the_others():
    x = torch.ones(1, requires_grad=True)
    total = history().total([lambda: x.sum(), lambda: (x * float("nan")).sum()])
    total.backward()
    assert total.item() == 2.0
    assert x.grad.item() == 2.0


def test_csv_and_png(tmp_path):
    record = history()
    for value in (3.0, 1.5):
        record.total([constant(value), constant(0.25)])
    record.save_csv(tmp_path / "losses.csv")
    rows = list(csv.DictReader((tmp_path / "losses.csv").read_text().splitlines()))
    assert [float(row["total"]) for row in rows] == [6.0, 3.0]
    assert rows[1] == {"iteration": "1", "total": "3", "a": "1.5", "b": "0.25"}
    pytest.importorskip("matplotlib")
    record.save_png(tmp_path / "losses.png", "title")
    assert (tmp_path / "losses.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def _pythons_ctrl_c():
    """A process started in the background ignores Ctrl-C; here it is to do what it does in a terminal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_pythons_ctrl_c")
def test_ctrl_c_finishes_the_iteration_and_gives_the_signal_back():
    record, before = history(), signal.getsignal(signal.SIGINT)
    loop, finished = Loop(10, record), []
    for i in loop:
        record.total([constant(1.0), constant(1.0)])
        if i == 3:
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):  # the second one is Python's own
                signal.raise_signal(signal.SIGINT)
        finished.append(i)
    assert finished == [0, 1, 2, 3]
    assert loop.interrupted
    assert record.length == 4
    assert signal.getsignal(signal.SIGINT) is before


def test_a_whole_loop_is_not_interrupted():
    record = history()
    loop = Loop(10, record)
    for _ in loop:
        record.total([constant(1.0), constant(1.0)])
    assert not loop.interrupted
    assert loop.seconds > 0


def test_loop_works_outside_the_main_thread():
    record, errors = history(), []

    def work() -> None:
        try:
            for _ in Loop(10, record):
                record.total([constant(1.0), constant(1.0)])
        except ValueError as error:  # what signal.signal raises there
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []
    assert record.length == 10


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_diverged_loss_is_an_error_that_says_what_to_do(value):
    record = history(1)
    steps = iter(Loop(1, record))
    next(steps)
    record.total([constant(value), constant(1.0)])
    with pytest.raises(FloatingPointError, match="at iteration 1: choose a smaller learning rate"):
        next(steps)


def test_progress_shows_loss_and_speed(capsys):
    pytest.importorskip("tqdm")
    record = history(3)
    for _ in Loop(3, record, "fitting", show=True):
        record.total([constant(1.0), constant(1.0)])
    shown = capsys.readouterr().err
    assert "fitting" in shown
    assert "3/3" in shown
    assert "loss=2.00000" in shown
    assert "it/s" in shown


def test_seeded_repeats_and_leaves_the_callers_numbers_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with seeded(1) as generator:
        first = torch.rand(2), torch.rand(2, generator=generator)
    torch.testing.assert_close(torch.rand(3), expected)
    with seeded(1) as generator:
        again = torch.rand(2), torch.rand(2, generator=generator)
    torch.testing.assert_close(first, again)


def test_a_run_has_random_numbers_of_its_own():
    with seeded(1) as generator:
        expected = torch.rand(3), torch.rand(3, generator=generator)
    torch.manual_seed(5)
    others = torch.rand(4)
    torch.manual_seed(5)
    own, got, between = OwnRandom(1), [], [torch.rand(1)]
    for _ in range(3):
        with own:
            got.append((torch.rand(1), torch.rand(1, generator=own.generator)))
        between.append(torch.rand(1))
    torch.testing.assert_close(torch.cat(between), others)
    for i in range(2):
        torch.testing.assert_close(torch.cat([pair[i] for pair in got]), expected[i])


def test_random_numbers_go_on_from_their_state():
    own = OwnRandom(1)
    with own:
        torch.rand(2)
    state, other = own.state(), OwnRandom(7)
    other.restore(state)
    drawn = []
    for random in (own, other):
        with random:
            drawn.append((torch.rand(3), torch.rand(3, generator=random.generator)))
    torch.testing.assert_close(drawn[0], drawn[1])


def test_weights_may_change():
    record = history()
    assert record.total([constant(3.0), constant(5.0)]).item() == 6.0
    record.reweigh("b", 0.5)
    record.reweigh("a", 0.0)
    x = torch.ones(1, requires_grad=True)
    record.total([lambda: x.sum(), lambda: 4 * x.sum()]).backward()
    assert x.grad.item() == 2.0
    assert record.table()["total"] == [2.5, 2.0]


def test_extra_names_the_pip_line():
    with pytest.raises(ImportError, match=r'no_such_module is missing: pip install "recon_engine\[io\]"'):
        extra("no_such_module", "io")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_folder_appears_when_it_is_complete(tmp_path):
    out = tmp_path / "deep" / "out"
    with results_folder(out) as work:
        (work / "metrics.json").write_text("{}")
        assert not out.exists()
    assert names(out) == ["metrics.json"]
    assert names(out.parent) == ["out"]
    mask = os.umask(0)
    os.umask(mask)
    assert out.stat().st_mode & 0o777 == 0o777 & ~mask


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_no_trace(tmp_path, error):
    with pytest.raises(error), results_folder(tmp_path / "out") as work:  # noqa: PT012
        (work / "metrics.json").write_text("{}")
        raise error
    assert names(tmp_path) == []


def make_results(out: Path, text: str) -> None:
    out.mkdir()
    (out / "metrics.json").write_text(text)


def test_an_existing_folder_is_refused(tmp_path):
    make_results(tmp_path / "out", "old")
    with pytest.raises(FileExistsError, match="exists already: choose another, or add --overwrite"):
        results_folder(tmp_path / "out").__enter__()
    assert (tmp_path / "out" / "metrics.json").read_text() == "old"


def test_overwrite_replaces_the_whole_folder(tmp_path):
    make_results(tmp_path / "out", "old")
    (tmp_path / "out" / "leftover").write_text("old")
    with results_folder(tmp_path / "out", overwrite=True) as work:
        (work / "metrics.json").write_text("new")
        assert (tmp_path / "out" / "leftover").exists()
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["metrics.json"]
    assert (tmp_path / "out" / "metrics.json").read_text() == "new"


def test_a_failed_overwrite_keeps_the_old_folder(tmp_path):
    make_results(tmp_path / "out", "old")
    with pytest.raises(RuntimeError), results_folder(tmp_path / "out", overwrite=True):
        raise RuntimeError
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "metrics.json").read_text() == "old"


def test_what_killed_runs_left_is_removed(tmp_path):
    for name in (".out.12345678.part", ".out.abcd_fgh.old", ".out.x.12345678.part", ".other.12345678.part", ".out.bak"):
        make_results(tmp_path / name, "old")
    with results_folder(tmp_path / "out") as work:
        (work / "metrics.json").write_text("{}")
    assert names(tmp_path) == [".other.12345678.part", ".out.bak", ".out.x.12345678.part", "out"]


def test_places_where_nothing_can_be_made_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (".", "..", "/", "a/.."):
        with pytest.raises(ValueError, match="must have a name of its own, got"):
            check_folder(Path(path), overwrite=True)
    with pytest.raises(OSError, match="File name too long"):
        check_folder(tmp_path / (250 * "x"), overwrite=False)
    monkeypatch.setattr("tempfile.mkdtemp", read_only)
    with pytest.raises(PermissionError, match=r"out cannot be made in .*: Read-only file system"):
        check_folder(tmp_path / "deep" / "out", overwrite=False)
    assert names(tmp_path) == []


def read_only(*_: object, **__: object) -> str:
    raise PermissionError(30, "Read-only file system")


def test_overwrite_never_touches_a_folder_of_something_else(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("")
    with pytest.raises(FileExistsError, match="holds no results of an earlier run"):
        results_folder(tmp_path / "photos", overwrite=True).__enter__()


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file"):
        results_folder(tmp_path / "file", overwrite=True).__enter__()
    with pytest.raises(NotADirectoryError, match="is a file"):
        results_folder(tmp_path / "file" / "out").__enter__()
