"""What can be kept of an envelope that the library cannot read (pure).

One header with a time that no calendar has must not cost a command its expiry, nor its sender the answer.

Source: AMQP 0-9-1, 4.2.6.1, "The content header"; the properties of class basic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct, error

_LONG = Struct(">I")
# From the highest bit down: text, a table, one byte or a time.
_KINDS = "ttTbbtttt8tttt"
_FIXED = {"b": 1, "8": 8}

Part = tuple[int, str, bytes]


def kept(flags: int, properties: bytes, readable: Callable[[int, bytes], bool]) -> tuple[int, bytes]:
    """Return the flags and the bytes of as many properties as can be read.

    Args:
        flags: says which are there.
        properties: the bytes behind the flags.
        readable: tells whether flags and bytes can be read.
    """
    try:
        parts = [part for part in _parts(flags, properties) if part[1] != "t" or _is_text(part[2])]
    except (IndexError, error):
        return 0, b""  # not even their lengths can be trusted
    # Times and headers are what libraries differ in; the headers may be attributes of an event.
    for without in ("", "8", "8T"):
        rest = [part for part in parts if part[1] not in without]
        found = sum(bit for bit, _, _ in rest), b"".join(raw for _, _, raw in rest)
        if readable(*found):
            return found
    return 0, b""


def _parts(flags: int, properties: bytes) -> Iterator[Part]:
    at = 0
    for number, kind in enumerate(_KINDS):
        bit = 0x8000 >> number
        if not flags & bit:
            continue
        if kind == "t":
            size = 1 + properties[at]
        elif kind == "T":
            size = 4 + _LONG.unpack_from(properties, at)[0]
        else:
            size = _FIXED[kind]
        raw = properties[at : at + size]
        if len(raw) < size:
            raise IndexError
        yield bit, kind, raw
        at += size


def _is_text(raw: bytes) -> bool:
    try:
        raw[1:].decode()
    except UnicodeDecodeError:
        return False
    return True
