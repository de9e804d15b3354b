"""explore/teaching.py: dense against criss-cross, reach, published costs; a view's figures."""

import numpy as np
import pytest
import torch
from matplotlib.text import Text

import ccnet_lab
from ccnet_lab.data.generated.beacons import make_scene
from ccnet_lab.explore import teaching
from ccnet_lab.explore.maps import Step, attention_map
from ccnet_lab.explore.measures import beacon_cells
from ccnet_lab.explore.subject import cell_classes, subject_of
from ccnet_lab.model.attention import criss_cross_weights

H, W = 5, 7


def toys(channels=(3, 3, 8)):
    return (teaching.toy_features(c, H, W, seed) for seed, c in enumerate(channels))


def test_toy_features_follow_the_seed():
    assert torch.equal(teaching.toy_features(3, H, W, 4), teaching.toy_features(3, H, W, 4))
    assert not torch.equal(teaching.toy_features(3, H, W, 4), teaching.toy_features(3, H, W, 5))
    assert teaching.toy_features(3, H, W).dtype == torch.float64


def test_dense_masked_attention_is_criss_cross_attention():
    query, key, value = toys()
    dense = teaching.dense_attention(query, key)  # (1, HW, HW)
    out = (dense @ value.flatten(2).mT).mT.view_as(value)
    assert (out - ccnet_lab.criss_cross_attention(query, key, value)).abs().max() < 1e-12
    assert (
        dense - teaching.dense_from_weights(criss_cross_weights(query, key))
    ).abs().max() < 1e-12
    assert ((dense > 0) == (teaching.cross_matrix(H, W) > 0)).all()


def test_dense_attention_takes_a_batch():
    query, key = (
        torch.cat([teaching.toy_features(3, H, W, seed) for seed in seeds])
        for seeds in ((0, 1), (2, 3))
    )
    found = teaching.dense_from_weights(criss_cross_weights(query, key))
    assert found.shape == (2, H * W, H * W)
    assert torch.allclose(found, teaching.dense_attention(query, key), atol=1e-12, rtol=0)


def test_without_the_mask_a_pixel_counts_twice():
    query, key, _ = toys()
    twice = teaching.cross_matrix(H, W) + torch.eye(H * W).long()
    masked, unmasked = (
        teaching.dense_attention(0 * query, key, counts)[0] for counts in (None, twice)
    )
    assert torch.allclose(masked.diagonal(), torch.tensor(1 / 11, dtype=torch.float64))
    assert torch.allclose(unmasked.diagonal(), torch.tensor(2 / 12, dtype=torch.float64))
    scores = torch.cat(
        [
            torch.einsum("dy,d->y", key[0, :, :, 2], query[0, :, 1, 2]),
            torch.einsum("dx,d->x", key[0, :, 1], query[0, :, 1, 2]),
        ]
    )
    entries = torch.softmax(scores, 0)  # (H + W,), nothing masked
    found = teaching.dense_attention(query, key, twice)[0].view(H, W, H, W)[1, 2]
    assert torch.isclose(found[1, 2], entries[1] + entries[H + 2])
    assert torch.isclose(found[4, 2], entries[4])


@pytest.mark.parametrize(("i", "j"), [(0, 0), (1, 2), (4, 6)])
def test_reach(i, j):
    reached = [int((teaching.walks(H, W, i, j, hops) > 0).sum()) for hops in (0, 1, 2, 3)]
    assert reached == [1, H + W - 1, H * W, H * W]
    two = teaching.walks(H, W, i, j, 2)
    assert two[i, j] == H + W - 1  # to any pixel of the cross and back
    assert two[i, (j + 1) % W] == W
    assert two[(i + 1) % H, j] == H
    assert two[(i + 1) % H, (j + 1) % W] == 2  # round either corner
    assert two.sum() == (H + W - 1) ** 2


def test_a_pixel_outside_is_refused():
    with pytest.raises(IndexError, match="5 x 7"):
        teaching.walks(H, W, 5, 0, 1)


