from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parent))  # for what test files share

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


@pytest.fixture
def assert_picture(request: pytest.FixtureRequest) -> Callable[..., None]:
    """A function that compares pictures (..., H, W, C) and, where they differ, draws how.

    The PNG shows, from left to right, what was expected, what came, and the difference, whose largest value is white.
    It lies in build/differences; the message of the assertion names it.
    """

    def check(got: Any, expected: Any, *, atol: float, name: str = "", folder: Path | None = None) -> None:
        got, expected = (np.asarray(torch.as_tensor(picture).detach().cpu().double()) for picture in (got, expected))
        assert got.shape == expected.shape, f"{name}: shape {got.shape} instead of {expected.shape}"
        difference = np.where(got == expected, 0.0, np.abs(got - expected))
        difference[np.isnan(difference)] = np.inf
        wrong = difference > atol
        if not wrong.any():
            return
        from PIL import Image

        folder = request.config.rootpath / "build" / "differences" if folder is None else folder
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / (re.sub(r"[^\w.-]+", "_", f"{request.node.name} {name}").strip("_") + ".png")
        Image.fromarray(_side_by_side(expected, got, difference)).save(path)
        worst = np.unravel_index(difference.argmax(), difference.shape)
        raise AssertionError(
            f"{name}: {wrong.sum()} of {wrong.size} values differ by more than {atol}, most at "
            f"{tuple(map(int, worst))}: {got[worst]} instead of {expected[worst]}; expected | got | difference: {path}"
        )

    return check


def _side_by_side(expected: np.ndarray, got: np.ndarray, difference: np.ndarray) -> np.ndarray:
    """Pictures (..., H, W, C) next to their difference, a batch from top to bottom, as RGB bytes."""
    H, W, C = expected.shape[-3:]
    panels = [picture.reshape(-1, H, W, C) for picture in (expected, got, difference)]
    if C == 1:  # depths
        low, high = expected.min(), expected.max()
        panels[:2] = [(panel - low) / max(high - low, 1e-12) for panel in panels[:2]]
    panels[:2] = [panel[..., :3] * panel[..., 3:] if C == 4 else panel[..., :3] for panel in panels[:2]]
    finite = difference[np.isfinite(difference)].max(initial=0.0)
    panels[2] = panels[2].max(axis=-1, keepdims=True) / (finite if finite > 0 else 1.0)
    shown = [np.nan_to_num(panel, nan=1.0, posinf=1.0).clip(0, 1) for panel in panels]
    rgb = [np.broadcast_to(panel if panel.shape[-1] == 3 else panel[..., :1], (*panel.shape[:3], 3)) for panel in shown]
    gap = np.full((len(rgb[0]), H, 1, 3), 0.5)
    rows = np.concatenate([rgb[0], gap, rgb[1], gap, rgb[2]], axis=2)
    rows = np.concatenate([rows, np.full_like(rows[:, :1], 0.5)], axis=1)
    scale = max(1, 256 // max(H, W))
    sheet = rows.reshape(-1, *rows.shape[2:]).repeat(scale, axis=0).repeat(scale, axis=1)
    return (sheet * 255).round().astype(np.uint8)
