"""What is said of a run while it goes on: a live table on a terminal, else lines, or nothing."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING, Any, Protocol

from roster._text import safe
from roster.cli.run_words import answers, indent, took, waits_for

if TYPE_CHECKING:
    from roster.cli.output import Output
    from roster.orchestrator.runs.record import RunRecord, StepRecord

_STYLES = {
    "running": "yellow",
    "waiting": "cyan",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "red",
    "skipped": "dim",
}
_REST = 4  # lines of a terminal beside the steps


class Progress(Protocol):
    """Tells of a run."""

    def show(self, record: RunRecord) -> None:
        """Tell how it is now."""
        ...

    def close(self) -> None:
        """Tell no more."""
        ...


def progress(out: Output, *, verbose: bool) -> Progress:
    """Return the way to tell of a run: live where standard error is a terminal, lines with `-v`, else nothing."""
    if sys.stderr.isatty() and not out.structured and not verbose:
        return _Live(colour=out.colour)
    return _Lines(out) if verbose else _Silent()


class _Silent:
    def show(self, record: RunRecord) -> None:
        pass

    def close(self) -> None:
        pass


class _Lines:
    def __init__(self, out: Output) -> None:
        self._out = out
        self._told: dict[str, tuple[object, ...]] = {}

    def show(self, record: RunRecord) -> None:
        for step in record.steps:
            now = (step.state, step.node if step.state != "running" else None, bool(step.waiting))
            if self._told.get(step.key) != now:
                self._told[step.key] = now
                self._out.note(_line(record, step))

    def close(self) -> None:
        pass


def _line(record: RunRecord, step: StepRecord) -> str:
    where = f" on {step.node}" if step.node else ""
    time = f" in {took(step.started_at, step.ended_at)}" if step.ended_at and step.started_at else ""
    error = f": {step.error.get('message', '')}" if step.error else ""
    said = f": {waits_for(step.waiting)}" if step.waiting else ""
    how = " ".join(f"({command})" for command in answers(record, step)[:1])
    return f"{record.id} {step.key} {step.state}{where}{time}{error}{said}{f' {how}' if how else ''}"


class _Live:
    def __init__(self, *, colour: bool) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(stderr=True, no_color=not colour, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False)
        self._live.start()

    def show(self, record: RunRecord) -> None:
        self._live.update(_table(record), refresh=True)

    def close(self) -> None:
        self._live.stop()


def _table(record: RunRecord) -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("STEP", "STATE", "NODE", "TIME", ""):
        table.add_column(title, no_wrap=True, overflow="ellipsis")
    depth = indent(record.steps)
    room = max(5, shutil.get_terminal_size().lines - _REST)
    shown = _fitting(record.steps, room)
    for step in shown:
        said = waits_for(step.waiting) or str((step.error or {}).get("message", ""))
        commands = answers(record, step)
        table.add_row(
            Text("  " * depth[step.key] + safe(step.id) + (f" ({step.visit})" if step.visit > 1 else "")),
            Text(step.state, _STYLES.get(step.state, "")),
            Text(safe(step.node or "")),
            Text(took(step.started_at, step.ended_at)),
            Text(safe(f"{commands[0]}   {said}" if commands else said)),
        )
    hidden = len(record.steps) - len(shown)
    head = f"{record.id}  {record.state}  {took(record.created_at, record.ended_at)}"
    head += f"  ({hidden} more steps)" if hidden else ""
    stuck = [Text(safe(record.stuck), "red")] if record.stuck else []
    return Group(Text(safe(head), "bold"), *stuck, table)


def _fitting(steps: tuple[StepRecord, ...], room: int) -> list[StepRecord]:
    """Return the steps that are shown where there is no room for all: what goes on, and what ended last."""
    if len(steps) <= room:
        return list(steps)
    going = [step for step in steps if step.ended_at is None][:room]
    ended = sorted(
        (step for step in steps if step.ended_at is not None), key=lambda step: step.ended_at or ""
    )
    kept = {step.key for step in [*going, *ended[len(ended) - (room - len(going)) :]]}
    return [step for step in steps if step.key in kept]
