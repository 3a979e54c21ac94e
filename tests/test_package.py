"""Facts about the built package: what it links, what it imports, what it says when something is missing."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import recon_engine
from recon_engine import _samples, doctor
from recon_engine._load import load

_C = load()
ROOT = Path(__file__).parents[1]


def _python(code, **environment):
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, env={**os.environ, **environment})


def test_the_installed_package_is_the_one_tested():
    if "RECON_TEST_INSTALLED" not in os.environ:
        pytest.skip("RECON_TEST_INSTALLED is not set: `make test` sets it")
    assert ROOT / "python" not in Path(recon_engine.__file__).parents
    assert Path(_C.__file__).parent == Path(recon_engine.__file__).parent


def test_every_source_file_is_installed():
    package = Path(recon_engine.__file__).parent
    sources = {p.relative_to(ROOT / "python/recon_engine") for p in (ROOT / "python/recon_engine").rglob("*.py")}
    assert len(sources) > 50
    assert sources <= {p.relative_to(package) for p in package.rglob("*.py")}


def test_version_is_that_of_the_distribution():
    try:
        version = importlib.metadata.version("recon_engine")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("recon_engine is imported from its sources")
    assert version == recon_engine.__version__


def test_module_links_no_torch_no_cuda_and_no_openmp():
    if shutil.which("readelf") is None:
        pytest.skip("no readelf")
    dynamic = subprocess.run(["readelf", "-d", _C.__file__], capture_output=True, text=True, check=True).stdout
    needed = set(re.findall(r"NEEDED.*\[(.+?)\]", dynamic))
    assert "libc.so.6" in needed
    assert not [n for n in needed if re.search(r"torch|c10|cudart|cuda|gomp|iomp|python", n)]


def test_sources_include_no_torch_header():
    sources = [p for p in (ROOT / "csrc").rglob("*") if p.suffix in (".h", ".cpp", ".cu")]
    assert len(sources) > 10
    assert not [p for p in sources if re.search(r"#\s*include\s*[<\"](torch|ATen|c10)/", p.read_text())]


def test_only_the_binding_knows_python():
    users = [
        p.name
        for p in (ROOT / "csrc").rglob("*.*")
        if re.search(r"#\s*include\s*[<\"](pybind11|Python\.h)", p.read_text())
    ]
    assert users == ["module.cpp"]


def test_the_build_needs_no_torch():
    required = re.search(r"requires = \[(.*?)\]", (ROOT / "pyproject.toml").read_text())[1]
    assert "pybind11" in required
    assert "torch" not in required
    assert "find_package(Torch" not in (ROOT / "CMakeLists.txt").read_text()


def test_import_is_light():
    heavy = ["scipy", "trimesh", "imageio", "PIL", "matplotlib", "tqdm", "tyro", "plotly", "viser", "torchvision"]
    packages = ", ".join(
        f"recon_engine.{name}"
        for name in ("ops", "renderer", "structures", "io", "transforms", "vis", "datasets", "viewer")
    )
    code = f"import sys, torch, numpy; before = set(sys.modules); import recon_engine, {packages}; "
    code += f"print(sorted((set(sys.modules) - before) & set({heavy})))"
    result = _python(code)
    assert result.stdout == "[]\n", result.stderr


@pytest.mark.parametrize(
    "module", ["transforms", "io", "structures", "utils", "common", "captures", "renderer.cameras"]
)
def test_works_without_the_compiled_module(module):
    result = _python(
        f"import sys; sys.modules['recon_engine._C'] = None; import recon_engine.{module}; "
        "assert 'recon_engine._op' not in sys.modules; print('ok')"
    )
    assert result.stdout == "ok\n", result.stderr


def test_a_missing_compiled_module_is_explained():
    result = _python("import sys; sys.modules['recon_engine._C'] = None; import recon_engine.ops")
    assert result.returncode == 1
    message = result.stderr[result.stderr.index("ImportError: the compiled kernels") :]
    for part in ("Python 3.", "torch 2.", f"recon_engine {recon_engine.__version__}", "Cure: pip install"):
        assert part in message


def test_exchange_api_can_be_switched_off():
    code = "import torch, recon_engine._C as C; print(C.exchange_api())"
    assert _python(code, RECON_NO_EXCHANGE_API="1").stdout == "False\n"
    assert _python(code).stdout == f"{_C.exchange_api()}\n"


def test_doctor_reports_every_op(capsys):
    assert doctor.main() == 0
    report = capsys.readouterr().out
    for name in _samples.all_ops():
        assert re.search(rf"^op +{name} +cpu +[\d.]+ ms  ok$", report, re.MULTILINE)
    assert f"recon_engine {recon_engine.__version__}" in report
    assert "CPU" in report


def test_doctor_finds_a_wrong_op(capsys, monkeypatch):
    op = _samples.all_ops()["sigmoid_alpha_blend"]
    monkeypatch.setattr(op, "reference", lambda dists, pix_to_face, sigma: dists.sum(-1))
    assert doctor.main() == 1
    assert re.search(r"^op +sigmoid_alpha_blend .*FAILED", capsys.readouterr().out, re.MULTILINE)


def test_doctor_explains_missing_kernels(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "recon_engine._C", None)
    monkeypatch.delattr(recon_engine, "_C")
    assert doctor.main() == 1
    assert "Cure: pip install" in capsys.readouterr().out


def test_doctor_names_the_pip_line_of_a_missing_extra(monkeypatch):
    monkeypatch.setattr(
        importlib.metadata, "requires", lambda name: ["no-such-package-zzz; extra == 'view'", "torch>=2"]
    )
    assert doctor._describe_extras() == [
        'view: no-such-package-zzz missing; pip install "recon_engine[view]"',
    ]
