"""What the demo shows: a live table while it runs, a summary at the end."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_COLOURS = {"ready": "green", "busy": "yellow", "draining": "cyan", "starting": "blue"}
_BAR = 60


@dataclass(slots=True)
class NodeRow:
    """One node as the table shows it."""

    name: str
    state: str = "starting"
    load: int = 0
    capacity: int = 1
    done: int = 0
    note: str = ""


@dataclass(slots=True)
class Board:
    """Everything on the screen."""

    total: int
    answered: int = 0
    failed: int = 0
    rerouted: int = 0
    rows: dict[str, NodeRow] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def row(self, name: str) -> NodeRow:
        """Return the row of a node, a new one if there is none."""
        return self.rows.setdefault(name, NodeRow(name))

    def say(self, line: str) -> None:
        """Add a line to the story."""
        self.log.append(line)

    def render(self) -> RenderableType:
        """Return the board for the terminal."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("NODE", min_width=12)
        table.add_column("STATE", min_width=9)
        table.add_column("LOAD", min_width=16)
        table.add_column("ANSWERED", justify="right")
        table.add_column("")
        for row in self.rows.values():
            shown = min(row.load, row.capacity)
            bar = "█" * shown + "·" * (row.capacity - shown)
            table.add_row(
                row.name,
                Text(row.state, style=_COLOURS.get(row.state, "red")),
                f"{bar} {row.load}/{row.capacity}",
                str(row.done),
                Text(row.note, style="dim"),
            )
        head = Text(
            f"{self.answered} of {self.total} commands answered, {self.rerouted} rerouted, {self.failed} lost",
            style="bold",
        )
        story = [Text("  " + line, style="dim") for line in self.log[-6:]]
        done = round(_BAR * self.answered / self.total)
        return Group(
            head, Text("━" * done, style="green") + Text("━" * (_BAR - done), style="dim"), table, *story
        )
