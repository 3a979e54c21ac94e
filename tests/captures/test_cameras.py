"""Cameras of files against the formulas of their own formats."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from recon_engine.captures import (
    CameraFile,
    Distortion,
    FieldOfView,
    Lens,
    Shot,
    read_angles,
    read_cameras,
    read_colmap,
    read_transforms,
)
from recon_engine.renderer.cameras import FoVPerspectiveCameras, PerspectiveCameras, look_at_view_transform

POINTS = np.array([[0.1, -0.2, 0.3], [-0.4, 0.5, -0.1], [0.0, 0.0, 0.0], [0.3, 0.3, -0.3]])

CAMERAS_TXT = """# Camera list with one line of data per camera:
#   CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]
1 PINHOLE 640 480 500.5 510.25 321.5 239.25
3 SIMPLE_PINHOLE 100 200 90 51 99

"""
IMAGES_TXT = """# Image list with two lines of data per image:
#   IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME
2 0.8 0.2 -0.4 0.4 0.1 -0.2 3.5 1 b of two.jpg
10.5 20.5 -1 30.5 40.5 7
1 0.5 0.5 -0.5 0.5 -0.3 0.25 4 3 a.png

"""
IMAGES = {
    "b of two.jpg": ((0.8, 0.2, -0.4, 0.4), (0.1, -0.2, 3.5), (500.5, 510.25, 321.5, 239.25), (480, 640)),
    "a.png": ((0.5, 0.5, -0.5, 0.5), (-0.3, 0.25, 4.0), (90.0, 90.0, 51.0, 99.0), (200, 100)),
}


def rotate(quaternion: tuple[float, ...], point: np.ndarray) -> np.ndarray:
    """q p q*, by the product of quaternions, real part first."""

    def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        real = a[0] * b[0] - a[1:] @ b[1:]
        return np.array([real, *(a[0] * b[1:] + b[0] * a[1:] + np.cross(a[1:], b[1:]))])

    q = np.array(quaternion)
    return product(product(q, np.array([0.0, *point])), q * [1, -1, -1, -1])[1:]


def screen(shot: Shot, height: int, width: int, points: np.ndarray = POINTS) -> np.ndarray:
    """Pixels where PyTorch3D's camera puts points."""
    lens = shot.lens.of_size(height, width)
    camera = PerspectiveCameras(
        focal_length=torch.tensor([lens.focal]),
        principal_point=torch.tensor([lens.center]),
        R=shot.R[None].float(),
        T=shot.T[None].float(),
        in_ndc=False,
        image_size=torch.tensor([[height, width]]),
    )
    return camera.transform_points_screen(torch.tensor(points, dtype=torch.float32))[..., :2].numpy()


def write_text(folder: Path) -> None:
    (folder / "cameras.txt").write_text(CAMERAS_TXT)
    (folder / "images.txt").write_text(IMAGES_TXT)


def write_binary(folder: Path) -> None:
    cameras = struct.pack("<Q", 2)
    cameras += struct.pack("<iiQQ4d", 1, 1, 640, 480, 500.5, 510.25, 321.5, 239.25)
    cameras += struct.pack("<iiQQ3d", 3, 0, 100, 200, 90, 51, 99)
    (folder / "cameras.bin").write_bytes(cameras)
    images = struct.pack("<Q", 2)
    for number, camera, points, (name, (q, t, *_)) in zip((2, 1), (1, 3), (2, 0), IMAGES.items(), strict=True):
        images += struct.pack("<i7di", number, *q, *t, camera) + name.encode() + b"\0"
        images += struct.pack("<Q", points) + struct.pack("<ddq", 1.5, 2.5, -1) * points
    (folder / "images.bin").write_bytes(images)


@pytest.mark.parametrize("write", [write_text, write_binary])
def test_colmap_projects_points_as_its_formula_says(write, tmp_path):
    write(tmp_path)
    file = read_colmap(tmp_path)
    assert [shot.name for shot in file.shots] == ["a.png", "b of two.jpg"]
    assert file.up is None
    for shot in file.shots:
        q, t, (fx, fy, cx, cy), (height, width) = IMAGES[shot.name]
        x, y, z = np.array([rotate(q, point) + t for point in POINTS]).T
        expected = np.stack([fx * x / z + cx, fy * y / z + cy], 1)
        np.testing.assert_allclose(screen(shot, height, width), expected, rtol=0, atol=2e-3)
        torch.testing.assert_close(shot.R @ shot.R.T, torch.eye(3, dtype=torch.float64))
        assert torch.linalg.det(shot.R) > 0


