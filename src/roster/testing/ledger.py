"""What the nodes of a team were asked, in order, by whom, and how it ended."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, overload

from roster.bus import Message, error_from
from roster.bus.message import Kind
from roster.errors import CallError
from roster.testing.bell import Bell

End = Literal["", "result", "error", "cancelled", "lost"]

PATIENCE = 10.0
"""Seconds that a test waits for what it says will happen; then it fails with words."""


@dataclass(slots=True)
class Asked:
    """One command that reached a node.

    Attributes:
        node: `namespace/name` of the node.
        capability: what it was asked to do.
        params: with which params.
        caller: who asked, as a URI reference: `/orchestrator/...`, or `/namespace/name` of a node.
        attempt: 1 for the first try of a call, 2 when another try went before, and so on.
        ancestors: the nodes whose handlers led to this, outermost first.
        priority: 0 to 9.
        key: the caller's idempotency key, or an empty string.
        id: the command's id.
        started: whether the node began the work.
        ended: how it ended: `result`, `error`, `cancelled` (its caller took it back), `lost` (the node died before it
            answered); empty while it is open.
        result: what it brought.
        error: why it failed.
        progress: what the handler said on the way.
    """

    node: str
    capability: str
    params: dict[str, Any]
    caller: str
    attempt: int = 1
    ancestors: tuple[str, ...] = ()
    priority: int = 0
    key: str = ""
    id: str = ""
    started: bool = False
    ended: End = ""
    result: Any = None
    error: CallError | None = None
    progress: list[Mapping[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, node: str, message: Message) -> Asked:
        """Make the entry of a command."""
        params = message.data.get("params")
        number = message.extensions.get("attempt", "1")
        return cls(
            node=node,
            capability=message.action,
            params=params if isinstance(params, dict) else {},
            caller=message.source,
            attempt=int(number) if number.isascii() and number.isdigit() else 1,
            ancestors=message.ancestors,
            priority=message.priority,
            key=message.key,
            id=message.id,
        )

    def answered(self, answer: Message) -> None:
        """Write down how it ended, unless it had ended before."""
        if self.ended:
            return
        if answer.kind is Kind.RESULT:
            self.ended, self.result = "result", answer.data.get("result")
        else:
            self.ended, self.error = "error", error_from(answer)

    def __str__(self) -> str:
        end = {
            "": "is open",
            "result": f"-> {self.result!r}",
            "error": f"failed: {self.error.summary if self.error is not None else ''}",
            "cancelled": "was taken back",
            "lost": "was lost with its node",
        }[self.ended]
        again = "" if self.attempt == 1 else f" (attempt {self.attempt})"
        return f"{self.node} {self.capability}({self.params!r}) by {self.caller}{again} {end}"


class Ledger:
    """The commands that reached a team's nodes, in order of arrival. A sequence of `Asked`; printing it shows a line each.

    Example:
        >>> [asked.params["topic"] for asked in team.ledger.of("write_article")]
        ['bees', 'tides']
        >>> assert all(asked.ended == "result" for asked in team.ledger)
    """

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._lock = threading.Lock()
        self._entries: list[Asked] = []

    def write(self, asked: Asked) -> None:
        """Add an entry. Any thread."""
        with self._lock:
            self._entries.append(asked)
        self._bell.ring()

    def clear(self) -> None:
        """Forget everything up to now."""
        with self._lock:
            self._entries.clear()

    def of(self, capability: str | None = None, *, node: str | None = None) -> list[Asked]:
        """Return the entries of one capability, of one node (`namespace/name`), or of both together."""
        return [
            asked
            for asked in self
            if (capability is None or asked.capability == capability) and (node is None or asked.node == node)
        ]

    async def wait(self, count: int = 1, *, capability: str | None = None, timeout: float = PATIENCE) -> None:
        """Return when at least so many commands have reached a node.

        Raises:
            AssertionError: they have not within `timeout` seconds.
        """
        await self._bell.until(
            lambda: len(self.of(capability)) >= count,
            timeout,
            f"{count} commands{f' of {capability}' if capability else ''}; the ledger says:\n{self}",
        )

    @overload
    def __getitem__(self, index: int) -> Asked: ...
    @overload
    def __getitem__(self, index: slice) -> list[Asked]: ...
    def __getitem__(self, index: int | slice) -> Asked | list[Asked]:
        with self._lock:
            return self._entries[index]

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Asked]:
        with self._lock:
            entries = list(self._entries)
        return iter(entries)

    def __str__(self) -> str:
        return "\n".join(str(asked) for asked in self) or "nobody was asked"


__all__ = ["PATIENCE", "Asked", "End", "Ledger"]
