"""Records what PyTorch3D 0.7.9 makes of spheres on a CPU into pulsar.npz.

Run it with a Python that has PyTorch3D: `python tests/reference/record_pulsar.py`.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

HEIGHT, WIDTH, SPHERES, TRACK = 14, 18, 24, 4
DEPTHS = {"max_depth": 9.0, "min_depth": 2.0}
BACKGROUND = (0.1, 0.2, 0.3)
# Name: orthogonal, right-handed, gamma, offset of the principal point.
CASES: dict[str, tuple[bool, bool, float, tuple[float, float]]] = {
    "perspective": (False, False, 0.3, (0.0, 0.0)),
    "perspective/right": (False, True, 0.02, (2.0, -3.0)),
    "orthogonal": (True, False, 0.02, (0.0, 0.0)),
    "orthogonal/right": (True, True, 0.3, (-1.0, 2.0)),
}
CAMERAS = ("FoVPerspectiveCameras", "FoVOrthographicCameras", "PerspectiveCameras", "OrthographicCameras")


def scene(orthogonal: bool, right_handed: bool, offset: tuple[float, float]) -> list[Tensor]:
    """Positions, colours, radii, camera vector, opacities.

    Spheres are larger than a pixel, also where an image cuts them, and the camera is not turned where rays are
    parallel: PyTorch3D's gradients are wrong otherwise.
    """
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    points = (random(SPHERES, 3) - 0.5) * torch.tensor([2.0, 1.4, 2.0]) + torch.tensor(
        [0.05, 0.02, -6.0 if right_handed else 6.0]
    )
    turn = torch.tensor([1.0, 0, 0, 0, 1, 0]) if orthogonal else torch.tensor([1.0, 0.1, -0.05, -0.1, 1.0, 0.08])
    numbers = torch.tensor([0.0 if orthogonal else 1.05, 3.5 if orthogonal else 0.6, *offset])
    camera = torch.cat([random(3) * 0.2, turn, numbers])
    return [points, random(SPHERES, 3), random(SPHERES) * 0.5 + 0.3, camera, random(SPHERES) * 0.8 + 0.2]


def outputs(package: str, case: str) -> dict[str, Tensor]:
    """Image, what is known of each pixel, hits, and gradients of the image times itself, all from `package`."""
    Renderer = importlib.import_module(f"{package}.renderer.points.pulsar").Renderer
    orthogonal, right_handed, gamma, offset = CASES[case]
    inputs = [a.requires_grad_() for a in scene(orthogonal, right_handed, offset)]
    points, colors, radii, camera, opacity = inputs
    render = Renderer(WIDTH, HEIGHT, SPHERES, orthogonal, right_handed, n_track=TRACK)

    def call(**options: Any) -> Any:
        background = torch.tensor(BACKGROUND)
        return render(*(points, colors, radii, camera, gamma), **DEPTHS, bg_col=background, opacity=opacity, **options)

    image, info = call(return_forward_info=True)
    grads = torch.autograd.grad(image, inputs, image.detach())
    found = {
        "image": image,
        "stats": info[..., :3],
        "ids": Renderer.sphere_ids_from_result_info_nograd(info),
        "depths": info[..., 4::2],
        "nearest": Renderer.depth_map_from_result_info_nograd(info),
        "hits": call(mode=1),
    }
    names = ("points", "colors", "radii", "camera", "opacity")
    return {name: value.detach() for name, value in (found | dict(zip(names, grads))).items()}


def cloud_images(package: str) -> dict[str, Tensor]:
    """A cloud behind the interface of the point renderers, by camera."""
    renderer = importlib.import_module(f"{package}.renderer")
    Pointclouds = importlib.import_module(f"{package}.structures").Pointclouds
    generator = torch.Generator().manual_seed(5)
    points, features = torch.rand(1, 20, 3, generator=generator) - 0.5, torch.rand(1, 20, 3, generator=generator)
    images = {}
    for name in CAMERAS:
        R, T = renderer.look_at_view_transform(2.7, 10.0, 20.0)
        settings = renderer.PointsRasterizationSettings(image_size=24, radius=0.2)
        rasterizer = renderer.PointsRasterizer(getattr(renderer, name)(R=R, T=T), settings)
        render = renderer.PulsarPointsRenderer(rasterizer)
        images[name] = render(Pointclouds(points=points, features=features), gamma=(0.05,), znear=(1.0,), zfar=(5.0,))
    return {name: image.detach() for name, image in images.items()}


def main() -> None:
    found = {f"{case}/{name}": value for case in CASES for name, value in outputs("pytorch3d", case).items()}
    found |= {f"clouds/{name}": value for name, value in cloud_images("pytorch3d").items()}
    np.savez_compressed(
        Path(__file__).with_name("pulsar.npz"), **{name: value.numpy() for name, value in found.items()}
    )


if __name__ == "__main__":
    main()
