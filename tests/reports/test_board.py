"""reports/board.py, its charts and its HTML, evaluation/published.py.

What is shown, refused and marked as a tie; and whether the intervals hold.
"""

import dataclasses
import time

import numpy as np
import pytest
from matplotlib.colors import to_hex

from ccnet_lab.app import board_figures, board_page
from ccnet_lab.configs import CONFIGS, get_config
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.draw.charts import (
    GREY,
    ORANGE,
    Point,
    class_heatmap,
    cost_scatter,
    difference_bars,
    distribution_figure,
)
from ccnet_lab.errors import RunError
from ccnet_lab.evaluation.metrics import Confusions, bootstrap_interval, paired_intervals, scores
from ccnet_lab.evaluation.protocol import published_protocol
from ccnet_lab.evaluation.published import REPEATS, SPREAD, peers, tie_or
from ccnet_lab.reports.board import (
    board_datasets,
    compare_rows,
    image_scores,
    ordered,
    pareto,
    read_board,
)
from ccnet_lab.runs import Run


def whole(board, by="configuration", descending=False, costs=True):
    """All of a board's HTML, as configurations_tab.py puts it together."""
    parts = [
        board_page.board_table(board, by, descending, costs),
        board_page.LEGEND,
        board_page.problems_html(board.problems),
    ]
    return "".join([*parts, board_page.missing_list(board, costs), board_page.peers_table(board)])


