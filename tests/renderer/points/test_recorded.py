"""Fragments, composites, images and gradients are PyTorch3D's: as recorded, and live where it is installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

RECORD = Path(__file__).parents[2] / "reference" / "points_render.npz"


def compare(actual, expected):
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        exact = key.startswith("rasterize/") and not key.endswith("grad")
        tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-3, "atol": 1e-4}
        if "grad" in key:  # sums of terms that cancel
            tolerance["atol"] = 1e-4 * max(1.0, float(value.abs().max()))
        torch.testing.assert_close(actual[key], value, **tolerance, msg=lambda m, key=key: f"{key}: {m}")


def test_recorded(recorder):
    arrays = {key: torch.from_numpy(value) for key, value in np.load(RECORD).items()}
    given = {key.removeprefix("given/"): value for key, value in arrays.items() if key.startswith("given/")}
    expected = {key: value for key, value in arrays.items() if not key.startswith("given/")}
    assert (expected["rasterize/wide/idx"] >= 0).float().mean() > 0.3
    assert (expected["FoVPerspectiveCameras/AlphaCompositor/image"] == torch.tensor([0.2, 0.4, 1.0])).all(-1).any()
    compare(recorder.outputs("recon_engine", given), expected)


def test_live(recorder):
    pytest.importorskip("pytorch3d.renderer", exc_type=ImportError)
    given = recorder.scene()
    given["points"] = given["points"].flip(0)
    compare(recorder.outputs("recon_engine", given), recorder.outputs("pytorch3d", given))
