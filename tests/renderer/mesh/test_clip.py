from __future__ import annotations

import contextlib

import pytest
import torch

from recon_engine import ops
from recon_engine.renderer.mesh.clip import (
    ClipFrustum,
    clip_faces,
    clip_faces_to_fixed_size,
    convert_clipped_rasterization_to_original_faces,
)
from recon_engine.renderer.mesh.rasterize_meshes import rasterize_meshes
from recon_engine.structures import Meshes


def clip(faces, first=None, count=None, clip_faces=clip_faces, **frustum):
    first = torch.tensor([0]) if first is None else torch.as_tensor(first)
    count = torch.tensor([len(faces)]) if count is None else torch.as_tensor(count)
    frustum = {"perspective_correct": False, "cull": False, **frustum}
    return clip_faces(faces, first, count, ClipFrustum(**frustum))


def area(faces):
    return torch.linalg.cross(faces[:, 1] - faces[:, 0], faces[:, 2] - faces[:, 0]).norm(dim=1) / 2


# x and y in space; with z as depth: whole, one vertex behind z = 1, two behind, all behind.
WHOLE = [[0.0, 0.0, 2.0], [1.0, 0.0, 3.0], [0.0, 1.0, 2.0]]
ONE_BEHIND = [[0.0, 0.0, 0.5], [2.0, 0.0, 2.5], [0.0, 2.0, 1.5]]
TWO_BEHIND = [[0.0, 0.0, 0.5], [2.0, 0.0, 0.0], [0.0, 2.0, 2.0]]
ALL_BEHIND = [[0.0, 0.0, 0.5], [1.0, 0.0, 0.9], [0.0, 1.0, -2.0]]


def test_nothing_to_do_returns_the_input():
    faces = torch.tensor([WHOLE, WHOLE])
    clipped = clip(faces, z_clip_value=1.0, cull=True, left=-1.0, right=5.0)
    assert clipped.face_verts is faces
    assert clipped.faces_clipped_to_unclipped_idx is None
    pix, bary = torch.zeros(1, 1, 1, 1, dtype=torch.int64), torch.ones(1, 1, 1, 1, 3)
    assert convert_clipped_rasterization_to_original_faces(pix, bary, clipped) == (pix, bary)


@pytest.mark.parametrize("perspective", [False, True])
def test_pieces_cover_what_lies_in_front(perspective):
    space = torch.tensor([WHOLE, ONE_BEHIND, ALL_BEHIND, TWO_BEHIND], dtype=torch.float64)
    faces = torch.cat((space[..., :2] / space[..., 2:], space[..., 2:]), -1) if perspective else space
    faces = torch.where(faces.isfinite(), faces, 1e9) if perspective else faces
    faces[3, 1] = torch.tensor([2.0 / 1e-9, 0.0, 1e-9]) if perspective else faces[3, 1]
    clipped = clip(faces, z_clip_value=1.0, perspective_correct=perspective)
    assert clipped.faces_clipped_to_unclipped_idx.tolist() == [0, 1, 1, 3]
    assert clipped.clipped_faces_neighbor_idx.tolist() == [-1, 2, 1, -1]
    assert clipped.faces_clipped_to_conversion_idx.tolist() == [-1, 1, 2, 0]
    assert clipped.mesh_to_face_first_idx.tolist() == [0]
    assert clipped.num_faces_per_mesh.tolist() == [4]
    pieces = clipped.face_verts
    if perspective:
        pieces = torch.cat((pieces[..., :2] * pieces[..., 2:], pieces[..., 2:]), -1)
    assert pieces[..., 2].min() >= 1.0 - 1e-12
    # Of ONE_BEHIND the corner up to a quarter and half of two edges is cut off; of TWO_BEHIND (2/3) (1/2) is left.
    whole = area(space)
    left = area(pieces)
    torch.testing.assert_close(left[1] + left[2], whole[1] * (1 - 0.25 * 0.5))
    torch.testing.assert_close(left[3], whole[3] * (2 / 3) * 0.5, rtol=1e-6, atol=0)
    # The conversion gives the pieces' vertices back from the original ones.
    source = space[[1, 1, 3]]
    rows = clipped.faces_clipped_to_conversion_idx[1:]
    vertices = torch.einsum("tik,tij->tkj", clipped.barycentric_conversion[rows], source)
    torch.testing.assert_close(vertices, pieces[1:], atol=1e-6, rtol=0)
    # Orientation stays.
    normal = torch.linalg.cross(pieces[:, 1] - pieces[:, 0], pieces[:, 2] - pieces[:, 0])
    expected = torch.linalg.cross(space[:, 1] - space[:, 0], space[:, 2] - space[:, 0])[[0, 1, 1, 3]]
    assert ((normal * expected).sum(-1) > 0).all()


