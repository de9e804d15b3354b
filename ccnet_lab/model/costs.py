"""Operations, bytes, latency and memory: attention by formula, whole networks counted or measured.

Counts are for one image and a forward pass without the auxiliary head; a multiplication and an
addition are 2 operations. `python -m ccnet_lab.model.costs` prints the twelve configurations; with
`--measure` it also measures them on this CPU, in minutes, and stores that for `measured_costs`.
"""

import argparse
import functools
import json
import math
import platform
import re
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from ccnet_lab import store
from ccnet_lab.configs import CONFIGS, Config, get_config
from ccnet_lab.errors import DeviceError, LabError
from ccnet_lab.files import write_text
from ccnet_lab.model.ccnet import build_model

Size = tuple[int, int]  # (H, W), pixels
_FILE = "measured_costs.json"  # in the store's folder


def criss_cross_flops(
    height: int, width: int, channels: int = 512, query_channels: int = 64, recurrence: int = 1
) -> int:
    """Operations of R criss-cross steps on a (1, C, H, W) map, by the authors' formula.

    Counted are the three 1x1 convolutions with their biases and, per pixel, H + W + 1 scores of d
    terms and as many values of C terms, where the op itself needs H + W - 1. Softmax, gamma and
    residual are not counted.

    Source: the authors' answer in github.com/speedinghzl/CCNet/issues/2. At 1x512x97x97: 8.29
    GFLOP, twice that for R = 2.
    """
    return recurrence * _flops(height, width, height + width + 1, channels, query_channels)


def non_local_flops(height: int, width: int, channels: int = 512, query_channels: int = 64) -> int:
    """The same for full (non-local) attention, HW scores per pixel: 108.16 GFLOP at 1x512x97x97.

    The authors publish 108 without a formula; this is theirs with HW in place of H + W + 1.
    """
    return _flops(height, width, height * width, channels, query_channels)


def criss_cross_bytes(height: int, width: int, itemsize: int = 4) -> int:
    """Bytes of one step's attention weights (H, W, H + W): 6.96 MiB at 97x97 in float32."""
    return height * width * (height + width) * itemsize


def non_local_bytes(height: int, width: int, itemsize: int = 4) -> int:
    """Bytes of full attention's weights (HW, HW): 337.7 MiB at 97x97 in float32."""
    return (height * width) ** 2 * itemsize


def _flops(height: int, width: int, reach: int, channels: int, query_channels: int) -> int:
    projections = (channels + 1) * (2 * query_channels + channels)
    return 2 * height * width * (projections + reach * (query_channels + channels))


@dataclass(frozen=True)
class Cost:
    """What a configuration takes by its shapes.

    The formula is larger by 2 R h w (3 d + 2 C), exactly: the authors count biases and h + w + 1
    attention entries, torch none and h + w. For the twelve that is 0.003 to 0.005 %.
    """

    parameters: int  # all that is trained, the auxiliary head included
    formula_flops: float  # by the convolutions' shapes and the authors' formula of the attention
    counted_flops: float  # of the matrix products and convolutions torch runs on a meta device
    size: Size  # of the image


@dataclass(frozen=True)
class Measured:
    """A forward pass on this CPU: random weights, float32, one image of the crop's size."""

    name: str  # of the configuration
    seconds: float  # median latency after a warm-up
    peak_bytes: int  # the rise of a fresh process's resident set by weights and activations
    machine: str  # as in `machine`
    torch: str  # version


@functools.cache
def cost(config: str | Config, size: Size | None = None) -> Cost:
    """The cost of an image of `size` (H, W), by default the configuration's crop.

    Raises:
        ConfigError: no configuration has this name.
    """
    from torch.utils.flop_counter import FlopCounterMode  # and with it Triton

    config = get_config(config)
    size = size or config.crop_size
    with torch.device("meta"):
        model = build_model(config).eval()
        image = torch.empty(1, 3, *size)
    products: list[int] = []  # of every convolution but the attention's

    def count(layer: nn.Module, _: object, out: torch.Tensor) -> None:
        products.append(layer.weight.numel() * math.prod(out.shape[2:]))  # type: ignore[operator, union-attr]

    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):  # no products, and slow on the meta device
            module.forward = lambda x: x  # type: ignore[method-assign, assignment]
        elif isinstance(module, nn.Conv2d) and not name.startswith("attention."):
            module.register_forward_hook(count)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        h, w = model(image).logits.shape[2:]
    attention = criss_cross_flops(h, w, config.channels, config.query_channels, config.recurrence)
    parameters = sum(p.numel() for p in model.parameters())
    return Cost(parameters, 2 * sum(products) + attention, counter.get_total_flops(), size)


