from __future__ import annotations

import pytest
import torch

from recon_engine.common.workaround import _safe_det_3x3, symeig3x3
from recon_engine.transforms import random_rotations


def symmetric(eigenvalues: torch.Tensor) -> torch.Tensor:
    """Symmetric matrices (N, 3, 3) with the eigenvalues (N, 3) and random eigenvectors."""
    Q = random_rotations(len(eigenvalues), dtype=eigenvalues.dtype)
    A = Q @ torch.diag_embed(eigenvalues) @ Q.transpose(1, 2)
    return 0.5 * (A + A.transpose(1, 2))


SPECTRA = {
    "random": lambda: torch.randn(200, 3),
    "one pair": lambda: torch.tensor([[1.0, 1, 3], [1, 3, 3], [-2, -2, 0], [0, 0, 5]]).repeat(20, 1),
    "almost a pair": lambda: torch.tensor([[1.0, 1 + 1e-5, 3], [1, 3, 3 + 1e-6]]).repeat(20, 1),
    "rank one": lambda: torch.tensor([[0.0, 0, 1]]).repeat(20, 1),
    "tiny": lambda: 1e-12 * torch.randn(50, 3),
    "huge": lambda: 1e12 * torch.randn(50, 3),
    "all equal": lambda: torch.tensor([[2.0, 2, 2], [0, 0, 0], [-1, -1, -1]]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", list(SPECTRA))
def test_matches_eigh(name, dtype, device):
    A = symmetric(SPECTRA[name]().to(dtype)).to(device)
    values, vectors = symeig3x3(A)
    scale = A.abs().amax((1, 2)).clamp(min=torch.finfo(dtype).tiny)
    tolerance = 3e-6 if dtype == torch.float32 else 1e-14 * 10
    expected = torch.linalg.eigvalsh(A)
    assert ((values - expected) / scale[:, None]).abs().max() < tolerance
    identity = torch.eye(3, dtype=dtype, device=device).expand_as(A)
    torch.testing.assert_close(vectors.transpose(1, 2) @ vectors, identity, atol=tolerance, rtol=0)
    residual = (A @ vectors - vectors * values[:, None]) / scale[:, None, None]
    assert residual.abs().max() < tolerance


def test_diagonal_matrices():
    diagonals = torch.tensor([[3.0, 1, 2], [1, 1, 2], [0, 0, 0], [5, -5, 0], [1, 2, 2]])
    values, vectors = symeig3x3(torch.diag_embed(diagonals))
    torch.testing.assert_close(values, diagonals.sort(1).values)
    torch.testing.assert_close(
        vectors @ torch.diag_embed(values) @ vectors.transpose(1, 2), torch.diag_embed(diagonals)
    )


def test_values_only_and_batches():
    A = symmetric(torch.randn(6, 3)).reshape(2, 3, 3, 3)
    values, none = symeig3x3(A, eigenvectors=False)
    assert none is None
    torch.testing.assert_close(values, symeig3x3(A)[0])
    assert symeig3x3(A[:0])[1].shape == (0, 3, 3, 3)


def test_gradcheck():
    A = symmetric(torch.tensor([[-1.0, 0.5, 2.0], [0.1, 1.5, 2.0]], dtype=torch.float64)).requires_grad_()

    def of_symmetric_part(A):
        values, vectors = symeig3x3(0.5 * (A + A.transpose(1, 2)))
        return values, vectors * vectors  # without the free sign

    assert torch.autograd.gradcheck(of_symmetric_part, (A,))


@pytest.mark.parametrize("name", ["one pair", "rank one", "all equal"])
def test_gradients_of_values_are_finite_and_sum_to_the_identity(name):
    A = symmetric(SPECTRA[name]().double()).requires_grad_()
    (gradient,) = torch.autograd.grad(symeig3x3(A)[0].sum(), A)
    torch.testing.assert_close(gradient, torch.eye(3, dtype=torch.float64).expand_as(A), atol=1e-7, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [name for name in SPECTRA if name not in ("tiny", "huge")])
def test_gradients_of_vectors_are_finite(name, dtype):
    A = symmetric(SPECTRA[name]().to(dtype)).requires_grad_()
    values, vectors = symeig3x3(A)
    weights = torch.linspace(-1, 1, 9, dtype=dtype).reshape(3, 3)
    (gradient,) = torch.autograd.grad((vectors * weights).sum() + values.sum(), A)
    assert gradient.isfinite().all()


def test_vectors_that_are_arbitrary_have_no_gradient():
    A = torch.diag_embed(torch.tensor([[1.0, 1, 3], [2, 5, 5], [0, 0, 0], [4, 4, 4]])).requires_grad_()
    vectors = symeig3x3(A)[1]
    plane = torch.stack((vectors[0, :, :2], vectors[1, :, 1:], vectors[2, :, 1:], vectors[3, :, 1:]))
    # The rotation inside of the plane is what has none; as the plane turns, its vectors turn with it.
    spin = (plane[..., 0].detach() * plane[..., 1]).sum() - (plane[..., 1].detach() * plane[..., 0]).sum()
    (gradient,) = torch.autograd.grad(spin, A)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("eigenvalues", [(1.0, 1.0, 3.0), (-2.0, 4.0, 4.0)])
def test_gradcheck_of_the_vector_beside_a_pair(eigenvalues):
    """The single eigenvector is unique where the other two eigenvalues coincide, and so is its gradient."""
    A = symmetric(torch.tensor([eigenvalues] * 3, dtype=torch.float64)).requires_grad_()
    own = 2 if eigenvalues[0] == eigenvalues[1] else 0

    def projection(A):
        vector = symeig3x3(0.5 * (A + A.mT))[1][..., own]
        return vector[..., :, None] * vector[..., None, :]

    assert torch.autograd.gradcheck(projection, (A,))


def test_live_pytorch3d():
    theirs = pytest.importorskip("pytorch3d.common.workaround")
    A = symmetric(torch.randn(50, 3))
    ours, other = symeig3x3(A), theirs.symeig3x3(A)
    torch.testing.assert_close(ours[0], other[0], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close((ours[1] * other[1]).sum(1).abs(), torch.ones(50, 3), atol=1e-2, rtol=0)
    torch.testing.assert_close(_safe_det_3x3(A), theirs._safe_det_3x3(A), atol=1e-5, rtol=1e-5)


def test_determinant():
    A = torch.randn(4, 5, 3, 3, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(_safe_det_3x3(A), torch.linalg.det(A))
    assert torch.autograd.gradcheck(_safe_det_3x3, (A[:1, :2].detach().requires_grad_(),))


def test_wrong_shape():
    with pytest.raises(ValueError, match=r"\(\.\.\., 3, 3\)"):
        symeig3x3(torch.eye(4))
