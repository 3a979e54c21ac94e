from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recon_engine.renderer.utils import (
    TensorProperties,
    convert_to_tensors_and_broadcast,
    format_tensor,
    ndc_grid_sample,
    ndc_to_grid_sample_coords,
    parse_image_size,
)


class Properties(TensorProperties):
    def __init__(self, x=1.0, y=((0.0, 0.0),), name="n", device="cpu"):
        super().__init__(device=device, x=x, y=y, name=name)

    def clone(self):
        return super().clone(type(self)(device=self.device))


def test_broadcast():
    properties = Properties(x=2, y=torch.arange(6.0).view(3, 2))
    assert len(properties) == 3
    assert properties.x.tolist() == [2.0, 2.0, 2.0]
    assert properties.name == "n"
    assert not properties.isempty()
    assert Properties(x=torch.zeros(0), y=((1.0, 2.0),)).isempty()


def test_broadcast_keeps_float64_and_reads_arrays():
    x, y = convert_to_tensors_and_broadcast(torch.zeros(2, dtype=torch.float64), np.ones((1, 3)))
    assert x.dtype == torch.float64
    assert y.dtype == torch.float32
    assert y.shape == (2, 3)
    assert format_tensor(3).shape == (1,)


def test_broadcast_error():
    with pytest.raises(ValueError, match=r"Got non-broadcastable sizes \[2, 3\]"):
        Properties(x=torch.zeros(2), y=torch.zeros(3, 2))


def test_unknown_property_type_warns():
    with pytest.warns(UserWarning, match="Arg x with type .* is not broadcastable"):
        Properties(x={1: 2})


def test_accessor_reads_and_writes_one_element():
    properties = Properties(x=(1.0, 2.0), y=((5.0, 6.0),))
    properties[0].x = 7.0
    properties[1].y = (8.0, 9.0)
    assert properties.x.tolist() == [7.0, 2.0]
    assert properties.y.tolist() == [[5.0, 6.0], [8.0, 9.0]]
    assert properties[1].x == 2.0
    assert properties[:].x.shape == (2,)


def test_accessor_errors():
    properties = Properties()
    with pytest.raises(AttributeError, match="Attribute z not found on Properties"):
        _ = properties[0].z
    with pytest.raises(AttributeError, match="Can only set values on attributes which are tensors"):
        properties[0].name = "other"
    with pytest.raises(ValueError, match="Expected value to have shape"):
        properties[:].y = torch.zeros(1, 3)
    with pytest.raises(ValueError, match="Expected index of type int or slice"):
        properties["0"]


def test_clone_is_independent_and_differentiable():
    x = torch.ones(2, requires_grad=True)
    properties = Properties(x=x)
    copy = properties.clone()
    copy.x.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0]
    copy[0].y = (3.0, 3.0)
    assert properties.y.abs().max() == 0.0


def test_to_moves_parameters_and_tensors(device):
    properties = Properties(x=(1.0, 2.0))
    properties.y = torch.nn.Parameter(torch.zeros(2, 2))
    assert properties.to(device) is properties
    assert properties.x.device.type == properties.y.device.type == properties.device.type == device.type
    assert isinstance(properties.y, torch.nn.Parameter)


def test_gather_props():
    index = torch.tensor([1, 0, 1])
    properties = Properties(x=(1.0, 2.0), y=((3.0, 4.0), (5.0, 6.0)))
    assert properties.gather_props(index) is properties
    assert properties.x.tolist() == [2.0, 1.0, 2.0]
    assert properties.y.tolist() == [[5.0, 6.0], [3.0, 4.0], [5.0, 6.0]]
    single = Properties(x=1.0).gather_props(index)
    assert single.x.shape == (1,)
    with pytest.raises(ValueError, match="batch_idx cannot have more dimensions than x"):
        Properties(x=(1.0, 2.0)).gather_props(index[:, None])


@pytest.mark.parametrize("size", [(4, 4), (3, 7), (8, 2)])
def test_ndc_grid_sample_hits_pixel_centers(size):
    H, W = size
    image = torch.rand(2, 3, H, W)
    short = min(H, W)
    y, x = torch.meshgrid((H - 1 - 2 * torch.arange(H)) / short, (W - 1 - 2 * torch.arange(W)) / short, indexing="ij")
    grid = torch.stack((x, y), dim=-1).expand(2, H, W, 2)
    torch.testing.assert_close(ndc_grid_sample(image, grid), image)
    expected = F.grid_sample(image, ndc_to_grid_sample_coords(grid, size), align_corners=False)
    torch.testing.assert_close(expected, image)


def test_ndc_grid_sample_errors():
    with pytest.raises(ValueError, match="same batch size"):
        ndc_grid_sample(torch.zeros(1, 3, 2, 2), torch.zeros(2, 4, 2))
    with pytest.raises(ValueError, match="4-dimensional"):
        ndc_grid_sample(torch.zeros(1, 2, 2), torch.zeros(1, 4, 2))
    with pytest.raises(ValueError, match="last dimension of 'grid_ndc'"):
        ndc_grid_sample(torch.zeros(1, 3, 2, 2), torch.zeros(1, 4, 3))
    with pytest.raises(ValueError, match="2-tuple of positive integers"):
        ndc_to_grid_sample_coords(torch.zeros(1, 2), (0, 2))


def test_parse_image_size():
    assert parse_image_size(5) == (5, 5)
    assert parse_image_size([4, np.int64(6)]) == (4, 6)
    for bad, message in (((1, 2, 3), "tuple/list"), ((0, 4), "greater than 0"), (-1, "greater"), (2.5, "integers")):
        with pytest.raises(ValueError, match=message):
            parse_image_size(bad)
