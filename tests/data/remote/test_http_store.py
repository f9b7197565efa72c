"""Ranges from a real web server: right bytes or a clear error, whatever the server does."""

import logging
import multiprocessing
import pickle
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jepa.data.http_store import HttpStore
from jepa.data.retry import LONGEST_WAIT, delay
from jepa.data.storage import MissingError, RemoteOptions, StoreError, exists
from jepa.errors import ConfigError

SLOW = pytest.mark.slow
CONTENT = np.random.default_rng(0).bytes(5000)


@pytest.fixture
def web(web: Any) -> Any:
    """The server with one file."""
    (web.folder / "a.tar").write_bytes(CONTENT)
    return web


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 4999), st.integers(0, 5000))
def test_any_range_is_that_part_of_the_file(web: Any, store: HttpStore, offset: int, size: int) -> None:
    size = min(size, len(CONTENT) - offset)
    assert store.read("a.tar", offset, size) == CONTENT[offset : offset + size]


def test_size_and_whole_file(web: Any, store: HttpStore) -> None:
    (web.folder / "empty").touch()
    assert store.size("a.tar") == len(CONTENT)
    assert store.read_all("a.tar") == CONTENT
    assert (store.size("empty"), store.read_all("empty")) == (0, b"")
    assert exists(store, "a.tar")
    assert not exists(store, "nothing")
    assert store.read("a.tar", 7, 0) == b""


def test_names_are_quoted(web: Any, store: HttpStore) -> None:
    (web.folder / "a%20b.tar").write_bytes(b"quoted")  # the test's server does not unquote
    assert store.read("a b.tar", 0, 6) == b"quoted"


def test_one_connection_is_used_again(web: Any, store: HttpStore) -> None:
    for offset in range(5):
        store.read("a.tar", offset, 10)
    assert len(set(web.clients)) == 1


def test_a_connection_that_the_server_closed_is_no_failure(web: Any, store: HttpStore) -> None:
    once = HttpStore(web.url, replace(RemoteOptions(), attempts=1))
    assert once.read("a.tar", 0, 10) == CONTENT[:10]
    (idle,) = once._connections._idle.values()
    idle[0].sock.shutdown(2)
    assert once.read("a.tar", 10, 10) == CONTENT[10:20]
    assert len(set(web.clients)) == 2


@pytest.mark.parametrize("fault", ["500", "502", "503", "429", "408", "reset", "short", "shifted", "fewer"])
def test_what_passes_is_tried_again(web: Any, store: HttpStore, fault: str) -> None:
    web.faults["a.tar"] = [fault, fault]
    assert store.read("a.tar", 100, 2000) == CONTENT[100:2100]
    assert web.requests == [("/a.tar", "bytes=100-2099")] * 3


def test_an_answer_that_drips_is_given_up_and_tried_again(
    web: Any, fast: RemoteOptions, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    web.faults["a.tar"] = ["slow"]
    assert HttpStore(web.url, replace(fast, timeout=1.0)).read("a.tar", 0, 2000) == CONTENT[:2000]
    assert "no complete answer within 1 s; trying again" in caplog.text


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("500", "500 Internal Server Error"),
        ("429", "429 Too Many Requests"),
        ("short", "the answer ended after 1000 of 2000 bytes"),
        ("reset", "reset by peer"),
        ("shifted", "the server sent bytes 101 to 2099"),
    ],
)
def test_what_stays_is_an_error_after_a_bounded_number_of_attempts(
    web: Any, store: HttpStore, fault: str, words: str
) -> None:
    web.faults["a.tar"] = [fault] * 100
    with pytest.raises(StoreError) as caught:
        store.read("a.tar", 100, 2000)
    assert len(web.requests) == 6
    assert re.fullmatch(
        rf"{web.url}/a\.tar: bytes 100 to 2099: .*{words}, tried 6 times", str(caught.value), re.IGNORECASE
    )
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), StoreError)


def test_nobody_listens(web: Any, fast: RemoteOptions) -> None:
    web.shutdown()
    web.server_close()
    with pytest.raises(StoreError, match=r"Connection refused, tried 6 times"):
        HttpStore(web.url, fast).read("a.tar", 0, 1)


@pytest.mark.parametrize("status", ["404", "403", "401", "410"])
def test_what_is_not_there_is_an_error_at_once(web: Any, store: HttpStore, status: str) -> None:
    web.faults["a.tar"] = [status]
    with pytest.raises(MissingError, match=rf"/a\.tar: {status} \w+"):
        store.read("a.tar", 0, 1)
    assert len(web.requests) == 1


def test_a_server_without_ranges_is_refused_at_once(web: Any, store: HttpStore) -> None:
    web.faults["a.tar"] = ["whole"] * 3
    for read in (lambda: store.read("a.tar", 0, 10), lambda: store.read("a.tar", 0, 5000), lambda: store.size("a.tar")):
        with pytest.raises(StoreError, match="the server ignores range requests") as caught:
            read()
        assert "\n" not in str(caught.value)
    assert len(web.requests) == 3


