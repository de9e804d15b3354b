"""app/server.py and app/session.py: answers without a browser, the endpoint for programs."""

import gc
import re
import subprocess
import sys
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qsl
from urllib.request import urlopen

import gradio
import numpy as np
import pytest
import torch
from matplotlib.text import Text
from PIL import Image

from ccnet_lab import CONFIGS, ConfigError, Explorer, ImageError, build_model
from ccnet_lab.app import rendering, resting, server, views
from ccnet_lab.app.callbacks import problem
from ccnet_lab.app.gate import is_loopback
from ccnet_lab.app.model_names import megabytes
from ccnet_lab.app.page import Page
from ccnet_lab.app.recent_results import RecentResults
from ccnet_lab.app.session import Workbench
from ccnet_lab.configs import get_config
from ccnet_lab.data.generated.beacons import make_scene
from ccnet_lab.errors import LabError, MissingFileError
from ccnet_lab.explore.explorer import View
from ccnet_lab.hub import find_weights
from ccnet_lab.runs import Run
from ccnet_lab.viewer import payload


@pytest.fixture
def bench(tmp_path):
    return Workbench(tmp_path / "examples")


@pytest.fixture
def scene(bench):
    return bench.start("demo")


def test_the_first_thing_seen_is_already_an_answer(bench, scene):
    header = payload.header_of(bench.payload(scene))
    assert (header["x"], header["y"]) == (scene.x, scene.y)
    assert header["recurrences"] == [1, 2, 3]
    model, notice = bench.around(scene)
    assert "R trained <b>2</b>" in model
    assert notice == ""


def test_a_view_s_arrays_are_made_once_and_without_tables(bench, scene, monkeypatch):
    """They are what takes time and bytes; the page makes the tables."""
    made = []
    monkeypatch.setattr(views, "body", lambda *a, **k: made.append(1) or payload.body(*a, **k))
    first = bench.payload(scene)
    again = bench.payload(replace(scene, x=5, y=7))
    header = payload.header_of(again)
    assert (header["x"], header["y"], header["tabulate"]) == (5, 7, True)
    assert len(made) == 1
    assert first.endswith(again[-1000:])
    assert {"query3", "key3"} < set(header["arrays"])
    assert "attention1" not in header["arrays"]
    bench.payload(replace(scene, short_side=256))
    assert len(made) == 2


def test_what_a_page_says_that_it_shows_is_taken_with_care(bench, scene):
    looked = {"x": 4000, "y": -5, "recurrence": 3, "labels": 7, "clip": 0.25, "pinned": True}
    state = scene.looking(looked)
    assert (state.recurrence, state.labels, state.clip) == (3, 1.0, 0.25)
    assert state.pinned
    header = payload.header_of(bench.payload(state))
    assert (header["x"], header["y"]) == (95, 0)
    strange = ("text", None, 7, [], {"x": "../../etc", "clip": None, "y": 1e300, "model": "x"})
    assert all(scene.looking(looked) == scene for looked in strange)
    for recurrence in (0, 4, 999_999, 2.5, [2]):  # a larger one would be computed
        assert scene.looking({"recurrence": recurrence}).recurrence == scene.recurrence


def test_the_figure_to_keep_shows_what_the_page_shows(bench, scene):
    def title(state):
        return max((text.get_text() for text in bench.figure(state).findobj(Text)), key=len)

    at = {"x": scene.x, "y": scene.y}
    assert title(scene.looking(at)).endswith(f"what pixel ({scene.x}, {scene.y}) looks at")
    region = scene.looking(at | {"corners": [0, 0, 11, 7], "kind": "listeners"})
    assert title(region).endswith("who listens to a region of 3 × 2 cells")
    a_class = region.looking(at | {"corners": None, "label": 0, "kind": "attention"})
    assert re.search(r"what all \d+ cells of \w+ look at$", title(a_class))
    assert a_class.looking(at) == scene.looking(at)
    assert bench.with_image(region, bench.examples[1]).region is None
    for strange in ({"corners": [1, 2]}, {"corners": ["a"] * 4}, {"label": -1}, {"label": True}):
        assert scene.looking(strange) == scene


def test_the_exact_map_of_a_page_s_own_file_only(bench, tmp_path):
    with gradio.Blocks():
        page = Page(bench, tmp_path)
        page.view = gradio.HTML()
    page.views["mine"] = page.first
    view = bench.view(page.first)
    found = page.exact_map(["mine", 3, 4, 2, "listeners"])
    assert np.array_equal(np.float32(found), view.listeners(3, 4, 2).ravel())
    for asked in (["other", 3, 4, 2, "attention"], ["mine", 3, 4, 9, "x"], ["mine", 96, 4, 2, "x"]):
        assert isinstance(page.exact_map(asked), str)
    assert "no longer on show" in page.exact_map(["other", 3, 4, 2, "attention"])


