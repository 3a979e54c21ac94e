"""`recon view`: files and runs in a browser."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated


def view(
    files: Annotated[tuple[Path, ...], "positional"],
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    browser: bool = True,
) -> int:
    """Look at files and runs in a browser; a run that goes on is followed.

    Args:
        files: meshes, point clouds, volume.pt, field.pt, .npy arrays, results folders, or the --out of a run that goes
            on. Several are shown together.
        host: the address to listen at; 0.0.0.0 lets the network look.
        port: the port, or the next one that is free.
        browser: open the page here. Over SSH the address is printed only.
    """
    from recon_engine.viewer import Viewer

    if not 0 <= port <= 65535:
        raise ValueError(f"--port must be from 0 to 65535, got {port}")
    with Viewer(*files, host=host, port=port) as viewer:
        print(f"page: {viewer.url}", flush=True)
        if "SSH_CONNECTION" in os.environ:
            import platform

            number = viewer.server.get_port()
            print(f"over SSH: ssh -L {number}:localhost:{number} {platform.node()}", flush=True)
        elif browser and (sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            import webbrowser

            webbrowser.open(viewer.url)
        try:
            viewer.follow()
        except KeyboardInterrupt:
            print()
    return 0
