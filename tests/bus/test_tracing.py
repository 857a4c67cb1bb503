"""A trace goes through calls, commands, handlers and what they call in turn, on every bus; spans are made on demand."""

from __future__ import annotations

import asyncio
import contextvars
import re
import subprocess
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import opentelemetry.trace
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode
from tests.conftest import eventually
from tests.docs.markdown import Document
from tests.engines import own_bus

import roster.sync
from roster import MindBus, Node, Orchestrator
from roster.bus import Message, tracing
from roster.errors import CallCancelledError, CallError, Code, RemoteError
from roster.node import Context, current

BUSES: dict[str, Callable[[str], str]] = {
    "memory": lambda _: f"memory://{uuid.uuid4().hex}",
    "local": lambda directory: f"local://{directory}/bus",
    "amqp": lambda _: own_bus(),
}
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
SECRET = "s3cret-words"


@pytest.fixture(params=sorted(BUSES))
def bus_url(request: pytest.FixtureRequest) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="rb-") as directory:
        yield BUSES[request.param](directory)


def passport(name: str, *capabilities: str) -> dict[str, Any]:
    return {
        "apiVersion": "ai-team.dev/v1",
        "kind": "NodePassport",
        "metadata": {"name": name},
        "spec": {
            "type": "agent",
            "version": "1.0.0",
            "capabilities": [{"name": one} for one in capabilities],
            "communication": {"mindbus_queue": f"agent.{name}"},
            "resources": {"max_concurrent_tasks": 4},
        },
    }


class Team:
    """An editor that has a writer write, and a caller."""

    def __init__(self, orchestrator: Orchestrator, mindbus: MindBus) -> None:
        self.orchestrator = orchestrator
        self.mindbus = mindbus
        self.messages: dict[str, Message] = {}


@pytest.fixture
async def team(bus_url: str) -> AsyncIterator[Team]:
    registry_url = f"memory://{uuid.uuid4().hex}"
    editor = Node(passport("editor", "edit", "shout"), registry_url=registry_url, bus_url=bus_url)
    writer = Node(passport("writer", "write", "count", "fail"), registry_url=registry_url, bus_url=bus_url)
    async with AsyncExitStack() as stack:
        mindbus = await stack.enter_async_context(MindBus.connect(bus_url))
        orchestrator = await stack.enter_async_context(Orchestrator.connect(registry_url, bus_url))
        made = Team(orchestrator, mindbus)

        @editor.capability("edit")
        async def edit(topic: str, context: Context) -> Any:
            made.messages["edit"] = context.message
            return [
                await orchestrator.call("write", {"topic": topic}),
                await orchestrator.call("count", {"topic": topic}),
            ]

        @editor.capability("shout")
        async def shout(context: Context) -> None:
            made.messages["shout"] = context.message
            await mindbus.publish_event("article", "written", {"topic": SECRET})
            answer = await mindbus.send_command("agent.writer", "write", {"topic": SECRET})
            await answer.result()

        @writer.capability("write")
        async def write(topic: str, context: Context) -> str:
            made.messages["write"] = context.message
            return topic

        @writer.capability("count")
        def count(topic: str) -> int:
            made.messages["count"] = current().message
            return len(topic)

        @writer.capability("fail")
        async def fail(how: str) -> None:
            if how == "once":
                if "attempt" not in current().message.extensions:
                    raise RemoteError("not now", code=Code.UNAVAILABLE, retryable=True)
                return
            if how == "value":
                raise ValueError(SECRET)
            if how == "remote":
                raise RemoteError(SECRET, code=Code.DATA_LOSS)
            made.messages["hanging"] = current().message
            await asyncio.Event().wait()

        await stack.enter_async_context(editor)
        await stack.enter_async_context(writer)
        yield made


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What OpenTelemetry records, as long as the test lasts."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    # `set_tracer_provider` works once a process.
    monkeypatch.setattr(opentelemetry.trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


def tree(exporter: InMemorySpanExporter) -> list[str]:
    """Return the spans as lines, each under its parent, in order of their beginning."""
    found = sorted(exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def under(parent: int, depth: int) -> Iterator[str]:
        for span in found:
            if (span.parent.span_id if span.parent else 0) == parent:
                yield "  " * depth + f"{span.kind.name} {span.name}"
                yield from under(_id(span), depth + 1)

    return list(under(0, 0))


def _id(span: ReadableSpan) -> int:
    assert span.context is not None
    found: int = span.context.span_id
    return found


def named(exporter: InMemorySpanExporter, name: str) -> ReadableSpan:
    (span,) = (span for span in exporter.get_finished_spans() if span.name == name)
    return span


# --- without anybody who records spans ------------------------------------------------------------------------


async def test_a_trace_goes_from_the_call_to_whatever_is_called_on_its_behalf(team: Team) -> None:
    await team.orchestrator.call("edit", {"topic": "bees"})
    first = team.messages["edit"].traceparent
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", first)
    assert team.messages["write"].traceparent == first
    assert team.messages["count"].traceparent == first
    await team.orchestrator.call("edit", {"topic": "bees"})
    assert team.messages["edit"].traceparent != first


async def test_what_a_caller_brings_goes_on_with_its_state(team: Team) -> None:
    async with team.mindbus.subscribe("evt.#") as events:
        for name, params in (("edit", {"topic": "bees"}), ("shout", {})):
            command = Message.command(name, params, traceparent=PARENT, tracestate="vendor=1")
            exchange = await team.mindbus.bus.send("agent.editor", command)
            answer = await exchange.answer
            assert (answer.traceparent, answer.tracestate) == (PARENT, "vendor=1")
        event = await anext(events)
    for message in (*team.messages.values(), event):
        assert (message.traceparent, message.tracestate) == (PARENT, "vendor=1")


async def test_asking_everybody_is_traced_and_belongs_to_the_work_it_is_done_for(team: Team) -> None:
    await team.orchestrator.call_all("write", {"topic": "bees"})
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", team.messages["write"].traceparent)


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "x",
        PARENT.upper(),
        PARENT + "-00",
        PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32),
        PARENT.replace("00f067aa0ba902b7", "0" * 16),
        "ff" + PARENT[2:],
    ],
)
def test_what_is_no_traceparent_begins_a_new_trace(traceparent: str) -> None:
    trace = tracing.trace_below(Message.command("a", traceparent=traceparent, tracestate="vendor=1"))
    assert trace.traceparent[:36] != PARENT[:36]
    assert trace.tracestate == ""


