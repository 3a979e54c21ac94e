from __future__ import annotations

import pytest
import torch

from recon_engine.common import Device, get_device, make_device


def test_make_device():
    assert make_device("cpu") == torch.device("cpu")
    assert make_device(torch.device("meta")) == torch.device("meta")
    assert make_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(TypeError, match=r"must be a str or torch\.device, got int"):
        make_device(0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gets_an_index():
    assert make_device("cuda") == torch.zeros(1, device="cuda").device


def test_get_device():
    x = torch.zeros(1, device="meta")
    assert get_device(x) == x.device
    assert get_device(x, "cpu") == torch.device("cpu")
    assert get_device([1.0]) == torch.device("cpu")
    assert set(Device.__args__) == {str, torch.device}


def test_live_pytorch3d():
    theirs = pytest.importorskip("pytorch3d.common")
    assert set(theirs.__all__) <= set(__import__("recon_engine.common", fromlist=["x"]).__all__) | {"annotations"}
    for device in ("cpu", torch.device("meta"), "cuda:0"):
        assert make_device(device) == theirs.make_device(device)