def test_a_smaller_copy_of_a_picture_has_a_smaller_lens(tmp_path):
    write_text(tmp_path)
    shot = read_colmap(tmp_path).shots[1]
    np.testing.assert_allclose(screen(shot, 240, 320), screen(shot, 480, 640) / 2, rtol=0, atol=1e-3)
    shot.lens.of_size(61, 80)  # rounded upwards
    with pytest.raises(
        ValueError, match=r"expected a picture of 640 x 480 pixels, or .* in the same ratio, got 480 x 640"
    ):
        shot.lens.of_size(640, 480)


def test_a_binary_file_is_taken_before_a_text(tmp_path):
    write_binary(tmp_path)
    (tmp_path / "cameras.txt").write_text("nonsense")
    (tmp_path / "images.txt").write_text("nonsense")
    for path in (tmp_path, tmp_path / "images.bin"):
        assert read_cameras(path).where == str(tmp_path / "images.bin")


@pytest.mark.parametrize(
    ("model", "parameters", "focal", "distortion"),
    [
        ("SIMPLE_RADIAL", "9 4 5 .1", (9, 9), Distortion("radial", (0.1,))),
        ("SIMPLE_RADIAL", "9 4 5 0", (9, 9), None),
        ("RADIAL", "9 4 5 .1 .2", (9, 9), Distortion("radial", (0.1, 0.2))),
        ("OPENCV", "8 9 4 5 .1 .2 .3 .4", (8, 9), Distortion("radial", (0.1, 0.2), (0.3, 0.4))),
        ("OPENCV_FISHEYE", "8 9 4 5 .1 .2 .3 .4", (8, 9), Distortion("fisheye", (0.1, 0.2, 0.3, 0.4))),
        ("SIMPLE_RADIAL_FISHEYE", "9 4 5 0", (9, 9), Distortion("fisheye", (0.0,))),
        (
            "FULL_OPENCV",
            "8 9 4 5 .1 .2 .3 .4 .5 .6 .7 .8",
            (8, 9),
            Distortion("radial", (0.1, 0.2, 0.5, 0.6, 0.7, 0.8), (0.3, 0.4)),
        ),
    ],
)
def test_models_of_lenses(model, parameters, focal, distortion, tmp_path):
    write_text(tmp_path)
    (tmp_path / "cameras.txt").write_text(f"1 {model} 8 10 {parameters}\n3 {model} 8 10 {parameters}\n")
    lens = read_colmap(tmp_path).shots[0].lens
    assert lens == Lens(focal, (4, 5), (10, 8), distortion)


