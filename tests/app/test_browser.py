"""The app in headless Chromium, skipped without: clicks, keys, tabs, files, links, downloads."""

import io
import re
import shutil
import threading
import time
from functools import partial
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
from conftest import CHROMIUM
from miniatures import fabricate
from PIL import Image
from web import Served, serve

from ccnet_lab import Explorer, get_config, store
from ccnet_lab.app import explore_tab, growth_html, server
from ccnet_lab.app.board_views import BoardView
from ccnet_lab.app.examples import SCENE_SEEDS
from ccnet_lab.app.page import Page
from ccnet_lab.app.session import Workbench
from ccnet_lab.data.catalog import DATASETS
from ccnet_lab.data.generated.beacons import make_scene
from ccnet_lab.explore.attention_costs import measure_growth
from ccnet_lab.explore.deletion import deletion_test
from ccnet_lab.explore.explorer import View
from ccnet_lab.reports import board as boards
from ccnet_lab.runs import Run

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"
)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    blocks = server.build(Workbench(folder / "examples", runs=ROOT / "results" / "runs"), folder)
    yield server.launch(blocks, quiet=True)
    blocks.close()


SIZE = {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def context(browser):
    """Its pages share the scripts that were fetched and parsed before, and nothing else."""
    found = browser.new_context(viewport=SIZE, accept_downloads=True)
    yield found
    kept = found.storage_state()
    found.close()
    assert kept == {"cookies": [], "origins": []}


def visit(tab, address):
    """Load the page, each time as a fresh visitor: with a session of its own."""
    tab.goto(address)
    tab.wait_for_selector(".ccnet-facts")
    return tab


@pytest.fixture
def tab(context, address):
    """A fresh visitor; fails on any request that leaves this machine."""
    elsewhere = []

    def note(request):
        if not re.match(r"(http://(127\.0\.0\.1|localhost)|data:|blob:|file:)", request.url):
            elsewhere.append(request.url)

    context.on("request", note)
    tab = context.pages[0] if context.pages else context.new_page()
    tab.mouse.move(0, 0)
    yield visit(tab, address)
    for page in context.pages[1:]:
        page.close()
    context.remove_listener("request", note)
    context.clear_permissions()
    assert elsewhere == []
    assert tab.evaluate("[localStorage.length, sessionStorage.length]") == [0, 0]


def test_an_open_page_and_the_app_rest(context, address):
    """Frames that scripts ask for, and seconds that the server's process computes."""
    tab = context.new_page()
    tab.add_init_script(
        "window.frames = 0; const frame = requestAnimationFrame;"
        "requestAnimationFrame = call => (frames++, frame(call))"
    )
    visit(tab, address)
    found = []
    for _ in range(10):  # at first the other tabs are filled
        frames, used = tab.evaluate("frames"), time.process_time()
        time.sleep(2)
        found.append((tab.evaluate("frames") - frames, time.process_time() - used))
        if found[-1] < (3, 0.2):
            break
    assert found[-1][0] < 3, found
    assert found[-1][1] < 0.2, found
    tab.close()


STATE = "document.querySelector('[data-ccnet-viewer]').ccnetState()"


def click(tab, across, down):
    stage = tab.locator(".ccnet-stage")
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    tab.mouse.click(box["x"] + across * box["width"], box["y"] + down * box["height"])


def chosen(tab):
    return tuple(tab.evaluate(f"(({{x, y}}) => [x, y])({STATE})"))


def wait_for_pixel(tab, x, y, near=1):
    tab.wait_for_function(
        f"""([x, y, near]) => {{
        const found = document.querySelector('[data-ccnet-viewer]')?.ccnetState && {STATE};
        return found && Math.abs(found.x - x) <= near && Math.abs(found.y - y) <= near }}""",
        arg=[x, y, near],
        timeout=15_000,
    )


def wait_for_maps(tab):
    """Until the page has made its tables of attention."""
    tab.wait_for_function(f"{STATE}.subjects[0].maps.every(map => 'sum' in map)")


def another_view(tab, act):
    """Do what brings another view, and wait for it."""
    tab.evaluate("document.querySelector('[data-ccnet-viewer]').dataset.old = 'yes'")
    act()
    tab.wait_for_selector("[data-ccnet-viewer]:not([data-old])", timeout=30_000)
    tab.wait_for_selector(".ccnet-facts")


def upload(tab, path):
    another_view(tab, lambda: tab.set_input_files("#upload input[type=file]", path))
    tab.wait_for_timeout(100)  # the layout follows


def test_a_click_lands_where_the_eye_is(tab):
    for across, down in ((0.25, 0.75), (0.9, 0.1), (0.01, 0.99)):
        click(tab, across, down)
        wait_for_pixel(tab, int(across * 96), int(down * 96))
        stage, point = (
            tab.locator(".ccnet-stage").bounding_box(),
            tab.locator(".ccnet-point >> nth=0").bounding_box(),
        )
        centre = (
            (point["x"] + point["width"] / 2 - stage["x"]) / stage["width"],
            (point["y"] + point["height"] / 2 - stage["y"]) / stage["height"],
        )
        assert centre == pytest.approx((across, down), abs=0.02)


def seen_block(tab, pixel_ratio):
    """(x, y) in CSS pixels of the middle of what is magenta on the stage, from a screenshot."""
    tab.evaluate("document.querySelector('.ccnet-stage').scrollIntoView()")
    tab.wait_for_timeout(150)
    shot = np.asarray(Image.open(io.BytesIO(tab.screenshot())).convert("RGB")).astype(int)
    box = tab.locator(".ccnet-stage").bounding_box()
    left, top, right, bottom = (
        round(pixel_ratio * v)
        for v in (box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"])
    )
    stage = shot[max(top, 0) : bottom, left:right]
    rows, columns = np.nonzero(np.minimum(stage[..., 0], stage[..., 2]) - stage[..., 1] > 60)
    assert len(rows) > 40
    return (left + (columns.min() + columns.max() + 1) / 2) / pixel_ratio, (
        max(top, 0) + (rows.min() + rows.max() + 1) / 2
    ) / pixel_ratio


@pytest.fixture(scope="module", params=[1, 2])
def screen(browser, address, request):
    """A page on a screen of one or two pixels for each of CSS's, and that ratio."""
    context = browser.new_context(
        viewport={"width": 1600, "height": 1000}, device_scale_factor=request.param
    )
    yield visit(context.new_page(), address), request.param
    context.close()


@pytest.mark.parametrize(
    "size", [(1080, 1920), (900, 1200), (1000, 1000), (1200, 900), (1920, 1080), (600, 1800)]
)
def test_a_block_is_clicked_where_it_is_seen(screen, tmp_path, size):
    (tab, pixel_ratio), (width, height) = screen, size
    tab.set_viewport_size({"width": 1600, "height": 1000})
    picture = np.full((height, width, 3), 24, np.uint8)
    picture[5:86, 5:86] = (255, 0, 255)
    Image.fromarray(picture).save(tmp_path / "block.png")
    upload(tab, tmp_path / "block.png")
    for window in (1920, 1600, 1280, 390):
        tab.set_viewport_size({"width": window, "height": 1000})
        x, y = seen_block(tab, pixel_ratio)
        tab.mouse.click(x, y)
        wait_for_pixel(tab, 45, 45, near=8)  # two pixels of the screen
        point = tab.locator(".ccnet-point >> nth=0").bounding_box()
        assert point["x"] + point["width"] / 2 == pytest.approx(x, abs=3)
        assert point["y"] + point["height"] / 2 == pytest.approx(y, abs=3)
        shown = tab.locator(".ccnet-stage").bounding_box()
        assert shown["width"] / shown["height"] == pytest.approx(width / height, rel=0.02)
        tab.mouse.click(shown["x"] + shown["width"] - 2, y)
        wait_for_pixel(tab, width - 1 - round(2 * width / shown["width"]), 45, near=8)
    before = chosen(tab)[0]
    tab.focus(".ccnet-stage")
    tab.keyboard.press("ArrowLeft")
    assert chosen(tab)[0] < before
    cell, shown = (
        tab.locator(".ccnet-stage .ccnet-cell").bounding_box(),
        tab.locator(".ccnet-stage").bounding_box(),
    )
    assert (cell["x"] + cell["width"] / 2 - shown["x"]) / shown["width"] * width == pytest.approx(
        chosen(tab)[0], abs=8
    )


def test_quick_clicks_end_on_the_last_one(tab):
    for pause in (0, 40):
        for k in range(8):
            click(tab, 0.1 + 0.1 * k, 0.5)
            tab.wait_for_timeout(pause)
        wait_for_pixel(tab, int(0.8 * 96), 48)
        tab.wait_for_timeout(800)
        assert abs(chosen(tab)[0] - int(0.8 * 96)) <= 1


def test_a_turned_photograph_is_clicked_where_it_is_seen(tab, tmp_path):
    upright = np.full((300, 200, 3), 60, np.uint8)
    upright[:60, :60] = (230, 159, 0)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(upright).transpose(Image.Transpose.ROTATE_90).save(
        tmp_path / "turned.jpg", exif=exif
    )
    upload(tab, tmp_path / "turned.jpg")
    box = tab.locator(".ccnet-stage").bounding_box()
    assert box["height"] > box["width"]
    click(tab, 0.1, 0.1)
    wait_for_pixel(tab, 20, 30, near=2)
    assert "photograph" in tab.inner_text("#notice")


def test_a_bad_file_is_told_and_the_session_goes_on(tab, tmp_path):
    (tmp_path / "broken.jpg").write_text("no picture")
    tab.set_input_files("#upload input[type=file]", tmp_path / "broken.jpg")
    tab.wait_for_selector("#problem .problem")
    assert "broken.jpg is no picture" in tab.inner_text("#problem")
    click(tab, 0.5, 0.5)
    wait_for_pixel(tab, 48, 48)  # the view goes on
    another_view(tab, lambda: tab.locator("#examples button img").nth(1).click())
    assert tab.locator("#problem .problem").count() == 0


def test_any_failure_is_told_and_the_picture_stays(tab, monkeypatch):
    before = tab.evaluate(STATE)

    def failing(error):
        def strange(*_, **__):
            raise error("a mistake of ours")

        return strange

    for name, error, act in (
        ("payload", ZeroDivisionError, lambda: tab.locator("#examples button img").nth(1).click()),
        ("figure", OSError, lambda: tab.click("#save")),
        ("link", KeyError, lambda: tab.click("#link")),
    ):
        monkeypatch.setattr(Workbench, name, failing(error))
        act()
        tab.wait_for_selector(
            f"#problem .problem >> text=something unforeseen happened ({error.__name__}"
        )
        tab.wait_for_timeout(200)
        assert tab.evaluate(STATE)["size"] == before["size"]
        assert chosen(tab) == (before["x"], before["y"])
    monkeypatch.undo()
    another_view(tab, lambda: tab.locator("#examples button img").nth(1).click())
    assert tab.locator("#problem .problem").count() == 0


def test_another_picture_keeps_the_sliders_and_the_files_are_right(tab, tmp_path):
    slider = tab.locator("[data-slider=clip] input").bounding_box()
    tab.mouse.click(slider["x"] + 0.9 * slider["width"], slider["y"] + slider["height"] / 2)
    clip = tab.evaluate(STATE)["clip"]
    assert clip > 0.8
    another_view(tab, lambda: tab.locator("#examples button img").nth(4).click())
    assert tab.evaluate(STATE)["clip"] == clip
    assert tab.evaluate(STATE)["size"] == [427, 640]
    for button, name in (("#save", "png"), ("#save-pdf", "pdf"), ("#save-page", "html")):
        with tab.expect_download() as download:
            tab.click(button)
        assert download.value.suggested_filename == f"attention.{name}"
        download.value.save_as(tmp_path / f"saved.{name}")
    assert min(Image.open(tmp_path / "saved.png").size) > 300
    assert (tmp_path / "saved.pdf").read_bytes().startswith(b"%PDF")
    page = tab.context.new_page()
    page.goto((tmp_path / "saved.html").as_uri())
    page.wait_for_selector(".ccnet-facts")
    wait_for_maps(tab)
    same = ("x", "y", "recurrence", "clip", "size", "subjects")
    shown, saved = tab.evaluate(STATE), page.evaluate(STATE)
    assert [saved[name] for name in same] == [shown[name] for name in same]
    page.close()


def test_the_tab_key_passes_the_model_menu_by(tab):
    """It opens for an arrow key or a click."""
    options = tab.locator("[role=option]:visible")
    for key, inside in (("Tab", True), ("Tab", False), ("Shift+Tab", True)):
        tab.keyboard.press(key)
        tab.wait_for_timeout(400)  # it would fade in
        assert tab.evaluate("!!document.activeElement.closest('#model')") == inside
        assert options.count() == 0
    tab.keyboard.press("ArrowDown")
    options.first.wait_for()
    tab.keyboard.press("Escape")
    options.first.wait_for(state="hidden")


def test_long_pictures_have_their_true_shape(tab, tmp_path, picture):
    for size in ((30, 600), (600, 30)):
        Image.fromarray(picture(*size)).save(tmp_path / "long.png")
        upload(tab, tmp_path / "long.png")
        for shown in (tab.locator(".ccnet-stage"), tab.locator(".ccnet-map >> nth=0")):
            box = shown.bounding_box()
            assert box["height"] / box["width"] == pytest.approx(size[0] / size[1], rel=0.05)
            assert min(box["height"], box["width"]) > 20
            assert box["height"] < 700
        click(tab, 0.25, 0.75)
        wait_for_pixel(tab, size[1] // 4, 3 * size[0] // 4, near=size[1] // 100 + 2)


def test_the_figure_is_of_the_region_or_class_on_show(tab, monkeypatch):
    asked, draw = [], View.figure
    monkeypatch.setattr(View, "figure", lambda *a, **o: asked.append(o) or draw(*a, **o))

    def figure():
        with tab.expect_download():
            tab.click("#save")
        return asked[-1]["region"], asked[-1]["label"], asked[-1]["kind"]

    tab.click("[data-value=region]")
    stage = tab.locator(".ccnet-stage").bounding_box()
    tab.mouse.move(stage["x"] + 0.5 * stage["width"], stage["y"] + 0.5 * stage["height"])
    tab.mouse.down()
    tab.mouse.move(stage["x"] + 0.25 * stage["width"], stage["y"] + 0.75 * stage["height"])
    tab.mouse.up()
    (left, top, right, bottom), label, kind = figure()
    assert (left, top, right, bottom) == pytest.approx((48, 48, 24, 72), abs=1)
    assert (label, kind) == (None, "attention")
    tab.click("[data-value=listeners]")
    tab.locator(".ccnet-legend button").nth(1).click()
    k = int(tab.locator(".ccnet-legend button").nth(1).get_attribute("data-class"))
    assert figure() == (None, k, "listeners")
    tab.click("[data-value=pixel]")
    assert figure() == (None, None, "listeners")


def test_the_keyboard_moves_the_pixel_cell_by_cell(tab):
    x, y = chosen(tab)
    tab.focus(".ccnet-stage")
    for key in ("ArrowLeft", "ArrowLeft", "ArrowUp"):
        tab.keyboard.press(key)
    wait_for_pixel(tab, x // 4 * 4 + 2 - 8, y // 4 * 4 + 2 - 4, near=1)
    for _ in range(30):
        tab.keyboard.press("ArrowUp")
    wait_for_pixel(tab, x // 4 * 4 + 2 - 8, 2, near=1)  # stays on the picture


def test_a_copied_link_reopens_to_the_same_bytes_and_the_copied_python_runs(
    tab, tmp_path, monkeypatch, picture
):
    monkeypatch.setenv("CCNET_LAB_HOME", str(tmp_path / "home"))
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    Image.fromarray(picture(60, 80)).save(tmp_path / "mine.png")
    upload(tab, tmp_path / "mine.png")
    click(tab, 0.3, 0.6)
    wait_for_pixel(tab, 24, 36)
    tab.keyboard.press("3")
    slider = tab.locator("[data-slider=labels] input").bounding_box()
    tab.mouse.click(slider["x"] + 0.8 * slider["width"], slider["y"] + slider["height"] / 2)
    tab.click("#link")
    tab.wait_for_url("**/?image=*")
    link = tab.evaluate("navigator.clipboard.readText()")
    assert link == tab.url == tab.input_value("#shared textarea, #shared input")
    seen = f"(({{milliseconds, ...state}}) => state)({STATE})"
    wait_for_maps(tab)
    tab.wait_for_timeout(1000)  # the tables' maps follow those of a single pixel
    before = tab.evaluate(seen)
    assert before["recurrence"] == 3
    assert before["labels"] > 0.7
    tab.click("#python")
    tab.wait_for_function(
        "() => /ccnet_lab.Explorer/.test(document.querySelector('#shared textarea').value)"
    )
    found = {}
    exec(tab.evaluate("navigator.clipboard.readText()"), found)
    assert np.array_equal(
        found["weights"],
        found["explorer"].look(tmp_path / "mine.png").attention(*chosen(tab), recurrence=3),
    )
    other = tab.context.new_page()
    other.goto(link)
    wait_for_pixel(other, *chosen(tab), near=0)
    wait_for_maps(other)
    deadline = time.monotonic() + 20
    while other.evaluate(seen) != before and time.monotonic() < deadline:
        other.wait_for_timeout(200)
    assert other.evaluate(seen) == before
    shutil.rmtree(tmp_path / "home")
    other.goto(link)
    other.wait_for_selector("#problem .problem:has-text('needs a picture')")
    wait_for_pixel(other, 77, 67, near=0)  # what everybody sees first


def parameters(tab):
    return dict(parse_qsl(urlsplit(tab.url).query))


def test_the_address_follows_the_view_of_an_example(tab, address, tmp_path, picture):
    assert parameters(tab) == {}  # until the visitor does something
    click(tab, 0.3, 0.6)
    x, y = chosen(tab)
    tab.wait_for_url(f"**/?*r=2&x={x}&y={y}&*")
    tab.keyboard.press("3")
    tab.wait_for_url("**/?*r=3&*")
    first = parameters(tab)
    another_view(tab, lambda: tab.locator("#examples button img").nth(1).click())
    tab.wait_for_url(lambda url: first["image"] not in url)
    tab.click("#model input")
    another_view(tab, lambda: tab.locator("[role=option]", has_text="trained at R = 1").click())
    tab.wait_for_url("**/?*model=demo_r1&*")
    found = parameters(tab)
    open_tab(tab, "Recurrence")
    tab.wait_for_url("**/?*tab=Recurrence*")
    other = tab.context.new_page()
    other.goto(tab.url)
    other.wait_for_selector("#recurrence img", timeout=30_000)
    same = ("model", "x", "y", "recurrence", "clip", "labels", "kind", "scale")
    shown, reopened = tab.evaluate(STATE), other.evaluate(STATE)
    assert [reopened[name] for name in same] == [shown[name] for name in same]
    assert parameters(other) == found | {"tab": "Recurrence"}
    other.close()
    open_tab(tab, "Explore")
    Image.fromarray(picture(40, 60)).save(tmp_path / "mine.png")
    upload(tab, tmp_path / "mine.png")
    tab.wait_for_url(lambda url: "image=" not in url)  # the old link would show another picture


def test_an_address_may_name_a_model_alone(context, address):
    tab = context.new_page()
    tab.goto(f"{address}?model=street")
    tab.wait_for_function(f"document.querySelector('.ccnet-facts') && {STATE}.model === 'street'")
    assert tab.evaluate(STATE)["size"] == [477, 720]
    assert "CamVid" in tab.inner_text("#about-model")
    tab.goto(f"{address}?model=nonsense")
    tab.wait_for_selector("#problem .problem:has-text('neither a model')")
    tab.wait_for_selector(".ccnet-facts")  # the page fetches the view after that
    assert tab.evaluate(STATE)["model"] == "demo"
    tab.close()


def test_an_address_of_an_unknown_board_shows_the_first(tab):
    click(tab, 0.3, 0.6)
    tab.wait_for_url("**/?*tab=Explore*")
    tab.goto(tab.url.replace("tab=Explore", "tab=Configurations&board=nonsense&order=nonsense"))
    tab.wait_for_selector("#board img", timeout=60_000)
    titles = [data.title.partition(" (miniature)")[0] for data in DATASETS.values()]
    assert tab.input_value("#board-dataset input") in titles
    assert tab.locator(".toast-body").count() == 0


def test_another_model_and_one_that_is_not_there(tab):
    tab.fill("#model input", "nowhere.pth")
    tab.press("#model input", "Enter")
    tab.wait_for_selector("#problem .problem")
    assert "neither a model's name nor a file" in tab.inner_text("#problem")
    tab.click("#model input")
    tab.locator("[role=option]", has_text="trained at R = 1").click()
    tab.wait_for_function(
        "() => /R trained 1/.test(document.querySelector('#about-model').innerText)"
    )


def test_a_map_too_large_for_the_page_comes_from_the_server_once_pinned(tab):
    tab.click("#size input")
    another_view(tab, lambda: tab.get_by_role("option", name="short side up to 1024").click())
    state = tab.evaluate(STATE)
    assert state["grid"] == [256, 256]
    assert ["sum" in found for found in state["subjects"][0]["maps"]] == [True, True, False]
    click(tab, 0.3, 0.4)
    tab.wait_for_function(f"'sum' in {STATE}.subjects[0].maps[2]", timeout=60_000)
    pinned = tab.evaluate(STATE)
    view = Explorer.open("demo").look(make_scene(SCENE_SEEDS[0]).image, 1024)
    pixel = view.pixel(pinned["x"], pinned["y"])
    for found, cross in zip(pinned["subjects"][0]["maps"], pixel.on_cross, strict=True):
        assert found["sum"] == pytest.approx(1, abs=1e-3)
        assert found["on_cross"] == pytest.approx(cross, abs=1e-4)


def test_the_page_makes_its_tables_with_and_without_a_worker(context, address):
    """All three maps and a class's come, and are the library's."""
    view = Explorer.open("demo").look(make_scene(SCENE_SEEDS[0]).image)
    broken = "window.Worker = class { postMessage() { throw new Error('no memory') } }"
    for before in ("", "window.Worker = undefined", broken):
        tab = context.new_page()
        tab.add_init_script(before)
        tab.goto(address)
        tab.wait_for_selector(".ccnet-facts")
        wait_for_maps(tab)
        at = "document.querySelector('[data-ccnet-viewer]').ccnetMap(5, 7, 3)"
        found = np.reshape(tab.evaluate(f"[...{at}]"), view.grid)
        assert found == pytest.approx(view.attention(30, 22, 3), abs=1e-6)
        tab.locator(".ccnet-legend button").first.click()
        tab.wait_for_function("!document.querySelector('.ccnet-wait:not(:empty)')")
        tab.close()


def test_two_quick_choices_both_hold(tab, tmp_path, picture):
    """Each begins from what the one before has chosen, whichever control it is of."""
    Image.fromarray(picture(300, 400)).save(tmp_path / "mine.png")
    tab.set_input_files("#upload input[type=file]", tmp_path / "mine.png")
    tab.click("#size input")
    tab.get_by_role("option", name="short side up to 512").click()
    tab.wait_for_function(f"{STATE}.size[0] === 300 && {STATE}.grid[0] === 128", timeout=60_000)
    tab.click("#model input")
    tab.locator("[role=option]", has_text="trained at R = 1").click()
    tab.locator("#examples button img").nth(4).click()
    tab.wait_for_function(f"{STATE}.size[0] === 427", timeout=60_000)
    tab.wait_for_timeout(500)
    assert tab.evaluate(STATE)["model"] == "demo_r1"


def open_tab(tab, name):
    tab.get_by_role("tab", name=name).click()


def test_the_deletion_test_gives_a_number(tab, tmp_path):
    tab.click("#test")
    tab.wait_for_selector("#truth img", timeout=60_000)
    area = float(
        re.search(r"Area between the curves: ([+-][\d.]+)", tab.inner_text("#truth")).group(1)
    )
    assert area > 0.5
    assert "points at what decides the label" in tab.inner_text("#truth")
    with tab.expect_download() as download:
        tab.click("#truth button.png")
    download.value.save_as(tmp_path / "saved.png")
    assert min(Image.open(tmp_path / "saved.png").size) > 400
    x, y = chosen(tab)
    assert f"Pixel ({x}, {y})" in tab.inner_text("#truth")
    another_view(tab, lambda: tab.locator("#examples button img").nth(1).click())
    tab.wait_for_function("() => !document.querySelector('#truth img')")  # it goes with its picture


def test_an_answer_about_a_picture_that_was_left_is_not_shown(tab, monkeypatch):
    ended = threading.Event()

    def slow(*args, **options):
        time.sleep(1.5)
        try:
            return deletion_test(*args, **options)
        finally:
            ended.set()

    monkeypatch.setattr(explore_tab, "deletion_test", slow)
    tab.click("#test")
    tab.wait_for_selector("#truth .progress")
    another_view(tab, lambda: tab.locator("#examples button img").nth(1).click())
    assert ended.wait(60)
    tab.wait_for_timeout(800)  # it would be shown
    assert tab.inner_text("#truth").strip() == ""
    tab.click("#test")  # and the button still answers
    tab.wait_for_selector("#truth img", timeout=60_000)


def test_the_deletion_test_holds_the_pixel_that_was_hovered(tab):
    box = tab.locator(".ccnet-stage").bounding_box()
    tab.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 0.3 * box["height"])
    at = chosen(tab)
    tab.click("#test")
    tab.wait_for_selector("#truth .progress")
    tab.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.8 * box["height"])
    assert chosen(tab) == at
    tab.wait_for_selector(f"#truth :text('Pixel ({at[0]}, {at[1]})')", timeout=60_000)


def test_the_recurrence_tab(tab, tmp_path):
    open_tab(tab, "Recurrence")
    tab.wait_for_selector("#recurrence img", timeout=60_000)
    assert tab.locator("#recurrence .four").count() == 2
    assert tab.locator("#recurrence .four img").count() == 8
    assert "as trained" in tab.inner_text("#recurrence .four >> nth=0").split("R = 3")[0]
    shares = [
        float(found)
        for found in re.findall(
            r"changed: ([\d.]+) %", tab.inner_text("#recurrence .four >> nth=1")
        )
    ]
    assert shares[2] == 0
    assert min(shares[:2]) > 3
    scene = make_scene(SCENE_SEEDS[0])
    Image.fromarray(scene.labels).save(tmp_path / "mask.png")
    tab.set_input_files("#mask input[type=file]", tmp_path / "mask.png")
    tab.wait_for_selector("#recurrence .sheet img", timeout=60_000)
    scores = [
        float(found)
        for found in re.findall(r"mIoU ([\d.]+) %", tab.inner_text("#recurrence .four >> nth=0"))
    ]
    assert len(scores) == 4
    assert scores[2] > 90 > 60 > scores[0]
    Image.fromarray(scene.labels[:50]).save(tmp_path / "small.png")
    tab.click("#mask button[aria-label*=lear]")
    tab.wait_for_selector("#recurrence .sheet img", state="detached")
    tab.set_input_files("#mask input[type=file]", tmp_path / "small.png")
    tab.wait_for_selector("#recurrence .problem")
    assert "96 x 50" in tab.inner_text("#recurrence")
    assert "96 x 96" in tab.inner_text("#recurrence")
    assert tab.locator("#recurrence .four img").count() == 8  # the pictures stay
    tab.click("#places")
    tab.wait_for_selector("#spread .finding", timeout=60_000)
    assert re.search(r"R = 1: 0\.\d\d, R = 2: 0\.\d\d", tab.inner_text("#spread"))
    tab.click("#cross")
    tab.wait_for_selector("#accuracy .progress")
    tab.wait_for_selector("#accuracy img", timeout=60_000)
    tab.click("#model input")  # another model while the tab is looked at
    tab.locator("[role=option]", has_text="trained at R = 1").click()
    tab.wait_for_selector("#recurrence .tabtext:has-text('trained at R = 1')", timeout=60_000)


def test_a_tab_opened_while_the_page_loads_stays_open(context, address, monkeypatch):
    show_all = Page.show_all

    def slow(self, state):
        time.sleep(1.5)
        return show_all(self, state)

    monkeypatch.setattr(Page, "show_all", slow)
    tab = context.new_page()
    tab.goto(address)
    open_tab(tab, "Recurrence")
    tab.wait_for_selector(".ccnet-facts", state="attached")  # loaded
    tab.wait_for_selector("#recurrence img", timeout=60_000)
    tab.wait_for_timeout(500)
    assert tab.locator("[role=tab][aria-selected=true]").inner_text() == "Recurrence"
    assert tab.locator("#cross").is_visible()
    tab.close()


def show_scores(tab, kind):
    tab.locator("#board-kind").get_by_label(kind).check()


def test_the_configurations_tab(tab, monkeypatch):
    small = partial(measure_growth, sides=(16, 24))
    monkeypatch.setattr(growth_html, "measure_growth", small)
    open_tab(tab, "Configurations")
    tab.wait_for_selector("#costs img", timeout=60_000)
    show_scores(tab, "published")
    tab.wait_for_selector("#board td.published", timeout=60_000)
    board = tab.inner_text("#board")
    assert all(number in board for number in ("77.43", "76.01", "78.02", "77.33"))
    assert "python scripts/train_all.py" in board  # with no runs it says what to type, in one line
    assert "python scripts/zoo.py get ccnet_resnet50os8_voc" not in board
    tab.click("#board .lacking summary")
    assert "python scripts/zoo.py get ccnet_resnet50os8_voc" in tab.inner_text("#board")
    tab.click("#board-rest summary:has-text('others published')")
    assert all(number in tab.inner_text("#board-rest") for number in ("67.80", "77.08"))
    tab.click("#board-order input")
    tab.get_by_role("option", name="published mIoU").click()
    tab.wait_for_function(
        "() => document.querySelector('#board tbody th')?.innerText.startsWith('R-101-D8')"
    )
    show_scores(tab, "measured")  # opens on a data set that has some
    tab.wait_for_selector("#compared img", timeout=60_000)
    assert "59.82" in tab.inner_text("#board")
    assert re.search(r"street less street8 is \+4\.6\d points", tab.inner_text("#compared"))
    assert tab.locator("#compared img[alt='mIoU of the images, street and street8']").count() == 1
    tab.click("#link")  # every view has a link
    tab.wait_for_url("**/?image=*")
    tab.goto(tab.url)
    tab.wait_for_selector("#compared img", timeout=60_000)
    assert "59.82" in tab.inner_text("#board")
    tab.click("#board-dataset input")
    tab.get_by_role("option", name="ADE20K").click()
    tab.wait_for_selector("#compared img", state="detached")
    tab.wait_for_selector("#board:has-text('4 of 4 scores')")
    tab.click("#growing button")
    tab.wait_for_selector("#growth img")
    tab.click("#grow")
    tab.wait_for_selector("#measured-growth .progress")
    tab.wait_for_selector("#measured-growth img[alt*=measured]", timeout=90_000)
    assert not tab.locator("#growth img").is_visible()  # one figure, with both


def test_a_choice_made_while_an_answer_comes_stands(tab, monkeypatch):
    top, with_model = BoardView.top, Workbench.with_model
    slowed = threading.Event()

    opened = []

    def slow(answer, *args):
        if slowed.is_set():
            time.sleep(1.5)
            opened.extend(args[2:])
        return answer(*args)

    monkeypatch.setattr(BoardView, "top", lambda *args: slow(top, *args))
    monkeypatch.setattr(Workbench, "with_model", lambda *args: slow(with_model, *args))
    open_tab(tab, "Configurations")
    tab.wait_for_selector("#costs img", timeout=60_000)
    show_scores(tab, "published")
    tab.wait_for_selector("#board td.published", timeout=60_000)
    slowed.set()
    tab.click("#board-order input")
    tab.get_by_role("option", name="published mIoU").click()
    tab.wait_for_timeout(500)  # the answer to it is under way
    show_scores(tab, "measured")
    for _ in range(10):  # while both answers come
        tab.wait_for_timeout(400)
        assert tab.locator("#board-kind").get_by_label("measured").is_checked()
    open_tab(tab, "Explore")
    for chosen in (
        "trained at R = 1",
        "street: photographs",
    ):  # the second while the first is opened
        tab.click("#model input")
        tab.locator("[role=option]", has_text=chosen).first.click()
        tab.wait_for_timeout(500)
    tab.wait_for_selector("#about-model:has-text('CamVid')", timeout=60_000)  # both were opened
    tab.wait_for_timeout(500)
    assert "street" in tab.input_value("#model input")
    assert (opened[0], opened[-1]) == ("demo_r1", "street")


def test_the_picture_is_on_show_before_its_maps(tab, monkeypatch, tmp_path):
    """Pure green, as large as the page lets it be; with half a second over, the time is told."""
    answer = Workbench.with_image
    monkeypatch.setattr(Workbench, "with_image", lambda *a: time.sleep(2) or answer(*a))
    Image.new("RGB", (400, 300), (0, 255, 0)).save(tmp_path / "green.png")
    tab.set_input_files("#upload input[type=file]", tmp_path / "green.png")
    tab.wait_for_timeout(300)
    seen = Image.open(io.BytesIO(tab.locator("#view").screenshot())).convert("RGB")
    green = np.all(np.asarray(seen) == (0, 255, 0), axis=-1)
    assert green.sum() > 400 * 290
    tab.wait_for_selector("#view .coming p:has-text('green.png: the network looks at it, 1.')")
    tab.wait_for_selector("#view .coming", state="hidden", timeout=30_000)
    monkeypatch.undo()
    (tmp_path / "broken.png").write_bytes(b"no picture")
    tab.set_input_files("#upload input[type=file]", tmp_path / "broken.png")
    tab.wait_for_selector("#problem .problem")
    tab.wait_for_selector("#view .coming", state="hidden")
    tab.locator("#examples button img").nth(1).click()  # what is on show arrives again
    tab.wait_for_selector("#problem .problem", state="detached")
    tab.wait_for_selector("#view .coming", state="hidden")


@pytest.fixture(scope="module")
def miniatures(tmp_path_factory):
    return fabricate(tmp_path_factory.mktemp("made") / "miniature")


@pytest.fixture(scope="module")
def another_app(tmp_path_factory):
    """The address of an app without a folder of runs of its own."""
    folder = tmp_path_factory.mktemp("another")
    blocks = server.build(Workbench(folder / "examples"), folder)
    yield server.launch(blocks, quiet=True)
    blocks.close()


@pytest.fixture
def with_miniatures(context, another_app, miniatures, monkeypatch):
    """A visitor of an app that finds all miniatures."""
    monkeypatch.setattr(boards, "RUNS", (str(miniatures),))
    tab = visit(context.new_page(), another_app)
    yield tab
    tab.close()


def test_the_board_opens_on_the_miniatures_and_switches(with_miniatures):
    tab = with_miniatures
    open_tab(tab, "Configurations")
    tab.wait_for_selector("#costs img[alt*=miniature]", timeout=60_000)
    assert tab.locator("#board-kind").get_by_label("miniature").is_checked()
    assert tab.locator("#board img[alt='IoU by class, in miniature']").count() == 1
    assert "Nothing here compares with a published number" in tab.inner_text("#board")
    assert "no clear difference" in tab.inner_text("#board")
    tab.click("#board-rest summary:has-text('Every cell')")
    assert "Rooms, in miniature: IoU in %" in tab.inner_text("#board-rest")
    tab.click("#other input")
    tab.get_by_role("option", name="R-50-D8, R = 1").click()
    tab.wait_for_selector("#compared :text('R-50-D8, R = 1')", timeout=60_000)
    said = tab.inner_text("#compared")
    assert re.search(r"R-50-D8 less R-50-D8, R = 1 is \+\d\.\d points, \d\.\d to \d\.\d", said)
    assert "120 images and 3 seeds each" in said
    tab.click("#board-dataset input")
    tab.get_by_role("option", name="Streets").click()
    tab.wait_for_selector("#compared :text('Streets')", timeout=60_000)
    before = tab.get_attribute("#board img >> nth=0", "src")
    tab.click("#board-order input")
    tab.get_by_role("option", name="spread").click()
    tab.wait_for_function(
        "old => document.querySelector('#board img')?.src !== old", arg=before, timeout=60_000
    )
    show_scores(tab, "published")
    tab.wait_for_selector("#board td.published", timeout=60_000)
    assert "miniature" not in tab.inner_text("#board")
    assert "79.15" in tab.inner_text("#board")  # Cityscapes, whose miniature was on show
    show_scores(tab, "miniature")
    tab.wait_for_selector("#compared :text('Streets')", timeout=60_000)


def test_the_board_fits_in_two_screens(with_miniatures):
    tab = with_miniatures
    open_tab(tab, "Configurations")
    tab.wait_for_selector("#costs img", timeout=60_000)

    def height():
        tab.wait_for_timeout(500)
        return tab.evaluate("document.documentElement.scrollHeight")

    for dataset in ("Objects", "Rooms", "Streets"):
        show_scores(tab, "miniature")
        tab.click("#board-dataset input")
        tab.get_by_role("option", name=dataset).click()
        tab.wait_for_selector(f"#compared :text('{dataset}')", timeout=60_000)
        assert height() <= 2 * 900, dataset
        for kind in ("published", "measured"):
            show_scores(tab, kind)
            tab.wait_for_function(
                "() => !document.querySelector('#board')?.innerText.includes('miniature')"
            )
            assert height() <= 2 * 900, (dataset, kind)


def test_the_runs_tab_follows_a_folder(context, tmp_path):
    run = Run.create(tmp_path / "runs" / "mine", get_config("street"))
    run.write_training({"total_steps": 100})
    (tmp_path / "runs" / "foreign").mkdir()
    (tmp_path / "runs" / "foreign" / "config.json").write_text("{]")
    blocks = server.build(Workbench(tmp_path / "examples", runs=tmp_path / "runs"), tmp_path)
    tab = visit(context.new_page(), server.launch(blocks, quiet=True))
    try:
        open_tab(tab, "Runs")
        tab.wait_for_selector("#runs th:has-text('mine')")
        assert "foreign" in tab.inner_text("#runs .runs-bad")
        for step in (10, 20):
            run.log(
                {
                    "step": step,
                    "epoch": step / 10,
                    "loss": 3 / step,
                    "lr": 0.01,
                    "images_per_second": 5.0,
                    "seconds": step,
                }
            )
        tab.wait_for_selector("#runs :text('step 20 of 100')", timeout=20_000)
        tab.wait_for_selector("#curves img", timeout=20_000)
        drawn = tab.get_attribute("#curves img", "src")
        run.log(
            {
                "step": 30,
                "epoch": 3,
                "loss": 0.05,
                "lr": 0.01,
                "images_per_second": 5.0,
                "seconds": 30,
            }
        )
        tab.wait_for_selector("#runs :text('step 30 of 100')", timeout=20_000)
        tab.wait_for_function(
            "old => document.querySelector('#curves img').src !== old", arg=drawn, timeout=20_000
        )
        other = Run.create(
            tmp_path / "runs" / "later", get_config("street")
        )  # one that begins while the tab is open
        other.log(
            {"step": 5, "epoch": 1, "loss": 2.0, "lr": 0.01, "images_per_second": 5.0, "seconds": 3}
        )
        tab.wait_for_selector("#chosen-runs :text('later')", timeout=20_000)
    finally:
        tab.close()
        blocks.close()


def test_the_about_tab(tab):
    open_tab(tab, "About")
    tab.wait_for_selector(".about h2")
    assert "What a map does not say" in tab.inner_text(".about")


def test_two_visitors_keep_their_own_pictures(browser, address, tab, tmp_path, picture):
    Image.fromarray(picture(40, 60)).save(tmp_path / "mine.png")
    another_browser = browser.new_context()
    other = visit(another_browser.new_page(), address)
    upload(tab, tmp_path / "mine.png")
    click(other, 0.5, 0.5)
    wait_for_pixel(other, 48, 48)
    assert other.evaluate(STATE)["size"] == [96, 96]
    assert tab.evaluate(STATE)["size"] == [40, 60]
    another_browser.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_readable_at_phone_width(context, address, scheme):
    tab = context.new_page()
    tab.set_viewport_size({"width": 390, "height": 840})
    tab.emulate_media(color_scheme=scheme)
    tab.goto(f"{address}?__theme={scheme}")
    tab.wait_for_selector(".ccnet-facts")
    for name, shown in (
        ("Explore", ".ccnet-facts"),
        ("Recurrence", "#recurrence img"),
        ("Configurations", "#board img"),
        ("Runs", "#curves img"),
    ):
        open_tab(tab, name)
        tab.wait_for_selector(shown, timeout=60_000)
        tab.wait_for_timeout(300)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 395
    tab.close()


@pytest.fixture
def host():
    yield from serve()


def test_a_published_model_is_asked_for_first_cancelled_gone_on_with_and_opened(
    tab, host, published_file, tmp_path, monkeypatch
):
    """Nothing is downloaded unasked; a failure leaves the model that was there."""
    monkeypatch.setenv("CCNET_LAB_HOME", str(tmp_path))
    monkeypatch.setenv("CCNET_LAB_MIRROR", host.url)
    name = "ccnet_resnet50os16_voc"
    host.files[f"{name}_train.pth"] = file = Served(
        content=published_file(name).read_bytes(), slow=True
    )
    menu, offer = tab.locator("#model input"), tab.locator("#offer .offer")

    def pick(model):
        menu.click()
        tab.get_by_role("option", name=model).click()
        offer.wait_for()

    pick(name)
    assert "Download about 209 MB from 127.0.0.1" in offer.inner_text()
    assert file.requests == 0
    tab.click("#leave")
    offer.wait_for(state="hidden")
    assert file.requests == 0
    assert menu.input_value().startswith("demo: beacons")

    pick(name)
    tab.click("#fetch")
    tab.wait_for_selector(".progress")
    tab.click("#leave")
    offer.wait_for(state="hidden")
    assert menu.input_value().startswith("demo: beacons")
    deadline = time.monotonic() + 30
    while (
        any(thread.name == f"download {name}" for thread in threading.enumerate())
        and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    (part,) = store.kept()
    assert part.partial

    pick(name)
    tab.click("#fetch")
    tab.wait_for_selector("#about-model:has-text('76.01')", timeout=90_000)
    assert file.resumed == 1
    offer.wait_for(state="hidden")
    assert menu.input_value() == f"{name} · 76.01 % · here"

    pick("ccnet_resnet101os8_ade20k")  # which the host hasn't got
    tab.click("#fetch")
    tab.wait_for_selector("#problem .problem:has-text('404')", timeout=60_000)
    offer.wait_for(state="hidden")
    assert menu.input_value() == f"{name} · 76.01 % · here"
    assert "76.01" in tab.inner_text("#about-model")
