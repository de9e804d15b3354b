"""One training step on its device: losses, gradients, optimiser; it never waits for a GPU.

Runs, logs and checkpoints are in loop.py.
"""

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccnet_lab.configs import Config
from ccnet_lab.data.batches import Batch
from ccnet_lab.data.catalog import IGNORE
from ccnet_lab.device import too_narrow_for_bf16
from ccnet_lab.model.ccnet import CCNet
from ccnet_lab.training.distributed import Processes
from ccnet_lab.training.loss import Loss, segmentation_loss
from ccnet_lab.training.schedule import build_optimizer


class Stepper:
    """A network in training, with its optimiser.

    Args:
        model: on the group's device, channels-last; it can be scored and saved between steps.
        group: the processes that share a batch.
        bf16: whether to use bfloat16 autocast, but for narrow crops on a CPU; the losses are
            float32 in any case.
        compiled: whether network and losses are compiled as one program.
        accumulate: micro-batches per step.
        mean_per_process: whether each process's mean loss is averaged, instead of the mean over
            all labelled pixels of the batch.
        class_weights: (K,) of the loss; None for equal ones.
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
        mean_per_process: bool = False,
        class_weights: Tensor | None = None,
    ) -> None:
        self.model, self.config, self.group, self.accumulate = model, config, group, accumulate
        self.mean_per_process = mean_per_process
        with_losses = _WithLosses(model, config, class_weights, bf16)
        if compiled:
            torch.compiler.reset()  # programs of earlier networks count towards torch's limit
            # one shape, and eager mode's random numbers
            with_losses.compile(dynamic=False, options={"fallback_random": True})
        # The model with its losses, exchanging gradients between processes. Without criss-cross
        # steps the attention gets no gradients.
        self.wrapped = group.wrap(with_losses, unused_parameters=model.recurrence == 0).train()
        self.optimizer = build_optimizer(model, config)
        # Counts on the feature grid since they were last zeroed, the last for ignored cells.
        cells = config.num_classes**2 + 1
        self.confusion = torch.zeros(cells, dtype=torch.long, device=group.device)

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """One step on this process's share of a batch.

        Returns the losses (3,) total, main, aux, and the gradients' norm, both on the device.
        """
        group = self.group
        labels = batch.labels.to(group.device, non_blocking=True).long()  # (B, H, W)
        labelled = (labels != IGNORE).sum(dim=(1, 2)).float()  # (B,)
        everywhere = labelled.sum()
        everywhere = everywhere * group.world if self.mean_per_process else group.total(everywhere)
        everywhere = everywhere.clamp(min=1)
        losses = torch.zeros(3, device=group.device)
        micro_batch = len(labels) // self.accumulate
        self.optimizer.zero_grad(set_to_none=True)
        for number in range(self.accumulate):
            part = slice(number * micro_batch, (number + 1) * micro_batch)
            images = batch.normalised(part, group.device)  # (b, 3, H, W)
            share = labelled[part].sum() / everywhere
            # Gradients are exchanged with the last micro-batch only.
            exchange = number == self.accumulate - 1 or group.world == 1
            with nullcontext() if exchange else self.wrapped.no_sync():  # type: ignore[operator]
                loss, logits = self.wrapped(images, labels[part])
            # DistributedDataParallel averages over the processes, hence the factor.
            (loss.total * (share * group.world)).backward()
            losses += torch.stack(loss[:3]).detach() * share
            self.confusion += _cell_confusion(logits.detach(), labels[part])
        norm = nn.utils.get_total_norm(
            [p.grad for p in self.model.parameters() if p.grad is not None]
        )
        self.optimizer.step()
        return losses, norm


class _WithLosses(nn.Module):
    """A network and its losses as one module, so that they compile to one program."""

    def __init__(
        self, network: CCNet, config: Config, class_weights: Tensor | None, bf16: bool
    ) -> None:
        super().__init__()
        self.network, self.config = network, config
        self.class_weights, self.bf16 = class_weights, bf16

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Loss, Tensor]:
        """Losses and logits (B, K, h, w) of a micro-batch."""
        config, bf16 = self.config, self.bf16 and not too_narrow_for_bf16(images)
        with torch.autocast(images.device.type, torch.bfloat16) if bf16 else nullcontext():
            out = self.network(images)
        weights, more = self.class_weights, (config.ohem, config.category_loss)
        loss = segmentation_loss(out, labels, config.aux_weight, IGNORE, weights, *more)
        return loss, out.logits


def _cell_confusion(logits: Tensor, labels: Tensor) -> Tensor:
    """(K * K + 1,) counts on the feature grid, the last for ignored cells."""
    classes = logits.shape[1]
    cells = F.interpolate(labels[:, None].float(), size=logits.shape[2:], mode="nearest")
    truth = cells[:, 0].long()  # (B, h, w)
    pairs = torch.where(truth == IGNORE, classes**2, truth * classes + logits.argmax(1)).flatten()
    counts = torch.zeros(classes**2 + 1, dtype=torch.long, device=logits.device)
    return counts.index_add_(0, pairs, torch.ones_like(pairs))
