"""What the tests of the examples share: an example's team in memory, with its real agents, and a library to fill."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from examples.agents.starting import PASSPORTS
from examples.teams import EXAMPLES, module_of
from roster.testing import Team

INPUT = Path(__file__).parents[2] / "examples" / "input"
Play = Callable[..., AbstractAsyncContextManager[Team]]


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the agents of this test write."""
    monkeypatch.setenv("EXAMPLES_OUTPUT", str(tmp_path / "output"))
    return tmp_path / "output"


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library of this test alone: empty."""
    made = tmp_path / "library"
    made.mkdir()
    monkeypatch.setenv("EXAMPLES_INPUT", str(made))
    return made


@pytest.fixture
def play(output: Path) -> Play:
    """Put the agents of an example into a team in memory: the same nodes, passports and functions as in processes."""

    @asynccontextmanager
    async def playing(name: str, *, without: str = "") -> AsyncIterator[Team]:
        async with Team() as team:
            for agent in EXAMPLES[name].agents:
                if agent != without:
                    make = importlib.import_module(module_of(agent)).make
                    await team.add_node(make(PASSPORTS / f"{agent}.yaml"))
            yield team

    return playing
