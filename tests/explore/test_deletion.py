"""explore/deletion.py: planted networks in which one cell decides, random maps, the demo."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from planted import beacon_view

from ccnet_lab import Explorer, ImageError, build_model, get_config
from ccnet_lab.data.generated.beacons import BEACON, make_scene, out_of_reach
from ccnet_lab.data.transforms import fit, normalise
from ccnet_lab.explore.deletion import deletion_test, support, what_ifs


@pytest.fixture(scope="module")
def demo():
    return Explorer.open("demo")


@pytest.fixture(scope="module")
def network():
    """A network with 3x3 convolutions around its attention, random weights that do not cancel."""
    torch.manual_seed(3)
    config = replace(
        get_config("demo"), channels=8, query_channels=4, head_kernel=3, alias="random"
    )
    return Explorer(build_model(config), config)


def shuffled(weights, where, seed=0):
    """The map with its weights permuted among the cells `where`: a map that knows nothing."""
    out = weights.copy()
    out[where] = np.random.default_rng(seed).permutation(weights[where])
    return out


@torch.inference_mode()
def plainly(view, x, y, removed, recurrence):
    """`what_ifs` as its docstring says it, of the whole picture and nothing saved."""
    model, features = view.explorer.model, view.state(0)
    own = model.attention.value(features)
    for _ in range(recurrence):
        query, key, value = model.attention.project(features)
        features = model.attention.residual(features, query, key, value - removed * own)
    inputs = normalise(fit(view.image, *view.explorer.resize()))[None]
    logits = model.decode(model.begin(model.backbone(inputs).stage4)[1], features)
    logits = F.interpolate(logits, size=view.size, mode="bilinear", align_corners=False)
    return torch.softmax(logits[0, :, y, x], dim=0)


@pytest.mark.parametrize("recurrence", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(40, 56), (1, 60), (37, 2), (96, 31)])
def test_a_what_if_is_a_whole_forward_pass_without_the_cells_own_values(
    network, demo, picture, size, recurrence
):
    for explorer in (network, demo):
        view = explorer.look(picture(*size))
        removed = (
            torch.rand(3, *view.grid, generator=torch.Generator().manual_seed(1))
            < torch.tensor([0.05, 0.4, 0.9])[:, None, None]
        )
        height, width = size
        for x, y in {(0, 0), (width - 1, height - 1), (width // 2, height // 3)}:
            found = torch.cat(list(what_ifs(view, x, y, removed, recurrence)))
            for one, cells in zip(found, removed, strict=True):
                torch.testing.assert_close(
                    one, plainly(view, x, y, cells, recurrence), rtol=1e-4, atol=1e-5
                )
                torch.testing.assert_close(
                    one,
                    next(what_ifs(view, x, y, cells[None], recurrence))[0],
                    rtol=1e-4,
                    atol=1e-5,
                )


@pytest.mark.parametrize(
    ("size", "recurrence"),
    [((40, 56), 2), ((40, 56), 3), ((1, 60), 1), ((1, 60), 2), ((1, 1), 2), ((60, 1), 1)],
)
def test_with_nothing_removed_the_score_is_the_view_s_and_with_everything_that_of_no_attention(
    network, picture, size, recurrence
):
    view = network.look(picture(*size))
    x, y = size[1] // 2, size[0] // 3
    found = deletion_test(view, x, y, recurrence)
    assert found.label == view.probabilities(x, y, recurrence).argmax()
    assert found.score == pytest.approx(view.probabilities(x, y, recurrence)[found.label], abs=1e-6)
    assert found.attended[-1] == pytest.approx(view.probabilities(x, y, 0)[found.label], abs=1e-6)
    assert (found.controls[:, [0, -1]] == found.attended[[0, -1]]).all()


def test_the_steps_grow_by_equal_ratios_and_progress_reaches_the_end(demo):
    calls = []
    found = deletion_test(
        demo.look(make_scene(5).image),
        50,
        20,
        2,
        steps=5,
        draws=3,
        progress=lambda *call: calls.append(call),
    )
    assert found.counts.tolist() == [0, 1, 5, 24, 118, 576]
    assert found.attended.shape == (6,)
    assert found.controls.shape == (3, 6)
    assert calls[-1] == (2 + 4 * 4, 2 + 4 * 4)
    assert sorted(map(tuple, found.cells)) == [(i, j) for i in range(24) for j in range(24)]


def test_one_deciding_cell_is_found_every_time():
    rng = np.random.default_rng(0)
    areas = []
    for trial in range(40):
        height, width, recurrence = (
            int(rng.integers(1, 12)),
            int(rng.integers(2, 12)),
            int(rng.integers(1, 4)),
        )
        i, j = int(rng.integers(height)), int(rng.integers(width))
        view = beacon_view(height, width, (i, j), recurrence, seed=trial)
        row, column = (
            (i, int(rng.integers(width)))
            if recurrence == 1
            else (int(rng.integers(height)), int(rng.integers(width)))
        )
        found = deletion_test(view, 4 * column + 1, 4 * row + 2, seed=trial)
        assert found.label == 1
        assert tuple(found.cells[0]) == (i, j)
        assert found.score > 0.99
        assert found.attended[1] < 0.05
        assert found.area >= 0
        areas.append(found.area)
    assert np.median(areas) > 0.5


def test_a_shuffled_map_does_no_better_than_chance():
    view = beacon_view(7, 6, (4, 1))
    weights, where = view.attention(20, 3), support(view, 20, 3, 2)
    areas = [
        deletion_test(view, 20, 3, seed=seed, weights=shuffled(weights, where, seed)).area
        for seed in range(150)
    ]
    assert abs(np.mean(areas)) < 3 * np.std(areas) / np.sqrt(len(areas))
    true = deletion_test(view, 20, 3)
    assert true.area > np.quantile(areas, 0.95)
    assert true.noise == pytest.approx(
        np.std(areas), rel=0.6
    )  # what a map that knows nothing scatters by


def test_shuffling_keeps_the_weights_and_the_support():
    view = beacon_view(5, 7, (4, 1))
    weights, cross = view.attention(13, 9, 1), support(view, 13, 9, 1)
    assert cross.sum() == 5 + 7 - 1
    assert support(view, 13, 9, 2).all()
    dealt = shuffled(weights, cross, 1)
    assert not np.array_equal(dealt, weights)
    assert sorted(dealt[cross]) == sorted(weights[cross])
    assert not dealt[~cross].any()


def test_the_demo_s_map_is_true_off_the_cross(demo):
    """Off the beacon's cross, R = 2: the first cell removed sees the beacon, and the score falls.

    Not so where the demo needs no beacon: it predicts blue for a disc it knows nothing of. There
    the map spreads, and the test says so.
    """
    areas, by_default = [], []
    for seed in range(10_000_000, 10_000_010):
        scene, view = make_scene(seed), demo.look(make_scene(seed).image)
        y, x = map(
            int,
            np.argwhere(out_of_reach(scene) & (scene.labels > 0) & (view.labels == scene.labels))[
                40
            ],
        )
        found = deletion_test(view, x, y)
        assert found.label == scene.labels[y, x]
        if view.probabilities(x, y, 0).argmax() == found.label:  # right without any attention
            by_default.append(found.area)
            continue
        for cell, start in zip(found.cells[0], scene.beacon, strict=True):
            assert (
                start <= 4 * cell + 3
            )  # its receptive field of 7 pixels ends behind where the beacon starts
            assert 4 * cell - 3 < start + BEACON
        areas.append(found.area)
    assert len(areas) == 8
    assert min(areas) > 0.5
    assert np.median([*areas, *by_default]) > 0.7
    assert max(by_default) < 0.1


def test_what_cannot_be_asked(demo):
    view = demo.look(make_scene(5).image)
    with pytest.raises(ImageError, match="0 <= x < 96"):
        deletion_test(view, 96, 0)
    with pytest.raises(ValueError, match="recurrence is 0; expected 1 or more"):
        deletion_test(view, 5, 5, 0)
    for options, words in (
        ({"steps": 0}, "steps is 0; expected 1 or more"),
        ({"draws": 1}, "draws is 1; expected 2 or more"),
    ):
        with pytest.raises(ValueError, match=words):
            deletion_test(view, 5, 5, **options)
    for bad in (np.nan, np.inf, -0.1):
        weights = np.ones(view.grid, np.float32)
        weights[2, 3] = bad
        with pytest.raises(
            ValueError, match="1 of the map's 576 weights are negative or not finite"
        ):
            deletion_test(view, 5, 5, weights=weights)
    at_once = deletion_test(view, 5, 5, steps=1)
    assert at_once.counts.tolist() == [0, 576]
    assert np.array_equal(at_once.controls[:, 1], at_once.attended[[1, 1, 1, 1]])
    with pytest.raises(ImageError, match=r"\(3, 4\) cells and the view \(24, 24\)"):
        deletion_test(view, 5, 5, weights=np.ones((3, 4), np.float32))
