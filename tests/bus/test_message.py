"""Messages are CloudEvents, and nothing hostile gets past their reading."""

from __future__ import annotations

import asyncio
import json
import os
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import example, given
from hypothesis import strategies as st

from roster.bus import Kind, Load, Message, error_from
from roster.bus.failure import OUT_OF_REACH, STOPPED, UNHEARD
from roster.bus.message import new_id
from roster.bus.strictjson import MAX_DEPTH
from roster.errors import (
    AllNodesBusyError,
    Attempt,
    BusUnavailableError,
    CallCancelledError,
    CallError,
    CallTimeoutError,
    Code,
    DeliveryError,
    InvalidParamsError,
    InvalidResultError,
    MessageError,
    NoCapableNodesError,
    RemoteError,
)

# What JSON and UTF-8 can hold: no surrogates, no integer beyond what Python prints.
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
plain = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)
json_objects = st.dictionaries(text, json_values, max_size=4)
counts = st.integers(0, 999_999_999)
extension_names = st.text("abcxyz019", min_size=1, max_size=20).filter(
    lambda name: name not in ("id", "type", "time", "data", "source", "subject")
)


@st.composite
def messages(draw: st.DrawFn) -> Message:
    kind = draw(st.sampled_from(list(Kind)))
    shapes: dict[Kind, st.SearchStrategy[dict[str, Any]]] = {
        Kind.COMMAND: st.fixed_dictionaries({"action": plain, "params": json_objects}),
        Kind.RESULT: st.fixed_dictionaries({"result": json_values}),
        Kind.ERROR: st.fixed_dictionaries(
            {"code": plain, "message": text, "retryable": st.booleans(), "details": json_objects}
        ),
        Kind.EVENT: json_objects,
        Kind.CONTROL: json_objects.map(lambda each: {**each, "signal": "stop"}),
    }
    optional = st.just("") | plain
    return Message(
        kind,
        draw(shapes[kind]),
        source=draw(optional.filter(lambda source: source != "/")),
        subject=draw(optional),
        id=draw(plain),
        correlation=draw(optional),
        reply_to=draw(optional),
        priority=draw(st.integers(0, 9)),
        timeout=draw(st.none() | st.integers(0, 2**31 - 1).map(lambda ms: ms / 1000)),
        uid=draw(optional),
        key=draw(optional),
        ancestors=tuple(draw(st.lists(plain.filter(lambda name: "," not in name), max_size=4))),
        traceparent=draw(optional),
        tracestate=draw(optional),
        load=draw(st.none() | st.builds(Load, counts, counts, counts, counts)),
        extensions=draw(st.dictionaries(extension_names, plain, max_size=3)),
    )


@given(messages())
def test_a_message_comes_back_as_it_was(message: Message) -> None:
    assert Message.from_bytes(message.to_bytes()) == message


@given(messages())
def test_the_cloudevents_sdk_reads_what_we_write_and_we_read_what_it_writes(message: Message) -> None:
    event = JSONFormat().read(CloudEvent, message.to_bytes())
    assert event.get_specversion() == "1.0"
    assert event.get_type() == message.kind.value
    assert event.get_id() == message.id
    assert event.get_source() == (message.source or "/")
    assert event.get_data() == message.data
    assert event.get_datacontenttype() == "application/json"
    back = Message.from_bytes(JSONFormat().write(event))
    assert datetime.fromisoformat(back.time) == datetime.fromisoformat(message.time)
    back.time = message.time
    assert back == message


def test_an_event_made_with_the_sdk_is_understood() -> None:
    event = CloudEvent(
        attributes={
            "id": "A234-1234-1234",
            "source": "/mycontext",
            "type": "ai.team.event",
            "subject": "articles.done",
            "time": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
            "datacontenttype": "application/json; charset=utf-8",
            "comexampleextension1": "value",
            "comexampleothervalue": 5,
            "flag": True,
        },
        data={"жук": "🪲"},
    )
    message = Message.from_bytes(JSONFormat().write(event))
    assert message.data == {"жук": "🪲"}
    assert message.extensions == {
        "comexampleextension1": "value",
        "comexampleothervalue": "5",
        "flag": "true",
    }
    assert message.time == "2026-01-02T03:04:05Z"


