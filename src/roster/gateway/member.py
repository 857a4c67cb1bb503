"""One node over HTTP: a real registration and a real consumer, with its program at the other end of requests."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Literal

from roster._clock import boottime
from roster._loops import Hop
from roster.bus import Message
from roster.bus.base import Bus, Delivery
from roster.bus.failure import error_from_data
from roster.bus.keys import answers_window
from roster.errors import (
    Code,
    DeliveryError,
    InvalidResultError,
    RegistryError,
    RosterError,
    StoreError,
)
from roster.gateway.problems import Problem
from roster.gateway.remote import Item, handlers_of
from roster.node.answers import Answers
from roster.node.engine import Engine
from roster.node.hands import Stage, Work
from roster.node.presence import bindings_of
from roster.node.signals import heed, heeded
from roster.registry import Registration

logger = logging.getLogger("roster.gateway")

_GATHER = 0.02
_MAX_ITEMS = (
    1000  # notices of cancelling and signals that wait for a program; commands are bounded by its capacity
)


class Member:
    """A node over HTTP. All of it belongs to the gateway's loop.

    Args:
        registration: its presence in the registry.
        owner: the digest of the token that registered it.
        ttl: seconds that it lives after the last request.
        over: called once when it has ended by itself, with why.
        noted: called with each command that is over, for the history.
    """

    def __init__(
        self,
        registration: Registration,
        *,
        owner: str,
        ttl: float,
        team: str,
        over: Callable[[Member, str], None],
        noted: Callable[[Member, str, str, float, str, str], None],
    ) -> None:
        self.registration = registration
        self.key = registration.key
        self.uid = registration.uid
        self.owner = owner
        self.ttl = ttl
        self.expires = boottime() + ttl
        self.ended = ""
        self._over = over
        self._noted = noted
        self._news = asyncio.Event()
        self._seq = 0
        self._items: OrderedDict[int, Item] = OrderedDict()
        self._commands: dict[str, Item] = {}
        self._stopped: OrderedDict[str, Work] = OrderedDict()
        self._telling: asyncio.TimerHandle | None = None
        self._shown = "ready"
        self._showing: asyncio.Task[None] | None = None
        passport = registration.passport
        self.engine = Engine(
            key=self.key,
            capacity=passport.max_concurrent_tasks,
            handlers=handlers_of(passport),
            run=self._run,
            stop_running=self._stop_running,
            changed=self._changed,
            control=self._control,
            bus_hop=Hop(asyncio.get_running_loop()),
            answers=Answers(
                self.key, team=lambda: team, window=answers_window(None), report=self._report_answers
            ),
        )
        self.engine.uid = self.uid
        registration.on_lost = lambda why: self.end(f"the registration was lost: {why}")
        registration.on_displaced = lambda error: self.end(str(error))

    # -- life --------------------------------------------------------------------------------------

    async def serve(self, bus: Bus) -> None:
        """Begin to take commands.

        Raises:
            BusUnavailableError: somebody else serves the queue, or the bus is out of reach.
        """
        passport = self.registration.passport
        await self.engine.serve(bus, passport.mindbus_queue, bindings_of(passport))
        self.engine.open_for("starting")
        await self.registration.set_state("ready")

    def touch(self) -> None:
        """It has shown a sign of life."""
        self.expires = boottime() + self.ttl

    def end(self, why: str, *, by_itself: bool = True) -> None:
        """It is over: what it had in hand is another node's. What it has not fetched surely did not start."""
        if self.ended:
            return
        self.ended = why
        self.engine.close_for("leaving", why)
        for work in self.engine.hands.everything():
            item = self._commands.pop(work.message.id, None)
            if work.stage is Stage.RUNNING and (item is None or not item.fetched):
                error = DeliveryError(
                    f"{self.key} {why}", code=Code.UNAVAILABLE, outcome="refused", retryable=True
                )
                self.engine.finish(work, Message.error_for(work.message, error, source=self.engine.source))
            else:
                # As if its process had died: whether the work did that is not known.
                self.engine.give_back(work, f"{self.key} {why}", lost=True, stood_still=True)
        self._news.set()
        if by_itself:
            self._over(self, why)

    async def close(self, *, died: bool) -> None:
        """Take it out of the registry and off the bus.

        Args:
            died: it is listed as offline for a while; else it is removed at once.
        """
        self.end("has left", by_itself=False)
        if self._telling is not None:
            self._telling.cancel()
        if self._showing is not None:
            self._showing.cancel()
        try:
            # The registration first: nobody should find a node whose queue is gone.
            await (self.registration.abandon() if died else self.registration.deregister())
        except RosterError as error:
            logger.warning("%s could not deregister, its lease will run out: %s", self.key, error)
        for work in self._stopped.values():
            self.engine.ended(work, None)
        await self.engine.close()

    # -- what the registry is told -----------------------------------------------------------------

    def _changed(self) -> None:
        if self._telling is None and not self.ended:
            self._telling = asyncio.get_running_loop().call_later(_GATHER, self._tell)

    def _tell(self) -> None:
        self._telling = None
        if self.ended:
            return
        engine = self.engine
        engine.number_after(self.registration.seq)
        self.registration.report(engine.hands.active, engine.hands.capacity, seq=engine.seq)
        if (self._showing is None or self._showing.done()) and self._wanted != self._shown:
            self._showing = asyncio.create_task(self._show())

    @property
    def _wanted(self) -> str:
        return "draining" if self.engine.reasons else "ready"

    async def _show(self) -> None:
        while (state := self._wanted) != self._shown and not self.ended:
            self._shown = state
            try:
                await self.registration.set_state(state)
            except StoreError as error:
                logger.warning("%s could not say that it is %s: %s", self.key, state, error)  # written later
            except RegistryError:
                return

    def say(self, state: Literal["ready", "draining"]) -> None:
        """Take what the program says of itself."""
        if state == "draining":
            self.engine.close_for("own", "is draining")
            self.engine.hand_back_waiting()
        else:
            self.engine.open_for("own")

    # -- from the bus to the program ---------------------------------------------------------------

    def _put(self, body: dict[str, Any], work: Work | None = None) -> Item:
        self._seq += 1
        item = Item(self._seq, {"seq": self._seq, **body}, work)
        self._items[item.seq] = item
        self._news.set()
        return item

    def _run(self, batch: list[Work]) -> None:
        for work in batch:
            message = work.message
            body = {
                "type": "command",
                "id": message.id,
                "capability": message.action,
                "params": message.params,
                "source": message.source,
                "idempotency_key": message.key,
                "priority": message.priority,
                "traceparent": message.traceparent,
                "ancestors": list(message.ancestors),
            }
            self._commands[message.id] = self._put(body, work)

    def _stop_running(self, work: Work, why: str) -> None:
        work.context.cancel(why)
        work.handling.stop(why)
        if work.entry is not None:
            # Whoever asks with its key again waits until the program says how it ended, or until that is nobody's concern.
            self._stopped[work.message.id] = work
            asyncio.get_running_loop().call_later(self.ttl, self._forget, work)
        item = self._commands.get(work.message.id)
        if item is not None:
            self._drop(item)
            if item.fetched:
                self._notice({"type": "cancel", "id": work.message.id, "reason": why})
                self._noted(
                    self, work.message.id, work.message.action, boottime() - item.at, "CANCELLED", why
                )

    def _forget(self, work: Work) -> None:
        if self._stopped.pop(work.message.id, None) is not None:
            self.engine.ended(work, None)

    def _notice(self, body: dict[str, Any]) -> None:
        notices = [item.seq for item in self._items.values() if item.work is None]
        for seq in notices[: max(0, len(notices) + 1 - _MAX_ITEMS)]:
            del self._items[seq]
        self._put(body)

    def _control(self, delivery: Delivery) -> bool:
        """Serve a signal: those that every node serves here, and whatever else is the program's to hear."""
        engine, data = self.engine, dict(delivery.message.data)
        name = str(data.pop("signal"))
        if not heed(engine, name, self.key) and name == "shutdown":
            engine.close_for("leaving", "is leaving")
            engine.hand_back_waiting()
        self._notice({"type": "control", "signal": name, "data": data})
        engine.confirm(delivery, heeded(engine, name, self.key))
        return True

    # -- the program -------------------------------------------------------------------------------

    def items(self, after: int) -> list[dict[str, Any]]:
        """Return what there is behind a place: notices once, commands as long as they are not over."""
        for seq in [seq for seq, item in self._items.items() if seq <= after and item.work is None]:
            del self._items[seq]
        found = []
        for item in list(self._items.values()):
            work = item.work
            if work is not None and work.stage is Stage.DONE:
                self._drop(item)
            elif item.seq > after:
                item.fetched = True
                body = dict(item.body)
                if work is not None:
                    left = work.context.remaining
                    body["timeout"] = None if left is None else round(max(0.0, left), 3)
                found.append(body)
        return found

    @property
    def place(self) -> int:
        """The newest place."""
        return self._seq

    async def wait(self, timeout: float) -> None:
        """Wait until there may be news, or the node has ended."""
        if self.ended:
            return
        self._news.clear()
        try:
            async with asyncio.timeout(timeout):
                await self._news.wait()
        except TimeoutError:
            pass  # no news

    def wake(self) -> None:
        """Have whoever waits look again."""
        self._news.set()

    def _drop(self, item: Item) -> None:
        self._items.pop(item.seq, None)
        if item.work is not None:
            self._commands.pop(item.work.message.id, None)

    def _find(self, id: str) -> Item:
        item = self._commands.get(id)
        if item is None or item.work is None or item.work.stage is Stage.DONE:
            raise Problem(
                410,
                "gone",
                f"{self.key} has no command {id[:100]} in hand: it was answered, taken back, or its deadline passed",
            )
        return item

    def progress(self, id: str, data: dict[str, Any]) -> None:
        """Tell the caller how far a command is.

        Raises:
            Problem: it is over.
        """
        work = self._find(id).work
        assert work is not None  # noqa: S101 - `_find` gives commands alone
        work.context.progress(data)

    def result(self, id: str, value: Any) -> None:
        """Answer a command.

        Raises:
            Problem: it is over; or the result contradicts the passport, which its caller is told.
        """
        item = self._over_or(
            id, lambda work: Message.result_for(work.message, value, source=self.engine.source)
        )
        work = item.work
        assert work is not None  # noqa: S101 - `_over_or` gives commands alone
        try:
            value = work.handler.result(value)
        except InvalidResultError as error:
            self._answer(
                item,
                Message.error_for(work.message, error, source=self.engine.source),
                str(error.code),
                str(error),
            )
            raise Problem(422, "invalid-result", str(error)) from None
        self._answer(item, Message.result_for(work.message, value, source=self.engine.source), "ok", "")

    def error(self, id: str, data: Mapping[str, Any]) -> None:
        """Answer a command with an error.

        Raises:
            Problem: it is over.
        """
        error = error_from_data({"reason": "RemoteError", "outcome": "unknown", **data})
        item = self._over_or(
            id, lambda work: Message.error_for(work.message, error, source=self.engine.source)
        )
        assert item.work is not None  # noqa: S101 - `_over_or` gives commands alone
        self._answer(
            item,
            Message.error_for(item.work.message, error, source=self.engine.source),
            str(error.code),
            error.summary,
        )

    def _over_or(self, id: str, answer: Callable[[Work], Message]) -> Item:
        """Return a command in hand. If it was stopped before, its end is noted for whoever asks with its key again."""
        stopped = self._stopped.pop(id, None)
        if stopped is not None:
            self.engine.ended(stopped, answer(stopped))
        return self._find(id)

    def _answer(self, item: Item, answer: Message, outcome: str, error: str) -> None:
        work = item.work
        assert work is not None  # noqa: S101 - its callers have looked
        self._drop(item)
        if work.entry is not None:
            self.engine.ended(work, answer)
        else:
            self.engine.finish(work, answer)
        self._noted(self, work.message.id, work.message.action, boottime() - item.at, outcome, error)

    def _report_answers(self, problem: str | None) -> None:
        if problem is None:
            self.registration.set_condition("AnswersKept", "True")
        else:
            self.registration.set_condition("AnswersKept", "False", "CannotWrite", problem[:1000])
