from __future__ import annotations

import tracemalloc
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from recon_engine.renderer.mesh.rasterizer import Fragments
from recon_engine.renderer.mesh.textures import Textures, TexturesAtlas, TexturesBase, TexturesUV, TexturesVertex
from recon_engine.structures import Meshes, join_meshes_as_batch, join_meshes_as_scene


def fragments(pix_to_face, bary=(1 / 3, 1 / 3, 1 / 3)):
    pix_to_face = torch.as_tensor(pix_to_face)
    return Fragments(
        pix_to_face=pix_to_face,
        zbuf=pix_to_face.float(),
        bary_coords=torch.tensor(bary).expand(*pix_to_face.shape, 3),
        dists=None,
    )


def uv_texture(maps, uv=((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)), **options):
    """One face with the given uv coordinates."""
    return TexturesUV(maps[None], [torch.tensor([[0, 1, 2]])], [torch.tensor(uv)], **options)


def two_meshes(textures):
    faces = [torch.tensor([[0, 1, 2]]), torch.tensor([[0, 1, 2], [0, 2, 3], [1, 2, 3]])]
    return Meshes([torch.rand(3, 3), torch.rand(4, 3)], faces, textures=textures)


def ragged_textures():
    return {
        "vertex": TexturesVertex([torch.rand(3, 2), torch.rand(4, 2)]),
        "atlas": TexturesAtlas([torch.rand(1, 2, 2, 3), torch.rand(3, 2, 2, 3)]),
        "uv": TexturesUV(
            [torch.rand(4, 5, 3), torch.rand(4, 5, 3)],
            [torch.tensor([[0, 1, 2]]), torch.tensor([[0, 1, 2], [2, 1, 0], [1, 1, 1]])],
            [torch.rand(3, 2), torch.rand(4, 2)],
        ),
        "uv_several": TexturesUV(
            torch.rand(2, 4, 5, 5, 3),
            [torch.tensor([[0, 1, 2]]), torch.tensor([[0, 1, 2], [2, 1, 0], [1, 1, 1]])],
            [torch.rand(3, 2), torch.rand(4, 2)],
            maps_ids=[torch.tensor([1]), torch.tensor([3, 0, 2])],
        ),
    }


KINDS = ("vertex", "atlas", "uv", "uv_several")
ALL_FACES = fragments([[[[0], [0]], [[-1], [0]]], [[[1], [2]], [[3], [-1]]]])


