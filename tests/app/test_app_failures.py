"""What goes wrong in the app is shown on the page, the picture stays, nothing is left behind."""

import inspect
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from gradio.route_utils import delete_files_created_by_app

from ccnet_lab import ConfigError, Explorer
from ccnet_lab.app import configurations_tab, growth_html, server
from ccnet_lab.app import link as links
from ccnet_lab.app.session import Workbench
from ccnet_lab.app.view_state import ViewState
from ccnet_lab.hub import find_weights, source_and_config
from ccnet_lab.reports import board as boards

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("app")
    bench = Workbench(folder / "examples")
    return bench, server.build(bench, folder)


def block(blocks, element):
    return next(
        found for found in blocks.blocks.values() if getattr(found, "elem_id", None) == element
    )


def answers(blocks, function, **given):
    """All answers of a callback, called as gradio does with first values and a picture."""
    fn, values = (
        function.fn,
        [
            given.get(getattr(part, "elem_id", None), getattr(part, "value", None))
            for part in function.inputs
        ],
    )
    values = [
        replace(value, file="shown.png") if isinstance(value, ViewState) else value
        for value in values
    ]
    request = SimpleNamespace(query_params={}, session_hash="a", index=0)
    wanted = [
        p for p in inspect.signature(fn).parameters.values() if p.kind is not p.VAR_POSITIONAL
    ]
    values += [request] * (len(wanted) - len(values))
    return list(fn(*values)) if inspect.isgeneratorfunction(fn) else [fn(*values)]


def parts(answer):
    return (
        {getattr(part, "elem_id", None): value for part, value in answer.items()}
        if isinstance(answer, dict)
        else {"html": answer}
    )


TELLING = {  # (element, event): where its failure is told
    **{(name, "input"): "problem" for name in ("model", "size")},
    **{
        ("upload", "upload"): "problem",
        ("examples", "select"): "problem",
    },
    **{
        (name, "click"): "problem"
        for name in ("save", "save-pdf", "save-page", "link", "python", "fetch")
    },
    **{
        ("test", "click"): "truth",
        ("cross", "click"): "html",
        ("places", "click"): "html",
        ("grow", "click"): "html",
    },
    **{
        ("mask", "upload"): "html",
        ("mask", "clear"): "html",
        ("one", "input"): "html",
        ("board-dataset", "input"): "board",
    },
}


@pytest.mark.parametrize(("element", "event"), TELLING)
def test_every_callback_tells_what_went_wrong(built, monkeypatch, capsys, tmp_path, element, event):
    """Not only what this library raises on purpose; only the message changes on the page."""
    bench, blocks = built

    def strange(*_, **__):
        raise ZeroDivisionError("a mistake of ours")

    for name in (
        "with_model",
        "with_image",
        "payload",
        "figure",
        "link",
        "python",
        "view",
        "explorer",
        "download",
        "offer",
        "around",
    ):
        monkeypatch.setattr(bench, name, strange)
    monkeypatch.setattr(boards, "read_board", strange)
    monkeypatch.setattr(configurations_tab, "open_view", strange)
    (tmp_path / "a.png").write_bytes(Path(bench.examples[0]).read_bytes())
    given = {"upload": str(tmp_path / "a.png"), "mask": str(tmp_path / "a.png"), "model": "demo_r1"}
    function = next(
        f for f in blocks.fns.values() if (block(blocks, element)._id, event) in f.targets
    )
    if element == "board-dataset":
        function = SimpleNamespace(
            fn=function.fn, inputs=[SimpleNamespace(value="Configurations"), *function.inputs[1:]]
        )
    if element == "grow":
        monkeypatch.setattr(growth_html, "measure_growth", strange)
    last = parts(answers(blocks, function, **given)[-1])
    assert (
        "something unforeseen happened (ZeroDivisionError: a mistake of ours)"
        in last[TELLING[element, event]]
    )
    assert "ZeroDivisionError: a mistake of ours" in capsys.readouterr().err
    assert set(last) <= {TELLING[element, event], "model", "size", "upload", "saved", None}
    assert last.get("saved") is None


