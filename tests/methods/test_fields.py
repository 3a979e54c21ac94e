from __future__ import annotations

import numpy as np
import pytest
import torch

from recon_engine.methods._fields import measures, psnr, straight
from recon_engine.methods._settings import with_changes
from recon_engine.methods._views import ViewSettings, held_out_views, place
from recon_engine.methods.shapes import building


def test_psnr():
    expected = torch.rand(3, 6, 5, 3) * 0.8 + 0.1
    got = expected.clone()
    got[0] += 0.1
    got[1, :3] += 0.01
    assert psnr(got, expected).tolist() == pytest.approx([20.0, 40.0 + 3.0103, 100.0], abs=1e-3)
    weights = torch.zeros(3, 6, 5, dtype=torch.bool)
    weights[:, :3] = True
    assert psnr(got, expected, weights).tolist() == pytest.approx([20.0, 40.0, 100.0], abs=1e-3)


def test_psnr_of_what_is_brighter_than_white():
    white = torch.ones(1, 4, 4, 3)
    assert psnr(white * 7, white).tolist() == [100.0]


def test_measures_of_the_pictures_themselves_are_perfect():
    settings = ViewSettings(views=4, held_out=3, image_size=24)
    views = held_out_views(place(building(colors=True)), settings)
    found = measures(lambda _: views.rgba, views)
    assert found["psnr"].tolist() == found["psnr_inside"].tolist() == [100.0] * 3
    assert found["iou"].tolist() == [1.0] * 3
    black = measures(lambda _: torch.zeros_like(views.rgba), views)
    # Black is right for the background: inside it is farther off.
    assert (black["psnr_inside"] < black["psnr"] - 3).all()
    assert black["iou"].tolist() == [0.0] * 3


def test_straight_colors():
    rgba = torch.tensor([[0.25, 0.1, 0.0, 0.5], [0.0, 0.0, 0.0, 0.0], [0.2, 0.4, 0.6, 1.0]])
    assert straight(rgba).tolist() == [[128, 51, 0, 128], [0, 0, 0, 0], [51, 102, 153, 255]]
    assert straight(rgba).dtype == np.uint8


def test_later_changes_win_and_none_changes_nothing():
    presets = {"plain": {}, "few": {"views": 4, "iterations": 9}}
    settings = with_changes(ViewSettings, presets, "few", {"views": 6, "huber": None}, {"views": None, "seed": 3})
    assert (settings.views, settings.iterations, settings.seed, settings.huber) == (6, 9, 3, 0.1)
    with pytest.raises(ValueError, match="preset must be one of plain, few, got 'many'"):
        with_changes(ViewSettings, presets, "many")
    with pytest.raises(TypeError, match="ViewSettings has no field 'colour'"):
        with_changes(ViewSettings, presets, "plain", {"colour": 1})