@pytest.mark.parametrize("kind", KINDS)
def test_ragged_batch_samples_like_its_members(kind):
    meshes = two_meshes(ragged_textures()[kind])
    together = meshes.sample_textures(ALL_FACES)
    assert together.shape[:4] == (2, 2, 2, 1)
    first = meshes[0].sample_textures(fragments(ALL_FACES.pix_to_face[:1]))
    second = meshes[1].sample_textures(fragments((ALL_FACES.pix_to_face[1:] - 1).clamp(min=-1)))
    # Pixels without a face show an arbitrary texel.
    shown = ALL_FACES.pix_to_face >= 0
    torch.testing.assert_close(together[shown], torch.cat((first, second))[shown])
    corners = meshes.textures.faces_verts_textures_packed(*([meshes.faces_packed()] if kind == "vertex" else []))
    assert corners.shape[:2] == (4, 3)
    at_first_corner = meshes.sample_textures(fragments(ALL_FACES.pix_to_face, (1.0, 0.0, 0.0)))
    torch.testing.assert_close(at_first_corner[shown], corners[ALL_FACES.pix_to_face[shown], 0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("index", [1, -1, slice(0, 1), [1, 0], torch.tensor([False, True]), torch.tensor([0, 1, 1])])
def test_indexing(kind, index):
    meshes = two_meshes(ragged_textures()[kind])
    rows = torch.arange(2)[index].reshape(-1).tolist()
    chosen = meshes.textures[index]
    assert type(chosen) is type(meshes.textures)
    for position, row in enumerate(rows):
        one, want = chosen[position], meshes.textures[row]
        name = {"vertex": "verts_features_packed", "atlas": "atlas_packed"}.get(kind, "maps_padded")
        torch.testing.assert_close(getattr(one, name)(), getattr(want, name)())


@pytest.mark.parametrize("kind", KINDS)
def test_extend_clone_detach_join_and_submeshes(kind):
    meshes = two_meshes(ragged_textures()[kind])
    want = meshes.sample_textures(ALL_FACES)
    torch.testing.assert_close(meshes.clone().sample_textures(ALL_FACES), want)
    torch.testing.assert_close(meshes.detach().sample_textures(ALL_FACES), want)
    twice = meshes.extend(2).sample_textures(
        fragments(
            torch.stack(
                [
                    ALL_FACES.pix_to_face[0],
                    torch.where(ALL_FACES.pix_to_face[0] >= 0, 1, -1),
                    torch.where(ALL_FACES.pix_to_face[1] >= 0, ALL_FACES.pix_to_face[1] + 1, -1),
                    torch.where(ALL_FACES.pix_to_face[1] >= 0, ALL_FACES.pix_to_face[1] + 4, -1),
                ]
            )
        )
    )
    torch.testing.assert_close(twice, want.repeat_interleave(2, dim=0))
    joined = join_meshes_as_batch([meshes[0], meshes[1]])
    torch.testing.assert_close(joined.sample_textures(ALL_FACES), want)
    part = meshes.submeshes([[torch.tensor([0])], [torch.tensor([2, 0])]])
    shifted = fragments([[[[0], [0]]], [[[1], [2]]]])
    expected = torch.stack((want[0, :1], meshes.sample_textures(fragments([[[[0], [0]]], [[[3], [1]]]]))[1]))
    torch.testing.assert_close(part.sample_textures(shifted), expected)


def test_lists_under_the_names_that_pytorch3d_keeps_them():
    """Programs read them; here they are views of the padded tensor, so that a change of it shows in them."""
    features, atlas = torch.rand(2, 4, 3), torch.rand(2, 3, 2, 2, 3)
    vertex, squares = TexturesVertex(features), TexturesAtlas(atlas)
    image = TexturesUV(torch.rand(2, 4, 4, 3), torch.zeros(2, 3, 3, dtype=torch.int64), torch.rand(2, 4, 2))
    vertex._num_verts_per_mesh = squares._num_faces_per_mesh = image._num_faces_per_mesh = [2, 3]
    for texture, name, lengths in (
        (vertex, "verts_features", [2, 3]),
        (squares, "atlas", [2, 3]),
        (image, "faces_uvs", [2, 3]),
        (image, "verts_uvs", [4, 4]),
    ):
        for one in (texture, texture.clone(), texture.detach()):
            rows = getattr(one, f"_{name}_list")
            assert [len(row) for row in rows] == lengths
            getattr(one, f"_{name}_padded")[1, 0] = 7
            assert (rows[1][0] == 7).all()
            assert [len(row) for row in getattr(one, f"{name}_list")()] == lengths
    assert image._maps_ids_list is image.maps_ids_list() is None


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind):
    texture = ragged_textures()[kind]
    name = {"vertex": "_verts_features_list", "atlas": "_atlas_list", "uv": "_maps_list"}.get(kind, "_maps_padded")
    value = getattr(texture, name)
    leaf = (value[1] if isinstance(value, list) else value).clone().requires_grad_()
    parts = {"vertex": "verts_features", "atlas": "atlas"}
    if kind in parts:
        texture = type(texture)([value[0], leaf])
    else:
        maps = [value[0], leaf] if isinstance(value, list) else leaf
        texture = TexturesUV(maps, texture.faces_uvs_list(), texture.verts_uvs_list(), maps_ids=texture.maps_ids_list())
    two_meshes(texture).sample_textures(ALL_FACES).square().sum().backward()
    assert leaf.grad.abs().sum() > 0
    assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("align_corners", [True, False])
def test_uv_convention(align_corners):
    """(0, 0) is the bottom left, (1, 1) the top right of the image."""
    image = torch.arange(12.0).view(3, 4, 1)
    texture = uv_texture(image, ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)), align_corners=align_corners)
    corners = texture.faces_verts_textures_packed()[0, :, 0]
    torch.testing.assert_close(corners, torch.tensor([8.0, 11.0, 0.0]))
    centers = texture.centers_for_image(0)
    torch.testing.assert_close(centers, torch.tensor([[0.0, 2.0], [3.0, 2.0], [0.0, 0.0]]))


