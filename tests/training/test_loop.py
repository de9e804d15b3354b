"""training/loop.py, runs.py: a killed or damaged run ends as an unbroken one or says why."""

import json
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import Forked, ran
from layouts import make_camvid, write
from safetensors.torch import load_file

from ccnet_lab import get_config
from ccnet_lab.errors import (
    ConfigError,
    DataError,
    DeviceError,
    RunError,
)
from ccnet_lab.runs import Run
from ccnet_lab.training import loop, step
from ccnet_lab.training.distributed import processes
from ccnet_lab.training.loop import train
from ccnet_lab.training.settings import Settings
from ccnet_lab.training.signals import Stopped, memory_advice

ROOT = Path(__file__).parents[2]
STEPS = 12
TIMED = ("images_per_second", "seconds")  # what two equal runs may differ in
OPTIONS = shlex.split(
    "--device cpu --crop 32 32 --resize 64 48 --batch-size 4 "
    f"--steps {STEPS} --log-every 1 --save-every 2 --workers 0"
)
CONFIG = replace(get_config("street"), crop_size=(32, 32), batch_size=4, resize=(64, 48))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    make_camvid(root)
    return root


@pytest.fixture
def settings(data):
    return Settings(data=data, device="cpu", steps=4, workers=0, log_every=1, save_every=2)


def start(data, runs, *more):
    return Forked("scripts/train.py", "street", "--data", data, "--runs", runs, *OPTIONS, *more)


def finish(process, timeout=120):
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def lines(runs):
    return [
        {k: v for k, v in record.items() if k not in TIMED}
        for record in Run.open(runs / "street").metrics()
    ]


def wait_for_lines(process, runs, count, patience=60):
    log, deadline = runs / "street" / "metrics.jsonl", time.monotonic() + patience
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(FileNotFoundError):  # a run that begins anew removes it
            if log.read_text().count("\n") >= count:
                return
        time.sleep(0.002)
    pytest.fail(f"no {count} lines in the log: {finish(process)}")


