"""What can happen to the files under a running team: locked, hidden, deleted, restored, damaged, and a full disk."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, closing, contextmanager
from pathlib import Path

import pytest
from chaos.disk import small_disk
from chaos.load import send
from chaos.team import Team, scene
from tests.conftest import eventually, passport
from tests.faults.stage import Witness, state

from roster import Orchestrator, Registry
from roster.errors import StoreError
from roster.store import open_store

Urls = tuple[str, str]
TTL = 1.6
NAMES = ["a1", "a2", "a3"]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """The registry file of `file_urls`."""
    return tmp_path / "registry" / "registry.db"


async def _load(orchestrator: Orchestrator, seconds: float, prefix: str) -> None:
    """Call for that long; every call must be answered, whatever the registry is doing."""
    outcome = await send(
        orchestrator, int(seconds * 30), in_flight=6, seconds=0.02, rate=30, prefix=prefix, timeout=10
    )
    assert not outcome.errors, next(iter(outcome.errors.items()))
    assert outcome.twice == 0


def _uids(orchestrator: Orchestrator) -> dict[str, str]:
    found = {name: orchestrator.node(f"chaos/{name}") for name in NAMES}
    return {name: record.uid for name, record in found.items() if record is not None}


def _all_ready(orchestrator: Orchestrator) -> bool:
    return all(state(orchestrator, f"chaos/{name}") == "ready" for name in NAMES)


@asynccontextmanager
async def _settled(urls: Urls, ttl: float = TTL) -> AsyncIterator[tuple[Team, Orchestrator]]:
    async with scene(urls, NAMES, ttl=ttl, capacity=4) as (agents, orchestrator):
        yield agents, orchestrator
        effects = agents.effects()
        # Whoever lost its lease stopped what it ran, so that nothing has an effect twice.
        assert effects.started == effects.ended + effects.stopped
        assert set(effects.ended.values()) == {1}
        assert not any("Traceback" in agents.log(name) for name in NAMES)


@contextmanager
def _locked(database: Path) -> Iterator[None]:
    """Somebody else's transaction, which no writer can get past."""
    with closing(sqlite3.connect(database, isolation_level=None, timeout=10)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def _hidden(database: Path) -> Iterator[None]:
    """The directory cannot be entered. A file in its place stops root too, whom permissions do not."""
    directory = database.parent
    aside = directory.with_name("aside")
    directory.rename(aside)
    directory.touch()
    yield
    directory.unlink()
    aside.rename(directory)


@pytest.mark.parametrize(
    ("away", "ttl"),
    [
        # Leases live beside the database and are renewed through a transaction of somebody else.
        (_locked, TTL),
        # Nothing can be renewed; the leases outlive it.
        (_hidden, 5 * TTL),
    ],
)
async def test_while_the_registry_is_away_calls_go_on_and_nobody_is_called_dead(
    file_urls: Urls, database: Path, away: Callable[[Path], AbstractContextManager[None]], ttl: float
) -> None:
    async with _settled(file_urls, ttl) as (_, orchestrator):
        uids = _uids(orchestrator)
        witness = Witness(orchestrator)
        with away(database):
            await _load(orchestrator, 2.5 * TTL, "away")
        await _load(orchestrator, 1.5 * TTL, "back")
        await eventually(lambda: _all_ready(orchestrator))
        assert witness.end() == []
        assert _uids(orchestrator) == uids, "silence is no loss: nobody registered again"


async def test_a_deleted_registry_is_made_anew_by_those_who_live(file_urls: Urls, database: Path) -> None:
    async with _settled(file_urls) as (_, orchestrator):
        uids = _uids(orchestrator)
        shutil.rmtree(database.parent)
        await _load(orchestrator, 2.5 * TTL, "deleted")
        await eventually(
            lambda: _all_ready(orchestrator) and not {*_uids(orchestrator).values()} & {*uids.values()}
        )
        async with Registry.connect(file_urls[0]) as registry:
            assert {node.name for node in await registry.find(namespace="chaos", healthy=True)} == {*NAMES}


async def test_a_registry_restored_from_a_backup_is_noticed_and_set_right_by_those_who_live(
    file_urls: Urls, database: Path, tmp_path: Path
) -> None:
    backup = tmp_path / "backup.db"
    async with Registry.connect(file_urls[0]):  # makes the file
        with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(backup)) as target:
            source.backup(target)
    async with _settled(file_urls) as (_, orchestrator):
        for rest in database.parent.glob("registry.db-*"):
            if rest.is_file():
                rest.unlink()
        backup.replace(database)
        await _load(orchestrator, 2.5 * TTL, "restored")
        await eventually(lambda: _all_ready(orchestrator))
        async with Registry.connect(file_urls[0]) as registry:
            assert {node.name for node in await registry.find(namespace="chaos", healthy=True)} == {*NAMES}


