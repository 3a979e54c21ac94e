"""What the benchmark files share: who competes, how a case is timed, and what the physical limit is.

A benchmark file is a list of cases and one line:

    CASES = [Case("chamfer, 10k x 10k points", make, target=150, bytes_moved=...)]
    test_speed = speed_test(CASES)

`make()` returns {rival: function to time}; it leaves out the rivals that `rival()` cannot import. The first rival is
always "recon_engine". Inputs are made in `make`, outside the timed functions. What a function has as `notes`, a
dictionary, is kept with its results.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

DEVICE = torch.device(os.environ.get("BENCH_DEVICE", "cpu"))
THREADS = int(os.environ.get("BENCH_THREADS", "2"))
OURS = "recon_engine"
UNCOMPILED, COMPILED = "not compiled", "PyTorch3D compiled"  # beside steps through torch.compile
NAMES = [OURS, "pytorch3d", "scipy", "torch", "pykdtree", "faiss", "fpsample", "open3d", "trimesh", "skimage"]
NAMES += [UNCOMPILED, COMPILED]

_SLOW = 5.0
Functions = dict[str, Callable[[], Any]]


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Args:
        name: what is computed, with sizes.
        make: returns the functions to time by rival.
        target: the ratio to PyTorch3D to be reached at least.
        bytes_moved: what has to cross the memory bus in any implementation: each input read and each output written
            once. Gives the fraction of the physical limit that is reached.
        same: raises unless two results agree; called with ours and each rival's before timing.
        memory: also measure peak memory, each rival in a process of its own.
        count: how many of what a call handles, for the time of one: (65536, "hit").
    """

    name: str
    make: Callable[[], Functions]
    target: float | None = None
    bytes_moved: int | Callable[[], int] | None = None
    same: Callable[[Any, Any], None] | None = None
    memory: bool = False
    count: Callable[[], tuple[int, str]] | None = None


@dataclass(frozen=True)
class Sweep:
    """Times over one size; `SWEEPS` of a benchmark file are measured and drawn by growth.py.

    Args:
        name: what is computed, with the sizes that stay.
        axis: what grows.
        values: ascending.
        make: returns the functions to time by rival, for a value.
        shown: what a value stands for on the axis.
    """

    name: str
    axis: str
    values: tuple[int, ...]
    make: Callable[[int], Functions]
    shown: Callable[[int], int] = lambda value: value


def rival(name: str) -> ModuleType | None:
    """The module, or None where it is not installed or does not load."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def speed_test(cases: list[Case]) -> Any:
    """The test function of a benchmark file: every case with every rival."""
    pairs = [pytest.param(case, name, id=f"{case.name}-{name}") for case in cases for name in NAMES]

    @pytest.mark.parametrize(("case", "name"), pairs)
    def test_speed(case: Case, name: str, benchmark: Any) -> None:
        race(case, name, benchmark)

    return test_speed


def race(case: Case, name: str, benchmark: Any) -> None:
    """Times one rival with pytest-benchmark; ratio and limits come from rounds in which all rivals alternate."""
    functions = _functions(case)
    if name not in functions:
        pytest.skip(f"{name} has no part in this case or cannot be imported")
    seconds = _alternated(case)
    benchmark.group = case.name
    rounds = 1 if seconds[name] > _SLOW else max(3, min(50, int(1.0 / seconds[name])))
    benchmark.pedantic(functions[name], rounds=rounds, iterations=1)
    info: dict[str, Any] = {"rival": name, "threads": THREADS, "device": DEVICE.type, "seconds": seconds[name]}
    info["ratio"] = seconds[name] / seconds[OURS]
    if case.target is not None:
        info["target"] = case.target
    if case.bytes_moved is not None:
        moved = case.bytes_moved() if callable(case.bytes_moved) else case.bytes_moved
        info["bytes_moved"], info["bandwidth"] = moved, copy_bandwidth()
        info["fraction_of_limit"] = moved / copy_bandwidth() / seconds[name]
    if case.count is not None:
        count, what = case.count()
        info["seconds_each"], info["each"] = seconds[name] / count, what
    info |= getattr(functions[name], "notes", {})
    if case.memory:
        info["peak_bytes"] = peak_memory(case, name)
    benchmark.extra_info.update(info)


@functools.cache
def _functions(case: Case) -> Functions:
    functions = case.make()
    if case.same is not None:
        ours = functions[OURS]()
        for name, function in functions.items():
            if name != OURS:
                case.same(ours, function())
    return functions


@functools.cache
def _alternated(case: Case) -> dict[str, float]:
    return alternate(_functions(case))


def alternate(functions: Functions, rounds: int = 5, min_time: float = 0.05) -> dict[str, float]:
    """Median seconds of a call of each function, from rounds in which they take turns.

    Args:
        functions: what to time, by rival.
        rounds: how often each has its turn, after one turn to warm up; a rival that needs more than `_SLOW` seconds
            has one turn in all.
        min_time: a turn repeats shorter calls until this many seconds have passed, after one that is not counted: it
            finds the caches as the rival has left them.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for i in range(rounds + 1):
        for name, function in functions.items():
            if times[name] and times[name][0] > _SLOW:
                continue
            seconds = _turn(function, min_time)
            if i > 0 or seconds > _SLOW:
                times[name].append(seconds)
    return {name: statistics.median(t) for name, t in times.items()}


def _turn(function: Callable[[], Any], min_time: float) -> float:
    start = _now()
    function()
    if (first := _now() - start) >= min_time:
        return first
    calls, start = 0, _now()
    while True:
        function()
        calls += 1
        elapsed = _now() - start
        if elapsed >= min_time:
            return elapsed / calls


def _now() -> float:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize(DEVICE)
    return time.perf_counter()


@functools.cache
def copy_bandwidth(size: int = 1 << 27) -> float:
    """Bytes per second, read and written together, of copying a tensor that no cache holds, on warm pages."""
    source = torch.ones(size // 4, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * size / alternate({"copy": lambda: target.copy_(source)})["copy"]


def peak_memory(case: Case, name: str) -> int:
    """Bytes by which one call raises the peak of a process (of the GPU's memory on a GPU), once it is warm."""
    module = sys.modules[case.make.__module__]
    command = [sys.executable, "-W", "ignore", __file__, Path(str(module.__file__)).stem, case.name, name]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    return int(json.loads(result.stdout.splitlines()[-1]))


def _measure_peak(module: str, case_name: str, name: str) -> int:
    torch.set_num_threads(THREADS)
    case = next(c for c in importlib.import_module(module).CASES if c.name == case_name)
    function = case.make()[name]
    function()  # what a first call loads and keeps is not what a call needs
    if DEVICE.type == "cuda":
        before = torch.cuda.memory_allocated(DEVICE)
        torch.cuda.reset_peak_memory_stats(DEVICE)
        function()
        return torch.cuda.max_memory_allocated(DEVICE) - before
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
    before = _status_bytes("VmRSS")
    function()
    return _status_bytes("VmHWM") - before


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(field)))


if __name__ == "__main__":
    sys.modules["rivals"] = sys.modules["__main__"]
    print(json.dumps(_measure_peak(*sys.argv[1:4])))
