"""Cards: a configuration's model card in Markdown, its numbers from where they stand. Which scores may be compared is training's to say."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ccnet_lab import store
from ccnet_lab.configs import CONFIGS, EXTRAS, SLIM, TINY, Config, get_config
from ccnet_lab.data.batches import SEVERAL, steps_per_epoch
from ccnet_lab.data.catalog import Dataset, get_dataset
from ccnet_lab.errors import ProtocolError, RunError
from ccnet_lab.evaluation.metrics import one_class
from ccnet_lab.evaluation.published import AUTHORS, PAGE, PUBLISHER, REPEATS
from ccnet_lab.files import write_text
from ccnet_lab.model.ccnet import build_model
from ccnet_lab.model.weights import read_config
from ccnet_lab.runs import Run

_CARD = """# {name}

CCNet with {backbone}, output stride {stride}, for {title}: {classes} classes.
Written by `python scripts/make_cards.py`; change its sources, not this file.

## Recipe

{recipe}

## Published

{published}

## Measured here

{measured}

To measure it:

```
{commands}
```

## Spread between runs

One run says little about small differences. The only repetitions published are the authors', ResNet-101 on Cityscapes, three runs
each ({authors}, README):

{repeats}

The same recipe varies by {least:.1f} to {most:.1f} points there: a difference below that is a tie. For other configurations the spread
isn't known.

## What it is for, and what not

For looking into criss-cross attention, for teaching, for comparing with other work under the same protocol, as a start for training on
data of one's own. Not for decisions on which anyone's safety or rights depend (driving, medicine, surveillance, identifying people):
nothing of that kind was tested. Every pixel gets one of the classes below, also where none of them fits; photographs unlike the
training images are labelled as confidently. An attention map says where a pixel took from, not why it got its label.

## Licences and terms

- code: MIT (this repository)
{terms}

None of this is legal advice; the pages named decide.

## Classes

