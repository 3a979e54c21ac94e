from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_reconstruct_building(tmp_path, monkeypatch, capsys):
    for module in ("PIL", "matplotlib"):
        pytest.importorskip(module)
    out = tmp_path / "out"
    options = ["--iterations", "10", "--image-size", "32", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["reconstruct_building.py", *options])
    runpy.run_path(str(EXAMPLES / "reconstruct_building.py"), run_name="__main__")
    assert "silhouette IoU 0." in capsys.readouterr().out
    assert (out / "report.html").exists()


def test_follow_camera(tmp_path, monkeypatch, capsys):
    for module in ("PIL", "matplotlib"):
        pytest.importorskip(module)
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["follow_camera.py", "--fast", "--frames", "2", "--out", str(out)])
    runpy.run_path(str(EXAMPLES / "follow_camera.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "the best of 6 starts" in printed
    assert "the best of 1 starts" in printed
    azimuth, elevation = map(float, re.search(r"azimuth off by (\S+) .* elevation by (\S+)", printed).groups())
    assert max(azimuth, elevation) < 4
    assert (out / "sequence.gif").exists()


def test_warp_stereo(tmp_path, monkeypatch, capsys):
    """A real stereo pair: warped by its measured depths the left picture is nearly the right one."""
    skimage = pytest.importorskip("skimage", exc_type=ImportError)
    try:
        skimage.data.stereo_motorcycle()
    except Exception as error:  # older versions of scikit-image download it
        pytest.skip(f"scikit-image has no stereo pair here: {error}")
    out = tmp_path / "warped.png"
    monkeypatch.setattr(sys, "argv", ["warp_stereo.py", "--shrink", "3", "--out", str(out)])
    runpy.run_path(str(EXAMPLES / "warp_stereo.py"), run_name="__main__")
    printed = capsys.readouterr().out
    found = {
        name: (float(decibels), float(similarity))
        for name, decibels, similarity in re.findall(r"^(.*): PSNR (.*) dB, SSIM (.*)$", printed, re.MULTILINE)
    }
    assert found["left picture as it is"][0] < 14
    assert found["warped"][0] == pytest.approx(28.02, abs=0.1)
    assert found["warped"][1] == pytest.approx(0.899, abs=0.005)
    assert skimage.io.imread(out).shape == (166, 3 * 247, 3)


def test_warp_stereo_in_closed_form():
    """A plane that faces the cameras moves by its disparity, whole pixels of it exactly, and nothing else is seen."""
    pytest.importorskip("skimage", exc_type=ImportError)
    example = runpy.run_path(str(EXAMPLES / "warp_stereo.py"))
    picture = torch.rand(20, 30, 3)
    disparity = torch.full((20, 30), 7.0)
    disparity[:, -4:] = torch.inf
    warped = example["warp"](picture, disparity, 0.9, 16)
    seen = example["landed"](disparity)
    assert seen[:, :19].all()
    assert not seen[:, 19:].any()
    torch.testing.assert_close(warped[:, :19], picture[:, 7:26], rtol=0, atol=1e-3)
    assert not warped[:, 19:].any()
    assert example["psnr"](warped, picture.roll(-7, 1), seen) > 60
    assert example["ssim"](warped, picture, seen) < 0.5
    assert example["ssim"](picture, picture, seen) == pytest.approx(1.0)
