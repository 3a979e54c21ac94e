from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from recon_engine.renderer import (
    FoVPerspectiveCameras,
    HeterogeneousRayBundle,
    RayBundle,
    TexturesUV,
    TexturesVertex,
    look_at_view_transform,
)
from recon_engine.structures import Meshes, Pointclouds
from recon_engine.utils import ico_sphere
from recon_engine.vis import get_camera_wireframe, plot_batch_individually, plot_scene
from recon_engine.vis.plotly_vis import AxisArgs, Lighting

go = pytest.importorskip("plotly.graph_objects")
REFERENCE = Path(__file__).parents[1] / "reference"


@pytest.fixture(scope="module")
def recorder():
    spec = importlib.util.spec_from_file_location("record_vis", REFERENCE / "record_vis.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def colors(trace):
    """Of a cloud's or a mesh's trace, in 0..255."""
    css = trace.marker.color if trace.type == "scatter3d" else trace.vertexcolor or trace.facecolor
    return [[float(n) for n in color.partition("(")[2].rstrip(")").split(",")] for color in css]


def points(trace):
    return np.stack([trace.x, trace.y, trace.z], axis=1)


def ray_bundle(*shape, samples=4, device="cpu"):
    return RayBundle(
        torch.randn(*shape, 3, device=device),
        torch.randn(*shape, 3, device=device),
        torch.rand(*shape, samples, device=device),
        torch.randn(*shape, 2, device=device),
    )


def assert_same_facts(found, expected):
    assert set(found) == set(expected)
    for name, theirs in expected.items():
        ours = found[name]
        if theirs.dtype.kind in "US":
            assert (ours == theirs).all(), name
            continue
        atol = 1e-6
        if "color" in name or name == "texture":
            # PyTorch3D rounds colours down and writes those of faces as fractions.
            theirs = theirs * 255 if "facecolor" in name else theirs.astype(float)
            atol = 1.0
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol, err_msg=name)


def test_recorded_figures(recorder):
    assert_same_facts(recorder.record("recon_engine"), dict(np.load(REFERENCE / "vis.npz")))


@pytest.mark.filterwarnings("ignore")
def test_live(recorder):
    pytest.importorskip("pytorch3d.vis.plotly_vis", exc_type=ImportError)
    assert_same_facts(recorder.record("recon_engine"), recorder.record("pytorch3d"))


def test_wireframe():
    wire = get_camera_wireframe(2.0)
    assert wire.shape == (15, 3)
    assert wire.dtype == torch.float32
    assert wire.amin(0).tolist() == [-2, -1.5, 0]
    assert wire.amax(0).tolist() == [2, 2, 6]
    torch.testing.assert_close(get_camera_wireframe(), wire * 0.15)


def test_every_structure_is_drawn(device):
    R, T = look_at_view_transform(3.0, 0.0, torch.tensor([0.0, 90.0]))
    figure = plot_scene(
        {
            "scene": {
                "mesh": ico_sphere(1, device),
                "cloud": Pointclouds(torch.rand(2, 5, 3, device=device)),
                "cameras": FoVPerspectiveCameras(R=R, T=T, device=device),
                "rays": ray_bundle(2, 3, device=device),
            }
        }
    )
    assert isinstance(figure, go.Figure)
    assert [(trace.type, trace.name) for trace in figure.data] == [
        ("mesh3d", "mesh"),
        ("scatter3d", "cloud"),
        ("scatter3d", "cameras"),
        ("scatter3d", "rays"),
        ("scatter3d", "rays_points"),
    ]
    assert [len(trace.x) for trace in figure.data] == [42, 10, 2 * 16 - 1, 6 * 3 - 1, 24]
    assert "scene" in figure.to_json()


def test_a_mesh_of_several_kinds_of_vertices_stays_as_it_was():
    verts = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [9, 9, 9]])
    mesh = Meshes([verts.clone()], [torch.tensor([[0, 1, 2]])], TexturesVertex([torch.linspace(-1, 2, 12).view(4, 3)]))
    (trace,) = plot_scene({"a": {"b": mesh}}).data
    np.testing.assert_allclose(points(trace)[3], [1 / 3, 1 / 3, 0])
    assert torch.equal(mesh.verts_packed(), verts)
    assert mesh.textures.verts_features_packed().min() == -1


