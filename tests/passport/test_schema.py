"""A capability's schema: shorthand and JSON Schema, told apart by one rule."""

from __future__ import annotations

from typing import Any

import pytest
from tests.passport.samples import small

from roster.errors import DocumentError
from roster.passport import Capability, NodePassport
from roster.passport.schema import DRAFT, is_json_schema


def capability(**fields: Any) -> Capability:
    return NodePassport.from_dict(small(capabilities=[{"name": "a", **fields}])).capabilities[0]


def input_schema(shorthand: Any) -> Any:
    return capability(input_schema=shorthand).input_json_schema


@pytest.mark.parametrize(
    ("value", "is_schema"),
    [
        ({}, False),
        ({"topic": "string"}, False),
        ({"metadata": "object"}, False),
        ({"type": "string"}, False),
        ({"type": "string", "description": "string", "title": "string"}, False),
        ({"type": "array", "items": {"a": "string"}}, False),
        ({"type": {"a": "string"}}, False),
        ({"type": "object"}, True),
        ({"type": "object", "properties": {"type": {"type": "string"}}}, True),
        ({"type": ["object", "null"]}, True),
        ({"$schema": DRAFT, "type": "string"}, True),
        ({"$ref": "#/$defs/a", "$defs": {"a": {}}}, True),
        ({"$comment": "any"}, True),
    ],
)
def test_one_rule_tells_json_schema_from_shorthand(value: dict[str, Any], is_schema: bool) -> None:
    assert is_json_schema(value) is is_schema


def test_shorthand_expands_to_json_schema() -> None:
    assert input_schema(
        {
            "topic": "string",
            "style": "string?",
            "tags": "string[]",
            "grid": "number[][]?",
            "extra": "any?",
            "author": {"name": "string", "age": "integer?"},
            "options": {"type": "object", "maxProperties": 3},
        }
    ) == {
        "$schema": DRAFT,
        "type": "object",
        "properties": {
            "topic": {"type": "string"},
            "style": {"type": ["string", "null"]},
            "tags": {"type": "array", "items": {"type": "string"}},
            "grid": {"type": ["array", "null"], "items": {"type": "array", "items": {"type": "number"}}},
            "extra": {},
            "author": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "age": {"type": ["integer", "null"]}},
                "required": ["name"],
                "additionalProperties": False,
            },
            "options": {"type": "object", "maxProperties": 3},
        },
        "required": ["topic", "tags", "author", "options"],
        "additionalProperties": False,
    }


def test_unknown_params_are_refused_and_unknown_results_allowed() -> None:
    one = capability(input_schema={"topic": "string"}, output_schema={"article": "string"})
    assert one.input_validator is not None
    assert one.output_validator is not None
    assert [fault.path for fault in one.input_validator.validate({"topic": "a", "topc": "b"})] == ["topc"]
    assert one.output_validator.validate({"article": "a", "words": 5}) == []


def test_optional_means_left_out_or_null() -> None:
    validator = capability(input_schema={"style": "string?"}).input_validator
    assert validator is not None
    assert (
        validator.validate({})
        == validator.validate({"style": None})
        == validator.validate({"style": "x"})
        == []
    )
    assert [fault.message for fault in validator.validate({"style": 5})] == [
        "expected text or null, found the number 5"
    ]


def test_a_param_may_be_named_type() -> None:
    validator = capability(input_schema={"type": "string", "title": "string"}).input_validator
    assert validator is not None
    assert validator.validate({"type": "a", "title": "b"}) == []
    assert len(validator.validate({})) == 2


def test_a_result_may_be_one_type() -> None:
    validator = capability(output_schema="string[]").output_validator
    assert validator is not None
    assert validator.validate(["a"]) == []
    assert validator.validate(["a", 1])
    with pytest.raises(DocumentError, match="params are always a map"):
        capability(input_schema="string")


def test_a_json_schema_is_taken_as_it_is() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]}
    one = capability(input_schema=schema)
    assert one.input_json_schema == schema
    assert one.input_schema == schema
    assert one.input_validator is not None
    assert [fault.path for fault in one.input_validator.validate({"n": 0})] == ["n"]


