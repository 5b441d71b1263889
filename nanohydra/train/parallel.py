"""Data parallelism under torchrun: every process has the whole model and its share of each batch; gradients are summed.

torchrun only starts processes and sets environment variables. Without a process group of our own nothing would be
exchanged and each process would silently train a model of its own, so the trainer always joins through here.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class World:
    """This process among all that train together."""

    rank: int
    size: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this process writes files and speaks to the person."""
        return self.rank == 0

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Sums each tensor over the processes, in place."""
        if self.size > 1:
            for work in [dist.all_reduce(t, async_op=True) for t in tensors]:
                work.wait()

    def copy_from_main(self, tensors: Iterable[Tensor]) -> None:
        """Overwrites each tensor with the first process's."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), src=0)

    def agree(self, value: float) -> float:
        """The first process's value, for decisions that all must take alike (clocks and signals differ)."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.broadcast(tensor, src=0)
        return float(tensor)


def rank() -> int:
    """The rank that torchrun gave this process; 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


def join(device: str) -> World:
    """The process group that torchrun's variables describe (nccl on GPUs, gloo on CPUs), or a world of one.

    `device` is "auto", "cpu", "cuda" or "cuda:N"; under torchrun each process takes the GPU of its local rank. The group is
    joined once and left when the process ends, so that one process can train several times.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if "RANK" not in os.environ:
        return World(0, 1, torch.device(device))
    if device.startswith("cuda"):
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        atexit.register(dist.destroy_process_group)
    return World(dist.get_rank(), dist.get_world_size(), torch.device(device))
