"""Two nodes that declare one version of a capability with different schemas are told apart, by whoever looks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import eventually, passport
from tests.registry.conftest import Open, each_engine

from roster.registry import NodeRecord, Registry
from roster.registry.catalog import Catalog
from roster.registry.keys import node_key, status_key
from roster.registry.status import Condition, NodeStatus
from roster.store.base import Change


def offer(kind: str = "string", version: str | None = "1.0.0", name: str = "write") -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "input_schema": {"topic": kind}}
    if version is not None:
        found["version"] = version
    return found


def mismatch(record: NodeRecord) -> dict[str, Any] | None:
    conditions = record.document()["status"].get("conditions", [])
    return next((found for found in conditions if found["type"] == "ContractMismatch"), None)


@each_engine
async def test_both_nodes_show_it_with_capability_version_and_the_other_node(
    open_registry: Open,
) -> None:
    here, there = await open_registry(), await open_registry()
    await here.register(passport("a", offer("string")))
    await here.register(passport("b", offer("integer"), namespace="team-b"))
    a, b = await there.get("a"), await there.get("b", "team-b")

    found = mismatch(a)
    assert found is not None
    assert (found["status"], found["reason"]) == ("True", "SchemasDiffer")
    assert "write 1.0.0" in found["message"]
    assert "on team-b/b" in found["message"]
    assert "default/a" not in found["message"]
    assert "lastTransitionTime" not in found
    other = mismatch(b)
    assert other is not None
    assert "on default/a" in other["message"]
    # Nobody wrote it: the nodes themselves open no watch and cannot know.
    assert a.status is not None
    assert a.status.conditions == ()
    (listed,) = await there.mismatches()
    assert (listed.capability, listed.version) == ("write", "1.0.0")
    assert sorted(listed.contracts.values()) == [("default/a",), ("team-b/b",)]
    assert set(listed.contracts) == {record.passport.capabilities[0].digest for record in (a, b)}


@pytest.mark.parametrize(
    "second",
    [
        offer("string"),
        offer("integer", version="1.1.0"),
        offer("integer", name="edit"),
        # The shorthand's contract, spelt as a JSON Schema and with words for people.
        {
            "name": "write",
            "version": "1.0.0",
            "description": "writes",
            "input_schema": {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "type": "object",
                "required": ["topic"],
                "additionalProperties": False,
                "properties": {"topic": {"type": "string", "description": "about what"}},
            },
        },
    ],
    ids=["the same", "another version", "another name", "another spelling"],
)
async def test_what_is_no_mismatch_is_not_called_one(registry: Registry, second: dict[str, Any]) -> None:
    await registry.register(passport("a", offer("string")))
    await registry.register(passport("b", second))

    assert await registry.mismatches() == []
    assert mismatch(await registry.get("a")) is None


async def test_a_capability_without_a_version_has_its_nodes(registry: Registry) -> None:
    await registry.register(passport("a", offer("string", version=None), version="2.0.0"))
    await registry.register(passport("b", offer("integer", version="2.0.0"), version="9.0.0"))

    (found,) = await registry.mismatches()
    assert found.version == "2.0.0"


async def test_it_goes_when_the_other_node_leaves_or_is_offline_or_withdraws(open_registry: Open) -> None:
    here, there = await open_registry(), await open_registry()
    await here.register(passport("a", offer("string")))
    second = await here.register(passport("b", offer("integer")))
    assert mismatch(await there.get("a")) is not None

    second.withdraw("write")
    await eventually(lambda: (r := there.informer.get("default/a")) and mismatch(r) is None)
    second.restore("write")
    await eventually(lambda: (r := there.informer.get("default/a")) and mismatch(r) is not None)
    await second.deregister()
    await eventually(lambda: (r := there.informer.get("default/a")) and mismatch(r) is None)
    assert await there.mismatches() == []


async def test_a_dead_node_is_compared_with_nobody(open_registry: Open) -> None:
    here, there = await open_registry(), await open_registry()
    await here.register(passport("a", offer("string")))
    dying = await here.register(passport("b", offer("integer")), ttl=1)
    await there.synced()
    assert mismatch(await there.get("a")) is not None

    await dying._stop_tasks()  # nobody keeps its lease any more

    await eventually(lambda: (r := there.informer.get("default/b")) and r.state == "offline", 6)
    assert [mismatch(record) for record in there.informer.all()] == [None, None]


async def test_an_update_of_a_passport_is_seen(open_registry: Open) -> None:
    here, there = await open_registry(), await open_registry()
    await here.register(passport("a", offer("string")))
    changing = await here.register(passport("b", offer("string")))
    assert mismatch(await there.get("a")) is None
    before = await there.get("b")

    capability = {**offer("string"), "output_schema": {"article": "string"}}
    await changing.update(capabilities=[capability])

    await eventually(lambda: (r := there.informer.get("default/a")) and mismatch(r) is not None)
    # A record that has been superseded says nothing of today.
    assert mismatch(before) is None


async def test_a_node_cannot_claim_it(registry: Registry) -> None:
    registration = await registry.register(passport("a", offer("string")))
    registration.set_condition("ContractMismatch", "True", "Lie", "everybody else is wrong")
    registration.set_condition("Responsive", "False", "Slow", "it is")
    await registry.synced()
    await eventually(lambda: (r := registry.informer.get("default/a")) and r.conditions)

    assert [condition.type for condition in (await registry.get("a")).conditions] == ["Responsive"]


async def test_many_nodes_are_named_in_few_words(registry: Registry) -> None:
    for number in range(6):
        await registry.register(passport(f"n{number}", offer("string")))
    await registry.register(passport("odd", offer("integer")))

    found = mismatch(await registry.get("odd"))
    assert found is not None
    assert "default/n0, default/n1, default/n2 and 3 more" in found["message"]


# -- the same answer, however one came there ---------------------------------------------------------------------

_NODES = st.sampled_from(["a", "b", "c"])
_STEPS = st.lists(
    st.tuples(
        _NODES,
        st.sampled_from(["string", "integer", "gone", "lost", "withdrawn"]),
        st.sampled_from(["1.0.0", "2.0.0"]),
    ),
    max_size=14,
)


@given(_STEPS)
def test_counting_as_changes_come_finds_what_comparing_everybody_finds(
    steps: list[tuple[str, str, str]],
) -> None:
    catalog = Catalog(thaw_grace=False)
    for revision, (name, what, version) in enumerate(steps, 1):
        catalog.apply(_changes(name, what, version, revision), revision)

        expected: dict[tuple[str, str | None], set[str]] = {}
        for record in catalog.index.by_key.values():
            if record.state == "offline":
                continue
            for capability, has in record.capabilities.items():
                declared = record.passport.capability(capability)
                assert declared is not None
                expected.setdefault((capability, has), set()).add(declared.digest)
        found = {
            (one.capability, one.version): set(one.contracts) for one in catalog.index.contracts.mismatches()
        }
        assert found == {where: digests for where, digests in expected.items() if len(digests) > 1}


def _changes(name: str, what: str, version: str, revision: int) -> list[Change]:
    passport_key, state_key = node_key("default", name), status_key("default", name)
    if what == "gone":
        return [Change("delete", passport_key, revision), Change("delete", state_key, revision)]
    if what == "lost":
        return [Change("delete", state_key, revision)]
    from roster.passport import NodePassport

    kind = "string" if what == "withdrawn" else what
    made = NodePassport.from_dict(passport(name, offer(kind, version))).with_metadata(uid=name, generation=1)
    status = NodeStatus(name, withdrawn=("write",) if what == "withdrawn" else ())
    return [
        Change("put", passport_key, revision, made.to_json(), revision),
        Change("put", state_key, revision, status.encode(), revision),
    ]


def test_a_condition_without_a_time_has_no_empty_one() -> None:
    assert "lastTransitionTime" not in Condition("X", "True").to_dict()
    assert Condition("X", "True", since="2026-01-01T00:00:00Z").to_dict()["lastTransitionTime"]


async def test_a_founding_style_document_is_compared_too_and_keeps_what_it_says(
    open_registry: Open,
) -> None:
    here, there = await open_registry(), await open_registry()
    await here.register(passport("a", offer("string")))
    document = passport("old", offer("integer"))
    said = [
        {"type": "ContractMismatch", "status": "False"},
        {"type": "Warm", "status": "True", "reason": "", "message": ""},
    ]
    document["status"] = {"state": "ready", "conditions": said}
    await here.store.put(node_key("default", "old"), json.dumps(document).encode())

    shown = (await there.get("old")).document()["status"]["conditions"]

    assert [(one["type"], one["status"]) for one in shown] == [("Warm", "True"), ("ContractMismatch", "True")]
