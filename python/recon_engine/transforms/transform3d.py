"""Batches of 4x4 transforms of points and normals, composed lazily.

Convention: points are row vectors, `[p, 1] @ M`, so that the rotation of a matrix is the transpose of the one that acts
on columns, the translation is its last row, and `a.compose(b)` applies `a` first.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._compile import can_look, is_traced
from .._precision import without_autocast
from ..common.datatypes import Device, get_device, make_device
from ..common.workaround import _safe_det_3x3
from .rotation_conversions import _axis_angle_rotation
from .se3 import se3_log_map

Index = int | slice | Sequence[int] | Tensor


class Transform3d:
    """A batch of N projective transforms of 3D space.

    `compose`, `translate`, `scale`, `rotate` and `rotate_axis_angle` return new objects that remember their parts; the
    product is computed when it is needed. `inverse` inverts part by part, with closed forms for rotations, translations
    and scalings. A batch of one is broadcast against any other.

    Args:
        dtype: of the identity that is made without `matrix`.
        device: of the identity that is made without `matrix`.
        matrix: (4, 4) or (N, 4, 4) matrices for row vectors; they bring their own dtype and device.

    Raises:
        ValueError: when `matrix` has another shape.

    Differentiable in the matrices, in the parameters of the parts and in the points.

    Example:
        >>> t = Transform3d().scale(2.0).translate(1.0, 0.0, 0.0)
        >>> t.transform_points(torch.ones(1, 3))
        tensor([[3., 2., 2.]])
    """

    def __init__(
        self,
        dtype: torch.dtype = torch.float32,
        device: Device = "cpu",
        matrix: Tensor | None = None,
    ) -> None:
        if matrix is None:
            self._set(torch.eye(4, dtype=dtype, device=make_device(device))[None], is_affine=True)
            return
        if matrix.ndim not in (2, 3):
            raise ValueError(f'"matrix" has to be a 2- or a 3-dimensional tensor, got shape {tuple(matrix.shape)}.')
        if matrix.shape[-2:] != (4, 4):
            raise ValueError(
                f'"matrix" has to be a tensor of shape (minibatch, 4, 4) or (4, 4), got {tuple(matrix.shape)}.'
            )
        self._set(matrix if matrix.ndim == 3 else matrix[None])

    def _set(self, matrix: Tensor, is_affine: bool = False, form: type[Transform3d] | None = None) -> None:
        self._first_matrix = matrix
        # Whether the last column is known to be (0, 0, 0, 1): transformed points then need no division.
        self._is_affine = is_affine
        # The class whose closed inverse holds for `_matrix`.
        self._form = form or Transform3d
        self._transforms: list[Transform3d] = []  # applied after `_matrix`, in this order
        self.device = matrix.device
        self.dtype = matrix.dtype

    @property
    def _matrix(self) -> Tensor:
        """The matrices (N, 4, 4) of the first part. Assigning others forgets what was known of their form."""
        return self._first_matrix

    @_matrix.setter
    def _matrix(self, matrix: Tensor) -> None:
        self._first_matrix = matrix
        self._is_affine = False
        self._form = Transform3d

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes what was pickled by this class, or by PyTorch3D's, which knows the form of a matrix by its class."""
        state = dict(state)
        if "_matrix" in state:
            form = next(kind for kind in type(self).__mro__ if "_inverse_of" in vars(kind))
            self._set(state.pop("_matrix"), is_affine=form is not Transform3d, form=form)
            state.pop("_lu", None)
        self.__dict__.update(state)

    @staticmethod
    def _of(form: type[Transform3d], matrix: Tensor, is_affine: bool) -> Transform3d:
        """A transform of class `form` for matrices that have its form."""
        new = object.__new__(form)
        new._set(matrix, is_affine, form)
        return new

    @staticmethod
    def _inverse_of(matrix: Tensor) -> Tensor:
        """The inverses of matrices of the form that this class stands for."""
        return _inverse(matrix)

    def __len__(self) -> int:
        sizes = {len(self._matrix), *(len(t) for t in self._transforms)} - {1}
        if len(sizes) > 1:
            return len(self._product())  # raises the error that names the shapes
        return sizes.pop() if sizes else 1

    def __getitem__(self, index: Index) -> Transform3d:
        """The selected transforms.

        Args:
            index: an integer, a slice, a list of integers, or a tensor of integers or bools.
        """
        if isinstance(index, int):
            index = [index]
        form = Transform3d if self._transforms else self._form
        return self._of(form, self._product()[index], self._is_affine_product())

    def compose(self, *others: Transform3d) -> Transform3d:
        """This transform followed by the others.

        Args:
            *others: transforms of the same number, or one.

        Raises:
            ValueError: when one of them is not a `Transform3d`.
        """
        for other in others:
            if not isinstance(other, Transform3d):
                raise ValueError(f"Only possible to compose Transform3d objects; got {type(other)}")
        new = object.__new__(Transform3d)
        new._set(self._matrix, self._is_affine, self._form)
        new._transforms = [*self._transforms, *others]
        return new

    def _is_affine_product(self) -> bool:
        return self._is_affine and all(t._is_affine_product() for t in self._transforms)

    def _product(self) -> Tensor:
        """The composed matrices (N, 4, 4). Not to be changed in place."""
        product = self._matrix
        for other in self._transforms:
            product = _broadcast_bmm(product, other._product())
        return product

    def get_matrix(self) -> Tensor:
        """The composed matrices for row vectors, (N, 4, 4), in new memory."""
        return self._product() if self._transforms else self._matrix.clone(memory_format=torch.contiguous_format)

    def get_se3_log(self, eps: float = 1e-4, cos_bound: float = 1e-4) -> Tensor:
        """The logarithms of rigid motions, (N, 6); see `se3_log_map`.

        Args:
            eps: accepted and not needed.
            cos_bound: accepted and not needed.

        Raises:
            ValueError: when the last column is not (0, 0, 0, 1).
        """
        return se3_log_map(self._product(), eps, cos_bound)

    def _get_matrix_inverse(self) -> Tensor:
        """The inverse of `_matrix`."""
        return self._form._inverse_of(self._matrix)

    def inverse(self, invert_composed: bool = False) -> Transform3d:
        """The inverse transform.

        Args:
            invert_composed: multiply the parts and invert the product, instead of inverting part by part.
        """
        if invert_composed:
            return self._of(Transform3d, _inverse(self._product()), self._is_affine_product())
        inverse = self._of(self._form, self._get_matrix_inverse(), self._is_affine)
        if not self._transforms:
            return inverse
        last, *rest = [t.inverse() for t in reversed(self._transforms)]
        return last.compose(*rest, inverse)

    def stack(self, *others: Transform3d) -> Transform3d:
        """One batch of this transform and the others.

        Args:
            *others: transforms with the same dtype and device.
        """
        transforms = [self, *others]
        matrix = torch.cat([t._product() for t in transforms])
        return self._of(Transform3d, matrix, all(t._is_affine_product() for t in transforms))

    def transform_points(self, points: Tensor, eps: float | None = None) -> Tensor:
        """Transformed points.

        Args:
            points: (P, 3) or (N, P, 3).
            eps: keeps the divisor of projective transforms at least this far from 0, with its sign.

        Returns:
            (N, P, 3), or (P, 3) when `points` is (P, 3) and this is one transform.

        Raises:
            ValueError: for points of another shape, dtype or device; float64 transforms take float32 points too.
        """
        matrix = self._product_for("points", points)
        if self._is_affine_product() and (eps is None or eps <= 1.0):
            return _multiply(points, matrix[:, :3, :3], matrix[:, 3:, :3])
        homogeneous = _multiply(points, matrix[:, :3], matrix[:, 3:])
        divisor = homogeneous[..., 3:]
        if eps is not None:
            sign = torch.where(divisor < 0, -1.0, 1.0).to(divisor.dtype)
            divisor = sign * divisor.abs().clamp(eps)
        return homogeneous[..., :3] / divisor

    def transform_normals(self, normals: Tensor) -> Tensor:
        """Transformed normals: they stay at right angles to transformed surfaces, and are not normalised.

        Args:
            normals: (P, 3) or (N, P, 3).

        Returns:
            (N, P, 3), or (P, 3) when `normals` is (P, 3) and this is one transform.

        Raises:
            ValueError: for normals of another shape, dtype or device; float64 transforms take float32 normals too.
        """
        a, b, c = self._product_for("normals", normals)[:, :3, :3].unbind(1)
        # The inverse transpose of a matrix with rows a, b, c has the rows b x c, c x a, a x b over its determinant.
        rows = torch.stack((torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)), 1)
        determinant = (a * rows[:, 0]).sum(-1)
        return _multiply(normals, rows / determinant[:, None, None])

    def _product_for(self, name: str, vectors: Tensor) -> Tensor:
        """The composed matrices in the dtype of what they are applied to."""
        if vectors.dim() not in (2, 3) or vectors.shape[-1] != 3:
            raise ValueError(
                f"Expected {name} to have dim = 2 or dim = 3 and 3 coordinates: got shape {tuple(vectors.shape)}"
            )
        product = self._product()
        fits = vectors.dtype in (product.dtype, torch.float32) and product.dtype in (vectors.dtype, torch.float64)
        if not fits or vectors.device != self.device:
            raise ValueError(
                f"{name} are {vectors.dtype} on {vectors.device} but the transform is {self.dtype} on {self.device}. "
                f"Convert one of them, for instance transform.to({name}.device, dtype={name}.dtype)"
            )
        return product.to(vectors.dtype)

    def translate(
        self, x: float | Tensor, y: float | Tensor | None = None, z: float | Tensor | None = None
    ) -> Transform3d:
        """This transform followed by `Translate(x, y, z)`."""
        return self.compose(Translate(x, y, z, device=self.device, dtype=self.dtype))

    def scale(self, x: float | Tensor, y: float | Tensor | None = None, z: float | Tensor | None = None) -> Transform3d:
        """This transform followed by `Scale(x, y, z)`."""
        return self.compose(Scale(x, y, z, device=self.device, dtype=self.dtype))

    def rotate(self, R: Tensor, orthogonal_tol: float = 1e-5) -> Transform3d:
        """This transform followed by `Rotate(R)`."""
        return self.compose(Rotate(R, device=self.device, dtype=self.dtype, orthogonal_tol=orthogonal_tol))

    def rotate_axis_angle(self, angle: float | Tensor, axis: str = "X", degrees: bool = True) -> Transform3d:
        """This transform followed by `RotateAxisAngle(angle, axis, degrees)`."""
        return self.compose(RotateAxisAngle(angle, axis, degrees, device=self.device, dtype=self.dtype))

    def _mapped(self, function: Any) -> Transform3d:
        """The same composition with `function` applied to every matrix."""
        new = object.__new__(self._form if not self._transforms else Transform3d)
        new._set(function(self._matrix), self._is_affine, self._form)
        new._transforms = [t._mapped(function) for t in self._transforms]
        return new

    def clone(self) -> Transform3d:
        """A deep copy. Differentiable."""
        return self._mapped(torch.clone)

    def to(self, device: Device, copy: bool = False, dtype: torch.dtype | None = None) -> Transform3d:
        """This transform on another device or in another dtype.

        Args:
            device: the target.
            copy: return a copy even when there is nothing to change.
            dtype: the new dtype; unchanged when None.

        Returns:
            Self when nothing is to be done, else a new transform.
        """
        target, dtype = make_device(device), self.dtype if dtype is None else dtype
        if self.device == target and self.dtype == dtype:
            return self.clone() if copy else self
        return self._mapped(lambda matrix: matrix.to(device=target, dtype=dtype))

    def cpu(self) -> Transform3d:
        """This transform on the CPU."""
        return self.to("cpu")

    def cuda(self) -> Transform3d:
        """This transform on the current CUDA device."""
        return self.to("cuda")