def test_distortions_are_those_of_the_formulas():
    x, y = 0.3, -0.2
    r2 = x * x + y * y
    k1, k2, k3, k4, k5, k6, p1, p2 = 0.1, -0.05, 0.02, 0.03, 0.01, -0.02, 0.004, -0.003
    factor = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
    bent = Distortion("radial", (k1, k2, k3, k4, k5, k6), (p1, p2))(torch.tensor([[x, y]], dtype=torch.float64))
    expected = [
        x * factor + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * factor + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
    ]
    assert bent[0].tolist() == pytest.approx(expected, rel=1e-12)
    angle, r = math.atan(math.sqrt(r2)), math.sqrt(r2)
    long = angle * (1 + k1 * angle**2 + k2 * angle**4 + k3 * angle**6 + k4 * angle**8)
    bent = Distortion("fisheye", (k1, k2, k3, k4))(torch.tensor([[x, y], [0.0, 0.0]], dtype=torch.float64))
    assert bent[0].tolist() == pytest.approx([x * long / r, y * long / r], rel=1e-12)
    assert bent[1].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("cameras.txt", "500.5", "wide", r"cameras.txt, line 3: expected numbers as parameters, got 'wide 510.25"),
        (
            "cameras.txt",
            "500.5",
            "nan",
            r"cameras.txt, line 3: expected finite numbers, sizes and focal lengths above 0",
        ),
        (
            "cameras.txt",
            "500.5",
            "-1",
            r"cameras.txt, line 3: expected finite numbers, sizes and focal lengths above 0",
        ),
        ("cameras.txt", " 239.25", "", r"line 3: expected 4 parameters of PINHOLE \(fx fy cx cy\), got 3"),
        (
            "cameras.txt",
            "PINHOLE 640",
            "FOV 640",
            r"line 3: expected a camera of a model among SIMPLE_PINHOLE.*got FOV",
        ),
        ("cameras.txt", "3 SIMPLE_PINHOLE 100 200 90 51 99", "3 x", r"line 4: expected CAMERA_ID MODEL .* got '3 x'"),
        (
            "cameras.txt",
            "3 SIMPLE",
            "4 SIMPLE",
            r"images.txt, line 5: expected a camera that cameras.txt has, got camera 3",
        ),
        (
            "images.txt",
            "0.8 0.2",
            "0.8 0.9",
            r"images.txt, line 3: expected a quaternion of length 1, got 0.8 0.9 -0.4",
        ),
        ("images.txt", "3.5 1 b", "x 1 b", r"line 3: expected seven numbers after IMAGE_ID, got '0.8 0.2"),
        ("images.txt", "-0.3 0.25", "nan 0.25", r"images.txt, line 5: expected finite numbers, got NaN"),
        (
            "images.txt",
            "3 a.png",
            "a.png",
            r"line 5: expected IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, got '1 0.5",
        ),
        ("images.txt", IMAGES_TXT, "# nothing\n", r"images.txt: expected at least one image, got none"),
        ("images.txt", IMAGES_TXT, "\udcff", r"images.txt is not UTF-8 text"),
    ],
)
def test_mistakes_in_texts_of_colmap_are_named(file, old, new, message, tmp_path):
    write_text(tmp_path)
    text = (tmp_path / file).read_text().replace(old, new)
    (tmp_path / file).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=message):
        read_colmap(tmp_path)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "cameras.bin",
            lambda b: b[:-4],
            r"cameras.bin, byte 88: expected 24 bytes of parameters of SIMPLE_PINHOLE, got 20",
        ),
        (
            "cameras.bin",
            lambda b: b[:12] + b"\x63" + b[13:],
            r"cameras.bin, byte 8: expected the number of a camera model",
        ),
        ("cameras.bin", lambda b: b + b"\0", r"cameras.bin: expected to end at byte 112, got 113 bytes"),
        ("images.bin", lambda b: b[:5], r"images.bin, byte 0: expected 8 bytes of the number of images, got 5"),
        ("images.bin", lambda b: b[:74], r"images.bin, byte 72: expected a name that ends with a zero byte, got none"),
        ("images.bin", lambda b: b[:100], r"images.bin, byte 93: expected 48 bytes of points, got 7"),
        ("images.bin", lambda b: b[:72] + b"\xff" + b[73:], r"images.bin, byte \d+: expected a name in UTF-8"),
    ],
)
def test_mistakes_in_binary_files_of_colmap_are_named(file, change, message, tmp_path):
    write_binary(tmp_path)
    (tmp_path / file).write_bytes(change((tmp_path / file).read_bytes()))
    with pytest.raises(ValueError, match=message):
        read_colmap(tmp_path)


def test_a_folder_without_colmaps_files(tmp_path):
    (tmp_path / "cameras.txt").write_text(CAMERAS_TXT)
    with pytest.raises(
        FileNotFoundError, match=r"has no cameras.txt with images.txt, and no cameras.bin with images.bin"
    ):
        read_colmap(tmp_path)


def placed(seed: int) -> np.ndarray:
    """A camera-to-world matrix of a camera 4 from the origin that looks about there."""
    rng = np.random.default_rng(seed)
    back = rng.normal(size=3)
    back /= np.linalg.norm(back)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([right, np.cross(back, right), back], 1)
    matrix[:3, 3] = 4 * back + 0.1
    return matrix


def write_transforms(path: Path, whole: dict, frames: list[dict]) -> None:
    path.write_text(json.dumps({**whole, "frames": frames}))