def test_thirty_visitors_and_views_stay_bounded(bench, picture, tmp_path):
    """Views take so many bytes for all; a file for each visitor, gone with the next or him."""
    with gradio.Blocks():
        page = Page(bench, tmp_path)
        page.view, page.problem = gradio.HTML(), gradio.HTML()
    folder = tmp_path / "cache"
    folder.mkdir()
    page.view.GRADIO_CACHE = str(folder)
    state, states = page.first, []
    one = bench.view(page.first).nbytes
    bench._views._budget = 10 * one
    for n in range(30):
        Image.fromarray(picture(40, 60, n)).save(tmp_path / f"{n}.png")
        state = page.show_view(bench.with_image(state, str(tmp_path / f"{n}.png")))[page.state]
        assert len(list(folder.iterdir())) == 1
    for n in range(30):
        begun = bench.with_image(page.first, str(tmp_path / f"{n}.png"))
        states.append(page.show_view(begun)[page.state])
    assert len(page.views) == len(list(folder.iterdir())) == 31
    held = [each.result().nbytes for each in bench._views._found.values()]
    assert sum(held) <= 10 * one < sum(held) + max(held)
    for gone in (state, *states):
        page.forget(gone)
    assert page.views == {}
    assert list(folder.iterdir()) == []
    assert page.view.keep_in_cache == set()


def test_photographs_on_the_demo_are_announced(bench, scene):
    hopper = next(path for path in bench.examples if "hopper" in path)
    photograph = bench.with_image(scene, hopper)
    assert "photograph" in bench.around(photograph)[1]
    assert "generated beacon scenes" in bench.around(photograph)[1]


@pytest.mark.parametrize(
    ("model", "first", "known"),
    [
        ("demo", "scene_10000018", {"scene_10000018", "scene_10000002", "scene_10000005"}),
        ("street", "u_street", {"u_street", "summer_palace", "grace_hopper"}),
        ("ccnet_resnet50os8_voc_mini", "voc_mini", {"voc_mini"}),
        ("ccnet_resnet50os8_ade20k_mini", "ade20k_mini", {"ade20k_mini"}),
        ("ccnet_resnet50os8_cityscapes_mini", "cityscapes_mini", {"cityscapes_mini"}),
    ],
)
def test_a_model_begins_with_a_picture_of_its_kind(bench, model, first, known):
    """On every other kind of picture a line says that its labels mean nothing."""
    begun = bench.first(model)
    assert Path(begun.image).stem == first
    for path in bench.examples:
        said = bench.around(replace(begun, image=path))[1]
        assert (said == "") == (Path(path).stem in known), path


@pytest.mark.parametrize("name", [name for name in CONFIGS if "os8" in name])
def test_the_menu_knows_how_large_weights_are(name):
    with torch.device("meta"):
        entries = build_model(name).state_dict().values()
    assert megabytes(CONFIGS[name]) == f"{sum(entry.nbytes for entry in entries) / 1e6:.0f} MB"


