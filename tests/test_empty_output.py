from __future__ import annotations

import gc

import pytest
import torch

from recon_engine._op import _C, empty_output
from recon_engine.ops import rasterize_faces

LARGE = (1 << 20,)  # 4 MiB of float32


@pytest.fixture(autouse=True)
def _nothing_kept():
    _C.set_page_limit(0)
    _C.set_page_limit(256 << 20)


def test_memory_of_a_large_output_is_used_again():
    like = torch.zeros(1)
    address = empty_output(like, LARGE).data_ptr()
    gc.collect()
    assert _C.kept_page_bytes() == 4 << 20
    second = empty_output(like, LARGE)
    assert second.data_ptr() == address
    assert empty_output(like, LARGE).data_ptr() != address
    assert address % (2 << 20) == 0


def test_memory_in_use_is_never_handed_out():
    """Views, numpy arrays and what autograd has saved keep it."""
    x = torch.full(LARGE, 2.0, requires_grad=True)
    output = empty_output(x.detach(), LARGE)
    output.fill_(3.0)
    loss = (x * output).sum()
    view, array = output[5:10], output.numpy()
    del output
    other = empty_output(torch.zeros(1), LARGE)
    other.fill_(7.0)
    assert (view == 3).all()
    assert (array == 3).all()
    assert (torch.autograd.grad(loss, x)[0] == 3).all()


def test_what_exceeds_the_limit_is_freed():
    _C.set_page_limit(6 << 20)
    outputs = [empty_output(torch.zeros(1), LARGE) for _ in range(3)]
    del outputs
    assert _C.kept_page_bytes() == 4 << 20
    _C.set_page_limit(0)
    assert _C.kept_page_bytes() == 0


def test_dtype_shape_and_small_outputs():
    like = torch.zeros(1, dtype=torch.float64)
    large = empty_output(like, (1024, 512), torch.int64)
    assert large.shape == (1024, 512)
    assert large.dtype == torch.int64
    assert large.is_contiguous()
    assert not large._is_view()
    assert empty_output(like, (3, 2)).dtype == torch.float64
    del large
    assert empty_output(like, (0, 5)).shape == (0, 5)


def test_outputs_may_be_changed_in_place():
    """As those of any function: they are no views of something else."""
    verts = torch.tensor([[-0.5, -0.5, 1.0], [0.5, -0.5, 1.0], [0.0, 0.5, 1.0]], requires_grad=True)
    pix_to_face, zbuf, _, _ = rasterize_faces(
        verts, torch.tensor([[0, 1, 2]]), torch.tensor([0]), torch.tensor([1]), image_size=(512, 512), faces_per_pixel=4
    )
    assert zbuf.numel() * 4 >= 2 << 20
    zbuf[pix_to_face < 0] = 0
    zbuf.sum().backward()
    assert verts.grad is not None
    assert verts.grad[:, 2].sum() == (pix_to_face >= 0).sum()
