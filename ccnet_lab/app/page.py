"""The app's words: small pieces of HTML made from a view and a pixel. Where they stand is in app.py, how they look in page.css."""

from base64 import b64encode
from collections.abc import Callable, Sequence
from html import escape
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from ccnet_lab.configs import Config
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.draw.pictures import shown_size
from ccnet_lab.errors import LabError
from ccnet_lab.explore.explorer import Explorer, Pixel, View
from ccnet_lab.explore.measures import SameClass
from ccnet_lab.explore.recurrence import GAMMA_NEAR_ZERO
from ccnet_lab.store import Published

STAGE, MAP = 640, 360  # longer sides of the stage and of a map, pixels

_STYLE, _BOARDS, SCRIPT = (
    files("ccnet_lab.app").joinpath(name).read_text(encoding="utf-8")
    for name in ("page.css", "dashboards.css", "page.js")
)
CSS = _STYLE + _BOARDS

BRAND = "<h1>ccnet_lab</h1><p>What does a pixel look at? Click one.</p>"

ABOUT = """
<div class='about'>
<h2>What you see</h2>
<p>CCNet labels every pixel of a photograph. Before it decides, each pixel gathers from the pixels of its own row and column: that is
<b>criss-cross attention</b>. Done once (R&nbsp;=&nbsp;1) a pixel sees its cross. Done again with the same weights (R&nbsp;=&nbsp;2), it
hears what the pixels of its cross have gathered, and so from everywhere. The three maps are that reach, exactly: one row of
A<sub>1</sub>, of A<sub>2</sub>A<sub>1</sub>, and of A<sub>3</sub>A<sub>2</sub>A<sub>1</sub>, where A<sub>s</sub> is the attention
matrix of step s. Each sums to 1, and all three share one colour scale.</p>
<p><b>On the cross</b> says how much of a map lies on the pixel's own row and column. <b>Clip</b> lowers the top of the colour scale, as
the paper's figures do: weights above it look alike, weights below it become visible.</p>
<h2>The demo</h2>
<p>The scenes are generated. One small beacon decides the class of every grey disc in the picture, so a network must carry its colour
across the image. Trained with R&nbsp;=&nbsp;1 it labels the discs on the beacon's row or column and guesses the others; with
R&nbsp;=&nbsp;2 it labels them all. Both are in the model menu.</p>
<h2>What a map does not say</h2>
<p>An attention weight says how much was taken from a cell, not whether it decided the label: values, gamma and the features that stayed
count too. The <b>deletion test</b> asks the network itself: it removes the most attended cells, then as many at random, and watches the
label's probability. Maps at an R the model was not trained with show its weights outside what they learned.</p>
<h2>By keyboard</h2>
<p>Tab reaches every control. With the picture in focus the arrow keys move the chosen pixel cell by cell. Every picture has a button that
saves it as PNG; <b>Copy the link</b> gives an address that opens the same view again, <b>Copy the Python</b> the lines that make it.</p>
<h2>Sources</h2>
<p>Huang et al., <i>CCNet: Criss-Cross Attention for Semantic Segmentation</i>, ICCV 2019 and TPAMI 2020. Published configurations and
checkpoints: SSSegmentation. The photographs: the Summer Palace in Beijing by daniel.buechele (CC BY 2.0); Grace Hopper (U.S. Navy), in
the public domain. Nothing you load here leaves this machine; a picture is kept in the cache folder only when you copy its link or its
Python.</p>
</div>
"""


GROWTH = """
<div class='tabtext'><h2>What attention costs as the picture grows</h2>
<p>Full (non-local) attention compares every cell with every other one; criss-cross attention compares a cell with the
<i>h</i> + <i>w</i> &minus; 1 of its row and column, R times.</p></div>
"""


