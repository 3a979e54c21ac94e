from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import recon_engine
from recon_engine.quick import View, depth_map, render, turntable
from recon_engine.renderer import (
    FoVPerspectiveCameras,
    TexturesAtlas,
    TexturesUV,
    TexturesVertex,
    look_at_view_transform,
)
from recon_engine.structures import Meshes
from recon_engine.utils import ico_sphere, torus

pytest.importorskip("recon_engine._C")

SHADERS = ("phong", "flat", "gouraud", "unlit", "silhouette", "depth")
BOX = (
    torch.tensor([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)]),
    torch.tensor([[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6], [0, 2, 6],
                  [0, 6, 4], [1, 5, 7], [1, 7, 3]]),
)  # fmt: skip


def box(alpha):
    """First and last row and column that show something."""
    rows, columns = ((alpha > 0.5).any(i).nonzero()[:, 0] for i in (1, 0))
    return int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])


def assert_centred_and_filling(alpha):
    """The object's box is in the middle and takes nine tenths along the side that it reaches first."""
    height, width = alpha.shape
    top, bottom, left, right = box(alpha)
    assert abs(top - (height - 1 - bottom)) <= 2
    assert abs(left - (width - 1 - right)) <= 2
    assert max((bottom - top + 1) / height, (right - left + 1) / width) == pytest.approx(
        0.9, abs=2.5 / min(height, width)
    )


@pytest.mark.parametrize("size", [128, (96, 160), (160, 96)])
@pytest.mark.parametrize("projection", ["perspective", "orthographic"])
@pytest.mark.parametrize("mesh", [torus(0.3, 0.8, 12, 24), BOX], ids=["torus", "box"])
def test_the_mesh_fills_the_picture(mesh, projection, size):
    if isinstance(mesh, Meshes):
        mesh = mesh.scale_verts(100.0).offset_verts(torch.tensor([500.0, 0.0, -30.0]))
    image = render(mesh, size=size, projection=projection)
    assert image.shape == ((size, size) if isinstance(size, int) else size) + (4,)
    assert 0 <= image.min() <= image.max() <= 1
    assert_centred_and_filling(image[..., 3])


@pytest.mark.parametrize("shader", SHADERS)
def test_shaders(shader):
    image = render(torus(0.3, 0.8, 12, 24), size=96, shader=shader)
    shown = image[..., 3] > 0.5
    assert 0.1 < shown.float().mean() < 0.9
    assert_centred_and_filling(image[..., 3])
    colors = image[image[..., 3] == 1][:, :3]
    assert colors.min() >= 0
    if shader == "silhouette":
        assert (colors == 1).all()
    elif shader == "unlit":
        torch.testing.assert_close(colors, torch.tensor([0.80, 0.77, 0.72]).expand_as(colors))
    else:
        assert colors.std() > 0.02


def test_flat_shows_faces_and_phong_does_not():
    sphere = ico_sphere(2)
    values = {shader: render(sphere, size=64, shader=shader) for shader in ("phong", "flat", "gouraud")}
    steps = {}
    for shader, image in values.items():
        grey, alpha = image[..., :3].mean(-1), image[..., 3]
        inside = (alpha[1:-1, 2:] == 1) & (alpha[1:-1, :-2] == 1) & (alpha[1:-1, 1:-1] == 1)
        second = (grey[1:-1, 2:] - 2 * grey[1:-1, 1:-1] + grey[1:-1, :-2])[inside]
        steps[shader] = second.abs().mean()
    assert steps["flat"] > 3 * steps["phong"]
    assert steps["flat"] > 3 * steps["gouraud"]


def test_the_two_sides_of_an_edge():
    # A box seen at its edge: both visible sides are even, and differ.
    image = render(BOX, size=64, elevation=0.0, azimuth=30.0, shader="phong", projection="orthographic")
    middle = image[32, :, :3].mean(-1)[image[32, :, 3] == 1]
    jumps = middle.diff().abs()
    assert jumps.max() > 0.1
    assert (jumps > 0.05).sum() <= 2


def test_inside_out_meshes_look_the_same():
    verts, faces = BOX
    torch.testing.assert_close(render((verts, faces.flip(1)), size=48), render(BOX, size=48), atol=1e-4, rtol=0)
    sphere = ico_sphere(2)
    flipped = (sphere.verts_packed(), sphere.faces_packed().flip(1))
    picture, expected = render(flipped, size=48), render(sphere, size=48)
    torch.testing.assert_close(picture[..., 3], expected[..., 3], atol=1e-4, rtol=0)
    # At the rim a face of the front and one of the back may be equally near: rounding chooses.
    inside = expected[..., 3] == 1
    torch.testing.assert_close(picture[inside], expected[inside], atol=1e-4, rtol=0)


