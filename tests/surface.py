"""Writes docs/surface.md: what of PyTorch3D's public names the tests show. Run it by `make surface`.

Everything is read from sources: the record of names, the tests, the scripts that record PyTorch3D's answers, and the
library itself, whose kernels are found by following the names in the code of a function.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import test_names
import torch
from test_names import LEFT_OUT, NAMES, OTHER_SIGNATURE, REFERENCE, accepts
from torch import nn

from recon_engine import _samples
from recon_engine._op import Op

TESTS = Path(__file__).parent
ROOT = TESTS.parent
TABLE = ROOT / "docs" / "surface.md"
PACKAGES = ("structures", "transforms", "ops", "loss", "renderer", "io", "utils", "vis", "datasets", "common")

HEAD = """# The public surface of PyTorch3D 0.7.9, and what tests show of it

Made by `make surface` from the sources; `tests/test_surface.py` fails when it is out of date. Names that are
missing on purpose, and where answers differ: [parity.md](parity.md).

- **signature**: `equal`, or `more`: every call of PyTorch3D's works here, and others.
- **compared**: the test that compares with PyTorch3D's answers. They are recorded, or, in tests in italics, computed
  where PyTorch3D is installed.
- **kernels**: the compiled ops that its code calls by name; all have kernels for the CPU and for CUDA. Nothing: it is
  plain torch, on whatever device, or not about tensors.
- **gradcheck**: a test of the name, or of every kernel of it, by `torch.autograd.gradcheck`.
- **compile**: part of a program that `tests/test_compile.py` traces in one graph.
"""


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def words(node: ast.AST) -> set[str]:
    """All identifiers in a piece of code, and the strings that could be one."""
    found = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            found.add(part.id)
        elif isinstance(part, ast.Attribute):
            found.add(part.attr)
        elif isinstance(part, ast.alias):
            found |= {part.name.rpartition(".")[2], part.asname or ""}
        elif isinstance(part, ast.Constant) and isinstance(part.value, str) and part.value.isidentifier():
            found.add(part.value)
    return found


def test_files() -> list[Path]:
    return sorted(path for path in TESTS.rglob("test_*.py") if path.name != "test_surface.py")


def short(path: Path) -> str:
    return path.relative_to(TESTS).as_posix()


# What is compared with PyTorch3D


@functools.cache
def recorded() -> dict[str, set[str]]:
    """For each test file that compares with recorded answers, the words of the scripts that recorded them."""
    scripts: dict[str, set[str]] = {}
    for script in REFERENCE.glob("*.py"):
        # Of names.json and of PyTorch3D's compiled module nothing is said here.
        if script.stem in ("record_names", "record_kernels"):
            continue
        asked = words(parsed(script))
        if "renderer_scenes" in script.read_text():
            asked |= words(parsed(REFERENCE / "renderer_scenes.py"))
        for name in re.findall(r"([\w{}]+)\.npz", script.read_text()):
            name = re.sub(r"{\w+}", "*", name)
            scripts[name] = scripts.get(name, set()) | asked
    found = {}
    for path in test_files():
        text, asked_for = path.read_text(), _parameters(parsed(path))
        for conftest in _conftests(path):  # the nearest first, whose fixtures hide those of the same name
            text += "".join(_fixtures(conftest, asked_for))
            asked_for -= {node.name for node in parsed(conftest).body if isinstance(node, ast.FunctionDef)}
        found[short(path)] = {
            word
            for name, asked in scripts.items()
            if f'"{name}.npz"' in text or f'"record_{name}' in text
            for word in asked
        }
    return found


def _conftests(path: Path) -> list[Path]:
    folders = [folder for folder in path.parents if TESTS in (folder, *folder.parents)]
    return [folder / "conftest.py" for folder in folders if (folder / "conftest.py").exists()]


def _parameters(tree: ast.Module) -> set[str]:
    """The names of the fixtures that tests ask for and that their file does not define."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return {arg.arg for node in functions for arg in node.args.args} - {node.name for node in functions}


def _fixtures(conftest: Path, wanted: set[str]) -> Iterator[str]:
    """The sources of the fixtures of these names, and of those that they ask for."""
    source = conftest.read_text()
    functions = {node.name: node for node in parsed(conftest).body if isinstance(node, ast.FunctionDef)}
    waiting = [name for name in functions if name in wanted]
    seen = set()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            yield ast.get_source_segment(source, functions[name]) or ""
            waiting += [arg.arg for arg in functions[name].args.args if arg.arg in functions]


