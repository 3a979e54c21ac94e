"""Records what PyTorch3D's compiled functions answer: `python tests/reference/record_kernels.py`, with PyTorch3D."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch  # noqa: F401  (PyTorch3D's module needs it to be loaded)
from pytorch3d import _C

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "compat"))

from kernel_cases import CASES  # noqa: E402

answers = {f"{name}/{i}": a.numpy() for name, case in CASES.items() for i, a in enumerate(case(_C))}
names = [name for name in dir(_C) if not name.startswith("__")]
np.savez_compressed(HERE / "kernels.npz", names=np.array(names), **answers)
