"""A registry at another prefix than `/ai-team`: keys are renamed on their way to the engine and back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from roster.errors import ConflictError
from roster.store.base import (
    Batch,
    Check,
    Entry,
    Grade,
    Hint,
    Lease,
    LeaseTerms,
    Op,
    Page,
    Store,
    StoreInfo,
    Term,
)
from roster.store.url import DEFAULT_PREFIX


def at_prefix(store: Store, prefix: str) -> Store:
    """Return the store with its `/ai-team/...` keys kept under `prefix` instead."""
    return store if prefix == DEFAULT_PREFIX else Rooted(store, prefix)


class Rooted:
    """A store whose keys under `/ai-team/` lie under another prefix of the engine. Other keys keep their names.

    Several teams share one server this way, each with rights to its own prefix alone.

    Args:
        store: the engine.
        prefix: such as `/team-b`; no slash at its end.
    """

    def __init__(self, store: Store, prefix: str) -> None:
        self._store = store
        self._ours = DEFAULT_PREFIX + "/"
        self._theirs = prefix + "/"

    def _out(self, key: str) -> str:
        return self._theirs + key[len(self._ours) :] if key.startswith(self._ours) else key

    def _in(self, key: str) -> str:
        return self._ours + key[len(self._theirs) :] if key.startswith(self._theirs) else key

    def _conflict(self, error: ConflictError) -> ConflictError:
        return ConflictError(str(error), self._in(error.key), error.mod_revision)

    @property
    def url(self) -> str:
        return self._store.url

    @property
    def grade(self) -> Grade:
        return self._store.grade

    async def info(self) -> StoreInfo:
        return await self._store.info()

    async def get(self, key: str) -> Entry | None:
        entry = await self._store.get(self._out(key))
        return None if entry is None else replace(entry, key=self._in(entry.key))

    async def list(
        self, prefix: str, *, limit: int = 0, after: str | None = None, revision: int | None = None
    ) -> Page:
        page = await self._store.list(self._out(prefix), limit=limit, after=after, revision=revision)
        return replace(page, entries=tuple(replace(entry, key=self._in(entry.key)) for entry in page.entries))

    async def put(
        self, key: str, value: bytes, *, lease: str | None = None, if_revision: int | None = None
    ) -> int:
        try:
            return await self._store.put(self._out(key), value, lease=lease, if_revision=if_revision)
        except ConflictError as error:
            raise self._conflict(error) from None

    async def delete(self, key: str, *, if_revision: int | None = None) -> bool:
        try:
            return await self._store.delete(self._out(key), if_revision=if_revision)
        except ConflictError as error:
            raise self._conflict(error) from None

    async def transact(self, checks: Sequence[Check], ops: Sequence[Op]) -> int:
        try:
            return await self._store.transact(
                [replace(check, key=self._out(check.key)) for check in checks],
                [replace(op, key=self._out(op.key)) for op in ops],
            )
        except ConflictError as error:
            raise self._conflict(error) from None

    @asynccontextmanager
    async def watch(self, prefix: str, *, from_revision: int) -> AsyncIterator[AsyncIterator[Batch]]:
        async with self._store.watch(self._out(prefix), from_revision=from_revision) as batches:
            yield self._renamed(batches)

    async def _renamed(self, batches: AsyncIterator[Batch]) -> AsyncIterator[Batch]:
        async for batch in batches:
            changes = tuple(replace(change, key=self._in(change.key)) for change in batch.changes)
            yield replace(batch, changes=changes)

    async def grant(self, ttl: float, *, lingering: bool = False, hint: Hint | None = None) -> Lease:
        if hint is not None:
            hint = replace(hint, key=self._out(hint.key))
        return await self._store.grant(ttl, lingering=lingering, hint=hint)

    async def lease_terms(self, ids: Sequence[str]) -> Mapping[str, Term]:
        return await self._store.lease_terms(ids) if isinstance(self._store, LeaseTerms) else {}

    async def close(self) -> None:
        await self._store.close()

    async def __aenter__(self) -> Rooted:
        await self._store.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._store.__aexit__(*exc)