@pytest.mark.parametrize(
    ("etags", "content", "words"),
    [
        (True, CONTENT[::-1], r"ETag \"\w+\", now \"\w+\""),
        (True, CONTENT[:-1], "5000 bytes, now 4999"),
        (False, CONTENT + b"x", "5000 bytes, now 5001"),
    ],
)
def test_a_file_that_is_replaced_is_noticed(
    web: Any, store: HttpStore, etags: bool, content: bytes, words: str
) -> None:
    web.etags = etags
    store.read("a.tar", 0, 10)
    travelled = pickle.loads(pickle.dumps(store))  # a worker knows what the main process has seen
    (web.folder / "a.tar").write_bytes(content)
    for reader in (store, travelled):
        with pytest.raises(StoreError, match=f"changed while it was in use: {words}"):
            reader.read("a.tar", 10, 10)


def test_a_range_beyond_the_end_is_an_error_at_once(web: Any, store: HttpStore) -> None:
    with pytest.raises(StoreError, match="has only 5000 bytes, wanted 4990 to 5009"):
        store.read("a.tar", 4990, 20)
    with pytest.raises(StoreError, match="has only 5000 bytes, wanted bytes 6000 to 6001"):
        store.read("a.tar", 6000, 2)
    assert len(web.requests) == 2


def test_redirections_are_followed_but_not_for_ever(web: Any, store: HttpStore) -> None:
    web.faults["a.tar"] = ["moved"]
    assert store.read("a.tar", 5, 10) == CONTENT[5:15]
    assert web.requests[-1] == ("/moved/a.tar", "bytes=5-14")
    web.faults["a.tar"], web.faults["moved/a.tar"] = ["moved"], ["moved"] * 10
    with pytest.raises(StoreError, match="redirected more than 5 times"):
        store.read("a.tar", 5, 10)


def test_queries_and_passwords_are_sent_and_never_shown(web: Any, fast: RemoteOptions) -> None:
    address = web.url.replace("//", "//user:geheim@") + "/sub/?sig=secret"
    store = HttpStore(address, fast)
    (web.folder / "sub").mkdir()
    (web.folder / "sub/b").write_bytes(b"hello")
    assert store.read("b", 1, 3) == b"ell"
    assert web.requests == [("/sub/b?sig=secret", "bytes=1-3")]
    assert web.headers[0]["Authorization"] == "Basic dXNlcjpnZWhlaW0="
    with pytest.raises(StoreError) as caught:
        store.read("c", 0, 1)
    assert str(caught.value) == f"{web.url}/sub/c: 404 Not Found"


def test_a_proxy_of_the_environment_is_used(web: Any, fast: RemoteOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", web.url)
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(MissingError):  # the server takes the full URL for a path, and has no such file
        HttpStore("http://far.example/shards", fast).read("a.tar", 0, 1)
    assert web.requests == [("http://far.example/shards/a.tar", "bytes=0-0")]


@pytest.mark.parametrize("url", ["http://", "https:///shards", "http://host:port/x", "http://[::1/x"])
def test_a_malformed_url_is_a_config_error(url: str) -> None:
    with pytest.raises(ConfigError, match="is no URL"):
        HttpStore(url, RemoteOptions())


def read_some(store: HttpStore) -> bytes:
    return store.read("a.tar", 20, 30)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", *(pytest.param(name, marks=SLOW) for name in ("spawn", "forkserver"))])
def test_no_connection_crosses_into_another_process(web: Any, store: HttpStore, method: Any) -> None:
    assert read_some(store) == CONTENT[20:50]
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(read_some, (store,)) == CONTENT[20:50]
    assert read_some(store) == CONTENT[20:50]
    first, other, last = web.clients
    assert first == last != other


def forked(store: HttpStore, answers: Any) -> None:
    answers.put(read_some(store))


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_store_that_a_fork_inherits_opens_its_own_connection(web: Any, store: HttpStore) -> None:
    read_some(store)
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    process = context.Process(target=forked, args=(store, answers))  # a fork hands it over as it is, unpickled
    process.start()
    assert answers.get() == CONTENT[20:50]
    process.join()
    read_some(store)
    first, other, last = web.clients
    assert first == last != other


@given(st.text(), st.integers(1, 30), st.floats(0.001, 10))
def test_waits_grow_and_are_a_pure_function(what: str, attempt: int, backoff: float) -> None:
    wait = delay(what, attempt, backoff)
    assert wait == delay(what, attempt, backoff)
    plain = backoff * 2 ** (attempt - 1)
    assert min(plain / 2, LONGEST_WAIT) <= wait <= min(plain * 1.5, LONGEST_WAIT)


def test_waits_differ_between_files() -> None:
    assert len({delay(f"file {number}", 1, 1.0) for number in range(100)}) == 100


def test_a_server_that_asks_for_time_gets_it(web: Any, store: HttpStore, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    for web.retry_after, expected in (("7", 7.0), ("100000", LONGEST_WAIT)):
        web.faults["a.tar"] = ["503"]
        store.read("a.tar", 0, 1)
        assert waits.pop() == expected
    for web.retry_after in ("Wed, 21 Oct 2015 07:28:00 GMT", "soon", ""):
        web.faults["a.tar"] = ["503"]
        store.read("a.tar", 0, 1)
        assert waits.pop() < 1
