from __future__ import annotations

import contextlib
import importlib
import importlib.util
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

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


@pytest.fixture
def assert_scene_equal(scenes, recorded, assert_picture):
    """Run a scene with our modules and compare with PyTorch3D's numbers, recorded or given."""

    def check(
        name: str,
        expected: dict[str, np.ndarray] | None = None,
        tol: float = 2e-6,
        skip: tuple = (),
        gradient_tol: float | None = None,
    ) -> None:
        got = scenes.run("recon_engine", name)
        if expected is None:
            expected = {key.removeprefix(f"{name}/"): a for key, a in recorded.items() if key.startswith(f"{name}/")}
        assert expected, f"nothing recorded for {name}"
        for key, want in expected.items():
            if key in skip:
                continue
            assert got[key].shape == want.shape, key
            scale = max(1.0, float(np.abs(want).max(initial=0.0)))
            if key == "image":
                assert_picture(got[key], want, atol=tol * scale, name=name)
                continue
            atol = scale * (tol if gradient_tol is None else gradient_tol)
            np.testing.assert_allclose(got[key], want, rtol=0, atol=atol, err_msg=f"{name}: {key}")

    return check


class _NoWait(TorchDispatchMode):
    """Refuses every torch function that would wait for a device if the tensors were on one."""

    WAITS = ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "equal", "unique", "lift_fresh")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, kwargs = func._schema.name.removeprefix("aten::"), kwargs or {}
        is_mask = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        is_counted = name == "repeat_interleave" and kwargs.get("output_size") is None
        if is_mask or is_counted or any(name == wait or name.startswith(f"{wait}_") for wait in self.WAITS):
            raise AssertionError(f"{func} waits for a device, or copies numbers to it")
        return func(*args, **kwargs)


@pytest.fixture
def as_on_cuda(monkeypatch):
    """A function that makes a context in which CPU tensors take the path of CUDA."""

    @contextlib.contextmanager
    def enter():
        with monkeypatch.context() as patched:
            for name in ("clip", "rasterize_meshes", "rasterizer", "_textures_atlas"):
                module = importlib.import_module(f"recon_engine.renderer.mesh.{name}")
                patched.setattr(module, "look_is_free", lambda tensor: False)
            yield

    return enter


@pytest.fixture
def never_waits(as_on_cuda):
    """The same, and whatever would wait for the device there raises."""

    @contextlib.contextmanager
    def enter():
        with as_on_cuda(), _NoWait():
            yield

    return enter
