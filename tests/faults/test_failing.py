"""Work that kills, and nodes that fail: what the callers spend on it, and what reaches the neighbours."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter

import pytest
from chaos.load import send
from chaos.team import scene
from tests.conftest import eventually
from tests.faults.stage import Handler, serving

from roster.errors import CallError, Code, DeliveryError, RemoteError
from roster.testing import Team

Urls = tuple[str, str]


async def test_a_query_of_death_is_tried_three_times_the_last_time_alone_and_its_neighbours_are_answered(
    urls: Urls,
) -> None:
    names = [f"a{n}" for n in range(1, 7)]
    kinds = ["work", "deadly"]
    async with scene(urls, names, ttl=30.0, capabilities=kinds, capacity=4) as (agents, orchestrator):
        load = asyncio.create_task(send(orchestrator, 120, in_flight=12, seconds=0.15))
        with pytest.raises(DeliveryError) as caught:
            await orchestrator.call(
                "deadly", {"command": "deadly", "seconds": 0.2}, namespace="chaos", timeout=30
            )
        outcome = await load
        effects = agents.effects()
        victims = effects.nodes["deadly"]
        for victim in victims:
            assert await agents.processes[victim.split("/")[1]].wait() == -signal.SIGKILL
        assert sum(process.returncode is None for process in agents.processes.values()) == 3
        letters = await orchestrator.bus.dead_letters()
    assert len(set(victims)) == len(victims) == 3
    error = caught.value
    assert error.outcome == "unknown"
    assert not error.retryable
    assert [attempt.node for attempt in error.attempts if attempt.outcome == "unknown"] == victims
    assert all(victim in str(error) for victim in victims)
    assert not outcome.errors, "the neighbours' commands were all answered"
    assert len(outcome.answers) == 120
    assert outcome.rerouted, "there were neighbours in the hands of the first two"
    # Alone on the third: nothing else began there once it had begun, and nothing was in the middle.
    begun = next(
        line["at"] for line in effects.lines if line["command"] == "deadly" and line["node"] == victims[2]
    )
    beside = [line for line in effects.lines if line["node"] == victims[2] and line["command"] != "deadly"]
    assert all(line["at"] <= begun for line in beside)
    assert (
        Counter(line["what"] for line in beside)["start"] == Counter(line["what"] for line in beside)["end"]
    )
    assert [letter.message.data["params"]["command"] for letter in letters] == ["deadly"]
    assert all(victim in letters[0].reason for victim in victims)


async def test_the_third_try_keeps_to_the_nodes_that_the_caller_asked_for() -> None:
    async with Team() as team:
        outsiders = [
            await team.add("work", asyncio.Event().wait, labels={"tier": "b"}),
            await team.add("work", asyncio.Event().wait, labels={"tier": "a"}, namespace="elsewhere"),
        ]
        meant = [await team.add("work", asyncio.Event().wait, labels={"tier": "a"}) for _ in range(2)]
        call = asyncio.create_task(team.call("work", selector="tier=a", namespace="default", timeout=6))
        for _ in meant:
            await eventually(lambda: any(not one.ended for one in team.ledger))
            victim = next(one.node for one in team.ledger if not one.ended)
            await next(member for member in meant if member.key == victim).die()
        with pytest.raises(CallError) as caught:
            await call
        assert {attempt.node for attempt in caught.value.attempts} == {member.key for member in meant}
        assert [member.calls for member in outsiders] == [[], []]


async def test_when_every_node_fails_a_call_costs_at_most_one_and_a_half_attempts(urls: Urls) -> None:
    names = ["a1", "a2", "a3", "a4"]
    async with scene(urls, names, capabilities=["failing"]) as (agents, orchestrator):
        outcome = await send(orchestrator, 100, in_flight=4, seconds=0, capability="failing")
        attempts = agents.effects().started.total()
    assert len(outcome.errors) == 100
    assert 100 <= attempts <= 150


async def test_when_half_of_the_nodes_fail_every_call_is_answered(urls: Urls) -> None:
    counts: Counter[str] = Counter()

    def node(name: str, broken: bool) -> dict[str, Handler]:
        async def work() -> str:
            counts[name] += 1
            if broken:
                raise RemoteError(f"{name} is out of order", code=Code.UNAVAILABLE, retryable=True)
            return name

        return {"work": work}

    nodes = {f"n{n}": node(f"n{n}", broken=n % 2 == 0) for n in range(4)}
    async with serving(urls, nodes) as orchestrator:
        answers = [await orchestrator.call("work", timeout=10) for _ in range(100)]
    assert set(answers) == {"n1", "n3"}
    assert counts["n0"] + counts["n2"] < 50, "those that fail are left out after a few failures"


class UnspeakableError(Exception):
    """An exception whose own text fails, such as one that formats a field which was never set."""

    def __str__(self) -> str:
        raise LookupError("never set")


async def test_an_exception_that_cannot_be_read_is_an_answer_all_the_same_and_frees_its_slot(
    urls: Urls,
) -> None:
    async def work() -> None:
        raise UnspeakableError

    def plain() -> None:
        raise UnspeakableError

    async def nested() -> None:
        raise RemoteError(UnspeakableError())  # type: ignore[arg-type]  # the mistake asked about

    handlers: dict[str, Handler] = {"work": work, "plain": plain, "nested": nested, "well": lambda: "well"}
    async with serving(urls, {"one": handlers}, at_once=1) as orchestrator:
        for capability in ("work", "plain", "nested"):
            for key in ("", f"key-{capability}"):
                with pytest.raises(RemoteError, match=r"__str__ raised LookupError"):
                    await orchestrator.call(capability, timeout=10, idempotency_key=key or None)
                assert await orchestrator.call("well", timeout=10) == "well"


async def test_a_handler_that_interrupts_its_process_is_told_of_before_that_ends(urls: Urls) -> None:
    async with scene(urls, ["a1"], ttl=30.0, capabilities=["interrupted"]) as (agents, orchestrator):
        with pytest.raises(RemoteError, match="KeyboardInterrupt"):
            await orchestrator.call(
                "interrupted", {"command": "c", "seconds": 0}, namespace="chaos", timeout=10
            )
        async with asyncio.timeout(20):
            assert await agents.processes["a1"].wait() != 0
        assert agents.effects().started["c"] == 1