def test_vertices_at_one_place_are_one():
    sphere = ico_sphere(2)
    verts, faces = sphere.verts_packed(), sphere.faces_packed()
    apart = (verts[faces].reshape(-1, 3), torch.arange(3 * len(faces)).reshape(-1, 3))
    torch.testing.assert_close(render(apart, size=48), render(sphere, size=48), atol=1e-5, rtol=0)


def test_samples_on_an_edge_between_two_faces_are_shown():
    # From the front the diagonals of the box run exactly through the middles of pixels.
    for size in (32, 33):
        for shader in SHADERS:
            for projection in ("perspective", "orthographic"):
                options = {"elevation": 0.0, "azimuth": 0.0, "projection": projection}
                alpha = render(BOX, size=size, shader=shader, **options)[..., 3]
                top, bottom, left, right = box(alpha)
                assert alpha[top + 1 : bottom, left + 1 : right].min() == 1


def test_unused_vertices_do_not_count():
    verts, faces = BOX
    more = torch.cat([verts, torch.tensor([[90.0, 0.0, 0.0]])])
    torch.testing.assert_close(render((more, faces), size=32), render(BOX, size=32))


@pytest.mark.parametrize("shader", ["phong", "flat", "gouraud", "unlit"])
@pytest.mark.parametrize("kind", ["vertex", "uv", "atlas"])
def test_textures_are_shown(shader, kind):
    verts, faces = BOX
    color = torch.tensor([0.9, 0.1, 0.3])
    textures = {
        "vertex": TexturesVertex([color.expand(8, 3)]),
        "uv": TexturesUV(color.expand(1, 4, 4, 3), [torch.zeros_like(faces)], [torch.full((1, 2), 0.5)]),
        "atlas": TexturesAtlas([color.expand(12, 2, 2, 3)]),
    }[kind]
    image = render(Meshes(verts=[verts], faces=[faces], textures=textures), size=32, shader=shader)
    shown = image[image[..., 3] == 1][:, :3]
    red, green, blue = shown.mean(0)
    assert red > 2.5 * blue > 2.5 * green
    if shader == "unlit":
        torch.testing.assert_close(shown, color.expand_as(shown))


def test_camera_options():
    above = render(BOX, size=64, elevation=90.0, azimuth=0.0)[..., 3]
    top, bottom, left, right = box(above)
    assert (bottom - top) == pytest.approx(right - left, abs=1)
    assert above[top : bottom + 1, left : right + 1].min() > 0.2
    # Twice as far and half as large.
    heights = [render(BOX, size=128, elevation=0, azimuth=0, distance=d, projection="orthographic") for d in (8, 16)]
    spans = [box(image[..., 3]) for image in heights]
    assert spans[0][1] - spans[0][0] + 1 == pytest.approx(2 * (spans[1][1] - spans[1][0] + 1), abs=2)
    # Side 2 in a picture of 2 x 8 x tan(15 degrees).
    assert spans[0][1] - spans[0][0] + 1 == pytest.approx(128 / (8 * math.tan(math.radians(15))), abs=1)
    # A wide field of view sees the near side larger than the far one.
    narrow, wide = (render(BOX, size=64, elevation=40, azimuth=0, fov=fov)[..., 3] > 0.5 for fov in (5.0, 100.0))
    for image, is_wide in ((narrow, False), (wide, True)):
        widths = image.sum(1)[image.any(1)]
        assert (widths.max() > 1.3 * widths[0]) == is_wide


def test_a_camera_of_ones_own():
    R, T = look_at_view_transform(4.0, 25.0, 40.0, at=((0.5, 0.0, 0.0),))
    camera = FoVPerspectiveCameras(R=R, T=T, fov=40.0)
    sphere = ico_sphere(2)
    for shader in SHADERS:
        image = render(sphere, size=48, camera=camera, shader=shader)
        _, _, left, right = box(image[..., 3])
        assert left + right < 43  # the camera looks past it
    depth = depth_map(sphere, size=48, camera=camera)
    assert depth[depth.isfinite()].min() == pytest.approx(4.0 - 1.0, abs=0.4)


