"""`recon view` in a headless Chromium: the page loads, the mesh is there, and it changes with its file."""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import recon_engine
from recon_engine import cli
from recon_engine.io import IO
from recon_engine.renderer import TexturesVertex
from recon_engine.structures import Meshes, Pointclouds, Volumes
from recon_engine.utils import ico_sphere

CAMERA = (184 / 255, 64 / 255, 42 / 255)
RED, GREEN, BLUE = (0.9, 0.05, 0.05), (0.05, 0.9, 0.05), (0.05, 0.05, 0.9)


chromium = runpy.run_path(str(Path(__file__).with_name("chromium.py")))
PATIENCE, Page, find_chromium, wait_for = (chromium[n] for n in ("PATIENCE", "Page", "find_chromium", "wait_for"))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    pytest.importorskip("viser")
    pytest.importorskip("PIL")
    if find_chromium() is None:
        pytest.skip("there is no Chromium on this machine")
    page = Page(tmp_path_factory.mktemp("chromium"))
    yield page
    page.close()


@pytest.fixture
def view():
    """Runs `recon view` and gives the address it prints."""
    running = []

    def start(*arguments):
        code = (
            f"import sys; from recon_engine.cli import main; sys.exit(main(['view', *{[str(a) for a in arguments]}]))"
        )
        environment = {**os.environ, "PYTHONPATH": str(Path(recon_engine.__file__).parents[1])}
        environment.pop("DISPLAY", None)
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.PIPE, text=True, env=environment
        )
        running.append(process)
        lines = iter(process.stdout.readline, "")
        url = next(match[1] for line in lines if (match := re.match(r"page: (http://\S+)", line)))
        return url, process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def colored_ball(color, radius=1.0):
    ball = ico_sphere(2).scale_verts(radius)
    return Meshes(ball.verts_list(), ball.faces_list(), TexturesVertex([torch.tensor(color).expand(162, 3)]))


def test_a_mesh_is_there_and_changes_with_its_file(page, view, tmp_path):
    file = tmp_path / "ball.ply"
    IO().save_mesh(colored_ball(RED), file)
    url, process = view(file, "--port", "8190")
    page.open(url)
    wait_for(lambda: page.share(RED) > 0.1)
    assert page.share(GREEN) < 0.01
    assert "ball: 162 vertices, 320 faces" in page.text()
    picture = page.picture()
    white = (picture.min(-1) > 240).mean()
    assert 0.2 < white < 0.9  # the ball does not fill the page

    IO().save_mesh(colored_ball(GREEN), tmp_path / "new.ply")
    (tmp_path / "new.ply").replace(file)
    wait_for(lambda: page.share(GREEN) > 0.1)
    assert page.share(RED) < 0.01
    assert page.errors == []
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 0


def test_points_volumes_and_a_run_that_begins_later(page, view, tmp_path):
    from recon_engine.methods._live import Live
    from recon_engine.methods._run import History

    url, _ = view(tmp_path / "run", "--port", "8191")
    page.open(url)
    wait_for(lambda: "waiting for run to begin" in page.text())
    history = History(["loss"], [1.0], 40)
    history.total([lambda: torch.tensor(0.25)])
    Live(tmp_path / "run.live", 40).show(ico_sphere(2), history)
    wait_for(lambda: "running: step 1 of 40" in page.text())
    assert "loss 0.25" in page.text()
    wait_for(lambda: (page.picture().min(-1) < 225).mean() > 0.1)
    assert page.errors == []


def test_running_poses_and_alignments(page, view, tmp_path):
    """The object with the cameras that are moved; then, in the same page, shapes that are moved onto others."""
    from recon_engine.methods import align, pose
    from recon_engine.methods.shapes import building

    url, _ = view(tmp_path / "run", "--port", "8194")
    page.open(url)
    wait_for(lambda: "waiting for run to begin" in page.text())
    settings = pose.pose_settings(fast=True, image_size=16, iterations=2, spacing=60.0)
    pose.from_mesh(building(colors=True), settings, live=tmp_path / "run.live")
    wait_for(lambda: "running: step 1 of 22" in page.text())
    wait_for(lambda: page.share(CAMERA) > 2e-4)
    assert re.search(r"object: [\d,]+ vertices", page.text())
    assert re.search(r"moved: [2-6] cameras", page.text())
    assert (page.picture().min(-1) < 225).mean() > 0.02

    (tmp_path / "run.live").unlink()
    shapes = align.built_in()
    settings = align.align_settings(fast=True, iterations=2)
    align.from_shapes(shapes, settings, live=tmp_path / "run.live")
    for name in ("moved meshes", "target meshes"):
        wait_for(lambda: f"{name}: {sum(map(len, shapes.verts)):,} vertices" in page.text())  # noqa: B023
    wait_for(lambda: page.share(CAMERA) < 1e-5)
    assert page.errors == []


