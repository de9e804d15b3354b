"""reports/logs.py: logs made in each form the reference's trainer has had, whole and broken; what is read is what was written."""

import gzip
import json
import math
import random
import tracemalloc

import pytest

from ccnet_lab import get_config
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.errors import MissingFileError, RunError
from ccnet_lab.reports.logs import MOST_UNREAD, match_classes, read_log
from ccnet_lab.runs import Run

VOC, ADE, CITY = (
    "ccnet_resnet50os8_voc",
    "ccnet_resnet101os16_ade20k",
    "ccnet_resnet50os16_cityscapes",
)
PER_EPOCH = {VOC: 661, ADE: 1263, CITY: 372}
THEIRS = {"voc": "VOCDataset", "ade20k": "ADE20kDataset", "cityscapes": "CityScapesDataset"}
# Names the reference gives the classes, where they differ from the catalog's; the long ones are ADE20K's own.
SPELT = {
    "background": "__background__", "traffic light": "traffic_light", "traffic sign": "traffic_sign", "building": "building, edifice",
    "chest": "chest of drawers, chest, bureau, dresser", "pool": "pool table, billiard table, snooker table",
    "swimming": "swimming pool, swimming bath, natatorium", "coffee": "coffee table, cocktail table", "kitchen": "kitchen island",
    "screen door": "screen door, screen", "screen": "screen, silver screen, projection screen", "blind": "blind, screen",
    "toilet": "toilet, can, commode, crapper, pot, potty, stool, throne", "crt": "crt screen", "arcade": "arcade machine",
    "trade": "trade name, brand name, brand, marque", "traffic": "traffic light, traffic signal, stoplight", "dirt": "dirt track",
    "buffet": "buffet, counter, sideboard", "land": "land, ground, soil", "earth": "earth, ground", "swivel": "swivel chair",
}  # fmt: skip


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
        "cur_epoch": (step - 1) // per + 1, "max_epochs": config.epochs, "cur_iter": step, "max_iters": config.epochs * per,
        "cur_iter_in_cur_epoch": (step - 1) % per + 1, "max_iters_in_cur_epoch": per, "segmentor": "CCNet",
        "backbone": f"resnet{config.depth}conv3x3stem", "dataset": THEIRS[config.dataset], "learning_rate": lr(step, name), "ema": False,
        "max_gpu_alloc_GB": 9.5, "eta": "01:02:03", **losses(step), **more,
    }  # fmt: skip
    return line(values, step)


