from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# The tutorials are no differences.
DIFFERENCES = re.sub(r"\n## Tutorials\n.*?(?=\n## )", "", (ROOT / "docs" / "parity.md").read_text(), flags=re.DOTALL)
ROWS = re.findall(r"`(tests/[\w/.]+)::(\w+)` \|$", DIFFERENCES, re.MULTILINE)


def test_every_row_names_a_test():
    table = [line for line in DIFFERENCES.splitlines() if line.startswith("| ")]
    headings = sum(line.startswith("| what") for line in table)
    assert len(ROWS) == len(table) - headings > 0


@pytest.mark.parametrize(("file", "test"), ROWS)
def test_the_test_exists(file, test):
    assert f"def {test}(" in (ROOT / file).read_text()
