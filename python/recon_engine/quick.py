"""One line from a file to a mesh and one from a mesh to a picture, a turntable or a depth map."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from recon_engine._mesh_files import CLAY, load
from recon_engine.structures import Meshes

__all__ = ["View", "depth_map", "load", "render", "turntable"]

Shader = Literal["phong", "flat", "gouraud", "unlit", "silhouette", "depth"]
Projection = Literal["perspective", "orthographic"]

SUPERSAMPLE = 2
_FILLED = 0.9  # of the picture, by the mesh, along the side that it reaches first
_FITTED_TURNS = 90  # at most, spread over a turntable
_EDGE = 1e-9  # squared distance from a face at which a sample still shows it: none falls between two faces
_CREASE = math.cos(math.radians(40.0))  # edges that bend more are shown sharp
_FARTHEST = 0.15  # brightness of the farthest point of a depth picture; the nearest has 1


@dataclass(frozen=True)
class View:
    """How a mesh is shown: the options of `render`, `turntable` and `depth_map`.

    Attributes:
        size: side of a square picture in pixels, or (H, W).
        shader: `phong` lights every pixel, `flat` shows the faces, `gouraud` lights the corners of faces only, `unlit`
            shows the colours as they are, `silhouette` is white, `depth` is brighter the nearer the surface.
        distance: of the camera from the middle of the mesh, in the mesh's units. Default: so that the mesh fills the
            picture, and is centred in it.
        elevation: of the camera, in degrees above the xz plane.
        azimuth: of the camera, in degrees around the y axis; 0 looks along -z.
        projection: `perspective`, or `orthographic`, which shows what the perspective camera shows at the middle.
        fov: field of view along the picture's shorter side, in degrees.
        camera: a camera (batch of one) to use as it is, instead of the five options above it.

    Raises:
        ValueError: an option out of its range.
    """

    size: int | tuple[int, int] = 512
    shader: Shader = "phong"
    distance: float | None = None
    elevation: float = 20.0
    azimuth: float = 30.0
    projection: Projection = "perspective"
    fov: float = 30.0
    camera: Any = None

    def __post_init__(self) -> None:
        for name, known in (("shader", get_args(Shader)), ("projection", get_args(Projection))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if min(self.shape) < 1:
            raise ValueError(f"size must be 1 or more, got {self.size}")
        if self.distance is not None and not 0 < self.distance < math.inf:
            raise ValueError(f"distance must be above 0, got {self.distance}")
        if not 0 < self.fov < 180:
            raise ValueError(f"fov must be between 0 and 180 degrees, got {self.fov}")
        for name in ("elevation", "azimuth"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be a number of degrees, got {getattr(self, name)}")
        if self.camera is not None and len(self.camera.R) != 1:
            raise ValueError(f"camera must be a batch of one camera, got {len(self.camera.R)}")

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def reach(self) -> tuple[float, float]:
        """Half of what the picture shows across and upwards, one unit in front of the camera."""
        height, width = self.shape
        half = math.tan(math.radians(self.fov / 2)) / min(height, width)
        return half * width, half * height


def render(
    mesh: Meshes | Path | str | Sequence[Tensor],
    *,
    size: int | tuple[int, int] = 512,
    shader: Shader = "phong",
    distance: float | None = None,
    elevation: float = 20.0,
    azimuth: float = 30.0,
    projection: Projection = "perspective",
    fov: float = 30.0,
    camera: Any = None,
) -> Tensor:
    """A picture of a mesh: the camera sees all of it, and the light comes from the camera's upper left.

    Surfaces are lit from both sides, so meshes whose faces look inwards are not dark. Edges that bend by more than 40
    degrees are sharp, others smooth; vertices at the same place count as one. Pixels are averages of 2 x 2 samples.

    Args:
        mesh: a batch of one, a file, or vertices (V, 3) and faces (F, 3).
        size: see `View`, like the arguments below.
        shader: `phong`, `flat`, `gouraud`, `unlit`, `silhouette` or `depth`. A depth picture is normalised over what
            it shows: 1 at the nearest point, 0.15 at the farthest; `depth_map` has the distances.
        distance: of the camera from the middle of the mesh; fitted when None.
        elevation: in degrees.
        azimuth: in degrees.
        projection: `perspective` or `orthographic`.
        fov: in degrees.
        camera: used as it is, instead of the five arguments above it.

    Returns:
        (H, W, 4), colours and straight alpha from 0 to 1, in the dtype of the vertices. Its gradient in the vertices
        is that of the shading, or of a soft silhouette; in other pictures the outline has none.

    Raises:
        ValueError: not exactly one mesh, no faces, vertices that are not finite, or an option out of its range.
    """
    view = View(size, shader, distance, elevation, azimuth, projection, fov, camera)
    (picture,) = _pictures(mesh, [view])
    return picture


def turntable(mesh: Meshes | Path | str | Sequence[Tensor], frames: int = 90, **view: Any) -> Iterator[Tensor]:
    """Pictures from a camera that goes once around the y axis, made one by one as they are asked for.

    Args:
        mesh: as in `render`.
        frames: pictures in a turn.
        **view: the options of `render` but `camera`; the first picture is taken at `azimuth`.

    Yields:
        `frames` tensors as `render` returns them; all at one distance, from which every one fits the picture.

    Raises:
        ValueError: see `render`; fewer than one frame; a camera.
    """
    if frames < 1:
        raise ValueError(f"frames must be 1 or more, got {frames}")
    first = View(**view)
    if first.camera is not None:
        raise ValueError("camera cannot be given for a turntable: give elevation, azimuth and distance")
    yield from _pictures(mesh, [replace(first, azimuth=first.azimuth + 360.0 * i / frames) for i in range(frames)])


def depth_map(mesh: Meshes | Path | str | Sequence[Tensor], **view: Any) -> Tensor:
    """Distances from the camera's plane to the mesh, in the mesh's units.

    Args:
        mesh: as in `render`.
        **view: the options of `render` but `shader`.

    Returns:
        (H, W), infinite where the mesh is not; one sample in a pixel's middle. Differentiable in the vertices.

    Raises:
        ValueError: see `render`.
    """
    seen = View(**view)
    surface = Surface.of(mesh)
    cameras = surface.cameras([seen])[0] if seen.camera is None else seen.camera
    depth = _depth(surface.placed(seen), cameras, seen.shape)[0]
    return depth * surface.scale if seen.camera is None else depth


class Surface(NamedTuple):
    """One mesh, and its vertices moved and scaled so that they lie within the unit sphere."""

    mesh: Meshes
    unit: Tensor
    center: Tensor
    scale: float

    @classmethod
    def of(cls, mesh: Meshes | Path | str | Sequence[Tensor]) -> Surface:
        """What `render` takes, checked."""
        mesh = _as_meshes(mesh)
        verts = mesh.verts_packed()
        if not bool(torch.isfinite(verts).all()):
            raise ValueError("mesh has vertices that are NaN or infinite")
        shown = verts.detach()[mesh.faces_packed().unique()]
        center = (shown.amin(0) + shown.amax(0)) / 2
        scale = max(float((shown - center).norm(dim=1).max()), 1e-30)
        return cls(mesh, (verts - center) / scale, center, scale)

    def placed(self, view: View) -> Meshes:
        """The mesh without textures, where the view's cameras expect it."""
        verts = self.unit if view.camera is None else self.mesh.verts_packed()
        return Meshes(verts=[verts], faces=[self.mesh.faces_packed()])

    def cameras(self, views: Sequence[View]) -> list[Any]:
        """A camera for each view. They differ in azimuth only, and share distance and shift."""
        from recon_engine.renderer import FoVOrthographicCameras, FoVPerspectiveCameras, look_at_view_transform

        verts, view = self.unit.detach(), views[0]
        verts = verts[self.mesh.faces_packed().unique()]
        turns = [look_at_view_transform(1.0, view.elevation, view.azimuth)[0].to(verts) for view in views]
        placement = _fitted(verts, turns, view) if view.distance is None else (0.0, 0.0, view.distance / self.scale)
        left, up, distance = placement
        if view.projection == "orthographic":
            half = distance * min(view.reach)
            T = verts.new_tensor([[-left, -up, 3.0]])  # from any distance it looks the same
            return [
                FoVOrthographicCameras(1.0, 5.0, half, -half, half, -half, R=R, T=T, device=verts.device) for R in turns
            ]
        T = verts.new_tensor([[-left, -up, distance]])
        near, far = max(distance - 1.01, 1e-3 * distance), distance + 1.01
        return [FoVPerspectiveCameras(near, far, fov=view.fov, R=R, T=T, device=verts.device) for R in turns]


