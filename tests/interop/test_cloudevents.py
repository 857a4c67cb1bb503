"""Programs that know AMQP and CloudEvents alone, pika and the CloudEvents SDK, beside our nodes on one broker."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import eventually
from tests.docs.markdown import ROOT, Document
from tests.engines import not_here, own_bus
from tests.interop.conftest import DEADLINE, PYTHON, READY

from roster import MindBus, Node
from roster.bus import Message, open_bus
from roster.errors import Code, RemoteError
from roster.node import Context

QUEUE = "agent.writer.001"
PASSPORT: dict[str, Any] = {
    "apiVersion": "ai-team.dev/v1",
    "kind": "NodePassport",
    "metadata": {"name": "writer-001", "namespace": "ai-team"},
    "spec": {
        "type": "agent",
        "version": "1.0.0",
        "capabilities": [{"name": "write_article", "input_schema": {"topic": "string"}}],
        "communication": {"mindbus_queue": QUEUE, "mindbus_routing_key": "cmd.writer.#"},
        "resources": {"max_concurrent_tasks": 2},
    },
}
MODES = ["amqp structured", "amqp binary", "rabbitmq structured", "rabbitmq binary"]


class Outsider:
    """The other program, running."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def line(self) -> Any:
        """Return the next thing that it says."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        async with asyncio.timeout(DEADLINE):
            said = await self._process.stdout.readline()
            assert said, (await self._process.stderr.read()).decode()
        return json.loads(said)

    async def __call__(self, do: str, **line: Any) -> Any:
        """Have it do something; return what comes of it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, "queue": QUEUE, **line}).encode() + b"\n")
        return await self.line()


@pytest.fixture
def bus_url() -> str:
    return own_bus()


@pytest.fixture
async def outsider(bus_url: str) -> AsyncIterator[Outsider]:
    if not READY.exists():
        not_here("pika and the CloudEvents SDK", "run scripts/setup-interop, then this again")
    process = await asyncio.create_subprocess_exec(
        *(PYTHON, Path(__file__).with_name("outsider.py")),
        env={**os.environ, "PYTHONUTF8": "1", "RABBITMQ_URL": _url(bus_url)},
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
    )
    started = Outsider(process)
    try:
        assert await started.line() == "ready"
        yield started
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _url(bus_url: str) -> str:
    """Return a bus's URL as pika has it, which wants a virtual host."""
    return bus_url if bus_url.count("/") > 2 else f"{bus_url}/%2F"


class Seen:
    """What a node's handler was given."""

    def __init__(self) -> None:
        self.contexts: list[Context] = []


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
async def node(bus_url: str, seen: Seen) -> AsyncIterator[Node]:
    made = Node(PASSPORT, registry_url="memory://cloudevents", bus_url=bus_url)

    @made.capability("write_article")
    async def write_article(topic: str, context: Context) -> dict[str, str]:
        seen.contexts.append(context)
        if topic == "the end":
            raise RemoteError("no more paper", code=Code.RESOURCE_EXHAUSTED, retryable=True)
        return {"article": f"All about {topic}"}

    async with made:
        yield made


