"""PostgreSQL for tests: a server that is killed and comes back, with a database for each who asks."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from servers import Postgres, ServerError

Start = Callable[..., Postgres]


def test_what_was_committed_outlives_a_crash(start_postgres: Start) -> None:
    server = start_postgres(fsync=False)
    url = server.url
    server.sql("CREATE TABLE kept (word text); INSERT INTO kept VALUES ('yes')")
    server.restart()
    assert server.url == url
    assert server.sql("SELECT word FROM kept").strip() == "yes"
    server.freeze()
    server.restart()
    assert server.sql("SELECT word FROM kept").strip() == "yes"


def test_each_who_asks_has_a_database_of_its_own(start_postgres: Start) -> None:
    server = start_postgres(fsync=False)
    first, second = server.new_database(), server.new_database()
    assert first != second
    assert urlsplit(first).port == server.ports["sql"]
    with pytest.raises(ServerError, match="already exists"):
        server.sql(f"CREATE DATABASE {urlsplit(first).path.strip('/')}")
