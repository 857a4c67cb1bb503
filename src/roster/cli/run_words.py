"""How runs are told of: their states, their times, why one failed, and the exit status for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from roster._durations import show_duration

if TYPE_CHECKING:
    from roster.orchestrator.runs.record import RunRecord, StepRecord

CANCELLED = 12
_COLOURS = {
    "pending": "34",
    "running": "33",
    "waiting": "36",
    "paused": "35",
    "succeeded": "32",
    "failed": "31",
    "cancelled": "31",
    "dead": "31",
    "skipped": "90",
}
_ASKS = {"approval": "waits for a person", "escalation": "waits for a person after a failure"}


def paint_run_state(state: str) -> str:
    """Return the ANSI style of a state of a run or a step."""
    return _COLOURS.get(state, "")


def span(began: str | None, ended: str | None) -> float | None:
    """Return the seconds between two times of a record, up to now where it has not ended; None before it began."""
    if began is None:
        return None
    until = datetime.now(UTC) if ended is None else datetime.fromisoformat(ended)
    return max(0.0, (until - datetime.fromisoformat(began)).total_seconds())


def took(began: str | None, ended: str | None) -> str:
    """Return the same for people: tenths where it is short; empty before it began."""
    seconds = span(began, ended)
    if seconds is None:
        return ""
    return f"{seconds:.1f}s" if seconds < 100 else show_duration(seconds)


def waits_for(waiting: Mapping[str, Any] | None) -> str:
    """Return what a run or a step waits for, in one line."""
    if waiting is None:
        return ""
    kind, until = waiting["kind"], waiting.get("until")
    message = " ".join(str(waiting.get("message") or "").split())
    said = {
        "event": f"waits for the event {waiting.get('event', '')}",
        "duration": "waits",
        "node": "waits for a node that can do it",
    }.get(kind, _ASKS.get(kind, f"waits ({kind})"))
    return f"{said}{f': {message}' if message else ''}{f', until {until}' if until else ''}"


def answers(record: RunRecord, step: StepRecord) -> list[str]:
    """Return the commands by which a step that waits for somebody goes on."""
    waiting = step.waiting or {}
    several = sum(one.waiting is not None and one.waiting["kind"] in _ASKS for one in record.steps) > 1
    which = f" --step '{step.key}'" if several else ""
    match waiting.get("kind"):
        case "approval":
            return [f"roster run approve {record.id}{which}", f"roster run reject {record.id}{which}"]
        case "escalation":
            return [
                f"roster run approve {record.id}{which}   (tries it again)",
                f"roster run skip {record.id}{which}   (goes on behind it)",
                f"roster run reject {record.id}{which}   (fails the run)",
            ]
        case "event":
            return [f"roster run signal {record.id} {waiting.get('event', '')}"]
    return []


def indent(steps: Sequence[StepRecord]) -> dict[str, int]:
    """Return how deep each step stands in others, by its key."""
    depth: dict[str, int] = {}
    for step in steps:
        depth[step.key] = 0 if step.parent is None else depth.get(step.parent, 0) + 1
    return depth


def why(record: RunRecord) -> str:
    """Return one line: which run ended how, at which step, and why."""
    error = record.error or {}
    ended = {"failed": "failed", "cancelled": "was cancelled", "dead": "was given up"}.get(
        record.state, f"is {record.state}"
    )
    step = f" at the step {error['step']}" if error.get("step") else ""
    message = " ".join(str(error.get("message", "")).split())
    if error.get("field"):
        # What an expression's error says begins with step and field.
        message = message.removeprefix(f"step {error.get('step')}: ")
    return f"the run {record.id} of {record.card} {ended}{step}{f': {message}' if message else ''}"


def status_of(record: RunRecord) -> int:
    """Return the exit status for how a run ended: that of `roster call` where a call's error failed it."""
    from roster import errors

    if record.state == "succeeded":
        return 0
    if record.state == "cancelled":
        return CANCELLED
    kind = getattr(errors, str((record.error or {}).get("type", "")), None)
    if isinstance(kind, type) and issubclass(kind, errors.RosterError):
        return kind.exit_code
    return 1