def test_uv_sampling_copies_no_map():
    """Memory of a large map with many faces per pixel stays that of the samples."""
    maps = torch.rand(1, 512, 512, 3)
    texture = TexturesUV(maps, torch.tensor([[[0, 1, 2]]]), torch.rand(1, 3, 2))
    pixels = fragments(torch.zeros(1, 2, 2, 100, dtype=torch.int64))
    seen = []
    original = F.grid_sample

    def spy(input, grid, **options):
        seen.append((input.data_ptr(), input.shape))
        return original(input, grid, **options)

    tracemalloc.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "grid_sample", spy)
        texels = texture.sample_textures(pixels)
    tracemalloc.stop()
    assert texels.shape == (1, 2, 2, 100, 3)
    assert seen == [(maps.data_ptr(), torch.Size([1, 3, 512, 512]))]


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("M", [1, 2, 4, 5])
def test_several_maps_never_mix(M, align_corners):
    """A face shows its own map only, whatever the number of maps and the alignment."""
    maps = torch.arange(M).float().view(1, M, 1, 1, 1).expand(1, M, 3, 3, 1)
    faces_uvs = torch.zeros(1, M, 3, dtype=torch.int64)
    texture = TexturesUV(
        maps, faces_uvs, torch.full((1, 1, 2), 0.5), maps_ids=torch.arange(M)[None], align_corners=align_corners
    )
    texels = texture.sample_textures(fragments(torch.arange(M).view(1, 1, 1, M)))
    torch.testing.assert_close(texels.flatten(), torch.arange(M).float(), atol=1e-5, rtol=0)
    corners = texture.faces_verts_textures_packed()
    torch.testing.assert_close(corners[:, 0, 0], torch.arange(M).float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("sizes", [[(3, 5)], [(3, 5), (7, 2)], [(4, 4), (2, 9), (3, 3), (8, 1), (1, 1)]])
def test_join_scene_shows_the_same(sizes, align_corners):
    N = len(sizes)
    texture = TexturesUV(
        [torch.rand(*size, 3) for size in sizes],
        [torch.tensor([[0, 1, 2], [2, 1, 3]])] * N,
        [torch.rand(4, 2) * 0.8 + 0.1 for _ in sizes],
        align_corners=align_corners,
    )
    each = torch.cat([texture[n].faces_verts_textures_packed() for n in range(N)])
    torch.testing.assert_close(texture.join_scene().faces_verts_textures_packed(), each, atol=1e-5, rtol=0)


def test_join_scene_places_one_map_once():
    image = torch.rand(4, 6, 3)
    one = TexturesUV([image, image], [torch.tensor([[0, 1, 2]])] * 2, [torch.rand(3, 2)] * 2).join_scene()
    assert one.maps_padded().shape == (1, 4, 6, 3)


def test_scene_of_ragged_vertex_and_atlas_textures():
    for kind in ("vertex", "atlas"):
        meshes = two_meshes(ragged_textures()[kind])
        want = torch.cat([meshes.sample_textures(ALL_FACES)[n] for n in range(2)])
        scene = join_meshes_as_scene(meshes)
        got = scene.sample_textures(fragments(ALL_FACES.pix_to_face.reshape(1, 4, 2, 1)))
        torch.testing.assert_close(got[0], want)


def test_float64():
    verts = TexturesVertex(torch.rand(1, 3, 2, dtype=torch.float64))
    mesh = Meshes([torch.rand(3, 3, dtype=torch.float64)], [torch.tensor([[0, 1, 2]])], textures=verts)
    pixels = fragments([[[[0]]]])
    pixels = Fragments(pixels.pix_to_face, pixels.zbuf, pixels.bary_coords.double().requires_grad_(), None)
    assert mesh.sample_textures(pixels).dtype == torch.float64
    maps, uvs = torch.rand(1, 4, 4, 3, dtype=torch.float64), torch.rand(1, 3, 2, dtype=torch.float64)
    uv = TexturesUV(maps, torch.tensor([[[0, 1, 2]]]), uvs)
    assert torch.autograd.gradcheck(
        lambda bary: uv.sample_textures(Fragments(pixels.pix_to_face, pixels.zbuf, bary, None)),
        torch.rand(1, 1, 1, 1, 3, dtype=torch.float64, requires_grad=True),
    )


def test_empty_batches():
    assert TexturesVertex([]).isempty()
    assert TexturesAtlas([]).isempty()
    assert TexturesUV([], [], []).isempty()
    assert TexturesVertex([]).verts_features_packed().shape == (0, 3)
    assert TexturesUV([], [], []).faces_verts_textures_packed().shape == (0, 3, 3)
    assert len(TexturesVertex(torch.rand(2, 3, 4))[[]].verts_features_list()) == 0


def test_to(device):
    for texture in ragged_textures().values():
        moved = texture.to(device)
        assert moved is texture
        assert moved.valid.device.type == device.type
        assert all(not isinstance(v, torch.Tensor) or v.device.type == device.type for v in vars(moved).values())


def test_former_constructor():
    with pytest.warns(PendingDeprecationWarning, match="Textures is deprecated"):
        texture = Textures(verts_rgb=torch.rand(1, 3, 3))
    assert isinstance(texture, TexturesVertex)
    with pytest.warns(PendingDeprecationWarning):
        texture = Textures(torch.rand(1, 4, 4, 3), torch.zeros(1, 2, 3, dtype=torch.int64), torch.rand(1, 3, 2))
    assert isinstance(texture, TexturesUV)
    with pytest.warns(PendingDeprecationWarning), pytest.raises(ValueError, match="requires all three"):
        Textures(maps=torch.rand(1, 4, 4, 3))


FACES_UVS, VERTS_UVS, MAPS = torch.zeros(2, 4, 3, dtype=torch.int64), torch.rand(2, 5, 2), torch.rand(2, 6, 6, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TexturesVertex(torch.rand(5, 10)), r"verts_features to be of shape \(N, V, C\); got \(5, 10\)"),
        (lambda: TexturesVertex((1, 1)), "verts_features to be a list of tensors"),
        (lambda: TexturesVertex(None), "verts_features must be a tensor or list"),
        (lambda: TexturesAtlas(torch.rand(5, 10, 3)), r"atlas to be of shape \(N, F, R, R, C\)"),
        (lambda: TexturesAtlas([torch.rand(5, 2, 3, 3)]), "same value of R"),
        (lambda: TexturesAtlas("a"), "atlas to be a tensor or list"),
        (lambda: TexturesUV(MAPS[:, 0], FACES_UVS, VERTS_UVS), r"maps to be of shape \(N, H, W, C\); got \(2, 6, 3\)"),
        (lambda: TexturesUV(MAPS[:1], FACES_UVS, VERTS_UVS), "maps and faces_uvs must have the same batch"),
        (lambda: TexturesUV(MAPS, FACES_UVS[..., :2], VERTS_UVS), r"faces_uvs to be of shape \(N, F, 3\)"),
        (lambda: TexturesUV(MAPS, 3, VERTS_UVS), "faces_uvs to be a tensor or list"),
        (lambda: TexturesUV(MAPS, FACES_UVS, VERTS_UVS[:1]), "verts_uvs and faces_uvs must have the same batch"),
        (lambda: TexturesUV(MAPS, FACES_UVS, [1, 2]), "verts_uvs to be a list of tensors"),
        (lambda: TexturesUV(MAPS, FACES_UVS, VERTS_UVS, maps_ids=FACES_UVS[..., 0]), r"maps to be of shape \(N, M"),
        (
            lambda: TexturesUV(MAPS[:, None], FACES_UVS, VERTS_UVS, maps_ids=FACES_UVS[:, :2, 0]),
            "maps_ids and faces_uvs must have the same number of faces",
        ),
        (lambda: TexturesUV([MAPS[0], MAPS[1, ..., :2]], FACES_UVS, VERTS_UVS), "Inconsistent number of channels"),
        (lambda: TexturesVertex(torch.rand(1, 2, 3)).extend(0), "N must be > 0"),
        (lambda: TexturesVertex(torch.rand(1, 2, 3)).extend(1.5), "N must be an integer"),
        (lambda: TexturesVertex(torch.rand(1, 2, 3)).faces_verts_textures_packed(), "faces_packed="),
        (lambda: TexturesVertex(torch.rand(1, 2, 3)).join_batch([TexturesAtlas([])]), "type TexturesVertex"),
        (
            lambda: TexturesUV(MAPS, FACES_UVS, VERTS_UVS).join_batch(
                [TexturesUV(MAPS, FACES_UVS, VERTS_UVS, align_corners=False)]
            ),
            "same align_corners",
        ),
        (
            lambda: TexturesUV((MAPS * 255).byte(), FACES_UVS, VERTS_UVS).faces_verts_textures_packed(),
            "maps must be floating point",
        ),
        (lambda: TexturesUV(MAPS, FACES_UVS, VERTS_UVS).centers_for_image(0), "one mesh; got a batch of 2"),
        (lambda: ragged_textures()["uv_several"].join_scene(), "does not support TexturesUV with several maps"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_index_errors():
    texture = TexturesVertex(torch.rand(2, 3, 4))
    with pytest.raises(IndexError):
        texture[2]
    with pytest.raises(IndexError, match="can be indexed by"):
        texture["0"]
    for kind in ("vertex", "atlas", "uv"):
        with pytest.raises(IndexError, match="same length"):
            ragged_textures()[kind].submeshes([[]], [[]])


def test_texture_of_another_size():
    with pytest.raises(ValueError, match="do not match the dimensions"):
        two_meshes(TexturesVertex(torch.rand(2, 9, 3)))
    with pytest.raises(ValueError, match="does not have textures"):
        two_meshes(None).sample_textures(ALL_FACES)
    with pytest.raises(NotImplementedError, match="TexturesBase cannot be sampled"):
        TexturesBase().sample_textures(ALL_FACES)


def test_atlas_on_the_border_of_a_face():
    """Blurred rasterisation moves coordinates to borders, where PyTorch3D shows a texel far away for some roundings."""
    R, above = 4, torch.nextafter(torch.tensor(1.0), torch.tensor(2.0)) - 1
    atlas = TexturesAtlas(torch.rand(1, 1, R, R, 3))
    w0 = torch.linspace(0.03, 0.97, 30)
    for offset in (-above, 0.0, above):
        w1 = 1 - w0 + offset
        bary = torch.stack((w0, w1, torch.zeros_like(w0)), dim=-1).view(1, 1, 30, 1, 3)
        got = atlas.sample_textures(SimpleNamespace(pix_to_face=torch.zeros(1, 1, 30, 1).long(), bary_coords=bary))
        column, row = (w0 * R).long(), (w1 * R).long()
        torch.testing.assert_close(got[0, 0, :, 0], atlas.atlas_packed()[0, row, column])


@pytest.mark.parametrize("kind", ["vertex", "atlas", "uv", "uv_several"])
def test_sampling_never_waits_for_a_device(kind, scenes, recon, never_waits):
    texture, leaf = scenes.image_texture(recon, kind, 60, 120)
    verts, faces = scenes.torus()
    meshes = Meshes([verts], [faces], textures=texture)
    pixels = scenes.fragments_of(recon, 120, N=1)
    expected = meshes.sample_textures(pixels)
    (expected_grad,) = torch.autograd.grad(expected.sin().sum(), leaf)
    with never_waits():
        got = meshes.sample_textures(pixels)
        (grad,) = torch.autograd.grad(got.sin().sum(), leaf)
    assert torch.equal(got, expected)
    torch.testing.assert_close(grad, expected_grad)


def test_lists_of_atlases_are_padded():
    """Under the private name that PyTorch3D's tests call."""
    from recon_engine.renderer.mesh.textures import _list_to_padded_wrapper

    a, b = torch.rand(2, 4, 4, 3), torch.rand(5, 4, 4, 3)
    padded = _list_to_padded_wrapper([a, b], pad_value=-1.0)
    assert torch.equal(padded[0, :2], a)
    assert torch.equal(padded[1], b)
    assert (padded[0, 2:] == -1).all()
    assert _list_to_padded_wrapper([a, b], pad_size=(7,)).shape == (2, 7, 4, 4, 3)