class Translate(Transform3d):
    """Translations.

    Args:
        x: (N, 3) translations with `y` and `z` None; or the first coordinate, a number or an (N,) tensor.
        y: the second coordinate.
        z: the third coordinate.
        dtype: of the matrices.
        device: of the matrices; that of `x` when None.

    Raises:
        ValueError: for shapes that do not fit together.
    """

    def __init__(
        self,
        x: float | Tensor,
        y: float | Tensor | None = None,
        z: float | Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        device: Device | None = None,
    ) -> None:
        xyz = _coordinates(x, y, z, dtype, device, "Translate")
        identity = torch.eye(4, dtype=dtype, device=xyz.device)
        self._set(identity + F.pad(xyz[:, None], (0, 1, 3, 0)), is_affine=True, form=Translate)

    @staticmethod
    def _inverse_of(matrix: Tensor) -> Tensor:
        inverse = matrix.clone()
        inverse[:, 3, :3] = -matrix[:, 3, :3]
        return inverse


class Scale(Transform3d):
    """Scalings along the axes.

    Args:
        x: (N, 3) factors with `y` and `z` None; a number or an (N,) tensor for all three axes with `y` and `z` None; or
            the factor of the first axis.
        y: the factor of the second axis.
        z: the factor of the third axis.
        dtype: of the matrices.
        device: of the matrices; that of `x` when None.

    Raises:
        ValueError: for shapes that do not fit together.
    """

    def __init__(
        self,
        x: float | Tensor,
        y: float | Tensor | None = None,
        z: float | Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        device: Device | None = None,
    ) -> None:
        if y is None and z is None and not (torch.is_tensor(x) and x.dim() == 2):
            y = z = x
        xyz = _coordinates(x, y, z, dtype, device, "Scale")
        self._set(torch.diag_embed(F.pad(xyz, (0, 1), value=1.0)), is_affine=True, form=Scale)

    @staticmethod
    def _inverse_of(matrix: Tensor) -> Tensor:
        return torch.diag_embed(matrix.diagonal(dim1=1, dim2=2).reciprocal())


