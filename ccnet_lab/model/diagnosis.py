"""A checkpoint's doctor: what a file of weights is, what fits it, its conversion into ours. Reading is in weights/, names in formats.py."""

import argparse
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ccnet_lab.configs import CONFIGS, Config, get_config
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.errors import ConfigError, LabError, WeightsError
from ccnet_lab.model import foreign as formats
from ccnet_lab.model.ccnet import build_model
from ccnet_lab.model.foreign import Content, Format, Told
from ccnet_lab.model.unpickling import Aside
from ccnet_lab.model.weights import (
    Differences,
    compare,
    metadata,
    read_weights,
    save_entries,
    shortened,
    stored_config,
)

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
_ATTENTION = "attention."
MOST = 150  # lines of a kind in a report


@dataclass(frozen=True)
class Diagnosis:
    """What a file of weights is."""

    path: Path
    size: int  # bytes
    format: Format  # whose it is
    under: str  # the key its state dict lies under; "" for none
    prefix: str  # what stands before every name; "" for nothing
    beside: tuple[str, ...]  # what else it holds, one line each
    entries: int  # tensors
    parameters: int  # numbers in the tensors that are trained
    dtypes: Mapping[str, int]  # how many tensors of each
    gamma: float | None  # the attention's residual weight; None where there is none
    configs: tuple[
        Config, ...
    ]  # those that fit exactly; several where the tensors leave the output stride (or R) open
    compared: (
        str  # the name of what the entries were compared with; "" where nothing was near enough
    )
    renamed: tuple[
        tuple[str, str], ...
    ]  # (the file's name, ours) of every entry whose name differs
    differences: Differences  # every missing, extra, misshapen and inexact entry, under our names where there is one
    equal: tuple[
        str, ...
    ]  # entries that mean the same there and here although the whole is refused, under our names
    refused: tuple[str, ...]  # why the whole cannot be converted; empty where it can
    notes: tuple[str, ...]  # what else is worth knowing

    @property
    def fits(self) -> bool:
        """Whether some configuration fits it exactly."""
        return bool(self.configs)

    @property
    def verdict(self) -> str:
        """One sentence: what it is, what fits it, and what to do with it."""
        names = " or ".join(config.name for config in self.configs)
        if not self.fits:
            why = "refused for the reasons below" if self.refused else "fits no configuration"
            return f"{self.format.title}{'' if self.format.ccnet else ', no CCNet'}, {why}"
        asked = (
            "" if len(self.configs) == 1 else "; say which: --config NAME, in the app PATH as NAME"
        )
        return f"{self.format.title}, fits {names} exactly{asked}"

    @property
    def text(self) -> str:
        """The report for a terminal: the verdict, a line per fact, how entries are renamed, every one that doesn't fit."""
        where = (f", under {self.under!r}" if self.under else "") + (
            f", less the prefix {self.prefix!r}" if self.prefix else ""
        )
        rows = [
            ("entries", f"{self.entries:,}{where}; {self.parameters:,} parameters"),
            ("dtype", ", ".join(f"{name} ({count})" for name, count in self.dtypes.items())),
            ("gamma", "-" if self.gamma is None else f"{self.gamma:.6g}"),
            *(("beside", line) for line in self.beside),
            *(("note", line) for line in self.notes),
            *(("refused", line) for line in self.refused),
        ]
        if self.renamed:
            old, new = self.renamed[0]
            rows.append(
                (
                    "renamed",
                    f"{len(self.renamed):,} entries, by the rule of {self.format.title}, such as {old} -> {new}",
                )
            )
        if self.compared:
            names = self.differences._asdict() | ({"equal": self.equal} if self.equal else {})
            rows.append(
                (
                    "against",
                    f"{self.compared}: {', '.join(f'{len(found)} {kind}' for kind, found in names.items())}",
                )
            )
            for kind, found in names.items():
                rows += [(kind, name) for name in found[:MOST]]
                rows += [(kind, f"and {len(found) - MOST} more")] if len(found) > MOST else []
        return "\n".join(
            [
                f"{self.path} ({self.size:,} bytes): {self.verdict}",
                *(f"  {key:9} {line}" for key, line in rows),
            ]
        )


