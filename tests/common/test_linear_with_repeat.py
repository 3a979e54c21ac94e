from __future__ import annotations

import pytest
import torch

from recon_engine.common.linear_with_repeat import LinearWithRepeat


@pytest.mark.parametrize("bias", [True, False])
def test_equals_a_linear_layer_on_repeated_features(bias):
    x, y = torch.randn(2, 5, 7, 3, dtype=torch.float64), torch.randn(2, 5, 4, dtype=torch.float64)
    layer = LinearWithRepeat(7, 6, bias=bias, dtype=torch.float64)
    both = torch.cat([x, y[..., None, :].expand(2, 5, 7, 4)], -1)
    torch.testing.assert_close(layer((x, y)), torch.nn.functional.linear(both, layer.weight, layer.bias))
    assert torch.autograd.gradcheck(lambda x, y: layer((x, y)), (x.requires_grad_(), y.requires_grad_()))


def test_same_weights_as_a_linear_layer_and_as_pytorch3d():
    layers = [LinearWithRepeat, torch.nn.Linear]
    try:
        from pytorch3d.common.linear_with_repeat import LinearWithRepeat as Theirs
    except ImportError:
        pass
    else:
        layers.append(Theirs)
    states = []
    for kind in layers:
        torch.manual_seed(1)
        states.append(kind(5, 3).state_dict())
    for state in states[1:]:
        assert state.keys() == states[0].keys()
        for name, value in state.items():
            assert torch.equal(value, states[0][name])


def test_wrong_input():
    with pytest.raises(ValueError, match="7 features together, got 3 and 3"):
        LinearWithRepeat(7, 6)((torch.zeros(2, 3), torch.zeros(3)))
