"""A node as routing sees it, and a clock that a test moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from roster.passport import Selector

WRITE = "write_article"


@dataclass(frozen=True)
class FakeNode:
    """Satisfies `Routable`; `with_` makes a changed copy."""

    name: str
    active_tasks: int = 0
    capacity: int = 3
    namespace: str = "default"
    uid: str = "u1"
    state: str = "ready"
    seq: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)
    capabilities: Mapping[str, str | None] = field(default_factory=lambda: {WRITE: "1.0.0"})
    withdrawn: tuple[str, ...] = ()
    document: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def mindbus_queue(self) -> str:
        return f"agent.{self.name}"

    def matches(self, selector: Selector) -> bool:
        return selector.matches(self.labels, self.document)

    def with_(self, **changes: Any) -> FakeNode:
        return replace(self, **changes)


class FakeClock:
    """Stands until it is moved."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += seconds
