"""Records the figures of PyTorch3D 0.7.9 that `recon_engine.vis` is compared with into vis.npz.

Run it with a Python that has PyTorch3D, plotly and pillow: `python tests/reference/record_vis.py`.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch


def wave(*shape: int, step: float = 0.7) -> torch.Tensor:
    """Numbers in [0, 1] that look random and are the same everywhere."""
    count = int(np.prod(shape))
    return (torch.arange(count, dtype=torch.float64) * step + 0.1).sin().square().float().reshape(shape)


def structures(library: str) -> dict[str, Any]:
    """Something of each kind that is drawn, made with the classes of `library`."""
    renderer = importlib.import_module(f"{library}.renderer")
    batches = importlib.import_module(f"{library}.structures")
    faces = [torch.tensor([[0, 1, 2], [1, 2, 3]]), torch.tensor([[0, 1, 2], [3, 4, 5], [0, 2, 5]])]
    verts = [wave(5, 3) * 2 - 1, wave(6, 3, step=0.3)]  # the last vertex of the first mesh is unused
    R, T = renderer.look_at_view_transform(3.0, torch.tensor([10.0, 40.0]), torch.tensor([20.0, 120.0]))
    plain = batches.Meshes(verts, faces)
    colored = batches.Meshes(verts, faces, renderer.TexturesVertex([wave(5, 3), wave(6, 3)]))
    flat = batches.Meshes(verts, faces, renderer.TexturesAtlas([wave(2, 1, 1, 3), wave(3, 1, 1, 3)]))
    fine = batches.Meshes(verts, faces, renderer.TexturesAtlas([wave(2, 2, 2, 3), wave(3, 2, 2, 3)]))
    return {
        "plain": plain,
        "colored": colored,
        "flat": flat,
        "fine": fine,
        "points": batches.Pointclouds([wave(4, 3), wave(7, 3, step=1.9)]),
        "rgb": batches.Pointclouds([wave(4, 3), wave(7, 3)], features=[wave(4, 3), wave(7, 3)]),
        "rgba": batches.Pointclouds([wave(4, 3), wave(7, 3)], features=[wave(4, 4), wave(7, 4)]),
        "other": batches.Pointclouds([wave(4, 3), wave(7, 3)], features=[wave(4, 2), wave(7, 2)]),
        "cameras": renderer.FoVPerspectiveCameras(R=R, T=T),
        "rays": renderer.RayBundle(wave(2, 3, 3), wave(2, 3, 3, step=1.1), wave(2, 3, 4) * 3, wave(2, 3, 2)),
        "heterogeneous": renderer.HeterogeneousRayBundle(
            origins=wave(6, 3),
            directions=wave(6, 3, step=1.1),
            lengths=wave(6, 4) * 3,
            xys=wave(6, 2),
            camera_ids=torch.tensor([0, 3]),
            camera_counts=torch.tensor([2, 4]),
        ),
    }


def figures(library: str) -> dict[str, Any]:
    """Figures that show everything, made with `library`."""
    vis = importlib.import_module(f"{library}.vis.plotly_vis")
    every = structures(library)
    scenes = {name: {name: struct} for name, struct in every.items()}
    both = {"first": {"mesh": every["colored"], "cloud": every["rgb"]}, "second": {"cameras": every["cameras"]}}
    return {
        "scenes": vis.plot_scene(scenes, ncols=2),
        "options": vis.plot_scene(
            both,
            viewpoint_cameras=every["cameras"],
            ncols=3,
            camera_scale=0.5,
            pointcloud_marker_size=3,
            lighting=vis.Lighting(ambient=0.5),
            axis_args=vis.AxisArgs(showgrid=True, backgroundcolor="rgb(200,230,200)"),
            xaxis={"showgrid": False},
            zaxis={"title": "depth"},
        ),
        "one view": vis.plot_scene(both, viewpoint_cameras=every["cameras"][[1]]),
        "elements": vis.plot_batch_individually(
            [every[name] for name in ("plain", "points", "cameras", "rays", "heterogeneous")], ncols=2
        ),
        "one struct": vis.plot_batch_individually(every["rgb"], subplot_titles=["left", "right"]),
    }


def facts(figure: Any) -> dict[str, np.ndarray]:
    """The numbers of a figure, by name."""
    found: dict[str, np.ndarray] = {}
    for i, trace in enumerate(figure.data):
        where = f"{i} {trace.type} {trace.scene} {trace.name} {trace.mode if trace.type == 'scatter3d' else ''}"
        names = "x y z i j k vertexcolor facecolor" if trace.type == "mesh3d" else "x y z"
        values = {name: trace[name] for name in names.split() if trace[name] is not None}
        if trace.type == "scatter3d":
            values |= {"size": [trace.marker.size], "width": [trace.line.width or 0]}
            values |= {} if trace.marker.color is None else {"color": trace.marker.color}
        else:
            values["lighting"] = list(trace.lighting.to_plotly_json().values())
        rays = trace.name in ("rays", "heterogeneous") or trace.name[-2:] in ("-4", "-5")
        if rays and trace.mode != "markers" and len(trace.x) % 3 == 1:
            # PyTorch3D's line starts with a point of memory that was never written, and a gap.
            values |= {axis: trace[axis][2:] for axis in "xyz"}
        found |= {f"{where} {name}": numbers(value) for name, value in values.items()}
    for i in range(len({trace.scene for trace in figure.data})):
        scene = figure.layout[f"scene{i + 1}"]
        found[f"scene {i} range"] = np.array([scene[axis].range for axis in ("xaxis", "yaxis", "zaxis")], dtype=float)
        places = [getattr(scene.camera, part) for part in ("up", "eye", "center")]
        found[f"scene {i} camera"] = np.array([[p.x, p.y, p.z] for p in places if p.x is not None], dtype=float)
        looks = [{k: v for k, v in scene[a].to_plotly_json().items() if k != "range"} for a in ("xaxis", "zaxis")]
        found[f"scene {i} looks"] = np.array(str([sorted(look.items(), key=str) for look in looks]))
        found[f"scene {i} aspect"] = np.array(scene.aspectmode)
        found[f"scene {i} domain"] = np.array([scene.domain.x, scene.domain.y])
    found["titles"] = np.array([note.text for note in figure.layout.annotations])
    return found


def numbers(values: Any) -> np.ndarray:
    """Numbers as they are, CSS colours as (N, C) numbers."""
    if len(values) and isinstance(values[0], str):
        return np.array([[float(n) for n in re.findall(r"[\d.]+", color)] for color in values])
    return np.asarray(values, dtype=float)


def wrap(library: str) -> Any:
    """A texture of one mesh."""
    renderer = importlib.import_module(f"{library}.renderer")
    uvs = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [0.3, 0.6], [0.8, 0.9]]])
    return renderer.TexturesUV([wave(12, 9, 3)], torch.tensor([[[0, 1, 2]]]), uvs)


def record(library: str) -> dict[str, np.ndarray]:
    """Everything that is compared, by name."""
    vis = importlib.import_module(f"{library}.vis")
    found = {f"{name}: {k}": v for name, figure in figures(library).items() for k, v in facts(figure).items()}
    found["wireframe"] = vis.get_camera_wireframe(0.5).numpy()
    found["texture"] = np.asarray(vis.texturesuv_image_PIL(wrap(library), color=(0, 255, 0), radius=1))
    return found


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).with_name("vis.npz"), **record("pytorch3d"))
