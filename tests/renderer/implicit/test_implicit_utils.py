from __future__ import annotations

import pytest
import torch

from recon_engine.renderer import (
    HeterogeneousRayBundle,
    RayBundle,
    ray_bundle_to_ray_points,
    ray_bundle_variables_to_ray_points,
)
from recon_engine.renderer.implicit.utils import _validate_ray_bundle_variables


@pytest.mark.parametrize("bundle", [RayBundle, HeterogeneousRayBundle])
def test_points_along_rays(bundle, device):
    origins, directions = torch.rand(2, 4, 5, 3, device=device), torch.rand(2, 4, 5, 3, device=device)
    lengths, xys = torch.rand(2, 4, 5, 6, device=device), torch.rand(2, 4, 5, 2, device=device)
    points = ray_bundle_to_ray_points(bundle(origins, directions, lengths, xys))
    assert points.shape == (2, 4, 5, 6, 3)
    torch.testing.assert_close(points[1, 2, 3, 4], origins[1, 2, 3] + lengths[1, 2, 3, 4] * directions[1, 2, 3])
    assert torch.equal(points, ray_bundle_variables_to_ray_points(origins, directions, lengths))


def test_bundles():
    fields = [torch.rand(1, 2, 3), torch.rand(1, 2, 3), torch.rand(1, 2, 4), torch.rand(1, 2, 2)]
    assert RayBundle(*fields)._fields == ("origins", "directions", "lengths", "xys")
    assert all(a is b for a, b in zip(RayBundle(*fields), fields, strict=True))
    assert HeterogeneousRayBundle(*fields).camera_ids is None


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 5, 3), (2, 3), (2, 5, 4)), "same number of dimensions"),
        (((5, 3), (5, 3), (5, 4)), "at least 3"),
        (((2, 5, 3), (2, 6, 3), (2, 5, 4)), "only in their last dimension"),
        (((2, 5, 3), (2, 5, 2), (2, 5, 4)), "must be 3"),
    ],
)
def test_bad_shapes(shapes, message):
    with pytest.raises(ValueError, match=message):
        _validate_ray_bundle_variables(*(torch.zeros(shape) for shape in shapes))
