"""A folder of pictures with cameras, in any of the known formats, as tensors of one size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recon_engine._extra import extra
from recon_engine.renderer.cameras import PerspectiveCameras

from ._cutouts import ENDINGS, find_mask, open_cutout
from ._shot import CameraFile, Lens, Shot
from .angles import read_angles, rows_of
from .colmap import has_colmap, read_colmap
from .transforms import read_transforms

_COLMAP_FOLDERS = ("sparse/0", "sparse", "colmap/sparse/0", "colmap_sparse/0", "")
_TABLES = ("cameras.csv", "angles.csv")
_KEPT = 8  # of so many pictures one is held out, unless a number is given


@dataclass(frozen=True)
class Capture:
    """N pictures of an object and their cameras, in the world of the camera file.

    Fields:
        names: of the files.
        R: (N, 3, 3) float64, with T the cameras' places: x_view = x_world R + T; +X left, +Y up, +Z into the picture.
        T: (N, 3) float64.
        focal: (N, 2) float64, focal lengths in pixels.
        principal: (N, 2) float64, where the axes meet the pictures, in pixels from the upper left corner.
        rgba: (N, S, S, 4) float32, colours times alpha, and alpha; pictures that are not square have clear borders.
        is_held_out: (N,) bool, the pictures that are for measures only.
        up: (3,) which way is up; None where the format does not say.
        where: the camera file.
    """

    names: list[str]
    R: Tensor
    T: Tensor
    focal: Tensor
    principal: Tensor
    rgba: Tensor
    is_held_out: Tensor
    up: tuple[float, float, float] | None
    where: str

    def cameras(self, device: torch.device | str = "cpu") -> PerspectiveCameras:
        """The cameras in float32, in pixels of pictures of S x S."""
        size = self.rgba.shape[1:3]
        return PerspectiveCameras(
            focal_length=self.focal.float(),
            principal_point=self.principal.float(),
            R=self.R.float(),
            T=self.T.float(),
            in_ndc=False,
            image_size=torch.tensor([size]).expand(len(self.names), 2),
            device=device,
        )


def load_capture(
    folder: Path | str,
    cameras: Path | str | None = None,
    masks: Path | str | None = None,
    *,
    image_size: int = 128,
    held_out: int | None = None,
    distance: float = 2.7,
    fov: float = 60.0,
) -> Capture:
    """Read the pictures of a folder and their cameras.

    Cameras are looked for in this order: `transforms.json`, or `transforms_train.json` whose test pictures are then in
    `transforms_test.json` or `transforms_val.json` (NeRF data sets); COLMAP's files in `sparse/0`, `sparse`,
    `colmap/sparse/0`, `colmap_sparse/0` or the folder itself; `cameras.csv` or `angles.csv`. Pictures are relative to
    a `transforms.json`; otherwise they lie in `images` if there is such a folder, or in the folder itself.

    What belongs to the object comes from a picture's alpha channel; or from a grey picture, white where the object is,
    that the camera file names or that has the picture's name, or its name and .png, in `masks`.

    Args:
        folder: with the pictures.
        cameras: a transforms.json, a CSV, a folder of COLMAP's or one of its files. Default: see above.
        masks: a folder of masks. Default: `masks` in the folder, if there is one.
        image_size: S, the longer side of the result in pixels. Lenses that bend lines are straightened.
        held_out: how many pictures are kept for measures. Default: the data set's own, or else one in eight.
        distance: of cameras from the origin where a CSV has none.
        fov: field of view in degrees, along the longer side, where a CSV has none.

    Returns:
        The pictures in the camera file's order; where it names none or in no order, sorted by name. Pictures that a
        `transforms.json` or COLMAP does not name, because it could not place them, are left out.

    Raises:
        FileNotFoundError: a folder or file is missing; says what was looked for.
        ValueError: pictures and cameras do not fit each other, or one of them is malformed; names the file and line,
            what was expected and what came.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder of pictures {folder} does not exist")
    path = find_cameras(folder) if cameras is None else Path(cameras)
    masks = folder / "masks" if masks is None and (folder / "masks").is_dir() else masks
    if masks is not None and not Path(masks).is_dir():
        raise FileNotFoundError(f"the folder of masks {masks} does not exist")
    files = [read_cameras(path, distance, fov)]
    other = _other_split(path) if cameras is None and held_out != 0 else None
    if other is not None:
        files.append(read_transforms(other))
    pictures = [
        picture for file in files for picture in _pictures(file, folder, None if masks is None else Path(masks))
    ]
    count = len(files[0].shots)
    if other is not None:
        pictures = [*pictures[:count], *_spread(pictures[count:], held_out)]
        is_held_out = torch.arange(len(pictures)) >= count
    else:
        is_held_out = _chosen(count, held_out)
    loaded = [_load(picture, image_size) for picture in pictures]
    lenses = [lens for _, lens in loaded]
    return Capture(
        names=[picture.name for picture in pictures],
        R=torch.stack([picture.shot.R for picture in pictures]),
        T=torch.stack([picture.shot.T for picture in pictures]),
        focal=torch.tensor([lens.focal for lens in lenses], dtype=torch.float64),
        principal=torch.tensor([lens.center for lens in lenses], dtype=torch.float64),
        rgba=torch.stack([rgba for rgba, _ in loaded]),
        is_held_out=is_held_out,
        up=files[0].up,
        where=files[0].where,
    )


