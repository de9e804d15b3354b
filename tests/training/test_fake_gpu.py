"""Steps and predictions with tensors that only say that they are on a GPU: no device is mixed up.

Torch checks devices, shapes and dtypes of such tensors and computes nothing. Its backward pass asks
the driver for a stream, so gradients are put in by hand here.
"""

from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ccnet_lab.configs import get_config
from ccnet_lab.data import transforms
from ccnet_lab.data.batches import Batch
from ccnet_lab.evaluation.predict import _logits, _slide
from ccnet_lab.evaluation.protocol import Protocol
from ccnet_lab.model.ccnet import build_model
from ccnet_lab.model.folding import Folded
from ccnet_lab.model.upsample import upsampled_labels
from ccnet_lab.training.distributed import Processes
from ccnet_lab.training.step import Stepper

GPU = torch.device("cuda", 0)
if torch.cuda.is_available():
    pytest.skip("there is a real GPU", allow_module_level=True)


@pytest.fixture
def on_gpu():
    """Put a network's parameters and buffers on the GPU that isn't there; all else is fake, too."""
    mode = ExitStack()

    def there(tensor):
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=GPU)

    def move(model):
        mode.enter_context(FakeTensorMode(allow_non_fake_inputs=False))
        for module in model.modules():
            for name, parameter in [*module._parameters.items()]:
                if parameter is not None:
                    module._parameters[name] = nn.Parameter(there(parameter))
            for name, buffer in [*module._buffers.items()]:
                if buffer is not None:
                    module._buffers[name] = there(buffer)
        return model

    transforms._mean_and_std.cache_clear()
    with mode:
        yield move
    transforms._mean_and_std.cache_clear()


def network(config):
    """Without values, which nothing here computes with."""
    with torch.device("meta"):
        return build_model(config).to(memory_format=torch.channels_last)


def batch(height, width):
    """As it leaves the workers: on the CPU."""
    sizes = ((2, height, width, 3), torch.uint8), ((2, height, width), torch.uint8)
    return Batch(["a", "b"], *(torch.zeros(s, dtype=d) for s, d in sizes), torch.zeros(2, 4).long())


@pytest.fixture
def gradients(monkeypatch):
    """What `backward` would leave on the parameters."""

    def leave(model):
        def backward(loss):
            assert loss.device == GPU
            for parameter in model.parameters():
                parameter.grad = torch.empty_like(parameter)

        monkeypatch.setattr(torch.Tensor, "backward", backward)

    return leave


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", ["ccnet_resnet50os16_voc", "ccnet_resnet101os8_cityscapes"])
def test_a_training_step(on_gpu, gradients, monkeypatch, name, bf16):
    """In bfloat16 the network's last products are in it; without a GPU torch turns that off."""
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    config = replace(get_config(name), ohem=True, category_loss=0.2)
    model = on_gpu(network(config))
    seen = []
    model.classifier.register_forward_hook(lambda *given: seen.append(given[-1].dtype))
    gradients(model)
    weights = torch.ones(config.num_classes, device=GPU)
    processes = Processes(0, 1, GPU)
    stepper = Stepper(model, config, processes, bf16=bf16, accumulate=2, class_weights=weights)
    for group in stepper.optimizer.param_groups:
        group["fused"], group["foreach"] = False, True  # torch knows no fake form of fused ones
    losses, norm = stepper(batch(64, 96))
    assert losses.device == norm.device == stepper.confusion.device == GPU
    assert losses.shape == (3,)
    assert set(seen) == {torch.bfloat16 if bf16 else torch.float32}
    assert all(
        value.device == GPU for value in stepper.optimizer.state[next(model.parameters())].values()
    )


def test_a_mix_up_is_seen(on_gpu, gradients):
    """Class weights that were left on the CPU."""
    config = get_config("ccnet_resnet50os16_voc")
    model = on_gpu(network(config))
    gradients(model)
    weights = torch.ones(config.num_classes)
    stepper = Stepper(model, config, Processes(0, 1, GPU), class_weights=weights)
    with pytest.raises(RuntimeError, match=r"cuda.*cpu|cpu.*cuda"):
        stepper(batch(64, 64))


@pytest.mark.parametrize(("mode", "fast"), [("whole", False), ("slide", True)])
def test_predictions(on_gpu, mode, fast):
    config = get_config("ccnet_resnet50os8_voc")
    model = network(config)
    model = on_gpu(Folded(model) if fast else model.eval())
    protocol = Protocol(
        dataset="voc",
        split="val",
        images=1,
        mode=mode,
        resize=(128, 96),
        window=(64, 64),
        stride=(48, 48),
    )
    image = torch.empty(1, 3, 96, 128, device=GPU)
    forward = _slide if mode == "slide" else _logits
    with torch.inference_mode():
        labels = upsampled_labels([forward(model, image, protocol)], (99, 131))
    assert (labels.device, labels.shape) == (GPU, (99, 131))
