from __future__ import annotations

import math

import pytest
import torch

from recon_engine.renderer import (
    BlendParams,
    FoVPerspectiveCameras,
    MeshRasterizer,
    MeshRenderer,
    PointLights,
    RasterizationSettings,
    SplatterBlender,
    SplatterPhongShader,
    TexturesVertex,
    look_at_view_transform,
    splatter_blend,
)
from recon_engine.structures import Meshes
from recon_engine.utils import ico_sphere

PARAMS = BlendParams(sigma=0.5, background_color=(0.1, 0.2, 0.3))
DIRECTIONS = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]


def pixel_centers(depth, dtype=torch.float64):
    """Points (N, H, W, K, 3) in front of default cameras, that project to the centres of pixels."""
    N, H, W, K = depth.shape
    short = min(H, W)
    y = (H - 2 * torch.arange(H, dtype=dtype) - 1) / short
    x = (W - 2 * torch.arange(W, dtype=dtype) - 1) / short
    xy = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None, :, :, None].expand(N, H, W, K, 2)
    ndc = torch.cat((xy, depth[..., None]), dim=-1).reshape(N, -1, 3)
    return camera(dtype).unproject_points(ndc).reshape(N, H, W, K, 3)


def camera(dtype=torch.float64):
    return FoVPerspectiveCameras(
        R=torch.eye(3, dtype=dtype)[None], T=torch.zeros(1, 3, dtype=dtype), znear=torch.ones(1, dtype=dtype)
    )


def scene(N=2, H=4, W=5, K=3, dtype=torch.float64):
    """Layers that neighbours order in every way, with holes at the back."""
    depth = (2 + 3 * torch.rand(N, H, W, K, dtype=dtype)).sort(dim=-1).values
    hidden = torch.rand(N, H, W, K).sort(dim=-1).values > 0.6
    return torch.rand(N, H, W, K, 3, dtype=dtype), pixel_centers(depth, dtype), hidden


def naive(colors, points, hidden, params):
    """One pixel after the other, from the paper's description."""
    N, H, W, K, _ = colors.shape
    z = camera().transform_points_ndc(points.reshape(N, -1, 3))[..., 2].reshape(N, H, W, K).masked_fill(hidden, 1.0)
    norm = 1.05 / sum(math.exp(-(y * y + x * x) / (2 * params.sigma**2)) for y, x in DIRECTIONS)
    image = torch.zeros(N, H, W, 4, dtype=colors.dtype)
    for n, h, w in ((n, h, w) for n in range(N) for h in range(H) for w in range(W)):
        buckets = torch.zeros(3, 4, dtype=colors.dtype)
        for y, x in DIRECTIONS:
            if not (0 <= h + y < H and 0 <= w + x < W):
                continue
            q, p = z[n, h, w], z[n, h + y, w + x]
            ours, theirs = (p - q[0]).abs(), (q - p[0]).abs()
            surface = -int(theirs.argmin()) if theirs.min() < ours.min() else int(ours.argmin())
            for k in range(K):
                if not hidden[n, h + y, w + x, k]:
                    weight = norm * math.exp(-(y * y + x * x) / (2 * params.sigma**2))
                    rgba = torch.cat((colors[n, h + y, w + x, k], torch.ones(1, dtype=colors.dtype)))
                    buckets[0 if k < surface else 1 if k == surface else 2] += weight * rgba
        out = torch.tensor([*params.background_color, 0.0], dtype=colors.dtype)
        for rgba in buckets.flip(0):
            rgba = rgba / rgba[3].clamp(min=1)
            out = rgba + (1 - rgba[3]) * out
        image[n, h, w] = out
    return image


def blend(colors, points, hidden, params=PARAMS, cameras=None):
    blender = SplatterBlender(tuple(hidden.shape), "cpu")
    return blender(colors, points, camera(points.dtype) if cameras is None else cameras, hidden, params)


