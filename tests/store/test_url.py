"""Which store a URL or the environment names, and what is shown of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roster.errors import ConfigError
from roster.store import open_store, store_url


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("ROSTER_REGISTRY", "ETCD_HOST", "ETCD_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ROSTER_STATE_DIR", str(tmp_path))


def test_without_anything_it_is_a_file_in_the_state_directory(tmp_path: Path) -> None:
    assert store_url().display == f"sqlite://{tmp_path}/registry.db"


def test_the_environment_names_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETCD_HOST", "db1")
    assert store_url().display == "etcd://db1:2379"
    monkeypatch.setenv("ETCD_PORT", "4001")
    assert store_url().display == "etcd://db1:4001"
    monkeypatch.setenv("ETCD_HOST", "::1")
    assert store_url().display == "etcd://[::1]:4001"
    monkeypatch.setenv("ROSTER_REGISTRY", "memory://team")
    assert store_url().display == "memory://team"
    assert store_url("memory://other").display == "memory://other"


@pytest.mark.parametrize(
    ("url", "display"),
    [
        ("sqlite:///var/lib/registry.db", "sqlite:///var/lib/registry.db"),
        ("sqlite:////var/lib/../registry.db", "sqlite:///var/registry.db"),
        ("sqlite:///with%20space/%D0%B1.db?history=5", "sqlite:///with%20space/%D0%B1.db"),
        ("memory://", "memory://"),
        ("memory://team", "memory://team"),
        ("etcd://h1,h2:4001/?prefix=/team", "etcd://h1:2379,h2:4001"),
        ("etcds://user:pa%40ss@h1", "etcds://h1:2379"),
        ("consul://token@h1", "consul://h1:8500"),
        ("consuls://[fe80::1]:1", "consuls://[fe80::1]:1"),
        ("zookeeper://h1,h2", "zookeeper://h1:2181,h2:2181"),
    ],
)
def test_a_url_is_shown_rebuilt(url: str, display: str) -> None:
    assert store_url(url).display == display


def test_credentials_are_read_and_never_shown() -> None:
    url = store_url("etcd://me:pa%40ss@h1")
    assert (url.username, url.password) == ("me", "pa@ss")
    assert "pa@ss" not in repr(url) + url.display
    assert "me" not in url.display


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("", "write sqlite:///"),
        ("/var/lib/registry.db", "write sqlite:///"),
        ("registry.db", "write sqlite:///"),
        ("redis://h1", "write sqlite:///"),
        ("sqlite:/var/registry.db", "write sqlite:///"),
        ("sqlite://registry.db", "after three slashes"),
        ("sqlite://", "after three slashes"),
        ("sqlite:///", "after three slashes"),
        ("sqlite:///:memory:", "write memory://"),
        ("sqlite:///var/lib/", "add the file"),
        ("sqlite:///a%00b", "NUL"),
        ("sqlite:///a#b", "%23"),
        ("sqlite:///a?histroy=3", "knows: history"),
        ("sqlite:///a?history=3&history=4", "knows: history"),
        ("sqlite:///a?history", "name=value"),
        ("sqlite:///a?history=0", "from 1 to"),
        ("sqlite:///a?history=ten", "from 1 to"),
        ("memory://a/b", "memory://NAME"),
        ("etcd://", "write etcd://HOST"),
        ("etcd://h1/team", "?prefix="),
        ("etcd://h1:port", "1 to 65535"),
        ("etcd://h1:70000", "1 to 65535"),
        ("etcd://[::1", "write sqlite"),
    ],
)
def test_a_wrong_url_names_the_remedy(url: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(url)
    assert remedy in str(caught.value)


@pytest.mark.parametrize("scheme", ["etcd", "etcds", "consul", "consuls", "zookeeper"])
def test_an_engine_that_this_version_lacks_is_said(scheme: str) -> None:
    with pytest.raises(ConfigError, match=f"no engine for {scheme}://.*sqlite:///"):
        open_store(f"{scheme}://h1")


def test_a_wrong_port_in_the_environment_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETCD_HOST", "h")
    monkeypatch.setenv("ETCD_PORT", "http")
    with pytest.raises(ConfigError, match="ETCD_PORT"):
        store_url()


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        store_url(text)
    except ConfigError:
        pass  # the one error there is


@given(
    scheme=st.sampled_from(["etcd", "etcds", "consul", "zookeeper", "sqlite", "memory", "redis", "http"]),
    rest=st.sampled_from(
        ["@h1", "@h1:99999", "@", "@h1/path", "@h1?bad=1", "@[::1", "@h1#x", "@h1:1,", "@/abs"]
    ),
)
def test_no_error_and_no_display_repeats_a_secret(scheme: str, rest: str) -> None:
    url = f"{scheme}://user:hunter2{rest}"
    try:
        shown = store_url(url).display
    except ConfigError as error:
        shown = f"{error} {error.__cause__}"
    assert "hunter2" not in shown
