"""The figures of explore/figures.py on deletion and recurrence: they draw, and say what they must."""

import io

import numpy as np
from PIL import Image

from ccnet_lab.explore import figures

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
    figure = figures.deletion_figure(counts, np.array([0.9, 0.5, 0.2, 0.1]), controls, 0.4321, 0.02, "probability of car", "a pixel")
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
    assert {"R = 0", "R = 1", "R = 2, as trained", "changed 0.0 % of the pixels", "changed 25.0 % of the pixels", "sky", "car"} <= set(said)
    assert "road" not in said


def test_iou_figure_leaves_out_classes_that_do_not_occur():
    nan = float("nan")
    figure = figures.iou_figure(NAMES, {"R = 1": np.array([0.5, nan, nan]), "R = 2": np.array([0.9, nan, 0.3])}, "IoU")
    assert drawn(figure).std() > 10
    said = words(figure)
    assert {"sky", "car", "mean", "50.0", "90.0", "60.0", "–"} <= set(said)
    assert "road" not in said
