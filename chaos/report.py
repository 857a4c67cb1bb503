"""What a scenario found, and which of its promises were kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Report:
    """What a scenario found.

    Attributes:
        facts: what was measured, and its value.
        promises: what was promised, and whether it was kept.
    """

    facts: list[tuple[str, str]] = field(default_factory=list)
    promises: list[tuple[str, bool]] = field(default_factory=list)

    def fact(self, what: str, value: object) -> None:
        """Note a figure."""
        self.facts.append((what, str(value)))

    def promise(self, text: str, kept: bool) -> None:
        """Note a promise and whether it was kept."""
        self.promises.append((text, kept))


Scenario = Callable[[str | None, str | None], Awaitable[Report]]
