"""See a photograph from another place: the left picture of a stereo pair is splatted into the camera of the right one.

python examples/warp_stereo.py --out warped.png

The pair with its measured disparities is the motorcycle of the Middlebury 2014 benchmark (Scharstein et al.,
High-resolution stereo datasets with subpixel-accurate ground truth, GCPR 2014) that comes with scikit-image:
`pip install scikit-image`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from skimage import data, io, metrics, transform
from torch import Tensor

from recon_engine.renderer import PerspectiveCameras, PointSplatter
from recon_engine.structures import Pointclouds

# Of the pictures as scikit-image has them, in pixels and metres; the right camera's centre lies further to the right.
FOCAL, CENTER_X, CENTER_Y, CENTER_SHIFT, BASELINE = 994.978, 311.193, 254.877, 31.086, 0.193001


def main() -> None:
    """Warp, print the numbers, save the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--radius", type=float, default=1.2, help="of the discs, in pixels")
    parser.add_argument("--points-per-pixel", type=int, default=128)
    parser.add_argument("--out", type=Path, default=Path("warped.png"), help="left, warped and right picture")
    parser.add_argument("--shrink", type=int, default=1, help="divide the size of the saved pictures by this")
    options = parser.parse_args()

    left, right, disparity = data.stereo_motorcycle()
    left, right, disparity = torch.from_numpy(left) / 255, torch.from_numpy(right) / 255, torch.from_numpy(disparity)
    warped = warp(left, disparity, options.radius, options.points_per_pixel)
    seen = landed(disparity)
    print(f"{seen.double().mean():.1%} of the right picture is seen from the left")
    for name, picture in (("left picture as it is", left), ("warped", warped)):
        print(f"{name}: PSNR {psnr(picture, right, seen):.2f} dB, SSIM {ssim(picture, right, seen):.4f}")

    io.imsave(options.out, beside_each_other([left, warped, right], options.shrink), check_contrast=False)
    print(f"pictures: {options.out}")


def warp(picture: Tensor, disparity: Tensor, radius: float, points_per_pixel: int) -> Tensor:
    """The picture (H, W, 3) from the place of the right camera; black where nothing is known."""
    size = (picture.shape[0], picture.shape[1])
    right_camera = PerspectiveCameras(
        focal_length=FOCAL,
        principal_point=((CENTER_X + CENTER_SHIFT + 0.5, CENTER_Y + 0.5),),
        T=torch.tensor([[BASELINE, 0.0, 0.0]]),
        in_ndc=False,
        image_size=(size,),
    )
    is_known = disparity.isfinite()
    # A last channel of ones says how much of the light a pixel has.
    features = torch.nn.functional.pad(picture, (0, 1), value=1.0)[is_known]
    cloud = Pointclouds([unproject(disparity)[is_known]], features=[features])
    splatted = PointSplatter(right_camera, size, radius, points_per_pixel)(cloud)[0]
    return splatted[..., :3] / splatted[..., 3:].clamp(min=1e-6)


def unproject(disparity: Tensor) -> Tensor:
    """The points (H, W, 3) that the left camera sees: x to the left, y up, z forward, in metres."""
    H, W = disparity.shape
    depth = FOCAL * BASELINE / (disparity + CENTER_SHIFT)
    row, column = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    return (
        torch.stack([CENTER_X - column, CENTER_Y - row, torch.full_like(depth, FOCAL)], -1) * depth[..., None] / FOCAL
    )


def landed(disparity: Tensor) -> Tensor:
    """The pixels (H, W) of the right picture that a pixel of the left one moves to."""
    row, column = torch.nonzero(disparity.isfinite(), as_tuple=True)
    target = (column - disparity[row, column]).round().long()
    inside = (target >= 0) & (target < disparity.shape[1])
    seen = torch.zeros(disparity.shape, dtype=torch.bool)
    seen[row[inside], target[inside]] = True
    return seen


def psnr(picture: Tensor, target: Tensor, where: Tensor) -> float:
    """Peak signal-to-noise ratio over the pixels `where`, in dB."""
    return float(-10 * (picture - target)[where].square().mean().log10())


def ssim(picture: Tensor, target: Tensor, where: Tensor) -> float:
    """Structural similarity with Gaussian windows of sigma 1.5, the mean over their centres `where`."""
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    _, similarity = metrics.structural_similarity(
        picture.numpy(), target.numpy(), data_range=1.0, channel_axis=-1, full=True, **gaussian
    )
    return float(similarity[where.numpy()].mean())


def beside_each_other(pictures: list[Tensor], shrink: int) -> np.ndarray:
    """(H / shrink, sum of W / shrink, 3) bytes."""
    sides = [side // shrink * shrink for side in pictures[0].shape[:2]]
    row = torch.cat([picture[: sides[0], : sides[1]] for picture in pictures], 1).clamp(0, 1)
    return (255 * transform.downscale_local_mean(row.numpy(), (shrink, shrink, 1))).round().astype("uint8")


if __name__ == "__main__":
    main()
