"""explore/maps.py: maps of pixels against products of dense matrices, and the exact split."""

import pytest
import torch

from ccnet_lab.explore import maps
from ccnet_lab.explore.maps import Step
from ccnet_lab.model.attention import CrissCrossAttention, criss_cross_weights

SIZES = [(5, 7), (7, 4), (1, 6), (6, 1), (1, 1), (3, 3)]


def steps_of(height, width, count, d=3):
    g = torch.Generator().manual_seed(height + 10 * width)
    make = lambda: torch.randn(height, width, d, generator=g, dtype=torch.float64)  # noqa: E731
    return [Step(make(), make()) for _ in range(count)]


def dense(step):
    """(hw, hw) attention matrix of a step, entry by entry."""
    weights = maps.dense_weights(step)
    h, w = weights.shape[:2]
    matrix = torch.zeros(h, w, h, w, dtype=weights.dtype)
    for i in range(h):
        for j in range(w):
            matrix[i, j, :, j] += weights[i, j, :h]
            matrix[i, j, i, :] += weights[i, j, h:]
    return matrix.view(h * w, h * w)


@pytest.mark.parametrize("recurrence", [1, 2, 3, 4])
@pytest.mark.parametrize("size", SIZES)
def test_rows_and_columns_of_the_dense_product(size, recurrence):
    h, w = size
    steps = steps_of(h, w, recurrence)
    product = torch.eye(h * w, dtype=torch.float64)
    for step in steps:
        product = dense(step) @ product  # A_R ... A_1
    for i in range(h):
        for j in range(w):
            row, column = product[i * w + j].view(h, w), product[:, i * w + j].view(h, w)
            torch.testing.assert_close(maps.attention_map(steps, i, j), row, rtol=1e-12, atol=1e-14)
            torch.testing.assert_close(
                maps.listeners_map(steps, i, j), column, rtol=1e-12, atol=1e-14
            )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("recurrence", [1, 2, 3])
def test_split_rebuilds_the_output(dtype, tolerance, recurrence):
    torch.manual_seed(recurrence)
    module = CrissCrossAttention(16, 4, gamma=0.8).to(dtype)
    x = torch.randn(1, 16, 6, 9, dtype=dtype)
    states, steps = [x], []
    with torch.no_grad():
        for _ in range(recurrence):
            query, key, _ = module.project(states[-1])
            steps.append(Step(query[0].permute(1, 2, 0), key[0].permute(1, 2, 0)))
            states.append(module(states[-1]))
        for i, j in ((0, 0), (2, 5), (5, 8)):
            split = maps.split_output(
                steps, x[0], module.gamma, module.value.weight[:, :, 0, 0], module.value.bias, i, j
            )
            expected = states[-1][0, :, i, j]
            assert (split.parts.sum(0) - expected).abs().max() <= tolerance * expected.abs().max()
            assert torch.equal(split.parts[0], x[0, :, i, j])
            counts = {1: [1, 1], 2: [1, 2, 1], 3: [1, 3, 3, 1]}[recurrence]
            torch.testing.assert_close(split.maps.sum((1, 2)), torch.tensor(counts, dtype=dtype))


def test_one_hop_stays_on_the_cross_and_two_reach_everything():
    steps = steps_of(5, 7, 2)
    one, two = maps.attention_map(steps[1:], 2, 3), maps.attention_map(steps, 2, 3)
    assert (one > 0).sum() == 5 + 7 - 1
    assert maps.on_cross_share(one, 2, 3) == pytest.approx(1)
    assert (two > 0).all()
    assert maps.on_cross_share(two, 2, 3) == pytest.approx(
        float(two[2].sum() + two[:, 3].sum() - two[2, 3])
    )


def test_class_shares_by_hand():
    weights = torch.tensor([[0.5, 0.25], [0.125, 0.125]])
    mass, cells = maps.class_shares(weights, torch.tensor([[0, 2], [2, 2]]), 3)
    assert mass.tolist() == [0.5, 0, 0.5]
    assert cells.tolist() == [0.25, 0, 0.75]


@pytest.mark.parametrize("recurrence", [0, 1, 2, 3, 4, 7])
@pytest.mark.parametrize("size", SIZES)
def test_the_map_of_constant_features_is_the_dense_product(size, recurrence):
    h, w = size
    flat = torch.zeros(h, w, 1, dtype=torch.float64)
    product = torch.linalg.matrix_power(dense(Step(flat, flat)), recurrence).view(h, w, h, w)
    reached = product > 0
    for i in range(h):
        for j in range(w):
            found = torch.from_numpy(maps.uniform_map(size, i, j, recurrence))
            torch.testing.assert_close(found, product[i, j], rtol=1e-13, atol=1e-16)
            assert torch.equal(found > 0, reached[i, j])


def test_the_map_of_constant_features_after_many_steps():
    found = maps.uniform_map((97, 129), 3, 5, 400)  # 225 ** 400 is beyond a float
    assert found.sum() == pytest.approx(1)
    assert found.std() < 1e-12


def test_a_cell_outside():
    with pytest.raises(IndexError, match="5 x 7"):
        maps.attention_map(steps_of(5, 7, 1), 5, 0)


def test_dense_weights_are_the_op_s():
    (step,) = steps_of(4, 6, 1)
    query, key = (t.permute(2, 0, 1)[None] for t in step)
    torch.testing.assert_close(maps.dense_weights(step), criss_cross_weights(query, key)[0])
