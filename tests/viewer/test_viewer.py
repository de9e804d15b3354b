"""viewer.js in a real browser: the maps of explore/maps.py, its pointer, keys, files, refusals."""

import gzip
import json
import re
import shutil
import statistics
import subprocess
from base64 import b64decode, b64encode
from pathlib import Path

import numpy as np
import pytest
from conftest import CHROMIUM
from PIL import Image

from ccnet_lab import Explorer, ImageError
from ccnet_lab.data.generated.beacons import make_scene
from ccnet_lab.explore.maps import Step, attention_map, listeners_map, uniform_map
from ccnet_lab.viewer import page as pages
from ccnet_lab.viewer import payload

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"
)
STATE = "document.querySelector('[data-ccnet-viewer]').ccnetState()"
MAP = """([i, j, r, kind]) =>
  [...document.querySelector('[data-ccnet-viewer]').ccnetMap(i, j, r, kind)]"""


@pytest.fixture
def opened(browser, tmp_path):
    """Save a view as a page and open that without a network; pages must ask for nothing."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    asked = []

    def open_page(view, **options):
        tab = context.new_page()
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("pageerror", lambda error: asked.append(str(error)))
        tab.goto(view.save_html(tmp_path / "view.html", **options).as_uri())
        tab.wait_for_selector("[data-ccnet-viewer]")
        return tab

    yield open_page
    context.close()
    assert [url for url in asked if not url.startswith(("file:", "blob:", "data:"))] == []


@pytest.fixture(scope="module")
def demo():
    return Explorer.open("demo")


@pytest.fixture(scope="module")
def scene(demo):
    return demo.look(make_scene(10_000_018).image)


def place(tab, across, down):
    box = tab.locator(".ccnet-stage").bounding_box()
    return box["x"] + across * box["width"], box["y"] + down * box["height"]


def state(tab, *names):
    found = tab.evaluate(STATE)
    return tuple(found[name] for name in names) if len(names) > 1 else found[names[0]]


def expected(view, i, j, recurrence, kind):
    steps = [Step(s.query.double(), s.key.double()) for s in view.steps(recurrence)]
    if recurrence == 0:
        found = np.zeros(view.grid)
        found[i, j] = 1
        return found
    return (attention_map if kind == "attention" else listeners_map)(steps, i, j).numpy()


@pytest.mark.parametrize(
    ("precision", "largest", "most"),
    [("float16", 10**9, 1e-3), ("float32", 10**9, 1e-6), ("float32", 0, 1e-6)],
)
@pytest.mark.parametrize("size", [(60, 92), (124, 52), (4, 96), (40, 4), (4, 4)])
def test_its_maps_are_the_library_s(
    demo, opened, monkeypatch, picture, size, precision, largest, most
):
    """From tables, and from queries and keys where tables would be too large."""
    monkeypatch.setattr(payload, "LARGEST", largest)
    view = demo.look(picture(*size), min(size))
    h, w = view.grid
    tab = opened(view, precision=precision, recurrences=(1, 2, 3))
    for i, j in {(0, 0), (h - 1, w - 1), (h // 2, w // 3), (0, w - 1)}:
        for recurrence in (0, 1, 2, 3):
            for kind in ("attention", "listeners"):
                found = np.reshape(tab.evaluate(MAP, [i, j, recurrence, kind]), (h, w))
                right = expected(view, i, j, recurrence, kind)
                assert np.abs(found - right).max() <= most * right.max()


def test_its_numbers_are_the_library_s(scene, opened):
    tab = opened(scene, precision="float32", pixel=(70, 21))
    pixel, names = scene.pixel(70, 21), scene.explorer.class_names
    (shown,) = state(tab, "subjects")
    assert shown["cell"] == list(pixel.cell)
    right = dict(zip(names, pixel.probabilities.tolist(), strict=True))
    assert {name: shown["probabilities"][name] for name in names} == pytest.approx(right, abs=1e-5)
    labels = np.array(scene.cell_labels())
    for at, weights, cross in zip(shown["maps"], pixel.maps, pixel.on_cross, strict=True):
        assert at["on_cross"] == pytest.approx(cross, abs=1e-5)
        beacon = weights[1:3, 2:5].sum()  # 6 x 6 pixels at y 5, x 11; a cell is 4 x 4
        assert at["class_shares"]["the beacon"] == pytest.approx(beacon, abs=1e-5)
        even = uniform_map(scene.grid, *pixel.cell, at["recurrence"])
        flat = even[labels == 3].sum() - even[1:3, 2:5][labels[1:3, 2:5] == 3].sum()
        assert at["by_chance"][names[3]] == pytest.approx(flat, abs=1e-6)
        assert sum(at["by_chance"].values()) == pytest.approx(1, abs=1e-5)


def test_regions_and_classes_are_means_of_maps(scene, opened):
    tab = opened(scene, precision="float32")
    tab.click("[data-value=region]")
    tab.mouse.move(*place(tab, 0.1, 0.2))
    tab.mouse.down()
    tab.mouse.move(*place(tab, 0.2, 0.3), steps=3)
    tab.mouse.up()
    (shown,) = state(tab, "subjects")
    (left, top), (right, bottom) = (state(tab, "region")[end] for end in ("from", "to"))
    (i, j), (i2, j2) = scene.cell(left, top), scene.cell(right, bottom)
    cells = [(a, b) for a in range(i, i2 + 1) for b in range(j, j2 + 1)]
    assert shown["cells"] == len(cells) > 4
    labels = np.where(scene.cell_labels() == 0, 1.0, 0.0)
    labels[1:3, 2:5] = 0
    mean = np.mean([expected(scene, a, b, 2, "attention") for a, b in cells], axis=0)
    background = scene.explorer.class_names[0]
    share = (mean * labels).sum()
    assert shown["maps"][1]["class_shares"][background] == pytest.approx(share, abs=1e-5)
    tab.click(".ccnet-legend button >> nth=1")
    (shown,) = state(tab, "subjects")
    label = int(tab.get_attribute(".ccnet-legend button >> nth=1", "data-class"))
    own = np.argwhere(scene.cell_labels() == label).tolist()
    assert shown["cells"] == len(own)
    mean = np.mean([expected(scene, a, b, 3, "attention") for a, b in own], axis=0)
    share = (mean * labels).sum()
    assert shown["maps"][2]["class_shares"][background] == pytest.approx(share, abs=1e-5)
    tab.click(".ccnet-matrix summary")
    row = tab.locator(".ccnet-matrix tbody tr", has_text=scene.explorer.class_names[label])
    second = np.mean([expected(scene, a, b, 2, "attention") for a, b in own], axis=0)
    written = float(row.locator("td >> nth=0").inner_text().removesuffix("%"))
    assert written == pytest.approx(100 * (second * labels).sum(), abs=0.51)


def test_it_follows_the_pointer_is_pinned_and_freed(scene, opened):
    tab = opened(scene)
    tab.mouse.move(*place(tab, 0.3, 0.6))
    assert state(tab, "x", "y") == (28, 57)
    tab.mouse.move(*place(tab, 0.5, 0.5))
    assert state(tab, "x", "y") == (48, 48)
    tab.mouse.click(*place(tab, 0.25, 0.75))
    tab.mouse.move(*place(tab, 0.9, 0.9))
    assert state(tab, "x", "y", "pinned") == (24, 72, True)
    tab.keyboard.down("Shift")
    tab.mouse.click(*place(tab, 0.9, 0.1))
    tab.keyboard.up("Shift")
    assert [at["name"] for at in state(tab, "subjects")] == ["pixel (24, 72)", "pixel (86, 9)"]
    assert tab.locator(".ccnet-row:visible").count() == 2
    tab.focus(".ccnet-stage")
    tab.keyboard.press("Escape")
    tab.mouse.move(*place(tab, 0.5, 0.52))
    assert state(tab, "x", "y", "pinned") == (48, 49, False)
    for key in ("ArrowLeft", "ArrowDown", "3", "l"):
        tab.keyboard.press(key)
    assert state(tab, "x", "y", "recurrence") == (46, 54, 3)
    assert tab.locator(".ccnet-row figure:visible").count() == 1
    tab.keyboard.press("l")
    tab.keyboard.press("+")
    tab.keyboard.press("+")
    assert state(tab, "zoom") == pytest.approx(2.25)
    box = tab.locator(".ccnet-stage .ccnet-cell").bounding_box()
    tab.keyboard.press("Escape")
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert state(tab, "x", "y") == pytest.approx((46, 54), abs=1)  # where the eye sees it, zoomed
    tab.wait_for_timeout(600)
    assert re.match(r"pixel \(4\d, 5\d\): .+ \d.\d\d, looks at", tab.inner_text(".ccnet-hidden"))


def test_a_finger_drags_the_pixel(browser, scene, tmp_path):
    context = browser.new_context(viewport={"width": 390, "height": 840}, has_touch=True)
    tab = context.new_page()
    tab.goto(scene.save_html(tmp_path / "view.html").as_uri())
    tab.wait_for_selector(".ccnet-facts")
    x, y = place(tab, 0.2, 0.2)
    x2, y2 = place(tab, 0.7, 0.4)
    touch = context.new_cdp_session(tab)
    for kind, points in (
        ("touchStart", [{"x": x, "y": y}]),
        ("touchMove", [{"x": (x + x2) / 2, "y": y}]),
        ("touchMove", [{"x": x2, "y": y2}]),
        ("touchEnd", []),
    ):
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert state(tab, "x", "y", "pinned") == (67, 38, True)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()


def test_two_fingers_zoom_and_move_the_picture(browser, scene, tmp_path):
    context = browser.new_context(viewport={"width": 390, "height": 840}, has_touch=True)
    tab = context.new_page()
    tab.goto(scene.save_html(tmp_path / "view.html").as_uri())
    tab.wait_for_selector(".ccnet-facts")
    touch = context.new_cdp_session(tab)

    def fingers(kind, *shares):
        points = [
            {"x": x, "y": y, "id": n}
            for n, (x, y) in enumerate(place(tab, across, down) for across, down in shares)
        ]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    before = state(tab, "x", "y", "pinned")
    fingers("touchStart", (0.4, 0.5))
    assert state(tab, "x", "y") == (38, 48)
    fingers("touchStart", (0.4, 0.5), (0.6, 0.5))
    assert state(tab, "x", "y", "pinned") == before  # the first finger was no drag
    fingers("touchMove", (0.35, 0.5), (0.65, 0.5))
    fingers("touchMove", (0.3, 0.5), (0.7, 0.5))
    assert state(tab, "zoom") == pytest.approx(2, rel=0.02)
    assert state(tab, "centre") == pytest.approx([0.5, 0.5], abs=0.01)
    fingers("touchMove", (0.2, 0.6), (0.6, 0.6))  # the picture goes with the fingers
    assert state(tab, "centre") == pytest.approx([0.55, 0.45], abs=0.01)
    fingers("touchEnd", (0.2, 0.6))
    fingers("touchMove", (0.5, 0.9))  # the finger that is left drags nothing
    fingers("touchEnd")
    assert state(tab, "x", "y", "pinned") == before
    assert state(tab, "zoom") == pytest.approx(2, rel=0.02)
    assert tab.evaluate("[scrollY, visualViewport.scale]") == [0, 1]
    fingers("touchStart", (0.5, 0.5))  # one finger finds what the eye sees, zoomed
    fingers("touchEnd")
    assert state(tab, "x", "y", "pinned") == (pytest.approx(52, abs=1), pytest.approx(43, abs=1), 1)
    context.close()


def test_two_fingers_at_one_place_or_while_a_region_is_drawn(scene, opened):
    tab = opened(scene)
    point = """list => {
      const stage = document.querySelector(".ccnet-stage");
      const { left, top } = stage.getBoundingClientRect();
      stage.setPointerCapture = () => {}; // these fingers are made up
      for (const [type, pointerId, x, y] of list) {
        const at = { clientX: left + x, clientY: top + y, pointerType: "touch", bubbles: true };
        stage.dispatchEvent(new PointerEvent(`pointer${type}`, { pointerId, ...at }));
      }
    }"""
    end = [["up", 1, 100, 100], ["up", 2, 100, 100]]
    tab.evaluate(point, [["down", 1, 100, 100], ["down", 2, 100, 100], ["move", 2, 100, 100]])
    assert state(tab, "zoom") == 1
    tab.evaluate(point, end)
    tab.click("[data-value=region]")
    drag = [["down", 1, 100, 100], ["move", 1, 150, 150]]
    tab.evaluate(point, [*drag, *end])
    drawn = state(tab, "region")
    assert drawn["from"] < drawn["to"]
    tab.evaluate(point, [["down", 1, 10, 10], ["move", 1, 90, 90], ["down", 2, 200, 200], *end])
    assert state(tab, "region") == drawn


def test_two_pixels_have_their_facts_side_by_side(scene, opened):
    tab = opened(scene, pixel=(70, 21), settings={"pinned": True})
    assert tab.locator(".ccnet-facts section").count() == 2
    tab.get_by_role("button", name="Compare").click()
    tab.mouse.click(*place(tab, 0.2, 0.8))
    first, second = state(tab, "subjects")
    for width in (1280, 390):
        tab.set_viewport_size({"width": width, "height": 900})
        sections = tab.locator(".ccnet-facts section")
        boxes = [sections.nth(n).bounding_box() for n in range(4)]
        assert boxes[0]["x"] == boxes[1]["x"] < boxes[2]["x"] == boxes[3]["x"]
        assert boxes[0]["y"] == boxes[2]["y"] < boxes[1]["y"] == boxes[3]["y"]
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
    for n, subject in ((0, first), (2, second)):
        assert subject["name"] in sections.nth(n).inner_text()
        shares = subject["maps"][1]["class_shares"]
        largest = max(shares, key=shares.get)
        bar = sections.nth(n + 1).locator(".ccnet-bar >> nth=0")
        assert bar.locator("span").inner_text() == largest
        share = float(bar.locator("i").inner_text().removesuffix("%"))
        assert share == pytest.approx(100 * shares[largest], abs=0.51)


def shown_map(tab, nth):
    """A map's colours as on the screen, (h, w, 3), and its frame."""
    import io

    frame = tab.locator(".ccnet-map >> nth=" + str(nth))
    return np.asarray(Image.open(io.BytesIO(frame.screenshot())).convert("RGB")).astype(int)


