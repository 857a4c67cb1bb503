"""What travels on the bus: CloudEvents 1.0 in JSON, of five kinds.

On the wire a message is one structured-mode JSON event: `specversion`, `id`, `source`, `type`, `subject`,
`time`, `datacontenttype`, `data`, and extension attributes whose names are lower-case letters and digits:

    correlationid    the id of the command answered
    replyto          where answers go, where the engine needs to be told
    priority         0 to 9, higher first
    timeoutms        what was left of the deadline when it was sent
    nodeuid          the incarnation of the node that the command is meant for
    idempotencykey   the caller's key for one effect
    ancestors        node keys, comma-joined, oldest first
    nodeload         active/mine/capacity/seq of the node that answers
    traceparent, tracestate   W3C Trace Context

Everything is checked by hand: this is the hot path of each call, and what arrives may be hostile.

Source: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count
from typing import Any, NoReturn, TypeVar, cast, get_args

from roster._clock import utc_now
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
    Outcome,
    RemoteError,
)

MAX_MESSAGE_BYTES = 1024 * 1024
MAX_DEPTH = 64
MAX_ATTRIBUTES_CHARS = 16 * 1024
MAX_EXTENSIONS = 32
MAX_TIMEOUT_MS = 2**31 - 1  # CloudEvents' Integer is 32 bits, signed: 24 days

_E = TypeVar("_E", bound=CallError)


class Kind(StrEnum):
    """The five kinds of message; the value is the CloudEvents `type`."""

    COMMAND = "ai.team.command"
    RESULT = "ai.team.result"
    ERROR = "ai.team.error"
    EVENT = "ai.team.event"
    CONTROL = "ai.team.control"


REQUESTS = (Kind.COMMAND, Kind.CONTROL)
ANSWERS = (Kind.RESULT, Kind.ERROR)
PROGRESS = (Kind.EVENT,)


@dataclass(frozen=True, slots=True)
class Load:
    """A node's load as it rides in an answer.

    Attributes:
        active: commands that the node runs or holds, for everybody.
        mine: how many of those belong to the one who reads this answer.
        capacity: how many it runs at once.
        seq: grows with each report of the node; an older one is worth nothing.
    """

    active: int
    mine: int
    capacity: int
    seq: int


# --- identity -----------------------------------------------------------------------------------------------

_prefix = os.urandom(10).hex()
_counter = count(1)


def _new_process() -> None:
    global _prefix, _counter
    _prefix = os.urandom(10).hex()
    _counter = count(1)


# A forked child would count on from its parent's numbers.
os.register_at_fork(after_in_child=_new_process)


def new_id() -> str:
    """Return an id that no other process has: 80 random bits of this process and a count."""
    return f"{_prefix}-{next(_counter):x}"


# --- JSON ---------------------------------------------------------------------------------------------------


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:32]} is out of range")
    return value


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_decode = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite).decode
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_EXTENSION = re.compile(r"[a-z0-9]{1,32}")
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII)
_LOAD = re.compile(r"(\d{1,9})/(\d{1,9})/(\d{1,9})/(\d{1,18})", re.ASCII)
_KINDS = {str(kind): kind for kind in Kind}
_OUTCOMES = get_args(Outcome)  # a tuple: what is looked up in it may be unhashable
_RESERVED = frozenset(
    {"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data", "data_base64"}
    | {"correlationid", "replyto", "priority", "timeoutms", "nodeuid", "idempotencykey", "ancestors"}
    | {"traceparent", "tracestate", "nodeload"}
)
_ANONYMOUS = "/"  # CloudEvents wants a `source` that is not empty


def _too_deep(value: object) -> bool:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for container in level:
            items = container.values() if isinstance(container, dict) else container
            inner += [item for item in items if isinstance(item, (dict, list, tuple))]
        if not inner:
            return False
        level = inner
    return True


def _size_error(size: int, limit: int) -> MessageError:
    return MessageError(
        f"the message is {size} bytes, the limit is {limit}: hand over a reference to the data instead",
        code=Code.RESOURCE_EXHAUSTED,
    )


@dataclass(slots=True)
class Message:
    """One message.

    Attributes:
        kind: command, result, error, event or control.
        data: command `{"action", "params"}`; result `{"result"}`; error `{"code", "message", "retryable",
            "outcome", "details"}`; control `{"signal", ...}`; event: anything.
        source: URI-reference of the sender, such as `/ai-team/writer-001`; empty for an anonymous caller.
        subject: action, topic or signal.
        id: unique over all processes.
        time: wall time of making, to show.
        correlation: the id of the command answered.
        reply_to: where answers go, for engines that need to be told.
        priority: 0 to 9, higher first.
        timeout: seconds left when it was sent; the receiver counts from receipt, clocks are never compared.
        uid: the incarnation of the node that the command is meant for.
        key: the caller's idempotency key.
        ancestors: keys of the nodes whose handlers led to this command, oldest first.
        traceparent: W3C Trace Context.
        tracestate: W3C Trace Context.
        load: the load of the node that answers.
        extensions: CloudEvents attributes that Roster does not know, kept through a round trip.
    """

    kind: Kind
    data: dict[str, Any]
    source: str = ""
    subject: str = ""
    id: str = field(default_factory=new_id)
    time: str = field(default_factory=utc_now)
    correlation: str = ""
    reply_to: str = ""
    priority: int = 0
    timeout: float | None = None
    uid: str = ""
    key: str = ""
    ancestors: tuple[str, ...] = ()
    traceparent: str = ""
    tracestate: str = ""
    load: Load | None = None
    extensions: dict[str, str] = field(default_factory=dict)

    # --- making ---

    @classmethod
    def command(
        cls,
        action: str,
        params: Mapping[str, Any] | None = None,
        *,
        source: str = "",
        priority: int = 0,
        timeout: float | None = None,
        uid: str = "",
        key: str = "",
        ancestors: tuple[str, ...] = (),
        reply_to: str = "",
        traceparent: str = "",
        tracestate: str = "",
        extensions: Mapping[str, str] | None = None,
    ) -> Message:
        """Make a command: run `action` with `params`. `timeout` is in seconds."""
        return cls(
            Kind.COMMAND,
            {"action": action, "params": dict(params or {})},
            source=source,
            subject=action,
            priority=priority,
            timeout=timeout,
            uid=uid,
            key=key,
            ancestors=ancestors,
            reply_to=reply_to,
            traceparent=traceparent,
            tracestate=tracestate,
            extensions=dict(extensions or {}),
        )

    @classmethod
    def result_for(
        cls, command: Message, value: Any, *, source: str = "", load: Load | None = None
    ) -> Message:
        """Make the answer that carries the result of a command; `value` is anything JSON can say."""
        return cls(
            Kind.RESULT,
            {"result": value},
            source=source,
            subject=command.subject,
            correlation=command.id,
            traceparent=command.traceparent,
            tracestate=command.tracestate,
            load=load,
        )

    @classmethod
    def error_for(
        cls, command: Message, error: BaseException, *, source: str = "", load: Load | None = None
    ) -> Message:
        """Make the answer that says why a command brought no result.

        A `CallError` travels with all its fields; any other exception becomes a `RemoteError` that names its
        type.
        """
        return cls(
            Kind.ERROR,
            _error_data(error),
            source=source,
            subject=command.subject,
            correlation=command.id,
            traceparent=command.traceparent,
            tracestate=command.tracestate,
            load=load,
        )

    @classmethod
    def event(
        cls,
        subject: str,
        data: Mapping[str, Any] | None = None,
        *,
        source: str = "",
        correlation: str = "",
        load: Load | None = None,
    ) -> Message:
        """Make an event; with `correlation` it tells of the progress of that command."""
        return cls(
            Kind.EVENT, dict(data or {}), source=source, subject=subject, correlation=correlation, load=load
        )

    @classmethod
    def control(
        cls,
        signal: str,
        data: Mapping[str, Any] | None = None,
        *,
        source: str = "",
        timeout: float | None = None,
        uid: str = "",
    ) -> Message:
        """Make a control message: `stop`, `pause`, `resume`, `shutdown`, `config`, or any other signal."""
        return cls(
            Kind.CONTROL,
            {**(data or {}), "signal": signal},
            source=source,
            subject=signal,
            timeout=timeout,
            uid=uid,
        )

    # --- reading ---

    @property
    def action(self) -> str:
        """The action of a command, empty for other kinds."""
        return str(self.data.get("action", "")) if self.kind is Kind.COMMAND else ""

    @property
    def params(self) -> dict[str, Any]:
        """The params of a command, empty for other kinds."""
        return cast("dict[str, Any]", self.data.get("params", {})) if self.kind is Kind.COMMAND else {}

    @property
    def signal(self) -> str:
        """The signal of a control message, empty for other kinds."""
        return str(self.data.get("signal", "")) if self.kind is Kind.CONTROL else ""

    # --- the wire ---

    def to_bytes(self, *, limit: int = MAX_MESSAGE_BYTES) -> bytes:
        """Return the message as CloudEvents JSON in UTF-8.

        Raises:
            MessageError: something in it is not JSON, an attribute is wrong, or it is over `limit` bytes.
        """
        event: dict[str, Any] = {
            "specversion": "1.0",
            "id": self.id,
            "source": self.source or _ANONYMOUS,
            "type": self.kind.value,
        }
        if self.subject:
            event["subject"] = self.subject
        if self.time:
            event["time"] = self.time
        if self.correlation:
            event["correlationid"] = self.correlation
        if self.reply_to:
            event["replyto"] = self.reply_to
        if self.uid:
            event["nodeuid"] = self.uid
        if self.key:
            event["idempotencykey"] = self.key
        if self.ancestors:
            event["ancestors"] = ",".join(self.ancestors)
        if self.traceparent:
            event["traceparent"] = self.traceparent
        if self.tracestate:
            event["tracestate"] = self.tracestate
        if self.load is not None:
            load = self.load
            event["nodeload"] = f"{load.active}/{load.mine}/{load.capacity}/{load.seq}"
        if self.extensions:
            for name, value in self.extensions.items():
                if name in _RESERVED or not _EXTENSION.fullmatch(name):
                    raise MessageError(
                        f"{name!r} is no name for an extension: 1 to 32 of a-z and 0-9, none of Roster's own"
                    )
                event[name] = value
        if "time" in event and not _TIME.fullmatch(self.time):
            raise MessageError(f"the time {self.time[:40]!r} is not RFC 3339")
        _check_attributes(event.values())
        if self.priority:
            event["priority"] = _checked_priority(self.priority)
        if self.timeout is not None:
            if not 0 <= self.timeout < math.inf:
                raise MessageError(f"the timeout must be a number of seconds from 0, not {self.timeout}")
            # Up to the next millisecond, but not for the last bit of a product of floats.
            event["timeoutms"] = min(math.ceil(self.timeout * 1000 - 1e-6), MAX_TIMEOUT_MS)
        event["datacontenttype"] = "application/json"
        event["data"] = _checked_data(self.kind, self.data)
        try:
            raw = _encode(event).encode()
        except UnicodeEncodeError as error:
            raise MessageError("the message holds a lone surrogate, which is no character") from error
        except TypeError as error:
            raise MessageError(f"the message holds what JSON cannot say: {error}") from error
        except RecursionError as error:
            raise MessageError(f"the message is nested deeper than {MAX_DEPTH} levels") from error
        except ValueError as error:  # NaN and infinities, cycles, integers of more than 4 300 digits
            raise MessageError(f"the message holds what JSON cannot say: {error}") from error
        if len(raw) > limit:
            raise _size_error(len(raw), limit)
        if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH and _too_deep(event):
            raise MessageError(f"the message is nested deeper than {MAX_DEPTH} levels")
        return raw

    @classmethod
    def from_bytes(cls, raw: bytes | bytearray | memoryview, *, limit: int = MAX_MESSAGE_BYTES) -> Message:
        """Read a message from CloudEvents JSON.

        Raises:
            MessageError: it is over `limit` bytes, is not a CloudEvent 1.0 of one of the five kinds, or its
                data are not what its kind asks for.
        """
        if len(raw) > limit:
            raise _size_error(len(raw), limit)
        try:
            text = str(raw, "utf-8")
            event = _decode(text)
            if "\\u" in text and _SURROGATE_ESCAPE.search(text):
                _encode(event).encode()  # a pair is one character now; a lone half cannot be encoded
        except UnicodeDecodeError as error:
            raise MessageError("the message is not UTF-8") from error
        except UnicodeEncodeError as error:
            raise MessageError("the message holds a lone surrogate, which is no character") from error
        except RecursionError as error:
            raise MessageError(f"the message is nested deeper than {MAX_DEPTH} levels") from error
        except ValueError as error:
            raise MessageError(f"the message is not JSON: {error}") from error
        if not isinstance(event, dict):
            raise MessageError("the message is not a JSON object")
        if text.count("{") + text.count("[") > MAX_DEPTH and _too_deep(event):
            raise MessageError(f"the message is nested deeper than {MAX_DEPTH} levels")
        return _from_event(event)


def check_kind(message: Message, kinds: tuple[Kind, ...]) -> None:
    """Refuse a message that has no business in its place, such as an event where an answer is due.

    Raises:
        MessageError: its kind is none of these.
    """
    if message.kind not in kinds:
        raise MessageError(f"a message of type {message.kind} where {' or '.join(kinds)} belongs")


def _check_attributes(values: Any) -> None:
    try:
        together = "".join(values)
    except TypeError as error:
        raise MessageError("an attribute of the message is not text") from error
    if len(together) > MAX_ATTRIBUTES_CHARS:
        raise MessageError(f"the message's attributes together are over {MAX_ATTRIBUTES_CHARS} characters")
    if _CONTROL.search(together):
        raise MessageError("an attribute of the message holds a control character")


def _checked_priority(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= 9:
        raise MessageError("the message's priority is not an integer from 0 to 9")
    return value


def _checked_data(kind: Kind, data: Any) -> dict[str, Any]:
    """Return `data` if it is what the kind asks for."""
    if not isinstance(data, dict):
        raise MessageError("the message's data are not a JSON object")
    if kind is Kind.COMMAND:
        action = data.get("action")
        if not isinstance(action, str) or not action or not isinstance(data.get("params"), dict):
            raise MessageError("a command's data need `action` (text) and `params` (an object)")
    elif kind is Kind.RESULT:
        if "result" not in data:
            raise MessageError("a result's data need `result`")
    elif kind is Kind.ERROR:
        if not isinstance(data.get("code"), str) or not isinstance(data.get("message"), str):
            raise MessageError("an error's data need `code` and `message` (text)")
        if data.get("outcome", "unknown") not in _OUTCOMES or not isinstance(
            data.get("retryable", False), bool
        ):
            raise MessageError(
                "an error's `outcome` is not_sent, refused or unknown, its `retryable` a boolean"
            )
        if not isinstance(data.get("details", {}), dict):
            raise MessageError("an error's `details` are not an object")
    elif kind is Kind.CONTROL:
        signal = data.get("signal")
        if not isinstance(signal, str) or not signal:
            raise MessageError("a control message's data need `signal` (text)")
    return data


def _from_event(event: dict[str, Any]) -> Message:
    take = event.pop
    if take("specversion", None) != "1.0":
        raise MessageError("the message is not a CloudEvent of specversion 1.0")
    type_ = take("type", None)
    kind = _KINDS.get(type_) if isinstance(type_, str) else None
    if kind is None:
        raise MessageError(f"the message's type {str(type_)[:80]!r} is none of {', '.join(_KINDS)}")
    content = take("datacontenttype", "application/json")
    if content != "application/json" and (
        not isinstance(content, str) or content.partition(";")[0].strip().lower() != "application/json"
    ):
        raise MessageError("the message's data are not application/json")
    if "data_base64" in event:
        raise MessageError("the message's data are binary; Roster takes JSON")
    data = _checked_data(kind, take("data", {}))
    priority = take("priority", 0)
    if priority != 0 or type(priority) is not int:
        _checked_priority(priority)
    timeout_ms = take("timeoutms", None)
    if timeout_ms is not None and (type(timeout_ms) is not int or not 0 <= timeout_ms <= MAX_TIMEOUT_MS):
        raise MessageError(f"the message's timeoutms is not an integer from 0 to {MAX_TIMEOUT_MS}")
    id_ = take("id", "")
    source = take("source", "")
    if not id_ or not source:
        raise MessageError("the message has no id or no source")
    time = take("time", "")
    subject = take("subject", "")
    correlation = take("correlationid", "")
    reply_to = take("replyto", "")
    uid = take("nodeuid", "")
    key = take("idempotencykey", "")
    ancestors = take("ancestors", "")
    traceparent = take("traceparent", "")
    tracestate = take("tracestate", "")
    node_load = take("nodeload", "")
    _check_attributes(
        (
            id_,
            source,
            time,
            subject,
            correlation,
            reply_to,
            uid,
            key,
            ancestors,
            traceparent,
            tracestate,
            node_load,
        )
    )
    if time and not _TIME.fullmatch(time):
        raise MessageError("the message's time is not RFC 3339")
    return Message(
        kind,
        data,
        "" if source == _ANONYMOUS else source,
        subject,
        id_,
        time,
        correlation,
        reply_to,
        priority,
        None if timeout_ms is None else timeout_ms / 1000,
        uid,
        key,
        tuple(ancestors.split(",")) if ancestors else (),
        traceparent,
        tracestate,
        _read_load(node_load) if node_load else None,
        _extensions(event) if event else {},
    )


def _read_load(text: str) -> Load:
    match = _LOAD.fullmatch(text)
    if match is None:
        raise MessageError("the message's nodeload is not active/mine/capacity/seq")
    return Load(*(int(part) for part in match.groups()))


def _extensions(event: dict[str, Any]) -> dict[str, str]:
    """Return what is left of an event: attributes unknown to Roster, as CloudEvents' canonical text."""
    if len(event) > MAX_EXTENSIONS:
        raise MessageError(f"the message has more than {MAX_EXTENSIONS} unknown attributes")
    found: dict[str, str] = {}
    for name, value in event.items():
        if not _EXTENSION.fullmatch(name):
            raise MessageError(f"{name[:40]!r} is no name for a CloudEvents attribute")
        if value is None:
            continue  # the JSON format says: as if it were absent
        if isinstance(value, bool):
            found[name] = "true" if value else "false"
        elif isinstance(value, (str, int)):
            found[name] = str(value)
        else:
            raise MessageError(f"the attribute {name} is neither text, integer nor boolean")
    _check_attributes(found.values())
    return found


