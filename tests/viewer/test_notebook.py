"""viewer/notebook.py: what the notebooks' widgets call."""

import json
from copy import deepcopy

import numpy as np
from matplotlib.text import Text
from PIL import Image

from ccnet_lab.data.check import examine
from ccnet_lab.data.datasets import open_own, open_split
from ccnet_lab.data.generated.beacons import make_scene, on_cross
from ccnet_lab.draw.figures import GAP, PANEL
from ccnet_lab.explore.measures import first_pixel
from ccnet_lab.viewer import notebook as studio


def words(figure):
    return [" ".join(text.get_text().split()) for text in figure.findobj(Text) if text.get_text()]


def test_the_picture_says_what_the_view_says():
    view = studio.look("demo", "scene 1")
    x, y = first_pixel(view)
    texts = words(studio.attention_picture(view, x, y, recurrence=2, clip=0.5))
    pixel = view.pixel(x, y, (2,))
    threshold = float(pixel.maps[0].max() * 10**-1.5)
    assert f"clipped at t = {threshold:.2g}" in texts
    assert f"on the cross {100 * pixel.on_cross[0]:.0f} %" in texts
    assert (
        f"above t: {100 * (1 - np.minimum(pixel.maps[0], threshold).sum()):.0f} % of the mass cut"
        in texts
    )
    assert f"it gives {view.listeners(x, y, 2).sum():.2f} in all" in texts
    name = view.explorer.class_names[view.labels[y, x]]
    assert any(f"pixel ({x}, {y}) is predicted as {name}" in text for text in texts)


def test_a_view_is_kept_and_a_picture_of_one_s_own_goes_before_the_list(tmp_path, picture):
    assert studio.look("demo", "scene 2") is studio.look("demo", "scene 2")
    Image.fromarray(picture(30, 50)).save(tmp_path / "own.png")
    widget = studio.view_widget(image="scene 1", path=f" {tmp_path / 'own.png'} ")
    assert widget.view.size == (30, 50)
    assert widget.view.explorer is studio.explorer("demo")


def test_what_cannot_be_shown_is_said(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    assert "nowhere.png" in words(studio.view_widget(path="nowhere.png"))[0]
    assert "text.png" in words(studio.view_widget(path=str(tmp_path / "text.png")))[0]
    assert "demo" in words(studio.view_widget(model="demmo"))[0]


def test_losses_are_kept_and_smoothed():
    kept, moved = [], []
    show = studio.keeping(kept, moved.append)
    for step, loss in enumerate((4.0, 2.0, 0.0), 1):
        show(step, loss)
    assert (kept, moved) == ([4.0, 2.0, 0.0], [1, 1, 1])
    assert studio.smoothed(kept, window=2).tolist() == [4, 3, 1]


def test_the_shapes_are_a_sound_data_set_of_one_s_own(tmp_path):
    folder = studio.write_shapes_dataset(tmp_path / "studioshapes", images=12, height=48, width=64)
    dataset = open_own(folder)
    report = examine(dataset, ".")
    assert report.fine
    assert dataset.class_names == studio.SHAPES
    assert sum(split.images for split in report.splits) == 12
    assert (report.splits[0].pixels[:4] > 0).all()
    sample = open_split(dataset, ".").read(0)
    assert sample.image.shape == (48, 64, 3)
    again = studio.write_shapes_dataset(tmp_path / "again", images=12, height=48, width=64)
    for path in sorted(folder.rglob("*.png")):
        assert path.read_bytes() == (again / path.relative_to(folder)).read_bytes()
    assert json.loads((folder / "classes.json").read_text())["names"] == list(studio.SHAPES)


def test_the_doctor_finds_what_was_damaged(tmp_path):
    report = examine(open_own(studio.write_damaged_dataset(tmp_path / "studiodamaged")), ".")
    faults = sorted(fault for split in report.splits for fault in split.faults)
    assert len(faults) == 2
    assert "0003.png holds label ids" in faults[1]
    assert ": 7;" in faults[1]
    assert "0004.png is 128 x 96 pixels and its mask" in faults[0]


def test_pairs_are_shown_or_what_is_wrong_with_them(tmp_path):
    split = open_split(open_own(studio.write_damaged_dataset(tmp_path / "studiopairs")), ".")
    shown = {
        pair.name: studio.pair_picture(split, index, opacity=1.0)
        for index, pair in enumerate(split.pairs)
    }
    good = shown.pop("0000")
    assert [axis.get_title() for axis in good.axes] == ["image 0000", "with its mask"]
    assert {text.get_text() for text in good.legends[0].texts} <= set(studio.SHAPES)
    picture, masked = (
        np.asarray(axis.get_images()[0].get_array()).reshape(-1, 3) for axis in good.axes
    )
    assert len(np.unique(masked, axis=0)) <= len(studio.SHAPES) < len(np.unique(picture, axis=0))
    wrong = [words(figure)[0] for name, figure in shown.items() if name in ("0003", "0004")]
    assert wrong
    assert all("label ids" in text or "make the sizes equal" in text for text in wrong)


def test_recurrence_picture_warns_of_gamma():
    model = studio.explorer("demo").model
    title = studio.recurrence_picture(model, "demo", 10_000_018, (1, 3)).get_suptitle()
    assert "trained at R = 2" in title
    assert "near 0" not in title
    silent = deepcopy(model)
    silent.attention.gamma.data.zero_()
    assert (
        "gamma = 0.00: near 0"
        in studio.recurrence_picture(silent, "demo", 10_000_018, (0,)).get_suptitle()
    )


def test_beacon_picture_marks_the_cells_that_see_the_beacon():
    scene = make_scene(10_000_009)
    figure = studio.beacon_picture(10_000_009)
    sheet = figure.axes[0].get_images()[0].get_array()
    sheet = sheet[56 : 56 + PANEL, GAP + PANEL + GAP :][:, :PANEL]
    bright = sheet.astype(int).sum(axis=2) > 380
    assert (
        bright[::10, ::10]
        == np.kron(on_cross(scene)[2::4, 2::4], np.ones((PANEL // 24, PANEL // 24)))[
            :PANEL:10, :PANEL:10
        ].astype(bool)
    ).mean() > 0.9
