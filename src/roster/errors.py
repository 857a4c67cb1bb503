"""Every exception that Roster raises, in one tree.

    RosterError
    ├── DocumentError            a passport or another document is wrong; lists every fault
    ├── SelectorError            a label selector or version range cannot be read
    ├── ConfigError              a URL, option or environment variable is wrong
    ├── StoreError
    │   ├── StoreUnavailableError    out of reach, or silent past the deadline
    │   ├── StoreDeniedError         the store knows us not, or forbids what was asked
    │   ├── StoreCorruptedError      the file is not what it should be
    │   ├── RevisionCompactedError   the changes asked for are gone: list again
    │   ├── ConflictError            a condition of a write did not hold
    │   ├── LeaseLostError           the lease ended; what was bound to it is gone
    │   └── LimitError               a key or value is over a limit
    ├── RegistryError
    │   ├── NameConflictError        a live process holds this name
    │   └── NodeNotFoundError        no such node
    ├── NodeError                an agent contradicts its passport, or cannot start
    ├── CardError                a step of a process card cannot be carried out as it is written
    │   └── ExpressionError          an expression in it has no value
    └── CallError                a command did not bring back a result
        ├── NoCapableNodesError      nobody can do it
        ├── AllNodesBusyError        those who can have no room
        ├── InvalidParamsError       params against the capability's input schema
        ├── InvalidResultError       a handler's result against its output schema
        ├── MessageError             a message is malformed or too large
        ├── BusUnavailableError      the bus, or the queue, cannot be reached
        ├── DeliveryError            the node died or refused before it answered
        ├── LetterNotFoundError      no such dead letter
        ├── RemoteError              the handler raised; carries its code
        ├── CallTimeoutError         the deadline passed (also a TimeoutError)
        └── CallCancelledError       somebody stopped the work

A message says what was tried, on what, and what to do. `outcome` on each `CallError` says what is known of the work:
`not_sent` and `refused` are always safe to send again, `unknown` may have run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Literal

Outcome = Literal["not_sent", "refused", "unknown"]


class Code(StrEnum):
    """The status codes of google.rpc that travel in error messages.

    Source: https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto
    """

    CANCELLED = "CANCELLED"
    UNKNOWN = "UNKNOWN"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    ABORTED = "ABORTED"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    INTERNAL = "INTERNAL"
    UNAVAILABLE = "UNAVAILABLE"
    DATA_LOSS = "DATA_LOSS"
    UNAUTHENTICATED = "UNAUTHENTICATED"


class RosterError(Exception):
    """The root. `exit_code` is what the command line exits with when this error ends it."""

    exit_code: ClassVar[int] = 1


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong in a document: where it stands, and what was expected there.

    Attributes:
        path: dotted path in the document, such as `spec.capabilities[1].name`; empty for the document itself.
        message: what is wrong and what was expected.
        line: 1-based line in the source, None where the document has no text.
        column: 1-based column in the source.
    """

    path: str
    message: str
    line: int | None = None
    column: int | None = None


class DocumentError(RosterError, ValueError):
    """A document is wrong. Its text is one line a fault, `source:line:column: path: message`."""

    def __init__(self, source: str, faults: Sequence[Fault]) -> None:
        self.source = source
        self.faults = tuple(faults)
        super().__init__("\n".join(self.lines()))

    def lines(self) -> list[str]:
        """Return each fault as one line of text."""
        out = []
        for fault in self.faults:
            where = self.source
            if fault.line is not None:
                where += f":{fault.line}:{fault.column or 1}"
            out.append(
                f"{where}: {fault.path}: {fault.message}" if fault.path else f"{where}: {fault.message}"
            )
        return out


class SelectorError(RosterError, ValueError):
    """A label selector or a version range cannot be read."""


class ConfigError(RosterError, ValueError):
    """A URL, an option or an environment variable is wrong."""


class StoreError(RosterError):
    """The engine under the registry failed."""

    exit_code = 3


class StoreUnavailableError(StoreError):
    """The store is out of reach or silent; what was asked may or may not have happened."""


