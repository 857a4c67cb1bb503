"""Agents and orchestrators of the founding document beside ours, in one registry: each sees the other."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.bus.helpers import echo
from tests.conftest import eventually
from tests.interop import snippets
from tests.interop.conftest import DEADLINE, KEY, NAME, QUEUE, Place, Program, Start, roster, state

from roster import Orchestrator, Registry
from roster._clock import boottime
from roster.bus import open_bus
from roster.errors import NameConflictError, NoCapableNodesError
from roster.registry import NodeRecord


async def seen(orchestrator: Program, expected: Any, deadline: float = DEADLINE) -> Any:
    """Wait until the founding document's orchestrator finds writers for which `expected` holds; return them."""
    until = boottime() + deadline
    while not expected(found := await orchestrator.find("write_article")):
        assert boottime() < until, found
    return found


def in_state(state: str) -> Any:
    return lambda found: NAME in found and found[NAME][0]["status"]["state"] == state


async def test_our_node_is_found_and_healthy_as_long_as_it_lives(
    place: Place, start: Start, declared: Any
) -> None:
    reader = await start(place.orchestrator, **place.environment)
    async with Registry.connect(place.url) as registry:
        registration = await registry.register(declared, passport_refresh=1)
        passport, healthy = (await reader.find("write_article"))[NAME]
        assert healthy
        assert passport["spec"] == declared["spec"]
        assert passport["metadata"]["annotations"] == declared["metadata"]["annotations"]
        assert passport["status"]["state"] == "ready"
        assert (await reader.find("edit_text")).keys() == {NAME}
        assert await reader.find("paint") == {}

        before = passport["status"]["last_heartbeat"]
        later = await seen(reader, lambda found: found[NAME][0]["status"]["last_heartbeat"] > before)
        assert later[NAME][1]

        registration.report(active_tasks=3)
        await seen(reader, in_state("busy"))
        await registration.drain()
        await seen(reader, in_state("draining"))
        await registration.deregister()
        assert await reader.find("write_article") == {}


@pytest.mark.parametrize("end", ["in good order", "killed"])
async def test_our_agents_process_is_found_until_it_ends(
    place: Place, start: Start, node_passport: Path, tmp_path: Path, end: str
) -> None:
    reader = await start(place.orchestrator, **place.environment)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "roster", "register", "-f", str(node_passport), "--ttl", "2s"),
        env={**os.environ, "ROSTER_REGISTRY": place.url, "ROSTER_STATE_DIR": str(tmp_path / "state")},
        stdin=DEVNULL,
        stdout=DEVNULL,
        stderr=DEVNULL,
    )
    try:
        assert (await seen(reader, lambda found: NAME in found))[NAME][1]
        async with Registry.connect(place.url) as registry:
            assert len(await registry.find_by_capability("write_article")) == 1
            if end == "killed":
                process.kill()
                await eventually(lambda: state(registry) == "offline")
                # To the document's orchestrator it lives until its last heartbeat is a minute old.
                assert (await reader.find("write_article"))[NAME][1]
            else:
                process.terminate()
                await process.wait()
                assert await reader.find("write_article") == {}
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_an_agent_of_the_document_is_found_chosen_and_called(
    place: Place, start: Start, tmp_path: Path
) -> None:
    bus_url = f"local://{tmp_path}/bus"
    async with AsyncExitStack() as stack:
        orchestrator = await stack.enter_async_context(Orchestrator.connect(place.url, bus_url))
        orchestrator.registry.informer.catalog._founding_timeout = 1.0
        with pytest.raises(NoCapableNodesError):
            await orchestrator.pick("write_article")
        agent = await start(place.agent, **place.environment)
        await eventually(lambda: orchestrator.node(KEY))
        beats: set[str | None] = set()

        def ten() -> NodeRecord | None:
            node = orchestrator.registry.informer.get(KEY)
            assert node is not None
            assert node.state == "ready"
            beats.add(node.last_written)
            return node if len(beats) >= 10 else None

        # That is longer than a lease lives here, and than a document without one counts.
        await eventually(ten)
        (found,) = await orchestrator.registry.find_by_capability("write_article")
        assert (found.founding, found.state, found.mindbus_queue, found.capacity) == (True, "ready", QUEUE, 3)

        assert (await orchestrator.pick("write_article")).mindbus_queue == QUEUE
        bus = await stack.enter_async_context(open_bus(bus_url))
        await bus.serve(QUEUE, echo)  # on its bus the agent is whoever serves its queue
        assert await orchestrator.call("write_article", {"topic": "bees", "style": "odd"}) == {
            "topic": "bees",
            "style": "odd",
        }

        listed = await roster("get", "nodes", "-A", "-o", "json", url=place.url)
        assert [node["metadata"]["name"] for node in json.loads(listed)["items"]] == [NAME]

        await agent.kill()
        await eventually(lambda: (node := orchestrator.node(KEY)) is None or node.state == "offline")
        with pytest.raises(NoCapableNodesError):
            await orchestrator.pick("write_article")