@pytest.mark.parametrize("shape", [(2, 4, 5, 3), (1, 1, 6, 2), (1, 3, 3, 1)])
def test_matches_one_pixel_after_the_other(shape):
    """PyTorch3D takes the layers of a neighbour from its mirror image at the diagonal."""
    inputs = scene(*shape)
    torch.testing.assert_close(blend(*inputs), naive(*inputs, PARAMS), rtol=1e-7, atol=1e-7)


def test_layers_before_the_surface_cover_it():
    """A pixel left of another one shows a near red layer that the other one has not; its green one is the surface."""
    depth = torch.tensor([[2.0, 4.0], [4.0, 9.0]], dtype=torch.float64)[None, None]
    hidden = torch.tensor([[False, False], [False, True]])[None, None]
    colors = torch.tensor([[[1.0, 0, 0], [0, 1, 0]], [[0, 1, 0], [0, 0, 0]]], dtype=torch.float64)[None, None]
    image = blend(colors, pixel_centers(depth), hidden)
    splat = 1.05 * math.exp(-2) / (1 + 4 * math.exp(-2) + 4 * math.exp(-4))
    assert image[0, 0, 1, 0].item() == pytest.approx(splat + (1 - splat) * (1 - splat * math.exp(2) - splat) * 0.1)


def test_rotated_pictures_blend_alike():
    """By a quarter turn: PyTorch3D's blending depends on the orientation."""
    depth = (2 + 3 * torch.rand(1, 5, 5, 3, dtype=torch.float64)).sort(dim=-1).values
    colors, hidden = torch.rand(1, 5, 5, 3, 3, dtype=torch.float64), torch.zeros(1, 5, 5, 3, dtype=torch.bool)
    image = blend(colors, pixel_centers(depth), hidden)
    turned = blend(colors.rot90(1, (1, 2)), pixel_centers(depth.rot90(1, (1, 2))), hidden)
    torch.testing.assert_close(turned, image.rot90(1, (1, 2)))


def test_uniform_surface_keeps_its_colour():
    colors = torch.tensor([0.3, 0.6, 0.9], dtype=torch.float64).expand(1, 5, 5, 1, 3)
    points = pixel_centers(torch.full((1, 5, 5, 1), 3.0, dtype=torch.float64))
    image = blend(colors, points, torch.zeros(1, 5, 5, 1, dtype=torch.bool))
    torch.testing.assert_close(image[:, 1:-1, 1:-1, :3], colors[:, 1:-1, 1:-1, 0])
    torch.testing.assert_close(image[:, 1:-1, 1:-1, 3], torch.ones(1, 3, 3, dtype=torch.float64))


def test_gradcheck():
    colors, points, hidden = scene(1, 3, 3, 2)
    leaves = (colors.requires_grad_(), points.detach().requires_grad_())
    assert torch.autograd.gradcheck(lambda c, p: blend(c, p, hidden), leaves)


def test_empty_picture():
    colors, points, _ = scene()
    image = blend(colors, points, torch.ones(2, 4, 5, 3, dtype=torch.bool))
    torch.testing.assert_close(image, torch.tensor([0.1, 0.2, 0.3, 0.0], dtype=torch.float64).expand(2, 4, 5, 4))


def sphere_renderer(size):
    R, T = look_at_view_transform(2.7, 0.0, 0.0)
    cameras = FoVPerspectiveCameras(R=R, T=T)
    rasterizer = MeshRasterizer(cameras, RasterizationSettings(image_size=size, faces_per_pixel=2))
    lights = PointLights(location=((0.0, 0.0, 3.0),))
    return MeshRenderer(rasterizer, SplatterPhongShader(cameras=cameras, lights=lights, blend_params=PARAMS))