class StoreDeniedError(StoreError):
    """The store refuses us: user, password, token or certificate is wrong, or may not do what was asked."""


class StoreCorruptedError(StoreError):
    """The registry file is damaged, replaced, or not a Roster registry."""


class RevisionCompactedError(StoreError):
    """A watch asked for changes that the store no longer keeps: list again, then watch from there.

    Attributes:
        compacted: the newest revision that is gone (or the store's revision, when the asked one lies in its future).
    """

    def __init__(self, message: str, compacted: int) -> None:
        self.compacted = compacted
        super().__init__(message)


class ConflictError(StoreError):
    """A condition of a write did not hold; nothing was written.

    Attributes:
        key: the first key whose condition failed.
        mod_revision: that key's revision at the time, 0 when it is absent.
    """

    def __init__(self, message: str, key: str, mod_revision: int) -> None:
        self.key = key
        self.mod_revision = mod_revision
        super().__init__(message)


class LeaseLostError(StoreError):
    """The lease has ended; everything that was bound to it is gone."""


class LimitError(StoreError, ValueError):
    """A key or a value is over a limit of the store."""


class RegistryError(RosterError):
    """The registry refused."""


class NameConflictError(RegistryError):
    """A live process already holds this name."""

    exit_code = 4


class NodeNotFoundError(RegistryError, LookupError):
    """No node of this name is registered."""

    exit_code = 5


class NodeError(RosterError):
    """An agent contradicts its passport, or cannot start or serve."""


