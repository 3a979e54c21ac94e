"""Records what PyTorch3D 0.7.9 answers for interpolate_face_attributes into interpolation.npz.

Run it with a Python that has PyTorch3D: `python tests/reference/record_interpolation.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from pytorch3d.ops import interpolate_face_attributes

if __name__ == "__main__":
    generator = torch.Generator().manual_seed(0)
    shape, F, D = (2, 9, 7, 4), 11, 5
    pix_to_face = torch.randint(-4, F, shape, generator=generator).clamp(min=-1)
    bary = torch.randn(*shape, 3, generator=generator).requires_grad_()
    attributes = torch.randn(F, 3, D, generator=generator).requires_grad_()
    values = interpolate_face_attributes(pix_to_face, bary, attributes)
    weights = torch.randn(values.shape, generator=generator)
    grad_bary, grad_attributes = torch.autograd.grad((values * weights).sum(), (bary, attributes))
    tensors = {
        "pix_to_face": pix_to_face,
        "bary": bary,
        "attributes": attributes,
        "values": values,
        "weights": weights,
        "grad_bary": grad_bary,
        "grad_attributes": grad_attributes,
    }
    np.savez_compressed(
        Path(__file__).with_name("interpolation.npz"), **{name: t.detach().numpy() for name, t in tensors.items()}
    )
