from __future__ import annotations

import pytest
import torch

from recon_engine.structures import list_to_packed, list_to_padded, packed_to_list, padded_to_list
from recon_engine.structures.utils import padded_to_packed


def ragged(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [torch.randn(n, 3).to(dtype) for n in (4, 0, 2, 5)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_padded_round_trip(dtype):
    x = ragged(dtype)
    padded = list_to_padded(x, pad_value=-1)
    assert padded.shape == (4, 5, 3)
    assert padded.dtype == dtype
    for n, item in enumerate(x):
        assert torch.equal(padded[n, : len(item)], item)
        assert (padded[n, len(item) :] == -1).all()
    for back, item in zip(padded_to_list(padded, [4, 0, 2, 5]), x, strict=True):
        assert torch.equal(back, item)


def test_padded_sizes():
    x = [torch.randn(2, 3), torch.tensor([]), torch.randn(1, 5)]
    assert list_to_padded(x).shape == (3, 2, 5)
    padded = list_to_padded(x, (4, 6), pad_value=7.0)
    assert padded.shape == (3, 4, 6)
    assert (padded[1] == 7).all()
    assert torch.equal(padded_to_list(padded, [(2, 3), (0, 0), (1, 5)])[2], x[2])
    assert list_to_padded([torch.tensor([]), torch.tensor([])]).shape == (2, 0)
    same = [torch.randn(2, 3)] * 2
    assert torch.equal(list_to_padded(same, equisized=True), list_to_padded(same))


def test_pad_size_that_is_too_small():
    with pytest.raises(ValueError, match=r"pad_size must be at least the size of every item: got \(1, 3\)"):
        list_to_padded([torch.zeros(2, 3), torch.zeros(1, 3)], (1, 3))


def test_packed_round_trip():
    x = ragged()
    packed, num_items, first, list_idx = list_to_packed(x)
    assert torch.equal(packed, torch.cat(x))
    assert num_items.tolist() == [4, 0, 2, 5]
    assert first.tolist() == [0, 4, 4, 6]
    assert list_idx.tolist() == [0] * 4 + [2] * 2 + [3] * 5
    for back, item in zip(packed_to_list(packed, [4, 0, 2, 5]), x, strict=True):
        assert torch.equal(back, item)
    assert len(packed_to_list(torch.zeros(6, 2), 3)) == 2


def test_padded_to_packed():
    x = ragged()
    padded = list_to_padded(x)
    assert torch.equal(padded_to_packed(padded, split_size=[4, 0, 2, 5]), torch.cat(x))
    assert torch.equal(padded_to_packed(padded, pad_value=0.0), torch.cat(x))
    assert padded_to_packed(padded).shape == (20, 3)


def test_gradients():
    x = [torch.randn(n, 2, dtype=torch.float64, requires_grad=True) for n in (2, 3)]
    assert torch.autograd.gradcheck(lambda *x: list_to_padded(list(x)), x)
    assert torch.autograd.gradcheck(lambda *x: list_to_packed(list(x))[0], x)
    padded = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: padded_to_packed(p, split_size=[1, 3]), (padded,))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: list_to_padded([]), "at least one tensor"),
        (lambda: list_to_padded([1.0]), "instances of a torch.Tensor"),
        (lambda: list_to_padded([torch.zeros(2, 3), torch.zeros(2)]), "same number of dimensions"),
        (lambda: list_to_padded([torch.zeros(2, 3)], (4,)), "Pad size must"),
        (lambda: padded_to_list(torch.zeros(2, 3), [1]), "same length"),
        (lambda: list_to_packed([]), "Input list is empty"),
        (lambda: padded_to_packed(torch.zeros(2, 3)), "Supports only"),
        (lambda: padded_to_packed(torch.zeros(2, 3, 1), split_size=[1, 2], pad_value=0), "Only one of"),
        (lambda: padded_to_packed(torch.zeros(2, 3, 1), split_size=[1]), "same length as inputs first dimension"),
        (lambda: padded_to_packed(torch.zeros(2, 3, 1), split_size=[[1, 2], [1, 2]]), "1-dimensional"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