def test_text_beyond_ascii_goes_as_utf_8() -> None:
    raw = Message.command("write", {"тема": "пчёлы 🐝"}).to_bytes()
    assert "пчёлы 🐝".encode() in raw
    assert Message.from_bytes(raw).params == {"тема": "пчёлы 🐝"}


def test_the_wire_form_is_what_the_specification_shows() -> None:
    message = Message.command(
        "write_article",
        {"topic": "bees"},
        source="/ai-team/editor-001",
        priority=3,
        timeout=1.2345,
        uid="u",
        key="k",
        ancestors=("default/a", "default/b"),
        reply_to="r",
        traceparent="tp",
        tracestate="ts",
    )
    message.load = Load(1, 2, 3, 4)
    assert json.loads(message.to_bytes()) == {
        "specversion": "1.0",
        "id": message.id,
        "source": "/ai-team/editor-001",
        "type": "ai.team.command",
        "subject": "write_article",
        "time": message.time,
        "replyto": "r",
        "nodeuid": "u",
        "idempotencykey": "k",
        "ancestors": "default/a,default/b",
        "traceparent": "tp",
        "tracestate": "ts",
        "nodeload": "1/2/3/4",
        "priority": 3,
        "timeoutms": 1235,
        "datacontenttype": "application/json",
        "data": {"action": "write_article", "params": {"topic": "bees"}},
    }


# --- hostile input ----------------------------------------------------------------------------------------------


def wire(**changes: Any) -> bytes:
    """A good command on the wire, with something changed; None takes an attribute away."""
    event = json.loads(Message.command("a", {"n": 1}).to_bytes())
    event.update(changes)
    return json.dumps({name: value for name, value in event.items() if value is not None}).encode()


def nested(depth: int) -> bytes:
    return wire().replace(b'"n": 1', b'"n": ' + b"[" * depth + b"]" * depth)


