"""files.py: a file is written whole or not at all, with the rights the umask gives."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from ccnet_lab import files
from ccnet_lab.data import prepare
from ccnet_lab.errors import DataError, RunError, WeightsError
from ccnet_lab.evaluation.metrics import load_confusions
from ccnet_lab.files import write_whole
from ccnet_lab.model.weights import open_checkpoint

ROOT = Path(__file__).parent.parent


def test_it_is_forced_to_disk_before_it_gets_its_name_and_the_name_after(tmp_path, monkeypatch):
    path, seen, real = tmp_path / "a.json", [], files.sync
    path.write_text("old")
    monkeypatch.setattr(
        files, "sync", lambda place: (seen.append((place.name, path.read_text())), real(place))
    )
    write_whole(path, lambda temporary: temporary.write_text("new"), RunError)
    assert seen == [("a.json.writing", "old"), (tmp_path.name, "new")]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "raised",
    [
        OSError("no room"),
        RuntimeError("PytorchStreamWriter failed"),
        RuntimeError("worker"),
        WeightsError("differs"),
        KeyError("a"),
    ],
)
def test_what_was_there_before_is_untouched(tmp_path, raised):
    path = tmp_path / "a.onnx"
    path.write_text("old")

    def write(temporary):
        temporary.write_text("half of the n")
        raise raised

    expected = (
        RunError if "no room" in str(raised) or "Writer" in str(raised) else type(raised)
    )  # torch names its writer
    with pytest.raises(expected) as caught:
        write_whole(path, write, RunError)
    if expected is RunError:
        assert str(caught.value).startswith(
            f"{path} cannot be written: {raised}; what was there before is untouched"
        )
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / "plain").write_text("a file")
    for folder in ("nowhere", "plain"):
        with pytest.raises(RunError, match=r"a.json cannot be written: .* choose another place"):
            write_whole(
                tmp_path / folder / "a.json",
                lambda temporary: temporary.write_text("new"),
                RunError,
            )


def test_a_full_disk(tmp_path):
    """A limit on file size is the full disk."""
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from ccnet_lab.errors import RunError; from ccnet_lab.files import write_whole\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))\n"
        "write_whole(Path(sys.argv[1]), lambda path: path.write_bytes(bytes(5_000)), RunError)"
    )
    (tmp_path / "a").write_text("old")
    result = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert "RunError: " in result.stderr
    assert "File too large; what was there before is untouched; make room" in result.stderr
    assert (tmp_path / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


@pytest.mark.parametrize(("umask", "rights"), [(0o022, 0o644), (0o007, 0o660)])
def test_the_rights_are_those_of_any_new_file(tmp_path, umask, rights):
    """safetensors itself makes files private; what a killed process left has its rights, too."""
    import torch

    path = tmp_path / "a.safetensors"
    (tmp_path / "a.safetensors.writing").touch(0o600)
    before = os.umask(umask)
    try:
        write_whole(path, lambda temporary: save_file({"a": torch.zeros(1)}, temporary), RunError)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == rights


def test_a_zip_that_would_fill_the_memory_is_refused(tmp_path):
    """Whatever reads it; one that only looks so is read."""
    bomb, honest = tmp_path / "bomb.npz", tmp_path / "honest.npz"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        for number in range(3):
            packed.writestr(f"{number}.npy", bytes(50_000_000))
    assert bomb.stat().st_size < 300_000
    np.savez(honest, a=np.zeros(100))
    files.refuse_bomb(honest, RunError)
    with pytest.raises(RunError, match="unpacks to 150,000,000"):
        files.refuse_bomb(bomb, RunError)
    with pytest.raises(RunError, match="unpacks to"):
        load_confusions(bomb)
    with pytest.raises(WeightsError, match="unpacks to"):
        open_checkpoint(bomb.rename(tmp_path / "bomb.pth"))


def test_an_archive_that_would_fill_the_disk_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "UNPACKED", 1_000_000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("top/a.txt", bytes(5_000_000))
    with pytest.raises(DataError, match="more than 10 times its size"):
        prepare.unpack(tmp_path / "a.zip", {"top": tmp_path / "there"})
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