def test_several_kinds_in_one_page(view_scene, page):
    """Points, the surface of a volume, and cameras: each is drawn."""
    url = view_scene
    page.open(url)
    wait_for(lambda: page.share(BLUE) > 0.01)
    wait_for(lambda: page.share(RED) > 0.01)
    assert "3 cameras" in page.text()
    assert "12 x 12 x 12 voxels" in page.text()
    assert page.errors == []


@pytest.fixture
def view_scene(view, tmp_path):
    points = 0.4 * torch.nn.functional.normalize(torch.randn(3000, 3), dim=1) + torch.tensor([1.0, 0, 0])
    blue = torch.tensor(BLUE).expand(3000, 3)
    IO().save_pointcloud(Pointclouds([points], features=[blue]), tmp_path / "cloud.ply")
    axis = torch.linspace(-1, 1, 12)
    places = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"))
    densities = (0.5 + 2 * (0.7 - places.norm(dim=0))).clamp(0, 1)[None]
    torch.save(
        {
            "densities": densities.half(),
            "colors": torch.tensor(RED)[:, None, None, None].expand(3, 12, 12, 12).half(),
            "voxel_size": 0.1,
            "center": [-0.5, 0.0, 0.0],
        },
        tmp_path / "volume.pt",
    )
    (tmp_path / "run").mkdir()
    cameras = [{"R": torch.eye(3).tolist(), "T": [0.2 * i, 0.0, 3.0], "fov": 40.0} for i in range(3)]
    (tmp_path / "run/metrics.json").write_text(json.dumps({"cameras": cameras}))
    return view(tmp_path / "cloud.ply", tmp_path / "volume.pt", tmp_path / "run", "--port", "8192")[0]


def test_viewer_in_a_program(tmp_path):
    pytest.importorskip("viser")
    code = (
        "import sys; from recon_engine.viewer import Viewer\n"
        "with Viewer(sys.argv[1], port=8193) as viewer:\n"
        "    assert not viewer.update()\n"
        "    viewer.follow(0.1)\n"
        "    viewer._wires.value = True; viewer._draw()\n"
        "    print(list(viewer.scene.things), viewer.url.startswith('http://localhost:'))\n"
    )
    IO().save_mesh(colored_ball(RED), tmp_path / "ball.ply")
    environment = {**os.environ, "PYTHONPATH": str(Path(recon_engine.__file__).parents[1])}
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "ball.ply")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment)
    assert "['ball'] True" in done.stdout, done.stderr


