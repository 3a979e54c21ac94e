"""Every public function of the package against PyTorch3D: its recorded answers, and itself where it is installed."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from recon_engine import transforms

REFERENCE = Path(__file__).parents[1] / "reference"
RECORD = runpy.run_path(str(REFERENCE / "record_transforms.py"))


def assert_same_answers(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected, rtol=1e-6, atol=1e-7, msg=lambda m, name=name: f"{name}: {m}")


def test_recorded_pytorch3d():
    recorded = {name: torch.from_numpy(array) for name, array in np.load(REFERENCE / "transforms.npz").items()}
    assert_same_answers(RECORD["answers"](transforms, RECORD["inputs"]()), recorded)


def test_live_pytorch3d():
    theirs = pytest.importorskip("pytorch3d.transforms")
    x = RECORD["inputs"]()
    assert_same_answers(RECORD["answers"](transforms, x), RECORD["answers"](theirs, x))


def test_same_public_names_as_pytorch3d():
    theirs = pytest.importorskip("pytorch3d.transforms")
    assert set(theirs.__all__) <= set(transforms.__all__)
    for name in transforms.__all__:
        assert hasattr(transforms, name)
