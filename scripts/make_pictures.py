"""Make the README's pictures: a figure, and every tab of the app in Chromium, wide and narrow."""

import argparse
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ccnet_lab.ending import ending

CHROMIUM = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
WIDTHS = (1280, 390)
SIZE = "() => String(document.querySelector('.ccnet-viewer')?.ccnetState().size)"
READY = {  # what is waited for in each tab
    "Explore": ".ccnet-facts .ccnet-bar",
    "Recurrence": "#recurrence img",
    "Configurations": "#board img",
    "Runs": "#curves img",
    "About": ".about",
}


def answers(address: str) -> bool:
    """Whether something serves at an address."""
    try:
        urllib.request.urlopen(address).close()
    except OSError:
        return False
    return True


@contextmanager
def serving(*options: str) -> Iterator[str]:
    """The app on a free port, in a process of its own; yields its address."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "app.py", "--port", str(port), *options], stdout=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}"
    try:
        while not answers(address):
            if process.poll() is not None:
                raise SystemExit(f"the app ended with {process.returncode} before it answered")
            time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait()


def photograph_tabs(browser: Any, address: str, out: Path) -> None:
    """Every tab at both widths, as TAB_WIDTH.png."""
    for width in WIDTHS:
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.goto(address)
        for tab, ready in READY.items():
            page.get_by_role("tab", name=tab).click()
            page.wait_for_selector(ready, timeout=60_000)
            page.wait_for_timeout(1500)
            keep(page, out / f"{tab.lower()}_{width}.png")
        page.close()


def photograph_street(browser: Any, address: str, out: Path) -> None:
    """The street model on U Street, a car's pixel pinned, the deletion test run, as street.png."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(address)
    page.wait_for_selector(READY["Explore"])
    from ccnet_lab.app.examples import SCENE_SEEDS

    page.locator("#examples button").nth(len(SCENE_SEEDS)).click()
    page.wait_for_function(f"({SIZE})() == '477,720'", timeout=60_000)
    page.wait_for_timeout(1000)
    box = page.locator(".ccnet-stage").bounding_box()
    page.mouse.click(box["x"] + 0.87 * box["width"], box["y"] + 0.68 * box["height"])
    page.wait_for_timeout(1000)
    page.click("#test")
    page.wait_for_selector("#truth img", timeout=120_000)
    page.wait_for_timeout(1000)
    keep(page, out / "street.png")
    page.close()


def keep(page: Any, path: Path) -> None:
    """Write the whole page as a small PNG."""
    from ccnet_lab.draw.pictures import reduced_png

    path.write_bytes(reduced_png(page.screenshot(full_page=True)))


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--chromium", default="/usr/bin/chromium", help="the browser's program")
    args = parser.parse_args()
    # Slow, so after --help.
    from ccnet_lab import Explorer
    from ccnet_lab.app.examples import SCENE_SEEDS
    from ccnet_lab.app.miniature_figures import heat_figure
    from ccnet_lab.data.generated.beacons import make_scene
    from ccnet_lab.draw.pictures import reduced_png
    from ccnet_lab.explore.measures import first_pixel
    from ccnet_lab.reports.miniatures import read_miniatures

    args.out.mkdir(parents=True, exist_ok=True)

    view = Explorer.open("demo").look(make_scene(SCENE_SEEDS[0]).image)
    figure = args.out / "attention.png"
    view.figure(*first_pixel(view), clip=0.35).savefig(figure, dpi=90)
    figure.write_bytes(reduced_png(figure.read_bytes()))

    studies = read_miniatures([Path("results/miniature")]).studies.values()
    heat_map = args.out / "miniatures.png"
    heat_figure([*studies]).savefig(heat_map, dpi=110)
    heat_map.write_bytes(reduced_png(heat_map.read_bytes()))

    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=args.chromium, args=CHROMIUM)
        with serving("--runs", "results/runs") as address:
            photograph_tabs(browser, address, args.out)
        with serving("--model", "street") as address:
            photograph_street(browser, address, args.out)
        browser.close()


if __name__ == "__main__":
    ending(main)
