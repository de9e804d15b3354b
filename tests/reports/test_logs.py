"""reports/logs.py: logs of SSSegmentation of 2020 and of today, whole and broken."""

import json
import math
import random
import tracemalloc

import pytest

from ccnet_lab import get_config
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.errors import MissingFileError, RunError
from ccnet_lab.reports.logs import match_classes, read_log
from ccnet_lab.runs import Run

VOC, ADE, CITY = (
    "ccnet_resnet50os8_voc",
    "ccnet_resnet101os16_ade20k",
    "ccnet_resnet50os16_cityscapes",
)
PER_EPOCH = {VOC: 661, ADE: 1263, CITY: 372}
THEIRS = {"voc": "VOCDataset", "ade20k": "ADE20kDataset", "cityscapes": "CityScapesDataset"}
# Names SSSegmentation gives the classes, where they differ; the long ones are ADE20K's own.
SPELT = {
    "background": "__background__",
    "traffic light": "traffic_light",
    "traffic sign": "traffic_sign",
    "building": "building, edifice",
    "chest": "chest of drawers, chest, bureau, dresser",
    "pool": "pool table, billiard table, snooker table",
    "swimming": "swimming pool, swimming bath, natatorium",
    "coffee": "coffee table, cocktail table",
    "kitchen": "kitchen island",
    "screen door": "screen door, screen",
    "screen": "screen, silver screen, projection screen",
    "blind": "blind, screen",
    "toilet": "toilet, can, commode, crapper, pot, potty, stool, throne",
    "crt": "crt screen",
    "arcade": "arcade machine",
    "trade": "trade name, brand name, brand, marque",
    "traffic": "traffic light, traffic signal, stoplight",
    "dirt": "dirt track",
    "buffet": "buffet, counter, sideboard",
    "land": "land, ground, soil",
    "earth": "earth, ground",
    "swivel": "swivel chair",
}


def losses(step):
    main, aux = 2 / (1 + step / 500), 0.8 / (1 + step / 500)
    return {"loss_aux": aux, "loss_cls": main, "loss_total": main + aux}


def lr(step, name):
    config = get_config(name)
    return 0.0001 + 0.0099 * (1 - (step - 1) / (config.epochs * PER_EPOCH[name])) ** 0.9


def class_iou(name, epoch):
    """IoU by the reference's class names; None for none."""
    draw = random.Random(f"{name} {epoch}")
    spelt = (
        SPELT
        if not name.endswith("cityscapes")
        else {k: v for k, v in SPELT.items() if k.startswith("traffic ")}
    )
    return {
        spelt.get(own, own): draw.uniform(0.2, 0.9)
        for own in get_dataset(get_config(name).dataset).class_names
    }


def evaluation(name, epoch, unit=1):
    iou = {key: unit * value for key, value in class_iou(name, epoch).items()}
    return {"iou": iou, "miou": sum(iou.values()) / len(iou)}


def line(message, second=0, form="%s INFO  "):
    return form % f"2024-02-01 10:{second // 60 % 60:02d}:{second % 60:02d}" + str(message) + "\n"


def step_line(name, step, **more):
    config, per = get_config(name), PER_EPOCH[name]
    values = {
        "cur_epoch": (step - 1) // per + 1,
        "max_epochs": config.epochs,
        "cur_iter": step,
        "max_iters": config.epochs * per,
        "cur_iter_in_cur_epoch": (step - 1) % per + 1,
        "max_iters_in_cur_epoch": per,
        "segmentor": "CCNet",
        "backbone": f"resnet{config.depth}conv3x3stem",
        "dataset": THEIRS[config.dataset],
        "learning_rate": lr(step, name),
        "ema": False,
        "max_gpu_alloc_GB": 9.5,
        "eta": "01:02:03",
        **losses(step),
        **more,
    }
    return line(values, step)


def new_log(name, epochs=None, first=1, every=1):
    """The form of 2024 and later: `every` epochs an evaluation."""
    config, per = get_config(name), PER_EPOCH[name]
    head = [line("Config file path: ssseg/configs/ccnet/x.py"), line("Config details: ")]
    head += [
        "{'type': 'CCNet', 'losses': {'loss_aux': {'scale_factor': 0.4}}, "
        "'scheduler': {'lr': 0.01, 'size': (512, 512)}}\n"
    ]
    out = [*head, line("Resume from: ")]
    for epoch in range(first, (epochs or config.epochs) + 1):
        out += [
            step_line(name, step)
            for step in range((epoch - 1) * per + 1, epoch * per + 1)
            if step % 50 == 0
        ]
        if epoch % every == 0:
            out += [
                line(f"Evaluate CCNet at epoch {epoch}"),
                line("Rank 0 finished"),
                line("All Finished, seg_preds: 9, seg_gts: 9"),
            ]
            out += [line(evaluation(name, epoch))]
    return out


