"""A small web host with every vice a download can meet, and the small archives it serves."""

import io
import re
import tarfile
import threading
import time
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

CONTENT = np.random.default_rng(0).bytes(400_000)


@dataclass
class Served:
    content: bytes = CONTENT
    etag: str = '"one"'
    ranges: bool = True
    length: bool = True
    cuts: tuple = ()  # after how many bytes to cut the first, second, ... answer
    status: int = 200
    failures: int = 0  # how many answers are 503 first
    redirect: str = ""
    stall: float = 0.0  # seconds before the body's second half, in the first answer only
    slow: bool = False  # whether that half comes slowly, too: 1 MB a second
    requests: int = 0
    resumed: int = 0


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        served = self.server.files.get(self.path.removeprefix("/"))
        if served is None:
            return self.send_error(404)
        served.requests += 1
        if served.requests <= served.failures:
            return self.send_error(503)
        if served.redirect:
            self.send_response(302)
            self.send_header("Location", served.redirect)
            return self.end_headers()
        if served.status != 200:
            return self.send_error(served.status)
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        begin = (
            int(asked[1])
            if asked and served.ranges and self.headers.get("If-Range", served.etag) == served.etag
            else 0
        )
        body = served.content[begin:]
        if asked and begin >= len(served.content) > 0:
            return self.send_error(416)
        if begin:
            served.resumed += 1
            self.send_response(206)
            self.send_header(
                "Content-Range", f"bytes {begin}-{len(served.content) - 1}/{len(served.content)}"
            )
        else:
            self.send_response(200)
        if served.etag:
            self.send_header("ETag", served.etag)
        if served.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if served.requests <= len(served.cuts):
            body = body[: served.cuts[served.requests - 1]]
        with suppress(OSError):  # the client has given up
            self.send_body(served, body)
        self.close_connection = True

    def send_body(self, served, body):
        halved = (served.stall or served.slow) and served.requests == 1
        half = len(body) // 2 if halved else len(body)
        self.wfile.write(body[:half])
        if body[half:]:
            time.sleep(served.stall)
        piece = 50_000 if served.slow else len(body)
        for start in range(half, len(body), piece):
            self.wfile.write(body[start : start + piece])
            time.sleep(0.05 * served.slow)


def serve():
    """A web host on this machine, for a fixture: `host.files[name] = Served(...)`, `host.url`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.files, server.url = {}, f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setenv("no_proxy", "127.0.0.1")
        yield server
    server.shutdown()
    server.server_close()


def packed(path, files):
    """A zip or tar with these files: name -> bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
            for name, content in files.items():
                out.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz" if path.suffix in (".tgz", ".gz") else "w") as out:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                out.addfile(info, io.BytesIO(content))
    return path


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def jpg(height=6, width=8):
    file = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(file, "JPEG")
    return file.getvalue()


def names(folder):
    return sorted(path.name for path in folder.iterdir())
