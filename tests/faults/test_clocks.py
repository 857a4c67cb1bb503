"""Wall clocks that are wrong, and that jump: nothing is decided by them."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import time
from pathlib import Path

from chaos.load import send
from chaos.team import scene
from tests.faults.conftest import Clock
from tests.faults.stage import Witness

from roster._clock import boottime

Urls = tuple[str, str]
HOUR, DAY = 3600.0, 86_400.0


async def _jump(offsets: Path, jumps: list[str]) -> None:
    """Move a clock to and fro until this is cancelled."""
    for offset in itertools.cycle(jumps):
        draft = offsets.with_suffix(".new")
        draft.write_text(f"{offset}\n")
        draft.rename(offsets)  # never seen half written
        await asyncio.sleep(0.1)


async def test_agents_with_a_wrong_and_a_jumping_clock_keep_their_leases_and_do_each_command_once(
    urls: Urls, wrong_clock: dict[str, str], clock: Clock, tmp_path: Path
) -> None:
    jumping = tmp_path / "jumping"
    jumping.write_text("+0\n")
    async with scene(urls, ["a1"], ttl=6.0, capacity=4) as (agents, orchestrator):
        await agents.start("slow", environment=wrong_clock)
        await agents.start("jumping", environment=clock(str(jumping)))
        await agents.ready(orchestrator, ["slow", "jumping"])
        uids = {record.name: record.uid for record in await orchestrator.registry.find(namespace="chaos")}
        witness, began = Witness(orchestrator), boottime()
        jumps = asyncio.create_task(_jump(jumping, ["+1h", "-1h", "+400d", "+0"]))
        try:
            # For longer than a TTL.
            outcome = await send(orchestrator, 160, in_flight=6, seconds=0.05, rate=24)
        finally:
            jumps.cancel()
        events, effects = witness.end(), agents.effects()
        assert uids == {
            record.name: record.uid for record in await orchestrator.registry.find(namespace="chaos")
        }
    assert not outcome.errors
    assert events == []
    assert set(effects.started.values()) == set(effects.ended.values()) == {1}
    # The fault was there: what each process took for the time of day, and that the other clock was left alone.
    off = {
        name: [line["wall"] - time.time() for line in effects.lines if line["node"] == f"chaos/{name}"]
        for name in uids
    }
    assert max(off["slow"]) < -39 * DAY
    assert min(off["jumping"]) < -0.9 * HOUR
    assert max(off["jumping"]) > 0.9 * HOUR
    assert all(began - 1 < line["at"] < boottime() + 1 for line in effects.lines)


async def test_a_caller_with_a_wrong_clock_is_answered_and_keeps_its_deadlines(
    urls: Urls, wrong_clock: dict[str, str]
) -> None:
    async with scene(urls, ["a1"]) as (agents, _):
        variables = {
            **os.environ,
            **wrong_clock,
            "ROSTER_REGISTRY": agents.registry_url,
            "ROSTER_BUS": agents.bus_url,
        }

        async def call(seconds: float) -> tuple[int, float]:
            began = boottime()
            process = await asyncio.create_subprocess_exec(
                *[sys.executable, "-m", "roster", "call", "work", "-n", "chaos", "--timeout", "3"],
                *["-p", f"command=c{seconds:g}", "-p", f"seconds:={seconds}"],
                env=variables,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            return await asyncio.wait_for(process.wait(), 20), boottime() - began

        answered, late = await asyncio.gather(call(0), call(15))
        effects = agents.effects()
    assert answered[0] == 0
    assert late[0] != 0
    assert late[1] < 10
    assert effects.ended == {"c0": 1}
    assert effects.stopped == {"c15": 1}
