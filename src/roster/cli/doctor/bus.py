"""Examines the bus: whether it can be used, whether each registered node answers on it, and what was buried."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from roster.bus import Bus, Message, open_bus
from roster.bus.asking import ask_consumer
from roster.bus.base import Buried
from roster.bus.dead import letters
from roster.bus.failure import UNHEARD, says
from roster.bus.sockets import socket_directory
from roster.bus.survey import survey
from roster.bus.url import BusURL, parse_url
from roster.cli.doctor.finding import Finding, fail, few, ok, warn
from roster.errors import BusUnavailableError, CallError, Code, ConfigError, MessageError
from roster.registry import Holder, NodeRecord

AREA = "bus"
PONG = 2.0
AT_ONCE = 256
# Longer than a broker takes to be called out of reach, which is the worse finding.
READ_DEADLINE = 15.0
MOST = 50
_NEWEST = 3
_ANSWERABLE = frozenset({"starting", "ready", "busy", "draining", "unknown"})


@dataclass(frozen=True, slots=True)
class Silence:
    """A node that did not answer.

    Attributes:
        record: the node.
        deaf: whether nobody serves its queue; else somebody does, and does not answer.
        why: in the bus's words.
    """

    record: NodeRecord
    deaf: bool
    why: str


async def examine(url: str | None, records: list[NodeRecord] | None) -> list[Finding]:
    """Return findings.

    Args:
        url: the bus; None takes the environment.
        records: the registered nodes; None if the registry could not be read.
    """
    try:
        where = parse_url(url)
    except ConfigError as error:
        return [fail(AREA, str(error), "correct the URL")]
    live = [record for record in records or [] if record.state in _ANSWERABLE and record.mindbus_queue]
    found: list[Finding] = []
    if where.directory is not None:
        found = _directory(where, live)
        if found:  # opening it would make it, or make it private: this command writes nothing
            return [*found, *_said_of(await asyncio.to_thread(letters, where.directory / "dead"))]
        found = await asyncio.to_thread(_sockets, where.directory, records)
    try:
        async with open_bus(url) as bus:
            # First what needs the bus alone: who cannot reach it must not call the nodes deaf.
            buried = await _buried(bus)
            return [*await _ask_all(bus, live, known=records is not None), *found, *buried]
    except (BusUnavailableError, ConfigError) as error:
        return [fail(AREA, str(error), "see whether ROSTER_BUS is the one that your agents use")]


# -- the place ----------------------------------------------------------------------------------------------------


def _directory(where: BusURL, live: list[NodeRecord]) -> list[Finding]:
    """Return what forbids to open the bus."""
    assert where.directory is not None  # noqa: S101 - its caller has looked
    used = socket_directory(where.directory)
    try:
        found = used.stat()
    except FileNotFoundError:
        if live:
            names = few([record.key for record in live])
            return [
                fail(
                    AREA,
                    f"the directory of sockets {used} is not there, so no node can be reached ({names})",
                    "is ROSTER_BUS the one that they use? a node that runs makes its socket again within seconds",
                )
            ]
        return [ok(AREA, f"{where.display} is not there yet; the first node makes it")]
    except OSError as error:
        return [fail(AREA, f"{used} cannot be looked at: {error.strerror}", "give this user the rights")]
    if not stat.S_ISDIR(found.st_mode):
        return [fail(AREA, f"{used} is no directory", "remove it, or choose another with ROSTER_BUS")]
    if found.st_uid != os.getuid():
        return [
            fail(
                AREA,
                f"the directory of sockets {used} belongs to another user (uid {found.st_uid})",
                "run as that user, or choose another with ROSTER_BUS",
            )
        ]
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        return [
            fail(
                AREA,
                f"the directory of sockets {used} is open to others (mode {mode:o})",
                f"chmod 700 '{used}', and look again",
            )
        ]
    return []


def _sockets(directory: Path, records: list[NodeRecord] | None) -> list[Finding]:
    """Compare the sockets with the registry."""
    try:
        queues = survey(socket_directory(directory))
    except OSError as error:
        return [fail(AREA, f"the sockets cannot be looked at: {error.strerror}", "give this user the rights")]
    found = []
    stale = [queue.name for queue in queues if not queue.alive]
    if stale:
        found.append(
            warn(
                AREA,
                f"{len(stale)} sockets were left by dead processes: {few(stale)}",
                "nothing: the next process that serves such a queue replaces its files",
            )
        )
    if records is not None:
        registered = {record.mindbus_queue for record in records}
        strays = [
            f"{queue.name} (pid {queue.pid})"
            for queue in queues
            if queue.alive and queue.name not in registered
        ]
        if strays:
            found.append(
                warn(
                    AREA,
                    f"{len(strays)} queues are served by processes that are not in this registry: {few(strays)}",
                    "do they use another ROSTER_REGISTRY? if the registry was just deleted they register again by "
                    "themselves",
                )
            )
    return found


# -- the nodes ----------------------------------------------------------------------------------------------------


async def _ask_all(bus: Bus, live: list[NodeRecord], *, known: bool) -> list[Finding]:
    if not known:
        return [
            ok(AREA, f"{bus.url} can be used; whom to ask is not known while the registry cannot be read")
        ]
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(record: NodeRecord) -> Silence | None:
        async with gate:
            return await ping(bus, record)

    silences = [found for found in await asyncio.gather(*map(one, live)) if found is not None]
    heard = len(live) - len(silences)
    found = [ok(AREA, f"{bus.url}: {heard} of {len(live)} live nodes answered a ping within {PONG:g} s")]
    found += [_told(silence) for silence in silences[:MOST]]
    if len(silences) > MOST:
        found.append(fail(AREA, f"{len(silences) - MOST} more do not answer", "see to these first"))
    return found


async def ping(bus: Bus, record: NodeRecord) -> Silence | None:
    """Ask one node for a sign of life; any answer is one. Return None if it came in time."""
    try:
        question = Message.control("ping", source="/roster/doctor", timeout=PONG)
        await ask_consumer(bus, record.mindbus_queue, question, PONG)
    except TimeoutError:
        return Silence(record, False, f"no answer within {PONG:g} s")
    except BusUnavailableError as error:
        silent = says(error, UNHEARD)  # somebody listens there, and accepts nothing
        return Silence(record, not silent, error.summary)
    except MessageError as error:
        return Silence(record, True, error.summary)  # no bus can carry the name of this queue
    except CallError as error:
        return Silence(record, False, error.summary)
    return None


def _told(silence: Silence) -> Finding:
    record = silence.record
    status = record.status
    holder = status.holder if status is not None else None
    who = f"{record.key} ({record.state}{f', {holder}' if holder is not None else ''})"
    # What nobody calls need not be reached: `roster register` keeps such passports for programs in other languages.
    grave = record.healthy and bool(record.capabilities) and not record.founding
    level = fail if grave else warn
    if silence.deaf:
        return level(
            AREA,
            f"{who} is deaf: {silence.why}",
            "a running node makes its queue again within seconds: look once more, then restart it"
            if grave
            else "if it is meant to take commands, have it serve its queue on this bus (ROSTER_BUS)",
        )
    stopped = holder is not None and _is_stopped(holder)
    return level(
        AREA,
        f"{who} does not answer: {'its process is stopped' if stopped else silence.why}",
        f"kill -CONT {holder.pid}, or end it"
        if stopped and holder is not None
        else "look at its process: frozen, swapping, or without processor time?",
    )


def _is_stopped(holder: Holder) -> bool:
    """Return whether a process of this machine is stopped by a signal."""
    if holder.liveness() != "alive":
        return False
    try:
        said = Path(f"/proc/{holder.pid}/stat").read_bytes()
    except OSError:
        return False
    return said[said.rindex(b")") + 2 :][:1] in (b"T", b"t")


# -- what was buried ----------------------------------------------------------------------------------------------


async def _buried(bus: Bus) -> list[Finding]:
    """Return what is found among the dead letters.

    Raises:
        BusUnavailableError: the broker cannot be reached, or does not let us in.
    """
    try:
        async with asyncio.timeout(READ_DEADLINE):
            return _said_of(await bus.corpses())
    except (CallError, TimeoutError) as error:
        if isinstance(error, BusUnavailableError) and error.code != Code.PERMISSION_DENIED:
            raise
        return [warn(AREA, f"dead letters cannot be read: {str(error) or 'no answer'}", "see the bus")]


def _said_of(buried: Sequence[Buried]) -> list[Finding]:
    if not buried:
        return []
    newest = "; ".join(map(_in_short, buried[: -_NEWEST - 1 : -1]))
    count = f"{len(buried)} dead letter{'s' if len(buried) != 1 else ''}"
    return [
        warn(
            AREA,
            f"{count}, the newest: {newest}",
            "find out what these commands do to their nodes before anybody sends them again: 'roster dead list'",
        )
    ]


def _in_short(letter: Buried) -> str:
    when = f"{letter.buried_at[:19]}Z" if letter.buried_at else "at an unknown time"
    return f"{when} {letter.reason or 'without a reason'}"
