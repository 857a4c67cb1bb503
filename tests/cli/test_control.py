"""`control` pauses, resumes and stops running nodes, and says who has not confirmed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from tests.cli.conftest import Result, Stage, editor, ended, roster, writer
from tests.cli.test_hostile import ATTACK
from tests.cli.test_tap import over, tapping
from tests.cli.test_watch import lines
from tests.conftest import eventually, passport
from tests.engines import own_bus
from tests.faults.stage import until_hands

from roster import MindBus, Node, Orchestrator, Registry
from roster.bus import Message


def _status(key: str) -> tuple[str, dict[str, str]]:
    status = roster("get", "node", key, "-o", "json").json["status"]
    return status["state"], {one["type"]: one["status"] for one in status.get("conditions", [])}


def test_a_paused_node_gets_no_work_until_it_is_resumed(stage: Stage) -> None:
    stage.start(writer, "writer-001")

    assert roster("control", "pause", "node/writer-001", "-n", "ai-team") == Result(
        0, "node/writer-001 paused\n", ""
    )
    assert _status("ai-team/writer-001") == ("draining", {"TakesWork": "False"})
    assert "TakesWork=False" in roster("get", "nodes", "-A", "-o", "wide").out
    refused = roster("call", "write_article", "-p", "topic=x", "--timeout", "1s")
    assert (refused.status, "state draining" in refused.err) == (7, True)

    assert roster("control", "resume", "ai-team/writer-001") == Result(0, "node/writer-001 resumed\n", "")
    assert _status("ai-team/writer-001") == ("ready", {})
    assert roster("call", "write_article", "-p", "topic=x").status == 0


def test_what_runs_is_finished_and_what_waits_is_handed_back(stage: Stage) -> None:
    release = asyncio.Event()

    def slow(name: str, **options: str) -> Node:
        node = Node(passport(name, "work", at_once=1), registry_url=stage.url, bus_url=stage.url)
        node.capability("work")(until_released(release))
        return node

    node = stage.start(slow, "slow")

    async def play() -> tuple[str, str]:
        async with Orchestrator.connect(stage.url, stage.url) as orchestrator:
            queue = node.passport.mindbus_queue
            runs = await orchestrator.bus.send(queue, Message.command("work", timeout=30))
            waits = await orchestrator.bus.send(queue, Message.command("work", timeout=30))
            await eventually(lambda: node.active_tasks == 2)
            (said,) = await orchestrator.control("pause", nodes=["slow"])
            assert said.result["active_tasks"] == 1
            refused = await asyncio.wait_for(waits.answer, 10)
            assert (refused.data["outcome"], "is paused" in refused.data["message"]) == ("refused", True)
            release.set()
            return (await asyncio.wait_for(runs.answer, 10)).data["result"], node.state

    assert stage.thread.run(play(), timeout=30) == ("done", "draining")


def until_released(release: asyncio.Event) -> Callable[[], Coroutine[None, None, str]]:
    """Return a handler that ends when it is released."""

    async def work() -> str:
        await release.wait()
        return "done"

    return work


def test_nodes_are_chosen_by_selector_or_all_of_a_namespace(stage: Stage) -> None:
    stage.start(writer, "writer-001")
    stage.start(writer, "writer-002", document={"labels": {"role": "poet"}})
    stage.start(editor, "editor-001")

    assert roster("control", "pause", "-l", "role=poet", "-A").out == "node/writer-002 paused\n"
    assert roster("control", "pause", "--all").out == "node/editor-001 paused\n"
    assert _status("ai-team/writer-001")[0] == "ready"
    everybody = roster("control", "resume", "--all", "-A", "-o", "json")
    assert everybody.json["signal"] == "resume"
    assert [one["node"] for one in everybody.json["confirmed"]] == [
        "ai-team/writer-001", "ai-team/writer-002", "default/editor-001",
    ]  # fmt: skip
    assert everybody.json["silent"] == []
    nobody = roster("control", "pause", "-l", "role=singer", "-A")
    assert nobody.status == 5
    assert "no node that is not offline matches 'role=singer'" in nobody.err
    assert roster("control", "pause", "nobody").status == 5


def test_who_does_not_confirm_is_named_and_the_status_tells(stage: Stage) -> None:
    stage.start(editor, "editor-001")
    stage.put({**passport("deaf", "work"), "status": {"state": "ready"}})

    result = roster("control", "pause", "--all", "--timeout", "5s")
    assert (result.status, result.out) == (6, "node/editor-001 paused\n")
    assert result.err == (
        f"warning: default/deaf hears nothing: nobody listens in its place on the bus {stage.url}\n"
        "error: 1 of 2 nodes not paused: default/deaf\n"
    )

    stage.put({**passport("mute", "work"), "status": {"state": "ready"}})
    mute = stage.thread.run(_listening_and_silent(stage.url, "mute"), timeout=10)
    result = roster("control", "pause", "mute", "editor-001", "--timeout", "300ms", "-o", "json")
    stage.thread.run(mute.close(), timeout=10)
    assert result.status == 10
    assert [one["node"] for one in result.json["confirmed"]] == ["default/editor-001"]
    assert result.json["silent"] == [
        {
            "node": "default/mute",
            "code": "DEADLINE_EXCEEDED",
            "error": "default/mute has not confirmed 'pause' within 0.3 s",
        }
    ]
    assert result.err == "error: 1 of 2 nodes not paused: default/mute\n"


async def _listening_and_silent(url: str, name: str) -> MindBus:
    """Have somebody listen in a node's place who says nothing."""
    mindbus = await MindBus.connect(url)
    await mindbus.bus.serve(name, lambda _: None, bindings=[f"ctl.{name}.default"])
    return mindbus


