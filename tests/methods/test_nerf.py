from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from recon_engine.methods._train import Checkpoint
from recon_engine.methods.nerf import (
    NerfFit,
    NerfSettings,
    RadianceField,
    from_mesh,
    load_field,
    nerf_settings,
    render,
    save_results,
)
from recon_engine.methods.shapes import building
from recon_engine.renderer import RayBundle
from recon_engine.structures import Meshes

TINY = {
    "views": 8,
    "held_out": 2,
    "image_size": 20,
    "points_per_ray": 20,
    "rays_per_view": 64,
    "views_per_iteration": 4,
    "iterations": 60,
    "hidden": 32,
}


@pytest.fixture(scope="module")
def house() -> Meshes:
    return building(colors=True)


@pytest.fixture(scope="module")
def fitted(house):
    return from_mesh(house, nerf_settings(fast=True, **TINY))


def test_documented_defaults():
    settings = nerf_settings("documented")
    assert settings == NerfSettings()
    assert (settings.views, settings.points_per_ray, settings.rays_per_view) == (40, 128, 750)
    assert settings.stratified
    assert (settings.iterations, settings.views_per_iteration, settings.learning_rate) == (3000, 6, 1e-3)
    assert (settings.harmonics, settings.omega, settings.hidden, settings.depths) == (60, 0.1, 256, (0.1, 3.0))
    assert (settings.rate_factor_at(2249), settings.rate_factor_at(2250)) == (1.0, 0.1)


def test_settings_out_of_range():
    with pytest.raises(ValueError, match="harmonics must be 1 or more, got 0"):
        nerf_settings(harmonics=0)
    with pytest.raises(ValueError, match="rays_per_view must be 1 or more, got 0"):
        nerf_settings(rays_per_view=0)
    with pytest.raises(ValueError, match="omega must be above 0, got 0"):
        nerf_settings(omega=0.0)


def bundle(rays: int = 5, samples: int = 7) -> RayBundle:
    return RayBundle(
        torch.randn(2, rays, 3),
        torch.randn(2, rays, 3),
        torch.rand(2, rays, samples).sort(-1).values + 1,
        torch.rand(2, rays, 2),
    )


def test_the_documented_network_has_its_number_of_parameters():
    assert sum(parameter.numel() for parameter in RadianceField().parameters()) == 317_188


def test_the_network_is_the_documented_one():
    """In float64, layer by layer, from the equations."""
    field = RadianceField(4, 0.3, 16).double()
    rays = RayBundle(*(value.double() for value in bundle()))
    densities, colors = field(rays)

    def waves(x: torch.Tensor) -> torch.Tensor:
        phase = x[..., None] * 0.3 * torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64)
        return torch.cat([phase.sin().flatten(-2), phase.cos().flatten(-2)], -1)

    def softplus(x: torch.Tensor) -> torch.Tensor:
        return (1 + (10 * x).exp()).log() / 10

    points = rays.origins[..., None, :] + rays.lengths[..., None] * rays.directions[..., None, :]
    features = softplus(field.trunk[1](softplus(field.trunk[0](waves(points)))))
    torch.testing.assert_close(densities, 1 - (-softplus(field.density(features))).exp(), rtol=1e-6, atol=1e-6)
    direction = waves(rays.directions / rays.directions.norm(dim=-1, keepdim=True))
    both = torch.cat([features, direction[..., None, :].expand(*features.shape[:-1], -1)], -1)
    weight = torch.cat([field.color_of_features.weight, field.color_of_direction.weight], 1)
    mixed = softplus(both @ weight.T + field.color_of_features.bias)
    torch.testing.assert_close(colors, field.color(mixed).sigmoid(), rtol=1e-6, atol=1e-6)


def test_space_is_thin_at_the_start():
    densities, colors = RadianceField()(bundle())
    assert densities.shape == (2, 5, 7, 1)
    assert colors.shape == (2, 5, 7, 3)
    assert 0 <= densities.min().item() <= densities.max().item() < 0.05


