"""app/server.py and app/session.py: answers without a browser, the endpoint for programs."""

import base64
import io
import re
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ccnet_lab import ConfigError, Explorer, ImageError
from ccnet_lab.app import server
from ccnet_lab.app.recent_results import RecentResults
from ccnet_lab.app.session import Workbench
from ccnet_lab.app.view_state import ViewState
from ccnet_lab.data.generated.beacons import make_scene
from ccnet_lab.draw import pictures
from ccnet_lab.errors import LabError
from ccnet_lab.explore.explorer import View
from ccnet_lab.hub import find_weights


@pytest.fixture
def bench(tmp_path):
    return Workbench(tmp_path / "examples")


@pytest.fixture
def scene(bench):
    return bench.start("demo")


def inline_pictures(html):
    found = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]


def test_the_first_thing_seen_is_already_an_answer(bench, scene):
    marker, answer = bench.answer(scene)
    assert "class='cell'" in marker
    assert len(inline_pictures(answer)) == 3
    assert [f"R = {r}" in answer for r in (1, 2, 3)] == [True] * 3
    assert "on the cross <b>100 %</b>" in answer
    assert "is taken for" in answer
    model, notice, legend = bench.around(scene)
    assert "R trained <b>2</b>" in model
    assert notice == ""
    assert "background" in legend
    assert bench.stage(scene).shape == (640, 640, 3)


def test_maps_are_the_library_s_on_one_colour_scale(bench, scene):
    shown = inline_pictures(bench.answer(replace(scene, clip=0.2))[1])
    view = Explorer.open("demo").look(make_scene(10_000_018).image)
    maps = [view.attention(scene.x, scene.y, r) for r in (1, 2, 3)]
    top = pictures.clip_level(maps, 0.2)
    for picture, weights in zip(shown, maps, strict=True):
        assert np.array_equal(picture, pictures.heat(weights, top, (24, 24)))


def test_click_lands_on_the_pixel_under_it(bench, scene):
    clicked = bench.clicked(scene, (0.5, 0.015))
    assert (clicked.x, clicked.y) == (48, 1)
    assert bench.clicked(scene, (1.2, -0.1)) == replace(scene, x=95, y=0)


def test_sliders_and_clicks_run_no_network(bench, scene, monkeypatch):
    monkeypatch.setattr(Explorer, "look", lambda *_: pytest.fail("the network ran"))
    for change in (dict(clip=0.9), dict(photo=1.0), dict(labels=0.0), dict(x=3, y=4)):
        bench.answer(replace(scene, **change))
        bench.stage(replace(scene, **change))


def test_a_click_is_answered_within_the_budget(bench, tmp_path, picture):
    """Server side at 64 x 64 cells; the browser's share is measured by hand."""
    bench = Workbench(tmp_path)
    Image.fromarray(picture(256, 256)).save(tmp_path / "big.png")
    scene = replace(
        bench.with_image(bench.with_model(ViewState("demo"), "demo"), str(tmp_path / "big.png")),
        short_side=256,
    )
    assert bench.view(scene).grid == (64, 64)
    times = []
    for k in range(9):
        start = time.perf_counter()
        bench.answer(replace(scene, x=20 * k, y=7 * k))
        times.append(time.perf_counter() - start)
    assert sorted(times)[4] < 0.15


def test_photographs_on_the_demo_are_announced(bench, scene):
    assert bench.around(scene)[1] == ""
    photograph = bench.with_image(scene, bench.examples[-1])
    assert "photograph" in bench.around(photograph)[1]
    assert "generated beacon scenes" in bench.around(photograph)[1]


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (3, 2)])
def test_odd_pictures_go_all_the_way(bench, scene, picture, tmp_path, size):
    Image.fromarray(picture(*size)).save(tmp_path / "odd.png")
    odd = bench.with_image(scene, str(tmp_path / "odd.png"))
    odd = bench.clicked(odd, (0.3, 0.3))
    assert len(inline_pictures(bench.answer(odd)[1])) == 3
    bench.stage(odd)
    bench.figure(odd)


def test_a_bad_picture_or_model_raises_what_the_page_tells(bench, scene, tmp_path):
    (tmp_path / "a.jpg").write_text("no picture")
    with pytest.raises(ImageError, match="no picture that can be read"):
        bench.with_image(scene, str(tmp_path / "a.jpg"))
    with pytest.raises(ConfigError, match="neither"):
        bench.with_model(scene, "nonsense")
    with pytest.raises(LabError):
        bench.with_model(scene, str(tmp_path))
    assert len(inline_pictures(bench.answer(scene)[1])) == 3  # the session goes on


def test_a_weights_file_may_name_its_configuration(bench, scene, published_file, tmp_path):
    path = tmp_path / "renamed.pth"
    path.hardlink_to(published_file("ccnet_resnet50os8_cityscapes"))
    with pytest.raises(ConfigError, match="output stride"):
        bench.explorer(str(path))
    explorer = bench.explorer(f"{path} as ccnet_resnet50os16_cityscapes")
    assert explorer.config.output_stride == 16
    opened = bench.with_model(
        replace(scene, short_side=0), f"{path} as ccnet_resnet50os16_cityscapes"
    )
    assert opened.short_side == 512  # its evaluation's 1024 would keep a visitor waiting