# What is wrong with it, and the words that say so.
WRONG = [
    (b"", "not JSON"),
    (b"{", "not JSON"),
    (b"\xff\xfe", "not UTF-8"),
    (wire().decode().encode("utf-16"), "not UTF-8"),
    (b"\xef\xbb\xbf" + wire(), "not JSON"),
    (wire() + b"x", "not JSON"),
    (b"[]", "not a JSON object"),
    (b'"text"', "not a JSON object"),
    (b"{}", "specversion"),
    (wire(specversion="0.3"), "specversion"),
    (wire(specversion=1.0), "specversion"),
    (wire(type="com.example"), "type"),
    (wire(type=["ai.team.command"]), "type"),
    (wire(type=None), "type"),
    (wire(id=None), "no id"),
    (wire(id=""), "no id"),
    (wire(id=7), "not text"),
    (wire(source=None), "no source"),
    (wire(source={}), "no id or no source"),
    (wire(source=["x"]), "not text"),
    (wire(subject="a\x1b[2J"), "control character"),
    (wire(subject="x" * 20_000), "16384"),
    (wire(time="yesterday"), "RFC 3339"),
    (wire(time="2026-01-01T00:00:00"), "RFC 3339"),
    (wire(datacontenttype="text/plain"), "application/json"),
    (wire(datacontenttype=5), "application/json"),
    (wire(data_base64="AAAA"), "binary"),
    (wire(data=None), "action"),
    (wire(data=[]), "object"),
    (wire(data={"action": "a"}), "params"),
    (wire(data={"action": "", "params": {}}), "action"),
    (wire(data={"action": 1, "params": {}}), "action"),
    (wire(data={"action": "a", "params": []}), "params"),
    (wire(type="ai.team.result", data={}), "result"),
    (wire(type="ai.team.error", data={"code": "X"}), "message"),
    (wire(type="ai.team.error", data={"code": "X", "message": "m", "outcome": "done"}), "outcome"),
    (wire(type="ai.team.error", data={"code": "X", "message": "m", "outcome": ["refused"]}), "outcome"),
    (wire(type="ai.team.error", data={"code": "X", "message": "m", "retryable": 1}), "retryable"),
    (wire(type="ai.team.error", data={"code": "X", "message": "m", "details": []}), "details"),
    (wire(type="ai.team.control", data={}), "signal"),
    (wire(priority=10), "priority"),
    (wire(priority=-1), "priority"),
    (wire(priority="5"), "priority"),
    (wire(priority=True), "priority"),
    (wire(priority=False), "priority"),
    (wire(priority=0.0), "priority"),
    (wire(timeoutms=-1), "timeoutms"),
    (wire(timeoutms=2**31), "timeoutms"),
    (wire(timeoutms=1.5), "timeoutms"),
    (wire(nodeload="1/2/3"), "nodeload"),
    (wire(nodeload="1/2/3/-4"), "nodeload"),
    (wire(nodeload="1/2/3/" + "9" * 4000), "nodeload"),
    (wire(ancestors=["a"]), "not text"),
    (wire(Upper="x"), "attribute"),
    (wire(ext={"a": 1}), "neither text"),
    (wire(**{f"x{n}": "y" for n in range(40)}), "more than 32"),
    (wire().replace(b'"n": 1', b'"n": NaN'), "NaN"),
    (wire().replace(b'"n": 1', b'"n": -Infinity'), "Infinity"),
    (wire().replace(b'"n": 1', b'"n": 1e999'), "out of range"),
    (wire().replace(b'"n": 1', b'"n": ' + b"9" * 5000), "not JSON"),
    (wire().replace(b'"n": 1', b'"n": "\\ud800"'), "surrogate"),
    (wire().replace(b'"n": 1', b'"\\uDFFF": 1'), "surrogate"),
    (wire().replace(b'"n": 1', b'"n": "\xed\xa0\x80"'), "UTF-8"),
    (nested(MAX_DEPTH), "deeper"),
    (nested(100_000), "deeper"),
]


# Ids of their own: each process of a parallel run must name the cases alike, and a message holds random bits.
@pytest.mark.parametrize(("raw", "words"), WRONG, ids=[f"{n}-{words}" for n, (_, words) in enumerate(WRONG)])
def test_what_is_wrong_is_refused_with_a_word_that_says_what(raw: bytes, words: str) -> None:
    with pytest.raises(MessageError, match=re.escape(words)):
        Message.from_bytes(raw)


def test_a_message_over_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(MessageError, match="11 bytes, the limit is 10") as caught:
        Message.from_bytes(b"not JSON at", limit=10)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED


@given(st.binary(max_size=200) | messages().map(Message.to_bytes))
@example(b"0")
@example(b"null")
def test_reading_raises_nothing_but_message_error(raw: bytes) -> None:
    try:
        message = Message.from_bytes(raw)
    except MessageError:
        return
    assert Message.from_bytes(message.to_bytes()) == message


@given(st.data())
def test_a_damaged_message_is_read_or_refused(data: st.DataObject) -> None:
    raw = bytearray(data.draw(messages()).to_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(raw) - 1))
        raw[position] = data.draw(st.integers(0, 255))
    try:
        message = Message.from_bytes(bytes(raw))
    except MessageError:
        return
    assert Message.from_bytes(message.to_bytes()) == message


CHANGED = [
    "id",
    "source",
    "subject",
    "time",
    "priority",
    "timeoutms",
    "ancestors",
    "nodeload",
    "data",
    "type",
]
CHANGED += ["specversion", "datacontenttype", "idempotencykey", "traceparent", "other"]