def test_the_page_loads_nothing_heavy_and_gradio_writes_no_interfaces():
    slow = ("torchvision", "torch._dynamo", "matplotlib", "seaborn", "triton")
    code = f"""
import sys
opened = []
sys.addaudithook(lambda event, given: event == "open" and opened.append(str(given[0])))
import ccnet_lab.app.server
print([name for name in {slow} if name in sys.modules])
print([name for name in opened if name.endswith(".pyi")])
print(len([name for name in opened if name.endswith(".py") or ".pyc" in name]) > 1000)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "[]", "True"]


def test_the_menu_names_what_is_shipped(bench):
    """In words, once each."""
    labels = [label for label, _ in bench.models()]
    assert labels[:3] == [
        "demo: beacons, trained at R = 2",
        "demo: beacons, trained at R = 1",
        "street: photographs from a car (CamVid)",
    ]
    kinds = ("objects", "rooms", "streets")
    assert labels[3:6] == [f"miniature: {kind}, R-50-D8" for kind in kinds]


def test_other_networks_begin_with_a_photograph(bench, monkeypatch):
    """As the published ones, of whose data sets no picture is shipped."""
    street = bench.explorer("street")
    monkeypatch.setattr(street, "config", replace(street.config, dataset="ade20k", alias=""))
    assert Path(bench.first("street").image).stem == "grace_hopper"


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (3, 2)])
def test_odd_pictures_go_all_the_way(bench, scene, picture, tmp_path, size):
    Image.fromarray(picture(*size)).save(tmp_path / "odd.png")
    odd = bench.with_image(scene, str(tmp_path / "odd.png"))
    assert payload.header_of(bench.payload(odd))["size"] == [*size]
    bench.figure(odd)


def test_a_bad_picture_or_model_raises_what_the_page_tells(bench, scene, tmp_path):
    (tmp_path / "a.jpg").write_text("no picture")
    with pytest.raises(ImageError, match="no picture that can be read"):
        bench.with_image(scene, str(tmp_path / "a.jpg"))
    with pytest.raises(ConfigError, match="neither"):
        bench.with_model(scene, "nonsense")
    with pytest.raises(LabError):
        bench.with_model(scene, str(tmp_path))
    bench.payload(scene)  # the session goes on


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
    started = Workbench(tmp_path, any_path=False, model=own)  # its own is named without a path
    assert started.model == "file: demo_r1.safetensors"
    assert started.explorer(started.model).config.name == "demo_r1"
    with pytest.raises(ConfigError, match="no typed paths"):
        started.explorer(own)
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("example.org")


def test_visitors_from_elsewhere_are_told_no_path(tmp_path, picture, monkeypatch):
    """Not in the menu, not in Python to copy, not in messages; the runs can be opened."""
    run = Run.create(tmp_path / "runs" / "mine", get_config("demo_r1"))
    run.weights.write_bytes(find_weights("demo_r1").read_bytes())
    monkeypatch.setattr(rendering, "_hidden", [])
    rendering.hide([tmp_path])
    bench = Workbench(tmp_path / "examples", any_path=False, runs=tmp_path / "runs")
    assert ("run: mine", "run: mine") in bench.models()
    assert not [text for choice in bench.models() for text in choice if "/" in text]
    Image.fromarray(picture(40, 60, 1)).save(tmp_path / "a.png")
    state = bench.with_model(bench.first("demo"), "run: mine")
    mine = bench.with_image(state, str(tmp_path / "a.png"))
    code = bench.python(mine)
    assert "open('mine')" in code
    assert "look('your_picture.png')" in code
    assert str(tmp_path) not in code + bench.link(mine)
    assert bench.reopen(dict(parse_qsl(bench.link(mine)[1:])))[0].model == "run: mine"
    said = problem(MissingFileError(f"there is no picture {tmp_path}/a\x1b.png"))
    assert str(tmp_path) not in said
    assert "there is no picture …/a\ufffd.png" in said


def test_what_is_kept_stays_within_its_bytes():
    """The newest in any case; one that is computed counts once it is there."""
    kept = RecentResults(9, budget=10, size=len)
    assert [len(kept.get(n, lambda n=n: "x" * n)) for n in (4, 5, 6, 40)] == [4, 5, 6, 40]
    assert [*kept._found] == [40]
    kept.get(1, lambda: "x")
    kept.get(2, lambda: "xx")
    assert [*kept._found] == [1, 2]


def test_a_model_that_makes_room_goes_with_its_views(tmp_path):
    """A network and its faster copy take up to a gigabyte, and every view holds both."""
    bench, opened = Workbench(tmp_path / "examples"), []
    for model in ("demo", "demo_r1", "street", "ccnet_resnet50os8_voc_mini", "demo"):
        bench.first(model)
        opened.append(weakref.ref(bench.explorer(model)))
    gc.collect()
    assert [explorer() is not None for explorer in opened] == [False, False, True, True, True]
    assert len(bench._views._found) == 3


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


def test_the_page_has_the_script_that_lets_it_rest_once(served, bench, tmp_path, monkeypatch):
    blocks = server.build(bench, tmp_path).queue()
    resting.let_rest(blocks)  # a second app in this process
    assert blocks._queue.sleep_when_free >= resting.LOOKS
    with urlopen(served, timeout=30) as answer:
        page = answer.read().decode()
    assert page.count(resting.SCRIPT) == 1
    assert page.index(resting.SCRIPT) < page.index('type="module"')
    monkeypatch.setattr(resting, "PAGE", "of/another/gradio.html")
    resting.let_rest(blocks)


def test_bfloat16_is_told_with_what_it_changes(tmp_path):
    exact, rounded = Workbench(tmp_path), Workbench(tmp_path, precision="bf16")
    state = exact.start("street")
    assert "bfloat16" not in exact.around(state)[0]
    said = rounded.around(rounded.start("street"))[0]
    share = (exact.view(state).labels == rounded.view(state).labels).mean()
    assert 0.95 < share < 1
    assert f"<b>bfloat16</b>: <b>{100 * share:.1f} %</b> of the first picture's pixels" in said
    assert rounded.around(rounded.with_image(state, rounded.examples[-1]))[0] == said


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
