"""The database of runs when many threads want it at once."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from tests.conftest import eventually
from tests.engines import own_database

from roster.orchestrator.runs.database import RunsUrl, open_engine
from roster.orchestrator.runs.journal import Journal


def test_many_threads_share_few_connections_to_postgresql() -> None:
    # To make one costs more than what a step writes over it: a password is hashed 4096 times, a process is forked.
    engine = open_engine(RunsUrl.parse(own_database()))
    made: list[Any] = []
    sa.event.listen(engine, "connect", lambda connection, _: made.append(connection))

    def use(_: int) -> None:
        for _ in range(20):
            with engine.begin() as connection:
                connection.execute(sa.text("SELECT 1"))

    try:
        with ThreadPoolExecutor(max_workers=20) as threads:
            list(threads.map(use, range(20)))
        assert len(made) <= 8
    finally:
        engine.dispose()


async def test_a_write_that_finds_every_connection_taken_is_not_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = sa.create_engine(
        f"sqlite:///{tmp_path}/runs.sqlite",
        poolclass=sa.pool.QueuePool,
        pool_size=1,
        max_overflow=0,
        pool_timeout=0.01,
    )
    journal = Journal(engine)
    try:
        with caplog.at_level(logging.WARNING), engine.connect():
            writes = [
                asyncio.create_task(journal.commit(lambda connection: connection.scalar(sa.text("SELECT 1"))))
                for _ in range(3)
            ]
            await eventually(lambda: "it is tried again" in caplog.text or writes[0].done())
        assert await asyncio.gather(*writes) == [1, 1, 1]
    finally:
        journal.close()
        engine.dispose()