def find_cameras(folder: Path) -> Path:
    """The camera file of a folder, or COLMAP's folder; see `load_capture` for the order.

    Raises:
        FileNotFoundError: there is none.
    """
    for name in ("transforms.json", "transforms_train.json"):
        if (folder / name).is_file():
            return folder / name
    for name in _COLMAP_FOLDERS:
        if has_colmap(folder / name):
            return folder / name
    for name in _TABLES:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"the folder {folder} has no cameras: expected transforms.json, COLMAP's cameras and images (.txt or .bin) in "
        "sparse/0, or cameras.csv with the columns file,azimuth,elevation; or name them (--cameras)"
    )


def read_cameras(path: Path | str, distance: float = 2.7, fov: float = 60.0) -> CameraFile:
    """The cameras of a file of any known format.

    Args:
        path: transforms.json, a CSV, a folder of COLMAP's or one of its files.
        distance: where a CSV has none.
        fov: where a CSV has none, in degrees.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another format, or a malformed file.
    """
    path = Path(path)
    if path.is_dir():
        return read_colmap(path)
    if not path.is_file():
        raise FileNotFoundError(f"the camera file {path} does not exist")
    if path.suffix.lower() == ".json":
        return read_transforms(path)
    if path.suffix.lower() == ".csv":
        return read_angles(path, distance, fov)
    if path.stem in ("cameras", "images") and path.suffix.lower() in (".txt", ".bin"):
        return read_colmap(path.parent)
    raise ValueError(f"the camera file {path} must be a .json, a .csv, or cameras.txt, images.txt or .bin of COLMAP")


class _Picture(NamedTuple):
    """A picture's files and its camera."""

    name: str
    path: Path
    mask: Path | None
    masks: Path | None  # the folder that was looked into
    shot: Shot
    where: str


def _other_split(path: Path) -> Path | None:
    """The test pictures of a data set whose training pictures are in `path`."""
    if path.name != "transforms_train.json":
        return None
    found = [path.with_name(f"transforms_{name}.json") for name in ("test", "val")]
    return next((other for other in found if other.is_file()), None)


