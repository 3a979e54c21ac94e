from __future__ import annotations

import os
import stat
import sys
import tempfile

import numpy as np
import pytest

from recon_engine.io import utils
from recon_engine.io._numbers import TokenError, fan_triangles, parse_floats, parse_ints, tokenize


def as_bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), dtype=np.uint8)


@pytest.mark.parametrize(
    "words",
    [
        ["0", "-0", "+1", "1.", ".5", "-.5", "-0.0", "123456.789", "0.1", "99999999999999", "-12345678901.23"],
        ["1e5", "1E-300", "nan", "-inf", "0.12345678901234567", "123456789012345678901234567890"],
        ["1", "2.5"] * 50 + ["1e-7", "0.333333333333333314829616256247"],
        [],
    ],
)
def test_floats_are_correctly_rounded(words):
    values = parse_floats(tokenize(as_bytes("\t".join(words))))
    expected = np.array([float(word) for word in words], dtype=np.float64)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(np.signbit(values), np.signbit(expected))


def test_random_decimals_are_correctly_rounded():
    generator = np.random.default_rng(0)
    words = [f"{value:.{digits}f}" for digits in range(13) for value in generator.normal(scale=10, size=200)]
    np.testing.assert_array_equal(parse_floats(tokenize(as_bytes(" ".join(words)))), [float(word) for word in words])


@pytest.mark.parametrize("word", ["x", "1-2", "--1", "1.2.3", ".", "-", "+.", "1,5", "1/2", "0x10", "1e", "\xff"])
def test_first_bad_number_is_named(word):
    tokens = tokenize(as_bytes(f"1 2.5 {word} 3 y"))
    with pytest.raises(TokenError) as error:
        parse_floats(tokens)
    assert error.value.token == 2
    assert tokens.word(2) == word


@pytest.mark.parametrize("word", ["x", "1-2", "--1", "1.5", "-", "1e3", "1/2"])
def test_first_bad_integer_is_named(word):
    with pytest.raises(TokenError) as error:
        parse_ints(as_bytes(f" 1 -2 +3 {word} y "))
    assert error.value.token == 3
    assert parse_ints(as_bytes(" 1 -2\n+3 ")).tolist() == [1, -2, 3]


def test_fans():
    corners = np.arange(12) * 10
    assert fan_triangles(corners[:6], np.array([3, 3])).tolist() == [[0, 10, 20], [30, 40, 50]]
    fans = fan_triangles(corners, np.array([3, 5, 4]))
    first = [[0, 10, 20], [30, 40, 50], [30, 50, 60], [30, 60, 70]]
    assert fans.tolist() == [*first, [80, 90, 100], [80, 100, 110]]


def test_writing_replaces_only_complete_files(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    path.chmod(0o640)

    def fail(*args: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            utils.write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.txt"]
    utils.write_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_new_files_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        utils.write_file(str(tmp_path / "a"), b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_links_are_followed(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    utils.write_file(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_bad_targets_and_sources(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the folder .* does not exist; create it first"):
        utils.write_file(tmp_path / "no" / "a", b"")
    with pytest.raises(IsADirectoryError, match="is a folder, expected a file name"):
        utils.write_file(tmp_path, b"")
    with pytest.raises(TypeError, match="expected a path or an object with a read method, got int"):
        utils.read_file(3)
    utils.write_file("/dev/null", b"x")


def test_missing_pillow_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "PIL", None)
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(ImportError, match=r'pip install "recon_engine\[io\]"'):
        utils.read_image(tmp_path / "a.png")
    with pytest.raises(ImportError, match=r'pip install "recon_engine\[io\]"'):
        utils.encode_png(np.zeros((1, 1, 3)))


def test_an_empty_file_is_written_in_place():
    with tempfile.NamedTemporaryFile() as opened:
        utils.write_file(opened.name, b"content")
        assert opened.read() == b"content"
