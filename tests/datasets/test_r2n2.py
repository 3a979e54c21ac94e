from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from recon_engine.datasets import R2N2, BlenderCamera, collate_batched_R2N2
from recon_engine.renderer import RasterizationSettings

CHAIR = "03001627"
SMALL = RasterizationSettings(image_size=16)


def load(folders, split="train", **options):
    with pytest.warns(UserWarning, match="included in R2N2's official mapping but not found"):
        return R2N2(split, **folders, **options)


@pytest.fixture
def dataset(folders):
    return load(folders)


def test_models_and_views(dataset, capsys, folders):
    assert dataset.model_ids == ["c1", "c2", "l1"]
    assert dataset.views_per_model_list == [[0, 2], [1, 2], [1]]
    assert dataset.synset_num_models == {CHAIR: 2, "03636649": 1}
    assert len(dataset.synset_dict) == 13
    assert dataset.synset_inv["lamp"] == "03636649"
    load(folders, "test")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[-4:] == [["category", "#instances"], ["-" * 8, "-" * 10], ["chair", "1"], ["total", "1"]]


def test_model(dataset):
    model = dataset[0]
    assert "voxels" not in model
    assert model["images"].shape == (2, 5, 6, 3)
    assert model["images"].dtype == torch.float32
    assert (model["R"].shape, model["T"].shape, model["K"].shape) == ((2, 3, 3), (2, 3), (2, 4, 4))
    torch.testing.assert_close(model["R"] @ model["R"].mT, torch.eye(3).expand(2, 3, 3))
    torch.testing.assert_close(torch.linalg.det(model["R"]), torch.ones(2))


def test_the_origin_is_in_the_middle_of_every_view(dataset):
    model = dataset[1]
    camera = BlenderCamera(R=model["R"], T=model["T"], K=model["K"])
    torch.testing.assert_close(camera.transform_points(torch.zeros(1, 3))[..., :2], torch.zeros(2, 1, 2))
    assert (camera.get_world_to_view_transform().transform_points(torch.zeros(1, 3))[..., 2] > 0.5).all()


@pytest.mark.parametrize("views", [2, [2], torch.tensor([2])])
def test_chosen_views(dataset, views):
    for model in (dataset[1, views], dataset.__getitem__(1, views)):
        assert torch.equal(model["images"], dataset[1]["images"][1:])
        assert torch.equal(model["R"], dataset[1]["R"][1:])


def test_views_that_are_not_loaded(dataset):
    with pytest.warns(UserWarning, match=r"model 1 has the views \[1, 2\], got \[0\]. Now returning all view"):
        assert len(dataset[1, [0]]["images"]) == 2
    with pytest.raises(TypeError, match="view_idxs is of type <class 'str'> but it needs to be a list"):
        dataset[1, "2"]


def test_one_random_view_of_each_model(folders):
    dataset = load(folders, return_all_views=False)
    assert [len(views) for views in dataset.views_per_model_list] == [1, 1, 1]
    assert set(dataset.views_per_model_list[0]) <= {0, 2}
    assert torch.equal(dataset[0]["images"], dataset[0]["images"])


def test_voxels(folders):
    dataset = load(folders, return_voxels=True)
    voxels = dataset[0]["voxels"]
    assert voxels.shape == (2, 128, 128, 128)
    assert voxels.dtype == torch.uint8
    assert (voxels.flatten(1).sum(1) > 0).all()
    next(Path(folders["r2n2_dir"]).rglob("c1/model.binvox")).unlink()
    with pytest.raises(FileNotFoundError, match=f"Voxel file not found for model c1 from category {CHAIR}"):
        dataset[0]


