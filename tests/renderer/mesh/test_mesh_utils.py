from __future__ import annotations

import pytest
import torch

from recon_engine.renderer.mesh.utils import (
    Rectangle,
    _clip_barycentric_coordinates,
    _interpolate_zbuf,
    pack_rectangles,
    pack_unique_rectangles,
)
from recon_engine.structures import Meshes


def placed(size, place):
    width, height = size[::-1] if place.flipped else size
    return place.x, place.y, place.x + width, place.y + height


def random_sizes(seed, n):
    generator = torch.Generator().manual_seed(seed)
    return [tuple(row) for row in torch.randint(1, 30, (n, 2), generator=generator).tolist()]


SIZES = [
    *([(2, 4), (4, 2)], [(5, 5), (5, 5), (5, 5)], [(3, 3), (8, 1), (1, 8), (1, 1)], [(10, 10)] * 7),
    *(random_sizes(seed, n) for seed, n in ((0, 2), (1, 5), (2, 20), (3, 60))),
]


@pytest.mark.parametrize("sizes", SIZES)
def test_rectangles_do_not_overlap(sizes):
    total, places = pack_rectangles(sizes)
    covered = torch.zeros(total, dtype=torch.int64)
    for size, place in zip(sizes, places, strict=True):
        x0, y0, x1, y1 = placed(size, place)
        assert 0 <= x0 < x1 <= total[0]
        assert 0 <= y0 < y1 <= total[1]
        covered[x0:x1, y0:y1] += 1
        assert place.is_first
    assert covered.max() == 1
    assert covered.sum() == sum(x * y for x, y in sizes)


@pytest.mark.parametrize("sizes", SIZES)
def test_places_are_those_of_pytorch3d(live, sizes):
    from pytorch3d.renderer.mesh.utils import pack_rectangles as theirs

    want = theirs([list(size) for size in sizes])
    got = pack_rectangles(sizes)
    assert tuple(got.total_size) == tuple(want.total_size)
    assert [tuple(place) for place in got.locations] == [tuple(place) for place in want.locations]


def test_identifiers_share_a_place():
    rectangles = [Rectangle(2, 3, 7), Rectangle(5, 1, 8), Rectangle(2, 3, 7)]
    total, places = pack_unique_rectangles(rectangles)
    assert places[0][:3] == places[2][:3]
    assert [place.is_first for place in places] == [True, True, False]
    one = pack_unique_rectangles([Rectangle(2, 3, 7)] * 2)
    assert one.total_size == (2, 3)
    assert [place.is_first for place in one.locations] == [True, False]
    assert total[0] == 5


def test_too_few():
    with pytest.raises(ValueError, match="Cannot pack less than two boxes; got 1"):
        pack_rectangles([(1, 2)])
    with pytest.raises(ValueError, match="Cannot pack less than two boxes"):
        pack_unique_rectangles([])


def test_clip_barycentric_coordinates():
    bary = torch.tensor([[0.2, 0.3, 0.5], [-0.5, 0.5, 1.0], [-1.0, -1.0, -1.0], [-2.0, 3.0, 0.0]])
    want = torch.tensor([[0.2, 0.3, 0.5], [0.0, 1 / 3, 2 / 3], [-1.0, -1.0, -1.0], [0.0, 1.0, 0.0]])
    torch.testing.assert_close(_clip_barycentric_coordinates(bary), want)
    with pytest.raises(ValueError, match="last dim = 3"):
        _clip_barycentric_coordinates(bary[:, :2])


def test_interpolate_zbuf():
    verts = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 2.0], [0.0, 1.0, 4.0]])
    mesh = Meshes([verts], [torch.tensor([[0, 1, 2]])])
    pix_to_face = torch.tensor([[[[0, -1]]]])
    bary = torch.tensor([0.5, 0.25, 0.25]).expand(1, 1, 1, 2, 3)
    assert _interpolate_zbuf(pix_to_face, bary, mesh).tolist() == [[[[2.0, -1.0]]]]
