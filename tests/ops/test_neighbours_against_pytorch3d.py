"""Balls, farthest points and long lists of neighbours are PyTorch3D's: the recorded ones, and live where it is."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

import recon_engine.ops

REFERENCE = Path(__file__).parent.parent / "reference"


def _answers(ops):
    spec = importlib.util.spec_from_file_location("record_neighbours", REFERENCE / "record_neighbours.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.answers(ops)


def _assert_same(theirs):
    ours = _answers(recon_engine.ops)
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        if not expected.is_floating_point():
            assert (ours[name] == expected).all(), name
        torch.testing.assert_close(ours[name], expected, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_recorded():
    _assert_same({name: torch.from_numpy(array) for name, array in np.load(REFERENCE / "neighbours.npz").items()})


def test_live():
    _assert_same(_answers(pytest.importorskip("pytorch3d.ops")))
