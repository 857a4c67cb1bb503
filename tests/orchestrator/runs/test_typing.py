"""The public typing surface of runs: what tests/typing says of it holds at run time too; mypy reads it with the rest."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.typing import runs_api

import roster


async def test_what_users_write_is_typed_and_runs(tmp_path: Path) -> None:
    url = f"memory://typed-{tmp_path.name}"
    database = f"sqlite://{tmp_path}/runs.sqlite"
    await runs_api.async_runs(url, url, database)
    await asyncio.to_thread(runs_api.plain_runs, url, url, database, tmp_path)


def test_the_names_are_exported() -> None:
    for name in (
        "ProcessCard",
        "RunRecord",
        "StepRecord",
        "RunNotFoundError",
        "RunConflictError",
        "CardError",
    ):
        assert name in roster.__all__
        assert getattr(roster, name).__doc__
