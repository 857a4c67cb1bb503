"""Fixtures for pytest, asked for by name: `pytest_plugins = ["roster.testing.pytest_plugin"]` in the top `conftest.py`.

Not an entry point: those are imported into every pytest run of an environment, and would take the name `team` from
projects that only have Roster installed. Async fixtures are run by `pytest-asyncio` (in either mode) where it is
installed, else by the async plugin that is, such as anyio's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from roster.testing.sync import SyncTeam
from roster.testing.team import Team

if TYPE_CHECKING or find_spec("pytest_asyncio") is not None:
    from pytest_asyncio import fixture as async_fixture
else:
    async_fixture = pytest.fixture


@async_fixture
async def team() -> AsyncIterator[Team]:
    """A team of this test alone."""
    async with Team() as opened:
        yield opened


@pytest.fixture
def sync_team() -> Iterator[SyncTeam]:
    """A team of this test alone, for tests that are not async."""
    with SyncTeam() as opened:
        yield opened
