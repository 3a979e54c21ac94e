"""CPU threads: they follow torch's setting, change no result, and survive fork and concurrent calls."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from recon_engine import _samples
from recon_engine.ops import sigmoid_alpha_blend
from recon_engine.testing import values_and_grads

OPS = _samples.all_ops()


@pytest.fixture(autouse=True)
def _restore_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _large_blend():
    generator = torch.Generator().manual_seed(0)
    dists = torch.rand(2, 128, 128, 8, generator=generator) * 2 - 1
    return dists, torch.randint(-1, 9, dists.shape, generator=generator), 0.5


def _on_threads(count, function, *inputs):
    torch.set_num_threads(count)
    return values_and_grads(function, *inputs)


@pytest.mark.parametrize("name", sorted(OPS))
def test_thread_count_changes_no_result(name):
    inputs = _samples.sample_inputs(name)
    one, two, five = (_on_threads(n, OPS[name], *inputs) for n in (1, 2, 5))
    torch.testing.assert_close(two, one, rtol=0, atol=0)
    torch.testing.assert_close(five, one, rtol=0, atol=0)


def test_thread_count_changes_no_result_of_a_large_call():
    one, two = (_on_threads(n, sigmoid_alpha_blend, *_large_blend()) for n in (1, 2))
    torch.testing.assert_close(two, one, rtol=0, atol=0)


def test_concurrent_calls():
    inputs = _large_blend()
    torch.set_num_threads(2)
    expected = values_and_grads(sigmoid_alpha_blend, *inputs)
    with ThreadPoolExecutor(4) as pool:
        results = [pool.submit(values_and_grads, sigmoid_alpha_blend, *inputs) for _ in range(16)]
        for result in results:
            torch.testing.assert_close(result.result(timeout=60), expected, rtol=0, atol=0)


# A child that hangs must not hang the tests: each case is a process of its own with a time limit. What the child runs
# besides the op is too small for torch's own threads, which do not survive a fork.
_FORK = """
import multiprocessing, sys
import torch
from recon_engine.ops import sigmoid_alpha_blend

dists = torch.linspace(-1, 1, 128 * 128 * 8).view(1, 128, 128, 8)
faces = torch.zeros_like(dists, dtype=torch.long)

def child(queue):
    torch.set_num_threads(int(sys.argv[2]))
    queue.put(sigmoid_alpha_blend(dists, faces, 0.5)[:, ::16, ::16].tolist())

torch.set_num_threads(2)
if sys.argv[1] == "engine":
    sigmoid_alpha_blend(dists, faces, 0.5)
else:  # only torch's own pool has run in the parent
    torch.randn(1 << 20).exp().sum()
context = multiprocessing.get_context("fork")
queue = context.Queue()
process = context.Process(target=child, args=(queue,), daemon=True)
process.start()
result = queue.get(timeout=20)
process.join(20)
assert result == sigmoid_alpha_blend(dists, faces, 0.5)[:, ::16, ::16].tolist()
print("ok")
"""


@pytest.mark.parametrize("child_threads", [1, 2])
@pytest.mark.parametrize("parent_used", ["engine", "torch"])
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forked_child_computes(parent_used, child_threads):
    command = [sys.executable, "-W", "ignore", "-c", _FORK, parent_used, str(child_threads)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.stdout == "ok\n", result.stderr
