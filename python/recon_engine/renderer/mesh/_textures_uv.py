"""Texture images with uv coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recon_engine._precision import widened

from ._textures_base import (
    ListOf,
    TexturesBase,
    check_finite,
    check_floating,
    check_indices,
    check_repeats,
    check_same,
    pad,
    repeat_list,
    rows_of,
    unpad,
)
from .utils import PackedRectangle, PackedRectangles, Rectangle, pack_unique_rectangles

Batch = Tensor | Sequence[Tensor]


class TexturesUV(TexturesBase):
    """An image for each mesh, or several with a choice for each face, sampled at interpolated uv coordinates.

    u grows along the columns of the image and v against its rows: with `align_corners`, uv (0, 0) is the centre of the
    bottom left texel and (1, 1) that of the top right one; without it, they are the outer corners of these texels.
    """

    sampling_mode: str = "bilinear"
    # One image for each mesh, as in pickles of versions that knew no other.
    _maps_ids_padded: Tensor | None = None
    _maps_ids_list = ListOf("_maps_ids_padded", "_num_faces_per_mesh")
    _faces_uvs_list = ListOf("_faces_uvs_padded", "_num_faces_per_mesh")
    _verts_uvs_list = ListOf("_verts_uvs_padded")
    # Textures that show nothing may hold any indices, as in PyTorch3D.
    _indices_are_checked = False

    def __init__(
        self,
        maps: Batch,
        faces_uvs: Batch,
        verts_uvs: Batch,
        *,
        maps_ids: Batch | None = None,
        padding_mode: str = "border",
        align_corners: bool = True,
        sampling_mode: str = "bilinear",
    ) -> None:
        """Store the texture.

        Args:
            maps: (N, H, W, C) or a list of N images (H_i, W_i, C), which are resized to the largest size. With
                `maps_ids`, (N, M, H, W, C) or a list of N tensors (M_i, H_i, W_i, C).
            faces_uvs: (N, F, 3) or a list of N tensors (F_i, 3): int64 indices into verts_uvs.
            verts_uvs: (N, V, 2) or a list of N tensors (V_i, 2): uv coordinates.
            maps_ids: (N, F) or a list of N tensors (F_i,): int64, which of the M images each face shows.
            padding_mode: "zeros", "border" or "reflection", for uv outside [0, 1].
            align_corners: whether uv 0 and 1 are centres of the outer texels, and not their outer corners.
            sampling_mode: "bilinear" or "nearest".

        Raises:
            ValueError: shapes, batch sizes, channels, devices or modes that do not fit; on the CPU also a NaN or an
                infinity in the images or the uv coordinates. Indices that are no integers or, on the CPU, out of range
                raise it when the texture is first looked up.
        """
        self._fill(
            maps, faces_uvs, verts_uvs, maps_ids, padding_mode, align_corners=align_corners, sampling_mode=sampling_mode
        )
        check_finite("maps", maps)
        check_finite("verts_uvs", verts_uvs)

    def _fill(
        self,
        maps: Batch,
        faces_uvs: Batch,
        verts_uvs: Batch,
        maps_ids: Batch | None,
        padding_mode: str,
        *,
        align_corners: bool,
        sampling_mode: str,
    ) -> None:
        for name, mode, modes in (
            ("padding_mode", padding_mode, ("zeros", "border", "reflection")),
            ("sampling_mode", sampling_mode, ("bilinear", "nearest")),
        ):
            if mode not in modes:
                raise ValueError(f"{name} must be one of {', '.join(modes)}, got {mode!r}")
        self.padding_mode = padding_mode
        self.align_corners = align_corners
        self.sampling_mode = sampling_mode
        self._faces_uvs_list, self._faces_uvs_padded = _as_batch("faces_uvs", faces_uvs, ("F", 3))
        self._N = len(faces_uvs)
        self.device = faces_uvs[0].device if self._N else torch.device("cpu")
        self._num_faces_per_mesh = [len(faces) for faces in faces_uvs]
        self._verts_uvs_list, self._verts_uvs_padded = _as_batch("verts_uvs", verts_uvs, ("V", 2))
        self._check_batch("verts_uvs", verts_uvs)
        self._maps_ids_list = self._maps_ids_padded = None
        if maps_ids is not None:
            self._maps_ids_list, self._maps_ids_padded = _as_batch("maps_ids", maps_ids, ("F",))
            self._check_batch("maps_ids", maps_ids)
            if [len(ids) for ids in maps_ids] != self._num_faces_per_mesh:
                raise ValueError("maps_ids and faces_uvs must have the same number of faces per mesh")
        image = ("H", "W", "C") if maps_ids is None else ("M", "H", "W", "C")
        self._maps_list, maps_padded = _as_batch("maps", maps, image)
        self._check_batch("maps", maps)
        self._maps_padded = self._pad_maps(len(image)) if maps_padded is None else maps_padded
        self.valid = torch.ones((self._N,), dtype=torch.bool, device=self.device)

    def _check_batch(self, name: str, values: Batch) -> None:
        if len(values) != self._N:
            raise ValueError(f"{name} and faces_uvs must have the same batch dimension: {len(values)} and {self._N}")
        if any(value.device != self.device for value in values):
            raise ValueError(f"{name} must be on the same device as faces_uvs, {self.device}")

    def _pad_maps(self, dims: int) -> Tensor:
        """The images of the list at the largest size, (N, H, W, C) or (N, M, H, W, C)."""
        maps = self._maps_list
        if not maps:
            return torch.zeros((self._N, *(0,) * (dims - 1), 3), device=self.device)
        if any(image.shape[-1] != maps[0].shape[-1] for image in maps):
            raise ValueError(f"Inconsistent number of channels in maps: {[image.shape[-1] for image in maps]}")
        size = tuple(max(image.shape[axis] for image in maps) for axis in (-3, -2))
        return (
            pad([self._resize(image, size) for image in maps])
            if dims == 4
            else torch.stack([self._resize(image, size) for image in maps])
        )

    def _resize(self, image: Tensor, size: tuple[int, ...]) -> Tensor:
        if tuple(image.shape[-3:-1]) == size:
            return image
        stack = image.reshape(-1, *image.shape[-3:]).permute(0, 3, 1, 2)
        resized = F.interpolate(stack, size=size, mode="bilinear", align_corners=self.align_corners)
        return resized.permute(0, 2, 3, 1).reshape(*image.shape[:-3], *size, image.shape[-1])

    def _options(self) -> dict[str, Any]:
        return {
            "padding_mode": self.padding_mode,
            "align_corners": self.align_corners,
            "sampling_mode": self.sampling_mode,
        }

    def _derived(self, *, maps: Batch, faces_uvs: Batch, verts_uvs: Batch, maps_ids: Batch | None = None) -> TexturesUV:
        """A texture of this class whose values come from checked ones."""
        new = object.__new__(type(self))
        new._fill(maps, faces_uvs, verts_uvs, maps_ids, **self._options())
        new._indices_are_checked = self._indices_are_checked
        return new

    def faces_uvs_padded(self) -> Tensor:
        """(N, max F_i, 3) int64, padded with zeros."""
        if self._faces_uvs_padded is None:
            if not self._faces_uvs_list:
                return torch.zeros((self._N, 0, 3), dtype=torch.int64, device=self.device)
            self._faces_uvs_padded = pad(self._faces_uvs_list)
        return self._faces_uvs_padded

    def faces_uvs_list(self) -> list[Tensor]:
        """N tensors (F_i, 3)."""
        return self._faces_uvs_list or []

    def verts_uvs_padded(self) -> Tensor:
        """(N, max V_i, 2), padded with zeros."""
        if self._verts_uvs_padded is None:
            if not self._verts_uvs_list:
                return torch.zeros((self._N, 0, 2), device=self.device)
            self._verts_uvs_padded = pad(self._verts_uvs_list)
        return self._verts_uvs_padded

    def verts_uvs_list(self) -> list[Tensor]:
        """N tensors (V_i, 2). Their number need not be that of the mesh's vertices."""
        return self._verts_uvs_list or []

    def maps_ids_padded(self) -> Tensor | None:
        """(N, max F_i) int64, padded with zeros; None with one image for each mesh."""
        if self._maps_ids_padded is None and self._maps_ids_list is not None:
            no_face = torch.zeros((0, 0), dtype=torch.int64, device=self.device)
            self._maps_ids_padded = pad(self._maps_ids_list) if self._maps_ids_list else no_face
        return self._maps_ids_padded

    def maps_ids_list(self) -> list[Tensor] | None:
        """N tensors (F_i,); None with one image for each mesh."""
        return self._maps_ids_list

    def maps_padded(self) -> Tensor:
        """(N, H, W, C), or (N, M, H, W, C) with several images for each mesh."""
        return self._maps_padded

    def maps_list(self) -> list[Tensor]:
        """The images as they were given."""
        return self._maps_list if self._maps_list is not None else list(self._maps_padded.unbind(0))

    def _has_several_maps(self) -> bool:
        return self._maps_ids_list is not None

    def __getitem__(self, index: Any) -> TexturesUV:
        """The textures of the meshes at `index`."""
        rows = rows_of(index, self._N)
        ids = self.maps_ids_list()
        faces, verts, maps = self.faces_uvs_list(), self.verts_uvs_list(), self.maps_list()
        return self._derived(
            maps=[maps[row] for row in rows],
            faces_uvs=[faces[row] for row in rows],
            verts_uvs=[verts[row] for row in rows],
            maps_ids=None if ids is None else [ids[row] for row in rows],
        )

    def extend(self, N: int) -> TexturesUV:
        """Each texture N times, in order."""
        check_repeats(N)
        ids = self.maps_ids_padded()
        texture = self._derived(
            maps=self.maps_padded().repeat_interleave(N, dim=0),
            faces_uvs=self.faces_uvs_padded().repeat_interleave(N, dim=0),
            verts_uvs=self.verts_uvs_padded().repeat_interleave(N, dim=0),
            maps_ids=None if ids is None else ids.repeat_interleave(N, dim=0),
        )
        texture._num_faces_per_mesh = repeat_list(self._num_faces_per_mesh, N)
        return texture

    def _corner_uvs_packed(self) -> Tensor:
        """The uv coordinates of the vertices of each face, (sum of F_i, 3, 2)."""
        corners = self._corner_uvs_list()
        if not corners:
            return torch.zeros((0, 3, 2), device=self.device)
        return corners[0] if len(corners) == 1 else torch.cat(corners)

    def _corner_uvs_list(self) -> list[Tensor]:
        """The same as N tensors (F_i, 3, 2). Everything that looks up an image asks for this or the former first."""
        faces, verts, ids = self.faces_uvs_list(), self.verts_uvs_list(), self.maps_ids_list()
        if not self._indices_are_checked:
            check_indices("faces_uvs", faces, [len(uvs) for uvs in verts], "verts_uvs")
            if ids is not None:
                check_indices("maps_ids", ids, [len(images) for images in self.maps_list()], "maps")
            self._indices_are_checked = True
        return [uvs[of_mesh] for uvs, of_mesh in zip(verts, faces, strict=True)]

    def _sample(self, uv: Tensor, map_of_uv: Tensor | None) -> Tensor:
        """Sample the images at uv (N, A, B, D, 2), from the image map_of_uv (N, A, B, D); returns (N, A, B, D, C)."""
        maps = widened(self.maps_padded())
        check_floating("TexturesUV maps", maps)
        # grid_sample wants x, y in [-1, 1] with y downwards.
        xy = torch.stack((2.0 * uv[..., 0] - 1.0, 1.0 - 2.0 * uv[..., 1]), dim=-1).to(maps.dtype)
        options: dict[str, Any] = {
            "mode": self.sampling_mode,
            "padding_mode": self.padding_mode,
            "align_corners": self.align_corners,
        }
        N, A, B, D, _ = uv.shape
        if map_of_uv is None:
            # The inner dimensions become columns of one picture: no image is ever copied for a slot.
            texels = F.grid_sample(maps.permute(0, 3, 1, 2), xy.reshape(N, A, B * D, 2), **options)
            return texels.permute(0, 2, 3, 1).reshape(N, A, B, D, -1)
        # The image number is the depth of a volume; its coordinate is that of the centre of the layer.
        M = maps.shape[1]
        layer = map_of_uv.to(maps.dtype)
        z = 2.0 * layer / max(M - 1, 1) - 1.0 if self.align_corners else (2.0 * layer + 1.0) / M - 1.0
        texels = F.grid_sample(maps.permute(0, 4, 1, 2, 3), torch.cat((xy, z[..., None]), dim=-1), **options)
        return texels.permute(0, 2, 3, 4, 1)

    def sample_textures(self, fragments: Any, **kwargs: Any) -> Tensor:
        """The texture at each pixel, (N, H, W, K, C).

        Where there is no face, it is the texture at uv (0, 0). Differentiable in the images, the uv coordinates and
        the barycentric coordinates. Cost: no copy of an image, whatever K.
        """
        from recon_engine.ops.interp_face_attrs import interpolate_face_attributes

        pix_to_face = fragments.pix_to_face
        uv = interpolate_face_attributes(pix_to_face, fragments.bary_coords, self._corner_uvs_packed())
        ids = self.maps_ids_list()
        map_of_pixel = None
        if ids is not None:
            map_of_face = torch.cat(ids)
            if map_of_face.numel() == 0:
                map_of_face = pix_to_face.new_zeros(1)
            map_of_pixel = map_of_face[pix_to_face.clamp(min=0)]
        return self._sample(uv, map_of_pixel)

    def faces_verts_textures_packed(self, faces_packed: Tensor | None = None) -> Tensor:
        """The texture at the three vertices of each face, (sum of F_i, 3, C); `faces_packed` is not used."""
        if self.isempty():
            return torch.zeros((0, 3, self.maps_padded().shape[-1]), device=self.device)
        corners = self._corner_uvs_list()
        uv = pad(corners)[:, :, :, None, :]
        ids = self.maps_ids_list()
        map_of_uv = None if ids is None else pad(ids)[:, :, None, None].expand(uv.shape[:-1])
        texels = self._sample(uv, map_of_uv)[:, :, :, 0]
        return torch.cat(unpad(texels, [len(corner) for corner in corners]))

    def join_batch(self, textures: list[TexturesUV]) -> TexturesUV:
        """One batch of the textures of self and of those in the list.

        Textures with several images join with each other; all must have the same options.
        """
        check_same(textures, TexturesUV)
        joined = [self, *textures]
        check_same(joined, TexturesUV, "padding_mode", "align_corners", "sampling_mode")
        ids = [texture.maps_ids_list() for texture in joined]
        if any((one is None) != (ids[0] is None) for one in ids):
            raise ValueError("Textures with one and with several maps cannot be joined in one batch")
        batch = self._derived(
            maps=[item for texture in joined for item in texture.maps_list()],
            faces_uvs=[item for texture in joined for item in texture.faces_uvs_list()],
            verts_uvs=[item for texture in joined for item in texture.verts_uvs_list()],
            maps_ids=None if ids[0] is None else [item for one in ids if one is not None for item in one],
        )
        batch._indices_are_checked = all(texture._indices_are_checked for texture in joined)
        return batch

    def join_scene(self) -> TexturesUV:
        """The textures of the whole batch as that of one mesh, with all images side by side in one.

        Images that are the same tensor are placed once. uv outside [0, 1] is not carried over: it meets the
        neighbouring image. Without `align_corners`, every image gets a border of one texel that continues it.
        """
        if self._has_several_maps():
            raise ValueError("join_scene does not support TexturesUV with several maps for a mesh (maps_ids)")
        maps = self.maps_list()
        border = 0 if self.align_corners else 1
        plan = _plan([Rectangle(m.shape[0] + 2 * border, m.shape[1] + 2 * border, id(m)) for m in maps])
        scene = maps[0].new_zeros((*plan.total_size, maps[0].shape[-1]))
        verts_uvs, faces_uvs, offset = [], [], 0
        batch = zip(maps, plan.locations, self.verts_uvs_list(), self.faces_uvs_list(), strict=True)
        for image, place, uvs, faces in batch:
            if place.is_first:
                self._paste(scene, image, place, border)
            verts_uvs.append(self._move_uvs(uvs, image, place, plan.total_size, border))
            faces_uvs.append(faces + offset)
            offset += len(uvs)
        return self._derived(
            maps=[scene],
            faces_uvs=[torch.cat(faces_uvs)],
            verts_uvs=[torch.cat(verts_uvs)],
        )

    def _paste(self, scene: Tensor, image: Tensor, place: PackedRectangle, border: int) -> None:
        """Copy an image (H, W, C) to its place in the scene, in place, continued by `border` texels."""
        if place.flipped:
            image = image.transpose(0, 1)
        if border and self.padding_mode != "zeros":
            image = F.pad(image.permute(2, 0, 1)[None], (border,) * 4, mode="replicate")[0].permute(1, 2, 0)
            border = 0
        top, left = place.x + border, place.y + border
        scene[top : top + image.shape[0], left : left + image.shape[1]] = image

    def _move_uvs(
        self, uvs: Tensor, image: Tensor, place: PackedRectangle, total: tuple[int, int], border: int
    ) -> Tensor:
        """The uv in the scene that show what `uvs` (V, 2) show in `image`.

        A texel position along an axis of n texels is u (n - a) with a = 1 for aligned corners and else 0; shifted by
        the place of the image, it is divided by the scene's extent. v counts from the last row.
        """
        rows, columns = image.shape[:2]
        u, v = uvs.unbind(-1)
        if place.flipped:
            # Transposing the image swaps u with the downward coordinate 1 - v.
            rows, columns, u, v = columns, rows, 1.0 - v, 1.0 - u
        a = 1 if self.align_corners else 0
        below = total[0] - rows - place.x - border
        new_v = (v * (rows - a) + below) / max(total[0] - a, 1)
        new_u = (u * (columns - a) + place.y + border) / max(total[1] - a, 1)
        return torch.stack((new_u, new_v), dim=-1)

    def submeshes(self, vertex_ids_list: Any, faces_ids_list: Any) -> TexturesUV:
        """The textures of the faces that each submesh keeps; `vertex_ids_list` is not used."""
        faces, verts, maps = self.faces_uvs_list(), self.verts_uvs_list(), self.maps_list()
        if len(faces_ids_list) != len(faces):
            raise IndexError(
                f"faces_uvs_padded must be of the same length as face_ids_list: {len(faces)} and {len(faces_ids_list)}"
            )
        ids = self.maps_ids_list()
        kept = [(n, chosen) for n, chosen_of_mesh in enumerate(faces_ids_list) for chosen in chosen_of_mesh]
        return self._derived(
            maps=[maps[n] for n, _ in kept],
            faces_uvs=[faces[n][chosen] for n, chosen in kept],
            verts_uvs=[verts[n] for n, _ in kept],
            maps_ids=None if ids is None else [ids[n][chosen] for n, chosen in kept],
        )

    def centers_for_image(self, index: int) -> Tensor:
        """The positions (column, row) in the image of the uv coordinates of mesh `index`, (V, 2), on the CPU."""
        if self._has_several_maps():
            raise ValueError("centers_for_image does not support TexturesUV with several maps for a mesh (maps_ids)")
        if self._N != 1:
            raise ValueError(f"This function only supports plotting textures for one mesh; got a batch of {self._N}")
        H, W = self.maps_padded().shape[1:3]
        uvs = self.verts_uvs_list()[index].detach().cpu()
        down = torch.stack((uvs[:, 0], 1.0 - uvs[:, 1]), dim=-1)
        size = uvs.new_tensor([W, H])
        positions = down * (size - 1.0) if self.align_corners else down * size - 0.5
        return torch.minimum(positions.clamp(min=0.0), size - 1.0)

    def check_shapes(self, batch_size: int, max_num_verts: int, max_num_faces: int) -> bool:
        """Whether there are uv coordinates for each face; their number is free."""
        return tuple(self.faces_uvs_padded().shape[:2]) == (batch_size, max_num_faces)