def said(error: Exception) -> str:
    """One sentence on any exception, for those who cannot see the terminal."""
    if isinstance(error, LabError):
        return str(error)
    words = " ".join(str(error).split())[:300]
    if isinstance(error, MemoryError) or any(
        known in words.lower() for known in ("out of memory", "allocate memory")
    ):
        return "memory ran out while this was computed, so nothing has changed; choose a smaller network input or a smaller picture"
    return (
        f"something unforeseen happened ({type(error).__name__}{f': {words}' if words else ''}), so nothing has changed; "
        "the terminal that this app runs in shows the details"
    )


def problem(error: Exception | str) -> str:
    """An error's message, readable: long lists of names are cut."""
    message = str(error)
    shown = message[:600] + (
        f" … ({len(message) - 600:,} characters more)" if len(message) > 600 else ""
    )
    return f"<div class='problem' role='alert'>{escape(shown)}</div>"


def menu_line(config: Config, size: int, here: bool) -> str:
    """What the model menu says of one of the twelve: name, published mIoU, and what is to be downloaded first."""
    return f"{config.name} · {config.published_miou:.2f} % · {'here' if here else _megabytes(size)}"


def offer(file: Published, address: str, config: Config, size: int) -> str:
    """The question before a checkpoint is downloaded."""
    return (
        f"<div class='offer'><b>{escape(config.name)}</b> is not on this machine. Download about {_megabytes(size)} from "
        f"{escape(urlsplit(address).netloc)}? <span>Published by SSSegmentation with {config.published_miou:.2f} % mIoU on "
        f"{get_dataset(config.dataset).title}; <code>{escape(address)}</code> will be kept in <code>{escape(str(file.path.parent))}</code>."
        "</span></div>"
    )


def fetching(file: Published, done: int, total: int | None) -> str:
    """How far a download is."""
    much = (
        f"{done / 1e6:.1f} of {total / 1e6:.1f} MB"
        if total
        else f"{done / 1e6:.1f} MB"
        if done
        else "asking"
    )
    return f"<div class='offer'><b>{escape(file.name)}</b> is coming: {much} {progress(100 * done / total if total else 0.0)}</div>"


def working(done: int = 0, total: int = 0, what: str = "computing") -> str:
    """How far a computation is."""
    how = f"{what}: {done} of {total}" if total else f"{what} …"
    return (
        f"<div class='working'>{escape(how)}{progress(100 * done / total if total else 0.0)}</div>"
    )


def progress(share: float, about: str = "") -> str:
    """A bar that is filled to that share, in percent; `about` tells what it is to those who do not see it."""
    label = f" aria-label='{escape(about)}'" if about else ""
    return f"<div class='progress' role='progressbar'{label} aria-valuenow='{share:.0f}'><s style='width:{share:.1f}%'></s></div>"


def sheet(picture: bytes, name: str, alt: str, width: int) -> str:
    """A figure, a PNG file, that can be saved; shown at most `width` CSS pixels wide."""
    image = f"<div class='scroll'><img alt='{escape(alt)}' src='{inline(picture)}'></div>"
    return f"<figure class='sheet' style='--natural:{width}px'>{image}<figcaption>{save_button(name)}</figcaption></figure>"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


def model_line(explorer: Explorer) -> str:
    """One line on a model: how it was trained, its gamma, its size."""
    gamma = explorer.model.attention.gamma.item()
    parts = [
        f"R trained <b>{explorer.config.recurrence}</b>",
        f"gamma <b>{gamma:.2f}</b>"
        + (" (near 0: the attention changes nothing)" if abs(gamma) < GAMMA_NEAR_ZERO else ""),
        f"<b>{sum(p.numel() for p in explorer.model.parameters()) / 1e6:.2f} M</b> parameters",
        f"stride <b>{explorer.config.output_stride}</b>",
    ]
    if explorer.config.dataset == "camvid":
        parts.append("trained on CamVid: <b>CC BY-NC 4.0</b>, not for commercial use")
    if explorer.config.published_miou is not None:
        parts.append(f"published mIoU <b>{explorer.config.published_miou:.2f} %</b>")
    return f"<div class='line'>{' · '.join(parts)}</div>"


