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
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ccnet_lab.configs import Config, get_config
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.transforms import MEAN, STD, normalise
from ccnet_lab.errors import DeviceError, WeightsError
from ccnet_lab.files import sha256, write_whole
from ccnet_lab.model.ccnet import CCNet
from ccnet_lab.model.folding import Folded
from ccnet_lab.model.upsample import upsample

FORMATS = ("pt2", "onnx")
# The largest difference of a file's logits from the network's in float64, as a share of the
# largest logit (of 1, where that is smaller). ResNets were off by at most 6e-6 on CPUs with AVX2
# and AVX-512, a network with one channel off by 1 % by 9e-4.
TOLERANCE = 1e-5
SIZES = ((97, 161), (128, 96), (75, 75))  # (H, W) of the pictures a file is checked on
OPSETS, OPSET = range(18, 24), 20  # of ONNX; 20 is the default of torch 2.11
_Run = Callable[[Tensor], Tensor]


class Exported(NamedTuple):
    """A file that was read back and compared with the network.

    Differences are the largest from the network in float64, by (H, W), as shares of its largest
    logit: of logits; for labels, between the network's logits of the file's label and of its own.
    """

    path: Path
    bytes: int
    metadata: dict[str, Any]  # as in the file
    differences: dict[tuple[int, int], float]  # at most `TOLERANCE`


class Deployed(nn.Module):
    """The module that is written: batch norms folded, without what only training needs."""

    def __init__(self, model: CCNet, recurrence: int, labels: bool) -> None:
        super().__init__()
        self.network, self.recurrence, self.labels = Folded(model), recurrence, labels
        self.network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> (B, K, h, w), at the backbone's stride.

        With labels (B, H, W, 3) uint8 RGB -> (B, H, W) uint8.
        """
        if not self.labels:
            return self.logits(images)
        return upsample(self.logits(normalise(images)), images.shape[1:3]).argmax(1).to(torch.uint8)

    def logits(self, images: Tensor) -> Tensor:
        """As `forward` without labels."""
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
        labels: whether pictures are normalised and labelled inside, as in `Deployed.forward`.
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
    _check(path, steps, opset)
    network = copy.deepcopy(model).cpu().float().eval()
    deployed = Deployed(network, steps, labels)
    count = 2
    if fixed is not None:
        count, sizes = fixed[0], [fixed[1:]] * len(SIZES)
    smallest = deployed.smallest()
    for height, width in sizes:
        if min(height, width) < smallest or count < 1:
            raise WeightsError(
                f"a picture of {height} x {width} pixels is too small; "
                f"expected at least {smallest} x {smallest}, batches of 1"
            )
    batches = [_pictures(count, *size, seed) for seed, size in enumerate(sizes)]
    metadata = _describe(config, deployed, fixed, source)
    network.double()
    logits: _Run = lambda images: network(images, steps, with_aux=False).logits  # noqa: E731
    differences: dict[tuple[int, int], float] = {}

    def write(temporary: Path) -> None:
        through_file = _through_onnx if path.suffix == ".onnx" else _through_pt2
        with warnings.catch_warnings(action="ignore"):  # of torch, about its own exporter
            run = through_file(_capture(deployed, fixed, smallest), temporary, metadata, opset)
            differences.update(_differences(run, logits, batches, labels))
        _accept(path, max(differences.values()))

    write_whole(path, write, WeightsError)
    return Exported(path, path.stat().st_size, metadata, differences)


def _check(path: Path, recurrence: int, opset: int) -> None:
    if path.suffix[1:] not in FORMATS:
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
    if path.suffix == ".onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            _package(package)


def _accept(path: Path, worst: float) -> None:
    if not math.isfinite(worst):
        raise WeightsError(
            f"the network gives NaN or infinity, so {path.name} was not kept; "
            "take an earlier checkpoint"
        )
    if worst > TOLERANCE:
        raise WeightsError(
            f"{path.name} would differ from the network by {worst:.2g} of its largest logit, "
            f"more than {TOLERANCE:.2g}; it was not kept"
        )


def _pictures(count: int, height: int, width: int, seed: int) -> Tensor:
    """(count, H, W, 3) uint8: smooth noise with grain."""
    rng = torch.Generator().manual_seed(seed)
    coarse = 255 * torch.rand(count, 3, height // 24 + 2, width // 24 + 2, generator=rng)
    grain = 8 * torch.randn(count, 3, height, width, generator=rng)
    pictures = (upsample(coarse, (height, width)) + grain).clamp(0, 255).to(torch.uint8)
    return pictures.permute(0, 2, 3, 1).contiguous()


def _capture(deployed: Deployed, fixed: tuple[int, int, int] | None, smallest: int) -> Any:
    batch, height, width = fixed or (2, 2 * smallest + 1, 3 * smallest - 1)
    shape = (batch, height, width, 3) if deployed.labels else (batch, 3, height, width)
    images = torch.zeros(shape, dtype=torch.uint8 if deployed.labels else torch.float32)
    open_axes = None
    if fixed is None:
        open_axes = dict.fromkeys(_axes(deployed.labels), torch.export.Dim.DYNAMIC)
    program = torch.export.export(deployed.eval(), (images,), dynamic_shapes=(open_axes,))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it has paths of this machine
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
    """The differences of `Exported`; `exact` is the network in float64."""
    found: dict[tuple[int, int], float] = {}
    for pixels in batches:
        images, size = normalise(pixels).contiguous(), (pixels.shape[1], pixels.shape[2])
        expected = exact(images.double())
        largest = expected.abs().max().clamp(min=1)
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
        worst = float((difference.max() / largest).nan_to_num(float("inf")))
        found[size] = max(found.get(size, 0.0), worst)
    return found


def _describe(
    config: Config,
    deployed: Deployed,
    fixed: tuple[int, int, int] | None,
    source: str | Path | None,
) -> dict[str, Any]:
    """The file's metadata, ready for JSON."""
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
