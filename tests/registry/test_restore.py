"""Exported passports are put back as they were, and never over a node that lives."""

from __future__ import annotations

import io
from typing import Any

import pytest
from tests.conftest import eventually, passport
from tests.registry.conftest import each_engine

from roster.cli.encode import to_yaml
from roster.errors import DocumentError
from roster.passport import NodePassport
from roster.passport.stream import read_stream
from roster.registry import Registry
from roster.registry.keys import node_key, status_key
from roster.registry.restore import restore
from roster.store import open_store

ODD: dict[str, Any] = {
    **passport("odd", {"name": "write", "input_schema": {"topic": "string?"}, "x-price": 0.1}),
    "x-top": {
        "no": "no",
        "list": [1, -2.5, None, True, "1e3", "2025-12-15", "~", "a\u202eb", "\x07", "строка\n---\n"],
    },
}


async def exported(registry: Registry) -> tuple[NodePassport, ...]:
    text = "".join("---\n" + to_yaml(record.document()) for record in await registry.find())
    report = read_stream(io.BytesIO(text.encode()), "backup.yaml")
    assert report.faults == ()
    return report.passports


def without_status(found: NodePassport) -> dict[str, Any]:
    return {field: value for field, value in found.to_dict().items() if field != "status"}


@each_engine
async def test_what_was_exported_comes_back_the_same_and_offline(registry: Registry) -> None:
    await registry.register({**ODD, "metadata": {**ODD["metadata"], "x-mark": "é"}})
    await registry.register(passport("drained", "write"))
    await registry.drain("drained")
    await registry.synced()
    await eventually(lambda: len(registry.informer.all()) == 2)
    before = await exported(registry)

    async with Registry.connect("memory://restored") as other:
        outcomes = await restore(other.store, before, retention=60)
        assert [one.outcome for one in outcomes] == ["imported", "imported"]
        after = await exported(other)

        assert [without_status(one) for one in after] == [without_status(one) for one in before]
        assert {record.state for record in await other.find()} == {"offline"}
        assert (await other.get("drained")).cordoned
        again = await restore(other.store, after, retention=60)
        assert [one.outcome for one in again] == ["unchanged", "unchanged"]


@each_engine
async def test_a_node_that_lives_is_left_alone(registry: Registry) -> None:
    living = await registry.register(passport("n-1", "write"))
    other = NodePassport.from_dict(passport("n-1", "read"))

    (outcome,) = await restore(registry.store, [other], retention=60)

    assert (outcome.outcome, outcome.reason) == ("alive", "it is alive")
    assert (await registry.get("n-1")).uid == living.uid


async def test_a_founding_style_agent_is_left_alone_as_it_may_live(registry: Registry) -> None:
    document = NodePassport.from_dict({**passport("old", "write"), "status": {"state": "ready"}})
    await registry.store.put(node_key("default", "old"), document.to_json())

    (outcome,) = await restore(registry.store, [NodePassport.from_dict(passport("old"))], retention=60)

    assert outcome.outcome == "alive"


async def test_an_imported_node_is_offline_at_once_and_registers_as_if_it_had_died(
    registry: Registry,
) -> None:
    made = NodePassport.from_dict(passport("n-1", "write"))
    await restore(registry.store, [made], retention=60)
    assert (await registry.get("n-1")).state == "offline"

    await registry.register(made, wait=0)
    await eventually(lambda: registry.informer.all()[0].state == "ready")


async def test_an_imported_node_that_a_registry_knew_goes_after_its_retention(registry: Registry) -> None:
    known = NodePassport.from_dict(passport("known")).with_metadata(uid="u-1")
    await restore(registry.store, [known, NodePassport.from_dict(passport("paper"))], retention=1)
    await registry.synced()

    await eventually(lambda: [one.name for one in registry.informer.all()] == ["paper"])


async def test_a_dry_run_writes_nothing(registry: Registry) -> None:
    outcomes = await restore(
        registry.store, [NodePassport.from_dict(passport("n-1"))], retention=60, dry_run=True
    )

    assert [one.outcome for one in outcomes] == ["imported"]
    assert (await registry.store.info()).revision == 0


async def test_one_that_is_too_large_keeps_all_out(registry: Registry) -> None:
    large = NodePassport.from_dict({**passport("large"), "x-text": "x" * 300_000})

    with pytest.raises(DocumentError, match="limit is 262144"):
        await restore(registry.store, [NodePassport.from_dict(passport("small")), large], retention=60)
    assert (await registry.store.info()).revision == 0


async def test_a_document_that_nobody_can_read_is_replaced(registry: Registry) -> None:
    await registry.store.put(node_key("default", "n-1"), b"{nope")

    (outcome,) = await restore(registry.store, [NodePassport.from_dict(passport("n-1"))], retention=60)

    assert outcome.outcome == "imported"


async def test_a_status_that_comes_in_between_stops_the_import(memory_url: str) -> None:
    async with open_store(memory_url) as store, open_store(memory_url) as another:
        transact = store.transact

        async def racing(checks: Any, ops: Any) -> int:
            await another.put(status_key("default", "n-1"), b'{"uid": "u", "state": "ready"}')
            return await transact(checks, ops)

        store.transact = racing  # type: ignore[method-assign]  # a node that registers at this very moment
        (outcome,) = await restore(store, [NodePassport.from_dict(passport("n-1"))], retention=60)
        assert outcome.outcome == "alive"
        assert await store.get(node_key("default", "n-1")) is None