def notice(explorer: Explorer, generated: bool) -> str:
    """What a visitor must know about this model on a generated scene or a photograph; "" if there is nothing."""
    if generated == (explorer.config.dataset == "beacons"):
        return ""
    text = (
        "This is a photograph, and the model on show is the embedded demo, which knows only generated beacon scenes. "
        "Its labels mean nothing here; how its attention spreads over one, two and three steps is real all the same."
    )
    if generated:
        text = f"This is a generated scene, and {escape(explorer.config.name)} was trained on photographs. Its labels mean nothing here."
    return f"<div class='notice'>{text}</div>"


def legend(view: View, most: int = 12) -> str:
    """The classes in the picture, largest first, with colours and shares, and what the network was given."""
    names = view.explorer.class_names
    share = np.bincount(view.labels.ravel(), minlength=len(names)) / view.labels.size
    order = [int(k) for k in np.argsort(-share) if share[k] > 0]
    items = "".join(
        f"<span>{_swatch(view, k)}{escape(names[k])} <i>{percent(share[k])}</i></span>"
        for k in order[:most]
    )
    more = f"<span class='more'>and {len(order) - most} more</span>" if len(order) > most else ""
    (height, width), (h, w) = view.input_size, view.grid
    saw = f"<span class='more'>the network saw {width} × {height} pixels as {w} × {h} cells</span>"
    return f"<div class='legend'>{items}{more}{saw}{save_button('labels', of='#stage img')}</div>"


def marker(view: View, pixel: Pixel) -> str:
    """The chosen pixel and its cell, drawn over the stage; positions in percent of the image."""
    height, width = view.size
    point = f"left:{100 * (pixel.x + 0.5) / width:.3f}%;top:{100 * (pixel.y + 0.5) / height:.3f}%"
    widest = (
        f"max-width:{shown_size(*view.size, STAGE)[1]}px"  # the stage's picture is not enlarged
    )
    return f"<div class='over' style='{_aspect(view)};{widest}'>{_cell(view, pixel)}<div class='point' style='{point}'></div></div>"


def panels(
    view: View, pixel: Pixel, heats: Sequence[bytes], captions: Sequence[str], opacity: float
) -> str:
    """The maps side by side: PNG files of one pixel per cell, which the browser enlarges sharply over the image; the cell as a box."""
    figures = (
        f"<figure><div class='map' style='{_aspect(view)}'><img alt='attention map, R = {r}' style='opacity:{opacity:.2f}' "
        f"src='{inline(heat)}'>{_cell(view, pixel)}</div>{caption}</figure>"
        for heat, caption, r in zip(heats, captions, pixel.recurrences, strict=True)
    )
    return f"<div class='panels'>{''.join(figures)}</div>"


def save_button(name: str, of: str = "") -> str:
    """A button that saves the picture beside it, or the one that the CSS selector `of` names, as a PNG file; see page.js."""
    other = f" data-of='{escape(of)}'" if of else ""
    return f"<button class='png' data-name='{escape(name)}'{other} title='save as PNG'>PNG</button>"


def ground(picture: bytes) -> str:
    """The picture, a PNG file, that lies under all maps; sent once per image, not with every click."""
    return f"<style>#answer .map {{ background-image: url({inline(picture)}) }}</style>"


def caption(
    recurrence: int,
    share: float,
    weights: NDArray[np.floating[Any]],
    beacon: NDArray[np.bool_] | None = None,
) -> str:
    """The line under a map (h, w); `beacon` (h, w) are the cells of a generated scene's beacon."""
    where = f"its cross, {sum(weights.shape) - 1} cells" if recurrence == 1 else "every cell"
    words = f"<span>reaches {where}</span><span>on the cross <b>{percent(share)}</b></span>"
    words += (
        ""
        if beacon is None
        else f"<span>on the beacon <b>{percent(float(weights[beacon].sum()))}</b></span>"
    )
    return f"<figcaption><b>R = {recurrence}</b>{words}{save_button(f'attention_R{recurrence}')}</figcaption>"


