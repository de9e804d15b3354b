"""evaluation/evaluate.py, metrics.py and predict.py: against scikit-learn and plain slow forms."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from layouts import make_voc
from PIL import Image

from ccnet_lab import build_model, device, get_config
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.datasets import open_split
from ccnet_lab.data.transforms import fitted_size, normalise, resize
from ccnet_lab.errors import (
    ConfigError,
    DataError,
    DeviceError,
    MissingFileError,
    RunError,
    WeightsError,
)
from ccnet_lab.evaluation import predict as inference
from ccnet_lab.evaluation.evaluate import evaluate, score_table
from ccnet_lab.evaluation.metrics import (
    Confusions,
    bootstrap_interval,
    boundary,
    boundary_tally,
    confusion_matrix,
    load_confusions,
    ratio,
    scores,
)
from ccnet_lab.evaluation.protocol import Protocol, check_comparable, plan, published_protocol
from ccnet_lab.evaluation.published import beside_published
from ccnet_lab.hub import load
from ccnet_lab.model import upsample, winograd
from ccnet_lab.model.upsample import upsampled_labels
from ccnet_lab.model.weights import save_weights
from ccnet_lab.runs import Run

ROOT = Path(__file__).parents[2]
TINY = dataclasses.replace(
    get_config("demo"),
    dataset="camvid",
    channels=16,
    resize=(96, 64),
    crop_size=(64, 96),
    alias="tiny",
)
SIZES = ((64, 96), (50, 71), (96, 64))  # of the images on disk; only the first needs no resize
PROTOCOL = Protocol(
    dataset="camvid", split="test", images=3, names_crc32="0badcafe", resize=(96, 64)
)


def blocks(rng, height, width, classes=12, size=9):
    """(height, width) labels in blocks; the last class is void."""
    return np.kron(
        rng.integers(0, classes, (height // size + 1, width // size + 1)), np.ones((size, size))
    )[:height, :width].astype(np.uint8)


def write_camvid(root, sizes=SIZES):
    rng = np.random.default_rng(4)
    for part in ("test", "testannot"):
        (root / "camvid" / part).mkdir(parents=True)
    for i, (height, width) in enumerate(sizes):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(
            root / "camvid" / "test" / f"i{i}.png"
        )
        Image.fromarray(blocks(rng, height, width)).save(
            root / "camvid" / "testannot" / f"i{i}.png"
        )
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_camvid(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def split(root):
    return open_split(get_dataset("camvid"), root, "test")


@pytest.fixture(scope="module")
def model():
    """A network whose predictions vary over the image."""
    torch.manual_seed(0)
    model = build_model(TINY).eval()
    with torch.inference_mode():
        logits = model(torch.randn(1, 3, 64, 96)).logits
    model.classifier[-1].bias.data -= logits.mean((0, 2, 3))
    return model


@torch.inference_mode()
def plain_logits(model, image, size, scales=(1.0,), flips=(False,), forward=None):
    """(K, H, W): the raw logits at the labels' size, averaged as in the reference's tester."""
    height, width = fitted_size(*image.shape[:2], *TINY.resize)
    inputs, passes = normalise(resize(image, height, width))[None], []
    for scale in scales:
        scaled = F.interpolate(inputs, scale_factor=scale, mode="bilinear", align_corners=False)
        for flip in flips:
            given = torch.from_numpy(np.flip(scaled.numpy(), axis=3).copy()) if flip else scaled
            logits = (forward or (lambda x: model(x).logits))(given)
            logits = torch.from_numpy(np.flip(logits.numpy(), axis=3).copy()) if flip else logits
            passes.append(F.interpolate(logits, size=size, mode="bilinear", align_corners=False))
    return (sum(passes) / len(passes))[0]


@torch.inference_mode()
def plain_slide(model, inputs, window, stride):
    """Logits at the inputs' size, window by window as mmsegmentation goes through them."""
    height, width = inputs.shape[2:]
    total, times = torch.zeros(1, TINY.num_classes, height, width), torch.zeros(height, width)
    for row in range(max(height - window[0] + stride[0] - 1, 0) // stride[0] + 1):
        for column in range(max(width - window[1] + stride[1] - 1, 0) // stride[1] + 1):
            bottom, right = (
                min(row * stride[0] + window[0], height),
                min(column * stride[1] + window[1], width),
            )
            top, left = max(bottom - window[0], 0), max(right - window[1], 0)
            logits = model(inputs[:, :, top:bottom, left:right]).logits
            total[:, :, top:bottom, left:right] += F.interpolate(
                logits, size=(bottom - top, right - left), mode="bilinear"
            )
            times[top:bottom, left:right] += 1
    assert times.min() >= 1
    return total / times


def predictions(model, split, **how):
    protocol = plan(split, TINY, **how)
    return [
        inference.predict(model, item, protocol, torch.device("cpu"))
        for item in inference.load(split, protocol)
    ]


def agree(labels, scores):
    """Every pixel has a class that scores as high as any other, up to rounding."""
    chosen = scores.gather(0, torch.from_numpy(labels).long()[None])[0]
    assert (scores.max(0).values - chosen).max() < 1e-5 * scores.abs().max()
    assert len(np.unique(labels)) > 1


# Against scikit-learn


def test_counts_and_scores_are_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for classes in (2, 11, 150):
        target, prediction = rng.integers(0, classes, (2, 5, 40, 31))
        prediction = np.where(rng.random(target.shape) < 0.6, target, prediction)
        target[rng.random(target.shape) < 0.1] = 255
        total = sum(
            confusion_matrix(t.astype(np.uint8), p.astype(np.uint8), classes)
            for t, p in zip(target, prediction, strict=True)
        )
        true, found, labels = target[target != 255], prediction[target != 255], list(range(classes))
        assert total.tolist() == metrics.confusion_matrix(true, found, labels=labels).tolist()
        ours, theirs = (
            scores(total),
            metrics.jaccard_score(true, found, labels=labels, average=None),
        )
        assert ours.iou == pytest.approx(theirs, abs=1e-9)
        assert ours.miou == pytest.approx(theirs.mean(), abs=1e-9)
        assert ours.pixel_accuracy == pytest.approx(metrics.accuracy_score(true, found), abs=1e-9)


def test_an_evaluation_is_scikit_learns_over_all_pixels(model, split):
    metrics = pytest.importorskip("sklearn.metrics")
    found = evaluate(model, split, TINY)
    pairs = zip(
        [split.read(i).labels for i in range(len(split))], predictions(model, split), strict=True
    )
    assert (
        found.boundaries.tolist()
        == sum(boundary_tally(*pair, TINY.num_classes) for pair in pairs).tolist()
    )
    target = np.concatenate([split.read(i).labels.ravel() for i in range(len(split))])
    prediction = np.concatenate([labels.ravel() for labels in predictions(model, split)])[
        target != 255
    ]
    target = target[target != 255]
    present = np.union1d(target, prediction)
    iou = metrics.jaccard_score(target, prediction, labels=present, average=None)
    assert found.iou[present] == pytest.approx(iou, abs=1e-9)
    assert found.miou == pytest.approx(iou.mean(), abs=1e-9)
    assert found.pixel_accuracy == pytest.approx(
        metrics.accuracy_score(target, prediction), abs=1e-9
    )


def test_no_label_at_all_has_no_score_and_no_warning(recwarn):
    assert np.isnan(scores(np.zeros((3, 3), np.int64)).miou)
    assert not recwarn.list


# Predictions against their plain forms


def test_whole_image_is_the_plain_recipe(model, split):
    for i, labels in enumerate(predictions(model, split)):
        sample = split.read(i)
        assert labels.shape == sample.labels.shape
        agree(labels, plain_logits(model, sample.image, sample.labels.shape))


def test_scales_and_flip_average_raw_logits_of_scaled_tensors(model, split):
    how = dict(scales=(1.5, 0.5, 1.0), flip=True)
    single = predictions(model, split)
    for i, labels in enumerate(predictions(model, split, **how)):
        sample = split.read(i)
        agree(
            labels,
            plain_logits(model, sample.image, sample.labels.shape, how["scales"], (False, True)),
        )
        assert (labels != single[i]).any()


def test_another_recurrence_is_another_prediction(model, split):
    (first, *_), (none, *_) = predictions(model, split), predictions(model, split, recurrence=0)
    assert (first != none).any()


def test_windows_are_averaged_where_they_overlap(model, split):
    protocol = dataclasses.replace(
        plan(split, TINY, mode="slide"), window=(32, 40), stride=(21, 26)
    )
    for i, item in enumerate(inference.load(split, protocol)):
        sample = split.read(i)
        labels = inference.predict(model, item, protocol, torch.device("cpu"))
        agree(
            labels,
            plain_logits(
                model,
                sample.image,
                sample.labels.shape,
                forward=lambda x: plain_slide(model, x, (32, 40), (21, 26)),
            ),
        )


def test_one_window_over_everything_is_the_whole_image(model, split):
    wide = dataclasses.replace(TINY, crop_size=(64, 200))
    whole = evaluate(model, dataclasses.replace(split, pairs=split.pairs[:1]), wide)
    slide = evaluate(model, dataclasses.replace(split, pairs=split.pairs[:1]), wide, mode="slide")
    assert slide.protocol.window == (64, 200)
    assert slide.protocol.stride == (42, 133)
    assert slide.confusion.tolist() == whole.confusion.tolist()


@pytest.mark.parametrize(
    ("length", "window", "stride", "starts"),
    [(10, 6, 4, [0, 4]), (9, 6, 4, [0, 3]), (6, 6, 4, [0]), (3, 6, 4, [0])],
)
def test_windows_cover_the_image(length, window, stride, starts):
    assert inference._starts(length, window, stride) == starts


@pytest.mark.parametrize("budget", [1, 3 * 101 * 153, 7 * 101 * 153, 2**30])
def test_argmax_some_classes_at_a_time_is_the_argmax(budget, monkeypatch):
    monkeypatch.setattr(upsample, "RESIZED_AT_ONCE", budget)
    for seed, classes in enumerate((2, 4, 7, 19, 150)):
        logits = torch.randint(
            -3, 4, (classes, 7, 9), generator=torch.Generator().manual_seed(seed)
        ).float()  # with ties
        full = F.interpolate(logits[None], size=(101, 153), mode="bilinear", align_corners=False)[0]
        assert upsampled_labels([logits], (101, 153)).tolist() == full.argmax(0).tolist()
        other = torch.randn(classes, 5, 8, generator=torch.Generator().manual_seed(seed))
        both = (
            full
            + F.interpolate(other[None], size=(101, 153), mode="bilinear", align_corners=False)[0]
        )
        agree(upsampled_labels([logits, other], (101, 153)).numpy(), both)


@pytest.mark.parametrize("many", [1, 2])
def test_large_pictures_are_done_in_strips_with_the_same_labels(many, monkeypatch):
    draw = torch.Generator().manual_seed(0)
    passes = [torch.randn(5, 9, 13, generator=draw) for _ in range(many)]
    whole, seen, interpolate = upsampled_labels(passes, (101, 77)), [], F.interpolate
    monkeypatch.setattr(
        upsample.F,
        "interpolate",
        lambda given, size, **how: seen.append(size) or interpolate(given, size=size, **how),
    )
    monkeypatch.setattr(upsample, "LARGEST", 10 * 77)
    in_strips = upsampled_labels(passes, (101, 77))
    assert seen == [size for size in [(10, 77)] * 10 + [(1, 77)] for _ in passes]
    assert (in_strips == whole).float().mean() > 0.999


def test_fast_is_another_protocol_and_nearly_the_same_labels(split, monkeypatch):
    config = dataclasses.replace(get_config("street"), resize=(96, 64), crop_size=(64, 96))
    torch.manual_seed(0)
    model = build_model(config)
    ran, forward = [], winograd.WinogradConv2d.forward
    monkeypatch.setattr(winograd, "WIDE", 8)
    for module in (sys.modules["ccnet_lab.evaluation.evaluate"], device):
        monkeypatch.setattr(module, "has_bf16", lambda _: False)
    monkeypatch.setattr(
        winograd.WinogradConv2d, "forward", lambda self, x: ran.append(1) or forward(self, x)
    )
    exact, found = (
        evaluate(model, split, config),
        evaluate(
            model, split, config, precision=device.inference_precision("fast", torch.device("cpu"))
        ),
    )
    assert ran
    assert found.protocol.precision == "fast fp32"
    with pytest.raises(RunError, match="precision"):
        check_comparable(found.protocol, exact.protocol)
    assert abs(exact.confusion - found.confusion).sum() < 0.001 * exact.confusion.sum()


def test_narrow_pictures_are_predicted_in_float32(picture):
    """In bfloat16 some CPUs' convolutions of one column give noise."""
    found = {}
    for precision in ("fp32", "bf16"):
        model, config = load("demo")
        protocol = dataclasses.replace(published_protocol(config), precision=precision)
        item = inference.Item("narrow", torch.zeros(301, 7), torch.from_numpy(picture(301, 7)))
        with device.arithmetic(torch.device("cpu"), precision):
            found[precision] = inference.predict(model, item, protocol, torch.device("cpu"))
    assert (found["bf16"] == found["fp32"]).all()


def test_bf16_is_another_protocol_and_nearly_the_same_labels(model, split):
    exact, rounded = evaluate(model, split, TINY), evaluate(model, split, TINY, precision="bf16")
    assert rounded.protocol.precision == "bf16"
    assert exact.confusion.tolist() != rounded.confusion.tolist()
    assert abs(exact.confusion - rounded.confusion).sum() < 0.1 * exact.confusion.sum()


# Boundaries


def slow_boundary(region, distance):
    """A region less its erosion by a square, as in boundary_iou_api's `mask_to_boundary`."""
    padded = np.pad(region, distance)
    eroded = np.ones_like(region)
    for y in range(2 * distance + 1):
        for x in range(2 * distance + 1):
            eroded &= padded[y : y + region.shape[0], x : x + region.shape[1]]
    return region & ~eroded


@pytest.mark.parametrize("size", [(60, 97), (97, 60), (30, 31), (5, 200), (1, 1)])
@pytest.mark.parametrize("distance", [1, 2, 5, 8])
def test_boundaries_are_those_of_every_region_alone(size, distance):
    labels = blocks(np.random.default_rng(distance), *size, classes=4, size=19)
    slow = np.logical_or.reduce([slow_boundary(labels == k, distance) for k in range(4)])
    assert (boundary(labels, distance) == slow).all()


def test_boundary_iou_is_the_slow_one():
    rng = np.random.default_rng(1)
    target = blocks(rng, 120, 161, classes=5, size=40)
    prediction = np.roll(target, (3, -2), (0, 1))
    target[target == 4], target[:7, 100:] = 255, 255
    prediction[prediction == 4] = 1
    distance = 4  # round(0.02 * 200.8)
    masked = np.where(target == 255, 255, prediction)
    intersection, union = boundary_tally(target, prediction, 4)
    for k in range(4):
        ours, theirs = slow_boundary(target == k, distance), slow_boundary(masked == k, distance)
        assert intersection[k] == (ours & theirs).sum() > 0
        assert union[k] == (ours | theirs).sum()


def test_a_perfect_prediction_has_perfect_boundaries_beside_void():
    target = blocks(np.random.default_rng(2), 80, 90, classes=4, size=25)
    target[20:50, 30:60] = 255
    intersection, union = boundary_tally(target, np.where(target == 255, 3, target), 4)
    assert intersection.tolist() == union.tolist()
    assert union.min() > 0


# What is kept


def some_confusions(count=40, classes=6, seed=0):
    rng = np.random.default_rng(seed)
    dense = rng.integers(0, 900, (count, classes, classes)) * (
        rng.random((count, classes, classes)) < 0.2
    )
    dense[:, -1] = dense[:, :, -1] = 0  # a class that never occurs
    parts = [(np.flatnonzero(matrix), matrix[matrix > 0]) for matrix in dense]
    return dense, Confusions.collect([f"image {i}" for i in range(count)], classes, parts)


def test_confusions_come_back_from_disk(tmp_path):
    dense, kept = some_confusions()
    kept.save(tmp_path / "confusions.npz")
    again = load_confusions(tmp_path / "confusions.npz")
    weights = np.random.default_rng(1).integers(0, 4, len(dense))
    assert again.names == kept.names
    assert again.total().tolist() == dense.sum(0).tolist()
    assert float(again.resampled_miou(weights)[0]) == pytest.approx(
        scores(np.tensordot(weights, dense, 1)).miou, abs=1e-12
    )
    assert [values.shape for values in again.resampled_miou(np.stack([weights, weights + 1]))] == [
        (2,),
        (2,),
    ]
    (tmp_path / "broken.npz").write_bytes(b"PK")
    with pytest.raises(RunError, match=r"broken\.npz"):
        load_confusions(tmp_path / "broken.npz")
    with pytest.raises(MissingFileError, match=r"evaluate\.py"):
        load_confusions(tmp_path / "none.npz")


@pytest.mark.parametrize(
    "wrong",
    [
        dict(starts=np.arange(4)),
        dict(starts=np.array([1, 2, 3])),
        dict(starts=np.array([0, 3, 2])),
        dict(starts=np.array([0, 1, 3])),
        dict(starts=np.array([0.0, 1, 2])),
        dict(cells=np.array([0, 60000], np.uint16)),
        dict(cells=np.array([0, -1])),
        dict(counts=np.array([1], np.uint32)),
        dict(names=(), starts=np.array([0])),
        dict(num_classes=1),
    ],
)
def test_confusions_that_cannot_be_are_refused(wrong, tmp_path):
    cells = np.array([0, 120], np.uint16)
    good = Confusions(("a", "b"), 11, np.arange(3), cells, np.array([5, 7], np.uint32))
    good.save(tmp_path / "c.npz")
    assert load_confusions(tmp_path / "c.npz").total().sum() == 12
    dataclasses.replace(good, **wrong).save(tmp_path / "c.npz")
    with pytest.raises(RunError, match=r"c\.npz holds no confusion matrices: .*; evaluate again"):
        load_confusions(tmp_path / "c.npz")


def test_two_thousand_images_of_150_classes_are_small_on_disk(tmp_path):
    rng = np.random.default_rng(0)
    parts = [
        (np.sort(rng.choice(150**2, 80, replace=False)), rng.integers(1, 200_000, 80))
        for _ in range(2000)
    ]
    Confusions.collect([f"ADE_val_{i:08d}" for i in range(2000)], 150, parts).save(
        tmp_path / "c.npz"
    )
    assert (tmp_path / "c.npz").stat().st_size < 2**20


def test_interval_holds_the_score_and_follows_its_seed():
    _, kept = some_confusions()
    low, high = bootstrap_interval(kept)
    assert low < scores(kept.total()).miou < high
    assert bootstrap_interval(kept) == (low, high)
    assert bootstrap_interval(kept, seed=1) != (low, high)
    narrow = bootstrap_interval(kept, level=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_identical_images_have_an_interval_of_no_width():
    _, one = some_confusions(1)
    same = Confusions.collect(["same"] * 30, 6, [(one.cells, one.counts)] * 30)
    assert bootstrap_interval(same, draws=60) == pytest.approx(
        [scores(one.total()).miou] * 2, abs=1e-12
    )


def test_fewer_than_two_images_have_no_interval(model, split):
    _, one = some_confusions(1)
    assert np.isnan(bootstrap_interval(one)).all()
    _, two = some_confusions(2)
    assert not np.isnan(bootstrap_interval(two)).any()
    with pytest.raises(ValueError, match="draws is 0"):
        bootstrap_interval(two, draws=0)
    found = evaluate(model, dataclasses.replace(split, pairs=split.pairs[:1]), TINY).to_dict()
    assert json.loads(json.dumps(found, allow_nan=False))["miou_interval"] == [None, None]
    assert "(95" not in score_table(found).split("pixel")[0].replace("(95 % over images)", "")


def test_interval_is_that_of_images_drawn_one_by_one():
    dense, kept = some_confusions(20)

    def miou_and_error(weights):
        """The derivative by each image's weight, taken as a small difference."""
        miou = scores(np.einsum("nij,n->ij", dense, weights)).miou
        slopes = [
            (scores(np.einsum("nij,n->ij", dense, weights + 1e-5 * np.eye(20)[n])).miou - miou)
            / 1e-5
            for n in range(20)
        ]
        return miou, np.sqrt((weights * np.square(slopes)).sum())

    rng = np.random.default_rng(5)
    miou, error = miou_and_error(np.ones(20))
    drawn = [miou_and_error(np.bincount(rng.integers(0, 20, 20), minlength=20)) for _ in range(300)]
    for level in (0.5, 0.95):
        reach = error * np.quantile([abs(value - miou) / its for value, its in drawn], level)
        assert bootstrap_interval(kept, draws=2000, level=level) == pytest.approx(
            (miou - reach, miou + reach), abs=0.25 * reach
        )
    assert kept.resampled_miou(np.ones(20)) == pytest.approx((miou, error), rel=1e-4)


def test_scores_are_ready_for_json(model, split):
    calls = []
    found = evaluate(model, split, TINY, progress=lambda *call: calls.append(call))
    stored = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert stored["miou"] == pytest.approx(found.miou)
    assert [
        name for name, iou in zip(found.class_names, found.iou, strict=True) if np.isnan(iou)
    ] == [name for name, iou in stored["per_class_iou"].items() if iou is None]
    assert stored["miou_interval"][0] <= stored["miou"] <= stored["miou_interval"][1]
    assert stored["boundary_iou"] == pytest.approx(np.nanmean(ratio(*found.boundaries)))
    assert Protocol.from_dict(stored["protocol"]) == found.protocol == plan(split, TINY)
    assert calls == [(1, 3), (2, 3), (3, 3)]
    table = score_table(stored)
    assert f"{100 * found.miou:.2f} (" in table
    assert table.count("\n| ") == TINY.num_classes + 2
    without = evaluate(model, split, TINY, boundaries=False).to_dict()
    assert without["boundary_iou"] is None
    assert without["per_class_iou"] == stored["per_class_iou"]
    assert "| - |" in score_table(without)


def test_workers_change_nothing(model, split):
    here, there = evaluate(model, split, TINY), evaluate(model, split, TINY, workers=2)
    assert there.confusions.names == here.confusions.names == ("i0", "i1", "i2")
    assert there.confusions.counts.tolist() == here.confusions.counts.tolist()
    assert there.boundaries.tolist() == here.boundaries.tolist()


@pytest.mark.parametrize("training", [True, False])
def test_the_model_comes_back_in_its_mode_and_unchanged(training, split):
    model = build_model(TINY).train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluate(model, split, TINY)
    assert model.training is training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# Protocols


@pytest.mark.parametrize(
    "other",
    [
        dict(mode="slide", window=(64, 96), stride=(42, 64)),
        dict(scales=(0.5, 1)),
        dict(flip=True),
        dict(resize=(2048, 512)),
        dict(images=4),
        dict(precision="bf16"),
        dict(split="val"),
        dict(names_crc32="00000000"),
        dict(recurrence=1),
        dict(dataset="voc"),
    ],
)
def test_unlike_protocols_are_refused_by_name(other):
    changed = dataclasses.replace(PROTOCOL, **other)
    assert Protocol.from_dict(json.loads(json.dumps(changed.to_dict()))) == changed
    check_comparable(changed, dataclasses.replace(changed))
    check_comparable(PROTOCOL, changed, varied=tuple(other))
    with pytest.raises(RunError) as refused:
        check_comparable(PROTOCOL, changed)
    assert all(
        f"{name} {getattr(PROTOCOL, name)!r} and {getattr(changed, name)!r}" in str(refused.value)
        for name in other
    )


def test_the_order_of_scales_is_no_difference():
    assert dataclasses.replace(PROTOCOL, scales=[2, 1, 1.0]).scales == (1.0, 2.0)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (dict(mode="sliding"), "expected whole or slide"),
        (dict(precision="fp16"), "expected fp32 or bf16 or fast fp32"),
        (dict(scales=()), "such as 0.5"),
        (dict(scales=(1, 0)), "such as 0.5"),
        (dict(scales=(9,)), "such as 0.5"),
        (dict(scales=(float("nan"),)), "such as 0.5"),
        (dict(recurrence=-1), "0 or more"),
    ],
)
def test_impossible_protocols(field, message):
    with pytest.raises(RunError, match=message):
        dataclasses.replace(PROTOCOL, **field)


def test_published_numbers_stand_beside_their_own_protocol_only():
    config = get_config("ccnet_resnet50os8_cityscapes")
    protocol = published_protocol(config)
    assert (protocol.images, protocol.split, protocol.resize) == (500, "val", (2048, 1024))
    found = {
        "miou": 0.7881,
        "protocol": dataclasses.replace(protocol, names_crc32="12345678").to_dict(),
    }
    assert "mIoU 78.81 %, published 79.15 %" in beside_published(config, found).line
    found["protocol"]["flip"] = True
    assert "not comparable" in beside_published(config, found).line
    assert "flip True and False" in beside_published(config, found).line
    assert "no mIoU is published" in beside_published(TINY, found).line
    with pytest.raises(RunError, match="evaluate again"):
        Protocol.from_dict({"mode": "whole"})
    with pytest.raises(RunError, match=r"\['whole'\] is no protocol"):
        Protocol.from_dict(["whole"])


# What is refused


def test_a_split_of_another_data_set(model, split):
    with pytest.raises(ConfigError, match="evaluate it on voc"):
        evaluate(model, split, dataclasses.replace(TINY, dataset="voc"))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_file_is_named_without_a_traceback(workers, model, tmp_path):
    write_camvid(tmp_path, SIZES[:2])
    Image.new("L", (30, 20)).save(tmp_path / "camvid" / "testannot" / "i1.png")
    with pytest.raises(DataError, match=r"i1\.png .*its mask") as refused:
        evaluate(model, open_split(get_dataset("camvid"), tmp_path, "test"), TINY, workers=workers)
    assert "Traceback" not in str(refused.value)


def test_logits_that_are_not_finite(split):
    model = build_model(TINY)
    model.classifier[-1].bias.data[3] = float("nan")
    with pytest.raises(WeightsError, match=r"i0 .*NaN.* earlier checkpoint"):
        evaluate(model, split, TINY)
    model.classifier[-1].bias.data[3] = 3e38
    model.classifier[-1].weight.data[3] = 3e38
    with pytest.raises(WeightsError, match="--precision fp32"):
        evaluate(model, split, TINY)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"),
    ],
)
def test_out_of_memory_says_what_to_lower(error, split):
    class Greedy(torch.nn.Module):
        def forward(self, images, recurrence):
            raise error

    with pytest.raises(DeviceError, match=r"i0, 96 x 64 .*--mode slide, smaller --scales"):
        evaluate(Greedy(), split, TINY)


