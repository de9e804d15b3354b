"""Attack the app and load it, on this machine alone, and print what was found as a table.

Hostile words to every callback, foreign hosts and sites, pictures of 50 megapixels, many visitors
at once, clicks while others compute; then what is left on the disk after SIGTERM and after SIGKILL.
The exit code is 1 where something was written outside, a visitor saw another's answer, or the app
ended.
"""

import argparse
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ccnet_lab.ending import ending

import httpx
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
WORDS = (
    *("../../victim", "/victim", "victim\0", "..", "C:\\victim", "http://victim.example/a.png"),
    *("$x_$", "1e999", "\x1b[31m", "<script>victim</script>", "9" * 400, "[" * 900),
)
Row = tuple[str, str]


class App:
    """The app as a process of its own, and how visitors ask it."""

    def __init__(self, folder: Path, *options: str) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        self.folder, self.temporary = folder, folder / "tmp"
        self.temporary.mkdir(exist_ok=True)
        home = {"TMPDIR": str(self.temporary), "HOME": str(folder), "NO_PROXY": "127.0.0.1"}
        self.process = subprocess.Popen(
            [sys.executable, "app.py", "--port", str(port), *options],
            cwd=ROOT,
            env={**os.environ, **home},
            stdout=subprocess.DEVNULL,
            stderr=(folder / "said.txt").open("w"),
        )
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False
        )
        until(lambda: self.answers() or self.process.poll() is not None)
        self.config = self.client.get("/config").json()

    def answers(self) -> bool:
        """Whether the page comes."""
        with suppress(httpx.HTTPError):
            return self.client.get("/").status_code == 200
        return False

    def ask(self, index: int, data: list[Any], visitor: str, event: Any = None) -> Any:
        """A callback's answer through the queue; None where it is refused or fails."""
        body = {"data": data, "fn_index": index, "session_hash": visitor, "event_data": event}
        if self.client.post("/gradio_api/queue/join", json=body).status_code != 200:
            return None
        asked = {"session_hash": visitor}
        end = time.monotonic() + 120
        with self.client.stream("GET", "/gradio_api/queue/data", params=asked) as events:
            for line in events.iter_lines():  # there is a heartbeat now and then
                if time.monotonic() > end:
                    break
                if '"process_completed"' in line:
                    found = json.loads(line.removeprefix("data:"))
                    return found["output"].get("data") if found["success"] else None
        return None

    def event(self, element: str, kind: str) -> dict[str, Any]:
        """What the page's configuration says of an event."""
        ids = [c["id"] for c in self.config["components"] if c["props"].get("elem_id") == element]
        events: list[dict[str, Any]] = self.config["dependencies"]
        return next(e for e in events if any([i, kind] in e["targets"] for i in ids))

    def component(self, element: str) -> int:
        """A component's number."""
        found: int = next(
            c["id"] for c in self.config["components"] if c["props"].get("elem_id") == element
        )
        return found

    def visit(self, visitor: str) -> dict[str, Any]:
        """Load the page as a visitor does; what its viewer shows."""
        load = next(
            e for e in self.config["dependencies"]
            if e["targets"] and e["targets"][0][1] == "load" and e["inputs"]
        )  # fmt: skip
        answer = self.ask(load["id"], [None] * len(load["inputs"]), visitor)
        shown = next(v for v in answer if isinstance(v, str) and v.startswith('{"file"'))
        found: dict[str, Any] = json.loads(shown)
        return found

    def click(self, visitor: str, shown: dict[str, Any], x: int, y: int) -> Any:
        """The exact map of a pixel, as the page asks for it."""
        data = [shown["file"], x, y, 2, "attention"]
        asked = {"component_id": self.component("view"), "fn_name": "exact_map"}
        body = {**asked, "session_hash": visitor, "data": data}
        return self.client.post("/gradio_api/component_server", json=body).json()

    def upload(self, visitor: str, content: bytes) -> dict[str, Any] | None:
        """Send a picture; what the visitor's viewer shows then, None where it was refused."""
        files = {"files": ("a.png", content, "image/png")}
        path = self.client.post("/gradio_api/upload", files=files).json()[0]
        sent = {"path": path, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
        answer = self.ask(self.event("upload", "upload")["id"], [None, None, sent], visitor)
        texts = [part for part in answer or () if isinstance(part, str)]
        shown = next((text for text in texts if text.startswith('{"file"')), "null")
        found: dict[str, Any] | None = json.loads(shown)
        return found

    def memory(self) -> float:
        """The most that the process has ever held, in GB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1e6

    def end(self, number: int) -> str:
        """End it by a signal; gives what it said."""
        self.process.send_signal(number)
        self.process.wait(timeout=60)
        self.client.close()
        return (self.folder / "said.txt").read_text(errors="replace")


def until(there: Callable[[], object], seconds: float = 120) -> None:
    """Wait for something."""
    end = time.monotonic() + seconds
    while not there():
        if time.monotonic() > end:
            raise SystemExit("the app did not answer in time")
        time.sleep(0.1)


def hostile(app: App, folder: Path) -> Iterator[Row]:
    """Every callback with hostile words for all its inputs, and foreign hosts and sites."""
    refused = asked = 0
    states = {c["id"] for c in app.config["components"] if c["type"] == "state"}  # not sent
    for event in (e for e in app.config["dependencies"] if e["backend_fn"]):
        told = set(event["inputs"]) - states
        files: list[Any] = [{"path": word, "meta": {"_type": "gradio.FileData"}} for word in WORDS]
        for word, file in zip(WORDS, files, strict=True) if told else [("", "")]:
            for sent in (word, file) if told else ("",):
                with suppress(httpx.HTTPError, ValueError):
                    asked += 1
                    answer = app.ask(event["id"], [sent] * len(event["inputs"]), "a" + word[:5])
                    refused += answer is None
    written = [p for p in folder.rglob("*") if "victim" in p.name]
    yield "hostile calls / refused", f"{asked} / {refused}"
    yield "files written outside", str(len(written))
    evil = {"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}
    posts = [
        app.client.post("/gradio_api/queue/join", json={}, headers=h).status_code for h in evil
    ]
    yield "foreign host, site, null: statuses", " ".join(map(str, posts))
    there = "/gradio_api/file=http://evil.example/a.png"
    yield "an address to fetch: status", str(app.client.get(there).status_code)


def large_pictures(app: App, count: int) -> Iterator[Row]:
    """Pictures of 50 megapixels in a few hundred kilobytes, all at once."""
    content = png(np.zeros((7071, 7071, 3), np.uint8))

    def send(number: int) -> bool:
        app.visit(f"large{number}")
        return app.upload(f"large{number}", content) is not None

    before = app.memory()
    with ThreadPoolExecutor(count) as pool:
        shown = sum(pool.map(send, range(count)))
    yield f"{count} pictures of 50 megapixels: answered", str(shown)
    yield "peak memory before, after", f"{before:.2f}, {app.memory():.2f} GB"


def png(pixels: Any) -> bytes:
    """A picture's file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def many_uploads(app: App, count: int) -> Iterator[Row]:
    """Visitors who come, send a picture and stay."""

    def send(number: int) -> bool:
        app.visit(f"one{number}")
        pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8)
        return app.upload(f"one{number}", png(pixels)) is not None

    with ThreadPoolExecutor(8) as pool:
        shown = sum(pool.map(send, range(count)))
    files = [path for path in app.temporary.rglob("*") if path.is_file()]
    yield f"{count} uploads: answered, files then", f"{shown}, {len(files)}"


