"""app/link.py and app/callbacks.py: links reopen or say what is gone; the Python to copy runs."""

import os
import re
import time
from dataclasses import replace
from urllib.parse import parse_qsl

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from ccnet_lab import ConfigError, Explorer, save_weights
from ccnet_lab.app import kept_pictures
from ccnet_lab.app import link as links
from ccnet_lab.app.callbacks import watched
from ccnet_lab.app.link import Link
from ccnet_lab.app.session import Workbench
from ccnet_lab.app.view_state import ViewState
from ccnet_lab.data.images import read_image
from ccnet_lab.errors import ImageError, LabError, MissingFileError
from ccnet_lab.explore.subject import subject_of


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setenv("CCNET_LAB_HOME", str(tmp_path / "home"))
    return Workbench(tmp_path / "examples")


@pytest.fixture
def uploaded(bench, picture, tmp_path):
    """A visitor's scene with a picture of their own."""
    Image.fromarray(picture(50, 70)).save(tmp_path / "mine.png")
    scene = bench.with_image(bench.start("demo"), str(tmp_path / "mine.png"))
    return replace(scene, x=31, y=7, recurrence=3, labels=0.35, photo=0.1, clip=0.6)


def query(text):
    return dict(parse_qsl(text.removeprefix("?")))


def seen(bench, scene):
    return bench.payload(scene), {**scene.shown(), "pinned": None}


def test_a_link_reopens_to_the_same_bytes_in_another_process_s_workbench(bench, uploaded, tmp_path):
    for scene in (
        bench.start("demo"),
        replace(bench.with_model(bench.start("demo"), "demo_r1"), x=5, clip=0.15),
        uploaded,
    ):
        link = bench.link(scene, "Recurrence")
        before = seen(bench, scene)
        if scene is uploaded:
            (tmp_path / "mine.png").unlink()
        opened, found = Workbench(tmp_path / "others").reopen(query(link))
        assert found.tab == "Recurrence"
        assert seen(Workbench(tmp_path / "others"), opened) == before


def test_what_a_link_holds(bench, uploaded):
    found = query(bench.link(uploaded))
    view = bench.view(uploaded)
    assert found["image"] == kept_pictures.picture_hash(view.image)
    assert found["weights"] == links.weights_hash(bench.weights("demo"))
    assert [found[k] for k in ("model", "config", "r", "x", "y", "labels", "photo", "clip")] == [
        "demo", "demo", "3", "31", "7", "0.35", "0.1", "0.6",
    ]  # fmt: skip
    turned = view.image.reshape(view.image.shape[1], view.image.shape[0], 3)
    assert kept_pictures.picture_hash(turned) != found["image"]


def test_a_link_whose_picture_is_gone_says_so(bench, uploaded):
    link = query(bench.link(uploaded))
    kept_pictures.kept_picture(link["image"]).unlink()
    with pytest.raises(
        MissingFileError, match=f"needs a picture \\({link['image']}\\), which is no longer"
    ):
        bench.reopen(link)


def test_a_link_whose_picture_was_replaced_says_so(bench, uploaded, picture):
    link = query(bench.link(uploaded))
    Image.fromarray(picture(50, 70, seed=1)).save(kept_pictures.kept_picture(link["image"]))
    with pytest.raises(MissingFileError, match="another one lies in its place"):
        bench.reopen(link)


def test_a_link_holds_what_the_other_tabs_show(bench):
    link = query(
        bench.link(
            bench.start("demo"),
            "Configurations",
            scores="measured",
            board="camvid",
            order="road",
            one="street",
            drawn="a|b",
        )
    )
    found = bench.reopen(link)[1]
    assert (found.tab, found.scores, found.board, found.order, found.one) == (
        "Configurations",
        "measured",
        "camvid",
        "road",
        "street",
    )
    assert (found.other, found.drawn) == ("", "a|b")


