"""JSON Schemas said shortly, for people, and the types that they ask of the fields of an object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from roster.cli.encode import to_json

_MAX_DEPTH = 4


def schema_lines(schema: Mapping[str, Any] | bool, depth: int = 0) -> Iterator[str]:
    """Say what a schema asks for: a line a field, nested ones indented.

    Example:
        >>> list(schema_lines({"type": "object", "properties": {"topic": {"type": "string"}}, "required": ["topic"]}))
        ['topic: string (required)']
    """
    if isinstance(schema, bool):
        yield "anything" if schema else "nothing"
        return
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or not properties:
        yield _say(schema)
        return
    required = schema.get("required")
    needed = set(required) if isinstance(required, list | tuple) else set()
    for name, inner in properties.items():
        described = inner.get("description") if isinstance(inner, Mapping) else None
        line = f"{name}: {_say(inner)}{' (required)' if name in needed else ''}"
        yield f"{line} - {described}" if isinstance(described, str) else line
        nested = inner.get("properties") if isinstance(inner, Mapping) else None
        if nested and depth < _MAX_DEPTH:
            yield from (f"  {line}" for line in schema_lines(inner, depth + 1))


def _say(schema: Any) -> str:
    if not isinstance(schema, Mapping):
        return "nothing" if schema is False else "anything"
    if isinstance(schema.get("enum"), list | tuple):
        return "one of " + ", ".join(to_json(value, indent=None) for value in schema["enum"])
    kinds = _types(schema)
    if kinds == ["array"] and isinstance(schema.get("items"), Mapping):
        return f"list of {_say(schema['items'])}"
    if kinds:
        return " or ".join(kinds)
    rest = {name: value for name, value in schema.items() if name not in ("$schema", "title", "description")}
    return to_json(rest, indent=None) if rest else "anything"


def _types(schema: Mapping[str, Any]) -> list[str]:
    kind = schema.get("type")
    if isinstance(kind, str):
        return [kind]
    return [word for word in kind if isinstance(word, str)] if isinstance(kind, list | tuple) else []


def field_types(schema: Mapping[str, Any] | bool | None, name: str) -> list[str]:
    """Return the types that an object's schema allows in a field; empty when it does not say."""
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    inner = properties.get(name) if isinstance(properties, Mapping) else None
    return _types(inner) if isinstance(inner, Mapping) else []
