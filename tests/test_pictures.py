"""The report that tests of pictures leave when they fail."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image


def test_equal_pictures_leave_nothing(assert_picture, tmp_path):
    picture = torch.rand(2, 5, 7, 4)
    assert_picture(picture, picture.numpy() + 1e-7, atol=1e-6, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_wrong_pixel_is_shown(assert_picture, tmp_path, channels):
    expected = np.linspace(0.1, 0.9, 6 * 8 * channels).reshape(1, 6, 8, channels)
    got = expected.copy()
    got[0, 2, 5, channels - 1] += 0.05
    with pytest.raises(
        AssertionError, match=r"cow: 1 of .* values differ by more than 0.01, most at \(0, 2, 5, "
    ) as error:
        assert_picture(got, expected, atol=0.01, name="cow", folder=tmp_path)
    (path,) = tmp_path.iterdir()
    assert str(path) in str(error.value)
    assert path.name.startswith("test_a_wrong_pixel_is_shown")
    sheet = np.asarray(Image.open(path))
    scale = 256 // 8
    assert sheet.shape == (scale * 7, scale * (3 * 8 + 2), 3)
    left, middle, right = (sheet[: 6 * scale, at * scale : (at + 8) * scale] for at in (0, 9, 18))
    differs = np.zeros((6 * scale, 8 * scale), dtype=bool)
    differs[2 * scale : 3 * scale, 5 * scale : 6 * scale] = True
    assert (right[differs] == 255).all()
    assert (right[~differs] == 0).all()
    assert (left[~differs] == middle[~differs]).all()
    assert (left[differs] != middle[differs]).any()


def test_nan_and_other_shapes_are_differences(assert_picture, tmp_path):
    expected = torch.rand(1, 4, 4, 3)
    got = expected.clone()
    got[0, 1, 1, 0] = math.nan
    with pytest.raises(AssertionError, match=r"1 of 48 values differ .* most at \(0, 1, 1, 0\): nan instead of"):
        assert_picture(got, expected, atol=1.0, folder=tmp_path)
    with pytest.raises(AssertionError, match=r"shape \(4, 4, 3\) instead of \(1, 4, 4, 3\)"):
        assert_picture(got[0], expected, atol=1.0, folder=tmp_path)