def test_one_shader_for_pictures_of_any_size():
    """PyTorch3D keeps the size of the first picture."""
    renderer, mesh = sphere_renderer(16), ico_sphere(1)
    mesh.textures = TexturesVertex(torch.ones_like(mesh.verts_padded()))
    small = renderer(mesh)
    assert small.shape == (1, 16, 16, 4)
    settings = RasterizationSettings(image_size=(12, 20), faces_per_pixel=3)
    assert renderer(mesh.extend(2), raster_settings=settings).shape == (2, 12, 20, 4)
    assert torch.equal(renderer(mesh), small)


def test_gradients_move_a_silhouette():
    """No blur, no gradient through the rasteriser: the splats alone bring a shifted sphere back."""
    renderer, mesh = sphere_renderer(24), ico_sphere(2)
    verts, faces = mesh.verts_packed(), mesh.faces_packed()
    texture = TexturesVertex(torch.ones(1, len(verts), 3))

    def alpha(shift):
        return renderer(Meshes([verts + shift], [faces], textures=texture))[..., 3]

    target = alpha(torch.zeros(3))
    for axis in (0, 1):
        shift = torch.zeros(3)
        shift[axis] = 0.15
        shift.requires_grad_()
        (grad,) = torch.autograd.grad((alpha(shift) - target).square().sum(), shift)
        assert grad[axis] > 0
        assert grad[axis] > 5 * grad[1 - axis].abs()


def test_bad_input():
    colors, points, hidden = scene()
    for sigma in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="Only positive standard deviations make sense"):
            blend(colors, points, hidden, BlendParams(sigma=sigma))
    with pytest.raises(ValueError, match=r"colors must have shape \(N, H, W, K, C\)"):
        blend(colors[0], points, hidden)
    with pytest.raises(ValueError, match=r"pixel_coords_cameras must have shape \(2, 4, 5, 3, 3\)"):
        blend(colors, points[..., :2], hidden)
    for mask in (hidden[..., :1], hidden.long()):
        with pytest.raises(ValueError, match="background_mask must be boolean"):
            blend(colors, points, mask)
    with pytest.warns(UserWarning, match=r"received sigma=0\.0001"):
        SplatterPhongShader().check_blend_params(BlendParams())


def test_the_steps_that_pytorch3d_names_make_the_same_picture():
    """Programs call them one by one. They agree with the blender once occlusion is asked for in (x, y)."""
    (colors, points, hidden), (N, H, W, K) = scene(), (2, 4, 5, 3)
    rows, columns, offsets = splatter_blend._precompute((N, H, W, K), "cpu")
    assert rows.shape == (N, H, W + 2, K, 9, 5)
    assert columns.shape == (N, H, W, K, 9, 5)
    assert offsets.tolist() == [[x, y] for x in (-1, 0, 1) for y in (-1, 0, 1)]
    screen, rgba = splatter_blend._prepare_pixels_and_colors(points, colors, camera(), hidden)
    assert (screen[hidden] == 1).all()
    assert (rgba[hidden] == 0).all()
    layers = splatter_blend._compute_occlusion_layers(screen[..., 2])
    splats = splatter_blend._compute_splatting_colors_and_weights(screen, rgba, PARAMS.sigma, offsets)
    here = splatter_blend._offset_splats(splats, rows, columns)
    assert (here[:, :, 0, :, :3] == 0).all()
    layers = layers.unflatten(-1, (3, 3)).mT.flatten(-2)
    sums = splatter_blend._compute_splatted_colors_and_weights(layers, here)
    background = torch.tensor(PARAMS.background_color, dtype=torch.float64)
    image = splatter_blend._normalize_and_compose_all_layers(background, *sums)
    torch.testing.assert_close(image, naive(colors, points, hidden, PARAMS))


def test_weights_of_the_nine_directions_exceed_one():
    for sigma in (0.5, 0.01, 3.0):
        weights = [math.exp(-(x * x + y * y) / (2 * sigma**2)) for y, x in DIRECTIONS]
        norm = splatter_blend._get_splat_kernel_normalization(torch.tensor(DIRECTIONS), sigma)
        assert norm * sum(weights) == pytest.approx(1.05)
