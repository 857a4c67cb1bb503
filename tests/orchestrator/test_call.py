"""A call finds a node, and another one when that is gone, full or failing."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from tests.conftest import eventually, passport

from roster import Node, Orchestrator, Registry
from roster._clock import boottime
from roster.bus import Message
from roster.bus.base import Exchange
from roster.bus.context import Handling, current_command
from roster.bus.failure import STOPPED, UNHEARD
from roster.errors import (
    AllNodesBusyError,
    BusUnavailableError,
    CallError,
    CallTimeoutError,
    Code,
    ConfigError,
    DeliveryError,
    InvalidParamsError,
    NoCapableNodesError,
    RemoteError,
    SelectorError,
)
from roster.orchestrator.budget import RetryBudget
from roster.orchestrator.tries import Tries
from roster.orchestrator.vigil import Outstanding

Urls = tuple[str, str]
Handler = Callable[..., Any]


@asynccontextmanager
async def team(
    urls: Urls, *members: tuple[str, Handler], capability: Any = "work", at_once: int = 3, **options: Any
) -> AsyncIterator[tuple[Orchestrator, dict[str, Node]]]:
    """Yield an orchestrator and running nodes, each with one handler."""
    nodes: dict[str, Node] = {}
    async with AsyncExitStack() as stack:
        for name, handler in members:
            node = Node(
                passport(name, capability, at_once=at_once, **options), registry_url=urls[0], bus_url=urls[1]
            )
            node.capability(capability if isinstance(capability, str) else capability["name"])(handler)
            nodes[name] = await stack.enter_async_context(node)
        orchestrator = await stack.enter_async_context(Orchestrator.connect(*urls))
        await orchestrator.start()
        await eventually(lambda: all(_ready(orchestrator, node) for node in nodes.values()))
        yield orchestrator, nodes


def _ready(orchestrator: Orchestrator, node: Node) -> bool:
    record = orchestrator.node(node.key)
    return record is not None and record.state == "ready"


def full(orchestrator: Orchestrator, key: str) -> bool:
    load = orchestrator.team.router.load(key)
    return load is not None and load.active >= load.capacity


def counting(name: str, counts: Counter[str], seconds: float = 0.0) -> Handler:
    async def work() -> str:
        counts[name] += 1
        await asyncio.sleep(seconds)
        return name

    return work


def failing(name: str, counts: Counter[str], error: Exception) -> Handler:
    async def work() -> str:
        counts[name] += 1
        raise error

    return work


async def test_sixty_calls_spread_over_the_least_loaded(urls: Urls) -> None:
    counts: Counter[str] = Counter()
    members = [(name, counting(name, counts, 0.01)) for name in ("a", "b", "c")]
    async with team(urls, *members) as (orchestrator, _):
        results = await asyncio.gather(*(orchestrator.call("work", timeout=10) for _ in range(60)))
    assert Counter(results) == counts
    assert sum(counts.values()) == 60
    assert min(counts.values()) >= 10


async def test_params_are_held_against_the_schema_before_anything_is_sent(urls: Urls) -> None:
    called = []

    def work(topic: str) -> None:
        called.append(topic)

    capability = {"name": "work", "input_schema": {"topic": "string"}}
    async with team(urls, ("a", work), capability=capability) as (orchestrator, _):
        with pytest.raises(InvalidParamsError, match="topic") as caught:
            await orchestrator.call("work", {"topic": 3})
        assert caught.value.outcome == "not_sent"
        assert caught.value.attempts == ()
        with pytest.raises(ConfigError, match="priority"):
            await orchestrator.call("work", {"topic": "x"}, priority=10)
        with pytest.raises(SelectorError):
            await orchestrator.call("work", {"topic": "x"}, selector="a in (")
    assert called == []


async def test_a_field_that_only_the_node_can_fill_in_is_judged_by_the_node(urls: Urls) -> None:
    def work(topic: str, style: str = "plain") -> str:
        return f"{topic}, {style}"

    capability = {"name": "work", "input_schema": {"topic": "string", "style": "string"}}
    async with team(urls, ("a", work), capability=capability) as (orchestrator, _):
        assert await orchestrator.call("work", {"topic": "bees"}) == "bees, plain"
        with pytest.raises(InvalidParamsError, match="topic: required") as caught:
            await orchestrator.call("work", {"style": "x"})
        assert caught.value.outcome == "refused"
        with pytest.raises(InvalidParamsError) as caught:
            await orchestrator.call("work", {"topic": "bees", "tone": "x"})
        assert caught.value.outcome == "not_sent"


async def test_nobody_can_says_so_at_once_and_why_of_each(urls: Urls) -> None:
    async with team(urls, ("a", lambda: None), labels={"tier": "lead"}) as (orchestrator, nodes):
        with pytest.raises(NoCapableNodesError, match="no registered node has the capability 'fly'"):
            await orchestrator.call("fly")
        with pytest.raises(NoCapableNodesError, match="labels do not match") as caught:
            await orchestrator.call("work", selector="tier=gold")
        assert [row.node for row in caught.value.passed_over] == ["default/a"]
        with pytest.raises(NoCapableNodesError):
            await orchestrator.call("work", version=">=2")
        with pytest.raises(NoCapableNodesError):
            await orchestrator.call("work", namespace="elsewhere")
        assert (await orchestrator.explain("work"))[0].node == nodes["a"].key


async def test_when_all_are_busy_a_call_waits_for_room_in_order_of_priority(urls: Urls) -> None:
    order: list[str] = []
    go = asyncio.Event()

    async def work(name: str) -> None:
        order.append(name)
        await go.wait()

    async with team(urls, ("a", work), at_once=1) as (orchestrator, _):

        def call(name: str, priority: int) -> asyncio.Task[Any]:
            return asyncio.create_task(
                orchestrator.call("work", {"name": name}, priority=priority, timeout=20)
            )

        tasks = [call("first", 0)]
        await eventually(lambda: order == ["first"])
        tasks += [call("low", 1), call("high", 7), call("lower", 0)]
        await eventually(lambda: orchestrator.team.waiting.waiting("work") == 3)
        with pytest.raises(AllNodesBusyError, match="full: 1 of 1 tasks") as caught:
            await orchestrator.call("work", {"name": "impatient"}, on_busy="fail")
        assert caught.value.retry_after > 0
        with pytest.raises(AllNodesBusyError):
            await orchestrator.call("work", {"name": "late"}, timeout=0.05)
        go.set()
        await asyncio.gather(*tasks)
    assert order == ["first", "high", "low", "lower"]


async def test_a_call_given_up_while_it_waits_leaves_its_place_to_others(urls: Urls) -> None:
    go = asyncio.Event()

    async def work() -> None:
        await go.wait()

    async with team(urls, ("a", work), at_once=1) as (orchestrator, nodes):
        running = asyncio.create_task(orchestrator.call("work", timeout=20))
        await eventually(lambda: nodes["a"].active_tasks == 1)
        waiting = [asyncio.create_task(orchestrator.call("work", timeout=20)) for _ in range(3)]
        await eventually(lambda: orchestrator.team.waiting.waiting("work") == 3)
        waiting[0].cancel()
        go.set()
        await asyncio.gather(running, *waiting[1:])


async def test_a_retryable_failure_goes_to_another_node_and_is_told_in_the_attempts(urls: Urls) -> None:
    counts: Counter[str] = Counter()
    error = RemoteError("overheated", code=Code.UNAVAILABLE, retryable=True)
    async with team(urls, ("a", failing("a", counts, error)), ("b", counting("b", counts))) as (
        orchestrator,
        _,
    ):
        answers = [await orchestrator.ask("work", timeout=10) for _ in range(8)]
    assert {answer.result for answer in answers} == {"b"}
    retried = [answer for answer in answers if len(answer.attempts) == 2]
    assert retried
    assert retried[0].attempts[0].node == "default/a"
    assert "overheated" in retried[0].attempts[0].error


async def test_a_failure_that_nobody_may_repeat_is_not_repeated(urls: Urls) -> None:
    counts: Counter[str] = Counter()
    async with team(urls, ("a", failing("a", counts, ValueError("no")))) as (orchestrator, _):
        with pytest.raises(RemoteError, match="ValueError: no") as caught:
            await orchestrator.call("work")
    assert counts == {"a": 1}
    assert [attempt.node for attempt in caught.value.attempts] == ["default/a"]


async def test_when_all_fail_there_are_at_most_one_and_a_half_attempts_a_call(urls: Urls) -> None:
    counts: Counter[str] = Counter()
    error = RemoteError("down", code=Code.UNAVAILABLE, retryable=True)
    members = [(name, failing(name, counts, error)) for name in ("a", "b", "c", "d")]
    async with team(urls, *members) as (orchestrator, _):
        for _ in range(40):
            with pytest.raises(RemoteError, match="down"):
                await orchestrator.call("work", timeout=10)
    assert 40 <= sum(counts.values()) <= 60


async def test_a_retry_avoids_those_whose_last_word_was_a_failure(urls: Urls) -> None:
    counts: Counter[str] = Counter()
    error = RemoteError("down", code=Code.UNAVAILABLE, retryable=True)
    members = [(name, failing(name, counts, error)) for name in ("a", "b")]
    members += [(name, counting(name, counts)) for name in ("c", "d")]
    async with team(urls, *members, at_once=20) as (orchestrator, _):
        answers = [await orchestrator.ask("work", timeout=10) for _ in range(60)]
    assert len(answers) == 60
    assert sum(len(answer.attempts) > 1 for answer in answers) >= 2
    # Only the first failure may lead into another one, of which nobody has heard yet.
    assert sum(len(answer.attempts) > 2 for answer in answers) <= 1


def test_the_retry_budget_holds_a_tenth_of_the_calls_and_a_small_reserve() -> None:
    budget = RetryBudget()
    spent = 0
    for _ in range(1000):
        budget.earn()
        spent += budget.spend()
    assert spent == pytest.approx(1000 * 0.1 + 10, abs=1)


def test_a_retry_that_brought_the_result_costs_nothing() -> None:
    budget = RetryBudget()
    assert all(budget.spend() for _ in range(10))
    assert not budget.spend()
    budget.refund()
    assert budget.spend()
    assert not budget.spend()


@pytest.mark.parametrize("idempotent", [None, True, False])
async def test_what_waited_at_a_node_that_leaves_is_done_by_another_exactly_once(
    urls: Urls, idempotent: bool | None
) -> None:
    counts: Counter[str] = Counter()
    go = asyncio.Event()

    async def slow() -> str:
        counts["a"] += 1
        await go.wait()
        return "a"

    capability = {"name": "work"} if idempotent is None else {"name": "work", "idempotent": idempotent}
    async with team(urls, ("a", slow), capability=capability, at_once=1) as (orchestrator, nodes):
        running = asyncio.create_task(orchestrator.call("work", timeout=20))
        await eventually(lambda: nodes["a"].active_tasks == 1)
        # Another caller, who does not know of the first: it waits in the node's hands.
        async with Orchestrator.connect(*urls) as other:
            await other.start()
            waiting = asyncio.create_task(other.call("work", timeout=20))
            async with team(urls, ("b", counting("b", counts)), capability=capability) as (_, _nodes):
                stopping = asyncio.create_task(nodes["a"].stop())
                assert await waiting == "b"
                go.set()
                assert await running == "a"
                await stopping
    assert counts == {"a": 1, "b": 1}


async def test_a_silent_try_is_repeated_elsewhere_only_when_that_is_harmless(urls: Urls) -> None:
    begun: Counter[str] = Counter()

    def stuck(name: str) -> Handler:
        async def work() -> str:
            begun[name] += 1
            if begun.total() == 1:
                await asyncio.sleep(60)
            return name

        return work

    capability = {"name": "work", "idempotent": True}
    async with team(urls, ("a", stuck("a")), ("b", stuck("b")), capability=capability) as (orchestrator, _):
        answer = await orchestrator.ask("work", timeout=20, attempt_timeout=2)
        assert len(answer.attempts) == 2
        assert answer.attempts[0].code is Code.DEADLINE_EXCEEDED
    begun.clear()
    capability = {"name": "work", "idempotent": False}
    async with team(urls, ("a", stuck("a")), ("b", stuck("b")), capability=capability) as (orchestrator, _):
        with pytest.raises(CallTimeoutError):
            await orchestrator.call("work", timeout=20, attempt_timeout=2)
    assert begun.total() == 1


async def test_a_node_that_accepts_nothing_is_left_out_for_a_moment(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that stands still on the local bus: somebody holds its queue, and takes no connection."""
    counts: Counter[str] = Counter()
    async with team(urls, ("a", counting("a", counts)), ("b", counting("b", counts))) as (
        orchestrator,
        nodes,
    ):
        send = orchestrator.bus.send
        deaf = nodes["a"].passport.mindbus_queue

        async def sending(queue: str, message: Message, **options: Any) -> Any:
            if queue == deaf:
                raise BusUnavailableError("it accepts no connection", details={"silent": True})
            return await send(queue, message, **options)

        monkeypatch.setattr(orchestrator.bus, "send", sending)
        while "default/a" not in orchestrator.team.suspects._marked:
            assert await orchestrator.call("work", timeout=20) == "b"
            assert counts["b"] < 50, "it was never tried, or nothing is held against it"


