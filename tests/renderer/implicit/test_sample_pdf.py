from __future__ import annotations

import pytest
import torch

from recon_engine.renderer.implicit.sample_pdf import sample_pdf, sample_pdf_python

both = pytest.mark.parametrize("sample", [sample_pdf, sample_pdf_python])


@both
@pytest.mark.parametrize("batch", [(), (1, 4), (31,)])
@pytest.mark.parametrize("n_bins", [1, 7, 20])
def test_evenly_spaced_quantiles(sample, batch, n_bins, device):
    """The share of the weight in front of each sample is its quantile."""
    weights = torch.rand(*batch, n_bins, dtype=torch.float64, device=device) + 0.1
    bins = torch.rand(*batch, n_bins + 1, dtype=torch.float64, device=device).cumsum(-1)
    samples = sample(bins, weights, 9, det=True, eps=1e-12)
    assert samples.shape == (*batch, 9)
    start, width = bins[..., None, :-1], bins.diff()[..., None, :]
    share = (((samples[..., None] - start) / width).clamp(0, 1) * weights[..., None, :]).sum(-1)
    quantiles = torch.linspace(0, 1, 9, dtype=torch.float64, device=device).expand(*batch, 9)
    torch.testing.assert_close(share / weights.sum(-1, keepdim=True), quantiles)


def test_both_draw_the_same_numbers(device):
    weights, bins = torch.rand(9, 11, device=device), torch.rand(9, 12, device=device).cumsum(-1)
    samples = []
    for sample in (sample_pdf, sample_pdf_python):
        torch.manual_seed(1)
        samples.append(sample(bins, weights, 17))
    torch.testing.assert_close(*samples, rtol=0, atol=1e-3)


@both
def test_random_samples_have_the_density(sample):
    weights = torch.tensor([1.0, 0.0, 3.0])
    samples = sample(torch.tensor([0.0, 1.0, 5.0, 6.0]), weights, 40000)
    inside = (samples <= 1).float().mean().item(), (samples >= 5).float().mean().item()
    assert inside == pytest.approx((0.25, 0.75), abs=0.02)


@both
def test_a_gap_between_bins(sample):
    samples = sample(torch.tensor([0.0, 10, 10, 25]), torch.tensor([0.0, 10, 0]), 8)
    torch.testing.assert_close(samples, torch.full((8,), 10.0), rtol=0, atol=1e-4)


def test_integer_edges():
    output = sample_pdf_python(torch.arange(2).expand(5, 2) + 17, torch.ones(5, 1), 100, True)
    torch.testing.assert_close(output, torch.linspace(17, 18, 100).expand(5, -1))
    ours = sample_pdf(torch.arange(2).expand(5, 2) + 17, torch.ones(5, 1), 100, True)
    torch.testing.assert_close(ours, output, rtol=1e-5, atol=0)


@both
def test_gradcheck(sample):
    weights = (torch.rand(2, 6, dtype=torch.float64) + 0.2).requires_grad_()
    bins = (torch.rand(2, 7, dtype=torch.float64) + 0.1).cumsum(-1).requires_grad_()

    def seeded(b, w):
        torch.manual_seed(3)
        return sample(b, w, 5)

    assert torch.autograd.gradcheck(seeded, (bins, weights))


@both
def test_nothing_to_do(sample):
    assert sample(torch.rand(3, 5), torch.rand(3, 4), 0).shape == (3, 0)


def test_no_rays():
    assert sample_pdf(torch.rand(0, 5), torch.rand(0, 4), 6).shape == (0, 6)


def test_weightless_rays():
    """PyTorch3D's convention: what eps counts for lies behind the last bin."""
    samples = sample_pdf(torch.arange(4.0), torch.zeros(3), 5, det=True)
    assert samples.tolist() == [0, 3, 3, 3, 3]
    torch.testing.assert_close(
        sample_pdf_python(torch.arange(4.0), torch.zeros(3), 5, det=True), torch.linspace(0, 3, 5)
    )


@both
def test_bad_input(sample):
    with pytest.raises(ValueError, match=r"Negative weights provided: the least is -0\.5"):
        sample(torch.rand(2, 4), torch.tensor([[1, -0.5, 1], [1, 1, 1]]), 3)
    with pytest.raises(ValueError, match=r"Inconsistent shapes of bins and weights: .* got \(2, 4\) and \(2, 4\)"):
        sample(torch.rand(2, 4), torch.rand(2, 4), 3)
    with pytest.raises(ValueError, match="Inconsistent shapes"):
        sample(torch.rand(2, 4), torch.rand(3, 3), 3)
    with pytest.raises(ValueError, match="B >= 1"):
        sample(torch.rand(2, 1), torch.rand(2, 0), 3)
