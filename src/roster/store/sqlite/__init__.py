"""The store in a SQLite file: up to some hundred processes of one machine, and no server."""

from __future__ import annotations

from roster.store.sqlite.engine import SqliteLease, SqliteStore

__all__ = ["SqliteLease", "SqliteStore"]