@pytest.fixture(scope="module")
def unbroken(data, tmp_path_factory):
    """From a shell: a fresh interpreter, where the runs that are compared with it are forked."""
    runs = tmp_path_factory.mktemp("unbroken")
    command = [sys.executable, "scripts/train.py", "street", "--data", data, "--runs", runs]
    result = subprocess.run(
        [*map(str, command), *OPTIONS],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return runs


def assert_same_run(runs, unbroken):
    ours, theirs = (
        load_file(runs / "street" / "model.safetensors"),
        load_file(unbroken / "street" / "model.safetensors"),
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert lines(runs) == lines(unbroken)
    assert Run.open(runs / "street").scores["miou"] == Run.open(unbroken / "street").scores["miou"]


def test_an_unbroken_run(unbroken):
    run = Run.open(unbroken / "street")
    assert run.finished
    assert [record["step"] for record in run.metrics()] == list(range(1, STEPS + 1))
    first, last = run.metrics()[0], run.metrics()[-1]
    assert first["lr"] == run.config.lr
    assert last["lr"] == pytest.approx(
        run.config.lr * (1 / STEPS) ** 0.9
    )  # the street model's floor is 0
    assert last["loss"] < first["loss"]
    assert last["loss"] == pytest.approx(last["loss_main"] + last["loss_aux"], rel=1e-5)
    assert last["epoch"] == STEPS / 3
    assert set(run.scores["per_class_iou"]) >= {"road", "sky"}
    assert run.checkpoints() == []
    assert sorted(path.name for path in run.folder.iterdir()) == [
        "config.json",
        "confusions.npz",
        "metrics.jsonl",
        "model.safetensors",
        "run.lock",
        "scores.json",
        "training.json",
    ]


def test_killed_and_resumed_is_bit_identical(data, unbroken, tmp_path):
    """Killed three times: before its first checkpoint or just after, then further on."""
    for seed, after in ((1, 1), (2, 4), (3, 9)):
        process = start(data, tmp_path, "--resume")
        wait_for_lines(process, tmp_path, after)
        time.sleep(random.Random(seed).uniform(0, 0.05))
        process.kill()
        assert finish(process)[0] == -signal.SIGKILL
    code, _, err = finish(
        start(data, tmp_path, "--resume", "--workers", 1)
    )  # workers don't matter either
    assert code == 0, err
    assert_same_run(tmp_path, unbroken)


def test_a_signal_saves_and_resume_ends_as_unbroken(data, unbroken, tmp_path):
    """SIGTERM, then SIGINT in the resumed run."""
    resume, said = [], ""
    for number, after in ((signal.SIGTERM, 3), (signal.SIGINT, 6)):
        process = start(data, tmp_path, *resume)
        wait_for_lines(process, tmp_path, after)
        process.send_signal(number)
        code, out, err = finish(process)
        assert code == 128 + number
        assert said in out
        assert "saved; continue with --resume" in err
        assert "Traceback" not in err
        run = Run.open(tmp_path / "street")
        step = int(run.checkpoints()[0].name.split("-")[1])
        assert step == run.metrics()[-1]["step"]
        resume, said = ["--resume"], f"resuming {tmp_path / 'street'} at step {step}"
    code, out, err = finish(start(data, tmp_path, *resume))
    assert code == 0, err
    assert said in out
    assert_same_run(tmp_path, unbroken)


def stopped_after(folder, settings, last, config=CONFIG, **changes):
    """A run that died after step `last`; its last checkpoint is that of the last even step."""
    settings = replace(settings, **changes)

    class Died(Exception):  # noqa: N818
        pass

    class Dying(Run):
        def log(self, record):
            super().log(record)
            if record["step"] == last:
                raise Died

    plain, loop.Run = loop.Run, Dying
    try:
        with pytest.raises(Died):
            train(folder, config, settings)
    finally:
        loop.Run = plain


def test_a_damaged_checkpoint_falls_back_to_the_one_before(settings, tmp_path):
    expected = train(tmp_path / "whole", CONFIG, replace(settings, steps=6))
    stopped_after(tmp_path / "run", settings, 5, steps=6)
    last, before = Run(tmp_path / "run").checkpoints()
    assert (last.name[:19], before.name[:19]) == ("checkpoint-00000004", "checkpoint-00000002")
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    said = []
    found = train(tmp_path / "run", CONFIG, replace(settings, steps=6, resume=True), said.append)
    assert f"{last.name} is damaged" in said[0]
    assert "at step 2 of 6" in said[1]
    assert found["miou"] == expected["miou"]


def test_no_checkpoint_can_be_read(settings, tmp_path):
    stopped_after(tmp_path / "run", settings, 3)
    for path in Run(tmp_path / "run").checkpoints():
        path.write_bytes(b"nothing")
    with pytest.raises(RunError, match=r"no checkpoint in .* can be read"):
        train(tmp_path / "run", CONFIG, replace(settings, resume=True))


def test_killed_before_the_first_checkpoint_begins_anew(settings, tmp_path):
    expected = train(tmp_path / "whole", CONFIG, settings)
    stopped_after(tmp_path / "run", settings, 1)
    assert (
        train(tmp_path / "run", CONFIG, replace(settings, resume=True))["miou"] == expected["miou"]
    )
    assert [record["step"] for record in Run(tmp_path / "run").metrics()] == [1, 2, 3, 4]


def test_a_full_disk_leaves_the_old_checkpoint(data, tmp_path):
    """A limit on file size is the full disk: a small checkpoint fits, but not the real one."""
    code = (
        "import resource, signal, sys, torch; from pathlib import Path\n"
        "from ccnet_lab.runs import STATE, Run\n"
        "run = Run(Path(sys.argv[1])); run.folder.mkdir()\n"
        "state = dict.fromkeys(STATE, torch.zeros(10)) | {'step': 1, 'seconds': 1.0, 'sums': {}}\n"
        "run.save_checkpoint(state, 1)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "run.save_checkpoint({'x': torch.zeros(1_000_000)}, 2)"
    )
    (tmp_path / "full.py").write_text(code)
    result = ran(tmp_path / "full.py", tmp_path / "run")
    assert "RunError: the checkpoint of step 2 cannot be written" in result.stderr
    assert "checkpoint-00000001" in result.stderr.splitlines()[-1]
    run = Run(tmp_path / "run")
    assert torch.equal(run.load_checkpoint()["model"], torch.zeros(10))
    assert [path.name for path in run.folder.iterdir() if "writing" in path.name] == []


def test_two_processes_cannot_write_to_one_run(data, tmp_path):
    process = start(data, tmp_path, "--steps", 5_000)
    wait_for_lines(process, tmp_path, 1)
    code, _, err = finish(start(data, tmp_path, "--steps", 5_000, "--resume"))
    process.kill()
    finish(process)
    assert code == 75
    assert f"is being written by process {process.pid}" in err
    with Run(tmp_path / "street").locked():  # the lock went with its owner
        pass


def test_a_run_is_gone_on_with_as_it_was_begun(settings, tmp_path):
    stopped_after(tmp_path / "run", settings, 3)
    with pytest.raises(RunError, match="holds a run already; add --resume"):
        train(tmp_path / "run", CONFIG, settings)
    with pytest.raises(RunError, match=r"begun otherwise: .*recurrence was 2 and is 1"):
        train(tmp_path / "run", replace(CONFIG, recurrence=1), replace(settings, resume=True))
    with pytest.raises(RunError, match="begun otherwise: seed was 0 and is 7"):
        train(tmp_path / "run", CONFIG, replace(settings, resume=True, seed=7))
    assert len(Run(tmp_path / "run").checkpoints()) == 1


def test_loss_that_is_not_finite_stops_with_the_batch(data, tmp_path):
    wild = replace(CONFIG, lr=1e20)
    with pytest.raises(RunError) as caught:
        train(
            tmp_path / "run",
            wild,
            Settings(data=data, device="cpu", steps=12, workers=0, log_every=4, save_every=1),
        )
    assert "The batch: " in str(caught.value)
    assert str(caught.value).count("train_") + str(caught.value).count("val_") == 4
    run = Run(tmp_path / "run")
    good = run.load_checkpoint()
    assert f"The last good checkpoint is {run.checkpoints()[0].name}" in str(caught.value)
    assert f"step {good['step'] + 1}:" in str(caught.value)
    assert not run.weights.exists()


def test_micro_batches_reach_the_same_step(settings, tmp_path):
    """With batch norm in eval mode two micro-batches give the loss of the whole batch."""
    found = []
    for parts in (1, 2):
        found.append(frozen_losses(tmp_path / str(parts), replace(settings, accumulate=parts)))
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    with pytest.raises(ConfigError, match="cannot be shared by 1 processes in 3 micro-batches"):
        train(tmp_path / "3", CONFIG, replace(settings, accumulate=3))


def test_scores_on_the_way_change_nothing(settings, tmp_path):
    plain = train(tmp_path / "plain", CONFIG, replace(settings, steps=6))
    said = []
    train(
        tmp_path / "scored",
        CONFIG,
        replace(settings, steps=6, evaluate_every=1, log_every=5, save_every=5),
        said.append,
    )
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("plain", "scored")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert [
        record["step"] for record in Run(tmp_path / "scored").metrics() if "val_miou" in record
    ] == [3]
    log = Run(tmp_path / "scored").metrics()
    miou = next(record["val_miou"] for record in log if "val_miou" in record)
    assert said == [f"epoch 1: mIoU {100 * miou:.2f} %"]
    assert Run(tmp_path / "scored").scores["miou"] == plain["miou"]


def test_killed_while_it_is_scored(settings, tmp_path, monkeypatch):
    """Between steps: scored first on resume. At the end: log and weights stay."""
    settings = replace(settings, steps=6, evaluate_every=1, log_every=2, save_every=4)
    whole = train(tmp_path / "whole", CONFIG, settings)
    expected = [
        {k: v for k, v in record.items() if k not in TIMED}
        for record in Run(tmp_path / "whole").metrics()
    ]
    plain = loop.evaluate

    def dies(*_, **__):
        raise KeyboardInterrupt

    run = tmp_path / "run"

    def dies_at_the_end(*words, **more):
        return dies() if Run(run).weights.exists() else plain(*words, **more)

    for resume, evaluation in (
        (False, dies),
        (True, dies_at_the_end),
    ):  # after step 3, then after the last
        with monkeypatch.context() as patched:
            patched.setattr(loop, "evaluate", evaluation)
            with pytest.raises(KeyboardInterrupt):
                train(run, CONFIG, replace(settings, resume=resume))
    assert Run(run).weights.exists()
    assert train(run, CONFIG, replace(settings, resume=True))["miou"] == whole["miou"]
    assert [
        {k: v for k, v in record.items() if k not in TIMED} for record in Run(run).metrics()
    ] == expected
    assert Run(run).checkpoints() == []


def test_what_has_nothing_to_go_on_with_begins_anew_with_other_options(settings, tmp_path):
    """As after running out of memory in the first steps: the advice can be followed."""
    stopped_after(tmp_path / "run", settings, 1)
    train(
        tmp_path / "run",
        replace(CONFIG, batch_size=2),
        replace(settings, resume=True, accumulate=2),
    )
    assert Run(tmp_path / "run").config.batch_size == 2
    with pytest.raises(
        RunError, match="begun otherwise: seed was 0 and is 3"
    ):  # finished, and still not another run
        train(
            tmp_path / "run",
            replace(CONFIG, batch_size=2),
            replace(settings, resume=True, accumulate=2, seed=3),
        )


def test_other_training_files_are_noticed(settings, tmp_path):
    make_camvid(tmp_path)
    stopped_after(tmp_path / "run", settings, 3, data=tmp_path)
    for part in ("train", "trainannot"):
        (tmp_path / "camvid" / part / "train_003.png").rename(
            tmp_path / "camvid" / part / "train_999.png"
        )
    with pytest.raises(RunError, match="training_files_crc32"):
        train(tmp_path / "run", CONFIG, replace(settings, data=tmp_path, resume=True))


def test_a_signal_while_a_checkpoint_is_read_does_not_condemn_it(settings, tmp_path, monkeypatch):
    stopped_after(tmp_path / "run", settings, 3)
    with monkeypatch.context() as patched:
        patched.setattr(
            torch, "load", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM) or time.sleep(5)
        )
        with pytest.raises(Stopped):
            train(tmp_path / "run", CONFIG, replace(settings, resume=True))
    assert len(Run(tmp_path / "run").checkpoints()) == 1
    assert train(tmp_path / "run", CONFIG, replace(settings, resume=True)) is not None


def test_told_twice_at_once_is_told_once(data, tmp_path):
    """A terminal's Ctrl-C and a parent that hands it on."""
    process = start(data, tmp_path, "--steps", 5_000)
    wait_for_lines(process, tmp_path, 2)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process)
    assert code == 143
    assert "saved; continue with --resume" in err
    assert len(Run(tmp_path / "street").checkpoints()) >= 1


