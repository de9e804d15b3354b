"""Objects: generated scenes for the miniature with VOC's layout.

Shapes lie over each other on a table. Balls, boxes, pyramids, rings and stars are told by their
form; wires are two pixels thick. The gems all look alike: what they are called depends on the
colour of the only lantern, somewhere else in the picture.
"""

import numpy as np
from numpy.typing import NDArray

from ccnet_lab.data.generated.drawing import (
    Canvas,
    apart,
    checks,
    colour,
    shaded,
    slope,
    stripes,
    tinted,
)

SIZE = (128, 128)  # height, width
BALL, BOX, PYRAMID, RING, STAR, WIRE, LANTERN = range(1, 8)
GEM = LANTERN + 3
LIGHTS = ((240, 40, 40), (40, 215, 40), (50, 50, 250))  # of the gems' names
BASES = {BALL: (215, 105, 75), BOX: (60, 130, 200), PYRAMID: (235, 200, 90), RING: (140, 100, 185),
         STAR: (240, 140, 175)}  # fmt: skip
LONG_RANGE = ("ruby", "emerald", "sapphire")
CUES = ("red lantern", "green lantern", "blue lantern")
THIN = ("wire",)


def make_objects(rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pixels (128, 128, 3) and labels (128, 128) of one scene."""
    height, width = SIZE
    canvas = Canvas(height, width, rng)
    tint = colour(rng, 30, 75)
    canvas.paint(0, canvas.box(0, 0, width, height), slope(tint, shaded(tint, 1.5), 0, height))
    _wires(canvas)
    name = int(rng.integers(len(LIGHTS)))
    things = apart(rng, int(rng.integers(5, 8)), (12, 21), SIZE, gap=-4.0)
    for number, (x, y, r) in enumerate(things):
        kind = GEM if number % 2 else int(rng.integers(BALL, WIRE))
        canvas.darken(canvas.ellipse(x + 2, y + 2.5, r, r), 0.75)
        _thing(canvas, kind, name, x, y, min(r, 17.0) if kind == GEM else r)
    _lantern(canvas, name)
    return canvas.finish()


def _wires(canvas: Canvas) -> None:
    rng = canvas.rng
    for _ in range(int(rng.integers(1, 4))):
        bends = rng.uniform(0, 128) + rng.uniform(-30, 30, 5)
        points = np.stack([np.linspace(-2, 130, 5), bends], 1)
        points = points[:, ::-1] if rng.random() < 0.5 else points
        canvas.paint(WIRE, canvas.line([*map(tuple, points)], 3.0), tinted(rng, (225, 225, 225)))


def _thing(canvas: Canvas, kind: int, name: int, x: float, y: float, r: float) -> None:
    rng, base = canvas.rng, tinted(canvas.rng, BASES.get(kind, (0, 0, 0)))
    turn = rng.uniform(0, 2 * np.pi)

    def corners(count: int, radii: tuple[float, ...]) -> list[tuple[float, float]]:
        angles = turn + np.arange(count) * 2 * np.pi / count
        return [
            (x + radii[k % len(radii)] * np.cos(a), y + radii[k % len(radii)] * np.sin(a))
            for k, a in enumerate(angles)
        ]

    if kind == BALL:
        for part, bright in ((1.0, 0.75), (0.8, 1.0), (0.35, 1.35)):
            shift = (1 - part) * r * 0.45
            mask = canvas.ellipse(x - shift, y - shift, part * r, part * r)
            canvas.paint(BALL, mask, shaded(base, bright))
    elif kind == BOX:
        look = stripes(base, shaded(base, 0.6), rng.uniform(3, 6), turn)
        canvas.paint(BOX, canvas.polygon(corners(4, (1.1 * r,))), look)
    elif kind == PYRAMID:
        points = corners(3, (1.15 * r,))
        canvas.paint(PYRAMID, canvas.polygon(points), base)
        dark = canvas.polygon([points[0], points[1], (x, y)])
        canvas.paint(PYRAMID, dark, shaded(base, 0.65))
    elif kind == RING:
        mask = canvas.ellipse(x, y, r, r, hole=0.55)
        canvas.paint(RING, mask, checks(base, shaded(base, 0.7), 3.0))
    elif kind == STAR:
        canvas.paint(STAR, canvas.polygon(corners(10, (1.2 * r, 0.5 * r))), base)
    else:
        grey = float(rng.uniform(130, 200))
        for part, bright in ((1.0, 0.7), (0.7, 1.0), (0.35, 1.2)):
            facet = canvas.polygon(corners(6, (part * r,)))
            canvas.paint(GEM + name, facet, shaded((grey, grey, grey), bright))


def _lantern(canvas: Canvas, name: int) -> None:
    """The lantern, where it hides the fewest things of a few random places."""
    rng, height, width = canvas.rng, *SIZE
    tried = rng.uniform((18, 18), (width - 18, height - 18), (12, 2)).tolist()
    covered = [canvas.covered(canvas.box(x - 18, y - 18, x + 18, y + 18)) for x, y in tried]
    x, y = tried[int(np.argmin(covered))]
    canvas.paint(LANTERN + name, canvas.box(x - 17, y - 17, x + 17, y + 17), (250, 250, 240))
    canvas.paint(LANTERN + name, canvas.box(x - 13, y - 13, x + 13, y + 13), LIGHTS[name])
