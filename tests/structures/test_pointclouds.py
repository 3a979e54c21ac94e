from __future__ import annotations

import copy
import pickle
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from recon_engine import structures
from recon_engine.structures import Pointclouds, join_pointclouds_as_batch, join_pointclouds_as_scene

REFERENCE = Path(__file__).parents[1] / "reference"
RECORD = runpy.run_path(str(REFERENCE / "record_pointclouds.py"))
SIZES = (4, 0, 7)
FIELDS = ("points", "normals", "features")


def ragged(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Pointclouds:
    """Three clouds of different sizes, the middle one empty, with normals and 5 features."""
    return Pointclouds(
        *([torch.randn(P, C, device=device, dtype=dtype) for P in SIZES] for C in (3, 3, 5)),
    )


def forms(clouds: Pointclouds) -> dict[str, torch.Tensor]:
    out = {}
    for field in FIELDS:
        for form in ("packed", "padded"):
            out[f"{field}_{form}"] = getattr(clouds, f"{field}_{form}")()
        for n, rows in enumerate(getattr(clouds, f"{field}_list")()):
            out[f"{field}_list_{n}"] = rows
    return out


def assert_same_clouds(ours: Pointclouds, theirs: Pointclouds) -> None:
    theirs_forms = forms(theirs)
    for name, tensor in forms(ours).items():
        torch.testing.assert_close(tensor, theirs_forms[name], rtol=0, atol=0, msg=lambda m, name=name: f"{name}: {m}")


# PyTorch3D


def assert_same_answers(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected, rtol=1e-6, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


def test_recorded_pytorch3d():
    recorded = {name: torch.from_numpy(array) for name, array in np.load(REFERENCE / "pointclouds.npz").items()}
    assert_same_answers(RECORD["answers"](structures), recorded)


def test_live_pytorch3d():
    theirs = pytest.importorskip("pytorch3d.structures")
    assert_same_answers(RECORD["answers"](structures), RECORD["answers"](theirs))


def test_every_public_method_of_pytorch3d_exists():
    theirs = pytest.importorskip("pytorch3d.structures")
    assert {name for name in dir(theirs.Pointclouds) if not name.startswith("_")} <= set(dir(Pointclouds))


# Forms


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_forms_agree(device, dtype):
    clouds = ragged(device, dtype)
    index = clouds.padded_to_packed_idx()
    for field in FIELDS:
        rows, packed, padded = (getattr(clouds, f"{field}_{form}")() for form in ("list", "packed", "padded"))
        assert packed.dtype == padded.dtype == dtype
        assert packed.device.type == device.type
        assert torch.equal(torch.cat(rows), packed)
        assert torch.equal(padded.flatten(0, 1)[index], packed)
        for n, cloud in enumerate(rows):
            assert torch.equal(padded[n, : len(cloud)], cloud)
            assert not padded[n, len(cloud) :].any()
    assert clouds.packed_to_cloud_idx().tolist() == [0] * 4 + [2] * 7
    assert clouds.cloud_to_packed_first_idx().tolist() == [0, 4, 4]
    assert clouds.num_points_per_cloud().tolist() == list(SIZES)
    assert clouds.valid.tolist() == [True, False, True]
    assert not clouds.equisized
    assert not clouds.isempty()
    assert (len(clouds), clouds._N, clouds._P, clouds._C) == (3, 3, 7, 5)
    assert clouds.device.type == device.type


@pytest.mark.parametrize("given", ["list", "padded"])
@pytest.mark.parametrize("field", ["normals", "features"])
@pytest.mark.parametrize("first", ["packed", "padded", "list"])
def test_fields_may_come_in_any_form(given, field, first):
    """A list of points with padded features: PyTorch3D forgets the features."""
    clouds = ragged()
    other = Pointclouds(clouds.points_list(), **{field: getattr(clouds, f"{field}_{given}")()})
    getattr(other, f"points_{first}")()
    for form in ("packed", "padded"):
        name = f"{field}_{form}"
        assert torch.equal(getattr(other, name)(), getattr(clouds, name)())
    for a, b in zip(getattr(other, f"{field}_list")(), getattr(clouds, f"{field}_list")(), strict=True):
        assert torch.equal(a, b)


def test_padded_points_with_features_in_a_list():
    points, features = torch.randn(2, 4, 3), [torch.randn(4, 6), torch.randn(4, 6)]
    clouds = Pointclouds(points, features=features)
    assert torch.equal(clouds.features_padded(), torch.stack(features))
    assert clouds.normals_list() is clouds.normals_packed() is clouds.normals_padded() is None
    assert clouds.equisized


def test_forms_without_padding_share_memory():
    points = torch.randn(3, 4, 3)
    clouds = Pointclouds(points)
    assert clouds.points_padded() is points
    assert clouds.points_packed().data_ptr() == points.data_ptr()
    assert Pointclouds(list(points)).points_packed().shape == (12, 3)


def test_gradients_flow_through_every_form():
    points = [torch.randn(P, 3, dtype=torch.float64, requires_grad=True) for P in SIZES]

    def every_form(*points):
        clouds = Pointclouds(list(points))
        moved = clouds.offset(torch.ones(3, dtype=torch.float64)).scale(2.0)
        return clouds.points_padded(), clouds.points_packed(), moved.points_padded(), clouds.extend(2).points_padded()

    assert torch.autograd.gradcheck(every_form, points)


# Empty


def test_no_clouds():
    clouds = Pointclouds([], normals=[], features=[])
    assert clouds.isempty()
    assert len(clouds) == 0
    assert clouds.points_list() == []
    assert clouds.points_packed().shape == (0, 3)
    assert clouds.points_padded().shape == (0, 0, 3)
    assert clouds.features_padded() is None
    assert clouds.padded_to_packed_idx().tolist() == clouds.num_points_per_cloud().tolist() == []
    assert clouds.num_points_per_cloud().dtype == torch.int64
    assert clouds.get_bounding_boxes().shape == (0, 3, 2)
    assert len(clouds.extend(2)) == len(clouds.clone()) == len(clouds.detach()) == 0
    assert Pointclouds(torch.zeros(0, 5, 3)).points_packed().shape == (0, 3)


def test_only_empty_clouds():
    clouds = Pointclouds([torch.zeros(0, 3), torch.tensor([])], features=[None, torch.zeros(0, 2)])
    assert clouds.isempty()
    assert clouds.points_padded().shape == (2, 0, 3)
    assert clouds.features_padded().shape == (2, 0, 2)
    assert clouds.features_packed().shape == (0, 2)
    assert clouds.points_list()[1].shape == (0, 3)
    assert clouds.cloud_to_packed_first_idx().tolist() == [0, 0]
    assert clouds.scale(torch.ones(2)).points_packed().shape == (0, 3)
    assert clouds.inside_box(torch.tensor([[0.0] * 3, [1.0] * 3])).shape == (0,)
    assert torch.isinf(clouds.get_bounding_boxes()).all()


def test_nothing_at_an_empty_cloud():
    clouds = Pointclouds([torch.zeros(0, 3), torch.ones(2, 3)], features=[None, torch.ones(2, 4, dtype=torch.float64)])
    assert clouds.features_list()[0].shape == (0, 4)
    assert clouds.features_padded().dtype == torch.float64
    assert clouds.features_padded()[0].eq(0).all()
    assert Pointclouds([torch.zeros(0, 3)], features=[None]).features_packed() is None


# Copies


def test_clone_shares_no_memory(device):
    clouds = ragged(device)
    padded = Pointclouds(clouds.points_padded(), features=clouds.features_padded())
    for source in (clouds, padded, clouds.offset(torch.zeros(3, device=device))):
        other = source.clone()
        before = source.points_padded().clone()
        for rows in (other.points_packed(), other.points_padded(), *other.points_list(), other.features_padded()):
            rows.add_(1)
        assert torch.equal(source.points_padded(), before)
        assert torch.equal(source.points_packed(), before.flatten(0, 1)[source.padded_to_packed_idx()])


def test_clone_is_differentiable_and_detach_is_not():
    points = torch.randn(2, 3, 3, requires_grad=True)
    clouds = Pointclouds(points, features=points * 2)
    assert clouds.clone().points_packed().requires_grad
    detached = clouds.detach()
    assert not any(tensor.requires_grad for tensor in (detached.points_packed(), detached.features_padded()))
    assert torch.equal(detached.points_padded(), points)


def test_to(device):
    clouds = ragged()
    moved = clouds.to(device)
    assert moved.device == moved.points_padded().device
    assert moved.device.type == device.type
    assert_same_clouds(moved.cpu(), clouds)
    assert moved.to(device) is moved
    assert moved.to(device, copy=True) is not moved
    assert clouds.cpu() is clouds
    assert moved.packed_to_cloud_idx().device == moved.device
    meta = clouds.to("meta")
    assert meta.points_padded().shape == clouds.points_padded().shape
    assert meta.points_padded().device.type == meta.features_packed().device.type == "meta"


def test_pickle_and_deepcopy():
    clouds = ragged()
    assert_same_clouds(pickle.loads(pickle.dumps(clouds)), clouds)
    other = copy.deepcopy(clouds)
    other.points_packed().zero_()
    assert clouds.points_packed().all()


def test_subclasses_stay():
    class Cloud(Pointclouds):
        pass

    clouds = Cloud([torch.rand(4, 3), torch.rand(2, 3)])
    for other in (clouds[0], clouds.clone(), clouds.offset(torch.ones(3)), clouds.extend(2), clouds.subsample(1)):
        assert type(other) is Cloud


# Parts of the batch


@pytest.mark.parametrize(
    ("index", "chosen"),
    [
        (1, [1]),
        (-1, [2]),
        (slice(1, None), [1, 2]),
        ([2, 0], [2, 0]),
        (torch.tensor([2, 2]), [2, 2]),
        (torch.tensor([True, False, True]), [0, 2]),
        (np.int64(2), [2]),
    ],
)
def test_getitem(index, chosen):
    clouds = ragged()
    part = clouds[index]
    assert part.num_points_per_cloud().tolist() == [SIZES[n] for n in chosen]
    for field in FIELDS:
        whole = getattr(clouds, f"{field}_list")()
        for rows, n in zip(getattr(part, f"{field}_list")(), chosen, strict=True):
            assert torch.equal(rows, whole[n])


@pytest.mark.parametrize(
    "index",
    [1.5, 3, -4, "0", torch.tensor([0.0]), torch.tensor(1), torch.tensor([True, False]), [[0]], torch.tensor([7])],
)
def test_bad_index(index):
    with pytest.raises(IndexError, match="Pointclouds: "):
        ragged()[index]


def test_iteration_ends():
    assert [len(cloud.points_packed()) for cloud in ragged()] == list(SIZES)


def test_get_cloud():
    clouds = ragged()
    for rows, field in zip(clouds.get_cloud(2), FIELDS, strict=True):
        assert torch.equal(rows, getattr(clouds, f"{field}_list")()[2])
    assert Pointclouds([torch.ones(2, 3)]).get_cloud(0)[1:] == (None, None)
    for wrong in (3, -1):
        with pytest.raises(ValueError, match=r"in the range \[0, N\) with N=3"):
            clouds.get_cloud(wrong)
    with pytest.raises(ValueError, match="must be an integer"):
        clouds.get_cloud(1.0)


def test_split():
    clouds = ragged()
    first, second = clouds.split([2, 1])
    assert (len(first), len(second)) == (2, 1)
    assert_same_clouds(join_pointclouds_as_batch([first, second]), clouds)
    with pytest.raises(ValueError, match="list of integers"):
        clouds.split([1.5])


def test_extend(device):
    clouds = ragged(device)
    for source in (clouds, clouds[[0, 0]], clouds[0]):
        extended = source.extend(3)
        assert_same_clouds(extended, source[[n for n in range(len(source)) for _ in range(3)]])
        extended.points_packed().add_(1)
        assert not torch.equal(extended.points_list()[0], source.points_list()[0])
    for wrong in (0, -1, 1.5):
        with pytest.raises(ValueError, match="N must be"):
            clouds.extend(wrong)


def test_subsample():
    clouds = ragged()
    assert clouds.subsample(7) is clouds
    np.random.seed(0)  # noqa: NPY002
    part = clouds.subsample([4, 0, 3])
    assert part.num_points_per_cloud().tolist() == [4, 0, 3]
    assert torch.equal(part.points_list()[0], clouds.points_list()[0])
    rows = torch.cdist(part.points_list()[2], clouds.points_list()[2]).argmin(1)
    assert len(rows.unique()) == 3
    for field in FIELDS:
        assert torch.equal(getattr(part, f"{field}_list")()[2], getattr(clouds, f"{field}_list")()[2][rows])
    np.random.seed(0)  # noqa: NPY002
    chosen = np.random.RandomState(0).choice(4, 3, replace=False)
    assert torch.equal(clouds.subsample(3).points_list()[0], clouds.points_list()[0][chosen])
    with pytest.raises(ValueError, match="wrong number of max_points supplied: expected 3, got 2"):
        clouds.subsample([1, 2])


# Other values


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_offset_and_scale(device, dtype):
    clouds = ragged(device, dtype)
    points = clouds.points_packed()
    offsets = torch.randn_like(points)
    factors = torch.tensor([2.0, 3.0, -1.0], device=device, dtype=dtype)
    each = factors[clouds.packed_to_cloud_idx(), None]
    expected = {
        "offset": [(offsets, points + offsets), (offsets[0], points + offsets[0])],
        "scale": [
            (factors, points * each),
            (1.5, points * 1.5),
            (factors[0], points * 2),
            (factors[:, None] * factors, points * each * factors),
        ],
    }
    for name, cases in expected.items():
        for argument, moved in cases:
            new = getattr(clouds, name)(argument)
            in_place = clouds.clone()
            assert getattr(in_place, f"{name}_")(argument) is in_place
            for result in (new, in_place):
                torch.testing.assert_close(result.points_packed(), moved)
                torch.testing.assert_close(torch.cat(result.points_list()), moved)
                padded = result.points_padded()
                torch.testing.assert_close(padded.flatten(0, 1)[clouds.padded_to_packed_idx()], moved)
                assert torch.equal(result.features_packed(), clouds.features_packed())
            assert clouds.points_packed() is points


def test_in_place_methods_leave_the_tensors_of_the_user():
    given = torch.rand(2, 3, 3, requires_grad=True)
    before = given.detach().clone()
    clouds = Pointclouds(given)
    clouds.points_padded()
    clouds.offset_(torch.ones(3)).scale_(2.0)
    assert torch.equal(given, before)
    clouds.points_padded().sum().backward()
    assert torch.equal(given.grad, torch.full_like(before, 2.0))


def test_bad_offset_and_scale():
    clouds = ragged()
    with pytest.raises(ValueError, match=r"Offsets must have dimension \(all_p, 3\): expected \(11, 3\) or \(3,\)"):
        clouds.offset(torch.ones(3, 3))
    with pytest.raises(TypeError, match="offsets_packed must be a tensor, got float"):
        clouds.offset(1.0)
    with pytest.raises(ValueError, match=r"scale must be a number or have shape \(3,\) or \(3, 3\), got \(2,\)"):
        clouds.scale(torch.ones(2))


def test_update_padded():
    clouds = ragged()
    points, features = torch.randn(3, 7, 3), torch.randn(3, 7, 5)
    new = clouds.update_padded(points, new_features_padded=features)
    assert new.points_padded() is points
    assert torch.equal(new.points_packed(), points.flatten(0, 1)[clouds.padded_to_packed_idx()])
    assert torch.equal(new.features_list()[0], features[0, :4])
    assert new.normals_packed() is clouds.normals_packed()
    assert new.num_points_per_cloud() is clouds.num_points_per_cloud()
    # What lies beyond the points of a cloud takes no part in anything.
    moved = new.offset(torch.ones(3))
    assert not moved.points_padded()[1].any()
    assert Pointclouds([torch.ones(2, 3)]).update_padded(torch.ones(1, 2, 3), None, torch.ones(1, 2, 9))._C == 9
    for shape, message in (((2, 7, 3), "batch dimension"), ((3, 6, 3), "number of points"), ((3, 7, 2), "channels")):
        with pytest.raises(ValueError, match=f"same .*{message}"):
            clouds.update_padded(torch.zeros(shape))
    with pytest.raises(ValueError, match="same number of channels: expected 5, got 4"):
        clouds.update_padded(points, None, torch.zeros(3, 7, 4))
    with pytest.raises(ValueError, match=r"shape \(N, P, C\)"):
        clouds.update_padded(torch.zeros(3, 7))
    with pytest.raises(ValueError, match="same device"):
        clouds.update_padded(torch.zeros(3, 7, 3, device="meta"))


# Boxes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bounding_boxes(device, dtype):
    clouds = ragged(device, dtype)
    boxes = clouds.get_bounding_boxes()
    assert boxes.dtype == dtype
    for n in (0, 2):
        points = clouds.points_list()[n]
        assert torch.equal(boxes[n], torch.stack([points.amin(0), points.amax(0)], 1))
    assert boxes[1].tolist() == [[torch.inf, -torch.inf]] * 3
    assert torch.equal(clouds[[0, 0]].get_bounding_boxes(), boxes[[0, 0]])
    points = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: Pointclouds(p).get_bounding_boxes(), points)
    assert torch.autograd.gradcheck(lambda p: Pointclouds([p[0], p[1, :2]]).get_bounding_boxes(), points)


def test_inside_box(device):
    clouds = ragged(device)
    box = torch.tensor([[-0.5, -0.6, -2.0], [0.9, 1.0, 2.0]], device=device)
    points = clouds.points_packed()
    expected = torch.tensor([bool(((p >= box[0]) & (p <= box[1])).all()) for p in points], device=device)
    assert torch.equal(clouds.inside_box(box), expected)
    assert torch.equal(clouds.inside_box(box[None]), expected)
    each = torch.stack([box, box, box + 100])
    assert torch.equal(clouds.inside_box(each), expected & (clouds.packed_to_cloud_idx() == 0))
    corner = points[0].expand(2, 3)
    assert clouds.inside_box(corner)[0]
    for shape, message in (((2, 2), "must be of shape"), ((2, 2, 3), "incompatible"), ((1, 1, 2, 3), "of shape")):
        with pytest.raises(ValueError, match=message):
            clouds.inside_box(torch.zeros(shape))
    with pytest.raises(ValueError, match="min values larger than max values"):
        clouds.inside_box(box.flip(0))


# Joining


def test_join_as_batch():
    clouds = ragged()
    joined = join_pointclouds_as_batch([clouds, clouds[0]])
    assert_same_clouds(joined, clouds[[0, 1, 2, 0]])
    assert joined.points_list()[0] is clouds.points_list()[0]
    plain = Pointclouds([torch.ones(2, 3)])
    assert join_pointclouds_as_batch([plain, plain]).features_packed() is None
    assert len(join_pointclouds_as_batch((plain, Pointclouds([])))) == 1
    other = Pointclouds([torch.ones(2, 3)], [torch.ones(2, 3)], [torch.ones(2, 4)])
    for wrong, message in (
        ([clouds, plain], "fields 'normals' defined and some set to None"),
        ([clouds, other], "same number of features"),
        ([plain, plain.to("meta")], "same device"),
        (clouds, "Wrong first argument"),
        (None, "Wrong first argument"),
        ([], "at least one"),
    ):
        with pytest.raises(ValueError, match=message):
            join_pointclouds_as_batch(wrong)


def test_join_as_scene():
    clouds = ragged()
    for argument in (clouds, [clouds[:1], clouds[1:]]):
        scene = join_pointclouds_as_scene(argument)
        assert len(scene) == 1
        for field in FIELDS:
            assert torch.equal(getattr(scene, f"{field}_packed")(), getattr(clouds, f"{field}_packed")())
    assert join_pointclouds_as_scene(clouds[0:1]).points_list()[0] is clouds.points_list()[0]
    one = clouds[2]
    assert join_pointclouds_as_scene(one) is one


# Bad input


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (torch.zeros(4, 3), r"incorrect dimensions: expected \(N, P, 3\), got \(4, 3\)"),
        (torch.zeros(1, 4, 2), "incorrect dimensions"),
        ([torch.zeros(4, 2)], r"of shape Px3 or empty: points\[0\] has shape \(4, 2\)"),
        ([torch.zeros(1, 4, 3)], "of shape Px3"),
        ([torch.zeros(4, 3), torch.zeros(4, 3, device="meta")], "same device"),
        ([[0.0, 0.0, 0.0]], r"points\[0\] must be a tensor, got list"),
        (None, "either a list or a tensor"),
    ],
)
def test_bad_points(points, message):
    with pytest.raises(ValueError, match=message):
        Pointclouds(points)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.zeros(8, 2), "incorrect dimensions"),
        (torch.zeros(3, 4, 2), "same length"),
        (torch.zeros(2, 5, 2), "expected 4, got 5"),
        (torch.zeros(2, 4, 2, device="meta"), "same device"),
        ([torch.zeros(4, 2)], "same length: got 2 and 1 clouds"),
        ([torch.zeros(4, 2), torch.zeros(2, 2)], "cloud 1 has 3 points, got 2"),
        ([torch.zeros(4, 2), None], "cloud 1 has 3 points, got NoneType"),
        ([torch.zeros(4, 2), torch.zeros(3)], "of shape PxC"),
        ([torch.zeros(4, 2), torch.zeros(3, 1)], "same number of channels: got 2 and 1"),
        ([torch.zeros(4, 2), torch.zeros(3, 2, device="meta")], "same device"),
        ("red", "either a list or a tensor"),
    ],
)
def test_bad_features(features, message):
    points = [torch.zeros(4, 3), torch.zeros(3, 3)]
    with pytest.raises(ValueError, match=message):
        Pointclouds(points, features=features)


