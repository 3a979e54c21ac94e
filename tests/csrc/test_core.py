from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_core(tmp_path):
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    sources = [Path(__file__).with_name("test_core.cpp"), *sorted((ROOT / "csrc/core").glob("*.cpp"))]
    options = ["-std=gnu++17", "-O1", "-Wall", "-Wextra", "-Wno-psabi", "-Werror", "-I", str(ROOT / "csrc"), "-pthread"]
    binary = tmp_path / "test_core"
    subprocess.run([compiler, *options, *map(str, sources), "-o", str(binary), "-ldl"], check=True, timeout=300)
    result = subprocess.run([binary], capture_output=True, text=True, timeout=100)
    assert (result.returncode, result.stdout) == (0, "ok\n")
