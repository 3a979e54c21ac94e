"""Reconstruct the built-in building from its silhouettes and write the report.

python examples/reconstruct_building.py --iterations 500 --out building
"""

from __future__ import annotations

import argparse
from pathlib import Path

from recon_engine.methods.build import from_mesh, mesh_settings, save_results
from recon_engine.methods.shapes import building


def main() -> None:
    """Fit, print the numbers, save the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--out", type=Path, default=Path("building"))
    options = parser.parse_args()

    settings = mesh_settings(start="sphere", iterations=options.iterations, image_size=options.image_size)
    result = from_mesh(building(), settings)
    print(f"silhouette IoU {result.iou.mean():.4f}, at the start {result.start_iou.mean():.4f}")
    print(f"chamfer to the building {result.chamfer:.2e}")

    options.out.mkdir(parents=True, exist_ok=True)
    save_results(result, options.out, "the building")
    print(f"report: {options.out / 'report.html'}")


if __name__ == "__main__":
    main()
