"""Looking at things in a browser: `recon view` and notebooks.

`Viewer` serves a file or a run with viser and follows it while it changes, `show` makes a plotly figure, and
`read_scene` says what a file or a run has to be seen.
"""

from __future__ import annotations

from .figure import show
from .scene import Scene, isosurface, read_scene
from .server import Viewer

__all__ = ["Scene", "Viewer", "isosurface", "read_scene", "show"]