def old_log(name, epochs=None):
    """The form of December 2020, when the numbers were published: no dictionary, no scores."""
    config, per = get_config(name), PER_EPOCH[name]
    form = "%s INFO     "  # the logging module's %(levelname)-8s
    out = [
        line("Dataset used: voc, Number of images: 10582", form=form),
        line("Checkpoints used: ", form=form),
    ]
    for step in range(1, (epochs or config.epochs) * per + 1):
        epoch, batch = (step - 1) // per + 1, (step - 1) % per + 1
        if batch == 1:
            out.append(line(f"Start epoch {epoch}...", form=form))
        if step % 50 == 0:
            rate = f"[LEARNING_RATE]: {lr(step, name)}, [DATASET]: {config.dataset}"
            told = ", ".join(f"{key} {value:.4f}" for key, value in losses(step).items()).replace(
                "loss_total", "total"
            )
            place = f"[EPOCH]: {epoch}/{config.epochs}, [BATCH]: {batch}/{per}"
            message = f"{place}, {rate}\n\t[LOSS]: {told}, "
            out.append(line(message, form=form))
    return out


@pytest.fixture
def read(tmp_path):
    def do(lines, name=VOC, wrap=lambda data: data):
        path = tmp_path / "some.log"
        path.write_bytes(wrap("".join(lines).encode()))
        return read_log(path, name)

    return do


def trained(log):
    return [record for record in log.metrics if "loss" in record]


@pytest.mark.parametrize("name", [VOC, ADE, CITY])
def test_a_whole_log_gives_our_metrics_and_classes(name, read):
    config, per = get_config(name), PER_EPOCH[name]
    log = read(new_log(name, every=10), name)
    steps = trained(log)
    assert [record["step"] for record in steps] == list(range(50, config.epochs * per + 1, 50))
    assert set(steps[7]) == {"step", "epoch", "loss", "loss_main", "loss_aux", "lr"}
    for record in steps[::100]:
        told = losses(record["step"])
        assert (record["loss"], record["loss_main"], record["loss_aux"]) == (
            told["loss_total"],
            told["loss_cls"],
            told["loss_aux"],
        )
        assert record["lr"] == lr(record["step"], name)
        assert record["epoch"] == round(record["step"] / per, 4)
    scored = [record for record in log.metrics if "val_miou" in record]
    assert [(r["step"], r["epoch"]) for r in scored] == [
        (e * per, e) for e in range(10, config.epochs + 1, 10)
    ]
    told = {epoch: evaluation(name, epoch)["miou"] for epoch in range(10, config.epochs + 1, 10)}
    assert [record["val_miou"] for record in scored] == list(told.values())
    assert log.metrics == sorted(log.metrics, key=lambda record: record["step"])
    assert log.final_miou == told[config.epochs]
    assert tuple(log.per_class_iou) == get_dataset(config.dataset).class_names
    assert list(log.per_class_iou.values()) == list(class_iou(name, config.epochs).values())


def test_the_fields_are_those_of_a_run_of_ours(read):
    ours = {key for record in Run.open("results/runs/street").metrics() for key in record}
    assert {key for record in read(new_log(VOC, 2)).metrics for key in record} <= ours


def test_the_form_of_2020_reads_alike_and_holds_no_score(read):
    old, new = read(old_log(VOC)), read(new_log(VOC))
    assert [r["step"] for r in trained(old)] == [r["step"] for r in trained(new)]
    for a, b in zip(trained(old), trained(new), strict=True):
        assert a == pytest.approx(b, abs=5.1e-5)
    assert (old.final_miou, old.per_class_iou) == (None, {})


def test_a_dictionary_over_several_lines_and_numbers_of_numpy(read):
    found = evaluation(VOC, 60)
    text = (
        "{'iou': {"
        + ",\n ".join(f"'{k}': np.float64({v!r})" for k, v in found["iou"].items())
        + f"}},\n 'miou': np.float64({found['miou']})}}"
    )
    log = read([*new_log(VOC, 59), line("Evaluate CCNet at epoch 60"), line(text)])
    assert log.final_miou == found["miou"]
    assert list(log.per_class_iou.values()) == list(found["iou"].values())


