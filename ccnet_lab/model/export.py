"""A trained network as one file that runs without this library: a torch.export program or ONNX. Files of weights are in weights.

What is written (deployed.py makes it ready) is read back and compared with the network; only a file that gives the same is kept.
"""

import copy
import importlib
import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ccnet_lab.configs import Config, get_config
from ccnet_lab.data.transforms import normalise
from ccnet_lab.errors import ExportError, MissingPackageError
from ccnet_lab.files import write_whole
from ccnet_lab.model.ccnet import CCNet
from ccnet_lab.model.deployed import Deployed, agreement, describe, enlarged, generated_picture

FORMATS = ("pt2", "onnx")
# The largest difference of a file's logits from the network's in float64. Where float32 can take the logits further, so much is allowed:
# `SLACK` times `_rounding`. Files of five networks, with kernels for AVX2 and AVX-512, were at most 0.17 of that away.
TOLERANCE, SLACK = 1e-4, 3
SIZES = ((97, 161), (128, 96), (75, 75))  # (H, W) of the pictures a file is checked on
OPSETS, OPSET = range(18, 24), 20  # of ONNX; 20 is what torch 2.11 writes of itself
_Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Exported:
    """A file that was written, read back and found to give what the network gives.

    Differences are the largest from the network in float64, which has no part in a CPU's rounding: of logits; for labels, of the network's
    logits of the file's label and of its own.
    """

    path: Path
    bytes: int
    metadata: dict[str, Any]  # what the file says of itself
    differences: dict[tuple[int, int], float]  # by (H, W)
    allowed: float  # what they may be, `TOLERANCE` or more


@torch.no_grad()
def export_model(
    model: CCNet,
    config: str | Config,
    path: str | Path,
    *,
    labels: bool = False,
    int8: bool = False,
    recurrence: int | None = None,
    fixed: tuple[int, int, int] | None = None,
    opset: int = OPSET,
    sizes: Sequence[tuple[int, int]] = SIZES,
    pictures: Sequence[NDArray[np.uint8]] = (),
    source: str | Path | None = None,
) -> Exported:
    """Write a network, in eval mode and float32, to `path`: a torch.export program (`.pt2`) or ONNX (`.onnx`).

    Args:
        model: the network, left as it is; it was built from `config`. opset: of ONNX.
        path: the file; its ending says the format. What is there before stays until the new file is checked.
        labels: (B, H, W, 3) uint8 RGB -> (B, H, W) uint8 labels, with normalising, upsampling and argmax inside; else (B, 3, H, W) float32,
            normalised, -> (B, K, h, w) logits at the backbone's stride.
        int8: whether the convolutions' weights are kept as int8 with a scale per output channel; the arithmetic stays float32.
        recurrence: R; None means what the network was built with.
        fixed: (B, H, W) for runtimes that want one size; None leaves all three open.
        sizes: (H, W) of the generated pictures the file is checked on; with `fixed` that size is taken instead.
        pictures: (H, W, 3) uint8, more to check on; where there are some, the agreement of int8 with float32 is stated on these alone.
        source: the weights' file; its name, sha256 and notes go into the metadata.

    Raises:
        ExportError: an unknown format or opset, a size that is too small, a file that cannot be written, or one that differs from the
            network by more than is allowed; under `path` is then what was there before.
        MissingPackageError: ONNX was asked for and its packages are not installed.
    """
    config, path = get_config(config), Path(path)
    kind, steps = path.suffix[1:].lower(), model.recurrence if recurrence is None else recurrence
    if kind not in FORMATS:
        raise ExportError(
            f"{path.name} ends in {path.suffix!r}; expected .pt2 (a torch.export program) or .onnx"
        )
    if path.is_dir():
        raise ExportError(f"{path} is a folder; give the name of a file in it")
    if opset not in OPSETS or steps < 0:
        raise ExportError(
            f"opset is {opset}, recurrence {steps}; expected {OPSETS[0]} to {OPSETS[-1]}, and 0 or more"
        )
    if kind == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            _package(package)
    eager = copy.deepcopy(model).cpu().float().eval()
    deployed = Deployed(eager, steps, labels)
    smallest = deployed.smallest()
    sizes = sizes if fixed is None else [fixed[1:]] * len(SIZES)
    for size in [*sizes, *(picture.shape[:2] for picture in pictures)]:
        _check_size(tuple(size), fixed, smallest)
    made = [generated_picture(config.dataset, *size, seed) for seed, size in enumerate(sizes)]
    batches = [_batch(picture, 2 if fixed is None else fixed[0]) for picture in [*made, *pictures]]
    logits: _Run = lambda images: eager(images, steps, with_aux=False).logits  # noqa: E731
    metadata = describe(config, deployed, fixed, source)
    network: nn.Module = eager
    if int8:
        deployed.quantise()
        metadata["int8"] = agreement(
            logits, deployed.logits, batches[len(made) :] if pictures else batches
        )
        network = copy.deepcopy(deployed)
        logits = network.logits
    network.double()
    differences: dict[tuple[int, int], float] = {}
    allowed = TOLERANCE

    def write(temporary: Path) -> None:
        nonlocal allowed
        through_file = _through_onnx if kind == "onnx" else _through_pt2
        with warnings.catch_warnings(action="ignore"):  # of torch, about its own exporter
            run = through_file(_capture(deployed, fixed, smallest), temporary, metadata, opset)
            differences.update(_differences(run, logits, batches, labels))
        worst = max(differences.values())
        if not math.isfinite(worst):
            raise ExportError(
                f"the network gives NaN or infinity, so {path.name} was not kept; take an earlier checkpoint"
            )
        if worst > allowed:
            allowed = max(allowed, SLACK * _rounding(logits, batches))
        if worst > allowed:
            raise ExportError(
                f"{path.name} would differ from the network by {worst:.2g}, more than {allowed:.2g}; it was not kept"
            )

    write_whole(path, write, ExportError)
    return Exported(path, path.stat().st_size, metadata, differences, allowed)