def test_a_kept_picture_is_whole_or_written_anew(bench, picture):
    image = picture(50, 70)
    path = kept_pictures.keep_picture(image)
    untouched = path.stat().st_ino
    os.utime(path, (1, 1))
    kept_pictures.keep_picture(image)
    assert path.stat().st_ino == untouched
    assert path.stat().st_mtime > 1  # it is needed again, so it is not the oldest
    for content in (path.read_bytes()[:900], b"", kept_pictures.png(picture(50, 70, seed=1))):
        path.write_bytes(content)
        assert np.array_equal(read_image(kept_pictures.keep_picture(image)), image)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    (path.parent / f"{kept_pictures.picture_hash(image[1:])}.png").mkdir()
    with pytest.raises(ImageError, match="cannot be written"):
        kept_pictures.keep_picture(image[1:])


@pytest.mark.parametrize("limit", ["MOST_PICTURES", "MOST_BYTES"])
def test_the_oldest_kept_pictures_are_removed(bench, picture, monkeypatch, limit):
    images = [picture(20, 20, seed=seed) for seed in range(5)]
    paths = [kept_pictures.keep_picture(image) for image in images[:4]]
    monkeypatch.setattr(
        kept_pictures, limit, 3 if limit == "MOST_PICTURES" else 3 * paths[0].stat().st_size + 500
    )
    for path, days in zip(paths, (3, 4, 2, -1), strict=True):  # one from a clock that is ahead
        os.utime(path, (time.time() - days * kept_pictures.DAY,) * 2)
    (paths[0].parent / "away.png").symlink_to("nowhere")  # which hinders nobody
    os.utime(paths[0].parent / "away.png", (1, 1), follow_symlinks=False)
    newest = kept_pictures.keep_picture(images[4])
    assert {path for path in newest.parent.iterdir() if path.exists()} == {newest, *paths[2:]}


def test_no_visitor_pushes_out_what_another_has_kept(bench, picture, monkeypatch):
    """Not within his own limit, nor where all together reach theirs."""
    monkeypatch.setattr(kept_pictures, "MOST_EACH", 4)
    monkeypatch.setattr(kept_pictures, "MOST_PICTURES", 5)
    theirs = [kept_pictures.keep_picture(picture(20, 20, seed=k), "them") for k in range(2)]
    both = kept_pictures.keep_picture(picture(20, 20, seed=0), "me")
    mine = [kept_pictures.keep_picture(picture(20, 20, seed=k), "me") for k in range(10, 13)]
    assert all(path.exists() for path in (*theirs, both, *mine))
    with pytest.raises(ImageError, match="all from the last 24 hours"):
        kept_pictures.keep_picture(picture(20, 20, seed=90), "another")
    mine += [kept_pictures.keep_picture(picture(20, 20, seed=k), "me") for k in range(13, 20)]
    assert all(path.exists() for path in (*theirs, both))
    assert [path.exists() for path in mine] == [False] * 7 + [True] * 3


def test_a_link_whose_weights_are_gone_says_so(bench, uploaded, tmp_path):
    demo = Explorer.open("demo")
    save_weights(demo.model, tmp_path / "mine.safetensors", "demo", note="another file")
    scene = bench.with_model(uploaded, str(tmp_path / "mine.safetensors"))
    link = query(bench.link(scene))
    (tmp_path / "mine.safetensors").rename(tmp_path / "moved.safetensors")
    with pytest.raises(
        MissingFileError, match=r"needs the weights of .*mine.safetensors \(" + link["weights"]
    ):
        bench.reopen(link)
    (tmp_path / "mine.safetensors").write_bytes(
        (tmp_path / "moved.safetensors").read_bytes()[:-1] + b"\0"
    )  # others under the name
    with pytest.raises(MissingFileError, match="weights"):
        bench.reopen(link)


def test_a_link_to_a_published_model_says_how_to_get_it(bench, uploaded):
    link = query(bench.link(uploaded)) | {"model": "ccnet_resnet50os8_voc"}
    with pytest.raises(MissingFileError, match=r"zoo.py get ccnet_resnet50os8_voc"):
        bench.reopen(link)


