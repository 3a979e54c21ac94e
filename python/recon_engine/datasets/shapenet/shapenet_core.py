"""ShapeNetCore from a local copy."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

from recon_engine.datasets.shapenet_base import ShapeNetBase

from ._synsets import VERSION_1, VERSION_2


class ShapeNetCore(ShapeNetBase):
    """The models of ShapeNetCore (https://www.shapenet.org), in a folder for each category and model.

    Categories and models are in the order of their names. What is missing is named in warnings.

    Args:
        data_dir: the folder that holds those of the categories.
        synsets: offsets or labels of the categories to load; all that are there by default.
        version: 1, in which a model is CATEGORY/MODEL/model.obj, or 2, CATEGORY/MODEL/models/model_normalized.obj.
        load_textures: whether models have texture atlases.
        texture_resolution: R of atlases (F, R, R, 3).

    Raises:
        ValueError: for other versions.
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str],
        synsets: Sequence[str] | None = None,
        version: int = 1,
        load_textures: bool = True,
        texture_resolution: int = 4,
    ) -> None:
        super().__init__()
        self.shapenet_dir = data_dir
        self.load_textures = load_textures
        self.texture_resolution = texture_resolution
        if version not in (1, 2):
            raise ValueError(f"Version number must be either 1 or 2. Got {version}.")
        self.model_dir = "model.obj" if version == 1 else "models/model_normalized.obj"
        self.synset_dict: dict[str, str] = dict(VERSION_1 if version == 1 else VERSION_2)
        offsets = {label: offset for offset, label in self.synset_dict.items()}

        loaded = set()
        for synset in os.listdir(data_dir) if synsets is None else synsets:
            offset = synset if synset in self.synset_dict else offsets.get(synset) if synsets is not None else None
            if offset is not None and os.path.isdir(os.path.join(data_dir, offset)):
                loaded.add(offset)
            elif synsets is not None:
                warnings.warn(
                    f"Synset category {synset} either not part of ShapeNetCore dataset or cannot be found in "
                    f"{data_dir}.",
                    stacklevel=2,
                )
        self.synset_inv = {label: offset for label, offset in offsets.items() if offset in loaded}
        missing = [offset for offset in self.synset_dict if offset not in loaded]
        if missing:
            warnings.warn(
                f"The following categories are included in ShapeNetCore ver.{version}'s official mapping but not found "
                f"in the dataset location {data_dir}: {', '.join(missing)}",
                stacklevel=2,
            )
        for synset in sorted(loaded):
            self._add_category(synset)

    def _add_category(self, synset: str) -> None:
        folder = os.path.join(self.shapenet_dir, synset)
        self.synset_start_idxs[synset] = len(self.synset_ids)
        for model in sorted(os.listdir(folder)):
            if not os.path.exists(os.path.join(folder, model, self.model_dir)):
                warnings.warn(
                    f"Object file not found in the model directory {model} under synset directory {synset}.",
                    stacklevel=3,
                )
                continue
            self.synset_ids.append(synset)
            self.model_ids.append(model)
        self.synset_num_models[synset] = len(self.synset_ids) - self.synset_start_idxs[synset]

    def __getitem__(self, idx: int) -> dict[str, Any]:
        """Model `idx` as a dictionary.

        Returns:
            "verts" (V, 3) float32, "faces" (F, 3) int64, "textures" (F, R, R, 3) float32 or None, and the names
            "synset_id", "model_id" and "label".
        """
        model = self._get_item_ids(idx)
        path = os.path.join(self.shapenet_dir, model["synset_id"], model["model_id"], self.model_dir)
        model["verts"], model["faces"], model["textures"] = self._load_mesh(path)
        model["label"] = self.synset_dict[model["synset_id"]]
        return model
