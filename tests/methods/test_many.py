from __future__ import annotations

import inspect
import json
import threading
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from launch import run_two, start, torchrun

from recon_engine.cli import main
from recon_engine.io import save_obj
from recon_engine.methods import build
from recon_engine.methods._many import Many, _claimed, file_time, read_metrics, save_summary, table
from recon_engine.methods._run import results_folder
from recon_engine.methods.shapes import building
from recon_engine.utils import ico_sphere, torus

COLUMNS = {"IoU": ("iou", "{:.2f}"), "Seconds": ("seconds", "{:.0f}")}
SHORT = ["--iters", "6", "--level", "1", "--image-size", "16", "--views", "3", "--out", "all"]


def make(out: Path, name: str, iou: float = 0.5, **more) -> None:
    """The results folder of an object."""
    metrics = {"settings": {"a": [1, 2]}, "interrupted": False, "iou": iou, "seconds": 3.0, **more}
    with results_folder(out / name) as folder:
        (folder / "metrics.json").write_text(json.dumps(metrics))


def objects(out: Path, names: str = "abcd") -> Many:
    time.sleep(0.02)  # file systems count time in steps
    return Many({name: Path(f"{name}.obj") for name in names}, out, {"a": (1, 2)}, file_time(out))


def statuses(many: Many) -> dict[str, str]:
    return {outcome.name: outcome.status for outcome in many.outcomes()}


def test_what_is_done_is_kept_and_what_fails_does_not_stop_the_rest(tmp_path):
    make(tmp_path, "b")
    many, fitted, told = objects(tmp_path), [], []
    assert statuses(many) == {"a": "open", "b": "kept", "c": "open", "d": "open"}

    def fit(name: str) -> bool:
        fitted.append(name)
        if name == "a":
            raise ValueError("no\nmesh")
        if name == "c":
            raise TypeError("odd")
        make(tmp_path, name)
        return True

    assert many.work(fit, told.append)
    assert fitted == ["a", "c", "d"]
    assert statuses(many) == {"a": "failed", "b": "kept", "c": "failed", "d": "done"}
    assert [(outcome.name, outcome.error) for outcome in told] == [("a", "no mesh"), ("c", "TypeError: odd")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.error", "b", "c.error", "d"]
    # Another process of the same run does not try again; the next run does.
    assert many.work(fit, told.append)
    again = objects(tmp_path)
    assert statuses(again) == {"a": "open", "b": "kept", "c": "open", "d": "kept"}
    assert len(fitted) == 3
    assert again.work(lambda name: make(tmp_path, name) is None, told.append)
    assert statuses(again) == {"a": "done", "b": "kept", "c": "done", "d": "kept"}
    assert not list(tmp_path.glob("*.error"))


def test_a_run_that_is_stopped_leaves_the_rest(tmp_path):
    many = objects(tmp_path)

    def fit(name: str) -> bool:
        if name == "b":
            many.checkpoint(name).touch()
            return False
        return make(tmp_path, name) is None

    assert not many.work(fit, pytest.fail)
    assert statuses(many) == {"a": "done", "b": "stopped", "c": "open", "d": "open"}
    with pytest.raises(KeyboardInterrupt):
        many.work(lambda _: (_ for _ in ()).throw(KeyboardInterrupt), pytest.fail)
    assert not list(tmp_path.glob("*.lock"))


def test_results_of_other_settings_and_of_stopped_runs_are_not_done(tmp_path):
    make(tmp_path, "a", settings={"a": [1, 3]})
    make(tmp_path, "b", interrupted=True)
    (tmp_path / "c").mkdir()
    assert set(statuses(objects(tmp_path)).values()) == {"open"}
    (tmp_path / "c" / "metrics.json").write_text("{")
    with pytest.raises(ValueError, match=r"c.metrics.json is damaged: remove the folder"):
        read_metrics(tmp_path / "c")


def test_two_that_work_at_once_share_the_objects(tmp_path):
    many, done, together = objects(tmp_path, "abcdefgh"), [], threading.Barrier(2, timeout=30)

    def fit(name: str) -> bool:
        if not done:
            together.wait()  # both are at work
        done.append((threading.get_ident(), name))
        time.sleep(0.01)
        return make(tmp_path, name) is None

    other = threading.Thread(target=many.work, args=(fit, pytest.fail))
    other.start()
    assert many.work(fit, pytest.fail)
    other.join()
    assert sorted(name for _, name in done) == list("abcdefgh")
    assert len({who for who, _ in done}) == 2
    assert set(statuses(many).values()) == {"done"}


def test_what_a_process_that_died_had_begun_is_taken_up(tmp_path):
    """Its lock ends with it, and the one that waits for it finds nothing done."""
    many, script = objects(tmp_path, "a"), "import sys, time, fcntl; f = open(sys.argv[1], 'a'); fcntl.flock(f, 2); "
    holder = start(["-c", script + "print('held', flush=True); time.sleep(100)", str(tmp_path / "a.lock")], tmp_path)
    assert holder.stdout.readline() == "held\n"
    with _claimed(tmp_path / "a.lock", wait=False) as is_ours:
        assert not is_ours
    killer = threading.Timer(0.3, holder.kill)
    killer.start()
    assert many.work(lambda name: make(tmp_path, name) is None, pytest.fail)
    assert holder.wait() != 0
    holder.communicate()
    assert statuses(many) == {"a": "done"}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_lock_on_a_file_that_was_removed_is_none(tmp_path):
    path, order = tmp_path / "a.lock", []

    def wait() -> None:
        with _claimed(path, wait=True) as is_ours:
            order.append((is_ours, path.exists()))

    with _claimed(path, wait=True):
        others = [threading.Thread(target=wait) for _ in range(3)]
        for other in others:
            other.start()
        time.sleep(0.1)
        assert order == []
    for other in others:
        other.join()
    assert order == [(True, True)] * 3
    assert not path.exists()


def test_the_summary(tmp_path):
    make(tmp_path, "a", iou=0.75)
    many = objects(tmp_path)

    def fit(name: str) -> bool:
        if name == "b":
            raise OSError("it <was> empty")
        if name == "d":
            return False
        return make(tmp_path, name, iou=0.25) is None

    many.work(fit, lambda _: None)
    save_summary(many.outcomes(), many, COLUMNS, "Four objects")
    assert table(many.outcomes(), COLUMNS) == [
        ["object", "status", "IoU", "Seconds"],
        ["a", "kept", "0.75", "3"],
        ["b", "failed", "", ""],
        ["c", "done", "0.25", "3"],
        ["d", "open", "", ""],
    ]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["objects"][0] == {
        "object": "a",
        "file": "a.obj",
        "status": "kept",
        "iou": 0.75,
        "seconds": 3.0,
        "error": "",
    }
    assert summary["objects"][1]["error"] == "it <was> empty"
    assert summary["settings"] == {"a": [1, 2]}
    html = (tmp_path / "summary.html").read_text()
    for text in ("Four objects", "<dd>0.50</dd>", "it &lt;was&gt; empty", 'href="a/report.html"', "1 objects are left"):
        assert text in html, text


def save_numbers(result, folder: Path, source: str) -> None:
    """The part of a results folder that takes no time to make."""
    save_obj(folder / "mesh.obj", result.mesh.verts_packed(), result.mesh.faces_packed())
    metrics = {
        "source": source,
        "interrupted": result.interrupted,
        "silhouette_iou_mean": float(result.iou.mean()),
        "chamfer": result.chamfer,
        "seconds": result.seconds,
        "settings": asdict(result.settings),
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))


