"""What ShapeNetCore and R2N2 share: models by number, and pictures of chosen ones."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recon_engine.common.datatypes import Device
from recon_engine.io import load_obj
from recon_engine.renderer import FoVPerspectiveCameras, HardPhongShader

from .utils import collate_batched_meshes, render_meshes


class ShapeNetBase(torch.utils.data.Dataset[dict[str, Any]]):
    """Base class of data sets of ShapeNet's models. A derived class fills the lists and defines `__getitem__`.

    Attributes:
        synset_ids: of each model, its category as an offset in WordNet, such as "04379243".
        model_ids: of each model.
        synset_inv: label -> offset of the categories that are there.
        synset_start_idxs: offset -> number of the first model; models of a category follow each other.
        synset_num_models: offset -> how many models.
        shapenet_dir: folder of the data set.
        model_dir: path of the OBJ file in the folder of a model.
        load_textures: whether models have textures.
        texture_resolution: R of texture atlases (F, R, R, 3).
    """

    def __init__(self) -> None:
        self.synset_ids: list[str] = []
        self.model_ids: list[str] = []
        self.synset_inv: dict[str, str] = {}
        self.synset_start_idxs: dict[str, int] = {}
        self.synset_num_models: dict[str, int] = {}
        self.shapenet_dir: str | os.PathLike[str] = ""
        self.model_dir = "model.obj"
        self.load_textures = True
        self.texture_resolution = 4

    def __len__(self) -> int:
        """How many models there are."""
        return len(self.model_ids)

    def __getitem__(self, idx: Any) -> dict[str, Any]:
        """Model `idx`; defined by derived classes."""
        raise NotImplementedError(f"{type(self).__name__} defines no __getitem__")

    def _get_item_ids(self, idx: int) -> dict[str, Any]:
        return {"synset_id": self.synset_ids[idx], "model_id": self.model_ids[idx]}

    def _load_mesh(self, model_path: str | os.PathLike[str]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Vertices (V, 3), faces (F, 3) and, where textures are loaded, an atlas (F, R, R, 3), white if it has none."""
        R = self.texture_resolution
        verts, faces, properties = load_obj(
            model_path,
            create_texture_atlas=self.load_textures,
            load_textures=self.load_textures,
            texture_atlas_size=R,
        )
        if not self.load_textures:
            return verts, faces.verts_idx, None
        atlas = properties.texture_atlas
        return verts, faces.verts_idx, verts.new_ones(len(faces.verts_idx), R, R, 3) if atlas is None else atlas

    def render(
        self,
        model_ids: list[str] | None = None,
        categories: list[str] | None = None,
        sample_nums: list[int] | None = None,
        idxs: list[int] | None = None,
        shader_type: Any = HardPhongShader,
        device: Device = "cpu",
        **kwargs: Any,
    ) -> Tensor:
        """Pictures of the named models, else of random ones of the categories, else of the numbers, else of any.

        Args:
            model_ids: models to show.
            categories: offsets or labels of the categories to draw models from.
            sample_nums: how many models of each category, or one number for all; without categories, how many of the
                whole data set. 1 by default.
            idxs: numbers of models to show.
            shader_type: class of the shader.
            device: where to render.
            **kwargs: `cameras`, one or a multiple of the number of models, which are then repeated; `raster_settings`;
                `lights`.

        Returns:
            (N, H, W, 4), or what the shader returns.

        Raises:
            ValueError: for unknown models and categories, or numbers that do not fit.
            IndexError: for numbers of models out of range.
        """
        models = [self[idx] for idx in self._handle_render_inputs(model_ids, categories, sample_nums, idxs)]
        return self._render_models(models, kwargs.get("cameras", FoVPerspectiveCameras()), shader_type, device, kwargs)

    def _render_models(
        self, models: list[dict[str, Any]], cameras: Any, shader_type: Any, device: Device, options: dict[str, Any]
    ) -> Tensor:
        collated = collate_batched_meshes(models)
        meshes = collated["mesh"] if collated is not None else None
        if meshes is None:
            raise ValueError("render: expected at least one model, got none")
        if len(cameras) != 1 and len(cameras) % len(meshes) != 0:
            raise ValueError(
                f"Mismatch between batch dims of cameras and meshes: {len(cameras)} cameras for {len(meshes)} meshes."
            )
        if len(cameras) > 1:
            meshes = meshes.extend(len(cameras) // len(meshes))
        return render_meshes(meshes, cameras, shader_type, device, options)

    def _handle_render_inputs(
        self,
        model_ids: Sequence[str] | None = None,
        categories: Sequence[str] | None = None,
        sample_nums: Sequence[int] | None = None,
        idxs: Sequence[int] | None = None,
    ) -> list[int]:
        """The numbers of the models that `render` shows."""
        if model_ids:
            return [self._index_of(model_id) for model_id in model_ids]
        if categories:
            counts = list(sample_nums or [1])
            if len(counts) not in (1, len(categories)):
                raise ValueError(
                    "categories and sample_nums needs to be of the same length or sample_nums needs to be of length 1: "
                    f"got {len(categories)} and {len(counts)}."
                )
            counts = counts * len(categories) if len(counts) == 1 else counts
            chosen = []
            for category, count in zip(categories, counts, strict=True):
                offset = self.synset_inv.get(category, category)
                if offset not in self.synset_inv.values():
                    raise ValueError(f"Category {offset} is not in the loaded dataset.")
                chosen += self._sample_idxs_from_category(count, offset)
            return chosen
        if idxs is not None and len(idxs) > 0:
            if any(idx < 0 or idx >= len(self) for idx in idxs):
                raise IndexError(
                    "One or more idx values are out of bounds. Indices need to be between 0 and "
                    f"{len(self) - 1}: got {list(idxs)}."
                )
            return [int(idx) for idx in idxs]
        counts = list(sample_nums or [1])
        if len(counts) > 1:
            warnings.warn(
                f"More than one sample sizes specified, now sampling {counts[0]} models from the dataset.", stacklevel=3
            )
        return self._sample_idxs_from_category(counts[0])

    def _index_of(self, model_id: str) -> int:
        try:
            return self.model_ids.index(model_id)
        except ValueError:
            raise ValueError(f"model_id {model_id} not found in the loaded dataset.") from None

    def _sample_idxs_from_category(self, sample_num: int = 1, category: str | None = None) -> list[int]:
        """Numbers of random models of a category, or of all; with repetition where there are too few, and a warning."""
        start, count = (
            (0, len(self))
            if category is None
            else (
                self.synset_start_idxs[category],
                self.synset_num_models[category],
            )
        )
        if not count:
            raise ValueError(f"There are no models to draw from in {category or 'the data set'}.")
        if sample_num > count:
            source = "all categories" if category is None else f"category {category}"
            warnings.warn(
                f"Sample size {sample_num} is larger than the number of objects in {source}, values sampled with "
                "replacement.",
                stacklevel=4,
            )
        drawn = torch.multinomial(torch.ones(count), sample_num, replacement=sample_num > count)
        return (drawn + start).tolist()