def test_dense_product_gives_the_library_s_maps():
    torch.manual_seed(0)
    step = ccnet_lab.CrissCrossAttention(8, 4, gamma=1.0).double()
    x = teaching.toy_features(8, H, W)
    first, second = teaching.dense_steps(step, x)
    with torch.no_grad():
        steps = [
            Step(*(t[0].permute(1, 2, 0) for t in step.project(state)[:2]))
            for state in (x, step(x))
        ]
    assert torch.allclose(
        (second @ first).view(H, W, H, W)[1, 2], attention_map(steps, 1, 2), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize(("recurrence", "gflop"), [(1, 8.29), (2, 16.58), (3, 24.88)])
def test_published_flops(recurrence, gflop):
    assert round(teaching.criss_cross_flops(97, 97, recurrence=recurrence) / 1e9, 2) == gflop


def test_published_costs_of_non_local_attention():
    assert round(teaching.non_local_flops(97, 97) / 1e9, 2) == 108.16
    assert round(teaching.non_local_bytes(97, 97) / 2**20, 1) == 337.7
    assert round(teaching.criss_cross_bytes(97, 97) / 2**20, 2) == 6.96


def test_bytes_are_those_of_the_tensors():
    query, key, _ = toys()
    weights = criss_cross_weights(query, key)
    assert teaching.criss_cross_bytes(H, W, itemsize=8) == weights.nbytes
    assert teaching.non_local_bytes(H, W, itemsize=8) == teaching.dense_from_weights(weights).nbytes


def test_two_criss_cross_steps_are_dearer_below_a_side_of_26():
    for side in (25, 26, 27):
        difference = teaching.criss_cross_flops(
            side, side, recurrence=2
        ) - teaching.non_local_flops(side, side)
        assert (difference > 0) - (difference < 0) == (side < 26) - (side > 26)


@pytest.fixture(scope="module")
def view():
    return ccnet_lab.Explorer.open("demo").look(make_scene(10_000_009).image)


@pytest.mark.parametrize("recurrence", [1, 2, 3, (1, 2, 3)])
@pytest.mark.parametrize(("x", "y"), [(0, 0), (95, 0), (0, 95), (95, 95), (32, 23)])
def test_a_view_s_figure_wherever_a_slider_goes(view, x, y, recurrence):
    figure = view.figure(x, y, recurrence, clip=0.5)
    asked = (recurrence,) if isinstance(recurrence, int) else recurrence
    titles = [text.get_text() for text in figure.findobj(Text)]
    assert [title for title in titles if title.startswith("R = ")] == [f"R = {r}" for r in asked]


@pytest.mark.parametrize("kind", ["attention", "listeners"])
def test_the_mean_maps_of_regions_and_classes(view, kind):
    """The mean of the cells' own maps, whichever corner comes first; the figure says of what."""
    find = view.attention if kind == "attention" else view.listeners
    label = int(view.cell_labels()[20, 20])
    name = view.explorer.class_names[label]
    for arguments, cells, words in (
        ({"region": (17, 41, 9, 30)}, (slice(7, 11), slice(2, 5)), "a region of 3 × 4 cells"),
        (
            {"label": label},
            cell_classes(view) == label,
            f"cells of {name}",
        ),
        ({"label": 5}, beacon_cells(view), "cells of the beacon"),
    ):
        mask = np.zeros(view.grid, bool)
        mask[cells] = True
        subject = subject_of(view, 0, 0, **arguments)
        assert np.array_equal(subject.cells, mask)
        for r, found in zip((1, 2, 3), subject.maps(view, (1, 2, 3), kind), strict=True):
            each = [find(4 * j + 1, 4 * i + 1, r) for i, j in np.argwhere(mask)]
            assert found == pytest.approx(np.mean(each, axis=0), abs=1e-6)
        texts = [t.get_text() for t in view.figure(3, 4, kind=kind, **arguments).findobj(Text)]
        assert any(words in text for text in texts)
        assert sum(text == f"mean of {mask.sum()} cells" for text in texts) == 3
        assert any("listens" in text for text in texts) == (kind == "listeners")


def test_a_figure_of_no_cells_is_refused(view):
    absent = next(k for k in range(5) if not (cell_classes(view) == k).any())
    for arguments, message in (
        ({"label": absent}, "nowhere the largest in a cell"),
        ({"label": 6}, "label is 6; expected a class's id, 0 to 5"),
        ({"region": (0, 0, 96, 3)}, "outside the image"),
        ({"region": (0, 0, 9)}, "expected left, top, right and bottom"),
        ({"label": "car"}, "label is 'car'; expected a class's id, 0 to 5"),
        ({"label": 1.5}, "label is 1.5"),
    ):
        with pytest.raises(ccnet_lab.ImageError, match=message):
            view.figure(3, 4, **arguments)


def test_only_scenes_with_a_beacon_have_its_cells():
    street = ccnet_lab.Explorer.open("street").look(make_scene(10_000_009).image)
    with pytest.raises(ccnet_lab.ImageError, match="label is 11; expected a class's id, 0 to 10"):
        street.figure(3, 4, label=11)


@pytest.mark.parametrize("recurrence", [0, -1, (), (1, 0), 1.5, "2"])
def test_a_figure_of_an_impossible_recurrence_is_refused(view, recurrence):
    view.steps(3)  # the first R - 1 of those were taken for R = -1
    with pytest.raises(ValueError, match="expected a whole number from 1 on"):
        view.figure(3, 4, recurrence)
    with pytest.raises(ValueError, match="recurrence is -1; expected 0 or more"):
        view.attention(3, 4, -1)
    assert view.figure(3, 4, np.int64(2)) is not None


def test_a_view_s_figure_refuses_a_pixel_outside(view):
    with pytest.raises(ccnet_lab.ImageError, match="outside"):
        view.figure(96, 0)