@pytest.fixture(autouse=True)
def nothing_kept(tmp_path, monkeypatch):
    """No published files and no measured costs but those of the test."""
    monkeypatch.setenv("CCNET_LAB_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def images(rng, presence, accuracy, count):
    """Confusion matrices (count, K, K) of made images; class k occurs in presence[k] of them."""
    classes = len(presence)
    there = rng.random((count, classes)) < presence
    there[:, 0] = True
    size = there * rng.gamma(1.0, 1.0, (count, classes))
    size *= 1000 / size.sum(1, keepdims=True)
    right = size * rng.beta(4 * accuracy, 4 * (1 - accuracy), (count, classes))
    taken_for = (
        rng.dirichlet(np.ones(classes), count)[:, None] * presence * (1 - np.eye(classes))
    )  # (count, K, K)
    matrices = taken_for / taken_for.sum(-1, keepdims=True) * (size - right)[..., None]
    matrices[:, np.arange(classes), np.arange(classes)] = right
    return np.rint(matrices).astype(np.int64)


def kept(matrices):
    flat = matrices.reshape(len(matrices), -1)
    rows, cells = np.nonzero(flat)
    starts = np.searchsorted(rows, np.arange(len(flat) + 1))
    names = tuple(f"image {i}" for i in range(len(flat)))
    return Confusions(
        names,
        matrices.shape[1],
        starts,
        cells.astype(np.uint16),
        flat[rows, cells].astype(np.uint32),
    )


def write_run(folder, config, confusions=None, miou=None, changes=(), training=None, **more):
    """A finished run as an evaluation leaves it."""
    names, run = get_dataset(config.dataset).class_names, Run.create(folder, config)
    iou = scores(confusions.total()).iou if confusions else np.full(len(names), miou)
    if confusions:
        confusions.save(run.confusions)
        miou = scores(confusions.total()).miou
    protocol = dataclasses.replace(published_protocol(config), **dict(changes))
    classes = {
        name: None if np.isnan(value) else float(value)
        for name, value in zip(names, iou, strict=True)
    }
    found = {
        "miou": miou,
        "miou_interval": [miou - 0.01, miou + 0.01],
        "per_class_iou": classes,
        "protocol": protocol.to_dict(),
    }
    run.write_scores(found | more)
    if training:
        run.write_training(training)
    return run


# What is published, and by whom


def test_the_spread_is_the_repeats():
    assert max(max(values) - min(values) for values in REPEATS.values()) == pytest.approx(1.34)
    assert SPREAD == 1.3
    assert [tie_or(value) for value in (1.3, -1.3, 1.31, -1.31)] == ["tie", "tie", "above", "below"]


def test_every_peer_has_a_source_and_a_protocol():
    published = {key: peers(key) for key in ("voc", "ade20k", "cityscapes", "camvid")}
    numbers = [sum(len(p.miou) for p in found) for found in published.values()]
    assert numbers == [16, 16, 16, 0]
    every = [p for found in published.values() for p in found]
    fcn = {(p.dataset, name): p.miou[name] for p in every if p.network == "FCN" for name in p.miou}
    assert (fcn["ade20k", "R-101-D16"], fcn["cityscapes", "R-50-D8"]) == (40.15, 75.16)
    others = {p.schedule: p.miou for p in published["cityscapes"] if p.project == "mmsegmentation"}
    assert others == {
        "40,000 steps": {"R-50-D8": 77.76, "R-101-D8": 76.35},
        "80,000 steps": {"R-50-D8": 79.03, "R-101-D8": 78.87},
    }
    for key in ("voc", "ade20k", "cityscapes"):
        first, *rest = published[key]
        twelve = [config for config in CONFIGS.values() if config.dataset == key]
        assert [*first.miou.values()] == [config.published_miou for config in twelve]
        names = [f"R-{config.depth}-D{config.output_stride}" for config in twelve]
        assert [*first.miou] == names
        assert all("not checked here" in p.protocol for p in rest)
    assert all(p.source.startswith("https://github.com/") for p in every)


@pytest.mark.parametrize("dataset", ["voc", "ade20k", "cityscapes"])
def test_without_runs_the_board_is_the_published_side_and_what_to_type(dataset, tmp_path):
    board = read_board([tmp_path / "none"], dataset)
    assert [row.config for row in board.rows] == [
        config for config in CONFIGS.values() if config.dataset == dataset
    ]
    assert all(row.miou is None and not row.iou and row.verdict == "" for row in board.rows)
    html = whole(board, costs=False)
    for row in board.rows:
        assert f"<td class='published'>{row.published:.2f}</td>" in html
        assert f"python scripts/train.py {row.label} --data ROOT --runs runs" in html
        assert (
            f"python scripts/zoo.py get {row.label} "
            "&amp;&amp; python scripts/evaluate.py --published" in html
        )
    command = f"python scripts/train_all.py --data ROOT --runs runs --only &#39;*_{dataset}&#39;"
    line = f"<summary>Not here yet: 4 of 4 scores · <code>{command}</code></summary>"
    assert f"<details class='lacking quiet'>{line}" in html
    assert ">missing<" not in html
    assert "class='measured'>" not in html.replace(board_page.LEGEND, "")
    for peer in peers(dataset):
        assert peer.source in html
        assert all(f"{miou:.2f}" in html for miou in peer.miou.values())


# Runs beside it


def test_verdicts_ties_and_what_is_not_compared(tmp_path):
    fifty, hundred = CONFIGS["ccnet_resnet50os8_voc"], CONFIGS["ccnet_resnet101os8_voc"]
    write_run(tmp_path / "a" / fifty.name, fifty, miou=0.7743 - 0.0129)
    write_run(
        tmp_path / "a" / hundred.name,
        hundred,
        miou=0.7802 - 0.0131,
        training={"weights": "imagenet"},
    )
    write_run(
        tmp_path / "b" / fifty.name,
        fifty,
        miou=0.9,
        changes={"precision": "bf16"},
        training={"weights": "imagenet"},
    )
    write_run(
        tmp_path / "b" / "short", hundred, miou=0.9, training={"steps": 100, "weights": "imagenet"}
    )
    write_run(
        tmp_path / "b" / "published" / fifty.name, fifty, miou=0.7743, weights={"file": "x.pth"}
    )
    board = read_board([tmp_path / "a", tmp_path / "b"], "voc")
    assert board.problems == ()
    assert len({row.label for row in board.rows}) == len(board.rows) == 7
    rows = {row.label: row for row in board.rows}
    tie, below = rows[f"{fifty.name} (a)"], rows[f"{hundred.name} (a)"]
    assert (tie.verdict, round(tie.difference, 2)) == ("tie", -1.29)
    assert (below.verdict, below.whose) == ("below", "trained here")
    unlike, short = rows[f"{fifty.name} (b)"], rows[f"{hundred.name} (short)"]
    assert "precision 'bf16' and 'fp32'" in unlike.verdict
    assert (unlike.difference, short.difference, short.changed) == (None, None, ("100 steps",))
    assert rows[f"{fifty.name} (published)"].whose == "published weights, scored here"
    html = board_page.board_table(board, costs=False)
    assert html.count("verdict tie") == 2
    assert html.count("verdict below") == 1
    assert "verdict above" not in html
    assert "100 steps" in html


def test_a_bad_folder_is_named_and_hides_nothing(tmp_path):
    config = CONFIGS["ccnet_resnet50os16_voc"]
    write_run(tmp_path / config.name, config, miou=0.76)
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text('{"model": "other"}')
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "config.json").write_text('{"dataset": "voc", "dep')
    for name, change in (("half", ""), ("alien", '{"miou": 0.5}'), ("list", "[1]"), ("odd", None)):
        run = write_run(tmp_path / name, config, miou=0.5)
        text = (run.folder / "scores.json").read_text()
        (run.folder / "scores.json").write_text(
            text[:200] if change == "" else change or text.replace('"miou": 0.5', '"miou": "high"')
        )
    (tmp_path / "notes.txt").write_text("a file is no run")
    board = read_board([tmp_path], "voc")
    assert [row.miou for row in board.rows] == [None, pytest.approx(76), None, None]
    bad = ["alien", "cut", "empty", "foreign", "half", "list", "odd"]
    assert len(board.problems) == len(bad)
    for name, problem in zip(bad, board.problems, strict=True):
        assert str(tmp_path / name) in problem
    assert "it has no config.json" in board.problems[bad.index("empty")]
    html = whole(board, costs=False)
    assert f"<summary>{len(bad)} folders not shown</summary>" in html
    assert html.index("</table>") < html.index("folders not shown")
    assert "1 folder not shown" in board_page.problems_html(["<a>"])
    assert "<a>" not in board_page.problems_html(["<a>"])
    assert board_page.problems_html(()) == ""
    assert board_datasets([tmp_path]) == ["voc", "ade20k", "cityscapes"]
    assert (
        read_board(str(tmp_path), "voc").problems
        == read_board(tmp_path, "voc").problems
        == board.problems
    )
    assert board_datasets(tmp_path / config.name / "..") == ["voc", "ade20k", "cityscapes"]


