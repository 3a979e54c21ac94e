"""Every public name of PyTorch3D, implicitron's apart, exists here and is called in the same way."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
from pathlib import Path

import pytest

REFERENCE = Path(__file__).parent / "reference"
NAMES = json.loads((REFERENCE / "names.json").read_text())

LEFT_OUT = {
    # Writes numpy's integers into JSON as text, which glTF does not allow.
    "io.experimental_gltf_io.OurEncoder",
    # A cell of PyTorch3D's marching cubes with its tables: ours have others, of which a cell is no class.
    "ops.marching_cubes.Cube",
}
# Contexts, constants and shaders of OpenGL: what is rasterised without it has none.
OPENGL_INTERNALS = {
    "EGLContext",
    "EGL_CUDA_DEVICE_NV",
    "EGL_PLATFORM_DEVICE_EXT",
    "fragment_shader",
    "geometry_shader",
    "global_device_context_store",
    "vertex_shader",
}

MODULES = sorted(name for name in NAMES if not name.startswith("renderer.opengl"))

OTHER_SIGNATURE = {
    # The abstract method takes nothing in PyTorch3D, unlike those of the classes derived from it, which agree.
    "renderer.mesh.textures.TexturesBase.sample_textures",
    # Used as GatherScatter.apply; a torch Function is not made by calling it.
    "ops.graph_conv.GatherScatter",
}
# They take *args and **kwargs for the constructor of the transform that follows: test_chained_transforms.
CHAINED = {"rotate": "Rotate", "rotate_axis_angle": "RotateAxisAngle", "scale": "Scale", "translate": "Translate"}
OTHER_SIGNATURE |= {
    f"transforms.transform3d.{name}.{method}" for name in ("Transform3d", *CHAINED.values()) for method in CHAINED
}


def load_recorder():
    spec = importlib.util.spec_from_file_location("record_names", REFERENCE / "record_names.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recorder():
    return load_recorder()


def accepts(ours, theirs):
    """Whether every call with their parameters [name, kind, default] works with ours, with the same defaults."""
    if theirs is None or ours == theirs:
        return True
    if [kind for _, kind, _ in theirs] == ["VAR_KEYWORD"]:
        return all(default or kind.startswith("VAR") for _, kind, default in ours)
    if len(ours) < len(theirs):
        return False
    # What they demand may have a default here.
    same = all(mine == their or (mine[:2] == their[:2] and not their[2]) for mine, their in zip(ours, theirs))
    return same and all(default or kind.startswith("VAR") for _, kind, default in ours[len(theirs) :])


@pytest.mark.parametrize("module", MODULES)
def test_every_name_is_there(module):
    ours = importlib.import_module(f"recon_engine.{module}")
    missing = {f"{module}.{name}" for name in NAMES[module] if not hasattr(ours, name)}
    assert missing == {name for name in LEFT_OUT if name.rpartition(".")[0] == module}


@pytest.mark.parametrize("module", MODULES)
def test_every_signature_accepts_the_same_calls(recorder, module):
    ours = importlib.import_module(f"recon_engine.{module}")
    wrong = []
    for name, theirs in NAMES[module].items():
        if f"{module}.{name}" in LEFT_OUT:
            continue
        described = recorder.describe("recon_engine", getattr(ours, name))
        pairs = {name: (described["signature"], theirs["signature"])}
        for method, signature in theirs.get("methods", {}).items():
            path = f"{name}.{method}"
            if method in described.get("methods", {}):
                pairs[path] = (described["methods"][method], signature)
            elif not inspect.isfunction(getattr(getattr(ours, name), method, None)):
                wrong.append(f"{path} is missing")
        wrong += [
            f"{path}: {mine} instead of {signature}"
            for path, (mine, signature) in pairs.items()
            if f"{module}.{path}" not in OTHER_SIGNATURE and not accepts(mine, signature)
        ]
    assert wrong == []


def test_opengl():
    """PyTorch3D imports this package only with EGL and pycuda, which the record was made without."""
    opengl = importlib.import_module("recon_engine.renderer.opengl")
    module = importlib.import_module("recon_engine.renderer.opengl.rasterizer_opengl")
    assert opengl.MeshRasterizerOpenGL is module.MeshRasterizerOpenGL
    parameters = inspect.signature(opengl.MeshRasterizerOpenGL).parameters.values()
    assert [(p.name, p.default) for p in parameters] == [("cameras", None), ("raster_settings", None)]
    assert "MeshRasterizerOpenGL" in opengl.__all__
    modules = [name for name in NAMES if name.startswith("renderer.opengl")]
    assert {name for module in modules for name in NAMES[module]} - OPENGL_INTERNALS == set(opengl.__all__)


@pytest.mark.parametrize("method", CHAINED)
def test_chained_transforms(recorder, method):
    """They take what the constructor takes, apart from the dtype and the device, which follow the transform."""
    transforms = importlib.import_module("recon_engine.transforms")
    ours = recorder.signature(getattr(transforms.Transform3d, method))
    theirs = NAMES["transforms.transform3d"][CHAINED[method]]["signature"]
    assert ours[1:] == [parameter for parameter in theirs if parameter[0] not in ("dtype", "device")]


@pytest.mark.parametrize("package", sorted({name.partition(".")[0] for name in NAMES} | {"renderer.mesh"}))
def test_packages_list_what_they_export(package):
    """`from ... import *` gives PyTorch3D's names."""
    module = importlib.import_module(f"recon_engine.{package}")
    assert set(NAMES[package]) <= set(getattr(module, "__all__", vars(module)))


def test_the_record_holds_the_renderer():
    assert {"renderer", "renderer.mesh", "renderer.mesh.shader", "renderer.fisheyecameras"} <= set(NAMES)
    assert len(NAMES["renderer"]) > 60
    assert "transform_points" in NAMES["renderer.cameras"]["FoVPerspectiveCameras"]["methods"]


def test_the_comparison_sees_differences():
    x, y = ["x", "POSITIONAL_OR_KEYWORD", ""], ["y", "POSITIONAL_OR_KEYWORD", "1"]
    assert accepts([x, y], [x])
    assert accepts([["x", "POSITIONAL_OR_KEYWORD", "None"]], [x])
    assert not accepts([x], [x, y])
    assert not accepts([y, x], [x, y])
    assert not accepts([x, ["y", "POSITIONAL_OR_KEYWORD", "2"]], [x, y])
    assert not accepts([x, ["z", "POSITIONAL_OR_KEYWORD", ""]], [x])
    assert not accepts([x], [["x", "POSITIONAL_OR_KEYWORD", "None"]])
    assert not accepts([x], [["kwargs", "VAR_KEYWORD", ""]])


@pytest.mark.filterwarnings("ignore")
def test_live(recorder):
    for module in ("pytorch3d.renderer", "plotly", "tabulate"):
        pytest.importorskip(module, exc_type=ImportError)
    assert recorder.record("pytorch3d") == NAMES
