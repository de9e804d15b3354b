"""A run folder that is wrong in one way becomes a named problem; the runs beside it are shown."""

import json
import os
from types import SimpleNamespace

import pytest

from ccnet_lab import get_config
from ccnet_lab.app.configurations_tab import filling
from ccnet_lab.app.rendering import Html
from ccnet_lab.app.runs_page import runs_table
from ccnet_lab.app.runs_tab import curves_html
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.errors import RunError, printable
from ccnet_lab.evaluation.protocol import published_protocol
from ccnet_lab.reports.board import read_board
from ccnet_lab.reports.miniatures import read_miniatures
from ccnet_lab.reports.progress import read_runs
from ccnet_lab.runs import Run

CONFIG = get_config("ccnet_resnet50os16_voc")
NAMES = get_dataset("voc").class_names
DEEP = '{"a":' * 50_000 + "1" + "}" * 50_000


def make(folder):
    run = Run.create(folder, CONFIG)
    run.write_training({"seed": 0, "total_steps": 10})
    run.log({"step": 5, "epoch": 0.5, "loss": 1.0, "seconds": 1.0})
    found = {"miou": 0.5, "per_class_iou": dict.fromkeys(NAMES, 0.5)}
    run.write_scores({**found, "protocol": published_protocol(CONFIG).to_dict()})
    return run.folder


def values(name, **changed):
    """A file with other values."""

    def change(run):
        there = json.loads((run / name).read_text())
        (run / name).write_text(json.dumps({**there, **changed}))

    return change


def text(name, content):
    data = content if isinstance(content, bytes) else content.encode()
    return lambda run: (run / name).write_bytes(data)


def protocol(**changed):
    """A score measured in another way."""

    def change(run):
        there = json.loads((run / "scores.json").read_text())
        there["protocol"] |= changed
        (run / "scores.json").write_text(json.dumps(there))

    return change


def dataset(**changed):
    """A data set of the user's own."""
    own = {"key": "mine", "title": "mine", "root": "/none", "train_images": 0, "val_images": 0}
    own |= {"classes": [["#010101", "a"], ["#020202", "b"]], "label_ids": [0, 1]}
    own = own | {"label_ids": []} if "classes" in changed else own
    return text("dataset.json", json.dumps(own | changed))


def pipe(name):
    """A named pipe, which a reader would wait for."""

    def change(run):
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)

    return change


FILES = ("config.json", "training.json", "scores.json")
BAD = {
    **{f"deep {name}": text(name, DEEP) for name in FILES},
    **{f"list {name}": text(name, "[]") for name in FILES},
    **{f"bytes {name}": text(name, b"\xff\xfe{}") for name in FILES},
    "infinite rate": values("config.json", lr=float("inf")),
    "1e999": text("config.json", '{"dataset": "voc", "depth": 1e999}'),
    "steps 1e999": text("training.json", '{"seed": 0, "total_steps": 1e999}'),
    "text for steps": values("training.json", total_steps="many"),
    "alias 5": values("config.json", alias=5),
    "alias a path": values("config.json", alias="../../x"),
    "recurrence": values("config.json", recurrence=10**9),
    "channels": values("config.json", channels=10**9),
    "miou text": values("scores.json", miou="high"),
    "miou 1e999": text("scores.json", '{"miou": 1e999, "per_class_iou": {"dog": 1e999}}'),
    "classes a list": values("scores.json", per_class_iou=[1, 2]),
    "classes of lists": values("scores.json", per_class_iou={"dog": [1], "$x_$": {}}),
    "protocol": values("scores.json", protocol=5),
    "protocol images text": protocol(images="many"),
    "protocol images list": protocol(images=[1]),
    "protocol scales": protocol(scales=["a"]),
    "protocol resize": protocol(resize=[1e999, 1]),
    "protocol window": protocol(window=["a", "b"]),
    "protocol recurrence": protocol(recurrence=float("nan")),
    "iou text": values("scores.json", per_class_iou=dict.fromkeys(NAMES, "x")),
    "iou lists": values("scores.json", per_class_iou={name: [1] for name in NAMES}),
    "iou above 1": values("scores.json", per_class_iou=dict.fromkeys(NAMES, 7)),
    "interval": values("scores.json", miou_interval=["a", "b"]),
    "crop": values("config.json", crop_size=[10**9, 10**9]),
    "crop text": values("config.json", crop_size="12"),
    "dropout": values("config.json", dropout=5.0),
    "kernel": values("config.json", head_kernel=0),
    "divisor": values("config.json", divisor=65536),
    "pipe metrics": pipe("metrics.jsonl"),
    "pipe scores": pipe("scores.json"),
    "pipe reach": pipe("reach.json"),
    "dataset key": dataset(key=5),
    "dataset root": dataset(root=["a"]),
    "dataset title": dataset(title="\ud800"),
    "dataset class": dataset(classes=[["#010101", "\ud800"]]),
    "dataset colour": dataset(classes=[["zz", "a"]]),
    "dataset ids": dataset(label_ids=[9999, "a"]),
    "dataset of 300": dataset(classes=[["#010101", f"c{k}"] for k in range(300)]),
    "metrics": text("metrics.jsonl", '{"step": 1e999}\n' + DEEP + "\n\0\0\0\n"),
    "confusions": text("confusions.npz", b"PK\x03\x04nothing"),
    "reach": text("reach.json", DEEP),
    "$x_$ \x1b[31m <b>": lambda run: None,
    os.fsdecode(b"name \xff"): lambda run: None,
}


@pytest.mark.parametrize("kind", BAD)
def test_one_bad_run_takes_nothing_down(tmp_path, kind):
    make(tmp_path / "good")
    bad = make(tmp_path / (kind if kind in list(BAD)[-2:] else "bad"))
    BAD[kind](bad)
    lines, problems = read_runs(tmp_path)
    assert "good" in [line.name for line in lines]
    table = str(runs_table(tmp_path, lines, problems)) + str(curves_html(lines))
    assert "good" in table
    board = read_board([tmp_path], "voc")
    assert any(row.run and row.run.folder.name == "good" for row in board.rows)
    read_miniatures([tmp_path])
    parts = [object() for _ in range(12)]
    bench = SimpleNamespace(run_folders=lambda: [tmp_path])
    choices = ["measured", "voc", "configuration", "", None, None]
    shown = [*filling(bench, parts, *choices, growth_drawn=True)]
    assert any("good" in str(update.get(parts[0], "")) for update in shown)
    for html in (value for update in shown for value in update.values() if isinstance(value, Html)):
        html.encode("utf-8")  # as it is sent
    assert "31m <b>" not in table
    named = [p.name for p in problems] + [line.name for line in lines]
    assert printable(bad.name) in named


def test_a_pipe_as_lock_is_not_waited_for(tmp_path):
    run = Run(make(tmp_path / "good"))
    run.lock_file.unlink(missing_ok=True)
    os.mkfifo(run.lock_file)
    assert not run.busy


def test_files_larger_than_a_training_writes_are_not_read(tmp_path):
    """Sparse: they take no room here, but would take all memory."""
    run = Run(make(tmp_path / "bad"))
    with run.log_file.open("r+b") as file:
        file.truncate(2_000_000_000)
    _, problems = read_runs(tmp_path)
    assert "at most 500,000,000 are read" in str(problems)
    with pytest.raises(RunError, match="at most 500,000,000 are read"):
        run.metrics()
    (run.folder / "scores.json").write_text("[" + "[]," * 2_000_000 + "[]]")
    with pytest.raises(RunError, match="at most 5,000,000 are read"):
        assert run.scores
