"""Figures for notebooks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import recon_engine
from recon_engine.io import save_obj
from recon_engine.methods import fit_points
from recon_engine.renderer import FoVPerspectiveCameras, TexturesUV, look_at_view_transform
from recon_engine.structures import Meshes, Pointclouds, Volumes
from recon_engine.utils import ico_sphere
from recon_engine.viewer import show

pytest.importorskip("plotly")


def names(figure):
    return [trace.name for trace in figure.data if trace.name]


def test_everything_that_can_be_shown():
    R, T = look_at_view_transform(3.0, 10.0, [0.0, 90.0])
    axis = torch.linspace(-1, 1, 12)
    density = 0.5 + 0.7 - torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).norm(dim=0)
    figure = show(
        ico_sphere(1),
        Pointclouds([torch.rand(20, 3)]),
        FoVPerspectiveCameras(R=R, T=T),
        ico_sphere(0),
        density=Volumes(density.clamp(0, 1)[None, None], voxel_size=0.2),
        title="all of it",
    )
    assert names(figure) == ["meshes", "pointclouds", "fovperspectivecameras", "meshes 2", "density"]
    kinds = [trace.type for trace in figure.data]
    assert kinds == ["mesh3d", "scatter3d", "scatter3d", "mesh3d", "mesh3d"]
    surface = np.stack([figure.data[4].x, figure.data[4].y, figure.data[4].z], 1)
    assert np.linalg.norm(surface, axis=1).max() < 1.2
    assert figure.layout.annotations[0].text == "all of it"
    assert recon_engine.show is show


def test_files_and_results(tmp_path):
    save_obj(str(tmp_path / "ball.obj"), *ico_sphere(1).get_mesh_verts_faces(0))
    assert names(show(tmp_path / "ball.obj")) == ["ball"]
    settings = fit_points.fit_settings(iterations=2, level=0, samples=20)
    result = fit_points.fit_points(torch.randn(30, 3), None, settings)
    figure = show(result, points=Pointclouds([result.points]))
    assert names(figure) == ["mesh", "points"]
    assert len(figure.data[0].x) == 12


def test_images_become_colours_of_vertices():
    image = torch.zeros(1, 4, 4, 3)
    image[:, :, :2, 0], image[:, :, 2:, 1] = 1.0, 1.0  # red on the left, green on the right
    verts = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    uvs = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    faces = torch.tensor([[0, 1, 2]])
    mesh = Meshes([verts, verts], [faces, faces], TexturesUV(image.expand(2, -1, -1, -1), [faces] * 2, [uvs] * 2))
    (trace,) = show(mesh).data
    assert len(trace.x) == 6
    assert [color.replace(" ", "") for color in trace.vertexcolor] == [
        "rgb(255,0,0)",
        "rgb(0,255,0)",
        "rgb(255,0,0)",
    ] * 2


def test_bad_input():
    with pytest.raises(ValueError, match="needs something to show"):
        show()
    with pytest.raises(TypeError, match="got int"):
        show(3)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        show("nothing.obj")