def _batch(picture: NDArray[np.uint8], count: int) -> Tensor:
    """(count, H, W, 3) uint8: the picture, then shifted copies of it."""
    return torch.from_numpy(np.stack([np.roll(picture, 7 * i, axis=1) for i in range(count)]))


def _check_size(size: tuple[int, ...], fixed: tuple[int, int, int] | None, smallest: int) -> None:
    given = f"{size[0]} x {size[1]}"
    if min(size) < smallest or (fixed is not None and fixed[0] < 1):
        raise ExportError(
            f"a picture of {given} pixels is too small; expected at least {smallest} x {smallest}, batches of 1"
        )
    if fixed is not None and size != fixed[1:]:
        raise ExportError(
            f"a picture is {given}, but the size is fixed to {fixed[1]} x {fixed[2]}; give one of that size"
        )


def _capture(deployed: Deployed, fixed: tuple[int, int, int] | None, smallest: int) -> Any:
    """The program of one forward pass, without the paths of this machine that its nodes remember."""
    batch, height, width = fixed or (2, 2 * smallest + 1, 3 * smallest - 1)
    images = (
        torch.zeros(batch, height, width, 3, dtype=torch.uint8)
        if deployed.labels
        else torch.zeros(batch, 3, height, width)
    )
    open_axes = (
        dict.fromkeys(_axes(deployed.labels), torch.export.Dim.DYNAMIC) if fixed is None else None
    )
    program = torch.export.export(deployed.eval(), (images,), dynamic_shapes=(open_axes,))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def _axes(labels: bool) -> dict[int, str]:
    return (
        {0: "batch", 1: "height", 2: "width"} if labels else {0: "batch", 2: "height", 3: "width"}
    )


def _through_pt2(program: Any, path: Path, metadata: dict[str, Any], _: int) -> _Run:
    """Write the program and read it back."""
    program.example_inputs = None
    with path.open("wb") as file:  # a path would have to end in .pt2
        torch.export.save(
            program, file, extra_files={"metadata.json": json.dumps(metadata, indent=1)}
        )
    with path.open("rb") as file:
        return torch.export.load(file).module()


def _through_onnx(program: Any, path: Path, metadata: dict[str, Any], opset: int) -> _Run:
    """Write one file and read it back; int8 weights are not folded to float32 in it, which the runtime does when it loads them."""
    labels = metadata["output"].startswith("labels")
    how: dict[str, Any] = dict(
        opset_version=opset, dynamo=True, optimize="int8" not in metadata, verbose=False
    )
    written: Any = torch.onnx.export(
        program, input_names=["images"], output_names=["labels" if labels else "logits"], **how
    )
    _package("onnx_ir.passes.common").ClearMetadataAndDocStringPass()(
        written.model
    )  # as large as a small network's weights
    if metadata["size"] == "any":
        shape = written.model.graph.inputs[0].shape
        written.rename_axes({shape[axis]: name for axis, name in _axes(labels).items()})
    for key, value in metadata.items():
        written.model.metadata_props[key] = value if isinstance(value, str) else json.dumps(value)
    written.save(path, external_data=False)
    session = _package("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _differences(
    run: _Run, exact: _Run, batches: Sequence[Tensor], labels: bool
) -> dict[tuple[int, int], float]:
    """By size, of what the file gives from `exact`, the network in float64."""
    found: dict[tuple[int, int], float] = {}
    for pixels in batches:
        images, size = normalise(pixels).contiguous(), (pixels.shape[1], pixels.shape[2])
        expected = exact(images.double())
        try:
            given = run(pixels if labels else images)
        except AssertionError as error:  # a program asserts which sizes it takes
            raise ExportError(
                f"the file does not take {size[0]} x {size[1]} pixels: {error}; it was not kept"
            ) from error
        if labels:
            expected = enlarged(expected, size)
            difference = expected.amax(1) - expected.gather(1, given[:, None].long())[:, 0]
        else:
            difference = (given - expected).abs()
        found[size] = max(found.get(size, 0.0), float(difference.max().nan_to_num(float("inf"))))
    return found


def _rounding(exact: _Run, batches: Sequence[Tensor]) -> float:
    """How far float32's rounding takes the logits of a network, here in float64, whatever a CPU's kernels are."""
    images = [normalise(pixels).contiguous().double() for pixels in batches]
    expected = [exact(image) for image in images]
    with _Rounded():
        return max(
            float((exact(image) - logits).abs().max())
            for image, logits in zip(images, expected, strict=True)
        )


class _Rounded(TorchFunctionMode):
    """Every convolution off by float32's epsilon of the sum of its products' magnitudes, up or down by chance."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if function is not torch.conv2d:
            return result
        images, weight, _, *how = args
        signs = torch.randint(0, 2, result.shape, generator=self.generator) * 2 - 1
        return result + signs * torch.finfo(torch.float32).eps * function(
            images.abs(), weight.abs(), None, *how
        )


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingPackageError(
            f'{name} is not installed: pip install -e ".[export]", then the same command'
        ) from None
