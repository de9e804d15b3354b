"""Explorer holds one model, View what it sees in one image; both answer in arrays.

Maps are composed in maps.py, models found in hub.py, figures drawn in draw/figures.py.
"""

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ccnet_lab import draw
from ccnet_lab.configs import Config, get_config
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.images import MAX_PIXELS, read_image
from ccnet_lab.data.transforms import fit, fitted_size, normalise
from ccnet_lab.device import choose_device, inference_precision
from ccnet_lab.draw.pictures import clip_level
from ccnet_lab.errors import ImageError
from ccnet_lab.explore import maps
from ccnet_lab.explore.maps import Step
from ccnet_lab.hub import load
from ccnet_lab.model.ccnet import CCNet
from ccnet_lab.model.folding import Folded, ready
from ccnet_lab.model.upsample import check_finite, resized_rows, upsampled_labels

if TYPE_CHECKING:  # matplotlib takes a third of a second
    from matplotlib.figure import Figure

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Pixel:
    """One pixel's prediction and what it looks at. K classes, one map per recurrence asked for.

    Attributes:
        x, y: the pixel, image coordinates.
        cell: (i, j) of its feature cell. box: (left, top, right, bottom) of that in image pixels.
        probabilities: (K,) softmax at the pixel, at the recurrence the model was trained with.
        recurrences: the R of each map.
        maps: (h, w) each, summing to 1.
        on_cross: the share of each map's mass on the pixel's row and column of cells.
        class_shares: (K,) share of each map's mass by predicted class.
        cell_shares: (K,) share of all cells by predicted class, as of a map that is even.
    """

    x: int
    y: int
    cell: tuple[int, int]
    box: tuple[float, float, float, float]
    probabilities: Floats
    recurrences: tuple[int, ...]
    maps: tuple[Floats, ...]
    on_cross: tuple[float, ...]
    class_shares: tuple[Floats, ...]
    cell_shares: Floats


class Explorer:
    """A model to look at images with; what it computes comes from a faster copy of it, `network`.

    Args:
        model: put into eval mode and moved to `device`.
        config: what it was built from; says how images are fitted, and the class names.
        device: "cpu", "cuda", ...; raises `DeviceError` where there is no such device here.
        precision: "fp32"; "bf16" computes what comes before the attention in bfloat16, "fast" does
            so where the device has units for it. Labels and maps then differ a little.
    """

    def __init__(
        self,
        model: CCNet,
        config: str | Config,
        device: str | torch.device = "cpu",
        precision: str = "fp32",
    ) -> None:
        self.config = get_config(config)
        self.device = choose_device(device)
        self.precision = inference_precision(precision, self.device)
        self.model = model.eval().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._network: Folded | None = None
        self._lock = threading.Lock()
        dataset = get_dataset(self.config.dataset)
        self.class_names, self.palette = dataset.class_names, dataset.palette

    @classmethod
    def open(
        cls,
        source: str | Path,
        device: str | torch.device = "cpu",
        config: str | Config | None = None,
        precision: str = "fp32",
    ) -> "Explorer":
        """Explorer of a name, a run folder or a file; arguments and errors of `hub.load`."""
        return cls(*load(source, device, config), device, precision)

    @property
    def bf16(self) -> bool:
        """Whether what comes before the attention is computed in bfloat16."""
        return self.precision.endswith("bf16")

    @property
    def network(self) -> Folded:
        """The model as it is at the first look, made fast by `model.folding.ready`."""
        with self._lock:
            if self._network is None:
                with torch.inference_mode(False):
                    self._network = ready(self.model, self.device, self.bf16)
            return self._network

    @torch.inference_mode()
    def look(self, image: Any, short_side: int | None = None) -> "View":
        """Run the network on an image, once.

        Args:
            image: a path, bytes, a Pillow image or an array; see `data.images.read_image`.
            short_side: pixels of the network's input; None fits as the evaluation does.

        Raises:
            WeightsError: the network gives NaN or infinity.
            MissingFileError: there is no such file.
            ImageError: as `read_image`; a short side below 1, or an
                input of more than `MAX_PIXELS` pixels.
        """
        if short_side is not None and short_side < 1:
            raise ImageError(
                f"short side is {short_side} pixels; "
                "expected 1 or more, or None for the evaluation's"
            )
        picture = read_image(image)
        h, w = self.input_size(picture.shape[0], picture.shape[1], short_side)
        if h * w > MAX_PIXELS:
            less = int(self.resize(short_side)[1] * (MAX_PIXELS / (h * w)) ** 0.5) - 1
            raise ImageError(
                f"the input would be {w} x {h} = {w * h:,} pixels, "
                f"the limit is {MAX_PIXELS:,}; try short_side={less}"
            )
        inputs = normalise(fit(picture, *self.resize(short_side)))[None]  # (1, 3, H', W')
        start, context = self.network.begin(self.network.backbone(inputs.to(self.device)).stage4)
        context = context.contiguous(memory_format=torch.channels_last)  # without the other half
        return View(self, picture, tuple(inputs.shape[2:]), context, start)

    def agreement(self, image: Any, short_side: int | None = None) -> float:
        """The share of an image's pixels that get float32's label; arguments as of `look`."""
        exact = Explorer(self.model, self.config, self.device)
        labels = (each.look(image, short_side).labels for each in (self, exact))
        return float(np.equal(*labels).mean())

    def resize(self, short_side: int | None = None) -> tuple[int, int]:
        """(long, short) sides an image is fitted into, scaled to `short_side` where it is given."""
        long, short = self.config.resize
        short_side = short if short_side is None else short_side
        return round(long * short_side / short), short_side

    def input_size(self, height: int, width: int, short_side: int | None = None) -> tuple[int, int]:
        """(H', W') of the network's input for an image of that size."""
        return fitted_size(height, width, *self.resize(short_side))