RUN = f"""
import json, os, signal, sys
from dataclasses import asdict
from pathlib import Path
from recon_engine.cli import main
from recon_engine.io import save_obj
from recon_engine.methods import _train, build
from recon_engine.methods._run import History
{inspect.getsource(save_numbers)}
build.save_results = save_numbers
"""


@pytest.fixture
def shapes(tmp_path, monkeypatch):
    """A folder with four shapes, one of them broken."""
    for module in ("tyro", "tqdm", "PIL", "matplotlib"):
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(build, "save_results", save_numbers)
    folder = tmp_path / "shapes"
    folder.mkdir()
    made = {"ball": ico_sphere(1), "ring": torus(0.3, 0.7, 6, 8), "house": building()}
    for name, mesh in made.items():
        save_obj(folder / f"{name}.obj", mesh.verts_packed(), mesh.faces_packed())
    (folder / "broken.obj").write_text("v 0 0 zero\n")
    return folder


def test_many_objects_in_two_processes(shapes, tmp_path, capsys):
    """One fails, three are done; the next run finds them so, until the last one is repaired."""
    arguments = ["build", "--obj", "shapes/*.obj", *SHORT]
    (first, text, errors), (second, other_text, other_errors) = run_two(
        ["-c", RUN + "sys.exit(main(sys.argv[1:]))", *arguments], tmp_path
    )
    assert (first, second) == (1, 1), errors + other_errors
    assert "broken: shapes/broken.obj, line 1: expected a number" in errors + other_errors
    assert "recon: 1 of 4 objects failed" in errors
    assert (text.count("summary: "), other_text.count("summary: ")) == (1, 0)
    assert text.count(" failed") == 1
    out = tmp_path / "all"
    expected = ["ball", "broken.error", "house", "ring", "summary.html", "summary.json"]
    assert sorted(path.name for path in out.iterdir()) == expected
    rows = json.loads((out / "summary.json").read_text())["objects"]
    assert [row["status"] for row in rows] == ["done", "failed", "done", "done"]
    times = {name: (out / name / "mesh.obj").stat().st_mtime_ns for name in ("ball", "house", "ring")}

    assert main(arguments) == 1
    assert capsys.readouterr().out.count("kept") == 3
    save_obj(shapes / "broken.obj", building().verts_packed(), building().faces_packed())
    assert main(arguments) == 0
    rows = json.loads((out / "summary.json").read_text())["objects"]
    assert [row["status"] for row in rows] == ["kept", "done", "kept", "kept"]
    assert times == {name: (out / name / "mesh.obj").stat().st_mtime_ns for name in times}
    # It is the house again, and its results are too.
    assert (out / "broken" / "mesh.obj").read_text() == (out / "house" / "mesh.obj").read_text()