![The classes' colours, as listed below]({key}.svg)

{palette}
"""
_INDEX = """# Model cards

Written by `python scripts/make_cards.py`. A published score and one measured here may stand side by side only where the card says that
both were measured alike. A dash: nothing published, or not measured here.

{rows}
"""


def model_card(
    config: str | Config,
    measured: Mapping[str, Any] | None = None,
    *,
    source: str = "",
    compared: str = "",
    notes: Sequence[str] = (),
) -> str:
    """The card of a configuration, in Markdown that can be read as plain text, too.

    Args:
        config: one of the twelve, an extra, or a variation.
        measured: scores as in a run's scores.json, with their protocol; None where nothing was measured.
        source: where the scores are stored.
        compared: what they say beside the published one, from those who may judge that; without it nothing is compared.
        notes: further sentences on what was measured.

    Raises:
        ProtocolError: the scores don't say how they were measured, or are of another data set.
        UnknownConfigError: no configuration has this name.
    """
    config = get_config(config)
    if measured is not None:
        _check(config, measured)
    dataset, apart = (
        get_dataset(config.dataset),
        {name: max(values) - min(values) for name, values in REPEATS.items()},
    )
    repeats = [
        [name, ", ".join(f"{value:.2f}" for value in values), f"{apart[name]:.2f}"]
        for name, values in REPEATS.items()
    ]
    small = {TINY: "a tiny backbone", SLIM: f"a slim backbone of width {config.width}"}
    published = "Nothing: this configuration is this repository's own."
    if config.published_miou is not None:
        published = (
            f"mIoU **{config.published_miou:.2f} %**, single scale, whole image, no flip. Source: SSSegmentation's table,\n{PAGE}\n\n"
            f"- checkpoint: {config.published_url}\n- training log: {config.published_log_url}"
        )
    return _CARD.format(
        name=config.name, backbone=small.get(config.depth, f"a ResNet-{config.depth} (3x3 stem)"), stride=config.output_stride,
        title=dataset.title, classes=dataset.num_classes, recipe=_recipe(config, dataset), published=published,
        measured="\n\n".join([_measured(measured, source, compared), *notes]), commands="\n".join(_commands(config, dataset)),
        authors=AUTHORS, repeats=_table(["", "mIoU %", "points apart"], repeats), least=min(apart.values()), most=max(apart.values()),
        terms=_terms(config, dataset), key=dataset.key, palette=_palette(dataset, measured or {}),
    )  # fmt: skip


def write_cards(out: Path, runs: Sequence[Path], compared: Callable[[Run], str]) -> list[Path]:
    """Write the cards of the twelve and the extras, the data sets' colours, and an index; returns the files written.

    Args:
        out: the folder; made where there is none.
        runs: folders of run folders; of several scored runs of a configuration the first counts.
        compared: what a scored run says beside the published score, or why it says nothing.

    Raises:
        RunError, ProtocolError: a run's files cannot be read or don't say how it was scored, or a card cannot be written.
    """
    found = [
        Run.open(path.parent) for folder in runs for path in sorted(folder.glob("*/config.json"))
    ]
    scored = [run for run in found if run.scores is not None]
    texts, rows = {}, []
    for config in [*CONFIGS.values(), *EXTRAS.values()]:
        dataset, run = (
            get_dataset(config.dataset),
            next((run for run in scored if run.config == config), None),
        )
        scores = run.scores if run else None
        notes = [
            *_shipped(config),
            *(
                _other(r, config)
                for r in scored
                if r.config.name == config.name and r.config != config
            ),
        ]
        where, verdict = "", ""
        if run and scores:
            _check(config, scores)
            weights = str((run.training or {}).get("weights", "none"))
            where, verdict = (
                f"{_tail(run.folder, 3)}/scores.json{_carried_out(run)}",
                compared(run).replace(weights, _tail(weights, 2)),
            )
        texts[f"{config.name}.md"] = model_card(
            config, scores, source=where, compared=verdict, notes=notes
        )
        texts[f"{dataset.key}.svg"] = swatches(dataset)
        published, ours = (
            "-" if config.published_miou is None else f"{config.published_miou:.2f}",
            _percent((scores or {}).get("miou")),
        )
        rows.append(
            [
                f"[{config.name}]({config.name}.md)",
                dataset.title,
                f"{_parameters(config)[0]:,}",
                published,
                ours,
            ]
        )
    index = _table(
        ["configuration", "data set", "parameters", "published mIoU %", "measured here %"], rows
    )
    texts["README.md"] = _INDEX.format(rows=index)
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(out / name, text, RunError)
    return [out / name for name in texts]


def swatches(dataset: Dataset) -> str:
    """The classes' colours and names as an SVG picture, five in a row."""
    cells = []
    for number, (name, colour) in enumerate(zip(dataset.class_names, dataset.palette, strict=True)):
        x, y = number % 5 * 160, number // 5 * 24  # pixels
        cells.append(
            f'<rect x="{x + 2}" y="{y + 2}" width="20" height="20" fill="#{bytes(colour).hex()}" stroke="#888"/>'
        )
        cells.append(f'<text x="{x + 28}" y="{y + 17}" fill="#888">{number} {escape(name)}</text>')
    size = f'width="800" height="{-(-dataset.num_classes // 5) * 24}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">',
            *cells,
            "</svg>",
            "",
        ]
    )


def _check(config: Config, scores: Mapping[str, Any]) -> None:
    protocol = scores.get("protocol") or {}
    lacking = [
        name
        for name in (
            "split",
            "images",
            "mode",
            "scales",
            "flip",
            "resize",
            "precision",
            "recurrence",
        )
        if name not in protocol
    ]
    if lacking or "miou" not in scores or protocol.get("dataset") != config.dataset:
        remedy = "score it again: scripts/evaluate.py"
        raise ProtocolError(
            f"these scores of {config.name} don't say how they were measured on {config.dataset}; {remedy}"
        )


