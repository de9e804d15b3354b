"""Links: what a visitor looks at as an address, and as Python; session.py opens them."""

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from ccnet_lab.app.kept_pictures import DIGITS, damaged
from ccnet_lab.app.view_state import ViewState
from ccnet_lab.errors import ConfigError
from ccnet_lab.files import sha256
from ccnet_lab.hub import source_and_config


@dataclass(frozen=True, kw_only=True)
class Link:
    """Everything that decides what is seen; plain values, as they stand in the address."""

    image: str  # first 32 hex digits of `picture_hash`
    weights: str  # and of `weights_hash`
    model: str  # as in the menu, or a path
    config: str  # the name of its configuration
    input: int = 0  # short side of the network's input, pixels; 0 as evaluated
    r: int = 2  # the recurrence of the facts
    x: int = 0  # the pixel, image coordinates
    y: int = 0
    labels: float = 0.45  # the sliders, 0..1
    photo: float = 0.25
    clip: float = 0.35
    kind: str = "attention"
    scale: str = "clipped"
    tab: str = "Explore"
    scores: str = ""  # from here on what Configurations and Runs show; "" for their first choice
    board: str = ""  # the data set
    order: str = ""
    one: str = ""
    other: str = ""
    drawn: str = ""  # separated by "|"

    def query(self) -> str:
        """The address's end: "?image=...&weights=...", numbers in full."""
        return f"?{urlencode({name: value for name, value in asdict(self).items() if value != ''})}"

    @classmethod
    def read(cls, query: Mapping[str, str]) -> "Link":
        """A link from an address's parameters; others are ignored, sliders clamped to 0..1.

        Raises `ConfigError` for a parameter that is missing or should be a number.
        """
        found: dict[str, Any] = {}
        for field in fields(cls):
            if field.name in query:
                try:
                    found[field.name] = field.type(query[field.name])  # type: ignore[operator]
                except ValueError:
                    raise damaged(field.name, query[field.name], "a number") from None
        missing = [name for name in ("image", "weights", "model", "config") if name not in found]
        if missing:
            raise ConfigError(
                f"this link is cut short: it doesn't name {', '.join(missing)}; copy the link again"
            )
        for name in ("labels", "photo", "clip"):
            if name in found:
                found[name] = min(max(found[name], 0.0), 1.0) if found[name] == found[name] else 0.0
        return cls(**found)


def link_to(state: ViewState, image: str, config: str, weights: Path) -> Link:
    """The link to a state, with its picture's hash, its configuration and its weights file."""
    return Link(
        image=image, weights=weights_hash(weights), model=state.model, config=config,
        input=state.short_side, r=state.recurrence,
        x=state.x, y=state.y, labels=state.labels, photo=state.photo, clip=state.clip,
        kind=state.kind, scale=state.scale,
    )  # fmt: skip


def weights_hash(path: Path) -> str:
    """32 hex digits of a weights file's bytes; read once as long as the file is unchanged."""
    status = path.stat()
    return _file_hash(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _file_hash(path: Path, _size: int, _changed: int) -> str:
    return sha256(path)[:DIGITS]


def python_of(
    link: Link,
    picture: str,
    device: str = "cpu",
    region: tuple[int, int, int, int] | None = None,
    label: int | None = None,
    precision: str = "fp32",
) -> str:
    """Python that computes the map on screen as `weights` (h, w); `picture` is an expression.

    With a `region` or a class's `label` that is the mean map of many cells, as of `View.figure`.
    """
    source, config = source_and_config(link.model)
    arguments = [repr(source)]
    if config:
        arguments.append(f"config={config!r}")
    if device != "cpu":
        arguments.append(f"device={device!r}")
    if precision != "fp32":
        arguments.append(f"precision={precision!r}")
    scene = "from ccnet_lab.data.generated.beacons import make_scene\n"
    size = f", short_side={link.input}" if link.input else ""
    at = f"x={link.x}, y={link.y}"
    clip = link.clip if link.scale == "clipped" else 0.0
    options = f"clip={clip}, labels={link.labels}"
    if link.kind == "listeners":
        options += ", kind='listeners'"
    weights = f"view.{link.kind}({at}, recurrence={link.r})"
    means = subject = ""
    if region is not None or label is not None:
        many = f"label={label}" if label is not None else f"region={region}"
        means, options = "from ccnet_lab.explore.subject import subject_of\n", f"{options}, {many}"
        subject = f"subject = subject_of(view, {at}, {many})\n"
        weights = f"subject.maps(view, [{link.r}], {link.kind!r})[0]"
    sums = ", sums to 1" if link.kind == "attention" else ""
    return f"""import ccnet_lab
{scene if "make_scene" in picture else ""}{means}
explorer = ccnet_lab.Explorer.open({", ".join(arguments)})
view = explorer.look({picture}{size})
{subject}weights = {weights}  # (h, w){sums}
figure = view.figure({at}, {options})
"""
