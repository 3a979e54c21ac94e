"""Which of PyTorch3D's names a program uses, and which of them are here, without running it."""

from __future__ import annotations

import ast
import importlib
import inspect
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ._alias import _THEIRS, _exists, _is_theirs, _ours


@dataclass(frozen=True)
class UsedName:
    """A name of PyTorch3D in a program."""

    name: str
    """With its module: `pytorch3d.ops.knn_points`."""

    line: int
    """Where it is first used."""

    here: bool
    """Whether recon_engine has it."""


def check(script: str | Path) -> list[UsedName]:
    """The names of PyTorch3D that a program imports or reads from imported modules.

    Args:
        script: a Python file.

    Returns:
        Each name once, in the order in which they appear. Attributes of classes and objects are not followed.

    Raises:
        OSError: if the file cannot be read.
        SyntaxError: if it is not Python.
    """
    names = _Names()
    names.visit(ast.parse(Path(script).read_bytes(), str(script)))
    return [UsedName(name, line, _is_here(name)) for name, line in sorted(names.first_line.items(), key=lambda n: n[1])]


class _Names(ast.NodeVisitor):
    def __init__(self) -> None:
        self.first_line: dict[str, int] = {}
        self._bound: dict[str, str] = {}  # what the program calls them

    def _use(self, name: str, line: int) -> None:
        self.first_line.setdefault(name, line)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if _is_theirs(alias.name):
                self._use(alias.name, node.lineno)
                self._bound[alias.asname or _THEIRS] = alias.name if alias.asname else _THEIRS

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level or node.module is None or not _is_theirs(node.module):
            return
        for alias in node.names:
            name = node.module if alias.name == "*" else f"{node.module}.{alias.name}"
            self._use(name, node.lineno)
            if alias.name != "*":
                self._bound[alias.asname or alias.name] = name

    def visit_Attribute(self, node: ast.Attribute) -> None:
        path: list[str] = []
        root: ast.expr = node
        while isinstance(root, ast.Attribute):
            path.insert(0, root.attr)
            root = root.value
        if isinstance(root, ast.Name) and root.id in self._bound:
            name = self._bound[root.id]
            while path and inspect.ismodule(_found(name)):
                name = f"{name}.{path.pop(0)}"
            self._use(name, node.lineno)
        else:
            self.visit(root)

    def visit_Call(self, node: ast.Call) -> None:
        if node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function in ("import_module", "__import__") and _is_theirs(node.args[0].value):
                self._use(node.args[0].value, node.lineno)
        self.generic_visit(node)


_MISSING = object()


def _found(name: str) -> Any:
    """What `name` is here: a module, or something in one."""
    if _exists(_ours(name)):
        return importlib.import_module(_ours(name))
    parent, _, attribute = name.rpartition(".")
    module = _found(parent) if parent else _MISSING
    return getattr(module, attribute, _MISSING) if isinstance(module, ModuleType) else _MISSING


def _is_here(name: str) -> bool:
    return _found(name) is not _MISSING
