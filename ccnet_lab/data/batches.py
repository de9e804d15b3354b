"""Training batches: which samples make up step n, and the loader that reads them in workers.

How a sample is made is in transforms.py.
"""

import errno
import multiprocessing
import signal
import threading
import traceback
from collections.abc import Generator, Iterator
from contextlib import suppress
from itertools import groupby
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torch.utils.data.dataloader import _BaseDataLoaderIter

from ccnet_lab.configs import Config
from ccnet_lab.data.cache import read_pair
from ccnet_lab.data.datasets import Pair, Split
from ccnet_lab.data.transforms import augment, normalise_crops
from ccnet_lab.errors import ConfigError, DataError, DeviceError, LabError

SEVERAL = 4  # GPUs, as in the published setting; 2 and 8 give the same steps per epoch
PATIENCE = 3.0  # seconds that workers are given to end by themselves


class Batch(NamedTuple):
    """Samples as they leave the workers."""

    names: list[str]  # of the files
    images: Tensor  # (B, H, W, 3) uint8 RGB
    labels: Tensor  # (B, H, W) uint8
    inside: Tensor  # (B, 4) int64: top, bottom, left, right of what is not padding

    def normalised(self, part: slice, device: torch.device) -> Tensor:
        """(b, 3, H, W) float32 on the device: the network's input for a part of the batch."""
        tensors = (self.images[part], self.inside[part])
        return normalise_crops(*(tensor.to(device, non_blocking=True) for tensor in tensors))