def colour_scale(top: float, clipped: Sequence[float]) -> str:
    """The colour bar of the maps and how much of their mass lies above its end."""
    lost = (
        "mass above its end: " + ", ".join(map(percent, clipped))
        if max(clipped) > 5e-4
        else "nothing is clipped"
    )
    return f"<div class='scale'><i>0</i><b></b><i>{top:.2g}</i><span>one scale for all three; {lost}</span></div>"


def facts(
    view: View,
    pixel: Pixel,
    recurrences: Sequence[int],
    own: SameClass,
    recurrence: int,
    beacon: NDArray[np.bool_] | None = None,
) -> str:
    """What the pixel is taken for, and what its map lies on, class by class; `own` is of that recurrence.

    The beacon of a generated scene, in the cells (h, w), belongs to no class of discs, so it stands for itself.
    """
    at = recurrences.index(recurrence)
    likely, mass, area, weights = (
        pixel.probabilities,
        pixel.class_shares[at],
        pixel.cell_shares,
        pixel.maps[at],
    )
    taken = _bars(view, likely, lambda k: f"<i>{likely[k]:.2f}</i>")
    name = escape(view.explorer.class_names[own.label])
    words = f"its own class, {name}: <b>{percent(own.share)}</b> of the map, {percent(own.chance)} by chance"
    first = ""
    if beacon is not None:
        share, room = float(weights[beacon].sum()), float(beacon.mean())
        classes = view.cell_labels()[beacon]
        mass, area = mass.copy(), area.copy()
        np.subtract.at(mass, classes, weights[beacon])
        np.subtract.at(area, classes, 1 / beacon.size)
        numbers = f"<i>{percent(share)}</i><em>of the image: {percent(room)}</em>"
        first = f"<div class='bar'><u></u><span>the beacon</span><b><s style='width:{100 * share:.1f}%'></s></b>{numbers}</div>"
        words = f"on the beacon, whose colour decides the class of every disc: <b>{percent(share)}</b> of the map"
    looks = first + _bars(
        view, mass, lambda k: f"<i>{percent(mass[k])}</i><em>of the image: {percent(area[k])}</em>"
    )
    return (
        f"<div class='facts'><section><h3>Pixel ({pixel.x}, {pixel.y}) is taken for</h3>{taken}</section>"
        f"<section><h3>With R = {recurrence} it looks at</h3>{looks}<p>{words}</p></section></div>"
    )


def percent(share: float) -> str:
    """0.123 as "12 %", below ten with one decimal."""
    return f"{100 * share:.0f} %" if share >= 0.0995 or share == 0 else f"{100 * share:.1f} %"


def _bars(view: View, shares: NDArray[np.floating[Any]], told: Callable[[int], str]) -> str:
    """The largest of some shares (K,) by class, at most four, with what is told of each."""
    return "".join(
        f"<div class='bar'>{_swatch(view, k)}<span>{escape(view.explorer.class_names[k])}</span>"
        f"<b><s style='width:{100 * float(shares[k]):.1f}%'></s></b>{told(k)}</div>"
        for k in np.argsort(-shares)[:4]
        if shares[k] >= 0.005
    )


def _swatch(view: View, k: int) -> str:
    red, green, blue = view.explorer.palette[k]
    return f"<u style='background:rgb({red},{green},{blue})'></u>"


def _aspect(view: View) -> str:
    height, width = shown_size(*view.size, STAGE)
    return f"aspect-ratio:{width}/{height}"


def _cell(view: View, pixel: Pixel) -> str:
    (height, width), (left, top, right, bottom) = view.size, pixel.box
    place = f"left:{100 * left / width:.3f}%;top:{100 * top / height:.3f}%"
    return f"<div class='cell' style='{place};width:{100 * (right - left) / width:.3f}%;height:{100 * (bottom - top) / height:.3f}%'></div>"


def inline(picture: bytes) -> str:
    """A PNG file as an address."""
    return f"data:image/png;base64,{b64encode(picture).decode()}"