@pytest.mark.parametrize("vertex", range(3))
def test_every_vertex_can_be_the_one_alone(vertex):
    for face, pieces in ((ONE_BEHIND, 2), (TWO_BEHIND, 1)):
        rolled = torch.tensor([face]).roll(vertex, dims=1)
        clipped = clip(rolled, z_clip_value=1.0)
        assert len(clipped.face_verts) == pieces
        reference = clip(torch.tensor([face]), z_clip_value=1.0)
        torch.testing.assert_close(area(clipped.face_verts).sum(), area(reference.face_verts).sum())


def test_batches_with_empty_meshes():
    faces = torch.tensor([ALL_BEHIND, ONE_BEHIND, WHOLE])
    clipped = clip(faces, first=[0, 1, 1, 3], count=[1, 0, 2, 0], z_clip_value=1.0)
    assert clipped.mesh_to_face_first_idx.tolist() == [0, 0, 0, 3]
    assert clipped.num_faces_per_mesh.tolist() == [0, 0, 3, 0]
    nothing = clip(torch.tensor([ALL_BEHIND]), z_clip_value=1.0)
    assert nothing.face_verts.shape == (0, 3, 3)
    assert nothing.num_faces_per_mesh.tolist() == [0]


def test_culling_looks_at_coordinates():
    inside = [[-3.0, -3.0, 2.0], [3.0, -3.0, 2.0], [0.0, 4.0, 2.0]]
    left = [[-2.0, 0.0, 2.0], [-3.0, 0.0, 2.0], [-2.0, 1.0, 2.0]]
    # Its first vertex lies outside on every axis, which says nothing about the face.
    large = [[5.0, 5.0, 5.0], [-3.0, 0.0, 2.0], [0.0, -3.0, 2.0]]
    far = [[0.0, 0.0, 20.0], [1.0, 0.0, 20.0], [0.0, 1.0, 20.0]]
    faces = torch.tensor([inside, left, large, far])
    box = {"left": -1.0, "right": 1.0, "top": -1.0, "bottom": 1.0, "zfar": 10.0}
    clipped = clip(faces, cull=True, **box)
    assert clipped.faces_clipped_to_unclipped_idx.tolist() == [0, 2]
    assert clip(faces, cull=False, **box).face_verts is faces
    # A face that reaches behind a perspective camera has no left or right before it is cut.
    behind = torch.tensor([[[-2.0, 0.0, 1.0], [-3.0, 0.0, 2.0], [-2.0, 1.0, -1.0]]])
    assert clip(behind, cull=True, perspective_correct=True, **box).face_verts is behind


@pytest.mark.parametrize("perspective", [False, True])
def test_gradcheck(perspective):
    """Both points where a face is cut carry gradients: PyTorch3D detaches one of them."""
    faces = torch.tensor([ONE_BEHIND, TWO_BEHIND, WHOLE], dtype=torch.float64)
    faces[1, 1, 2] = 0.25

    def outputs(faces):
        clipped = clip(faces, z_clip_value=1.0, perspective_correct=perspective)
        return clipped.face_verts, clipped.barycentric_conversion

    assert torch.autograd.gradcheck(outputs, faces.requires_grad_())


def test_conversion_to_original_faces():
    faces = torch.tensor([WHOLE, ONE_BEHIND], dtype=torch.float64)
    clipped = clip(faces, z_clip_value=1.0)
    pix_to_face = torch.tensor([[[[0, 1], [2, -1]]]])
    bary = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64).expand(1, 1, 2, 2, 3).clone()
    bary[0, 0, 1, 1] = -1
    original, converted = convert_clipped_rasterization_to_original_faces(pix_to_face, bary, clipped)
    assert original.tolist() == [[[[0, 1], [1, -1]]]]
    assert (converted[0, 0, 1, 1] == -1).all()
    for w, k in ((0, 0), (0, 1), (1, 0)):
        piece = pix_to_face[0, 0, w, k]
        want = bary[0, 0, w, k] @ clipped.face_verts[piece]
        torch.testing.assert_close(converted[0, 0, w, k] @ faces[original[0, 0, w, k]], want)


