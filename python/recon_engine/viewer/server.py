"""A page in a browser that shows a scene with viser, and changes when the files do."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recon_engine._extra import extra
from recon_engine.structures import Meshes, Pointclouds, Volumes

from .scene import Scene, default_level, isosurface, read_scene, scattered, signature, unused

_SECONDS = 0.5  # between looks at the files
_FOV = math.radians(40.0)  # of the page's camera at the start
_CAMERA_COLOR = (184, 64, 42)
_WIRE_COLOR = (40, 60, 90)
_POINT_COLOR = (70, 90, 120)


class Viewer:
    """Serves files and runs until it is closed.

    The y axis is up. What a run writes later replaces what is shown, the camera stays where it is.

    Args:
        *paths: as in `read_scene`, shown together. A run that has not written anything yet is waited for.
        host: the address that is listened at: 127.0.0.1 for this machine alone, 0.0.0.0 for the network.
        port: the port, or the next one that is free.

    Attributes:
        server: viser's.
        scene: what is shown; without things before a run has written anything.
        url: where the page is.

    Raises:
        ImportError: viser is missing; names the pip line.
        FileNotFoundError: there is no such file, nor a folder that a run could be in.
        ValueError: no path, or a file that cannot be shown.

    Example:
        >>> with Viewer("cow.obj") as viewer:  # doctest: +SKIP
        ...     viewer.follow()
    """

    def __init__(self, *paths: Path | str, host: str = "127.0.0.1", port: int = 8080) -> None:
        viser = extra("viser", "view")
        if not paths:
            raise ValueError("the viewer needs a file, a results folder or the name of a run")
        self.paths = [Path(path) for path in paths]
        self._seen = [signature(path) for path in self.paths]
        self._scenes = [None if self._is_awaited(path) else read_scene(path) for path in self.paths]
        title = ", ".join(path.name for path in self.paths)
        self.server = viser.ViserServer(host=host, port=port, label=f"{title} · recon view", verbose=False)
        self.url = f"http://{'localhost' if host in ('127.0.0.1', '0.0.0.0') else host}:{self.server.get_port()}"
        self._closed = threading.Event()
        self._lock = threading.RLock()
        self._shown: dict[str, list[Any]] = {}
        self._radius = 1.0
        self._is_framed = False
        self._build_page()
        self._draw()

    @staticmethod
    def _is_awaited(path: Path) -> bool:
        """Whether a path can be that of a run that has not written anything."""
        nothing = not signature(path) and not path.exists()
        return nothing and not path.suffix and path.absolute().parent.is_dir()

    @property
    def scene(self) -> Scene:
        """What is shown of all paths together."""
        return merged([path.stem for path in self.paths], self._scenes)

    def __enter__(self) -> Viewer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving."""
        self._closed.set()
        self.server.stop()

    def follow(self, seconds: float | None = None) -> None:
        """Keep the page up to date, for some seconds, or until `close` or Ctrl-C."""
        until = math.inf if seconds is None else time.perf_counter() + seconds
        while time.perf_counter() < until and not self._closed.wait(_SECONDS):
            self.update()

    def update(self) -> bool:
        """Look at the files once; whether something new is shown."""
        is_new = False
        for i, path in enumerate(self.paths):
            found = signature(path)
            if found == self._seen[i] or not found:
                continue
            try:
                self._scenes[i] = read_scene(path)
            except (ValueError, OSError) as error:  # half written, or being replaced: there will be a next time
                self._note.content = str(error)
                continue
            self._seen[i], is_new = found, True
        if is_new:
            self._draw()
        return is_new

    def _build_page(self) -> None:
        gui = self.server.gui
        scene = self.server.scene
        scene.set_up_direction("+y")
        scene.configure_default_lights(False)
        scene.configure_environment_map(None)
        scene.add_light_ambient("/light/all", intensity=1.1)
        for name, intensity, place in (("upper left", 1.9, (-1.0, 3.0, 3.0)), ("behind", 0.8, (2.0, 1.0, -3.0))):
            scene.add_light_directional(f"/light/{name}", intensity=intensity, position=place)
        gui.configure_theme(dark_mode=False, show_logo=False, show_share_button=False)
        self._note = gui.add_markdown("waiting for the run to begin")
        self._progress = gui.add_progress_bar(0.0, visible=False)
        self._wires = gui.add_checkbox("edges of faces", False)
        self._cameras = gui.add_checkbox("cameras", True)
        self._as_points = gui.add_checkbox("volumes as points", False)
        self._level = gui.add_slider("density of the surface", min=0.01, max=0.99, step=0.01, initial_value=0.5)
        for control in (self._wires, self._cameras, self._as_points, self._level):
            control.on_update(lambda _: self._draw())

    def _frame(self, scene: Scene) -> None:
        """Put the page's camera where it sees everything; cameras count only where there is nothing else."""
        shapes = [thing for thing in scene.things.values() if not _is_camera(thing)] or list(scene.things.values())
        points = torch.cat([corners(thing) for thing in shapes] + [torch.zeros(0, 3)])
        if not len(points):
            return
        low, high = points.amin(0), points.amax(0)
        center, self._radius = (low + high) / 2, max(float((high - low).norm()) / 2, 1e-6)
        direction = torch.tensor([0.45, 0.4, 0.8])
        eye = center + direction / direction.norm() * self._radius / math.sin(_FOV / 2) * 1.05
        camera = self.server.initial_camera
        camera.look_at, camera.position, camera.fov = center.numpy(), eye.numpy(), _FOV
        camera.near, camera.far = self._radius / 100, self._radius * 1000
        volumes = [thing for thing in scene.things.values() if isinstance(thing, Volumes)]
        if volumes:
            self._level.value = round(default_level(volumes[0].densities()), 2)
        self._is_framed = True

    def _draw(self) -> None:
        """Show the scene as the controls say, in place of what was there."""
        with self._lock, self.server.atomic():
            scene = self.scene
            if not self._is_framed:
                self._frame(scene)
            for handle in [handle for handles in self._shown.values() for handle in handles]:
                handle.remove()
            self._shown = {name: self._add(name, thing) for name, thing in scene.things.items()}
            self._note.content = described(scene) or f"waiting for {self.paths[0].name} to begin"
            kinds = list(scene.things.values())
            self._as_points.visible = self._level.visible = any(isinstance(thing, Volumes) for thing in kinds)
            self._cameras.visible = any(_is_camera(thing) for thing in kinds)
            self._wires.visible = any(isinstance(thing, (Meshes, Volumes)) for thing in kinds)
            self._progress.visible = scene.is_running and bool(scene.steps)
            if scene.steps and scene.step is not None:
                self._progress.value = 100.0 * scene.step / scene.steps

    def _add(self, name: str, thing: Any) -> list[Any]:
        if isinstance(thing, Volumes):
            thing = (
                scattered(thing, self._level.value) if self._as_points.value else isosurface(thing, self._level.value)
            )
        if isinstance(thing, Meshes):
            return [self._add_mesh(f"/{name}/{i}", mesh) for i, mesh in enumerate(thing) if not mesh.isempty()]
        if isinstance(thing, Pointclouds):
            return [self._add_points(f"/{name}/{i}", cloud) for i, cloud in enumerate(thing) if not cloud.isempty()]
        if _is_camera(thing):
            return self._add_cameras(name, thing) if self._cameras.value else []
        raise TypeError(f"the viewer cannot show {name}: {type(thing).__name__}")

    def _add_mesh(self, name: str, mesh: Meshes) -> Any:
        if self._wires.value:
            verts, faces = mesh.verts_packed().detach().cpu().numpy(), mesh.faces_packed().cpu().numpy()
            return self.server.scene.add_mesh_simple(name, verts, faces, color=_WIRE_COLOR, wireframe=True)
        return self.server.scene.add_mesh_trimesh(name, textured(mesh))

    def _add_points(self, name: str, cloud: Pointclouds) -> Any:
        points, features = cloud.points_packed().detach(), cloud.features_packed()
        colors: Any = _POINT_COLOR
        if features is not None and features.shape[1] >= 3:
            colors = as_bytes(features[:, :3])
        return self.server.scene.add_point_cloud(
            name, points.cpu().numpy(), colors, point_size=self._radius / 150, point_shape="circle", precision="float32"
        )

    def _add_cameras(self, name: str, cameras: Any) -> list[Any]:
        return [
            self.server.scene.add_camera_frustum(
                f"/{name}/{i}",
                fov=_angle(cameras, i),
                aspect=1.0,
                scale=self._radius / 8,
                color=_CAMERA_COLOR,
                wxyz=wxyz,
                position=position,
            )
            for i, (wxyz, position) in enumerate(opencv_pose(cameras))
        ]


