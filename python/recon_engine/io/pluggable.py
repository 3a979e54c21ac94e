"""`IO`: loading and saving by the ending of the file name, with formats that can be added."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import torch

from recon_engine.structures import Meshes, Pointclouds

from .obj_io import MeshObjFormat
from .off_io import MeshOffFormat
from .pluggable_formats import MeshFormatInterpreter, PointcloudFormatInterpreter
from .ply_io import MeshPlyFormat, PointcloudPlyFormat
from .utils import LocalPaths, PathOrStr, file_name


class IO:
    """Loads and saves meshes and point clouds in the registered file formats; the one registered last is asked first.

    Args:
        include_default_formats: whether OBJ, OFF and PLY of meshes and PLY of point clouds are registered.
        path_manager: object with `open` and `exists` that interprets paths given as str; None for local files.

    Example:
        >>> from recon_engine.utils import ico_sphere
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "sphere.ply"
        >>> IO().save_mesh(ico_sphere(1), path)
        >>> IO().load_mesh(path).verts_packed().shape
        torch.Size([42, 3])
    """

    def __init__(self, include_default_formats: bool = True, path_manager: Any = None) -> None:
        self.path_manager = LocalPaths() if path_manager is None else path_manager
        self.mesh_interpreters: deque[MeshFormatInterpreter] = deque()
        self.pointcloud_interpreters: deque[PointcloudFormatInterpreter] = deque()
        if include_default_formats:
            self.register_default_formats()

    def register_default_formats(self) -> None:
        """Registers OBJ, OFF and PLY of meshes and PLY of point clouds."""
        self.register_meshes_format(MeshObjFormat())
        self.register_meshes_format(MeshOffFormat())
        self.register_meshes_format(MeshPlyFormat())
        self.register_pointcloud_format(PointcloudPlyFormat())

    def register_meshes_format(self, interpreter: MeshFormatInterpreter) -> None:
        """Registers a mesh format; it is asked before those registered earlier."""
        if not isinstance(interpreter, MeshFormatInterpreter):
            raise ValueError(
                "Invalid interpreter: expected an instance of a subclass of MeshFormatInterpreter, "
                f"got {type(interpreter).__name__}"
            )
        self.mesh_interpreters.appendleft(interpreter)

    def register_pointcloud_format(self, interpreter: PointcloudFormatInterpreter) -> None:
        """Registers a format of point clouds; it is asked before those registered earlier."""
        if not isinstance(interpreter, PointcloudFormatInterpreter):
            raise ValueError(
                "Invalid interpreter: expected an instance of a subclass of PointcloudFormatInterpreter, "
                f"got {type(interpreter).__name__}"
            )
        self.pointcloud_interpreters.appendleft(interpreter)

    def load_mesh(
        self, path: PathOrStr, include_textures: bool = True, device: torch.device | str = "cpu", **kwargs: Any
    ) -> Meshes:
        """The mesh of a file. For the materials of an OBJ file use `load_obj`.

        Args:
            path: file to read.
            include_textures: whether to read textures too.
            device: where the mesh is put.
            **kwargs: options of the format.

        Raises:
            ValueError: if no registered format takes `path`, or the file is malformed.
        """
        for interpreter in self.mesh_interpreters:
            mesh = interpreter.read(
                path, include_textures=include_textures, path_manager=self.path_manager, device=device, **kwargs
            )
            if mesh is not None:
                return mesh
        raise ValueError(
            f"No mesh interpreter found to read {file_name(path)}. Known endings: {_known(self.mesh_interpreters)}."
        )

    def save_mesh(
        self, data: Meshes, path: PathOrStr, binary: bool | None = None, include_textures: bool = True, **kwargs: Any
    ) -> None:
        """Writes a mesh.

        Args:
            data: batch of one mesh.
            path: file to write.
            binary: whether to write a binary format, where there is a choice; None for the default.
            include_textures: whether to write textures, where the format has them.
            **kwargs: options of the format.

        Raises:
            ValueError: if `data` is not one mesh, or no registered format takes `path`.
        """
        if not isinstance(data, Meshes):
            raise ValueError(f"Meshes object expected, got {type(data).__name__}.")
        if len(data) != 1:
            raise ValueError(f"Can only save a single mesh, got {len(data)}; save data[i] for each i.")
        if data.textures is not None and not include_textures:
            data = data.clone()
            data.textures = None
        for interpreter in self.mesh_interpreters:
            if interpreter.save(data, path, path_manager=self.path_manager, binary=binary, **kwargs):
                return
        raise ValueError(
            f"No mesh interpreter found to write to {file_name(path)}. Known endings: {_known(self.mesh_interpreters)}."
        )

    def load_pointcloud(self, path: PathOrStr, device: torch.device | str = "cpu", **kwargs: Any) -> Pointclouds:
        """The point cloud of a file.

        Args:
            path: file to read.
            device: where the cloud is put.
            **kwargs: options of the format.

        Raises:
            ValueError: if no registered format takes `path`, or the file is malformed.
        """
        for interpreter in self.pointcloud_interpreters:
            cloud = interpreter.read(path, path_manager=self.path_manager, device=device, **kwargs)
            if cloud is not None:
                return cloud
        known = _known(self.pointcloud_interpreters)
        raise ValueError(f"No point cloud interpreter found to read {file_name(path)}. Known endings: {known}.")

    def save_pointcloud(self, data: Pointclouds, path: PathOrStr, binary: bool | None = None, **kwargs: Any) -> None:
        """Writes a point cloud.

        Args:
            data: batch of one cloud.
            path: file to write.
            binary: whether to write a binary format, where there is a choice; None for the default.
            **kwargs: options of the format.

        Raises:
            ValueError: if `data` is not one cloud, or no registered format takes `path`.
        """
        if not isinstance(data, Pointclouds):
            raise ValueError(f"Pointclouds object expected, got {type(data).__name__}.")
        if len(data) != 1:
            raise ValueError(f"Can only save a single point cloud, got {len(data)}; save data[i] for each i.")
        for interpreter in self.pointcloud_interpreters:
            if interpreter.save(data, path, path_manager=self.path_manager, binary=binary, **kwargs):
                return
        known = _known(self.pointcloud_interpreters)
        raise ValueError(f"No point cloud interpreter found to write to {file_name(path)}. Known endings: {known}.")


def _known(formats: Iterable[Any]) -> str:
    return ", ".join(suffix for format in formats for suffix in getattr(format, "known_suffixes", ())) or "none"
