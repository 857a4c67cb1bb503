"""What durable runs of process cards cost: each step beside a bare call, many at once, and orchestrators that only wait."""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import Row, full, progress, runs
from bench._servers import Child, cpu_seconds, running
from bench.spine import _agent, _resident, _wait_for_agent
from roster import Orchestrator
from servers import Postgres

NAME = "durable runs of process cards, on SQLite (and PostgreSQL) and the local bus"

_CALLS = 500
_STEPS = 20
_IN_A_ROW = 5
_AT_ONCE = 200
_MANY = 1_000
_WAITING = 200
_LOOK = 0.5


def _card(steps: int) -> dict[str, Any]:
    every = [
        {"id": f"s{number}", "action": "echo", "params": {"text": "${input.text}"}, "output": f"o{number}"}
        for number in range(steps)
    ]
    return {"name": "echoes", "steps": [*every, {"type": "complete", "result": f"${{o{steps - 1}.text}}"}]}


_APPROVAL = {"name": "asks", "steps": [{"id": "ask", "type": "human_checkpoint", "message": "well?"}]}


async def _overhead(orchestrator: Orchestrator) -> tuple[float, float]:
    """Return the medians of a bare call and of a step of a run, in milliseconds."""
    for _ in range(100):
        await orchestrator.call("echo", {"text": "warm"})
    calls = []
    for number in range(_CALLS):
        began = time.perf_counter()
        await orchestrator.call("echo", {"text": f"call {number}"})
        calls.append(time.perf_counter() - began)
    await orchestrator.run(_card(_STEPS), {"text": "warm"})
    steps = []
    for _ in range(_IN_A_ROW):
        began = time.perf_counter()
        record = await orchestrator.run(_card(_STEPS), {"text": "x"})
        steps.append((time.perf_counter() - began) / _STEPS)
        assert record.result == "x"
    return statistics.median(calls) * 1e3, statistics.median(steps) * 1e3


async def _at_once(orchestrator: Orchestrator, count: int, steps: int) -> float:
    began = time.perf_counter()
    records = await asyncio.gather(*(orchestrator.run(_card(steps), {"text": "x"}) for _ in range(count)))
    taken = time.perf_counter() - began
    assert all(record.result == "x" for record in records)
    return taken


@contextmanager
def _team() -> Iterator[str]:
    """Yield a state directory with an agent that runs there."""
    with tempfile.TemporaryDirectory(prefix="roster-") as directory:
        os.environ["ROSTER_STATE_DIR"] = directory
        with _agent(directory):
            yield directory


def run() -> list[Row]:
    """Measure, a team of its own for each run."""
    rows: list[Row] = []
    calls: list[float] = []
    steps: list[float] = []
    rates: list[float] = []
    for _ in range(runs()):
        progress("a step beside a call, and 200 runs at once, on SQLite")
        with _team():
            call, step, taken = asyncio.run(_on_sqlite())
        calls.append(call)
        steps.append(step)
        rates.append(_AT_ONCE * 5 / taken)
    progress("1 000 runs in one process, on SQLite")
    with _team() as directory:
        grown = asyncio.run(_many())
        database = sum(file.stat().st_size for file in Path(directory).glob("runs.sqlite*")) / 1024
    rows += [
        Row.measured("a bare call, p50", calls, "ms"),
        Row.measured(
            "a step of a run, p50", steps, "ms", note=f"runs of {_STEPS} steps, one after the other"
        ),
        Row.measured("the same, over a bare call", _less(steps, calls), "ms"),
        Row.measured(f"steps a second, {_AT_ONCE} runs at once in one process", rates, "steps/s"),
        Row(f"memory that the last {_MANY - 100} of {_MANY:,} runs leave behind", grown, "MiB"),
        Row("the database for each of them", database / _MANY, "KiB", note="until they are removed"),
    ]
    calls, steps = [], []
    with running(Postgres) as server:
        for _ in range(runs()):
            progress("a step beside a call, on PostgreSQL")
            with _team():
                call, step = asyncio.run(_on_postgres(server.new_database()))
            calls.append(call)
            steps.append(step)
    rows.append(
        Row.measured("on PostgreSQL, a step over a bare call", _less(steps, calls), "ms", note="with fsync")
    )
    return [*rows, *_waiting()]


def _less(steps: list[float], calls: list[float]) -> list[float]:
    return [step - call for step, call in zip(steps, calls, strict=True)]


async def _on_sqlite() -> tuple[float, float, float]:
    async with Orchestrator.connect() as orchestrator:
        await _wait_for_agent(orchestrator)
        call, step = await _overhead(orchestrator)
        return call, step, await _at_once(orchestrator, _AT_ONCE, 5)


async def _many() -> float:
    """Return by how much the memory of this process grew from the first hundred runs on, in MiB."""
    async with Orchestrator.connect() as orchestrator:
        await _wait_for_agent(orchestrator)
        await _at_once(orchestrator, 100, 5)
        before = _resident(os.getpid())
        for _ in range(_MANY // 100 - 1):
            await _at_once(orchestrator, 100, 5)
        return _resident(os.getpid()) - before


async def _on_postgres(url: str) -> tuple[float, float]:
    async with Orchestrator.connect(runs_url=url) as orchestrator:
        await _wait_for_agent(orchestrator)
        return await _overhead(orchestrator)


def _waiting() -> Iterator[Row]:
    """Measure an orchestrator that waits: for runs, and with runs that wait for people."""
    seconds = 60.0 if full() else 10.0
    for what, count in (("nothing to do", 0), (f"{_WAITING} runs that wait for a person", _WAITING)):
        used = []
        for _ in range(runs()):
            progress(f"an orchestrator with {what}, {seconds:g} s")
            with tempfile.TemporaryDirectory(prefix="roster-") as directory:
                os.environ["ROSTER_STATE_DIR"] = directory
                with Child(__name__, count) as child:
                    pid = int(child.line())
                    before = cpu_seconds(pid)
                    time.sleep(seconds)
                    used.append((cpu_seconds(pid) - before) / seconds * 100)
        yield Row.measured(f"an orchestrator with {what}", used, "% of a core", goal="<= 3")


async def _serve(count: int) -> None:
    async with Orchestrator.connect() as orchestrator:
        serving = asyncio.create_task(orchestrator.runs.serve())
        for _ in range(count):
            await orchestrator.runs.start(_APPROVAL)
        while len(await orchestrator.runs.list(states=("waiting",), limit=1000)) < count:
            await asyncio.sleep(_LOOK)
        await asyncio.sleep(4 * _LOOK)  # the start is not to be measured
        print(os.getpid(), flush=True)
        await serving


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
