from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

REFERENCE = Path(__file__).parents[1] / "reference"


@pytest.fixture(scope="session")
def recorder():
    spec = importlib.util.spec_from_file_location("record_datasets", REFERENCE / "record_datasets.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folders(recorder, tmp_path):
    """A data set of two chairs and a lamp: the arguments of `R2N2`."""
    pytest.importorskip("PIL.Image")
    return recorder.build(tmp_path)
