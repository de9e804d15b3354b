"""However a training or evaluation breaks off, it ends soon, in one sentence, and can resume."""

import errno
import gc
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from forked import Forked
from layouts import make_camvid

from ccnet_lab import get_config
from ccnet_lab.causes import PEER, cause
from ccnet_lab.data import batches
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.datasets import open_split
from ccnet_lab.errors import DataError, DeviceError, RunError
from ccnet_lab.evaluation.predict import load
from ccnet_lab.evaluation.protocol import plan
from ccnet_lab.runs import Run
from ccnet_lab.training import campaign
from ccnet_lab.training.signals import memory_advice
from ccnet_lab.viewer.notebook import write_shapes_dataset

ROOT = Path(__file__).parents[2]
SOON = 10  # seconds from the fault to the end of the last process
CONFIG = replace(get_config("street"), crop_size=(32, 32), batch_size=4, resize=(64, 48))
OPTIONS = shlex.split(
    "--data . --device cpu --weights none --resize 64 48 --log-every 1 --save-every 2 --workers 2"
)
FAULTY = """
import os, runpy, signal, sys, time
from multiprocessing import active_children
from pathlib import Path
from ccnet_lab.evaluation import evaluate as evaluation
from ccnet_lab.training import loop

fault, mark, *sys.argv = sys.argv[1:]
plain_step, plain_predict = loop.Trainer.train_step, evaluation.predict

def wrong():
    raise TypeError("a mistake of ours")

def full(trainer):
    trainer.run.log_file.unlink()
    trainer.run.log_file.symlink_to("/dev/full")

def tell(number, *processes):
    for process in processes:
        os.kill(process.pid, number)

def strike(trainer=None):
    Path(mark).write_text(str(time.time()))
    match fault:
        case "killed" | "killed while scoring":
            tell(signal.SIGKILL, active_children()[0])
        case "killed beside a stopped one":
            tell(signal.SIGSTOP, active_children()[1])
            tell(signal.SIGKILL, active_children()[0])
        case "all stopped":
            tell(signal.SIGSTOP, *active_children())
            wrong()
        case "full disk":
            full(trainer)
        case "SIGINT" | "SIGTERM":
            os.kill(os.getpid(), getattr(signal, fault))
        case "one of two":
            trainer.group.rank == 1 and wrong()

def train_step(self, batch):
    if self.step == 3 and fault != "killed while scoring":
        strike(self)
    return plain_step(self, batch)

def predict(*given):
    if fault == "killed while scoring":
        strike()
    return plain_predict(*given)

loop.Trainer.train_step, evaluation.predict = train_step, predict
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return write_shapes_dataset(tmp_path_factory.mktemp("data") / "shapes")


def begin(words, torchrun):
    if not torchrun:
        return Forked(*words)
    return subprocess.Popen(
        [sys.executable, *torchrun, *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def end(own, tmp_path):
    """Run train.py with a fault: (exit code, stderr, seconds until the last process ended)."""

    if not Path("/dev/full").exists():
        pytest.skip("the faults are those of Linux")

    def run(fault, *words, crop=32, batch=4, torchrun=()):
        mark, faulty = tmp_path / "mark", tmp_path / "faulty.py"
        faulty.write_text(FAULTY)
        given = ["scripts/train.py", "street", "--own", own, "--name", "run", "--runs", tmp_path]
        given += [*OPTIONS, "--steps", 8, "--crop", crop, crop, "--batch-size", batch, *words]
        process = begin([faulty, fault, mark, *given], torchrun)
        try:
            _, err = process.communicate(
                timeout=60
            )  # until all that hold stderr have ended: workers, too
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail(f"{fault}: it hangs: {process.communicate(timeout=60)[1]}")
        return (
            process.returncode,
            err,
            time.time() - float(mark.read_text()) if mark.exists() else None,
        )

    return run


@pytest.mark.parametrize(
    ("fault", "code", "expected", "step"),
    [
        ("killed", 2, "a worker was killed, by hand or because memory ran out", 2),
        ("killed beside a stopped one", 2, "a worker was killed", 2),
        ("killed while scoring", 2, "a worker was killed", 6),
        ("full disk", 2, "No space left on device", 2),
        ("SIGINT", 130, "stopped at step 4 and saved", 4),
        ("SIGTERM", 143, "stopped at step 4 and saved", 4),
    ],
)
def test_a_training_ends_soon_and_is_kept(end, tmp_path, fault, code, expected, step):
    found, err, seconds = end(fault)
    assert (found, "Traceback" in err) == (code, False), err
    assert expected in err.splitlines()[-1]
    assert "--resume" in err.splitlines()[-1]
    assert seconds < SOON
    run = Run.open(tmp_path / "run")
    assert run.checkpoints()[0].name.startswith(f"checkpoint-{step:08d}-")
    assert not (run.folder / "error.txt").exists()


def test_with_workers_that_hang_it_ends_and_is_gone_on_with(end, tmp_path):
    code, err, seconds = end("all stopped")
    assert (code, "Traceback" in err, seconds < SOON) == (2, False, True), err
    assert (
        "something unforeseen (TypeError: a mistake of ours, "
        f"details in {tmp_path / 'run' / 'error.txt'}); what was" in err
    )
    assert "a mistake of ours" in (tmp_path / "run" / "error.txt").read_text()
    code, err, _ = end("none", "--resume")
    assert code == 0, err
    assert Run.open(tmp_path / "run").finished
    assert [record["step"] for record in Run.open(tmp_path / "run").metrics()] == list(range(1, 9))


def test_batch_norm_on_one_value(end):
    began = time.time()
    code, err, _ = end("none", crop=8, batch=1)
    assert code == 2
    assert time.time() - began < 3 * SOON  # the start included
    assert err.splitlines()[-1].startswith(
        "train.py: error: a crop of 8 x 8 pixels shrinks to a single cell"
    )
    assert err.endswith("raise --crop, or --batch-size without --accumulate\n")


def test_one_of_two_processes(end):
    code, err, seconds = end(
        "one of two", torchrun=("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    )
    assert code != 0
    assert "train.py: error: something unforeseen (TypeError: a mistake of ours" in err
    assert seconds < 2 * SOON  # torchrun looks now and then


# What is told of an error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            "lower --workers or --batch-size",
        ),
        (
            RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"),
            "lower --workers or --batch-size",
        ),
        (
            RunError(
                "f cannot be written: DataLoader worker (pid 7) is killed by signal: Killed. "
            ),
            "a worker was killed",
        ),
        (
            RuntimeError("unable to write to file </torch_1_2_3>: No space left on device (28)"),
            "the workers ran out of /dev/shm",
        ),
        (
            RuntimeError(
                "unable to allocate shared memory(shm) for file </torch_1_2_3>: "
                "Cannot allocate memory (12)"
            ),
            "enlarge it (docker run --shm-size 8g)",
        ),
        (
            RuntimeError(
                "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that "
                "dataloader's workers are out of shared memory. "
                "Please try to raise your shared memory limit."
            ),
            "the workers ran out of /dev/shm",
        ),
        (
            ValueError(
                "Expected more than 1 value per channel when training, "
                "got input size torch.Size([1, 96, 1, 1])"
            ),
            "raise --crop",
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "no more workers can be started"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/runs/a"),
            "'/runs/a'): look at the disk, its room",
        ),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit"),
        (
            RuntimeError("[pair.cc:547] Connection closed by peer [127.0.0.1]:58028"),
            "another of this run's processes has ended",
        ),
        (DataError("a known sentence"), "a known sentence"),
    ],
)
def test_the_cause_of_a_known_error(tmp_path, error, expected):
    assert expected in cause(error, tmp_path)
    assert "\n" not in cause(error, tmp_path)
    assert not list(tmp_path.iterdir())
    with (
        pytest.raises(type(error)) as found,
        memory_advice(CONFIG, 1),
    ):  # which takes none of these for its own
        raise error
    assert found.value is error


def test_the_cause_of_an_unknown_error(tmp_path):
    assert cause(TypeError("strange\nlines"), tmp_path) == (
        f"something unforeseen (TypeError: strange lines, details in {tmp_path / 'error.txt'})"
    )
    assert "strange" in (tmp_path / "error.txt").read_text()
    assert (
        cause(AssertionError(), tmp_path / "nowhere")
        == "something unforeseen (AssertionError: AssertionError)"
    )


def test_the_first_process_to_fail_says_why(tmp_path):
    lines = [
        "train.py: error: the cause",
        "train.py: error: " + PEER + " (gloo): see what it said",
        "torchrun",
    ]
    code = f"import sys; print(*{lines!r}, sep='\\n', file=sys.stderr); sys.exit(1)"
    found = campaign.run_all(["a"], tmp_path, lambda _: [sys.executable, "-c", code])
    assert found == [campaign.Outcome("a", "failed", "train.py: error: the cause")]


# The loaders


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    root = tmp_path_factory.mktemp("camvid")
    make_camvid(root)
    return open_split(get_dataset("camvid"), root)


def both(split, workers):
    yield batches.training_batches(split, CONFIG, range(20), workers=workers)
    yield load(split, plan(split, CONFIG), workers)


def test_closed_they_have_no_workers(split):
    for loader in both(split, 2):
        with closing(loader):
            next(loader)
            assert len(multiprocessing.active_children()) == 2
        assert not multiprocessing.active_children()


def test_a_worker_that_is_killed(split):
    def kill():
        multiprocessing.active_children()[0].kill()
        time.sleep(SOON)

    for loader in both(split, 1):
        next(loader)
        with closing(loader), pytest.raises(RuntimeError, match="killed by signal"):
            kill()
        assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("error", "kind", "expected"),
    [
        (
            OSError(errno.EIO, "Input/output error", "/data/x.png"),
            DataError,
            r"^/data/x.png cannot be read: Input/output error;.*--resume$",
        ),
        (
            MemoryError(),
            DeviceError,
            r"out of memory while \S+.png and its mask were read; lower --workers or --batch-size",
        ),
        (
            TypeError("strange"),
            DataError,
            r"\S+.png or its mask \S+.png cannot be read \(TypeError\('strange'\)\)",
        ),
    ],
)
def test_an_error_in_a_worker_names_the_pair(
    split, monkeypatch, tmp_path, workers, error, kind, expected
):
    def read(*_):
        raise error

    monkeypatch.setattr(batches, "read_pair", read)
    monkeypatch.setattr(type(split), "read", read)
    for loader in both(split, workers):
        with pytest.raises(kind, match=expected) as found:
            list(loader)
        assert not multiprocessing.active_children()
        told = cause(found.value, tmp_path)
        assert ("details in" in told) == isinstance(error, TypeError)
    assert (
        ("in read" in (tmp_path / "error.txt").read_text())
        if isinstance(error, TypeError)
        else not list(tmp_path.iterdir())
    )


def test_no_shared_memory_at_all_is_told(split, monkeypatch, recwarn):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch.multiprocessing, "Event", full)
    for loader in both(split, 1):
        with pytest.raises(
            DeviceError,
            match=r"/dev/shm is full, so no workers start: enlarge it .*, or --workers 0",
        ):
            list(loader)
    gc.collect()
    assert not [found for found in recwarn.list if "unraisable" in str(found.category).lower()]


def test_too_little_shared_memory_is_told(split, monkeypatch):
    """torch moves tensors there in a thread that loses the error, unless it was done before."""

    def short(*_):
        raise RuntimeError("unable to write to file </torch_1_2_3>: No space left on device (28)")

    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", short)
    monkeypatch.setattr(torch.UntypedStorage, "_share_filename_cpu_", short)
    for loader in both(split, 1):
        with pytest.raises(RuntimeError) as found:
            list(loader)
        assert cause(found.value).startswith(
            "the workers ran out of /dev/shm (RuntimeError: unable to write to file </torch_1_2_3>"
        )
        assert not multiprocessing.active_children()
