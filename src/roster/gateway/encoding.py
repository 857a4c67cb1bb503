"""JSON as the gateway writes it: compact, UTF-8, and never an exception for what a document may hold."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any

from roster._text import safe_encoded


def encode(value: Any) -> bytes:
    """Return a value as JSON.

    What would disturb a terminal or a page (control characters, bidirectional marks, `<`, half a surrogate pair) is
    written with escapes: passports are anybody's text.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    if text.isascii():
        # The encoder itself has escaped what is below a space; of ASCII only DEL is left.
        return text.replace("<", "\\u003c").replace("\x7f", "\\u007f").encode()
    return safe_encoded(text, json=True).replace("<", "\\u003c").encode()


def tag_of(*parts: object) -> str:
    """Return a weak ETag of these parts: the same ones give the same tag."""
    digest = blake2b("\0".join(map(str, parts)).encode("utf-8", "replace"), digest_size=9)
    return f'W/"{digest.hexdigest()}"'


def matches_tag(header: str | None, tag: str) -> bool:
    """Return whether a header `If-Match` or `If-None-Match` names this tag, compared weakly."""
    if header is None:
        return False
    wanted = tag.removeprefix("W/")
    return any(
        one == "*" or one.removeprefix("W/") == wanted for one in (part.strip() for part in header.split(","))
    )
