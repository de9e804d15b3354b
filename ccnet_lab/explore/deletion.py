"""The deletion test: remove cells and watch the pixel's class score; draw/figures.py draws it.

An attention map claims that the pixel's prediction depends on the cells with large weights. If so,
the score falls sooner when the most attended cells go first than when random cells do. The map is
that of the whole network's forward pass; every what-if is a forward pass of its own, from the
features before the attention to the score.

Removing a cell q takes its own part out of the attention's sums: V x_0[q] + b, the value projection
of its features before the first step, bias included. At step l its value is V x_(l-1)[q] + b, of
which this is a part; the rest, what q gathered in steps 1 .. l-1, stays, so q still passes it on.
The part is subtracted at each of the R steps for every pixel that looks at q: nothing of q's own
reaches anyone by attention, over one hop or several. Queries and keys are computed anew from the
changed features. Not removed: weights (no softmax is renormalised, a removed cell counts as a value
of 0), x_0 as each cell's residual, and the backbone's features that the classifier sees beside
them. With all cells removed, if R >= 2, the score is that of R = 0.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ccnet_lab.errors import ImageError
from ccnet_lab.explore import maps
from ccnet_lab.explore.explorer import Floats, View
from ccnet_lab.explore.maps import block_weights
from ccnet_lab.model.attention import CrissCrossAttention
from ccnet_lab.model.upsample import check_finite

AT_ONCE = 8  # what-ifs scored together


class State(NamedTuple):
    """Features (n, m, C) of some cells, their queries and keys (n, m, d), and the values left."""

    features: Tensor
    query: Tensor
    key: Tensor
    value: Tensor


@dataclass(frozen=True)
class Deletion:
    """One class's score as cells are removed. S steps, D random orders, N cells in reach."""

    recurrence: int  # R of the forward pass and of the map
    label: int  # the predicted class; its softmax probability at the pixel is the score
    cells: NDArray[np.int64]  # (N, 2) i, j of the cells in reach, the most attended first
    counts: NDArray[np.int64]  # (S,) cells removed: 0, then from 1 to N in equal ratios
    attended: Floats  # (S,) the score with the `counts` most attended cells removed
    controls: Floats  # (D, S) the score with as many cells of each random order removed

    @property
    def score(self) -> float:
        """The class's probability with nothing removed."""
        return float(self.attended[0])

    @property
    def random(self) -> Floats:
        """(S,) the mean of the random orders."""
        return np.asarray(self.controls.mean(0))

    @property
    def area(self) -> float:
        """How much sooner the score falls than by chance, as a share of the score.

        The mean over log k of (random - attended) / score. At 0 the map is no better than chance;
        at most 1; below 0, cells the map passes over matter more than those it points at.
        """
        return self._area(self.random - self.attended)

    @property
    def noise(self) -> float:
        """The root mean square area of a random order; an `area` within twice this is chance."""
        others = (self.controls.sum(0) - self.controls) / (len(self.controls) - 1)  # (D, S)
        pairs = zip(others, self.controls, strict=True)
        return float(np.sqrt(np.mean([self._area(other - own) ** 2 for other, own in pairs])))

    def _area(self, gap: Floats) -> float:
        width = np.diff(np.log(self.counts[1:]))
        mean = ((gap[1:-1] + gap[2:]) / 2 * width).sum() / max(width.sum(), 1e-9)
        return float(mean / self.score)


