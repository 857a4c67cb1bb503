"""The founding document's heartbeat as it is printed, on etcd: it never refreshes its lease."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.conftest import eventually
from tests.interop import snippets
from tests.interop.conftest import KEY, Place, Start, roster, state

from roster import Registry


def leased(registry: Registry) -> bool:
    """Whether the agent is there under a lease: its first put has none."""
    node = registry.informer.get(KEY)
    return node is not None and node.lease is not None


async def test_the_loop_as_printed_lives_as_long_as_its_lease_and_then_fails(
    etcd: Place, start: Start
) -> None:
    async with Registry.connect(etcd.url) as registry:
        assert await registry.find_by_capability("write_article") == []
        agent = await start(snippets.AGENT_AS_PRINTED, **etcd.environment)
        await eventually(lambda: leased(registry))
        assert state(registry) == "ready"
        assert [node.key for node in await registry.find_by_capability("write_article")] == [KEY]
        status, said = await agent.ended()
        assert status == 1
        assert "etcdserver: requested lease not found" in said
        await eventually(lambda: state(registry) is None)


async def test_a_killed_agent_goes_with_its_lease(etcd: Place, start: Start) -> None:
    async with Registry.connect(etcd.url) as registry:
        await registry.synced()
        agent = await start(etcd.agent, **etcd.environment)
        await eventually(lambda: leased(registry))
        await agent.kill()
        await eventually(lambda: state(registry) is None)


@pytest.mark.parametrize("refreshes", [False, True])
async def test_doctor_names_an_agent_that_never_renews_its_lease(
    etcd: Place, start: Start, refreshes: bool
) -> None:
    program = snippets.AGENT_THAT_REFRESHES if refreshes else snippets.AGENT_AS_PRINTED
    await start(program, **{**etcd.environment, "TTL": "30"})
    async with Registry.connect(etcd.url) as registry:
        await registry.synced()
        beats: set[Any] = set()

        def twenty() -> bool:
            node = registry.informer.get(KEY)
            if node is not None:
                beats.add(node.last_written)
            return len(beats) >= 20

        await eventually(twenty)
    said = json.loads(await roster("doctor", "-o", "json", url=etcd.url))["findings"]
    named = [one for one in said if one["area"] == "nodes" and KEY in one["what"]]
    if refreshes:
        assert named == []
    else:
        (finding,) = named
        assert "was put with a lease but never renews it" in finding["what"]
        assert "lease.refresh()" in finding["remedy"]
