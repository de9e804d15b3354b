"""A trained network as one file that runs without this library: a torch.export program or ONNX.

The file is read back and compared with the network; only one that gives the same is kept. Files of
weights are in weights.py.
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
from safetensors import safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ccnet_lab.configs import Config, get_config
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.generated.beacons import make_scene
from ccnet_lab.data.transforms import MEAN, STD, normalise, resize
from ccnet_lab.errors import DeviceError, WeightsError
from ccnet_lab.files import sha256, write_whole
from ccnet_lab.model.ccnet import CCNet
from ccnet_lab.model.folding import folded
from ccnet_lab.model.upsample import upsample

FORMATS = ("pt2", "onnx")
# The largest difference of a file's logits from the network's in float64. Where float32 rounds more
# than that, `SLACK` times `_rounding` is allowed; files of five networks, with kernels for AVX2 and
# AVX-512, were at most 0.17 of that away.
TOLERANCE, SLACK = 1e-4, 3
SIZES = ((97, 161), (128, 96), (75, 75))  # (H, W) of the pictures a file is checked on
OPSETS, OPSET = range(18, 24), 20  # of ONNX; 20 is the default of torch 2.11
_Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Exported:
    """A file that was written, read back and compared with the network.

    Differences are the largest from the network in float64, which no CPU's kernels change: of
    logits; for labels, between the network's logits of the file's label and of its own.
    """

    path: Path
    bytes: int
    metadata: dict[str, Any]  # as in the file
    differences: dict[tuple[int, int], float]  # by (H, W)
    allowed: float  # what they may be, `TOLERANCE` or more


class Deployed(nn.Module):
    """The module that is written: batch norms folded, without what only training needs."""

    def __init__(self, model: CCNet, recurrence: int, labels: bool) -> None:
        super().__init__()
        self.network, self.recurrence, self.labels = folded(model), recurrence, labels
        self.network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, K, h, w); with labels (B, H, W, 3) uint8 -> (B, H, W) uint8."""
        if not self.labels:
            return self.logits(images)
        return upsample(self.logits(normalise(images)), images.shape[1:3]).argmax(1).to(torch.uint8)

    def logits(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> (B, K, h, w)."""
        return self.network(images, self.recurrence, with_aux=False).logits  # type: ignore[no-any-return]

    def smallest(self) -> int:
        """The least height and width: two cells, since torch.export fixes an axis of one."""
        features = self.network.backbone(torch.zeros(1, 3, 64, 64))
        return int(64 // min(features.stage3.shape[2], features.stage4.shape[2])) + 1


@torch.no_grad()
def export_model(
    model: CCNet,
    config: str | Config,
    path: str | Path,
    *,
    labels: bool = False,
    recurrence: int | None = None,
    fixed: tuple[int, int, int] | None = None,
    opset: int = OPSET,
    sizes: Sequence[tuple[int, int]] = SIZES,
    source: str | Path | None = None,
) -> Exported:
    """Write a network, in eval mode and float32, to `path`.

    Args:
        model: the network, left as it is; it was built from `config`.
        path: the file; its ending chooses the format, a torch.export program (`.pt2`) or ONNX
            (`.onnx`). What is there before stays until the new file is checked.
        labels: (B, H, W, 3) uint8 RGB -> (B, H, W) uint8 labels, with normalising, upsampling and
            argmax inside; else (B, 3, H, W) float32, normalised, -> (B, K, h, w) logits at the
            backbone's stride.
        recurrence: R; None means as built.
        fixed: (B, H, W) for runtimes that want one size; None leaves all three open.
        opset: of ONNX.
        sizes: (H, W) of the generated pictures to check on; `fixed` replaces them.
        source: the weights' file; its name, sha256 and notes go into the metadata.

    Raises:
        WeightsError: an unknown format or opset, a size that is too small, a file that cannot be
            written or that differs from the network by more than is allowed.
        DeviceError: the packages for ONNX are not installed.
    """
    config, path = get_config(config), Path(path)
    steps = model.recurrence if recurrence is None else recurrence
    kind = _checked_format(path, steps, opset)
    network = copy.deepcopy(model).cpu().float().eval()
    deployed = Deployed(network, steps, labels)
    smallest = deployed.smallest()
    if fixed is not None:
        sizes = [fixed[1:]] * len(SIZES)
    for height, width in sizes:
        if min(height, width) < smallest or (fixed is not None and fixed[0] < 1):
            raise WeightsError(
                f"a picture of {height} x {width} pixels is too small; "
                f"expected at least {smallest} x {smallest}, batches of 1"
            )
    pictures = [generated_picture(config.dataset, *size, seed) for seed, size in enumerate(sizes)]
    batches = [_batch(picture, 2 if fixed is None else fixed[0]) for picture in pictures]
    metadata = _describe(config, deployed, fixed, source)
    network.double()
    logits: _Run = lambda images: network(images, steps, with_aux=False).logits  # noqa: E731
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
            raise WeightsError(
                f"the network gives NaN or infinity, so {path.name} was not kept; "
                "take an earlier checkpoint"
            )
        if worst > allowed:
            allowed = max(allowed, SLACK * _rounding(logits, batches))
        if worst > allowed:
            raise WeightsError(
                f"{path.name} would differ from the network by {worst:.2g}, "
                f"more than {allowed:.2g}; it was not kept"
            )

    write_whole(path, write, WeightsError)
    return Exported(path, path.stat().st_size, metadata, differences, allowed)


def _checked_format(path: Path, recurrence: int, opset: int) -> str:
    kind = path.suffix[1:].lower()
    if kind not in FORMATS:
        raise WeightsError(
            f"{path.name} ends in {path.suffix!r}; expected .pt2 (a torch.export program) or .onnx"
        )
    if path.is_dir():
        raise WeightsError(f"{path} is a folder; give the name of a file in it")
    if opset not in OPSETS or recurrence < 0:
        raise WeightsError(
            f"opset is {opset}, recurrence {recurrence}; "
            f"expected {OPSETS[0]} to {OPSETS[-1]}, and 0 or more"
        )
    if kind == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            _package(package)
    return kind


def generated_picture(dataset: str, height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """(H, W, 3) uint8: a scene for the network of the beacons, else smooth noise with grain."""
    if dataset == "beacons":
        return resize(make_scene(seed).image, height, width)
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 24 + 2, width // 24 + 2, 3), np.uint8)
    smooth = resize(coarse, height, width)
    return (smooth + rng.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8)


def _batch(picture: NDArray[np.uint8], count: int) -> Tensor:
    """(count, H, W, 3) uint8: the picture, then shifted copies of it."""
    return torch.from_numpy(np.stack([np.roll(picture, 7 * i, axis=1) for i in range(count)]))


def _capture(deployed: Deployed, fixed: tuple[int, int, int] | None, smallest: int) -> Any:
    """The program of one forward pass, without the paths of this machine in its nodes."""
    batch, height, width = fixed or (2, 2 * smallest + 1, 3 * smallest - 1)
    shape = (batch, height, width, 3) if deployed.labels else (batch, 3, height, width)
    images = torch.zeros(shape, dtype=torch.uint8 if deployed.labels else torch.float32)
    open_axes = None
    if fixed is None:
        open_axes = dict.fromkeys(_axes(deployed.labels), torch.export.Dim.DYNAMIC)
    program = torch.export.export(deployed.eval(), (images,), dynamic_shapes=(open_axes,))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def _axes(labels: bool) -> dict[int, str]:
    height, width = (1, 2) if labels else (2, 3)
    return {0: "batch", height: "height", width: "width"}


def _through_pt2(program: Any, path: Path, metadata: dict[str, Any], _: int) -> _Run:
    """Write the program and read it back."""
    program.example_inputs = None
    extra = {"metadata.json": json.dumps(metadata, indent=1)}
    with path.open("wb") as file:  # a path would have to end in .pt2
        torch.export.save(program, file, extra_files=extra)
    with path.open("rb") as file:
        return torch.export.load(file).module()


def _through_onnx(program: Any, path: Path, metadata: dict[str, Any], opset: int) -> _Run:
    """Write one file and read it back."""
    labels = metadata["output"].startswith("labels")
    names: Any = {"input_names": ["images"], "output_names": ["labels" if labels else "logits"]}
    written: Any = torch.onnx.export(
        program, opset_version=opset, dynamo=True, verbose=False, **names
    )
    clear = _package("onnx_ir.passes.common").ClearMetadataAndDocStringPass()
    clear(written.model)  # they are as large as a small network's weights
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
    """The file's difference, by size, from `exact`, the network in float64."""
    found: dict[tuple[int, int], float] = {}
    for pixels in batches:
        images, size = normalise(pixels).contiguous(), (pixels.shape[1], pixels.shape[2])
        expected = exact(images.double())
        try:
            given = run(pixels if labels else images)
        except AssertionError as error:  # a program asserts which sizes it takes
            raise WeightsError(
                f"the file does not take {size[0]} x {size[1]} pixels: {error}; it was not kept"
            ) from error
        if labels:
            expected = upsample(expected, size)
            difference = expected.amax(1) - expected.gather(1, given[:, None].long())[:, 0]
        else:
            difference = (given - expected).abs()
        found[size] = max(found.get(size, 0.0), float(difference.max().nan_to_num(float("inf"))))
    return found


def _rounding(exact: _Run, batches: Sequence[Tensor]) -> float:
    """How far float32's rounding takes a network's logits, computed in float64 on any CPU alike."""
    worst = 0.0
    rounded = _Rounded()
    for pixels in batches:
        images = normalise(pixels).contiguous().double()
        expected = exact(images)
        with rounded:
            worst = max(worst, float((exact(images) - expected).abs().max()))
    return worst


class _Rounded(TorchFunctionMode):
    """Every convolution off by float32's epsilon of its products' magnitudes, up or down."""

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
        magnitude = function(images.abs(), weight.abs(), None, *how)
        return result + signs * torch.finfo(torch.float32).eps * magnitude


def _describe(
    config: Config,
    deployed: Deployed,
    fixed: tuple[int, int, int] | None,
    source: str | Path | None,
) -> dict[str, Any]:
    """The file's metadata, all that a person needs to use it, ready for JSON."""
    dataset, stride = get_dataset(config.dataset), config.output_stride
    if deployed.labels:
        images = "images (B, H, W, 3) uint8 RGB"
        output = "labels (B, H, W) uint8, indices into class_names"
    else:
        images = "images (B, 3, H, W) float32: RGB 0..255, less mean, divided by std"
        output = f"logits (B, K, ceil(H / {stride}), ceil(W / {stride}))"
    metadata: dict[str, Any] = {
        "made_with": f"ccnet_lab, torch {torch.__version__}",
        "name": config.name,
        "input": images,
        "output": output,
        "output_stride": stride,
        "size": "any" if fixed is None else "{} x {} x {}".format(*fixed),
        "smallest_side": deployed.smallest(),
        "normalisation": {"mean": MEAN, "std": STD},
        "recurrence": deployed.recurrence,
        "dataset": dataset.title,
        "class_names": dataset.class_names,
        "palette": dataset.palette,
        "config": config.to_dict(),
    }
    if source is not None:
        source = Path(source)
        metadata["weights"] = {"file": source.name, "sha256": sha256(source)}
        if source.suffix == ".safetensors":
            with safe_open(source, framework="pt") as stored:
                notes = stored.metadata() or {}
            metadata["weights"]["notes"] = {
                key: value for key, value in notes.items() if key not in ("config", "dataset")
            }
    return json.loads(json.dumps(metadata))  # type: ignore[no-any-return]


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise DeviceError(
            f'{name} is not installed: pip install -e ".[export]", then the same command'
        ) from None
