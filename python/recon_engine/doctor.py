"""`recon doctor`: what is installed, what this machine offers, and whether every op computes what it should."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import sys
import time
from pathlib import Path
from types import ModuleType

import torch

from recon_engine import __version__

_TOLERANCE = {torch.float32: {"rtol": 1e-3, "atol": 1e-4}, torch.float64: {"rtol": 1e-7, "atol": 1e-9}}


def main() -> int:
    """Prints the report; 0 when all is well, 1 when the kernels do not load or an op is wrong."""
    _line("versions", f"recon_engine {__version__}, Python {platform.python_version()}, torch {torch.__version__}")
    try:
        from recon_engine._load import load

        kernels = load()
    except ImportError as error:
        _line("kernels", f"FAILED\n{error}")
        return 1
    _line("kernels", _describe_build(kernels))
    _line("CPU", f"{_cpu_name()}, {torch.get_num_threads()} threads, {kernels.simd_level()} kernels")
    for line in _describe_cuda(kernels):
        _line("CUDA", line)
    for line in _describe_extras():
        _line("extras", line)
    return _check_ops(kernels)


def _line(subject: str, text: str) -> None:
    print(f"{subject:9}{text}", flush=True)


def _describe_build(kernels: ModuleType) -> str:
    way = "torch's C exchange API" if kernels.exchange_api() else "their attributes (torch < 2.10)"
    return f"built by {kernels.compiler}; tensors read through {way}"


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def _describe_cuda(kernels: ModuleType) -> list[str]:
    compiled = f"compiled for {kernels.cuda_architectures}" if kernels.has_cuda else "not compiled in"
    cure = "" if kernels.has_cuda else "; to use it: RECON_CUDA=on pip install . in the sources, with nvcc"
    if torch.cuda.is_available():
        gpus = range(torch.cuda.device_count())
        return [
            f"{torch.cuda.get_device_name(i)}, sm_{''.join(map(str, torch.cuda.get_device_capability(i)))}, "
            f"{compiled}{cure}"
            for i in gpus
        ]
    reason = "no GPU or no driver found" if torch.version.cuda else "this torch is built without CUDA"
    return [f"{reason}; kernels {compiled}"]


def _describe_extras() -> list[str]:
    try:
        requirements = importlib.metadata.requires("recon_engine") or []
    except importlib.metadata.PackageNotFoundError:
        return ["unknown: recon_engine is imported from its sources, not installed"]
    wanted: dict[str, list[str]] = {}
    for requirement in requirements:
        extra = re.search(r"extra == [\"'](\w+)[\"']", requirement)
        distribution = re.match(r"[\w.-]+", requirement)
        if extra and distribution and extra[1] not in ("all", "test", "bench", "docs"):
            wanted.setdefault(extra[1], []).append(distribution[0])
    return [_describe_extra(extra, distributions) for extra, distributions in wanted.items()]


def _describe_extra(extra: str, distributions: list[str]) -> str:
    missing = [d for d in distributions if not _installed(d)]
    if missing:
        return f'{extra}: {", ".join(missing)} missing; pip install "recon_engine[{extra}]"'
    return f"{extra}: ok"


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _check_ops(kernels: ModuleType) -> int:
    from recon_engine._samples import all_ops

    devices = ["cpu"]
    if kernels.has_cuda and torch.cuda.is_available():
        devices += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    start, wrong, names = time.perf_counter(), 0, sorted(all_ops())
    width = max(map(len, names))
    for name in names:
        for device in devices:
            problem, seconds = _check_op(name, device)
            wrong += problem is not None
            _line("op", f"{name:{width}}  {device:7}  {seconds * 1e3:7.2f} ms  {problem or 'ok'}")
    total = len(names) * len(devices)
    took = time.perf_counter() - start
    _line("ops", f"{total - wrong} of {total} agree with their plain-torch reference ({took:.1f} s)")
    return 1 if wrong else 0


def _check_op(name: str, device: str) -> tuple[str | None, float]:
    """What is wrong with the op on the device, if anything, and the time of one float32 forward and backward."""
    from recon_engine._samples import all_ops, sample_inputs
    from recon_engine.testing import assert_matches_reference, values_and_grads

    op, seconds = all_ops()[name], 0.0
    try:
        for dtype, tolerance in _TOLERANCE.items():
            assert_matches_reference(op, *sample_inputs(name, device, dtype), **tolerance)
        inputs = sample_inputs(name, device)
        start = time.perf_counter()
        values_and_grads(op, *inputs)
        if device != "cpu":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
    except Exception as error:  # a self-test reports what an op does, whatever it does
        return f"FAILED: {' '.join(str(error).split())[:300]}", seconds
    return None, seconds


if __name__ == "__main__":
    sys.exit(main())
