"""What PyTorch3D pickled becomes ours and works; what is ours can be pickled, copied and sent to other processes."""

from __future__ import annotations

import copy
import importlib.util
import io
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import recon_engine
from recon_engine import compat
from recon_engine.renderer import PerspectiveCameras, TexturesUV, TexturesVertex
from recon_engine.structures import Meshes, Pointclouds, Volumes
from recon_engine.transforms import Rotate, Transform3d
from recon_engine.utils import ico_sphere


def _recorder():
    path = Path(__file__).parents[1] / "reference" / "record_pickles.py"
    spec = importlib.util.spec_from_file_location("record_pickles", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RECORDER = _recorder()
SAVED, PICKLES, ANSWERS = RECORDER.read()


@pytest.fixture(scope="module")
def library():
    with compat.installed():
        return RECORDER.library()


@pytest.fixture(scope="module")
def made(library):
    with compat.installed():
        return RECORDER.objects(library)


def as_array(answer):
    return answer.detach().numpy() if isinstance(answer, Tensor) else np.asarray(answer)


def check(library, name, value, expected):
    answers = RECORDER.answers(library, name, value)
    missing = set(expected) - set(answers)
    assert not missing
    for key, recorded in expected.items():
        got = as_array(answers[key])
        assert got.shape == recorded.shape, key
        assert got.dtype == recorded.dtype, (key, got.dtype, recorded.dtype)
        np.testing.assert_allclose(got, recorded, rtol=2e-4, atol=2e-5, err_msg=key)


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_pickles_of_pytorch3d(library, name):
    with compat.installed():
        value = pickle.loads(PICKLES[name])
    assert type(value).__module__.startswith("recon_engine.")
    check(library, name, value, ANSWERS[name])


def test_files_of_pytorch3d(library):
    with compat.installed():
        loaded = torch.load(io.BytesIO(SAVED), weights_only=False)
    assert set(loaded) == set(ANSWERS)
    for name, value in loaded.items():
        check(library, name, value, ANSWERS[name])


needs_named_globals = pytest.mark.skipif(
    not hasattr(torch.serialization, "safe_globals") or torch.__version__ < "2.6", reason="torch < 2.6"
)


@needs_named_globals
def test_files_of_pytorch3d_as_weights_only(library):
    with torch.serialization.safe_globals(compat.safe_globals()):
        loaded = torch.load(io.BytesIO(SAVED), weights_only=True)
    for name, value in loaded.items():
        check(library, name, value, ANSWERS[name])
    with pytest.raises(pickle.UnpicklingError, match="pytorch3d"):
        torch.load(io.BytesIO(SAVED), weights_only=True)


def by_pickle(value):
    return pickle.loads(pickle.dumps(value))


def by_safe_file(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    with torch.serialization.safe_globals(compat.safe_globals()):
        return torch.load(buffer, weights_only=True)


COPIES = [copy.copy, copy.deepcopy, by_pickle, pytest.param(by_safe_file, marks=needs_named_globals)]


@pytest.fixture(scope="module")
def untouched(made):
    """Copies from before anything was computed."""
    return {name: [again(value) for again in (copy.deepcopy, by_pickle)] for name, value in made.items()}


@pytest.fixture(scope="module")
def expected(library, made, untouched):
    return {
        name: {key: as_array(answer) for key, answer in RECORDER.answers(library, name, value).items()}
        for name, value in made.items()
    }


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_ours_before_it_was_read(library, untouched, expected, name):
    for other in untouched[name]:
        check(library, name, other, expected[name])


@pytest.mark.parametrize("again", COPIES)
def test_ours(library, made, expected, again):
    """Copies of objects that hold all that was computed."""
    for name, value in made.items():
        other = again(value)
        assert type(other) is type(value)
        check(library, name, other, expected[name])


def test_the_record_is_of_all_kinds(made):
    assert set(ANSWERS) == set(made)


def test_loaded_meshes_learn():
    with compat.installed():
        meshes = pickle.loads(PICKLES["meshes_float64"])
    verts = meshes.verts_list()
    assert all(v.is_leaf and v.requires_grad for v in verts)
    meshes.offset_verts(torch.ones(3, dtype=torch.float64)).verts_packed().square().sum().backward()
    for v in verts:
        torch.testing.assert_close(v.grad, 2 * (v.detach() + 1))


def test_transforms_keep_their_closed_inverse():
    with compat.installed():
        rotate, plain = pickle.loads(PICKLES["rotate"]), pickle.loads(PICKLES["transform"])
    assert type(rotate) is Rotate
    torch.testing.assert_close(rotate.inverse().get_matrix(), rotate.get_matrix().mT, rtol=0, atol=0)
    assert type(plain) is Transform3d
    torch.testing.assert_close(plain.inverse().get_matrix(), torch.linalg.inv(plain.get_matrix()))


def test_attributes_of_derived_classes_are_kept():
    with compat.installed():
        meshes = pickle.loads(PICKLES["meshes"])
        state = {"_N": 1, "name": "teapot", "_private": 3, "_laplacian_packed": None, **UNREAD}
    derived = object.__new__(Meshes)
    derived.__setstate__(state)
    assert (derived.name, derived._private) == ("teapot", 3)
    assert len(derived) == 1
    assert not hasattr(meshes, "_laplacian_packed")


UNREAD = {
    "device": torch.device("cpu"),
    "textures": None,
    "_verts_list": [torch.rand(3, 3)],
    "_faces_list": [torch.tensor([[0, 1, 2]])],
    "_verts_normals_packed": None,
}


def test_meshes_that_cannot_be():
    wrong = {**UNREAD, "_faces_list": [torch.tensor([[0, 1, 3]])]}
    with pytest.raises(ValueError, match="index 3 but there are 3 vertices"):
        object.__new__(Meshes).__setstate__(wrong)


def test_textures_of_versions_without_maps_ids():
    texture = TexturesUV(torch.rand(1, 4, 4, 3), torch.tensor([[[0, 1, 2]]]), torch.rand(1, 3, 2))
    state = {key: value for key, value in vars(texture).items() if key not in ("_maps_ids_list", "_maps_ids_padded")}
    old = object.__new__(TexturesUV)
    old.__dict__.update(state)
    torch.testing.assert_close(old.faces_verts_textures_packed(), texture.faces_verts_textures_packed())
    assert old.maps_ids_padded() is None


def test_copies_of_meshes_with_gradients():
    """What was computed with gradients is left out: torch copies leaves only."""
    verts = torch.rand(4, 3, requires_grad=True)
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    meshes = Meshes([verts, verts], [faces, faces], TexturesVertex([torch.rand(4, 3)] * 2))
    normals = meshes.verts_normals_padded()
    meshes.verts_padded(), meshes.faces_areas_packed()
    other = copy.deepcopy(meshes)
    assert other.has_verts_normals()
    torch.testing.assert_close(other.verts_normals_padded(), normals)
    first, second = other.verts_list()
    assert first is second
    assert first.is_leaf
    assert first.requires_grad
    other.verts_packed().sum().backward()
    assert verts.grad is None
    torch.testing.assert_close(first.grad, torch.full((4, 3), 2.0))

    clouds = Pointclouds([verts, verts], features=[verts, verts])
    clouds.points_packed(), clouds.features_padded()
    torch.testing.assert_close(copy.deepcopy(clouds).features_packed(), clouds.features_packed())


def test_pickles_hold_each_number_once():
    meshes = ico_sphere(3).extend(8)
    verts, faces = (sum(t.nbytes for t in rows) for rows in (meshes.verts_list(), meshes.faces_list()))
    plain = len(pickle.dumps(Meshes(meshes.verts_list(), meshes.faces_list())))
    meshes.verts_packed(), meshes.verts_padded(), meshes.edges_packed(), meshes.verts_normals_list()
    meshes.faces_areas_packed(), meshes.laplacian_packed()
    assert len(pickle.dumps(meshes)) < plain + 0.1 * (verts + faces)
    clouds = Pointclouds(torch.rand(8, 100, 3))
    clouds.points_list(), clouds.points_packed()
    assert len(pickle.dumps(clouds)) < 8 * 100 * 3 * 4 + 4000


class Scenes(Dataset):
    """Meshes of three sizes, clouds, cameras and volumes."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        meshes = ico_sphere(index)
        meshes.edges_packed(), meshes.verts_normals_packed()
        clouds = Pointclouds(meshes.verts_padded(), features=meshes.verts_normals_padded())
        cameras = PerspectiveCameras(focal_length=1.0 + index)
        volumes = Volumes(torch.full((1, 1, 2, 3, 4), float(index)), voxel_size=0.5)
        return meshes, clouds, cameras, volumes, Transform3d().translate(index, 0.0, 0.0)


def first_of(batch):
    return batch[0]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_send_them(method):
    if method == "spawn" and not hasattr(sys.modules["__main__"], "__file__"):
        pytest.skip("no program to start a process from")
    loader = DataLoader(Scenes(), collate_fn=first_of, num_workers=1, multiprocessing_context=method)
    for index, (meshes, clouds, cameras, volumes, transform) in enumerate(loader):
        sphere = ico_sphere(index)
        torch.testing.assert_close(meshes.verts_packed(), sphere.verts_packed())
        torch.testing.assert_close(meshes.edges_packed(), sphere.edges_packed())
        torch.testing.assert_close(clouds.features_packed(), sphere.verts_normals_packed())
        assert cameras.focal_length.tolist() == [[1.0 + index] * 2]
        assert volumes.densities().unique().tolist() == [index]
        assert volumes.get_coord_grid().shape == (1, 2, 3, 4, 3)
        assert transform.get_matrix()[0, 3].tolist() == [index, 0, 0, 1]


def test_large_meshes_go_through_shared_memory():
    """Memory of the engine's own is copied where torch shares it between processes."""
    loader = DataLoader([4, 5], collate_fn=large, num_workers=1, multiprocessing_context="fork")
    for level, meshes in zip((4, 5), loader):
        torch.testing.assert_close(meshes.verts_normals_packed(), ico_sphere(level).verts_normals_packed())


def large(levels):
    meshes = ico_sphere(levels[0]).extend(4)[:1]
    meshes.edges_packed()
    return meshes


def test_installed_is_undone():
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "pytorch3d"}
    finders = list(sys.meta_path)
    with compat.installed():
        import pytorch3d.structures

        assert pytorch3d.structures.Meshes is recon_engine.structures.Meshes
        with compat.installed():
            assert compat.is_installed()
        assert compat.is_installed()
    with pytest.raises(ImportError, match="nothing is not part"), compat.installed():
        import pytorch3d.nothing
    assert not compat.is_installed()
    assert sys.meta_path == finders
    after = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "pytorch3d"}
    assert after == before


@pytest.mark.filterwarnings("ignore")
def test_beside_pytorch3d():
    theirs = pytest.importorskip("pytorch3d.structures")
    with compat.installed():
        import pytorch3d.structures as ours

        assert ours.Meshes is Meshes
    assert sys.modules["pytorch3d.structures"] is theirs
    square, faces = torch.rand(1, 4, 3), torch.tensor([[[0, 1, 2], [0, 2, 3]]])
    data = pickle.dumps(theirs.Meshes(square, faces))
    assert type(pickle.loads(data)) is theirs.Meshes
    with compat.installed():
        loaded = pickle.loads(data)
    assert type(loaded) is Meshes
    torch.testing.assert_close(loaded.verts_padded(), square)
