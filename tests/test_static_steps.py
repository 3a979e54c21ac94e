"""What a CUDA graph can record: a step of a fit reads no value of a tensor and copies no numbers to the device.

Steps run on the CPU, as if it were a device whose values cannot be read, under a mode that refuses what waits for one.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from entry_points import ENTRIES
from torch.utils._python_dispatch import TorchDispatchMode

from recon_engine.testing import values_and_grads

aten = torch.ops.aten
WAITS = {
    aten._local_scalar_dense.default,  # .item(), bool(), int()
    aten.lift_fresh.default,  # torch.tensor of numbers, which are copied
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.bincount.default,
    aten.repeat_interleave.Tensor,
    aten.equal.default,
    aten.linalg_inv_ex.default,  # torch.linalg.inv looks at its status
}


class Recording(TorchDispatchMode):
    """Refuses operations that a CUDA graph cannot record."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        sizes_known = function is aten.repeat_interleave.Tensor and (kwargs or {}).get("output_size") is not None
        errors_unchecked = function is aten.linalg_inv_ex.default and not (kwargs or {}).get("check_errors")
        if function in WAITS and not sizes_known and not errors_unchecked:
            raise AssertionError(f"{function} waits for the device")
        return function(*args, **(kwargs or {}))


STEPS = [
    *("knn", "chamfer", "chamfer_with_everything", "edge_loss", "laplacian_cot", "normal_consistency"),
    *("point_mesh_face", "point_mesh_edge", "sampled_points", "rasterizer", "silhouette", "clipped_silhouette"),
    *("soft_phong", "clipped_soft_phong", "hard_phong", "hard_flat", "hard_gouraud", "unlit", "image_texture"),
    *("atlas_texture", "one_mesh_from_many_places", "points_rasterizer", "alpha_compositor"),
    *("points_alpha", "points_of_a_moving_cloud", "volumes", "implicit_function", "fitting_step", "chamfer_step"),
]


@pytest.mark.parametrize("name", STEPS)
def test_nothing_waits(name, monkeypatch):
    for module in list(sys.modules.values()):
        if not module.__name__.startswith("recon_engine."):
            continue
        for look in ("can_look", "look_is_free"):
            if hasattr(module, look):
                monkeypatch.setattr(module, look, lambda tensor: False)
        for check in ("check_finite", "check_indices"):  # they look at values on the CPU only
            if hasattr(module, check):
                monkeypatch.setattr(module, check, lambda *args: None)
    function, inputs = ENTRIES[name]()
    values_and_grads(function, *inputs)  # a graph is recorded after a step that computes the topology
    leaves = [a.requires_grad_() for a in inputs]
    with Recording():
        out = function(*leaves)
        outs = out if isinstance(out, tuple) else (out,)
        torch.autograd.grad([o.sum() for o in outs if o.requires_grad], leaves, allow_unused=True)


def test_what_waits_is_found():
    with Recording():
        for wait in (lambda: torch.ones(()).item(), lambda: torch.tensor([1, 2]), lambda: torch.ones(3).nonzero()):
            with pytest.raises(AssertionError, match="waits for the device"):
                wait()
