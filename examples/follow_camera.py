"""Follow a camera around an object: the first is searched for all around, each other begins where the last ended.

python examples/follow_camera.py --frames 12 --out followed
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from recon_engine.methods.pose import Orbit, PoseFit, observe, pose_settings, save_results
from recon_engine.methods.shapes import building


def main() -> None:
    """Look for the cameras, print how far they are off, save the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--fast", action="store_true", help="small pictures and few steps")
    parser.add_argument("--out", type=Path, default=Path("followed"))
    options = parser.parse_args()

    house, settings = building(colors=True), pose_settings(fast=options.fast)
    azimuth = 30.0 + 10.0 * torch.arange(options.frames)
    elevation = 20.0 + 15.0 * torch.sin(azimuth.deg2rad())
    true = Orbit.at(azimuth, elevation, 2.8)

    fit = PoseFit(house, observe(house, true, settings), settings)
    for step in fit:
        if step.iteration == 0 and step.stage == 0:
            print(f"picture {step.picture + 1}: loss {step.losses.min():.4f}, the best of {len(step.losses)} starts")
    result = fit.result()
    off = (result.azimuth - azimuth + 180) % 360 - 180
    print(
        f"azimuth off by {off.abs().max():.2f} degrees at most, elevation by "
        f"{(result.elevation - elevation).abs().max():.2f}"
    )

    options.out.mkdir(parents=True, exist_ok=True)
    save_results(result, options.out, "the building")
    print(f"report: {options.out / 'report.html'}")


if __name__ == "__main__":
    main()
