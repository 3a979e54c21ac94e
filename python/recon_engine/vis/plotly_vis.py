"""Interactive figures of meshes, point clouds, cameras and rays, drawn by plotly."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from recon_engine.renderer.camera_utils import camera_to_eye_at_up
from recon_engine.renderer.cameras import CamerasBase
from recon_engine.renderer.implicit.utils import RayBundle, ray_bundle_to_ray_points
from recon_engine.renderer.mesh.textures import TexturesAtlas, TexturesVertex
from recon_engine.structures import Meshes, Pointclouds, join_meshes_as_scene

_RAY_FIELDS = ("origins", "directions", "lengths", "xys")
_OTHER_OPTIONS = ("axis_args", "lighting", "xaxis", "yaxis", "zaxis")


class AxisArgs(NamedTuple):
    """How the axes of a scene look; the names are those of plotly's `layout.scene.xaxis`."""

    showgrid: bool = False
    zeroline: bool = False
    showline: bool = False
    ticks: str = ""
    showticklabels: bool = False
    backgroundcolor: str = "#fff"
    showaxeslabels: bool = False


class Lighting(NamedTuple):
    """How meshes are lit; the names are those of plotly's `mesh3d.lighting`."""

    ambient: float = 0.8
    diffuse: float = 1.0
    fresnel: float = 0.0
    specular: float = 0.0
    roughness: float = 0.5
    facenormalsepsilon: float = 1e-6
    vertexnormalsepsilon: float = 1e-12


def get_camera_wireframe(scale: float = 0.3) -> Tensor:
    """A polyline in the shape of a camera at the origin that looks along +Z with +Y upwards.

    It goes around the image with a notch at its top, visits the centre from each corner, and ends on the axis.

    Args:
        scale: 1 gives an image 2 wide and 1.5 high at the depth 2.

    Returns:
        (15, 3) float32.
    """
    left_top, right_top = (-1.0, 0.75, 2.0), (1.0, 0.75, 2.0)
    left_bottom, right_bottom = (-1.0, -0.75, 2.0), (1.0, -0.75, 2.0)
    notch = [(0.0, 0.75, 2.0), (0.0, 1.0, 2.0), (0.0, 0.75, 2.0)]
    center, axis = (0.0, 0.0, 0.0), (0.0, 0.0, 3.0)
    image = [left_top, *notch, right_top, right_bottom, left_bottom, left_top]
    rays = [center, right_top, right_bottom, center, left_bottom, center, axis]
    return torch.tensor(image + rays) * scale


