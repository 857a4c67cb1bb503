"""Values are checked against JSON Schemas: every fault in plain words, whatever the schema or the value tries."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.passport.samples import refusal

from roster.errors import DocumentError
from roster.passport import SchemaValidator


def ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}"}


def messages(schema: Any, value: Any) -> list[str]:
    return [f"{fault.path}: {fault.message}" for fault in SchemaValidator.of(schema).validate(value)]


def test_every_fault_is_said_in_plain_words() -> None:
    schema = {
        "type": "object",
        "properties": {
            "topic": {"type": "string", "minLength": 3},
            "count": {"type": "integer"},
            "style": {"enum": ["plain", "rich"]},
            "kind": {"const": "a"},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["topic", "author"],
        "additionalProperties": False,
    }
    value = {"topic": "ab", "count": "5", "style": "loud", "kind": "b", "tags": ["x", 1], "topc": 1}
    assert sorted(messages(schema, value)) == [
        "author: required, and missing",
        'count: expected a whole number, found text "5"',
        'kind: expected "a", found text "b"',
        'style: expected one of "plain", "rich", found text "loud"',
        "tags[1]: expected text, found the number 1",
        "topc: unknown, and no others than the known are allowed",
        'topic: text "ab" is shorter than 3 characters',
    ]


def test_a_good_value_has_no_fault() -> None:
    validator = SchemaValidator.of({"type": "object", "properties": {"a": {"type": ["string", "null"]}}})
    assert validator.validate({"a": None}) == []
    assert validator.is_valid({"a": "я"})
    assert not validator.is_valid({"a": 1})


@pytest.mark.parametrize("schema", [True, {}])
def test_the_schema_that_takes_all_takes_all(schema: Any) -> None:
    assert messages(schema, {"a": [1, None]}) == []


def test_the_schema_false_takes_nothing() -> None:
    assert messages(False, {}) != []


def test_validators_are_kept_by_digest() -> None:
    one = SchemaValidator.of({"type": "object", "maxProperties": 3})
    assert SchemaValidator.of({"type": "object", "maxProperties": 3}) is one
    assert SchemaValidator.of({"type": "object", "maxProperties": 4}) is not one


def test_the_cache_of_validators_is_bounded() -> None:
    for count in range(600):
        SchemaValidator.of({"type": "object", "minProperties": count})
    assert len(SchemaValidator._cache) <= 512


def test_messages_are_safe_for_a_terminal_and_short() -> None:
    (message,) = messages({"type": "integer"}, "\x1b]0;owned\x07" + "x" * 10_000)
    assert message.isprintable()
    assert len(message) < 200
    (message,) = messages({"additionalProperties": False}, {"\x1b[31m": 1})
    assert message.isprintable()


def test_at_most_100_faults_are_listed() -> None:
    assert len(messages({"items": {"type": "string"}}, list(range(5000)))) == 100


@pytest.mark.parametrize("value", [object(), {1: 2}, "\ud800", b"x"])
def test_a_value_that_is_no_json_is_a_fault(value: Any) -> None:
    assert messages({"type": ["object", "string"]}, value) != []


def test_a_value_that_holds_itself_is_a_fault() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert messages({"items": {"$ref": "#"}}, loop) != []


def test_regular_expressions_run_in_linear_time() -> None:
    validator = SchemaValidator.of({"pattern": "^(a+)+$"})
    started = time.perf_counter()
    assert validator.validate("a" * 50_000 + "b")
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize("pattern", ["(?=a)b", "(a)\\1", "(?<!a)b", "a{1,1000}{1,1000}{1,1000}"])
def test_expressions_beyond_linear_time_or_size_are_refused(pattern: str) -> None:
    with pytest.raises(DocumentError, match="regular expression"):
        SchemaValidator({"pattern": pattern})


def test_references_inside_the_schema_work() -> None:
    schema = {
        "properties": {"a": ref("n"), "b": {"$ref": "#named"}, "c": {"$ref": "#/$defs/od~1d%20name"}},
        "$defs": {
            "n": {"type": "integer"},
            "m": {"$anchor": "named", "type": "string"},
            "od/d name": {"const": 1},
        },
    }
    assert messages(schema, {"a": 1, "b": "x", "c": 1}) == []
    assert len(messages(schema, {"a": "1", "b": 2, "c": 2})) == 3


def test_a_schema_may_refer_to_itself_along_the_value() -> None:
    tree = {
        "type": "object",
        "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}, "n": {"type": "integer"}},
    }
    assert messages(tree, {"left": {"n": 1}, "right": {"left": {"n": 2}}}) == []
    assert messages(tree, {"right": {"left": {"n": "2"}}}) == [
        'right.left.n: expected a whole number, found text "2"'
    ]
    value: dict[str, Any] = {}
    for _ in range(30):
        value = {"left": value, "right": {}}
    assert messages(tree, value) == []


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"not": ref("a")}}},
        {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [ref("b")]}, "b": {"if": ref("a")}}},
    ],
)
def test_a_schema_that_could_never_end_is_refused(schema: Any) -> None:
    with pytest.raises(DocumentError, match="could never end"):
        SchemaValidator(schema)


def test_references_that_double_are_refused_before_they_run() -> None:
    doubling: dict[str, Any] = {"a0": {"type": "string"}}
    doubling.update({f"a{i}": {"allOf": [ref(f"a{i - 1}"), ref(f"a{i - 1}")]} for i in range(1, 41)})
    started = time.perf_counter()
    with pytest.raises(DocumentError, match="more than 1000 schemas to one value"):
        SchemaValidator({**ref("a40"), "$defs": doubling})
    assert time.perf_counter() - started < 1


def test_references_that_double_along_the_value_stop_in_time() -> None:
    schema = {
        **ref("x"),
        "$defs": {
            "x": {"properties": {"a": {"allOf": [ref("x"), ref("y")]}}},
            "y": {"properties": {"a": {"anyOf": [ref("y"), ref("x")]}}},
        },
    }
    validator = SchemaValidator.of(schema)
    assert validator.validate({"a": {"a": {}}}) == []
    value: dict[str, Any] = {}
    for _ in range(60):
        value = {"a": value}
    started = time.perf_counter()
    assert "nested too deep for this schema" in validator.validate(value)[0].message
    assert time.perf_counter() - started < 1


def test_a_chain_of_doublings_along_the_value_stops_in_time() -> None:
    chain: dict[str, Any] = {
        f"x{i}": {"properties": {"a": {"allOf": [ref(f"x{i + 1}"), ref(f"x{i + 1}")]}}} for i in range(40)
    }
    validator = SchemaValidator.of({**ref("x0"), "$defs": {**chain, "x40": {"type": "object"}}})
    value: dict[str, Any] = {}
    for _ in range(40):
        value = {"a": value}
    started = time.perf_counter()
    assert validator.validate(value)
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "description": "x" * 70_000},
        5,
        "string",
        {"type": "object", "default": float("nan")},
        {"type": "object", "default": object()},
    ],
)
def test_what_is_no_schema_or_too_large_is_refused(schema: Any) -> None:
    with pytest.raises(DocumentError):
        SchemaValidator(schema)


def test_a_schema_nested_too_deep_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(500):
        schema = {"not": schema}
    with pytest.raises(DocumentError, match="nested deeper"):
        SchemaValidator(schema)
    for _ in range(50_000):
        schema = {"not": schema}
    with pytest.raises(DocumentError):
        SchemaValidator(schema)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
words = st.sampled_from(
    [
        "type",
        "properties",
        "items",
        "allOf",
        "$ref",
        "not",
        "enum",
        "pattern",
        "required",
        "minimum",
        "$defs",
        "$id",
        "$anchor",
    ]
)
schemas = st.recursive(
    st.sampled_from(["string", "object", "#", "#/$defs/a", 1, True, "a.*"]),
    lambda inner: st.dictionaries(words, inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=10,
)


@given(schemas, values)
@settings(max_examples=300)
def test_no_schema_and_no_value_raises_anything_else(schema: Any, value: Any) -> None:
    error = refusal(lambda: SchemaValidator(schema))
    if error is None:
        assert all(fault.message for fault in SchemaValidator(schema).validate(value))
    else:
        assert isinstance(error, DocumentError)
        assert error.faults