class CardError(RosterError):
    """A step of a process card cannot be carried out as it is written: a variable that is too large, an expression without a
    value.

    Attributes:
        step: the step's id.
        field: where in the step, such as `params.topic`.
        reason: the message without them.
    """

    def __init__(self, reason: str, *, step: str, field: str) -> None:
        self.step = step
        self.field = field
        self.reason = reason
        super().__init__(f"step {step}: {field}: {reason}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _remake, (type(self), self.reason, self.step, self.field)


def _remake(kind: type[CardError], reason: str, step: str, field: str) -> CardError:
    return kind(reason, step=step, field=field)


class ExpressionError(CardError, ValueError):
    """An expression has no value: a name that is not set, types that do not compare, a value over a limit."""


class RunError(RosterError):
    """A run of a process card cannot be done, or cannot be done with."""


class RunsUnavailableError(RunError):
    """The database of runs is out of reach, damaged, or refuses."""

    exit_code = 3


class RunNotFoundError(RunError, LookupError):
    """There is no such run."""

    exit_code = 5


class RunConflictError(RunError):
    """The run is not in the state for that, or another run has its id."""

    exit_code = 11


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of a call.

    Attributes:
        node: `namespace/name` of the node.
        started: seconds after the call began.
        duration: seconds that the try took.
        error: why it ended, one line; empty for the try that brought the result.
        code: the error's code; None for the try that brought the result.
        outcome: what is known of the work; None for the try that brought the result.
    """

    node: str
    started: float
    duration: float
    error: str = ""
    code: Code | None = None
    outcome: Outcome | None = None


class CallError(RosterError):
    """A command did not bring back a result.

    Attributes:
        code: google.rpc code.
        outcome: `not_sent`, `refused` (both safe to send again) or `unknown` (it may have run).
        retryable: whether another node, or a later try, may do better.
        attempts: the tries made, oldest first.
        details: what the other side added, JSON.
        summary: the message alone; `str()` adds the table of nodes and the tries.
    """

    exit_code = 6
    code: Code = Code.UNKNOWN
    outcome: Outcome = "unknown"
    retryable: bool = False

    def __init__(
        self,
        message: str,
        *,
        code: Code | None = None,
        outcome: Outcome | None = None,
        retryable: bool | None = None,
        details: Mapping[str, Any] | None = None,
        attempts: Sequence[Attempt] = (),
    ) -> None:
        super().__init__(message)
        self.summary = message
        if code is not None:
            self.code = code
        if outcome is not None:
            self.outcome = outcome
        if retryable is not None:
            self.retryable = retryable
        self.details: dict[str, Any] = dict(details or {})
        self.attempts: tuple[Attempt, ...] = tuple(attempts)

    def __str__(self) -> str:
        text = super().__str__()
        failed = [attempt for attempt in self.attempts if attempt.error]
        if not failed:
            return text
        tries = "; ".join(
            f"{attempt.node} at +{attempt.started:.3f}s for {attempt.duration:.3f}s: {attempt.error}"
            for attempt in failed
        )
        return f"{text} (tried {tries})"


@dataclass(frozen=True, slots=True)
class PassedOver:
    """Why one node that has the capability was not chosen, or might be: exactly one reason a node.

    Attributes:
        node: `namespace/name`.
        reason: for people, one clause.
        state: its state, empty where it does not matter.
        load: its tasks by its capacity, None where it does not matter.
        candidate: whether it could be chosen: true only in what `explain` returns.
    """

    node: str
    reason: str
    state: str = ""
    load: float | None = None
    candidate: bool = False


def _with_table(message: str, rows: Sequence[PassedOver]) -> str:
    table = "; ".join(f"{row.node}: {row.reason}" for row in rows)
    return f"{message} ({table})" if table else message


class NoCapableNodesError(CallError):
    """No node can do it: none has the capability, or each that has was passed over.

    Attributes:
        capability: what was asked for.
        passed_over: each node that has the capability, with one reason.
    """

    exit_code = 7
    code = Code.NOT_FOUND
    outcome: Outcome = "not_sent"

    def __init__(
        self,
        message: str,
        *,
        capability: str = "",
        passed_over: Sequence[PassedOver] = (),
        attempts: Sequence[Attempt] = (),
    ) -> None:
        self.capability = capability
        self.passed_over = tuple(passed_over)
        super().__init__(_with_table(message, self.passed_over), attempts=attempts)
        self.summary = message


class AllNodesBusyError(CallError):
    """Every node that can do it is full.

    Attributes:
        retry_after: seconds after which asking again makes sense.
        passed_over: each node that has the capability, with one reason.
    """

    exit_code = 8
    code = Code.RESOURCE_EXHAUSTED
    outcome: Outcome = "not_sent"
    retryable = True

    def __init__(
        self,
        message: str,
        *,
        capability: str = "",
        retry_after: float = 1.0,
        passed_over: Sequence[PassedOver] = (),
        attempts: Sequence[Attempt] = (),
    ) -> None:
        self.capability = capability
        self.retry_after = retry_after
        self.passed_over = tuple(passed_over)
        super().__init__(_with_table(message, self.passed_over), attempts=attempts)
        self.summary = message


class InvalidParamsError(CallError, ValueError):
    """The params contradict the capability's input schema; nothing was sent, or the node refused them."""

    exit_code = 9
    code = Code.INVALID_ARGUMENT
    outcome: Outcome = "not_sent"


class InvalidResultError(CallError):
    """A handler returned what its capability's output schema does not allow."""

    code = Code.INTERNAL


class MessageError(CallError, ValueError):
    """A message is malformed or over the size limit."""

    code = Code.INVALID_ARGUMENT
    outcome: Outcome = "not_sent"


class BusUnavailableError(CallError):
    """The bus or the queue cannot be reached; the message was not sent."""

    code = Code.UNAVAILABLE
    outcome: Outcome = "not_sent"
    retryable = True


class DeliveryError(CallError):
    """The node took the message and is gone, or refused it. `outcome` tells which."""

    code = Code.UNAVAILABLE
    retryable = True


class LetterNotFoundError(CallError, LookupError):
    """No dead letter has this id."""

    exit_code = 5
    code = Code.NOT_FOUND
    outcome: Outcome = "not_sent"


class RemoteError(CallError):
    """The handler raised. `code`, `retryable` and `details` are what it said."""


class CallTimeoutError(CallError, TimeoutError):
    """The deadline passed before an answer came."""

    exit_code = 10
    code = Code.DEADLINE_EXCEEDED


class CallCancelledError(CallError):
    """The work was stopped: by its caller, or by a control signal."""

    code = Code.CANCELLED
