"""The steps of a card as objects: where each goes next, what each reads and sets.

How an executor walks a card:

1. `scope = card.start(inputs, run_id=...)` makes the first variables. The run begins at `card.block.first`.
2. Before each visit of `step = card.steps[id]`: count it, `step.max_visits` is the most; and go on to `step.next` where
   `step.when` is there and does not hold (`step.when.holds(scope, step=step.id, field="when", limit=...)`).
3. Do what its class asks for (below). What that brings goes under `step.output`, if set, after `card.check_variable`.
4. Go to `step.next`, or where the class says. `None` is the end of the block that the step stands in: at the top the run
   has succeeded; in a branch or a loop that branch, or that item, is done. Jumps never leave a block.

- `ActionStep`: call `action` with `params.fill(scope, ...)`, chosen by `selector` and `strategy`, each try within `timeout`.
  After a failed try wait `retry.pause(n)` and try again, `retry.max_attempts` times in all; then `retry.on_failure`.
- `ConditionStep`: nothing but to go to `then` if `condition` holds, else to `otherwise`.
- `JumpStep`: nothing but to go to `next`.
- `CompleteStep`: end the whole run with `status` and `result`, from within a branch too: the others are cancelled.
- `WaitStep`: wait for `event` (it brings the event's data) or for `duration` (it brings null); for an event not longer than
  `timeout`, then `on_timeout`.
- `CheckpointStep`: show `message` to a person and wait for approve (it brings what the person said) or reject (fails the
  run); not longer than `timeout`, then `on_timeout`.
- `ParallelStep`: run the blocks in `branches`, at most `max_concurrency` at once, each on its own copy of the scope. Once
  `need` of them have ended well the rest are cancelled; when that can no longer be reached the run fails. What the finished
  branches set is then in the scope, and of two that set one variable the later in the card counts. It brings the list of the
  branches' results, null for those that did not finish.
- `ForeachStep`: for each item of `items.fill(...)`, at most `card.limits.items`, run `body` on a copy of the scope that has
  the item under `variable`, its number under `variable_index`, and ends with the item. It brings the list of the results, in
  the order of the items.
- `SubprocessStep`: run the card that `card` names with `params` as its inputs, within `timeout`; it brings its result.

The result of a branch or an item is what the last of its steps with an `output` brought, else null. A run that ends without
`complete` has its variables but the given ones (`GIVEN`) as its result. An `ExpressionError` or `CardError` fails the run at
once: to try again would bring the same. `Fallback` says what follows a failure. Every `limit=` is `card.limits.variable`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from roster.cards.expressions import Expression
from roster.cards.limits import DEFAULTS
from roster.cards.templates import Template
from roster.passport import Selector
from roster.passport.words import Path

if TYPE_CHECKING:
    from roster.cards.syntax import Reference

Status: TypeAlias = Literal["success", "failure", "cancelled"]
Backoff: TypeAlias = Literal["constant", "linear", "exponential"]
MAX_PAUSE = 3600.0


@dataclass(frozen=True, slots=True)
class Fallback:
    """What follows a step that has failed for good, or a wait that has timed out.

    Attributes:
        kind: `abort` fails the run; `continue` goes to the step's `next` without an output; `escalate` pauses the run until
            a person decides; `goto` goes to `step`.
        step: the step's id for `goto`; None is the end of the block.
    """

    kind: Literal["abort", "continue", "escalate", "goto"] = "abort"
    step: str | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a step is tried, and what follows when that does not help.

    Attributes:
        max_attempts: tries in all.
        delay: seconds before the second try.
        backoff: how the pause grows from try to try.
        on_failure: what follows the last try.
    """

    max_attempts: int = 1
    delay: float = 0.0
    backoff: Backoff = "constant"
    on_failure: Fallback = Fallback()

    def pause(self, attempt: int) -> float:
        """Return the seconds to wait after the failed try number `attempt` (the first is 1); at most an hour."""
        match self.backoff:
            case "constant":
                factor = 1.0
            case "linear":
                factor = float(attempt)
            case "exponential":
                factor = 2.0 ** min(attempt - 1, 40)
        return min(self.delay * factor, MAX_PAUSE)