@torch.inference_mode()
def deletion_test(
    view: View,
    x: int,
    y: int,
    recurrence: int | None = None,
    steps: int = 20,
    draws: int = 4,
    seed: int = 0,
    weights: Floats | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Deletion:
    """Remove the cells a pixel attends to, most attended or random first, and record its score.

    What removing a cell means stands at the top of this file. In reach are the pixel's row and
    column for R = 1, all cells for R >= 2. Cells of equal weight are removed in random order.

    Args:
        view: an image as a model sees it.
        x, y: the pixel, image coordinates.
        recurrence: R, 1 or more; None for the one the model was trained with.
        steps: number of counts beside 0, 1 or more; fewer where there are fewer cells.
        draws: random orders, 2 or more. seed: of them.
        weights: a map (h, w) to test in place of the view's own, finite and nowhere negative.
        progress: called with (what-ifs done, what-ifs in all).

    Raises:
        ImageError: the pixel lies outside the image, or the map is not of the view's grid.
        WeightsError: the network gives NaN or infinity once cells are removed.
        ValueError: `recurrence`, `steps`, `draws` or `weights` are not as above.
    """
    recurrence = view.recurrence if recurrence is None else recurrence
    _check(recurrence, steps, draws)
    weights = view.attention(x, y, recurrence) if weights is None else _checked(weights, view.grid)
    cells = np.flatnonzero(support(view, x, y, recurrence))
    orders, ranks = _orders(weights, cells, draws, seed)
    counts = np.unique(np.geomspace(cells.size, 1, steps).round().astype(np.int64))

    # (2, h * w): nothing and everything removed, the same in any order
    ends = ranks[:1] < np.array([[0], [cells.size]])
    between = (ranks[:, None] < counts[:-1, None]).reshape(-1, weights.size)
    removed = torch.as_tensor(np.concatenate([ends, between]).reshape(-1, *view.grid))
    label = int(view.probabilities(x, y, recurrence).argmax())
    scores = np.zeros(0, np.float32)
    for found in what_ifs(view, x, y, removed, recurrence):
        check_finite([found], view.explorer.model, "probabilities with cells removed")
        scores = np.append(scores, found[:, label].cpu().numpy())
        if progress is not None:
            progress(len(scores), len(removed))
    nothing, everything = (np.full((draws + 1, 1), score, np.float32) for score in scores[:2])
    curves = np.hstack([nothing, scores[2:].reshape(draws + 1, -1), everything])  # (1 + D, S)
    cells = np.stack(np.unravel_index(orders[0], view.grid), axis=1)
    return Deletion(recurrence, label, cells, np.concatenate([[0], counts]), curves[0], curves[1:])


def _check(recurrence: int, steps: int, draws: int) -> None:
    if recurrence < 1:
        why = "as without attention no cell can be removed"
        raise ValueError(f"recurrence is {recurrence}; expected 1 or more, {why}")
    for name, value, least in (("steps", steps, 1), ("draws", draws, 2)):
        if value < least:
            raise ValueError(f"{name} is {value}; expected {least} or more")


def _checked(weights: Floats, grid: tuple[int, int]) -> Floats:
    if weights.shape != grid:
        expected = "expected a map as View.attention gives"
        raise ImageError(f"the map has {weights.shape} cells and the view {grid}; {expected}")
    if wrong := np.count_nonzero(~(np.isfinite(weights) & (weights >= 0))):
        raise ValueError(
            f"{wrong} of the map's {weights.size} weights are negative or not finite; "
            "expected 0 or more in every cell"
        )
    return weights


def _orders(
    weights: Floats, cells: NDArray[np.intp], draws: int, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(1 + D, N) the cells most attended first, then in random orders; (1 + D, h * w) their ranks.

    A cell out of reach has rank N: it is never removed.
    """
    rng = np.random.default_rng(seed)
    orders = np.stack([rng.permutation(cells) for _ in range(draws + 1)])
    orders[0] = orders[0][np.argsort(-weights.ravel()[orders[0]], kind="stable")]
    ranks = np.full((draws + 1, weights.size), cells.size)
    np.put_along_axis(ranks, orders, np.arange(cells.size)[None], axis=1)
    return orders, ranks


@torch.inference_mode()
def what_ifs(view: View, x: int, y: int, removed: Tensor, recurrence: int) -> Iterator[Tensor]:
    """Yield class probabilities (n, K) of pixel (x, y) with cells `removed` (B, h, w), in chunks.

    Only what they depend on is computed: the last step for the cells near the pixel, the one before
    for those cells' rows and columns. The first step's weights, of features from which nothing was
    removed yet, are the same in every what-if.
    """
    attention = view.explorer.network.attention
    every = slice(0, view.grid[0]), slice(0, view.grid[1])
    ys, xs = view.near(x, y)
    blocks = {1: [(ys, xs)], 2: [(ys, every[1]), (every[0], xs)]}.get(recurrence, [every])
    start, first = (view.state(r)[0].permute(1, 2, 0).contiguous() for r in (0, 1))  # (h, w, C)
    query, key, value = _project(attention, start)
    weights = [
        block_weights(query[block], key[block[0]], key[:, block[1]], block[0].start)
        for block in blocks
    ]

    def step(rows: State, columns: State, ys: slice, xs: slice) -> Tensor:
        """(n, m, C) of the cells in rows `ys`, columns `xs`, from whole rows and whole columns."""
        found = block_weights(rows.query[:, xs], rows.key, columns.key, ys.start)
        gathered = _gather(found, rows.value, columns.value)
        return torch.add(rows.features[:, xs], attention.gamma * gathered)

    def near(cells: Tensor) -> Tensor:
        """The features (n, m, C) near the pixel with some cells removed."""
        lost = cells[..., None] * value  # (h, w, C)

        def state(features: Tensor, ys: slice, xs: slice) -> State:
            query, key, value = _project(attention, features)
            return State(features, query, key, value - lost[ys, xs])

        taken = [
            _gather(found, lost[ys], lost[:, xs])
            for found, (ys, xs) in zip(weights, blocks, strict=True)
        ]
        states: list[Tensor] = [
            first[block] - attention.gamma * part for block, part in zip(blocks, taken, strict=True)
        ]
        if recurrence == 1:
            return states[0]
        if recurrence > 2:
            whole = state(states[0], *every)
            for _ in range(recurrence - 3):
                whole = state(step(whole, whole, *every), *every)
            rows = State(*(part[ys] for part in whole))
            columns = State(*(part[:, xs] for part in whole))
            states = [step(rows, whole, ys, every[1]), step(whole, columns, every[0], xs)]
        return step(state(states[0], ys, every[1]), state(states[1], every[0], xs), ys, xs)

    for part in removed.to(start.device).split(AT_ONCE):
        features = torch.stack([near(cells) for cells in part])  # (B, n, m, C)
        yield view.score_near(features.permute(0, 3, 1, 2), x, y)


def _project(attention: CrissCrossAttention, features: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys and values (n, m, .) of features (n, m, C)."""
    layers = attention.query, attention.key, attention.value
    return tuple(F.linear(features, layer.weight[:, :, 0, 0], layer.bias) for layer in layers)


def _gather(weights: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(n, m, C): what a block takes from its rows' values (n, w, C) and its columns' (h, m, C)."""
    height = len(columns)
    down = weights[..., :height].transpose(0, 1)  # (m, n, h)
    down = torch.bmm(down, columns.transpose(0, 1)).transpose(0, 1)
    return torch.bmm(weights[..., height:], rows) + down


def support(view: View, x: int, y: int, recurrence: int) -> NDArray[np.bool_]:
    """(h, w): the cells that pixel (x, y) can reach in R steps."""
    return np.asarray(maps.uniform_map(view.grid, *view.cell(x, y), recurrence) > 0)