@pytest.mark.parametrize("word", [UNHEARD, STOPPED], ids=["our own line is lost", "its node stops it"])
async def test_work_is_begun_three_times_at_most_though_nobody_is_to_blame(
    urls: Urls, monkeypatch: pytest.MonkeyPatch, word: Mapping[str, Any]
) -> None:
    begun = 0
    gate = asyncio.Event()

    async def work() -> None:
        nonlocal begun
        begun += 1
        await gate.wait()

    async with team(urls, ("a", work), ("b", work)) as (orchestrator, _):
        send = orchestrator.bus.send

        async def sending(*args: Any, **options: Any) -> Exchange:
            before = begun
            exchange = await send(*args, **options)
            await eventually(lambda: begun > before)
            exchange.answer.set_exception(DeliveryError("lost", outcome="unknown", details=word))
            return exchange

        monkeypatch.setattr(orchestrator.bus, "send", sending)
        with pytest.raises(DeliveryError, match=r"^lost \(tried default/") as caught:
            await orchestrator.call("work", timeout=20)
        assert not await orchestrator.bus.dead_letters()
        gate.set()
    assert (caught.value.outcome, begun, len(caught.value.attempts)) == ("unknown", 3, 3)


async def test_the_final_error_carries_every_attempt(urls: Urls) -> None:
    counts: Counter[str] = Counter()
    error = RemoteError("down", code=Code.UNAVAILABLE, retryable=True)
    members = [(name, failing(name, counts, error)) for name in ("a", "b", "c")]
    async with team(urls, *members) as (orchestrator, _):
        with pytest.raises(RemoteError, match=r"down \(tried default/") as caught:
            await orchestrator.call("work", timeout=10)
    attempts = caught.value.attempts
    assert len(attempts) == 3
    assert len({attempt.node for attempt in attempts}) == 3
    assert all(attempt.error == "down" and attempt.duration >= 0 for attempt in attempts)