def test_other_errors_pass_through(split):
    class Wrong(torch.nn.Module):
        def forward(self, images, recurrence):
            raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        evaluate(Wrong(), split, TINY)


# The script


@pytest.fixture
def script(door):
    """scripts/evaluate.py in this process: (exit code, stdout, stderr)."""
    return lambda *words: door("scripts/evaluate.py", *words, "--workers", "0")


@pytest.fixture
def run(tmp_path, model):
    run = Run.create(tmp_path / "run", TINY)
    save_weights(model, run.weights, TINY)
    return run


def test_a_run_gets_its_scores_and_confusions(script, run, root, split, model):
    code, out, err = script(run.folder, "--data", root, "--device", "cpu")
    assert code == 0, err
    expected = evaluate(model, split, TINY)
    assert run.scores["miou"] == pytest.approx(expected.miou)
    assert load_confusions(run.confusions).total().tolist() == expected.confusion.tolist()
    assert f"{100 * expected.miou:.2f} (" in out
    assert "no mIoU is published for tiny" in out
    assert script(run.folder, "--data", root)[0] == 0  # the same protocol again


def test_scores_of_another_protocol_are_not_replaced_silently(script, run, root, tmp_path):
    assert script(run.folder, "--data", root)[0] == 0
    before = run.scores
    code, _, err = script(run.folder, "--data", root, "--flip")
    assert code == 2
    assert "flip False and True" in err
    assert "--overwrite" in err
    code, out, _ = script(
        run.folder, "--data", root, "--flip", "--json", tmp_path / "new" / "flip.json"
    )
    assert code == 0
    assert "stay as they are" in out
    assert run.scores == before
    assert json.loads((tmp_path / "new" / "flip.json").read_text())["protocol"]["flip"] is True
    assert load_confusions(tmp_path / "new" / "flip.npz").names == ("i0", "i1", "i2")
    assert script(run.folder, "--data", root, "--flip", "--overwrite")[0] == 0
    assert run.scores["protocol"]["flip"] is True


