from __future__ import annotations

import gc

import pytest
import torch

from recon_engine.ops import GraphConv
from recon_engine.ops import graph_conv as module
from recon_engine.ops.graph_conv import gather_scatter, gather_scatter_python
from recon_engine.utils import ico_sphere

directions = pytest.mark.parametrize("directed", [False, True])


def _edges(V, E, device="cpu"):
    """Loops, edges that come twice, vertices without edges."""
    edges = torch.randint(V - 2, (E, 2), device=device)
    edges[1] = edges[0]
    edges[2, 1] = edges[2, 0]
    return edges


@directions
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_plain_torch(directed, dtype, device):
    for V, E, D in ((3, 5, 1), (40, 200, 7), (40, 200, 64), (9, 0, 3)):
        edges = _edges(V, E, device) if E else torch.zeros(0, 2, dtype=torch.int64, device=device)
        x = torch.randn(V, D, dtype=dtype, device=device)
        out = gather_scatter(x, edges, directed)
        assert out.dtype == dtype
        torch.testing.assert_close(out, gather_scatter_python(x, edges, directed))


def test_known_sums(device):
    x = torch.tensor([[1.0], [10], [100]], device=device)
    edges = torch.tensor([[0, 1], [1, 2]], device=device)
    assert gather_scatter(x, edges, True).flatten().tolist() == [10, 100, 0]
    assert gather_scatter(x, edges).flatten().tolist() == [10, 101, 10]


def test_ones_give_the_number_of_neighbours(device):
    sphere = ico_sphere(3, device)
    counts = gather_scatter(torch.ones(len(sphere.verts_packed()), 1, device=device), sphere.edges_packed())
    assert sorted(counts.unique().tolist()) == [5, 6]
    assert (counts == 5).sum() == 12


@directions
def test_gradcheck(directed, device):
    x = torch.randn(7, 3, dtype=torch.float64, device=device, requires_grad=True)
    edges = _edges(7, 11, device)
    assert torch.autograd.gradcheck(lambda a: gather_scatter(a, edges, directed), x)


def test_edges_that_change_are_looked_at_again(device):
    x = torch.tensor([[1.0], [10], [100]], device=device)
    edges = torch.tensor([[0, 1]], device=device)
    assert gather_scatter(x, edges).flatten().tolist() == [10, 1, 0]
    edges[0, 1] = 2
    assert gather_scatter(x, edges).flatten().tolist() == [100, 0, 1]
    assert gather_scatter(torch.cat([x, x]), edges).flatten().tolist() == [100, 0, 1, 0, 0, 0]


def test_lists_of_neighbours_live_as_long_as_the_edges():
    edges = _edges(10, 30)
    gather_scatter(torch.zeros(10, 2), edges)
    first = module._graphs.get(edges)
    gather_scatter(torch.ones(10, 2), edges)
    assert module._graphs.get(edges) is first
    before = len(module._graphs)
    del edges, first
    gc.collect()
    assert len(module._graphs) == before - 1


@pytest.mark.parametrize("threads", [2, 3])
def test_any_number_of_threads_gives_the_same_bits(threads):
    x = torch.randn(30000, 5, requires_grad=True)
    edges = _edges(30000, 100000)
    before = torch.get_num_threads()
    results = []
    for count in (1, threads):
        torch.set_num_threads(count)
        out = gather_scatter(x, edges.clone())
        results.append((out, torch.autograd.grad(out.square().sum(), x)[0]))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@directions
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_layer(directed, dtype, device):
    layer = GraphConv(5, 4, directed=directed).to(device, dtype)
    x, edges = torch.randn(20, 5, dtype=dtype, device=device), _edges(20, 40, device)
    expected = layer.w0(x) + gather_scatter_python(layer.w1(x), edges, directed)
    torch.testing.assert_close(layer(x, edges), expected)
    assert repr(layer) == f"GraphConv(5 -> 4, directed={directed})"
    assert list(layer.state_dict()) == ["w0.weight", "w0.bias", "w1.weight", "w1.bias"]


def test_initial_weights():
    layer = GraphConv(100, 100)
    assert abs(layer.w0.weight.std() - 0.01) < 0.001
    assert (layer.w0.bias == 0).all()
    assert (layer.w1.bias == 0).all()
    zero = GraphConv(3, 2, init="zero")
    assert (zero.w0.weight == 0).all()
    assert (zero.w1.weight == 0).all()
    with pytest.raises(ValueError, match='Invalid GraphConv initialization "xavier"'):
        GraphConv(3, 2, init="xavier")


def test_empty_graph(device):
    x = torch.zeros(0, 3, device=device, requires_grad=True)
    out = GraphConv(3, 2).to(device)(x, torch.zeros(0, 2, dtype=torch.int64, device=device))
    assert out.shape == (0, 2)
    out.sum().backward()
    assert x.grad.shape == (0, 3)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiles(device):
    layer, edges = GraphConv(3, 2).to(device), _edges(9, 12, device)
    x = torch.randn(9, 3, device=device)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x, edges), layer(x, edges))


@pytest.mark.parametrize("f", [gather_scatter, gather_scatter_python])
def test_bad_input(f):
    x, edges = torch.zeros(4, 2), torch.zeros(3, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"input can only have 2 dimensions.*\(4,\)"):
        f(x[:, 0], edges)
    with pytest.raises(ValueError, match="edges can only have 2 dimensions"):
        f(x, edges[0])
    with pytest.raises(ValueError, match=r"edges must be of shape \(num_edges, 2\).*\(3, 1\)"):
        f(x, edges[:, :1])
    with pytest.raises(ValueError, match=r"input has to be floating point.*int64"):
        f(x.long(), edges)
    with pytest.raises(ValueError, match=r"edges has to be of type torch.int64.*int32"):
        f(x, edges.int())


@pytest.mark.parametrize("wrong", [-1, 4])
def test_edges_that_name_no_vertex(wrong):
    with pytest.raises(ValueError, match=f"is {wrong}, which is not one of 4"):
        gather_scatter(torch.zeros(4, 2), torch.tensor([[0, 1], [2, wrong]]))


@directions
@pytest.mark.filterwarnings("ignore")
def test_equals_pytorch3d(directed):
    p3d = pytest.importorskip("pytorch3d.ops.graph_conv", exc_type=ImportError)
    x, edges = torch.randn(50, 6), _edges(50, 150)
    torch.testing.assert_close(gather_scatter(x, edges, directed), p3d.gather_scatter(x, edges, directed))
    theirs = p3d.GraphConv(6, 3, directed=directed)
    ours = GraphConv(6, 3, directed=directed)
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(x, edges), theirs(x, edges))
