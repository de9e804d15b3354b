"""What a forward pass of a configuration costs: counted from its shapes and measured on this machine; attention's formulas are in flops.py.

One image, a forward pass without the auxiliary head; a multiplication and an addition are 2 operations. `python -m ccnet_lab.model.costs`
prints the twelve, with `--measure` also measures them (minutes on a CPU) and keeps what it finds for `measured_costs`.
"""

import argparse
import functools
import json
import math
import platform
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ccnet_lab import store
from ccnet_lab.configs import CONFIGS, Config, get_config
from ccnet_lab.errors import DeviceError, LabError
from ccnet_lab.files import write_text
from ccnet_lab.model.ccnet import build_model
from ccnet_lab.model.flops import criss_cross_flops

Size = tuple[int, int]  # (H, W), pixels
_FILE = "measured_costs.json"  # in the store's folder


@dataclass(frozen=True)
class Cost:
    """What a configuration takes by its shapes.

    The formula is larger by 2 R h w (3 d + 2 C), exactly: for the attention the authors count the biases, 2 d + C per cell, and h + w + 1
    entries of d + C terms, where torch computes h + w. For the twelve that is 0.003 to 0.005 %.
    """

    parameters: int  # all that is trained, the auxiliary head included
    formula_flops: (
        float  # by the shapes of the convolutions and the authors' formula of the attention
    )
    counted_flops: float  # of every matrix product and convolution that torch is asked for, counted on a meta device
    size: Size  # of the image


@dataclass(frozen=True)
class Measured:
    """What a forward pass took on a machine, with random weights, float32, one image.

    The memory is that for weights and activations. CUDA: the largest sum that torch had allocated. CPU: by how much the peak of the
    resident set of a fresh process rose from before the network was built to after its first pass.
    """

    name: str  # of the configuration
    seconds: float  # median latency after a pass that warms up
    peak_bytes: int
    size: Size  # of the image
    machine: str  # processor and threads, or the GPU
    torch: str  # its version


def cost(config: str | Config, size: Size | None = None) -> Cost:
    """What a configuration takes for an image of `size` (H, W), by default its crop. Nothing is computed or downloaded.

    Raises:
        UnknownConfigError: no configuration has this name.
    """
    config = get_config(config)
    return _cost(config, size or config.crop_size)


@functools.cache
def _cost(config: Config, size: Size) -> Cost:
    with torch.device("meta"):
        model = build_model(config).eval()
        image = torch.empty(1, 3, *size)
    products: list[int] = []  # of every convolution but the attention's own
    for name, module in model.named_modules():
        if isinstance(
            module, nn.BatchNorm2d
        ):  # no products to count, and on this device most of the time
            module.forward = lambda x: x  # type: ignore[method-assign, assignment]
        elif isinstance(module, nn.Conv2d) and not name.startswith("attention."):
            module.register_forward_hook(
                lambda layer, _, out: products.append(
                    layer.weight.numel() * math.prod(out.shape[2:])
                )
            )
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        h, w = model(image).logits.shape[2:]
    formula = 2 * sum(products) + criss_cross_flops(
        h, w, config.channels, config.query_channels, config.recurrence
    )
    return Cost(
        sum(p.numel() for p in model.parameters()), formula, counter.get_total_flops(), size
    )


def measure(
    config: str | Config, size: Size | None = None, repeats: int = 3, device: str = "cpu"
) -> Measured:
    """Latency and memory of a forward pass here, in a process of its own; they are kept for `measured_costs`.

    The image is of `size` (H, W), by default the configuration's crop; `repeats` passes are timed on `device` ("cpu", "cuda", ...).

    Raises:
        DeviceError: the process ended without an answer: no such device, or not enough memory.
    """
    config = get_config(config)
    size = size or config.crop_size
    words = json.dumps([config.to_dict(), size, repeats, device, torch.get_num_threads()])
    child = [sys.executable, "-c", "from ccnet_lab.model.costs import _child; _child()"]
    process = subprocess.run(child, input=words, capture_output=True, text=True, check=False)
    if process.returncode:
        why = (
            process.stderr.strip().rpartition("\n")[2]
            or "it was killed; perhaps for want of memory"
        )
        raise DeviceError(
            f"{config.name} could not be measured at {size[0]} x {size[1]} pixels on {device!r}: {why}. Try a smaller size, or 'cpu'"
        )
    seconds, peak = json.loads(process.stdout.rpartition("\n")[2])
    found = Measured(config.name, seconds, peak, size, machine(device), torch.__version__)
    _keep(found)
    return found


