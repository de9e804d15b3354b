"""viewer/widget.py: what other cells read and set; viewer/payload.py: what the page gets."""

import gzip

import numpy as np
import pytest

from ccnet_lab import Explorer
from ccnet_lab.data.generated.beacons import make_scene
from ccnet_lab.viewer import payload

pytest.importorskip("anywidget")
from traitlets import TraitError


@pytest.fixture(scope="module")
def view():
    return Explorer.open("demo").look(make_scene(10_000_018).image)


def test_what_it_shows_can_be_read_set_and_observed(view):
    widget = view.widget(pixel=(30, 40), clip=0.6)
    assert (widget.x, widget.y, widget.recurrence, widget.clip) == (30, 40, 2, 0.6)
    seen = []
    widget.observe(lambda change: seen.append(change["new"]), "x")
    widget.x = 31
    assert seen == [31]
    for name, value in (("x", 96), ("y", -1), ("recurrence", 4), ("clip", 1.5)):
        with pytest.raises(TraitError):
            setattr(widget, name, value)
    assert (widget.x, widget.y, widget.recurrence, widget.clip) == (31, 40, 2, 0.6)


def test_what_it_begins_with_is_checked_too(view):
    for options in ({"x": 999}, {"recurrence": 9}, {"foo": 3}):
        with pytest.raises(ValueError, match="expected"):
            view.widget(**options)


def test_a_payload_is_read_back(view):
    data = payload.encode(view, (1, 2), compress=True, pixel=(3, 4))
    header = payload.header_of(data)
    assert (header["x"], header["y"], header["recurrences"]) == (3, 4, [1, 2])
    data = gzip.decompress(data)
    start = 8 + int.from_bytes(data[4:8], "little")
    place = header["arrays"]["attention2"]
    count = int(np.prod(place["shape"]))
    found = np.frombuffer(data, np.float16, count, start + place["offset"]).astype(float)
    weights = view.attention_weights(2)[1]
    error = np.abs(found.reshape(weights.shape) / header["scaled"] - weights).max()
    assert 0 < error <= header["error"] + 1e-7 < 1e-3
    assert start % 8 == 0
    assert all(array["offset"] % 8 == 0 for array in header["arrays"].values())
