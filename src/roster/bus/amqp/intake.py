"""What a broker writes, before the library reads it: what would end the connection or fill the memory is made harmless.

The library gives up a whole connection over one message whose envelope it cannot read, and the broker hands that message out
again and again; a body it reads to its end, however large. It does not say that the broker has blocked us, nor why it has
turned us away. That a channel has ended it says some turns of the loop later: what is written there meanwhile costs the
connection. All of this is on the wire.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from struct import Struct
from typing import SupportsIndex

from pamqp import frame as frames
from pamqp.exceptions import PAMQPException

from roster.bus.amqp.faults import LostError
from roster.bus.amqp.salvage import kept

# A body beyond this is passed over.
MAX_BODY = 16 * 1024 * 1024
# What stands in the header of such a message, in a field that is always 0 otherwise.
TOO_LARGE = 1

_METHOD, _HEADER, _BODY, _HEARTBEAT = 1, 2, 3, 8
_KINDS = (_METHOD, _HEADER, _BODY, _HEARTBEAT)
_OVERHEAD = 8
_FRAME = Struct(">BHI")
_CONTENT = Struct(">HHQH")
_BASIC = 60
_END = b"\xce"
_CHANNEL_CLOSE = b"\x00\x14\x00\x28"
# Properties that are text of ASCII, or one byte, are read by everybody; tables, times and other bytes need a look.
_PLAIN = 0xDFB8


class Intake(asyncio.StreamReader):
    """The library's reader.

    Args:
        on_control: called with a channel's number and the word that it has ended; with 0 and what concerns all.
        on_eof: called when the connection is closed, by either side.
        on_fault: called when it breaks, or is none.
    """

    def __init__(
        self,
        on_control: Callable[[int, frames.FrameTypes], None],
        on_eof: Callable[[], None],
        on_fault: Callable[[LostError], None],
    ) -> None:
        super().__init__()
        self._on_control = on_control
        self._on_eof = on_eof
        self._on_fault = on_fault
        self._raw = bytearray()
        self._passed_over: dict[int, int] = {}

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        raw, at = self._raw, 0
        raw.extend(data)
        kept = []
        while len(raw) - at >= _OVERHEAD:
            kind, number, size = _FRAME.unpack_from(raw, at)
            if kind not in _KINDS or size > MAX_BODY:
                another = raw.startswith(b"AMQP")
                self._broken(
                    "it speaks another version of AMQP than 0-9-1" if another else f"a frame of {size} bytes"
                )
                return
            after = at + _OVERHEAD + size
            if after > len(raw):
                break
            kept.append(self._looked_at(kind, number, bytes(raw[at:after])))
            at = after
        del raw[:at]
        if kept:
            super().feed_data(b"".join(kept))

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
        if kind == _HEADER:
            return self._header(number, frame)
        if kind == _BODY and (missing := self._passed_over.get(number)):
            self._passed_over[number] = missing - (len(frame) - _OVERHEAD)
            return b""
        if kind == _METHOD and (number == 0 or frame.startswith(_CHANNEL_CLOSE, _FRAME.size)):
            try:
                self._on_control(number, frames.unmarshal(frame)[2])
            except (PAMQPException, ValueError) as error:
                self._broken(str(error.args[-1]))
        return frame

    def _header(self, number: int, frame: bytes) -> bytes:
        _, _, size, flags = _CONTENT.unpack_from(frame, _FRAME.size)
        properties = frame[_FRAME.size + _CONTENT.size : -1]
        self._passed_over[number] = size if size > MAX_BODY else 0
        if (flags & ~_PLAIN or not properties.isascii()) and not _readable(frame):
            flags, properties = kept(flags, properties, _can_be_read)
        elif size <= MAX_BODY:
            return frame
        mark = TOO_LARGE if size > MAX_BODY else 0
        return _header_frame(number, mark, 0 if mark else size, flags, properties)


def _header_frame(number: int, mark: int, size: int, flags: int, properties: bytes) -> bytes:
    content = _CONTENT.pack(_BASIC, mark, size, flags) + properties
    return _FRAME.pack(_HEADER, number, len(content)) + content + _END


def _can_be_read(flags: int, properties: bytes) -> bool:
    return _readable(_header_frame(1, 0, 0, flags, properties))


def _readable(frame: bytes) -> bool:
    try:
        frames.unmarshal(frame)
    except Exception:  # noqa: BLE001 - whatever a stranger's table or time does to it
        return False
    return True
