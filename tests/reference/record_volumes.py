"""Records what PyTorch3D 0.7.9 answers for `recon_engine.structures.Volumes` into volumes.npz.

Run it with a Python that has PyTorch3D: `python tests/reference/record_volumes.py`.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def grids(sizes: list[tuple[int, int, int]]) -> tuple[list[Tensor], list[Tensor]]:
    """Densities with two channels and features with three."""
    generator = torch.Generator().manual_seed(1)
    return tuple([torch.rand(C, *size, generator=generator) for size in sizes] for C in (2, 3))


def places() -> dict[str, dict[str, Any]]:
    """Every form in which voxels and translations can be given."""
    vectors = torch.rand(3, 3, generator=torch.Generator().manual_seed(2)) + 0.5
    return {
        "default": {},
        "number": {"voxel_size": 0.25, "volume_translation": [0.1, 0.2, -0.3]},
        "integer": {"voxel_size": 2, "volume_translation": (1, 0, -3)},
        "list": {"voxel_size": [0.1, 0.2, 0.3], "volume_translation": vectors[0]},
        "vector": {"voxel_size": vectors[0], "volume_translation": vectors[1:2]},
        "tensor": {"voxel_size": vectors, "volume_translation": vectors - 1},
        "column": {"voxel_size": vectors[:, :1], "align_corners": False},
        "single": {"voxel_size": vectors[0, :1], "align_corners": False, "volume_translation": vectors},
    }


def described(volumes: Any) -> dict[str, Tensor]:
    """What volumes tell."""
    points = torch.linspace(-2, 2, len(volumes) * 4 * 3).reshape(len(volumes), 2, 2, 3)
    return {
        "densities": volumes.densities(),
        "features": volumes.features(),
        "sizes": volumes.get_grid_sizes(),
        "world": volumes.get_coord_grid(),
        "local": volumes.get_coord_grid(world_coordinates=False),
        "to_world": volumes.get_local_to_world_coords_transform().get_matrix(),
        "to_local": volumes.get_world_to_local_coords_transform().get_matrix(),
        "points_world": volumes.local_to_world_coords(points),
        "points_local": volumes.world_to_local_coords(points),
    }


def answers(package: str) -> dict[str, Tensor]:
    """All that is recorded."""
    structures = importlib.import_module(f"{package}.structures")
    module = importlib.import_module(f"{package}.structures.volumes")
    densities, features = grids([(3, 4, 5)] * 3)
    out = {}
    for name, place in places().items():
        volumes = structures.Volumes(torch.stack(densities), torch.stack(features), **place)
        out |= {f"{name}_{key}": value for key, value in described(volumes).items()}
    densities, features = grids([(3, 4, 5), (2, 6, 2), (5, 3, 4)])
    ragged = structures.Volumes(densities, features, **places()["tensor"])
    out |= {f"ragged_{key}": value for key, value in described(ragged).items()}
    for n, pair in enumerate(zip(ragged.densities_list(), ragged.features_list(), strict=True)):
        out[f"ragged_densities_{n}"], out[f"ragged_features_{n}"] = pair
    indices = {"int": 1, "slice": slice(1, 3), "list": [2, 0], "mask": torch.tensor([True, False, True])}
    for name, index in indices.items():
        out |= {f"ragged_{name}_{key}": value for key, value in described(ragged[index]).items()}
    updated = volumes.update_padded(volumes.densities() * 2, volumes.features()[:, :2])
    out |= {f"updated_{key}": value for key, value in described(updated).items()}
    for name, sizes in {"one": (3, 4, 5), "each": [[3, 4, 5], [6, 2, 3], [2, 4, 4]]}.items():
        locator = module.VolumeLocator(3, sizes, torch.device("cpu"), **places()["tensor"])
        out[f"locator_{name}"] = locator.get_coord_grid()
    return out


if __name__ == "__main__":
    arrays = {name: value.numpy() for name, value in answers("pytorch3d").items()}
    np.savez_compressed(Path(__file__).with_name("volumes.npz"), **arrays)
