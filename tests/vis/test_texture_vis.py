from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from recon_engine.renderer import TexturesUV
from recon_engine.vis import texturesuv_image_matplotlib, texturesuv_image_PIL

FACES = torch.tensor([[[0, 1, 2]]])


def texture(maps, uvs):
    return TexturesUV(maps[None], FACES, torch.tensor([uvs]))


def test_pil_marks_the_coordinates(device):
    pytest.importorskip("PIL.Image")
    uvs = [[0.0, 1.0], [1.0, 1.0], [0.5, 0.5], [1.0, 0.0]]
    maps = torch.full((9, 11, 3), 0.2, device=device, requires_grad=True)
    marked = np.asarray(texturesuv_image_PIL(texture(maps, uvs).to(device), radius=1, color=(255, 0, 0)))
    assert marked.shape == (9, 11, 3)
    red = (marked == [255, 0, 0]).all(axis=-1)
    rows, columns = np.mgrid[:9, :11]
    distances = [abs(rows - row) + abs(columns - column) for row, column in [(0, 0), (0, 10), (4, 5), (8, 10)]]
    assert (red == (np.min(distances, axis=0) <= 1)).all()
    assert (marked[~red] == 51).all()


def test_pil_rounds_and_samples():
    pytest.importorskip("PIL.Image")
    levels = torch.arange(256).view(16, 16, 1) / 255.0
    uvs = torch.rand(500, 2).tolist()
    assert (np.asarray(texturesuv_image_PIL(texture(levels, uvs), subsample=0)) == np.arange(256).reshape(16, 16)).all()
    few = texturesuv_image_PIL(texture(torch.zeros(64, 64, 3), uvs), subsample=3)
    assert 1 <= (np.asarray(few)[..., 0] > 0).sum() <= 3 * 5
    every = texturesuv_image_PIL(texture(torch.zeros(64, 64, 3), uvs), subsample=None)
    assert (np.asarray(every)[..., 0] > 0).sum() > 1000


@pytest.mark.parametrize("origin", ["upper", "lower"])
def test_matplotlib_draws_into_the_current_axes(origin):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    uvs = [[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]]
    image = torch.rand(5, 7, 3)
    texturesuv_image_matplotlib(texture(image, uvs), radius=1, color="blue", origin=origin)
    (shown,) = axes.images
    np.testing.assert_allclose(shown.get_array() / 255.0, image, atol=0.5 / 255 + 1e-6)
    assert shown.origin == origin
    (discs,) = axes.collections
    assert discs.get_offsets().tolist() == [[0, 0], [6, 4], [3, 2]]
    assert discs.get_facecolor().tolist() == [[0, 0, 1, 1]]
    assert not discs.get_clip_on()
    figure.canvas.draw()
    drawn = np.asarray(figure.canvas.buffer_rgba())
    pixels_per_texel = np.diff(axes.transData.transform([[0, 0], [1, 0]])[:, 0]).item()
    area = (drawn[..., :3] == [0, 0, 255]).all(axis=-1).sum()
    assert area == pytest.approx(3 * np.pi * pixels_per_texel**2, rel=0.1)
    plt.close(figure)


def test_errors(monkeypatch):
    batch = TexturesUV(torch.zeros(2, 4, 4, 3), FACES.expand(2, -1, -1), torch.zeros(2, 3, 2))
    with pytest.raises(ValueError, match="only supports plotting textures for one mesh; got a batch of 2"):
        texturesuv_image_PIL(batch)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r'texturesuv_image_PIL needs pillow: pip install "recon_engine\[io\]"'):
        texturesuv_image_PIL(batch)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r'needs matplotlib: pip install "recon_engine\[vis\]"'):
        texturesuv_image_matplotlib(batch)
