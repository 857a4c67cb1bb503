"""How values and places are named in messages, so that a terminal that shows them stays safe."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Path: TypeAlias = tuple[str | int, ...]

_PLAIN_KEY = re.compile(r"[\w-]+")
_SHOWN = 60


def escape(text: str) -> str:
    r"""Return `text` with every character that could disturb a terminal or a log written as `\x1b` or
    `\u202e`.

    Source: Trojan Source (CVE-2021-42574) for the bidirectional controls; ECMA-48 for C0 and C1.
    """
    # What Python calls printable leaves out every control, format, surrogate and unassigned character.
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _code(char) for char in text)


def _code(char: str) -> str:
    point = ord(char)
    return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"


def quote(text: str, limit: int = _SHOWN) -> str:
    """Return `text` in double quotes, escaped and cut to about `limit` characters."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return '"' + escape(cut) + '"'


def describe(value: Any) -> str:
    """Say in plain words what a value is: `the number 5`, `text "abc"`, `a list of 3`."""
    match value:
        case None:
            return "nothing (null)"
        case bool():
            return f"{str(value).lower()} (a boolean)"
        case int():
            # Not str(): an integer of more than 4300 digits raises there.
            return f"the number {value}" if value.bit_length() < 200 else "a huge number"
        case float():
            return f"the number {value!r}"
        case str():
            return f"text {quote(value)}" if value else "empty text"
        case Mapping():
            if not value:
                return "an empty map"
            keys = ", ".join(quote(str(key), 20) for key in list(value)[:3])
            return f"a map with {keys}" + (", …" if len(value) > 3 else "")
        case Sequence():
            return f"a list of {len(value)}" if value else "an empty list"
        case _:
            return f"a Python {type(value).__name__}"


def show_path(path: Path) -> str:
    """Return a path as `spec.capabilities[1].name`; other keys than plain words stand in brackets."""
    out = ""
    for step in path:
        if isinstance(step, int):
            out += f"[{step}]"
        elif _PLAIN_KEY.fullmatch(step) and len(step) <= _SHOWN:
            out += f".{step}" if out else step
        else:
            out += f"[{quote(step)}]"
    return out


def foreign_letter(text: str) -> str:
    """Name the first character of `text` that is not printable ASCII, else nothing: look-alikes hide well."""
    for index, char in enumerate(text):
        if not " " <= char <= "~":
            return f" (character {index + 1} is U+{ord(char):04X})"
    return ""