def test_over_ssh_the_line_that_brings_the_port_is_printed(tmp_path, capsys, monkeypatch):
    pytest.importorskip("tyro")
    from recon_engine import viewer

    class Closed:
        """A viewer whose user presses Ctrl-C at once."""

        url = "http://localhost:8080"
        server = type("Server", (), {"get_port": staticmethod(lambda: 8080)})

        def __init__(self, *paths, host, port):
            assert (paths, host, port) == ((tmp_path / "a.ply", tmp_path / "run"), "127.0.0.1", 8080)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def follow(self):
            raise KeyboardInterrupt

    monkeypatch.setattr(viewer, "Viewer", Closed)
    monkeypatch.setenv("SSH_CONNECTION", "1.2.3.4 5 6.7.8.9 22")
    assert cli.main(["view", str(tmp_path / "a.ply"), str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert "page: http://localhost:8080\n" in printed
    assert "ssh -L 8080:localhost:8080 " in printed
    opened = []
    monkeypatch.delenv("SSH_CONNECTION")
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr("webbrowser.open", opened.append)
    cli.main(["view", str(tmp_path / "a.ply"), str(tmp_path / "run")])
    cli.main(["view", str(tmp_path / "a.ply"), str(tmp_path / "run"), "--no-browser"])
    assert opened == [Closed.url]


def test_bad_input(tmp_path, capsys, monkeypatch):
    pytest.importorskip("tyro")
    pytest.importorskip("viser")
    assert cli.main(["view", str(tmp_path / "nothing.obj")]) == 2
    assert "there is no file, results folder or run" in capsys.readouterr().err
    assert cli.main(["view", str(tmp_path / "no" / "such" / "run")]) == 2
    assert cli.main(["view", str(tmp_path), "--port", "70000"]) == 2
    assert "--port must be from 0 to 65535" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "viser", None)
    assert cli.main(["view", str(tmp_path)]) == 2
    assert 'pip install "recon_engine[view]"' in capsys.readouterr().err


def test_cameras_stand_where_they_are_and_look_where_they_look():
    from recon_engine.renderer import FoVPerspectiveCameras, look_at_view_transform
    from recon_engine.transforms import quaternion_to_matrix
    from recon_engine.viewer.server import opencv_pose

    R, T = look_at_view_transform(3.0, 25.0, 70.0)
    cameras = FoVPerspectiveCameras(R=R, T=T)
    wxyz, position = opencv_pose(cameras)[0]
    torch.testing.assert_close(torch.from_numpy(position), cameras.get_camera_center()[0], rtol=0, atol=1e-6)
    right, down, forward = quaternion_to_matrix(torch.from_numpy(wxyz)).T
    torch.testing.assert_close(forward, -cameras.get_camera_center()[0] / 3.0, rtol=0, atol=1e-6)
    assert float(down[1]) < 0  # the camera's down points down in the world
    torch.testing.assert_close(torch.linalg.cross(right, down), forward, rtol=0, atol=1e-6)


def test_textures_reach_the_page():
    pytest.importorskip("trimesh")
    pytest.importorskip("PIL")
    from recon_engine.renderer import TexturesAtlas, TexturesUV
    from recon_engine.viewer.server import textured

    sphere = ico_sphere(1)
    verts, faces = sphere.verts_packed() * 3 + 1, sphere.faces_packed()
    image = torch.rand(1, 8, 8, 3)
    uvs = torch.rand(len(verts), 2)
    mesh = textured(Meshes([verts], [faces], TexturesUV(image, [faces], [uvs])))
    torch.testing.assert_close(torch.tensor(mesh.vertices).float().reshape(-1, 3, 3), verts[faces])
    torch.testing.assert_close(torch.tensor(np.asarray(mesh.visual.uv)).float(), uvs[faces].reshape(-1, 2))
    assert mesh.visual.material.baseColorTexture.size == (8, 8)
    outward = torch.tensor(mesh.vertex_normals).float() * (verts[faces].reshape(-1, 3) - 1)
    assert (outward.sum(1) > 2.5).all()

    atlas = torch.rand(len(faces), 1, 1, 3)
    mesh = textured(Meshes([verts], [faces], TexturesAtlas([atlas])))
    colors = torch.tensor(np.asarray(mesh.visual.vertex_attributes["color"]))[:, :3].reshape(-1, 3, 3) / 255
    torch.testing.assert_close(colors, atlas.reshape(-1, 1, 3).expand(-1, 3, -1) ** 2.2, rtol=0, atol=0.01)


def test_what_the_panel_says():
    from recon_engine.viewer.scene import Scene
    from recon_engine.viewer.server import described, merged

    volumes = Volumes(torch.zeros(1, 1, 3, 4, 5))
    scene = merged(
        ["a", "b"], [Scene({"a": ico_sphere(0), "x": volumes}), Scene({"x": ico_sphere(0)}, 3, 9, 0.5, True)]
    )
    assert list(scene.things) == ["a", "a x", "b x"]
    text = described(scene)
    for part in ("running: step 3 of 9", "loss 0.5", "**a**: 12 vertices, 20 faces", "3 x 4 x 5 voxels"):
        assert part in text
    assert described(merged(["a", "b"], [None, None])) == ""
