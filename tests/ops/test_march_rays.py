from __future__ import annotations

import pytest
import torch

from recon_engine.ops._march_rays import march_rays
from recon_engine.testing import assert_as_accurate, assert_matches_reference, values_and_grads


def _inputs(R, S, C, dtype=torch.float32, device="cpu", eps=1e-3, shift=1):
    return torch.rand(R, S, dtype=dtype, device=device), torch.rand(R, S, C, dtype=dtype, device=device), eps, shift


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 2), (16, 8, 3), (37, 21, 8), (5, 7, 9), (4, 33, 40), (6, 9, 0)])
@pytest.mark.parametrize("shift", [0, 1, 3, 100])
def test_matches_reference(shape, shift, device):
    assert_matches_reference(march_rays, *_inputs(*shape, torch.float64, device, shift=shift))


@pytest.mark.parametrize("C", [1, 3, 17])
def test_as_accurate(C, device):
    densities, *others = _inputs(50, 64, C, device=device)
    assert_as_accurate(march_rays, densities * 0.1, *others)


@pytest.mark.parametrize("shift", [0, 1, 2])
def test_gradcheck_with_opaque_and_empty_samples(shift, device):
    """One-sided differences of products with zero factors are exact: the function is linear in each density."""
    densities, features, _, _ = _inputs(3, 6, 2, torch.float64, device)
    densities[0, 2], densities[1, 1:4], densities[2] = 1, 1, 0
    inputs = densities.requires_grad_(), features.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, f: march_rays(a, f, 0.0, shift), inputs)


def test_gradients_that_nobody_needs(device):
    densities, features, eps, shift = _inputs(9, 6, 3, torch.float64, device)
    (grad,) = values_and_grads(lambda a: march_rays(a, features, eps, shift), densities)[1]
    both = values_and_grads(lambda a, f: march_rays(a, f, eps, shift), densities, features)[1]
    torch.testing.assert_close(grad, both[0])
    (grad,) = values_and_grads(lambda f: march_rays(densities, f, eps, shift), features)[1]
    torch.testing.assert_close(grad, both[1])


def test_results_do_not_depend_on_the_threads():
    inputs = _inputs(5001, 19, 3)
    results = []
    before = torch.get_num_threads()
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(values_and_grads(march_rays, *inputs))
    torch.set_num_threads(before)
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=0)


def test_bad_input(device):
    densities, features, eps, shift = _inputs(3, 4, 2, device=device)
    with pytest.raises(ValueError, match=r"features must have shape \(R, S, C\), got \(3, 5, 2\)"):
        march_rays(densities, torch.rand(3, 5, 2, device=device), eps, shift)
    with pytest.raises(ValueError, match="shift must be >= 0, got -1"):
        march_rays(densities, features, eps, -1)
