"""The answers that a node keeps for calls with an idempotency key: one small SQLite file in the state directory.

What it promises:

- **Durable.** `keep` returns True when the answer is on the disk (SQLite, `synchronous=FULL`): it outlives kill -9 and a
  loss of power.
- **For a window.** An answer is found for `window` seconds by `CLOCK_BOOTTIME`, restarts of the node included. After a
  restart of the machine, when nobody can say how old an answer is, its window begins anew.
- **Bounded.** At most `MAX_ANSWERS` answers and `MAX_BYTES` of them; above that the oldest go before their time.
- **Never in the way.** Nothing is opened before the first keyed command; all file work happens on a thread, each wait for
  it has a deadline. What cannot be written is kept in memory (at most `MAX_UNWRITTEN`), is written as soon as that works
  again, and `report` hears of it: until then the answer lives as long as this process.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, TypeVar

from roster._clock import boottime
from roster._loops import Hop
from roster._paths import state_dir
from roster.errors import ConfigError
from roster.node.answerfile import AnswerFile, Kept
from roster.node.threads import Threads

logger = logging.getLogger("roster.node")

MAX_UNWRITTEN = 1000
MAX_UNWRITTEN_BYTES = 8 * 1024 * 1024
MAX_JOBS = 10_000
DEADLINE = 5.0

# A thread that cannot be started is a RuntimeError.
_TROUBLES = (OSError, ConfigError, sqlite3.Error, RuntimeError)

T = TypeVar("T")


class Answers:
    """The kept answers as the node's I/O loop uses them.

    Args:
        node: `namespace/name`; the file is `{state directory}/answers/{namespace}.{name}.db`.
        team: called at the first key for the URL of the registry that the node is in. Two nodes of one name in two
            registries share the file, and nothing in it. What belongs to a registry in memory
            is kept in memory.
        window: seconds that an answer is kept.
        report: called on the loop with what is wrong, or None when nothing is any more.
        now: the clock that decides.
    """

    def __init__(
        self,
        node: str,
        *,
        team: Callable[[], str],
        window: float,
        report: Callable[[str | None], object],
        now: Callable[[], float] = boottime,
    ) -> None:
        namespace, _, name = node.partition("/")
        self._name = f"{namespace}.{name}.db"
        self._node = node
        self._team = team
        self._team_key = b""
        self._in_memory = False
        self._window = window
        self._report = report
        self._now = now
        self._file: AnswerFile | None = None
        self._threads = Threads(f"roster-answers-{name}")
        self._jobs: deque[tuple[Callable[[AnswerFile], Any], asyncio.Future[Any]]] = deque()
        self._lock = threading.Lock()
        self._working = False
        self._unwritten: OrderedDict[bytes, tuple[Kept, float]] = OrderedDict()
        self._problem: str | None = None
        self._hop: Hop | None = None

    async def find(self, scope: str) -> Kept | None:
        """Return the answer kept for a scope, None if there is none, or none that can be read."""
        key = self._key(scope)
        with self._lock:
            found = self._unwritten.get(key)
        if found is not None and self._now() - found[1] < self._window:
            return found[0]
        try:
            return await self._on_thread(lambda file: file.find(key))
        except _TROUBLES as error:
            self._trouble("read", error)
            return None

    async def keep(self, scope: str, kept: Kept) -> bool:
        """Keep an answer; return whether it is on the disk."""
        key = self._key(scope)
        with self._lock:
            self._unwritten[key] = (kept, self._now())
            size = sum(len(one.data) for one, _ in self._unwritten.values())
            while len(self._unwritten) > MAX_UNWRITTEN or size > MAX_UNWRITTEN_BYTES:
                _, (oldest, _) = self._unwritten.popitem(last=False)
                size -= len(oldest.data)
        try:
            await self._on_thread(self._write_all)
        except _TROUBLES as error:
            self._trouble("write", error)
            return False
        if self._problem is not None:
            self._problem = None
            logger.info("%s: answers are kept on the disk again", self._node)
            self._report(None)
        return True

    async def forget(self, scope: str) -> None:
        """Remove an answer that should not have been kept."""
        key = self._key(scope)
        with self._lock:
            self._unwritten.pop(key, None)
        try:
            await self._on_thread(lambda file: file.forget(key))
        except _TROUBLES as error:
            self._trouble("write", error)

    async def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            try:
                await self._on_thread(lambda file: file.close())
            except (OSError, sqlite3.Error) as error:
                logger.warning("%s: the kept answers could not be closed: %s", self._node, error)

    def _key(self, scope: str) -> bytes:
        if not self._team_key:
            team = self._team()
            self._in_memory = team.startswith("memory:")
            self._team_key = blake2b(team.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        return blake2b(bytes.fromhex(scope), key=self._team_key, digest_size=16).digest()

    def _write_all(self, file: AnswerFile) -> None:
        """Write whatever is not written: what came while the thread was busy goes with one commit. On the thread."""
        with self._lock:
            waiting = [(key, kept, at) for key, (kept, at) in self._unwritten.items()]
        if not waiting:
            return
        file.keep(waiting)
        with self._lock:
            for key, kept, _ in waiting:
                found = self._unwritten.get(key)
                if found is not None and found[0] is kept:
                    del self._unwritten[key]

    def _trouble(self, what: str, error: Exception) -> None:
        text = f"the kept answers cannot be {'read' if what == 'read' else 'written'}: {error}"
        if self._problem != text:
            self._problem = text
            logger.warning(
                "%s: %s. Answers are kept in memory: until this is mended a key is good for as long as this process lives",
                self._node,
                text,
            )
            self._report(text)

    # -- the thread -----------------------------------------------------------------------------------------------

    async def _on_thread(self, job: Callable[[AnswerFile], T]) -> T:
        loop = asyncio.get_running_loop()
        if self._hop is None:
            self._hop = Hop(loop)
        if self._file is None:
            # Imported here: few nodes ever see a key, and those with another store need nothing else of SQLite's.
            from roster.store.sqlite.boot import boot_id

            path = None if self._in_memory else state_dir() / "answers" / self._name
            self._file = AnswerFile(path, window=self._window, boot=boot_id(), now=self._now)
        if len(self._jobs) >= MAX_JOBS:
            raise OSError("the disk does not answer, and too much waits for it")
        future: asyncio.Future[T] = loop.create_future()
        self._jobs.append((job, future))
        if not self._working:
            self._working = True
            self._threads.submit(self._work, lambda *_: None)
        try:
            async with asyncio.timeout(DEADLINE):
                return await future
        except TimeoutError:
            raise OSError(f"the disk has not answered within {DEADLINE:g} s") from None

    def _work(self) -> None:
        """Do one job after the other. On the thread."""
        assert self._hop is not None  # noqa: S101 - set before the first job
        assert self._file is not None  # noqa: S101 - set before the first job
        while self._jobs:
            job, future = self._jobs.popleft()
            value, error = None, None
            if future.done():
                continue  # nobody waits any more
            try:
                try:
                    value = job(self._file)
                except sqlite3.DatabaseError as raised:
                    if type(raised) is not sqlite3.DatabaseError:
                        raise
                    self._file.set_aside(raised)
                    value = job(self._file)
            except Exception as raised:  # noqa: BLE001 - it is the waiting loop's to hear
                error = raised
            if not self._hop.post(_settle, future, value, error):
                return
        self._hop.post(self._rested)

    def _rested(self) -> None:
        self._working = bool(self._jobs)
        if self._working:
            self._threads.submit(self._work, lambda *_: None)


def _settle(future: asyncio.Future[Any], value: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
