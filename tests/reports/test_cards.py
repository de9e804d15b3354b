"""reports/cards.py: the committed cards are what is made, and each number has its source."""

import re
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from ccnet_lab import CONFIGS, build_model, get_config
from ccnet_lab.configs import EXTRAS
from ccnet_lab.data.catalog import DATASETS, get_dataset
from ccnet_lab.errors import RunError
from ccnet_lab.evaluation.protocol import published_protocol
from ccnet_lab.evaluation.published import REPEATS, SPREAD
from ccnet_lab.reports.cards import model_card, swatches, write_cards
from ccnet_lab.runs import Run

ROOT = Path(__file__).parents[2]
CARDS = ROOT / "results" / "cards"
ALL = {**CONFIGS, **EXTRAS}
PLAIN = "ccnet_resnet50os16_cityscapes"
# Numbers that measure nothing: 95 % intervals, the 3x3 stem, licences' versions, ResNet-101.
WORDING = {"3", "95", "2.0", "4.0", "101"}


def scores_of(config, miou=0.7711):
    """Scores as an evaluation stores them, every number another one."""
    names = get_dataset(config.dataset).class_names
    return {
        "miou": miou,
        "miou_interval": [miou - 0.0123, miou + 0.0134],
        "pixel_accuracy": 0.9512,
        "boundary_iou": 0.6021,
        "per_class_iou": {name: 0.31 + 0.0123 * i for i, name in enumerate(names)},
        "per_class_boundary_iou": {
            name: None if i == 1 else 0.21 + 0.0117 * i for i, name in enumerate(names)
        },
        "protocol": {**published_protocol(config).to_dict(), "names_crc32": "0badcafe"},
    }


def numbers(text):
    """Those that can be read in a card, apart from addresses, names, colours and what is typed."""
    text = re.sub(
        r"```.*?```|`[^`]*`|https?://\S+|\]\([^)]*\)|ccnet_resnet\w+|3x3|stage 3"
        r"|[A-Z]+-\d(?=;)|SegNet-\w+",
        " ",
        text,
        flags=re.S,
    )
    return {
        number.replace(",", "")
        for number in re.findall(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?![\d])", text)
    }


def sources(config, scores=None):
    """Every number a configuration's card may hold, from where it stands."""
    dataset = get_dataset(config.dataset)
    with torch.device("meta"):
        model = build_model(config)
    steps = dataset.train_images // config.batch_size
    several = 372 if dataset.key == "cityscapes" else steps  # as its publisher's log counts them
    whole = sum(p.numel() for p in model.parameters())
    aux = sum(
        p.numel() for name, p in model.named_parameters() if name.startswith("aux_classifier.")
    )
    recipe = (
        "depth output_stride width channels query_channels recurrence epochs batch_size lr min_lr "
        "momentum weight_decay power aux_weight"
    )
    plain = [*(getattr(config, name) for name in recipe.split()), *config.crop_size, *config.resize]
    plain += [several, config.epochs * several, steps, config.epochs * steps, whole, aux]
    plain += [dataset.train_images, dataset.val_images, *range(dataset.num_classes + 1)]
    found = WORDING | {f"{value:.12g}" for value in plain} | set(re.findall(r"\d+", dataset.title))
    found |= {
        f"{value:.2f}"
        for values in REPEATS.values()
        for value in (*values, max(values) - min(values))
    }
    found |= {f"{max(values) - min(values):.1f}" for values in REPEATS.values()} | {
        name.split()[2] for name in REPEATS
    }
    found |= set() if config.published_miou is None else {f"{config.published_miou:.2f}"}
    if scores:
        fractions = [scores["miou"], *scores["miou_interval"], scores["pixel_accuracy"]]
        fractions += [
            v
            for name in ("per_class_iou", "per_class_boundary_iou")
            for v in scores[name].values()
            if v is not None
        ]
        found |= {f"{100 * value:.2f}" for value in fractions} | {
            f"{scale:g}" for scale in scores["protocol"]["scales"]
        }
    return found