@functools.cache
def live() -> dict[str, set[str]]:
    """For each test file, the names that it takes from PyTorch3D itself."""
    found = {}
    for path in test_files():
        names: set[str] = set()
        for function in ast.walk(parsed(path)) if "pytorch3d" in path.read_text() else ():
            if isinstance(function, ast.FunctionDef):
                names |= _taken(function)
        found[short(path)] = names
    return found


def _taken(function: ast.FunctionDef) -> set[str]:
    modules, names = {"pytorch3d"}, set()
    for node in ast.walk(function):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pytorch3d"):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Assign) and "importorskip" in ast.unparse(node.value):
            if "'pytorch3d" not in ast.unparse(node.value):
                continue
            if isinstance(node.value, ast.Attribute):
                names.add(node.value.attr)
            modules |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute):
            root: ast.expr = node
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in modules:
                names.add(node.attr)
    return names


# Which kernels a function runs


@functools.cache
def kernels(value: Any) -> frozenset[str]:
    """The ops that the code of a function, or of the methods of a class, names directly or through other functions."""
    ops: set[str] = set()
    waiting: list[Any] = [value]
    seen: dict[int, Any] = {}  # what is kept has a number of its own
    while waiting:
        current = waiting.pop()
        if isinstance(current, Op):
            ops.add(current.name)
            continue
        current = inspect.unwrap(current) if callable(current) else current
        if id(current) in seen or not str(getattr(current, "__module__", "")).startswith("recon_engine"):
            continue
        seen[id(current)] = current
        if inspect.isclass(current):
            # Modules, autograd functions and private classes are made to be called. Of another class that a function
            # uses, only what making an object runs.
            called = issubclass(current, (nn.Module, torch.autograd.Function)) or current.__name__.startswith("_")
            whole = current is value or called
            waiting += _members(current) if whole else [current.__init__]
        elif isinstance(current, FunctionType):
            waiting += _named(current)
    return frozenset(ops)


def _members(cls: type) -> list[Any]:
    found = []
    for base in cls.__mro__:
        if base.__module__.startswith("recon_engine"):
            for member in vars(base).values():
                member = getattr(member, "__func__", getattr(member, "fget", member))
                if isinstance(member, FunctionType):
                    found.append(member)
    return found