@given(
    st.dictionaries(
        st.sampled_from(CHANGED),
        json_values,
        min_size=1,
    )
)
def test_an_attribute_of_any_type_is_read_or_refused(changes: dict[str, Any]) -> None:
    try:
        Message.from_bytes(wire(**changes))
    except MessageError:
        return


@pytest.mark.parametrize(
    "change",
    [
        {"priority": 10},
        {"priority": 1.0},
        {"timeout": -1},
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"source": "a\nb"},
        {"subject": "\ud800"},
        {"id": "x" * 20_000},
        {"time": "now"},
        {"extensions": {"Upper": "x"}},
        {"extensions": {"id": "x"}},
        {"extensions": {"ok": 5}},
        {"data": {"action": "a"}},
        {"data": []},
    ],
    ids=repr,
)
def test_what_nobody_would_read_is_not_written(change: dict[str, Any]) -> None:
    message = Message.command("a")
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(MessageError):
        message.to_bytes()


def test_depth_is_bounded_on_both_sides_and_a_circle_refused() -> None:
    def deep(levels: int) -> Message:
        value: Any = 0
        for _ in range(levels):
            value = [value]
        return Message.command("a", {"v": value})

    most = MAX_DEPTH - 3  # the event, its data, the params
    assert Message.from_bytes(deep(most).to_bytes()).action == "a"
    with pytest.raises(MessageError, match="deeper"):
        deep(most + 1).to_bytes()
    with pytest.raises(MessageError, match="deeper"):
        deep(50_000).to_bytes()
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(MessageError):
        Message.command("a", {"v": circle}).to_bytes()


def test_a_wide_message_is_not_mistaken_for_a_deep_one() -> None:
    message = Message.command("a", {"rows": [{"n": [n]} for n in range(1000)]})
    assert Message.from_bytes(message.to_bytes()) == message


# --- ids --------------------------------------------------------------------------------------------------------


# From 3.12 on Python warns of threads at a fork; pytest has one for its timeout.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_ids_are_unique_across_a_fork() -> None:
    before = new_id()
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writable, ",".join(new_id() for _ in range(100)).encode())
        os._exit(0)
    os.close(writable)
    with os.fdopen(readable) as stream:
        theirs = stream.read().split(",")
    os.waitpid(child, 0)
    ours = [before] + [new_id() for _ in range(100)]
    assert len(set(ours) | set(theirs)) == 201


# --- errors -----------------------------------------------------------------------------------------------------

ATTEMPT = Attempt("default/a", 0.1, 0.2, "it died", Code.UNAVAILABLE, "refused")


@pytest.mark.parametrize(
    "error",
    [
        RemoteError("it broke", code=Code.INTERNAL, retryable=True, details={"line": 3}),
        RemoteError("stopped itself", code=Code.CANCELLED),
        InvalidParamsError("no topic", outcome="refused"),
        InvalidResultError("no title"),
        MessageError("too large"),
        DeliveryError("full", code=Code.RESOURCE_EXHAUSTED, outcome="refused", details={"active": 4}),
        CallTimeoutError("too late"),
        CallCancelledError("stopped", outcome="refused"),
        BusUnavailableError("gone"),
        AllNodesBusyError("all busy", retry_after=2.5),
        CallTimeoutError("too late", attempts=[ATTEMPT]),
    ],
    ids=lambda error: f"{type(error).__name__}-{error.code}",
)
def test_an_error_comes_back_as_the_exception_that_it_was(error: CallError) -> None:
    command = Message.command("a")
    message = Message.from_bytes(Message.error_for(command, error).to_bytes())
    assert message.correlation == command.id
    back = error_from(message)
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert (back.code, back.outcome, back.retryable) == (error.code, error.outcome, error.retryable)
    assert (back.details, back.attempts) == (error.details, error.attempts)
    if isinstance(error, AllNodesBusyError):
        assert isinstance(back, AllNodesBusyError)
        assert back.retry_after == 2.5


