"""scripts/train_all.py: several runs at full size; runs that fail or are stopped."""

import json
import shlex
import shutil
import signal
import sys
import time
from dataclasses import replace

import pytest
from forked import Forked, ran
from layouts import make_ade20k, make_cityscapes, make_voc

from ccnet_lab.configs import CONFIGS, get_config
from ccnet_lab.errors import ConfigError, LabError
from ccnet_lab.evaluation.published import results_table
from ccnet_lab.runs import Run
from ccnet_lab.training import campaign, throughput
from ccnet_lab.training.signals import Stopped

SMALL = shlex.split(
    "--crop 64 64 --resize 96 64 --batch-size 2 --weights none --workers 0 --device cpu"
)


# Each data set, depth and stride; test_ccnet.py and test_costs.py build and count all twelve.
CHOSEN = [f"ccnet_resnet50os16_{dataset}" for dataset in ("voc", "ade20k", "cityscapes")]
CHOSEN.append("ccnet_resnet101os8_voc")


def call_in_a_fork(command):
    """As `campaign._call`, of a script."""
    done = ran(*command[1:], timeout=500)
    sys.stderr.write(done.stderr)
    return done.returncode, campaign.last_error(done.stderr.encode()), []


def test_several_at_full_size(door, monkeypatch, tmp_path):
    """First without ADE20K: one fails, three finish; then with it: that one finishes."""
    monkeypatch.setattr(campaign, "_call", call_in_a_fork)
    make_voc(tmp_path)
    make_cityscapes(tmp_path)
    runs = tmp_path / "runs"
    options = ["--data", tmp_path, "--runs", runs, "--steps", 1, *SMALL, "--only", *CHOSEN]
    code, out, err = door("scripts/train_all.py", *options)
    assert code == 1, err
    for name in CHOSEN:
        assert (f"failed: {name}:" in err) == name.endswith("ade20k")
    assert "prepare_data.py ade20k" in err
    assert out.count("not trained here") == 1
    make_ade20k(tmp_path)
    code, out, err = door("scripts/train_all.py", *options)
    assert code == 0, err
    assert out.count("finished already") == 3
    for name in CHOSEN:
        run, config = Run.open(runs / name), CONFIGS[name]
        assert run.finished
        assert [record["step"] for record in run.metrics()] == [1]
        assert len(run.scores["per_class_iou"]) == config.num_classes
        assert run.scores["protocol"]["images"] == 2
        assert run.config == replace(config, crop_size=(64, 64), resize=(96, 64), batch_size=2)
        row = next(line for line in out.splitlines() if line.startswith(f"| {name} "))
        assert (
            f"| {config.published_miou:.2f} | {100 * run.scores['miou']:.2f} | - "
            "| not comparable: crop_size" in row
        )
        assert "1 step, weights none" in row
    shutil.rmtree(runs)  # gigabytes of weights


def test_dry_run_prints_what_a_run_takes(door):
    words = ["--only", "*resnet50os*_voc", "*101os8_cityscapes", "--precision", "bf16"]
    code, out, err = door(
        "scripts/train_all.py", "--data", "nowhere", "--dry-run", "--tflops", 316, *words
    )
    assert code == 0, err
    rows = {
        line.split()[0]: line.split()
        for line in out.splitlines()
        if line.startswith(("ccnet", "all"))
    }
    assert rows["ccnet_resnet50os8_voc"][1:4] == ["39,660", "60", "634,560"]
    assert rows["ccnet_resnet101os8_cityscapes"][1:3] == ["81,620", "220"]
    assert float(rows["ccnet_resnet50os8_voc"][-1]) == pytest.approx(
        634_560 * 1.321 / 316 / 3600, abs=0.01
    )
    assert float(rows["all"][-1]) == pytest.approx(
        sum(float(row[-1]) for name, row in rows.items() if name != "all"), abs=0.02
    )
    assert "Estimated, not measured" in out


