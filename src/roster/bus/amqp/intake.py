"""What a broker writes, before the library reads it: what would end the connection or fill the memory is made harmless.

Deliveries are put together here and handed over at once. In the library each goes through three tasks, which took a fifth of
the processor time of a call. It gets the answers to what it asks, and the confirms.

The library gives up a whole connection over one message whose envelope it cannot read, and the broker hands that message out
again and again; a body it reads to its end, however large. It does not say that the broker has blocked us, nor why it has
turned us away. That a channel has ended it says some turns of the loop later: what is written there meanwhile costs the
connection. All of this is on the wire.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import SupportsIndex

from pamqp import frame as frames
from pamqp.exceptions import PAMQPException
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from roster._clock import boottime
from roster.bus.amqp import wire
from roster.bus.amqp.envelope import Properties, read_properties
from roster.bus.amqp.faults import LostError
from roster.bus.amqp.salvage import kept
from roster.bus.amqp.wire import BASIC, BODY, CONTENT, END, FRAME, HEADER, HEARTBEAT, METHOD, Deliver

# A body beyond this is passed over.
MAX_BODY = 16 * 1024 * 1024
# What stands in the header of such a message, in a field that is always 0 otherwise.
TOO_LARGE = 1

_KINDS = (METHOD, HEADER, BODY, HEARTBEAT)
_OVERHEAD = 8
_CHANNEL_CLOSE = b"\x00\x14\x00\x28"
# While it delivers a broker sends no heartbeats; the library, which sees none of it, is to know that it lives.
_ALIVE = Heartbeat().marshal()
_ALIVE_EVERY = 1.0
# Properties that are text of ASCII, or one byte, are read by everybody; tables, times and other bytes need a look.
_PLAIN = 0xDFB8


@dataclass(slots=True)
class _Coming:
    """A delivery that is not whole yet."""

    deliver: Deliver
    properties: Properties | None = None
    too_large: bool = False
    missing: int = 0
    body: list[bytes] = field(default_factory=list)


class Intake(asyncio.StreamReader):
    """The library's reader.

    Args:
        on_delivery: called with a channel's number and what was delivered there: whose it is, its envelope, its body.
        on_control: called with a channel's number and the word that it has ended; with 0 and what concerns all.
        on_eof: called when the connection is closed, by either side.
        on_fault: called when it breaks, or is none.
    """

    def __init__(
        self,
        on_delivery: Callable[[int, Deliver, Properties, bytes | None], None],
        on_control: Callable[[int, frames.FrameTypes], None],
        on_eof: Callable[[], None],
        on_fault: Callable[[LostError], None],
    ) -> None:
        super().__init__()
        self._on_delivery = on_delivery
        self._on_control = on_control
        self._on_eof = on_eof
        self._on_fault = on_fault
        self.came = 0  # bytes
        self._raw = bytearray()
        self._passed_over: dict[int, int] = {}
        self._coming: dict[int, _Coming] = {}
        self._fed = boottime()

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        raw, at = self._raw, 0
        self.came -= len(raw)
        raw.extend(data)
        self.came += len(raw)
        kept = []
        while len(raw) - at >= _OVERHEAD:
            kind, number, size = FRAME.unpack_from(raw, at)
            if kind not in _KINDS or size > MAX_BODY:
                another = raw.startswith(b"AMQP")
                self._broken(
                    "it speaks another version of AMQP than 0-9-1" if another else f"a frame of {size} bytes"
                )
                return
            after = at + _OVERHEAD + size
            if after > len(raw):
                break
            frame = self._looked_at(kind, number, bytes(raw[at:after]))
            at = after
            if not self._delivered(kind, number, frame):
                kept.append(frame)
        del raw[:at]
        if at:
            self._feed(b"".join(kept))

    def _feed(self, data: bytes) -> None:
        now = boottime()
        if data or now - self._fed > _ALIVE_EVERY:
            self._fed = now
            super().feed_data(data or _ALIVE)

    def feed_eof(self) -> None:
        super().feed_eof()
        self._on_eof()

    def set_exception(self, exc: Exception) -> None:
        super().set_exception(exc)
        reason = (exc.strerror if isinstance(exc, OSError) else None) or str(exc)
        self._on_fault(LostError(f"the connection was lost: {reason}"))

    def _broken(self, why: str) -> None:
        self._on_fault(LostError(f"what answers is no AMQP broker, or a broken one: {why}"))

    def _looked_at(self, kind: int, number: int, frame: bytes) -> bytes:
        """Return what the library may read of a frame."""
        if kind == HEADER:
            return self._header(number, frame)
        if kind == BODY and (missing := self._passed_over.get(number)):
            self._passed_over[number] = missing - (len(frame) - _OVERHEAD)
            return b""
        if kind == METHOD and (number == 0 or frame.startswith(_CHANNEL_CLOSE, FRAME.size)):
            try:
                self._on_control(number, frames.unmarshal(frame)[2])
            except (PAMQPException, ValueError) as error:
                self._broken(str(error.args[-1]))
        return frame

    def _delivered(self, kind: int, number: int, frame: bytes) -> bool:
        """Take a frame that belongs to a delivery, which is handed over when it is whole; return whether it does."""
        try:
            if kind == METHOD:
                if number in self._coming:
                    raise ValueError("a message that breaks off")
                if not wire.is_deliver(frame):
                    return False
                self._coming[number] = _Coming(wire.read_deliver(frame))
                return True
            if (coming := self._coming.get(number)) is None:
                return False
            if kind == HEADER:
                _, weight, coming.missing, flags = CONTENT.unpack_from(frame, FRAME.size)
                coming.too_large = weight == TOO_LARGE
                coming.properties = _properties(flags, frame)
            elif frame:
                coming.body.append(frame[FRAME.size : -1])
                coming.missing -= len(coming.body[-1])
        except Exception as error:  # noqa: BLE001 - whatever broken bytes do to the reading of them
            self._broken(str(error.args[-1]) if error.args else "a frame that cannot be read")
            return True
        if coming.properties is not None and coming.missing <= 0:
            del self._coming[number]
            body = None if coming.too_large else b"".join(coming.body)
            self._on_delivery(number, coming.deliver, coming.properties, body)
        return True

    def _header(self, number: int, frame: bytes) -> bytes:
        _, _, size, flags = CONTENT.unpack_from(frame, FRAME.size)
        properties = frame[FRAME.size + CONTENT.size : -1]
        self._passed_over[number] = size if size > MAX_BODY else 0
        if (flags & ~_PLAIN or not properties.isascii()) and not _readable(frame):
            flags, properties = kept(flags, properties, _can_be_read)
        elif size <= MAX_BODY:
            return frame
        mark = TOO_LARGE if size > MAX_BODY else 0
        return _header_frame(number, mark, 0 if mark else size, flags, properties)


def _header_frame(number: int, mark: int, size: int, flags: int, properties: bytes) -> bytes:
    content = CONTENT.pack(BASIC, mark, size, flags) + properties
    return FRAME.pack(HEADER, number, len(content)) + content + END


def _can_be_read(flags: int, properties: bytes) -> bool:
    return _readable(_header_frame(1, 0, 0, flags, properties))


def _properties(flags: int, frame: bytes) -> Properties:
    if flags & ~wire.PLAIN == 0:
        return wire.read_plain(flags, frame[FRAME.size + CONTENT.size : -1])
    header = frames.unmarshal(frame)[2]
    if not isinstance(header, ContentHeader):
        raise TypeError("another frame than is due")
    return read_properties(header.properties)


def _readable(frame: bytes) -> bool:
    try:
        frames.unmarshal(frame)
    except Exception:  # noqa: BLE001 - whatever a stranger's table or time does to it
        return False
    return True