def test_blenders_transforms_project_points_as_its_formula_says(tmp_path):
    path = tmp_path / "transforms.json"
    frames = [
        {"file_path": f"./train/r_{i}", "transform_matrix": placed(i).tolist(), "rotation": 0.1} for i in range(3)
    ]
    write_transforms(path, {"camera_angle_x": 0.69}, frames)
    file = read_transforms(path)
    assert [shot.name for shot in file.shots] == ["./train/r_0.png", "./train/r_1.png", "./train/r_2.png"]
    assert file.up == (0.0, 0.0, 1.0)
    width, height = 80, 60
    focal = 0.5 * width / math.tan(0.5 * 0.69)
    for i, shot in enumerate(file.shots):
        x, y, z, _ = np.linalg.inv(placed(i)) @ np.c_[POINTS, np.ones(4)].T
        expected = np.stack([width / 2 + focal * x / -z, height / 2 - focal * y / -z], 1)
        np.testing.assert_allclose(screen(shot, height, width), expected, rtol=0, atol=1e-3)


def test_instant_ngps_transforms_have_a_lens(tmp_path):
    path = tmp_path / "transforms.json"
    whole = {
        "fl_x": 110.0,
        "fl_y": 120.0,
        "cx": 41.5,
        "cy": 28.25,
        "w": 80.0,
        "h": 60.0,
        "k1": 0.1,
        "k2": 0.0,
        "p1": 0.01,
    }
    own = {"fl_x": 130.0, "k1": 0.0, "p1": 0.0}
    matrix = placed(5)[:3].tolist()
    frames = [
        {"file_path": "images\\0001.jpg", "transform_matrix": matrix, "sharpness": 30.0, "mask_path": "masks/1.png"},
        {"file_path": "images/0002.jpg", "transform_matrix": matrix, **own},
    ]
    write_transforms(path, {**whole, "camera_angle_x": 0.5, "aabb_scale": 4}, frames)
    first, second = read_cameras(path).shots
    assert (first.name, first.mask, second.mask) == ("images/0001.jpg", "masks/1.png", None)
    assert first.lens == Lens(
        (110.0, 120.0), (41.5, 28.25), (60, 80), Distortion("radial", (0.1, 0.0, 0.0), (0.01, 0.0))
    )
    assert second.lens == Lens((130.0, 120.0), (41.5, 28.25), (60, 80))
    x, y, z, _ = np.linalg.inv(placed(5)) @ np.c_[POINTS, np.ones(4)].T
    expected = np.stack([41.5 + 130 * x / -z, 28.25 - 120 * y / -z], 1)
    np.testing.assert_allclose(screen(second, 60, 80), expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("extra", [{"camera_model": "OPENCV_FISHEYE"}, {"is_fisheye": True}])
def test_fisheyes_of_transforms(extra, tmp_path):
    path = tmp_path / "transforms.json"
    whole = {"fl_x": 110.0, "w": 80, "h": 60, "k4": 0.1, **extra}
    write_transforms(path, whole, [{"file_path": "a.png", "transform_matrix": placed(5).tolist()}])
    lens = read_transforms(path).shots[0].lens
    assert lens == Lens((110.0, 110.0), (40.0, 30.0), (60, 80), Distortion("fisheye", (0.0, 0.0, 0.0, 0.1)))


FRAME = {"file_path": "a", "transform_matrix": np.eye(4).tolist()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"frames": [}', r"transforms.json, line 1: expected JSON, got a mistake"),
        ("[1, 2]", r"expected an object with a list of frames, got \[1, 2\]"),
        ('{"frames": []}', r"expected an object with a list of frames, got \{"),
        ('{"frames": [3]}', r"frame 1 of 1: expected an object, got 3"),
        (json.dumps({"frames": [{**FRAME, "file_path": None}]}), r"frame 1 of 1: expected a file_path, got none"),
        (
            json.dumps({"frames": [FRAME]}),
            r"frame 1 of 1 \(a\): expected fl_x or camera_angle_x as a finite number, got n",
        ),
        (
            json.dumps({"frames": [FRAME], "camera_angle_x": 4}),
            r"expected a camera_angle_x between 0 and pi radians, got 4",
        ),
        (json.dumps({"frames": [FRAME], "fl_x": 5, "w": 3}), r"expected h as a finite number, got none"),
        (json.dumps({"frames": [FRAME], "fl_x": 5, "w": 3, "h": "3"}), r'expected h as a finite number, got "3"'),
        (
            json.dumps({"frames": [FRAME], "fl_x": -5, "w": 3, "h": 3}),
            r"expected w, h, fl_x and fl_y above 0, got 3, 3, -5",
        ),
        (
            json.dumps({"frames": [FRAME], "fl_x": 5, "w": 3, "h": 3, "k4": 1}),
            r"expected k4 only in a fisheye's camera, g",
        ),
        (
            json.dumps({"frames": [FRAME], "camera_model": "EQUIRECTANGULAR"}),
            r"expected a camera_model among .*got EQUIREC",
        ),
        (
            json.dumps({"frames": [{**FRAME, "transform_matrix": [[1, 2], [3, 4]]}]}),
            r"of 4 x 4 numbers, got \[\[1, 2\]",
        ),
        (json.dumps({"frames": [{**FRAME, "transform_matrix": [[1], [3, 4]]}]}), r"of 4 x 4 numbers, got \[\[1\]"),
        (
            json.dumps({"frames": [{**FRAME, "transform_matrix": [[math.nan] * 4] * 4}]}),
            r"\(a\): transform_matrix: expecte",
        ),
        (json.dumps({"frames": [{**FRAME, "transform_matrix": [[2] * 4] * 4}]}), r"expected a rotation .* off by"),
        (
            json.dumps({"frames": [{**FRAME, "transform_matrix": np.diag([1, 1, -1, 1]).tolist()}]}),
            r"got a mirror image",
        ),
    ],
)
def test_mistakes_in_transforms_are_named(text, message, tmp_path):
    path = tmp_path / "transforms.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_transforms(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def write_angles(path: Path, text: str) -> CameraFile:
    path.write_text(text)
    return read_cameras(path)


