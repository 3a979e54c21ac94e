"""Commands that are killed or stopped at any moment go on with --resume and leave what they would have left."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import recon_engine
from recon_engine.methods._train import read_checkpoint

for module in ("tyro", "tqdm", "matplotlib", "PIL"):
    pytest.importorskip(module)

# Each command is a process of its own, forked from one that has imported everything: seconds of imports are not tested.
SERVER = """
import importlib, json, os, resource, signal, sys
import matplotlib.figure, PIL.Image, tqdm, tyro
from recon_engine import cli, quick, report
from recon_engine.methods import _train
for name in ("align", "build", "fit_points", "fit_views", "nerf", "pose", "volume"):
    importlib.import_module(f"recon_engine.methods.{name}")
_train.Checkpoint.__init__.__defaults__ = (float(sys.argv[1]),)  # seconds between checkpoints
for line in sys.stdin:
    folder, printed, largest_file, *arguments = json.loads(line)
    process = os.fork()
    if process == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(folder)
        if largest_file:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
        for stream in (1, 2):
            os.dup2(os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        try:
            code = cli.main(arguments)
            sys.stdout.flush()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            code = 99
        sys.stderr.flush()
        os._exit(code)
    print(process, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""
POINTS = "v 0 0 1\nv 1 0 0\nv 0 1 0\nv -1 0 0\nv 0 -1 0\nv 0 0 -1\nv 0.6 0.6 0.5\n"
TETRAHEDRON = "v 1 1 1\nv 1 -1 -1\nv -1 1 -1\nv -1 -1 1\nf 1 2 3\nf 1 4 2\nf 1 3 4\nf 2 4 3\n"

VIEWS = ["--fast", "--views", "3", "--held-out", "1", "--image-size", "16"]
FIELD = ["--fast", "--views", "3", "--image-size", "16"]
COMMANDS = {
    "build": ["--obj", "tetrahedron.obj", "--views", "4", "--image-size", "24", "--level", "1", "--iters", "60"],
    "fit-points": ["points.obj", "--level", "1", "--samples", "100", "--iters", "400"],
    "fit-views": [*VIEWS, "--level", "1", "--iters", "100"],
    "volume": [*FIELD, "--resolution", "8", "--iters", "100"],
    "nerf": [*FIELD, "--hidden", "8", "--iters", "40"],
    "pose": ["--fast", "--image-size", "24", "--iters", "8", "--spacing", "60", "--frames", "3"],
    "align": ["--sources", "points.obj", "--samples", "100", "--iters", "400"],
    "align --rigid": ["--sources", "points.obj", "--samples", "20000", "--starts", "2", "--iters", "40"],
}


class Run:
    """One command in a folder of its own; it can be started again and again."""

    def __init__(self, server: subprocess.Popen[str], folder: Path, command: str) -> None:
        self.server, self.folder = server, folder
        name, *options = command.split()
        self.arguments = [name, *options, *COMMANDS[command], "--out", "out"]
        self.checkpoint = folder / "out.checkpoint"
        self.printed = folder.with_name(folder.name + ".txt")
        folder.mkdir()
        (folder / "points.obj").write_text(POINTS)
        (folder / "tetrahedron.obj").write_text(TETRAHEDRON)
        self.inputs = {path.name for path in folder.iterdir()}

    def start(self, *options: str, largest_file: int = 0) -> int:
        """The id of the process; as on a full disk, it can write no file that is larger, if this is not 0."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.printed.write_text("")
        request = [str(self.folder), str(self.printed), largest_file, *self.arguments, *options]
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def wait(self) -> int:
        """The exit code, or minus the number of the signal that ended it."""
        assert self.server.stdout is not None
        return int(self.server.stdout.readline())

    def whole(self, *options: str) -> dict[str, object]:
        """Run to the end; what is left."""
        self.start(*options)
        code = self.wait()
        assert code == 0, self.printed.read_text()
        return self.left()

    def left(self) -> dict[str, object]:
        """Everything in the results folder; of the numbers, those that do not measure time. Nothing is beside it."""
        assert {path.name for path in self.folder.iterdir()} == {*self.inputs, "out"}
        files: dict[str, object] = {path.name: path.read_bytes() for path in (self.folder / "out").iterdir()}
        metrics = json.loads((self.folder / "out" / "metrics.json").read_text())
        del metrics["seconds"], files["report.html"]
        return {**files, "metrics.json": metrics}

    def wait_for_steps(self) -> None:
        """Until a checkpoint holds more than the beginning."""
        first, until = None, time.monotonic() + 60
        while time.monotonic() < until:
            try:
                found = self.checkpoint.stat().st_ino, self.checkpoint.stat().st_mtime_ns
            except FileNotFoundError:
                found = None
            first = first or found
            if found != first:
                return
            time.sleep(0.002)
        raise AssertionError(f"there is no checkpoint: {self.printed.read_text()}")


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": str(Path(recon_engine.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", SERVER, "0.02"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="module")
def unbroken(server, tmp_path_factory):
    """What a run leaves that nobody stops, and how long it takes, by command; each is made once."""
    folder, made = tmp_path_factory.mktemp("unbroken"), {}

    def of(command: str) -> tuple[dict[str, object], float]:
        if command not in made:
            began = time.monotonic()
            left = Run(server, folder / command.replace(" ", ""), command).whole()
            made[command] = left, time.monotonic() - began
        return made[command]

    return of


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_stopped_and_killed_goes_on(command, server, unbroken, tmp_path):
    run = Run(server, tmp_path / "run", command)
    process = run.start()
    run.wait_for_steps()
    os.kill(process, signal.SIGINT)
    assert run.wait() == 130, run.printed.read_text()
    assert "what was reached is saved; --resume goes on" in run.printed.read_text()
    assert {path.name for path in run.folder.iterdir()} == {*run.inputs, "out", "out.checkpoint"}
    metrics = (run.folder / "out" / "metrics.json").read_text()
    assert json.loads(metrics)["interrupted"]
    assert "was stopped after" in (run.folder / "out" / "report.html").read_text()

    process = run.start("--resume")
    run.wait_for_steps()
    time.sleep(random.Random(command).uniform(0, 0.05))
    os.kill(process, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL, run.printed.read_text()
    assert run.checkpoint.exists()
    assert (run.folder / "out" / "metrics.json").read_text() == metrics
    assert run.whole("--resume") == unbroken(command)[0]


def last_line(run: Run) -> str:
    """What a command says in the end, below its progress bar."""
    text = run.printed.read_text()
    assert "Traceback" not in text
    return text.rstrip("\n").replace("\r", "\n").splitlines()[-1]


def test_what_cannot_be_saved_is_kept(server, unbroken, tmp_path):
    """On a full disk the report is not written; with room again --resume writes it without fitting anew."""
    run = Run(server, tmp_path / "run", "fit-points")
    run.start(largest_file=30_000)
    assert run.wait() == 2, run.printed.read_text()
    why = "the results folder out cannot be written: File too large"
    assert last_line(run) == f"recon: {why}; out.checkpoint keeps the run: --resume goes on"
    assert {path.name for path in run.folder.iterdir()} <= {*run.inputs, "out.checkpoint", "out.live"}
    steps = int(run.arguments[run.arguments.index("--iters") + 1])
    assert len(read_checkpoint(run.checkpoint)["losses"]) == steps
    assert run.whole("--resume") == unbroken("fit-points")[0]


def test_no_work_is_done_where_nothing_can_be_kept(server, tmp_path):
    run = Run(server, tmp_path / "run", "volume")
    run.start(largest_file=1000)
    assert run.wait() == 2
    assert last_line(run) == "recon: the checkpoint out.checkpoint cannot be written: File too large"
    assert {path.name for path in run.folder.iterdir()} == run.inputs


def test_a_checkpoint_that_cannot_be_replaced_is_kept(server, unbroken, tmp_path):
    run = Run(server, tmp_path / "run", "fit-points")
    run.start()
    run.wait_for_steps()
    for _ in range(1000):  # until it is not there for a moment
        with contextlib.suppress(FileExistsError):
            (run.folder / "out.checkpoint.part").mkdir()
            break
    assert run.wait() == 2, run.printed.read_text()
    assert last_line(run) == (
        "recon: the checkpoint out.checkpoint cannot be written: Is a directory; "
        "out.checkpoint keeps the run: --resume goes on"
    )
    (run.folder / "out.checkpoint.part").rmdir()
    assert run.whole("--resume") == unbroken("fit-points")[0]


@pytest.mark.parametrize("command", ["pose", "align"])
def test_half_a_checkpoint_is_none(command, server, tmp_path):
    run = Run(server, tmp_path / "run", command)
    process = run.start()
    run.wait_for_steps()
    os.kill(process, signal.SIGKILL)
    run.wait()
    whole = run.checkpoint.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:-1], b"", whole[: len(whole) // 2] + bytes(len(whole) // 2)):
        run.checkpoint.write_bytes(content)
        run.start("--resume")
        assert run.wait() == 2
        assert last_line(run).startswith("recon: the checkpoint out.checkpoint cannot be read: ")
        assert run.printed.read_text().count("\n") == 1
        assert run.checkpoint.read_bytes() == content


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("command", COMMANDS)
def test_any_moment(command, seed, server, unbroken, tmp_path):
    """SIGKILL or SIGINT at moments that are drawn over the whole run, from its first line to its report."""
    expected, seconds = unbroken(command)
    run, moments, ends = Run(server, tmp_path / "run", command), random.Random(f"{command} {seed}"), []
    for _ in range(12):
        process = run.start(*["--resume"] * run.checkpoint.exists())
        kind = moments.choice([signal.SIGKILL, signal.SIGINT])
        moment = time.monotonic() + moments.uniform(0, seconds)
        while time.monotonic() < moment:
            time.sleep(0.001)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, kind)
        code = run.wait()
        assert code in (0, 130, -signal.SIGKILL), run.printed.read_text()
        assert "Traceback" not in run.printed.read_text()
        ends.append(code)
        if not run.checkpoint.exists() and (run.folder / "out").exists():
            break
    else:
        run.whole(*["--resume"] * run.checkpoint.exists())
    assert run.left() == expected
    print(f"{command}: ended with {ends}, whole in {seconds:.1f} s")
