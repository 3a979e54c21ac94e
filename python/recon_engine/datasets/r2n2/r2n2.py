"""R2N2 from local copies of it and of ShapeNetCore, version 1."""

from __future__ import annotations

import json
import os
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recon_engine.common.datatypes import Device
from recon_engine.datasets.shapenet._synsets import VERSION_1
from recon_engine.datasets.shapenet_base import ShapeNetBase
from recon_engine.io.utils import read_image
from recon_engine.renderer import HardPhongShader

from .utils import BlenderCamera, align_bbox, compute_extrinsic_matrix, read_binvox_coords, voxelize

_LABELS = {"airplane", "bench", "cabinet", "car", "chair", "display", "lamp", "loudspeaker", "rifle", "sofa", "table"}
_LABELS |= {"telephone", "watercraft"}
MAX_CAMERA_DISTANCE = 1.75  # the unit of distances in the files of the renderings
VOXEL_SIZE = 128
# Of Blender's camera, which looks along -Z.
BLENDER_INTRINSIC = torch.tensor(
    [[2.1875, 0.0, 0.0, 0.0], [0.0, 2.1875, 0.0, 0.0], [0.0, 0.0, -1.002002, -0.2002002], [0.0, 0.0, -1.0, 0.0]]
)
# Of a camera that looks along +Z, as those of the renderer do.
_INTRINSIC = BLENDER_INTRINSIC * torch.tensor([1.0, 1.0, 1.0, -1.0])[:, None]


