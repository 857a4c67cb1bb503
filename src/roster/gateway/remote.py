"""What stands in for a program at the other end of requests: its handlers, and what waits to be fetched by it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from roster._clock import boottime
from roster.node.handlers import Handler, bind
from roster.node.hands import Work
from roster.passport import NodePassport


@dataclass(slots=True)
class Item:
    """Something that the program should know.

    Attributes:
        seq: its place; they grow.
        body: what the program reads.
        work: the command, None for a notice.
        fetched: whether it was handed to the program at least once.
        at: when it was put here, `CLOCK_BOOTTIME` seconds.
    """

    seq: int
    body: dict[str, Any]
    work: Work | None = None
    fetched: bool = False
    at: float = field(default_factory=boottime)


async def _elsewhere(**params: Any) -> Any:
    """Stand in for the handler, which is at the other end of a request."""
    raise AssertionError("the handler of a node over HTTP is never called here")


def handlers_of(passport: NodePassport) -> dict[str, Handler]:
    """Return what holds params and results against the passport's schemas, by capability."""
    return {capability.name: bind(capability, _elsewhere) for capability in passport.capabilities}
