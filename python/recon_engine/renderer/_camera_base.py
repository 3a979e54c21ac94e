"""What all cameras share: extrinsics, the chain of transforms, indexing; and helpers to build calibration matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recon_engine._precision import full_precision
from recon_engine.transforms import Transform3d

from ._screen import get_ndc_to_screen_transform, get_screen_to_ndc_transform
from ._views import check_extrinsics, get_world_to_view_transform
from .utils import TensorProperties


class CamerasBase(TensorProperties):
    """What all cameras share: extrinsics R, T and the chain world -> view -> projection -> NDC -> screen.

    A camera model derives from this class and defines `get_projection_transform`, `unproject_points`, `is_perspective`
    and `in_ndc`. Keyword arguments of the methods override the stored parameters; R and T given that way are stored.
    """

    _FIELDS: tuple[str, ...] = ()
    """Attributes that `__getitem__` and `join_cameras_as_batch` carry over."""

    _SHARED_FIELDS: tuple[str, ...] = ()
    """Those of `_FIELDS` that are one value for the whole batch."""

    R: Tensor
    T: Tensor

    def get_projection_transform(self, **kwargs: Any) -> Transform3d:
        """Transform from view space to the space the camera is defined in (NDC or screen)."""
        raise NotImplementedError(f"{type(self).__name__} defines no projection transform")

    def unproject_points(self, xy_depth: Tensor, **kwargs: Any) -> Tensor:
        """Map (x, y, depth) from the camera's space back to the world, or to view space.

        Args:
            xy_depth: (P, 3) or (N, P, 3) positions in NDC or screen space and depths along the view axis.
            kwargs: `world_coordinates` (default True) and `from_ndc` (default False), and camera parameters.

        Returns:
            points of the same shape.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no unprojection")

    def is_perspective(self) -> bool:
        """Whether rays meet in one point."""
        raise NotImplementedError(f"{type(self).__name__} does not say whether it is a perspective camera")

    def in_ndc(self) -> bool:
        """Whether the camera is defined in NDC and not in screen space."""
        raise NotImplementedError(f"{type(self).__name__} does not say whether it is defined in NDC")

    def get_znear(self) -> Any:
        """The near plane, or None for cameras without one."""
        return getattr(self, "znear", None)

    def get_image_size(self) -> Any:
        """The (height, width) of the images, or None."""
        return getattr(self, "image_size", None)

    def _extrinsics(self, kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """R (N, 3, 3) and T (N, 3), in one dtype: those in `kwargs`, which are stored, or the stored ones."""
        if "R" in kwargs:
            self.R = kwargs["R"]
        if "T" in kwargs:
            self.T = kwargs["T"]
        check_extrinsics(self.R, self.T)
        dtype = self._dtype()
        return self.R.to(dtype), self.T.to(dtype)

    def get_world_to_view_transform(self, **kwargs: Any) -> Transform3d:
        """Transform from world to view space, x_view = x_world R + T."""
        R, T = self._extrinsics(kwargs)
        return get_world_to_view_transform(R=R, T=T)

    @full_precision
    def get_camera_center(self, **kwargs: Any) -> Tensor:
        """The optical centres in world coordinates, (N, 3)."""
        if type(self).get_world_to_view_transform is not CamerasBase.get_world_to_view_transform:
            return self.get_world_to_view_transform(**kwargs).inverse().get_matrix()[:, 3, :3]
        R, T = self._extrinsics(kwargs)
        # x_view = 0 at x_world = -T R^T, as the inverse of a rotation is its transpose.
        return -(R @ T[:, :, None])[:, :, 0]

    def get_full_projection_transform(self, **kwargs: Any) -> Transform3d:
        """Transform from the world to the space the camera is defined in."""
        R, T = self._extrinsics(kwargs)
        return self.get_world_to_view_transform(R=R, T=T).compose(self.get_projection_transform(**kwargs))

    def get_ndc_camera_transform(self, **kwargs: Any) -> Transform3d:
        """Transform from the space the camera is defined in to NDC; the identity for cameras in NDC."""
        if self.in_ndc():
            return Transform3d(dtype=self._dtype(), device=self.device)
        image_size = kwargs.get("image_size", self.get_image_size())
        return get_screen_to_ndc_transform(self, with_xyflip=False, image_size=image_size)

    def transform_points(self, points: Tensor, eps: float | None = None, **kwargs: Any) -> Tensor:
        """Project world points to the space the camera is defined in.

        Args:
            points: (P, 3) or (N, P, 3).
            eps: lower bound of the absolute value of the homogeneous divisor; keeps gradients finite near the camera.
            kwargs: camera parameters that override the stored ones.
        """
        return self.get_full_projection_transform(**kwargs).transform_points(points, eps=eps)

    def transform_points_ndc(self, points: Tensor, eps: float | None = None, **kwargs: Any) -> Tensor:
        """Project world points to NDC; arguments as in `transform_points`."""
        transform = self.get_full_projection_transform(**kwargs)
        if not self.in_ndc():
            transform = transform.compose(self.get_ndc_camera_transform(**kwargs))
        return transform.transform_points(points, eps=eps)

    def transform_points_screen(
        self, points: Tensor, eps: float | None = None, with_xyflip: bool = True, **kwargs: Any
    ) -> Tensor:
        """Project world points to pixels.

        Args:
            points: (P, 3) or (N, P, 3).
            eps: as in `transform_points`.
            with_xyflip: whether +X points right and +Y down from the top left corner, as in pictures.
            kwargs: `image_size` (height, width) where the camera has none, and camera parameters.
        """
        points_ndc = self.transform_points_ndc(points, eps=eps, **kwargs)
        image_size = kwargs.get("image_size", self.get_image_size())
        to_screen = get_ndc_to_screen_transform(self, with_xyflip=with_xyflip, image_size=image_size)
        return to_screen.transform_points(points_ndc, eps=eps)

    def clone(self) -> CamerasBase:  # type: ignore[override]
        """A copy with tensors of its own, through which gradients flow."""
        return super().clone(self._bare())  # type: ignore[return-value]

    def __getitem__(self, index: int | list[int] | Tensor) -> CamerasBase:  # type: ignore[override]
        """Cameras at `index`: an int, a list of ints, or an int64 or boolean tensor."""
        rows = self._index_rows(index)
        kwargs: dict[str, Any] = {"device": self.device}
        for field in self._FIELDS:
            value = getattr(self, field, None)
            if value is None:
                continue
            if isinstance(value, Tensor):
                kwargs[field.removeprefix("_")] = value[rows]
            elif isinstance(value, (str, bool)):
                kwargs[field.removeprefix("_")] = value
            else:
                raise ValueError(f"Field {field} of type {type(value)!r} is not supported for indexing")
        return type(self)(**kwargs)

    def _index_rows(self, index: int | list[int] | Tensor) -> list[int] | Tensor:
        rows: list[int] | Tensor
        if isinstance(index, Tensor) and index.dtype == torch.bool:
            if index.shape != (len(self),):
                raise ValueError(f"Boolean index of shape {tuple(index.shape)} does not match cameras, {len(self)}")
            return index
        if isinstance(index, Tensor) and index.dtype == torch.int64:
            rows, highest = index.reshape(-1), int(index.max()) if index.numel() else -1
        elif isinstance(index, int) or (
            isinstance(index, list) and all(isinstance(i, int) and not isinstance(i, bool) for i in index)
        ):
            rows = [index] if isinstance(index, int) else index
            highest = max(rows, default=-1)
        else:
            raise ValueError(f"Invalid index type, expected int, List[int] or Bool/LongTensor; got {type(index)!r}")
        if highest >= len(self):
            raise IndexError(f"Index {highest} is out of bounds for {len(self)} cameras")
        return rows

    def _dtype(self) -> torch.dtype:
        """The wider one of R and T: matrices of NumPy are float64."""
        dtype = None
        for a in (getattr(self, "R", None), getattr(self, "T", None)):
            if isinstance(a, Tensor) and a.is_floating_point():
                dtype = a.dtype if dtype is None else torch.promote_types(dtype, a.dtype)
        return dtype or torch.float32

    def _calibration(self, kwargs: dict[str, Any]) -> Tensor | None:
        """The calibration matrix K (N, 4, 4) given by the user, or None."""
        K = kwargs.get("K", getattr(self, "K", None))
        if K is not None and K.shape != (self._N, 4, 4):
            raise ValueError(f"Expected K to have shape of ({self._N}, 4, 4); got {tuple(K.shape)}")
        return K

    def _floats(self, *values: Any) -> list[Tensor]:
        """Parameters as tensors (N,) or (1,) of the camera's dtype, promoted where one of them is wider."""
        dtype = self._dtype()
        tensors = [v if isinstance(v, Tensor) else torch.tensor(v, dtype=dtype, device=self.device) for v in values]
        return [v if v.dtype == dtype else v.to(torch.promote_types(dtype, v.dtype)) for v in tensors]


def stack_matrix(entries: Sequence[Tensor | float], N: int) -> Tensor:
    """Stack 16 numbers or tensors (N,), (1,) or () row by row into (N, 4, 4)."""
    like = next(entry for entry in entries if isinstance(entry, Tensor))
    constants = {e: like.new_full((N,), e) for e in {e for e in entries if isinstance(e, float)}}
    columns = [constants[e] if isinstance(e, float) else e if e.shape == (N,) else e.expand(N) for e in entries]
    return torch.stack(columns, dim=-1).view(N, 4, 4)


def from_calibration(K: Tensor) -> Transform3d:
    """The transform of row vectors for a K that multiplies column vectors."""
    return Transform3d(matrix=K.transpose(1, 2))


def per_camera(value: Tensor, points: Tensor) -> Tensor:
    """Reshape (N,) to (N, 1, 1), or to (1, 1) for a single camera and points without a batch dimension."""
    return value.view(-1, *([1] * (points.dim() - 1 if value.shape[0] == 1 else 2)))


def with_depth(xy_depth: Tensor, depth: Tensor) -> Tensor:
    """Replace the third coordinate of (P, 3) or (N, P, 3) points, adding the batch dimension of `depth`."""
    xy = xy_depth[..., :2].expand(*depth.shape[:-1], 2)
    return torch.cat((xy, depth), dim=-1)