def test_the_script_refuses_with_a_sentence(
    script, run, root, tmp_path, published_file, monkeypatch
):
    monkeypatch.setenv("CCNET_LAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CCNET_LAB_MIRROR", "http://127.0.0.1:9")  # where nobody answers
    (tmp_path / "empty").mkdir()
    make_voc(tmp_path)
    cases = [
        ((run.folder, "--data", tmp_path / "empty"), "prepare_data.py camvid"),
        ((run.folder, "--data", root, "--split", "tset"), "did you mean 'test'"),
        ((run.folder, "--data", root, "--scales", "0"), "scales are [0.0]"),
        ((run.folder, "--data", root, "--config", "ccnet_resnet50os8_voc"), "leave --config away"),
        ((run.folder, "--data", root, "--config", "ccnet_resnet50os9_voc"), "did you mean"),
        ((run.folder, "--data", root, "--device", "cuda:99"), "--device cpu"),
        (("demo", "--data", root), "Beacons (generated) has no files"),
        (("ccnet_resnet50os8_voc", "--data", root), "there is no PASCAL VOC 2012 at"),
        (("ccnet_resnet50os8_voc", "--data", tmp_path), "ccnet_resnet50os8_voc_train.pth by hand"),
        ((tmp_path / "empty", "--data", root), "is no run folder"),
        ((tmp_path / "nothing.pth", "--data", root), "neither a model's name nor a file"),
        (
            (published_file("ccnet_resnet50os8_voc"), "--data", root),
            "there is no PASCAL VOC 2012 at",
        ),
        (
            (
                published_file("ccnet_resnet50os8_voc"),
                "--data",
                root,
                "--config",
                "ccnet_resnet50os8_cityscapes",
            ),
            "data set voc",
        ),
    ]
    for words, expected in cases:
        code, _, err = script(*words)
        assert code == 2, words
        assert expected in err.replace("\n", " "), err
        assert err.startswith("evaluate.py: error: ")
        assert err.count("\n") == 1


