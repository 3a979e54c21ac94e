"""The base classes of file formats that `IO` can be taught."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .utils import PathOrStr

if TYPE_CHECKING:
    import torch

    from recon_engine.structures import Meshes, Pointclouds


def endswith(path: PathOrStr, suffixes: tuple[str, ...]) -> bool:
    """Whether `path` ends with one of `suffixes` (lower case, with dot). True for file objects: they have no suffix."""
    if isinstance(path, Path):
        return path.suffix.lower() in suffixes
    if isinstance(path, str):
        return path.lower().endswith(suffixes)
    return True


class MeshFormatInterpreter:
    """Reads and writes meshes in one file format. Override one or both methods; as they are they decline every path."""

    def read(
        self, path: PathOrStr, include_textures: bool, device: torch.device | str, path_manager: Any, **kwargs: Any
    ) -> Meshes | None:
        """Reads one mesh.

        Args:
            path: file to read.
            include_textures: whether to read textures too.
            device: where the mesh is put.
            path_manager: object with `open` and `exists` that interprets `path`.
            **kwargs: options of the format.

        Returns:
            The mesh, or None if `path` is not of this format.
        """
        return None

    def save(self, data: Meshes, path: PathOrStr, path_manager: Any, binary: bool | None, **kwargs: Any) -> bool:
        """Writes one mesh.

        Args:
            data: batch of one mesh.
            path: file to write.
            path_manager: object with `open` that interprets `path`.
            binary: whether to write a binary format, where there is a choice; None for the default.
            **kwargs: options of the format.

        Returns:
            False if `path` is not of this format, True if it was written.
        """
        return False


class PointcloudFormatInterpreter:
    """Reads and writes point clouds in one file format; as `MeshFormatInterpreter` does with meshes."""

    def read(self, path: PathOrStr, device: torch.device | str, path_manager: Any, **kwargs: Any) -> Pointclouds | None:
        """Reads one point cloud.

        Args:
            path: file to read.
            device: where the cloud is put.
            path_manager: object with `open` and `exists` that interprets `path`.
            **kwargs: options of the format.

        Returns:
            The cloud, or None if `path` is not of this format.
        """
        return None

    def save(self, data: Pointclouds, path: PathOrStr, path_manager: Any, binary: bool | None, **kwargs: Any) -> bool:
        """Writes one point cloud.

        Args:
            data: batch of one cloud.
            path: file to write.
            path_manager: object with `open` that interprets `path`.
            binary: whether to write a binary format, where there is a choice; None for the default.
            **kwargs: options of the format.

        Returns:
            False if `path` is not of this format, True if it was written.
        """
        return False
