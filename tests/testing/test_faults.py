"""Each fault that can be switched on has its real effect on a real orchestrator, at once."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from tests.conftest import eventually

from roster.errors import (
    AllNodesBusyError,
    BusUnavailableError,
    CallTimeoutError,
    Code,
    DeliveryError,
    NoCapableNodesError,
    RemoteError,
    StoreUnavailableError,
)
from roster.testing import Member, Team


def answer() -> str:
    return "done"


async def forever() -> None:
    await asyncio.Event().wait()


# -- death and departure --------------------------------------------------------------------------------------------


async def test_what_a_dying_node_had_started_is_unknown_and_goes_to_another() -> None:
    async with Team() as team:
        first = await team.add("work", answer)
        async with first.held():
            call = asyncio.create_task(team.ask("work"))
            await first.started()
            second = await team.add("work", answer)
            await first.die()
            assert first.state == "offline"
            got = await call
        assert got.node == second.key
        assert [(one.node, one.outcome) for one in got.attempts] == [
            (first.key, "unknown"),
            (second.key, None),
        ]
        assert [(asked.attempt, asked.ended) for asked in team.ledger] == [(1, "lost"), (2, "result")]


async def test_what_a_dying_node_had_not_started_is_refused_and_not_counted_as_a_retry() -> None:
    async with Team() as team:
        first = await team.add("work", forever, capacity=1, idempotent=False)
        running = asyncio.create_task(team.ask("work"))
        await first.started()
        # By hand, since the orchestrator sends nobody into a full node's queue.
        waiting = await team.mindbus.send_command(queue=first.node.passport.mindbus_queue, action="work")
        await first.asked(2)
        await first.die()
        with pytest.raises(DeliveryError) as started:
            await running
        with pytest.raises(DeliveryError) as not_started:
            await waiting.result(timeout=10)
        assert (started.value.outcome, not_started.value.outcome) == ("unknown", "refused")
        assert [asked.started for asked in team.ledger] == [True, False]


async def test_a_handler_ends_where_it_stands_when_its_node_dies() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with Team() as team:
        member = await team.add("work", work, idempotent=False)
        call = asyncio.create_task(team.call("work"))
        await member.started()
        await member.die()
        assert ended.is_set()
        with pytest.raises(DeliveryError):
            await call


async def test_a_thread_that_goes_on_after_the_death_of_its_node_is_not_heard() -> None:
    go = threading.Event()

    def work() -> str:
        go.wait(10)
        return "too late"

    async with Team() as team:
        member = await team.add("work", work, idempotent=False)
        call = asyncio.create_task(team.call("work"))
        await member.started()
        await member.die()
        go.set()
        with pytest.raises(DeliveryError) as caught:
            await call
        assert caught.value.outcome == "unknown"


async def test_when_all_have_died_nobody_can_and_the_table_says_why() -> None:
    async with Team() as team:
        members = [await team.add("work", answer) for _ in range(4)]
        for member in members:
            await member.die()
        with pytest.raises(NoCapableNodesError) as caught:
            await team.call("work")
        assert {row.state for row in caught.value.passed_over} == {"offline"}
        assert len(caught.value.passed_over) == 4
        assert len(team.ledger) == 0


async def test_a_death_that_the_registry_does_not_see_is_seen_by_the_lease() -> None:
    async with Team() as team:
        dead = await team.add("work", answer, name="dead", ttl=30)
        alive = await team.add("work", answer, name="alive", ttl=30)
        await dead.die(lease_ends=False)
        assert dead.state == "ready"
        # The bus knows all the same: whoever is sent there comes back at once.
        assert {await team.call("work") for _ in range(4)} == {"done"}
        await team.advance(29)
        assert dead.state == "ready"
        await team.advance(2)
        assert (dead.state, alive.state) == ("offline", "ready")


async def test_a_dead_node_is_listed_until_its_retention_is_over() -> None:
    async with Team() as team:
        member = await team.add("work", answer)
        await member.die()
        await team.advance(3500)
        assert member.state == "offline"
        await team.advance(200)
        assert member.state == "gone"


async def test_a_node_leaves_in_good_order() -> None:
    go = asyncio.Event()

    async def work() -> str:
        await go.wait()
        return "done"

    async with Team() as team:
        member = await team.add("work", work)
        call = asyncio.create_task(team.call("work"))
        await member.started()
        leaving = asyncio.create_task(member.leave())
        await team.until(lambda: member.state == "draining")
        with pytest.raises(NoCapableNodesError):
            await team.call("work")
        go.set()
        assert await leaving
        assert await call == "done"
        assert member.state == "gone"


async def test_a_node_that_is_started_again_is_another_incarnation() -> None:
    async with Team() as team:
        member = await team.add("work", answer)
        before = member.node.uid
        member.fails(times=3)
        await member.die()
        await member.restart()
        assert member.state == "ready"
        assert member.node.uid != before
        assert await team.call("work") == "done"
        await member.leave()
        await member.restart()
        assert await team.call("work") == "done"


# -- late, silent, failing, full, unreachable -----------------------------------------------------------------------


async def test_a_held_answer_comes_when_it_is_released() -> None:
    async with Team() as team:
        member = await team.add("work", answer)
        async with member.held():
            call = asyncio.create_task(team.call("work"))
            assert (await member.started()).ended == ""
            with pytest.raises(CallTimeoutError) as caught:
                await team.call("work", timeout=2)
            assert caught.value.outcome == "unknown"
            assert not call.done()
        assert await call == "done"
        assert [asked.ended for asked in team.ledger] == ["result", "cancelled"]


async def test_a_node_fails_as_often_as_it_is_told() -> None:
    ran = 0

    def work() -> str:
        nonlocal ran
        ran += 1
        return "done"

    async with Team() as team:
        member = await team.add("work", work)
        member.fails(ValueError("no"), times=2)
        for _ in range(2):
            with pytest.raises(RemoteError, match="ValueError: no") as caught:
                await team.call("work")
            assert caught.value.outcome == "unknown"
        assert await team.call("work") == "done"
        assert ran == 1


async def test_a_retryable_failure_goes_to_another_node() -> None:
    async with Team() as team:
        first = await team.add("work", answer)
        first.fails(RemoteError("overheated", code=Code.UNAVAILABLE, retryable=True))
        second = await team.add("work", answer)
        second.fails(RemoteError("overheated", code=Code.UNAVAILABLE, retryable=True))
        with pytest.raises(NoCapableNodesError):
            await team.call("other")
        got = await team.ask("work", timeout=10)
        assert {attempt.error for attempt in got.attempts} == {"overheated", ""}
        assert [asked.attempt for asked in team.ledger] == list(range(1, len(team.ledger) + 1))


async def test_a_silent_node_is_suspected_and_gets_no_new_work() -> None:
    async with Team() as team:
        silent = await team.add("work", answer)
        other = await team.add("work", answer)
        async with silent.silent():
            rows = {row.node: row.reason for row in await team.orchestrator.explain("work")}
            assert "does not answer" in rows[silent.key]
            assert silent.state == "ready"
            assert [await team.call("work") for _ in range(6)] == ["done"] * 6
            assert (len(silent.calls), len(other.calls)) == (0, 6)
        await other.die()
        assert await team.call("work") == "done"
        assert len(silent.calls) == 1


async def test_what_is_outstanding_at_a_silent_node_is_hedged_where_that_is_harmless() -> None:
    async with Team() as team:
        silent = await team.add("work", answer, idempotent=True)
        async with silent.held():
            call = asyncio.create_task(team.ask("work"))
            await silent.started()
            other = await team.add("work", answer, idempotent=True)
            async with silent.silent():
                assert (await call).node == other.key
        assert [asked.ended for asked in silent.calls] == ["cancelled"]


async def test_nobody_waits_for_a_ping_that_cannot_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roster.orchestrator.vigil._PONG", 60.0)
    async with Team() as team, asyncio.timeout(20):
        member = await team.add("work", answer)
        async with member.silent():
            assert "does not answer" in (await team.orchestrator.explain("work"))[0].reason
        assert "does not answer" not in (await team.orchestrator.explain("work"))[0].reason


async def test_a_node_that_is_held_and_silent_is_still_held_when_it_speaks_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("roster.orchestrator.vigil._PONG", 60.0)
    async with Team() as team, asyncio.timeout(20):
        member = await team.add("work", answer, idempotent=False)
        async with member.held():
            call = asyncio.create_task(team.call("work"))
            await member.started()
            await team.until(lambda: member.node.active_tasks == 0)  # done, and its answer waits
            async with member.silent():
                pass
            # The ping that ends the silence is answered, after whatever was let out before it.
            assert "does not answer" not in (await team.orchestrator.explain("work"))[0].reason
            assert (call.done(), member.calls[0].ended) == (False, "")
        assert await call == "done"


async def test_what_a_silent_node_had_not_read_it_does_when_it_is_back() -> None:
    async with Team() as team:
        member = await team.add("work", answer)
        async with member.silent():
            call = asyncio.create_task(team.call("work"))
            taken_back = asyncio.create_task(team.call("work"))
            await member.asked(2)
            taken_back.cancel()
            await team.until(lambda: member.calls[1].ended == "cancelled")
            assert not member.calls[0].started
        assert await call == "done"
        assert [asked.started for asked in member.calls] == [True, False]


async def test_a_full_node_is_busy_and_gets_nothing() -> None:
    async with Team() as team:
        full = await team.add("work", answer)
        async with full.full():
            assert full.state == "busy"
            with pytest.raises(AllNodesBusyError, match="full"):
                await team.call("work", on_busy="fail")
            other = await team.add("work", answer)
            assert (await team.ask("work")).node == other.key
            await other.leave()
            waiting = asyncio.create_task(team.call("work"))
            refused = await team.mindbus.send_command(queue=full.node.passport.mindbus_queue, action="work")
            with pytest.raises(DeliveryError) as caught:
                await refused.result(timeout=10)
            assert (caught.value.outcome, caught.value.code) == ("refused", Code.RESOURCE_EXHAUSTED)
        assert await waiting == "done"


async def test_a_node_whose_queue_is_lost_is_passed_by() -> None:
    async with Team() as team:
        lost = await team.add("work", answer)
        other = await team.add("work", answer)
        async with lost.unreachable():
            assert {(await team.ask("work")).node for _ in range(6)} == {other.key}
            assert lost.state == "ready"
            await other.die()
            with pytest.raises((CallTimeoutError, NoCapableNodesError)) as caught:
                await team.call("work", timeout=0.1)
            assert {attempt.outcome for attempt in caught.value.attempts} <= {"not_sent"}
        assert len(lost.calls) == 0


async def test_a_node_that_comes_back_is_ready_before_it_says_that_it_can_be_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("roster.node.presence._LOOK", 0.02)
    async with Team() as team:
        member = await team.add("work", answer)
        seen: list[tuple[str, bool]] = []

        async def look() -> None:
            async for event in team.registry.watch():
                seen.append((event.record.state, event.record.cut_off))

        looking = asyncio.create_task(look())
        for _ in range(5):
            async with member.unreachable():
                await eventually(lambda: seen[-1:] == [("draining", True)])
            await eventually(lambda: seen[-1:] == [("ready", False)])
        looking.cancel()
    # Calls wait for a node that drains because it is cut off, and for no other.
    assert ("draining", False) not in seen


# -- the store and the bus ------------------------------------------------------------------------------------------


async def test_while_the_store_is_away_lookups_and_calls_go_on_and_nobody_can_register() -> None:
    async with Team() as team:
        member = await team.add("work", answer)
        async with team.store_away():
            assert [record.key for record in await team.registry.find_by_capability("work")] == [member.key]
            assert team.registry.informer.failure is not None
            assert await team.call("work") == "done"
            with pytest.raises(StoreUnavailableError, match="out of reach"):
                await team.add("work", answer, name="late")
        assert team.registry.staleness == 0.0
        await team.add("work", answer, name="late")


async def test_nodes_whose_leases_ran_out_while_the_store_was_away_are_offline_afterwards() -> None:
    async with Team() as team:
        member = await team.add("work", answer, ttl=30)
        async with team.store_away():
            await team.advance(31)
            assert member.state == "ready"
        assert member.state == "offline"


async def test_production_holds_them_for_one_ttl() -> None:
    async with Team(thaw_grace=True) as team:
        member = await team.add("work", answer, ttl=30)
        async with team.store_away():
            await team.advance(31)
        assert member.state == "unknown"
        assert await team.call("work") == "done"


async def test_a_node_that_alone_is_cut_off_from_the_store_loses_its_lease_and_goes_on_serving() -> None:
    async with Team() as team:
        cut = await team.add("work", answer)
        other = await team.add("work", answer)
        async with cut.without_store():
            await team.advance(31)
            assert (cut.state, other.state) == ("offline", "ready")
            queue = cut.node.passport.mindbus_queue
            answered = await team.mindbus.send_command(queue=queue, action="work")
            assert await answered.result(timeout=10) == "done"


async def test_time_stands_still_unless_it_is_moved_and_the_living_keep_their_leases() -> None:
    async with Team() as team:
        member = await team.add("work", answer, ttl=1)
        uid = member.node.uid
        await team.advance(3600)
        assert (member.state, member.node.uid) == ("ready", uid)
        with pytest.raises(ValueError, match="forward"):
            team._clock.advance(-1)


async def test_while_the_bus_is_away_nothing_is_sent() -> None:
    async with Team() as team:
        member = await team.add("work", answer)
        async with team.bus_away():
            with pytest.raises((CallTimeoutError, NoCapableNodesError)) as caught:
                await team.call("work", timeout=0.1)
            assert caught.value.outcome == "not_sent"
            with pytest.raises(BusUnavailableError, match="taken it away"):
                await team.mindbus.send_command(queue=member.node.passport.mindbus_queue, action="work")
        assert member.calls == []
        assert await team.call("work", timeout=10) == "done"


@pytest.mark.parametrize("fault", ["held", "silent", "unreachable", "full", "without_store"])
async def test_a_node_may_die_within_any_fault_and_is_whole_when_it_is_started_again(fault: str) -> None:
    async with Team() as team:
        member = await team.add("work", answer)
        async with getattr(member, fault)():
            await member.die()
            assert member.state == "offline"
        await member.restart()
        assert await team.call("work", timeout=10) == "done"


async def test_a_fault_is_over_when_its_block_ends_in_an_error() -> None:
    async with Team() as team:
        member: Member = await team.add("work", answer)
        contexts: list[Any] = [
            member.held,
            member.silent,
            member.full,
            member.unreachable,
            team.store_away,
            team.bus_away,
        ]
        for context in contexts:
            with pytest.raises(KeyError):
                async with context():
                    raise KeyError
        assert await team.call("work", timeout=10) == "done"
