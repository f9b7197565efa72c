"""Files on a web server, read by range requests and never read wrongly.

Everything is a GET with a Range header, also the question for a file's size: servers that sign URLs sign the method.
Answers are believed only as far as they prove themselves:

- 206 must state the range that was asked for (Content-Range) and bring as many bytes.
- 200 means that the server ignored the range and sends the whole file. A tar of gigabytes for each video helps nobody,
  so this is an error at once. (`python -m http.server` is such a server.)
- The size and the ETag of a file are remembered. If they differ later, the file was replaced: an error at once.
- 404, 403 and the like are errors at once; 429, 408, 425, 5xx, lost connections, answers that take too long or are too
  short are tried again (`retry.py`).
"""

import re
import ssl
import time
from base64 import b64encode
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPMessage, HTTPResponse
from socket import socket
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from jepa.data.connections import Connections, Exchange
from jepa.data.retry import TransientError, retried
from jepa.data.storage import MissingError, RemoteOptions, StoreError, join_url, pieces, without_secrets
from jepa.errors import ConfigError
from jepa.version import __version__

REDIRECTS = 5
"""Redirections that are followed per request."""
_SAFE = "/%:@!$&'()*+,;=~-._"
_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)")


@dataclass(frozen=True)
class Version:
    """What tells that a file was replaced."""

    size: int
    etag: str | None


class BeyondEndError(StoreError):
    """The file has fewer bytes."""


