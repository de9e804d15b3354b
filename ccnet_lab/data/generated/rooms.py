"""Rooms: generated scenes for the miniature with ADE20K's layout.

Walls, ceiling and floor enclose furniture, and things lie on the furniture. Some kinds of things
are rare. The chests all look alike: the colour of the one poster on the wall tells what is in them.
"""

import numpy as np
from numpy.typing import NDArray

from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.generated.drawing import (
    Canvas,
    Colour,
    checks,
    colour,
    shaded,
    slope,
    stripes,
    tinted,
)

SIZE = (128, 128)  # height, width
POSTERS = ((240, 40, 40), (50, 50, 250), (40, 215, 40))  # of toys, tools and linen
COLOURS = ("red", "blue", "green")
LONG_RANGE = ("toy chest", "tool chest", "linen chest")
CUES = tuple(f"{colour} poster" for colour in COLOURS)
THIN = ("cable", "lamp stand")
RARE = 0.15  # the chance of a plant, and of a clock


class Room:
    """A room being drawn; `things` are drawn from the back to the front."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.canvas, self.rng = Canvas(*SIZE, rng), rng
        names = get_dataset("ade20k_mini").class_names
        self.ids = {name: k + 1 for k, name in enumerate(names)}  # 0 is "other"
        self.ceiling, self.floor = float(rng.uniform(10, 22)), float(rng.uniform(74, 92))

    def box(
        self, name: str, left: float, top: float, wide: float, high: float, look: Colour
    ) -> None:
        """An upright box of a class, with an edge that is darker."""
        canvas, label = self.canvas, self.ids[name]
        right, bottom = left + wide, top + high
        canvas.paint(label, canvas.box(left, top, right, bottom), shaded(look, 0.7))
        inner = canvas.box(left + 1.2, top + 1.2, right - 1.2, bottom - 1.2)
        canvas.paint(label, inner, look)

    def near(self, *base: float) -> Colour:
        """A colour near `base`."""
        return tinted(self.rng, (base[0], base[1], base[2]), 12.0)


def make_room(rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pixels (128, 128, 3) and ids (128, 128) of one scene; id 0 belongs to no class."""
    room = Room(rng)
    _shell(room)
    secret = int(rng.integers(3))
    _on_the_wall(room, secret)
    _furniture(room)
    _chests(room, secret)
    _rare(room)
    return room.canvas.finish(3.0)


def _shell(room: Room) -> None:
    rng, canvas, (height, width) = room.rng, room.canvas, SIZE
    paper = room.near(*colour(rng, 120, 200))
    look = stripes(paper, shaded(paper, 0.93), rng.uniform(5, 10), 0.0)
    canvas.paint(room.ids["wall"], canvas.box(0, 0, width, height), look)
    ceiling = slope((245, 243, 238), (200, 200, 200), 0, room.ceiling)
    canvas.paint(room.ids["ceiling"], canvas.box(0, 0, width, room.ceiling), ceiling)
    wood = room.near(150, 105, 65)
    boards = stripes(wood, shaded(wood, 0.85), rng.uniform(4, 8), np.pi / 2)
    canvas.paint(room.ids["floor"], canvas.box(0, room.floor, width, height), boards)
    rug = canvas.ellipse(rng.uniform(35, 93), rng.uniform(108, 118), rng.uniform(22, 34), 9)
    pattern = checks(room.near(170, 60, 90), room.near(215, 180, 160), 4.0)
    canvas.paint(room.ids["rug"], rug, pattern)


def _on_the_wall(room: Room, secret: int) -> None:
    """Window and curtain, door, shelf with books, the poster, in a random order of places."""
    rng, canvas, top = room.rng, room.canvas, room.ceiling
    places = rng.permutation(np.array([2.0, 34.0, 66.0, 98.0])) + rng.uniform(-1, 1, 4)
    window, door, shelf, poster = (float(x) for x in places)
    room.box("window", window, top + 7, 26, 30, room.near(150, 205, 240))
    canvas.paint(room.ids["window"], canvas.box(window + 12, top + 7, window + 14, top + 37),
                 (240, 240, 240))  # fmt: skip
    drapery = stripes(room.near(190, 80, 70), room.near(150, 50, 50), 3.0, 0.0)
    for left in (window, window + 20):
        canvas.paint(room.ids["curtain"], canvas.box(left, top + 4, left + 7, top + 42), drapery)
    if rng.random() < 0.7:
        room.box("door", door, room.floor - 50, 24, 50, room.near(120, 80, 50))
    room.box("shelf", shelf, top + 24, 27, 5, room.near(90, 60, 40))
    for k in range(int(rng.integers(3, 7))):
        room.box("books", shelf + 1 + 4.2 * k, top + 12, 4, 12, room.near(*colour(rng, 40, 120)))
    x, y = poster + rng.uniform(0, 2), top + rng.uniform(3, 12)
    room.box(f"{COLOURS[secret]} poster", x, y, 30, 30, (248, 246, 240))
    canvas.paint(None, canvas.box(x + 3, y + 3, x + 27, y + 27), POSTERS[secret])