def new_log(name, epochs=None, first=1, every=1):
    """The form of 2024 and later: `every` epochs an evaluation."""
    config, per = get_config(name), PER_EPOCH[name]
    head = [line("Config file path: ssseg/configs/ccnet/x.py"), line("Config details: ")]
    head += [
        "{'type': 'CCNet', 'losses': {'loss_aux': {'scale_factor': 0.4}}, 'scheduler': {'lr': 0.01, 'size': (512, 512)}}\n"
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
    """The form of December 2020, when the CCNet numbers were published: no dictionary, no evaluation."""
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
            message = f"[EPOCH]: {epoch}/{config.epochs}, [BATCH]: {batch}/{per}, {rate}\n\t[LOSS]: {told}, "
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


def has(log, words):
    return [remark for remark in log.remarks if words in remark]


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
    assert log.unmapped == log.unread == ()
    assert log.remarks == (
        f"its last mIoU is {100 * log.final_miou:.2f} %, the published one {config.published_miou:.2f} %",
    )


def test_the_fields_are_those_of_a_run_of_ours(read):
    ours = {key for record in Run.open("results/runs/street").metrics() for key in record}
    assert {key for record in read(new_log(VOC, 2)).metrics for key in record} <= ours


def test_the_form_of_2020_reads_alike_and_says_that_it_holds_no_score(read):
    old, new = read(old_log(VOC)), read(new_log(VOC))
    assert [r["step"] for r in trained(old)] == [r["step"] for r in trained(new)]
    for a, b in zip(trained(old), trained(new), strict=True):
        assert a == pytest.approx(b, abs=5.1e-5)
    assert old.unread == ()
    assert (old.final_miou, old.per_class_iou) == (None, {})
    assert len(old.remarks) == 1
    assert has(old, "no evaluation in it")


def test_the_form_of_2023_has_no_iteration_and_no_announcement(read):
    lines = []
    for step in range(50, 1323, 50):
        told = {
            "epoch": (step - 1) // 661 + 1,
            "batch": (step - 1) % 661 + 1,
            "segmentor": "ccnet",
            "backbone": "resnet50conv3x3stem",
        }
        lines.append(
            line(
                told
                | {
                    "dataset": "voc",
                    "learning_rate": 0.01,
                    "loss_aux": 0.1,
                    "loss_cls": 0.2,
                    "total": 0.3,
                }
            )
        )
        if step in (650, 1300):
            lines.append(line(evaluation(VOC, step // 650)))
    log = read(lines)
    assert [r["step"] for r in trained(log)] == list(range(50, 1323, 50))
    assert [(r["step"], r["val_miou"]) for r in log.metrics if "val_miou" in r] == [
        (661 * n, evaluation(VOC, n)["miou"]) for n in (1, 2)
    ]
    assert trained(log)[0]["loss"] == 0.3
    assert has(log, "it ends at step 1,300 of 39,660")


def test_other_names_for_the_same_and_an_evaluation_of_the_next_line(read):
    lines = [
        "Epoch: 1/60, Batch: 50/661, Current learning rate: 0.0099, loss: 1.5, loss_cls: 1.25\n"
    ]
    lines += [
        line("Evaluate CCNet at epoch 1"),
        str({"iou": {"aeroplane": 0.5}, "miou": 0.5}) + "\n",
    ]
    log = read(lines)
    assert trained(log) == [
        {"step": 50, "epoch": round(50 / 661, 4), "loss": 1.5, "loss_main": 1.25, "lr": 0.0099}
    ]
    assert log.metrics[-1] == {"step": 661, "epoch": 1.0, "val_miou": 0.5}
    assert has(log, "no IoU for 20 of 21 classes: background, bicycle, bird, boat, bottle, ...")


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
    assert log.unread == ()


@pytest.mark.parametrize("miou", ["MIoU: ", "MIoU: 0."])
def test_a_test_log_of_2020(read, miou):
    found = evaluation(VOC, 60)
    table = "IoUs: \n" + "".join(f"{key} {value}\n" for key, value in found["iou"].items())
    log = read(
        [line("Rank 0 finished..."), line(table + miou.removesuffix("0.") + str(found["miou"]))]
    )
    assert log.final_miou == found["miou"]
    assert list(log.per_class_iou.values()) == list(found["iou"].values())
    assert log.metrics == []
    assert has(log, "no training steps")


def test_percent_becomes_fractions(read):
    log = read(
        [
            *new_log(VOC, 1, every=2),
            line("Evaluate CCNet at epoch 1"),
            line(evaluation(VOC, 1, unit=100)),
        ]
    )
    assert log.final_miou == pytest.approx(evaluation(VOC, 1)["miou"])
    assert list(log.per_class_iou.values()) == pytest.approx(list(class_iou(VOC, 1).values()))


def test_the_published_score_is_confirmed_or_the_difference_named(read):
    found = {"miou": 0.774321, "iou": {}}
    assert not has(
        read([step_line(VOC, 50), line("Evaluate CCNet at epoch 60"), line(found)]), "published"
    )
    found["miou"] = 0.7744
    assert has(
        read([step_line(VOC, 50), line("Evaluate CCNet at epoch 60"), line(found)]),
        "77.44 %, the published one 77.43 %",
    )


def test_class_names_however_spelt():
    told = {
        "__BACKGROUND__": "background", "Traffic-Light": "traffic light", "tv/monitor": "tvmonitor", "pool table": "pool",
        "swimming pool": "swimming", "screen, silver screen": "screen", "crt screen": "crt", "toilet, stool": "toilet", "stool": "stool",
    }  # fmt: skip
    assert match_classes(list(told), list(told.values())) == told
    assert match_classes(["pool a", "pool b", "sky"], ["pool"]) == {"pool a": "pool"}
    assert match_classes(["motorcycle"], ["motorbike"]) == {}


def test_names_that_fit_no_class_are_named(read):
    found = evaluation(VOC, 1)
    found["iou"] = {
        ("televisor" if key == "tvmonitor" else key): value for key, value in found["iou"].items()
    }
    log = read([*new_log(VOC, 1, every=2), line(found)])
    assert log.unmapped == ("televisor",)
    assert "tvmonitor" not in log.per_class_iou
    assert has(log, "no IoU for 1 of 21 classes: tvmonitor")


# Broken ones


def test_a_log_that_ends_early_begins_late_or_has_holes(read):
    lines = new_log(VOC, 60, every=100)
    log = read(lines[:400])
    assert has(log, "it ends at step 19,800 of 39,660")
    assert has(log, "no evaluation in it")
    log = read(lines[:10] + lines[14:100] + lines[105:])
    assert has(
        log, "2 gaps, lines are missing: between steps 300 and 550, between steps 4,800 and 5,100"
    )
    assert has(read(lines[:4] + lines[40:]), "1 gaps, lines are missing: between steps 0 and 1,850")


def test_a_cut_last_line_is_named_with_its_number(read):
    lines = new_log(VOC, 1, every=2)
    log = read([*lines[:-1], lines[-1][:150]])
    assert len(trained(log)) == 12
    assert [(u.line, u.reason) for u in log.unread] == [
        (len(lines), "its dictionary is cut short or not plain")
    ]
    assert log.unread[0].text.startswith("2024-02-01 10:")


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
    assert has(log, "the steps go back 1 times")
    assert log.final_miou == evaluation(VOC, 3)["miou"]


def test_of_two_runs_in_one_file_the_last_is_read(read):
    first = new_log(VOC, 4)
    log = read(first + new_log(VOC, 2, every=5))
    assert [r["step"] for r in log.metrics] == list(range(50, 2 * 661 + 1, 50))
    assert log.final_miou is None
    assert has(log, f"it holds 2 runs; only the last is read, from line {len(first) + 5} on")


def test_lines_of_several_processes(read):
    lines = new_log(VOC, 2)
    same = read([text for text in lines for _ in range(2)])
    assert same.metrics == read(lines).metrics
    assert not has(same, "several processes")
    other = read(
        [text.replace("'loss_cls': ", "'loss_cls': " + n) for text in lines for n in ("", "1")]
    )
    assert has(other, "26 steps come twice running with other numbers")
    glued = [text.rstrip("\n") if number % 3 else text for number, text in enumerate(lines[3:])]
    assert read(glued).metrics == read(lines).metrics
    torn = lines[5][:200] + lines[6] + lines[5][200:]
    log = read([*lines[:5], torn, *lines[7:]])
    assert [(u.line, u.reason) for u in log.unread] == [
        (6, "its dictionary is cut short or not plain")
    ]
    assert len(trained(log)) == 25


@pytest.mark.parametrize(
    "wrap",
    [
        lambda data: data.replace(b"\n", b"\r\n"),
        gzip.compress,
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: data.decode().encode("utf-16"),
        lambda data: data.replace(
            b"\n2024",
            b"\nProcessing 1/9 in rank 0: 1it [00:01]\rProcessing 2/9 in rank 0: 2it [00:02]\n2024",
        ),
    ],
    ids=["crlf", "gzip", "bom", "utf-16", "progress bars"],
)
def test_the_same_log_in_other_clothes(read, wrap):
    assert read(new_log(VOC, 3), wrap=wrap) == read(new_log(VOC, 3))


def test_a_cut_gzip_file_gives_what_came(read):
    log = read(new_log(VOC, 20), wrap=lambda data: gzip.compress(data)[:10_000])
    assert len(trained(log)) > 50
    assert has(log, "the compressed file is cut short")


def test_bytes_that_are_no_utf8(read):
    log = read(
        new_log(VOC, 2),
        wrap=lambda data: data.replace(b"Config file path: ", b"Config file path: \xff\xfe\xb5"),
    )
    assert log.metrics == read(new_log(VOC, 2)).metrics
    assert has(log, "1 lines have bytes that are no UTF-8")


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
    assert has(log, "numbers that are not finite at 1 logged steps, first at step 100")
    assert log.per_class_iou["sofa"] is None
    assert not has(log, "mean of the IoU")
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
        assert [(u.line, u.reason) for u in log.unread] == [
            (2, "an evaluation without a mIoU between 0 and 100")
        ]
    log = read(
        [step_line(VOC, 50), line({"miou": 0.9, "iou": dict.fromkeys(class_iou(VOC, 1), 0.5)})]
    )
    assert has(log, "a mIoU is not the mean of the IoU per class beside it")


def test_averaged_weights_are_not_taken_for_the_model(read):
    lines = [
        step_line(VOC, 50),
        line("Evaluate EMA of CCNet at epoch 1"),
        line({"miou": 0.9, "iou": {}}),
    ]
    assert has(read(lines), "averaged (EMA) weights are left out")
    assert read(lines).final_miou is None


def test_steps_that_cannot_be_are_named(read):
    good = step_line(VOC, 50)
    for bad, reason in (
        ({"cur_iter": 100, "cur_epoch": 1}, "a step without a loss, or one of too many"),
        ({"cur_iter": -5, "cur_epoch": 1, "loss_total": 1.0}, "a step without its number"),
        ({"cur_iter": 1e300, "cur_epoch": 1, "loss_total": 1.0}, "a step without its number"),
        ({"epoch": "x", "batch": 3, "loss_total": 1.0}, "a step without its number"),
    ):
        log = read([good, line(bad)])
        assert [(u.line, u.reason) for u in log.unread] == [(2, reason)]
        assert len(log.metrics) == 1


def test_a_log_of_something_else_is_told(read):
    assert has(
        read(new_log(CITY, 1), VOC),
        "it is a log of CityScapesDataset, resnet50conv3x3stem, not of ccnet_resnet50os8_voc",
    )
    assert has(read(new_log(VOC, 1), "ccnet_resnet101os8_voc"), "not of ccnet_resnet101os8_voc")
    assert has(read(new_log(CITY, 1), VOC), "it was to have 81,840 steps, the recipe has 22,320")
    assert not has(read(new_log(VOC, 1)), "it is a log of")


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
    assert [u.line for u in log.unread] == [2, 3, 4, 5]
    assert len(log.metrics) == 1


def test_unknown_messages_are_named_and_known_ones_are_not(read):
    log = read(
        [
            step_line(VOC, 50),
            line("CUDA out of memory"),
            line("Loading checkpoints from x"),
            "Traceback (most recent call last):\n",
        ]
    )
    assert [(u.line, u.reason) for u in log.unread] == [(2, "nothing in it has a loss or a score")]
    assert (
        read([step_line(VOC, 50), line("no record")] + [line("no record")] * 300).unread_count
        == 301
    )
    assert len(read([step_line(VOC, 50)] + [line("no record")] * 300).unread) == MOST_UNREAD


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"\n \r\n", "it is empty"),
        (b"<!DOCTYPE html><html><body>Not found</body></html>", "it is a web page"),
        (b"Not Found", "it begins 'Not Found', and nothing in it has a loss or a score"),
        (bytes(range(256)) * 40, "nothing in it has a loss or a score"),
        (gzip.compress(b"<html>", mtime=0), "it is a web page"),
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
    assert log.unread_count == 8_001
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


def line_of_2023(name, step, per_epoch):
    """May to October 2023: epoch and batch, no word of how many there are."""
    config = get_config(name)
    values = {
        "epoch": (step - 1) // per_epoch + 1, "batch": (step - 1) % per_epoch + 1, "segmentor": "CCNet",
        "backbone": f"resnet{config.depth}", "dataset": THEIRS[config.dataset], "learning_rate": lr(step, name), **losses(step),
    }  # fmt: skip
    return line(values, step)


@pytest.mark.parametrize(
    ("name", "per_epoch"), [(VOC, 661), (VOC, 1322), (CITY, 372), (CITY, 371), (ADE, 2526)]
)
def test_lines_that_do_not_say_how_long_an_epoch_is(read, name, per_epoch):
    numbers = [
        step
        for step in range(50, 6 * per_epoch + 1, 50)
        if not 2 * per_epoch < step < 2.5 * per_epoch
    ]  # with a gap
    steps = trained(read([line_of_2023(name, step, per_epoch) for step in numbers], name))
    assert [record["step"] for record in steps] == numbers
    assert steps[-1]["epoch"] == round(numbers[-1] / per_epoch, 4)
    assert [record["loss"] for record in steps] == [losses(step)["loss_total"] for step in numbers]


def test_within_one_epoch_its_length_is_the_recipe_s(read):
    log = read([line_of_2023(CITY, step, 372) for step in (50, 100, 150)], CITY)
    steps = trained(log)
    assert has(log, "its lines don't say how many steps an epoch has; taken are the recipe's 372")
    assert [(record["step"], record["epoch"]) for record in steps] == [
        (n, round(n / 372, 4)) for n in (50, 100, 150)
    ]


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
    assert has(log, "a mIoU is nan; taken is the mean over the 20 classes that have an IoU")
    assert not log.unread


def test_lines_of_december_2021(read):
    head = [
        "Dataset: VOCDataset-trainaug, Number of images: 10582",
        "Segmentor: ccnet, Backbone: resnet-resnet50conv3x3stem",
    ]
    log = read([*map(line, head), step_line(VOC, 50)])
    assert log.unread_count == 0
    assert not has(log, "it is a log of")
    head = [
        "Dataset: ADE20kDataset-train, Number of images: 20210",
        "Segmentor: ccnet, Backbone: resnet-resnet101",
    ]
    other = read([*map(line, head), step_line(VOC, 50)])
    assert has(other, "it is a log of ADE20kDataset-train, not of ccnet_resnet50os8_voc")
    assert has(other, "it is a log of resnet-resnet101, not of ccnet_resnet50os8_voc")


def test_levels_followed_by_a_tab(read):
    """July 2023."""
    log = read(
        [
            line("Config file path: x.py", form="%s INFO\t"),
            line("Rank 0 finished", form="%s INFO\t"),
            step_line(VOC, 50),
        ]
    )
    assert log.unread_count == 0


def test_a_half_known_line_is_reported(read):
    odd = [
        line({"epoch": 1, "segmentor": "CCNet"}),
        line("Segmentation finished in 3 s"),
        line({"batch": 50, "loss_total": 2.0}),
    ]
    log = read([step_line(VOC, 50), *odd])
    assert log.unread_count == 3
    assert {found.reason for found in log.unread} == {
        "a step without its number",
        "nothing in it has a loss or a score",
    }
