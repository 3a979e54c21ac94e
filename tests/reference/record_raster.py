"""Records what PyTorch3D 0.7.9 rasterises into raster.npz, with the triangles it was given.

Run it with a Python that has PyTorch3D: `python tests/reference/record_raster.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "ops"))
IMAGE_SIZE = (9, 14)
BLUR_RADIUS = 2e-3
K = 3


def main() -> None:
    """Write the fragments and gradients of every combination of the options."""
    import raster_scenes

    scene = raster_scenes.with_neighbors(raster_scenes.regular(24, 0.4))
    arrays = {name: tensor.numpy() for name, tensor in scene._asdict().items()}
    arrays["settings"] = np.array([*IMAGE_SIZE, BLUR_RADIUS, K])
    for options in raster_scenes.OPTIONS:
        fragments = raster_scenes.pytorch3d_forward(scene, IMAGE_SIZE, BLUR_RADIUS, K, options)
        grads = raster_scenes.output_grads(fragments)
        grad_verts = raster_scenes.pytorch3d_backward(scene, fragments[0], grads, options)
        key = "".join("ny"[option] for option in options)
        for name, tensor in zip(("pix_to_face", "zbuf", "bary", "dists"), fragments):
            array = tensor.numpy()
            arrays[f"{key}/{name}"] = array.astype(np.int16) if name == "pix_to_face" else array
        arrays[f"{key}/grad_verts"] = grad_verts.numpy()
    np.savez_compressed(HERE / "raster.npz", **arrays)


if __name__ == "__main__":
    main()
