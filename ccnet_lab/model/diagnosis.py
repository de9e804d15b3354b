"""The checkpoint doctor: what a weights file is, which configuration fits, its conversion.

Files are read in weights.py, formats are in foreign.py.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ccnet_lab.configs import CONFIGS, Config, get_config
from ccnet_lab.errors import ConfigError, LabError, WeightsError
from ccnet_lab.model import foreign
from ccnet_lab.model.ccnet import build_model
from ccnet_lab.model.foreign import Format, Hints
from ccnet_lab.model.unpickling import Aside
from ccnet_lab.model.weights import (
    Differences,
    compare,
    dtype_name,
    metadata,
    open_checkpoint,
    save_entries,
    shortened,
)

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
_ATTENTION = "attention."
_PARTS = {"query.weight", "key.weight", "value.weight", "gamma"}
MOST = 150  # lines of a kind in a report


@dataclass(frozen=True)
class Diagnosis:
    """What a weights file is. Names of entries are ccnet_lab's where there is one.

    Attributes:
        size: bytes.
        under, prefix: the key of its state dict, and what stands before every name; "" for none.
        beside: what else it holds, a line each.
        entries, parameters: the number of tensors, and of the numbers in them that are trained.
        dtypes: how many tensors have each.
        gamma: the attention's residual weight; None where there is none.
        configs: those that fit exactly; several where the output stride (or R) stays open.
        compared: what the entries were compared with; "" where nothing was near enough.
        renamed: (the file's name, ccnet_lab's) of every entry whose name differs.
        equal: entries that mean the same here although the whole is refused.
        refused: why the whole cannot be converted; empty where it can.
        notes: what else is worth knowing.
    """

    path: Path
    size: int
    format: Format
    under: str
    prefix: str
    beside: tuple[str, ...]
    entries: int
    parameters: int
    dtypes: Mapping[str, int]
    gamma: float | None
    configs: tuple[Config, ...]
    compared: str
    renamed: tuple[tuple[str, str], ...]
    differences: Differences
    equal: tuple[str, ...]
    refused: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether some configuration fits it exactly."""
        return bool(self.configs)

    @property
    def verdict(self) -> str:
        """One sentence: what it is, what fits it, and what to do with it."""
        if not self.fits:
            why = "refused for the reasons below" if self.refused else "fits no configuration"
            return f"{self.format.title}{'' if self.format.ccnet else ', no CCNet'}, {why}"
        names = " or ".join(config.name for config in self.configs)
        which = "; say which: --config NAME, in the app PATH as NAME"
        return f"{self.format.title}, fits {names} exactly{which if len(self.configs) > 1 else ''}"

    @property
    def text(self) -> str:
        """The report for a terminal: the verdict, then a line for each fact."""
        first = f"{self.path} ({self.size:,} bytes): {self.verdict}"
        return "\n".join([first, *(f"  {key:9} {line}" for key, line in self._rows())])

    def _rows(self) -> Iterator[tuple[str, str]]:
        where = f", under {self.under!r}" if self.under else ""
        where += f", less the prefix {self.prefix!r}" if self.prefix else ""
        yield "entries", f"{self.entries:,}{where}; {self.parameters:,} parameters"
        yield "dtype", ", ".join(f"{name} ({count})" for name, count in self.dtypes.items())
        yield "gamma", "-" if self.gamma is None else f"{self.gamma:.6g}"
        for key, lines in (
            ("beside", self.beside),
            ("note", self.notes),
            ("refused", self.refused),
        ):
            yield from ((key, line) for line in lines)
        if self.renamed:
            rule = f"{len(self.renamed):,} entries, by the rule of {self.format.title}"
            yield "renamed", f"{rule}, such as {' -> '.join(self.renamed[0])}"
        if self.compared:
            kinds = self.differences._asdict() | ({"equal": self.equal} if self.equal else {})
            counts = ", ".join(f"{len(names)} {kind}" for kind, names in kinds.items())
            yield "against", f"{self.compared}: {counts}"
            for kind, names in kinds.items():
                yield from ((kind, name) for name in names[:MOST])
                if len(names) > MOST:
                    yield kind, f"and {len(names) - MOST} more"


def diagnose(path: str | Path, config: str | Config | None = None, ema: bool = False) -> Diagnosis:
    """Say what a weights file is; nothing in it is run, and no model is filled.

    It is compared with `config`, or else with what the file says or its shapes suggest. With `ema`
    it is about the averaged weights in it.

    Raises:
        MissingFileError, WeightsError: as `read_weights`, and where there is no state dict in it.
        ConfigError: no configuration has this name.
    """
    return _examine(Path(path), config, ema)[0]