# Memory

PEAKS = """
import re, sys, torch
from dataclasses import replace
from pathlib import Path
from ccnet_lab import build_model, device, get_config
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.datasets import open_split
from ccnet_lab.evaluation.evaluate import evaluate

def show(done, _):
    if done in (6, 26):
        print(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])

torch.set_num_threads(1)
config = replace(get_config("demo"), dataset="camvid", channels=16, resize=(128, 96), alias="tiny")
split = open_split(get_dataset("camvid"), sys.argv[1], "test")
evaluate(build_model(config), replace(split, pairs=split.pairs * 26), config, progress=show)
"""


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="the peak of memory is read from Linux's /proc"
)
def test_memory_does_not_grow_with_the_split(tmp_path):
    height, width = 576, 768
    write_camvid(tmp_path, [(height, width)])
    steady = {
        **os.environ,
        "MALLOC_MMAP_THRESHOLD_": "65536",
    }  # glibc gives freed arrays back at once, so that the peak is what is kept
    command = [sys.executable, "-c", PEAKS, tmp_path]
    printed = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=240, env=steady
    ).stdout
    early, late = (int(line) * 1024 for line in printed.split())
    assert late < 1.1 * early
    assert (
        late - early < 20 * height * width / 2
    )  # half a byte per pixel of the images between: not even their labels are kept
