"""One process's part in the runs: it begins and walks them, takes up those of the dead, and hears what is said to them."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from roster._clock import boottime
from roster.bus import Message
from roster.cards import Limits, ProcessCard
from roster.errors import RosterError, RunsUnavailableError
from roster.orchestrator.runs import looks, writes
from roster.orchestrator.runs.durable import DurableWorld, end_as_json
from roster.orchestrator.runs.engine import Engine, Given
from roster.orchestrator.runs.identity import Identity
from roster.orchestrator.runs.journal import Journal
from roster.orchestrator.runs.walking import Walk, outcome
from roster.orchestrator.runs.world import End, block_of

if TYPE_CHECKING:
    from roster.orchestrator.orchestrator import Orchestrator
    from roster.orchestrator.runs.book import Book

logger = logging.getLogger("roster.orchestrator.runs")

_LOOK_SECONDS = 0.5
_TAKE_UP_SECONDS = 1.0
_PRUNE_SECONDS = 3600.0
_AT_FIRST = 8
_CARDS_KEPT = 256
_EVENTS_KEPT = 10_000
_EVENT_SECONDS = 5.0
_OPEN_SECONDS = 30.0


class Executor:
    """See the module.

    Args:
        orchestrator: finds nodes and calls them.
        book: the database.
        at_once: how many runs of others it takes up at the same time; those that it begins itself do not count.
        recoveries: how often a run may be taken up from the dead without having got on, before it is given up.
        retention: seconds after which runs that have ended are removed.
    """

    def __init__(
        self, orchestrator: Orchestrator, book: Book, *, at_once: int, recoveries: int, retention: float
    ) -> None:
        self.orchestrator = orchestrator
        self.book = book
        self.journal = Journal(book.engine)
        self.identity = Identity(orchestrator.registry.store)
        self.engine = Engine(book.engine, self.identity.id, self._body)
        self._at_once = at_once
        self._recoveries = recoveries
        self._retention = retention
        self._taken: set[str] = set()
        self._suspects: set[str] = set()
        self._since = boottime()
        self._tasks: dict[str, asyncio.Task[Any]] = {}
        self._ends: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._words: dict[str, asyncio.Future[None]] = {}
        self._paused: frozenset[str] = frozenset()
        self._paused_runs: frozenset[str] = frozenset()
        self._cards: OrderedDict[str, ProcessCard] = OrderedDict()
        self._loops: list[asyncio.Task[None]] = []
        self._events: asyncio.Queue[tuple[str, Message]] = asyncio.Queue(_EVENTS_KEPT)
        self._hurry = asyncio.Event()
        self._asked = asyncio.Event()
        self._looked = asyncio.Event()
        self._number = 0
        self.leaving = False

    @property
    def id(self) -> str:
        """What walks are held under."""
        return self.identity.id

    # -- life -----------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Say that we are here, start the engine, and begin to look after what others left.

        Raises:
            StoreError: the registry does not take our lease.
            RunsUnavailableError: the database cannot be used.
            ConfigError: the engine is not installed, or in use.
        """
        try:
            await self.identity.open()
            await self.journal.commit(self.identity.enlist(), timeout=_OPEN_SECONDS)
            await self.engine.launch()
            await self._look()
        except BaseException:
            await self.engine.close()
            await self._end()
            raise
        self._loops = [
            asyncio.create_task(self._every(self._look, _LOOK_SECONDS, self._asked)),
            asyncio.create_task(self._every(self._take_up, _TAKE_UP_SECONDS, self._hurry)),
            asyncio.create_task(self._every(self._prune, _PRUNE_SECONDS)),
            asyncio.create_task(self._publish()),
        ]

    async def close(self) -> None:
        """Leave what runs where it is, for whoever comes next."""
        self.leaving = True
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        await self.engine.close()
        try:
            await self.journal.commit(self.identity.leave(), timeout=_OPEN_SECONDS)
        except RunsUnavailableError as error:
            logger.warning("the runs of this process could not be handed over: %s", error)
        await self._end()

    async def _end(self) -> None:
        await asyncio.to_thread(self.journal.close)
        await self.identity.close()
        for end in self._ends.values():
            end.cancel()

    async def _every(
        self, work: Callable[[], Any], seconds: float, hurry: asyncio.Event | None = None
    ) -> None:
        while True:
            try:
                await work()
            except RosterError as error:
                logger.warning("looking after runs failed, it is tried again: %s", error)
            except Exception:  # whatever it is, runs must not be left alone for it
                logger.exception("looking after runs failed, it is tried again")
            if hurry is None:
                await asyncio.sleep(seconds)
                continue
            try:
                async with asyncio.timeout(seconds):
                    await hurry.wait()
            except TimeoutError:
                pass  # it was time anyway
            hurry.clear()

    # -- walks ----------------------------------------------------------------------------------------------------

    async def begin(self, walk: str, run: str, order: Mapping[str, Any], parent: str) -> None:
        """Begin a walk beside its parent, unless it has begun."""
        try:
            new = await self.journal.commit(writes.new_walk(walk, run, order, parent, self.id))
        except writes.GivenAwayError:
            raise Given from None
        if new:
            await self.start(walk)

    async def start(self, walk: str) -> None:
        """Have the engine walk; the walk is on record."""
        self._expect(walk)
        await self._outside(self.engine.start(walk))

    @staticmethod
    async def _outside(work: Coroutine[Any, Any, None]) -> None:
        """Do something in a context of its own: to the engine it is no part of the step that asks for it."""
        await contextvars.Context().run(asyncio.create_task, work)

    async def ended(self, walk: str) -> dict[str, Any]:
        """Return how a walk ended, wherever it is walked."""
        future = self._expect(walk)
        try:
            while True:
                end = await asyncio.to_thread(looks.end_of, self.book.engine, walk)
                if end is not None:
                    return end
                done, _ = await asyncio.wait([future], timeout=_TAKE_UP_SECONDS)
                if done:
                    return future.result()
        finally:
            self._ends.pop(walk, None)

    def ending(self, walk: str) -> asyncio.Future[dict[str, Any]] | None:
        """Return the future of a walk's end, if it began in this process."""
        return self._ends.get(walk)

    async def stop(self, run: str, walks: Sequence[str]) -> None:
        """Cancel walks that others have made needless."""
        stopped = await self.journal.commit(writes.stop_walks(run, walks))
        for walk in stopped:
            self._stop(walk, {"how": "cancelled"})
        await self._outside(self.engine.cancel(stopped))

    def _stop(self, walk: str, end: dict[str, Any]) -> None:
        if (task := self._tasks.get(walk)) is not None:
            task.cancel()
        if (future := self._ends.get(walk)) is not None and not future.done():
            future.set_result(end)

    def _expect(self, walk: str) -> asyncio.Future[dict[str, Any]]:
        future = self._ends.get(walk)
        if future is None or future.cancelled():
            future = self._ends[walk] = asyncio.get_running_loop().create_future()
        return future

    async def _body(self, walk: str) -> dict[str, Any]:
        """Walk: what the engine calls, at the beginning or after somebody's death."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        self._tasks[walk] = task
        try:
            return await self._walk(walk)
        except Given as given:
            if given.__cause__ is not None:
                self._let_go(walk, given.__cause__)
            raise
        except Exception as error:
            self._let_go(walk, error)
            raise Given(str(error)) from error
        finally:
            if self._tasks.get(walk) is task:
                del self._tasks[walk]
            if walk in self._taken:
                self._taken.discard(walk)
                self._suspects.discard(walk)
                self._hurry.set()

    async def _walk(self, walk: str) -> dict[str, Any]:
        found = await asyncio.to_thread(looks.walk, self.book.engine, walk)
        if found is None:
            raise Given
        order, run = found.order, found.run
        try:
            await self.journal.commit(writes.begin_walk(walk, run, self.id, root=walk == run))
        except writes.GivenAwayError:
            raise Given from None
        card = self._card(order["digest"], found.cards)
        world = DurableWorld(
            self,
            run=run,
            walk=walk,
            card=card,
            deadline=order["deadline"],
            wait_for_nodes=found.options.get("no_nodes", "wait") == "wait",
            homes=found.homes,
        )
        if walk == run:
            self.tell("run_resumed" if found.begun else "run_started", run, card)
        if "block" in order:
            name, number = order["block"]
            block, scope = block_of(card.steps, (name, number)), dict(order["scope"])
        else:
            block, scope = card.block, card.start(order["inputs"], run_id=run)
        walking = Walk(card, world, order["prefix"])
        end = await walking.run(block, scope)
        whole = "block" not in order
        if whole and end.how == "done":
            end = End("done", result=walking.result(end, scope))
        told = end_as_json(end)
        if walk == run:
            await self._end_run(run, card, end, told)
        else:
            await self.journal.commit(writes.end_walk(walk, told))
        future = self._ends.get(walk)
        if future is not None and not future.done():
            future.set_result(told)
        if walk == run:
            self._ends.pop(walk, None)  # whoever waits for a run has hold of it
        return told

    def _let_go(self, walk: str, error: BaseException) -> None:
        """Something broke that is not the run's own doing: somebody goes on with it, as often as with a run of the dead."""
        logger.error("the walk %s broke off, and is taken up again: %s", walk, error, exc_info=error)
        self.journal.post(looks.let_go(walk, self.id, f"{type(error).__name__}: {error}", self._recoveries))

    async def _end_run(self, run: str, card: ProcessCard, end: End, told: Mapping[str, Any]) -> None:
        state, error = outcome(end)
        if await self.journal.commit(writes.end_run(run, state, end.result, error, told)):
            self.tell(f"run_{state}", run, card, error=error)

    def _card(self, digest: str, documents: Mapping[str, tuple[str, str]]) -> ProcessCard:
        card = self._cards.get(digest)
        if card is None:
            document, limits = documents[digest]
            card = ProcessCard.from_dict(
                json.loads(document), source=digest, limits=Limits(**json.loads(limits))
            )
            self._cards[digest] = card
            if len(self._cards) > _CARDS_KEPT:
                self._cards.popitem(last=False)
        return card

    async def card_order(self, run: str, card: ProcessCard, name: str) -> str:
        """Return the digest of the card that a subprocess step means: as it was when the run began."""
        return await asyncio.to_thread(looks.subcard, self.book.engine, run, card.digest, name)

    # -- what is said to runs -------------------------------------------------------------------------------------

    def word(self, run: str) -> asyncio.Future[None]:
        """Return a future that is done when something has been said to a run."""
        word = self._words.get(run)
        if word is None or word.done():
            word = self._words[run] = asyncio.get_running_loop().create_future()
        return word

    async def gate(self, run: str, card: str) -> None:
        """Wait while the run, or all runs of its card, are to stand still."""
        while card in self._paused or run in self._paused_runs:
            await self._looked.wait()

    def look_soon(self) -> None:
        """Something was written by this very process: look at once."""
        self._asked.set()

    async def _look(self) -> None:
        """See what people have written: who is to stop, to stand still, or has been answered."""
        seen = await asyncio.to_thread(looks.around, self.book.engine, list(self._tasks), list(self._words))
        self._paused, self._paused_runs = seen.paused_cards, seen.paused_runs
        self._looked.set()  # whoever stands still looks again
        self._looked = asyncio.Event()
        for walk, end in seen.over.items():
            self._stop(walk, end)
        if seen.over:
            await self._outside(self.engine.cancel(list(seen.over)))
        for run in seen.said:
            if (word := self._words.get(run)) is not None and not word.done():
                word.set_result(None)
        for run in [run for run, word in self._words.items() if word.done()]:
            del self._words[run]

    # -- what others left -----------------------------------------------------------------------------------------

    async def _take_up(self) -> None:
        await self.identity.check()
        # Slowly at first: where orchestrators die again and again, few runs at once get on, and many do not.
        at_once = min(self._at_once, round(_AT_FIRST * 2 ** min(20.0, boottime() - self._since)))
        room = at_once - len(self._taken)
        if room <= 0:
            # Those that wait for a person, perhaps for days, must not keep others from being taken up.
            room += await asyncio.to_thread(looks.at_rest, self.book.engine, list(self._taken))
        taken = await self.journal.commit(
            looks.take_up(
                self.id,
                await self._dead(),
                room=max(0, room),
                suspects=self._suspects & self._taken,
                recoveries=self._recoveries,
            ),
            timeout=_OPEN_SECONDS,
        )
        self._suspects.update(taken.suspects)
        for walk in taken.walks:
            if walk == taken.runs[walk]:
                self._taken.add(walk)
        try:
            await self._outside(self.engine.resume(taken.walks))
        except Exception:
            # Ours on record, and walked by nobody: the next round takes them again.
            self._taken.difference_update(taken.walks)
            self.journal.post(writes.let_go_all(taken.walks, self.id))
            raise
        if taken.given_up:
            await self.engine.cancel([walk for walks in taken.given_up.values() for walk in walks])
            for run in taken.given_up:
                logger.error("the run %s was given up", run, extra={"run": run})
                self._event("run_dead", {"run": run})
        if taken.walks:
            logger.debug("took up %d walks", len(taken.walks))

    async def _dead(self) -> list[str]:
        known = await asyncio.to_thread(looks.executors, self.book.engine)
        return await self.identity.dead(known)

    async def _prune(self) -> None:
        """Remove runs that ended long ago, and what the engine has kept of those that are removed."""
        await asyncio.to_thread(self.book.prune, self._retention)
        known = await asyncio.to_thread(looks.executors, self.book.engine)
        await self._outside(self.engine.bury({one.id for one in known}))
        while walks := await asyncio.to_thread(looks.left_over, self.book.engine):
            await self._outside(self.engine.forget(walks))
            await self.journal.commit(writes.forget_walks(walks), timeout=_OPEN_SECONDS)

    # -- events ---------------------------------------------------------------------------------------------------

    def number(self) -> int:
        """Return the next number: steps that begin in one instant are told apart by it."""
        self._number += 1
        return self._number

    def tell(self, what: str, run: str, card: ProcessCard, **more: Any) -> None:
        """Publish an event of a run; nobody waits for it, and the oldest go when the bus is slow."""
        data = {name: value for name, value in more.items() if value is not None}
        if what.startswith("run_"):
            logger.info("%s %s of %s", what.replace("_", " "), run, card.name, extra={"run": run})
        self._event(what, {"run": run, "card": card.name, **data})

    def _event(self, what: str, data: Mapping[str, Any]) -> None:
        message = Message.event(
            f"process.{what}",
            {**data, "executor": self.id, "at": time.time()},
            source=self.orchestrator.team.source,
        )
        if self._events.full():
            self._events.get_nowait()
        self._events.put_nowait((f"evt.process.{what}", message))

    async def _publish(self) -> None:
        while True:
            key, message = await self._events.get()
            try:
                async with asyncio.timeout(_EVENT_SECONDS):
                    await self.orchestrator.bus.publish(key, message)
            except (RosterError, TimeoutError) as error:
                logger.info("an event of a run did not go out: %s", error)
