from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from recon_engine.datasets import ShapeNetCore, collate_batched_meshes
from recon_engine.datasets.shapenet_base import ShapeNetBase
from recon_engine.renderer import (
    FoVPerspectiveCameras,
    HardFlatShader,
    RasterizationSettings,
    SoftSilhouetteShader,
    TexturesAtlas,
    look_at_view_transform,
)

CHAIR, LAMP, MAILBOX = "03001627", "03636649", "03710193"
SMALL = RasterizationSettings(image_size=16)


def load(folder, **options):
    with pytest.warns(UserWarning, match=r"ShapeNetCore ver\.\d's official mapping but not found"):
        return ShapeNetCore(folder, **options)


@pytest.fixture
def dataset(folders):
    return load(folders["shapenet_dir"])


def views(count):
    R, T = look_at_view_transform(1.0, 20.0, torch.linspace(0, 90, count))
    return FoVPerspectiveCameras(R=R, T=T)


def test_models_are_in_order(dataset):
    assert len(dataset) == 3
    assert dataset.synset_ids == [CHAIR, CHAIR, LAMP]
    assert dataset.model_ids == ["c1", "c2", "l1"]
    assert dataset.synset_start_idxs == {CHAIR: 0, LAMP: 2}
    assert dataset.synset_num_models == {CHAIR: 2, LAMP: 1}
    assert dataset.synset_inv == {"chair": CHAIR, "lamp": LAMP}
    assert len(dataset.synset_dict) == 57


def test_model(dataset):
    model = dataset[1]
    assert set(model) == {"synset_id", "model_id", "verts", "faces", "textures", "label"}
    assert (model["synset_id"], model["model_id"], model["label"]) == (CHAIR, "c2", "chair")
    assert model["verts"].shape == (4, 3)
    assert model["faces"].dtype == torch.int64
    torch.testing.assert_close(model["textures"], torch.tensor([0.2, 0.4, 0.8]).expand(4, 4, 4, 3))


def test_versions(recorder, tmp_path):
    recorder.write_model(tmp_path / MAILBOX / "m" / "models" / "model_normalized.obj", torch.rand(4, 3))
    dataset = load(tmp_path, version=2, texture_resolution=2)
    assert len(dataset.synset_dict) == 55
    assert dataset[0]["label"] == "mailbox"
    assert dataset[0]["textures"].shape == (4, 2, 2, 3)
    with pytest.raises(ValueError, match=r"Version number must be either 1 or 2\. Got 3"):
        ShapeNetCore(tmp_path, version=3)
    with pytest.warns(UserWarning, match=rf"Object file not found in the model directory m under .* {MAILBOX}"):
        assert len(load(tmp_path, version=1)) == 0


@pytest.mark.parametrize("synsets", [[LAMP], ["lamp"], ["lamp", LAMP]])
def test_chosen_categories(folders, synsets):
    dataset = load(folders["shapenet_dir"], synsets=synsets)
    assert dataset.model_ids == ["l1"]
    assert dataset.synset_inv == {"lamp": LAMP}


@pytest.mark.parametrize("synset", ["rocket", "no such thing"])
def test_categories_that_are_not_there(folders, synset):
    with pytest.warns(UserWarning, match=f"Synset category {synset} either not part of ShapeNetCore"):
        assert load(folders["shapenet_dir"], synsets=[synset, "chair"]).model_ids == ["c1", "c2"]


def test_white_where_there_is_no_material(folders, tmp_path):
    for path in tmp_path.rglob("model.obj"):
        path.write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    dataset = load(folders["shapenet_dir"])
    with pytest.warns(UserWarning, match="No mtl file provided"):
        assert (dataset[0]["textures"] == torch.ones(1, 4, 4, 3)).all()


def test_batches(dataset):
    batch = next(iter(DataLoader(dataset, batch_size=3, collate_fn=collate_batched_meshes)))
    assert batch["model_id"] == ["c1", "c2", "l1"]
    assert len(batch["mesh"]) == 3
    assert torch.equal(batch["mesh"].verts_list()[2], batch["verts"][2])
    assert isinstance(batch["mesh"].textures, TexturesAtlas)
    assert collate_batched_meshes([]) is None
    assert collate_batched_meshes([{"a": 1}, {"a": 2}]) == {"a": [1, 2], "mesh": None}