async def test_call_all_asks_every_node_once_and_gathers_results_and_errors(urls: Urls) -> None:
    counts: Counter[str] = Counter()
    members = [
        ("a", counting("a", counts)),
        ("b", failing("b", counts, ValueError("no"))),
        ("c", counting("c", counts)),
    ]
    async with team(urls, *members) as (orchestrator, _):
        answers = await orchestrator.call_all("work", timeout=10)
        with pytest.raises(NoCapableNodesError):
            await orchestrator.call_all("fly")
    assert [(answer.node, answer.result) for answer in answers] == [
        ("default/a", "a"),
        ("default/b", None),
        ("default/c", "c"),
    ]
    assert "ValueError" in str(answers[1].error)
    assert counts == {"a": 1, "b": 1, "c": 1}


async def test_leaving_a_stream_early_takes_the_command_back(urls: Urls) -> None:
    from roster import current

    async def work() -> None:
        current().progress(step=1)
        await asyncio.sleep(60)

    async with team(urls, ("a", work)) as (orchestrator, nodes):
        stream = orchestrator.stream("work", timeout=30)
        async for event in stream:
            assert event.data == {"step": 1}
            break
        await stream.aclose()
        await eventually(lambda: nodes["a"].active_tasks == 0)


async def test_sticky_calls_with_one_key_meet_one_node(urls: Urls) -> None:
    counts: Counter[str] = Counter()
    members = [(name, counting(name, counts)) for name in ("a", "b", "c")]
    async with team(urls, *members) as (orchestrator, _):
        by_key = {
            key: {await orchestrator.call("work", strategy="sticky", sticky_key=key) for _ in range(5)}
            for key in ("x", "y", "z", "q")
        }
    assert all(len(nodes) == 1 for nodes in by_key.values())


