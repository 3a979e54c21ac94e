"""What README.md shows is true: its program runs, its table is the committed results, its links lead somewhere."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_program_runs():
    program = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "ico_sphere" in block)
    pytest.importorskip("recon_engine._C")
    names = {}
    exec(compile(program, "README.md", "exec"), names)
    assert names["loss"].item() < 0.2


@pytest.mark.parametrize("page", ["README.md", "docs/performance.md"])
def test_tables_are_those_of_the_results(page):
    table = runpy.run_path(str(ROOT / "benchmarks/table.py"))
    text = (ROOT / page).read_text(encoding="utf-8")
    assert table["updated"](page) == text, "run `make bench-table`"
    assert "| rasterize_meshes forward" in text


PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/design.md",
    "docs/parity.md",
    "docs/performance.md",
    "docs/points.md",
    "docs/quality.md",
]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    prose = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#]+)\)", prose)
    assert not [t for t in targets if "://" not in t and not ((ROOT / page).parent / t).exists()]