async def test_a_registry_overwritten_with_rubbish_is_named_and_calls_go_on_until_it_is_removed(
    file_urls: Urls, database: Path
) -> None:
    async with _settled(file_urls) as (_, orchestrator):
        for file in (database, database.with_name("registry.db-wal")):
            file.write_bytes(b"rubbish " * 10_000)
        await _load(orchestrator, 2.5 * TTL, "rubbish")
        with pytest.raises(StoreError, match=r"registry\.db"):
            async with Registry.connect(file_urls[0]) as registry:
                await registry.find(namespace="chaos")
        for file in database.parent.glob("registry.db*"):
            if file.is_file():
                file.unlink()
        await _load(orchestrator, 2.5 * TTL, "removed")
        await eventually(lambda: _all_ready(orchestrator))


async def test_when_every_lease_ends_though_all_live_the_team_is_back_by_itself(
    file_urls: Urls, database: Path
) -> None:
    """The file of the leases is deleted, those that keep dead nodes listed included: for a moment nobody is there."""
    async with _settled(file_urls) as (_, orchestrator):
        uids = _uids(orchestrator)
        database.with_name("registry.db-leases").unlink()

        def back() -> bool:
            return _all_ready(orchestrator) and not {*_uids(orchestrator).values()} & {*uids.values()}

        await eventually(back)
        await _load(orchestrator, TTL, "back")


async def test_documents_that_nobody_can_read_are_set_aside_and_the_team_works_on(file_urls: Urls) -> None:
    documents = {
        "bomb": b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b, *b, *b]\n",
        "digits": b'{"spec": {"resources": {"n": ' + b"9" * 4301 + b"}}}",
        "rubbish": b"\x00\xff\xfe",
        "another": b'{"apiVersion": "ai-team.dev/v1", "kind": "NodePassport", "metadata": {"name": "a1"}, "spec": {}}',
    }
    async with _settled(file_urls) as (_, orchestrator), open_store(file_urls[0]) as store:
        for name, document in documents.items():
            await store.put(f"/ai-team/nodes/chaos/{name}", document)
        await eventually(lambda: len(orchestrator.registry.informer.quarantined) == len(documents))
        await _load(orchestrator, 1.0, "hostile")
        assert _all_ready(orchestrator)


async def test_on_a_full_disk_leases_and_calls_go_on_and_a_newcomer_is_told_why(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        urls = f"sqlite://{disk.directory}/registry.db", f"local://{tmp_path}/bus"
        async with _settled(urls) as (agents, orchestrator):
            uids = _uids(orchestrator)
            witness = Witness(orchestrator)
            disk.fill([process.pid for process in agents.processes.values()])
            await _load(orchestrator, 2.5 * TTL, "full")
            if disk.real:
                async with Registry.connect(urls[0]) as registry:
                    with pytest.raises(StoreError, match="full"):
                        await registry.register(passport("newcomer", "work", namespace="chaos"), ttl=5)
            disk.free()
            await _load(orchestrator, TTL, "free")
            await agents.start("newcomer")
            await agents.ready(orchestrator, ["newcomer"])
            assert witness.end() == []
            assert _uids(orchestrator) == uids