@torch.no_grad()
def plot_scene(
    plots: Mapping[str, Mapping[str, Any]],
    *,
    viewpoint_cameras: CamerasBase | None = None,
    ncols: int = 1,
    camera_scale: float = 0.3,
    pointcloud_max_points: int = 20000,
    pointcloud_marker_size: int = 1,
    raybundle_max_rays: int = 20000,
    raybundle_max_points_per_ray: int = 1000,
    raybundle_ray_point_marker_size: int = 1,
    raybundle_ray_line_width: int = 1,
    **kwargs: Any,
) -> Any:
    """A plotly figure with a scene for each entry of `plots`.

    A batch becomes one trace: all meshes, clouds or cameras of it are drawn. Meshes show the colours of their vertices,
    or of their faces where their atlas has one texel for each; clouds those of features with 3 or 4 channels. Every
    scene shows the cube around all that is in it. Nothing that is passed is changed.

    Args:
        plots: title of the scene -> name of the trace -> `Meshes`, `Pointclouds`, cameras, `RayBundle` or
            `HeterogeneousRayBundle`. Rays are drawn as a line from the first to the last sample, and as points.
        viewpoint_cameras: where the scenes are seen from: one camera for all, or one for each.
        ncols: scenes in a row.
        camera_scale: as in `get_camera_wireframe`.
        pointcloud_max_points: most points of a cloud, drawn at random.
        pointcloud_marker_size: size of points.
        raybundle_max_rays: most rays of a bundle, drawn at random.
        raybundle_max_points_per_ray: most samples of a ray, drawn at random.
        raybundle_ray_point_marker_size: size of the samples of rays.
        raybundle_ray_line_width: width of rays.
        **kwargs: `lighting`, a `Lighting`; `axis_args`, an `AxisArgs` for all axes; `xaxis`, `yaxis` and `zaxis`,
            dictionaries that take precedence for one axis.

    Returns:
        A `plotly.graph_objects.Figure`: `show()` or `write_html(path)`.

    Raises:
        ImportError: if plotly is not installed.
        ValueError: if `plots` is empty or holds anything else.

    Example:
        >>> from recon_engine.utils import ico_sphere
        >>> figure = plot_scene({"a sphere": {"mesh": ico_sphere(2)}})  # doctest: +SKIP
        >>> figure.write_html("sphere.html")  # doctest: +SKIP
    """
    go, make_subplots = _plotly()
    if not plots:
        raise ValueError("plot_scene: plots must hold at least one scene, got none")
    unknown = [name for name in kwargs if name not in _OTHER_OPTIONS]
    if unknown:
        known = ", ".join(_OTHER_OPTIONS)
        warnings.warn(f"plot_scene: {', '.join(unknown)} has no effect; known are {known}", stacklevel=3)
    titles = list(plots)
    rows = math.ceil(len(titles) / ncols)
    figure = make_subplots(rows=rows, cols=ncols, specs=[[{"type": "scene"}] * ncols] * rows, subplot_titles=titles)
    draw = _Drawing(
        go,
        lighting=kwargs.get("lighting", Lighting())._asdict(),
        camera_scale=camera_scale,
        max_points=pointcloud_max_points,
        point_size=pointcloud_marker_size,
        max_rays=raybundle_max_rays,
        max_samples=raybundle_max_points_per_ray,
        sample_size=raybundle_ray_point_marker_size,
        ray_width=raybundle_ray_line_width,
    )
    viewpoints = _viewpoints(viewpoint_cameras, len(titles))
    every_axis = kwargs.get("axis_args", AxisArgs())._asdict()
    for i, title in enumerate(titles):
        boxes = []
        for name, struct in plots[title].items():
            traces, box = draw(struct, name)
            figure.add_traces(traces, rows=i // ncols + 1, cols=i % ncols + 1)
            if box is not None:
                boxes.append(box)
        low, high = (np.min(boxes, axis=0)[0], np.max(boxes, axis=0)[1]) if boxes else (None, None)
        axes: dict[str, Any] = {}
        for k, axis in enumerate(("xaxis", "yaxis", "zaxis")):
            shown = {} if low is None or high is None else {"range": [float(low[k]), float(high[k])]}
            axes[axis] = {**shown, **every_axis, **kwargs.get(axis, {})}
        # World coordinates have +Y upwards, plotly has +Z.
        camera: dict[str, Any] = {"up": {"x": 0.0, "y": 1.0, "z": 0.0}}
        if viewpoints is not None and low is not None and high is not None:
            eye, at, up = (values[min(i, len(values) - 1)] for values in viewpoints)
            middle, scale = (low + high) / 2, (high - low) / 2  # what plotly calls the cube [-1, 1]^3
            places = {"eye": (eye - middle) / scale, "center": (at - middle) / scale, "up": up / scale}
            camera = {name: dict(zip("xyz", place.tolist(), strict=True)) for name, place in places.items()}
        figure.layout[f"scene{i + 1}"].update(aspectmode="cube", camera=camera, **axes)
    return figure


def plot_batch_individually(
    batched_structs: Any,
    *,
    viewpoint_cameras: CamerasBase | None = None,
    ncols: int = 1,
    extend_struct: bool = True,
    subplot_titles: list[str] | None = None,
    **kwargs: Any,
) -> Any:
    """A plotly figure with a scene for each element of a batch.

    Args:
        batched_structs: one of the structures that `plot_scene` takes, or a list of them, each with as many elements
            as the largest or with one.
        viewpoint_cameras: as in `plot_scene`.
        ncols: scenes in a row.
        extend_struct: whether structures with one element are drawn in every scene; otherwise in the first one.
        subplot_titles: of the scenes; "subplot 1", "subplot 2", ... by default.
        **kwargs: as in `plot_scene`.

    Returns:
        A `plotly.graph_objects.Figure`, in which the j-th structure of scene i is named "trace{i}-{j}"; None, with a
        warning, if there is nothing to draw.

    Raises:
        ValueError: if sizes or titles do not fit.
    """
    structs = batched_structs if isinstance(batched_structs, list) else [batched_structs]
    sizes = [_length(struct) for struct in structs]
    if not structs or (structs is not batched_structs and sizes == [0]):
        warnings.warn("No structs to plot", stacklevel=2)
        return None
    count = max(sizes)
    if count == 0:
        raise ValueError("No data is provided with at least one element")
    for struct, size in zip(structs, sizes, strict=True):
        if size not in (1, count):
            raise ValueError(f"invalid batch size {size} provided, expected 1 or {count}: {struct}")
    titles = subplot_titles or [f"subplot {i + 1}" for i in range(count)]
    if len(set(titles)) != count or len(titles) != count:
        raise ValueError(f"invalid number of subplot titles: expected {count} different ones, got {titles}")
    scenes: dict[str, dict[str, Any]] = {title: {} for title in titles}
    for i, scene in enumerate(scenes.values()):
        for j, (struct, size) in enumerate(zip(structs, sizes, strict=True)):
            if i < size or extend_struct:
                scene[f"trace{i + 1}-{j + 1}"] = _element(struct, min(i, size - 1))
    return plot_scene(scenes, viewpoint_cameras=viewpoint_cameras, ncols=ncols, **kwargs)


class _Drawing:
    """Turns a structure into traces and the box [low, high] of what should be seen, (2, 3); None if that is nothing."""

    def __init__(self, go: Any, **options: Any) -> None:
        self.go = go
        self.options = options

    def __call__(self, struct: Any, name: str) -> tuple[list[Any], np.ndarray | None]:
        if isinstance(struct, Meshes):
            return self.meshes(struct, name)
        if isinstance(struct, Pointclouds):
            return self.clouds(struct, name)
        if isinstance(struct, CamerasBase):
            return self.cameras(struct, name)
        if _is_ray_bundle(struct):
            return self.rays(struct, name)
        raise ValueError(
            f"struct {struct} is not a Cameras, Meshes, Pointclouds, RayBundle or HeterogeneousRayBundle object: "
            f"{name} is a {type(struct).__name__}"
        )

    def meshes(self, meshes: Meshes, name: str) -> tuple[list[Any], np.ndarray | None]:
        textured = isinstance(meshes.textures, (TexturesVertex, TexturesAtlas))
        mesh = join_meshes_as_scene(meshes.detach().cpu(), include_textures=textured)
        points, faces = _array(mesh.verts_packed()).copy(), mesh.faces_packed().numpy()
        # Vertices without faces are hidden among the others.
        used = np.zeros(len(points), dtype=bool)
        used[faces] = True
        if used.any():
            points[~used] = points[used].mean(axis=0)
        colors: dict[str, Any] = {}
        if isinstance(mesh.textures, TexturesVertex):
            colors["vertexcolor"] = _css_colors(mesh.textures.verts_features_packed())
        elif isinstance(mesh.textures, TexturesAtlas) and mesh.textures.atlas_packed().shape[1] == 1:
            colors["facecolor"] = _css_colors(mesh.textures.atlas_packed()[:, 0, 0])
        corners = {axis: faces[:, k] for k, axis in enumerate("ijk")}
        trace = self.go.Mesh3d(**_xyz(points), **corners, **colors, lighting=self.options["lighting"], name=name)
        return [trace], _box(points, points[used])

    def clouds(self, clouds: Pointclouds, name: str) -> tuple[list[Any], np.ndarray | None]:
        clouds = clouds.detach().cpu().subsample(self.options["max_points"])
        points, features = _array(clouds.points_packed()), clouds.features_packed()
        marker = {"size": self.options["point_size"], "color": None if features is None else _css_colors(features)}
        trace = self.go.Scatter3d(**_xyz(points), marker=marker, mode="markers", name=name)
        return [trace], _box(points, points)

    def cameras(self, cameras: CamerasBase, name: str) -> tuple[list[Any], np.ndarray | None]:
        world_from_view = cameras.get_world_to_view_transform().inverse()
        wire = get_camera_wireframe(self.options["camera_scale"]).to(world_from_view.get_matrix())
        wires = world_from_view.transform_points(wire).reshape(-1, *wire.shape)
        points = _array(wires).reshape(-1, 3)
        trace = self.go.Scatter3d(**_xyz(_broken_lines(_array(wires))), marker={"size": 1}, name=name)
        return [trace], _box(points, points)

    def rays(self, bundle: Any, name: str) -> tuple[list[Any], np.ndarray | None]:
        flat = {field: getattr(bundle, field).detach().cpu() for field in _RAY_FIELDS}
        rays = RayBundle(**{field: values.reshape(-1, values.shape[-1]) for field, values in flat.items()})
        everything = _array(ray_bundle_to_ray_points(rays)).reshape(-1, 3)
        if len(rays.lengths) > self.options["max_rays"]:
            chosen = torch.randperm(len(rays.lengths))[: self.options["max_rays"]]
            rays = RayBundle(*(values[chosen] for values in rays))
        if not rays.lengths.numel():
            ends = samples = np.zeros((0, 3))
        else:
            ends = _broken_lines(_array(ray_bundle_to_ray_points(_ends(rays))))
            if rays.lengths.shape[-1] > self.options["max_samples"]:
                order = torch.rand(rays.lengths.shape).argsort(dim=-1)[..., : self.options["max_samples"]]
                rays = rays._replace(lengths=rays.lengths.gather(-1, order))
            samples = _array(ray_bundle_to_ray_points(rays)).reshape(-1, 3)
        lines = self.go.Scatter3d(
            **_xyz(ends), marker={"size": 0.1}, line={"width": self.options["ray_width"]}, name=name
        )
        marker = {"size": self.options["sample_size"]}
        points = self.go.Scatter3d(**_xyz(samples), mode="markers", marker=marker, name=f"{name}_points")
        return [lines, points], _box(everything, everything)


def _ends(rays: RayBundle) -> RayBundle:
    """The same rays with two samples, the first and the last along the ray."""
    return rays._replace(lengths=torch.stack((rays.lengths.amin(dim=-1), rays.lengths.amax(dim=-1)), dim=-1))


def _plotly() -> tuple[Any, Any]:
    try:
        import plotly.graph_objects as go
        from plotly.subplots import make_subplots
    except ImportError as error:
        raise ImportError('plot_scene needs plotly: pip install "recon_engine[vis]"') from error
    return go, make_subplots


def _is_ray_bundle(struct: Any) -> bool:
    return all(hasattr(struct, field) for field in _RAY_FIELDS)


def _camera_counts(struct: Any) -> Tensor | None:
    """How many rays of a bundle belong to each camera; None where its first dimension counts the cameras."""
    return getattr(struct, "camera_counts", None)


def _length(struct: Any) -> int:
    if not _is_ray_bundle(struct):
        return len(struct)
    counts = _camera_counts(struct)
    return len(struct.directions if counts is None else counts)


def _element(struct: Any, index: int) -> Any:
    """Element `index` of a batch; of cameras and rays, what of it is drawn."""
    if isinstance(struct, CamerasBase):
        R, T = (values[min(index, len(values) - 1)][None] for values in (struct.R, struct.T))
        return CamerasBase(R=R, T=T, device=struct.device)
    if not _is_ray_bundle(struct):
        return struct[index]
    counts = _camera_counts(struct)
    if counts is None:
        return RayBundle(*(getattr(struct, field)[index] for field in RayBundle._fields))
    last = int(counts[: index + 1].sum())
    return RayBundle(*(getattr(struct, field)[last - int(counts[index]) : last] for field in RayBundle._fields))


def _array(values: Tensor) -> np.ndarray:
    return values.detach().cpu().double().numpy()


def _xyz(points: np.ndarray) -> dict[str, np.ndarray]:
    return {axis: points[:, k] for k, axis in enumerate("xyz")}


def _broken_lines(lines: np.ndarray) -> np.ndarray:
    """(N, P, 3) polylines as one, (N (P + 1) - 1, 3): plotly draws nothing to and from the NaN between them."""
    gaps = np.full((len(lines), 1, 3), np.nan)
    return np.concatenate([lines, gaps], axis=1).reshape(-1, 3)[:-1]


def _css_colors(colors: Tensor) -> list[str] | None:
    """Colours (N, 3) or (N, 4) in [0, 1] as CSS writes them; None for other channels.

    Numbers would be ambiguous: plotly.js takes a colour of 0..255 for fractions where it is nearly black.
    """
    if colors.shape[-1] not in (3, 4):
        return None
    values = colors.detach().cpu().clamp(0.0, 1.0)
    rgb = (values[:, :3] * 255).round().int().tolist()
    if values.shape[-1] == 3:
        return [f"rgb({r},{g},{b})" for r, g, b in rgb]
    return [f"rgba({r},{g},{b},{a:.4f})" for (r, g, b), a in zip(rgb, values[:, 3].tolist(), strict=True)]


def _box(points: np.ndarray, centered: np.ndarray) -> np.ndarray | None:
    """The cube around the mean of `centered` that reaches as far as `points` extend, as (2, 3); None without points."""
    points = points[np.isfinite(points).all(axis=1)]
    centered = centered[np.isfinite(centered).all(axis=1)]
    if not len(points):
        return None
    center = (centered if len(centered) else points).mean(axis=0)
    extent = np.ptp(points, axis=0).max()
    reach = extent if extent > 0 else 1.0  # something around a single point
    return np.stack([center - reach, center + reach])


def _viewpoints(cameras: CamerasBase | None, num_scenes: int) -> tuple[np.ndarray, ...] | None:
    """The eyes, the points that are looked at and the up directions of `cameras`, (N, 3) each."""
    if cameras is None or not len(cameras):
        return None
    if len(cameras) not in (1, num_scenes):
        warnings.warn(
            f"Invalid number {len(cameras)} of viewpoint cameras were provided. Either 1 or {num_scenes} cameras are "
            "required",
            stacklevel=4,
        )
        return None
    return tuple(_array(values) for values in camera_to_eye_at_up(cameras.get_world_to_view_transform().cpu()))
