"""Agents and callers of a peer as the fault runs and the benchmarks start them; with Roster's own program."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from peers.crew import ROSTER, Peer, PeerMissingError, crew
from peers.programs.common import Answer, Load, Notes, call_blocking
from tests.engines import own_bus


async def test_a_load_is_answered_while_agents_are_killed_frozen_and_retired() -> None:
    async with crew(ROSTER, own_bus(), ["a1", "a2", "a3"], capacity=4) as agents:
        caller = await agents.caller("caller")
        stop = agents.directory / "stop"
        caller.begin(prefix="c", count=10_000, in_flight=50, rate=100.0, seconds=0.01, stop=str(stop))
        await agents.kill("a1")
        assert not agents.serves("a1")
        await agents.start("a1")
        await agents.up(["a1"])
        agents.freeze("a2")
        assert await agents.retire("a3", 20.0) == 0
        agents.thaw("a2")
        stop.touch()
        done = await caller.done("c", 60.0)
        calls, effects = caller.calls(), agents.effects()
    assert [line for line in calls if line["what"] == "failed"] == []
    assert sum(line["what"] == "answered" for line in calls) == done["answered"] > 0
    assert {line["command"] for line in effects if line["what"] == "end"} == {
        line["command"] for line in calls
    }


async def test_agents_that_are_not_to_note_what_they_do_do_not() -> None:
    async with crew(ROSTER, own_bus(), ["a1"], capacity=4, notes=False) as agents:
        caller = await agents.caller("caller")
        caller.begin(prefix="c", count=5, in_flight=1, padding=1000, each=False)
        done = await caller.done("c", 30.0)
        assert (done["answered"], agents.effects(), caller.calls()) == (5, [], [])
        assert 0 < done["p50"] <= done["p99"] <= done["seconds"]


async def test_a_peer_without_its_environment_says_how_to_get_it() -> None:
    with pytest.raises(
        PeerMissingError, match="no environment with carrier-pigeon: scripts/setup-peers makes it"
    ):
        async with crew(Peer("Pigeon", "carrier-pigeon"), "amqp://", ["a1"], capacity=1):
            raise AssertionError("nothing was to start")


def noted(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("rate", [None, 1000.0])
def test_calls_that_block_are_noted_as_they_end(tmp_path: Path, rate: float | None) -> None:
    def call(sent: Answer, timeout: float) -> Any:
        if sent["command"] == "c3":
            raise RuntimeError(f"not within {timeout:g} s")
        return {"command": "c0" if sent["command"] == "c4" else sent["command"], "node": "a1"}

    load = Load(prefix="c", count=6, in_flight=2, rate=rate, timeout=7.0)
    with ThreadPoolExecutor(2) as threads:
        call_blocking(Notes(str(tmp_path / "notes")), load, call, threads)
    lines = noted(tmp_path / "notes")
    assert lines[-1]["what"] == "done"
    assert lines[-1]["answered"] == 4
    assert {line["command"]: line["text"] for line in lines if line["what"] == "failed"} == {
        "c3": "RuntimeError: not within 7 s",
        "c4": "this is no answer to it: {'command': 'c0', 'node': 'a1'}",
    }


def test_a_load_ends_when_its_file_is_there(tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    numbers = Load(prefix="c", count=10, in_flight=1, stop=str(stop)).numbers(0.0)
    assert next(numbers)[0] == 0
    stop.touch()
    assert list(numbers) == []
