"""Score a run or a checkpoint and print the table; ccnet_lab/evaluation/evaluate.py does it."""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from ccnet_lab.ending import ending

from ccnet_lab.configs import CONFIGS, Config, get_config
from ccnet_lab.data.catalog import Dataset, get_dataset
from ccnet_lab.errors import ConfigError, LabError, RunError
from ccnet_lab.importing import importing


def main() -> int:
    """Parse and score; a known error is one sentence and exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    args = parser.parse_args()
    if bool(args.source) == args.published:
        parser.error("give one source, or --published")
    if args.data is None and (args.own is None or args.published):
        parser.error(
            "--data ROOT is missing, the folder above VOCdevkit/, cityscapes/, ...; "
            "or give --own FOLDER for data of your own"
        )
    try:
        return score_all_published(args) if args.published else score(args)
    except Exception as error:
        from ccnet_lab.causes import cause

        folder = Path(args.source if args.source and Path(args.source).is_dir() else ".")
        again = "" if isinstance(error, LabError) else "; then the same command again"
        parser.exit(2, f"{parser.prog}: error: {cause(error, folder)}{again}\n")
    except KeyboardInterrupt:
        parser.exit(130, "stopped\n")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options."""
    option = parser.add_argument
    source = "a run folder, a checkpoint (also in the published format), or a model's name"
    option("source", nargs="?", help=source)
    data = "the folder that holds VOCdevkit/, cityscapes/, ...; needed except with --own"
    option("--data", type=Path, help=data)
    own = "score on this folder of your own (images/, masks/, classes.json) instead"
    option("--own", type=Path, metavar="FOLDER", help=own)
    option("--config", help="a checkpoint's configuration, where the file leaves it open")
    option("--split", help="by default the split the data set is scored on")
    mode = "the whole image, or windows as large as a training crop"
    option("--mode", choices=("whole", "slide"), default="whole", help=mode)
    scales = "logits averaged over these factors of the image's size"
    option("--scales", type=float, nargs="+", default=[1.0], help=scales)
    option("--flip", action="store_true", help="average over the mirrored image, too")
    option("--recurrence", type=int, help="R, by default that of the training")
    precision = "auto: fp32, as the published scores; fast: batch norms folded, bf16 where the "
    precision += "device has units for it, on other CPUs Winograd's convolutions"
    known = ("auto", "fp32", "bf16", "fast")
    option("--precision", choices=known, default="auto", help=precision)
    option("--device", default="auto", help="auto: CUDA where there is one")
    option("--workers", type=int, default=2, help="processes that read images ahead")
    file = "store the scores here, the confusion matrix of every image beside it as .npz"
    option("--json", type=Path, help=file)
    overwrite = "replace a run's scores although they have another protocol"
    option("--overwrite", action="store_true", help=overwrite)
    option = parser.add_argument_group(
        "all published checkpoints that are on this machine, under the published protocol"
    ).add_argument
    published = "instead of a source; `python scripts/zoo.py get NAME` gets one"
    option("--published", action="store_true", help=published)
    option("--only", nargs="+", metavar="GLOB", help="such as '*os16_voc'; quote it")
    runs = "where the results go, a folder for each"
    option("--runs", type=Path, default=Path("runs/published"), help=runs)


def score(args: argparse.Namespace) -> int:
    """Score one model, print and store."""
    # These import torch, which --help need not wait for.
    with importing():
        from ccnet_lab.data.datasets import open_own, open_split
        from ccnet_lab.device import choose_device
        from ccnet_lab.evaluation.evaluate import on_own, score_table
        from ccnet_lab.evaluation.published import beside_published
        from ccnet_lab.files import write_text
        from ccnet_lab.hub import build, obtain_weights
        from ccnet_lab.model.weights import open_checkpoint
        from ccnet_lab.runs import Run

    own = open_own(args.own) if args.own else None
    if args.source in CONFIGS and own is None:  # before anything is downloaded
        named = get_dataset(CONFIGS[args.source].dataset)
        open_split(named, args.data, args.split or named.val_split)
    run = Run.open(args.source) if Path(args.source).is_dir() else None
    device = choose_device(args.device)
    checkpoint = open_checkpoint(obtain_weights(args.source))
    made_for = _config(checkpoint, args.config, run is not None, own)
    model, config = build(checkpoint, made_for, device)
    config = config if own is None else on_own(config, own)
    dataset = get_dataset(config.dataset) if own is None else replace(own, key=config.dataset)
    split = open_split(dataset, args.data or ".", args.split or dataset.val_split)
    found, kept = _measure(args, model, split, config, device, run)
    scores = found.to_dict()
    print(score_table(scores), beside_published(config, scores).line, sep="\n")
    if run is not None and not kept:
        found.confusions.save(run.confusions)
        run.write_scores(scores)
        print(f"stored in {run.folder}")
    if args.json:
        found.confusions.save(args.json.with_suffix(".npz"))
        write_text(args.json, json.dumps(scores, indent=1) + "\n", RunError)
        print(f"stored in {args.json}")
    return 0


def _measure(
    args: argparse.Namespace, model: Any, split: Any, config: Config, device: Any, run: Any
) -> tuple[Any, str]:
    """The evaluation, and why it must not replace the run's scores, if so."""
    from tqdm import tqdm

    from ccnet_lab.device import inference_precision
    from ccnet_lab.evaluation.evaluate import conflict, evaluate
    from ccnet_lab.evaluation.protocol import plan

    how = {name: getattr(args, name) for name in ("mode", "scales", "flip", "recurrence")}
    how["precision"] = inference_precision(args.precision, device)
    kept = "" if run is None or args.overwrite else conflict(run, plan(split, config, **how))
    if kept and not args.json:
        raise RunError(
            f"{kept}. Store these elsewhere with --json FILE, or replace the run's with --overwrite"
        )
    if kept:
        print(kept)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(split), desc=config.name, unit="image") as bar:
        found = evaluate(
            model,
            split,
            config,
            **how,
            device=device,
            workers=args.workers,
            progress=lambda done, _: bar.update(done - bar.n),
        )
    return found, kept


def score_all_published(args: argparse.Namespace) -> int:
    """Score the published checkpoints; exit code 1 if anything failed."""
    from tqdm import tqdm

    from ccnet_lab.device import choose_device
    from ccnet_lab.downloads import progress_bar
    from ccnet_lab.evaluation.published import results_table
    from ccnet_lab.evaluation.score_published import evaluate_published
    from ccnet_lab.training.campaign import select

    configs = select(args.only)
    outcomes = evaluate_published(
        configs,
        args.data,
        args.runs,
        device=str(choose_device(args.device)),
        workers=args.workers,
        progress=lambda name: progress_bar(name, "image"),
        say=tqdm.write,
    )
    missing = {outcome.name: outcome.reason for outcome in outcomes if outcome.reason}
    print(results_table([config.name for config in configs], args.runs, missing))
    return int(any(outcome.status == "failed" for outcome in outcomes))


def _config(checkpoint: Any, name: str | None, is_run: bool, own: Dataset | None) -> Config:
    """The configuration asked for, unless the file says that it is for another data set."""
    asked = get_config(name) if name else None
    try:
        made: Config = checkpoint.config(own=own)
    except ConfigError:
        if asked is None:
            raise
        return checkpoint.config(asked, own)  # type: ignore[no-any-return]
    if asked is not None and (made.dataset != asked.dataset or (is_run and made != asked)):
        raise ConfigError(
            f"{checkpoint.path} was made for {made.name} (data set {made.dataset}), not "
            f"{asked.name}; leave --config away"
        )
    return asked or made


if __name__ == "__main__":
    ending(main)