def test_out_of_memory_says_what_to_lower(settings, tmp_path, monkeypatch):
    def short(*_, **__):
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: "
            "you tried to allocate 9 bytes."
        )

    monkeypatch.setattr(step, "segmentation_loss", short)
    with pytest.raises(
        DeviceError,
        match=r"batch of 4 in 1 micro-batches and crops of 32 x 32: raise --accumulate",
    ):
        train(tmp_path / "run", CONFIG, settings)


def test_an_evaluation_s_own_advice_is_kept():
    with pytest.raises(DeviceError, match="--mode slide"), memory_advice(CONFIG, 1):
        raise DeviceError("cuda ran out of memory on a photograph; use --mode slide")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("steps", 0),
        ("seed", -1),
        ("log_every", 0),
        ("save_every", 0),
        ("accumulate", 0),
        ("workers", -1),
    ],
)
def test_impossible_settings(data, option, value):
    with pytest.raises(ConfigError, match=f"--{option.replace('_', '-')} is {value}; expected"):
        Settings(data=data, **{option: value})


def test_bf16_and_deterministic_mode(settings, tmp_path):
    """Autocast gives nearly the same first loss; deterministic mode allows all that is needed."""
    losses = {}
    for name, change in {
        "plain": {},
        "bf16": {"precision": "bf16"},
        "deterministic": {"deterministic": True},
    }.items():
        try:
            train(tmp_path / name, CONFIG, replace(settings, steps=2, **change))
        finally:
            torch.use_deterministic_algorithms(False)
        losses[name] = [record["loss"] for record in Run(tmp_path / name).metrics()]
    assert losses["deterministic"] == losses["plain"]
    assert losses["bf16"][0] != losses["plain"][0]
    assert losses["bf16"][0] == pytest.approx(losses["plain"][0], rel=0.02)
    assert (
        Run(tmp_path / "bf16").scores["protocol"]["precision"] == "fp32"
    )  # scored as the published numbers are