def steps_per_epoch(images: int, batch_size: int, processes: int = 1) -> int:
    """Whole batches in one pass over the images; the remainder is dropped.

    Several processes first repeat images until all have the same number, as torch's
    DistributedSampler does in the recipe: Cityscapes has 371 steps in one process, 372 in 2, 4, 8.

    Raises:
        DataError: there are fewer images than one batch holds.
        ConfigError: the processes cannot have equal shares of a batch.
    """
    if images < batch_size:
        what = f"the training split has {images} images, fewer than one batch of {batch_size}"
        raise DataError(f"{what}; lower --batch-size")
    if batch_size % processes:
        what = f"a batch of {batch_size} cannot be shared by {processes} processes"
        raise ConfigError(f"{what}; change --batch-size or their number")
    return -(-images // processes) // (batch_size // processes)


def training_batches(
    split: Split,
    config: Config,
    steps: range,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    pinned: bool = False,
    per_epoch: int | None = None,
) -> Generator[Batch, None, None]:
    """The batches of `steps`, in order; close it unless you read to the end, to end its workers.

    A sample depends on the seed, the epoch and its place in the split alone: not on the number of
    workers or processes, nor on where a run was resumed.

    Args:
        split, config: what to train on; the batch size, crop and resize.
        steps: which steps of the whole run.
        seed: of order, crops, flips and colours.
        rank, world: this process and how many there are; each gets its share of every batch.
        workers: processes that read and transform; 0 does it in this one.
        pinned: whether to use memory that a GPU copies from without waiting.
        per_epoch: steps of an epoch, by default `steps_per_epoch` for `world` processes.

    Raises:
        DataError, DeviceError: a pair cannot be read, or there is less than one batch.
    """
    per_epoch = per_epoch or steps_per_epoch(len(split), config.batch_size, world)
    loader: DataLoader[Any] = DataLoader(
        _Samples(split, config, seed),
        batch_sampler=_order(len(split), config.batch_size, per_epoch, steps, seed, rank, world),
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pinned,
        prefetch_factor=4 if workers else None,
        worker_init_fn=leave_signals_to_the_parent,
    )
    yield from given(loader)


def given(loader: DataLoader[Any]) -> Generator[Any, None, None]:
    """The loader's items; an item that is an error is raised. At the end its workers have ended:
    kept alive by an exception's traceback, they would make the interpreter wait for ever.
    """
    before = multiprocessing.active_children()
    try:
        items = iter(loader)
    except BaseException as error:  # not all could be started
        for worker in set(multiprocessing.active_children()).difference(before):
            worker.kill()
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if isinstance(half_made := frame.f_locals.get("self"), _BaseDataLoaderIter):
                half_made._shutdown = True  # type: ignore[attr-defined]  # else its __del__ complains
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # for a semaphore
            remedy = "enlarge it (docker run --shm-size 8g), or --workers 0"
            raise DeviceError(f"/dev/shm is full, so no workers start: {remedy}") from None
        raise
    workers = getattr(items, "_workers", [])
    try:
        for item in items:
            if isinstance(item, LabError):
                raise item
            yield item
    finally:
        if workers:
            # one may be stopped, or wait for a disk
            last_resort = threading.Timer(PATIENCE, lambda: [w.kill() for w in workers])
            last_resort.daemon = True
            last_resort.start()
            with suppress(RuntimeError):  # torch's, of a worker that is killed only now
                items._shutdown_workers()  # type: ignore[attr-defined]
            for worker in workers:
                worker.join(2 * PATIENCE)
            last_resort.cancel()


def fault(pair: Pair, error: Exception) -> LabError:
    """The error to raise for one that occurred while a pair was read, with the remedy.

    An unexpected error's traceback, which a loader would bury, becomes its note.
    """
    again = "then continue with the same command, a training with --resume"
    if isinstance(error, LabError):
        return error
    if isinstance(error, MemoryError):
        what = f"out of memory while {pair.image} and its mask were read"
        return DeviceError(f"{what}; lower --workers or --batch-size, {again}")
    what = f"{pair.image} or its mask {pair.mask}"
    if isinstance(error, OSError):
        why = f"{error.filename or what} cannot be read: {error.strerror or error}"
        return DataError(f"{why}; look at the file and at the disk it is on, {again}")
    unexpected = DataError(f"{what} cannot be read ({error!r}); look at the files, {again}")
    unexpected.add_note("".join(traceback.format_exception(error)))
    return unexpected


def shared(value: Any) -> Any:
    """Move the tensors in a worker's nested tuples and lists into shared memory.

    A thread of the worker's queue would lose those it cannot move, and the parent wait for ever.
    """
    if get_worker_info() is not None:
        for part in value if isinstance(value, tuple | list) else ():
            shared(part)
        if isinstance(value, Tensor):
            value.share_memory_()
    return value


def _order(
    images: int, batch_size: int, per_epoch: int, steps: range, seed: int, rank: int, world: int
) -> Iterator[list[tuple[int, int]]]:
    """For each step, this process's (epoch, index) pairs."""
    for epoch, same in groupby(steps, lambda step: step // per_epoch):
        order = np.random.default_rng([seed, epoch]).permutation(images)
        order = np.resize(order, (per_epoch, world, batch_size // world))  # begins again at its end
        for step in same:
            yield [(epoch, index) for index in order[step % per_epoch, rank].tolist()]


class _Samples(Dataset[Any]):
    """(epoch, index) -> name, pixels, labels, inside; or the error, as it should be raised."""

    def __init__(self, split: Split, config: Config, seed: int) -> None:
        self.split, self.config, self.seed = split, config, seed

    def __getitem__(self, key: tuple[int, int]) -> Any:
        try:
            name, image, labels = read_pair(self.split, key[1])
            rng = np.random.default_rng([self.seed, *key])
            return name, *augment(image, labels, rng, self.config.crop_size, self.config.resize)
        except Exception as error:
            return fault(self.split.pairs[key[1]], error)


def _collate(samples: list[Any]) -> Batch | LabError:
    if error := next((sample for sample in samples if isinstance(sample, LabError)), None):
        return error
    names, *arrays, inside = zip(*samples, strict=True)
    images, labels = (torch.from_numpy(np.stack(array)) for array in arrays)
    return cast(Batch, shared(Batch(list(names), images, labels, torch.tensor(inside))))


def leave_signals_to_the_parent(_: int) -> None:
    """Ignore Ctrl-C and SIGTERM in a worker: the parent finishes its step, saves and ends it."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
