from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

REFERENCE = Path(__file__).parents[1] / "reference"


@pytest.fixture(scope="session")
def scenes() -> ModuleType:
    """The computations that also run with PyTorch3D."""
    spec = importlib.util.spec_from_file_location("renderer_scenes", REFERENCE / "renderer_scenes.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def recon(scenes) -> SimpleNamespace:
    """Our modules, as the scenes take them."""
    return scenes.load("recon_engine")


@pytest.fixture(scope="session")
def recorded() -> dict[str, np.ndarray]:
    """PyTorch3D's results by scene and name."""
    arrays: dict[str, np.ndarray] = {}
    for file in sorted(REFERENCE.glob("renderer_*.npz")):
        arrays.update(dict(np.load(file)))
    return arrays


@pytest.fixture(scope="session")
def live(scenes):
    """PyTorch3D itself, where it is installed: a function from the name of a scene to its results."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("pytorch3d.renderer", exc_type=ImportError)

    def run(name: str) -> dict[str, np.ndarray]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return scenes.run("pytorch3d", name)

    return run


@pytest.fixture(scope="session")
def assert_scene_equal(scenes, recorded):
    """Run a scene with our modules and compare with PyTorch3D's numbers, recorded or given."""

    def check(name: str, expected: dict[str, np.ndarray] | None = None, tol: float = 2e-6, skip: tuple = ()) -> None:
        got = scenes.run("recon_engine", name)
        if expected is None:
            expected = {key.removeprefix(f"{name}/"): a for key, a in recorded.items() if key.startswith(f"{name}/")}
        assert expected, f"nothing recorded for {name}"
        for key, want in expected.items():
            if key in skip:
                continue
            assert got[key].shape == want.shape, key
            scale = max(1.0, float(np.abs(want).max(initial=0.0)))
            np.testing.assert_allclose(got[key], want, rtol=0, atol=tol * scale, err_msg=f"{name}: {key}")

    return check
