from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def recon_data() -> Path:
    """The folder of real meshes and pictures that is never committed."""
    folder = os.environ.get("RECON_DATA")
    if not folder:
        pytest.skip("RECON_DATA is not set: it names the folder with the book's meshes")
    return Path(folder)
