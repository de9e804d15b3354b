"""Make the README's pictures: the app in headless Chromium, and one figure that the library draws itself."""

import argparse
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ccnet_lab import Explorer
from ccnet_lab.data.beacons import make_scene
from ccnet_lab.explore.workbench import SCENE_SEEDS, first_pixel

CHROMIUM = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
ANSWERED = "#answer figure:nth-of-type(3) img"


@contextmanager
def serving() -> Iterator[str]:
    """The app on a free port, in a process of its own; yields its address."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    process = subprocess.Popen([sys.executable, "app.py", "--port", str(port)], stdout=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(address).close()
                break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """Write app.png and attention.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--chromium", default="/usr/bin/chromium", help="the browser's program")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    view = Explorer.open("demo").look(make_scene(SCENE_SEEDS[0]).image)
    view.figure(*first_pixel(view), clip=0.35).savefig(args.out / "attention.png", dpi=90)

    from playwright.sync_api import sync_playwright

    with serving() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=args.chromium, args=CHROMIUM)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.goto(address)
        page.wait_for_selector(ANSWERED)
        page.wait_for_timeout(1500)
        page.screenshot(path=args.out / "app.png", full_page=True)
        browser.close()


if __name__ == "__main__":
    main()
