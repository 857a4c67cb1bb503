"""A call over RabbitMQ, beside what others build for it: the same 1 KB there and back, one agent, one caller."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from peers.crew import AIO_PIKA, BARE_AIO_PIKA, CELERY, FASTSTREAM, NAMEKO, ROSTER, Caller, Peer, crew

from bench import Row, progress, runs
from servers import RabbitMQ

NAME = "a call over RabbitMQ, caller, agent and broker each a process, 1 KB there and back"

_PEERS = (ROSTER, AIO_PIKA, BARE_AIO_PIKA, FASTSTREAM, NAMEKO, CELERY)
_PADDING = 1000
_WARM, _SEQUENTIAL, _PARALLEL = 200, 1000, 5000
_IN_FLIGHT = 64
_WITHIN = 120.0


@dataclass(slots=True)
class _Figures:
    """Of one peer, a figure for each run.

    Attributes:
        p50: milliseconds of a round trip, one at a time.
        p99: the same.
        rate: calls a second, many in flight.
    """

    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)


async def _load(caller: Caller, prefix: str, count: int, in_flight: int) -> dict[str, float]:
    caller.begin(prefix=prefix, count=count, in_flight=in_flight, padding=_PADDING, each=False)
    done = await caller.done(prefix, _WITHIN)
    if done["answered"] != count:
        raise RuntimeError(f"{count - done['answered']} of {count} calls failed")
    return done


async def _measure(peer: Peer, broker: str, figures: _Figures) -> None:
    async with crew(peer, broker, ["agent"], capacity=_IN_FLIGHT, notes=False) as agents:
        caller = await agents.caller("caller")
        await _load(caller, "warm-", _WARM, 1)
        alone = await _load(caller, "alone-", _SEQUENTIAL, 1)
        await _load(caller, "crowd-warm-", _WARM, _IN_FLIGHT)
        crowd = await _load(caller, "crowd-", _PARALLEL, _IN_FLIGHT)
    figures.p50.append(alone["p50"] * 1e3)
    figures.p99.append(alone["p99"] * 1e3)
    figures.rate.append(crowd["answered"] / crowd["seconds"])


def _of_all() -> dict[str, _Figures]:
    """Measure all of them, one after the other in each run, so that what the machine does meets each alike."""
    found = {peer.name: _Figures() for peer in _PEERS}
    # Their queues have the same name: each has a virtual host of its own.
    with tempfile.TemporaryDirectory(prefix="roster-") as directory:
        broker = RabbitMQ(Path(directory), vhosts=list(found))
        try:
            broker.start()
            for number in range(runs()):
                for peer in _PEERS:
                    progress(f"run {number + 1} of {runs()}: {peer.name}")
                    asyncio.run(_measure(peer, broker.url_of(vhost=peer.name), found[peer.name]))
        finally:
            broker.close()
    return found


def run() -> list[Row]:
    """Measure; the goals are held against the medians of aio-pika by hand."""
    found = _of_all()
    floor, ours = found[AIO_PIKA.name], found[ROSTER.name]
    rows = []
    for name, figures in found.items():
        rows += [
            Row.measured(f"{name}: one at a time, p50", figures.p50, "ms"),
            Row.measured(f"{name}: one at a time, p99", figures.p99, "ms"),
            Row.measured(f"{name}: calls a second, {_IN_FLIGHT} in flight", figures.rate, "calls/s"),
        ]
    for name, figures in found.items():
        if figures is floor:
            continue
        goals = ("<= 1.2", ">= 0.95") if figures is ours else (None, None)
        rows += [
            Row(
                f"{name} / {AIO_PIKA.name}: p50",
                statistics.median(figures.p50) / statistics.median(floor.p50),
                goal=goals[0],
            ),
            Row(
                f"{name} / {AIO_PIKA.name}: calls a second",
                statistics.median(figures.rate) / statistics.median(floor.rate),
                goal=goals[1],
            ),
        ]
    return rows