def test_ohem_and_category_loss_train(settings, tmp_path):
    config = replace(CONFIG, ohem=True, category_loss=0.1)
    train(tmp_path / "run", config, replace(settings, steps=2))
    assert np.isfinite([record["loss"] for record in Run(tmp_path / "run").metrics()]).all()


def frozen_losses(folder, settings, group=None):
    """The losses of a run without dropout whose batch norms stay in eval mode."""
    from ccnet_lab.training.loop import Trainer

    with processes("cpu") if group is None else nullcontext(group) as group:
        if group.main:
            Run.create(folder, replace(CONFIG, dropout=0.0))
        group.wait()
        trainer = Trainer(Run.open(folder), settings, group, print)
        for module in trainer.stepper.wrapped.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        trainer.run_steps()
    return [record["loss"] for record in Run.open(folder).metrics()]


TWO = """
import os, sys
from dataclasses import replace
from pathlib import Path
import torch
from torch._dynamo.utils import counters
sys.path[:0] = ["tests", "tests/training"]
from test_loop import Settings, frozen_losses, processes

def traced_only(self, **_):
    self._compiled_call_impl = torch.compile(self._call_impl, backend="aot_eager")

torch.nn.Module.compile = traced_only
os.environ |= {"RANK": sys.argv[3], "LOCAL_RANK": sys.argv[3], "WORLD_SIZE": "2",
               "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": sys.argv[4]}
folder, data = map(Path, sys.argv[1:3])
plain = Settings(data=data, device="cpu", steps=4, workers=0, log_every=1)
with processes("cpu") as group:
    frozen_losses(folder / "plain", plain, group)
    assert not counters["stats"]["unique_graphs"], counters
    frozen_losses(folder / "compiled", replace(plain, compile=True, accumulate=2), group)
assert counters["stats"]["unique_graphs"] == 1, counters
assert not counters["graph_break"], counters
"""