def one_upload_many_visitors(app: App, count: int) -> Iterator[Row]:
    """A file of 50 MB, a small picture with zeros behind it, that many sessions show."""
    content = png(np.zeros((8, 8, 3), np.uint8)) + bytes(50_000_000)
    path = app.client.post("/gradio_api/upload", files={"files": ("a.png", content)}).json()[0]
    sent = {"path": path, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
    for number in range(count):
        app.ask(app.event("upload", "upload")["id"], [None, None, sent], f"same{number}")
    files = {p.stat().st_ino: p.stat().st_size for p in app.temporary.rglob("*") if p.is_file()}
    yield f"{count} visitors show one file of 50 MB: on disk", f"{sum(files.values()) / 1e6:.0f} MB"


def own_pictures(app: App, visitors: int, seconds: float) -> Iterator[Row]:
    """Visitors with a picture of their own each, who click."""
    shown = []
    for number in range(visitors):
        app.visit(f"own{number}")
        pixels = np.random.default_rng(number).integers(0, 256, (360, 480, 3), np.uint8)
        shown.append(app.upload(f"own{number}", png(pixels)))
    end = time.monotonic() + seconds

    def click(number: int) -> int:
        found, view = 0, shown[number]
        while view and time.monotonic() < end:
            app.click(f"own{number}", view, (37 * found) % 480, (23 * found) % 360)
            found += 1
        return found

    with ThreadPoolExecutor(visitors) as pool:
        clicks = sum(pool.map(click, range(visitors)))
    yield f"{visitors} visitors, a picture each: clicks a second", f"{clicks / seconds:.1f}"


def load(app: App, visitors: int, seconds: float) -> Iterator[Row]:
    """Visitors who click; every answer is compared with the one a single visitor got."""
    first = app.visit("first")
    pixels = [(x, y) for x in range(4, 90, 17) for y in range(4, 90, 17)]
    right = {pixel: app.click("first", first, *pixel) for pixel in pixels}
    took: list[float] = []
    wrong, lock, end = [0], threading.Lock(), time.monotonic() + seconds

    def visit(number: int) -> None:
        name = f"visitor{number}"
        shown, at = app.visit(name), number
        while time.monotonic() < end:
            pixel = pixels[at % len(pixels)]
            start = time.perf_counter()
            found = app.click(name, shown, *pixel)
            with lock:
                took.append(time.perf_counter() - start)
                wrong[0] += found != right[pixel]
            at += 7

    with ThreadPoolExecutor(visitors) as pool:
        list(pool.map(visit, range(visitors)))
    median, late = np.quantile(took, [0.5, 0.99]) if took else (0, 0)
    yield f"{visitors} visitors, {seconds:g} s: clicks, wrong", f"{len(took)}, {wrong[0]}"
    yield "a click: median, p99", f"{1e3 * median:.0f}, {1e3 * late:.0f} ms"


def beside_heavy_work(app: App) -> Iterator[Row]:
    """A visitor's clicks beside six deletion tests, three measurements and 30 maps of R = 8."""
    test, grow = app.event("test", "click"), app.event("grow", "click")
    shown = app.visit("light")
    busy = [f"heavy{number}" for number in range(6)]
    for visitor in busy:
        app.visit(visitor)
    looked = {"x": 20, "y": 20, "recurrence": 2, "pinned": True}
    took: list[float] = []
    file = app.client.post(
        "/gradio_api/upload", files={"files": ("a.png", png(np.eye(90, dtype=bool)))}
    )
    sent = {"path": file.json()[0], "meta": {"_type": "gradio.FileData"}}
    asked = {"data": [sent, 5, 5, 8, "demo"]}
    with ThreadPoolExecutor(40) as pool:
        jobs = [pool.submit(app.ask, test["id"], [None, looked], visitor) for visitor in busy]
        jobs += [pool.submit(app.ask, grow["id"], [], f"grow{k}") for k in range(3)]
        for _ in range(30):
            pool.submit(app.client.post, "/gradio_api/call/attention_at", json=asked)
        while not all(job.done() for job in jobs) and len(took) < 2000:
            start = time.perf_counter()
            app.click("light", shown, len(took) % 90, 40)
            took.append(time.perf_counter() - start)
            time.sleep(0.02)
    yield "a click beside heavy work: median", f"{1e3 * float(np.median(took)):.0f} ms"


@contextmanager
def served(folder: Path, *options: str) -> Iterator[App]:
    """An app that is killed whatever happens."""
    app = App(folder, *options)
    try:
        yield app
    finally:
        app.process.kill()
        app.process.wait()


def main() -> int:
    """Attack, load, end; print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    option = parser.add_argument
    option("--visitors", type=int, default=64, help="how many click at once")
    option("--seconds", type=float, default=60, help="how long")
    option("--pictures", type=int, default=8, help="of 50 megapixels, at once")
    option("--uploads", type=int, default=500, help="by as many visitors")
    option("--model", default="demo")
    args = parser.parse_args()
    rows: list[Row] = []
    print("| what | found |\n| --- | --- |")

    def add(found: Iterable[Row]) -> None:
        for what, value in found:
            rows.append((what, value))
            print(f"| {what} | {value} |", flush=True)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with served(folder, "--model", args.model) as app:
            add(hostile(app, folder))
            add(large_pictures(app, args.pictures))
            add(load(app, args.visitors, args.seconds))
            add(beside_heavy_work(app))
            add(one_upload_many_visitors(app, 20))
            add(many_uploads(app, args.uploads))
            alive = app.process.poll() is None
            said = app.end(signal.SIGTERM) if alive else ""
            left = [
                p for p in app.temporary.rglob("*") if "ccnet_lab" in str(p.relative_to(folder))
            ]
            add([("the app still runs", "yes" if alive else "no")])
            ours = [part for part in said.split("Traceback") if "ccnet_lab/" in part]
            add([("tracebacks through this library", str(len(ours)))])
            add([("files left after SIGTERM", str(len(left)))])
        with served(folder, "--model", "street") as app:
            add(own_pictures(app, 10, args.seconds / 2))
        with served(folder) as app:
            folders = [*app.temporary.glob("ccnet_lab_app_*")]  # one of them is the new app's
            add([("folders left after SIGKILL and a new start", str(len(folders) - 1))])
    found = dict(rows)
    wrong = found["files written outside"] != "0" or found["the app still runs"] == "no"
    return int(wrong or any(", wrong" in what and not v.endswith(", 0") for what, v in rows))


if __name__ == "__main__":
    ending(main)
