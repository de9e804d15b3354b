"""Devices, precision, TF32 and running out of memory: asked here and nowhere else."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ccnet_lab.errors import ConfigError, DeviceError, LabError


def choose_device(device: str | torch.device) -> torch.device:
    """The device "cpu", "cuda", "cuda:1" and so on, or "auto": CUDA where there is one.

    Raises:
        DeviceError: the device cannot be used here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise DeviceError(
            f"device {str(device)!r} cannot be used here ({reason}); "
            "use --device cpu (in Python, 'cpu')"
        ) from None
    return torch.device(device)


def has_bf16(device: torch.device) -> bool:
    """Whether the device has bfloat16 units; elsewhere bfloat16 is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )


def too_narrow_for_bf16(images: torch.Tensor) -> bool:
    """Whether (B, 3, H, W) are so narrow that a CPU's bfloat16 convolutions may give noise.

    On CPUs with AMX, oneDNN's of stride 2 do where the result is one column (torch 2.11); 16 is
    the largest stride of a backbone.
    """
    return images.device.type == "cpu" and min(images.shape[2:]) <= 16


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether "auto", "fp32" or "bf16" means bfloat16 autocast: "auto" where a GPU has units."""
    if precision == "auto":
        return device.type == "cuda" and has_bf16(device)
    return precision == "bf16"


def inference_precision(choice: str, device: torch.device) -> str:
    """A protocol's precision for "fp32", "bf16", "auto" (fp32) or "fast" (bf16 where it pays).

    Raises `ConfigError` for any other.
    """
    known = ("auto", "fp32", "bf16", "fast")
    if choice not in known:
        raise ConfigError(f"precision is {choice!r}; expected one of {', '.join(known)}")
    fast = f"fast {'bf16' if has_bf16(device) else 'fp32'}"
    return {"auto": "fp32", "fast": fast}.get(choice, choice)


@contextmanager
def arithmetic(device: torch.device, precision: str) -> Iterator[None]:
    """TF32 off, and bfloat16 autocast if the precision ends in "bf16"."""
    switches: tuple[Any, ...] = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = False
        with torch.autocast(device.type, torch.bfloat16, enabled=precision.endswith("bf16")):
            yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


def set_arithmetic(deterministic: bool = False) -> None:
    """TF32 off, as in the published runs; deterministic algorithms by choice."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = not deterministic
    if torch.are_deterministic_algorithms_enabled() != deterministic:  # to ask takes a second
        torch.use_deterministic_algorithms(deterministic)


def out_of_memory(error: Exception) -> bool:
    """Whether an error, but one of this library, says that a GPU's or the machine's memory ran out.

    "/torch_..." is a worker's file in /dev/shm, of which there is less than of memory.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    message, known = str(error).lower(), ("out of memory", "allocate memory", "alloc_failed")
    foreign = not isinstance(error, LabError) and "/torch_" not in message
    return foreign and any(words in message for words in known)