def crossing_faces(n=40, seed=0):
    """Faces of two meshes and an empty one in NDC, of which a plane at z = 1 cuts many in either way."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.rand(n, 3, 1, generator=generator, dtype=torch.float64) * 2.5 + 0.05
    xy = torch.rand(n, 3, 2, generator=generator, dtype=torch.float64) * 3 - 1.5
    return torch.cat((xy, z), dim=-1), torch.tensor([0, n // 3, n // 3]), torch.tensor([n // 3, 0, n - n // 3])


def rasterize(faces, first, count, clip_faces, perspective, blur, swapped=False):
    """Fragments of clipped faces in terms of the original ones; `swapped` puts the second pieces first."""
    clipped = clip(faces, first, count, clip_faces, z_clip_value=1.0, perspective_correct=perspective)
    if swapped:
        other = torch.arange(len(clipped.face_verts)) ^ 1
        clipped.face_verts = clipped.face_verts[other]
        clipped.faces_clipped_to_conversion_idx = clipped.faces_clipped_to_conversion_idx[other]
        neighbor = clipped.clipped_faces_neighbor_idx[other]
        clipped.clipped_faces_neighbor_idx = torch.where(neighbor < 0, neighbor, neighbor ^ 1)
    verts = clipped.face_verts.reshape(-1, 3)
    pix_to_face, zbuf, bary, dists = ops.rasterize_faces(
        verts,
        torch.arange(len(verts)).view(-1, 3),
        clipped.mesh_to_face_first_idx,
        clipped.num_faces_per_mesh,
        clipped.clipped_faces_neighbor_idx,
        (14, 11),
        blur,
        5,
        perspective,
        blur > 0,
        False,
    )
    return *convert_clipped_rasterization_to_original_faces(pix_to_face, bary, clipped), zbuf, dists


def gradient(fragments, leaf):
    """Of a weighted sum of the depths, barycentric coordinates and distances; shapes give the weights."""
    weights = [torch.linspace(-1, 2, value.numel()).sin().view_as(value) for value in fragments[1:]]
    loss = sum((weight * value).sum() for weight, value in zip(weights, fragments[1:], strict=True))
    return torch.autograd.grad(loss, leaf)[0]


@pytest.mark.parametrize("perspective", [False, True])
@pytest.mark.parametrize("blur", [0.0, 0.02])
def test_fixed_size_gives_the_same_fragments(perspective, blur, never_waits):
    faces, *batch = crossing_faces()
    leaf = faces.clone().requires_grad_()
    expected = rasterize(leaf, *batch, clip_faces, perspective, blur)
    expected_grad = gradient(expected, leaf)
    with never_waits():
        got = rasterize(leaf, *batch, clip_faces_to_fixed_size, perspective, blur)
        grad = gradient(got, leaf)
    assert torch.equal(got[0], expected[0])
    assert (got[0] >= 0).sum() > 100
    for mine, theirs in zip(got[1:], expected[1:], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-9, atol=1e-9)


def test_order_of_the_pieces_does_not_matter():
    """Of two pieces that both reach a pixel the nearer one counts, whichever comes first."""
    faces, *batch = crossing_faces()
    plain, swapped = (
        rasterize(faces, *batch, clip_faces_to_fixed_size, True, 0.02, swapped=swapped) for swapped in (False, True)
    )
    # A pixel is as far from both pieces where it is nearest to a corner that they share: then the first one counts.
    is_same = (plain[0] == swapped[0]) & (plain[3] - swapped[3] == 0)
    assert is_same.float().mean() > 0.98
    found = plain[0].flatten(0, 2)
    assert all(len(set(row[row >= 0].tolist())) == (row >= 0).sum() for row in found)


def test_rows_of_fixed_size():
    faces = torch.tensor([WHOLE, ONE_BEHIND, ALL_BEHIND, TWO_BEHIND])
    clipped = clip(faces, clip_faces=clip_faces_to_fixed_size, z_clip_value=1.0)
    assert clipped.faces_clipped_to_unclipped_idx.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert clipped.clipped_faces_neighbor_idx.tolist() == [-1, -1, 3, 2, -1, -1, -1, -1]
    assert clipped.faces_clipped_to_conversion_idx.tolist() == [-1, -1, 2, 3, -1, -1, 6, 7]
    assert clipped.mesh_to_face_first_idx.tolist() == [0]
    assert clipped.num_faces_per_mesh.tolist() == [8]
    exact = clip(faces, z_clip_value=1.0)
    assert torch.equal(clipped.face_verts[[0, 2, 3, 6]], exact.face_verts)
    assert (clipped.face_verts[[1, 4, 5, 7]] == -1).all()
    assert torch.equal(clipped.barycentric_conversion[[6, 2, 3]], exact.barycentric_conversion)


def test_fixed_size_culls():
    """What `clip_faces` drops leaves two empty rows; without a plane nothing is cut."""
    faces, *batch = crossing_faces()
    options = {"cull": True, "left": -0.5, "right": 0.5, "zfar": 2.0}
    for plane in (None, 1.0):
        exact = clip(faces, *batch, z_clip_value=plane, **options)
        fixed = clip(faces, *batch, clip_faces=clip_faces_to_fixed_size, z_clip_value=plane, **options)
        shown = (fixed.face_verts[:, :, 2] > 0).all(dim=1)
        assert 0 < shown.sum() < (len(faces) if plane is None else 2 * len(faces))
        assert torch.equal(fixed.face_verts[shown], exact.face_verts)
        assert torch.equal(fixed.faces_clipped_to_unclipped_idx[shown], exact.faces_clipped_to_unclipped_idx)


@pytest.mark.parametrize("perspective", [False, True])
def test_gradcheck_of_fixed_size(perspective):
    faces = torch.tensor([ONE_BEHIND, TWO_BEHIND, WHOLE, ALL_BEHIND], dtype=torch.float64)
    faces[1, 1, 2] = 0.25

    def outputs(faces):
        options = {"z_clip_value": 1.0, "perspective_correct": perspective}
        clipped = clip(faces, clip_faces=clip_faces_to_fixed_size, **options)
        return clipped.face_verts, clipped.barycentric_conversion

    assert torch.autograd.gradcheck(outputs, faces.requires_grad_())


def test_depths_on_the_plane_and_equal_depths_have_finite_gradients():
    """Vertices exactly on the plane are in front of it; faces parallel to it are never cut."""
    faces = torch.tensor([WHOLE, ONE_BEHIND, ALL_BEHIND], dtype=torch.float64)
    faces[0, :, 2] = 1.0
    faces[1, :, 2] = torch.tensor([0.5, 1.0, 1.0])
    faces[2, :, 2] = 0.5
    leaf = faces.requires_grad_()
    clipped = clip(leaf, clip_faces=clip_faces_to_fixed_size, z_clip_value=1.0, perspective_correct=True)
    (grad,) = torch.autograd.grad(clipped.face_verts.square().sum() + clipped.barycentric_conversion.sum(), leaf)
    assert grad.isfinite().all()
    assert (grad[2] == 0).all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("perspective", [False, True])
@pytest.mark.parametrize("blur", [0.0, 0.02])
@pytest.mark.parametrize("fixed_size", [False, True])
def test_live(perspective, blur, fixed_size, as_on_cuda):
    """Many faces cut in either way, in batches with an empty mesh, against PyTorch3D itself."""
    theirs = pytest.importorskip("pytorch3d.renderer", exc_type=ImportError)
    structures = pytest.importorskip("pytorch3d.structures", exc_type=ImportError)
    faces, first, count = crossing_faces()
    parts = [faces[f : f + n].float() for f, n in zip(first.tolist(), count.tolist(), strict=True)]
    verts = [part.reshape(-1, 3) for part in parts]
    indices = [torch.arange(len(v)).view(-1, 3) for v in verts]
    options = {
        "image_size": (14, 11),
        "blur_radius": blur,
        "faces_per_pixel": 5,
        "perspective_correct": perspective,
        "clip_barycentric_coords": blur > 0,
        "z_clip_value": 1.0,
    }
    want = theirs.rasterize_meshes(structures.Meshes(verts, indices), bin_size=0, **options)
    with as_on_cuda() if fixed_size else contextlib.nullcontext():
        got = rasterize_meshes(Meshes(verts, indices), **options)
    assert (got[0] >= 0).sum() > 100
    assert torch.equal(got[0], want[0])
    for mine, other in zip(got[1:], want[1:], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
