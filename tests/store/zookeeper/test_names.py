"""Keys as paths and values as data."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roster.store.zookeeper.names import (
    BIRTHS,
    ancestors,
    directory_of,
    directory_of_prefix,
    to_data,
    to_key,
    to_path,
    to_value,
)

keys = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40).map(
    lambda text: "/" + text
)


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("/ai-team/nodes/default/writer-001", "/ai-team/nodes/default/writer-001"),
        ("/писатель/a b", "/писатель/a b"),
        ("/", "/%"),
        ("//", "/%/%"),
        ("/a/../b/.", "/a/%2E%2E/b/%2E"),
        ("/...", "/..."),
        ("/100%", "/100%25"),
        ("/\x1b[31m", "/%1B[31m"),
        ("/\U0001f41d", "/%F0%9F%90%9D"),
        ("/zookeeper/quota", "/%7Aookeeper/quota"),
        ("/a/zookeeper", "/a/zookeeper"),
    ],
)
def test_a_key_is_its_path_but_for_what_znodes_cannot_be_called(key: str, path: str) -> None:
    assert to_path(key) == path
    assert to_key(path) == key


@pytest.mark.parametrize(
    "path", ["/zookeeper", "/zookeeper/quota", f"/a/{BIRTHS}", "/100%", "/%41", "/%2e", "/%FF", "/a/%%"]
)
def test_a_znode_that_no_key_is_called_is_no_key(path: str) -> None:
    assert to_key(path) is None


@given(keys)
def test_every_key_has_a_path_of_its_own(key: str) -> None:
    path = to_path(key)
    assert to_key(path) == key
    for name in path[1:].split("/"):
        assert name not in ("", ".", "..", BIRTHS)
        # As ZooKeeper's own PathUtils has it.
        assert not any(
            char <= "\x1f" or "\x7f" <= char <= "\x9f" or "\ud800" <= char <= "\uf8ff" or char >= "\ufff0"
            for char in name
        )


@given(st.binary(max_size=40), st.booleans())
def test_every_value_has_data_of_its_own(value: bytes, marked: bool) -> None:
    value = b"\x00roster:" + value if marked else value
    data = to_data(value)
    assert data
    assert to_value(data) == value


def test_ordinary_values_are_stored_as_they_are() -> None:
    assert to_data(b'{"a": 1}') == b'{"a": 1}'
    assert to_value(to_data(b"")) == b""


def test_ways_up() -> None:
    assert [directory_of(path) for path in ("/a", "/a/b")] == ["/", "/a"]
    assert ancestors("/") == []
    assert ancestors("/a/b") == ["/a", "/a/b"]


@pytest.mark.parametrize(
    ("prefix", "directory"),
    [
        ("", "/"),
        ("/", "/"),
        ("/a", "/"),
        ("/a/", "/a"),
        ("/a/b", "/a"),
        ("/a//b", "/a/%"),
        ("no-slash/x", "/"),
    ],
)
def test_all_keys_with_a_prefix_lie_under_its_directory(prefix: str, directory: str) -> None:
    assert directory_of_prefix(prefix) == directory
