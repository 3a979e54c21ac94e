"""Opening, reading and writing files: paths or file objects, whole or not at all."""

from __future__ import annotations

import io
import os
import secrets
import stat
from pathlib import Path
from typing import IO, Any

import numpy as np

PathOrStr = Path | str


class LocalPaths:
    """Local files through the two methods of iopath's `PathManager` that loaders need: `open` and `exists`.

    It is the default wherever a function takes a `path_manager`; any object with these methods may take its place.
    """

    def open(self, path: PathOrStr, mode: str = "r", **kwargs: Any) -> IO[Any]:
        """The built-in `open`."""
        return open(path, mode, **kwargs)

    def exists(self, path: PathOrStr) -> bool:
        """Whether there is a file or folder at `path`."""
        return os.path.exists(path)


def is_path(f: Any) -> bool:
    """Whether `f` names a file, as opposed to being an open one."""
    return isinstance(f, str | bytes | os.PathLike)


def file_name(f: Any) -> str:
    """How an error message calls the path or file object `f`."""
    name = os.fspath(f) if is_path(f) else getattr(f, "name", None)
    if isinstance(name, bytes):
        return os.fsdecode(name)
    return name if isinstance(name, str) else "<file object>"


def read_file(f: Any, path_manager: Any = None) -> bytes:
    """The content of a path or of an open binary or text file from where it stands.

    Args:
        f: path (str, bytes or path-like) or file object.
        path_manager: opens `f` where that is a str; None for local files.

    Returns:
        All bytes; of a text file its UTF-8 encoding.
    """
    if is_path(f):
        opener = path_manager if isinstance(f, str) and path_manager is not None else LocalPaths()
        with opener.open(f, "rb") as opened:
            return bytes(opened.read())
    if not hasattr(f, "read"):
        raise TypeError(f"load: expected a path or an object with a read method, got {type(f).__name__}")
    content = f.read()
    return content.encode("utf-8", "surrogateescape") if isinstance(content, str) else bytes(content)


def write_file(f: Any, content: bytes, path_manager: Any = None) -> None:
    """Writes `content` to a path or an open binary or text file.

    A local path is written atomically: a temporary file in the same folder takes the name when it is complete, so a
    crash or a full disk leaves what was there before. An empty file has nothing to lose and is written in place: it
    can be read through what holds it open, as a `NamedTemporaryFile` does.

    Args:
        f: path (str, bytes or path-like) or file object.
        content: all of the new content.
        path_manager: opens `f` where that is a str; None for local files. Then nothing is promised on a crash.
    """
    if not is_path(f):
        f.write(content.decode("utf-8", "surrogateescape") if isinstance(f, io.TextIOBase) else content)
    elif isinstance(f, str) and path_manager is not None and not isinstance(path_manager, LocalPaths):
        with path_manager.open(f, "wb") as opened:
            opened.write(content)
    else:
        _write_atomically(os.path.realpath(os.fsdecode(f)), content)


def _write_atomically(path: str, content: bytes) -> None:
    folder, name = os.path.split(path)
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{path}: the folder {folder} does not exist; create it first")
    if os.path.isdir(path):
        raise IsADirectoryError(f"{path}: is a folder, expected a file name")
    mode = 0o666  # reduced by the umask
    if os.path.exists(path):
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) or not status.st_size:  # a pipe or device has no half-written state
            with open(path, "wb") as opened:
                opened.write(content)
            return
        mode = stat.S_IMODE(status.st_mode)
    temporary = os.path.join(folder, f".{name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as opened:
            opened.write(content)
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise


def read_image(path: Any, path_manager: Any = None) -> np.ndarray:
    """An image file as (H, W, 3) float32 with values 0..255; grey becomes RGB and alpha is dropped.

    Args:
        path: path or binary file object.
        path_manager: opens `path` where that is a str; None for local files.

    Raises:
        ValueError: if the file is not a readable image.
        ImportError: if pillow is not installed.
    """
    image_module = _pillow()
    content = read_file(path, path_manager)
    try:
        with image_module.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert("RGB"), dtype=np.float32)
    except (OSError, SyntaxError, ValueError, image_module.DecompressionBombError) as error:
        raise ValueError(f"{file_name(path)}: expected a readable image, got {len(content)} bytes ({error})") from error


def encode_png(image: np.ndarray) -> bytes:
    """PNG bytes of (H, W, 3) values in [0, 1], clamped and rounded to 8 bits.

    Rounding makes reading and writing an 8-bit image the identity.

    Raises:
        ImportError: if pillow is not installed.
    """
    pixels = np.rint(np.clip(np.nan_to_num(image), 0.0, 1.0) * 255.0).astype(np.uint8)
    buffer = io.BytesIO()
    _pillow().fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError('reading and writing images needs pillow: pip install "recon_engine[io]"') from error
    return Image
