from __future__ import annotations

import pytest
import torch

from recon_engine._op import reference
from recon_engine.ops._composite import composite
from recon_engine.testing import values_and_grads

MODES = ["weighted", "norm_weighted", "alpha"]
TOLERANCE = {torch.float32: {"rtol": 1e-4, "atol": 1e-3}, torch.float64: {"rtol": 1e-9, "atol": 1e-11}}


def scene(N=2, K=5, H=4, W=6, C=3, P=11, dtype=torch.float64, device="cpu", seed=0):
    """Indices with empty slots anywhere, weights and features."""
    generator = torch.Generator().manual_seed(seed)
    idx = torch.randint(-2, P, (N, K, H, W), generator=generator)
    alphas = torch.rand(N, K, H, W, generator=generator, dtype=torch.float64)
    features = torch.randn(C, P, generator=generator, dtype=torch.float64)
    return idx.to(device), alphas.to(device, dtype), features.to(device, dtype)


def by_loops(idx, alphas, features, mode):
    """The definitions, one pixel after the other."""
    N, K, H, W = idx.shape
    out = features.new_zeros(N, features.shape[0], H, W)
    for n in range(N):
        for y in range(H):
            for x in range(W):
                hits = [k for k in range(K) if idx[n, k, y, x] >= 0]
                total = max(sum(float(alphas[n, k, y, x]) for k in hits), 1e-4)
                clear = 1.0
                for k in hits:
                    alpha = float(alphas[n, k, y, x])
                    weight = {"weighted": alpha, "norm_weighted": alpha / total, "alpha": alpha * clear}[mode]
                    out[n, :, y, x] += weight * features[:, idx[n, k, y, x]]
                    clear *= 1 - alpha
    return out


@pytest.mark.parametrize("mode", MODES)
def test_is_the_definition(mode, device):
    idx, alphas, features = scene(device=device)
    torch.testing.assert_close(composite(idx, alphas, features, mode), by_loops(idx, alphas, features, mode))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("C", [0, 1, 3, 8, 17, 70, 200])
def test_matches_reference(C, mode, dtype, device):
    for sizes in ({"K": 1, "H": 1, "W": 37}, {"K": 7, "H": 5, "W": 4}, {"N": 0}, {"K": 40, "P": 2}):
        idx, alphas, features = scene(C=C, dtype=dtype, device=device, **sizes)

        def run(alphas, features, idx=idx):
            return composite(idx, alphas, features, mode)

        actual = values_and_grads(run, alphas, features)
        with reference():
            expected = values_and_grads(run, alphas, features)
        torch.testing.assert_close(actual, expected, **TOLERANCE[dtype])


@pytest.mark.parametrize("mode", MODES)
def test_layouts_agree(mode, device):
    """Permuted fragments, read where they lie, give what planes give."""
    idx, alphas, features = scene(H=5, W=9, C=20, device=device)
    expected = values_and_grads(lambda a, f: composite(idx, a, f, mode), alphas, features)
    pixels = idx.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)

    def permuted(alphas, features):
        weights = alphas.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        return composite(pixels, weights, features, mode)

    torch.testing.assert_close(values_and_grads(permuted, alphas, features), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_dtypes_of_indices(mode, dtype, device):
    idx, alphas, features = scene(device=device)
    idx = idx.clamp(min=0)
    expected = composite(idx, alphas, features, mode)
    assert torch.equal(composite(idx.to(dtype), alphas, features, mode), expected)


@pytest.mark.parametrize("mode", MODES)
def test_gradcheck(mode, device):
    idx, alphas, features = scene(N=1, K=4, H=2, W=3, C=5, device=device)
    run = (alphas.requires_grad_(), features.requires_grad_())
    assert torch.autograd.gradcheck(lambda a, f: composite(idx, a, f, mode), run)


def test_gradient_where_alphas_are_one(device):
    """PyTorch3D divides by 1 - alpha + 1e-9 there: its gradients of the alphas in front are huge or zero."""
    idx, alphas, features = scene(N=1, K=5, H=2, W=3, device=device)
    alphas[:, 1:4] = 1.0
    alphas[:, :, 0, 0] = 1.0
    inputs = (alphas.requires_grad_(), features.requires_grad_())
    assert torch.autograd.gradcheck(lambda a, f: composite(idx.clamp(min=0), a, f, "alpha"), inputs)


def test_an_opaque_point_hides_all_behind_it(device):
    idx, alphas, features = scene(K=4, device=device)
    idx = idx.clamp(min=0)
    alphas[:, 0] = 1.0
    torch.testing.assert_close(composite(idx, alphas, features, "alpha"), features[:, idx[:, 0]].transpose(0, 1))


def test_gradient_where_the_sum_of_weights_is_held(device):
    """Sums below 1e-4 are constant: their gradient is that of the numerator."""
    idx, alphas, features = scene(N=1, K=3, H=1, W=4, device=device)
    alphas = (alphas * 1e-5).requires_grad_()
    image = composite(idx.clamp(min=0), alphas, features, "norm_weighted")
    (grad,) = torch.autograd.grad(image.sum(), alphas)
    torch.testing.assert_close(grad, features.sum(0)[idx.clamp(min=0)] / 1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_empty_slots_may_hold_anything(mode, device):
    idx, alphas, features = scene(device=device)
    expected = values_and_grads(lambda f: composite(idx, alphas, f, mode), features)
    spoiled = torch.where(idx < 0, torch.nan, alphas)
    torch.testing.assert_close(values_and_grads(lambda f: composite(idx, spoiled, f, mode), features), expected)
    _, (grad, _) = values_and_grads(lambda a, f: composite(idx, a, f, mode), spoiled, features)
    assert not grad[idx < 0].any()


@pytest.mark.parametrize("C", [3, 70])
@pytest.mark.parametrize("mode", MODES)
def test_threads_do_not_matter(mode, C):
    idx, alphas, features = scene(K=10, H=40, W=60, C=C, P=300, dtype=torch.float32)
    before = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            results.append(values_and_grads(lambda a, f: composite(idx, a, f, mode), alphas, features))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=0)


def test_bad_input():
    idx, alphas, features = scene()
    with pytest.raises(ValueError, match=r"pointsidx and alphas must both have shape \(N, K, H, W\)"):
        composite(idx, alphas[:, 1:], features, "alpha")
    with pytest.raises(ValueError, match=r"pointsidx must hold integers, got torch\.float64"):
        composite(idx.double(), alphas, features, "alpha")
    with pytest.raises(ValueError, match=r"features must have shape \(C, P\)"):
        composite(idx, alphas, features[None], "alpha")
    with pytest.raises(TypeError, match="features must be a tensor, got list"):
        composite(idx, alphas, [1.0], "alpha")
    with pytest.raises(ValueError, match="mode must be one of"):
        composite(idx, alphas, features, "nearest")
    with pytest.raises(ValueError, match="pointsidx has 10 but there are features of 10 points"):
        composite(idx.clamp(min=10), alphas, features[:, :10], "alpha")
