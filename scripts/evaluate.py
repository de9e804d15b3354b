"""Score a run or a checkpoint on a split and print the table; the evaluation itself is in ccnet_lab/evaluation/evaluate.py."""

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ccnet_lab.ending import ending

from tqdm import tqdm

from ccnet_lab.configs import CONFIGS, Config, get_config
from ccnet_lab.data.catalog import Dataset, get_dataset
from ccnet_lab.data.datasets import open_own, open_split
from ccnet_lab.device import choose_device, fast_precision
from ccnet_lab.errors import ConfigError, LabError, ProtocolError, RunError
from ccnet_lab.evaluation.evaluate import evaluate, published_line, score_table
from ccnet_lab.evaluation.protocol import MODES, Protocol, check_comparable, plan
from ccnet_lab.explore.explorer import Explorer
from ccnet_lab.files import write_text
from ccnet_lab.hub import obtain_weights
from ccnet_lab.model.weights import read_config
from ccnet_lab.runs import Run
from ccnet_lab.training import campaign
from ccnet_lab.training.score_published import evaluate_published
from ccnet_lab.training.signals import cause


def main() -> int:
    """Find the model, score it, print and store; a known error is one sentence and exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__)
    words = "a run folder, a checkpoint (ours or in the published format), or the name of a model on disk"
    parser.add_argument("source", nargs="?", help=words)
    parser.add_argument(
        "--data",
        type=Path,
        help="the folder that holds VOCdevkit/, cityscapes/, ...; needed but for --own",
    )
    words = "score on this folder (images/, masks/, classes.json) instead: data of your own, wherever they lie now"
    parser.add_argument("--own", type=Path, metavar="FOLDER", help=words)
    parser.add_argument(
        "--config", help="what a checkpoint was made for, where the file itself leaves that open"
    )
    parser.add_argument(
        "--ema",
        action="store_true",
        help="score the averaged weights that lie beside a checkpoint's others",
    )
    parser.add_argument("--split", help="by default the split the data set is scored on")
    parser.add_argument(
        "--mode",
        choices=MODES,
        default="whole",
        help="the whole image, or windows as large as a training crop",
    )
    parser.add_argument(
        "--scales",
        type=float,
        nargs="+",
        default=[1.0],
        help="logits averaged over these factors of the image's size",
    )
    parser.add_argument("--flip", action="store_true", help="average over the mirrored image, too")
    parser.add_argument(
        "--recurrence", type=int, help="R, by default the one the model was trained with"
    )
    words = "auto: fp32, as the published scores; fast: batch norms folded, bf16 where the device has units for it, on other CPUs "
    words += "Winograd's convolutions"
    parser.add_argument(
        "--precision", choices=("auto", "fp32", "bf16", "fast"), default="auto", help=words
    )
    parser.add_argument("--device", default="auto", help="auto: CUDA where there is one")
    parser.add_argument("--workers", type=int, default=2, help="processes that read images ahead")
    parser.add_argument(
        "--json",
        type=Path,
        help="store the scores here, the confusion matrix of every image beside it as .npz",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a run's scores although they have another protocol",
    )
    several = parser.add_argument_group(
        "all published checkpoints that are on this machine, under the published protocol"
    )
    several.add_argument(
        "--published",
        action="store_true",
        help="instead of a source; `python scripts/zoo.py get NAME` gets one",
    )
    several.add_argument("--only", nargs="+", metavar="GLOB", help="such as '*os16_voc'; quote it")
    several.add_argument(
        "--runs",
        type=Path,
        default=Path("runs/published"),
        help="where the results go, a folder for each",
    )
    args = parser.parse_args()
    if bool(args.source) == args.published:
        parser.error("give one source, or --published")
    if args.published and args.ema:
        parser.error("--ema goes with a source: the published files hold no averaged weights")
    if args.data is None and (args.own is None or args.published):
        parser.error(
            "--data ROOT is missing, the folder above VOCdevkit/, cityscapes/, ...; or give --own FOLDER for data of your own"
        )
    try:
        if args.published:
            return published(args)
        own = open_own(args.own) if args.own else None
        if args.source in CONFIGS and own is None:  # before anything is downloaded
            open_split(
                named := get_dataset(CONFIGS[args.source].dataset),
                args.data,
                args.split or named.val_split,
            )
        run = Run.open(args.source) if Path(args.source).is_dir() else None
        explorer = Explorer.open(
            args.source,
            choose_device(args.device),
            _config(args.source, args.config, run, own),
            args.ema,
        )
        config = explorer.config if own is None else on_own(explorer.config, own)
        dataset = get_dataset(config.dataset) if own is None else replace(own, key=config.dataset)
        split = open_split(dataset, args.data or ".", args.split or dataset.val_split)
        precision = {"auto": "fp32", "fast": fast_precision(explorer.device)}.get(
            args.precision, args.precision
        )
        how: dict[str, Any] = dict(
            mode=args.mode,
            scales=args.scales,
            flip=args.flip,
            precision=precision,
            recurrence=args.recurrence,
        )
        into_run = run is not None and (
            args.overwrite or _alike(run, plan(split, config, **how), bool(args.json))
        )
        if args.json:
            args.json.parent.mkdir(parents=True, exist_ok=True)
        with tqdm(total=len(split), desc=config.name, unit="image") as bar:
            found = evaluate(
                explorer.model, split, config, **how, device=explorer.device, workers=args.workers,
                progress=lambda done, miou: show(bar, config, done, len(split), miou),
            )  # fmt: skip
        scores = found.to_dict() | ({"weights": {"averaged": True}} if args.ema else {})
        print(score_table(scores), published_line(config, scores), sep="\n")
        if run is not None and into_run:
            found.confusions.save(run.confusions)
            run.write_scores(scores)
            print(f"stored in {run.folder}")
        if args.json:
            found.confusions.save(args.json.with_suffix(".npz"))
            write_text(args.json, json.dumps(scores, indent=1) + "\n", RunError)
            print(f"stored in {args.json}")
    except Exception as error:
        folder = Path(args.source if args.source and Path(args.source).is_dir() else ".")
        again = "" if isinstance(error, LabError) else "; then the same command again"
        parser.exit(2, f"{parser.prog}: error: {cause(error, folder)}{again}\n")
    except KeyboardInterrupt:
        parser.exit(130, "stopped\n")
    return 0


def published(args: argparse.Namespace) -> int:
    """Score the zoo; the table comes at the end, exit code 1 if anything failed."""
    configs = campaign.select(args.only)
    with tqdm(unit="image", disable=None) as bar:
        how: dict[str, Any] = dict(
            device=str(choose_device(args.device)), workers=args.workers, say=tqdm.write
        )
        outcomes = evaluate_published(
            configs, args.data, args.runs, **how, progress=partial(show, bar)
        )
    print(
        campaign.results_table(
            [c.name for c in configs], args.runs, {o.name: o.reason for o in outcomes if o.reason}
        )
    )
    return 1 if any(outcome.status == "failed" for outcome in outcomes) else 0


def show(bar: Any, config: Config, done: int, count: int, miou: float) -> None:
    """Move the progress bar on."""
    bar.total = count
    bar.set_description(config.name, refresh=False)
    bar.set_postfix(mIoU="of one class" if miou != miou else f"{100 * miou:.2f}", refresh=False)
    bar.update(done - bar.n)


def on_own(config: Config, own: Dataset) -> Config:
    """A model's configuration on a folder of one's own; raises `ConfigError` where that has other classes than the model."""
    trained = get_dataset(config.dataset)
    if own.class_names != trained.class_names:
        its, theirs = (
            ", ".join(d.class_names[:8]) + (", ..." if d.num_classes > 8 else "")
            for d in (own, trained)
        )
        raise ConfigError(
            f"{own.root} has {own.num_classes} classes ({its}) and the model was trained on {trained.num_classes} of {trained.title} "
            f"({theirs}); give a folder whose classes.json has the model's names in their order"
        )
    return config if trained.classes else replace(config, dataset=own.key, alias="")


def _config(source: str, name: str | None, run: Run | None, given: Dataset | None = None) -> Config:
    """The configuration to build: the one asked for, unless the file says that it is for another data set."""
    asked = get_config(name) if name else None
    try:
        own = read_config(obtain_weights(source), own=given)
    except ConfigError:
        if asked is None:
            raise
        return read_config(obtain_weights(source), asked, given)
    if asked is not None and (own.dataset != asked.dataset or (run is not None and own != asked)):
        raise ConfigError(
            f"{source} was made for {own.name} (data set {own.dataset}), not {asked.name}; leave --config away"
        )
    return asked or own


def _alike(run: Run, protocol: Protocol, elsewhere: bool) -> bool:
    """Whether the run's scores may be replaced: it has none, or they have this protocol. Otherwise refused, unless stored elsewhere."""
    try:
        if run.scores is not None:
            check_comparable(Protocol.from_dict(run.scores.get("protocol", {})), protocol)
        return True
    except ProtocolError as error:
        kept = f"{run.folder} holds scores under another protocol, which stay as they are: {error}"
        if not elsewhere:
            raise ProtocolError(
                f"{kept}. Store these elsewhere with --json FILE, or replace the run's with --overwrite"
            ) from None
        print(kept)
        return False


if __name__ == "__main__":
    ending(main)
