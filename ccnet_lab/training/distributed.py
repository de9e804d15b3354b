"""Several processes: what torchrun started, sums over all, and the wrapped model. One process needs none of it and gets the same calls."""

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
    """rank of this process, world: how many there are, device: this one's."""

    rank: int
    world: int
    device: torch.device

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
        """Whether the flag is set in any process; all have to ask together."""
        return (
            flag
            if self.world == 1
            else bool(self.total(torch.tensor(float(flag), device=self.device)).item() > 0)
        )

    def wait(self) -> None:
        """Until every process is here."""
        if self.world > 1:
            dist.barrier(device_ids=[self.device.index] if self.device.type == "cuda" else None)

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with synchronised batch norms (CUDA only: torch has none for CPUs) and gradients averaged over the processes."""
        if self.world == 1:
            return model
        if self.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        idle = getattr(model, "recurrence", 1) == 0  # then the attention gets no gradients
        devices = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices, find_unused_parameters=idle)


@contextmanager
def processes(device: str = "auto") -> Iterator[Processes]:
    """Join the processes torchrun started, or be the only one; `device` as `choose_device` takes it.

    Raises `DeviceError` where it isn't there, or for more processes than there are GPUs.
    """
    world, local = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_RANK", 0))
    if world > 1 and device != "cpu" and local < torch.cuda.device_count():
        torch.cuda.set_device(local)  # before anything is put on "cuda"
    chosen = choose_device(device)
    if world == 1:
        yield Processes(0, 1, chosen)
        return
    if chosen.type == "cuda":
        chosen = torch.device("cuda", local)
        if chosen.index >= torch.cuda.device_count():
            raise DeviceError(
                f"torchrun started more processes than there are GPUs ({torch.cuda.device_count()}); lower --nproc_per_node"
            )
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=PATIENCE)
    group = Processes(dist.get_rank(), world, chosen)
    yield group
    # Only where all went well: after an error in one process NCCL would wait for the others in vain. It also wants them to leave together.
    if chosen.type == "cuda":
        group.wait()
    dist.destroy_process_group()