def test_values_out_of_range_are_clamped(bench):
    scene = bench.start("demo")
    link = query(bench.link(scene)) | dict(
        labels="7", photo="-3", clip="nan", x="4000", y="-5", r="99", input="-4"
    )
    opened, _ = bench.reopen(link)
    assert (opened.labels, opened.photo, opened.clip) == (1.0, 0.0, 0.0)
    assert (opened.x, opened.y, opened.recurrence, opened.short_side) == (95, 0, 3, 0)
    assert bench.reopen(link | dict(input="12000"))[0].short_side == 1024
    bench.payload(opened)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": "left"}, "x is 'left'; expected a number"),
        ({"image": "../../etc/passwd"}, "expected 32 hex digits"),
        ({"image": "A" * 32}, "expected 32 hex digits"),
        ({"weights": None}, "doesn't name weights"),
    ],
)
def test_a_damaged_link(bench, change, message):
    link = query(bench.link(bench.start("demo"))) | change
    with pytest.raises(ConfigError, match=re.escape(message)):
        bench.reopen({name: value for name, value in link.items() if value is not None})


def test_links_open_no_typed_paths_where_others_can_reach_the_app(bench, uploaded, tmp_path):
    save_weights(Explorer.open("demo").model, tmp_path / "private.safetensors", "demo")
    link = query(bench.link(bench.with_model(uploaded, str(tmp_path / "private.safetensors"))))
    with pytest.raises(LabError):
        Workbench(tmp_path / "examples", any_path=False).reopen(link)


def test_the_python_to_copy_gives_the_array_on_screen(bench, uploaded):
    for scene in (replace(bench.start("demo"), clip=0.1), uploaded):
        found = {}
        exec(bench.python(scene), found)
        assert np.array_equal(
            found["weights"], bench.view(scene).attention(scene.x, scene.y, scene.recurrence)
        )
        assert found["figure"].get_figwidth() > 8
    assert "make_scene(10000018)" in bench.python(bench.start("demo"))


def test_the_python_of_listeners_regions_and_classes(bench):
    scene = replace(bench.start("demo"), x=33, y=50, kind="listeners", scale="raw")
    view, found = bench.view(scene), {}
    exec(bench.python(scene), found)
    assert np.array_equal(found["weights"], view.listeners(33, 50, scene.recurrence))
    for many in ({"region": (9, 30, 17, 41)}, {"label": 0}):
        for kind in ("attention", "listeners"):
            text = bench.python(replace(scene, kind=kind, **many))
            exec(text, found)
            subject = subject_of(view, 33, 50, **many)
            assert np.array_equal(found["weights"], subject.maps(view, [2], kind)[0])
            titles = [text.get_text() for text in found["figure"].findobj(Text)]
            assert any(subject.name in title for title in titles)
            assert "clip=0.0" in text  # the colour scale is "raw"


def test_the_python_names_the_configuration_the_input_and_the_device():
    link = Link(image="", weights="", model="a.pth as demo", config="demo", input=256, x=1, y=2)
    text = links.python_of(link, "'p.png'", "cuda", precision="bf16")
    assert "Explorer.open('a.pth', config='demo', device='cuda', precision='bf16')" in text
    assert "look('p.png', short_side=256)" in text
    compile(text, "copied", "exec")


def test_a_slow_call_tells_how_far_it_is_and_ends_with_its_visitor():
    steps = []

    def slow(told):
        for done in range(40):
            time.sleep(0.01)
            steps.append(done)
            told(done + 1, 40)
        return "found"

    returned = []

    def relay():
        returned.append((yield from watched(slow, lambda *counts: counts, 0.05)))

    given = list(relay())
    assert returned == ["found"]
    assert given[0] == (0, 0)
    assert given == sorted(given)
    assert 3 <= len(given) <= 12
    steps.clear()
    calls = watched(slow, lambda *counts: counts, 0.05)
    next(calls), next(calls)
    calls.close()
    time.sleep(0.2)
    assert 0 < len(steps) < 20


def test_what_a_slow_call_raises_is_raised():
    def failing(told):
        raise ConfigError("no")

    with pytest.raises(ConfigError, match="no"):
        list(watched(failing, lambda *counts: counts))
    assert ViewState("demo").recurrence == 2
