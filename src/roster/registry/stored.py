"""Reads JSON that came from the store, trusting nothing."""

from __future__ import annotations

import json
from typing import Any

from roster.errors import DocumentError, Fault


def load_object(value: bytes, source: str, limit: int) -> dict[str, Any]:
    """Return the JSON object in `value`.

    Args:
        value: the stored bytes.
        source: what to call it in an error, its key.
        limit: how many bytes it may have.

    Raises:
        DocumentError: too long, no JSON object, nested too deep, or text that UTF-8 cannot carry.
    """
    if len(value) > limit:
        raise DocumentError(source, [Fault("", f"expected at most {limit} bytes, this has {len(value)}")])
    try:
        data = json.loads(value.decode())
        if b"\\ud" in value or b"\\uD" in value:
            # An escaped half of a surrogate pair loads, and breaks whoever prints it.
            json.dumps(data, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        # ValueError is malformed JSON, bad UTF-8, and an integer of more than 4 300 digits alike.
        raise DocumentError(source, [Fault("", f"expected JSON: {error}")]) from error
    if not isinstance(data, dict):
        raise DocumentError(source, [Fault("", "expected a JSON object")])
    return data
