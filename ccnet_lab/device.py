"""Which device, which precision, TF32, out of memory: asked here and nowhere else. What is computed so is the callers' business."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ccnet_lab.errors import DeviceError, LabError


def choose_device(device: str | torch.device) -> torch.device:
    """The device "cpu", "cuda", "cuda:1", or "auto": CUDA where there is one; raises `DeviceError` where it cannot be used."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise DeviceError(
            f"device {str(device)!r} cannot be used here ({reason}); use 'cpu' (--device cpu)"
        ) from None
    return torch.device(device)


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in units of its own; elsewhere bfloat16 is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether a precision of "auto", "fp32" or "bf16" means bfloat16 autocast on this device."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bf16"


def fast_precision(device: torch.device) -> str:
    """The protocol's precision of fast inference on a device: "fast bf16" where it has units for that, else "fast fp32"."""
    return f"fast {'bf16' if has_bf16(device) else 'fp32'}"


@contextmanager
def arithmetic(device: torch.device, precision: str) -> Iterator[None]:
    """Within it, "bf16" is autocast, "fp32" is float32 with TF32 off, with "fast" before it or not."""
    switches: tuple[Any, ...] = (
        (torch.backends.cudnn, torch.backends.cuda.matmul) if device.type == "cuda" else ()
    )
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
    """TF32 off, as the published runs have it; deterministic algorithms by choice."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = not deterministic
    torch.use_deterministic_algorithms(deterministic)


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, a GPU's or the machine's; not one of ours, which has advice of its own."""
    known = ("out of memory", "allocate memory", "alloc_failed")
    words = (
        "" if "/torch_" in str(error) else str(error).lower()
    )  # of /dev/shm there is less than of memory
    said = isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        word in words for word in known
    )
    return said and not isinstance(error, LabError)
