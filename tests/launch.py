"""Programs of the tests as processes of their own, alone or two that share a group."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import recon_engine

_SECONDS = 100  # until a process that hangs is given up


def environment(**more: str) -> dict[str, str]:
    """The variables of this process, with this package and one thread."""
    package = Path(recon_engine.__file__).parents[1]
    path = os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **more}


def start(arguments: list[str], folder: Path, **more: str) -> subprocess.Popen[str]:
    """A Python that runs in a folder."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment(**more),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def run_two(arguments: list[str], folder: Path) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of two Pythons that are started as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    running = [start(arguments, folder, RANK=str(i), LOCAL_RANK=str(i), **shared) for i in range(2)]
    try:
        written = [process.communicate(timeout=_SECONDS) for process in running]
    finally:
        for process in running:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(running, written, strict=True)]


def torchrun(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """`recon` under torchrun, in two processes."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "recon_engine"]
    with start([*command, *arguments], folder) as process:
        try:
            out, errors = process.communicate(timeout=_SECONDS)
        finally:
            process.kill()
    return subprocess.CompletedProcess(arguments, process.returncode, out, errors)
