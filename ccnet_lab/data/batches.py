"""Training batches: which samples make step n, and a loader that gives them. How a sample is made is in transforms.py."""

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
from ccnet_lab.errors import ConfigError, DataError, LabError, MemoryShortError

SEVERAL = 4  # GPUs, as in the published setting; 2 and 8 give the same steps per epoch
PATIENCE = 3.0  # seconds that workers are given to end by themselves


class Batch(NamedTuple):
    """Samples as they leave the workers, in bytes; they are normalised where they are trained on."""

    names: list[str]  # of the files
    images: Tensor  # (B, H, W, 3) uint8 RGB
    labels: Tensor  # (B, H, W) uint8
    inside: Tensor  # (B, 4) int64: top, bottom, left, right of what is no padding

    def normalised(self, part: slice, device: torch.device) -> Tensor:
        """(b, 3, H, W) float32 on the device: the images of a part of the batch as the network takes them."""
        images, inside = (
            tensor[part].to(device, non_blocking=True) for tensor in (self.images, self.inside)
        )
        return normalise_crops(images, inside)


def steps_per_epoch(images: int, batch_size: int, processes: int = 1) -> int:
    """Whole batches in one pass over the images; what is left over is dropped. Raises `DataError` where there is none, `ConfigError` where
    the processes cannot have as much of a batch each.

    As in the recipe, several processes first repeat images until all have as many: Cityscapes has 371 steps in one and 372 in 2, 4 or 8.

    Source: torch's DistributedSampler with drop_last loaders, as SSSegmentation uses them.
    """
    if images < batch_size:
        raise DataError(
            f"the training split has {images} images, fewer than one batch of {batch_size}; lower --batch-size"
        )
    if batch_size % processes:
        raise ConfigError(
            f"a batch of {batch_size} cannot be shared by {processes} processes; change --batch-size or their number"
        )
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
    """The batches of `steps`, in order; to be closed where they are not read to their end, since the workers live until then.

    A sample depends on the seed, the epoch and its place in the split alone: not on the number of workers or processes, nor on where a run
    was resumed.

    Args:
        split: the files to train on.
        config: gives batch size, crop and resize.
        steps: which steps of the whole run.
        seed: of order, crops, flips and colours.
        rank, world: this process and how many there are; each gets its share of every batch.
        workers: processes that read and transform; 0 does it in this one.
        pinned: whether to put the batches into memory that a GPU copies from without waiting.
        per_epoch: steps of an epoch, by default `steps_per_epoch` for `world` processes.

    Raises:
        DataError, MemoryShortError: a pair cannot be read, or there are fewer images than one batch holds.
    """
    per_epoch = per_epoch or steps_per_epoch(
        len(split), config.batch_size, world
    )  # raises before any worker starts
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
    """What a loader gives, until an error is among it, which is raised; then, or when this is closed, its workers have ended.

    They ignore SIGTERM: kept alive by an exception's traceback, they would let the interpreter wait for them for ever at its end.
    """
    before = multiprocessing.active_children()
    try:
        items = iter(loader)
    except BaseException as error:  # not all could be started
        for worker in set(multiprocessing.active_children()).difference(before):
            worker.kill()
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if isinstance(half_made := frame.f_locals.get("self"), _BaseDataLoaderIter):
                half_made._shutdown = True  # type: ignore[attr-defined]  # else it complains when it goes
        if (
            isinstance(error, OSError) and error.errno == errno.ENOSPC
        ):  # of a semaphore: no other file is made here
            raise MemoryShortError(
                "/dev/shm is full, so no workers start: enlarge it (docker run --shm-size 8g), or --workers 0"
            ) from None
        raise
    workers = getattr(items, "_workers", [])
    try:
        for item in items:
            if isinstance(item, LabError):
                raise item
            yield item
    finally:
        if workers:
            last_resort = threading.Timer(
                PATIENCE, lambda: [worker.kill() for worker in workers]
            )  # one may be stopped, or wait for a disk
            last_resort.daemon = True
            last_resort.start()
            with suppress(RuntimeError):  # torch's, of a worker that is killed only now
                items._shutdown_workers()  # type: ignore[attr-defined]
            for worker in workers:
                worker.join(2 * PATIENCE)
            last_resort.cancel()


def fault(pair: Pair, error: Exception) -> LabError:
    """What is told of an error that came while a pair was read; a loader would bury it in a worker's traceback, here the error's note."""
    again = "then go on with the same command, a training with --resume"
    if isinstance(error, LabError):
        return error
    if isinstance(error, MemoryError):
        return MemoryShortError(
            f"out of memory while {pair.image} and its mask were read; lower --workers or --batch-size, {again}"
        )
    if isinstance(error, OSError):
        what = error.filename or f"{pair.image} or its mask {pair.mask}"
        return DataError(
            f"{what} cannot be read: {error.strerror or error}; look at the file and at the disk it is on, {again}"
        )
    known = DataError(
        f"{pair.image} or its mask {pair.mask} cannot be read ({error!r}); look at the files, {again}"
    )
    known.add_note("".join(traceback.format_exception(error)))
    return known


def shared(value: Any) -> Any:
    """Move the tensors of a worker's nested tuples and lists to where the parent sees them.

    Else a thread of the worker's queue does, which loses what it cannot move, so that the parent waits for ever where /dev/shm is small.
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
    share = batch_size // world
    for epoch, same in groupby(steps, lambda step: step // per_epoch):
        order = np.resize(
            np.random.default_rng([seed, epoch]).permutation(images), per_epoch * batch_size
        )  # the first again at its end
        for step in same:
            first = step % per_epoch * batch_size + rank * share
            yield [(epoch, index) for index in order[first : first + share].tolist()]


class _Samples(Dataset[Any]):
    """(epoch, index) -> name, pixels, labels, inside; or the error, which would lose its words on its way out of a worker."""

    def __init__(self, split: Split, config: Config, seed: int) -> None:
        self.split, self.config, self.seed = split, config, seed

    def __getitem__(self, key: tuple[int, int]) -> Any:
        try:
            sample = read_pair(self.split, key[1])
            rng = np.random.default_rng([self.seed, *key])
            return sample.name, *augment(
                sample.image, sample.labels, rng, self.config.crop_size, self.config.resize
            )
        except Exception as error:
            return fault(self.split.pairs[key[1]], error)


def _collate(samples: list[Any]) -> Batch | LabError:
    if error := next((sample for sample in samples if isinstance(sample, LabError)), None):
        return error
    names, images, labels, inside = zip(*samples, strict=True)
    batch = Batch(
        list(names),
        torch.from_numpy(np.stack(images)),
        torch.from_numpy(np.stack(labels)),
        torch.tensor(inside),
    )
    return cast(Batch, shared(batch))


def leave_signals_to_the_parent(_: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach every process of the group; the parent finishes its step, saves and ends the workers."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
