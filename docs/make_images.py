"""Makes the picture of README.md: the built-in building, and its reconstruction after 0, 40, 200 and 1000 steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recon_engine.methods import _pictures as pictures
from recon_engine.methods import build
from recon_engine.methods.shapes import building
from recon_engine.structures import Meshes

SIZE = 300
FOV = 38.0


def picture(mesh: Meshes) -> np.ndarray:
    """(SIZE, SIZE, 3) uint8."""
    return pictures.on_paper(pictures.shaded(mesh, [20.0], [30.0], size=SIZE, fov=FOV))[0]


def main() -> None:
    """Reconstruct with few and with many steps and write the picture."""
    target = building(colors=True)
    normalized, _ = build.normalize(target, "target")
    shown = [picture(target.update_padded(normalized.verts_padded()))]
    for iterations in (1, 40, 200, 1000):
        result = build.from_mesh(target, build.mesh_settings("framed", iterations=iterations))
        shown.append(picture(result.start if iterations == 1 else result.fitted))
    path = Path(__file__).parent / "images/demo.png"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pictures.png(np.concatenate(shown, 1)))
    print(f"{path}, {path.stat().st_size // 1024} KB")


if __name__ == "__main__":
    main()
