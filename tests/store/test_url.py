"""Which store a URL or the environment names, and what is shown of it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roster._address import Tls
from roster.errors import ConfigError
from roster.store import open_store, store_url


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("ROSTER_", "ETCD_", "CONSUL_"))]:
        monkeypatch.delenv(name)
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


@pytest.mark.parametrize("engine", ["etcd", "consul", "zookeeper"])
def test_an_engine_without_its_library_names_the_extra(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith(f"roster.store.{engine}")]:
        monkeypatch.delitem(sys.modules, module)
    for library in ("grpc", "google.protobuf", "aiohttp", "kazoo"):
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigError, match=rf"pip install 'agent-roster\[{engine}\]'"):
        open_store(f"{engine}://h1")


@pytest.mark.parametrize(
    ("query", "prefix"),
    [
        ("", "/ai-team"),
        ("?prefix=/team", "/team"),
        ("?prefix=a/b/", "/a/b"),
        ("?prefix=/ai-team", "/ai-team"),
    ],
)
def test_a_prefix_is_a_short_path(query: str, prefix: str) -> None:
    assert store_url(f"etcd://h1/{query}").prefix == prefix


@pytest.mark.parametrize(
    "prefix", ["", "/", "a//b", "/..", "/a/../b", "/a b", "/a%0Ab", "/a%00", "/a/b/c/d/e", "/я", "-a"]
)
def test_another_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigError, match="such as /ai-team"):
        assert store_url(f"zookeeper://h1/?prefix={prefix}").prefix


def test_a_request_has_a_timeout() -> None:
    assert store_url("consul://h1").timeout == 5.0
    assert store_url("consul://h1?timeout=9").timeout == 9.0
    for wrong in ("0", "61", "1.5", "soon"):
        with pytest.raises(ConfigError, match="from 1 to 60"):
            assert store_url(f"consul://h1?timeout={wrong}").timeout


def test_credentials_come_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "consuls-own")
    assert store_url("consul://h1").password == "consuls-own"
    monkeypatch.setenv("ROSTER_REGISTRY_USER", "me")
    monkeypatch.setenv("ROSTER_REGISTRY_PASSWORD", "hunter2")
    url = store_url("etcd://h1")
    assert (url.username, url.password) == ("me", "hunter2")
    assert store_url("consul://h1").password == "hunter2"
    assert store_url("consul://:token@h1").password == store_url("consul://token@h1").password == "token"
    assert store_url("etcd://you:other@h1").password == "other"
    monkeypatch.setenv("ETCD_HOST", "h1")
    assert store_url().password == "hunter2"


def test_the_files_of_tls_come_from_the_url_or_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("ca", "cert", "key"):
        (tmp_path / name).touch()
    assert store_url("etcd://h1").tls is None
    assert store_url("etcds://h1").tls == Tls()
    url = f"etcds://h1?ca={tmp_path}/ca&cert={tmp_path}/cert&key={tmp_path}/key"
    everything = Tls(tmp_path / "ca", tmp_path / "cert", tmp_path / "key")
    assert store_url(url).tls == everything
    for name in ("ca", "cert", "key"):
        monkeypatch.setenv(f"ROSTER_TLS_{name.upper()}", str(tmp_path / name))
    assert store_url("zookeepers://h1").tls == everything
    monkeypatch.delenv("ROSTER_TLS_KEY")
    with pytest.raises(ConfigError, match="needs its key"):
        store_url("consuls://h1")
    with pytest.raises(ConfigError, match="does not exist"):
        store_url(f"consuls://h1?key={tmp_path}/nobody")
    with pytest.raises(ConfigError, match="knows: prefix, timeout"):
        store_url(f"consul://h1?ca={tmp_path}/ca")


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