def _fitted(verts: Tensor, turns: Sequence[Tensor], view: View) -> tuple[float, float, float]:
    """The camera's shift to the left and up and its distance, so that all turns of the mesh fill the picture.

    A point (x, y, z) of the camera's axes, z away from it, is in a perspective picture of half width t if
    |x - shift| <= t (distance + z). With a = max(x / t - z) and b = max(-x / t - z), the least distance is (a + b) / 2,
    at the shift t (a - b) / 2. An orthographic picture has no z.
    """
    is_deep = float(view.projection == "perspective")
    reach = verts.new_tensor(view.reach) * _FILLED
    high = verts.new_full((2,), -math.inf)
    low = high.clone()
    for R in turns[:: -(-len(turns) // _FITTED_TURNS)]:
        points = verts @ R[0]
        across, depth = points[:, :2] / reach, is_deep * points[:, 2:]
        high = torch.maximum(high, (across - depth).amax(0))
        low = torch.maximum(low, (-across - depth).amax(0))
    shift = reach * (high - low) / 2
    distance = max(float((high + low).max()) / 2, 1e-2)
    if len(turns) == 1 and is_deep:
        # From this distance the mesh does not reach the other two borders: it is centred between them.
        for _ in range(4):
            seen = (points[:, :2] - shift) / (points[:, 2:] + distance)
            shift += distance * (seen.amax(0) + seen.amin(0)) / 2
    left, up = shift.tolist()
    return left, up, distance


def _pictures(mesh: Meshes | Path | str | Sequence[Tensor], views: Sequence[View]) -> Iterator[Tensor]:
    """The mesh in views that differ in azimuth only."""
    surface, view = Surface.of(mesh), views[0]
    cameras = surface.cameras(views) if view.camera is None else [view.camera]
    if view.shader == "depth":
        placed = surface.placed(view)
        yield from (_depth_picture(placed, camera, view) for camera in cameras)
    elif view.shader == "silhouette":
        placed = surface.placed(view)
        yield from (_silhouette(placed, camera, view) for camera in cameras)
    else:
        lit = Lit.of(surface, view)
        middle = surface.center if view.camera is not None else torch.zeros_like(surface.center)
        for camera in cameras:
            renderer = studio(camera, view.shape, view.shader, middle)
            yield shrink(renderer(lit.seen_from(camera)))[0]


def studio(cameras: Any, size: tuple[int, int], shader: Shader, middle: Tensor | None = None) -> Any:
    """The `MeshRenderer` of all shaded pictures: one light at the camera's upper left, on nothing.

    Args:
        cameras: N cameras.
        size: (H, W) of the pictures; the renderer makes them `SUPERSAMPLE` times as large, for `shrink`.
        shader: `gouraud`, `unlit`, or else Phong.
        middle: (3,), what the light's distance is measured from. Default: the origin.
    """
    from recon_engine import renderer

    device = cameras.device
    eye = cameras.get_camera_center()
    reach = (eye if middle is None else eye - middle).norm(dim=-1, keepdim=True)
    left, up, _ = cameras.R.unbind(2)
    lights: Any = renderer.AmbientLights(device=device)
    if shader != "unlit":
        lights = renderer.PointLights(
            location=eye + reach * (0.45 * left + 0.6 * up),
            ambient_color=((0.42, 0.42, 0.44),),
            diffuse_color=((0.62, 0.61, 0.58),),
            specular_color=((0.04, 0.04, 0.04),),
            device=device,
        )
    shade = renderer.HardGouraudShader if shader == "gouraud" else renderer.HardPhongShader
    return renderer.MeshRenderer(
        renderer.MeshRasterizer(cameras, _raster_settings(size, SUPERSAMPLE)),
        shade(
            device=device,
            cameras=cameras,
            lights=lights,
            materials=renderer.Materials(shininess=16.0, device=device),
            blend_params=renderer.BlendParams(background_color=(0.0, 0.0, 0.0)),
        ),
    )


def unit_range(values: Tensor) -> Tensor:
    """Values clamped to 0 and 1, with a gradient of 1 at either: that of `clamp` is 0 there since torch 2.15.

    Pixels that an object covers have an alpha of exactly 1, and those beside it of exactly 0.
    """
    return torch.where(values < 0, 0, torch.where(values > 1, 1, values))


def shrink(rgba: Tensor) -> Tensor:
    """(N, H, W, 4): averages of blocks of supersampled pixels, colours weighted by alpha."""
    rgba = unit_range(rgba)
    alpha = rgba[..., 3:]
    premultiplied = torch.cat([rgba[..., :3] * alpha, alpha], -1).permute(0, 3, 1, 2)
    small = F.avg_pool2d(premultiplied, SUPERSAMPLE).permute(0, 2, 3, 1)
    return torch.cat([small[..., :3] / small[..., 3:].clamp(min=1e-6), small[..., 3:]], -1)


def _raster_settings(size: tuple[int, int], times: int, blur_radius: float = _EDGE, faces_per_pixel: int = 1) -> Any:
    from recon_engine.renderer import RasterizationSettings

    height, width = size
    return RasterizationSettings(
        image_size=(height * times, width * times), blur_radius=blur_radius, faces_per_pixel=faces_per_pixel
    )


def _depth(mesh: Meshes, cameras: Any, size: tuple[int, int], times: int = 1) -> Tensor:
    """(1, H times, W times), infinite where the mesh is not."""
    from recon_engine.renderer import MeshRasterizer

    fragments = MeshRasterizer(cameras, _raster_settings(size, times))(mesh)
    return torch.where(fragments.pix_to_face < 0, math.inf, fragments.zbuf)[..., 0]


def _silhouette(mesh: Meshes, cameras: Any, view: View) -> Tensor:
    """White where the mesh is. The gradient is that of a soft silhouette, whose edges reach about one sample wide."""
    from recon_engine.renderer import BlendParams, MeshRasterizer, MeshRenderer, SoftSilhouetteShader

    verts = mesh.verts_packed()
    alpha = _depth(mesh, cameras, view.shape, SUPERSAMPLE).isfinite().to(verts)
    if verts.requires_grad and torch.is_grad_enabled():
        sigma = 1.0 / (min(view.shape) * SUPERSAMPLE) ** 2
        settings = _raster_settings(view.shape, SUPERSAMPLE, math.log(1e4 - 1) * sigma, faces_per_pixel=20)
        soften = MeshRenderer(MeshRasterizer(cameras, settings), SoftSilhouetteShader(BlendParams(sigma=sigma)))
        soft = soften(mesh)[..., 3]
        alpha = soft + (alpha - soft).detach()
    return shrink(torch.stack([torch.ones_like(alpha)] * 3 + [alpha], -1))[0]


def _depth_picture(mesh: Meshes, cameras: Any, view: View) -> Tensor:
    depth = _depth(mesh, cameras, view.shape, SUPERSAMPLE)
    is_shown = depth.isfinite()
    near, far = depth.amin(), torch.where(is_shown, depth, -math.inf).amax()
    farther = torch.where(is_shown, (depth - near) / (far - near).clamp(min=1e-12), 0.0)
    grey = 1.0 - (1.0 - _FARTHEST) * farther
    return shrink(torch.stack([grey, grey, grey, is_shown.to(grey)], -1))[0]


class Lit(NamedTuple):
    """A surface whose faces do not share their corners, so that each corner has a normal of its own."""

    corners: Tensor
    normals: Tensor
    textures: Any

    @classmethod
    def of(cls, surface: Surface, view: View) -> Lit:
        faces = surface.mesh.faces_packed()
        verts = surface.unit if view.camera is None else surface.mesh.verts_packed()
        textures = _corner_textures(surface.mesh, at_corners=view.shader == "gouraud")
        return cls(verts[faces], _corner_normals(surface.unit, faces, is_smooth=view.shader != "flat"), textures)

    def seen_from(self, camera: Any) -> Meshes:
        """A mesh whose normals look to the camera's side of each face."""
        from recon_engine.renderer import FoVOrthographicCameras, OrthographicCameras

        corners = self.corners.detach()
        toward = -camera.R[0, :, 2]
        if not isinstance(camera, (FoVOrthographicCameras, OrthographicCameras)):
            toward = camera.get_camera_center() - corners.mean(1)
        is_back = (_area_normals(corners) * toward).sum(1) < 0
        normals = torch.where(is_back[:, None, None], -self.normals, self.normals)
        return Meshes(
            verts=[self.corners.reshape(-1, 3)],
            faces=[torch.arange(3 * len(corners), device=corners.device).reshape(-1, 3)],
            textures=self.textures,
            verts_normals=[normals.reshape(-1, 3)],
        )


def _corner_textures(mesh: Meshes, at_corners: bool) -> Any:
    """The mesh's textures, or clay, for faces that do not share their corners."""
    from recon_engine.renderer import TexturesVertex

    verts, faces, textures = mesh.verts_packed(), mesh.faces_packed(), mesh.textures
    if textures is None:
        return TexturesVertex([verts.new_tensor(CLAY).expand(3 * len(faces), 3)])
    if at_corners or isinstance(textures, TexturesVertex):
        colors = textures.faces_verts_textures_packed(faces)
        return TexturesVertex([colors.reshape(-1, colors.shape[-1])])
    return textures


def _area_normals(corners: Tensor) -> Tensor:
    """(F, 3): normals of triangles (F, 3, 3), twice as long as their areas."""
    a, b, c = corners.unbind(1)
    return torch.linalg.cross(b - a, c - a)


def _corner_normals(verts: Tensor, faces: Tensor, is_smooth: bool) -> Tensor:
    """(F, 3, 3): the unit normal at each corner, averaged over the faces that go on smoothly around its vertex."""
    areas = _area_normals(verts[faces])
    if not is_smooth:
        return F.normalize(areas, dim=1)[:, None].expand(-1, 3, -1)
    group = _smooth_groups(verts.detach(), faces, F.normalize(areas.detach(), dim=1))
    sums = torch.zeros(3 * len(faces), 3, dtype=verts.dtype, device=verts.device)
    sums = sums.index_add(0, group, areas[:, None].expand(-1, 3, -1).reshape(-1, 3))
    return F.normalize(sums, dim=1)[group].reshape(-1, 3, 3)


def _smooth_groups(verts: Tensor, faces: Tensor, normals: Tensor) -> Tensor:
    """(3 F,): one number for all corners at a vertex between which no sharp edge or border lies."""
    place = verts.unique(dim=0, return_inverse=True)[1][faces]
    corner = torch.arange(3 * len(faces), device=faces.device).reshape(-1, 3)
    ends = torch.stack([place, place.roll(-1, 1)], -1).reshape(-1, 2)
    corners = torch.stack([corner, corner.roll(-1, 1)], -1).reshape(-1, 2)
    is_swapped = (ends[:, 0] > ends[:, 1])[:, None]
    ends, corners = (torch.where(is_swapped, pair.flip(1), pair) for pair in (ends, corners))
    key, order = (ends[:, 0] * (int(place.max()) + 1) + ends[:, 1]).sort()
    corners = corners[order]
    face = corners[:, 0] // 3
    bend = (normals[face[1:]] * normals[face[:-1]]).sum(1)
    is_joined = (key[1:] == key[:-1]) & (bend > _CREASE)
    one, other = corners[1:][is_joined].reshape(-1), corners[:-1][is_joined].reshape(-1)

    # Connected components: the lowest number spreads along the pairs, and by jumping to the number's own number.
    group = corner.reshape(-1)
    while True:
        lowest = torch.minimum(group[one], group[other])
        spread = group.scatter_reduce(0, one, lowest, "amin").scatter_reduce(0, other, lowest, "amin")
        spread = spread[spread]
        if torch.equal(spread, group):
            return group
        group = spread


def _as_meshes(mesh: Meshes | Path | str | Sequence[Tensor]) -> Meshes:
    """One mesh with faces."""
    if isinstance(mesh, (str, Path)):
        return load(mesh)
    if not isinstance(mesh, Meshes):
        if not isinstance(mesh, (tuple, list)) or len(mesh) != 2:
            raise ValueError(f"mesh must be a Meshes, a path, or (verts, faces), got {type(mesh).__name__}")
        mesh = Meshes(verts=[mesh[0]], faces=[mesh[1]])
    if len(mesh) != 1 or not len(mesh.faces_packed()):
        raise ValueError(f"mesh must be one mesh with faces, got {len(mesh)} with {len(mesh.faces_packed())} faces")
    return mesh