async def test_an_agent_that_writes_once_without_a_lease_counts_for_a_while(
    place: Place, start: Start
) -> None:
    async with Registry.connect(place.url) as registry:
        registry.informer.catalog._founding_timeout = 1.0
        assert await registry.find_by_capability("write_article") == []
        agent = await start(place.agent_once, **place.environment)
        assert await agent.ended() == (0, "")
        await eventually(lambda: state(registry) == "ready")
        await eventually(lambda: state(registry) == "offline")
        assert await registry.find_by_capability("write_article") == []
        # It comes back by writing again.
        await start(place.agent, **place.environment)
        await eventually(lambda: state(registry) == "ready")


async def test_a_passport_of_any_yaml_is_read_and_read_back(
    place: Place, start: Start, node_passport: Path, declared: Any
) -> None:
    schema = {"text": "string"}
    declared["metadata"]["labels"] = {"role": "writer", "tier": "1e3", "on-call": "no"}
    declared["metadata"]["annotations"] = {
        "description": "Пишет статьи, \U0001f41d и «кавычки»",
        "lines": "first\n  second: [not a list]\n\n# no comment\n" + "a long line " * 20,
        "tab": "\ta\tb",
        "empty": "",
    }
    # One object twice: PyYAML writes an anchor and an alias.
    declared["spec"]["capabilities"] = [
        {"name": "write_article", "input_schema": schema, "output_schema": schema},
        {"name": "edit_text", "input_schema": schema},
    ]
    text = yaml.dump(declared)
    assert "&id001" in text
    assert "\\u041F" in text
    node_passport.write_text(text, encoding="utf-8")

    reader = await start(place.orchestrator, **place.environment)
    assert await (await start(place.agent_once, **place.environment)).ended() == (0, "")
    async with Registry.connect(place.url) as registry:
        (found,) = await registry.find_by_capability("write_article")
        assert registry.quarantined == {}
        for section in ("metadata", "spec"):
            assert {key: found[section][key] for key in declared[section]} == declared[section]

        # And ours, with the same contents, is read by theirs.
        await registry.register(declared)
        passport, healthy = (await reader.find("write_article"))[NAME]
        assert healthy
        for section in ("metadata", "spec"):
            assert {key: passport[section][key] for key in declared[section]} == declared[section]


async def test_the_name_of_an_agent_that_lives_is_not_taken(etcd: Place, start: Start, declared: Any) -> None:
    await start(etcd.agent, **etcd.environment)
    async with Registry.connect(etcd.url) as registry:
        await registry.synced()
        # Its first write is without a lease, as in the document, and holds no name; the heartbeats are under one.
        first = declared["status"]["last_heartbeat"]
        await eventually(
            lambda: (node := registry.informer.get(KEY)) and node.last_written not in (None, first)
        )
        with pytest.raises(NameConflictError, match="it is alive"):
            await registry.register(declared)


async def test_our_node_puts_back_a_passport_that_an_agent_wrote_over(
    place: Place, start: Start, declared: Any
) -> None:
    async with Registry.connect(place.url) as registry:
        registration = await registry.register(declared, ttl=2)
        assert len(await registry.find_by_capability("write_article")) == 1
        assert await (await start(place.agent_once, **place.environment)).ended() == (0, "")
        reader = await start(place.orchestrator, **place.environment)
        await seen(reader, lambda found: found[NAME][0]["metadata"].get("uid") == registration.uid)
        await eventually(lambda: (node := registry.informer.get(KEY)) and node.uid == registration.uid)


async def test_consuls_client_refuses_the_key_as_printed(consul: Place, start: Start) -> None:
    status, said = await (await start(snippets.CONSUL_AGENT_AS_PRINTED, **consul.environment)).ended()
    assert status == 1
    assert "keys should not start with a forward slash" in said
