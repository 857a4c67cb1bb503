"""CloudEvents in binary mode are read as what they would be in structured mode."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from roster.bus import Kind
from roster.bus.amqp import binary, names
from roster.bus.amqp.envelope import Properties
from roster.errors import MessageError

GOOD = {"specversion": "1.0", "id": "7", "source": "/x", "type": "ai.team.event"}


def envelope(prefix: str = "cloudEvents:", content_type: str = "application/json", **more: Any) -> Properties:
    headers = {f"{prefix}{name}": value for name, value in {**GOOD, **more}.items()}
    return Properties(content_type=content_type, headers={**headers, "x-trace": 1})


@pytest.mark.parametrize("prefix", ["cloudEvents:", "cloudEvents_", "ce-"])
def test_each_spelling_of_the_headers_is_read(prefix: str) -> None:
    properties = envelope(prefix, subject="a.b", tenant="blue")
    message = names.read(b'{"n": 1}', properties, 100)
    assert (message.kind, message.id, message.source, message.subject) == (Kind.EVENT, "7", "/x", "a.b")
    assert (message.data, message.extensions) == ({"n": 1}, {"tenant": "blue"})


@pytest.mark.parametrize(
    "content_type", ["application/cloudevents+json", "Application/CloudEvents+json; x=y"]
)
def test_what_says_that_it_is_structured_is_read_so(content_type: str) -> None:
    assert not binary.is_binary(envelope(content_type=content_type))


def test_headers_of_another_program_make_no_event() -> None:
    assert not binary.is_binary(Properties(headers={"specversion": "1.0", "x-ce-specversion": "1.0"}))
    assert not binary.is_binary(Properties())


@pytest.mark.parametrize(
    "time",
    [
        1_700_000_000,
        1_700_000_000_000,
        datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC),
        datetime(2023, 11, 14, 22, 13, 20),  # noqa: DTZ001 - as clients give it
        "2023-11-14T22:13:20+00:00",
        b"2023-11-14T22:13:20+00:00",
    ],
)
def test_a_time_is_seconds_milliseconds_or_text(time: Any) -> None:
    assert binary.read(b"", envelope(time=time), 100).time == "2023-11-14T22:13:20+00:00"


@pytest.mark.parametrize("value", [5, "5"])
def test_an_integer_may_come_as_text(value: Any) -> None:
    message = binary.read(b"{}", envelope(priority=value, timeoutms=value), 100)
    assert (message.priority, message.timeout) == (5, 0.005)


def test_its_size_is_bounded() -> None:
    with pytest.raises(MessageError, match="the limit is 10"):
        binary.read(b'{"n": 1234}', envelope(), 10)


def test_what_is_kept_with_a_dead_letter_is_bounded_too() -> None:
    assert binary.headers_of(envelope("ce-", n=5)) == {
        f"ce-{name}": value for name, value in GOOD.items()
    } | {"ce-n": "5"}
    assert binary.headers_of(envelope(big="x" * 20_000)) == {}
