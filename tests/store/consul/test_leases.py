"""Leases in Consul: what its own health API and DNS show of a node, what a heartbeat costs, what ends a lease."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import uuid
from collections.abc import Callable
from functools import partial

import pytest
from tests.store.consul.conftest import Owner, until

from roster._clock import boottime
from roster.errors import LeaseLostError, LimitError, StoreUnavailableError
from roster.store import Delete, Hint, store_url
from roster.store.consul import ConsulStore
from servers import Consul


def _word() -> str:
    return f"word_{uuid.uuid4().hex}"


def _hint(*words: str, name: str = "default/writer-001") -> Hint:
    return Hint(name, words, "/ai-team/nodes/" + name)


def _dns_answers(port: int, name: str) -> int:
    """Return how many addresses the agent's DNS knows for a name (RFC 1035, one question of type A)."""
    question = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
    number = random.getrandbits(16)
    query = struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + question + struct.pack("!2H", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.sendto(query, ("127.0.0.1", port))
        answer = client.recv(4096)
    answered, _, _, answers, *_ = struct.unpack("!6H", answer[:12])
    assert answered == number
    return int(answers)


async def test_consul_itself_finds_a_live_node_by_its_capability_and_no_dead_one(
    start_consul: Callable[..., Consul],
) -> None:
    server = await asyncio.to_thread(start_consul, dev=True)
    consul = Owner(store_url(server.url))

    async def dns(word: str) -> int:
        return await asyncio.to_thread(_dns_answers, server.dns_port, f"{word}.ai-node.service.consul")

    async with ConsulStore(store_url(server.url)) as store:
        lease = await store.grant(1, hint=_hint("write_article", "review"))
        await store.put("/ai-team/status/default/writer-001", b"{}", lease=lease.id)
        # The agent tells the servers of a new service at once, but not before it answers.
        await until(lambda: consul.passing("write_article"))
        assert await consul.passing("review") == ["default/writer-001"]
        assert await consul.passing("paint") == []
        assert (await dns("write_article"), await dns("paint")) == (1, 0)
        (entry,) = await consul.ask("GET", "/v1/catalog/service/ai-node")
        assert entry["ServiceMeta"] == {
            "key": "/ai-team/nodes/default/writer-001",
            "name": "default/writer-001",
        }
        for _ in range(8):
            await lease.keep_alive()
            await asyncio.sleep(0.2)
        assert await dns("write_article") == 1

        async def gone() -> bool:
            return await store.get("/ai-team/status/default/writer-001") is None

        await until(gone)
        assert lease.deadline - 0.05 <= boottime() <= lease.deadline + 1
        assert await consul.passing("write_article") == []
        assert await dns("write_article") == 0
        (check,) = await consul.ask("GET", "/v1/health/checks/ai-node")
        assert check["Status"] == "critical"


async def test_a_lease_without_a_hint_is_no_node(store: ConsulStore, owner: Owner) -> None:
    before = await owner.ask("GET", "/v1/catalog/service/roster-lease")
    lease = await store.grant(30)
    known = {one["ServiceID"] for one in before}
    services = await owner.ask("GET", "/v1/catalog/service/roster-lease")
    (own,) = [one for one in services if one["ServiceID"] not in known]
    assert own["ServiceTags"] == []
    await lease.revoke()
    assert own not in await owner.ask("GET", "/v1/catalog/service/roster-lease")


async def test_a_revoked_lease_takes_its_service_with_it(store: ConsulStore, owner: Owner) -> None:
    word = _word()
    lease = await store.grant(30, hint=_hint(word))
    await until(lambda: owner.passing(word))
    await lease.revoke()
    await lease.revoke()

    async def unlisted() -> bool:
        return not await owner.shown(word)

    await until(unlisted)


async def test_what_is_shown_of_a_lease_can_change_without_disturbing_it(
    store: ConsulStore, owner: Owner, root: str
) -> None:
    first, second = _word(), _word()
    lease = await store.grant(30, hint=_hint(first))
    revision = await store.put(root + "a", b"", lease=lease.id)
    for word in (second, first, second):
        await lease.describe(_hint(word, "other"))
        assert boottime() + 29 < lease.deadline
        assert await until(partial(owner.passing, word)) == ["default/writer-001"]
    assert await owner.passing(first) == []
    await lease.keep_alive()
    entry = await store.get(root + "a")
    assert entry is not None
    assert (entry.lease, entry.mod_revision) == (lease.id, revision)
    (service,) = await owner.shown(second)
    assert {check["Status"] for check in service["Checks"]} == {"passing"}
    await lease.revoke()
    with pytest.raises(LeaseLostError):
        await lease.describe(_hint(first))


async def test_a_lease_can_be_named_later(store: ConsulStore, owner: Owner) -> None:
    word = _word()
    lease = await store.grant(1)
    await lease.describe(_hint(word))
    await until(lambda: owner.passing(word))

    async def dead() -> bool:
        return not await owner.passing(word)

    await until(dead)
    assert lease.lost


async def test_hints_that_consul_would_refuse_are_made_fit(store: ConsulStore, owner: Owner) -> None:
    word = "написать статью / \N{GRINNING FACE}"
    name = "ж" * 300
    lease = await store.grant(30, hint=Hint(name, (word, "", word, "x" * 1000), "/" + "k" * 511))
    services = await owner.ask("GET", "/v1/catalog/service/ai-node")
    (own,) = [one for one in services if word in one["ServiceTags"]]
    assert own["ServiceMeta"] == {"name": name[:256], "key": "/" + "k" * 511}
    await lease.revoke()


async def test_heartbeats_write_nothing_to_raft(store: ConsulStore, owner: Owner, root: str) -> None:
    lease = await store.grant(30, hint=_hint(_word()))
    passport = await store.grant(3600, lingering=True)
    await store.put(root + "a", b"", lease=lease.id)
    await store.put(root + "b", b"", lease=passport.id)
    before = await owner.raft_index()
    for _ in range(200):
        await lease.keep_alive()
        await passport.keep_alive()
    # Not ours: network coordinates every 5 s, and leases of other tests that end.
    assert await owner.raft_index() - before < 40
    await lease.revoke()
    await passport.revoke()


async def test_who_wakes_after_his_lease_has_ended_is_not_called_alive_again(
    store: ConsulStore, owner: Owner, root: str
) -> None:
    word = _word()
    lease = await store.grant(1, hint=_hint(word))
    await store.put(root + "a", b"", lease=lease.id)

    async def gone() -> bool:
        return await store.get(root + "a") is None

    await until(gone)
    for attempt in (lease.keep_alive, lease.keep_alive, lambda: lease.describe(_hint(word))):
        with pytest.raises(LeaseLostError):
            await attempt()
    assert lease.lost

    async def unlisted() -> bool:
        return not await owner.shown(word)

    await until(unlisted)


async def test_a_service_that_the_agent_was_told_to_forget_ends_its_lease(
    store: ConsulStore, owner: Owner, root: str
) -> None:
    word = _word()
    lease = await store.grant(30, hint=_hint(word))
    await store.put(root + "a", b"", lease=lease.id)
    (service,) = await until(lambda: owner.shown(word))
    await owner.ask("PUT", f"/v1/agent/service/deregister/{service['Service']['ID']}")

    async def gone() -> bool:
        return await store.get(root + "a") is None

    await until(gone)
    with pytest.raises(LeaseLostError):
        await lease.keep_alive()

    async def unlisted() -> bool:
        return not await owner.shown(word)

    await until(unlisted)


async def test_a_session_that_was_destroyed_by_others_ends_its_lease(
    store: ConsulStore, owner: Owner
) -> None:
    lease = await store.grant(30)
    passport = await store.grant(30, lingering=True)
    for each in (lease, passport):
        await owner.ask("PUT", f"/v1/session/destroy/{each.id}")
        with pytest.raises(LeaseLostError):
            await each.keep_alive()
        assert each.lost


async def test_a_session_ends_at_twice_its_own_time_whatever_becomes_of_its_agent(
    start_consul: Callable[..., Consul],
) -> None:
    """Lingering leases stand on this, which Consul's documentation does not promise; and so does the end of a node whose
    agent died: its check stays passing, for nobody is left to fail it."""
    server = await asyncio.to_thread(start_consul)
    join = f"127.0.0.1:{server.ports['serf_lan']}"
    settings = {"node_name": "client", "server": False, "bootstrap_expect": 0, "retry_join": [join]}
    agent = await asyncio.to_thread(start_consul, settings=settings)
    consul = Owner(store_url(server.url))
    async with ConsulStore(store_url(server.url)) as reader, ConsulStore(store_url(agent.url)) as store:
        node = await store.grant(1, hint=_hint("write_article"))
        lingering = await store.grant(1, lingering=True)
        assert (node.ttl, lingering.ttl) == (1, 20)
        await store.put("/ai-team/node", b"", lease=node.id)
        await store.put("/ai-team/lingering", b"", lease=lingering.id)
        (session,) = await consul.ask("GET", f"/v1/session/info/{lingering.id}")
        assert (session["TTL"], session["Behavior"], session["NodeChecks"]) == ("10000ms", "delete", [])
        await until(lambda: consul.passing("write_article"))
        await node.keep_alive()
        await lingering.keep_alive()
        agent.kill()

        async def gone() -> bool:
            return not (await reader.list("/ai-team/")).entries

        await until(gone, within=25)
        assert lingering.deadline - 0.05 <= boottime() <= lingering.deadline + 2
        (check,) = await consul.ask("GET", "/v1/health/checks/ai-node")
        assert check["Status"] == "passing"
        assert await consul.passing("write_article") == []


async def test_a_lingering_lease_lives_as_long_as_asked_for_up_to_two_days(
    store: ConsulStore, owner: Owner
) -> None:
    for ttl in (30.0, 3600.0, 172_800.0):
        lease = await store.grant(ttl, lingering=True)
        assert lease.ttl == ttl
        (session,) = await owner.ask("GET", f"/v1/session/info/{lease.id}")
        assert session["TTL"] == f"{ttl * 500:.0f}ms"
        await lease.revoke()
    with pytest.raises(LimitError, match="two days"):
        await store.grant(172_801, lingering=True)


async def test_a_node_whose_agent_dies_ends_by_its_sessions_own_time(
    store: ConsulStore, owner: Owner
) -> None:
    """A check lives in the agent, and stays passing for ever when the agent's machine is gone."""
    for ttl, session_ttl in ((1.0, "10000ms"), (30.0, "15000ms"), (100.0, "50000ms")):
        lease = await store.grant(ttl)
        (session,) = await owner.ask("GET", f"/v1/session/info/{lease.id}")
        assert session["TTL"] == session_ttl
        await lease.revoke()


async def test_the_name_is_free_at_once_though_consul_bars_it_by_default(
    store: ConsulStore, owner: Owner, root: str
) -> None:
    for _ in range(3):
        lease = await store.grant(30)
        await store.put(root + "a", b"", lease=lease.id, if_revision=0)
        await lease.revoke()
    # What another tool held with Consul's defaults stays barred for 15 s; that is said, not waited for.
    session = (await owner.ask("PUT", "/v1/session/create", {"Behavior": "delete"}))["ID"]
    await store.put(root + "a", b"", lease=session)
    await owner.ask("PUT", f"/v1/session/destroy/{session}")
    lease = await store.grant(30)
    with pytest.raises(StoreUnavailableError, match="LockDelay"):
        await store.put(root + "a", b"", lease=lease.id)
    await store.put(root + "a", b"")
    await lease.revoke()


async def test_a_key_can_be_written_under_somebody_elses_lease(
    consul_server: str, store: ConsulStore, root: str
) -> None:
    lease = await store.grant(30)
    revision = await store.put(root + "a", b"holder", lease=lease.id)
    async with ConsulStore(store_url(consul_server)) as contender:
        await contender.put(root + "a", b"challenge", lease=lease.id, if_revision=revision)
    entry = await store.get(root + "a")
    assert entry is not None
    assert (entry.value, entry.lease) == (b"challenge", lease.id)
    await lease.revoke()
    assert await store.get(root + "a") is None


async def test_what_is_bound_can_be_deleted(store: ConsulStore, root: str) -> None:
    lease = await store.grant(30)
    for name in ("a", "b"):
        await store.put(root + name, b"", lease=lease.id)
    assert await store.delete(root + "a") is True
    await store.transact((), (Delete(root + "b"),))
    assert (await store.list(root)).entries == ()
    await lease.keep_alive()
    await lease.revoke()


async def test_a_lease_outlives_the_kill_and_restart_of_its_agent(
    start_consul: Callable[..., Consul],
) -> None:
    server = await asyncio.to_thread(start_consul)
    consul = Owner(store_url(server.url))
    async with ConsulStore(store_url(server.url + "?timeout=1")) as store:
        lease = await store.grant(30, hint=_hint("write_article"))
        passport = await store.grant(60, lingering=True)
        await store.put("/ai-team/a", b"1", lease=lease.id)
        await store.put("/ai-team/b", b"2", lease=passport.id)
        server.kill()
        for each in (lease, passport):
            with pytest.raises(StoreUnavailableError):
                await each.keep_alive()
            assert not each.lost
        await asyncio.to_thread(server.start)
        for each in (lease, passport):
            await each.keep_alive()
        assert [entry.lease for entry in (await store.list("/ai-team/")).entries] == [lease.id, passport.id]
        await until(lambda: consul.passing("write_article"))
        await lease.describe(_hint("review"))
        await until(lambda: consul.passing("review"))
        await lease.revoke()
        assert [entry.key for entry in (await store.list("/ai-team/")).entries] == ["/ai-team/b"]
