"""The processes torchrun started: sums over all of them and the wrapped model.

A single process gets the same calls, which then do nothing.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ccnet_lab.device import choose_device
from ccnet_lab.errors import DeviceError

PATIENCE = timedelta(hours=2)  # one process evaluates while the others wait


@dataclass(frozen=True)
class Processes:
    """The processes of a run, and which this one is."""

    rank: int  # of this process
    world: int  # their number
    device: torch.device  # of this process

    @property
    def main(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; all have to call it together."""
        if self.world == 1:
            return flag
        return bool(self.total(torch.tensor(float(flag), device=self.device)).item() > 0)

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.world > 1:
            dist.barrier(device_ids=self._device_ids)

    def wrap(self, model: nn.Module, unused_parameters: bool = False) -> nn.Module:
        """The model with gradients averaged over the processes.

        On CUDA its batch norms are synchronised, too; torch has no such batch norm for CPUs.
        `unused_parameters` says that some parameters get no gradients.
        """
        if self.world == 1:
            return model
        if self.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return DistributedDataParallel(
            model, device_ids=self._device_ids, find_unused_parameters=unused_parameters
        )

    @property
    def _device_ids(self) -> list[int | None] | None:
        return [self.device.index] if self.device.type == "cuda" else None


@contextmanager
def processes(device: str = "auto") -> Iterator[Processes]:
    """Join the processes torchrun started, or be the only one; `device` as in `choose_device`.

    Raises `DeviceError` for a device that isn't there, or more processes than GPUs.
    """
    world, local = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_RANK", 0))
    gpus = torch.cuda.device_count() if world > 1 else 0
    if device != "cpu" and local < gpus:
        torch.cuda.set_device(local)  # before anything is put on "cuda"
    chosen = choose_device(device)
    if world == 1:
        yield Processes(0, 1, chosen)
        return
    if chosen.type == "cuda":
        if local >= gpus:
            started = f"torchrun started more processes than there are GPUs ({gpus})"
            raise DeviceError(f"{started}; lower --nproc_per_node")
        chosen = torch.device("cuda", local)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=PATIENCE)
    group = Processes(dist.get_rank(), world, chosen)
    yield group
    # Only after success: after an error in one process NCCL would wait for the others in vain.
    # It also needs them to leave together.
    if chosen.type == "cuda":
        group.wait()
    dist.destroy_process_group()
