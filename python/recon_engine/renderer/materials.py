"""How surfaces reflect light."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from recon_engine.common.datatypes import Device

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
        C = self.ambient_color.shape[-1]
        for name in ("ambient_color", "diffuse_color", "specular_color"):
            value = getattr(self, name)
            if value.shape[-1] != C:
                raise ValueError(f"Expected {name} to have shape (N, {C}); got {tuple(value.shape)}")
        if self.shininess.shape != (self._N,):
            raise ValueError(f"shininess should have shape (N); got {tuple(self.shininess.shape)}")

    def clone(self) -> Materials:  # type: ignore[override]
        """A copy with tensors of its own."""
        return super().clone(type(self)(device=self.device))  # type: ignore[return-value]
