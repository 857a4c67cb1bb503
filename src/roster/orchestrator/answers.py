"""What comes back to a caller: results, and who brought them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from roster.errors import Attempt, CallError


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """What one node answered to `call_all`, or to a control signal.

    Attributes:
        node: `namespace/name`.
        result: its result, None when it failed.
        error: why it failed, None when it did not.
    """

    node: str
    result: Any = None
    error: CallError | None = None


@dataclass(frozen=True, slots=True)
class CallAnswer:
    """A result, and how it came about.

    Attributes:
        result: what the node returned.
        node: `namespace/name` of the node that did it.
        attempts: every try, oldest first; the last one brought the result.
        duration: seconds from the call to the result.
    """

    result: Any
    node: str
    attempts: tuple[Attempt, ...]
    duration: float


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """What `stream` yields: `progress` events, then one `result`.

    Attributes:
        type: `progress` or `result`.
        node: `namespace/name` of the node it comes from; after a failover it is another.
        data: the event's data, or the result.
    """

    type: Literal["progress", "result"]
    node: str
    data: Any