@pytest.mark.parametrize("mode", MODES)
async def test_a_command_in_each_mode_of_the_sdk_is_answered(
    outsider: Outsider, node: Node, seen: Seen, mode: str
) -> None:
    attributes = {"tenant": "blue", "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
    answer = await outsider(
        "send",
        mode=mode,
        action="write_article",
        params={"topic": "пчёлы"},
        attributes={**attributes, "subject": "write_article", "timeoutms": 20_000},
        properties={"priority": 7},
    )
    assert answer["correlation"] == answer["asked"]
    assert (answer["type"], answer["source"]) == ("ai.team.result", "/ai-team/writer-001")
    assert answer["data"] == {"result": {"article": "All about пчёлы"}}
    (context,) = seen.contexts
    message = context.message
    assert (message.source, message.priority, message.timeout) == ("/outsider", 7, 20.0)
    assert message.traceparent == attributes["traceparent"]
    assert message.extensions == {"tenant": "blue"}
    assert message.time


async def test_an_error_says_its_code_and_whether_trying_again_makes_sense(
    outsider: Outsider, node: Node
) -> None:
    about = {"mode": "rabbitmq structured", "action": "write_article"}
    answer = await outsider("send", **about, params={"topic": "the end"})
    assert answer["type"] == "ai.team.error"
    data = answer["data"]
    assert (data["code"], data["retryable"], data["outcome"]) == ("RESOURCE_EXHAUSTED", True, "unknown")
    assert "no more paper" in data["message"]

    answer = await outsider("send", **about, params={"subject": "bees"})
    data = answer["data"]
    assert (data["code"], data["retryable"], data["outcome"]) == ("INVALID_ARGUMENT", False, "refused")


async def test_commands_without_any_id_of_their_own_are_each_run(
    outsider: Outsider, node: Node, seen: Seen
) -> None:
    for number in range(5):
        await outsider(
            "send",
            waits=False,
            mode="rabbitmq binary",
            action="write_article",
            params={"topic": str(number)},
        )
    await eventually(lambda: len(seen.contexts) == 5)
    assert sorted(context.params["topic"] for context in seen.contexts) == list("01234")


async def test_what_is_published_to_the_nodes_routing_key_reaches_it(
    outsider: Outsider, node: Node, seen: Seen
) -> None:
    answer = await outsider(
        "send",
        mode="amqp structured",
        exchange="mindbus.main",
        queue="cmd.writer.urgent",
        action="write_article",
        params={"topic": "bees"},
    )
    assert answer["data"] == {"result": {"article": "All about bees"}}


async def test_our_events_are_read_by_the_sdk(outsider: Outsider, bus_url: str) -> None:
    async with MindBus.connect(bus_url, source="/ai-team/editor-001") as mindbus:
        # The exchange is made by whoever of ours comes first.
        await mindbus.publish_event("nobody", "listens", {})
        assert await outsider("listen", patterns=["evt.#"]) == "listening"
        assert await mindbus.publish_event("article", "written", {"title": "О пчёлах 🐝", "words": 700}) == 1
    assert await outsider("heard") == {
        "correlation": None,
        "type": "ai.team.event",
        "source": "/ai-team/editor-001",
        "subject": "article.written",
        "data": {"title": "О пчёлах 🐝", "words": 700},
        "key": "evt.article.written",
    }


async def test_its_events_are_read_by_us(outsider: Outsider, bus_url: str) -> None:
    event = {
        "specversion": "1.0",
        "id": "1",
        "source": "/outsider",
        "type": "ai.team.event",
        "data": {"n": 1},
    }
    headers = {f"cloudEvents:{name}": value for name, value in event.items() if name != "data"}
    async with MindBus.connect(bus_url) as mindbus, mindbus.subscribe("evt.#") as events:
        about: dict[str, Any] = {"exchange": "mindbus.main", "queue": "evt.a.b", "waits": False}
        await outsider("raw", **about, body=json.dumps(event), content_type="application/cloudevents+json")
        await outsider("raw", **about, body='{"n": 2}', content_type="application/json", headers=headers)
        await outsider("raw", **about, body="no event at all")
        await outsider("raw", **about, body='{"n": 3}', headers=headers)
        async with asyncio.timeout(DEADLINE):
            found = [(await anext(events)).data for _ in range(3)]
    assert found == [{"n": 1}, {"n": 2}, {"n": 3}]


GOOD = {"specversion": "1.0", "id": "1", "source": "/x", "type": "ai.team.command"}
COMMAND = {**GOOD, "data": {"action": "write_article", "params": {"topic": "bees"}}}
JSON_EVENT = "application/cloudevents+json"


def _headers(prefix: str = "ce-", **other: Any) -> dict[str, Any]:
    return {f"{prefix}{name}": value for name, value in {**GOOD, **other}.items()}


ILL_FORMED: dict[str, tuple[dict[str, Any], str]] = {
    "no JSON": ({"body": "hello \xff", "content_type": "text/plain"}, "is not UTF-8"),
    "empty": ({"body": ""}, "is not JSON"),
    "a batch": (
        {"body": json.dumps([COMMAND]), "content_type": "application/cloudevents-batch+json"},
        "is not a JSON object",
    ),
    "Avro": ({"body": "\x00\x01", "content_type": "application/cloudevents+avro"}, "is not JSON"),
    "another version": ({"body": json.dumps({**COMMAND, "specversion": "0.3"})}, "specversion 1.0"),
    "another type": ({"body": json.dumps({**COMMAND, "type": "com.example.order"})}, "'com.example.order'"),
    "no id": ({"body": json.dumps({**COMMAND, "id": ""})}, "no id or no source"),
    "no action": ({"body": json.dumps({**COMMAND, "data": {}})}, "need `action`"),
    "deep": ({"body": json.dumps(GOOD)[:-1] + ', "data": ' + '{"a":' * 100 + "1" + "}" * 101}, "deeper"),
    "binary, no JSON": (
        {"body": "hello", "content_type": "text/plain", "headers": _headers()},
        "not application/json",
    ),
    "binary, no action": ({"body": "{}", "headers": _headers()}, "need `action`"),
    "binary, said twice": (
        {"body": "{}", "headers": {**_headers(), **_headers("cloudEvents_")}},
        "says what is said elsewhere",
    ),
    "binary, data in a header": ({"body": "", "headers": _headers(data="{}")}, "says what is said elsewhere"),
    "binary, no text": (
        {"body": json.dumps(COMMAND["data"]), "headers": _headers(id={"a": [1]})},
        "an attribute of the message is not text",
    ),
    "binary, no time": (
        {"body": json.dumps(COMMAND["data"]), "headers": _headers("cloudEvents:", time=2**62)},
        "is not RFC 3339",
    ),
}


async def test_what_is_ill_formed_is_answered_and_buried_with_the_reason_and_ends_nobody(
    bus_url: str, outsider: Outsider, node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_bus(bus_url) as bus:
        await bus.bury(Message.command("first"), "whoever buries first makes the queue")
    await outsider("dead")
    for name, (sent, why) in ILL_FORMED.items():
        answer = await outsider("raw", **sent)
        assert answer["correlation"] == answer["asked"], name
        assert answer["type"] == "ai.team.error", name
        told = answer["data"]
        assert (told["code"], told["outcome"], told["retryable"]) == ("INVALID_ARGUMENT", "refused", False)
        assert why in told["message"], name
        buried = await outsider("dead")
        assert buried["body"] == sent["body"], name
        assert why in json.loads(buried["headers"]["reason"]), name
        if "binary" in name and "no text" not in name:
            assert (
                buried["headers"].items() >= {"ce-id": "1"}.items() or "cloudEvents:id" in buried["headers"]
            )
        # Without anybody to tell it is buried all the same.
        await outsider("raw", **sent, waits=False)
        assert (await outsider("dead"))["body"] == sent["body"], name
    answer = await outsider("send", mode=MODES[0], action="write_article", params={"topic": "bees"})
    assert answer["data"] == {"result": {"article": "All about bees"}}
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_the_example_of_the_page_runs_as_it_is_printed(
    bus_url: str, outsider: Outsider, node: Node, tmp_path: Path
) -> None:
    blocks = [block for block in Document.read("docs/interop.md").blocks if block.argument == "outsider"]
    program, shown = (next(one for one in blocks if one.language == kind) for kind in ("python", "text"))
    async with MindBus.connect(bus_url, source="/ai-team/writer-001") as mindbus:
        await mindbus.publish_event("nobody", "listens", {})
        process = await asyncio.create_subprocess_exec(
            *(PYTHON, "-u", "-c", program.text),
            cwd=tmp_path,
            env={**os.environ, "PYTHONUTF8": "1", "RABBITMQ_URL": _url(bus_url)},
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
        )
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            async with asyncio.timeout(DEADLINE):
                first = await process.stdout.readline()  # the answer: it listens since before it asked
                await mindbus.publish_event("article", "written", {"title": "All about bees"})
                rest = await process.stdout.read()
                assert await process.wait() == 0, (await process.stderr.read()).decode()
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
    assert (first + rest).decode() == shown.text
    assert str(ROOT) not in program.text
