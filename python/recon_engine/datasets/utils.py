"""Batches of models, and their pictures."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from recon_engine.common.datatypes import Device
from recon_engine.renderer import (
    MeshRasterizer,
    MeshRenderer,
    PointLights,
    RasterizationSettings,
    TexturesAtlas,
    TexturesVertex,
)
from recon_engine.structures import Meshes


def collate_batched_meshes(batch: list[dict[str, Any]]) -> dict[str, Any] | None:
    """One dictionary of lists from a list of dictionaries: the `collate_fn` of a `DataLoader` of models.

    Args:
        batch: models with the same keys.

    Returns:
        The values of each key as a list, and under "mesh" a batch of `Meshes` made of "verts", "faces" and, where
        there are any, "textures" (atlases); None where models have no vertices or faces. None for an empty batch.

    Raises:
        ValueError: if some models have textures and others have not.
    """
    if not batch:
        return None
    collated: dict[str, Any] = {key: [model[key] for model in batch] for key in batch[0]}
    collated["mesh"] = None
    if {"verts", "faces"} <= set(collated):
        atlases = collated.get("textures")
        bare = [i for i, atlas in enumerate(atlases or ()) if atlas is None]
        if bare and len(bare) < len(batch):
            raise ValueError(f"collate_batched_meshes: models {bare} of the batch have no textures, the others have")
        textures = None if not atlases or bare else TexturesAtlas(atlas=atlases)
        collated["mesh"] = Meshes(verts=collated["verts"], faces=collated["faces"], textures=textures)
    return collated


def render_meshes(meshes: Meshes, cameras: Any, shader_type: Any, device: Device, options: dict[str, Any]) -> Tensor:
    """Pictures (N, H, W, C) of meshes, which are white where they have no textures.

    Args:
        meshes: N meshes.
        cameras: one, or N.
        shader_type: class of the shader; it gets the device, cameras and lights as far as it takes them.
        device: where everything is moved to.
        options: `raster_settings` and `lights`, if other than the defaults.
    """
    meshes = meshes.to(device)
    if meshes.textures is None:
        meshes.textures = TexturesVertex([torch.ones_like(verts) for verts in meshes.verts_list()])
    cameras = cameras.to(device)
    settings = options.get("raster_settings", RasterizationSettings())
    arguments = {"device": device, "cameras": cameras, "lights": options.get("lights", PointLights()).to(device)}
    taken = inspect.signature(shader_type).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
        arguments = {name: value for name, value in arguments.items() if name in taken}
    rasterizer = MeshRasterizer(cameras=cameras, raster_settings=settings)
    return MeshRenderer(rasterizer=rasterizer, shader=shader_type(**arguments))(meshes)