def test_the_colours_on_the_screen_are_the_scale_s(scene, opened):
    """Read from a screenshot: raw, clipped and logarithmic, against matplotlib's own colour map."""
    from matplotlib import colormaps

    tab = opened(scene, pixel=(70, 21), settings={"photo": 0.0, "clip": 0.2})
    weights = [scene.attention(70, 21, r) for r in (1, 2, 3)]
    peak = max(found.max() for found in weights)
    for scale, share in (
        ("raw", lambda v: v / peak),
        ("clipped", lambda v: v / (peak * 10**-0.6)),
        ("log", lambda v: (np.log10(np.maximum(v, 1e-30) / peak) + 4) / 4),
    ):
        tab.click(f"[data-value={scale}]")
        for n, found in enumerate(weights):
            picture = shown_map(tab, n)
            h, w = scene.grid
            rows = ((np.arange(h) + 0.5) * picture.shape[0] / h).astype(int)
            columns = ((np.arange(w) + 0.5) * picture.shape[1] / w).astype(int)
            seen = picture[rows][:, columns]
            right = 255 * colormaps["inferno"](np.clip(share(found), 0, 1))[..., :3]
            off = np.abs(seen - right).max(-1)
            i, j = scene.cell(70, 21)
            off[max(0, i - 1) : i + 2, max(0, j - 1) : j + 2] = 0  # under the marker
            assert (off > 12).mean() < 0.01


