"""The schema of a capability: JSON Schema or shorthand, told apart by one rule, and the shorthand expanded.

**The rule.** A map is a JSON Schema if it has a key that begins with `$`, or if its `type` is `object` or a
list. Every other map is shorthand: `field: type`, where a type is a word or a nested map, to which the same
rule applies. A boolean is a JSON Schema; a single type word is shorthand for the whole value (results only:
params are always a map).
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from roster.errors import DocumentError
from roster.passport.rules import JsonSchema, Report
from roster.passport.words import Path, describe, quote

DRAFT = "https://json-schema.org/draft/2020-12/schema"
Direction: TypeAlias = Literal["input", "output"]

_TYPES: Mapping[str, JsonSchema] = {
    "string": {"type": "string"},
    "number": {"type": "number"},
    "integer": {"type": "integer"},
    "boolean": {"type": "boolean"},
    "object": {"type": "object"},
    "array": {"type": "array"},
    "any": {},
}
_TYPE_WORD = re.compile(rf"({'|'.join(_TYPES)})((?:\[\]){{0,4}})(\?)?")
_EXPECTED = f"a type ({', '.join(_TYPES)}; with [] a list, with ? optional) or a map of fields"
# A shorthand whose keys are all of these was probably meant as a JSON Schema.
_KEYWORDS = frozenset(
    [
        "type",
        "properties",
        "items",
        "required",
        "additionalProperties",
        "enum",
        "const",
        "oneOf",
        "anyOf",
        "allOf",
        "not",
        "title",
        "description",
        "default",
        "examples",
        "format",
        "pattern",
        "minLength",
        "maxLength",
        "minimum",
        "maximum",
        "minItems",
        "maxItems",
    ]
)
_TELLING = frozenset(["properties", "items", "required", "enum", "const", "oneOf", "anyOf", "allOf"])
_MARK_IT = f"if a JSON Schema is meant, add `$schema: {DRAFT}`"


def is_json_schema(value: Mapping[str, Any]) -> bool:
    """Tell a JSON Schema from shorthand, by the one rule above."""
    kind = value.get("type")
    return kind == "object" or isinstance(kind, list) or any(key.startswith("$") for key in value)


def check(value: dict[str, Any] | bool | str, direction: str, path: Path, report: Report) -> None:
    """Report what is wrong with a schema as a passport gives it."""
    before = len(report.faults)
    expanded = _expand(value, direction, path, report)
    if len(report.faults) > before or (isinstance(value, dict) and not _holds_json_schema(value)):
        return
    kind = expanded.get("type") if isinstance(expanded, dict) else None
    if direction == "input" and kind is not None and kind != "object" and "object" not in kind:
        report.fault(
            (*path, "type"),
            f"params are always a map: expected a schema of an object, found {describe(kind)}",
        )
        return
    from roster.passport.validator import check_schema

    for inner, message in check_schema(expanded):
        report.fault((*path, *inner), message)


def expand(value: dict[str, Any] | bool | str | None, direction: Direction) -> JsonSchema | bool | None:
    """Return a schema as JSON Schema 2020-12; None stays None: no contract.

    Args:
        value: as the passport has it.
        direction: of params unknown fields are refused, so that a typo is found; of results they are allowed,
            so that an agent may answer more than it promised.

    Raises:
        DocumentError: it is neither JSON Schema nor shorthand.
    """
    if value is None:
        return None
    report = Report()
    out = _expand(value, direction, (), report)
    if report.faults:
        raise DocumentError(f"{direction}_schema", report.faults)
    return out


def _expand(value: Any, direction: str, path: Path, report: Report) -> JsonSchema | bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        if direction == "input":
            report.fault(path, f"params are always a map: expected a map of fields, found {describe(value)}")
            return {}
        return {"$schema": DRAFT, **_word(value, path, report)[0]}
    if is_json_schema(value):
        copied: JsonSchema = copy.deepcopy(value)
        return copied
    return {"$schema": DRAFT, **_fields(value, direction, path, report)}


def _fields(value: dict[str, Any], direction: str, path: Path, report: Report) -> JsonSchema:
    properties: dict[str, Any] = {}
    required: list[str] = []
    for name, kind in value.items():
        here = (*path, name)
        if isinstance(kind, str):
            properties[name], needed = _word(kind, here, report)
        elif isinstance(kind, dict):
            properties[name] = (
                copy.deepcopy(kind) if is_json_schema(kind) else _fields(kind, direction, here, report)
            )
            needed = True
        else:
            report.fault(here, f"expected {_EXPECTED}, found {describe(kind)}; {_MARK_IT}")
            continue
        if needed:
            required.append(name)
    if value and value.keys() <= _KEYWORDS and value.keys() & _TELLING:
        shown = ", ".join(quote(key) for key in value)
        report.warn(path, f"read as shorthand with the fields {shown}; {_MARK_IT}")
    out: JsonSchema = {"type": "object", "properties": properties, "required": required}
    if direction == "input":
        out["additionalProperties"] = False
    return out


def _word(text: str, path: Path, report: Report) -> tuple[JsonSchema, bool]:
    found = _TYPE_WORD.fullmatch(text)
    if found is None:
        report.fault(path, f"expected {_EXPECTED}, found {describe(text)}")
        return {}, True
    name, lists, optional = found.groups()
    out = dict(_TYPES[name])
    for _ in range(len(lists) // 2):
        out = {"type": "array", "items": out}
    if optional and "type" in out:
        # Left out or null: a Python handler's `style: str | None = None` answers and asks with None.
        out["type"] = [out["type"], "null"]
    return out, not optional


def _holds_json_schema(value: dict[str, Any]) -> bool:
    return is_json_schema(value) or any(
        isinstance(kind, dict) and _holds_json_schema(kind) for kind in value.values()
    )


def digest(input_schema: Any, output_schema: Any) -> str:
    """Return the digest of a contract: equal for shorthand and the JSON Schema it stands for, whatever the
    order of keys.

    Words for people (titles, descriptions, examples, comments) do not count.
    """
    parts = []
    for value, direction in ((input_schema, "input"), (output_schema, "output")):
        report = Report()
        expanded = None if value is None else _expand(value, direction, (), report)
        parts.append(value if report.faults else _bare(expanded))
    text = json.dumps(parts, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()[:32]


_FOR_PEOPLE = frozenset(("$schema", "$comment", "title", "description", "examples", "default", "deprecated"))
_MAPS_OF_SCHEMAS = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"))
_NOT_SCHEMAS = frozenset(("enum", "const"))


def _bare(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_bare(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    out: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _FOR_PEOPLE or (key == "required" and value == []):
            continue
        if key in _MAPS_OF_SCHEMAS and isinstance(value, dict):
            out[key] = {name: _bare(inner) for name, inner in value.items()}
        elif key == "required" and isinstance(value, list):
            out[key] = sorted(value, key=str)
        else:
            out[key] = value if key in _NOT_SCHEMAS else _bare(value)
    return out
