"""Walks a card step by step, as `roster.cards.steps` says; a world does the rest."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
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
from roster.cards.card import GIVEN
from roster.errors import CardError, Code
from roster.orchestrator.runs.record import STATE, RunState
from roster.orchestrator.runs.world import End, Error, Heard, Order, Place, RunFailure, Tried, World

_NOTHING = object()


class _Completed(Exception):
    """A `complete` step ends the run."""

    def __init__(self, end: End) -> None:
        self.end = end


def failure(message: str, *, code: Code = Code.FAILED_PRECONDITION, step: str = "", kind: str = "") -> Error:
    """Return an error as it stands in a record."""
    error: dict[str, Any] = {"code": str(code), "message": message}
    if kind:
        error["type"] = kind
    if step:
        error["step"] = step
    return error


def outcome(end: End) -> tuple[RunState, Error | None]:
    """Return the state of a run whose own walk has ended, and its error."""
    if end.how == "failed":
        return "failed", end.error
    state = STATE[end.status] if end.how == "complete" else "succeeded"
    if state == "failed":
        return state, failure("the card ended with the status failure", code=Code.ABORTED, kind="Completed")
    return state, None


class Walk:
    """One walk through one block: the card's own, a branch, or the body of a loop for one item.

    Args:
        card: the card.
        world: what does things, waits and remembers.
        prefix: of its places.
    """

    def __init__(self, card: ProcessCard, world: World, prefix: str = "") -> None:
        self._card = card
        self._world = world
        self._prefix = prefix
        self._limit = card.limits.variable
        self._visits: dict[str, int] = {}
        self._changed: dict[str, Any] = {}
        self._last: Any = None

    async def run(self, block: Block, scope: dict[str, Any]) -> End:
        """Walk to the end.

        Args:
            block: where.
            scope: the variables; they are changed.

        Returns:
            How it ended. A failure is an end, not an exception.
        """
        try:
            brought = await self._block(block, scope)
        except _Completed as completed:
            return completed.end
        except CardError as error:
            return End(
                "failed",
                error={
                    "code": str(Code.INVALID_ARGUMENT),
                    "type": type(error).__name__,
                    "message": str(error),
                    "step": error.step,
                    "field": error.field,
                },
            )
        except RunFailure as error:
            return End("failed", error=error.error)
        return End("done", result=brought, changed=self._changed)

    def result(self, end: End, scope: dict[str, Any]) -> Any:
        """Return what a whole run brings: what `complete` says, else its variables, else what its last action brought."""
        if end.how == "complete":
            return end.result
        return {name: value for name, value in scope.items() if name not in GIVEN} or self._last

    async def _block(self, block: Block, scope: dict[str, Any]) -> Any:
        at: str | None = block.first
        brought: Any = None
        while at is not None:
            step = self._card.steps[at]
            place = self._enter(step)
            if step.when is not None and not step.when.holds(
                scope, step=step.id, field="when", limit=self._limit
            ):
                self._world.leave(place, step, skipped=True)
                at = step.next
                continue
            await self._world.enter(place, step)
            try:
                at, found = await self._step(place, step, scope)
                if found is not _NOTHING:
                    self._last = found
                if step.output is not None and found is not _NOTHING:
                    self._card.check_variable(step.output, found, step=step.id)
                    scope[step.output] = self._changed[step.output] = brought = found
            except (CardError, RunFailure) as error:
                self._world.leave(place, step, error=_told(error, step))
                raise
            except _Completed:
                self._world.leave(place, step)
                raise
            self._world.leave(place, step)
        return brought

    def _enter(self, step: Step) -> Place:
        visit = self._visits[step.id] = self._visits.get(step.id, 0) + 1
        if visit > step.max_visits:
            raise RunFailure(
                failure(
                    f"the step {step.id} was entered {step.max_visits} times, and no more is allowed (max_visits)",
                    code=Code.RESOURCE_EXHAUSTED,
                    step=step.id,
                )
            )
        return Place(self._prefix, step.id, visit)

    async def _step(self, place: Place, step: Step, scope: dict[str, Any]) -> tuple[str | None, Any]:
        """Do one step; return where it goes, and what it brings."""
        match step:
            case ActionStep():
                params = step.params.fill(scope, step=step.id, field="params", limit=self._limit)
                key = 1

                async def act(number: int) -> Tried:
                    nonlocal key
                    tried = await self._world.attempt(place, step, params, number, key)
                    if tried.error is not None and tried.known:
                        key += 1
                    return tried

                return await self._tries(place, step, act)
            case ConditionStep():
                holds = step.condition.holds(scope, step=step.id, field="condition", limit=self._limit)
                return (step.then if holds else step.otherwise), _NOTHING
            case JumpStep():
                return step.next, _NOTHING
            case CompleteStep():
                result = step.result.fill(scope, step=step.id, field="result", limit=self._limit)
                raise _Completed(End("complete", result=result, status=step.status))
            case WaitStep():
                return await self._wait(place, step, scope)
            case CheckpointStep():
                text = _as_text(step.message.fill(scope, step=step.id, field="message", limit=self._limit))
                return await self._listen(
                    place, step, lambda: self._world.approval(place, text, step.timeout), "no person answered"
                )
            case ParallelStep():
                return await self._parallel(place, step, scope)
            case ForeachStep():
                return await self._foreach(place, step, scope)
            case SubprocessStep():
                inputs = step.params.fill(scope, step=step.id, field="params", limit=self._limit)

                async def run(number: int) -> Tried:
                    end = await self._world.card(place, step.card, inputs, step.timeout, number)
                    return _of_card(step, end)

                return await self._tries(place, step, run)
        raise AssertionError(step)

    async def _tries(
        self, place: Place, step: ActionStep | SubprocessStep, do: Callable[[int], Awaitable[Tried]]
    ) -> tuple[str | None, Any]:
        number = 1
        left = step.retry.max_attempts
        while True:
            tried = await do(number)
            left -= 1
            if tried.error is None:
                return step.next, tried.result
            if left > 0:
                await self._world.rest(place, step.retry.pause(step.retry.max_attempts - left))
            else:
                following = await self._failed(place, step, step.retry.on_failure, tried.error)
                if following is not _NOTHING:
                    return following, _NOTHING
                left = step.retry.max_attempts  # a person wants it tried again
            number += 1

    async def _failed(self, place: Place, step: Step, fallback: Fallback, error: Error) -> Any:
        """Return the step that follows a failure, or `_NOTHING` if it is to be tried again."""
        match fallback.kind:
            case "continue":
                return step.next
            case "goto":
                return fallback.step
            case "escalate":
                match await self._world.escalate(place, error):
                    case "again":
                        return _NOTHING
                    case "continue":
                        return step.next
        raise RunFailure({**error, "step": step.id})

    async def _wait(self, place: Place, step: WaitStep, scope: dict[str, Any]) -> tuple[str | None, Any]:
        if step.event is None:
            await self._world.pause(place, step.duration or 0.0)
            return step.next, None
        name = _as_text(step.event.fill(scope, step=step.id, field="event", limit=self._limit))
        return await self._listen(
            place,
            step,
            lambda: self._world.event(place, name, step.timeout),
            f'the event "{name[:100]}" did not come',
        )

    async def _listen(
        self, place: Place, step: WaitStep | CheckpointStep, listen: Callable[[], Awaitable[Heard]], what: str
    ) -> tuple[str | None, Any]:
        while True:
            heard = await listen()
            if heard.how == "came":
                return step.next, heard.data
            if heard.how == "rejected":
                raise RunFailure(_rejected(step.id, heard.data))
            error = failure(
                f"{what} within {step.timeout:g} s",
                code=Code.DEADLINE_EXCEEDED,
                step=step.id,
                kind="CallTimeoutError",
            )
            following = await self._failed(place, step, step.on_timeout, error)
            if following is not _NOTHING:
                return following, _NOTHING

    async def _parallel(
        self, place: Place, step: ParallelStep, scope: dict[str, Any]
    ) -> tuple[str | None, Any]:
        orders = [
            Order((step.id, number), place.inside(number), self._readable(block, scope))
            for number, block in enumerate(step.branches)
        ]
        ends = await self._world.blocks(place, orders, need=step.need, max_concurrency=step.max_concurrency)
        self._raise_end(ends, step.need, step.id)
        for end in ends:
            if end.how == "done":
                scope.update(end.changed)
                self._changed.update(end.changed)
        return step.next, [end.result if end.how == "done" else None for end in ends]

    async def _foreach(
        self, place: Place, step: ForeachStep, scope: dict[str, Any]
    ) -> tuple[str | None, Any]:
        items = step.items.fill(scope, step=step.id, field="items", limit=self._limit)
        if not isinstance(items, list):
            raise CardError(f"expected a list, found {_kind(items)}", step=step.id, field="items")
        if len(items) > self._card.limits.items:
            raise CardError(
                f"{len(items)} items are more than the {self._card.limits.items} that are allowed (limit items)",
                step=step.id,
                field="items",
            )
        if not items:
            return step.next, []
        given = self._readable(step.body, scope)
        orders = [
            Order(
                (step.id, 0),
                place.inside(number),
                {**given, step.variable: item, step.variable_index: number},
            )
            for number, item in enumerate(items)
        ]
        ends = await self._world.blocks(place, orders, need=len(orders), max_concurrency=step.max_concurrency)
        self._raise_end(ends, len(orders), step.id)
        return step.next, [end.result for end in ends]

    def _readable(self, block: Block, scope: dict[str, Any]) -> dict[str, Any]:
        """Return those variables that the steps of a block can read: the others need not travel."""
        names = set(GIVEN)
        left = list(block.steps)
        while left:
            step = self._card.steps[left.pop()]
            names.update(reference.root for _, reference in step.reads())
            left += [name for inner in step.blocks for name in inner.steps]
        return {name: value for name, value in scope.items() if name in names}

    @staticmethod
    def _raise_end(ends: list[End], need: int, step: str) -> None:
        """End the whole run where a block has, or where too few are done."""
        for end in ends:
            if end.how == "complete":
                raise _Completed(end)
        done = sum(end.how == "done" for end in ends)
        if done >= need:
            return
        first = next((end.error for end in ends if end.error is not None), None)
        if first is not None:
            raise RunFailure(first if "step" in first else {**first, "step": step})
        raise RunFailure(failure(f"only {done} of {need} came to their end", step=step))


def _told(error: CardError | RunFailure, step: Step) -> Error:
    if isinstance(error, RunFailure):
        return error.error
    return failure(error.reason, code=Code.INVALID_ARGUMENT, step=step.id, kind=type(error).__name__)


def _rejected(step: str, said: Any) -> Error:
    comment = said.get("comment") if isinstance(said, dict) else None
    who = said.get("by") if isinstance(said, dict) else None
    text = f"rejected{f' by {who}' if who else ''}{f': {comment}' if comment else ''}"
    return failure(text, code=Code.ABORTED, step=step, kind="Rejected")


def _of_card(step: SubprocessStep, end: End) -> Tried:
    if end.how == "failed":
        return Tried(error=end.error or failure(f"the card {step.card} failed"))
    if end.how == "complete" and end.status != "success":
        return Tried(error=failure(f"the card {step.card} ended with status {end.status}", code=Code.ABORTED))
    return Tried(result=end.result)


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    import json

    return json.dumps(value, ensure_ascii=False)


def _kind(value: Any) -> str:
    from roster.passport.words import describe

    return describe(value)
