"""Programs of the kind of the book's chapters 2 and 4 end with the book's pictures and stop where the book's stop."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import recon_engine

FOLDER = Path(__file__).parent
PICTURES = ["light_at_front", "light_at_back", "dark", "green", "red", "blue"]


def compat(name: str, *arguments: str) -> str:
    """What the program prints when it runs, unmodified, on recon_engine."""
    path = os.pathsep.join([str(Path(recon_engine.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "recon_engine.compat", str(FOLDER / name), *arguments],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def pixels(path: Path) -> np.ndarray:
    image_module = pytest.importorskip("PIL.Image")
    return np.asarray(image_module.open(path).convert("RGB"), np.float64) / 255


def test_pictures_of_chapter_2(tmp_path, recon_data):
    """The book's files are whole matplotlib figures; ours are made by the same calls."""
    pytest.importorskip("matplotlib")
    compat("render_cow.py", str(recon_data / "book/chap2/data/cow_mesh/cow.obj"), str(tmp_path))
    for name in PICTURES:
        book, ours = pixels(recon_data / f"book/chap2/{name}.png"), pixels(tmp_path / f"{name}.png")
        error = book - ours
        cow = (book < 1).any(-1)
        assert 0.02 < cow.mean() < 0.2
        # Edges are resampled differently by other versions of matplotlib; the inside of the cow is not.
        assert np.median(np.abs(error[cow])) == 0, name
        rows, columns = np.nonzero(cow.any(1))[0], np.nonzero(cow.any(0))[0]
        around = error[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert -10 * np.log10(np.square(error).mean()) > 38, name
        assert -10 * np.log10(np.square(around).mean()) > 24, name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "mesh", "stop"),
    [
        ("pose_silhouette.py", "book/chap4/data/teapot.obj", 500),
        ("pose_textured.py", "book/chap2/data/cow_mesh/cow.obj", 800),
    ],
)
def test_pose_estimations_of_chapter_4(recon_data, program, mesh, stop):
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    printed = compat(program, str(recon_data / mesh), "200")
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime  # of one core, whatever else runs
    losses = [float(value) for value in re.findall(r"^loss (\S+)$", printed, re.MULTILINE)]
    assert losses[-1] < stop < losses[-2]
    assert losses[0] > 5 * stop
    # The camera starts 5.3 from where it should be.
    assert float(re.findall(r"^distance (\S+)$", printed, re.MULTILINE)[0]) < 0.15
    assert seconds < 60