def diagnose(path: str | Path, config: str | Config | None = None, ema: bool = False) -> Diagnosis:
    """Say what a file of weights is; nothing in it is run, and no model is filled.

    It is compared with `config`, or else with what the file says or its shapes suggest. With `ema` it is about the averaged weights in it.

    Raises:
        MissingFileError, WeightsError: as `read_weights`, and where there is no state dict in it.
        UnknownConfigError: no configuration has this name.
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
    """Write a file of weights as one of ours: the same numbers under our names, with the configuration in its metadata.

    Args:
        out: a `.safetensors` file; written whole or not at all.
        config: the configuration it was made for, where the file leaves that open.
        part: "attention" writes that module's entries alone, for `load_weights(model.attention, out)`, from any CCNet.
        force: whether to replace `out`.
        ema: take the averaged weights of a file that has both.

    Raises:
        WeightsError: it fits no configuration, computes something else, or `out` cannot be written; nothing was.
        ConfigError: several configurations fit; they are named.
        MissingFileError, UnknownConfigError: as `diagnose`.
    """
    path, out = Path(path), Path(out)
    if part not in ("", "attention"):
        raise ConfigError(f"part is {part!r}; expected 'attention', or nothing for the whole")
    if out.suffix != ".safetensors":
        raise WeightsError(
            f"{out.name} is no name for our files; write to {out.with_suffix('.safetensors').name}"
        )
    if out.exists() and not force:
        raise WeightsError(
            f"{out} is there already; choose another name, or add --force to replace it"
        )
    found, entries = _examine(path, config, ema)
    notes = {"converted_from": found.format.title, "source": path.name}
    if part:
        entries = {
            name.removeprefix(_ATTENTION): value
            for name, value in entries.items()
            if name.startswith(_ATTENTION)
        }
        if not {"query.weight", "key.weight", "value.weight", "gamma"} <= entries.keys():
            raise WeightsError(
                f"{path.name} is {found.format.title}: there is no criss-cross attention in it to write"
            )
        about = {"part": "attention", "made_with": "ccnet_lab", **notes}
    elif found.refused or not found.fits:
        reasons = "; ".join(found.refused) or found.differences.text or "it is no CCNet"
        raise WeightsError(f"{path.name} is {found.format.title} and is not converted: {reasons}")
    elif len(found.configs) > 1:
        names = " or ".join(f"--config {formats.asked_as(config)}" for config in found.configs)
        raise ConfigError(
            f"{path.name} fits {len(found.configs)} configurations, and its tensors don't say which it is; add {names}"
        )
    else:
        about = metadata(found.configs[0], **notes)
    save_entries(entries, out, about)
    return found


def _examine(
    path: Path, config: str | Config | None, ema: bool
) -> tuple[Diagnosis, dict[str, Tensor]]:
    """The diagnosis, and the entries under our names, still in the file."""
    stored = stored_config(path)
    content = formats.unwrap(read_weights(path, mapped=True), ema)
    whose, names = formats.identify(content.entries), formats.own_names(content.entries)
    entries = {new: content.entries[old] for old, new in names.items()}
    gamma = entries.get("attention.gamma")
    if whose is formats.ORIGINAL and gamma is not None and gamma.numel() == 1:
        gamma = entries["attention.gamma"] = gamma.reshape(())  # one number in a list there
    known = (
        Told(stored.output_stride, "its metadata", True, stored.recurrence)
        if stored
        else formats.told(content.beside, path)
    )
    near, nearest = _candidates(whose, entries, known, stored, config)
    candidates: list[Config | None] = [*near] or [None]
    tried = [_differences(whose, entries, candidate) for candidate in candidates]
    differences, compared = next((pair for pair in tried if not any(pair[0])), tried[0])
    refused = list(whose.refused + known.refused if whose.ccnet else ())
    if near and known.certain and known.stride != near[0].output_stride:
        refused.append(
            f"output stride: {known.stride} by {known.by}, {near[0].output_stride} in {near[0].name}"
        )
    fitting = [
        config
        for config, (found, _) in zip(near, tried, strict=False)
        if whose.ccnet and not any(found) and not refused
    ]
    diagnosis = Diagnosis(
        path=path,
        size=path.stat().st_size,
        format=whose,
        under=content.under,
        prefix=content.prefix,
        beside=tuple(_beside(content)),
        entries=len(entries),
        parameters=sum(
            value.numel() for name, value in entries.items() if not name.endswith(_BUFFERS)
        ),
        dtypes=Counter(str(value.dtype).removeprefix("torch.") for value in entries.values()),
        gamma=float(gamma) if gamma is not None and gamma.numel() == 1 else None,
        configs=tuple(fitting),
        compared=compared,
        renamed=tuple((old, new) for old, new in names.items() if old != new),
        differences=differences,
        equal=tuple(name for name in entries if name.startswith(_ATTENTION))
        if whose.refused
        else (),
        refused=tuple(refused),
        notes=(*nearest, *_notes(whose, entries, known, differences, near)),
    )
    return diagnosis, entries


def _candidates(
    whose: Format,
    entries: dict[str, Tensor],
    known: Told,
    stored: Config | None,
    config: str | Config | None,
) -> tuple[list[Config], list[str]]:
    """What to compare with, the likeliest first, and a note where that is only the nearest."""
    if config is not None:
        given = get_config(config)
        return [formats.adapted(given, entries, known) if whose.ccnet else given], []
    if stored:
        return [stored], []
    if not whose.ccnet:
        return [], []
    if found := formats.configurations(entries, known):
        return found, []
    depth = 101 if formats.depth(entries) == 101 else 50
    classes = (
        entries["classifier.4.weight"].shape[0] if "classifier.4.weight" in entries else "unknown"
    )
    note = f"no known configuration has its depth, head and number of classes ({classes}); compared with one of its depth"
    return [formats.adapted(CONFIGS[f"ccnet_resnet{depth}os8_cityscapes"], entries, Told())], [note]


def _differences(
    whose: Format, entries: dict[str, Tensor], config: Config | None
) -> tuple[Differences, str]:
    """From a configuration, or a ResNet alone from the backbone; with the name of what it was compared with, "" for nothing."""
    if config is None and whose is not formats.RESNET:
        return Differences(), ""
    depth = 101 if formats.depth(entries) == 101 else 50
    with torch.device("meta"):
        if config is not None:
            return compare(entries, build_model(config).state_dict()), config.name
        own = build_model(f"ccnet_resnet{depth}os8_voc").backbone.state_dict()
    return compare(
        {name: value for name, value in entries.items() if not name.startswith("fc.")}, own
    ), f"the backbone of ResNet-{depth}"


def _beside(content: Content) -> list[str]:
    """A line for each thing that lies beside the state dict; averaged weights are pointed out."""
    lines = []
    for key, value in content.beside.items():
        if isinstance(value, Mapping):
            tensors = sum(isinstance(entry, Tensor) for entry in value.values())
            averaged = (
                ", averaged weights; --ema takes them"
                if tensors and "ema" in str(key).lower()
                else ""
            )
            lines.append(
                f"{key}: {len(value):,} entries{f', {tensors:,} of them tensors' if tensors else ''}{averaged}"
            )
        elif isinstance(value, Aside):
            lines.append(f"{key}: {value!r}, left aside unread")
        else:
            lines.append(
                f"{key}: {value!r}"
                if isinstance(value, int | float | str) and len(str(value)) < 60
                else f"{key}: not used"
            )
    return lines


def _notes(
    whose: Format,
    entries: dict[str, Tensor],
    known: Told,
    differences: Differences,
    near: list[Config],
) -> list[str]:
    notes = []
    if known.stride and near:
        notes.append(f"output stride {known.stride}, says {known.by}")
    if whose.refused:
        convolutions = [
            name
            for name, value in entries.items()
            if value.ndim == 4 and not name.startswith(_ATTENTION)
        ]
        alike = len(convolutions) - sum(
            line.split()[0] in convolutions for line in differences.misshapen
        )
        notes += [
            "equal there and here: the attention, its three 1x1 convolutions and gamma; --part attention --out FILE writes them",
            f"alike in shape only: {alike} of the other {len(convolutions)} convolutions; what is refused below changes what they compute",
        ]
    if half := sorted(
        {
            str(v.dtype).removeprefix("torch.")
            for v in entries.values()
            if v.is_floating_point() and v.dtype.itemsize < 4
        }
    ):
        notes.append(
            f"{' and '.join(half)}: kept so by a conversion, converted exactly to float32 when a model is filled"
        )
    if broken := [name for name, value in entries.items() if not _finite(value)]:
        notes.append(f"{len(broken)} entries hold NaN or infinity: {shortened(broken)}")
    if near and known.classes:
        ours = get_dataset(near[0].dataset).class_names
        other = [
            k
            for k, pair in enumerate(zip(known.classes, ours, strict=False))
            if _plain(pair[0]) != _plain(pair[1])
        ]
        if len(ours) != len(known.classes) or other:
            first = (
                f", the first is {known.classes[other[0]]!r} there and {ours[other[0]]!r} here"
                if other
                else ""
            )
            notes.append(
                f"{len(other)} of its {len(known.classes)} class names differ from those of {near[0].dataset}{first}"
            )
    if whose is formats.RESNET:
        usable = "fills" if not any(differences) else "does not fill"
        notes.append(
            f"it {usable} the backbone as start weights: scripts/train.py CONFIG --weights FILE"
        )
    if any(
        "gamma" in name and not value.any()
        for name, value in entries.items()
        if name.startswith(_ATTENTION)
    ):
        notes.append(
            "gamma is 0: the attention changes nothing yet, so its maps have learned nothing"
        )
    if averaged := sum(name.startswith("ema_") for name in entries):
        notes.append(
            f"{averaged} entries begin with ema_: averaged copies that mmcv's EMAHook leaves; remove them or the others first"
        )
    return notes


def _finite(value: Tensor) -> bool:
    if not value.is_floating_point() or not value.numel():
        return True
    return bool(
        torch.stack(torch.aminmax(value.float())).isfinite().all()
    )  # NaN comes out of both; one pass, no copy of float32


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def main() -> int:
    """Print the diagnosis; 0 where a configuration fits, 1 where none does or something is refused, 2 where the file cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m ccnet_lab.model.weights",
        description=(diagnose.__doc__ or "").split("\n")[0],
    )
    parser.add_argument(
        "file",
        type=Path,
        help="a checkpoint: ours, SSSegmentation's, mmsegmentation's, the authors', a ResNet's",
    )
    parser.add_argument(
        "--config",
        help="compare with this configuration; needed where the file doesn't say its output stride",
    )
    parser.add_argument(
        "--ema", action="store_true", help="the averaged weights of a file that has both"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.safetensors",
        help="convert it into one of our files, without loss",
    )
    parser.add_argument(
        "--part",
        default="",
        choices=("attention",),
        help="with --out: write this module alone, from any CCNet",
    )
    parser.add_argument(
        "--force", action="store_true", help="with --out: replace the file that is there"
    )
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
