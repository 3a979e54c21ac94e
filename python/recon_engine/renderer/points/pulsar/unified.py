"""The sphere renderer behind the interface of the point renderers."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from ...camera_conversions import _pulsar_from_cameras_projection
from ...cameras import FoVOrthographicCameras, FoVPerspectiveCameras, OrthographicCameras, PerspectiveCameras
from ...utils import parse_image_size
from .renderer import Renderer

_CAMERAS = (FoVOrthographicCameras, FoVPerspectiveCameras, PerspectiveCameras, OrthographicCameras)
# What `forward` reads itself; everything else goes to the sphere renderer.
_OWN_ARGUMENTS = {
    *("radius_world", "gamma", "znear", "zfar", "R", "T", "principal_point", "focal_length"),
    *("aspect_ratio", "fov", "degrees", "min_x", "max_x", "min_y", "max_y", "scale_xyz"),
}


class PulsarPointsRenderer(nn.Module):
    """Renders point clouds as spheres, with the cameras and settings of a `PointsRasterizer`.

    The rasterizer only holds cameras, image size and radius. See `Renderer` for what the images show.
    """

    def __init__(
        self,
        rasterizer: Any,
        compositor: Any = None,
        n_channels: int = 3,
        max_num_spheres: int = int(1e6),
        **kwargs: Any,
    ) -> None:
        """Store the settings.

        Args:
            rasterizer: a `PointsRasterizer` whose cameras are of one of the four kinds FoV or not, perspective or
                orthographic.
            compositor: ignored, with a warning if there is one.
            n_channels: of the features.
            max_num_spheres: accepted; no number of spheres is too large.
            kwargs: passed to `Renderer`: `background_normalized_depth`, `n_track`, `average_gradients`.

        Raises:
            ValueError: for other cameras.
        """
        super().__init__()
        self.rasterizer = rasterizer
        if compositor is not None:
            warnings.warn("PulsarPointsRenderer has no use for a compositor: it is ignored.", stacklevel=2)
        if not isinstance(rasterizer.cameras, _CAMERAS):
            names = ", ".join(kind.__name__ for kind in _CAMERAS)
            raise ValueError(f"cameras of spheres must be one of {names}; got {type(rasterizer.cameras).__name__}")
        height, width = parse_image_size(rasterizer.raster_settings.image_size)
        self.renderer = Renderer(
            width=width,
            height=height,
            max_num_balls=int(max_num_spheres),
            orthogonal_projection=self._orthogonal(),
            right_handed_system=False,
            n_channels=int(n_channels),
            **kwargs,
        )

    def _orthogonal(self) -> bool:
        return isinstance(self.rasterizer.cameras, (FoVOrthographicCameras, OrthographicCameras))

    def _check_configuration(self, point_clouds: Any, kwargs: dict[str, Any]) -> None:
        cameras, settings = self.rasterizer.cameras, self.renderer._renderer
        if "gamma" not in kwargs:
            raise ValueError("PulsarPointsRenderer needs gamma=, one number in [1e-5, 1] for each cloud")
        if "first_R_then_T" in kwargs:
            raise ValueError("first_R_then_T has no meaning here: cameras say what is done first")
        if len(cameras) not in (1, len(point_clouds)):
            raise ValueError(
                f"there must be one camera, or one for each of the {len(point_clouds)} clouds; got {len(cameras)}"
            )
        if self._orthogonal() != settings.orthogonal:
            raise ValueError("cameras cannot change between perspective and orthographic; make another renderer")
        image_size = self.rasterizer.raster_settings.image_size
        size = tuple(image_size) if isinstance(image_size, (tuple, list)) else (image_size, image_size)
        if size != (settings.height, settings.width):
            raise ValueError(
                f"the image size cannot change from {(settings.height, settings.width)} to {size}: make a new renderer"
            )
        if point_clouds.features_list() is None:
            raise ValueError("point_clouds must have features to render, got None: Pointclouds(points, features=...)")

    def _camera_vector(self, index: int, kwargs: dict[str, Any], znear: Tensor) -> tuple[Tensor, Tensor]:
        """The vector (13,) of `Renderer.forward` for cloud `index`, and its focal length."""
        cameras, settings = self.rasterizer.cameras, self.renderer._renderer

        def given(name: str) -> Any:
            return _of_cloud(kwargs.get(name, getattr(cameras, name)), index)

        R, T = given("R"), given("T")
        size = torch.tensor([[settings.height, settings.width]], device=R.device)
        extrinsics = _pulsar_from_cameras_projection(PerspectiveCameras(R=R[None], T=T[None], device=R.device), size)
        # NDC spans 2 over the shorter side.
        shorter = min(settings.height, settings.width)
        across = 2.0 * settings.width / shorter
        point = znear.new_zeros(2)
        if isinstance(cameras, FoVOrthographicCameras):
            focal, sensor_width = torch.zeros_like(znear), self._box_width(given)
        elif isinstance(cameras, FoVPerspectiveCameras):
            focal = znear - 1e-6
            sensor_width = focal * self._tangent(given, kwargs.get("degrees", cameras.degrees))
        else:
            in_ndc = cameras.in_ndc()
            focal_ndc = self._focal_length(given("focal_length")) * (1.0 if in_ndc else 2.0 / shorter)
            focal = torch.zeros_like(znear) if settings.orthogonal else znear - 1e-6
            sensor_width = across / focal_ndc if settings.orthogonal else focal * across / focal_ndc
            point = _tensor(given("principal_point"), znear) * (0.5 * shorter)
            if not in_ndc:
                half = point.new_tensor([0.5 * settings.width, 0.5 * settings.height])
                point = half - point * (2.0 / shorter)
            point = point * point.new_tensor([1.0, -1.0])  # images are turned upside down in the end
        numbers = [extrinsics[0, :9].to(znear), focal.reshape(1), sensor_width.reshape(1), point.reshape(2)]
        return torch.cat(numbers), focal

    def _box_width(self, given: Any) -> Tensor:
        """What parallel rays of a `FoVOrthographicCameras` see from the left to the right of an image."""
        sides = []
        for axis in ("x", "y"):
            low, high = (torch.as_tensor(given(f"{end}_{axis}")) for end in ("min", "max"))
            if low != -high or not high > low:
                raise ValueError(
                    f"the box of an orthographic camera must be centred, max_{axis} = -min_{axis} > 0; got "
                    f"{float(low)} to {float(high)}"
                )
            sides.append(high - low)
        if not bool((torch.as_tensor(given("scale_xyz")) == 1.0).all()):
            raise ValueError(f"scale_xyz of an orthographic camera must be 1, got {given('scale_xyz')}")
        return sides[0] * self._sides_of_width(float(sides[0] / sides[1]), "the box of an orthographic camera")

    def _sides_of_width(self, aspect_ratio: float, what: str) -> float:
        """How often what a camera sees of a side of 2 in NDC fits into the width of an image."""
        width_to_height = self.renderer._renderer.width / self.renderer._renderer.height
        if abs(aspect_ratio - 1.0) < 1e-6:  # NDC spans 2 over the shorter side
            return max(width_to_height, 1.0)
        if abs(aspect_ratio - width_to_height) < 1e-6:  # meant as the shape of the image
            return 1.0
        raise ValueError(
            f"pixels of spheres are square: {what} must have aspect ratio 1, or that of the image, which it then "
            f"fills; got {aspect_ratio} for images of {width_to_height}"
        )

    def _tangent(self, given: Any, degrees: bool) -> Tensor:
        """The width of a sensor at distance 1 of a `FoVPerspectiveCameras`."""
        angle = torch.as_tensor(given("fov")) * (0.5 * math.pi / 180.0 if degrees else 0.5)
        return 2.0 * torch.tan(angle) * self._sides_of_width(float(given("aspect_ratio")), "the field of view")

    def _focal_length(self, focal: Any) -> Tensor:
        focal = torch.as_tensor(focal).reshape(-1)
        if focal.numel() not in (1, 2) or bool((focal - focal[0]).abs().max() > 1e-5 * focal[0].abs()):
            raise ValueError(f"spheres need a single focal length, got {focal.tolist()}")
        return focal[0]

    def _radii(self, points: Tensor, position: Tensor, focal: Tensor, index: int, radius_world: bool) -> Tensor:
        radius = self.rasterizer.raster_settings.radius
        radius = radius if isinstance(radius, Tensor) else torch.as_tensor(radius)
        radius = radius.to(points)
        if radius.ndim > 1 and not radius_world:
            radius = radius[index]
        if radius_world or self.renderer._renderer.orthogonal:
            return radius.expand(points.shape[0]) if radius.ndim < 2 else radius[index]
        radius = radius / focal * (points - position).norm(dim=1)
        return radius if isinstance(self.rasterizer.cameras, PerspectiveCameras) else radius / 2.0

    def forward(self, point_clouds: Any, **kwargs: Any) -> Tensor:
        """Render.

        The radius is that of the rasterizer's settings. With `radius_world` it is one in the world; without, it is that
        of the world for parallel rays, and otherwise grows with the distance from the camera: radius / znear * distance
        for `PerspectiveCameras` and half of that for `FoVPerspectiveCameras`, as in PyTorch3D.

        Args:
            point_clouds: N clouds in the world with features of C channels.
            kwargs: `gamma` is required, a sequence of one number for each cloud: see `Renderer.forward`, which also
                takes `bg_col` (0 by default), `opacity`, `percent_allowed_difference`, `max_n_hits` and `mode` from
                here. `znear` and `zfar` are required sequences for cameras that are not FoV cameras. Other parameters
                of the cameras override those they hold: `R`, `T`, `principal_point`, `focal_length`, `aspect_ratio`,
                `fov`, `degrees`, `min_x`, `max_x`, `min_y`, `max_y`.

        Returns:
            (N, H, W, C) images, (N, H, W, 1) in mode 1. Differentiable in points, features, radius and cameras; the
            gradients of the cameras' principal points are 0, which count in whole pixels.

        Raises:
            ValueError: for parameters that are missing or that no camera of spheres can have.
            TypeError: for numbers where there must be one for each cloud.
        """
        self._check_configuration(point_clouds, kwargs)
        cameras, images = self.rasterizer.cameras, []
        passed = {name: value for name, value in kwargs.items() if name not in _OWN_ARGUMENTS}
        for index, (points, features) in enumerate(zip(point_clouds.points_list(), point_clouds.features_list())):
            depths = []
            for name in ("znear", "zfar"):
                if name not in kwargs and not hasattr(cameras, name):
                    raise ValueError(
                        f"{type(cameras).__name__} have no {name}: give {name}=, one number for each cloud"
                    )
                depths.append(_tensor(_of_cloud(kwargs.get(name, getattr(cameras, name, None)), index), points))
            vector, focal = self._camera_vector(index, kwargs, depths[0])
            radii = self._radii(points, vector[:3], focal, index, bool(kwargs.get("radius_world", False)))
            options = {"bg_col": features.new_zeros(features.shape[1]), **passed}
            image = self.renderer(
                vert_pos=points,
                vert_col=features,
                vert_rad=radii,
                cam_params=vector,
                gamma=_of_cloud(kwargs["gamma"], index),
                max_depth=depths[1],
                min_depth=depths[0],
                **options,
            )
            images.append(image.flip(dims=[0]))
        return torch.stack(images, dim=0)


def _of_cloud(values: Any, index: int) -> Any:
    """The value of one cloud; a single value is that of all."""
    return values[index if len(values) > 1 else 0]


def _tensor(value: Any, like: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)