def convert(
    path: str | Path,
    out: str | Path,
    config: str | Config | None = None,
    *,
    part: str = "",
    force: bool = False,
    ema: bool = False,
) -> Diagnosis:
    """Write a weights file as ccnet_lab's: the same numbers, with the configuration as metadata.

    Args:
        out: a `.safetensors` file; written whole or not at all.
        config: the configuration it was made for, where the file leaves that open.
        part: "attention" writes that module's entries alone, for
            `load_weights(model.attention, out)`, from any CCNet.
        force: whether to replace `out`.
        ema: take the averaged weights of a file that has both.

    Raises:
        WeightsError: it fits no configuration, computes something else, or `out` cannot be written.
        ConfigError: several configurations fit; they are named.
        MissingFileError, ConfigError: as `diagnose`.
    """
    path, out = Path(path), Path(out)
    if part not in ("", "attention"):
        raise ConfigError(f"part is {part!r}; expected 'attention', or nothing for the whole")
    if out.suffix != ".safetensors":
        other = out.with_suffix(".safetensors").name
        raise WeightsError(f"{out.name} is no name for a converted file; write to {other}")
    if out.exists() and not force:
        raise WeightsError(f"{out} exists; choose another name, or add --force to replace it")
    found, entries = _examine(path, config, ema)
    notes = {"converted_from": found.format.title, "source": path.name}
    what = f"{path.name} is {found.format.title}"
    if part:
        entries = {
            name.removeprefix(_ATTENTION): value
            for name, value in entries.items()
            if name.startswith(_ATTENTION)
        }
        if _PARTS - entries.keys():
            raise WeightsError(f"{what}: there is no criss-cross attention in it to write")
        about = {"part": "attention", "made_with": "ccnet_lab", **notes}
    elif found.refused or not found.fits:
        reasons = "; ".join(found.refused) or found.differences.text or "it is no CCNet"
        raise WeightsError(f"{what} and is not converted: {reasons}")
    elif len(found.configs) > 1:
        names = " or ".join(f"--config {foreign.option_name(c)}" for c in found.configs)
        fits = f"{path.name} fits {len(found.configs)} configurations"
        raise ConfigError(f"{fits}, and its tensors don't say which it is; add {names}")
    else:
        about = metadata(found.configs[0], **notes)
    save_entries(entries, out, about)
    return found


def _examine(
    path: Path, config: str | Config | None, ema: bool
) -> tuple[Diagnosis, dict[str, Tensor]]:
    """The diagnosis, and the entries under ccnet_lab's names, still in the file."""
    checkpoint = open_checkpoint(path, ema, mapped=True)
    content, stored, hints = checkpoint.content, checkpoint.stored, checkpoint.hints
    origin, names = foreign.identify(content.entries), foreign.own_names(content.entries)
    entries = {new: content.entries[old] for old, new in names.items()}
    gamma = entries.get("attention.gamma")
    if gamma is not None and gamma.numel() == 1 and origin is foreign.AUTHORS:
        entries["attention.gamma"] = gamma.reshape(())  # they have a list of one number
    if stored:
        hints = Hints(stored.output_stride, "its metadata", True, stored.recurrence)
    near, nearest = _candidates(origin, entries, hints, stored, config)
    candidates: list[Config | None] = [*near] or [None]
    tried = [_differences(origin, entries, candidate) for candidate in candidates]
    differences, compared = next((pair for pair in tried if not any(pair[0])), tried[0])
    refused = list(origin.refused + hints.refused if origin.ccnet else ())
    if near and hints.certain and hints.stride != near[0].output_stride:
        here = f"{near[0].output_stride} in {near[0].name}"
        refused.append(f"output stride: {hints.stride} by {hints.by}, {here}")
    exact = [c for c, (found, _) in zip(near, tried, strict=False) if not any(found)]
    trained = (value for name, value in entries.items() if not name.endswith(_BUFFERS))
    diagnosis = Diagnosis(
        path=path,
        size=path.stat().st_size,
        format=origin,
        under=content.under,
        prefix=content.prefix,
        beside=tuple(_line(key, value) for key, value in content.beside.items()),
        entries=len(entries),
        parameters=sum(value.numel() for value in trained),
        dtypes=Counter(dtype_name(value.dtype) for value in entries.values()),
        gamma=float(gamma) if gamma is not None and gamma.numel() == 1 else None,
        configs=tuple(exact) if origin.ccnet and not refused else (),
        compared=compared,
        renamed=tuple((old, new) for old, new in names.items() if old != new),
        differences=differences,
        equal=tuple(n for n in entries if n.startswith(_ATTENTION)) if origin.refused else (),
        refused=tuple(refused),
        notes=(*nearest, *_notes(origin, entries, hints, differences, near)),
    )
    return diagnosis, entries


def _resnet_depth(entries: Mapping[str, Tensor]) -> int:
    return 101 if foreign.depth(entries) == 101 else 50


def _candidates(
    origin: Format,
    entries: dict[str, Tensor],
    hints: Hints,
    stored: Config | None,
    config: str | Config | None,
) -> tuple[list[Config], list[str]]:
    """What to compare with, the likeliest first, and a note where that is only the nearest."""
    if config is not None:
        given = get_config(config)
        return [foreign.adapted(given, entries, hints) if origin.ccnet else given], []
    if stored:
        return [stored], []
    if not origin.ccnet:
        return [], []
    if found := foreign.configurations(entries, hints):
        return found, []
    last = entries.get("classifier.4.weight")
    classes = "unknown" if last is None else last.shape[0]
    note = f"no known configuration has its depth, head and number of classes ({classes}); "
    base = CONFIGS[f"ccnet_resnet{_resnet_depth(entries)}os8_cityscapes"]
    return [foreign.adapted(base, entries, Hints())], [f"{note}compared with one of its depth"]