class Rotate(Transform3d):
    """Rotations.

    Args:
        R: (3, 3) or (N, 3, 3) rotation matrices for row vectors. They are taken to be orthogonal: the inverse is the
            transpose.
        dtype: of the matrices.
        device: of the matrices; that of `R` when None.
        orthogonal_tol: tolerance of the check that `R` is orthogonal, which warns and runs only when the environment
            variable PYTORCH3D_CHECK_ROTATION_MATRICES is "1".

    Raises:
        ValueError: when `R` has another shape.
    """

    def __init__(
        self,
        R: Tensor,
        dtype: torch.dtype = torch.float32,
        device: Device | None = None,
        orthogonal_tol: float = 1e-5,
    ) -> None:
        if R.shape[-2:] != (3, 3) or R.dim() not in (2, 3):
            raise ValueError(f"R must have shape (3, 3) or (N, 3, 3); got {tuple(R.shape)}")
        R = R.reshape(-1, 3, 3).to(device=get_device(R, device), dtype=dtype)
        if os.environ.get("PYTORCH3D_CHECK_ROTATION_MATRICES", "0") == "1":
            _check_valid_rotation_matrix(R, tol=orthogonal_tol)
        matrix = F.pad(R, (0, 1, 0, 1))
        matrix[:, 3, 3].fill_(1.0)
        self._set(matrix, is_affine=True, form=Rotate)

    @staticmethod
    def _inverse_of(matrix: Tensor) -> Tensor:
        return matrix.transpose(1, 2)