class View:
    """One image as one model sees it. Answers are computed on demand and kept.

    Attributes:
        image: (H, W, 3) uint8, as the eye sees it.
        size: (H, W). input_size: (H', W') of the network's input. grid: (h, w) of the feature map.
    """

    def __init__(
        self,
        explorer: Explorer,
        image: NDArray[np.uint8],
        input_size: tuple[int, ...],
        context: Tensor,
        start: Tensor,
    ) -> None:
        self.explorer = explorer
        self.image = image
        self.size: tuple[int, int] = (image.shape[0], image.shape[1])
        self.input_size = input_size
        self.grid: tuple[int, int] = (start.shape[2], start.shape[3])
        self._context = context  # of `CCNet.begin`
        self._states = [start]  # x_0, x_1, ...: (1, C, h, w)
        self._steps: list[Step] = []
        self._projected: tuple[Tensor, Tensor, Tensor]  # query, key, value of the last step
        self._labels: dict[int, NDArray[np.uint8]] = {}
        self._logits: dict[int, Tensor] = {}
        self._lock = threading.RLock()  # visitors of one app may share a view of an example
        self.logits(self.recurrence)

    @property
    def recurrence(self) -> int:
        """R the model was trained with."""
        return self.explorer.config.recurrence

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes by now."""
        steps = [part for step in self._steps for part in step]
        tensors = [self._context, *self._states, *self._logits.values(), *steps]
        arrays = [self.image, *self._labels.values()]
        return sum(t.element_size() * t.numel() for t in tensors) + sum(a.nbytes for a in arrays)

    @cached_property
    def labels(self) -> NDArray[np.uint8]:
        """(H, W) class ids at the image's own size."""
        return self.labels_at(self.recurrence)

    @torch.inference_mode()
    def labels_at(self, recurrence: int) -> NDArray[np.uint8]:
        """(H, W) class ids at another R: argmax of the logits upsampled to the image."""
        with self._lock:
            if recurrence not in self._labels:
                labels = upsampled_labels([self.logits(recurrence)[0]], self.size)
                self._labels[recurrence] = labels.cpu().numpy()
            return self._labels[recurrence]

    def cell_labels(self, recurrence: int | None = None) -> NDArray[np.uint8]:
        """(h, w) class ids of the feature cells."""
        return np.asarray(self.logits(recurrence)[0].argmax(0).to(torch.uint8).cpu())

    @torch.inference_mode()
    def logits(self, recurrence: int | None = None) -> Tensor:
        """(1, K, h, w), on the model's device."""
        recurrence = self.recurrence if recurrence is None else recurrence
        with self._lock:
            if recurrence not in self._logits:
                found = self.explorer.network.decode(self._context, self.state(recurrence)).float()
                what = f"logits for this picture at R = {recurrence}"
                check_finite([found], self.explorer.model, what)
                self._logits[recurrence] = found
            return self._logits[recurrence]

    @torch.inference_mode()
    def state(self, recurrence: int) -> Tensor:
        """x_R, (1, C, h, w): the features after R criss-cross steps, on the model's device."""
        if recurrence < 0:
            raise ValueError(f"recurrence is {recurrence}; expected 0 or more")
        with self._lock:
            while len(self._states) <= recurrence:
                self.steps(len(self._states))
                attend = self.explorer.network.attention.residual
                self._states.append(attend(self._states[-1], *self._projected))
            return self._states[recurrence]

    @torch.inference_mode()
    def steps(self, recurrence: int) -> list[Step]:
        """Queries and keys of the first R steps, each (h, w, d)."""
        if recurrence < 0:
            raise ValueError(f"recurrence is {recurrence}; expected 0 or more")
        with self._lock:
            while len(self._steps) < recurrence:
                x = self.state(len(self._steps))
                self._projected = self.explorer.network.attention.project(x)
                query, key, _ = self._projected
                what = f"features for this picture at R = {len(self._steps)}"
                check_finite([x, query, key], self.explorer.model, what)
                parts = (t[0].permute(1, 2, 0).float().contiguous() for t in (query, key))
                self._steps.append(Step(*parts))
            return self._steps[:recurrence]

    def cell(self, x: int, y: int) -> tuple[int, int]:
        """(i, j) of the cell under image pixel (x, y); raises `ImageError` outside the image."""
        (height, width), (h, w) = self.size, self.grid
        if not (0 <= x < width and 0 <= y < height):
            raise ImageError(
                f"pixel ({x}, {y}) lies outside the image; "
                f"expected 0 <= x < {width} and 0 <= y < {height}"
            )
        return min(int((y + 0.5) * h / height), h - 1), min(int((x + 0.5) * w / width), w - 1)

    def box(self, i: int, j: int) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) of a cell in image pixels."""
        (height, width), (h, w) = self.size, self.grid
        return j * width / w, i * height / h, (j + 1) * width / w, (i + 1) * height / h

    @torch.inference_mode()
    def attention(self, x: int, y: int, recurrence: int = 2) -> Floats:
        """What pixel (x, y) looks at: (h, w), sums to 1; its cell's row of A_R ... A_1.

        R = 0 is the cell itself. Raises as `cell`.
        """
        i, j = self.cell(x, y)
        if recurrence == 0:
            weights = np.zeros(self.grid, np.float32)
            weights[i, j] = 1
            return weights
        return _array(maps.attention_map(self.steps(recurrence), i, j))

    @torch.inference_mode()
    def listeners(self, x: int, y: int, recurrence: int = 2) -> Floats:
        """Who looks at pixel (x, y): (h, w), its cell's column of A_R ... A_1."""
        if recurrence == 0:  # nobody but the cell itself
            return self.attention(x, y, 0)
        return _array(maps.listeners_map(self.steps(recurrence), *self.cell(x, y)))

    @torch.inference_mode()
    def attention_weights(self, recurrence: int = 2) -> tuple[Floats, ...]:
        """Each step's attention, (h, w, h + w), column entries first; `out.attention` of CCNet."""
        return tuple(_array(maps.dense_weights(step)) for step in self.steps(recurrence))

    @torch.inference_mode()
    def split(self, x: int, y: int, recurrence: int = 2) -> maps.CrossSplit:
        """The features of pixel (x, y) after R steps as an exact sum over 0, 1, ... R hops."""
        if recurrence < 1:
            raise ValueError(f"recurrence is {recurrence}; expected at least 1 step to take apart")
        attention = self.explorer.network.attention
        weight, bias = attention.value.weight[:, :, 0, 0], attention.value.bias
        assert bias is not None
        steps, start, cell = self.steps(recurrence), self.state(0)[0], self.cell(x, y)
        return maps.split_output(steps, start, attention.gamma, weight, bias, *cell)

    @torch.inference_mode()
    def probabilities(self, x: int, y: int, recurrence: int | None = None) -> Floats:
        """(K,) softmax of the logits, upsampled to the image, at pixel (x, y)."""
        self.cell(x, y)  # raises outside the image
        return _array(self._softmax_at(self.logits(recurrence), x, y)[0])

    def _softmax_at(self, logits: Tensor, x: int, y: int) -> Tensor:
        """(B, K) softmax at pixel (x, y) of logits (B, K, h, w), upsampled to the image."""
        rows = resized_rows(logits, self.size[0], y, y + 1)  # (B, K, 1, w)
        columns = resized_rows(rows.mT, self.size[1], x, x + 1)  # (B, K, 1, 1)
        return torch.softmax(columns.flatten(1), dim=1)

    def near(self, x: int, y: int) -> tuple[slice, slice]:
        """Rows and columns of the cells whose features decide the logits at pixel (x, y)."""
        # The pixel lies between its cell and the next; two convolutions.
        reach = 1 + 2 * (self.explorer.config.head_kernel // 2)
        (i, j), (h, w) = self.cell(x, y), self.grid
        rows = slice(max(0, i - reach), min(i + reach + 1, h))
        return rows, slice(max(0, j - reach), min(j + reach + 1, w))

    def score_near(self, features: Tensor, x: int, y: int) -> Tensor:
        """(B, K) softmax at pixel (x, y) with other features (B, C, rows, columns) `near` it."""
        where = (slice(None), slice(None), *self.near(x, y))
        context = self._context[where].expand(len(features), -1, -1, -1)
        logits = self.explorer.network.decode(context, features).float()
        whole = logits.new_zeros(*logits.shape[:2], *self.grid)
        whole[where] = logits
        return self._softmax_at(whole, x, y)

    @torch.inference_mode()
    def pixel(self, x: int, y: int, recurrences: Sequence[int] = (1, 2, 3)) -> Pixel:
        """Everything the app and the notebooks show of one pixel. Raises as `cell`."""
        i, j = self.cell(x, y)
        found = [torch.as_tensor(self.attention(x, y, r)) for r in recurrences]
        names = len(self.explorer.class_names)
        labels = torch.as_tensor(self.cell_labels())
        shares = [maps.class_shares(m, labels, names) for m in found]
        return Pixel(
            x,
            y,
            cell=(i, j),
            box=self.box(i, j),
            probabilities=self.probabilities(x, y),
            recurrences=tuple(recurrences),
            maps=tuple(map(_array, found)),
            on_cross=tuple(maps.on_cross_share(m, i, j) for m in found),
            class_shares=tuple(_array(mass) for mass, _ in shares),
            cell_shares=_array(shares[0][1]) if shares else np.zeros(names, np.float32),
        )

    def figure(
        self,
        x: int,
        y: int,
        recurrence: int | Sequence[int] = (1, 2, 3),
        clip: float = 0.0,
        labels: float = 0.45,
        *,
        region: tuple[int, int, int, int] | None = None,
        label: int | None = None,
        kind: str = "attention",
    ) -> "Figure":
        """The labels with pixel (x, y) beside its map for each R, all on one colour scale.

        Args:
            x, y: image coordinates. Raises as `cell`.
            recurrence: one R or several, each 1 or more, else `ValueError`.
            clip: 0..1, lowers the top of the colour scale as `pictures.clip_level` says.
            labels: opacity 0..1 of the labels over the image.
            region: (left, top, right, bottom), the pixels of two corners; instead of the pixel's,
                the mean of the maps of the cells there. Raises as `cell`.
            label: a class's id; instead, the mean of the maps of all its cells. `ImageError` where
                it has none.
            kind: "attention", or "listeners" for who looks at it.
        """
        from ccnet_lab.explore.subject import subject_of

        asked = _recurrences(recurrence)
        explorer, subject = self.explorer, subject_of(self, x, y, region, label)
        found = subject.maps(self, asked, kind)
        what = f"who listens to {subject.name}" if kind == "listeners" else subject.looks
        captions = [
            f"on the cross {100 * maps.on_cross_share(torch.as_tensor(m), *subject.cell):.0f} %"
            if subject.cell
            else f"mean of {int(subject.cells.sum())} cells"
            for m in found
        ]
        return draw.figures.attention_figure(
            self.image,
            self.labels,
            explorer.palette,
            explorer.class_names,
            (x, y) if subject.cell else None,
            subject.box,
            {f"R = {r}": m for r, m in zip(asked, found, strict=True)},
            captions,
            top=clip_level(found, clip),
            opacity=labels,
            title=f"{explorer.config.name}, trained at R = {self.recurrence}: {what}",
        )

    def save_html(self, path: str | Path, **options: Any) -> Path:
        """Write this view as one interactive page that needs no server; returns its path.

        Beyond 16 MB a warning says the size before; beyond about 110 x 110 cells the page has no
        R = 3, which would take seconds there.

        Args:
            path: the file. options: `title`, `pixel` (x, y), `recurrences` (fewer make a smaller
                file), `precision`, `settings`, `tables`; see `viewer.payload.encode`.

        Raises:
            RunError: the file cannot be written; the message says how large it would be.
        """
        from ccnet_lab.viewer.page import save_html

        return save_html(self, path, **options)

    def widget(self, **options: Any) -> Any:
        """This view as a widget of a notebook; options of `viewer.widget.ViewWidget`."""
        from ccnet_lab.viewer.widget import ViewWidget

        return ViewWidget(self, **options)


def _recurrences(asked: int | Sequence[int]) -> list[int]:
    """One R or several as a list; `ValueError` unless each is a whole number from 1 on."""
    with suppress(TypeError):
        found = [index(recurrence) for recurrence in np.atleast_1d(asked)]
        if found and min(found) >= 1:
            return found
    raise ValueError(f"recurrence is {asked!r}; expected a whole number from 1 on, or several")


def _array(tensor: Tensor) -> Floats:
    return np.asarray(tensor.detach().cpu().float())