def test_what_the_system_refuses_is_named_and_hides_nothing(tmp_path):
    write_run(tmp_path / "street", get_config("street"), miou=0.7)
    (tmp_path / "itself").symlink_to(tmp_path / "itself")  # the system follows it to no end
    (tmp_path / "locked").mkdir(mode=0)
    board = read_board([tmp_path], "camvid")
    assert [row.label for row in board.rows] == ["street"]
    assert [
        str(tmp_path / name) in problem
        for name, problem in zip(("locked", "itself"), board.problems, strict=True)
    ] == [True, True]
    assert "camvid" in board_datasets([tmp_path])
    (top,) = read_board([tmp_path / "itself"], "camvid").problems
    assert str(tmp_path / "itself") in top


def test_links_multiply_no_run(tmp_path):
    write_run(tmp_path / "street", get_config("street"), miou=0.7)
    write_run(tmp_path / "published" / "street8", get_config("street8"), miou=0.6)
    (tmp_path / "published" / "up").symlink_to(tmp_path)
    for name, target in (
        ("again", tmp_path),
        ("latest", tmp_path / "street"),
        ("other", tmp_path / "published"),
    ):
        (tmp_path / name).symlink_to(target)
    rows = read_board([tmp_path, tmp_path / "again"], "camvid").rows
    assert sorted(row.run.folder for row in rows) == [
        tmp_path / "published" / "street8",
        tmp_path / "street",
    ]


# Measured otherwise


