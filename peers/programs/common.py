"""What every program here shares: its arguments, its notes and its load. The standard library alone.

A program is called with `agent FILE NAME URL CAPACITY` or with `caller FILE URL`. The agent does the work `work(command,
seconds, text)`: it waits for some seconds and returns the text. The caller takes lines of JSON, each a `Load`, from its
input, one after the other, and ends with its input. Both write what happens into FILE, a line each: what was written
before a kill -9 stays.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Semaphore
from typing import Any, Protocol

Answer = dict[str, Any]
# How many clients a caller holds whose library lets one client wait for one answer only.
CLIENTS = 64
# Seconds that a program waits for the first agent.
AGENTS_WITHIN = 30.0
QUEUE = "work"


def clock() -> float:
    """Return seconds on the clock that all processes of this machine share."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Notes:
    """Appends lines to a file, one `write` each, so that processes do not cut into each other's."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._effects = os.environ.get("NOTES") != "0"

    def effect(self, what: str, command: str, node: str) -> None:
        """Note that an agent begins (`start`) or has finished (`end`) a command, unless it is not to (`NOTES=0`)."""
        if self._effects:
            self.write(what, command=command, node=node)

    def write(self, what: str, **fields: Any) -> None:
        """Write a line."""
        line = {"what": what, **fields, "pid": os.getpid(), "at": round(clock(), 4)}
        os.write(self._fd, (json.dumps(line, separators=(",", ":")) + "\n").encode())


@dataclass(frozen=True, slots=True)
class Load:
    """Commands to send.

    Attributes:
        prefix: what their names begin with.
        count: how many.
        in_flight: how many are out at once, at most.
        rate: how many a second; None: as fast as answers come.
        seconds: how long the work of one takes.
        timeout: seconds after which an answer is of no use.
        padding: characters of text that go there and come back.
        each: whether each call is noted, or only, at the end, how long they took.
        stop: a file: no more are sent once it is there.
    """

    prefix: str
    count: int
    in_flight: int
    rate: float | None = None
    seconds: float = 0.0
    timeout: float = 30.0
    padding: int = 0
    each: bool = True
    stop: str | None = None

    def numbers(self, began: float) -> Iterator[tuple[int, float]]:
        """Yield the number of each call and when it is to be made."""
        for number in range(self.count):
            if self.stop is not None and Path(self.stop).exists():
                return
            yield number, clock() if self.rate is None else began + number / self.rate


def loads() -> Iterator[Load]:
    """Yield the loads that come on the input."""
    for line in iter(sys.stdin.readline, ""):
        yield Load(**json.loads(line))


class Course:
    """What becomes of a load, noted as it happens."""

    def __init__(self, notes: Notes, load: Load) -> None:
        self._write = notes.write
        self._load = load
        self._taken: list[float] = []
        self._lock = Lock()
        self._text = "x" * load.padding
        self.began = clock()

    def begin(self, number: int) -> tuple[Answer, float]:
        """Note that a call begins; return what to send, and when it began."""
        began = clock()
        command = f"{self._load.prefix}{number}"
        if self._load.each:
            self._write("called", command=command, began=began)
        return {"command": command, "seconds": self._load.seconds, "text": self._text}, began

    def answered(self, sent: Answer, answer: Any, began: float) -> None:
        """Note an answer; another command's is none."""
        taken = clock() - began
        if not isinstance(answer, dict) or answer.get("command") != sent["command"]:
            self._fail(sent, f"this is no answer to it: {str(answer)[:100]}", taken)
            return
        with self._lock:
            self._taken.append(taken)
        if self._load.each:
            self._write("answered", command=sent["command"], node=answer["node"], taken=taken)

    def failed(self, sent: Answer, error: BaseException, began: float) -> None:
        """Note an error that the caller was told."""
        self._fail(sent, f"{type(error).__name__}: {error}"[:200], clock() - began)

    def _fail(self, sent: Answer, text: str, taken: float) -> None:
        self._write("failed", command=sent["command"], text=text, taken=taken)

    def end(self) -> None:
        """Note that all is over, and how long it took: in all, and of the calls half and 99 of 100."""
        seconds = clock() - self.began
        ordered = sorted(self._taken) or [float("nan")]
        self._write(
            "done",
            prefix=self._load.prefix,
            seconds=seconds,
            answered=len(self._taken),
            p50=ordered[len(ordered) // 2],
            p99=ordered[len(ordered) * 99 // 100],
        )


async def call_async(notes: Notes, load: Load, call: Callable[[Answer, float], Awaitable[Any]]) -> None:
    """Send a load by a function that sends a command, with a timeout in seconds, and returns its answer."""
    course = Course(notes, load)
    room = asyncio.Semaphore(load.in_flight)

    async def one(number: int) -> None:
        sent, began = course.begin(number)
        try:
            course.answered(sent, await call(sent, load.timeout), began)
        except Exception as error:  # noqa: BLE001 - whatever a library raises: it is noted
            course.failed(sent, error, began)
        finally:
            room.release()

    tasks = set()
    for number, due in load.numbers(course.began):
        if (late := due - clock()) > 0:
            await asyncio.sleep(late)
        await room.acquire()
        task = asyncio.create_task(one(number))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    while tasks:
        await asyncio.wait(tasks)
    course.end()


async def call_as_told(notes: Notes, call: Callable[[Answer, float], Awaitable[Any]]) -> None:
    """Say that the caller is ready, and send each load that comes on the input, by a function as in `call_async`."""
    notes.write("ready")
    asked = loads()
    while (load := await asyncio.to_thread(next, asked, None)) is not None:
        await call_async(notes, load, call)


class Pool(Protocol):
    """Runs functions side by side."""

    def submit(self, function: Callable[..., None], /, *arguments: Any) -> Any: ...


def call_blocking(notes: Notes, load: Load, call: Callable[[Answer, float], Any], pool: Pool) -> None:
    """The same by a function that blocks, on the threads of a pool, of which there are `CLIENTS`."""
    course = Course(notes, load)
    over = Semaphore(0)
    begun = 0

    def one(number: int, due: float) -> None:
        sent, began = course.begin(number)
        # A call that had to wait for a thread began when it was to be made.
        began = began if load.rate is None else min(began, due)
        try:
            course.answered(sent, call(sent, load.timeout), began)
        except Exception as error:  # noqa: BLE001 - whatever a library raises: it is noted
            course.failed(sent, error, began)

    def at_its_time(number: int, due: float) -> None:
        one(number, due)
        over.release()

    def as_fast_as_answers_come() -> None:
        while True:
            with lock:
                number, due = next(left, (-1, 0.0))
            if number < 0:
                over.release()
                return
            one(number, due)

    if load.rate is None:
        left, lock = load.numbers(course.began), Lock()
        for _ in range(min(load.in_flight, CLIENTS)):
            pool.submit(as_fast_as_answers_come)
            begun += 1
    else:
        for number, due in load.numbers(course.began):
            if (late := due - clock()) > 0:
                time.sleep(late)
            pool.submit(at_its_time, number, due)
            begun += 1
    for _ in range(begun):
        over.acquire()
    course.end()


def main(agent: Callable[[Notes, str, str, int], None], caller: Callable[[Notes, str], None]) -> None:
    """Do what the arguments ask for."""
    role, file, *rest = sys.argv[1:]
    notes = Notes(file)
    if role == "agent":
        name, url, capacity = rest
        agent(notes, name, url, int(capacity))
    else:
        (url,) = rest
        caller(notes, url)
