"""reports/progress.py, its page and its curves: runs that train, cut, foreign and finished ones."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from forked import Forked
from layouts import make_camvid

from ccnet_lab import get_config
from ccnet_lab.app.runs_page import duration, runs_table
from ccnet_lab.draw.charts import LINES, training_figure
from ccnet_lab.reports import progress as training_runs
from ccnet_lab.reports.progress import Problem, curves_of, read_runs
from ccnet_lab.runs import Run

ROOT = Path(__file__).parents[2]
OPTIONS = shlex.split(
    "--device cpu --crop 32 32 --resize 64 48 --batch-size 4 --steps 4000 --log-every 1 "
    "--save-every 500 --workers 0"
)


def record(step, **more):
    return {
        "step": step,
        "epoch": step / 10,
        "loss": 2 / step,
        "lr": 0.01,
        "images_per_second": 8.0,
        "seconds": 0.5 * step,
    } | more


def make_run(folder, steps=0, total=40, **more):
    run = Run.create(folder, get_config("street"))
    run.write_training({"total_steps": total})
    for step in range(1, steps + 1):
        run.log(record(step, **more))
    return run


def age(run, seconds):
    log = run.folder / "metrics.jsonl"
    os.utime(log, (time.time() - seconds,) * 2)


def test_a_clock_that_was_set_back_prolongs_nothing(tmp_path):
    run = make_run(tmp_path / "run", steps=10)
    age(run, -9_000_000)
    with run.locked():
        (line,), _ = read_runs(tmp_path)
    assert line.seconds_left == pytest.approx(30 * 0.5, abs=0.5)


def test_a_run_is_read_while_another_process_trains_it(tmp_path):
    make_camvid(tmp_path / "data")
    words = [
        "scripts/train.py",
        "street",
        "--data",
        tmp_path / "data",
        "--runs",
        tmp_path / "runs",
        *OPTIONS,
    ]
    process = Forked(*words)
    try:
        seen, deadline = [], time.monotonic() + 120
        while (
            (not seen or seen[-1].step < 8)
            and time.monotonic() < deadline
            and process.poll() is None
        ):
            lines, problems = read_runs(tmp_path / "runs")
            seen += [
                line for line in lines if line.step and (not seen or line.step > seen[-1].step)
            ]
            assert not [
                p for p in problems if "config.json" not in p.reason
            ]  # the folder is made before what stands in it
            time.sleep(0.01)
        line = seen[-1]
        assert line.step >= 8
        assert (line.name, line.config.name, line.total_steps) == ("street", "street", 4000)
        assert line.seconds_left is not None
        assert 0 < line.seconds_left < 4000 * 60
        assert len(line.curves["loss"][0]) == line.step
        assert line.newest("loss") > 0
        html = runs_table(tmp_path, [line], [])
        assert " left</small>" in html
        if sys.platform == "linux":  # by the lock, however long ago the last line was
            assert "running" in html
            os.kill(process.pid, signal.SIGSTOP)
            age(Run(line.folder), 3600)
            assert read_runs(tmp_path / "runs")[0][0].status == "running"
            os.kill(process.pid, signal.SIGCONT)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(60)
    age(Run(line.folder), 3600)
    (stopped,), _ = read_runs(tmp_path / "runs")
    assert (stopped.status, stopped.seconds_left) == ("stopped", None)
    html = runs_table(tmp_path, [stopped], [])
    assert "last written 1 h ago" in html
    assert (
        f"<code>python scripts/train.py street --data ROOT --runs {tmp_path / 'runs'} "
        "--resume</code>" in html
    )


def test_reading_leaves_a_lock_of_this_process_alone(tmp_path):
    run = make_run(tmp_path / "mine", 2)
    file = f"open({str(run.folder / 'run.lock')!r}, 'a')"
    take = f"import fcntl; fcntl.lockf({file}, fcntl.LOCK_EX | fcntl.LOCK_NB)"
    with run.locked():
        assert read_runs(tmp_path)[0][0].status == "running"
        other = subprocess.run(
            [sys.executable, "-c", take], capture_output=True, text=True, check=False
        )
    assert "BlockingIOError" in other.stderr


def test_only_what_was_appended_is_read(tmp_path, monkeypatch):
    run = make_run(tmp_path / "one", 3)
    read_runs(tmp_path)
    taken = []
    take = training_runs._Log.take
    monkeypatch.setattr(
        training_runs._Log, "take", lambda log, line: (taken.append(line["step"]), take(log, line))
    )
    read_runs(tmp_path)
    with (run.folder / "metrics.jsonl").open("a") as file:
        whole = json.dumps(record(4, train_miou=0.25)) + "\n"
        file.write(whole[:20])
        file.flush()
        assert read_runs(tmp_path)[0][0].step == 3
        file.write(whole[20:])
    (line,), problems = read_runs(tmp_path)
    assert (line.step, line.newest("train_miou"), taken, problems) == (4, 0.25, [4], [])
    run.rewind_log(2)  # as a resumption does: another file
    assert read_runs(tmp_path)[0][0].step == 2
    assert taken == [4, 1, 2]
    run.log(record(3, val_miou=0.5))
    (line,), _ = read_runs(tmp_path)
    assert (line.step, line.miou, line.final) == (3, 0.5, False)
    run.write_scores({"miou": 0.625})
    (line,), _ = read_runs(tmp_path)
    assert (line.status, line.miou, line.final) == ("finished", 0.625, True)
    assert line.curves["val_miou"][:, -1].tolist() == [3, 0.3, 0.625]


def test_status_and_time_left(tmp_path):
    assert make_run(tmp_path / "empty").training == {"total_steps": 40}
    run = make_run(tmp_path / "going", 10)
    age(run, 1)
    empty, going = read_runs(tmp_path)[0]
    assert (empty.status, empty.step, empty.written) == ("no steps yet", 0, None)
    assert going.status == "running"
    assert going.seconds_left == pytest.approx(30 * 0.5 - 1, abs=0.5)
    age(run, 2)  # more than three intervals of half a second
    assert read_runs(tmp_path)[0][1].status == "stopped"
    run.log(record(11, seconds=9.5))  # four seconds later, as after an evaluation between
    age(run, 8)
    assert read_runs(tmp_path)[0][1].status == "running"


def test_bad_runs_are_named_and_the_others_shown(tmp_path):
    make_run(tmp_path / "good", 2)
    for name, content in {
        "cut": '{"dataset": "vo',
        "list": "[1]",
        "word": '{"crop_size": ["a", 1], "dataset": "voc", "depth": 50}',
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(content)
    for name in ("foreign<b>", "slurm", ".hidden"):
        (tmp_path / name).mkdir()
    (tmp_path / "results.md").write_text("a file")
    unknown = make_run(tmp_path / "unknown")
    config = json.loads((unknown.folder / "config.json").read_text())
    (unknown.folder / "config.json").write_text(json.dumps(config | {"dataset": "kitti"}))
    torn = make_run(tmp_path / "torn", 2)
    with (torn.folder / "metrics.jsonl").open("a") as file:
        file.write(
            '{"step": 3, "lo\n[]\n{"step": NaN}\n{"step": 4, "loss": [1]}\n'
            + json.dumps(record(5))
            + "\n"
        )
    lines, problems = read_runs(tmp_path)
    reasons = {problem.name: problem.reason for problem in problems}
    assert [(line.name, line.step) for line in lines] == [("good", 2), ("torn", 5)]
    assert list(reasons) == ["cut", "foreign<b>", "list", "torn", "unknown", "word"]
    assert "no data set 'kitti'" in reasons["unknown"]
    assert "3 lines of its log cannot be read, the first is line 3" in reasons["torn"]
    html = runs_table(tmp_path, lines, problems)
    assert "foreign&lt;b&gt;" in html
    assert "<b>good" not in html


@pytest.mark.parametrize("step", [10**30, -1, 2**53, 1.5, True, "3", None, [3]])
def test_a_step_that_is_none_is_named(tmp_path, step):
    run = make_run(tmp_path / "odd", 2)
    run.log({"step": step, "loss": 1})
    (line,), (problem,) = read_runs(tmp_path)
    assert (line.step, problem.name) == (2, "odd")
    assert "1 lines of its log cannot be read, the first is line 3" in problem.reason
    with pytest.raises(ValueError, match="expected a whole number, 0 or more"):
        curves_of([{"step": step, "loss": 1}])


@pytest.mark.parametrize(
    "value",
    [
        10**400,
        -(10**30000 // 10**29000),
        1.7e308,
        float("nan"),
        float("-inf"),
        True,
        "0.5",
        None,
        [1],
        {},
    ],
)
def test_a_value_that_is_no_number_is_left_out(tmp_path, value):
    run = make_run(tmp_path / "odd", 2)
    run.write_training({"total_steps": value})
    run.write_scores({"miou": value})
    run.log(
        {"step": 3, "epoch": value, "lr": 0.5}
        | dict.fromkeys(("loss", "val_miou", "seconds", "images_per_second"), value)
    )
    (line,), problems = read_runs(tmp_path)
    assert (line.step, line.newest("loss"), line.newest("lr"), line.miou, line.total_steps) == (
        3,
        1.0,
        0.5,
        None,
        None,
    )
    assert problems == []
    assert {curve.dtype for curve in line.curves.values()} == {np.dtype(np.float64)}
    training_figure({"odd": line.curves}).canvas.draw()
    runs_table(tmp_path, [line], problems)


def test_a_folder_that_cannot_be_read_hides_nothing_else(tmp_path):
    make_run(tmp_path / "good", 2)
    (tmp_path / "away").symlink_to("n" * 300)  # cannot be looked at, whoever asks
    lines, problems = read_runs(tmp_path)
    assert [line.name for line in lines] == ["good"]
    assert [problem.name for problem in problems] == ["away"]


def test_logs_of_runs_that_are_gone_are_forgotten(tmp_path):
    for name in ("one", "two"):
        make_run(tmp_path / name, 2)
    read_runs(tmp_path)
    known = {path.parent.name for path in training_runs._logs if path.is_relative_to(tmp_path)}
    shutil.rmtree(tmp_path / "one")
    read_runs(tmp_path)
    assert known - {
        path.parent.name for path in training_runs._logs if path.is_relative_to(tmp_path)
    } == {"one"}
    shutil.rmtree(tmp_path / "two")
    tmp_path.rmdir()
    assert read_runs(tmp_path) == ([], [])
    assert not [path for path in training_runs._logs if path.is_relative_to(tmp_path)]


def test_what_resumes_a_stopped_run_is_quoted(tmp_path):
    run = make_run(tmp_path / "my runs<" / "a b", 2)
    age(run, 3600)
    html = runs_table(tmp_path, read_runs(run.folder.parent)[0], [])
    assert f"--runs &#39;{tmp_path}/my runs&lt;&#39; --name &#39;a b&#39; --resume</code>" in html


def test_without_runs_it_says_what_to_type(tmp_path):
    assert read_runs(tmp_path / "none") == ([], [])
    assert "--runs runs&lt;" in runs_table(Path("runs<"), [], [])
    (tmp_path / "file").write_text("")
    assert [p.name for p in read_runs(tmp_path / "file")[1]] == ["file"]
    assert "role='alert'" in runs_table(tmp_path, [], [Problem("x", "y")])


def test_the_finished_street_runs(tmp_path):
    shutil.copytree(ROOT / "results" / "runs", tmp_path, dirs_exist_ok=True)
    (street, street8), problems = read_runs(tmp_path)
    assert problems == []
    assert (street.status, street.step, street.total_steps, street.epoch) == (
        "finished",
        5800,
        5800,
        100.0,
    )
    assert street8.miou == Run.open(tmp_path / "street8").scores["miou"]
    assert street.curves["loss"].shape == (3, 200)
    assert "59.82 %" in runs_table(tmp_path, [street], [])


def test_curves_of_twelve_runs_and_a_published_log():
    steps = np.arange(1, 1001)
    made = curves_of(
        record(int(s), train_miou=0.1, val_miou=0.2 if s % 100 == 0 else None) for s in steps
    )
    made["loss"][2, 5] = np.nan
    published = {
        "run3": curves_of(
            [{"step": 1000, "epoch": 100.0, "loss": 1.0, "lr": 0.1, "val_miou": 0.7743}]
        )
    }
    figure = training_figure({f"run{k}": made for k in range(12)}, published)
    loss, rate, _, miou = figure.axes
    for axis in figure.axes:
        solid = [
            line.get_color()
            for line in axis.lines
            if line.get_alpha() is None and line.get_linestyle() == "-"
        ]
        assert solid == list(LINES)
    (dashed,) = (line for line in rate.lines if line.get_linestyle() == "--")
    assert dashed.get_color() == LINES[3]
    assert np.isfinite(
        next(line for line in loss.lines if line.get_alpha() is None).get_ydata()
    ).all()
    assert miou.lines[1].get_xdata().tolist() == list(range(10, 101, 10))  # epochs
    assert miou.lines[1].get_ydata() == pytest.approx(20)
    assert len(figure.legends[0].get_texts()) == 13
    training_figure({}).canvas.draw()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (59.6, "1 min"), (75, "1 min 15 s"), (7800, "2 h 10 min"), (273600, "3 d 4 h")],
)
def test_durations(seconds, words):
    assert duration(seconds) == words