def test_a_page_that_cannot_be_filled_and_a_shared_model_still_answer(built, monkeypatch):
    bench, blocks = built
    monkeypatch.setattr(bench, "payload", lambda *_: [][0])
    load = next(
        f
        for f in blocks.fns.values()
        if any(event == "load" for _, event in f.targets) and f.fn is not None
    )
    assert (
        "something unforeseen happened (IndexError" in parts(answers(blocks, load)[-1])["problem"]
    )
    monkeypatch.setattr(bench, "payload", lambda *_: torch.empty(2**60))
    assert "memory ran out" in parts(answers(blocks, load)[-1])["problem"]


def test_the_view_on_show_outlives_the_cache_and_goes_with_its_visitor(tmp_path):
    blocks = server.build(Workbench(tmp_path / "examples"), tmp_path)
    view = block(blocks, "view")
    choose = next(
        f for f in blocks.fns.values() if (block(blocks, "size")._id, "input") in f.targets
    )
    state = next(iter(choose.inputs))

    def shown(at):
        found = choose.fn(at, None, 256)
        return next(value for part, value in found.items() if part is state)

    first = shown(replace(state.value, file="begun.png"))
    assert Path(first.file).is_file()
    second = shown(first)
    assert second.file == first.file  # one file a visitor
    assert not Path("begun.png").exists()  # nothing is written where a state says
    view.temp_files.update([first.file, second.file])
    time.sleep(0.02)
    delete_files_created_by_app(blocks, 0)
    assert Path(second.file).is_file()
    state.delete_callback(second)  # the visitor has gone
    assert not Path(second.file).exists()


def test_a_path_that_holds_as_can_be_opened(tmp_path):
    folder = tmp_path / "street as seen"
    folder.mkdir()
    path = str(folder / "demo as is.safetensors")
    shutil.copy(find_weights("demo"), path)
    bench = Workbench(tmp_path / "examples")
    assert bench.explorer(path).config.name == "demo"
    assert bench.with_model(bench.start("demo"), path).model == path
    assert source_and_config(f"{path} as demo_r1") == (path, "demo_r1")
    assert source_and_config("a.pth as ccnet_resnet50os8_vox") == ("a.pth", "ccnet_resnet50os8_vox")
    assert source_and_config("gone as such/model.pth") == ("gone as such/model.pth", None)
    with pytest.raises(ConfigError, match="neither a model's name nor a file"):
        Explorer.open("gone as such/model.pth")
    link = links.Link(image="0" * 32, weights="0" * 32, model=f"{path} as demo", config="demo")
    assert f"Explorer.open({path!r}, config='demo')" in links.python_of(link, "'a.png'")


def test_a_prefix_that_is_none_is_refused(door):
    code, _, err = door("app.py", "--root-path", "lab")
    assert code == 2
    assert "--root-path is 'lab'; expected a path that begins with /" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_behind_a_prefix_and_stopped_it_leaves_nothing(tmp_path, number):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "NO_PROXY": "127.0.0.1"}
    words = [sys.executable, "app.py", "--port", str(port), "--root-path", "/lab"]
    with subprocess.Popen(
        words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        page = ""
        for _ in range(300):
            try:
                page = urllib.request.urlopen(f"http://127.0.0.1:{port}").read().decode()
                break
            except OSError:
                time.sleep(0.2)
        assert f'"root":"http://127.0.0.1:{port}/lab"' in page
        assert list(tmp_path.iterdir())
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
    assert process.returncode == 128 + number
    assert "Traceback" not in out + err
    assert list(tmp_path.rglob("*")) == []


def test_a_page_whose_session_is_gone_says_so(built):
    """After a restart gradio gives an open page a new visitor's state, which is another picture."""
    _, blocks = built
    choose = next(
        f for f in blocks.fns.values() if (block(blocks, "size")._id, "input") in f.targets
    )
    state = next(iter(choose.inputs))
    told = parts(choose.fn(replace(state.value, file=""), None, 256))
    assert "your picture is gone; load the page again" in told["problem"]
    assert "view" not in told
    assert "view" in parts(choose.fn(replace(state.value, file="shown.bin"), None, 256))