def test_dry_run_on_several_gpus_has_the_published_steps(door):
    words = ["--dry-run", "--tflops", 316, "--nproc-per-node", 4, "--only", "*50os16*"]
    code, out, err = door("scripts/train_all.py", "--data", "nowhere", *words)
    assert code == 0, err
    steps = {
        line.split()[0]: line.split()[1] for line in out.splitlines() if line.startswith("ccnet")
    }
    counts = {name.rpartition("_")[2]: count for name, count in steps.items()}
    assert counts == {"voc": "39,660", "ade20k": "164,190", "cityscapes": "81,840"}


def test_dry_run_probes_this_machine(door, monkeypatch):
    monkeypatch.setattr(throughput, "PROBE", ("ccnet_resnet50os16_voc", (64, 64)))  # less than 256
    words = ["--dry-run", "--only", "ccnet_resnet50os16_voc", "--device", "cpu"]
    code, out, err = door("scripts/train_all.py", "--data", "nowhere", *words)
    assert code == 0, err
    assert "from a probe of cpu" in out
    assert float(out.splitlines()[1].split()[-1].replace(",", "")) > 1  # hours


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--only", "*os32*"], "matches none of the twelve"),
        (["--device", "cuda:77", "--dry-run"], "cannot be used here"),
        (["--slurm", "gpus"], "KEY=VALUE"),
        (["--slurm", "gpus_per_node=1"], "there is no Slurm here"),
        (["--bach-size", "2"], "unrecognized arguments"),
    ],
)
def test_refusals(door, words, expected, tmp_path):
    code, _, err = door(
        "scripts/train_all.py", "--data", tmp_path, "--runs", tmp_path / "runs", *words
    )
    assert code == 2
    assert expected in err


def test_without_data_it_names_the_miniatures(door):
    code, _, err = door("scripts/train_all.py")
    assert code == 2
    assert "--data ROOT is missing" in err
    assert "`python scripts/train_all.py --miniature`" in err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--seeds", 0], "expected 1 or more"),
        (["--only", "*os32*"], "matches no miniature"),
        (["--batch-size", 2], "unrecognized arguments"),
        (["--data", "REAL"], "holds other files than the miniatures'"),
    ],
)
def test_miniature_refusals(door, words, expected, tmp_path):
    (tmp_path / "VOCdevkit").mkdir()
    words = [tmp_path if word == "REAL" else word for word in words]
    code, _, err = door("scripts/train_all.py", "--miniature", "--runs", tmp_path / "runs", *words)
    assert code == 2
    assert expected in err
    assert not (tmp_path / "runs").exists()