def test_class_names_however_spelt():
    told = {
        "__BACKGROUND__": "background",
        "Traffic-Light": "traffic light",
        "tv/monitor": "tvmonitor",
        "pool table": "pool",
        "swimming pool": "swimming",
        "screen, silver screen": "screen",
        "crt screen": "crt",
        "toilet, stool": "toilet",
        "stool": "stool",
    }
    assert match_classes(list(told), list(told.values())) == told
    assert match_classes(["pool a", "pool b", "sky"], ["pool"]) == {"pool a": "pool"}
    assert match_classes(["motorcycle"], ["motorbike"]) == {}


def test_names_that_fit_no_class_are_left_out(read):
    found = evaluation(VOC, 1)
    found["iou"] = {
        ("televisor" if key == "tvmonitor" else key): value for key, value in found["iou"].items()
    }
    log = read([*new_log(VOC, 1, every=2), line(found)])
    assert "tvmonitor" not in log.per_class_iou
    assert len(log.per_class_iou) == 20


# Broken ones


def test_a_cut_last_line_is_left_out(read):
    lines = new_log(VOC, 1, every=2)
    log = read([*lines[:-1], lines[-1][:150]])
    assert len(trained(log)) == 12


def test_a_resumed_run_counts_once(read):
    first, second = (
        new_log(VOC, 5),
        [text.replace("'loss_cls': ", "'loss_cls': 1") for text in new_log(VOC, 3, first=3)],
    )
    log = read(first + second)
    assert [r["step"] for r in trained(log)] == list(
        range(50, 3 * 661 + 1, 50)
    )  # what lay behind the second's end is gone
    assert [r["epoch"] for r in log.metrics if "val_miou" in r] == [1, 2, 3]
    assert trained(log)[-1]["loss_main"] > 10
    assert trained(log)[20]["loss_main"] < 10
    assert log.final_miou == evaluation(VOC, 3)["miou"]


def test_of_two_runs_in_one_file_the_last_is_read(read):
    first = new_log(VOC, 4)
    log = read(first + new_log(VOC, 2, every=5))
    assert [r["step"] for r in log.metrics] == list(range(50, 2 * 661 + 1, 50))
    assert log.final_miou is None


def test_lines_of_several_processes(read):
    lines = new_log(VOC, 2)
    same = read([text for text in lines for _ in range(2)])
    assert same.metrics == read(lines).metrics
    glued = [text.rstrip("\n") if number % 3 else text for number, text in enumerate(lines[3:])]
    assert read(glued).metrics == read(lines).metrics
    torn = lines[5][:200] + lines[6] + lines[5][200:]
    log = read([*lines[:5], torn, *lines[7:]])
    assert len(trained(log)) == 25


@pytest.mark.parametrize(
    "wrap",
    [
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: data.replace(
            b"\n2024",
            b"\nProcessing 1/9 in rank 0: 1it [00:01]\rProcessing 2/9 in rank 0: 2it [00:02]\n2024",
        ),
    ],
    ids=["crlf", "bom", "progress bars"],
)
def test_the_same_log_in_other_clothes(read, wrap):
    assert read(new_log(VOC, 3), wrap=wrap) == read(new_log(VOC, 3))


def test_bytes_that_are_no_utf8(read):
    log = read(
        new_log(VOC, 2),
        wrap=lambda data: data.replace(b"Config file path: ", b"Config file path: \xff\xfe\xb5"),
    )
    assert log.metrics == read(new_log(VOC, 2)).metrics


def test_what_is_not_finite_stays_and_is_told(read):
    lines = [
        step_line(
            VOC, step, **({"loss_total": math.nan, "loss_cls": math.inf} if step == 100 else {})
        )
        for step in (50, 100, 150)
    ]
    iou = evaluation(VOC, 1)
    iou["iou"]["sofa"] = math.nan
    iou["miou"] = sum(v for v in iou["iou"].values() if v == v) / 20
    log = read([*lines, line("Evaluate CCNet at epoch 1"), line(iou)])
    assert math.isnan(trained(log)[1]["loss"])
    assert trained(log)[1]["loss_main"] == math.inf
    assert log.per_class_iou["sofa"] is None
    json.loads(json.dumps(log.metrics))


def test_scores_that_cannot_be_are_refused(read):
    for score in (
        {"miou": 130.0},
        {"miou": -0.1},
        {"miou": "high"},
        {"iou": {"cat": 0.5, "dog": 2e9}},
        {"iou": 3},
    ):
        log = read([step_line(VOC, 50), line(score)])
        assert log.final_miou is None


def test_averaged_weights_are_not_taken_for_the_model(read):
    lines = [
        step_line(VOC, 50),
        line("Evaluate EMA of CCNet at epoch 1"),
        line({"miou": 0.9, "iou": {}}),
    ]
    assert read(lines).final_miou is None


