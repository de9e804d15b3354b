"""The figures of draw/figures.py on deletion and recurrence: they draw, and say what they must."""

import io
from itertools import islice

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.text import Text
from PIL import Image

from ccnet_lab.draw import charts, figures
from ccnet_lab.draw.lettering import class_legend

PALETTE, NAMES = ((0, 0, 0), (255, 0, 0), (0, 0, 255)), ("sky", "road", "car")


def drawn(figure):
    file = io.BytesIO()
    figure.savefig(file, dpi=60)
    return np.asarray(Image.open(file).convert("RGB"))


def words(figure):
    figure.draw_without_rendering()
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


def test_deletion_figure():
    counts = np.array([0, 1, 10, 100])
    controls = np.array([[0.9, 0.9, 0.7, 0.1], [0.9, 0.8, 0.7, 0.1]])
    figure = figures.deletion_figure(
        counts,
        np.array([0.9, 0.5, 0.2, 0.1]),
        controls,
        0.4321,
        0.02,
        "probability of car",
        "a pixel",
    )
    assert drawn(figure).std() > 5
    said = words(figure)
    assert any("area 0.432" in text and "0 ± 0.020" in text for text in said)
    assert {"probability of car", "a pixel", "0", "1", "10", "100"} <= set(said)


def test_recurrence_figure(picture):
    labels = {r: np.zeros((30, 40), np.uint8) for r in (0, 1, 2)}
    labels[1][:, :10] = 2
    figure = figures.recurrence_figure(picture(30, 40), labels, 2, PALETTE, NAMES, "demo")
    assert drawn(figure).std() > 10
    said = words(figure)
    assert {
        "R = 0",
        "R = 1",
        "R = 2, as trained",
        "changed 0.0 % of the pixels",
        "changed 25.0 % of the pixels",
        "sky",
        "car",
    } <= set(said)
    assert "road" not in said


def test_iou_figure_leaves_out_classes_that_do_not_occur():
    nan = float("nan")
    figure = figures.iou_figure(
        NAMES, {"R = 1": np.array([0.5, nan, nan]), "R = 2": np.array([0.9, nan, 0.3])}, "IoU"
    )
    assert drawn(figure).std() > 10
    said = words(figure)
    assert {"sky", "car", "mean", "50.0", "90.0", "60.0", "–"} <= set(said)
    assert "road" not in said


def test_a_notebook_shows_it_and_words_stay_text_in_a_vector_file(picture):
    args = (
        picture(40, 40),
        np.zeros((40, 40), np.uint8),
        ((0, 0, 0),),
        ("a",),
        (1, 1),
        (0, 0, 10, 10),
        {"map": np.eye(4)},
    )
    file = io.StringIO()
    with rc_context({"svg.fonttype": "none"}):
        figure = figures.attention_figure(*args, ["a caption"])
        figure.savefig(file, format="svg")
    assert pytest.importorskip("IPython.core.pylabtools").print_figure(figure)
    assert ">a caption</text>" in file.getvalue()


STRANGE = ("_crack", "price $5 and $6", "a, b", "道路")


def shown(figure):
    """Every text a figure shows."""
    figure.draw_without_rendering()
    return [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]


def test_class_names_are_drawn_as_they_are(tmp_path):
    """As what matplotlib draws of the same text, its dollars escaped, in a legend."""
    image, ids, palette = (
        np.zeros((8, 16, 3), np.uint8),
        np.repeat([[0, 1, 2, 3]], 4, -1).repeat(8, 0).astype(np.uint8),
        [(9, 9, 9)] * 4,
    )
    many = {
        "recurrence": figures.recurrence_figure(image, {1: ids, 2: ids}, 2, palette, STRANGE),
        "iou": figures.iou_figure(STRANGE, {"a": np.arange(4) / 4}),
        "heatmap": charts.class_heatmap({"a": np.arange(4.0)}, STRANGE),
        "bars": charts.difference_bars(
            STRANGE, *(np.arange(1.0, 5) * k for k in (1, 0.5, 1.5)), np.zeros(4, bool), ("a", "b")
        ),
        "attention": figures.attention_figure(
            image, ids, palette, STRANGE, (1, 1), (0, 0, 2, 2), {"map": np.ones((2, 2))}
        ),
    }
    for kind, figure in many.items():
        texts = {text.get_text(): text for text in shown(figure)}
        assert set(STRANGE) <= set(texts), kind
        assert not any(texts[name].get_parse_math() for name in STRANGE), kind
        figure.savefig(tmp_path / f"{kind}.png")
    ours, theirs = Figure(figsize=(4, 1)), Figure(figsize=(4, 1))
    class_legend(ours, STRANGE[1:3], [(9, 9, 9)] * 2)
    patches = [Patch(facecolor="#090909", edgecolor="0.5") for _ in range(2)]
    theirs.legend(
        patches, [r"price \$5 and \$6", "a, b"], frameon=False, loc="outside lower center"
    )
    assert np.array_equal(drawn(ours), drawn(theirs))


def outside(figure):
    """The texts that stick out of a figure."""
    figure.draw_without_rendering()
    page, renderer = figure.bbox, FigureCanvasAgg(figure).get_renderer()
    beyond = set()  # labels of ticks beyond an axis' ends, which are not drawn
    for line in (line for axes in figure.axes for line in (axes.xaxis, axes.yaxis)):
        low, high = sorted(line.get_view_interval())
        beyond |= {
            tick.label1 for tick in line.get_major_ticks() if not low <= tick.get_loc() <= high
        }
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    texts = [text for text in texts if text not in beyond]
    return [
        text.get_text()
        for text in texts
        if (box := text.get_window_extent(renderer)).x0 < page.x0 - 1
        or box.x1 > page.x1 + 1
        or box.y0 < page.y0 - 1
        or box.y1 > page.y1 + 1
    ]


def drawn_with_long_labels():
    """Figures of the board with the longest labels that configurations have."""
    labels, names = ["R-101-D16, R = 3", "R-50-D8, R = 0"], ["linen chest", "traffic light", "pole"]
    block = charts.Block("Rooms", [f"{label}  58.7" for label in labels], names, np.eye(2, 3))
    yield charts.miniature_heatmap([block, block])
    series = {
        what: np.array([[1.0] * 6, [0.5] * 6, [2.0] * 6, [1] * 6])
        for what in ("2 less 1", "2 less 0", "3 less 2")
    }
    rows = ["Objects, all classes", "thin", "long-range"] * 2
    yield charts.effects_figure(rows, [charts.Panel("recurrence, R =", series)])
    tie = "tie: the interval holds 0, or the difference is within 1.3 points"
    some = np.array([3.0, -1.0, 0.1])
    yield charts.difference_bars(names, some, some - 1, some + 1, some < 1, labels, tie=tie)
    points = [
        charts.Point(label, 1.0 + n, 60.0 + n, True, True, (59.0, 63.0), miniature=True)
        for n, label in enumerate(labels)
    ]
    yield charts.cost_scatter(points, "GFLOP of one image, by formula", over="images and seeds")


@pytest.mark.parametrize("which", range(4))
def test_no_text_is_cut_off(which):
    figure = next(islice(drawn_with_long_labels(), which, None))
    assert outside(figure) == []
