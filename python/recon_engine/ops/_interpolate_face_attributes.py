from __future__ import annotations

from torch import Tensor

from recon_engine._op import Op, empty_output


def interpolate_face_attributes(pix_to_face: Tensor, barycentric_coords: Tensor, face_attributes: Tensor) -> Tensor:
    """The kernels behind `recon_engine.ops.interpolate_face_attributes`, which checks shapes and mixes dtypes."""
    values: Tensor = _interpolate_face_attributes(pix_to_face, barycentric_coords, face_attributes)
    return values


def _reference(pix_to_face: Tensor, barycentric_coords: Tensor, face_attributes: Tensor) -> Tensor:
    faces = pix_to_face.reshape(-1)
    # Empty slots hold anything, and most slots may be empty: only the others take part.
    shown = (faces >= 0).nonzero()[:, 0]
    w0, w1, w2 = barycentric_coords.reshape(-1, 3, 1).index_select(0, shown).unbind(1)
    a0, a1, a2 = face_attributes.index_select(0, faces.index_select(0, shown)).unbind(1)
    values = w0 * a0 + w1 * a1 + w2 * a2
    flat = values.new_zeros((faces.shape[0], face_attributes.shape[-1])).index_copy_(0, shown, values)
    return flat.view(*pix_to_face.shape, face_attributes.shape[-1])


def _outputs(pix_to_face: Tensor, barycentric_coords: Tensor, face_attributes: Tensor) -> Tensor:
    return empty_output(barycentric_coords, (*pix_to_face.shape, face_attributes.shape[-1]))


_interpolate_face_attributes = Op(
    "interpolate_face_attributes", _outputs, _reference, optional_grads=True, reads=(), writes_all=True
)
