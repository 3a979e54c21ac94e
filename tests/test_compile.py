"""`torch.compile(fullgraph=True)`: every entry point in one graph, with the values and gradients of eager mode."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from entry_points import ENTRIES, FUSED

from recon_engine.loss import mesh_edge_loss
from recon_engine.renderer import fused
from recon_engine.structures import Meshes
from recon_engine.testing import values_and_grads
from recon_engine.utils import ico_sphere

pytestmark = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13), reason="older versions of torch.compile trace less"
)


@pytest.fixture(autouse=True)
def _one_graph_for_all_calls() -> Any:
    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield


def _compiled(function: Callable[..., Any], backend: str = "aot_eager") -> Callable[..., Any]:
    return torch.compile(function, fullgraph=True, backend=backend)


def _seeded(function: Callable[..., Any], inputs: tuple[Any, ...]) -> Any:
    torch.manual_seed(0)
    return values_and_grads(function, *inputs)


def _check(name: str) -> None:
    function, inputs = ENTRIES[name]()
    compiled = _compiled(function)
    # Compiled first: nothing of a mesh's topology has been computed before.
    first, second, eager = (_seeded(call, inputs) for call in (compiled, compiled, function))
    torch.testing.assert_close(first, eager)
    torch.testing.assert_close(second, first, rtol=0, atol=0)


@pytest.mark.parametrize("name", ENTRIES)
def test_equals_eager(name):
    _check(name)


@pytest.mark.parametrize(
    "name",
    [name if name in ("silhouette", "points_alpha") else pytest.param(name, marks=pytest.mark.slow) for name in FUSED],
)
def test_equals_eager_where_fragments_are_written(name):
    with fused(False):
        _check(name)


@pytest.mark.parametrize("name", ["knn", "fitting_step", "chamfer_step"])
def test_no_graph_breaks(name):
    function, inputs = ENTRIES[name]()
    explained = torch._dynamo.explain(function)(*[a.requires_grad_() for a in inputs])
    assert explained.graph_break_count == 0, explained.break_reasons
    assert explained.graph_count == 1


def test_one_graph_for_meshes_of_one_size():
    """The graph belongs to the sizes of the mesh, not to the mesh: its topology is an input."""
    compiled = _compiled(lambda mesh, offset: mesh_edge_loss(mesh.offset_verts(offset)))
    offset = torch.zeros(42, 3)
    for radius in (1.0, 2.0):
        mesh = ico_sphere(1).scale_verts(radius)
        mesh_edge_loss(mesh)  # what a mesh has not computed yet would be computed while tracing
        torch.testing.assert_close(compiled(mesh, offset), mesh_edge_loss(mesh))


def test_edges_of_meshes_made_inside_are_refused():
    verts, faces = ico_sphere(0).get_mesh_verts_faces(0)
    compiled = _compiled(lambda verts: mesh_edge_loss(Meshes([verts], [faces])))
    with pytest.raises(Exception, match=r"build the Meshes outside of the compiled function") as caught:
        compiled(verts)
    assert "offset_verts" in str(caught.value)


def test_without_fullgraph_meshes_are_made_inside():
    verts, faces = ico_sphere(0).get_mesh_verts_faces(0)

    def function(verts):
        return mesh_edge_loss(Meshes([verts], [faces]))

    torch.testing.assert_close(torch.compile(function, backend="aot_eager")(verts), function(verts))


def test_the_example_of_the_documentation_runs():
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    programs = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    program = next(program for program in programs if "@torch.compile(fullgraph=True)" in program)
    names: dict[str, Any] = {}
    # The default backend compiles C++, which takes longer than all else.
    exec(program.replace("fullgraph=True", 'fullgraph=True, backend="aot_eager"'), names)
    with torch.no_grad():
        assert names["loss"] < 0.5 * names["loss_of"].__wrapped__(torch.zeros_like(names["offset"]))


@pytest.mark.parametrize("name", ["rasterizer", "silhouette", "soft_phong"])
def test_whether_faces_are_cut_is_seen_when_it_runs(name):
    """One graph for meshes in front of the camera and for those that reach behind its near plane."""
    function, (offset, *rest) = ENTRIES[name]()
    compiled = _compiled(function)
    towards_camera = torch.tensor([0.3, 0.5, 2.0])
    for shift in (0.0, 1.0, 0.0):
        inputs = (offset + shift * towards_camera, *rest)
        values, grads = values_and_grads(compiled, *inputs)
        expected, expected_grads = values_and_grads(function, *inputs)
        torch.testing.assert_close(values, expected)
        for got, wanted in zip(grads, expected_grads, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5 * wanted.abs().max().item())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("name", ["fitting_step", "chamfer_step"])
def test_inductor(name):
    """The default backend, which needs a C++ compiler; drawing the random numbers of eager mode."""
    inductor = pytest.importorskip("torch._inductor.config")
    function, inputs = ENTRIES[name]()
    try:
        with inductor.patch(fallback_random=True):
            result = _seeded(_compiled(function, "inductor"), inputs)
    except torch._dynamo.exc.BackendCompilerFailed as error:
        pytest.skip(f"inductor does not work here: {error}")
    torch.testing.assert_close(result, _seeded(function, inputs), rtol=1e-4, atol=1e-5)