def opencv_pose(cameras: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each camera's quaternion (w, x, y, z) and place, as viser wants them: x to the right, y down, z forward."""
    from recon_engine.transforms import matrix_to_quaternion

    to_world = cameras.get_world_to_view_transform().inverse().get_matrix().detach().cpu()
    axes = to_world[:, :3, :3] * torch.tensor([[-1.0], [-1.0], [1.0]])  # rows were left, up, forward
    return list(zip(matrix_to_quaternion(axes.transpose(1, 2)).numpy(), to_world[:, 3, :3].numpy()))


def merged(names: Sequence[str], scenes: Sequence[Scene | None]) -> Scene:
    """One scene of several; things have the names of their files before their own where there are more than one."""
    found = [(name, scene) for name, scene in zip(names, scenes, strict=True) if scene is not None]
    if len(found) == 1:
        return found[0][1]
    things: dict[str, Any] = {}
    for name, scene in found:
        for part, thing in scene.things.items():
            things[unused(name if part == name else f"{name} {part}", things)] = thing
    running = next((scene for _, scene in found if scene.is_running), Scene({}))
    return replace(running, things=things)


def described(scene: Scene) -> str:
    """The text of the page's panel."""
    lines = []
    if scene.step is not None:
        of = f" of {scene.steps}" if scene.steps else ""
        lines.append(f"{'running: ' if scene.is_running else ''}step {scene.step}{of}")
    if scene.loss is not None:
        lines.append(f"loss {scene.loss:.5g}")
    lines += [f"{name.replace('_', ' ')} {value:.5g}" for name, value in scene.numbers.items()]
    lines += [f"**{name}**: {_size(thing)}" for name, thing in scene.things.items()]
    return "\n\n".join(lines)


def _size(thing: Any) -> str:
    if isinstance(thing, Meshes):
        return f"{len(thing.verts_packed()):,} vertices, {len(thing.faces_packed()):,} faces"
    if isinstance(thing, Pointclouds):
        return f"{len(thing.points_packed()):,} points"
    if isinstance(thing, Volumes):
        return " x ".join(str(side) for side in thing.get_grid_sizes()[0].tolist()) + " voxels"
    return f"{len(thing)} cameras"


def corners(thing: Any) -> Tensor:
    """Points (P, 3) whose bounding box is that of a mesh, cloud, volume or cameras."""
    if isinstance(thing, Meshes):
        points = thing.verts_packed()
    elif isinstance(thing, Pointclouds):
        points = thing.points_packed()
    elif isinstance(thing, Volumes):
        points = thing.get_coord_grid().reshape(-1, 3)
    else:
        points = thing.get_camera_center()
    return torch.stack([points.amin(0), points.amax(0)]).detach().cpu() if len(points) else torch.zeros(0, 3)


def textured(mesh: Meshes) -> Any:
    """A mesh as trimesh has it, in the colours of its texture, or of clay, sharp where edges bend much."""
    from recon_engine.quick import Lit, Surface, View
    from recon_engine.renderer import TexturesUV

    trimesh = extra("trimesh", "io")
    surface = Surface.of(mesh.detach().cpu())
    lit = Lit.of(surface, View(shader="gouraud"))
    corners = (lit.corners * surface.scale + surface.center).reshape(-1, 3)
    matt: dict[str, Any] = {"metallicFactor": 0.0, "roughnessFactor": 1.0, "doubleSided": True}
    textures, uvs = surface.mesh.textures, None
    if isinstance(textures, TexturesUV) and textures.maps_ids_padded() is None:
        uvs = textures.verts_uvs_list()[0][textures.faces_uvs_list()[0]].reshape(-1, 2).numpy()
        matt["baseColorTexture"] = extra("PIL.Image", "io").fromarray(as_bytes(textures.maps_padded()[0, ..., :3]))
    visual = trimesh.visual.TextureVisuals(uv=uvs, material=trimesh.visual.material.PBRMaterial(**matt))
    if uvs is None:
        # Images are what a screen shows, colours of vertices amounts of light.
        colors = lit.textures.verts_features_packed()[:, :3].clamp(0, 1) ** 2.2
        visual.vertex_attributes["color"] = as_bytes(torch.nn.functional.pad(colors, (0, 1), value=1.0))
    faces, normals = np.arange(len(corners)).reshape(-1, 3), lit.normals.reshape(-1, 3).numpy()
    return trimesh.Trimesh(corners.numpy(), faces, vertex_normals=normals, visual=visual, process=False)


def as_bytes(colors: Tensor) -> np.ndarray:
    """Colours from 0 to 1 as bytes."""
    return (colors.detach().cpu().clamp(0, 1) * 255).round().byte().numpy()


def _is_camera(thing: Any) -> bool:
    from recon_engine.renderer import CamerasBase

    return isinstance(thing, CamerasBase)


def _angle(cameras: Any, index: int) -> float:
    """A camera's field of view in radians; that of a usual lens where there is none."""
    fov = getattr(cameras, "fov", None)
    if fov is None:
        return _FOV
    value = float(fov.expand(len(cameras))[index])
    return math.radians(value) if getattr(cameras, "degrees", True) else value
