"""reports/miniatures.py and trainings.py on made-up runs: numbers, what is left out, refused."""

import os
from dataclasses import replace

import miniatures as made
import numpy as np
import pytest

from ccnet_lab.app import board_page, miniature_figures, miniature_page
from ccnet_lab.app.board_views import BoardView, first_kind, open_view
from ccnet_lab.configs import CONFIGS, MINIATURES
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.generated.worlds import WORLDS
from ccnet_lab.draw.charts import BLUE, GREEN, ORANGE
from ccnet_lab.errors import RunError
from ccnet_lab.evaluation.metrics import load_confusions
from ccnet_lab.evaluation.protocol import published_protocol
from ccnet_lab.evaluation.published import SPREAD
from ccnet_lab.reports.board import board_datasets, compare_rows, read_board
from ccnet_lab.reports.miniatures import COMMAND, PARTS, read_miniatures, short
from ccnet_lab.reports.trainings import compare_recipes, is_clear
from ccnet_lab.runs import Run

T = {2: 4.303, 4: 2.776, 8: 2.306, 14: 2.145}  # Student's quantiles for 95 %, from a printed table


@pytest.fixture(autouse=True)
def nothing_kept(tmp_path, monkeypatch):
    """No published files and no measured costs but those of the test."""
    monkeypatch.setenv("CCNET_LAB_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return made.fabricate(tmp_path_factory.mktemp("made") / "runs" / "miniature")


@pytest.fixture(scope="module")
def found(folder):
    return read_miniatures([folder])


def matrices(folder, name, seed):
    """(N, K, K) counts of a run, read without the library."""
    with np.load(folder / f"seed{seed}" / name / "confusions.npz") as file:
        count, classes = len(file["names"]), int(file["num_classes"])
        rows = np.repeat(np.arange(count), np.diff(file["starts"]))
        dense = np.zeros((count, classes**2))
        dense[rows, file["cells"]] = file["counts"]
    return dense.reshape(count, classes, classes)


def iou(counts):
    """(..., K) IoU of matrices (..., K, K)."""
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    return right / (counts.sum(-1) + counts.sum(-2) - right)


def names_of(dataset):
    return [config.name for config in made.configurations(dataset)]


def test_all_runs_are_read_and_grouped(found):
    assert (found.problems, found.trained, found.wanted) == ((), 63, 63)
    assert [*found.studies] == ["voc_mini", "ade20k_mini", "cityscapes_mini"]
    for key, study in found.studies.items():
        assert [*study.configs] == names_of(key)
        assert study.four == tuple(names_of(key)[:4])
        assert {*study.seeds.values()} == {(0, 1, 2)}
        labels = [short(config) for config in study.configs.values()]
        assert labels[:4] == ["R-50-D8", "R-50-D16", "R-101-D8", "R-101-D16"]
        assert labels[4:] == ["R-50-D8, R = 0", "R-50-D8, R = 1", "R-50-D8, R = 3"]
    assert miniature_page.missing_line(found) == ""


def test_cells_are_the_means_of_the_seeds(folder, found):
    for key, study in found.studies.items():
        for name in study.configs:
            each = np.stack([iou(matrices(folder, name, seed).sum(0)) for seed in range(3)])
            assert study.cells[name][0] == pytest.approx(100 * each.mean(0))
            assert study.miou[name].value == pytest.approx(100 * each.mean())
            assert study.each[name] == pytest.approx(tuple(100 * each.mean(1)))
        pixels = made.pixels_of(key).sum(0)
        assert study.size == pytest.approx(pixels / pixels.sum())


def jackknife(folder, weights, classes):
    """The squared standard error of a weighted sum of mean IoUs over the images, one left out."""
    total = 0.0
    for name, weight in weights.items():
        for seed in range(3):
            counts = matrices(folder, name, seed)
            left = iou(counts.sum(0) - counts)[:, classes].mean(1)  # (N,)
            total = total + weight / 3 * left
    count = len(total)
    return (count - 1) / count * ((total - total.mean()) ** 2).sum()


def test_the_effect_of_the_stride_and_its_interval(folder, found):
    """Value, and an interval from leaving images out and the spread of the seeds, in NumPy."""
    key = "cityscapes_mini"
    fine8, fine16, deep8, deep16, *_ = names = names_of(key)
    weights = {fine8: 0.5, deep8: 0.5, fine16: -0.5, deep16: -0.5}
    classes = get_dataset(key).class_names
    parts = {
        "all classes": [*range(len(classes))],
        "thin": [classes.index(name) for name in WORLDS[key].thin],
        "long-range": [classes.index(name) for name in WORLDS[key].long_range],
    }
    for part, chosen in parts.items():
        means = {
            name: np.array(
                [iou(matrices(folder, name, seed).sum(0))[chosen].mean() for seed in range(3)]
            )
            for name in names
        }
        value = 100 * sum(weight * means[name].mean() for name, weight in weights.items())
        taken = [np.var(means[name], ddof=1) for name in weights]
        spread = np.mean(taken)  # 4 x 2 degrees: of those that the effect is of
        seeds = spread * sum(weight**2 / 3 for weight in weights.values())
        images = jackknife(folder, weights, chosen)
        effect = found.studies[key].effects["stride", "8 less 16"][part]
        assert effect.value == pytest.approx(value)
        assert effect.seeds == pytest.approx(100 * seeds**0.5)
        assert effect.images == pytest.approx(100 * images**0.5, rel=0.02)
        freedom = (images + seeds) ** 2 / (images**2 / 119 + seeds**2 / 8)
        assert freedom > 8
        reach = 100 * (images + seeds) ** 0.5
        assert 1.96 * reach < effect.high - effect.value < T[8] * reach * 1.02


def test_what_was_built_in_is_found_and_what_was_not_is_no_clear_difference(found):
    for study in found.studies.values():
        depth, stride = study.effects["depth", "101 less 50"], study.effects["stride", "8 less 16"]
        one, more = (study.effects["recurrence", what] for what in ("R = 2 less 1", "R = 3 less 2"))
        assert depth["all classes"].low > 0
        assert stride["thin"].low > 5
        assert not is_clear(stride["long-range"])
        assert one["long-range"].low > 5
        assert not is_clear(more["long-range"])


def test_the_classes_by_size_and_by_spread(found):
    study = found.studies["ade20k_mini"]
    table = np.stack([study.cells[name][0] for name in study.four])
    assert np.diff(study.size[study.order("class size")]).max() <= 0
    assert np.diff(np.ptp(table, axis=0)[study.order("spread")]).max() <= 0
    assert {study.class_names[k] for k in study.order("spread")[:2]} == {"cable", "lamp stand"}
    assert study.order("as listed").tolist() == [*range(26)]


def test_two_configurations_by_class_tie_by_the_spread_of_the_seeds(folder, found):
    study, key = found.studies["voc_mini"], "voc_mini"
    first, second, *_ = names_of(key)
    compared = study.compare(first, second)
    each = {
        name: np.stack([iou(matrices(folder, name, seed).sum(0)) for seed in range(3)])
        for name in (first, second)
    }
    difference = 100 * (each[first].mean(0) - each[second].mean(0))
    assert compared.difference == pytest.approx(difference)
    assert compared.miou == pytest.approx(difference.mean())
    assert (compared.trainings, compared.seeded, compared.images) == ((3, 3), True, 120)
    sure = (compared.low > 0) | (compared.high < 0)
    assert compared.ties.tolist() == (~sure).tolist()
    assert not compared.ties[study.class_names.index("wire")]
    small = np.abs(compared.difference) < SPREAD
    assert compared.ties[~sure & ~small].all()  # larger than the authors' spread, and yet ties
    back = study.compare(second, first)
    assert back.low == pytest.approx(-compared.high)
    same = study.compare(first, first)
    assert (same.verdict, same.ties.all(), same.miou) == ("tie", True, 0)
    with pytest.raises(RunError, match="no runs of ccnet_resnet50os8_ade20k_mini on voc_mini"):
        study.compare(first, "ccnet_resnet50os8_ade20k_mini")


def test_with_one_seed_the_authors_spread_decides_and_the_page_says_so(tmp_path):
    found = read_miniatures([made.fabricate(tmp_path, seeds=(0,), datasets=("voc_mini",))])
    (study,) = found.studies.values()
    assert not study.seeded
    first, second, *_ = names_of("voc_mini")
    compared = study.compare(first, second)
    assert compared.trainings == (1, 1)
    within = np.abs(compared.difference) <= SPREAD
    assert compared.ties[within].all()
    text = miniature_page.compared(study, first, second)
    assert "nothing was trained twice" in text
    assert "One training each: the intervals are over the images alone" in miniature_page.top(
        (study,), "class size"
    )
    line = miniature_page.missing_line(found)
    assert f"56 trainings not here yet: <code>{COMMAND}</code>" in line


# What is left out


def test_what_is_not_alike_is_left_out_and_named(tmp_path):
    four = made.configurations("voc_mini")[:4]
    for config in four:
        made.write(tmp_path, config, 0)
    made.write(tmp_path, four[0], 1, flip=True)
    kept = made.confusions_of(four[1], 1)
    made.write(tmp_path, four[1], 1, replace(kept, names=tuple(f"other {n}" for n in range(120))))
    made.write(tmp_path, replace(four[2], epochs=2), 1)
    made.write(tmp_path / "again", four[3], 0)
    unscored = made.write(tmp_path, four[3], 1)
    (unscored.folder / "scores.json").unlink()
    broken = made.write(tmp_path, four[0], 2)
    broken.confusions.write_bytes(b"PK")
    (tmp_path / "seed2" / "strange").mkdir()
    found = read_miniatures([tmp_path])
    assert {*found.studies["voc_mini"].seeds.values()} == {(0,)}
    reasons = "\n".join(found.problems)
    assert len(found.problems) == 7
    for reason in (
        "flip True and False",
        "scored on other images",
        "trained otherwise than the miniatures (epochs 2)",
        "has the seed of",
        "has no score yet",
        "holds no confusion matrices",
        "strange is no run folder",
    ):
        assert reason in reasons
    html = open_view("miniature", [tmp_path], None)[1].rest("class size")
    assert "7 folders not shown" in html


def test_a_run_is_read_again_only_when_its_files_have_changed(tmp_path):
    config = made.configurations("voc_mini")[0]
    run = made.write(tmp_path, config, 0)
    first = read_miniatures([tmp_path]).studies["voc_mini"]
    assert read_miniatures([tmp_path]).studies["voc_mini"] is first
    made.confusions_of(config, 5).save(run.confusions)
    os.utime(run.confusions, ns=(1, 1))
    second = read_miniatures([tmp_path]).studies["voc_mini"]
    assert second is not first
    assert second.miou[config.name].value != first.miou[config.name].value


def test_without_runs_there_is_one_quiet_line(tmp_path):
    found = read_miniatures([tmp_path / "none"])
    assert found[:3] == ({}, (), 0)
    html = open_view("miniature", [tmp_path], None)[1].top("class size")
    assert html == f"<p class='quiet'>No miniatures here yet: <code>{COMMAND}</code></p>"


# Beside the other kinds


def test_no_miniature_stands_on_a_board_of_the_full_networks(folder):
    """Not between the published, not among the problems, two levels further in or not."""
    assert board_datasets([folder]) == ["voc", "ade20k", "cityscapes"]
    for where in ([folder], [folder.parent], [folder / "seed0"]):
        for dataset in ("voc", "ade20k", "cityscapes"):
            board = read_board(where, dataset)
            assert not [row for row in board.rows if row.run]
            assert board.problems == ()
        assert read_miniatures(where).problems == ()
    assert first_kind([folder]) == "miniature"
    assert first_kind([folder / "nothing"]) == "published"


def test_a_miniature_is_not_compared_with_a_published_number(folder, tmp_path):
    small = MINIATURES["ccnet_resnet50os8_voc_mini"]
    assert small.published_miou is None
    row = next(r for r in read_board([folder], "voc_mini").rows if r.config == small)
    assert row.difference is None
    assert row.verdict.startswith("not comparable")
    full = CONFIGS["ccnet_resnet50os8_voc"]
    made.confusions_of(small, 0).save(tmp_path / "c.npz")
    run = Run.create(tmp_path / full.name, full)
    load_confusions(tmp_path / "c.npz").save(run.confusions)
    names = get_dataset("voc").class_names
    scores = {"miou": 0.7, "per_class_iou": dict.fromkeys(names, 0.7)}
    run.write_scores(scores | {"protocol": published_protocol(full).to_dict()})
    other = next(r for r in read_board([tmp_path], "voc").rows if r.run)
    with pytest.raises(RunError):
        compare_rows(row, other)
    with pytest.raises(RunError):
        read_miniatures([folder]).studies["voc_mini"].compare(small.name, full.name)


def test_miniatures_have_a_look_of_their_own(found):
    studies = tuple(found.studies.values())
    figure = miniature_figures.scatter_figure(studies[0])
    axis = figure.axes[0]
    colours = {line.get_color() for line in axis.lines}
    assert colours == {GREEN}
    assert not colours & {BLUE, ORANGE}
    (text,) = [t.get_text() for t in figure.legends[0].get_texts() if "Pareto" not in t.get_text()]
    assert text.startswith("miniature, generated data")
    html = miniature_page.top(studies, "class size") + miniature_page.numbers(studies, "spread")
    html += miniature_page.legend(studies)
    assert "Nothing here compares with a published number" in html
    for kind in ("'published'", "'measured'", "verdict"):
        assert kind not in html
    for config in CONFIGS.values():
        assert f"{config.published_miou:.2f}" not in html


def test_what_buys_nothing_is_said_in_plain_words(found):
    studies = tuple(found.studies.values())
    html = miniature_page.top(studies, "class size")
    plain = [
        effects["all classes"]
        for study in studies
        for effects in study.effects.values()
        if not is_clear(effects["all classes"])
    ]
    assert plain
    assert html.count(": no clear difference") == len(plain)
    for effect in plain:
        interval = f"{effect.low:.1f} to {effect.high:.1f}"
        assert f"{effect.value:+.1f} <small>{interval}: no clear difference</small>" in html


def test_every_cell_and_its_interval_stand_in_the_table(found):
    study = found.studies["voc_mini"]
    html = miniature_page.numbers((study,), "class size")
    for name in study.configs:
        for value, low, high in study.cells[name].T:
            assert f"{value:.1f}<small>{low:.1f} to {high:.1f}</small>" in html


# Figures


def test_the_heat_map_has_a_block_for_each_data_set(found):
    studies = tuple(found.studies.values())
    figure = miniature_figures.heat_figure(studies, "class size")
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["Objects", "Streets", "Rooms"]
    for axis in figure.axes:
        study = next(s for s in studies if s.title == axis.get_title(loc="left"))
        order = study.order("class size")
        drawn = axis.collections[0].get_array()
        expected = np.stack([study.cells[name][0][order] for name in study.four])
        assert np.asarray(drawn) == pytest.approx(expected)
        texts = [text.get_text() for text in axis.texts]
        assert [study.class_names[k] for k in order] == [t for t in texts if t in study.class_names]
        assert f"R-50-D8  {study.miou[study.four[0]].value:.1f}" in texts
    figure.draw_without_rendering()
    box = figure.bbox
    for text in (text for axis in figure.axes for text in axis.texts):
        found_box = text.get_window_extent()
        assert box.x0 - 1 <= found_box.x0
        assert found_box.x1 <= box.x1 + 1
        assert box.y0 - 1 <= found_box.y0


def test_the_effects_are_drawn_hollow_where_nothing_is_clear(found):
    studies = tuple(found.studies.values())
    figure = miniature_figures.factors_figure(studies)
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert titles == ["depth, 101 less 50", "stride, 8 less 16", "recurrence, R ="]
    effects = [s.effects["stride", "8 less 16"][part] for s in studies for part in PARTS]
    marks = [line for line in figure.axes[1].lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in marks] == [effect.value for effect in effects]
    hollow = [line.get_markerfacecolor() == "white" for line in marks]
    assert hollow == [not is_clear(effect) for effect in effects]
    assert any(hollow)
    assert not all(hollow)


def test_the_front_of_cost_and_miou(found):
    study = found.studies["voc_mini"]
    front = study.front({name: float(k) for k, name in enumerate(study.configs)})
    best = -1.0
    for name in study.configs:
        assert front[name] == (study.miou[name].value > best)
        best = max(best, study.miou[name].value)


# Full networks that were trained several times


def full(folder, config, seed, gain, changes=None):
    """A run of one of the twelve on made-up VOC images."""
    classes, rng = 21, np.random.default_rng(seed)
    pixels = np.random.default_rng(0).integers(50, 500, (60, classes))
    luck = rng.normal(0, 0.02, classes)
    right = np.rint(pixels * (0.7 + gain + luck).clip(0, 1)).astype(int)
    own = np.arange(classes)
    cells = np.concatenate([own * classes + own, own * classes + (own + 1) % classes])
    counts = np.concatenate([right, pixels - right], axis=1)
    names = [str(n) for n in range(60)]
    kept = made.Confusions.collect(names, classes, [(cells, row) for row in counts])
    run = Run.create(folder / f"seed{seed}" / config.name, config)
    kept.save(run.confusions)
    run.write_training({"seed": seed, "weights": "imagenet"})
    protocol = replace(published_protocol(config), **(changes or {})).to_dict()
    found = iou(np.array([kept.total()]))[0]
    per_class = dict(zip(get_dataset("voc").class_names, map(float, found), strict=True))
    run.write_scores(
        {"miou": float(found.mean()), "per_class_iou": per_class, "protocol": protocol}
    )


def test_full_networks_with_seeds_tie_by_their_own_spread(tmp_path):
    one, other = CONFIGS["ccnet_resnet50os8_voc"], CONFIGS["ccnet_resnet101os8_voc"]
    for seed in range(3):
        full(tmp_path, one, seed, 0.0)
        full(tmp_path, other, seed + 3, 0.012)
    board = read_board([tmp_path], "voc")
    rows = {row.label: row for row in board.rows if row.run}
    assert len(rows) == 6
    first, second = rows[f"{one.name} (seed0)"], rows[f"{other.name} (seed4)"]
    compared = compare_recipes(board, first, second)
    assert (compared.trainings, compared.labels) == ((3, 3), ("R-50-D8", "R-101-D8"))
    mean = {
        name: np.mean([row.miou for row in rows.values() if row.config.name == name])
        for name in (one.name, other.name)
    }
    assert compared.miou == pytest.approx(mean[one.name] - mean[other.name])
    text = board_page.comparison_html(compared)
    assert "the seeds of 3 and 3 trainings" in text
    assert "not known" not in text
    alone = compare_recipes(board, first, rows[f"{one.name} (seed1)"])
    assert alone.trainings == (1, 1)
    assert "not known" in board_page.comparison_html(alone)
    assert compare_rows(first, second).trainings == (1, 1)


def test_full_networks_measured_otherwise_are_refused_with_seeds_too(tmp_path):
    one, other = CONFIGS["ccnet_resnet50os8_voc"], CONFIGS["ccnet_resnet101os8_voc"]
    for seed in range(2):
        full(tmp_path, one, seed, 0.0)
        full(tmp_path, other, seed + 2, 0.0, {"flip": True})
    board = read_board([tmp_path], "voc")
    rows = {row.label: row for row in board.rows if row.run}
    with pytest.raises(RunError, match="flip False and True"):
        compare_recipes(board, rows[f"{one.name} (seed0)"], rows[f"{other.name} (seed2)"])
    view = BoardView([tmp_path], "voc", measured=True)
    html = view.compare(f"{one.name} (seed0)", f"{other.name} (seed2)")
    assert "flip False and True" in html


def test_some_of_the_runs_are_enough(tmp_path):
    """A configuration or two, a class that no image has, a single R: shown, nothing made up."""
    four = made.configurations("voc_mini")
    kept = made.confusions_of(four[0], 0)
    keep = (kept.cells // 13 != 12) & (kept.cells % 13 != 12)
    starts = np.array([keep[:start].sum() for start in kept.starts])
    without = replace(kept, starts=starts, cells=kept.cells[keep], counts=kept.counts[keep])
    made.write(tmp_path, four[0], 0, without)
    made.write(tmp_path, made.configurations("ade20k_mini")[5], 0)  # R = 1 alone
    found = read_miniatures([tmp_path])
    assert (found.trained, found.problems) == (2, ())
    first, second = studies = tuple(found.studies.values())
    assert first.effects == second.effects == {}
    assert np.isnan(first.cells[four[0].name][:, 12]).all()
    assert first.order("spread")[-1] == 12
    for order in ("class size", "spread", "as listed"):
        html = miniature_page.top(studies, order)
        assert html.count("<img") == 1
        assert "<table" not in html
        assert "nan" not in miniature_page.numbers(studies, order)
    view = open_view(None, [tmp_path], None)[1]
    assert view.compare(None, None) == ""
    assert "<img" in view.scatter(view.prices[0])
    assert "nan" not in view.compare(four[0].name, four[0].name).partition("<img")[0]
