"""How surfaces reflect light."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from recon_engine.common.datatypes import Device

from .lighting import check_batch_of
from .utils import TensorProperties


class Materials(TensorProperties):
    """Phong reflectances, one material for each mesh of a batch."""

    ambient_color: Tensor
    diffuse_color: Tensor
    specular_color: Tensor
    shininess: Tensor

    def __init__(
        self,
        ambient_color: Any = ((1, 1, 1),),
        diffuse_color: Any = ((1, 1, 1),),
        specular_color: Any = ((1, 1, 1),),
        shininess: Any = 64,
        device: Device = "cpu",
    ) -> None:
        """Store the properties, broadcast to one batch size N.

        Args:
            ambient_color: (N, C) or (1, C) reflectance of ambient light.
            diffuse_color: (N, C) or (1, C) diffuse reflectance.
            specular_color: (N, C) or (1, C) reflectance of highlights.
            shininess: number, (1,) or (N,); larger makes smaller highlights. From 0 to about 1000.
            device: where all tensors are placed.
        """
        super().__init__(
            device=device,
            diffuse_color=diffuse_color,
            ambient_color=ambient_color,
            specular_color=specular_color,
            shininess=shininess,
        )
        check_batch_of(self, None, "ambient_color")
        check_batch_of(self, self.ambient_color.shape[-1], "diffuse_color", "specular_color")
        if not isinstance(self.shininess, Tensor):
            raise ValueError(f"shininess should be a number or have shape (N); got {self.shininess!r}")
        if self.shininess.shape != (self._N,):
            raise ValueError(f"shininess should have shape (N); got {tuple(self.shininess.shape)}")

    def clone(self) -> Materials:  # type: ignore[override]
        """A copy with tensors of its own."""
        return super().clone(self._bare())  # type: ignore[return-value]
