"""`Runs`: what an orchestrator can do with runs of process cards."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from roster._durations import parse_duration
from roster.cards import Limits, ProcessCard
from roster.errors import ConfigError, RunConflictError, RunsUnavailableError
from roster.orchestrator.runs.book import Book
from roster.orchestrator.runs.cardfiles import CardLike, plain_inputs, read_card, run_name
from roster.orchestrator.runs.database import tables
from roster.orchestrator.runs.executor import Executor
from roster.orchestrator.runs.record import ENDED, RunRecord, RunState
from roster.orchestrator.runs.writes import insert_new, to_json

if TYPE_CHECKING:
    import sqlalchemy as sa

    from roster.orchestrator.orchestrator import Orchestrator

T = TypeVar("T")
NoNodes: TypeAlias = Literal["wait", "fail"]

AT_ONCE = "ROSTER_RUNS_AT_ONCE"
RECOVERIES = "ROSTER_RUN_RECOVERIES"
RETENTION = "ROSTER_RUNS_RETENTION"
_DEFAULT_AT_ONCE = 100
_DEFAULT_RECOVERIES = 10
_DEFAULT_RETENTION = 30 * 86400.0
_WRITE_SECONDS = 30.0
_POLL_SECONDS = 0.5
_LOOK_SECONDS = 5.0


class Runs:
    """The runs of an orchestrator: `orchestrator.runs`. Opened at its first use; one a process at a time.

    Args:
        orchestrator: whose.
        url: the database; without it `ROSTER_RUNS`, else a file in the state directory.

    Example:
        >>> run = await orchestrator.runs.start("card.yaml", {"topic": "bees"})
        >>> record = await orchestrator.runs.wait(run)
    """

    def __init__(self, orchestrator: Orchestrator, url: str | None = None) -> None:
        self._orchestrator = orchestrator
        self._url = url
        self._executor: Executor | None = None
        self._book: Book | None = None
        self._opening = asyncio.Lock()

    # -- beginning ------------------------------------------------------------------------------------------------

    async def start(
        self,
        card: CardLike,
        inputs: Mapping[str, Any] | None = None,
        *,
        run_id: str | None = None,
        no_nodes: NoNodes = "wait",
        detach: bool = False,
        limits: Limits | None = None,
    ) -> str:
        """Begin a run, and return its id once it is on the disk: from then on whichever orchestrator lives finishes it.

        Args:
            card: its file, its document, or the card.
            inputs: what `${input...}` means; JSON.
            run_id: 1 to 100 letters, digits, `.`, `_`, `-`; the same id again with the same card and inputs is the same run.
                Without it one is made up.
            no_nodes: a step that nobody can do waits, up to its timeout, or fails at once.
            detach: leave it to another orchestrator (`roster orchestrate`).
            limits: of the card; without them `ROSTER_CARD_LIMITS`.

        Raises:
            DocumentError: the card, or one that it runs, is wrong: every fault with its line.
            RunConflictError: another run has this id.
            ConfigError: the id is none, or runs are not installed.
            RunsUnavailableError: the database does not take it.
        """
        read, cards = await asyncio.to_thread(read_card, card, limits)
        given = plain_inputs(inputs)
        run = run_name(run_id, read)
        read.start(given, run_id=run)  # inputs that are too large are refused before anything is written
        row = self._row(run, read, cards, given, no_nodes)
        executor = None if detach else (await self._open()).id
        walk = {
            "id": run,
            "run": run,
            "order": to_json(
                {
                    "digest": read.digest,
                    "inputs": given,
                    "prefix": "",
                    "deadline": row["created_at"] + read.timeout,
                }
            ),
            "executor": executor,
            "ended": False,
        }
        documents = [
            _document(one) for one in {each.digest: each for each in (read, *cards.values())}.values()
        ]

        def write(connection: sa.Connection) -> bool:
            all_ = tables()
            if not insert_new(all_.runs, connection, [{**row, "executor": executor}]):
                _same(connection, row)
                return False
            insert_new(all_.cards, connection, documents)
            insert_new(all_.walks, connection, [walk])
            return True

        if detach:
            book = await self.book()
            await asyncio.to_thread(book.write, write)
        else:
            opened = await self._open()
            if await opened.journal.commit(write, timeout=_WRITE_SECONDS):
                await opened.start(run)
        return run

    async def run(
        self,
        card: CardLike,
        inputs: Mapping[str, Any] | None = None,
        *,
        run_id: str | None = None,
        no_nodes: NoNodes = "wait",
        timeout: float | None = None,
    ) -> RunRecord:
        """Begin a run, and return its record when it has ended; see `start` and `wait`."""
        return await self.wait(
            await self.start(card, inputs, run_id=run_id, no_nodes=no_nodes), timeout=timeout
        )

    async def wait(self, run: str, *, timeout: float | None = None) -> RunRecord:
        """Return the record of a run when it has ended. Who stops waiting does not stop the run.

        Args:
            run: its id.
            timeout: seconds to wait; None as long as it takes: a card has a timeout of its own.

        Raises:
            RunNotFoundError: there is no such run.
            TimeoutError: it has not ended in time.
        """
        async with asyncio.timeout(timeout):
            while True:
                ending = None if self._executor is None else self._executor.ending(run)
                if ending is None:
                    if await self._read(lambda book: book.state(run)) in ENDED:
                        return await self.get(run)
                    await asyncio.sleep(_POLL_SECONDS)
                else:
                    # It ends here, unless another process has ended it, or has taken it from us.
                    await asyncio.wait([ending], timeout=_LOOK_SECONDS)
                    if (record := await self.get(run)).ended:
                        return record

    async def watch(self, run: str, *, interval: float = _POLL_SECONDS) -> AsyncIterator[RunRecord]:
        """Yield the record of a run whenever it has changed, the last time when it has ended.

        Raises:
            RunNotFoundError: there is no such run.
        """
        last = None
        while True:
            record = await self.get(run)
            if record != last:
                yield record
                last = record
            if record.ended:
                return
            ending = None if self._executor is None else self._executor.ending(run)
            await (asyncio.sleep(interval) if ending is None else asyncio.wait([ending], timeout=interval))

    async def serve(self, *, on_ready: Callable[[], None] | None = None) -> None:
        """Take up runs that nobody has, until cancelled: those of orchestrators that died, and those left by `detach`.

        Args:
            on_ready: called when it has begun to.
        """
        await self._open()
        if on_ready is not None:
            on_ready()
        await asyncio.get_running_loop().create_future()

    # -- looking --------------------------------------------------------------------------------------------------

    async def get(self, run: str) -> RunRecord:
        """Return a run with its steps.

        Raises:
            RunNotFoundError: there is none.
        """
        return await self._read(lambda book: book.get(run))

    async def list(
        self,
        *,
        states: Sequence[RunState] = (),
        card: str | None = None,
        limit: int = 100,
        before: str | None = None,
    ) -> list[RunRecord]:
        """Return runs, the youngest first, without their steps; `before` is the id of the last one of the page before."""
        return await self._read(lambda book: book.list(states=states, card=card, limit=limit, before=before))

    # -- saying something -----------------------------------------------------------------------------------------

    async def cancel(self, run: str, reason: str = "") -> RunRecord:
        """End a run; what nodes do for it is stopped.

        Raises:
            RunNotFoundError: there is none.
            RunConflictError: it has ended.
        """
        return await self._say(lambda book: book.cancel(run, reason))

    async def approve(
        self, run: str, step: str | None = None, *, by: str = "", comment: str = "", data: Any = None
    ) -> None:
        """Say yes to a run that waits for a person: at a checkpoint, or after a failure, where the step is tried again.

        Raises:
            RunNotFoundError: there is none.
            RunConflictError: no step, or more than one, waits for a person.
        """
        await self._say(lambda book: book.answer(run, "approve", step, by=by, comment=comment, data=data))

    async def reject(
        self, run: str, step: str | None = None, *, by: str = "", comment: str = "", data: Any = None
    ) -> None:
        """Say no to a run that waits for a person: it fails.

        Raises:
            RunNotFoundError: there is none.
            RunConflictError: no step, or more than one, waits for a person.
        """
        await self._say(lambda book: book.answer(run, "reject", step, by=by, comment=comment, data=data))

    async def skip(self, run: str, step: str | None = None, *, by: str = "", comment: str = "") -> None:
        """Have a run that waits after a failure go on behind the step.

        Raises:
            RunNotFoundError: there is none.
            RunConflictError: no step of it waits for that.
        """
        await self._say(lambda book: book.go_on(run, step, by=by, comment=comment))

    async def signal(self, run: str, event: str, data: Any = None) -> None:
        """Send a run the event that it waits for, or will wait for.

        Raises:
            RunNotFoundError: there is none.
            RunConflictError: it has ended, or has been sent too much.
        """
        await self._say(lambda book: book.signal(run, event, data))

    async def pause(self, run: str) -> None:
        """Have a run stand still before its next step."""
        await self._say(lambda book: book.pause(run, True))

    async def resume(self, run: str) -> None:
        """Let a run go on: one that was paused, or one that was given up (`dead`).

        Raises:
            RunNotFoundError: there is none.
            RunConflictError: it has ended in another way.
        """

        def write(book: Book) -> None:
            if book.state(run) == "dead":
                book.revive(run)
            else:
                book.pause(run, False)

        await self._say(write)

    async def pause_card(self, card: str) -> int:
        """Have all runs of a card stand still before their next step; return how many there are now."""
        return await self._say(lambda book: book.pause_card(card))

    async def resume_card(self, card: str) -> bool:
        """Let the runs of a card go on; return whether they stood still."""
        return await self._say(lambda book: book.resume_card(card))

    # -- life -----------------------------------------------------------------------------------------------------

    async def book(self) -> Book:
        """Return the database, opened."""
        async with self._opening:
            if self._book is None:
                self._book = await asyncio.to_thread(Book, self._url)
            return self._book

    async def _open(self) -> Executor:
        book = await self.book()
        async with self._opening:
            if self._executor is None:
                await self._orchestrator.start()
                executor = Executor(
                    self._orchestrator,
                    book,
                    at_once=_number(AT_ONCE, _DEFAULT_AT_ONCE),
                    recoveries=_number(RECOVERIES, _DEFAULT_RECOVERIES),
                    retention=_retention(),
                )
                await executor.open()
                self._executor = executor
            return self._executor

    async def close(self) -> None:
        """Leave the runs to whoever comes next, and close the database."""
        async with self._opening:
            executor, self._executor = self._executor, None
            book, self._book = self._book, None
            if executor is not None:
                await executor.close()
            if book is not None:
                await asyncio.to_thread(book.close)

    async def _read(self, look: Callable[[Book], T]) -> T:
        book = await self.book()
        return await asyncio.to_thread(look, book)

    async def _say(self, write: Callable[[Book], T]) -> T:
        done = await self._read(write)
        if self._executor is not None:
            self._executor.look_soon()
        return done

    @staticmethod
    def _row(
        run: str, card: ProcessCard, cards: Mapping[str, ProcessCard], inputs: Any, no_nodes: str
    ) -> dict[str, Any]:
        if no_nodes not in ("wait", "fail"):
            raise ConfigError(f"no_nodes is wait or fail, not {no_nodes!r}")
        return {
            "id": run,
            "card": card.name,
            "card_version": card.version,
            "digest": card.digest,
            "cards": to_json({name: one.digest for name, one in cards.items()}),
            "state": "pending",
            "inputs": to_json(inputs),
            "options": to_json({"no_nodes": no_nodes}),
            "created_at": time.time(),
            "progress": 0,
            "recoveries": 0,
            "strikes": 0,
            "progress_before": 0,
            "paused": False,
        }


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 100_000:
        raise ConfigError(f"{variable}: expected a whole number from 1 to 100000, found {text[:40]!r}")
    return int(text)


def _retention() -> float:
    text = os.environ.get(RETENTION, "")
    try:
        return parse_duration(text) if text else _DEFAULT_RETENTION
    except ValueError as error:
        raise ConfigError(f"{RETENTION}: {error}") from None


def _document(card: ProcessCard) -> dict[str, Any]:
    return {
        "digest": card.digest,
        "document": to_json(card.document),
        "name": card.name,
        "limits": to_json(asdict(card.limits)),
    }


def _same(connection: sa.Connection, row: Mapping[str, Any]) -> None:
    import sqlalchemy as sa

    runs = tables().runs
    other = connection.execute(sa.select(runs.c.digest, runs.c.inputs).where(runs.c.id == row["id"])).first()
    if other is None:
        raise RunsUnavailableError("the run was removed in the moment it was begun: try again")
    if other.digest != row["digest"] or json.loads(other.inputs) != json.loads(row["inputs"]):
        raise RunConflictError(
            f"another run has the id {row['id']}, with another card or other inputs: choose another id"
        )