def _differences(
    origin: Format, entries: dict[str, Tensor], config: Config | None
) -> tuple[Differences, str]:
    """The differences from a configuration, or a ResNet's from the backbone, and its name."""
    with torch.device("meta"):
        if config is not None:
            return compare(entries, build_model(config).state_dict()), config.name
        if origin is not foreign.RESNET:
            return Differences(), ""
        depth = _resnet_depth(entries)
        backbone = build_model(f"ccnet_resnet{depth}os8_voc").backbone.state_dict()
    without = {name: value for name, value in entries.items() if not name.startswith("fc.")}
    return compare(without, backbone), f"the backbone of ResNet-{depth}"


def _line(key: str, value: Any) -> str:
    """A line for something beside the state dict; averaged weights are pointed out."""
    if isinstance(value, Mapping):
        tensors = sum(isinstance(entry, Tensor) for entry in value.values())
        line = f"{key}: {len(value):,} entries"
        line += f", {tensors:,} of them tensors" if tensors else ""
        averaged = tensors and "ema" in str(key).lower()
        return line + (", averaged weights; --ema takes them" if averaged else "")
    if isinstance(value, Aside):
        return f"{key}: {value!r}, left aside unread"
    short = isinstance(value, int | float | str) and len(str(value)) < 60
    return f"{key}: {value!r}" if short else f"{key}: not used"


def _notes(
    origin: Format,
    entries: dict[str, Tensor],
    hints: Hints,
    differences: Differences,
    near: list[Config],
) -> Iterator[str]:
    if hints.stride and near:
        yield f"output stride {hints.stride}, says {hints.by}"
    if origin.refused:
        yield from _refusal_notes(entries, differences)
    if broken := [name for name, value in entries.items() if not _finite(value)]:
        yield f"{len(broken)} entries hold NaN or infinity: {shortened(broken)}"
    if origin is foreign.RESNET:
        fills = "does not fill" if any(differences) else "fills"
        yield f"it {fills} the backbone as start weights: scripts/train.py CONFIG --weights FILE"
    gammas = [v for name, v in entries.items() if name.startswith(_ATTENTION) and "gamma" in name]
    if any(not value.any() for value in gammas):
        yield "gamma is 0: the attention changes nothing yet, so its maps have learned nothing"
    if averaged := sum(name.startswith("ema_") for name in entries):
        yield (
            f"{averaged} entries begin with ema_: averaged copies that mmcv's EMAHook leaves; "
            "remove them or the others first"
        )


def _refusal_notes(entries: dict[str, Tensor], differences: Differences) -> Iterator[str]:
    others = [
        name for name, v in entries.items() if v.ndim == 4 and not name.startswith(_ATTENTION)
    ]
    alike = len(others) - sum(line.split()[0] in others for line in differences.misshapen)
    yield (
        "equal there and here: the attention, its three 1x1 convolutions and gamma; "
        "--part attention --out FILE writes them"
    )
    yield (
        f"alike in shape only: {alike} of the other {len(others)} convolutions; "
        "what is refused below changes what they compute"
    )


def _finite(value: Tensor) -> bool:
    if not value.is_floating_point() or not value.numel():
        return True
    extremes = torch.stack(torch.aminmax(value.float()))  # NaN where there is one
    return bool(extremes.isfinite().all())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ccnet_lab.model.weights",
        description=(diagnose.__doc__ or "").split("\n")[0],
    )
    parser.add_argument(
        "file",
        type=Path,
        help="a checkpoint: ccnet_lab's, SSSegmentation's, mmsegmentation's, the authors', "
        "a ResNet's",
    )
    parser.add_argument(
        "--config",
        help="compare with this configuration; needed where the file doesn't say its output stride",
    )
    parser.add_argument(
        "--ema", action="store_true", help="the averaged weights of a file that has both"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE.safetensors", help="convert it, without loss"
    )
    parser.add_argument(
        "--part",
        default="",
        choices=("attention",),
        help="with --out: write this module alone, from any CCNet",
    )
    parser.add_argument("--force", action="store_true", help="with --out: replace an existing file")
    return parser


def main() -> int:
    """Print the diagnosis and convert; 0 if a configuration fits, 1 if none, 2 if unreadable."""
    parser = _parser()
    args = parser.parse_args()
    if args.out is None and (args.part or args.force):
        parser.error("--part and --force go with --out FILE.safetensors")
    try:
        config = get_config(args.config) if args.config else None
    except ConfigError as error:
        parser.error(str(error))
    try:
        found = diagnose(args.file, config, args.ema)
    except LabError as error:
        print(f"{args.file}: {error}", file=sys.stderr)
        return 2
    print(found.text)
    if args.out is not None:
        try:
            convert(args.file, args.out, config, part=args.part, force=args.force, ema=args.ema)
        except LabError as error:
            print(error, file=sys.stderr)
            return 1
        print(f"{args.out} written{', the attention alone' if args.part else ''}")
    return 0 if found.fits else 1