def test_depth_map_is_in_the_units_of_the_mesh():
    verts, faces = BOX
    mesh = (100 * verts + 7, faces)
    depth = depth_map(mesh, size=33, elevation=0.0, azimuth=0.0, distance=500.0)
    assert depth.shape == (33, 33)
    assert depth[16, 16] == pytest.approx(400.0, rel=1e-5)
    assert depth[0, 0] == math.inf
    fitted = depth_map(mesh, size=33, elevation=0.0, azimuth=0.0)
    half = math.tan(math.radians(15)) * 0.9
    assert fitted[16, 16] == pytest.approx(100 / half, rel=1e-4)


def test_depth_pictures_are_bright_where_it_is_near():
    image = render(ico_sphere(3), size=64, elevation=0.0, azimuth=0.0, shader="depth")
    inside = image[..., 3] == 1
    assert image[32, 32, 0] > 0.99
    assert image[inside][:, 0].min() < 0.3
    assert (image[..., 0] == image[..., 2]).all()
    depth = depth_map(ico_sphere(3), size=64, elevation=0.0, azimuth=0.0)
    order = depth[inside].argsort()
    assert (image[..., 0][inside][order].diff() < 0.05).all()


@pytest.mark.parametrize("shader", ["phong", "flat", "gouraud", "silhouette"])
def test_gradient_in_the_vertices(shader):
    sphere = ico_sphere(2)
    verts = sphere.verts_packed().clone().requires_grad_()
    image = render((verts, sphere.faces_packed()), size=48, shader=shader, distance=4.0)
    value = image[..., 3].sum() if shader == "silhouette" else image[..., :3].sum()
    (grad,) = torch.autograd.grad(value, verts)
    assert torch.isfinite(grad).all()
    assert grad.abs().max() > 1e-3


def test_the_silhouettes_gradient_is_that_of_its_area():
    sphere = ico_sphere(3)
    verts = sphere.verts_packed().clone().requires_grad_()
    camera = FoVPerspectiveCameras(R=torch.eye(3)[None], T=torch.tensor([[0.0, 0.0, 4.0]]), fov=40.0)

    def area(scale):
        return render((verts * scale, sphere.faces_packed()), size=96, camera=camera, shader="silhouette")[..., 3].sum()

    scale = torch.tensor(1.0, requires_grad=True)
    (grad,) = torch.autograd.grad(area(scale), scale)
    with torch.no_grad():
        expected = (area(1.05) - area(0.95)) / 0.1
    assert float(grad) == pytest.approx(float(expected), rel=0.15)