async def test_a_node_never_serves_a_call_that_it_waits_for_itself(urls: Urls) -> None:
    async with team(urls, ("a", lambda: "a"), ("b", lambda: "b")) as (orchestrator, _):
        message = Message.command("outer", {}, ancestors=("default/b",))
        token = current_command.set(Handling("default/a", message, None))
        try:
            with pytest.raises(NoCapableNodesError):
                await orchestrator.call("work")
        finally:
            current_command.reset(token)


@pytest.mark.parametrize("idempotent", [False, None, True])
@pytest.mark.parametrize("below", ["is full", "does not exist", "takes other params", "refuses"])
async def test_what_is_known_of_a_call_below_is_not_known_of_the_work_that_made_it(
    urls: Urls, below: str, idempotent: bool | None
) -> None:
    """A handler that has begun has begun, though what it called in turn was refused or never sent."""
    ran: list[str] = []
    gate = asyncio.Event()

    async def leaf(n: int = 0) -> None:
        if n < 0:
            raise DeliveryError("not me", outcome="refused", retryable=True)
        await gate.wait()

    inner = {"name": "work", "input_schema": {"n": "integer?"}}
    outer = {"name": "delegate"} if idempotent is None else {"name": "delegate", "idempotent": idempotent}
    wrong: dict[str, dict[str, Any]] = {"takes other params": {"n": "many"}, "refuses": {"n": -1}}
    params = wrong.get(below, {})
    async with team(urls, ("inner", leaf), capability=inner, at_once=1) as (lower, _):

        async def delegate() -> Any:
            ran.append("delegate")
            return await lower.call("fly" if below == "does not exist" else "work", params, on_busy="fail")

        async with team(urls, ("one", delegate), ("two", delegate), capability=outer) as (upper, _more):
            busy = asyncio.create_task(lower.call("work", timeout=60)) if below == "is full" else None
            await eventually(lambda: busy is None or full(lower, "default/inner"))
            with pytest.raises(CallError) as caught:
                await upper.call("delegate", timeout=20)
        gate.set()
        if busy is not None:
            await busy
    assert caught.value.outcome == "unknown"
    assert not isinstance(caught.value, (AllNodesBusyError, DeliveryError, NoCapableNodesError))
    again = below in ("is full", "refuses") and idempotent is not False
    assert len(ran) == (3 if again else 1)