OTHERWISE = dict(
    mode="slide", window=(512, 512), stride=(341, 341), flip=True, scales=(0.5, 1.0, 1.5)
)


def unlike_board(tmp_path):
    ways = {
        "ccnet_resnet50os8_voc": {},
        "ccnet_resnet101os8_voc": OTHERWISE,
        "ccnet_resnet50os16_voc": dict(images=10),
    }
    for (name, changes), miou in zip(ways.items(), (0.772, 0.81, 0.9), strict=True):
        write_run(tmp_path / name, CONFIGS[name], miou=miou, changes=changes)
    return read_board([tmp_path], "voc")


def test_rows_measured_otherwise_say_how_and_stand_apart(tmp_path):
    board = unlike_board(tmp_path)
    html = board_page.board_table(board, costs=False)
    assert "<small>slide · flip · scales 0.5 1 1.5</small></td>" in html
    assert "<small>10 images</small></td>" in html
    for by in ("measured mIoU", "difference", "bicycle"):
        assert ordered(board, by, descending=True)[0].short == "R-50-D8"
    shown = [
        "R-50-D8, measured here",
        "R-50-D16, 10 images",
        "R-101-D8, slide, flip, scales 0.5 1 1.5",
        "R-101-D16, missing",
    ]
    assert list(board.heat_rows("measured mIoU", descending=True)) == shown
    figure = board_figures.heat_figure(board, "measured mIoU", descending=True)
    assert [
        text.get_text()
        for text in figure.axes[0].texts
        if (text.get_ha(), text.get_rotation()) == ("right", 0)
    ] == shown
    axis = board_figures.scatter_figure(board).axes[0]
    crosses, dots = markers(axis, "measured otherwise"), markers(axis, "measured here")
    heights = sorted(y for _, y in crosses.get_offsets()), [y for _, y in dots.get_offsets()]
    assert heights == ([81.0, 90.0], [pytest.approx(77.2)])
    assert len(crosses.get_paths()[0].vertices) == 4  # two strokes
    fronts = [
        line.get_ydata().tolist()
        for line in axis.lines
        if line.get_linestyle() == "-" and line.get_color() == ORANGE
    ]
    assert to_hex(dots.get_facecolor()[0]) == ORANGE
    assert [pytest.approx(77.2)] in fronts
    assert not any(90.0 in front for front in fronts)


def markers(axis, name):
    (found,) = (points for points in axis.collections if points.get_label().startswith(name))
    return found


def test_where_nothing_is_published_most_rows_say_what_is_alike(tmp_path):
    for name, changes in {
        "a": OTHERWISE,
        "b": OTHERWISE | {"names_crc32": "1"},
        "c": {},
        "d": {"recurrence": 1} | OTHERWISE,
    }.items():
        write_run(
            tmp_path / name,
            dataclasses.replace(get_config("street"), alias=name),
            miou=0.5,
            changes=changes,
        )
    board = read_board([tmp_path], "camvid")
    slid = ("slide", "flip", "scales 0.5 1 1.5")
    assert {row.label: (row.alike, row.how) for row in board.rows} == {
        "a": (True, slid),
        "b": (True, slid),
        "c": (False, ("whole", "no flip", "scales 1")),
        "d": (False, (*slid, "R = 1")),
    }


def test_the_classes_of_the_heat_map_take_the_order_of_the_first_row(tmp_path):
    a, b = two_runs(tmp_path)
    board = read_board([tmp_path], "camvid")
    assert list(board.heat_rows("measured mIoU")) == [
        "street8, measured here",
        "street, measured here",
    ]
    for by, first in (("measured mIoU", b), ("street, measured here", a)):
        figure = board_figures.heat_figure(board, by)
        assert class_labels(figure) == sorted(first.iou, key=lambda name: -first.iou[name])
    assert class_labels(board_figures.heat_figure(board, "parameters")) == list(board.class_names)


def class_labels(figure):
    return [
        text.get_text()
        for axis in figure.axes
        if axis.texts
        for text in axis.texts
        if text.get_rotation() == 60
    ]