class R2N2(ShapeNetBase):
    """Models of 13 categories of ShapeNetCore with 24 renderings of each, their cameras, and voxels.

    What is missing is named in warnings; how many views of each category there are is printed.

    Args:
        split: "train", "val" or "test".
        shapenet_dir: folder of ShapeNetCore, version 1.
        r2n2_dir: folder of R2N2. Without renderings in it, models have neither images nor cameras nor voxels.
        splits_file: JSON file: split -> category -> model -> list of views.
        return_all_views: whether models have all views of the split; otherwise a random one, which stays the same.
        return_voxels: whether models have voxels, (128, 128, 128) for each view.
        views_rel_path: folder of the renderings in `r2n2_dir`.
        voxels_rel_path: folder of the voxels in `r2n2_dir`.
        load_textures: whether models have texture atlases.
        texture_resolution: R of atlases (F, R, R, 3).

    Raises:
        ValueError: for other splits.
    """

    def __init__(
        self,
        split: str,
        shapenet_dir: str,
        r2n2_dir: str,
        splits_file: str,
        return_all_views: bool = True,
        return_voxels: bool = False,
        views_rel_path: str = "ShapeNetRendering",
        voxels_rel_path: str = "ShapeNetVoxels",
        load_textures: bool = True,
        texture_resolution: int = 4,
    ) -> None:
        super().__init__()
        if split not in ("train", "val", "test"):
            raise ValueError(f"split has to be one of (train, val, test). Got {split!r}.")
        self.shapenet_dir = shapenet_dir
        self.r2n2_dir = r2n2_dir
        self.views_rel_path = views_rel_path
        self.voxels_rel_path = voxels_rel_path
        self.load_textures = load_textures
        self.texture_resolution = texture_resolution
        self.synset_dict = {offset: label for offset, label in VERSION_1.items() if label in _LABELS}
        self.views_per_model_list: list[list[int]] = []
        with open(splits_file) as opened:
            views = json.load(opened)[split]

        has_voxels = self._has(voxels_rel_path, "Voxel coordinates")
        self.return_images = self._has(views_rel_path, "R2N2 renderings")
        # The cameras that voxels are seen from come with the renderings.
        self.return_voxels = return_voxels and has_voxels and self.return_images

        for synset, models in views.items():
            self._add_category(synset, models, return_all_views)
        self.synset_inv = {label: o for o, label in self.synset_dict.items() if o in self.synset_num_models}
        missing = [offset for offset in self.synset_dict if offset not in self.synset_num_models]
        if missing:
            warnings.warn(
                "The following categories are included in R2N2's official mapping but not found in the dataset "
                f"location {shapenet_dir}: {', '.join(missing)}",
                stacklevel=2,
            )
        self._print_views()

    def _has(self, folder: str, what: str) -> bool:
        found = os.path.isdir(os.path.join(self.r2n2_dir, folder))
        if not found:
            warnings.warn(
                f"{folder} not found in {self.r2n2_dir}. {what} will be skipped when returning models.", stacklevel=3
            )
        return found

    def _add_category(self, synset: str, models: dict[str, list[int]], all_views: bool) -> None:
        folder = os.path.join(self.shapenet_dir, synset)
        if synset not in self.synset_dict or not os.path.isdir(folder):
            warnings.warn(
                f"Synset category {synset} from the splits file is either not present in {self.shapenet_dir} or not "
                "part of the standard R2N2 dataset.",
                stacklevel=3,
            )
            return
        self.synset_start_idxs[synset] = len(self.synset_ids)
        for model, views in models.items():
            if not os.path.isdir(os.path.join(folder, model)):
                warnings.warn(
                    f"Model {model} from category {synset} is not present in {self.shapenet_dir}.", stacklevel=3
                )
                continue
            self.synset_ids.append(synset)
            self.model_ids.append(model)
            self.views_per_model_list.append(views if all_views else [views[int(torch.randint(len(views), (1,)))]])
        self.synset_num_models[synset] = len(self.synset_ids) - self.synset_start_idxs[synset]

    def _print_views(self) -> None:
        counts = dict.fromkeys(self.synset_num_models, 0)
        for synset, views in zip(self.synset_ids, self.views_per_model_list, strict=True):
            counts[synset] += len(views)
        rows = [(self.synset_dict[synset], str(count)) for synset, count in counts.items()]
        rows = [("category", "#instances"), *rows, ("total", str(sum(counts.values())))]
        first, second = (max(len(row[i]) for row in rows) for i in (0, 1))
        rows.insert(1, ("-" * first, "-" * second))
        print("\n".join(f"{label:^{first}}  {count:<{second}}".rstrip() for label, count in rows))

    def __getitem__(self, model_idx: Any, view_idxs: Any = None) -> dict[str, Any]:
        """Model `model_idx` as a dictionary; `dataset[model_idx, view_idxs]` chooses views.

        Args:
            model_idx: number of the model, or (number, views).
            view_idxs: view, list or tensor of views, of those of the split; None for all. Where one is not in the
                split, all are returned, with a warning.

        Returns:
            As `ShapeNetCore`, and "images" (V, H, W, 3) float32 in [0, 1] of V views, or None without renderings; with
            renderings "R" (V, 3, 3), "T" (V, 3) and "K" (V, 4, 4) of `BlenderCamera`; with voxels "voxels"
            (V, 128, 128, 128) uint8.

        Raises:
            TypeError: if `view_idxs` is anything else.
            FileNotFoundError: if there are no voxels of the model.
        """
        if isinstance(model_idx, tuple):
            model_idx, view_idxs = model_idx
        views = self._views(model_idx, view_idxs)
        model = self._get_item_ids(model_idx)
        where = (model["synset_id"], model["model_id"])
        path = os.path.join(self.shapenet_dir, *where, "model.obj")
        model["verts"], model["faces"], model["textures"] = self._load_mesh(path)
        model["label"] = self.synset_dict[model["synset_id"]]
        model["images"] = None
        if not self.return_images:
            return model

        folder = os.path.join(self.r2n2_dir, self.views_rel_path, *where, "rendering")
        model["images"] = torch.stack([_image(os.path.join(folder, f"{view:02d}.png")) for view in views])
        extrinsics = _extrinsics(os.path.join(folder, "rendering_metadata.txt"), views)
        calibrations = [self._compute_camera_calibration(RT) for RT in extrinsics]
        model["R"] = torch.stack([R for R, _ in calibrations])
        model["T"] = torch.stack([T for _, T in calibrations])
        model["K"] = _INTRINSIC.expand(len(views), 4, 4)
        if self.return_voxels:
            path = os.path.join(self.r2n2_dir, self.voxels_rel_path, *where, "model.binvox")
            if not os.path.isfile(path):
                raise FileNotFoundError(
                    f"Voxel file not found for model {model['model_id']} from category {model['synset_id']}."
                )
            with open(path, "rb") as opened:
                points = align_bbox(read_binvox_coords(opened), model["verts"])
            model["voxels"] = torch.stack([voxelize(points, BLENDER_INTRINSIC @ RT, VOXEL_SIZE) for RT in extrinsics])
        return model

    def _views(self, model_idx: int, chosen: Any) -> list[int]:
        views = self.views_per_model_list[model_idx]
        if chosen is None:
            return views
        if isinstance(chosen, int):
            chosen = [chosen]
        if not isinstance(chosen, (list, Tensor)):
            raise TypeError(f"view_idxs is of type {type(chosen)} but it needs to be a list.")
        chosen = [int(view) for view in chosen]
        if set(chosen) <= set(views):
            return chosen
        warnings.warn(
            f"At least one of the indices in view_idxs is not available: model {model_idx} has the views {views}, got "
            f"{chosen}. Now returning all view(s) in the loaded dataset; more are loaded with return_all_views=True.",
            stacklevel=3,
        )
        return views

    def _compute_camera_calibration(self, RT: Tensor) -> tuple[Tensor, Tensor]:
        """R (3, 3) and T (3,) of the renderer's cameras, x right -> left and looking along +Z, for row vectors."""
        matrix = RT.mT * torch.tensor([-1.0, 1.0, -1.0, 1.0])
        return matrix[:3, :3], matrix[3, :3]

    def render(  # type: ignore[override]
        self,
        model_ids: list[str] | None = None,
        categories: list[str] | None = None,
        sample_nums: list[int] | None = None,
        idxs: list[int] | None = None,
        view_idxs: list[int] | None = None,
        shader_type: Any = HardPhongShader,
        device: Device = "cpu",
        **kwargs: Any,
    ) -> Tensor:
        """Pictures of models as `ShapeNetBase.render` chooses them, by default from the cameras of their renderings.

        Args:
            model_ids: models to show.
            categories: categories to draw models from.
            sample_nums: how many models.
            idxs: numbers of models to show.
            view_idxs: the views whose cameras are taken; all by default.
            shader_type: class of the shader.
            device: where to render.
            **kwargs: `cameras`, or `R`, `T` and `K` in the place of those of the views; `raster_settings`; `lights`.

        Returns:
            (N, H, W, 4), or what the shader returns, the views of the first model first.

        Raises:
            ValueError: without renderings and cameras, and as in `ShapeNetBase.render`.
        """
        chosen = self._handle_render_inputs(model_ids, categories, sample_nums, idxs)
        models = [self[idx, view_idxs] for idx in chosen]
        cameras = kwargs.get("cameras")
        if cameras is None:
            if not self.return_images:
                raise ValueError("render: there are no renderings with cameras; pass `cameras`")
            matrices = {key: kwargs.get(key, torch.cat([model[key] for model in models])) for key in "RTK"}
            cameras = BlenderCamera(**matrices, device=device)
        return self._render_models(models, cameras, shader_type, device, kwargs)


def _image(path: str) -> Tensor:
    return torch.from_numpy(read_image(path) / np.float32(255.0))


def _extrinsics(path: str, views: list[int]) -> list[Tensor]:
    """The matrix (4, 4) of each view, from lines of azimuth, elevation, roll, distance and field of view."""
    with open(path) as opened:
        lines = opened.readlines()
    found = []
    for view in views:
        try:
            azimuth, elevation, _, distance, _ = (float(word) for word in lines[view].split())
        except (ValueError, IndexError):
            raise ValueError(f"{path}: expected 5 numbers in line {view + 1}, of view {view}") from None
        found.append(compute_extrinsic_matrix(azimuth, elevation, distance * MAX_CAMERA_DISTANCE))
    return found
