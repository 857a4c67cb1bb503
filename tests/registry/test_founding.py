"""Agents and readers written to the founding document, line by line as it prints them."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from tests.conftest import eventually
from tests.registry.conftest import Open, each_engine

from roster.errors import LeaseLostError, NameConflictError
from roster.registry import Registry
from roster.store import Lease, Store

KEY = "/ai-team/nodes/ai-team/writer-001"

PASSPORT = """\
apiVersion: ai-team.dev/v1
kind: NodePassport
metadata:
  name: "writer-001"
  namespace: "ai-team"
  labels:
    role: "writer"
  annotations:
    description: "Пишет статьи и контент"
spec:
  type: "agent"
  version: "1.0.0"
  capabilities:
    - name: "write_article"
      description: "Написание статей"
      input_schema:
        topic: string
  communication:
    mindbus_queue: "agent.writer.001"
    mindbus_routing_key: "cmd.writer.#"
  resources:
    max_concurrent_tasks: 3
status:
  state: "ready"
  registered_at: "2025-12-15T10:00:00Z"
  last_heartbeat: "2025-12-15T10:05:00Z"
"""


async def beat(store: Store, lease: Lease | None, state: str = "ready") -> None:
    """One round of the founding document's heartbeat loop."""
    passport = yaml.safe_load(PASSPORT)
    passport["status"]["last_heartbeat"] = datetime.now(UTC).replace(tzinfo=None).isoformat() + "Z"
    passport["status"]["state"] = state
    await store.put(KEY, yaml.dump(passport).encode(), lease=lease.id if lease is not None else None)


def is_node_healthy(passport: Any) -> bool:
    """The founding document's check, as printed."""
    last_heartbeat = datetime.fromisoformat(passport["status"]["last_heartbeat"].replace("Z", "+00:00"))
    age = datetime.now(UTC) - last_heartbeat
    return age.total_seconds() < 60


@each_engine
async def test_an_agent_that_writes_yaml_under_a_lease_is_found_while_the_lease_lives(
    open_registry: Open,
) -> None:
    agent, caller = (await open_registry()).store, await open_registry()
    lease = await agent.grant(1)
    await beat(agent, lease)
    (found,) = await caller.find_by_capability("write_article")
    assert (found.mindbus_queue, found.capacity, found.founding, found.uid) == (
        "agent.writer.001",
        3,
        True,
        "",
    )
    await beat(agent, lease, "busy")
    await eventually(lambda: (r := caller.informer.get("ai-team/writer-001")) and r.state == "busy")
    await lease.keep_alive()
    await eventually(lambda: not caller.informer.all(), 5)
    # As printed the loop never refreshes its lease: its next put fails, which is correct.
    with pytest.raises(LeaseLostError):
        await beat(agent, lease)


async def test_an_agent_that_writes_yaml_without_a_lease_is_found(open_registry: Open) -> None:
    agent, caller = (await open_registry()).store, await open_registry()
    await beat(agent, None)
    (found,) = await caller.find_by_capability("write_article")
    assert found.state == "ready"
    assert found["metadata"]["annotations"]["description"] == "Пишет статьи и контент"


@each_engine
async def test_the_founding_documents_reader_finds_our_nodes(registry: Registry) -> None:
    await registry.register(yaml.safe_load(PASSPORT))
    nodes = []
    for entry in (await registry.store.list("/ai-team/nodes/")).entries:
        passport = yaml.safe_load(entry.value.decode("utf-8"))
        for cap in passport["spec"].get("capabilities", []):
            if cap["name"] == "write_article":
                nodes.append(passport)
                break
    assert [node["spec"]["communication"]["mindbus_queue"] for node in nodes] == ["agent.writer.001"]
    assert is_node_healthy(nodes[0])


async def test_the_founding_documents_health_check_runs_on_what_find_returns(open_registry: Open) -> None:
    here, there = await open_registry(), await open_registry()
    registration = await here.register(yaml.safe_load(PASSPORT), ttl=1)
    (found,) = await there.find_by_capability("write_article")
    assert is_node_healthy(found)
    assert found["spec"]["communication"]["mindbus_queue"] == "agent.writer.001"
    await registration._stop_tasks()
    await eventually(lambda: (r := there.informer.get("ai-team/writer-001")) and r.state == "offline")


async def test_our_node_takes_the_name_of_a_document_that_nothing_keeps_alive(registry: Registry) -> None:
    await beat(registry.store, None)
    async with asyncio.timeout(5):
        registration = await registry.register(yaml.safe_load(PASSPORT))
    assert (await registry.get("ai-team/writer-001")).uid == registration.uid


async def test_a_founding_agent_that_beats_keeps_its_name(open_registry: Open) -> None:
    agent, ours = (await open_registry()).store, await open_registry()
    lease = await agent.grant(60)
    await beat(agent, lease)
    waits: list[str] = []
    asking = asyncio.create_task(ours.register(yaml.safe_load(PASSPORT), on_wait=waits.append))
    await eventually(lambda: waits)
    await asyncio.wait([asking], timeout=0.2)
    assert not asking.done()
    await beat(agent, lease)
    with pytest.raises(NameConflictError, match="it is alive"):
        await asking


async def test_a_founding_agent_that_dies_leaves_its_name(open_registry: Open) -> None:
    agent, ours = (await open_registry()).store, await open_registry()
    lease = await agent.grant(1)
    await beat(agent, lease)
    async with asyncio.timeout(20):
        registration = await ours.register(yaml.safe_load(PASSPORT))
    assert str(uuid.UUID(registration.uid)) == registration.uid
