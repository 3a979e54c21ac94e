"""Record what PyTorch3D computes in `renderer_scenes.py`, to compare with where it is not installed.

Run with PyTorch3D 0.7.9: `python tests/reference/record_renderer.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from renderer_scenes import all_scenes, run

HERE = Path(__file__).parent


def small(array: np.ndarray, is_image: bool) -> np.ndarray:
    """Indices in 16 bits; of images the first 16 bits of the mantissa, an error of 8e-6; other numbers stay."""
    if array.dtype == np.int64:
        return array.astype(np.int16)
    if not is_image:
        return array
    return ((array.view(np.uint32) + np.uint32(0x40)) & np.uint32(0xFFFFFF80)).view(np.float32)


def main() -> None:
    """Write one file for the scenes of each kind."""
    files: dict[str, dict[str, np.ndarray]] = {}
    for name in all_scenes():
        kind = name.split("/")[0]
        # Fragments follow from pix_to_face and the picture: they are compared live only, to keep the file small.
        skipped = ("bary", "dists", "zbuf") if kind == "renders" else ()
        results = {key: value for key, value in run("pytorch3d", name).items() if key not in skipped}
        is_image = kind.startswith("images_")
        files.setdefault(kind, {}).update({f"{name}/{key}": small(a, is_image) for key, a in results.items()})
    for kind, arrays in files.items():
        np.savez_compressed(HERE / f"renderer_{kind}.npz", **arrays)


if __name__ == "__main__":
    main()