def test_a_run_of_one_image_has_no_interval(tmp_path):
    for name, gain in (("a", 0), ("b", 300)):
        matrices = np.diag([1000] * 11)[None]
        matrices[:, 0, 1] = 500 - gain
        run = write_run(
            tmp_path / name, dataclasses.replace(get_config("street"), alias=name), kept(matrices)
        )
        run.write_scores(run.scores | {"miou_interval": [None, None]})
    board = read_board([tmp_path], "camvid")
    assert [row.interval for row in board.rows] == [None, None]
    found = compare_rows(*board.rows)
    assert np.isnan(found.interval).all()
    assert found.ties.all()
    assert found.verdict == "tie"
    assert "nan" not in board_page.comparison_html(found) + board_page.board_table(
        board, costs=False
    )
    assert board_figures.comparison_figure(found).axes[0].patches


def test_an_unfinished_run_says_how_to_go_on(tmp_path):
    config = CONFIGS["ccnet_resnet50os16_voc"]
    run = Run.create(tmp_path / config.name, config)
    (row,) = (row for row in read_board([tmp_path], "voc").rows if row.run)
    assert (
        row.missing[0].command
        == f"python scripts/train.py {config.name} --data ROOT --runs {tmp_path} --resume"
    )
    run.weights.write_bytes(b"trained")
    (row,) = (row for row in read_board([tmp_path], "voc").rows if row.run)
    assert row.missing[0].command == f"python scripts/evaluate.py {run.folder} --data ROOT"


def test_the_publishers_log_fills_its_own_kind(nothing_kept):
    config = CONFIGS["ccnet_resnet50os8_voc"]
    names = get_dataset("voc").class_names
    iou = {name: round(0.5 + 0.02 * k, 4) for k, name in enumerate(names)}
    said = {"iou": iou, "miou": sum(iou.values()) / len(iou)}
    (nothing_kept / "logs").mkdir(parents=True)
    stamp = "2020-12-01 10:00:00 INFO     "
    step = "[EPOCH]: 60/60, [BATCH]: 661/661, [LEARNING_RATE]: 0.0001\n\t[LOSS]: total 0.1, "
    text = f"{stamp}{step}\n{stamp}{said}\n"
    (nothing_kept / "logs" / f"{config.name}_train.log").write_text(text)
    board = read_board([], "voc")
    row = board.row(config.name)
    assert row.log_iou["bicycle"] == pytest.approx(100 * iou["bicycle"])
    assert row.miou is None
    assert list(board.heat_rows()) == [
        "R-50-D8, publisher's log",
        "R-50-D16, missing",
        "R-101-D8, missing",
        "R-101-D16, missing",
    ]
    best = ordered(board, "bicycle", descending=True)
    assert best[0] is row
    html = board_page.board_table(board, "bicycle", costs=False)
    assert f"<td class='published'>{100 * iou['bicycle']:.2f}</td>" in html
    with pytest.raises(RunError, match="did you mean 'bicycle'"):
        ordered(board, "bicycl")


def test_sorting_puts_the_missing_last(tmp_path):
    for name, miou in (("ccnet_resnet50os16_voc", 0.5), ("ccnet_resnet101os8_voc", 0.6)):
        write_run(tmp_path / name, CONFIGS[name], miou=miou)
    board = read_board([tmp_path], "voc")
    for descending, first in ((True, [60, 50]), (False, [50, 60])):
        rows = ordered(board, "measured mIoU", descending)
        assert [row.miou and round(row.miou) for row in rows] == [*first, None, None]
    html = board_page.board_table(board, "measured mIoU", True, costs=False)
    assert html.count("aria-sort='descending'") == 1
    assert html.index("R-101-D8") < html.index("R-50-D16") < html.index("R-50-D8<")


def test_names_from_disk_are_escaped(tmp_path):
    write_run(
        tmp_path / "<b>x",
        dataclasses.replace(get_config("demo"), dataset="camvid", alias="<i>evil"),
        miou=0.5,
    )
    board = read_board([tmp_path], "camvid")
    html = whole(board, costs=False) + board_page.comparison_html(
        dataclasses.replace(compared_with_itself(tmp_path), labels=("<i>evil", "b"))
    )
    assert "<i>evil" not in html
    assert "<b>x" not in html
    assert "&lt;i&gt;evil" in html


