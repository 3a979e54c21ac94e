"""`python -m recon_engine.compat`: runs a program as `python` would, with `pytorch3d` resolving to recon_engine."""

from __future__ import annotations

import builtins
import io
import os
import runpy
import sys
from types import CodeType, ModuleType, TracebackType

from ._accelerate import accelerate
from ._alias import install

USAGE = """usage: python -m recon_engine.compat [--accelerate] SCRIPT [ARG ...]
       python -m recon_engine.compat [--accelerate] -m MODULE [ARG ...]
       python -m recon_engine.compat [--accelerate] -c CODE [ARG ...]

Runs a program written for PyTorch3D on recon_engine: 'import pytorch3d' resolves to it. With --accelerate the program
runs on the PyTorch3D that is installed, and only its kernels are ours.
"""


def main(arguments: list[str]) -> None:
    """Runs the program that `arguments` name. Returns, raises and exits as the program does."""
    prepare = install
    if arguments[:1] == ["--accelerate"]:
        prepare, arguments = accelerate, arguments[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        asked = bool(arguments)
        print(USAGE, end="", file=sys.stdout if asked else sys.stderr)
        raise SystemExit(0 if asked else 2)
    if arguments[0].startswith("-") and arguments[0] not in ("-m", "-c"):
        print(f"unknown option {arguments[0]}\n{USAGE}", end="", file=sys.stderr)
        raise SystemExit(2)
    if arguments[0] in ("-m", "-c") and len(arguments) < 2:
        print(f"Argument expected for the {arguments[0]} option\n{USAGE}", end="", file=sys.stderr)
        raise SystemExit(2)
    try:
        prepare()
    except ImportError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    try:
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        elif arguments[0] == "-c":
            sys.argv = ["-c", *arguments[2:]]
            _set_first_path("")
            _execute(compile(arguments[1], "<string>", "exec"), _new_main())
        else:
            _run_script(arguments)
    except SystemExit:
        raise
    except BaseException:
        _hide_our_frames()
        raise


def _run_script(arguments: list[str]) -> None:
    script = arguments[0]
    sys.argv = arguments
    if os.path.isdir(script) or script.endswith((".zip", ".pyz")):
        _set_first_path(script)
        runpy.run_path(script, run_name="__main__")
        return
    try:
        with io.open_code(os.path.abspath(script)) as opened:
            source = opened.read()
    except OSError as error:
        message = f"can't open file {os.path.abspath(script)!r}: [Errno {error.errno}] {error.strerror}"
        print(f"{sys.executable}: {message}", file=sys.stderr)
        raise SystemExit(2) from None
    _set_first_path(os.path.dirname(os.path.realpath(script)))
    file = os.path.abspath(script)
    _execute(compile(source, file, "exec", dont_inherit=True), _new_main(file))


def _new_main(file: str | None = None) -> ModuleType:
    main = ModuleType("__main__")
    main.__dict__.update(__builtins__=builtins, __doc__=None)
    if file is not None:
        main.__dict__.update(__file__=file, __cached__=None)
    sys.modules["__main__"] = main
    return main


def _execute(code: CodeType, main: ModuleType) -> None:
    exec(code, main.__dict__)


def _set_first_path(folder: str) -> None:
    """`python SCRIPT` looks for modules beside the script first, where `python -m` looks in the current folder."""
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = folder


def _hide_our_frames() -> None:
    """Keeps this package out of the traceback that Python prints for an uncaught exception."""
    shown = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        while traceback is not None and _is_ours(traceback):
            traceback = traceback.tb_next
        frame = traceback
        while frame is not None:
            while frame.tb_next is not None and _is_ours(frame.tb_next):
                frame.tb_next = frame.tb_next.tb_next
            frame = frame.tb_next
        error.__traceback__ = traceback
        shown(kind, error, traceback)

    sys.excepthook = hook


def _is_ours(traceback: TracebackType) -> bool:
    file = traceback.tb_frame.f_code.co_filename
    return file in ("<frozen runpy>", runpy.__file__) or os.path.dirname(file) == os.path.dirname(__file__)
