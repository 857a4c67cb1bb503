"""The frames of the local bus: what goes over one of its Unix sockets (pure).

A frame is a header of nine bytes, big-endian - the payload's length (u32), the kind (u8), the exchange (u32)
- and the payload. The one who connects is the caller, the one who accepts is the consumer; the caller numbers
the exchanges from 1, and 0 stands for none.

    caller to consumer
      HELLO     first of all; payload: protocol and version, line feed, the queue's name
      COMMAND   payload: a command or control message
      CANCEL    the exchange is taken back
      PUBLISH   payload: the routing key's length (u16), the key, the message; an exchange if answers are
      wanted
      STAMP     the time of the commands that follow: boot-clock milliseconds, modulo 2^32, in place of the exchange
      ECHO      answers a BARRIER, whose number stands in place of the exchange
      LOST      so many (in place of the exchange) published events were dropped here, because nobody
      read
    consumer to caller
      WELCOME   first of all; payload: protocol and version
      SORRY     first of all, in place of WELCOME, then the end; payload: why
      START     the work of the exchange begins
      PROGRESS  payload: an event message
      ANSWER    payload: a result or error message
      REFUSED   the command was not taken; payload: why
      GOODBYE   no new commands here; what is in hand is still answered
      BARRIER   to be echoed: so the consumer knows that it has read everything said before
"""

from __future__ import annotations

import struct
from typing import Final

PROTOCOL: Final = b"roster-bus/1\n"
HEADER: Final = struct.Struct("!IBI")
KEY_LENGTH: Final = struct.Struct("!H")
SLACK_BYTES: Final = 1024  # what a payload may hold beside the message: a routing key, a queue's name

HELLO: Final = 1
COMMAND: Final = 2
CANCEL: Final = 3
PUBLISH: Final = 4
LOST: Final = 5
STAMP: Final = 6
ECHO: Final = 7
WELCOME: Final = 16
SORRY: Final = 17
START: Final = 18
PROGRESS: Final = 19
ANSWER: Final = 20
REFUSED: Final = 21
GOODBYE: Final = 22
BARRIER: Final = 23

LAST_EXCHANGE: Final = 0xFFFF_FFFF
_COMPARABLE_MS: Final = 24 * 3600 * 1000  # more than a day unread is a clock of another time namespace


def stamp(now: float) -> int:
    """Return what a STAMP says at `now` boot-clock seconds."""
    return int(now * 1000) & LAST_EXCHANGE


def since(stamped: int, now: float) -> float:
    """Return the seconds between a STAMP and `now`; 0 where the clocks of the two sides cannot be compared."""
    milliseconds = (stamp(now) - stamped) & LAST_EXCHANGE
    return milliseconds / 1000 if milliseconds < _COMPARABLE_MS else 0.0


def frame(kind: int, number: int = 0, payload: bytes = b"") -> bytes:
    """Return one frame as bytes."""
    return HEADER.pack(len(payload), kind, number) + payload


def hello(name: str) -> bytes:
    """Return the payload of a HELLO to the queue `name`."""
    return PROTOCOL + name.encode()


def published(key: str, raw: bytes) -> bytes:
    """Return the payload of a PUBLISH."""
    name = key.encode()
    return KEY_LENGTH.pack(len(name)) + name + raw


def read_published(payload: memoryview) -> tuple[str, memoryview]:
    """Return the routing key and the message of a PUBLISH.

    Raises:
        ValueError: it is cut short, or the key is not UTF-8.
    """
    if len(payload) < KEY_LENGTH.size:
        raise ValueError("a PUBLISH frame is cut short")
    (length,) = KEY_LENGTH.unpack_from(payload)
    end = KEY_LENGTH.size + length
    if end > len(payload):
        raise ValueError("a PUBLISH frame is cut short")
    return str(payload[KEY_LENGTH.size : end], "utf-8"), payload[end:]
