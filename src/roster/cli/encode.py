"""Values as JSON and YAML text that is safe on a terminal and exact in a pipe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from roster._text import safe_encoded


def to_json(value: Any, *, indent: int | None = 2) -> str:
    """Return JSON, keys in their own order; None for `indent` gives one line."""
    text = json.dumps(plain(value), ensure_ascii=False, indent=indent, allow_nan=False)
    return safe_encoded(text, json=True)


def to_yaml(value: Any) -> str:
    """Return YAML, keys in their own order, ending with a newline."""
    from roster.passport.writing import to_yaml as written

    return safe_encoded(written(plain(value)), json=False)


def plain(value: Any) -> Any:
    """Return a value with dicts and lists in place of read-only views."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(inner) for inner in value]
    return value
