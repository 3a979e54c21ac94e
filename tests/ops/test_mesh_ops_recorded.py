"""Graph convolution, vert_align, cubify and marching cubes give PyTorch3D's recorded numbers."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

REFERENCE = Path(__file__).parents[1] / "reference"
RECORDED = np.load(REFERENCE / "mesh_ops.npz")


@pytest.fixture(scope="module")
def answers():
    spec = importlib.util.spec_from_file_location("record_mesh_ops", REFERENCE / "record_mesh_ops.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.answers("recon_engine")


def test_nothing_is_missing(answers):
    assert set(answers) == set(RECORDED.files)


@pytest.mark.parametrize("name", RECORDED.files)
def test_recorded(answers, name):
    expected = torch.from_numpy(RECORDED[name])
    if not name.startswith("marching_cubes"):
        torch.testing.assert_close(answers[name], expected, rtol=1e-4, atol=1e-5)
        return
    assert answers[name].shape == expected.shape
    distances = torch.cdist(answers[name], expected, compute_mode="donot_use_mm_for_euclid_dist")
    assert distances.amin(0).max() < 1e-4  # PyTorch3D moves vertices that are close to a value to it
    assert distances.amin(1).max() < 1e-4
