from __future__ import annotations

import pytest
import torch

from recon_engine.ops import packed_to_padded, padded_to_packed

FIRST = [0, 3, 3, 4]  # the second element has no rows
SIZES = [3, 0, 1, 2]


def _packed(shape, dtype, device):
    return (torch.arange(6 * shape.numel(), device=device).reshape(6, *shape) + 1).to(dtype)


@pytest.mark.parametrize("shape", [(), (2,), (2, 3), (0,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.int64])
@pytest.mark.parametrize("max_size", [3, 5])
def test_there_and_back(shape, dtype, max_size, device):
    packed, first = _packed(torch.Size(shape), dtype, device), torch.tensor(FIRST, device=device)
    padded = packed_to_padded(packed, first, max_size)
    assert padded.dtype == dtype
    assert padded.shape == (4, max_size, *shape)
    for n, (begin, size) in enumerate(zip(FIRST, SIZES)):
        assert (padded[n, :size] == packed[begin : begin + size]).all()
        assert (padded[n, size:] == 0).all()
    assert (padded_to_packed(padded, first, 6) == packed).all()


def test_rows_along_another_dimension(device):
    packed, first = _packed(torch.Size((2, 4)), torch.float32, device), torch.tensor(FIRST, device=device)
    padded = packed_to_padded(packed, first, 3)
    assert (padded_to_packed(padded.movedim(1, 3), first, 6, max_size_dim=3) == packed).all()


def test_rows_beyond_the_size_are_left_out(device):
    packed, first = _packed(torch.Size((2,)), torch.float32, device), torch.tensor(FIRST, device=device)
    padded = packed_to_padded(packed, first, 2)
    assert (padded[0] == packed[:2]).all()
    back = padded_to_packed(padded, first, 6)
    assert (back[2] == 0).all()
    assert (back[[0, 1, 3, 4, 5]] == packed[[0, 1, 3, 4, 5]]).all()


def test_gradcheck(device):
    first = torch.tensor(FIRST, device=device)
    packed = torch.randn(6, 2, dtype=torch.float64, device=device, requires_grad=True)
    padded = torch.randn(4, 3, 2, dtype=torch.float64, device=device, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: packed_to_padded(p, first, 4), packed)
    assert torch.autograd.gradcheck(lambda p: padded_to_packed(p, first, 6), padded)


def test_empty(device):
    first = torch.zeros(2, dtype=torch.int64, device=device)
    assert (packed_to_padded(torch.zeros(0, 3, device=device), first, 2) == torch.zeros(2, 2, 3, device=device)).all()
    assert padded_to_packed(torch.zeros(2, 0, 3, device=device), first, 0).shape == (0, 3)
    assert packed_to_padded(torch.zeros(4, device=device), first[:0], 2).shape == (0, 2)


def test_bad_input(device):
    packed, first = torch.zeros(6, 2, device=device), torch.tensor(FIRST, device=device)
    with pytest.raises(ValueError, match="first_idxs can only be 1-dimensional"):
        packed_to_padded(packed, first[None], 3)
    with pytest.raises(ValueError, match=r"first_idxs has to be of type torch\.int64"):
        packed_to_padded(packed, first.int(), 3)
    with pytest.raises(ValueError, match="max_size has to be int"):
        packed_to_padded(packed, first, 3.0)
    with pytest.raises(ValueError, match="num_inputs has to be int"):
        padded_to_packed(packed[None], first[:1], torch.tensor(3))
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        padded_to_packed(packed[0], first, 3)
    with pytest.raises(ValueError, match="one entry for each of the 1 elements"):
        padded_to_packed(packed[None], first, 3)
