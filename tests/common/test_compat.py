from __future__ import annotations

import torch

from recon_engine.common.compat import meshgrid_ij, prod


def test_meshgrid_varies_output_i_along_dimension_i():
    x, y = torch.arange(3), torch.arange(4)
    for i, j in (meshgrid_ij(x, y), meshgrid_ij([x, y])):
        assert i.tolist() == [[n] * 4 for n in range(3)]
        assert j.tolist() == [[0, 1, 2, 3]] * 3


def test_prod():
    assert prod([2, 3, 4]) == 24
    assert prod([], start=5) == 5
    start = torch.tensor(2.0)
    assert prod([torch.tensor(3.0)], start=start).item() == 6
    assert start.item() == 2
