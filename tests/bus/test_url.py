"""Which bus a URL means, and what is said when it means none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from roster.bus import open_bus
from roster.bus.url import parse_url
from roster.errors import ConfigError


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No bus is named, and the state directory is the test's own."""
    for name in ("ROSTER_BUS", "ROSTER_BUS_USER", "ROSTER_BUS_PASSWORD", "RABBITMQ_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ROSTER_STATE_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("url", [None, "local://", "local:///", "LOCAL://"])
def test_the_default_is_the_local_bus_in_the_state_directory(url: str | None, tmp_path: Path) -> None:
    assert parse_url(url).directory == tmp_path / "bus"
    assert open_bus(url).url == f"local://{tmp_path}/bus"


def test_a_directory_is_taken_as_it_is_with_percent_signs_read() -> None:
    assert parse_url("local:///var/run/my%20team").directory == Path("/var/run/my team")
    assert parse_url("local:///var/run/my%20team").display == "local:///var/run/my%20team"


@pytest.mark.parametrize("name", ["", "a", "team/one", "имя"])
def test_memory_buses_have_names(name: str) -> None:
    assert parse_url(f"memory://{name}").name == name


def test_the_environment_is_asked_when_no_url_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROSTER_BUS", "memory://named")
    assert parse_url().name == "named"
    monkeypatch.setenv("RABBITMQ_HOST", "rabbit")
    assert parse_url().name == "named", "ROSTER_BUS goes first"


def test_the_founding_documents_variable_names_a_rabbitmq(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RABBITMQ_HOST", "rabbit")
    assert parse_url().display == "amqp://rabbit:5672"
    assert parse_url().hosts == (("rabbit", 5672),)


@pytest.mark.parametrize(
    ("url", "display", "hosts", "vhost"),
    [
        ("amqp://mq", "amqp://mq:5672", (("mq", 5672),), "/"),
        ("AMQP://mq/", "amqp://mq:5672", (("mq", 5672),), "/"),
        ("amqp://mq/%2F", "amqp://mq:5672", (("mq", 5672),), "/"),
        ("amqp://mq:5/team%2Fa", "amqp://mq:5/team%2Fa", (("mq", 5),), "team/a"),
        ("amqps://a,b:7/t", "amqps://a:5671,b:7/t", (("a", 5671), ("b", 7)), "t"),
        ("amqp://[::1]:7/t", "amqp://[::1]:7/t", (("::1", 7),), "t"),
    ],
)
def test_hosts_and_virtual_hosts_are_read(
    url: str, display: str, hosts: tuple[tuple[str, int], ...], vhost: str
) -> None:
    where = parse_url(url)
    assert (where.display, where.hosts, where.vhost) == (display, hosts, vhost)
    assert (where.tls is not None) == (where.scheme == "amqps")


def test_the_user_is_that_of_the_url_else_of_the_environment_else_guest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def who(url: str) -> tuple[str, str]:
        where = parse_url(url)
        assert "pa:ss" not in repr(where)
        return where.username, where.password

    assert who("amqp://mq") == ("guest", "guest")
    monkeypatch.setenv("ROSTER_BUS_USER", "me@here")
    monkeypatch.setenv("ROSTER_BUS_PASSWORD", "100%/pa:ss")
    assert who("amqp://mq") == ("me@here", "100%/pa:ss")
    assert who("amqp://you:pa%3Ass%2F@mq") == ("you", "pa:ss/"), (
        "what stands in the URL goes first, as a whole"
    )
    assert who("amqp://you@mq") == ("you", "")


def test_heartbeat_and_timeout_are_seconds_in_bounds() -> None:
    where = parse_url("amqp://mq?heartbeat=2&timeout=9")
    assert (where.heartbeat, where.timeout) == (2, 9)
    for query in ("heartbeat=0", "heartbeat=601", "timeout=0", "timeout=61", "timeout=1.5", "timeout=\u0661"):
        with pytest.raises(ConfigError, match=query.partition("=")[0]):
            parse_url(f"amqp://mq?{query}")


@pytest.mark.parametrize(
    "url",
    [
        "amqp://user:hunter2@host/vhost/more",
        "amqp://user:hunter2@host#fragment",
        "amqp://user:hunter2#@host",
        "amqp://user:hunter2@host:port",
        "amqp://user:hunter2@",
        "amqp://user:hunter2@host?ca=file",
        "amqps://user:hunter2@host:5671?ca=/no/such/file",
        "amqps://user:hunter2@host?cert=/no/such/file",
        "redis://:hunter2@host",
        "user:hunter2@host",
        "local://user:hunter2@/dir",
        "local://host/hunter2@dir?password=hunter2",
        "local:///dir?password=hunter2",
        "memory://user:hunter2@name",
        "memory://name#hunter2",
        "local://[hunter2",
        "",
    ],
)
def test_what_cannot_be_used_is_refused_and_no_secret_is_shown(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_bus(url)
    assert "hunter2" not in str(caught.value)


def test_a_host_in_a_local_url_and_a_nul_are_refused() -> None:
    with pytest.raises(ConfigError, match="local:///directory"):
        parse_url("local://var/run")
    with pytest.raises(ConfigError, match="NUL"):
        parse_url("local:///a%00b")


def test_whoever_is_on_another_bus_does_not_pay_for_the_one_on_rabbitmq() -> None:
    code = (
        "import sys; import roster, roster.cli; from roster.bus import open_bus; open_bus('memory://');"
        "sys.exit(any(name.startswith('roster.bus.amqp') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False).returncode == 0
    code = code.replace("memory://", "amqp://mq")
    assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False).returncode == 1


def test_rabbitmq_without_its_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("roster.bus.amqp")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "aiormq", None)
    with pytest.raises(
        ConfigError, match=r"amqp:// needs the package aiormq: pip install 'agent-roster\[rabbitmq\]'"
    ):
        open_bus("amqp://mq")
