"""Streets: generated scenes for the miniature with Cityscapes' layout.

A road in perspective between pavements, buildings and trees, with cars, people, poles and signs.
All cars look alike: whether they stop, go or give way depends on the colour of the only traffic
light.
"""

import numpy as np
from numpy.typing import NDArray

from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.generated.drawing import Canvas, checks, shaded, slope, stripes, tinted

SIZE = (96, 192)  # height, width
COLOURS = ("red", "green", "blue")
LIGHTS = ((240, 40, 40), (40, 215, 40), (50, 50, 250))  # stopping, going, yielding
LONG_RANGE = ("stopping car", "going car", "yielding car")
CUES = tuple(f"{colour} light" for colour in COLOURS)
THIN = ("pole", "lane mark")


def make_street(rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pixels (96, 192, 3) and Cityscapes-like ids (96, 192) of one scene."""
    dataset = get_dataset("cityscapes_mini")
    ids = dict(zip(dataset.class_names, dataset.ids, strict=True))
    canvas = Canvas(*SIZE, rng)
    horizon = float(rng.uniform(36, 46))
    vanishing = float(rng.uniform(70, 122))
    _ground(canvas, ids, horizon, vanishing)
    _buildings(canvas, ids, horizon)
    for x in rng.uniform(6, 186, int(rng.integers(2, 4))):
        _tree(canvas, ids, float(x), horizon + float(rng.uniform(2, 8)))
    _poles(canvas, ids, horizon)
    state = int(rng.integers(3))
    _cars(canvas, ids, horizon, vanishing, LONG_RANGE[state])
    for x in rng.uniform(8, 184, int(rng.integers(2, 5))):
        _person(canvas, ids, float(x), float(rng.uniform(58, 80)))
    _light(canvas, ids, horizon, state)
    bonnet = canvas.ellipse(96, 97, 60, 6)
    canvas.paint(1, bonnet, (30, 30, 36))  # the own car, which is no class
    return canvas.finish(4.0)


def _ground(canvas: Canvas, ids: dict[str, int], horizon: float, vanishing: float) -> None:
    rng, (height, width) = canvas.rng, SIZE
    sky = slope(tinted(rng, (90, 150, 220), 15), tinted(rng, (225, 230, 240), 8), 0, horizon)
    canvas.paint(ids["sky"], canvas.box(0, 0, width, horizon), sky)
    slabs = checks((176, 170, 160), (164, 158, 150), 5.0)
    canvas.paint(ids["pavement"], canvas.box(0, horizon, width, height), slabs)
    edge = float(rng.uniform(8, 24))
    road = [
        (vanishing - 6, horizon),
        (vanishing + 6, horizon),
        (width - edge, height),
        (edge, height),
    ]
    canvas.paint(ids["road"], canvas.polygon(road), tinted(rng, (82, 82, 88), 6))
    for start in np.arange(0.1, 1.0, 0.22):  # dashes towards the vanishing point
        near, far = start + 0.11, start
        y0, y1 = (horizon + (height - horizon) * v**1.4 for v in (far, near))
        x0, x1 = (vanishing + (96 - vanishing) * v**1.4 for v in (far, near))
        dash = [(x0 - 3 * far - 1, y0), (x0 + 3 * far + 1, y0),
                (x1 + 3.2 * near + 1, y1), (x1 - 3.2 * near - 1, y1)]  # fmt: skip
        canvas.paint(ids["lane mark"], canvas.polygon(dash), (235, 235, 225))


def _buildings(canvas: Canvas, ids: dict[str, int], horizon: float) -> None:
    rng, left = canvas.rng, -4.0
    while left < SIZE[1]:
        wide, high = float(rng.uniform(20, 42)), float(rng.uniform(14, 34))
        if rng.random() < 0.8:
            wall = tinted(rng, (175, 120, 95), 28)
            front = canvas.box(left, horizon - high, left + wide, horizon + 3)
            canvas.paint(ids["building"], front, wall)
            for x in np.arange(left + 4, left + wide - 5, 8):
                for y in np.arange(horizon - high + 4, horizon - 4, 9):
                    pane = canvas.box(x, y, x + 4, y + 5)
                    canvas.paint(ids["building"], pane, shaded(wall, 0.45))
        else:
            fence = stripes((120, 90, 60), (150, 115, 80), 3.0, 0.0)
            canvas.paint(
                ids["fence"], canvas.box(left, horizon - 6, left + wide, horizon + 4), fence
            )
        left += wide


def _tree(canvas: Canvas, ids: dict[str, int], x: float, ground: float) -> None:
    rng = canvas.rng
    trunk = canvas.box(x - 1.8, ground - 22, x + 1.8, ground)
    canvas.paint(ids["tree"], trunk, (85, 60, 40))
    for _ in range(7):
        dx, dy = rng.normal(0, 5, 2)
        crown = canvas.ellipse(x + dx, ground - 27 + dy, rng.uniform(5, 9), rng.uniform(5, 8))
        canvas.paint(ids["tree"], crown, tinted(rng, (55, 125, 55), 14))


def _poles(canvas: Canvas, ids: dict[str, int], horizon: float) -> None:
    rng = canvas.rng
    for x in rng.uniform(4, 188, int(rng.integers(2, 5))):
        ground, top = horizon + float(rng.uniform(6, 16)), float(rng.uniform(8, 24))
        pole = canvas.box(x - 1.7, top, x + 1.7, ground)
        canvas.paint(ids["pole"], pole, (120, 122, 128))
        if rng.random() < 0.6:
            sign = canvas.ellipse(x, top, 6, 6)
            canvas.paint(ids["sign"], sign, (200, 30, 40))
            canvas.paint(ids["sign"], canvas.ellipse(x, top, 4, 4), (245, 245, 245))


def _cars(canvas: Canvas, ids: dict[str, int], horizon: float, vanishing: float, name: str) -> None:
    rng = canvas.rng
    for depth in np.sort(rng.uniform(0.3, 0.95, int(rng.integers(2, 5)))):  # the far ones first
        ground = horizon + (92 - horizon) * float(depth)
        size = 11 + 18 * float(depth)
        middle = vanishing + (96 - vanishing) * depth + rng.uniform(-1, 1) * 70 * depth
        left, label = float(np.clip(middle - size, 1, 190 - 2 * size)), ids[name]
        paint = tinted(rng, (150, 150, 158), 14)
        body = canvas.box(left, ground - 0.62 * size, left + 2 * size, ground - 0.12 * size)
        outline = ((0.35, 0.6), (0.6, 1.05), (1.4, 1.05), (1.7, 0.6))
        roof = [(left + across * size, ground - up * size) for across, up in outline]
        canvas.paint(label, canvas.polygon(roof), (45, 55, 70))
        canvas.paint(label, body, paint)
        for wheel in (0.45, 1.55):
            tyre = canvas.ellipse(
                left + wheel * size, ground - 0.14 * size, 0.22 * size, 0.22 * size
            )
            canvas.paint(label, tyre, (25, 25, 28))


def _person(canvas: Canvas, ids: dict[str, int], x: float, ground: float) -> None:
    rng, high = canvas.rng, 0.33 * ground
    legs = canvas.box(x - 2.2, ground - 0.5 * high, x + 2.2, ground)
    canvas.paint(ids["person"], legs, (50, 50, 90))
    coat = canvas.ellipse(x, ground - 0.62 * high, 3.6, 0.28 * high)
    canvas.paint(ids["person"], coat, tinted(rng, (220, 120, 60), 25))
    head = canvas.ellipse(x, ground - 0.95 * high, 2.3, 2.5)
    canvas.paint(ids["person"], head, (225, 180, 150))


def _light(canvas: Canvas, ids: dict[str, int], horizon: float, state: int) -> None:
    x, y = float(canvas.rng.uniform(12, 180)), float(canvas.rng.uniform(12, 24))
    canvas.paint(ids["pole"], canvas.box(x - 1.7, y, x + 1.7, horizon + 12), (60, 62, 66))
    canvas.paint(
        ids[f"{COLOURS[state]} light"], canvas.box(x - 12, y - 12, x + 12, y + 12), (25, 25, 28)
    )
    lamp = canvas.ellipse(x, y, 11, 11)
    canvas.paint(ids[f"{COLOURS[state]} light"], lamp, LIGHTS[state])