def test_angles_are_those_of_look_at_view_transform(tmp_path):
    file = write_angles(
        tmp_path / "a.csv", "file,azimuth,elevation,distance,fov\na.png,30,-10,3,40\nb.png,-120,50,2,50\n"
    )
    assert [shot.name for shot in file.shots] == ["a.png", "b.png"]
    assert file.up == (0.0, 1.0, 0.0)
    for shot, distance, elevation, azimuth, fov in zip(
        file.shots, (3, 2), (-10, 50), (30, -120), (40, 50), strict=True
    ):
        R, T = look_at_view_transform(distance, elevation, azimuth)
        camera = FoVPerspectiveCameras(R=R, T=T, fov=fov)
        expected = camera.transform_points_screen(torch.tensor(POINTS, dtype=torch.float32), image_size=((64, 64),))
        np.testing.assert_allclose(screen(shot, 64, 64), expected[..., :2].numpy(), rtol=0, atol=1e-3)
        assert shot.lens == FieldOfView(fov, "longer side")


def test_angles_without_names_distances_and_fields_of_view(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("elevation,azimuth\n0,0\n10,90\n")
    file = read_angles(path, distance=5.0, fov=30.0)
    assert [shot.name for shot in file.shots] == ["", ""]
    for shot in file.shots:
        assert float(shot.T.norm()) == pytest.approx(5.0)
        assert shot.lens.of_size(50, 100).focal[0] == pytest.approx(50 / math.tan(math.radians(15)))
        assert shot.lens.of_size(100, 50) == Lens(shot.lens.of_size(50, 100).focal, (25, 50), (100, 50))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.png,30,10,0,60", r"a.csv, line 2: distance must be a distance above 0 and below 1e.15, got '0'"),
        ("a.png,30,10,nan,60", r"a.csv, line 2: distance must be a distance above 0 and below 1e.15, got 'nan'"),
        ("a.png,30,10,3,180", r"a.csv, line 2: fov must be degrees between 0 and 180, got '180'"),
        ("a.png,30,x,3,60", r"a.csv, line 2: elevation must be a number of degrees from -360 to 360, got 'x'"),
    ],
)
def test_mistakes_in_angles_are_named(row, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_angles(tmp_path / "a.csv", f"file,azimuth,elevation,distance,fov\n{row}\n")


def test_files_of_other_kinds(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the camera file .*gone.json does not exist"):
        read_cameras(tmp_path / "gone.json")
    (tmp_path / "poses.npy").write_text("")
    with pytest.raises(
        ValueError, match=r"poses.npy must be a .json, a .csv, or cameras.txt, images.txt or .bin of COLMAP"
    ):
        read_cameras(tmp_path / "poses.npy")