@pytest.fixture(scope="module")
def script():
    """scripts/make_cards.py as a module."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import make_cards
    finally:
        sys.path.pop(0)
    return make_cards


def test_the_committed_cards_are_what_the_script_makes(script, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["make_cards.py", "--out", str(tmp_path)])
    script.main()
    written = list(tmp_path.iterdir())
    assert {path.name for path in written} == {path.name for path in CARDS.iterdir()}
    assert {f"{name}.md" for name in ALL} < {path.name for path in written}
    for path in written:
        assert path.read_text(encoding="utf-8") == (CARDS / path.name).read_text(
            encoding="utf-8"
        ), f"{path.name} is old: python scripts/make_cards.py"


@pytest.mark.parametrize(
    "name", [PLAIN, "ccnet_resnet101os8_ade20k", "ccnet_resnet50os8_voc", "street8", "demo_r1"]
)
def test_every_number_on_a_card_has_its_source(name):
    config = get_config(name)
    assert numbers(model_card(config)) <= sources(config)
    scores = scores_of(config)
    card = model_card(config, scores, source="runs/x/scores.json")
    assert numbers(card) <= sources(config, scores)
    told = [
        scores["miou"],
        *scores["miou_interval"],
        scores["pixel_accuracy"],
        *scores["per_class_iou"].values(),
    ]
    assert {f"{100 * value:.2f}" for value in told} <= numbers(card)


def test_a_card_says_what_was_published_where_and_that_nothing_was_measured():
    for config in CONFIGS.values():
        card = model_card(config)
        assert f"**{config.published_miou:.2f} %**" in card
        assert f"{config.published_url}\n" in card
        assert f"{config.published_log_url}\n" in card
        assert (
            "SSSegmentation's table,\nhttps://github.com/SegmentationBLWX/sssegmentation/" in card
        )
        assert "**Not measured here**" in card
        assert f"python scripts/evaluate.py {config.name} --data ROOT" in card
        assert "Apache-2.0" in card
    for name in EXTRAS:
        assert "Nothing: this configuration is this repository's own." in model_card(name)
    assert "77.94" not in model_card(
        replace(get_config(PLAIN), recurrence=3)
    )  # a variation has no published score


def test_a_measured_score_stands_with_its_protocol_and_is_compared_only_by_those_who_may():
    config = get_config(PLAIN)
    scores = scores_of(config)
    card = model_card(config, scores, source="runs/x/scores.json")
    assert "mIoU **77.11 %** (95 % over the images: 75.88 to 78.45), pixel accuracy 95.12 %" in card
    assert "From runs/x/scores.json." in card
    assert (
        "Protocol: val, 500 images, whole images fitted into 2048 x 1024, "
        "scales 1, no flip, fp32, R = 2." in card
    )
    assert "Beside the published score: not compared." in card
    assert "| 1 | `#f423e8` | sidewalk | 32.23 | - |" in card
    assert "Not measured here" not in card
    scores["protocol"] |= {
        "mode": "slide",
        "window": [512, 1024],
        "scales": [0.5, 1.0],
        "flip": True,
        "recurrence": 3,
    }
    card = model_card(config, scores, compared="a verdict")
    assert (
        "windows of 512 x 1024 fitted into 2048 x 1024, scales 0.5, 1, flip, fp32, R = 3." in card
    )
    assert "Beside the published score: a verdict." in card
    with pytest.raises(RunError, match=r"scripts/evaluate\.py"):
        model_card("ccnet_resnet50os8_voc", scores)
    for wrong in (
        {"miou": 0.5},
        {**scores, "protocol": {"dataset": "cityscapes"}},
        {"protocol": scores["protocol"]},
    ):
        with pytest.raises(RunError, match="don't say how they were measured"):
            model_card(config, wrong)


def test_cards_of_a_folder_of_runs(tmp_path):
    """Runs like the published recipe, of another protocol, of another recipe of a known name."""
    made = {
        PLAIN: get_config(PLAIN),
        "other": replace(get_config("street8"), epochs=3),
        "slid": get_config("ccnet_resnet50os8_cityscapes"),
    }
    for name, config in made.items():
        run = Run.create(tmp_path / "runs" / name, config)
        scores = scores_of(config)
        if name == "slid":
            scores["protocol"] |= {"scales": [1.0, 2.0]}
        run.write_scores(scores)
        run.write_training(
            {
                "weights": "/somewhere/far/run8/model.safetensors" if name == PLAIN else "imagenet",
                "total_steps": 81620,
                "seed": 7,
            }
        )
    Run.create(tmp_path / "runs" / "unscored", get_config("demo"))
    write_cards(tmp_path / "cards", [tmp_path / "runs"])
    card, slid, street = (
        (tmp_path / "cards" / f"{name}.md").read_text()
        for name in (PLAIN, "ccnet_resnet50os8_cityscapes", "street8")
    )
    assert "scores.json; trained from run8/model.safetensors, 81,620 steps, seed 7." in card
    assert "somewhere" not in card
    assert "Beside the published score: not comparable: weights" in card
    assert (
        "not comparable: these scores were measured in different ways: scales (1.0, 2.0) and (1.0,)"
        in slid
    )
    assert "**Not measured here**" in street
    assert "by another recipe (epochs 3) is in" in street
    assert "77.11" not in street
    index = (tmp_path / "cards" / "README.md").read_text()
    assert re.search(
        rf"\| \[{PLAIN}\]\({PLAIN}.md\) \| Cityscapes \| [\d,]+ \| 77.94 \| 77.11 \|", index
    )
    assert re.search(r"\| \[street8\]\(street8.md\) \| CamVid \| [\d,]+ \| - \| - \|", index)


def test_a_run_like_the_published_one_is_set_beside_it(tmp_path):
    run = Run.create(tmp_path / "x", get_config(PLAIN))
    run.write_scores(scores_of(run.config))
    run.write_training({"weights": "imagenet"})
    write_cards(tmp_path / "cards", [tmp_path])
    card = (tmp_path / "cards" / f"{PLAIN}.md").read_text()
    assert (
        "Beside the published score: mIoU 77.11 %, published 77.94 % under the same protocol"
    ) in card


def test_terms_stand_in_the_catalog_and_on_the_card(monkeypatch):
    for key in ("voc", "ade20k", "cityscapes", "camvid", "beacons"):
        assert get_dataset(key).terms
    assert all(
        get_dataset(config.dataset).terms in model_card(config)
        for config in (ALL[PLAIN], ALL["street8"], ALL["demo"])
    )
    assert "non-commercial" in DATASETS["cityscapes"].terms
    assert "CC BY-NC" in DATASETS["camvid"].terms
    monkeypatch.setitem(DATASETS, "camvid", replace(DATASETS["camvid"], terms=""))
    assert "- data, CamVid: no terms are known here" in model_card("street8")


def test_the_spread_is_that_of_the_tables():
    least, most = (
        pick(max(values) - min(values) for values in REPEATS.values()) for pick in (min, max)
    )
    assert round(most, 1) == SPREAD
    assert f"varies by {least:.1f} to {SPREAD:.1f} points" in model_card(PLAIN)


def test_every_class_has_its_colour_in_the_table_and_in_the_picture():
    for key in ("voc", "ade20k", "cityscapes", "camvid", "beacons"):
        dataset = get_dataset(key)
        picture = ElementTree.fromstring(swatches(dataset))
        squares = [part.get("fill") for part in picture if part.tag.endswith("rect")]
        names = [part.text for part in picture if part.tag.endswith("text")]
        colours = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in dataset.palette]
        assert squares == colours
        assert names == [f"{number} {name}" for number, name in enumerate(dataset.class_names)]
        config = next(config for config in ALL.values() if config.dataset == key)
        card = model_card(config)
        assert all(
            f"| {n} | `{colours[n]}` | {name} |" in card
            for n, name in enumerate(dataset.class_names)
        )
        assert f"]({key}.svg)" in card


def test_the_script_refuses_scores_without_a_protocol(script, tmp_path, monkeypatch, capsys):
    run = Run.create(tmp_path / "runs" / "x", get_config("ccnet_resnet50os8_voc"))
    run.write_scores({"miou": 0.5})
    monkeypatch.setattr(
        sys,
        "argv",
        ["make_cards.py", "--out", str(tmp_path / "cards"), "--runs", str(tmp_path / "runs")],
    )
    with pytest.raises(SystemExit, match="2"):
        script.main()
    assert (
        "these scores of ccnet_resnet50os8_voc don't say how they were measured"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "cards").exists()
