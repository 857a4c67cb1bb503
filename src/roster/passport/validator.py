"""Values against a JSON Schema (Draft 2020-12): every fault in plain words, and nothing that a hostile schema
could abuse.

No reference ever leaves the schema, regular expressions run in linear time (no look-around, no
back-references), and schemas are bounded in size, depth and work. Compiled validators are kept, the most
recently used ones.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from roster.errors import DocumentError, Fault
from roster.passport.schema_graph import MAX_WORK, Complaint, SchemaGraph
from roster.passport.words import Path, describe, escape, quote, show_path

if TYPE_CHECKING:
    import jsonschema_rs

DRAFT = "https://json-schema.org/draft/2020-12/schema"
MAX_SCHEMA_BYTES = 64 * 1024
MAX_SCHEMA_DEPTH = 32
MAX_FAULTS = 100
_REGEX_BYTES = 1024 * 1024
_CACHED = 512
# What is said of a field that the schema does not know, whatever its value.
UNKNOWN = "unknown, and no others than the known are allowed"


class SchemaValidator:
    """One compiled JSON Schema.

    Args:
        schema: a JSON Schema as plain values.

    Raises:
        DocumentError: it is no JSON Schema, or over a limit; lists every fault.

    Example:
        >>> [fault.path for fault in SchemaValidator.of({"type": "object", "required":
        ["topic"]}).validate({})] ['topic']
    """

    __slots__ = ("_compiled", "_graph", "digest")

    _cache: ClassVar[OrderedDict[str, SchemaValidator]] = OrderedDict()
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, schema: Mapping[str, Any] | bool) -> None:
        text = _canonical(schema)
        self.digest = _digest(text)
        plain = json.loads(text)
        complaints, self._graph, compiled = _compile(plain)
        if complaints or compiled is None:
            raise DocumentError("schema", [Fault(show_path(path), message) for path, message in complaints])
        self._compiled = compiled

    @classmethod
    def of(cls, schema: Mapping[str, Any] | bool) -> SchemaValidator:
        """Return the validator of a schema, from the cache (by digest, least recently used goes) or compiled.

        Raises:
            DocumentError: as the constructor.
        """
        digest = _digest(_canonical(schema))
        with cls._lock:
            if (known := cls._cache.get(digest)) is not None:
                cls._cache.move_to_end(digest)
                return known
        made = cls(schema)
        with cls._lock:
            cls._cache[digest] = made
            while len(cls._cache) > _CACHED:
                cls._cache.popitem(last=False)
        return made

    def is_valid(self, instance: Any) -> bool:
        """Tell whether a value follows the schema."""
        return not self.validate(instance)

    def validate(self, instance: Any) -> list[Fault]:
        """Return every fault of a value (at most 100), in the order of the schema; an empty list when there
        is none.

        Args:
            instance: plain JSON values. What is no JSON value is a fault.
        """
        try:
            if self._graph is not None and self._graph.work(instance) > MAX_WORK:
                return [Fault("", "the value is nested too deep for this schema, which refers to itself")]
            if self._compiled.is_valid(instance):
                return []
            faults: list[Fault] = []
            for error in self._compiled.iter_errors(instance):
                faults.extend(Fault(show_path(path), message) for path, message in _explain(error, instance))
                if len(faults) >= MAX_FAULTS:
                    break
            return faults[:MAX_FAULTS]
        except UnicodeEncodeError:
            return [Fault("", "the value holds half of a surrogate pair, which is no character")]
        except RecursionError:
            return [Fault("", "the value is nested too deep to be checked")]
        except ValueError as error:
            return [Fault("", f"the value is not JSON: {escape(str(error))[:200]}")]


def check_schema(schema: dict[str, Any] | bool) -> list[Complaint]:
    """Return everything that makes `schema` unusable as a JSON Schema, each with its path."""
    try:
        text = _canonical(schema)
    except DocumentError as error:
        return [((), fault.message) for fault in error.faults]
    return _compile(json.loads(text))[0]


def _canonical(schema: Any) -> str:
    try:
        text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise _refused(f"the schema is not JSON: {escape(str(error))[:200]}") from None
    if len(text) > MAX_SCHEMA_BYTES:
        raise _refused(f"the schema is larger than {MAX_SCHEMA_BYTES // 1024} KiB: make it smaller")
    return text


def _refused(message: str) -> DocumentError:
    return DocumentError("schema", [Fault("", message)])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _compile(
    schema: Any,
) -> tuple[list[Complaint], SchemaGraph | None, jsonschema_rs.Draft202012Validator | None]:
    import jsonschema_rs

    if isinstance(schema, bool):
        return [], None, jsonschema_rs.Draft202012Validator(schema)
    if not isinstance(schema, dict):
        return [((), f"expected a JSON Schema (a map), found {describe(schema)}")], None, None
    if _depth(schema) > MAX_SCHEMA_DEPTH:
        return (
            [((), f"the schema is nested deeper than {MAX_SCHEMA_DEPTH}: flatten it with $defs")],
            None,
            None,
        )
    draft = schema.get("$schema", DRAFT)
    if draft not in (DRAFT, DRAFT + "#"):
        return [(("$schema",), f"expected {quote(DRAFT)}, found {describe(draft)}")], None, None
    try:
        complaints = list(_against_metaschema(schema))
        if complaints:
            return complaints, None, None
        graph = SchemaGraph(schema)
        if graph.complaints:
            return graph.complaints, None, None
        compiled = jsonschema_rs.Draft202012Validator(
            schema,
            retriever=_no_retrieval,
            pattern_options=jsonschema_rs.RegexOptions(size_limit=_REGEX_BYTES, dfa_size_limit=_REGEX_BYTES),
            validate_formats=False,
            mask=_MASK,
        )
    except jsonschema_rs.ValidationError as error:
        return [_not_compiled(error, schema)], None, None
    except (ValueError, RecursionError, jsonschema_rs.ReferencingError) as error:
        return [((), f"the schema cannot be used: {escape(str(error))[:200]}")], None, None
    return [], None if graph.bounded else graph, compiled


def _no_retrieval(uri: str) -> Any:
    raise ValueError(f"schemas are never fetched: {uri}")


def _depth(schema: Any) -> int:
    deepest = 0
    stack = [(schema, 1)]
    while stack:
        part, depth = stack.pop()
        deepest = max(deepest, depth)
        if isinstance(part, dict):
            stack.extend((item, depth + 1) for item in part.values() if isinstance(item, dict | list))
        elif isinstance(part, list):
            stack.extend((item, depth + 1) for item in part if isinstance(item, dict | list))
    return deepest


_metaschema: jsonschema_rs.Draft202012Validator | None = None


def _against_metaschema(schema: dict[str, Any]) -> Iterator[Complaint]:
    global _metaschema
    if _metaschema is None:
        import jsonschema_rs

        # The meta-schemas are built in; this fetches nothing.
        _metaschema = jsonschema_rs.Draft202012Validator({"$ref": DRAFT}, retriever=_no_retrieval, mask=_MASK)
    seen: set[Path] = set()
    for error in _metaschema.iter_errors(schema):
        path: Path = tuple(error.instance_path)
        if path in seen:
            continue
        seen.add(path)
        found = describe(_at(schema, path))
        if path and path[-1] == "type":
            words = "array, boolean, integer, null, number, object or string (or a list of these)"
            yield path, f"expected a JSON Schema type, {words}, found {found}"
        else:
            for inner, message in _explain(error, schema):
                yield inner, f"{message} (by JSON Schema 2020-12)"


def _not_compiled(error: jsonschema_rs.ValidationError, schema: Any) -> Complaint:
    path: Path = tuple(error.instance_path)
    found = _at(schema, path)
    if (path and path[-1] == "pattern") or "regex" in error.message:
        message = (
            f"the regular expression {quote(str(found))} cannot be used: look-around and back-references are "
            "not supported (expressions run in linear time), and its size is bounded"
        )
        return path, message
    return path, f"the schema cannot be used: {escape(error.message)[:200]}"


def _at(value: Any, path: Path) -> Any:
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value


_MASK = "this value"


def _explain(error: jsonschema_rs.ValidationError, instance: Any) -> list[tuple[Path, str]]:
    """Say one error in plain words: what was expected and found; several where several keys are at fault."""
    path: Path = tuple(error.instance_path)
    found = _at(instance, path)
    details = error.kind.as_dict()
    match error.kind.name:
        case "type":
            types = details.get("types", ())
            return [(path, f"expected {_types(types)}, found {describe(found)}")]
        case "required":
            name = details["property"]
            return [((*path, str(name)), "required, and missing")]
        case "additionalProperties" | "unevaluatedProperties":
            return [((*path, str(name)), UNKNOWN) for name in details["unexpected"]]
        case "enum":
            options = ", ".join(_short_json(option) for option in details["options"][:10])
            return [(path, f"expected one of {options}, found {describe(found)}")]
        case "const":
            return [(path, f"expected {_short_json(details['expected_value'])}, found {describe(found)}")]
        case _:
            message = error.message.replace(_MASK, describe(found), 1)
            return [(path, escape(message if len(message) <= 300 else message[:299] + "…"))]


def _types(types: Any) -> str:
    words = [types] if isinstance(types, str) else sorted(map(str, types), key="null".__eq__)
    return " or ".join(_PLAIN.get(word, word) for word in words)


_PLAIN = {
    "string": "text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "object": "a map",
    "array": "a list",
    "null": "null",
}


def _short_json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return escape(text if len(text) <= 60 else text[:59] + "…")