def test_typed_paths_only_where_nobody_else_can_type(tmp_path):
    bench = Workbench(tmp_path, any_path=False)
    assert bench.explorer("demo_r1").config.recurrence == 1
    with pytest.raises(ConfigError, match="no typed paths"):
        bench.explorer("/etc/passwd")
    own = str(find_weights("demo_r1"))
    with pytest.raises(ConfigError, match="no typed paths"):
        bench.explorer(own)
    assert (
        Workbench(tmp_path, any_path=False, model=own).explorer(own).config.name == "demo_r1"
    )  # the one it was started with
    assert server._is_loopback("127.0.0.1")
    assert server._is_loopback("::1")
    assert not server._is_loopback("0.0.0.0")
    assert not server._is_loopback("example.org")


def test_kept_results_are_made_once_and_forgotten_in_order():
    kept, made = RecentResults(2), []

    def slow(key):
        time.sleep(0.05)
        made.append(key)
        return key

    threads = [threading.Thread(target=lambda: kept.get("a", lambda: slow("a"))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == ["a"]
    for key in ("b", "c", "a"):
        assert kept.get(key, lambda key=key: slow(key)) == key
    assert made == ["a", "b", "c", "a"]
    with pytest.raises(ZeroDivisionError):
        kept.get("d", lambda: 1 / 0)
    assert kept.get("d", lambda: 5) == 5


def test_a_file_written_again_is_looked_at_again(bench, scene, picture, tmp_path):
    path = tmp_path / "same.png"
    Image.fromarray(picture(20, 20, 1)).save(path)
    first = bench.view(replace(scene, image=str(path)))
    time.sleep(0.02)
    Image.fromarray(picture(20, 20, 2)).save(path)
    second = bench.view(replace(scene, image=str(path)))
    assert isinstance(first, View)
    assert not np.array_equal(first.image, second.image)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The app on a free port; yields its address."""
    folder = tmp_path_factory.mktemp("served")
    blocks = server.build(Workbench(folder / "examples"), folder)
    yield server.launch(blocks, quiet=True)
    blocks.close()


def test_twin_endpoint_gives_the_library_s_map(served, tmp_path):
    from gradio_client import Client, handle_file

    scene = make_scene(10_000_002)
    Image.fromarray(scene.image).save(tmp_path / "scene.png")
    client = Client(served, verbose=False)
    answer = client.predict(
        handle_file(tmp_path / "scene.png"), 30, 40, 2, api_name="/attention_at"
    )
    view = Explorer.open("demo").look(scene.image)
    np.testing.assert_allclose(np.array(answer["map"]), view.attention(30, 40, 2), atol=1e-6)
    assert answer["grid"] == [24, 24]
    assert answer["cell"] == list(view.cell(30, 40))
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert answer["label"] == view.explorer.class_names[view.labels[40, 30]]


@pytest.mark.parametrize(
    ("x", "recurrence", "model", "words"),
    [
        (500, 2, "demo", "outside the image"),
        (5, 0, "demo", "1 to 8"),
        (5, 2, "demmo", "did you mean"),
    ],
)
def test_twin_endpoint_says_what_is_wrong(served, tmp_path, x, recurrence, model, words):
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    Image.fromarray(make_scene(1).image).save(tmp_path / "scene.png")
    with pytest.raises(AppError, match=words):
        Client(served, verbose=False).predict(
            handle_file(tmp_path / "scene.png"), x, 5, recurrence, model, api_name="/attention_at"
        )


def test_two_visitors_get_their_own_answers(served, tmp_path):
    """Many requests at once, each with its own picture: nobody gets another's map."""
    from concurrent.futures import ThreadPoolExecutor

    from gradio_client import Client, handle_file

    expected = {}
    explorer = Explorer.open("demo")
    for seed in range(4):
        Image.fromarray(make_scene(seed).image).save(tmp_path / f"{seed}.png")
        expected[seed] = explorer.look(make_scene(seed).image).attention(50, 50, 2)

    def visit(seed):
        client = Client(served, verbose=False)
        return [
            client.predict(
                handle_file(tmp_path / f"{seed}.png"), 50, 50, 2, api_name="/attention_at"
            )["map"]
            for _ in range(3)
        ]

    with ThreadPoolExecutor(4) as pool:
        for seed, answers in zip(expected, pool.map(visit, expected), strict=True):
            for answer in answers:
                np.testing.assert_allclose(np.array(answer), expected[seed], atol=1e-6)


def test_nothing_asks_another_machine(served):
    """The page names no script, style or font from elsewhere that a browser would load."""
    import urllib.request

    html = urllib.request.urlopen(served).read().decode()
    assert not re.findall(
        r"""<(?:script|link|img)[^>]+(?:src|href)=["']https?://(?!127\.0\.0\.1|localhost)[^"']+""",
        html,
    )
