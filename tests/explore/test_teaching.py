"""explore/teaching.py: dense against criss-cross, reach, published costs; a view's figures."""

import pytest
import torch
from matplotlib.text import Text

import ccnet_lab
from ccnet_lab.data.generated.beacons import make_scene
from ccnet_lab.explore import teaching
from ccnet_lab.explore.maps import Step, attention_map
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


def test_a_view_s_figure_refuses_a_pixel_outside(view):
    with pytest.raises(ccnet_lab.ImageError, match="outside"):
        view.figure(96, 0)
