"""A web server in this process, with ranges and with faults on demand."""

import hashlib
import re
import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from jepa.data.http_store import HttpStore
from jepa.data.storage import RemoteOptions

FAST = RemoteOptions(timeout=20.0, backoff=0.001, chunk=1000, ahead=4)


class Web(ThreadingHTTPServer):
    """Serves a folder. `faults[name]` is what happens to the next requests for that file, one word each:

    a status (`503`), `reset` (half of the content, then the connection is torn), `short` (half of it, then the end),
    `slow` (half of it, then nothing until the test ends), `whole` (200 and the whole file), `shifted` (another range),
    `fewer` (a smaller range), `moved` (redirected to the same file below /moved/).
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.faults: dict[str, list[str]] = defaultdict(list)
        self.requests: list[tuple[str, str]] = []
        """(path, Range) in the order of their arrival."""
        self.headers: list[dict[str, str]] = []
        self.clients: list[int] = []
        """Port of the client of each request: one per connection."""
        self.etags = True
        self.retry_after = "0"
        """What answers without content ask for, in seconds or as a date."""
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: Web
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server, path = self.server, self.path.split("?")[0]
        server.requests.append((self.path, self.headers.get("Range", "")))
        server.headers.append(dict(self.headers))
        server.clients.append(self.client_address[1])
        fault = server.faults[path[1:]].pop(0) if server.faults[path[1:]] else ""
        file = server.folder / path.removeprefix("/moved").lstrip("/")
        if fault.isdigit() or not file.is_file():
            self.head(int(fault or 404), {"Content-Length": "0", "Retry-After": server.retry_after})
        elif fault == "moved":
            self.head(302, {"Content-Length": "0", "Location": f"/moved/{file.name}"})
        else:
            self.file(file.read_bytes(), fault)

    def file(self, content: bytes, fault: str) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        etag = {"ETag": f'"{hashlib.md5(content).hexdigest()}"'} if self.server.etags else {}
        if wanted is None or fault == "whole":
            self.head(200, {"Content-Length": str(len(content)), **etag})
            self.wfile.write(content)
            return
        first, last, total = int(wanted[1]), min(int(wanted[2]), len(content) - 1), len(content)
        if first >= total:
            self.head(416, {"Content-Length": "0", "Content-Range": f"bytes */{total}"})
            return
        first += fault == "shifted"
        last -= fault == "fewer"
        body = content[first : last + 1]
        self.head(206, {"Content-Length": str(len(body)), "Content-Range": f"bytes {first}-{last}/{total}", **etag})
        if fault in ("reset", "short", "slow"):
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(body)
        if fault == "reset":  # no orderly end: the client's next read fails
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        if fault == "slow":
            self.server.over.wait()

    def head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], Web]]:
    """`serve(folder)`: a running server of it."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    running: list[Web] = []

    def start(folder: Path) -> Web:
        server = Web(folder)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        running.append(server)
        return server

    yield start
    for server in running:
        server.over.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def web(serve: Callable[[Path], Web], tmp_path: Path) -> Web:
    """A server of an empty folder."""
    (tmp_path / "web").mkdir()
    return serve(tmp_path / "web")


@pytest.fixture
def store(web: Web) -> HttpStore:
    """The root of that server; quick to try again."""
    return HttpStore(web.url, FAST)


@pytest.fixture
def fast() -> RemoteOptions:
    return FAST
