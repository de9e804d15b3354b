"""downloads.py: a file comes whole or not at all, however bad the network, and is resumed."""

import errno
import hashlib
import json
import time

import pytest
from web import CONTENT, Served, names, serve

from ccnet_lab import downloads
from ccnet_lab.downloads import fetch
from ccnet_lab.errors import DownloadError

MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"
SHA = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.fixture
def host():
    yield from serve()


@pytest.fixture
def get(host, tmp_path):
    """Fetch what a `Served` gives into tmp_path/file."""

    def run(served, **options):
        host.files["file"] = served
        return fetch(
            f"{host.url}/file", tmp_path / "file", **{"pause": 0.01, "timeout": 5.0, **options}
        )

    return run


@pytest.mark.parametrize(
    "digest", ["", MD5, SHA, SHA[:15], f"sha1:{hashlib.sha1(CONTENT).hexdigest().upper()}"]
)
def test_a_file_comes_whole_and_only_once(get, tmp_path, digest):
    seen, served = [], Served()
    path = get(served, digest=digest, progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert names(tmp_path) == ["file"]
    assert seen == sorted(seen)
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    get(served, digest=digest)
    assert served.requests == 1


def test_a_cut_connection_is_resumed(get):
    served = Served(cuts=(150_000, 70_000))
    assert (
        get(served, retries=1).read_bytes() == CONTENT
    )  # each try brings something new, so one retry suffices
    assert (served.requests, served.resumed) == (3, 2)


def test_a_later_call_goes_on_where_an_earlier_one_stopped(get, tmp_path):
    with pytest.raises(DownloadError, match=r"the first [\d,]+ bytes are kept .* by hand"):
        get(Served(cuts=(150_000,)), retries=0)
    assert names(tmp_path) == ["file.part", "file.part.json"]
    have = (tmp_path / "file.part").stat().st_size
    assert 0 < have <= 150_000
    seen, served = [], Served()
    assert get(served, progress=lambda done, _: seen.append(done)).read_bytes() == CONTENT
    assert served.resumed == 1
    assert seen[0] > have


def test_a_file_that_changed_meanwhile_is_not_glued_together(get):
    with pytest.raises(DownloadError):
        get(Served(cuts=(150_000,)), retries=0)
    other = CONTENT[::-1]
    served = Served(content=other, etag='"two"')
    assert get(served).read_bytes() == other
    assert served.resumed == 0


def test_a_file_that_shrank_meanwhile_starts_afresh(get):
    with pytest.raises(DownloadError):
        get(Served(cuts=(150_000,)), retries=0)
    assert get(Served(content=CONTENT[:1000])).read_bytes() == CONTENT[:1000]


def test_without_a_mark_of_the_version_only_a_digest_allows_resuming(get, tmp_path):
    for digest, resumed in (("", 0), (SHA, 1)):
        with pytest.raises(DownloadError):
            get(Served(cuts=(150_000,), etag=""), retries=0)
        served = Served(etag="")
        assert get(served, digest=digest).read_bytes() == CONTENT
        assert served.resumed == resumed
        (tmp_path / "file").unlink()


def test_a_host_without_ranges_or_length(get, tmp_path):
    assert get(Served(cuts=(150_000,), ranges=False)).read_bytes() == CONTENT
    (tmp_path / "file").unlink()
    assert get(Served(length=False), digest=SHA).read_bytes() == CONTENT


def test_a_killed_call_between_the_last_byte_and_the_name(get, host, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    note = {"url": f"{host.url}/file", "validator": '"one"', "total": len(CONTENT)}
    (tmp_path / "file.part.json").write_text(json.dumps(note))
    served = Served()
    assert get(served).read_bytes() == CONTENT
    assert served.requests == 0


def test_a_stalled_host_and_a_busy_one_are_asked_again(get, tmp_path):
    served = Served(stall=1.5)
    assert get(served, timeout=0.3).read_bytes() == CONTENT
    assert served.resumed == 1
    (tmp_path / "file").unlink()
    assert get(Served(failures=2)).read_bytes() == CONTENT


def test_a_host_that_always_cuts_is_given_up(get):
    served = Served(cuts=(100_000,) * 99, ranges=False)
    with pytest.raises(DownloadError, match="cannot be downloaded"):
        get(served, retries=2)
    assert served.requests == 3


def test_a_redirect_is_followed(get, host):
    host.files["elsewhere"] = Served()
    assert get(Served(redirect="/elsewhere")).read_bytes() == CONTENT


@pytest.mark.parametrize("status", [403, 404, 410])
def test_refused_at_once(get, tmp_path, status):
    served = Served(status=status)
    with pytest.raises(DownloadError, match=rf"{status} .*put the file at .*file by hand"):
        get(served)
    assert served.requests == 1
    assert names(tmp_path) == []


def test_a_wrong_hash_names_both_and_leaves_nothing(get, tmp_path):
    with pytest.raises(
        DownloadError, match=f"has the sha256 {SHA[7:]}, expected {'0' * 64}; it is removed"
    ):
        get(Served(), digest=f"sha256:{'0' * 64}")
    assert names(tmp_path) == []


def test_a_wrong_file_under_the_name_is_kept_and_told(get, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DownloadError, match="move it away"):
        get(Served(), digest=SHA)
    assert (tmp_path / "file").read_text() == "mine"


def test_no_network_and_no_address(host, tmp_path):
    started = time.monotonic()
    with pytest.raises(DownloadError, match=r"cannot be downloaded: .*put it at .*file by hand"):
        fetch("http://127.0.0.1:9/file", tmp_path / "file", retries=9, pause=0.01)
    assert (
        time.monotonic() - started < 0.01 * 2**9
    )  # nobody without a network waits for all the tries
    with pytest.raises(DownloadError, match="no address"):
        fetch("nowhere", tmp_path / "file")


def test_a_full_disk_keeps_the_part(get, tmp_path, monkeypatch):
    room = downloads.shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(downloads.shutil, "disk_usage", lambda _: room._replace(free=1000))
        with pytest.raises(DownloadError, match="has room for"):
            get(Served())

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(downloads.os, "fsync", full)
        with pytest.raises(DownloadError, match=r"No space left .* is kept"):
            get(Served())
    assert "file.part" in names(tmp_path)
    assert get(Served()).read_bytes() == CONTENT


def test_a_folder_that_cannot_be_made(get, tmp_path):
    (tmp_path / "plain").write_text("a file")
    with pytest.raises(DownloadError, match="cannot be written"):
        fetch("http://127.0.0.1:9/file", tmp_path / "plain" / "file")
