"""Records the public names and signatures of PyTorch3D, except for implicitron, into names.json.

Run it with PyTorch3D 0.7.9, plotly and tabulate: `python tests/reference/record_names.py`. Only names, parameter names,
kinds and simple defaults are kept.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
from pathlib import Path
from types import ModuleType
from typing import Any

_RENDERER = (
    "blending camera_conversions camera_utils cameras compositing fisheyecameras lighting materials splatter_blend"
)
_OPS = (
    "ball_query cameras_alignment cubify graph_conv interp_face_attrs iou_box3d knn laplacian_matrices marching_cubes "
    "mesh_face_areas_normals mesh_filtering packed_to_padded perspective_n_points points_alignment points_normals "
    "points_to_volumes sample_farthest_points sample_points_from_meshes subdivide_meshes utils vert_align"
)
_LOSS = "chamfer mesh_edge_loss mesh_laplacian_smoothing mesh_normal_consistency point_mesh_distance"
PACKAGES = {
    "renderer": f"{_RENDERER} utils",
    "renderer.mesh": "clip rasterize_meshes rasterizer renderer shader shading textures utils",
    "renderer.points": "compositor rasterize_points rasterizer renderer",
    "renderer.points.pulsar": "renderer unified",
    "renderer.implicit": "harmonic_embedding raymarching raysampling renderer sample_pdf utils",
    "ops": _OPS,
    "loss": _LOSS,
    "structures": "meshes pointclouds utils volumes",
    "transforms": "math rotation_conversions se3 so3 transform3d",
    "io": "experimental_gltf_io mtl_io obj_io off_io pluggable pluggable_formats ply_io utils",
    "utils": "camera_conversions checkerboard ico_sphere torus",
    "common": "compat datatypes linear_with_repeat",
    "common.workaround": "symeig3x3 utils",
    "vis": "plotly_vis texture_vis",
    "datasets": "shapenet_base utils",
    "datasets.r2n2": "r2n2 utils",
    "datasets.shapenet": "shapenet_core",
}
# These import EGL and pycuda: their names are read from their source.
NOT_IMPORTABLE = ("renderer.opengl.opengl_utils", "renderer.opengl.rasterizer_opengl")
MODULES = tuple(
    name for package, modules in PACKAGES.items() for name in (package, *(f"{package}.{m}" for m in modules.split()))
)


def record(library: str) -> dict[str, Any]:
    """What names.json holds: for each module its names and how each is called."""
    recorded = {name: public_names(library, name) for name in MODULES}
    return recorded | {name: dict.fromkeys(source_names(library, name)) for name in NOT_IMPORTABLE}


def signature(value: Any) -> list[list[str]] | None:
    """[name, kind, default] of each parameter; defaults that are not plain values are "...", none is ""."""
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return None
    return [[p.name, p.kind.name, _default(p.default)] for p in parameters]


def _default(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return ""
    plain = value is None or isinstance(value, (bool, int, float, str, tuple))
    return repr(value) if plain else "..."


def public_names(library: str, module_name: str) -> dict[str, Any]:
    """The names that a module of `library` offers: its own, and for packages all that they export."""
    module = importlib.import_module(f"{library}.{module_name}")
    names = {}
    for name, value in vars(module).items():
        if name.startswith("_") or isinstance(value, ModuleType):
            continue
        origin, is_package = str(getattr(value, "__module__", "")), hasattr(module, "__path__")
        if not callable(value) or not (origin.startswith(f"{library}.") if is_package else origin == module.__name__):
            continue
        # What a package exports again is described where it is defined.
        names[name] = {"signature": signature(value)} if is_package else describe(library, value)
    return names


def source_names(library: str, module_name: str) -> list[str]:
    """The public classes and variables that the source of a module defines."""
    root = Path(importlib.import_module(library).__path__[0])
    tree = ast.parse((root / f"{module_name.replace('.', '/')}.py").read_text())
    names = set()
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return sorted(name for name in names if not name.startswith("_"))


def describe(library: str, value: Any) -> dict[str, Any]:
    """The signature of a function, or the constructor and the methods of a class."""
    if not inspect.isclass(value):
        return {"signature": signature(value)}
    methods = {
        name: signature(method)
        for cls in reversed(value.__mro__)
        if cls.__module__.startswith(f"{library}.")
        for name, method in vars(cls).items()
        if not name.startswith("_") and inspect.isfunction(method)
    }
    return {"signature": signature(value), "methods": methods}


if __name__ == "__main__":
    path = Path(__file__).with_name("names.json")
    path.write_text(json.dumps(record("pytorch3d"), indent=None, separators=(",", ":"), sort_keys=True) + "\n")