def test_depth_is_differentiable():
    verts, faces = BOX
    offset = torch.zeros(3, requires_grad=True)
    camera = FoVPerspectiveCameras(R=torch.eye(3)[None], T=torch.tensor([[0.0, 0.0, 5.0]]))
    depth = depth_map((verts + offset, faces), size=9, camera=camera)
    (grad,) = torch.autograd.grad(depth[4, 4], offset)
    torch.testing.assert_close(grad, torch.tensor([0.0, 0.0, 1.0]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("shader", SHADERS)
def test_float64(shader):
    verts, faces = BOX
    image = render((verts.double(), faces), size=24, shader=shader)
    assert image.dtype == torch.float64
    torch.testing.assert_close(image.float(), render(BOX, size=24, shader=shader), atol=0.02, rtol=0)


def test_turntables_turn_once_at_one_distance():
    pictures = list(turntable(BOX, 8, size=64, azimuth=10.0))
    assert len(pictures) == 8
    torch.testing.assert_close(pictures[0][..., 3], pictures[2][..., 3])  # a quarter of a turn
    assert (pictures[0][..., 3] - pictures[1][..., 3]).abs().max() > 0.5
    spans = [box(picture[..., 3]) for picture in pictures]
    assert max(right - left for _, _, left, right in spans) < 0.92 * 64
    assert max(bottom for _, bottom, _, _ in spans) <= 62
    assert min(top for top, _, _, _ in spans) >= 1
    # One side of a box of three colours after the other.
    verts, faces = BOX
    colors = TexturesVertex([torch.tensor([[1.0, 0, 0], [0, 0, 1.0]]).repeat_interleave(4, 0)])  # red left, blue right
    mesh = Meshes(verts=[verts], faces=[faces], textures=colors)
    red, blue = (
        [float(p[..., c].mul(p[..., 3]).sum()) for p in turntable(mesh, 4, size=32, azimuth=0.0, elevation=0.0)]
        for c in (0, 2)
    )
    assert blue[1] > 10 * red[1]  # from +x
    assert red[3] > 10 * blue[3]


def test_a_turntable_makes_a_picture_when_it_is_asked_for_one(monkeypatch):
    made = []
    monkeypatch.setattr("recon_engine.quick.shrink", lambda rgba: made.append(1) or rgba)
    frames = turntable(BOX, 300, size=8)
    next(frames)
    next(frames)
    assert len(made) == 2


def test_a_file_is_enough(tmp_path):
    (tmp_path / "a.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    assert recon_engine.render(tmp_path / "a.obj", size=16)[..., 3].sum() > 20
    assert recon_engine.render(str(tmp_path / "a.obj"), size=16)[..., 3].sum() > 20


def test_degenerate_meshes_give_pictures():
    verts, faces = BOX
    for flat in (verts * torch.tensor([1.0, 1.0, 0.0]), verts * 1e-6, verts * 1e6, verts * 0, verts[:1].expand(8, 3)):
        for shader in SHADERS:
            assert torch.isfinite(render((flat, faces), size=16, shader=shader)).all()
    for scale in (1e-6, 1e6):
        torch.testing.assert_close(render((verts * scale, faces), size=32), render(BOX, size=32), atol=0.02, rtol=0)


def test_bad_input_is_named():
    sphere = ico_sphere(1)
    verts = sphere.verts_packed().clone()
    verts[3, 1] = math.nan
    with pytest.raises(ValueError, match="vertices that are NaN or infinite"):
        render((verts, sphere.faces_packed()))
    with pytest.raises(ValueError, match="mesh must be one mesh with faces, got 2"):
        render(sphere.extend(2))
    with pytest.raises(ValueError, match="a Meshes, a path"):
        render(3)
    for options, message in (
        ({"shader": "oil"}, "shader must be one of phong, flat, gouraud, unlit, silhouette, depth, got 'oil'"),
        ({"projection": "flat"}, "projection must be one of perspective, orthographic, got 'flat'"),
        ({"size": 0}, "size must be 1 or more"),
        ({"size": (4, -1)}, "size must be 1 or more"),
        ({"distance": -1.0}, "distance must be above 0"),
        ({"fov": 180.0}, "fov must be between 0 and 180 degrees"),
        ({"elevation": math.nan}, "elevation must be a number of degrees"),
        ({"camera": FoVPerspectiveCameras(R=torch.eye(3).expand(2, 3, 3))}, "camera must be a batch of one"),
    ):
        with pytest.raises(ValueError, match=message):
            render(sphere, **options)
        with pytest.raises(ValueError, match=message):
            View(**options)
    with pytest.raises(ValueError, match="frames must be 1 or more"):
        next(turntable(sphere, 0))
    with pytest.raises(ValueError, match="camera cannot be given for a turntable"):
        next(turntable(sphere, camera=FoVPerspectiveCameras()))


def test_the_books_meshes(recon_data):
    image = render(recon_data / "book/chap2/data/cow_mesh/cow.obj", size=96, azimuth=200.0)
    assert_centred_and_filling(image[..., 3])
    colors = image[image[..., 3] == 1][:, :3]
    brown = (colors[:, 0] > 1.3 * colors[:, 2]) & (colors[:, 0] < 0.6)
    dark = colors.amax(1) < 0.25
    assert 0.005 < brown.float().mean() < 0.2  # the horns
    assert 0.02 < dark.float().mean() < 0.5  # its patches
    assert (colors.amin(1) > 0.5).float().mean() > 0.3
    for name in ("chap1/ply_io/cow.ply", "chap4/data/teapot.obj", "chap3/deform1.ply", "chap2/data/diamond.obj"):
        assert_centred_and_filling(render(recon_data / "book" / name, size=96)[..., 3])
    red, blue = (
        render(recon_data / "book/chap1/ply_io/parallel_plane_color.ply", size=32, azimuth=a)[16, 16, :3]
        for a in (180.0, 0.0)
    )
    assert red[0] > 0.4 > 2 * red[2]
    assert blue[2] > 0.4 > 2 * blue[0]
    assert np.isfinite(image.numpy()).all()


@pytest.mark.parametrize("shader", SHADERS)
def test_devices(shader, device, tmp_path):
    verts, faces = BOX
    lines = [f"v {x} {y} {z} 1 {0.5 + z / 2} 0" for x, y, z in verts.tolist()]
    lines += ["f {} {} {}".format(*face) for face in (faces + 1).tolist()]
    (tmp_path / "box.obj").write_text("\n".join(lines))
    image = render(recon_engine.load(tmp_path / "box.obj", device), size=24, shader=shader)
    assert image.device.type == device.type
    torch.testing.assert_close(image.cpu(), render(tmp_path / "box.obj", size=24, shader=shader), atol=0.02, rtol=0)
