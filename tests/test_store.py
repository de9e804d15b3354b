"""store.py: published files come once and are compared with their record; cuts, mirrors, locks."""

import hashlib
import json
import multiprocessing
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from web import Served, names, serve

from ccnet_lab import store
from ccnet_lab.configs import CONFIGS
from ccnet_lab.downloads import fetch
from ccnet_lab.errors import DownloadError, MissingFileError
from ccnet_lab.hub import available_models, find_weights

NAME = "ccnet_resnet50os8_voc"


@pytest.fixture
def host():
    yield from serve()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch, host):
    monkeypatch.setenv("CCNET_LAB_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(store.MIRROR, f"{host.url}/")
    return tmp_path / "cache"


@pytest.fixture
def checkpoint(tmp_path):
    """The bytes of a small torch file."""
    torch.save({"model": {"a.weight": torch.arange(50_000.0)}}, tmp_path / "small.pth")
    return (tmp_path / "small.pth").read_bytes()


def served(host, name, content, **how):
    host.files[store.find(name).file] = found = Served(content=content, **how)
    return found


@pytest.fixture
def script(door):
    return partial(door, "scripts/zoo.py")


def test_every_configuration_has_a_checkpoint_and_a_log_and_each_depth_start_weights():
    assert len(store.PUBLISHED) == 26
    for config in CONFIGS.values():
        assert store.find(config.name).url == config.published_url
        assert store.find(f"{config.name}.log").url == config.published_url.replace(
            "_train.pth", "_train.log"
        )
    assert store.find("resnet50_v1c").digest == "sha256:2cccc1ad"
    assert len({file.path for file in store.PUBLISHED.values()}) == 26
    with pytest.raises(MissingFileError, match=f"did you mean .*{NAME}"):
        store.find("ccnet_resnet50os8_vok")


def test_obtained_once_and_recorded(host, cache, checkpoint):
    seen, file = [], served(host, NAME, checkpoint)
    path = store.obtain(NAME, lambda done, total: seen.append((done, total)))
    assert path == cache / "checkpoints" / f"{NAME}_train.pth"
    assert path.read_bytes() == checkpoint
    assert seen[-1] == (len(checkpoint), len(checkpoint))
    assert names(path.parent) == [path.name, f"{path.name}.json"]
    record = json.loads((path.parent / f"{path.name}.json").read_text())
    assert (record["bytes"], record["sha256"]) == (
        len(checkpoint),
        hashlib.sha256(checkpoint).hexdigest(),
    )
    assert store.obtain(NAME) == path
    assert file.requests == 1


def test_either_of_the_names_that_were_published(host, checkpoint):
    host.files[f"{NAME}.pth"] = Served(content=checkpoint)
    path = store.obtain(NAME)
    assert path.read_bytes() == checkpoint
    assert path == store.find(NAME).path
    assert (
        json.loads(path.with_name(f"{path.name}.json").read_text())["url"]
        == f"{host.url}/{NAME}.pth"
    )
    assert store.addresses(store.find("resnet50_v1c")) == [f"{host.url}/resnet50_v1c-2cccc1ad.pth"]


def test_neither_of_the_names_is_one_message(host):
    with pytest.raises(
        DownloadError,
        match=rf"404 .* to {host.url}/{NAME}.pth; .*before that: "
        rf".* 404 .*{NAME}_train.pth.*pan.baidu",
    ):
        store.obtain(NAME)


@pytest.mark.parametrize(
    "answer", [dict(status=403), dict(content=b"<html>no such file")], ids=["403", "web page"]
)
def test_a_host_that_does_not_say_404_is_asked_for_the_other_name_too(host, checkpoint, answer):
    host.files |= {f"{NAME}_train.pth": Served(**answer), f"{NAME}.pth": Served(content=checkpoint)}
    assert store.obtain(NAME).read_bytes() == checkpoint


def test_both_names_at_once_are_removed_together(script, checkpoint, cache):
    (cache / "logs").mkdir(parents=True)
    for name in (f"{NAME}.log", f"{NAME}_train.log"):
        (cache / "logs" / name).write_bytes(b"2021-06-01 00:00:00 INFO  {'a': 1}\n")
    code, out, _ = script("remove", f"{NAME}.log")
    assert (code, out.count("removed")) == (0, 2)
    assert names(cache / "logs") == []


@pytest.mark.parametrize("name", [f"{NAME}_train", NAME])
@pytest.mark.parametrize("ending", [".pth", ".log"])
def test_by_hand_either_name_counts_everywhere(script, checkpoint, cache, name, ending):
    kind, wanted = ("checkpoints", NAME) if ending == ".pth" else ("logs", f"{NAME}.log")
    file = cache / kind / (name + ending)
    file.parent.mkdir(parents=True)
    file.write_bytes(checkpoint if ending == ".pth" else b"2021-06-01 00:00:00 INFO  {'a': 1}\n")
    assert store.find(wanted).on_disk
    assert store.obtain(wanted) == file
    code, out, _ = script("list")
    line = next(line for line in out.splitlines() if line.split()[0] == wanted)
    assert line.split()[2] == hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    assert out.count(name + ending) == (wanted == name + ending)
    if ending == ".pth":
        assert find_weights(NAME) == file
        assert NAME in available_models()
    code, out, _ = script("remove", wanted)
    assert (code, file.exists()) == (0, False)


def test_a_file_put_there_by_hand_is_recorded_and_must_stay(host, checkpoint):
    file = store.find(NAME)
    file.path.parent.mkdir(parents=True)
    file.path.write_bytes(checkpoint)
    store.obtain(NAME)
    file.path.write_bytes(checkpoint[:-1] + b"x")
    with pytest.raises(
        DownloadError,
        match=rf"at its first use it had {hashlib.sha256(checkpoint).hexdigest()}; .* remove",
    ):
        store.obtain(NAME)
    file.path.write_bytes(checkpoint)  # another time stamp, the same content
    assert store.obtain(NAME) == file.path


def test_an_untouched_file_is_not_read_again(host, checkpoint, monkeypatch):
    served(host, NAME, checkpoint)
    store.obtain(NAME)
    monkeypatch.setattr(store, "sha256", lambda path: pytest.fail("read again"))
    store.obtain(NAME)


def test_start_weights_must_have_the_published_hash(host, checkpoint):
    file = served(host, "resnet50_v1c", checkpoint)
    with pytest.raises(DownloadError, match="expected 2cccc1ad"):
        store.obtain("resnet50_v1c")
    assert not store.find("resnet50_v1c").on_disk
    path = store.find("resnet50_v1c").path  # by hand, and wrong
    path.write_bytes(file.content)
    with pytest.raises(DownloadError, match="expected 2cccc1ad"):
        store.obtain("resnet50_v1c")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\n <!DOCTYPE html><title>Sign in</title>" * 9, "a web page"),
        (b"\x00" * 5000, "no checkpoint"),
        ("cut", "without its end"),
        (b"", "no checkpoint"),
    ],
)
def test_what_is_no_checkpoint_never_gets_the_name(host, checkpoint, cache, content, words):
    served(host, NAME, checkpoint[:-500] if content == "cut" else content)
    with pytest.raises(
        DownloadError,
        match=rf"{words}.*it is removed; call again, or put the right file at .*{NAME}|"
        rf"by hand .*before that: .*{words}",
    ):
        store.obtain(NAME)
    assert names(cache / "checkpoints") == []


