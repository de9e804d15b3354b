"""Every script starts, says what it does, and refuses nonsense with a remedy."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from forked import ran

ROOT = Path(__file__).parents[2]


def run(*words, timeout=240):
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.mark.parametrize(
    "script", ["app.py", *sorted(f"scripts/{p.name}" for p in (ROOT / "scripts").glob("*.py"))]
)
def test_help(door, script):
    code, out, err = door(script, "--help")
    assert code == 0, err
    assert "usage:" in out


@pytest.mark.parametrize("script", ["train", "train_all", "evaluate", "predict"])
def test_help_does_not_wait_for_torch(script):
    result = run("-X", "importtime", f"scripts/{script}.py", "--help")
    assert result.returncode == 0
    assert "| " in result.stderr
    assert not re.search(r"\| +(torch|numpy)$", result.stderr, re.MULTILINE)


def test_a_script_starts_from_anywhere(tmp_path):
    words = [sys.executable, str(ROOT / "scripts" / "zoo.py"), "list"]
    result = subprocess.run(
        words, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert result.returncode == 0, result.stderr


def test_make_demo_writes_weights_and_a_table(tmp_path):
    result = ran("scripts/make_demo.py", "--out", tmp_path, "--steps", 2, "--scenes", 3)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "README.md").read_text().count("| demo_r1 | 1 |") == 2
    from ccnet_lab import Explorer

    assert Explorer.open(tmp_path / "demo_r1.safetensors").config.recurrence == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--model", "demmo"], "did you mean"),
        (["--model", "/nowhere/at/all.pth"], "neither a model's name nor a file"),
        (["--device", "cuda:99"], "cuda:99"),
    ],
)
def test_app_refuses_with_a_sentence(door, words, expected):
    code, _, err = door("app.py", *words)
    assert code == 2
    assert expected in err
    assert err.count("\n") == 1


def test_app_says_when_its_port_is_taken(door):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, _, err = door("app.py", "--port", taken.getsockname()[1])
    assert code == 2
    assert "--port" in err
