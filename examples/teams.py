"""Which agents each example needs, and what it is run with unless you say otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Example:
    """A card and its team.

    Attributes:
        card: in `cards/`.
        agents: names of passports in `passports/`; the word before the number is the module in `agents/`.
        inputs: of the card.
    """

    card: str
    agents: tuple[str, ...]
    inputs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The card's file."""
        return HERE / "cards" / f"{self.card}.yaml"


EXAMPLES = {
    example.card: example
    for example in (
        Example(
            "report",
            ("files-001", "files-002", "text-001", "text-002", "reports-001"),
            {"file": "bees.txt"},
        ),
        Example("plain_words", ("files-001", "text-001"), {"file": "notice.txt"}),
        Example("orders", ("files-001", "tables-001", "tables-002", "reports-001"), {"file": "orders.csv"}),
        Example("incident", ("files-001", "logs-001", "reports-001"), {"logs": "logs/*.log"}),
        Example("handbook", ("files-001", "links-001", "reports-001"), {"pages": "handbook/**/*.md"}),
        Example("brief", ("files-001", "text-001", "llm-001"), {"file": "lighthouse.txt"}),
    )
}


def module_of(agent: str) -> str:
    """Return the module that runs an agent."""
    return f"examples.agents.{agent.rpartition('-')[0]}"
