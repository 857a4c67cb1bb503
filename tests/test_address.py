"""Passwords in files, as orchestrators of containers mount them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from tests.engines import own_database

from roster.bus.url import parse_url
from roster.errors import ConfigError, RunsUnavailableError
from roster.orchestrator.runs.database import RunsUrl, open_engine
from roster.store import store_url

Read = Callable[[], str | None]
BOTH = pytest.mark.parametrize(
    ("variable", "read"),
    [
        ("ROSTER_REGISTRY_PASSWORD", lambda: store_url("etcd://host").password),
        ("ROSTER_BUS_PASSWORD", lambda: parse_url("amqp://host").password),
        ("ROSTER_RUNS_PASSWORD", lambda: runs_password("postgresql://agent@host/db")),
    ],
)


def runs_password(url: str) -> str | None:
    password = urlsplit(RunsUrl.parse(url).text).password
    return unquote(password) if password is not None else None


@pytest.fixture(autouse=True)
def _users(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ROSTER_REGISTRY_PASSWORD", "ROSTER_BUS_PASSWORD", "ROSTER_RUNS_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"{name}_FILE", raising=False)
    monkeypatch.setenv("ROSTER_REGISTRY_USER", "agent")
    monkeypatch.setenv("ROSTER_BUS_USER", "agent")


@BOTH
@pytest.mark.parametrize(
    ("held", "password"),
    [
        (b"s3cret", "s3cret"),
        (b"s3cret\n", "s3cret"),
        (b"s3cret\r\n", "s3cret"),
        (b" blanks count ", " blanks count "),
        ("пароль\n".encode(), "пароль"),
    ],
)
def test_a_password_is_read_from_a_file(
    variable: str, read: Read, held: bytes, password: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "password").write_bytes(held)
    monkeypatch.setenv(f"{variable}_FILE", str(tmp_path / "password"))
    assert read() == password


@BOTH
def test_a_file_that_is_not_there_is_named(
    variable: str, read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{variable}_FILE", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=rf"{variable}_FILE: .*/none cannot be read: No such file"):
        read()


@BOTH
@pytest.mark.parametrize("held", [b"", b"\n", b"one\ntwo\n", b"a\0b", b"\xff\xfe", b"x" * 70_000])
def test_a_file_that_holds_no_password_is_refused_and_not_repeated(
    variable: str, read: Read, held: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "password").write_bytes(held)
    monkeypatch.setenv(f"{variable}_FILE", str(tmp_path / "password"))
    with pytest.raises(ConfigError, match="must hold one password") as caught:
        read()
    assert "two" not in str(caught.value)
    assert "xxx" not in str(caught.value)


@BOTH
def test_a_variable_and_its_file_contradict_each_other(
    variable: str, read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "password").write_text("s3cret")
    monkeypatch.setenv(variable, "an0ther")
    monkeypatch.setenv(f"{variable}_FILE", str(tmp_path / "password"))
    with pytest.raises(ConfigError, match=f"{variable} and {variable}_FILE are both set"):
        read()


def test_the_password_of_runs_goes_where_the_url_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROSTER_RUNS_PASSWORD", "p@ss/w:rd")
    found = RunsUrl.parse("postgresql://agent@db:5433/runs?sslmode=require")
    assert found.text == "postgresql+psycopg://agent:p%40ss%2Fw%3Ard@db:5433/runs?sslmode=require"
    assert found.shown == "postgresql://db:5433/runs"
    assert "p%40ss" not in repr(found)
    assert runs_password("postgresql://agent:own@db/runs") == "own"
    # Without a user PostgreSQL's library takes that of the system, and the passwords that it knows.
    assert RunsUrl.parse("postgresql://db/runs").text == "postgresql+psycopg://db/runs"
    assert RunsUrl.parse("sqlite:////tmp/runs.sqlite").scheme == "sqlite"


def test_a_real_database_is_reached_with_a_password_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = urlsplit(own_database())
    assert whole.password
    (tmp_path / "password").write_text(unquote(whole.password) + "\n")
    bare = whole._replace(netloc=f"{whole.username}@{whole.hostname}:{whole.port}").geturl()
    with pytest.raises(RunsUnavailableError):
        open_engine(RunsUrl.parse(bare)).dispose()
    monkeypatch.setenv("ROSTER_RUNS_PASSWORD_FILE", str(tmp_path / "password"))
    engine = open_engine(RunsUrl.parse(bare))
    try:
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM roster_runs").scalar() == 0
    finally:
        engine.dispose()
