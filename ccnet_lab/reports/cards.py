"""Model cards: Markdown on a configuration's recipe, scores and terms, from where each stands.

The text is in assets/: model_card.md, model_cards.md (the index), classes.svg.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, StrictUndefined
from safetensors import safe_open

from ccnet_lab import store
from ccnet_lab.configs import CONFIGS, EXTRAS, SLIM, TINY, Config, get_config
from ccnet_lab.data.batches import SEVERAL, steps_per_epoch
from ccnet_lab.data.catalog import Dataset, get_dataset
from ccnet_lab.errors import RunError
from ccnet_lab.evaluation import published
from ccnet_lab.evaluation.metrics import one_class, percent
from ccnet_lab.evaluation.protocol import Protocol, changes, deviations
from ccnet_lab.evaluation.published import beside_published
from ccnet_lab.files import write_text
from ccnet_lab.model.ccnet import build_model
from ccnet_lab.model.weights import read_config
from ccnet_lab.runs import Run

ASSETS = files("ccnet_lab") / "assets"


_TEMPLATES = Environment(
    trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined
)
_TEMPLATES.filters |= {
    "percent": percent,
    "whole": "{:,}".format,
    "short": "{:g}".format,
    "size": lambda pair: f"{pair[0]} x {pair[1]}",
    "hexadecimal": lambda colour: bytes(colour).hex(),
}


def _render(name: str, **facts: Any) -> str:
    return _TEMPLATES.from_string((ASSETS / name).read_text("utf-8")).render(facts)


def model_card(
    config: str | Config,
    measured: Mapping[str, Any] | None = None,
    *,
    source: str = "",
    compared: str = "",
    notes: Sequence[str] = (),
) -> str:
    """The card of a configuration, in Markdown.

    Args:
        config: one of the twelve, an extra, or a variation.
        measured: scores as in a run's scores.json, with their protocol; None without any.
        source: where the scores are stored.
        compared: what they say beside the published one; "" where nothing is compared.
        notes: further sentences on what was measured.

    Raises:
        RunError: the scores don't say how they were measured, or are of another data set.
        ConfigError: no configuration has this name.
    """
    config = get_config(config)
    if measured is not None:
        _check(config, measured)
    dataset, scores = get_dataset(config.dataset), dict(measured or {})
    total, auxiliary = _parameters(config)
    images, batch = max(dataset.train_images, config.batch_size), config.batch_size
    return _render(
        "model_card.md",
        config=config,
        data=dataset,
        published=published,
        small={TINY: "a tiny backbone", SLIM: f"a slim backbone of width {config.width}"},
        parameters=total,
        auxiliary=auxiliary,
        steps=steps_per_epoch(images, batch, SEVERAL if config.name in CONFIGS else 1),
        alone=steps_per_epoch(images, batch, 1),
        start="" if config.depth in (TINY, SLIM) else store.find(f"resnet{config.depth}_v1c").url,
        scores={"pixel_accuracy": None, **scores} if scores else {},
        one_class=one_class(scores.get("per_class_iou", {}).values()),
        source=source,
        compared=compared,
        notes=notes,
    )


def write_cards(out: Path, folders: Sequence[Path]) -> list[Path]:
    """Write the cards of the twelve and the extras, the data sets' colours, and an index.

    Args:
        out: the folder; made where there is none.
        folders: of run folders; of several scored runs of a configuration the first counts.

    Returns the files written. Raises `RunError` where a run's files cannot be read or don't say
    how it was scored, or where a card cannot be written.
    """
    found = [Run.open(path.parent) for f in folders for path in sorted(f.glob("*/config.json"))]
    scored = [run for run in found if run.scores is not None]
    texts, rows = {}, []
    for config in [*CONFIGS.values(), *EXTRAS.values()]:
        dataset = get_dataset(config.dataset)
        run = next((run for run in scored if run.config == config), None)
        others = [r for r in scored if r.config.name == config.name and r.config != config]
        notes = [*_shipped(config), *(_other(r, config) for r in others)]
        scores, about = run.scores if run else None, _of_run(run) if run else {}
        texts[f"{config.name}.md"] = model_card(config, scores, notes=notes, **about)
        texts[f"{dataset.key}.svg"] = swatches(dataset)
        rows.append((config, dataset, _parameters(config)[0], (scores or {}).get("miou")))
    texts["README.md"] = _render("model_cards.md", rows=rows)
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(out / name, text, RunError)
    return [out / name for name in texts]


def _of_run(run: Run) -> dict[str, str]:
    """Where a run's score is stored, and it beside the published one; paths are cut short."""
    beside = beside_published(run.config, run.scores or {}, deviations(run))
    uncertain = beside.difference is None and run.config.published_miou is not None
    weights = str((run.training or {}).get("weights", "none"))
    compared = (beside.verdict if uncertain else beside.line).replace(weights, _tail(weights, 2))
    source = f"{_tail(run.folder, 3)}/scores.json{_carried_out(run)}"
    return {"source": source, "compared": compared}


def swatches(dataset: Dataset) -> str:
    """The classes' colours and names as an SVG picture."""
    return _render("classes.svg", data=dataset)


def _check(config: Config, scores: Mapping[str, Any]) -> None:
    try:
        right = Protocol.from_dict(scores["protocol"]).dataset == config.dataset
    except (KeyError, RunError):
        right = False
    if not right or "miou" not in scores:
        raise RunError(
            f"these scores of {config.name} don't say how they were measured on {config.dataset}; "
            "score it again: scripts/evaluate.py"
        )


def _shipped(config: Config) -> list[str]:
    """A note on weights that come with the library, and the scores stored in their file."""
    path = Path(str(ASSETS / f"{config.name}.safetensors"))
    if not path.is_file():
        return []
    where = f"`ccnet_lab/assets/{path.name}`"
    if read_config(path) != config:
        return [f"The weights in {where} are of an earlier recipe of this name."]
    with safe_open(path, "pt") as file:
        stored = json.loads((file.metadata() or {}).get("scores", "{}"))
    titles = {name: name.replace("_", " ").replace("miou", "mIoU") for name in stored}
    listed = ", ".join(f"{titles[name]} {percent(value)} %" for name, value in stored.items())
    more = f" Stored in that file, by the script that made it: {listed}." if stored else ""
    return [f"Weights come with the library: {where}.{more}"]


def _other(run: Run, config: Config) -> str:
    recipe = ", ".join(changes(run.config, config))
    place = f"A run of this name by another recipe ({recipe}) is in {_tail(run.folder, 3)}"
    return f"{place}; its score is not this configuration's."


def _carried_out(run: Run) -> str:
    """Whose weights were scored: trained as training.json says, or published."""
    there, weights = run.training or {}, (run.scores or {}).get("weights")
    if isinstance(weights, dict):  # scored here, not trained here
        return f"; not trained here, these are the published weights `{weights.get('file')}`"
    if not {"weights", "total_steps", "seed"} <= there.keys():
        return ""
    start, steps = _tail(there["weights"], 2), there["total_steps"]
    return f"; trained from {start}, {steps:,} steps, seed {there['seed']}"


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
