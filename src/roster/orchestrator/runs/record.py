"""What is known of a run and of its steps, for people and programs to read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

RunState: TypeAlias = Literal[
    "pending", "running", "waiting", "paused", "succeeded", "failed", "cancelled", "dead"
]
StepState: TypeAlias = Literal["running", "waiting", "succeeded", "failed", "skipped", "cancelled"]
ENDED: tuple[RunState, ...] = ("succeeded", "failed", "cancelled", "dead")
STATES: tuple[RunState, ...] = ("pending", "running", "waiting", "paused", *ENDED)
# The words of a card's `complete`.
STATUS: Mapping[str, str] = {
    "succeeded": "success",
    "failed": "failure",
    "cancelled": "cancelled",
    "dead": "failure",
}
STATE: Mapping[str, RunState] = {"success": "succeeded", "failure": "failed", "cancelled": "cancelled"}


def moment(seconds: float | None) -> str | None:
    """Return seconds after 1970 as RFC 3339 in UTC; None stays None."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One visit of one step.

    Attributes:
        key: unique in the run: the way to the step through branches and items, its id, and the number of the visit.
        id: the step's id in the card.
        visit: the how manieth; the first is 1.
        kind: `action`, `condition`, `wait` and so on.
        action: the capability, for an action.
        state: how far it is.
        node: `namespace/name` of the node that has it, or did it last.
        attempts: every try, oldest first: `node`, `outcome` (`ok` or what is known of the work), `error`, `at`.
        dispatched_at: when it was first handed to a node; RFC 3339.
        ended_at: when it ended.
        redispatched: how often it was handed to a node again.
        waiting: what it waits for, as in the run's record.
        error: why it failed.
        parent: key of the step whose branch or item it is part of.
    """

    key: str
    id: str
    visit: int
    kind: str
    state: StepState
    action: str | None = None
    node: str | None = None
    attempts: tuple[Mapping[str, Any], ...] = ()
    started_at: str | None = None
    dispatched_at: str | None = None
    ended_at: str | None = None
    redispatched: int = 0
    waiting: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    parent: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "key": self.key,
            "id": self.id,
            "visit": self.visit,
            "kind": self.kind,
            "action": self.action,
            "state": self.state,
            "node": self.node,
            "attempts": [dict(attempt) for attempt in self.attempts],
            "started_at": self.started_at,
            "dispatched_at": self.dispatched_at,
            "ended_at": self.ended_at,
            "redispatched": self.redispatched,
            "waiting": None if self.waiting is None else dict(self.waiting),
            "error": None if self.error is None else dict(self.error),
            "parent": self.parent,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run of a process card.

    Attributes:
        id: the run's.
        card: the card's name.
        card_version: the card's own version, or None.
        digest: of the card it was started with, which it keeps to.
        state: `pending`, `running`, `waiting` (for a time, an event, a person, a node), `paused`, or how it ended:
            `succeeded`, `failed`, `cancelled`, `dead` (given up: its orchestrators died again and again without progress).
        inputs: what it was started with.
        result: what it brought.
        error: why it failed: `code`, `type`, `message`, and `step` and `field` where there is one.
        created_at, started_at, ended_at, last_progress_at: RFC 3339, or None.
        executor: which process runs it, or ran it last.
        recoveries: how often another process took it up.
        waiting: what it waits for: `kind` (`event`, `approval`, `duration`, `escalation`, `node`), `step`, and more.
        stuck: why it does not get on though it should; None where nothing is wrong.
        steps: every visit of a step, in the order of their beginning. Empty in a list of runs.
    """

    id: str
    card: str
    digest: str
    state: RunState
    card_version: str | None = None
    inputs: Mapping[str, Any]
    result: Any = None
    error: Mapping[str, Any] | None = None
    created_at: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    last_progress_at: str | None = None
    executor: str | None = None
    recoveries: int = 0
    waiting: Mapping[str, Any] | None = None
    stuck: str | None = None
    steps: tuple[StepRecord, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.state in ENDED

    @property
    def status(self) -> str | None:
        """How it ended in the words of a card: `success`, `failure`, `cancelled`; None as long as it runs."""
        return STATUS.get(self.state)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "id": self.id,
            "card": self.card,
            "card_version": self.card_version,
            "digest": self.digest,
            "state": self.state,
            "status": self.status,
            "inputs": dict(self.inputs),
            "result": self.result,
            "error": None if self.error is None else dict(self.error),
            "created_at": self.created_at,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "last_progress_at": self.last_progress_at,
            "executor": self.executor,
            "recoveries": self.recoveries,
            "waiting": None if self.waiting is None else dict(self.waiting),
            "stuck": self.stuck,
            "steps": [step.to_dict() for step in self.steps],
        }
