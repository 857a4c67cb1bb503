"""Which bus a URL means, and what is said when it means none."""

from __future__ import annotations

from pathlib import Path

import pytest

from roster.bus import open_bus
from roster.bus.url import parse_url
from roster.errors import ConfigError


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No bus is named, and the state directory is the test's own."""
    for name in ("ROSTER_BUS", "RABBITMQ_HOST"):
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


def test_an_engine_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RABBITMQ_HOST", "rabbit")
    with pytest.raises(
        ConfigError, match=r"RABBITMQ_HOST asks for RabbitMQ .* not available in this version"
    ):
        open_bus()


@pytest.mark.parametrize(
    "url",
    [
        "amqp://user:hunter2@host/vhost",
        "amqps://user:hunter2@host:5671",
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