def test_costs_stand_in_the_table_and_the_scatter(tmp_path):
    board = read_board([tmp_path], "voc")
    row = board.row("ccnet_resnet50os16_voc")
    one = dataclasses.replace(board, rows=(row,))
    html = board_page.board_table(one, "FLOP")
    assert f"{row.cost.parameters / 1e6:.2f} M" in html
    assert f"{row.cost.counted_flops / 1e9:.2f}" in html
    assert html.count("class='missing'") == 3  # the score, latency, memory
    assert board_page.MEASURE.command in board_page.missing_list(one)
    axis = board_figures.scatter_figure(one).axes[0]
    place = [row.cost.formula_flops / 1e9, 76.01]
    assert [points.get_offsets().tolist() for points in axis.collections] == [[place]]
    assert "no numbers yet" in [
        text.get_text()
        for text in board_figures.scatter_figure(one, "peak memory on this machine, MiB")
        .axes[0]
        .texts
    ]


# Two of them


PRESENCE, ACCURACY = np.geomspace(1, 0.15, 11), np.linspace(0.9, 0.5, 11)


def two_runs(tmp_path, changes=(), names=None):
    config, other = get_config("street"), get_config("street8")
    for name, chosen, accuracy in (
        ("a", config, ACCURACY),
        ("b", other, np.append(ACCURACY[:-1], 0.25)),
    ):
        confusions = kept(images(np.random.default_rng(1), PRESENCE, accuracy, 233))
        if name == "b" and names:
            confusions = dataclasses.replace(confusions, names=names)
        write_run(tmp_path / name, chosen, confusions, changes=changes if name == "b" else ())
    board = read_board([tmp_path], "camvid")
    return board.row("street"), board.row("street8")


def compared_with_itself(tmp_path):
    row, _ = two_runs(tmp_path / "two")
    return compare_rows(row, row, draws=60)


def test_a_comparison_by_class(tmp_path):
    a, b = two_runs(tmp_path)
    found = compare_rows(a, b, draws=400)
    assert found.difference == pytest.approx([a.iou[name] - b.iou[name] for name in a.iou])
    assert found.miou == pytest.approx(a.miou - b.miou)
    assert (found.low <= found.difference).all()
    assert (found.difference <= found.high).all()
    sure = (found.low > 0) | (found.high < 0)
    assert found.ties.tolist() == (~sure | (np.abs(found.difference) <= SPREAD)).tolist()
    assert not found.ties[-1]
    assert found.difference[-1] == max(found.difference) > 5
    assert compare_rows(b, a, draws=400).difference == pytest.approx(-found.difference)
    assert "not known" in board_page.comparison_html(found)


def test_a_run_ties_with_itself(tmp_path):
    found = compared_with_itself(tmp_path)
    assert found.ties.all()
    assert (found.verdict, found.miou) == ("tie", 0)
    axis = board_figures.comparison_figure(found).axes[0]
    assert {patch.get_facecolor() for patch in axis.patches} == {
        (*(int(GREY[i : i + 2], 16) / 255 for i in (1, 3, 5)), 1.0)
    }


def test_a_small_difference_of_means_is_a_tie_however_sure(tmp_path):
    config = get_config("street")
    for name, gain in (("a", 0.01), ("b", 0.0)):
        matrices = np.tile(np.diag([1000] * 11), (50, 1, 1))
        matrices[:, 0, 1] = round(1000 * (0.3 - gain))
        write_run(tmp_path / name, dataclasses.replace(config, alias=name), kept(matrices))
    board = read_board([tmp_path], "camvid")
    found = compare_rows(board.row("a"), board.row("b"), draws=60)
    assert found.interval[0] > 0
    assert found.verdict == "tie"
    assert (found.low[0] > 0, found.difference[0] < SPREAD, found.ties[0]) == (True, True, True)
    html = board_page.comparison_html(found)
    assert "a is higher in 0, b in 0" in html
    assert "within 1.3 points" in html