def measured_costs(device: str = "cpu") -> dict[str, Measured]:
    """What has been measured on this machine with this torch, by name; the newest of each. A file that is damaged counts as empty."""
    here = (machine(device), torch.__version__)
    return {row.name: row for row in _kept() if (row.machine, row.torch) == here}


def machine(device: str = "cpu") -> str:
    """Processor and threads, or the GPU's name: what a measurement belongs to."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s' * (threads > 1)}"


def commit() -> str:
    """The working tree's commit, and whether there are changes to it; "" where there is no git."""
    describe = ["git", "describe", "--always", "--exclude=*", "--dirty= and uncommitted changes"]
    with suppress(OSError):
        return subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip()
    return ""


@functools.cache
def _processor() -> str:
    lines = []
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _child() -> None:
    """Measure what stdin asks for; the answer goes to stdout."""
    values, size, repeats, device, threads = json.loads(sys.stdin.read())
    torch.set_num_threads(threads)
    cuda = torch.device(device).type == "cuda"
    before = _peak_rss()
    model = build_model(Config.from_dict(values)).eval().to(device)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    image = torch.randn(1, 3, *size, device=device).contiguous(memory_format=torch.channels_last)
    seconds, peak = [], 0
    with torch.inference_mode():
        for _ in range(repeats + 1):
            start = time.perf_counter()
            model(image)
            if cuda:
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - start)
            peak = peak or (
                torch.cuda.max_memory_allocated(device) if cuda else _peak_rss() - before
            )
    print(json.dumps([statistics.median(seconds[1:]), peak]), end="")


def _peak_rss() -> int:
    """Bytes of the largest resident set this process has had; 0 where the system doesn't say."""
    status = Path("/proc/self/status")
    if (
        status.is_file()
    ):  # Linux, where getrusage counts what the parent had before it started this process
        return 1024 * int(status.read_text().partition("VmHWM:")[2].split()[0])
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def _kept() -> list[Measured]:
    try:
        rows = json.loads((store.home() / _FILE).read_text(encoding="utf-8"))
        return [
            Measured(
                row["name"],
                float(row["seconds"]),
                int(row["peak_bytes"]),
                (int(h), int(w)),
                row["machine"],
                row["torch"],
            )
            for row in rows
            for h, w in [row["size"]]
        ]
    except (OSError, ValueError, TypeError, KeyError):
        return []


def _keep(found: Measured) -> None:
    others = [
        row
        for row in _kept()
        if (row.name, row.machine, row.torch) != (found.name, found.machine, found.torch)
    ]
    text = json.dumps([asdict(row) for row in [*others, found]], indent=1) + "\n"
    with suppress(LabError, OSError):  # a folder that is shared and only to be read
        store.home().mkdir(parents=True, exist_ok=True)
        write_text(store.home() / _FILE, text, LabError)


def main() -> None:
    """Print the configurations' costs, by default those of the twelve."""
    parser = argparse.ArgumentParser(
        prog="python -m ccnet_lab.model.costs", description="Costs of a forward pass on one image."
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="configurations (default: the twelve)"
    )
    parser.add_argument(
        "--measure",
        action="store_true",
        help="also measure latency and memory here, each in a process of its own",
    )
    parser.add_argument("--repeats", type=int, default=3, help="passes that are timed")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    try:
        print(
            f"{'configuration':34} {'image':>10} {'parameters':>10} {'GFLOP formula':>13} {'counted':>9} {'seconds':>8} {'memory':>9}"
        )
        for name in args.names or CONFIGS:
            found = cost(name)
            here = (
                measure(name, None, args.repeats, args.device)
                if args.measure
                else measured_costs(args.device).get(name)
            )
            row = f"{name:34} {'{} x {}'.format(*found.size):>10} {found.parameters / 1e6:>8.2f} M {found.formula_flops / 1e9:>13.2f} "
            row += f"{found.counted_flops / 1e9:>9.2f} "
            row += (
                f"{here.seconds:>8.3f} {here.peak_bytes / 2**20:>5.0f} MiB"
                if here
                else f"{'-':>8} {'-':>9}"
            )
            print(row, flush=True)
        print(
            f"Measured on {machine(args.device)}, torch {torch.__version__}, float32, random weights."
        )
    except LabError as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