@pytest.mark.parametrize("traceparent", [PARENT, "01" + PARENT[2:] + "-more"])
def test_what_is_one_goes_on_as_it_is(traceparent: str) -> None:
    message = Message.command("a", traceparent=traceparent, tracestate="vendor=1")
    assert tracing.trace_below(message) == (traceparent, "vendor=1")


def test_nothing_of_opentelemetry_is_imported_for_those_who_do_not_use_it() -> None:
    program = """if True:
        import asyncio, sys
        import roster, roster.sync
        from roster.testing import Team
        async def write(topic: str) -> str: return topic
        async def main() -> None:
            async with Team() as team:
                await team.add("write", write)
                assert await team.call("write", {"topic": "bees"}) == "bees"
        asyncio.run(main())
        print([name for name in sys.modules if "opentelemetry" in name or name.endswith("otel")])
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


async def test_where_the_api_is_imported_and_no_provider_is_set_nobody_records(team: Team) -> None:
    assert tracing.tracer() is None
    await team.orchestrator.call("write", {"topic": "bees"})


# --- with OpenTelemetry ---------------------------------------------------------------------------------------


async def test_a_call_is_one_tree_of_spans(team: Team, spans: InMemorySpanExporter) -> None:
    outside = opentelemetry.trace.get_tracer("test")
    with outside.start_as_current_span("outside"):
        assert await team.orchestrator.call("edit", {"topic": "bees"}) == ["bees", 4]
    await eventually(lambda: len(spans.get_finished_spans()) == 10)
    assert tree(spans) == [
        "INTERNAL outside",
        "  CLIENT edit",
        "    PRODUCER publish agent.editor",
        "      CONSUMER handle agent.editor",
        "        CLIENT write",
        "          PRODUCER publish agent.writer",
        "            CONSUMER handle agent.writer",
        "        CLIENT count",
        "          PRODUCER publish agent.writer",
        "            CONSUMER handle agent.writer",
    ]


async def test_its_attributes_are_those_of_the_semantic_conventions_and_no_params(
    team: Team, spans: InMemorySpanExporter, bus_url: str
) -> None:
    await team.orchestrator.call("write", {"topic": SECRET}, idempotency_key=f"{SECRET}-key")
    await eventually(lambda: len(spans.get_finished_spans()) == 3)
    call, publish, handle = (
        named(spans, name) for name in ("write", "publish agent.writer", "handle agent.writer")
    )
    assert dict(call.attributes or {}) == {
        "rpc.system.name": "roster",
        "rpc.method": "write",
        "rpc.status_code": "OK",
        "roster.attempts": 1,
    }
    message = team.messages["write"]
    common: dict[str, Any] = {
        "messaging.system": "rabbitmq" if bus_url.startswith("amqp") else "roster",
        "messaging.destination.name": "agent.writer",
        "messaging.message.id": message.id,
        "messaging.message.conversation_id": message.id,
    }
    if bus_url.startswith("amqp"):
        common |= {"server.address": "127.0.0.1", "server.port": int(re.findall(r":(\d+)/", bus_url)[0])}
    assert dict(publish.attributes or {}) == {
        **common,
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
    }
    assert dict(handle.attributes or {}) == {
        **common,
        "messaging.operation.name": "handle",
        "messaging.operation.type": "process",
        "rpc.method": "write",
        "roster.node": "default/writer",
    }
    assert [link.context.span_id for link in handle.links] == [_id(publish)]
    assert publish.context is not None
    place = f"00-{publish.context.trace_id:032x}-{publish.context.span_id:016x}"
    assert message.traceparent == f"{place}-{publish.context.trace_flags:02x}"
    _nothing_is_told(spans)


@pytest.mark.parametrize(
    ("how", "code", "of_handler"),
    [
        ("value", "UNKNOWN", "UNKNOWN"),
        ("remote", "DATA_LOSS", "DATA_LOSS"),
        ("hang", "DEADLINE_EXCEEDED", "CANCELLED"),
    ],
)
async def test_an_error_is_recorded_by_its_code(
    team: Team, spans: InMemorySpanExporter, how: str, code: str, of_handler: str
) -> None:
    with pytest.raises(CallError) as caught:
        await team.orchestrator.call("fail", {"how": how}, timeout=3.0 if how == "hang" else 20)
    assert caught.value.code == code
    await eventually(lambda: len(spans.get_finished_spans()) == 3)
    call, publish, handle = (
        named(spans, name) for name in ("fail", "publish agent.writer", "handle agent.writer")
    )
    for span, expected in ((call, code), (handle, of_handler)):
        assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, expected)
        attributes = span.attributes or {}
        assert (attributes["error.type"], attributes["rpc.status_code"]) == (expected, expected)
    assert (call.attributes or {})["roster.outcome"] == "unknown"
    assert publish.status.status_code is StatusCode.UNSET
    _nothing_is_told(spans)


def _nothing_is_told(exporter: InMemorySpanExporter) -> None:
    for span in exporter.get_finished_spans():
        assert SECRET not in span.to_json()


async def test_each_try_of_a_call_is_a_span_under_it(team: Team, spans: InMemorySpanExporter) -> None:
    await team.orchestrator.call("fail", {"how": "once"})
    await eventually(lambda: len(spans.get_finished_spans()) == 5)
    assert tree(spans) == [
        "CLIENT fail",
        "  PRODUCER publish agent.writer",
        "    CONSUMER handle agent.writer",
        "  PRODUCER publish agent.writer",
        "    CONSUMER handle agent.writer",
    ]
    assert (named(spans, "fail").attributes or {})["roster.attempts"] == 2


async def test_what_somebody_else_sends_for_a_call_is_under_it(
    team: Team, spans: InMemorySpanExporter
) -> None:
    """As the second node is asked while the first is silent: by a task that knows nothing of the call's context."""
    recorder = tracing.tracer()
    assert recorder is not None
    with recorder.call("write", None) as span:
        message = Message.command("write", {"topic": "bees"})
        sending = tracing.send(team.mindbus.bus, "agent.writer", message, within=span)
        exchange = await asyncio.create_task(sending, context=contextvars.Context())
        await exchange.answer
    await eventually(lambda: len(spans.get_finished_spans()) == 3)
    assert tree(spans)[:2] == ["CLIENT write", "  PRODUCER publish agent.writer"]