def test_its_files_hold_what_is_shown(scene, opened, tmp_path):
    tab = opened(scene)
    found = {}
    for name in ("PNG", "SVG"):
        with tab.expect_download() as download:
            tab.get_by_role("button", name=name, exact=True).click()
        found[name] = tmp_path / download.value.suggested_filename
        download.value.save_as(found[name])
    assert min(Image.open(found["PNG"]).size) > 500
    assert len(Image.open(found["PNG"]).convert("RGB").getcolors(1 << 22)) > 100
    text = found["SVG"].read_text()
    assert text.count("<image") == 5
    assert "R = 3</text>" in text
    with tab.expect_download() as download:  # a page from a file may not copy
        tab.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
        tab.get_by_role("button", name="Copy numbers").click()
    numbers = json.loads(download.value.path().read_text())
    assert numbers["subjects"][0]["name"].startswith("pixel (")


def test_names_are_text_never_markup(demo, opened, monkeypatch):
    evil = "<img src=x onerror=document.title='evil'>\"'&"
    names = tuple(f"{evil}{n}" for n in range(len(demo.class_names)))
    monkeypatch.setattr(demo, "class_names", names)
    tab = opened(demo.look(make_scene(3).image), title=f"</title><script>{evil}")
    tab.click(".ccnet-matrix summary")
    with tab.expect_download() as download:
        tab.get_by_role("button", name="SVG").click()
    from xml.etree import ElementTree

    ElementTree.fromstring(download.value.path().read_text())
    tab.wait_for_timeout(300)
    assert evil in tab.inner_text(".ccnet-legend")
    assert tab.title().startswith("</title><script>")
    assert tab.locator("img[src=x]").count() == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_odd_pictures_are_shown(demo, opened, picture, size):
    tab = opened(demo.look(picture(*size)))
    tab.mouse.move(*place(tab, 0.5, 0.5))
    assert state(tab, "size") == [*size]
    assert tab.locator(".ccnet-bar").count() >= 2


