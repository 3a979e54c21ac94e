"""Functions that no other test compares with PyTorch3D give its recorded answers."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pytest

REFERENCE = Path(__file__).parent / "reference"


def _load():
    spec = importlib.util.spec_from_file_location("record_functions", REFERENCE / "record_functions.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RECORDER = _load()
with np.load(REFERENCE / "functions.npz") as stored:
    RECORDED = dict(stored)


@pytest.fixture(scope="module")
def ours():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names that PyTorch3D has given up warn
        return RECORDER.answers("recon_engine")


def test_nothing_is_missing(ours):
    assert set(ours) == set(RECORDED)


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_recorded(ours, name):
    assert ours[name].shape == RECORDED[name].shape
    assert ours[name].dtype == RECORDED[name].dtype
    np.testing.assert_allclose(ours[name], RECORDED[name], rtol=1e-4, atol=2e-6)


@pytest.mark.filterwarnings("ignore")
def test_live():
    pytest.importorskip("pytorch3d.renderer", exc_type=ImportError)
    theirs = RECORDER.answers("pytorch3d")
    assert set(theirs) == set(RECORDED)
    for name, recorded in RECORDED.items():
        np.testing.assert_allclose(theirs[name], recorded, rtol=1e-4, atol=2e-6, err_msg=name)
