"""CloudEvents in binary mode, as other programs may send them: the attributes in headers, the data in the body (pure).

We send in structured mode alone, but read both, as the binding asks. AMQP 1.0's application properties are headers where a
broker speaks 0-9-1. Each attribute may come in its own type or as text.

Sources: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/amqp-protocol-binding.md
    https://github.com/knative-extensions/eventing-rabbitmq/blob/main/cloudevents-protocol-spec/spec.md
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from roster.bus import strictjson
from roster.bus.amqp.envelope import Properties
from roster.bus.message import MAX_ATTRIBUTES_CHARS, Message, checked_size
from roster.errors import MessageError

STRUCTURED = "application/cloudevents"

# Of CloudEvents' binding to AMQP, with the other spelling that its SDKs write, and of Knative's binding to RabbitMQ.
_PREFIXES = ("cloudEvents:", "cloudEvents_", "ce-")
_INTEGERS = ("priority", "timeoutms")
# What the body and the content type say.
_ELSEWHERE = ("data", "data_base64", "datacontenttype")
# As seconds the year 5138, as milliseconds 1973: AMQP 0-9-1 counts seconds, AMQP 1.0 milliseconds.
_MILLISECONDS = 10**11


def is_binary(properties: Properties) -> bool:
    """Tell whether a message is a CloudEvent in binary mode."""
    if not properties.headers or properties.content_type.lower().startswith(STRUCTURED):
        return False
    return any(_attribute(name) == "specversion" for name in properties.headers)


def read(body: bytes, properties: Properties, limit: int) -> Message:
    """Read a message in binary mode.

    Raises:
        MessageError: it is over `limit` bytes, or none of ours.
    """
    checked_size(body, limit)
    event: dict[str, Any] = {}
    for header, value in (properties.headers or {}).items():
        name = _attribute(header)
        if not name:
            continue  # another program's
        if name in _ELSEWHERE or name in event:
            raise MessageError(f"the header {header[:40]!r} says what is said elsewhere")
        event[name] = _value(name, value)
    if properties.content_type:
        event["datacontenttype"] = properties.content_type
    if body and (not properties.content_type or "json" in properties.content_type.lower()):
        event["data"] = strictjson.decode(body)
    return Message.from_event(event)


def headers_of(properties: Properties) -> dict[str, str]:
    """Return the headers that hold attributes, as text, to be kept with the body; none if they are too many."""
    kept = {
        name: str(_value(_attribute(name), value))
        for name, value in (properties.headers or {}).items()
        if _attribute(name)
    }
    size = sum(len(name) + len(value) for name, value in kept.items())
    return kept if size <= MAX_ATTRIBUTES_CHARS else {}


def _attribute(header: str) -> str:
    """Return the attribute that a header holds; empty: it holds none."""
    for prefix in _PREFIXES:
        if header.startswith(prefix):
            return header[len(prefix) :]
    return ""


def _value(name: str, value: Any) -> Any:
    """Return an attribute's value as JSON has it."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if (
        name in _INTEGERS
        and isinstance(value, str)
        and value.isascii()
        and value.isdigit()
        and len(value) < 11
    ):
        return int(value)
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    if name == "time" and type(value) is int:
        seconds = value / 1000 if abs(value) >= _MILLISECONDS else value
        try:
            return datetime.fromtimestamp(seconds, UTC).isoformat()
        except (ValueError, OverflowError, OSError):
            return str(value)  # which is no time: reading says so
    return value
