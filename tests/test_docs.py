"""The documentation holds together: pages are in a toctree, links and pictures exist, programs run. Needs no Sphinx."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import recon_engine
from recon_engine import cli
from recon_engine.io import save_obj, save_ply
from recon_engine.methods.shapes import building

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
WRITTEN = sorted([*DOCS.glob("*.md"), *DOCS.glob("_commands/*.md")])
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


@pytest.fixture(scope="module")
def generate():
    sys.path.insert(0, str(DOCS))
    try:
        yield importlib.import_module("generate")
    finally:
        sys.path.remove(str(DOCS))


@pytest.fixture(scope="module")
def site(generate, tmp_path_factory):
    """The folder with the pages that are made from the code."""
    folder = tmp_path_factory.mktemp("docs")
    generate.write(folder)
    return folder


def _blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_every_page_is_in_a_toctree(generate, site):
    index = generate.completed("index", (DOCS / "index.md").read_text(encoding="utf-8"))
    named = generate.toctree(index)
    assert len(set(named)) == len(named)
    pages = {page.stem for page in DOCS.glob("*.md")} | {"api/index", "commands/index"}
    assert {"index", *named} == pages
    commands = generate.toctree((site / "commands/index.md").read_text(encoding="utf-8"))
    assert commands == list(cli.commands())
    assert {"index", *commands} == {page.stem for page in (site / "commands").iterdir()}
    packages = re.findall(r"^   (\w+)$", (site / "api/index.rst").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"index", *packages} == {page.stem for page in (site / "api").iterdir()}


def test_a_page_that_nobody_named_is_found(generate):
    text = "```{toctree}\nstart\n<!-- other pages -->\n```"
    assert set(generate.toctree(generate.completed("index", text))) == {p.stem for p in DOCS.glob("*.md")} - {"index"}


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(DOCS)))
def test_links_and_pictures_exist(page, generate, site):
    text = generate.completed(page.stem, page.read_text(encoding="utf-8"))
    links = LINK.findall(re.sub(r"^```(?!\{).*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    places = {DOCS: "commands", site: ""} if page.parent == DOCS else {DOCS: "commands", site: "commands"}
    for link in links:
        if "://" in link or link == "commands":
            continue
        if link.startswith("/"):
            found = [(root / link[1:]).exists() for root in places]
        elif page.parent == DOCS:
            found = [(root / link).exists() for root in places]
        else:
            found = [(site / "commands" / link).exists()]
        assert any(found), f"{page.name}: {link} does not exist"


def test_every_plot_of_growth_is_shown(generate):
    text = generate.completed("performance", (DOCS / "performance.md").read_text(encoding="utf-8"))
    shown = set(re.findall(r"images/(growth-\w+\.png)", text))
    assert shown == {plot.name for plot in (DOCS / "images").glob("growth-*.png")}
    assert shown


def test_code_in_the_gallery_exists():
    shown = re.findall(r"```\{literalinclude\} (\S+)\n:pyobject: (\w+)", (DOCS / "gallery.md").read_text("utf-8"))
    assert len(shown) > 3
    for file, function in shown:
        assert f"\ndef {function}(" in (DOCS / file).read_text(encoding="utf-8")
        assert (DOCS / f"images/gallery-{function}.png").exists()


@pytest.mark.parametrize("page", ["start.md", "conventions.md"])
def test_the_programs_run(page, tmp_path, monkeypatch):
    pytest.importorskip("recon_engine._C")
    pytest.importorskip("trimesh")
    from recon_engine import compat

    monkeypatch.chdir(tmp_path)
    was_installed, names = compat.is_installed(), {}
    kept = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "pytorch3d"}
    try:
        for i, block in enumerate(_blocks(DOCS / page, "python")):
            exec(compile(block, f"{page}, block {i + 1}", "exec"), names)
    finally:
        if compat.is_installed() and not was_installed:
            compat.uninstall()
        sys.modules.update(kept)
    if page == "start.md":
        assert names["overlaps"][-1] > 0.9 > 0.5 > names["overlaps"][0]
        assert names["picture"].shape == (256, 256, 4)
        assert names["cubify"].__module__.startswith("recon_engine")


def _shell_lines():
    return sorted(
        {
            line.split("#")[0].strip()
            for page in [*WRITTEN, ROOT / "README.md"]
            for block in _blocks(page, "bash")
            for line in block.replace("\\\n", " ").splitlines()
            if line.split("#")[0].strip()
        }
    )


@pytest.mark.parametrize("line", _shell_lines())
def test_shell_lines_name_what_exists(line, generate):
    """Each `recon` line has a command with these options; other lines are of a few known kinds."""
    program, *words = shlex.split(line)
    if program == "torchrun":
        assert words[:4] == ["--nproc-per-node", "2", "-m", "recon_engine"]
        program, *words = "recon", *words[4:]
    if program == "make":
        assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    elif program == "pip":
        extras = re.findall(r"\[([\w,]+)\]", line)
        for extra in ",".join(extras).split(","):
            assert re.search(rf"^{extra} = \[", (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    elif program == "recon":
        command = cli.commands()[words[0]]
        known = {call.strip("`").split()[0] for call, _ in generate.options(command)}
        assert {word for word in words if word.startswith("--")} <= known
    else:
        assert line.startswith(("git clone ", "python -m recon_engine.compat ", "RECON_DATA=")), line


# What makes a documented command short without changing what it does.
_SHORT = {
    "build": "--iters 3 --level 1 --image-size 32",
    "fit-points": "--iters 3 --level 1 --samples 100",
    "fit-views": "--fast --iters 3 --image-size 32",
    "volume": "--fast --iters 3 --resolution 16 --image-size 32",
    "nerf": "--fast --iters 3 --image-size 32",
    "pose": "--fast --iters 3 --image-size 32 --spacing 60",
    "align": "--fast --iters 3",
    "render": "--size 32",
    "demo": "--iters 3",
}


@pytest.fixture
def documented_files(tmp_path, monkeypatch, write_capture):
    """The files that documented commands name, in the working folder; the cow and the teapot are buildings."""
    monkeypatch.chdir(tmp_path)
    house = building(colors=True)
    Path("shapes").mkdir()
    for name in ("cow.obj", "teapot.obj", "model.obj", "a.obj", "c.obj", "shapes/cow.obj", "shapes/teapot.obj"):
        save_obj(name, house.verts_packed(), house.faces_packed())
    for name in ("pedestrian.ply", "scan.ply", "b.ply", "d.ply"):
        save_ply(name, house.verts_packed(), house.faces_packed())
    write_capture("nerf", height=32, width=32).folder.rename("lego")
    write_capture("colmap-binary", height=32, width=32, with_masks=True).folder.rename("photos")
    shutil.copytree("photos/masks", "masks")
    shutil.copytree("photos/images", "video")
    shutil.copytree("lego/images", "cutouts")
    shutil.copy("lego/images/p 00.png", "photo.png")
    rows = [f"{path.name},{i * 45},20" for i, path in enumerate(sorted(Path("cutouts").iterdir()))]
    Path("angles.csv").write_text("\n".join(["file,azimuth,elevation", *rows]), encoding="utf-8")
    Path("train.py").write_text("from pytorch3d.structures import Meshes\n", encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in _shell_lines() if re.match(r"recon (?!view|.*--resume)", line)])
def test_documented_commands_run(line, documented_files, capsys):
    """As they are written but for their length; `recon view` and `--resume` have tests of their own."""
    _, command, *words = shlex.split(line)
    if "cuda" in words and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    if "cow/mesh.obj" in words:  # what an earlier command has left
        Path("cow").mkdir()
        shutil.copy("cow.obj", "cow/mesh.obj")
    short = shlex.split(_SHORT.get(command, ""))  # of an option that is given twice the last counts
    assert cli.main([command, *words, *short]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("name", list(cli.commands()))
def test_a_page_has_the_options_of_the_help(name, generate, capsys):
    pytest.importorskip("tyro")
    with pytest.raises(SystemExit):
        cli._run([name, "--help"])
    heads = re.findall(r"^. (-\S.*?)(?:  |$)", capsys.readouterr().out, re.MULTILINE)
    shown = {_switched_on(word) for head in heads for word in re.findall(r"--[\w-]+", head)} - {"--help"}
    calls = [call.strip("`").split()[0] for call, _ in generate.options(cli.commands()[name])]
    assert {_switched_on(call) for call in calls if call.startswith("--")} == shown
    page = generate.command_page(name)
    assert page.startswith(f"# recon {name}\n")
    assert all(f"| `{call}" in page for call in calls)


def _switched_on(option):
    """`--x` for `--no-x`: help shows both, a page the one that changes something."""
    return option.replace("--no-", "--")


def test_every_public_name_has_a_place(generate, site):
    """What the packages export is on their page, once."""
    for name in generate.PACKAGES:
        page = (site / f"api/{name}.rst").read_text(encoding="utf-8")
        paths = re.findall(r"^\.\. auto(?:class|function):: (\S+)$", page, re.MULTILINE)
        assert len(paths) == len(set(paths))
        assert paths, name
        package = importlib.import_module(f"recon_engine.{name}")
        written = {path.rsplit(".", 1)[1] for path in paths} | set(re.findall(r"^`(\w+)` is :py:obj:", page, re.M))
        exported = {
            public
            for public in getattr(package, "__all__", ())
            if inspect.isclass(getattr(package, public)) or inspect.isroutine(getattr(package, public))
        }
        assert exported <= written | {"Device"}, name
    assert "autofunction:: recon_engine.render" in (site / "api/recon_engine.rst").read_text(encoding="utf-8")
    assert set(recon_engine._SUBPACKAGES) <= set(generate.PACKAGES)


def test_docstrings_become_restructured_text(generate):
    written = [
        "The length |x|.",
        "",
        "Returns:",
        "    a: (N,) the first, of",
        "        |x|.",
        "    b: the second.",
        "    Both.",
        "",
        "End.",
    ]
    expected = [r"The length \|x\|.", "", "", ":returns:", "    * `a`: (N,) the first, of", r"      \|x\|.",
                "    * `b`: the second.", "", "    Both.", "", "", "End."]  # fmt: skip
    assert generate.restructured(written) == expected
    assert generate.restructured(["So::", "", "    |x|", "", "`|x|` and |y|"]) == [
        "So::", "", "    |x|", "", r"`|x|` and \|y\|"]  # fmt: skip


def test_stale_pages_are_removed(generate, tmp_path):
    (tmp_path / "commands").mkdir()
    (tmp_path / "commands/gone.md").write_text("# recon gone\n")
    generate.write(tmp_path)
    assert not (tmp_path / "commands/gone.md").exists()
    kept = tmp_path / "commands/build.md"
    times = kept.stat().st_mtime_ns
    generate.write(tmp_path)
    assert kept.stat().st_mtime_ns == times


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path):
    for module in ("sphinx", "myst_parser", "furo", "sphinx_copybutton"):
        pytest.importorskip(module)
    environment = {**os.environ, "PYTHONPATH": str(Path(recon_engine.__file__).parents[1])}
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", str(DOCS), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "performance.html").read_text(encoding="utf-8")
    tables = (DOCS / "performance.md").read_text("utf-8")
    assert page.count("<table") == len(re.findall(r"^\|---", tables, re.MULTILINE)) > 5
    fetched = re.findall(r'(?:src|href)="(https?://[^"]+\.(?:js|css|woff2?))"', page)
    assert fetched == []
