"""Makes docs/images/view.png, two pages of `recon view`: `python docs/make_view.py`. Needs viser and Chromium."""

from __future__ import annotations

import io
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

from recon_engine.io import IO
from recon_engine.methods import _pictures as pictures
from recon_engine.methods import build
from recon_engine.methods.shapes import building
from recon_engine.viewer import Viewer

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/viewer"))

from chromium import Page

WIDTH, HEIGHT = 960, 640
STEPS, SHOWN = 1000, 150  # of the fit, and how many are done when the picture is taken


def shot(page: Page, viewer: Viewer, is_ready: str) -> Image.Image:
    """The page of a viewer, once its text has some words and the mesh has had time to be drawn."""
    page.open(viewer.url)
    while is_ready not in page.text():
        viewer.follow(0.5)
    viewer.follow(5.0)
    click = "document.querySelectorAll('[role=alert] button').forEach(button => button.click())"
    page.call("Runtime.evaluate", expression=click)
    time.sleep(2)
    return Image.open(io.BytesIO(page.png())).convert("RGB")


def main() -> None:
    """Look at the building, and at a fit of it that is going on."""
    house = building(colors=True)
    with tempfile.TemporaryDirectory() as folder:
        page = Page(Path(folder) / "chromium", WIDTH, HEIGHT)
        file, run = Path(folder) / "building.ply", Path(folder) / "recon-build"
        IO().save_mesh(house, file)
        with Viewer(file) as viewer:
            shown = [shot(page, viewer, "5,292 faces")]
        settings = build.mesh_settings(iterations=STEPS, start="sphere")
        fit = threading.Thread(
            target=build.from_mesh,
            args=(house, settings),
            kwargs={"live": run.with_name("recon-build.live")},
            daemon=True,
        )
        with Viewer(run) as viewer:
            fit.start()
            while (viewer.scene.step or 0) < SHOWN:
                viewer.follow(0.5)
            shown.append(shot(page, viewer, "running: step"))
        page.close()
        fit.join()
    path = Path(__file__).parent / "images/view.png"
    path.write_bytes(pictures.png(np.concatenate([np.asarray(picture) for picture in shown], 1)))
    print(f"{path}, {path.stat().st_size // 1024} KB")


if __name__ == "__main__":
    main()
