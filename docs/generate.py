"""Writes the pages that are made from the code: `python docs/generate.py`. Sphinx's `conf.py` does it by itself.

`docs/api/<package>.rst` has every public name of a package, `docs/commands/<command>.md` what a command does: the text
of `docs/_commands/<command>.md`, where there is one, and the options as `recon <command> --help` has them. Neither is
committed. Needs no Sphinx.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from recon_engine import cli

DOCS = Path(__file__).parent
PACKAGES = {
    "structures": "batches of meshes, point clouds and volumes",
    "ops": "operators on meshes, point clouds and volumes",
    "loss": "losses on meshes and point clouds",
    "transforms": "rotations and rigid motions",
    "renderer": "cameras, lights, rasterisers, shaders, ray marchers",
    "io": "files",
    "utils": "ready-made meshes, conversions of cameras",
    "vis": "pictures for notebooks",
    "viewer": "files and runs in a browser",
    "datasets": "ShapeNet and R2N2",
    "common": "devices and version shims",
    "compat": "programs written for PyTorch3D",
    "captures": "pictures with cameras: COLMAP, transforms.json, CSV",
    "methods": "whole reconstructions",
}


def write(folder: Path = DOCS) -> list[Path]:
    """Write the pages below `folder` that have changed and remove those of commands and packages that are gone."""
    places: dict[int, str] = {}
    pages = {folder / "api" / f"{name}.rst": api_page(name, places) for name in ("recon_engine", *PACKAGES)}
    pages |= {folder / "commands" / f"{name}.md": command_page(name) for name in cli.commands()}
    pages[folder / "api" / "index.rst"] = api_index()
    pages[folder / "commands" / "index.md"] = command_index()
    for path, text in pages.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    for path in (*(folder / "api").iterdir(), *(folder / "commands").iterdir()):
        if path not in pages:
            path.unlink()
    return list(pages)


# Commands


def command_index() -> str:
    """The page of all commands."""
    rows = [f"| [`recon {name}`]({name}.md) | {_summary(function)} |" for name, function in cli.commands().items()]
    text = (DOCS / "_commands" / "index.md").read_text(encoding="utf-8")
    toctree = ["```{toctree}", ":hidden:", "", *cli.commands(), "```"]
    return "\n".join([text.replace("{table}", "\n".join(["| | |", "|---|---|", *rows])), *toctree, ""])


def command_page(name: str) -> str:
    """What a command does, and its options."""
    function = cli.commands()[name]
    parts = [f"# recon {name}", _summary(function)]
    about = DOCS / "_commands" / f"{name}.md"
    if about.exists():
        parts.append(about.read_text(encoding="utf-8").strip())
    rows = [f"| {call} | {text} |" for call, text in options(function)]
    if rows:
        parts += ["## Options", "\n".join(["| | |", "|---|---|", *rows])]
    return "\n\n".join(parts) + "\n"


def options(function: Callable[..., Any]) -> Iterator[tuple[str, str]]:
    """How each argument of a command is written, and what it is, from its type and its docstring."""
    texts = dict(re.findall(r"^ {4}(\w+): (.*?)(?=^ {4}\w|\Z)", _arguments(function), re.MULTILINE | re.DOTALL))
    hints = typing.get_type_hints(function)
    for parameter in inspect.signature(function).parameters.values():
        text, default = " ".join(texts[parameter.name].split()), parameter.default
        flag, value = f"--{parameter.name.replace('_', '-')}", _value(hints[parameter.name])
        if parameter.kind is parameter.POSITIONAL_ONLY:
            flag, value, default = parameter.name.upper(), "", None
        elif hints[parameter.name] is bool and default is True:
            flag = f"--no-{flag[2:]}"
            text = f"do not {text}"
        elif default not in (None, (), False, parameter.empty) and "Default:" not in text:
            text += f" Default: {default}."
        text = re.sub(r"(?<![`\w-])(--[a-z][\w-]*)", r"`\1`", text)  # two hyphens in a text would become a dash
        yield f"`{f'{flag} {value}'.strip()}`", text.replace("|", "\\|")


def _value(hint: Any) -> str:
    """What follows a flag: its choices, or the kind of value."""
    kinds = [kind for kind in (typing.get_args(hint) or (hint,)) if kind is not type(None)]
    if typing.get_origin(hint) is typing.Literal:
        return ",".join(map(str, kinds))
    if len(kinds) == 1 and typing.get_origin(kinds[0]) is typing.Literal:
        return _value(kinds[0])
    if typing.get_origin(kinds[0]) is tuple:
        return " ".join("..." if kind is ... else _value(kind) for kind in typing.get_args(kinds[0]))
    return {Path: "PATH", int: "INT", float: "FLOAT", str: "TEXT", bool: ""}.get(kinds[0], "VALUE")


def _arguments(function: Callable[..., Any]) -> str:
    """The `Args:` section of a docstring."""
    _, _, section = (inspect.getdoc(function) or "").partition("Args:\n")
    return section.split("\n\n")[0]


def _summary(function: Callable[..., Any]) -> str:
    return (inspect.getdoc(function) or "").split("\n\n")[0].replace("\n", " ")


# Written pages


def completed(name: str, text: str) -> str:
    """The text of a written page with what follows from the files that there are.

    Pages that no toctree of the index names are put where it says so, and plots on the page of performance.
    """
    if name == "index":
        named = {"index", *toctree(text)}
        others = sorted(page.stem for page in DOCS.glob("*.md") if page.stem not in named)
        text = text.replace("<!-- other pages -->", "\n".join(others))
    if name == "performance":
        plots = sorted((DOCS / "images").glob("growth-*.png"))
        text = text.replace("<!-- growth -->", "\n\n".join(f"![Times of {_topic(p)}](images/{p.name})" for p in plots))
    return text


def toctree(text: str) -> list[str]:
    """The pages that the toctrees of a page name."""
    blocks = re.findall(r"```\{toctree\}\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if re.fullmatch(r"[\w/-]+", line)]


def _topic(plot: Path) -> str:
    return plot.stem.removeprefix("growth-").replace("_", " ")


# Docstrings


def restructured(lines: list[str]) -> list[str]:
    """A Google docstring with what napoleon does not read put into the form that Sphinx does.

    Several named results become a list, and bars are bars: `|x|` is a length and no substitution.
    """
    found: list[str] = []
    rest = _with_bars(lines)
    while rest:
        line = rest.pop(0)
        found.append(line)
        if line.strip() not in ("Returns:", "Yields:"):
            continue
        found[-1:] = ["", f"{' ' * _indent(line)}:{line.strip().lower()}"]
        section = []
        while rest and (not rest[0].strip() or _indent(rest[0]) > _indent(line)):
            section.append(rest.pop(0))
        found += [*_results(section), ""]
    return found


def _results(section: list[str]) -> list[str]:
    """The lines of a section of results, each named one an item of a list."""
    left = min((_indent(line) for line in section if line.strip()), default=0)
    found: list[str] = []
    inset = 0
    for line in section:
        if line.strip() and _indent(line) == left:
            named = re.match(r" *(\w+): ", line)
            if not named and inset:
                found.append("")
            inset = 2 if named else 0
            line = re.sub(r"^( *)(\w+): ", r"\1* `\2`: ", line)
        elif inset and line.strip():
            line = " " * (left + inset) + line.lstrip()
        found.append(line)
    return found


def _with_bars(lines: list[str]) -> list[str]:
    """Bars escaped, outside of code."""
    found = []
    code: int | None = None  # the indent of the line before a block of code
    for line in lines:
        if code is not None and line.strip() and _indent(line) <= code:
            code = None
        if code is None:
            line = "`".join(part if i % 2 else part.replace("|", r"\|") for i, part in enumerate(line.split("`")))
            code = _indent(line) if line.rstrip().endswith("::") else None
        found.append(line)
    return found


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


# Packages


def api_index() -> str:
    """The page of all packages."""
    rows = "\n".join(f"* :doc:`{name}`: {text}" for name, text in PACKAGES.items())
    toctree = "\n   ".join([".. toctree::", ":hidden:", "", "recon_engine", *PACKAGES])
    text = (
        "Names, arguments and results are those of PyTorch3D where it has the name. Shapes are written\n"
        "``(N, H, W, 3)``, letters stand for sizes, and dtype and device follow the inputs.\n\n"
        "* :doc:`recon_engine`: one line from a file to a picture"
    )
    return f"{_title('API')}\n{text}\n{rows}\n\n{toctree}\n"


def api_page(name: str, places: dict[int, str] | None = None) -> str:
    """Every public name of a package and of the modules in it, each once.

    What another page has already, by `places`, is a link to it; what is new is added there.
    """
    places = {} if places is None else places
    parts = []
    for module, names in public_names(name):
        level = "=" if not parts else "-"
        parts.append(_title(module.__name__, level))
        # `ops.cubify` is a function and the file that it is in: only the first can be linked to.
        hidden = "   :no-index:\n" if level == "-" else ""
        parts.append(f".. automodule:: {module.__name__}\n{hidden}")
        for public in names:
            value, path = getattr(module, public), f"{module.__name__}.{public}"
            place = places.setdefault(id(value), path)
            parts.append(_directive(path, value) if place == path else f"`{public}` is :py:obj:`{place}`.\n")
    return "\n".join(parts)


def public_names(name: str) -> Iterator[tuple[ModuleType, list[str]]]:
    """The modules of a package, itself first, and the documented names of each that no earlier one has."""
    root = importlib.import_module("recon_engine" if name == "recon_engine" else f"recon_engine.{name}")
    seen: set[int] = set()
    for module in (root, *([] if name == "recon_engine" else _modules(root))):
        names = []
        for public in getattr(module, "__all__", [n for n in dir(module) if not n.startswith("_")]):
            value = getattr(module, public)
            if _is_documented(value, module) and id(value) not in seen:
                seen.add(id(value))
                names.append(public)
        if names or module is root:
            yield module, sorted(names, key=lambda n: (not n[0].isupper(), n.lower()))


def _modules(package: ModuleType) -> Iterator[ModuleType]:
    """The public modules in a package: those of packages before single files."""
    found = [m for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")]
    for info in sorted(found, key=lambda m: (not m.ispkg, m.name)):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        yield module
        if info.ispkg:
            yield from _modules(module)


def _is_documented(value: Any, module: ModuleType) -> bool:
    """A class or function of ours; in a single file, one that was written there."""
    if not (inspect.isclass(value) or inspect.isroutine(value)) or not inspect.getdoc(value):
        return False
    where = getattr(value, "__module__", "") or ""
    return where.startswith("recon_engine") and (hasattr(module, "__path__") or where == module.__name__)


def _directive(path: str, value: Any) -> str:
    if not inspect.isclass(value):
        return f".. autofunction:: {path}\n"
    fields = value._fields if issubclass(value, tuple) and hasattr(value, "_fields") else ()
    hidden = f"\n   :exclude-members: {', '.join(fields)}" if fields else ""
    ours = any(b.__module__.startswith("recon_engine") and b.__name__[0] != "_" for b in value.__bases__)
    bases = "\n   :show-inheritance:" if ours else ""
    return f".. autoclass:: {path}\n   :members:{bases}{hidden}\n"


def _title(text: str, level: str = "=") -> str:
    return f"{text}\n{level * len(text)}\n"


if __name__ == "__main__":
    for written in write():
        print(written)
