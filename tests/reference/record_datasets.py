"""Records what PyTorch3D 0.7.9's data sets return for small folders that are made here into datasets.npz.

Run it with a Python that has PyTorch3D and tabulate: `python tests/reference/record_datasets.py`.
"""

from __future__ import annotations

import importlib
import io
import json
import struct
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

OBJ = """mtllib model.mtl
{vertices}
vt 0 0
vt 1 0
vt 0.5 1
usemtl paint
f 1/1 2/2 3/3
f 1/1 3/3 4/2
f 1/1 4/2 2/3
f 2/1 4/2 3/3
"""
CHAIR, LAMP, MAILBOX = "03001627", "03636649", "03710193"
MODELS = {CHAIR: ["c1", "c2"], LAMP: ["l1"]}
VIEWS = {"c1": [0, 2], "c2": [1, 2], "l1": [1]}


def build(folder: Path) -> dict[str, str]:
    """The arguments of `R2N2` for a data set of three models, of which each is a tetrahedron."""
    random = np.random.default_rng(0)
    for synset, models in MODELS.items():
        for model in models:
            corners = np.array([[0, 0, 0.3], [0.3, 0, -0.2], [-0.3, 0.1, -0.2], [0, 0.4, 0]])
            corners = corners + random.uniform(-0.1, 0.1, (4, 3))
            write_model(folder / "shapenet" / synset / model / "model.obj", corners)
            write_renderings(folder / "r2n2/ShapeNetRendering" / synset / model / "rendering", random)
            path = folder / "r2n2/ShapeNetVoxels" / synset / model / "model.binvox"
            path.parent.mkdir(parents=True)
            path.write_bytes(binvox(random.random((8, 8, 8)) < 0.3))
    views = {synset: {model: VIEWS[model] for model in models} for synset, models in MODELS.items()}
    (folder / "splits.json").write_text(json.dumps({"train": views, "val": {}, "test": {CHAIR: {"c1": [1]}}}))
    return {
        "shapenet_dir": str(folder / "shapenet"),
        "r2n2_dir": str(folder / "r2n2"),
        "splits_file": str(folder / "splits.json"),
    }


def write_model(path: Path, corners: Any) -> None:
    """A tetrahedron with a material."""
    path.parent.mkdir(parents=True)
    lines = "\n".join("v " + " ".join(f"{value:.4f}" for value in corner) for corner in corners)
    path.write_text(OBJ.format(vertices=lines))
    (path.parent / "model.mtl").write_text("newmtl paint\nKd 0.2 0.4 0.8\n")


def write_renderings(folder: Path, random: Any) -> None:
    """Three pictures and what their cameras were."""
    from PIL import Image

    folder.mkdir(parents=True)
    rows = []
    for view in range(3):
        pixels = random.integers(0, 256, (5, 6, 4), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{view:02d}.png")
        rows.append(f"{random.uniform(0, 360):.4f} {random.uniform(20, 30):.4f} 0 {random.uniform(0.6, 0.9):.4f} 25")
    (folder / "rendering_metadata.txt").write_text("\n".join(rows) + "\n")


def binvox(voxels: Any) -> bytes:
    """A binvox file of voxels indexed [x, z, y]."""
    size, flat = len(voxels), voxels.reshape(-1).astype(int)
    body = b""
    start = 0
    for i in range(1, len(flat) + 1):
        if i == len(flat) or flat[i] != flat[start] or i - start == 255:
            body += struct.pack("BB", flat[start], i - start)
            start = i
    header = f"#binvox 1\ndim {size} {size} {size}\ntranslate -0.5 0 0.25\nscale 1.5\ndata\n"
    return header.encode() + body


def points(count: int) -> torch.Tensor:
    """Points within the frustum of voxels."""
    steps = torch.arange(3 * count, dtype=torch.float32).reshape(count, 3)
    return (steps * 1.7).sin() * torch.tensor([0.4, 0.3, 0.2])


def record(library: str, folder: Path) -> dict[str, np.ndarray]:
    """Everything that is compared, by name."""
    datasets = importlib.import_module(f"{library}.datasets")
    utils = importlib.import_module(f"{library}.datasets.r2n2.utils")
    renderer = importlib.import_module(f"{library}.renderer")
    found: dict[str, Any] = {}

    P = utils.compute_extrinsic_matrix(30.0, 20.0, 1.5)
    found["extrinsics"] = torch.stack([P, utils.compute_extrinsic_matrix(-100, 75.0, 2.0)])
    file = io.BytesIO(binvox(np.random.default_rng(1).random((12, 12, 12)) < 0.1))
    found["binvox"] = utils.read_binvox_coords(file, dtype=torch.float64)
    found["aligned"] = utils.align_bbox(points(20), points(7) + 1)
    found["projected"] = utils.project_verts(points(40), P)
    found["projected batch"] = utils.project_verts(points(40).reshape(2, 20, 3), torch.stack([P, P.T]), eps=0.5)
    scaled = torch.diag(torch.tensor([1.5, 1.5, 0.2, 1.0])) + torch.tensor(
        [[0.0] * 4] * 2 + [[0, 0, 0, 0.8], [0.0] * 4]
    )
    found["voxels"] = utils.voxelize(points(300), scaled, 9)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arguments = build(folder)
        dataset = datasets.R2N2("train", return_voxels=True, **arguments)
        core = datasets.ShapeNetCore(arguments["shapenet_dir"], synsets=["lamp"], texture_resolution=2)
    model = dataset[1]
    found |= {f"r2n2 {key}": value for key, value in model.items() if isinstance(value, torch.Tensor)}
    found["r2n2 voxels"] = np.argwhere(model["voxels"].numpy())
    found |= {f"r2n2 {key}": np.array(model[key]) for key in ("synset_id", "model_id", "label")}
    found["one view"] = dataset[1, 2]["images"]
    found |= {f"core {key}": value for key, value in core[0].items()}
    settings = renderer.RasterizationSettings(image_size=24)
    batch = datasets.collate_batched_R2N2([dataset[0], dataset[1]])
    found |= {f"batch {key}": batch[key] for key in ("images", "R", "T", "K")}
    found["batch atlas"] = batch["mesh"].textures.atlas_padded()
    torch.manual_seed(3)
    found["drawn"] = np.array([dataset._handle_render_inputs(categories=["chair", LAMP]) for _ in range(5)])
    found["picture"] = dataset.render(idxs=[0, 1], raster_settings=settings)
    found["picture of a view"] = dataset.render(model_ids=["c2"], view_idxs=[2], raster_settings=settings)
    R, T = renderer.look_at_view_transform(1.0, 20.0, torch.tensor([0.0, 120.0]))
    cameras = renderer.FoVPerspectiveCameras(R=R, T=T)
    found["picture of core"] = core.render(idxs=[0], raster_settings=settings, cameras=cameras)
    voxels = (points(4**3 * 2 // 3 + 1).reshape(-1)[: 2 * 4**3] > 0.1).float().reshape(2, 4, 4, 4)
    found["picture of voxels"] = utils.render_cubified_voxels(voxels, raster_settings=settings)
    camera = datasets.BlenderCamera(R=model["R"], T=model["T"], K=model["K"])
    found["camera"] = camera.transform_points(points(6))
    found["camera center"] = camera.get_camera_center()
    return {name: np.asarray(value) for name, value in found.items()}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        np.savez_compressed(Path(__file__).with_name("datasets.npz"), **record("pytorch3d", Path(folder)))