def test_colours_that_are_nearly_black_stay_dark():
    features = torch.tensor([[0.004, 0.002, 0.0], [0.0, 0.0, 0.0], [1.0, 0.2, 0.6]])
    mesh = Meshes([torch.eye(3)], [torch.tensor([[0, 1, 2]])], TexturesVertex([features]))
    (trace,) = plot_scene({"a": {"b": mesh}}).data
    assert colors(trace) == [[1, 1, 0], [0, 0, 0], [255, 51, 153]]


def test_colours_of_clouds():
    bytes_ = torch.tensor([[0, 51, 255], [1, 254, 100], [33, 66, 99]])
    cloud = Pointclouds(torch.rand(1, 3, 3), features=(bytes_ / 255.0)[None])
    assert colors(plot_scene({"a": {"b": cloud}}).data[0]) == bytes_.tolist()
    cloud = Pointclouds(torch.rand(1, 3, 3), features=torch.cat([bytes_ / 255, torch.full((3, 1), 0.25)], dim=1)[None])
    (trace,) = plot_scene({"a": {"b": cloud}}).data
    assert trace.marker.color[0] == "rgba(0,51,255,0.2500)"
    cloud = Pointclouds(torch.rand(1, 3, 3), features=torch.zeros(1, 3, 5))
    assert plot_scene({"a": {"b": cloud}}).data[0].marker.color is None


def test_uv_textures_are_drawn_without_colours():
    textures = TexturesUV(torch.rand(2, 4, 4, 3), [torch.tensor([[0, 1, 2]])] * 2, [torch.rand(3, 2)] * 2)
    mesh = Meshes([torch.eye(3)] * 2, [torch.tensor([[0, 1, 2]])] * 2, textures)
    (trace,) = plot_scene({"a": {"b": mesh}}).data
    assert trace.vertexcolor is None
    assert trace.k.tolist() == [2, 5]


def test_large_things_are_sampled():
    cloud = Pointclouds([torch.rand(50, 3), torch.rand(5, 3)])
    rays = ray_bundle(10, 20, samples=30)
    figure = plot_scene(
        {"a": {"cloud": cloud, "rays": rays}},
        pointcloud_max_points=7,
        raybundle_max_rays=11,
        raybundle_max_points_per_ray=3,
    )
    assert [len(trace.x) for trace in figure.data] == [7 + 5, 11 * 3 - 1, 11 * 3]
    everything = (rays.origins[..., None, :] + rays.lengths[..., None] * rays.directions[..., None, :]).reshape(-1, 3)
    samples = torch.from_numpy(points(figure.data[2])).float()
    distances = torch.cdist(samples, everything, compute_mode="donot_use_mm_for_euclid_dist")
    assert (distances.amin(dim=1) < 1e-5).all()
    assert len(torch.unique(samples, dim=0)) == 33


def test_the_line_of_rays_holds_their_ends_only():
    rays = RayBundle(
        torch.zeros(2, 3), torch.eye(3)[:2], torch.tensor([[2.0, 1.0, 3.0], [5.0, 6.0, 4.0]]), torch.zeros(2, 2)
    )
    line, _ = plot_scene({"a": {"b": rays}}).data
    expected = [[1, 0, 0], [3, 0, 0], [np.nan] * 3, [0, 4, 0], [0, 6, 0]]
    np.testing.assert_allclose(points(line), expected)


def test_many_rays_are_drawn_at_once():
    rays = ray_bundle(20000, samples=2)
    assert len(plot_scene({"a": {"b": rays}}).data[0].x) == 3 * 20000 - 1


@pytest.mark.parametrize(
    "struct",
    [
        Pointclouds([torch.zeros(0, 3)]),
        Meshes([torch.zeros(0, 3)], [torch.zeros(0, 3, dtype=torch.int64)]),
        ray_bundle(0, 3),
    ],
)
def test_nothing_to_see(struct):
    cameras = FoVPerspectiveCameras()
    figure = plot_scene({"a": {"b": struct}}, viewpoint_cameras=cameras)
    assert all(len(trace.x) == 0 for trace in figure.data)
    assert figure.layout.scene.xaxis.range is None


def test_a_single_point_and_points_that_are_not_finite():
    cloud = Pointclouds([torch.tensor([[1.0, 2.0, 3.0], [np.nan, 0, 0], [0, np.inf, 0]])])
    scene = plot_scene({"a": {"b": cloud}}, viewpoint_cameras=FoVPerspectiveCameras()).layout.scene
    assert [scene[axis].range for axis in ("xaxis", "yaxis", "zaxis")] == [(0, 2), (1, 3), (2, 4)]