def test_a_log_that_is_a_web_page(host):
    served(host, f"{NAME}.log", b"<html>")
    with pytest.raises(DownloadError, match="web page"):
        store.obtain(f"{NAME}.log")
    served(host, f"{NAME}.log", b"2021-06-01 00:00:00 INFO  {'a': 1}\n")
    assert store.obtain(f"{NAME}.log").read_bytes().startswith(b"2021")


def test_without_the_network_it_says_where_to_put_the_file(cache):
    with pytest.raises(
        DownloadError,
        match=rf"put it at {cache}/checkpoints/{NAME}_train.pth by hand.*pan.baidu.com.*s757",
    ):
        fetch_quickly("http://127.0.0.1:9")


def fetch_quickly(mirror):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "fetch", lambda *a, **k: fetch(*a, **k, retries=0))
        return store.obtain(NAME, mirror=mirror)


def test_cancelled_and_gone_on_with(host, checkpoint):
    file = served(host, NAME, checkpoint)

    class EnoughError(Exception):
        pass

    def stop(done, total):
        raise EnoughError

    with pytest.raises(EnoughError):
        store.obtain(NAME, stop)
    assert not store.find(NAME).on_disk
    (part,) = store.kept()
    assert (part.name, part.partial) == (NAME, True)
    assert 0 < part.bytes < len(checkpoint)
    assert store.obtain(NAME).read_bytes() == checkpoint
    assert file.resumed == 1


def test_a_folder_that_cannot_be_written(host, checkpoint, cache):
    served(host, NAME, checkpoint)
    cache.write_text("a file where the folder should be")
    with pytest.raises(DownloadError, match=r"cannot be written.* choose another folder"):
        store.obtain(NAME)


def test_listed_and_removed(host, checkpoint, cache):
    served(host, NAME, checkpoint)
    served(host, f"{NAME}.log", b"2021-06-01 00:00:00 INFO  {'a': 1}\n")
    for name in (NAME, f"{NAME}.log"):
        store.obtain(name)
    (cache / "checkpoints" / "mine.pth").write_bytes(b"0123456789")
    found = {file.path.name: file for file in store.kept()}
    assert sorted(found) == [f"{NAME}_train.log", f"{NAME}_train.pth", "mine.pth"]
    assert [file.bytes for file in store.kept()] == sorted(
        (f.bytes for f in found.values()), reverse=True
    )
    assert found["mine.pth"].name == ""
    assert found[f"{NAME}_train.pth"].sha256 == hashlib.sha256(checkpoint).hexdigest()
    store.remove(found[f"{NAME}_train.pth"])
    assert names(cache / "checkpoints") == ["mine.pth"]


