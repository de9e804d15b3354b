"""explore/measures.py: constant features have chance and no query dependence; planted maps."""

import numpy as np
import pytest
import torch
from planted import beacon_view, planted

from ccnet_lab import Explorer, ImageError
from ccnet_lab.data.generated.beacons import make_scene
from ccnet_lab.explore.explorer import View
from ccnet_lab.explore.measures import query_dependence, same_class
from ccnet_lab.explore.teaching import walks

SIZES = [(5, 6), (1, 9), (7, 1), (1, 1), (12, 17)]


def halves(height, width):
    """(h, w): true on the left and in the last row."""
    painted = np.zeros((height, width), bool)
    painted[:, : width // 2] = painted[-1] = True
    return painted


@pytest.mark.parametrize("recurrence", [1, 2, 3])
@pytest.mark.parametrize("size", SIZES)
def test_constant_features_have_exactly_chance_and_zero(size, recurrence):
    ones = np.ones((1, *size))
    view = planted(
        np.concatenate([ones, 0 * ones]),
        [[3, 0]],
        [[2, 0]],
        np.zeros((2, 2)),
        recurrence=recurrence,
        painted=halves(*size),
    )
    for x, y in {(0, 0), (4 * size[1] - 1, 4 * size[0] - 1), (2 * size[1], size[0])}:
        found = same_class(view, x, y)
        assert found.share == pytest.approx(found.chance, abs=1e-6)  # float32 against exact
        assert found.label == view.labels[y, x]
        geometry = walks(*size, *view.cell(x, y), recurrence).double()
        own = torch.as_tensor(view.cell_labels() == found.label)
        assert found.chance == pytest.approx(float(geometry[own].sum() / geometry.sum()), abs=1e-12)
    assert query_dependence(view) < 1e-6


@pytest.mark.parametrize("recurrence", [1, 2, 3])
def test_constant_features_under_any_weights_are_chance_to_rounding(recurrence):
    demo = Explorer.open("demo")
    scene = demo.look(make_scene(5).image)
    state = scene.state(0)
    view = View(
        demo,
        scene.image,
        scene.input_size,
        scene._context,
        state.mean((2, 3), keepdim=True).expand_as(state).contiguous(),
    )
    found = same_class(view, 40, 50, recurrence)
    assert found.share == pytest.approx(found.chance, abs=1e-5)
    assert query_dependence(view, recurrence) < 1e-5


@pytest.mark.parametrize("size", [(5, 6), (1, 9), (12, 17)])
def test_scores_of_the_key_alone_are_no_query_dependence(size):
    view = beacon_view(*size, (size[0] // 2, 1))
    assert query_dependence(view, 1) < 1e-5
    assert query_dependence(view, 2) < 0.1


@pytest.mark.parametrize("recurrence", [1, 2, 3])
def test_pixels_that_look_at_themselves_look_at_different_places(recurrence):
    height, width = 4, 5
    code = np.eye(height * width)
    view = planted(
        code.reshape(-1, height, width),
        6 * code,
        6 * code,
        0 * code,
        recurrence=recurrence,
        painted=halves(height, width),
    )
    assert query_dependence(view) > 0.99
    for x, y in ((1, 1), (18, 1)):
        own = same_class(view, x, y)
        assert own.share > 0.99
        assert own.chance < 0.7


def test_the_demo_looks_by_pixel_and_away_from_the_disc_it_names():
    demo = Explorer.open("demo")
    view = demo.look(make_scene(10_000_018).image)
    assert (
        same_class(view, 72, 65).share < 0.01 < same_class(view, 72, 65).chance
    )  # it looks at the beacon, which is no disc
    assert 0.2 < query_dependence(view) < 0.8
    zero = same_class(view, 72, 65, 0)
    shown = view.attention(72, 65, 3)
    assert same_class(view, 72, 65, 3, shown) == same_class(view, 72, 65, 3)
    view.attention = None  # a map that is given is not computed again
    assert same_class(view, 72, 65, 3, shown).share < 1
    assert zero.share == zero.chance == 1
    for asked, words in (
        ((0,), "recurrence is 0; expected 1 or more"),
        ((2, 0), "grid is 0; expected 1 or more"),
    ):
        with pytest.raises(ValueError, match=words):
            query_dependence(view, *asked)
    with pytest.raises(ImageError, match="outside"):
        same_class(view, 96, 0)
