"""Images of spheres from a camera given by a vector of numbers."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recon_engine.transforms import axis_angle_to_matrix, rotation_6d_to_matrix

_EPS = 1e-6
_MOST_HITS = 2**32 - 1
_warned: set[str] = set()


@dataclass(eq=True)
class _Settings:
    """What a renderer was made for; PyTorch3D has these names on its compiled renderer."""

    width: int
    height: int
    max_num_balls: int
    orthogonal: bool
    right_handed: bool
    background_normalized_depth: float
    n_channels: int
    n_track: int


class Renderer(nn.Module):
    """Renders spheres that blend by depth, differentiably.

    A sphere that a ray hits weighs more the nearer it begins and the closer to its middle the ray passes: see
    `forward`. `gamma` says how sharply: near 0 the first sphere hides all others, at 1 all of them are seen. For
    gradients in positions, radii and the camera it must not be too small, since only what is seen has a gradient.

    The x axis points to the right, y up, z along the optical axis (against it in right-handed systems). Rows of an
    image go down.

    References:
        Lassner, Zollhoefer: Pulsar: Efficient Sphere-based Neural Rendering, CVPR 2021.
    """

    device_tracker: Tensor

    def __init__(
        self,
        width: int,
        height: int,
        max_num_balls: int,
        orthogonal_projection: bool = False,
        right_handed_system: bool = False,
        background_normalized_depth: float = _EPS,
        n_channels: int = 3,
        n_track: int = 5,
        average_gradients: bool = True,
    ) -> None:
        """Store the settings.

        Args:
            width: of the images, in pixels.
            height: of the images, in pixels.
            max_num_balls: accepted; no number of spheres is too large.
            orthogonal_projection: rays are parallel instead of going through the camera's position.
            right_handed_system: the camera looks along its negative z axis.
            background_normalized_depth: where the background is, from 0 (at max_depth) to 1 (at min_depth), exclusive.
            n_channels: of the colours.
            n_track: how many of the spheres that a pixel hits get gradients: those nearest to the camera.
            average_gradients: as in PyTorch3D, a sphere's gradients are means over the pixels that track it, and the
                camera's are means over spheres, weighted by a thousandth of the pixels in their bounding boxes. This
                makes steps of large and small spheres alike. False gives the derivatives of the loss.

        Raises:
            ValueError: for numbers out of range.
        """
        super().__init__()
        for name, value in (
            ("width", width),
            ("height", height),
            ("max_num_balls", max_num_balls),
            ("n_channels", n_channels),
            ("n_track", n_track),
        ):
            if not value > 0:
                raise ValueError(f"{name} must be > 0, got {value}")
        if not 0.0 < background_normalized_depth < 1.0:
            raise ValueError(f"background_normalized_depth must be between 0 and 1, got {background_normalized_depth}")
        self._renderer = _Settings(
            int(width),
            int(height),
            int(max_num_balls),
            bool(orthogonal_projection),
            bool(right_handed_system),
            float(background_normalized_depth),
            int(n_channels),
            int(n_track),
        )
        self.average_gradients = average_gradients
        self.register_buffer("device_tracker", torch.zeros(1))

    @staticmethod
    def sphere_ids_from_result_info_nograd(result_info: Tensor) -> Tensor:
        """The spheres that each pixel tracks, by depth.

        Args:
            result_info: (H, W, 3 + 2 n_track) or (B, H, W, 3 + 2 n_track), the second result of `forward`.

        Returns:
            (B, H, W, n_track) int32, -1 where there are fewer; B is 1 for a single image.
        """
        if result_info.ndim == 3:
            result_info = result_info[None]
        ids = result_info.detach()[..., 3::2].contiguous()
        return ids.view(torch.int32 if ids.dtype == torch.float32 else torch.int64).int()

    @staticmethod
    def depth_map_from_result_info_nograd(result_info: Tensor) -> Tensor:
        """Where the ray of each pixel enters the first sphere, -1 without one, of the shape of the image.

        Args:
            result_info: the second result of `forward`.
        """
        return result_info[..., 4].detach()

    @staticmethod
    def _transform_cam_params(
        cam_params: Tensor,
        width: int,
        height: int,
        orthogonal: bool,
        right_handed: bool,
        first_R_then_T: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Position, centre of the first pixel, steps to the next pixels, focal length and principal point offset.

        Args:
            cam_params: ([B,] 8, 10, 11 or 13) as in `forward`.
            width: in pixels.
            height: in pixels.
            orthogonal: the sensor is at the camera's position and not a focal length in front of it.
            right_handed: the camera looks along its negative z axis.
            first_R_then_T: the position is rotated.

        Returns:
            ([B,] 3) four times, ([B]) and ([B,] 2) int32.
        """
        if cam_params.ndim not in (1, 2) or cam_params.shape[-1] not in (8, 10, 11, 13):
            raise ValueError(
                "cam_params must have shape ([B,] 8 or 11), or 2 more with an offset of the principal point, got "
                f"{tuple(cam_params.shape)}"
            )
        vectors = cam_params if cam_params.ndim == 2 else cam_params[None]
        continuous = vectors.shape[1] in (11, 13)
        if not continuous and cam_params.requires_grad:
            _warn_once(
                "Camera rotations as axis and angle have discontinuities: to optimise them, use the 6 numbers of "
                "transforms.matrix_to_rotation_6d."
            )
        end = 9 if continuous else 6
        rotation = (rotation_6d_to_matrix if continuous else axis_angle_to_matrix)(vectors[:, 3:end])
        position, focal, sensor_width = vectors[:, :3], vectors[:, end : end + 1], vectors[:, end + 1 : end + 2]
        offset = vectors.detach()[:, end + 2 : end + 4].to(torch.int32)
        if offset.shape[1] == 0:
            offset = offset.new_zeros(vectors.shape[0], 2)
        if first_R_then_T:
            position = (rotation @ position[..., None])[..., 0]
        pixel = sensor_width / width
        right, down, forward = rotation[:, :, 0] * pixel, -rotation[:, :, 1] * pixel, rotation[:, :, 2]
        center = position if orthogonal else position + focal * (-forward if right_handed else forward)
        first = center - right * (0.5 * (width - 1)) - down * (0.5 * (height - 1))
        results = (position, first, right, down, focal[:, 0], offset)
        return results if cam_params.ndim == 2 else tuple(r[0] for r in results)  # type: ignore[return-value]

    def forward(
        self,
        vert_pos: Tensor,
        vert_col: Tensor,
        vert_rad: Tensor,
        cam_params: Tensor,
        gamma: float,
        max_depth: float,
        min_depth: float = 0.0,
        bg_col: Tensor | None = None,
        opacity: Tensor | None = None,
        percent_allowed_difference: float = 0.01,
        max_n_hits: int = _MOST_HITS,
        mode: int = 0,
        return_forward_info: bool = False,
        first_R_then_T: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor | None]:
        """Render.

        The weight of a sphere is `closeness * opacity * exp(opacity * d / gamma)`: closeness is 1 for rays through its
        middle and 0 at its border, d is where the ray enters, 1 at min_depth and 0 at max_depth. The background weighs
        `exp(background_normalized_depth / gamma)`. A pixel is the weighted mean of the colours.

        Args:
            vert_pos: ([B,] N, 3) centres.
            vert_col: ([B,] N, C) colours.
            vert_rad: ([B,] N) radii > 0.
            cam_params: ([B,] 8 to 13) position 3, rotation 3 (axis times angle) or 6 (the first two rows of the
                matrix), focal length (0 for parallel rays), width of the sensor, and optionally the offset 2 of the
                principal point to the left and above in whole pixels, which has no gradient.
            gamma: in [1e-5, 1].
            max_depth: spheres that begin beyond are not drawn. The tighter the better for gradients.
            min_depth: spheres that begin before are not drawn; above the focal length, or 0 for just above it.
            bg_col: (C,) colour of the background; 1 by default.
            opacity: ([B,] N) in [0, 1]; 1 by default.
            percent_allowed_difference: in [0, 1), accepted; images are exact.
            max_n_hits: at most so many spheres are drawn on a ray, in the order in which they begin.
            mode: 0 for images, 1 for the number of spheres on each ray, which has no gradient.
            return_forward_info: return what is known of each pixel as well.
            first_R_then_T: the camera's position is rotated by its rotation.

        Returns:
            image: ([B,] H, W, C), or ([B,] H, W, 1) in mode 1. Differentiable in positions, colours, radii, opacity,
                background and camera.
            info: if asked for, ([B,] H, W, 3 + 2 n_track): the largest exponent, the sum of weights relative to it, the
                largest depth at which a sphere on the ray begins, then for each tracked sphere, by depth, its number
                (bits of an integer, see `sphere_ids_from_result_info_nograd`) and where the ray enters it. None in
                mode 1.

        CPU and CUDA, float32 and float64.

        Raises:
            ValueError: for shapes that disagree and numbers out of range; on the CPU also for positions that are not
                finite, radii <= 0 and opacities outside of [0, 1].
        """
        from recon_engine.ops._render_spheres import render_spheres

        settings = self._renderer
        batched = vert_pos.ndim == 3
        self._check_shapes(vert_pos, vert_col, vert_rad, cam_params, bg_col, opacity)
        gamma, min_depth, max_depth = float(gamma), float(min_depth), float(max_depth)
        position, first, right, down, focal, offset = Renderer._transform_cam_params(
            cam_params if batched else cam_params[None],
            settings.width,
            settings.height,
            settings.orthogonal,
            settings.right_handed,
            first_R_then_T,
        )
        min_depth = self._check_numbers(
            focal, gamma, min_depth, max_depth, percent_allowed_difference, max_n_hits, mode
        )
        if gamma < 1e-3 and any(a.requires_grad for a in (vert_pos, vert_rad, cam_params)):
            _warn_once(
                "Gradients in positions, radii and cameras are hardly usable with gamma below 1e-3, since next "
                "to nothing is seen of what lies behind."
            )
        points, radii, colors = (a if batched else a[None] for a in (vert_pos, vert_rad, vert_col))
        if opacity is not None and not batched:
            opacity = opacity[None]
        tensors = [a for a in (vert_pos, vert_rad, vert_col, opacity, cam_params) if a is not None]
        tracking = return_forward_info or (torch.is_grad_enabled() and any(a.requires_grad for a in tensors))
        image, stats, ids, depths = render_spheres(
            points,
            radii,
            colors,
            torch.stack([position, first, right, down], 1),
            (settings.height, settings.width),
            gamma,
            max_depth,
            min_depth,
            opacity=opacity,
            background=bg_col,
            offset=offset,
            background_depth=settings.background_normalized_depth,
            orthogonal=settings.orthogonal,
            right_handed=settings.right_handed,
            max_hits=int(max_n_hits),
            count_all=mode == 1,
            track=settings.n_track if tracking and mode == 0 else 0,
            average=self.average_gradients,
        )
        if mode == 1:
            image = stats[..., 3:].detach()
        image = image if batched else image[0]
        if not return_forward_info:
            return image
        if mode == 1:
            return image, None
        info = _pack_info(stats, ids, depths)
        return image, info if batched else info[0]

    def _check_shapes(
        self, pos: Tensor, col: Tensor, rad: Tensor, camera: Tensor, background: Tensor | None, opacity: Tensor | None
    ) -> None:
        C = self._renderer.n_channels
        if pos.ndim not in (2, 3) or pos.shape[-1] != 3:
            raise ValueError(f"vert_pos must have shape ([B,] N, 3), got {tuple(pos.shape)}")
        expected: list[tuple[str, Tensor | None, tuple[int, ...]]] = [
            ("vert_col", col, (*pos.shape[:-1], C)),
            ("vert_rad", rad, tuple(pos.shape[:-1])),
            ("opacity", opacity, tuple(pos.shape[:-1])),
            ("bg_col", background, (C,)),
        ]
        for name, value, shape in expected:
            if value is not None and tuple(value.shape) != shape:
                raise ValueError(f"{name} must have shape {shape} to go with vert_pos, got {tuple(value.shape)}")
        if tuple(camera.shape[:-1]) != tuple(pos.shape[:-2]):
            raise ValueError(
                f"cam_params must have one vector for each of the images, {(*pos.shape[:-2], 'M')}, got "
                f"{tuple(camera.shape)}"
            )

    def _check_numbers(
        self,
        focal: Tensor,
        gamma: float,
        min_depth: float,
        max_depth: float,
        allowed_difference: float,
        max_n_hits: int,
        mode: int,
    ) -> float:
        """Raises for numbers out of range; returns min_depth, which the focal length decides if it is 0."""
        # Read together, for the device is waited for once.
        none = 0.0 if self._renderer.orthogonal else 1.0
        low, high = torch.stack(focal.detach().aminmax()).tolist() if focal.numel() else (none, none)
        if self._renderer.orthogonal and not low == high == 0.0:
            raise ValueError(f"the focal length must be 0 for an orthogonal projection, got {low} to {high}")
        if not self._renderer.orthogonal and not low > _EPS:
            raise ValueError(f"the focal length must be > {_EPS} for a perspective projection, got {low}")
        if not 1e-5 * (1 - 1e-6) <= gamma <= 1.0:  # 1e-5 may come from a float32 tensor
            raise ValueError(f"gamma must be in [1e-5, 1], got {gamma}")
        if min_depth == 0.0:
            min_depth = high + 2 * _EPS
        if not min_depth > high:
            raise ValueError(f"min_depth must be 0 or above the focal length {high}, got {min_depth}")
        if not max_depth > min_depth + _EPS:
            raise ValueError(f"max_depth must be above min_depth {min_depth}, got {max_depth}")
        if not 0.0 <= allowed_difference < 1.0:
            raise ValueError(f"percent_allowed_difference must be in [0, 1), got {allowed_difference}")
        if not max_n_hits > 0:
            raise ValueError(f"max_n_hits must be > 0, got {max_n_hits}")
        if mode not in (0, 1):
            raise ValueError(f"mode must be 0 or 1, got {mode}")
        if 0.0 < low < 1e-4 * max_depth:
            warnings.warn(
                f"max_depth {max_depth} is more than 10000 times the focal length {low}: expect artifacts of rounding.",
                stacklevel=3,
            )
        return min_depth

    def extra_repr(self) -> str:
        """Size of the images and number of spheres."""
        settings = self._renderer
        return f"width={settings.width}, height={settings.height}, max_num_balls={settings.max_num_balls}"


def _warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, stacklevel=3)


def _pack_info(stats: Tensor, ids: Tensor, depths: Tensor) -> Tensor:
    """The first three numbers of `stats`, then ids as bits and depths in turn."""
    bits = ids.view(torch.float32) if depths.dtype == torch.float32 else ids.long().view(torch.float64)
    return torch.cat([stats.detach()[..., :3], torch.stack([bits, depths.detach()], -1).flatten(-2)], -1)