def test_chunks_change_nothing(monkeypatch):
    field, rays = RadianceField(4, 0.5, 16), bundle()
    whole = field(rays)
    for size in (1, 21, 1000):
        monkeypatch.setattr("recon_engine.methods.nerf.field._POINTS_AT_ONCE", size)
        for got, expected in zip(field.in_chunks(rays), whole, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_the_fit_improves(fitted):
    table = fitted.history.table()
    assert list(table) == ["total", "color", "silhouette"]
    assert sum(table["total"][-10:]) < 0.6 * sum(table["total"][:10])
    assert fitted.rendered.shape == (2, 20, 20, 4)
    assert float(fitted.psnr.mean()) > 12


def test_the_same_seed_gives_the_same_field(house, fitted):
    again = from_mesh(house, nerf_settings(fast=True, **TINY))
    assert again.history.table() == fitted.history.table()
    assert torch.equal(again.rendered, fitted.rendered)
    other = from_mesh(house, nerf_settings(fast=True, **{**TINY, "iterations": 3}, seed=1))
    assert other.history.table()["total"][:3] != fitted.history.table()["total"][:3]


def test_a_fit_goes_on_from_its_checkpoint(house, fitted, tmp_path, monkeypatch):
    path = tmp_path / "a.checkpoint"
    losses, steps = NerfFit.losses, []

    def killed(*arguments):
        steps.append(1)
        if len(steps) == 25:
            raise RuntimeError("killed")
        return losses(*arguments)

    monkeypatch.setattr(Checkpoint.__init__, "__defaults__", (0.0,))
    monkeypatch.setattr(NerfFit, "losses", killed)
    with pytest.raises(RuntimeError, match="killed"):
        from_mesh(house, nerf_settings(fast=True, **TINY), checkpoint=path)
    monkeypatch.setattr(NerfFit, "losses", losses)
    resumed = from_mesh(house, nerf_settings(fast=True, **TINY), checkpoint=path)
    assert resumed.history.table() == fitted.history.table()
    assert torch.equal(resumed.rendered, fitted.rendered)


def test_a_fit_step_by_step_may_be_looked_at_and_stopped(house, fitted):
    fit = NerfFit.to_mesh(house, nerf_settings(fast=True, **TINY))
    for step in fit:
        if step == 4:
            break
    assert fit.history.table()["total"] == fitted.history.table()["total"][:5]
    result = fit.result()
    assert result.interrupted
    assert result.field is fit.model
    assert result.rendered.shape == fitted.rendered.shape


@pytest.fixture(scope="module")
def saved(fitted, tmp_path_factory) -> Path:
    for module in ("PIL", "matplotlib"):
        pytest.importorskip(module)
    folder = tmp_path_factory.mktemp("results")
    save_results(fitted, folder, "the building")
    return folder


def test_results_hold_the_network_and_the_numbers(fitted, saved):
    assert {path.name for path in saved.iterdir()} == {
        "field.pt",
        "mesh.ply",
        "losses.csv",
        "losses.png",
        "held_out.png",
        "turntable.gif",
        "metrics.json",
        "report.html",
    }
    field = load_field(saved / "field.pt")
    again = render(field, fitted.held_out.cameras, fitted.settings)
    torch.testing.assert_close(again, fitted.rendered, rtol=0, atol=1e-5)
    metrics = json.loads((saved / "metrics.json").read_text())
    assert metrics["iterations"] == 60
    assert metrics["settings"]["hidden"] == 32
    html = (saved / "report.html").read_text()
    assert html.count("<img") == html.count('alt="') == 1 + 2
    assert "Radiance field of the building" in html


@pytest.mark.slow
def test_the_fast_fit_of_the_command_line(house):
    result = from_mesh(house, nerf_settings(fast=True))
    total = result.history.table()["total"]
    assert sum(total[-20:]) < 0.3 * sum(total[:20])
    assert float(result.psnr.mean()) > 18