def measure(name: str) -> Measured:
    """Time forward passes in a process of its own and store the result for `measured_costs`.

    Raises:
        DeviceError: the process failed, perhaps out of memory.
    """
    code = "from ccnet_lab.model.costs import _child; _child()"
    child = [sys.executable, "-c", code, name, str(torch.get_num_threads())]
    process = subprocess.run(child, capture_output=True, text=True, check=False)
    if process.returncode:
        why = process.stderr.strip().rpartition("\n")[2] or "it was killed, perhaps out of memory"
        raise DeviceError(f"{name} could not be measured: {why}; close other programs, try again")
    seconds, peak = json.loads(process.stdout.rpartition("\n")[2])
    found = Measured(name, seconds, peak, machine(), torch.__version__)
    _store(found)
    return found


def measured_costs() -> dict[str, Measured]:
    """The newest measurements by this machine and torch, by name."""
    here = (machine(), torch.__version__)
    return {row.name: row for row in _stored() if (row.machine, row.torch) == here}


def machine(device: str = "cpu") -> str:
    """Processor and threads, or the GPU's name."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s' * (threads > 1)}"


@functools.cache
def _processor() -> str:
    with suppress(OSError):
        if found := re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text()):
            return found[1].strip()
    return platform.processor() or platform.machine()


def _child() -> None:
    """Measure a configuration by name and number of threads; the answer goes to stdout."""
    config = get_config(sys.argv[1])
    torch.set_num_threads(int(sys.argv[2]))
    before, seconds, peak = _peak_rss(), [], 0
    model = build_model(config).eval()
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    image = torch.randn(1, 3, *config.crop_size).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        for _ in range(4):
            start = time.perf_counter()
            model(image)
            seconds.append(time.perf_counter() - start)
            peak = peak or _peak_rss() - before
    print(json.dumps([statistics.median(seconds[1:]), peak]), end="")


def _peak_rss() -> int:
    """Bytes of this process's peak resident set."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux, where getrusage counts the parent's memory, too
        return 1024 * int(status.read_text().partition("VmHWM:")[2].split()[0])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _stored() -> list[Measured]:
    """All that was stored; nothing if the file is damaged."""
    try:
        rows = json.loads((store.home() / _FILE).read_text(encoding="utf-8"))
        found = [Measured(**row) for row in rows]
    except (OSError, ValueError, TypeError, RecursionError):
        return []
    kinds = {"name": str, "machine": str, "torch": str, "seconds": float, "peak_bytes": int}
    return [
        row
        for row in found
        if all(type(getattr(row, name)) is kind for name, kind in kinds.items())
        and 0 < row.seconds < 1e9
        and 0 < row.peak_bytes < 1e15
    ]


def _store(found: Measured) -> None:
    key = (found.name, found.machine, found.torch)
    rows = [row for row in _stored() if (row.name, row.machine, row.torch) != key]
    text = json.dumps([asdict(row) for row in [*rows, found]], indent=1) + "\n"
    with suppress(LabError, OSError):  # a shared folder may be read-only
        store.home().mkdir(parents=True, exist_ok=True)
        write_text(store.home() / _FILE, text, LabError)


def main() -> None:
    """Print the costs of configurations, by default of the twelve."""
    parser = argparse.ArgumentParser(
        prog="python -m ccnet_lab.model.costs", description="Costs of a forward pass on one image."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="by default the twelve")
    parser.add_argument("--measure", action="store_true", help="also latency and memory here")
    args = parser.parse_args()
    line = "{:34} {:>10} {:>10} {:>13} {:>9} {:>8} {:>9}"
    head = "configuration", "image", "parameters", "GFLOP formula", "counted", "seconds", "memory"
    print(line.format(*head))
    try:
        for name in args.names or CONFIGS:
            found = cost(name)
            here = measure(name) if args.measure else measured_costs().get(name)
            row = [name, "{} x {}".format(*found.size), f"{found.parameters / 1e6:.2f} M"]
            row += [f"{flops / 1e9:.2f}" for flops in (found.formula_flops, found.counted_flops)]
            row += [f"{here.seconds:.3f}", f"{here.peak_bytes / 2**20:.0f} MiB"] if here else "--"
            print(line.format(*row), flush=True)
    except LabError as error:
        parser.exit(2, f"error: {error}\n")
    print(f"Measured on {machine()}, torch {torch.__version__}, float32, random weights.")


if __name__ == "__main__":
    main()
