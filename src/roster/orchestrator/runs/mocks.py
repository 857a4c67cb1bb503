"""A world in memory: a card is walked with answers from a file, without nodes, registry, bus or engine.

Time is counted, and never waited for: a wait of a day, a delay or a timeout moves the run's clock, in the order in which
things would happen.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from roster.cards import ActionStep, ProcessCard, Step
from roster.errors import CardError, Code, ConfigError
from roster.orchestrator.runs.cardfiles import CardLike, plain_inputs, read_card, run_name
from roster.orchestrator.runs.mockfile import MockAnswer, Mocks, Said
from roster.orchestrator.runs.record import RunRecord, StepRecord, StepState, moment
from roster.orchestrator.runs.walking import Walk, failure, outcome
from roster.orchestrator.runs.world import (
    Decision,
    End,
    Error,
    Heard,
    Order,
    Place,
    RunFailure,
    Tried,
    block_of,
)
from roster.orchestrator.runs.writes import kind_of

MOCK = "mock"
MAX_CALLS = 100_000
# After these it is not known whether the work was done, as in a real run.
_UNSURE = ("DeliveryError", "BusUnavailableError", "CallTimeoutError", "CallCancelledError")


@dataclass(frozen=True, slots=True)
class MockCall:
    """One call that a card made.

    Attributes:
        action: the capability.
        params: what it was given.
        step: the id of the step.
    """

    action: str
    params: Any
    step: str


async def run_mocked(
    card: CardLike,
    inputs: Mapping[str, Any] | None,
    mocks: Mocks,
    *,
    run_id: str | None = None,
    calls: list[MockCall] | None = None,
) -> RunRecord:
    """Run a card with answers from a file.

    Args:
        card: its file, its document, or the card.
        inputs: what `${input...}` means; JSON.
        mocks: the answers.
        run_id: its id; made up where there is none.
        calls: gets every call that it makes, in order.

    Raises:
        DocumentError: the card is wrong.
        ConfigError: an action has no answer, or the answer cannot be made.

    Example:
        >>> record = await run_mocked("card.yaml", {"topic": "bees"}, Mocks.load("mocks.yaml"))
        >>> record.state, record.result
        ('succeeded', 'All about bees')
    """
    read, inner = await asyncio.to_thread(read_card, card)
    given = plain_inputs(inputs)
    run = run_name(run_id, read)
    scope = read.start(given, run_id=run)
    stage = _Stage(run, mocks, inner, [] if calls is None else calls)
    walk = Walk(read, MockWorld(stage, read, stage.now + read.timeout))
    end = await walk.run(read.block, scope)
    if end.how == "done":
        end = End("done", result=walk.result(end, scope))
    state, error = outcome(end)
    return RunRecord(
        id=run,
        card=read.name,
        card_version=read.version,
        digest=read.digest,
        state=state,
        inputs=given,
        result=end.result,
        error=error,
        created_at=moment(stage.began),
        started_at=moment(stage.began),
        ended_at=moment(stage.now),
        last_progress_at=moment(stage.now),
        executor=MOCK,
        steps=tuple(stage.steps.values()),
    )


class _Stage:
    """What the walks of one run share: the clock, the answers that are left, and the record."""

    def __init__(
        self, run: str, mocks: Mocks, cards: Mapping[str, ProcessCard], calls: list[MockCall]
    ) -> None:
        self.run = run
        self.mocks = mocks
        self.cards = cards
        self.calls = calls
        self.steps: dict[str, StepRecord] = {}
        self.began = self.now = time.time()
        self.awake = 1
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self._used: Counter[int] = Counter()
        self._said: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()

    # -- the clock: walks are awake, or wait for it, or for the walks in them ------------------------------------------

    async def sleep(self, seconds: float) -> None:
        """Let so much time go by."""
        if seconds <= 0:
            return
        waking: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._order), waking))
        self.awake -= 1
        self.rest()
        try:
            await waking
        except asyncio.CancelledError:
            if not waking.done() or waking.cancelled():
                self.awake += 1
            raise

    def rest(self) -> None:
        """Where no walk is awake: move the clock to the next that wants to be, and wake it."""
        while self.awake == 0 and self._sleepers:
            at, _, waking = heapq.heappop(self._sleepers)
            if not waking.done():
                self.now = max(self.now, at)
                self.awake += 1
                waking.set_result(None)

    # -- the record ----------------------------------------------------------------------------------------------------

    def note(self, key: str, **changed: Any) -> None:
        """Change what is on record of a step."""
        self.steps[key] = replace(self.steps[key], **changed)

    def cancel(self, prefix: str) -> None:
        """Put on record that what runs in a block is cancelled."""
        for key, step in self.steps.items():
            if key.startswith(prefix) and step.ended_at is None:
                self.note(key, state="cancelled", ended_at=moment(self.now), waiting=None)

    # -- the answers ---------------------------------------------------------------------------------------------------

    def answer(self, step: ActionStep, scope: Mapping[str, Any]) -> MockAnswer:
        """Return the answer to a call: the first whose `when` holds, else the next of those without.

        Raises:
            ConfigError: there is none.
        """
        answers = self.mocks.actions.get(step.action, self.mocks.default)
        plain = [one for one in answers if one.when is None]
        for one in [*(one for one in answers if one.when is not None), *plain]:
            last = one.when is not None or one is plain[-1]
            times = one.times if one.times is not None else None if last else 1
            if times is not None and self._used[id(one)] >= times:
                continue
            if one.when is None or _filled(
                one, lambda one=one: one.when.holds(scope, step=step.id, field="when")
            ):
                self._used[id(one)] += 1
                return one
        if answers:
            what = "fits this call, or all that do are used up: add one without when and times"
            raise ConfigError(
                f"{self.mocks.source}: none of the mocks of the action {step.action} (step {step.id}) {what}"
            )
        raise ConfigError(
            f"{self.mocks.source}: no mock for the action {step.action} (step {step.id}): add {step.action} under mocks, or "
            "a default"
        )

    def asked(self, action: str) -> int:
        """Return the how manieth call of an action this is."""
        self._asked[action] += 1
        return self._asked[action]

    def said(self, step: str, *, again: bool) -> Said | None:
        """Return what a person says at a step; None where nobody does.

        Args:
            again: whether the last that is said is said again and again.
        """
        said = self.mocks.approvals.get(step, ())
        number = self._said[step]
        self._said[step] += 1
        if number < len(said):
            return said[number]
        return said[-1] if said and again else None


def _filled(answer: MockAnswer, fill: Any) -> Any:
    """Return what an expression of a mock comes to; that it comes to nothing is the file's fault, not the card's."""
    try:
        return fill()
    except CardError as error:
        raise ConfigError(f"{answer.place}.{error.field}: {error.reason}") from None


class MockWorld:
    """See `World`. One for each card of a run."""

    def __init__(self, stage: _Stage, card: ProcessCard, deadline: float) -> None:
        self._stage = stage
        self._card = card
        self._deadline = deadline

    async def enter(self, place: Place, step: Step) -> None:
        """See `World`."""
        self._left(place)
        self._begin(place, step, "running")

    def leave(self, place: Place, step: Step, *, error: Error | None = None, skipped: bool = False) -> None:
        """See `World`."""
        if skipped:
            self._begin(place, step, "skipped")
        state: StepState = "skipped" if skipped else "failed" if error is not None else "succeeded"
        self._stage.note(place.key, state=state, ended_at=moment(self._stage.now), error=error, waiting=None)

    def _begin(self, place: Place, step: Step, state: StepState) -> None:
        self._stage.steps[place.key] = StepRecord(
            key=place.key,
            id=place.step,
            visit=place.visit,
            kind=kind_of(step),
            action=step.action if isinstance(step, ActionStep) else None,
            state=state,
            started_at=moment(self._stage.now),
            parent=place.parent,
        )

    async def attempt(self, place: Place, step: ActionStep, params: Any, number: int, key: int) -> Tried:
        """See `World`."""
        stage = self._stage
        if len(stage.calls) >= MAX_CALLS:
            raise ConfigError(
                f"{stage.run} has made {MAX_CALLS} calls, and does not end: is there a loop in the card?"
            )
        stage.calls.append(MockCall(step.action, params, step.id))
        scope = {"params": params, "step": step.id, "call": stage.asked(step.action)}
        answer = stage.answer(step, scope)
        at = stage.now
        timeout = min(step.timeout, self._left(place))
        stage.note(place.key, node=MOCK, dispatched_at=stage.steps[place.key].dispatched_at or moment(at))
        await stage.sleep(min(answer.delay, timeout))
        error: dict[str, Any] | None = None
        result = None
        if answer.delay >= timeout:
            error = {
                "code": str(Code.DEADLINE_EXCEEDED),
                "type": "CallTimeoutError",
                "message": f"{step.action} took longer than {timeout:g} s",
                "retryable": False,
            }
        elif answer.error is not None:
            failed = answer.error
            error = {
                "code": failed.code,
                "type": failed.type,
                "message": _filled(
                    answer, lambda: failed.message.fill(scope, step=step.id, field="error.message")
                ),
                "retryable": failed.retryable,
            }
        else:
            result = _filled(answer, lambda: answer.result.fill(scope, step=step.id, field="result"))
        known = error is None or error["type"] not in _UNSURE
        if error is not None:
            error["outcome"] = "refused" if known else "unknown"
        tried = {
            "node": MOCK,
            "outcome": "ok" if error is None else error["outcome"],
            "error": None if error is None else error["message"],
            "at": moment(at),
            "seconds": round(stage.now - at, 6),
        }
        stage.note(place.key, attempts=(*stage.steps[place.key].attempts, tried))
        return Tried(result=result, error=error, known=known)

    async def rest(self, place: Place, seconds: float) -> None:
        """See `World`."""
        await self.pause(place, seconds)

    async def pause(self, place: Place, seconds: float) -> None:
        """See `World`."""
        await self._stage.sleep(min(seconds, self._left(place)))

    async def event(self, place: Place, name: str, timeout: float) -> Heard:
        """See `World`."""
        if name in self._stage.mocks.events:
            return Heard("came", self._stage.mocks.events[name])
        return await self._nobody(place, timeout)

    async def approval(self, place: Place, message: str, timeout: float) -> Heard:
        """See `World`."""
        said = self._stage.said(place.step, again=True)
        if said is None:
            return await self._nobody(place, timeout)
        return Heard("came" if said.answer == "approve" else "rejected", dict(said.data))

    async def escalate(self, place: Place, error: Error) -> Decision:
        """See `World`."""
        said = self._stage.said(place.step, again=False)
        if said is None:
            await self._nobody(place, self._left(place))
            return "abort"
        return {"approve": "again", "reject": "abort", "skip": "continue"}[said.answer]  # type: ignore[return-value]  # these

    async def _nobody(self, place: Place, timeout: float) -> Heard:
        await self._stage.sleep(min(timeout, self._left(place)))
        self._left(place)
        return Heard("timeout")

    def _left(self, place: Place) -> float:
        left = self._deadline - self._stage.now
        if left <= 0:
            raise RunFailure(
                failure(
                    f"the run took longer than the {self._card.timeout:g} s that it may take in all (timeout)",
                    code=Code.DEADLINE_EXCEEDED,
                    step=place.step,
                    kind="CallTimeoutError",
                )
            )
        return left

    async def blocks(
        self, place: Place, orders: Sequence[Order], *, need: int, max_concurrency: int
    ) -> list[End]:
        """See `World`."""
        stage = self._stage
        ends: list[End | None] = [None] * len(orders)
        going: dict[asyncio.Task[End], int] = {}
        following = iter(range(len(orders)))
        done = failed = 0
        stage.awake -= 1  # this walk waits for those in it
        try:
            while done < need and len(orders) - failed >= need:
                while len(going) < max_concurrency and (number := next(following, None)) is not None:
                    stage.awake += 1
                    going[asyncio.create_task(self._block(orders[number]))] = number
                if not going:
                    break
                stage.rest()
                ready, _ = await asyncio.wait(going, return_when=asyncio.FIRST_COMPLETED)
                # In the order of the card, so that one file brings one record.
                for task in sorted(ready, key=going.__getitem__):
                    number = going.pop(task)
                    stage.awake -= 1
                    ends[number] = end = task.result()
                    done += end.how == "done"
                    failed += end.how == "failed"
                    if end.how == "complete":
                        return [one or End("cancelled") for one in ends]
            return [one or End("cancelled") for one in ends]
        finally:
            for task, number in going.items():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                stage.awake -= 1
                stage.cancel(orders[number].prefix)
            stage.awake += 1

    async def _block(self, order: Order) -> End:
        block = block_of(self._card.steps, order.block)
        return await Walk(self._card, self, order.prefix).run(block, order.scope)

    async def card(self, place: Place, card: str, inputs: Any, timeout: float | None, number: int) -> End:
        """See `World`."""
        stage = self._stage
        inner = stage.cards[f"{self._card.digest}|{card}"]
        left = self._left(place)
        deadline = stage.now + min(left, inner.timeout if timeout is None else timeout)
        scope = inner.start(inputs if isinstance(inputs, dict) else {}, run_id=stage.run)
        walk = Walk(inner, MockWorld(stage, inner, deadline), f"{place.key}/{number}/")
        end = await walk.run(inner.block, scope)
        return End("done", result=walk.result(end, scope)) if end.how == "done" else end