def test_without_renderings(folders):
    shutil.rmtree(Path(folders["r2n2_dir"]) / "ShapeNetRendering")
    with pytest.warns(UserWarning, match="ShapeNetRendering not found in .* R2N2 renderings will be skipped"):
        dataset = load(folders, return_voxels=True)
    model = dataset[0]
    assert model["images"] is None
    assert not {"R", "T", "K", "voxels"} & set(model)
    assert collate_batched_R2N2([dataset[0], dataset[1]])["images"] == [None, None]
    with pytest.raises(ValueError, match="there are no renderings with cameras; pass `cameras`"):
        dataset.render(idxs=[0])
    assert dataset.render(idxs=[0], cameras=BlenderCamera(), raster_settings=SMALL).shape == (1, 16, 16, 4)


def test_without_voxels(folders):
    shutil.rmtree(Path(folders["r2n2_dir"]) / "ShapeNetVoxels")
    with pytest.warns(UserWarning, match="ShapeNetVoxels not found in .* Voxel coordinates will be skipped"):
        dataset = load(folders, return_voxels=True)
    assert "voxels" not in dataset[0]


def test_other_folders(folders):
    root = Path(folders["r2n2_dir"])
    (root / "ShapeNetRendering").rename(root / "views")
    (root / "ShapeNetVoxels").rename(root / "cubes")
    dataset = load(folders, return_voxels=True, views_rel_path="views", voxels_rel_path="cubes")
    assert dataset[0]["voxels"].shape[0] == 2


def test_what_the_splits_name_but_is_not_there(folders):
    splits = {"val": {CHAIR: {"gone": [0], "c1": [0]}, "03710193": {}, "02691156": {}}}
    Path(folders["splits_file"]).write_text(json.dumps(splits))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = R2N2("val", **folders)
    messages = [str(warning.message) for warning in caught]
    assert f"Model gone from category {CHAIR} is not present in {folders['shapenet_dir']}." in messages
    for synset in ("03710193", "02691156"):
        assert any(
            message.startswith(f"Synset category {synset} from the splits file is either") for message in messages
        )
    assert dataset.model_ids == ["c1"]
    with pytest.raises(ValueError, match=r"split has to be one of \(train, val, test\). Got 'all'"):
        R2N2("all", **folders)


def test_metadata_that_is_malformed(folders, dataset):
    path = next(Path(folders["r2n2_dir"]).rglob("c1/rendering/rendering_metadata.txt"))
    path.write_text("1 2 0 0.8 25\n")
    with pytest.raises(ValueError, match=r"rendering_metadata.txt: expected 5 numbers in line 3, of view 2"):
        dataset[0]


def test_batches(folders):
    dataset = load(folders, return_voxels=True)
    batch = next(iter(DataLoader(dataset, batch_size=2, collate_fn=collate_batched_R2N2)))
    shapes = {key: tuple(batch[key].shape) for key in ("images", "R", "T", "K")}
    assert shapes == {"images": (2, 2, 5, 6, 3), "R": (2, 2, 3, 3), "T": (2, 2, 3), "K": (2, 2, 4, 4)}
    assert batch["voxels"].shape == (2, 2, 128, 128, 128)
    assert len(batch["mesh"]) == 2
    with pytest.warns(
        UserWarning, match="Models don't have the same number of views. Now returning lists of"
    ) as caught:
        batch = collate_batched_R2N2([dataset[0], dataset[2]])
    assert [str(w.message).partition("lists of ")[2].partition(" instead")[0] for w in caught] == [
        "images",
        "calibration matrices",
        "voxels",
    ]
    assert [len(R) for R in batch["R"]] == [2, 1]
    assert collate_batched_R2N2([]) is None


def test_pictures(dataset, device):
    every = dataset.render(idxs=[0, 1], raster_settings=SMALL, device=device)
    assert every.shape == (4, 16, 16, 4)
    assert (every[..., 3] > 0).flatten(1).any(1).all()
    chosen = dataset.render(model_ids=["c2"], view_idxs=[2], raster_settings=SMALL, device=device)
    torch.testing.assert_close(chosen[0], every[3])
    model = dataset[1, 2]
    moved = dataset.render(idxs=[1], view_idxs=[2], T=model["T"] + torch.tensor([9.0, 0, 0]), raster_settings=SMALL)
    assert (moved[..., 3] == 0).all()
