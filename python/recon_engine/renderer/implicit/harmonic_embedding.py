"""Positional encoding by sines and cosines."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class HarmonicEmbedding(torch.nn.Module):
    """Numbers as sines and cosines of them at several frequencies.

    For an input (..., D) the output holds, in this order, `sin(f_k x_d)` for every d and k, k fastest, then
    `cos(f_k x_d)` in the same order, then x itself where `append_input` is set. With the variances of a Gaussian around
    x given, sines and cosines are multiplied by `exp(-f_k^2 var_d / 2)`, which gives their expected values.

    Args:
        n_harmonic_functions: how many frequencies.
        omega_0: what all of them are multiplied by.
        logspace: frequencies 1, 2, 4, ... 2^(n-1); evenly spaced between the first and the last of these otherwise.
        append_input: whether the input itself is part of the output.

    References:
        Mildenhall et al., NeRF, ECCV 2020, equation 4; Barron et al., Mip-NeRF, ICCV 2021, equation 14.
    """

    _frequencies: Tensor

    def __init__(
        self,
        n_harmonic_functions: int = 6,
        omega_0: float = 1.0,
        logspace: bool = True,
        append_input: bool = True,
    ) -> None:
        super().__init__()
        if logspace:
            frequencies = 2.0 ** torch.arange(n_harmonic_functions, dtype=torch.float32)
        else:
            highest = 2.0 ** (n_harmonic_functions - 1)
            frequencies = torch.linspace(1.0, highest, n_harmonic_functions, dtype=torch.float32)
        self.register_buffer("_frequencies", frequencies * omega_0, persistent=False)
        self.append_input = append_input

    def forward(self, x: Tensor, diag_cov: Tensor | None = None, **kwargs: Any) -> Tensor:
        """The encoding of `x`.

        Args:
            x: (..., D).
            diag_cov: (..., D) variances around `x`; none: `x` is exact.
            **kwargs: ignored.

        Returns:
            (..., D (2 n + 1)), or (..., 2 D n) without the input. Differentiable.
        """
        phase = x[..., None] * self._frequencies
        waves = torch.stack([phase.sin(), phase.cos()], dim=-3)
        if diag_cov is not None:
            waves = waves * torch.exp(-0.5 * diag_cov[..., None] * self._frequencies**2)[..., None, :, :]
        waves = waves.flatten(start_dim=-3)
        return torch.cat([waves, x], dim=-1) if self.append_input else waves

    @staticmethod
    def get_output_dim_static(input_dims: int, n_harmonic_functions: int, append_input: bool) -> int:
        """The last dimension of the output.

        Args:
            input_dims: the last dimension of the input.
            n_harmonic_functions: how many frequencies.
            append_input: whether the input itself is part of the output.
        """
        return input_dims * (2 * n_harmonic_functions + int(append_input))

    def get_output_dim(self, input_dims: int = 3) -> int:
        """The last dimension of the output for inputs of `input_dims` numbers."""
        return self.get_output_dim_static(input_dims, len(self._frequencies), self.append_input)
