"""Runs the CUDA kernels on a CPU: the .cu files compiled by a host compiler against tests/csrc/cuda_emulation."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recon_engine._op import Op

ROOT = Path(__file__).parents[2]
EMULATION = Path(__file__).with_name("cuda_emulation")
DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int32,
    torch.int64,
    torch.uint8,
    torch.bool,
]
ASCENDING, DESCENDING, SHUFFLED = 0, 1, 2

# The stand-in comes first, as nvcc's own header does. Calls of CPU kernels, which are not built, stay unresolved.
OPTIONS = ["-std=gnu++17", "-O1", "-fPIC", "-ffp-contract=off", "-w", "-U_FORTIFY_SOURCE", "-D__CUDACC__"]
OPTIONS += ["-DRECON_CUDA", f"-I{EMULATION}", f"-I{ROOT / 'csrc'}", "-include", "cuda_runtime.h"]


@functools.cache
def build(compiler: str, folder: Path) -> Path:
    """The shared library of all ops with their CUDA kernels in `folder`; compiled if the sources have changed."""
    csrc = ROOT / "csrc"
    entries = [f for f in csrc.glob("ops/*/*.cpp") if f.name != "cpu.cpp"]
    sources = sorted([*csrc.glob("core/*.cpp"), *csrc.glob("ops/**/*.cu"), *entries, *EMULATION.glob("*.c*")])
    digest = hashlib.sha256(" ".join([compiler, *OPTIONS]).encode())
    for file in sorted([*sources, *csrc.rglob("*.h"), *EMULATION.glob("*.h")]):
        digest.update(file.read_bytes())
    library = folder / f"emulated-{digest.hexdigest()[:16]}.so"
    if library.exists():
        return library
    for old in folder.glob("emulated-*.so"):
        old.unlink()
    objects = []
    for source in sources:
        objects.append(folder / f"{source.relative_to(ROOT)}.o".replace(os.sep, "-"))
        subprocess.run(
            [compiler, *OPTIONS, "-x", "c++", "-c", str(source), "-o", str(objects[-1])], check=True, timeout=300
        )
    link = [compiler, "-shared", "-Wl,-z,lazy", "-pthread", *map(str, objects), "-o", str(library), "-ldl"]
    subprocess.run(link, check=True, timeout=100)
    return library


class _Argument(ctypes.Structure):
    _fields_ = [
        ("kind", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("integer", ctypes.c_int64),
        ("bytes", ctypes.c_int64),
        ("real", ctypes.c_double),
        ("data", ctypes.c_void_p),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("stride", ctypes.POINTER(ctypes.c_int64)),
        ("word", ctypes.c_char_p),
    ]


def _argument(a: Any) -> _Argument:
    if a is None:
        return _Argument(kind=0)
    if isinstance(a, Tensor):
        assert a.device.type == "cpu"
        assert a.is_contiguous()
        shape, stride = ((ctypes.c_int64 * max(a.ndim, 1))(*sizes) for sizes in (a.shape, a.stride()))
        size = a.numel() * a.element_size()
        return _Argument(1, DTYPES.index(a.dtype), a.ndim, 0, size, 0, a.data_ptr(), shape, stride)
    if isinstance(a, bool):
        return _Argument(kind=4, integer=a)
    if isinstance(a, int):
        return _Argument(kind=2, integer=a)
    if isinstance(a, float):
        return _Argument(kind=3, real=a)
    if isinstance(a, str):
        return _Argument(kind=5, word=a.encode())
    return _Argument(kind=6, integer=len(a), shape=(ctypes.c_int64 * max(len(a), 1))(*a))


class EmulatedCuda:
    """Stands in for the compiled module: its kernels are the CUDA ones, and they get copies of CPU tensors."""

    def __init__(self, library: Path) -> None:
        # CPU kernels must stay unresolved until they are called, which ctypes' own dlopen does not leave open.
        dlopen = ctypes.CDLL(None).dlopen
        dlopen.restype, dlopen.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_int]
        handle = dlopen(str(library).encode(), os.RTLD_LAZY | os.RTLD_LOCAL)
        if not handle:
            raise OSError(f"{library} cannot be loaded")
        self._library = ctypes.CDLL(str(library), handle=handle)
        self._library.emulated_call.restype = ctypes.c_char_p
        self._library.emulated_call.argtypes = [
            ctypes.c_char_p,
            ctypes.POINTER(_Argument),
            ctypes.c_int,
            ctypes.c_uint64,
            ctypes.c_bool,
        ]
        self._library.emulated_barriers.restype = ctypes.c_int64
        self.order = ASCENDING

    def has(self, name: str) -> bool:
        """Whether there is a kernel of that name."""
        return self._library.emulated_arity(name.encode()) >= 0

    def barriers(self) -> int:
        """How many barriers the blocks of the last call have passed: a measure of their work."""
        return self._library.emulated_barriers()

    def call(self, name: str, *args: Any) -> None:
        """Runs one kernel in the current order of threads."""
        assert self._library.emulated_arity(name.encode()) == len(args), f"arguments of {name}"
        arguments = (_Argument * len(args))(*map(_argument, args))
        deterministic = torch.are_deterministic_algorithms_enabled()
        error = self._library.emulated_call(name.encode(), arguments, len(args), self.order, deterministic)
        if error:
            raise RuntimeError(f"{name}: {error.decode()}")


def supported() -> bool:
    """Whether the emulation is written for this system."""
    return platform.system() == "Linux"


@contextlib.contextmanager
def running(cuda: EmulatedCuda, order: int) -> Iterator[EmulatedCuda]:
    """Sets the order of threads for a while."""
    before, cuda.order = cuda.order, order
    try:
        yield cuda
    finally:
        cuda.order = before


def _kernel_cells(function: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Where an op's functions keep its kernels: the variables `forward_kernel` and `backward_kernel` of a closure."""
    function = getattr(function, "__wrapped__", function)
    if id(function) in seen or not hasattr(function, "__code__"):
        return
    seen.add(id(function))
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
        if name in ("forward_kernel", "backward_kernel"):
            yield name, cell
        else:
            yield from _kernel_cells(cell.cell_contents, seen)


@contextlib.contextmanager
def kernels_of(cuda: EmulatedCuda, op: Op, order: int) -> Iterator[None]:
    """Inside this context `op` runs the emulated CUDA kernels, on CPU tensors, with threads in that order."""
    replaced = []
    for function in (op._forward, op._function.backward):
        for variable, cell in _kernel_cells(function, set()):
            name = op.name + variable.removeprefix("forward").removesuffix("_kernel").replace("backward", "_backward")
            if cuda.has(name):
                replaced.append((cell, cell.cell_contents))
                cell.cell_contents = functools.partial(cuda.call, name)
    assert replaced, f"{op.name} has no kernels to replace"
    try:
        with running(cuda, order):
            yield
    finally:
        for cell, kernel in replaced:
            cell.cell_contents = kernel