def test_steps_that_cannot_be_are_left_out(read):
    good = step_line(VOC, 50)
    for bad in (
        {"cur_iter": 100, "cur_epoch": 1},
        {"cur_iter": -5, "cur_epoch": 1, "loss_total": 1.0},
        {"cur_iter": 1e300, "cur_epoch": 1, "loss_total": 1.0},
        {"cur_iter": "x", "loss_total": 1.0},
    ):
        log = read([good, line(bad)])
        assert len(log.metrics) == 1


def test_nothing_is_evaluated(read, tmp_path):
    marker = tmp_path / "marker"
    attack = (
        f"{{'cur_epoch': __import__('pathlib').Path({str(marker)!r}).touch(), 'loss_total': 1}}"
    )
    deep = "{'cur_epoch': " + "[" * 50_000
    log = read(
        [
            step_line(VOC, 50),
            line(attack),
            line(deep),
            line("{'miou': " + "9" * 60_000 + "}"),
            line("{'miou': " + "-" * 60_000),
        ]
    )
    assert not marker.exists()
    assert len(log.metrics) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"\n \r\n", "it is empty"),
        (b"<!DOCTYPE html><html><body>Not found</body></html>", "it is a web page"),
        (b"Not Found", "it begins 'Not Found', and nothing in it has a loss or a score"),
        (bytes(range(256)) * 40, "nothing in it has a loss or a score"),
    ],
)
def test_what_is_no_log_is_refused_with_a_remedy(content, words, tmp_path):
    (tmp_path / "x.log").write_bytes(content)
    with pytest.raises(RunError, match=f"{words}.*zoo.py get {VOC}.log"):
        read_log(tmp_path / "x.log", VOC)


def test_what_is_not_there_is_refused_with_a_remedy(tmp_path):
    with pytest.raises(MissingFileError, match=r"there is no log .*zoo.py get"):
        read_log(tmp_path / "x.log", VOC)
    with pytest.raises(RunError, match="cannot be read"):
        read_log(tmp_path, VOC)


def test_memory_does_not_grow_with_the_file(tmp_path):
    """Junk of both kinds, many lines and one endless one, around a good log."""
    path = tmp_path / "big.log"
    with path.open("w") as file:
        for _ in range(8_000):
            file.write(line("x" * 150))
        file.write("y" * 2_000_000 + "\n")
        file.writelines(new_log(VOC, 1))
        file.write(line("{'cur_epoch': 1, " + "'a': 1, " * 200_000))
    tracemalloc.start()
    try:
        log = read_log(path, VOC)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 5e6
    assert len(trained(log)) == 13
    assert peak < 2e6  # LONGEST characters a few times over


def test_random_damage_never_breaks_the_reader(tmp_path):
    lines = [
        *new_log(VOC, 1),
        *old_log(VOC, 1),
        line("IoUs: \ncat 0.5\nMIoU: 0.5"),
        line(evaluation(VOC, 2)),
    ]
    good, draw, path = "".join(lines).encode(), random.Random(0), tmp_path / "x.log"
    read_any = 0
    for _ in range(60):
        data = bytearray(good)
        for _ in range(draw.randrange(1, 60)):
            at = draw.randrange(len(data))
            data[at : at + draw.randrange(30)] = bytes(
                draw.choices(b"{}[]()'\",:/\\\n\r\x00\xff 09naif-", k=draw.randrange(20))
            )
        path.write_bytes(data[: draw.randrange(len(data))])
        try:
            log = read_log(path, VOC)
        except RunError:
            continue
        read_any += 1
        assert all(0 <= record["val_miou"] <= 1 for record in log.metrics if "val_miou" in record)
        assert [r["step"] for r in log.metrics] == sorted(r["step"] for r in log.metrics)
    assert read_any > 30


# Dialects of which little is known but what they write; see the publisher's code of those months


def test_a_miou_of_nan_keeps_the_classes(read):
    """January 2024 to June 2025, where a class neither occurs nor is predicted."""
    iou = class_iou(VOC, 1)
    absent, *rest = iou
    log = read(
        [
            step_line(VOC, 50),
            line("Evaluate CCNet at epoch 1"),
            line({"iou": {**iou, absent: math.nan}, "miou": math.nan}),
        ]
    )
    assert log.final_miou == pytest.approx(sum(iou[name] for name in rest) / len(rest))
    assert log.per_class_iou["background"] is None
    assert log.per_class_iou["dog"] == iou["dog"]


def test_levels_followed_by_a_tab(read):
    """July 2023."""
    log = read(
        [
            line("Config file path: x.py", form="%s INFO\t"),
            line("Rank 0 finished", form="%s INFO\t"),
            step_line(VOC, 50),
        ]
    )
    assert [record["step"] for record in trained(log)] == [50]
