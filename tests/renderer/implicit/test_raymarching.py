from __future__ import annotations

import warnings

import pytest
import torch

from recon_engine.renderer import (
    AbsorptionOnlyRaymarcher,
    EmissionAbsorptionRaymarcher,
    march_density_delta,
    ray_deltas,
)


def _surface(device, points=9):
    """Rays that are empty up to a random sample and opaque from there on; some are empty to the end."""
    depth = torch.randint(1, points + 2, (50,), device=device)
    order = torch.arange(points, device=device)
    densities = (order >= depth[:, None]).float()[..., None]
    features = torch.rand(50, points, 3, device=device)
    expected = (features * (order == depth[:, None])[..., None]).sum(1)
    return densities, features, expected, (depth < points).float()[:, None]


def test_rays_show_the_first_opaque_sample(device):
    densities, features, expected, opacity = _surface(device)
    densities.requires_grad_(), features.requires_grad_()
    image = EmissionAbsorptionRaymarcher()(densities, features)
    torch.testing.assert_close(image, torch.cat([expected, opacity], 1))
    torch.testing.assert_close(AbsorptionOnlyRaymarcher()(densities), opacity)
    grads = torch.autograd.grad(image.mean(), (densities, features))
    assert all(g.isfinite().all() for g in grads)


@pytest.mark.parametrize("thickness", [0, 1, 2, 5, 9, 40])
def test_surface_thickness(thickness, device):
    a = torch.rand(3, 4, 9, 1, dtype=torch.float64, device=device)
    f = torch.rand(3, 4, 9, 2, dtype=torch.float64, device=device)
    expected = torch.zeros(3, 4, 2, dtype=torch.float64, device=device)
    for i in range(9):
        in_front = (1 + 1e-10 - a[:, :, : max(i - thickness + 1, 0)]).prod(2)
        expected += a[:, :, i] * in_front * f[:, :, i]
    image = EmissionAbsorptionRaymarcher(surface_thickness=thickness)(a, f)
    torch.testing.assert_close(image[..., :2], expected)
    torch.testing.assert_close(image[..., 2:], 1 - (1 - a).prod(2))


def test_shape_of_the_book():
    image = EmissionAbsorptionRaymarcher()(torch.rand(10, 64, 64, 5, 1), torch.rand(10, 64, 64, 5, 3))
    assert image.shape == (10, 64, 64, 4)


def test_no_rays_no_samples_no_features():
    march = EmissionAbsorptionRaymarcher()
    assert march(torch.zeros(0, 5, 1), torch.zeros(0, 5, 3)).shape == (0, 4)
    assert torch.equal(march(torch.zeros(2, 0, 1), torch.zeros(2, 0, 3)), torch.zeros(2, 4))
    assert torch.equal(march(torch.ones(2, 4, 1), torch.zeros(2, 4, 0)), torch.ones(2, 1))
    assert AbsorptionOnlyRaymarcher()(torch.ones(4, 1)).shape == (1,)


def test_mixed_precision_and_integers():
    a, f = torch.rand(2, 4, 1), torch.arange(8).view(2, 4, 1)
    image = EmissionAbsorptionRaymarcher()(a, f)
    torch.testing.assert_close(image, EmissionAbsorptionRaymarcher()(a, f.float()))
    assert EmissionAbsorptionRaymarcher()(a, f.double()).dtype == torch.float64


def test_nan_stays_on_its_ray():
    a, f = torch.rand(40, 7, 1), torch.rand(40, 7, 3)
    a[3, 2], f[20, 6, 1] = float("nan"), float("inf")
    image = EmissionAbsorptionRaymarcher()(a, f)
    bad = torch.zeros(40, 4, dtype=torch.bool)
    bad[3], bad[20, 1] = True, True
    assert torch.equal(~image.isfinite(), bad)


@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_densities_outside_of_0_to_1_warn(value):
    with pytest.warns(UserWarning, match=r"outside of valid range \(0\.0, 1\.0\): they lie between"):
        EmissionAbsorptionRaymarcher()(torch.tensor([[[0.5], [value]]]), torch.rand(1, 2, 3))
    with pytest.warns(UserWarning, match="outside of valid range"):
        AbsorptionOnlyRaymarcher()(torch.tensor([[[0.5], [value]]]))


def test_bounds_themselves_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AbsorptionOnlyRaymarcher()(torch.tensor([[[0.0], [1.0]]]))
        AbsorptionOnlyRaymarcher()(torch.tensor([[[0.0], [1.0000002]]]))  # what an interpolation makes of ones


