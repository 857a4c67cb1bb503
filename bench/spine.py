"""The whole line: an orchestrator calls an agent in another process over the local bus."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import Row, runs
from roster import Orchestrator

NAME = "a call from an orchestrator to an agent in another process, on SQLite and the local bus"

_AGENT = """
import sys
from roster import Node
node = Node.load(sys.argv[1])
@node.capability("echo")
async def echo(text: str) -> dict:
    return {"text": text}
node.run()
"""
_SEQUENTIAL = 2_000
_PARALLEL = 20_000
_IN_FLIGHT = 64


@contextmanager
def _agent(directory: str) -> Iterator[subprocess.Popen[bytes]]:
    passport = Path(directory) / "passport.json"
    passport.write_text(
        json.dumps(
            {
                "apiVersion": "ai-team.dev/v1",
                "kind": "NodePassport",
                "metadata": {"name": "echo"},
                "spec": {
                    "type": "agent",
                    "version": "1.0.0",
                    "capabilities": [
                        {
                            "name": "echo",
                            "input_schema": {"text": "string"},
                            "output_schema": {"text": "string"},
                        }
                    ],
                    "resources": {"max_concurrent_tasks": _IN_FLIGHT},
                },
            }
        )
    )
    process = subprocess.Popen([sys.executable, "-c", _AGENT, str(passport)])
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


def _resident(pid: int) -> float:
    """Return the resident memory of a process in MiB (its proportional share is smaller)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return float("nan")


async def _wait_for_agent(orchestrator: Orchestrator) -> None:
    async with asyncio.timeout(30):
        async for _ in orchestrator.registry.watch():
            if await orchestrator.registry.find_by_capability("echo"):
                return


async def _measure(process: subprocess.Popen[bytes], began: float) -> tuple[float, list[float], float, float]:
    async with Orchestrator.connect() as orchestrator:
        await _wait_for_agent(orchestrator)
        await orchestrator.call("echo", {"text": "x"})
        first = time.perf_counter() - began
        for _ in range(200):
            await orchestrator.call("echo", {"text": "warm"})
        taken = []
        for number in range(_SEQUENTIAL):
            start = time.perf_counter()
            await orchestrator.call("echo", {"text": f"call {number}"})
            taken.append(time.perf_counter() - start)
        left = iter(range(_PARALLEL))

        async def worker() -> None:
            for number in left:
                await orchestrator.call("echo", {"text": f"call {number}"})

        start = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(_IN_FLIGHT)))
        rate = _PARALLEL / (time.perf_counter() - start)
        return first, taken, rate, _resident(process.pid)


def run() -> list[Row]:
    """Measure, an agent process of its own for each run."""
    firsts, medians, tails, rates, memory = [], [], [], [], []
    for _ in range(runs()):
        with tempfile.TemporaryDirectory(prefix="roster-") as directory:
            os.environ["ROSTER_STATE_DIR"] = directory
            began = time.perf_counter()
            with _agent(directory) as process:
                first, taken, rate, resident = asyncio.run(_measure(process, began))
        firsts.append(first)
        medians.append(statistics.median(taken) * 1e3)
        tails.append(statistics.quantiles(taken, n=100)[98] * 1e3)
        rates.append(rate)
        memory.append(resident)
    return [
        Row.measured("round trip, one at a time, p50", medians, "ms", goal="<= 0.4"),
        Row.measured("round trip, one at a time, p99", tails, "ms"),
        Row.measured(f"calls a second, {_IN_FLIGHT} in flight", rates, "calls/s", goal=">= 10000"),
        Row.measured("memory of the agent's process after the load", memory, "MiB", goal="<= 60"),
        Row.measured("from starting the agent's process to its first answer", firsts, "s", goal="<= 1"),
    ]