def _as_batch(name: str, values: Any, item: tuple[str | int, ...]) -> tuple[list[Tensor] | None, Tensor | None]:
    """(list, None) or (None, padded), checked to have items of shape `item`, whose letters stand for any size."""

    def fits(tensor: Any, shape: tuple[str | int, ...]) -> bool:
        return (
            isinstance(tensor, Tensor)
            and tensor.ndim == len(shape)
            and all(isinstance(want, str) or got == want for got, want in zip(tensor.shape, shape, strict=True))
        )

    expected = f"({', '.join(map(str, item))})"
    if isinstance(values, (list, tuple)):
        for value in values:
            if not fits(value, item):
                got = tuple(value.shape) if isinstance(value, Tensor) else type(value)
                raise ValueError(f"Expected {name} to be a list of tensors of shape {expected}; got {got!r}")
        return list(values), None
    if not isinstance(values, Tensor):
        raise ValueError(f"Expected {name} to be a tensor or list; got {type(values)!r}")
    if not fits(values, ("N", *item)):
        raise ValueError(f"Expected {name} to be of shape (N, {expected[1:]}; got {tuple(values.shape)}")
    return None, values


def _plan(rectangles: list[Rectangle]) -> PackedRectangles:
    if len(rectangles) == 1:
        only = rectangles[0]
        return PackedRectangles((only.xsize, only.ysize), [PackedRectangle(0, 0, False, True)])
    return pack_unique_rectangles(rectangles)
