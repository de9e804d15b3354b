"""The checkpoint doctor: what a weights file is, which configuration fits, its conversion.

Files are read in weights.py, formats are in foreign.py.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ccnet_lab.configs import Config, get_config
from ccnet_lab.errors import LabError, WeightsError
from ccnet_lab.model import foreign
from ccnet_lab.model.ccnet import build_model
from ccnet_lab.model.foreign import RESNET, UNKNOWN, Format
from ccnet_lab.model.weights import (
    Checkpoint,
    Differences,
    compare,
    dtype_name,
    open_checkpoint,
    save_weights,
    shortened,
)

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


class Diagnosis(NamedTuple):
    """What a weights file is."""

    checkpoint: Checkpoint
    format: Format
    entries: dict[str, Tensor]  # under ccnet_lab's names where the format can be converted
    configs: tuple[Config, ...] = ()  # that fit exactly; several where the output stride is open
    compared: str = ""  # with which configuration, where none fits
    differences: Differences = Differences()
    refused: tuple[str, ...] = ()  # why it cannot be converted

    @property
    def text(self) -> str:
        """The report for a terminal: what it is and what fits it, then a line for each fact."""
        path, names = self.checkpoint.path, " or ".join(config.name for config in self.configs)
        verdict = f"fits {names} exactly" if names else "fits no configuration"
        if len(self.configs) > 1:
            verdict += "; say which: --config NAME, in the app PATH as NAME"
        first = f"{path} ({path.stat().st_size:,} bytes): {self.format.title}, {verdict}"
        return "\n".join([first, *(f"  {key:9} {line}" for key, line in self._lines())])

    def _lines(self) -> Iterator[tuple[str, str]]:
        entries, content = self.entries, self.checkpoint.content
        parameters = sum(v.numel() for name, v in entries.items() if not name.endswith(_BUFFERS))
        yield "entries", f"{len(entries):,}; {parameters:,} parameters"
        dtypes = Counter(map(dtype_name, entries.values()))
        yield "dtype", ", ".join(f"{name} ({count})" for name, count in dtypes.items())
        gamma = entries.get("attention.gamma")
        if gamma is not None and gamma.numel() == 1:
            untrained = "" if gamma else ": the attention changes nothing yet"
            yield "gamma", f"{float(gamma):.6g}{untrained}"
        if content.beside:
            yield "beside", shortened(list(map(str, content.beside)))
        renamed = [
            pair for pair in zip(content.entries, entries, strict=True) if len(set(pair)) > 1
        ]
        if renamed:
            yield "renamed", f"{len(renamed):,} entries, such as {' -> '.join(renamed[0])}"
        if self.compared:
            yield "against", f"{self.compared}: {self.differences.text or 'every entry fits'}"
        if broken := [name for name, value in entries.items() if not _finite(value)]:
            yield "note", f"{len(broken)} entries hold NaN or infinity: {shortened(broken)}"
        if self.format is RESNET:
            yield "note", "a training may start from it: scripts/train.py CONFIG --weights FILE"
        yield from (("refused", reason) for reason in self.refused)


def diagnose(path: str | Path, config: str | Config | None = None) -> Diagnosis:
    """Say what a weights file is, compared with `config` or what it says or its shapes suggest.

    Raises:
        MissingFileError, WeightsError: as `open_checkpoint`.
        ConfigError: no configuration has this name.
    """
    checkpoint = open_checkpoint(path, mapped=True)
    entries, hints = checkpoint.content.entries, checkpoint.hints
    origin = foreign.identify(entries)
    if origin.refused or origin in (RESNET, UNKNOWN):
        return Diagnosis(checkpoint, origin, entries, refused=origin.refused)
    entries, stored = foreign.converted(entries), checkpoint.stored
    refused, stride = hints.refused, stored.output_stride if stored else hints.stride
    if config is not None:
        near = [foreign.adapted(get_config(config), entries, hints)]
        if (stored or hints.stored) and stride != near[0].output_stride:
            refused += (f"output stride: {stride} by the file, not {near[0].output_stride}",)
    elif stored:
        near = [stored]
    else:
        rows = foreign.configurations(entries, hints)
        near = [foreign.adapted(row, entries, hints) for row in rows]
    with torch.device("meta"):
        tried = [(row, compare(entries, build_model(row).state_dict())) for row in near]
    fitting = tuple(row for row, found in tried if not any(found) and not refused)
    name, found = (tried[0][0].name, tried[0][1]) if tried and not fitting else ("", Differences())
    return Diagnosis(checkpoint, origin, entries, fitting, name, found, refused)


def convert(
    path: str | Path, out: str | Path, config: str | Config | None = None, *, force: bool = False
) -> None:
    """Write a weights file as ccnet_lab's: the same numbers, with the configuration as metadata.

    Args:
        out: a `.safetensors` file; written whole or not at all.
        config: the configuration it was made for, where the file leaves that open.
        force: whether to replace `out`.

    Raises:
        WeightsError: it fits no configuration, computes something else, or `out` cannot be written.
        MissingFileError, ConfigError: as `diagnose`; several configurations fit.
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise WeightsError(f"{out.name} does not end in .safetensors; let it end so")
    if out.exists() and not force:
        raise WeightsError(f"{out} exists; choose another name, or add --force to replace it")
    found = diagnose(path, config)
    if not found.configs:
        reasons = "; ".join(found.refused) or found.differences.text or "it fits no configuration"
        raise WeightsError(
            f"{Path(path).name} is {found.format.title} and is not converted: {reasons}; take "
            "another file"
        )
    made_for = found.checkpoint.config(config)
    notes = {"converted_from": found.format.title, "source": Path(path).name}
    save_weights(found.entries, out, made_for, **notes)


def _finite(value: Tensor) -> bool:
    if not value.is_floating_point() or not value.numel():
        return True
    extremes = torch.stack(torch.aminmax(value.float()))  # NaN where there is one
    return bool(extremes.isfinite().all())


def main() -> int:
    """Print the diagnosis and convert; 0 if a configuration fits, 1 if none, 2 if unreadable."""
    parser = argparse.ArgumentParser(
        prog="python -m ccnet_lab.model.weights",
        description="Say what a weights file is and which configuration fits it.",
    )
    parser.add_argument("file", type=Path, help="a checkpoint, of this library or another")
    parser.add_argument("--config", help="needed where the file does not say its output stride")
    out = "convert it, without loss"
    parser.add_argument("--out", type=Path, metavar="FILE.safetensors", help=out)
    parser.add_argument("--force", action="store_true", help="with --out: replace an existing file")
    args = parser.parse_args()
    try:
        found = diagnose(args.file, args.config)
    except LabError as error:
        print(f"{args.file}: {error}", file=sys.stderr)
        return 2
    print(found.text)
    if args.out is not None:
        try:
            convert(args.file, args.out, args.config, force=args.force)
        except LabError as error:
            print(error, file=sys.stderr)
            return 1
        print(f"{args.out} written")
    return 0 if found.configs else 1