class RotateAxisAngle(Rotate):
    """Rotations about one of the coordinate axes, counter-clockwise for positive angles.

    Args:
        angle: a number or an (N,) tensor.
        axis: "X", "Y" or "Z".
        degrees: whether the angles are in degrees; else in radians.
        dtype: of the matrices.
        device: of the matrices; that of `angle` when None.

    Raises:
        ValueError: for another axis or shape.
    """

    def __init__(
        self,
        angle: float | Tensor,
        axis: str = "X",
        degrees: bool = True,
        dtype: torch.dtype = torch.float32,
        device: Device | None = None,
    ) -> None:
        axis = axis.upper()
        if axis not in ("X", "Y", "Z"):
            raise ValueError(f"Expected axis to be one of ['X', 'Y', 'Z']; got {axis}")
        if torch.is_tensor(angle) and angle.dim() > 1:
            raise ValueError(f"Expected tensor of shape (N,); got {tuple(angle.shape)} (in RotateAxisAngle)")
        angle = _vector(angle, dtype, get_device(angle, device))
        radians = angle * (math.pi / 180.0) if degrees else angle
        # The matrices of the helper act on columns, ours on rows.
        super().__init__(_axis_angle_rotation(axis, radians).transpose(1, 2), dtype=dtype, device=angle.device)


