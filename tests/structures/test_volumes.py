from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from recon_engine.structures import Volumes
from recon_engine.structures.volumes import VolumeLocator

REFERENCE = Path(__file__).parents[1] / "reference"
PLACE = {"voxel_size": 0.5, "volume_translation": [0.1, 0.2, -0.3]}


def _recorder():
    spec = importlib.util.spec_from_file_location("record_volumes", REFERENCE / "record_volumes.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _ragged(**options):
    sizes = [(3, 4, 5), (2, 6, 2), (5, 3, 4)]
    densities, features = ([torch.rand(C, *size) for size in sizes] for C in (1, 3))
    return Volumes(densities, features, **options)


def _equal(actual, expected):
    assert len(actual) == len(expected)
    assert actual.get_align_corners() == expected.get_align_corners()
    for name in ("densities", "features", "get_grid_sizes", "get_coord_grid"):
        assert torch.equal(getattr(actual, name)(), getattr(expected, name)()), name


def test_recorded():
    answers = _recorder().answers("recon_engine")
    with np.load(REFERENCE / "volumes.npz") as recorded:
        assert set(recorded) == set(answers)
        for name, value in answers.items():
            torch.testing.assert_close(value, torch.as_tensor(recorded[name]), msg=lambda m, name=name: f"{name}: {m}")


def test_live():
    pytest.importorskip("pytorch3d")
    torch.testing.assert_close(_recorder().answers("recon_engine"), _recorder().answers("pytorch3d"))


@pytest.mark.parametrize("align_corners", [True, False])
def test_reading_a_volume_at_its_own_coordinates_gives_the_volume(align_corners):
    for volumes in (
        Volumes(torch.rand(2, 3, 4, 5, 6), align_corners=align_corners),
        _ragged(align_corners=align_corners),
    ):
        grid = volumes.get_coord_grid(world_coordinates=False)
        for n, (densities, (d, h, w)) in enumerate(
            zip(volumes.densities_list(), volumes.get_grid_sizes().tolist(), strict=True)
        ):
            read = torch.nn.functional.grid_sample(
                densities[None], grid[n : n + 1, :d, :h, :w], align_corners=align_corners
            )
            torch.testing.assert_close(read[0], densities, rtol=1e-5, atol=1e-5)


def test_world_coordinates_are_those_of_the_formula():
    volumes = Volumes(torch.rand(1, 1, 5, 5, 5))
    torch.testing.assert_close(
        volumes.world_to_local_coords(torch.tensor([[-2.0, 0.0, 2.0]])), torch.tensor([[-1.0, 0.0, 1.0]])
    )
    grid = Volumes(torch.rand(2, 1, 3, 4, 5), **PLACE).get_coord_grid()
    torch.testing.assert_close(grid[1, 0, 0, 0], torch.tensor([-1.1, -0.95, -0.2]))
    torch.testing.assert_close(grid[1, 2, 3, 4], torch.tensor([0.9, 0.55, 0.8]))
    torch.testing.assert_close(grid[:, 1:] - grid[:, :-1], torch.tensor([0.0, 0.0, 0.5]).expand(2, 2, 4, 5, 3))


def test_float64():
    volumes = Volumes(torch.rand(1, 1, 3, 4, 5).double(), voxel_size=0.1)
    grid = volumes.get_coord_grid()
    assert grid.dtype == torch.float64
    assert grid[0, 0, 0, 1, 0] - grid[0, 0, 0, 0, 0] == pytest.approx(0.1, abs=1e-15)
    assert Volumes(torch.rand(1, 1, 3, 4, 5).half()).get_coord_grid().dtype == torch.float32


def test_a_single_voxel_along_an_axis_has_finite_coordinates():
    for align_corners, local in ((True, -1.0), (False, 0.0)):
        volumes = Volumes(torch.rand(1, 1, 1, 4, 5), align_corners=align_corners)
        assert (volumes.get_coord_grid(world_coordinates=False)[..., 2] == local).all()
        assert (volumes.get_coord_grid()[..., 2] == 0).all()


def test_places_are_differentiable():
    def corners(voxel_size, translation):
        return Volumes(torch.zeros(2, 1, 3, 4, 5).double(), None, voxel_size, translation).get_coord_grid()[
            :, ::2, ::3, ::4
        ]

    for voxels, translation in (((2, 3), (2, 3)), ((3,), (3,)), ((2, 1), (1,)), ((1,), (1, 3)), ((), (2, 3))):
        inputs = [torch.rand(shape, dtype=torch.float64, requires_grad=True) for shape in (voxels, translation)]
        assert torch.autograd.gradcheck(corners, inputs)


@pytest.mark.parametrize(
    ("index", "chosen"),
    [
        (1, [1]),
        (-1, [2]),
        (slice(None, None, -2), [2, 0]),
        (slice(1, None), [1, 2]),
        ((2, 0), [2, 0]),
        ([], []),
        (torch.tensor([1, 1]), [1, 1]),
        (torch.tensor([False, True, True]), [1, 2]),
    ],
)
def test_indexing(index, chosen):
    volumes = _ragged(**PLACE, align_corners=False)
    part = volumes[index]
    assert len(part) == len(part.locator) == len(chosen)
    assert not part.get_align_corners()
    for name in ("densities", "features", "get_grid_sizes", "get_coord_grid"):
        assert torch.equal(getattr(part, name)(), getattr(volumes, name)()[chosen])
    points = torch.rand(3, 7, 3)[chosen]
    torch.testing.assert_close(part.world_to_local_coords(part.local_to_world_coords(points)), points)


def test_indexing_with_slices_shares_memory():
    volumes = _ragged()
    assert volumes[1:].densities().data_ptr() == volumes.densities()[1].data_ptr()


@pytest.mark.parametrize("index", [3, [0, 5], 0.5, "a", torch.tensor([0.0]), torch.tensor(1), torch.tensor([[1]])])
def test_bad_indices(index):
    with pytest.raises(IndexError):
        _ragged()[index]


def test_iteration():
    volumes = _ragged(**PLACE)
    parts = list(volumes)
    assert len(parts) == 3
    for n, part in enumerate(parts):
        _equal(part, volumes[n])


def test_updates_of_ragged_batches():
    volumes = _ragged(**PLACE, align_corners=False)
    densities, features = torch.rand_like(volumes.densities()), torch.rand(3, 7, 5, 6, 5)
    new = volumes.update_padded(densities, features)
    assert new.densities() is densities
    assert new.features() is features
    assert [grid.shape for grid in new.features_list()] == [(7, 3, 4, 5), (7, 2, 6, 2), (7, 5, 3, 4)]
    assert torch.equal(new.get_coord_grid(), volumes.get_coord_grid())
    assert volumes.update_padded(densities).features() is None
    assert volumes.features() is not None


def test_copies():
    densities = torch.rand(2, 1, 3, 4, 5, requires_grad=True)
    volumes = Volumes(densities.sigmoid(), torch.rand(2, 3, 3, 4, 5), **PLACE)
    assert volumes.to("cpu") is volumes.cpu() is volumes
    assert volumes.locator.to("cpu") is volumes.locator.cpu() is volumes.locator
    for copy in (volumes.clone(), volumes.to("cpu", copy=True)):
        _equal(copy, volumes)
        assert copy.densities().data_ptr() != volumes.densities().data_ptr()
        assert copy.features().data_ptr() != volumes.features().data_ptr()
        assert copy.locator is not volumes.locator
        matrices = [v.locator.get_local_to_world_coords_transform().get_matrix() for v in (copy, volumes)]
        assert torch.equal(*matrices)
        assert torch.autograd.grad(copy.densities().sum(), densities, retain_graph=True)[0].abs().max() > 0


def test_devices(device):
    volumes = _ragged(**PLACE)
    moved = volumes.to(device)
    assert moved.device == moved.locator.device == moved.densities().device == moved.get_coord_grid().device
    _equal(moved.cpu(), volumes)
    with pytest.raises(ValueError, match="same device"):
        moved.update_padded(volumes.densities().to("meta"))


def test_empty_batch():
    volumes = Volumes(torch.rand(0, 1, 3, 4, 5), torch.rand(0, 3, 3, 4, 5))
    assert len(volumes) == 0
    assert list(volumes) == volumes.densities_list() == []
    assert volumes.get_coord_grid().shape == (0, 3, 4, 5, 3)
    assert volumes.get_grid_sizes().shape == (0, 3)


def test_no_features():
    volumes = Volumes([torch.rand(1, 2, 2, 2)])
    assert volumes.features() is volumes.features_list() is volumes[0].features() is volumes.clone().features() is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"densities": 5}, "densities must be either a list or a tensor .* got int"),
        ({"densities": torch.rand(1, 2, 2, 2)}, r"`densities` has to be a 5-dim tensor .* got \(1, 2, 2, 2\)"),
        ({"densities": [torch.rand(2, 2, 2)]}, "`densities` has to be a list of 4-dim tensors"),
        ({"densities": [torch.rand(1, 2, 2, 2), torch.rand(2, 2, 2, 2)]}, r"same number of channels.* got \[1, 2\]"),
        ({"features": torch.rand(2, 3, 2, 2, 3)}, "The size of every grid in `features` has to match"),
        ({"features": torch.rand(1, 3, 2, 2, 2)}, "The size of every grid in `features` has to match"),
        ({"features": [torch.rand(3, 2, 2, 2), torch.rand(3, 2, 2, 1)]}, "The size of every grid in `features`"),
        ({"voxel_size": [1, 2]}, "voxel_size has to be a number, three numbers .* got list for a batch of 2"),
        ({"voxel_size": torch.rand(2)}, r"voxel_size has to be .* got a tensor of shape \(2,\)"),
        ({"volume_translation": 1.0}, "volume_translation has to be three numbers .* got float"),
        ({"volume_translation": torch.rand(2, 1)}, r"volume_translation has to be .* got a tensor of shape \(2, 1\)"),
        ({"volume_translation": "abc"}, "volume_translation has to be three numbers .* got str"),
    ],
)
def test_wrong_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        Volumes(**{"densities": torch.rand(2, 1, 2, 2, 2), **arguments})


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (torch.tensor([2, 2, 2]), "2-dim tensor"),
        (torch.tensor([[2, 2]] * 2), "2-dim tensor"),
        (5, "got int"),
        ([(2, 2), (2, 2)], "three sizes"),
        ((2, 2, 0.5), "three sizes"),
        ([(2, 2, 2)], "batch_size=2 entries; got 1"),
    ],
)
def test_wrong_sizes(sizes, message):
    with pytest.raises(ValueError, match=message):
        VolumeLocator(2, sizes, "cpu")


def test_forms_of_sizes():
    forms = [(3, 4, 5), [3, 4, 5], [(3, 4, 5)] * 2, torch.tensor([[3, 4, 5]] * 2), [torch.tensor([3, 4, 5])] * 2]
    for form in forms:
        locator = VolumeLocator(2, form, torch.device("cpu"))
        assert len(locator) == 2
        assert locator.get_grid_sizes().tolist() == [[3, 4, 5]] * 2
        assert locator._resolution == (3, 4, 5)
