"""A call with an idempotency key has one effect, however often it is repeated, and by whom."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import eventually, passport

from roster import Node, Orchestrator, RemoteError, current, testing
from roster.bus.keys import namespace_of, scope_of
from roster.bus.mindbus import MindBus
from roster.errors import (
    AllNodesBusyError,
    CallCancelledError,
    CallError,
    CallTimeoutError,
    Code,
    ConfigError,
    DeliveryError,
    InvalidParamsError,
)
from roster.orchestrator.call import Call
from roster.orchestrator.candidates import Candidates
from roster.registry import NodeRecord
from roster.routing.strategies import rendezvous

Urls = tuple[str, str]


@pytest.fixture(autouse=True)
def _state(private_state: Path) -> None:
    """Answers are kept in a directory of this test alone."""


class Team:
    """Nodes with one handler each, and any number of callers."""

    def __init__(self, urls: Urls, stack: AsyncExitStack) -> None:
        self.urls = urls
        self.stack = stack
        self.nodes: dict[str, Node] = {}
        self.done: list[str] = []

    async def add(self, name: str, handler: Callable[..., Any] | None = None, **options: Any) -> Node:
        window = options.pop("answers_window", None)
        node = Node(
            passport(name, "work", **options),
            registry_url=self.urls[0],
            bus_url=self.urls[1],
            answers_window=window,
        )
        node.capability("work")(handler if handler is not None else self._counting(name))
        self.nodes[name] = node
        return await self.stack.enter_async_context(node)

    def _counting(self, name: str) -> Callable[..., Any]:
        async def work(thing: str = "") -> str:
            self.done.append(name)
            return f"{name} did {len(self.done)}"

        return work

    async def caller(self, *names: str, **options: Any) -> Orchestrator:
        orchestrator = await self.stack.enter_async_context(Orchestrator.connect(*self.urls, **options))
        await orchestrator.start()
        wanted = names or tuple(self.nodes)
        await eventually(lambda: all(self.sees(orchestrator, name) for name in wanted))
        return orchestrator

    def sees(self, orchestrator: Orchestrator, name: str, state: str = "ready") -> bool:
        record = orchestrator.node(f"default/{name}")
        return record is not None and record.state == state


@asynccontextmanager
async def team(urls: Urls, *names: str, **options: Any) -> AsyncIterator[Team]:
    async with AsyncExitStack() as stack:
        made = Team(urls, stack)
        for name in names:
            await made.add(name, **options)
        yield made


def key_for(*names: str) -> str:
    """Return a key for which the nodes rank in this order."""
    for number in range(10_000):
        score = rendezvous(scope_of("default", "work", f"key-{number}"))
        if sorted(names, key=lambda name: score(f"default/{name}"), reverse=True) == list(names):
            return f"key-{number}"
    raise AssertionError("no key")


def seen_for_ever(orchestrator: Orchestrator) -> None:
    """As if the caller had watched the team of now for longer than any answer is kept."""
    keys = orchestrator.team.keys
    shift = keys.window + 1
    before = keys.now
    keys.now = lambda: before() + shift


# -- repeats ------------------------------------------------------------------------------------------------------


async def test_a_repeat_brings_the_same_answer_and_does_nothing(urls: Urls) -> None:
    async with team(urls, "a", "b", "c") as made:
        first, second = await made.caller(), await made.caller()
        answers = [await first.call("work", {"thing": "x"}, idempotency_key="k1") for _ in range(3)]
        answers += [await second.call("work", {"thing": "x"}, idempotency_key="k1") for _ in range(3)]
        assert len(made.done) == 1
        assert set(answers) == {f"{made.done[0]} did 1"}
        assert await second.call("work", {"thing": "x"}, idempotency_key="k2") != answers[0]
        answer = await second.ask("work", {"thing": "x"}, idempotency_key="k1")
        assert (answer.node, len(answer.attempts)) == (f"default/{made.done[0]}", 1)
        events = [event async for event in first.stream("work", {"thing": "x"}, idempotency_key="k1")]
        assert [(event.type, event.data) for event in events] == [("result", answers[0])]
    assert len(made.done) == 2


async def test_repeats_at_once_from_several_callers_join_one_execution(urls: Urls) -> None:
    go = asyncio.Event()
    begun: list[str] = []

    async def work() -> str:
        begun.append("x")
        current().progress(step=1)
        await go.wait()
        return "done"

    async with team(urls) as made:
        for name in ("a", "b", "c"):
            await made.add(name, work, at_once=1)
        callers = [await made.caller() for _ in range(4)]
        calls = [
            asyncio.create_task(caller.ask("work", idempotency_key="k", timeout=20))
            for caller in callers
            for _ in range(3)
        ]
        await eventually(lambda: begun)
        await eventually(lambda: sum(_joined(node) for node in made.nodes.values()) == 12)
        go.set()
        answers = await asyncio.gather(*calls)
    assert begun == ["x"]
    assert {answer.result for answer in answers} == {"done"}
    assert all(len(answer.attempts) == 1 for answer in answers)


def _joined(node: Node) -> int:
    assert node._engine is not None
    assert node._engine._keyed is not None
    return sum(len(entry.shared.members) for entry in node._engine._keyed._live.values())


async def test_progress_reaches_all_who_joined(urls: Urls) -> None:
    go = asyncio.Event()

    async def work() -> str:
        await go.wait()
        current().progress(step=2)
        return "done"

    async with team(urls) as made:
        node = await made.add("a", work)
        callers = [await made.caller() for _ in range(2)]
        seen: list[list[dict[str, Any]]] = [[], []]

        def listener(mine: list[dict[str, Any]]) -> Callable[..., None]:
            return lambda _, data: mine.append(dict(data))

        calls = [
            asyncio.create_task(caller.call("work", idempotency_key="k", on_progress=listener(mine)))
            for caller, mine in zip(callers, seen, strict=True)
        ]
        await eventually(lambda: _joined(node) == 2)
        go.set()
        await asyncio.gather(*calls)
    assert seen == [[{"step": 2}], [{"step": 2}]]


async def test_one_who_joined_leaves_alone_and_the_work_ends_with_the_last(urls: Urls) -> None:
    go = asyncio.Event()
    ends: Counter[str] = Counter()

    async def work() -> str:
        try:
            await go.wait()
        except asyncio.CancelledError:
            ends["stopped"] += 1
            raise
        ends["done"] += 1
        return "done"

    async with team(urls) as made:
        node = await made.add("a", work)
        callers = [await made.caller() for _ in range(3)]
        calls = [
            asyncio.create_task(caller.call("work", idempotency_key="k", timeout=timeout))
            for caller, timeout in zip(callers, (20, 20, 3), strict=True)
        ]
        await eventually(lambda: _joined(node) == 3)
        calls[0].cancel()  # the first of all
        with pytest.raises(CallTimeoutError):
            await calls[2]
        await eventually(lambda: _joined(node) == 1)
        assert not ends
        calls[1].cancel()
        await eventually(lambda: ends["stopped"] == 1 and node.active_tasks == 0)
        assert await asyncio.gather(*calls[:2], return_exceptions=True)
        go.set()
        assert await callers[0].call("work", idempotency_key="k", timeout=20) == "done"
    assert ends == {"stopped": 1, "done": 1}, "what was stopped before its end was not done"


async def test_the_work_may_take_as_long_as_the_most_patient_of_those_who_wait(urls: Urls) -> None:
    begun: Counter[str] = Counter()
    go = asyncio.Event()

    async def work() -> str:
        begun["x"] += 1
        await go.wait()
        current().check()
        return "done"

    async with team(urls) as made:
        node = await made.add("a", work)
        hasty, patient = await made.caller(), await made.caller()
        first = asyncio.create_task(hasty.call("work", idempotency_key="k", timeout=3))
        await eventually(lambda: _joined(node) == 1)
        second = asyncio.create_task(patient.call("work", idempotency_key="k", timeout=20))
        await eventually(lambda: _joined(node) == 2)
        with pytest.raises(CallTimeoutError):
            await first
        go.set()
        assert await second == "done"
    assert begun["x"] == 1


async def test_work_that_could_not_be_stopped_is_done_and_its_end_is_kept(urls: Urls) -> None:
    go = threading.Event()
    begun: Counter[str] = Counter()

    def work() -> str:
        begun["x"] += 1
        go.wait(10)
        return "done"

    async with team(urls) as made:
        node = await made.add("a", work)
        caller, other = await made.caller(), await made.caller()
        with pytest.raises(CallTimeoutError):
            await caller.call("work", idempotency_key="k", timeout=0.3)
        await eventually(lambda: node.active_tasks == 0)  # its slot is free, the thread goes on
        late = asyncio.create_task(other.call("work", idempotency_key="k", timeout=20))
        await eventually(lambda: _joined(node) == 1)
        go.set()
        assert await late == "done"
        assert await caller.call("work", idempotency_key="k") == "done"
    assert begun["x"] == 1


# -- whose key it is ----------------------------------------------------------------------------------------------


async def test_callers_of_different_namespaces_never_share_a_key(urls: Urls) -> None:
    async with team(urls, "a", "b") as made:
        red, blue = await made.caller(namespace="red"), await made.caller(namespace="blue")
        plain = await made.caller()
        for _ in range(2):
            answers = {await caller.call("work", idempotency_key="k") for caller in (red, blue, plain)}
            assert len(answers) == 3
        assert len(made.done) == 3
        async with MindBus.connect(made.urls[1], source="/red/somebody") as mindbus:
            for name in ("a", "b"):
                record = plain.node(f"default/{name}")
                assert record is not None
                sent = await mindbus.send_command(
                    record.mindbus_queue, "work", {}, idempotency_key="k", timeout=5
                )
                await sent.result()
        assert len(made.done) == 4, "one of the two had the key of red, the other had not"
    assert namespace_of(red.team.source) == "red"
    assert namespace_of(plain.team.source) == "default"


async def test_a_handler_calls_with_the_keys_of_its_nodes_namespace(urls: Urls) -> None:
    async with team(urls, "a") as made:
        lower = await made.caller()

        async def outer() -> Any:
            return await lower.call("work", idempotency_key="k")

        agent = Node(
            passport("agent", "delegate", namespace="elsewhere"), registry_url=urls[0], bus_url=urls[1]
        )
        agent.capability("delegate")(outer)
        async with agent:
            caller = await made.caller()
            await eventually(lambda: caller.node("elsewhere/agent") is not None)
            await eventually(lambda: caller.node("elsewhere/agent").state == "ready")  # type: ignore[union-attr] # seen above
            inside = await caller.call("delegate")
            assert await lower.call("work", idempotency_key="k") != inside
            elsewhere = await made.caller(namespace="elsewhere")
            assert await elsewhere.call("work", idempotency_key="k") == inside


async def test_a_key_used_with_other_params_is_refused_while_it_runs_and_after(urls: Urls) -> None:
    go = asyncio.Event()

    async def work(thing: str) -> str:
        await go.wait()
        return thing

    async with team(urls) as made:
        node = await made.add("a", work)
        caller = await made.caller()
        first = asyncio.create_task(caller.call("work", {"thing": "x"}, idempotency_key="k"))
        await eventually(lambda: node.active_tasks == 1)
        with pytest.raises(InvalidParamsError, match=r"'k' was used with other params for work: repeat the"):
            await caller.call("work", {"thing": "y"}, idempotency_key="k")
        go.set()
        assert await first == "x"
        with pytest.raises(InvalidParamsError, match="used with other params") as caught:
            await caller.call("work", {"thing": "y"}, idempotency_key="k")
        assert caught.value.outcome == "refused"
        assert await caller.call("work", {"thing": "x"}, idempotency_key="k") == "x"


@pytest.mark.parametrize(
    ("key", "fault"),
    [
        ("", "this one has 0"),
        ("x" * 256, "this one has 256"),
        ("ю" * 128, "this one has 256"),
        ("a\nb", "holds one"),
        ("a\x00", "holds one"),
        ("\x9b31m", "holds one"),
        ("\ud800", "half a surrogate pair"),
        (7, "not int"),
    ],
)
async def test_what_is_no_key_is_said_before_anything_is_sent(
    memory_urls: Urls, key: Any, fault: str
) -> None:
    async with team(memory_urls, "a") as made:
        caller = await made.caller()
        with pytest.raises(ConfigError, match=fault):
            await caller.call("work", idempotency_key=key)
        if key:
            async with MindBus.connect(memory_urls[1]) as mindbus:
                with pytest.raises(ConfigError, match=fault):
                    await mindbus.send_command("agent.a", "work", {}, idempotency_key=key)
    assert made.done == []


async def test_keys_of_every_script_and_of_hostile_looks_are_just_keys(urls: Urls) -> None:
    keys = [
        "x" * 255,
        "ключ-1",
        "../../etc/passwd",
        "'; DROP TABLE answers; --",
        "\u202ek",
        "a/b",
        " ",
        "k",
        "K",
    ]
    async with team(urls, "a", "b") as made:
        caller = await made.caller()
        for _ in range(2):
            answers = {key: await caller.call("work", idempotency_key=key) for key in keys}
        assert len(set(answers.values())) == len(made.done) == len(keys)


async def test_a_node_refuses_hostile_keys_and_recalls_by_itself(file_urls: Urls) -> None:
    async with team(file_urls, "a") as made:
        caller = await made.caller()
        record = caller.node("default/a")
        assert record is not None
        from roster.bus.message import Message, error_from

        command = Message.command("work", {}, key="x" * 300, source="/default/x")
        answer = await (await caller.bus.send(record.mindbus_queue, command)).answer
        error = error_from(answer)
        assert (error.code, error.outcome) == (Code.INVALID_ARGUMENT, "refused")
        async with MindBus.connect(file_urls[1]) as mindbus:
            for scope in (None, 5, "", "../x", "A" * 32, "0" * 33):
                with pytest.raises(CallError, match="32 hexadecimal digits"):
                    await mindbus.send_control(record.mindbus_queue, "recall", {"scope": scope})
            said = await mindbus.send_control(record.mindbus_queue, "recall", {"scope": "0" * 32})
            assert said["known"] == "unknown"
    assert made.done == []


@pytest.mark.parametrize("namespace", ["", "a/b", "Upper", "x" * 64, "a\nb"])
def test_a_callers_namespace_is_a_dns_label(namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from roster.bus.keys import caller_namespace

    with pytest.raises(ConfigError, match="the caller's namespace is a DNS label"):
        caller_namespace(namespace)
    monkeypatch.setenv("ROSTER_NAMESPACE", "red")
    assert caller_namespace() == "red"
    assert namespace_of("") == "default"
    assert namespace_of("https://else.where/x") == "https://else.where/x"
    assert len({scope_of("a", "b", "c"), scope_of("a", "bc", ""), scope_of("ab", "", "c")}) == 3


# -- what is kept -------------------------------------------------------------------------------------------------


async def test_an_error_that_would_come_again_is_kept_and_one_that_may_not_is_tried_again(urls: Urls) -> None:
    raised: Counter[str] = Counter()

    async def work(kind: str) -> str:
        raised[kind] += 1
        if kind == "final":
            raise ValueError("no such thing")
        if raised[kind] == 1:
            raise RemoteError("busy elsewhere", code=Code.UNAVAILABLE, retryable=True)
        return "done"

    async with team(urls) as made:
        for name in ("a", "b", "c"):
            await made.add(name, work)
        caller, other = await made.caller(), await made.caller()
        for one in (caller, other, caller):
            with pytest.raises(RemoteError, match="ValueError: no such thing"):
                await one.call("work", {"kind": "final"}, idempotency_key="k1")
        answer = await caller.ask("work", {"kind": "passing"}, idempotency_key="k2")
        assert [attempt.node for attempt in answer.attempts] == [answer.node] * 2, "the same node again"
        assert await other.call("work", {"kind": "passing"}, idempotency_key="k2") == "done"
    assert raised == {"final": 1, "passing": 2}


async def test_when_the_window_is_over_the_work_is_done_again(urls: Urls) -> None:
    async with team(urls) as made:
        await made.add("a", answers_window=0.2)
        caller = await made.caller()
        assert await caller.call("work", idempotency_key="k") == "a did 1"
        assert await caller.call("work", idempotency_key="k") == "a did 1"
        async with asyncio.timeout(10):
            while await caller.call("work", idempotency_key="k") == "a did 1":
                pass
    assert len(made.done) == 2


async def test_what_cannot_be_written_is_sent_all_the_same_and_the_node_says_so(
    file_urls: Urls, private_state: Path
) -> None:
    private_state.mkdir(exist_ok=True)
    (private_state / "answers").write_text("in the way")
    async with team(file_urls, "a") as made:
        caller = await made.caller()
        assert await caller.call("work", idempotency_key="k") == "a did 1"
        assert await caller.call("work", idempotency_key="k") == "a did 1", "as long as the process lives"

        def condition() -> Any:
            record = caller.node("default/a")
            status = record.status if record is not None else None
            found = [one for one in status.conditions if one.type == "AnswersKept"] if status else []
            return found[0] if found else None

        await eventually(lambda: condition() is not None and condition().status == "False")
        assert "cannot be" in condition().message
        (private_state / "answers").unlink()
        await caller.call("work", idempotency_key="k2")
        await eventually(lambda: condition().status == "True")


async def test_a_kept_answer_that_is_damaged_is_said_and_nothing_is_done_again(
    file_urls: Urls, private_state: Path
) -> None:
    async with team(file_urls, "a") as made:
        caller = await made.caller()
        await caller.call("work", idempotency_key="k")
        with contextlib.closing(sqlite3.connect(private_state / "answers" / "default.a.db")) as db, db:
            db.execute("UPDATE answers SET data = ?", (b'{"result":',))
        with pytest.raises(
            RemoteError, match="was done for this key, but its kept answer is damaged"
        ) as caught:
            await caller.call("work", idempotency_key="k")
        assert caught.value.code is Code.DATA_LOSS
    assert made.done == ["a"]


async def test_a_result_that_cannot_be_sent_is_an_error_that_is_kept(urls: Urls) -> None:
    begun: Counter[str] = Counter()

    async def work() -> Any:
        begun["x"] += 1
        return "x" * 2_000_000

    async with team(urls) as made:
        await made.add("a", work)
        caller = await made.caller()
        for _ in range(2):
            with pytest.raises(RemoteError, match="cannot be sent"):
                await caller.call("work", idempotency_key="k")
    assert begun["x"] == 1


# -- where it goes ------------------------------------------------------------------------------------------------


async def test_a_full_node_is_waited_for(urls: Urls, monkeypatch: pytest.MonkeyPatch) -> None:
    go = asyncio.Event()
    begun: list[str] = []

    def working(name: str) -> Callable[..., Any]:
        async def work() -> str:
            begun.append(name)
            await go.wait()
            return name

        return work

    key = key_for("a", "b")
    async with team(urls) as made:
        nodes = [await made.add(name, working(name), at_once=1) for name in ("a", "b")]
        callers = [await made.caller() for _ in range(2)]
        load = [
            asyncio.create_task(callers[0].call("work", idempotency_key=f"{key}-{number}", timeout=30))
            for number in range(40)
        ]
        await eventually(lambda: nodes[0].active_tasks == 3 and nodes[1].active_tasks == 3)
        with pytest.raises(AllNodesBusyError, match="default/a, which this key of work belongs to, has no"):
            await callers[1].call("work", idempotency_key=key, on_busy="fail")
        with monkeypatch.context() as patch:
            # It waits to its deadline: a try just before that might not be answered any more, and end it otherwise.
            patch.setattr("roster.orchestrator.keyed._LONGEST_WAIT", 60.0)
            patch.setattr(callers[1].team.rng, "uniform", lambda low, high: 60.0)
            with pytest.raises(AllNodesBusyError):
                await callers[1].call("work", idempotency_key=key, timeout=2)
        waiting = asyncio.create_task(callers[1].ask("work", idempotency_key=key, timeout=30))
        await eventually(lambda: callers[1].team.keys.waiting)
        go.set()
        answer = await waiting
        assert answer.node == "default/a"
        assert len(answer.attempts) <= 2, "one line for one wait"
        assert not callers[1].team.keys.waiting
        await asyncio.gather(*load)
    assert len(begun) == 41


async def test_a_new_node_that_outranks_the_executor_does_not_do_it_again(urls: Urls) -> None:
    key = key_for("z", "a", "b")
    async with team(urls, "a", "b") as made:
        old = await made.caller()
        assert await old.call("work", idempotency_key=key) == "a did 1"
        await made.add("z")
        await eventually(lambda: made.sees(old, "z"))
        fresh, third = await made.caller(), await made.caller()
        seen_for_ever(third)
        assert await old.call("work", idempotency_key=key) == "a did 1", "it remembers"
        assert await fresh.call("work", idempotency_key=key) == "a did 1", "it asks"
        assert fresh.team.keys.asked
        assert await third.call("work", idempotency_key=key) == "z did 2", "what is sure after a whole window"
        assert third.team.keys.asked == 0


async def test_a_new_node_that_outranks_does_not_begin_what_runs_elsewhere(urls: Urls) -> None:
    go = asyncio.Event()
    begun: list[str] = []

    def working(name: str) -> Callable[..., Any]:
        async def work() -> str:
            begun.append(name)
            await go.wait()
            return name

        return work

    async with team(urls) as made:
        for name in ("a", "b"):
            await made.add(name, working(name))
        caller = await made.caller()
        first = asyncio.create_task(caller.call("work", idempotency_key=key_for("z", "a", "b")))
        await eventually(lambda: begun)
        await made.add("z", working("z"))
        await eventually(lambda: made.sees(caller, "z"))
        repeats = [
            asyncio.create_task(one.call("work", idempotency_key=key_for("z", "a", "b")))
            for one in (caller, await made.caller())
        ]
        await eventually(lambda: _joined(made.nodes["a"]) == 3)
        go.set()
        assert await asyncio.gather(first, *repeats) == ["a"] * 3
    assert begun == ["a"]


class Step:
    """One call with a key, taken choice by choice."""

    def __init__(self, call: Call) -> None:
        assert call.keyed is not None
        self.call, self.keyed, self.candidates = call, call.keyed, Candidates(call)

    @classmethod
    async def of(cls, caller: Orchestrator, key: str) -> Step:
        return cls(await caller.prepare("work", {}, idempotency_key=key))

    async def choose(self) -> NodeRecord:
        node = await self.keyed.choose(self.candidates)
        assert node is not None
        return node


async def given_to_b(caller: Orchestrator, key: str) -> None:
    """Have b do it, as a caller does that has passed a over."""
    node = caller.node("default/b")
    assert node is not None
    await (await Step.of(caller, key)).call.once(node)


async def test_others_are_asked_again_when_the_first_in_rank_was_out_of_reach(urls: Urls) -> None:
    key = key_for("a", "b")
    async with team(urls, "a", "b") as made:
        caller, other = await made.caller(), await made.caller()
        caller.team.keys.now = lambda: 0.0  # what was heard never grows old
        step = await Step.of(caller, key)
        first = await step.choose()
        assert first.key == "default/a", "b does not know it yet"
        await given_to_b(other, key)
        step.keyed.cut = True
        error = DeliveryError("its consumer is gone", outcome="refused")
        await step.keyed.refused(first, error, step.candidates)
        assert (await step.choose()).key == "default/b"
    assert made.done == ["b"]


async def test_a_node_that_was_out_of_reach_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roster.orchestrator.keyed._ABSENCE", 0.0)  # it is taken for dead at once
    done: list[str] = []
    key = key_for("a", "b")
    async with testing.Team() as made, Orchestrator.connect(made.registry_url, made.bus_url) as other:
        await made.add("work", lambda: done.append("a"), name="a")
        second = await made.add("work", lambda: done.append("b"), name="b")
        await other.start()
        made.orchestrator.team.keys.now = lambda: 0.0
        step = await Step.of(made.orchestrator, key)
        async with second.unreachable():
            assert (await step.choose()).key == "default/a"
        await given_to_b(other, key)
        assert (await step.choose()).key == "default/b"
    assert done == ["b"]


async def test_a_node_that_comes_while_others_are_asked_is_ranked(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = key_for("a", "b", "c")
    async with team(urls, "b", "c") as made:
        caller = await made.caller()
        step = await Step.of(caller, key)
        ask = caller.team.keys.ask

        async def slowly(*question: Any) -> Any:
            if "a" not in made.nodes:
                await made.add("a")
                await eventually(lambda: made.sees(caller, "a"))
            return await ask(*question)

        monkeypatch.setattr(caller.team.keys, "ask", slowly)
        assert await step.keyed.choose(step.candidates) is None
        assert (await step.choose()).key == "default/a"


async def test_a_question_that_nobody_answers_ends_with_the_deadline(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roster.orchestrator.keyed.ANSWER_SECONDS", 3600.0)
    monkeypatch.setattr("roster.node.keyed.Keyed.recall", lambda keyed, delivery: None)
    async with team(urls, "a", "b") as made:
        caller = await made.caller()
        async with asyncio.timeout(30):
            with pytest.raises(CallTimeoutError, match="has not answered"):
                await caller.call("work", timeout=0.1, idempotency_key=key_for("a", "b"))
    assert made.done == []


async def test_in_a_team_that_does_not_change_nobody_is_asked(urls: Urls) -> None:
    async with team(urls, "a", "b", "c") as made:
        caller = await made.caller()
        seen_for_ever(caller)
        for number in range(5):
            await caller.call("work", idempotency_key=f"k{number}")
        assert caller.team.keys.asked == 0
        await made.nodes["b"].update(labels={"new": "label"})
        await eventually(lambda: caller.node("default/b").labels == {"new": "label"})  # type: ignore[union-attr] # it is there
        await caller.call("work", idempotency_key=key_for("b", "a", "c"))
        assert caller.team.keys.asked == 1, "who has changed may be a candidate of late"


async def test_a_node_that_leaves_finishes_it_for_those_who_repeat(urls: Urls) -> None:
    go = asyncio.Event()
    begun: list[str] = []

    def working(name: str) -> Callable[..., Any]:
        async def work() -> str:
            begun.append(name)
            await go.wait()
            return name

        return work

    key = key_for("a", "b")
    async with team(urls) as made:
        for name in ("a", "b"):
            await made.add(name, working(name))
        caller, other = await made.caller(), await made.caller()
        first = asyncio.create_task(caller.call("work", idempotency_key=key))
        await eventually(lambda: begun)
        stopping = asyncio.create_task(made.nodes["a"].stop())
        await eventually(lambda: made.sees(other, "a", "draining") and made.sees(caller, "a", "draining"))
        repeats = [asyncio.create_task(one.call("work", idempotency_key=key)) for one in (caller, other)]
        await eventually(lambda: _joined(made.nodes["a"]) == 3)
        go.set()
        assert await asyncio.gather(first, *repeats) == ["a"] * 3
        await stopping
        assert await other.call("work", idempotency_key=key_for("b")) == "b"
    assert begun[0] == "a"


async def test_a_paused_node_still_answers_what_it_has_kept(urls: Urls) -> None:
    key = key_for("a", "b")
    async with team(urls, "a", "b") as made:
        caller, other = await made.caller(), await made.caller()
        assert await caller.call("work", idempotency_key=key) == "a did 1"
        record = caller.node("default/a")
        assert record is not None
        async with MindBus.connect(urls[1]) as mindbus:
            await mindbus.send_control(record.mindbus_queue, "pause")
        await eventually(lambda: made.sees(caller, "a", "draining") and made.sees(other, "a", "draining"))
        assert await caller.call("work", idempotency_key=key) == "a did 1"
        assert await other.call("work", idempotency_key=key) == "a did 1"
        assert await other.call("work", idempotency_key=f"{key}-x") == "b did 2", "new work goes elsewhere"


async def test_a_restarted_node_answers_what_it_kept_before(file_urls: Urls) -> None:
    async with team(file_urls) as made:
        caller = await made.caller()
        for turn in range(2):
            async with AsyncExitStack() as life:
                again = Team(file_urls, life)
                again.done = made.done
                await again.add("a")
                uid = again.nodes["a"].uid
                await eventually(lambda uid=uid: getattr(caller.node("default/a"), "uid", "") == uid)  # type: ignore[misc] # a lambda's default
                assert await caller.call("work", idempotency_key="k", timeout=10) == "a did 1", turn
    assert made.done == ["a"]


async def test_a_call_with_a_key_is_never_hedged(urls: Urls) -> None:
    begun: list[str] = []
    go = asyncio.Event()

    def working(name: str) -> Callable[..., Any]:
        async def work() -> str:
            begun.append(name)
            await go.wait()
            return name

        return work

    capability = {"name": "work", "idempotent": True}
    async with AsyncExitStack() as stack:
        for name in ("a", "b"):
            node = Node(passport(name, capability), registry_url=urls[0], bus_url=urls[1])
            node.capability("work")(working(name))
            await stack.enter_async_context(node)
        caller = await stack.enter_async_context(Orchestrator.connect(*urls))
        await caller.start()
        await eventually(lambda: len(caller.team._nodes) == 2)
        call = asyncio.create_task(caller.call("work", idempotency_key=key_for("a", "b")))
        await eventually(lambda: begun)
        record = caller.node("default/a")
        assert record is not None
        caller.team.vigil._on_silence(record)
        hedges = [task for one in caller.team.vigil._open if (task := one.hedge) is not None]
        assert hedges, "it was asked to hedge, and finds nobody who may have it"
        await asyncio.wait(hedges, timeout=2)
        go.set()
        assert await call == "a"
    assert begun == ["a"]


async def test_closing_the_node_hands_joined_work_back(urls: Urls) -> None:
    begun = asyncio.Event()

    async def work() -> None:
        begun.set()
        await asyncio.sleep(60)

    async with team(urls) as made:
        node = await made.add("a", work)
        caller = await made.caller()
        calls = [asyncio.create_task(caller.call("work", idempotency_key="k", timeout=20)) for _ in range(2)]
        await eventually(lambda: _joined(node) == 2)
        await begun.wait()  # what has not begun is handed back as refused, and goes elsewhere
        await node.stop(grace=0)
        for call in calls:
            with pytest.raises(CallCancelledError):
                await call
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*calls, return_exceptions=True)
