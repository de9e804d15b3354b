"""The app answers to its own names and pages alone, and to few of gradio's addresses."""

import asyncio
import socket
import threading
import time

import pytest
import requests

from ccnet_lab.app import gate as gate_module
from ccnet_lab.app import server, visitor_sessions
from ccnet_lab.app.command_line import options
from ccnet_lab.app.gate import LARGEST, LARGEST_UPLOAD, LOOPBACK, Gate, hosts_of
from ccnet_lab.app.session import Workbench

JOIN, UPLOAD = "/gradio_api/queue/join", "/gradio_api/upload"


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:7860", "LOCALHOST:7860", "127.0.0.1:80", "[::1]:7860", "[::1]"],
)
def test_its_own_names(host):
    assert Gate(None, LOOPBACK).refusal("GET", "/", {"host": host}) == (0, "")


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "localhost.evil.example", "127.0.0.1.nip.io:7860", "10.0.0.1", "::1"],
)
def test_other_names_are_refused(host):
    """Each with what the owner can do; where any name may be, none is."""
    status, reason = Gate(None, LOOPBACK).refusal("GET", "/", {"host": host})
    assert status == 403
    assert "--allow-host" in reason
    assert Gate(None, None).refusal("GET", "/", {"host": host}) == (0, "")


def test_the_names_by_the_options():
    """A proxy's name in --root-path, those of --allow-host; any where others reach it anyway."""
    assert hosts_of(True, None, []) == LOOPBACK
    assert hosts_of(True, "/lab", ["Lab.example"]) == LOOPBACK | {"lab.example"}
    assert hosts_of(True, "https://a.example/lab", []) == LOOPBACK | {"a.example"}
    assert hosts_of(False, "/lab", []) is None
    assert hosts_of(False, None, ["a.example"]) == LOOPBACK | {"a.example"}


@pytest.mark.parametrize(
    ("origin", "site", "status"),
    [
        (None, None, 0),  # a program
        ("http://127.0.0.1:7860", "same-origin", 0),
        ("http://127.0.0.1:7861", "same-site", 403),  # another app on this machine
        ("http://localhost:7860", None, 403),
        ("http://evil.example", "cross-site", 403),
        ("http://127.0.0.1:7860.evil.example", None, 403),
        ("null", "cross-site", 403),
        (None, "cross-site", 403),
    ],
)
@pytest.mark.parametrize("path", [JOIN, UPLOAD])
def test_another_sites_page_may_send_nothing(origin, site, status, path):
    sent = {"host": "127.0.0.1:7860", "content-length": "10"}
    sent |= {"origin": origin} if origin else {}
    sent |= {"sec-fetch-site": site} if site else {}
    for hosts in (LOOPBACK, None):
        assert Gate(None, hosts).refusal("POST", path, sent)[0] == status


def test_a_length_that_says_nothing_is_refused():
    """With Transfer-Encoding a server reads on, whatever Content-Length says."""
    sent = {"host": "127.0.0.1", "content-length": "10", "transfer-encoding": "chunked"}
    assert Gate(None, LOOPBACK).refusal("POST", JOIN, sent)[0] == 411
    for length in ("9" * 5000, "0" * 12 + "150000000"):
        long = {"host": "127.0.0.1", "content-length": length}
        assert Gate(None, LOOPBACK).refusal("POST", JOIN, long)[0] == 413


def test_another_sites_page_may_not_show_it_inside_itself():
    """By a click on a link of another site it opens; a notebook on this machine may show it."""
    gate, sent = Gate(None, LOOPBACK), {"host": "127.0.0.1", "sec-fetch-site": "cross-site"}
    assert gate.refusal("GET", "/", {**sent, "sec-fetch-dest": "iframe"})[0] == 403
    assert gate.refusal("GET", "/", {**sent, "sec-fetch-dest": "document"})[0] == 0
    own = {"host": "127.0.0.1", "sec-fetch-site": "same-site", "sec-fetch-dest": "iframe"}
    assert gate.refusal("GET", "/", own)[0] == 0


def test_an_origin_that_is_none():
    sent = {"host": "127.0.0.1", "content-length": "10", "origin": "http://["}
    assert Gate(None, LOOPBACK).refusal("POST", JOIN, sent)[0] == 403