async def test_a_call_that_is_never_sent_says_why(team: Team, spans: InMemorySpanExporter) -> None:
    with pytest.raises(CallError):
        await team.orchestrator.call("edit", {"topic": "bees"}, timeout=0)
    assert tree(spans) == ["CLIENT edit"]
    attributes = named(spans, "edit").attributes or {}
    assert (attributes["error.type"], attributes["roster.outcome"]) == ("DEADLINE_EXCEEDED", "not_sent")


async def test_a_command_that_cannot_be_handed_over_ends_its_span_with_the_reason(
    team: Team, spans: InMemorySpanExporter
) -> None:
    with pytest.raises(CallError):
        await (await team.mindbus.send_command("nobody", "write", {"topic": SECRET})).result(10)
    (span,) = spans.get_finished_spans()
    assert span.kind is SpanKind.PRODUCER
    _nothing_is_told(spans)


async def test_what_a_handler_publishes_and_sends_by_hand_is_under_it(
    team: Team, spans: InMemorySpanExporter
) -> None:
    async with team.mindbus.subscribe("evt.#") as events:
        await team.orchestrator.call("shout")
        event = await anext(events)
    await eventually(lambda: len(spans.get_finished_spans()) == 6)
    assert tree(spans) == [
        "CLIENT shout",
        "  PRODUCER publish agent.editor",
        "    CONSUMER handle agent.editor",
        "      PRODUCER publish evt.article.written",
        "      PRODUCER publish agent.writer",
        "        CONSUMER handle agent.writer",
    ]
    published = named(spans, "publish evt.article.written")
    assert event.traceparent.split("-")[2] == f"{_id(published):016x}"
    _nothing_is_told(spans)