def test_the_script_gets_lists_and_removes(script, host, checkpoint, cache, monkeypatch):
    monkeypatch.setenv(store.MIRROR, "http://127.0.0.1:9")
    for name in (NAME, "ccnet_resnet50os16_voc"):
        served(host, name, checkpoint)
    code, out, err = script("get", "ccnet_resnet50os*_voc", "--mirror", host.url)
    assert code == 0
    assert out.split() == [str(store.find(name).path) for name in (NAME, "ccnet_resnet50os16_voc")]
    store.find("ccnet_resnet101os8_voc").path.with_suffix(".pth.part").write_bytes(b"0" * 3_000_000)
    (cache / "checkpoints" / "mine.pth").write_bytes(b"0" * 1_500_000)
    code, out, _ = script("list")
    rows = {line.split()[0]: line for line in out.splitlines()}
    assert hashlib.sha256(checkpoint).hexdigest()[:16] in rows[NAME]
    assert "the first 3.0 MB are here" in rows["ccnet_resnet101os8_voc"]
    assert "not on this machine" in rows["ccnet_resnet101os8_ade20k"]
    assert "1.5" in rows["mine.pth"]
    assert out.splitlines()[-1].endswith(f"MB in {cache}")
    code, out, _ = script("remove", "ccnet*", "mine.pth")
    assert code == 0
    assert names(cache / "checkpoints") == []
    for words, expected in (
        (["remove", "*"], "there is none"),
        (["get", "ccnet_resnet51os8_voc"], "did you mean"),
    ):
        code, _, err = script(*words)
        assert code == 2
        assert expected in err


def _obtain(queue):
    try:
        queue.put(str(store.obtain(NAME)))
    except DownloadError as error:
        queue.put(f"refused: {error}")


def test_two_processes_at_once(host, checkpoint, cache):
    """One downloads, the other is told who does; what is left is whole."""
    file = served(host, NAME, checkpoint, stall=1.5)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_obtain, args=(queue,)) for _ in range(2)]
    processes[0].start()
    while not file.requests:
        time.sleep(0.01)
    processes[1].start()
    answers = sorted(queue.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert Path(answers[0]).read_bytes() == checkpoint
    assert answers[1].startswith("refused: ")
    assert f"is being downloaded by process {processes[0].pid}; wait" in answers[1]
    assert names(cache / "checkpoints") == [f"{NAME}_train.pth", f"{NAME}_train.pth.json"]


def test_two_threads_at_once(host, checkpoint):
    served(host, NAME, checkpoint, stall=0.5)
    found = []

    def run():
        try:
            found.append(store.obtain(NAME).read_bytes() == checkpoint)
        except DownloadError as error:
            found.append("is being downloaded" in str(error))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4
    assert store.find(NAME).path.read_bytes() == checkpoint


def test_two_hundred_cut_downloads(host, tmp_path):
    """Whatever happens on the way, under the final name lies the right file or none."""
    rng = np.random.default_rng(4)
    outcomes = {"whole": 0, "error": 0}
    for k in range(200):
        content = rng.bytes(int(rng.integers(1, 200_000)))
        cuts = tuple(int(rng.integers(0, len(content))) for _ in range(int(rng.integers(0, 5))))
        how = dict(
            cuts=cuts,
            ranges=bool(rng.random() < 0.7),
            length=bool(rng.random() < 0.85),
            etag=rng.choice(["", '"a"', 'W/"a"']),
        )
        digest = (
            f"sha256:{hashlib.sha256(content).hexdigest()}"
            if rng.random() < 0.5 or not how["length"]
            else ""
        )
        host.files["file"] = file = Served(content=content, failures=int(rng.integers(0, 2)), **how)
        path = tmp_path / f"file{k}"
        for call in range(6):
            if call and rng.random() < 0.2:  # another version is published meanwhile
                content = rng.bytes(len(content))
                file.content, file.etag, digest = content, f'"{call}"', ""
                file.length = True
            try:
                fetch(
                    f"{host.url}/file",
                    path,
                    digest=digest,
                    retries=int(rng.integers(0, 2)),
                    pause=0.0,
                    timeout=5.0,
                )
            except DownloadError:
                outcomes["error"] += 1
                assert not path.exists()
                continue
            outcomes["whole"] += 1
            break
        if path.exists():
            assert path.read_bytes() == content, (k, how)
    assert outcomes["whole"] >= 190
    assert outcomes["error"] >= 50
