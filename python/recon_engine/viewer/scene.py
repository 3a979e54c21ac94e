"""What a file or the folder of a run has to be seen: meshes, point clouds, cameras, volumes."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recon_engine.structures import Meshes, Pointclouds, Volumes

LIVE = ".live"  # behind the name of a results folder: what a running fit shows of itself
CHECKPOINT = ".checkpoint"
_GRID = 72  # points along a side at which a network is asked for its density
_MESHES = (".obj", ".ply", ".off", ".stl", ".glb", ".gltf")
_NO_MEASURES = ("scale", "fov")  # numbers of metrics.json that say where things are
_SCATTERED = 30_000  # points of a volume


@dataclass(frozen=True)
class Scene:
    """Things with names, and where the run that makes them stands.

    Attributes:
        things: `Meshes`, `Pointclouds`, cameras and `Volumes` by name.
        step: iterations done, of a run.
        steps: iterations planned.
        loss: the newest weighted sum of losses.
        is_running: more is to come.
    """

    things: Mapping[str, Any]
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    is_running: bool = False
    numbers: Mapping[str, float] = field(default_factory=dict)


def read_scene(path: Path | str) -> Scene:
    """What a file or a run has to be seen.

    Args:
        path: a mesh or a point cloud in any format that is read, `volume.pt` or `field.pt` of a results folder, an
            array (D, H, W) of densities or (P, 3) or (P, 6) of points with colours from 0 to 1 in a `.npy` file, a
            results folder, or the name of the results folder of a run that has begun.

    Returns:
        A scene. Of a run that goes on, what it has kept last.

    Raises:
        FileNotFoundError: there is no such file, folder or run.
        ValueError: the file is malformed or holds nothing that can be seen.
    """
    path = Path(path)
    if path.is_file():
        return _read_file(path)
    newest = max((p for p in sources(path) if p.exists()), key=lambda p: p.stat().st_mtime_ns, default=None)
    live = path.with_name(path.name + LIVE)
    if newest is not None and newest.suffix == CHECKPOINT and live.exists():
        newest = live  # of the same run, at the object's place, and written more often
    if newest is None:
        if path.is_dir():
            raise ValueError(f"the folder {path} holds no results: no metrics.json")
        raise FileNotFoundError(f"there is no file, results folder or run {path}")
    if newest.suffix == LIVE:
        return _read_live(newest)
    if newest.suffix == CHECKPOINT:
        return _read_checkpoint(newest)
    return _read_folder(path)


def sources(path: Path) -> list[Path]:
    """The files whose change means that `read_scene` finds something new."""
    beside = [path.with_name(path.name + ending) for ending in (LIVE, CHECKPOINT)]
    return [path] if path.is_file() else [path / "metrics.json", *beside]


def signature(path: Path) -> tuple[tuple[str, int, int], ...]:
    """What differs after a change of these files."""
    found = []
    for source in sources(path):
        try:
            state = source.stat()
        except OSError:
            continue
        found.append((source.name, state.st_mtime_ns, state.st_size))
    return tuple(found)


def isosurface(volumes: Volumes, level: float | None = None) -> Meshes:
    """The surfaces where the densities of volumes cross a level, in the colours of the volumes.

    Args:
        volumes: N volumes with one density channel; features with 3 channels are colours.
        level: the density; None for one half, or half of the largest where no density reaches that.

    Returns:
        N meshes in the world, with normals to the outside.
    """
    from recon_engine.ops.marching_cubes import marching_cubes
    from recon_engine.renderer import TexturesVertex

    verts, faces, colors = [], [], []
    for volume in volumes:
        densities = volume.densities_list()[0][:1].detach()
        chosen = default_level(densities) if level is None else level
        # Outside of the volume there is nothing: surfaces that reach its border are closed there.
        (local,), (corners,) = marching_cubes(F.pad(-densities, 6 * (1,), value=0.0), -chosen)
        size = local.new_tensor(densities.shape[:0:-1])
        inside = local * (size + 1) / (size - 1).clamp(min=1)  # -1 and 1 are the first and the last voxel again
        spread = 1.0 if volume.get_align_corners() else (size - 1) / size
        verts.append(volume.local_to_world_coords((inside * spread)[None])[0])
        faces.append(corners)
        colors.append(_sampled(volume, inside))
    textures = TexturesVertex(colors) if all(c is not None for c in colors) else None  # type: ignore[arg-type]
    return Meshes(verts=verts, faces=faces, textures=textures)


def default_level(densities: Tensor) -> float:
    """One half, or half of the largest density where that is smaller."""
    return min(0.5, float(densities.max()) / 2)


def scattered(volumes: Volumes, level: float | None = None, count: int = _SCATTERED) -> Pointclouds:
    """The centres of voxels whose densities are above a level, with their colours; at most `count`, evenly picked."""
    points, features = [], []
    for volume in volumes:
        densities = volume.densities_list()[0][0].detach()
        chosen = default_level(densities) if level is None else level
        (picked,) = torch.nonzero(densities.reshape(-1) > chosen, as_tuple=True)
        picked = picked[:: max(1, -(-len(picked) // count))]
        points.append(volume.get_coord_grid()[0].reshape(-1, 3)[picked])
        colors = volume.features_list()
        if colors is not None and colors[0].shape[0] == 3:
            features.append(colors[0].detach().reshape(3, -1).T[picked])
    return Pointclouds(points, features=features or None)


def unused(name: str, names: Collection[str]) -> str:
    """The name, with a number behind it if it is taken."""
    return next(n for n in (name, *(f"{name} {i + 2}" for i in range(len(names)))) if n not in names)


def _sampled(volume: Volumes, local: Tensor) -> Tensor | None:
    """Colours (P, 3) at places between -1 and 1, from the first voxel to the last."""
    features = volume.features_list()
    if features is None or features[0].shape[0] != 3:
        return None
    grid = local.clamp(-1, 1)[None, None, None]
    colors = F.grid_sample(features[0].detach()[None], grid, align_corners=True)
    return colors[0, :, 0, 0].T.clamp(0, 1)


# Files


def _read_file(path: Path) -> Scene:
    suffix = path.suffix.lower()
    if suffix in (".pt", CHECKPOINT):
        return _read_checkpoint(path) if suffix == CHECKPOINT else Scene({path.stem: _read_tensors(path)})
    if suffix == LIVE:
        return _read_live(path)
    if suffix == ".npy":
        return Scene({path.stem: _read_array(path)})
    return Scene({path.stem: _read_shape(path)})


def _read_shape(path: Path) -> Meshes | Pointclouds:
    """A mesh, or the points of a file without faces."""
    from recon_engine.io import IO, load_obj
    from recon_engine.io.ply_io import load_ply
    from recon_engine.quick import load

    suffix = path.suffix.lower()
    if suffix == ".ply" and not len(load_ply(str(path))[1]):
        return IO().load_pointcloud(path)
    if suffix == ".obj":
        verts, faces, _ = load_obj(str(path), load_textures=False)
        if len(verts) and not len(faces.verts_idx):
            return Pointclouds([verts])
    return load(path)


def _read_array(path: Path) -> Volumes | Pointclouds:
    try:
        array = torch.from_numpy(np.load(path, allow_pickle=False)).float()
    except (ValueError, TypeError, EOFError) as error:  # TypeError: an array of something else than numbers
        raise ValueError(f"the file {path} cannot be read: {error}") from error
    if array.dim() == 3:
        return Volumes(array[None, None], voxel_size=2.0 / max(array.shape))
    if array.dim() == 2 and array.shape[1] in (3, 6):
        colors = [array[:, 3:]] if array.shape[1] == 6 else None
        return Pointclouds([array[:, :3]], features=colors)
    raise ValueError(f"the array in {path} must have shape (P, 3), (P, 6) or (D, H, W), got {tuple(array.shape)}")


def _read_tensors(path: Path) -> Volumes:
    """`volume.pt`, or the densities of `field.pt` at the points of a grid."""
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever zip and pickle stumble over
        raise ValueError(f"the file {path} cannot be read: {type(error).__name__}: {error}") from error
    if isinstance(kept, dict) and "densities" in kept:
        from recon_engine.methods.volume import load_volume

        return load_volume(path)
    if isinstance(kept, dict) and "network" in kept:
        from recon_engine.methods.nerf import load_field

        return load_field(path).on_grid(_GRID)
    raise ValueError(f"the file {path} holds neither a volume nor a radiance field")


# Runs


def _read_live(path: Path) -> Scene:
    from recon_engine.methods._live import read_live

    kept = read_live(path)
    return Scene(kept["things"], int(kept["step"]), int(kept["steps"]), float(kept["loss"]), is_running=True)


def _read_checkpoint(path: Path) -> Scene:
    """What a run of `recon volume`, `nerf` or `fit-views` has reached, in the units of the fit.

    Of other runs nothing but how far they are: they show themselves in a file of their own, from the first step on.
    """
    from recon_engine.methods._train import read_checkpoint

    kept = read_checkpoint(path)
    about = dict(kept["about"])
    readers: dict[str, Callable[[Mapping[str, Any], Mapping[str, Tensor]], Meshes | Volumes]] = {
        "volume": _kept_volume,
        "nerf": _kept_field,
        "fit-views": _kept_sphere,
    }
    reader = readers.get(str(about.get("method")))
    if "losses" not in kept:
        raise ValueError(f"the checkpoint {path} is of a run that cannot be shown: {about.get('method')}")
    losses, is_plain = kept["losses"], about["method"] in ("volume", "nerf")  # whose losses have no weights
    return Scene(
        {} if reader is None else {str(about["method"]): reader(about, kept["model"])},
        len(losses),
        None if reader is None else int(about["iterations"]),
        float(losses[-1].sum()) if len(losses) and is_plain else None,
        is_running=True,
    )


def _kept_volume(about: Mapping[str, Any], model: Mapping[str, Tensor]) -> Volumes:
    from recon_engine.methods.volume.fit import VolumeModel
    from recon_engine.methods.volume.settings import VolumeSettings

    module = VolumeModel(_settings(VolumeSettings, about))
    module.load_state_dict(dict(model))
    with torch.no_grad():
        return module()


def _kept_field(about: Mapping[str, Any], model: Mapping[str, Tensor]) -> Volumes:
    from recon_engine.methods.nerf.field import RadianceField

    network = RadianceField(about["harmonics"], about["omega"], about["hidden"])
    network.load_state_dict(dict(model))
    return network.on_grid(_GRID)


def _kept_sphere(about: Mapping[str, Any], model: Mapping[str, Tensor]) -> Meshes:
    from recon_engine.methods.fit_views.model import SphereModel
    from recon_engine.methods.fit_views.settings import FitViewsSettings

    module = SphereModel(_settings(FitViewsSettings, about))
    module.load_state_dict(dict(model))
    with torch.no_grad():
        return module()


def _settings(kind: Any, about: Mapping[str, Any]) -> Any:
    return kind(**{name: value for name, value in about.items() if name in kind.__dataclass_fields__})


def _read_folder(path: Path) -> Scene:
    """A results folder: its shapes, its cameras, its numbers."""
    try:
        metrics = json.loads((path / "metrics.json").read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # neither text nor JSON
        raise ValueError(f"the file {path / 'metrics.json'} cannot be read: {error}") from error
    if not isinstance(metrics, dict):
        raise ValueError(f"the file {path / 'metrics.json'} is not that of a run")
    things: dict[str, Any] = {}
    for name in ("volume.pt", "field.pt"):
        if (path / name).exists():
            things[name.removesuffix(".pt")] = _read_tensors(path / name)
    if not things:  # a mesh beside a volume or a field shows the same
        for file in sorted(path.iterdir()):
            if file.suffix.lower() in _MESHES and file.stem not in things:
                things[file.stem] = _read_shape(file)
    cameras = _cameras(metrics, things)
    if cameras is not None:
        things["cameras"] = cameras
    if not things:
        raise ValueError(f"the folder {path} holds no mesh, point cloud, volume, radiance field or cameras")
    settings = metrics.get("settings", {})
    numbers = {name: value for name, value in metrics.items() if isinstance(value, float) and name not in _NO_MEASURES}
    return Scene(things, metrics.get("iterations"), settings.get("iterations"), numbers=numbers)


def _cameras(metrics: Mapping[str, Any], things: Mapping[str, Any]) -> Any:
    """The cameras that the numbers of a run tell, where its things are; None if they tell none."""
    from recon_engine.renderer import FoVPerspectiveCameras

    rows = metrics.get("cameras") or metrics.get("cameras_of_fit") or []
    if not rows or not all(isinstance(row, Mapping) and {"R", "T", "fov"} <= set(row) for row in rows):
        return None
    R, T, fov = (torch.tensor([row[name] for row in rows], dtype=torch.float32) for name in ("R", "T", "fov"))
    if not metrics.get("cameras") and "field" not in things:  # x = (x_fit rotation) * scale + center
        scale, center = float(metrics["scale"]), torch.tensor(metrics["center"])
        rotation = torch.tensor(metrics.get("rotation", torch.eye(3).tolist()))
        if "volume" in things:  # stands upright, as in the fit
            center, rotation = rotation @ center, torch.eye(3)
        R = rotation.T @ R
        T = scale * T - center @ R
    return FoVPerspectiveCameras(R=R, T=T, fov=fov)
