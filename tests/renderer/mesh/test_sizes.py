"""Batches of any composition, images of any shape, and the sizes that the renderer must reach."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from recon_engine.renderer import (
    FoVPerspectiveCameras,
    HardFlatShader,
    HardPhongShader,
    MeshRasterizer,
    MeshRenderer,
    PerspectiveCameras,
    RasterizationSettings,
    SoftPhongShader,
    TexturesAtlas,
    TexturesUV,
    TexturesVertex,
    fused,
    look_at_view_transform,
)
from recon_engine.renderer.mesh.rasterize_meshes import rasterize_meshes, rasterize_meshes_python
from recon_engine.structures import Meshes, join_meshes_as_batch
from recon_engine.utils import ico_sphere, torus

SETTINGS = RasterizationSettings(image_size=(18, 26), blur_radius=1e-4, faces_per_pixel=3)
both_paths = pytest.mark.parametrize("is_fused", [True, False], ids=["fused", "fragments"])


def cameras(n=1):
    elev, azim = torch.linspace(0, 40, n), torch.linspace(0, 90, n)
    R, T = look_at_view_transform(2.6, elev, azim)
    return FoVPerspectiveCameras(R=R, T=T)


def textured(verts, faces, kind):
    """One mesh with a texture of a kind."""
    F = len(faces)
    if kind == "vertex" or F == 0:
        texture = TexturesVertex([torch.rand(len(verts), 3)])
    elif kind == "atlas":
        texture = TexturesAtlas([torch.rand(F, 2, 2, 3)])
    else:
        texture = TexturesUV([torch.rand(5, 6, 3)], [torch.arange(3 * F).view(F, 3)], [torch.rand(3 * F, 2)])
    return Meshes([verts], [faces], texture)


def unlike_meshes(kind):
    """Meshes of 80 to 4 faces; for colours of vertices also one without faces and one with nothing at all."""
    sphere, ring = ico_sphere(1), torus(0.3, 0.9, 5, 7)
    triangles = torch.tensor([[0, 1, 2], [1, 3, 2], [0, 2, 3], [0, 3, 1]])
    parts = [
        (sphere.verts_packed(), sphere.faces_packed()),
        (torch.rand(4, 3) * 2 - 1, triangles),
        (ring.verts_packed(), ring.faces_packed()),
    ]
    if kind == "vertex":
        no_faces = torch.zeros(0, 3, dtype=torch.int64)
        parts[1:1] = [(torch.rand(5, 3), no_faces)]
        parts += [(torch.zeros(0, 3), no_faces)]
    return [textured(*part, kind) for part in parts]


@both_paths
@pytest.mark.parametrize("kind", ["vertex", "uv", "atlas"])
@pytest.mark.parametrize("shader", [HardPhongShader, SoftPhongShader, HardFlatShader])
def test_a_batch_shows_what_its_members_show(shader, kind, is_fused):
    meshes = unlike_meshes(kind)
    if kind == "uv":  # a batch has images of one size
        assert len({tuple(mesh.textures.maps_padded().shape[1:]) for mesh in meshes}) == 1
    views = cameras(len(meshes))
    renderer = MeshRenderer(MeshRasterizer(views, SETTINGS), shader(cameras=views))
    with fused(is_fused):
        together = renderer(join_meshes_as_batch(meshes))
        alone = torch.cat([renderer(mesh, cameras=views[n]) for n, mesh in enumerate(meshes)])
    assert together.shape == (len(meshes), 18, 26, 4)
    assert (together[0, ..., 3] > 0).any()
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@both_paths
def test_one_camera_for_many_meshes_and_many_for_one(is_fused):
    mesh = textured(ico_sphere(1).verts_packed(), ico_sphere(1).faces_packed(), "vertex")
    views = cameras(3)
    with fused(is_fused):

        def render(meshes, cameras):
            return MeshRenderer(MeshRasterizer(cameras, SETTINGS), HardPhongShader(cameras=cameras))(meshes)

        alone = torch.cat([render(mesh, views[n]) for n in range(3)])
        torch.testing.assert_close(render(mesh.extend(3), views), alone, rtol=0, atol=1e-5)
        torch.testing.assert_close(render(mesh.extend(3), views[1]), alone[[1, 1, 1]], rtol=0, atol=1e-5)
        with pytest.raises(ValueError, match=r"meshes.extend\(N\) repeats every mesh for N cameras"):
            render(mesh, views)


@both_paths
def test_no_mesh_at_all(is_fused):
    nothing = Meshes([], [], TexturesVertex([]))
    with fused(is_fused):
        image = MeshRenderer(MeshRasterizer(cameras(), SETTINGS), HardPhongShader(cameras=cameras()))(nothing)
    assert image.shape == (0, 18, 26, 4)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (2, 33), (40, 3), (1, 130)])
@pytest.mark.parametrize("blur", [0.0, 0.05])
def test_images_of_any_shape(size, blur):
    """Like the reference, which looks at every pixel and face."""
    H, W = size
    verts = torch.rand(45, 3) * torch.tensor([3.0 * max(1, W / H), 3.0 * max(1, H / W), 1.0])
    verts = verts - torch.tensor([1.5 * max(1, W / H), 1.5 * max(1, H / W), -1.0])
    mesh = Meshes([verts.double()], [torch.arange(45).view(15, 3)])
    options = {"image_size": size, "blur_radius": blur, "faces_per_pixel": 4, "perspective_correct": True}
    got, want = rasterize_meshes(mesh, **options), rasterize_meshes_python(mesh, **options)
    assert got[0].shape == (1, *size, 4)
    assert torch.equal(got[0], want[0])
    assert (got[0] >= 0).any()
    for mine, theirs in zip(got[1:], want[1:], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def pyramid(size):
    """Two triangles that form a rectangle over the middle of an image, in NDC, with a depth that grows along x."""
    H, W = size
    x, y = 0.5 * max(1.0, W / H), 0.5 * max(1.0, H / W)
    verts = torch.tensor([[x, y, 1.0], [-x, y, 2.0], [x, -y, 1.0], [-x, -y, 2.0]])
    return Meshes([verts], [torch.tensor([[0, 1, 2], [1, 3, 2]])])


def check_rectangle(size):
    """Covers the middle half of rows and columns, with the depth of its plane."""
    H, W = size
    pix_to_face, zbuf, bary, dists = rasterize_meshes(pyramid(size), size, faces_per_pixel=1)
    shown = pix_to_face[0, ..., 0] >= 0
    rows, columns = shown.any(dim=1).nonzero()[:, 0], shown.any(dim=0).nonzero()[:, 0]
    assert (int(rows[0]), int(rows[-1])) == (H // 4, H - H // 4 - 1)
    assert (int(columns[0]), int(columns[-1])) == (W // 4, W - W // 4 - 1)
    # A pixel centre on the diagonal is strictly inside of neither triangle.
    missing = (H // 2) * (W // 2) - int(shown.sum())
    assert 0 <= missing <= max(H, W)
    row, column = torch.tensor([H // 4, H // 2, H - H // 4 - 1]), torch.tensor([W // 4, W // 2 + 1, W // 4 + 1])
    depth = 1 + ((column + 0.5) / W - 0.25) * 2
    seen = shown[row, column]
    assert seen.any()
    torch.testing.assert_close(zbuf[0, row, column, 0][seen], depth[seen], rtol=1e-4, atol=0)
    assert (bary[0, row, column, 0][seen].sum(dim=-1) - 1).abs().max() < 1e-4
    assert (dists[0, row, column, 0][seen] <= 0).all()


@pytest.mark.parametrize("size", [(64, 8192), (8192, 64), (16, 4000), (1024, 1024)])
def test_long_images(size):
    check_rectangle(size)


@pytest.mark.slow
def test_67_million_pixels():
    """Fragments take 28 bytes for each pixel: 1.9 GB."""
    check_rectangle((8192, 8192))


MILLION = """
import resource, torch
from recon_engine.renderer.mesh.rasterize_meshes import rasterize_meshes
from recon_engine.structures import Meshes
n = 709
y, x = torch.meshgrid(torch.linspace(-0.95, 0.95, n), torch.linspace(-0.95, 0.95, n), indexing="ij")
z = 2 + 0.5 * x + 0.25 * y
verts = torch.stack((x, y, z), -1).view(-1, 3)
i = (torch.arange(n - 1)[:, None] * n + torch.arange(n - 1)).view(-1)
faces = torch.cat((torch.stack((i, i + 1, i + n), 1), torch.stack((i + 1, i + n + 1, i + n), 1)))
meshes = Meshes([verts], [faces])
meshes.faces_packed(), meshes.mesh_to_faces_packed_first_idx()
rasterize_meshes(meshes, 8, faces_per_pixel=1)  # the kernels are loaded
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
size = 512
pix_to_face, zbuf, bary, dists = rasterize_meshes(meshes, size, faces_per_pixel=1, perspective_correct=True)
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
shown = pix_to_face[0, ..., 0] >= 0
centre = 1 - (2 * torch.arange(size) + 1) / size
want = 2 + 0.5 * centre[None, :] + 0.25 * centre[:, None]
inside = (centre[:, None].abs() < 0.949) & (centre[None, :].abs() < 0.949)
print(len(faces), float(shown[inside].float().mean()), float((zbuf[0, ..., 0] - want)[shown].abs().max()), used // 1024)
"""


@pytest.mark.slow
def test_a_million_faces():
    """A tilted plane: its depth is known at every pixel. Memory is that of the result, face lists and boxes."""
    out = subprocess.run([sys.executable, "-c", MILLION], capture_output=True, text=True, check=True).stdout.split()
    faces, covered, error, megabytes = int(out[0]), float(out[1]), float(out[2]), int(out[3])
    assert faces > 1_000_000
    assert covered > 0.99  # a centre on an edge is strictly inside of no face
    assert error < 1e-4
    assert megabytes < 200


def test_the_same_with_cameras_in_pixels():
    """Cameras in screen space of a 3 x 200 image see the columns that the formula says."""
    settings = RasterizationSettings(image_size=(3, 200))
    focal, centre = ((50.0, 50.0),), ((100.0, 1.5),)
    views = PerspectiveCameras(focal, centre, in_ndc=False, image_size=((3, 200),))
    verts = torch.tensor([[-2.0, -5, 4], [1.0, -5, 4], [1.0, 9, 4], [-2.0, 9, 4]])
    mesh = Meshes([verts], [torch.tensor([[0, 1, 2], [0, 2, 3]])])
    shown = MeshRasterizer(views, settings)(mesh).pix_to_face[0, ..., 0] >= 0
    columns = shown.any(dim=0).nonzero()[:, 0]
    # x in [-2, 1] at depth 4 lies at 100 - 50 x / 4, since x points left.
    assert (int(columns[0]), int(columns[-1])) == (88, 124)
    assert shown[:, 90:120].all(dim=0).float().mean() > 0.9
