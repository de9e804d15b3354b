"""The miniatures: which runs there are, their networks, the processes side by side."""

import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from ccnet_lab import build_model
from ccnet_lab.configs import CONFIGS, MINIATURES
from ccnet_lab.data import catalog
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.generated.worlds import WORLDS, generate
from ccnet_lab.errors import ConfigError
from ccnet_lab.model.weights import load_start
from ccnet_lab.training import pretraining
from ccnet_lab.training.miniature import jobs, miniature_table
from ccnet_lab.training.side_by_side import Task, run_side_by_side
from ccnet_lab.training.signals import Stopped


def test_they_are_the_twelve_at_an_eighth_of_the_channels():
    """The same layers with the same strides and dilations; nothing of them is published."""
    assert [name.replace("_mini", "") for name in MINIATURES] == list(CONFIGS)
    parameters = {50: 0, 101: 0}
    for config, full in zip(MINIATURES.values(), CONFIGS.values(), strict=True):
        assert config.published_miou is None
        if full.dataset != "voc":
            continue
        with torch.device("meta"):
            small, large = build_model(config), build_model(full)
        for (name, a), (other, b) in zip(small.named_modules(), large.named_modules(), strict=True):
            assert (name, type(a)) == (other, type(b))
            if isinstance(a, torch.nn.Conv2d):
                for fact in ("kernel_size", "stride", "dilation", "padding"):
                    assert getattr(a, fact) == getattr(b, fact)
                if b.out_channels != full.num_classes:
                    assert 8 * a.out_channels == b.out_channels
        parameters[config.depth] = sum(p.numel() for p in small.parameters())
    assert 0.8e6 < parameters[50] < 0.85e6
    assert 1.1e6 < parameters[101] < 1.15e6


def test_the_runs():
    """The first seed of all comes first; the recurrences are those of R-50-D8."""
    assert len(jobs(3)) == 36
    assert len(jobs(3, recurrences=True)) == 63
    assert [job.seed for job in jobs(2)] == [0] * 12 + [1] * 12
    names = [job.name for job in jobs(1, True, ["*_r0", "*_r3"])]
    assert names == [
        f"seed0/ccnet_resnet50os8_{key}_mini_r{r}"
        for r in (0, 3)
        for key in ("voc", "ade20k", "cityscapes")
    ]
    with pytest.raises(ConfigError, match="matches no miniature"):
        jobs(1, only=["*os32*"])


def task(name, code):
    """A task that runs some Python."""
    return Task(name, [sys.executable, "-c", code], 1, lambda: 0)


def test_a_failure_leaves_the_others_alone(tmp_path):
    """Each has one thread; the reason is the process's own last error."""
    write = "import os, pathlib; pathlib.Path({0!r}).write_text(os.environ['OMP_NUM_THREADS'])"
    bad = "import sys; print('x.py: error: no such thing', file=sys.stderr); sys.exit(2)"
    good = [task(str(n), write.format(str(tmp_path / str(n)))) for n in range(3)]
    found = run_side_by_side([good[0], task("bad", bad), *good[1:]], "runs", at_once=2)
    assert [each.status for each in found] == ["finished", "failed", "finished", "finished"]
    assert found[1].reason == "x.py: error: no such thing"
    assert [(tmp_path / str(n)).read_text() for n in range(3)] == ["1"] * 3


def test_a_task_waits_for_the_one_it_needs(tmp_path):
    """Those that need nothing go first; what needs a failed one fails and says so."""
    made = tmp_path / "made"
    slow = task("slow", f"import time, pathlib; time.sleep(1); pathlib.Path({str(made)!r}).touch()")
    needs = task("needs", f"import pathlib; assert pathlib.Path({str(made)!r}).exists()")
    bad = task("bad", "raise SystemExit('no disk')")
    tasks = [slow, needs._replace(after="slow"), task("free", ""), bad]
    found = run_side_by_side([*tasks, task("lost", "")._replace(after="bad")], "runs", at_once=2)
    status = {each.name: each.status for each in found}
    assert status.pop("lost") == status.pop("bad") == "failed"
    assert set(status.values()) == {"finished"}
    assert found[-1].reason.startswith("bad failed")


def test_a_signal_ends_all_and_starts_no_more(tmp_path):
    """It is passed on; what has not begun does not begin."""
    wait = "import pathlib, time; pathlib.Path({0!r}).touch(); time.sleep(60)"
    tasks = [task(str(n), wait.format(str(tmp_path / str(n)))) for n in range(4)]

    def interrupt():
        while not all((tmp_path / str(n)).exists() for n in range(2)):
            time.sleep(0.05)
        signal.raise_signal(signal.SIGTERM)

    threading.Thread(target=interrupt, daemon=True).start()
    begun = time.monotonic()
    with pytest.raises(Stopped, match="the same command resumes"):
        run_side_by_side(tasks, "runs", at_once=2)
    assert time.monotonic() - begun < 30
    assert not (tmp_path / "2").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="prctl(2) is Linux's")
def test_a_killed_command_leaves_no_process(tmp_path):
    """After SIGKILL of the command its processes get SIGTERM, which trainings save on."""
    saved, code = tmp_path / "saved", "import pathlib, signal, time\n"
    code += f"def end(*_): pathlib.Path({str(saved)!r}).touch(); raise SystemExit\n"
    code += f"signal.signal(signal.SIGTERM, end); pathlib.Path({str(tmp_path / 'up')!r}).touch()\n"
    code += "time.sleep(60)"
    parent = "from ccnet_lab.training.side_by_side import *; import sys\n"
    parent += f"run_side_by_side([Task('a', [sys.executable, '-c', {code!r}], 1, lambda: 0)], 'x')"
    command = subprocess.Popen([sys.executable, "-c", parent], stderr=subprocess.DEVNULL)
    wait_for((tmp_path / "up").exists)
    command.kill()
    command.wait()
    wait_for(saved.exists)


def wait_for(there, seconds=60):
    """Until it is there."""
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_start_weights_come_out_the_same_and_fit(tmp_path, monkeypatch):
    """Twice from the same seed, bit by bit; they load into the backbone; the loss falls."""
    for key in WORLDS:
        small = replace(get_dataset(key), train_images=8, val_images=2)
        monkeypatch.setitem(catalog.DATASETS, key, small)
    generate(tmp_path / "data", 3)
    for name, value in (("BATCH", 4), ("LR", 0.02), ("LOG_EVERY", 4)):
        monkeypatch.setattr(pretraining, name, value)
    for name in "ab":
        pretraining.pretrain(50, 8, tmp_path / "data", tmp_path / f"{name}.safetensors", 12)
    first, second = ((tmp_path / f"{name}.safetensors").read_bytes() for name in "ab")
    assert first == second
    losses = [json.loads(line)["loss"] for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    model = load_start(build_model("ccnet_resnet50os8_voc_mini"), str(tmp_path / "a.safetensors"))
    stored = load_file(tmp_path / "a.safetensors")
    name = "layer4.0.conv2.weight"
    assert torch.equal(model.backbone.state_dict()[name], stored[name])


def test_the_table_says_that_nothing_compares(tmp_path):
    """Without runs, too."""
    text = miniature_table(jobs(2), tmp_path)
    assert text.count("| - | - |") == 12
    assert "nothing here compares with a published number" in text
