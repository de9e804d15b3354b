"""The start of a run, in a folder that something is wrong with: one sentence, whatever it is."""

import json
import os
import random
import shlex
import shutil
from contextlib import suppress

import pytest
import torch
from safetensors.torch import load_file

from ccnet_lab.files import sha256
from ccnet_lab.runs import Run
from ccnet_lab.training import loop
from ccnet_lab.viewer.notebook import write_shapes_dataset

OPTIONS = shlex.split(
    "--data . --device cpu --weights none --precision fp32 --workers 0 --steps 8 --crop 32 32 "
    "--batch-size 2 --resize 64 48 --log-every 1 --save-every 2"
)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return write_shapes_dataset(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture
def start(door, own, tmp_path):
    """`train.py` on a small network: (exit code, stdout, stderr)."""

    def call(*words, runs=tmp_path / "runs"):
        given = ["street", "--own", own, "--name", "run", "--runs", runs, *OPTIONS]
        return door("scripts/train.py", *given, *words)

    return call


_whole = []  # the folders of the two runs below, made once


@pytest.fixture
def begun(start, tmp_path, tmp_path_factory, monkeypatch):
    """A run that broke off after step 5, with the checkpoints of steps 2 and 4."""
    plain = loop.Trainer.train_step

    def ending(self, batch):
        if self.step == 5:
            raise RuntimeError("enough")
        return plain(self, batch)

    if not _whole:
        made = tmp_path_factory.mktemp("begun")
        with monkeypatch.context() as patch:
            patch.setattr(loop.Trainer, "train_step", ending)
            with suppress(RuntimeError):
                start(runs=made)
        _whole.append(made / "run")
    run = Run.open(shutil.copytree(_whole[0], tmp_path / "runs" / "run"))
    assert len(run.checkpoints()) == 2
    return run


@pytest.fixture
def unbroken(start, tmp_path_factory):
    """A run that nothing happened to."""
    if len(_whole) < 2:
        made = tmp_path_factory.mktemp("unbroken")
        assert start(runs=made)[0] == 0
        _whole.append(made / "run")
    return Run.open(_whole[1])


def broken(text):
    return lambda path: path.write_bytes(text)


def changed(**values):
    """A JSON object with other values."""
    return lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def folder(path):
    path.unlink()
    path.mkdir()


JSON_DAMAGES = {
    "empty": broken(b""), "cut": broken(b'{"seed": 3, "st'), "a list": broken(b"[1, 2]"),
    "not UTF-8": broken(b'{"a": "\xff"}'), "zeroed": broken(b"\0" * 300),
    "deep": broken(b'{"a":' * 5000 + b"1" + b"}" * 5000), "a folder": folder,
}  # fmt: skip
KINDS = [
    *((name, kind, make) for name in ("config.json", "training.json", "dataset.json")
      for kind, make in JSON_DAMAGES.items()),
    ("config.json", "another depth", changed(depth=50, output_stride=8)),
    ("config.json", "an infinite rate", broken(b'{"dataset": "camvid", "depth": 1, "lr": 1e999}')),
    ("config.json", "a list for the rate", changed(lr=[1])),
    ("config.json", "recurrence 1e9", changed(recurrence=10**9)),
    ("config.json", "a number as alias", changed(alias=5)),
    ("config.json", "a field too many", changed(strange=1)),
    ("training.json", "another seed", changed(seed=4)),
    ("training.json", "steps as text", changed(total_steps="many")),
    ("dataset.json", "other classes", changed(classes=5)),
    ("training.json", "no steps in an epoch", changed(steps_per_epoch=0)),
    ("training.json", "an epoch of text", changed(steps_per_epoch="x")),
    ("metrics.jsonl", "zeroed", broken(b"\0" * 200 + b"\n{}\n")),
    ("metrics.jsonl", "not UTF-8", broken(b'{"step": 1, "a": "\xff\xfe"}\n\xff\n{"step": 2}\n')),
    ("metrics.jsonl", "without step", broken(b'{"loss": 1}\n{"step": 2}\n')),
    ("metrics.jsonl", "no text step", broken(b'{"step": "2"}\n{"step": 2}\n')),
    ("metrics.jsonl", "a folder", folder),
    ("run.lock", "a folder", folder),
]  # fmt: skip


@pytest.mark.parametrize(("name", "kind", "damage"), KINDS, ids=[f"{n} {k}" for n, k, _ in KINDS])
def test_a_damaged_file_of_the_run_is_named(begun, start, name, kind, damage):
    damage(begun.folder / name)
    code, out, err = start("--resume")
    assert code == 2, out + err
    said = err.splitlines()[-1]
    assert "Traceback" not in err
    assert name in said or "was begun otherwise" in said, said
    assert "unforeseen" not in said, said


def test_what_a_power_cut_leaves_behind_the_checkpoint_is_made_anew(begun, start):
    """Zeros, or a block of another file, where the last lines were: not forced to disk yet."""
    lines = begun.log_file.read_bytes().splitlines(keepends=True)
    begun.log_file.write_bytes(b"".join(lines[:4]) + b"\0" * 90 + b"\nother\n{}\n\0\0")
    code, out, err = start("--resume")
    assert code == 0, out + err
    assert [record["step"] for record in begun.metrics()] == [*range(1, 9)]


def power_cut(run, draw):
    """What a disk may hold after one: nothing that was forced to it is lost, unless it lies."""
    lines = run.log_file.read_bytes().splitlines(keepends=True)
    newest = run.checkpoints()[0]
    zeros = bytes(draw.randrange(1, 5000))
    ways = (
        lambda: run.log_file.write_bytes(b"".join(lines[:4])),
        lambda: run.log_file.write_bytes(b"".join(lines[:4]) + lines[4][: draw.randrange(9)]),
        lambda: run.log_file.write_bytes(b"".join(lines[:4]) + zeros),
        lambda: run.log_file.write_bytes(b"".join(lines) + zeros + b"\n" + zeros),
        lambda: newest.write_bytes(newest.read_bytes()[: draw.randrange(newest.stat().st_size)]),
        lambda: newest.write_bytes(bytes(newest.stat().st_size)),
        newest.unlink,
        lambda: (run.folder / "checkpoint.writing").write_bytes(zeros),
        lambda: (run.folder / "training.json.writing").write_bytes(zeros),
        lambda: run.lock_file.write_bytes(zeros),
    )
    for way in draw.sample(ways, draw.choice((1, 1, 2, 3))):
        with suppress(FileNotFoundError):
            way()


@pytest.mark.parametrize("number", range(24))
def test_power_cuts_cost_no_weight_and_no_line(begun, start, unbroken, number):
    power_cut(begun, random.Random(number))
    code, out, err = start("--resume")
    assert code == 0, out + err
    timed = ("images_per_second", "seconds")
    ours, theirs = (
        [{key: value for key, value in record.items() if key not in timed} for record in log]
        for log in (begun.metrics(), unbroken.metrics())
    )
    assert ours == theirs
    weights = [load_file(run.weights) for run in (begun, unbroken)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_another_interval_of_lines_is_no_damage(begun, start):
    """The checkpoint of step 4 came after the line of step 4; from then on every third."""
    code, out, err = start("--resume", "--log-every", 3)
    assert code == 0, out + err
    assert [record["step"] for record in begun.metrics()] == [1, 2, 3, 4, 6, 8]


def test_lines_that_will_not_be_made_anew_are_missed(begun, start):
    """The checkpoint is that of step 4."""
    lines = begun.log_file.read_bytes().splitlines(keepends=True)
    begun.log_file.write_bytes(b"".join(lines[:2]) + b"\0" * 200)
    code, _, err = start("--resume")
    assert code == 2
    assert "its lines of the steps 3 to 4 are gone" in err
    begun.log_file.unlink()  # as the message says
    begun.rewind_log(4, 4)
    begun.log({"step": 5, "loss": 1.0})  # and killed again
    assert start("--resume")[0] == 0
    assert [record["step"] for record in begun.metrics()] == [4, 5, 6, 7, 8]


def test_lines_missing_in_the_middle_are_missed(begun, start):
    """The checkpoint of step 4 knows of four lines, an evaluation's not counted."""
    lines = begun.log_file.read_bytes().splitlines(keepends=True)
    scored = b'{"step": 4, "epoch": 1.0, "val_miou": 0.5}\n'
    begun.log_file.write_bytes(b"".join([*lines[:1], *lines[2:4], scored, *lines[4:]]))
    code, _, err = start("--resume")
    assert code == 2
    assert "1 of its 4 lines up to step 4 are gone" in err
    begun.log_file.write_bytes(b"".join([*lines[:2], *lines[1:4]]))
    assert "it has 5 lines up to step 4, of which 4 were written" in start("--resume")[2]
    begun.log_file.write_bytes(b"".join([*reversed(lines[:4])]))
    assert "its steps do not rise" in start("--resume")[2]
    begun.log_file.write_bytes(b"".join([*lines[:4], scored, *lines[4:]]))
    (begun.folder / "checkpoint-99999999-folder.pt").mkdir()
    os.mkfifo(begun.folder / "checkpoint-99999998-pipe.pt")
    assert start("--resume")[0] == 0  # from the sound one


PLACE = {
    "model": {}, "optimizer": {}, "step": 6, "seconds": 1.0, "sums": {}, "confusion": torch.zeros(3)
}  # fmt: skip
FOREIGN = {
    "not torch's": b"abc",
    "empty": b"",
    "a list": [1, 2],
    "weights only": {"model": {}, "step": 3},
    "texts": dict.fromkeys(("model", "optimizer", "step", "seconds", "sums", "confusion"), "x"),
    "time as text": PLACE | {"seconds": "x"},
    "sums as a list": PLACE | {"sums": [1]},
    "sums of text": PLACE | {"sums": {"loss": "x", "steps": 1}},
    "a step below 0": PLACE | {"step": -5},
    "a step behind the end": PLACE | {"step": 10**6},
    "other tensors": {
        "model": {"a": torch.zeros(2)}, "optimizer": {}, "step": 6, "seconds": 1.0,
        "sums": torch.zeros(3), "confusion": torch.zeros(2, 2),
    },
}  # fmt: skip


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_checkpoint_of_a_fitting_name(begun, start, content):
    new = begun.folder / "new"
    if isinstance(content, bytes):
        new.write_bytes(content)
    else:
        torch.save(content, new)
    new.rename(begun.folder / f"checkpoint-{6:08d}-{sha256(new)[:8]}.pt")
    code, out, err = start("--resume")
    assert code == 2, out + err
    assert "Traceback" not in err
    assert "checkpoint" in err.splitlines()[-1]
    assert "unforeseen" not in err


def test_a_checkpoint_that_is_a_folder(begun, start):
    path = begun.checkpoints()[0]
    folder(path)
    code, out, err = start("--resume")
    assert code == 0, out + err
    assert f"{path.name} is no file" in out + err
    assert "at step 2 of 8" in out + err  # that of the checkpoint before


def test_runs_that_is_a_file_or_lies_in_one(start, tmp_path):
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "runs", "/proc/none/runs"):
        code, out, err = start(runs=place)
        assert code == 2, out + err
        assert "Traceback" not in err
        assert str(place) in err.splitlines()[-1]


def test_a_full_disk_says_so(start, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Run, "_write", full)
    code, _, err = start()
    assert code == 2
    assert "No space left on device" in err.splitlines()[-1]
