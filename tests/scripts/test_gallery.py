"""The gallery that is committed: what its script lists, small, and without a request."""

import re
import runpy
from pathlib import Path

import pytest
from conftest import CHROMIUM, FLAGS
from PIL import Image

from ccnet_lab.viewer.page import as_string, script, style

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "gallery"
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "make_gallery.py"))
NAMES = [page.name for page in SCRIPT["PAGES"]]


def test_it_is_what_its_script_lists():
    expected = {f"{name}.{ending}" for name in NAMES for ending in ("html", "png")}
    assert {path.name for path in FOLDER.iterdir()} == expected | {"README.md"}
    assert (FOLDER / "README.md").read_text(encoding="utf-8") == SCRIPT["read_me"](FOLDER)
    for page in SCRIPT["PAGES"]:
        text = (FOLDER / f"{page.name}.html").read_text(encoding="utf-8")
        title = re.search("<title>(.*?)</title>", text, re.DOTALL).group(1)
        assert title.replace("&#39;", "'") == page.title


def test_its_pages_hold_today_s_viewer():
    for name in NAMES:
        text = (FOLDER / f"{name}.html").read_text(encoding="utf-8")
        assert as_string(script()) in text, "run scripts/make_gallery.py"
        assert style().strip() in text, "run scripts/make_gallery.py"


def test_it_is_small():
    assert sum((FOLDER / f"{name}.html").stat().st_size for name in NAMES) < 6_000_000
    for name in NAMES:
        assert (FOLDER / f"{name}.png").stat().st_size < 400_000
        assert Image.open(FOLDER / f"{name}.png").size[0] == 1280


@pytest.mark.parametrize("name", NAMES)
def test_a_page_names_no_address(name):
    text = (FOLDER / f"{name}.html").read_text(encoding="utf-8")
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert not re.findall(r"""(?:src|href)=["']?//""", text)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_pages_open_and_request_nothing():
    from playwright.sync_api import sync_playwright

    asked = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for page in SCRIPT["PAGES"]:
            tab = browser.new_page(offline=True)
            tab.on("request", lambda request: asked.append(request.url))
            tab.on("pageerror", lambda error: asked.append(str(error)))
            tab.goto((FOLDER / f"{page.name}.html").as_uri())
            tab.wait_for_selector(".ccnet-viewer")
            state = tab.evaluate("document.querySelector('.ccnet-viewer').ccnetState()")
            assert (state["x"], state["y"], state["model"]) == (*page.pixel, page.model)
        browser.close()
    assert [url for url in asked if not url.startswith(("file:", "blob:", "data:"))] == []


def test_the_photograph_is_credited():
    asset = (ROOT / "ccnet_lab" / "assets" / "photographs.md").read_text(encoding="utf-8")
    listed = (FOLDER / "README.md").read_text(encoding="utf-8")
    page = (FOLDER / "street.html").read_text(encoding="utf-8")
    for address in (SCRIPT["SOURCE"], SCRIPT["LICENCE"]):
        assert address in asset
        assert address in listed
    for text in ("Ted Eytan", "CC BY-SA 2.0"):
        assert text in asset
        assert text in listed
        assert text in page.partition("</title>")[0]