# --- errors -------------------------------------------------------------------------------------------------

_CLASSES: dict[str, type[CallError]] = {
    each.__name__: each
    for each in (
        InvalidParamsError,
        InvalidResultError,
        MessageError,
        BusUnavailableError,
        DeliveryError,
        RemoteError,
        CallTimeoutError,
        CallCancelledError,
    )
}
_MAX_ATTEMPTS = 16


def _error_data(error: BaseException) -> dict[str, Any]:
    if not isinstance(error, CallError):
        if isinstance(error, asyncio.CancelledError):
            error = CallCancelledError("the work was cancelled")
        else:
            error = RemoteError(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
    data: dict[str, Any] = {
        "code": str(error.code),
        "message": str(error.args[0]) if error.args else "",
        "retryable": bool(error.retryable),
        "outcome": error.outcome,
        "reason": type(error).__name__,
        "details": error.details,
    }
    if isinstance(error, AllNodesBusyError):
        data["retry_after"] = error.retry_after
    if error.attempts:
        data["attempts"] = [
            {
                "node": attempt.node,
                "started": attempt.started,
                "duration": attempt.duration,
                "error": attempt.error,
                "code": str(attempt.code),
                "outcome": attempt.outcome,
            }
            for attempt in error.attempts[-_MAX_ATTEMPTS:]
        ]
    return data


def _code(value: Any) -> Code:
    try:
        return Code(value)
    except ValueError:
        return Code.UNKNOWN


def _attempts(value: Any) -> list[Attempt]:
    found: list[Attempt] = []
    for each in value[:_MAX_ATTEMPTS] if isinstance(value, list) else []:
        if not isinstance(each, dict):
            continue
        started, duration, outcome = each.get("started"), each.get("duration"), each.get("outcome")
        found.append(
            Attempt(
                node=str(each.get("node", "")),
                started=float(started) if isinstance(started, (int, float)) else 0.0,
                duration=float(duration) if isinstance(duration, (int, float)) else 0.0,
                error=str(each.get("error", "")),
                code=_code(each.get("code")),
                outcome=cast("Outcome", outcome) if outcome in _OUTCOMES else "unknown",
            )
        )
    return found


def error_from(message: Message) -> CallError:
    """Return the exception that an error message tells of, with its code, outcome, details and attempts.

    The class is the one the sender names in `reason`, if it is one that an answer can mean. Without that: the
    code and the outcome decide (`CANCELLED`, `DEADLINE_EXCEEDED`, a refused `INVALID_ARGUMENT`, any other
    refusal); what is left is a `RemoteError`.
    """
    data = message.data
    code = _code(data.get("code"))
    outcome = cast("Outcome", data.get("outcome", "unknown"))
    reason = data.get("reason")
    text = str(data.get("message", ""))
    retryable = bool(data.get("retryable", False))
    details = cast("dict[str, Any]", data.get("details", {}))
    attempts = _attempts(data.get("attempts"))
    if reason == "AllNodesBusyError":
        after = data.get("retry_after")
        busy = AllNodesBusyError(
            text, retry_after=float(after) if isinstance(after, (int, float)) else 1.0, attempts=attempts
        )
        return _filled(busy, code, outcome, retryable, details)
    found = _CLASSES.get(reason) if isinstance(reason, str) else None
    if found is None:
        if code is Code.CANCELLED:
            found = CallCancelledError
        elif code is Code.DEADLINE_EXCEEDED:
            found = CallTimeoutError
        elif outcome == "unknown":
            found = RemoteError
        else:
            found = InvalidParamsError if code is Code.INVALID_ARGUMENT else DeliveryError
    return _filled(found(text, attempts=attempts), code, outcome, retryable, details)


def _filled(error: _E, code: Code, outcome: Outcome, retryable: bool, details: dict[str, Any]) -> _E:
    error.code, error.outcome, error.retryable, error.details = code, outcome, retryable, dict(details)
    return error
