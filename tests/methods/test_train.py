from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch

from recon_engine.methods._run import History, OwnRandom
from recon_engine.methods._train import Checkpoint, Training, read_checkpoint

ITERATIONS = 12
ABOUT = {"method": "test", "iterations": 12}


class Stop(Exception):
    """What ends a run that is killed."""


def fit(path: Path | None, *, stop: int | None = None, seconds: float = 0.0, interrupt: int | None = None):
    """Parameters, losses and the loop of a small fit with random batches; it is killed before iteration `stop`."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    history = History(("error",), (1.0,), ITERATIONS)

    def losses(generator: torch.Generator):
        if history.length == stop:
            raise Stop
        if history.length == interrupt:
            signal.raise_signal(signal.SIGINT)
        x = torch.rand(8, 3, generator=generator) + 0.1 * torch.rand(8, 3)
        return (lambda: (model(x) - x.sum(1, keepdim=True)).square().mean(),)

    adam = torch.optim.Adam(model.parameters(), lr=0.05)
    training = train(model, adam, losses, history, Checkpoint(path, ABOUT, seconds))
    return [p.detach().clone() for p in model.parameters()], history.table()["error"], training.loop


def train(model, optimizer, losses, history, checkpoint, **options) -> Training:
    options |= {"iterations": ITERATIONS, "label": "", "show_progress": False}
    training = Training(model, [optimizer], losses, history, OwnRandom(0), checkpoint, **options)
    for _ in training:
        pass
    return training


def test_a_run_that_was_killed_ends_like_one_that_was_not(tmp_path):
    path = tmp_path / "a.checkpoint"
    whole, losses, _ = fit(None)
    with pytest.raises(Stop):
        fit(path, stop=5)
    assert len(read_checkpoint(path)["losses"]) == 5
    with pytest.raises(Stop):
        fit(path, stop=10)
    resumed, again, loop = fit(path)
    assert again == losses
    for a, b in zip(whole, resumed, strict=True):
        assert torch.equal(a, b)
    assert not loop.interrupted
    assert [file.name for file in tmp_path.iterdir()] == ["a.checkpoint"]


def test_time_is_added_up(tmp_path):
    path = tmp_path / "a.checkpoint"
    with pytest.raises(Stop):
        fit(path, stop=5)
    kept = read_checkpoint(path)["seconds"]
    assert kept > 0
    assert fit(path)[2].seconds > kept


@pytest.fixture
def _pythons_ctrl_c():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_pythons_ctrl_c")
def test_ctrl_c_saves_the_state(tmp_path):
    path = tmp_path / "a.checkpoint"
    _, losses, loop = fit(path, interrupt=7, seconds=1000.0)
    assert loop.interrupted
    assert len(losses) == len(read_checkpoint(path)["losses"]) == 8
    assert fit(path)[1] == fit(None)[1]


def test_what_is_done_before_and_after_a_step():
    model, done = torch.nn.Linear(1, 1, bias=False), []
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    model.weight.data.zero_()

    def before(i: int) -> None:
        sgd.param_groups[0]["lr"] = 0.5**i
        done.append(model.weight.item())

    def after() -> None:
        model.weight.data.clamp_(min=-1.6)

    history = History(("error",), (1.0,), ITERATIONS)
    train(model, sgd, lambda _: (model.weight.sum,), history, Checkpoint(None, {}), before=before, after=after)
    assert done[:4] == [0.0, -1.0, -1.5, pytest.approx(-1.6)]
    assert model.weight.item() == pytest.approx(-1.6)


def test_checkpoints_of_other_runs_are_refused(tmp_path):
    path = tmp_path / "a.checkpoint"
    Checkpoint(path, {"method": "volume", "iterations": 3}).save({"x": 1})
    with pytest.raises(ValueError, match=r"a.checkpoint is of a run with iterations 3, not 4: give the same settings"):
        Checkpoint(path, {"method": "volume", "iterations": 4}).load()
    with pytest.raises(ValueError, match="with method volume, not nerf"):
        Checkpoint(path, {"method": "nerf", "iterations": 3}).load()
    assert Checkpoint(path, {"method": "volume", "iterations": 3}).load() == {"x": 1}


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_damaged_checkpoints_are_named(tmp_path, content):
    path = tmp_path / "a.checkpoint"
    if content is None:  # half of a whole one
        Checkpoint(path, {"method": "volume"}).save({"x": torch.rand(1000)})
        content = path.read_bytes()[:2000]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a.checkpoint cannot be read"):
        Checkpoint(path, {"method": "volume"}).load()


def test_files_that_are_no_checkpoints_are_named(tmp_path):
    path = tmp_path / "a.checkpoint"
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match=r"a.checkpoint is no checkpoint"):
        read_checkpoint(path)
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        read_checkpoint(tmp_path / "b.checkpoint")


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "a.checkpoint"
    checkpoint = Checkpoint(path, {})
    checkpoint.save({"x": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"a.checkpoint cannot be written: .*No space left"):
        checkpoint.save({"x": 2})
    assert checkpoint.load() == {"x": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.checkpoint"]


def test_without_a_file_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint = Checkpoint(None, {}, seconds=0.0)
    checkpoint.save({"x": 1})
    assert checkpoint.load() is None
    assert not checkpoint.is_due
    assert list(tmp_path.iterdir()) == []
