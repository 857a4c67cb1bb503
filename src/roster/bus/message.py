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

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count
from typing import Any, cast

from roster._clock import utc_now
from roster.bus import strictjson
from roster.bus.failure import OUTCOMES, error_data, error_from_data
from roster.errors import CallError, Code, MessageError

MAX_MESSAGE_BYTES = 1024 * 1024
MAX_ATTRIBUTES_CHARS = 16 * 1024
MAX_EXTENSIONS = 32
MAX_TIMEOUT_MS = 2**31 - 1  # CloudEvents' Integer is 32 bits, signed: 24 days


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


# --- attributes ---------------------------------------------------------------------------------------------

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_EXTENSION = re.compile(r"[a-z0-9]{1,32}")
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII)
_LOAD = re.compile(r"(\d{1,9})/(\d{1,9})/(\d{1,9})/(\d{1,18})", re.ASCII)
_KINDS = {str(kind): kind for kind in Kind}
_RESERVED = frozenset(
    {"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data", "data_base64"}
    | {"correlationid", "replyto", "priority", "timeoutms", "nodeuid", "idempotencykey", "ancestors"}
    | {"traceparent", "tracestate", "nodeload"}
)
_ANONYMOUS = "/"  # CloudEvents wants a `source` that is not empty


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
        size: how many bytes it was as it came; 0 for one made here.
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
    size: int = field(default=0, compare=False, repr=False)

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
            error_data(error),
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
        raw = strictjson.encode(event)
        if len(raw) > limit:
            raise _size_error(len(raw), limit)
        return raw

    @classmethod
    def from_bytes(cls, raw: bytes | bytearray | memoryview, *, limit: int = MAX_MESSAGE_BYTES) -> Message:
        """Read a message from CloudEvents JSON.

        Raises:
            MessageError: it is over `limit` bytes, is not a CloudEvent 1.0 of one of the five kinds, or its
                data are not what its kind asks for.
        """
        checked_size(raw, limit)
        event = strictjson.decode(raw)
        if not isinstance(event, dict):
            raise MessageError("the message is not a JSON object")
        message = _from_event(event)
        message.size = len(raw)
        return message

    @classmethod
    def from_event(cls, event: dict[str, Any]) -> Message:
        """Read a message from a CloudEvent's attributes and `data`, as its JSON format has them; `event` is used up.

        Raises:
            MessageError: as for `from_bytes`.
        """
        return _from_event(event)


def checked_size(raw: bytes | bytearray | memoryview, limit: int) -> None:
    """Refuse what is too large to be read.

    Raises:
        MessageError: it is over `limit` bytes.
    """
    if len(raw) > limit:
        raise _size_error(len(raw), limit)


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
        if data.get("outcome", "unknown") not in OUTCOMES or not isinstance(
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


def error_from(message: Message) -> CallError:
    """Return the exception that an error message tells of: see `roster.bus.failure`."""
    return error_from_data(message.data)
