"""The frames of which messages consist, written and read without the library's walk over the fields of the specification.

They are nearly all that passes. That walk takes about 18 us to write a message and as long to read one, this here 6 and 5.
Whatever else is said to a broker is the library's to write and to read.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from struct import Struct

from aiormq import spec
from pamqp import encode
from pamqp import frame as library

from roster.bus.amqp.envelope import Properties

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
FRAME = Struct(">BHI")
END = b"\xce"
# Class, weight, size of the body, which properties there are.
CONTENT = Struct(">HHQH")
BASIC = 60
# Properties that are text or one byte. The others are tables, times, and what nobody here reads or writes.
PLAIN = 0x9FA8

_ACK = Struct(">BHIHHQBB")
_TAG = Struct(">QB")
_DELIVER = b"\x00\x3c\x00\x3c"
# Each property's bit, in the order in which they stand.
_FIELDS = (
    (0x8000, "content_type"),
    (0x1000, "delivery_mode"),
    (0x0800, "priority"),
    (0x0400, "correlation_id"),
    (0x0200, "reply_to"),
    (0x0100, "expiration"),
    (0x0080, "message_id"),
    (0x0020, "type"),
    (0x0008, "app_id"),
)
_BYTES = 0x1800


@dataclass(slots=True)
class Deliver:
    """What a broker says of a message that it delivers."""

    consumer_tag: str
    tag: int
    redelivered: bool
    routing_key: str


def _frame(kind: int, number: int, content: bytes) -> bytes:
    return FRAME.pack(kind, number, len(content)) + content + END


@lru_cache(maxsize=1024)
def _publish(number: int, exchange: str, routing_key: str, mandatory: bool) -> bytes:
    return library.marshal(
        spec.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=mandatory), number
    )


def message(
    number: int,
    exchange: str,
    routing_key: str,
    properties: Properties,
    body: bytes,
    *,
    mandatory: bool,
    room: int,
) -> bytes:
    """Return a message as it is published on the channel `number`, with at most `room` bytes of its body in a frame."""
    return b"".join(
        [
            _publish(number, exchange, routing_key, mandatory),
            _frame(HEADER, number, _header(properties, len(body))),
            *(_frame(BODY, number, body[at : at + room]) for at in range(0, len(body), room)),
        ]
    )


def _header(properties: Properties, size: int) -> bytes:
    flags = 0
    parts = [b""]
    for flag, name in _FIELDS:
        if name == "delivery_mode" and properties.headers:
            flags |= 0x2000
            parts.append(encode.field_table(dict(properties.headers)))
        value = getattr(properties, name)
        if value or (value == 0 and name == "priority"):
            flags |= flag
            parts.append(encode.octet(value) if flag & _BYTES else encode.short_string(value))
    parts[0] = CONTENT.pack(BASIC, 0, size, flags)
    return b"".join(parts)


def ack(number: int, tag: int, multiple: bool) -> bytes:
    """Return the acknowledgement of a delivery."""
    return _ACK.pack(METHOD, number, 13, BASIC, 80, tag, multiple, END[0])


def is_deliver(frame: bytes) -> bool:
    """Tell whether a frame begins a delivery."""
    return frame.startswith(_DELIVER, FRAME.size)


def read_deliver(frame: bytes) -> Deliver:
    """Read the frame that begins a delivery."""
    consumer_tag, at = _text(frame, FRAME.size + len(_DELIVER))
    tag, redelivered = _TAG.unpack_from(frame, at)
    _, at = _text(frame, at + _TAG.size)  # the exchange
    routing_key, _ = _text(frame, at)
    return Deliver(consumer_tag, tag, bool(redelivered), routing_key)


def read_plain(flags: int, raw: bytes) -> Properties:
    """Read properties of which all are `PLAIN`."""
    found, at = Properties(), 0
    for flag, name in _FIELDS:
        if flags & flag:
            if flag & _BYTES:
                setattr(found, name, raw[at])
                at += 1
            else:
                value, at = _text(raw, at)
                setattr(found, name, value)
    return found


def _text(raw: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + raw[at]
    return raw[at + 1 : end].decode("utf-8", "replace"), end
