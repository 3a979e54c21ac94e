from __future__ import annotations

import math

import pytest
import torch

from recon_engine.renderer import AmbientLights, DirectionalLights, Materials, PointLights, diffuse, specular


def test_diffuse_is_lamberts_cosine():
    normals = torch.tensor([[0.0, 0.0, 2.0]])
    for angle in (0.0, 30.0, 60.0, 90.0, 120.0):
        direction = torch.tensor([[0.0, 5 * math.sin(math.radians(angle)), 5 * math.cos(math.radians(angle))]])
        got = diffuse(normals, torch.tensor([[1.0, 0.5, 0.0]]), direction)
        want = max(0.0, math.cos(math.radians(angle))) * torch.tensor([[1.0, 0.5, 0.0]])
        torch.testing.assert_close(got, want, atol=1e-6, rtol=0)


def test_specular_follows_the_mirror():
    """Light from 45 degrees is mirrored to -45 degrees, and falls off with the cosine to the exponent."""
    points, normals = torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 1.0]])
    light, color, shininess = torch.tensor([[1.0, 0.0, 1.0]]), torch.ones(1, 3), torch.tensor([10.0])
    for off in (0.0, 20.0, 60.0):
        view = math.radians(-45.0 + off)
        camera = torch.tensor([[3 * math.sin(view), 0.0, 3 * math.cos(view)]])
        got = specular(points, normals, light, color, camera, shininess)
        torch.testing.assert_close(got, torch.full((1, 3), math.cos(math.radians(off)) ** 10), atol=1e-5, rtol=0)
    assert specular(points, normals, -light, color, torch.tensor([[0.0, 0.0, 3.0]]), shininess).abs().max() == 0


@pytest.mark.parametrize("light", [PointLights, DirectionalLights])
def test_one_light_for_each_mesh(light):
    where = {"location" if light is PointLights else "direction": torch.tensor([[0.0, 0, 3], [0.0, 3, 0]])}
    lights = light(diffuse_color=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)), **where)
    points, normals = torch.zeros(2, 4, 5, 2, 3), torch.tensor([0.0, 0.0, 1.0]).expand(2, 4, 5, 2, 3)
    got = lights.diffuse(normals, points)
    assert got.shape == points.shape
    assert (got[0] == torch.tensor([1.0, 0.0, 0.0])).all()
    assert (got[1] == 0).all()


def test_gradcheck():
    leaves = [torch.randn(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(5)]
    shininess = torch.tensor([3.0, 5.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(specular, (*leaves, shininess))
    assert torch.autograd.gradcheck(diffuse, leaves[:3])


def test_ambient_light_has_any_number_of_channels():
    lights = AmbientLights(ambient_color=torch.rand(2, 5))
    points = torch.zeros(2, 3, 3, 1, 3, dtype=torch.float64)
    for term in (lights.diffuse(points, points), lights.specular(points, points, None, None)):
        assert term.shape == (2, 3, 3, 1, 5)
        assert term.dtype == torch.float64
        assert (term == 0).all()
    assert AmbientLights().ambient_color.tolist() == [[1.0, 1.0, 1.0]]


def test_clone_and_to(device):
    for properties in (PointLights(location=((0.0, 1.0, 2.0),) * 2), DirectionalLights(), AmbientLights(), Materials()):
        copy = properties.clone().to(device)
        assert type(copy) is type(properties)
        assert len(copy) == len(properties)
        assert copy.ambient_color.device.type == device.type
        copy.ambient_color = copy.ambient_color * 0
        assert properties.ambient_color.abs().sum() > 0


def test_bad_input():
    for make, name in (
        (lambda: PointLights(ambient_color=torch.rand(2, 4)), "ambient_color"),
        (lambda: PointLights(location=torch.rand(2, 4)), "location"),
        (lambda: DirectionalLights(direction=torch.rand(2, 4)), "direction"),
        (lambda: DirectionalLights(specular_color=torch.rand(2, 1)), "specular_color"),
        (lambda: DirectionalLights(diffuse_color=torch.rand(3)), "diffuse_color"),
        (lambda: Materials(diffuse_color=torch.rand(2, 1)), "diffuse_color"),
    ):
        with pytest.raises(ValueError, match=f"Expected {name} to have shape"):
            make()
    with pytest.raises(ValueError, match=r"shininess should have shape \(N\); got \(2, 1\)"):
        Materials(shininess=torch.ones(2, 1))
    with pytest.raises(ValueError, match="non-broadcastable sizes"):
        PointLights(ambient_color=torch.rand(2, 3), location=torch.rand(3, 3))
    with pytest.raises(ValueError, match="points and normals to have the same shape"):
        specular(torch.zeros(2, 3), torch.zeros(1, 3), None, None, None, None)
    with pytest.raises(ValueError, match=r"non-broadcastable sizes \[2, 3"):
        PointLights(location=torch.rand(3, 3)).diffuse(torch.zeros(2, 3), torch.zeros(3, 3))
