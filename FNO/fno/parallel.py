"""Data parallel training: one process a GPU under torchrun, or a single one.

    torchrun --nproc_per_node 4 train.py ...

Every process holds all samples and the same weights, and takes an equal share of each batch; gradients and sums are
added over the processes, so that a step is that of a single process up to rounding. The first process alone writes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from .files import UsageError

T = TypeVar("T")


class World:
    """The processes that train together. Without torchrun there is one, and nothing here costs anything."""

    def __init__(self, device: torch.device) -> None:
        """Join the others, with NCCL on GPUs (process k of a machine takes its GPU k) and Gloo on CPUs.

        Raises:
            UsageError: there are fewer GPUs than processes.
        """
        self.size, self.rank, self.device = int(os.environ.get("WORLD_SIZE", 1)), 0, device
        if self.size > 1:
            if device.type == "cuda":
                index, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
                if index >= count:
                    raise UsageError(f"torchrun started more processes than there are GPUs ({count})")
                self.device = torch.device("cuda", index)
                torch.cuda.set_device(self.device)
            # the others wait while the first makes data, which may take long
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=4))
            self.rank = dist.get_rank()

    @property
    def first(self) -> bool:
        """This process writes and speaks."""
        return self.rank == 0

    def share(self, function: Callable[[], T]) -> T:
        """Call a function in the first process and return its result in all.

        Raises:
            Exception: what the function raises; in the other processes a UsageError that says so.
        """
        result: list[Any] = [None, ""]
        try:
            if self.first:
                result[0] = function()
        except Exception as error:
            result[1] = f"in the first process: {error}"
            raise
        finally:
            if self.size > 1:
                dist.broadcast_object_list(result, device=self.device if self.device.type == "cuda" else None)
        if result[1]:
            raise UsageError(result[1])
        return result[0]

    def part(self, rows: Tensor) -> Tensor:
        """This process's share of some rows."""
        return rows[self.rank :: self.size]

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one type by their sums over the processes."""
        if self.size > 1:
            flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
            dist.all_reduce(flat)
            for tensor, total in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
                tensor.copy_(total.view_as(tensor))

    def any(self, flag: bool) -> bool:
        """Tell whether the flag is set in any process."""
        if self.size == 1:
            return flag
        count = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(count)
        return bool(count)

    def close(self) -> None:
        """Leave the others."""
        if self.size > 1:
            dist.destroy_process_group()