def test_confusions_of_other_classes_are_refused(tmp_path):
    a, _ = two_runs(tmp_path)
    kept(np.ones((233, 3, 3), np.int64)).save(a.run.confusions)
    with pytest.raises(RunError, match="of 3 classes, not of 11"):
        compare_rows(a, a)


def test_what_is_not_alike_is_refused(tmp_path):
    a, b = two_runs(tmp_path / "protocols", changes={"flip": True})
    with pytest.raises(RunError, match="flip False and True"):
        compare_rows(a, b)
    a, b = two_runs(tmp_path / "images", names=tuple(f"other {i}" for i in range(233)))
    with pytest.raises(RunError, match="different images"):
        compare_rows(a, b)
    b.run.confusions.unlink()
    with pytest.raises(RunError, match=r"no confusion matrices here.*python scripts/evaluate\.py"):
        compare_rows(a, read_board([tmp_path / "images"], "camvid").row("street8"))
    with pytest.raises(RunError, match="no confusion matrices"):
        compare_rows(a, read_board([], "voc").rows[0])


def test_paired_intervals_are_those_of_images_drawn_one_by_one():
    first = images(np.random.default_rng(1), PRESENCE, ACCURACY, 60)
    second = images(np.random.default_rng(1), PRESENCE, ACCURACY - 0.1, 60)
    rng, drawn = np.random.default_rng(2), []
    for _ in range(500):
        chosen = rng.integers(0, 60, 60)
        one, other = scores(first[chosen].sum(0)), scores(second[chosen].sum(0))
        drawn.append([*(one.iou - other.iou), one.miou - other.miou])
    plain = np.nanquantile(drawn, [0.025, 0.975], axis=0)
    found = paired_intervals(kept(first), kept(second))
    assert np.abs(found - plain).max() < 0.2 * (plain[1] - plain[0]).max()
    first[:, 3] = first[:, :, 3] = second[:, 3] = second[:, :, 3] = 0
    assert np.isnan(paired_intervals(kept(first), kept(second), 60)[:, 3]).all()


def test_pareto():
    assert pareto([1, 2, 3, 3, 1], [5, 4, 6, 7, 5]) == [True, False, False, True, True]
    assert pareto([1, float("nan")], [float("nan"), 2]) == [False, False]
    assert pareto([], []) == []


# Pictures


def test_heat_maps_of_few_and_many_classes():
    rng = np.random.default_rng(0)
    for classes, blocks, numbers in ((19, 1, 19), (21, 1, 21), (150, 3, 0)):
        names = [f"class {k}" for k in range(classes)]
        rows = {"a": rng.random(classes) * 100, "b": np.full(classes, np.nan)}
        figure = class_heatmap(rows, names, by="a")
        maps = [axis for axis in figure.axes if axis.texts]
        assert len(maps) == blocks
        assert sum(text.get_text().isdigit() for axis in maps for text in axis.texts) == numbers
        drawn = np.ma.concatenate([axis.collections[0].get_array() for axis in maps], axis=1)
        assert drawn[0].tolist() == sorted(rows["a"], reverse=True)
        assert drawn.mask[1].all()
        assert class_labels(figure) == [names[k] for k in np.argsort(-rows["a"])]


def test_published_is_hollow_measured_filled_and_no_label_lies_on_another():
    rng = np.random.default_rng(3)
    points = [
        Point(
            f"R-{k}-D8",
            100 + 6 * k,
            70 + rng.random(),
            k % 2 == 0,
            True,
            (69.5, 71.5) if k % 2 == 0 else None,
        )
        for k in range(12)
    ]
    figure = cost_scatter(points, "GFLOP")
    rings, dots = (markers(figure.axes[0], name) for name in ("published", "measured here"))
    assert len(rings.get_offsets()) == len(dots.get_offsets()) == 6
    assert (len(rings.get_facecolor()), len(dots.get_facecolor())) == (0, 1)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) == 12
    assert not [1 for k, box in enumerate(boxes) for other in boxes[:k] if box.overlaps(other)]


