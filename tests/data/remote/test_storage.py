"""What is a URL and what a path, and what local folders give."""

import pickle
from pathlib import Path

import pytest

from jepa.data.http_store import HttpStore
from jepa.data.remote import FsspecStore
from jepa.data.storage import (
    LocalStore,
    MissingError,
    StoreError,
    absolute,
    exists,
    join_url,
    local_path,
    open_store,
    url_of,
    without_secrets,
)
from jepa.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://host/shards/", "https://host/shards"),
        ("HTTPS://Host:8/a?b=c", "https://Host:8/a?b=c"),
        ("s3://bucket/a b", "s3://bucket/a b"),
        ("file:///a/b", "file:///a/b"),
        ("local:///a/b", "local:///a/b"),
        ("memory://a", "memory://a"),
        ("/a/b", None),
        ("a:b", None),
        ("C:/videos", None),
        ("~/videos", None),
    ],
)
def test_urls_are_told_from_paths_also_when_they_were_paths(text: str, url: str | None) -> None:
    assert url_of(text) == url
    assert url_of(Path(text)) == url
    assert absolute(Path(text)) == (Path(text) if url else Path.cwd() / text)


def test_urls_are_joined_before_the_query() -> None:
    assert join_url("https://h/a?sig=1", "b/c.tar") == "https://h/a/b/c.tar?sig=1"
    assert join_url("https://h", "b") == "https://h/b"
    assert join_url("s3://bucket/a?b", "c") == "s3://bucket/a?b/c"


def test_secrets_are_not_shown() -> None:
    assert without_secrets("https://me:pw@h:1/a?token=x#y") == "https://h:1/a"
    assert without_secrets("sftp://me:pw@h/a@b") == "sftp://h/a@b"


def test_kinds_of_stores(tmp_path: Path) -> None:
    assert isinstance(open_store(tmp_path), LocalStore)
    assert isinstance(open_store(f"file://{tmp_path}"), LocalStore)
    assert isinstance(open_store("https://host/x"), HttpStore)
    assert isinstance(open_store("memory://x"), FsspecStore)


def test_file_urls_are_folders_of_this_machine() -> None:
    assert local_path("file:///a%20b/c") == Path("/a b/c")
    assert local_path("file://localhost/a") == Path("/a")
    with pytest.raises(ConfigError, match="names the machine other"):
        local_path("file://other/a")


def test_a_local_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    store = open_store(tmp_path)
    assert store.read("a", 3, 4) == b"3456"
    assert pickle.loads(pickle.dumps(store)).read("a", 0, 10) == store.read_all("a")
    assert (store.size("a"), exists(store, "a"), exists(store, "b")) == (10, True, False)
    assert not store.forget("a", 0, 1)
    with pytest.raises(StoreError, match="a: ends after byte 10, wanted 12"):
        store.read("a", 8, 4)
    for missing in (lambda: store.size("b"), lambda: store.read("b", 0, 1), lambda: store.read_all("b")):
        with pytest.raises(MissingError, match="b: No such file"):
            missing()