def test_uploads_wait_while_the_disk_is_full(monkeypatch):
    sent = {"host": "127.0.0.1", "content-length": "10"}
    monkeypatch.setattr(gate_module, "is_full", threading.Event())
    gate_module.is_full.set()
    assert Gate(None, LOOPBACK).refusal("POST", UPLOAD, sent)[0] == 507
    assert Gate(None, LOOPBACK).refusal("POST", JOIN, sent)[0] == 0


def test_a_proxys_page_may_send_under_its_prefix():
    """Also where the proxy passes on another host."""
    gate = Gate(None, LOOPBACK | {"a.example"}, "/lab")
    sent = {"host": "127.0.0.1:7860", "content-length": "10", "origin": "https://a.example"}
    assert gate.refusal("POST", f"/lab{JOIN}", sent)[0] == 0
    assert gate.refusal("POST", f"/other{JOIN}", sent)[0] == 404


def test_a_slash_at_the_end_is_no_other_address():
    """The page asks for exact maps with one."""
    sent = {"host": "localhost", "content-length": "10"}
    for path in ("/gradio_api/component_server", "/gradio_api/component_server/"):
        assert Gate(None, LOOPBACK).refusal("POST", path, sent)[0] == 0


@pytest.mark.parametrize(
    ("path", "length", "status"),
    [
        (UPLOAD, str(LARGEST_UPLOAD), 0),
        (UPLOAD, str(LARGEST_UPLOAD + 1), 413),
        (JOIN, str(LARGEST + 1), 413),
        (JOIN, None, 411),
        (JOIN, "-1", 411),
        (JOIN, "²", 411),
    ],
)
def test_what_is_sent_is_bounded(path, length, status):
    sent = {"host": "localhost"} | ({} if length is None else {"content-length": length})
    assert Gate(None, LOOPBACK).refusal("POST", path, sent)[0] == status


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("app")
    blocks = server.build(Workbench(folder / "examples"), folder)
    address = server.launch(blocks, quiet=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield blocks, address
    blocks.close()


def test_the_app_stands_behind_it(served):
    """A rebound name, a form of another site, a chunked body; its own page is served."""
    _, address = served
    assert requests.get(address, timeout=60).status_code == 200
    assert requests.get(address, headers={"Host": "evil.example"}, timeout=60).status_code == 403
    files, evil = {"files": ("a.png", b"x")}, {"Origin": "http://evil.example"}
    for sent, status in ((evil, 403), ({}, 200)):
        answer = requests.post(f"{address}gradio_api/upload", files=files, headers=sent, timeout=60)
        assert answer.status_code == status
    body = iter([b"{}"])
    assert requests.post(f"{address}gradio_api/queue/join", body, timeout=60).status_code == 411


def test_no_heavy_callback_can_be_called_past_the_queue(served):
    """Only those that answer at once take a direct call."""
    blocks, address = served
    direct = 0
    for index, function in blocks.fns.items():
        body = {"data": [None] * len(function.inputs), "fn_index": index, "session_hash": "a"}
        answer = requests.post(f"{address}gradio_api/run/predict", json=body, timeout=60)
        assert (answer.status_code == 404) == bool(function.queue)
        direct += not function.queue
    assert direct < len(blocks.fns) / 2


@pytest.mark.parametrize("api", ["attention_at", None])
def test_an_address_in_place_of_a_file_is_not_looked_up(served, monkeypatch, api):
    """Neither for programs nor for the page's upload: its host's name is never asked for."""
    blocks, address = served
    asked, look_up = [], socket.getaddrinfo

    def noted(host, *more, **options):
        asked.append(str(host))
        return look_up(host, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", noted)
    sent = {"path": "http://victim.example/a.png", "meta": {"_type": "gradio.FileData"}}
    sent["url"] = sent["path"]
    upload = next(b._id for b in blocks.blocks.values() if getattr(b, "elem_id", "") == "upload")
    index, data = next(
        (i, [None, None, sent]) if api is None else (i, [sent, 1, 1, 2, "demo"])
        for i, function in blocks.fns.items()
        if (function.api_name == api if api else (upload, "upload") in function.targets)
    )
    body = {"data": data, "fn_index": index, "session_hash": f"a{api}"}
    answer = requests.post(f"{address}gradio_api/queue/join", json=body, timeout=60)
    assert answer.status_code == 200
    events = requests.get(
        f"{address}gradio_api/queue/data", {"session_hash": f"a{api}"}, stream=True, timeout=60
    )
    with events:
        last = next(line for line in events.iter_lines() if b"process_completed" in line)
    assert b'"success":false' in last
    assert not [host for host in asked if "victim" in host]


@pytest.mark.parametrize(
    "address", ["http://a.example/b.png", "HTTPS://a.example/b", " http://a", "ftp://a/b"]
)
def test_it_fetches_no_address(address):
    """Gradio would, for anybody who asks for it as a file."""
    for way in ("file=", "file/"):
        path = f"/gradio_api/{way}{address}"
        assert Gate(None, LOOPBACK).refusal("GET", path, {"host": "localhost"})[0] == 403


def test_uploads_on_their_way_are_bounded():
    """By what they announce, together, until they end."""
    passed, done = [], []

    async def hung(scope, *_):
        passed.append(scope)
        await release.wait()

    async def main():
        nonlocal release
        release = asyncio.Event()
        gate = Gate(hung, LOOPBACK)
        headers = [(b"host", b"localhost"), (b"content-length", b"100000000")]
        scope = {"type": "http", "method": "POST", "path": UPLOAD, "headers": headers}
        said = []

        async def send(message):
            said.append(message.get("status"))

        calls = [asyncio.create_task(gate(scope, None, send)) for _ in range(14)]
        await asyncio.sleep(0.1)
        assert len(passed) == 10
        assert said.count(503) == 4
        release.set()
        await asyncio.gather(*calls)
        await gate(scope, None, send)
        done.append(len(passed))

    release = None
    asyncio.run(main())
    assert done == [11]


def test_sessions_without_a_page_are_forgotten_beyond_a_number(served, monkeypatch):
    """The longest unused first, never one whose page was opened; what they sent is small."""
    blocks, address = served
    monkeypatch.setattr(visitor_sessions, "PAGELESS", 3)
    index = next(i for i, function in blocks.fns.items() if function.queue and function.inputs)
    waits = requests.get(f"{address}gradio_api/heartbeat/mine", stream=True, timeout=60)
    for session in ("mine", *"abcdef"):
        body = {"data": [None] * len(blocks.fns[index].inputs), "fn_index": index}
        sent = body | {"session_hash": session}
        assert requests.post(f"{address}{JOIN[1:]}", json=sent, timeout=60).status_code == 200
    known = blocks.state_holder.session_data
    end = time.monotonic() + 30
    while not {"mine", *"abcdef"} <= {*known} and time.monotonic() < end:
        time.sleep(0.05)
    assert visitor_sessions.forget_pageless(blocks.state_holder) >= 3
    assert "mine" in known
    assert [*known][-3:] == [session for session in known if session != "mine"]  # used last
    waits.close()
    monkeypatch.setattr(visitor_sessions, "LEFT", 0)
    end = time.monotonic() + 30
    while "mine" in known and time.monotonic() < end:  # once the page is left
        time.sleep(0.1)
        visitor_sessions.forget_pageless(blocks.state_holder)
    assert "mine" not in known
    long = requests.post(f"{address}{JOIN[1:]}", json={"data": ["x" * LARGEST]}, timeout=60)
    assert long.status_code == 413


def test_few_of_gradios_addresses_answer(served):
    """None that edits, streams, records, monitors, shares, logs in or fetches from elsewhere."""
    _, address = served
    closed = {"vibe-edit", "deep_link", "proxy=http://evil.example", "process_recording", "runs"}
    closed |= {"run-history/connect", "profiling/summary", "dev/reload", "stream/x", "call/load"}
    for path in [*(f"gradio_api/{name}" for name in closed), "monitoring", "login", "logout"]:
        for ask in (requests.get, requests.post):
            assert ask(f"{address}{path}", timeout=60).status_code == 404, path


@pytest.mark.parametrize("port", ["99999", "-1", "x", "9" * 5000])
def test_a_port_that_is_none(port, capsys):
    with pytest.raises(SystemExit):
        options().parse_args(["--port", port])
    said = capsys.readouterr().err
    assert "expected" in said
    assert len(said) < 1000
