"""Texture images with the texture coordinates of a mesh marked in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from recon_engine.renderer.mesh.textures import TexturesUV

if TYPE_CHECKING:
    from PIL.Image import Image


def texturesuv_image_matplotlib(
    texture: TexturesUV,
    *,
    texture_index: int = 0,
    radius: float = 1,
    color: Any = (1.0, 0.0, 0.0),
    subsample: int | None = 10000,
    origin: Literal["upper", "lower"] = "upper",
) -> None:
    """Draws the map of a texture into the current axes of matplotlib, with a disc at each texture coordinate.

    To check that a map and the coordinates belong together. Coordinates that no face uses are drawn too; those outside
    of [0, 1] appear at the border, and discs are not cut there.

    Args:
        texture: of one mesh.
        texture_index: which of the batch, 0.
        radius: of the discs, in pixels of the map.
        color: of the discs, as matplotlib takes it.
        subsample: the most discs, drawn at random with numpy's global generator; None for all.
        origin: "upper" or "lower", as in `matplotlib.pyplot.imshow`; "upper" is the way of `texturesuv_image_PIL`.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: for a batch of several meshes, or several maps for a mesh.
    """
    try:
        import matplotlib.pyplot as plt
        from matplotlib.collections import EllipseCollection
    except ImportError as error:
        raise ImportError('texturesuv_image_matplotlib needs matplotlib: pip install "recon_engine[vis]"') from error

    centers = _centers(texture, texture_index, subsample)
    axes = plt.gca()
    axes.imshow(_pixels(texture, texture_index), origin=origin)
    size = np.full(len(centers), 2.0 * radius)
    discs = EllipseCollection(
        size, size, np.zeros(len(centers)), units="xy", offsets=centers, offset_transform=axes.transData, color=color
    )
    discs.set_clip_on(False)
    axes.add_collection(discs, autolim=False)


def texturesuv_image_PIL(
    texture: TexturesUV,
    *,
    texture_index: int = 0,
    radius: float = 1,
    color: Any = "red",
    subsample: int | None = 10000,
) -> Image:
    """The map of a texture as a PIL image, with a disc at each texture coordinate.

    Args:
        texture: of one mesh; its map has 1, 3 or 4 channels.
        texture_index: which of the batch, 0.
        radius: of the discs, in pixels of the map.
        color: of the discs, as PIL takes it.
        subsample: the most discs, drawn at random with numpy's global generator; None for all.

    Raises:
        ImportError: if pillow is not installed.
        ValueError: for a batch of several meshes, or several maps for a mesh.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise ImportError('texturesuv_image_PIL needs pillow: pip install "recon_engine[io]"') from error

    image = Image.fromarray(_pixels(texture, texture_index))
    draw = ImageDraw.Draw(image)
    for x, y in _centers(texture, texture_index, subsample).tolist():
        draw.ellipse([(x - radius, y - radius), (x + radius, y + radius)], fill=color)
    return image


def _pixels(texture: TexturesUV, index: int) -> np.ndarray:
    """The map as bytes: (H, W, C), or (H, W) where there is one channel."""
    values = texture.maps_padded()[index].detach().cpu().float().numpy()
    pixels = np.rint(np.clip(np.nan_to_num(values), 0.0, 1.0) * 255.0).astype(np.uint8)
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def _centers(texture: TexturesUV, index: int, most: int | None) -> np.ndarray:
    """(V, 2) columns and rows of the texture coordinates, at most `most` of them."""
    centers = texture.centers_for_image(index=index).detach().cpu().numpy()
    if most is None or len(centers) <= most:
        return centers
    return centers[np.random.choice(len(centers), most, replace=False)]  # noqa: NPY002
