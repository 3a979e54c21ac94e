"""Records what PyTorch3D 0.7.9 makes of point clouds into points_render.npz.

Run it with a Python that has PyTorch3D: `python tests/reference/record_points_render.py`.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

COMPOSITING = ("alpha_composite", "norm_weighted_sum", "weighted_sum")
COMPOSITORS = ("AlphaCompositor", "NormWeightedCompositor")


def scene() -> dict[str, Tensor]:
    """Two clouds in the world and in NDC, and inputs of the compositors."""
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    ndc = random(90, 3) * torch.tensor([3.0, 2.2, 1.0]) - torch.tensor([1.5, 1.1, 0.1])
    ndc[:, 2] = (ndc[:, 2] * 10).round() / 10  # depths are equal, too
    return {
        "points": random(90, 3) - 0.5,
        "ndc": ndc,
        "features": random(90, 3),
        "radius": 0.1 + 0.3 * random(90),
        "alphas": random(2, 4, 6, 7) * 0.95,
        "pointsidx": (random(2, 4, 6, 7) * 100).long() % 91 - 1,
    }


def outputs(package: str, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Everything that is compared, from `package`: fragments, composites, images and their gradients."""
    renderer = importlib.import_module(f"{package}.renderer")
    points = importlib.import_module(f"{package}.renderer.points")
    compositing = importlib.import_module(f"{package}.renderer.compositing")
    Pointclouds = importlib.import_module(f"{package}.structures").Pointclouds
    found: dict[str, Any] = {}

    sizes = [50, 40]
    ndc = given["ndc"].clone().requires_grad_()
    radius = torch.nn.utils.rnn.pad_sequence(given["radius"].split(sizes), batch_first=True)
    for name, size, r in (("wide", (9, 14), 0.3), ("tall", (13, 8), radius)):
        fragments = points.rasterize_points(Pointclouds(list(ndc.split(sizes))), size, r, 5)
        grads = torch.autograd.grad(fragments[1:], ndc, [f.detach() for f in fragments[1:]])
        for key, value in zip(("idx", "zbuf", "dists2", "grad"), (*fragments, *grads)):
            found[f"rasterize/{name}/{key}"] = value

    inputs = (given["alphas"].clone().requires_grad_(), given["features"].clone().requires_grad_())
    for name in COMPOSITING:
        image = getattr(compositing, name)(given["pointsidx"], inputs[0], inputs[1].t().contiguous())
        grads = torch.autograd.grad(image, inputs, image.detach())
        for key, value in zip(("image", "grad_alphas", "grad_features"), (image, *grads)):
            found[f"{name}/{key}"] = value

    R, T = renderer.look_at_view_transform(1.5, torch.tensor([20.0, -30.0]), torch.tensor([10.0, 160.0]))
    settings = points.PointsRasterizationSettings(image_size=(10, 15), radius=0.2, points_per_pixel=6)
    for camera in ("FoVPerspectiveCameras", "FoVOrthographicCameras"):
        rasterizer = points.PointsRasterizer(getattr(renderer, camera)(R=R, T=T), settings)
        for compositor, background in zip(COMPOSITORS, ((0.2, 0.4, 1.0), None)):
            positions, features = (given[key].clone().requires_grad_() for key in ("points", "features"))
            clouds = Pointclouds(list(positions.split(sizes)), features=list(features.split(sizes)))
            render = points.PointsRenderer(rasterizer, getattr(points, compositor)(background_color=background))
            image = render(clouds)
            grads = torch.autograd.grad(image, (positions, features), image.detach())
            for key, value in zip(("image", "grad_points", "grad_features"), (image, *grads)):
                found[f"{camera}/{compositor}/{key}"] = value
    return {key: value.detach() for key, value in found.items()}


def main() -> None:
    """Write inputs and outputs."""
    given = scene()
    arrays = {f"given/{key}": value.numpy() for key, value in given.items()}
    arrays |= {key: value.numpy() for key, value in outputs("pytorch3d", given).items()}
    np.savez_compressed(Path(__file__).with_name("points_render.npz"), **arrays)


if __name__ == "__main__":
    main()