def _vector(c: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A number or a tensor as a 1D tensor."""
    return torch.as_tensor(c, dtype=dtype, device=device).reshape(-1)


def _coordinates(x: Any, y: Any, z: Any, dtype: torch.dtype, device: Device | None, name: str) -> Tensor:
    """The three coordinates as one (N, 3) tensor, from one such tensor or from numbers and (N,) tensors."""
    target = get_device(x, device)
    if torch.is_tensor(x) and x.dim() == 2:
        if x.shape[1] != 3:
            raise ValueError(f"Expected tensor of shape (N, 3); got {tuple(x.shape)} (in {name})")
        if y is not None or z is not None:
            raise ValueError(f"Expected y and z to be None (in {name})")
        return x.to(device=target, dtype=dtype)
    for letter, c in zip("xyz", (x, y, z), strict=True):
        if c is None:
            raise ValueError(f"Expected x, y and z, or x of shape (N, 3): {letter} is None (in {name})")
        if torch.is_tensor(c) and c.dim() > 1:
            raise ValueError(f"Expected {letter} to be a number or of shape (N,); got {tuple(c.shape)} (in {name})")
    if not any(torch.is_tensor(c) for c in (x, y, z)):
        return torch.tensor([[x, y, z]], dtype=dtype, device=target)
    columns = [_vector(c, dtype, target) for c in (x, y, z)]
    sizes = [len(c) for c in columns]
    if len(set(sizes) - {1}) > 1:
        raise ValueError(f"Got non-broadcastable sizes {sizes} (in {name})")
    return torch.stack(torch.broadcast_tensors(*columns), dim=1)


def _inverse(matrix: Tensor) -> Tensor:
    """The inverses (N, 4, 4). In a CUDA graph nobody can be told that there is none."""
    if can_look(matrix) or is_traced():
        return torch.linalg.inv(matrix)
    return torch.linalg.inv_ex(matrix).inverse


def _check_batch(a: Tensor, b: Tensor) -> None:
    if len(a) != len(b) and len(a) != 1 and len(b) != 1:
        raise ValueError(f"Expected batch dim for bmm to be equal or 1; got {tuple(a.shape)}, {tuple(b.shape)}")


def _broadcast_bmm(a: Tensor, b: Tensor) -> Tensor:
    """Products (max(M, N), P, L) of matrices (P, K) or (M, P, K) and (N, K, L); a batch of 1 goes with any other."""
    if a.dim() == 2:
        a = a[None]
    _check_batch(a, b)
    with without_autocast(a.device.type):
        if a.dtype != b.dtype:
            dtype = torch.promote_types(a.dtype, b.dtype)
            a, b = a.to(dtype), b.to(dtype)
        return torch.bmm(a, b) if len(a) == len(b) else a @ b


def _multiply(vectors: Tensor, matrix: Tensor, shift: Tensor | None = None) -> Tensor:
    """`vectors @ matrix + shift` for vectors (P, 3) or (M, P, 3), matrices (N, 3, L) and shifts (N, 1, L).

    The result is (P, L) for 2D vectors and one matrix, else (max(M, N), P, L).
    """
    if vectors.dim() == 3:
        _check_batch(vectors, matrix)
    N, _, L = matrix.shape
    with without_autocast(vectors.device.type):
        if N == 1:
            rows = vectors.reshape(1, -1, 3)
            product = torch.bmm(rows, matrix) if shift is None else torch.baddbmm(shift, rows, matrix)
            return product.reshape(*vectors.shape[:-1], L)
        if vectors.dim() == 2:
            # One set of vectors: all matrices side by side form a single product, (P, 3) by (3, N * L).
            columns = matrix.transpose(0, 1).reshape(3, N * L)
            product = vectors @ columns if shift is None else torch.addmm(shift.reshape(N * L), vectors, columns)
            return product.reshape(-1, N, L).transpose(0, 1).contiguous()
        # On CPUs the product with long rows is two to three times as fast as the one with rows of 3.
        a, b = matrix.transpose(1, 2), vectors.expand(N, -1, -1).transpose(1, 2)
        product = torch.bmm(a, b) if shift is None else torch.baddbmm(shift.transpose(1, 2), a, b)
        return product.transpose(1, 2).contiguous()


@torch.no_grad()
def _check_valid_rotation_matrix(R: Tensor, tol: float = 1e-7) -> None:
    """Warns when one of the matrices (N, 3, 3) is not a rotation: R R^T = I and det(R) = 1."""
    identity = torch.eye(3, dtype=R.dtype, device=R.device).expand_as(R)
    determinant = _safe_det_3x3(R)
    is_orthogonal = torch.allclose(R @ R.transpose(1, 2), identity, atol=tol)
    if not (is_orthogonal and torch.allclose(determinant, torch.ones_like(determinant))):
        warnings.warn("R is not a valid rotation matrix", stacklevel=3)
