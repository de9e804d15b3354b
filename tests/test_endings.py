"""A training or an evaluation that fails once its workers run ends at once, in one sentence, and can be gone on with."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ccnet_lab.explore.studio import write_shapes_dataset
from ccnet_lab.training.guards import cause

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return write_shapes_dataset(tmp_path_factory.mktemp("own") / "shapes", images=20)


def start(shapes, runs, *words, crop="33", batch="2", patch=""):
    """train.py in a process of its own, after the line of Python `patch`."""
    options = ["--own", shapes, "--data", ".", "--device", "cpu", "--resize", "64", "48", "--crop", crop, crop, "--batch-size", batch]
    options += ["--weights", "none", "--runs", runs, "--workers", "2", *words]
    code = f"import runpy, sys; {patch}; runpy.run_path(sys.argv[0], run_name='__main__')"
    script = str(ROOT / "scripts" / "train.py")
    code = f"import sys; sys.argv = {[script, 'street', *map(str, options)]!r}; " + code
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)


def children(pid):
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(folder.name))
    return found


def workers(process, log):
    """The workers' process numbers, once a step is logged."""
    for _ in range(600):
        if log.exists() and log.read_text().count("\n") >= 3 and len(found := children(process.pid)) >= 2:
            return found
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    raise AssertionError("no step was logged")


def ended(process, seconds=60.0):
    """The last line on stderr; nothing else of it is a traceback."""
    words = process.communicate(timeout=seconds)[1]
    assert "Traceback" not in words, words
    return words.strip().splitlines()[-1]


def test_batch_norm_on_one_value(shapes, tmp_path):
    process = start(shapes, tmp_path, "--steps", "2", crop="8", batch="1")
    words = ended(process)
    assert process.returncode == 2
    assert "raise --crop or --batch-size" in words
    assert "--resume" in words


@pytest.mark.parametrize("stopped", [False, True])
def test_a_killed_worker_ends_the_training_which_goes_on(shapes, tmp_path, stopped):
    often = ("--steps", "100000", "--log-every", "1", "--save-every", "2")
    process = start(shapes, tmp_path, *often)
    found = workers(process, Log(tmp_path))
    if stopped:  # one that answers no signal but SIGKILL
        os.kill(found[0], signal.SIGSTOP)
    os.kill(found[1], signal.SIGKILL)
    begun = time.monotonic()
    words = ended(process)
    assert time.monotonic() - begun < 12  # asked: 10; these machines are shared
    assert process.returncode == 2
    assert "a worker was killed" in words
    assert "--resume" in words
    assert not [pid for pid in found if Path(f"/proc/{pid}").exists()]
    again = start(shapes, tmp_path, *often, "--resume")
    workers(again, Log(tmp_path))
    again.send_signal(signal.SIGTERM)
    assert "go on with --resume" in ended(again)
    assert again.returncode == 128 + signal.SIGTERM


class Log:
    """The log of the only run in a folder."""

    def __init__(self, runs):
        self.runs = runs

    def exists(self):
        return any(self.runs.glob("*/metrics.jsonl"))

    def read_text(self):
        return next(self.runs.glob("*/metrics.jsonl")).read_text()


@pytest.mark.parametrize(
    ("patch", "expected"),
    [
        ("import ccnet_lab.data.batches as b; b.read_pair = lambda *_: open('/nowhere/x')", "cannot be read (FileNotFoundError"),
        ("import ccnet_lab.data.batches as b; b.augment = lambda *_: bytearray(2**62)", "out of memory while"),
        ("import ccnet_lab.runs as r; r.Run.log = lambda *_: open('/nowhere/x')", "a file could not be read or written"),
        (
            "import ccnet_lab.training.loop as t; t.Trainer.write_log = lambda *_: {}['x']",
            "something unforeseen (KeyError: 'x', details in",
        ),
    ],
)
def test_any_error_ends_in_a_sentence(shapes, tmp_path, patch, expected):
    process = start(shapes, tmp_path, "--steps", "2", patch=patch)
    words = ended(process)
    assert process.returncode == 2
    assert expected in words
    assert words.startswith("train.py: error: ")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("unable to write to file </torch_12_3>: No space left on device (28)", "/dev/shm"),
        (
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of shared memory.",
            "shm",
        ),
        ("DataLoader worker (pid(s) 7) exited unexpectedly", "lower --workers"),
    ],
)
def test_what_torch_says_of_its_workers(said, expected):
    assert expected in cause(RuntimeError(said))