def test_a_signal_to_an_incarnation_that_is_gone_is_refused_by_the_next(stage: Stage) -> None:
    node = stage.start(editor, "editor-001")

    async def late() -> tuple[str, str]:
        async with MindBus.connect(stage.url) as mindbus:
            replies: list[str] = []
            await mindbus.bus.publish(
                "ctl.editor-001.default",
                Message.control("pause", uid="of-another"),
                on_reply=lambda reply: replies.append(reply.data["message"]),
            )
            await eventually(lambda: replies)
            return replies[0], node.state

    said, state = stage.thread.run(late(), timeout=10)
    assert "another incarnation than the one this control is meant for" in said
    assert state == "ready"


def test_control_to_all_of_a_namespace_reaches_no_other(stage: Stage) -> None:
    stage.start(writer, "writer-001")
    stage.start(editor, "editor-001")

    async def ask(target: str, namespace: str) -> set[str]:
        async with MindBus.connect(stage.url) as mindbus:
            replies: set[str] = set()
            handed = await mindbus.publish_control(
                target, namespace, "ping", on_reply=lambda reply: replies.add(reply.source)
            )
            await eventually(lambda: len(replies) == handed)
            return replies

    assert stage.thread.run(ask("all", "ai-team"), timeout=10) == {"/ai-team/writer-001"}
    assert stage.thread.run(ask("all", "all"), timeout=10) == {"/ai-team/writer-001", "/default/editor-001"}
    assert stage.thread.run(ask("writer-001", "default"), timeout=10) == set()


def test_resuming_a_drained_node_says_what_keeps_it_from_work(stage: Stage) -> None:
    stage.start(writer, "writer-001")
    roster("drain", "ai-team/writer-001")
    roster("control", "pause", "ai-team/writer-001")

    result = roster("control", "resume", "ai-team/writer-001")
    assert (result.status, result.out) == (0, "node/writer-001 resumed\n")
    assert result.err == "warning: ai-team/writer-001 still takes no new work: drain: see 'roster undrain'\n"
    assert _status("ai-team/writer-001")[0] == "draining"
    assert roster("undrain", "ai-team/writer-001").err == ""
    assert _status("ai-team/writer-001") == ("ready", {})


def test_a_node_that_its_program_runs_otherwise_does_not_promise_to_end(stage: Stage) -> None:
    node = stage.start(writer, "writer-001")

    result = roster("control", "stop", "ai-team/writer-001")
    assert result.status == 6
    assert "cannot end by a signal" in result.err
    assert node.state == "ready"


# -- processes ----------------------------------------------------------------------------------------------------

_AGENT = """
import asyncio, sys
from roster import Node
node = Node(dict(apiVersion="ai-team.dev/v1", kind="NodePassport", metadata=dict(name=sys.argv[1], labels=dict(role="r")),
    spec=dict(type="agent", capabilities=[dict(name="work")], resources=dict(max_concurrent_tasks=1))))
@node.capability("work")
async def work(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return node.passport.name
node.run()
"""