def test_under_torchrun_it_says_how(door, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun sets it
    code, _, err = door("scripts/train_all.py", "--data", "x")
    assert code != 0
    assert "--nproc-per-node N" in err


def test_selection_and_order():
    names = [config.name for config in campaign.select(None)]
    assert sorted(names) == sorted(CONFIGS)
    assert names[0] == "ccnet_resnet50os16_voc"
    assert names[-1] == "ccnet_resnet101os8_cityscapes"
    assert [c.name for c in campaign.select(["*101os8_v*"])] == ["ccnet_resnet101os8_voc"]
    with pytest.raises(ConfigError, match="did you mean 'ccnet_resnet50os8_voc'"):
        campaign.select(["ccnet_resnet50os8_vocc"])


def scripted(tmp_path, **codes):
    """Commands that note their run and exit with a code."""
    note = "import sys; _, file, name, code = sys.argv; open(file, 'a').write(name + ' '); "
    note += "print('error:', name, file=sys.stderr); sys.exit(int(code))"
    return lambda name: [
        sys.executable,
        "-c",
        note,
        str(tmp_path / "order"),
        name,
        str(codes.get(name, 0)),
    ]


def test_a_failed_run_does_not_stop_the_rest(tmp_path):
    found = campaign.run_all(["a", "b", "c", "d"], tmp_path, scripted(tmp_path, b=1, c=75))
    assert (tmp_path / "order").read_text().split() == ["a", "b", "c", "d"]
    assert [(outcome.status, outcome.reason) for outcome in found] == [
        ("finished", ""),
        ("failed", "error: b"),
        ("busy", "another process trains it"),
        ("finished", ""),
    ]


def test_a_stopped_run_stops_the_rest(tmp_path):
    with pytest.raises(Stopped, match="b was stopped"):
        campaign.run_all(["a", "b", "c"], tmp_path, scripted(tmp_path, b=143))
    assert (tmp_path / "order").read_text().split() == ["a", "b"]


def test_sigterm_is_handed_on_and_the_run_saves(tmp_path):
    make_voc(tmp_path)
    words = ["--data", tmp_path, "--runs", tmp_path / "runs", "--only", "*50os16_voc"]
    words += ["--steps", 500, *SMALL, "--log-every", 1]
    process = Forked("scripts/train_all.py", *words)
    folder = tmp_path / "runs" / "ccnet_resnet50os16_voc"
    deadline = time.monotonic() + 90
    while (
        not ((folder / "metrics.jsonl").exists() and Run(folder).metrics())
        and time.monotonic() < deadline
    ):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "the same command resumes it" in err
    assert len(Run(folder).checkpoints()) == 1
    shutil.rmtree(folder)


def finished_run(folder, config, miou, images, **training):
    from ccnet_lab.evaluation.protocol import published_protocol

    run = Run.create(folder, config)
    run.write_training(training)
    run.weights.write_bytes(b"")
    protocol = replace(published_protocol(config), images=images)
    run.write_scores({"miou": miou, "protocol": protocol.to_dict()})


def test_table_marks_ties_and_compares_only_what_can_be(tmp_path):
    voc = [config for config in CONFIGS.values() if config.dataset == "voc"]
    finished_run(tmp_path / voc[0].name, voc[0], voc[0].published_miou / 100 - 0.012, 1449)
    finished_run(tmp_path / voc[1].name, voc[1], voc[1].published_miou / 100 + 0.02, 1449)
    finished_run(tmp_path / voc[2].name, voc[2], 0.5, 100)
    finished_run(tmp_path / voc[3].name, replace(voc[3], epochs=10), 0.5, 1449)
    rows = results_table([config.name for config in voc], tmp_path).splitlines()
    assert rows[2].endswith("| 77.43 | 76.23 | -1.20 | tie |")
    assert rows[3].endswith("| 76.01 | 78.01 | +2.00 | above |")
    assert (
        "not comparable: these scores were measured in different ways: images 100 and 1449"
        in rows[4]
    )
    assert rows[5].endswith("| - | not comparable: epochs 10 |")


def test_slurm_through_submitit(tmp_path):
    """submitit's local executor stands for Slurm: the same array of commands, as processes."""
    pytest.importorskip("submitit", reason='pip install "ccnet_lab[slurm]"')
    commands = [scripted(tmp_path)(name) for name in ("a", "b")]
    jobs = campaign.submit(commands, tmp_path / "logs", {"timeout_min": 2}, cluster="local")
    for job in jobs:
        job.result()
    assert sorted((tmp_path / "order").read_text().split()) == ["a", "b"]
    with pytest.raises(LabError, match="KEY=VALUE"):
        campaign.parameter("gpus")
    assert campaign.parameter("timeout_min=60") == ("timeout_min", 60)


def test_published_numbers_are_only_shown_for_the_recipe_they_belong_to(tmp_path):
    config = replace(get_config("ccnet_resnet50os8_voc"), recurrence=1)
    finished_run(tmp_path / config.name, config, 0.7, 1449)
    row = results_table([config.name], tmp_path).splitlines()[2]
    assert row == f"| {config.name} | - | 70.00 | - | not comparable: no published configuration |"
    assert json.loads((tmp_path / config.name / "config.json").read_text())["recurrence"] == 1