@pytest.mark.parametrize(
    ("schema", "path", "message"),
    [
        ({"topic": "strng"}, "topic", "expected a type"),
        ({"topic": "string[]??"}, "topic", "expected a type"),
        ({"topic": ["string"]}, "topic", "expected a type"),
        ({"topic": 5}, "topic", "add `\\$schema"),
        ({"a": {"b": "c"}}, "a.b", "expected a type"),
        ({"type": "object", "properties": {"a": {"type": "strng"}}}, "properties.a.type", "JSON Schema type"),
        ({"type": "object", "required": "a"}, "required", "expected a list"),
        (
            {"type": "object", "properties": {"a": {"pattern": "(?=a)"}}},
            "properties.a.pattern",
            "look-around",
        ),
        (
            {"type": "object", "properties": {"a": {"pattern": "("}}},
            "properties.a.pattern",
            "regular expression",
        ),
        ({"$ref": "https://example.com/schema.json"}, '["$ref"]', "never fetched"),
        ({"$ref": "file:///etc/passwd"}, '["$ref"]', "never fetched"),
        ({"$ref": "#/$defs/missing"}, '["$ref"]', "leads nowhere"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, '["$schema"]', "2020-12"),
        ({"$schema": DRAFT, "type": "string"}, "type", "params are always a map"),
        ({"$dynamicRef": "#a"}, '["$dynamicRef"]', "not supported"),
    ],
)
def test_a_wrong_schema_is_a_fault_of_the_passport(schema: Any, path: str, message: str) -> None:
    with pytest.raises(DocumentError, match=message) as error:
        capability(input_schema=schema)
    (fault,) = error.value.faults
    joint = "" if path.startswith("[") else "."
    assert fault.path == f"spec.capabilities[0].input_schema{joint}{path}"


def test_what_looks_like_a_json_schema_but_is_shorthand_is_warned_of() -> None:
    passport = NodePassport.from_dict(
        small(capabilities=[{"name": "a", "output_schema": {"type": "array", "items": {"type": "string"}}}])
    )
    assert [fault.path for fault in passport.warnings] == [
        "spec.capabilities[0].output_schema",
    ]
    assert "$schema" in passport.warnings[0].message


def test_a_broken_schema_from_the_store_breaks_only_who_uses_it() -> None:
    raw = b"""{"apiVersion": "ai-team.dev/v1", "kind": "NodePassport", "metadata": {"name": "a"},
      "spec": {"capabilities": [{"name": "x", "input_schema": {"a": "nonsense"}},
                                {"name": "y", "input_schema": {"type": "object", "properties": 5}}]}}"""
    first, second = NodePassport.from_stored(raw).capabilities
    assert first.digest.startswith("sha256:")
    with pytest.raises(DocumentError, match="expected a type"):
        _ = first.input_json_schema
    with pytest.raises(DocumentError, match="expected a map"):
        _ = second.input_validator


def test_the_digest_is_of_the_contract_alone() -> None:
    short = capability(input_schema={"a": "string", "b": "integer"}, output_schema={"c": "string"})
    turned = capability(
        input_schema={"b": "integer", "a": "string"}, output_schema={"c": "string"}, description="x"
    )
    spelled = capability(
        input_schema={
            "type": "object",
            "title": "Params",
            "properties": {"a": {"type": "string", "description": "the a"}, "b": {"type": "integer"}},
            "required": ["b", "a"],
            "additionalProperties": False,
        },
        output_schema={"type": "object", "properties": {"c": {"type": "string"}}, "required": ["c"]},
    )
    assert short.digest == turned.digest == spelled.digest
    others = [
        capability(input_schema={"a": "string", "b": "integer?"}, output_schema={"c": "string"}),
        capability(
            input_schema={"a": "string", "b": "integer", "title": "string"}, output_schema={"c": "string"}
        ),
        capability(input_schema={"a": "string", "b": "integer"}),
        capability(),
    ]
    assert len({short.digest, *(each.digest for each in others)}) == 5


def test_a_property_named_like_a_keyword_counts_in_the_digest() -> None:
    with_title = {"type": "object", "properties": {"title": {"type": "string"}}}
    without = {"type": "object", "properties": {}}
    assert capability(input_schema=with_title).digest != capability(input_schema=without).digest


def test_the_digest_is_stable_between_releases() -> None:
    one = capability(
        input_schema={"topic": "string", "style": "string"},
        output_schema={"article": "string", "metadata": "object"},
    )
    assert one.digest == "sha256:01826b1639598fb0bf9793945030049e"