HOST = """async ([script, data, exact, maker]) => {
  const payload = Uint8Array.from(atob(data), letter => letter.charCodeAt(0)), asked = [];
  const values = { payload }, heard = [], urls = new Set();
  const { createObjectURL, revokeObjectURL } = URL;
  URL.createObjectURL = blob => { const url = createObjectURL(blob); urls.add(url); return url; };
  URL.revokeObjectURL = url => { urls.delete(url); revokeObjectURL(url); };
  const model = { get: name => values[name], set: (name, value) => { values[name] = value; },
    save_changes() {}, on: (name, act) => heard.push([name, act]),
    off: (name, act) => heard.splice(heard.findIndex(a => a[0] === name && a[1] === act), 1) };
  const link = text => createObjectURL(new Blob([text], { type: "text/javascript" }));
  const make = (await import(link(maker))).default, tables = [];
  model.tabulate = (query, key, h, w) => new Promise(resolve =>
    tables.push({ query, key, make: () => resolve(make(query, key, h, w)) }));
  const tabulated = () => tables.splice(0).forEach(table => table.make());
  if (exact) model.exact = async (...pixel) => { asked.push(pixel); throw new Error(exact); };
  const source = link(script);
  document.body.replaceChildren(document.createElement("main"));
  const el = document.querySelector("main"), { default: viewer } = await import(source);
  const fire = name => heard.filter(one => one[0] === name).forEach(one => one[1]());
  const stop = viewer.render({ model, el });
  window.host = { model, heard, urls, el, fire, asked, tables, tabulated, stop };
}"""


