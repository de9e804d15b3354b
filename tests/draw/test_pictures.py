"""draw/pictures.py and figures.py: arrays in, pictures out."""

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from ccnet_lab.draw import figures, pictures


def test_shown_size_keeps_the_ratio_and_stays_clickable():
    assert pictures.shown_size(360, 480, 640) == (480, 640)
    assert pictures.shown_size(480, 360, 640) == (640, 480)
    assert pictures.shown_size(1, 4000, 640) == (160, 640)
    assert pictures.shown_size(1, 4000, 640, 20) == (32, 640)
    assert pictures.shown_size(1500, 100, 640, 20) == (640, 43)


def test_heat_has_one_scale_and_clips():
    weights = np.array([[0.0, 0.5], [1.0, 2.0]])
    image = pictures.heat(weights, 1.0, (20, 20))
    assert image.shape == (20, 20, 3)
    assert np.array_equal(image[15, 5], image[15, 15])  # 1.0 and what is clipped to it
    assert image[5, 5].sum() < image[5, 15].sum() < image[15, 5].sum()
    assert len(np.unique(image.reshape(-1, 3), axis=0)) == 3  # sharp cells


def test_scale_is_perceptually_uniform():
    """Lightness grows steadily along the scale: sRGB luminance never falls."""
    ramp = pictures.heat(np.linspace(0, 1, 256)[None], 1.0, (1, 256))[0].astype(float) / 255
    luminance = (ramp**2.2) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) > -1e-4).all()


def test_clip_level():
    maps = [np.array([0.5]), np.array([0.25])]
    assert pictures.clip_level(maps, 0) == 0.5
    assert pictures.clip_level(maps, 1) == pytest.approx(0.0005)
    assert pictures.clip_level(maps, 7) == pytest.approx(0.0005)


def test_labels_and_blend():
    labels = np.array([[0, 1]], np.uint8)
    shown = pictures.label_picture(labels, ((10, 20, 30), (200, 100, 0)), (2, 4))
    assert shown[0, 0].tolist() == [10, 20, 30]
    assert shown[1, 3].tolist() == [200, 100, 0]
    black = np.zeros_like(shown)
    assert np.array_equal(pictures.blend(black, shown, 1), shown)
    assert np.array_equal(pictures.blend(black, shown, -3), black)
    assert abs(int(pictures.blend(black, shown, 0.5)[1, 3, 0]) - 100) <= 1


def test_png_is_lossless(picture):
    array = picture(30, 40)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(pictures.png(array)))), array)


def drawn(figure):
    assert isinstance(figure, Figure)
    file = io.BytesIO()
    figure.savefig(file, dpi=50)
    return np.asarray(Image.open(file).convert("RGB"))


def test_figures_draw(picture):
    labels = np.zeros((60, 80), np.uint8)
    labels[:, 40:] = 1
    maps = {f"R = {r}": np.full((6, 8), 1 / 48) for r in (1, 2, 3)}
    args = (
        picture(60, 80),
        labels,
        ((0, 0, 0), (255, 0, 0)),
        ("a", "b"),
        (5, 5),
        (0, 0, 10, 10),
        maps,
    )
    assert drawn(figures.attention_figure(*args, ["x"], title="t")).std() > 10
    assert drawn(figures.grid_figure(maps, (1, 2), numbers=True, columns=2)).std() > 10
    assert drawn(figures.curve_figure(np.arange(1, 5), {"a": np.arange(1, 5)}, "x", "y")).std() > 5
    assert (
        drawn(figures.bar_figure(["g"], {"a": [0.5], "b": [0.2]}, "accuracy", chance=0.25)).std()
        > 5
    )


def test_attention_figure_draws_all_maps_on_one_scale_unless_each_has_its_own(picture):
    maps = {"R = 1": np.eye(4), "R = 2": np.eye(4) / 2}
    args = (
        picture(40, 40),
        np.zeros((40, 40), np.uint8),
        ((0, 0, 0),),
        ("a",),
        (1, 1),
        (0, 0, 10, 10),
        maps,
    )
    for top, ends in ((None, ["1", "1"]), ([1.0, 0.5], ["1", "0.5"])):
        figure = figures.attention_figure(*args, top=top)
        sheet = figure.axes[0].get_images()[0].get_array()
        first, second = (
            sheet[72, figures.GAP + k * (figures.PANEL + figures.GAP) + 40] for k in (1, 2)
        )  # in the first cell of each map
        assert np.array_equal(first, second) == (top is not None)
        assert [
            text.get_text() for text in figure.findobj(Text) if text.get_text() in ("1", "0.5")
        ] == ends


def test_a_clipped_scale_says_so(picture):
    args = (
        picture(40, 40),
        np.zeros((40, 40), np.uint8),
        ((0, 0, 0),),
        ("a",),
        (1, 1),
        (0, 0, 10, 10),
        {"map": np.eye(4)},
    )
    assert "≥ 0.25" in [
        text.get_text() for text in figures.attention_figure(*args, top=0.25).findobj(Text)
    ]


def test_the_colours_are_matplotlib_s():
    from matplotlib import colormaps

    expected = np.round(255 * np.asarray(colormaps[pictures.COLOURS].colors))
    assert np.abs(pictures.SCALE - expected).max() == 0