def test_scores_of_images_are_shares():
    rng = np.random.default_rng(0)
    images = {name: rng.normal(70, 5, 233) for name in "ab"}
    figure = distribution_figure(images, "mIoU of an image, %")
    one, _ = figure.axes[0].lines
    assert one.get_xdata()[1:].tolist() == sorted(images["a"])
    assert one.get_ydata()[-1] == 1
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_scores_of_single_images(tmp_path):
    matrices = np.tile(np.diag([1000] * 11), (3, 1, 1))
    matrices[1, 0, 1] = 1000
    write_run(tmp_path / "a", get_config("street"), kept(matrices))
    (row,) = read_board([tmp_path], "camvid").rows
    assert image_scores(row).tolist() == pytest.approx([100, 100 * 10 / 11, 100])
    with pytest.raises(RunError, match="no confusion matrices"):
        image_scores(read_board([], "voc").rows[0])


def test_difference_bars_colour_no_tie():
    difference, reach = np.array([5.0, -4.0, 1.0, np.nan]), np.array([1.0, 1.0, 2.0, np.nan])
    ties = np.array([False, False, True, True])
    axis = difference_bars(
        ["a", "b", "c", "d"],
        difference,
        difference - reach,
        difference + reach,
        ties,
        ("one", "two"),
    ).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["b", "c", "a"]
    assert len({patch.get_facecolor() for patch in axis.patches}) == 3
    red, green, blue, _ = axis.patches[1].get_facecolor()
    assert red == green == blue


# Numbers to reach


def test_twelve_finished_runs_of_ade20k_size_open_in_two_seconds(tmp_path):
    rng = np.random.default_rng(0)
    presence = np.geomspace(1, 0.004, 150)
    names = tuple(f"ADE_val_{i:08d}" for i in range(2000))
    for number in range(12):
        config = list(CONFIGS.values())[4 + number % 4]
        rows, true = np.nonzero(
            rng.random((2000, 150)) < 0.25 * presence
        )  # about 6 classes an image, each right, and taken for 2 others
        cells = np.concatenate([true * 151, *(true * 150 + rng.integers(0, 150, (2, len(true))))])
        rows = np.tile(rows, 3)
        order = np.argsort(rows, kind="stable")
        starts = np.searchsorted(rows[order], np.arange(2001))
        counts = rng.integers(1, 100_000, len(cells)).astype(np.uint32)
        confusions = Confusions(names, 150, starts, cells[order].astype(np.uint16), counts)
        write_run(
            tmp_path / f"seed{number // 4}" / config.name,
            config,
            confusions,
            training={"weights": "imagenet", "seed": number},
        )
    start = time.process_time()
    board = read_board([tmp_path], "ade20k")
    html = whole(board, "measured mIoU", True, costs=False)
    board_figures.heat_figure(board, next(iter(board.heat_rows()))).savefig(tmp_path / "heat.png")
    spent = time.process_time() - start
    assert len(board.rows) == 12
    assert html.count("<td class='measured'>") == 12
    assert board.problems == ()
    assert spent < 2, f"{spent:.2f} s of processor time"
    comparison = compare_rows(*board.rows[:2])
    assert comparison.images == 2000


@pytest.mark.parametrize(("count", "rarest"), [(200, 0.2), (100, 0.1)])
def test_intervals_hold_the_truth_in_93_to_97_of_100_data_sets(count, rarest):
    rng = np.random.default_rng(7)
    presence, accuracy = np.geomspace(1, rarest, 6), np.linspace(0.9, 0.5, 6)
    truth = scores(images(rng, presence, accuracy, 100_000).sum(0)).miou
    found = [
        bootstrap_interval(kept(images(rng, presence, accuracy, count)), draws=200, seed=k)
        for k in range(500)
    ]
    assert 0.93 <= np.mean([low <= truth <= high for low, high in found]) <= 0.97
