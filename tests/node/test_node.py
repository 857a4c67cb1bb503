"""A node serves what its passport declares, and leaves in good order."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from tests.conftest import eventually, passport

from roster import Context, Node, Orchestrator, Registry, current
from roster.bus.mindbus import MindBus
from roster.errors import (
    CallCancelledError,
    CallError,
    CallTimeoutError,
    Code,
    DeliveryError,
    InvalidParamsError,
    InvalidResultError,
    NameConflictError,
    NodeError,
    RemoteError,
)

Urls = tuple[str, str]


def make(urls: Urls, *capabilities: Any, name: str = "writer-001", at_once: int = 3, **options: Any) -> Node:
    return Node(
        passport(name, *(capabilities or ("work",)), at_once=at_once),
        registry_url=urls[0],
        bus_url=urls[1],
        **options,
    )


async def test_async_and_plain_functions_serve_and_params_of_all_scripts_go_through(urls: Urls) -> None:
    node = make(urls, "work", "block")

    @node.capability("work")
    async def work(text: str) -> dict[str, Any]:
        return {"text": text, "loop": threading.current_thread() is threading.main_thread()}

    @node.capability("block")
    def block(text: str) -> dict[str, Any]:
        return {"text": text, "loop": threading.current_thread() is threading.main_thread()}

    async with node, Orchestrator.connect(*urls) as orchestrator:
        text = "пчёлы 🐝 \u202e \x1b[31m ' \" \\ \x00 end"
        assert await orchestrator.call("work", {"text": text}) == {"text": text, "loop": True}
        assert await orchestrator.call("block", {"text": text}) == {"text": text, "loop": False}


async def test_a_capability_without_handler_and_a_handler_without_capability_are_errors(urls: Urls) -> None:
    node = make(urls, "work", "rest")
    with pytest.raises(NodeError, match="does not declare the capability 'sleep'"):
        node.capability("sleep")
    node.capability("work")(lambda: None)
    with pytest.raises(NodeError, match="two handlers"):
        node.capability("work")
    with pytest.raises(NodeError, match="declares 'rest', and nothing serves it"):
        await node.start()
    assert node.state == "offline"


async def test_no_more_commands_run_at_once_than_the_passport_says_and_the_rest_waits_in_order(
    urls: Urls,
) -> None:
    node = make(urls, at_once=2)
    running, most, order = 0, 0, []

    @node.capability("work")
    async def work(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        order.append(number)
        await asyncio.sleep(0.01)
        running -= 1
        return number

    async with node, MindBus.connect(urls[1]) as mindbus:
        queue = node.passport.mindbus_queue
        answers = [
            await mindbus.send_command(queue=queue, action="work", params={"number": n}) for n in range(4)
        ]
        assert [await answer.result(timeout=5) for answer in answers] == [0, 1, 2, 3]
    assert most == 2
    assert order == [0, 1, 2, 3]


async def test_a_full_node_refuses_at_once_and_tells_its_load(urls: Urls) -> None:
    node, go = make(urls, at_once=1), asyncio.Event()

    @node.capability("work")
    async def work() -> None:
        await go.wait()

    async with node, MindBus.connect(urls[1]) as mindbus:
        queue = node.passport.mindbus_queue
        held = [await mindbus.send_command(queue=queue, action="work", params={}) for _ in range(3)]
        refused = await mindbus.send_command(queue=queue, action="work", params={})
        with pytest.raises(DeliveryError, match="full") as caught:
            await refused.result(timeout=5)
        assert caught.value.code is Code.RESOURCE_EXHAUSTED
        assert caught.value.outcome == "refused"
        go.set()
        for answer in held:
            await answer.result(timeout=5)


async def test_what_waits_runs_by_priority(urls: Urls) -> None:
    node, go, order = make(urls, at_once=1), asyncio.Event(), []

    @node.capability("work")
    async def work(name: str) -> None:
        order.append(name)
        await go.wait()

    async with node, MindBus.connect(urls[1]) as mindbus:
        answers = [
            await mindbus.send_command(
                queue=node.passport.mindbus_queue, action="work", params={"name": name}, priority=priority
            )
            for name, priority in (("first", 0), ("low", 1), ("high", 8))
        ]
        await eventually(lambda: node.active_tasks == 3)
        go.set()
        for answer in answers:
            await answer.result(timeout=5)
    assert order == ["first", "high", "low"]


async def test_params_and_results_are_held_against_their_schemas_at_the_node(urls: Urls) -> None:
    node = make(urls, {"name": "work", "input_schema": {"n": "integer"}, "output_schema": {"text": "string"}})

    @node.capability("work")
    async def work(n: int) -> dict[str, Any]:
        return {"text": n}

    async with node, MindBus.connect(urls[1]) as mindbus:
        queue = node.passport.mindbus_queue
        answer = await mindbus.send_command(queue=queue, action="work", params={"n": "one", "x": 1})
        with pytest.raises(InvalidParamsError, match=r"n.*x|x.*n") as caught:
            await answer.result(timeout=5)
        assert caught.value.outcome == "refused"
        answer = await mindbus.send_command(queue=queue, action="work", params={"n": 1})
        with pytest.raises(InvalidResultError, match="text"):
            await answer.result(timeout=5)


async def test_what_a_handler_raises_is_what_its_caller_hears(
    urls: Urls, caplog: pytest.LogCaptureFixture
) -> None:
    node = make(urls)

    @node.capability("work")
    async def work(how: str) -> Any:
        if how == "plain":
            raise KeyError("missing")
        if how == "exit":
            raise SystemExit(3)
        if how == "deep":
            value: list[Any] = []
            for _ in range(200):
                value = [value]
            return value
        if how == "huge":
            return "x" * (2 * 1024 * 1024)
        raise RemoteError("no such topic", code=Code.NOT_FOUND, details={"topic": "x"})

    async with node, MindBus.connect(urls[1]) as mindbus:

        async def ask(how: str) -> CallError:
            answer = await mindbus.send_command(
                queue=node.passport.mindbus_queue, action="work", params={"how": how}
            )
            with pytest.raises(CallError) as caught:
                await answer.result(timeout=5)
            return caught.value

        assert "KeyError: 'missing'" in str(await ask("plain"))
        assert "SystemExit" in str(await ask("exit"))
        assert "cannot be sent" in str(await ask("deep"))
        assert "cannot be sent" in str(await ask("huge"))
        error = await ask("coded")
        assert isinstance(error, RemoteError)
        assert (error.code, error.details, error.retryable) == (Code.NOT_FOUND, {"topic": "x"}, False)
    assert "KeyError" in caplog.text


async def test_a_deadline_stops_the_handler_and_frees_its_slot_even_if_it_hangs(urls: Urls) -> None:
    node = make(urls, "work", "hang", at_once=1)
    stopped, release = asyncio.Event(), threading.Event()

    @node.capability("work")
    async def work() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            stopped.set()
            raise
        return "never"

    @node.capability("hang")
    def hang() -> str:
        release.wait(30)
        return "too late"

    async with node, Orchestrator.connect(*urls) as orchestrator:
        with pytest.raises(CallTimeoutError):
            await orchestrator.call("work", timeout=2)
        await asyncio.wait_for(stopped.wait(), 5)
        with pytest.raises(CallTimeoutError):
            await orchestrator.call("hang", timeout=0.1)
        # The thread still hangs; the slot is free all the same.
        await eventually(lambda: node.active_tasks == 0)
        with pytest.raises(CallTimeoutError):
            await orchestrator.call("work", timeout=0.1)
        release.set()


async def test_a_command_taken_back_stops_before_and_after_its_start(urls: Urls) -> None:
    node, begun, stopped = make(urls, at_once=1), [], []

    @node.capability("work")
    async def work(name: str) -> None:
        begun.append(name)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            stopped.append(name)
            raise

    async with node, MindBus.connect(urls[1]) as mindbus:
        queue = node.passport.mindbus_queue
        first = await mindbus.send_command(queue=queue, action="work", params={"name": "first"})
        second = await mindbus.send_command(queue=queue, action="work", params={"name": "second"})
        await eventually(lambda: begun == ["first"] and node.active_tasks == 2)
        second.cancel()
        await eventually(lambda: node.active_tasks == 1)
        first.cancel()
        await eventually(lambda: node.active_tasks == 0 and stopped == ["first"])
    assert begun == ["first"]


async def test_a_plain_function_learns_that_it_was_stopped_when_it_looks(urls: Urls) -> None:
    node, seen = make(urls), threading.Event()

    @node.capability("work")
    def work() -> None:
        context = current()
        while True:
            try:
                context.check()
            except (CallCancelledError, CallTimeoutError):
                seen.set()
                raise
            time.sleep(0.002)  # reason: a handler that works without awaiting

    async with node, Orchestrator.connect(*urls) as orchestrator:
        with pytest.raises(CallTimeoutError):
            await orchestrator.call("work", timeout=2)
        await eventually(seen.is_set)


async def test_progress_reaches_the_caller_before_the_result(urls: Urls) -> None:
    node = make(urls)

    @node.capability("work")
    async def work(context: Context) -> str:
        for percent in (10, 50):
            context.progress(percent=percent)
        return "done"

    async with node, Orchestrator.connect(*urls) as orchestrator:
        events = [event async for event in orchestrator.stream("work")]
    assert [(event.type, event.data) for event in events] == [
        ("progress", {"percent": 10}),
        ("progress", {"percent": 50}),
        ("result", "done"),
    ]
    assert {event.node for event in events} == {"default/writer-001"}


async def test_a_node_reports_busy_and_ready_by_itself(urls: Urls) -> None:
    node, go = make(urls, at_once=1), asyncio.Event()

    @node.capability("work")
    async def work() -> None:
        await go.wait()

    async with node, Registry.connect(urls[0]) as registry, Orchestrator.connect(*urls) as orchestrator:
        await registry.synced()

        async def state() -> str:
            return (await registry.get("writer-001")).state

        async def until(wanted: str) -> None:
            async with asyncio.timeout(10):
                async for _ in registry.watch():
                    if await state() == wanted:
                        return

        await until("ready")
        call = asyncio.create_task(orchestrator.call("work"))
        await until("busy")
        go.set()
        await call
        await until("ready")


async def test_a_stopped_node_finishes_what_runs_hands_back_what_waits_and_is_gone(urls: Urls) -> None:
    node, begun, go = make(urls, at_once=1), asyncio.Event(), asyncio.Event()

    @node.capability("work")
    async def work() -> str:
        begun.set()
        await go.wait()
        return "finished"

    await node.start()
    async with MindBus.connect(urls[1]) as mindbus, Registry.connect(urls[0]) as registry:
        await registry.synced()
        queue = node.passport.mindbus_queue
        running = await mindbus.send_command(queue=queue, action="work", params={})
        waiting = await mindbus.send_command(queue=queue, action="work", params={})
        await begun.wait()
        await eventually(lambda: node.active_tasks == 2)
        stopping = asyncio.create_task(node.stop())
        with pytest.raises(DeliveryError) as caught:
            await waiting.result(timeout=5)
        assert caught.value.outcome == "refused"
        go.set()
        assert await running.result(timeout=5) == "finished"
        assert await stopping
        await eventually(lambda: registry.informer.get("default/writer-001") is None)


async def test_work_that_outlives_the_grace_is_cancelled_and_said(urls: Urls) -> None:
    node = make(urls, grace=0.05)

    @node.capability("work")
    async def work() -> None:
        await asyncio.sleep(60)

    await node.start()
    async with MindBus.connect(urls[1]) as mindbus:
        answer = await mindbus.send_command(queue=node.passport.mindbus_queue, action="work", params={})
        await eventually(lambda: node.active_tasks == 1)
        assert not await node.stop()
        with pytest.raises(CallError):
            await answer.result(timeout=5)


async def test_a_command_for_another_incarnation_is_refused(urls: Urls) -> None:
    node = make(urls)
    node.capability("work")(lambda: "done")
    async with node, MindBus.connect(urls[1]) as mindbus:
        queue = node.passport.mindbus_queue
        answer = await mindbus.send_command(queue=queue, action="work", params={}, uid="of-the-past")
        with pytest.raises(DeliveryError, match="another incarnation") as caught:
            await answer.result(timeout=5)
        assert caught.value.outcome == "refused"
        answer = await mindbus.send_command(queue=queue, action="work", params={}, uid=node.uid)
        assert await answer.result(timeout=5) == "done"


async def test_two_nodes_of_one_name_are_one_too_many_unless_one_takes_over(urls: Urls) -> None:
    first, second = make(urls, ttl=6), make(urls, ttl=6)
    third = make(urls, takeover=True, ttl=6)
    for node in (first, second, third):
        node.capability("work")(lambda: "done")
    ended: list[BaseException | None] = []

    async def serve() -> None:
        try:
            await first.serve()
            ended.append(None)
        except NameConflictError as error:
            ended.append(error)

    serving = asyncio.create_task(serve())
    await eventually(lambda: first.state == "ready")
    with pytest.raises(NameConflictError):
        await second.start()
    assert second.state == "offline"
    await third.start()
    await asyncio.wait_for(serving, 20)
    assert isinstance(ended[0], NameConflictError)
    async with Orchestrator.connect(*urls) as orchestrator:
        assert await orchestrator.call("work", timeout=5) == "done"
    await third.stop()


async def test_control_signals_pause_resume_stop_and_are_confirmed(urls: Urls) -> None:
    node = make(urls)
    heard: list[dict[str, Any]] = []

    @node.capability("work")
    async def work(seconds: float = 0.0) -> str:
        await asyncio.sleep(seconds)
        return "done"

    @node.signal("config")
    def config(data: dict[str, Any]) -> dict[str, Any]:
        heard.append(data)
        return {"taken": True}

    with pytest.raises(NodeError, match="served already"):
        node.signal("stop")

    async with node, MindBus.connect(urls[1]) as mindbus, Orchestrator.connect(*urls) as orchestrator:
        queue = node.passport.mindbus_queue
        assert (await mindbus.send_control(queue, "ping"))["node"] == node.key
        await mindbus.send_control(queue, "pause")
        assert node.state == "draining"
        answer = await mindbus.send_command(queue=queue, action="work", params={})
        with pytest.raises(DeliveryError, match="paused"):
            await answer.result(timeout=5)
        await mindbus.send_control(queue, "resume")
        assert (
            await (await mindbus.send_command(queue=queue, action="work", params={})).result(timeout=5)
            == "done"
        )
        long = await mindbus.send_command(queue=queue, action="work", params={"seconds": 60})
        await eventually(lambda: node.active_tasks == 1)
        await mindbus.send_control(queue, "stop")
        with pytest.raises(CallCancelledError):
            await long.result(timeout=5)
        await mindbus.send_control(queue, "resume")
        assert await mindbus.send_control(queue, "config", {"depth": 3}) == {"taken": True}
        assert heard[0]["depth"] == 3
        with pytest.raises(RemoteError, match="does not know the signal"):
            await mindbus.send_control(queue, "dance")
        assert await orchestrator.call("work", timeout=5) == "done"


async def test_conditions_and_labels_change_while_it_serves(urls: Urls) -> None:
    node = make(urls)
    node.capability("work")(lambda: "done")
    with pytest.raises(NodeError, match="not running"):
        node.set_condition("Warm", "True")
    async with node, Registry.connect(urls[0]) as registry:
        await registry.synced()
        node.set_condition("ModelLoaded", "False", "Loading", "the model is being loaded")
        await node.update(labels={"tier": "gold"})
        async with asyncio.timeout(10):
            async for _ in registry.watch():
                record = await registry.get("writer-001")
                shown = record["status"].get("conditions", [])
                if record.labels == {"tier": "gold"} and any(one["type"] == "ModelLoaded" for one in shown):
                    break
        assert node.passport.labels == {"tier": "gold"}


async def test_a_handler_that_blocks_the_loop_does_not_stop_the_answers_of_others(urls: Urls) -> None:
    node = make(urls, "block", "plain")
    blocked, release = threading.Event(), threading.Event()

    @node.capability("block")
    async def block() -> str:
        blocked.set()
        release.wait(20)
        return "done"

    @node.capability("plain")
    def plain() -> str:
        return "from a thread"

    def elsewhere() -> None:
        from roster import sync

        with sync.Orchestrator.connect(*urls) as orchestrator:
            caller = threading.Thread(target=lambda: answers.append(orchestrator.call("block", timeout=20)))
            caller.start()
            blocked.wait(10)
            answers.append(orchestrator.call("plain", timeout=5))
            release.set()
            caller.join(20)

    answers: list[Any] = []
    thread = threading.Thread(target=elsewhere)
    async with node:
        thread.start()
        await eventually(lambda: not thread.is_alive(), 30)
    assert answers == ["from a thread", "done"]


async def test_a_node_lets_go_of_the_loop_when_it_stops(memory_urls: Urls) -> None:
    selector = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]  # what a node listens at
    before = selector.select
    for _ in range(3):
        node = make(memory_urls)
        node.capability("work")(lambda: "done")
        async with node:
            assert selector.select != before
        assert selector.select == before
    node = make(memory_urls)
    with pytest.raises(NodeError):
        await node.start()  # it has no handler
    assert selector.select == before


def in_state(orchestrator: Orchestrator, state: str) -> bool:
    record = orchestrator.node("default/writer-001")
    return record is not None and record.state == state


async def test_what_a_node_reports_first_is_newer_than_that_it_is_ready(urls: Urls) -> None:
    go = asyncio.Event()
    node = make(urls, at_once=1)

    @node.capability("work")
    async def work() -> None:
        await go.wait()

    async with node, Orchestrator.connect(*urls) as caller, Orchestrator.connect(*urls) as other:
        await other.start()
        for _ in range(3):
            # Each change of state has a number, too: they must not outrun what the node says of its load.
            await caller.control("drain", nodes=[node.key])
            await caller.control("undrain", nodes=[node.key])
        await eventually(lambda: in_state(other, "ready"))
        call = asyncio.create_task(caller.call("work", timeout=20))
        await eventually(lambda: call.done() or in_state(other, "busy"))
        assert not call.done(), call
        load = other.team.router.load(node.key)
        assert load is not None
        assert (load.active, load.others) == (1, 1)
        go.set()
        await call