def _furniture(room: Room) -> None:
    rng, canvas = room.rng, room.canvas
    ground = room.floor + rng.uniform(4, 10)
    kinds = rng.permutation(np.array(["bed", "sofa", "table"]))[:2]
    for kind, left in zip(kinds, (rng.uniform(0, 12), rng.uniform(62, 78)), strict=True):
        if kind == "bed":
            room.box("bed", left, ground - 14, 46, 20, room.near(235, 235, 245))
            room.box("pillow", left + 2, ground - 20, 16, 9, room.near(250, 215, 120))
        elif kind == "sofa":
            look = room.near(75, 120, 120)
            room.box("sofa", left, ground - 24, 44, 30, look)
            for shift in (4, 24):
                room.box("cushion", left + shift, ground - 16, 15, 12, room.near(225, 130, 60))
        else:
            room.box("table", left, ground - 18, 42, 5, room.near(175, 130, 80))
            for shift in (2, 36):
                room.box("table", left + shift, ground - 13, 4, 18, room.near(160, 115, 70))
            room.box("chair", left + 14, ground - 12, 14, 18, room.near(60, 70, 95))
    x = float(rng.uniform(48, 60))
    canvas.paint(room.ids["lamp stand"], canvas.box(x, room.floor - 34, x + 3.5, ground),
                 (70, 70, 75))  # fmt: skip
    shade = [
        (x - 7, room.floor - 32),
        (x + 9, room.floor - 32),
        (x + 5, room.floor - 46),
        (x - 3, room.floor - 46),
    ]
    canvas.paint(room.ids["lamp"], canvas.polygon(shade), room.near(250, 230, 150))
    points = [(x, ground)]
    points += [(x + 14 * k, ground + rng.uniform(2, 12)) for k in range(1, 6)]
    canvas.paint(room.ids["cable"], canvas.line(points, 3.5), (30, 30, 34))


def _chests(room: Room, secret: int) -> None:
    rng, canvas = room.rng, room.canvas
    label = room.ids[LONG_RANGE[secret]]
    for left in rng.permutation(np.array([4.0, 46.0, 88.0]))[: int(rng.integers(2, 4))]:
        x, y = float(left + rng.uniform(-3, 8)), float(rng.uniform(92, 100))
        wide, high = float(rng.uniform(30, 37)), float(rng.uniform(20, 26))
        grey = tinted(rng, (165, 160, 150), 8.0)
        room.box(LONG_RANGE[secret], x, y, wide, high, grey)
        canvas.paint(label, canvas.box(x, y + 5, x + wide, y + 6.5), shaded(grey, 0.6))
        lock = canvas.box(x + wide / 2 - 2, y + 4, x + wide / 2 + 2, y + 9)
        canvas.paint(label, lock, (95, 85, 60))


def _rare(room: Room) -> None:
    rng, canvas = room.rng, room.canvas
    plant, clock, other = rng.random(3) < RARE
    if plant:
        x, y = float(rng.uniform(14, 114)), room.floor - 4
        room.box("plant", x - 5, y, 10, 11, room.near(190, 90, 50))
        for shift, high in ((-6, 12), (0, 16), (6, 12)):
            leaf = canvas.ellipse(x + shift, y - high / 2, 5, high / 2)
            canvas.paint(room.ids["plant"], leaf, room.near(40, 140, 60))
    if clock:
        x, y = float(rng.uniform(14, 114)), room.ceiling + 12
        canvas.paint(room.ids["clock"], canvas.ellipse(x, y, 9, 9), (40, 40, 45))
        canvas.paint(room.ids["clock"], canvas.ellipse(x, y, 7, 7), (250, 250, 250))
        hands = canvas.line([(x, y - 5), (x, y), (x + 4, y + 2)], 1.2)
        canvas.paint(room.ids["clock"], hands, (20, 20, 20))
    if other:  # a toy that has no class of its own
        ball = canvas.ellipse(rng.uniform(10, 118), rng.uniform(112, 120), 6, 6)
        canvas.paint(0, ball, colour(rng))
