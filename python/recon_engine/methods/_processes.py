"""Fits that several processes share: who they are, what they agree on, and what only the first of them does."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

_Value = TypeVar("_Value")

_PATIENCE = timedelta(days=1)  # for a process that works while the others wait; one that died is noticed at once


class PeerError(ConnectionError):
    """Another process failed, and says why; this one cannot go on without it."""


class Processes:
    """The processes that share one fit: those of torch.distributed's group, or this one alone.

    Every method is called by all of them, in the same order.

    Args:
        distributed: all processes of the group; it must have been made.

    Attributes:
        rank: the number of this process, counted from 0.
        count: how many there are.

    Raises:
        ValueError: there is no group.

    Example:
        >>> alone = Processes()
        >>> alone.count, alone.any(False), alone.gather("x"), alone.first(lambda: 3)
        (1, False, ['x'], 3)
    """

    def __init__(self, distributed: bool = False) -> None:
        if distributed and not (dist.is_available() and dist.is_initialized()):
            raise ValueError("distributed needs torch.distributed.init_process_group first, under torchrun")
        self.rank = dist.get_rank() if distributed else 0
        self.count = dist.get_world_size() if distributed else 1
        # What processes say to each other goes from host to host: no step waits for a GPU because of it.
        self._talk = dist.new_group(backend="gloo", timeout=_PATIENCE) if self.count > 1 else None

    @property
    def is_first(self) -> bool:
        """Whether this process speaks for all: it shows progress and writes files."""
        return self.rank == 0

    def own_seed(self, seed: int) -> int:
        """A seed for what shall differ between processes; `seed` itself where there is only one."""
        return (seed * self.count + self.rank) % 2**64

    def part(self, items: Tensor) -> Tensor:
        """This process's share of items (N, ...): equally many for each, so that means of means are means.

        Where N is no multiple of the number of processes, some items are in two shares.
        """
        size = -(-len(items) // self.count)
        return items[(self.rank * size + torch.arange(size, device=items.device)) % len(items)]

    def averaged(self, step: torch.nn.Module) -> torch.nn.Module:
        """The module, which computes a whole step, with gradients that are means over the processes.

        The parameters of the first process become those of all.
        """
        if self.count == 1:
            return step
        with _peers():
            return DistributedDataParallel(step, gradient_as_bucket_view=True)

    def average_(self, values: Tensor) -> None:
        """Replace values by their means over the processes."""
        if self.count > 1:
            with _peers():
                dist.all_reduce(values)
            values /= self.count

    def backward(self, loss: Tensor) -> None:
        """`loss.backward()` of an `averaged` step.

        Raises:
            PeerError: another process failed.
        """
        with _peers() if self.count > 1 else contextlib.nullcontext():
            loss.backward()

    def any(self, flag: bool) -> bool:
        """Whether the flag of any process is set.

        Raises:
            PeerError: another process failed.
        """
        if self.count == 1:
            return flag
        flags = torch.tensor([flag], dtype=torch.uint8)
        with _peers():
            dist.all_reduce(flags, dist.ReduceOp.MAX, self._talk)
        return bool(flags)

    def gather(self, value: _Value) -> list[_Value]:
        """The values of all processes in their order.

        Raises:
            PeerError: another process failed.
        """
        if self.count == 1:
            return [value]
        values: list[_Value | None] = [None] * self.count
        with _peers():
            dist.all_gather_object(values, value, self._talk)
        return values  # type: ignore[return-value]

    def first(self, work: Callable[[], _Value]) -> _Value:
        """What `work` returns, which the first process does while the others wait.

        Raises:
            Exception: what `work` raised, in the first process.
            PeerError: the same, in the others.
        """
        if self.count == 1:
            return work()
        done: list[_Value | None] = [None]
        error: BaseException | None = None
        if self.is_first:
            try:
                done = [work()]
            except BaseException as raised:
                error = raised
        failed = self.any(error is not None)
        if error is not None:
            raise error
        if failed:
            raise PeerError("the first process failed")
        with _peers():
            dist.broadcast_object_list(done, 0, self._talk)
        return done[0]  # type: ignore[return-value]


@contextlib.contextmanager
def _peers() -> Iterator[None]:
    """Errors of the connection to other processes as a `PeerError`: they end because another one did."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise PeerError(f"another process failed: {str(error).splitlines()[0]}") from error
        raise


def processes_started() -> int:
    """How many processes torchrun, or another launcher with its environment variables, has started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def own_device(device: str) -> str:
    """`cuda` as the GPU that belongs to this process among those on its machine; other devices as they are.

    Raises:
        ValueError: there are more processes than GPUs on this machine.
    """
    if device != "cuda" or processes_started() == 1:
        return device
    number, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= there:
        raise ValueError(f"--device cuda needs a GPU for each process, got {there}: start fewer")
    return f"cuda:{number}"


@contextlib.contextmanager
def joined(device: str) -> Iterator[Processes]:
    """All processes that were started, as a group, until the end; or this one alone.

    Args:
        device: of this process, as from `own_device`.
    """
    if processes_started() == 1:
        yield Processes()
        return
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    yield Processes(distributed=True)
    # After an error the group is left as it is: taking it down would wait for processes that do not come. What uses it
    # goes first: DistributedDataParallel, which is in a cycle with its step, must not be the last to let go of it. That
    # would wait, with Python's lock, for threads that want the lock (seen with torch 2.4).
    gc.collect()
    dist.destroy_process_group()
