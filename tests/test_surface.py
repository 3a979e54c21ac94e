"""The table of the public surface is that of the sources."""

from __future__ import annotations

import surface
from test_names import LEFT_OUT, NAMES


def test_the_table_is_up_to_date():
    written = surface.TABLE.read_text()
    assert written == surface.table(), "run: make surface"


def test_every_name_has_one_row():
    rows = surface.rows()
    imports = [f"{module}.{row.name}" for row in rows for module in (row.module, *row.also)]
    assert len(imports) == len(set(imports))
    recorded = {
        f"{module}.{name}" for module in NAMES if not module.startswith("renderer.opengl") for name in NAMES[module]
    }
    assert set(imports) == recorded


def test_no_signature_differs():
    signatures = {f"{row.module}.{row.name}": row.cells()[2] for row in surface.rows()}
    assert set(signatures.values()) == {"equal", "more", "left out"}
    assert {name for name, kind in signatures.items() if kind == "left out"} == LEFT_OUT


def test_kernels_are_found():
    from recon_engine import loss, ops, renderer, transforms

    assert surface.kernels(ops.knn_points) == {"nearest"}
    assert surface.kernels(loss.mesh_edge_loss) == {"edge_loss"}
    assert surface.kernels(transforms.so3_exp_map) == set()
    # Through modules imported inside of functions, private classes and modules held by modules.
    assert {"render_faces", "soft_silhouette", "rasterize_faces"} <= surface.kernels(renderer.MeshRenderer)
    assert "march_volume" in surface.kernels(renderer.VolumeRenderer)


def test_comparisons_are_found():
    recorded, live = surface.recorded(), surface.live()
    assert {"knn_points", "ball_query"} <= recorded["ops/test_neighbours_against_pytorch3d.py"]
    assert {"SoftPhongShader", "FishEyeCameras"} <= recorded["renderer/test_against_pytorch3d.py"]
    # It has a fixture of the same name, which reads another file.
    assert "SoftPhongShader" not in recorded["renderer/points/pulsar/test_renderer.py"]
    assert "pack_rectangles" in live["renderer/mesh/test_mesh_utils.py"]
    assert recorded["test_threads.py"] == live["test_threads.py"] == set()


def test_gradchecks_are_found():
    words, ops = surface.gradchecked()
    assert {"cot_laplacian", "se3_log_map", "mesh_edge_loss"} <= words
    assert {"nearest", "rasterize_faces", "edge_loss"} <= ops
    assert "ico_sphere" not in words
