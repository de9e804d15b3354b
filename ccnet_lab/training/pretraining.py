"""Start weights of the miniatures: a ResNet trained on patches of all three generated data sets.

The published networks start from ImageNet; these from a few minutes of telling the classes of
small patches of the training pictures.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from ccnet_lab.data.catalog import IGNORE, get_dataset
from ccnet_lab.data.datasets import open_split
from ccnet_lab.data.generated.worlds import WORLDS
from ccnet_lab.data.transforms import distort_colours, normalise
from ccnet_lab.errors import RunError
from ccnet_lab.files import write_whole
from ccnet_lab.model.resnet import DilatedResNet
from ccnet_lab.model.upsample import upsample
from ccnet_lab.training.schedule import poly_lr

SIDE, BATCH, STEPS, LR = 64, 16, 2000, 0.1
LOG_EVERY = 100  # steps
EVERY = 4  # pixels from one labelled pixel of a patch to the next
Pictures = list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]


def read_pictures(data: Path) -> tuple[Pictures, int]:
    """The training pictures (H, W, 3) with labels (H, W), numbered through all data sets; K.

    The classes that only something elsewhere tells count as one: a patch can't show it.
    """
    pictures: Pictures = []
    first = 0
    for key, world in WORLDS.items():
        names = get_dataset(key).class_names
        one = names.index(world.long_range[0])
        numbers = np.full(256, IGNORE, np.uint8)
        numbers[: len(names)] = [
            first + (one if name in world.long_range else k) for k, name in enumerate(names)
        ]
        split = open_split(get_dataset(key), data)
        for n in range(len(split)):
            sample = split.read(n)
            pictures.append((sample.image, numbers[sample.labels]))
        first += len(names)
    return pictures, first


def patches(pictures: Pictures, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A batch (B, 3, 64, 64), normalised, and labels (B, 16, 16) of every fourth pixel."""
    images = np.zeros((BATCH, SIDE, SIDE, 3), np.uint8)
    targets = np.zeros((BATCH, SIDE // EVERY, SIDE // EVERY), np.int64)
    for n, k in enumerate(rng.integers(len(pictures), size=BATCH)):
        image, labels = pictures[k]
        top = int(rng.integers(labels.shape[0] - SIDE + 1))
        left = int(rng.integers(labels.shape[1] - SIDE + 1))
        part = np.s_[top : top + SIDE, left : left + SIDE]
        turn = 1 if rng.random() < 0.5 else -1
        images[n] = distort_colours(np.ascontiguousarray(image[part][:, ::turn]), rng)
        targets[n] = labels[part][:, ::turn][EVERY // 2 :: EVERY, EVERY // 2 :: EVERY]
    return normalise(images), torch.from_numpy(targets)


def pretrain(
    depth: int,
    divisor: int,
    data: Path,
    path: Path,
    steps: int = STEPS,
) -> None:
    """Train a ResNet at output stride 16 and write its weights to `path` and a log beside it.

    On one core and from one seed, so that it comes out the same; a file that is there is kept.
    """
    if path.exists():
        return
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    pictures, classes = read_pictures(data)
    backbone = DilatedResNet(depth, 16, divisor)
    head = nn.Conv2d(backbone.channels[1], classes, 1)
    model = nn.ModuleList([backbone, head]).train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), LR, momentum=0.9, weight_decay=5e-4)
    log, total = path.with_suffix(".jsonl"), 0.0
    path.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("", encoding="utf-8")
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = poly_lr(step, steps, LR)
        images, targets = patches(pictures, rng)
        logits = upsample(head(backbone(images).stage4), targets.shape[1:])
        loss = F.cross_entropy(logits, targets, ignore_index=IGNORE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
        if (step + 1) % LOG_EVERY == 0:
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step + 1, "loss": total / LOG_EVERY}) + "\n")
            total = 0.0
    state = {name: value.contiguous() for name, value in backbone.state_dict().items()}
    write_whole(path, lambda temporary: save_file(state, temporary), RunError)


if __name__ == "__main__":  # in a process of its own: DEPTH DIVISOR DATA PATH STEPS
    torch.set_num_threads(1)
    depth, divisor, data, path, steps = sys.argv[1:]
    pretrain(int(depth), int(divisor), Path(data), Path(path), int(steps))
