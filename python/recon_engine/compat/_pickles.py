"""Which classes a file made with PyTorch3D's, or with ours, may hold.

Pickles name classes by their modules. Where `pytorch3d` resolves to recon_engine they become ours, whose `__setstate__`
takes what PyTorch3D's classes store.
"""

from __future__ import annotations

import importlib
import inspect

_MODULES = (
    "common.linear_with_repeat",
    "ops.perspective_n_points",
    "ops.points_alignment",
    "renderer.blending",
    "renderer.cameras",
    "renderer.fisheyecameras",
    "renderer.implicit.harmonic_embedding",
    "renderer.implicit.raymarching",
    "renderer.implicit.raysampling",
    "renderer.implicit.renderer",
    "renderer.implicit.utils",
    "renderer.lighting",
    "renderer.materials",
    "renderer.mesh.rasterizer",
    "renderer.mesh.renderer",
    "renderer.mesh.shader",
    "renderer.mesh.textures",
    "renderer.points.compositor",
    "renderer.points.rasterizer",
    "renderer.points.renderer",
    "renderer.splatter_blend",
    "structures.meshes",
    "structures.pointclouds",
    "structures.volumes",
    "transforms.transform3d",
)


_OWN = (("_rows", "Layout"), ("_rows", "Rows"), ("topology", "Topology"))


def safe_globals() -> list[tuple[type, str]]:
    """What `torch.load` has to know to load structures, cameras, renderers and so on with `weights_only=True`.

    From torch 2.6 on; `install` is not needed::

        with torch.serialization.safe_globals(recon_engine.compat.safe_globals()):
            meshes = torch.load("meshes.pt")

    Returns:
        Our classes, each with the names that files made with PyTorch3D and with recon_engine have for it. They store
        what they are given and run nothing of it.
    """
    named = {_named(getattr(importlib.import_module(f"recon_engine.structures.{m}"), n)) for m, n in _OWN}
    for path in _MODULES:
        module = importlib.import_module(f"recon_engine.{path}")
        for name, kind in vars(module).items():
            if not name.startswith("_") and inspect.isclass(kind) and _is_of(kind, module.__name__):
                named |= {(kind, f"pytorch3d.{path}.{name}"), _named(kind)}
    return sorted(named, key=lambda pair: pair[1])


def _named(kind: type) -> tuple[type, str]:
    return kind, f"{kind.__module__}.{kind.__qualname__}"


def _is_of(kind: type, module: str) -> bool:
    """Whether a class belongs to a module: a private one may define it."""
    return kind.__module__ == module or kind.__module__.rpartition(".")[2].startswith(("_camera", "_textures"))