def _recipe(config: Config, dataset: Dataset) -> str:
    total, auxiliary = _parameters(config)
    parts = {
        "cross-entropy": True,
        f"{config.aux_weight:g} times that of a classifier on stage 3": config.auxiliary,
        "rare classes weigh more": config.balance,
        "hard pixels only (OHEM)": config.ohem,
        f"category-consistent loss times {config.category_loss:g}": config.category_loss > 0,
    }
    optimizer = f"SGD with momentum {config.momentum:g}" if config.optimizer == "sgd" else "AdamW"
    schedule = (
        f"its own, ccnet_lab/training/demo.py; lr {config.lr:g}, {config.batch_size} scenes a step"
    )
    if dataset.root:
        steps, alone = (
            steps_per_epoch(dataset.train_images, config.batch_size, n)
            for n in (SEVERAL if config.name in CONFIGS else 1, 1)
        )
        in_one = (
            ""
            if steps == alone
            else f" (on several GPUs; on one {alone:,}, {config.epochs * alone:,} steps)"
        )
        schedule = (
            f"{config.epochs} epochs of {steps:,} steps, {config.epochs * steps:,} steps of {config.batch_size} images{in_one}; "
            f"{optimizer}, lr {config.lr:g}, weight decay {config.weight_decay:g}; poly with power {config.power:g} "
            f"down to lr {config.min_lr:g}"
        )
    rows = {
        "attention": f"criss-cross, R = {config.recurrence}, {config.channels} channels, queries and keys {config.query_channels}",
        "parameters": f"{total:,}"
        + (
            f"; {auxiliary:,} of them in the classifier on stage 3, only for training"
            if auxiliary
            else ""
        ),
        "trained on": f"{dataset.title}, {dataset.train_split}, {dataset.train_images:,} images; crops {_size(config.crop_size)} (H x W)",
        "schedule": schedule,
        "loss": "; ".join(words for words, there in parts.items() if there),
        "start": "random weights, unless a run says otherwise"
        if config.depth in (TINY, SLIM)
        else f"ImageNet weights, {_start(config)}",
        "scored on": f"{dataset.val_split}, {dataset.val_images:,} images, each fitted whole into {_size(config.resize)} (long x short)",
    }
    return _table(["", ""], [[name, text] for name, text in rows.items()])


def _measured(scores: Mapping[str, Any] | None, source: str, compared: str) -> str:
    if scores is None:
        return "**Not measured here** by `scripts/evaluate.py`: no run of this configuration with scores is stored in this repository."
    protocol, interval = scores["protocol"], scores.get("miou_interval") or [None]
    way = (
        "whole images" if protocol["mode"] == "whole" else f"windows of {_size(protocol['window'])}"
    )
    alone = one_class(scores.get("per_class_iou", {}).values())
    spread = (
        ""
        if None in interval
        else f"95 % over the images: {_percent(interval[0])} to {_percent(interval[1])}"
    )
    within = f" ({alone or spread})" if alone or spread else ""
    return (
        f"mIoU **{_percent(scores['miou'])} %**{within}, pixel accuracy {_percent(scores.get('pixel_accuracy'))} %; per class below.\n"
        f"From {source or 'scores given by hand'}.\n\n"
        f"Protocol: {protocol['split']}, {protocol['images']:,} images, {way} fitted into {_size(protocol['resize'])}, "
        f"scales {', '.join(f'{scale:g}' for scale in protocol['scales'])}, {'flip' if protocol['flip'] else 'no flip'}, "
        f"{protocol['precision']}, R = {protocol['recurrence']}.\n\nBeside the published score: {compared or 'not compared'}."
    )


def _commands(config: Config, dataset: Dataset) -> list[str]:
    """What to type to measure it."""
    if not dataset.root:
        return ["python scripts/make_demo.py", f"python app.py --model {config.name}"]
    if dataset.classes:
        return [
            "python scripts/prepare_data.py FOLDER --check",
            "python scripts/train.py CONFIG --own FOLDER --data . --runs runs",
        ]
    train, score = (
        f"python scripts/train.py {config.name} --data ROOT --runs runs",
        "python scripts/evaluate.py {} --data ROOT",
    )
    ours = [train, score.format(f"runs/{config.name}"), "python scripts/make_cards.py --runs runs"]
    get = (
        [f"python scripts/zoo.py get {config.name} {config.name}.log", score.format(config.name)]
        if config.published_url
        else []
    )
    return [f"python scripts/prepare_data.py {dataset.key} --data ROOT", *get, *ours]