def _spread(pictures: list[_Picture], count: int | None) -> list[_Picture]:
    """Some of them, evenly; all where no number is given."""
    if count is None or count >= len(pictures):
        return pictures
    return [pictures[i * len(pictures) // count] for i in range(count)]


def _chosen(pictures: int, count: int | None) -> Tensor:
    """(pictures,) bool: which are held out, in the middles of equal parts."""
    count = pictures // _KEPT if count is None else count
    if pictures < 2:
        raise ValueError(f"expected at least 2 pictures of the object, got {pictures}")
    if count > pictures - 2:
        raise ValueError(f"held_out must leave two of the {pictures} pictures to fit, got {count}")
    chosen = torch.zeros(pictures, dtype=torch.bool)
    for i in range(count):
        chosen[(2 * i + 1) * pictures // (2 * count)] = True
    return chosen


def _pictures(file: CameraFile, folder: Path, masks: Path | None) -> list[_Picture]:
    """The files of all shots, which are there."""
    root = folder if file.root is None else Path(file.root)
    if file.root is None and (folder / "images").is_dir():
        root = folder / "images"
    shots = file.shots
    if file.is_whole:
        is_deep = any("/" in shot.name for shot in shots)
        found = sorted(
            path.relative_to(root).as_posix()
            for path in (root.rglob("*") if is_deep else root.iterdir())
            if path.suffix.lower() in ENDINGS and (masks is None or masks not in path.parents)
        )
        if not found:
            raise FileNotFoundError(f"the folder {root} holds no {', '.join(ENDINGS)} files")
        names = [shot.name for shot in shots if shot.name]
        order = rows_of(found, names, len(shots), f"the cameras of {file.where}")
        shots = [shots[i]._replace(name=name) for name, i in zip(found, order, strict=True)]
    pictures = []
    for shot in shots:
        path = root / shot.name
        if not path.is_file():
            raise FileNotFoundError(f"{file.where} has a camera for {shot.name}, but there is no picture {path}")
        mask = root / shot.mask if shot.mask else find_mask(masks, shot.name)
        pictures.append(_Picture(shot.name, path, mask, masks, shot, file.where))
    return pictures


def _load(picture: _Picture, size: int) -> tuple[Tensor, Lens]:
    """(S, S, 4) colours times alpha, and alpha; and the straight lens of that."""
    masks = "a folder" if picture.masks is None else str(picture.masks)
    premultiplied = open_cutout(picture.path, picture.mask, masks).convert("RGBa")
    try:
        lens = picture.shot.lens.of_size(premultiplied.height, premultiplied.width)
    except ValueError as error:
        raise ValueError(f"the picture {picture.path} does not fit its camera in {picture.where}: {error}") from error
    longer = max(premultiplied.size)
    width, height = (max(1, round(side * size / longer)) for side in premultiplied.size)
    hamming = extra("PIL.Image", "io").Resampling.HAMMING
    small = torch.from_numpy(np.array(premultiplied.resize((width, height), hamming), dtype=np.float32) / 255)
    left, top = (size - width) // 2, (size - height) // 2
    square = F.pad(small, (0, 0, left, size - width - left, top, size - height - top))
    lens = lens.of_size(height, width)
    lens = Lens(lens.focal, (lens.center[0] + left, lens.center[1] + top), (size, size), lens.distortion)
    return (square, lens) if lens.distortion is None else (_straightened(square, lens), lens)


def _straightened(picture: Tensor, lens: Lens) -> Tensor:
    """What a pinhole with the lens' focal length would show, (S, S, 4)."""
    size = len(picture)
    assert lens.distortion is not None
    focal, center = (torch.tensor(pair, dtype=torch.float64) for pair in (lens.focal, lens.center))
    middle = torch.arange(size, dtype=torch.float64) + 0.5
    at = torch.stack(torch.meshgrid(middle, middle, indexing="xy"), -1)
    bent = lens.distortion((at - center) / focal) * focal + center
    grid = (2 * bent / size - 1).to(picture)[None]
    return F.grid_sample(picture.permute(2, 0, 1)[None], grid, align_corners=False)[0].permute(1, 2, 0)