async def test_a_control_signal_is_recorded_too(team: Team, spans: InMemorySpanExporter) -> None:
    async with team.mindbus.subscribe("ctl.#") as signals:
        await team.orchestrator.control("resume", nodes=["default/writer"])
        signal = await anext(signals)
    assert tree(spans) == ["PRODUCER publish ctl.writer.default"]
    published = named(spans, "publish ctl.writer.default")
    assert signal.traceparent.split("-")[2] == f"{_id(published):016x}"


async def test_a_trace_from_elsewhere_goes_on_with_its_state(team: Team, spans: InMemorySpanExporter) -> None:
    command = Message.command("edit", {"topic": "bees"}, traceparent=PARENT, tracestate="vendor=1")
    await (await team.mindbus.bus.send("agent.editor", command)).answer
    await eventually(lambda: len(spans.get_finished_spans()) == 7)
    assert {span.context.trace_id for span in spans.get_finished_spans() if span.context} == {
        int(PARENT.split("-")[1], 16)
    }
    parent = named(spans, "handle agent.editor").parent
    assert parent is not None
    assert (f"{parent.span_id:016x}", parent.is_remote) == ("00f067aa0ba902b7", True)
    assert team.messages["write"].tracestate == "vendor=1"


async def test_who_does_not_sample_says_so_to_those_below(
    team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opentelemetry.trace, "_TRACER_PROVIDER", TracerProvider(sampler=ALWAYS_OFF))
    await team.orchestrator.call("edit", {"topic": "bees"})
    traces = [team.messages[name].traceparent for name in ("edit", "write", "count")]
    assert {trace[:35] for trace in traces} == {traces[0][:35]}
    assert not any(int(trace[-2:], 16) & 1 for trace in traces)


async def test_a_call_that_is_cancelled_ends_its_spans(team: Team, spans: InMemorySpanExporter) -> None:
    call = asyncio.create_task(team.orchestrator.call("fail", {"how": "hang"}))
    await eventually(lambda: "hanging" in team.messages)
    call.cancel()
    with pytest.raises((asyncio.CancelledError, CallCancelledError)):
        await call
    await eventually(lambda: len(spans.get_finished_spans()) == 3)
    for name in ("fail", "handle agent.writer"):
        assert (named(spans, name).attributes or {})["error.type"] == "CANCELLED"


async def test_code_that_is_not_async_is_traced_from_its_own_thread(
    team: Team, bus_url: str, spans: InMemorySpanExporter
) -> None:
    if bus_url.startswith("memory"):
        return  # that bus is of one loop

    def work() -> None:
        with (
            roster.sync.MindBus.connect(bus_url) as mindbus,
            opentelemetry.trace.get_tracer("test").start_as_current_span("outside"),
        ):
            mindbus.send_command("agent.writer", "write", {"topic": "bees"}).result(20)

    await asyncio.to_thread(work)
    await eventually(lambda: len(spans.get_finished_spans()) == 3)
    assert tree(spans) == [
        "INTERNAL outside",
        "  PRODUCER publish agent.writer",
        "    CONSUMER handle agent.writer",
    ]


def test_the_example_of_the_page_prints_what_it_shows() -> None:
    blocks = Document.read("docs/tracing.md").blocks
    program, shown = (next(one for one in blocks if one.language == kind) for kind in ("python", "text"))
    done = subprocess.run(
        [sys.executable, "-c", program.text], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == shown.text
