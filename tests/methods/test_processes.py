"""Fits that two processes share over gloo; each check is a function that both of them run."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
import torch
from launch import run_two

from recon_engine.methods._processes import Processes, joined, own_device

HEAD = """
import os, signal, sys
from pathlib import Path
import torch
import torch.distributed as dist
from recon_engine.methods._processes import PeerError, Processes, joined
from recon_engine.methods.nerf import NerfFit, nerf_settings
from recon_engine.methods.volume import VolumeFit, volume_settings
from recon_engine.methods.fit_views import ViewFit, view_settings
from recon_engine.methods.shapes import building
rank = int(os.environ["RANK"])
"""


def two(script: str, folder: Path, *arguments: str) -> list[tuple[int, str, str]]:
    """Exit code and what was written, of two processes that run a script."""
    path = folder / "script.py"
    path.write_text(HEAD + textwrap.dedent(script))
    return run_two(["-W", "error::FutureWarning", str(path), *arguments], folder)


def test_alone_there_is_nothing_to_agree_on():
    alone, values = Processes(), torch.arange(3.0)
    alone.average_(values)
    assert values.tolist() == [0.0, 1.0, 2.0]
    assert alone.part(values) is not values
    assert alone.part(values).tolist() == [0.0, 1.0, 2.0]
    assert alone.own_seed(7) == 7
    module = torch.nn.Linear(1, 1)
    assert alone.averaged(module) is module
    with pytest.raises(OSError, match="full"):
        alone.first(lambda: (_ for _ in ()).throw(OSError("full")))


def test_shares_are_equally_large():
    processes = Processes()
    for count, size, expected in ((2, 4, [[0, 1], [2, 3]]), (2, 5, [[0, 1, 2], [3, 4, 0]]), (3, 1, [[0], [0], [0]])):
        processes.count = count
        got = []
        for processes.rank in range(count):
            got.append(processes.part(torch.arange(size)).tolist())
        assert got == expected
        seeds = set()
        for processes.rank in range(count):
            seeds |= {processes.own_seed(seed) for seed in range(5)}
        assert len(seeds) == 5 * count


def test_devices_of_processes(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert own_device("cuda") == "cuda"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [own_device(device) for device in ("cpu", "cuda", "cuda:0")] == ["cpu", "cuda:1", "cuda:0"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="--device cuda needs a GPU for each process, got 1: start fewer"):
        own_device("cuda")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with joined("cpu") as processes:
        assert processes.count == 1


def test_two_processes_with_half_of_the_views_are_one_with_all(tmp_path):
    """Where nothing but the views is drawn, parameters are those of one process; resuming changes nothing."""
    ended = two(
        """
        house = building(colors=True)
        tiny = dict(views=8, held_out=2, image_size=12, points_per_ray=12, views_per_iteration=4)
        documented = volume_settings("documented", iterations=6, resolution=8, **tiny)
        nerf = nerf_settings(fast=True, iterations=40, rays_per_view=32, hidden=16, **tiny)
        views = view_settings("silhouette", views=6, held_out=2, image_size=16, level=1, iterations=4)
        with joined("cpu") as processes:
            for kind, settings, exact in (
                (VolumeFit, documented, True),
                (ViewFit, views, True),
                (NerfFit, nerf, False),
            ):
                shared = kind.to_mesh(house, settings, distributed=True)
                list(shared)
                flat = torch.nn.utils.parameters_to_vector(shared.model.parameters()).detach()
                theirs = processes.gather(flat)
                assert torch.equal(theirs[0], theirs[1]), kind
                table = shared.history.table()["total"]
                assert processes.gather(table)[0] == table
                assert sum(table[-3:]) < sum(table[:3]), table
                alone = kind.to_mesh(house, settings)
                list(alone)
                expected = torch.nn.utils.parameters_to_vector(alone.model.parameters()).detach()
                same = torch.allclose(flat, expected, rtol=1e-4, atol=1e-4)
                assert same == exact, (kind, (flat - expected).abs().max())
                if exact:
                    assert torch.allclose(torch.tensor(table), torch.tensor(alone.history.table()["total"]), rtol=1e-4)
                path = Path(f"{kind.__name__}.checkpoint")  # stopped half-way and taken up again
                begun = kind.to_mesh(house, settings, distributed=True, checkpoint=path)
                for step in begun:
                    if step == 2:
                        break
                begun._training.save()
                again = kind.to_mesh(house, settings, distributed=True, checkpoint=path)
                assert again.history.length == 3
                list(again)
                assert torch.equal(torch.nn.utils.parameters_to_vector(again.model.parameters()), flat)
                processes.first(path.unlink)
            # Different rays: what one process sees is not what the other sees.
            generator = torch.Generator().manual_seed(0)
            picked = processes.gather(shared.pick(generator).tolist())
            assert not set(picked[0]) & set(picked[1])
        print("done")
        """,
        tmp_path,
    )
    assert [(code, out) for code, out, _ in ended] == [(0, "done\n")] * 2, ended


def test_ctrl_c_and_errors_of_one_process_end_both(tmp_path):
    ended = two(
        """
        house = building(colors=True)
        settings = volume_settings(views=4, held_out=1, image_size=8, points_per_ray=8, resolution=4, iterations=100000)
        with joined("cpu") as processes:
            stopped = VolumeFit.to_mesh(house, settings, distributed=True)
            for step in stopped:
                if rank == 1 and step == 5:
                    os.kill(os.getpid(), signal.SIGINT)
            assert processes.gather(stopped.history.length) == [6, 6], stopped.history.length
            assert stopped._training.loop.interrupted

            def full():
                raise OSError("disk full")

            try:
                processes.first(full)
            except OSError as error:
                print(type(error).__name__, error, flush=True)

            class Broken(VolumeFit):
                def losses(self, generator):
                    if rank == 1 and self.history.length == 3:
                        print("about to break", flush=True)
                        raise ValueError("broken")
                    return super().losses(generator)

            try:
                for _ in Broken.to_mesh(house, settings, distributed=True):
                    pass
            except PeerError as error:
                print(error, flush=True)
                sys.exit(7)
        """,
        tmp_path,
    )
    (first, out, errors), (second, other_out, other_errors) = ended
    assert (first, second) == (7, 1), ended
    assert out.startswith("OSError disk full\nanother process failed: "), ended
    assert other_out == "PeerError the first process failed\nabout to break\n"
    assert "Traceback" not in errors
    assert other_errors.rstrip().endswith("ValueError: broken")


def test_recon_nerf_in_two_processes(tmp_path):
    """One results folder and one progress bar; a folder that is made in no time stands for the report."""
    for module in ("tyro", "tqdm", "PIL", "matplotlib"):
        pytest.importorskip(module)
    script = """
        from recon_engine.cli import main
        from recon_engine.methods import nerf

        def save(result, folder, source):
            (folder / "metrics.json").write_text(str(result.history.length))

        nerf.save_results = save
        sys.exit(main(["nerf", "--fast", "--views", "4", "--image-size", "8", "--iters", "4"]))
        """
    (first, out, errors), other = two(script, tmp_path)
    assert first == 0, errors
    assert other[:2] == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recon-nerf", "script.py"]
    assert (tmp_path / "recon-nerf" / "metrics.json").read_text() == "4"
    assert out.count("report: ") == 1
    assert "4/4" in errors
    assert "4/4" not in other[2]


def test_commands_of_one_process_say_so_under_torchrun(tmp_path, monkeypatch, capsys):
    pytest.importorskip("tyro")
    from recon_engine.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert main(["demo"]) == 2
    expected = "recon (process 1): this command works in one process: start it without torchrun\n"
    assert capsys.readouterr().err == expected


@pytest.mark.slow
def test_two_of_which_one_is_killed_go_on(tmp_path):
    """The other one ends by itself, and both together end as two that nothing befell."""
    for module in ("tyro", "tqdm", "PIL", "matplotlib"):
        pytest.importorskip(module)
    script = """
        from recon_engine.cli import main
        from recon_engine.methods import _train, volume
        from recon_engine.methods._run import History

        def save(result, folder, source):
            (folder / "metrics.json").write_text(str(result.history.table()["total"]))

        record = History.record

        def killed(self, row):
            if rank == 1 and self.length == 20 and "--resume" not in sys.argv and "unbroken" not in sys.argv:
                os.kill(os.getpid(), signal.SIGKILL)
            record(self, row)

        volume.save_results, History.record = save, killed
        _train.Checkpoint.__init__.__defaults__ = (0.0,)
        size = ["--views", "4", "--image-size", "12", "--resolution", "8", "--iters", "40"]
        sys.exit(main(["volume", "--fast", *size, *sys.argv[1:]]))
        """
    unbroken, broken = (two(script, tmp_path, "--out", out) for out in ("unbroken", "broken"))
    assert [code for code, _, _ in unbroken] == [0, 0], unbroken
    assert [code for code, _, _ in broken] == [2, -9], broken
    assert "another process failed" in broken[0][2]
    assert "broken.checkpoint keeps the run: --resume goes on" in broken[0][2]
    resumed = two(script, tmp_path, "--out", "broken", "--resume")
    assert [code for code, _, _ in resumed] == [0, 0], resumed
    losses = [(tmp_path / out / "metrics.json").read_text() for out in ("unbroken", "broken")]
    assert losses[0] == losses[1]
    assert not (tmp_path / "broken.checkpoint").exists()