def test_viewpoints():
    """The eye of a camera at distance 3 from a unit sphere, whose scene reaches from -2 to 2."""
    R, T = look_at_view_transform(3.0, 0.0, torch.tensor([0.0, 90.0]))
    cameras, sphere = FoVPerspectiveCameras(R=R, T=T), ico_sphere(3)
    figure = plot_scene({"a": {"m": sphere}, "b": {"m": sphere}}, viewpoint_cameras=cameras)
    eyes = [[getattr(figure.layout[scene].camera.eye, axis) for axis in "xyz"] for scene in ("scene", "scene2")]
    np.testing.assert_allclose(eyes, [[0, 0, 1.5], [1.5, 0, 0]], atol=1e-6)
    with pytest.warns(UserWarning, match="Invalid number 2 of viewpoint cameras were provided. Either 1 or 1 cameras"):
        figure = plot_scene({"a": {"m": sphere}}, viewpoint_cameras=cameras)
    assert figure.layout.scene.camera.eye.x is None
    assert figure.layout.scene.camera.up.y == 1


def test_options_of_axes_and_lights():
    figure = plot_scene(
        {"a": {"m": ico_sphere(0)}, "b": {"m": ico_sphere(0)}},
        axis_args=AxisArgs(showgrid=True),
        yaxis={"showgrid": False, "title": "up"},
        lighting=Lighting(diffuse=0.25),
    )
    for scene in (figure.layout.scene, figure.layout.scene2):
        assert (scene.xaxis.showgrid, scene.yaxis.showgrid, scene.zaxis.showgrid) == (True, False, True)
        assert scene.yaxis.title.text == "up"
    assert figure.data[1].lighting.diffuse == 0.25


@pytest.mark.parametrize("extend", [True, False])
def test_structures_with_one_element(extend):
    cloud, sphere = Pointclouds(torch.rand(3, 4, 3)), ico_sphere(0)
    figure = plot_batch_individually([sphere, cloud, sphere], extend_struct=extend)
    names = [(trace.name, trace.scene or "scene") for trace in figure.data]
    first = [("trace1-1", "scene"), ("trace1-2", "scene"), ("trace1-3", "scene")]
    others = [(f"trace{i}-{j}", f"scene{i}") for i in (2, 3) for j in (1, 2, 3) if j == 2 or extend]
    assert names == first + others


def test_elements_of_heterogeneous_rays():
    counts = torch.tensor([2, 0, 3])
    rays = HeterogeneousRayBundle(*ray_bundle(5), camera_ids=torch.tensor([7, 1, 4]), camera_counts=counts)
    figure = plot_batch_individually(rays)
    lines = [trace for trace in figure.data if not trace.name.endswith("points")]
    assert [len(trace.x) for trace in lines] == [5, 0, 8]
    np.testing.assert_allclose(
        points(figure.data[-1]).reshape(3, 4, 3),
        (rays.origins[:, None] + rays.lengths[..., None] * rays.directions[:, None])[2:],
        atol=1e-6,
    )


def test_bad_input():
    sphere = ico_sphere(0)
    with pytest.warns(UserWarning, match="No structs to plot"):
        assert plot_batch_individually([]) is None
    with pytest.raises(ValueError, match=r"invalid batch size 2 provided, expected 1 or 3"):
        plot_batch_individually([sphere.extend(2), sphere.extend(3)])
    with pytest.raises(ValueError, match=r"invalid number of subplot titles: expected 2 different ones, got \['a'\]"):
        plot_batch_individually(sphere.extend(2), subplot_titles=["a"])
    with pytest.raises(ValueError, match=r"invalid number of subplot titles: .* got \['a', 'a'\]"):
        plot_batch_individually(sphere.extend(2), subplot_titles=["a", "a"])
    with pytest.raises(ValueError, match=r"is not a Cameras, Meshes, .* object: b is a Tensor"):
        plot_scene({"a": {"b": torch.zeros(3)}})
    with pytest.raises(ValueError, match="plots must hold at least one scene"):
        plot_scene({})
    with pytest.warns(UserWarning, match="plot_scene: ligthing has no effect; known are axis_args, lighting"):
        plot_scene({"a": {"b": sphere}}, ligthing=Lighting())


def test_without_plotly(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(ImportError, match=r'plot_scene needs plotly: pip install "recon_engine\[vis\]"'):
        plot_scene({"a": {"b": ico_sphere(0)}})