class HttpStore:
    """Files under an http:// or https:// URL. Keeps no file, only connections and the versions it has seen."""

    def __init__(self, url: str, options: RemoteOptions) -> None:
        """Asks nobody yet.

        Raises:
            ConfigError: a malformed URL.
        """
        self.url = url
        self._options = options
        self._versions: dict[str, Version] = {}
        self._connections = Connections(options.timeout)
        try:
            usable = bool(urlsplit(url).hostname) and urlsplit(url).port != 0
        except ValueError:
            usable = False
        if not usable:
            raise ConfigError(f"{without_secrets(url)} is no URL: expected https://host/folder")

    def where(self, path: str) -> str:
        return without_secrets(join_url(self.url, path))

    def size(self, path: str) -> int:
        if path not in self._versions:
            try:
                self.read(path, 0, 1)
            except BeyondEndError:
                return 0
        return self._versions[path].size

    def read(self, path: str, offset: int, size: int) -> bytes:
        if not size:
            return b""
        part = f"bytes {offset} to {offset + size - 1}"
        return retried(lambda: self._range(path, offset, size, part), self.where(path), part, self._options)

    def read_all(self, path: str) -> bytes:
        return b"".join(pieces(self, path))

    def forget(self, path: str, offset: int, size: int) -> bool:
        return True  # the network may have changed it, so the next answer may be right

    def _range(self, path: str, offset: int, size: int, part: str) -> bytes:
        """One attempt. Raises TransientError if another one is worth it."""
        deadline = time.monotonic() + self._options.timeout
        try:
            exchange = self._ask(path, f"bytes={offset}-{offset + size - 1}")
            try:
                self._judge(path, exchange.response, part)
                self._require_range(path, exchange.response, offset, size)
                content = _body(exchange.response, exchange.socket, size, deadline)
                whole = exchange.response.length == 0 and not exchange.response.will_close
            except BaseException:
                Connections.drop(exchange)
                raise
        except ssl.SSLCertVerificationError as error:
            raise StoreError(self.where(path), f"its certificate is refused: {error.verify_message}") from None
        except TimeoutError:
            raise TransientError(f"no complete answer within {self._options.timeout:g} s") from None
        except (OSError, HTTPException) as error:
            reason = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
            raise TransientError(reason) from None
        (self._connections.keep if whole else Connections.drop)(exchange)
        return content

    def _ask(self, path: str, wanted: str) -> Exchange:
        """The head of the answer, after redirections."""
        url = self._url(path)
        headers = {"Range": wanted, "Accept-Encoding": "identity", "User-Agent": f"jepa/{__version__}"}
        if url.username:
            pair = f"{unquote(url.username)}:{unquote(url.password or '')}"
            headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
        for _ in range(REDIRECTS + 1):
            exchange = self._connections.ask(url, headers)
            place = exchange.response.getheader("Location")
            if exchange.response.status not in (301, 302, 303, 307, 308) or not place:
                return exchange
            Connections.drop(exchange)
            before, url = url, urlsplit(urljoin(url.geturl(), place))
            if url.scheme not in ("https", before.scheme):
                raise StoreError(self.where(path), f"is redirected from {before.scheme} to {url.scheme}: not followed")
            if url.netloc.rpartition("@")[2] != before.netloc.rpartition("@")[2]:
                headers.pop("Authorization", None)  # meant for the first server only
        raise StoreError(self.where(path), f"is redirected more than {REDIRECTS} times")

    def _url(self, path: str) -> SplitResult:
        url = urlsplit(join_url(self.url, quote(path)))
        return url._replace(path=quote(url.path, safe=_SAFE))

    def _judge(self, path: str, response: HTTPResponse, part: str) -> None:
        """Raise unless the answer is part of a file."""
        status, where, said = response.status, self.where(path), f"{response.status} {response.reason}".strip()
        if status == 206:
            return
        if status == 200:
            raise StoreError(
                where,
                "the server ignores range requests (it answers 200 with the whole file): serve the files with one that "
                "knows them, such as nginx, or copy them here",
            )
        if status in (401, 403, 404, 410):
            raise MissingError(where, said)
        if status == 416:
            stated = _RANGE.fullmatch(response.getheader("Content-Range", ""))
            raise BeyondEndError(where, f"has only {stated[3] if stated else 'some'} bytes, wanted {part}")
        if status in (408, 425, 429) or status >= 500:
            raise TransientError(said, _asked_wait(response.headers))
        raise StoreError(where, f"{part}: {said}")

    def _require_range(self, path: str, response: HTTPResponse, offset: int, size: int) -> None:
        """Raise unless the answer is the part that was asked for, of the file that was seen before."""
        text, where = response.getheader("Content-Range", ""), self.where(path)
        stated = _RANGE.fullmatch(text)
        if stated is None or stated[1] is None or response.getheader("Content-Encoding", "identity") != "identity":
            raise StoreError(
                where, f"the server answers 206 with Content-Range '{text}': expected plain bytes X-Y/SIZE"
            )
        first, last, total = int(stated[1]), int(stated[2]), int(stated[3])
        self._require_same(path, Version(total, response.getheader("ETag")))
        if total < offset + size:
            raise BeyondEndError(where, f"has only {total} bytes, wanted {offset} to {offset + size - 1}")
        if (first, last) != (offset, offset + size - 1):
            raise TransientError(f"the server sent bytes {first} to {last}")

    def _require_same(self, path: str, now: Version) -> None:
        before = self._versions.setdefault(path, now)
        if before.size != now.size:
            raise StoreError(self.where(path), f"changed while it was in use: {before.size} bytes, now {now.size}")
        if before.etag != now.etag:
            raise StoreError(self.where(path), f"changed while it was in use: ETag {before.etag}, now {now.etag}")


def _body(response: HTTPResponse, wire: socket, size: int, deadline: float) -> bytes:
    """`size` bytes of an answer, all of them before the deadline however slowly they drip."""
    parts, left = [], size
    while left:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        wire.settimeout(remaining)
        part = response.read1(min(left, 2**18))
        if not part:
            raise TransientError(f"the answer ended after {size - left} of {size} bytes")
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _asked_wait(headers: HTTPMessage) -> float:
    """Seconds of a Retry-After header; 0 if there is none that can be read."""
    text = headers.get("Retry-After", "")
    if text.strip().isdigit():
        return float(text)
    try:
        return max(parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError):
        return 0.0
