import importlib.util
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "ops"))


@pytest.fixture(scope="session")
def recorder():
    """The module that records PyTorch3D's answers."""
    path = Path(__file__).parents[2] / "reference" / "record_points_render.py"
    spec = importlib.util.spec_from_file_location("record_points_render", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
