"""AMQP 0-9-1 on the wire: what a client of RabbitMQ writes and reads, and no more of it (pure).

Names are bytes there: what is no UTF-8 is kept by surrogate escapes, so that a foreign program's `reply_to` goes back as it
came.

Source: https://www.rabbitmq.com/resources/specs/amqp0-9-1.extended.xml
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from struct import Struct
from typing import Any, Final, NamedTuple

GREETING: Final = b"AMQP\x00\x00\x09\x01"
METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
FRAME_END: Final = 0xCE
FRAME_OVERHEAD: Final = 8
HEARTBEAT_FRAME: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"
MAX_DEPTH = 16

Value = Any  # of a table: text, bytes, integers, booleans, floats, tables, lists, None
Table = Mapping[str, Value]

_FRAME = Struct(">BHI")
_HEADER = Struct(">HHQH")
_PUBLISH_AT = Struct(">BHIHH")


class CodecError(ValueError):
    """What was read is no AMQP."""


# --- primitive types ----------------------------------------------------------------------------------------------


def short(text: str) -> bytes:
    """Encode a short string: at most 255 bytes."""
    raw = text.encode("utf-8", "surrogateescape")
    if len(raw) > 255:
        raise CodecError(f"a name is at most 255 bytes, not {len(raw)}")
    return bytes((len(raw),)) + raw


def long(raw: bytes) -> bytes:
    """Encode a long string."""
    return struct.pack(">I", len(raw)) + raw


def table(fields: Table) -> bytes:
    """Encode a table."""
    return long(b"".join(short(name) + _value(value) for name, value in fields.items()))


def _value(value: Value) -> bytes:
    if isinstance(value, bool):
        return b"t\x01" if value else b"t\x00"
    if isinstance(value, int):
        return struct.pack(">cq", b"l", value)
    if isinstance(value, str):
        return b"S" + long(value.encode("utf-8", "surrogateescape"))
    if isinstance(value, Mapping):
        return b"F" + table(value)
    raise CodecError(f"a table takes no {type(value).__name__}")


class Reader:
    """Takes values off a payload, in order."""

    __slots__ = ("at", "raw")

    def __init__(self, raw: bytes, at: int = 0) -> None:
        self.raw = raw
        self.at = at

    def number(self, size: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "big", signed=signed)

    def take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self.raw):
            raise CodecError("a frame ends too early")
        part = self.raw[self.at : end]
        self.at = end
        return part

    def short(self) -> str:
        return self.take(self.number(1)).decode("utf-8", "surrogateescape")

    def long(self) -> bytes:
        return self.take(self.number(4))

    def table(self, depth: int = 0) -> dict[str, Value]:
        if depth > MAX_DEPTH:
            raise CodecError("a table is nested too deeply")
        inner = Reader(self.long())
        found: dict[str, Value] = {}
        while inner.at < len(inner.raw):
            name = inner.short()
            found[name] = inner.value(depth)
        return found

    def value(self, depth: int) -> Value:
        kind = self.take(1)
        if (size := _INTEGERS.get(kind)) is not None:
            return self.number(abs(size), signed=size < 0)
        match kind:
            case b"t":
                return self.number(1) != 0
            case b"S":
                return self.long().decode("utf-8", "surrogateescape")
            case b"x":
                return self.long()
            case b"F":
                return self.table(depth + 1)
            case b"A":
                return self._array(depth + 1)
            case b"f":
                return struct.unpack(">f", self.take(4))[0]
            case b"d":
                return struct.unpack(">d", self.take(8))[0]
            case b"D":
                scale = self.number(1)
                return self.number(4, signed=True) / 10**scale
            case b"V":
                return None
        raise CodecError(f"a table holds a value of unknown type {kind!r}")

    def _array(self, depth: int) -> list[Value]:
        if depth > MAX_DEPTH:
            raise CodecError("a table is nested too deeply")
        inner = Reader(self.long())
        found = []
        while inner.at < len(inner.raw):
            found.append(inner.value(depth))
        return found


# Bytes of each type of integer, negative for the signed ones.
_INTEGERS = {b"b": -1, b"B": 1, b"s": -2, b"u": 2, b"I": -4, b"i": 4, b"l": -8, b"T": 8}


# --- methods ------------------------------------------------------------------------------------------------------


class Method(NamedTuple):
    """A method as it was read: its name and its arguments."""

    name: str
    arguments: tuple[Any, ...]


# What the broker may say. o: octet, h: short, l: long, q: long-long, s: short string, S: long string, t: table. A field of
# bits is one octet: nothing here has more than eight.
_READ = {
    (10, 10): ("connection.start", "ootSS"),
    (10, 30): ("connection.tune", "hlh"),
    (10, 41): ("connection.open-ok", ""),
    (10, 50): ("connection.close", "hshh"),
    (10, 51): ("connection.close-ok", ""),
    (10, 60): ("connection.blocked", "s"),
    (10, 61): ("connection.unblocked", ""),
    (20, 11): ("channel.open-ok", ""),
    (20, 20): ("channel.flow", "o"),
    (20, 40): ("channel.close", "hshh"),
    (20, 41): ("channel.close-ok", ""),
    (40, 11): ("exchange.declare-ok", ""),
    (50, 11): ("queue.declare-ok", "sll"),
    (50, 21): ("queue.bind-ok", ""),
    (50, 31): ("queue.purge-ok", "l"),
    (50, 41): ("queue.delete-ok", "l"),
    (50, 51): ("queue.unbind-ok", ""),
    (60, 11): ("basic.qos-ok", ""),
    (60, 21): ("basic.consume-ok", "s"),
    (60, 30): ("basic.cancel", "so"),
    (60, 31): ("basic.cancel-ok", "s"),
    (60, 50): ("basic.return", "hsss"),
    (60, 60): ("basic.deliver", "sqoss"),
    (60, 71): ("basic.get-ok", "qossl"),
    (60, 72): ("basic.get-empty", ""),
    (60, 80): ("basic.ack", "qo"),
    (60, 120): ("basic.nack", "qo"),
    (85, 11): ("confirm.select-ok", ""),
}
_SIZES = {"o": 1, "h": 2, "l": 4, "q": 8}


def read_method(raw: bytes) -> Method:
    """Read the payload of a method frame.

    Raises:
        CodecError: it is none that a broker may send here.
    """
    reader = Reader(raw)
    ids = reader.number(2), reader.number(2)
    known = _READ.get(ids)
    if known is None:
        raise CodecError(f"an unknown method {ids[0]}.{ids[1]}")
    name, layout = known
    arguments: list[Any] = []
    for kind in layout:
        if (size := _SIZES.get(kind)) is not None:
            arguments.append(reader.number(size))
        elif kind == "s":
            arguments.append(reader.short())
        elif kind == "S":
            arguments.append(reader.long())
        else:
            arguments.append(reader.table())
    return Method(name, tuple(arguments))


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    """Return a frame."""
    return _FRAME.pack(kind, channel, len(payload)) + payload + b"\xce"


def method(channel: int, class_: int, number: int, arguments: bytes = b"") -> bytes:
    """Return the frame of a method."""
    return frame(METHOD, channel, struct.pack(">HH", class_, number) + arguments)


def bits(*flags: bool) -> bytes:
    """Encode up to eight bits."""
    return bytes((sum(1 << place for place, flag in enumerate(flags) if flag),))


# --- content ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Properties:
    """What stands on the envelope of a message.

    Attributes:
        content_type: MIME type of the body.
        headers: whatever else.
        delivery_mode: 2: survives a restart of the broker in a durable queue.
        priority: 0 to 9.
        correlation_id: what the answer belongs to.
        reply_to: the queue for the answer.
        expiration: milliseconds, as text.
        message_id: the message's id.
        type: what kind of message it is.
        app_id: who made it.
    """

    content_type: str = ""
    headers: Table | None = None
    delivery_mode: int = 0
    priority: int | None = None
    correlation_id: str = ""
    reply_to: str = ""
    expiration: str = ""
    message_id: str = ""
    type: str = ""
    app_id: str = ""

    def encode(self) -> tuple[int, bytes]:
        """Return the flags and what they announce."""
        flags, parts = 0, []
        if self.content_type:
            flags |= 0x8000
            parts.append(short(self.content_type))
        if self.headers:
            flags |= 0x2000
            parts.append(table(self.headers))
        if self.delivery_mode:
            flags |= 0x1000
            parts.append(bytes((self.delivery_mode,)))
        if self.priority is not None:
            flags |= 0x0800
            parts.append(bytes((self.priority,)))
        if self.correlation_id:
            flags |= 0x0400
            parts.append(short(self.correlation_id))
        if self.reply_to:
            flags |= 0x0200
            parts.append(short(self.reply_to))
        if self.expiration:
            flags |= 0x0100
            parts.append(short(self.expiration))
        if self.message_id:
            flags |= 0x0080
            parts.append(short(self.message_id))
        if self.type:
            flags |= 0x0020
            parts.append(short(self.type))
        if self.app_id:
            flags |= 0x0008
            parts.append(short(self.app_id))
        return flags, b"".join(parts)


def read_header(raw: bytes) -> tuple[int, Properties]:
    """Read the payload of a header frame: the size of the body, and the properties.

    Raises:
        CodecError: it is none.
    """
    try:
        _, _, size, flags = _HEADER.unpack_from(raw)
    except struct.error as error:
        raise CodecError("a content header ends too early") from error
    reader, found = Reader(raw, _HEADER.size), Properties()
    if flags & 0x8000:
        found.content_type = reader.short()
    if flags & 0x4000:
        reader.short()  # content_encoding
    if flags & 0x2000:
        found.headers = reader.table()
    if flags & 0x1000:
        found.delivery_mode = reader.number(1)
    if flags & 0x0800:
        found.priority = reader.number(1)
    if flags & 0x0400:
        found.correlation_id = reader.short()
    if flags & 0x0200:
        found.reply_to = reader.short()
    if flags & 0x0100:
        found.expiration = reader.short()
    if flags & 0x0080:
        found.message_id = reader.short()
    if flags & 0x0040:
        reader.number(8)  # timestamp
    if flags & 0x0020:
        found.type = reader.short()
    if flags & 0x0010:
        reader.short()  # user_id
    if flags & 0x0008:
        found.app_id = reader.short()
    return size, found


def publish(
    channel: int,
    exchange: str,
    routing_key: str,
    properties: Properties,
    body: bytes,
    *,
    mandatory: bool,
    frame_max: int,
) -> bytes:
    """Return the frames of a `basic.publish` with its content."""
    where = short(exchange) + short(routing_key) + (b"\x01" if mandatory else b"\x00")
    flags, listed = properties.encode()
    parts = [
        _PUBLISH_AT.pack(METHOD, channel, 6 + len(where), 60, 40),
        b"\x00\x00",
        where,
        b"\xce",
        _FRAME.pack(HEADER, channel, _HEADER.size + len(listed)),
        _HEADER.pack(60, 0, len(body), flags),
        listed,
        b"\xce",
    ]
    room = frame_max - FRAME_OVERHEAD
    for at in range(0, len(body), room):
        part = body[at : at + room]
        parts += (_FRAME.pack(BODY, channel, len(part)), part, b"\xce")
    return b"".join(parts)