@pytest.mark.parametrize(
    ("densities", "features", "message"),
    [
        (1.0, torch.rand(5, 4), "rays_densities must be a tensor, got float"),
        (torch.tensor(1.0), torch.rand(5, 4), r"rays_densities must have shape \(\.\.\., points per ray, 1\)"),
        (torch.rand(5, 4), torch.rand(5, 4), r"rays_densities must have shape .* got \(5, 4\)"),
        (torch.rand(5, 4, 1), None, "rays_features must be a tensor, got NoneType"),
        (torch.rand(5, 4, 1), torch.rand(5, 3, 3), r"rays_features must have the shape .* \(5, 3, 3\) and \(5, 4, 1\)"),
    ],
)
def test_bad_input(densities, features, message):
    with pytest.raises(ValueError, match=message):
        EmissionAbsorptionRaymarcher()(densities, features)
    if features is not None and not (isinstance(densities, torch.Tensor) and densities.shape[-1:] == (1,)):
        with pytest.raises(ValueError, match="rays_densities"):
            AbsorptionOnlyRaymarcher()(densities)


def test_negative_thickness():
    with pytest.raises(ValueError, match="surface_thickness must be 0 or more samples, got -1"):
        EmissionAbsorptionRaymarcher(surface_thickness=-1)


def _medium(device="cpu", S=9):
    densities = torch.randn(3, 4, S, dtype=torch.float64, device=device)
    deltas = torch.rand(3, 4, S, dtype=torch.float64, device=device)
    return densities, deltas, torch.rand(3, 4, S, 2, dtype=torch.float64, device=device)


def test_medium_is_that_of_nerf(device):
    densities, deltas, features = _medium(device)
    deltas[..., -1] = 1e10
    a = 1 - (-densities.clamp(min=0) * deltas).exp()
    light, expected = torch.ones(3, 4, dtype=torch.float64, device=device), 0
    for i in range(9):
        expected = expected + (a[..., i] * light)[..., None] * features[..., i, :]
        light = light * (1 - a[..., i] + 1e-10)
    for form in (densities, densities[..., None]):
        image = march_density_delta(form, deltas, features)
        torch.testing.assert_close(image[..., :2], expected)
        torch.testing.assert_close(image[..., 2], 1 - (1 - a).prod(-1))


def test_constant_medium():
    """1 - exp(-density length), into however many samples the ray is divided."""
    for S in (1, 7, 100):
        lengths = torch.linspace(0, 2, S + 1, dtype=torch.float64)[:-1].expand(5, S)
        directions = torch.tensor([0.0, 3.0, 4.0], dtype=torch.float64).expand(5, 3)
        deltas = ray_deltas(lengths, directions, last=2 / S)
        torch.testing.assert_close(deltas.sum(-1), torch.full((5,), 10.0, dtype=torch.float64))
        image = march_density_delta(torch.full_like(lengths, 0.3), deltas, lengths.new_ones(5, S, 1))
        torch.testing.assert_close(image, (1 - torch.tensor(-3.0).double().exp()).expand(5, 2))


def test_last_sample_of_a_medium_reaches_to_infinity():
    densities, _, features = _medium()
    deltas = ray_deltas(torch.rand(3, 4, 9).double().sort(-1).values, torch.rand(3, 4, 3).double())
    assert (deltas >= 0).all()
    opacity = march_density_delta(densities, deltas, features)[..., 2]
    assert (opacity[densities[..., -1] > 0] == 1).all()
    assert ray_deltas(torch.zeros(2, 0), torch.ones(2, 3)).shape == (2, 0)


def test_medium_gradcheck():
    inputs = [t.requires_grad_() for t in _medium(S=5)]
    assert torch.autograd.gradcheck(march_density_delta, inputs)


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, torch.rand(3, 4, 9, 2), "rays_densities must have shape"),
        (0, [0.5], "rays_densities must be a tensor, got list"),
        (1, torch.rand(3, 4, 8), "rays_deltas must have one number for each density"),
        (2, torch.rand(3, 4, 8, 2), "rays_features must have the shape of rays_densities"),
    ],
)
def test_wrong_medium(position, value, message):
    inputs = list(_medium())
    inputs[position] = value
    with pytest.raises(ValueError, match=message):
        march_density_delta(*inputs)
