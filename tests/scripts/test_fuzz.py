"""scripts/fuzz.py: damaged inputs are read or refused; it finds exceptions, crashes and hangs."""

import os
import subprocess
import time

import pytest


def test_damaged_inputs_are_read_or_refused(door):
    code, out, err = door("scripts/fuzz.py", "--count", 140, "--seed", int(time.time()) // 86_400)
    assert code == 0, out + err
    assert "140 inputs, 0 faults" in out


@pytest.mark.parametrize(("way", "told"), [
    (lambda: 1 / 0, "ZeroDivisionError"), (lambda: os.abort(), "signal 6"),
    (lambda: time.sleep(60), "hang"),
    (lambda: subprocess.run(["true"], check=False), "program"), (lambda: os._exit(3), "exit 3"),
])  # fmt: skip
def test_it_tells_what_went_wrong(way, told, tmp_path, monkeypatch):
    import sys
    from pathlib import Path

    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    import fuzz

    monkeypatch.setattr(fuzz, "PATIENCE", 1.0)
    kinds = {
        "sound": fuzz.Kind([("a", b"abc")], lambda *_: None),
        "odd": fuzz.Kind([("a", b"abc")], lambda *_: way()),
    }
    found = fuzz.batch(kinds, tmp_path, 0, [0, 1, 2, 3])
    assert [(kind, what) for kind, what, *_ in found] == [
        ("sound", "read"),
        ("odd", told),
    ] * 2
    assert sys.modules.pop("fuzz")
