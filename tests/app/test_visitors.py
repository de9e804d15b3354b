"""What a client sends to the app's endpoints never becomes part of a path."""

import fcntl
import inspect
import json
import os
import shutil
import signal
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import gradio
import pytest
import requests

from ccnet_lab.app import server, visitor_files
from ccnet_lab.app.callbacks import explain
from ccnet_lab.app.page import Page
from ccnet_lab.app.session import Workbench
from ccnet_lab.app.view_state import ViewState

EVIL = ("a/../../../victim", "../../victim", "/victim", "victim\0", "..", "C:\\victim")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    top = tmp_path_factory.mktemp("machine")
    folder = top / "a" / "b" / "app"
    folder.mkdir(parents=True)
    blocks = server.build(Workbench(folder / "examples", any_path=False), folder)
    address = server.launch(blocks, quiet=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield top, folder, blocks, address
    blocks.close()


def call(address, index, data, visitor):
    """A callback's answer, through the queue; "" where there is none."""
    body = {"data": data, "fn_index": index, "session_hash": visitor}
    answer = requests.post(f"{address}gradio_api/queue/join", json=body, timeout=60)
    if answer.status_code != 200:
        return ""
    asked = {"session_hash": visitor}
    events = requests.get(f"{address}gradio_api/queue/data", asked, stream=True, timeout=60)
    with events:
        for line in events.iter_lines():
            if b"process_completed" in line:
                return line.decode() if b'"success":true' in line else ""
    return ""


def begin(blocks, address, visitor):
    """Load the page as this visitor, who has a picture on show from then on."""
    found = (i for i, f in blocks.fns.items() if f.fn is not None and f.fn.__name__ == "load")
    call(address, next(found), [None], visitor)


def outside(top, folder):
    """Files that are not the app's own, and any that has a visitor's string in its name."""
    return {
        path
        for path in top.rglob("*")
        if "victim" in path.name or not (path.is_relative_to(folder) or folder.is_relative_to(path))
    }


def index_of(blocks, element):
    button = next(
        block for block in blocks.blocks.values() if getattr(block, "elem_id", None) == element
    )
    return next(
        i for i, function in blocks.fns.items() if (button._id, "click") in function.targets
    )


def load_index(blocks):
    return next(
        i
        for i, function in blocks.fns.items()
        if function.fn is not None and any(event == "load" for _, event in function.targets)
    )


@pytest.mark.parametrize("visitor", ["a", *EVIL])
def test_a_saved_picture_stays_in_the_apps_folder(served, visitor):
    top, folder, blocks, address = served
    for who in ("a", visitor):  # a picture is on show only once the page was loaded
        call(address, load_index(blocks), [None], who)
    saved = set((folder / "saved").rglob("*.png"))
    assert call(address, index_of(blocks, "save"), [None, None], "a")
    answered = call(address, index_of(blocks, "save"), [None, None], visitor)
    assert outside(top, folder) == set()
    assert len(set((folder / "saved").rglob("*.png")) - saved) == 1 + bool(answered)  # each his own


def test_no_endpoint_takes_words_for_paths(served):
    """Every callback that answers at once, with such strings in place of all its inputs."""
    top, folder, blocks, address = served
    asked = 0
    for word in EVIL:
        begin(blocks, address, word)
    for index, function in blocks.fns.items():
        if function.fn is None or inspect.isgeneratorfunction(inspect.unwrap(function.fn)):
            continue
        for word in EVIL:
            for sent in (word, {"path": word, "meta": {"_type": "gradio.FileData"}}):
                call(address, index, [sent] * len(function.inputs), word)
                asked += 1
    assert asked > 100
    assert outside(top, folder) == set()


@pytest.mark.parametrize("name", ["../../victim.png", "..", "victim/../x.png", "v" * 200 + ".png"])
def test_an_uploads_name_is_no_path(served, name):
    top, folder, blocks, address = served
    files = {"files": (name, b"no picture", "image/png")}
    answer = requests.post(f"{address}gradio_api/upload", files=files, timeout=60)
    if answer.status_code == 200:
        upload = next(
            block for block in blocks.blocks.values() if getattr(block, "elem_id", None) == "upload"
        )
        index = next(
            i for i, function in blocks.fns.items() if (upload._id, "upload") in function.targets
        )
        sent = {
            "path": json.loads(answer.text)[0],
            "orig_name": name,
            "meta": {"_type": "gradio.FileData"},
        }
        call(address, load_index(blocks), [None], "b")
        told = call(address, index, [None, None, sent], "b")
        assert "is no picture that can be read here" in told
    assert outside(top, folder) == set()
    assert list((folder / "uploads").rglob("*")) == []  # what cannot be shown is not kept


def test_the_apps_folder_is_private_and_what_killed_apps_left_goes(tmp_path, monkeypatch):
    """Those of living apps, links and foreign folders stay; so do the process's own rights.

    In a container every app has the same process number, so that is not what tells them apart.
    """
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, living, fresh = (tmp_path / f"ccnet_lab_app_{name}" for name in ("a", "b", "c"))
    other, link = tmp_path / "ccnet_lab_words", tmp_path / "ccnet_lab_app_link"
    for folder in (left, living, fresh, other):
        (folder / "uploads").mkdir(parents=True)
    for folder in (left, living):
        (folder / visitor_files.LOCK).touch()
    link.symlink_to(other)
    before = os.umask(0o022)
    try:
        with (living / visitor_files.LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with visitor_files.own_folder() as folder:
                (folder / "a").write_text("x")
                rights = [path.stat().st_mode & 0o777 for path in (folder, folder / "a")]
                assert not left.exists()
                assert all((path / "uploads").exists() for path in (living, fresh, other, link))
        (tmp_path / "b").write_text("x")
    finally:
        os.umask(before)
    assert rights == [0o700, 0o600]
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o644
    assert not folder.exists()


def test_ctrl_c_again_leaves_nothing_of_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored if begun in the background
    plain = shutil.rmtree

    def slow(path, **options):
        os.kill(os.getpid(), signal.SIGINT)
        plain(path, **options)

    monkeypatch.setattr(visitor_files.shutil, "rmtree", slow)
    with visitor_files.own_folder() as folder:
        (folder / "a").write_text("x")
    assert not folder.exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_saved_figure_goes_after_an_hour_and_a_picture_with_its_visitor(tmp_path, monkeypatch):
    """Only his own; the examples, which all share, stay."""
    old, new = (visitor_files.folder_to_save(tmp_path, name) for name in ("one", "two"))
    hour_ago = new.stat().st_mtime - visitor_files.KEPT - 1
    os.utime(old, (hour_ago, hour_ago))
    visitor_files.sweep(tmp_path)
    assert [path.exists() for path in (old, new)] == [False, True]
    page = Page.__new__(Page)
    page.folder, page.views, page.used, page.view = tmp_path, {}, {}, gradio.HTML()
    (tmp_path / "mine.png").write_bytes(b"x")
    first = ViewState("demo", str(tmp_path / "mine.png"))
    with visitor_files.kept_upload(tmp_path, first.image, "") as mine:
        page.forget(first)
        assert Path(mine).exists()
    page.forget(replace(first, image=mine))
    assert not Path(mine).exists()
    assert (tmp_path / "mine.png").exists()


def test_a_visitor_has_the_last_ten_that_he_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(visitor_files, "MOST_SAVED", 3)
    theirs = visitor_files.folder_to_save(tmp_path, "other")
    mine = []
    for number in range(5):
        mine.append(visitor_files.folder_to_save(tmp_path, "me"))
        os.utime(mine[-1], (number, number))
    assert [path.exists() for path in mine] == [False, False, True, True, True]
    assert theirs.exists()


def test_what_is_sent_takes_a_bounded_part_of_the_disk(tmp_path, monkeypatch):
    """The oldest go; what all share stays, and what has just come, so that none is pushed out."""
    monkeypatch.setattr(visitor_files, "COPIES_BYTES", 250_000)
    monkeypatch.setattr(visitor_files, "_taken", lambda file: file.st_size)
    copies, now = [], time.time()
    for number in range(5):
        copies.append(tmp_path / "gradio" / f"{number}" / "upload.png")
        copies[-1].parent.mkdir(parents=True)
        copies[-1].write_bytes(bytes(100_000))
        os.utime(copies[-1], (now - 1000 + number,) * 2)
    (tmp_path / "gradio" / "4" / "folder").mkdir()
    assert not visitor_files.sweep(tmp_path, stay={copies[0]})
    assert [copy.exists() for copy in copies] == [True, False, False, True, True]
    for copy in copies[1:4]:
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(bytes(100_000))
    assert visitor_files.sweep(tmp_path)  # full, of what is young
    assert all(copy.exists() for copy in copies[1:4])


def test_one_file_shown_by_many_takes_its_room_once(tmp_path, monkeypatch):
    """Forty links to it are no forty copies, and are counted once."""
    sent = tmp_path / "gradio" / "a" / "upload.png"
    sent.parent.mkdir(parents=True)
    sent.write_bytes(bytes(1_000_000))
    for _ in range(40):
        with visitor_files.kept_upload(tmp_path, str(sent), "") as mine:
            assert Path(mine).samefile(sent)
    monkeypatch.setattr(visitor_files, "COPIES_BYTES", 1_500_000)
    assert not visitor_files.sweep(tmp_path)


@pytest.mark.parametrize("what", ["uploads under way", "pictures on show", "many tiny files"])
def test_all_that_visitors_send_counts(tmp_path, monkeypatch, what):
    """Tiny files by the blocks they take."""
    names = {
        "uploads under way": ["gradio/tmpabc"],
        "pictures on show": ["uploads/a/upload"],
        "many tiny files": [f"gradio/{n}/a.png" for n in range(200)],
    }[what]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(1_000_000 // len(names)))
    monkeypatch.setattr(visitor_files, "COPIES_BYTES", 900_000)
    assert visitor_files.sweep(tmp_path, shown={str(tmp_path / "uploads/a/upload")})


def test_what_nobody_has_on_show_goes(tmp_path):
    """Uploads that broke off after minutes, others after an hour."""
    paths = [tmp_path / "gradio" / name for name in ("tmpabc", "shown.bin", "gone.bin")]
    paths += [tmp_path / "uploads" / name / "upload" for name in ("shown", "gone")]
    hour_ago = time.time() - visitor_files.KEPT - 1
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        os.utime(path, (hour_ago, hour_ago))
        os.utime(path.parent, (hour_ago, hour_ago))
    visitor_files.sweep(tmp_path, shown={str(paths[1]), str(paths[3])})
    assert [path.exists() for path in paths] == [False, True, False, True, False]


def test_a_visitor_of_whose_leaving_nothing_is_told_is_forgotten(tmp_path):
    page = Page.__new__(Page)
    page.folder, page.view = tmp_path, gradio.HTML()
    files = [visitor_files.write_file(tmp_path, b"x") for _ in range(2)]
    page.views = {file: ViewState("demo", file=file) for file in files}
    page.used = {files[0]: time.time() - visitor_files.UNUSED - 1, files[1]: time.time()}
    page.forget_unused()
    assert [Path(file).exists() for file in files] == [False, True]
    assert [*page.views] == [*page.used] == [files[1]]


def test_a_full_disk_leaves_no_half_of_a_file(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    (tmp_path / "mine.png").write_bytes(b"x")
    with monkeypatch.context() as patch:
        patch.setattr(visitor_files.shutil, "copyfile", full)
        patch.setattr(visitor_files.os, "link", full)
        with (
            pytest.raises(OSError, match="No space"),
            visitor_files.kept_upload(tmp_path, tmp_path / "mine.png", ""),
        ):
            pass
    assert list((tmp_path / "uploads").iterdir()) == []
    assert "No space left on device" in explain(OSError(28, "No space left on device"))
    assert "unforeseen" not in explain(OSError(28, "No space left on device"))
