"""Find the camera that took a picture of a known object."""

from __future__ import annotations

from .cameras import Orbit, Position, angle_between
from .fit import PoseFit, PoseResult, Step, from_mesh, from_pictures, observe
from .pictures import Observed, load_pictures
from .results import save_results
from .settings import PoseSettings, pose_settings

__all__ = [
    "Observed",
    "Orbit",
    "PoseFit",
    "PoseResult",
    "PoseSettings",
    "Position",
    "Step",
    "angle_between",
    "from_mesh",
    "from_pictures",
    "load_pictures",
    "observe",
    "pose_settings",
    "save_results",
]