def test_two_processes_have_the_losses_of_one(settings, tmp_path):
    """Compiled (here without code generation) the network stays one graph beside the exchange."""
    expected = frozen_losses(tmp_path / "one", settings)
    (tmp_path / "two.py").write_text(TWO)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    words = tmp_path / "two.py", tmp_path, settings.data
    both = [Forked(*words, rank, port) for rank in range(2)]
    for process in both:
        code, _, err = finish(process)
        assert code == 0, err
    for name in ("plain", "compiled"):
        found = [record["loss"] for record in Run.open(tmp_path / name).metrics()]
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "expected"),
    [
        ({"data": Path("/nowhere")}, DataError, "there is no CamVid at"),
        ({"device": "cuda:77"}, DeviceError, r"use --device cpu"),
        ({"weights": "imagenet"}, RunError.__mro__[1], "start this network with --weights none"),
    ],
)
def test_bad_settings_say_the_remedy(settings, tmp_path, change, error, expected):
    with pytest.raises(error, match=expected):
        train(tmp_path / "run", CONFIG, replace(settings, **change))


def test_fewer_images_than_a_batch(settings, tmp_path):
    with pytest.raises(
        DataError, match="12 images, fewer than one batch of 16; lower --batch-size"
    ):
        train(tmp_path / "run", replace(CONFIG, batch_size=16), settings)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_mask_is_named_from_a_worker_too(settings, tmp_path, workers):
    make_camvid(tmp_path)
    for path in (tmp_path / "camvid" / "trainannot").iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"trainannot.*cannot be read as a mask"):
        train(tmp_path / "run", CONFIG, replace(settings, data=tmp_path, workers=workers))


def test_own_data_from_the_command_line(tmp_path):
    """A user's own folder: trained, scored, and opened again by another process."""
    from layouts import blocks

    for i in range(10):
        image, labels = blocks(i, 3)
        write(tmp_path / "my set" / "images" / f"{i}.png", image)
        write(tmp_path / "my set" / "masks" / f"{i}.png", labels)
    (tmp_path / "my set" / "classes.json").write_text(
        json.dumps(["floor", "wall", "door", "a", "b", "c"])
    )
    words = ["--own", tmp_path / "my set", "--data", tmp_path, "--runs", tmp_path / "runs"]
    words += shlex.split("--crop 32 32 --batch-size 2 --steps 2 --workers 0 --device cpu")
    result = ran("scripts/train.py", "street", *words, "--name", "mine")
    assert result.returncode == 0, result.stderr
    (tmp_path / "open.py").write_text(
        "import sys, ccnet_lab; e = ccnet_lab.Explorer.open(sys.argv[1]); "
        "print(e.config.name, e.class_names, e.model.classifier[-1].out_channels)"
    )
    for source in (tmp_path / "runs" / "mine", tmp_path / "runs" / "mine" / "model.safetensors"):
        result = ran(tmp_path / "open.py", source)
        assert (
            result.stdout.strip()
            == "ccnet_resnet1os4_myset ('floor', 'wall', 'door', 'a', 'b', 'c') 6"
        ), result.stderr


def test_the_log_survives_a_last_line_cut_short(tmp_path):
    run = Run.create(tmp_path / "run", CONFIG)
    run.log({"step": 1, "loss": 2.0})
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    assert run.metrics() == [{"step": 1, "loss": 2.0}]
    run.rewind_log(5)
    assert (run.folder / "metrics.jsonl").read_text().count("\n") == 1
    assert np.isfinite(run.metrics()[0]["loss"])