def test_models_without_textures(folders):
    dataset = load(folders["shapenet_dir"], load_textures=False)
    assert dataset[0]["textures"] is None
    assert collate_batched_meshes([dataset[0], dataset[1]])["mesh"].textures is None
    image = dataset.render(idxs=[0], cameras=views(1), raster_settings=SMALL)
    assert (image[..., 3] > 0).any()
    mixed = [dataset[0], {**dataset[1], "textures": torch.ones(4, 2, 2, 3)}]
    with pytest.raises(ValueError, match=r"models \[0\] of the batch have no textures, the others have"):
        collate_batched_meshes(mixed)


def test_pictures(dataset, device):
    one = dataset.render(model_ids=["c2"], cameras=views(1), raster_settings=SMALL, device=device)
    assert one.shape == (1, 16, 16, 4)
    assert one.device.type == device.type
    two = dataset.render(idxs=[1, 2], cameras=views(1), raster_settings=SMALL, device=device)
    torch.testing.assert_close(two[:1], one)
    several = dataset.render(idxs=[1], cameras=views(3), raster_settings=SMALL, device=device)
    torch.testing.assert_close(several[:1], one)
    assert not torch.equal(several[1], several[2])
    flat = dataset.render(idxs=[1], shader_type=HardFlatShader, cameras=views(1), raster_settings=SMALL, device=device)
    assert flat.shape == one.shape
    assert not torch.equal(flat, one)


def test_silhouettes(dataset):
    options = {"idxs": [0], "cameras": views(1), "raster_settings": SMALL}
    image = dataset.render(shader_type=SoftSilhouetteShader, **options)
    torch.testing.assert_close(image[..., 3] > 0.5, dataset.render(**options)[..., 3] > 0)


def test_which_models_are_shown(dataset):
    assert dataset._handle_render_inputs(model_ids=["l1", "c1"]) == [2, 0]
    assert dataset._handle_render_inputs(model_ids=[], idxs=[1]) == [1]
    assert sorted(dataset._handle_render_inputs(categories=["chair", LAMP], sample_nums=[2, 1])) == [0, 1, 2]
    assert sorted(dataset._handle_render_inputs(sample_nums=[3])) == [0, 1, 2]
    assert dataset._handle_render_inputs(categories=["lamp"]) == [2]
    with pytest.warns(UserWarning, match="Sample size 3 is larger than the number of objects in category 03636649"):
        assert dataset._handle_render_inputs(categories=["lamp"], sample_nums=[3]) == [2, 2, 2]
    with pytest.warns(UserWarning, match="Sample size 9 is larger than the number of objects in all categories"):
        assert len(dataset._handle_render_inputs(sample_nums=[9])) == 9
    with pytest.warns(UserWarning, match="More than one sample sizes specified, now sampling 2 models"):
        assert len(set(dataset._handle_render_inputs(sample_nums=[2, 1]))) == 2


def test_bad_input(dataset):
    with pytest.raises(ValueError, match="model_id piano not found in the loaded dataset"):
        dataset.render(model_ids=["piano"])
    with pytest.raises(ValueError, match="Category piano is not in the loaded dataset"):
        dataset.render(categories=["piano"])
    with pytest.raises(ValueError, match=r"categories and sample_nums needs to be of the same length .*: got 1 and 2"):
        dataset.render(categories=["chair"], sample_nums=[1, 2])
    for idx in (-1, 3):
        with pytest.raises(IndexError, match=r"One or more idx values are out of bounds.* between 0 and 2: got \["):
            dataset.render(idxs=[idx])
    with pytest.raises(ValueError, match="Mismatch between batch dims of cameras and meshes: 3 cameras for 2 meshes"):
        dataset.render(idxs=[0, 1], cameras=views(3))


def test_the_base_class_holds_no_models():
    base = ShapeNetBase()
    assert len(base) == 0
    with pytest.raises(NotImplementedError, match="ShapeNetBase defines no __getitem__"):
        base[0]
    with pytest.raises(ValueError, match="There are no models to draw from in the data set"):
        base.render()
