"""The JSON Schema that editors complete passports with agrees with the full check."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import jsonschema_rs
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.passport.samples import FOUNDING, refusal, small

from roster.passport import NodePassport, json_schema

CHECK = jsonschema_rs.Draft202012Validator(json_schema())


def test_it_is_a_json_schema_that_json_can_carry() -> None:
    assert json.loads(json.dumps(json_schema())) == json_schema()
    assert jsonschema_rs.meta.is_valid(json_schema())


def test_it_accepts_the_founding_example_and_its_own() -> None:
    assert CHECK.is_valid(yaml.safe_load(FOUNDING.read_text()))
    for example in json_schema()["examples"]:
        assert CHECK.is_valid(example)
        assert NodePassport.from_dict(example).warnings == ()


def test_every_field_is_described() -> None:
    def fields(schema: Any) -> list[Any]:
        own = list(schema.get("properties", {}).values())
        inner = [schema["items"]] if "items" in schema else []
        return own + [each for part in own + inner for each in fields(part)]

    described = fields(json_schema())
    assert len(described) > 30
    assert all(field["description"] for field in described)


@pytest.mark.parametrize(
    "document",
    [
        small(type="a b"),
        small(version="1.0"),
        small(resources={"max_concurrent_tasks": 0}),
        small(capabilities=[{"description": "x"}]),
        small(capabilities=[{"name": "a", "timeout": 0}]),
        {**small(), "kind": "Pod"},
        {**small(), "metadata": {"name": "A"}},
        {**small(), "metadata": {"name": "a", "labels": {"a b": "c"}}},
        {**small(), "status": {"state": "tired"}},
    ],
)
def test_it_finds_what_the_full_check_finds(document: Any) -> None:
    assert not CHECK.is_valid(document)
    assert refusal(lambda: NodePassport.from_dict(document)) is not None


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    out = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return out + [each for key, item in items for each in _paths(item, (*path, key))]


JUNK = st.sampled_from(
    [
        None,
        True,
        0,
        1,
        -1,
        2.5,
        "",
        "x",
        "Ж",
        "a b",
        "1.2.3",
        [],
        ["x"],
        {},
        {"x": "y"},
        "2025-12-15T10:00:00Z",
    ]
)


@given(st.integers(0, 2**32), JUNK)
@settings(max_examples=300)
def test_whatever_the_full_check_accepts_editors_accept(seed: int, junk: Any) -> None:
    document = yaml.safe_load(FOUNDING.read_text())
    *parents, last = random.Random(seed).choice(_paths(document))
    at = document
    for step in parents:
        at = at[step]
    at[last] = copy.deepcopy(junk)
    if refusal(lambda: NodePassport.from_dict(document)) is None:
        assert CHECK.is_valid(document)
