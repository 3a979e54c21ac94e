import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

REFERENCE = Path(__file__).parents[3] / "reference"


@pytest.fixture(scope="session")
def pulsar():
    """The module that records PyTorch3D's answers."""
    spec = importlib.util.spec_from_file_location("record_pulsar", REFERENCE / "record_pulsar.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def recorded():
    """Its answers, by name."""
    return {name: torch.from_numpy(value) for name, value in np.load(REFERENCE / "pulsar.npz").items()}
