from __future__ import annotations

import pytest
import torch

from recon_engine.ops._sample_pdf import sample_pdf_at
from recon_engine.testing import assert_matches_reference, values_and_grads


def _inputs(R, B, N, dtype=torch.float32, device="cpu"):
    bins, weights = torch.rand(R, B + 1, dtype=dtype, device=device), torch.rand(R, B, dtype=dtype, device=device)
    return bins.cumsum(1), weights, torch.rand(R, N, dtype=dtype, device=device), 1e-5


@pytest.mark.parametrize("B", [1, 2, 4, 5, 15, 16, 17, 63, 64, 65, 256, 257, 300, 5000])
def test_matches_reference(B, device):
    bins, weights, u, eps = _inputs(3, B, 40, torch.float64, device)
    weights[0, B // 3 :] = 0
    weights[1, ::2] = 0
    u[:, 0], u[:, 1] = 0, 1
    assert_matches_reference(_of_bins_and_weights(u, eps), bins, weights)


def _of_bins_and_weights(u, eps):
    return lambda bins, weights: sample_pdf_at(bins, weights, u, eps)


def test_one_row_of_quantiles_for_all(device):
    bins, weights, u, eps = _inputs(7, 9, 12, torch.float64, device)
    shared = values_and_grads(_of_bins_and_weights(u[:1], eps), bins, weights)
    torch.testing.assert_close(shared, values_and_grads(_of_bins_and_weights(u[:1].expand(7, -1), eps), bins, weights))


def test_quantiles_beyond_0_and_1(device):
    bins = torch.tensor([[0.0, 1.0, 2.0]], device=device)
    u = torch.tensor([[-1.0, 2.0, float("inf"), float("nan")]], device=device)
    samples = sample_pdf_at(bins, torch.ones(1, 2, device=device), u)
    assert samples[0, 1:3].tolist() == [2, 2]
    assert samples.shape == (1, 4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_weights_stay_on_their_ray(bad, device):
    bins, weights, u, eps = _inputs(40, 33, 9, device=device)
    expected = sample_pdf_at(bins, weights, u, eps)
    weights[7, 5] = bad
    samples = sample_pdf_at(bins, weights, u, eps)
    others = torch.arange(40) != 7
    assert torch.equal(samples[others], expected[others])


def test_results_do_not_depend_on_the_threads():
    bins, weights, u, eps = _inputs(999, 65, 33)
    results = []
    before = torch.get_num_threads()
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(values_and_grads(_of_bins_and_weights(u, eps), bins, weights))
    torch.set_num_threads(before)
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=0)


def test_bad_input(device):
    bins, weights, u, eps = _inputs(3, 4, 2, device=device)
    with pytest.raises(ValueError, match="one edge more than there are weights, got 4 edges and 4 weights"):
        sample_pdf_at(bins[:, :4], weights, u, eps)
    with pytest.raises(ValueError, match="at least one bin"):
        sample_pdf_at(bins[:, :1], weights[:, :0], u, eps)
    with pytest.raises(ValueError, match="u must have a row for each ray or one row for all, got 2 rows for 3 rays"):
        sample_pdf_at(bins, weights, u[:2], eps)
