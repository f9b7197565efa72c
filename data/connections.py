"""HTTP connections that are used again, each by the process that opened it.

The standard library's client is enough for range requests: it is synchronous, so there is no event loop or thread that
a fork would tear apart, and headers and status are at hand, on which everything in `http_store.py` depends. Proxies are
those of the environment (`https_proxy`, `no_proxy`).
"""

import os
import ssl
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from socket import socket
from typing import Any
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass


@dataclass
class Exchange:
    """A request that was sent, and the head of its answer."""

    server: tuple[str, str]
    connection: HTTPConnection
    socket: socket
    response: HTTPResponse


class Connections:
    """Idle connections by server."""

    def __init__(self, timeout: float) -> None:
        """Args: timeout: seconds to connect, and to wait for the head of an answer."""
        self.timeout = timeout
        self._reset()

    def __reduce__(self) -> tuple[type["Connections"], tuple[float]]:
        return Connections, (self.timeout,)

    def __del__(self) -> None:
        self.close()

    def ask(self, url: SplitResult, headers: dict[str, str]) -> Exchange:
        """Send a GET request and read the head of the answer. Another process's connections are put aside first.

        Raises:
            OSError, HTTPException: the server cannot be reached, or does not speak HTTP.
        """
        if self._process != os.getpid():  # a fork: the parent goes on with its own
            self.close()
            self._reset()
        server = (url.scheme, url.netloc.rpartition("@")[2])
        idle = self._idle.setdefault(server, [])
        while idle:
            connection = idle.pop()
            try:
                return self._send(connection, server, url, headers)
            except TimeoutError:
                connection.close()
                raise
            except (OSError, HTTPException):  # the server has closed it meanwhile; that is no failed attempt
                connection.close()
        connection = self._connect(url)
        try:
            return self._send(connection, server, url, headers)
        except BaseException:
            connection.close()
            raise

    def keep(self, exchange: Exchange) -> None:
        """The answer was read to its end: use the connection again."""
        exchange.response.close()
        self._idle[exchange.server].append(exchange.connection)

    @staticmethod
    def drop(exchange: Exchange) -> None:
        """Close the connection of an answer that is not wanted any more."""
        exchange.response.close()
        exchange.connection.close()

    def close(self) -> None:
        """Close what is idle."""
        for idle in self.__dict__.get("_idle", {}).values():
            while idle:
                idle.pop().close()

    def _reset(self) -> None:
        self._idle: dict[tuple[str, str], list[HTTPConnection]] = {}
        self._process = os.getpid()
        self._context: ssl.SSLContext | None = None

    def _send(
        self, connection: HTTPConnection, server: tuple[str, str], url: SplitResult, headers: dict[str, str]
    ) -> Exchange:
        through_proxy = _proxy(url) is not None and url.scheme == "http"
        target = url._replace(netloc=server[1], fragment="") if through_proxy else url._replace(scheme="", netloc="")
        if connection.sock is None:
            connection.connect()
        wire: Any = connection.sock
        wire.settimeout(self.timeout)
        connection.request("GET", target._replace(fragment="").geturl() or "/", headers=headers)
        return Exchange(server, connection, wire, connection.getresponse())

    def _connect(self, url: SplitResult) -> HTTPConnection:
        proxy = _proxy(url)
        host, port = (proxy.hostname, proxy.port) if proxy else (url.hostname, url.port)
        if url.scheme == "http":
            return HTTPConnection(host or "", port, timeout=self.timeout)
        if self._context is None:
            self._context = ssl.create_default_context()
        connection = HTTPSConnection(host or "", port, timeout=self.timeout, context=self._context)
        if proxy:
            connection.set_tunnel(url.hostname or "", url.port)
        return connection


def _proxy(url: SplitResult) -> SplitResult | None:
    """The proxy that the environment names for this URL."""
    address = getproxies().get(url.scheme)
    if not address or proxy_bypass(url.hostname or ""):
        return None
    return urlsplit(address if "://" in address else f"http://{address}")
