"""One training step on its device: losses, gradients, a step of the optimiser; it never waits for a GPU. Runs and logs are loop.py's."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccnet_lab.configs import Config
from ccnet_lab.data.batches import Batch
from ccnet_lab.data.catalog import IGNORE
from ccnet_lab.model.ccnet import CCNet
from ccnet_lab.training.distributed import Processes
from ccnet_lab.training.loss import Loss, segmentation_loss
from ccnet_lab.training.schedule import build_optimizer


class Stepper:
    """A network in training, with its optimiser.

    Args:
        model: on the group's device, channels-last; it stays as it is, so that it can be scored and stored between two steps.
        config: of the model.
        group: the processes that share a batch.
        bf16: whether under bfloat16 autocast. The losses are float32 in any case.
        compiled: whether network and losses run under torch.compile, as one program; the first step then takes minutes.
        accumulate: micro-batches per step.
        class_weights: (K,) of the loss; None for equal ones.

    Attributes:
        wrapped: the model, exchanging gradients where there are several processes.
        optimizer: of the model's parameters.
        confusion: (K * K + 1,) counts on the feature grid since it was last zeroed, the last for ignored cells.
    """

    def __init__(
        self,
        model: CCNet,
        config: Config,
        group: Processes,
        *,
        bf16: bool = False,
        compiled: bool = False,
        accumulate: int = 1,
        class_weights: Tensor | None = None,
    ) -> None:
        self.model, self.config, self.group, self.accumulate = model, config, group, accumulate
        self.bf16, self.class_weights = bf16, class_weights
        self.wrapped = group.wrap(model).train()
        self.optimizer = build_optimizer(model, config)
        self.confusion = torch.zeros(config.num_classes**2 + 1, dtype=torch.long, device=group.device)
        self._forward = _compiled(_losses) if compiled else _losses

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """One step on this process's share of a batch: its losses (3,) total, main, aux; the gradients' norm. Both are on the device."""
        config, group = self.config, self.group
        labels = batch.labels.to(group.device, non_blocking=True).long()  # (B, H, W)
        labelled = (labels != IGNORE).sum(dim=(1, 2)).float()  # (B,)
        everywhere = group.total(labelled.sum()).clamp(min=1)
        losses = torch.zeros(3, device=group.device)
        micro_batch = len(labels) // self.accumulate
        self.optimizer.zero_grad(set_to_none=True)
        for part in range(self.accumulate):
            mine = slice(part * micro_batch, (part + 1) * micro_batch)
            images = batch.normalised(mine, group.device)  # (b, 3, H, W)
            # A pixel weighs the same wherever it is computed; DistributedDataParallel averages over the processes, hence the factor.
            share = labelled[mine].sum() / everywhere
            with self._synchronised(part == self.accumulate - 1):
                loss, logits = self._forward(self.wrapped, images, labels[mine], config, self.class_weights, self.bf16)
            (loss.total * (share * group.world)).backward()
            losses += torch.stack(loss[:3]).detach() * share
            self.confusion += _cell_confusion(logits.detach(), labels[mine])
        norm = nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        self.optimizer.step()
        return losses, norm

    def _synchronised(self, last: bool) -> AbstractContextManager[Any]:
        """Gradients are exchanged with the last micro-batch only."""
        return nullcontext() if last or self.group.world == 1 else self.wrapped.no_sync()  # type: ignore[operator]


def _losses(
    network: nn.Module, images: Tensor, labels: Tensor, config: Config, class_weights: Tensor | None, bf16: bool
) -> tuple[Loss, Tensor]:
    """Losses and logits (B, K, h, w) of a micro-batch."""
    with torch.autocast(images.device.type, torch.bfloat16) if bf16 else nullcontext():
        out = network(images)
    loss = segmentation_loss(out, labels, config.aux_weight, IGNORE, class_weights, config.ohem, config.category_loss)
    return loss, out.logits


def _compiled(form: Callable[..., tuple[Loss, Tensor]]) -> Callable[..., tuple[Loss, Tensor]]:
    """`form` under torch.compile, once for the one shape a run has, with eager mode's random numbers."""
    torch.compiler.reset()  # torch bounds the programs it keeps per function, and those of an earlier network count
    return torch.compile(form, dynamic=False, options={"fallback_random": True})


def _cell_confusion(logits: Tensor, labels: Tensor) -> Tensor:
    """(K * K + 1,) counts on the feature grid, the last for ignored cells."""
    classes = logits.shape[1]
    truth = F.interpolate(labels[:, None].float(), size=logits.shape[2:], mode="nearest").long()[:, 0]  # (B, h, w)
    pairs = torch.where(truth == IGNORE, classes**2, truth * classes + logits.argmax(1)).flatten()
    return torch.zeros(classes**2 + 1, dtype=torch.long, device=logits.device).index_add_(0, pairs, torch.ones_like(pairs))
