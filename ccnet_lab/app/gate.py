"""What the app answers to at all: its own names, its own pages, the addresses that it needs.

In front of gradio, so that no other page in a visitor's browser can use an app on his machine, by a
name that was bound to its address (DNS rebinding) or by a form (CSRF).
"""

import ipaddress
import math
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
from starlette.middleware import Middleware

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
# Of gradio's addresses, those that the page and its programs use; `*` for a rest.
READ = (
    *("/", "/config", "/theme.css", "/favicon.ico", "/robots.txt", "/manifest.json"),
    *("/assets/*", "/static/*", "/svelte/*", "/gradio_api/info"),
    *("/gradio_api/app_id", "/gradio_api/startup-events", "/gradio_api/upload_progress"),
    *("/gradio_api/queue/data", "/gradio_api/heartbeat/*", "/gradio_api/file=*"),
    *("/gradio_api/file/*", "/gradio_api/call/attention_at/*", "/gradio_api/theme.css"),
    *("/gradio_api/queue/status", "/gradio_api/openapi.json", "/gradio_api/custom_component/*"),
)
POSTED = (
    *("/gradio_api/queue/join", "/gradio_api/cancel", "/gradio_api/reset"),
    *("/gradio_api/component_server", "/gradio_api/upload", "/gradio_api/call/attention_at"),
)
RUN = ("/gradio_api/run/*", "/gradio_api/api/*")  # gradio refuses those that have to queue
UPLOAD = "/gradio_api/upload"
is_full = threading.Event()  # whether what visitors sent fills its part of the disk
LARGEST, LARGEST_UPLOAD = 64_000, 101_000_000  # bytes of what is posted
UNDER_WAY = 1_000_000_000  # bytes of uploads that may be on their way at a time
HEARTBEAT = "/gradio_api/heartbeat/"
pages: dict[str, float] = {}  # when a session's page was left; infinity while it is open


class Gate:
    """The middleware (ASGI).

    Args:
        hosts: names that the app is reached by, without a port; None for any, as where other
            machines reach it by names that are not known here.
        prefix: of all paths, where a reverse proxy leaves one.
    """

    def __init__(self, app: Any, hosts: Iterable[str] | None, prefix: str = "") -> None:
        self.app, self.prefix = app, prefix.rstrip("/")
        self.hosts = None if hosts is None else frozenset(hosts)
        self.under_way = 0  # bytes that were announced

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on to gradio."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] == "websocket":  # which nothing here uses
            await send({"type": "websocket.close"})
            return
        headers = {name.decode("latin-1"): v.decode("latin-1") for name, v in scope["headers"]}
        status, reason = self.refusal(scope.get("method", "GET"), scope["path"], headers)
        if status:
            await _say(send, status, reason)
            return
        path = scope["path"].removeprefix(self.prefix)
        page = path.removeprefix(HEARTBEAT) if path.startswith(HEARTBEAT) else ""
        if page:
            pages[page] = math.inf
        announced = int(headers["content-length"]) if path == UPLOAD else 0
        self.under_way += announced
        try:
            await self.app(scope, receive, send)
        finally:
            self.under_way -= announced
            if page:
                pages[page] = time.time()

    def refusal(self, method: str, path: str, headers: Mapping[str, str]) -> tuple[int, str]:
        """The HTTP status and a sentence; 0 for what is passed on."""
        host = headers.get("host", "")
        if self.hosts is not None and _name(host) not in self.hosts:
            option = f"start it with --allow-host {_name(host)} if that is meant"
            return 403, f"this app does not answer to the name {_name(host)!r}; {option}"
        if self.prefix and path.startswith(f"{self.prefix}/"):
            path = path.removeprefix(self.prefix)
        reads = method in ("GET", "HEAD", "OPTIONS")
        if "transfer-encoding" in headers:  # then the length says nothing
            return 411, "send the length (Content-Length), not Transfer-Encoding"
        framed = headers.get("sec-fetch-dest") in ("iframe", "frame", "embed", "object")
        if framed and headers.get("sec-fetch-site") == "cross-site" and self.hosts == LOOPBACK:
            return 403, "a page of another site may not show this app inside itself"
        if not _matches(path, READ if reads else (*POSTED, *RUN)):
            return 404, f"there is no {path} here"
        if "://" in path or ":%2f" in path.lower():  # which gradio would fetch
            return 403, "this app fetches no addresses"
        return (0, "") if reads else self._posted(path, host, headers)

    def _posted(self, path: str, host: str, headers: Mapping[str, str]) -> tuple[int, str]:
        origin = headers.get("origin")
        known = self.hosts or frozenset()
        ours = origin is None or _netloc(origin) == host
        named = origin is not None and _name(_netloc(origin)) in known - LOOPBACK
        if not (ours or named) or headers.get("sec-fetch-site") == "cross-site":
            return 403, f"a page of {origin or 'another site'} may send nothing to this app"
        most = LARGEST_UPLOAD if path == UPLOAD else LARGEST
        length = headers.get("content-length", "")
        if not length.isascii() or not length.isdigit():
            return 411, "the length of what is sent is missing (Content-Length)"
        if path == UPLOAD and is_full.is_set():
            return 507, "visitors' pictures fill their part of the disk; try again in an hour"
        if len(length) > 12 or int(length) > most:
            return 413, f"{length[:20]} bytes were sent; at most {most:,} are taken"
        if path == UPLOAD and self.under_way + int(length) > UNDER_WAY:
            return 503, "many pictures are on their way; try again in a minute"
        return 0, ""


def gate(hosts: frozenset[str] | None, root_path: str | None) -> Middleware:
    """The gate as gradio takes it; `root_path` is the app's own option."""
    return Middleware(Gate, hosts=hosts, prefix=urlsplit(root_path or "").path)


async def fetch_nothing(*_: Any, **__: Any) -> str:
    """In place of gradio's download of an address that came instead of a file."""
    raise gr.Error("an address came; send the file itself", print_exception=False)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address that is listened on."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def hosts_of(local: bool, root_path: str | None, named: Iterable[str]) -> frozenset[str] | None:
    """The names for `Gate`: this machine's, the proxy's, those given; None where any may be."""
    given = {name.lower() for name in named}
    if not local and not given:
        return None
    proxy = urlsplit(root_path or "").hostname
    return frozenset(LOOPBACK | given | ({proxy} if proxy else set()))


def _netloc(address: str) -> str:
    try:
        return urlsplit(address).netloc
    except ValueError:
        return ""


def _name(host: str) -> str:
    """A host without its port, in small letters."""
    before, colon, port = host.lower().rpartition(":")
    return before if colon and (port.isdigit() or not port) else host.lower()


def _matches(path: str, patterns: Iterable[str]) -> bool:
    path = path.rstrip("/") or "/"
    return any(
        path.startswith(pattern[:-1]) if pattern.endswith("*") else path == pattern
        for pattern in patterns
    )


async def _say(send: Send, status: int, reason: str) -> None:
    kind = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": kind})
    await send({"type": "http.response.body", "body": f"{reason}\n".encode()})
