"""`train_all.py --miniature` killed at every stage, on tiny data: the end is that of one run."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from forked import Forked
from safetensors.torch import load_file

from ccnet_lab.data.generated.worlds import MARK
from ccnet_lab.runs import Run

NAME = "seed0/ccnet_resnet50os16_voc_mini"
# In every process, as Python imports a module of this name at its start.
TINY = """
from dataclasses import replace
from ccnet_lab.data import catalog
from ccnet_lab.data.generated.worlds import WORLDS
from ccnet_lab.training import pretraining
for key in WORLDS:
    catalog.DATASETS[key] = replace(catalog.DATASETS[key], train_images=8, val_images=2)
pretraining.STEPS = 8
"""


# The command itself is a fork; what it starts are fresh interpreters.
START = """
import os, runpy, sys
tiny, *sys.argv = sys.argv[1:]
os.environ["PYTHONPATH"] = os.pathsep.join([tiny, os.getcwd()])
runpy.run_path(f"{tiny}/sitecustomize.py")
sys.path.insert(0, "scripts")
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def begin(folder, tiny):
    """The command on the data and the runs below `folder`, in a session of its own."""
    words = ["scripts/train_all.py", "--miniature", "--only", Path(NAME).name]
    words += ["--data", folder / "data", "--runs", folder / "runs"]
    return Forked(tiny / "start.py", tiny, *words)


def kill_when(process, there):
    """SIGKILL of the whole session as soon as something is there; gives whether it was."""
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        if there():
            os.killpg(process.pid, signal.SIGKILL)
            process.process.join()
            return True
        time.sleep(0.005)
    return False


def finish(process):
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err


@pytest.mark.skipif(
    sys.platform != "linux", reason="what is left of a killed command ends by prctl"
)
def test_killed_at_every_stage_it_ends_as_if_it_never_was(tmp_path):
    """While generating, pretraining, training, and scoring: the same weights and scores."""
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "sitecustomize.py").write_text(TINY)
    (tmp_path / "tiny" / "start.py").write_text(START)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finish(begin(whole, tmp_path / "tiny"))
    data, run = cut / "data", Run(cut / "runs" / NAME)
    stages = [
        lambda: (data / MARK).exists() and len([*data.rglob("*.png")]) > 4,
        (data / "start" / "resnet50.jsonl").exists,
        lambda: run.log_file.exists() or run.training is not None,
        lambda: run.weights.exists(),
    ]
    killed = []
    for there in stages:
        killed.append(kill_when(begin(cut, tmp_path / "tiny"), there))
        while run.busy:  # the training saves and ends
            time.sleep(0.1)
    assert killed == [True] * 4
    finish(begin(cut, tmp_path / "tiny"))
    weights = [load_file(each / "runs" / NAME / "model.safetensors") for each in (whole, cut)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    for one in ("confusions.npz", "metrics.jsonl"):
        first, second = ((each / "runs" / NAME / one).read_bytes() for each in (whole, cut))
        if one.endswith("jsonl"):  # but for the clock
            first, second = (text.partition(b"images_per_second")[0] for text in (first, second))
        assert first == second, one
    for path in sorted(whole.glob("data/**/*.png")):
        other = cut / path.relative_to(whole)
        assert path.read_bytes() == other.read_bytes()