async def test_a_delegated_call_ends_with_the_deadline_of_the_command_above_it(urls: Urls) -> None:
    async def slow() -> None:
        await asyncio.sleep(60)

    async with team(urls, ("inner", slow)) as (_, _nodes), AsyncExitStack() as stack:
        lower = await stack.enter_async_context(Orchestrator.connect(*urls))

        async def outer() -> Any:
            return await lower.call("work", timeout=50)

        async with team(urls, ("outer", outer), capability="delegate") as (orchestrator, _more):
            with pytest.raises(CallTimeoutError):
                await orchestrator.call("delegate", timeout=0.3)
            await eventually(lambda: _nodes["inner"].active_tasks == 0)


@pytest.mark.parametrize("idempotent", [None, True])
async def test_what_its_node_stopped_at_the_deadline_is_not_begun_again(
    urls: Urls, monkeypatch: pytest.MonkeyPatch, idempotent: bool | None
) -> None:
    """A node has a little less time than its caller: what is left then is for its answer to come back in."""
    counts: Counter[str] = Counter()
    capability = {"name": "work"} if idempotent is None else {"name": "work", "idempotent": idempotent}
    members = [(name, counting(name, counts, 60)) for name in ("a", "b")]
    async with team(urls, *members, capability=capability) as (orchestrator, nodes):
        # No pause before another try.
        monkeypatch.setattr(orchestrator.team.rng, "uniform", lambda low, high: low)
        for done in range(1, 6):
            while counts.total() < done:  # on a busy machine the deadline may come before the command
                with pytest.raises(CallTimeoutError):
                    await orchestrator.call("work", timeout=0.3)
                await eventually(lambda: not any(node.active_tasks for node in nodes.values()))
            assert counts.total() == done