def test_bad_normals():
    with pytest.raises(ValueError, match="expected to be 3-dimensional, got 2"):
        Pointclouds(torch.zeros(1, 4, 3), normals=torch.zeros(1, 4, 2))


# Private names that scripts use


def test_private_forms_are_none_until_they_are_computed():
    clouds = Pointclouds([torch.ones(2, 3), torch.ones(1, 3)])
    assert clouds._points_packed is clouds._points_padded is clouds._features_packed is None
    clouds._compute_packed()
    clouds._compute_padded()
    assert clouds._points_packed is clouds.points_packed()
    assert clouds._points_padded is clouds.points_padded()
    assert clouds._num_points_per_cloud is clouds.num_points_per_cloud()
    assert clouds._packed_to_cloud_idx is clouds.packed_to_cloud_idx()
    packed = clouds.points_packed()
    clouds._compute_packed(refresh=True)
    assert clouds.points_packed() is not packed
    assert torch.equal(clouds.points_packed(), packed)
    assert {name for name in Pointclouds._INTERNAL_TENSORS if not hasattr(clouds, name)} == set()


def test_private_forms_can_be_assigned():
    clouds = Pointclouds([torch.ones(2, 3), torch.ones(1, 3)])
    shared = clouds.offset(torch.ones(3))
    clouds._features_packed = torch.ones(3, 4)
    assert clouds.features_padded().shape == (2, 2, 4)
    assert shared.features_packed() is None
    moved = shared.scale(2.0)
    moved._normals_list = None
    assert moved.normals_list() is None
    clouds._points_packed = torch.zeros(3, 3)
    assert not clouds.points_packed().any()
