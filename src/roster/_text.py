"""The one function that makes text safe to show, whoever wrote it."""

from __future__ import annotations

import re

# C0 (CR, newline, tab and ESC among them, so every CSI and OSC sequence), DEL, C1, Arabic letter mark, zero-width space and
# marks, line and paragraph separators, bidirectional embeddings, overrides and isolates, invisible operators, byte-order
# mark, lone surrogates, interlinear marks, noncharacters, shorthand and
# musical format controls, tags. Zero-width (non-)joiners stay: Persian and emoji need them.
_CONTROLS = (
    "\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ud800-\udfff\ufff9-\ufffb\ufffe\uffff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e007f"
)
_UNSAFE = re.compile(f"[\x00-\x1f{_CONTROLS}]")
_UNSAFE_ENCODED = re.compile(f"[\x00-\x08\x0b-\x1f{_CONTROLS}]")


def safe(text: str) -> str:
    r"""Return `text` as one line that cannot disturb a terminal: control characters are written out, as `\x1b`.

    Source: ECMA-48 for C0 and C1; CVE-2021-42574 (Trojan Source) for the bidirectional controls.

    Example:
        >>> safe("red\x1b[31m")
        'red\\x1b[31m'
    """
    return _UNSAFE.sub(_written, text)


def safe_encoded(text: str, *, json: bool) -> str:
    r"""Make JSON or YAML text safe that an encoder has written; it still means the same.

    An encoder puts the dangerous characters nowhere but inside quoted strings, where both languages know `\u202e`.
    """
    return _UNSAFE_ENCODED.sub(_json_escape if json else _written, text)


def _written(found: re.Match[str]) -> str:
    point = ord(found.group())
    if point < 0x100:
        return f"\\x{point:02x}"
    return f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"


def _json_escape(found: re.Match[str]) -> str:
    units = found.group().encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