@pytest.fixture(params=["local", "amqp"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """A registry file, and a bus of each engine."""
    bus = own_bus() if request.param == "amqp" else f"local://{tmp_path}/bus"
    return f"sqlite://{tmp_path}/registry.db", bus


@asynccontextmanager
async def agents(urls: tuple[str, str], *names: str) -> AsyncIterator[list[asyncio.subprocess.Process]]:
    """Agents in processes of their own, ready."""
    environment = {**os.environ, "ROSTER_REGISTRY": urls[0], "ROSTER_BUS": urls[1]}
    async with AsyncExitStack() as stack:
        started = [
            await asyncio.create_subprocess_exec(sys.executable, "-c", _AGENT, name, env=environment)
            for name in names
        ]
        for process in started:
            await stack.enter_async_context(ended(process))
        registry = await stack.enter_async_context(Registry.connect(urls[0]))
        ready: dict[str, bool] = {}
        async with asyncio.timeout(20):
            async for event in registry.watch():
                ready[event.name] = event.record.state == "ready"
                if all(ready.get(name) for name in names):
                    break
        yield started


async def run(urls: tuple[str, str], *args: str) -> tuple[int, str, str]:
    """Run the real command."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "roster", *args,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "ROSTER_REGISTRY": urls[0], "ROSTER_BUS": urls[1]},
    )  # fmt: skip
    async with ended(process):
        out, err = await asyncio.wait_for(process.communicate(), 40)
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()


async def test_stopped_agents_finish_what_they_run_leave_and_end_with_0(urls: tuple[str, str]) -> None:
    async with (
        agents(urls, "one", "two") as processes,
        Orchestrator.connect(*urls) as orchestrator,
        ended(await tapping(urls[1], "ctl.#")) as tap,
    ):
        call = asyncio.create_task(orchestrator.call("work", {"seconds": 2}, timeout=30))
        await eventually(lambda: any(one.exchange.started for one in orchestrator.team.vigil._open))
        status, out, err = await run(urls, "control", "stop", "-l", "role=r")
        assert (status, sorted(out.splitlines()), err) == (0, ["node/one stopped", "node/two stopped"], "")
        assert await call in ("one", "two")
        assert [await asyncio.wait_for(process.wait(), 20) for process in processes] == [0, 0]
        seen = lines(tap)
        said = sorted([(await anext(seen)).split(" ", 4)[2:] for _ in range(2)])
        assert [(parts[0], "shutdown" in parts[-1]) for parts in said] == [
            ("ctl.one.default", True), ("ctl.two.default", True),
        ]  # fmt: skip


async def test_an_agent_that_stands_still_is_named_and_the_others_are_paused(urls: tuple[str, str]) -> None:
    async with agents(urls, "one", "two") as (one, _):
        one.send_signal(signal.SIGSTOP)
        status, out, err = await run(urls, "control", "pause", "--all", "--timeout", "2s")
        one.send_signal(signal.SIGCONT)
        assert (status, out) == (10, "node/two paused\n")
        assert err.splitlines() == [
            "warning: default/one has not confirmed 'pause' within 2 s",
            "error: 1 of 2 nodes not paused: default/one",
        ]


async def test_an_agent_that_is_not_done_in_time_is_named(urls: tuple[str, str]) -> None:
    async with agents(urls, "one"), Orchestrator.connect(*urls) as orchestrator:
        call = asyncio.create_task(orchestrator.call("work", {"seconds": 60}, timeout=90))
        await eventually(lambda: any(one.exchange.started for one in orchestrator.team.vigil._open))
        status, _, err = await run(urls, "control", "stop", "one", "--timeout", "1s")
        call.cancel()
        assert status == 10
        assert "default/one has confirmed, takes no new work, and had 1 commands to finish" in err


async def test_ctrl_c_of_a_call_stops_the_work(urls: tuple[str, str]) -> None:
    environment = {**os.environ, "ROSTER_REGISTRY": urls[0], "ROSTER_BUS": urls[1]}
    async with agents(urls, "one"), Orchestrator.connect(*urls) as orchestrator:
        await orchestrator.start()
        call = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "roster", "call", "work", "-p", "seconds:=60", "--timeout", "90s",
            stderr=asyncio.subprocess.PIPE, env=environment,
        )  # fmt: skip
        async with ended(call):
            await until_hands(orchestrator, "default/one", 1, 0)
            call.send_signal(signal.SIGINT)
            assert (await over(call))[0] == 130
        await until_hands(orchestrator, "default/one", 0, 0)


def test_hostile_names_and_answers_are_made_safe(stage: Stage) -> None:
    result = roster("control", "pause", "x" + ATTACK)
    assert not set(result.err) & set("\x1b\x07\r\u202e\x9b")
