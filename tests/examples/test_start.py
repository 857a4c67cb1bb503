"""Teams in processes: started, waited for, and ended, whatever happens."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from examples.agents.starting import PASSPORTS
from examples.start import Team
from examples.teams import HERE
from roster import Registry, RosterError


def a_team(*agents: str) -> Team:
    return Team([(agent, PASSPORTS / f"{agent}.yaml") for agent in agents])


def pids(team: Team) -> list[int]:
    return [int(re.findall(r"pid (\d+)", name)[0]) for name in team.names]


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_a_team_is_ready_inside_and_gone_behind(private_state: Path) -> None:
    async with a_team("reports-001", "links-001") as team, Registry.connect() as registry:
        started = pids(team)
        assert {node.key for node in await registry.find(healthy=True)} == {
            "examples/reports-001",
            "examples/links-001",
        }
        with pytest.raises(RosterError, match="examples/links-001 runs already: end it"):
            async with a_team("links-001"):
                pass
        assert not any(gone(pid) for pid in started)
    assert all(gone(pid) for pid in started)
    async with Registry.connect() as registry:
        assert await registry.find() == []


async def test_an_agent_that_cannot_start_ends_the_others_and_says_why(
    private_state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLM_BASE_URL", raising=False)
    with pytest.raises(RosterError, match=r"llm-001 ended at once: error: LLM_BASE_URL is not set"):
        async with a_team("links-001", "llm-001"):
            pass
    async with Registry.connect() as registry:
        assert await registry.find(healthy=True) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_starter_and_its_agents_in_good_order(
    number: signal.Signals, private_state: Path
) -> None:
    starter = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "examples", "handbook", "--agents-only", cwd=HERE.parent, stdout=subprocess.PIPE
    )  # fmt: skip
    try:
        assert starter.stdout is not None
        line = (await asyncio.wait_for(starter.stdout.readline(), 60)).decode()
        started = [int(pid) for pid in re.findall(r"pid (\d+)", line)]
        assert len(started) == 3
        starter.send_signal(number)
        assert await asyncio.wait_for(starter.wait(), 60) == 0
    finally:
        if starter.returncode is None:
            starter.kill()
            await starter.wait()
    assert all(gone(pid) for pid in started)


async def test_a_run_that_nobody_answers_is_left_to_the_next_orchestrator(private_state: Path) -> None:
    starter = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "examples", "plain_words", cwd=HERE.parent,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert starter.stdout is not None
        async with asyncio.timeout(90):
            while b"nobody to ask here: answer with `roster run approve plain-words-" not in (
                line := await starter.stdout.readline()
            ):
                assert line, (await starter.communicate())[1]
        starter.send_signal(signal.SIGINT)
        _, said = await asyncio.wait_for(starter.communicate(), 60)
    finally:
        if starter.returncode is None:
            starter.kill()
            await starter.wait()
    assert starter.returncode == 130
    assert b"the next orchestrator goes on with the run" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing",), "invalid choice"),
        (("report", "-i", "file"), "-i: expected NAME=VALUE, found file"),
    ],
)
def test_what_cannot_be_started_says_why(
    arguments: tuple[str, ...], message: str, private_state: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples", *arguments],
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
