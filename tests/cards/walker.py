"""Walks a card as the docstring of `roster.cards.steps` says, one step at a time, with functions for capabilities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from roster.cards import (
    ActionStep,
    Block,
    CheckpointStep,
    CompleteStep,
    ConditionStep,
    Fallback,
    ForeachStep,
    JumpStep,
    ParallelStep,
    ProcessCard,
    Step,
    SubprocessStep,
    WaitStep,
)

Capability = Callable[..., Any]


class Ended(Exception):
    """A `complete` step ends the run."""

    def __init__(self, status: str, result: Any) -> None:
        self.status, self.result = status, result


class Failed(Exception):
    """A capability does not do it."""


@dataclass
class Walk:
    """One run."""

    card: ProcessCard
    capabilities: Mapping[str, Capability]
    cards: Mapping[str, ProcessCard] = field(default_factory=dict)
    visited: list[str] = field(default_factory=list)
    visits: dict[str, int] = field(default_factory=dict)

    def run(self, **inputs: Any) -> tuple[str, Any]:
        scope = self.card.start(inputs, run_id="run-1")
        try:
            self.block(self.card.block, scope)
        except Ended as ended:
            return ended.status, ended.result
        return "success", {
            name: value for name, value in scope.items() if name not in ("input", "run", "task_id")
        }

    def block(self, block: Block, scope: dict[str, Any]) -> Any:
        at: str | None = block.first
        brought: Any = None
        while at is not None:
            step = self.card.steps[at]
            self.visited.append(at)
            self.visits[at] = self.visits.get(at, 0) + 1
            if self.visits[at] > step.max_visits:
                raise Failed(f"{at} was entered more than {step.max_visits} times")
            limit = self.card.limits.variable
            if step.when is not None and not step.when.holds(scope, step=step.id, field="when", limit=limit):
                at = step.next
                continue
            before = step.output in scope and scope[step.output]
            at, found = self.step(step, scope)
            if step.output is not None and found is not SKIPPED:
                self.card.check_variable(step.output, found, step=step.id)
                scope[step.output] = brought = found
            else:
                assert (step.output in scope and scope[step.output]) == before
        return brought

    def step(self, step: Step, scope: dict[str, Any]) -> tuple[str | None, Any]:
        """Do one step; return where it goes, and what it brings."""
        limit = self.card.limits.variable
        match step:
            case ActionStep():
                params = step.params.fill(scope, step=step.id, field="params", limit=limit)
                return self.tries(step, lambda: self.capabilities[step.action](**params))
            case ConditionStep():
                holds = step.condition.holds(scope, step=step.id, field="condition", limit=limit)
                return (step.then if holds else step.otherwise), SKIPPED
            case JumpStep():
                return step.next, SKIPPED
            case CompleteStep():
                raise Ended(step.status, step.result.fill(scope, step=step.id, field="result", limit=limit))
            case WaitStep():
                return step.next, None if step.event is None else {
                    "event": step.event.fill(scope, step=step.id, field="event")
                }
            case CheckpointStep():
                return step.next, {"said": step.message.fill(scope, step=step.id, field="message")}
            case ParallelStep():
                scopes = [dict(scope) for _ in step.branches]
                results = [self.block(block, own) for block, own in zip(step.branches, scopes, strict=True)]
                for own in scopes:
                    scope.update(
                        {
                            name: value
                            for name, value in own.items()
                            if scope.get(name) != value or name not in scope
                        }
                    )
                return step.next, results
            case ForeachStep():
                items = step.items.fill(scope, step=step.id, field="items", limit=limit)
                return step.next, [
                    self.block(step.body, {**scope, step.variable: item, step.variable_index: number})
                    for number, item in enumerate(items)
                ]
            case SubprocessStep():
                inner = Walk(self.cards[step.card], self.capabilities, self.cards)
                params = step.params.fill(scope, step=step.id, field="params", limit=limit)
                return self.tries(step, lambda: inner.run(**params)[1])
        raise AssertionError(step)

    def tries(self, step: ActionStep | SubprocessStep, do: Callable[[], Any]) -> tuple[str | None, Any]:
        for attempt in range(1, step.retry.max_attempts + 1):
            try:
                return step.next, do()
            except Failed:
                assert step.retry.pause(attempt) >= 0
        fallback: Fallback = step.retry.on_failure
        match fallback.kind:
            case "continue":
                return step.next, SKIPPED
            case "goto":
                return fallback.step, SKIPPED
        raise Failed(f"{step.id}: {fallback.kind}")


SKIPPED = object()