def hosted(tab, view, exact="", tables=True, **options):
    """Show a view in a page of its own by a host that a test can ask."""
    made = payload.body(view, tables=tables)
    data = b64encode(payload.with_header(view, made, **options)).decode()
    tab.evaluate(HOST, [pages.script(), data, exact, pages.tables()])
    tab.wait_for_selector("main [data-ccnet-viewer]")
    return tab


@pytest.mark.parametrize("size", [(60, 92), (4, 96), (40, 4), (4, 4)])
def test_tables_that_the_host_makes(demo, opened, picture, size):
    """The first maps are there before; then every map is the library's."""
    view = demo.look(picture(*size), min(size))
    h, w = view.grid
    tab = hosted(opened(view), view, tables=False, pixel=(1, 2))
    maps = f"{STATE}.subjects[0].maps"
    assert tab.evaluate(f"{maps}.map(map => map.sum > 0.99)") == [True, True, False]
    assert tab.locator(".ccnet-wait:visible").all_inner_texts() == ["computing …"]
    for key in ("query", "key"):
        assert tab.evaluate(f"host.tables[0].{key}.length") == h * w * 16
    tab.evaluate("host.tabulated()")
    tab.wait_for_function(f"{maps}[2].sum > 0.99")
    for i, j in {(0, 0), (h - 1, w - 1), (h // 2, w // 3)}:
        for recurrence in (1, 2, 3):
            for kind in ("attention", "listeners"):
                found = tab.evaluate(MAP, [i, j, recurrence, kind])
                right = expected(view, i, j, recurrence, kind)
                assert np.abs(np.reshape(found, (h, w)) - right).max() <= 1e-5 * right.max()
    tab.locator(".ccnet-legend button").first.click()
    assert tab.locator(".ccnet-wait:visible").count() == 0
    tab.click(".ccnet-matrix summary")
    tab.wait_for_selector(".ccnet-matrix td")


def test_a_map_too_large_for_the_page_is_said(demo, opened, monkeypatch, picture):
    monkeypatch.setattr(payload, "LARGEST", 0)
    tab = opened(demo.look(picture(60, 92), 60), recurrences=(1, 2, 3))
    assert tab.locator(".ccnet-wait:visible").all_inner_texts() == ["too large for this page"]
    tab.mouse.click(*place(tab, 0.5, 0.5))
    assert tab.locator(".ccnet-wait:visible").all_inner_texts() == ["too large for this page"]
    tab.click(".ccnet-legend button >> nth=0")
    assert tab.locator(".ccnet-wait:visible").all_inner_texts() == ["too large for this page"] * 3


def test_a_map_that_the_server_refuses_is_said_and_asked_for_again(
    demo, opened, monkeypatch, picture
):
    monkeypatch.setattr(payload, "LARGEST", 0)
    view = demo.look(picture(60, 92), 60)
    tab = hosted(opened(view), view, exact="the server is gone")
    wait = tab.locator(".ccnet-wait:visible")
    assert wait.all_inner_texts() == ["pin a pixel for this map"]
    for times in (1, 2):
        tab.mouse.click(*place(tab, 0.5, 0.5))
        tab.wait_for_selector(".ccnet-wait:has-text('not computed: the server is gone')")
        assert tab.evaluate("host.asked.length") == times


def test_a_viewer_that_is_replaced_leaves_nothing_behind(scene, opened):
    tab = hosted(opened(scene), scene)
    heard = tab.evaluate("host.heard.length")
    for _ in range(3):
        tab.evaluate("document.querySelector('main [data-ccnet-viewer]').dataset.old = ''")
        tab.evaluate("host.fire('change:payload')")
        tab.wait_for_selector("main [data-ccnet-viewer]:not([data-old])")
    assert tab.evaluate("[host.heard.length, host.urls.size]") == [heard, 1]
    tab.evaluate("host.model.set('clip', 0.75); host.model.set('x', 500)")
    tab.evaluate("host.fire('change:clip'); host.fire('change:x')")
    assert state(tab, "clip", "x") == (0.75, 95)
    tab.evaluate("host.stop()")
    assert tab.evaluate("[host.heard.length, host.urls.size]") == [0, 0]


@pytest.mark.parametrize("width", [1280, 390])
def test_the_layout_stands_still_while_the_pointer_moves(scene, opened, width):
    tab = opened(scene)
    tab.set_viewport_size({"width": width, "height": 900})
    seen = set()
    for across, down in ((0.1, 0.1), (0.3, 0.6), (0.5, 0.5), (0.9, 0.2), (0.15, 0.1), (0.7, 0.9)):
        tab.mouse.move(*place(tab, across, down))
        seen.add(
            tab.evaluate("""() => [".ccnet-scale canvas", ".ccnet-facts", ".ccnet-matrix"]
          .map(name => document.querySelector(name).getBoundingClientRect())
          .map(({ left, top, height }) => `${left} ${top + scrollY} ${height}`).join()""")
        )
    assert len(seen) == 1


def test_only_the_main_button_pins(scene, opened):
    tab = opened(scene)
    tab.mouse.click(*place(tab, 0.5, 0.5), button="right")
    assert not state(tab, "pinned")


def broken(data, kind):
    if kind == "cut":
        return data[: len(data) // 2]
    if kind == "edited":
        return b"XXXX" + data[4:]
    if kind == "header":
        return data[:9] + b"{" + data[10:]
    header = payload.header_of(data)
    start = 8 + int.from_bytes(data[4:8], "little") + header["arrays"]["attention1"]["offset"]
    return data[:start] + np.float16("nan").tobytes() + data[start + 2 :]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("cut", "cut short"),
        ("edited", "damaged"),
        ("header", "damaged"),
        ("nan", "attention1 holds NaN"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_damaged_data_gets_a_sentence(browser, scene, tmp_path, monkeypatch, kind, words, packed):
    data = broken(payload.encode(scene), kind)
    monkeypatch.setattr(pages, "encode", lambda *_, **__: gzip.compress(data) if packed else data)
    tab = browser.new_page()
    tab.goto(scene.save_html(tmp_path / "view.html").as_uri())
    assert words in tab.inner_text("[data-ccnet-viewer]")
    tab.close()


def test_a_page_that_lost_its_end_gets_a_sentence(browser, scene, tmp_path):
    path = scene.save_html(tmp_path / "view.html")
    text = path.read_text()
    data = re.search(r'id="data">([^<]+)<', text).group(1)
    for changed in (data[: len(data) // 2 + 1], "*" + data[1:], data[: len(data) // 8 * 4]):
        path.write_text(text.replace(data, changed))
        tab = browser.new_page()
        tab.goto(path.as_uri())
        tab.wait_for_selector("[data-ccnet-viewer]")
        assert re.search("damaged|cut short", tab.inner_text("[data-ccnet-viewer]"))
        tab.close()
    path.write_text(text[: text.index('id="data">') + 5000])
    tab = browser.new_page()
    tab.goto(path.as_uri())
    assert "cut short" in tab.inner_text("body")
    tab.close()


def test_it_is_drawn_within_a_frame(demo, opened, picture):
    """64 x 86 cells, R = 1, 2, 3; beside other work of a test run, so twice what is asked."""
    view = demo.look(picture(256, 344), 256)
    assert view.grid == (64, 86)
    tab = opened(view)
    x, y = place(tab, 0.5, 0.5)
    times = []
    for k in range(60):
        tab.mouse.move(x + 90 * np.sin(k), y + 80 * np.cos(1.7 * k))
        times.append(state(tab, "milliseconds"))
    assert 0 < statistics.median(times[10:]) < 33


def test_modes_without_a_subject_say_what_to_do(demo, opened):
    tab = opened(demo.look(make_scene(10_000_018).image))
    tab.click("[data-value=region]")
    assert "drag a rectangle" in tab.inner_text(".ccnet-row >> nth=0")
    tab.click("[data-value=class]")
    assert "click a class" in tab.inner_text(".ccnet-row >> nth=0")
    tab.evaluate("document.querySelector('[data-ccnet-viewer]').ccnetShow({ region: { k: 1 } })")
    assert "nowhere the largest in a cell" in tab.inner_text(".ccnet-row >> nth=0")
    tab.get_by_role("button", name="Free").click()
    tab.get_by_role("button", name="Compare").click()
    tab.mouse.click(*place(tab, 0.8, 0.2))
    assert len(state(tab, "subjects")) == 2
    tab.get_by_role("button", name="Compare").click()
    assert len(state(tab, "subjects")) == 1


def test_arrows_keep_the_pixel_in_a_zoomed_picture(scene, opened):
    tab = opened(scene)
    tab.focus(".ccnet-stage")
    for key in ("+", "+", "+", "+", *("ArrowLeft",) * 12):
        tab.keyboard.press(key)
    cell = tab.locator(".ccnet-stage .ccnet-cell").bounding_box()
    frame = tab.locator(".ccnet-stage").bounding_box()
    assert frame["x"] <= cell["x"] <= frame["x"] + frame["width"]


def test_a_large_page_says_so_before_it_is_written(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "LARGE", 100_000)
    with pytest.warns(UserWarning, match=r"view.html will have 0 MB; recurrences=\(1, 2\) or"):
        scene.save_html(tmp_path / "view.html")


def test_a_page_without_the_chosen_recurrence_begins_with_its_last(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "LARGEST", 0)
    text = scene.save_html(tmp_path / "view.html", settings={"recurrence": 3}).read_text()
    data = re.search('id="data">(.*?)</script>', text, re.DOTALL).group(1)
    header = payload.header_of(b64decode(data))
    assert (header["recurrences"], header["recurrence"]) == ([1, 2], 2)
    with pytest.raises(ValueError, match="recurrence is 9"):
        scene.save_html(tmp_path / "view.html", settings={"recurrence": 9})


def test_an_unknown_precision_or_recurrence_is_refused(scene):
    with pytest.raises(ValueError, match="precision is 'int8'"):
        payload.encode(scene, precision="int8")
    with pytest.raises(ValueError, match="expected one or more"):
        payload.encode(scene, ())
    for settings in ({"clip": 7}, {"recurrence": 9}, {"kind": "x"}, {"foo": 1}, {"x": 96}):
        with pytest.raises(ValueError, match="expected"):
            payload.encode(scene, settings=settings)
    with pytest.raises(ImageError, match="outside"):
        payload.encode(scene, pixel=(5000, -3))
    at = np.unravel_index(scene.attention(3, 4).argmax(), scene.grid)
    header = payload.header_of(payload.encode(scene, np.array([1, 2, 2]), pixel=at[::-1]))
    assert (header["recurrences"], header["x"]) == ([1, 2], int(at[1]))


def test_its_script_parses_and_is_small():
    text = pages.script()
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert text.count("\n") <= 847
    assert max(map(len, text.split("\n"))) <= 120


def test_its_script_passes_a_type_check():
    root = Path(__file__).parents[2]
    tsc = shutil.which("tsc") or shutil.which(str(root / "node_modules" / ".bin" / "tsc"))
    if tsc is None:
        pytest.skip("no tsc on this machine (npm install typescript)")
    options = "--allowJs --checkJs --noEmit --strict false --target es2022 --module esnext"
    command = [tsc, *options.split(), "--lib", "es2022,dom,dom.iterable"]
    file = root / "ccnet_lab" / "viewer" / "viewer.js"
    result = subprocess.run([*command, file], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