@pytest.mark.parametrize("kind", [DeliveryError, BusUnavailableError])
def test_an_answer_cannot_say_that_its_caller_heard_nothing(kind: type[CallError]) -> None:
    told = kind("gone", details={**UNHEARD, **OUT_OF_REACH, **STOPPED, "line": 3})
    back = error_from(Message.error_for(Message.command("a"), told))
    assert back.details == {**STOPPED, "line": 3}
    told = RemoteError("gone", details={"silent": True, "broker": "mine"})
    assert error_from(Message.error_for(Message.command("a"), told)).details == told.details


def test_any_other_exception_of_a_handler_becomes_a_remote_error() -> None:
    back = error_from(Message.error_for(Message.command("a"), ValueError("three is no title")))
    assert isinstance(back, RemoteError)
    assert str(back) == "ValueError: three is no title"
    assert (back.code, back.outcome, back.retryable) == (Code.UNKNOWN, "unknown", False)
    cancelled = error_from(Message.error_for(Message.command("a"), asyncio.CancelledError()))
    assert isinstance(cancelled, CallCancelledError)


def test_an_error_that_no_answer_can_mean_is_a_remote_error() -> None:
    inner = NoCapableNodesError("nobody can fly", capability="fly")
    back = error_from(Message.error_for(Message.command("a"), RemoteError(str(inner), code=inner.code)))
    assert type(back) is RemoteError
    hostile = Message(Kind.ERROR, {"code": "INTERNAL", "message": "m", "reason": "SystemExit"})
    assert type(error_from(hostile)) is RemoteError


@pytest.mark.parametrize(
    ("code", "outcome", "expected"),
    [
        ("CANCELLED", "unknown", CallCancelledError),
        ("DEADLINE_EXCEEDED", "unknown", CallTimeoutError),
        ("INVALID_ARGUMENT", "refused", InvalidParamsError),
        ("INVALID_ARGUMENT", "unknown", RemoteError),
        ("RESOURCE_EXHAUSTED", "refused", DeliveryError),
        ("FAILED_PRECONDITION", "not_sent", DeliveryError),
        ("INTERNAL", "unknown", RemoteError),
        ("NO_SUCH_CODE", "unknown", RemoteError),
    ],
)
def test_without_a_reason_the_code_and_the_outcome_decide(
    code: str, outcome: str, expected: type[CallError]
) -> None:
    message = Message(Kind.ERROR, {"code": code, "message": "m", "outcome": outcome})
    error = error_from(Message.from_bytes(message.to_bytes()))
    assert type(error) is expected
    assert error.outcome == outcome


def test_an_exception_whose_text_cannot_travel_still_arrives() -> None:
    error = OSError("no such file: \udce9t\udce9.txt" + "!" * 2_000_000)
    back = error_from(Message.from_bytes(Message.error_for(Message.command("a"), error).to_bytes()))
    assert str(back).startswith("OSError: no such file: ?t?.txt!!!")


def test_numbers_that_no_float_holds_do_not_break_the_reading_of_an_error() -> None:
    huge = 10**400
    data = {"code": "X", "message": "m", "retry_after": huge, "reason": "AllNodesBusyError"}
    data["attempts"] = [{"node": "n", "started": huge, "duration": -huge}, "no attempt"]
    error = error_from(Message.from_bytes(Message(Kind.ERROR, data).to_bytes()))
    assert isinstance(error, AllNodesBusyError)
    assert error.retry_after == 1.0
    assert [(each.node, each.started, each.duration) for each in error.attempts] == [("n", 0.0, 0.0)]


@given(json_objects)
def test_an_error_message_of_any_shape_becomes_an_exception(extra: dict[str, Any]) -> None:
    known = {"code": "INTERNAL", "message": "m"}
    for field in ("reason", "attempts", "retry_after"):
        for value in extra.values():
            message = Message(Kind.ERROR, {**known, field: value, "reason": "AllNodesBusyError"})
            assert str(error_from(message)).startswith("m")
            assert isinstance(error_from(Message(Kind.ERROR, {**known, field: value})), CallError)