def test_a_killed_run_is_taken_up_again(shapes, tmp_path, capsys):
    """SIGKILL in the middle of the second object: the first is kept, and the second ends as if nothing had been."""
    (shapes / "broken.obj").unlink()
    arguments = ["build", "--obj", "shapes/ball.obj", "shapes/house.obj", "shapes/ring.obj", *SHORT]
    arguments[arguments.index("--iters") + 1] = "60"
    script = """
_train.Checkpoint.__init__.__defaults__ = (0.0,)
record = History.record
def killed(self, row):
    if self.length == 40 and any(name.startswith("house") for name in os.listdir("all")):
        os.kill(os.getpid(), signal.SIGKILL)
    record(self, row)
History.record = killed
main(sys.argv[1:])
"""
    process = start(["-c", RUN + script, *arguments], tmp_path)
    process.communicate(timeout=100)
    assert process.returncode == -9
    out = tmp_path / "all"
    assert (out / "ball" / "metrics.json").exists()
    assert (out / "house.checkpoint").exists()
    assert not (out / "ring").exists()
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert "40/60" in shown.err  # where the bar begins
    rows = json.loads((out / "summary.json").read_text())["objects"]
    assert [row["status"] for row in rows] == ["kept", "done", "done"]
    assert sorted(path.name for path in out.iterdir()) == ["ball", "house", "ring", "summary.html", "summary.json"]
    single = ["build", "--obj", "shapes/house.obj", *SHORT]
    single[-1] = "alone"
    single[single.index("--iters") + 1] = "60"
    assert main(single) == 0
    assert (tmp_path / "alone" / "mesh.obj").read_text() == (out / "house" / "mesh.obj").read_text()


def test_what_many_objects_refuse(shapes, tmp_path, capsys):
    def refused(*arguments: str) -> str:
        assert main(["build", *SHORT, *arguments]) == 2
        return capsys.readouterr().err

    ball, ring = "shapes/ball.obj", "shapes/ring.obj"
    assert "--obj nothing/*.obj matches no file" in refused("--obj", "nothing/*.obj")
    assert "the file shapes/cone.obj does not exist" in refused("--obj", ball, "shapes/cone.obj")
    (tmp_path / "ball.ply").write_text("")
    clash = "shapes/ball.obj and ball.ply would both have the results folder ball: rename one of them"
    assert clash in refused("--obj", ball, "ball.ply")
    (tmp_path / "all").write_text("")
    assert "the results folder all is a file" in refused("--obj", ball, ring)
    (tmp_path / "all").unlink()
    (tmp_path / "all" / "ring").mkdir(parents=True)
    (tmp_path / "all" / "ring" / "thesis.tex").write_text("")
    assert "all/ring holds no results of an earlier run" in refused("--obj", ball, ring)
    (tmp_path / "all" / "ring" / "thesis.tex").unlink()
    assert "--device cuda:77 cannot be used" in refused("--obj", ball, ring, "--device", "cuda:77")
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == ["ring"]
    # The same file twice is one object; one that is named is as ever.
    assert main(["build", *SHORT, "--obj", ball, "shapes/b*l.obj"]) == 0
    assert capsys.readouterr().out.count("ball ") == 2
    assert main(["build", *SHORT, "--obj", ring, "--out", "one"]) == 0
    assert (tmp_path / "one" / "metrics.json").exists()
    assert "one holds the results of one object" in refused("--obj", ball, ring, "--out", "one")
    # Other settings.
    other = ["--obj", ball, ring, "--seed", "7"]
    assert "the results folder all/ball was made with seed 0, not 7: choose another --out, or add" in refused(*other)
    assert main(["build", *SHORT, *other, "--overwrite"]) == 0
    assert read_metrics(tmp_path / "all" / "ball")["settings"]["seed"] == 7


def test_ctrl_c_keeps_what_was_reached(shapes, monkeypatch, capsys):
    import signal

    from recon_engine.methods._run import History

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    record, rows = History.record, []

    def pressed(self, row) -> None:
        rows.append(row)
        if len(rows) == 8:
            signal.raise_signal(signal.SIGINT)
        record(self, row)

    monkeypatch.setattr(History, "record", pressed)
    arguments = ["build", "--obj", "shapes/[bhr][aoi]*.obj", *SHORT]
    try:
        assert main(arguments) == 130
        shown = capsys.readouterr()
        assert "stopped; what was reached is kept: the same command goes on" in shown.err
        assert [row["status"] for row in json.loads(Path("all/summary.json").read_text())["objects"]] == [
            "done",
            "stopped",
            "open",
        ]
        assert main(arguments) == 0
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(rows) == 18  # no step is made twice


@pytest.mark.slow
def test_torchrun(shapes, tmp_path):
    """With whole reports."""
    arguments = ["build", "--obj", "shapes/*.obj", *SHORT]
    done = torchrun(arguments, tmp_path)
    assert done.returncode == 1, done.stderr
    assert done.stdout.count("summary: ") == 1
    for name in ("ball", "house", "ring"):
        assert (tmp_path / "all" / name / "report.html").exists()
