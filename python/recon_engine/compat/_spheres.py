"""PyTorch3D's compiled sphere renderer: an object with a forward and a backward call, on our kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recon_engine.ops import render_spheres
from recon_engine.renderer.points.pulsar.renderer import Renderer, _pack_info

MAX_UINT = 4294967295

Grads = tuple["Tensor | None", ...]


class PulsarRenderer:
    """Renders spheres from tensors that say where the camera and its pixels are; has no part in autograd."""

    def __init__(
        self,
        width: int,
        height: int,
        max_num_balls: int,
        orthogonal_projection: bool,
        right_handed_system: bool,
        background_normalized_depth: float,
        n_channels: int,
        n_track: int,
    ) -> None:
        self._renderer = Renderer(
            width,
            height,
            max_num_balls,
            orthogonal_projection,
            right_handed_system,
            background_normalized_depth,
            n_channels,
            n_track,
        )
        self.device_tracker = torch.zeros(1)

    @property
    def width(self) -> int:
        """Of the images, in pixels."""
        return self._renderer._renderer.width

    @property
    def height(self) -> int:
        """Of the images, in pixels."""
        return self._renderer._renderer.height

    @property
    def max_num_balls(self) -> int:
        """As it was given."""
        return self._renderer._renderer.max_num_balls

    @property
    def orthogonal(self) -> bool:
        """Whether rays are parallel."""
        return self._renderer._renderer.orthogonal

    @property
    def right_handed(self) -> bool:
        """Whether the camera looks along its negative z axis."""
        return self._renderer._renderer.right_handed

    @property
    def n_track(self) -> int:
        """How many spheres of a pixel get gradients."""
        return self._renderer._renderer.n_track

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PulsarRenderer) and self._renderer._renderer == other._renderer._renderer

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"pulsar::Renderer[{self.device_tracker.device}]"

    @torch.no_grad()
    def forward(
        self,
        vert_pos: Tensor,
        vert_col: Tensor,
        vert_radii: Tensor,
        cam_pos: Tensor,
        pixel_0_0_center: Tensor,
        pixel_vec_x: Tensor,
        pixel_vec_y: Tensor,
        focal_length: Tensor,
        principal_point_offsets: Tensor,
        gamma: float,
        max_depth: float,
        min_depth: float,
        bg_col: Tensor | None,
        opacity: Tensor | None,
        percent_allowed_difference: float = 0.01,
        max_n_hits: int = MAX_UINT,
        mode: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """([B,] H, W, C) images, and what is known of each pixel: see `Renderer.forward`."""
        numbers = (gamma, max_depth, min_depth, percent_allowed_difference, max_n_hits, mode)
        camera = torch.stack([cam_pos, pixel_0_0_center, pixel_vec_x, pixel_vec_y], -2)
        image, *notes = self._render(
            (vert_pos, vert_col, vert_radii, camera, opacity), focal_length, principal_point_offsets, bg_col, numbers
        )
        info = _pack_info(*notes)
        return (image, info) if vert_pos.ndim == 3 else (image[0], info[0])

    def backward(
        self,
        grad_im: Tensor,
        image: Tensor,
        forw_info: Tensor,
        vert_pos: Tensor,
        vert_col: Tensor,
        vert_radii: Tensor,
        cam_pos: Tensor,
        pixel_0_0_center: Tensor,
        pixel_vec_x: Tensor,
        pixel_vec_y: Tensor,
        focal_length: Tensor,
        principal_point_offsets: Tensor,
        gamma: float,
        max_depth: float,
        min_depth: float,
        bg_col: Tensor | None,
        opacity: Tensor | None,
        percent_allowed_difference: float,
        max_n_hits: int,
        mode: int,
        dif_pos: bool,
        dif_col: bool,
        dif_rad: bool,
        dif_cam: bool,
        dif_opy: bool,
        dbg_pos: Any = None,
    ) -> Grads:
        """The gradients of positions, colours, radii, the camera's four vectors and opacities; None if not asked for.

        The image is rendered again: what PyTorch3D's notes of the forward call say of a pixel is not enough for ours.
        """
        numbers = (gamma, max_depth, min_depth, percent_allowed_difference, max_n_hits, mode)
        camera = torch.stack([cam_pos, pixel_0_0_center, pixel_vec_x, pixel_vec_y], -2)
        leaves: list[Tensor | None] = []
        for value, wanted in zip(
            (vert_pos, vert_col, vert_radii, camera, opacity), (dif_pos, dif_col, dif_rad, dif_cam, dif_opy)
        ):
            leaves.append(None if value is None else value.detach().requires_grad_(wanted))
        with torch.enable_grad():
            again = self._render(tuple(leaves), focal_length, principal_point_offsets, bg_col, numbers)[0]
        variables = [leaf for leaf in leaves if leaf is not None and leaf.requires_grad]
        found = iter(torch.autograd.grad(again, variables, grad_im.reshape(again.shape)) if variables else ())
        pos, col, rad, cam, opy = (next(found) if leaf is not None and leaf.requires_grad else None for leaf in leaves)
        return pos, col, rad, *((None,) * 4 if cam is None else cam.unbind(-2)), opy

    def _render(
        self,
        inputs: tuple[Tensor | None, ...],
        focal: Tensor,
        offset: Tensor,
        background: Tensor | None,
        numbers: tuple[float, float, float, float, int, int],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # PyTorch3D hands over tensors where its cameras have them.
        gamma, max_depth, min_depth, allowed_difference = (float(number) for number in numbers[:4])
        max_n_hits, mode = (int(number) for number in numbers[4:])
        settings = self._renderer._renderer
        pos, col, rad, camera, opacity = inputs
        assert pos is not None
        if pos.ndim == 2:
            pos, col, rad, camera, opacity = (None if a is None else a[None] for a in inputs)
        assert pos is not None
        assert col is not None
        assert rad is not None
        assert camera is not None
        min_depth = self._renderer._check_numbers(
            focal, gamma, min_depth, max_depth, allowed_difference, max_n_hits, mode
        )
        image, stats, ids, depths = render_spheres(
            pos,
            rad,
            col,
            camera,
            (settings.height, settings.width),
            gamma,
            max_depth,
            min_depth,
            opacity=opacity,
            background=background,
            offset=offset.to(pos.device, torch.int32).reshape(len(pos), 2),
            background_depth=settings.background_normalized_depth,
            orthogonal=settings.orthogonal,
            right_handed=settings.right_handed,
            max_hits=int(max_n_hits),
            count_all=mode == 1,
            track=settings.n_track if mode == 0 else 0,
            average=True,
        )
        return stats[..., 3:] if mode == 1 else image, stats, ids, depths


def pulsar_sphere_ids_from_result_info_nograd(forw_info: Tensor) -> Tensor:
    """(B, H, W, n_track) int32 spheres that each pixel tracks, -1 where there are fewer."""
    return Renderer.sphere_ids_from_result_info_nograd(forw_info)
