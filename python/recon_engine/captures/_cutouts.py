"""Pictures of an object, cut out by their alpha channel or by a mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recon_engine._extra import extra

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")


def picture_files(folder: Path) -> list[Path]:
    """The pictures of a folder, sorted by name.

    Raises:
        FileNotFoundError: there is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder of pictures {folder} does not exist")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)
    if not paths:
        raise FileNotFoundError(f"the folder {folder} holds no {', '.join(ENDINGS)} files")
    return paths


def find_mask(masks: Path | None, name: str) -> Path | None:
    """The mask of the picture `name` in a folder: of the same name, or that and .png, or with another ending."""
    if masks is None:
        return None
    candidates = [masks / name, masks / f"{name}.png", *(masks / Path(name).with_suffix(end) for end in ENDINGS)]
    return next((path for path in candidates if path.is_file()), None)


def open_cutout(path: Path, mask: Path | None = None, masks: str | None = "a folder") -> Any:
    """A picture as pillow's RGBA: alpha is the mask if there is one, and else the picture's own.

    Args:
        path: the picture.
        mask: a picture of the same size, bright or opaque where the object is.
        masks: where the error says that a mask could be put; None where masks are not taken.

    Raises:
        ValueError: a file is unreadable, the picture has neither alpha nor mask, the mask has another size, or there is
            no object in it; names the file.
    """
    image = _read(path, "picture")
    if mask is not None:
        bright = _read(mask, "mask")
        if bright.size != image.size:
            raise ValueError(
                f"the mask {mask} must be as large as its picture: expected {image.width} x {image.height} pixels, got "
                f"{bright.width} x {bright.height}"
            )
        image = image.convert("RGB")
        image.putalpha(bright.getchannel("A") if _is_clear_somewhere(bright) else bright.convert("L"))
    elif not _is_clear_somewhere(image):
        cure = "cut the object out and save it as an RGBA PNG"
        if masks is not None:
            cure += f", or put a grey picture of the same name, white where the object is, into {masks} and give it "
            cure += "with --masks"
        raise ValueError(f"the picture {path} has no alpha channel{'' if masks is None else ' and no mask'}: {cure}")
    if image.getchannel("A").getextrema()[1] == 0:
        what = f"the picture {path} is fully transparent" if mask is None else f"the mask {mask} is black everywhere"
        raise ValueError(f"{what}: there is no object in it")
    return image


def _is_clear_somewhere(image: Any) -> bool:
    return "A" in image.getbands() and image.getchannel("A").getextrema()[0] < 255


def _read(path: Path, what: str) -> Any:
    """A whole picture as pillow's, in 8 bits, with alpha if it has any."""
    image_module = extra("PIL.Image", "io")
    try:
        with image_module.open(path) as opened:
            opened.load()
            has_alpha = "A" in opened.getbands() or "transparency" in opened.info
            return opened.convert("RGBA" if has_alpha else "RGB")
    except (OSError, SyntaxError, ValueError, image_module.DecompressionBombError) as error:
        raise ValueError(f"the {what} {path} cannot be read: {error}") from error
