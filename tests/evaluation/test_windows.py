"""evaluation/predict.py: memory of windows over an image; the rest is in test_evaluate.py."""

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ccnet_lab.evaluation.predict import _slide
from ccnet_lab.evaluation.protocol import Protocol
from ccnet_lab.model.ccnet import Segmentation

CLASSES, SIDE = 50, 256


class Memory(TorchDispatchMode):
    """The most bytes that tensors made within it hold at one time."""

    def __init__(self):
        super().__init__()
        self.peak, self.held = 0, {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.held = {ref: size for ref, size in self.held.items() if not ref.expired()}
        storages = [
            leaf.untyped_storage() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)
        ]
        self.held |= {StorageWeakRef(storage): storage.nbytes() for storage in storages}
        self.peak = max(self.peak, sum(self.held.values()))
        return out


class Network(nn.Module):
    def forward(self, images, recurrence=None):
        return Segmentation(
            images.mean(1, keepdim=True)[:, :, ::4, ::4].expand(-1, CLASSES, -1, -1).contiguous()
        )


@torch.inference_mode()
def test_windows_are_not_held_together():
    image = torch.randn(1, 3, SIDE, SIDE)
    protocol = Protocol(
        dataset="any",
        split="val",
        images=1,
        resize=(SIDE, SIDE),
        mode="slide",
        window=(32, 32),
        stride=(16, 16),
    )
    with Memory() as memory:
        _slide(Network(), image, protocol)
    answer, windows = (
        4 * CLASSES * SIDE * SIDE,
        15 * 15 * 4 * CLASSES * 32 * 32,
    )  # bytes; all windows' logits are 3.5 times the answer's
    assert windows > 3 * answer
    assert memory.peak < 1.2 * answer
