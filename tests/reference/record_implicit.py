"""Records what PyTorch3D 0.7.9 answers for rays, their encodings, samples and images into implicit.npz.

Run it with a Python that has PyTorch3D: `python tests/reference/record_implicit.py`.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def cameras(package: str) -> dict[str, Any]:
    """Three cameras of each kind."""
    renderer = importlib.import_module(f"{package}.renderer")
    R, T = renderer.look_at_view_transform(2.7, torch.tensor([0.0, 20.0, 50.0]), torch.tensor([10.0, 80.0, 200.0]))
    focal = torch.tensor([[1.2, 1.1], [2.0, 2.0], [0.8, 1.4]])
    return {
        "FoVPerspectiveCameras": renderer.FoVPerspectiveCameras(R=R, T=T, fov=torch.tensor([40.0, 60.0, 90.0])),
        "FoVOrthographicCameras": renderer.FoVOrthographicCameras(R=R, T=T),
        "PerspectiveCameras": renderer.PerspectiveCameras(R=R, T=T, focal_length=focal, principal_point=focal / 9),
        "OrthographicCameras": renderer.OrthographicCameras(R=R, T=T, focal_length=focal),
    }


def _rays(out: dict[str, Tensor], name: str, bundle: Any) -> None:
    for field in ("origins", "directions", "lengths", "xys", "camera_ids", "camera_counts"):
        if getattr(bundle, field, None) is not None:
            out[f"{name}_{field}"] = getattr(bundle, field)


def rays(package: str) -> dict[str, Tensor]:
    """Rays of every sampler; those drawn at random with a seed before each draw."""
    renderer = importlib.import_module(f"{package}.renderer")
    depths = {"n_pts_per_ray": 4, "min_depth": 0.5, "max_depth": 3.0}
    bounds = {"min_x": -0.5, "max_x": 0.9, "min_y": 0.7, "max_y": -0.3}
    mask = (torch.arange(3 * 5 * 7).view(3, 5, 7) % 4 == 0).float()
    out: dict[str, Tensor] = {}
    for name, many in cameras(package).items():
        for width, height in ((7, 5), (4, 6)):
            sampler = renderer.NDCMultinomialRaysampler(image_width=width, image_height=height, **depths)
            _rays(out, f"ndc_{name}_{width}", sampler(many))
    many = cameras(package)["FoVPerspectiveCameras"]
    grid = renderer.MultinomialRaysampler(image_width=7, image_height=5, **bounds, **depths, unit_directions=True)
    _rays(out, "grid", grid(many))
    _rays(out, "grid_options", grid(many, min_depth=1.0, max_depth=2.0, n_pts_per_ray=3))
    draws: dict[str, dict[str, Any]] = {
        "stratified": {"stratified_sampling": True},
        "mask": {"mask": mask},
        "mask_count": {"mask": mask, "n_rays_per_image": 6},
        "short_mask": {"mask": mask, "n_rays_per_image": 20},
        "per_image": {"n_rays_per_image": 6, "stratified_sampling": True},
        "total": {"n_rays_total": 11, "stratified_sampling": True},
        "total_mask": {"n_rays_total": 11, "mask": mask},
    }
    for name, options in draws.items():
        torch.manual_seed(1)
        _rays(out, f"drawn_{name}", grid(many, **options))
    for name, options in {"per_image": (5, {}), "total": (None, {"n_rays_total": 11})}.items():
        torch.manual_seed(1)
        sampler = renderer.MonteCarloRaysampler(-1.0, 0.5, -0.2, 0.8, options[0], 4, 0.5, 3.0, **options[1])
        _rays(out, f"monte_carlo_{name}", sampler(many, stratified_sampling=name == "total"))
    return out


def embeddings(package: str) -> dict[str, Tensor]:
    """Encodings of small numbers with every option."""
    HarmonicEmbedding = importlib.import_module(f"{package}.renderer").HarmonicEmbedding
    x = torch.linspace(-1, 1, 30).view(2, 5, 3)
    out = {}
    for logspace in (True, False):
        for append_input in (True, False):
            embed = HarmonicEmbedding(5, omega_0=0.3, logspace=logspace, append_input=append_input)
            out[f"embedding_{logspace}_{append_input}"] = embed(x)
            out[f"embedding_{logspace}_{append_input}_var"] = embed(x, diag_cov=x.square())
    return out


def marched(package: str) -> dict[str, Tensor]:
    """Rays by both marchers, with gradients; some samples are opaque, some empty."""
    renderer = importlib.import_module(f"{package}.renderer")
    generator = torch.Generator().manual_seed(0)
    densities = torch.rand(2, 4, 9, 1, generator=generator, dtype=torch.float64)
    densities[0, 1, 4], densities[0, 2, 3:6], densities[1, 1], densities[1, 2, -1] = 1, 1, 0, 1
    features = torch.rand(2, 4, 9, 3, generator=generator, dtype=torch.float64)
    densities.requires_grad_(), features.requires_grad_()
    out: dict[str, Tensor] = {}
    for thickness in (1, 2, 12):
        marcher = renderer.EmissionAbsorptionRaymarcher(surface_thickness=thickness)
        images = marcher(densities, features, eps=1e-3 if thickness == 2 else 1e-10)
        total = (images * torch.linspace(0.5, 1.5, images.numel(), dtype=images.dtype).view(images.shape)).sum()
        grads = torch.autograd.grad(total, (densities, features))
        name = f"emission_{thickness}"
        out[name], out[f"{name}_densities"], out[f"{name}_features"] = images.detach(), *grads
    opacity = renderer.AbsorptionOnlyRaymarcher()(densities)
    out["absorption"] = opacity.detach()
    out["absorption_densities"] = torch.autograd.grad(opacity.square().sum(), densities)[0]
    return out


def samples(package: str) -> dict[str, Tensor]:
    """Samples of distributions, evenly spaced and random."""
    module = importlib.import_module(f"{package}.renderer.implicit.sample_pdf")
    generator = torch.Generator().manual_seed(0)
    out = {}
    for bins in (1, 5, 40, 300):
        edges = torch.rand(2, 3, bins + 1, generator=generator).cumsum(-1)
        weights = torch.rand(2, 3, bins, generator=generator)
        weights[0, 0] = 0
        weights[0, 1, bins // 2 :] = 0
        for name in ("sample_pdf", "sample_pdf_python"):
            for det in (True, False):
                torch.manual_seed(2)
                out[f"{name}_{bins}_{det}"] = getattr(module, name)(edges, weights, 17, det=det)
    return out


def volumes(package: str) -> dict[str, Tensor]:
    """Volumes read along rays and rendered, with gradients."""
    renderer = importlib.import_module(f"{package}.renderer")
    Volumes = importlib.import_module(f"{package}.structures").Volumes
    many = cameras(package)["FoVPerspectiveCameras"]
    rays_of = renderer.NDCMultinomialRaysampler(
        image_width=6, image_height=5, n_pts_per_ray=12, min_depth=1.5, max_depth=4.0
    )
    generator = torch.Generator().manual_seed(0)
    out: dict[str, Tensor] = {}
    for align_corners in (True, False):
        densities = torch.rand(3, 1, 6, 5, 4, generator=generator).requires_grad_()
        features = torch.rand(3, 2, 6, 5, 4, generator=generator).requires_grad_()
        grid = Volumes(
            densities, features, voxel_size=0.4, volume_translation=[0.1, 0.0, -0.2], align_corners=align_corners
        )
        for padding in ("zeros", "border"):
            read = renderer.VolumeSampler(grid, padding_mode=padding)(rays_of(many))
            out[f"read_{padding}_{align_corners}_densities"] = read[0].detach()
            out[f"read_{padding}_{align_corners}_features"] = read[1].detach()
        for mode in ("bilinear", "nearest"):
            draw = renderer.VolumeRenderer(rays_of, renderer.EmissionAbsorptionRaymarcher(), sample_mode=mode)
            images, _ = draw(many, grid)
            grads = torch.autograd.grad(images.square().sum(), (densities, features))
            name = f"rendered_{mode}_{align_corners}"
            out[name], out[f"{name}_densities"], out[f"{name}_features"] = images.detach(), *grads
    return out


PARTS = {"rays": rays, "embeddings": embeddings, "marched": marched, "samples": samples, "volumes": volumes}


if __name__ == "__main__":
    arrays = {name: t.numpy() for part in PARTS.values() for name, t in part("pytorch3d").items()}
    np.savez_compressed(Path(__file__).with_name("implicit.npz"), **arrays)