@pytest.mark.parametrize("idempotent", [None, True])
async def test_nor_is_what_handed_its_work_down_until_the_deadline(
    urls: Urls, monkeypatch: pytest.MonkeyPatch, idempotent: bool | None
) -> None:
    """Each node on the way down has less time: all of it is left to the one at the top when the lowest has none."""
    counts: Counter[str] = Counter()
    about = {} if idempotent is None else {"idempotent": idempotent}
    async with AsyncExitStack() as stack:

        async def enter(name: str, handler: Handler) -> Orchestrator:
            upper, _ = await stack.enter_async_context(
                team(urls, (name, handler), capability={"name": name, **about})
            )
            # No pause before another try.
            monkeypatch.setattr(upper.team.rng, "uniform", lambda low, high: low)
            return upper

        def down(name: str, to: str, by: Orchestrator) -> Handler:
            async def hand_down() -> Any:
                counts[name] += 1
                return await by.call(to, timeout=60)

            return hand_down

        last = await enter("d", counting("d", counts, 60))
        for name, to in (("c", "d"), ("b", "c"), ("a", "b")):
            last = await enter(name, down(name, to, last))
        with pytest.raises(CallError):
            await last.call("a", timeout=3)
    assert counts == {"a": 1, "b": 1, "c": 1, "d": 1}


async def test_the_time_that_the_bus_takes_to_send_is_taken_off_what_an_answer_has(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bus whose broker is away holds a command until it is back."""
    overdrawn: list[float] = []
    answer = Tries._answer

    async def noted(tries: Tries, outstanding: Outstanding, limit: float) -> Message:
        overdrawn.append(boottime() + limit - tries._call.deadline)
        return await answer(tries, outstanding, limit)

    monkeypatch.setattr(Tries, "_answer", noted)
    async with team(urls, ("a", counting("a", Counter(), 60))) as (orchestrator, _):
        send = orchestrator.bus.send

        async def slow(*args: Any, **options: Any) -> Exchange:
            await asyncio.sleep(1)
            return await send(*args, **options)

        monkeypatch.setattr(orchestrator.bus, "send", slow)
        with pytest.raises(CallTimeoutError):
            await orchestrator.call("work", timeout=4)
    assert max(overdrawn) < 0.8


async def test_closing_an_orchestrator_fails_its_calls_and_refuses_new_ones(urls: Urls) -> None:
    async def slow() -> None:
        await asyncio.sleep(60)

    async with team(urls, ("a", slow)) as (orchestrator, nodes):
        call = asyncio.create_task(orchestrator.call("work", timeout=20))
        await eventually(lambda: nodes["a"].active_tasks == 1)
        await orchestrator.close()
        with pytest.raises(DeliveryError):
            await call
        with pytest.raises(ConfigError, match="closed"):
            await orchestrator.call("work")


async def test_a_node_that_is_registered_but_not_on_the_bus_is_given_up_with_the_cause(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roster.orchestrator.candidates._RETURN_WAIT", 0.2)
    async with (
        Registry.connect(urls[0]) as registry,
        Orchestrator.connect(*urls) as orchestrator,
        await registry.register(passport("absent", "work")),
    ):
        with pytest.raises(NoCapableNodesError, match="nobody consumes the queue") as caught:
            await orchestrator.call("work", timeout=20)
        assert caught.value.attempts
        assert all(attempt.outcome == "not_sent" for attempt in caught.value.attempts)
        with pytest.raises(CallTimeoutError, match="nobody consumes the queue"):
            await orchestrator.call("work", timeout=0.05)


async def test_a_broker_that_is_out_of_reach_is_not_said_to_be_the_nodes_fault(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roster.orchestrator.candidates._RETURN_WAIT", 0.2)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        async with (
            Registry.connect(urls[0]) as registry,
            Orchestrator.connect(urls[0], f"amqp://127.0.0.1:{nobody.getsockname()[1]}") as orchestrator,
            await registry.register(passport("one", "work")),
            await registry.register(passport("two", "work")),
        ):
            with pytest.raises(BusUnavailableError, match=r"^cannot reach the broker on amqp://.* \(tried "):
                await orchestrator.call("work", timeout=20)