@functools.cache
def _named(function: FunctionType) -> list[Any]:
    """What the names in the body of a function are: globals of its module, and what it imports itself."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError):
        return []
    module = sys.modules[function.__module__]
    package = module.__name__ if hasattr(module, "__path__") else module.__package__
    names = dict(vars(module))
    nodes = list(_without_annotations(tree.body[0]))
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            source = importlib.import_module("." * node.level + (node.module or ""), package)
            names |= {alias.asname or alias.name: _imported(source, alias.name) for alias in node.names}
    found = [names.get(node.id) for node in nodes if isinstance(node, ast.Name)]
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = names.get(node.value.id)
            if isinstance(owner, (type, ModuleType)):
                found.append(getattr(owner, node.attr, None))
    return [value for value in found if isinstance(value, (Op, FunctionType, type)) or hasattr(value, "__wrapped__")]


def _imported(source: ModuleType, name: str) -> Any:
    """What `from source import name` gives: a submodule that nobody has imported yet is no attribute."""
    if not hasattr(source, name) and hasattr(source, "__path__"):
        return importlib.import_module(f"{source.__name__}.{name}")
    return getattr(source, name, None)


def _without_annotations(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _without_annotations(child)


# What goes through gradcheck and through torch.compile


@functools.cache
def gradchecked() -> tuple[set[str], set[str]]:
    """The words in the functions that tests give to gradcheck, and the ops of what they name."""
    found: set[str] = set()
    ops: set[str] = set()
    for path in test_files():
        if "gradcheck" not in path.read_text():
            continue
        tree = parsed(path)
        defined: dict[str, ast.AST] = {n.name: n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
        for node in tree.body:
            if isinstance(node, ast.Assign):
                defined |= {target.id: node.value for target in node.targets if isinstance(target, ast.Name)}
        used: set[str] = set()
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef):
                given = [
                    call.args[0] for call in ast.walk(function) if isinstance(call, ast.Call) and _is_gradcheck(call)
                ]
                used = used.union(*(words(value) for value in given))
                if used & {arg.arg for arg in function.args.args}:  # pytest gives it the functions to check
                    used = used.union(*(words(decorator) for decorator in function.decorator_list))
        waiting = list(used & set(defined))
        while waiting:
            more = words(defined.pop(waiting.pop()))
            used |= more
            waiting = list(used & set(defined))
        for node in ast.walk(tree) if used else ():
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("recon_engine"):
                module = importlib.import_module(node.module or "")
                named = (getattr(module, a.name, None) for a in node.names if (a.asname or a.name) in used)
                ops = ops.union(*(kernels(value) for value in named if callable(value) and not inspect.isclass(value)))
        found |= used
    return found, ops


def _is_gradcheck(node: ast.Call) -> bool:
    return bool(node.args) and bool(words(node.func) & {"gradcheck", "gradgradcheck"})


@functools.cache
def compiled() -> set[str]:
    path = TESTS / "entry_points.py"
    return words(parsed(path)) if path.exists() else set()


# The table


@dataclass
class Row:
    """A public name."""

    module: str
    name: str
    value: Any
    also: list[str] = field(default_factory=list)
    theirs: dict[str, Any] = field(default_factory=dict)

    def cells(self) -> list[str]:
        ops = kernels(self.value) if callable(self.value) else frozenset()
        words_of_tests, checked_ops = gradchecked()
        checked = self.name in words_of_tests or (bool(ops) and ops <= checked_ops)
        is_compiled = self.name in compiled()
        return [
            f"`{self.name}`",
            ", ".join(f"`{module}`" for module in [self.module, *sorted(self.also)]),
            self.signature(),
            self.compared(),
            " ".join(f"`{op}`" for op in sorted(ops)),
            "yes" if checked else "",
            "yes" if is_compiled else "",
        ]

    def signature(self) -> str:
        path = f"{self.module}.{self.name}"
        if path in LEFT_OUT:
            return "left out"
        recorder = test_names_recorder()
        ours = recorder.describe("recon_engine", self.value)
        pairs = [(path, ours["signature"], self.theirs["signature"])]
        for method, theirs in self.theirs.get("methods", {}).items():
            if method in ours.get("methods", {}):
                pairs.append((f"{path}.{method}", ours["methods"][method], theirs))
        pairs = [pair for pair in pairs if pair[2] is not None]
        if all(mine == theirs for _, mine, theirs in pairs):
            return "equal"
        if all(where in OTHER_SIGNATURE or accepts(mine, theirs) for where, mine, theirs in pairs):
            return "more"
        return "differs"

    def compared(self) -> str:
        files = [file for file, asked in recorded().items() if self.name in asked]
        if files:
            return f"`{self._nearest(files)}`"
        files = [file for file, taken in live().items() if self.name in taken]
        return f"*`{self._nearest(files)}`*" if files else ""

    def _nearest(self, files: list[str]) -> str:
        """The file that lies beside the test of the module that the name is from, or else the first one."""
        package = self.module.partition(".")[0]
        stem = self.module.rpartition(".")[2]

        def rank(file: str) -> tuple[bool, bool, bool, str]:
            return Path(file).stem != f"test_{stem}", not file.startswith(f"{package}/"), "pickles" in file, file

        return min(files, key=rank)


@functools.cache
def test_names_recorder() -> Any:
    return test_names.load_recorder()


def rows() -> list[Row]:
    """Each public name once, with all modules that it can be imported from."""
    found: dict[tuple[str, int], Row] = {}
    for module in sorted(NAMES, key=lambda path: -path.count(".")):
        if module.startswith("renderer.opengl"):
            continue
        ours = importlib.import_module(f"recon_engine.{module}")
        for name, theirs in NAMES[module].items():
            value = getattr(ours, name, None)
            row = found.get((name, id(value)))
            if row is None or value is None:
                found[name, id(value) if value is not None else hash(module)] = Row(module, name, value, [], theirs)
            else:
                row.also.append(module)
    return sorted(found.values(), key=lambda row: (row.module, row.name.lower()))


def table() -> str:
    """The text of docs/surface.md."""
    _samples.all_ops()
    every = rows()
    parts = [HEAD]
    for package in PACKAGES:
        chosen = [row.cells() for row in every if row.module.partition(".")[0] == package]
        parts.append(f"## `{package}`\n")
        parts.append("| name | importable from | signature | compared | kernels | gradcheck | compile |")
        parts.append("|---|---|---|---|---|---|---|")
        parts += [f"| {' | '.join(cells)} |".replace("  ", " ") for cells in chosen]
        parts.append("")
    return "\n".join(parts)


if __name__ == "__main__":
    TABLE.write_text(table())
