"""Make docs/gallery: interactive pages that need no server, a picture of each, and their list."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccnet_lab.ending import ending

import numpy as np
from jinja2 import Template

import ccnet_lab
from ccnet_lab.data.generated.beacons import make_scene

STREET = Path(ccnet_lab.__file__).parent / "assets" / "u_street.jpg"
CREDIT = "Photograph: 1200 block of U Street NW by Ted Eytan, CC BY-SA 2.0, cropped and scaled"
SOURCE = "https://commons.wikimedia.org/wiki/File:1200_block_of_U_Street_NW.jpg"
LICENCE = "https://creativecommons.org/licenses/by-sa/2.0/"


@dataclass(frozen=True)
class Page:
    """One page of the gallery."""

    name: str  # of its files, without the ending
    heading: str  # in the list
    title: str  # the line or paragraph above its pictures
    model: str
    image: Callable[[], Any]
    pixel: tuple[int, int]  # (x, y) that is shown first
    short_side: int | None = None  # pixels of the network's input
    credit: str = ""  # Markdown, in the list


def small_scene() -> Any:
    """(28, 40, 3): a part of a scene, 7 x 10 cells, with a disc, and a beacon off its cross."""
    return np.ascontiguousarray(make_scene(10_000_137).image[36:64, 4:44])


def scene() -> Any:
    """(96, 96, 3): a held-out scene with its beacon in a corner."""
    return make_scene(10_000_018).image


PAGES = (
    Page(
        "the_cross",
        "The cross, in 7 x 10 cells",
        "The cross. The marked cell gathers from its own row and column: the map at R = 1. With "
        "R = 2 it also gathers what those cells have gathered, so it reaches every cell. Now move "
        "over the disc. Its class is the colour of the small square, the beacon, which is not on "
        "its cross: with R = 1 it looks elsewhere, with R = 2 it finds the beacon.",
        "demo",
        small_scene,
        (22, 22),
        short_side=28,
    ),
    Page(
        "beacon_r2",
        "A beacon scene, trained with R = 2",
        "A beacon scene, trained with R = 2. The colour of the small square, the beacon, is the "
        "class of every disc: with R = 2 every disc finds it.",
        "demo",
        scene,
        (77, 67),
    ),
    Page(
        "beacon_r1",
        "The same scene, trained with R = 1",
        "The same scene, trained with R = 1. Discs off the beacon's row and column can't see its "
        "colour: their class is a guess.",
        "demo_r1",
        scene,
        (77, 67),
    ),
    Page(
        "street",
        "A street photograph",
        f"What does a pixel of a street look at? Click a class below the picture, too. {CREDIT}.",
        "street",
        lambda: STREET,
        (625, 325),
        short_side=220,
        credit=f"[{CREDIT}]({SOURCE}), in page and picture under the same [licence]({LICENCE}).",
    ),
)
LIST = Template(
    """\
# The gallery

Each page is one interactive HTML file that needs no server and no network. GitHub shows such a
file as text: download it and open it in a browser, or put this folder on any static web host.

Written by `python scripts/make_gallery.py`; change that, not these files. A page of your own:
`view.save_html(path)`.
{% for page, megabytes in pages %}
## {{ page.heading }}

[![{{ page.heading }}]({{ page.name }}.png)]({{ page.name }}.html)

[{{ page.name }}.html]({{ page.name }}.html), {{ "%.1f"|format(megabytes) }} MB,
by the model `{{ page.model }}`.
{%- if page.credit %} {{ page.credit }}{% endif %}
{% endfor %}"""
)


def write_pages(out: Path) -> None:
    """Look at each picture and write its page."""
    for page in PAGES:
        view = ccnet_lab.Explorer.open(page.model).look(page.image(), page.short_side)
        view.save_html(out / f"{page.name}.html", title=page.title, pixel=page.pixel)


def photograph(out: Path, chromium: str) -> None:
    """A PNG of each page as it opens."""
    from playwright.sync_api import sync_playwright

    from ccnet_lab.draw.pictures import reduced_png

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for page in PAGES:
            tab = browser.new_page(viewport={"width": 1280, "height": 400}, offline=True)
            tab.goto((out / f"{page.name}.html").resolve().as_uri())
            tab.wait_for_selector(".ccnet-viewer")
            picture = tab.screenshot(full_page=True)
            (out / f"{page.name}.png").write_bytes(reduced_png(picture))
        browser.close()


def read_me(out: Path) -> str:
    """The list of the pages, in Markdown."""
    sizes = [(page, (out / f"{page.name}.html").stat().st_size / 1e6) for page in PAGES]
    return str(LIST.render(pages=sizes))


def main() -> None:
    """Write the gallery."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/gallery"))
    parser.add_argument("--chromium", default="/usr/bin/chromium", help="the browser's program")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    write_pages(args.out)
    (args.out / "README.md").write_text(read_me(args.out), encoding="utf-8")
    photograph(args.out, args.chromium)


if __name__ == "__main__":
    ending(main)