def _terms(config: Config, dataset: Dataset) -> str:
    lines = [f"- data, {dataset.title}: {dataset.terms or 'no terms are known here'}"]
    if config.depth not in (TINY, SLIM):
        lines.append(
            f"- start weights, {_start(config)}: no licence was found with the file. They were trained on ImageNet, whose terms of access "
            "(non-commercial research and education) are at https://www.image-net.org/download.php; whether they reach weights is open"
        )
    if config.published_url:
        lines.append(
            f"- published weights: SSSegmentation's repository is under Apache-2.0, {PUBLISHER}/blob/main/LICENSE; no separate licence for "
            "the weights was found. The data's terms may reach them"
        )
    return "\n".join(
        [
            *lines,
            "- weights trained here: treat them as the terms of the data and of the start weights demand",
        ]
    )


def _palette(dataset: Dataset, scores: Mapping[str, Any]) -> str:
    columns = {
        "IoU %": scores.get("per_class_iou"),
        "boundary IoU %": scores.get("per_class_boundary_iou"),
    }
    given = {title: values for title, values in columns.items() if values}
    rows = [
        [
            str(number),
            f"`#{bytes(colour).hex()}`",
            name,
            *(_percent(values.get(name)) for values in given.values()),
        ]
        for number, (name, colour) in enumerate(
            zip(dataset.class_names, dataset.palette, strict=True)
        )
    ]
    return _table(["id", "colour", "class", *given], rows)


def _shipped(config: Config) -> list[str]:
    """What is said of weights that come with the library, and the scores stored in their file."""
    path = Path(str(files("ccnet_lab").joinpath("assets", f"{config.name}.safetensors")))
    if not path.is_file():
        return []
    where = f"`ccnet_lab/assets/{path.name}`"
    if read_config(path) != config:
        return [f"The weights in {where} are of an earlier recipe of this name."]
    with safe_open(path, "pt") as file:
        stored = json.loads((file.metadata() or {}).get("scores", "{}"))
    told = ", ".join(
        f"{name.replace('_', ' ').replace('miou', 'mIoU')} {_percent(value)} %"
        for name, value in stored.items()
    )
    return [
        f"Weights come with the library: {where}."
        + (f" Stored in that file, by the script that made it: {told}." if told else "")
    ]


def _other(run: Run, config: Config) -> str:
    ours = config.to_dict()
    unlike = ", ".join(
        f"{name} {value}" for name, value in run.config.to_dict().items() if value != ours[name]
    )
    return f"A run of this name by another recipe ({unlike}) is in {_tail(run.folder, 3)}; its score is not this configuration's."


def _carried_out(run: Run) -> str:
    """Whose weights were scored: trained as training.json says, or published."""
    there, weights = run.training or {}, (run.scores or {}).get("weights")
    if isinstance(weights, dict):  # training/score_published.py: scored here, not trained here
        return f"; not trained here, these are the published weights `{weights.get('file')}`"
    if not {"weights", "total_steps", "seed"} <= there.keys():
        return ""
    return f"; trained from {_tail(there['weights'], 2)}, {there['total_steps']:,} steps, seed {there['seed']}"


@cache
def _parameters(config: Config) -> tuple[int, int]:
    """All parameters, and those of the auxiliary classifier; nothing is allocated."""
    with torch.device("meta"):
        model = build_model(config)
    auxiliary = model.aux_classifier.parameters() if model.aux_classifier is not None else ()
    return sum(p.numel() for p in model.parameters()), sum(p.numel() for p in auxiliary)


def _tail(path: str | Path, parts: int) -> str:
    """The end of a path; the rest is another on every machine."""
    return "/".join(Path(path).parts[-parts:])


def _start(config: Config) -> str:
    return store.find(f"resnet{config.depth}_v1c").url


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; a column whose title names a number is set to the right."""
    rule = [
        "---:" if title in ("id", "parameters", "points apart") or title.endswith("%") else "---"
        for title in head
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *rows])


def _size(pair: Sequence[int]) -> str:
    return f"{pair[0]} x {pair[1]}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