@dataclass(frozen=True, slots=True)
class Block:
    """A list of steps that is walked from its first: the card's own, a branch, the body of a loop.

    Attributes:
        steps: the ids of its own steps, in the order of the card; never empty.
    """

    steps: tuple[str, ...]

    @property
    def first(self) -> str:
        """Where it begins."""
        return self.steps[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What all steps have. The module's docstring says what to do with each class.

    Attributes:
        id: unique in the card, those in branches and loops included.
        path: where it stands in the document.
        next: the step after it; None at the end of its block. What the card leaves out is filled in.
        when: the step is skipped where this does not hold.
        output: the variable that gets what it brings.
        max_visits: how often it may be entered in one run.
        description: for people.
    """

    id: str
    path: Path
    next: str | None
    when: Expression | None = None
    output: str | None = None
    max_visits: int = DEFAULTS.visits
    description: str = ""

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks inside it."""
        return ()

    @property
    def successors(self) -> tuple[str | None, ...]:
        """Every step of its block that may come after it; None is the end of the block."""
        return (self.next,)

    def templates(self) -> Iterator[tuple[str, Template]]:
        """Yield each field that expressions may stand in."""
        yield from ()

    def conditions(self) -> Iterator[tuple[str, Expression]]:
        """Yield each field that is one expression."""
        if self.when is not None:
            yield "when", self.when

    def reads(self) -> Iterator[tuple[Path, Reference]]:
        """Yield every reference of the step, with the path in the step of the field where it stands."""
        for field, expression in self.conditions():
            for reference in expression.reads:
                yield (field,), reference
        for field, template in self.templates():
            for path, reference in template.reads:
                yield (field, *path), reference


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionStep(Step):
    """Have a capability do something.

    Attributes:
        action: the capability's name.
        params: what it is given.
        timeout: seconds of one try, filled in from the limits where the card does not say.
        timeout_declared: whether the card says it.
        retry: how often.
        selector: which nodes may do it; None for all.
        strategy: how one of them is chosen; None leaves it to the orchestrator.
    """

    action: str
    params: Template
    timeout: float
    timeout_declared: bool = False
    retry: Retry = Retry()
    selector: Selector | None = None
    strategy: str | None = None

    @property
    def successors(self) -> tuple[str | None, ...]:
        """`next`, and where a failure leads."""
        return _with_fallback(self.next, self.retry.on_failure)

    def templates(self) -> Iterator[tuple[str, Template]]:
        """Yield the params."""
        yield "params", self.params


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionStep(Step):
    """Go one of two ways.

    Attributes:
        condition: what decides.
        then: the step if it holds; None is the end of the block.
        otherwise: the step if not (`else`); the same as `next` where the card does not say.
    """

    condition: Expression
    then: str | None
    otherwise: str | None

    @property
    def successors(self) -> tuple[str | None, ...]:
        """Both ways."""
        skipped = (self.next,) if self.when is not None else ()
        return tuple(dict.fromkeys((self.then, self.otherwise, *skipped)))

    def conditions(self) -> Iterator[tuple[str, Expression]]:
        """Yield the condition."""
        # Not super(): with slots a dataclass is made anew, and the function knows the old class.
        yield from Step.conditions(self)
        yield "condition", self.condition


@dataclass(frozen=True, slots=True, kw_only=True)
class JumpStep(Step):
    """Go to another step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompleteStep(Step):
    """End the run.

    Attributes:
        status: how it has ended.
        result: what it brings.
    """

    status: Status = "success"
    result: Template

    @property
    def successors(self) -> tuple[str | None, ...]:
        """Nothing, unless it may be skipped."""
        return (self.next,) if self.when is not None else ()

    def templates(self) -> Iterator[tuple[str, Template]]:
        """Yield the result."""
        yield "result", self.result


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitStep(Step):
    """Wait for an event, or for a time.

    Attributes:
        event: the event's name; None when it waits for a time.
        duration: seconds; None when it waits for an event.
        timeout: seconds after which it no longer waits for the event.
        on_timeout: what follows then.
    """

    event: Template | None = None
    duration: float | None = None
    timeout: float
    on_timeout: Fallback = Fallback()

    @property
    def successors(self) -> tuple[str | None, ...]:
        """`next`, and where a timeout leads."""
        return _with_fallback(self.next, self.on_timeout)

    def templates(self) -> Iterator[tuple[str, Template]]:
        """Yield the event."""
        if self.event is not None:
            yield "event", self.event


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointStep(Step):
    """Ask a person.

    Attributes:
        message: what the person is shown.
        timeout: seconds that it waits for an answer.
        on_timeout: what follows when none comes.
    """

    message: Template
    timeout: float
    on_timeout: Fallback = Fallback()

    @property
    def successors(self) -> tuple[str | None, ...]:
        """`next`, and where a timeout leads."""
        return _with_fallback(self.next, self.on_timeout)

    def templates(self) -> Iterator[tuple[str, Template]]:
        """Yield the message."""
        yield "message", self.message


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelStep(Step):
    """Do several things at once.

    Attributes:
        branches: what.
        need: how many of them must end well.
        max_concurrency: how many run at once.
    """

    branches: tuple[Block, ...]
    need: int
    max_concurrency: int

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The branches."""
        return self.branches


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeachStep(Step):
    """Do the same for each item of a list.

    Attributes:
        items: the list.
        variable: what the item is called in the body (`as`).
        body: what is done (`do`).
        max_concurrency: how many items are worked on at once.
    """

    items: Template
    variable: str
    body: Block
    max_concurrency: int

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The body."""
        return (self.body,)

    @property
    def variable_index(self) -> str:
        """What the number of the item is called in the body; the first is 0."""
        return f"{self.variable}_index"

    def templates(self) -> Iterator[tuple[str, Template]]:
        """Yield the list."""
        yield "items", self.items


@dataclass(frozen=True, slots=True, kw_only=True)
class SubprocessStep(Step):
    """Run another card.

    Attributes:
        card: its file, as seen from this card's file, or its name.
        params: its inputs.
        timeout: seconds that it may take; None leaves it to its own total time.
        retry: how often it is tried.
    """

    card: str
    params: Template
    timeout: float | None = None
    retry: Retry = Retry()

    @property
    def successors(self) -> tuple[str | None, ...]:
        """`next`, and where a failure leads."""
        return _with_fallback(self.next, self.retry.on_failure)

    def templates(self) -> Iterator[tuple[str, Template]]:
        """Yield the params."""
        yield "params", self.params


def _with_fallback(following: str | None, fallback: Fallback) -> tuple[str | None, ...]:
    if fallback.kind != "goto":
        return (following,)
    return tuple(dict.fromkeys((following, fallback.step)))
